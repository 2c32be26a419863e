"""Track before the sign: random problems, plain loops, the family of the median, broken hypotheses, edge sizes."""

import numpy as np
import pytest
import torch
from cases import cases

from deca_lab.bounds import track_before_sign as tb
from deca_lab.bounds.median_limit import Bowls, bowls, kappa, lopsided
from deca_lab.errors import BadInput
from deca_lab.mixing.topology import topology


@cases("seed", range(12))
def test_random_bowls_from_afar_hold(seed):
    rng = np.random.default_rng([seed, 0x51])
    made = bowls(int(rng.integers(2, 7)), int(rng.integers(1, 4)), seed)
    made = made._replace(start=made.start + rng.standard_normal(made.start.shape))
    found = tb.track_before_sign(made, 0.02, 400)
    assert (found.finite, found.verdict) == (True, "holds")
    assert found.tightness > 1e-4  # and is no triviality


@cases("n", [4, 10])
def test_on_the_family_of_the_median_it_goes_to_the_mean_and_averaged_signs_do_not(n):
    made, net = lopsided(n), topology("complete", n)
    late = {o: tb.squares(made, 0.01, 1500, net, o)[-50:].mean() for o in (tb.tracked_signs, tb.averaged_signs)}  # fmt: skip
    assert late[tb.tracked_signs] < 1e-4
    assert late[tb.averaged_signs] == pytest.approx(kappa(n), rel=0.03)


def test_the_left_side_is_a_plain_loop():
    made, lr, steps = bowls(5, 2, 3), 0.03, 40
    W = topology("ring", 5).at(0)
    X, y, last, want = np.tile(made.start, (5, 1)), np.zeros((5, 2)), np.zeros((5, 2)), []
    for _ in range(steps + 1):
        want.append(np.square((made.a * (X.mean(0) - made.c)).mean(0)).sum())
        g = made.a * (X - made.c)
        y, last = W @ y + g - last, g
        X = W @ (X - lr * np.sign(y))
    got = tb.squares(made, lr, steps, topology("ring", 5), tb.tracked_signs)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-12)


def test_the_bound_falls_with_the_square_of_the_step():
    ends = [tb.track_before_sign(lopsided(4), lr, 400).lhs[-20:].mean() for lr in (0.02, 0.01)]
    assert ends[0] / ends[1] == pytest.approx(4, rel=0.2)


def test_broken_hypotheses_are_named():
    assert tb.broken().verdict == "fails at step 7"
    ring = tb.track_before_sign(lopsided(6), 0.05, 100, topology("ring", 6))
    assert ring.verdict == "hypothesis broken: the graph is not complete"
    turns = tb.track_before_sign(lopsided(4), 0.05, 100, topology("one-peer-exponential", 4))
    assert turns.verdict == "hypothesis broken: W is another one at every mixing"


@cases("n", [1, 2])
def test_edge_sizes(n):
    made = Bowls(np.ones((n, 1)), np.arange(n, dtype=float)[:, None], np.array([0.3]))
    assert tb.track_before_sign(made, 0.1, 30).holds()


@pytest.mark.parametrize("steps", [0, 5])
def test_bad_input(steps):
    far = lopsided(4)._replace(start=np.array([1.0]))
    with pytest.raises(BadInput, match=f"steps = {steps}"):
        tb.track_before_sign(far, 0.01, steps)
    assert torch.get_default_dtype() == torch.float32
