"""Exercises of lesson 9: the exponent of a rate, and how tight a bound is."""

import numpy as np

from deca_lab.bounds.bound import Bound
from deca_lab.course.exercises.exercise import Exercise, Mistake
from deca_lab.mixing.graphs import Array

LENGTHS = np.array([64.0, 128.0, 512.0, 4096.0])
FALLING = np.array([0.9, 0.71, 0.3, 0.12])
COSTS = (np.array([1.0, 3.0, 10.0]), np.array([2.0, 5.0, 40.0]))


def slope(lengths: Array, values: Array) -> float:
    """Return the exponent of the power law (lengths, values) (k,): the least-squares slope in the logarithms."""
    from deca_lab.bounds.rate_laws import Points, Squares, fit

    twice = np.stack([values, values], 1)  # two seeds that agree: the fit wants an interval
    return fit(Points(lengths, Squares(*[twice] * len(Squares._fields)))).slope


def tightness(lhs: Array, rhs: Array) -> float:
    """Return how near to equality a bound lhs <= rhs (k,) came at best: 1 is attained, above 1 is broken."""
    return Bound(lhs, rhs, "given", "given").tightness


def _slope(x: Array, y: Array) -> float:
    return float(np.polyfit(x, y, 1)[0])


SLOPE = Exercise(
    name="slope",
    about="slope of a fit",
    solution=slope,
    cases={"a squared gradient that falls": (LENGTHS, FALLING), "a cost that grows": COSTS},
    mistakes=(
        Mistake(
            _slope,
            "you fitted a line through the numbers themselves. A power law is a line through the logarithms of "
            "both.",
        ),
        Mistake(
            lambda x, y: _slope(x, np.log(y)),
            "you took the logarithm of the values only: that is the rate of an "
            "exponential. A power law needs both.",
        ),
        Mistake(lambda x, y: _slope(np.log(x), y), "you took the logarithm of the lengths only."),
        Mistake(
            lambda x, y: _slope(np.log(y), np.log(x)),
            "the axes are exchanged: how do the values follow the lengths?",
        ),
        Mistake(
            lambda x, y: -_slope(np.log(x), np.log(y)),
            "the sign is turned: a slope that falls is negative.",
        ),
        Mistake(
            lambda x, y: float(np.log(y[-1] / y[0]) / np.log(x[-1] / x[0])),
            "you used the first and the last point only; fit all of them.",
        ),
        Mistake(
            lambda x, y: float((np.diff(np.log(y)) / np.diff(np.log(x))).mean()),
            "you averaged the slopes between "
            "neighbours, whatever their distance; fit one line through all points.",
        ),
        Mistake(
            lambda x, y: float(np.log(x) @ np.log(y) / (np.log(x) @ np.log(x))),
            "you forced the line through the origin; "
            "let it have a height of its own, for a rate says nothing about the constant.",
        ),
        Mistake(
            lambda x, y: float(np.polyfit(np.log(x), np.log(y), 1)[1]),
            "this is the height of the line; np.polyfit puts the slope first.",
        ),
    ),
    hints=(
        "If value = c length^k, then log value = log c + k log length: a line of slope k.",
        "np.polyfit(x, y, 1) fits a line, slope first. Give it logarithms of both.",
    ),
)
TIGHTNESS = Exercise(
    name="tightness",
    about="tightness",
    solution=tightness,
    cases={
        "four steps of a bound that holds": (
            np.array([1.0, 3.0, 8.0, 0.4]),
            np.array([2.0, 3.5, 20.0, 1.6]),
        ),
        "a bound that is broken": (np.array([0.5, 3.0, 2.0]), np.array([4.0, 2.0, 2.5])),
    },
    mistakes=(
        Mistake(
            lambda lhs, rhs: (lhs / rhs).mean(),
            "you averaged the ratios. One step at which the bound is attained shows "
            "that it cannot be made smaller: take the largest.",
        ),
        Mistake(lambda lhs, rhs: (lhs / rhs).min(), "this is the loosest step; take the tightest."),
        Mistake(
            lambda lhs, rhs: (rhs / lhs).min(),
            "the ratio is upside down: the left side over the right one.",
        ),
        Mistake(
            lambda lhs, rhs: lhs.max() / rhs.max(),
            "you compared the largest of each side, which may stand at different "
            "steps. Divide step by step, then take the largest ratio.",
        ),
        Mistake(
            lambda lhs, rhs: lhs.sum() / rhs.sum(),
            "you compared the sums. Divide step by step, then take the largest ratio.",
        ),
        Mistake(lambda lhs, rhs: lhs[-1] / rhs[-1], "you looked at the last step only."),
        Mistake(
            lambda lhs, rhs: (rhs - lhs).min(),
            "this is the smallest difference, which has a unit. A ratio has none.",
        ),
        Mistake(
            lambda lhs, rhs: 1 - (lhs / rhs).max(),
            "this is what is left over, one minus the tightness.",
        ),
        Mistake(
            lambda lhs, rhs: min((lhs / rhs).max(), 1.0),
            "you cut the ratio off at 1. Then a broken bound looks like one that is attained.",
        ),
    ),
    hints=(
        "Step by step, which part of the right side does the left one fill?",
        "The largest lhs / rhs over all steps.",
    ),
)
EXERCISES = (SLOPE, TIGHTNESS)
