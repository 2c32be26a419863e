"""The names that knobs take, for help and completion, read from the source of their tables: nothing heavy is imported."""

import ast
from functools import cache
from pathlib import Path

from deca_lab.registry import KINDS

HOUSE = Path(__file__).parents[1]
TABLES = {  # knob -> kinds of registered parts
    "method": ("method",),
    "model": ("model",),
    "task": ("task",),
    "corpus": ("corpus",),
    "split": ("split",),
    "topology": ("topology", "sequence"),
    "weights": ("weights",),
    "order": ("order",),
    "optimiser": ("optimiser",),
    "feedback": ("feedback",),
    "feedback_scale": ("feedback-scale",),
    "compress": ("compressor",),
    "lr_scheduler_type": ("schedule",),
    "engine": ("engine",),
}
FIXED = {
    "head": ("auto", "words", "trained"),
    "attention": ("auto", "eager", "sdpa"),
    "dtype": ("float32", "bfloat16", "float64"),
    "adapter": ("none", "lora", "bottleneck"),
    "frozen_factor": ("none", "A"),
    "base_weights": ("full", "nf4"),
    "mixing": ("gossip", "decaf"),
    "blocks": ("layers", "equal", "patterns", "whole"),
    "ends": ("own", "joined", "frozen"),
    "moments": ("reset", "keep"),
    "combine": ("after", "before"),
    "mixed": ("active", "all"),
    "device": ("auto", "cpu", "cuda"),
}
BESIDE = {"topology": ("server",), "compress": ("none",)}  # words that no table holds


def choices(knob: str) -> tuple[str, ...]:
    """Return the names that a knob takes, in the order of their tables; none for a free text."""
    tabled = [name for kind in TABLES.get(knob, ()) for name in ours(kind)]
    return (*FIXED.get(knob, ()), *BESIDE.get(knob, ()), *tabled)


@cache
def ours(kind: str) -> tuple[str, ...]:
    """Return the names of one kind of parts that come with the package, plug-ins' left out."""
    module, _, table = KINDS[kind].table.partition(":")
    file = HOUSE.joinpath(*module.split(".")[1:]).with_suffix(".py")
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        targets = getattr(statement, "targets", [getattr(statement, "target", None)])
        value = getattr(statement, "value", None)
        if isinstance(value, ast.Dict) and ast.unparse(targets[0] or value) == table:
            return tuple(str(ast.literal_eval(key)) for key in value.keys if key is not None)
    return ()
