"""The picture of the examined findings: an interval a finding, and which side of its line it lies on."""

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deca_lab.pictures.style import BLUE, GREEN, GREY, RED, WIDTH, styled

LOOKS = {
    "agree": (BLUE, "o"),
    "disagree": (RED, "X"),
    "equal": (GREEN, "s"),
    "undecided": (GREY, "D"),
    "undecidable": (GREY, "d"),
}


@styled
def draw_findings(verdicts: pd.DataFrame) -> Figure:
    """Return gain and 95 % interval of each finding, a row a finding; a panel a score.

    A band is the margin on both sides of zero. A tick is where agreement begins: at zero, or at minus
    the margin of an "as good as".
    """
    scores = list(dict.fromkeys(verdicts["score"]))
    parts = [verdicts[verdicts["score"] == score] for score in scores]
    figure = Figure(
        figsize=(WIDTH + 2, 1.6 * len(scores) + 0.3 * len(verdicts)), layout="constrained"
    )
    panels = figure.subplots(
        len(scores), squeeze=False, height_ratios=[len(part) for part in parts]
    )[:, 0]
    for axes, score, part in zip(panels, scores, parts, strict=True):
        for k, row in enumerate(part.to_dict("records")):
            _interval(axes, k, row)
        axes.set_yticks(range(len(part)), list(part["says"]))
        axes.set_ylim(len(part) - 0.4, -0.6)
        axes.axvline(0, color=GREY, linewidth=0.8)
        axes.grid(True, axis="x")
        axes.set_xlabel(f"gain of the first arm in {_unit(score)}; right of the tick agrees")
    return figure


def _interval(axes: Axes, k: int, row: Mapping[Hashable, Any]) -> None:
    colour, marker = LOOKS[row["verdict"]]
    line = -row["margin"] if row["kind"] == "as good" else 0.0
    axes.fill_betweenx([k - 0.4, k + 0.4], -row["margin"], row["margin"], color=GREY, alpha=0.15)
    axes.plot([row["low"], row["high"]], [k, k], color=colour, linewidth=1.8)
    axes.plot(row["gain"], k, color=colour, marker=marker, markersize=6)
    axes.plot(line, k, color="black", marker="|", markersize=12)
    axes.annotate(
        row["verdict"],
        (max(row["high"], row["margin"]), k),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=colour,
    )


def _unit(score: str) -> str:
    return (
        "nats per byte" if score == "test_loss" else score.removeprefix("test_").replace("_", " ")
    )
