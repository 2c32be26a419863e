"""The topology editor: a graph whose edges one drags, its W, the spectrum, and promised beside measured mixing."""

import json
from collections.abc import Callable, Collection
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import networkx as nx
import numpy as np

from deca_lab.bounds.bound import Bound
from deca_lab.bounds.gossip_contraction import gossip_contraction, witness
from deca_lab.course.widgets.panel import (
    Control,
    Scene,
    headline,
    require,
    say,
    sheet,
    still,
)
from deca_lab.errors import BadInput
from deca_lab.mixing.doctor import Diagnosis, diagnose
from deca_lab.mixing.graphs import GRAPHS, GraphSpec
from deca_lab.mixing.topology import topology
from deca_lab.pictures.jupyter import live
from deca_lab.pictures.of_topology import said_topology
from deca_lab.pictures.style import BLUE, GREY, ORANGE, RED, SKY, STYLE, number, tint

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
    edited(graph, clients, ())  # so that a graph that cannot have this size is refused here
    return _live(values) if live() else still(scene(), values)


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


def scene() -> Scene:
    """Return the editor's picture: graph, spectrum of W, disagreement over mixings."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figure = sheet(3.5)
        places, values, curves = figure.subplots(1, 3, width_ratios=(1, 0.95, 1.25))
        figure.subplots_adjust(left=0.015, right=0.985, bottom=0.32, top=0.85, wspace=0.42)
        title, graph_of, follow = (
            headline(places),
            _graph(places),
            (_spectrum(values), _curves(curves)),
        )
        for axes in (values, curves):
            _legend_below(figure, axes)

    def update(graph: str, clients: int, lazy: float, start: str) -> str:
        seen = mixing(edited(graph, clients, ()), lazy, start)
        graph_of(seen.W)
        for draw in follow:
            draw(seen)
        headline_words = words(graph, seen)
        say(title, headline_words)
        return _in_words(headline_words, seen.bound)

    return Scene(figure, update)


def _legend_below(figure: "Figure", axes: "Axes") -> None:
    """Put the legend of one panel below its middle."""
    box = axes.get_position()
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="lower center",
        bbox_to_anchor=(box.x0 + box.width / 2, 0.0),
        ncols=1,
        handlelength=2.4,
        borderpad=0,
    )


def _in_words(verdict: str, bound: Bound) -> str:
    """Return the whole picture in words."""
    left, promised = (float(np.atleast_1d(side)[-1]) for side in (bound.lhs, bound.rhs))
    return (
        f"Graph of who hears whom, eigenvalues and singular values of W, and disagreement over {MIXINGS} mixings, "
        f"measured beside rho^k. {verdict}. After {MIXINGS} mixings the part {number(left)} of the "
        f"disagreement is left; rho^k promises at most {number(promised)}."
    )


def _graph(axes: "Axes") -> Callable[[np.ndarray], None]:
    """Return what draws W as clients on a circle, with edges as thick as their share."""
    from matplotlib.collections import LineCollection

    stand = _clients(axes)
    lines = LineCollection([], colors=GREY, zorder=1, animated=True)
    axes.add_collection(lines)
    axes.set(aspect="equal", xlim=(-1.2, 1.2), ylim=(-1.2, 1.2))
    axes.axis("off")
    axes.text(0, -1.42, "line width: share $w_{ij}$", ha="center", va="top", size=9)

    def join(W: np.ndarray) -> None:
        spots, (i, j) = stand(len(W)), np.nonzero(np.triu(W, 1))
        lines.set_segments(list(np.stack([spots[i], spots[j]], 1)))
        lines.set_linewidth((0.6 + 5 * W[i, j]).tolist())

    return join


def _clients(axes: "Axes") -> Callable[[int], np.ndarray]:
    """Return what places n numbered clients on a circle and returns their places (n, 2)."""
    dots = axes.scatter(
        [0], [0], s=170, color=[tint(SKY, 0.6)], edgecolors=BLUE, zorder=2, animated=True
    )
    names = [
        axes.text(0, 0, str(i), ha="center", va="center", size=8, zorder=3, animated=True)
        for i in range(MOST)
    ]
    spots = np.zeros((0, 2))

    def stand(n: int) -> np.ndarray:
        nonlocal spots
        if len(spots) == n:  # they stand there already: moving them takes time
            return spots
        angle = np.pi / 2 - 2 * np.pi * np.arange(n) / n
        spots = np.stack([np.cos(angle), np.sin(angle)], 1)
        dots.set_offsets(spots)
        for i, text in enumerate(names):
            text.set_visible(i < n)
            text.set_position(tuple(spots[i]) if i < n else (0, 0))
        return spots

    return stand


def _spectrum(axes: "Axes") -> Callable[[Mixing], None]:
    """Return what draws eigenvalues, singular values and rho."""
    level = axes.axhline(0, color=ORANGE, lw=2, ls="--", label="rho", animated=True)
    axes.axhline(0, color=GREY, lw=0.8)
    single = axes.plot(
        [], [], "D", color="none", markeredgecolor=RED, ms=8, label="singular value", animated=True
    )[0]
    eigen = axes.plot([], [], "o", color=BLUE, ms=4.5, label="eigenvalue", animated=True)[0]
    axes.set(ylim=(-1.08, 1.08), xlabel="number, largest first", ylabel="value (no unit)")
    axes.grid(visible=True)

    def update(seen: Mixing) -> None:
        n = len(seen.W)
        k = np.arange(1, n + 1)
        eigen.set_data(k, np.linalg.eigvalsh(seen.W)[::-1])
        single.set_data(k, np.linalg.svd(seen.W, compute_uv=False))
        level.set_ydata([seen.found.rho] * 2)
        axes.set_xlim(
            0, MOST // 2 + 1 if n <= MOST // 2 else MOST + 1
        )  # two axes only: a new one is slow

    return update


def _curves(axes: "Axes") -> Callable[[Mixing], None]:
    """Return what draws the promised and the measured disagreement."""
    k = np.arange(MIXINGS + 1)
    promised = axes.plot(
        k, k + 1.0, color=ORANGE, lw=2, ls="--", label="predicted: rho^k", animated=True
    )[0]
    measured = axes.plot(
        k,
        k + 1.0,
        color=BLUE,
        lw=1.5,
        marker="o",
        ms=3.5,
        label="measured by gossip",
        animated=True,
    )[0]
    axes.set(
        yscale="log",
        ylim=(FLOOR, 2),
        xlim=(-0.5, MIXINGS + 0.5),
        xlabel="mixing k",
        ylabel="disagreement\n(share of the first)",
    )
    axes.grid(visible=True)

    def update(seen: Mixing) -> None:
        for line, values in ((promised, seen.bound.rhs), (measured, seen.bound.lhs)):
            line.set_ydata(np.maximum(np.concatenate([[1.0], values]), FLOOR))

    return update
