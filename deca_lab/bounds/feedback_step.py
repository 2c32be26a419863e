"""DECA's step with its feedback: however gradients and discrepancies come, no coordinate moves by more than C_t learning rates.

Claim       |m_hat_t| / (sqrt(v_hat_t) + eps) <= C_t in every coordinate, with q = a1^2 b1^2 / (a2 b2) and
            C_t^2 = (1 - a2^t) / (1 - a1^t)^2 * ( (1 - a1)^2 / (1 - a2) * (1 + q + ... + q^(t-1))
                                                + a1^2 (1 - b1)^2 / (a2 (1 - b2)) * (1 + q + ... + q^(t-2)) ).
Hypotheses  0 <= a1 < 1, 0 < a2 < 1, 0 <= b1 <= 1, 0 < b2 < 1 (or b1 = b2 = 1: no feedback, and the second line is not
            there); moments start at zero and hold gradients g and, after each of them, discrepancies h, of any size, sign
            and scale, that float64 can square where eps is 0 or next to it (`adam_step`).
Symbols     g_s (N, D): `gradients[s - 1]`, h_s: `h[s - 1]`; a1, a2, eps: `adam`; b1, b2.
Source      derived, Cauchy and Schwarz over both sums at once. b1 = b2 = 1 is the claim `adam_step`.
Tight       attained at any one t by g and h in proportion to their weights in m over those in v (`witness`), eps = 0.
Proof       theory/feedback_step.ipynb.
"""

from typing import NamedTuple

import numpy as np

from deca_lab.algorithm import moments as mo
from deca_lab.bounds.adam_step import steps_taken
from deca_lab.bounds.bound import Bound
from deca_lab.bounds.hypotheses import squarable
from deca_lab.errors import check
from deca_lab.mixing.graphs import Array

SOURCE = "derived, Cauchy and Schwarz"
USUAL = mo.Adam()


def feedback_step(
    gradients: Array, h: Array, b1: float = 0.9, b2: float = 0.999, adam: mo.Adam = USUAL
) -> Bound:
    """Return both sides at t = 1 .. T for gradients and discrepancies (T, N, D): the largest step by the library's Adam.

    h[t - 1] enters after the step of t. Raises BadInput for shapes or decays that the claim does not speak of.
    """
    gradients, h = np.asarray(gradients, dtype=np.float64), np.asarray(h, dtype=np.float64)
    check(
        gradients.ndim == 3 and gradients.size > 0,
        "gradients",
        gradients.shape,
        "of shape (steps, clients, columns)",
    )
    check(h.shape == gradients.shape, "h", h.shape, f"of the gradients' shape {gradients.shape}")
    rhs = constants(len(gradients), adam, b1, b2)
    lhs = steps_taken(gradients, adam, h, b1, b2)
    lost = squarable(adam, gradients, h, b2)
    return Bound(lhs, rhs, "DECA's step with feedback", SOURCE, broken=lost)


class Weights(NamedTuple):
    """What an entry of age j (0 is the newest) weighs in the raw moments of a visit, by the recursions unrolled; (steps,) each.

    Gradients: alpha in m, beta in v. Discrepancies, the newest of which came a step earlier: eta in m, mu in v.
    """

    alpha: Array
    beta: Array
    eta: Array
    mu: Array


def weights(steps: int, adam: mo.Adam = USUAL, b1: float = 1.0, b2: float = 1.0) -> Weights:
    """Return the weights of the last `steps` entries of a visit."""
    check(0 <= adam.a1 < 1, "a1", adam.a1, "at least 0 and below 1")
    check(0 < adam.a2 < 1, "a2", adam.a2, "above 0 and below 1")
    check(0 <= b1 <= 1, "b1", b1, "between 0 and 1")
    check(
        0 < b2 < 1 or b1 == b2 == 1,
        "b2",
        b2,
        "above 0 and below 1, or 1 with b1 = 1: else h counts in m and not in v",
    )
    first, second = (adam.a1 * b1) ** np.arange(steps), (adam.a2 * b2) ** np.arange(steps)
    return Weights(
        (1 - adam.a1) * first,
        (1 - adam.a2) * second,
        adam.a1 * (1 - b1) * first,
        adam.a2 * (1 - b2) * second,
    )


def constants(steps: int, adam: mo.Adam = USUAL, b1: float = 0.9, b2: float = 0.999) -> Array:
    """Return C_1 .. C_steps, a discrepancy being fed after each step."""
    weights(steps, adam, b1, b2)  # for what it raises
    spread, C = 0.0, np.empty(steps)
    for t in range(1, steps + 1):
        spread = entered(spread, adam.a1, adam.a2)
        C[t - 1] = constant(spread, t, adam)
        spread = entered(spread, b1, b2)
    return C


def entered(spread: float, decay1: float, decay2: float) -> float:
    """Return sum_e (weight of e in m)^2 / (weight of e in v) after one more entry, all older ones having decayed."""
    if decay2 == 1:  # with decay1 = 1: nothing enters and nothing decays
        return spread
    return spread * decay1**2 / decay2 + (1 - decay1) ** 2 / (1 - decay2)


def constant(spread: float, t: int, adam: mo.Adam) -> float:
    """Return C_t of that sum after the t-th gradient, whenever discrepancies came: Cauchy and Schwarz."""
    return float(np.sqrt((1 - adam.a2**t) * spread)) / (1 - adam.a1**t)


def witness(
    steps: int, adam: mo.Adam = USUAL, b1: float = 0.9, b2: float = 0.999
) -> tuple[Array, Array]:
    """Return gradients and discrepancies (steps, 1, 1) that attain C_t at t = `steps`; the largest of them is 1."""
    w = weights(steps, adam, b1, b2)
    g = (w.alpha / w.beta)[::-1]
    h = np.zeros(steps)
    if b2 < 1 and steps > 1:
        h[:-1] = (w.eta / w.mu)[:-1][::-1]
    largest = max(g.max(), h.max())
    return (g / largest)[:, None, None], (h / largest)[:, None, None]


def examples(seed: int = 0) -> dict[str, Bound]:
    """Return wild random entries, the witness, and the witness without feedback, 48 steps each."""
    rng = np.random.default_rng([seed, 0xFE])
    g, h = rng.standard_t(1.5, (2, 48, 4, 25))
    exact = USUAL._replace(eps=0.0)
    return {
        "random, b1 = 0.9": feedback_step(g, h),
        "the witness": feedback_step(*witness(48, exact), adam=exact),
        "the witness, b1 = 0.5": feedback_step(*witness(48, exact, 0.5), 0.5, adam=exact),
    }


def broken(seed: int = 0) -> Bound:
    """Return the witness against the constants of Adam without feedback: the second line is needed."""
    exact = USUAL._replace(eps=0.0)
    bound = feedback_step(*witness(48, exact, 0.5), 0.5, adam=exact)
    return bound._replace(rhs=constants(48, exact, 1.0, 1.0))
