"""The picture of the ledger: bytes of each client and memory of all, measured beside predicted."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deca_lab.lab.history import History
from deca_lab.pictures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    blank,
    note,
    number,
    size,
    styled,
    title,
    unit_of,
)

BARS = 16  # clients as bars
MEMORY = {  # key of the ledger's table -> words, colour, hatch
    "weights": ("weights that train", SKY, ""),
    "measured_peak": ("measured peak", BLUE, ""),
    "peak": ("predicted peak", RED, "////"),
    "paper": ("paper's M + 10M/B", PURPLE, ".."),
    "full": ("Adam on all at once", GREY, "xx"),
    "shared": ("frozen base, once", GREEN, "\\\\"),
}


@styled
def draw_ledger(edges: pd.DataFrame, memory: Mapping[str, float], clients: int) -> Figure:
    """Bytes that each client sent, or exchanged with the server, and memory of all clients: measured beside predicted."""
    figure = blank(4.2)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.05))
    _draw_traffic(left, sent_by(edges, clients), served(edges))
    _draw_memory(right, memory)
    title(figure, said_ledger(edges, memory))
    return figure


def sent_by(edges: pd.DataFrame, clients: int) -> pd.DataFrame:
    """Return the bytes that each client sent: `measured`, `predicted`, a row a client; with a server, both ways."""
    return (
        edges.groupby("sender")[["measured", "predicted"]]
        .sum()
        .reindex(range(clients), fill_value=0)
        .astype(np.int64)
    )


def served(edges: pd.DataFrame) -> bool:
    """Whether messages went to and from a server: those stand where receiver and sender are the same client."""
    return len(edges) > 0 and bool((edges["receiver"] == edges["sender"]).all())


def _draw_traffic(axes: Axes, sent: pd.DataFrame, to_server: bool) -> None:
    most = float(sent.to_numpy().max(initial=0))
    unit, name = unit_of(most)
    at, measured, predicted = (
        np.arange(len(sent)),
        sent["measured"] / unit,
        sent["predicted"] / unit,
    )
    if len(sent) <= BARS:
        axes.bar(at - 0.2, measured, 0.4, color=BLUE, label="measured")
        axes.bar(
            at + 0.2, predicted, 0.4, color="white", edgecolor=RED, hatch="////", label="predicted"
        )
        axes.set_xticks(at)
    else:
        axes.plot(at, measured, color=BLUE, lw=2.5, label="measured")
        axes.plot(at, predicted, color=ORANGE, lw=1.5, ls="--", label="predicted")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    what = "to and from the server" if to_server else "sent"
    axes.set(
        xlabel="client",
        ylabel=f"{what}, in the whole run ({name})",
        ylim=(0, max(most / unit, 1) * 1.05),
    )
    axes.grid(visible=True, axis="y")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    if most == 0:
        note(axes, "nothing was sent")


def _draw_memory(axes: Axes, memory: Mapping[str, float]) -> None:
    rows = [key for key in MEMORY if key != "shared" or memory.get(key, 0) > 0]
    most = max(memory[key] for key in rows)
    unit, name = unit_of(most)
    for k, key in enumerate(rows):
        _, colour, hatch = MEMORY[key]
        axes.barh(
            k,
            memory[key] / unit,
            0.62,
            color=colour if not hatch else "white",
            edgecolor=colour,
            hatch=hatch,
        )
        axes.annotate(f" {size(memory[key])}", (memory[key] / unit, k), va="center", size=9)
    axes.set_yticks(range(len(rows)), [MEMORY[key][0] for key in rows])
    axes.set(
        ylim=(len(rows) - 0.5, -0.5), xlabel=f"memory of all clients, without activations ({name})"
    )
    axes.set_xlim(0, max(most / unit, 1e-9) * 1.3)
    axes.grid(visible=True, axis="x")


def said_ledger(edges: pd.DataFrame, memory: Mapping[str, float]) -> str:
    """Return whether what was measured is what was predicted, in one sentence."""
    sent, predicted = int(edges["measured"].sum()), int(edges["predicted"].sum())
    went = "went to and from the server" if served(edges) else "were sent"
    beside = "exactly as predicted" if sent == predicted else f"{size(predicted)} predicted"
    traffic = f"{size(sent)} {went}, {beside}" if sent or predicted else "Nothing was sent"
    share = number(memory["measured_peak"] / max(memory["full"], 1))
    return f"{traffic}; memory peaks at {share} of what Adam on all at once takes"


def ledger(history: History) -> Figure:
    """Return the picture of bytes and memory, measured beside predicted."""
    return draw_ledger(history.edges, history.summary["memory"], history.config.clients)


def alt(history: History) -> str:
    """Return the picture in words."""
    memory = history.summary["memory"]
    base = (
        f" The frozen base, stored once, takes {size(memory['shared'])}."
        if memory.get("shared", 0) > 0
        else ""
    )
    what = (
        "exchanged with the server by each client"
        if served(history.edges)
        else "sent by each client"
    )
    return (
        f"Bars of bytes {what} and of memory. {said_ledger(history.edges, memory)}. Peak memory: "
        f"{size(memory['measured_peak'])} measured, {size(memory['peak'])} predicted, {size(memory['full'])} for Adam on all."
        f"{base}"
    )
