"""The picture of the visits: which block was live when, and what stayed frozen."""

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deca_lab.lab.history import History
from deca_lab.pictures.strip import spans
from deca_lab.pictures.style import COLOURS, GREY, INK, blank, clean, number, styled, title


@styled
def draw_visits(visits: pd.DataFrame, blocks: pd.DataFrame) -> Figure:
    """Which block was live when: a row a block of the table of blocks, what has no visits hatched in grey."""
    figure = blank(min(1.8 + 0.36 * max(len(blocks), 3), 10))
    axes = figure.subplots()
    end = float(visits["last"].max()) + 1
    for k, name in enumerate(blocks["block"].astype(str)):
        _lane(axes, k, visits[visits["block"].astype(str) == name], end, len(visits))
    starts = visits.groupby("round")["first"].min()
    for start in starts if len(starts) <= 30 else ():
        axes.axvline(start, color=GREY, lw=0.9, ls=":")
    _round_axis(axes, starts)
    sizes = zip(blocks["block"], blocks["parameters"], strict=True)
    axes.set_yticks(range(len(blocks)), [f"{clean(b, 24)}  ({number(p)})" for b, p in sizes])
    axes.set(xlim=(0, end), ylim=(len(blocks) - 0.5, -0.5))
    axes.set(xlabel="inner step", ylabel="block (parameters)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    title(figure, said_visits(visits, blocks))
    return figure


def _lane(axes: Axes, k: int, mine: pd.DataFrame, end: float, every: int) -> None:
    """Draw row k: a block's visits, of `every` in all, or that it had none."""
    if not len(mine):
        frozen: dict[str, Any] = {
            "facecolors": "#EEEEEE",
            "edgecolors": "#B5B5B5",
            "hatch": "///",
            "lw": 0,
        }
        axes.broken_barh([(0, end)], (k - 0.38, 0.76), **frozen)
        axes.text(1.01 * end, k, "never trained", va="center", size=9, color=GREY)
        return
    width = 0.8 if every <= 120 else 0
    look: dict[str, Any] = {"facecolors": COLOURS[k % 7], "edgecolors": "white", "lw": width}
    axes.broken_barh(spans(mine), (k - 0.38, 0.76), **look)
    count = f"{len(mine)} {'visit' if len(mine) == 1 else 'visits'}"
    axes.text(1.01 * end, k, count, va="center", size=9, color=INK)


def _round_axis(axes: Axes, starts: pd.Series) -> None:
    """Write each round's number above its start, as far as there is room."""
    top = axes.secondary_xaxis("top")
    kept = starts.iloc[:: max(1, math.ceil(len(starts) / 10))]
    top.set_xticks(kept.to_list(), [f"round {r}" for r in kept.index], ha="left", size=8)
    top.tick_params(length=0)
    top.spines["top"].set_visible(False)


def said_visits(visits: pd.DataFrame, blocks: pd.DataFrame) -> str:
    """Return who trained and what stayed frozen, in one sentence."""
    live, rounds = int((blocks["visits"] > 0).sum()), visits["round"].nunique()
    still = int(blocks.loc[blocks["visits"] == 0, "parameters"].sum())
    share = still / max(int(blocks["parameters"].sum()), 1)
    cold = f"{_percent(share)} of the parameters stay frozen" if still else "nothing stays frozen"
    if live == 1:
        return f"One block trains all the time; {cold}"
    return f"One of {live} blocks trains at a time, in {rounds} {'round' if rounds == 1 else 'rounds'}; {cold}"


def _percent(share: float) -> str:
    """Write a share so that only all of it is 100 %."""
    return f"{share:.0%}" if 0.005 <= share < 0.99 or share in (0, 1) else f"{share:.2%}"


def visits(history: History) -> Figure:
    """Return the picture of which block was live when."""
    return draw_visits(history.visits, history.blocks)


def alt(history: History) -> str:
    """Return the picture in words."""
    steps = int(history.visits["last"].max()) + 1
    verdict = said_visits(history.visits, history.blocks)
    return f"Timeline of {len(history.visits)} visits over {steps:,} inner steps. {verdict}."
