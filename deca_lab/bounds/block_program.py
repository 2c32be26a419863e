"""The semidefinite program of a block method over a network: its worst functions, and multipliers that are checked exactly.

A run meets finitely many points and gradients. They are written as exact combinations of the start and of the gradients
themselves, block by block; inner products are the only unknowns, one Gram matrix a block, for blocks are orthogonal.
"""

import warnings
from fractions import Fraction
from math import lcm
from typing import Any, NamedTuple

import numpy as np

from deca_lab.bounds import exact
from deca_lab.errors import check
from deca_lab.mixing.graphs import Array

BLOCKS = 2
DIGITS = 2**40  # multipliers are rounded to whole parts of it
# By so much the program keeps its matrices above 0, so that rounding cannot spoil them.
STRICT = 1e-7


class Game(NamedTuple):
    """Adapt, then combine, two blocks in sequence, R inner steps a visit; f_i convex and L-smooth with L = 1.

    All start at one x_0 with || x_0 - x* || <= 1; (1/N) sum || grad f_i - grad f ||^2 <= zeta^2 at the mean models.
    """

    W: Array  # (N, N)
    inner_steps: int = 1  # R
    rounds: int = 1  # T
    alpha: float = 0.5
    zeta: float = 1.0
    tracked: bool = False  # gradient tracking, restarted at each visit; else gradient descent

    @property
    def active(self) -> list[int]:
        """The block that trains at each inner step."""
        return [
            k for _ in range(self.rounds) for k in range(BLOCKS) for _ in range(self.inner_steps)
        ]


class Met(NamedTuple):
    """What client i's function meets: where (2, points, leaves), the gradient there, and which of the points are mean models.

    A row is a combination of the leaves of its block: the start, then gradients; x* = 0. The last point is x*.
    """

    where: exact.Whole
    slope: exact.Whole


class Program(NamedTuple):
    """Matrices (constraints, 2, leaves, leaves) of inner products, and what they multiply."""

    aim: exact.Whole  # (2, m, m): mean of the active blocks' squared gradients
    start: exact.Whole  # (2, m, m): || x_0 - x* ||^2
    apart: exact.Whole  # (S, 2, m, m): how far the clients' gradients differ at each mean model
    pairs: exact.Whole  # (P, 2, m, m): with `flow`, what convex and smooth functions keep below 0
    flow: Array  # (P, values) of -1, 0, 1


class Solved(NamedTuple):
    """The program's value, inner products and function values that attain it, and its multipliers."""

    value: float
    grams: Array  # (2, m, m)
    values: Array  # of the clients' functions at their points
    start: float  # multiplier of the start
    apart: Array  # (S,)
    pairs: Array  # (P,)


def met(game: Game) -> list[Met]:
    """Return what each client's function meets along a run, exactly: all rows are fractions."""
    check(0 < game.alpha <= 1, "alpha", game.alpha, "above 0 and at most 1 / L = 1")
    check(min(game.inner_steps, game.rounds) >= 1, "inner_steps, rounds", game[1:3], "1 or more")
    n, S = len(game.W), len(game.active)
    W = _fractions(game.W)
    each, m = 2 * S, 2 * S * n  # points: S of the client's own, S - 1 more mean models, x*; leaves
    X = np.full((BLOCKS, n, m), Fraction(0))
    X[:, :, 0] = Fraction(1)
    own, means, y, last = [], [], X[0] * 0, X[0] * 0
    for s, k in enumerate(game.active):
        own.append(X.copy())
        means.append(X.sum(1) / n)
        g = np.stack([_unit(m, i, s, n, each) for i in range(n)])
        fresh = s % game.inner_steps == 0
        y, last = (g if fresh or not game.tracked else W @ y + g - last), g
        X = X.copy()
        X[k] = W @ (X[k] - Fraction(game.alpha) * y)
    star = X[:, 0] * 0
    slopes = [np.stack([_unit(m, i, p, n, each) for p in range(each)]) for i in range(n)]
    return [
        Met(
            np.stack([*(o[:, i] for o in own), *means[1:], star], 1), np.stack([slopes[i]] * BLOCKS)
        )
        for i in range(n)
    ]


def _unit(m: int, i: int, p: int, n: int, each: int) -> exact.Whole:
    """Return the row of client i's gradient at its point p; at x* the last client's is minus the others' sum."""
    row = np.full(m, Fraction(0))
    if p == each - 1 and i == n - 1:
        row[[1 + j * each + p for j in range(n - 1)]] = Fraction(-1)
    else:
        row[1 + i * each + p] = Fraction(1)
    return row


def _fractions(W: Array) -> exact.Whole:
    return np.array([Fraction(float(w)) for w in np.ravel(W)], dtype=object).reshape(np.shape(W))


def program(game: Game) -> Program:
    """Return the matrices of the game."""
    clients, S, n = met(game), len(game.active), len(game.W)
    each, m = 2 * S, clients[0].where.shape[-1]
    at_mean = [0, *range(S, 2 * S - 1)]  # the mean models, which begin at the common start
    mean = np.stack([one.slope for one in clients]).sum(0) / Fraction(n)
    aim = np.zeros((BLOCKS, m, m), dtype=object)
    for k, p in zip(game.active, at_mean, strict=True):
        aim[k] += _inner(mean[k, p], mean[k, p]) / Fraction(S)
    start = np.stack([_inner(one, one) for one in clients[0].where[:, 0]])
    gaps = [[_norm(one.slope[:, p] - mean[:, p]) for one in clients] for p in at_mean]
    pairs, flow = [], []
    for i, one in enumerate(clients):
        for p, q in ((p, q) for p in range(each) for q in range(each) if p != q):
            pairs.append(_convex(one, p, q))
            flow.append(np.zeros(n * each))
            flow[-1][[i * each + p, i * each + q]] = -1, 1
    return Program(aim, start, np.array(gaps).sum(1) / Fraction(n), np.stack(pairs), np.stack(flow))


def _inner(a: exact.Whole, b: exact.Whole) -> exact.Whole:
    """Return the symmetric matrix of <a, b>; rows hold few numbers that are not 0."""
    half: exact.Whole = np.zeros((len(a), len(a)), dtype=object)
    i, j = np.flatnonzero(a), np.flatnonzero(b)
    half[np.ix_(i, j)] = np.outer(a[i], b[j]) / Fraction(2)
    whole: exact.Whole = half + half.T
    return whole


def _norm(rows: exact.Whole) -> exact.Whole:
    return np.stack([_inner(row, row) for row in rows])


def _convex(one: Met, p: int, q: int) -> exact.Whole:
    """Return <g_q, x_p - x_q> + || g_p - g_q ||^2 / 2: with f_q - f_p it is at most 0 (L = 1)."""
    step, gap = one.where[:, p] - one.where[:, q], one.slope[:, p] - one.slope[:, q]
    crossed = np.stack([_inner(g, x) for g, x in zip(one.slope[:, q], step, strict=True)])
    whole: exact.Whole = crossed + _norm(gap) / 2
    return whole


def solve(game: Game, laid: Program | None = None, strict: float = STRICT) -> Solved:
    """Return the solution by CLARABEL: the multipliers' program, whose own multipliers are the worst functions.

    With `strict` above 0 its value is that much too large, and the multipliers leave room for rounding.
    """
    import cvxpy as cp

    laid = laid or program(game)
    aim, start, apart, pairs = (np.array(part, dtype=float) for part in laid[:4])
    tau, sigma = cp.Variable(nonneg=True), cp.Variable(len(apart), nonneg=True)
    lam, m = cp.Variable(len(pairs), nonneg=True), aim.shape[-1]
    flat = np.concatenate([apart, pairs]).reshape(-1, BLOCKS, m * m)
    kept = []
    for k in range(BLOCKS):
        rest = cp.reshape(flat[:, k].T @ cp.hstack([sigma, lam]), (m, m), order="F")
        slack = tau * start[k] - aim[k] - strict * np.eye(m) + rest
        kept.append((slack + slack.T) / 2 >> 0)
    balance = laid.flow.T @ lam == 0
    task = cp.Problem(cp.Minimize(tau + game.zeta**2 * cp.sum(sigma)), [*kept, balance])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "may be inaccurate": `proved` decides
        value = float(task.solve(solver=cp.CLARABEL))
    grams, values = np.stack([one.dual_value for one in kept]), -balance.dual_value
    return Solved(value, grams, values, float(tau.value), sigma.value, lam.value)


def proved(game: Game, solved: Solved, laid: Program | None = None) -> Fraction | None:
    """Return a bound on the worst case, proved in whole numbers from the multipliers, or None where they prove nothing.

    Rounded multipliers, balanced anew, must leave both matrices positive definite; then the bound is theirs, exactly.
    """
    laid = laid or program(game)
    lam = _balanced(_rounded(solved.pairs), laid.flow)
    tau, sigma = _rounded(np.array([solved.start]))[0], _rounded(solved.apart)
    for k in range(BLOCKS):
        C = tau * laid.start[k] - DIGITS * laid.aim[k]
        C = C + np.tensordot(sigma, laid.apart[:, k], 1) + np.tensordot(lam, laid.pairs[:, k], 1)
        if not exact.positive_definite(_whole(C)):
            return None
    return (Fraction(int(tau)) + Fraction(game.zeta) ** 2 * int(sigma.sum())) / DIGITS


def _rounded(values: Array) -> exact.Whole:
    """Return multipliers of at least 0 as whole parts of 1 / DIGITS."""
    return np.array([round(max(float(v), 0.0) * DIGITS) for v in values], dtype=object)


def _balanced(lam: exact.Whole, flow: Array) -> exact.Whole:
    """Return the multipliers with what rounding left over at each value sent to its client's x*, or back: none falls below 0."""
    lam = lam.copy()
    rest = flow.T.astype(int).astype(object) @ lam
    edges = {(int(np.argmin(row)), int(np.argmax(row))): e for e, row in enumerate(flow)}
    # The client's x*, or for x* a neighbour.
    ends = {p: max(q for r, q in edges if r == p) for p, _ in edges}
    for p, over in enumerate(rest):
        star = ends[p]
        if star > p and over:
            lam[edges[(p, star) if over > 0 else (star, p)]] += abs(over)
    return lam


def _whole(C: exact.Whole) -> exact.Whole:
    """Return a matrix of fractions times their common denominator."""
    below = lcm(*(Fraction(c).denominator for c in C.ravel()))
    numbers: Any = [int(Fraction(c) * below) for c in C.ravel()]
    return np.array(numbers, dtype=object).reshape(C.shape)
