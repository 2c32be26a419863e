"""Dicts of stacked tensors <-> one matrix X (N, D): the only bridge between models and the algorithms' algebra.

Shape letters of the library: N clients, B batch, T tokens of a context, C channels, V vocabulary, D flat parameters, K blocks.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from deca_lab.errors import check

Params = dict[str, Tensor]  # name -> (N, ...) where stacked, (...) for one client
PIECE = 1 << 22  # numbers of X that a measurement copies at once, at least


class Layout(NamedTuple):
    """Where each name of a block stands in the columns of its matrix."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]  # of one client

    @property
    def sizes(self) -> list[int]:
        """Columns of each name."""
        return [prod(shape) for shape in self.shapes]

    @property
    def width(self) -> int:
        """D, all columns."""
        return sum(self.sizes)


def layout(params: Params, names: Sequence[str]) -> Layout:
    """Return the layout of `names` in stacked `params`."""
    return Layout(tuple(names), tuple(tuple(params[name].shape[1:]) for name in names))


def flatten(params: Params, names: Sequence[str]) -> Tensor:
    """Return a copy of the named stacked tensors as one matrix (N, D)."""
    many = [params[name] for name in names]
    # One model, seen N times, as `replicate` makes it.
    if all(len(p) > 1 and p.stride(0) == 0 for p in many):
        return flatten({name: params[name][:1] for name in names}, names).repeat(len(many[0]), 1)
    return torch.cat([p.flatten(1) if p.dim() > 1 else p[:, None] for p in many], 1)


def unflatten(x: Tensor, where: Layout) -> Params:
    """Return views of X (N, D) under their names and shapes; the inverse of `flatten`."""
    # One cat in the backward pass, where slices would each fill a whole X.
    pieces = torch.split(x, where.sizes, dim=1)
    named = zip(where.names, where.shapes, pieces, strict=True)
    return {
        n: torch.unflatten(p, 1, s) if len(s) > 1 else p.reshape(len(p), *s) for n, s, p in named
    }


def replicate(params: Params, clients: int) -> Params:
    """Return the common start of so many clients: one client's parameters, seen `clients` times on axis 0, not copied."""
    return {name: p.detach().expand(clients, *p.shape) for name, p in params.items()}


def client(params: Params, i: int) -> Params:
    """Return the parameters of client `i`, without the client axis (views)."""
    return {name: p[i] for name, p in params.items()}


def mean(params: Params) -> Params:
    """Return the network's mean model, without the client axis."""
    return {name: p.mean(0) for name, p in params.items()}


def consensus_distance(x: Tensor) -> float:
    """Return (1/N) sum_i ||x_i - xbar||^2 of a matrix X (N, D), by columns so that no copy of X is held."""
    at_once = max(PIECE // max(len(x), 1), x.shape[1] >> 10, 1)
    return float(torch.stack([_apart(part) for part in torch.split(x, at_once, 1)]).sum() / len(x))


def _apart(x: Tensor) -> Tensor:
    wide = x.float() if x.element_size() < 4 else x
    return (wide - wide.mean(0)).square().sum(dtype=torch.float64)


def pieces_of(x: Tensor, columns: int) -> tuple[Tensor, ...]:
    """Return X (N, D), or a vector (D,), in pieces of a few columns: on a GPU of many, for there each piece is a launch."""
    many = columns if x.device.type == "cpu" else max(columns, PIECE // (x.numel() // x.shape[-1]))
    return torch.split(x, many, -1)


def nbytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the tensors' elements."""
    return sum(t.numel() * t.element_size() for t in tensors)


@contextmanager
def left_alone(tensors: Sequence[Tensor], who: str, whose: str) -> Iterator[None]:
    """Raise BadInput where what happens within, a user's function `who`, writes into tensors that are `whose`."""
    before = writes(tensors)
    yield
    allowed = "a function that leaves them as they are: their clone() may be changed"
    check(writes(tensors) == before, who, f"one that writes into {whose}", allowed)


def writes(tensors: Iterable[Tensor]) -> list[int]:
    """Return how often each tensor was written to in place, itself or through a view, as torch counts it."""
    return [0 if t.is_inference() else t._version for t in tensors]
