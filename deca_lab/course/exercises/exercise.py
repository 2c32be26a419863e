"""What an exercise is, and how an answer is judged: beside the answers of the library's own function.

An answer may hold numbers, arrays, tensors, strings, truth values, and tuples, lists and dicts of them.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from math import inf
from typing import Any, NamedTuple

import numpy as np
import torch

LONGEST = 300  # letters of an error message that are shown
Arguments = tuple[Any, ...]  # numbers, strings, arrays, tensors, and dicts and sequences of them
STUB = "Not yet: replace the line that raises NotImplementedError, and run the cell again."


class Mistake(NamedTuple):
    """One usual mistake: what it computes, and what to say to those who made it."""

    computes: Callable[..., Any]
    words: str


class Exercise(NamedTuple):
    """A function to write: `about` names what it computes, `cases` maps words to arguments, `hints` reveal more and more.

    `kind` is what is asked for: to write a formula down, to derive one, to debug given code, to design an experiment.
    """

    name: str
    about: str
    solution: Callable[..., Any]
    cases: Mapping[str, Arguments]
    mistakes: tuple[Mistake, ...]
    hints: tuple[str, ...]
    kind: str = "write"


class Gap(NamedTuple):
    """The worst difference between an answer and what it should be.

    0 where there is none; inf where the answer has the wrong kind or shape, so that there is nothing to compare.
    """

    size: float
    words: str = ""


def verdict(exercise: Exercise, yours: Callable[..., Any]) -> str:
    """Return "Right" or "Not yet" and why, of a function on all cases; no answer makes it raise."""
    answers = []
    for where, arguments in exercise.cases.items():
        given = deepcopy(arguments)
        try:
            answers.append(yours(*given))
        except NotImplementedError:
            return STUB
        except (Exception, SystemExit) as error:
            return f"Not yet, on {where}: your function stopped with {type(error).__name__}{_message(error)}"
        if changed := _changed(exercise, given, arguments):
            return f"Not yet, on {where}: your function changed {changed} in place. Read the old values, write new ones."
    return _verdict(exercise, answers)


def _verdict(exercise: Exercise, answers: Sequence[Any]) -> str:
    """Return the verdict on the answers, one for each case."""
    for (where, arguments), answer in zip(exercise.cases.items(), answers, strict=True):
        difference = _read(answer, exercise.solution(*deepcopy(arguments)))
        if difference.size:
            known = _known(exercise, answers)
            return f"Not yet, on {where}: {known or difference.words}"
    cases = (
        " and on ".join(exercise.cases)
        if len(exercise.cases) <= 3
        else f"all {len(exercise.cases)} cases"
    )
    return f"Right: yours is the library's own {exercise.about}, on {cases}."


def _known(exercise: Exercise, answers: Sequence[Any]) -> str:
    """Return the words of the mistake that gives these answers on all cases, or nothing."""
    cases = list(exercise.cases.values())
    made = (
        m.words
        for m in exercise.mistakes
        if not any(
            _read(a, m.computes(*deepcopy(case))).size
            for a, case in zip(answers, cases, strict=True)
        )
    )
    return next(made, "")


def _read(answer: object, wanted: object) -> Gap:
    """Return the gap, also of an answer that breaks when it is looked at."""
    try:
        return gap(answer, wanted)
    except Exception:
        return Gap(
            inf,
            f"the answer is {_thing(answer)}, which cannot be read; it must be {_kind(wanted)}.",
        )


def _message(error: BaseException) -> str:
    try:
        return f": {error}"[:LONGEST]
    except Exception:
        return ""


def _changed(exercise: Exercise, given: Arguments, arguments: Arguments) -> str:
    """Return the names of the arguments that are no longer what they were."""
    names = inspect.signature(exercise.solution).parameters
    return " and ".join(
        n
        for n, new, old in zip(names, given, arguments, strict=False)
        if not callable(old) and gap(new, old, exact=True).size
    )


# ---- an answer beside what it should be; what it should be says how the answer is read


def gap(got: object, wanted: object, at: str = "", exact: bool = False) -> Gap:
    """Return the worst difference; `at` says which part of the answer this is."""
    here = f"entry {at} of the answer" if at else "the answer"
    if got is None:
        return Gap(inf, f"{here} is None; it must be {_kind(wanted)}. Is there a return?")
    if isinstance(wanted, Mapping):
        return _gap_of_dicts(got, wanted, at, here, exact)
    if isinstance(wanted, tuple | list):
        return _gap_of_sequences(got, wanted, at, here, exact)
    if isinstance(wanted, str):
        return _gap_of_words(got, wanted, here)
    array, asked = _array(got), _array(wanted)
    assert asked is not None
    if array is None or array.dtype.kind not in ("b" if asked.dtype.kind == "b" else "fiu"):
        return Gap(inf, f"{here} is {_thing(got, array)}; it must be {_kind(wanted)}.")
    if array.shape != asked.shape:
        return Gap(inf, f"{here} has shape {array.shape}; it must be {_kind(wanted)}.")
    finite, due = np.isfinite(array), np.isfinite(asked)
    if not exact and not (finite.all() and due.all()):
        if (finite == due).all():  # beside a usual mistake that gives no numbers either
            array, asked = np.where(finite, array, 0), np.where(finite, asked, 0)
            return _gap_of_numbers(array, asked, here, exact)
        return Gap(
            inf,
            f"some entries of {here} are not finite numbers."
            if array.shape
            else f"{here} is not a finite number.",
        )
    return _gap_of_numbers(array, asked, here, exact)


def _gap_of_dicts(
    got: object, wanted: Mapping[Any, object], at: str, here: str, exact: bool
) -> Gap:
    if not isinstance(got, Mapping):
        return Gap(inf, f"{here} is {_thing(got)}; it must be {_kind(wanted)}.")
    if set(got) != set(wanted):
        return Gap(inf, f"{here} has the keys {_listed(got)}; it must have {_listed(wanted)}.")
    return _worst(gap(got[key], wanted[key], f"{at}[{key!r}]", exact) for key in wanted)


def _gap_of_sequences(
    got: object, wanted: Sequence[object], at: str, here: str, exact: bool
) -> Gap:
    if isinstance(got, np.ndarray | torch.Tensor) and got.ndim:
        got = list(got)
    if not isinstance(got, tuple | list):
        return Gap(inf, f"{here} is {_thing(got)}; it must be {_kind(wanted)}.")
    if len(got) != len(wanted):
        return Gap(inf, f"{here} has {len(got)} parts; it must be {_kind(wanted)}.")
    return _worst(
        gap(g, w, f"{at}[{k}]", exact) for k, (g, w) in enumerate(zip(got, wanted, strict=True))
    )


def _gap_of_words(got: object, wanted: str, here: str) -> Gap:
    if not isinstance(got, str):
        return Gap(inf, f"{here} is {_thing(got)}; it must be {_kind(wanted)}.")
    return (
        Gap(0) if got == wanted else Gap(1, f"{here} is {got[:60]!r}, and it should be {wanted!r}.")
    )


def _gap_of_numbers(got: np.ndarray, wanted: np.ndarray, here: str, exact: bool) -> Gap:
    if exact:
        return Gap(0 if np.array_equal(got, wanted, equal_nan=wanted.dtype.kind == "f") else 1)
    g, w = got.astype(np.float64), wanted.astype(np.float64)
    coarse = any(a.dtype.kind == "f" and a.dtype.itemsize < 8 for a in (got, wanted))
    size = float(np.abs(w).max(initial=0))
    wrong = np.abs(g - w) > (
        1e-4 * np.abs(w) + 1e-5 * size if coarse else 1e-6 * np.abs(w) + 1e-9 * size
    )
    if not wrong.any():
        return Gap(0)
    worst = np.unravel_index(int((np.abs(g - w) * wrong).argmax()), w.shape)
    place = f"entry [{', '.join(map(str, worst))}] of {here}" if worst else here
    words = f"{place} is {_number(got[worst])}, and it should be {_number(wanted[worst])}."
    return Gap(float(np.abs(g - w)[worst] / (size or 1)), words)


def _worst(gaps: Iterable[Gap]) -> Gap:
    return max(gaps, key=lambda one: one.size, default=Gap(0))


def _array(value: object) -> np.ndarray | None:
    """Return a number, an array or a tensor as an array, or None for what is none."""
    try:
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu()
            value = (value.float() if value.dtype is torch.bfloat16 else value).numpy()
        return np.asarray(value)
    except Exception:
        return None


def _number(value: np.generic) -> str:
    return (
        str(bool(value))
        if isinstance(value, np.bool_)
        else f"{value:.6g}"
        if value.dtype.kind == "f"
        else str(value)
    )


def _listed(keys: Iterable[object]) -> str:
    names = sorted(map(_name, keys))
    return (
        ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        if names
        else "none"
    )


def _name(key: object) -> str:
    return repr(key) if isinstance(key, str | int | float) else type(key).__name__


def _thing(value: object, array: np.ndarray | None = None) -> str:
    """Return what an answer is, by its type alone."""
    if array is not None and array.dtype.kind == "c":
        return "complex"
    if array is not None and array.dtype.kind in "fiu":
        return "a number" if array.shape == () else "an array of numbers"
    if array is not None and array.dtype.kind == "b":
        return "True or False" if array.shape == () else "an array of True and False"
    return f"of type {type(value).__name__}"


def _kind(wanted: object) -> str:
    """Return what an answer must be."""
    if isinstance(wanted, Mapping):
        return f"a dict with the keys {_listed(wanted)}"
    if isinstance(wanted, tuple | list):
        return f"a tuple of {len(wanted)}"
    if isinstance(wanted, str):
        return "a string"
    array = np.asarray(_array(wanted))
    if array.shape:
        return f"an array of shape {array.shape}"
    return "True or False" if array.dtype.kind == "b" else "a number"
