"""Statistics of paired differences, against scipy, hand arithmetic, brute force and simulation."""

from itertools import combinations, product

import numpy as np
import pytest
from cases import cases
from scipy import stats

from deca_lab.errors import BadInput
from deca_lab.studies import evidence as ev
from deca_lab.studies.evidence import Case

GAPS = np.random.default_rng(0).normal(0.3, 1.0, 9)


def rows_of(mean, n, times, seed=0):
    return np.random.default_rng(seed).normal(mean, 1.0, (times, n))


@cases("line", [0.0, 0.7, -0.4])
def test_tests_and_intervals_are_scipys(line):
    from scipy.stats import ttest_1samp

    two = ttest_1samp(GAPS, line)
    assert ev.p_off(GAPS, line) == pytest.approx(two.pvalue)
    above = ttest_1samp(GAPS, line, alternative="greater").pvalue
    assert ev.p_above(GAPS, line) == pytest.approx(above)
    want = two.confidence_interval(0.9)
    assert ev.interval(GAPS, 0.9) == pytest.approx((want.low, want.high))


def test_equality_is_two_one_sided_tests_and_the_90_percent_interval_within_the_margin():
    from scipy.stats import ttest_1samp

    for gaps in rows_of(0.2, 8, 50):
        low = ttest_1samp(gaps, -1.0, alternative="greater").pvalue
        high = ttest_1samp(gaps, 1.0, alternative="less").pvalue
        assert ev.p_equal(gaps, 1.0) == pytest.approx(max(low, high))
        ends = ev.interval(gaps, 0.9)
        assert (ev.p_equal(gaps, 1.0) < 0.05) == (ends[0] > -1 and ends[1] < 1)


def test_one_side_alone_shows_no_equality():
    far = np.array([2.0, 2.1, 1.9, 2.05])  # surely above -1, surely not below 1
    assert ev.p_equal(far, 1.0) > 0.99
    assert ev.p_equal(-far, 1.0) > 0.99


@pytest.mark.parametrize("seeds", [2, 5, 10])
def test_equal_gaps_are_judged_by_their_signs_not_by_a_spread_of_nothing(seeds):
    gaps = np.full(seeds, -1 / 32)
    wins = stats.binomtest(seeds, seeds, alternative="greater").pvalue
    assert ev.p_above(-gaps, 0.0) == wins
    assert ev.p_above(gaps, 0.0) == 1.0
    (row,) = ev.weigh([Case(gaps)])
    assert row["verdict"] == ("disagree" if seeds > 5 else "undecided")


def test_signs_are_every_flip_by_hand():
    gaps = GAPS[:6]
    means = [np.mean(gaps * signs) for signs in product((1, -1), repeat=6)]
    as_far = sum(abs(m) >= abs(np.mean(gaps)) - 1e-12 for m in means)
    assert ev.p_signs(gaps) == pytest.approx(as_far / 64)
    assert ev.p_signs(np.full(10, 1.0) + np.arange(10)) == pytest.approx(2 / 1024)


def closed(ps):
    """Return Holm's p by its definition: the largest Bonferroni p of any intersection that holds the hypothesis."""
    every = range(len(ps))
    sets = [s for k in every for s in combinations(every, k + 1)]
    return [max(min(1.0, len(s) * min(ps[i] for i in s)) for s in sets if j in s) for j in every]


def test_holm_is_the_closure_of_bonferroni():
    for ps in np.random.default_rng(1).uniform(0, 0.3, (50, 5)):
        assert ev.holm(ps) == pytest.approx(closed(ps))


def test_holm_by_hand():
    assert ev.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(ev.holm([np.nan, 0.02, 0.9]), [np.nan, 0.04, 0.9])  # one less
    ps = np.sort(np.random.default_rng(2).uniform(0, 0.1, 20))
    assert np.all(np.diff(ev.holm(ps)) >= 0)  # never turns the order of two tests


@pytest.mark.parametrize(("n", "level"), [(3, 0.05), (10, 0.05), (10, 0.002)])
def test_power_is_how_often_the_test_rejects(n, level):
    size = ev.detectable(1.0, n, level)
    gaps = rows_of(size, n, 20_000)
    from scipy.stats import ttest_1samp

    seen = np.mean(ttest_1samp(gaps, 0.0, axis=1).pvalue < level)
    assert seen == pytest.approx(0.8, abs=0.012)  # four standard errors
    assert ev.power(size, 1.0, n, level) == pytest.approx(0.8)
    assert ev.detectable(2.5, n, level) == pytest.approx(2.5 * size)
    assert ev.power(0.0, 1.0, n, level) == pytest.approx(level)


@cases(("size", "level"), [(0.5, 0.05), (2.0, 0.002), (0.02, 0.05), (300.0, 0.002)])
def test_the_seeds_needed_are_the_fewest(size, level):
    n = ev.seeds_needed(size, 1.0, level)
    if n < ev.MOST_SEEDS:
        assert ev.power(size, 1.0, n, level) >= 0.8
    assert n == 2 or ev.power(size, 1.0, n - 1, level) < 0.8


def test_the_textbook_number_of_pairs():
    assert ev.seeds_needed(0.5, 1.0) == 34  # Cohen 1988, and G*Power: d = 0.5, 5 %, 80 %, pairs
    assert ev.seeds_needed(1.0, 1.0) == 10
    assert ev.seeds_needed(1e-9, 1.0) == ev.MOST_SEEDS


def test_95_percent_of_intervals_hold_the_truth_of_synthetic_pairs():
    inside = [low < 0.3 < high for low, high in map(ev.interval, rows_of(0.3, 10, 4000))]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.014)  # four standard errors


@pytest.mark.slow
def test_a_family_in_which_nothing_differs_is_decided_in_one_of_twenty():
    families = np.random.default_rng(3).normal(0, 1.0, (400, 8, 10))
    hard = np.random.default_rng(4).normal(0, 1.0, (400, 1, 10))  # what all cases share
    wrong = [
        any(p < ev.LEVEL for p in ev.holm([ev.p_off(gaps) for gaps in family]))
        for family in families + hard
    ]
    assert np.mean(wrong) < 0.05 + 4 * (0.05 * 0.95 / 400) ** 0.5


TIGHT = np.array([0.01, -0.01, 0.02, -0.02, 0.015])


@cases(
    ("gaps", "margin", "at_least", "verdict"),
    [
        (1 + TIGHT, 0.1, False, "agree"),
        (-1 + TIGHT, 0.1, False, "disagree"),
        (TIGHT, 0.1, False, "equal"),
        (0.05 + TIGHT, 0.1, False, "equal"),  # surely above zero, and too small to matter
        (10 * TIGHT, 0.1, False, "undecidable"),
        (10 * TIGHT, 10.0, False, "equal"),
        (10 * TIGHT, 0.0, False, "undecided"),
        (0.1 + TIGHT, 0.09, False, "agree"),
        (-0.05 + TIGHT, 0.1, True, "agree"),
        (-0.2 + TIGHT, 0.1, True, "disagree"),
        (1 + TIGHT, 0.1, True, "agree"),
        (-0.1 + TIGHT, 0.1, True, "undecided"),
        (-0.1 + 10 * TIGHT, 0.1, True, "undecidable"),
        (np.zeros(5), 0.1, False, "equal"),
        (np.ones(5), 0.1, False, "undecided"),  # 2 / 2**5 is above 5 %
        (np.ones(10), 0.1, False, "agree"),
        (np.ones(1), 0.1, False, "undecided"),
        (np.ones(0), 0.1, False, "undecided"),
    ],
)
def test_verdicts(gaps, margin, at_least, verdict):
    assert ev.weigh([Case(gaps, margin, at_least)])[0]["verdict"] == verdict


def test_a_family_takes_more_than_a_case_alone():
    case = Case(0.02 + TIGHT, 0.001)
    alone = ev.weigh([case])[0]
    among = ev.weigh([case, *(Case(TIGHT, 0.001) for _ in range(19))])[0]
    assert (alone["verdict"], among["verdict"]) == ("agree", "undecidable")
    assert among["p"] == alone["p"]
    assert among["p_holm"] == pytest.approx(20 * alone["p"])
    assert among["detectable"] == pytest.approx(ev.detectable(alone["sd"], 5, 0.05 / 20))
    assert among["needed"] > alone["needed"]


def test_no_family():
    with pytest.raises(BadInput, match="cases"):
        ev.weigh([])
