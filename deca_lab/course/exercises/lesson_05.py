"""Exercises of lesson 5: Adam's direction from its raw moments, and the feedback into them."""

import torch
from torch import Tensor

from deca_lab.algorithm import moments as mo
from deca_lab.course.exercises.exercise import Exercise, Mistake


def _rows(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


FIRST, SECOND = (
    _rows([0.3, -0.2, 0.05], [0.01, 0.4, -0.6]),
    _rows([0.04, 0.09, 0.002], [0.0005, 0.05, 0.2]),
)
GAP = _rows([0.5, -1.5, 0.2], [-0.3, 2.0, 0.7])


def adam_direction(m: Tensor, v: Tensor, steps: int, a1: float, a2: float, eps: float) -> Tensor:
    """Return m_hat / (sqrt(v_hat) + eps) of raw moments m, v (N, D) that hold `steps` gradients."""
    # A gradient of zero makes m and v of them, at no other change.
    before = mo.Moments(m / a1, v / a2, steps - 1)
    return mo.adam_(before, torch.zeros_like(m), mo.Adam(a1, a2, eps))[0]


def feed_back(m: Tensor, v: Tensor, h: Tensor, b1: float, b2: float) -> tuple[Tensor, Tensor]:
    """Return m and v (N, D) with the discrepancy h (N, D) fed into them with decays b1 and b2."""
    fed = mo.feed_(
        mo.Moments(m.clone(), v.clone(), 0),
        torch.zeros_like(h),
        h,
        1.0,
        mo.Feedback(mo.printed, mo.raw, b1, b2),
    )
    return fed.m, fed.v


def _ratio(m: Tensor, v: Tensor, first: float, second: float, eps: float) -> Tensor:
    """Return the direction with these two divisors in the place of Adam's corrections."""
    return m / first / ((v / second).sqrt() + eps)


ADAM_DIRECTION = Exercise(
    name="adam_direction",
    about="direction of Adam",
    solution=adam_direction,
    cases={
        "three gradients": (FIRST, SECOND, 3, 0.9, 0.999, 1e-8),
        "a large eps": (FIRST, SECOND, 5, 0.8, 0.95, 0.1),
    },
    mistakes=(
        Mistake(
            lambda m, v, t, a1, a2, eps: _ratio(m, v, 1, 1, eps),
            "the bias correction is missing: moments start at zero, so "
            "after t gradients they hold only 1 - a^t of their weight. Divide by it.",
        ),
        Mistake(
            lambda m, v, t, a1, a2, eps: _ratio(m, v, 1 - a1**t, 1, eps),
            "only m is corrected; v started at zero as well.",
        ),
        Mistake(
            lambda m, v, t, a1, a2, eps: _ratio(m, v, 1, 1 - a2**t, eps),
            "only v is corrected; m started at zero as well.",
        ),
        Mistake(
            lambda m, v, t, a1, a2, eps: _ratio(m, v, 1 - a1, 1 - a2, eps),
            "you divided by 1 - a; after t gradients it is 1 - a^t.",
        ),
        Mistake(
            lambda m, v, t, a1, a2, eps: _ratio(m, v, (1 - a1) ** t, (1 - a2) ** t, eps),
            "(1 - a)**t is the power of a difference; the correction is 1 - a**t.",
        ),
        Mistake(
            lambda m, v, t, a1, a2, eps: _ratio(v, m, 1 - a2**t, 1 - a1**t, eps),
            "m and v are exchanged: the root is taken of v, which holds squares.",
        ),
        Mistake(
            lambda m, v, t, a1, a2, eps: _ratio(m, v, 1 - a2**t, 1 - a1**t, eps),
            "a1 and a2 are exchanged: a1 belongs to m, a2 to v.",
        ),
        Mistake(
            lambda m, v, t, a1, a2, eps: _ratio(m, v, 1 - a1 ** (t + 1), 1 - a2 ** (t + 1), eps),
            "one gradient too many: `steps` of them are in the moments already.",
        ),
        Mistake(
            lambda m, v, t, a1, a2, eps: m / (1 - a1**t) / (v / (1 - a2**t) + eps),
            "the root is missing: v is of the size of squared gradients.",
        ),
        Mistake(
            lambda m, v, t, a1, a2, eps: m / (1 - a1**t) / (v / (1 - a2**t) + eps).sqrt(),
            "eps stands inside the root; it is added to the root.",
        ),
        Mistake(
            lambda m, v, t, a1, a2, eps: m / (1 - a1**t) / (v.sqrt() / (1 - a2**t) + eps),
            "you took the root of v before its correction; correct first.",
        ),
        Mistake(
            lambda m, v, t, a1, a2, eps: -_ratio(m, v, 1 - a1**t, 1 - a2**t, eps),
            "the sign is turned: the step subtracts "
            "the direction, so the direction itself has the sign of m.",
        ),
    ),
    hints=(
        "Correct first: m_hat is m / (1 - a1^t), and v_hat likewise with a2, for t = steps.",
        "Then m_hat / (sqrt(v_hat) + eps), entry by entry. In Python a power is **.",
    ),
)
FEED_BACK = Exercise(
    name="feed_back",
    about="feedback",
    solution=feed_back,
    cases={
        "usual decays": (FIRST, SECOND, GAP, 0.9, 0.99),
        "strong feedback": (SECOND, SECOND * SECOND, -GAP, 0.3, 0.6),
    },
    mistakes=(
        Mistake(
            lambda m, v, h, b1, b2: (b1 * m + (1 - b1) * h, b2 * v + (1 - b2) * h),
            "v holds squares: feed h * h into it. "
            "With h itself it can become negative, and its root no number.",
        ),
        Mistake(
            lambda m, v, h, b1, b2: ((1 - b1) * m + b1 * h, (1 - b2) * v + b2 * h * h),
            "the weights are exchanged: b1 and b2 are what the moments keep.",
        ),
        Mistake(
            lambda m, v, h, b1, b2: (b2 * m + (1 - b2) * h, b1 * v + (1 - b1) * h * h),
            "b1 and b2 are exchanged: b1 belongs to m, b2 to v.",
        ),
        Mistake(
            lambda m, v, h, b1, b2: (m + (1 - b1) * h, v + (1 - b2) * h * h),
            "the moments must shrink by b1 and b2 before h is added, so that weights sum to one.",
        ),
        Mistake(
            lambda m, v, h, b1, b2: (b1 * m + h, b2 * v + h * h),
            "h counts in full; its weights are 1 - b1 and 1 - b2.",
        ),
        Mistake(
            lambda m, v, h, b1, b2: (b1 * m - (1 - b1) * h, b2 * v + (1 - b2) * h * h),
            "the sign of h is turned in m; h is given with its sign.",
        ),
        Mistake(
            lambda m, v, h, b1, b2: (b1 * m + (1 - b1) * h, v),
            "v has to be fed as well, with h * h.",
        ),
        Mistake(
            lambda m, v, h, b1, b2: (b1 * m + (1 - b1) * h, b2 * v + ((1 - b2) * h) ** 2),
            "you squared the weight too: it is (1 - b2) h * h.",
        ),
        Mistake(
            lambda m, v, h, b1, b2: feed_back(m, v, h, b1, b2)[::-1],
            "m and v are exchanged in the return: m comes first.",
        ),
        Mistake(
            lambda m, v, h, b1, b2: (m, v), "nothing was fed: these are the moments as they were."
        ),
    ),
    hints=(
        "The same form as Adam's own: keep b1 of m and add 1 - b1 of what is new.",
        "m takes h with b1, v takes h * h with b2; return both, m first.",
    ),
)
EXERCISES = (ADAM_DIRECTION, FEED_BACK)
