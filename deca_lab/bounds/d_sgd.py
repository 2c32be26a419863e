"""Decentralised SGD, non-convex: the mean model's gradient, averaged over the run, with every constant written out.

Claim       (1/K) sum_{k<K} E||grad f(xbar_k)||^2 <= 2 (f(x_0) - f*) / (gamma K) + L gamma sigma^2 / n
            + L^2 gamma^2 c [4 zeta^2 / (1 - rho)^2 + 2 sigma^2 / (1 - rho)] for K = 1, 2 ...; c = rho^2 where a step
            adapts, then combines, X <- W (X - gamma G), and c = 1 where it combines first, X <- W X - gamma G.
Hypotheses  every f_i L-smooth, f = (1/n) sum f_i >= f*; (1/n) sum ||grad f_i(x) - grad f(x)||^2 <= zeta^2 at all x;
            noise of mean 0 given the past, independent over the clients, of mean square at most sigma^2 for each; W
            doubly stochastic with rho = ||W - J||_2 < 1; equal start; gamma <= 1/L and gamma <= (1 - rho) / (2 L rho),
            or (1 - rho) / (2 L) where it combines first (`largest_step`). No convexity, no symmetry of W.
Symbols     f_i, L, sigma, zeta, f(x_0) - f*: `case`; W and rho: `W`; gamma: `gamma`; K = 1 .. `steps`.
Source      derived here, complete; of the kind of Koloskova et al. 2020, whose constants are not these.
Tight       attained at every K where nothing is left to disagree on: equal clients, f = L ||x||^2 / 2, gamma = 1/L, no
            noise (`witness`). Elsewhere the best K is 1.04 to 13 times below it, and a large K up to 130 times: there the
            disagreement's term is left, of which runs use 3 to 50 %.
Proof       theory/d_sgd.ipynb. `disagreement` is its second half: E (1/n) sum ||x_i - xbar||^2 at most the last term / L^2.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from deca_lab.algorithm import loop as tr
from deca_lab.algorithm import optimisers, stacking
from deca_lab.algorithm.blocks import whole
from deca_lab.algorithm.problems import Problem, quadratics
from deca_lab.bounds import hypotheses as hy
from deca_lab.bounds.bound import Bound
from deca_lab.bounds.gossip_contraction import lost
from deca_lab.errors import check
from deca_lab.mixing.graphs import Array
from deca_lab.mixing.topology import Topology, topology

SOURCE = "derived, complete proof"
HYPOTHESES = (
    *(hy.no_momentum, hy.one_block, hy.every_step, hy.no_weight_decay, hy.no_clipping),
    *(*hy.mixed_by_w, hy.together, hy.equal_start, hy.bounded_below),
    *(hy.steady, hy.moving, hy.short_steps),
)
STEEPEST = 9 / (8 * 3**0.5)  # the largest slope of u^2 / (1 + u^2), at u^2 = 1/3


class Case(NamedTuple):
    """A problem and its constants: `problem(seed)` with noise of that seed, `gradient` of f at one x (d,)."""

    problem: Callable[[int], Problem]
    gradient: Callable[[Array], Array]
    L: float
    sigma: float
    zeta: float
    gap: float  # f(x_0) - f*, or more


def d_sgd(
    case: Case,
    W: Array | Topology,
    gamma: float,
    steps: int,
    seeds: Sequence[int] = (0,),
    combine_first: bool = False,
) -> Bound:
    """Return both sides at K = 1 .. `steps`, the left one from the library's own runs, as a mean over `seeds`.

    Where sigma = 0 one seed is exact; else the left side is a Monte-Carlo mean, whose error `runs` lets one measure.
    Raises BadInput where W has rho >= 1 or a number is out of range; a `gamma` that is too large is let through, and named.
    """
    many = np.arange(1, steps + 1)
    squared = runs(case, W, gamma, steps, seeds, combine_first)[0]
    lhs = squared.mean(0).cumsum() / many
    first, second, third = terms(case, W, gamma, combine_first)
    reason = _broken(case, W, gamma, combine_first)
    rhs = first / many + second + third
    return Bound(lhs, rhs, "decentralised SGD", SOURCE, broken=reason)


def disagreement(
    case: Case,
    W: Array | Topology,
    gamma: float,
    steps: int,
    seeds: Sequence[int] = (0,),
    combine_first: bool = False,
) -> Bound:
    """Return both sides of the proof's bound on E (1/n) sum_i ||x_i - xbar||^2 after 1 .. `steps` steps."""
    _, distances, size = runs(case, W, gamma, steps + 1, seeds, combine_first)
    rhs = np.full(steps, terms(case, W, gamma, combine_first)[2] / case.L**2)
    rounded = lost(_topology(W).matrices) * np.sqrt(size.max(0)).cumsum()[:-1]  # at each mixing
    return Bound(
        distances.mean(0)[1:],
        rhs,
        "disagreement of decentralised SGD",
        SOURCE,
        rounding=2 * rounded * rhs**0.5 + rounded**2,
        broken=_broken(case, W, gamma, combine_first),
    )


def _broken(case: Case, W: Array | Topology, gamma: float, combine_first: bool) -> str:
    """Return the hypothesis that such a run breaks, or nothing."""
    most = largest_step(case.L, _rho(W), combine_first)
    return hy.broken(HYPOTHESES, hy.Instance(_topology(W), rates=(gamma, gamma), largest=most))


def terms(
    case: Case, W: Array | Topology, gamma: float, combine_first: bool = False
) -> tuple[float, float, float]:
    """Return the right side's three terms: the start (to be divided by K), the mean's noise, the disagreement."""
    rho, n = _rho(W), _topology(W).n
    check(gamma > 0, "gamma", gamma, "above 0")
    scattered = 4 * case.zeta**2 / (1 - rho) ** 2 + 2 * case.sigma**2 / (1 - rho)
    kept = 1.0 if combine_first else rho**2
    return (
        2 * case.gap / gamma,
        case.L * gamma * case.sigma**2 / n,
        case.L**2 * gamma**2 * kept * scattered,
    )


def largest_step(L: float, rho: float, combine_first: bool = False) -> float:
    """Return the largest gamma that the claim allows."""
    check(0 <= rho < 1, "rho", rho, "at least 0 and below 1")
    mixed = 1.0 if combine_first else rho
    return min(1 / L, (1 - rho) / (2 * L * mixed)) if mixed > 0 else 1 / L


def runs(
    case: Case,
    W: Array | Topology,
    gamma: float,
    steps: int,
    seeds: Sequence[int],
    combine_first: bool = False,
) -> tuple[Array, Array, Array]:
    """Return ||grad f(xbar_k)||^2, the disagreement and (1/n) sum ||x_i||^2, each (seeds, steps), at k = 0 .. steps - 1."""
    check(isinstance(steps, int) and steps >= 1, "steps", steps, "a whole number from 1 up")
    check(len(seeds) > 0, "seeds", seeds, "one seed or more")
    recipe = tr.Recipe(1, steps, lambda s: gamma, optimisers.sgd(), combine_first=combine_first)
    squared, distances, size = np.empty((3, len(seeds), steps))
    for i, seed in enumerate(seeds):
        problem = case.problem(seed)
        plan = tr.plan(problem, whole(list(problem.start)), _topology(W), recipe)
        states = [tr.begin(plan), *(state for state, _ in tr.train(plan))][:steps]
        squared[i] = [
            np.square(case.gradient(state.blocks[0].mean(0).numpy())).sum() for state in states
        ]
        distances[i] = [stacking.consensus_distance(state.blocks[0]) for state in states]
        size[i] = [float(state.blocks[0].square().sum()) / problem.clients for state in states]
    return squared, distances, size


# ---- problems whose constants are known


def quadratic(A: Array, b: Array, x0: Array, noise: float = 0.0) -> Case:
    """Return f_i(x) = x'Ax/2 - b_i'x with one positive definite A (d, d), b (N, d), from x0 (d,): all constants exact."""
    n, mean = len(b), np.mean(b, axis=0)
    away = np.asarray(x0, dtype=np.float64) - np.linalg.solve(A, mean)

    def problem(seed: int) -> Problem:
        stacked = (np.repeat(np.asarray(part, dtype=np.float64)[None], n, 0) for part in (A, x0))
        hessians, start = map(torch.from_numpy, stacked)
        return quadratics(
            hessians, torch.from_numpy(np.array(b, dtype=np.float64)), start, noise, seed
        )

    return Case(
        problem,
        lambda x: A @ x - mean,
        float(np.linalg.norm(A, 2)),
        noise * len(x0) ** 0.5,
        _spread(b),
        float(away @ A @ away / 2),
    )


def bumps(a: Array, b: Array, x0: Array, noise: float = 0.0) -> Case:
    """Return f_i(x) = sum_c phi(x_c - a_ic) + b_ic x_c with phi(u) = u^2 / (1 + u^2), a and b (N, d): not convex, L = 2.

    The b_i must sum to zero, so that f >= 0 = f*. zeta is exact where all a_i are equal, else at least as large as it is.
    """
    a, b, x0 = (np.asarray(part, dtype=np.float64) for part in (a, b, x0))
    check(
        bool(np.abs(b.sum(0)).max() < 1e-12),
        "b",
        b.sum(0).tolist(),
        "of rows that sum to zero, or f has no least value",
    )
    gaps = np.abs(a[:, None] - a[None])  # (N, N, d)
    shifted = np.sqrt(np.square(np.minimum(2 * gaps, 2 * STEEPEST)).sum() / (2 * len(a) ** 2))
    return Case(
        partial(_bumps, a, b, x0, noise),
        lambda x: _slope(x - a).mean(0),
        2.0,
        noise * len(x0) ** 0.5,
        float(shifted) + _spread(b),
        float(np.mean(np.sum((x0 - a) ** 2 / (1 + (x0 - a) ** 2), axis=1))),
    )


def _bumps(a: Array, b: Array, x0: Array, noise: float, seed: int) -> Problem:
    centres, tilts = torch.from_numpy(a), torch.from_numpy(b)

    def batches(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        xi = np.random.default_rng([seed, step, 0xB0]).standard_normal(b.shape)
        return centres, tilts + noise * torch.from_numpy(xi)  # a random tilt is additive noise

    def loss(params: stacking.Params, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        u = (params["x"] - batch[0]).square()
        return (u / (1 + u)).sum() + batch[1] @ params["x"]

    return Problem({"x": torch.from_numpy(np.repeat(x0[None], len(a), 0))}, loss, batches)


def _slope(u: Array) -> Array:
    return 2 * u / (1 + u**2) ** 2


def _spread(rows: Array) -> float:
    """Return the root of the mean squared distance of rows (N, d) from their mean."""
    return float(np.sqrt(np.square(rows - np.mean(rows, axis=0)).sum() / len(rows)))


def _topology(W: Array | Topology) -> Topology:
    return W if isinstance(W, Topology) else topology(W)


def _rho(W: Array | Topology) -> float:
    """Return the largest rho of the matrices in turn."""
    rho = hy.largest_rho(_topology(W))
    check(
        rho < 1, "W", rho, "a doubly stochastic matrix with rho below 1, or the clients never agree"
    )
    return rho


# ---- cases for the table


def usual(
    kind: str = "quadratic",
    clients: int = 8,
    d: int = 5,
    noise: float = 0.5,
    spread: float = 1.0,
    seed: int = 0,
) -> Case:
    """Return a random case of a kind: "quadratic", "tilted" or "shifted" bumps; `spread` says how far clients differ."""
    rng = np.random.default_rng([seed, 0xD5D])
    b = spread * rng.standard_normal((clients, d))
    b, x0, none = b - b.mean(0), rng.uniform(1, 2, d), np.zeros((clients, d))
    if kind == "quadratic":
        Q = np.linalg.qr(rng.standard_normal((d, d)))[0]
        return quadratic(Q @ np.diag(np.linspace(0.1, 1, d)) @ Q.T, b, 3 * x0, noise)
    check(kind in ("tilted", "shifted"), "kind", kind, "quadratic, tilted or shifted")
    return bumps(none, b, x0, noise) if kind == "tilted" else bumps(b, none, x0 + 0.5, noise)


def witness(clients: int = 4, d: int = 3, L: float = 2.0) -> Case:
    """Return the case that attains the claim with gamma = 1/L: one step ends in the minimum, which all clients share."""
    return quadratic(L * np.eye(d), np.zeros((clients, d)), np.ones(d))


def examples(seed: int = 0) -> dict[str, Bound]:
    """Return cases that must hold: exact without noise, and as means over four seeds with it, in both orders."""
    ring, seeds = topology("ring", 8), range(seed, seed + 4)
    rho = _rho(ring)
    exact, noisy, bumpy = usual(noise=0, seed=seed), usual(seed=seed), usual("shifted", seed=seed)
    return {
        "quadratics, no noise": d_sgd(exact, ring, largest_step(exact.L, rho) / 2, 150),
        "quadratics, noise, 4 seeds": d_sgd(noisy, ring, largest_step(noisy.L, rho) / 2, 60, seeds),
        "bumps, noise, combine first": d_sgd(
            bumpy, ring, largest_step(2, rho, True), 60, seeds, combine_first=True
        ),
        "disagreement, no noise": disagreement(exact, ring, largest_step(exact.L, rho) / 2, 100),
    }


def broken(seed: int = 0) -> Bound:
    """Return a run whose step is 2.2 / L, beyond both conditions: the mean model runs away."""
    case = usual(noise=0, seed=seed)
    return d_sgd(case, topology("ring", 8), 2.2 / case.L, 40)
