"""The constants of convergence theory for a real problem, where they can only be estimated: how, and how sure."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from deca_lab.algorithm import stacking
from deca_lab.algorithm.gradients import stacked
from deca_lab.algorithm.problems import Problem
from deca_lab.errors import check


class Estimates(NamedTuple):
    """L, sigma, zeta, G and f at the common start: L and G from below, sigma^2 and zeta^2 without bias but for chance.

    A theorem asks for them at all x, where they may be larger.
    """

    smoothness: float  # largest curvature of a client's loss on one batch, by power iteration
    sigma: float  # root of the mean squared distance of a batch's gradient from a client's mean gradient
    zeta: float  # root of the mean squared distance of the clients' gradients from their mean, noise taken off
    steepest: float  # largest coordinate of any gradient seen
    loss: float  # mean loss of all clients
    batches: int

    def words(self) -> str:
        """Say how each was found, and what it leaves out."""
        return (
            f"at the start, from {self.batches} batches a client: L = {self.smoothness:.3g} (curvature on one batch, by "
            f"power iteration: from below), sigma = {self.sigma:.3g}, zeta = {self.zeta:.3g} (what noise adds to it taken "
            f"off: true but for chance), G = {self.steepest:.3g} (from below); a theorem asks for them at all points of the "
            "run, where they may be larger"
        )


def estimate(problem: Problem, batches: int = 6, turns: int = 8, seed: int = 0) -> Estimates:
    """Return the estimates at the problem's start, from the batches of its first inner steps."""
    check(batches >= 2, "batches", batches, "2 or more: a spread needs two")
    where = stacking.layout(problem.start, list(problem.start))
    x, engine = stacking.flatten(problem.start, where.names), stacked(problem.loss)
    total, squares = torch.zeros_like(x), torch.zeros(len(x), dtype=torch.float64)
    steepest, losses = 0.0, []
    for step in range(batches):
        loss, g = engine(x, where, {}, problem.batches(step))
        total += g
        squares += g.double().square().sum(1).cpu()
        steepest = max(steepest, float(g.abs().max()))
        losses.append(float(loss.double().mean()))
    mean = total / batches
    noise = _noise(squares, mean, batches)
    # the mean of b batches is still noisy: each client's by sigma^2 / b, of which the mean of N has taken 1 / N
    left = float(noise.mean()) / batches * (1 - 1 / len(x))
    apart = max(stacking.consensus_distance(mean) - left, 0.0)
    first = problem.batches(0)

    def gradient(at: Tensor) -> Tensor:
        return engine(at, where, {}, first)[1]

    bend, sigma = curvature(gradient, x, turns, seed), float(noise.mean().sqrt())
    return Estimates(bend, sigma, apart**0.5, steepest, sum(losses) / batches, batches)


def _noise(squares: Tensor, mean: Tensor, batches: int) -> Tensor:
    """Return each client's mean squared distance (N,) of one batch's gradient from the expected one, without bias."""
    own = mean.double().square().sum(1).cpu()
    return (squares - batches * own).clamp(min=0) / (batches - 1)


def curvature(gradient: Callable[[Tensor], Tensor], x: Tensor, turns: int, seed: int = 0) -> float:
    """Return the largest |eigenvalue| of any client's Hessian at X (N, D), by power iteration on differences of gradients."""
    draw = torch.Generator().manual_seed(seed)
    v = torch.randn(x.shape, generator=draw, dtype=torch.float64).to(x)
    g, length, curvatures = (
        gradient(x),
        1e-2 if x.dtype == torch.float32 else 1e-5,
        torch.zeros(len(x)),
    )
    for _ in range(turns):
        v = v / v.norm(dim=1, keepdim=True).clamp(min=1e-30)
        v = (gradient(x + length * v) - g) / length
        curvatures = v.norm(dim=1)
    return float(curvatures.max())
