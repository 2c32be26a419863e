"""Pictures of a few curves, or of a few named numbers, on the same axes."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deca_lab.pictures.style import (
    COLOURS,
    LINES,
    MARKERS,
    WIDTH,
    number,
    plain_ticks,
    styled,
    tint,
)

HATCHES = ("", "//", "..", "xx")
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
    for axis, log in ((axes.xaxis, log_x), (axes.yaxis, log_y)):
        if log:
            plain_ticks(axis)
    if not log_x and all(float(value).is_integer() for x, _ in curves.values() for value in x):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # seeds and steps have no halves
    axes.grid(True)
    axes.tick_params(labelsize=10)
    figure.legend(loc="outside lower center", ncols=2, fontsize=10)
    return figure


@styled
def draw_bars(groups: Mapping[str, Mapping[str, float]], xlabel: str, log: bool = False) -> Figure:
    """Return {series: {name: value}} as lying bars, a row a name, a colour and a hatch a series, each value beside its bar.

    Names come in the order of the first series; a series may lack some.
    """
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    figure = Figure(
        figsize=(WIDTH, 1.2 + 0.34 * len(names) * (0.5 + 0.6 * len(groups))), layout="constrained"
    )
    axes, thick = figure.subplots(), 0.8 / len(groups)
    for k, (series, group) in enumerate(groups.items()):
        rows = [names.index(name) + (k - (len(groups) - 1) / 2) * thick for name in group]
        colour, hatch = tint(COLOURS[k % len(COLOURS)], 0.75), HATCHES[k % len(HATCHES)]
        drawn = axes.barh(rows, list(group.values()), 0.9 * thick, label=series, color=colour)
        for bar in drawn:
            bar.set(hatch=hatch, edgecolor="white", linewidth=0)
        axes.bar_label(drawn, [number(value) for value in group.values()], padding=4, fontsize=10)
    axes.set_yticks(range(len(names)), names, fontsize=10)
    axes.invert_yaxis()
    axes.set(xlabel=xlabel, xscale="log" if log else "linear")
    axes.margins(x=0.14)
    if log:
        plain_ticks(axes.xaxis)
    axes.tick_params(labelsize=10)
    if len(groups) > 1:
        figure.legend(loc="outside lower center", ncols=3, fontsize=10)
    return figure
