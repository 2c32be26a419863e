"""The worst case of block methods: PEPit's own program, functions that attain it, multipliers proved, hypotheses broken."""

import operator
from fractions import Fraction
from functools import reduce

import numpy as np
import pytest
import torch
from cases import cases

from deca_lab.bounds import block_program as bp
from deca_lab.bounds import block_worst_case as bw
from deca_lab.bounds import exact
from deca_lab.bounds.block_program import Game
from deca_lab.errors import BadInput

GAMES = [
    Game(bw.pair(2)),
    Game(bw.pair(2), 2),
    Game(bw.pair(2), 2, alpha=1.0, zeta=4.0),
    Game(bw.pair(2), 2, alpha=1.0, zeta=4.0, tracked=True),
]


def total(items):
    return reduce(operator.add, items)


def by_pepit(game):
    """The same program by another hand: PEPit, with its partition into blocks."""
    from PEPit import PEP
    from PEPit.functions import SmoothConvexFunction

    pep, n = PEP(), len(game.W)
    parts = pep.declare_block_partition(d=2)
    f = [pep.declare_function(SmoothConvexFunction, L=1.0) for _ in range(n)]
    best, start = (total(f) / n).stationary_point(), pep.set_initial_point()
    pep.set_initial_condition((start - best) ** 2 <= 1)

    def mixed(Z):
        return [total([float(w) * z for w, z in zip(row, Z, strict=True)]) for row in game.W]

    X, aims, y, last = [start] * n, [], None, None
    for s, k in enumerate(game.active):
        slopes = [one.gradient(total(X) / n) for one in f]
        mean = total(slopes) / n
        pep.add_constraint(total([(g - mean) ** 2 for g in slopes]) / n <= game.zeta**2)
        aims.append(parts.get_block(mean, k) ** 2)
        g = [parts.get_block(one.gradient(x), k) for one, x in zip(f, X, strict=True)]
        tracked = game.tracked and s % game.inner_steps
        y = [a + b - c for a, b, c in zip(mixed(y), g, last, strict=True)] if tracked else g
        old = [parts.get_block(x, k) for x in X]
        new = mixed([x - game.alpha * d for x, d in zip(old, y, strict=True)])
        X, last = [x - o + z for x, o, z in zip(X, old, new, strict=True)], g
    pep.set_performance_metric(total(aims) / len(aims))
    return float(pep.solve(verbose=0, wrapper="cvxpy", solver="SCS", eps=1e-6, max_iters=50000))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.parametrize("game", GAMES[1:], ids=("small", "large", "tracked"))
def test_pepit_finds_the_same_value(game):
    pytest.importorskip("PEPit")
    assert bp.solve(game, strict=0.0).value == pytest.approx(by_pepit(game), rel=3e-3)


@cases("game", [GAMES[1], GAMES[3]])
def test_the_librarys_run_on_the_worst_functions_comes_to_the_value(game):
    pytest.importorskip("cvxpy")
    worst = bw.worst_case(game)
    reached = bw.measured(game, worst.start, worst.functions).mean()
    assert reached == pytest.approx(worst.value, rel=2e-4)
    assert reached <= worst.bound + 1e-6
    assert worst.value <= worst.bound <= worst.value + 1e-4
    assert worst.bound < bw.theorem(game)
    assert sum(np.square(x).sum() for x in worst.start) == pytest.approx(1, abs=1e-4)


def test_the_worst_functions_are_what_the_claim_asks_for():
    pytest.importorskip("cvxpy")
    game, rng = GAMES[2], np.random.default_rng(0)
    worst = bw.worst_case(game)
    d = sum(map(len, worst.start))
    points = [rng.standard_normal(d) * rng.uniform(0.1, 3) for _ in range(6)]
    met = [worst.functions(np.tile(x, (2, 1))) for x in points]
    for x, (fx, gx) in zip(points, met, strict=True):
        for y, (fy, gy) in zip(points, met, strict=True):
            least = (gy * (x - y)).sum(1) + ((gx - gy) ** 2).sum(1) / 2
            assert (fx - fy - least >= -1e-6).all()  # convex and 1-smooth
    at_best = worst.functions(np.zeros((2, d)))[1]
    np.testing.assert_allclose(at_best.mean(0), 0, atol=1e-4)
    mean = np.concatenate(worst.start)
    slopes = worst.functions(np.tile(mean, (2, 1)))[1]
    assert ((slopes - slopes.mean(0)) ** 2).sum() / 2 <= game.zeta**2 * (1 + 1e-4)


def test_one_client_and_two_blocks_are_known():
    """Two steps, one a block, of |x|^2 / 2 from 1 away: the active squares add up to 1, and no convex function does better."""
    pytest.importorskip("cvxpy")
    worst = bw.worst_case(Game(np.ones((1, 1)), zeta=0.0))
    assert worst.value == pytest.approx(0.5, abs=1e-5)
    assert bw.measured(
        Game(np.ones((1, 1))), (np.array([0.6]), np.array([0.8])), lambda X: ((X**2).sum(1) / 2, X)
    ).mean() == pytest.approx(0.5)


def test_planted_multipliers_prove_nothing():
    pytest.importorskip("cvxpy")
    game = GAMES[1]
    solved, laid = bp.solve(game), bp.program(game)
    shown = bp.proved(game, solved, laid)
    assert isinstance(shown, Fraction)
    assert float(shown) == pytest.approx(solved.value, abs=1e-6)
    assert bp.proved(game, solved._replace(start=solved.start * 0.99), laid) is None
    assert bp.proved(game, solved._replace(pairs=solved.pairs * 0.9), laid) is None
    more = solved._replace(start=solved.start * 1.01)  # a weaker bound, and a proof of it
    assert bp.proved(game, more, laid) > shown


def test_balanced_multipliers_meet_every_value_exactly():
    laid = bp.program(GAMES[0])
    lam = np.random.default_rng(1).integers(0, 99, len(laid.pairs)).astype(object)
    found = bp._balanced(lam, laid.flow)
    assert not (laid.flow.T.astype(int).astype(object) @ found).any()
    assert (found >= lam).all()


@cases("seed", range(4))
def test_inner_products_of_a_run_are_the_programs(seed):
    """Any functions' run: the aim of the program, at the run's own leaves, is what the library measures."""
    rng = np.random.default_rng(seed)
    game = Game(bw.pair(3), 2, alpha=0.7, tracked=bool(seed % 2))
    roots = rng.standard_normal((3, 4, 4))
    A = roots @ roots.transpose(0, 2, 1) / 8  # blocks and clients that feel one another
    b = rng.standard_normal((3, 4))
    b -= b.mean(0)
    x0 = rng.standard_normal(4)
    clients, laid, each = bp.met(game), bp.program(game), 2 * len(game.active)
    leaves = np.zeros((2, clients[0].where.shape[-1], 2))
    leaves[:, 0] = x0.reshape(2, 2)
    for p in range(each):  # points in order of the run: each is a combination of earlier leaves
        for i, one in enumerate(clients):
            x = np.hstack([one.where[k, p].astype(float) @ leaves[k] for k in range(2)])
            if p < each - 1 or i < 2:
                leaves[:, 1 + i * each + p] = (A[i] @ x + b[i]).reshape(2, 2)
    aim = sum(np.tensordot(laid.aim[k].astype(float), leaves[k] @ leaves[k].T) for k in range(2))
    run = bw.measured(
        game, (x0[:2], x0[2:]), lambda X: (X[:, 0] * 0, np.einsum("nij,nj->ni", A, X) + b)
    )
    assert run.mean() == pytest.approx(aim, rel=1e-9)


@cases("game", [*GAMES, Game(bw.pair(3), 3, 2, 0.9, 0.5), Game(bw.pair(3), 3, 2, 0.9, 0.5, True)])
def test_random_runs_stay_below_the_theorem(game):
    runs = bw.simulated(game, runs=15, d=2)
    assert np.isfinite(runs).all()
    assert (runs <= bw.theorem(game)).all()


def test_broken_steeper_functions():
    assert bw.broken().verdict.startswith("fails at run")


def test_without_cvxpy_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(bw, "installed", lambda: False)
    with pytest.raises(BadInput, match=r'pip install "deca-lab\[pep\]"'):
        bw.block_worst_case(GAMES[0])
    assert list(bw.examples()) == ["random runs, the theorem"]


@cases(
    ("call", "words"),
    [
        (lambda: bp.met(Game(bw.pair(2), alpha=1.5)), r"alpha = 1\.5"),
        (lambda: bp.met(Game(bw.pair(2), 0)), "inner_steps"),
        (lambda: bw.worst_case(Game(bw.pair(2), zeta=-1.0)), r"zeta = -1\.0"),
        (lambda: bw.simulated(GAMES[0], runs=0), "runs = 0"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(BadInput, match=words):
        call()
    assert torch.get_default_dtype() == torch.float32
    assert not exact.positive_definite(np.array([[0]], dtype=object))
