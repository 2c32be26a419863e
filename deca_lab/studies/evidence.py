"""What paired differences over seeds can say: intervals, tests, equality, power, and Holm's correction for many.

Gaps (n,) are differences of two arms, one a seed. Intervals and tests are Student's: the exact test,
which turns signs, gives no p below 2 / 2**n, and with ten seeds that is too much for a family of more
than twenty-five. It stands beside Student's as a check that needs no normal distribution.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from deca_lab.errors import check

LEVEL, POWER = 0.05, 0.8
MOST_SEEDS = 10_000  # beyond which nobody will run a study


class Case(NamedTuple):
    """One question to the data: is the mean of `gaps` above 0, or, `at_least`, above minus the margin?

    A difference smaller than `margin` does not matter to who asks; 0: there is no such size.
    """

    gaps: np.ndarray
    margin: float = 0.0
    at_least: bool = False


def mean(gaps: np.ndarray) -> float:
    """Return the mean; NaN of none."""
    return float(np.mean(gaps)) if len(gaps) else float("nan")


def interval(gaps: np.ndarray, confidence: float = 1 - LEVEL) -> tuple[float, float]:
    """Return Student's interval of the mean; NaN for its ends with fewer than two gaps."""
    from scipy.stats import t

    half = float(t.ppf(0.5 + confidence / 2, len(gaps) - 1)) * _error(gaps)
    return mean(gaps) - half, mean(gaps) + half


def p_above(gaps: np.ndarray, line: float) -> float:
    """Return Student's p of "the mean is at most `line`", one-sided: small where it lies above.

    Gaps that are equal on every seed, as counted scores can be, have no spread to judge by: then it is the sign test's p.
    """
    from scipy.stats import t

    away, error = mean(gaps) - line, _error(gaps)
    if error == 0:
        return 0.5 ** len(gaps) if away > 0 else 1.0
    return float(t.sf(away / error, len(gaps) - 1))


def p_off(gaps: np.ndarray, line: float = 0.0) -> float:
    """Return Student's two-sided p of "the mean is `line`"."""
    return min(1.0, 2 * min(p_above(gaps, line), p_above(-gaps, -line)))


def p_signs(gaps: np.ndarray) -> float:
    """Return the two-sided p of the sign-flip test of "the gaps lie evenly around 0": exact up to 16 gaps."""
    from scipy.stats import permutation_test

    draws = np.inf if len(gaps) <= 16 else 2**16 - 1
    got = permutation_test(
        (gaps,),
        lambda rows, axis: np.mean(rows, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=draws,
        random_state=np.random.default_rng(0),
    )
    return float(got.pvalue)


def p_equal(gaps: np.ndarray, margin: float) -> float:
    """Return the p of two one-sided tests (TOST) of "the mean is `margin` or more away from 0"."""
    return max(p_above(gaps, -margin), p_above(-gaps, -margin))


def holm(ps: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p of each; NaN, a test that could not be made, stays NaN and is not counted."""
    raw = np.asarray(ps, dtype=float)
    order = np.argsort(raw, kind="stable")[: int(np.isfinite(raw).sum())]  # NaN sorts last
    adjusted = np.full(len(raw), np.nan)
    stepped = np.maximum.accumulate(raw[order] * np.arange(len(order), 0, -1))
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(p) for p in adjusted]


def power(effect: float, spread: float, n: int, level: float = LEVEL) -> float:
    """Return how often Student's two-sided test of n gaps of this standard deviation sees a mean of `effect`."""
    from scipy.stats import f, ncf

    if effect == 0 or spread == 0:
        return level if effect == 0 else 1.0
    # t squared is F; scipy's noncentral t is NaN far out, and its noncentral F wrong at effect 0 alone
    return float(ncf.sf(f.isf(level, 1, n - 1), 1, n - 1, n * (effect / spread) ** 2))


def detectable(spread: float, n: int, level: float = LEVEL) -> float:
    """Return the smallest mean that n gaps of this standard deviation show with a power of 80 %; NaN below two."""
    from scipy.optimize import brentq

    if n < 2 or not np.isfinite(spread):
        return float("nan")
    most = 1.0  # in standard deviations
    while power(most, 1.0, n, level) < POWER:
        most *= 2
    return spread * float(brentq(lambda size: power(size, 1.0, n, level) - POWER, 0.0, most))


def seeds_needed(effect: float, spread: float, level: float = LEVEL) -> int:
    """Return how many seeds show a mean of `effect` > 0 with a power of 80 %, MOST_SEEDS where more."""
    few, many = 1, MOST_SEEDS
    while many - few > 1:
        n = (few + many) // 2
        few, many = (few, n) if power(effect, spread, n, level) >= POWER else (n, many)
    return many


def weigh(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Return what each case of a family says, a row a case, both families of tests held at 5 % by Holm.

    Keys: seeds, gain (mean), low, high (95 %, this case alone), sd; p, p_signs of no gain, or of a
    gain of minus the margin; p_holm; p_equal, p_equal_holm (TOST; NaN without a margin); detectable, a
    gain that these seeds would show with 80 % power; needed, the seeds for a gain of the margin;
    verdict. Power is at the level that Holm leaves to any case for sure, 5 % over their number.
    """
    check(len(cases) > 0, "cases", cases, "one or more")
    rows = [_alone(case, LEVEL / len(cases)) for case in cases]
    unlike = holm([row["p"] for row in rows])
    alike = holm([row["p_equal"] for row in rows])
    known = [
        {**row, "p_holm": p, "p_equal_holm": q}
        for row, p, q in zip(rows, unlike, alike, strict=True)
    ]
    return [{**row, "verdict": _verdict(row, case)} for row, case in zip(known, cases, strict=True)]


def _alone(case: Case, level: float) -> dict[str, Any]:
    """Return the columns of a case that do not depend on the others, but for the level of its power."""
    gaps, line = case.gaps, -case.margin if case.at_least else 0.0
    n, known = len(gaps), len(gaps) > 1
    low, high = interval(gaps)
    spread = float(np.std(gaps, ddof=1)) if known else np.nan
    return {
        "seeds": n,
        "gain": mean(gaps),
        "low": low,
        "high": high,
        "sd": spread,
        "p": p_off(gaps, line) if known else np.nan,
        "p_signs": p_signs(gaps - line) if known else np.nan,
        "p_equal": p_equal(gaps, case.margin) if known and case.margin else np.nan,
        "detectable": detectable(spread, n, level),
        "needed": seeds_needed(case.margin, spread, level) if known and case.margin else np.nan,
    }


def _verdict(row: dict[Any, Any], case: Case) -> str:
    """Return equal, agree, disagree, undecided; undecidable: too few seeds for a gain of the margin."""
    if row["p_equal_holm"] < LEVEL and not case.at_least:
        return "equal"  # whatever its sign, the gain is too small to matter
    if row["p_holm"] < LEVEL:
        return "agree" if row["gain"] > (-case.margin if case.at_least else 0) else "disagree"
    return "undecidable" if row["needed"] > row["seeds"] else "undecided"


def _error(gaps: np.ndarray) -> float:
    """Return the standard error of the mean; NaN with fewer than two gaps."""
    return float(np.std(gaps, ddof=1)) / len(gaps) ** 0.5 if len(gaps) > 1 else float("nan")
