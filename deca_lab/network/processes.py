"""Clients spread over processes (torch.distributed): the same loop, whose mixing sends rows to graph neighbours only.

A process, a rank, holds some rows of X. A mixing sends what the other rank's clients hear of mine, point to point, and
computes its own part meanwhile; there is no server. Rank 0 also measures, writes checkpoints and reports: for that, and
for nothing else, it gathers all rows. Only tensors travel, never pickled objects.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from deca_lab.algorithm.channel import Carrier, Rows, Site, Wire, gossip, silence
from deca_lab.algorithm.loop import Plan, State, working
from deca_lab.algorithm.optimisers import (
    OptState,
    each_tensor,
    leaves,
    numbers,
    tensors,
    with_leaves,
)
from deca_lab.algorithm.stacking import Layout
from deca_lab.errors import BadInput, PeerLost, check, first_line, out_of_memory
from deca_lab.mixing.matrix import Matrix
from deca_lab.mixing.topology import Topology, ever_heard
from deca_lab.network.meeting import number_of, require_place, require_secret

# For a rank that is measuring, say. Gloo notices a dead one at once; NCCL waits so long, and then ends the process.
WAIT = timedelta(minutes=10)


class World(NamedTuple):
    """This process among all: its rank, how many there are, and how many clients in all."""

    rank: int = 0
    size: int = 1
    clients: int = 0

    def rows(self, rank: int) -> slice:
        """Return the clients of a rank, as even as can be: the first ranks have one more."""
        each, more = divmod(self.clients, self.size)
        first = rank * each + min(rank, more)
        return slice(first, first + each + (rank < more))

    @property
    def mine(self) -> slice:
        """The clients of this rank."""
        return self.rows(self.rank)

    @property
    def site(self) -> Site:
        """The rows of X of this rank, for a channel."""
        return Site(self.mine, lambda x: summed(self, x))

    def of(self, clients: int) -> "World":
        """Return this world with so many clients; raise BadInput where a rank would have none."""
        allowed = f"{self.size} or more: every process has one at least"
        check(clients >= self.size, "clients", clients, allowed)
        return self._replace(clients=clients)


ALONE = World()  # one process


@contextmanager
def joined() -> Iterator[World]:
    """Join the world that torchrun started this process in, and leave it when all are done; one process where there is none.

    Tensors of a CPU go by Gloo, those of a GPU by NCCL: `--device cpu` works on any machine. Peers meet at torchrun's
    MASTER_ADDR, and show that they know DECA_LAB_SECRET. Raises BadInput where the environment does not fit, or a peer does
    not know the secret; PeerLost where none comes.
    """
    if number_of("WORLD_SIZE", 1, "1") == 1 or not dist.is_available():
        yield World()
        return
    require_place()
    gpus = torch.cuda.device_count()
    if gpus:
        torch.cuda.set_device(number_of("LOCAL_RANK", 0, "0") % gpus)
    nccl = gpus > 0 and dist.is_nccl_available()
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo", timeout=WAIT)
    except (RuntimeError, ValueError, OSError) as error:  # a port that is taken, no such host
        raise PeerLost(f"the processes did not meet at MASTER_ADDR ({first_line(error)})") from None
    world = World(dist.get_rank(), dist.get_world_size())
    try:
        with answering(world):
            require_secret(world.rank, world.size)
    except BadInput:  # all is exchanged; threads that live on may abort the process as it ends
        dist.destroy_process_group()
        raise
    yield world
    if gpus:
        torch.cuda.synchronize()  # what was given to NCCL is still on its way
    # Who leaves early breaks the others' connections. dist.barrier would take a GPU, and each needs one of its own.
    summed(world, torch.zeros(1))
    dist.destroy_process_group()


def require_own_gpu(world: World, device: torch.device) -> None:
    """Raise BadInput where processes of one machine would share a GPU, which NCCL refuses."""
    if world.size == 1 or device.type != "cuda":
        return
    here, gpus = number_of("LOCAL_WORLD_SIZE", 1, "1"), torch.cuda.device_count()
    allowed = f"{gpus} at most, a GPU each, or run with --device cpu"
    check(here <= gpus, "nproc-per-node", here, allowed)


@contextmanager
def answering(world: World) -> Iterator[None]:
    """Raise PeerLost where another rank is gone in the middle of an exchange."""
    try:
        yield
    except RuntimeError as error:
        if world.size == 1 or isinstance(error, PeerLost) or out_of_memory(error):
            raise
        who, why = f"rank {world.rank} of {world.size}", first_line(error)
        raise PeerLost(f"{who}: another rank is gone, or the network is ({why})") from None


def over(world: World, rule: Carrier = gossip, halo: "Halo | None" = None) -> Carrier:
    """Return the carrier that mixes by `rule` the rows of all processes, of which this one holds its own (n, D).

    Of each tensor a rank sends to another what that one's clients hear of its own; its own part is mixed meanwhile. Nothing
    is sent of a tensor whose other rows are in the `halo` already.
    """

    def carrier(shares: Sequence[Matrix], where: Layout, like: Tensor) -> Callable[[Rows], Tensor]:
        routes = [_route(world, W, like.device) for W in shares]
        # Shares in the order in which `_all_rows` yields rows: mine first, then others' by rank.
        parts = [W[world.mine, world.mine] for W in shares]
        for W, route in zip(shares, routes, strict=True):
            parts += [W[world.mine][:, rows] for rows in route.heard.values()]
        mix = rule(parts, where, like)
        return lambda rows: mix(_all_rows(world, routes, tuple(rows), halo))

    return carrier


class Route(NamedTuple):
    """For each other rank: the clients that mine hear of it, and the rows of mine that its clients hear."""

    heard: dict[int, np.ndarray]
    wanted: dict[int, Tensor]


def _route(world: World, W: Matrix, device: torch.device) -> Route:
    wanted = {rank: _heard(world, W, rank).get(world.rank) for rank in range(world.size)}
    rows = {rank: who - world.mine.start for rank, who in wanted.items() if who is not None}
    there = {rank: torch.from_numpy(mine).to(device) for rank, mine in rows.items()}
    return Route(_heard(world, W, world.rank), there)


def _heard(world: World, W: Matrix, rank: int) -> dict[int, np.ndarray]:
    """Return the clients of each other rank that some client of this `rank` hears, where there are any."""
    heard = np.unique(W[world.rows(rank)].nonzero()[1]).astype(np.int64)
    places = {other: world.rows(other) for other in range(world.size) if other != rank}
    clients = {k: heard[(heard >= r.start) & (heard < r.stop)] for k, r in places.items()}
    return {other: who for other, who in clients.items() if len(who)}


class Halo:
    """Replicas of clients in other processes, where a message says only what changed in a row.

    `asked` are the clients of this process that another one hears at some mixing, `share` the rows that the halos of all
    processes hold, in parts of N.
    """

    def __init__(self, world: World, topology: Topology) -> None:
        ever = ever_heard(topology)
        self._world = world
        # To every rank that hears a client at some mixing: else it would miss the changes in between.
        self._route = _route(world, ever, torch.device("cpu"))
        wanted = self._route.wanted.items()
        self._wanted = {rank: (rows + world.mine.start).tolist() for rank, rows in wanted}
        self.asked = {client for clients in self._wanted.values() for client in clients}
        heard = np.concatenate([np.zeros(0, np.int64), *self._route.heard.values()])
        self._rows = {int(client): row for row, client in enumerate(heard)}
        everywhere = (_heard(world, ever, rank) for rank in range(world.size))
        self.share = sum(len(who) for heard in everywhere for who in heard.values()) / topology.n
        self._newest: tuple[Tensor | None, Tensor | None] = (None, None)

    def hear(
        self,
        name: str,
        wire: Wire,
        messages: Mapping[int, Tensor],
        silent: Collection[int],
        size: int,
        read: Callable[[int, Tensor, Tensor], None],
    ) -> None:
        """Bring the replicas `name` up to date: send these clients' messages, and `read` the others' into their rows.

        Whole rows are sent where they are shorter, and where a visit or a resumed run begins without replicas.
        """
        own = wire.letters[name]
        if name in wire.heard and size < own[0].nbytes:
            self._read(wire.heard[name], messages, silent, size, read)
        else:
            _, *arrived = _all_rows(self._world, [self._route], [own])
            wire.heard[name] = torch.cat([own[:0], *arrived])
        self._newest = (own, wire.heard[name])

    def _read(
        self,
        rows: Tensor,
        messages: Mapping[int, Tensor],
        silent: Collection[int],
        size: int,
        read: Callable[[int, Tensor, Tensor], None],
    ) -> None:
        heard, wanted = (
            {rank: [int(i) for i in clients if i not in silent] for rank, clients in sides.items()}
            for sides in (self._route.heard, self._wanted)
        )
        blank = rows.new_empty(0, size, dtype=torch.uint8)
        room = {rank: blank.new_empty(len(who), size) for rank, who in heard.items()}
        sent = {k: torch.stack([messages[i] for i in who]) for k, who in wanted.items() if who}
        pending = [dist.P2POp(dist.irecv, x, rank) for rank, x in room.items() if len(x)]
        pending += [dist.P2POp(dist.isend, x, rank) for rank, x in sent.items()]
        _done(self._world, pending)
        for rank, who in heard.items():
            for client, message in zip(who, room[rank], strict=True):
                read(client, message, rows[self._rows[client]])

    def rows_of(self, x: Tensor, route: Route) -> list[Tensor] | None:
        """Return the replicas that a route brings, where x holds this process's newest ones."""
        own, others = self._newest
        if x is not own or others is None:
            return None
        return [others[[self._rows[int(i)] for i in who]] for who in route.heard.values()]


def _all_rows(
    world: World, routes: Sequence[Route], own: Sequence[Tensor], halo: Halo | None = None
) -> Iterator[Tensor]:
    """Yield this rank's rows of each tensor, then, when they are there, those that it hears of the others."""
    arrived, pending = [], []
    with answering(world):
        for x, route in zip(own, routes, strict=True):
            rows = halo.rows_of(x, route) if halo else None
            if rows is None:
                rows = [x.new_empty(len(who), x.shape[1]) for who in route.heard.values()]
                # Receives first: Gloo starts a send at once, and on a slow link waits until the peer has somewhere to put it.
                room = zip(rows, route.heard, strict=True)
                pending += [dist.P2POp(dist.irecv, row, rank) for row, rank in room]
                sides = route.wanted.items()
                pending += [dist.P2POp(dist.isend, x[index], rank) for rank, index in sides]
            arrived.append(rows)
        work = _started(pending)
    # Before the wait: the caller mixes its own rows while the others' are on their way.
    yield from own
    with answering(world):
        for one in work:
            one.wait()
    for rows in arrived:
        yield from rows


def _started(operations: list[Any]) -> list[Any]:
    return dist.batch_isend_irecv(operations) if operations else []


def _done(world: World, operations: list[Any]) -> None:
    """Send and receive, and wait until all of it is there."""
    with answering(world):
        for one in _started(operations):
            one.wait()


def gathered(world: World, x: Tensor) -> Tensor:
    """Return all clients' rows (N, ...) on rank 0, of each rank's rows (n, ...); elsewhere the rank's own."""
    if world.size == 1:
        return x
    # As a batch, and not one send after another, for which NCCL would set up each pair of ranks anew.
    if world.rank:
        _done(world, [dist.P2POp(dist.isend, x.contiguous(), 0)])
        return x
    # dist.gather would want equally many rows of each.
    others = range(1, world.size)
    parts = [x.new_empty(_count(world.rows(rank)), *x.shape[1:]) for rank in others]
    _done(world, [dist.P2POp(dist.irecv, part, r) for r, part in zip(others, parts, strict=True)])
    return torch.cat([x, *parts])


def scattered(world: World, x: Tensor | None, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return this rank's rows (n, *shape) of all clients' rows, which rank 0 alone holds."""
    if world.size == 1:
        assert x is not None
        return x
    if world.rank:
        part = like.new_empty(_count(world.mine), *shape)
        _done(world, [dist.P2POp(dist.irecv, part, 0)])
        return part
    assert x is not None
    for rank in range(1, world.size):  # in turn, so that one part at a time is on the device
        part = x[world.rows(rank)].to(like.device).contiguous()
        _done(world, [dist.P2POp(dist.isend, part, rank)])
    return x[world.mine].clone()


def summed(world: World, x: Tensor) -> Tensor:
    """Return the sum over ranks of a small tensor, on every rank."""
    if world.size > 1:
        with answering(world):
            dist.all_reduce(x)
    return x


def broadcast(world: World, numbers: list[int] | None) -> list[int]:
    """Return rank 0's whole numbers on every rank; the others give None."""
    if world.size == 1:
        assert numbers is not None
        return numbers
    with answering(world):
        # Their number first: a receiver must make room before they come.
        count = torch.tensor([len(numbers or [])])
        dist.broadcast(count, 0)
        room = [0] * int(count)
        received = torch.tensor(numbers or room, dtype=torch.int64)
        dist.broadcast(received, 0)
    return [int(number) for number in received]


def through_server(world: World) -> Carrier:
    """Return the carrier of a server's average: every process sends the sum of its rows, and hears that of all."""

    def carrier(shares: Sequence[Matrix], where: Layout, like: Tensor) -> Callable[[Rows], Tensor]:
        def mix(rows: Rows) -> Tensor:
            (x,) = rows
            return summed(world, x.sum(0)).div_(world.clients).expand_as(x).clone()

        return mix

    return carrier


def gathered_state(world: World, state: State) -> State:
    """Return the state of all clients on rank 0; on other ranks one that is not to be read."""
    if world.size == 1:
        return state

    whole = partial(gathered, world)
    moments = {k: each_tensor(optimiser, whole) for k, optimiser in state.moments.items()}
    # A copy, since the sum is written in place: the state that goes on training keeps its own.
    sent = summed(world, torch.tensor(state.sent)).numpy()
    letters = {name: whole(letter) for name, letter in state.wire.letters.items()}
    wire = state.wire._replace(sent=sent, letters=letters)
    blocks = tuple(map(whole, state.blocks))
    master = None if state.master is None else whole(state.master)
    return state._replace(blocks=blocks, moments=moments, master=master, wire=wire)


def scattered_state(world: World, plan: Plan, state: State | None) -> State:
    """Return this rank's part of the state of all clients, which rank 0 holds."""
    if world.size == 1:
        assert state is not None
        return state
    like = next(iter(plan.problem.start.values())).flatten()[:0]
    known = _outline(world, state)
    widths = [(where.width,) for where in plan.layouts]

    part, wide = partial(scattered, world), plan.channel.like
    rows = state.blocks if state else [None] * len(widths)
    blocks = tuple(part(x, width, like) for x, width in zip(rows, widths, strict=True))
    # At the end of the run no visit follows: then the last one counts.
    active = plan.visits[min(known["step"], plan.steps - 1) // plan.recipe.inner_steps].block
    master = None
    if known["master"]:
        master = part(state.master if state else None, widths[active], wide)
    moments = {}
    for k, counts in known["moments"].items():
        fresh = plan.optimisers[int(k)].init(working(blocks[int(k)]))
        whole = state.moments[int(k)] if state else None
        moments[int(k)] = _scattered_moments(part, fresh, counts, whole)
    letters = {}
    for name in known["letters"]:
        letter = state.wire.letters[name] if state else None
        letters[name] = part(letter, widths[int(name.split(".")[0])], wide)
    # The others' sums of bytes start again from zero.
    sent = state.sent if state else silence(len(plan.channel.links)).sent
    tables = {name: np.array(table, np.int64) for name, table in known["tables"].items()}
    wire = Wire(sent, letters, tables, known["tallies"], {})
    return State(known["step"], blocks, master, moments, wire)


def _outline(world: World, state: State | None) -> dict[str, Any]:
    """Return, on every rank, all of rank 0's state that is no row of a client."""
    text = None
    if state is not None:
        known = {
            "step": state.step,
            "master": state.master is not None,
            "moments": {k: numbers(optimiser) for k, optimiser in state.moments.items()},
            "letters": list(state.wire.letters),
            "tallies": state.wire.tallies,
            "tables": {name: table.tolist() for name, table in state.wire.tables.items()},
        }
        # As bytes of JSON: only tensors travel, for what unpickles an object would run whatever a peer sends.
        text = list(json.dumps(known).encode())
    outline: dict[str, Any] = json.loads(bytes(broadcast(world, text)))
    return outline


def _scattered_moments(
    part: Callable[..., Tensor], template: OptState, counts: list[Any], state: OptState | None
) -> OptState:
    """Return an optimiser's state of this rank's rows, in the shape of a fresh one."""
    given, rest = iter(tensors(state) if state is not None else ()), iter(counts)

    def own(leaf: Any) -> Any:  # noqa: ANN401 - a tensor or a number
        tensor = isinstance(leaf, Tensor)
        return part(next(given, None), tuple(leaf.shape[1:]), leaf) if tensor else next(rest)

    return with_leaves(template, map(own, leaves(template)))


def _count(rows: slice) -> int:
    return int(rows.stop - rows.start)
