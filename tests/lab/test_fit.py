"""`fit` on so many clients that W is held by its edges: the run of a plain loop with the dense W, faults and all."""

import hashlib
from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
import torch
from reference import LONG_ROUNDING
from scipy.sparse import csr_array, issparse

from deca_lab import BadInput, Problem, RunConfig, fit, load
from deca_lab.errors import Stopped
from deca_lab.lab.fingerprints import FINGERPRINTS
from deca_lab.mixing.doctor import diagnose
from deca_lab.mixing.matrix import by_edges
from deca_lab.mixing.topology import Topology, topology
from deca_lab.network import faults as fl
from deca_lab.pictures.of_topology import draw_topology
from deca_lab.pictures.report import write

N, STEPS = 300, 6
CONFIG = RunConfig(
    clients=N, rounds=1, inner_steps=STEPS, lr=0.1, device="cpu", method="d-sgd", eval_every=STEPS
)
RNG = np.random.default_rng(0)
A, B = RNG.uniform(0.5, 2, (N, 3)), RNG.standard_normal((N, 3))
DATA = torch.from_numpy(A), torch.from_numpy(B)


def loss(params, rows):
    return (rows[0] * params["x"].square() / 2 - rows[1] * params["x"]).sum()


PROBLEM = Problem({"x": torch.zeros(N, 3).double()}, loss, lambda step: DATA)


def dense(W):
    return W.toarray() if issparse(W) else W


def plain(W_at):
    """D-SGD by NumPy alone, with a dense W a mixing."""
    X = np.zeros((N, 3))
    for step in range(STEPS):
        X = W_at(step) @ (X - 0.1 * (A * X - B))
    return X


def last_of(config, **parts):
    """The history of a run, and its clients' last models."""
    ends = []
    watch = [lambda seen: ends.append(seen.params["x"].clone().numpy())]
    history = fit(PROBLEM, config, callbacks=watch, **parts)
    return history, ends[-1]


@pytest.mark.parametrize("name", ["ring", "exponential", "one-peer-exponential"])
def test_a_run_of_many_clients_is_a_plain_loop_with_the_dense_w(name, tmp_path):
    history, X = last_of(replace(CONFIG, topology=name), out=tmp_path / "run")
    turns = topology(name, N)
    want = plain(lambda step: dense(turns.at(step)))
    np.testing.assert_allclose(X, want, atol=LONG_ROUNDING)
    sent = sum(len(np.argwhere(dense(turns.at(k)) - np.diag(dense(turns.at(k)).diagonal()))) for k in range(STEPS))  # fmt: skip
    assert history.summary["bytes_sent"] == history.summary["bytes_predicted"] == sent * 3 * 8
    assert history.edges["measured"].sum() == sent * 3 * 8
    again = load(tmp_path / "run")
    assert len(again.W) == len(history.W) == turns.period
    for read, W, drawn in zip(again.W, history.W, turns.matrices, strict=True):
        np.testing.assert_array_equal(dense(read), dense(drawn))
        np.testing.assert_array_equal(dense(W), dense(drawn))
        assert issparse(read)
    assert again.summary == history.summary


def test_a_sparse_matrix_of_the_users_is_the_graph_that_it_came_from():
    graph = nx.random_regular_graph(3, N, seed=2)
    W = topology(graph).at(0)
    by_graph, X = last_of(CONFIG, topology=graph)
    for given in (W, W.tocsc(), W.tocoo(), W.toarray(), [W, W.toarray()], Topology("own", (W,))):
        history, Y = last_of(CONFIG, topology=given)
        np.testing.assert_array_equal(X, Y)
        assert history.summary["rho"] == pytest.approx(by_graph.summary["rho"], rel=1e-12)
    with pytest.raises(BadInput, match=r"clients = 300 .* 299, the size of matrix"):
        fit(PROBLEM, CONFIG, topology=csr_array(np.eye(299)))
    with pytest.raises(BadInput, match=r"is unsound: row sums reach 2"):
        fit(PROBLEM, CONFIG, topology=2 * W)


@pytest.mark.parametrize("burst", [1.0, 3.0])
def test_faults_of_a_large_ring_are_those_of_the_dense_one(burst):
    config = replace(CONFIG, drop=0.3, burst=burst, stale=0.4, delay=2, away="7@0.5", seed=5)
    history, X = last_of(config)
    W, upper = dense(topology("ring", N).at(0)), np.triu_indices(N, 1)
    bad, Y, said, counts = None, np.zeros((N, 3)), [], {"lost": 0, "late": 0}
    heal, fail = 1 / burst, 0.3 / burst / 0.7
    for turn in range(STEPS):
        coin = np.random.default_rng([5, turn, 0xFA17]).random(len(upper[0]))
        stay = np.where(bad, coin >= heal, coin < fail) if turn else coin < 0.3
        bad = stay if burst > 1 else coin < 0.3
        lost, age = np.zeros((N, N), bool), np.zeros((N, N), int)
        lost[upper], late = bad, ~np.eye(N, dtype=bool)
        for past in (turn, max(turn - 1, 0)):
            late &= np.random.default_rng([5, past, 0x1A7E]).random((N, N)) < 0.4
            age += late
        there = np.arange(N) != (7 if turn >= STEPS // 2 else N)
        out, real = lost | lost.T, (W != 0) & there & there[:, None] & ~np.eye(N, dtype=bool)
        plus = np.where(there[:, None], Y - 0.1 * (A * Y - B), Y)
        said, Y = [plus, *said], plus.copy()
        for i, j in np.argwhere(real & ~out):
            Y[i] += W[i, j] * (said[min(age[i, j], len(said) - 1)][j] - plus[i])
        counts["lost"] += (real & out).sum() // 2
        counts["late"] += (real & ~out & (age > 0)).sum() if turn else 0
    np.testing.assert_allclose(X, Y, atol=LONG_ROUNDING)
    assert {name: history.summary["faults"][name] for name in counts} == counts
    assert history.summary["faults"]["unsound"] == 0


def test_numbers_of_a_stream_are_the_same_whichever_others_are_drawn():
    every = np.random.default_rng([3, 1]).random(10_000)
    for places in ([0], [9_999], [5, 6, 9_000], range(10_000), [], range(0, 10_000, 65)):
        where = np.array(places, np.int64)
        np.testing.assert_array_equal(fl.drawn([3, 1], where), every[where])


def test_above_a_thousand_clients_the_product_of_all_mixings_is_not_formed(monkeypatch):
    config = replace(CONFIG, drop=0.3)
    assert 0 < fit(PROBLEM, config).summary["faults"]["rho_of_what_remained"] <= 1
    monkeypatch.setattr(fl, "PRODUCT", N - 1)
    history = fit(PROBLEM, config)
    assert history.summary["faults"]["rho_of_what_remained"] is None


def test_a_run_of_many_clients_goes_on_to_the_bit(tmp_path):
    W = topology("random-regular", N, degree=3).at(0)
    config, knobs = replace(CONFIG, method="deca", drop=0.2), {"topology": W}
    whole = fit(PROBLEM, config, tmp_path / "whole", **knobs)
    with pytest.raises(Stopped):
        fit(PROBLEM, config, tmp_path / "cut", lambda done, *_: done == 3, **knobs)
    for other in (topology("ring", N).at(0), 0.5 * W + 0.5 * by_edges(np.eye(N))):
        with pytest.raises(BadInput, match="topology"):
            fit(PROBLEM, out=tmp_path / "cut", resume=True, topology=other)
    again = fit(PROBLEM, out=tmp_path / "cut", resume=True, **knobs)
    assert again.metrics.equals(whole.metrics)
    assert again.summary == whole.summary
    texts = [(tmp_path / name / "topology.csv").read_bytes() for name in ("cut", "whole")]
    assert texts[0] == texts[1]
    assert f"mixing matrix of {N} clients" in write(load(tmp_path / "cut"), tmp_path).read_text()


def test_the_fingerprint_of_a_dense_w_is_that_of_its_bytes():
    for given in (topology("ring", 8), topology("one-peer-exponential", 8)):
        want = hashlib.sha256(
            b"".join(repr(W.shape).encode() + W.tobytes() for W in given.matrices)
        )
        assert FINGERPRINTS["topology"](given) == want.hexdigest()
    ring = topology("ring", N)
    assert FINGERPRINTS["topology"](ring) == FINGERPRINTS["topology"](topology(ring.at(0).tocsc()))
    heavier = Topology("ring", (ring.at(0) * 1.5,))
    assert FINGERPRINTS["topology"](ring) != FINGERPRINTS["topology"](heavier)


def test_the_picture_of_many_clients_is_that_of_the_dense_w():
    W = topology(nx.DiGraph((0, client) for client in range(1, N))).at(0)  # all hear client 0
    for given in (W, W.toarray(), [W, W], np.stack([W.toarray()] * 2)):
        bars = draw_topology(given).axes[0].patches
        assert {round(bar.get_center()[0]): bar.get_height() for bar in bars} == {0: 1, 1: N - 1}
    small = draw_topology(by_edges(topology("ring", 8).at(0)))
    assert len(small.axes) >= 2
    assert diagnose(by_edges(topology("ring", 8).at(0))).clients == 8
