"""The picture of the shards: which client holds how many rows of which label."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deca_lab.lab.history import History
from deca_lab.pictures.style import SKY, blank, clean, require_there, styled, tint, title

BUBBLES, LABELS = 32, 24  # clients as bubbles, labels


@styled
def draw_heterogeneity(shards: pd.DataFrame, said: str = "Which client holds which text") -> Figure:
    """Training rows, client x label: bubbles with counts, or an image where clients are many; `said` is the title."""
    counts = grouped(shards)
    n, k = counts.shape
    figure = blank(min(1.9 + 0.34 * max(k, 3), 9.5))
    axes = figure.subplots()
    if n <= BUBBLES:
        _bubbles(axes, counts)
    else:
        image = axes.imshow(
            counts.to_numpy().T, aspect="auto", cmap="Blues", interpolation="nearest"
        )
        figure.colorbar(image, ax=axes, label="training rows", fraction=0.04, pad=0.02)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_yticks(range(k), [clean(name, 28) for name in counts.columns])
    axes.set(ylim=(k - 0.5, -0.5), xlim=(-0.5, n - 0.5), xlabel="client", ylabel="label")
    title(figure, said)
    return figure


def grouped(shards: pd.DataFrame) -> pd.DataFrame:
    """Return the largest labels, and the sum of all the others where there are more than 24."""
    if shards.shape[1] <= LABELS:
        return shards
    largest = shards.sum().sort_values(ascending=False, kind="stable").index
    kept = shards[largest[: LABELS - 1]]
    return kept.assign(
        **{f"{shards.shape[1] - LABELS + 1} other labels": shards.sum(axis=1) - kept.sum(axis=1)}
    )


def _bubbles(axes: Axes, counts: pd.DataFrame) -> None:
    """Areas in proportion to rows, the number printed on each; each client's rows above its column."""
    n = len(counts)
    i, j = np.nonzero(counts.to_numpy())
    rows = counts.to_numpy()[i, j]
    across = min(5.6 * 72 / n, 27) - 2  # points, the largest bubble's diameter
    axes.scatter(
        i,
        j,
        s=across**2 * rows / max(rows.max(initial=0), 1),
        color=tint(SKY, 0.7),
        lw=0,  # a rim would strike through the numbers of small bubbles
    )
    for x, y, count in zip(i.tolist(), j.tolist(), rows.tolist(), strict=True):
        axes.text(
            x,
            y,
            f"{count:,}" if n <= 16 else str(count),
            ha="center",
            va="center",
            size=8 if n <= 16 else 6.5,
        )
    axes.set_xticks(range(n))
    axes.grid(visible=True)
    top = axes.secondary_xaxis("top")
    top.set_xticks(
        range(n), [f"{total:,}" for total in counts.sum(axis=1)], size=8 if n <= 16 else 6
    )
    top.tick_params(length=0)
    top.set_xlabel("training rows of each client", size=9)
    top.spines["top"].set_visible(False)


def said_heterogeneity(history: History) -> str:
    """Return how non-IID the shards are, in one sentence."""
    if len(history.shards) == 1:
        return "One client holds all training text"
    words, share = (
        history.summary["heterogeneity_words"],
        history.summary["heterogeneity"]["label_js_share"],
    )
    return f"{words.split(':')[0].capitalize().replace('iid', 'IID')}: labels show {share:.0%} of the largest possible divergence"


def heterogeneity(history: History) -> Figure:
    """Return the picture of the run's shards; raise BadInput where there are none."""
    require_there("heterogeneity", lacks(history))
    return draw_heterogeneity(history.shards, said_heterogeneity(history))


def alt(history: History) -> str:
    """Return the picture in words."""
    rows, labels = history.shards.sum(axis=1), history.shards.shape[1]
    return (
        f"Training rows of {len(rows):,} clients by {labels} labels. {said_heterogeneity(history)}; a client holds "
        f"{rows.min():,} to {rows.max():,} rows."
    )


def lacks(history: History) -> str:
    """Return what a run without text has not; "" for a run with labelled rows."""
    return "labels of its rows" if history.shards.empty else ""
