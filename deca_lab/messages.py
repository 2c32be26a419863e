"""What a message holds: the whole row, or a short form of what changed in it since the last one.

Compressed gossip with error feedback (CHOCO, Koloskova, Stich and Jaggi 2019): each client and its neighbours hold the same
replica of the client's row; a message C(x - replica) brings it nearer, and what C leaves out stays in the difference and is
sent later. Mixed are the replicas, x_new = x + gamma (W - I) replica, so the mean of the clients is conserved whatever C does.
The first message of a visit is the whole row.
"""

from collections.abc import Callable
from itertools import count
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deca_lab.errors import check, pick
from deca_lab.gossip import Mix, row_bytes

Short = Callable[[Tensor, np.random.Generator], Tensor]   # (D,) -> (D,)
Size = Callable[[int, int], int]                          # columns D, bytes of a number -> bytes of a message

INDEX = 4               # bytes of a number's place in a row


class Compression(NamedTuple):
    """A way to shorten messages: what is left of a row, and what it takes on the wire."""

    short: Short
    size: Size
    gamma: float                    # the step towards the neighbours' replicas


def top_k(share: float, bits: int) -> tuple[Short, Size]:
    """The largest entries of a row and their places."""

    def short(z: Tensor, rng: np.random.Generator) -> Tensor:
        at = z.abs().topk(kept(share, len(z)), sorted=False).indices
        return torch.zeros_like(z).index_copy_(0, at, z[at])

    return short, lambda width, item: kept(share, width) * (item + INDEX)


def random_k(share: float, bits: int) -> tuple[Short, Size]:
    """Entries at random places, which the receiver draws from the same seed."""

    def short(z: Tensor, rng: np.random.Generator) -> Tensor:
        at = torch.from_numpy(rng.choice(len(z), kept(share, len(z)), replace=False, shuffle=False)).to(z.device)
        return torch.zeros_like(z).index_copy_(0, at, z[at])

    return short, lambda width, item: kept(share, width) * item


def quantised(share: float, bits: int) -> tuple[Short, Size]:
    """All entries, rounded to the nearest of 2^bits - 1 levels between minus and plus the row's largest one."""
    levels = 2 ** (bits - 1) - 1

    def short(z: Tensor, rng: np.random.Generator) -> Tensor:
        step = (z.abs().max() / levels).clamp(min=torch.finfo(z.dtype).tiny)
        return (z / step).round_().mul_(step)

    return short, lambda width, item: ceil(width * bits / 8) + item


COMPRESSORS = {"top-k": top_k, "random-k": random_k, "quantised": quantised}


def kept(share: float, width: int) -> int:
    """Return how many of so many entries a share of them is: one at least."""
    return max(1, min(width, round(share * width)))


def compression(name: str, share: float, bits: int, gamma: float) -> Compression | None:
    """Return the compression of a name, or None for "none"; raise BadInput."""
    make = pick({"none": None, **COMPRESSORS}, name, "compress")
    check(gamma == 1 or make is not None, "gamma", gamma, "1 with --compress none: messages are whole")
    return make and Compression(*make(share, bits), gamma)


def compressed(mix: Mix, how: Compression, past: dict[str, Tensor], block: int, call: tuple[int, ...]) -> Mix:
    """Return the mixing of the replicas that `past` holds, which it brings up to date; `call` seeds what is random."""
    calls = count()

    def mixed(x: Tensor) -> Tensor:
        key = f"{block}.{next(calls)}"
        if key in past:
            for i, (row, copy) in enumerate(zip(x, past[key], strict=True)):     # a row at a time: little memory beside X
                copy.add_(how.short(row - copy, np.random.default_rng([*call, block, i])))
        else:
            past[key] = x.clone()
        return mix(past[key]).sub_(past[key]).mul_(how.gamma).add_(x)

    return mixed


def message_bytes(x: Tensor, how: Compression | None, first: bool) -> int:
    """Return the bytes of one message, of a row of X (N, D); the `first` of a visit is whole."""
    return row_bytes(x) if how is None or first else how.size(x.shape[1], x.element_size())
