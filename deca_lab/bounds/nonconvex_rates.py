"""Rates where f is not convex, over three decades of lengths: decentralised SGD, and the repair block by block.

Claim       With lr = c / sqrt(S), S = T B R, the mean over S steps of || grad f(xbar) ||^2 falls at least as fast as
            S^(-1/2), to nothing, for decentralised SGD and for `deca-predictable`:
                (start / c + noise c) S^(-p) + floor,   p >= 1/2,  floor = 0,
            as in `rates`, over all lengths and over the longest alone: an exponent that ends at a bend is no rate. And N
            times what noise leaves is the same for all N.
Hypotheses  those of `d_sgd` and `deca_predictable`: f smooth and bounded below, gradients bounded, noise unbiased,
            independent and bounded. `unit` has them, and is not convex where its runs start.
Symbols     f, its clients and their noise: `unit`; T, B, R, c: `rates.RateSetting`; p: `rates.Law`.
Source      the theorems of d_sgd and deca_predictable, derived here, of whose rate the exponent is measured.
Tight       measured: p of .49 and .52, from 64 to 65,536 steps.
Proof       theory/d_sgd.ipynb and theory/deca_predictable.ipynb. The latter bounds the active block's gradient; all
            coordinates' is never smaller, and is what is measured.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from deca_lab.algorithm import optimisers
from deca_lab.algorithm.blocks import whole
from deca_lab.algorithm.gradients import Batch
from deca_lab.algorithm.loop import Recipe
from deca_lab.algorithm.problems import Problem
from deca_lab.algorithm.stacking import Layout, Params
from deca_lab.bounds import rates as ra
from deca_lab.bounds.bound import Bound
from deca_lab.errors import check
from deca_lab.mixing.graphs import Array

AHEAD = 64  # steps whose batches are drawn together
LAST = 64  # the longest runs: from a 64th of the longest on
ALL_AT_ONCE = ra.RateSetting(blocks=1, inner_steps=16, c=4.0, looks=1024)
ROUNDS = (4, 32, 256, 1024)  # of the examples: 64 to 16,384 steps
BY_BLOCKS = ra.RateSetting(blocks=2, inner_steps=8, c=1.0, looks=1024)


class Rows(NamedTuple):
    """One seed's data and two points of its f: the mean of (tanh(a' x) - y)^2 / 2 over all rows of all clients."""

    a: Array  # (N, rows, d)
    y: Array  # (N, rows)
    start: Array  # (d,), where f is not convex
    solution: Array  # (d,), of gradient 0


def unit(
    seeds: int,
    tilt: float = 0.0,
    far: bool = True,
    clients: int = 8,
    rows: int = 64,
    batch: int = 16,
    d: int = 8,
    noise: float = 0.3,
    same: bool = False,
    seed: int = 0,
) -> ra.Case:
    """Return one tanh unit a client over rows of its own, with batches of `batch` rows, drawn anew at each step.

    Client i's targets are tanh(a' (w + tilt t_i)) plus or minus `noise`, the t_i normal numbers that sum to zero, w of
    norm 1. `same`: all clients have the rows of one. Starts are at -w (`far`), or at a stationary point near w.
    """
    for name, value in {
        "seeds": seeds,
        "clients": clients,
        "rows": rows,
        "batch": batch,
        "d": d,
    }.items():
        check(isinstance(value, int) and value >= 1, name, value, "a whole number from 1 up")
    check(tilt >= 0, "tilt", tilt, "0 or more")
    check(noise >= 0, "noise", noise, "0 or more")
    drawn = [_rows(s, tilt, clients, rows, d, noise, same, seed) for s in range(seeds)]
    a, y = np.concatenate([one.a for one in drawn]), np.concatenate([one.y for one in drawn])
    start = np.stack([one.start if far else one.solution for one in drawn]).repeat(clients, 0)
    who = np.arange(len(a))[:, None]

    @lru_cache(maxsize=2)
    def ahead(turn: int) -> NDArray[np.int64]:
        rng = np.random.default_rng([seed, turn, 0x7A4])
        return rng.integers(0, rows, (AHEAD, len(a), batch))

    def batches(step: int) -> Batch:
        chosen = ahead(step // AHEAD)[step % AHEAD]
        return torch.from_numpy(a[who, chosen]), torch.from_numpy(y[who, chosen])

    pooled = torch.from_numpy(a.reshape(seeds, -1, d)), torch.from_numpy(y.reshape(seeds, -1, 1))
    problem = Problem({"x": torch.from_numpy(start)}, _loss, batches, _exact, None, _arrays)
    return ra.Case(problem, lambda x: _pooled_gradient(*pooled, x), seeds)


def _rows(
    s: int, tilt: float, n: int, rows: int, d: int, noise: float, same: bool, seed: int
) -> Rows:
    rng = np.random.default_rng([seed, s, 0x7A])
    w = rng.standard_normal(d)
    w /= np.linalg.norm(w)
    own = 1 if same else n
    tilts = rng.standard_normal((own, d))
    teachers = w + tilt * (tilts - tilts.mean(0))
    a = rng.standard_normal((own, rows, d))
    y = np.tanh(np.einsum("nrd,nd->nr", a, teachers)) + noise * rng.choice([-1.0, 1.0], (own, rows))
    pooled, targets = a.reshape(-1, d), y.reshape(-1)
    found = minimize(_value, w, (pooled, targets), "BFGS", jac=True, options={"gtol": 1e-9})
    tiled = n // own
    return Rows(a.repeat(tiled, 0), y.repeat(tiled, 0), -w, found.x)


def unit_rows(tilt: float = 0.0, seed: int = 0) -> Rows:
    """Return the data of `unit`'s first seed, with its other sizes as they are."""
    return _rows(0, tilt, 8, 64, 8, 0.3, False, seed)


def hessian(rows: Rows, x: Array) -> Array:
    """Return the Hessian (d, d) of f at x (d,)."""
    a, y = rows.a.reshape(-1, len(x)), rows.y.ravel()
    z = np.tanh(a @ x)
    bends = (1 - z * z) * (1 - 3 * z * z + 2 * z * y)  # of (tanh u - y)^2 / 2 in u
    found: Array = a.T @ (bends[:, None] * a) / len(y)
    return found


def _value(x: Array, a: Array, y: Array) -> tuple[float, Array]:
    z = np.tanh(a @ x)
    return float((z - y) @ (z - y)) / 2 / len(y), (z - y) * (1 - z * z) @ a / len(y)


def _arrays(x: np.ndarray, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    a, y = batch[0].numpy(), batch[1].numpy()
    z = np.tanh(np.matmul(a, x[:, :, None])[:, :, 0])
    error = z - y
    slopes = error * (1 - z * z)
    slopes /= y.shape[1]
    return (error * error).mean(1) / 2, np.matmul(slopes[:, None, :], a)[:, 0]


def _exact(x: Tensor, where: Layout, rest: Params, batch: Batch) -> tuple[Tensor, Tensor]:
    losses, g = _arrays(x.numpy(), batch)
    return torch.from_numpy(losses), torch.from_numpy(g)


def _loss(params: Params, batch: Batch) -> Tensor:
    error: Tensor = torch.tanh(batch[0] @ params["x"]) - batch[1]
    return error.square().mean() / 2


def _pooled_gradient(a: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Return the gradients of f at x (steps, seeds, d), of rows a (seeds, N rows, d) and targets y (seeds, N rows, 1)."""
    z = torch.tanh(a @ x.permute(1, 2, 0))  # (seeds, N rows, steps)
    slopes = (z - y) * (1 - z.square()) / a.shape[1]
    return torch.matmul(a.transpose(1, 2), slopes).permute(2, 0, 1)


# ---- methods and verdicts


def sgd(case: ra.Case, setting: ra.RateSetting) -> ra.Squares:
    """Run decentralised SGD, mixed at each step."""
    check(setting.blocks == 1, "blocks", setting.blocks, "1: D-SGD trains all parameters at once")
    recipe = Recipe(setting.rounds, setting.inner_steps, setting.lr, optimisers.sgd())
    return ra.measured(case, whole(["x"]), recipe, setting.graph, setting.looks)


def predictable(case: ra.Case, setting: ra.RateSetting) -> ra.Squares:
    """Run `deca-predictable`: block by block, divided by the mixed second moments of the steps before, moments kept."""
    problem, blocks = ra.cut(case.problem, setting.blocks)
    rule = optimisers.predictable_adam(setting.adam)
    recipe = Recipe(setting.rounds, setting.inner_steps, setting.lr, rule, keep_moments=True)
    return ra.measured(case._replace(problem=problem), blocks, recipe, setting.graph, setting.looks)


def lengthened(
    cases: Sequence[ra.Case],
    rounds: Sequence[int],
    setting: ra.RateSetting,
    method: ra.Experiment,
) -> ra.Points:
    """Return runs of so many rounds, from far away and then from the solution, as points of one law."""
    return ra.together(*(ra.sweep(case, "rounds", rounds, setting, method) for case in cases))


def laws(points: ra.Points, level: float = 0.99) -> dict[str, ra.Law]:
    """Return the law of all lengths, and that of the longest alone; raise BadInput where these are fewer than two."""
    late = points.lengths * LAST >= points.lengths.max()
    squares = ra.Squares(*(side[late] for side in points.squares))
    c, away = np.broadcast_arrays(points.c, points.away)
    longest = ra.Points(points.lengths[late], squares, c[late], away[late])
    return {"all": ra.law(points, level=level), "longest": ra.law(longest, level=level)}


def speed_up(
    method: ra.Experiment,
    setting: ra.RateSetting,
    clients: Sequence[int] = (2, 4, 8),
    seed: int = 0,
) -> tuple[Array, Bound]:
    """Return `rates.speed_up` of clients that all have the rows of one, eight seeds of them."""
    return ra.speed_up(
        clients,
        8,
        seed,
        setting,
        method,
        lambda seeds, n, seed: unit(seeds, far=False, clients=n, same=True, seed=seed),
    )


def pair(tilt: float, seeds: int = 8, seed: int = 0) -> tuple[ra.Case, ra.Case]:
    """Return clients that start far away, and the same at their solution."""
    return unit(seeds, tilt, seed=seed), unit(seeds, tilt, far=False, seed=seed)


def examples(seed: int = 0) -> dict[str, Bound]:
    """Return both methods on clients that differ, the repair on quadratics with zeta = 8 too, and its linear speed-up."""
    apart, bowls = pair(0.5, seed=seed), ra.pair(8, 8.0, seed=seed)
    long = BY_BLOCKS._replace(rounds=128)
    return {
        "D-SGD": ra.bound_of(laws(lengthened(apart, ROUNDS, ALL_AT_ONCE, sgd))),
        "the repair": ra.bound_of(laws(lengthened(apart, ROUNDS, BY_BLOCKS, predictable))),
        "the repair, zeta = 8": ra.bound_of(
            laws(lengthened(bowls, ROUNDS, BY_BLOCKS, predictable))
        ),
        "the repair, N times what is left": speed_up(predictable, long, seed=seed)[1],
    }


def broken(seed: int = 0) -> Bound:
    """Return DECA, whose clients divide by second moments of their own, on the same clients: it stalls."""
    return ra.bound_of(laws(lengthened(pair(0.5, seed=seed), ROUNDS, BY_BLOCKS, ra.deca)))
