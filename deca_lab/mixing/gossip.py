"""One mixing: x_new_i = sum_j w_ij x_j over the rows of X (N, D), and the bytes of one of its messages."""

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import issparse
from torch import Tensor

from deca_lab.mixing.matrix import SPARSE, Matrix, dense, entries, numbers

Mix = Callable[[Tensor], Tensor]  # (N, D) -> (N, D)

FEW = 64  # clients up to which the whole product is cheap, whatever W holds
# Numbers in X up to which it is, as far as FEW clients go, cheaper than reading the edges.
SMALL = 2**12


def mixer(W: Matrix, like: Tensor) -> Mix:
    """Return the function that mixes with W (n, N), on the device and in the dtype of `like`."""
    edges = np.count_nonzero(numbers(W))
    if issparse(W) or 0 < edges <= SPARSE * W.size:
        by_edges = _bags(W, like)
        if max(W.shape) > FEW:
            return by_edges
        whole = _whole(W, like)
        return lambda x: whole(x) if x.numel() <= SMALL else by_edges(x)
    if len(W) > FEW and _level(W):
        other = float(W[0, 1])
        own = torch.from_numpy(np.diag(W) - other)[:, None].to(like)
        return lambda x: torch.addcmul(x.sum(0).mul_(other), x, own)
    return _whole(W, like)


def _bags(W: Matrix, like: Tensor) -> Mix:
    """Return the sums of weighted rows over the edges of W."""
    receivers, senders, shares = entries(W)
    first = np.searchsorted(receivers, np.arange(W.shape[0]))  # where each receiver's edges begin
    at, edges = (torch.from_numpy(places).to(like.device) for places in (first, senders))
    weights = torch.from_numpy(np.array(shares)).to(like)
    return lambda x: torch.embedding_bag(x, edges, at, mode=0, per_sample_weights=weights)[0]


def _whole(W: Matrix, like: Tensor) -> Mix:
    """Return the product with W."""
    whole = torch.from_numpy(np.array(dense(W))).to(device=like.device, dtype=like.dtype)
    return lambda x: whole @ x


def _level(W: np.ndarray) -> bool:
    """Say whether each client takes the same share of every other: of the complete graph, or a server's mean."""
    n = len(W)
    return W.shape == (n, n) and bool((W[~np.eye(n, dtype=bool)] == W[0, 1]).all())


def row_bytes(x: Tensor) -> int:
    """Return the bytes of one message, a row of X (N, D)."""
    return x.shape[1] * x.element_size()
