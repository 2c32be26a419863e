"""Factor averaging: random inputs, factors that attain it, broken hypotheses, edge sizes, and the lab's own mixings."""

import numpy as np
import pytest
import torch
from cases import cases
from reference import LONG_ROUNDING, ROUNDING

from deca_lab.bounds import factor_averaging as fa
from deca_lab.errors import BadInput
from deca_lab.mixing.topology import topology
from deca_lab.models import factor_mixing

GRAPHS = {
    "ring": topology("ring", 6).at(0),
    "star": topology("star", 5).at(0),
    "complete": topology("complete", 4).at(0),
    "directed": sum(w * np.roll(np.eye(5), k, 1) for k, w in enumerate((0.5, 0.3, 0.2))),
    "negative": np.roll(np.eye(4), 1, 1) * 0.6 + np.roll(np.eye(4), -1, 1) * 0.6 - 0.2 * np.eye(4),
}
CLAIMS = {
    "bound": fa.factor_averaging,
    "identity": fa.identity,
    "cut": fa.cut,
    "best": fa.best,
    "drift": lambda A, B, W: fa.drift(A, B, W, 4),
}


def by_hand(A, B, w):
    """One client, one pair after another: mean of products minus product of means, and its bound."""
    mean_a, mean_b = (
        sum(w[j] * A[j] for j in range(len(w))),
        sum(w[j] * B[j] for j in range(len(w))),
    )
    products = sum(w[j] * B[j] @ A[j] for j in range(len(w)))
    spread_a = sum(abs(w[j]) * np.linalg.norm(A[j] - mean_a) ** 2 for j in range(len(w)))
    spread_b = sum(abs(w[j]) * np.linalg.norm(B[j] - mean_b) ** 2 for j in range(len(w)))
    return products - mean_b @ mean_a, np.sqrt(spread_a * spread_b)


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_random_factors_hold_and_are_finite(graph, claim):
    W = GRAPHS[graph]
    for seed in range(12):
        rng = np.random.default_rng([seed, 1])
        inner, outer = (int(k) for k in rng.integers(1, 9, 2))
        A, B = fa.random_factors(
            len(W), int(rng.integers(1, min(inner, outer) + 1)), inner, outer, seed
        )
        found = CLAIMS[claim](A * 10.0 ** rng.integers(-4, 5), B * 10.0 ** rng.integers(-4, 5), W)
        assert (found.finite, found.verdict) == (True, "holds"), (seed, found)


@pytest.mark.parametrize("graph", GRAPHS)
def test_both_sides_are_those_of_a_loop(graph):
    W = GRAPHS[graph]
    A, B = fa.random_factors(len(W), 2, 5, 7, seed=3)
    bound, same = fa.factor_averaging(A, B, W), fa.identity(A, B, W)
    for i, w in enumerate(W):
        matrix, limit = by_hand(A, B, w)
        assert bound.lhs[i] == pytest.approx(np.linalg.norm(matrix), rel=1e-12)
        assert bound.rhs[i] == pytest.approx(limit, rel=1e-12)
        np.testing.assert_allclose(
            same.lhs.reshape(len(W), 7, 5)[i], matrix, rtol=0, atol=LONG_ROUNDING
        )
        np.testing.assert_allclose(
            same.rhs.reshape(len(W), 7, 5)[i], matrix, rtol=0, atol=LONG_ROUNDING
        )


def test_the_identity_to_rounding():
    A, B = fa.random_factors(8, 4, 32, 32)
    found = fa.identity(A, B, topology("ring", 8).at(0))
    assert np.abs(found.lhs - found.rhs).max() < ROUNDING * np.abs(found.rhs).max()


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("graph", ["ring", "star", "complete", "directed"])
def test_the_witness_attains_the_bound_at_every_client(graph, rank):
    found = fa.factor_averaging(*fa.witness(len(GRAPHS[graph]), rank, 4, 5, seed=2), GRAPHS[graph])
    np.testing.assert_allclose(found.ratios, 1, rtol=1e-9)
    assert found.holds()


def test_the_complete_graph_attains_the_drift():
    A, B = fa.random_factors(8, 2, 12, 10)
    found = fa.drift(A, B, topology("complete", 8).at(0), 5)
    np.testing.assert_allclose(found.ratios, 1, rtol=1e-9)
    assert found.lhs[0] > 1


def test_the_slack_on_a_ring():
    A, B = fa.random_factors(8, 2, 12, 10)
    ring = topology("ring", 8).at(0)
    assert fa.factor_averaging(A, B, ring).tightness == pytest.approx(0.5409, abs=1e-4)
    assert fa.best(A, B, ring).tightness == pytest.approx(0.6433, abs=1e-4)
    assert fa.drift(A, B, ring, 20).tightness == pytest.approx(0.5284, abs=1e-4)


def test_a_single_singular_value_past_the_rank_by_hand():
    A, B = np.zeros((2, 1, 2)), np.zeros((2, 2, 1))
    A[0, 0, 0], B[0, 0, 0], A[1, 0, 1], B[1, 1, 0] = (
        1,
        6,
        1,
        4,
    )  # products diag(6, 0) and diag(0, 4)
    found = fa.cut(A, B, np.full((2, 2), 0.5))  # mean diag(3, 2): rank 1 keeps 3
    np.testing.assert_allclose(found.lhs, 4, rtol=1e-12)
    np.testing.assert_allclose(found.rhs, 4, rtol=1e-12)
    moved = fa.drift(A, B, np.full((2, 2), 0.5))
    assert (moved.lhs[0], moved.rhs[0]) == (pytest.approx(2), pytest.approx(2))


@pytest.mark.parametrize("graph", GRAPHS)
def test_no_product_of_that_rank_errs_less(graph):
    W, rng = GRAPHS[graph], np.random.default_rng(5)
    A, B = fa.random_factors(len(W), 2, 6, 5, seed=1)
    mean, tail = np.tensordot(W, B @ A, 1), fa.cut(A, B, W).rhs
    a, b = fa.decaf_once(A, B, W)
    for size in (0.0, 1e-3, 0.1, 3.0):
        near = (b + size * rng.standard_normal(b.shape)) @ (a + size * rng.standard_normal(a.shape))
        assert (np.square(near - mean).sum((1, 2)) >= tail * (1 - 1e-9)).all()


def test_the_left_sides_are_the_libraries():
    W = GRAPHS["ring"]
    A, B = fa.random_factors(6, 2, 7, 5, seed=4)
    params = {"m.lora_A": torch.from_numpy(A), "m.lora_B": torch.from_numpy(B)}
    found = factor_mixing.interference(params, W)
    assert found.total == pytest.approx(
        np.sqrt(np.mean(fa.factor_averaging(A, B, W).lhs ** 2)), rel=1e-12
    )
    assert found.bound == pytest.approx(
        np.sqrt(np.mean(fa.factor_averaging(A, B, W).rhs ** 2)), rel=1e-12
    )
    np.testing.assert_allclose(
        fa.cut(A, B, W).lhs, factor_mixing.truncation_error(params, W)["m"], rtol=1e-9
    )
    np.testing.assert_allclose(fa.best(A, B, W).lhs, np.sqrt(fa.cut(A, B, W).rhs), rtol=1e-9)


def test_broken_truncated_gossip_keeps_the_mean_of_plain_products_only_without_a_cut():
    W, (A, B) = GRAPHS["ring"], fa.random_factors(6, 2, 7, 5)
    assert fa.drift(A, B, W, 3).lhs[0] > 0.5  # cut: the mean moves
    np.testing.assert_allclose(
        fa.drift(A[:, :, :2], B, W, 3).lhs, 0, atol=LONG_ROUNDING
    )  # the rank suffices: it stays


def test_broken_columns_that_do_not_sum_to_one():
    found = fa.broken()
    assert found.verdict == "fails at mixing 1"
    np.testing.assert_allclose(found.rhs, 0, atol=LONG_ROUNDING)  # nothing is cut
    A, B = fa.random_factors(4, 2, 6, 5)
    assert found.lhs[0] == pytest.approx(np.linalg.norm(B[0] @ A[0] - (B @ A).mean(0)))


def test_broken_signed_weights_in_the_bound():
    W, (A, B) = GRAPHS["negative"], fa.random_factors(4, 1, 1, 1, seed=0)
    A[:], B[:] = (
        np.array([0.0, 1.0, 0.0, 1.0])[:, None, None],
        np.array([0.0, 1.0, 0.0, 1.0])[:, None, None],
    )
    assert fa.factor_averaging(A, B, W).holds()
    means = W @ A[:, 0, 0]
    signed = [W[i] @ (A[:, 0, 0] - means[i]) ** 2 for i in range(4)]
    assert min(signed) < 0  # no root: |w| is needed


@cases(("n", "rank", "inner", "outer"), [(1, 1, 1, 1), (1, 2, 3, 2), (2, 1, 1, 4), (5, 1, 3, 1)])
def test_edge_sizes(n, rank, inner, outer):
    W = topology("complete", n).at(0)
    A, B = fa.random_factors(n, rank, inner, outer)
    for name, claim in CLAIMS.items():
        assert claim(A, B, W).verdict == "holds", name
    if n == 1:
        np.testing.assert_allclose(fa.factor_averaging(A, B, W).lhs, 0, atol=ROUNDING)
    np.testing.assert_allclose(
        fa.factor_averaging(A[:1].repeat(n, 0), B[:1].repeat(n, 0), W).lhs, 0, atol=ROUNDING
    )


@cases("seed", range(3))
def test_examples_hold_and_broken_fails(seed):
    found = fa.examples(seed)
    assert {name: bound.verdict for name, bound in found.items()} == dict.fromkeys(found, "holds")
    assert fa.broken(seed).verdict == "fails at mixing 1"


@cases(("changed", "message"), [
    ({"A": np.ones((2, 3))}, r"A = \(2, 3\) cannot be used: it must be of shape \(N, r, in\)"),
    ({"B": np.ones((2, 3, 2))}, r"B = \(2, 3, 2\) cannot be used: it must be \(2, out, 1\)"),
    ({"W": np.eye(3)}, r"W = \(3, 3\) cannot be used: it must be \(2, 2\)"),
    ({"W": np.ones((2, 2))}, r"W = 'row sums \[2.0, 2.0\]' cannot be used: it must be rows that sum to 1"),
])  # fmt: skip
@cases("claim", [fa.factor_averaging, fa.identity, fa.cut, fa.best])
def test_bad_input(changed, message, claim):
    with pytest.raises(BadInput, match=message):
        claim(**{"A": np.ones((2, 1, 4)), "B": np.ones((2, 3, 1)), "W": np.eye(2), **changed})


def test_bad_rounds_and_ranks():
    with pytest.raises(
        BadInput, match="rounds = 0 cannot be used: it must be a whole number from 1 up"
    ):
        fa.drift(*fa.random_factors(2, 1, 2, 2), np.eye(2), 0)
    with pytest.raises(
        BadInput, match="rank = 3 cannot be used: it must be at most 2, the smaller dimension"
    ):
        fa.cut(*fa.random_factors(2, 3, 2, 4), np.eye(2))


def test_arguments_stay_as_they_were():
    A, B = fa.random_factors(6, 2, 4, 3)
    before = A.copy(), B.copy()
    for claim in CLAIMS.values():
        claim(A, B, GRAPHS["ring"])
    assert np.array_equal(A, before[0])
    assert np.array_equal(B, before[1])
