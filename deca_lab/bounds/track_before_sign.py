"""Track before you take the sign: signs of tracked gradients go to the mean's minimiser, where averaged signs go to a median.

Claim       x <- W (x - lr sign(y)), y <- W y + g - g_last, y = g at first:  for every step s >= 2 + dist(x_0, x*) / lr
            || grad f(xbar_s) ||^2 <= 9 d L^2 lr^2, dist the largest over coordinates. No zeta: it goes to 0 with lr. Signs of
            the gradients themselves, DECA with R = 1 and eps -> 0, end at kappa zeta^2 (`median_limit`), whatever lr is.
Hypotheses  complete graph, W = J; equal start; exact gradients; f_i(x) = sum_j f_ij(x_j), every f_ij' L-Lipschitz, and every
            coordinate's mean over clients convex, with a minimiser x*_j.
Symbols     f_ij: `Bowls`, a_ij (x_j - c_ij)^2 / 2; L: the largest a_ij; d: coordinates.
Source      derived here. That tracking must come before the sign of a matrix: abstract of SUDA-Muon, arXiv 2604.23980, whose
            method is another, and whose theorem is not used.
Tight       no: with one curvature for all the 9 is 1 (and attained to within a factor of a few).
Proof       theory/track_before_sign.ipynb, with what is known of other methods of 2026.
"""

import numpy as np
import torch
from torch import Tensor

from deca_lab.algorithm import problems
from deca_lab.algorithm.blocks import whole
from deca_lab.algorithm.loop import Recipe, plan, train
from deca_lab.algorithm.optimisers import Optimiser, OptState, gradient_tracking, sgd
from deca_lab.bounds import hypotheses as hy
from deca_lab.bounds.bound import Bound
from deca_lab.bounds.median_limit import Bowls, bowls, lopsided
from deca_lab.errors import check
from deca_lab.mixing.gossip import Mix
from deca_lab.mixing.graphs import Array
from deca_lab.mixing.matrix import dense
from deca_lab.mixing.topology import Topology, topology

SOURCE = "derived here; compare the abstract of arXiv 2604.23980"
HYPOTHESES = (hy.doubly_stochastic, hy.one_matrix)


def of_sign(optimiser: Optimiser) -> Optimiser:
    """Return the optimiser that steps along the sign of each coordinate of what another steps along."""

    def update(g: Tensor, state: OptState, x: Tensor, exchange: Mix) -> tuple[Tensor, OptState]:
        direction, state = optimiser.update(g, state, x, exchange)
        return direction.sign_(), state

    return optimiser._replace(update=update)


tracked_signs = of_sign(gradient_tracking())
averaged_signs = of_sign(sgd())


def track_before_sign(
    made: Bowls,
    lr: float,
    steps: int,
    network: Topology | None = None,
    optimiser: Optimiser = tracked_signs,
) -> Bound:
    """Return || grad f(xbar_s) ||^2 of the library's run, from the first s that the claim speaks of to `steps`, and the bound.

    The complete graph unless `network` is given; `optimiser` replaces the tracked signs, to see what breaks.
    """
    network = network or topology("complete", len(made.c))
    away = float(np.abs(made.start - made.solution()).max())
    first = 2 + int(np.ceil(away / lr))
    check(steps >= first, "steps", steps, f"{first} or more: before, nothing is claimed")
    lhs = squares(made, lr, steps, network, optimiser)[first:]
    rhs = np.full(len(lhs), 9 * made.c.shape[1] * float(made.a.max()) ** 2 * lr**2)
    lost = 1e-12 * float(made.a.max() * (1 + np.abs(made.c).max())) ** 2
    mixes = "" if np.allclose(dense(network.at(0)), 1 / network.n) else "the graph is not complete"
    return Bound(
        lhs,
        rhs,
        "squared gradient of tracked signs",
        SOURCE,
        first=first,
        rounding=lost,
        broken=hy.broken(HYPOTHESES, hy.Instance(network)) or mixes,
    )


def squares(
    made: Bowls, lr: float, steps: int, network: Topology, optimiser: Optimiser, noise: float = 0.0, seed: int = 0
) -> Array:  # fmt: skip
    """Return || grad f ||^2 (steps + 1,) at the mean model before and after each step of the library's run."""
    a, c, start = (torch.from_numpy(np.asarray(part, dtype=float)) for part in made)
    A, b = torch.diag_embed(a), a * c
    problem = problems.quadratics(A, b, start.expand_as(c).clone(), noise, seed)
    recipe = Recipe(1, steps, lambda s: lr, optimiser)
    states = train(plan(problem, whole(["x"]), network, recipe))
    means = [made.start, *(state.blocks[0].mean(0).numpy() for state, _ in states)]
    return np.array([np.square(made.slopes(x).mean(0)).sum() for x in means])


def examples(seed: int = 0) -> dict[str, Bound]:
    """Return the family on which DECA goes to the median, for four and for ten clients, and random curvatures and wishes."""
    return {
        "N = 4, at the solution": track_before_sign(lopsided(4), 0.01, 200),
        "N = 10, at the solution": track_before_sign(lopsided(10), 0.01, 200),
        "random, three coordinates": track_before_sign(bowls(5, 3, seed), 0.01, 200),
    }


def broken(seed: int = 0) -> Bound:
    """Return signs of the gradients themselves, averaged: what DECA comes to with R = 1 and a tiny eps."""
    return track_before_sign(lopsided(4), 0.01, 200, optimiser=averaged_signs)
