"""Faults: what remains of W is sound and keeps the mean, outages have their law, who is away stands still, garbage is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from command import SMALL

from deca_lab import faults as fl
from deca_lab import moments as mo
from deca_lab import optimisers, runs
from deca_lab.blocks import whole
from deca_lab.doctor import diagnose
from deca_lab.errors import BadInput, Stopped
from deca_lab.gossip import mixer
from deca_lab.lab import prepare
from deca_lab.problems import quadratics
from deca_lab.runconfig import RunConfig
from deca_lab.topology import topology
from deca_lab.train import Recipe, plan, train

CONFIG = RunConfig(**{**SMALL, "clients": 6, "rounds": 2})
STEPS = 60


def told(drop=0.0, burst=1.0, away="", garbage="", clients=6, turns=STEPS, seed=0, graph="ring"):
    return fl.faults(drop, burst, away, garbage, topology(graph, clients), STEPS, turns, seed)


@pytest.mark.parametrize("graph", ["ring", "star", "complete", "erdos-renyi"])
@pytest.mark.parametrize("seed", range(5))
def test_what_remains_is_sound_and_is_what_a_loop_says(graph, seed):
    rng = np.random.default_rng(seed)
    W, failed = topology(graph, 7, seed=seed).at(0), rng.random((7, 7)) < 0.4
    failed |= failed.T
    left = W.copy()
    for i in range(7):
        for j in range(7):
            if i != j and failed[i, j]:
                left[i, i] += left[i, j]
                left[i, j] = 0.0
    np.testing.assert_allclose(fl.remaining(W, failed), left, atol=1e-15)
    found = diagnose(fl.remaining(W, failed))
    assert found.nonnegative
    assert found.symmetric
    assert max(found.row_error, found.column_error) < 1e-12


def test_independent_losses_have_their_share_and_are_the_same_again():
    one = told(drop=0.3, clients=20, turns=400, graph="complete")
    lost = np.stack([one.lost(turn) for turn in range(400)])
    pairs = lost[:, *np.triu_indices(20, 1)]
    assert pairs.mean() == pytest.approx(0.3, abs=0.01)
    assert np.corrcoef(pairs[:-1].ravel(), pairs[1:].ravel())[0, 1] == pytest.approx(0, abs=0.02)
    assert not np.diagonal(lost, axis1=1, axis2=2).any()
    np.testing.assert_array_equal(lost, lost.swapaxes(1, 2))
    np.testing.assert_array_equal(lost[7], told(drop=0.3, clients=20, turns=400, graph="complete").lost(7))
    assert (lost[7] != told(drop=0.3, clients=20, turns=400, seed=1, graph="complete").lost(7)).any()


@pytest.mark.parametrize(("drop", "burst"), [(0.1, 4.0), (0.3, 10.0), (0.6, 2.0)])
def test_bursts_have_their_share_and_their_mean_length(drop, burst):
    one = told(drop=drop, burst=burst, clients=24, turns=2000, graph="complete")
    lost = np.stack([one.lost(turn) for turn in range(2000)])[:, *np.triu_indices(24, 1)]
    assert lost.mean() == pytest.approx(drop, rel=0.05)
    begins = (lost[1:] & ~lost[:-1]).sum()
    assert lost[1:].sum() / begins == pytest.approx(burst, rel=0.07)


def problem(clients=6, d=4, seed=0):
    rng = np.random.default_rng(seed)
    A = torch.from_numpy(np.stack([np.diag(rng.uniform(0.5, 2, d)) for _ in range(clients)]))
    return quadratics(A, torch.from_numpy(rng.standard_normal((clients, d))), torch.from_numpy(rng.standard_normal((clients, d))))


def states(faults, optimiser=None, **knobs):
    recipe = Recipe(3, 20, lambda s: 0.05, optimiser or optimisers.sgd(), faults=faults, **knobs)
    made = problem()
    laid = plan(made, whole(["x"]), topology("ring", 6), recipe)
    return made, laid, [state for state, _ in train(laid)]


def test_under_losses_the_run_is_a_plain_loop_and_every_mixing_keeps_the_mean():
    one = told(drop=0.4, burst=3.0)
    made, _, found = states(one)
    A, b = (part.numpy() for part in made.batches(0))
    X, W = made.start["x"].numpy(), topology("ring", 6).at(0)
    for turn, state in enumerate(found):
        plus = X - 0.05 * (np.einsum("nij,nj->ni", A, X) - b)
        lost, X = one.lost(turn), plus.copy()
        for i in range(6):
            for j in range(6):
                if i != j and not lost[i, j]:
                    X[i] += W[i, j] * (plus[j] - plus[i])
        np.testing.assert_allclose(state.blocks[0].numpy(), X, atol=1e-12)
        np.testing.assert_allclose(X.mean(0), plus.mean(0), atol=1e-14)


@pytest.mark.parametrize("name", ["sgd", "adam", "adam-mixed", "gradient-tracking"])
def test_who_is_away_stands_still_and_others_do_not_hear_it(name):
    knobs = optimisers.Knobs(mo.Adam(), mo.Feedback(mo.printed, mo.raw, 0.9, 0.9))
    _, laid, found = states(told(away="2@0.25-0.75"), optimisers.OPTIMISERS[name](knobs), keep_moments=True)
    X = np.stack([state.blocks[0].numpy() for state in found])
    away = slice(14, 45)                                               # states after inner steps 14 .. 44, of steps 15 .. 44
    assert (X[away, 2] == X[14, 2]).all()
    assert (X[46, 2] != X[44, 2]).any()
    assert (np.diff(X[away, 1], axis=0) != 0).any()
    held = [next(iter(state.moments.values())) for state in found[away]]
    for part in range(len(held[0]) - 1):
        assert (held[-1][part][2] == held[0][part][2]).all()
    sent = [state.sent for state in found]
    assert (sent[44] - sent[14])[2].sum() == (sent[44] - sent[14])[:, 2].sum() == 0
    assert sent[14][2].sum() > 0
    assert laid.messages(0).sum() == 12
    assert laid.messages(20).sum() == 8


def test_garbage_is_refused_and_counted_and_harms_nobody():
    _, _, clean = states(told())
    _, _, found = states(told(garbage="1@0-0.5"))
    assert found[-1].refused == 30 * 2                                 # 30 mixings, two receivers
    assert all(np.isfinite(state.blocks[0].numpy()).all() for state in found)
    assert np.abs(found[-1].blocks[0].numpy()).max() < 10
    assert clean[-1].refused == 0
    cut = told(away="", garbage="1@0-0.5")
    W = fl.remaining(topology("ring", 6).at(0), np.eye(6, dtype=bool)[1][:, None] | np.eye(6, dtype=bool)[1])
    X = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 3)))
    mixed = fl.mixing(topology("ring", 6).at(0), cut, 3, 3, lambda left: mixer(left, X), lambda count: None)(X)
    np.testing.assert_allclose(mixed.numpy(), W @ X.numpy(), atol=1e-14)


def test_an_honest_client_that_is_unlike_the_others_is_heard():
    X = torch.ones(6, 3, dtype=torch.float64)
    X[4] = 5e4                                                          # second moments differ by squares
    assert fl.acceptable(X, X).all()
    X[:4], X[5] = 0.0, 0.0                                              # most have not begun
    assert fl.acceptable(X, X).all()
    X[4] = float("inf")
    assert fl.acceptable(X, X).tolist() == [True] * 4 + [False, True]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e12])
def test_a_client_that_broke_by_itself_infects_nobody(value):
    X = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 3)))
    X[4] = value
    counted = []
    mixed = fl.mixing(topology("ring", 6).at(0), told(drop=1e-9), 3, 3, lambda left: mixer(left, X), counted.append)(X)
    assert counted == [2]
    assert torch.isfinite(mixed[[0, 1, 2, 3, 5]]).all()
    assert mixed[[0, 1, 2, 3, 5]].abs().max() < 10
    assert mixed[4].equal(X[4]) or value != value


@pytest.mark.parametrize("knobs", [{"drop": 0.3}, {"drop": 0.3, "burst": 4.0}, {"away": "2@0.3-0.6, 5@0.5"}, {"garbage": "1@0"},
                                   {"method": "deca-mixed", "drop": 0.3}, {"drop": 0.3, "mix_every": 2, "blocks": "whole"},
                                   {"method": "dec-lora", "drop": 0.2, "away": "0@0.5"}])
def test_bytes_are_as_predicted_and_a_stopped_run_goes_on_to_the_same_bits(knobs, tmp_path):
    config = replace(CONFIG, **knobs)
    whole_run = runs.run(config, tmp_path / "whole")
    assert (whole_run.edges["measured"] == whole_run.edges["predicted"]).all()
    with pytest.raises(Stopped):
        runs.run(config, tmp_path / "cut", lambda done, total, known: done == 5)
    again = runs.resume(tmp_path / "cut")
    assert again.metrics.equals(whole_run.metrics)
    assert again.summary == whole_run.summary
    said = whole_run.summary["faults"]
    assert 0 < said["rho_of_what_remained"] <= 1
    assert (said["refused"] > 0) == ("garbage" in knobs)
    assert (said["lost"] > 0) == ("drop" in knobs)


def test_the_mean_model_is_that_of_those_who_are_there():
    found = runs.run(replace(CONFIG, away="3@0.5"))
    last = found.clients[found.clients["step"] == found.clients["step"].max()]
    assert last["client"].tolist() == [0, 1, 2, 4, 5]
    assert found.summary["faults"]["absent_at_the_end"] == 1
    assert found.metrics.iloc[-1]["client_test_loss"] == pytest.approx(last["test_loss"].mean())


def test_without_faults_nothing_is_said_and_nothing_changes():
    assert runs.run(CONFIG).summary["faults"] == {}
    assert not prepare(CONFIG).plan.recipe.faults.any


@pytest.mark.parametrize(("knobs", "words"), [
    ({"drop": 1.0}, "drop = 1.0"),
    ({"drop": 0.8, "burst": 2.0}, "burst = 2.0"),
    ({"burst": 0.5}, "burst = 0.5"),
    ({"away": "7@0.5"}, "client from 0 to 5"),
    ({"away": "1@0.9-0.2"}, "FROM < UNTIL"),
    ({"away": "one@0"}, "CLIENT@FROM"),
    ({"garbage": "1@half"}, "garbage = '1@half'"),
    ({"away": ", ".join(f"{i}@0.5" for i in range(6))}, "somebody is left"),
    ({"drop": 0.1, "topology": "server"}, "without a server"),
])
def test_bad_input(knobs, words):
    with pytest.raises(BadInput, match=words):
        prepare(replace(CONFIG, **knobs))


def test_a_matrix_that_is_not_symmetric_cannot_bear_faults():
    one_way = topology(np.roll(np.eye(6), 1, 1) / 2 + np.eye(6) / 2)
    with pytest.raises(BadInput, match="symmetric W"):
        fl.faults(0.1, 1.0, "", "", one_way, STEPS, STEPS, 0)
    assert not fl.faults(0.0, 1.0, "", "", one_way, STEPS, STEPS, 0).any
