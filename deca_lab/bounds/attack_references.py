"""Plain NumPy loops that an attack compares claims with: none of the library's mixing, moments or training is used here.

`slope(X)` maps models (N, d) to the gradients of each client's function at its own row.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from deca_lab.mixing.graphs import Array

Slope = Callable[[Array], Array]


class Seen(NamedTuple):
    """One inner step of DECA: active columns, X (N, d) before and after it, v_hat of the active block."""

    columns: slice
    before: Array
    after: Array
    v_hat: Array
    turn: int


class Decays(NamedTuple):
    """Adam's decays, and the feedback's: `sign` is +1 for x_new - x, -1 for x - x_new, 0 for none."""

    a1: float = 0.9
    a2: float = 0.999
    eps: float = 1e-8
    b1: float = 1.0
    b2: float = 1.0
    sign: int = 0
    mixed: bool = False  # v is mixed too


def apart(X: Array) -> float:
    """Return || X - Xbar ||_F."""
    return float(np.linalg.norm(X - X.mean(0)))


def powers(Ws: Sequence[Array], X: Array, rounds: int) -> Array:
    """Return || W_k ... W_1 X - Xbar ||_F for k = 1 .. rounds, Xbar of X itself."""
    mean, out = X.mean(0), []
    for k in range(rounds):
        X = Ws[k % len(Ws)] @ X
        out.append(float(np.linalg.norm(X - mean)))
    return np.array(out)


def steps(g: Array, h: Array, d: Decays) -> Array:
    """Return Adam's largest step (T,) over gradients g and discrepancies h (T, N, D)."""
    m, v, out = np.zeros(g.shape[1:]), np.zeros(g.shape[1:]), []
    for t in range(1, len(g) + 1):
        m, v = d.a1 * m + (1 - d.a1) * g[t - 1], d.a2 * v + (1 - d.a2) * g[t - 1] ** 2
        out.append(np.abs(m / (1 - d.a1**t) / (np.sqrt(v / (1 - d.a2**t)) + d.eps)).max())
        m, v = d.b1 * m + (1 - d.b1) * h[t - 1], d.b2 * v + (1 - d.b2) * h[t - 1] ** 2
    return np.array(out)


def deca(
    slope: Slope, X: Array, Ws: Sequence[Array], cuts: Sequence[slice], R: int, T: int, lr: float,
    d: Decays,
) -> list[Seen]:  # fmt: skip
    """Return every inner step of T rounds over the blocks, R steps a visit, adapt then combine."""
    seen: list[Seen] = []
    for cut in list(cuts) * T:
        m = v = np.zeros_like(X[:, cut])
        for t in range(1, R + 1):
            W, g = Ws[len(seen) % len(Ws)], slope(X)[:, cut]
            m, v = d.a1 * m + (1 - d.a1) * g, d.a2 * v + (1 - d.a2) * g**2
            v = W @ v if d.mixed else v
            v_hat, new = v / (1 - d.a2**t), X.copy()
            new[:, cut] = W @ (X[:, cut] - lr * m / (1 - d.a1**t) / (np.sqrt(v_hat) + d.eps))
            h = d.sign * (new - X)[:, cut]
            m, v = d.b1 * m + (1 - d.b1) * h, d.b2 * v + (1 - d.b2) * h**2
            seen.append(Seen(cut, X, new, v_hat, t))
            X = new
    return seen


def predictable(
    slope: Slope, X: Array, W: Array, cuts: Sequence[slice], R: int, T: int, lr: float, d: Decays, floor: float
) -> list[Seen]:  # fmt: skip
    """Return every step that moves of Adam which divides by the mixed second moments of the steps before, moments kept."""
    seen: list[Seen] = []
    kept = [(X[:, cut] * 0, X[:, cut] * 0, 0) for cut in cuts]
    for k in [k for _ in range(T) for k in range(len(cuts)) for _ in range(R)]:
        cut, (m, v, q), g = cuts[k], kept[k], slope(X)[:, cuts[k]]
        if q:
            v_hat = v / (1 - d.a2**q)
            below = np.sqrt(v_hat + floor * v_hat.mean(1, keepdims=True)) + d.eps
            m, new = d.a1 * m + (1 - d.a1) * g / below, X.copy()
            new[:, cut] = W @ (X[:, cut] - lr * m)
            seen.append(Seen(cut, X, new, v_hat, q))
            X = new
        kept[k] = (m, W @ (d.a2 * v + (1 - d.a2) * g**2), q + 1)
    return seen


def signs(slope: Slope, X: Array, lr: float, K: int) -> list[Array]:
    """Return the clients' common model before and after each step along the mean sign of tracked gradients."""
    y = last = slope(X)
    out = [X[0]]
    for _ in range(K):
        X = np.broadcast_to((X - lr * np.sign(y)).mean(0), X.shape)
        new = slope(X)
        y, last = y.mean(0) + new - last, new
        out.append(X[0])
    return out


def balance(slopes: Callable[[float], Array], eps: float, low: float, high: float) -> float:
    """Return where the mean of y / (|y| + eps) over clients' rising slopes y is 0, by bisection."""
    for _ in range(200):
        middle = (low + high) / 2
        y = slopes(middle)
        low, high = (low, middle) if (y / (np.abs(y) + eps)).sum() > 0 else (middle, high)
    return (low + high) / 2


def squared(slope: Slope, seen: Sequence[Seen]) -> Array:
    """Return (1/S) sum_s || grad_k(s) f(xbar_s) ||^2 for each S."""
    each = []
    for one in seen:
        mean = np.broadcast_to(one.before.mean(0), one.before.shape)
        each.append(np.square(slope(mean).mean(0)[one.columns]).sum())
    return np.cumsum(each) / np.arange(1, len(each) + 1)


def descent(
    slope: Slope, X: Array, Ws: Sequence[Array], gamma: float, K: int, first: bool
) -> list[Array]:
    """Return X_0 .. X_K of decentralised gradient descent, in either order."""
    out = [X]
    for k in range(K):
        W = Ws[k % len(Ws)]
        X = W @ X - gamma * slope(X) if first else W @ (X - gamma * slope(X))
        out.append(X)
    return out


def tracking(
    slope: Slope, X: Array, W: Array, alpha: float, K: int, first: bool
) -> tuple[list[Array], list[Array]]:
    """Return X_0 .. X_K and Y_0 .. Y_(K-1) of gradient tracking."""
    last = slope(X)
    Y, Xs, Ys = last, [X], []
    for _ in range(K):
        Ys.append(Y)
        X = W @ X - alpha * Y if first else W @ (X - alpha * Y)
        new = slope(X)
        Y, last = W @ Y + new - last, new
        Xs.append(X)
    return Xs, Ys


def amsgrad(
    slope: Slope, X: Array, Ws: Sequence[Array], alpha: float, K: int, floor: float, d: Decays
) -> tuple[Array, float]:
    """Return (1/N) || X - Xbar ||^2 after each step of decentralised AMSGrad, combine then adapt, and the largest |gradient|."""
    m = v = np.zeros_like(X)
    u = largest = np.full_like(X, floor)
    out, G = [], 0.0
    for k in range(K):
        W, g = Ws[k % len(Ws)], slope(X)
        G = max(G, float(np.abs(g).max()))
        m, v = d.a1 * m + (1 - d.a1) * g, d.a2 * v + (1 - d.a2) * g**2
        new = np.maximum(largest, v)
        u, largest = W @ (u + new - largest), new
        X = W @ X - alpha * m / np.sqrt(np.maximum(u, floor))
        out.append(apart(X) ** 2 / len(X))
    return np.array(out), G


def interference(A: Array, B: Array, W: Array) -> Array:
    """Return || sum_j w_ij B_j A_j - (sum_j w_ij B_j)(sum_j w_ij A_j) ||_F of each client (N,), pair by pair."""
    out = []
    for w in W:
        products = sum(
            (w[j] * B[j] @ A[j] for j in range(len(w))), np.zeros((B.shape[1], A.shape[2]))
        )
        mean_b = sum((w[j] * B[j] for j in range(len(w))), np.zeros_like(B[0]))
        mean_a = sum((w[j] * A[j] for j in range(len(w))), np.zeros_like(A[0]))
        out.append(float(np.linalg.norm(products - mean_b @ mean_a)))
    return np.array(out)


def drift(A: Array, B: Array, W: Array, rounds: int) -> Array:
    """Return how far the mean product has moved after each mixing of products that is cut back to the rank."""
    products, rank, out = B @ A, A.shape[1], []
    start = products.mean(0)
    for _ in range(rounds):
        left, values, right = np.linalg.svd(np.tensordot(W, products, 1))
        products = left[:, :, :rank] * values[:, None, :rank] @ right[:, :rank]
        out.append(float(np.linalg.norm(products.mean(0) - start)))
    return np.array(out)
