"""The grid of learning rates: where it grows, where it stops, ties and runs that diverge."""

from math import inf, log, nan

import pytest
from cases import cases

from deca_lab.errors import BadInput
from deca_lab.studies import tuning

GRID = (1e-3, 2e-3, 4e-3)


def bowl(lowest):
    return lambda rate: log(rate / lowest) ** 2


@cases("lowest", [4.5e-5, 5e-4, 1e-3, 2e-3, 4e-3, 0.009, 0.5])
def test_the_best_rate_is_never_at_the_edge_and_as_near_as_the_factor_allows(lowest):
    losses = tuning.tried(bowl(lowest), GRID)
    best = tuning.best(losses)
    assert min(losses) < best < max(losses)
    assert abs(log(best / lowest)) < 1.05 * log(2) / 2
    assert len(losses) == len(set(losses)) <= len(GRID) + tuning.MOST


def test_a_grid_that_holds_its_best_rate_is_not_extended():
    assert sorted(tuning.tried(bowl(2e-3), GRID)) == sorted(GRID)
    assert sorted(tuning.tried(bowl(1.1e-3), GRID)) == [5e-4, *GRID]


def test_the_growth_is_bounded_and_leaves_the_best_at_the_edge():
    losses = tuning.tried(lambda rate: rate, GRID)
    assert len(losses) == len(GRID) + tuning.MOST
    assert tuning.best(losses) == min(losses)


@cases(
    ("losses", "best", "beyond"),
    [
        ({1.0: 5.0, 2.0: 5.0, 4.0: 5.0}, 2.0, None),  # flat: nothing to look for
        ({1.0: 3.0, 2.0: 3.0, 4.0: 5.0}, 2.0, None),  # a tie with what lies inside
        ({1.0: 3.0, 2.0: inf, 4.0: inf}, 1.0, 0.5),
        ({1.0: inf, 2.0: 3.0, 4.0: nan}, 2.0, None),  # what diverges closes the grid
        ({1.0: inf, 2.0: nan, 4.0: inf}, 2.0, 0.5),  # all of it: smaller
        ({1.0: nan, 2.0: 4.0}, 2.0, 4.0),
        ({1.0: 3.0}, 1.0, None),  # a rate that was given alone is meant
        ({1.0: inf}, 1.0, None),
        ({1.0: 3.0, 1.01: 2.0}, 1.01, 1.0201),  # two digits would not tell them apart
    ],
)
def test_ties_and_divergence(losses, best, beyond):
    assert tuning.best(losses) == best
    assert tuning.beyond(losses) == beyond


@cases("rates", [(), (0.0, 1.0), (-1.0,), (nan,), (inf, 1.0), (0.1, 0.1)])
def test_rates_are_positive_numbers(rates):
    with pytest.raises(BadInput, match=r"^rates = "):
        tuning.check_rates(rates)
