"""Weight rules: nx.Graph -> W (N, N) float64; rows sum to 1, and columns too where the graph is undirected."""

import warnings
from collections.abc import Callable
from functools import partial

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array, eye_array

from deca_lab.errors import BadInput, check
from deca_lab.mixing.graphs import CELLS, Array
from deca_lab.mixing.matrix import Matrix, dense, entries, held

ROWS = 2**14  # clients up to which sums are those of a dense W, which above takes more than 2 GiB
EXACT = 1024  # clients up to which lambda_max comes from a dense decomposition (0.1 s)


def metropolis(graph: nx.Graph) -> Matrix:
    """Metropolis-Hastings weights: 1 / (1 + max(d_i, d_j)) on an edge, the rest on the diagonal."""
    return held(_metropolis(graph))


def _metropolis(graph: nx.Graph) -> csr_array:
    heard = _heard(graph)
    i, j, _ = entries(heard)
    d = heard.sum(1)  # (N,) how many each client hears
    return _filled(heard, 1 / (1 + np.maximum(d[i], d[j])))


def max_degree(graph: nx.Graph) -> Matrix:
    """1 / d_max on an edge, the rest on the diagonal; periodic on a regular bipartite graph (an even ring)."""
    heard = _heard(graph)
    return held(_filled(heard, heard.data / max(1, heard.sum(1).max())))


def lazy(graph: nx.Graph) -> Matrix:
    """(I + Metropolis) / 2: aperiodic on every graph, all eigenvalues non-negative."""
    return held((eye_array(len(graph), format="csr") + _metropolis(graph)) / 2)


def laplacian(graph: nx.Graph) -> Matrix:
    """I - 2 Lap / (3 lambda_max(Lap)), the rule of Dec-LoRA; undirected graphs only."""
    heard = _heard(_undirected(graph, "laplacian"))
    top = _largest(csr_array(diags_array(heard.sum(1)) - heard)) if heard.nnz else 1.0
    return held(_filled(heard, heard.data * (2 / (3 * top))))


def _largest(lap: csr_array) -> float:
    """Return the largest eigenvalue of a graph's Laplacian; above EXACT clients iterated to a relative 1e-10."""
    n = lap.shape[0]
    if n <= EXACT:
        return float(np.linalg.eigvalsh(lap.toarray())[-1])
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    start = np.random.default_rng([0, n]).standard_normal(n)  # ARPACK's own is not the same twice
    largest = partial(eigsh, lap, 1, v0=start, tol=1e-10, return_eigenvectors=False)
    try:
        return float(largest(which="LA", ncv=64, maxiter=20)[0])
    except ArpackNoConvergence:
        # Eigenvalues crowd at the top, as of a ring: they lie apart when seen from just above,
        # and the factors of such graphs' matrices stay sparse. No eigenvalue exceeds d_i + d_j.
        i, j, _ = entries(lap)
        d = lap.diagonal()
        above = (d[i] + d[j])[i != j].max() * (1 + 1e-9)
        return float(largest(sigma=above)[0])


def fastest(graph: nx.Graph) -> Matrix:
    """The symmetric W on these edges with the smallest rho, by semidefinite program (needs cvxpy).

    Source: Xiao and Boyd, Fast linear iterations for distributed averaging, 2004. Entries may be negative.
    """
    heard = _heard(_undirected(graph, "fastest"))
    n, (i, j, _) = len(graph), entries(heard)
    pairs = np.stack([i, j], 1)[i < j]
    check(n <= 64, "clients", n, "at most 64 with weights 'fastest' (a semidefinite program)")
    if len(pairs) == 0:
        return np.eye(n)
    above = csr_array((_fastest_shares(n, pairs), tuple(pairs.T)), shape=(n, n))
    both = csr_array(above + above.T)  # exactly symmetric
    W = dense(_filled(both, both.data))  # sums 1 to rounding, zero off the edges
    best, plain = (np.linalg.norm(M - 1 / n, 2) for M in (W, dense(metropolis(graph))))
    if not best <= plain + 1e-4:
        worse = f"rho {best:.6g} is above Metropolis's {plain:.6g}"
        raise BadInput(f"weights 'fastest': the solver's {worse}; use those")
    return W


WEIGHTS: dict[str, Callable[[nx.Graph], Matrix]] = {
    "metropolis": metropolis,
    "max-degree": max_degree,
    "lazy": lazy,
    "laplacian": laplacian,
    "fastest": fastest,
}


def _heard(graph: nx.Graph) -> csr_array:
    """Return (N, N) with an entry 1.0 at (i, j) where client i hears client j; self-loops do not count."""
    spoken = nx.to_scipy_sparse_array(graph, weight=None, dtype=np.float64, format="csr")
    i, j, _ = entries(csr_array(spoken.T))
    apart = i != j
    return csr_array((np.ones(apart.sum()), (i[apart], j[apart])), shape=spoken.shape)


def _filled(heard: csr_array, shares: Array) -> csr_array:
    """Return W of the shares (E,) on the edges of `heard`, with the diagonal that makes each row sum to 1."""
    off = csr_array((shares, heard.indices, heard.indptr), shape=heard.shape)
    return csr_array(off + diags_array(1 - _row_sums(off)))


def _row_sums(W: csr_array) -> Array:
    """Return (N,) what NumPy makes of dense rows, to the last bit, which depends on where their zeros stand."""
    if W.shape[0] > ROWS:
        return np.asarray(W.sum(1))
    rows = max(1, CELLS // W.shape[0])
    return np.concatenate([W[k : k + rows].toarray().sum(1) for k in range(0, W.shape[0], rows)])


def _undirected(graph: nx.Graph, rule: str) -> nx.Graph:
    if graph.is_directed():
        undirected = "an undirected graph; 'metropolis' takes a directed one"
        raise BadInput(f"weights = {rule!r} needs {undirected}")
    return graph


def _fastest_shares(n: int, pairs: NDArray[np.int64]) -> Array:
    """Solve min s with -sI <= W - J <= sI over the edge shares (E,), W = I - B diag(shares) B^T."""
    try:
        import cvxpy as cp
    except ImportError:
        lacking = "cvxpy, which is not installed: pip install cvxpy"
        raise BadInput(f"weights = 'fastest' needs {lacking}") from None
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
        ended = f"ended {problem.status!r}"
    except cp.error.SolverError as error:
        ended = f"failed ({error})"
    if shares.value is None:
        raise BadInput(f"weights = 'fastest': the solver {ended}; use 'metropolis'")
    return np.asarray(shares.value)
