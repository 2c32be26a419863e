"""Laws of a rate: what is fitted to squared gradients of many lengths, with intervals of Student's t over seeds."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import stdtrit

from deca_lab.errors import check, pick
from deca_lab.mixing.graphs import Array

CLAIMED = -0.5


class Squares(NamedTuple):
    """Squared gradient of f at the mean model, averaged over inner steps: (seeds,) of a run, (lengths, seeds) of a sweep."""

    full: Array  # of all coordinates
    block: Array  # of the active block
    late: Array  # of all coordinates, over the last quarter alone: what is left when the start is forgotten


class Points(NamedTuple):
    """What a sweep over one knob measured at each of its lengths T B R."""

    lengths: Array
    squares: Squares
    c: Array | float = 1.0  # of each run's learning rate
    away: Array | float = 1.0  # 1 for a run from far away, 0 from the solution


class Fit(NamedTuple):
    """A line through the logarithms, and the floor under it: means over seeds, with intervals of Student's t."""

    slope: float
    low: float
    high: float
    last: float  # slope between the two longest runs alone
    floor: float  # a of `late` = a + k / sqrt(length), of all coordinates; below 0 where none is to be seen
    floor_low: float
    floor_high: float
    ends: float  # the length at which k / sqrt(length) of `full` has come down to the floor; infinite without one


class Law(NamedTuple):
    """(start / c + noise c) length^(-p) + floor, fitted for each seed: means, and intervals of Student's t over seeds."""

    start: float
    noise: float
    floor: float  # where p = 1/2
    floor_low: float
    floor_high: float
    power: float  # p, where the floor is 0
    power_low: float
    power_high: float
    level: float  # the smallest mean that was measured, to read the floor against


def together(far: Points, *near: Points) -> Points:
    """Return as one law's points the means of runs from far away, and of the last quarter of those from the solution."""
    means = [far.squares.full, *(one.squares.late for one in near)]
    late = [one.squares.late for one in (far, *near)]
    count = [len(one.lengths) for one in (far, *near)]
    return Points(
        np.concatenate([one.lengths for one in (far, *near)]),
        Squares(np.concatenate(means), np.concatenate(means), np.concatenate(late)),
        np.repeat([np.max(one.c) for one in (far, *near)], count),
        np.repeat([1.0, *(0.0 for _ in near)], count),
    )


def law(points: Points, measure: str = "full", level: float = 0.95) -> Law:
    """Return the law of three terms by least relative squares; raise BadInput for fewer than two seeds or lengths."""
    squares = _of_seeds(points, measure, level)
    check(len(set(points.lengths)) >= 2, "lengths", list(points.lengths), "two different or more")
    x = points.lengths.astype(float)
    parts = np.stack([points.away / points.c + 0 * x, points.c + 0 * x], 1)

    def fitted(y: Array, p: float, *more: Array) -> tuple[float, Array]:
        terms = np.stack([*(parts * x[:, None] ** -p).T, *more], 1) / y[:, None]
        k = np.linalg.lstsq(terms, np.ones(len(y)), rcond=None)[0]
        return float(np.square(terms @ k - 1).sum()), k

    def power(y: Array) -> float:
        return float(minimize_scalar(lambda p: fitted(y, p)[0], bounds=(-1, 3), method="bounded").x)

    k = np.array([fitted(y, -CLAIMED, np.ones(len(y)))[1] for y in squares.T])
    return Law(
        float(k[:, 0].mean()),
        float(k[:, 1].mean()),
        *student(k[:, 2], level),
        *student(np.array([power(y) for y in squares.T]), level),
        float(squares.mean(1).min()),
    )


def gathered(lengths: Sequence[int], runs: Sequence[Squares]) -> Points:
    """Return runs of these lengths, each with its seeds, as points."""
    return Points(np.array(lengths), Squares(*(np.stack(side) for side in zip(*runs, strict=True))))


def beside(runs: Sequence[Squares]) -> Squares:
    """Return runs of one setting that were measured separately, as seeds of one run."""
    return Squares(*(np.concatenate(side) for side in zip(*runs, strict=True)))


def fit(points: Points, measure: str = "block", level: float = 0.95) -> Fit:
    """Return slope and floor of each seed, as means with Student's interval of the level over seeds."""
    squares = _of_seeds(points, measure, level)
    x, y = np.log(points.lengths), np.log(squares)
    slopes = (x - x.mean()) @ y / ((x - x.mean()) @ (x - x.mean()))
    order = np.argsort(x)[-2:]
    last = np.diff(y[order], axis=0).mean() / np.diff(x[order])[0]
    root = np.sqrt(points.lengths)
    floor, least, most = student(
        np.array([_floor(root, late) for late in points.squares.late.T]), level
    )
    ends = (
        ((points.squares.full.mean(1) - floor) @ root / len(root) / floor) ** 2
        if least > 0
        else np.inf
    )
    return Fit(*student(slopes, level), float(last), floor, least, most, float(ends))


def _of_seeds(points: Points, measure: str, level: float) -> Array:
    """Return the squares (lengths, seeds) of a measure; raise BadInput where there is no interval of them."""
    squares: Array = pick(points.squares._asdict(), measure, "measure")
    check(squares.shape[1] >= 2, "seeds", squares.shape[1], "2 or more: an interval needs them")
    check(0 < level < 1, "level", level, "between 0 and 1")
    return squares


def _floor(root: Array, late: Array) -> float:
    """Return a of a + k / root, fitted by least relative squares."""
    terms = np.stack([np.ones(len(root)), 1 / root], 1) / late[:, None]
    return float(np.linalg.lstsq(terms, np.ones(len(root)), rcond=None)[0][0])


def student(values: Array, level: float) -> tuple[float, float, float]:
    """Return the mean and its interval."""
    half = stdtrit(len(values) - 1, (1 + level) / 2) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)
