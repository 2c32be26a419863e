"""Adam's step: random inputs, the gradients that attain it, broken hypotheses, edge sizes, and the lab's own moments."""

import math

import numpy as np
import pytest
import torch
from cases import cases

from deca_lab.algorithm.moments import Adam
from deca_lab.bounds.adam_step import adam_step, constants, limit, quoted, steps_taken, witness
from deca_lab.errors import BadInput

DECAYS = [(0.9, 0.999), (0.0, 0.5), (0.5, 0.9), (0.9, 0.95), (0.95, 0.99), (0.9, 0.81), (0.9, 0.5)]


def by_hand(t, a1, a2):
    """The Cauchy-Schwarz constant from its sums, term by term, without a closed form."""
    first = sum(
        ((1 - a1) * a1 ** (t - s)) ** 2 / ((1 - a2) * a2 ** (t - s)) for s in range(1, t + 1)
    )
    return math.sqrt(first * (1 - a2**t)) / (1 - a1**t)


@cases("seed", range(10))
@cases(("a1", "a2"), DECAYS)
def test_random_gradients_hold_and_are_finite(a1, a2, seed):
    rng = np.random.default_rng([seed, 1])
    t, n, d = 40, int(rng.integers(1, 5)), int(rng.integers(1, 9))
    heavy = rng.standard_t(1.1, (t, n, d)) * 10.0 ** rng.uniform(
        -3, 3, (t, 1, 1)
    )  # wild: outliers, growth, decay
    found = adam_step(heavy, Adam(a1, a2))
    assert (found.finite, found.holds(), found.verdict) == (True, True, "holds"), found.ratios


@cases(("a1", "a2"), DECAYS)
def test_the_witness_attains_it_at_every_step(a1, a2):
    steps = (
        60 if a1 else 1
    )  # with a1 = 0 the witness is one gradient after zeros, and 0 / 0 has no direction
    found = adam_step(witness(steps, Adam(a1, a2)), Adam(a1, a2, eps=0.0))
    np.testing.assert_allclose(found.ratios, 1, rtol=1e-9)
    assert found.holds()


def test_the_witness_neither_overflows_nor_hides_in_eps():
    long = witness(1000, largest=1e8)
    assert np.isfinite(long).all()
    assert long.max() == 1e8
    found = adam_step(long)
    assert found.holds()
    assert found.ratios[-1] == pytest.approx(1, rel=1e-9)
    assert 5 < found.lhs[-1] < limit()


def test_the_known_numbers():
    c = constants(48)
    assert c[0] == pytest.approx(1, rel=1e-12)
    assert (round(c[9], 3), round(c[47], 3), round(limit(), 3)) == (1.043, 1.584, 7.270)
    assert constants(20000)[-1] == pytest.approx(limit(), rel=1e-6)
    assert round(quoted(), 3) == 3.162


@cases(("a1", "a2"), [*DECAYS, (0.9, 0.9), (0.6, 0.36)])
def test_the_constants_never_fall_and_stay_below_their_limit(a1, a2):
    C = constants(1000, Adam(a1, a2))
    assert (np.diff(C) >= -1e-12 * C[1:]).all()
    assert (limit(Adam(a1, a2)) * (1 + 1e-12) >= C).all()
    assert constants(9999, Adam(0.9, 0.5))[-1] == math.inf  # without a warning


@cases(("a1", "a2"), DECAYS)
@cases("t", [1, 2, 7, 30])
def test_the_constant_is_the_sum_by_hand(a1, a2, t):
    assert constants(t, Adam(a1, a2))[-1] == pytest.approx(by_hand(t, a1, a2), rel=1e-12)


def test_broken_the_quoted_constant_is_exceeded():
    steps = steps_taken(witness(1000), Adam(eps=0.0))
    assert steps.max() > 1.8 * quoted()
    assert (
        steps > quoted()
    ).argmax() + 1 == 210  # the first step that the false constant does not cover


@pytest.mark.parametrize("a2", [0.81, 0.5])
def test_broken_without_a1_squared_below_a2_no_constant_bounds_all_steps(a2):
    adam = Adam(0.9, a2, eps=0.0)
    assert limit(adam) == math.inf
    steps = steps_taken(witness(400, adam), adam)
    assert steps[399] > 1.9 * steps[99]
    assert constants(400, adam)[-1] > 1.3 * constants(200, adam)[-1]  # grows, like sqrt(t) at least


def test_broken_feedback_in_the_moments():
    ones = np.ones((30, 1, 1))
    assert adam_step(ones).holds()
    fed = adam_step(ones, h=ones, b1=0.9, b2=0.999)
    assert fed.verdict == "hypothesis broken: there is feedback"
    assert fed._replace(broken="").verdict == "fails at step 2"
    assert fed.lhs[1] == pytest.approx(0.271 / 0.19 / math.sqrt(0.002997001 / 0.001999))
    assert adam_step(ones, h=ones, b1=1.0, b2=1.0).verdict == "holds"  # b1 = b2 = 1 is no feedback


@cases("shape", [(1, 1, 1), (1, 2, 3), (2, 1, 1), (5, 1, 1), (5, 2, 1)])
def test_edge_sizes(shape):
    found = adam_step(np.full(shape, -3.0), Adam(eps=0.0))
    assert found.holds()
    assert found.lhs.shape == shape[:1]
    np.testing.assert_allclose(
        found.lhs, 1, rtol=1e-12
    )  # equal gradients: m_hat = g, v_hat = g*g, whatever the decays


def test_zeros():
    assert adam_step(np.zeros((3, 1, 2))).holds()
    assert adam_step(np.zeros((3, 1, 2)), Adam(eps=0.0)).verdict.startswith(
        "hypothesis broken: eps = 0"
    )


@pytest.mark.parametrize(("a1", "a2"), DECAYS[:4])
def test_the_left_side_is_the_step_of_torchs_own_adam(a1, a2):
    g = np.random.default_rng(4).standard_normal((25, 2, 3))
    x = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    optimiser, before, moved = (
        torch.optim.Adam([x], lr=1.0, betas=(a1, a2), eps=1e-8),
        x.detach().clone(),
        [],
    )
    for row in torch.from_numpy(g):
        x.grad = row.clone()
        optimiser.step()
        moved.append(float((x.detach() - before).abs().max()))
        before = x.detach().clone()
    np.testing.assert_allclose(adam_step(g, Adam(a1, a2)).lhs, moved, rtol=1e-10)


@cases("bad", [np.nan, np.inf, 1e200])
def test_what_is_not_finite_or_overflows_is_never_said_to_hold(bad):
    g = np.ones((4, 1, 2))
    g[2, 0, 1] = bad
    assert adam_step(g).verdict == "not finite"


@cases(("changed", "message"), [
    ({"gradients": np.ones((3, 2))}, r"gradients = \(3, 2\) cannot be used: it must be of shape \(steps, clients, columns\)"),
    ({"gradients": np.ones((0, 2, 2))}, "gradients"),
    ({"h": np.ones((2, 1, 1))}, r"h = \(2, 1, 1\) cannot be used: it must be of the gradients' shape \(3, 1, 1\)"),
    ({"adam": Adam(a1=1.0)}, "a1 = 1.0 cannot be used: it must be at least 0 and below 1"),
    ({"adam": Adam(a2=0.0)}, "a2 = 0.0 cannot be used: it must be above 0 and below 1"),
    ({"adam": Adam(eps=-1.0)}, "eps = -1.0 cannot be used: it must be 0 or more"),
])  # fmt: skip
def test_bad_input(changed, message):
    with pytest.raises(BadInput, match=message):
        adam_step(**{"gradients": np.ones((3, 1, 1)), **changed})
