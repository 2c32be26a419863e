"""The picture of a few curves: each is drawn with its numbers, its name and its scale."""

from deca_lab.pictures import draw_lines


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
