"""Widgets: a moved slider draws another picture, the drawn numbers are the library's, headless is a picture with words."""

from base64 import b64encode
from io import BytesIO

import numpy as np
import pytest
from pictured import seen
from PIL import Image as Pixels
from reference import ROUNDING

from deca_lab.bounds.gossip_contraction import second_singular_value
from deca_lab.course.widgets import editor as ed
from deca_lab.course.widgets import panel, topology_editor
from deca_lab.errors import BadInput
from deca_lab.mixing.topology import topology
from deca_lab.pictures import jupyter


@pytest.fixture
def live(monkeypatch):
    monkeypatch.setenv("DECA_LAB_WIDGETS", "on")


def parts(box, kind):
    """Return the widgets of a kind in a box, by their description."""
    found = [box] if isinstance(box, kind) else []
    return found + [part for child in getattr(box, "children", ()) for part in parts(child, kind)]


@pytest.mark.filterwarnings("default")
def test_moving_a_control_draws_another_picture_and_says_so(live):
    import ipywidgets

    box = topology_editor()
    (picture,), sliders = (
        parts(box, ipywidgets.HTML),
        {s.description: s for s in parts(box, ipywidgets.IntSlider)},
    )
    before = seen(picture)
    sliders["clients N"].value = 12
    assert seen(picture)[0] != before[0]
    assert seen(picture)[1] != before[1]
    assert before[0].startswith(b"\x89PNG")
    graph = parts(box, ipywidgets.Dropdown)[0]
    graph.value = "complete"
    again = seen(picture)
    sliders["clients N"].value = 8
    graph.value = "ring"
    assert seen(picture) != again
    assert seen(picture) == before  # back where it began: the picture depends on nothing else


def test_elsewhere_it_is_a_picture_with_words(monkeypatch):
    from IPython.display import Image

    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.delenv("DECA_LAB_WIDGETS", raising=False)
    shown = topology_editor(clients=6, graph="star")
    assert isinstance(shown, Image)
    assert "rho" in shown.alt
    assert len(shown.data) < 60_000


def test_live_is_told_by_the_server_and_overruled_by_the_reader(monkeypatch):
    monkeypatch.setenv("DECA_LAB_WIDGETS", "")
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert not panel.live()
    monkeypatch.setenv("JPY_SESSION_NAME", "here")
    assert panel.live()
    monkeypatch.setenv("DECA_LAB_WIDGETS", "off")
    assert not panel.live()
    monkeypatch.setenv("DECA_LAB_WIDGETS", "perhaps")
    with pytest.raises(BadInput, match="DECA_LAB_WIDGETS"):
        panel.live()


def test_a_picture_keeps_its_words_in_a_live_page_and_as_an_image_elsewhere(monkeypatch):
    monkeypatch.setenv("DECA_LAB_WIDGETS", "on")
    page = jupyter.algorithm("mix").data
    assert 'alt="DECA&#x27;s loops' in page
    monkeypatch.setenv("DECA_LAB_WIDGETS", "off")
    image = jupyter.algorithm("mix")
    assert image.alt.endswith("lit: mix.")
    assert page.count(b64encode(image.data).decode()) == 1
    assert Pixels.open(BytesIO(image.data)).width == round(1.5 * image.width)  # sharp on any screen


@pytest.mark.parametrize("graph", ["ring", "path", "star", "complete"])
def test_the_numbers_are_the_librarys(graph):
    seen = ed.mixing(ed.edited(graph, 8, ()), 0.0, ed.STARTS[1])
    np.testing.assert_allclose(seen.W, topology(graph, 8).at(0), atol=ROUNDING)
    assert seen.found.rho == pytest.approx(second_singular_value(seen.W), abs=1e-9)
    assert seen.bound.holds()


def test_an_edge_is_added_and_cut():
    assert ed.edited("ring", 6, [(0, 3)]).has_edge(0, 3)
    assert not ed.edited("ring", 6, [(0, 1)]).has_edge(0, 1)
    cut = ed.mixing(ed.edited("path", 4, [(1, 2)]), 0.0, ed.STARTS[0])
    assert cut.found.verdict != "sound"  # two halves: the doctor says so


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"clients": 1}, "clients = 1"),
        ({"clients": 99}, "clients = 99"),
        ({"clients": 2.5}, "clients"),
        ({"graph": "rign"}, "graph"),
        ({"lazy": 1.5}, "lazy = 1.5"),
    ],
)
def test_bad_input(given, words):
    with pytest.raises(BadInput, match=words):
        topology_editor(**given)
