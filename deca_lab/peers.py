"""Clients spread over processes (torch.distributed): the same loop, whose mixing sends rows to graph neighbours only.

A process, a rank, holds some rows of X. A mixing sends what the other rank's clients hear of mine, point to point, and
computes its own part meanwhile; there is no server. Rank 0 also measures, writes checkpoints and reports: for that, and
for nothing else, it gathers all rows. Only tensors travel, never pickled objects.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from deca_lab.errors import PeerLost, check
from deca_lab.gossip import Mix
from deca_lab.tree import Layout

WAIT = timedelta(minutes=10)         # for a rank that is measuring, say; one that is dead is noticed at once


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

    def of(self, clients: int) -> "World":
        """Return this world with so many clients; raise BadInput where a rank would have none."""
        check(clients >= self.size, "clients", clients, f"{self.size} or more: every process has one at least")
        return self._replace(clients=clients)


@contextmanager
def joined() -> Iterator[World]:
    """Join the world that torchrun started this process in, and leave it when all are done; one process where there is none.

    Gloo on CPUs, NCCL where there are GPUs. Peers meet at torchrun's MASTER_ADDR.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not dist.is_available():
        yield World()
        return
    gpus = torch.cuda.device_count()
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % gpus)
    dist.init_process_group("nccl" if gpus else "gloo", timeout=WAIT)
    world = World(dist.get_rank(), dist.get_world_size())
    yield world
    with answering(world):
        dist.barrier()                                                  # who leaves early breaks the others' connections
    dist.destroy_process_group()


@contextmanager
def answering(world: World) -> Iterator[None]:
    """Raise PeerLost where another rank is gone in the middle of an exchange."""
    try:
        yield
    except RuntimeError as error:
        if world.size == 1 or isinstance(error, PeerLost):
            raise
        raise PeerLost(f"rank {world.rank} of {world.size}: another rank is gone, or the network is "
                       f"({str(error).splitlines()[0][:160]})") from None


def exchange(world: World) -> Callable[[np.ndarray, Layout, Tensor], Mix]:
    """Return the Combine of train.py whose X are this rank's rows (n, D): x_new_i = sum_j w_ij x_j over all clients."""

    def combine(W: np.ndarray, where: Layout, like: Tensor) -> Mix:
        own = W[world.mine]
        others = [rank for rank in range(world.size) if rank != world.rank]
        heard = {rank: np.flatnonzero((own[:, world.rows(rank)] != 0).any(0)) for rank in others}
        told = {rank: np.flatnonzero((W[world.rows(rank), world.mine] != 0).any(0)) for rank in others}
        parts = {rank: _matrix(own[:, world.rows(rank)][:, rows], like) for rank, rows in heard.items() if len(rows)}
        chosen = {rank: torch.from_numpy(rows).to(like.device) for rank, rows in told.items() if len(rows)}
        inner = _matrix(own[:, world.mine], like)

        def mix(x: Tensor) -> Tensor:
            arrived = {rank: x.new_empty(part.shape[1], x.shape[1]) for rank, part in parts.items()}
            with answering(world):
                work = _started([dist.P2POp(dist.irecv, rows, rank) for rank, rows in arrived.items()]     # first: Gloo sends
                                + [dist.P2POp(dist.isend, x[rows], rank) for rank, rows in chosen.items()])  # when told to
                mixed = inner @ x                                       # while the neighbours' rows travel
                for one in work:
                    one.wait()
            for rank, rows in arrived.items():
                mixed.addmm_(parts[rank], rows)
            return mixed

        return mix

    return combine


def _matrix(W: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(W)).to(device=like.device, dtype=like.dtype)


def _started(operations: list[Any]) -> list[Any]:
    return dist.batch_isend_irecv(operations) if operations else []


def gathered(world: World, x: Tensor) -> Tensor:
    """Return all clients' rows (N, ...) on rank 0, of each rank's rows (n, ...); elsewhere the rank's own."""
    if world.size == 1:
        return x
    with answering(world):
        if world.rank:
            dist.send(x.contiguous(), 0)
            return x
        parts = [x] + [x.new_empty(_count(world.rows(rank)), *x.shape[1:]) for rank in range(1, world.size)]
        for rank, part in enumerate(parts[1:], 1):
            dist.recv(part, rank)
    return torch.cat(parts)


def scattered(world: World, x: Tensor | None, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return this rank's rows (n, *shape) of all clients' rows, which rank 0 alone holds."""
    if world.size == 1:
        assert x is not None
        return x
    with answering(world):
        if world.rank:
            part = like.new_empty(_count(world.mine), *shape)
            dist.recv(part, 0)
            return part
        assert x is not None
        for rank in range(1, world.size):
            dist.send(x[world.rows(rank)].to(like.device).contiguous(), rank)
    return x[world.mine].clone()


def summed(world: World, x: Tensor) -> Tensor:
    """Return the sum over ranks of a small tensor, on every rank."""
    if world.size > 1:
        with answering(world):
            dist.all_reduce(x)
    return x


def told(world: World, numbers: list[int] | None, device: torch.device) -> list[int]:
    """Return rank 0's whole numbers on every rank."""
    if world.size == 1:
        assert numbers is not None
        return numbers
    with answering(world):
        count = torch.tensor([len(numbers or [])], device=device)
        dist.broadcast(count, 0)
        held = torch.tensor(numbers, device=device) if numbers else torch.zeros(int(count), dtype=torch.int64, device=device)
        dist.broadcast(held, 0)
    return [int(number) for number in held]


def _count(rows: slice) -> int:
    return int(rows.stop - rows.start)
