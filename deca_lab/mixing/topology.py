"""Who hears whom: a graph and a weight rule become the mixing matrix W (N, N), float64; X <- W X is one mixing.

w_ij is the share that client i takes of client j's model, so an edge j -> i of a directed graph is entry (i, j).
A topology is a periodic list of such matrices; a static one has a single entry.
"""

import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from numbers import Real
from pathlib import Path
from textwrap import shorten
from tokenize import TokenError
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from deca_lab.errors import BadInput, check, first_line, pick, quoted
from deca_lab.mixing.graphs import GRAPHS, PERIOD, SEQUENCES, GraphSpec
from deca_lab.mixing.matrix import DENSE, Matrix, by_edges, entries, held, links_of, numbers
from deca_lab.mixing.weights import WEIGHTS
from deca_lab.registry import load_plugins

SERVER = "server"  # no graph of clients: the reference that the papers do without
MEMORY = 2 * 2**30  # bytes that one topology may take
EDGE = 400  # bytes that networkx takes for an edge, and for a client
FILLED = {"complete": 1.0, "bipartite": 0.5, SERVER: 1.0}  # share of all pairs that are edges
HEADER = "mixing,receiver,sender,share"  # of the .csv of W by its edges


class Topology(NamedTuple):
    """A periodic list of mixing matrices: `name`, `matrices` each (N, N) float64, `note` in plain words.

    What `topology` returns holds NumPy arrays up to 256 clients (`matrix.DENSE`). Above that a W of
    which at most a quarter is not 0 is SciPy's csr_array: its edges alone, with the same numbers.
    """

    name: str
    matrices: tuple[Matrix, ...]
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

    def at(self, k: int) -> Matrix:
        """Return W (N, N) of mixing number k = 0, 1, 2 ... as it is held: `.toarray()` makes an array of a csr_array."""
        return self.matrices[k % len(self.matrices)]

    @property
    def links(self) -> NDArray[np.int64]:
        """Who hears whom at any mixing, (E, 2) integers in order: client i hears j; (i, i) is client i's with a server."""
        if self.served:
            return np.repeat(np.arange(self.n)[:, None], 2, 1)
        return links_of(ever_heard(self))

    def messages(self, k: int, links: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Return how many messages of mixing k go along each link (E,): one, or with a server one there and one back.

        `links` are the topology's own, where they are known already.
        """
        links = self.links if links is None else links
        if self.served:
            return np.full(len(links), 2)
        each = np.array([self.n, 1])  # (i, j) as the number i N + j
        return np.isin(links @ each, self.edges(k) @ each, assume_unique=True).astype(np.int64)

    def edges(self, k: int = 0) -> NDArray[np.int64]:
        """Return the messages of mixing k, (E, 2) integers: in a row (i, j) client i hears client j."""
        return links_of(self.at(k))


def ever_heard(given: Topology) -> Matrix:
    """Return (N, N) numbers that are not 0 where some mixing's W is not."""
    return sum(map(abs, given.matrices[1:]), start=abs(given.matrices[0]))


# ---- matrices from files


def read_matrices(paths: str | Path) -> tuple[Matrix, ...]:
    """Return the matrices of one .csv or .npy file, or of several files separated by commas, as they stand.

    Shapes and NaN are left for the doctor. A CSV has commas between its numbers, `#` lines are skipped and `1/3`
    is read as a fraction; an .npy of shape (P, N, N) is a list of P. A CSV that begins with the line HEADER has an edge
    a line. Raises BadInput with file and line.
    """
    several = [Path(part.strip()) for part in str(paths).split(",")]
    files = [Path(paths)] if os.path.isfile(paths) else several
    return tuple(W for file in files for W in _read(file))


UNREADABLE = (  # what numpy raises of files and their headers
    *(OSError, ValueError, EOFError, MemoryError, OverflowError, SyntaxError, TokenError),
)


def _read(file: Path) -> tuple[Matrix, ...]:
    suffix = file.suffix.lower()
    check(suffix in (".csv", ".npy"), "matrix", str(file), "a file that ends in .csv or .npy")
    try:
        if file.exists() and not file.is_file():  # a folder, or a pipe that would never end
            raise OSError("it is not an ordinary file")
        if suffix == ".csv":
            return matrices_of(file.read_text(encoding="utf-8-sig"), f"matrix file {str(file)!r}")
        with file.open("rb") as stream:
            return _stack(np.lib.format.read_array(stream, allow_pickle=False), str(file))
    except BadInput:
        raise
    except FileNotFoundError:
        raise BadInput(f"matrix file {str(file)!r} does not exist") from None
    except UNREADABLE as error:
        raise BadInput(f"matrix file {str(file)!r} cannot be read: {first_line(error)}") from None


def stacked(matrices: Sequence[Matrix]) -> np.ndarray | tuple[Matrix, ...]:
    """Return matrices as an array (P, N, N), or as they are where some are sparse."""
    return tuple(matrices) if any(map(issparse, matrices)) else np.stack(matrices)


def matrix_text(matrices: np.ndarray | Sequence[Matrix]) -> str:
    """Return matrices as CSV text that reads back to the bit: a line a row, or a line an edge where some are sparse."""
    if not any(map(issparse, matrices)):
        blocks = ("".join(",".join(map(repr, row)) + "\n" for row in W.tolist()) for W in matrices)
        return "\n".join(blocks)
    lines = [HEADER]
    for k, W in enumerate(matrices):
        edges = zip(*(part.tolist() for part in entries(W)), strict=True)
        lines += [f"{k},{i},{j},{w!r}" for i, j, w in edges]
    return "\n".join(lines) + "\n"


def matrices_of(text: str, what: str, clients: int | None = None) -> tuple[Matrix, ...]:
    """Return the matrices of a CSV text: of a line a row one, or those of so many clients, one under the other.

    Of a line an edge (HEADER), `clients` are as many as are named in them, unless given.
    """
    if not text.startswith(HEADER):
        rows = _of_rows(text, what)
        return (rows,) if clients is None else tuple(rows.reshape(-1, clients, clients))
    kinds = [(name, float if name == "share" else int) for name in HEADER.split(",")]
    edges = np.loadtxt(text.splitlines()[1:], kinds, delimiter=",", ndmin=1)
    turn, i, j, w = (edges[name] for name in HEADER.split(","))
    n, turns = clients or int(max(i.max(), j.max())) + 1, np.unique(turn)
    if not np.array_equal(turns, range(len(turns))) or n * 8 > MEMORY:
        raise BadInput(f"{what} must number its mixings 0, 1, 2 ..., and its clients likewise")
    each = (turn == k for k in turns)
    return tuple(held(csr_array((w[now], (i[now], j[now])), shape=(n, n))) for now in each)


def _of_rows(text: str, what: str) -> np.ndarray:
    lines = enumerate(text.splitlines(), 1)
    rows = {k: line.split(",") for k, line in lines if line.partition("#")[0].strip()}
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


def _stack(W: object, what: str) -> tuple[Matrix, ...]:
    """Return one array (N, N), dense or sparse, or a stack (P, N, N) as a tuple of float64 copies."""
    require_unmasked(W, what)
    try:
        array: Any = W if issparse(W) else np.asarray(W)
    except ValueError:
        raise BadInput(f"{what} has rows of different length: it must be N x N") from None
    if array.dtype.kind not in "fiub":
        raise BadInput(f"{what} holds {array.dtype}: a mixing matrix holds real numbers")
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise BadInput(
            f"{what} has shape {array.shape}: it must be N x N, or P x N x N for P matrices in turn"
        )
    parts = (M.astype(np.float64) for M in (array if array.ndim == 3 else [array]))
    return tuple(by_edges(M) if issparse(M) else M for M in parts)


def require_unmasked(W: object, what: str) -> None:
    """Raise BadInput for an array, or a list of arrays, with masked entries: NumPy would read what lies under the mask."""
    parts = W if isinstance(W, list | tuple) else [W]
    masked = any(map(np.ma.is_masked, parts))
    check(not masked, what, "an array with masked entries", "plain numbers, such as W.filled(0)")


# ---- from any source


def topology(
    source: "Topology | str | Path | nx.Graph | Matrix | Sequence[Matrix]",
    clients: int | None = None,
    *,
    weights: str = "metropolis",
    probability: float = 0.5,
    degree: int = 4,
    seed: int = 0,
) -> Topology:
    """Return the topology of a name (GRAPHS, SEQUENCES), a Topology, a graph, a matrix, a list of matrices, or .csv/.npy files.

    A matrix is an array, or one of SciPy's sparse ones. Above 256 clients W is held by its edges where they are few.
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
    name: str,
    clients: int | None,
    rule: Callable[[nx.Graph], Matrix],
    weights: str,
    spec: GraphSpec,
) -> Topology:
    load_plugins()
    pick({**GRAPHS, **SEQUENCES, SERVER: None}, name, "topology")
    if clients is None:
        raise BadInput(f"clients is missing: topology {name!r} needs to know how many there are")
    _fits(clients, _bytes_per_client(name, int(clients), spec))
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
    graph: nx.Graph, clients: int | None, rule: Callable[[nx.Graph], Matrix], weights: str
) -> Topology:
    n = len(graph)
    check(n >= 1, "graph", graph, "a graph with at least one node")
    check(clients in (None, n), "clients", clients, f"{n}, the number of nodes of the graph")
    _fits(n, 12 * (1 + 2 * graph.number_of_edges() / n))
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


def _ordered(graph: nx.Graph, nodes: list[Any]) -> nx.Graph:
    """Return the graph with these nodes in this order, named 0 .. N-1 unless they are in it already."""
    if list(graph) == nodes:
        return graph
    kind = nx.DiGraph if graph.is_directed() else nx.Graph
    ordered = nx.empty_graph(len(nodes), create_using=kind)
    index = {node: i for i, node in enumerate(nodes)}
    ordered.add_edges_from((index[u], index[v]) for u, v in graph.edges())
    return ordered


def _of_matrices(name: str, matrices: Sequence[Matrix], clients: int | None) -> Topology:
    n = matrices[0].shape[0]
    for k, W in enumerate(matrices):
        which = name if len(matrices) == 1 else f"{name}, number {k} of {len(matrices)}"
        if W.shape != (n, n):
            allowed = f"a mixing matrix must be square, and all of one size ({n} x {n})"
            raise BadInput(f"{which} has {W.shape[0]} rows and {W.shape[1]} columns: {allowed}")
        if wild := not_finite(W):
            i, j, value = wild
            where = f"in row {i}, column {j}"
            raise BadInput(f"{which} holds {value} {where}: every entry must be finite")
    check(clients in (None, n), "clients", clients, f"{n}, the size of {name}")
    note = "as given" if len(matrices) == 1 else f"{len(matrices)} matrices in turn"
    return Topology(name, tuple(map(held, matrices)), note)


def not_finite(W: Matrix) -> tuple[int, int, float] | None:
    """Return the first entry of W that is no finite number, (row, column, value)."""
    if np.isfinite(numbers(W)).all():
        return None
    i, j, w = entries(W)
    first = int(np.flatnonzero(~np.isfinite(w))[0])
    return int(i[first]), int(j[first]), float(w[first])


def _matrices(source: object, what: str) -> list[Matrix]:
    return [W for part in _listed(source) for W in _stack(part, what)]


def _listed(source: object) -> Sequence[object]:
    """Return the matrices of a list; a single array, or one written as a list of rows, is a list of one."""
    if isinstance(source, np.ndarray) or issparse(source):
        return [source]
    allowed = "a name, a networkx graph, an N x N array, a list of arrays or a .csv/.npy path"
    if not isinstance(source, list | tuple) or len(source) == 0:
        raise BadInput(f"topology = {quoted(source)} cannot be used: it must be {allowed}")
    try:
        rows = np.ndim(source[0]) < 2
    except ValueError:
        raise BadInput("matrix has rows of different length: it must be N x N") from None
    return [source] if rows else [*source]


def _bytes_per_client(name: str, n: int, spec: GraphSpec) -> float:
    """Return about how many bytes a client of a named graph or sequence takes, with what networkx holds meanwhile."""
    around = (n - 1).bit_length()  # as many as a sequence has matrices, or a sparse graph edges
    if name in SEQUENCES:
        return 24.0 * (PERIOD if name == "random-matchings" else around)
    asked = {"erdos-renyi": spec.probability, "random-regular": spec.degree}.get(name, 0)
    drawn = asked if isinstance(asked, Real) else 0  # the graph itself refuses it
    edges = (drawn if name == "random-regular" else max(drawn, FILLED.get(name, 0)) * n) / 2
    return EDGE * (1 + max(around, edges))


def _fits(n: int, each: float) -> None:
    """Refuse what would not fit in memory: so many bytes a client, or those of a dense matrix where they are fewer."""
    size = int(n) * min(int(n) * 8, each) if n > DENSE else 0
    gib = min(size, 2**90) / 2**30  # a whole number may be larger than any float
    check(size <= MEMORY, "clients", n, f"fewer: so many take {gib:.1f} GiB, and 2 are allowed")
