"""What a user brings in place of a name: how it is recorded, and how a resumed run asks for it again.

A config holds names only, so that it can be written down. Where an object stands in for a name, the
config says "object:Kind:fingerprint": a run that is resumed without the object is refused, and so is
one that is given another.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from deca_lab.algorithm.blocks import Block
from deca_lab.algorithm.own_optimiser import optimiser_of
from deca_lab.algorithm.problems import Problem
from deca_lab.errors import check
from deca_lab.lab.fingerprints import FINGERPRINTS
from deca_lab.methods import Method
from deca_lab.mixing.topology import Topology, topology
from deca_lab.models import own_model
from deca_lab.runconfig import OBJECT, RunConfig, defaults
from deca_lab.text import tokens
from deca_lab.text.corpora import Corpus, corpus_of

FIELDS = {  # argument -> the knob in whose place it stands
    "model": "model",
    "tokenizer": "tokenizer",
    "dataset": "corpus",
    "topology": "topology",
    "optimiser": "optimiser",
    "method": "method",
    "problem": "corpus",
    "blocks": "blocks",
}
PROBLEM = f"{OBJECT}Problem:"  # begins the corpus of a fit
UNREAD = (  # knobs, by an own optimiser
    *("a1", "a2", "eps", "momentum", "feedback", "feedback_scale", "b1", "b2"),
)


class Objects(NamedTuple):
    """The objects of one run; None where the config's name counts."""

    model: Any = None  # a transformers model, or any nn.Module from token ids to logits
    tokenizer: Any = None
    dataset: Any = None  # as `corpora.corpus_of` takes it
    topology: Any = None  # a networkx graph, a matrix (an array or sparse), several, or a Topology
    optimiser: Any = None  # as `optimisers.optimiser_of` takes it
    method: Method | None = None
    problem: Problem | None = None
    blocks: Sequence[Any] | None = None
    metrics: Mapping[str, Callable[[Any], float]] | None = None  # name -> figure of a Snapshot
    callbacks: Sequence[Callable[[Any], bool | None]] = ()


NOTHING = Objects()  # every part by its name


def accepted(config: RunConfig, objects: Objects) -> Objects:
    """Return the objects in the library's own types; raise BadInput for one that cannot be used."""
    own = isinstance(config, RunConfig)
    check(own, "config", config, "a deca_lab.RunConfig; deca_lab.recipe reads one from a file")
    kinds = {"method": (Method, "deca_lab.Method"), "model": (nn.Module, "torch.nn.Module")}
    for name, (kind, called) in kinds.items():
        given = getattr(objects, name)
        allowed = f"a {called} here; a name stands in the config"
        check(given is None or isinstance(given, kind), name, given, allowed)
    _require_callables(objects)
    if objects.model is not None:
        own_model.require_plain(objects.model)
    return objects._replace(
        callbacks=tuple(map(_ending, objects.callbacks)),
        tokenizer=None if objects.tokenizer is None else tokens.tokenizer_of(objects.tokenizer),
        dataset=None if objects.dataset is None else _corpus(config, objects.dataset),
        topology=None if objects.topology is None else _graph(config, objects.topology),
        optimiser=None if objects.optimiser is None else optimiser_of(objects.optimiser),
    )


def _require_callables(objects: Objects) -> None:
    metrics = {} if objects.metrics is None else objects.metrics
    sound = isinstance(metrics, Mapping) and all(map(callable, metrics.values()))
    sound = sound and all(isinstance(name, str) and name.strip() for name in metrics)
    check(sound, "metrics", objects.metrics, "a dict of functions of a Snapshot, {name: function}")
    listed = isinstance(objects.callbacks, Sequence) and all(map(callable, objects.callbacks))
    check(listed, "callbacks", objects.callbacks, "a list of functions of a Snapshot")


def _ending(call: Callable[[Any], Any]) -> Callable[[Any], bool]:
    """Return a callback that must say plainly whether the run ends: a number that a logger returns does not end it."""

    def ends(seen: Any) -> bool:  # noqa: ANN401 - a Snapshot
        given = call(seen)
        plain = given is None or isinstance(given, bool | np.bool_)
        plain = plain or (
            isinstance(given, Tensor) and given.dtype == torch.bool and given.dim() == 0
        )
        check(plain, "what a callback returns", given, "True to end the run, or None or False")
        return bool(given)

    return ends


def columns_and_rows(config: RunConfig) -> dict[str, Any]:
    """Return what the Data knobs say of columns and rows, as `corpora.load` takes it."""
    labels = [name.strip() for name in config.labels.split(",") if name.strip()]
    return {
        "text": config.text_column or None,
        "label": config.label_column or None,
        "answer": config.answer_column if config.task == "generate" else None,
        "labels": labels or None,
        "max_rows": config.max_rows or None,
        "seed": config.seed,
    }


def _corpus(config: RunConfig, data: Any) -> Corpus:  # noqa: ANN401 - whatever was given
    _require_unread(config, ("hub_split", "hub_revision"), "dataset")
    return corpus_of(data, **columns_and_rows(config))


def _graph(config: RunConfig, given: Any) -> Topology:  # noqa: ANN401 - whatever was given
    allowed = "a graph or a matrix here; a name stands in the config"
    check(not isinstance(given, str), "topology", given, allowed)
    return topology(given, config.clients, weights=config.weights)


def named(config: RunConfig, objects: Objects) -> RunConfig:
    """Return the config that says where objects stand in for names.

    Raises BadInput where a knob already names something else, and where an object is missing.
    """
    if objects.optimiser is not None:
        _require_unread(config, UNREAD, "optimiser")
    given = {name: getattr(objects, name) for name in FIELDS}
    labels = {name: _label(name, part) for name, part in given.items() if part is not None}
    usual = defaults()
    for name, label in labels.items():
        knob = FIELDS[name]
        value = getattr(config, knob)
        again = str(value).startswith(OBJECT)
        known = "the same object as before" if again else f"left out beside {name}="
        allowed = f"{known}: {name}={label.removeprefix(OBJECT)} is given"
        check(value in (usual[knob], label), knob, value, allowed)
    placed: dict[str, Any] = {FIELDS[name]: label for name, label in labels.items()}
    for name, knob in FIELDS.items():
        value = str(getattr(config, knob))
        allowed = f"given again as {_argument(name, value)}: it is an object, which no file holds"
        check(not value.startswith(OBJECT) or knob in placed, knob, value, allowed)
    return replace(config, **placed)


def with_objects(config: RunConfig) -> list[str]:
    """Return the knobs of a config in whose place objects were given."""
    knobs = dict.fromkeys(FIELDS.values())
    return [knob for knob in knobs if str(getattr(config, knob)).startswith(OBJECT)]


def on_problem(config: RunConfig) -> bool:
    """Whether this is the config of a fit: a problem of one's own stands in for the text."""
    return config.corpus.startswith(PROBLEM)


def _require_unread(config: RunConfig, knobs: Sequence[str], name: str) -> None:
    """Raise BadInput where a knob was set that the object does not read."""
    usual = defaults()
    changed = [knob for knob in knobs if getattr(config, knob) != usual[knob]]
    allowed = f"left out: {name}= does not read it"
    check(not changed, ", ".join(changed), [getattr(config, knob) for knob in changed], allowed)


def _argument(name: str, label: str) -> str:
    return "problem, to fit" if label.startswith(PROBLEM) else f"{name}="


def _label(name: str, given: Any) -> str:  # noqa: ANN401 - any object
    return f"{OBJECT}{type(given).__name__}:{FINGERPRINTS[name](given)[:12]}"


def blocks_given(blocks: Sequence[Any]) -> tuple[Block, ...]:
    """Return blocks of what a user wrote: Blocks, or lists of names; raise BadInput for anything else."""
    allowed = "lists of names of the parameters, or Blocks"
    listed = isinstance(blocks, Sequence) and not isinstance(blocks, str) and len(blocks) > 0
    check(listed, "blocks", blocks, f"a list of {allowed}")
    cut = []
    for k, block in enumerate(blocks):
        names = block.names if isinstance(block, Block) else block
        sound = isinstance(names, Sequence) and not isinstance(names, str)
        sound = sound and all(isinstance(name, str) for name in names)
        check(sound, "blocks", block, allowed)
        cut.append(block if isinstance(block, Block) else Block(f"block {k}", tuple(names)))
    return tuple(cut)
