"""A repair with linear speed-up: divide by mixed second moments of the steps before, which no current gradient has a part in.

Claim       For the method `deca-predictable`, over the steps s = 1 .. S that move (each block's first gradient is only measured):
            (1/S) sum_s E || grad_k(s) f(xbar_s) ||^2  <=  2 u * [ (f(x_0) - f_inf) / (lr S)  +  L lr sigma^2 / (2 N l^2)
                +  (1/S) sum_s ( sqrt(theta_s) zeta + L K sqrt(d / l) )^2 / 2  +  (L lr a G)^2 d / l^3 ],
            K = lr (G / l) rho / (1 - rho),  a = a1 / (1 - a1),  theta_s = (1 / sqrt(l) - 1 / sqrt(l + w_s))^2,
            w_s = sqrt(1 + phi) min(G, sqrt(D_q)),  D_q = G^2 sqrt(N/2) S_q after q gradients of the block,
            S_q = sum_(j<q) (1 - a2) a2^j rho^(j+1) / (1 - a2^q).  If l > eps also w_s <= (1 + phi) D_q / (2 (l - eps)).
Hypotheses  every f_i L-smooth, f >= f_inf; one W, doubly stochastic, non-negative, rho < 1; adapt then combine; equal start;
            moments kept, no feedback; one lr <= l / (2 L), or l / L where a1 = 0; |g_ij| <= G; noise unbiased given the past,
            independent between clients, of variance sigma^2 a block; clients' gradients of a block within zeta at the mean
            models, in the mean square's root; what clients divide by lies in [l, u]: eps and sqrt(1 + phi) G + eps always do.
Symbols     phi: the optimiser's `floor`; d: all coordinates; `right_side` has all of them in these places.
Source      derived here. One client: ADOPT (Taniguchi et al. 2024, arXiv 2411.02853), whose order of halves this is.
Tight       no. But noise enters as sigma^2 / N; on a complete graph zeta is gone; elsewhere it comes with 1 - a2 and 1 / q.
Proof       theory/deca_predictable.ipynb.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deca_lab.algorithm import moments as mo
from deca_lab.algorithm.loop import Recipe, plan, train
from deca_lab.algorithm.optimisers import Optimiser, adam, divisor, predictable_adam
from deca_lab.bounds import hypotheses as hy
from deca_lab.bounds.bound import Bound
from deca_lab.bounds.deca_descent import Known, divided_by, known, left_side, theta
from deca_lab.bounds.landscape import Landscape, as_problem, quadratics, valleys
from deca_lab.bounds.trace import Setting, Step
from deca_lab.errors import check
from deca_lab.mixing.gossip import Mix
from deca_lab.mixing.graphs import Array
from deca_lab.mixing.topology import topology

SOURCE = "derived here"
HYPOTHESES = (
    *(*hy.mixed_by_w, hy.non_negative, hy.one_matrix, hy.together, hy.every_step, hy.adapt_first),
    *(hy.equal_start, hy.no_weight_decay, hy.no_clipping, hy.no_feedback, hy.steady, hy.moving),
    *(hy.bounded_below, hy.kept, hy.short_steps),
)
FLOOR = 0.01  # phi, the optimiser's usual one


def shares(count: int, rho: float, a2: float) -> Array:
    """Return S_q for q = 1 .. count: how far clients' second moments can differ after q gradients, in G^2 sqrt(N) / 2."""
    q = np.arange(1, count + 1)
    parts: Array = np.cumsum((1 - a2) * a2 ** (q - 1.0) * rho**q) / (1 - a2**q)
    return parts


def right_side(
    facts: Known, setting: Setting, divisors: tuple[float, float] | None = None
) -> Array:
    """Return the right side after each of the steps that move.

    `divisors` are bounds on what clients divide by, such as those seen in a run; without them the a priori ones.
    """
    adam_, lr, L, G = setting.adam, setting.lr, facts.smoothness, facts.steepest
    low, high = divisors or (adam_.eps, math.sqrt(1 + FLOOR) * G + adam_.eps)
    check(0 <= facts.rho < 1, "rho", facts.rho, "below 1: the clients must come together")
    most = largest_step(low, L, adam_.a1)
    check(lr <= most, "lr", lr, f"at most {most:.3g}, the smallest divisor over L or 2 L")
    counts = gradients_before(setting)
    spread = (
        facts.steepest**2 * math.sqrt(facts.clients / 2) * shares(counts.max(), facts.rho, adam_.a2)
    )
    width = math.sqrt(1 + FLOOR) * np.minimum(G, np.sqrt(spread))
    if low > adam_.eps:
        width = np.minimum(width, (1 + FLOOR) * spread / (2 * (low - adam_.eps)))
    thetas = np.array([theta(low, low + w) for w in width])[counts - 1]
    K = lr * G / low * facts.rho / (1 - facts.rho)
    each = (np.sqrt(thetas) * facts.zeta + L * K * math.sqrt(facts.d / low)) ** 2 / 2
    late = (L * lr * adam_.a1 / (1 - adam_.a1) * G) ** 2 * facts.d / low**3
    noise = L * lr * facts.sigma**2 / (2 * facts.clients * low**2)
    S = np.arange(1, len(counts) + 1)
    sides: Array = 2 * high * (facts.gap / (lr * S) + noise + np.cumsum(each) / S + late)
    return sides


def largest_step(low: float, L: float, a1: float) -> float:
    """Return the learning rate up to which the claim speaks, `low` being the smallest divisor."""
    return low / L if a1 == 0 else low / (2 * L)


def gradients_before(setting: Setting) -> Any:  # noqa: ANN401 - an array of whole numbers
    """Return q (S,): how many gradients of its block came before each step that moves."""
    r = np.arange(setting.inner_steps)
    each = [
        t * setting.inner_steps + r for t in range(setting.rounds) for _ in range(setting.blocks)
    ]
    counts = np.concatenate(each)
    return counts[counts > 0]


def best_lr(facts: Known, low: float, steps: int) -> float:
    """Return the lr that makes the first two terms equal, whose sum is then as 1 / sqrt(N S): linear speed-up."""
    check(facts.sigma > 0, "sigma", facts.sigma, "above 0")
    return low * math.sqrt(2 * facts.clients * facts.gap / (facts.smoothness * steps)) / facts.sigma


def traced(
    landscape: Landscape, setting: Setting, optimiser: Optimiser | None = None
) -> list[Step]:
    """Return every step of the library's run with moments kept; `optimiser` replaces the predictable Adam."""
    problem, blocks = as_problem(landscape, setting.blocks, setting.noise, setting.seed)
    inside: list[tuple[Tensor, ...]] = []
    spied = watched(optimiser or predictable_adam(setting.adam, FLOOR), setting.adam, inside)
    recipe = Recipe(
        setting.rounds, setting.inner_steps, lambda s: setting.lr, spied, keep_moments=True
    )
    laid = plan(problem, blocks, setting.topology, recipe)
    ends = torch.tensor([0, *(where.width for where in laid.layouts)]).cumsum(0).tolist()
    before, steps = torch.cat([problem.start[b.names[0]] for b in blocks], 1), []
    for state, _ in train(laid):
        visit, turn = divmod(state.step - 1, setting.inner_steps)
        k, after = laid.visits[visit].block, torch.cat(state.blocks, 1)
        where = slice(ends[k], ends[k + 1])
        steps.append(Step(turn + 1, where, before, after, *inside[-1]))
        before = after
    return steps


def watched(optimiser: Optimiser, decays: mo.Adam, inside: list[tuple[Tensor, ...]]) -> Optimiser:
    """Return the optimiser that also writes down g, m, what a client divides by, and its direction."""

    def update(g: Tensor, state: Any, x: Tensor, exchange: Mix) -> tuple[Tensor, Any]:  # noqa: ANN401 - any state
        seen = g.clone()
        below = divisor(state, decays, FLOOR) if state.steps else torch.ones_like(g)
        direction, state = optimiser.update(g, state, x, exchange)
        inside.append((seen, state.m.clone(), below, direction.clone()))
        return direction, state

    return optimiser._replace(update=update)


def moving(steps: list[Step], setting: Setting) -> list[Step]:
    """Return the steps that move: all but the first turns of the first round."""
    first = setting.blocks * setting.inner_steps
    return [step for s, step in enumerate(steps) if s >= first or step.turn > 1]


def deca_predictable(
    landscape: Landscape, setting: Setting, seeds: int = 1, observed: bool = False
) -> Bound:
    """Return both sides after each step that moves, the left one the mean over `seeds` runs, as in `deca_descent`.

    `observed`: the right side with the smallest and largest numbers that clients really divided by.
    """
    _in_range(setting)
    runs = [traced(landscape, setting._replace(seed=setting.seed + i)) for i in range(seeds)]
    moved = [moving(run, setting) for run in runs]
    lhs, error = left_side(landscape, moved)
    facts = known(landscape, setting, [step for run in runs for step in run])
    seen = divided_by([step for run in moved for step in run])
    rhs = right_side(facts, setting, seen if observed else None)
    lost = 4e-16 * (abs(landscape.mean(landscape.start)) + abs(landscape.lowest))  # of the gap
    S = np.arange(1, len(lhs) + 1)
    rounding = error + 1e-24 * facts.steepest**2 + 2 * seen[1] * lost / (setting.lr * S)
    return Bound(
        lhs, rhs, "predictable divisors", SOURCE, axis="step that moves", rounding=rounding
    )


def _in_range(setting: Setting) -> None:
    check(setting.feedback.signal is None, "feedback", "on", "off: the claim does not speak of it")
    W = setting.topology.at(0)
    check(len(setting.topology.matrices) == 1, "topology", "periodic", "one W for all steps")
    check(W.min() >= 0, "topology", float(W.min()), "a W without negative shares")
    check(setting.rounds * setting.inner_steps > 1, "rounds", 1, "2 gradients of a block or more")


def examples(seed: int = 0) -> dict[str, Bound]:
    """Return valleys on a ring, clients that differ much on a complete graph, and noise, with what was really divided by."""
    ring = Setting(topology("ring", 4), 2, 4, 6, 0.01, mo.Adam(0.9, 0.999, 0.1), seed=seed)
    wide = Setting(topology("complete", 4), 1, 60, 6, 0.02, mo.Adam(0.0, 0.999, 0.1), seed=seed)
    apart = quadratics(4, 1, zeta=8.0, far=2.0, seed=seed, lonely=True)
    return {
        "valleys on a ring": deca_predictable(valleys(4, 6, seed=seed), ring),
        "zeta = 8, complete graph": deca_predictable(apart, wide, observed=True),
        "noise, three runs": deca_predictable(
            valleys(4, 6, seed=seed), ring._replace(noise=0.5), 3
        ),
    }


def broken(seed: int = 0) -> Bound:
    """Return DECA, whose clients divide by second moments of their own, against this right side on a complete graph."""
    apart = quadratics(4, 1, zeta=8.0, far=0.1, seed=seed, lonely=True)
    setting = Setting(topology("complete", 4), 1, 200, 6, 0.02, mo.Adam(0.0, 0.999, 0.1), seed=seed)
    own = moving(traced(apart, setting, adam(setting.adam, setting.feedback)), setting)
    return deca_predictable(apart, setting, observed=True)._replace(lhs=left_side(apart, [own])[0])
