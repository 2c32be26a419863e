"""nbgrader takes the assignments: it generates them, and marks what is solved, unsolved, wrong and cheated."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from deca_lab import course
from deca_lab.course import blank, grading
from deca_lab.course.exercises import EXERCISES, check
from deca_lab.course.handout import answers_of
from deca_lab.errors import BadInput

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(1800)]
HOUSE = Path(__file__).parents[2]
LESSON = "02_gossip"
NAMES = ("metropolis", "rho", "gossip", "mixings_needed", "best_edge")
REDEFINED = """def check(yours):
    return "Right"
print = assert_ = lambda *a: None
import deca_lab.course.exercises as e
e.check = e.verdict = check
"""
ALIAS = "from deca_lab.course.exercises import EXERCISES\n{0} = EXERCISES['{0}'].solution"
CALLED = """import deca_lab.course.exercises as e
old = e.EXERCISES['{0}'].solution
{0} = lambda *a: old(*a)
{0}.__name__ = '{0}'
"""


def cells_of(path):
    return json.loads(path.read_text())["cells"]


def marks(cell):
    return cell["metadata"].get("nbgrader", {})


def test_the_course_folder_holds_lessons_assignments_and_answers_for_an_instructor(tmp_path):
    course.students(tmp_path / "without")
    assert not (tmp_path / "without" / "solved").exists()
    course.students(tmp_path, HOUSE, instructor=True)  # installed, a course has no answers
    assert "timeout = 300" in (tmp_path / "nbgrader_config.py").read_text()
    names = set()
    for path in sorted(tmp_path.glob("source/*/*.ipynb")):
        nbformat.validate(nbformat.read(path, 4))
        cells = cells_of(path)
        ids = [marks(cell)["grade_id"] for cell in cells if marks(cell)]
        assert len(set(ids)) == len(ids)
        tests = ["".join(c["source"]) for c in cells if marks(c).get("grade")]
        assert all("BEGIN HIDDEN TESTS" in source for source in tests)
        names |= {name for name in EXERCISES if any(f"judge({name})" in s for s in tests)}
        read = (tmp_path / "lessons" / path.name).read_text()
        assert "raise NotImplementedError" in read
        assert "BEGIN SOLUTION" not in read
        answered = (tmp_path / "solved" / path.name).read_text()
        assert "raise NotImplementedError" not in answered
    assert names == set(EXERCISES)


def test_lessons_to_read_hold_no_outputs_and_fold_what_answers_a_prediction(tmp_path):
    course.students(tmp_path)
    cells = cells_of(tmp_path / "lessons" / "05_moments.ipynb")
    assert not any(cell.get("outputs") for cell in cells)
    answer = next(c for c in cells if "By one learning rate each" in "".join(c["source"]))
    before, rest = "".join(answer["source"]).split("</details>")
    assert before.startswith("<details><summary>What happened")
    assert rest.lstrip().startswith("**Predict.**")


@pytest.mark.parametrize(
    ("text", "open_part"),
    [
        ("It rises.\n\nNow slower:", "Now slower:"),
        ("It rises.\n\nSo be it.", ""),
        ("Now slower:", "Now slower:"),
        ("It rises:\n\n# Next\n\nNow slower:", "# Next\n\nNow slower:"),
    ],
)
def test_what_leads_on_to_the_next_cell_stays_open(text, open_part):
    folded = blank.fold(text)
    assert folded.rpartition("</details>")[2].strip() == open_part
    assert folded.count("<details>") == ("</details>" in folded) == (text != open_part)


def test_every_exercise_has_a_plain_answer_that_is_right():
    import answers

    for name in EXERCISES:
        own = getattr(answers, name)
        assert check(own).startswith("Right"), name


def test_an_instructor_without_a_checkout_is_told(tmp_path):
    (tmp_path / "notebooks").mkdir()
    with pytest.raises(BadInput, match=r"answers\.py, which an installed package does not have"):
        course.students(tmp_path / "out", tmp_path, instructor=True)


@pytest.mark.parametrize("text", [ALIAS, CALLED, "import deca_lab.course.exercises.lesson_02 as l\ndef rho(W): return l.rho(W)",
    "def rho(W):\n    from deca_lab.course.exercises import lesson_02\n    return lesson_02.rho(W)",
    "from deca_lab.course.exercises import EXERCISES as E\ndef rho(W, f=E['rho'].solution): return f(W)",
    "from deca_lab.course.exercises.lesson_02 import rho as r\nall = [r]\ndef rho(W): return all[0](W)",
])  # fmt: skip
def test_an_answer_of_the_library_is_found_out(text):
    names = {"__name__": "__main__"}
    exec(text.format("rho"), names)
    assert grading.borrowed(names["rho"])


@pytest.mark.parametrize("text", ["def rho(W): return np.linalg.norm(W - 1 / len(W), 2)",
    "from deca_lab.mixing.spectrum import spectrum\ndef rho(W): return spectrum(W).rho",
    "def helper(W): return np.linalg.norm(W, 2)\ndef rho(W): return helper(W - 1 / len(W))",
    "def rho(W): return rho(W)",
])  # fmt: skip
def test_one_s_own_work_is_not_suspected(text):
    names = {"__name__": "__main__"}
    exec("import numpy as np\n" + text, names)
    assert grading.borrowed(names["rho"]) == ""


# ---- with nbgrader itself


def nbgrader(folder, *words):
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # alembic
    paths = [str(HOUSE), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PATH": beside},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def submit(folder, student, change):
    """Hand in the released assignment with each exercise's cell changed by `change(name, source)`."""
    released = folder / "release" / LESSON / f"{LESSON}.ipynb"
    nb = json.loads(released.read_text())
    for cell in nb["cells"]:
        if marks(cell).get("solution"):
            name = marks(cell)["grade_id"].removeprefix(f"{LESSON}_")
            cell["source"] = change(name, "".join(cell["source"]))
        elif marks(cell).get("grade") and student == "tests-removed":
            cell["source"] = "assert True"
    path = folder / "submitted" / student / LESSON / released.name
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(nb))


STUB = "    raise NotImplementedError"


def answered(name, source):
    return source.replace(STUB, answers_of(HOUSE)[name])


@pytest.mark.slow
def test_marks_are_given_for_what_is_solved_and_for_nothing_else(tmp_path):
    pytest.importorskip("nbgrader")
    from nbgrader.api import Gradebook

    course.students(tmp_path)
    nbgrader(tmp_path, "generate_assignment", LESSON)
    text = (tmp_path / "release" / LESSON / f"{LESSON}.ipynb").read_text()
    assert "np.maximum.outer(d, d)\\n    W" not in text  # no answer is released
    assert "HIDDEN" not in text
    ways = {  # a way of one's own for each exercise
        "metropolis": lambda source: answered("metropolis", source),
        "rho": lambda source: ALIAS.format("rho"),
        "gossip": lambda source: CALLED.format("gossip"),
        "mixings_needed": lambda source: source.replace(STUB, "    return 3"),
        "best_edge": lambda source: source,  # unsolved
    }
    students = {
        "solved": answered,
        "each-otherwise": lambda name, source: ways[name](source),
        "check-redefined": lambda name, source: REDEFINED + source,
        "tests-removed": lambda name, source: source,
    }
    for student, change in students.items():
        submit(tmp_path, student, change)
    nbgrader(tmp_path, "autograde", LESSON)
    with Gradebook(f"sqlite:///{tmp_path / 'gradebook.db'}") as book:
        papers = {who: book.find_submission_notebook(LESSON, LESSON, who) for who in students}
        marked = {who: [g.name for g in paper.grades if g.score] for who, paper in papers.items()}
    assert marked == {
        "solved": [f"{LESSON}_{name}_test" for name in NAMES],
        "each-otherwise": [f"{LESSON}_metropolis_test"],
        "check-redefined": [],
        "tests-removed": [],
    }
