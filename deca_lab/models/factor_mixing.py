"""Mixing low-rank factors: what averaging A and B apart does to the products B A, and DeCAF's mixing of the products.

A pair is `<module>.lora_A` (r, in) and `<module>.lora_B` (out, r); norms are those of B A, without LoRA's alpha / r.
Products are never formed: with all neighbours' factors side by side, sum_j w_ij B_j A_j = L R with L (out, deg r) and
R (deg r, in), whose QR factors leave a matrix of deg r rows and columns that has the same singular values.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import hstack, issparse
from torch import Tensor

from deca_lab.algorithm.channel import Rows, gossip
from deca_lab.algorithm.stacking import Layout, Params, flatten, unflatten
from deca_lab.errors import BadInput, Diverged, check, pick
from deca_lab.mixing.matrix import Matrix, entries

A, B = ".lora_A", ".lora_B"  # the endings that make two names a pair


class FactorPair(NamedTuple):
    """The names of one low-rank product B A."""

    A: str
    B: str

    @property
    def module(self) -> str:
        """The module that the product is added to."""
        return self.A.removesuffix(A)


def pairs(where: Layout | Sequence[str]) -> list[FactorPair]:
    """Return the pairs among the names, in their order; raise BadInput where one of two factors is missing."""
    names = where.names if isinstance(where, Layout) else where
    alone = [name for name in names if _other(name) not in (None, *names)]
    if alone:
        pair = f"{alone[0]} is without {_other(alone[0])}"
        raise BadInput(f"names: {pair}: both of a pair must train, in one block")
    return _pairs(names)


class Interference(NamedTuple):
    """Root mean squares over clients of the Frobenius norm of mean of products minus product of means."""

    by_module: dict[str, float]
    total: float  # of all modules' matrices as one
    bound: float  # Cauchy-Schwarz's, likewise


@torch.no_grad()
def interference(params: Params, W: Matrix) -> Interference:
    """Return what mixing stacked factors apart with W (N, N) adds to or takes from the neighbourhood mean of products.

    For client i it is sum_j w_ij B_j A_j - Bbar_i Abar_i = sum_j w_ij (B_j - Bbar_i)(A_j - Abar_i), of Frobenius norm at
    most sqrt(sum_j |w_ij| ||B_j - Bbar_i||^2 sum_j |w_ij| ||A_j - Abar_i||^2). In float64 on the CPU. A factor without its
    counterpart in `params` (frozen, so common to all) interferes with nothing. Raises BadInput unless rows of W sum to 1.
    """
    sums = W.sum(1)
    stochastic, shown = np.allclose(sums, 1, rtol=0, atol=1e-9), sums.round(6).tolist()
    check(stochastic, "W", f"row sums {shown}", "a matrix whose rows sum to 1")
    squares: dict[str, Tensor] = {}
    bounds = torch.zeros(W.shape[0], dtype=torch.float64)
    for pair in _pairs(list(params)):
        a, b, w = _neighbours(*_exact(params, pair), W)
        da, db = (f - torch.einsum("nk,nkxy->nxy", w, f)[:, None] for f in (a, b))
        squares[pair.module] = _factored(da, db, w)[1].square().sum((1, 2))  # (N,)
        spread = [torch.einsum("nk,nkxy->n", w.abs(), f.square()) for f in (da, db)]
        bounds += spread[0] * spread[1]
    total = sum(squares.values(), torch.zeros(W.shape[0], dtype=torch.float64))
    by_module = {module: float(s.mean().sqrt()) for module, s in squares.items()}
    return Interference(by_module, float(total.mean().sqrt()), float(bounds.mean().sqrt()))


Share = Callable[[Tensor], tuple[Tensor, Tensor]]  # singular values -> what B and A take of them


def balanced(s: Tensor) -> tuple[Tensor, Tensor]:
    """B = U sqrt(S), A = sqrt(S) V': both factors have the same norm."""
    return s.sqrt(), s.sqrt()


def into_b(s: Tensor) -> tuple[Tensor, Tensor]:
    """B = U S, A = V': the rows of A are orthonormal."""
    return s, torch.ones_like(s)


SHARES: dict[str, Share] = {"balanced": balanced, "into-b": into_b}


def decaf(
    shares: Sequence[Matrix], where: Layout, like: Tensor, share: str = "balanced"
) -> Callable[[Rows], Tensor]:
    """Return DeCAF's mixing (arXiv 2505.21382) of rows (n_p, D): each product becomes the neighbours' mean, cut to rank r.

    New factors of client i: the best rank-r approximation of sum_p sum_j share_p[i, j] B_j A_j, by truncated SVD; exact
    where that mean has rank r or less. All other columns are mixed plainly. How the paper shares the singular values
    between the factors is not known: `share` names a rule of SHARES. Signs are fixed (the entry of each column of U of
    largest magnitude is positive). Where a singular value is zero, as at LoRA's start, B gets a zero column and A keeps the
    plainly mixed row, so that the product is right and the direction can still learn. Raises BadInput for a pair that
    is not whole or where there is none, and, when it mixes, Diverged for factors that are not finite.
    """
    factors, split = pairs(where), pick(SHARES, share, "share of the singular values")
    allowed = "pairs of LoRA's factors to mix as products"
    check(bool(factors), "names", ", ".join(where.names[:3]), allowed)
    W = hstack(shares, format="csr") if any(map(issparse, shares)) else np.hstack(shares)
    mixed_plainly = gossip([W], where, like)

    @torch.no_grad()
    def mix(rows: Rows) -> Tensor:
        x = torch.cat(tuple(rows)) if len(shares) > 1 else next(iter(rows))
        given, plain = unflatten(x, where), unflatten(mixed_plainly((x,)), where)
        new = dict(plain)
        for pair in factors:
            _require_finite(given, pair)
            new[pair.A], new[pair.B] = _cut(given[pair.A], given[pair.B], plain[pair.A], W, split)
        return flatten(new, where.names).to(x.dtype)

    return mix


@torch.no_grad()
def truncation_error(params: Params, W: Matrix) -> dict[str, Tensor]:
    """Return {module: (N,)}: the squared Frobenius error of DeCAF's cut for each client, in float64 on the CPU.

    It is the sum of the squared singular values of sum_j w_ij B_j A_j past the rank (Eckart-Young). The mean over
    clients of its square root bounds how far one mixing moves the network's mean product.
    """

    def tail(pair: FactorPair) -> Tensor:
        a, b = _exact(params, pair)
        values: Tensor = torch.linalg.svdvals(_factored(*_neighbours(a, b, W))[1])
        return values[:, a.shape[1] :].square().sum(1)

    return {pair.module: tail(pair) for pair in pairs(list(params))}


def _cut(a: Tensor, b: Tensor, a_mixed: Tensor, W: Matrix, split: Share) -> tuple[Tensor, Tensor]:
    """New factors (N, r, in), (N, out, r) of one pair."""
    a, b = (f.float() if f.dtype in (torch.bfloat16, torch.float16) else f for f in (a, b))
    rank = a.shape[1]
    left, core, right = _factored(*_neighbours(a, b, W))
    u, s, vh = torch.linalg.svd(core, full_matrices=False)
    u, s, vh = left @ u[:, :, :rank], s[:, :rank], vh[:, :rank] @ right
    sign = u.gather(1, u.abs().argmax(1, keepdim=True)).sign()  # (N, 1, r)
    none = s <= torch.finfo(s.dtype).eps * max(core.shape[1:]) * s[:, :1]  # as matrix_rank has it
    to_b, to_a = split(s.where(~none, 0))
    new_a = torch.where(none[:, :, None], a_mixed.to(a.dtype), vh * sign.mT * to_a[:, :, None])
    return new_a, u * sign * to_b.where(~none, 0)[:, None]


def _neighbours(a: Tensor, b: Tensor, W: Matrix) -> tuple[Tensor, Tensor, Tensor]:
    """A (N, deg, r, in), B (N, deg, out, r) and weights (N, deg) of what each row of W (N, M) mixes of M stacked factors.

    deg is the largest; a client with fewer has some with weight zero at the end.
    """
    allowed = f"({len(a)}, {len(a)}), for the stacked clients"
    check(W.shape[1] == len(a), "W", f"of shape {W.shape}", allowed)
    i, j, w = entries(W)
    many = np.bincount(i, minlength=W.shape[0])
    place = np.arange(len(i)) - np.repeat(np.cumsum(many) - many, many)  # in its row
    index, weights = np.zeros((2, W.shape[0], int(many.max())))
    index[i, place], weights[i, place] = j, w
    who = torch.from_numpy(index.astype(np.int64)).to(a.device)
    return a[who], b[who], torch.from_numpy(weights).to(a)


def _factored(a: Tensor, b: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Q_l (N, out, p), core (N, p, q), Q_r (N, q, in) with sum_j w_ij B_j A_j = Q_l core Q_r, Q_l and Q_r' orthonormal."""
    left = (b * w[:, :, None, None]).transpose(1, 2).flatten(2)  # (N, out, deg r)
    right = a.flatten(1, 2)  # (N, deg r, in)
    (ql, rl), (qr, rr) = torch.linalg.qr(left), torch.linalg.qr(right.mT)
    return ql, rl @ rr.mT, qr.mT


def _exact(params: Params, pair: FactorPair) -> tuple[Tensor, Tensor]:
    """One pair's stacked factors in float64 on the CPU, for a measurement."""
    _require_finite(params, pair)
    return params[pair.A].to("cpu", torch.float64), params[pair.B].to("cpu", torch.float64)


def _require_finite(params: Mapping[str, Tensor], pair: FactorPair) -> None:
    for name in pair:
        fine = params[name].flatten(1).isfinite().all(1)  # (N,)
        if not bool(fine.all()):
            client = int(fine.logical_not().nonzero()[0])
            raise Diverged(f"client {client}: {name} is no longer finite")


def _pairs(names: Sequence[str]) -> list[FactorPair]:
    """The whole pairs among the names."""
    both = [(name, _other(name)) for name in names if name.endswith(A)]
    return [FactorPair(name, other) for name, other in both if other and other in names]


def _other(name: str) -> str | None:
    """The name of a factor's counterpart, or None for what is no factor."""
    if name.endswith(A):
        return name.removesuffix(A) + B
    return name.removesuffix(B) + A if name.endswith(B) else None
