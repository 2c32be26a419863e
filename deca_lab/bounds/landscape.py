"""Test problems on which a theorem's constants are exact: heterogeneous quadratics, and valleys, which are not convex."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deca_lab.algorithm.blocks import Block
from deca_lab.algorithm.gradients import Batch
from deca_lab.algorithm.problems import Problem
from deca_lab.algorithm.stacking import Params
from deca_lab.errors import check

Shape = Callable[[Tensor, Tensor], Tensor]  # (x (d,), one client's data (d,)) -> f_i(x)


class Landscape(NamedTuple):
    """N differentiable functions f_i of x in R^d, f their mean, and what theorems ask of them.

    `zeta` bounds ( (1/N) sum_i || grad f_i(x) - grad f(x) ||^2 )^(1/2) for every x, `steepest` |d f_i / d x_j| for every x
    (infinite where there is no such number).
    """

    shape: Shape
    data: Tensor  # (N, d)
    start: Tensor  # (d,), of all clients
    smoothness: float  # L, of every f_i
    lowest: float  # no value of f is below it
    zeta: float
    steepest: float

    def values(self, X: Tensor) -> Tensor:
        """Return f_i(x_i) (N,) of the rows of X (N, d)."""
        return torch.vmap(self.shape)(X, self.data)

    def gradients(self, X: Tensor) -> Tensor:
        """Return grad f_i(x_i) (N, d)."""
        leaf = X.detach().requires_grad_()
        return torch.autograd.grad(self.values(leaf).sum(), leaf)[0]

    def mean(self, x: Tensor) -> float:
        """Return f(x) of one point (d,)."""
        return float(self.values(x.expand_as(self.data)).mean())

    def mean_gradient(self, x: Tensor) -> Tensor:
        """Return grad f(x) (d,) of one point."""
        return self.gradients(x.expand_as(self.data)).mean(0)


def quadratics(
    clients: int = 8,
    d: int = 12,
    zeta: float = 1.0,
    far: float = 5.0,
    seed: int = 0,
    lonely: bool = False,
) -> Landscape:
    """Return f_i(x) = sum_j a_j (x_j - c_ij)^2 / 2, a from 0.1 to 1: equal Hessians, so that zeta is the same everywhere.

    `far`: how far from the solution, zero, all start. `lonely`: one client wants something else than all others, who agree.
    """
    check(clients >= 1 and d >= 1, "clients, d", (clients, d), "1 or more")
    rng = np.random.default_rng([seed, 0x9A])
    a = torch.from_numpy(np.geomspace(0.1, 1.0, d) if d > 1 else np.ones(1))
    centres = _spread(rng, clients, d)
    if lonely:
        centres = torch.outer(
            torch.eye(clients, dtype=torch.float64)[0] - 1 / clients,
            torch.ones(d, dtype=torch.float64),
        )
    spread = float((a * centres).square().sum(1).mean().sqrt())
    centres = centres * (zeta / spread) if spread > 0 else centres
    # At the mean of the centres, which is zero.
    lowest = float((a * centres.square()).sum() / 2 / clients)
    start = torch.from_numpy(far * rng.standard_normal(d) / np.sqrt(d))
    return Landscape(
        lambda x, c: (a * (x - c).square()).sum() / 2,
        centres,
        start,
        1.0,
        lowest,
        zeta if spread > 0 else 0.0,
        float("inf"),
    )


def valleys(clients: int = 8, d: int = 12, apart: float = 0.5, seed: int = 0) -> Landscape:
    """Return f_i(x) = sum_j phi(x_j - c_ij), phi(z) = z^2 / (1 + z^2): smooth, not convex, with bounded gradients.

    |phi''| <= 2, |phi'| <= 3 sqrt(3) / 8. `apart` is the standard deviation of the centres c_ij. zeta is the largest
    spread of phi'(z - c_ij) over z, found on a grid and raised by what a second derivative of 2 allows between its points.
    """
    check(clients >= 1 and d >= 1, "clients, d", (clients, d), "1 or more")
    rng = np.random.default_rng([seed, 0x7A])
    centres = apart * _spread(rng, clients, d)
    start = torch.from_numpy(rng.uniform(1.0, 2.0, d))
    return Landscape(
        lambda x, c: (1 - 1 / (1 + (x - c).square())).sum(),
        centres,
        start,
        2.0,
        0.0,
        _valley_zeta(centres),
        3 * 3**0.5 / 8,
    )


def _spread(rng: np.random.Generator, clients: int, d: int) -> Tensor:
    """Return centres (N, d) of mean zero."""
    drawn = rng.standard_normal((clients, d))
    return torch.from_numpy(drawn - drawn.mean(0))


def _valley_zeta(centres: Tensor) -> float:
    """Return a bound on the spread of the clients' gradients, coordinate by coordinate, over all x."""
    if len(centres) == 1:
        return 0.0
    reach = float(centres.abs().max()) + 60.0  # farther out all slopes are below 2 / 60^3
    z = torch.linspace(-reach, reach, 24001, dtype=torch.float64)[:, None, None]
    slope = 2 * (z - centres) / (1 + (z - centres).square()).square()  # phi'(z - c_ij) (grid, N, d)
    at_most = slope.std(1, correction=0).amax(0) + 2 * float(z[1, 0, 0] - z[0, 0, 0]) / 2
    return float(at_most.square().sum().sqrt())


def tug_of_war(clients: int = 2, d: int = 4) -> Landscape:
    """Return linear f_i(x) = c_i sum_j x_j with c alternating +1 and -1: the clients pull apart with all their steps."""
    c = torch.ones(clients, d, dtype=torch.float64)
    c[1::2] = -1.0
    zeta = float((c - c.mean(0)).square().sum(1).mean().sqrt())
    return Landscape(
        lambda x, data: data @ x,
        c,
        torch.zeros(d, dtype=torch.float64),
        0.0,
        float("-inf"),
        zeta,
        1.0,
    )


def as_problem(
    landscape: Landscape, blocks: int = 1, noise: float = 0.0, seed: int = 0
) -> tuple[Problem, tuple[Block, ...]]:
    """Return the landscape as a Problem of the library, its coordinates cut into so many blocks of nearly equal size.

    `noise`: every coordinate of every client's gradient has noise of plus or minus so much, a fair coin at every step.
    """
    n, d = landscape.data.shape
    check(1 <= blocks <= d, "blocks", blocks, f"1 to {d}, the coordinates")
    check(noise >= 0, "noise", noise, "0 or more")
    cuts = torch.tensor_split(torch.arange(d), blocks)
    names = [f"x{k}" for k in range(blocks)]
    start = {
        name: landscape.start[cut].expand(n, -1).clone()
        for name, cut in zip(names, cuts, strict=True)
    }

    def batches(step: int) -> Batch:
        coins = np.random.default_rng([seed, step, 0xC014]).integers(0, 2, (n, d)) * 2.0 - 1
        return landscape.data, noise * torch.from_numpy(coins)

    def loss(params: Params, batch: Batch) -> Tensor:
        data, push = batch
        x = torch.cat([params[name] for name in names])
        noisy: Tensor = landscape.shape(x, data) + push @ x
        return noisy

    return Problem(start, loss, batches), tuple(Block(name, (name,)) for name in names)
