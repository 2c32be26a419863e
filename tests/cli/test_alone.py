"""`run --alone`: the same clients without mixing, in the same picture, and what both write."""

import json

import pytest
from command import SMALL, deca_lab, options

from deca_lab import load


@pytest.mark.slow
def test_a_run_beside_the_same_clients_alone(capsys, tmp_path):
    few = {**SMALL, "corpus": "village", "split": "by-label"}
    said = deca_lab(capsys, "run", "--alone", "--json", *options(out=tmp_path / "run", **few))
    assert said.code == 0, said.err
    together, alone = load(tmp_path / "run"), load(tmp_path / "run" / "alone")
    assert (alone.config.method, alone.summary["bytes_sent"]) == ("local", 0)
    assert alone.metrics["test_loss"][0] == together.metrics["test_loss"][0]
    assert (tmp_path / "run" / "alone.png").stat().st_size > 10_000
    rows = json.loads(said.out)["samples"]
    assert {"start", "really", "before", "after"} == set(rows[0])


def test_processes_are_refused_for_only_the_first_would_go_on(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = deca_lab(capsys, "run", "--alone")
    assert said.code == 2
    assert "--alone beside WORLD_SIZE = 2 cannot be used" in said.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--method", "d-sgd"], "--alone beside --method = 'd-sgd' cannot be used"),
        (["--method", "decaf"], "--alone beside --method = 'decaf' cannot be used"),
        (["--method", "local"], "--alone beside --method = 'local' cannot be used"),
        (["--moments", "keep", "--feedback", "downhill"], "feedback = 'downhill' contradicts"),
        (["--dry-run"], "left out with --dry-run"),
        (["--resume", "o"], "left out with --resume"),
    ],
)
def test_what_has_no_twin_is_refused_before_any_work(capsys, tmp_path, words, says):
    said = deca_lab(capsys, "run", "--alone", *words)
    assert said.code == 2
    assert says in said.err
    assert len(said.err.strip().splitlines()) == 1
