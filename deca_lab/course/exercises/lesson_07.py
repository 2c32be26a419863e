"""Exercises of lesson 7: what LoRA adds to a weight, and what averaging its factors apart gets wrong."""

import numpy as np
import torch
from torch import Tensor, nn

from deca_lab.bounds.factor_averaging import identity, random_factors
from deca_lab.course.exercises.exercise import Exercise, Mistake
from deca_lab.models.adapters import LoRA


def _one(seed: int, rank: int, inner: int, outer: int) -> tuple[Tensor, Tensor]:
    A, B = random_factors(1, rank, inner, outer, seed)
    return torch.from_numpy(A[0].round(2)), torch.from_numpy(B[0].round(2))


WIDE, SQUARE = _one(0, 2, 4, 3), _one(1, 3, 4, 4)
CLIENTS = tuple(torch.from_numpy(f.round(2)) for f in random_factors(4, 2, 5, 3, seed=2))
SHARES = torch.tensor([0.4, 0.3, 0.0, 0.3], dtype=torch.float64)
HALVES = torch.tensor([0.2, 0.8], dtype=torch.float64)


def lora_delta(A: Tensor, B: Tensor, alpha: float) -> Tensor:
    """Return what LoRA's factors A (r, in) and B (out, r) add to a weight (out, in)."""
    (rank, inner), outer = A.shape, len(B)
    base = nn.Linear(inner, outer, bias=False, dtype=A.dtype)
    nn.init.zeros_(base.weight)
    module = LoRA(base, rank, alpha, np.random.default_rng(0))
    module.lora_A.data, module.lora_B.data = A.clone(), B.clone()
    with torch.no_grad():
        delta: Tensor = module(torch.eye(inner, dtype=A.dtype)).T
    return delta


def interference(A: Tensor, B: Tensor, w: Tensor) -> Tensor:
    """Return sum_j w_j B_j A_j - (sum_j w_j B_j)(sum_j w_j A_j), (out, in), of A (N, r, in), B (N, out, r), shares w (N,)."""
    both = identity(A.numpy(), B.numpy(), w.repeat(len(w), 1).numpy())
    return torch.from_numpy(np.asarray(both.lhs)).reshape(len(w), B.shape[1], A.shape[2])[0]


def _mean(f: Tensor, w: Tensor) -> Tensor:
    return torch.einsum("n,nxy->xy", w, f)


def _equal(w: Tensor) -> Tensor:
    return torch.full_like(w, 1 / len(w))


LORA_DELTA = Exercise(
    name="lora_delta",
    about="merged update of LoRA",
    solution=lora_delta,
    cases={"rank 2": (*WIDE, 16.0), "a square weight and rank 3": (*SQUARE, 5.0)},
    mistakes=(
        Mistake(lambda A, B, alpha: B @ A, "the scale is missing: alpha / r."),
        Mistake(
            lambda A, B, alpha: alpha * B @ A,
            "you scaled by alpha; the scale is alpha / r, so that a larger rank does not "
            "mean larger steps.",
        ),
        Mistake(
            lambda A, B, alpha: B @ A * (alpha / len(B)),
            "you divided by the rows of B, the weight's outputs. The rank r is the number of rows of A.",
        ),
        Mistake(lambda A, B, alpha: B @ A / len(A), "you divided by the rank but forgot alpha."),
        Mistake(
            lambda A, B, alpha: B @ A * (len(A) / alpha),
            "the scale is upside down: it is alpha / r.",
        ),
        Mistake(
            lambda A, B, alpha: B @ A * (alpha / len(A) ** 0.5),
            "you divided by the root of the rank, as rsLoRA does; LoRA divides by the rank.",
        ),
        Mistake(
            lambda A, B, alpha: B @ A * (alpha / A.shape[1]),
            "you divided by the width of the layer. The rank is the number of rows of A.",
        ),
        Mistake(
            lambda A, B, alpha: -alpha / len(A) * B @ A, "the sign is turned: the update is added."
        ),
    ),
    hints=(
        "B (out, r) times A (r, in) gives (out, in); r is the number of rows of A.",
        "Scale the product by alpha / r.",
    ),
)
INTERFERENCE = Exercise(
    name="interference",
    about="interference of factors",
    solution=interference,
    cases={
        "a client that hears two others": (*CLIENTS, SHARES),
        "two clients": (CLIENTS[0][:2], CLIENTS[1][:2], HALVES),
    },
    mistakes=(
        Mistake(
            lambda A, B, w: _mean(B, w) @ _mean(A, w) - _mean(B @ A, w),
            "the sign is turned: mean of products minus product of means.",
        ),
        Mistake(
            lambda A, B, w: _mean(B, w) @ _mean(A, w),
            "this is the product of means, what a client has after averaging the "
            "factors apart. Subtract it from the mean of products.",
        ),
        Mistake(
            lambda A, B, w: _mean(B @ A, w),
            "this is the mean of products, what was wanted. Subtract the product of means, "
            "what the client got.",
        ),
        Mistake(
            lambda A, B, w: _mean(B @ A, _equal(w)) - _mean(B, _equal(w)) @ _mean(A, _equal(w)),
            "you averaged equally; use the shares w.",
        ),
        Mistake(
            lambda A, B, w: _mean(B @ A, w) - _mean(B @ A, w * w),
            "in the product of means every B_i meets every A_j. You "
            "multiplied only each client's own pair.",
        ),
        Mistake(
            lambda A, B, w: (B @ A).sum(0) - B.sum(0) @ A.sum(0), "you summed without the shares w."
        ),
    ),
    hints=(
        "Two things to make: the average of the products B_j A_j, and the product of the averaged factors.",
        "torch.einsum('n,nxy->xy', w, F) averages stacked matrices F (N, x, y) with the shares w; B @ A makes all N products.",
    ),
)
EXERCISES = (LORA_DELTA, INTERFERENCE)
