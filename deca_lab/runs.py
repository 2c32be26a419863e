"""One run from config to history: the loop of `train`, measured, checkpointed, and continued after a break."""

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deca_lab import checkpoint, history, ledger
from deca_lab.clients import ENGINES, Engine, Gradients, Loss
from deca_lab.errors import BadInput, Diverged, Stopped
from deca_lab.factors import interference
from deca_lab.files import alone, new_folder, read_text, write_whole
from deca_lab.history import History, Record
from deca_lab.lab import Lab, prepare
from deca_lab.metrics import Measurement, each, measure
from deca_lab.runconfig import RunConfig, from_json
from deca_lab.train import Plan, State, begin, params_of, train

Progress = Callable[[int, int, dict[str, Any]], bool | None]  # (inner steps done, of how many, what is known) -> stop now?


def run(config: RunConfig, out: Path | str | None = None, progress: Progress | None = None) -> History:
    """Run a config and return its history; with `out`, a new folder, everything is also written there.

    Raises BadInput before anything is written where the config does not fit, Diverged where a loss stops being finite:
    then the last good checkpoint stays; and Stopped, after a checkpoint, where `progress` returns True.
    """
    lab = prepare(config)
    if out is None:
        return _go(lab, None, begin(lab.plan), _blank(lab), progress)
    folder = new_folder(Path(out))
    with alone(folder):
        write_whole(folder / "config.json", config.to_json())
        return _go(lab, folder, begin(lab.plan), _blank(lab), progress)


def resume(folder: Path | str, progress: Progress | None = None) -> History:
    """Continue the run of a folder from its last checkpoint to its end, bit for bit as if it had never stopped."""
    folder = Path(folder)
    lab = prepare(read_config(folder))
    with alone(folder):
        state, record = _kept(lab, folder)
        return _go(lab, folder, state, record, progress)


def _kept(lab: Lab, folder: Path) -> tuple[State, Record]:
    """Return state and record of the folder's checkpoint, or of the start where there is none yet."""
    if not (folder / "checkpoint.safetensors").exists():
        return begin(lab.plan), _blank(lab)
    state, held = checkpoint.load(folder / "checkpoint.safetensors", lab.plan.recipe.optimiser.kind, lab.device)
    try:
        record = Record(**held, timings=history.read_timings(folder, state.step))
    except TypeError as error:
        raise BadInput(f"the checkpoint in {str(folder)!r} holds no record of a run: {error}") from None
    _require_same(lab, record, folder)
    return state, record


def read_config(folder: Path | str) -> RunConfig:
    """Return the config of a run folder, or raise BadInput."""
    path = Path(folder) / "config.json"
    return from_json(read_text(path, "the run folder's"), str(path))


def _blank(lab: Lab) -> Record:
    return Record(fingerprint=lab.corpus.fingerprint, config=asdict(lab.config))


def _require_same(lab: Lab, record: Record, folder: Path) -> None:
    changed = [f.name for f in fields(RunConfig) if record.config.get(f.name) != getattr(lab.config, f.name)]
    if changed:
        raise BadInput(f"{folder}/config.json was changed since the checkpoint ({', '.join(changed)}): "
                       "resume needs the same config")
    if record.fingerprint != lab.corpus.fingerprint:
        raise BadInput(f"corpus {lab.config.corpus!r} is not the text that {folder} was started on (another Python, or a "
                       f"changed file): fingerprint {lab.corpus.fingerprint[:12]}, the checkpoint has {record.fingerprint[:12]}")


def _go(lab: Lab, folder: Path | None, state: State, record: Record, progress: Progress | None) -> History:
    """Advance from `state` to the end; measure and save where the config says."""
    meter, began = ledger.Meter(), time.perf_counter() - record.seconds
    steps = train(lab.plan, state, _metered(ENGINES[lab.config.engine], meter))
    if state.step == 0:
        _note(lab, state, record, began)
    while state.step < lab.plan.steps:
        opening = state.step % lab.config.inner_steps == 0               # the first step of a visit is metered
        meter.watch([*state.blocks, *(t for held in state.moments.values() for t in held[:-1])])
        with meter if opening else nullcontext():
            state, losses = next(steps)
        record.peak_bytes = max(record.peak_bytes, meter.most if opening else 0)
        _require_finite(lab.plan, state, ~torch.isfinite(losses), "loss", folder)
        record.train.append(_train_row(lab.plan, state, losses))
        if _due(state.step, lab.config.eval_every, lab):
            _note(lab, state, record, began)
        if folder is not None and _due(state.step, lab.config.checkpoint_every, lab):
            _keep(lab, folder, state, record)
        known = {**record.metrics[-1], "measured": len(record.metrics), **record.train[-1]}
        if progress is not None and progress(state.step, lab.plan.steps, known) and state.step < lab.plan.steps:
            _stop(lab, folder, state, record)
    done = history.gather(lab, state, record, folder)
    if folder is not None:
        history.save(done, folder)
    return done


def _keep(lab: Lab, folder: Path, state: State, record: Record) -> None:
    """Write a checkpoint, unless the model has stopped being finite."""
    _require_finite_models(lab.plan, state, folder)
    history.save_timings(folder, record)
    checkpoint.save(folder / "checkpoint.safetensors", state, record.lasting())


def _stop(lab: Lab, folder: Path | None, state: State, record: Record) -> None:
    """Keep what there is and raise Stopped."""
    if folder is not None:
        _keep(lab, folder, state, record)
    kept = "nothing was kept, for there is no folder" if folder is None else f"go on with: deca-lab run --resume {folder}"
    raise Stopped(f"stopped after inner step {state.step} of {lab.plan.steps}; {kept}")


def _due(step: int, every: int, lab: Lab) -> bool:
    return step % (every or lab.config.inner_steps) == 0 or step == lab.plan.steps


def _metered(engine: Engine, meter: ledger.Meter) -> Engine:
    """Return the engine that lets the meter forget the activations of the gradient that it has just made."""

    def wrapped(loss: Loss) -> Gradients:
        inner = engine(loss)

        def gradients(*args: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - as the engine's
            out = inner(*args)
            meter.most = 0
            return out

        return gradients

    return wrapped


def _require_finite(plan: Plan, state: State, wild: Tensor, what: str, folder: Path | None) -> None:
    """Raise Diverged, naming clients, step and block, where any client is `wild` (N,) bool."""
    if not bool(wild.any()):
        return
    block = plan.blocks[plan.visits[(state.step - 1) // plan.recipe.inner_steps].block].name
    kept = "" if folder is None else f"; the last good checkpoint stays in {folder}"
    clients = ", ".join(map(str, wild.nonzero().flatten().tolist()))
    raise Diverged(f"the {what} is no longer finite for client {clients} at inner step {state.step - 1} in block {block!r}: "
                   f"try a smaller --lr, or --max-grad-norm 1{kept}")


def _require_finite_models(plan: Plan, state: State, folder: Path | None) -> None:
    wild = torch.stack([~torch.isfinite(x).all(1) for x in state.blocks]).any(0)
    _require_finite(plan, state, wild, "model", folder)


def _train_row(plan: Plan, state: State, losses: Tensor) -> dict[str, Any]:
    s = state.step - 1
    block = plan.blocks[plan.visits[s // plan.recipe.inner_steps].block].name
    return {"step": s, "block": block, "lr": plan.recipe.lr(s), "loss": float(losses.double().mean())}


def _note(lab: Lab, state: State, record: Record, began: float) -> None:
    """Append one measurement to the record."""
    found, here = _measured(lab, state)
    visit = lab.plan.visits[max(state.step - 1, 0) // lab.config.inner_steps]
    names = [block.name for block in lab.plan.blocks]
    last = names[visit.block] if state.step else "start"
    record.metrics.append({"step": state.step, "round": visit.round, "block": last, **found.row(names),
                           **_interference(lab, state), "bytes_sent": int(state.sent.sum()), "peak_bytes": record.peak_bytes})
    record.clients += _client_rows(state.step, found, here)
    record.timings.append({"step": state.step, "seconds": time.perf_counter() - began, "process_bytes": process_bytes(),
                           "gpu_bytes": torch.cuda.max_memory_allocated() if lab.device.type == "cuda" else 0})


def _interference(lab: Lab, state: State) -> dict[str, float]:
    """Return what mixing the factors apart would add to the mean of their products now, for runs with LoRA."""
    if lab.config.adapter != "lora":
        return {}
    found = interference(params_of(lab.plan, state), lab.topology.at(0))
    return {"interference": found.total, "interference_bound": found.bound}


def _measured(lab: Lab, state: State) -> tuple[Measurement, list[int]]:
    """Measure the clients that are there, and return who they are: the mean model is theirs alone."""
    told, params = lab.plan.recipe.faults, params_of(lab.plan, state)
    here = torch.from_numpy(np.flatnonzero(told.present(max(state.step - 1, 0)))) if told.away else torch.arange(lab.topology.n)
    if len(here) == lab.topology.n:
        return measure(lab.plan.problem.loss, params, state.blocks, lab.probe), here.tolist()
    at = here.to(lab.device)
    probe = lab.probe._replace(own=each(lab.probe.own, lambda t: t[at]))
    found = measure(lab.plan.problem.loss, {name: p[at] for name, p in params.items()}, tuple(x[at] for x in state.blocks), probe)
    return found, here.tolist()


def _client_rows(step: int, found: Measurement, here: list[int]) -> list[dict[str, Any]]:
    pairs = zip(here, found.clients, found.own, strict=True)
    return [{"step": step, "client": i, "test_loss": test, "own_loss": own} for i, test, own in pairs]


def process_bytes() -> int:
    """Return the largest memory that this process has held, or 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
