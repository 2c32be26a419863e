"""Gradient tracking's matrix: random problems, exactness, a broken order, edge sizes, and a plain loop."""

import numpy as np
import pytest
from cases import cases

from deca_lab.bounds import tracking_rate as tk
from deca_lab.errors import BadInput


@pytest.mark.parametrize("combine_first", [False, True])
@cases("seed", range(6))
def test_random_problems_hold_exactly_and_are_finite(seed, combine_first):
    found = tk.tracking_rate(*tk.usual(2 + seed, 1 + seed % 4, seed), 0.03, 60, combine_first)
    assert (found.finite, found.verdict) == (True, "holds")
    np.testing.assert_allclose(found.lhs, found.rhs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("combine_first", [False, True])
def test_the_rate_of_a_long_run_is_r(combine_first):
    found = tk.decay(*tk.usual(), 0.02, 800, combine_first)
    assert found.holds()
    assert float(found.rhs[0]) == pytest.approx(0.9805, abs=1e-3)
    assert abs(float(found.lhs[0] - found.rhs[0])) < 1e-4


@pytest.mark.parametrize("combine_first", [False, True])
def test_the_left_side_is_a_plain_loop(combine_first):
    W, A, b, X = tk.usual(4, 2, 1)
    got = tk.run(W, A, b, X, 0.05, 20, combine_first)
    y = g = np.stack([A[i] @ X[i] - b[i] for i in range(4)])
    for k in range(20):
        X = W @ X - 0.05 * y if combine_first else W @ (X - 0.05 * y)
        new = np.stack([A[i] @ X[i] - b[i] for i in range(4)])
        y, g = W @ y + new - g, new
        np.testing.assert_allclose(got[k], X, rtol=1e-10, atol=1e-12)


def test_one_is_an_eigenvalue_exactly_d_times():
    W, A, _, _ = tk.usual(5, 3)
    values = np.linalg.eigvals(tk.matrix(W, A, 0.05))
    assert (np.abs(values - 1) < 1e-6).sum() == 3
    assert tk.rate_of(tk.matrix(W, A, 0.05), 3) < 1


def test_a_larger_step_is_not_always_faster_and_at_last_diverges():
    W, A, _, _ = tk.usual()
    rates = [tk.rate_of(tk.matrix(W, A, alpha), 3) for alpha in (0.005, 0.05, 2.0)]
    assert rates[1] < rates[0] < 1 < rates[2]


def test_broken_the_other_order_and_a_start_that_is_not_the_gradients():
    assert tk.broken().verdict == "fails at step 1"
    W, A, b, X0 = tk.usual()
    assert not tk.tracking_rate(W, A, b, X0, 0.05, 30, claimed=tk.matrix(W, A, 0.06)).holds()
    assert tk.tracking_rate(W, A, b, X0, 0.05, 30, claimed=tk.matrix(W, A, 0.05)).holds()


def test_hypotheses_of_the_rate_are_named():
    W, A, b, X0 = tk.usual(3)
    lopsided = np.array(
        [[0.9, 0.1, 0.0], [0.3, 0.4, 0.3], [0.0, 0.1, 0.9]]
    )  # columns do not sum to 1
    words = "hypothesis broken: "
    assert tk.decay(lopsided, A, b, X0, 0.02, 400).verdict == words + "W is not doubly stochastic"
    for mixing, alpha in ((W, 1.5), (np.eye(3), 0.02)):  # too long a step; nobody hears anybody
        found = tk.decay(mixing, A, b, X0, alpha, 40)
        assert found.verdict.startswith(words + "the error does not fall: r = ")
    assert tk.decay(W, A, b, X0, 0.02, 400).verdict == "holds"


@pytest.mark.parametrize("combine_first", [False, True])
@cases("off", [0.0, 1e-12, 4e-10])
def test_sums_of_w_that_are_off_one_within_the_tolerance_are_counted(off, combine_first):
    W, A, b, X0 = tk.usual(6)
    W = W + np.outer(off * np.array([1, -1, 1, -1, 1, -0.5]), np.ones(6)) / 6
    found = tk.tracking_rate(W, A, b, X0, 0.05, 400, combine_first)
    assert found.verdict == "holds"
    if off:  # they are seen, and would be found at fault
        assert not found._replace(
            rounding=tk.tracking_rate(*tk.usual(6), 0.05, 400).rounding
        ).holds()


@cases(("clients", "d", "steps"), [(1, 1, 1), (1, 3, 5), (2, 1, 1), (3, 1, 2)])
def test_edge_sizes(clients, d, steps):
    assert tk.tracking_rate(*tk.usual(clients, d), 0.05, steps).holds()


def test_one_client_is_gradient_descent():
    _, A, b, X0 = tk.usual(1, 2)
    M = tk.matrix(np.ones((1, 1)), A, 0.1)
    assert tk.rate_of(M, 2) == pytest.approx(np.abs(1 - 0.1 * np.linalg.eigvalsh(A[0])).max())
    assert tk.tracking_rate(np.ones((1, 1)), A, b, X0, 0.1, 10).holds()


@cases("seed", range(3))
def test_examples_hold_for_other_seeds_too(seed):
    assert all(bound.holds() for bound in tk.examples(seed).values())


@cases(
    ("call", "words"),
    [
        (
            lambda: tk.tracking_rate(
                np.eye(2), [[[1, 0.9], [0, 1]]] * 2, np.ones((2, 2)), np.ones((2, 2)), 0.1, 3
            ),
            "each A_i symmetric",
        ),
        (lambda: tk.matrix(np.eye(3), np.ones((2, 1, 1)), 0.1), "W, A"),
        (lambda: tk.matrix(np.eye(2), np.ones((2, 1, 1)), 0), "alpha"),
        (lambda: tk.solution(np.zeros((2, 1, 1)), np.ones((2, 1))), "one minimum"),
        (lambda: tk.decay(*tk.usual(), 0.05, 900), "fewer"),
        (lambda: tk.run(*tk.usual(), 0.05, 0), "steps = 0"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(BadInput, match=words):
        call()
