"""Spectral facts of mixing matrices, one or several in turn, and of the graph of their non-zero entries."""

from bisect import bisect_left
from collections.abc import Sequence
from functools import reduce
from itertools import accumulate
from math import ceil, inf, log, nan
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from scipy.sparse.csgraph import breadth_first_order, connected_components, dijkstra

from deca_lab.mixing.graphs import Array
from deca_lab.mixing.matrix import Matrix, asymmetry, dense, entries

TINY = 1e-12  # rounding: below it rho is 0, within it of 1 rho is 1
EXACT = 4096  # clients up to which rho comes from a dense decomposition (7 s symmetric, 22 s not, on one core)
STEPS = 200  # of the Lanczos iteration above that
LAMBDA2 = 512  # clients up to which eigenvalues of a W without symmetry are computed
POWERS = 2**12  # matrices in turn that make up the longest power of a sparse W that is looked at

Product = tuple[Matrix, ...]  # W_k ... W_1, of which the first is applied first
Split = tuple[NDArray[np.int64], NDArray[np.int64]]  # clients that never hear the others, and those


class Spectrum(NamedTuple):
    """Second singular value, its uncertainty, second eigenvalue modulus."""

    rho: float
    error: float
    lambda2: float


def spectrum(*factors: Matrix) -> Spectrum:
    """Return rho and lambda2 of a square finite W, or of the product of several, the first applied first.

    By FFT where all are circulant, else from the dense product; above 4,096 clients iterated, with no product formed,
    and above 512 where W is sparse and the iteration converges.
    """
    n, symmetric = factors[0].shape[0], len(factors) == 1 and asymmetry(factors[0]) == 0
    if all(map(_circulant, factors)):
        # W - J has the eigenvalues fft(row) - fft(1/N), and as a normal matrix their moduli as singular values
        gap = np.abs(np.fft.fft(reduce(_convolved, map(_first_row, factors)) - 1 / n)).max()
        return Spectrum(float(gap), 0.0, float(gap))
    if n > EXACT or (n > LAMBDA2 and any(map(issparse, factors))):
        rho, error = _lanczos(*factors)
        if n > EXACT or error == 0:
            return Spectrum(rho, error, rho if symmetric else nan)
    gap = reduce(product, factors[1:], dense(factors[0])) - 1 / n
    if symmetric:
        rho = float(np.abs(np.linalg.eigvalsh(gap)).max())
        return Spectrum(rho, 0.0, rho)
    rho = float(np.linalg.svd(gap, compute_uv=False)[0])
    return Spectrum(rho, 0.0, float(np.abs(np.linalg.eigvals(gap)).max()) if n <= LAMBDA2 else nan)


def _circulant(W: Matrix) -> bool:
    """Say whether each row is the one above it, moved one place to the right."""
    before = np.arange(W.shape[0]) - 1
    return float(abs(W - W[before][:, before]).max()) == 0


def _first_row(W: Matrix) -> Array:
    row: Array = dense(W[[0]])[0]
    return row


def _convolved(a: Array, b: Array) -> Array:
    """Return the first row of the product of two circulant matrices, of theirs."""
    return np.fft.ifft(np.fft.fft(a) * np.fft.fft(b)).real


def _lanczos(*factors: Matrix) -> tuple[float, float]:
    """Return a lower estimate of ||W - J||_2 of a product W, and how much larger the norm may be (0 where it converged).

    Lanczos on (W - J)'(W - J), over the edges; the mean relative error of its largest eigenvalue after k steps from
    a random start is below 0.103 (log(N (k - 1)^4) / (k - 1))^2 (Kuczynski and Wozniakowski 1992, theorem 3.2).
    """
    n, ritz, k = factors[0].shape[0], 0.0, 0
    q = np.random.default_rng([0, n]).standard_normal(n)
    basis = np.empty((STEPS, n))
    diagonal, beside = [], [float(np.linalg.norm(q))]
    while k < STEPS and beside[-1] > TINY:
        basis[k] = q / beside[-1]
        forward = reduce(lambda x, W: W @ x, factors, basis[k]) - basis[k].mean()
        q = reduce(lambda x, W: W.T @ x, reversed(factors), forward) - forward.mean()
        diagonal.append(float(q @ basis[k]))
        k += 1
        for _ in range(2):  # orthogonal to all before, twice for rounding
            q = q - basis[:k].T @ (basis[:k] @ q)
        T = np.diag(diagonal) + np.diag(beside[1:], 1) + np.diag(beside[1:], -1)
        ritz, before = float(np.linalg.eigvalsh(T)[-1]), ritz
        beside.append(float(np.linalg.norm(q)))
        if abs(ritz - before) <= TINY * ritz:
            break
    error = ritz**0.5 * 0.0515 * (log(n * (k - 1.0) ** 4) / (k - 1)) ** 2 if k == STEPS else 0.0
    return ritz**0.5, error  # it stopped early where it had converged


def product(X: Array, W: Matrix) -> Array:
    """Return W @ X; over the edges where there are few."""
    few = not issparse(W) and 16 * np.count_nonzero(W) <= W.size
    mixed: Array = (csr_array(W) if few else W) @ X
    return mixed


def prefixes(matrices: Sequence[Matrix]) -> list[Product]:
    """Return W_k ... W_1 for every k: one array each, or the matrices themselves where some are sparse, as products fill up."""
    if any(map(issparse, matrices)):
        return [tuple(matrices[: k + 1]) for k in range(len(matrices))]
    return [(W,) for W in accumulate(matrices, product)]


def largest(whole: Product) -> float:
    """Return the largest modulus of an entry of a product, or of a product of sparse matrices a bound on it."""
    if len(whole) == 1:
        return float(abs(whole[0]).max())
    return float(reduce(lambda x, W: abs(W) @ x, whole, np.ones(whole[0].shape[0])).max())


def rounds_to_thousandth(products: list[Product], rho: float, primitive: bool) -> float:
    """Return how many mixings shrink disagreement 1000-fold, given rho of the product over the whole period.

    NaN where that was not found out: of a sparse W all of whose short powers keep some disagreement.
    """
    period, whole, times = len(products), products[-1], 1
    if rho <= 1e-3:
        first = range(period - 1)
        return 1.0 + bisect_left(first, True, key=lambda k: spectrum(*products[k]).rho <= 1e-3)
    # Some power contracts: Wielandt's bound on it.
    most = whole[0].shape[0] ** 2
    while rho >= 1 - TINY and primitive and times <= most and len(whole) <= POWERS:
        whole, times = _squared(whole), 2 * times
        rho = spectrum(*whole).rho
    if rho >= 1 - TINY:
        return nan if primitive and times <= most else inf
    return float(period * times * ceil(log(1000) / -log(max(rho, TINY)) - TINY))


def _squared(whole: Product) -> Product:
    return 2 * whole if any(map(issparse, whole)) else (whole[0] @ whole[0],)


# ---- the graph of non-zero entries: an edge (i, j) says that i hears j


def heard_in_turn(matrices: Sequence[Matrix]) -> csr_array:
    """Return the graph (P N, P N) of P mixings in turn for ever: a client is a node before each, the first N after all.

    Walks of P edges from one of the first N to another are the entries of the product that no cancellation removes.
    """
    n, period = matrices[0].shape[0], len(matrices)
    layers = enumerate(map(entries, reversed(matrices)))
    ends = [(i + k * n, j + (k + 1) % period * n) for k, (i, j, _) in layers]
    i, j = map(np.concatenate, zip(*ends, strict=True))
    return csr_array((np.ones(len(i)), (i, j)), shape=(period * n,) * 2)


def islands(support: Matrix, clients: int | None = None) -> Split | None:
    """Return two groups of clients of which the first never hears the second; None if all hear all.

    `clients` of the nodes are clients, the first of them.
    """
    graph = csr_array(support, dtype=np.float64)
    hears, heard = (_reached(csr_array(way))[:clients] for way in (graph, graph.T))
    if not hears.all():
        return np.flatnonzero(hears), np.flatnonzero(~hears)
    return None if heard.all() else (np.flatnonzero(~heard), np.flatnonzero(heard))


def _reached(graph: csr_array) -> NDArray[np.bool_]:
    """Return (N,) whom there is a way to from node 0, along the rows."""
    reached = np.zeros(graph.shape[0], bool)
    reached[breadth_first_order(graph, 0, return_predecessors=False)] = True
    return reached


def cycle_length(support: Matrix, period: int = 1) -> int:
    """Return the period of the walk, in mixings in turn of `period` edges: the largest of the strongly connected parts."""
    graph = csr_array(support, dtype=np.float64)
    if graph.diagonal().all():
        return 1
    n, (parts, part) = graph.shape[0], connected_components(graph, connection="strong")
    i, j = graph.nonzero()
    within = part[i] == part[j]
    i, j = i[within], j[within]
    first = np.unique(part, return_index=True)[1]
    # One node more, from which an edge leads to a client of each part: how far each is from there.
    ends = np.append([i, j], [np.full(parts, n), first], axis=1).astype(np.int32)  # dijkstra's own
    away = dijkstra(csr_array((np.ones(len(ends[0])), ends), shape=(n + 1, n + 1)), indices=n)
    cycles = np.zeros(parts, np.int64)
    np.gcd.at(cycles, part[i], np.abs(away[i] + 1 - away[j]).astype(np.int64))
    return max(int(cycles.max()) // period, 1)
