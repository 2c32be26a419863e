"""A finished or interrupted run becomes a directory that transformers or PEFT loads, a classifier with its head."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from deca_lab.algorithm import stacking
from deca_lab.algorithm.blocks import ORDERS, Block, visits
from deca_lab.algorithm.loop import State
from deca_lab.algorithm.stacking import Layout, Params
from deca_lab.errors import BadInput, check, pick
from deca_lab.files import new_folder, require_new
from deca_lab.lab import checkpoint
from deca_lab.lab.metrics import mean_model
from deca_lab.lab.objects import Objects, accepted, named, on_problem, with_objects
from deca_lab.lab.prepare import blocks_of
from deca_lab.lab.restored import require_state
from deca_lab.lab.runs import read_config
from deca_lab.lab.sources import has_head, load_model, tokenizer_of
from deca_lab.methods import resolve
from deca_lab.models import adapters, causal_lm
from deca_lab.models.classifier import pad_of
from deca_lab.models.pretrained import quiet
from deca_lab.runconfig import OBJECT, RunConfig, changed_knobs, defaults

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


MAKERS = ("method", "tokenizer", "model")  # what makes the model that is written


def export_model(
    folder: Path | str,
    client: str = "mean",
    out: Path | str = "exported",
    form: str = "model",
    **objects: Any,  # noqa: ANN401 - as of `run`
) -> Path:
    """Write the mean model, or client "0" ... "N-1", of a run's last checkpoint with its tokenizer; return the directory.

    `form` "model" is what `AutoModelForCausalLM.from_pretrained` loads, LoRA folded into the weights; a module of your
    own becomes a model.safetensors for `safetensors.torch.load_model`. "peft" is LoRA's factors, and the head where one
    trained, which `PeftModel.from_pretrained` puts on the base. A model, tokenizer or method that the run was given as objects
    must be given again, by the names that they have in `run`.

    Raises BadInput where the run has no whole checkpoint, the client does not exist, `out` is not empty, or the form
    does not suit the run.
    """
    write = pick(FORMS, form, "form")
    require_new(Path(out), run=False)
    trained, which = trained_model(folder, client, **objects)
    with _renamed_to(new_folder(Path(out), run=False)) as target, quiet():
        write(trained, target)
        if hasattr(which, "save_pretrained"):
            which.save_pretrained(target)
    return Path(out)


@contextmanager
def _renamed_to(target: Path) -> Iterator[Path]:
    """Yield a folder that takes the target's place once it is written: whole or not at all."""
    place: dict[str, Any] = {"dir": target.parent, "prefix": f".{target.name}."}
    with tempfile.TemporaryDirectory(**place, ignore_cleanup_errors=True) as written:
        yield Path(written)
        mode = target.stat().st_mode
        shutil.rmtree(target)  # empty, but for what a killed process left
        Path(written).rename(target).chmod(mode)


def trained_model(
    folder: Path | str,
    client: str = "mean",
    **objects: Any,  # noqa: ANN401 - as of `run`
) -> "tuple[Trained, PreTrainedTokenizerBase]":
    """Return the mean model, or a client's, of a run's last checkpoint, and its tokenizer; raise as `export_model`."""
    config, given = _with_objects(read_config(folder), objects)
    which, _ = tokenizer_of(config, given.tokenizer)
    path = Path(folder) / "checkpoint.safetensors"
    state, record = checkpoint.load(path)
    _require_written_with(config, record, path)
    labels = record.get("labels", ()) if has_head(config, given.model) else ()
    sizes = len(which), given.model, labels, pad_of(which)
    model = load_model(config, *sizes)
    stacked = _stacked(config, model, state, path)
    number = _index(client, config.clients)
    chosen = mean_model(stacked) if number is None else stacking.client(stacked, number)
    return Trained(config, model, chosen, given.model, sizes), which


class Trained(NamedTuple):
    """One client's model, or the mean: what the forms of an export write."""

    config: RunConfig
    model: "PreTrainedModel"  # as it was trained, adapters included
    params: Params
    given: nn.Module | None  # the user's own object
    sizes: tuple[Any, ...]  # what `load_model` takes beside a config


def _with_objects(config: RunConfig, objects: dict[str, Any]) -> tuple[RunConfig, Objects]:
    """Return config and objects of what makes the model; raise BadInput where one is missing or another's."""
    unknown = ", ".join(sorted(set(objects) - set(MAKERS)))
    check(not unknown, "export_model", unknown, f"arguments: {', '.join(MAKERS)}")
    missing = [k for k in with_objects(config) if k in MAKERS and objects.get(k) is None]
    if on_problem(config):
        raise BadInput("this run cannot be exported: it trained a problem of your own, not a model")
    if missing:
        again = ", ".join(f"{knob}=" for knob in missing)
        raise BadInput(
            f"this run was given its {' and '.join(missing)} as objects, which no folder holds: "
            f"export it in Python, with export_model(folder, {again})"
        )
    beside = {k: defaults()[k] for k in with_objects(config) if k not in MAKERS}
    given = accepted(config, Objects(**objects))
    return resolve(named(replace(config, **beside), given), given.method), given


def _whole(trained: Trained, out: Path) -> None:
    """Write the model whole, as its own class saves it; a module that is none of transformers as its tensors."""
    from safetensors.torch import save_model

    config, model, params, given, _ = trained
    whole: nn.Module = plain_model(config, model, params)
    if given is not None:  # the object has what was changed for training: dropout, attention, dtype
        whole = causal_lm.with_parameters(given, dict(whole.named_parameters()))
    if causal_lm.from_transformers(whole):
        whole.save_pretrained(out)  # type: ignore[operator]
    else:
        save_model(whole.cpu(), str(out / "model.safetensors"))


def _peft(trained: Trained, out: Path) -> None:
    """Write LoRA's factors and a head as a PEFT adapter, and the base beside them where it has no place of its own."""
    config, model, params, given, sizes = trained
    check(config.adapter == "lora", "form", "peft", f"model: the run's adapter is {config.adapter}")
    allowed = f"model: these factors fit the run's base in {config.base_weights} alone"
    check(config.base_weights == "full", "form", "peft", allowed)
    base = causal_lm.PRESETS.get(config.model, causal_lm.Preset("", config.model)).source
    if given is not None or not base:  # an object, or drawn: no place to load it from
        base, plain = "base", replace(config, adapter="none")
        own: Any = load_model(plain, *sizes) if given is None else given
        check(causal_lm.from_transformers(own), "model", type(own).__name__, "one of transformers")
        own.save_pretrained(out / base)
    head = [name for name in params if not name.endswith(adapters.FACTORS)]
    adapters.save_peft(causal_lm.with_parameters(model, params), base, out, head)


FORMS: dict[str, Callable[[Trained, Path], None]] = {"model": _whole, "peft": _peft}


def plain_model(config: RunConfig, model: "PreTrainedModel", params: Params) -> "PreTrainedModel":
    """Return the model of one client as transformers knows it: LoRA's factors are folded into the weights."""
    allowed = "lora or none: a bottleneck is no part of transformers"
    check(config.adapter != "bottleneck", "adapter", config.adapter, allowed)
    return (
        adapters.merge(model, params)
        if config.adapter == "lora"
        else causal_lm.with_parameters(model, params)
    )


def _stacked(config: RunConfig, model: "PreTrainedModel", state: State, path: Path) -> Params:
    """Return all clients' parameters (N, ...) of a checkpoint's state, under the model's names."""
    values = causal_lm.trainable(model)
    sizes = {name: value.numel() for name, value in values.items()}
    cut = blocks_of(config, causal_lm.anatomy(model), sizes, causal_lm.still(model))
    layouts = [_layout(block, values) for block in cut]
    visited = visits(len(cut), config.rounds, config.inner_steps, ORDERS[config.order], config.seed)
    steps = len(visited) * config.inner_steps
    require_state(path, state, config.clients, [where.width for where in layouts], steps)
    parts = [stacking.unflatten(x, where) for x, where in zip(state.blocks, layouts, strict=True)]
    return {name: tensor for part in parts for name, tensor in part.items()}


def _require_written_with(config: RunConfig, record: dict[str, Any], path: Path) -> None:
    """Raise BadInput where config.json, but for objects that stand beside the model, is another than the checkpoint's."""
    stored = record.get("config", {})
    beside = {name for name, value in stored.items() if str(value).startswith(OBJECT)}
    if knobs := changed_knobs(config, stored, but={*beside, *with_objects(config)}):
        raise BadInput(
            f"config.json beside checkpoint {str(path)!r} was changed since ({', '.join(knobs)}): "
            "export needs the same config"
        )


def _layout(block: Block, values: Params) -> Layout:
    """Return where each name of a block stands, of parameters without a client axis."""
    return Layout(block.names, tuple(tuple(values[name].shape) for name in block.names))


def _index(client: str, clients: int) -> int | None:
    """Return a client's number, or None for the mean."""
    if client == "mean":
        return None
    known = client.isascii() and client.isdecimal() and len(client) < 10 and int(client) < clients
    check(known, "client", client, f"'mean' or a number from 0 to {clients - 1}")
    return int(client)


def default_out(folder: Path | str, client: str, form: str = "model") -> Path:
    """Return where an export goes when nobody says: inside the run folder."""
    if not Path(folder).is_dir():
        raise BadInput(f"there is no run folder {str(folder)!r}")
    return Path(folder) / f"{'export' if form == 'model' else form}-{client}"
