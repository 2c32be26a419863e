"""Faults: what remains of W is sound and keeps the mean, outages have their law, who is away stands still, garbage is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from command import SMALL
from pretend_gpu import Reads
from reference import ROUNDING

from deca_lab.algorithm import channel as ch
from deca_lab.algorithm import moments as mo
from deca_lab.algorithm import optimisers
from deca_lab.algorithm.blocks import whole
from deca_lab.algorithm.loop import Recipe, plan, train
from deca_lab.algorithm.problems import quadratics
from deca_lab.algorithm.stacking import flatten, layout
from deca_lab.errors import BadInput, Stopped
from deca_lab.lab import runs
from deca_lab.lab.prepare import prepare
from deca_lab.mixing.doctor import diagnose
from deca_lab.mixing.matrix import links_of
from deca_lab.mixing.topology import topology
from deca_lab.models.factor_mixing import decaf
from deca_lab.network import faults as fl
from deca_lab.network import lossy_mixing
from deca_lab.runconfig import RunConfig

CONFIG = RunConfig(**{**SMALL, "clients": 6, "rounds": 2})
STEPS = 60


def faults_of(away="", garbage="", stragglers="", clients=6, turns=STEPS, graph="ring", **knobs):
    made = fl.Faults(
        away=fl.spells(away, "away", clients, STEPS),
        garbage=fl.spells(garbage, "garbage", clients, STEPS),
        stragglers=fl.stragglers(stragglers, clients),
        clients=clients,
        turns=turns,
        **knobs,
    )
    return fl.require_possible(made, topology(graph, clients), STEPS)


def links(clients):
    """All (i, j) of i unlike j, in order."""
    return np.argwhere(~np.eye(clients, dtype=bool))


def square(values, clients):
    """Values along all links as a matrix, with nothing on its diagonal."""
    table = np.zeros((clients,) * 2, values.dtype)
    table[tuple(links(clients).T)] = values
    return table


def lost_at(faults, turn):
    return square(faults.lost(turn, links(faults.clients)), faults.clients)


def ages_at(faults, turn):
    return square(faults.ages(turn, links(faults.clients)), faults.clients)


def remaining(W, failed):
    """What remains of W where the exchanges (N, N) fail."""
    return fl.remaining(W, failed[tuple(links_of(W).T)])


def mixed(faults, step, X, wire):
    """One mixing of a ring under faults, after an inner step; `wire` remembers."""
    inner = ch.plain(topology("ring", 6), (layout({"x": X}, ["x"]),), X[:0, :0])
    return lossy_mixing.mixed_under(inner, faults, ch.Call(step, step, 0, 0, False), X, wire)


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
    np.testing.assert_allclose(remaining(W, failed), left, atol=ROUNDING)
    found = diagnose(remaining(W, failed))
    assert found.nonnegative
    assert found.symmetric
    assert max(found.row_error, found.column_error) < 1e-12


def test_independent_losses_have_their_share_and_are_the_same_again():
    one = faults_of(drop=0.3, clients=20, turns=400, graph="complete")
    lost = np.stack([lost_at(one, turn) for turn in range(400)])
    pairs = lost[:, *np.triu_indices(20, 1)]
    assert pairs.mean() == pytest.approx(0.3, abs=0.01)
    assert np.corrcoef(pairs[:-1].ravel(), pairs[1:].ravel())[0, 1] == pytest.approx(0, abs=0.02)
    assert not np.diagonal(lost, axis1=1, axis2=2).any()
    np.testing.assert_array_equal(lost, lost.swapaxes(1, 2))
    np.testing.assert_array_equal(
        lost[7], lost_at(faults_of(drop=0.3, clients=20, turns=400, graph="complete"), 7)
    )
    assert (
        lost[7] != lost_at(faults_of(drop=0.3, clients=20, turns=400, seed=1, graph="complete"), 7)
    ).any()


@pytest.mark.parametrize(("drop", "burst"), [(0.1, 4.0), (0.3, 10.0), (0.6, 2.0)])
def test_bursts_have_their_share_and_their_mean_length(drop, burst):
    one = faults_of(drop=drop, burst=burst, clients=24, turns=2000, graph="complete")
    lost = np.stack([lost_at(one, turn) for turn in range(2000)])[:, *np.triu_indices(24, 1)]
    assert lost.mean() == pytest.approx(drop, rel=0.05)
    begins = (lost[1:] & ~lost[:-1]).sum()
    assert lost[1:].sum() / begins == pytest.approx(burst, rel=0.07)


def problem(clients=6, d=4, seed=0):
    rng = np.random.default_rng(seed)
    A = torch.from_numpy(np.stack([np.diag(rng.uniform(0.5, 2, d)) for _ in range(clients)]))
    return quadratics(
        A,
        torch.from_numpy(rng.standard_normal((clients, d))),
        torch.from_numpy(rng.standard_normal((clients, d))),
    )


def states(faults, optimiser=None, **knobs):
    recipe = Recipe(3, 20, lambda s: 0.05, optimiser or optimisers.sgd(), **knobs)
    made = problem()
    laid = plan(
        made,
        whole(["x"]),
        topology("ring", 6),
        recipe,
        lossy_mixing.lossy(faults, recipe.mix_every),
    )
    return made, laid, [state for state, _ in train(laid)]


def test_under_losses_the_run_is_a_plain_loop_and_every_mixing_keeps_the_mean():
    one = faults_of(drop=0.4, burst=3.0)
    made, _, found = states(one)
    A, b = (part.numpy() for part in made.batches(0))
    X, W = made.start["x"].numpy(), topology("ring", 6).at(0)
    for turn, state in enumerate(found):
        plus = X - 0.05 * (np.einsum("nij,nj->ni", A, X) - b)
        lost, X = lost_at(one, turn), plus.copy()
        for i in range(6):
            for j in range(6):
                if i != j and not lost[i, j]:
                    X[i] += W[i, j] * (plus[j] - plus[i])
        np.testing.assert_allclose(state.blocks[0].numpy(), X, atol=1e-12)
        np.testing.assert_allclose(X.mean(0), plus.mean(0), atol=ROUNDING)


@pytest.mark.parametrize("name", ["sgd", "adam", "adam-mixed", "gradient-tracking"])
def test_who_is_away_stands_still_and_others_do_not_hear_it(name):
    spec = optimisers.OptimiserSpec(mo.Adam(), mo.Feedback(mo.printed, mo.raw, 0.9, 0.9))
    _, laid, found = states(
        faults_of(away="2@0.25-0.75"), optimisers.OPTIMISERS[name](spec), keep_moments=True
    )
    X = np.stack([state.blocks[0].numpy() for state in found])
    away = slice(14, 45)  # states after inner steps 14 .. 44, of steps 15 .. 44
    assert (X[away, 2] == X[14, 2]).all()
    assert (X[46, 2] != X[44, 2]).any()
    assert (np.diff(X[away, 1], axis=0) != 0).any()
    held = [optimisers.tensors(next(iter(state.moments.values()))) for state in found[away]]
    for first, last in zip(held[0], held[-1], strict=True):
        assert (last[2] == first[2]).all()
    sent, of_2 = [state.sent for state in found], (laid.channel.links == 2).any(1)
    assert (sent[44] - sent[14])[of_2].sum() == 0
    assert (sent[14][of_2] > 0).all()
    assert laid.channel.messages(0).sum() == 12
    assert laid.channel.messages(20).sum() == 8


def test_garbage_is_refused_and_counted_and_harms_nobody():
    _, _, clean = states(faults_of())
    _, _, found = states(faults_of(garbage="1@0-0.5"))
    assert found[-1].wire.tallies.get("refused", 0) == 30 * 2  # 30 mixings, two receivers
    assert all(np.isfinite(state.blocks[0].numpy()).all() for state in found)
    assert np.abs(found[-1].blocks[0].numpy()).max() < 10
    assert clean[-1].wire.tallies.get("refused", 0) == 0
    cut = faults_of(away="", garbage="1@0-0.5")
    W = remaining(
        topology("ring", 6).at(0), np.eye(6, dtype=bool)[1][:, None] | np.eye(6, dtype=bool)[1]
    )
    X = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 3)))
    got = mixed(cut, 3, X, ch.silence(6))
    np.testing.assert_allclose(got.numpy(), W @ X.numpy(), atol=ROUNDING)


def test_a_late_message_from_before_a_refusal_is_no_row_of_zeros():
    one, X = faults_of(garbage="1@0-0.1", stale=1.0), torch.full((6, 3), 5.0, dtype=torch.float64)
    beside = ch.silence(6)
    for step in (4, 5, 6, 7):  # client 1 is itself again from step 6 on
        got = mixed(one, step, X, beside)
        np.testing.assert_allclose(got, X)
    assert beside.tallies.get("refused", 0) == 2 * 2


def test_an_honest_client_that_is_unlike_the_others_is_heard():
    X = torch.ones(6, 3, dtype=torch.float64)
    X[4] = 5e4  # second moments differ by squares
    assert lossy_mixing.acceptable(lossy_mixing.sizes(X), lossy_mixing.sizes(X)).all()
    X[:4], X[5] = 0.0, 0.0  # most have not begun
    assert lossy_mixing.acceptable(lossy_mixing.sizes(X), lossy_mixing.sizes(X)).all()
    X[4] = float("inf")
    assert lossy_mixing.acceptable(lossy_mixing.sizes(X), lossy_mixing.sizes(X)).tolist() == [
        True
    ] * 4 + [False, True]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e12])
def test_a_client_that_broke_by_itself_infects_nobody(value):
    X = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 3)))
    X[4] = value
    beside = ch.silence(6)
    got = mixed(faults_of(drop=1e-9), 3, X, beside)
    assert beside.tallies.get("refused", 0) == 2
    assert torch.isfinite(got[[0, 1, 2, 3, 5]]).all()
    assert got[[0, 1, 2, 3, 5]].abs().max() < 10
    assert got[4].equal(X[4]) or value != value


def test_late_messages_have_their_share_and_are_the_newest_there_is():
    one = faults_of(stale=0.4, delay=3, clients=16, turns=300)
    ages = np.stack([ages_at(one, turn) for turn in range(10, 300)])
    apart = ages[:, ~np.eye(16, dtype=bool)]
    assert (apart > 0).mean() == pytest.approx(0.4, abs=0.01)
    assert (apart > 1).mean() == pytest.approx(0.16, abs=0.01)
    assert apart.max() == 3
    assert (np.diff(apart, axis=0) <= 1).all()  # nobody forgets what it has heard
    assert (ages[:, np.eye(16, dtype=bool)] == 0).all()
    assert (ages_at(faults_of(stale=1.0, delay=2), 9)[0, 1:] == 2).all()


@pytest.mark.parametrize(("delay", "drop"), [(1, 0.0), (3, 0.3)])
def test_under_late_messages_the_run_is_a_plain_loop(delay, drop):
    one = faults_of(stale=0.5, delay=delay, drop=drop)
    made, laid, found = states(one)
    A, b = (part.numpy() for part in made.batches(0))
    X, W, told_so_far, moved = made.start["x"].numpy(), topology("ring", 6).at(0), [], 0.0
    for turn, state in enumerate(found):
        plus = X - 0.05 * (np.einsum("nij,nj->ni", A, X) - b)
        told_so_far = [plus] if laid.first(turn) else [plus, *told_so_far]
        lost, ages, X = lost_at(one, turn), ages_at(one, turn), plus.copy()
        for i in range(6):
            for j in range(6):
                if i != j and not lost[i, j]:
                    X[i] += W[i, j] * (
                        told_so_far[min(ages[i, j], len(told_so_far) - 1)][j] - plus[i]
                    )
        moved += np.linalg.norm(X.mean(0) - plus.mean(0))
        np.testing.assert_allclose(state.blocks[0].numpy(), X, atol=1e-12)
    assert found[-1].wire.tallies["mean_moved"] == pytest.approx(moved, rel=1e-9)
    assert moved > 1e-3
    late = [
        (ages_at(one, turn) > 0) & ~lost_at(one, turn) & (W != 0)
        for turn in range(STEPS)
        if turn % 20
    ]
    assert fl.fault_summary(one, topology("ring", 6), STEPS, 20)["late"] == np.sum(late)


@pytest.mark.parametrize("delay", [1, 2])
def test_late_factors_are_multiplied_as_they_were_said_together(delay):
    """A plain loop with dense products: what i mixes of j is the product of both factors of one message."""
    n, shapes = 6, {"p.lora_A": (2, 4), "p.lora_B": (5, 2)}
    faults = faults_of(stale=0.5, delay=delay, seed=3)
    rng = np.random.default_rng(0)
    start = {name: torch.from_numpy(rng.standard_normal((n, *s))) for name, s in shapes.items()}
    where, W = layout(start, list(start)), topology("ring", n).at(0)
    channel = lossy_mixing.lossy(faults, 1)(
        ch.plain(topology("ring", n), (where,), torch.zeros(0).double(), decaf)
    )
    wire, said, X = ch.silence(len(channel.links)), [], flatten(start, where.names)
    for turn in range(8):
        said = [X.numpy().copy(), *said][: delay + 1]
        ages = np.minimum(ages_at(faults, turn), len(said) - 1)
        X = channel.exchange(ch.Call(turn, turn, 0, 0, turn == 0), X.clone(), wire, None)
        for i in range(n):
            mean = sum(W[i, j] * product(said[ages[i, j]][j]) for j in range(n))
            u, values, vh = np.linalg.svd(mean)
            np.testing.assert_allclose(
                product(X[i].numpy()), u[:, :2] * values[:2] @ vh[:2], atol=1e-12
            )
        X = X + 0.1 * torch.from_numpy(rng.standard_normal(X.shape))


def product(row):
    """Return B A of a row of the factors A (2, 4) and B (5, 2)."""
    return row[8:].reshape(5, 2) @ row[:8].reshape(2, 4)


def test_noise_has_its_size_and_is_heard_by_others_alone():
    one = faults_of(noise=0.1)
    X, W = (
        torch.from_numpy(np.random.default_rng(0).standard_normal((6, 4000))) * 7,
        topology("ring", 6).at(0),
    )
    X[5] = 0.0  # says nothing but zeros, without an error
    got = [mixed(one, 3, X, ch.silence(6)) for _ in range(2)]
    assert got[0].equal(got[1])
    error = (got[0] - torch.from_numpy(W) @ X).numpy()
    assert error[2].std() == pytest.approx(
        0.1 * 7 * np.sqrt(2) / 3, rel=0.05
    )  # of two neighbours, w = 1/3
    assert error[0].std() == pytest.approx(0.1 * 7 / 3, rel=0.05)
    assert (
        abs(np.corrcoef(error[0], error[2])[0, 1] - np.sqrt(0.5)) < 0.05
    )  # both heard the same words of client 1
    later = mixed(one, 4, X, ch.silence(6))
    assert not later.equal(got[0])


def test_a_straggler_takes_part_in_one_mixing_of_so_many_and_nobody_waits():
    _, laid, found = states(faults_of(stragglers="2@4", mix_every=1))
    X = np.stack([state.blocks[0].numpy() for state in found])
    takes_part = np.array([(X[t, 2] != X[t - 1, 2]).any() for t in range(1, STEPS)])
    np.testing.assert_array_equal(np.flatnonzero(takes_part) + 1, np.arange(3, STEPS, 4))
    assert laid.channel.messages(0).sum() == 8
    assert laid.channel.messages(3).sum() == 12
    assert found[-1].wire.tallies["mean_moved"] < 1e-12
    every = faults_of(stragglers="2@2", mix_every=3, turns=20)
    assert [bool(every.present(step)[2]) for step in range(12)] == [False] * 3 + [True] * 3 + [
        False
    ] * 3 + [True] * 3
    assert every.members(0).all()


def test_the_doctor_counts_what_fell_apart():
    said = fl.fault_summary(faults_of(drop=0.5, clients=8, turns=200), topology("ring", 8), 200, 20)
    alone = sum(
        (
            (
                remaining(
                    topology("ring", 8).at(0), lost_at(faults_of(drop=0.5, clients=8, turns=200), t)
                )
                != 0
            ).sum(1)
            == 1
        ).sum()
        for t in range(200)
    )
    assert said["alone"] == alone
    assert said["unsound"] == 0
    assert said["apart"] / 200 == pytest.approx(
        1 - 9 / 2**8, abs=0.03
    )  # a ring of 8 stays whole with 7 or 8 of its edges


@pytest.mark.slow
@pytest.mark.parametrize(
    "knobs",
    [
        {"drop": 0.3},
        {"drop": 0.3, "burst": 4.0},
        {"stale": 0.4, "delay": 2, "drop": 0.2},
        {"noise": 0.01},
        {"stragglers": "1@3, 2@2"},
        {"stale": 0.5, "method": "deca-mixed"},
        {"method": "gradient-tracking", "stale": 0.3, "noise": 0.01, "stragglers": "0@2"},
        {"away": "2@0.3-0.6, 5@0.5"},
        {"garbage": "1@0"},
        {"method": "deca-mixed", "drop": 0.3},
        {"drop": 0.3, "mix_every": 2, "blocks": "whole"},
        {"method": "dec-lora", "drop": 0.2, "away": "0@0.5"},
    ],
)
def test_bytes_are_as_predicted_and_a_stopped_run_goes_on_to_the_same_bits(knobs, tmp_path):
    config = replace(CONFIG, eval_every=12, **knobs)
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
    assert (said["late"] > 0) == ("stale" in knobs)
    assert (said["mean_moved"] > 1e-4) == ("stale" in knobs or "noise" in knobs)
    assert said["unsound"] == 0
    memory = whole_run.summary["memory"]
    if not {"stale", "noise", "away", "stragglers", "garbage"} & set(knobs):
        assert memory["measured_peak"] == pytest.approx(memory["peak"], rel=0.05)


def test_the_mean_model_is_that_of_those_who_are_there():
    found = runs.run(replace(CONFIG, away="3@0.5"))
    last = found.clients[found.clients["step"] == found.clients["step"].max()]
    assert last["client"].tolist() == [0, 1, 2, 4, 5]
    assert found.summary["faults"]["absent_at_the_end"] == 1
    assert found.metrics.iloc[-1]["client_test_loss"] == pytest.approx(last["test_loss"].mean())


def test_without_faults_nothing_is_said_and_nothing_changes():
    assert runs.run(CONFIG).summary["faults"] == {}
    assert not prepare(CONFIG).failing.any


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"drop": 1.0}, "drop = 1.0"),
        ({"drop": 0.8, "burst": 2.0}, "burst = 2.0"),
        ({"burst": 0.5}, "burst = 0.5"),
        ({"away": "7@0.5"}, "client from 0 to 5"),
        ({"away": "1@0.9-0.2"}, "FROM < UNTIL"),
        ({"away": "one@0"}, "CLIENT@FROM"),
        ({"garbage": "1@half"}, "garbage = '1@half'"),
        ({"away": ", ".join(f"{i}@0.5" for i in range(6))}, "somebody is left"),
        ({"drop": 0.1, "topology": "server"}, "without a server"),
        ({"stale": 1.5}, "stale = 1.5"),
        ({"delay": 0}, "delay = 0"),
        ({"noise": -1.0}, "noise = -1.0"),
        ({"stragglers": "3"}, "CLIENT@TIMES"),
        ({"stragglers": "9@2"}, "client from 0 to 5"),
        ({"stragglers": ", ".join(f"{i}@2" for i in range(6))}, "fewer than all 6 clients"),
    ],
)
def test_bad_input(knobs, words):
    with pytest.raises(BadInput, match=words):
        prepare(replace(CONFIG, **knobs))


def test_faults_of_another_plan_are_refused():
    with pytest.raises(BadInput, match="plan's clients and mix_every"):
        states(faults_of(drop=0.1, clients=5))
    with pytest.raises(BadInput, match="plan's clients and mix_every"):
        states(faults_of(drop=0.1), mix_every=2)


def test_where_nobody_is_there_nothing_happens():
    faults = faults_of(away="1@0, 2@0, 3@0, 4@0, 5@0", stragglers="0@2", drop=0.5)
    _, laid, found = states(faults)
    X = np.stack([state.blocks[0].numpy() for state in found])
    assert (X[2] == X[1]).all()
    assert (X[1] != X[0]).any()
    assert found[-1].sent.sum() == 0
    assert fl.fault_summary(faults, laid.topology, STEPS, 20)["unsound"] == 0


def test_a_matrix_that_is_not_symmetric_cannot_bear_faults():
    one_way = topology(np.roll(np.eye(6), 1, 1) / 2 + np.eye(6) / 2)
    with pytest.raises(BadInput, match="symmetric W"):
        fl.require_possible(fl.Faults(0.1, clients=6, turns=STEPS), one_way, STEPS)
    assert not fl.require_possible(fl.Faults(clients=6, turns=STEPS), one_way, STEPS).any


def test_how_far_the_mean_moved_is_one_read_of_the_device():
    wide = 3 * lossy_mixing.COLUMNS
    x, counts, site = torch.zeros(2, wide), torch.tensor([[1.0], [0.0]]), ch.Site(slice(0, 2))
    with Reads() as mode:
        moved = lossy_mixing._moved(x, x + 2, counts, site)
    assert moved == pytest.approx(2 * wide**0.5, rel=1e-12)
    assert mode.seen == ["_local_scalar_dense"]
