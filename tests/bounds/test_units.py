"""Units that are not convex: closed forms against autograd, what theorems ask of them, how clients differ, bad input."""

import numpy as np
import pytest
import torch
from cases import cases

from deca_lab.algorithm.stacking import Layout
from deca_lab.bounds import rates as ra
from deca_lab.bounds import units as un
from deca_lab.errors import BadInput

KINDS = pytest.mark.parametrize("kind", [un.TANH, un.LOGISTIC], ids=["tanh", "logistic"])


def mean_loss(case, rows, x):
    """f at x (d,) by the problem's own differentiable loss: the mean over all clients of a seed."""
    batch = torch.from_numpy(rows.a), torch.from_numpy(rows.y)
    every = {"x": x.expand(len(rows.a), -1)}
    return torch.vmap(case.problem.loss)(every, batch).mean()


@KINDS
def test_closed_forms_are_those_of_autograd(kind):
    case = un.unit(2, tilt=0.5, clients=3, rows=5, batch=4, d=3, kind=kind)
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
        where = Layout((blocks[k].name,), ((columns.stop - columns.start,),))
        assert torch.equal(cut.exact(x[:, columns], where, rest, batch)[1], g[:, columns])


def test_the_losses_are_those_of_their_formulas():
    u, y = np.array([[-40.0, -0.3, 1.7, 40.0]]), np.array([[1.0, -1.0, 1.0, -1.0]])
    np.testing.assert_allclose(un.TANH.sides(u, y)[0], (np.tanh(u) - y) ** 2 / 2)
    np.testing.assert_allclose(un.LOGISTIC.sides(u, y)[0], np.log1p(np.exp(-y * u)))
    x = torch.tensor([0.5, -2.0], dtype=torch.float64)
    case = un.unit(1, clients=1, rows=1, batch=1, d=2, kind=un.LOGISTIC)
    nothing = torch.zeros(1, 2, dtype=x.dtype), torch.ones(1, dtype=x.dtype)
    folded = 0.5 * (0.25 / 1.25 + 4 / 5)
    assert float(case.problem.loss({"x": x}, nothing)) == pytest.approx(np.log(2) + folded)


@KINDS
def test_f_is_not_convex_at_the_start_and_rests_at_the_solution(kind):
    far, near = (un.unit(3, 0.5, far=far, kind=kind) for far in (True, False))
    for s in range(3):
        rows = un.rows_of(s, 0.5, kind=kind)
        start, end = (case.problem.start["x"][8 * s] for case in (far, near))
        np.testing.assert_array_equal([start, end], [rows.start, rows.solution])
        for x, least in ((start, -np.inf), (end, 0.1)):
            leaf = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(mean_loss(far, rows, leaf), leaf)
            got = far.gradient(torch.stack([x] * 3)[None])[0, s]
            torch.testing.assert_close(got, slope, rtol=1e-10, atol=1e-13)
            bends = torch.autograd.functional.hessian(lambda p, r=rows: mean_loss(far, r, p), x)
            np.testing.assert_allclose(
                un.hessian(rows, x.numpy(), kind), bends, rtol=1e-9, atol=1e-12
            )
            assert torch.linalg.eigvalsh(bends).min() > least
        assert np.linalg.eigvalsh(un.hessian(rows, rows.start, kind))[0] < -0.1
        assert slope.norm() < 1e-8


@KINDS
def test_what_the_theorems_ask_for_holds_everywhere_and_is_not_far_off(kind):
    rows, rng, seen = un.rows_of(0, 0.5, kind=kind), np.random.default_rng(4), []
    most = un.limits(rows, kind)
    for spread in (0.0, 0.3, 1.0, 3.0, 30.0):
        for i in range(8):
            alone, x = (
                un.Rows(rows.a[i : i + 1], rows.y[i : i + 1], *rows[2:]),
                spread * rng.standard_normal(8),
            )
            bent = np.abs(np.linalg.eigvalsh(un.hessian(alone, x, kind))).max()
            losses, g = un._at(kind, x[None, :, None], rows.a[i, :, None], rows.y[i, :, None, None])
            assert losses.min() >= 0
            seen.append((bent, np.linalg.norm(g, axis=1).max()))  # of each row alone: of any batch
    assert (np.array(seen) <= np.array(most) * (1 + 1e-9)).all()  # attained at 0, but for rounding
    assert (np.max(seen, 0) > np.array(most) / [3, 8]).all()


@KINDS
def test_noise_is_unbiased_and_independent_between_clients(kind):
    case, rows = un.unit(1, 0.5, kind=kind), un.rows_of(0, 0.5, kind=kind)
    x = case.problem.start["x"].numpy()
    exact = un._at(kind, x[:, :, None], rows.a, rows.y[:, :, None])[1][:, :, 0]
    noise = (
        np.stack([case.problem.arrays(x, case.problem.batches(k))[1] for k in range(2000)]) - exact
    )
    deviation = noise.std(0)
    assert (np.abs(noise.mean(0)) < 4.5 * deviation / 2000**0.5).all()
    together = np.corrcoef(noise[:, :, 0].T) - np.eye(8)
    assert np.abs(together).max() < 0.1
    assert np.abs((noise[1:] * noise[:-1]).mean(0) / deviation**2).max() < 0.1


@KINDS
def test_clients_differ_as_told_and_seeds_repeat(kind):
    def at_rest(case, rows):
        x = case.problem.start["x"].numpy()
        g = un._at(kind, x[:, :, None], rows.a, rows.y[:, :, None])[1]
        return float(np.square(g).sum(1).mean())

    apart = [
        at_rest(un.unit(1, t, far=False, kind=kind), un.rows_of(0, t, kind=kind))
        for t in (0.0, 0.5)
    ]
    assert apart[0] < 0.025 < 0.05 < apart[1]
    same = un.unit(1, far=False, same=True, kind=kind), un.rows_of(0, same=True, kind=kind)
    assert at_rest(*same) < 1e-16
    twice = [un.unit(2, seed=s, kind=kind).problem.batches(70)[0] for s in (0, 0, 1)]
    assert torch.equal(twice[0], twice[1])
    assert not torch.equal(twice[0], twice[2])


def test_noise_is_what_its_kind_says():
    clean, dirty = (
        un.rows_of(0, rows=4000, noise=noise, kind=un.LOGISTIC).y for noise in (0.0, 0.1)
    )
    assert set(np.unique(clean)) == {-1.0, 1.0}
    assert np.mean(clean != dirty) == pytest.approx(0.1, abs=0.01)
    clean, dirty = (un.rows_of(0, noise=noise).y for noise in (0.0, 0.3))
    np.testing.assert_allclose(np.abs(clean - dirty), 0.3)


@cases(("call", "message"), [
    (lambda: un.unit(0), "seeds = 0 cannot be used: it must be a whole number from 1 up"),
    (lambda: un.unit(1, rows=0), "rows = 0 cannot be used"),
    (lambda: un.unit(1, tilt=-1.0), "tilt = -1.0 cannot be used: it must be 0 or more"),
    (lambda: un.unit(1, noise=-1.0), "noise = -1.0 cannot be used: it must be 0 or more"),
    (lambda: un.unit(1, noise=1.5, kind=un.LOGISTIC), "noise = 1.5 cannot be used: it must be at most 1, a share"),
])  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(BadInput, match=message):
        call()
