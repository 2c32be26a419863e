"""One run from config to history: the loop of `train`, measured, checkpointed, and continued after a break."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deca_lab.algorithm.gradients import Engine, Gradients, Loss, engine_kind
from deca_lab.algorithm.loop import Plan, State, begin, params_of, train, working
from deca_lab.algorithm.optimisers import tensors
from deca_lab.algorithm.stacking import left_alone
from deca_lab.errors import BadInput, Diverged, Stopped, check
from deca_lab.files import alone, new_folder, read_text, require_new, write_whole
from deca_lab.lab import checkpoint, history, ledger
from deca_lab.lab.allocator import keeping
from deca_lab.lab.forecast import forecast_of, require_room, room
from deca_lab.lab.history import History, Record
from deca_lab.lab.metrics import Measurement
from deca_lab.lab.objects import NOTHING, Objects, named
from deca_lab.lab.prepare import (
    Lab,
    Say,
    assembled,
    engine_of,
    groundwork,
    prepare,
    silent,
)
from deca_lab.lab.restored import require_kept, require_record
from deca_lab.lab.snapshot import Snapshot
from deca_lab.lab.sources import foreign
from deca_lab.methods import Method
from deca_lab.models.factor_mixing import interference
from deca_lab.network.processes import World, broadcast, gathered_state, scattered_state, summed
from deca_lab.runconfig import RunConfig, changed_knobs, from_json

CHEAP, WRITING = 1.0, 0.05  # a checkpoint's seconds that nobody minds, and its share of a run
AT_ONCE = ("cpu",)  # devices that have computed when the call returns: a read costs nothing there
OWN = "the run's parameters"  # a Snapshot shows them as they are, not copied
GLANCE = 0.5  # seconds between two reads of other devices for the eye alone

Callback = Callable[[Snapshot], bool | None]  # True ends the run
# (inner steps done, of how many, what is known) -> stop now?
Progress = Callable[[int, int, dict[str, Any]], bool | None]


def run(
    config: RunConfig = RunConfig(),  # noqa: B008 - frozen
    out: Path | str | None = None,
    progress: Progress | None = None,
    *,
    model: Any = None,  # noqa: ANN401 - see Objects
    tokenizer: Any = None,  # noqa: ANN401
    dataset: Any = None,  # noqa: ANN401
    topology: Any = None,  # noqa: ANN401
    optimiser: Any = None,  # noqa: ANN401
    method: Method | None = None,
    metrics: Mapping[str, Callable[[Snapshot], float]] | None = None,
    callbacks: Sequence[Callback] = (),
) -> History:
    """Run a config and return its history; with `out`, a new folder, everything is also written there.

    Objects stand in for names. `model`: a transformers model or any nn.Module from token ids (B, T) to logits (B, T, V).
    `tokenizer`: a transformers tokenizer, or an object with encode, a length and an end token. `dataset`: a
    datasets.Dataset, a DataFrame, or a list of texts, dicts or (text, label). `topology`: a networkx graph, a matrix
    (N, N), dense or sparse, or a Topology. `optimiser`: `deca_lab.optimiser(init, update)`, or an object with both.
    `method`: a Method. `metrics` are columns of your own, functions of a Snapshot; `callbacks` see a Snapshot after
    every inner step, and stop the run early by returning True: its history then ends there.

    Raises BadInput before anything is written where the config does not fit, Diverged where a loss stops being finite:
    then the last good checkpoint stays; and Stopped, after a checkpoint, where `progress` returns True. It is called
    after every inner step, on a GPU after those at which its losses are read: where something is due, and twice a second.
    """
    given = (model, tokenizer, dataset, topology, optimiser, method)
    objects = Objects(*given, metrics=metrics, callbacks=callbacks)
    done = run_in(World(), config, out, progress, objects)
    assert done is not None  # rank 0 has it, and there is no other
    return done


def resume(folder: Path | str, progress: Progress | None = None, **objects: Any) -> History:  # noqa: ANN401 - as of `run`
    """Continue the run of a folder from its last checkpoint to its end, bit for bit as if it had never stopped.

    A run that was given objects must be given them again, by the names that they have in `run`.
    """
    unknown = sorted(set(objects) - set(Objects._fields) | {"problem", "blocks"} & set(objects))
    allowed = f"arguments of run: {', '.join(Objects._fields)}"
    check(not unknown, "resume", ", ".join(unknown), allowed)
    _require_called(progress)
    check(isinstance(folder, str | PathLike), "folder", folder, "a path of a run folder")
    done = resume_in(World(), folder, progress, Objects(**objects))
    assert done is not None
    return done


def run_in(
    world: World,
    config: RunConfig,
    out: Path | str | None = None,
    progress: Progress | None = None,
    objects: Objects = NOTHING,
    say: Say = silent,
) -> History | None:
    """Run a config in one process of a world: `out` is rank 0's, which also returns the history; the others return None.

    Any rank's `progress` may stop the run; `say` is told what goes on before the first step. Raises PeerLost where
    another process is gone, and what `run` raises.
    """
    _require_called(progress)
    if out is not None and not world.rank:
        check(isinstance(out, str | PathLike), "out", out, "a path, or left out")
        require_new(Path(out))
    lab = prepared(config, world, objects, say)
    say("measuring the start ...")
    return started(lab, named(config, lab.objects), out, progress)


def _require_called(progress: Progress | None) -> None:
    allowed = "a function (steps done, of how many, what is known), or left out"
    check(progress is None or callable(progress), "progress", progress, allowed)


def prepared(config: RunConfig, world: World, objects: Objects, say: Say) -> Lab:
    """Return the lab of a config, as `prepare` does, but say what it needs, and refuse what does not fit, before it is held."""
    ground = groundwork(config, objects, world, say)
    if say is not silent or foreign(ground.config):
        known, free = forecast_of(ground, world), room(ground.device)
        say(known.words(free))
        require_room(known, free, ground)
    say("loading the model ...")
    return assembled(ground, world)


def started(
    lab: Lab, config: RunConfig, out: Path | str | None, progress: Progress | None
) -> History | None:
    """Run a lab from its beginning; `config` is what its folder says of it."""
    if out is None or lab.world.rank:
        with _memory_kept(lab):
            return _go(lab, None, begin(lab.plan), _blank(lab), progress)
    folder = new_folder(Path(out))
    with alone(folder), _memory_kept(lab):
        write_whole(folder / "config.json", config.to_json())
        return _go(lab, folder, begin(lab.plan), _blank(lab), progress)


def resume_in(
    world: World, folder: Path | str, progress: Progress | None = None, objects: Objects = NOTHING
) -> History | None:
    """Continue a run in one process of a world, of any size; rank 0 alone reads the folder and writes to it."""
    folder = Path(folder)
    if world.rank:
        config = from_json(bytes(broadcast(world, None)).decode(), "rank 0's config.json")
        lab = prepare(config, world, objects)
        with _memory_kept(lab):
            return _go(lab, None, scattered_state(lab.world, lab.plan, None), _blank(lab), progress)
    config = read_config(folder)
    broadcast(world, list(config.to_json().encode()))
    return continued(prepare(config, world, objects), folder, progress)


def continued(lab: Lab, folder: Path, progress: Progress | None) -> History | None:
    """Go on with the run of a folder; on rank 0, or in the only process."""
    with alone(folder), _memory_kept(lab):
        state, record = _kept(lab, folder)
        return _go(lab, folder, scattered_state(lab.world, lab.plan, state), record, progress)


def _memory_kept(lab: Lab) -> AbstractContextManager[None]:
    """Return what has the allocator keep what steps free, around `_go`: a frame between would hold the start as well."""
    return keeping(ledger.memory(lab.plan).peak)


def _everybodys(lab: Lab, values: Tensor) -> Tensor:
    """Return a value of each client (N,) float64, on every rank, of those of this rank's clients."""
    if lab.world.size == 1:
        return values.double()
    full = torch.zeros(lab.topology.n, dtype=torch.float64, device=values.device)
    full[lab.world.mine] = values.double()
    return summed(lab.world, full)


def _anybodys(lab: Lab, number: int) -> int:
    """Return the sum over ranks of a whole number."""
    if lab.world.size == 1:
        return number
    return int(summed(lab.world, torch.tensor([number])))


def _kept(lab: Lab, folder: Path) -> tuple[State, Record]:
    """Return state and record of the folder's checkpoint, or of the start where there is none yet."""
    path, optimisers = folder / "checkpoint.safetensors", lab.plan.optimisers
    if not path.exists():
        return begin(lab.plan), _blank(lab)
    state, noted = checkpoint.load(path, lambda k, x: optimisers[k].init(working(x)), lab.device)
    try:
        record = Record(**noted)
    except TypeError as error:
        none = f"holds no record of a run: {error}"
        raise BadInput(f"the checkpoint in {str(folder)!r} {none}") from None
    _require_same(lab, record, folder)
    require_kept(path, state, lab.plan)
    require_record(path, record, state.step, _present(lab, state.step, record.stopped))
    record.timings = history.read_timings(folder, [row["step"] for row in record.metrics])
    return state, record


def _present(lab: Lab, step: int, stopped: bool) -> dict[int, int]:
    """Return how many clients are there at each inner step up to `step` that is measured, the last where a callback ended."""
    due = [s for s in range(step + 1) if _due(s, lab.eval_every, lab) or s == step * stopped]
    return {s: int(lab.failing.members(max(s - 1, 0)).sum()) for s in due}


def read_config(folder: Path | str) -> RunConfig:
    """Return the config of a run folder, or raise BadInput."""
    path = Path(folder) / "config.json"
    return from_json(read_text(path, "the run folder's"), str(path))


def _blank(lab: Lab) -> Record:
    return Record(
        fingerprint=lab.corpus.fingerprint,
        config=asdict(lab.config),
        metric_names=sorted(lab.objects.metrics or {}),
        labels=list(lab.corpus.label_names),
    )


def _require_same(lab: Lab, record: Record, folder: Path) -> None:
    if knobs := changed_knobs(lab.config, record.config):
        raise BadInput(
            f"{folder}/config.json was changed since the checkpoint ({', '.join(knobs)}): "
            "resume needs the same config"
        )
    own = sorted(lab.objects.metrics or {})
    allowed = f"those that {folder} was started with: {record.metric_names}"
    check(record.metric_names == own, "metrics", own, allowed)
    if record.fingerprint != lab.corpus.fingerprint:
        raise BadInput(
            f"corpus {lab.config.corpus!r} is not the text that {folder} was started on (another Python, or a "
            f"changed file): fingerprint {lab.corpus.fingerprint[:12]}, the checkpoint has {record.fingerprint[:12]}"
        )


def _go(
    lab: Lab, folder: Path | None, state: State, record: Record, progress: Progress | None
) -> History | None:
    """Advance from `state` to the end; measure and save where the config says."""
    meter, began = ledger.Meter(), time.perf_counter() - record.seconds
    if lab.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(lab.device)  # else a run before would be counted in
    engine = _metered(_engine(lab), meter, unseen=engine_kind(lab.config.engine).graphs)
    steps = train(lab.plan, state, engine, donate=True)
    seen = lab.world.rank == 0
    unread: list[tuple[int, Tensor]] = []  # inner steps done, losses still on the device
    glanced_at = -np.inf  # never yet
    whole: State | None = gathered_state(lab.world, state) if state.step == 0 else state
    if state.step == 0 and seen and whole:
        _note_metered(lab, whole, meter, record, began)
    while state.step < lab.plan.steps and not record.stopped:
        whole = None  # else the weights of the last measurement would be held beside these
        state, own = _stepped(lab, steps, state, meter, record)
        unread.append((state.step, _everybodys(lab, own)))
        if not _reads_now(lab, state.step, progress is not None, glanced_at):
            continue
        record.train += _train_rows(lab.plan, unread, folder)
        unread, glanced_at = [], time.perf_counter()
        measured = len(record.metrics)
        whole = _written_down(lab, state, record, folder, began)
        if _called(lab, state, record, len(record.metrics) > measured):
            whole = _stopped_early(lab, state, record, folder, began)
        if _asked_to_stop(lab, state.step, record, progress) and state.step < lab.plan.steps:
            _stop(lab, folder, _finite(lab, state, folder), record)
    if not seen or whole is None:
        return None
    done = history.gather(lab, whole, record, folder)
    if folder is not None:
        history.save(done, folder)
    return done


def _note_metered(
    lab: Lab, state: State, meter: ledger.Meter, record: Record, began: float
) -> None:
    """Measure the start, and note what that held: it may be more than a step holds."""
    meter.watch(_held(state))
    with meter:
        _note(lab, state, record, began)
    record.whole_bytes = meter.ever


def _stepped(
    lab: Lab,
    steps: Iterator[tuple[State, Tensor]],
    state: State,
    meter: ledger.Meter,
    record: Record,
) -> tuple[State, Tensor]:
    """Take an inner step, and note what it held: a visit is metered until it first mixes."""
    opening = state.step % lab.config.inner_steps < lab.config.mix_every
    meter.watch(_held(state))
    with meter if opening else nullcontext():
        state, own = next(steps)
    if opening:
        record.peak_bytes = max(record.peak_bytes, _anybodys(lab, meter.most))
        record.whole_bytes = max(record.whole_bytes, _anybodys(lab, meter.ever))
    return state, own


def _called(lab: Lab, state: State, record: Record, measured: bool) -> bool:
    """Call every callback with this step; say whether any of any rank's wants the run to stop."""
    if not lab.objects.callbacks:
        return False
    snapshot = _snapshot(lab, state, record, measured)
    with left_alone(state.blocks, "callbacks", OWN):
        ending = sum(bool(call(snapshot)) for call in lab.objects.callbacks)
    return _anybodys(lab, ending) > 0


def _asked_to_stop(lab: Lab, step: int, record: Record, progress: Progress | None) -> bool:
    """Tell `progress` what is known; say whether any rank's wants the run to stop."""
    newest = record.metrics[-1] if lab.world.rank == 0 else {}
    known = {**newest, "measured": len(record.metrics), **record.train[-1]}
    asked = progress is not None and bool(progress(step, lab.plan.steps, known))
    return _anybodys(lab, int(asked)) > 0


def _snapshot(lab: Lab, state: State, record: Record, measured: bool) -> Snapshot:
    train, metrics = (dict(rows[-1]) if rows else {} for rows in (record.train, record.metrics))
    return Snapshot(state.step, lab.plan.steps, train, metrics, measured, lab.plan, state)


def _stopped_early(
    lab: Lab, state: State, record: Record, folder: Path | None, began: float
) -> State:
    """Measure and keep the state at which a callback ended the run; return that of all clients."""
    record.stopped = state.step < lab.plan.steps
    whole = _finite(lab, state, folder)
    if lab.world.rank == 0 and record.metrics[-1]["step"] < state.step:
        _note(lab, whole, record, began)
    if folder is not None:
        _keep(folder, whole, record)
    return whole


def _held(state: State) -> list[Tensor]:
    """Return the tensors of a state."""
    moments = [part for held in state.moments.values() for part in tensors(held)]
    return [*state.blocks, *state.wire.letters.values(), *state.wire.heard.values(), *moments]


def _written_down(
    lab: Lab, state: State, record: Record, folder: Path | None, began: float
) -> State | None:
    """Measure and keep the state where the config says so; return then that of all clients."""
    measured = _due(state.step, lab.eval_every, lab)
    every = lab.config.checkpoint_every or lab.config.inner_steps
    kept = _due(state.step, every, lab) and _worth_writing(lab, state, record)
    if not (measured or kept):
        return None
    whole = _finite(lab, state, folder)
    if measured and lab.world.rank == 0:
        _note(lab, whole, record, began)
    if kept and folder is not None:
        _keep(folder, whole, record)
    return whole


def _worth_writing(lab: Lab, state: State, record: Record) -> bool:
    """Say whether a checkpoint at a visit's end would not take too much of the run's time; all processes say the same."""
    if lab.config.checkpoint_every or state.step == lab.plan.steps:
        return True
    since = time.perf_counter() - record.written_at
    cheap = record.writing < CHEAP or record.writing <= WRITING * since
    return bool(_anybodys(lab, int(cheap and lab.world.rank == 0)))


def _keep(folder: Path, state: State, record: Record) -> None:
    """Write a checkpoint of all clients."""
    began = time.perf_counter()
    history.save_timings(folder, record)
    checkpoint.save(folder / "checkpoint.safetensors", state, record.lasting())
    record.written_at = time.perf_counter()
    record.writing = record.written_at - began
    record.all_writing += record.writing


def _stop(lab: Lab, folder: Path | None, state: State, record: Record) -> None:
    """Keep what there is and raise Stopped."""
    kept = "nothing was kept, for there is no folder"
    if folder is not None:
        _keep(folder, state, record)
        kept = f"go on with: deca-lab run --resume {folder}"
    raise Stopped(f"stopped after inner step {state.step} of {lab.plan.steps}; {kept}")


def _due(step: int, every: int, lab: Lab) -> bool:
    return step % every == 0 or step == lab.plan.steps


def _engine(lab: Lab) -> Engine:
    """Return the engine of the config, or the problem's closed form, which the loop alone does without."""
    closed = lab.plan.problem.exact
    if closed is not None and engine_kind(lab.config.engine).closed:
        return lambda loss: closed
    return engine_of(lab.config, lab.model)


def _metered(engine: Engine, meter: ledger.Meter, unseen: bool = False) -> Engine:
    """Return the engine after whose gradient the meter forgets the activations, or `unseen` by it, as graphs must be."""

    def wrapped(loss: Loss) -> Gradients:
        inner = engine(loss)

        def gradients(*args: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - as the engine's
            out = meter.leave_out(inner, *args) if unseen else inner(*args)
            meter.forget()
            return out

        return gradients

    return wrapped


def _require_finite(plan: Plan, step: int, wild: Tensor, what: str, folder: Path | None) -> None:
    """Raise Diverged, naming clients, inner step and block, where any client is `wild` (N,) bool."""
    if not bool(wild.any()):
        return
    block = _block_of(plan, step)
    kept = "" if folder is None else f"; the last good checkpoint stays in {folder}"
    clients = ", ".join(map(str, wild.nonzero().flatten().tolist()))
    where = f"for client {clients} at inner step {step} in block {block!r}"
    smaller = "try a smaller --lr, or --max-grad-norm 1"
    raise Diverged(f"the {what} is no longer finite {where}: {smaller}{kept}")


def _finite(lab: Lab, state: State, folder: Path | None) -> State:
    """Return the state of all clients, or raise Diverged: what is not finite is never kept."""
    wild = _everybodys(lab, _wild(state)) > 0
    _require_finite(lab.plan, state.step - 1, wild, "model", folder)
    return gathered_state(lab.world, state)


def _wild(state: State) -> Tensor:
    """Return (n,) bool: whose parameters are not finite. NaN is its row's least and largest; no copy of X is made."""
    ends = [end for x in state.blocks for end in x.aminmax(dim=1)]
    return ~torch.isfinite(torch.stack(ends)).all(0)


def _reads_now(lab: Lab, step: int, watched: bool, glanced_at: float) -> bool:
    """Say whether the losses are read after this inner step.

    A GPU that is read after every step waits for the host between two of them. So it is read where something is due,
    and now and then for whoever watches. Callbacks see every step, and processes must all stop at the same one.
    """
    if lab.device.type in AT_ONCE or lab.world.size > 1 or lab.objects.callbacks:
        return True
    every = lab.eval_every, lab.config.checkpoint_every or lab.config.inner_steps
    glance = watched and time.perf_counter() - glanced_at >= GLANCE
    return glance or any(_due(step, n, lab) for n in every)


def _train_rows(
    plan: Plan, unread: list[tuple[int, Tensor]], folder: Path | None
) -> list[dict[str, Any]]:
    """Return a row of each inner step by one read of the device; raise Diverged for the first that is not finite."""
    rows, losses = [], torch.stack([own for _, own in unread]).cpu()
    wild = ~torch.isfinite(losses)
    for i, (done, _) in enumerate(unread):
        s = done - 1
        _require_finite(plan, s, wild[i], "loss", folder)
        # A row alone: the last bit must not depend on how many were read with it.
        mean, rate = float(losses[i].mean()), plan.recipe.lr(s)
        rows.append({"step": s, "block": _block_of(plan, s), "lr": rate, "loss": mean})
    return rows


def _block_of(plan: Plan, step: int) -> str:
    """Return the name of the block that is active at an inner step."""
    return plan.blocks[plan.visits[step // plan.recipe.inner_steps].block].name


def _note(lab: Lab, state: State, record: Record, began: float) -> None:
    """Append one measurement to the record."""
    started_at = time.perf_counter()
    measured, here = _measured(lab, state)
    visit = lab.plan.visits[max(state.step - 1, 0) // lab.config.inner_steps]
    names = [block.name for block in lab.plan.blocks]
    on_text = lab.objects.problem is None and not measured.scores
    row = {
        "step": state.step,
        "round": visit.round,
        "block": names[visit.block] if state.step else "start",
        **measured.row(names, on_text),
        **_interference(lab, state),
        "bytes_sent": int(state.sent.sum()),
        "peak_bytes": record.peak_bytes,
    }
    record.metrics.append(row)
    row.update(_own_metrics(lab, state, record))
    record.clients += _client_rows(state.step, measured, here)
    now = time.perf_counter()
    record.measuring += now - started_at
    spent = {"measuring": record.measuring, "writing": record.all_writing}
    gpu = torch.cuda.max_memory_allocated(lab.device) if lab.device.type == "cuda" else 0
    held = {"process_bytes": process_bytes(), "gpu_bytes": gpu}
    record.timings.append({"step": state.step, "seconds": now - began, **spent, **held})


def _own_metrics(lab: Lab, state: State, record: Record) -> dict[str, float]:
    """Return the user's figures; raise BadInput for a name that is one of ours, and for what is no number."""
    figures = {}
    for name, figure in (lab.objects.metrics or {}).items():
        allowed = "another name: the lab measures one of this name"
        check(name not in record.metrics[-1], "metrics", name, allowed)
        with left_alone(state.blocks, f"metrics[{name!r}]", OWN):
            value = figure(_snapshot(lab, state, record, measured=True))
        value = value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value
        check(isinstance(value, int | float), f"what metrics[{name!r}] returns", value, "a number")
        figures[name] = float(value)
    return figures


def _interference(lab: Lab, state: State) -> dict[str, float]:
    """Return what mixing the factors apart would add to the mean of their products now, for runs with LoRA."""
    if lab.config.adapter != "lora":
        return {}
    added = interference(params_of(lab.plan, state), lab.topology.at(0))
    return {"interference": added.total, "interference_bound": added.bound}


def _measured(lab: Lab, state: State) -> tuple[Measurement, list[int]]:
    """Measure the clients that are there, and return who they are: the mean model is theirs alone."""
    here = torch.from_numpy(np.flatnonzero(lab.failing.members(max(state.step - 1, 0))))
    return lab.measure(params_of(lab.plan, state), state.blocks, here), here.tolist()


def _client_rows(step: int, measured: Measurement, here: list[int]) -> list[dict[str, Any]]:
    rows = zip(here, measured.clients, measured.own, strict=True)
    names = ("step", "client", "test_loss", "own_loss")
    return [dict(zip(names, (step, *row), strict=True)) for row in rows]


def process_bytes() -> int:
    """Return the largest memory that this process has held, or 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
