"""A theorem for DECA as implemented here: the mean model comes near a stationary point, up to a floor that is written out.

Claim       For every number S of inner steps, s-th step in block k(s) at turn r(s) of its visit, xbar_s the mean model before it:
            (1/S) sum_s E || grad_k(s) f(xbar_s) ||^2  <=  2 (G' + eps) / omega *
                [ (f(x_0) - f_inf) / (lr S)  +  (1/S) sum_s ( E_r^2 / (2 omega_r)  +  L lr C_r^2 d_k / 2 ) ],
            E_r = sqrt(theta) A_r + F_r / sqrt(eps),       theta = (1 / sqrt(eps) - 1 / sqrt(G' + eps))^2,
            A_r = omega_r (zeta + L K sqrt(d)) + 2 chi_r K sqrt(d_k) + sigma sqrt(kappa_r),         K = lr C rho / (1 - rho),
            F_r = omega_r L K sqrt(d) + lr sqrt(d_k) (L Lambda_r + chi_r C) + sigma sqrt(kappa_r / N).
Hypotheses  every f_i L-smooth, f >= f_inf; every W doubly stochastic, rho < 1 the largest of theirs; one lr; equal
            start; adapt then combine at every step; blocks in any order, R steps a visit, moments from zero at each
            visit; decays as in `feedback_step`, eps > 0;
            feedback off (b1 = b2 = 1), or raw, printed or downhill; |g_ij| <= G along the run; noise unbiased given the
            past, independent between clients, E || noise of a block ||^2 <= sigma^2; (1/N) sum_i || grad_k f_i - grad_k f ||^2
            <= zeta^2 at the mean models. Instead of eps and G' + eps any bounds on what clients divided by (`divisors`).
Symbols     C_r, C = max C_r: `feedback_step.constants`; omega_r, chi_r, kappa_r, Lambda_r: `Turns`; G': `largest_root`.
Source      derived here. The paper's own theorem has a rate, O(1 / sqrt(T B R)); its constants are not known to us.
Tight       no: half of it in the nearest instance found (.4995); the notebook shows the slack of every line.
            With lr = c / sqrt(T B R) the bracket falls like 1 / sqrt(T B R) down to a floor of zeta and sigma that no lr
            removes: each client divides by a second moment of its own.
Proof       theory/deca_descent.ipynb.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from deca_lab.algorithm import moments as mo
from deca_lab.bounds import hypotheses as hy
from deca_lab.bounds.bound import Bound
from deca_lab.bounds.feedback_step import constants, weights
from deca_lab.bounds.landscape import Landscape, quadratics, valleys
from deca_lab.bounds.trace import Setting, Step, trace
from deca_lab.errors import check
from deca_lab.mixing.graphs import Array
from deca_lab.mixing.topology import topology

SOURCE = "derived here"
BOUNDED_STEPS = (hy.adams, *hy.decays, hy.no_weight_decay, *hy.mixed_by_w, hy.equal_start)
HYPOTHESES = (
    *(*BOUNDED_STEPS, hy.no_clipping, hy.steady, hy.moving, hy.restarted, hy.every_step),
    *(hy.adapt_first, hy.raw_feedback, hy.together, hy.bounded_below),
)


class Known(NamedTuple):
    """What the right side needs to know of problem and run: L, f(x_0) - f_inf, G, zeta, sigma, rho, N, block sizes d_k."""

    smoothness: float
    gap: float
    steepest: float
    zeta: float
    sigma: float
    rho: float
    clients: int
    widths: tuple[int, ...]

    @property
    def d(self) -> int:
        """Coordinates of the whole model."""
        return sum(self.widths)


class Turns(NamedTuple):
    """What the decays make of turn r = 1 .. R of a visit; arrays (R,).

    C: largest step. omega: weight of all gradients in m_hat, 1 without feedback. chi: of all discrepancies. kappa: sum
    of the gradients' squared weights. lag: Lambda_r, over how many bounded steps the gradients in m_hat are old. `first`,
    `second`: the largest sqrt(v_hat) is the root of first G^2 + second |h|^2.
    """

    C: Array
    omega: Array
    chi: Array
    kappa: Array
    lag: Array
    first: Array
    second: Array


def turns(steps: int, adam: mo.Adam, b1: float = 1.0, b2: float = 1.0) -> Turns:
    """Return the constants of the turns 1 .. `steps`; raise BadInput for decays that the claim does not speak of."""
    w, r, C = weights(steps, adam, b1, b2), np.arange(1, steps + 1), constants(steps, adam, b1, b2)
    one, two = 1 - adam.a1**r, 1 - adam.a2**r
    shifted = [np.concatenate([[0.0], np.cumsum(x)[:-1]]) for x in (w.eta, w.mu)]
    old = np.array([lag(w.alpha, C, t) for t in range(1, steps + 1)])
    return Turns(
        C,
        np.cumsum(w.alpha) / one,
        shifted[0] / one,
        np.cumsum(w.alpha**2) / one**2,
        old / one,
        np.cumsum(w.beta) / two,
        shifted[1] / two,
    )


def lag(alpha: Array, C: Array, t: int) -> float:
    """Return sum_s alpha_(t-s) (C_s + .. + C_(t-1)): over how many bounded steps the gradients in m_hat_t are old."""
    return float(sum(alpha[t - s] * C[s - 1 : t - 1].sum() for s in range(1, t + 1)))


def apart(known: Known, lr: float, t: Turns) -> float:
    """Return K: no block's disagreement ( (1/N) sum_i || x_i - xbar ||^2 )^(1/2) ever exceeds K sqrt(d_k)."""
    return lr * float(t.C.max()) * _pull(known)


def largest_root(known: Known, lr: float, t: Turns) -> float:
    """Return G': no sqrt(v_hat) exceeds it."""
    C = float(t.C.max())
    h = lr * C * (1 + 2 * known.clients**0.5 * _pull(known))
    return float(np.sqrt(t.first * known.steepest**2 + t.second * h**2).max())


def _pull(known: Known) -> float:
    """Return rho / (1 - rho)."""
    check(known.rho < 1, "rho", known.rho, "below 1: the clients must come together")
    return known.rho / (1 - known.rho)


def spread(known: Known, lr: float, t: Turns) -> Array:
    """Return A_r of each turn for the widest block: how far apart the clients' m_hat are, in the mean square's root."""
    K = apart(known, lr, t)
    fed: Array = 2 * t.chi * K * math.sqrt(max(known.widths))
    local: Array = t.omega * (known.zeta + known.smoothness * K * math.sqrt(known.d))
    noise: Array = known.sigma * np.sqrt(t.kappa)
    return local + fed + noise


def stale(known: Known, lr: float, t: Turns) -> Array:
    """Return F_r of each turn for the widest block: how far the mean m_hat is from omega_r grad_k f(xbar)."""
    K, wide = apart(known, lr, t), math.sqrt(max(known.widths))
    old: Array = lr * wide * (known.smoothness * t.lag + t.chi * float(t.C.max()))
    drifted: Array = t.omega * known.smoothness * K * math.sqrt(known.d)
    noise: Array = known.sigma * np.sqrt(t.kappa / known.clients)
    return drifted + old + noise


def theta(low: float, high: float) -> float:
    """Return the largest of p^-1 times the variance of numbers between 1/high and 1/low whose mean is p."""
    return (1 / math.sqrt(low) - 1 / math.sqrt(high)) ** 2


def right_side(
    known: Known, setting: Setting, divisors: tuple[float, float] | None = None
) -> Array:
    """Return the right side after S = 1 .. T B R inner steps; the widest block stands for each.

    `divisors` are bounds on what clients divide by, such as those seen in a run; without them eps and G' + eps.
    """
    fed = setting.feedback
    check(
        fed.signal is None or fed.scale is mo.raw,
        "feedback",
        fed,
        "raw: a discrepancy over the learning rate is not small",
    )
    t = turns(setting.inner_steps, setting.adam, *((fed.b1, fed.b2) if fed.signal else (1.0, 1.0)))
    low, high = divisors or (
        setting.adam.eps,
        largest_root(known, setting.lr, t) + setting.adam.eps,
    )
    return assembled(known, setting, t, low, high, np.full(setting.inner_steps, theta(low, high)))


def assembled(
    known: Known, setting: Setting, t: Turns, low: float, high: float, thetas: Array
) -> Array:
    """Return the right side (S,) from its parts: clients divide by numbers from `low` to `high`, `thetas` (R,) is theirs."""
    error = np.sqrt(thetas) * spread(known, setting.lr, t) + stale(known, setting.lr, t) / low**0.5
    each = error**2 / (2 * t.omega) + known.smoothness * setting.lr * t.C**2 * max(known.widths) / 2
    steps = np.arange(1, setting.steps + 1)
    running = np.cumsum(np.tile(each, setting.rounds * setting.blocks)) / steps
    return 2 * high / float(t.omega.min()) * (known.gap / (setting.lr * steps) + running)


def floor(known: Known, setting: Setting, divisors: tuple[float, float] | None = None) -> float:
    """Return what the right side falls to after infinitely many steps of infinitely small learning rate."""
    still = setting._replace(lr=1e-300)
    return float(right_side(known._replace(gap=0.0), still, divisors)[-1])


def known(landscape: Landscape, setting: Setting, steps: list[Step] | None = None) -> Known:
    """Return what is known of a landscape and a setting; the largest gradient from the steps where the landscape has none."""
    d = landscape.data.shape[1]
    widths = tuple(len(part) for part in torch.tensor_split(torch.arange(d), setting.blocks))
    seen = (
        max((float(step.g.abs().max()) for step in steps), default=0.0)
        if steps
        else landscape.steepest + setting.noise
    )
    check(
        np.isfinite(seen),
        "steps",
        "none",
        "given: this landscape's gradients have no bound of their own",
    )
    gap = landscape.mean(landscape.start) - landscape.lowest
    return Known(
        landscape.smoothness,
        gap,
        seen,
        landscape.zeta,
        setting.noise * max(widths) ** 0.5,
        hy.largest_rho(setting.topology),
        len(landscape.data),
        widths,
    )


def deca_descent(
    landscape: Landscape, setting: Setting, seeds: int = 1, observed: bool = False
) -> Bound:
    """Return both sides after S = 1 .. T B R inner steps of the library's DECA, the left one the mean over `seeds` runs.

    `observed`: the right side with the smallest and largest numbers that clients really divided by. With noise the left
    side is an expectation, of which `seeds` runs are an estimate; its standard error is the `rounding`.
    """
    runs = [trace(landscape, setting._replace(seed=setting.seed + i)) for i in range(seeds)]
    lhs, error = left_side(landscape, runs)
    steps = [step for run in runs for step in run]
    rhs = right_side(
        known(landscape, setting, steps), setting, divided_by(steps) if observed else None
    )
    return Bound(
        lhs,
        rhs,
        "descent of DECA's mean model",
        SOURCE,
        axis="inner step",
        rounding=error,
        broken=hy.broken(HYPOTHESES, setting.instance),
    )


def left_side(landscape: Landscape, runs: list[list[Step]]) -> tuple[Array, Array]:
    """Return the mean over runs of (1/S) sum_s || grad_k(s) f(xbar_s) ||^2 for every S, and its standard error (0 for one)."""
    squares = np.array([_squares(landscape, run) for run in runs])  # (runs, S)
    each = squares.cumsum(1) / np.arange(1, len(runs[0]) + 1)
    return each.mean(0), each.std(0, ddof=1) / len(runs) ** 0.5 if len(runs) > 1 else np.zeros(
        each.shape[1]
    )


def _squares(landscape: Landscape, run: list[Step]) -> list[float]:
    return [squared(landscape, step) for step in run]


def divided_by(steps: list[Step]) -> tuple[float, float]:
    """Return the smallest and largest numbers that any client divided by."""
    smallest = min(float(step.below.min()) for step in steps)
    return smallest, max(float(step.below.max()) for step in steps)


def squared(landscape: Landscape, step: Step) -> float:
    """Return || grad_k f(xbar) ||^2 before a step."""
    return float(landscape.mean_gradient(step.before.mean(0))[step.columns].square().sum())


def lines(landscape: Landscape, setting: Setting, steps: list[Step]) -> dict[str, Bound]:
    """Return every line of the proof along a run without noise: both sides at each inner step."""
    check(setting.noise == 0, "noise", setting.noise, "0: with noise the lines hold in expectation")
    facts, fed = known(landscape, setting, steps), setting.feedback.signal is not None
    t = turns(
        setting.inner_steps,
        setting.adam,
        *((setting.feedback.b1, setting.feedback.b2) if fed else (1.0, 1.0)),
    )
    rows = [_line(landscape, setting, step, t) for step in steps]
    table = np.array([list(row.values()) for row in rows])
    left = dict(zip(rows[0], table.T, strict=True))
    r = np.array([step.turn - 1 for step in steps])
    low, high = setting.adam.eps, largest_root(facts, setting.lr, t) + setting.adam.eps
    K, M = apart(facts, setting.lr, t), 1 / low - 1 / high
    sides = {
        "1 direction": (left["direction"], t.C[r]),
        "2 disagreement": (left["apart"], np.full(len(r), K * facts.d**0.5)),
        "3 descent": (left["descent"], left["descent bound"]),
        "4 spread of m_hat": (left["spread"], spread(facts, setting.lr, t)[r]),
        "5a denominators, by the range": (left["e1"], (M**2 / 4 * high * left["spread"] ** 2)),
        "5b denominators, by the mean": (left["e1"], theta(low, high) * left["spread"] ** 2),
        "6 stale mean": (left["stale"], stale(facts, setting.lr, t)[r]),
        "7 both errors": (
            left["error"],
            theta(low, high) ** 0.5 * left["spread"] + left["stale"] / low**0.5,
        ),
        "8 Young": (left["young"], left["young bound"]),
        "9 largest denominator": (left["squared"] / high, left["in P"]),
    }
    tiny = 1e-12
    return {
        name: Bound(a, b, name, SOURCE, axis="inner step", rounding=tiny)
        for name, (a, b) in sides.items()
    }


def _line(landscape: Landscape, setting: Setting, step: Step, t: Turns) -> dict[str, float]:
    """Return the quantities of the proof at one inner step."""
    omega, lr, L = t.omega[step.turn - 1], setting.lr, landscape.smoothness
    xbar, after = step.before.mean(0), step.after.mean(0)
    gradient = landscape.mean_gradient(xbar)[step.columns]
    p, m_bar, u_bar = (1 / step.below).mean(0), step.m_hat.mean(0), step.direction.mean(0)
    e1, e2 = u_bar - p * m_bar, p * (m_bar - omega * gradient)
    error = float(((e1 + e2).square() / p).sum())
    in_p = float((p * gradient.square()).sum())
    inner = float(gradient @ u_bar)
    return {
        "direction": float(step.direction.abs().max()),
        "apart": float((step.before - xbar).square().sum(1).mean().sqrt()),
        "descent": landscape.mean(after) - landscape.mean(xbar) + lr * inner,
        "descent bound": L * lr**2 / 2 * float(u_bar.square().sum()),
        "spread": float((step.m_hat - m_bar).square().sum(1).mean().sqrt()),
        "e1": float((e1.square() / p).sum()),
        "stale": float((m_bar - omega * gradient).norm()),
        "error": error**0.5,
        "young": omega / 2 * in_p - error / (2 * omega),
        "young bound": inner,
        "squared": float(gradient.square().sum()),
        "in P": in_p,
    }


def examples(seed: int = 0) -> dict[str, Bound]:
    """Return valleys without feedback, quadratics with the printed one, and the same with what was really divided by."""
    ring = topology("ring", 4)
    fed = Setting(
        ring,
        2,
        4,
        6,
        0.02,
        mo.Adam(0.9, 0.999, 0.1),
        mo.Feedback(mo.printed, mo.raw, 0.9, 0.999),
        seed=seed,
    )
    plain = fed._replace(feedback=mo.Feedback(None, mo.raw, 1.0, 1.0))
    return {
        "valleys, no feedback": deca_descent(valleys(4, 6, seed=seed), plain),
        "quadratics, printed feedback": deca_descent(quadratics(4, 6, seed=seed), fed),
        "the same, divisors seen": deca_descent(quadratics(4, 6, seed=seed), fed, observed=True),
    }


def broken(seed: int = 0) -> Bound:
    """Return a run in which one client differs from all others, against a right side with zeta = 0, which has no floor."""
    hills = quadratics(4, 1, zeta=3.0, far=0.0, seed=seed, lonely=True)
    setting = Setting(topology("complete", 4), 1, 80, 6, 1e-2, mo.Adam(0.0, 0.5, 0.1), seed=seed)
    bound = deca_descent(hills, setting)
    return bound._replace(
        rhs=right_side(known(hills._replace(zeta=0.0), setting, trace(hills, setting)), setting)
    )
