"""DGD on quadratics: where decentralised gradient descent settles, and how fast it gets there, in either order of its two halves.

Claim       || X_k - X* ||_F <= q^k || X_0 - X* ||_F for k = 1, 2 ..., on f_i(x) = x'A_i x / 2 - b_i'x, where, with A = diag(A_i),
            combine then adapt: q = || W(x)I - alpha A ||_2,     X* solves ((I - W)(x)I + alpha A) X* = alpha b;
            adapt then combine: q = || (W(x)I)(I - alpha A) ||_2, X* solves X* = (W(x)I)(X* - alpha (A X* - b)).
            `weighted`, adapt then combine: the same in the norm || S X ||, S = (I - alpha A)^(1/2), with q = || S (W(x)I) S ||_2.
Hypotheses  exact gradients, a fixed alpha, a mixing at every step; X* is the only solution. Weighted: W symmetric, alpha L < 1.
            It is a contraction, q < 1, if W is doubly stochastic with rho < 1, every A_i is positive semidefinite, their sum
            is definite, and alpha < `largest_step`: (1 + lambda_min(W)) / L with W symmetric, 2 / L for adapt then combine.
Symbols     W: `W`; A_i, b_i: `A` (N, d, d), `b` (N, d); X_0: `X0`; alpha: `alpha`; k = 1 .. `steps`; L: the largest eigenvalue
            of all A_i; rho: the second singular value of W.
Source      derived; that combine then adapt is a gradient step on a penalised problem is in Yuan, Ling and Yin 2016
            (arXiv 1310.7063).
Tight       attained at k = 1 by X_0 = X* + `witness`, and at every k where the matrix is symmetric: for combine then
            adapt if W is, for adapt then combine in the weighted norm.
Proof       theory/dgd_quadratics.ipynb; in a line, X_(k+1) - X* = M (X_k - X*).
"""

from collections.abc import Callable

import numpy as np
import torch

from deca_lab.algorithm import loop as tr
from deca_lab.algorithm.blocks import whole
from deca_lab.algorithm.optimisers import sgd
from deca_lab.algorithm.problems import quadratics
from deca_lab.bounds.bound import Bound
from deca_lab.errors import check
from deca_lab.mixing.graphs import Array
from deca_lab.mixing.matrix import dense
from deca_lab.mixing.topology import Topology, topology

SOURCE = "derived; Yuan, Ling and Yin 2016"
Factor = Callable[[Array], float]  # M (Nd, Nd) -> the factor of one step


def dgd_quadratics(
    W: Array,
    A: Array,
    b: Array,
    X0: Array,
    alpha: float,
    steps: int,
    combine_first: bool = True,
    weighted: bool = False,
    factor: Factor | None = None,
    noise: float = 0.0,
) -> Bound:
    """Return both sides at k = 1 .. `steps`, the left one by the library's own `train` with its `sgd`.

    To see what breaks, `factor` stands in for the 2-norm, such as `spectral_radius`; `noise` is that of each coordinate.
    Raises BadInput for shapes that do not fit, an A_i that is not symmetric, or an X* that is not unique.
    """
    W, A, b, X0 = sound(W, A, b, X0, alpha, steps)
    M = step_matrix(W, A, alpha, combine_first)
    S = root(W, A, alpha, combine_first) if weighted else np.eye(len(M))
    settled = fixed_point(W, A, b, alpha, combine_first)
    lhs = [
        float(np.linalg.norm(S @ (x - settled).ravel()))
        for x in trajectory(W, A, b, X0, alpha, steps, combine_first, noise)
    ]
    inside = S @ M @ np.linalg.inv(S) if weighted else M
    q = (factor or largest_singular_value)((inside + inside.T) / 2 if weighted else inside)
    rhs = q ** np.arange(1, steps + 1) * lhs[0]
    return Bound(
        np.array(lhs[1:]),
        rhs,
        "DGD on quadratics",
        SOURCE,
        rounding=_rounding(M, A, b, settled, lhs[0], alpha, steps),
        broken="gradients are noisy" if noise > 0 else "",
    )


def step_matrix(W: Array, A: Array, alpha: float, combine_first: bool = True) -> Array:
    """Return M (Nd, Nd) of X_(k+1) - X* = M (X_k - X*), client by client."""
    mixing, hessian = np.kron(W, np.eye(A.shape[1])), block_diagonal(A)
    return (
        mixing - alpha * hessian
        if combine_first
        else mixing @ (np.eye(len(hessian)) - alpha * hessian)
    )


def block_diagonal(A: Array) -> Array:
    """Return diag(A_1, .., A_N) (Nd, Nd)."""
    n, d = A.shape[:2]
    blocks: Array = np.einsum("ij,iac->iajc", np.eye(n), A)
    return blocks.reshape(n * d, n * d)


def fixed_point(W: Array, A: Array, b: Array, alpha: float, combine_first: bool = True) -> Array:
    """Return X* (N, d), the models that a step leaves where they are; raise BadInput unless there is exactly one."""
    gap = np.eye(b.size) - step_matrix(W, A, alpha, combine_first)
    check(
        bool(np.linalg.cond(gap) < 1e13),
        "W, A, alpha",
        alpha,
        "such that I - M is invertible, for one fixed point only",
    )
    return np.linalg.solve(gap, alpha * (b if combine_first else W @ b).ravel()).reshape(b.shape)


def largest_step(W: Array, A: Array, combine_first: bool = True) -> float:
    """Return the step size below which q < 1: (1 + lambda_min(W)) / L for symmetric W, or 2 / L for adapt then combine.

    Combine then adapt with a W that is not symmetric: that of (W + W') / 2, of which nothing is proved.
    """
    top = float(np.linalg.eigvalsh(A).max())
    return (1 + float(np.linalg.eigvalsh((W + W.T) / 2)[0])) / top if combine_first else 2 / top


def root(W: Array, A: Array, alpha: float, combine_first: bool = False) -> Array:
    """Return S = (I - alpha A)^(1/2) (Nd, Nd); raise BadInput where the weighted norm does not exist or does not apply."""
    check(
        not combine_first and np.allclose(W, W.T, rtol=0, atol=1e-14),
        "weighted",
        True,
        "for adapt then combine, W symmetric",
    )
    values, vectors = np.linalg.eigh(np.eye(A.shape[1]) - alpha * A)
    check(bool(values.min() > 0), "alpha", alpha, "below 1 / L for the weighted norm")
    return block_diagonal(np.einsum("iak,ik,ick->iac", vectors, np.sqrt(values), vectors))


def witness(
    W: Array, A: Array, alpha: float, combine_first: bool = True, weighted: bool = False
) -> Array:
    """Return the X_0 - X* (N, d) of unit length that one step shrinks least: a right singular vector, S^-1 of it if weighted."""
    M = step_matrix(W, A, alpha, combine_first)
    S = root(W, A, alpha, combine_first) if weighted else np.eye(len(M))
    _, _, right = np.linalg.svd(S @ M @ np.linalg.inv(S))
    start: Array = np.linalg.solve(S, right[0])
    unit: Array = start / np.linalg.norm(start)
    return unit.reshape(A.shape[:2])


def largest_singular_value(M: Array) -> float:
    """Return || M ||_2."""
    return float(np.linalg.norm(M, 2))


def spectral_radius(M: Array) -> float:
    """Return the largest modulus of an eigenvalue: the rate in the long run, but no valid factor unless M is normal."""
    return float(np.abs(np.linalg.eigvals(M)).max())


def trajectory(
    W: Array,
    A: Array,
    b: Array,
    X0: Array,
    alpha: float,
    steps: int,
    combine_first: bool = True,
    noise: float = 0.0,
) -> Array:
    """Return X_0 .. X_steps (steps + 1, N, d) as the library trains them, with plain gradient descent."""
    hessians, linear, start = (torch.tensor(part, dtype=torch.float64) for part in (A, b, X0))
    problem = quadratics(hessians, linear, start, noise)
    recipe = tr.Recipe(1, steps, lambda s: alpha, sgd(), combine_first=combine_first)
    plan = tr.plan(problem, whole(["x"]), Topology("W", (W,)), recipe)
    return np.stack([X0, *(state.blocks[0].numpy() for state, _ in tr.train(plan))])


def drawn(n: int, d: int, seed: int, spread: float = 1.0) -> tuple[Array, Array, Array]:
    """Return random A (n, d, d) with eigenvalues within 0.1 and 1, b (n, d) and X0 (n, d)."""
    rng = np.random.default_rng([seed, 0xD6D])
    turns = np.linalg.qr(rng.standard_normal((n, d, d)))[0]
    A = np.einsum("iak,ik,ick->iac", turns, rng.uniform(0.1, 1.0, (n, d)), turns)
    return (
        (A + A.transpose(0, 2, 1)) / 2,
        spread * rng.standard_normal((n, d)),
        rng.standard_normal((n, d)),
    )


def examples(seed: int = 0) -> dict[str, Bound]:
    """Return four cases on a ring of eight: random starts in either order, and the starts that attain the bound."""
    W, (A, b, X0) = topology("ring", 8).at(0), drawn(8, 3, seed)
    later = fixed_point(W, A, b, 0.5, False) + witness(W, A, 0.5, False, weighted=True)
    first = fixed_point(W, A, b, 0.5) + witness(W, A, 0.5)
    return {
        "combine then adapt": dgd_quadratics(W, A, b, X0, 0.5, 60),
        "combine then adapt, witness": dgd_quadratics(W, A, b, first, 0.5, 60),
        "adapt then combine": dgd_quadratics(W, A, b, X0, 0.5, 60, combine_first=False),
        "adapt then combine, witness": dgd_quadratics(
            W, A, b, later, 0.5, 60, combine_first=False, weighted=True
        ),
    }


def broken(seed: int = 0) -> Bound:
    """Return a run whose gradients are noisy: it hovers around X*, and does not go there."""
    W, (A, b, X0) = topology("ring", 8).at(0), drawn(8, 3, seed)
    return dgd_quadratics(W, A, b, X0, 0.5, 60, noise=0.1)


def sound(W: Array, A: Array, b: Array, X0: Array, alpha: float, steps: int) -> tuple[Array, ...]:
    """Return W, A, b, X0 in float64; raise BadInput where they do not fit one another, or the claim does not speak of them."""
    W, A, b, X0 = (np.asarray(part, dtype=np.float64) for part in (dense(W), A, b, X0))
    check(W.ndim == 2 and W.shape[0] == W.shape[1] > 0, "W", W.shape, "square, (N, N)")
    n, d = b.shape if b.ndim == 2 else (0, 0)
    check(n == len(W) and d > 0, "b", b.shape, f"of shape ({len(W)}, d), a row a client")
    check(
        A.shape == (n, d, d) and np.allclose(A, A.transpose(0, 2, 1), rtol=0, atol=1e-14),
        "A",
        A.shape,
        f"of shape ({n}, {d}, {d}), each A_i symmetric",
    )
    check(X0.shape == (n, d), "X0", X0.shape, f"of shape ({n}, {d})")
    check(bool(np.isfinite(alpha)) and alpha > 0, "alpha", alpha, "above 0")
    check(isinstance(steps, int) and steps >= 1, "steps", steps, "a whole number from 1 up")
    return W, A, b, X0


def _rounding(
    M: Array, A: Array, b: Array, settled: Array, start: float, alpha: float, steps: int
) -> Array:
    """Return what float64 may lose by step k: some units of each step's largest number, shrunk by the steps after it."""
    n, d = b.shape
    q = largest_singular_value(M)
    powers = q ** np.arange(steps + 1)
    size = (np.linalg.norm(settled) + start) * (
        1 + alpha * largest_singular_value(block_diagonal(A))
    ) + alpha * np.linalg.norm(b)
    lost: Array = np.finfo(float).eps * (n + 2 * d + 6) * size * np.cumsum(powers)[1:]
    return lost
