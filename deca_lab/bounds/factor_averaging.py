"""Averaging LoRA's factors: what it does to their products, and what DeCAF's cut back to the rank loses instead.

Claim       With Bbar = sum_j w_j B_j, Abar = sum_j w_j A_j, client by client (w its row of W):
            identity    sum_j w_j B_j A_j - Bbar Abar = sum_j w_j (B_j - Bbar)(A_j - Abar);
            bound       its Frobenius norm <= sqrt(sum_j |w_j| ||B_j - Bbar||^2  sum_j |w_j| ||A_j - Abar||^2);
            cut         DeCAF's new product errs from sum_j w_j B_j A_j by error^2 = sum of its squared singular values
                        past the rank, and no product of that rank errs less (Bbar Abar included);
            drift       cut at every mixing, the network's mean product does not stay: after k mixings it has moved by
                        at most the sum over them of the mean over clients of the error.
Hypotheses  Rows of W sum to 1 (identity, bound). Columns do (drift). Weights may be negative: hence |w_j|.
Symbols     A (N, r, in), B (N, out, r), W (N, N): `A`, `B`, `W`; k = 1 .. `rounds`.
Source      derived; the cut is Eckart and Young 1936, the mixing of products DeCAF's (arXiv 2505.21382).
Tight       bound: by factors on one line, A_j = s_j a, B_j = s_j b of rank one, w >= 0 (`witness`). drift: on the
            complete graph, where all clients make the same error. Identity and cut are equalities.
Proof       theory/factor_averaging.ipynb.
"""

import numpy as np
import torch

from deca_lab.algorithm.stacking import Layout, Params, flatten, layout, unflatten
from deca_lab.bounds.bound import Bound
from deca_lab.errors import check
from deca_lab.mixing.gossip import mixer
from deca_lab.mixing.graphs import Array
from deca_lab.mixing.matrix import dense
from deca_lab.mixing.topology import topology
from deca_lab.models import factor_mixing

SOURCE = "derived; Eckart and Young 1936 for the cut"
NAMES = ("m.lora_A", "m.lora_B")
EPS = float(np.finfo(float).eps)


def factor_averaging(A: Array, B: Array, W: Array) -> Bound:
    """Return the norm bound client by client, the left side by `factor_mixing.interference`.

    Raises BadInput for shapes that do not fit, or rows of W that do not sum to 1.
    """
    A, B, W = _checked(A, B, W)
    lhs = [factor_mixing.interference(_pair(A, B), np.tile(w, (len(W), 1))).total for w in W]
    # [i, j]: neighbour j from i's mean.
    dA, dB = (f[None] - np.tensordot(W, f, 1)[:, None] for f in (A, B))
    spread = [np.einsum("ij,ijxy,ijxy->i", np.abs(W), f, f) for f in (dA, dB)]
    return Bound(
        np.array(lhs),
        np.sqrt(spread[0] * spread[1]),
        "averaged factors",
        SOURCE,
        "client",
        0,
        np.linalg.norm(_cancelled(A, B, W), axis=(1, 2)),
    )


def identity(A: Array, B: Array, W: Array) -> Bound:
    """Return both sides of the identity, entry by entry: the left one gossips products and factors separately."""
    A, B, W = _checked(A, B, W)
    products, mixed = B @ A, [_gossiped(f, W) for f in (B, A)]
    dA, dB = (f[None] - np.tensordot(W, f, 1)[:, None] for f in (A, B))
    rhs = np.einsum("ij,ijor,ijrk->iok", W, dB, dA)
    return Bound(
        (_gossiped(products, W) - mixed[0] @ mixed[1]).ravel(),
        rhs.ravel(),
        "mean of products",
        SOURCE,
        "entry",
        0,
        rounding=_cancelled(A, B, W).ravel(),
        equal=True,
    )


def cut(A: Array, B: Array, W: Array) -> Bound:
    """Return the squared error of DeCAF's new products, as the library mixes them, and the tail of singular values."""
    A, B, W = _checked(A, B, W)
    mean = np.tensordot(W, B @ A, 1)
    a, b = decaf_once(A, B, W)
    lhs, values = np.square(b @ a - mean).sum((1, 2)), np.linalg.svd(mean, compute_uv=False)
    lost = _rounding(A, B, W)
    rhs = np.square(values[:, A.shape[1] :]).sum(1)
    return Bound(
        lhs,
        rhs,
        "cut to the rank",
        SOURCE,
        "client",
        0,
        2 * np.sqrt(rhs) * lost + lost**2,
        equal=True,
    )


def best(A: Array, B: Array, W: Array) -> Bound:
    """Return the error of the library's cut beside that of averaging factors, another product of the same rank."""
    A, B, W = _checked(A, B, W)
    lhs = factor_mixing.truncation_error(_pair(A, B), W)["m"].sqrt().numpy()
    mean = np.tensordot(W, B @ A, 1)
    rhs = np.linalg.norm(mean - np.tensordot(W, B, 1) @ np.tensordot(W, A, 1), axis=(1, 2))
    return Bound(lhs, rhs, "cut against averaged factors", SOURCE, "client", 0, _rounding(A, B, W))


def drift(A: Array, B: Array, W: Array, rounds: int = 1) -> Bound:
    """Return how far 1 .. `rounds` of DeCAF's mixings move the network's mean product, and the sum of mean errors."""
    A, B, W = _checked(A, B, W, rows=False)
    check(isinstance(rounds, int) and rounds >= 1, "rounds", rounds, "a whole number from 1 up")
    start, rank, moved, lost, rounding = (B @ A).mean(0), A.shape[1], [], [], []
    for _ in range(rounds):
        values = np.linalg.svd(np.tensordot(W, B @ A, 1), compute_uv=False)
        lost.append(np.sqrt(np.square(values[:, rank:]).sum(1)).mean())
        rounding.append(_rounding(A, B, W).max())
        A, B = decaf_once(A, B, W)
        moved.append(np.linalg.norm((B @ A).mean(0) - start))
    return Bound(
        np.array(moved),
        np.cumsum(lost),
        "drift of the mean product",
        SOURCE,
        "mixing",
        rounding=np.cumsum(rounding),
    )


def decaf_once(A: Array, B: Array, W: Array) -> tuple[Array, Array]:
    """Return the factors after one of the library's DeCAF mixings, of a rank that LoRA has: at most `in` and `out`."""
    smaller = min(A.shape[2], B.shape[1])
    check(
        A.shape[1] <= smaller,
        "rank",
        A.shape[1],
        f"at most {smaller}, the smaller dimension of the product",
    )
    params = _pair(A, B)
    where: Layout = layout(params, NAMES)
    x = flatten(params, NAMES)
    new = unflatten(factor_mixing.decaf([W], where, x)((x,)), where)
    return new[NAMES[0]].numpy(), new[NAMES[1]].numpy()


def random_factors(n: int, rank: int, inner: int, outer: int, seed: int = 0) -> tuple[Array, Array]:
    """Return normal factors A (n, rank, inner), B (n, outer, rank)."""
    rng = np.random.default_rng([seed, 0xFAC7])
    return rng.standard_normal((n, rank, inner)), rng.standard_normal((n, outer, rank))


def witness(n: int, rank: int, inner: int, outer: int, seed: int = 0) -> tuple[Array, Array]:
    """Return factors on one line, A_j = s_j a and B_j = s_j b of rank one, padded to `rank`: they attain the bound."""
    rng = np.random.default_rng([seed, 0x11E])
    A, B, s = np.zeros((n, rank, inner)), np.zeros((n, outer, rank)), rng.standard_normal(n)
    A[:, 0], B[:, :, 0] = (
        np.outer(s, rng.standard_normal(inner)),
        np.outer(s, rng.standard_normal(outer)),
    )
    return A, B


def examples(seed: int = 0) -> dict[str, Bound]:
    """Return the norm bound, the identity, the cut and the drift on random factors."""
    A, B = random_factors(8, 2, 12, 10, seed)
    ring, complete = topology("ring", 8).at(0), topology("complete", 8).at(0)
    return {
        "averaged factors, a ring of 8": factor_averaging(A, B, ring),
        "the identity": identity(A, B, ring),
        "cut to rank 2": cut(A, B, ring),
        "drift, complete graph": drift(A, B, complete, 5),
    }


def broken(seed: int = 0) -> Bound:
    """Return the drift where columns of W do not sum to 1: all follow client 0, and nothing is cut but the mean moves."""
    return drift(*random_factors(4, 2, 6, 5, seed), np.tile([1.0, 0.0, 0.0, 0.0], (4, 1)), 3)


def _gossiped(f: Array, W: Array) -> Array:
    x = torch.from_numpy(f.reshape(len(f), -1))
    return np.asarray(mixer(W, x)(x)).reshape(f.shape)


def _cancelled(A: Array, B: Array, W: Array) -> Array:
    """Return (N, out, in) what float64, and rows of W that sum to 1 nearly, may leave of terms that should cancel."""
    share, units = np.abs(W), EPS * (2 * len(W) + A.shape[1])
    product_of_means = np.tensordot(share, np.abs(B), 1) @ np.tensordot(share, np.abs(A), 1)
    mean_of_products = np.tensordot(share, np.abs(B) @ np.abs(A), 1)
    off = np.abs(W.sum(1) - 1)[:, None, None] + units
    lost: Array = off * (product_of_means + mean_of_products)
    return lost


def _rounding(A: Array, B: Array, W: Array) -> Array:
    """Return (N,) what QR and SVD of all neighbours' factors side by side, L R, may lose: of the size of ||L|| ||R||."""
    left, right = (
        (share * np.square(f).sum((1, 2))).sum(1) for share, f in ((W**2, B), (W != 0, A))
    )
    lost: Array = EPS * (len(W) + A.shape[2] + B.shape[1]) * np.sqrt(left * right)
    return lost


def _pair(A: Array, B: Array) -> Params:
    return dict(zip(NAMES, (torch.from_numpy(A), torch.from_numpy(B)), strict=True))


def _checked(A: Array, B: Array, W: Array, rows: bool = True) -> tuple[Array, Array, Array]:
    A, B, W = (np.array(f, dtype=np.float64) for f in (A, B, dense(W)))
    check(A.ndim == 3 and A.size > 0, "A", A.shape, "of shape (N, r, in)")
    check(
        B.ndim == 3 and B.size > 0 and (len(B), B.shape[2]) == A.shape[:2],
        "B",
        B.shape,
        f"({len(A)}, out, {A.shape[1]})",
    )
    check(
        W.shape == (len(A), len(A)), "W", W.shape, f"({len(A)}, {len(A)}), for the stacked clients"
    )
    sums = W.sum(1)
    check(
        not rows or np.allclose(sums, 1, rtol=0, atol=1e-9),
        "W",
        f"row sums {sums.round(6).tolist()}",
        "rows that sum to 1",
    )
    return A, B, W
