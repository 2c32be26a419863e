"""The benchmark: every part gives its rows, in turns, with what they are compared with; no figure is asserted."""

import math
from dataclasses import replace

import pytest
import torch
from cases import quick
from command import deca_lab

from deca_lab.bench import bench as be
from deca_lab.errors import BadInput
from deca_lab.lab.prepare import prepare


@pytest.fixture
def small(monkeypatch):
    """The smallest of everything: bytes are bytes at any size, and half precision is slow without hardware for it."""
    monkeypatch.setattr(be, "SIZES", ((1, 16, 2, 1, 8),))
    monkeypatch.setattr(be, "NUMBERS", 2**13)
    monkeypatch.setattr(be, "REPEATS", 1)
    monkeypatch.setattr(
        be,
        "prepare",
        lambda config: prepare(replace(config, model="tiny", clients=2, context=16, batch=1)),
    )


@pytest.mark.parametrize("part", quick(["engine", "step", "mixing", "theory"], 2))
def test_every_part_gives_rows_that_compare(part, small):
    rows = list(be.bench([part], "cpu"))
    assert rows
    assert all(row.part == part for row in rows)
    assert all(math.isfinite(row.ratio) and row.ratio > 0 for row in rows)
    assert all(row.against and row.goal for row in rows)
    assert all(str(row.case) in row.line for row in rows)


def test_works_are_taken_in_turns_and_the_first_round_does_not_count():
    done = []
    took = be.medians(
        {"one": lambda: done.append("one"), "two": lambda: done.append("two")},
        torch.device("cpu"),
        3,
    )
    assert done == ["one", "two"] * 4
    assert set(took) == {"one", "two"}


def test_memory_is_what_the_ledger_says(small):
    rows = list(be.bench(["memory"], "cpu"))
    assert [row.ratio for row in rows if row.against == "the ledger"] == pytest.approx(
        [1.0, 1.0], rel=1e-3
    )
    assert all(row.ratio < 0.5 for row in rows if row.against != "the ledger")


def test_what_cannot_be_measured_here_says_why(monkeypatch):
    monkeypatch.setattr(be, "possible", lambda: "no rights")
    for name in ("beside_badam", "beside_decent_dp"):
        monkeypatch.setattr(be, name, lambda: iter(()))
    network, others = be.bench(["network", "others"], "cpu")
    assert network.line == "network   left out: no rights"
    assert "pip install decent-dp badam" in others.line


def test_the_command_says_the_machine_and_refuses_what_it_does_not_know(capsys, monkeypatch):
    monkeypatch.setattr(
        be,
        "PARTS",
        {"start": lambda device: iter([be.Benchmark("start", "x", 1.0, 2.0, "s", "y", "z")])},
    )
    said = deca_lab(capsys, "bench", "start", "--device", "cpu")
    assert said.code == 0
    assert "torch" in said.out.splitlines()[0]
    assert "0.50" in said.out
    assert deca_lab(capsys, "bench", "quick").code == 2
    with pytest.raises(BadInput, match="part"):
        list(be.bench(["quick"], "cpu"))
