"""Gradient tracking: how the clients' disagreement about x changes in one step, given their disagreement about y.

Claim       || X'_{k+1} ||^2 <= (1 + l^2) / 2 * || X'_k ||^2 + alpha^2 c (1 + l^2) / (1 - l^2) * || Y'_k ||^2, primes for what is
            left without the mean; c = l^2 for adapt then combine, 1 for combine then adapt.
Hypotheses  W doubly stochastic with second singular value l < 1 (for l = 0, adapt then combine, both sides are zero).
            Nothing about the functions.
Symbols     l = || W - J ||_2; X_k, Y_k (N, d): iterates and tracked gradients of the run; alpha: `alpha`.
Source      usual in proofs of gradient tracking (Qu and Li 2018, say) with 2 in place of 1 + l^2; two lines of algebra.
Tight       attained where X' and Y' are opposite multiples of the singular vector in the right proportion (`witness`).
Proof       theory/tracking_consensus.ipynb.
"""

import numpy as np
import torch
from torch import Tensor

from deca_lab.algorithm import loop as tr
from deca_lab.algorithm import optimisers
from deca_lab.algorithm.blocks import whole
from deca_lab.algorithm.optimisers import OptState
from deca_lab.algorithm.problems import Problem
from deca_lab.bounds import hypotheses as hy
from deca_lab.bounds.bound import Bound
from deca_lab.bounds.gossip_contraction import lost, second_singular_value
from deca_lab.bounds.gossip_contraction import witness as singular_vector
from deca_lab.bounds.landscape import Landscape, as_problem, quadratics, valleys
from deca_lab.errors import check
from deca_lab.mixing.gossip import Mix
from deca_lab.mixing.graphs import Array
from deca_lab.mixing.topology import Topology, topology

SOURCE = "derived; usual with 2 in place of 1 + l^2"
HYPOTHESES = (hy.one_matrix, hy.doubly_stochastic)


def tracking_consensus(
    problem: Problem,
    W: Array | Topology,
    alpha: float,
    steps: int,
    combine_first: bool = False,
    usual: bool = False,
) -> Bound:
    """Return both sides at steps 1 .. `steps` of the library's run on a problem with one tensor a client.

    `usual` has 2 in place of 1 + l^2. Raises BadInput where alpha is not positive or W does not bring clients together.
    """
    check(alpha > 0, "alpha", alpha, "above 0")
    topo = W if isinstance(W, Topology) else topology(W)
    l2 = second_singular_value(topo.at(0)) ** 2
    check(
        l2 < 1 and len(topo.matrices) == 1,
        "W",
        l2**0.5,
        "one matrix with a second singular value below 1",
    )
    lhs, disagreement, pulled, size = run(problem, topo, alpha, steps, combine_first)
    kept = 1.0 if combine_first else l2
    rhs = (1 + l2) / 2 * disagreement + alpha**2 * kept * (2 if usual else 1 + l2) / (
        1 - l2
    ) * pulled
    rounded = (lost(topo.matrices) + 4 * np.finfo(float).eps) * size
    return Bound(
        lhs,
        rhs,
        "disagreement of gradient tracking",
        SOURCE,
        rounding=2 * rounded * rhs**0.5 + rounded**2,
        broken=hy.broken(HYPOTHESES, hy.Instance(topo)),
    )


def run(
    problem: Problem, topo: Topology, alpha: float, steps: int, combine_first: bool
) -> tuple[Array, Array, Array, Array]:
    """Return || X'_{k+1} ||^2, || X'_k ||^2, || Y'_k ||^2 and || X_k || + alpha || Y_k || (steps,) of the library's run."""
    tracked, seen = optimisers.gradient_tracking(), []

    def update(g: Tensor, state: OptState, x: Tensor, exchange: Mix) -> tuple[Tensor, OptState]:
        y, state = tracked.update(g, state, x, exchange)
        seen.append(y.clone())
        return y, state

    recipe = tr.Recipe(
        1, steps, lambda s: alpha, tracked._replace(update=update), combine_first=combine_first
    )
    plan = tr.plan(problem, whole(list(problem.start)), topo, recipe)
    X = [tr.begin(plan).blocks[0], *(state.blocks[0] for state, _ in tr.train(plan))]
    distances = np.array([float((x - x.mean(0)).square().sum()) for x in X])
    return (
        distances[1:],
        distances[:-1],
        np.array([float((y - y.mean(0)).square().sum()) for y in seen]),
        np.array([float(x.norm() + alpha * y.norm()) for x, y in zip(X[:-1], seen, strict=True)]),
    )


def witness(W: Array, alpha: float) -> Problem:
    """Return linear functions and a start whose first step attains the claim, adapt then combine: alpha Y' = -c X', rightly c."""
    l2 = second_singular_value(W) ** 2
    check(1e-12 < l2 < 1, "W", l2**0.5, "with a second singular value between 0 and 1")
    x = torch.from_numpy(singular_vector(W, 1))
    slope = -(1 - l2) / (2 * l2) / alpha * x  # (a + b)^2 = (1 + c) a^2 + (1 + 1/c) b^2 at b = c a
    return Problem({"x": x}, lambda params, data: data @ params["x"], lambda step: slope)


def examples(seed: int = 0) -> dict[str, Bound]:
    """Return both orders on quadratics and valleys, and the witness."""
    ring, W = topology("ring", 8), topology("ring", 8).at(0)

    def of(land: Landscape) -> Problem:
        return as_problem(land, 1, 0.3, seed)[0]

    return {
        "adapt then combine": tracking_consensus(of(quadratics(seed=seed)), ring, 0.05, 60),
        "combine then adapt": tracking_consensus(of(valleys(seed=seed)), ring, 0.05, 60, True),
        "the witness": tracking_consensus(witness(W, 0.1), ring, 0.1, 1),
    }


def broken(seed: int = 0) -> Bound:
    """Return a doubly stochastic W that is not normal, with its second eigenvalue in place of the singular value."""
    W = 0.5 * np.eye(6)[[1, 2, 0, 4, 3, 5]] + 0.3 * np.eye(6)[[3, 0, 5, 1, 2, 4]] + 0.2 * np.eye(6)
    l2 = float(np.sort(np.abs(np.linalg.eigvals(W)))[-2]) ** 2
    lhs, disagreement, pulled, _ = run(witness(W, 0.1), topology(W), 0.1, 1, False)
    rhs = (1 + l2) / 2 * disagreement + 0.01 * l2 * (1 + l2) / (1 - l2) * pulled
    return Bound(lhs, rhs, "disagreement of gradient tracking", SOURCE)
