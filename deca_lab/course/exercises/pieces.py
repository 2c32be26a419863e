"""The learner's own pieces, from gossip to DECA: each is written in its lesson and put to work in the next ones."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from deca_lab.algorithm.blocks import sequence, visits
from deca_lab.algorithm.stacking import consensus_distance
from deca_lab.course.exercises.exercise import Exercise, Mistake
from deca_lab.course.exercises.lesson_00 import DIRECTED, mix
from deca_lab.course.exercises.lesson_02 import KITE, metropolis
from deca_lab.course.exercises.lesson_03 import HESSIANS, MODELS, SLOPES
from deca_lab.course.exercises.lesson_06 import deca_step
from deca_lab.course.exercises.lesson_07 import SQUARE, WIDE
from deca_lab.mixing.graphs import Array

Blocks = tuple[Tensor, ...]  # the models of all clients, (N, D_k) a block
Columns = tuple[tuple[int, ...], ...]  # the columns of each block
Step = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, float], tuple[Tensor, Tensor, Tensor]]
Gradient = Callable[[int, Blocks, int], Tensor]


def gossip(W: Array, X: Array, mixings: int) -> Array:
    """Return the disagreement ||X - Xbar|| (mixings + 1,) before the first and after each mixing of X (N, D) with W."""
    curve = [X]
    for _ in range(mixings):
        curve.append(mix(W, curve[-1]))
    return np.array([(len(X) * consensus_distance(torch.from_numpy(x))) ** 0.5 for x in curve])


def _curve(W: Array, X: Array, mixings: int, measure: Callable[[Array], Array]) -> Array:
    powers = (np.linalg.matrix_power(W, k) for k in range(mixings + 1))
    return np.array([np.linalg.norm(measure(power @ X)) for power in powers])


GOSSIP = Exercise(
    name="gossip",
    about="gossip",
    solution=gossip,
    cases={
        "a W that is not symmetric": (DIRECTED, MODELS.numpy()[[0, 1, 2, 3, 0]], 6),
        "a triangle with a tail": (metropolis(KITE), np.arange(10.0).reshape(5, 2) ** 2, 4),
    },
    mistakes=(
        Mistake(
            lambda W, X, k: _curve(W, X, k, lambda x: x - x.mean(1, keepdims=True)),
            "you took means over the wrong axis: a client is a row, so the mean model is X.mean(0).",
        ),
        Mistake(
            lambda W, X, k: _curve(W, X, k, lambda x: x - x.mean()),
            "you subtracted the mean of all numbers; the mean model has an entry a column.",
        ),
        Mistake(lambda W, X, k: _curve(W, X, k, lambda x: x), "the mean model is not taken off."),
        Mistake(
            lambda W, X, k: gossip(W, X, k)[1:],
            "the disagreement before the first mixing is missing.",
        ),
        Mistake(
            lambda W, X, k: gossip(W, X, k) ** 2, "these are squared lengths; take the root."
        ),
        Mistake(
            lambda W, X, k: gossip(W, X, k) / len(X) ** 0.5,
            "you divided by the clients. Here the length of the whole matrix is asked for.",
        ),
        Mistake(
            lambda W, X, k: gossip(W.T, X, k), "rows and columns of W are exchanged."
        ),
        Mistake(
            lambda W, X, k: gossip(W, X, k)[[0] + [1] * k],
            "you mixed the first X again and again. Each mixing starts from what the last one left.",
        ),
    ),
    hints=(
        "Keep X in a variable that you replace by its mixed version, and write down a number each time.",
        "The number is np.linalg.norm(X - X.mean(0)), once before the loop and once after each mixing.",
    ),
)  # fmt: skip


def descend(W: Tensor, A: Tensor, b: Tensor, X: Tensor, lr: float, steps: int) -> Tensor:
    """Return the models X (N, D) after steps of decentralised gradient descent on x' A_i x / 2 - b_i' x."""
    for _ in range(steps):
        X = W @ (X - lr * (torch.einsum("nij,nj->ni", A, X) - b))
    return X


def _descended(
    step: Callable[[Tensor, Tensor], Tensor], X: Tensor, A: Tensor, b: Tensor, steps: int
) -> Tensor:
    for _ in range(steps):
        X = step(X, torch.einsum("nij,nj->ni", A, X) - b)
    return X


FOUR = torch.from_numpy(
    np.array([[0.5, 0.3, 0.0, 0.2], [0.0, 0.6, 0.4, 0.0], [0.3, 0.1, 0.6, 0.0], [0.2, 0, 0, 0.8]])
)
DESCEND = Exercise(
    name="descend",
    about="decentralised gradient descent",
    solution=descend,
    cases={
        "two steps": (FOUR, HESSIANS, SLOPES, MODELS, 0.1, 2),
        "five short ones": (FOUR, HESSIANS, SLOPES, -MODELS, 0.02, 5),
    },
    mistakes=(
        Mistake(
            lambda W, A, b, X, lr, k: _descended(lambda x, g: x - lr * g, X, A, b, k),
            "nobody mixed: every client went down its own hill.",
        ),
        Mistake(
            lambda W, A, b, X, lr, k: _descended(lambda x, g: W @ x - lr * g, X, A, b, k),
            "you mixed the old models and stepped then. The step is to be mixed too.",
        ),
        Mistake(
            lambda W, A, b, X, lr, k: _descended(lambda x, g: W @ (x + lr * g), X, A, b, k),
            "the sign is turned: you climb.",
        ),
        Mistake(
            lambda W, A, b, X, lr, k: _descended(lambda x, g: W @ x - lr * W @ W @ g, X, A, b, k),
            "the gradients were mixed twice.",
        ),
        Mistake(
            lambda W, A, b, X, lr, k: descend(W.T, A, b, X, lr, k),
            "rows and columns of W are exchanged.",
        ),
        Mistake(
            lambda W, A, b, X, lr, k: descend(W, A.mean(0).expand_as(A), b, X, lr, k),
            "you used the mean of all A; a client knows its own only.",
        ),
        Mistake(
            lambda W, A, b, X, lr, k: descend(W, A, b, X, lr, 1),
            "this is one step, or the first X was used at every step.",
        ),
    ),
    hints=(
        "Two lines in a loop: the gradients (N, D) of all clients, each at its own row, then adapt and mix.",
        "The gradients are torch.einsum('nij,nj->ni', A, X) - b; adapt is X - lr * G.",
        "Mix what was adapted: the new X is W @ (X - lr * G).",
    ),
)  # fmt: skip


def block_descent(
    A: Tensor, b: Tensor, x: Tensor, blocks: Columns, rounds: int, inner_steps: int, lr: float
) -> Tensor:
    """Return x (D,) after a block-wise descent on x' A x / 2 - b' x: one block's columns move, the others rest."""
    for visit in visits(len(blocks), rounds, inner_steps, sequence):
        columns, x = list(blocks[visit.block]), x.clone()
        for _ in range(inner_steps):
            x[columns] -= lr * (A @ x - b)[columns]
    return x


def _stale(A: Tensor, b: Tensor, x: Tensor, blocks: Columns, T: int, R: int, lr: float) -> Tensor:
    for _ in range(T):
        for columns in map(list, blocks):
            g, x = A @ x - b, x.clone()
            x[columns] -= R * lr * g[columns]
    return x


def _blind(A: Tensor, b: Tensor, x: Tensor, blocks: Columns, T: int, R: int, lr: float) -> Tensor:
    """Return what blocks give that do not see one another."""
    apart = torch.zeros_like(A)
    for columns in map(list, blocks):
        apart[np.ix_(columns, columns)] = A[np.ix_(columns, columns)]
    return block_descent(apart, b, x, blocks, T, R, lr)


def _whole(A: Tensor, b: Tensor, x: Tensor, blocks: Columns, T: int, R: int, lr: float) -> Tensor:
    return block_descent(A, b, x, (tuple(range(len(x))),), T, R * len(blocks), lr)


TWO_BLOCKS: Columns = ((0, 2), (1,))
BLOCK_DESCENT = Exercise(
    name="block_descent",
    about="block loop",
    solution=block_descent,
    cases={
        "two blocks": (HESSIANS[2], SLOPES[2], MODELS[2], TWO_BLOCKS, 2, 3, 0.1),
        "three blocks": (HESSIANS[1], SLOPES[1], MODELS[3], ((1,), (2,), (0,)), 3, 2, 0.05),
    },
    mistakes=(
        Mistake(_whole, "all columns moved at every step; only the active block's may."),
        Mistake(
            _stale,
            "the gradient was taken once a visit. Every inner step needs a new one, at the x of that step.",
        ),
        Mistake(
            _blind,
            "the blocks do not see one another. A gradient is taken at the whole x; of it the "
            "active block's columns are used.",
        ),
        Mistake(
            lambda A, b, x, blocks, T, R, lr: block_descent(A, b, x, blocks, 1, T * R, lr),
            "rounds stand inside the blocks. A round visits every block once, then the next round begins.",
        ),
        Mistake(
            lambda A, b, x, blocks, T, R, lr: block_descent(A, b, x, blocks, T * R, 1, lr),
            "you moved on to the next block after each step; a visit lasts inner_steps of them.",
        ),
        Mistake(
            lambda A, b, x, blocks, T, R, lr: block_descent(A, b, x, blocks, 1, R, lr),
            "this is the first round only.",
        ),
    ),
    hints=(
        "Three loops: rounds, then blocks, then inner steps.",
        "Inside: g = A @ x - b at the whole x. Copy x, and subtract lr * g in the block's columns alone.",
    ),
)  # fmt: skip


def deca(
    step: Step, gradient: Gradient, W: Tensor, X: Blocks, rounds: int, inner_steps: int, lr: float
) -> tuple[Blocks, ...]:
    """Return the blocks X after each inner step of DECA: `step` is one inner step, gradient(k, X, s) block k's at step s."""
    path, X = [], tuple(X)
    for visit in visits(len(X), rounds, inner_steps, sequence):
        k, m, v = visit.block, torch.zeros_like(X[visit.block]), torch.zeros_like(X[visit.block])
        for r in range(inner_steps):
            x, m, v = step(W, X[k], gradient(k, X, visit.first + r), m, v, r, lr)
            X = (*X[:k], x, *X[k + 1 :])
            path.append(X)
    return tuple(path)


def _coupled(k: int, X: Blocks, step: int) -> Tensor:
    """Return the gradient of block k of quadratics whose blocks are coupled and whose wishes change with the step."""
    x = torch.cat(tuple(X), 1)
    g = torch.einsum("nij,nj->ni", HESSIANS, x) - SLOPES * (1 + step)
    return g[:, :2] if k == 0 else g[:, 2:]


def _other(
    step: Step, gradient: Gradient, W: Tensor, X: Blocks, rounds: int, inner_steps: int, lr: float,
    *, keep: bool = False, old: bool = False, local: bool = False, late: int = 0,
) -> tuple[Blocks, ...]:  # fmt: skip
    """Return DECA with a mistake: moments kept, blocks of the start, steps counted within the visit, counts off by one."""
    begun = tuple(X)
    path: list[Blocks] = []
    store = {k: (torch.zeros_like(x), torch.zeros_like(x), 0) for k, x in enumerate(begun)}
    for visit in visits(len(begun), rounds, inner_steps, sequence):
        k = visit.block
        m, v, t = store[k] if keep else (torch.zeros_like(X[k]), torch.zeros_like(X[k]), 0)
        for r in range(inner_steps):
            seen = (*begun[:k], X[k], *begun[k + 1 :]) if old else X
            g = gradient(k, seen, r if local else visit.first + r)
            x, m, v = step(W, X[k], g, m, v, t + late, lr)
            t, X = t + 1, (*X[:k], x, *X[k + 1 :])
            path.append(X)
        store[k] = (m, v, t)
    return tuple(path)


DECA = Exercise(
    name="deca",
    about="DECA",
    solution=deca,
    cases={
        "two rounds over two blocks": (
            deca_step, _coupled, FOUR, (MODELS[:, :2], MODELS[:, 2:]), 2, 3, 0.05,
        ),
        "three rounds of one step": (
            deca_step, _coupled, FOUR, (SLOPES[:, :2], SLOPES[:, 2:]), 3, 1, 0.1,
        ),
    },
    mistakes=(
        Mistake(
            lambda *a: (deca(*a)[-1],) * len(deca(*a)),
            "every entry is the last one: you wrote down the same list again and again. Write down a copy, list(X).",
        ),
        Mistake(
            lambda *a: _other(*a, keep=True),
            "the moments live on from visit to visit. They start at zero, and their count at 0, when a visit begins.",
        ),
        Mistake(
            lambda *a: _other(*a, old=True),
            "the gradient saw the other blocks as they were at the start. It is taken at the models of this step.",
        ),
        Mistake(
            lambda *a: _other(*a, local=True),
            "`gradient` wants the step of the whole run, so that every batch is a new one; you gave that of the visit.",
        ),
        Mistake(
            lambda *a: _other(*a, late=1),
            "the bias correction counts one too many: before its first step a visit has seen 0 gradients.",
        ),
        Mistake(
            lambda s, g, W, X, T, R, lr: deca(s, g, W, X, 1, T * R, lr),
            "rounds stand inside the blocks. A round visits every block once.",
        ),
    ),
    hints=(
        "Three loops, as in block_descent: rounds, blocks, inner steps. m, v and the count r start with the visit.",
        "Inside: X[k], m, v = step(W, X[k], gradient(k, X, s), m, v, r, lr), then s += 1.",
        "After each inner step append list(X), a copy: X itself goes on changing.",
    ),
)  # fmt: skip


def factor_gradients(G: Tensor, A: Tensor, B: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Return the gradients of A (r, in) and B (out, r), where the weight W0 + alpha / r B A has the gradient G (out, in)."""
    a, b = A.clone().requires_grad_(), B.clone().requires_grad_()
    loss = (G * (alpha / len(A) * b @ a)).sum()
    by_a, by_b = torch.autograd.grad(loss, (a, b))
    return by_a, by_b


FACTOR_GRADIENTS = Exercise(
    name="factor_gradients",
    about="chain rule of LoRA",
    solution=factor_gradients,
    cases={
        "a wide weight": (torch.ones(3, 4, dtype=torch.float64).cumsum(1), *WIDE, 6.0),
        "a square one": (torch.ones(4, 4, dtype=torch.float64).cumsum(0), *SQUARE, 2.0),
    },
    mistakes=(
        Mistake(
            lambda G, A, B, alpha: (B.T @ G, G @ A.T),
            "the scale alpha / r is missing, in both.",
        ),
        Mistake(
            lambda G, A, B, alpha: (alpha * B.T @ G, alpha * G @ A.T),
            "the scale is alpha / r, not alpha; r is the number of rows of A.",
        ),
        Mistake(
            lambda G, A, B, alpha: factor_gradients(G, A, B, alpha)[::-1],
            "the two are exchanged: A's gradient comes first, and has A's shape.",
        ),
        Mistake(
            lambda G, A, B, alpha: tuple(-g for g in factor_gradients(G, A, B, alpha)),
            "the sign is turned: this is the way down.",
        ),
    ),
    hints=(
        "The loss sees A through B A only. Change A by a little dA: the weight changes by alpha / r B dA.",
        "The gradient of A has A's shape (r, in). Which product of B, transposed or not, and G (out, in) has it?",
        "For A it is alpha / r B' G, for B it is alpha / r G A'.",
    ),
)  # fmt: skip
EXERCISES = (GOSSIP, DESCEND, BLOCK_DESCENT, DECA, FACTOR_GRADIENTS)
