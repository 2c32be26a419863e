"""Copies for students that nbgrader takes: answers stripped, outputs cleared, checks as autograded cells.

The cell metadata are nbgrader's, schema version 3. An exercise is a function that a cell defines and a `check...(NAME)` of
the same notebook looks at.
"""

import ast
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from deca_lab.course.place import Copied, files, home, write_new

if TYPE_CHECKING:
    from nbformat import NotebookNode

STUB = "raise NotImplementedError"
POINTS = 1


class Part(NamedTuple):
    """A piece of a code cell: its source, and the exercise that it solves or checks ("" for neither)."""

    source: str
    solves: str = ""
    checks: str = ""


def students(folder: Path | str, place: Path | None = None) -> Copied:
    """Write student copies of the lessons into a folder, with their pictures; existing files stay and are named.

    The folder can stand as nbgrader's source/ASSIGNMENT: `nbgrader generate_assignment` adds its checksums.
    """
    course = files(place or home())
    lessons = {
        Path(name.name): data
        for name, data in course.items()
        if name.parts[0] == "notebooks" and name.suffix != ".md"
    }
    return write_new(
        Path(folder),
        {
            name: handed_out(data, name.stem) if name.suffix == ".ipynb" else data
            for name, data in lessons.items()
        },
    )


def handed_out(data: bytes, stem: str) -> bytes:
    """Return a notebook as students get it; `stem` begins the grade ids."""
    import nbformat

    nb = nbformat.reads(data.decode(), as_version=4)
    exercises, used = exercises_of(nb), Counter[str]()
    nb.cells = [new for cell in nb.cells for new in _cells(cell, exercises, stem, used)]
    text: str = nbformat.writes(nb)
    return (text + "\n").encode()


def exercises_of(nb: "NotebookNode") -> set[str]:
    """Return the names of the functions that the notebook both defines and checks."""
    trees = [tree for cell in nb.cells if cell.cell_type == "code" and (tree := _tree(cell.source))]
    defined = {
        node.name for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)
    }
    return defined & {
        call[1] for tree in trees for statement in tree.body for call in _checked(statement)
    }


def _tree(source: str) -> ast.Module | None:
    try:
        return ast.parse(source)
    except SyntaxError:  # a magic: no exercise of ours
        return None


def _checked(statement: ast.stmt) -> list[tuple[str, str]]:
    """Return (checking function, checked name) of each check(NAME) in a statement that is no definition."""
    if isinstance(statement, ast.FunctionDef):
        return []
    return [pair for node in ast.walk(statement) if (pair := _check_of(node))]


def _check_of(node: ast.AST) -> tuple[str, str] | None:
    """Return (checking function, checked name) of a node that is check(NAME), else None."""
    match node:
        case ast.Call(func=ast.Name(id=function), args=[ast.Name(id=name), *_]) if re.fullmatch(
            r"check(_\w+)?", function
        ):
            return function, name
    return None


def _cells(
    cell: "NotebookNode", exercises: set[str], stem: str, used: Counter[str]
) -> "list[NotebookNode]":
    """Return the cells that take the place of one: an exercise's stub and its check get cells of their own."""
    if cell.cell_type != "code":
        return [cell]
    new = []
    for k, part in enumerate(_parts(cell.source, exercises)):
        made = type(cell)(
            {
                **cell,
                "metadata": dict(cell.metadata),
                "source": part.source,
                "outputs": [],
                "execution_count": None,
                **({"id": f"{cell.id[:56]}-{k}"} if k and "id" in cell else {}),
            }
        )
        if part.solves or part.checks:
            made.metadata["nbgrader"] = _graded(part, stem, used)
        if part.checks:
            made.metadata["tags"] = [
                *made.metadata.get("tags", []),
                "raises-exception",
            ]  # Run All goes on past a wrong one
        new.append(made)
    return new


def _graded(part: Part, stem: str, used: Counter[str]) -> dict[str, Any]:
    """Return nbgrader's metadata of a stub or of a check; grade ids occur once in a notebook."""
    name = f"{stem}_{part.solves}" if part.solves else f"{stem}_{part.checks}_check"
    used[name] += 1
    row = {
        "schema_version": 3,
        "task": False,
        "solution": bool(part.solves),
        "grade": bool(part.checks),
        "locked": bool(part.checks),
        "grade_id": name + (f"_{used[name]}" if used[name] > 1 else ""),
    }
    return row | ({"points": POINTS} if part.checks else {})


def _parts(source: str, exercises: set[str]) -> list[Part]:
    """Split a cell at the definitions and the checks of exercises; what lies between keeps its text."""
    tree = _tree(source)
    parts, lines, start = [], source.splitlines(), 0
    for node in tree.body if tree else []:
        first, last = _first_line(node), node.end_lineno or 0
        made = _of(node, lines, exercises)
        if made:
            parts += [Part(text) for text in [_text(lines[start:first])] if text] + made
            start = last
    rest = _text(lines[start:])
    return parts + ([Part(rest)] if rest or not parts else [])


def _of(node: ast.stmt, lines: list[str], exercises: set[str]) -> list[Part]:
    """Return the cells that a top-level statement becomes; none where it is of no exercise."""
    if isinstance(node, ast.FunctionDef):
        return [Part(stub(node, lines), solves=node.name)] if node.name in exercises else []
    return [
        Part(
            f'verdict = {call}({name})\nprint(verdict)\nassert str(verdict).startswith("Right"), "not yet right"',
            checks=name,
        )
        for call, name in _checked(node)
        if name in exercises
    ]


def _first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(d.lineno for d in decorators)]) - 1


def _text(lines: list[str]) -> str:
    return "\n".join(lines).strip("\n")


def stub(node: ast.FunctionDef, lines: list[str]) -> str:
    """Return a function as its signature and docstring over `raise NotImplementedError`, unless it is that already."""
    start, end = _first_line(node), node.end_lineno
    documented = ast.get_docstring(node) is not None
    answer = node.body[1:] if documented else node.body
    if [ast.unparse(s).removesuffix("()") for s in answer] == [STUB]:
        return _text(lines[start:end])
    if documented:
        kept = lines[start : node.body[0].end_lineno]
    else:
        first = node.body[0]
        before = lines[first.lineno - 1].encode()[: first.col_offset].decode()
        kept = [*lines[start : first.lineno - 1], *([before.rstrip()] if before.strip() else [])]
        while kept[-1].lstrip().startswith("#"):
            kept = kept[:-1]
    return _text([*kept, f"    {STUB}"])
