"""The learner's own code through the lessons: `keep` writes a solved exercise down, `mine_or_ours` puts it to work."""

import inspect
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

from deca_lab.course.exercises import EXERCISES, named
from deca_lab.course.exercises.exercise import Exercise, verdict
from deca_lab.errors import pick

FOLDER = Path("my_pieces")  # beside the lessons, where a notebook runs
HEADER = "import math\n\nimport numpy as np\nimport torch\n\n\n"
Function = Callable[..., Any]


def keep(yours: Function, folder: Path | str = FOLDER) -> str:
    """Write a solved exercise to FOLDER/NAME.py for later lessons; return what became of it, in words.

    Only what is right is kept, and only what is right on its own, with torch, np and math. Raises BadInput where no
    exercise has that name.
    """
    exercise = named(yours)
    if not _right(exercise, yours):
        return (
            f"Nothing to keep: {exercise.name} is not solved yet. Later lessons use the library's."
        )
    try:
        source = HEADER + dedent(inspect.getsource(yours))
    except (OSError, TypeError):
        return f"Not kept: the text of {exercise.name} is nowhere to be read. Define it in a cell."
    if not _right(exercise, _defined(source, exercise.name)):
        return (
            f"Not kept: {exercise.name} needs names from other cells. Put them inside the function."
        )
    path = Path(folder) / f"{exercise.name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    return f"Kept: later lessons run your {exercise.name}, from {path}."


def mine_or_ours(*wanted: Function | str, folder: Path | str = FOLDER) -> tuple[Any, ...]:
    """Return each function, yours where it is right and else the library's; the last entry says in words whose they are.

    A name stands for what `keep` wrote down, a function for itself. Raises BadInput for what is no exercise.
    """
    mine = [_mine(one, Path(folder)) for one in wanted]
    exercises = [_exercise(one) for one in wanted]
    functions = [own or e.solution for own, e in zip(mine, exercises, strict=True)]
    whose = {
        "Yours": [e.name for own, e in zip(mine, exercises, strict=True) if own],
        "The library's": [e.name for own, e in zip(mine, exercises, strict=True) if not own],
    }
    words = (f"{who}: {', '.join(names)}." for who, names in whose.items() if names)
    return (*functions, " ".join(words))


def _exercise(wanted: Function | str) -> Exercise:
    return pick(EXERCISES, wanted, "exercise") if isinstance(wanted, str) else named(wanted)


def _mine(wanted: Function | str, folder: Path) -> Function | None:
    """Return the learner's own function where there is one and it is right."""
    exercise = _exercise(wanted)
    if not isinstance(wanted, str):
        learned = wanted is not exercise.solution and _right(exercise, wanted)
        return wanted if learned else None
    path = folder / f"{exercise.name}.py"
    yours = _defined(path.read_text(), exercise.name) if path.is_file() else None
    return yours if _right(exercise, yours) else None


def _right(exercise: Exercise, yours: Function | None) -> bool:
    return callable(yours) and verdict(exercise, yours).startswith("Right")


def _defined(source: str, name: str) -> Function | None:
    """Return the function of that name that a text defines, or None where the text does not run."""
    names: dict[str, Any] = {}
    try:
        exec(compile(source, f"{name}.py", "exec"), names)
    except Exception:
        return None
    return names.get(name)
