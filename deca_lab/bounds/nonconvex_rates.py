"""Rates where f is not convex, over three decades of lengths: decentralised SGD, and the repair block by block.

Claim       With lr = c / sqrt(S), S = T B R, the mean over S steps of || grad f(xbar) ||^2 falls at least as fast as
            S^(-1/2), to nothing, for decentralised SGD and for `deca-predictable`:
                (start / c + noise c) S^(-p) + floor,   p >= 1/2,  floor = 0,
            as in `rates`, over all lengths and over the longest alone: an exponent that ends at a bend is no rate. And N
            times what noise leaves is the same for all N.
Hypotheses  those of `d_sgd` and `deca_predictable`: f smooth and bounded below, gradients bounded, noise unbiased,
            independent and bounded. Both `units` have them (`units.limits`), and are not convex where their runs start.
Symbols     f, its clients and their noise: `units.unit`, a tanh or a logistic unit with a penalty that is not convex (`Study`);
            T, B, R, c: `rates.RateSetting`; p: `rate_laws.Law`.
Source      the theorems of d_sgd and deca_predictable, derived here, of whose rate the exponent is measured.
Tight       measured: p of .49 and .52 for tanh units, .52 and .51 for logistic ones, from 64 to 65,536 steps.
Proof       theory/d_sgd.ipynb and theory/deca_predictable.ipynb. The latter bounds the active block's gradient; all
            coordinates' is never smaller, and is what is measured.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from deca_lab.algorithm import optimisers
from deca_lab.algorithm.blocks import whole
from deca_lab.algorithm.loop import Recipe
from deca_lab.bounds import rate_laws as rl
from deca_lab.bounds import rate_problems as rp
from deca_lab.bounds import rates as ra
from deca_lab.bounds.bound import Bound
from deca_lab.bounds.units import LOGISTIC, TANH, Unit, unit
from deca_lab.errors import check
from deca_lab.mixing.graphs import Array

LAST = 64  # the longest runs: from a 64th of the longest on
ROUNDS = (4, 32, 256, 1024)  # of the examples: 64 to 16,384 steps


class Study(NamedTuple):
    """A kind of unit, and the settings under which methods train all of it, or one block after the other."""

    kind: Unit
    at_once: ra.RateSetting = ra.RateSetting(blocks=1, inner_steps=16, c=4.0, looks=1024)
    by_blocks: ra.RateSetting = ra.RateSetting(blocks=2, inner_steps=8, c=1.0, looks=1024)


TANHS = Study(TANH)
LOGISTICS = Study(LOGISTIC, by_blocks=TANHS.by_blocks._replace(c=0.5))


def sgd(case: rp.Case, setting: ra.RateSetting) -> rl.Squares:
    """Run decentralised SGD, mixed at each step."""
    check(setting.blocks == 1, "blocks", setting.blocks, "1: D-SGD trains all parameters at once")
    recipe = Recipe(setting.rounds, setting.inner_steps, setting.lr, optimisers.sgd())
    return ra.measured(case, whole(["x"]), recipe, setting.graph, setting.looks)


def predictable(case: rp.Case, setting: ra.RateSetting) -> rl.Squares:
    """Run `deca-predictable`: block by block, divided by the mixed second moments of the steps before, moments kept."""
    problem, blocks = ra.cut(case.problem, setting.blocks)
    rule = optimisers.predictable_adam(setting.adam)
    recipe = Recipe(setting.rounds, setting.inner_steps, setting.lr, rule, keep_moments=True)
    return ra.measured(case._replace(problem=problem), blocks, recipe, setting.graph, setting.looks)


def lengthened(
    cases: Sequence[rp.Case],
    rounds: Sequence[int],
    setting: ra.RateSetting,
    method: ra.Experiment,
) -> rl.Points:
    """Return runs of so many rounds, from far away and then from the solution, as points of one law."""
    return rl.together(*(ra.sweep(case, "rounds", rounds, setting, method) for case in cases))


def laws(points: rl.Points, level: float = 0.99) -> dict[str, rl.Law]:
    """Return the law of all lengths, and that of the longest alone; raise BadInput where these are fewer than two."""
    late = points.lengths * LAST >= points.lengths.max()
    squares = rl.Squares(*(side[late] for side in points.squares))
    c, away = np.broadcast_arrays(points.c, points.away)
    longest = rl.Points(points.lengths[late], squares, c[late], away[late])
    return {"all": rl.law(points, level=level), "longest": rl.law(longest, level=level)}


def speed_up(
    method: ra.Experiment,
    setting: ra.RateSetting,
    clients: Sequence[int] = (2, 4, 8),
    seed: int = 0,
    kind: Unit = TANH,
) -> tuple[Array, Bound]:
    """Return `rates.speed_up` of clients that all have the rows of one, eight seeds of them."""
    return ra.speed_up(
        clients,
        8,
        seed,
        setting,
        method,
        lambda seeds, n, seed: unit(seeds, far=False, clients=n, same=True, seed=seed, kind=kind),
    )


def pair(tilt: float, seeds: int = 8, seed: int = 0, kind: Unit = TANH) -> tuple[rp.Case, rp.Case]:
    """Return clients that start far away, and the same at their solution."""
    far = unit(seeds, tilt, seed=seed, kind=kind)
    return far, unit(seeds, tilt, far=False, seed=seed, kind=kind)


def examples(seed: int = 0) -> dict[str, Bound]:
    """Return both methods on clients that differ, of both kinds, the repair on quadratics with zeta = 8, and linear in N."""
    bounds: dict[str, Bound] = {}
    for words, study in (("", TANHS), (", logistic", LOGISTICS)):
        cases = pair(0.5, seed=seed, kind=study.kind)
        ran = lengthened(cases, ROUNDS, study.at_once, sgd)
        mended = lengthened(cases, ROUNDS, study.by_blocks, predictable)
        bounds |= {
            f"D-SGD{words}": ra.bound_of(laws(ran)),
            f"the repair{words}": ra.bound_of(laws(mended)),
        }
    by_blocks, bowls = TANHS.by_blocks, ra.pair(8, 8.0, seed=seed)
    on_bowls = lengthened(bowls, ROUNDS, by_blocks, predictable)
    left = speed_up(predictable, by_blocks._replace(rounds=128), seed=seed)[1]
    return bounds | {
        "the repair, zeta = 8": ra.bound_of(laws(on_bowls)),
        "the repair, N times what is left": left,
    }


def broken(seed: int = 0, study: Study = TANHS) -> Bound:
    """Return DECA, whose clients divide by second moments of their own, on the same clients: it stalls."""
    cases = pair(0.5, seed=seed, kind=study.kind)
    return ra.bound_of(laws(lengthened(cases, ROUNDS, study.by_blocks, ra.deca)))
