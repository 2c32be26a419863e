"""The picture of a claim: both sides of an inequality on the same axes."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deca_lab.bounds.bound import Bound
from deca_lab.pictures.style import COLOURS, MARKERS, WIDTH, styled


@styled
def draw_bounds(bounds: Mapping[str, Bound], ylabel: str, log: bool = False) -> Figure:
    """Return both sides of each bound along its axis: the left side with markers, the right side dashed in its colour.

    The names of `bounds` stand in the legend, with each one's verdict and tightness.
    """
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    for k, (name, bound) in enumerate(bounds.items()):
        _both_sides(axes, name, bound, k)
    axes.set(xlabel=next(iter(bounds.values())).axis, ylabel=ylabel)
    if log:
        axes.set_yscale("log")
    axes.grid(True)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@styled
def draw_beside(bounds: Mapping[str, Bound]) -> Figure:
    """Return both sides of claims about one run, each in a panel with a logarithmic axis of its own."""
    figure = Figure(figsize=(WIDTH, 2.6 * len(bounds)), layout="constrained")
    for axes, (name, bound) in zip(
        figure.subplots(len(bounds), squeeze=False)[:, 0], bounds.items(), strict=True
    ):
        _both_sides(axes, name, bound, 0)
        axes.set(xlabel=bound.axis, ylabel=bound.name, yscale="log")
        axes.legend(loc="best")
        axes.grid(True)
    return figure


def _both_sides(axes: Axes, name: str, bound: Bound, k: int) -> None:
    colour, every = COLOURS[k % len(COLOURS)], max(len(bound.at) // 12, 1)
    axes.plot(
        bound.at,
        bound.lhs,
        color=colour,
        marker=MARKERS[k % len(MARKERS)],
        markersize=4,
        markevery=every,
        linewidth=1.2,
        label=f"{name}: {bound.verdict}, tightness {bound.tightness:.2f}",
    )
    axes.plot(
        bound.at, bound.rhs, color=colour, linestyle="--", linewidth=1.6, label=f"bound ({name})"
    )
