"""Notebooks: they run from top to bottom, heed their parameters, and are committed clean."""

import ast
import json
import os
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
SECONDS = 600  # a cell, on a slow and busy machine

pytestmark = [
    pytest.mark.timeout(3600),  # each runs up to three times
    pytest.mark.filterwarnings("default"),  # papermill, nbclient and zmq warn of their own
]


def cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def outputs(path):
    return [output for cell in cells(path) for output in cell["outputs"]]


def words(path):
    """All text that the cells printed or returned; pictures by their size."""
    said = []
    for output in outputs(path):
        said += output.get("text", []) + output.get("data", {}).get("text/plain", [])
        said += (
            [str(len(output["data"]["image/png"]))] if "image/png" in output.get("data", {}) else []
        )
    return "".join(said)


def other(path):
    """The parameters that a notebook says change what it shows."""
    return json.loads(path.read_text())["metadata"]["deca_lab"]["other"]


def stubs(path):
    """The names of the exercises that a notebook leaves to its reader."""
    sources = ["".join(cell["source"]) for cell in cells(path)]
    return [
        name
        for s in sources
        if "raise NotImplementedError" in s
        for name in re.findall(r"^def (\w+)\(", s, re.M)
    ]


def solved(path, out):
    """Write the notebook with the library's own function in the place of every stub."""
    nb = json.loads(path.read_text())
    for cell in nb["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and "raise NotImplementedError" in source:
            (name,) = re.findall(r"^def (\w+)\(", source, re.M)
            rest = source.split("raise NotImplementedError")[1]
            cell["source"] = (
                f"from deca_lab.course.exercises import EXERCISES\n{name} = EXERCISES[{name!r}].solution\n{rest}"
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(nb))
    return out


def ran(path, place):
    """Run a notebook as it is, with other parameters and, where it has stubs, solved; return {how: result}."""
    given = {"usual": (path, {}), "changed": (path, other(path))}
    if stubs(path):
        given["solved"] = (solved(path, place / "stubs" / path.name), {})
    jobs = [
        running.Job(source, place / how / path.name, {"profile": "fast", **knobs}, SECONDS, 1)
        for how, (source, knobs) in given.items()
    ]
    for job in jobs:
        job.copy.parent.mkdir(parents=True, exist_ok=True)
    width = (
        1 if "PYTEST_XDIST_WORKER" in os.environ else running.cores()
    )  # each worker has a core to itself
    return dict(zip(given, running.in_parallel(jobs, width, lambda line: None), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_runs_heeds_its_parameters_and_tells_solved_exercises_from_unsolved_ones(path, tmp_path):
    known = course.parameters_of(path)
    assert "profile" in known
    assert other(path)
    assert set(other(path)) <= known
    results = ran(path, tmp_path)
    for result in results.values():
        assert not result.error, result.error
    usual = words(results["usual"].copy)
    assert usual != words(results["changed"].copy)
    assert usual.count("Not yet") == len(stubs(path))
    if stubs(path):
        right = words(results["solved"].copy)
        assert right.count("Right") == len(stubs(path))
        assert "Not yet" not in right


@cases("path", NOTEBOOKS)
def test_it_is_committed_clean(path):
    counts = [cell["execution_count"] for cell in cells(path)]
    assert counts == list(range(1, len(counts) + 1)), "run it from top to bottom once"
    assert not [
        o for o in outputs(path) if o["output_type"] == "error" or o.get("name") == "stderr"
    ]
    assert path.stat().st_size <= 300_000
    assert str(HOUSE) not in path.read_text()
    assert not re.search(r"(/home/|/Users/|/tmp/|[A-Z]:\\\\Users)", path.read_text())


@cases("path", NOTEBOOKS)
def test_its_cells_are_short_and_hold_no_machinery(path):
    for cell in cells(path):
        source = "".join(cell["source"])
        assert len(source.splitlines()) <= 12
        assert "class " not in source
        assert "plt." not in source
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in cells(path)) == 1


def imported(path):
    """The names that a notebook imports, each with its module: "torch.nn"."""
    names = set()
    for node in ast.walk(ast.parse("\n".join("".join(cell["source"]) for cell in cells(path)))):
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
