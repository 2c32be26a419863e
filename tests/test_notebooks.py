"""Notebooks: they run from top to bottom, heed their parameters, and are committed clean."""

import json
import re
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1]
NOTEBOOKS = sorted([*HOUSE.glob("notebooks/*.ipynb"), *HOUSE.glob("theory/*.ipynb")])
SECONDS = 240      # a cell, on a slow machine

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),        # papermill, nbclient and zmq warn of their own
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
        said += [str(len(output["data"]["image/png"]))] if "image/png" in output.get("data", {}) else []
    return "".join(said)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """A kernel of the Python that runs the tests, whatever others the user has."""
    folder = tmp_path_factory.mktemp("jupyter")
    spec = {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "tests",
            "language": "python"}
    (folder / "kernels" / "deca-lab-tests").mkdir(parents=True)
    (folder / "kernels" / "deca-lab-tests" / "kernel.json").write_text(json.dumps(spec))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder))
        patch.setenv("JUPYTER_PLATFORM_DIRS", "1")
        yield "deca-lab-tests"


def executed(path, kernel, out, **parameters):
    import papermill

    papermill.execute_notebook(str(path), str(out), parameters, kernel_name=kernel, cwd=str(path.parent), progress_bar=False,
                               execution_timeout=SECONDS)
    return out


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_runs_and_heeds_its_parameters(path, kernel, tmp_path):
    import papermill

    known = papermill.inspect_notebook(str(path))
    other = json.loads(path.read_text())["metadata"]["deca_lab"]["other"]      # parameters whose change must show
    assert "profile" in known
    assert other
    assert set(other) <= set(known)
    usual = executed(path, kernel, tmp_path / "usual.ipynb", profile="fast")
    changed = executed(path, kernel, tmp_path / "changed.ipynb", profile="fast", **other)
    assert not [o for o in outputs(usual) if o["output_type"] == "error"]
    assert words(usual) != words(changed)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_is_committed_clean(path):
    counts = [cell["execution_count"] for cell in cells(path)]
    assert counts == list(range(1, len(counts) + 1)), "run it from top to bottom once"
    assert not [o for o in outputs(path) if o["output_type"] == "error" or o.get("name") == "stderr"]
    assert path.stat().st_size <= 300_000
    assert str(HOUSE) not in path.read_text()
    assert not re.search(r"(/home/|/Users/|/tmp/|[A-Z]:\\\\Users)", path.read_text())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_its_cells_are_short_and_hold_no_machinery(path):
    for cell in cells(path):
        source = "".join(cell["source"])
        assert len(source.splitlines()) <= 12
        assert "class " not in source
        assert "plt." not in source
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in cells(path)) == 1


def test_every_claim_has_its_three_files_and_its_row():
    code = {p.stem for p in (HOUSE / "deca_lab" / "bounds").glob("*.py")} - {"__init__", "bound", "landscape", "table", "trace"}
    pages = {p.stem for p in (HOUSE / "theory").glob("*.ipynb")}
    tests = {p.stem.removeprefix("test_") for p in (HOUSE / "tests" / "bounds").glob("test_*.py")} - {"table"}
    assert code == pages == tests
    listed = (HOUSE / "theory" / "README.md").read_text()
    assert all(f"({name}.ipynb)" in listed for name in code)


def test_every_notebook_of_the_course_is_listed():
    listed = (HOUSE / "notebooks" / "README.md").read_text()
    assert all(f"({path.name})" in listed for path in NOTEBOOKS if path.parent.name == "notebooks")
