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
from deca_lab.algorithm.stacking import pieces_of
from deca_lab.errors import check, pick
from deca_lab.network.processes import Halo

INDEX = 4  # bytes of a number's place in a row
COLUMNS = 2**12  # whose bits are packed in one go


class Compressor(NamedTuple):
    """How a row z (D,) becomes a message of bytes, and what the receiver reads from it.

    Both sides get a generator in the same state, for what is drawn at random.
    """

    pack: Callable[[Tensor, np.random.Generator], Tensor]  # z (D,) -> message (bytes,) uint8
    unpack: Callable[[Tensor, Tensor, np.random.Generator], Tensor]  # message, a row like z -> (D,)
    size: Callable[[int, int], int]  # columns D, bytes of a number -> bytes of a message
    gamma: float = 1.0  # the step towards the neighbours' replicas


def top_k(share: float, bits: int) -> Compressor:
    """The largest entries of a row and their places."""

    def pack(z: Tensor, rng: np.random.Generator) -> Tensor:
        at = z.abs().topk(entries(share, len(z)), sorted=False).indices
        return torch.cat([_raw(at.int()), _raw(z[at])])

    def unpack(message: Tensor, like: Tensor, rng: np.random.Generator) -> Tensor:
        end = INDEX * entries(share, len(like))
        places = _read(message[:end], torch.int32).long()
        return _filled(like, places, _read(message[end:], like.dtype))

    return Compressor(pack, unpack, lambda width, item: entries(share, width) * (item + INDEX))


def random_k(share: float, bits: int) -> Compressor:
    """Entries at random places, which the receiver draws from the same seed."""

    def places(row: Tensor, rng: np.random.Generator) -> Tensor:
        drawn = rng.choice(len(row), entries(share, len(row)), replace=False, shuffle=False)
        return torch.from_numpy(drawn).to(row.device)

    return Compressor(
        lambda z, rng: _raw(z[places(z, rng)]),
        lambda message, like, rng: _filled(like, places(like, rng), _read(message, like.dtype)),
        lambda width, item: entries(share, width) * item,
    )


def quantised(share: float, bits: int) -> Compressor:
    """All entries, rounded to the nearest of 2^bits - 1 levels between minus and plus the row's largest one."""
    levels = 2 ** (bits - 1) - 1

    def pack(z: Tensor, rng: np.random.Generator) -> Tensor:
        step = (z.abs().max() / levels).clamp(min=torch.finfo(z.dtype).tiny)
        steps = (z / step).round_().add_(levels)
        parts = (packed(part, bits) for part in pieces_of(steps, COLUMNS))
        return torch.cat([_raw(step[None]), *parts])

    def unpack(message: Tensor, like: Tensor, rng: np.random.Generator) -> Tensor:
        item = like.element_size()
        step, parts = message[:item], pieces_of(message[item:], COLUMNS * bits // 8)
        steps = torch.cat([unpacked(part, bits, like.dtype) for part in parts])[: len(like)]
        return steps.sub_(levels).mul_(_read(step, like.dtype))

    return Compressor(pack, unpack, lambda width, item: ceil(width * bits / 8) + item)


def packed(steps: Tensor, bits: int) -> Tensor:
    """Return whole numbers (D,) below 2^bits as bytes (ceil(D bits / 8),), the lowest bit first."""
    ones = (steps.int()[:, None] >> torch.arange(bits, device=steps.device)) & 1
    ones = torch.nn.functional.pad(ones.to(torch.uint8).flatten(), (0, -ones.numel() % 8))
    return (ones.view(-1, 8) << torch.arange(8, device=steps.device)).sum(1).to(torch.uint8)


def unpacked(message: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """Return the whole numbers of `packed`, as numbers of a dtype; zeros may follow them."""
    ones = (message[:, None] >> torch.arange(8, device=message.device)) & 1
    rows = ones.flatten()[: 8 * len(message) // bits * bits].view(-1, bits)
    return (rows.int() << torch.arange(bits, device=message.device)).sum(1).to(dtype)


def _raw(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.uint8)


def _read(message: Tensor, dtype: torch.dtype) -> Tensor:
    # A copy: numbers of eight bytes may begin at any byte of a message, but not at any of memory.
    return message.clone().view(dtype)


def _filled(like: Tensor, places: Tensor, values: Tensor) -> Tensor:
    return torch.zeros_like(like).index_copy_(0, places, values)


COMPRESSORS = {"top-k": top_k, "random-k": random_k, "quantised": quantised}


def entries(share: float, width: int) -> int:
    """Return how many of so many entries a share of them is: one at least."""
    return max(1, min(width, round(share * width)))


def compressor(name: str, share: float, bits: int, gamma: float) -> Compressor | None:
    """Return the compressor of a name, or None for "none"; raise BadInput."""
    make = pick({"none": None, **COMPRESSORS}, name, "compress")
    allowed = "1 with --compress none: messages are whole"
    check(gamma == 1 or make is not None, "gamma", gamma, allowed)
    return make and make(share, bits)._replace(gamma=gamma)


def compressed(how: Compressor, seed: int, halo: Halo | None = None) -> ch.Wrap:
    """Return the wrap that sends short messages through a channel.

    `seed` is for what is random in a message; `halo` holds the replicas of clients in other processes.
    """

    def wrap(inner: Channel) -> Channel:
        allowed = "without noise: a replica adds up what it hears, and errors of it never leave"
        check(inner.exact, "faults", "noise on compressed messages", allowed)

        def exchange(call: Call, x: Tensor, wire: Wire, size: Size | None = None) -> Tensor:
            waiting = _waiting(inner, how, call, x.shape[1], x.element_size(), wire)
            replica = _replica(inner, how, seed, halo, call, x, wire)
            before = wire.tallies.get("mean_moved", 0.0)
            moved = inner.exchange(call, replica, wire, waiting).sub_(replica)
            x_new = moved.mul_(how.gamma).add_(x)
            if before != (now := wire.tallies.get("mean_moved", 0.0)):
                # x moves by gamma times its replica
                wire.tallies["mean_moved"] = before + how.gamma * (now - before)
            return x_new

        def predicted(
            call: Call, width: int, item: int, wire: Wire, size: Size | None = None
        ) -> np.ndarray:
            waiting = _waiting(inner, how, call, width, item, wire)
            return inner.predicted(call, width, item, wire, waiting)

        copies = inner.copies + 1 + (halo.share if halo else 0)
        return inner._replace(exchange=exchange, predicted=predicted, copies=copies)

    return wrap


def _waiting(
    channel: Channel, how: Compressor, call: Call, width: int, item: int, wire: Wire
) -> np.ndarray:
    """Return the bytes (E,) of the messages of this mixing, i from j: all that j has said since i last heard it.

    `wire` keeps what still waits after it.
    """
    whole, speaks = width * item, np.ones(channel.topology.n, bool)
    speaks[channel.absent(call.step)] = False
    said = speaks[channel.links[:, 1]] * how.size(width, item)
    before = wire.tables.get(f"{call.key}.waiting", np.zeros_like(wire.sent))
    waiting = np.full_like(before, whole) if call.first else np.minimum(before + said, whole)
    failed, reached = channel.failed(call.turn), channel.messages(call.turn) > 0
    if failed is not None:
        reached &= ~failed
    wire.tables[f"{call.key}.waiting"] = np.where(reached, 0, waiting)
    return waiting


def _replica(
    channel: Channel,
    how: Compressor,
    seed: int,
    halo: Halo | None,
    call: Call,
    x: Tensor,
    wire: Wire,
) -> Tensor:
    """Return the replicas (n, D) of this process's clients, brought nearer to x by their messages; absent ones say nothing."""

    def rng(client: int) -> np.random.Generator:
        return np.random.default_rng([seed, call.turn, call.block, client])

    def read(client: int, message: Tensor, row: Tensor) -> None:
        row.add_(how.unpack(message, row, rng(client)))

    silent, name = set(channel.absent(call.step).tolist()), f"{call.key}.replica"
    messages: dict[int, Tensor] = {}
    if name not in wire.letters:
        wire.letters[name] = x.clone()
    else:
        # A row at a time: little memory beside X.
        for i, row, copy in zip(channel.site.clients, x, wire.letters[name], strict=True):
            if i not in silent:
                message = how.pack(row - copy, rng(i))
                read(i, message, copy)
                messages.update({i: message} if halo and i in halo.asked else {})
    if halo:
        halo.hear(name, wire, messages, silent, how.size(x.shape[1], x.element_size()), read)
    return wire.letters[name]
