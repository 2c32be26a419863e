"""Named graphs, and sequences of averages that change at every mixing.

A graph is (clients, spec) -> nx.Graph on 0 .. N-1; a random one says in graph.graph["note"] what was drawn.
"""

from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from deca_lab.errors import BadInput, check

Array = NDArray[np.floating[Any]]  # real numbers: W (N, N), X (N, D); float64 unless stated

CELLS = 2**20  # of N x N numbers that are drawn or looked at in one go: 8 MiB
DRAWS = 200  # a random graph is redrawn at most this often
PERIOD = 64  # matchings drawn once, then repeated


class GraphSpec(NamedTuple):
    """What a random graph is drawn from: edge `probability`, `degree` of a regular graph, `seed`."""

    probability: float = 0.5
    degree: int = 4
    seed: int = 0


def ring(n: int, spec: GraphSpec) -> nx.Graph:
    """Client i hears i - 1 and i + 1; two clients share one edge."""
    return nx.cycle_graph(n)


def path(n: int, spec: GraphSpec) -> nx.Graph:
    """A ring with one edge cut."""
    return nx.path_graph(n)


def star(n: int, spec: GraphSpec) -> nx.Graph:
    """Client 0 is the hub."""
    return nx.star_graph(n - 1)


def complete(n: int, spec: GraphSpec) -> nx.Graph:
    """Everybody hears everybody."""
    return nx.complete_graph(n)


def torus(n: int, spec: GraphSpec) -> nx.Graph:
    """The squarest r x c grid with wraparound, r * c = n, r and c at least 3."""
    sides = [r for r in range(3, int(n**0.5) + 1) if n % r == 0]
    allowed = "r * c with r and c at least 3 for a torus (9, 12, 15, 16 ...); 2 x k wraps onto itself: take a ring"
    check(bool(sides), "clients", n, allowed)
    grid = nx.grid_2d_graph(sides[-1], n // sides[-1], periodic=True)
    return nx.convert_node_labels_to_integers(grid, ordering="sorted")


def hypercube(n: int, spec: GraphSpec) -> nx.Graph:
    """Clients whose binary numbers differ in one bit hear each other."""
    check(n & (n - 1) == 0, "clients", n, "a power of two for a hypercube (2, 4, 8, 16 ...)")
    cube, bits = nx.empty_graph(n), range(n.bit_length() - 1)
    cube.add_edges_from((i, i ^ 1 << bit) for i in range(n) for bit in bits)
    return cube


def exponential(n: int, spec: GraphSpec) -> nx.Graph:
    """Client i hears i + 2^k and i - 2^k modulo n, for every 2^k < n."""
    return nx.circulant_graph(n, [1 << k for k in range((n - 1).bit_length())])


def bipartite(n: int, spec: GraphSpec) -> nx.Graph:
    """Complete bipartite: the first n // 2 clients hear all the others, and the other way round."""
    return nx.complete_bipartite_graph(n // 2, n - n // 2)


def erdos_renyi(n: int, spec: GraphSpec) -> nx.Graph:
    """Each pair is an edge with the given probability; redrawn until connected."""
    p = spec.probability
    check(isinstance(p, Real) and 0 < p <= 1, "probability", p, "above 0 and at most 1")

    def draw(rng: np.random.Generator) -> nx.Graph:
        graph = nx.empty_graph(n)
        for first in range(0, n, rows := max(1, CELLS // n)):
            i, j = np.nonzero(rng.random((min(rows, n - first), n)) < spec.probability)
            graph.add_edges_from(np.stack([i + first, j], 1)[j > i + first].tolist())
        return graph

    what = f"Erdos-Renyi, p = {spec.probability:g}, seed {spec.seed}"
    cure = f"a larger probability (above log(n)/n = {np.log(n) / n:.2g})"
    return _redrawn(draw, n, spec.seed, what, cure)


def random_regular(n: int, spec: GraphSpec) -> nx.Graph:
    """A random graph where each client has `degree` neighbours; redrawn until connected."""
    degree = spec.degree
    whole = isinstance(degree, int | np.integer)
    allowed = f"a whole number from 1 to clients - 1 = {n - 1}"
    check(whole and 1 <= degree < n, "degree", degree, allowed)
    check(n * degree % 2 == 0, "degree", degree, f"even, since the number of clients, {n}, is odd")

    def draw(rng: np.random.Generator) -> nx.Graph:
        # Dense graphs as complements: pairing at random nearly never succeeds there.
        few = min(degree, n - 1 - degree)
        graph = nx.random_regular_graph(few, n, seed=int(rng.integers(2**31)))
        return graph if few == degree else nx.complement(graph)

    what = f"random {degree}-regular, seed {spec.seed}"
    return _redrawn(draw, n, spec.seed, what, "a larger degree")


def none(n: int, spec: GraphSpec) -> nx.Graph:
    """No edges, W = I: every client trains alone (the doctor calls it disconnected)."""
    return nx.empty_graph(n)


GRAPHS: dict[str, Callable[[int, GraphSpec], nx.Graph]] = {
    "ring": ring,
    "path": path,
    "star": star,
    "complete": complete,
    "torus": torus,
    "hypercube": hypercube,
    "exponential": exponential,
    "bipartite": bipartite,
    "erdos-renyi": erdos_renyi,
    "random-regular": random_regular,
    "none": none,
}


def _redrawn(
    draw: Callable[[np.random.Generator], nx.Graph], n: int, seed: int, what: str, cure: str
) -> nx.Graph:
    """Return the first connected draw, with what it was and how many draws it took in its note."""
    for k in range(1, DRAWS + 1):
        graph = draw(np.random.default_rng([seed, k]))
        if nx.is_connected(graph):
            graph.graph["note"] = f"{what}, connected at draw {k}"
            return graph
    none_is = f"none of {DRAWS} draws with {n} clients was connected"
    raise BadInput(f"{what}: {none_is}; try {cure} or another seed")


# ---- sequences: (clients, seed) -> matrices, repeated for ever


def one_peer_exponential(n: int, seed: int) -> tuple[csr_array, ...]:
    """At mixing k client i averages with i + 2^(k mod ceil(log2 n)): doubly stochastic, not symmetric.

    For n a power of two the product over a period is exactly J = 11'/n. Source: Ying et al., 2021.
    """
    steps = [1 << k for k in range(max(1, (n - 1).bit_length()))]
    return tuple(_averages((np.arange(n) + step) % n) for step in steps)


def random_matchings(n: int, seed: int) -> tuple[csr_array, ...]:
    """64 random matchings of the complete graph, in turn: each pair averages, an odd client is left alone."""
    rng = np.random.default_rng([seed, n])
    return tuple(_matching(rng.permutation(n)) for _ in range(PERIOD if n > 2 else 1))


SEQUENCES: dict[str, Callable[[int, int], tuple[Array | csr_array, ...]]] = {
    "one-peer-exponential": one_peer_exponential,
    "random-matchings": random_matchings,
}


def _matching(order: NDArray[np.int64]) -> csr_array:
    half, peer = len(order) // 2, np.arange(len(order))
    left, right = order[:half], order[half : 2 * half]
    peer[left], peer[right] = right, left
    return _averages(peer)


def _averages(peer: NDArray[np.int64]) -> csr_array:
    """Return the W of clients of whom each averages with its peer (N,), which may be itself."""
    n = len(peer)
    receivers = np.repeat(np.arange(n), 2)
    senders = np.stack([np.arange(n), peer], 1).ravel()
    return csr_array((np.full(2 * n, 0.5), (receivers, senders)), shape=(n, n))
