"""What a message holds: the whole row, or a short form of what changed in it since the last one.

Compressed gossip with error feedback (CHOCO, Koloskova, Stich and Jaggi 2019): each client and its neighbours hold the same
replica of the client's row; a message C(x - replica) brings it nearer, and what C leaves out stays in the difference and is
sent later. Mixed are the replicas, x_new = x + gamma (W - I) replica, so the mean of the clients is conserved whatever C does.
The first message of a visit is the whole row.

A neighbour that was not reached, because the exchange failed or the graph had no edge just then, is brought up to date by
the next message that reaches it: that one holds all short messages since, or the whole row where this is shorter.
"""

from collections.abc import Callable
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deca_lab.algorithm import channel as ch
from deca_lab.algorithm.channel import Call, Channel, Size, Wire
from deca_lab.errors import check, pick

Short = Callable[[Tensor, np.random.Generator], Tensor]  # (D,) -> (D,)
MessageSize = Callable[[int, int], int]  # columns D, bytes of a number -> bytes of a message

INDEX = 4  # bytes of a number's place in a row


class Compression(NamedTuple):
    """A way to shorten messages: what is left of a row, and what it takes on the wire."""

    short: Short
    size: MessageSize
    gamma: float  # the step towards the neighbours' replicas


def top_k(share: float, bits: int) -> tuple[Short, MessageSize]:
    """The largest entries of a row and their places."""

    def short(z: Tensor, rng: np.random.Generator) -> Tensor:
        at = z.abs().topk(kept(share, len(z)), sorted=False).indices
        return torch.zeros_like(z).index_copy_(0, at, z[at])

    return short, lambda width, item: kept(share, width) * (item + INDEX)


def random_k(share: float, bits: int) -> tuple[Short, MessageSize]:
    """Entries at random places, which the receiver draws from the same seed."""

    def short(z: Tensor, rng: np.random.Generator) -> Tensor:
        at = torch.from_numpy(
            rng.choice(len(z), kept(share, len(z)), replace=False, shuffle=False)
        ).to(z.device)
        return torch.zeros_like(z).index_copy_(0, at, z[at])

    return short, lambda width, item: kept(share, width) * item


def quantised(share: float, bits: int) -> tuple[Short, MessageSize]:
    """All entries, rounded to the nearest of 2^bits - 1 levels between minus and plus the row's largest one."""
    levels = 2 ** (bits - 1) - 1

    def short(z: Tensor, rng: np.random.Generator) -> Tensor:
        step = (z.abs().max() / levels).clamp(min=torch.finfo(z.dtype).tiny)
        steps: Tensor = z / step
        return steps.round_().mul_(step)

    return short, lambda width, item: ceil(width * bits / 8) + item


COMPRESSORS = {"top-k": top_k, "random-k": random_k, "quantised": quantised}


def kept(share: float, width: int) -> int:
    """Return how many of so many entries a share of them is: one at least."""
    return max(1, min(width, round(share * width)))


def compressor(name: str, share: float, bits: int, gamma: float) -> Compression | None:
    """Return the compression of a name, or None for "none"; raise BadInput."""
    make = pick({"none": None, **COMPRESSORS}, name, "compress")
    check(
        gamma == 1 or make is not None, "gamma", gamma, "1 with --compress none: messages are whole"
    )
    return make and Compression(*make(share, bits), gamma)


def compressed(how: Compression, seed: int) -> ch.Wrap:
    """Return the wrap that sends short messages through a channel; `seed` is for what is random in them."""

    def wrap(inner: Channel) -> Channel:
        check(
            inner.exact,
            "faults",
            "noise on compressed messages",
            "without noise: a replica adds up what it hears, and errors of it never leave",
        )

        def exchange(call: Call, x: Tensor, wire: Wire, size: Size | None = None) -> Tensor:
            waiting = _waiting(inner, how, call, x.shape[1], x.element_size(), wire)
            replica = _replica(inner, how, seed, call, x, wire)
            before = wire.tallies.get("mean_moved", 0.0)
            x_new = (
                inner.exchange(call, replica, wire, waiting).sub_(replica).mul_(how.gamma).add_(x)
            )
            if before != (now := wire.tallies.get("mean_moved", 0.0)):
                wire.tallies["mean_moved"] = before + how.gamma * (
                    now - before
                )  # x moves by gamma times its replica
            return x_new

        def predicted(
            call: Call, width: int, item: int, wire: Wire, size: Size | None = None
        ) -> np.ndarray:
            return inner.predicted(
                call, width, item, wire, _waiting(inner, how, call, width, item, wire)
            )

        return inner._replace(exchange=exchange, predicted=predicted, copies=inner.copies + 1)

    return wrap


def _waiting(
    channel: Channel, how: Compression, call: Call, width: int, item: int, wire: Wire
) -> np.ndarray:
    """Return the bytes (N, N) of the messages of this mixing, i from j: all that j has said since i last heard it.

    `wire` keeps what still waits after it.
    """
    whole, speaks = width * item, np.ones(channel.topology.n, bool)
    speaks[channel.absent(call.step)] = False
    before = wire.tables.get(f"{call.key}.waiting", np.zeros_like(wire.sent))
    waiting = (
        np.full_like(before, whole)
        if call.first
        else np.minimum(before + speaks * how.size(width, item), whole)
    )
    failed = channel.failed(call.turn)
    reached = channel.messages(call.turn) > 0
    wire.tables[f"{call.key}.waiting"] = np.where(
        reached if failed is None else reached & ~failed, 0, waiting
    )
    return waiting


def _replica(
    channel: Channel, how: Compression, seed: int, call: Call, x: Tensor, wire: Wire
) -> Tensor:
    """Return the replicas (n, D) of this process's clients, brought nearer to x by their messages; absent ones say nothing."""
    name = f"{call.key}.replica"
    if name not in wire.letters:
        wire.letters[name] = x.clone()
        return wire.letters[name]
    silent, first = (
        set(channel.site.local(channel.absent(call.step)).tolist()),
        channel.site.mine.start,
    )
    for i, (row, copy) in enumerate(
        zip(x, wire.letters[name], strict=True)
    ):  # a row at a time: little memory beside X
        if i not in silent:
            copy.add_(
                how.short(
                    row - copy, np.random.default_rng([seed, call.turn, call.block, first + i])
                )
            )
    return wire.letters[name]
