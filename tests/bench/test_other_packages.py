"""The bench beside others' packages: nothing where they are not installed; ours over processes gives its seconds."""

import math

import pytest

from deca_lab.algorithm.loop import train
from deca_lab.bench import other_packages as ot
from deca_lab.errors import BadInput


def test_what_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(ot, "find_spec", lambda name: None)
    assert not [*ot.beside_peft(), *ot.beside_badam(), *ot.beside_decent_dp()]


@pytest.mark.slow
def test_clients_with_adapters_are_timed_beside_as_many_peft_models(monkeypatch):
    monkeypatch.setattr(ot, "CROWD", ((2, 1), (3, 2)))
    monkeypatch.setattr(ot, "STEPS", 3)
    cases = [(row.case, row.ours > 0, row.theirs > 0) for row in ot.beside_peft()]
    assert cases == [(f"Dec-LoRA, {n} clients, batch {b}", True, True) for n, b in ot.CROWD]


@pytest.mark.slow
def test_ours_over_processes_gives_seconds_of_a_step(monkeypatch):
    monkeypatch.setattr(ot, "CLIENTS", 2)
    monkeypatch.setattr(ot, "STEPS", 3)
    took = ot._over_processes("ours")
    assert 0 < took < math.inf


@pytest.mark.slow
def test_a_measurement_that_fails_says_why(monkeypatch):
    monkeypatch.setattr(ot, "CLIENTS", 1)
    with pytest.raises(BadInput, match="'nobody' did not run over 1 processes"):
        ot._over_processes("nobody")


def test_a_mean_over_visits_leaves_out_each_visits_first_step():
    assert ot._by_visit([9.0, 1.0, 2.0, 3.0, 9.0, 4.0, 4.0, 7.0]) == (2.0 + 4.0) / 2


def test_the_same_model_and_batches_are_trained_with_other_packages_steps():
    lab = ot._lab(method="badam", inner_steps=1, clients=1, ends="frozen")
    assert len(list(ot._steps(lab.model, None, lab, 0))) == lab.plan.steps == 4
    assert [block.name for block in lab.plan.blocks] == [f"layer {k}" for k in range(4)]
    *_, (state, _) = train(lab.plan)
    assert state.step == 4
