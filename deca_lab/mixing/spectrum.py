"""Spectral facts of a mixing matrix, and of the graph of its non-zero entries."""

from bisect import bisect_left
from math import ceil, inf, log, nan
from typing import NamedTuple

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from deca_lab.mixing.graphs import Array

TINY = 1e-12  # rounding: below it rho is 0, within it of 1 rho is 1
EXACT = 4096  # clients up to which rho comes from a dense decomposition (7 s symmetric, 22 s not, on one core)
STEPS = 200  # of the Lanczos iteration above that
LAMBDA2 = 512  # clients up to which eigenvalues of a W without symmetry are computed


Split = tuple[NDArray[np.int64], NDArray[np.int64]]  # clients that never hear the others, and those


class Spectrum(NamedTuple):
    """Second singular value, its uncertainty, second eigenvalue modulus."""

    rho: float
    error: float
    lambda2: float


def spectrum(W: Array) -> Spectrum:
    """Return rho and lambda2 of a square finite W: by FFT if circulant, else dense; above 4,096 clients iterated."""
    n = len(W)
    if _circulant(W):
        # W - J has the eigenvalues fft(row) - fft(1/N), and as a normal matrix their moduli as singular values
        gap = np.abs(np.fft.fft(W[0] - 1 / n)).max()
        return Spectrum(float(gap), 0.0, float(gap))
    gap, symmetric = W - 1 / n, np.array_equal(W, W.T)
    if n > EXACT:
        rho, error = _lanczos(W)
        return Spectrum(rho, error, rho if symmetric else nan)
    if symmetric:
        rho = float(np.abs(np.linalg.eigvalsh(gap)).max())
        return Spectrum(rho, 0.0, rho)
    rho = float(np.linalg.svd(gap, compute_uv=False)[0])
    return Spectrum(rho, 0.0, float(np.abs(np.linalg.eigvals(gap)).max()) if n <= LAMBDA2 else nan)


def _circulant(W: Array) -> bool:
    """Say whether each row is the one above it, moved one place to the right."""
    return np.array_equal(W[1:, 1:], W[:-1, :-1]) and np.array_equal(W[1:, 0], W[:-1, -1])


def _lanczos(W: Array) -> tuple[float, float]:
    """Return a lower estimate of ||W - J||_2, and how much larger the norm may be (0 where it converged).

    Lanczos on (W - J)'(W - J), over the edges; the mean relative error of its largest eigenvalue after k steps from
    a random start is below 0.103 (log(N (k - 1)^4) / (k - 1))^2 (Kuczynski and Wozniakowski 1992, theorem 3.2).
    """
    n, (i, j) = len(W), np.nonzero(W)
    w = W[i, j]
    q = np.random.default_rng([0, n]).standard_normal(n)
    basis, ritz = np.zeros((0, n)), 0.0
    diagonal, beside = [], [float(np.linalg.norm(q))]
    while len(basis) < STEPS and beside[-1] > TINY:
        basis = np.vstack([basis, q / beside[-1]])
        forward = np.bincount(i, w * basis[-1][j], n) - basis[-1].mean()
        q = np.bincount(j, w * forward[i], n) - forward.mean()
        diagonal.append(float(q @ basis[-1]))
        for _ in range(2):  # orthogonal to all before, twice for rounding
            q = q - basis.T @ (basis @ q)
        T = np.diag(diagonal) + np.diag(beside[1:], 1) + np.diag(beside[1:], -1)
        ritz, before = float(np.linalg.eigvalsh(T)[-1]), ritz
        beside.append(float(np.linalg.norm(q)))
        if abs(ritz - before) <= TINY * ritz:
            break
    k = len(basis)
    error = ritz**0.5 * 0.0515 * (log(n * (k - 1.0) ** 4) / (k - 1)) ** 2 if k == STEPS else 0.0
    return ritz**0.5, error  # it stopped early where it had converged


def product(W: Array, X: Array) -> Array:
    """Return W @ X; over the edges where there are few."""
    if 16 * np.count_nonzero(W) > W.size:
        return W @ X
    from scipy.sparse import csr_array

    mixed: Array = csr_array(W) @ X
    return mixed


def rounds_to_thousandth(prefixes: list[Array], rho: float, primitive: bool) -> float:
    """Return how many mixings shrink disagreement 1000-fold, given rho of the product over the whole period."""
    period, whole, times = len(prefixes), prefixes[-1], 1
    if rho <= 1e-3:
        first = range(period - 1)
        return 1.0 + bisect_left(first, True, key=lambda k: spectrum(prefixes[k]).rho <= 1e-3)
    # Some power contracts: Wielandt's bound on it.
    while rho >= 1 - TINY and primitive and times <= len(whole) ** 2:
        whole, times = whole @ whole, 2 * times
        rho = spectrum(whole).rho
    if rho >= 1 - TINY:
        return inf
    return float(period * times * ceil(log(1000) / -log(max(rho, TINY)) - TINY))


# ---- the graph of non-zero entries: support[i, j] says that i hears j


def _reached(support: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return (N,) the distance from client 0 along the rows, -1 where there is no way."""
    level = np.full(len(support), -1)
    level[0], step, front = 0, 0, np.array([0])
    while len(front):
        step += 1
        front = np.flatnonzero(support[front].any(0) & (level < 0))
        level[front] = step
    return level


def islands(support: NDArray[np.bool_]) -> Split | None:
    """Return two groups of clients of which the first never hears the second; None if strongly connected."""
    hears, heard = _reached(support) >= 0, _reached(support.T) >= 0
    if not hears.all():
        return np.flatnonzero(hears), np.flatnonzero(~hears)
    return None if heard.all() else (np.flatnonzero(~heard), np.flatnonzero(heard))


def cycle_length(support: NDArray[np.bool_]) -> int:
    """Return the period of the walk: the largest one among the strongly connected parts."""
    if support.diagonal().all():
        return 1
    level = _reached(support)
    if (level >= 0).all() and (_reached(support.T) >= 0).all():
        i, j = np.nonzero(support)
        return int(np.gcd.reduce(level[i] + 1 - level[j]))
    graph = nx.from_edgelist(np.argwhere(support).tolist(), nx.DiGraph)
    parts = nx.strongly_connected_components(graph)
    inside = [support[np.ix_(part, part)] for part in map(sorted, parts)]
    return max((cycle_length(part) for part in inside if part.any()), default=1)
