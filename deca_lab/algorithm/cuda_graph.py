"""The stacked engine as CUDA graphs: a gradient's kernels are recorded once a block, then launched by one call.

The kernels of a small model end sooner than the host can launch the next, so a GPU mostly waits. A graph launches all of
them at once. It reads and writes fixed places in memory, so what a step brings is copied there: one copy of the weights,
and one gradient for each size of block, are held beside the run's and shared by all graphs.
"""

import gc
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from deca_lab.algorithm.compiled import shape_of
from deca_lab.algorithm.stacking import Layout, Params
from deca_lab.errors import BadInput, check, first_line, out_of_memory

# (X, where, rest, batch) -> ((N,), (N, D))
Gradients = Callable[[Tensor, Layout, Params, Any], tuple[Tensor, Tensor]]
Work = Callable[[], None]

DEVICES = ("cuda",)
RECORDING = Lock()  # a process records one piece of work at a time
NAME = "engine = 'cuda-graph'"


class Graph(NamedTuple):
    """A recorded gradient: the places that it reads, the two that it writes, and what launches it."""

    reads: list[Tensor]
    writes: list[Tensor]
    launch: Work

    def of(self, given: Sequence[Tensor]) -> list[Tensor]:
        """Return what the graph writes, of what is given."""
        for place, value in zip(self.reads, given, strict=True):
            place.copy_(value)
        self.launch()
        return self.writes


def require_cuda(device: str) -> None:
    """Raise BadInput for a device that has no CUDA graphs."""
    check(device in DEVICES, "engine", "cuda-graph", f"stacked on {device}: it needs a CUDA device")


def recorder(device: torch.device) -> Callable[[Work], Work]:
    """Return what records a piece of work on a GPU and returns its launch; all pieces take turns in one memory."""
    gc.collect()  # a graph that ended, freed in the midst of a recording, would spoil it
    pool = torch.cuda.graph_pool_handle()

    def record(work: Work) -> Work:
        with RECORDING, torch.cuda.device(device):
            _rehearsed(work, _side(device))
            graph, side, here = torch.cuda.CUDAGraph(), _side(device), torch.cuda.current_stream()
            # a cell of a notebook may use the GPU while a training records in its own thread
            mode = "thread_local"
            try:
                with torch.cuda.graph(graph, pool, side, capture_error_mode=mode):
                    work()
            finally:
                torch.cuda.set_stream(here)  # torch itself leaves it where a recording fails
        return partial(_launch, graph, device)

    return record


def _rehearsed(work: Work, side: torch.cuda.Stream) -> None:
    """Do the work on the stream of recordings; raise RuntimeError where it would wait for the GPU.

    Within a recording such a wait cannot be forgiven: it leaves torch's allocator unfit for the next one.
    """
    before = torch.cuda.get_sync_debug_mode()
    side.wait_stream(torch.cuda.current_stream())
    try:
        with warnings.catch_warnings(), torch.cuda.stream(side):
            warnings.simplefilter("ignore")  # that the mode is a prototype
            torch.cuda.set_sync_debug_mode("error")
            work()
    finally:
        torch.cuda.set_sync_debug_mode(before)
    torch.cuda.current_stream().wait_stream(side)


@cache
def _side(device: torch.device) -> torch.cuda.Stream:
    """Return the stream of recordings, one a GPU: cuBLAS keeps memory for each stream that it ever saw."""
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream


def _launch(graph: torch.cuda.CUDAGraph, device: torch.device) -> None:
    with torch.cuda.device(device):
        graph.replay()


def replayed(inner: Gradients) -> Gradients:
    """Return the engine that records the gradients of `inner`, a graph for each block and shape, and launches them.

    What is given is copied to a graph's places, and copies of what it wrote are returned, which no later launch changes.
    A block's first gradient is computed without its graph, and its second both ways. Raises BadInput where a part of the
    loss cannot be recorded, or where the two differ by more than rounding: the loss is then more than operations on tensors.
    """
    graphs: dict[object, Graph] = {}
    places: dict[object, Tensor] = {}
    compared: set[object] = set()
    records: list[Callable[[Work], Work]] = []  # one, made with the first graph

    def gradients(x: Tensor, where: Layout, rest: Params, batch: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        given = Given(x, where, rest, batch)
        key, tensors = (where, tuple(rest), shape_of((x, rest, batch))), given.tensors
        if key not in graphs:
            plain = inner(*given)  # loads every kernel, which a recording may not do
            records[:] = records or [recorder(x.device)]
            reads = {name: _place(places, name, t) for name, t in tensors.items()}
            writes = [_place(places, i, t) for i, t in zip(("losses", "g"), plain, strict=True)]
            work = partial(_write, writes, inner, given.from_places(reads))
            graphs[key] = Graph([*reads.values()], writes, _recorded(records[0], work))
            writes[1].fill_(torch.nan)  # lest what is there be taken for the graph's
            return plain
        losses, g = (t.clone() for t in graphs[key].of([*tensors.values()]))
        if key not in compared:
            _require_same((losses, g), inner(*given))
            compared.add(key)
        return losses, g

    return gradients


class Given(NamedTuple):
    """What a step gives to its gradient."""

    x: Tensor
    where: Layout
    rest: Params
    batch: Any

    @property
    def tensors(self) -> dict[Any, Tensor]:
        """Return every tensor that is read, once, each under the names that are views of it or its number in the batch."""
        parts = dict(enumerate(tree_leaves(self.batch)))
        return {self.where.names: self.x, **_owners(self.rest), **parts}

    def from_places(self, places: Mapping[Any, Tensor]) -> "Given":
        """Return the same of the places that stand for its `tensors`."""
        leaves, form = tree_flatten(self.batch)
        batch = tree_unflatten([places[i] for i in range(len(leaves))], form)
        rest = _views(self.rest, _owners(self.rest), places)
        return Given(places[self.where.names], self.where, rest, batch)


def _owners(rest: Params) -> dict[tuple[str, ...], Tensor]:
    """Return the tensors whose memory the named ones are views of, each under all the names that are."""
    owners: dict[int, Tensor] = {}
    names: dict[int, list[str]] = {}
    for name, t in rest.items():
        memory = t.untyped_storage().data_ptr()
        owners[memory] = t if t._base is None else t._base
        names.setdefault(memory, []).append(name)
    return {tuple(names[memory]): owner for memory, owner in owners.items()}


def _views(
    rest: Params, owners: Mapping[tuple[str, ...], Tensor], places: Mapping[Any, Tensor]
) -> Params:
    """Return the named tensors once more, in order, as views of the places that stand for their owners."""
    owner_of = {name: names for names in owners for name in names}
    views = {}
    for name, t in rest.items():
        owner = owner_of[name]
        begins = t.storage_offset() - owners[owner].storage_offset()
        views[name] = places[owner].as_strided(t.size(), t.stride(), begins)
    return views


def _place(places: dict[object, Tensor], name: object, like: Tensor) -> Tensor:
    """Return the place of what has this name and form."""
    key = name, shape_of(like)
    if key not in places:
        places[key] = like.clone()
    return places[key]


def _write(places: Sequence[Tensor], inner: Gradients, given: Any) -> None:  # noqa: ANN401
    """Write losses and gradient of what is given to the places."""
    for place, value in zip(places, inner(*given), strict=True):
        place.copy_(value)


def _recorded(record: Callable[[Work], Work], work: Work) -> Work:
    try:
        return record(work)
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        why = first_line(error.__context__ or error)  # the first of two
        raise BadInput(f"{NAME} cannot record this model: {why}; use stacked") from error


def _require_same(launched: Sequence[Tensor], plain: Sequence[Tensor]) -> None:
    """Raise BadInput where a graph's results are not those without it; what is not finite is told elsewhere."""
    for ours, theirs in zip(launched, plain, strict=True):
        size, near = theirs.norm(), torch.finfo(theirs.dtype).eps ** 0.5
        if not bool((ours - theirs).norm() <= near * size) and bool(size.isfinite()):
            raise BadInput(f"{NAME} gives another gradient than without its graph; use stacked")
