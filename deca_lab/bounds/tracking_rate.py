"""Gradient tracking on quadratics: the error is a power of one matrix, and its rate that matrix's largest modulus below 1.

Claim       On f_i(x) = x'A_i x / 2 - b_i'x the library's iterates satisfy (X_k - X*, Y_k) = M^k (X_0 - X*, Y_0), with
            adapt then combine   M = [[W, -alpha W], [A (W - I), W - alpha A W]],
            combine then adapt   M = [[W, -alpha I], [A (W - I), W - alpha A]],
            W short for its Kronecker product with I, A = diag(A_i), and the error falls like r^k, r the largest modulus of
            an eigenvalue of M but for the d eigenvalues 1 that the start does not excite, from almost every start.
Hypotheses  A_i symmetric, their sum positive definite; W doubly stochastic; Y_0 = the gradients at X_0. For the rate r < 1.
Symbols     W, A (N, d, d), b (N, d), X0 (N, d): the arguments; alpha: `alpha`.
Source      derived here; the method: Di Lorenzo and Scutari 2016, Nedic, Olshevsky and Shi 2017.
Tight       exact, up to rounding; the rate to about 1 / K in K steps (`decay`).
Proof       theory/tracking_rate.ipynb.
"""

import numpy as np
import torch

from deca_lab.algorithm import loop as tr
from deca_lab.algorithm import optimisers
from deca_lab.algorithm.blocks import whole
from deca_lab.algorithm.problems import quadratics
from deca_lab.bounds import hypotheses as hy
from deca_lab.bounds.bound import Bound
from deca_lab.bounds.dgd_quadratics import block_diagonal, sound
from deca_lab.bounds.gossip_contraction import off_one
from deca_lab.errors import check
from deca_lab.mixing.graphs import Array
from deca_lab.mixing.topology import topology

SOURCE = "derived"
HYPOTHESES = (hy.doubly_stochastic,)
FIT = 1e-3  # what a rate read off a finite run may miss by


def tracking_rate(
    W: Array,
    A: Array,
    b: Array,
    X0: Array,
    alpha: float,
    steps: int,
    combine_first: bool = False,
    claimed: Array | None = None,
) -> Bound:
    """Return || X_k - X* ||_F of the library's run at k = 1 .. `steps` beside the same from powers of M: equal.

    `claimed` stands in for M, to see what breaks. Raises BadInput for shapes that do not fit, an A_i that is not symmetric,
    or no unique minimum.
    """
    W, A, b, X0 = sound(W, A, b, X0, alpha, steps)
    best, M = solution(A, b), matrix(W, A, alpha, combine_first) if claimed is None else claimed
    lhs = run(W, A, b, X0, alpha, steps, combine_first) - best
    z = np.concatenate([(X0 - best).ravel(), (np.einsum("nij,nj->ni", A, X0) - b).ravel()])
    rhs = []
    for _ in range(steps):
        z = M @ z
        rhs.append(float(np.linalg.norm(z[: X0.size])))
    return Bound(
        np.linalg.norm(lhs, axis=(1, 2)),
        np.array(rhs),
        "gradient tracking's error",
        SOURCE,
        rounding=_rounding(W, A, b, X0, best, steps),
        equal=True,
        broken=hy.broken(HYPOTHESES, hy.Instance(topology(W))),
    )


def _rounding(W: Array, A: Array, b: Array, X0: Array, best: Array, steps: int) -> Array:
    """Return (steps,) what float64 may lose by step k: what y's mean lost stays there, and moves where x settles.

    Rounding is by chance and adds up like a root; that the sums of W are off 1 has the same sign at each step.
    """
    n, d = b.shape
    values = np.linalg.eigvalsh(A.mean(0))
    size = float(np.linalg.norm(X0) + np.linalg.norm(best) * n**0.5)
    slope = float(np.linalg.norm(A, 2, axis=(1, 2)).max()) * size + float(np.linalg.norm(b))
    reach, k = size + slope / float(values[0]), 2.0 + np.arange(1, steps + 1)
    lost: Array = reach * (float(np.finfo(float).eps) * (n + d) * k**0.5 + off_one((W,)) * k)
    return lost


def decay(
    W: Array, A: Array, b: Array, X0: Array, alpha: float, steps: int, combine_first: bool = False
) -> Bound:
    """Return the rate of the second half of a run, the mean factor a step, beside r: equal to 1e-3, for the run is finite.

    Raises BadInput as `tracking_rate` does, and where rounding is all that is left of the error.
    """
    W, A, b, X0 = sound(W, A, b, X0, alpha, steps)
    error = np.linalg.norm(
        run(W, A, b, X0, alpha, steps, combine_first) - solution(A, b), axis=(1, 2)
    )
    check(
        error[-1] > 1e-11 * error[0],
        "steps",
        steps,
        "fewer: the error has reached what float64 can tell apart",
    )
    half = len(error) // 2
    rate = (error[-1] / error[half - 1]) ** (1 / (len(error) - half))
    r = rate_of(matrix(W, A, alpha, combine_first), b.shape[1])
    return Bound(
        np.array([rate]),
        np.array([r]),
        "gradient tracking's rate",
        SOURCE,
        axis="run",
        rounding=FIT * r,
        equal=True,
        broken=hy.broken(HYPOTHESES, hy.Instance(topology(W)))
        or ("" if r < 1 else f"the error does not fall: r = {r:.4g}"),
    )


def matrix(W: Array, A: Array, alpha: float, combine_first: bool = False) -> Array:
    """Return M (2 N d, 2 N d)."""
    n, d = A.shape[0], A.shape[1]
    check(
        A.shape == (n, d, d) and W.shape == (n, n),
        "W, A",
        (W.shape, A.shape),
        "of shapes (N, N) and (N, d, d)",
    )
    check(alpha > 0, "alpha", alpha, "above 0")
    mixed, hessian, one = np.kron(W, np.eye(d)), block_diagonal(A), np.eye(n * d)
    stepped = one if combine_first else mixed
    return np.block(
        [[mixed, -alpha * stepped], [hessian @ (mixed - one), mixed - alpha * hessian @ stepped]]
    )


def rate_of(M: Array, d: int) -> float:
    """Return r: the largest modulus of M's eigenvalues without the d that are nearest to 1."""
    values = np.linalg.eigvals(M)
    return float(np.abs(values[np.argsort(np.abs(values - 1))[d:]]).max())


def solution(A: Array, b: Array) -> Array:
    """Return the minimum (d,) of the mean problem."""
    total = A.sum(0)
    check(
        bool(np.linalg.eigvalsh(total).min() > 1e-12),
        "A",
        total.tolist(),
        "of positive definite sum, for one minimum",
    )
    return np.asarray(np.linalg.solve(total, b.sum(0)))


def run(
    W: Array, A: Array, b: Array, X0: Array, alpha: float, steps: int, combine_first: bool = False
) -> Array:
    """Return X_1 .. X_steps (steps, N, d) of the library's own gradient tracking."""
    check(steps >= 1, "steps", steps, "1 or more")
    hessians, linear, start = (
        torch.from_numpy(np.array(part, dtype=np.float64)) for part in (A, b, X0)
    )
    problem = quadratics(hessians, linear, start)
    recipe = tr.Recipe(
        1, steps, lambda s: alpha, optimisers.gradient_tracking(), combine_first=combine_first
    )
    plan = tr.plan(problem, whole(["x"]), topology(W), recipe)
    return np.stack([state.blocks[0].numpy() for state, _ in tr.train(plan)])


def usual(clients: int = 6, d: int = 3, seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """Return W of a ring and random A, b, X0: clients whose minima are far apart."""
    rng = np.random.default_rng([seed, 0x67])
    roots = rng.standard_normal((clients, d, d))
    A = roots @ roots.transpose(0, 2, 1) / d + 0.2 * np.eye(d)
    W = topology("ring" if clients > 2 else "complete", clients).at(0)
    return W, A, 3 * rng.standard_normal((clients, d)), rng.standard_normal((clients, d))


def examples(seed: int = 0) -> dict[str, Bound]:
    """Return the error of both orders, and the rate of both."""
    given = usual(seed=seed)
    return {
        "adapt then combine": tracking_rate(*given, 0.05, 200),
        "combine then adapt": tracking_rate(*given, 0.05, 200, True),
        "its rate": decay(*given, 0.02, 800),
        "its rate, combine first": decay(*given, 0.02, 800, True),
    }


def broken(seed: int = 0) -> Bound:
    """Return adapt then combine beside the matrix of the other order."""
    W, A, b, X0 = usual(seed=seed)
    return tracking_rate(W, A, b, X0, 0.05, 100, claimed=matrix(W, A, 0.05, combine_first=True))
