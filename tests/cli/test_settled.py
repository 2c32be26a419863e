"""What is made sure of before a command begins: somewhere to write, a folder to stand in, a Python that libraries bear."""

import os
import subprocess
import sys

import pytest
import typer
from command import deca_lab

from deca_lab import cli
from deca_lab.cli.knobs import _wrapped


def test_closed_streams_get_somewhere_to_write(monkeypatch):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    cli._settle()
    with sys.stdin as given, sys.stdout as said, sys.stderr as errors:
        assert given.read() == ""
        assert said.write("a") == errors.write("b") == 1


def test_a_current_folder_that_is_gone_is_one_line(capsys, monkeypatch):
    def gone():
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "getcwd", gone)
    said = deca_lab(capsys, "list", "topologies")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: current folder = 'removed'")


def test_a_python_without_docstrings_is_one_line():
    command = [sys.executable, "-OO", "-m", "deca_lab", "list", "topologies"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: python = '-OO' cannot be used: it must be -O at most: transformers reads the "
        "docstrings of its classes\n"
    )


def test_a_recipe_without_a_name_is_refused(capsys):
    said = deca_lab(capsys, "run", "--dry-run", "--config", "")
    assert (said.code, said.err[:26]) == (2, "error: unknown recipe '': ")


@pytest.mark.parametrize(
    ("words", "twice"),
    [
        (["run", "--lr", "0.1", "--seed", "1", "--lr=0.2"], "--lr"),
        (["run", "--config", "a.yaml", "--recipe", "b.yaml"], "--recipe"),
        (["doctor", "--clients", "3", "--clients", "3"], "--clients"),
    ],
)
def test_an_option_that_is_given_twice_is_refused(capsys, words, twice):
    said = deca_lab(capsys, *words)
    line = f"error: options = {twice!r} cannot be used: it must be given once each\n"
    assert (said.code, said.out, said.err) == (2, "", line)


def test_what_may_be_given_again_is_not_refused(capsys, tmp_path):
    vary = ["--vary", "b1=0.1", "--vary", "b1=0.2"]
    said = deca_lab(capsys, "sweep", *vary, "--out", tmp_path / "new")
    assert "each knob once, its values with commas" in said.err


@pytest.mark.parametrize("columns", ["1", "0", "-5"])
def test_a_terminal_of_no_width_still_gets_its_help(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert "mix-every" in _wrapped("Group: rounds, mix-every")


def test_options_that_take_several_are_those_that_may_be_given_several_times():
    tree = [typer.main.get_command(cli.app)]
    for command in tree:  # grows as it goes
        tree += getattr(command, "commands", {}).values()
    several = {p.opts[0] for c in tree for p in c.params if p.multiple and p.opts[0][:2] == "--"}
    assert several == set(cli.SEVERAL)
    cli._require_once(["notebooks", "--parameter", "a=1", "--parameter", "b=2"])
