"""Adam's step: however the gradients come, no coordinate moves by more than C_t learning rates at step t of a visit.

Claim       |m_hat_t| / (sqrt(v_hat_t) + eps) <= C_t in every coordinate, with q = a1^2 / a2 and
            C_t^2 = (1 - a1)^2 (1 - a2^t) / ((1 - a1^t)^2 (1 - a2)) * (1 + q + ... + q^(t-1)).
Hypotheses  0 <= a1 < 1, 0 < a2 < 1, eps >= 0; moments start at zero and hold gradients only (no feedback).
            Where eps is 0, or next to it, no second moment may be so small that float64 rounds it to nothing: a gradient
            of 0, or of 1e-158.
            C_t never falls with t; if q < 1 too, it stays below its limit C_inf = (1 - a1) / sqrt((1 - a2) (1 - q)).
Symbols     g_s (N, D): `gradients[s - 1]`; a1, a2, eps: `adam`; t = 1 .. len(gradients).
Source      derived, by Cauchy and Schwarz. The often quoted (1 - a1) / sqrt(1 - a2) is no bound (`quoted`).
Tight       attained at every t at once by g_s in proportion to (a1/a2)^(t-s), with eps = 0, a1 > 0 (`witness`).
Proof       theory/adam_step.ipynb.
"""

import numpy as np
import torch

from deca_lab.algorithm import moments as mo
from deca_lab.bounds.bound import Bound
from deca_lab.bounds.hypotheses import FED, squarable
from deca_lab.errors import check
from deca_lab.mixing.graphs import Array

SOURCE = "derived, Cauchy and Schwarz"
USUAL = mo.Adam()  # a1 = 0.9, a2 = 0.999, eps = 1e-8


def adam_step(
    gradients: Array,
    adam: mo.Adam = USUAL,
    h: Array | None = None,
    b1: float = 0.9,
    b2: float = 0.999,
) -> Bound:
    """Return both sides at t = 1 .. T for gradients (T, N, D), the left one by the library's own Adam: largest coordinate.

    `h` (T, N, D) breaks a hypothesis: it is fed into the moments after each step, with `b1`, `b2`, as DECA's feedback.
    Raises BadInput for a shape, a1, a2 or eps that the claim does not speak of.
    """
    gradients = np.asarray(gradients, dtype=np.float64)
    check(
        gradients.ndim == 3 and gradients.size > 0,
        "gradients",
        gradients.shape,
        "of shape (steps, clients, columns)",
    )
    fed = gradients if h is None else h
    check(
        np.shape(fed) == gradients.shape,
        "h",
        np.shape(fed),
        f"of the gradients' shape {gradients.shape}",
    )
    _in_range(adam)
    lhs = steps_taken(gradients, adam, h, b1, b2)
    return Bound(
        lhs,
        constants(len(gradients), adam),
        "Adam's step",
        SOURCE,
        broken=squarable(adam, gradients) if h is None or b1 == b2 == 1 else FED,
    )


def constants(steps: int, adam: mo.Adam = USUAL) -> Array:
    """Return C_1 .. C_steps."""
    _in_range(adam)
    t = np.arange(1, steps + 1)
    with np.errstate(over="ignore"):  # q above 1, and many steps: infinite
        series = np.cumsum((adam.a1**2 / adam.a2) ** (t - 1.0))  # 1 + q + ... + q^(t-1)
        squares = (1 - adam.a2**t) / (1 - adam.a2) * series
    C: Array = (1 - adam.a1) / (1 - adam.a1**t) * np.sqrt(squares)
    return C


def limit(adam: mo.Adam = USUAL) -> float:
    """Return C_inf, or infinity where a1^2 >= a2: then no constant bounds all steps."""
    _in_range(adam)
    q = adam.a1**2 / adam.a2
    return (1 - adam.a1) / float(np.sqrt((1 - adam.a2) * (1 - q))) if q < 1 else float("inf")


def quoted(adam: mo.Adam = USUAL) -> float:
    """Return (1 - a1) / sqrt(1 - a2), often quoted as a bound on Adam's step, and false."""
    return (1 - adam.a1) / float(np.sqrt(1 - adam.a2))


def witness(steps: int, adam: mo.Adam = USUAL, largest: float = 1.0) -> Array:
    """Return gradients (steps, 1, 1) that attain C_t at every t: each a2 / a1 times the one before it.

    With a1 = 0 they are zeros before the last, which attains it alone. Written backwards from the last, or forwards where
    they shrink, so that the largest is `largest` and none overflows.
    """
    ratio = adam.a1 / adam.a2
    exponent = np.arange(steps - 1, -1, -1.0) if ratio <= 1 else -np.arange(steps, dtype=np.float64)
    return largest * (ratio**exponent)[:, None, None]


def steps_taken(
    gradients: Array, adam: mo.Adam, h: Array | None = None, b1: float = 0.9, b2: float = 0.999
) -> Array:
    """Return max |direction| (T,) of the library's Adam over gradients (T, N, D), `h` being fed back after each step."""
    feedback = mo.Feedback(None if h is None else mo.printed, mo.raw, b1, b2)
    fed = torch.from_numpy(np.zeros_like(gradients) if h is None else np.array(h, dtype=np.float64))
    zero, largest = torch.zeros_like(fed[0]), []
    moments = mo.start(zero)
    for g, displaced in zip(torch.from_numpy(gradients), fed, strict=True):
        direction, moments = mo.adam_(moments, g, adam)
        overflown = not bool(moments.v.isfinite().all())  # m / inf = 0 would pass for a small step
        largest.append(float("nan") if overflown else float(direction.abs().max()))
        moments = mo.feed_(moments, zero, displaced, 1.0, feedback)
    return np.array(largest)


def _in_range(adam: mo.Adam) -> None:
    check(0 <= adam.a1 < 1, "a1", adam.a1, "at least 0 and below 1")
    check(0 < adam.a2 < 1, "a2", adam.a2, "above 0 and below 1")
    check(adam.eps >= 0, "eps", adam.eps, "0 or more")


def examples(seed: int = 0) -> dict[str, Bound]:
    """Return wild random gradients and the witness, 200 steps each."""
    wild = np.random.default_rng([seed, 0xAD]).standard_t(1.1, (200, 4, 25))
    exact = USUAL._replace(eps=0.0)
    return {
        "random gradients": adam_step(wild),
        "the witness": adam_step(witness(200, exact), exact),
    }


def broken(seed: int = 0) -> Bound:
    """Return Adam with feedback in its moments, against the constants of moments that hold gradients only."""
    ones = np.ones((30, 1, 1))
    return adam_step(ones, h=ones, b1=0.9, b2=0.999)
