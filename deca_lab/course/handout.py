"""What a teacher hands out: lessons to read, assignments that nbgrader takes, and lessons with their answers.

An exercise is a function that a cell leaves open and a `check(NAME)` of the same cell looks at. The cells' metadata are
nbgrader's, schema version 3.
"""

import ast
import json
import re
from pathlib import Path
from typing import Any

from deca_lab.course.blank import Cell, blank, cleared, is_code, text, written
from deca_lab.course.place import Copied, files, home, write_new
from deca_lab.errors import BadInput

STUB = "raise NotImplementedError"
POINTS = 1
ANSWERS = Path("tests", "course", "answers.py")  # in a checkout; an installed package has none
CONFIG = '''"""nbgrader's configuration: `nbgrader generate_assignment NAME`, then `nbgrader autograde NAME`, in this folder."""

c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "deca_lab"
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError"}
c.ExecutePreprocessor.timeout = 300  # seconds a cell; the first one imports torch
c.ExecutePreprocessor.startup_timeout = 180
c.ExecutePreprocessor.iopub_timeout = 60
'''
IMPORTS = """import math
import numpy as np
import torch
from itertools import combinations
from deca_lab.course.exercises import check"""
TEST = """import sys
for module in [name for name in sys.modules if name.split(".")[0] == "deca_lab"]:
    del sys.modules[module]
from deca_lab.course.exercises import check as judge
verdict = judge({name})
print(verdict)
assert verdict.startswith("Right"), verdict
### BEGIN HIDDEN TESTS
from deca_lab.course.grading import borrowed
assert not borrowed({name}), "the answer is the library's: " + borrowed({name})
### END HIDDEN TESTS"""


def students(folder: Path | str, place: Path | None = None, instructor: bool = False) -> Copied:
    """Write a course folder for nbgrader; existing files stay and are named.

    lessons/ holds the lessons to read, without outputs; source/NAME/ the exercises of a lesson as an assignment, with
    solution regions; nbgrader_config.py the time limits. For an instructor solved/ holds the lessons with answers, which
    only a checkout has: raises BadInput without one.
    """
    place = place or home()
    if instructor and not (place / ANSWERS).is_file():
        raise BadInput(
            f"instructor = True needs {ANSWERS}, which an installed package does not have: give a checkout"
        )
    answers = answers_of(place)
    lessons = {
        name.name: data
        for name, data in files(place).items()
        if name.parts[0] == "notebooks" and name.suffix != ".md"
    }
    contents = {Path("nbgrader_config.py"): CONFIG.encode()}
    for name, data in lessons.items():
        contents |= _of_lesson(name, data, answers, instructor)
    return write_new(Path(folder), contents)


def _of_lesson(
    name: str, data: bytes, answers: dict[str, str], instructor: bool
) -> dict[Path, bytes]:
    """Return the files that one lesson, or a picture beside it, becomes."""
    if not name.endswith(".ipynb"):
        return {Path("lessons", name): data}
    stem, contents = name.removesuffix(".ipynb"), {Path("lessons", name): blank(data)}
    if exercises_of(data):
        contents[Path("source", stem, name)] = assignment(data, stem, answers)
        if instructor:
            contents[Path("solved", name)] = solved(data, answers)
    return contents


def answers_of(place: Path) -> dict[str, str]:
    """Return the text of each answer by its function's name, the signature left off; none without a checkout."""
    if not (place / ANSWERS).is_file():
        return {}
    source = (place / ANSWERS).read_text()
    defined = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    lines = source.splitlines()
    return {
        node.name: "\n".join(lines[node.body[0].lineno - 1 : node.end_lineno]) for node in defined
    }


def exercise_in(source: str) -> str:
    """Return the name of the function that a code cell leaves open and checks, or nothing."""
    match = re.search(rf"^def (\w+)\(.*?^ +{STUB}\b", source, re.M | re.S)
    return match[1] if match and f"check({match[1]})" in source else ""


def exercises_of(data: bytes) -> list[str]:
    """Return the names of a notebook's exercises."""
    cells = json.loads(data)["cells"]
    return [name for cell in cells if is_code(cell) and (name := exercise_in(text(cell)))]


def solved(data: bytes, answers: dict[str, str]) -> bytes:
    """Return a notebook with the answers in the place of what it leaves open, without outputs."""
    nb = json.loads(data)
    cells = [_solved(cleared(cell), answers) for cell in nb["cells"]]
    first = next(k for k, cell in enumerate(cells) if is_code(cell))
    return written({**nb, "cells": [*cells[:first], _plain("imports", IMPORTS), *cells[first:]]})


def _solved(cell: Cell, answers: dict[str, str]) -> Cell:
    name = exercise_in(text(cell)) if is_code(cell) else ""
    if not name:
        return cell
    return {**cell, "source": text(cell).replace(f"    {STUB}", answer(name, cell, answers), 1)}


def answer(name: str, cell: Cell, answers: dict[str, str]) -> str:
    """Return the body that solves an exercise: the written answer, else a call of the library's own function."""
    if name in answers:
        return answers[name]
    (function,) = [n for n in ast.parse(text(cell)).body if isinstance(n, ast.FunctionDef)]
    given = ", ".join(argument.arg for argument in function.args.args)
    library = "from deca_lab.course.exercises import EXERCISES"
    return f'    {library}\n    return EXERCISES["{name}"].solution({given})'


def assignment(data: bytes, stem: str, answers: dict[str, str]) -> bytes:
    """Return the exercises of a lesson alone, each with its text, a solution region and a locked test."""
    nb, cells = json.loads(data), [_code(f"{stem}_imports", IMPORTS, locked=True)]
    for before, cell, after in zip(nb["cells"], nb["cells"][1:], nb["cells"][2:], strict=False):
        if name := exercise_in(text(cell)) if is_code(cell) else "":
            hints = [after] if text(after).startswith("<details") else []
            cells += [before, *_graded(name, stem, cell, answers), *hints]
    head = {"cell_type": "markdown", "id": "head", "metadata": {}, "source": f"# Exercises: {stem}"}
    return written({**nb, "cells": [head, *cells]})


def _graded(name: str, stem: str, cell: Cell, answers: dict[str, str]) -> list[Cell]:
    """Return the cell to fill in, with its answer in a region that students do not get, and the test of it."""
    opened = text(cell).split(f"    {STUB}")[0].rstrip()
    region = f"    ### BEGIN SOLUTION\n{answer(name, cell, answers)}\n    ### END SOLUTION"
    fill = _code(f"{stem}_{name}", f"{opened}\n{region}", solution=True)
    test = _code(f"{stem}_{name}_test", TEST.format(name=name), grade=True, locked=True)
    return [fill, test]


def _code(
    name: str, source: str, solution: bool = False, grade: bool = False, locked: bool = False
) -> Cell:
    """Return a code cell with nbgrader's marks."""
    marks: dict[str, Any] = {"schema_version": 3, "task": False, "grade_id": name}
    marks |= {"solution": solution, "grade": grade, "locked": locked}
    metadata: dict[str, Any] = {"nbgrader": marks | ({"points": POINTS} if grade else {})}
    if grade:
        metadata["tags"] = ["raises-exception"]  # Run All goes on past a wrong one
    return {**_plain(name[-64:], source), "metadata": metadata}


def _plain(name: str, source: str) -> Cell:
    cell = {"cell_type": "code", "id": name, "metadata": {}, "source": source}
    return {**cell, "outputs": [], "execution_count": None}
