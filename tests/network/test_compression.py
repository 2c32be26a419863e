"""Compressed messages: what is left of them, the loop they come from, their bytes, the mean they keep, and where they lead."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import cases
from command import SMALL
from reference import LONG_ROUNDING, ROUNDING

from deca_lab.algorithm import channel as ch
from deca_lab.algorithm import optimisers
from deca_lab.algorithm.blocks import whole
from deca_lab.algorithm.loop import Recipe, plan, train
from deca_lab.algorithm.problems import quadratics
from deca_lab.algorithm.stacking import layout
from deca_lab.errors import BadInput, Stopped
from deca_lab.lab import ledger, runs
from deca_lab.lab.forecast import forecast_of
from deca_lab.lab.prepare import groundwork, prepare
from deca_lab.mixing.topology import topology
from deca_lab.network import compression as ms
from deca_lab.network import faults as fl
from deca_lab.network.lossy_mixing import lossy
from deca_lab.runconfig import RunConfig

CONFIG = RunConfig(**{**SMALL, "clients": 5, "rounds": 2})


def row(width=1000, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(width))


def made(name, share=0.1, bits=4, gamma=1.0):
    return ms.compressor(name, share, bits, gamma)


def read(how, z, rng):
    """Return what the receiver makes of a row, and see that the message is as long as it should be."""
    twin = copy.deepcopy(rng)
    message = how.pack(z, rng)
    assert message.dtype == torch.uint8
    assert len(message) == how.size(len(z), z.element_size())
    return how.unpack(message, z, twin)


def test_top_k_keeps_the_largest():
    z = row()
    left = read(made("top-k"), z, np.random.default_rng(0)).numpy()
    at = np.argsort(-np.abs(z.numpy()))[:100]
    wanted = np.zeros(1000)
    wanted[at] = z.numpy()[at]
    np.testing.assert_array_equal(left, wanted)
    assert made("top-k").size(1000, 4) == 100 * 8


def test_random_k_keeps_others_each_time_and_its_share_on_average():
    z, rng = row(50), np.random.default_rng(0)
    left = np.stack([read(made("random-k"), z, rng).numpy() for _ in range(4000)])
    assert ((left != 0).sum(1) == 5).all()
    assert set(np.unique(left)) <= {0.0, *z.tolist()}
    np.testing.assert_allclose((left != 0).mean(0), 0.1, atol=0.02)
    assert made("random-k").size(1000, 4) == 400


@cases("bits", [2, 4, 8, 16])
def test_quantised_rounds_to_the_nearest_of_its_levels(bits):
    z, levels = row(), 2 ** (bits - 1) - 1
    left = read(made("quantised", bits=bits), z, np.random.default_rng(0)).numpy()
    step = np.abs(z.numpy()).max() / levels
    assert len(np.unique(np.rint(left / step))) <= 2 * levels + 1
    assert (
        np.abs(left - z.numpy()).max() <= step / 2 + 2e-7 * np.abs(z.numpy()).max()
    )  # twice the eps of float32
    assert made("quantised", bits=bits).size(1001, 4) == -(-1001 * bits // 8) + 4
    assert read(made("quantised"), torch.zeros(7), np.random.default_rng(0)).equal(torch.zeros(7))


@pytest.mark.parametrize("name", ms.COMPRESSORS)
@cases("seed", range(10))
def test_what_is_left_out_is_shorter_than_the_row(name, seed):
    z, rng = row(200, seed), np.random.default_rng(seed)
    short = made(name, bits=2)
    errors = [
        float((read(short, z, rng) - z).square().sum() / z.square().sum()) for _ in range(200)
    ]
    assert max(errors) < 1
    if name != "quantised":
        assert np.mean(errors) <= (1 - 0.1) * (
            1 + 0.01
        )  # top-k: always; random-k: in the mean, and then equal


def states(short, lr=0.05, rounds=2, **knobs):
    rng = np.random.default_rng(0)
    A, b, start = (
        torch.from_numpy(rng.uniform(0.5, 2, (6, 20)) if k == 0 else rng.standard_normal((6, 20)))
        for k in range(3)
    )
    problem = quadratics(torch.diag_embed(A), b, start)
    laid = plan(
        problem,
        whole(["x"]),
        topology("ring", 6),
        Recipe(rounds, 20, lambda s: lr, optimisers.sgd(), **knobs),
        *([] if short is None else [ms.compressed(short, 0)]),
    )
    return problem, laid, [state for state, _ in train(laid)]


@pytest.mark.parametrize("name", ms.COMPRESSORS)
def test_the_run_is_a_plain_loop_and_every_mixing_keeps_the_mean(name):
    short = made(name, share=0.3, gamma=0.7)
    problem, laid, found = states(short)
    A, b = (part.numpy() for part in problem.batches(0))
    X, W, replica = problem.start["x"].numpy(), topology("ring", 6).at(0), None
    for turn, state in enumerate(found):
        plus = X - 0.05 * (np.einsum("nij,nj->ni", A, X) - b)
        if laid.first(turn):
            replica = plus.copy()
        else:
            for i in range(6):
                away = torch.from_numpy(plus[i] - replica[i])
                replica[i] += read(short, away, np.random.default_rng([0, turn, 0, i])).numpy()
        X = plus.copy()
        for i in range(6):
            for j in range(6):
                X[i] += 0.7 * W[i, j] * (replica[j] - replica[i])
        np.testing.assert_allclose(state.blocks[0].numpy(), X, atol=1e-12)
        np.testing.assert_allclose(X.mean(0), plus.mean(0), atol=ROUNDING)


@pytest.mark.parametrize("graph", ["ring", "random-matchings"])
@pytest.mark.parametrize("name", ms.COMPRESSORS)
def test_under_losses_each_edge_has_a_replica_of_its_own_that_is_brought_up_to_date(name, graph):
    """A plain loop in which every receiver keeps its own replica of each other client, from the messages that reached it."""
    n, width, turns, gamma, short = 4, 20, 40, 0.6, made(name, share=0.3, gamma=0.6)
    faults = fl.require_possible(
        fl.Faults(drop=0.4, away=(fl.Spell(1, 0, 6), fl.Spell(2, 25, 31)), clients=n, turns=turns),
        topology("ring", n),
        turns,
    )
    problem = quadratics(
        torch.eye(width).double().repeat(n, 1, 1),
        *torch.from_numpy(np.random.default_rng(0).standard_normal((2, n, width))),
    )
    laid = plan(
        problem,
        whole(["x"]),
        topology(graph, n),
        Recipe(2, 20, lambda s: 0.05, optimisers.sgd()),
        lossy(faults, 1),
        ms.compressed(short, 0),
    )
    _, b = (part.numpy() for part in problem.batches(0))
    X, total = problem.start["x"].numpy().copy(), np.zeros((n, n), int)
    for turn, (state, _) in enumerate(train(laid)):
        there, W = faults.present(turn), topology(graph, n).at(turn)
        plus = np.where(there[:, None], X - 0.05 * (X - b), X)
        if turn % 20 == 0:  # a visit: nobody knows anything of anybody
            own = plus.copy()
            heard = {(i, j): None for i in range(n) for j in range(n) if i != j}
            waiting = {edge: [width * 8] for edge in heard}
        else:
            for j in np.flatnonzero(there):
                own[j] += read(
                    short,
                    torch.from_numpy(plus[j] - own[j]),
                    np.random.default_rng([0, turn, 0, j]),
                ).numpy()
                for i in set(range(n)) - {j}:
                    waiting[i, j].append(short.size(width, 8))
        X = plus.copy()
        for i, j in heard:
            if W[i, j] and there[i] and there[j]:
                total[i, j] += min(sum(waiting[i, j]), width * 8)
                if not faults.lost(turn, np.array([[i, j]]))[0]:
                    heard[i, j], waiting[i, j] = own[j].copy(), []
                    X[i] += gamma * W[i, j] * (heard[i, j] - own[i])
        np.testing.assert_allclose(state.blocks[0].numpy(), X, atol=1e-12)
        np.testing.assert_allclose(X.mean(0), plus.mean(0), atol=1e-14)
        np.testing.assert_array_equal(state.sent, total[tuple(laid.channel.links.T)])
    np.testing.assert_array_equal(ledger.traffic(laid), total[tuple(laid.channel.links.T)])
    assert total.sum() == state.sent.sum()


def test_whole_messages_in_disguise_are_plain_gossip():
    plain = states(None)[2]
    np.testing.assert_allclose(
        states(made("top-k", share=1.0))[2][-1].blocks[0], plain[-1].blocks[0], atol=LONG_ROUNDING
    )
    np.testing.assert_allclose(
        states(made("quantised", bits=16))[2][-1].blocks[0], plain[-1].blocks[0], atol=1e-3
    )


@pytest.mark.parametrize(("name", "gamma"), [("top-k", 0.3), ("random-k", 0.1), ("quantised", 1.0)])
def test_what_was_left_out_comes_later_so_that_clients_agree_on_their_mean(name, gamma):
    X, W = (
        torch.from_numpy(np.random.default_rng(1).standard_normal((6, 40))),
        topology("ring", 6).at(0),
    )
    channel = ms.compressed(made(name, gamma=gamma), 0)(
        ch.plain(topology("ring", 6), (layout({"x": X}, ["x"]),), X[:0, :0])
    )
    mean, apart, wire = X.mean(0), [], ch.silence(len(channel.links))
    for turn in range(400):
        X = channel.exchange(ch.Call(turn, turn, 0, 0, turn == 0), X, wire, None)
        apart.append(float((X - mean).norm()))
    assert apart[-1] < 1e-3 * apart[0]
    naive = X.new_tensor(np.random.default_rng(1).standard_normal((6, 40)))
    for turn in range(400):  # short messages without replicas never agree
        said = torch.stack(
            [read(made(name), one, np.random.default_rng([turn, i])) for i, one in enumerate(naive)]
        )
        naive = naive + gamma * (torch.from_numpy(W) @ said - said)
    assert name == "quantised" or float((naive - naive.mean(0)).norm()) > 10 * apart[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "knobs",
    [
        {"compress": "top-k"},
        {"compress": "random-k", "gamma": 0.2},
        {"compress": "quantised", "bits": 4, "dtype": "bfloat16", "context": 16, "batch": 1},
        {"compress": "top-k", "method": "gradient-tracking", "keep_share": 0.25},
        {"compress": "quantised", "method": "dec-lora", "inner_steps": 4},
        {"compress": "random-k", "method": "dec-lora", "inner_steps": 6, "mix_every": 2},
        {"compress": "top-k", "topology": "one-peer-exponential", "clients": 4},
        {"compress": "top-k", "drop": 0.3, "away": "1@0.2-0.7", "mixed": "all"},
        {
            "compress": "quantised",
            "stale": 0.4,
            "delay": 2,
            "garbage": "1@0-0.5",
            "method": "deca-mixed",
        },
    ],
)
def test_bytes_and_memory_are_as_predicted_and_a_stopped_run_goes_on_to_the_same_bits(
    knobs, tmp_path
):
    config = replace(CONFIG, eval_every=12, **knobs)
    whole_run = runs.run(config, tmp_path / "whole")
    assert (whole_run.edges["measured"] == whole_run.edges["predicted"]).all()
    plain = forecast_of(groundwork(replace(config, compress="none", gamma=1.0)))
    assert whole_run.summary["bytes_sent"] < plain.sent
    memory = whole_run.summary["memory"]
    if not {"stale", "away"} & set(knobs):  # which need memory of their own
        assert memory["measured_peak"] == pytest.approx(memory["peak"], rel=0.05)
    with pytest.raises(Stopped):
        runs.run(config, tmp_path / "cut", lambda done, total, known: done == 5)
    again = runs.resume(tmp_path / "cut")
    assert again.metrics.equals(whole_run.metrics)
    assert again.summary == whole_run.summary


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"compress": "zip"}, "compress 'zip'"),
        ({"compress": "top-k", "keep_share": 0.0}, "keep_share = 0.0"),
        ({"compress": "quantised", "bits": 1}, "bits = 1"),
        ({"gamma": 0.5}, "gamma = 0.5"),
        ({"compress": "top-k", "noise": 0.1}, "a replica adds up what it hears"),
        ({"compress": "top-k", "method": "decaf"}, "none with --mixing decaf"),
        ({"compress": "top-k", "method": "fedavg"}, "none with a server"),
    ],
)
def test_bad_input(knobs, words):
    with pytest.raises(BadInput, match=words):
        prepare(replace(CONFIG, **knobs))


def test_without_faults_and_compression_a_plan_has_neither():
    lab = prepare(CONFIG)
    assert lab.plan.channel.copies == 0
    assert lab.plan.channel.failed(0) is None
    assert lab.failing == fl.Faults(clients=5, turns=lab.plan.steps)
