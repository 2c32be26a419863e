"""DECA's step with feedback: random inputs, the witness, broken hypotheses, edge sizes, and a plain loop of the recursions."""

import math

import numpy as np
import pytest
from cases import cases

from deca_lab.algorithm.moments import Adam
from deca_lab.bounds import adam_step
from deca_lab.bounds.feedback_step import (
    broken,
    constants,
    examples,
    feedback_step,
    weights,
    witness,
)
from deca_lab.errors import BadInput

EXACT = Adam(eps=0.0)
DECAYS = [
    (0.9, 0.999, 0.9, 0.999),
    (0.9, 0.999, 0.99, 0.999),
    (0.5, 0.9, 0.3, 0.6),
    (0.9, 0.95, 0.1, 0.9),
    (0.0, 0.5, 0.5, 0.5),
    (0.9, 0.95, 0.0, 0.5),
]


def loop(g, h, adam, b1, b2):
    """The recursions of the paper, a number at a time: raw m and v of one coordinate, and the step after each gradient."""
    m = v = 0.0
    for t, (now, displaced) in enumerate(zip(g, h, strict=True), 1):
        m, v = adam.a1 * m + (1 - adam.a1) * now, adam.a2 * v + (1 - adam.a2) * now**2
        yield abs(m / (1 - adam.a1**t)) / (math.sqrt(v / (1 - adam.a2**t)) + adam.eps)
        m, v = b1 * m + (1 - b1) * displaced, b2 * v + (1 - b2) * displaced**2


@cases("seed", range(10))
@cases(("a1", "a2", "b1", "b2"), DECAYS)
def test_random_entries_hold_and_are_finite(a1, a2, b1, b2, seed):
    rng = np.random.default_rng([seed, 3])
    shape = (30, int(rng.integers(1, 5)), int(rng.integers(1, 9)))
    g, h = rng.standard_t(1.2, shape), rng.standard_t(1.2, shape) * 10.0 ** rng.uniform(-4, 4)
    found = feedback_step(g, h, b1, b2, Adam(a1, a2))
    assert (found.finite, found.holds()) == (True, True), found.ratios


@cases("t", [1, 2, 3, 10, 48])
@cases(("a1", "a2", "b1", "b2"), DECAYS)
def test_the_witness_attains_it_at_its_step(a1, a2, b1, b2, t):
    adam = Adam(a1, a2, 0.0)
    g, h = witness(t, adam, b1, b2)
    if a1 == 0:
        g[:-1] = 1e-30  # only the last gradient counts; zeros before it would make 0 / 0
        h[:] = 0.0
    found = feedback_step(g, h, b1, b2, adam)
    assert found.ratios[-1] == pytest.approx(1, rel=1e-9)


@cases(("a1", "a2", "b1", "b2"), DECAYS)
def test_the_left_side_is_a_plain_loop(a1, a2, b1, b2):
    g, h = np.random.default_rng(5).standard_normal((2, 20))
    found = feedback_step(g[:, None, None], h[:, None, None], b1, b2, Adam(a1, a2))
    np.testing.assert_allclose(found.lhs, list(loop(g, h, Adam(a1, a2), b1, b2)), rtol=1e-10)


@cases(("a1", "a2", "b1", "b2"), DECAYS)
def test_the_weights_are_those_of_the_recursion(a1, a2, b1, b2):
    adam, steps = Adam(a1, a2), 6
    w = weights(steps, adam, b1, b2)
    for age in range(steps):  # a single one that many steps ago
        m, v = (1 - a1), (1 - a2)
        for _ in range(age):
            m, v = a1 * b1 * m, a2 * b2 * v
        assert (w.alpha[age], w.beta[age]) == pytest.approx((m, v))
        assert (w.eta[age], w.mu[age]) == pytest.approx(
            (a1 * (1 - b1) * (a1 * b1) ** age, a2 * (1 - b2) * (a2 * b2) ** age)
        )


def test_without_feedback_it_is_adams_step():
    np.testing.assert_allclose(constants(48, b1=1.0, b2=1.0), adam_step.constants(48), rtol=1e-12)
    assert round(constants(48, b1=1.0, b2=1.0)[-1], 3) == 1.584


def test_broken_the_constants_without_feedback_are_exceeded():
    assert broken().verdict.startswith("fails at step")
    fed = feedback_step(*witness(48, EXACT, 0.5), 0.5, adam=EXACT)
    assert fed.holds()
    assert (fed.lhs > constants(48, EXACT, 1.0, 1.0)).any()


def test_broken_a_discrepancy_that_counts_in_m_and_not_in_v():
    with pytest.raises(BadInput, match=r"b2 = 1\.0 cannot be used"):
        constants(5, b1=0.9, b2=1.0)


@cases("shape", [(1, 1, 1), (2, 1, 1), (1, 3, 2)])
def test_edge_sizes(shape):
    found = feedback_step(np.ones(shape), np.zeros(shape), adam=EXACT)
    assert found.holds()
    assert found.lhs[0] == pytest.approx(1)


def test_examples_hold():
    assert all(bound.holds() for bound in examples().values())


@cases(
    ("changed", "words"),
    [
        ({"gradients": np.ones((3, 2))}, "gradients"),
        ({"h": np.ones((2, 1, 1))}, "h = "),
        ({"b1": -0.1}, "b1 = -0.1"),
        ({"b2": 0.0}, "b2 = 0.0"),
        ({"adam": Adam(1.0)}, "a1 = 1.0"),
        ({"adam": Adam(0.9, 1.0)}, "a2 = 1.0"),
    ],
)
def test_bad_input(changed, words):
    with pytest.raises(BadInput, match=words):
        feedback_step(**{"gradients": np.ones((3, 1, 1)), "h": np.ones((3, 1, 1)), **changed})
