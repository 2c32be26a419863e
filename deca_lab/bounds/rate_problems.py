"""The problems on which rates are measured, each drawn anew for each seed: quadratics, logistic regression, low-rank factors."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deca_lab.algorithm import stacking
from deca_lab.algorithm.gradients import Batch
from deca_lab.algorithm.problems import Problem, quadratics
from deca_lab.errors import check
from deca_lab.mixing.graphs import Array


class Case(NamedTuple):
    """Independent draws of one kind of problem, `seeds` of them, that one run trains side by side.

    `problem` stacks all their clients, seed after seed; `gradient` maps mean models (steps, seeds, D) to the gradients
    of f there, of the same shape.
    """

    problem: Problem
    gradient: Callable[[Tensor], Tensor]
    seeds: int

    @property
    def clients(self) -> int:
        """N, of each seed."""
        return self.problem.clients // self.seeds


def quadratic(
    seeds: int,
    zeta: float = 0.0,
    common: bool = True,
    sigma: float = 1.0,
    distance: float = 3.0,
    clients: int = 8,
    d: int = 16,
    seed: int = 0,
) -> Case:
    """Return f_i = x' A_i x / 2 - b_i' x with eigenvalues 1/2 to 2, || grad f_i - grad f || of mean square zeta^2 at the minimum.

    `common`: one Hessian for all clients of a seed. `sigma`: gradient noise in each coordinate. All clients start where
    each coordinate is `distance` away from the minimiser.
    """
    in_range(seeds=seeds, clients=clients, d=d)
    draws = [
        _quadratic(np.random.default_rng([seed, s, 0xAB]), zeta, common, distance, clients, d)
        for s in range(seeds)
    ]
    # Each (seeds, N, ...).
    A, b, start = (torch.from_numpy(np.stack(part)) for part in zip(*draws, strict=True))
    hessian, linear = A.mean(1), b.mean(1)
    return Case(
        quadratics(A.flatten(0, 1), b.flatten(0, 1), start.flatten(0, 1), sigma, seed),
        lambda x: torch.einsum("sij,tsj->tsi", hessian, x) - linear,
        seeds,
    )


def _quadratic(
    rng: np.random.Generator, zeta: float, common: bool, distance: float, n: int, d: int
) -> tuple[Array, Array, Array]:
    turns = np.linalg.qr(rng.standard_normal((n, d, d)))[0]
    turns = turns[:1].repeat(n, 0) if common else turns
    A = turns * np.geomspace(0.5, 2, d) @ turns.swapaxes(1, 2)
    minimiser, tilts = rng.standard_normal(d), rng.standard_normal((n, d))
    tilts -= tilts.mean(0)
    tilts *= zeta / max(np.sqrt((tilts**2).sum() / n), 1e-300)
    start = minimiser + distance * rng.choice([-1.0, 1.0], d)
    return A, A @ minimiser + tilts, np.tile(start, (n, 1))


def stall(case: Case, sigma: float) -> Array:
    """Return (seeds,) the squared gradient where DECA is predicted to stop for lr -> 0, long visits and a complete graph.

    `case` is `quadratic` with one Hessian and sigma = 0. With noise `sigma` Adam steps by about g / sqrt(g^2 + sigma^2),
    so the mean model rests where those of the clients sum to 0, coordinate by coordinate: a prediction, not a bound.
    """
    b = case.problem.batches(0)[1].unflatten(0, (case.seeds, -1)).numpy()  # (seeds, N, d)
    # Client i's gradient is G - offset_i where that of f is G.
    offsets = b - b.mean(1, keepdims=True)
    low, high = offsets.min(1), offsets.max(1)
    for _ in range(100):
        G = (low + high) / 2
        g = G[:, None] - offsets
        uphill = (g / np.sqrt(g**2 + sigma**2 + 1e-300)).sum(1) > 0
        low, high = np.where(uphill, low, G), np.where(uphill, G, high)
    squared: Array = (G**2).sum(1)
    return squared


def logistic(
    seeds: int,
    skew: float = 0.0,
    distance: float = 3.0,
    rows: int = 128,
    batch: int = 4,
    clients: int = 8,
    d: int = 16,
    seed: int = 0,
) -> Case:
    """Return logistic regression of `rows` rows a client and batches of `batch`; `skew` is the share dealt by label.

    Labels follow a logistic law, so that no hyperplane is without error; features have mean 1/2, or it would be the same
    to see the features of one label as those of the other. Starts as `quadratic` does, from that law's own parameters.
    """
    in_range(seeds=seeds, clients=clients, d=d, rows=rows, batch=batch)
    check(0 <= skew <= 1, "skew", skew, "between 0 and 1")
    draws = [
        _logistic(np.random.default_rng([seed, s, 0x106]), skew, distance, rows, clients, d)
        for s in range(seeds)
    ]
    features, start = (torch.from_numpy(np.stack(part)) for part in zip(*draws, strict=True))
    stacked, pooled = (
        features.flatten(0, 1),
        features.flatten(1, 2),
    )  # (seeds N, rows, d), (seeds, N rows, d)
    who = torch.arange(len(stacked))[:, None]

    def batches(step: int) -> Batch:
        chosen = np.random.default_rng([seed, step, 0xBA7]).integers(0, rows, (len(stacked), batch))
        return stacked[who, torch.from_numpy(chosen)]

    def gradient(x: Tensor) -> Tensor:
        return (
            -torch.sigmoid(-x.transpose(0, 1) @ pooled.mT).matmul(pooled).transpose(0, 1)
            / pooled.shape[1]
        )

    return Case(Problem({"x": start.flatten(0, 1)}, _logistic_loss, batches), gradient, seeds)


def _logistic_loss(params: stacking.Params, batch: Batch) -> Tensor:
    return torch.nn.functional.softplus(-batch @ params["x"]).mean()


def _logistic(
    rng: np.random.Generator, skew: float, distance: float, rows: int, n: int, d: int
) -> tuple[Array, Array]:
    """Return label times features (N, rows, d) and the start (N, d)."""
    law, features = (
        rng.standard_normal(d) * 2 / np.sqrt(d),
        rng.standard_normal((n * rows, d)) + 0.5,
    )
    labels = np.where(rng.random(n * rows) < 1 / (1 + np.exp(-features @ law)), 1.0, -1.0)
    order = np.argsort(labels, kind="stable")
    # Places whose rows are dealt at random.
    mixed = np.sort(rng.permutation(n * rows)[: round((1 - skew) * n * rows)])
    order[mixed] = rng.permutation(order[mixed])
    start = law + distance * rng.choice([-1.0, 1.0], d)
    return (labels[:, None] * features)[order].reshape(n, rows, d), np.tile(start, (n, 1))


def factorised(
    seeds: int,
    zeta: float = 1.0,
    sigma: float = 0.5,
    size: int = 6,
    rank: int = 2,
    clients: int = 8,
    seed: int = 0,
) -> Case:
    """Return f_i = || B A - M_i ||^2 / 2 with the factors' names of LoRA, B = 0 at first, and M_i around an M of that rank.

    The singular values of M lie between 4 and 8, so lr T K of a few times 1/4 forgets the start.
    """
    in_range(seeds=seeds, clients=clients, size=size, rank=rank)
    draws = [
        _factorised(np.random.default_rng([seed, s, 0xFAC]), zeta, size, rank, clients)
        for s in range(seeds)
    ]
    # Each (seeds, N, ...).
    M, A = (torch.from_numpy(np.stack(part)) for part in zip(*draws, strict=True))
    stacked, target = M.flatten(0, 1), M.mean(1)
    start = {
        "w.lora_A": A.flatten(0, 1),
        "w.lora_B": torch.zeros(seeds * clients, size, rank, dtype=A.dtype),
    }

    def batches(step: int) -> Batch:
        return stacked + sigma * torch.from_numpy(
            np.random.default_rng([seed, step, 0xF]).standard_normal(stacked.shape)
        )

    def gradient(x: Tensor) -> Tensor:
        of_a, of_b = x[..., : rank * size], x[..., rank * size :]
        a, b = torch.unflatten(of_a, -1, (rank, size)), torch.unflatten(of_b, -1, (size, rank))
        error = b @ a - target
        return torch.cat([(b.mT @ error).flatten(-2), (error @ a.mT).flatten(-2)], -1)

    return Case(Problem(start, _factorised_loss, batches), gradient, seeds)


def _factorised_loss(params: stacking.Params, batch: Batch) -> Tensor:
    error: Tensor = params["w.lora_B"] @ params["w.lora_A"] - batch
    return error.square().sum() / 2


def _factorised(
    rng: np.random.Generator, zeta: float, size: int, rank: int, n: int
) -> tuple[Array, Array]:
    left, right = np.linalg.qr(rng.standard_normal((2, size, rank)))[0]  # orthonormal columns
    target = left * np.geomspace(8, 4, rank) @ right.T
    offsets = rng.standard_normal((n, size, size))
    offsets -= offsets.mean(0)
    offsets *= zeta / max(np.sqrt((offsets**2).sum() / n), 1e-300)
    return target + offsets, np.tile(rng.standard_normal((rank, size)) / np.sqrt(size), (n, 1, 1))


def in_range(**counts: int) -> None:
    """Refuse a size that is no whole number from 1 up."""
    for name, value in counts.items():
        check(isinstance(value, int) and value >= 1, name, value, "a whole number from 1 up")
