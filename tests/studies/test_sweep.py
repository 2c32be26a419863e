"""Sweeps: every combination once, the table as separate runs would give it, and what is kept of a broken one."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from command import SMALL, deca_lab, options

import deca_lab as lab
from deca_lab.errors import BadInput
from deca_lab.lab import runs
from deca_lab.runconfig import RunConfig
from deca_lab.studies import sweep

BASE = RunConfig(**{**SMALL, "inner_steps": 1})
GRID = {"lr": [1e-3, 1e-2], "feedback": ["none"]}


@pytest.mark.slow
def test_rows_are_those_of_separate_runs_and_a_broken_sweep_goes_on(tmp_path, monkeypatch):
    table = sweep.sweep(BASE, GRID, 2, tmp_path / "whole")
    assert table[["lr", "seed"]].to_numpy().tolist() == [[1e-3, 0], [1e-3, 1], [1e-2, 0], [1e-2, 1]]
    alone = runs.run(
        RunConfig(**{**SMALL, "inner_steps": 1}, lr=1e-2, feedback="none", seed=1)
    ).metrics.iloc[-1]
    assert table["validation_loss"].iloc[3] == alone["validation_loss"]
    (tmp_path / "broken").mkdir()
    table.head(2).to_csv(tmp_path / "broken" / "runs.csv", index=False)
    shutil.copy(tmp_path / "whole" / "first.json", tmp_path / "broken")
    ran, ones = [], dict.fromkeys(sweep.MEASURED, 1.0)
    monkeypatch.setattr(
        sweep, "_outcome", lambda config, *rest: ran.append((config.lr, config.seed)) or ones
    )
    again = sweep.sweep(BASE, GRID, 2, tmp_path / "broken")
    assert ran == [(1e-2, 0), (1e-2, 1)]
    pd.testing.assert_frame_equal(again.head(2), table.head(2))


def test_summary_puts_the_best_by_validation_first():
    table = pd.DataFrame(
        {
            "lr": [1, 1, 2, 2],
            "seed": [0, 1, 0, 1],
            "validation_loss": [3.0, 5.0, 2.0, 2.5],
            "test_loss": [0.0, 0.0, 9.0, 9.0],
        }
    )
    best = sweep.summary(table, ["lr"]).iloc[0]
    assert (best["lr"], best["validation_loss mean"]) == (2, 2.25)
    assert best["validation_loss std"] == pytest.approx(0.125**0.5)


def test_diverged_run_has_infinite_loss(tmp_path):
    table = sweep.sweep(BASE, {"lr": [1e38], "inner_steps": [3]}, 1, tmp_path)
    assert table["test_loss"].tolist() == [float("inf")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("b3=1", "unknown knob 'b3'"),
        ("lr=fast", "lr takes values of type float"),
        ("lr", "lr=VALUE"),
        ("allow_unsound=1", "a number or a name"),
    ],
)
def test_bad_grid(text, words):
    with pytest.raises(BadInput, match=words):
        sweep.parse_grid([text])


def test_a_knob_or_a_value_twice_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"vary = 'lr=1, b1=0, lr=2' .* each knob once"):
        sweep.parse_grid(["lr=1", "b1=0", "lr=2"])
    with pytest.raises(BadInput, match=r"vary lr = \[1.0, 1.0\] .* different values"):
        sweep.sweep(BASE, sweep.parse_grid(["lr=1,1.0"]), 1, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_folder_of_another_sweep_is_refused(tmp_path):
    (tmp_path / "runs.csv").write_text("lr,seed,validation_loss\n0.5,0,1.0\n")
    with pytest.raises(BadInput, match="that of the same sweep"):
        sweep.sweep(BASE, GRID, 2, tmp_path)


def test_rows_of_other_knobs_are_not_taken_for_a_sweeps_own(tmp_path, monkeypatch):
    ones = dict.fromkeys(sweep.MEASURED, 1.0)
    monkeypatch.setattr(sweep, "_outcome", lambda config, *rest: ones)
    sweep.sweep(BASE, GRID, 2, tmp_path)
    monkeypatch.setattr(sweep, "_outcome", None)
    assert len(sweep.sweep(replace(BASE, lr=0.5), GRID, 2, tmp_path)) == 4  # a knob that it varies
    others = [(replace(BASE, context=16), {}), (BASE, {"topology": np.full((4, 4), 0.25)})]
    for base, objects in others:
        with pytest.raises(BadInput, match="that of the same sweep"):
            sweep.sweep(base, GRID, 2, tmp_path, **objects)
    (tmp_path / "first.json").unlink()
    with pytest.raises(BadInput, match=r"first\.json.* cannot be read"):
        sweep.sweep(BASE, GRID, 2, tmp_path)


@pytest.mark.parametrize(
    ("knob", "value"),
    [("topology", "rin"), ("split", "IID"), ("task", "lmm"), ("dtype", "half"), ("order", "up")],
)
def test_a_name_that_nothing_has_is_refused_before_the_first_run(
    tmp_path, monkeypatch, knob, value
):
    monkeypatch.setattr(runs, "run", None)
    with pytest.raises(BadInput, match=f"unknown {knob} '{value}'"):
        sweep.sweep(BASE, {knob: [getattr(BASE, knob), value]}, 1, tmp_path)
    assert not (tmp_path / "runs.csv").exists()


def test_command_prints_the_table(capsys, tmp_path):
    knobs = options(out=tmp_path, **{**SMALL, "inner_steps": 1})
    said = deca_lab(capsys, "sweep", "--vary", "lr=0.001,0.01", "--seeds", 1, *knobs)
    assert said.code == 0
    assert "validation_loss mean" in said.out
    assert (tmp_path / "sweep.png").stat().st_size > 5000


KEPT = RunConfig(**{**SMALL, "inner_steps": 1}, method="d-sgd")


def test_a_kept_sweep_has_the_history_of_every_row(tmp_path, monkeypatch):
    grid = {"lr": [1e-3, 1e-2]}
    table = sweep.sweep(KEPT, grid, 2, tmp_path, keep=True)
    assert table["folder"].tolist() == [f"runs/{k}" for k in range(4)]
    for row in table.to_dict("records"):
        history = lab.load(tmp_path / row["folder"])
        assert (history.config.lr, history.config.seed) == (row["lr"], row["seed"])
        assert history.metrics["validation_loss"].iloc[-1] == row["validation_loss"]
    (tmp_path / "runs.csv").unlink()  # as if it had been broken off before the first row
    monkeypatch.setattr(runs, "run", None)
    again = sweep.sweep(KEPT, {"lr": [1e-3]}, 2, tmp_path, keep=True)
    pd.testing.assert_frame_equal(again, table.head(2))


def test_a_diverged_run_of_a_kept_sweep_has_no_folder(tmp_path):
    table = sweep.sweep(KEPT, {"lr": [1e38], "rounds": [4]}, 1, tmp_path, keep=True)
    assert table["test_loss"].tolist() == [float("inf")]
    assert table["folder"].isna().all()


@pytest.mark.parametrize("keep", [True, False])
def test_a_sweep_that_keeps_and_one_that_does_not_are_two(keep, tmp_path):
    row = {"lr": 1e-3, "feedback": "none", "seed": 0, **dict.fromkeys(sweep.MEASURED, 1.0)}
    pd.DataFrame([row if keep else {**row, "folder": "runs/0"}]).to_csv(
        tmp_path / "runs.csv", index=False
    )
    with pytest.raises(BadInput, match="that of the same sweep"):
        sweep.sweep(BASE, GRID, 1, tmp_path, keep=keep)


def test_real_objects_make_the_runs_of_a_sweep(tmp_path):
    graph, steps = np.full((4, 4), 0.25), []
    own = {
        "topology": graph,
        "callbacks": [lambda moment: steps.append(moment.step)],
        "metrics": {"twice": lambda moment: 2.0 * moment.step},
    }
    table = sweep.sweep(KEPT, {"lr": [1e-3, 1e-2]}, 1, tmp_path, keep=True, **own)
    assert table["twice"].tolist() == [2.0, 2.0]
    assert steps == [1, 1]
    for folder in table["folder"]:
        np.testing.assert_array_equal(lab.load(tmp_path / folder).W[0], graph)
