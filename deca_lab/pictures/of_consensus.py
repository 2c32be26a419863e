"""The picture of the consensus distance; for LoRA, also of what mixing the factors separately adds to their products."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deca_lab.lab.history import History
from deca_lab.pictures.strip import mark_break, names_of, spans, with_strip
from deca_lab.pictures.style import (
    COLOURS,
    INK,
    LINES,
    MARKERS,
    PURPLE,
    RED,
    clean,
    finite,
    legend,
    note,
    number,
    plain_ticks,
    styled,
    tint,
    title,
)


@styled
def draw_consensus(metrics: pd.DataFrame, visits: pd.DataFrame) -> Figure:
    """Consensus distance (1/N) sum_i ||x_i - xbar||^2 of each block and in all, on decades, live blocks shaded.

    Below it, where it was measured, the interference of LoRA's factors and its bound, in Frobenius norms.
    """
    factored = "interference" in metrics
    height = 4.8 + 0.18 * max(0, len(names_of(visits)) // 5 - 1) + 2 * factored
    figure, panels, names = with_strip(visits, height, (10, 6) if factored else (1,))
    for axes in panels:
        _shade(axes, visits, names)
    _draw_distances(panels[0], metrics, names)
    if factored:
        _draw_interference(panels[1], metrics)
    title(figure, said_consensus(metrics))
    legend(figure, panels, 4 if factored else 6)
    return figure


def _shade(axes: Axes, visits: pd.DataFrame, names: list[str]) -> None:
    shades = [tint(COLOURS[names.index(str(b)) % 7], 0.16) for b in visits["block"]]
    axes.broken_barh(
        spans(visits),
        (0, 1),
        transform=axes.get_xaxis_transform(),
        facecolors=shades,
        lw=0,
        zorder=0,
    )


def _draw_distances(axes: Axes, metrics: pd.DataFrame, names: list[str]) -> None:
    for k, name in enumerate(names):
        axes.plot(
            metrics["step"],
            finite(metrics[f"consensus[{name}]"]),
            color=COLOURS[k % 7],
            ls=LINES[k % 4],
            lw=1.5,
            marker=MARKERS[k % 7],
            ms=4.5,
            label=clean(name, 20) if k < 28 else None,
        )
    axes.plot(
        metrics["step"],
        finite(metrics["consensus"]),
        color=INK,
        lw=2.4,
        marker="o",
        ms=4,
        label="all blocks",
        zorder=5,
    )
    axes.set_ylabel("consensus distance\n(squared parameter units)")
    _decades(
        axes, metrics["consensus"], "no disagreement: all models were equal at each measurement"
    )
    mark_break(axes, metrics)


def _draw_interference(axes: Axes, metrics: pd.DataFrame) -> None:
    axes.plot(
        metrics["step"],
        finite(metrics["interference_bound"]),
        color=PURPLE,
        lw=1.5,
        ls="--",
        marker="v",
        ms=4.5,
        label="its bound (Cauchy-Schwarz)",
    )
    axes.plot(
        metrics["step"],
        finite(metrics["interference"]),
        color=RED,
        lw=1.8,
        marker="D",
        ms=4,
        label="interference of the factors",
    )
    axes.set_ylabel("interference\n(parameter units)")
    _decades(
        axes, metrics["interference_bound"], "no interference: a factor is common to all clients"
    )


def _decades(axes: Axes, largest: pd.Series, nothing: str) -> None:
    """Scale by decades, from the least value that is more than rounding; an axis of zeros stays linear and says so."""
    values = finite(largest)
    seen = values[values > 0]
    if len(seen) == 0:
        axes.set_ylim(-0.05, 1)
        return note(axes, nothing)
    drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=np.float64) for line in axes.lines])
    axes.set_yscale("log", nonpositive="mask")
    axes.set_ylim(drawn[drawn > 1e-8 * seen.max()].min() / 2, seen.max() * 3)
    plain_ticks(axes.yaxis)
    return None


def said_consensus(metrics: pd.DataFrame) -> str:
    """Return how far the clients' models are apart at the end, in one sentence."""
    end, most = float(metrics["consensus"].iloc[-1]), float(metrics["consensus"].max())
    if not math.isfinite(end):
        return "The clients' models drift apart without bound"
    if most == 0:
        return "The clients' models never differ"
    where = "their largest distance" if end == most else f"after at most {number(most)}"
    return f"The clients' models end a consensus distance of {number(end)} apart, {where}"


def consensus(history: History) -> Figure:
    """Return the picture of the run's consensus distance."""
    return draw_consensus(history.metrics, history.visits)


def alt(history: History) -> str:
    """Return the picture in words."""
    last, blocks = history.metrics.iloc[-1], "the consensus distance of each block and in all"
    also = ""
    if "interference" in last:
        at_the_end, bound = number(last["interference"]), number(last["interference_bound"])
        also = f" LoRA's factors interfere by {at_the_end} at the end, at most {bound}."
    return f"Line chart of {blocks} against inner step. {said_consensus(history.metrics)}.{also}"
