"""Adam's moments and the feedback: hand arithmetic, the bound on a step, and what each option does."""

import math

import pytest
import torch
from cases import cases
from reference import ROUNDING

from deca_lab.algorithm import moments as mo
from deca_lab.algorithm.moments import SCALES, SIGNALS, Adam, Feedback, Moments


def row(*values):
    return torch.tensor([values], dtype=torch.float64)


def close(got, want, tol=ROUNDING):
    torch.testing.assert_close(got, want, rtol=tol, atol=tol)


def test_two_steps_by_hand():
    adam = Adam(0.5, 0.75, 1.0)  # eps = 1, so that its place shows
    first, held = mo.adam_(mo.start(row(0, 0)), row(2, -4), adam)
    close(first, row(2 / 3, -4 / 5))  # m_hat = g, v_hat = g^2
    close(held.m, row(1, -2))
    close(held.v, row(1, 4))
    second, held = mo.adam_(held, row(6, 0), adam)
    close(held.m, row(3.5, -1))  # 0.5 m + 0.5 g
    close(held.v, row(9.75, 3))  # 0.75 v + 0.25 g^2
    close(
        second, row((14 / 3) / (math.sqrt(156 / 7) + 1), (-4 / 3) / (math.sqrt(48 / 7) + 1))
    )  # / 0.75, / 0.4375
    assert held.steps == 2


def test_the_first_step_is_the_sign_of_the_gradient_and_so_is_it_after_a_restart():
    g, adam = row(3.0, -0.02, 1e-4), Adam(0.9, 0.999, 0.0)
    held = mo.start(g)
    for _ in range(5):
        _, held = mo.adam_(held, -7 * g, adam)
    again, held = mo.adam_(mo.start(g), g, adam)
    close(again, row(1, -1, 1), 1e-12)
    assert held.steps == 1


def test_start_is_zero_like_the_block_and_shares_nothing():
    x = torch.ones(3, 4)
    held = mo.start(x)
    assert (held.m.shape, held.m.dtype, held.steps) == ((3, 4), torch.float32, 0)
    assert not held.m.any()
    assert not held.v.any()
    held.m.fill_(5)
    assert not held.v.any()
    assert bool((x == 1).all())


def test_a_step_changes_no_gradient_and_hands_out_no_view_of_the_moments():
    g, held = row(1.0, 2.0), mo.start(row(0.0, 0.0))
    direction, held = mo.adam_(held, g, Adam())
    direction.fill_(99.0)
    close(g, row(1.0, 2.0))
    close(held.m, row(0.1, 0.2))
    close(held.v, row(0.001, 0.004))


def test_a_gradient_of_zero_is_no_step_and_no_nan():
    direction, held = mo.adam_(mo.start(row(0.0)), row(0.0), Adam())
    close(direction, row(0.0))
    assert torch.isfinite(held.v).all()


def bound(t, a1, a2):
    """C_t: the longest step that Adam can take in one coordinate, by Cauchy-Schwarz, in units of the learning rate."""
    q = a1**2 / a2
    return math.sqrt(
        (1 - a1) ** 2 * (1 - a2**t) / ((1 - a1**t) ** 2 * (1 - a2)) * (1 - q**t) / (1 - q)
    )


def longest(gradients, adam):
    held, steps = mo.start(gradients[0]), []
    for g in gradients:
        direction, held = mo.adam_(held, g, adam)
        steps.append(float(direction.abs().max()))
    return steps


@pytest.mark.parametrize(
    ("a1", "a2"), [(0.9, 0.999), (0.9, 0.99), (0.5, 0.9), (0.0, 0.9), (0.8, 0.7)]
)
def test_no_gradients_make_a_step_longer_than_the_bound(a1, a2):
    g = torch.Generator().manual_seed(0)
    normal = torch.randn(48, 4, 250, generator=g, dtype=torch.float64)
    for gradients in (
        normal,
        normal**7,
        normal.exp(),
        normal.cumsum(0).exp(),
        (normal > 1.5).double() * normal + 1e-100,
    ):
        for t, step in enumerate(longest(gradients, Adam(a1, a2, 0.0)), 1):
            assert step <= bound(t, a1, a2) * (1 + 1e-12)


@cases("t", [1, 2, 10, 48, 300])
@cases(("a1", "a2"), [(0.9, 0.999), (0.9, 0.99), (0.5, 0.9)])
def test_the_bound_is_attained_by_geometric_gradients(t, a1, a2):
    gradients = [row((a1 / a2) ** (t - s)) for s in range(1, t + 1)]
    assert longest(gradients, Adam(a1, a2, 0.0))[-1] == pytest.approx(bound(t, a1, a2), rel=1e-6)


def test_the_bound_has_its_published_values():
    assert [round(bound(t, 0.9, 0.999), 3) for t in (1, 10, 48, 10**5)] == [
        1.0,
        1.043,
        1.584,
        7.270,
    ]


X, X_NEW, LR = row(1.0, 2.0), row(4.0, 6.0), 0.5
H = {
    ("printed", "raw"): (3, 4),
    ("printed", "lr"): (6, 8),
    ("printed", "unit"): (0.6, 0.8),
    ("downhill", "raw"): (-3, -4),
    ("downhill", "lr"): (-6, -8),
    ("downhill", "unit"): (-0.6, -0.8),
    ("zero", "raw"): (0, 0),
    ("zero", "lr"): (0, 0),
    ("zero", "unit"): (0, 0),
}


@cases(("signal", "scale"), list(H))
def test_feedback_by_hand(signal, scale):
    held = Moments(row(8.0, -8.0), row(16.0, 32.0), 7)
    a, b = H[signal, scale]
    got = mo.feed_(
        held, X.clone(), X_NEW.clone(), LR, Feedback(SIGNALS[signal], SCALES[scale], 0.75, 0.25)
    )
    close(got.m, row(6 + a / 4, -6 + b / 4), 1e-7)  # 0.75 m + 0.25 h; unit carries its 1e-8
    close(got.v, row(4 + 0.75 * a * a, 8 + 0.75 * b * b), 1e-7)  # 0.25 v + 0.75 h^2
    assert got.steps == 7  # the bias correction does not count feedback


def test_every_signal_and_scale_has_its_row_above():
    assert {(s, c) for s in SIGNALS for c in SCALES if SIGNALS[s]} == set(H)


def test_unit_is_each_clients_own_length():
    h = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, -1e-3]], dtype=torch.float64)
    got = mo.unit_(h.clone(), 0.1)
    close(
        got,
        torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, -1e-3 / (1e-3 + 1e-8)]], dtype=torch.float64),
        1e-8,
    )


def test_no_signal_leaves_the_moments_alone_whatever_b1_and_b2():
    held = Moments(row(1.0), row(2.0), 3)
    got = mo.feed_(held, row(0.0), row(9.0), 0.1, Feedback(SIGNALS["none"], SCALES["lr"], 0.0, 0.0))
    assert (got.m.item(), got.v.item(), got.steps) == (1.0, 2.0, 3)


@cases(("signal", "scale"), list(H))
def test_decays_of_one_leave_the_moments_alone_to_the_bit(signal, scale):
    m, v = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1)).unbind(0)
    x, x_new = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(2)).unbind(0)
    got = mo.feed_(
        Moments(m.clone(), v.clone(), 4),
        x,
        x_new,
        LR,
        Feedback(SIGNALS[signal], SCALES[scale], 1.0, 1.0),
    )
    assert torch.equal(got.m, m)
    assert torch.equal(got.v, v)


def test_decays_of_zero_keep_the_signal_alone():
    held = Moments(row(8.0, -8.0), row(16.0, 32.0), 1)
    got = mo.feed_(held, X, X_NEW, LR, Feedback(SIGNALS["printed"], SCALES["raw"], 0.0, 0.0))
    close(got.m, row(3.0, 4.0))
    close(got.v, row(9.0, 16.0))


@cases("signal", ["printed", "downhill", "zero"])
def test_a_learning_rate_of_zero_divides_by_nothing(signal):
    held = mo.feed_(
        Moments(row(1.0, 1.0), row(1.0, 1.0), 1),
        X,
        X_NEW,
        0.0,
        Feedback(SIGNALS[signal], SCALES["lr"], 0.5, 0.5),
    )
    assert torch.isfinite(held.m).all()
    assert torch.isfinite(held.v).all()
    still = mo.feed_(
        Moments(row(1.0, 1.0), row(1.0, 1.0), 1),
        X,
        X,
        0.0,
        Feedback(SIGNALS[signal], SCALES["lr"], 0.5, 0.5),
    )
    close(still.m, row(0.5, 0.5))


def test_feedback_changes_no_parameters():
    x, x_new = X.clone(), X_NEW.clone()
    for signal, scale in H:
        mo.feed_(mo.start(x), x, x_new, LR, Feedback(SIGNALS[signal], SCALES[scale], 0.5, 0.5))
    assert torch.equal(x, X)
    assert torch.equal(x_new, X_NEW)


def test_raw_feedback_of_either_sign_is_small_beside_gradients_and_the_signs_mirror():
    up = mo.feed_(mo.start(X), X, X_NEW, LR, Feedback(SIGNALS["printed"], SCALES["raw"], 0.9, 0.9))
    down = mo.feed_(
        mo.start(X), X, X_NEW, LR, Feedback(SIGNALS["downhill"], SCALES["raw"], 0.9, 0.9)
    )
    close(up.m, -down.m)
    close(up.v, down.v)
    assert (up.m > 0).all()  # printed: towards x_new, so the subtracted step points back
