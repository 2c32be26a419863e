"""One harness for hostile inputs, which knows three outcomes: refused in a line, stopped and resumable, right content.

Whatever else happens, a traceback, a silent change or a wrong number, is an AssertionError here.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from command import SMALL, deca_lab, options
from hypothesis import HealthCheck, given, settings
from small_models import config_of, tokenizer_of

from deca_lab.errors import BadInput
from deca_lab.lab import history, runs
from deca_lab.runconfig import RunConfig

TINY = {
    **SMALL,
    "clients": 2,
    "context": 16,
    "batch": 1,
    "inner_steps": 2,
    "eval_windows": 2,
    "checkpoint_every": 1,
}
CONFIG = RunConfig(**TINY)
SAME = [name for name in history.FILES if name != "timings.csv"] + ["checkpoint.safetensors"]
CALM = {**os.environ, "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
REFUSED, FAILED, STOPPED = 2, 1, (130, 143, -15, -1, 129)


class Killed(BaseException):
    """The end of a process: nothing that runs may catch it for good."""


def judged(code, err, words=""):
    """Return "refused", "failed" or "right" of a command that has ended, where it ended in one of the ways allowed."""
    assert "Traceback" not in err, err[-3000:]
    if code == 0:
        return "right"
    if code == REFUSED and err.startswith("Usage: "):  # Typer's own words, for what is no number
        return "refused"
    last = err.strip().splitlines()[-1]
    assert code in (REFUSED, FAILED), (code, err[-2000:])
    assert last.startswith("error: " if code == REFUSED else "stopped: "), err[-2000:]
    assert sum(line.startswith(("error: ", "stopped: ")) for line in err.splitlines()) == 1
    assert re.search(words, last), f"{words!r} is not said in {last!r}"
    return "refused" if code == REFUSED else "failed"


def outcome(capsys, *words, says=""):
    """Run `deca-lab words` in this process, and judge it."""
    said = deca_lab(capsys, *words)
    return judged(said.code, said.err, says)


def among(environment):
    """Return the environment of a process with these names in it; None takes one out."""
    return {name: value for name, value in {**CALM, **environment}.items() if value is not None}


def process(*words, says="", timeout=300, **environment):
    """Run `deca-lab words` in a process of its own, and judge it."""
    command = [sys.executable, "-m", "deca_lab", *map(str, words)]
    done = subprocess.run(
        command,
        env=among(environment),
        capture_output=True,
        timeout=timeout,
        check=False,
        encoding="utf-8",
    )
    return judged(done.returncode, done.stderr, says)


def bits(folder):
    """Return what equal runs share, by the names of the files."""
    return {name: (Path(folder) / name).read_bytes() for name in SAME}


def completed(folder):
    """Bring an interrupted run of CONFIG to its end: go on where it was broken off, or start again where it had not begun."""
    if (folder / "config.json").exists():
        return runs.resume(folder)
    return runs.run(CONFIG, folder)


def copied(folder, target):
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    return target


def run_words(folder, **knobs):
    """Return the command of a run of CONFIG; on the command line alone measuring has a share of the work."""
    share = {} if "eval_every" in knobs else {"eval_share": 1}
    return ["run", *options(out=folder, **{**TINY, **share, **knobs})]


def tried(action, *given):
    """Return what an action gives, and the one line with which it refuses, or "" where it does not."""
    try:
        return action(*given), ""
    except BadInput as error:
        line = str(error)
    assert line, "a refusal without a word"
    assert "\n" not in line
    return None, line


def causal_lm_in(folder):
    """Write a small Llama with its head, and a tokenizer; return the folder."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        AutoModelForCausalLM.from_config(config_of("llama")).save_pretrained(folder)
    tokenizer_of("llama").save_pretrained(folder)
    return folder


TALLY = Counter()  # (what was tried, how it ended): how often


def counted(what, end):
    """Note one input and its outcome for the table that `pytest --hostile-seconds` prints."""
    TALLY[what, end] += 1


def table():
    """Return the outcomes of all inputs so far as a table in Markdown."""
    rows = {}
    for (what, end), many in sorted(TALLY.items()):
        rows.setdefault(what, []).append((end, many))
    lines = ["| tried | inputs | outcomes |", "|---|---|---|"]
    for what, ends in rows.items():
        words = ", ".join(f"{many:,} {end}" for end, many in ends)
        lines.append(f"| {what} | {sum(many for _, many in ends):,} | {words} |")
    return lines


def searched(one, strategy, seconds, few):
    """Try inputs drawn from a strategy: a few, the same ones always, or new ones for so many seconds."""
    search = settings(
        max_examples=20 if seconds else few,
        derandomize=not seconds,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )(given(strategy)(one))
    search()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        search()


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The folder of a finished tiny run, of which every test takes a copy."""
    folder = tmp_path_factory.mktemp("hostile") / "whole"
    runs.run(CONFIG, folder)
    return folder


@pytest.fixture(scope="session")
def laid(whole):
    """What CONFIG is made of, prepared once."""
    return runs.prepare(CONFIG)


@pytest.fixture
def swift(laid, monkeypatch):
    """Let every life of a run of CONFIG begin with what is prepared, where many lives are tried."""
    monkeypatch.setattr(runs, "prepare", lambda config, world, objects: laid)
    monkeypatch.setattr(runs, "prepared", lambda config, world, objects, say: laid)
