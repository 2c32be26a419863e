"""The learning rate of one arm on one seed: a grid that grows until its best rate is not at its edge."""

import math
from collections.abc import Callable, Mapping, Sequence

from deca_lab.errors import check

MOST = 8  # rates that are added to a grid; then an edge is accepted, and said


def check_rates(rates: Sequence[float]) -> None:
    """Raise BadInput unless the rates are different positive numbers, one or more."""
    fine = len(set(rates)) == len(rates) > 0 and all(0 < rate < math.inf for rate in rates)
    check(fine, "rates", rates, "different learning rates above 0, one or more")


def tried(loss_at: Callable[[float], float], rates: Sequence[float]) -> dict[float, float]:
    """Return {rate: validation loss} of the grid, and of what was added to it; a loss may be inf or NaN.

    A grid of two rates or more grows by its own factor, up to MOST times, while its best rate is its
    smallest or largest. A single rate is taken as it is.
    """
    losses = {rate: loss_at(rate) for rate in sorted(set(rates))}
    for _ in range(MOST):
        rate = beyond(losses)
        if rate is None:
            break
        losses[rate] = loss_at(rate)
    return losses


def best(losses: Mapping[float, float]) -> float:
    """Return the rate with the lowest loss; of equal ones, the nearest to the grid's middle."""
    rates = sorted(losses)

    def order(k: int) -> tuple[float, float]:
        return _or_inf(losses[rates[k]]), abs(k - (len(rates) - 1) / 2)

    return rates[min(range(len(rates)), key=order)]


def beyond(losses: Mapping[float, float]) -> float | None:
    """Return the rate to try next, outside the grid; None where the best one lies inside it.

    Where every rate diverges it is a smaller one. Rates have two digits where that tells them
    apart, so that the folders of their runs can be found again.
    """
    rates = sorted(losses)
    if len(rates) < 2:
        return None
    k = rates.index(best(losses)) if any(map(math.isfinite, losses.values())) else 0
    if 0 < k < len(rates) - 1:
        return None
    edge, inner = (rates[0], rates[1]) if k == 0 else (rates[-1], rates[-2])
    further = edge * edge / inner
    short = float(f"{further:.2g}")
    return short if (short - edge) * (edge - inner) > 0 else float(f"{further:.6g}")


def _or_inf(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf
