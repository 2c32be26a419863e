"""What commands say: as JSON with the keys that stand here, in words, and nothing on the way with --quiet."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from command import SMALL, deca_lab, options

from deca_lab.cli.words import plain

KEYS = {  # command -> the keys of its result, which stay as they are
    "run": {"folder", "report", "seconds", "summary", "samples"},
    "run --dry-run": {
        *("model", "clients", "activations", "memory", "checkpoint", "sent", "free", "notes"),
    },
    "compare": {"score", "methods", "differences", "page"},
    "sweep": {"points", "table", "picture"},
    "clock": {"inner_steps", "seconds_a_step", "mbit", "latency", "seconds", "waiting"},
    "export": {"folder", "client", "format"},
    "report": {"report"},
    "students": {"folder", "written", "kept"},
}


@pytest.fixture
def result(capsys):
    """Return what a command prints as JSON, and what it says on the way."""

    def ask(*words, code=0):
        said = deca_lab(capsys, *words, "--json")
        assert said.code == code, said.err
        return json.loads(said.out), said.err

    return ask


@pytest.mark.slow
def test_a_run_and_what_is_made_of_it_as_json(result, tmp_path):
    out = tmp_path / "run"
    needed, _ = result("run", "--dry-run", *options(**SMALL))
    assert set(needed) == KEYS["run --dry-run"]
    done, on_the_way = result("run", *options(out=out, **SMALL))
    assert set(done) == KEYS["run"]
    assert "a step takes" in on_the_way
    assert done["summary"] == plain(json.loads((out / "summary.json").read_text()))
    assert done["summary"]["bytes_sent"] == needed["sent"]
    timed, _ = result("clock", out)
    assert set(timed) == KEYS["clock"]
    assert timed["inner_steps"] == done["summary"]["inner_steps"]
    drawn, _ = result("report", out)
    assert drawn == {"report": str(out / "report.html")}
    written, _ = result("export", out)
    assert set(written) == KEYS["export"]
    assert (tmp_path / "run" / "export-mean" / "model.safetensors").exists()
    again, _ = result("students", tmp_path / "class")
    assert set(again) == KEYS["students"]


def test_tables_as_json(result, tmp_path):
    names, _ = result("list", "orders")
    assert set(names["orders"]) == {"sequence", "reversed", "reshuffled"}
    assert set(result("list")[0]) >= {"methods", "topologies", "recipes", "findings"}
    sound, _ = result("doctor")
    assert (sound["verdict"], sound["clients"]) == ("sound", 8)
    np.savetxt(tmp_path / "w.csv", [[0.9, 0.1], [0.5, 0.5]], delimiter=",")
    unsound, _ = result("doctor", "--matrix", tmp_path / "w.csv", code=1)
    assert unsound["verdict"] == "unsound"
    claims, _ = result("bounds", "gossip_contraction")
    assert claims["right"]
    assert {"claim", "case", "lhs", "rhs", "verdict"} <= set(claims["claims"][0])


def test_one_method_is_compared_with_nobody_and_two_are(capsys, result, tmp_path):
    few = {**SMALL, "inner_steps": 1}
    words = ["compare", "--seeds", "1", "--rates", "0.01", "--methods"]
    alone = deca_lab(capsys, *words, "deca", *options(out=tmp_path / "one", **few))
    assert alone.code == 0
    assert "Empty" not in alone.out
    assert "Empty" not in (tmp_path / "one" / "compare.html").read_text()
    two, _ = result(*words, "deca,d-adam", "--quiet", *options(out=tmp_path / "two", **few))
    assert set(two) == KEYS["compare"]
    assert [row["arm"] for row in two["methods"]] == ["deca", "d-adam"]
    assert two["differences"][0]["low"] is None  # one seed has no interval


@pytest.mark.slow
def test_quiet_says_nothing_on_the_way(capsys, tmp_path):
    said = deca_lab(capsys, "run", "--quiet", *options(out=tmp_path / "run", **SMALL))
    assert (said.code, said.err) == (0, "")
    assert "perplexity" in said.out
    vary = ["sweep", "-q", "--vary", "b1=0.5,0.9", "--seeds", "1"]
    done = deca_lab(capsys, *vary, *options(out=tmp_path / "sweep", **SMALL))
    assert (done.code, done.err) == (0, "")


def test_json_has_no_nan_and_no_numpy():
    given = {"a": np.float32("nan"), 1: (np.int64(3), float("inf")), "b": pd.NA is None, "c": None}
    assert plain(given) == {"a": None, "1": [3, None], "b": False, "c": None}


@pytest.mark.parametrize("command", ["list", "--help"])
def test_output_that_cannot_be_written_is_one_line(command):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "deca_lab", command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr == "stopped: No space left on device\n"


@pytest.mark.parametrize(
    "words",
    [
        ("bench", "nope"),
        ("bounds", "nope"),
        ("bounds", "gossip_contraction", "nope"),
        ("bounds", "nope", "--attack", "1"),
    ],
)
def test_a_name_that_is_refused_has_no_table(capsys, words):
    said = deca_lab(capsys, *words)
    assert (said.code, said.out) == (2, "")
    assert "'nope'" in said.err
