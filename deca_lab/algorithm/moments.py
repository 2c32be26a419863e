"""Adam's moments on an active block (N, D), and the consensus feedback h that mixing returns to them.

The functions end in `_` because they change the moments that they are given: state is held once, for one block.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
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
    m, v = blend_(moments.m, moments.v, g, adam.a1, adam.a2)
    return direction(m, v, steps, adam), Moments(m, v, steps)


def blend_(m: Tensor, v: Tensor, g: Tensor, c1: float, c2: float) -> tuple[Tensor, Tensor]:
    """Write m <- c1 m + (1 - c1) g and v <- c2 v + (1 - c2) g*g into m, v, and return them."""
    return m.lerp_(g, 1 - c1), v.mul_(c2).addcmul_(g, g, value=1 - c2)


def direction(m: Tensor, v: Tensor, steps: int, adam: Adam) -> Tensor:
    """Return m_hat / (sqrt(v_hat) + eps) of raw moments (N, D) after so many gradients; both corrections below the line."""
    first, second = 1 - adam.a1**steps, 1 - adam.a2**steps
    root = v.sqrt().mul_(first * second**-0.5).add_(first * adam.eps)
    return torch.div(m, root, out=root)


def adam_arrays_(g: np.ndarray, parts: Sequence[np.ndarray], steps: int, adam: Adam) -> np.ndarray:
    """Do what `adam_` does on arrays m, v: of few numbers, where torch's calls cost more than they compute."""
    blend_arrays_(parts, g, adam.a1, adam.a2)
    m, v = parts
    first, second = 1 - adam.a1**steps, 1 - adam.a2**steps
    root: np.ndarray = np.sqrt(v)
    root *= first * second**-0.5
    root += first * adam.eps
    np.divide(m, root, out=root)
    return root


def blend_arrays_(parts: Sequence[np.ndarray], h: np.ndarray, c1: float, c2: float) -> None:
    """Do what `blend_` does on arrays m, v."""
    m, v = parts
    change = h - m
    change *= 1 - c1
    m += change
    square = h * h
    square *= 1 - c2
    v *= c2
    v += square


# The discrepancy h. The paper's sign and scale are known from one transcription only, so each is an option.
Signal = Callable[[Tensor, Tensor], Tensor]  # (x, x_new) (N, D) -> h (N, D)
Scale = Callable[[Tensor, float], Tensor]  # (h, lr) -> h


def printed(x: Tensor, x_new: Tensor) -> Tensor:
    """h = x_new - x, as the paper is transcribed; in m, which is subtracted, it points uphill."""
    return x_new - x


def downhill(x: Tensor, x_new: Tensor) -> Tensor:
    """h = x - x_new, the opposite sign: looks like a gradient, as in quasi-global momentum."""
    return x - x_new


def zero(x: Tensor, x_new: Tensor) -> Tensor:
    """h = 0, an ablation: b1 and b2 shrink the moments and nothing is fed."""
    return torch.zeros_like(x)


SIGNALS: dict[str, Signal | None] = {
    "none": None,
    "printed": printed,
    "downhill": downhill,
    "zero": zero,
}


def raw(h: Tensor, lr: float) -> Tensor:
    """h as it is, of the size of a step."""
    return h


def per_lr_(h: Tensor, lr: float) -> Tensor:
    """h / lr, comparable with a gradient; h itself at lr = 0, where nothing has moved but by mixing."""
    return h.div_(lr) if lr > 0 else h


def unit_(h: Tensor, lr: float) -> Tensor:
    """h with each client's row of length one, as quasi-global Adam has it."""
    return h.div_(h.norm(dim=1, keepdim=True).add_(1e-8))


SCALES: dict[str, Scale] = {"raw": raw, "lr": per_lr_, "unit": unit_}


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
    m, v = blend_(moments.m, moments.v, h, feedback.b1, feedback.b2)
    return Moments(m, v, moments.steps)
