"""The worst case of block methods over a network, exactly: the worst functions found, replayed, and a bound proved on all.

Claim       (1/S) sum_s || grad_k f(xbar_s) ||^2 <= V, k the block that trains at inner step s < S = T B R, for block gradient
            descent and block gradient tracking, B = 2. V is the value of a semidefinite program: some functions attain it,
            and a bound a few millionths above it is *proved* in whole numbers from the program's multipliers.
            Above V:  2 Delta / (alpha S) + L^2 mean_s Xi_s, Delta = L D^2 / 2, with sqrt(Xi_s) by a recursion (`theorem`).
Hypotheses  f_i convex and L-smooth in all coordinates together, on any number of them; f = mean f_i has a minimum x*; all
            start at one x_0, || x_0 - x* || <= D; (1/N) sum || grad f_i - grad f ||^2 <= zeta^2 at the mean models xbar_s;
            adapt, then combine, blocks in sequence, a given W, alpha L <= 1. The theorem: W doubly stochastic.
Symbols     all of them: `Game`, with L = D = 1; T: `rounds`; R: `inner_steps`; tracking restarts at each visit: `tracked`.
Source      derived; performance estimation by Drori and Teboulle 2014; interpolation by Taylor, Hendrickx and Glineur 2017.
Tight       V is attained (to 2e-4 and better by the library's own run); the theorem is 1 to 34 times as large in the page.
Proof       theory/block_worst_case.ipynb.

The program needs the optional cvxpy: pip install "deca-lab[pep]".
"""

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deca_lab.algorithm import loop as tr
from deca_lab.algorithm import optimisers
from deca_lab.algorithm.blocks import Block
from deca_lab.algorithm.gradients import Batch
from deca_lab.algorithm.problems import Problem
from deca_lab.algorithm.stacking import Layout, Params
from deca_lab.bounds.block_program import BLOCKS, Game, Met, met, program, proved, solve
from deca_lab.bounds.bound import Bound
from deca_lab.bounds.hypotheses import largest_rho
from deca_lab.errors import BadInput, check
from deca_lab.mixing.graphs import Array
from deca_lab.mixing.topology import topology

SOURCE = "derived; Drori and Teboulle 2014; Taylor, Hendrickx and Glineur 2017"
RANK = 1e-8  # of an inner product matrix: what lies below it is rounding
# X (N, d) -> each client's value and gradient at its own row.
Drawn = Callable[[Array], tuple[Array, Array]]


class Worst(NamedTuple):
    """The worst case of a game: a bound that is proved, the program's value, and functions that come to it."""

    bound: float  # proved, rounded up; NaN where the multipliers prove nothing
    value: float
    start: tuple[Array, Array]  # x_0 - x* of each block
    functions: Drawn  # the worst ones, x* = 0, blocks side by side


def installed() -> bool:
    """Say whether cvxpy is there."""
    return find_spec("cvxpy") is not None


def worst_case(game: Game) -> Worst:
    """Return the worst case; raise BadInput where cvxpy is not installed, or the game's numbers are out of range."""
    if not installed():
        wanted = 'needs cvxpy, which is not installed: pip install "deca-lab[pep]"'
        raise BadInput(f"the worst case {wanted}")
    check(game.zeta >= 0, "zeta", game.zeta, "0 or more")
    laid = program(game)
    shown, solved = proved(game, solve(game, laid), laid), solve(game, laid, strict=0.0)
    bound = np.nan if shown is None else float(np.nextafter(float(shown), np.inf))
    roots = [_root(gram) for gram in solved.grams]
    clients, each = met(game), 2 * len(game.active)
    values = solved.values.reshape(len(game.W), each)
    drawn = [_drawn(one, roots, f) for one, f in zip(clients, values, strict=True)]
    first, second = (
        np.array(clients[0].where[k, 0], dtype=float) @ roots[k] for k in range(BLOCKS)
    )
    return Worst(bound, solved.value, (first, second), _together(drawn))


def _together(drawn: list[Callable[[Array], tuple[float, Array]]]) -> Drawn:
    def functions(X: Array) -> tuple[Array, Array]:
        values, slopes = zip(*(f(x) for f, x in zip(drawn, X, strict=True)), strict=True)
        return np.array(values), np.stack(slopes)

    return functions


def _root(gram: Array) -> Array:
    """Return leaves (m, d) with these inner products, in as few coordinates as they need."""
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    large = values > RANK * values[-1]
    root: Array = vectors[:, large] * np.sqrt(values[large])
    return root


def _drawn(one: Met, roots: list[Array], values: Array) -> Callable[[Array], tuple[float, Array]]:
    """Return value and gradient of the function that goes through what a client's function met."""
    where, slope = (
        np.hstack([np.array(part[k], dtype=float) @ roots[k] for k in range(BLOCKS)])
        for part in one
    )
    return lambda x: smallest(where, slope, values, x)


def smallest(where: Array, slope: Array, values: Array, x: Array) -> tuple[float, Array]:
    """Return value and gradient at x of the smallest convex 1-smooth function with these values and gradients.

    f(x) = max over weights a of sum a_p (f_p + <g_p, x - x_p> + || g_p ||^2 / 2) - || sum a_p g_p ||^2 / 2, and its gradient
    is the mean of the g_p with these weights.
    """
    import cvxpy as cp

    a = cp.Variable(len(values), nonneg=True)
    level = values + ((x - where) * slope).sum(1) + (slope**2).sum(1) / 2
    task = cp.Problem(cp.Maximize(level @ a - cp.sum_squares(slope.T @ a) / 2), [cp.sum(a) == 1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "may be inaccurate", where the last digits are asked for
        value = float(
            task.solve(solver=cp.CLARABEL, tol_gap_abs=1e-13, tol_gap_rel=1e-13, tol_feas=1e-13)
        )
    return value, np.asarray(a.value) @ slope


def measured(game: Game, start: tuple[Array, Array], functions: Drawn) -> Array:
    """Return || grad_k f(xbar_s) ||^2 (S,) at each inner step of the library's own run on the given functions."""
    n, S = len(game.W), len(game.active)
    names, cut = [f"block {k}" for k in range(BLOCKS)], len(start[0])
    own = [slice(0, cut), slice(cut, None)]
    first = {
        name: torch.from_numpy(np.tile(x, (n, 1))) for name, x in zip(names, start, strict=True)
    }

    def exact(x: Tensor, where: Layout, rest: Params, batch: Batch) -> tuple[Tensor, Tensor]:
        X = torch.hstack([rest.get(name, x) for name in names])
        values, g = map(torch.from_numpy, functions(X.numpy()))
        return values, g[:, own[names.index(where.names[0])]].contiguous()

    problem = Problem(first, lambda p, b: torch.zeros(()), lambda step: torch.zeros(n, 1), exact)
    optimiser = optimisers.gradient_tracking() if game.tracked else optimisers.sgd()
    recipe = tr.Recipe(game.rounds, game.inner_steps, lambda s: game.alpha, optimiser)
    plan = tr.plan(problem, [Block(name, (name,)) for name in names], topology(game.W), recipe)
    states = [tr.begin(plan), *(state for state, _ in tr.train(plan))][:S]
    means = [torch.hstack(state.blocks).mean(0).numpy() for state in states]
    slopes = [functions(np.tile(mean, (n, 1)))[1].mean(0) for mean in means]
    return np.array([np.square(g[own[k]]).sum() for k, g in zip(game.active, slopes, strict=True)])


def theorem(game: Game, L: float = 1.0, D: float = 1.0) -> float:
    """Return 2 Delta / (alpha S) + L^2 mean Xi; a and p are root mean square distances from the mean, of x and of y."""
    a, total, left = np.zeros(BLOCKS), 0.0, L * D**2 / 2
    rho, alpha, p, moved = largest_rho(topology(game.W)), game.alpha, 0.0, 0.0
    before = 0.0
    for s, k in enumerate(game.active):
        far = float(np.linalg.norm(a))
        if s % game.inner_steps == 0 or not game.tracked:
            p = L * far + game.zeta
        else:
            p = rho * p + L * (far + before) + min(2 * game.zeta, L * moved)
        moved, before = alpha * ((2 * L * left) ** 0.5 + L * far), far
        left, total = left + alpha / 2 * (L * far) ** 2, total + far**2
        a[k] = rho * (a[k] + alpha * p)
    S = len(game.active)
    return L * D**2 / (alpha * S) + L**2 * total / S


def block_worst_case(game: Game) -> Bound:
    """Return the library's run on the worst functions beside the bound that is proved."""
    worst = worst_case(game)
    lhs = float(measured(game, worst.start, worst.functions).mean())
    return Bound(
        lhs, worst.bound, "worst case of a block method", SOURCE, axis="game", rounding=1e-6
    )


# ---- runs that nobody chose


def simulated(game: Game, runs: int = 20, seed: int = 0, d: int = 3, steeper: float = 1.0) -> Array:
    """Return the left side (runs,) of random quadratics with one Hessian, || x_0 - x* || = 1, and zeta attained."""
    check(runs >= 1, "runs", runs, "1 or more")
    return np.array([_one_run(game, d, steeper, np.random.default_rng([seed, i, 0xB10])) for i in range(runs)])  # fmt: skip


def _one_run(game: Game, d: int, steeper: float, rng: np.random.Generator) -> float:
    n = len(game.W)
    turn = np.linalg.qr(rng.standard_normal((2 * d, 2 * d)))[0]
    A, x = (
        turn @ np.diag(rng.uniform(0, 1, 2 * d) ** rng.choice([0.2, 3])) @ turn.T,
        rng.standard_normal(2 * d),
    )
    b = rng.standard_normal((n, 2 * d))
    b = b - b.mean(0)
    b *= game.zeta / np.sqrt((b**2).sum() / n)
    x = x / np.linalg.norm(x)

    def functions(X: Array) -> tuple[Array, Array]:
        return steeper * (((X @ A) * X).sum(1) / 2 + (b * X).sum(1)), steeper * (X @ A + b)

    return float(measured(game, (x[:d], x[d:]), functions).mean())


def pair(clients: int) -> Array:
    """Return the W of the figures: two clients that keep 3/4, or three on a path, rho = 2/3."""
    two = np.array([[0.75, 0.25], [0.25, 0.75]])
    return two if clients == 2 else topology("path", clients).at(0)


def examples(seed: int = 0) -> dict[str, Bound]:
    """Return runs below the theorem, and, where cvxpy is installed, the worst run on its bound and that below the theorem."""
    game = Game(pair(2), 2)
    runs, above = simulated(game, seed=seed), theorem(game)
    cases = {
        "random runs, the theorem": Bound(
            runs, np.full(len(runs), above), "block DGD's runs", SOURCE, "run"
        )
    }
    for tracked in (False, True) if installed() else ():
        name, one = "tracking" if tracked else "descent", game._replace(tracked=tracked)
        worst = block_worst_case(one)
        cases[f"block {name}, its worst run"] = worst
        cases[f"block {name}, the theorem"] = Bound(
            worst.rhs, theorem(one), "worst case", SOURCE, "game"
        )
    return cases


def broken(seed: int = 0) -> Bound:
    """Return runs of functions four times as steep as the theorem assumes."""
    game = Game(pair(2), 2)
    runs = simulated(game, seed=seed, steeper=4.0)
    return Bound(runs, np.full(len(runs), theorem(game)), "block DGD's runs", SOURCE, axis="run")
