"""Rates without convexity: runs against plain loops, laws that are planted, and the claim."""

import math

import numpy as np
import pytest
import torch
from cases import cases

from deca_lab.bounds import nonconvex_rates as nr
from deca_lab.bounds import rate_laws as rl
from deca_lab.bounds import rates as ra
from deca_lab.bounds.units import LOGISTIC, TANH, unit
from deca_lab.errors import BadInput
from deca_lab.mixing.topology import topology

DECADES = np.array([64.0, 256, 1024, 4096, 16384, 65536])


# the runs


def tanh_slope(x, a, y):
    z = np.tanh(np.einsum("nbd,nd->nb", a, x))
    return np.einsum("nb,nbd->nd", (z - y) * (1 - z**2), a) / y.shape[1]


def logistic_slope(x, a, y):
    wrong = 1 / (1 + np.exp(y * np.einsum("nbd,nd->nb", a, x)))
    return -np.einsum("nb,nbd->nd", y * wrong, a) / y.shape[1] + 0.5 * 2 * x / (1 + x**2) ** 2


def by_hand(case, setting, rule, slope):
    """Mean squared gradients of plain NumPy runs: `rule(g, state, W)` -> direction, of each block's columns in turn."""
    n, seeds, lr = case.clients, case.seeds, setting.c / math.sqrt(setting.length)
    W = np.kron(np.eye(seeds), topology(setting.graph, n).at(0))
    x = case.problem.start["x"].numpy().copy()
    columns = np.array_split(np.arange(x.shape[1]), setting.blocks)
    states, squares = [{} for _ in columns], []
    for step in range(setting.length):
        k = step // setting.inner_steps % setting.blocks
        mean = x.reshape(seeds, n, -1).mean(1)
        squares.append(case.gradient(torch.from_numpy(mean)[None])[0].square().sum(1).numpy())
        a, y = (part.numpy() for part in case.problem.batches(step))
        g = slope(x, a, y)
        x[:, columns[k]] = W @ (x[:, columns[k]] - lr * rule(g[:, columns[k]], states[k], W))
    return np.mean(squares, 0), np.mean(squares[-max(len(squares) // 4, 1) :], 0)


def predictable_rule(g, state, W, a1=0.9, a2=0.999, eps=1e-8, floor=0.01):
    """Divide by the mixed second moments of the steps before; the first gradient is only measured."""
    q = state.get("q", 0)
    m, v = state.get("m", 0 * g), state.get("v", 0 * g)
    if q:
        hat = v / (1 - a2**q)
        m = a1 * m + (1 - a1) * g / (np.sqrt(hat + floor * hat.mean(1, keepdims=True)) + eps)
    state.update(q=q + 1, m=m, v=W @ (a2 * v + (1 - a2) * g**2))
    return m


@cases(("method", "rule", "setting"), [
    (nr.sgd, lambda g, state, W: g, nr.TANHS.at_once._replace(rounds=3, inner_steps=4)),
    (nr.predictable, predictable_rule, nr.TANHS.by_blocks._replace(rounds=3, inner_steps=4)),
])  # fmt: skip
@pytest.mark.parametrize(("kind", "slope"), [(TANH, tanh_slope), (LOGISTIC, logistic_slope)])
def test_methods_are_plain_loops(method, rule, setting, kind, slope):
    case = unit(2, tilt=0.5, clients=4, rows=6, batch=3, d=5, seed=3, kind=kind)
    found, (full, late) = method(case, setting), by_hand(case, setting, rule, slope)
    np.testing.assert_allclose(found.full, full, rtol=1e-10)
    np.testing.assert_allclose(found.late, late, rtol=1e-10)
    fewer = method(case, setting._replace(looks=5))
    assert not np.array_equal(fewer.full, found.full)
    np.testing.assert_allclose(fewer.full, full, rtol=0.5)


def test_a_step_is_looked_at_in_each_part():
    chosen = np.flatnonzero(ra._looked_at(1000, 7))
    assert (np.histogram(chosen, np.linspace(0, 1000, 8).astype(int))[0] == 1).all()
    assert ra._looked_at(5, 7).all()


# the verdict, on laws that are planted


def planted(curve, noise=0.03, seed=0):
    """Points of (400 / 3 away + 6) curve(length), from far away and from the solution, of eight seeds."""
    rng = np.random.default_rng([seed, 9])

    def of(level):
        values = (level * curve(DECADES))[:, None] * np.exp(
            noise * rng.standard_normal((len(DECADES), 8))
        )
        return rl.Points(DECADES, rl.Squares(values, values, values), 3.0)

    return rl.together(of(400 / 3 + 6), of(6.0))


def bent(at, after):
    return lambda x: np.where(x < at, x**-0.5, at**-0.5 * (x / at) ** -after)


@cases(("curve", "stands"), [
    (lambda x: x**-0.5, True), (lambda x: x**-0.6, True), (lambda x: x**-0.4, False), (lambda x: x**-0.45, False),
    (lambda x: x**-0.25, False), (lambda x: x**-0.5 + 0.002, False), (bent(4096, 0.0), False), (bent(4096, 0.25), False),
    (bent(1024, 0.35), False), (bent(4096, 0.4), False),
])  # fmt: skip
def test_wrong_exponents_and_bends_are_refused(curve, stands):
    held = [ra.bound_of(nr.laws(planted(curve, seed=seed))).holds() for seed in range(8)]
    assert np.mean(held) > 0.85 if stands else not any(held)


def test_an_exponent_beyond_a_bend_is_seen_best_in_the_longest_runs():
    for at, after in ((4096, 0.4), (16384, 0.2), (16384, 0.3)):
        laws = nr.laws(planted(bent(at, after), noise=0.0))
        assert laws["longest"].power < laws["all"].power - 0.03 < 0.45
        assert laws["longest"].floor_low > 0


@pytest.mark.slow
def test_a_learning_rate_that_falls_too_slowly_is_refused():
    def slower(case, setting):  # c / S^(1/4) leaves S^(-1/4)
        return nr.sgd(case, setting._replace(c=setting.c * (setting.length / 64) ** 0.25))

    laws = nr.laws(nr.lengthened(nr.pair(0.5), (4, 32, 256), nr.TANHS.at_once, slower))
    assert laws["longest"].power_high < 0.42
    assert ra.bound_of(laws).verdict == "fails at entry 1"


# the claim


@pytest.mark.slow
@pytest.mark.parametrize(("study", "floor"), [(nr.TANHS, 5e-4), (nr.LOGISTICS, 5e-5)])
def test_deca_stalls_where_the_others_do_not(
    study, floor
):  # they: test_table.py, which runs the examples
    broken = nr.broken(study=study)
    assert broken.verdict == "fails at entry 1"
    power_of_the_longest, floor_of_the_longest = broken.lhs[3:5]
    assert power_of_the_longest > -0.45
    assert floor_of_the_longest > floor


# edges and bad input


def test_one_of_everything():
    case = unit(1, clients=1, rows=1, batch=1, d=1)
    one = nr.sgd(case, nr.TANHS.at_once._replace(rounds=1, inner_steps=1))
    assert (
        one.full
        == one.late
        == pytest.approx(case.gradient(case.problem.start["x"][None])[0, 0] ** 2)
    )
    alone = nr.predictable(case, nr.TANHS.by_blocks._replace(blocks=1, rounds=1, inner_steps=2))
    assert np.isfinite(alone.full).all()


@cases(("call", "message"), [
    (lambda: nr.sgd(unit(1), nr.TANHS.by_blocks), "blocks = 2 cannot be used: it must be 1: D-SGD trains all"),
    (lambda: nr.predictable(unit(1, d=2), nr.TANHS.by_blocks._replace(blocks=3)), "blocks = 3 cannot be used: it must be 1 to 2"),
])  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(BadInput, match=message):
        call()
