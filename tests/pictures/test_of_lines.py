"""Pictures of a few curves or bars: each is drawn with its numbers, its name and its scale."""

from types import SimpleNamespace

import pandas as pd

from deca_lab.pictures import alt_alone, draw_alone, draw_bars, draw_lines


def test_curves_keep_their_numbers_names_and_scales():
    figure = draw_lines(
        {"one": ([1, 2, 4], [3.0, 2.0, 1.0]), "two": ([1, 4], [5.0, 5.0])}, "x", "y", True
    )
    (axes,) = figure.axes
    assert [line.get_ydata().tolist() for line in axes.lines] == [[3.0, 2.0, 1.0], [5.0, 5.0]]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two"]
    looks = [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in axes.lines]
    assert not set(looks[0]) & set(looks[1])


def test_short_logarithmic_axes_have_plain_numbers_and_seeds_no_halves():
    lines = {"one": ([0.002, 0.05], [3, 3e6])}
    figure = draw_lines(lines, "x", "y", log_x=True, log_y=True)
    figure.canvas.draw()
    (axes,) = figure.axes
    plain, powers = (
        [text.get_text() for text in axis.get_ticklabels()] for axis in (axes.xaxis, axes.yaxis)
    )
    assert {"0.002", "0.005", "0.01", "0.05"} <= set(plain)
    assert any("10^" in text for text in powers)  # six decades: powers of ten
    seeds = draw_lines({"one": ([0, 1, 2], [1.0, 2.0, 3.0])}, "seed", "y").axes[0]
    assert all(float(tick).is_integer() for tick in seeds.get_xticks())


def test_bars_keep_their_numbers_beside_them_and_their_names_from_top_to_bottom():
    groups = {"first": {"a": 1.0, "b": 30.0}, "second": {"b": 2.0, "c": 0.5}}
    figure = draw_bars(groups, "what", log=True)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    assert axes.yaxis_inverted()
    assert axes.get_xscale() == "log"
    drawn = {(round(b.get_y() + b.get_height() / 2, 3), b.get_width()) for b in axes.patches}
    assert drawn == {(-0.2, 1.0), (0.8, 30.0), (1.2, 2.0), (2.2, 0.5)}
    assert [text.get_text() for text in axes.texts] == ["1", "30", "2", "0.5"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["first", "second"]
    assert len({bar.get_hatch() for bar in axes.patches}) == 2


def test_one_series_needs_no_legend():
    assert not draw_bars({"": {"a": 1.0}}, "what").legends


def test_together_and_alone_stand_on_the_same_axes():
    def history(losses, floor=None):
        rows = {"step": [0, 4], "test_loss": losses, "client_test_loss": [x + 1 for x in losses]}
        return SimpleNamespace(metrics=pd.DataFrame(rows), summary={"entropy_floor": floor})

    together, alone = history([3.0, 1.0], 0.5), history([3.0, 4.0])
    (axes,) = draw_alone(together, alone).axes
    drawn = {line.get_label(): line.get_ydata().tolist() for line in axes.lines}
    assert list(drawn.values()) == [[4.0, 5.0], [4.0, 2.0], [3.0, 1.0], [0.5, 0.5]]
    assert "alone" in next(iter(drawn))
    assert "5.00" in alt_alone(together, alone)
    assert len(draw_alone(alone, alone).axes[0].lines) == 3  # no floor is known
