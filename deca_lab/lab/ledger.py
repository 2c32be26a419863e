"""The ledger: what a run must send and hold by the formulas, beside what was sent and held."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from deca_lab.algorithm.channel import Call, silence
from deca_lab.algorithm.loop import Plan
from deca_lab.algorithm.rounding import scratch
from deca_lab.models.causal_lm import layer_of

if TYPE_CHECKING:  # torch's own have no types: what is used of them

    class StorageWeakRef:
        """A storage that is not kept alive."""

        def __init__(self, storage: torch.UntypedStorage) -> None: ...

        def expired(self) -> bool:
            """Say whether it is freed."""

    class TorchDispatchMode:
        """While it is active, every operation passes through its __torch_dispatch__."""

        def __enter__(self) -> Self: ...

        def __exit__(self, *_: object) -> None: ...

    def _disable_current_modes() -> AbstractContextManager[None]: ...

else:
    from torch.multiprocessing.reductions import StorageWeakRef
    from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes


class Memory(NamedTuple):
    """Bytes of all clients together, activations excluded."""

    weights: int  # every trainable parameter in its storage type, M
    peak: int  # with the state of the largest active block at its fullest
    full: int  # what full-parameter Adam with mixing would hold at its peak
    paper: float  # M + 10 M / B with the run's M and B: the paper's form, for half precision and equal blocks


def traffic(plan: Plan, until: int | None = None) -> np.ndarray:
    """Return the bytes (E,) that the run puts on each of its channel's links in its first `until` inner steps, or in all.

    The formula: sum over visits of (mixings in the visit) x (block columns) x (bytes of a number) on each edge of W; where
    messages are short, what the channel predicts for each.
    """
    sent = np.zeros(len(plan.channel.links), np.int64)
    for step, each in mixings(plan):
        if until is None or step < until:
            sent += each
    return sent


def mixings(plan: Plan) -> Iterator[tuple[int, np.ndarray]]:
    """Yield every mixing's inner step and the bytes (E,) that it puts on each of the channel's links."""
    every, wire = plan.recipe.mix_every, silence(len(plan.channel.links))
    item = max(_item(plan), 4)  # never in half precision
    for visit in plan.visits:
        for turn in range(visit.first // every, (visit.last + 1) // every):
            step, first = (turn + 1) * every - 1, plan.first(turn)
            table = np.zeros(len(plan.channel.links), np.int64)
            for block, number, width in carried(plan, visit.block):
                call = Call(step, turn, block, number, first)
                table = table + plan.channel.predicted(call, width, item, wire, None)
            yield step, table
        wire.tables.clear()


def carried(plan: Plan, active: int) -> list[tuple[int, int, int]]:
    """Return (block, number, columns) of each tensor that a mixing carries: what the optimiser tracks, X, and other blocks."""
    width = plan.layouts[active].width
    own = [(active, number, width) for number in range(plan.recipe.optimiser.mixed + 1)]
    others = [(k, 0, where.width) for k, where in enumerate(plan.layouts) if k != active]
    return [*own, *others] if plan.recipe.mix_all else own


def _item(plan: Plan) -> int:
    return next(iter(plan.problem.start.values())).element_size()


def memory(plan: Plan) -> Memory:
    """Return the predicted bytes: weights + (master, gradient, m, v, neighbours' average) of the active block.

    With half-precision weights of M bytes, B equal blocks and Adam this is DECA's M + 10 M / B; with float32 weights
    there is no second master and it is M + 4 M / B. States that are kept are counted for all blocks. Where a visit
    ends, half precision holds two masters, m, v and the block rounded from them: no more than that, with Adam.
    """
    n, item, optimiser = plan.topology.n, _item(plan), plan.recipe.optimiser
    widths = [where.width for where in plan.layouts]
    digits, half = max(item, 4), item < 4  # all but the weights is never in half precision
    weights, widest = n * sum(widths) * item, max(widths)
    step = in_hand(plan, widest) + n * widest * optimiser.scratch * digits
    if half:
        step = max(step, in_hand(plan, widest) + n * widest * (digits + item) + scratch(n * widest))
    full = weights + n * sum(widths) * ((digits if half else 0) + 4 * digits)
    peak = weights + kept(plan) + max(step + _replicas(plan), _all_mixed(plan))
    return Memory(weights, peak, full, weights * (1 + 10 / len(widths)))


def in_hand(plan: Plan, width: int) -> int:
    """Return the bytes of all clients' optimiser state and master copies of a block of so many columns, in use."""
    item = _item(plan)
    copies = plan.recipe.optimiser.matrices + (1 if item < 4 else 0)
    return plan.topology.n * width * copies * max(item, 4)


def kept(plan: Plan) -> int:
    """Return the bytes of the states of all blocks but the widest, where states are kept between visits."""
    widths = [where.width for where in plan.layouts]
    others = (sum(widths) - max(widths)) * plan.recipe.optimiser.matrices
    return plan.topology.n * others * max(_item(plan), 4) if plan.recipe.keep_moments else 0


def _replicas(plan: Plan) -> int:
    """Return the bytes of the copies that the channel keeps: each as large as all that is carried for the largest block."""
    widest = max(range(len(plan.layouts)), key=lambda k: plan.layouts[k].width)
    columns = sum(width for _, _, width in carried(plan, widest))
    return round(plan.channel.copies * plan.topology.n) * max(_item(plan), 4) * columns


def _all_mixed(plan: Plan) -> int:
    """Return the bytes beside the weights while every block is mixed: the state, X, and all other blocks a second time."""
    if not plan.recipe.mix_all:
        return 0
    n, item, widths = plan.topology.n, _item(plan), sorted(where.width for where in plan.layouts)
    digits, half = max(item, 4), item < 4
    # Of half precision: a block in float32, and it mixed.
    copy = 2 * digits * widths[-2] if half and len(widths) > 1 else 0
    master = digits + item if half else 0
    own = widths[-1] * ((plan.recipe.optimiser.matrices + 1) * digits + master)
    return n * (own + sum(widths[:-1]) * item + copy)


def flops(plan: Plan, model: nn.Module, tokens: int) -> float:
    """Return the floating-point operations of the run's matrix products, for `tokens` read by all clients in a step.

    The usual count: 2 a parameter and token forward; backward 2 for every parameter from the lowest one that trains up
    to the head, for the gradient to come down, and 2 for every parameter that trains. Attention's own products and the
    optimiser are left out.
    """
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    heights, used = {name: height(name) for name in sizes}, 0
    for visit in plan.visits:
        names = plan.blocks[visit.block].names
        lowest = min(heights[name] for name in names)
        above = sum(size for name, size in sizes.items() if heights[name] >= lowest)
        used += sum(sizes.values()) + above + sum(sizes[name] for name in names)
    return 2.0 * plan.recipe.inner_steps * tokens * used


def height(name: str) -> float:
    """Return where a parameter sits: -1 for embeddings, its layer's number, infinity for the head and the final norm."""
    layer = layer_of(name)
    if layer is not None:
        return float(layer)
    return -1.0 if any(part in name for part in ("embed", "wte", "wpe")) else float("inf")


class Meter(TorchDispatchMode):
    """Counts the bytes of living tensors while it is active: those in `watch`, and all that operations create since.

    A tensor counts until its storage is freed. `most` is the peak since the last `forget`, `ever` that since `watch`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.watch([])

    def watch(self, tensors: list[Tensor]) -> None:
        """Count from here on, beginning with the storages of `tensors`."""
        self.most, self.ever, self._bound = 0, 0, 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        for t in tensors:
            self._add(t, t.untyped_storage().nbytes())

    def forget(self) -> None:
        """Begin a new peak, such as that after the activations are freed."""
        self.most = 0

    def leave_out(
        self, work: Callable[..., tuple[Tensor, Tensor]], *args: object
    ) -> tuple[Tensor, Tensor]:
        """Return work(*args), counting its results but not what it holds: compiled graphs never run in sight of a meter."""
        with _disable_current_modes():
            out = work(*args)
        for t in out:
            self._add(t, t.untyped_storage().nbytes())
        return out

    def _add(self, t: Tensor, size: int) -> None:
        key = t.untyped_storage()._cdata
        if key not in self._live or self._live[key][0].expired():
            self._bound += size
            self._live[key] = (StorageWeakRef(t.untyped_storage()), size)

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Run the operation, then count what lives."""
        for t in _tensors(args):
            self._add(t, 0)  # was there before, such as data: a view of it is nothing new
        out = func(*args, **(kwargs or {}))
        for t in _tensors(out):
            self._add(t, t.untyped_storage().nbytes())
        if self._bound > self.most:  # else no new peak, even if nothing was freed
            self._live = {key: kept for key, kept in self._live.items() if not kept[0].expired()}
            self._bound = sum(size for _, size in self._live.values())
            self.most, self.ever = max(self.most, self._bound), max(self.ever, self._bound)
        return out


def _tensors(values: object) -> list[Tensor]:
    """Return the dense tensors among an operation's arguments or results."""
    if isinstance(values, (tuple, list)):
        return [t for value in values for t in _tensors(value)]
    return [values] if isinstance(values, Tensor) and values.layout == torch.strided else []
