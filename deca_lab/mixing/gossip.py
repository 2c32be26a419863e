"""One mixing: x_new_i = sum_j w_ij x_j over the rows of X (N, D), and the bytes of one of its messages."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Mix = Callable[[Tensor], Tensor]  # (N, D) -> (N, D)

SPARSE = (
    1 / 4
)  # share of W's entries up to which reading the edges is cheaper than the whole product (a ring of 12)
FEW = 64  # clients up to which the whole product is cheap, whatever W holds


def mixer(W: np.ndarray, like: Tensor) -> Mix:
    """Return the function that mixes with W (n, N), on the device and in the dtype of `like`."""
    receivers, senders = np.nonzero(W)
    if (
        0 < len(receivers) <= SPARSE * W.size and like.device.type != "mps"
    ):  # Apple's GPU has no sums over bags
        first = np.searchsorted(receivers, np.arange(len(W)))  # where each receiver's edges begin
        at, edges = (
            torch.from_numpy(first).to(like.device),
            torch.from_numpy(senders).to(like.device),
        )
        weights = torch.from_numpy(W[receivers, senders]).to(like)
        return lambda x: torch.embedding_bag(x, edges, at, mode=0, per_sample_weights=weights)[
            0
        ]  # sums of weighted rows
    if len(W) > FEW and _level(W):
        other = float(W[0, 1])
        own = torch.from_numpy(np.diag(W) - other)[:, None].to(like)
        return lambda x: torch.addcmul(x.sum(0).mul_(other), x, own)
    dense = torch.from_numpy(np.array(W)).to(device=like.device, dtype=like.dtype)
    return lambda x: dense @ x


def _level(W: np.ndarray) -> bool:
    """Say whether each client takes the same share of every other: of the complete graph, or a server's mean."""
    n = len(W)
    return W.shape == (n, n) and bool((W[~np.eye(n, dtype=bool)] == W[0, 1]).all())


def row_bytes(x: Tensor) -> int:
    """Return the bytes of one message, a row of X (N, D)."""
    return x.shape[1] * x.element_size()
