"""Two clients on which decentralised Adam stops at a point that is not stationary, and a repair that does not.

Claim       f_1 = 2 x^2 (|x| <= 1, then 4 |x| - 2), f_2 = (x - 1)^2 (|x - 1| <= 1, then 2 |x - 1| - 1), W of halves, both start
            at -1, no momentum, combine then adapt with step alpha <= 1/2. Adam with the largest second moment of each client
            (dadam) ends at mean 1/2 for every alpha, where f' = 1/2. With the tracked second moment (d-amsgrad) it ends
            at (1 + 4 c) / (3 + 8 c), c = alpha / sqrt(10), which goes to the minimum 1/3 with alpha.
Hypotheses  as stated: these two functions, whose steepest slopes, 4 and 2, are met at the start and differ. alpha <= 1/2, for
            the second end alpha <= sqrt(10) / 8, so that a step is a monotone map.
Symbols     alpha: `alphas`; ends are means over the last fifth of `steps(alpha)` steps of the library's run.
Source      Chen, Karimi, Zhao, Li, arXiv 2109.03194, Theorem 1; the closed form of the second end is ours.
Tight       exact.
Proof       theory/adam_counterexample.ipynb.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from deca_lab.algorithm import loop as tr
from deca_lab.algorithm import optimisers
from deca_lab.algorithm.blocks import whole
from deca_lab.algorithm.gradients import Batch, looped
from deca_lab.algorithm.moments import Adam
from deca_lab.algorithm.optimisers import Optimiser
from deca_lab.algorithm.problems import Problem
from deca_lab.algorithm.stacking import Params
from deca_lab.bounds.bound import Bound
from deca_lab.errors import check
from deca_lab.mixing.graphs import Array
from deca_lab.mixing.topology import topology

SOURCE = "arXiv 2109.03194, Theorem 1"
CENTRES, SCALES = (0.0, 1.0), (2.0, 1.0)  # of the theorem's f_1 and f_2
STILL = Adam(0.0, 0.0, 0.0)  # no momentum: m is the gradient, v its square
USUAL = (0.2, 0.05, 0.01)
MONOTONE = 10**0.5 / 8  # up to this alpha a step of d-amsgrad is a monotone map
SETTLED = 1e-9  # what is left of the way to the end after `steps`


def adam_counterexample(
    alphas: Sequence[float] = USUAL,
    centres: tuple[float, float] = CENTRES,
    scales: tuple[float, float] = SCALES,
) -> Bound:
    """Return the mean model's gradient where the library's dadam ends, one entry an alpha, beside 1/2: equal.

    Other `centres` or `scales` make other clients, on which the claim is false. Raises BadInput for an alpha out of range.
    """
    problem = two_clients(centres, scales)
    lhs = [
        slope(end(problem, optimisers.local_amsgrad(STILL), alpha), centres, scales)
        for alpha in alphas
    ]
    half = np.full(len(lhs), 0.5)
    return Bound(
        np.array(lhs),
        half,
        "gradient where dadam ends",
        SOURCE,
        axis="alpha number",
        rounding=SETTLED,
        equal=True,
        broken="" if (centres, scales) == (CENTRES, SCALES) else "these are other clients",
    )


def repaired(alphas: Sequence[float] = USUAL) -> Bound:
    """Return where the library's d-amsgrad ends beside (1 + 4 c) / (3 + 8 c): equal."""
    lhs = [end(two_clients(), optimisers.amsgrad(STILL, floor=1e-300), alpha) for alpha in alphas]
    return Bound(
        np.array(lhs),
        np.array([tracked_end(alpha) for alpha in alphas]),
        "where d-amsgrad ends",
        SOURCE,
        axis="alpha number",
        rounding=SETTLED,
        equal=True,
        broken="" if max(alphas) <= MONOTONE else f"alpha is above {MONOTONE:.3g}",
    )


def tracked_end(alpha: float) -> float:
    """Return (1 + 4 c) / (3 + 8 c) with c = alpha / sqrt(10): both clients divide by the root of the mean of 16 and 4."""
    c = alpha / 10**0.5
    return (1 + 4 * c) / (3 + 8 * c)


def two_clients(
    centres: tuple[float, float] = CENTRES, scales: tuple[float, float] = SCALES
) -> Problem:
    """Return f_i = scale (x - centre)^2 within 1 of the centre, and straight on outside."""
    data = torch.tensor([centres, scales], dtype=torch.float64).T

    def loss(params: Params, batch: Batch) -> Tensor:
        away: Tensor = (params["x"][0] - batch[0]).abs()
        value: Tensor = batch[1] * torch.where(away <= 1, away**2, 2 * away - 1)
        return value

    return Problem({"x": torch.full((2, 1), -1.0, dtype=torch.float64)}, loss, lambda step: data)


def slope(
    x: float, centres: tuple[float, float] = CENTRES, scales: tuple[float, float] = SCALES
) -> float:
    """Return f'(x) of the mean problem."""
    return float(
        np.mean([2 * s * np.clip(x - c, -1, 1) for c, s in zip(centres, scales, strict=True)])
    )


def steps(alpha: float) -> int:
    """Return a number of steps after which the end is reached to `SETTLED`."""
    return int(30 / alpha)


def end(
    problem: Problem,
    optimiser: Optimiser,
    alpha: float,
    combine_first: bool = True,
    rounds: int = 1,
) -> float:
    """Return the mean model at the end of a run, averaged over its last fifth; `rounds` restarts of the moments."""
    path = means(problem, optimiser, alpha, combine_first, rounds)
    return float(path[-max(len(path) // 5, 1) :].mean())


def means(
    problem: Problem,
    optimiser: Optimiser,
    alpha: float,
    combine_first: bool = True,
    rounds: int = 1,
) -> Array:
    """Return the mean model after each step of a run."""
    check(0 < alpha <= 0.5, "alpha", alpha, "above 0 and at most 1/2")
    recipe = tr.Recipe(
        rounds, steps(alpha) // rounds, lambda s: alpha, optimiser, combine_first=combine_first
    )
    plan = tr.plan(problem, whole(["x"]), topology("complete", 2), recipe)
    states = tr.train(plan, engine=looped)  # faster for two numbers
    return np.array([float(state.blocks[0].mean()) for state, _ in states])


def examples(seed: int = 0) -> dict[str, Bound]:
    """Return both ends for two learning rates; nothing is random."""
    return {
        "dadam: the gradient is 1/2": adam_counterexample((0.2, 0.05)),
        "d-amsgrad: on the way to 1/3": repaired((0.2, 0.05)),
    }


def broken(seed: int = 0) -> Bound:
    """Return dadam on two clients whose gradients have one size: it goes to the minimum, and the claim fails."""
    return adam_counterexample((0.2,), scales=(1.0, 1.0))
