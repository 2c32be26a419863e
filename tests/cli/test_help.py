"""Help in two levels, completion, --version: what they show is what is taken, and they are light."""

import os
import re
import subprocess
import sys
from importlib.metadata import version

import pytest
from cases import cases
from command import SMALL, deca_lab, options
from typer.testing import CliRunner

from deca_lab.cli import app
from deca_lab.cli.choices import FIXED, TABLES, choices, ours
from deca_lab.cli.knobs import USUAL
from deca_lab.registry import KINDS, resolved
from deca_lab.runconfig import RunConfig

KNOBS = list(RunConfig.__dataclass_fields__)
SCREEN = 80  # lines of a tall terminal
WITH_KNOBS = ("run", "compare", "sweep")


@pytest.fixture(scope="module")
def helped():
    """Return what `deca-lab COMMAND OPTION` prints at 80 columns."""
    said = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        patch.setenv("TERMINAL_WIDTH", "80")
        for command in WITH_KNOBS:
            for option in ("--help", "--help-all", "-h"):
                done = CliRunner(env={"COLUMNS": "80"}).invoke(app, [command, option])
                assert done.exit_code == 0
                said[command, option] = done.output
    return said


@pytest.mark.parametrize("command", WITH_KNOBS)
def test_help_has_what_most_people_need_and_names_the_rest(helped, command):
    short, whole = helped[command, "--help"], helped[command, "--help-all"]
    assert short == helped[command, "-h"]
    assert len(short.splitlines()) < SCREEN < len(whole.splitlines())
    shown, named = short.split("Shown by --help-all:")
    refused = {"method", "lr"} if command == "compare" else set()
    for knob in set(KNOBS) - refused:
        option = knob.replace("_", "-")
        assert f"--{option} " in whole
        assert (f"--{option} " in shown) == (knob in USUAL)
        assert bool(re.search(rf"[ ,]{option}(,|$)", named, re.MULTILINE)) == (knob not in USUAL)
    for text in (short, whole):
        assert "<str>" not in text
        assert max(map(len, text.splitlines())) <= 80


@cases("knob", [knob for knob in KNOBS if choices(knob)])
def test_every_choice_is_in_the_help(helped, knob):
    words = re.sub(r"[\s│]+", " ", helped["run", "--help-all"])
    part = words[words.index(f"--{knob.replace('_', '-')} ") :][:800]
    assert [name for name in choices(knob) if not re.search(rf"\b{re.escape(name)}\b", part)] == []


@cases("kind", [kind for kinds in TABLES.values() for kind in kinds])
def test_names_read_from_the_source_are_those_of_the_table(kind):
    assert set(ours(kind)) <= set(resolved(KINDS[kind].table))
    assert len(ours(kind)) >= 2


FIXED_IN = {  # where a word is looked up only then
    "base_weights": {"adapter": "lora"},
    "frozen_factor": {"adapter": "lora"},
    "mixing": {"adapter": "lora"},
    "head": {"task": "classify"},
    "optimiser": {"method": "dec-lora"},  # which leaves it open
}


@cases("knob", [*FIXED, *(k for k in TABLES if k not in ("model", "corpus"))])
def test_the_choices_are_what_the_refusal_of_another_word_allows(capsys, tmp_path, knob):
    asked = {**SMALL, **FIXED_IN.get(knob, {}), knob: "zzz"}
    said = deca_lab(capsys, "run", *options(out=tmp_path / "new", **asked))
    line = said.err.strip().splitlines()[-1]
    assert said.code == 2
    allowed = set(line.partition("allowed: ")[2].split(", "))
    assert allowed == set(choices(knob)), line


def test_help_loads_no_torch_and_version_says_which_this_is():
    code = (
        "import sys; sys.argv = ['deca-lab', *sys.argv[1:]]\ntry:\n from deca_lab.cli import main; main()\n"
        "finally:\n sys.stderr.write(str({'torch', 'numpy', 'pandas', 'networkx'} & set(sys.modules)))"
    )

    def said(*words):
        environment = {"COLUMNS": "200", "PATH": ""}
        asked = [sys.executable, "-c", code, *words]
        return subprocess.run(asked, capture_output=True, text=True, env=environment, check=True)

    assert [said(*w).stderr for w in (["run", "-h"], ["run", "--help-all"])] == ["set()"] * 2
    shown = said("--version")
    assert (shown.stdout, shown.stderr) == (f"deca-lab {version('deca-lab')}\n", "set()")


def test_the_shell_completes_options_and_names():
    def completed(line):
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
        asked = {**os.environ, **words, "_DECA_LAB_COMPLETE": "complete_bash"}
        done = CliRunner().invoke(app, [], prog_name="deca-lab", env=asked)
        return done.output.split()

    assert "--lr-scheduler-type" in completed("deca-lab run --lr")
    assert completed("deca-lab run --optimiser qg") == ["qg-adam", "qg-sgd"]
