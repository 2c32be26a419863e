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
    for k, (name, count) in enumerate(
        zip(blocks["block"].astype(str), blocks["visits"], strict=True)
    ):
        mine = visits[visits["block"].astype(str) == name] if count else visits[:0]
        look: dict[str, Any] = {
            "facecolors": COLOURS[k % 7],
            "edgecolors": "white",
            "lw": 0.8 if len(visits) <= 120 else 0,
        }
        frozen: dict[str, Any] = {
            "facecolors": "#EEEEEE",
            "edgecolors": "#B5B5B5",
            "hatch": "///",
            "lw": 0,
        }
        axes.broken_barh(
            spans(mine) if len(mine) else [(0, end)],
            (k - 0.38, 0.76),
            **(look if len(mine) else frozen),
        )
        beside = f"{count} {'visit' if count == 1 else 'visits'}" if len(mine) else "never trained"
        axes.text(1.01 * end, k, beside, va="center", size=9, color=INK if len(mine) else GREY)
    starts = visits.groupby("round")["first"].min()
    if len(starts) <= 30:
        for start in starts:
            axes.axvline(start, color=GREY, lw=0.9, ls=":")
    _round_axis(axes, starts)
    labels = [
        f"{clean(b, 24)}  ({number(p)})"
        for b, p in zip(blocks["block"], blocks["parameters"], strict=True)
    ]
    axes.set_yticks(range(len(blocks)), labels)
    axes.set(
        xlim=(0, end),
        ylim=(len(blocks) - 0.5, -0.5),
        xlabel="inner step",
        ylabel="block (parameters)",
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    title(figure, said_visits(visits, blocks))
    return figure


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
