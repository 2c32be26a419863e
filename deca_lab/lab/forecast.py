"""What a run will need, told before any of it is held: memory, checkpoint, bytes on the wire.

One gradient is computed on shapes alone (torch's device "meta") under the ledger's meter, so that activations are counted
as the engine, the model and the batch make them; all else is the ledger's formula.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from deca_lab.algorithm.gradients import Engine, engine_kind
from deca_lab.algorithm.loop import Plan
from deca_lab.errors import BadInput
from deca_lab.lab import ledger
from deca_lab.lab.metrics import common_losses, each, gradient_norm
from deca_lab.lab.prepare import Groundwork, Lab, assembled, engine_of
from deca_lab.models.four_bit import stored_bytes
from deca_lab.network.processes import ALONE, World
from deca_lab.runconfig import RunConfig

SLACK = 1.5  # memory of a process for each byte of its tensors on a CPU: what the allocator keeps, and big pages


class Forecast(NamedTuple):
    """Bytes that a run takes at most; `memory` is all of it together, as the process holds it beside its libraries."""

    model: int  # the model as it is loaded, once for all clients
    clients: int  # what the clients train, and the optimiser's state of the active block
    activations: int  # one gradient, with what it keeps for the way back
    memory: int
    checkpoint: int
    sent: int  # by all clients in the whole run

    def words(self, free: int | None, joint: str = "; ") -> str:
        """Return them for a terminal, and the `free` bytes where the device tells."""
        beside = "" if free is None else f"{joint}{size(free)} are free for tensors"
        return (
            f"needs {size(self.memory)} of memory at its peak (model {size(self.model)}, clients {size(self.clients)}, "
            f"activations {size(self.activations)}); a checkpoint is {size(self.checkpoint)}; {size(self.sent)} are sent{beside}"
        )


def size(count: float) -> str:
    """Return bytes as people read them."""
    unit, power = next(
        u
        for u in (("GB", 9), ("MB", 6), ("kB", 3), ("bytes", 0))
        if count >= 10 ** u[1] or not u[1]
    )
    return f"{count / 10**power:.3g} {unit}"


def forecast_of(ground: Groundwork, world: World = ALONE) -> Forecast:
    """Return the forecast of a run, for this process's clients; no weight is read."""
    lab = assembled(ground, world, shapes_alone=True)
    engine = engine_of(ground.config, lab.model, once=True)
    copies = engine_kind(lab.config.engine).copies
    return forecast(lab.plan, engine, stored_bytes(lab.model).total, measuring(lab), copies)


def require_room(known: Forecast, free: int | None, ground: Groundwork) -> None:
    """Raise BadInput where a run needs more than the `free` bytes, with the three knobs that save most."""
    if free is None or known.memory <= free:
        return
    needs = []
    for words, knobs in _savings(ground.config).items():
        smaller = forecast_of(ground._replace(config=replace(ground.config, **knobs)))
        if smaller.memory < known.memory:
            needs.append(f"{size(smaller.memory)} with {words}")
    raise BadInput(
        f"this run needs {size(known.memory)} of memory, and {size(free)} are free; it would need "
        f"{', '.join(needs) or 'less with fewer --clients or a shorter --context'}"
    )


def _savings(config: RunConfig) -> dict[str, dict[str, Any]]:
    """Return what may make a run smaller on the same text: the words of the command line, and the knobs."""
    knobs = {"micro_batch": 1, "engine": "loop", "dtype": "bfloat16"}
    free = {name: value for name, value in knobs.items() if getattr(config, name) != value}
    words = {name: f"--{name.replace('_', '-')} {value}" for name, value in free.items()}
    alone: dict[str, dict[str, Any]] = {words[name]: {name: free[name]} for name in free}
    plainer = {} if config.engine == "stacked" else {"--engine stacked": {"engine": "stacked"}}
    together = {" ".join(words.values()): free} if len(free) > 1 else {}
    return {**plainer, **alone, **together}


def room(device: torch.device) -> int | None:
    """Return the bytes that are free for tensors on a device, or None where it does not tell."""
    if device.type == "cuda":
        # What torch keeps of tensors that are gone, as those of a run before, is free as well.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    if device.type != "cpu":
        return None
    return int(free_memory() / SLACK)


def free_memory() -> int:
    """Return the bytes of memory that are free, also within a container's limit."""
    import psutil

    free = int(psutil.virtual_memory().available)
    limit, used = (
        _number(Path("/sys/fs/cgroup") / f"memory.{name}") for name in ("max", "current")
    )
    return free if limit is None or used is None else min(free, limit - used)


def _number(path: Path) -> int | None:
    """Return the number in a file of the system, or None where there is none: no limit."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def forecast(plan: Plan, engine: Engine, model: int, measured: int, copies: int = 0) -> Forecast:
    """Return the forecast of a plan laid out on device "meta"; `model` is the bytes of the model as it is loaded.

    `measured` is what a measurement holds beside the clients' weights, `copies` how many of the weights the engine holds:
    one that does so also keeps the memory that its graphs work in.
    """
    memory = ledger.memory(plan)
    resting = memory.weights + ledger.kept(plan)
    gradients = {k: activations(plan, engine, k) for k in _hardest(plan)}
    at_gradient = max(
        ledger.in_hand(plan, plan.layouts[k].width) + some for k, some in gradients.items()
    )
    most = max(gradients.values())
    graphs = copies * (memory.weights + most)
    return Forecast(
        model,
        memory.peak,
        most,
        model + graphs + max(memory.peak, resting + max(at_gradient, measured)),
        resting,
        int(ledger.traffic(plan).sum()),
    )


def _hardest(plan: Plan) -> set[int]:
    """Return the blocks that need most: the widest, and the one from which the gradient comes down farthest."""
    blocks = range(len(plan.blocks))
    lowest = min(blocks, key=lambda k: min(map(ledger.height, plan.blocks[k].names)))
    return {lowest, max(blocks, key=lambda k: plan.layouts[k].width)}


def activations(plan: Plan, engine: Engine, k: int) -> int:
    """Return the most bytes that live while the gradient of block k is computed, those of parameters left out."""
    start = plan.problem.start
    x = torch.empty(
        plan.problem.clients,
        plan.layouts[k].width,
        dtype=next(iter(start.values())).dtype,
        device="meta",
    )
    rest = {name: p for name, p in start.items() if name not in plan.blocks[k].names}
    meter = ShapesAlone()
    meter.watch([x])
    with meter:
        engine(plan.problem.loss)(x, plan.layouts[k], rest, plan.problem.batches(0))
    return meter.most - x.nbytes


def measuring(lab: Lab) -> int:
    """Return the most bytes that live in a measurement: with the mean model its gradient, or what all models read."""
    start, probe, loss = lab.plan.problem.start, lab.probe, lab.plan.problem.loss
    centre = {n: torch.empty(p.shape[1:], dtype=p.dtype, device="meta") for n, p in start.items()}
    some = each(probe.train, lambda t: t.flatten(0, 1)[None, : probe.rows_back].to("meta"))
    meter = ShapesAlone()
    meter.watch(list(centre.values()))
    with meter:
        gradient_norm(loss, centre, some, probe.rows_back)
    most, test = meter.ever, each(probe.test, lambda t: t[: probe.rows].to("meta"))
    meter.watch(list(centre.values()))
    with meter:
        common_losses(loss, dict(start), test, engine_kind(lab.config.engine).over, probe.rows)
    return max(most, meter.ever)


class ShapesAlone(ledger.Meter):
    """A meter under which a question about a number that is not there is answered: yes."""

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Run the operation on shapes, and count."""
        # Models ask whether positions go up one by one, and then leave a mask out: ours do.
        if func is torch.ops.aten._local_scalar_dense.default:
            return True
        return super().__torch_dispatch__(func, types, args, kwargs)
