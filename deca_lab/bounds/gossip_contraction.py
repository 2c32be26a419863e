"""Gossip contraction: k mixings shrink disagreement at least as fast as the k-th power of the second singular value.

Claim       || W^k X - Xbar ||_F <= rho^k || X - Xbar ||_F for k = 1, 2 ..., every row of Xbar being the mean row of X
            and rho = || W - J ||_2, J = 11'/N. Matrices in turn: the product of their rho in place of rho^k.
Hypotheses  W is doubly stochastic: W 1 = 1 and 1'W = 1'. Nothing else: not symmetric, not non-negative.
Symbols     W: `W`, a matrix or a topology; X (N, D): `X`; k = 1 .. `rounds`; rho: `factor`, of each matrix.
Source      classic; Xiao and Boyd, Fast linear iterations for distributed averaging, 2004, equations 6 to 10.
Tight       at k = 1 for X = u 1', u the right singular vector of W - J for rho (`witness`); at every k if W is normal,
            W W' = W' W, as a symmetric one is, and a ring that passes on in one direction. Else it is loose at k > 1 in general.
Proof       theory/gossip_contraction.ipynb; in a line, W^k X - Xbar = (W - J)^k (X - Xbar).
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import issparse

from deca_lab.bounds import hypotheses as hy
from deca_lab.bounds.bound import Bound
from deca_lab.errors import check
from deca_lab.mixing.gossip import mixer
from deca_lab.mixing.graphs import Array
from deca_lab.mixing.matrix import Matrix, dense, numbers
from deca_lab.mixing.spectrum import spectrum
from deca_lab.mixing.topology import Topology, topology

SOURCE = "Xiao and Boyd 2004, equations 6 to 10"
HYPOTHESES = (hy.doubly_stochastic,)
Factor = Callable[[Matrix], float]  # W (N, N) -> the factor of one mixing


def gossip_contraction(
    W: Matrix | Topology, X: Array, rounds: int, factor: Factor | None = None
) -> Bound:
    """Return both sides after 1 .. `rounds` mixings of X (N, D), the left one mixed by the library's own gossip.

    `factor` stands in for the second singular value, such as `second_eigenvalue`, to see what breaks.
    Raises BadInput where W is not square, or X has not one row a client.
    """
    matrices, X = _matrices(W), np.asarray(X, dtype=np.float64)
    check(
        X.ndim == 2 and len(X) == matrices[0].shape[0],
        "X",
        X.shape,
        f"of shape ({matrices[0].shape[0]}, D), a row a client",
    )
    check(isinstance(rounds, int) and rounds >= 1, "rounds", rounds, "a whole number from 1 up")
    factors = np.array([(factor or second_singular_value)(M) for M in matrices])
    largest = max(1.0, *map(second_singular_value, matrices))  # what is lost grows with the rest
    start = np.linalg.norm(X - X.mean(0))
    k = np.arange(1, rounds + 1)
    rhs = start * np.cumprod(factors[(k - 1) % len(matrices)])
    return Bound(
        disagreements(matrices, X, rounds),
        rhs,
        "gossip contraction",
        SOURCE,
        axis="mixing",
        rounding=lost(matrices) * k * largest ** (k - 1) * np.linalg.norm(X),
        broken=hy.broken(HYPOTHESES, hy.Instance(Topology("W", matrices))),
    )


def lost(matrices: tuple[Matrix, ...]) -> float:
    """Return what one mixing may lose of || X ||_F: N products and sums are rounded, and the sums of W itself are off 1."""
    return float(np.finfo(float).eps * matrices[0].shape[0]) + off_one(matrices)


def off_one(matrices: tuple[Matrix, ...]) -> float:
    """Return how far || X ||_F goes astray in one mixing because float64 has no 1/3: by as much as sums of W are off 1.

    Row sums that are off move clients that agree, column sums the mean; more than the hypothesis forgives is not forgiven.
    """
    n = matrices[0].shape[0]
    ones = np.ones(n)
    off: float = max(
        float(np.linalg.norm(W @ ones - 1) + np.linalg.norm(W.T @ ones - 1)) for W in matrices
    )
    return off / n**0.5 if off <= 2 * n**0.5 * hy.TOLERANCE else 0.0


def disagreements(matrices: tuple[Matrix, ...], X: Array, rounds: int) -> Array:
    """Return || X_k - Xbar ||_F (rounds,) of X (N, D) mixed k = 1 .. `rounds` times, Xbar the mean of X itself."""
    x = torch.from_numpy(np.array(X, dtype=np.float64))
    mean, mixers, distances = x.mean(0), [mixer(W, x) for W in matrices], []
    for k in range(rounds):
        x = mixers[k % len(mixers)](x)
        distances.append(float((x - mean).norm()))
    return np.array(distances)


def second_singular_value(W: Matrix) -> float:
    """Return rho = || W - J ||_2, from above where it is only known to some error."""
    facts = spectrum(W)
    return facts.rho + facts.error


def second_eigenvalue(W: Matrix) -> float:
    """Return the largest modulus of an eigenvalue of W - J: not a valid factor unless W is normal."""
    return spectrum(W).lambda2


def witness(W: Matrix, columns: int = 1) -> Array:
    """Return the X (N, columns) that one mixing shrinks least: the second right singular vector of W, repeated.

    Zeros for one client, where there is nobody to disagree with.
    """
    n = W.shape[0]
    if n == 1:
        return np.zeros((1, columns))
    _, _, right = np.linalg.svd(dense(W) - 1 / n)
    u = right[0] - right[0].mean()  # where rho = 0 every vector is a witness, also one with a mean
    return np.repeat(u[:, None], columns, axis=1)


def ring_rho(n: int) -> float:
    """Return rho of a ring of n clients with shares 1/3 in closed form: (1 + 2 cos(2 pi / n)) / 3 for n >= 4, 0 for 3.

    The eigenvalues of that circulant are (1 + 2 cos(2 pi j / n)) / 3; from n = 4 on the largest modulus but the first's 1
    is at j = 1. One or two clients have no ring with shares 1/3.
    """
    check(isinstance(n, int) and n >= 3, "n", n, "a whole number from 3 up")
    return (1 + 2 * np.cos(2 * np.pi / n)) / 3 if n >= 4 else 0.0


def _matrices(W: Matrix | Topology) -> tuple[Matrix, ...]:
    if isinstance(W, Topology):
        return W.matrices
    W = W if issparse(W) else np.asarray(W, dtype=np.float64)
    check(W.ndim == 2 and W.shape[0] == W.shape[1] > 0, "W", W.shape, "square, (N, N)")
    check(bool(np.isfinite(numbers(W)).all()), "W", float(abs(W).max()), "finite in each entry")
    return (W,)


def examples(seed: int = 0) -> dict[str, Bound]:
    """Return random models on a ring, its witness, and a W that is doubly stochastic and not symmetric."""
    rng = np.random.default_rng([seed, 0x6C])
    ring = topology("ring", 8).at(0)
    turned = (np.eye(6) + np.roll(np.eye(6), 1, axis=1) + np.eye(6)[rng.permutation(6)]) / 3
    return {
        "random X on a ring": gossip_contraction(ring, rng.standard_normal((8, 5)), 30),
        "the witness on a ring": gossip_contraction(ring, witness(ring), 30),
        "the witness, W not symmetric": gossip_contraction(turned, witness(turned), 30),
    }


def broken(seed: int = 0) -> Bound:
    """Return the witness against the second eigenvalue in place of the singular value, for a W that is not normal."""
    first, second, third = np.eye(6)[[1, 2, 0, 4, 3, 5]], np.eye(6)[[3, 0, 5, 1, 2, 4]], np.eye(6)
    W = 0.5 * first + 0.3 * second + 0.2 * third
    return gossip_contraction(W, witness(W), 5, factor=second_eigenvalue)
