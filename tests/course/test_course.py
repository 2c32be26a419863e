"""The course's machinery: running notebooks, failures told, copies that overwrite nothing, student copies."""

import json
import os
from pathlib import Path

import nbformat
import pytest
from command import deca_lab
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import deca_lab as deca_lab_package
from deca_lab import course, errors
from deca_lab.course import running
from deca_lab.errors import BadInput

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(1800)]


def notebook(path, *sources, parameters="profile = 'fast'\nnumber = 1"):
    cells = [
        new_markdown_cell("# A lesson"),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        *(new_code_cell(source) for source in sources),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def test_the_course_is_found_and_in_order():
    names = [path.stem for path in course.notebooks()]
    assert names[0] == "00_start_here"
    assert "deca_descent" in names
    lessons = [name for name in names if name[0].isdigit()]
    assert lessons == sorted(lessons)
    assert course.installed() == ("site-packages" in deca_lab_package.__file__)


@pytest.mark.slow
def test_notebooks_run_side_by_side_with_parameters_and_a_failure_shows_its_cell(tmp_path):
    good = notebook(tmp_path / "notebooks" / "good.ipynb", "print(profile, number * 2)")
    bad = notebook(tmp_path / "notebooks" / "bad.ipynb", "x = 1\nx / 0", "print('never')")
    said = []
    results = course.execute([good, bad], "full", tmp_path / "out", {"number": 21}, 2, said.append)
    assert [bool(result.error) for result in results] == [False, True]
    assert "ZeroDivisionError" in results[1].error
    assert "x / 0" in results[1].error
    assert "full 42" in (tmp_path / "out" / "notebooks" / "good.ipynb").read_text()
    assert "full 42" not in good.read_text()  # the source stays as it is
    table = course.table(results)
    assert "good" in table
    assert "x / 0" in table
    assert len(said) >= 2


@pytest.mark.slow
def test_a_copy_is_written_now_and_then_and_holds_what_ran_before_a_cell_took_too_long(
    tmp_path, monkeypatch
):
    engines = pytest.importorskip("papermill.engines")
    path = notebook(tmp_path / "one.ipynb", "print('be' 'fore')", "while True:\n    pass")
    job = running.Job(path, tmp_path / "ran.ipynb", {}, 1, 1)
    written, write = [], engines.write_ipynb
    monkeypatch.setattr(engines, "write_ipynb", lambda nb, to: written.append(to) or write(nb, to))
    monkeypatch.setattr(running, "SAVED", 1e9)
    assert "timed out" in running.run_one(job).error
    assert "before" in job.copy.read_text()
    assert len(written) == 2  # as it starts, and as it ends


def test_an_unknown_parameter_or_profile_is_told_before_anything_runs(tmp_path):
    path = notebook(tmp_path / "notebooks" / "one.ipynb", "print(1)")
    with pytest.raises(BadInput, match=r"clients.*one\.ipynb has: number, profile"):
        course.execute([path], parameters={"clients": 3}, out=tmp_path / "out")
    with pytest.raises(BadInput, match="profile"):
        course.execute([path], "slow", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert course.parse_parameters(["clients=4", "name=ring"]) == {"clients": 4, "name": "ring"}
    with pytest.raises(BadInput, match="NAME=VALUE"):
        course.parse_parameters(["clients"])


def test_an_executed_copy_never_takes_the_place_of_a_source(tmp_path):
    path = notebook(tmp_path / "notebooks" / "one.ipynb", "print(1)")
    with pytest.raises(BadInput, match="would be overwritten"):
        course.execute([path], out=tmp_path)


def test_a_copy_overwrites_nothing(tmp_path):
    mine = tmp_path / "notebooks" / "00_start_here.ipynb"
    mine.parent.mkdir()
    mine.write_text("my work")
    copied = course.copy_to(tmp_path)
    assert mine.read_text() == "my work"
    assert copied.kept == [mine]
    assert (tmp_path / "theory" / "deca_descent.ipynb").exists()
    assert not course.copy_to(tmp_path).written


def test_a_copy_holds_no_outputs(tmp_path):
    course.copy_to(tmp_path)
    for path in (tmp_path / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
        nbformat.validate(nbformat.read(path, 4))


@pytest.mark.parametrize(
    ("words", "what"),
    [(("lab", "--folder"), "JupyterLab"), (("notebooks", "02", "--out"), "running notebooks")],
    ids=["lab", "notebooks"],
)
def test_without_the_course_s_packages_one_line_says_what_to_install(
    words, what, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(errors, "find_spec", lambda name: None if name == "papermill" else object())
    ended = deca_lab(capsys, *words, tmp_path / "out")
    assert ended.code == 2
    assert (
        ended.err == f"error: {what} needs papermill: pip install 'deca-lab[course]', then again\n"
    )
    assert not (tmp_path / "out").exists()


def test_the_server_is_local_and_keeps_its_token():
    words = course.command(course.home(), 9999, browser=False)
    assert "--ip=127.0.0.1" in words
    assert not any("token" in word.lower() for word in words)
    with pytest.raises(BadInput, match="port = 80"):
        course.command(course.home(), 80)


def test_jupyterlab_asks_nobody_for_news(monkeypatch):
    from deca_lab.course.server import server_environment

    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "mine")
    ours, mine = server_environment()["JUPYTER_CONFIG_PATH"].split(os.pathsep)
    assert mine == "mine"
    page = json.loads((Path(ours) / "labconfig" / "page_config.json").read_text())
    assert page["disabledExtensions"]["@jupyterlab/apputils-extension:announcements"]


def test_commands(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an installed course is copied to where one works
    said = deca_lab(capsys, "students", tmp_path / "students")
    assert said.code == 0
    assert "files written" in said.out
    assert deca_lab(capsys, "notebooks", "no_such_lesson").code == 2
    monkeypatch.setattr(course, "serve", lambda place, port, browser: 0)
    assert deca_lab(capsys, "lab", "--no-browser").code == 0
    ran = []
    monkeypatch.setattr(
        course,
        "execute",
        lambda paths, *rest: ran.extend(paths) or [course.Result(paths[0], 1.0, "", paths[0])],
    )
    assert deca_lab(capsys, "notebooks", "adam_step", "--out", tmp_path / "out").code == 0
    assert [path.stem for path in ran] == ["adam_step"]
    monkeypatch.setattr(
        course,
        "execute",
        lambda paths, *rest: [course.Result(paths[0], 1.0, "cell 3 failed", paths[0])],
    )
    failed = deca_lab(capsys, "notebooks", "adam_step", "--out", tmp_path / "out")
    assert failed.code == 1
    assert "cell 3 failed" in failed.out
