"""DECA's descent theorem along a real run, trained once more: its own left side, its right side with more and more of it seen.

So one sees which line of the proof makes the bound large. Each row has all that the rows before it have: `as proved`;
`divisors seen`: the smallest and largest numbers that clients divided by so far, for eps and G' + eps; `moments seen`: spread
and staleness of the first moments at each step (lines 4 and 6); `errors seen`: both errors and the mean step coordinate by
coordinate (lines 1, 5 and 7); `curvature seen`: how f really bends along the steps in place of L (line 3). What is left of the
last are the loss at the start, Young's inequality (8) and the largest denominator (9).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deca_lab.algorithm import stacking
from deca_lab.algorithm.gradients import Batch
from deca_lab.algorithm.loop import Plan, params_of, train
from deca_lab.algorithm.moments import Adam
from deca_lab.algorithm.stacking import Params
from deca_lab.bounds import deca_descent
from deca_lab.bounds.bound import Bound
from deca_lab.bounds.deca_descent import Known, Turns, theta
from deca_lab.bounds.trace import Setting, spied
from deca_lab.mixing.graphs import Array

SOURCE = "theory/deca_descent.ipynb"


class Walk(NamedTuple):
    """What the proof speaks of at each inner step of a run, (S,) each; P = diag(p), p the mean of 1 / D over clients."""

    squared: Array  # || grad_k f(xbar) ||^2
    step: Array  # || ubar ||^2
    spread: Array  # of the clients' m_hat, root mean square
    stale: Array  # || mean m_hat - omega grad ||
    error: Array  # || ubar - omega P grad || in P^-1, squared
    low: Array  # smallest D
    high: Array  # largest D
    widest: Array  # largest 1 / p
    omega: Array
    bend: Array  # (f(xbar+) - f(xbar)) / lr + <grad, ubar>, which L lr || ubar ||^2 / 2 bounds


def walk(plan: Plan, data: Batch, decays: Adam, t: Turns) -> Walk:
    """Train the plan once more and return what was seen; f is the clients' mean loss on `data`, with axis 0 = N."""
    inside: list[tuple[Tensor, ...]] = []
    laid = plan._replace(optimisers=tuple(spied(one, decays, inside) for one in plan.optimisers))
    rows, before = [], stacking.mean(plan.problem.start)
    levels = [level(plan, before, data)]
    for state, _ in train(laid):
        visit, turn = divmod(state.step - 1, plan.recipe.inner_steps)
        names = plan.blocks[plan.visits[visit].block].names
        rows.append(_row(inside.pop(), _gradient(plan, before, names, data), float(t.omega[turn])))
        before = stacking.mean(params_of(laid, state))
        levels.append(level(plan, before, data))
    seen = np.array(rows).T
    bend = np.diff(levels) / plan.recipe.lr(0) + seen[-1]
    return Walk(*np.vstack([seen[:-1], bend]))


def level(plan: Plan, params: Params, data: Batch) -> float:
    """Return f at one model."""
    with torch.no_grad():
        losses = [plan.problem.loss(params, of_client(data, i)) for i in range(plan.topology.n)]
    return float(torch.stack(losses).double().mean())


def _gradient(plan: Plan, params: Params, names: tuple[str, ...], data: Batch) -> Tensor:
    """Return the gradient (D_k,) of f by the named parameters at one model."""
    return gradients(plan, [params] * plan.topology.n, names, data).mean(0)


def gradients(plan: Plan, models: Sequence[Params], names: tuple[str, ...], data: Batch) -> Tensor:
    """Return (N, D_k): the gradient of each client's loss at its model, a client after the other."""
    rows = []
    for i, params in enumerate(models):
        leaves = {n: params[n].detach().requires_grad_() for n in names}
        loss = plan.problem.loss({**params, **leaves}, of_client(data, i))
        parts = torch.autograd.grad(loss, list(leaves.values()))
        rows.append(torch.cat([g.flatten() for g in parts]).double().cpu())
    return torch.stack(rows)


def of_client(data: Batch, i: int) -> Any:  # noqa: ANN401 - a client's batch
    """Return client i's part of a batch."""
    return tuple(of_client(part, i) for part in data) if isinstance(data, tuple) else data[i]


def _row(inside: tuple[Tensor, ...], g: Tensor, omega: float) -> tuple[float, ...]:
    """Return a row of the walk, and <grad, ubar>, from (g, m_hat, D, direction) (N, D_k) of a step, and grad_k f(xbar)."""
    _, m_hat, below, direction = (part.double().cpu() for part in inside)
    p, m_bar, u_bar = (1 / below).mean(0), m_hat.mean(0), direction.mean(0)
    return (
        float(g.square().sum()),
        float(u_bar.square().sum()),
        float((m_hat - m_bar).square().sum(1).mean().sqrt()),
        float((m_bar - omega * g).norm()),
        float(((u_bar - omega * p * g).square() / p).sum()),
        float(below.min()),
        float(below.max()),
        float((1 / p).max()),
        omega,
        float(g @ u_bar),
    )


def ladder(seen: Walk, known: Known, setting: Setting, t: Turns) -> dict[str, Bound]:
    """Return the theorem's left side, after each number of inner steps, beside its right side with more and more of it seen."""
    steps = np.arange(1, len(seen.squared) + 1)
    low, high = np.minimum.accumulate(seen.low), np.maximum.accumulate(seen.high)
    root = np.sqrt([theta(a, b) for a, b in zip(low, high, strict=True)])
    worst = 2 * high / float(t.omega.min())
    error = (root * seen.spread + seen.stale / np.sqrt(low)) ** 2 / (2 * seen.omega)
    r = (steps - 1) % setting.inner_steps
    half, start = known.smoothness * setting.lr / 2, known.gap / setting.lr
    moments = start + np.cumsum(error + half * t.C[r] ** 2 * max(known.widths))
    exact = start + np.cumsum(seen.error / (2 * seen.omega) + half * seen.step)
    bent = start + np.cumsum(seen.error / (2 * seen.omega) + seen.bend)
    largest = 2 * np.maximum.accumulate(seen.widest) / float(t.omega.min())
    sides = {
        "as proved": deca_descent.right_side(known, setting),
        "divisors seen": deca_descent.right_side(known, setting, (float(low[-1]), float(high[-1]))),
        "moments seen": worst * moments / steps,
        "errors seen": largest * exact / steps,
        "curvature seen": largest * bent / steps,
    }
    lhs = np.cumsum(seen.squared) / steps
    return {
        name: Bound(lhs, rhs, f"squared gradient, {name}", SOURCE, "inner step")
        for name, rhs in sides.items()
    }


def loosest(rungs: dict[str, Bound]) -> str:
    """Say at the run's end by how much each replacement lowers the right side, and how much is left above the left one."""
    ends = {name: float(np.atleast_1d(one.rhs)[-1]) for name, one in rungs.items()}
    left = float(np.atleast_1d(rungs["curvature seen"].lhs)[-1])
    falls = [f"{b} divides it by {ends[a] / ends[b]:.3g}" for a, b in pairwise(ends)]
    return (
        f"{', '.join(falls)}; the last is {ends['curvature seen'] / left:.3g} times the left side"
    )
