"""Instances of claims, drawn from a point of the unit cube: numbers, networks and functions, a coordinate after the other."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from scipy.special import ndtri

from deca_lab.bounds import landscape as ls
from deca_lab.bounds.attack_references import Slope
from deca_lab.mixing.graphs import Array
from deca_lab.mixing.topology import Topology, topology

T = TypeVar("T")
LENGTH = 1024  # coordinates of a point, more than any instance takes


class Draw:
    """A point of the unit cube and how many of its coordinates have been taken."""

    def __init__(self, points: Array) -> None:
        """Begin at the first coordinate."""
        self.points, self.taken = points, 0

    def unit(self, count: int) -> Array:
        """Return the next coordinates."""
        self.taken += count
        return self.points[self.taken - count : self.taken]

    def between(self, low: float, high: float) -> float:
        """Return a number of an interval."""
        return low + (high - low) * float(self.unit(1)[0])

    def log(self, low: float, high: float) -> float:
        """Return a positive number of an interval, evenly in its logarithm."""
        return float(np.exp(self.between(np.log(low), np.log(high))))

    def whole(self, low: int, high: int) -> int:
        """Return a whole number from low to high."""
        return min(int(self.between(low, high + 1)), high)

    def one_of(self, values: Sequence[T]) -> T:
        """Return one of the values."""
        return values[self.whole(0, len(values) - 1)]

    def normal(self, *shape: int) -> Array:
        """Return normal numbers of a shape, each from one coordinate; the ends of the cube stand for 3.9 deviations."""
        u = self.unit(int(np.prod(shape))).clip(5e-5, 1 - 5e-5)
        return np.asarray(ndtri(u)).reshape(shape)


def network(draw: Draw, n: int, kinds: str = "rmdsn", most: int = 2) -> Topology:
    """Return a topology of up to `most` matrices in turn; each is one of the `kinds`.

    r: ring; m: symmetric mixture of permutations; d: a mixture that is not symmetric; s: one with a negative share; n: rows
    sum to one, columns do not.
    """
    return Topology("drawn", tuple(_matrix(draw, n, kinds) for _ in range(draw.whole(1, most))))


def _matrix(draw: Draw, n: int, kinds: str) -> Array:
    kind = draw.one_of(kinds)
    if kind == "r":
        return topology("ring" if n > 2 else "path", n).at(0)
    orders = [np.argsort(draw.unit(n)) for _ in range(3)]
    share = draw.unit(4) ** 3 + 1e-3
    share = share / share.sum()
    if kind == "s":
        a, b, c = draw.unit(3) * [0.6, 0.6, 0.4]
        share = np.array([1 - a - b + c, a, b, -c])
    W: Array = share[0] * np.eye(n) + sum(
        s * np.eye(n)[p] for s, p in zip(share[1:], orders, strict=True)
    )
    if kind == "n":
        W = np.abs(W) + 0.2 * draw.unit(n * n).reshape(n, n)
        W = W / W.sum(1, keepdims=True)
    return W if kind in "dn" else (W + W.T) / 2


def functions(draw: Draw, n: int, d: int, kinds: str = "qv") -> tuple[ls.Landscape, Slope]:
    """Return a landscape whose constants are known, and its clients' gradients in NumPy: quadratics, valleys, linear."""
    kind, centres = draw.one_of(kinds), draw.normal(n, d) * draw.log(0.03, 10)
    start = torch.from_numpy(draw.normal(d) * draw.log(0.03, 10))
    if kind == "l":
        war = ls.tug_of_war(n, d)
        return war._replace(data=torch.from_numpy(centres)), lambda X: centres + 0 * X
    centres = centres - centres.mean(0)
    if kind == "v":
        land = ls.valleys(n, d)
        zeta = ls._valley_zeta(torch.from_numpy(centres))
        return land._replace(
            data=torch.from_numpy(centres), start=start, zeta=zeta
        ), lambda X: 2 * (X - centres) / (1 + (X - centres) ** 2) ** 2
    a = np.geomspace(0.1, 1.0, d) if d > 1 else np.ones(1)
    land = ls.quadratics(n, d)._replace(
        data=torch.from_numpy(centres),
        start=start,
        zeta=float(np.sqrt(np.square(a * centres).sum() / n)),
        lowest=float((a * centres**2).sum() / 2 / n),
    )
    return land, lambda X: a * (X - centres)
