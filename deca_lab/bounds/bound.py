"""What every claim returns: both sides along an axis, where it comes from, and a verdict in words."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deca_lab.mixing.graphs import Array


class Bound(NamedTuple):
    """One claim lhs <= rhs, or lhs = rhs where `equal`, evaluated.

    `lhs`, `rhs`: float64 arrays along `axis` ("step", "mixing"), whose first entry is number `first`; or floats.
    `rounding`: what float64 may lose in either side, absolute, with the same shape or a float; 0 unless given.
    `broken`: the hypothesis that this instance breaks, in words (`hypotheses`); then the claim does not speak of it.
    """

    lhs: Array | float
    rhs: Array | float
    name: str
    source: str
    axis: str = "step"
    first: int = 1
    rounding: Array | float = 0.0
    equal: bool = False
    broken: str = ""

    @property
    def at(self) -> NDArray[np.int64]:
        """Return the numbers of the entries along the axis."""
        return self.first + np.arange(np.size(self.lhs))

    @property
    def finite(self) -> bool:
        """Say whether every number of both sides is finite."""
        return bool(
            np.isfinite(self.lhs).all()
            and np.isfinite(self.rhs).all()
            and np.isfinite(self.rounding).all()
        )

    def within(self, rtol: float = 1e-9) -> NDArray[np.bool_]:
        """Return for each entry whether lhs <= rhs (1 + rtol) + rounding, and from below where `equal`; never if not finite."""
        lhs, rhs, rounding = map(
            np.atleast_1d, np.broadcast_arrays(self.lhs, self.rhs, self.rounding)
        )
        there = np.isfinite(lhs) & np.isfinite(rhs) & np.isfinite(rounding)
        lhs, rhs, rounding = (np.where(there, side, 0.0) for side in (lhs, rhs, rounding))
        above, slack = lhs - rhs, rtol * np.abs(rhs) + rounding
        inside: NDArray[np.bool_] = there & ((np.abs(above) if self.equal else above) <= slack)
        return inside

    def holds(self, rtol: float = 1e-9) -> bool:
        """Say whether the claim held at every entry. No entry at all, or one that is not finite, is no evidence."""
        return np.size(self.lhs) > 0 and bool(self.within(rtol).all())

    @property
    def ratios(self) -> Array:
        """Return lhs / rhs at each entry: 1 is attained, small is loose; 0 where both are rounding.

        NaN where a number is not finite or, unless the claim is an equality, rhs is below 0.
        """
        lhs, rhs, rounding = map(
            np.atleast_1d, np.broadcast_arrays(self.lhs, self.rhs, self.rounding)
        )
        size = np.abs(rhs) if self.equal else rhs
        silent = np.isnan(lhs) | np.isnan(rhs) | (size < -rounding)
        ends = np.where(silent, np.nan, np.where(lhs <= rounding, 0.0, np.inf))
        divisible = np.isfinite(lhs) & np.isfinite(rhs) & (size > rounding)
        ratios: Array = np.divide(lhs, rhs, out=ends, where=divisible)
        return ratios

    @property
    def tightness(self) -> float:
        """Return the largest lhs / rhs; NaN where a number is not finite, or rhs an exponent below 0."""
        return float(self.ratios.max()) if self.finite and np.size(self.lhs) else float("nan")

    @property
    def verdict(self) -> str:
        """Return "holds", "fails at step 3" (the first), "hypothesis broken: " and which, or that nothing can be compared."""
        if self.broken:
            return f"hypothesis broken: {self.broken}"
        if np.size(self.lhs) == 0:
            return "nothing was compared"
        if not self.finite:
            return "not finite"
        inside = self.within()
        return "holds" if inside.all() else f"fails at {self.axis} {self.at[int(inside.argmin())]}"
