"""A picture of a few curves on the same axes."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from deca_lab.pictures.style import COLOURS, LINES, MARKERS, WIDTH, styled

Curve = tuple[Sequence[float], Sequence[float]]  # x and y, of one length


@styled
def draw_lines(
    curves: Mapping[str, Curve], xlabel: str, ylabel: str, log_x: bool = False, log_y: bool = False
) -> Figure:
    """Return the named curves on common axes; each has a colour, a marker and a line style of its own."""
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    axes = figure.subplots()
    for k, (name, (x, y)) in enumerate(curves.items()):
        axes.plot(
            x,
            y,
            label=name,
            color=COLOURS[k % len(COLOURS)],
            linestyle=LINES[k % len(LINES)],
            marker=MARKERS[k % len(MARKERS)],
            markersize=5,
            markevery=max(len(x) // 12, 1),
        )
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_xscale("log" if log_x else "linear")
    axes.set_yscale("log" if log_y else "linear")
    axes.grid(True)
    figure.legend(loc="outside lower center", ncols=2)
    return figure
