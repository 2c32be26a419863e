"""Problems that are not convex, but smooth and with bounded gradients: a unit a client, over rows of its own.

f_i(x) = mean over client i's rows (a, y) of loss(a' x, y), + fold sum_j x_j^2 / (1 + x_j^2); f is the mean of the f_i.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

from deca_lab.algorithm.gradients import Batch
from deca_lab.algorithm.problems import Problem
from deca_lab.algorithm.stacking import Layout, Params
from deca_lab.bounds.rate_problems import Case, in_range
from deca_lab.errors import check
from deca_lab.mixing.graphs import Array

AHEAD = 64  # steps whose batches are drawn together


class Unit(NamedTuple):
    """A loss of a unit's sum u = a' x and its target y, element by element, and what else makes a problem of it."""

    loss: Callable[[Tensor, Tensor], Tensor]
    sides: Callable[[Array, Array], tuple[Array, Array]]  # (u, y) -> losses, and their slopes in u
    bends: Callable[[Array, Array], Array]  # (u, y) -> second derivatives in u
    targets: Callable[[Array, float, np.random.Generator], Array]  # (right sums, noise, rng) -> y
    limits: Callable[[float], tuple[float, float]]  # largest |y| -> bounds on |slope| and |bend|
    noise: float  # of the targets, unless told otherwise
    norm: float = 1.0  # of the parameters whose answers are right
    fold: float = 0.0


class Rows(NamedTuple):
    """One seed's data, and two points of its f."""

    a: Array  # (N, rows, d)
    y: Array  # (N, rows)
    start: Array  # (d,), where f is not convex
    solution: Array  # (d,), of gradient 0


class Limits(NamedTuple):
    """What theorems ask of each f_i, at every x; no value of it is below 0."""

    smoothness: float  # L
    steepest: float  # || gradient ||, of any batch too: so its noise is at most twice that


# ---- two kinds


def _tanh_sides(u: Array, y: Array) -> tuple[Array, Array]:
    z = np.tanh(u)
    error = z - y
    return error * error / 2, error * (1 - z * z)


def _tanh_bends(u: Array, y: Array) -> Array:
    z = np.tanh(u)
    bends: Array = (1 - z * z) * (1 - 3 * z * z + 2 * z * y)
    return bends


def _off(u: Array, noise: float, rng: np.random.Generator) -> Array:
    """Return the right answers, plus or minus `noise`."""
    answers: Array = np.tanh(u) + noise * rng.choice([-1.0, 1.0], u.shape)
    return answers


def _logistic_sides(u: Array, y: Array) -> tuple[Array, Array]:
    margin = y * u
    return np.logaddexp(0, -margin), -y * expit(-margin)


def _turned(u: Array, noise: float, rng: np.random.Generator) -> Array:
    """Return the right labels, +1 and -1, of which a share `noise` is turned."""
    check(noise <= 1, "noise", noise, "at most 1, a share of the labels")
    return np.where(rng.random(u.shape) < noise, -1.0, 1.0) * np.where(u > 0, 1.0, -1.0)


TANH = Unit(
    lambda u, y: (torch.tanh(u) - y).square() / 2,
    _tanh_sides,
    _tanh_bends,
    _off,
    lambda y: (1 + y, 1 + y * y / 3),
    noise=0.3,
)
LOGISTIC = Unit(  # with the penalty of much work on decentralised methods without convexity
    lambda u, y: torch.nn.functional.softplus(-y * u),
    _logistic_sides,
    lambda u, y: expit(u) * expit(-u),
    _turned,
    lambda y: (y, y * y / 4),
    noise=0.1,
    norm=3.0,
    fold=0.5,
)


# ---- data, and the problem that they are


def rows_of(
    s: int,
    tilt: float = 0.0,
    clients: int = 8,
    rows: int = 64,
    d: int = 8,
    noise: float | None = None,
    same: bool = False,
    seed: int = 0,
    kind: Unit = TANH,
) -> Rows:
    """Return the data of seed number s of `unit`, whose arguments these are."""
    rng = np.random.default_rng([seed, s, 0x7A])
    w = rng.standard_normal(d)
    w /= np.linalg.norm(w) / kind.norm
    own = 1 if same else clients
    tilts = rng.standard_normal((own, d))
    teachers = w + tilt * kind.norm * (tilts - tilts.mean(0))
    a = rng.standard_normal((own, rows, d))
    right = np.einsum("nrd,nd->nr", a, teachers)
    y = kind.targets(right, kind.noise if noise is None else noise, rng)

    def mean(x: Array) -> tuple[float, Array]:
        value, g = _at(kind, x[None, :, None], a.reshape(1, -1, d), y.reshape(1, -1, 1))
        return float(value[0, 0]), g[0, :, 0]

    best = minimize(mean, w, method="BFGS", jac=True, options={"gtol": 1e-9})
    return Rows(a.repeat(clients // own, 0), y.repeat(clients // own, 0), -w, best.x)


def unit(
    seeds: int,
    tilt: float = 0.0,
    far: bool = True,
    clients: int = 8,
    rows: int = 64,
    batch: int = 16,
    d: int = 8,
    noise: float | None = None,
    same: bool = False,
    seed: int = 0,
    kind: Unit = TANH,
) -> Case:
    """Return a unit a client over rows of its own, with batches of `batch` rows, drawn anew at each step.

    Client i's targets are the answers of w + tilt |w| t_i, off by `noise` (the kind's, if None), the t_i normal numbers that
    sum to zero. `same`: all clients have the rows of one. Starts are at -w (`far`), or at a stationary point near w.
    """
    in_range(seeds=seeds, clients=clients, rows=rows, batch=batch, d=d)
    check(tilt >= 0, "tilt", tilt, "0 or more")
    check(noise is None or noise >= 0, "noise", noise, "0 or more")
    data = [rows_of(s, tilt, clients, rows, d, noise, same, seed, kind) for s in range(seeds)]
    a, y = np.concatenate([one.a for one in data]), np.concatenate([one.y for one in data])
    start = np.stack([one.start if far else one.solution for one in data]).repeat(clients, 0)
    gradient = partial(_gradient, kind, a.reshape(seeds, -1, d), y.reshape(seeds, -1, 1))
    return Case(_problem(kind, start, _batches(a, y, batch, seed)), gradient, seeds)


def _gradient(kind: Unit, a: Array, y: Array, x: Tensor) -> Tensor:
    """Return the gradients of f at x (steps, seeds, d), of rows a (seeds, N rows, d) and targets y (seeds, N rows, 1)."""
    _, g = _at(kind, x.permute(1, 2, 0).numpy(), a, y)
    return torch.from_numpy(g).permute(2, 0, 1)


def _batches(a: Array, y: Array, size: int, seed: int) -> Callable[[int], Batch]:
    who = np.arange(len(a))[:, None]

    @lru_cache(maxsize=2)
    def ahead(turn: int) -> NDArray[np.int64]:
        rng = np.random.default_rng([seed, turn, 0x7A4])
        return rng.integers(0, a.shape[1], (AHEAD, len(a), size))

    def batches(step: int) -> Batch:
        chosen = ahead(step // AHEAD)[step % AHEAD]
        return torch.from_numpy(a[who, chosen]), torch.from_numpy(y[who, chosen])

    return batches


def _problem(kind: Unit, start: Array, batches: Callable[[int], Batch]) -> Problem:
    def loss(params: Params, batch: Batch) -> Tensor:
        x = params["x"]
        folds: Tensor = kind.fold * (1 - 1 / (1 + x.square())).sum()
        return kind.loss(batch[0] @ x, batch[1]).mean() + folds

    def arrays(x: np.ndarray, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        losses, g = _at(kind, x[:, :, None], batch[0].numpy(), batch[1].numpy()[:, :, None])
        return losses[:, 0], g[:, :, 0]

    def exact(x: Tensor, where: Layout, rest: Params, batch: Batch) -> tuple[Tensor, Tensor]:
        losses, g = arrays(x.numpy(), batch)
        return torch.from_numpy(losses), torch.from_numpy(g)

    return Problem({"x": torch.from_numpy(start)}, loss, batches, exact, None, arrays)


def _at(kind: Unit, x: Array, a: Array, y: Array) -> tuple[Array, Array]:
    """Return losses (N, k) and gradients (N, d, k) at k points each, x (N, d, k), of rows a (N, n, d), y (N, n, 1)."""
    losses, slopes = kind.sides(np.matmul(a, x), y)
    slopes /= a.shape[1]
    values, g = losses.mean(1), np.matmul(a.swapaxes(1, 2), slopes)
    if kind.fold:
        below = 1 / (1 + x * x)
        values += kind.fold * (1 - below).sum(1)
        g += 2 * kind.fold * x * below * below
    return values, g


# ---- what theorems ask of it


def hessian(rows: Rows, x: Array, kind: Unit = TANH) -> Array:
    """Return the Hessian (d, d) of f at x (d,)."""
    a, y = rows.a.reshape(-1, len(x)), rows.y.ravel()
    bends = kind.bends(a @ x, y)
    folds = kind.fold * (2 - 6 * x * x) / (1 + x * x) ** 3
    at_x: Array = a.T @ (bends[:, None] * a) / len(y) + np.diag(folds)
    return at_x


def limits(rows: Rows, kind: Unit = TANH) -> Limits:
    """Return bounds from those of the loss in u and of z^2 / (1 + z^2): slopes of 3 sqrt(3) / 8 at most, bends of 2."""
    slope, bend = kind.limits(float(np.abs(rows.y).max()))
    count, d = rows.a.shape[1:]
    widest = float((np.linalg.norm(rows.a, 2, axis=(1, 2)) ** 2).max()) / count
    steepest = slope * float(np.linalg.norm(rows.a, axis=2).max())
    return Limits(bend * widest + 2 * kind.fold, steepest + kind.fold * 3 / 8 * 3**0.5 * d**0.5)
