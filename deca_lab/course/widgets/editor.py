"""The topology editor: a graph whose edges one drags, its W, the spectrum, and promised beside measured mixing."""

import json
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import networkx as nx
import numpy as np

from deca_lab.bounds.bound import Bound
from deca_lab.bounds.gossip_contraction import gossip_contraction, witness
from deca_lab.course.widgets.panel import Control, require
from deca_lab.errors import BadInput
from deca_lab.mixing.doctor import Diagnosis, diagnose
from deca_lab.mixing.graphs import GRAPHS, GraphSpec
from deca_lab.mixing.topology import topology
from deca_lab.pictures.jupyter import kept, live
from deca_lab.pictures.of_topology import said_topology
from deca_lab.pictures.style import (
    BLUE,
    GREY,
    ORANGE,
    RED,
    SKY,
    blank,
    number,
    styled,
    tint,
    title,
)

if TYPE_CHECKING:
    from anywidget import AnyWidget
    from IPython.display import Image
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST, MIXINGS, COLUMNS = 16, 24, 4  # clients, mixings drawn, columns of X
FLOOR = 1e-7  # below it a disagreement is drawn at the edge
Edge = tuple[int, int]
STARTS = ("random", "worst for this W")
SCRIPT = Path(__file__).with_suffix(".js")
CONTROLS = {
    "graph": Control("graph", options=tuple(GRAPHS)),
    "clients": Control("clients N", 2, MOST, 1),
    "lazy": Control("lazy share s", 0, 0.95, 0.05),
    "start": Control("models X at first", options=STARTS),
}


class Mixing(NamedTuple):
    """What the editor shows: W (N, N), the doctor's findings, and disagreement promised and measured, 1 at first."""

    W: np.ndarray
    found: Diagnosis
    bound: Bound


def topology_editor(
    clients: int = 8, graph: str = "ring", lazy: float = 0.0
) -> "AnyWidget | Image":
    """Return the editor of a topology, on a graph of `deca_lab.mixing.graphs` with Metropolis weights.

    `lazy` is the share s that every client keeps to itself besides: W <- s I + (1 - s) W. Elsewhere than in a live front
    end, the picture as an IPython image. Raises BadInput.
    """
    values = {"graph": graph, "clients": clients, "lazy": lazy, "start": STARTS[0]}
    require(CONTROLS, values)
    seen = mixing(edited(graph, clients, ()), lazy, STARTS[0])  # refuses a size it cannot have
    if live():
        return _live(values)
    sentence = words(graph, seen)
    return kept(picture(sentence, seen), _in_words(sentence, seen.bound))


def edited(name: str, clients: int, toggled: Collection[Edge]) -> nx.Graph:
    """Return the named graph with the edges between these pairs of clients flipped: added where missing, else cut."""
    graph = nx.Graph(
        GRAPHS[name](
            clients,
            GraphSpec(degree=3 if clients % 2 == 0 and clients > 3 else min(2, clients - 1)),
        )
    )
    for i, j in toggled:
        (graph.remove_edge if graph.has_edge(i, j) else graph.add_edge)(i, j)
    return graph


def mixing(graph: nx.Graph, lazy: float, start: str) -> Mixing:
    """Return W by Metropolis weights, made lazy, and both sides of the gossip contraction over the first mixings."""
    n = len(graph)
    W = lazy * np.eye(n) + (1 - lazy) * topology(graph).at(0)
    X = _random(n) if start == STARTS[0] else witness(W, COLUMNS)
    bound = gossip_contraction(W, X, MIXINGS)
    first = float(np.linalg.norm(X - X.mean(0)))
    return Mixing(W, diagnose(W), bound._replace(lhs=bound.lhs / first, rhs=bound.rhs / first))


@lru_cache
def _random(n: int) -> np.ndarray:
    return np.random.default_rng([n, 0xED6E]).standard_normal((n, COLUMNS))


def words(name: str, seen: Mixing) -> str:
    """Return in one sentence how well this mixes, or what the doctor has against it."""
    if seen.found.verdict == "sound":
        return said_topology(seen.found, name)
    return f"Unsound, rho = {number(seen.found.rho)}. {seen.found.reasons[0]}"


def _live(values: dict[str, Any]) -> "AnyWidget":
    from anywidget import AnyWidget

    draw = f"({{ el }}) => decaEditor(el, {known()}, {json.dumps(values)})"
    return AnyWidget(_esm=f"{SCRIPT.read_text()}\nexport default {{ render: {draw} }};\n")


def page_script() -> str:
    """Return the editor for a page of the book: its figure is drawn by the same script as the live one."""
    values = {"graph": "ring", "clients": 8, "lazy": 0.0, "start": STARTS[0]}
    draw = f"(figure) => decaEditor(figure, {known()}, {json.dumps(values)})"
    return (
        f"{SCRIPT.read_text()}\n(window.decaKnobs ??= {{}}).topology_editor = {{ draw: {draw} }};\n"
    )


@lru_cache
def known() -> str:
    """Return as JSON what the script cannot compute: each graph's edges at each size, or why it has none; first models."""
    sizes = range(2, MOST + 1)
    return json.dumps(
        {
            "graphs": {name: {n: _edges(name, n) for n in sizes} for name in GRAPHS},
            "starts": {n: _random(n).tolist() for n in sizes},
            "random": STARTS[0],
            "most": MOST,
        },
        separators=(",", ":"),
    )


def _edges(name: str, clients: int) -> list[Edge] | str:
    try:
        return [(i, j) for i, j in edited(name, clients, ()).edges if i != j]
    except BadInput as error:
        return str(error)


@styled
def picture(sentence: str, seen: Mixing) -> "Figure":
    """Return the still under the sentence `sentence`: graph, spectrum of W, disagreement over mixings."""
    figure = blank(3.5)
    graph, spectrum, curves = figure.subplots(1, 3, width_ratios=(1, 0.95, 1.25))
    _graph(graph, seen.W)
    _spectrum(spectrum, seen)
    _curves(curves, seen.bound)
    for axes in (spectrum, curves):
        axes.grid(visible=True)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), handlelength=2.4)
    title(figure, sentence)
    return figure


def _in_words(verdict: str, bound: Bound) -> str:
    """Return the whole picture in words."""
    left, promised = (float(np.atleast_1d(side)[-1]) for side in (bound.lhs, bound.rhs))
    return (
        f"Graph of who hears whom, eigenvalues and singular values of W, and disagreement over {MIXINGS} mixings, "
        f"measured beside rho^k. {verdict}. After {MIXINGS} mixings the part {number(left)} of the "
        f"disagreement is left; rho^k promises at most {number(promised)}."
    )


def _graph(axes: "Axes", W: np.ndarray) -> None:
    """Draw W as clients on a circle, with edges as thick as their share."""
    angle = np.pi / 2 - 2 * np.pi * np.arange(len(W)) / len(W)
    x, y = np.cos(angle), np.sin(angle)
    for i, j in np.argwhere(np.triu(W, 1)):
        axes.plot(x[[i, j]], y[[i, j]], color=GREY, lw=0.6 + 5 * W[i, j], zorder=1)
    axes.scatter(x, y, s=170, color=[tint(SKY, 0.6)], edgecolors=BLUE, zorder=2)
    for i in range(len(W)):
        axes.text(x[i], y[i], str(i), ha="center", va="center", size=8, zorder=3)
    axes.text(0, -1.42, "line width: share $w_{ij}$", ha="center", va="top", size=9)
    axes.set(aspect="equal", xlim=(-1.2, 1.2), ylim=(-1.2, 1.2))
    axes.axis("off")


def _spectrum(axes: "Axes", seen: Mixing) -> None:
    """Draw eigenvalues, singular values and rho."""
    k = np.arange(1, len(seen.W) + 1)
    axes.axhline(0, color=GREY, lw=0.8)
    axes.axhline(seen.found.rho, color=ORANGE, lw=2, ls="--", label="rho")
    singular = np.linalg.svd(seen.W, compute_uv=False)
    axes.plot(k, singular, "D", mfc="none", mec=RED, ms=8, label="singular value")
    axes.plot(k, np.linalg.eigvalsh(seen.W)[::-1], "o", color=BLUE, ms=4.5, label="eigenvalue")
    axes.set(ylim=(-1.15, 1.15), xlabel="number, largest first", ylabel="value (no unit)")


def _curves(axes: "Axes", bound: Bound) -> None:
    """Draw the promised and the measured disagreement."""
    promised, measured = (
        np.maximum(np.concatenate([[1.0], side]), FLOOR) for side in (bound.rhs, bound.lhs)
    )
    axes.plot(promised, color=ORANGE, lw=2, ls="--", label="predicted: rho^k")
    axes.plot(measured, color=BLUE, lw=1.5, marker="o", ms=3.5, label="measured by gossip")
    axes.set(yscale="log", ylim=(FLOOR, 2), xlabel="mixing k")
    axes.set(xlim=(-0.5, MIXINGS + 0.5), ylabel="disagreement\n(share of the first)")
