"""Exercises of lesson 10: the interval of a paired difference, and what may be said of two methods."""

from typing import TYPE_CHECKING

import numpy as np

from deca_lab.course.exercises.exercise import Exercise, Mistake
from deca_lab.mixing.graphs import Array

if TYPE_CHECKING:
    import pandas as pd

HARD = np.array([0.31, 0.92, -0.4, 0.15, 0.63])  # what five seeds add to both methods
FIRST = 2.0 + HARD
CLOSE, NOISY, FAR = (
    FIRST + np.array(gaps)
    for gaps in (
        [0.11, 0.05, 0.09, 0.02, 0.07],
        [0.3, -0.1, 0.25, -0.2, 0.1],
        [2.0, 2.1, 1.9, 2.05, 1.95],
    )
)
THREE, THREE_LOWER = np.array([1.0, 1.4, 1.9]), np.array([0.9, 1.32, 1.79])


def paired_interval(first: Array, second: Array) -> tuple[float, float]:
    """Return low and high end of the 95 % interval of Student's t for the mean of first - second (k,), paired by seed."""
    from deca_lab.studies.compare import difference

    interval = difference(_table(first, second), "first", "second", "loss")
    return interval.low, interval.high


def better(first: Array, second: Array) -> str:
    """Return "first", "second" or "undecided": which method's losses (k,), paired by seed, are lower beyond doubt."""
    from deca_lab.studies.compare import paired

    return str(paired(_table(first, second), "loss")["verdict"].iloc[0]).removesuffix(" is better")


def _table(first: Array, second: Array) -> "pd.DataFrame":
    """Return the losses as the table of a comparison."""
    import pandas as pd

    seeds = np.arange(len(first))
    return pd.concat(
        [
            pd.DataFrame({"arm": arm, "seed": seeds, "loss": losses, "chosen": True})
            for arm, losses in (("first", first), ("second", second))
        ]
    )


def _t(freedom: float, part: float = 0.975) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, part))


def _around(gaps: Array, half: float) -> tuple[float, float]:
    return float(gaps.mean() - half), float(gaps.mean() + half)


def _error(gaps: Array, ddof: int = 1) -> float:
    return float(gaps.std(ddof=ddof) / len(gaps) ** 0.5)


def _unpaired(a: Array, b: Array) -> tuple[float, float]:
    return _around(a - b, _t(2 * len(a) - 2) * (_error(a) ** 2 + _error(b) ** 2) ** 0.5)


def _word(low: float, high: float) -> str:
    return "first" if high < 0 else "second" if low > 0 else "undecided"


PAIRED_INTERVAL = Exercise(
    name="paired_interval",
    about="paired interval",
    solution=paired_interval,
    cases={"five seeds": (FIRST, CLOSE), "three seeds": (THREE, THREE_LOWER)},
    mistakes=(
        Mistake(
            _unpaired,
            "you treated the runs as unrelated. Both methods met the same seeds: take differences seed by seed, "
            "and what makes a seed hard for both drops out.",
        ),
        Mistake(
            lambda a, b: _around(a - b, 1.96 * _error(a - b)),
            "1.96 is for very many seeds. With few, take the quantile of "
            "Student's t with k - 1 degrees of freedom.",
        ),
        Mistake(
            lambda a, b: _around(a - b, 1.96 * _error(a - b, 0)),
            "1.96 is for very many seeds: take Student's t. And the deviation of a sample divides by k - 1: ddof=1.",
        ),
        Mistake(
            lambda a, b: _around(a - b, _t(len(a) - 1, 0.95) * _error(a - b)),
            "the 95 % point leaves 5 % on each side, so this is a 90 % interval. Take the 97.5 % point.",
        ),
        Mistake(
            lambda a, b: _around(a - b, _t(len(a) - 1) * _error(a - b, 0)),
            "the standard deviation of a sample divides by k - 1: ddof=1.",
        ),
        Mistake(
            lambda a, b: _around(a - b, _t(len(a) - 1) * float((a - b).std(ddof=1))),
            "this is where single seeds lie. The mean of k seeds is surer by the root of k.",
        ),
        Mistake(
            lambda a, b: _around(a - b, _t(len(a) - 1) * float((a - b).std(ddof=1)) / len(a)),
            "divide by the root of k, not by k.",
        ),
        Mistake(
            lambda a, b: _around(a - b, _error(a - b)),
            "this is one standard error on each side; 95 % takes more, the "
            "quantile of Student's t.",
        ),
        Mistake(
            lambda a, b: _around(a - b, _t(len(a)) * _error(a - b)),
            "k differences have k - 1 degrees of freedom.",
        ),
        Mistake(
            lambda a, b: _around(b - a, _t(len(a) - 1) * _error(a - b)),
            "the sign is turned: it is first minus second.",
        ),
        Mistake(lambda a, b: paired_interval(a, b)[::-1], "the ends are exchanged: low first."),
        Mistake(
            lambda a, b: (float((a - b).min()), float((a - b).max())),
            "these are the smallest and the largest difference; "
            "an interval of the mean is asked for.",
        ),
    ),
    hints=(
        "Only the k differences matter: d = first - second. Their mean is the middle of the interval.",
        "The standard error is d.std(ddof=1) / sqrt(k).",
        "Half the width is scipy.stats.t.ppf(0.975, k - 1) times the standard error.",
    ),
)
BETTER = Exercise(
    name="better",
    about="decision",
    solution=better,
    cases={
        "a small difference of the same sign on every seed": (FIRST, CLOSE),
        "differences of both signs": (FIRST, NOISY),
        "a large difference": (FIRST, FAR),
        "a first method that is higher on every one of three seeds": (THREE, THREE_LOWER),
        "a mean that three seeds cannot tell": (THREE, THREE - [0.3, 0.01, 0.05]),
    },
    mistakes=(
        Mistake(
            lambda a, b: _word(a.mean() - b.mean(), a.mean() - b.mean()),
            "you compared the means alone. A difference may be "
            "chance: the whole interval must lie on one side of zero.",
        ),
        Mistake(
            lambda a, b: _word(*paired_interval(b, a)),
            "the wrong one: these are losses, so lower is better.",
        ),
        Mistake(
            lambda a, b: _word(*_unpaired(a, b)),
            "you used an interval of unrelated runs. Paired by seed, what is hard for "
            "both drops out, and smaller differences can be told.",
        ),
        Mistake(
            lambda a, b: _word(float((a - b).min()), float((a - b).max())),
            "that all seeds agree in sign is not enough when "
            "there are few of them: ask whether the interval of the mean holds zero.",
        ),
        Mistake(
            lambda a, b: _word(a.max() - b.min(), a.min() - b.max()),
            "you compared the extremes of each method. Take "
            "differences seed by seed, and the interval of their mean.",
        ),
        Mistake(
            lambda a, b: "undecided",
            "always undecided: where the whole interval lies on one side of zero, it is decided.",
        ),
    ),
    hints=(
        "Take paired_interval of the two. What does it mean when zero lies inside it?",
        "Losses: where the interval of first - second lies below zero, the first is better; above zero, the second.",
    ),
)
EXERCISES = (PAIRED_INTERVAL, BETTER)
