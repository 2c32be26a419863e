"""The theorem for DECA: every line of its proof along random runs, its right side by hand, broken hypotheses, edge sizes."""

import numpy as np
import pytest
import torch
from cases import cases

from deca_lab.algorithm import moments as mo
from deca_lab.bounds import deca_descent as dd
from deca_lab.bounds.feedback_step import constants
from deca_lab.bounds.landscape import as_problem, quadratics, valleys
from deca_lab.bounds.trace import Setting, trace
from deca_lab.errors import BadInput
from deca_lab.mixing.topology import topology

SMALL = Setting(topology("ring", 4), 2, 3, 4, 0.03)
FEEDS = {
    "none": mo.Feedback(None, mo.raw, 1.0, 1.0),
    "printed": mo.Feedback(mo.printed, mo.raw, 0.9, 0.99),
    "downhill": mo.Feedback(mo.downhill, mo.raw, 0.5, 0.9),
}
HILLS = {"quadratics": quadratics, "valleys": valleys}


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("hills", HILLS)
@cases("seed", range(3))
def test_every_line_of_the_proof_and_the_theorem_hold_along_random_runs(hills, feed, seed):
    setting = SMALL._replace(
        feedback=FEEDS[feed], topology=topology(["ring", "path", "complete"][seed], 4)
    )
    land = HILLS[hills](4, 5, seed=seed)
    for name, line in dd.lines(land, setting, trace(land, setting)).items():
        assert (name, line.finite, line.verdict) == (name, True, "holds")
    for observed in (False, True):
        found = dd.deca_descent(land, setting, observed=observed)
        assert (found.finite, found.verdict) == (True, "holds")


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_with_noise_it_holds_in_expectation(noise):
    found = dd.deca_descent(valleys(4, 5), SMALL._replace(noise=noise), seeds=8)
    assert found.holds()
    assert (found.rounding > 0).any()
    assert found.rhs[-1] > dd.deca_descent(valleys(4, 5), SMALL).rhs[-1]  # noise is not free


def test_the_measured_slack():
    """The loosest lines are 2 and 6: the clients' steps mostly agree, and the proof takes them all as disagreement."""
    land = valleys()
    slack = {
        name: float(np.median(line.ratios))
        for name, line in dd.lines(land, SETTING, trace(land, SETTING)).items()
    }
    assert 0.8 < slack["1 direction"] <= 1
    assert 0.02 < slack["2 disagreement"] < 0.1
    assert slack["5b denominators, by the mean"] > 3 * slack["5a denominators, by the range"]
    assert 0.01 < dd.deca_descent(land, SETTING).tightness < 0.1


SETTING = Setting(topology("ring", 8), rounds=3)


def test_the_right_side_by_hand_for_one_turn():
    """R = 1, one block, complete graph, no feedback, no noise: C = omega = kappa = 1, K = 0, nothing is stale."""
    known = dd.Known(
        smoothness=2.0, gap=3.0, steepest=5.0, zeta=0.7, sigma=0.0, rho=0.0, clients=4, widths=(6,)
    )
    setting = Setting(topology("complete", 4), 1, 10, 1, 0.01, mo.Adam(0.9, 0.999, 0.25))
    theta = (1 / 0.25**0.5 - 1 / 5.25**0.5) ** 2
    want = 2 * 5.25 * (3.0 / (0.01 * 10) + theta * 0.7**2 / 2 + 2.0 * 0.01 * 6 / 2)
    assert dd.right_side(known, setting)[-1] == pytest.approx(want, rel=1e-12)
    assert dd.floor(known, setting) == pytest.approx(5.25 * theta * 0.49, rel=1e-12)


@pytest.mark.parametrize(("b1", "b2"), [(1.0, 1.0), (0.8, 0.9)])
def test_the_turns_constants_are_sums(b1, b2):
    adam, R = mo.Adam(0.8, 0.95), 6
    t, C = dd.turns(R, adam, b1, b2), constants(R, adam, b1, b2)
    for r in range(1, R + 1):
        alpha = [0.2 * (0.8 * b1) ** (r - s) for s in range(1, r + 1)]
        old = sum(a * sum(C[q - 1] for q in range(s, r)) for s, a in enumerate(alpha, 1))
        eta = [0.8 * (1 - b1) * (0.8 * b1) ** (r - 1 - s) for s in range(1, r)]
        assert t.omega[r - 1] == pytest.approx(sum(alpha) / (1 - 0.8**r))
        assert t.kappa[r - 1] == pytest.approx(sum(a**2 for a in alpha) / (1 - 0.8**r) ** 2)
        assert t.lag[r - 1] == pytest.approx(old / (1 - 0.8**r))
        assert t.chi[r - 1] == pytest.approx(sum(eta) / (1 - 0.8**r))
    assert b1 < 1 or (t.omega == pytest.approx(1) and not t.chi.any())


@cases("seed", range(50))
def test_theta_is_the_most_that_denominators_can_vary(seed):
    rng = np.random.default_rng(seed)
    low, high = sorted(10.0 ** rng.uniform(-3, 1, 2))
    p = 1 / rng.uniform(low, high, int(rng.integers(1, 9)))
    assert p.var() / p.mean() <= dd.theta(low, high) * (1 + 1e-12)


def test_theta_is_attained():
    low, high = 0.1, 10.0
    M, m = 1 / low, 1 / high
    share = (np.sqrt(M * m) - m) / (M - m)  # of clients at M, so that the mean is sqrt(M m)
    mean, var = share * M + (1 - share) * m, share * (1 - share) * (M - m) ** 2
    assert var / mean == pytest.approx(dd.theta(low, high), rel=1e-12)


def test_the_rate_is_that_of_the_paper_down_to_the_floor():
    known = dd.Known(1.0, 2.0, 3.0, 0.0, 0.0, 0.5, 8, (4, 4))
    ends = []
    for rounds in (100, 400, 1600):
        setting = Setting(topology("ring", 8), 2, rounds, 6)
        ends.append(dd.right_side(known, setting._replace(lr=0.001 / setting.steps**0.5))[-1])
    slopes = np.diff(np.log(ends)) / np.log(4)
    np.testing.assert_allclose(slopes, -0.5, atol=0.01)
    apart = known._replace(zeta=1.0)
    assert dd.floor(apart, SMALL) > 0
    assert dd.right_side(apart, SMALL._replace(lr=1e-6, rounds=10**5))[-1] > dd.floor(apart, SMALL)


def test_broken_clients_that_differ_and_a_floor_that_was_not_claimed():
    found = dd.broken()
    assert found.verdict.startswith("fails at inner step")
    assert found.tightness > 3


def test_broken_a_smaller_smoothness_fails_in_its_line():
    land = quadratics(4, 5)
    lines = dd.lines(land._replace(smoothness=0.01), SMALL, trace(land, SMALL))
    assert not lines["3 descent"].holds()


@cases(("clients", "d", "blocks", "steps"), [(1, 1, 1, 1), (1, 2, 2, 3), (2, 1, 1, 1)])
def test_edge_sizes(clients, d, blocks, steps):
    setting = SMALL._replace(
        topology=topology("complete", clients), blocks=blocks, inner_steps=steps
    )
    assert dd.deca_descent(valleys(clients, d), setting).holds()


def test_the_left_side_is_the_mean_squared_gradient_by_autograd():
    land = valleys(4, 5)
    problem, blocks = as_problem(land, 2)
    steps, total = trace(land, SMALL), []
    for step in steps:
        x = step.before.mean(0).clone().requires_grad_()
        sum(
            problem.loss({"x0": x[:3], "x1": x[3:]}, (row, torch.zeros(5).double()))
            for row in land.data
        ).backward()
        total.append(float((x.grad[step.columns] / 4).square().sum()))
    assert len(blocks) == 2
    np.testing.assert_allclose(
        dd.deca_descent(land, SMALL).lhs,
        np.cumsum(total) / np.arange(1, len(total) + 1),
        rtol=1e-10,
    )


@pytest.mark.parametrize("make", [quadratics, valleys])
def test_zeta_and_steepest_bound_what_they_say(make):
    land = make(6, 4, seed=3)
    for x in torch.from_numpy(np.random.default_rng(0).uniform(-3, 3, (200, 4))):
        g = land.gradients(x.expand(6, -1))
        assert float((g - g.mean(0)).square().sum(1).mean().sqrt()) <= land.zeta * (1 + 1e-9)
        assert float(g.abs().max()) <= land.steepest


def test_examples_hold():
    assert all(bound.holds() for bound in dd.examples().values())


def test_bad_input():
    land = quadratics(4, 5)
    over = SMALL._replace(feedback=mo.Feedback(mo.downhill, mo.per_lr_, 0.9, 0.9))
    with pytest.raises(BadInput, match="feedback"):
        dd.deca_descent(land, over)
    with pytest.raises(BadInput, match="below 1: the clients must come together"):
        dd.right_side(dd.known(valleys(4, 5), SMALL)._replace(rho=1.0), SMALL)
    with pytest.raises(BadInput, match="steps"):
        dd.known(land, SMALL)
    with pytest.raises(BadInput, match="noise"):
        dd.lines(land, SMALL._replace(noise=1.0), [])
    with pytest.raises(BadInput, match="blocks = 9"):
        as_problem(land, 9)
