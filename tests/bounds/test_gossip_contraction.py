"""Gossip contraction: random inputs, the vector that attains it, broken hypotheses, edge sizes, and the lab's own gossip."""

import numpy as np
import pytest
from cases import cases
from reference import ROUNDING
from scipy.sparse import csr_array

from deca_lab.algorithm import stacking
from deca_lab.bounds import hypotheses as hy
from deca_lab.bounds.bound import Bound
from deca_lab.bounds.certified_gossip import certify
from deca_lab.bounds.dgd_quadratics import dgd_quadratics
from deca_lab.bounds.gossip_contraction import (
    disagreements,
    gossip_contraction,
    ring_rho,
    second_eigenvalue,
    second_singular_value,
    witness,
)
from deca_lab.bounds.tracking_rate import tracking_rate
from deca_lab.errors import BadInput
from deca_lab.mixing.topology import GRAPHS, Topology, topology

SOUND = (hy.doubly_stochastic, hy.non_negative, hy.symmetric, hy.heard, hy.together)


def doubly_stochastic(rng, n, terms=5):
    """A random mean of permutations: every such W is doubly stochastic (Birkhoff), and hardly one is symmetric."""
    shares = rng.dirichlet(np.ones(terms))
    return sum(w * np.eye(n)[rng.permutation(n)] for w in shares)


@cases("seed", range(20))
def test_random_inputs_hold_and_are_finite(seed):
    rng = np.random.default_rng([seed, 1])
    n, d = int(rng.integers(2, 12)), int(rng.integers(1, 6))
    W, X = (
        doubly_stochastic(rng, n),
        rng.standard_normal((n, d)) * 10.0 ** rng.integers(-6, 6) + rng.standard_normal(d),
    )
    found = gossip_contraction(W, X, 12)
    assert (found.finite, found.holds(), found.verdict) == (True, True, "holds"), found
    assert found.at.tolist() == list(range(1, 13))
    assert found.tightness <= 1 + 1e-9
    x = X
    for lhs in found.lhs:  # against the dense power, by numpy
        x = W @ x
        assert lhs == pytest.approx(
            np.linalg.norm(x - X.mean(0)), rel=1e-9, abs=1e-12 * np.linalg.norm(X)
        )


@cases("name", sorted(set(GRAPHS) - {"torus", "none"}))
def test_the_second_singular_vector_attains_it_at_every_mixing_for_symmetric_w(name):
    W = topology(name, 8, degree=3).at(0)
    found = gossip_contraction(W, witness(W, 3), 6)
    assert found.holds()
    if second_singular_value(W) > 1e-12:  # the complete graph is exact after one mixing
        np.testing.assert_allclose(found.ratios, 1, rtol=1e-9)


@cases("shares", [[0.5, 0.5], [0.2, 0.3, 0.5], [1.2, -0.4, 0.2]])
def test_the_second_singular_vector_attains_it_at_every_mixing_for_normal_w(shares):
    W = sum(w * np.roll(np.eye(7), k, 1) for k, w in enumerate(shares))  # one direction only
    assert not np.allclose(W, W.T)
    np.testing.assert_allclose(gossip_contraction(W, witness(W), 12).ratios, 1, rtol=1e-9)


def test_equal_moduli_of_both_signs_do_not_stop_the_witness():  # ring of four: 1/3, 1/3, -1/3
    W, u = topology("ring", 4).at(0), np.array([[2.0], [1.0], [0.0], [-3.0]])
    found = gossip_contraction(W, u, 9)
    assert not np.allclose(W @ u, u / 3)
    assert not np.allclose(W @ u, -u / 3)
    np.testing.assert_allclose(found.ratios, 1, rtol=1e-9)


@cases("seed", range(5))
def test_the_witness_attains_it_at_the_first_mixing_without_symmetry(seed):
    W = doubly_stochastic(np.random.default_rng([seed, 2]), 7, terms=3)
    found = gossip_contraction(W, witness(W), 3)
    assert found.ratios[0] == pytest.approx(1, rel=1e-9)
    assert found.holds()
    assert witness(W).sum() == pytest.approx(0, abs=1e-12)


@cases("n", [3, 4, 5, 8, 31, 100])
def test_the_ring_in_closed_form(n):
    assert ring_rho(n) == pytest.approx(second_singular_value(topology("ring", n).at(0)), abs=1e-12)
    dense = np.linalg.svd(topology("ring", n).at(0) - 1 / n, compute_uv=False)[0]
    assert ring_rho(n) == pytest.approx(dense, abs=1e-12)


def test_broken_the_second_eigenvalue_is_not_a_factor():
    W = doubly_stochastic(np.random.default_rng(3), 6, terms=3)
    assert second_eigenvalue(W) < second_singular_value(W) - 1e-3  # doubly stochastic, not normal
    found = gossip_contraction(W, witness(W), 5, factor=second_eigenvalue)
    assert not found.holds()
    assert found.verdict == "fails at mixing 1"
    assert found.tightness > 1
    assert gossip_contraction(W, witness(W), 5).holds()


def test_broken_a_w_that_moves_the_mean():
    W = np.full((4, 4), 0.25) + np.outer(
        np.ones(4), [0.3, -0.1, -0.1, -0.1]
    )  # rows sum to 1, columns do not
    np.testing.assert_allclose(W.sum(1), 1)
    X = np.array([[1.0], [-1.0], [0.0], [0.0]])
    found = gossip_contraction(W, X, 4)
    assert not found.holds()
    assert found.verdict == "hypothesis broken: W is not doubly stochastic"
    assert found._replace(broken="").verdict.startswith("fails at mixing")
    assert found.lhs[-1] == pytest.approx(
        0.4 * 2
    )  # all agree, on another mean: 0.4 away in each of four coordinates


def test_broken_a_directed_star_fails_although_its_eigenvalues_look_well():
    W = np.array(
        [[1, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5]]
    )  # everybody follows client 0: the mean becomes its model
    found = gossip_contraction(W, np.array([[3.0], [0.0], [0.0]]), 40, factor=lambda W: 0.5)
    assert not found.holds()
    assert found.lhs[-1] == pytest.approx(2 * 3**0.5)


@cases("n", [1, 2])
def test_edge_sizes(n):
    W = topology("ring", n).at(0)
    found = gossip_contraction(W, np.arange(n * 2.0).reshape(n, 2), 3)
    assert found.holds()
    assert found.lhs.shape == (3,)
    np.testing.assert_allclose(
        found.lhs, 0, atol=ROUNDING
    )  # one client is its own mean; two with half each meet at once
    assert gossip_contraction(W, witness(W, 2), 3).holds()
    halfway = gossip_contraction(topology("ring", n, weights="lazy").at(0), witness(W), 3)
    assert halfway.holds()
    assert halfway.tightness == pytest.approx(1 if n == 2 else 0)


def test_the_left_side_is_the_labs_own_consensus_distance():
    rng = np.random.default_rng(5)
    W, X = (
        topology("ring", 80).at(0),
        rng.standard_normal((80, 3)),
    )  # 80 clients: mixed over the edges, not densely
    import torch

    x = torch.from_numpy(np.linalg.matrix_power(W, 4) @ X)
    assert disagreements((W,), X, 4)[-1] == pytest.approx(
        (80 * stacking.consensus_distance(x)) ** 0.5, rel=1e-9
    )
    assert gossip_contraction(W, X, 400).holds()


def test_matrices_in_turn_multiply_their_factors():
    sequence = topology("one-peer-exponential", 8)
    X = np.random.default_rng(6).standard_normal((8, 2))
    found = gossip_contraction(sequence, X, 6)
    rhos = [second_singular_value(W) for W in sequence.matrices]
    np.testing.assert_allclose(
        found.rhs, np.linalg.norm(X - X.mean(0)) * np.cumprod([*rhos, *rhos]), rtol=1e-12
    )
    assert found.holds()
    assert found.lhs[2] < ROUNDING < found.rhs[2]


@cases(("W", "X", "rounds", "message"), [
    (np.ones((2, 3)), np.ones((2, 1)), 1, r"W = \(2, 3\) cannot be used: it must be square"),
    (np.full((2, 2), np.nan), np.ones((2, 1)), 1, "W = nan cannot be used: it must be finite in each entry"),
    (np.eye(2), np.ones((3, 1)), 1, r"X = \(3, 1\) cannot be used: it must be of shape \(2, D\)"),
    (np.eye(2), np.ones(2), 1, r"X = \(2,\) cannot be used"),
    (np.eye(2), np.ones((2, 1)), 0, "rounds = 0 cannot be used: it must be a whole number from 1 up"),
])  # fmt: skip
def test_bad_input(W, X, rounds, message):
    with pytest.raises(BadInput, match=message):
        gossip_contraction(W, X, rounds)


def test_arguments_stay_as_they_were():
    W, X = topology("path", 4).at(0), np.arange(4.0)[:, None]
    before = W.copy(), X.copy()
    gossip_contraction(W, X, 3)
    assert np.array_equal(W, before[0])
    assert np.array_equal(X, before[1])


# the form that all claims share


@cases(("lhs", "rhs", "verdict"), [
    ([1.0, 2.0], [1.0, 2.0], "holds"),
    ([1.0, 2.0 + 1e-8], [1.0, 2.0], "fails at step 2"),
    ([1.0, 2.0 + 1e-10], [1.0, 2.0], "holds"),
    ([3.0, 3.0], [1.0, 2.0], "fails at step 1"),
    ([0.0, np.nan], [1.0, 2.0], "not finite"),
    ([0.0, 0.0], [1.0, np.inf], "not finite"),
    ([-np.inf, 0.0], [1.0, 1.0], "not finite"),
    ([], [], "nothing was compared"),
    (1.0, 2.0, "holds"),
    (np.nan, 2.0, "not finite"),
])  # fmt: skip
def test_verdicts(lhs, rhs, verdict):
    found = Bound(
        np.array(lhs) if isinstance(lhs, list) else lhs,
        np.array(rhs) if isinstance(rhs, list) else rhs,
        "c",
        "s",
    )
    assert found.verdict == verdict
    assert found.holds() == (verdict == "holds")


def test_tightness_and_rounding():
    found = Bound(np.array([0.5, 1e-17]), np.array([1.0, 0.0]), "c", "s", rounding=1e-16)
    assert found.holds()
    assert found.tightness == 0.5
    assert found.ratios.tolist() == [0.5, 0.0]
    broken = Bound(np.array([0.5, 1e-15]), np.array([1.0, 0.0]), "c", "s", rounding=1e-16)
    assert broken.tightness == np.inf
    assert broken.verdict == "fails at step 2"
    assert np.isnan(Bound(np.array([np.nan]), np.array([1.0]), "c", "s").tightness)


def test_a_nan_in_x_is_never_said_to_hold():
    X = np.ones((4, 2))
    X[1, 1] = np.nan
    assert gossip_contraction(topology("ring", 4).at(0), X, 2).verdict == "not finite"


def test_sums_of_w_that_are_off_one_within_the_tolerance_are_counted_as_rounding():
    """W near J, whose rows do not quite sum to one, moves the mean of clients that agree."""
    W = np.full((3, 3), 1 / 3) * (1 + 5e-10)
    X = 1e3 + np.array([[0.0], [1e-3], [-1e-3]])
    found = gossip_contraction(W, X, 8)
    assert found.holds()
    assert found.lhs[-1] > 1e3 * found.rhs[-1]  # what is left is the drift of the mean alone
    assert not found._replace(rounding=2**-52 * 3 * np.linalg.norm(X) * found.at).holds()


def test_rounding_grows_where_a_signed_w_makes_disagreement_grow():
    """Found by an hour of attack: equal clients, rho = 1.8; what one mixing rounds is 1.8 times as much after the next."""
    rng, before = np.random.default_rng(0), []
    for _ in range(20):
        turn = np.linalg.qr(np.column_stack([np.ones(4), rng.standard_normal((4, 3))]))[0][:, 1:]
        W = 0.25 + turn @ np.diag([1.8, -0.5, 1.2]) @ turn.T
        X = np.full((4, 1), rng.standard_normal())
        found = gossip_contraction(W, X, 30)
        assert found.rhs.max() < 1e-6
        assert found.holds()
        allowed = 4 * 2**-52 * 4 * np.linalg.norm(X) * found.at  # as it was, and four times over
        before.append(found._replace(rhs=0 * found.rhs, rounding=allowed).holds())
    assert not all(before)


def test_claims_take_a_sparse_w_as_a_dense_one():
    rng, W = np.random.default_rng(0), topology("ring", 8).at(0)
    X, A, b = rng.standard_normal((8, 2)), np.stack([np.eye(2)] * 8), rng.standard_normal((8, 2))
    for given in (csr_array(W), csr_array(W).tocsc()):
        found = gossip_contraction(given, X, 9)
        np.testing.assert_allclose(found.lhs, gossip_contraction(W, X, 9).lhs, atol=ROUNDING)
        np.testing.assert_array_equal(found.rhs, gossip_contraction(W, X, 9).rhs)
        assert certify(given) == certify([given]) == certify(W)
        for claim in (dgd_quadratics, tracking_rate):
            sides = [claim(M, A, b, X, 0.1, 9) for M in (given, W)]
            np.testing.assert_array_equal(sides[0].lhs, sides[1].lhs)
    torus = topology("torus", 400)
    assert gossip_contraction(torus, witness(torus.at(0)), 2).holds()
    assert hy.broken(SOUND, hy.Instance(torus)) == ""
    assert "not doubly stochastic" in hy.broken(
        SOUND, hy.Instance(Topology("W", (1.1 * torus.at(0),)))
    )
    assert "above 64 clients" in certify(torus).note
