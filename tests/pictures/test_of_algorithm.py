"""The drawing of the algorithm: its boxes hold their words and each other, the lit ones alone are in colour."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from deca_lab.errors import BadInput
from deca_lab.pictures.of_algorithm import PARTS, alt_algorithm, draw_algorithm
from deca_lab.pictures.style import GREY


def drawn(*lit):
    """The drawing's words, and the places of texts and boxes in pixels."""
    figure = draw_algorithm(lit)
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    texts = [text for text in axes.texts if text.get_text()]
    return texts, [text.get_window_extent() for text in texts], list(axes.patches)


def test_every_text_lies_inside_its_own_box_and_on_no_other_text():
    texts, places, boxes = drawn()
    assert [text.get_text() for text in texts] == [part.words for part in PARTS.values()]
    for text, place, box in zip(texts, places, boxes, strict=True):
        edge = box.get_window_extent()
        assert edge.x0 < place.x0, text.get_text()
        assert place.x1 < edge.x1, text.get_text()
        assert edge.y0 < place.y0, text.get_text()
        assert place.y1 < edge.y1, text.get_text()
        assert text.get_fontsize() >= 10
    for one, other in itertools.combinations(places, 2):
        assert not one.overlaps(other)


def test_steps_lie_inside_the_inner_frame_and_frames_inside_each_other():
    def inside(inner, outer):
        (x, y, w, h), (X, Y, W, H) = PARTS[inner].place, PARTS[outer].place
        return x > X and y > Y and x + w < X + W and y + h < Y + H

    chain = ["block", "clients"]
    assert all(inside(*pair) for pair in zip(chain, ["round", "block"], strict=True))
    steps = [name for name, part in PARTS.items() if not part.frame]
    assert all(inside(step, "clients") for step in steps)


def test_what_is_lit_has_its_colour_and_all_else_is_grey():
    _, _, boxes = drawn("mix", "adapt")
    edges = dict(zip(PARTS, (to_hex(box.get_edgecolor()).upper() for box in boxes), strict=True))
    coloured = {name for name, part in PARTS.items() if edges[name] == part.colour.upper()}
    assert coloured == {"mix", "adapt"}
    greys = [
        box.get_edgecolor()[:3]
        for name, box in zip(PARTS, boxes, strict=True)
        if name not in coloured
    ]
    assert all(np.ptp(grey) < 0.01 for grey in greys)
    assert GREY
    assert alt_algorithm(("mix",)).endswith("lit: mix.")


def test_an_unknown_part_is_named():
    with pytest.raises(BadInput, match=r"lit = 'mixing' .*round, block, clients"):
        draw_algorithm(("mixing",))
