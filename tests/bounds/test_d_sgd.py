"""Decentralised SGD: random cases in both orders, what attains it, broken hypotheses, edge sizes, and a plain loop."""

import numpy as np
import pytest
import torch
from cases import cases, quick

from deca_lab.bounds.d_sgd import (
    STEEPEST,
    broken,
    bumps,
    d_sgd,
    disagreement,
    examples,
    largest_step,
    quadratic,
    runs,
    terms,
    usual,
    witness,
)
from deca_lab.bounds.gossip_contraction import second_singular_value
from deca_lab.errors import BadInput
from deca_lab.mixing.topology import topology

RING = topology("ring", 8)


def step(case, W, first=False):
    return largest_step(case.L, second_singular_value(W.at(0)), first)


@pytest.mark.parametrize("first", [False, True], ids=["adapt then combine", "combine then adapt"])
@pytest.mark.parametrize("kind", ["quadratic", "tilted", "shifted"])
@cases("seed", range(3))
def test_random_cases_hold_without_noise(kind, first, seed):
    rng = np.random.default_rng([seed, 1])
    n, d = int(rng.integers(2, 9)), int(rng.integers(1, 6))
    W = topology(["ring", "path", "complete", "star"][rng.integers(4)], n)
    case = usual(kind, n, d, 0.0, float(rng.uniform(0.1, 2)), seed)
    gamma = step(case, W, first) * float(rng.uniform(0.2, 1))
    for found in (
        d_sgd(case, W, gamma, 60, combine_first=first),
        disagreement(case, W, gamma, 60, combine_first=first),
    ):
        assert (found.finite, found.holds(), found.verdict, len(found.lhs)) == (
            True,
            True,
            "holds",
            60,
        ), found.ratios


@pytest.mark.parametrize("first", [False, True])
def test_random_cases_hold_with_noise_as_a_mean_over_seeds(first):
    case = usual("tilted", noise=1.0)
    found = d_sgd(case, RING, step(case, RING, first), 60, range(6), first)
    squared = runs(case, RING, step(case, RING, first), 60, range(6), first)[0]
    error = squared.mean(1).std(ddof=1) / 6**0.5
    assert found.holds()
    assert found.lhs[-1] + 6 * error < found.rhs[-1]  # not by luck of the seeds


def test_w_need_not_be_symmetric_nor_constant():
    turned = np.array([[0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0.5, 0.5], [0.5, 0, 0, 0.5]])
    case = usual("shifted", 4, 2, 0.0)
    rho = second_singular_value(turned)
    assert d_sgd(case, turned, largest_step(2, rho), 80).holds()
    alternating = topology([turned, turned.T])
    assert d_sgd(case, alternating, largest_step(2, rho), 80).holds()


def test_the_witness_attains_it_at_every_k():
    for first in (False, True):
        found = d_sgd(witness(), topology("complete", 4), 0.5, 30, combine_first=first)
        np.testing.assert_allclose(found.ratios, 1, rtol=1e-12)
        assert found.holds()


def test_the_measured_slack():
    case = usual(noise=0.0)
    found = d_sgd(case, RING, step(case, RING), 300)
    assert 1 / found.tightness == pytest.approx(2.08, abs=0.01)
    assert 1 / found.ratios[-1] == pytest.approx(4.62, abs=0.01)
    bumpy = usual("tilted", noise=0.0)
    assert 1 / d_sgd(bumpy, RING, step(bumpy, RING), 100).tightness == pytest.approx(6.27, abs=0.02)


def test_broken_a_step_that_is_too_large():
    assert broken().verdict.startswith("hypothesis broken: the learning rate is above")
    assert not broken().holds()
    case = usual(noise=0.0)
    assert not d_sgd(case, RING, 2.2 / case.L, 40, combine_first=True).holds()


def test_broken_a_matrix_whose_columns_do_not_sum_to_one():
    case = quadratic(np.eye(1), np.array([[1.0], [-1.0]]), np.zeros(1))  # starts in the minimum
    even, lopsided = np.array([[0.6, 0.4], [0.4, 0.6]]), np.array([[0.6, 0.4], [0.5, 0.5]])
    assert d_sgd(case, even, 0.02, 200).holds()
    found = d_sgd(case, lopsided, 0.02, 2000)
    assert found.verdict == "hypothesis broken: W is not doubly stochastic"
    assert found._replace(broken="").verdict == "fails at step 7"
    assert found.lhs[-1] == pytest.approx(
        1 / 81, rel=0.05
    )  # the shares of W's left eigenvector: 5/9, 4/9


def test_broken_an_unequal_start():
    case, rng = usual(noise=0.0), np.random.default_rng(2)
    apart = torch.from_numpy(rng.standard_normal((8, 5)))
    moved = case._replace(problem=lambda seed: case.problem(seed)._replace(start={"x": apart}))
    assert disagreement(moved, RING, 0.01, 20).verdict == "fails at step 1"


def test_broken_zeta_of_the_start_alone():
    case = usual("shifted", noise=0.0, spread=2.0)
    assert disagreement(case, topology("complete", 8), 0.5, 20, combine_first=True).holds()
    alike = case._replace(zeta=0.05)
    assert not disagreement(alike, topology("complete", 8), 0.5, 20, combine_first=True).holds()


@cases(("n", "d", "steps"), [(1, 1, 1), (1, 3, 5), (2, 1, 1), (3, 2, 2)])
@cases("first", [False, True])
def test_edge_sizes(n, d, steps, first):
    for kind in ("quadratic", "tilted", "shifted"):
        case, W = usual(kind, n, d, 0.0), topology("complete", n)
        gamma = step(case, W, first)
        assert d_sgd(case, W, gamma, steps, combine_first=first).holds()
        assert disagreement(case, W, gamma, steps, combine_first=first).holds()
    one = usual("quadratic", 1, 2, 0.0)
    assert one.zeta == 0
    assert terms(one, np.eye(1), 0.1)[2] == 0


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("kind", ["quadratic", "tilted", "shifted"])
def test_the_left_side_is_that_of_a_plain_loop(kind, first):
    case, W, gamma = usual(kind, 8, 3, 0.7), RING.at(0), 0.05
    problem = case.problem(3)
    x, squared, apart = problem.start["x"].numpy().copy(), [], []
    for k in range(12):
        leaf = torch.from_numpy(x).requires_grad_()
        batch = problem.batches(k)
        total = sum(
            problem.loss({"x": leaf[i]}, tuple(part[i] for part in batch)) for i in range(8)
        )
        (g,) = torch.autograd.grad(total, leaf)
        mean = x.mean(0)
        squared.append((case.gradient(mean) ** 2).sum())
        apart.append(((x - mean) ** 2).sum() / 8)
        x = W @ x - gamma * g.numpy() if first else W @ (x - gamma * g.numpy())
    found = runs(case, W, gamma, 12, [3], first)
    np.testing.assert_allclose(found[0][0], squared, rtol=1e-11)
    np.testing.assert_allclose(found[1][0], apart, rtol=1e-11, atol=1e-28)
    assert found[2][0, 0] == pytest.approx(np.square(problem.start["x"].numpy()).sum() / 8)
    both = d_sgd(case, W, gamma, 12, [3], first)
    np.testing.assert_allclose(both.lhs, np.cumsum(squared) / np.arange(1, 13), rtol=1e-11)


def test_the_right_side_by_hand():
    case = usual("tilted", noise=0.3)._replace(L=2.0, sigma=0.5, zeta=3.0, gap=7.0)
    rho, g = second_singular_value(RING.at(0)), 0.04
    apart = 4 * 9 / (1 - rho) ** 2 + 2 * 0.25 / (1 - rho)
    for first, c in ((False, rho**2), (True, 1.0)):
        rhs = d_sgd(case, RING, g, 3, combine_first=first).rhs
        by_hand = [2 * 7 / (g * K) + 2 * g * 0.25 / 8 + 4 * g * g * c * apart for K in (1, 2, 3)]
        np.testing.assert_allclose(rhs, by_hand, rtol=1e-12)
        assert disagreement(case, RING, g, 2, combine_first=first).rhs[0] == pytest.approx(
            g * g * c * apart
        )
    assert largest_step(2.0, 0.3) == 0.5
    assert largest_step(2.0, 0.8) == pytest.approx(0.2 / 3.2)
    assert largest_step(2.0, 0.8, combine_first=True) == pytest.approx(0.05)
    assert largest_step(2.0, 0.0) == 0.5


@pytest.mark.parametrize("kind", quick(["quadratic", "tilted", "shifted"]))
def test_the_constants_of_a_case_are_what_they_say(kind):
    case, rng = usual(kind, 6, 3, 0.4, seed=1), np.random.default_rng(8)
    quiet = usual(kind, 6, 3, 0.0, seed=1).problem(0)

    def gradients(problem, x):
        leaf = torch.from_numpy(np.repeat(x[None], 6, 0)).requires_grad_()
        total = sum(
            problem.loss({"x": leaf[i]}, tuple(part[i] for part in problem.batches(0)))
            for i in range(6)
        )
        return torch.autograd.grad(total, leaf)[0].numpy()

    def value(x):
        return float(
            np.mean(
                [
                    quiet.loss({"x": torch.from_numpy(x)}, tuple(p[i] for p in quiet.batches(0)))
                    for i in range(6)
                ]
            )
        )

    x0, lowest, spreads = (
        quiet.start["x"][0].numpy(),
        value(quiet.start["x"][0].numpy()) - case.gap,
        [],
    )
    for _ in range(200):
        x, y = rng.uniform(-4, 4, (2, 3))
        gx, gy = gradients(quiet, x), gradients(quiet, y)
        np.testing.assert_allclose(gx.mean(0), case.gradient(x), atol=1e-12)
        assert (
            np.linalg.norm(gx - gy, axis=1) <= case.L * np.linalg.norm(x - y) * (1 + 1e-9)
        ).all()
        spreads.append(np.square(gx - gx.mean(0)).sum() / 6)
        assert value(x) >= lowest - 1e-12
    assert max(spreads) <= case.zeta**2 * (1 + 1e-9)
    if kind != "shifted":
        np.testing.assert_allclose(spreads, case.zeta**2, rtol=1e-9)  # exact, not only a bound
    noises = np.stack([gradients(case.problem(s), x0) - gradients(quiet, x0) for s in range(400)])
    assert np.square(noises).sum(2).mean() == pytest.approx(case.sigma**2, rel=0.1)
    assert np.abs(noises.mean((0, 1))).max() < 0.05


def test_the_steepest_slope_and_curvature_of_a_bump():
    u = np.linspace(-5, 5, 200001)
    assert (2 * u / (1 + u**2) ** 2).max() == pytest.approx(STEEPEST, rel=1e-9)
    assert ((2 - 6 * u**2) / (1 + u**2) ** 3).max() == pytest.approx(2)
    assert ((2 - 6 * u**2) / (1 + u**2) ** 3).min() == pytest.approx(-0.5, rel=1e-6)  # not convex


def test_all_examples_hold_and_the_broken_one_fails():
    for name, found in examples(seed=1).items():
        assert found.holds(), name
    assert not broken(seed=1).holds()


@cases(("changed", "message"), [
    ({"W": np.eye(8)}, "W = 1.0 cannot be used: it must be a doubly stochastic matrix with rho below 1"),
    ({"gamma": 0.0}, "gamma = 0.0 cannot be used: it must be above 0"),
    ({"steps": 0}, "steps = 0 cannot be used: it must be a whole number from 1 up"),
    ({"seeds": []}, r"seeds = \[\] cannot be used: it must be one seed or more"),
    ({"W": np.full((4, 4), 0.25)}, "topology = '4 clients' cannot be used"),
])  # fmt: skip
def test_bad_input(changed, message):
    with pytest.raises(BadInput, match=message):
        d_sgd(**{"case": usual(noise=0.0), "W": RING.at(0), "gamma": 0.1, "steps": 3, **changed})


def test_bad_cases():
    with pytest.raises(BadInput, match=r"b = .* of rows that sum to zero"):
        bumps(np.zeros((2, 1)), np.ones((2, 1)), np.ones(1))
    with pytest.raises(
        BadInput, match="kind = 'waves' cannot be used: it must be quadratic, tilted or shifted"
    ):
        usual("waves")
    with pytest.raises(BadInput, match="noise = -1 cannot be used"):
        quadratic(np.eye(1), np.ones((2, 1)), np.ones(1), -1).problem(0)
    with pytest.raises(BadInput, match="rho = 1"):
        largest_step(1.0, 1.0)
