"""The quadratics: their gradient is A x - b to the last digits, their noise is what they say, and depends on the step alone."""

import numpy as np
import pytest
import torch
from cases import cases
from reference import EAGER

from deca_lab.algorithm import stacking
from deca_lab.algorithm.gradients import ENGINES, stacked
from deca_lab.algorithm.problems import Problem, quadratics
from deca_lab.errors import BadInput

N, D = 4, 5


def constants(n=N, d=D, seed=0):
    rng = np.random.default_rng(seed)
    roots = rng.standard_normal((n, d, d))
    A = roots @ roots.transpose(0, 2, 1) + np.eye(d)
    b, start = rng.standard_normal((2, n, d))
    return tuple(torch.from_numpy(v) for v in ((A + A.transpose(0, 2, 1)) / 2, b, start))


def gradient(problem, x, step=0, engine="stacked"):
    return ENGINES[engine](problem.loss)(
        x, stacking.layout(problem.start, ["x"]), {}, problem.batches(step)
    )


@pytest.mark.parametrize("engine", EAGER)
def test_value_and_gradient_are_exact(engine):
    A, b, start = constants()
    problem = quadratics(A, b, start)
    losses, g = gradient(problem, start, engine=engine)
    torch.testing.assert_close(g, torch.einsum("nij,nj->ni", A, start) - b, rtol=1e-13, atol=1e-13)
    want = [float(start[i] @ A[i] @ start[i] / 2 - b[i] @ start[i]) for i in range(N)]
    torch.testing.assert_close(
        losses, torch.tensor(want, dtype=torch.float64), rtol=1e-13, atol=1e-13
    )
    assert problem.clients == N


def test_the_gradient_vanishes_at_each_clients_own_minimum():
    A, b, start = constants(seed=1)
    _, g = gradient(quadratics(A, b, start), torch.linalg.solve(A, b))
    assert float(g.abs().max()) < 1e-12


def test_noise_has_the_stated_standard_deviation_in_each_coordinate_and_mean_zero():
    A, b, start = constants()
    problem = quadratics(A, b, start, noise=0.7, seed=3)
    _, exact = gradient(quadratics(A, b, start), start)
    xi = torch.stack(
        [b - problem.batches(s)[1] for s in range(4000)]
    )  # (steps, N, D), what g is off by
    for s in (0, 17):
        torch.testing.assert_close(
            gradient(problem, start, s)[1] - exact, xi[s], rtol=1e-12, atol=1e-12
        )
    torch.testing.assert_close(
        xi.std(0), torch.full((N, D), 0.7, dtype=torch.float64), rtol=0.06, atol=0
    )
    assert float(xi.mean(0).abs().max()) < 0.7 * 4.5 / np.sqrt(4000)
    flat = xi.reshape(4000, -1)
    assert (
        float((torch.corrcoef(flat.T) - torch.eye(N * D)).abs().max()) < 0.08
    )  # clients and coordinates are apart
    assert float(((flat[1:] * flat[:-1]).mean(0) / 0.49).abs().max()) < 0.08  # and so are the steps


def test_noise_is_a_pure_function_of_seed_and_step():
    A, b, start = constants()
    one, two, other = (quadratics(A, b, start, 0.3, seed) for seed in (1, 1, 2))
    drawn = [one.batches(s)[1] for s in (0, 1, 7)]
    torch.randn(10)
    np.random.default_rng(1).standard_normal(3)
    backwards = [two.batches(s)[1] for s in (7, 1, 0)][::-1]
    assert all(torch.equal(x, y) for x, y in zip(drawn, backwards, strict=True))
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], other.batches(0)[1])
    assert not torch.equal(drawn[0][0], drawn[0][1])


def test_without_noise_every_step_is_the_same_and_arguments_stay():
    A, b, start = constants()
    copies = [t.clone() for t in (A, b, start)]
    problem = quadratics(A, b, start)
    assert torch.equal(problem.batches(0)[1], problem.batches(99)[1])
    quadratics(A, b, start, 5.0).batches(3)
    assert all(torch.equal(x, y) for x, y in zip((A, b, start), copies, strict=True))


def test_dtype_follows_the_constants():
    A, b, start = (t.float() for t in constants())
    problem = quadratics(A, b, start, 0.1)
    losses, g = gradient(problem, start, 2)
    assert losses.dtype == g.dtype == torch.float32


@cases(
    "wrong",
    [
        lambda A, b, x: (A[:3], b, x),
        lambda A, b, x: (A[:, :4], b, x),
        lambda A, b, x: (A, b[:, :4], x),
        lambda A, b, x: (A, b, x[:3]),
        lambda A, b, x: (A, b, x[0]),
        lambda A, b, x: (A[0], b, x),
        lambda A, b, x: (A, b[0], x),
    ],
)
def test_shapes_that_do_not_fit_are_refused(wrong):
    with pytest.raises(BadInput, match=r"A, b, start = .* cannot be used: it must be of shapes"):
        quadratics(*wrong(*constants()))


def test_a_problem_counts_its_clients_whatever_its_parameters():
    assert (
        Problem({"s": torch.zeros(6)}, lambda p, b: p["s"], lambda s: torch.zeros(6)).clients == 6
    )


def test_the_closed_form_is_what_autograd_finds():
    A, b, start = constants()
    problem = quadratics(A, b, start, noise=0.3)
    where = stacking.layout(problem.start, ["x"])
    X = torch.randn(start.shape, dtype=start.dtype, generator=torch.Generator().manual_seed(3))
    batch = problem.batches(4)
    for found, wanted in zip(
        problem.exact(X, where, {}, batch), stacked(problem.loss)(X, where, {}, batch), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
