"""Notebooks: they run from top to bottom, heed their parameters, and are committed clean."""

import ast
import json
import re
from pathlib import Path

import pytest
from cases import cases

import deca_lab
from deca_lab import course
from deca_lab.bounds.table import claims
from deca_lab.course import running

HOUSE = Path(__file__).parents[1]
NOTEBOOKS = sorted([*HOUSE.glob("notebooks/*.ipynb"), *HOUSE.glob("theory/*.ipynb")])
GUIDES = [HOUSE / "notebooks" / f"bring_your_own_{what}.ipynb" for what in ("method", "model")]
SHORT = {"inner_steps": 4, "eval_windows": 4}
LESS = {  # what a cell assigns, and how its reader makes less of it: the second time only what changes is looked at
    r'^sizes = \{"fast": \{': f"sizes = {{name: min(size, {SHORT}.get(name, size)) for name, size in sizes.items()}}",
    r"^rounds = .*\b512\b": "rounds = rounds[:3]",
}
SECONDS = 600  # a cell, on a slow and busy machine

pytestmark = [
    pytest.mark.timeout(3600),  # each runs twice over
    pytest.mark.filterwarnings("default"),  # papermill, nbclient and zmq warn of their own
]


def cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def source(cell):
    return "".join(cell["source"])


def outputs(cells):
    return [output for cell in cells for output in cell["outputs"]]


def words(cells):
    """All text that cells printed or returned; pictures by their size."""
    said = []
    for output in outputs(cells):
        said += output.get("text", []) + output.get("data", {}).get("text/plain", [])
        said += (
            [str(len(output["data"]["image/png"]))] if "image/png" in output.get("data", {}) else []
        )
    return "".join(said)


def other(path):
    """The parameters that a notebook says change what it shows."""
    return json.loads(path.read_text())["metadata"]["deca_lab"]["other"]


def is_stub(cell):
    """Whether a cell leaves an exercise to its reader."""
    return cell["cell_type"] == "code" and "raise NotImplementedError" in source(cell)


def again(cell, knobs):
    """A cell as its reader runs it next: other parameters, shorter runs, and the library's own function in place of a stub."""
    text = source(cell)
    if "parameters" in cell["metadata"].get("tags", []):
        text += "".join(f"\n{name} = {value!r}" for name, value in knobs.items())
    text += "".join(f"\n{less}" for name, less in LESS.items() if re.search(name, text, re.M))
    if is_stub(cell):
        (name,) = re.findall(r"^def (\w+)\(", text, re.M)
        rest = text.split("raise NotImplementedError")[1]
        text = f"from deca_lab.course.exercises import EXERCISES\n{name} = EXERCISES[{name!r}].solution\n{rest}"
    return {**cell, "id": cell["id"] + "-again", "metadata": {}, "source": text}


def twice(path, place):
    """Write the notebook's cells twice over, to be run in one kernel: as they are, and then as their reader changes them."""
    nb = json.loads(path.read_text())
    knobs = {"profile": "fast", **other(path)}
    nb["cells"] += [again(cell, knobs) for cell in nb["cells"]]
    place.write_text(json.dumps(nb))
    return place


def halves(path, executed):
    """What an executed notebook of `twice` holds: the cells as they are, and as changed."""
    kept = [
        c for c in cells(executed) if "injected-parameters" not in c["metadata"].get("tags", [])
    ]
    number = len(cells(path))
    assert len(kept) == 2 * number
    return kept[:number], kept[number:]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_runs_heeds_its_parameters_and_tells_solved_exercises_from_unsolved_ones(path, tmp_path):
    known = course.parameters_of(path)
    assert "profile" in known
    assert other(path)
    assert set(other(path)) <= known
    job = running.Job(
        twice(path, tmp_path / path.name), tmp_path / "ran.ipynb", {"profile": "fast"}, SECONDS, 1
    )
    result = running.run_one(job)
    assert not result.error, result.error
    usual, changed = halves(path, job.copy)
    text = [k for k, cell in enumerate(cells(path)) if not is_stub(cell)]
    assert words([usual[k] for k in text]) != words([changed[k] for k in text])
    stubs = len(usual) - len(text)
    assert words(usual).count("Not yet") == stubs
    assert words(changed).count("Right") == stubs
    assert "Not yet" not in words(changed)


@cases("path", NOTEBOOKS)
def test_it_is_committed_clean(path):
    counts = [cell["execution_count"] for cell in cells(path)]
    assert counts == list(range(1, len(counts) + 1)), "run it from top to bottom once"
    assert not [
        o for o in outputs(cells(path)) if o["output_type"] == "error" or o.get("name") == "stderr"
    ]
    assert path.stat().st_size <= 300_000
    assert str(HOUSE) not in path.read_text()
    assert not re.search(r"(/home/|/Users/|/tmp/|[A-Z]:\\\\Users)", path.read_text())


@cases("path", NOTEBOOKS)
def test_its_cells_are_short_and_hold_no_machinery(path):
    for cell in cells(path):
        text = source(cell)
        assert len(text.splitlines()) <= 12
        assert "class " not in text
        assert "plt." not in text
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in cells(path)) == 1


def imported(path):
    """The names that a notebook imports, each with its module: "torch.nn"."""
    names = set()
    for node in ast.walk(ast.parse("\n".join(map(source, cells(path))))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            names |= {module + alias.name for alias in node.names}
    return names


@cases("path", GUIDES)
def test_a_guide_takes_public_names_alone(path):
    ours = {name for name in imported(path) if name.split(".")[0] == "deca_lab"}
    assert ours
    assert ours <= {f"deca_lab.{name}" for name in deca_lab.__all__}


def test_every_claim_has_its_three_files_and_its_row():
    code = set(claims())
    pages = {p.stem for p in (HOUSE / "theory").glob("*.ipynb")}
    tests = {p.stem.removeprefix("test_") for p in (HOUSE / "tests" / "bounds").glob("test_*.py")}
    assert code == pages <= tests
    listed = (HOUSE / "theory" / "README.md").read_text()
    assert all(f"({name}.ipynb)" in listed for name in code)


def test_every_notebook_of_the_course_is_listed():
    listed = (HOUSE / "notebooks" / "README.md").read_text()
    assert all(f"({path.name})" in listed for path in NOTEBOOKS if path.parent.name == "notebooks")
