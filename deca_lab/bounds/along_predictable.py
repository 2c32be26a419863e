"""The repair's theorem along a real run, trained once more: its left side, and its right side with more and more of it seen.

Each row has all that the rows before it have. `as proved`: the smallest divisor is eps; `divisors seen`: the smallest and largest
of the run; `errors seen`: of lines 3 and 4 the mean step itself in place of l, and what it is off P grad in place of theta, zeta,
K and sigma; `noise seen`: what only chance adds stays in the inner product, where it is nearly 0, and is not squared; `curvature
seen`: how f really bends along the steps in place of L. What is left of the last are f at the start, Young's inequality and the
largest divisor. The first two speak only of learning rates below l / (2 L).
"""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from deca_lab.algorithm import stacking
from deca_lab.algorithm.gradients import Batch
from deca_lab.algorithm.loop import Plan, State, begin, params_of, train
from deca_lab.algorithm.moments import Adam
from deca_lab.algorithm.stacking import Params
from deca_lab.bounds import deca_predictable as dp
from deca_lab.bounds.along_a_run import gradients, level
from deca_lab.bounds.bound import Bound
from deca_lab.bounds.deca_descent import Known
from deca_lab.bounds.trace import Setting
from deca_lab.mixing.graphs import Array

SOURCE = "theory/deca_predictable.ipynb"


class Walk(NamedTuple):
    """What the proof speaks of at each step that moves, (S,) each; P = diag(p), p the mean of 1 / D over clients."""

    squared: Array  # || grad_k f(xbar) ||^2
    step: Array  # || ubar ||^2
    error: Array  # || ubar - P grad || in P^-1, squared
    steady: Array  # the same of cbar, ubar without noise
    chance: Array  # <grad, cbar - ubar>
    late: Array  # <grad - grad_k f(z), ubar>
    bend: Array  # (f(z+) - f(z)) / lr + <grad_k f(z), ubar>: what smoothness bounds by L lr || ubar ||^2 / 2
    low: Array  # smallest D
    high: Array  # largest D
    widest: Array  # largest 1 / p


def walk(plan: Plan, data: Batch, decays: Adam) -> Walk:
    """Train the plan once more and return what was seen; f is the clients' mean loss on `data`, with axis 0 = N."""
    inside: list[tuple[Tensor, ...]] = []
    laid = plan._replace(
        optimisers=tuple(dp.watched(one, decays, inside) for one in plan.optimisers)
    )
    rows, before, visited, levels = [], begin(laid), set(), []
    for state, _ in train(laid):
        visit = laid.visits[(state.step - 1) // plan.recipe.inner_steps]
        if visit.block in visited:  # else it was only measured
            z = _ahead(laid, before, decays.a1)
            rows.append(_row(laid, before, z, visit.block, data, inside[-1]))
            levels.append(level(laid, z, data))
        visited.add(visit.block)
        inside.clear()
        before = state
    levels.append(level(laid, _ahead(laid, before, decays.a1), data))
    bend = np.diff(levels) / plan.recipe.lr(0) + np.array([row[-1] for row in rows])
    seen = np.array([row[:-1] for row in rows]).T
    return Walk(*np.vstack([seen[:6], bend, seen[6:]]))


def _ahead(plan: Plan, state: State, a1: float) -> Params:
    """Return z of line 1: the mean model, each block moved by lr a1 / (1 - a1) along its mean momentum."""
    share, lr = a1 / (1 - a1), plan.recipe.lr(0)
    z = dict(stacking.mean(params_of(plan, state)))
    for k, held in state.moments.items():
        by = stacking.unflatten(lr * share * held.m.double().mean(0, keepdim=True), plan.layouts[k])
        z |= {name: z[name] - step[0].to(z[name]) for name, step in by.items()}
    return z


def _row(
    plan: Plan, before: State, z: Params, k: int, data: Batch, inside: tuple[Tensor, ...]
) -> tuple[float, ...]:
    """Return a row of the walk, and <grad_k f(z), ubar>, from (g, m, D, direction) (N, D_k) of a step."""
    names, n = plan.blocks[k].names, plan.topology.n
    g, _, below, _ = (part.double().cpu() for part in inside)
    stacked = params_of(plan, before)
    own = [{name: tensor[i] for name, tensor in stacked.items()} for i in range(n)]
    p, u = (1 / below).mean(0), (g / below).mean(0)
    at_mean, at_z = (
        gradients(plan, [x] * n, names, data).mean(0) for x in (stacking.mean(stacked), z)
    )
    c = (gradients(plan, own, names, data) / below).mean(0)
    return (
        float(at_mean.square().sum()),
        float(u.square().sum()),
        float(((u - p * at_mean).square() / p).sum()),
        float(((c - p * at_mean).square() / p).sum()),
        float(at_mean @ (c - u)),
        float((at_mean - at_z) @ u),
        float(below.min()),
        float(below.max()),
        float((1 / p).max()),
        float(at_z @ u),
    )


def ladder(seen: Walk, known: Known, setting: Setting) -> dict[str, Bound]:
    """Return both sides after each step that moves; a row that the learning rate is too long for says so."""
    steps = np.arange(1, len(seen.squared) + 1)
    lhs = np.cumsum(seen.squared) / steps
    half, start = known.smoothness * setting.lr / 2, known.gap / setting.lr
    worst = 2 * np.maximum.accumulate(seen.widest) / steps
    steady, bent = seen.steady / 2 + seen.chance + seen.late, half * seen.step
    terms = {
        "errors seen": seen.error / 2 + seen.late + bent,
        "noise seen": steady + bent,
        "curvature seen": steady + seen.bend,
    }
    ends = {"as proved": None, "divisors seen": (float(seen.low.min()), float(seen.high.max()))}
    rows = {name: _of_theorem(name, lhs, known, setting, pair) for name, pair in ends.items()}
    sides = {name: worst * (start + np.cumsum(term)) for name, term in terms.items()}
    return rows | {name: _bound(name, lhs, rhs) for name, rhs in sides.items()}


def _of_theorem(
    name: str, lhs: Array, known: Known, setting: Setting, divisors: tuple[float, float] | None
) -> Bound:
    low = divisors[0] if divisors else setting.adam.eps
    most = dp.largest_step(low, known.smoothness, setting.adam.a1)
    if setting.lr > most:
        broken = f"the learning rate is above {most:.3g}, the smallest divisor over 2 L"
        return _bound(name, lhs, np.full(len(lhs), np.inf))._replace(broken=broken)
    return _bound(name, lhs, dp.right_side(known, setting, divisors))


def _bound(name: str, lhs: Array, rhs: Array) -> Bound:
    return Bound(lhs, rhs, f"squared gradient, {name}", SOURCE, "step that moves")


def loosest(seen: Walk, known: Known, setting: Setting) -> str:
    """Say at the run's end how far the last row is above the left side, which terms it has, and what L would make of one."""
    whole = float(seen.widest.max()) * 2 / len(seen.squared)
    half, left = known.smoothness * setting.lr / 2, float(seen.squared.mean())
    terms = {
        "f at the start": known.gap / setting.lr,
        "errors": float(seen.steady.sum()) / 2,
        "noise": float(seen.chance.sum()),
        "momentum": float(seen.late.sum()),
        "curvature": float(seen.bend.sum()),
    }
    parts = ", ".join(f"{name} {whole * term:.3g}" for name, term in terms.items())
    bent = whole * half * float(seen.step.sum())
    ratio = whole * sum(terms.values()) / left
    return f"the last is {ratio:.3g} times the left side {left:.3g}: {parts} (by L it would be {bent:.3g})"
