"""The picture of a sweep: a curve over one knob, a heat map over two."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deca_lab.errors import check
from deca_lab.pictures.style import BLUE, WIDTH, styled


@styled
def draw_sweep(table: pd.DataFrame, knobs: Sequence[str], score: str = "validation_loss") -> Figure:
    """Return the mean of `score` over seeds for one knob (with standard deviations, and every run) or two (a heat map).

    `table` has a row a run, as `sweep.sweep` returns it. Raises BadInput for no knob or more than two.
    """
    check(len(knobs) in (1, 2), "knobs", list(knobs), "one or two: a curve or a heat map")
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    (_curve if len(knobs) == 1 else _heat)(figure.subplots(), table, knobs, score)
    return figure


def _curve(axes: Axes, table: pd.DataFrame, knobs: Sequence[str], score: str) -> None:
    grouped = table.groupby(knobs[0], sort=False)[score]
    at = np.arange(len(grouped))
    runs = {value: k for k, value in enumerate(grouped.groups)}
    axes.scatter(table[knobs[0]].map(runs), table[score], color=BLUE, alpha=0.4, s=18)
    axes.errorbar(
        at, grouped.mean(), yerr=grouped.std().fillna(0), color=BLUE, marker="o", capsize=4
    )
    axes.set_xticks(at, [str(value) for value in grouped.groups])
    axes.set(xlabel=knobs[0], ylabel=_words(score))
    axes.grid(True)


def _heat(axes: Axes, table: pd.DataFrame, knobs: Sequence[str], score: str) -> None:
    grid = table.pivot_table(index=knobs[0], columns=knobs[1], values=score, sort=False)
    values = grid.to_numpy(dtype=float)
    axes.imshow(values, cmap="cividis_r", aspect="auto")
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for i, row in enumerate(values.tolist()):
        for j, value in enumerate(row):
            axes.text(
                j,
                i,
                f"{value:#.4g}",
                ha="center",
                va="center",
                color="white" if value > middle else "black",
            )
    axes.set_xticks(range(len(grid.columns)), [str(value) for value in grid.columns])
    axes.set_yticks(range(len(grid.index)), [str(value) for value in grid.index])
    axes.set(xlabel=knobs[1], ylabel=knobs[0], title=f"{_words(score)}, mean over seeds")


def _words(score: str) -> str:
    return f"{score.replace('_', ' ')} of the mean model"
