"""How W is held: a NumPy array where clients are few, else its edges alone, as SciPy's csr_array."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from deca_lab.mixing.graphs import Array

# Clients up to which W is a NumPy array, which people print and index: half a MiB, and a ring's
# product with it costs no more than one by edges.
DENSE = 256
# share of W's entries up to which reading the edges is cheaper than the whole product (a ring of 12)
SPARSE = 1 / 4

# W (N, N) float64; a csr_array has its entries in order, and no zeros
Matrix: TypeAlias = Array | csr_array


def held(W: Matrix) -> Matrix:
    """Return W as it is held: an array up to DENSE clients and where many entries are not 0, else a csr_array."""
    cells = W.shape[0] * W.shape[1]
    few = W.shape[0] > DENSE and np.count_nonzero(numbers(W)) <= SPARSE * cells
    return by_edges(W) if few else dense(W)


def by_edges(W: Matrix) -> csr_array:
    """Return W as a csr_array with its entries in order, each once, and no zeros."""
    edges = csr_array(W)
    edges.sum_duplicates()
    edges.eliminate_zeros()
    return edges


def dense(W: Matrix) -> Array:
    """Return W (N, N) as an array, or as it is where it is not sparse."""
    given: Any = W
    array: Array = given.toarray() if issparse(W) else given
    return array


def numbers(W: Matrix) -> Array:
    """Return the numbers that W holds: all of an array, of a csr_array those of its edges."""
    values: Array = W if isinstance(W, np.ndarray) else W.data
    return values


def entries(W: Matrix) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """Return receivers, senders and shares (E,) of the entries of W that are not 0, row after row."""
    i, j = W.nonzero()
    shares = W[i, j] if isinstance(W, np.ndarray) else W.data
    return i.astype(np.int64), j.astype(np.int64), shares


def links_of(W: Matrix) -> NDArray[np.int64]:
    """Return (E, 2) the entries of W that are not 0, but for the diagonal: in a row (i, j) client i hears client j."""
    i, j, _ = entries(W)
    links: NDArray[np.int64] = np.stack([i, j], 1)[i != j]
    return links


def only(W: Matrix, keep: NDArray[np.bool_]) -> Matrix:
    """Return W with some of its `entries` alone, bool (E,)."""
    i, j, w = (part[keep] for part in entries(W))
    if not isinstance(W, np.ndarray):
        return csr_array((w, (i, j)), shape=W.shape)
    part = np.zeros_like(W)
    part[i, j] = w
    return part


def asymmetry(W: Matrix) -> float:
    """Return max |w_ij - w_ji|."""
    return float(abs(W - W.T).max())
