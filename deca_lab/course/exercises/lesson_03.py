"""Exercises of lesson 3: clients stacked on one axis, their distance from one another and their mean gradient."""

import torch
from torch import Tensor

from deca_lab.algorithm import stacking
from deca_lab.algorithm.gradients import stacked
from deca_lab.algorithm.problems import quadratics
from deca_lab.course.exercises.exercise import Exercise, Mistake

MODELS = torch.tensor(
    [[1.0, 2.0, 0.0], [3.0, -1.0, 0.5], [0.0, 4.0, 2.0], [2.5, 1.0, -3.0]], dtype=torch.float64
)
PAIR = torch.tensor([[0.1, 0.2], [0.3, -0.1]], dtype=torch.float64)
SLOPES = torch.tensor(
    [[1.0, 0.0, 2.0], [0.5, -1.0, 0.0], [0.0, 3.0, 1.0], [-2.0, 1.0, 1.0]], dtype=torch.float64
)
HESSIANS = torch.tensor(
    [[[2.0, 0.5 * i, 0.0], [0.5 * i, 1.0 + i, 0.2], [0.0, 0.2, 3.0 - 0.5 * i]] for i in range(4)],
    dtype=torch.float64,
)


def consensus_distance(X: Tensor) -> float:
    """Return (1/N) sum_i ||x_i - xbar||^2 of models X (N, D)."""
    return stacking.consensus_distance(X)


def mean_gradient(A: Tensor, b: Tensor, X: Tensor) -> Tensor:
    """Return the mean (d,) of the clients' gradients of x' A_i x / 2 - b_i' x, each at its own row of X (N, d)."""
    problem = quadratics(A, b, X)
    _, g = stacked(problem.loss)(X, stacking.layout(problem.start, ["x"]), {}, problem.batches(0))
    return g.mean(0)


def _gaps(X: Tensor) -> Tensor:
    return X - X.mean(0)


def _pulled(A: Tensor, X: Tensor) -> Tensor:
    return torch.einsum("nij,nj->ni", A, X)


CONSENSUS_DISTANCE = Exercise(
    name="consensus_distance",
    about="consensus distance",
    solution=consensus_distance,
    cases={"four clients": (MODELS,), "two clients": (PAIR,)},
    mistakes=(
        Mistake(
            lambda X: _gaps(X).square().sum(),
            "you summed over the clients; divide by their number N.",
        ),
        Mistake(
            lambda X: _gaps(X).square().mean(),
            "you divided by all N x D entries. Sum over the columns: a model's distance "
            "is a length, and only clients are averaged.",
        ),
        Mistake(
            lambda X: (_gaps(X).square().sum() / len(X)).sqrt(),
            "you took a root at the end; the consensus distance is a mean of squares.",
        ),
        Mistake(lambda X: _gaps(X).norm(dim=1).mean(), "you averaged lengths; square them first."),
        Mistake(
            lambda X: (X - X.mean()).square().sum() / len(X),
            "you subtracted the mean of all numbers. The mean model has an "
            "entry for each column: X.mean(0).",
        ),
        Mistake(
            lambda X: (X - X.mean(1, keepdim=True)).square().sum() / len(X),
            "you took means over the wrong axis: clients "
            "are axis 0, so the mean model is X.mean(0).",
        ),
        Mistake(
            lambda X: (X - X[0]).square().sum() / len(X),
            "you measured from client 0; measure from the mean model.",
        ),
        Mistake(lambda X: X.square().sum() / len(X), "you forgot to subtract the mean model."),
        Mistake(
            lambda X: X.var(0).sum(),
            "you divided by N - 1, as for a sample; these are all the clients there are.",
        ),
    ),
    hints=(
        "Clients are axis 0. The mean model is the mean over that axis, (D,), and broadcasts against X (N, D).",
        "Squares summed over columns, averaged over clients: (X - X.mean(0)).square().sum() / N.",
    ),
)
MEAN_GRADIENT = Exercise(
    name="mean_gradient",
    about="mean gradient",
    solution=mean_gradient,
    cases={
        "four clients": (HESSIANS, SLOPES, MODELS),
        "two of them": (HESSIANS[1:3], SLOPES[1:3], MODELS[1:3]),
    },
    mistakes=(
        Mistake(
            lambda A, b, X: A.mean(0) @ X.mean(0) - b.mean(0),
            "this is the gradient at the mean model. It is asked for the "
            "mean of gradients, each at the client's own model; they agree only in consensus, or with one A for all.",
        ),
        Mistake(
            lambda A, b, X: (_pulled(A, X) - b).sum(0),
            "you summed over the clients; take the mean.",
        ),
        Mistake(
            lambda A, b, X: (_pulled(A, X) + b).mean(0),
            "the sign of b is turned: the derivative of -b' x is -b.",
        ),
        Mistake(
            lambda A, b, X: _pulled(A, X).mean(0), "b is missing: the derivative of -b' x is -b."
        ),
        Mistake(
            lambda A, b, X: (_pulled(A, X) / 2 - b).mean(0),
            "the derivative of x' A x / 2 is A x, without the half: x stands in it twice.",
        ),
        Mistake(
            lambda A, b, X: (b - _pulled(A, X)).mean(0),
            "the whole sign is turned: this is the way down, minus the gradient.",
        ),
        Mistake(lambda A, b, X: _pulled(A, X)[0] - b[0], "this is the gradient of client 0 alone."),
    ),
    hints=(
        "One client's gradient at its own model is A_i x_i - b_i. Write the loop first.",
        "torch.einsum('nij,nj->ni', A, X) multiplies each client's matrix with its own model.",
        "Subtract b and take the mean over axis 0.",
    ),
)
EXERCISES = (CONSENSUS_DISTANCE, MEAN_GRADIENT)
