"""Who hears whom: a graph and a weight rule become the mixing matrix W (N, N), float64; X <- W X is one mixing.

w_ij is the share that client i takes of client j's model, so an edge j -> i of a directed graph is entry (i, j).
A topology is a periodic list of such matrices; a static one has a single entry.
"""

import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from textwrap import shorten
from tokenize import TokenError
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from deca_lab.errors import BadInput, check, first_line, pick, quoted
from deca_lab.mixing.graphs import GRAPHS, PERIOD, SEQUENCES, Array, GraphSpec
from deca_lab.mixing.weights import WEIGHTS
from deca_lab.registry import load_plugins

SERVER = "server"  # no graph of clients: the reference that the papers do without
MEMORY = 2 * 2**30  # bytes that the dense matrices of one topology may take


class Topology(NamedTuple):
    """A periodic list of mixing matrices: `name`, `matrices` each (N, N) float64, `note` in plain words."""

    name: str
    matrices: tuple[Array, ...]
    note: str = ""
    served: bool = False  # by a server: a client sends to it, and hears from it alone

    @property
    def n(self) -> int:
        """Number of clients N."""
        return int(self.matrices[0].shape[0])

    @property
    def period(self) -> int:
        """Number of matrices before the list repeats; 1 for a static topology."""
        return len(self.matrices)

    def at(self, k: int) -> Array:
        """Return W (N, N) of mixing number k = 0, 1, 2 ..."""
        return self.matrices[k % len(self.matrices)]

    @property
    def links(self) -> NDArray[np.int64]:
        """Who hears whom at any mixing, (E, 2) integers in order: client i hears j; (i, i) is client i's with a server."""
        if self.served:
            return np.repeat(np.arange(self.n)[:, None], 2, 1)
        ever = np.any([W != 0 for W in self.matrices], axis=0)
        np.fill_diagonal(ever, 0)
        return np.argwhere(ever)

    def messages(self, k: int, links: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Return how many messages of mixing k go along each link (E,): one, or with a server one there and one back.

        `links` are the topology's own, where they are known already.
        """
        links = self.links if links is None else links
        if self.served:
            return np.full(len(links), 2)
        shares: Array = self.at(k)[links[:, 0], links[:, 1]]
        return np.asarray(shares != 0, dtype=np.int64)

    def edges(self, k: int = 0) -> NDArray[np.int64]:
        """Return the messages of mixing k, (E, 2) integers: in a row (i, j) client i hears client j."""
        W = self.at(k)
        return np.argwhere((W != 0) & ~np.eye(self.n, dtype=bool))


# ---- matrices from files


def read_matrices(paths: str | Path) -> tuple[Array, ...]:
    """Return the matrices of one .csv or .npy file, or of several files separated by commas, as they stand.

    Shapes and NaN are left for the doctor. A CSV has commas between its numbers, `#` lines are skipped and `1/3`
    is read as a fraction; an .npy of shape (P, N, N) is a list of P. Raises BadInput with file and line.
    """
    several = [Path(part.strip()) for part in str(paths).split(",")]
    files = [Path(paths)] if os.path.isfile(paths) else several
    return tuple(W for file in files for W in _read(file))


UNREADABLE = (  # what numpy raises of files and their headers
    *(OSError, ValueError, EOFError, MemoryError, OverflowError, SyntaxError, TokenError),
)


def _read(file: Path) -> tuple[Array, ...]:
    suffix = file.suffix.lower()
    check(suffix in (".csv", ".npy"), "matrix", str(file), "a file that ends in .csv or .npy")
    try:
        if file.exists() and not file.is_file():  # a folder, or a pipe that would never end
            raise OSError("it is not an ordinary file")
        if suffix == ".csv":
            return (_read_csv(file),)
        with file.open("rb") as stream:
            return _stack(np.lib.format.read_array(stream, allow_pickle=False), str(file))
    except BadInput:
        raise
    except FileNotFoundError:
        raise BadInput(f"matrix file {str(file)!r} does not exist") from None
    except UNREADABLE as error:
        raise BadInput(f"matrix file {str(file)!r} cannot be read: {first_line(error)}") from None


def _read_csv(file: Path) -> Array:
    lines = enumerate(file.read_text(encoding="utf-8-sig").splitlines(), 1)
    rows = {k: line.split(",") for k, line in lines if line.partition("#")[0].strip()}
    what = f"matrix file {str(file)!r}"
    if not rows:
        raise BadInput(f"{what} is empty: it must hold one line of numbers for each client")
    first, width = next((k, len(cells)) for k, cells in rows.items())
    for k, cells in rows.items():
        if len(cells) != width:
            both = f"line {k} has {len(cells)} numbers, line {first} has {width}"
            raise BadInput(f"{what}: {both}")
    return np.array([[_number(cell, what, k) for cell in cells] for k, cells in rows.items()])


def _number(cell: str, what: str, line: int) -> float:
    try:
        return float(cell) if "/" not in cell else float(Fraction(cell.replace(" ", "")))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise BadInput(f"{what}: line {line} holds {cell.strip()!r}, not a number") from None


def _stack(W: object, what: str) -> tuple[Array, ...]:
    """Return one array (N, N) or a stack (P, N, N) as a tuple of float64 copies."""
    require_unmasked(W, what)
    try:
        array = np.asarray(W)
    except ValueError:
        raise BadInput(f"{what} has rows of different length: it must be N x N") from None
    if array.dtype.kind not in "fiub":
        raise BadInput(f"{what} holds {array.dtype}: a mixing matrix holds real numbers")
    if array.ndim not in (2, 3) or array.size == 0:
        raise BadInput(
            f"{what} has shape {array.shape}: it must be N x N, or P x N x N for P matrices in turn"
        )
    return tuple(M.astype(np.float64) for M in (array if array.ndim == 3 else array[None]))


def require_unmasked(W: object, what: str) -> None:
    """Raise BadInput for an array, or a list of arrays, with masked entries: NumPy would read what lies under the mask."""
    parts = W if isinstance(W, list | tuple) else [W]
    masked = any(map(np.ma.is_masked, parts))
    check(not masked, what, "an array with masked entries", "plain numbers, such as W.filled(0)")


# ---- from any source


def topology(
    source: "Topology | str | Path | nx.Graph | Array | Sequence[Array]",
    clients: int | None = None,
    *,
    weights: str = "metropolis",
    probability: float = 0.5,
    degree: int = 4,
    seed: int = 0,
) -> Topology:
    """Return the topology of a name (GRAPHS, SEQUENCES), a Topology, a graph, a matrix, a list of matrices, or .csv/.npy files.

    `weights` (WEIGHTS) turns a graph into W; sequences and matrices bring their own. A graph's nodes become clients
    in sorted order, or in order of insertion where they do not compare; edge weights and self-loops are not read.
    `clients` may be left out where the source has a size. Whether W is sound is for the doctor. Raises BadInput.
    """
    if clients is not None:
        allowed = "a whole number from 1 up"
        check(isinstance(clients, int | np.integer) and clients >= 1, "clients", clients, allowed)
    sown = isinstance(seed, int | np.integer) and seed >= 0
    check(sown, "seed", seed, "a whole number from 0 up")
    rule = pick(WEIGHTS, weights, "weights")
    if isinstance(source, Topology):
        return _of_topology(source, clients)
    if isinstance(source, nx.Graph):
        return _of_graph(source, clients, rule, weights)
    if not isinstance(source, str | Path):
        return _of_matrices("matrix", _matrices(source, "matrix"), clients)
    if isinstance(source, Path) or (source not in GRAPHS and set(source) & set("./\\,")):
        return _of_matrices(str(source), read_matrices(source), clients)
    return _of_name(source, clients, rule, weights, GraphSpec(probability, degree, int(seed)))


def _of_topology(given: Topology, clients: int | None) -> Topology:
    """Return a Topology, whoever wrote it, with matrices as all others have them."""
    matrices = (
        _matrices(list(given.matrices), f"topology {given.name!r}") if len(given.matrices) else []
    )
    check(bool(matrices), f"matrices of topology {given.name!r}", given.matrices, "one or more")
    sound = _of_matrices(f"topology {given.name!r}", matrices, clients)
    mean = not given.served or all(np.allclose(W, 1 / sound.n, rtol=0, atol=1e-9) for W in matrices)
    check(mean, "served", True, "left out: a server gives every client the mean of all, 1 / N each")
    return given._replace(matrices=sound.matrices)


def _of_name(
    name: str, clients: int | None, rule: Callable[[nx.Graph], Array], weights: str, spec: GraphSpec
) -> Topology:
    load_plugins()
    pick({**GRAPHS, **SEQUENCES, SERVER: None}, name, "topology")
    if clients is None:
        raise BadInput(f"clients is missing: topology {name!r} needs to know how many there are")
    _fits(clients, PERIOD if name == "random-matchings" else 1)
    if name == SERVER:
        mean = np.full((clients, clients), 1 / clients)
        return Topology(name, (mean,), "a server averages all clients", served=True)
    if name in SEQUENCES:
        drawn = SEQUENCES[name](int(clients), spec.seed)
        given = _of_matrices(name, _matrices(drawn, name), clients)
        return given._replace(note=f"period {given.period}")
    # one client has no neighbours in any graph
    graph = nx.empty_graph(1) if clients == 1 else GRAPHS[name](int(clients), spec)
    check(isinstance(graph, nx.Graph), f"what topology {name!r} returns", graph, "a networkx graph")
    return _of_graph(graph, clients, rule, weights)._replace(name=name)


def _of_graph(
    graph: nx.Graph, clients: int | None, rule: Callable[[nx.Graph], Array], weights: str
) -> Topology:
    n = len(graph)
    check(n >= 1, "graph", graph, "a graph with at least one node")
    check(clients in (None, n), "clients", clients, f"{n}, the number of nodes of the graph")
    _fits(n, 1)
    nodes = _in_order(graph)
    drawn = f"{graph.graph.get('note', '')}, {weights} weights".lstrip(", ")
    note = "; ".join([drawn, *_unread(graph), *_renamed(nodes)])
    return Topology(str(graph.name) or "graph", (rule(_ordered(graph, nodes)),), note)


def _unread(graph: nx.Graph) -> list[str]:
    """Return notes on what a graph says and no weight rule reads."""
    weights = [data["weight"] for *_, data in graph.edges(data=True) if "weight" in data]
    seen = {
        "edge weights": any(np.any(np.asarray(weight, dtype=object) != 1) for weight in weights),
        "self-loops": nx.number_of_selfloops(graph) > 0,
        "parallel edges": graph.is_multigraph() and graph.size() > nx.Graph(graph).size(),
    }
    return [f"the graph's {what} are not read" for what, there in seen.items() if there]


def _renamed(nodes: Sequence[object]) -> list[str]:
    """Return a note that says which node is which client, where a node's name is not its client's number."""
    if all(isinstance(node, int | np.integer) and node == i for i, node in enumerate(nodes)):
        return []
    pairs = ", ".join(f"{i} is {quoted(node)}" for i, node in enumerate(nodes))
    return [f"clients are the graph's nodes: {shorten(pairs, 200, placeholder=' ...')}"]


def _in_order(graph: nx.Graph) -> list[Any]:
    """Return the nodes in sorted order where they compare, else as inserted."""
    try:
        return sorted(graph)
    except TypeError:
        return list(graph)


def _ordered(graph: nx.Graph, nodes: Sequence[Any]) -> nx.Graph:
    """Return the graph with these nodes, in this order, named 0 .. N-1."""
    kind = nx.DiGraph if graph.is_directed() else nx.Graph
    ordered = nx.empty_graph(len(nodes), create_using=kind)
    index = {node: i for i, node in enumerate(nodes)}
    ordered.add_edges_from((index[u], index[v]) for u, v in graph.edges())
    return ordered


def _of_matrices(name: str, matrices: Sequence[Array], clients: int | None) -> Topology:
    n = matrices[0].shape[0]
    for k, W in enumerate(matrices):
        which = name if len(matrices) == 1 else f"{name}, number {k} of {len(matrices)}"
        if W.shape != (n, n):
            allowed = f"a mixing matrix must be square, and all of one size ({n} x {n})"
            raise BadInput(f"{which} has {W.shape[0]} rows and {W.shape[1]} columns: {allowed}")
        for i, j in np.argwhere(~np.isfinite(W))[:1]:
            where = f"in row {i}, column {j}"
            raise BadInput(f"{which} holds {W[i, j]} {where}: every entry must be finite")
    check(clients in (None, n), "clients", clients, f"{n}, the size of {name}")
    note = "as given" if len(matrices) == 1 else f"{len(matrices)} matrices in turn"
    return Topology(name, tuple(matrices), note)


def _matrices(source: object, what: str) -> list[np.ndarray]:
    return [W for part in _listed(source) for W in _stack(part, what)]


def _listed(source: object) -> Sequence[object]:
    """Return the matrices of a list; a single array, or one written as a list of rows, is a list of one."""
    if isinstance(source, np.ndarray):
        return [source]
    allowed = "a name, a networkx graph, an N x N array, a list of arrays or a .csv/.npy path"
    if not isinstance(source, list | tuple) or len(source) == 0:
        raise BadInput(f"topology = {quoted(source)} cannot be used: it must be {allowed}")
    try:
        rows = np.ndim(source[0]) < 2
    except ValueError:
        raise BadInput("matrix has rows of different length: it must be N x N") from None
    return [source] if rows else [*source]


def _fits(n: int, period: int) -> None:
    """Refuse what would not fit in memory as dense matrices."""
    size = period * int(n) ** 2 * 8
    gib = min(size, 2**90) / 2**30  # a whole number may be larger than any float
    allowed = f"fewer: {period} dense matrices of that size take {gib:.1f} GiB, and 2 are allowed"
    check(size <= MEMORY, "clients", n, allowed)
