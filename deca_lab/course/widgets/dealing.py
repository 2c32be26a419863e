"""The shard picture: one way of dealing rows, its Dirichlet alpha under a slider, and how much the shards differ."""

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from math import log10
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deca_lab.course.widgets.panel import Control, Scene, headline, say, sheet, show
from deca_lab.errors import check
from deca_lab.pictures.style import BLUE, COLOURS, GREY, ORANGE, STYLE, clean, number
from deca_lab.text import shards
from deca_lab.text.corpora import Corpus
from deca_lab.text.heterogeneity import WORDS, jensen_shannon, share_of_most, total_variation

if TYPE_CHECKING:
    from IPython.display import Image
    from ipywidgets import VBox
    from matplotlib.axes import Axes

MOST, LABELS, MANY = 16, 8, 4000  # clients, labels that are drawn, rows that are dealt at most
LEAST, LARGEST = -2.0, 2.0  # of log10 alpha
HATCHES = ("", "//", "", "..", "", "xx", "", "--")  # every other one: hatching takes time
CONTROLS = {
    "split": Control("split", options=tuple(name for name in shards.SPLITS if name != "shares")),
    "power": Control("log10 of alpha", LEAST, LARGEST, 0.1),
    "clients": Control("clients N", 2, MOST, 1),
    "seed": Control("draw (seed)", 0, 30, 1),
}


class Dealt(NamedTuple):
    """Rows (N, L) that each client trains on, and how much they differ: shares of the largest possible, 0 to 1."""

    counts: np.ndarray
    js: float
    tv: float

    @property
    def words(self) -> str:
        """The verdict of `heterogeneity`."""
        return next(word for limit, word in WORDS if self.js < limit)


def shard_picture(
    corpus: Corpus, clients: int = 8, alpha: float = 0.25, split: str = "dirichlet", seed: int = 0
) -> "VBox | Image":
    """Return the rows of a corpus dealt to clients, with controls; elsewhere than in a live front end as an IPython image.

    `split` is one of `deca_lab.text.shards` but "shares"; `alpha`, from 0.01 to 100, is for "dirichlet" and "quantity". Of more
    than 4,000 rows a random sample is dealt, and labels after the eighth count as one. Raises BadInput.
    """
    check(
        isinstance(alpha, int | float) and 10**LEAST <= alpha <= 10**LARGEST,
        "alpha",
        alpha,
        "a number from 0.01 to 100",
    )
    values = {"split": split, "power": log10(alpha), "clients": clients, "seed": seed}
    return show(lambda: scene(*_few(corpus)), CONTROLS, values)


def _few(corpus: Corpus) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return labels of at most MANY rows, and the names of those that are drawn, the largest first."""
    rows = np.random.default_rng(0x5A).permutation(len(corpus.labels))[:MANY]
    labels = np.asarray(corpus.labels)[np.sort(rows)]
    order = _largest_first(labels)
    names = [str(corpus.label_names[kind]) for kind in order[:LABELS]]
    if len(order) > LABELS:
        names[-1] = f"{len(order) - LABELS + 1} others"
    return tuple(map(int, labels)), tuple(names)


def _largest_first(labels: np.ndarray) -> np.ndarray:
    kinds, counts = np.unique(labels, return_counts=True)
    return np.asarray(kinds[np.argsort(-counts, kind="stable")])


@lru_cache(256)
def dealt(labels: tuple[int, ...], how: str, power: float, clients: int, seed: int) -> Dealt:
    """Return what `shards.split` gives to each client, and the divergences of `heterogeneity`.

    The rows are dealt, and compared, by their own labels; only for the picture are small labels gathered into one.
    """
    rows = np.array(labels)
    parts = shards.split(rows, clients, how=how, alpha=10**power, seed=seed).train
    counts = np.stack([np.bincount(rows[part], minlength=rows.max() + 1) for part in parts])
    order = _largest_first(rows)
    drawn = np.c_[counts[:, order[: LABELS - 1]], counts[:, order[LABELS - 1 :]].sum(1)]
    present = counts[:, order]
    return Dealt(
        drawn if len(order) > LABELS else present,
        share_of_most(jensen_shannon(present), present.shape),
        total_variation(present),
    )


def scene(labels: tuple[int, ...], names: tuple[str, ...]) -> Scene:
    """Return the picture: rows of each client by label, and two divergences beside the limits of the words for them."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figure = sheet(3.7)
        bars, gauge = figure.subplots(1, 2, width_ratios=(1.9, 1))
        figure.subplots_adjust(left=0.095, right=0.975, bottom=0.33, top=0.85, wspace=0.42)
        title, draw, point = headline(bars), _bars(bars, names), _gauge(gauge)
        figure.legend(
            *bars.get_legend_handles_labels(),
            loc="lower left",
            bbox_to_anchor=(0.01, 0.0),
            ncols=4,
            handlelength=1.6,
        )

    def update(split: str, power: float, clients: int, seed: int) -> str:
        deal = dealt(labels, split, power, clients, seed)
        draw(deal.counts)
        point(deal)
        sizes = deal.counts.sum(1)
        drawn = (
            f" with alpha = {number(10**power, 2)}" if split in ("dirichlet", "quantity") else ""
        )
        rows = f"{sizes.min():,} to {sizes.max():,} rows"
        say(title, f"{deal.words[0].upper()}{deal.words[1:]}: {split}{drawn}; clients hold {rows}")
        return (
            f"Training rows of {clients} clients by label, dealt by {split}{drawn}: {deal.words}. The labels show "
            f"{deal.js:.0%} of the largest possible divergence; {deal.tv:.0%} of a client's rows would have to change "
            f"label to give the mean mix; a client holds {rows}."
        )

    return Scene(figure, update)


def _bars(axes: "Axes", names: tuple[str, ...]) -> Callable[[np.ndarray], None]:
    """Return what stacks each client's rows, a colour and a hatch a label; heights are shares of the largest client's."""
    from matplotlib.collections import PolyCollection

    stacks = [
        PolyCollection(
            [],
            facecolors=COLOURS[k % len(COLOURS)],
            hatch=HATCHES[k],
            edgecolors="white",
            lw=0.4,
            label=clean(name, 16),
            animated=True,
        )
        for k, name in enumerate(names)
    ]
    for stack in stacks:
        axes.add_collection(stack)
    below = [
        axes.text(0, -0.03, "", ha="center", va="top", size=8, linespacing=1.4, animated=True)
        for _ in range(MOST)
    ]
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xticks=[], ylabel="training rows\n(largest client = 1)")
    axes.set_xlabel("client, and its training rows", labelpad=34)

    def update(counts: np.ndarray) -> None:
        n, tall = len(counts), counts / max(counts.sum(1).max(), 1)
        edges = np.vstack([np.zeros(n), tall.cumsum(1).T])
        x, half = (np.arange(n) + 0.5) / n, 0.4 / n
        for k, stack in enumerate(stacks):
            low, high = edges[k], edges[k + 1]
            corners = np.array(
                [[x - half, low], [x + half, low], [x + half, high], [x - half, high]]
            )  # (4, 2, N)
            stack.set_verts(corners.transpose(2, 0, 1)[high > low])
        for i, text in enumerate(below):
            text.set_text(f"{i}\n{counts[i].sum():,}" if i < n else "")
            text.set_x(x[min(i, n - 1)])

    return update


def _gauge(axes: "Axes") -> Callable[[Dealt], None]:
    """Return what moves two bars between the limits at which the words change."""
    bars = axes.barh(
        [1, 0], [0, 0], 0.45, color=[BLUE, ORANGE], hatch=["", "///"], edgecolor="white"
    )
    values = [axes.text(0, y, "", va="center", size=9, animated=True) for y in (1, 0)]
    for part in bars:
        part.set_animated(True)
    for (limit, _), (_, word) in pairwise(WORDS):
        name, height = word.split()[0].removesuffix("ly"), 1.46 if limit > 0.1 else 1.62
        axes.plot([limit, limit], [0.62, 1.42], color=GREY, lw=1, ls=":")
        axes.text(limit, height, name, ha="left", va="bottom", size=8, color=GREY)
    axes.set(
        xlim=(0, 1.16),
        ylim=(-0.5, 1.85),
        yticks=[1, 0],
        yticklabels=["labels'\nJS", "rows to\nmove"],
        xlabel="share (0: all alike)",
    )

    def update(deal: Dealt) -> None:
        for part, text, value in zip(bars, values, (deal.js, deal.tv), strict=True):
            part.set_width(value)
            text.set_x(value + 0.02)
            text.set_text(f"{value:.0%}")

    return update
