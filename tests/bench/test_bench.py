"""The benchmark: every part gives its rows, in turns, with what they are compared with; no figure is asserted."""

import math
import time
from dataclasses import replace
from functools import partial

import pytest
import torch
from cases import quick
from command import SMALL, deca_lab
from pretend_graphs import recorder

from deca_lab.algorithm import cuda_graph
from deca_lab.bench import bench as be
from deca_lab.errors import BadInput
from deca_lab.lab.prepare import prepare
from deca_lab.runconfig import RunConfig


@pytest.fixture
def small(monkeypatch):
    """The smallest of everything: bytes are bytes at any size, and half precision is slow without hardware for it."""
    monkeypatch.setattr(be, "SIZES", ((1, 16, 2, 1, 8),))
    monkeypatch.setattr(be, "NUMBERS", 2**13)
    monkeypatch.setattr(be, "REPEATS", 1)
    few = {"CLIENTS": (4, 8), "PARAMETERS": (4, 8), "DEGREES": (2, 4), "PROCESSES": ()}
    for name, sizes in few.items():
        monkeypatch.setattr(be.growth, name, sizes)
    monkeypatch.setattr(
        be,
        "prepare",
        lambda config: prepare(replace(config, model="tiny", clients=2, context=16, batch=1)),
    )


def compared(part):
    """Return the rows of a part, each of which says what it is compared with."""
    rows = list(be.bench([part], "cpu"))
    assert rows
    assert all(row.part == part for row in rows)
    assert all(math.isfinite(row.ratio) and row.ratio > 0 for row in rows)
    assert all(row.against and row.goal for row in rows)
    assert all(str(row.case) in row.line for row in rows)
    return rows


@pytest.mark.parametrize("part", quick(["step", "growth", "mixing", "theory"], 2))
def test_every_part_gives_rows_that_compare(part, small):
    compared(part)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # of compiling, torch's own
def test_the_compiled_engine_has_rows_beside_one_model(small, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # no C++
    rows = [row for row in compared("engine") if row.case.startswith("compiled, ")]
    assert [row.against for row in rows] == [
        "one model, the same tokens",
        "one compiled model, the same tokens",
    ]


def test_what_cannot_be_compiled_is_left_out(small, monkeypatch):
    monkeypatch.setattr(be, "missing", lambda device: "a C++ compiler")
    first, *rest = be.bench(["engine"], "cpu")
    assert first.line == "engine    left out: compiled: a C++ compiler is not here"
    assert [row.case.startswith("compiled") for row in rest] == [False, False]


@pytest.mark.slow
def test_growth_over_processes_is_of_the_same_work(monkeypatch):
    monkeypatch.setattr(be.growth, "PROCESSES", (1, 2))
    few = replace(be.growth.DEALT, model="tiny", context=16)  # several clients a process
    monkeypatch.setattr(be.growth, "DEALT", few)
    began = time.perf_counter()
    found = dict(be.growth.over_processes(1))
    assert sorted(found) == [1, 2]
    most = (time.perf_counter() - began) / prepare(few).plan.steps
    assert all(0 < seconds < most for seconds in found.values())


def test_growth_is_beside_proportion_and_drawn(small, capsys, tmp_path):
    rows = list(be.bench(["growth"], "cpu"))
    assert [row.case for row in rows] == [
        f"{what} {at}"
        for what, sizes in (("clients", (4, 8)), ("parameters", (4, 8)), ("degree", (2, 4)))
        for at in sizes
    ]
    assert [row.ratio for row in rows[::2]] == pytest.approx([1.0] * 3)
    assert rows[1].theirs == pytest.approx(2 * rows[0].ours)
    said = deca_lab(capsys, "bench", "growth", "--picture", tmp_path / "growth.png")
    assert said.code == 0
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
    refused = deca_lab(capsys, "bench", "start", "--picture", tmp_path / "other.png")
    assert (refused.code, "part growth" in refused.err) == (2, True)
    assert not (tmp_path / "other.png").exists()


@pytest.mark.slow
def test_crowds_on_a_gpu_are_timed_by_every_engine(small, monkeypatch):
    """On the processor, with graphs that are pretended."""
    monkeypatch.setattr(cuda_graph, "DEVICES", ("cpu",))
    monkeypatch.setattr(cuda_graph, "recorder", recorder([]))
    monkeypatch.setattr(be.growth, "CROWD", (1, 2))
    monkeypatch.setattr(be, "MAIN", RunConfig(**SMALL))
    rows = compared("gpu")
    ours = [row.case for row in rows if row.unit == "clients/s"]
    assert ours == [f"{name}, {n} clients" for name in ("tiny", "small") for n in (1, 2)]
    assert [row.ratio for row in rows if ", 1 clients" in row.case and row.unit == "clients/s"] == [
        1,
        1,
    ]
    assert sum(row.case.startswith("cuda-graph, ") for row in rows) == 4
    assert rows[-1].case == "the README's main job, cuda-graph"


def test_without_a_gpu_its_table_is_left_out():
    (row,) = be.bench(["gpu"], "cpu")
    assert "no CUDA device" in row.line


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
    for name in ("beside_peft", "beside_badam", "beside_decent_dp"):
        monkeypatch.setattr(be, name, lambda: iter(()))
    network, others = be.bench(["network", "others"], "cpu")
    assert network.line == "network   left out: no rights"
    assert "pip install peft decent-dp badam" in others.line


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
