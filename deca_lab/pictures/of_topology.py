"""The picture of the topology: the graph beside W, a server's star, or a summary where clients are many."""

import math
from collections.abc import Sequence
from typing import Any

import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.sparse import issparse

from deca_lab.errors import check
from deca_lab.lab.history import History
from deca_lab.mixing.doctor import Diagnosis, diagnose
from deca_lab.mixing.matrix import Matrix, dense, held, links_of, numbers
from deca_lab.mixing.topology import SERVER
from deca_lab.pictures.style import (
    BLUE,
    GREY,
    INK,
    RED,
    SKY,
    blank,
    note,
    number,
    styled,
    tint,
    title,
)

NUMBERED, DRAWN, SPECTRAL = 12, 40, 1536  # clients: W with numbers, a graph, singular values


@styled
def draw_topology(W: Matrix | Sequence[Matrix], name: str = "") -> Figure:
    """The graph beside W (N, N); of W (P, N, N), used in turn, the first four. Above 40 clients only in summary.

    W may be sparse, or a list that holds sparse ones.

    Line width follows w_ij; an arrow j -> i says that client i hears client j, where W is not symmetric. With the name
    "server" the graph is a star: the clients do not hear one another.
    """
    stack = _stack(W)
    if stack[0].shape[0] > DRAWN:
        figure = _draw_summary(stack[0], name == SERVER)
    elif len(stack) == 1:
        figure = blank(4.4)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
        (_draw_star if name == SERVER else _draw_graph)(left, stack[0])
        _draw_matrix(figure, right, stack[0])
    else:
        figure = _draw_sequence(stack[:4])
    title(figure, said_topology(diagnose(stack), name))
    return figure


def _stack(W: Matrix | Sequence[Matrix]) -> list[Matrix]:
    """Return the matrices (N, N) of W (N, N) or (P, N, N), sparse ones as they are held."""
    if issparse(W) or any(map(issparse, W)):
        return [held(part) for part in ([W] if issparse(W) else W)]
    stack = np.asarray(W, dtype=np.float64)
    stack = stack[None] if stack.ndim == 2 else stack
    fits = stack.ndim == 3 and stack.shape[1] == stack.shape[2] > 0 and len(stack) > 0
    check(fits, "W", stack.shape, "(N, N) or (P, N, N)")
    return list(stack)


def _draw_sequence(stack: Sequence[Matrix]) -> Figure:
    figure = blank(5.2)
    for k, (over, under, W) in enumerate(
        zip(*figure.subplots(2, len(stack), squeeze=False), stack, strict=True)
    ):
        _draw_graph(over, W, small=True)
        _draw_matrix(figure, under, W, small=True)
        over.set_title(f"mixing {k}", loc="center", size=9, weight="normal")
    return figure


def _draw_graph(axes: Axes, W: np.ndarray, small: bool = False) -> None:
    off = np.where(np.isfinite(W), W, 0) * (1 - np.eye(len(W)))
    directed = not np.allclose(off, off.T, rtol=0, atol=1e-12)
    pairs = [(int(j), int(i)) for i, j in np.argwhere(off) if directed or j < i]
    graph = nx.DiGraph() if directed else nx.Graph()
    graph.add_nodes_from(range(len(W)))
    graph.add_edges_from(pairs)
    weights = np.array([off[i, j] for j, i in graph.edges], dtype=np.float64)
    widths = 0.6 + 2.6 * np.abs(weights) / max(np.abs(weights).max(initial=0), 1e-300)
    colours = [RED if w < 0 else GREY for w in weights]
    styles = ["dashed" if w < 0 else "solid" for w in weights]
    look = {"edge_color": colours, "style": styles}
    arrows = (
        {"arrows": True, "arrowsize": 9, "connectionstyle": "arc3,rad=0.08"}
        if directed and len(pairs) <= 300
        else {}
    )
    _draw_network(
        axes,
        graph,
        _circle(len(W)),
        small,
        {"width": widths.tolist(), "arrows": False, **look, **arrows},
    )


def _draw_star(axes: Axes, W: np.ndarray) -> None:
    """The server in the middle; each client sends its model to it and hears the average."""
    graph = nx.Graph((i, "server") for i in range(len(W)))
    places: dict[Any, Any] = {**_circle(len(W), 1.0 if len(W) > 1 else 0.8), "server": (0.0, 0.0)}
    _draw_network(axes, graph, places, False, {"width": 1.6, "edge_color": GREY, "arrows": False})
    axes.text(
        0,
        0,
        "server",
        ha="center",
        va="center",
        size=9,
        bbox={"boxstyle": "round", "fc": tint(SKY, 0.2), "ec": INK},
    )


def _circle(n: int, radius: float = 0.0) -> dict[Any, tuple[float, float]]:
    """Return places on a circle, client 0 at the top; one client alone stands in the middle unless given a radius."""
    r = radius or (1.0 if n > 1 else 0.0)
    return {
        i: (r * math.cos(a), r * math.sin(a))
        for i in range(n)
        for a in (math.pi / 2 - 2 * math.pi * i / n,)
    }


def _draw_network(
    axes: Axes, graph: nx.Graph, places: dict[Any, Any], small: bool, look: dict[str, Any]
) -> None:
    clients = [v for v in graph if v != "server"]
    dot = float(np.clip(3600 / len(clients), 110, 420)) * (0.45 if small else 1)
    if graph.number_of_edges():
        ends = {"node_size": dot} if look["arrows"] else {}  # arrows end at the edge of the dots
        nx.draw_networkx_edges(graph, places, ax=axes, **look, **ends)
    nx.draw_networkx_nodes(
        graph,
        places,
        clients,
        ax=axes,
        node_size=dot,
        node_color=[tint(SKY, 0.6)],
        edgecolors=BLUE,
        linewidths=1,
    )
    letters = float(np.clip(dot**0.5 / 2, 5.5, 10))
    nx.draw_networkx_labels(graph, places, {v: str(v) for v in clients}, ax=axes, font_size=letters)
    axes.set(aspect="equal", xlim=(-1.25, 1.25), ylim=(-1.25, 1.25))
    axes.axis("off")


def _draw_matrix(figure: Figure, axes: Axes, W: np.ndarray, small: bool = False) -> None:
    """W as an image, with its numbers where there is room."""
    n, values = len(W), W[np.isfinite(W)]
    low, high = min(values.min(initial=0), 0.0), max(values.max(initial=0), 1e-12)
    limit = max(-low, high)
    look = (
        {"cmap": "Blues", "vmin": 0, "vmax": 2.2 * high}  # dark ink stays legible on all of it
        if low == 0
        else {"cmap": "PuOr", "vmin": -limit, "vmax": limit}
    )
    image = axes.imshow(W, interpolation="nearest", **look)
    ticks = range(n) if n <= NUMBERED else range(0, n, 5)
    axes.set(xticks=ticks, yticks=ticks, xlabel="heard client j", ylabel="client i")
    axes.tick_params(length=0, labelsize=7 if small else 9)
    if n <= NUMBERED and not small:
        for i, j in np.argwhere(W != 0).tolist():
            axes.text(
                j,
                i,
                f"{W[i, j]:.2f}".replace("0.", ".", 1),
                ha="center",
                va="center",
                size=9 if n <= 9 else 7,
            )
    elif not small:
        figure.colorbar(image, ax=axes, label="share w_ij", fraction=0.045, pad=0.03)
    axes.set_title(
        "" if small else "W: share that i takes of j's model", loc="center", size=9, weight="normal"
    )


def _draw_summary(W: Matrix, served: bool) -> Figure:
    """How many clients each one hears, and the singular values, of a W too large to draw."""
    figure = blank(4.2)
    left, right = figure.subplots(1, 2)
    n = W.shape[0]
    heard = np.zeros(n) if served else np.bincount(links_of(W)[:, 0], minlength=n)
    kinds, many = np.unique(heard, return_counts=True)
    left.bar(kinds, many, color=tint(SKY, 0.7), edgecolor=BLUE)
    left.set(
        xlabel="clients that one client hears" + (", but for the server" if served else ""),
        ylabel="clients (count)",
        xlim=(kinds[0] - 1.5, kinds[-1] + 1.5),
    )
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    if n <= SPECTRAL and np.isfinite(numbers(W)).all():
        values = np.linalg.svd(dense(W), compute_uv=False)
        right.plot(np.arange(1, len(values) + 1), values, color=BLUE, lw=1.8)
        right.axhline(0, color=GREY, lw=0.8)
    else:
        note(right, f"singular values are not drawn for {n:,} clients")
    right.set(xlabel="number, largest first", ylabel="singular value of W (no unit)")
    for axes in (left, right):
        axes.grid(visible=True)
    return figure


def said_topology(diagnosis: Diagnosis, name: str = "") -> str:
    """Return how well this mixes, in one sentence."""
    if diagnosis.clients == 1:
        return "One client: there is nobody to mix with"
    if name == SERVER:
        return f"A server averages all {diagnosis.clients:,} clients: rho = 0, one mixing ends all disagreement"
    who = f"{name}, {diagnosis.clients:,} clients" if name else f"{diagnosis.clients:,} clients"
    if diagnosis.edges == 0:
        return f"{who}: no edges, so no client ever hears another (rho = 1)"
    factor = (
        f"1 - {number(1 - diagnosis.rho)}"
        if 0 < 1 - diagnosis.rho < 1e-3
        else number(diagnosis.rho)
    )
    rounds = diagnosis.rounds_1000
    often = (
        f"takes {rounds:,.0f} mixing{'s' * (rounds > 1)} to shrink disagreement 1000-fold"
        if rounds < math.inf
        else "never shrinks disagreement 1000-fold"
    )
    return f"{who}: rho = {factor}, so it {often}" + (
        f"; {diagnosis.period} matrices in turn" if diagnosis.period > 1 else ""
    )


def topology(history: History) -> Figure:
    """Return the picture of the run's graph and W."""
    return draw_topology(history.W, history.summary["topology"])


def alt(history: History) -> str:
    """Return the picture in words."""
    return f"Who hears whom, and the mixing matrix W. {said_topology(diagnose(list(history.W)), history.summary['topology'])}."
