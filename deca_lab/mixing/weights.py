"""Weight rules: nx.Graph -> W (N, N) float64; rows sum to 1, and columns too where the graph is undirected."""

import warnings
from collections.abc import Callable

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from deca_lab.errors import BadInput, check
from deca_lab.mixing.graphs import Array


def metropolis(graph: nx.Graph) -> Array:
    """Metropolis-Hastings weights: 1 / (1 + max(d_i, d_j)) on an edge, the rest on the diagonal."""
    heard = _heard(graph)
    d = heard.sum(1)  # (N,) how many each client hears
    return _filled(heard / (1 + np.maximum.outer(d, d)))


def max_degree(graph: nx.Graph) -> Array:
    """1 / d_max on an edge, the rest on the diagonal; periodic on a regular bipartite graph (an even ring)."""
    heard = _heard(graph)
    return _filled(heard / max(1, heard.sum(1).max()))


def lazy(graph: nx.Graph) -> Array:
    """(I + Metropolis) / 2: aperiodic on every graph, all eigenvalues non-negative."""
    return (np.eye(len(graph)) + metropolis(graph)) / 2


def laplacian(graph: nx.Graph) -> Array:
    """I - 2 Lap / (3 lambda_max(Lap)), the rule of Dec-LoRA; undirected graphs only."""
    heard = _heard(_undirected(graph, "laplacian"))
    lap = np.diag(heard.sum(1)) - heard
    top = np.linalg.eigvalsh(lap)[-1]
    return _filled(heard * (2 / (3 * top))) if heard.any() else np.eye(len(graph))


def fastest(graph: nx.Graph) -> Array:
    """The symmetric W on these edges with the smallest rho, by semidefinite program (needs cvxpy).

    Source: Xiao and Boyd, Fast linear iterations for distributed averaging, 2004. Entries may be negative.
    """
    heard = _heard(_undirected(graph, "fastest"))
    n, pairs = len(graph), np.argwhere(np.triu(heard))
    check(n <= 64, "clients", n, "at most 64 with weights 'fastest' (a semidefinite program)")
    if len(pairs) == 0:
        return np.eye(n)
    W: Array = np.zeros((n, n))
    W[pairs[:, 0], pairs[:, 1]] = _fastest_shares(n, pairs)
    W = _filled(W + W.T)  # exactly symmetric, sums 1 to rounding, zero off the edges
    best, plain = (np.linalg.norm(M - 1 / n, 2) for M in (W, metropolis(graph)))
    if not best <= plain + 1e-4:
        above = f"rho {best:.6g} is above Metropolis's {plain:.6g}"
        raise BadInput(f"weights 'fastest': the solver's {above}; use those")
    return W


WEIGHTS: dict[str, Callable[[nx.Graph], Array]] = {
    "metropolis": metropolis,
    "max-degree": max_degree,
    "lazy": lazy,
    "laplacian": laplacian,
    "fastest": fastest,
}


def _heard(graph: nx.Graph) -> Array:
    """Return (N, N) of 0.0 and 1.0: entry (i, j) is 1 where client i hears client j; self-loops do not count."""
    heard = np.asarray(nx.to_numpy_array(graph, weight=None).T > 0, dtype=np.float64)
    np.fill_diagonal(heard, 0)
    return heard


def _filled(W: Array) -> Array:
    """Return W with the diagonal that makes each row sum to 1."""
    off = W - np.diag(np.diag(W))
    return off + np.diag(1 - off.sum(1))


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
