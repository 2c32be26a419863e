"""DGD: the clients' gradients never outgrow their start, and so neither does their disagreement.

Claim       ( sum_i || grad f_i(x_i) ||^2 )^(1/2) <= D = ( 2 L sum_i (f_i(x_0) - inf f_i) )^(1/2) after every step, and therefore
            || X - Xbar ||_F <= alpha D / (1 - rho), which bounds every || x_i - xbar ||.
Hypotheses  combine then adapt from an equal start; W symmetric and doubly stochastic, rho < 1; every f_i L-smooth and bounded
            below; exact gradients; alpha <= (1 + lambda_min(W)) / L. Convexity is not needed.
Symbols     alpha: `alpha`; L and inf f_i: of the landscape, whose f_i have infimum 0; x_0: its start.
Source      Yuan, Ling and Yin 2016, arXiv 1310.7063, with convex f_i and x_0 = 0.
Tight       the first at the start, where all curvatures are L (`witness`); the second by a factor of a few at best.
Proof       theory/dgd_gradient.ipynb: DGD is gradient descent on a penalised sum.
"""

import math

import numpy as np
import torch

from deca_lab.algorithm import loop as tr
from deca_lab.algorithm import optimisers
from deca_lab.bounds import hypotheses as hy
from deca_lab.bounds.bound import Bound
from deca_lab.bounds.landscape import Landscape, as_problem, quadratics, valleys
from deca_lab.errors import check
from deca_lab.mixing.matrix import dense
from deca_lab.mixing.topology import Topology, topology

SOURCE = "Yuan, Ling and Yin 2016, arXiv 1310.7063"
HYPOTHESES = (hy.one_matrix, hy.doubly_stochastic, hy.symmetric, hy.short_steps)


def dgd_gradient(landscape: Landscape, topology: Topology, alpha: float, steps: int) -> Bound:
    """Return the stacked gradient's norm before step 1 .. `steps` of the library's run, and D.

    Raises BadInput where W is not symmetric; an alpha that is too large is let through, and named.
    """
    X = run(landscape, topology, alpha, steps)
    lhs = np.array([float(landscape.gradients(x).norm()) for x in X[:-1]])
    rhs = np.full(steps, largest_gradient(landscape))
    reason = _broken(landscape, topology, alpha)
    return Bound(lhs, rhs, "gradients of DGD", SOURCE, broken=reason)


def _broken(landscape: Landscape, topology: Topology, alpha: float) -> str:
    most = largest_step(landscape, topology)
    return hy.broken(HYPOTHESES, hy.Instance(topology, rates=(alpha, alpha), largest=most))


def disagreement(landscape: Landscape, topology: Topology, alpha: float, steps: int) -> Bound:
    """Return || X - Xbar ||_F after step 1 .. `steps`, and alpha D / (1 - rho)."""
    X, rho = run(landscape, topology, alpha, steps), hy.largest_rho(topology)
    check(rho < 1, "topology", rho, "of a rho below 1: the clients must come together")
    lhs = np.array([float((x - x.mean(0)).norm()) for x in X[1:]])
    rhs = np.full(steps, alpha * largest_gradient(landscape) / (1 - rho))
    return Bound(
        lhs,
        rhs,
        "disagreement of DGD",
        SOURCE,
        rounding=1e-14 * float(X[0].norm()),
        broken=_broken(landscape, topology, alpha),
    )


def largest_gradient(landscape: Landscape) -> float:
    """Return D; the landscape's f_i have infimum 0."""
    start = landscape.values(landscape.start.expand_as(landscape.data))
    return math.sqrt(2 * landscape.smoothness * float(start.sum()))


def largest_step(landscape: Landscape, topology: Topology) -> float:
    """Return (1 + lambda_min(W)) / L."""
    return (1 + float(np.linalg.eigvalsh(dense(topology.at(0))).min())) / landscape.smoothness


def run(landscape: Landscape, topology: Topology, alpha: float, steps: int) -> list[torch.Tensor]:
    """Return X_0 .. X_steps of the library's decentralised gradient descent, combine then adapt."""
    W = dense(topology.at(0))
    check(alpha > 0, "alpha", alpha, "above 0")
    check(bool(np.allclose(W, W.T)), "topology", topology.name, "of a symmetric W")
    problem, blocks = as_problem(landscape, 1)
    plan = tr.plan(
        problem,
        blocks,
        topology,
        tr.Recipe(1, steps, lambda s: alpha, optimisers.sgd(), combine_first=True),
    )
    return [tr.begin(plan).blocks[0], *(state.blocks[0] for state, _ in tr.train(plan))]


def witness(clients: int = 4) -> Landscape:
    """Return clients whose only curvature is L: at the start the gradients are as large as D allows."""
    return quadratics(clients, 1, zeta=1.0, far=2.0)


def examples(seed: int = 0) -> dict[str, Bound]:
    """Return gradients and disagreement on quadratics and valleys at the largest step, and the witness."""
    ring, hills, dales = topology("ring", 8), quadratics(zeta=3.0, seed=seed), valleys(seed=seed)
    return {
        "quadratics": dgd_gradient(hills, ring, largest_step(hills, ring), 60),
        "valleys": dgd_gradient(dales, ring, largest_step(dales, ring), 60),
        "quadratics, disagreement": disagreement(hills, ring, largest_step(hills, ring), 60),
        "the witness": dgd_gradient(witness(), topology("complete", 4), 0.5, 5),
    }


def broken(seed: int = 0) -> Bound:
    """Return quadratics with a step twice too large: gradient descent on the penalised sum diverges."""
    hills, ring = quadratics(zeta=3.0, seed=seed), topology("ring", 8)
    return dgd_gradient(hills, ring, 3.5 * largest_step(hills, ring), 60)
