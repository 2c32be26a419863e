"""The picture of a rate: mean squared gradients against the length of the run, both in logarithms, and the line through them."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deca_lab.bounds.rate_laws import CLAIMED, Points, fit
from deca_lab.errors import check
from deca_lab.pictures.style import COLOURS, GREY, LINES, MARKERS, WIDTH, styled


@styled
def draw_rates(points: Mapping[str, Points], measure: str = "block", floor: bool = False) -> Figure:
    """Return each sweep as means with the range over seeds, its fitted line, and a grey line of slope -1/2 to read it against.

    `measure`: "block", "full" or "late". `floor` adds, dotted, the floor of all coordinates where it is above 0 beyond doubt.
    Raises BadInput for no sweep.
    """
    check(len(points) > 0, "points", dict(points), "one sweep or more")
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    for k, (name, one) in enumerate(points.items()):
        _sweep(axes, name, one, measure, floor, k)
    _guide(axes, points, measure)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="length of the run, T B R inner steps",
        ylabel=WORDS[measure],
    )
    axes.grid(True)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


WORDS = {
    "block": "mean squared gradient,\nactive block",
    "full": "mean squared gradient,\nall coordinates",
    "late": "mean squared gradient,\nlast quarter of the run",
}


def _sweep(axes: Axes, name: str, points: Points, measure: str, floor: bool, k: int) -> None:
    colour, line, squares = (
        COLOURS[k % len(COLOURS)],
        LINES[k % len(LINES)],
        getattr(points.squares, measure),
    )
    fitted, mean = fit(points, measure), squares.mean(1)
    spread = np.stack([mean - squares.min(1), squares.max(1) - mean])
    axes.errorbar(
        points.lengths,
        mean,
        yerr=spread,
        color=colour,
        capsize=3,
        linestyle="none",
        marker=MARKERS[k % len(MARKERS)],
        markersize=max(10 - 2 * k, 4),
        fillstyle="none",  # hollow and of several sizes: sweeps share points
        label=f"{name}: slope {fitted.slope:.2f} [{fitted.low:.2f}, {fitted.high:.2f}]",
    )
    centre, level = np.log(points.lengths).mean(), np.log(squares).mean()
    ends = np.array([points.lengths.min(), points.lengths.max()])
    axes.plot(
        ends,
        np.exp(level + fitted.slope * (np.log(ends) - centre)),
        color=colour,
        linestyle=line,
        linewidth=1.4,
    )
    if floor and fitted.floor_low > 0:
        axes.axhline(fitted.floor, color=colour, linestyle=":", linewidth=1.2)


def _guide(axes: Axes, points: Mapping[str, Points], measure: str) -> None:
    """Draw the slope -1/2 from the first point of the highest sweep."""
    highest = max(points.values(), key=lambda one: float(getattr(one.squares, measure).mean()))
    first, last = highest.lengths.min(), max(one.lengths.max() for one in points.values())
    start = float(getattr(highest.squares, measure)[highest.lengths.argmin()].mean())
    axes.plot(
        [first, last],
        [start, start * (last / first) ** CLAIMED],
        color=GREY,
        linewidth=1,
        label="slope -1/2",
    )
