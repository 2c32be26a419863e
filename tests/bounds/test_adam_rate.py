"""Adam without momentum on one client: random problems, the measured slack, broken hypotheses, edges, torch's Adam, the slope."""

import numpy as np
import pytest
import torch
from cases import cases
from reference import ROUNDING

from deca_lab.bounds import adam_rate as ar
from deca_lab.bounds.landscape import quadratics, valleys
from deca_lab.errors import BadInput


@pytest.mark.parametrize("a2", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("alpha", [0.001, 0.1])
@cases("noise", [0.0, 1.0])
@cases("seed", range(3))
def test_random_problems_hold_and_are_finite(a2, alpha, noise, seed):
    found = ar.adam_rate(
        valleys(1, 5, seed=seed), alpha, a2, 60, lam=0.01, noise=noise, copies=8, seed=seed
    )
    assert (found.finite, found.verdict) == (True, "holds")


def test_the_right_side_by_hand():
    land = valleys(1, 1)
    gap = land.mean(land.start)  # the lowest value is zero
    G, alpha, a2, lam = 2.0, 0.5, 0.75, 1.0  # H = 3, sqrt(1 - a2) = 1/2
    cost = 4 * 1 * 3 * 2 / 0.5 + 0.5 * 1 * 3 * 2 / 0.25
    by_hand = 2 * 3 * gap / (0.5 * 4) + cost * (np.log(1 + 4 / 0.25) / 4 - np.log(0.75))
    np.testing.assert_allclose(ar.right(land, G, alpha, a2, 4, lam)[-1], by_hand, rtol=ROUNDING)


@pytest.mark.slow
def test_the_measured_slack():
    found = ar.examples()
    assert all(bound.holds() for bound in found.values())
    assert 0.05 < found["exact gradients"].tightness < 0.25
    assert 0.002 < found["alpha and a2 by N"].tightness < 0.05


@cases("seed", range(20))
def test_the_sum_of_squared_directions_obeys_line_5_of_the_proof(seed):
    rng = np.random.default_rng(seed)
    g, a2, lam = rng.uniform(-2, 2, 200), rng.uniform(0.3, 0.99), rng.uniform(0.01, 1)
    v, total = 0.0, 0.0
    for one in g:
        v = a2 * v + one**2
        total += one**2 / (v + lam**2)
    assert total <= np.log(1 + 4 / ((1 - a2) * lam**2)) - 200 * np.log(a2)


def test_broken_a_slope_that_is_said_to_be_too_small():
    assert ar.broken().verdict.startswith("fails at step")


def test_the_run_is_torchs_adam_without_a_first_moment():
    land, alpha, a2, lam = valleys(1, 4), 0.05, 0.9, 0.1
    got = ar.squares(land, alpha, a2, 12, lam, copies=1)[:, 0]
    x, expected = land.start.clone().requires_grad_(), []
    optimiser = torch.optim.Adam([x], lr=alpha, betas=(0.0, a2), eps=lam)
    for _ in range(12):
        optimiser.zero_grad()
        land.shape(x, land.data[0]).backward()
        expected.append(float(x.grad.square().sum()))
        optimiser.step()
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_copies_hear_nobody_and_have_noise_of_their_own():
    land = valleys(1, 3)
    many = ar.squares(land, 0.1, 0.9, 20, noise=0.5, copies=4, seed=7)
    assert len({tuple(column) for column in many[1:].T}) == 4
    assert len(set(many[0])) == 1  # all start at one place
    np.testing.assert_array_equal(many, ar.squares(land, 0.1, 0.9, 20, noise=0.5, copies=4, seed=7))


def test_the_slopes_of_run_and_bound():
    found, promised, points, level = ar.slopes(valleys(1, 4), (32, 64, 128), copies=8)
    assert found.low <= found.slope <= found.high < -0.3
    assert -0.5 < promised < -0.3
    assert (points.squares.full.mean(1) < level).all()


@cases(("d", "steps", "copies"), [(1, 1, 1), (1, 2, 1), (2, 1, 3)])
def test_edge_sizes(d, steps, copies):
    found = ar.adam_rate(valleys(1, d), 0.1, 0.9, steps, copies=copies)
    assert found.holds()
    assert len(found.lhs) == steps


@cases(
    ("call", "words"),
    [
        (lambda: ar.adam_rate(valleys(2), 0.1, 0.9, 5), "of one client"),
        (lambda: ar.adam_rate(quadratics(1), 0.1, 0.9, 5), "bounded gradients"),
        (lambda: ar.adam_rate(valleys(1), 0.1, 1.0, 5), "a2 = 1.0"),
        (lambda: ar.adam_rate(valleys(1), 0.1, 0.9, 5, lam=0.0), "above 0"),
        (lambda: ar.adam_rate(valleys(1), 0.1, 0.9, 0), "1 or more"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(BadInput, match=words):
        call()
