"""Adam's moments on an active block (N, D), and the consensus feedback h that mixing returns to them.

The functions end in `_` because they change the moments that they are given: state is held once, for one block.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Adam(NamedTuple):
    """Adam's decays and its guard against division by zero, with the names of DECA's paper."""

    a1: float = 0.9
    a2: float = 0.999
    eps: float = 1e-8


class Moments(NamedTuple):
    """Raw moments m, v (N, D) of one block and the number of gradients that entered since they were zero."""

    m: Tensor
    v: Tensor
    steps: int


def start(x: Tensor) -> Moments:
    """Return zero moments for a block X (N, D): DECA's and BAdam's state at the beginning of a visit."""
    return Moments(torch.zeros_like(x), torch.zeros_like(x), 0)


def adam_(moments: Moments, g: Tensor, adam: Adam) -> tuple[Tensor, Moments]:
    """Take gradients g (N, D) into the moments; return the direction m_hat / (sqrt(v_hat) + eps) and the moments.

    The bias correction counts from the start of the moments, so it restarts with them (Kingma & Ba, Algorithm 1).
    """
    steps = moments.steps + 1
    m = moments.m.lerp_(g, 1 - adam.a1)                            # m+ = a1 m + (1 - a1) g
    v = moments.v.mul_(adam.a2).addcmul_(g, g, value=1 - adam.a2)  # v+ = a2 v + (1 - a2) g*g
    root = v.sqrt().mul_((1 - adam.a2**steps) ** -0.5).add_(adam.eps)   # sqrt(v_hat) + eps
    return torch.div(m, root, out=root).mul_(1 / (1 - adam.a1**steps)), Moments(m, v, steps)


# The discrepancy h. The paper's sign and scale are known from one transcription only, so each is an option.
Signal = Callable[[Tensor, Tensor], Tensor]      # (x, x_new) (N, D) -> h (N, D)
Scale = Callable[[Tensor, float], Tensor]        # (h, lr) -> h

SIGNALS: dict[str, Signal | None] = {
    "none": None,                                   # the moments keep the local statistics alone
    "printed": lambda x, x_new: x_new - x,          # as transcribed from the paper: points uphill once subtracted
    "downhill": lambda x, x_new: x - x_new,         # the opposite sign: looks like a gradient, as in quasi-global momentum
    "zero": lambda x, x_new: torch.zeros_like(x),   # an ablation: b1 and b2 shrink the moments, nothing is fed
}


def unit(h: Tensor, lr: float) -> Tensor:
    """Return h with each client's row of length one (as quasi-global Adam does, with its 1e-8)."""
    return h / (h.norm(dim=1, keepdim=True) + 1e-8)


SCALES: dict[str, Scale] = {
    "raw": lambda h, lr: h,
    "lr": lambda h, lr: h / lr if lr > 0 else h,    # comparable with a gradient; at lr = 0 nothing has moved
    "unit": unit,
}


class Feedback(NamedTuple):
    """How the discrepancy of a mixing enters the moments; `b1 = b2 = 1` leaves them alone."""

    signal: Signal | None
    scale: Scale
    b1: float
    b2: float


def feed_(moments: Moments, x: Tensor, x_new: Tensor, lr: float, feedback: Feedback) -> Moments:
    """Return the moments with the discrepancy between x and x_new (N, D) fed back (block-wise moment approximation).

    m <- b1 m + (1 - b1) h,  v <- b2 v + (1 - b2) h*h  with h from `feedback`; unchanged where there is no signal.
    """
    if feedback.signal is None:
        return moments
    h = feedback.scale(feedback.signal(x, x_new), lr)
    m = moments.m.lerp_(h, 1 - feedback.b1)
    v = moments.v.mul_(feedback.b2).addcmul_(h, h, value=1 - feedback.b2)
    return Moments(m, v, moments.steps)
