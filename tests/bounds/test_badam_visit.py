"""A BAdam visit's decrease: random problems, the case that loses only the factor 2, broken hypotheses, edges, torch's Adam."""

import numpy as np
import pytest
import torch
from cases import cases

from deca_lab.bounds import badam_visit as bv
from deca_lab.bounds.landscape import quadratics, tug_of_war, valleys
from deca_lab.errors import BadInput


@cases("steps", [1, 3, 12])
@pytest.mark.parametrize("lam", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("make", [quadratics, valleys])
@cases("seed", range(3))
def test_random_problems_hold_and_are_finite(make, lam, steps, seed):
    land = make(1, 5, seed=seed)
    G = min(land.steepest, 5.0 * 5)
    alpha = bv.largest_step(land.smoothness, G, steps, lam)
    found = bv.badam_visit(land, alpha, steps, rounds=2, lam=lam)
    assert (found.finite, found.verdict) == (True, "holds")
    assert (found.rhs > 0).all()  # every visit lowers the loss
    paper = bv.badam_visit(
        land, bv.papers_step(land.smoothness, G, steps, lam), steps, rounds=2, lam=lam, paper=True
    )
    assert paper.verdict == "holds"


def test_where_all_slopes_are_one_only_the_factor_2_is_lost():
    np.testing.assert_allclose(bv.badam_visit(bv.level(), 1e-3, 6).ratios, 0.5, rtol=1e-9)


def test_the_measured_slack():
    found = bv.examples()
    assert all(bound.holds() for bound in found.values())
    assert 0.2 < found["quadratics"].tightness < 0.5
    assert found["quadratics, (9) of the paper"].tightness < 0.13


@cases("seed", range(30))
def test_ours_implies_the_papers_where_lambda_is_at_most_the_gradient(seed):
    rng = np.random.default_rng(seed)
    L, G, steps = 10 ** rng.uniform(-2, 2), 10 ** rng.uniform(-2, 2), int(rng.integers(1, 60))
    lam = G * rng.uniform(0.001, 1)
    assert bv.papers_step(L, G, steps, lam) <= bv.largest_step(L, G, steps, lam)
    assert 1 / (2 * (G + lam)) >= 1 / (8 * G)


def test_the_rate_is_the_visits_summed_and_falls_with_slope_minus_one():
    land = valleys(1, 5)
    alpha = bv.largest_step(land.smoothness, land.steepest, 4, 0.1)
    one, many = bv.badam_visit(land, alpha, 4, rounds=20), bv.badam_rate(land, alpha, 4, rounds=20)
    assert many.verdict == "holds"
    visits = np.arange(1, 41)
    np.testing.assert_allclose(
        many.lhs * visits, (one.lhs / one.lhs[0]).cumsum() * many.lhs[0], rtol=1e-12
    )
    np.testing.assert_allclose(many.rhs * visits, many.rhs[0], rtol=1e-12)
    gap = land.mean(land.start) - land.lowest
    np.testing.assert_allclose(
        many.ratios, one.lhs.cumsum() / gap, rtol=1e-9
    )  # sum of promises over all there is to lose
    assert 0.0 < many.tightness < 0.6


def test_broken_a_rate_whose_step_is_too_large():
    land = quadratics(1, 5)
    assert not bv.badam_rate(land, 1e5 * bv.largest_step(1.0, 10.0, 6, 0.1), 6).holds()


def test_broken_a_step_that_is_too_large():
    assert bv.broken().verdict.startswith("hypothesis broken: the learning rate is above")
    assert bv.broken()._replace(broken="").verdict == "fails at visit 1"


def test_broken_a_smoothness_that_is_too_small():
    land = quadratics(1, 5)
    alpha = bv.largest_step(1e-5, 5.0, 6, 0.1)
    assert not bv.badam_visit(land, alpha, 6).holds()


@cases(("d", "blocks", "steps", "rounds"), [(1, 1, 1, 1), (2, 2, 1, 1), (3, 1, 2, 1)])
def test_edge_sizes(d, blocks, steps, rounds):
    found = bv.badam_visit(quadratics(1, d), 1e-5, steps, blocks, rounds)
    assert found.holds()
    assert len(found.lhs) == blocks * rounds


def test_the_decrease_is_that_of_torchs_adam_on_the_block():
    land, alpha = quadratics(1, 4), 1e-2
    found = bv.badam_visit(land, alpha, 5, blocks=2, rounds=1)
    x, at = land.start.clone(), [land.mean(land.start)]
    for cut in (slice(0, 2), slice(2, 4)):
        leaf = x[cut].clone().requires_grad_()
        optimiser = torch.optim.Adam([leaf], lr=alpha, eps=0.1)
        for _ in range(5):
            optimiser.zero_grad()
            whole = x.clone()
            whole[cut] = leaf
            land.shape(whole, land.data[0]).backward()
            optimiser.step()
        x[cut] = leaf.detach()
        at.append(land.mean(x))
    np.testing.assert_allclose(found.rhs, -np.diff(at), rtol=1e-9)


@cases(
    ("call", "words"),
    [
        (lambda: bv.badam_visit(tug_of_war(2), 0.1, 2), "of one client"),
        (lambda: bv.badam_visit(bv.level(), 0.1, 2, lam=0.0), "lam = 0.0"),
        (lambda: bv.largest_step(1.0, 0.0, 5, 0.1), "above 0"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(BadInput, match=words):
        call()
