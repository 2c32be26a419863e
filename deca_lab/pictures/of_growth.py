"""The picture of growth: milliseconds of an inner step against clients, parameters, degree and processes."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from deca_lab.errors import check
from deca_lab.pictures.style import COLOURS, GREY, MARKERS, WIDTH, styled


@styled
def draw_growth(series: Mapping[str, Sequence[tuple[int, float, float]]]) -> Figure:
    """Return one panel for each of what grows, {name: (size, milliseconds, what they are beside, dotted) ...}.

    Raises BadInput for no series.
    """
    check(len(series) > 0, "series", dict(series), "one series or more")
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    for k, (axes, (name, points)) in enumerate(
        zip(figure.subplots(1, len(series), squeeze=False)[0], series.items(), strict=True)
    ):
        at, took, beside = zip(*points, strict=True)
        axes.plot(at, beside, color=GREY, linestyle=":")
        axes.plot(at, took, color=COLOURS[k % len(COLOURS)], marker=MARKERS[k % len(MARKERS)])
        axes.set(xscale="log", yscale="log", xlabel=name)
        axes.set_xticks(at, [f"{n:,}" for n in at])
        axes.minorticks_off()
        low, high = np.log10([min(*took, *beside), max(*took, *beside)])
        axes.set_ylim(10 ** np.floor(low), 10 ** np.ceil(high))  # whole decades: all are labelled
        axes.grid(True)
        axes.set_ylabel("ms of an inner step" if k == 0 else "")
    figure.suptitle(
        "Cost of a DECA step; dotted: in proportion to the smallest, and of one process"
    )
    return figure
