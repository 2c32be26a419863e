"""The worst case of decentralised subgradient descent, found by semidefinite programming and compared with a theorem.

Claim       f(x_av) - f(x*) <= (D^2 + R^2) / (2 sqrt(K)) + 2 R^2 / (sqrt(K) (1 - rho)), x_av the mean over all clients and the
            iterates 0 .. K of combine then adapt with step 1 / sqrt(K). The worst case itself is the value of a semidefinite
            program, which lies below: no run may exceed it, and some run of some functions and some W comes near to it.
Hypotheses  f_i convex with subgradients of norm at most R; all start at one x_0, || x_0 - x* || <= D; W symmetric, doubly
            stochastic, all eigenvalues but one in [-rho, rho], the same W at every step.
Symbols     K: `steps`; n: `clients`; rho; the program: `worst_case`; runs: `simulated`.
Source      theorem: Nedic, Olshevsky, Rabbat 2018, as in Colla and Hendrickx, arXiv 2103.14396; program: the latter, with PEPit.
Tight       no: the theorem is 2.7 to 15 times above the worst case.
Proof       theory/dgd_worst_case.ipynb.

The program needs the optional PEPit: pip install "deca-lab[pep]".
"""

import math
import operator
import warnings
from collections.abc import Sequence
from functools import reduce
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from deca_lab.algorithm import loop as tr
from deca_lab.algorithm import optimisers
from deca_lab.algorithm.blocks import whole
from deca_lab.algorithm.problems import Problem
from deca_lab.bounds.bound import Bound
from deca_lab.errors import check, require
from deca_lab.mixing.graphs import Array
from deca_lab.mixing.topology import topology

if TYPE_CHECKING:
    from PEPit import PEP, Expression, Function, Point

T = TypeVar("T")
SOURCE = "Nedic et al. 2018; Colla and Hendrickx, arXiv 2103.14396"


def dgd_worst_case(steps: int = 5, clients: int = 3, rho: float = 0.8) -> Bound:
    """Return the worst case (D = R = 1) beside the theorem; raise BadInput where PEPit is not installed."""
    return Bound(
        worst_case(steps, clients, rho),
        theorem(steps, rho),
        "worst case of DGD",
        SOURCE,
        axis="program",
    )


def theorem(steps: int, rho: float, R: float = 1.0, D: float = 1.0) -> float:
    """Return the theorem's right side."""
    check(steps >= 1, "steps", steps, "1 or more")
    check(0 <= rho < 1, "rho", rho, "at least 0 and below 1")
    root = math.sqrt(steps)
    return (D**2 + R**2) / (2 * root) + 2 * R**2 / (root * (1 - rho))


def installed() -> bool:
    """Say whether PEPit is there."""
    return find_spec("PEPit") is not None


def worst_case(steps: int, clients: int, rho: float) -> float:
    """Return the largest f(x_av) - f(x*) of any functions, start and W that the claim speaks of (R = D = 1).

    To about 1e-4 where the first solver succeeds, 1e-2 where the second must step in (ten steps, say). Raises BadInput
    without PEPit.
    """
    require("the worst case", "pep", "PEPit")
    from PEPit import PEP
    from PEPit.functions import ConvexLipschitzFunction

    check(clients >= 2, "clients", clients, "2 or more")
    theorem(steps, rho)
    program = PEP()
    f = [program.declare_function(ConvexLipschitzFunction, M=1.0) for _ in range(clients)]
    mean = _sum([one / clients for one in f])
    best, start = mean.stationary_point(), program.set_initial_point()
    program.set_initial_condition((start - best) ** 2 <= 1)
    before, mixed = _iterates(f, start, steps)
    for k in range(steps):  # one symmetric W: <X_k, W X_j> = <W X_k, X_j>
        for j in range(k):
            program.add_constraint(_inner(before[k], mixed[j]) == _inner(mixed[k], before[j]))
    program.add_psd_matrix(_spectral(before[:steps], mixed, rho))
    average = _sum([_sum(X) for X in before]) / (clients * len(before))
    program.set_performance_metric(mean(average) - mean(best))
    return _solved(program)


def _solved(program: "PEP") -> float:
    from cvxpy.error import SolverError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "may be inaccurate": worst_case says so
        try:
            return float(program.solve(verbose=0, wrapper="cvxpy", solver="CLARABEL"))
        except SolverError:
            return float(program.solve(verbose=0, wrapper="cvxpy", solver="SCS"))


def _iterates(
    f: "list[Function]", start: "Point", steps: int
) -> "tuple[list[list[Point]], list[list[Point]]]":
    """Return X_0 .. X_K and W X_0 .. W X_(K-1): the mixed points are free but for their mean."""
    from PEPit import Point

    before, mixed = [[start] * len(f)], []
    for _ in range(steps):
        X = before[-1]
        free = [Point() for _ in f[1:]]
        Y = [*free, _sum(X) - _sum(free)]
        before.append([y - one.gradient(x) / steps**0.5 for one, x, y in zip(f, X, Y, strict=True)])
        mixed.append(Y)
    return before, mixed


def _spectral(
    before: "list[list[Point]]", mixed: "list[list[Point]]", rho: float
) -> NDArray[np.object_]:
    """Return (rho X' + Y')'(rho X' - Y'), X' and Y' without their means: no less than zero, as all eigenvalues are in range."""
    pairs = list(zip(before, mixed, strict=True))
    plus = [_combined(rho, X, Y, 1) for X, Y in pairs]
    minus = [_combined(rho, X, Y, -1) for X, Y in pairs]
    entries = np.empty((len(pairs), len(pairs)), dtype=object)
    for k, j in np.ndindex(entries.shape):
        entries[k, j] = (_product(plus[k], minus[j]) + _product(plus[j], minus[k])) / 2
    return entries


def _combined(rho: float, X: "list[Point]", Y: "list[Point]", sign: int) -> "list[Point]":
    """Return rho X' + sign Y', both without their means."""
    return [rho * x + sign * y for x, y in zip(_deviations(X), _deviations(Y), strict=True)]


def _inner(X: "list[Point]", Y: "list[Point]") -> "Expression":
    return _product(_deviations(X), _deviations(Y))


def _deviations(X: "list[Point]") -> "list[Point]":
    mean = _sum(X) / len(X)
    return [x - mean for x in X]


def _product(X: "list[Point]", Y: "list[Point]") -> "Expression":
    return _sum([x * y for x, y in zip(X, Y, strict=True)])


def _sum(items: Sequence[T]) -> T:
    """Return the sum of points, functions or expressions: unlike `sum`, it needs no zero to begin with."""
    return reduce(operator.add, items)


# ---- runs, which must stay below


def simulated(
    steps: int, clients: int, rho: float, runs: int = 20, seed: int = 0, slope: float = 1.0
) -> Array:
    """Return f(x_av) - f(x*) (runs,) of the library's own runs: f_i = slope |x - c_i|, random c and W, || x_0 - x* || = 1."""
    check(runs >= 1, "runs", runs, "1 or more")
    return np.array(
        [
            _one_run(steps, clients, rho, slope, np.random.default_rng([seed, i, 0xD6]))
            for i in range(runs)
        ]
    )


def _one_run(steps: int, clients: int, rho: float, slope: float, rng: np.random.Generator) -> float:
    centres = rng.standard_normal(clients) * 10.0 ** rng.uniform(-2, 1)
    best, data = float(np.median(centres)), torch.from_numpy(centres)
    start = torch.full((clients, 1), best + 1.0, dtype=torch.float64)
    problem = Problem({"x": start}, lambda p, c: slope * (p["x"][0] - c).abs(), lambda step: data)
    recipe = tr.Recipe(1, steps, lambda s: steps**-0.5, optimisers.sgd(), combine_first=True)
    plan = tr.plan(problem, whole(["x"]), topology(random_w(clients, rho, rng)), recipe)
    visited = [start, *(state.blocks[0] for state, _ in tr.train(plan))]
    mean = float(torch.stack(visited).mean())
    return slope * float(np.abs(mean - centres).mean() - np.abs(best - centres).mean())


def random_w(clients: int, rho: float, rng: np.random.Generator) -> Array:
    """Return a random symmetric W with W 1 = 1 whose other eigenvalues reach from -rho to rho; its entries may be negative."""
    basis = np.linalg.qr(
        np.column_stack([np.ones(clients), rng.standard_normal((clients, clients - 1))])
    )[0]
    others = rng.uniform(-rho, rho, clients - 1)
    others[0] = rho * rng.choice([-1, 1])
    W: Array = (
        np.full((clients, clients), 1 / clients) + basis[:, 1:] @ np.diag(others) @ basis[:, 1:].T
    )
    return W


def examples(seed: int = 0) -> dict[str, Bound]:
    """Return runs below the theorem, and, where PEPit is installed, runs below the worst case and that below the theorem."""
    runs = simulated(5, 3, 0.8, seed=seed)
    cases = {
        "runs against the theorem": Bound(
            runs, np.full(len(runs), theorem(5, 0.8)), "DGD's runs", SOURCE, axis="run"
        )
    }
    if installed():
        worst = dgd_worst_case(5, 3, 0.8)
        cases["worst case, K = 5, rho = 0.8"] = worst
        cases["runs against the worst case"] = Bound(
            runs, np.full(len(runs), worst.lhs), "DGD's runs", SOURCE, axis="run"
        )
    return cases


def broken(seed: int = 0) -> Bound:
    """Return runs of functions whose subgradients are twenty times as large as the theorem assumes."""
    runs = simulated(5, 3, 0.8, seed=seed, slope=20.0)
    return Bound(runs, np.full(len(runs), theorem(5, 0.8)), "DGD's runs", SOURCE, axis="run")
