"""Rates without convexity: closed forms against autograd, runs against plain loops, laws that are planted, and the claim."""

import math

import numpy as np
import pytest
import torch
from cases import cases

from deca_lab.bounds import nonconvex_rates as nr
from deca_lab.bounds import rates as ra
from deca_lab.errors import BadInput
from deca_lab.mixing.topology import topology

DECADES = np.array([64.0, 256, 1024, 4096, 16384, 65536])


# the problem


def test_closed_forms_are_those_of_autograd():
    case = nr.unit(2, tilt=0.5, clients=3, rows=5, batch=4, d=3)
    x, batch = case.problem.start["x"] + 0.1, case.problem.batches(7)
    leaf = x.clone().requires_grad_()
    each = torch.vmap(case.problem.loss)({"x": leaf}, batch)
    (want,) = torch.autograd.grad(each.sum(), leaf)
    losses, g = map(torch.from_numpy, case.problem.arrays(x.numpy(), batch))
    torch.testing.assert_close(losses, each.detach(), rtol=1e-13, atol=0)
    torch.testing.assert_close(g, want, rtol=1e-12, atol=1e-15)
    cut, blocks = ra.cut(case.problem, 2)
    for k, columns in enumerate((slice(0, 2), slice(2, 3))):
        rest = {blocks[1 - k].name: cut.start[blocks[1 - k].name] + 0.1}
        where = nr.Layout((blocks[k].name,), ((columns.stop - columns.start,),))
        assert torch.equal(cut.exact(x[:, columns], where, rest, batch)[1], g[:, columns])


def all_rows(case):
    """The rows of every client, found in many batches: a (clients, rows, d), y (clients, rows)."""
    seen = [torch.cat([a, y[..., None]], 2) for a, y in map(case.problem.batches, range(40))]
    rows = torch.stack([torch.unique(client, dim=0) for client in torch.cat(seen, 1)])
    return rows[..., :-1], rows[..., -1]


def slope(f, x):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(f(leaf), leaf)[0]


def test_f_is_not_convex_at_the_start_and_rests_at_the_solution():
    far, near = nr.pair(0.5, seeds=3)
    a, y = all_rows(far)
    assert a.shape == (24, 64, 8)
    for s in range(3):
        mine = slice(8 * s, 8 * s + 8)

        def f(x, mine=mine):
            return (torch.tanh(a[mine] @ x) - y[mine]).square().mean() / 2

        start, end = far.problem.start["x"][8 * s], near.problem.start["x"][8 * s]
        bends = [
            torch.linalg.eigvalsh(torch.autograd.functional.hessian(f, x)) for x in (start, end)
        ]
        if s == 0:
            rows = nr.unit_rows(0.5)
            mine_ = torch.linalg.eigvalsh(torch.from_numpy(nr.hessian(rows, start.numpy())))
            torch.testing.assert_close(mine_, bends[0], rtol=1e-9, atol=1e-12)
        assert bends[0].min() < -0.1
        assert bends[1].min() > 0.1
        for x in (start, end):
            got = far.gradient(torch.stack([x] * 3)[None])[0, s]
            torch.testing.assert_close(got, slope(f, x), rtol=1e-10, atol=1e-13)
        assert slope(f, end).norm() < 1e-8


def test_clients_differ_as_told_and_seeds_repeat():
    def at_rest(case):
        x = case.problem.start["x"]
        a, y = all_rows(case)
        z = torch.tanh((a @ x[:, :, None])[..., 0])
        g = torch.einsum("nr,nrd->nd", (z - y) * (1 - z * z), a) / y.shape[1]
        return float((g.square().sum(1)).mean())

    apart = [at_rest(nr.unit(2, tilt, far=False)) for tilt in (0.0, 0.5)]
    assert apart[0] < 0.02 < 0.05 < apart[1]
    assert at_rest(nr.unit(2, far=False, same=True)) < 1e-16
    twice = [nr.unit(2, seed=s).problem.batches(70)[0] for s in (0, 0, 1)]
    assert torch.equal(twice[0], twice[1])
    assert not torch.equal(twice[0], twice[2])


# the runs


def by_hand(case, setting, rule, looks=False):
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
        z = np.tanh(np.einsum("nbd,nd->nb", a, x))
        g = np.einsum("nb,nbd->nd", (z - y) * (1 - z**2), a) / y.shape[1]
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
    (nr.sgd, lambda g, state, W: g, nr.ALL_AT_ONCE._replace(rounds=3, inner_steps=4)),
    (nr.predictable, predictable_rule, nr.BY_BLOCKS._replace(rounds=3, inner_steps=4)),
])  # fmt: skip
def test_methods_are_plain_loops(method, rule, setting):
    case = nr.unit(2, tilt=0.5, clients=4, rows=6, batch=3, d=5, seed=3)
    found, (full, late) = method(case, setting), by_hand(case, setting, rule)
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
        return ra.Points(DECADES, ra.Squares(values, values, values), 3.0)

    return ra.together(of(400 / 3 + 6), of(6.0))


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

    laws = nr.laws(nr.lengthened(nr.pair(0.5), (4, 32, 256), nr.ALL_AT_ONCE, slower))
    assert laws["longest"].power_high < 0.42
    assert ra.bound_of(laws).verdict == "fails at entry 1"


# the claim


@pytest.mark.slow
def test_deca_stalls_where_the_others_do_not():  # they: test_table.py, which runs the examples
    broken = nr.broken()
    assert broken.verdict == "fails at entry 1"
    assert (broken.lhs[::3] > -0.4).all()
    assert (broken.lhs[1::3] > 5e-4).all()  # the floor


# edges and bad input


def test_one_of_everything():
    case = nr.unit(1, clients=1, rows=1, batch=1, d=1)
    one = nr.sgd(case, nr.ALL_AT_ONCE._replace(rounds=1, inner_steps=1))
    assert (
        one.full
        == one.late
        == pytest.approx(case.gradient(case.problem.start["x"][None])[0, 0] ** 2)
    )
    alone = nr.predictable(case, nr.BY_BLOCKS._replace(blocks=1, rounds=1, inner_steps=2))
    assert np.isfinite(alone.full).all()


@cases(("call", "message"), [
    (lambda: nr.unit(0), "seeds = 0 cannot be used: it must be a whole number from 1 up"),
    (lambda: nr.unit(1, rows=0), "rows = 0 cannot be used"),
    (lambda: nr.unit(1, tilt=-1.0), "tilt = -1.0 cannot be used: it must be 0 or more"),
    (lambda: nr.unit(1, noise=-1.0), "noise = -1.0 cannot be used: it must be 0 or more"),
    (lambda: nr.sgd(nr.unit(1), nr.BY_BLOCKS), "blocks = 2 cannot be used: it must be 1: D-SGD trains all"),
    (lambda: nr.predictable(nr.unit(1, d=2), nr.BY_BLOCKS._replace(blocks=3)), "blocks = 3 cannot be used: it must be 1 to 2"),
])  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(BadInput, match=message):
        call()
