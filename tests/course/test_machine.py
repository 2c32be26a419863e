"""The look at a machine: what is well, what is not and what to do about it, on this machine and on pretended ones."""

from types import SimpleNamespace

import pytest
import torch
from command import deca_lab

from deca_lab.course import machine
from deca_lab.course.machine import Check
from deca_lab.errors import BadInput

pytestmark = pytest.mark.filterwarnings("default")


def test_this_machine_is_ready_and_every_look_was_taken():
    found = machine.examine()
    assert {
        "python",
        "cores",
        "gpu",
        "free disk",
        "writing",
        "two-client run",
        "notebook kernel",
    } <= {f.name for f in found}
    wrong = [f for f in found if not f.ok and f.name != "free memory"]
    assert not wrong, machine.describe(wrong)
    (training,) = (f.found for f in found if f.name == "two-client run")
    assert training.endswith("by --engine stacked") != torch.cuda.is_available()


def test_an_old_python_is_told_what_to_do():
    assert machine.python((3, 12, 1)).ok
    old = machine.python((3, 9, 0))
    assert not old.ok
    assert "3.11" in old.advice


def test_a_package_that_is_missing_or_old_is_named():
    (missing,) = [f for f in machine.packages(["surely-not-there>=1", "numpy>=1"]) if not f.ok]
    assert "surely-not-there" in missing.name + missing.found
    assert "pip install" in missing.advice
    (old,) = [f for f in machine.packages(["numpy>=99"]) if not f.ok]
    assert "99" in old.found + old.advice


def test_what_is_needed_is_what_the_project_says():
    needed = " ".join(machine.requirements())
    assert all(name in needed for name in ("torch", "transformers", "jupyterlab", "papermill"))


def test_away_from_a_checkout_what_was_installed_says_it(monkeypatch, tmp_path):
    lines = ["torch>=2.6", "jupyterlab>=4.3; extra == 'course'", 'gguf>=1; extra == "gguf"']
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "a/b/machine.py"))
    monkeypatch.setattr(machine.metadata, "requires", lambda name: lines)
    assert machine.requirements() == ["torch>=2.6", "jupyterlab>=4.3"]


def test_a_training_that_does_not_learn_is_told():
    assert machine.learnt(5.0, 4.0).ok
    assert not machine.learnt(5.0, 5.0).ok
    assert not machine.learnt(5.0, float("nan")).ok


def test_a_folder_that_is_not_there(tmp_path):
    assert machine.writing(tmp_path).ok
    with pytest.raises(BadInput, match="a folder that exists"):
        machine.examine(tmp_path / "none")


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(
        machine, "disk_usage", lambda folder: SimpleNamespace(total=10, used=10, free=1000)
    )
    assert not machine.disk(tmp_path).ok


def test_a_look_that_stops_is_a_failed_check_and_not_the_end():
    (found,) = machine._guarded("kernel", lambda: 1 / 0)
    assert (found.ok, found.name) == (False, "kernel")
    assert "ZeroDivisionError" in found.found


def test_the_command_says_it_and_exits_1_where_something_is_wrong(capsys, monkeypatch):
    found = [Check("python", True, "3.11", ""), Check("cores", False, "0", "buy one")]
    monkeypatch.setattr(machine, "examine", lambda: found)
    said = deca_lab(capsys, "doctor", "--machine")
    assert said.code == 1
    assert "buy one" in said.out
    assert "not ready: cores" in said.out
    monkeypatch.setattr(machine, "examine", lambda: [Check("python", True, "3.11", "")])
    assert deca_lab(capsys, "doctor", "--machine").code == 0
