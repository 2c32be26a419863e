"""A finished or interrupted run becomes a directory that transformers loads.

`AutoModelForCausalLM` loads it, or `AutoModelForSequenceClassification` where a head was trained.
"""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from deca_lab.algorithm import stacking
from deca_lab.algorithm.blocks import Block
from deca_lab.algorithm.loop import State
from deca_lab.algorithm.stacking import Layout, Params
from deca_lab.errors import BadInput, check
from deca_lab.files import new_folder
from deca_lab.lab import checkpoint
from deca_lab.lab.metrics import mean_model
from deca_lab.lab.objects import on_problem, with_objects
from deca_lab.lab.prepare import blocks_of, has_head, load_model, tokenizer_of
from deca_lab.lab.runs import read_config
from deca_lab.methods import resolve
from deca_lab.models import adapters, causal_lm
from deca_lab.models.classifier import pad_of
from deca_lab.runconfig import RunConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel


MAKERS = ("method", "tokenizer", "model", "blocks")  # the knobs that make the model that is written


def export_model(folder: Path | str, client: str = "mean", out: Path | str = "exported") -> Path:
    """Write the mean model, or client "0" ... "N-1", of a run's last checkpoint with its tokenizer; return the directory.

    Raises BadInput where the run has no whole checkpoint, the client does not exist, or `out` is not empty; and where
    what makes the model was given to the run as objects.
    """
    config = read_config(folder)
    _require_names(config)
    config = resolve(config)
    which, _ = tokenizer_of(config)
    path = Path(folder) / "checkpoint.safetensors"
    state, record = checkpoint.load(path)
    labels = record.get("labels", ()) if has_head(config) else ()
    model = load_model(config, len(which), labels=labels, pad=pad_of(which))
    stacked = _stacked(config, model, state, path)
    chosen = (
        mean_model(stacked)
        if client == "mean"
        else stacking.client(stacked, _index(client, config.clients))
    )
    target = new_folder(Path(out))
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as written:
        with causal_lm.quiet():
            plain_model(config, model, chosen).save_pretrained(written)
            which.save_pretrained(written)
        for file in Path(written).iterdir():
            shutil.move(file, target / file.name)
    return target


def _require_names(config: RunConfig) -> None:
    """Raise BadInput where an object stands for what makes the model: a folder does not hold it."""
    given = [knob for knob in with_objects(config) if knob in MAKERS or on_problem(config)]
    if given:
        raise BadInput(
            f"this run cannot be exported: it was given its {' and '.join(given)} as objects, which no folder "
            "holds; end a run with a callback that keeps snapshot.mean, the mean model's parameters by name"
        )


def plain_model(config: RunConfig, model: "PreTrainedModel", params: Params) -> "PreTrainedModel":
    """Return the model of one client as transformers knows it: LoRA's factors are folded into the weights."""
    check(
        config.adapter != "bottleneck",
        "adapter",
        config.adapter,
        "lora or none: a bottleneck is no part of transformers",
    )
    return (
        adapters.merge(model, params)
        if config.adapter == "lora"
        else causal_lm.with_parameters(model, params)
    )


def _stacked(config: RunConfig, model: "PreTrainedModel", state: State, path: Path) -> Params:
    """Return all clients' parameters (N, ...) of a checkpoint's state, under the model's names."""
    values = causal_lm.trainable(model)
    cut = blocks_of(config, causal_lm.anatomy(model), {n: p.numel() for n, p in values.items()})
    try:
        parts = [
            stacking.unflatten(x, _layout(b, values))
            for x, b in zip(state.blocks, cut, strict=True)
        ]
    except (ValueError, RuntimeError):
        raise BadInput(
            f"checkpoint {str(path)!r} does not fit config.json beside it: one of them is of another run"
        ) from None
    return {name: tensor for part in parts for name, tensor in part.items()}


def _layout(block: Block, values: Params) -> Layout:
    """Return where each name of a block stands, of parameters without a client axis."""
    return Layout(block.names, tuple(tuple(values[name].shape) for name in block.names))


def _index(client: str, clients: int) -> int:
    known = client.isascii() and client.isdecimal() and len(client) < 10 and int(client) < clients
    check(known, "client", client, f"'mean' or a number from 0 to {clients - 1}")
    return int(client)


def default_out(folder: Path | str, client: str) -> Path:
    """Return where an export goes when nobody says: inside the run folder."""
    if not Path(folder).is_dir():
        raise BadInput(f"there is no run folder {str(folder)!r}")
    return Path(folder) / f"export-{client}"
