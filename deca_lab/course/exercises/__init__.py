"""Exercises of the lessons: `check(yours)` says what went wrong, `hint(yours)` what to try; both know yours by its name."""

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from deca_lab.course.exercises.exercise import Exercise, Mistake, verdict
from deca_lab.errors import BadInput, pick
from deca_lab.errors import check as require

LESSONS = tuple(
    sorted(module.name for module in iter_modules(__path__) if module.name.startswith("lesson_"))
)
EXERCISES: dict[str, Exercise] = {
    made.name: made
    for lesson in (*LESSONS, "pieces", "harder")
    for made in import_module(f"{__name__}.{lesson}").EXERCISES
}

__all__ = ["EXERCISES", "LESSONS", "Exercise", "Mistake", "check", "hint", "named"]


def check(yours: Callable[..., Any]) -> str:
    """Return a verdict in words that begins with "Right" or "Not yet"; raise BadInput where no exercise has that name."""
    return verdict(named(yours), yours)


def hint(yours: Callable[..., Any], number: int = 1) -> str:
    """Return a hint: the first says least. Raise BadInput for a name or number that there is not."""
    hints = named(yours).hints
    require(
        number in range(1, len(hints) + 1),
        "number",
        number,
        f"1 to {len(hints)}, the hints of this exercise",
    )
    return f"Hint {number} of {len(hints)}: {hints[number - 1]}"


def named(yours: Callable[..., Any]) -> Exercise:
    """Return the exercise that has a function's name; raise BadInput where there is none."""
    name = getattr(yours, "__name__", None)
    if not (callable(yours) and isinstance(name, str)):
        raise BadInput(
            f"an exercise is checked by its function, not by {type(yours).__name__}: give one of "
            f"{', '.join(sorted(EXERCISES))}, without its arguments"
        )
    return pick(EXERCISES, name, "exercise")
