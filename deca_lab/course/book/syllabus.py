"""The syllabus: what each lesson asks of a learner, counted from the lesson itself."""

import re
from collections import Counter
from pathlib import Path
from statistics import median
from typing import NamedTuple

from deca_lab.course.blank import is_code, text
from deca_lab.course.handout import exercise_in

KINDS = {"write": "to write", "derive": "to derive", "debug": "bugs to find", "design": "to design"}
HEAD = """# Syllabus

One lesson a session; a session is the minutes of reading and as long again for its exercises. Session 0 is the machine check,
`deca-lab doctor --machine`, and lesson 0 together. Whoever has six sessions takes lessons 0, 2, 3, 5, 6 and 8.

"""
TAIL = """
Words are those of the text, without hints and code; code lines are those of the cells, without blank ones; pictures are those
that a cell draws. `deca-lab slides` writes slides of all lessons, `deca-lab students` the exercises as assignments with marks.
"""

BESIDE = """
## Beside other courses

The middle lesson of each: half of its lessons have more, half have less.

| course | lessons | words | code lines | pictures | exercises |
|---|---|---|---|---|---|
"""
OTHERS = (  # counted in November 2026 in their public repositories
    ("LLMs-from-scratch (rasbt, 28c65cd), chapters 2 to 7", 6, 2686, 394, 19.5, 3),
    ("BlueFog's tutorial (a9b3713), all notebooks", 25, 527, 85, 1, 0),
    ("ARENA 2.0 (e805ad8), all pages with exercises", 19, 8731, 575, 8, 10),
)
HOW_COUNTED = """
Theirs were counted as ours, with two differences. Pictures of theirs are those that a text links to as well. ARENA's pages hold
hints and solutions in their text. Numbers of this kind say how a course is made, and not how good it is: BlueFog's notebooks
are short sections, an ARENA page is two days of work.
"""


class Counts(NamedTuple):
    """What a lesson holds: its title, minutes as it names them, and numbers of words, code lines, pictures, exercises by kind."""

    title: str
    minutes: str
    words: int
    code: int
    pictures: int
    exercises: Counter[str]


def counts(path: Path) -> Counts:
    """Return the counts of one lesson, of its stored outputs."""
    import nbformat

    from deca_lab.course.exercises import EXERCISES

    cells = nbformat.read(path, as_version=4).cells
    prose = "\n".join(text(cell) for cell in cells if not is_code(cell))
    plain = re.sub(r"<details>.*?</details>|\$\$.*?\$\$", " ", prose, flags=re.S)
    code = [line for cell in cells if is_code(cell) for line in text(cell).splitlines() if line]
    outputs = [output for cell in cells if is_code(cell) for output in cell["outputs"]]
    asked = [name for cell in cells if is_code(cell) and (name := exercise_in(text(cell)))]
    minutes = re.search(r"\*\*(?:About )?([\w-]+) minutes", prose)
    return Counts(
        title=prose.partition("\n")[0].lstrip("# "),
        minutes=minutes[1] if minutes else "",
        words=len(plain.split()),
        code=len(code),
        pictures=sum("image/png" in output.get("data", {}) for output in outputs),
        exercises=Counter(EXERCISES[name].kind for name in asked),
    )


def syllabus(lessons: list[Path]) -> str:
    """Return the page: a row a lesson, and their sum."""
    rows = [counts(path) for path in lessons]
    whole = Counts(
        "all",
        "",
        sum(row.words for row in rows),
        sum(row.code for row in rows),
        sum(row.pictures for row in rows),
        sum((row.exercises for row in rows), Counter()),
    )
    head = f"| lesson | minutes | words | code lines | pictures | {' | '.join(KINDS.values())} |"
    lines = [head, "|" + "---|" * (5 + len(KINDS)), *map(_row, [*rows, whole])]
    return HEAD + "\n".join(lines) + "\n" + TAIL + BESIDE + _beside(rows) + HOW_COUNTED


def _beside(rows: list[Counts]) -> str:
    """Return the rows of the comparison: the middle of our lessons, then the others."""
    numbers = [(row.words, row.code, row.pictures, row.exercises.total()) for row in rows]
    middle = (median(column) for column in zip(*numbers, strict=True))
    courses = [("this course", len(rows), *middle), *OTHERS]
    lines = [(name, *(f"{number:,g}" for number in counted)) for name, *counted in courses]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _row(row: Counts) -> str:
    numbers = [row.minutes, f"{row.words:,}", str(row.code), str(row.pictures)]
    kinds = [str(row.exercises[kind] or "") for kind in KINDS]
    return f"| {' | '.join([row.title, *numbers, *kinds])} |"
