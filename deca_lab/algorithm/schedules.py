"""Learning rates over the inner steps of a run."""

from collections.abc import Callable
from math import cos, pi


def constant(progress: float) -> float:
    """The peak throughout."""
    return 1.0


def linear(progress: float) -> float:
    """Straight down to zero at the end of the run."""
    return 1 - progress


def cosine(progress: float) -> float:
    """Half a cosine down to zero at the end of the run."""
    return 0.5 * (1 + cos(pi * progress))


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
}


def schedule(
    peak: float, shape: Callable[[float], float], total: int, warmup: int = 0
) -> Callable[[int], float]:
    """Return the learning rate by inner step: `warmup` steps up from zero, then `shape` (transformers' get_scheduler)."""

    def lr(s: int) -> float:
        if s < warmup:
            return peak * s / max(1, warmup)
        return peak * shape((s - warmup) / max(1, total - warmup))

    return lr
