"""The public names: what `dir` shows, what type checkers see, and what `RunConfig?` shows."""

import re
import subprocess
import sys
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest

import deca_lab
from deca_lab import RunConfig

ROOT = Path(deca_lab.__file__).parents[1]
USE = """\
import deca_lab
from deca_lab import History, RunConfig, run

history: History = run(RunConfig(clients=3, lr=0.1))
RunConfig(clientz=3)
RunConfig(clients="three")
deca_lab.nosuch
deca_lab.describe(3.5)
"""


def test_dir_shows_the_public_names_alone():
    assert dir(deca_lab) == sorted(deca_lab.__all__)
    assert set(deca_lab.__all__) == {*deca_lab._HOME, "__version__"}


def test_type_checkers_read_our_types():
    assert (ROOT / "deca_lab" / "py.typed").is_file()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_type_checker_knows_every_public_name_and_every_knob(tmp_path):
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("not in a checkout")
    pytest.importorskip("mypy")
    names = ", ".join(name for name in deca_lab.__all__ if name != "__version__")
    (tmp_path / "use.py").write_text(USE + f"from deca_lab import {names}\n")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        str(ROOT / "pyproject.toml"),
        "--cache-dir",
        str(tmp_path),
        "use.py",
    ]
    seen = subprocess.run(
        command,
        cwd=tmp_path,
        env={"MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.findall(r"^use\.py:(\d+): error: .*\[(.*)\]$", seen.stdout, re.MULTILINE)
    assert found == [
        ("5", "call-arg"),
        ("6", "arg-type"),
        ("7", "attr-defined"),
        ("8", "arg-type"),
    ], seen.stdout + seen.stderr


def test_the_docstring_of_a_config_shows_each_knob_once_with_default_range_and_help():
    shown = RunConfig.__doc__.splitlines()
    for f in fields(RunConfig):
        allowed = f.metadata["allowed"]
        within = f" ({allowed[1]})" if allowed else ""
        line = f"{f.name} : {f.type.__name__}, default {f.default!r}{within}"
        assert shown.count(line) == 1, f.name
        assert shown[shown.index(line) + 1] == f"    {f.metadata['help']}"


def test_the_docstring_of_a_config_has_the_groups_in_order():
    groups = list(dict.fromkeys(f.metadata["group"] for f in fields(RunConfig)))
    lines = RunConfig.__doc__.splitlines()
    assert [above for above, line in pairwise(lines) if line and set(line) == {"-"}] == groups
    assert lines[0].startswith("Every setting of one run.")
