"""Widgets: a moved slider draws another picture, the drawn numbers are the library's, headless is a picture with words."""

import json
from base64 import b64encode
from io import BytesIO

import numpy as np
import pytest
from browser import drag
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


@pytest.mark.filterwarnings("default")
def test_the_live_editor_carries_its_script_and_the_library_s_graphs(live):
    code = topology_editor(clients=6, graph="star")._esm
    assert code.startswith(ed.SCRIPT.read_text())
    assert '"star":{"2":[[0,1]]' in code
    assert '{"graph": "star", "clients": 6' in code
    graphs = json.loads(ed.known())["graphs"]
    assert graphs["hypercube"]["6"].startswith(
        "clients = 6"
    )  # in place of edges: why there are none
    assert {tuple(edge) for edge in graphs["ring"]["5"]} == set(topology_edges("ring", 5))


def topology_edges(graph, clients):
    """Pairs of clients that W joins."""
    i, j = np.nonzero(np.triu(topology(graph, clients).at(0), 1))
    return zip(i.tolist(), j.tolist(), strict=True)


EDITS = {  # graph, clients, lazy share, pairs to drag between
    "ring and its chord": ("ring", 8, 0.0, [(0, 4)]),
    "four chords, lazily": ("ring", 8, 0.3, [(0, 4), (1, 5), (2, 6), (3, 7)]),
    "one edge fewer": ("exponential", 7, 0.0, [(0, 2)]),
    "there and back": ("path", 5, 0.0, [(1, 2), (2, 1)]),
    "complete but for two": ("complete", 4, 0.0, [(0, 1), (2, 3)]),
}


def choose(page, graph, clients, lazy):
    """Set the controls of the editor in a page."""
    page.locator("select").first.select_option(graph)
    for k, value in ((0, clients), (1, lazy)):
        page.locator("input[type=range]").nth(k).fill(str(value))


@pytest.fixture
def page(browser, tmp_path):
    """A page with the editor as the book has it."""
    scripts = (
        f"{ed.page_script()}\ndecaKnobs.topology_editor.draw(document.querySelector('figure'))"
    )
    (tmp_path / "page.html").write_text(f"<figure></figure><script>{scripts}</script>")
    opened = browser.new_page(viewport={"width": 390, "height": 1500})
    opened.goto((tmp_path / "page.html").as_uri())
    yield opened
    opened.close()


@pytest.mark.slow
@pytest.mark.parametrize("case", EDITS)
def test_a_dragged_edge_comes_or_goes_and_the_numbers_are_the_librarys(page, case):
    graph, clients, lazy, pairs = EDITS[case]
    choose(page, graph, clients, lazy)
    for pair in pairs:
        drag(page, *pair)
    turned = {
        tuple(sorted(pair)) for pair in pairs if pairs.count(pair) + pairs.count(pair[::-1]) == 1
    }
    for start in ed.STARTS:
        page.locator("select").nth(1).select_option(start)
        figure = page.locator("figure").evaluate("f => ({...f.dataset})")
        wanted = ed.mixing(ed.edited(graph, clients, turned), lazy, start)
        assert float(figure["rho"]) == pytest.approx(wanted.found.rho, abs=1e-12)
        assert float(figure["left"]) == pytest.approx(
            float(wanted.bound.lhs[-1]), rel=1e-6, abs=1e-12
        )
        assert (
            f"takes {wanted.found.rounds_1000:.0f} mixing"
            in page.locator("figure p").first.inner_text()
        )
    back = page.get_by_role("button", name="undo all edits")
    assert back.is_enabled() == bool(turned)
    back.evaluate("button => button.click()")
    rho = float(page.locator("figure").get_attribute("data-rho"))
    untouched = ed.mixing(ed.edited(graph, clients, ()), lazy, ed.STARTS[0]).found.rho
    assert rho == pytest.approx(untouched, abs=1e-12)


@pytest.mark.slow
def test_the_keys_turn_an_edge_too_and_islands_are_named(page):
    choose(page, "path", 4, 0.0)
    page.get_by_role("button", name="client 1", exact=True).focus()
    for key in ("Enter", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    said = page.locator("figure p").first
    assert "path (edited), 4 clients: unsound" in said.inner_text()
    assert "Clients 0, 1 never hear" in said.inner_text()
    assert ed.mixing(ed.edited("path", 4, [(1, 2)]), 0.0, ed.STARTS[0]).found.verdict != "sound"
    for key in ("Enter", "ArrowLeft", "Escape", "Enter", "Escape"):  # let go: nothing is turned
        page.keyboard.press(key)
    assert "turned: 1-2" in page.locator("figure p").last.inner_text()
    choose(page, "hypercube", 6, 0.0)
    assert said.inner_text().startswith("No picture: clients = 6")


@pytest.mark.slow
@pytest.mark.parametrize(("wide", "rows"), [(708, 1), (330, 3)], ids=["screen", "phone"])
def test_three_panels_stand_side_by_side_on_a_screen_and_below_one_another_on_a_phone(
    page, wide, rows
):
    page.locator("figure").evaluate(
        "(f, wide) => { f.style = `margin: 0; width: ${wide}px` }", wide
    )
    places = page.locator("figure .panels").evaluate(
        "p => [...p.children].map((svg) => svg.getBoundingClientRect().y)"
    )
    assert len(places) == 3
    assert len(set(places)) == rows
    assert page.locator("figure").evaluate("f => f.scrollWidth <= f.clientWidth")


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
