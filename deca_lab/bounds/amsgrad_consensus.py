"""Decentralised AMSGrad: how far the clients can drift apart, for any functions.

Claim       (1/N) sum_i || x_i - xbar ||^2 <= alpha^2 d G^2 / (eps (1 - rho)^2) after every step.
Hypotheses  combine then adapt, equal start; every W doubly stochastic, rho < 1 the largest of theirs; |g_ij| <= G along
            the run; what a client divides by is at least sqrt(eps) (the floor of the tracked second moment).
Symbols     alpha, eps = `floor`, rho of `topology`; N, d of the landscape; G: the largest gradient seen.
Source      Chen, Karimi, Zhao, Li, arXiv 2109.03194, in the proof of their Theorem 2.
Tight       attained by two clients that pull apart on a complete graph (theory/attack.json); usually hundreds of times above:
            the line |m| / sqrt(u) <= G / sqrt(eps) loses nearly all (`sharper` keeps the largest direction seen in its
            place), and then that clients mostly step alike.
Proof       theory/amsgrad_consensus.ipynb.
"""

import numpy as np
from torch import Tensor

from deca_lab.algorithm import loop as tr
from deca_lab.algorithm import optimisers
from deca_lab.algorithm.moments import Adam
from deca_lab.algorithm.optimisers import OptState
from deca_lab.algorithm.stacking import consensus_distance
from deca_lab.bounds import hypotheses as hy
from deca_lab.bounds.bound import Bound
from deca_lab.bounds.gossip_contraction import lost
from deca_lab.bounds.landscape import Landscape, as_problem, quadratics, tug_of_war, valleys
from deca_lab.errors import check
from deca_lab.mixing.gossip import Mix
from deca_lab.mixing.graphs import Array
from deca_lab.mixing.topology import Topology, topology

SOURCE = "arXiv 2109.03194"
USUAL = Adam()
HYPOTHESES = (hy.doubly_stochastic, hy.together)


def amsgrad_consensus(
    landscape: Landscape,
    topology: Topology,
    alpha: float,
    steps: int,
    floor: float = 1e-3,
    adam: Adam = USUAL,
    noise: float = 0.0,
    seed: int = 0,
    sharper: bool = False,
) -> Bound:
    """Return both sides after 1 .. `steps` steps of the library's decentralised AMSGrad with that floor.

    `sharper` puts the largest direction seen in place of G / sqrt(eps). Raises BadInput for numbers out of range.
    """
    check(alpha > 0, "alpha", alpha, "above 0")
    check(floor > 0, "floor", floor, "above 0")
    rho, d = hy.largest_rho(topology), landscape.data.shape[1]
    check(rho < 1, "topology", rho, "of a rho below 1: the clients must come together")
    lhs, G, longest = run(landscape, topology, alpha, steps, floor, adam, noise, seed)
    per = longest if sharper else G / floor**0.5
    reach = float(landscape.start.norm() + alpha * steps)
    rounded = lost(topology.matrices) * steps * reach
    rhs = np.full(steps, alpha**2 * d * per**2 / (1 - rho) ** 2)
    rounding = 2 * rounded * rhs**0.5 + rounded**2
    return Bound(
        lhs,
        rhs,
        "consensus of decentralised AMSGrad",
        SOURCE,
        rounding=rounding,
        broken=hy.broken(HYPOTHESES, hy.Instance(topology)),
    )


def run(
    landscape: Landscape,
    topology: Topology,
    alpha: float,
    steps: int,
    floor: float,
    adam: Adam,
    noise: float,
    seed: int,
) -> tuple[Array, float, float]:
    """Return the consensus distance (steps,), the largest |gradient| and the largest |direction| of a run."""
    amsgrad, seen = optimisers.amsgrad(adam, floor), []

    def update(g: Tensor, state: OptState, x: Tensor, exchange: Mix) -> tuple[Tensor, OptState]:
        steepest = float(g.abs().max())
        direction, state = amsgrad.update(g, state, x, exchange)
        seen.append((steepest, float(direction.abs().max())))
        return direction, state

    problem, blocks = as_problem(landscape, 1, noise, seed)
    recipe = tr.Recipe(
        1, steps, lambda s: alpha, amsgrad._replace(update=update), combine_first=True
    )
    distances = [
        consensus_distance(state.blocks[0])
        for state, _ in tr.train(tr.plan(problem, blocks, topology, recipe))
    ]
    G, longest = np.array(seen).max(0)
    return np.array(distances), float(G), float(longest)


def examples(seed: int = 0) -> dict[str, Bound]:
    """Return quadratics and valleys with noise on a ring, the sharper form, and two clients that pull apart."""
    ring, pair = topology("ring", 8), topology(np.array([[0.9, 0.1], [0.1, 0.9]]))
    return {
        "quadratics": amsgrad_consensus(
            quadratics(seed=seed), ring, 0.01, 80, noise=0.3, seed=seed
        ),
        "valleys": amsgrad_consensus(valleys(seed=seed), ring, 0.01, 80, noise=0.3, seed=seed),
        "quadratics, sharper": amsgrad_consensus(
            quadratics(seed=seed), ring, 0.01, 80, noise=0.3, seed=seed, sharper=True
        ),
        "tug of war, sharper": amsgrad_consensus(tug_of_war(), pair, 0.01, 80, sharper=True),
    }


def broken(seed: int = 0) -> Bound:
    """Return a run whose floor is far smaller than the one on the right side: a client may divide by less than sqrt(eps)."""
    pair = topology(np.array([[0.9, 0.1], [0.1, 0.9]]))
    bound = amsgrad_consensus(tug_of_war(), pair, 0.01, 80, floor=1e-8)
    return bound._replace(rhs=amsgrad_consensus(tug_of_war(), pair, 0.01, 80, floor=1e4).rhs)
