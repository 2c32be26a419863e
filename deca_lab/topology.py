"""Who hears whom: a graph and a weight rule become the mixing matrix W (N, N), float64; X <- W X is one mixing.

w_ij is the share that client i takes of client j's model, so an edge j -> i of a directed graph is entry (i, j).
A topology is a periodic list of such matrices; a static one has a single entry.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import networkx as nx
import numpy as np

from deca_lab.errors import BadInput, check, pick

DRAWS = 200  # a random graph is redrawn at most this often
PERIOD = 64  # matchings drawn once, then repeated
MEMORY = 2 * 2**30  # bytes that the dense matrices of one topology may take


class Topology(NamedTuple):
    """A periodic list of mixing matrices: `name`, `matrices` each (N, N) float64, `note` in plain words."""

    name: str
    matrices: tuple[np.ndarray, ...]
    note: str = ""

    @property
    def n(self) -> int:
        """Number of clients N."""
        return int(self.matrices[0].shape[0])

    @property
    def period(self) -> int:
        """Number of matrices before the list repeats; 1 for a static topology."""
        return len(self.matrices)

    def at(self, k: int) -> np.ndarray:
        """Return W (N, N) of mixing number k = 0, 1, 2 ..."""
        return self.matrices[k % len(self.matrices)]

    def edges(self, k: int = 0) -> np.ndarray:
        """Return the messages of mixing k, (E, 2) integers: in a row (i, j) client i hears client j."""
        W = self.at(k)
        return np.argwhere((W != 0) & ~np.eye(self.n, dtype=bool))


class Knobs(NamedTuple):
    """What the random graphs read: edge `probability`, `degree` of a regular graph, `seed`."""

    probability: float = 0.5
    degree: int = 4
    seed: int = 0


# ---- graphs: (clients, knobs) -> nx.Graph on 0 .. N-1; a random one says in graph.graph["note"] what was drawn


def ring(n: int, knobs: Knobs) -> nx.Graph:
    """Client i hears i - 1 and i + 1; two clients share one edge."""
    return nx.cycle_graph(n)


def path(n: int, knobs: Knobs) -> nx.Graph:
    """A ring with one edge cut."""
    return nx.path_graph(n)


def star(n: int, knobs: Knobs) -> nx.Graph:
    """Client 0 is the hub."""
    return nx.star_graph(n - 1)


def complete(n: int, knobs: Knobs) -> nx.Graph:
    """Everybody hears everybody."""
    return nx.complete_graph(n)


def torus(n: int, knobs: Knobs) -> nx.Graph:
    """The squarest r x c grid with wraparound, r * c = n, r and c at least 3."""
    sides = [r for r in range(3, int(n**0.5) + 1) if n % r == 0]
    allowed = "r * c with r and c at least 3 for a torus (9, 12, 15, 16 ...); 2 x k wraps onto itself: take a ring"
    check(bool(sides), "clients", n, allowed)
    grid = nx.grid_2d_graph(sides[-1], n // sides[-1], periodic=True)
    return nx.convert_node_labels_to_integers(grid, ordering="sorted")


def hypercube(n: int, knobs: Knobs) -> nx.Graph:
    """Clients whose binary numbers differ in one bit hear each other."""
    check(n & (n - 1) == 0, "clients", n, "a power of two for a hypercube (2, 4, 8, 16 ...)")
    return _linked(n, ((i, i ^ (1 << k)) for i in range(n) for k in range(n.bit_length() - 1)))


def exponential(n: int, knobs: Knobs) -> nx.Graph:
    """Client i hears i + 2^k and i - 2^k modulo n, for every 2^k < n."""
    return _linked(n, ((i, (i + (1 << k)) % n) for i in range(n) for k in range((n - 1).bit_length())))


def bipartite(n: int, knobs: Knobs) -> nx.Graph:
    """Complete bipartite: the first n // 2 clients hear all the others, and the other way round."""
    return nx.complete_bipartite_graph(n // 2, n - n // 2)


def erdos_renyi(n: int, knobs: Knobs) -> nx.Graph:
    """Each pair is an edge with the given probability; redrawn until connected."""
    check(0 < knobs.probability <= 1, "probability", knobs.probability, "above 0 and at most 1")

    def draw(rng: np.random.Generator) -> nx.Graph:
        return nx.from_numpy_array(np.triu(rng.random((n, n)) < knobs.probability, 1))

    what = f"Erdos-Renyi, p = {knobs.probability:g}, seed {knobs.seed}"
    return _redrawn(draw, n, knobs.seed, what, f"a larger probability (above log(n)/n = {np.log(n) / n:.2g})")


def random_regular(n: int, knobs: Knobs) -> nx.Graph:
    """A random graph where each client has `degree` neighbours; redrawn until connected."""
    degree = knobs.degree
    whole = isinstance(degree, int | np.integer)
    check(whole and 1 <= degree < n, "degree", degree, f"a whole number from 1 to clients - 1 = {n - 1}")
    check(n * degree % 2 == 0, "degree", degree, f"even, since the number of clients, {n}, is odd")

    def draw(rng: np.random.Generator) -> nx.Graph:
        return nx.random_regular_graph(degree, n, seed=int(rng.integers(2**31)))

    return _redrawn(draw, n, knobs.seed, f"random {degree}-regular, seed {knobs.seed}", "a larger degree")


def none(n: int, knobs: Knobs) -> nx.Graph:
    """No edges, W = I: every client trains alone (the doctor calls it disconnected)."""
    return nx.empty_graph(n)


GRAPHS: dict[str, Callable[[int, Knobs], nx.Graph]] = {
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


def _linked(n: int, pairs: Iterable[tuple[int, int]]) -> nx.Graph:
    graph = nx.empty_graph(n)
    graph.add_edges_from(pairs)
    return graph


def _redrawn(draw: Callable[[np.random.Generator], nx.Graph], n: int, seed: int, what: str, cure: str) -> nx.Graph:
    """Return the first connected draw, with what it was and how many draws it took in its note."""
    for k in range(1, DRAWS + 1):
        graph = draw(np.random.default_rng([seed, k]))
        if nx.is_connected(graph):
            graph.graph["note"] = f"{what}, connected at draw {k}"
            return graph
    raise BadInput(f"{what}: none of {DRAWS} draws with {n} clients was connected; try {cure} or another seed")


# ---- weight rules: nx.Graph -> W (N, N); rows sum to 1, and columns too where the graph is undirected


def metropolis(graph: nx.Graph) -> np.ndarray:
    """Return Metropolis-Hastings weights: 1 / (1 + max(d_i, d_j)) on an edge, the rest on the diagonal."""
    heard = _heard(graph)
    d = heard.sum(1)  # (N,) how many each client hears
    return _filled(heard / (1 + np.maximum.outer(d, d)))


def max_degree(graph: nx.Graph) -> np.ndarray:
    """Return 1 / d_max on an edge, the rest on the diagonal; periodic on a regular bipartite graph (an even ring)."""
    heard = _heard(graph)
    return _filled(heard / max(1, heard.sum(1).max()))


def lazy(graph: nx.Graph) -> np.ndarray:
    """Return (I + Metropolis) / 2: aperiodic on every graph, all eigenvalues non-negative."""
    return (np.eye(len(graph)) + metropolis(graph)) / 2


def laplacian(graph: nx.Graph) -> np.ndarray:
    """Return I - 2 Lap / (3 lambda_max(Lap)), the rule of Dec-LoRA; undirected graphs only."""
    heard = _heard(_undirected(graph, "laplacian"))
    lap = np.diag(heard.sum(1)) - heard
    top = np.linalg.eigvalsh(lap)[-1]
    return _filled(heard * (2 / (3 * top))) if heard.any() else np.eye(len(graph))


def fastest(graph: nx.Graph) -> np.ndarray:
    """Return the symmetric W on these edges with the smallest rho, by semidefinite program (needs cvxpy).

    Source: Xiao and Boyd, Fast linear iterations for distributed averaging, 2004. Entries may be negative.
    """
    heard = _heard(_undirected(graph, "fastest"))
    n, pairs = len(graph), np.argwhere(np.triu(heard))
    check(n <= 64, "clients", n, "at most 64 with weights 'fastest' (a semidefinite program)")
    if len(pairs) == 0:
        return np.eye(n)
    W = np.zeros((n, n))
    W[pairs[:, 0], pairs[:, 1]] = _fastest_shares(n, pairs)
    W = _filled(W + W.T)  # exactly symmetric, sums 1 to rounding, zero off the edges
    best, plain = (np.linalg.norm(M - 1 / n, 2) for M in (W, metropolis(graph)))
    if not best <= plain + 1e-4:
        raise BadInput(f"weights 'fastest': the solver's rho {best:.6g} is above Metropolis's {plain:.6g}; use those")
    return W


WEIGHTS: dict[str, Callable[[nx.Graph], np.ndarray]] = {
    "metropolis": metropolis,
    "max-degree": max_degree,
    "lazy": lazy,
    "laplacian": laplacian,
    "fastest": fastest,
}


def _heard(graph: nx.Graph) -> np.ndarray:
    """Return (N, N) of 0.0 and 1.0: entry (i, j) is 1 where client i hears client j; self-loops do not count."""
    heard = (nx.to_numpy_array(graph, weight=None).T > 0).astype(np.float64)
    np.fill_diagonal(heard, 0)
    return heard


def _filled(W: np.ndarray) -> np.ndarray:
    """Return W with the diagonal that makes each row sum to 1."""
    off = W - np.diag(np.diag(W))
    return off + np.diag(1 - off.sum(1))


def _undirected(graph: nx.Graph, rule: str) -> nx.Graph:
    if graph.is_directed():
        raise BadInput(f"weights = {rule!r} needs an undirected graph; 'metropolis' takes a directed one")
    return graph


def _fastest_shares(n: int, pairs: np.ndarray) -> np.ndarray:
    """Solve min s with -sI <= W - J <= sI over the edge shares (E,), W = I - B diag(shares) B^T."""
    try:
        import cvxpy as cp
    except ImportError:
        raise BadInput("weights = 'fastest' needs cvxpy, which is not installed: pip install cvxpy") from None
    B = np.zeros((n, len(pairs)))  # incidence: +1 and -1 in each column
    B[pairs[:, 0], range(len(pairs))], B[pairs[:, 1], range(len(pairs))] = 1, -1
    shares, s = cp.Variable(len(pairs)), cp.Variable()
    gap = np.eye(n) - 1 / n - B @ cp.diag(shares) @ B.T
    problem = cp.Problem(cp.Minimize(s), [gap << s * np.eye(n), gap >> -s * np.eye(n)])
    fine = n <= 32 and "CLARABEL" in cp.installed_solvers()  # to 1e-8, but slow; else SCS, to 1e-5
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "may be inaccurate": the caller measures rho itself
            problem.solve(solver="CLARABEL" if fine else None)
    except cp.error.SolverError as error:
        raise BadInput(f"weights = 'fastest': the solver failed ({error}); use 'metropolis'") from None
    if shares.value is None:
        raise BadInput(f"weights = 'fastest': the solver ended {problem.status!r}; use 'metropolis'")
    return np.asarray(shares.value)


# ---- sequences: (clients, seed) -> matrices, repeated for ever


def one_peer_exponential(n: int, seed: int) -> tuple[np.ndarray, ...]:
    """At mixing k client i averages with i + 2^(k mod ceil(log2 n)): doubly stochastic, not symmetric.

    For n a power of two the product over a period is exactly J = 11'/n. Source: Ying et al., 2021.
    """
    eye = np.eye(n)
    return tuple((eye + np.roll(eye, 1 << k, axis=1)) / 2 for k in range(max(1, (n - 1).bit_length())))


def random_matchings(n: int, seed: int) -> tuple[np.ndarray, ...]:
    """Return 64 random matchings of the complete graph: each pair averages, an odd client is left alone."""
    rng = np.random.default_rng([seed, n])
    return tuple(_matching(rng.permutation(n)) for _ in range(PERIOD if n > 2 else 1))


SEQUENCES: dict[str, Callable[[int, int], tuple[np.ndarray, ...]]] = {
    "one-peer-exponential": one_peer_exponential,
    "random-matchings": random_matchings,
}


def _matching(order: np.ndarray) -> np.ndarray:
    half = len(order) // 2
    left, right = order[:half], order[half : 2 * half]
    W = np.eye(len(order))
    for i, j in ((left, left), (left, right), (right, left), (right, right)):
        W[i, j] = 0.5
    return W


# ---- matrices from files


def read_matrices(paths: str | Path) -> tuple[np.ndarray, ...]:
    """Return the matrices of one .csv or .npy file, or of several files separated by commas, as they stand.

    Shapes and NaN are left for the doctor. A CSV has commas between its numbers, `#` lines are skipped and `1/3`
    is read as a fraction; an .npy of shape (P, N, N) is a list of P. Raises BadInput with file and line.
    """
    whole = Path(paths)
    files = [whole] if whole.is_file() else [Path(part.strip()) for part in str(paths).split(",")]
    return tuple(W for file in files for W in _read(file))


def _read(file: Path) -> tuple[np.ndarray, ...]:
    suffix = file.suffix.lower()
    check(suffix in (".csv", ".npy"), "matrix", str(file), "a file that ends in .csv or .npy")
    try:
        if suffix == ".csv":
            return (_read_csv(file),)
        with file.open("rb") as stream:
            return _stack(np.lib.format.read_array(stream, allow_pickle=False), str(file))
    except BadInput:
        raise
    except FileNotFoundError:
        raise BadInput(f"matrix file {str(file)!r} does not exist") from None
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise BadInput(f"matrix file {str(file)!r} cannot be read: {error}") from None


def _read_csv(file: Path) -> np.ndarray:
    lines = enumerate(file.read_text(encoding="utf-8-sig").splitlines(), 1)
    rows = [(k, line.split(",")) for k, line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not rows:
        raise BadInput(f"matrix file {str(file)!r} is empty: it must hold one line of numbers for each client")
    first, width = rows[0][0], len(rows[0][1])
    for k, cells in rows:
        if len(cells) != width:
            raise BadInput(f"matrix file {str(file)!r}: line {k} has {len(cells)} numbers, line {first} has {width}")
    return np.array([[_number(cell, file, k) for cell in cells] for k, cells in rows])


def _number(cell: str, file: Path, line: int) -> float:
    try:
        return float(cell) if "/" not in cell else float(Fraction(cell.replace(" ", "")))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise BadInput(f"matrix file {str(file)!r}: line {line} holds {cell.strip()!r}, not a number") from None


def _stack(W: object, what: str) -> tuple[np.ndarray, ...]:
    """Return one array (N, N) or a stack (P, N, N) as a tuple of float64 copies."""
    try:
        array = np.asarray(W)
    except ValueError:
        raise BadInput(f"{what} has rows of different length: it must be N x N") from None
    if array.dtype.kind not in "fiub":
        raise BadInput(f"{what} holds {array.dtype}: a mixing matrix holds real numbers")
    if array.ndim not in (2, 3) or array.size == 0:
        raise BadInput(f"{what} has shape {array.shape}: it must be N x N, or P x N x N for P matrices in turn")
    return tuple(M.astype(np.float64) for M in (array if array.ndim == 3 else array[None]))


# ---- the door


def topology(
    source: "str | Path | nx.Graph | np.ndarray | Sequence[np.ndarray]",
    clients: int | None = None,
    *,
    weights: str = "metropolis",
    probability: float = 0.5,
    degree: int = 4,
    seed: int = 0,
) -> Topology:
    """Return the topology of a name (GRAPHS, SEQUENCES), a graph, a matrix, a list of matrices, or .csv/.npy files.

    `weights` (WEIGHTS) turns a graph into W; sequences and matrices bring their own. A graph's nodes become clients
    in sorted order, or in order of insertion where they do not compare; edge weights and self-loops are not read.
    `clients` may be left out where the source has a size. Whether W is sound is for the doctor. Raises BadInput.
    """
    if clients is not None:
        check(isinstance(clients, int | np.integer) and clients >= 1, "clients", clients, "a whole number from 1 up")
    check(isinstance(seed, int | np.integer) and seed >= 0, "seed", seed, "a whole number from 0 up")
    rule = pick(WEIGHTS, weights, "weights")
    if isinstance(source, nx.Graph):
        return _of_graph(source, clients, rule, weights)
    if not isinstance(source, str | Path):
        return _of_matrices("matrix", [M for W in _listed(source) for M in _stack(W, "matrix")], clients)
    if isinstance(source, Path) or (source not in GRAPHS and any(mark in source for mark in "./\\,")):
        return _of_matrices(str(source), read_matrices(source), clients)
    return _of_name(source, clients, rule, weights, Knobs(probability, degree, int(seed)))


def _of_name(
    name: str, clients: int | None, rule: Callable[[nx.Graph], np.ndarray], weights: str, knobs: Knobs
) -> Topology:
    pick({**GRAPHS, **SEQUENCES}, name, "topology")
    if clients is None:
        raise BadInput(f"clients is missing: topology {name!r} needs to know how many there are")
    _fits(clients, PERIOD if name == "random-matchings" else 1)
    if name in SEQUENCES:
        matrices = SEQUENCES[name](int(clients), knobs.seed)
        return Topology(name, matrices, f"period {len(matrices)}, pairs average half and half")
    # one client has no neighbours, whatever the shape
    graph = nx.empty_graph(1) if clients == 1 else GRAPHS[name](int(clients), knobs)
    return _of_graph(graph, clients, rule, weights)._replace(name=name)


def _of_graph(graph: nx.Graph, clients: int | None, rule: Callable[[nx.Graph], np.ndarray], weights: str) -> Topology:
    n = len(graph)
    check(n >= 1, "graph", graph, "a graph with at least one node")
    check(clients in (None, n), "clients", clients, f"{n}, the number of nodes of the graph")
    _fits(n, 1)
    note = f"{graph.graph.get('note', '')}, {weights} weights".lstrip(", ")
    return Topology(str(graph.name) or "graph", (rule(_ordered(graph)),), note)


def _ordered(graph: nx.Graph) -> nx.Graph:
    """Return the graph with its nodes named 0 .. N-1, in sorted order where they compare, else as inserted."""
    try:
        nodes = sorted(graph)
    except TypeError:
        nodes = list(graph)
    ordered = nx.empty_graph(len(nodes), create_using=nx.DiGraph if graph.is_directed() else nx.Graph)
    index = {node: i for i, node in enumerate(nodes)}
    ordered.add_edges_from((index[u], index[v]) for u, v in graph.edges())
    return ordered


def _of_matrices(name: str, matrices: Sequence[np.ndarray], clients: int | None) -> Topology:
    n = matrices[0].shape[0]
    for k, W in enumerate(matrices):
        which = name if len(matrices) == 1 else f"{name}, number {k} of {len(matrices)}"
        if W.shape != (n, n):
            allowed = f"a mixing matrix must be square, and all of one size ({n} x {n})"
            raise BadInput(f"{which} has {W.shape[0]} rows and {W.shape[1]} columns: {allowed}")
        for i, j in np.argwhere(~np.isfinite(W))[:1]:
            raise BadInput(f"{which} holds {W[i, j]} in row {i}, column {j}: every entry must be finite")
    check(clients in (None, n), "clients", clients, f"{n}, the size of {name}")
    return Topology(name, tuple(matrices), "as given" if len(matrices) == 1 else f"{len(matrices)} matrices in turn")


def _listed(source: object) -> Sequence[object]:
    """Return the matrices of a list; a single array, or one written as a list of rows, is a list of one."""
    if isinstance(source, np.ndarray):
        return [source]
    allowed = "a name, a networkx graph, an N x N array, a list of arrays or a .csv/.npy path"
    check(isinstance(source, list | tuple) and len(source) > 0, "topology", source, allowed)
    rows = isinstance(source, list | tuple) and not isinstance(source[0], np.ndarray) and np.ndim(source[0]) < 2
    return [source] if rows else source  # type: ignore[return-value]


def _fits(n: int, period: int) -> None:
    """Refuse what would not fit in memory as dense matrices."""
    size = period * n * n * 8
    allowed = f"fewer: {period} dense matrices of that size take {size / 2**30:.1f} GiB, and 2 are allowed"
    check(size <= MEMORY, "clients", n, allowed)
