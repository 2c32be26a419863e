"""What an object that stands in for a name is known by when a run is resumed: its numbers, its code, and what that reads."""

import dis
import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deca_lab.algorithm.optimisers import Optimiser
from deca_lab.algorithm.problems import Problem
from deca_lab.mixing.matrix import entries
from deca_lab.mixing.topology import Topology
from deca_lab.models import own_model
from deca_lab.text import tokens

WRITES = ("STORE_GLOBAL", "STORE_DEREF", "STORE_ATTR")
DEEPEST = 100  # values within values: Python ends a recursion ten times as deep
# The text of each value by its id, beside the value: it keeps its id as long as it is held.
Known = dict[int, tuple[Any, str]]
ASKS, GROW = ("LOAD_METHOD", "LOAD_ATTR"), ("append", "extend", "insert", "add", "setdefault")


def _of_topology(given: Topology) -> str:
    digest = hashlib.sha256()
    for W in given.matrices:
        parts = [W] if isinstance(W, np.ndarray) else entries(W)
        digest.update(repr(W.shape).encode())
        digest.update(b"".join(np.ascontiguousarray(part).tobytes() for part in parts))
    return digest.hexdigest()


def _of_problem(given: Problem) -> str:
    """Return a SHA-256 of the loss, the start, and the data: the batches of step 0 stand for all."""
    data = [] if given.evaluation is None else [given.evaluation]
    parts = [given.loss, dict(given.start), given.batches(0), *data]
    return hashlib.sha256("".join(map(_of_value, parts)).encode()).hexdigest()


def _of_optimiser(given: Optimiser) -> str:
    parts = (given.init, given.update, given.feed)
    return hashlib.sha256("".join(map(_of_value, parts)).encode()).hexdigest()


def _of_text(given: Any) -> str:  # noqa: ANN401 - a Method, or blocks
    return hashlib.sha256(repr(given).encode()).hexdigest()


FINGERPRINTS: dict[str, Callable[[Any], str]] = {
    "model": own_model.fingerprint_of,
    "tokenizer": tokens.fingerprint_of,
    "dataset": lambda corpus: str(corpus.fingerprint),
    "topology": _of_topology,
    "optimiser": _of_optimiser,
    "method": _of_text,
    "problem": _of_problem,
    "blocks": _of_text,
}


def _of_value(value: Any, known: Known | None = None, depth: int = 0) -> str:  # noqa: ANN401 - whatever code reads
    """Return a text of a value that equal values share, in any process; "" for what has none, such as a module.

    `known` holds what was met, with its text: code that calls itself ends, and what is met on many ways is read once.
    """
    known = {} if known is None else known
    if depth > DEEPEST:
        return ""
    if id(value) not in known:
        known[id(value)] = value, ""  # its text, where it holds itself
        inner = functools.partial(_of_value, known=known, depth=depth + 1)
        known[id(value)] = value, _text_of(value, inner)
    return known[id(value)][1]


def _text_of(value: Any, inner: Callable[[Any], str]) -> str:  # noqa: ANN401 - whatever code reads
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return _of_numbers(torch.as_tensor(value) if _is_numeric(value) else value)
    if isinstance(value, Mapping):
        return inner([part for pair in value.items() for part in pair])
    if isinstance(value, tuple | list):
        return f"[{','.join(map(inner, value))}]"
    if callable(value) and not isinstance(value, type):
        text = "".join([_source(value), *map(inner, _read_by(value))])
        return hashlib.sha256(text.encode()).hexdigest()
    return ""


def _is_numeric(value: Any) -> bool:  # noqa: ANN401 - a tensor, or an array of anything
    return isinstance(value, Tensor) or value.dtype.kind in "fiub"


def _of_numbers(value: Any) -> str:  # noqa: ANN401 - a tensor, or an array of texts
    if not isinstance(value, Tensor):
        return repr(value.tolist())
    raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return f"{value.dtype}{tuple(value.shape)}{hashlib.sha256(raw.data).hexdigest()}"


def _source(function: Callable[..., Any]) -> str:
    function = inspect.unwrap(getattr(function, "func", function))
    plain = inspect.isroutine(function)
    try:
        return inspect.getsource(function if plain else type(function))
    except (OSError, TypeError):  # typed at a prompt, or no function of Python's
        return str(getattr(function, "__qualname__", type(function).__qualname__))


def _read_by(function: Any) -> list[Any]:  # noqa: ANN401 - any callable
    """Return what a callable reads beside its arguments: of an object its attributes, of a function what is around it."""
    if isinstance(function, functools.partial):
        return [function.func, function.args, dict(sorted(function.keywords.items()))]
    if inspect.ismethod(function):
        return [function.__func__, _attributes(function.__self__)]
    function = inspect.unwrap(function)
    if not inspect.isfunction(function):
        return [_attributes(function)]
    return [function.__defaults__, function.__kwdefaults__, _around(function)]


def _attributes(of: object) -> dict[str, Any]:
    """Return an object's attributes but those that its methods write, such as a counter or a log."""
    methods = [f for kind in type(of).__mro__ for f in vars(kind).values() if inspect.isfunction(f)]
    return _lasting(getattr(of, "__dict__", {}), [f for f in methods if f.__name__ != "__init__"])


def _lasting(values: Mapping[str, Any], functions: Sequence[Any]) -> dict[str, Any]:
    """Return the values, in order of their names, that the functions do not change, as far as their code tells."""
    steps = [step for function in functions for step in dis.get_instructions(function)]
    stored = {step.argval for step in steps if step.opname in WRITES}
    grown = {a.argval for a, b in pairwise(steps) if b.opname in ASKS and b.argval in GROW}
    filled = any(step.opname == "STORE_SUBSCR" for step in steps)  # it may be any of the dicts
    kept = {k: v for k, v in sorted(values.items()) if k not in stored | grown}
    return {k: v for k, v in kept.items() if not (filled and isinstance(v, list | dict))}


def _around(function: Any) -> dict[str, Any]:  # noqa: ANN401 - a function of Python's
    """Return the outer names that a function reads and does not write; of other modules' functions none."""
    steps = list(dis.get_instructions(function))
    names = {step.argval for step in steps if step.opname == "LOAD_GLOBAL"}
    there = function.__globals__
    common = {name: there[name] for name in names if name in there}
    foreign = [name for name, value in common.items() if _is_of_another(value, function)]
    own = {name: value for name, value in common.items() if name not in foreign}
    outer = {**own, **inspect.getclosurevars(function).nonlocals}
    return _lasting(outer, [function])


def _is_of_another(value: Any, function: Any) -> bool:  # noqa: ANN401 - an outer name of a function
    """Say whether a value is a function of another module: what that one reads is not the user's."""
    return inspect.isroutine(value) and value.__module__ != function.__module__
