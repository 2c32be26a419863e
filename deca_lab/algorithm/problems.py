"""What the clients minimise: any differentiable problem is its start, one client's loss and a source of batches."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deca_lab.algorithm.gradients import Batch, Gradients, Loss
from deca_lab.algorithm.stacking import Layout, Params
from deca_lab.errors import check

ClosedForm = Callable[[np.ndarray, Batch], tuple[np.ndarray, np.ndarray]]


class Problem(NamedTuple):
    """N clients' start (stacked), the loss of one of them, and fresh batches for all at every inner step.

    `batches(step)` is a pure function of the step, so that a resumed run sees what an unbroken one would have seen.
    `exact` gives losses and gradients in closed form where there is one; else they are differentiated.
    """

    start: Params  # name -> (N, ...)
    loss: Loss  # (one client's parameters, one client's batch) -> scalar
    batches: Callable[[int], Batch]  # inner step -> tensors with axis 0 = N
    exact: Gradients | None = None
    # As a batch: what measurements are taken on; the batches of step 0 when None.
    evaluation: Batch | None = None
    arrays: ClosedForm | None = None  # `exact` of all names' columns and a batch as NumPy arrays

    @property
    def clients(self) -> int:
        """N."""
        return len(next(iter(self.start.values())))


def quadratics(A: Tensor, b: Tensor, start: Tensor, noise: float = 0.0, seed: int = 0) -> Problem:
    """Return f_i(x) = x' A_i x / 2 - b_i' x with gradient noise of standard deviation `noise` per coordinate.

    A (N, d, d) symmetric, b (N, d), start (N, d): the problems on which every constant of a theorem is exact.
    """
    n, d = b.shape if b.dim() == 2 else (0, 0)
    fits = b.dim() == 2 and A.shape == (n, d, d) and start.shape == (n, d)
    allowed = "of shapes (N, d, d), (N, d), (N, d)"
    check(fits, "A, b, start", (*map(tuple, (A.shape, b.shape, start.shape)),), allowed)
    check(noise >= 0, "noise", noise, "0 or more")

    def batches(step: int) -> Batch:
        if noise == 0:
            return A, b
        xi = np.random.default_rng([seed, step, 0xA11]).standard_normal((n, d))
        return A, b + noise * torch.from_numpy(xi).to(b)

    return Problem({"x": start}, _of_one, batches, _of_all, (A, b), _in_arrays)


def _of_one(params: Params, batch: Batch) -> Tensor:
    """Return one client's loss: x (d,), Hessian (d, d) and linear part (d,)."""
    hessian, linear = batch
    x = params["x"]
    value: Tensor = x @ hessian @ x / 2 - linear @ x
    return value


def _of_all(x: Tensor, where: Layout, rest: Params, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return all clients' losses (N,) and gradients (N, d), exactly."""
    hessian, linear = batch
    g = torch.baddbmm(linear.unsqueeze(2), hessian, x.unsqueeze(2), beta=-1).squeeze(2)
    return torch.linalg.vecdot(x, g - linear).div_(2), g


def _in_arrays(x: np.ndarray, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Return what `_of_all` does, by NumPy."""
    hessian, linear = batch[0].numpy(), batch[1].numpy()
    g = np.matmul(hessian, x[:, :, None])[:, :, 0]
    g -= linear
    losses = np.einsum("ij,ij->i", x, g - linear)
    losses *= 0.5
    return losses, g
