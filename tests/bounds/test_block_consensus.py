"""Consensus within a visit: random runs, the tug of war that attains it, broken hypotheses, edge sizes, a plain loop."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from cases import cases
from reference import ROUNDING

from deca_lab.algorithm import moments as mo
from deca_lab.bounds.block_consensus import (
    block_consensus,
    broken,
    disagreement,
    examples,
    others_kept,
)
from deca_lab.bounds.feedback_step import constants
from deca_lab.bounds.gossip_contraction import second_singular_value
from deca_lab.bounds.landscape import as_problem, quadratics, tug_of_war, valleys
from deca_lab.bounds.trace import Setting, trace
from deca_lab.mixing.topology import topology

RING = Setting(topology("ring", 6), 2, 2, 5, 0.05)
FEEDS = {
    "none": mo.Feedback(None, mo.raw, 1.0, 1.0),
    "printed": mo.Feedback(mo.printed, mo.raw, 0.9, 0.99),
    "over lr": mo.Feedback(mo.downhill, mo.per_lr_, 0.5, 0.9),
}


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("graph", ["ring", "path", "star", "complete"])
@cases("seed", range(3))
def test_random_runs_hold_and_are_finite(graph, seed, feed):
    setting = RING._replace(topology=topology(graph, 6), feedback=FEEDS[feed], noise=0.3, seed=seed)
    found = block_consensus([quadratics, valleys][seed % 2](6, 5, seed=seed), setting)
    assert (found.finite, found.holds()) == (True, True), found.ratios
    assert len(found.lhs) == setting.steps


@pytest.mark.parametrize("share", [0.6, 0.75, 0.95])
def test_two_clients_that_pull_apart_attain_it_at_the_first_turn(share):
    pair = Setting(
        topology(np.array([[share, 1 - share], [1 - share, share]])),
        1,
        1,
        12,
        0.02,
        mo.Adam(eps=1e-12),
    )
    found = block_consensus(tug_of_war(2, 3), pair)
    assert found.ratios[0] == pytest.approx(1, rel=1e-9)
    assert found.holds()
    assert 0.9 < found.ratios[-1] < 1  # C_s above 1 is not used by equal gradients


def test_the_right_side_by_hand():
    found = block_consensus(quadratics(6, 4), RING)
    rho, C = 2 / 3, constants(5, RING.adam, 1.0, 1.0)  # ring of six: (1 + 2 cos 60 degrees) / 3
    by_hand = [
        0.05 * (6 * 2) ** 0.5 * sum(rho ** (R - s + 1) * C[s - 1] for s in range(1, R + 1))
        for R in range(1, 6)
    ]
    np.testing.assert_allclose(found.rhs[:5], by_hand, rtol=1e-12)


def test_the_left_side_is_a_plain_loop():
    hills, W = quadratics(6, 4), RING.topology.at(0)
    problem, _ = as_problem(hills, 2)
    X = torch.cat([problem.start["x0"], problem.start["x1"]], 1).numpy()
    found, lhs = block_consensus(hills, RING), []
    for visit in range(4):
        mine = slice(2 * (visit % 2), 2 * (visit % 2) + 2)
        m = v = np.zeros((6, 2))
        for t in range(1, 6):
            g = hills.gradients(torch.from_numpy(X)).numpy()[:, mine]
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            X = X.copy()
            X[:, mine] = W @ (
                X[:, mine] - 0.05 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 0.1)
            )
            lhs.append(np.linalg.norm(X[:, mine] - X[:, mine].mean(0)))
    np.testing.assert_allclose(found.lhs, lhs, rtol=1e-9)


def test_the_blocks_that_wait_keep_their_disagreement_to_the_bit():
    found = others_kept(quadratics(6, 4), RING)
    assert found.holds(rtol=0.0)
    assert (found.lhs == found.rhs).all()


def test_broken_larger_steps_and_a_w_that_does_not_mix_what_it_should():
    assert broken().verdict == "fails at inner step 1"
    unsound = topology(np.array([[1.0, 0.0], [0.5, 0.5]]))  # rows sum to one, columns do not
    pair = Setting(unsound, 1, 1, 12, 0.02, mo.Adam(eps=1e-12))
    told = block_consensus(tug_of_war(), pair._replace(topology=topology("complete", 2)))
    assert not told._replace(lhs=block_consensus(tug_of_war(), pair).lhs).holds()


def test_what_w_and_float64_round_is_counted_and_no_more():
    """Sums of W off 1 move clients that agree; a signed W makes what is rounded grow (rho = 1.8)."""
    lopsided = 0.25 + np.outer(np.array([1, -1, 1, -1]) * 4e-10, np.ones(4)) / 4
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(np.column_stack([np.ones(4), rng.standard_normal((4, 3))]))[0][:, 1:]
    signed = 0.25 + turn @ np.diag([1.8, -0.5, 1.2]) @ turn.T
    for W, zeta, lr, steps in ((lopsided, 1.0, 1e-3, 5), (signed, 0.0, 1e-18, 60)):
        setting = Setting(topology(W), 1, 2, steps, lr)
        found = block_consensus(quadratics(4, 4, zeta=zeta), setting)
        assert found.verdict == "holds"
        size, eps = 20.0, np.finfo(float).eps
        assert not found._replace(rounding=eps * 4 * size * steps).holds()
    ring = block_consensus(quadratics(6, 4), RING)
    assert (ring.rounding < 1e-12 * ring.rhs).all()


def test_a_second_moment_that_is_lost_is_named():
    still = quadratics(1, 2, far=0.0)  # one client, at its minimum: gradients of 0
    alone = Setting(topology("complete", 1), 1, 1, 3, 0.1)
    assert block_consensus(still, alone).verdict == "holds"
    exact = alone._replace(adam=mo.Adam(eps=0.0))
    assert block_consensus(still, exact).verdict.startswith("hypothesis broken: eps = 0")


@pytest.mark.parametrize("graph", ["ring", "star"])
def test_equal_starts_never_drift_beyond_the_bound_for_ever(graph):
    setting = RING._replace(topology=topology(graph, 6), rounds=12, noise=0.5)
    rho = second_singular_value(setting.topology.at(0))
    C = constants(5, setting.adam, 1.0, 1.0).max()
    found = block_consensus(quadratics(6, 4, zeta=5.0), setting)
    allowed = 0.05 * (6 * 2) ** 0.5 * C * rho / (1 - rho)
    assert 0.1 * allowed < found.lhs.max() < allowed


@cases(("clients", "d", "steps"), [(1, 1, 1), (1, 3, 4), (2, 1, 1), (3, 2, 1)])
def test_edge_sizes(clients, d, steps):
    found = block_consensus(
        quadratics(clients, d),
        RING._replace(topology=topology("complete", clients), blocks=1, inner_steps=steps),
    )
    assert found.holds()
    assert len(found.lhs) == 2 * steps


def test_examples_hold():
    assert all(bound.holds() for bound in examples().values())


def test_the_trace_is_the_run_itself():
    steps = trace(quadratics(6, 4), RING)
    for one, two in pairwise(steps):
        assert torch.equal(one.after, two.before)
    W = torch.from_numpy(RING.topology.at(0))
    for step in steps:
        np.testing.assert_allclose(step.direction, step.m_hat / step.below, rtol=1e-12)
        mixed = W @ (step.before[:, step.columns] - 0.05 * step.direction)
        np.testing.assert_allclose(step.after[:, step.columns], mixed, rtol=1e-12)
    assert disagreement(steps[0].before) < ROUNDING
