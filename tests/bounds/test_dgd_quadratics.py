"""DGD on quadratics: random inputs, the starts that attain it, broken hypotheses, edge sizes, and a loop of its own equations."""

import numpy as np
import pytest
from cases import cases
from reference import ROUNDING

from deca_lab.bounds import dgd_quadratics as module
from deca_lab.bounds.dgd_quadratics import (
    block_diagonal,
    broken,
    dgd_quadratics,
    drawn,
    examples,
    fixed_point,
    largest_singular_value,
    largest_step,
    root,
    spectral_radius,
    step_matrix,
    trajectory,
    witness,
)
from deca_lab.errors import BadInput
from deca_lab.mixing.topology import topology

RING = topology("ring", 5).at(0)
ORDERS = pytest.mark.parametrize(
    "first", [True, False], ids=["combine then adapt", "adapt then combine"]
)


def doubly_stochastic(rng, n, terms=5):
    """A random mean of permutations and the identity: doubly stochastic, and hardly one is symmetric."""
    shares = rng.dirichlet(np.ones(terms + 1))
    return shares[0] * np.eye(n) + sum(w * np.eye(n)[rng.permutation(n)] for w in shares[1:])


def by_hand(W, A, b, x, alpha, first):
    """One step in plain loops over clients and coordinates."""
    n, d = b.shape
    g = [
        [sum(A[i][c][e] * x[i][e] for e in range(d)) - b[i][c] for c in range(d)] for i in range(n)
    ]
    sent = x if first else [[x[i][c] - alpha * g[i][c] for c in range(d)] for i in range(n)]
    mixed = [[sum(W[i][j] * sent[j][c] for j in range(n)) for c in range(d)] for i in range(n)]
    return [[mixed[i][c] - alpha * g[i][c] for c in range(d)] for i in range(n)] if first else mixed


def attained(found):
    """Both sides are equal at every step, to the rounding that the bound itself allows, which is far below the start.

    The sides shrink geometrically and rounding does not: late steps may differ in the eighth digit of a small number.
    """
    assert found._replace(equal=True).verdict == "holds", found.ratios
    assert found.ratios[0] == pytest.approx(1, rel=1e-9)
    assert np.max(found.rounding) < 1e-11 * np.max(found.rhs)


@ORDERS
@cases("seed", range(12))
def test_random_inputs_hold_and_are_finite(seed, first):
    rng = np.random.default_rng([seed, 1])
    n, d = int(rng.integers(2, 9)), int(rng.integers(1, 5))
    W = doubly_stochastic(rng, n) if seed % 2 else topology("erdos-renyi", n, seed=seed).at(0)
    A, b, X0 = drawn(n, d, seed, spread=10.0 ** rng.integers(-3, 4))
    alpha = float(rng.uniform(0.05, 1.2)) * largest_step(
        W, A, first
    )  # beyond the step condition too: it holds, growing
    found = dgd_quadratics(W, A, b, X0, alpha, 40, first)
    assert (found.finite, found.holds(), found.verdict) == (True, True, "holds"), found
    assert found.at.tolist() == list(range(1, 41))


@cases("seed", range(6))
def test_random_inputs_hold_in_the_weighted_norm_and_its_factor_is_the_rate_itself(seed):
    rng = np.random.default_rng([seed, 2])
    A, b, X0 = drawn(6, 3, seed)
    W, alpha = topology("erdos-renyi", 6, seed=seed).at(0), float(rng.uniform(0.1, 0.95))
    assert dgd_quadratics(W, A, b, X0, alpha, 40, combine_first=False, weighted=True).holds()
    S, M = root(W, A, alpha), step_matrix(W, A, alpha, combine_first=False)
    assert largest_singular_value(S @ np.kron(W, np.eye(3)) @ S) == pytest.approx(
        spectral_radius(M), rel=1e-12
    )
    assert spectral_radius(M) <= largest_singular_value(M)


@pytest.mark.parametrize(("first", "weighted"), [(True, False), (False, True)])
@cases("name", ["ring", "path", "star", "complete"])
def test_the_witness_attains_it_at_every_step(name, first, weighted):
    W, (A, b, _) = topology(name, 6).at(0), drawn(6, 2, 3)
    X0 = fixed_point(W, A, b, 0.4, first) + witness(W, A, 0.4, first, weighted)
    found = dgd_quadratics(W, A, b, X0, 0.4, 25, first, weighted)
    attained(found)


@ORDERS
@cases("seed", range(4))
def test_the_witness_attains_it_at_the_first_step_without_symmetry(seed, first):
    W, (A, b, _) = doubly_stochastic(np.random.default_rng([seed, 3]), 6, 3), drawn(6, 2, seed)
    found = dgd_quadratics(
        W, A, b, fixed_point(W, A, b, 0.4, first) + witness(W, A, 0.4, first), 0.4, 8, first
    )
    assert found.ratios[0] == pytest.approx(1, rel=1e-9)
    assert found.holds()


@ORDERS
@cases("seed", range(8))
def test_it_contracts_below_the_largest_step(seed, first):
    W, (A, _, _) = topology("erdos-renyi", 7, seed=seed).at(0), drawn(7, 2, seed)
    A[0, 0], A[0, :, 0] = 0, 0  # semidefinite: the sum alone is definite
    for share in (1e-3, 0.5, 0.999):
        assert (
            largest_singular_value(step_matrix(W, A, share * largest_step(W, A, first), first)) < 1
        )


def test_adapt_then_combine_contracts_below_it_without_symmetry():
    W, (A, _, _) = doubly_stochastic(np.random.default_rng(9), 6, 4), drawn(6, 2, 9)
    assert not np.allclose(W, W.T)
    assert largest_singular_value(step_matrix(W, A, 0.999 * largest_step(W, A, False), False)) < 1


@ORDERS
def test_the_largest_step_is_sharp_for_a_common_hessian(first):
    A = np.tile(2.0 * np.eye(2), (5, 1, 1))
    limit = largest_step(RING, A, first)
    assert limit == pytest.approx(
        (1 + (1 + 2 * np.cos(4 * np.pi / 5)) / 3) / 2 if first else 1, rel=1e-12
    )
    below, beyond = (
        largest_singular_value(step_matrix(RING, A, share * limit, first))
        for share in (0.999, 1.001)
    )
    assert below < 1 < beyond


def test_the_fixed_points_stay_and_are_not_the_minimum():
    A, b, _ = drawn(5, 3, 1)
    lowest = np.linalg.solve(A.sum(0), b.sum(0))
    for first in (True, False):
        far = []
        for alpha in (0.4, 0.04, 0.004):
            settled = fixed_point(RING, A, b, alpha, first)
            np.testing.assert_allclose(
                by_hand(RING, A, b, settled, alpha, first), settled, rtol=1e-11, atol=1e-12
            )
            far.append(np.linalg.norm(settled - lowest))
        assert far[0] > 0.5
        assert far[1] / far[2] == pytest.approx(
            10, rel=0.1
        )  # the distance is of the order of alpha


def test_equal_clients_settle_at_the_minimum_in_either_order():
    A, b, _ = drawn(1, 3, 4)
    A, b = np.tile(A, (5, 1, 1)), np.tile(b, (5, 1))
    for first in (True, False):
        np.testing.assert_allclose(
            fixed_point(RING, A, b, 0.5, first),
            np.tile(np.linalg.solve(A[0], b[0]), (5, 1)),
            rtol=1e-11,
        )


def test_broken_noisy_gradients():
    found = broken()
    assert found.verdict == "hypothesis broken: gradients are noisy"
    assert found.lhs[-1] > 0.1
    for seed in (0, 3):
        assert broken(seed)._replace(broken="").verdict.startswith("fails at step")


def test_broken_the_spectral_radius_is_not_a_factor():
    A, b, _ = drawn(5, 2, 2)
    X0 = fixed_point(RING, A, b, 0.8, False) + witness(RING, A, 0.8, False)
    assert dgd_quadratics(RING, A, b, X0, 0.8, 10, False).holds()
    assert (
        dgd_quadratics(RING, A, b, X0, 0.8, 10, False, factor=spectral_radius).verdict
        == "fails at step 1"
    )


def test_broken_the_other_orders_fixed_point(monkeypatch):
    A, b, X0 = drawn(5, 2, 2)
    monkeypatch.setattr(
        module, "fixed_point", lambda W, A, b, alpha, first: fixed_point(W, A, b, alpha, not first)
    )
    assert dgd_quadratics(RING, A, b, X0, 0.5, 100).verdict.startswith("fails at step")


def test_broken_a_step_too_long_is_no_contraction():
    A, b, X0 = np.tile(np.eye(2), (5, 1, 1)), *drawn(5, 2, 2)[1:]
    alpha = 1.05 * largest_step(RING, A)
    found = dgd_quadratics(RING, A, b, X0, alpha, 60)
    assert found.holds()  # the inequality says nothing then: its right side grows
    assert found.lhs[-1] > 2 * found.lhs[0]
    assert dgd_quadratics(RING, A, b, X0, alpha, 60, factor=lambda M: 0.999).verdict.startswith(
        "fails at step"
    )


@ORDERS
@cases(("n", "d", "steps"), [(1, 1, 1), (1, 3, 4), (2, 1, 3), (5, 1, 1)])
def test_edge_sizes(n, d, steps, first):
    W, (A, b, X0) = topology("ring", n).at(0), drawn(n, d, 5)
    found = dgd_quadratics(W, A, b, X0, 0.5, steps, first)
    assert found.holds()
    assert found.lhs.shape == (steps,)
    if n == d == 1:  # one client alone: |x - b/a| shrinks by 1 - alpha a, exactly
        assert found.lhs[0] == pytest.approx(
            abs(X0[0, 0] - b[0, 0] / A[0, 0, 0]) * (1 - 0.5 * A[0, 0, 0]), rel=1e-12
        )
        np.testing.assert_allclose(found.ratios, 1, rtol=1e-12)


def test_a_start_at_the_fixed_point_stays_within_rounding():
    A, b, _ = drawn(5, 2, 6)
    found = dgd_quadratics(RING, A, b, fixed_point(RING, A, b, 0.5), 0.5, 20)
    assert found.holds()
    assert (
        found.lhs.max() < 1e-11
    )  # the fixed point is the solution of equations, of condition up to some hundred


@ORDERS
@pytest.mark.parametrize(
    "W", [RING, np.roll(np.eye(5), 1, 0) / 2 + np.eye(5) / 2], ids=["ring", "directed"]
)
def test_the_left_side_is_a_plain_loop(W, first):
    A, b, X0 = drawn(5, 3, 7)
    x, settled, lhs = X0.tolist(), fixed_point(W, A, b, 0.6, first), []
    for _ in range(15):
        x = by_hand(W, A, b, x, 0.6, first)
        lhs.append(np.sqrt(sum((x[i][c] - settled[i, c]) ** 2 for i in range(5) for c in range(3))))
    np.testing.assert_allclose(dgd_quadratics(W, A, b, X0, 0.6, 15, first).lhs, lhs, rtol=1e-10)
    np.testing.assert_allclose(
        trajectory(W, A, b, X0, 0.6, 15, first)[-1], x, rtol=1e-12, atol=1e-13
    )


def test_block_diagonal_and_root_by_loops():
    A, _, _ = drawn(3, 2, 8)
    want = np.zeros((6, 6))
    for i in range(3):
        want[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = A[i]
    assert np.array_equal(block_diagonal(A), want)
    S = root(topology("ring", 3).at(0), A, 0.7)
    np.testing.assert_allclose(S @ S, np.eye(6) - 0.7 * want, atol=ROUNDING)
    np.testing.assert_allclose(S, S.T, atol=ROUNDING)


@cases("seed", range(4))
def test_examples_all_hold(seed):
    found = examples(seed)
    assert {name: bound.verdict for name, bound in found.items()} == dict.fromkeys(found, "holds")
    for order in ("combine then adapt", "adapt then combine"):
        attained(found[f"{order}, witness"])


@cases(("changed", "message"), [
    ({"W": np.ones((2, 3))}, r"W = \(2, 3\) cannot be used: it must be square, \(N, N\)"),
    ({"A": np.ones((2, 3, 3))}, r"A = \(2, 3, 3\) cannot be used: it must be of shape \(2, 2, 2\), each A_i symmetric"),
    ({"A": np.array([[[1, 1], [0, 1]]] * 2)}, "each A_i symmetric"),
    ({"b": np.ones((3, 2))}, r"b = \(3, 2\) cannot be used: it must be of shape \(2, d\), a row a client"),
    ({"X0": np.ones(2)}, r"X0 = \(2,\) cannot be used: it must be of shape \(2, 2\)"),
    ({"alpha": 0.0}, "alpha = 0.0 cannot be used: it must be above 0"),
    ({"steps": 0}, "steps = 0 cannot be used: it must be a whole number from 1 up"),
    ({"A": np.zeros((2, 2, 2))}, "such that I - M is invertible"),
    ({"weighted": True}, "weighted = True cannot be used: it must be for adapt then combine, W symmetric"),
    ({"weighted": True, "combine_first": False, "alpha": 1.5}, "alpha = 1.5 cannot be used: it must be below 1 / L"),
])  # fmt: skip
def test_bad_input(changed, message):
    given = {
        "W": np.full((2, 2), 0.5),
        "A": np.tile(np.eye(2), (2, 1, 1)),
        "b": np.ones((2, 2)),
        "X0": np.ones((2, 2)),
        "alpha": 0.5,
        "steps": 3,
    }
    with pytest.raises(BadInput, match=message):
        dgd_quadratics(**{**given, **changed})


def test_what_is_not_finite_is_never_said_to_hold():
    A, b, X0 = drawn(5, 2, 6)
    X0[1, 1] = np.nan
    assert dgd_quadratics(RING, A, b, X0, 0.5, 3).verdict == "not finite"


def test_arguments_stay_as_they_were():
    given = (RING.copy(), *drawn(5, 2, 6))
    before = [part.copy() for part in given]
    dgd_quadratics(*given, 0.5, 3)
    assert all(np.array_equal(old, new) for old, new in zip(before, given, strict=True))
