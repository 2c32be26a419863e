"""A channel: what carries a block to the neighbours and back. Of all that is on the wire, the loop knows `exchange` alone.

The plain channel mixes with the topology's W. Faults and short messages are channels that wrap it (network/): each has its
own memory in the `Wire`, counts what it sends, and predicts it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from deca_lab.algorithm.stacking import Layout
from deca_lab.mixing.gossip import mixer, row_bytes
from deca_lab.mixing.matrix import Matrix
from deca_lab.mixing.topology import Topology

Rows = Iterable[Tensor]  # (n_p, D), as many as there are shares
# (shares, columns, like) -> rows -> X
Carrier = Callable[[Sequence[Matrix], Layout, Tensor], Callable[[Rows], Tensor]]
Size = int | np.ndarray  # bytes of one message, or (E,) of that along each link
NOBODY = np.zeros(0, np.int64)


def gossip(shares: Sequence[Matrix], where: Layout, like: Tensor) -> Callable[[Rows], Tensor]:
    """Mix every column alike: x_new_i = sum_p sum_j share_p[i, j] rows_p[j]; the papers' mixing has one part, W and X."""
    first, *others = [mixer(share, like) for share in shares]
    if not others:
        return lambda rows: first(*rows)

    def mix(rows: Rows) -> Tensor:
        arriving = iter(rows)  # parts of other processes may still be on their way
        x_new = first(next(arriving))
        for part, row in zip(others, arriving, strict=True):
            x_new += part(row)
        return x_new

    return mix


class Site(NamedTuple):
    """Whose rows of X this process holds, and how a small tensor is summed over processes."""

    mine: slice
    total: Callable[[Tensor], Tensor] = lambda x: x

    @property
    def clients(self) -> range:
        """The numbers of the clients that are here."""
        return range(self.mine.start, self.mine.stop)

    def hears(self, links: np.ndarray) -> np.ndarray:
        """Return (E,) bool: which links (E, 2) lead to clients that are here."""
        here: np.ndarray = (links[:, 0] >= self.mine.start) & (links[:, 0] < self.mine.stop)
        return here

    def local(self, clients: np.ndarray) -> np.ndarray:
        """Return the rows of X (n, D) that belong to these clients, of those that are here."""
        if not len(clients):
            return clients
        here = (clients >= self.mine.start) & (clients < self.mine.stop)
        rows: np.ndarray = clients[here] - self.mine.start
        return rows


class Call(NamedTuple):
    """One tensor of one mixing."""

    step: int  # inner step
    turn: int  # number of the mixing
    block: int
    number: int  # among the tensors of this block that the mixing carries: the optimiser's, then X
    first: bool  # whether the mixing is the first of its visit

    @property
    def key(self) -> str:
        """Name under which a channel keeps what belongs to this tensor."""
        return f"{self.block}.{self.number}"


class Wire(NamedTuple):
    """What a channel remembers between mixings: a part of the state, and so of the checkpoint.

    `sent`: the bytes (E,) that came along each link to this process's clients. `letters`: earlier messages and replicas
    (n, D). `tables`: whole numbers (E,), and `tallies`: sums, both equal in all processes. `heard`: replicas of
    clients in other processes, which no checkpoint keeps, since they can be asked for again. All but `sent` and tallies
    ends with the visit; its names begin with `Call.key`.
    """

    sent: np.ndarray
    letters: dict[str, Tensor]
    tables: dict[str, np.ndarray]
    tallies: dict[str, float]
    heard: dict[str, Tensor]


def silence(links: int) -> Wire:
    """Return the memory of a channel of so many links that has carried nothing."""
    return Wire(np.zeros(links, np.int64), {}, {}, {}, {})


def copied(wire: Wire) -> Wire:
    """Return a copy that can be written to."""
    letters, heard = (
        {name: x.clone() for name, x in kept.items()} for kept in (wire.letters, wire.heard)
    )
    return Wire(wire.sent.copy(), letters, dict(wire.tables), dict(wire.tallies), heard)


def ended(wire: Wire) -> Wire:
    """Return what is left of the memory when a visit ends."""
    # When the block's turn comes again they would be a round old; `sent` and tallies are the run's.
    return wire._replace(letters={}, tables={}, heard={})


class Channel(NamedTuple):
    """How a tensor X (n, D) reaches the neighbours and comes back mixed, in this process.

    `exchange(call, x, wire, size)` returns X_new and writes the channel's memory; `size` is the bytes of a message where it
    is not a row of x. `predicted(call, width, item, wire, size)` returns the bytes (E,) of the same exchange without
    doing it, of so many columns of so many bytes, and remembers what it must in the tables of `wire`. `messages(turn)` are
    those sent along each of the `links` (E, 2), i from j; `failed(turn)` bool (E,) where a channel loses some;
    `absent(step)` the clients that neither train nor talk at an inner step. `copies`: tensors like X that it keeps, for the
    memory ledger. `exact` says whether what is heard is what was said, now or earlier.
    """

    topology: Topology
    links: np.ndarray  # the topology's
    layouts: tuple[Layout, ...]
    like: Tensor  # an empty tensor: device and working precision
    carrier: Carrier
    site: Site
    exchange: Callable[[Call, Tensor, Wire, Size | None], Tensor]
    predicted: Callable[[Call, int, int, Wire, Size | None], np.ndarray]
    messages: Callable[[int], np.ndarray]
    failed: Callable[[int], np.ndarray | None] = lambda turn: None
    absent: Callable[[int], np.ndarray] = lambda step: NOBODY
    copies: float = 0
    exact: bool = True
    plain: Callable[..., Tensor] | None = None  # the `exchange` that is W X and nothing else


Wrap = Callable[[Channel], Channel]


def plain(
    topology: Topology,
    layouts: tuple[Layout, ...],
    like: Tensor,
    carrier: Carrier = gossip,
    site: Site | None = None,
) -> Channel:
    """Return the channel of the papers: every message arrives whole, at once, as it was sent."""
    here = site or Site(slice(0, topology.n))

    mixings = [[carrier([W], where, like) for where in layouts] for W in topology.matrices]
    links = topology.links
    said = [topology.messages(number, links) for number in range(topology.period)]
    heard = [times * here.hears(links) for times in said]

    def exchange(call: Call, x: Tensor, wire: Wire, size: Size | None = None) -> Tensor:
        number = call.turn % topology.period
        count(wire, heard[number], row_bytes(x) if size is None else size)
        return mixings[number][call.block]((x,))

    def predicted(
        call: Call, width: int, item: int, wire: Wire, size: Size | None = None
    ) -> np.ndarray:
        return messages(call.turn) * (width * item if size is None else size)

    def messages(turn: int) -> np.ndarray:
        return said[turn % topology.period]

    whole = exchange if carrier is gossip and site is None else None
    return Channel(
        topology, links, layouts, like, carrier, here, exchange, predicted, messages, plain=whole
    )


def count(wire: Wire, heard: np.ndarray, size: Size) -> None:
    """Add the bytes of so many messages along each link (E,)."""
    np.add(wire.sent, heard * size, out=wire.sent)
