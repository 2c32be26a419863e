"""Exercises of lesson 6: adapt then combine, and one inner step of DECA as a whole."""

import numpy as np
import torch
from torch import Tensor

from deca_lab.algorithm import moments as mo
from deca_lab.algorithm.blocks import whole
from deca_lab.algorithm.loop import Recipe, begin, plan, train
from deca_lab.algorithm.optimisers import Optimiser, OptState, adam, sgd
from deca_lab.algorithm.problems import Problem
from deca_lab.course.exercises.exercise import Exercise, Mistake
from deca_lab.course.exercises.lesson_00 import DIRECTED
from deca_lab.course.exercises.lesson_05 import adam_direction, feed_back
from deca_lab.mixing.topology import topology

Three = tuple[Tensor, Tensor, Tensor]  # X, m and v (N, D)
A1, A2, EPS, B1, B2 = 0.9, 0.999, 1e-8, 0.99, 0.999


def _drawn(seed: int, shape: tuple[int, int], shift: float = 0.0) -> Tensor:
    return torch.from_numpy(
        np.random.default_rng([seed, 0xDECA]).standard_normal(shape).round(2) + shift
    )


FIVE = torch.from_numpy(DIRECTED)
PATH = torch.from_numpy(topology("path", 5).at(0))
X, G, M, V = (
    _drawn(0, (5, 3)),
    _drawn(1, (5, 3)),
    _drawn(2, (5, 3)) / 10,
    _drawn(3, (5, 3)).square() / 50 + 0.001,
)


def _stepped(
    optimiser: Optimiser, W: Tensor, X: Tensor, G: Tensor, moments: OptState, lr: float
) -> tuple[Tensor, OptState]:
    """Return X and the optimiser's state after one inner step of the library's loop, the first of two of a visit."""
    problem = Problem(
        {"x": X},
        lambda params, batch: params["x"].sum(),
        lambda step: G,
        exact=lambda x, where, rest, batch: (torch.zeros(len(x)), G.clone()),
    )
    laid = plan(
        problem, whole(["x"]), topology(W.numpy()), Recipe(1, 2, lambda step: lr, optimiser)
    )
    state, _ = next(train(laid, begin(laid)._replace(moments={0: moments})))
    return state.blocks[0], state.moments[0]


def adapt_then_combine(W: Tensor, X: Tensor, D: Tensor, lr: float) -> Tensor:
    """Return the models X (N, D) after a step along the directions D (N, D) and a mixing with W (N, N)."""
    return _stepped(sgd(), W, X, D, sgd().init(X), lr)[0]


def deca_step(
    W: Tensor,
    X: Tensor,
    G: Tensor,
    m: Tensor,
    v: Tensor,
    steps: int,
    lr: float,
    a1: float = A1,
    a2: float = A2,
    eps: float = EPS,
    b1: float = B1,
    b2: float = B2,
) -> Three:
    """Return X, m and v (N, D) after one inner step of DECA with gradients G; the moments held `steps` gradients before."""
    feedback = mo.Feedback(mo.printed, mo.raw, b1, b2)
    x, fed = _stepped(adam(mo.Adam(a1, a2, eps), feedback), W, X, G, mo.Moments(m, v, steps), lr)
    assert isinstance(fed, mo.Moments)
    return x, fed.m, fed.v


def _adapted(X: Tensor, G: Tensor, m: Tensor, v: Tensor, steps: int, lr: float) -> Three:
    """Return x+, m+ and v+."""
    m, v = A1 * m + (1 - A1) * G, A2 * v + (1 - A2) * G * G
    return X - lr * adam_direction(m, v, steps + 1, A1, A2, EPS), m, v


def _fed(x_new: Tensor, m: Tensor, v: Tensor, h: Tensor) -> Three:
    return (x_new, *feed_back(m, v, h, B1, B2))


def _from_adapted(
    W: Tensor, X: Tensor, G: Tensor, m: Tensor, v: Tensor, steps: int, lr: float
) -> Three:
    x, m, v = _adapted(X, G, m, v, steps, lr)
    return _fed(W @ x, m, v, W @ x - x)


def _downhill(
    W: Tensor, X: Tensor, G: Tensor, m: Tensor, v: Tensor, steps: int, lr: float
) -> Three:
    x, m, v = _adapted(X, G, m, v, steps, lr)
    return _fed(W @ x, m, v, X - W @ x)


def _not_fed(W: Tensor, X: Tensor, G: Tensor, m: Tensor, v: Tensor, steps: int, lr: float) -> Three:
    x, m, v = _adapted(X, G, m, v, steps, lr)
    return W @ x, m, v


def _fed_into_old(
    W: Tensor, X: Tensor, G: Tensor, m: Tensor, v: Tensor, steps: int, lr: float
) -> Three:
    x = _adapted(X, G, m, v, steps, lr)[0]
    return _fed(W @ x, m, v, W @ x - X)


def _alone(W: Tensor, X: Tensor, G: Tensor, m: Tensor, v: Tensor, steps: int, lr: float) -> Three:
    x, m, v = _adapted(X, G, m, v, steps, lr)
    return _fed(x, m, v, x - X)


def _combined_first(
    W: Tensor, X: Tensor, G: Tensor, m: Tensor, v: Tensor, steps: int, lr: float
) -> Three:
    x, m, v = _adapted(X, G, m, v, steps, lr)
    x = W @ X + x - X
    return _fed(x, m, v, x - X)


def _moments_mixed(
    W: Tensor, X: Tensor, G: Tensor, m: Tensor, v: Tensor, steps: int, lr: float
) -> Three:
    x, m, v = _adapted(X, G, m, v, steps, lr)
    return _fed(W @ x, W @ m, W @ v, W @ x - X)


def _old_count(
    W: Tensor, X: Tensor, G: Tensor, m: Tensor, v: Tensor, steps: int, lr: float
) -> Three:
    _, m, v = _adapted(X, G, m, v, steps, lr)
    x = W @ (X - lr * adam_direction(m, v, steps, A1, A2, EPS))
    return _fed(x, m, v, x - X)


def _old_moments(
    W: Tensor, X: Tensor, G: Tensor, m: Tensor, v: Tensor, steps: int, lr: float
) -> Three:
    x = W @ (X - lr * adam_direction(m, v, steps, A1, A2, EPS))
    _, m, v = _adapted(X, G, m, v, steps, lr)
    return _fed(x, m, v, x - X)


ADAPT_THEN_COMBINE = Exercise(
    name="adapt_then_combine",
    about="step",
    solution=adapt_then_combine,
    cases={
        "a W that is not symmetric": (FIVE, X, G, 0.3),
        "a path of five clients": (PATH, G, X, 0.1),
    },
    mistakes=(
        Mistake(
            lambda W, X, D, lr: W @ X - lr * D,
            "you combined first and adapted then: here the fresh step stays at home. "
            "DECA mixes it too.",
        ),
        Mistake(lambda W, X, D, lr: X - lr * D, "you adapted, but nobody mixed."),
        Mistake(
            lambda W, X, D, lr: W @ (X + lr * D),
            "the sign is turned: a step goes against the gradient.",
        ),
        Mistake(
            lambda W, X, D, lr: X - lr * W @ D,
            "you mixed the directions only; the models that differ are to be mixed.",
        ),
        Mistake(
            lambda W, X, D, lr: W @ X - D * lr * W.diagonal()[:, None],
            "you mixed the old models and stepped on your own: "
            "the neighbours' fresh steps are missing.",
        ),
        Mistake(lambda W, X, D, lr: W.T @ (X - lr * D), "rows and columns of W are exchanged."),
        Mistake(lambda W, X, D, lr: W @ (X - D), "the learning rate is missing."),
    ),
    hints=(
        "Adapt: every client steps on its own, X - lr D. Combine: those are mixed, as in lesson 0.",
        "W @ (...), with the whole adapted model inside the brackets.",
    ),
)
DECA_STEP = Exercise(
    name="deca_step",
    about="inner step of DECA",
    solution=deca_step,
    cases={
        "a W that is not symmetric": (FIVE, X, G, M, V, 3, 0.05),
        "a path of five clients": (PATH, G, X, -M, V, 1, 0.2),
    },
    mistakes=(
        Mistake(
            _from_adapted,
            "h was taken from the adapted model x+. As printed it is x_new - x, from the model before the "
            "step, so that it holds the step and the mixing.",
        ),
        Mistake(
            _downhill,
            "the sign of h is turned. As printed it is x_new - x; the opposite is the library's option "
            '"downhill".',
        ),
        Mistake(_not_fed, "X is right, but nothing was fed back into m and v."),
        Mistake(
            _fed_into_old,
            "the moments have lost the gradient: feed h into m+ and v+, not into those before the step.",
        ),
        Mistake(_alone, "you adapted and fed back, but nobody mixed."),
        Mistake(
            _combined_first,
            "you combined first and adapted then. Eq. 7 mixes the adapted models x+.",
        ),
        Mistake(
            _moments_mixed,
            "you mixed the moments as well. In DECA they stay at home; only the active block travels.",
        ),
        Mistake(
            _old_count,
            "the bias correction counts too few: with this gradient the moments hold steps + 1 of them.",
        ),
        Mistake(
            _old_moments,
            "the step was taken with the moments before this gradient. Update m and v first, then step.",
        ),
    ),
    hints=(
        "Four lines: moments m+, v+ of G; adapt with lesson 5's direction; combine with W; feed back. The bias correction counts "
        "steps + 1.",
        "h = x_new - X, from the model before the step, and it goes into m+ and v+ with b1 and b2.",
        "Return three tensors: x_new, m, v.",
    ),
)
EXERCISES = (ADAPT_THEN_COMBINE, DECA_STEP)
