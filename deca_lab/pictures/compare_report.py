"""The page of a comparison: the table, paired differences, learning curves, the grid, all from the arms' folders."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deca_lab import pictures
from deca_lab.files import write_whole
from deca_lab.lab.history import History
from deca_lab.pictures.pages import curves_of_runs, page
from deca_lab.pictures.style import COLOURS, LINES, MARKERS, styled
from deca_lab.studies import compare as cp

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXES: dict[str, Callable[[History], np.ndarray]] = {  # what learning is drawn against
    "inner steps": lambda h: h.metrics["step"].to_numpy(float),
    "bytes sent by all clients (MB)": lambda h: h.metrics["bytes_sent"].to_numpy(float) / 1e6,
    "seconds on this machine": lambda h: h.timings["seconds"].to_numpy(float),
}


def write(
    asked: cp.Comparison,
    table: pd.DataFrame,
    out: Path,
    score: str = "test_loss",
    higher: bool = False,
) -> Path:
    """Write table.csv, differences.csv, curves.png and compare.html into `out`; return the page."""
    means, gaps = cp.summary(table, score), cp.paired(table, score, higher, asked.margin)
    write_whole(out / "table.csv", means.to_csv(index=False))
    write_whole(out / "differences.csv", gaps.to_csv(index=False))
    histories = cp.curves(out, table)
    picture = pictures.png(draw_curves(histories, score))
    write_whole(out / "curves.png", picture)
    write_whole(out / "compare.html", render(asked, table, means, gaps, picture, histories, score))
    return out / "compare.html"


@styled
def draw_curves(histories: dict[str, list[History]], score: str) -> "Figure":
    """Return the score of each method against steps, bytes and seconds: mean over seeds, each seed in faint."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(AXES), 3.8), layout="constrained")
    panels = figure.subplots(1, len(AXES), sharey=True)
    for axes, (label, of) in zip(panels, AXES.items(), strict=True):
        for k, (method, runs) in enumerate(histories.items()):
            _curve(axes, method, runs, of, score, k)
        axes.set_xlabel(label)
        axes.grid(True)
    panels[0].set_ylabel(f"{score.replace('_', ' ')} of the mean model")
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=min(len(histories), 5),
    )
    return figure


def _curve(
    axes: "Axes",
    method: str,
    runs: list[History],
    of: Callable[[History], np.ndarray],
    score: str,
    k: int,
) -> None:
    """Draw one method: its seeds, and their mean where they were measured equally often."""
    colour, line = COLOURS[k % len(COLOURS)], LINES[k % len(LINES)]
    for run in runs:
        axes.plot(of(run), run.metrics[score], color=colour, linewidth=0.6, alpha=0.5)
    if len({len(run.metrics) for run in runs}) == 1:
        x = np.mean([of(run) for run in runs], 0)
        y = np.mean([run.metrics[score] for run in runs], 0)
        axes.plot(
            x,
            y,
            color=colour,
            linestyle=line,
            marker=MARKERS[k % len(MARKERS)],
            markersize=4,
            markevery=max(len(x) // 8, 1),
            label=method,
        )


def render(
    asked: cp.Comparison,
    table: pd.DataFrame,
    means: pd.DataFrame,
    gaps: pd.DataFrame,
    picture: bytes,
    histories: dict[str, list[History]],
    score: str,
) -> str:
    """Return the page as HTML; the picture is inside and everything from outside is escaped."""
    named = [(f"{m}, seed {h.config.seed}", h) for m, runs in histories.items() for h in runs]
    finite = table[np.isfinite(table["validation_loss"].astype(float))]
    grid = finite.pivot_table(index="arm", columns="lr", values="validation_loss").reindex(
        table["arm"].unique()
    )
    return page(
        "compare.html.j2",
        asked=asked,
        score=score.replace("_", " "),
        means=means.to_dict("records"),
        gaps=gaps.to_dict("records"),
        notes=cp.notes(table),
        scores=cp.all_scores(table).to_dict("records"),
        grid=[
            (method, list(row))
            for method, row in zip(grid.index, grid.to_numpy().tolist(), strict=True)
        ],
        rates=[f"{rate:g}" for rate in grid.columns],
        number=pictures.number,
        size=pictures.size,
        curves=curves_of_runs(named, score),
        picture=base64.b64encode(picture).decode(),
    )
