"""Mixing over a lossy way: with the W that remains, and with what was said, late or noisy, once garbage is refused."""

from collections.abc import Callable, Sequence
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deca_lab.faults import Faults, remaining
from deca_lab.gossip import Mix

LOUD = 1e6              # a message whose root mean square is so many times the clients' median is garbage; honest second
                        # moments differ by the square of what gradients differ by, and must pass
NAN, INFINITE = float("nan"), 1e200
COLUMNS = 2**12         # of X that are looked at in one go


class Post(NamedTuple):
    """What mixings write down beside X, of the State: `past`, `tally` and `sent`.

    `past` holds earlier messages (n, D) by block, call and age; `tally` is [refused messages, length of the mean's moves];
    `sent` the bytes (N, N).
    """

    past: dict[str, Tensor]
    tally: list[float]
    sent: np.ndarray


class Way(NamedTuple):
    """Whose rows X holds in this process, and how a tensor is summed over processes."""

    mine: slice
    total: Callable[[Tensor], Tensor]

    def everybodys(self, values: Tensor, clients: int) -> Tensor:
        """Return a value of every client (N,) of those of `mine`."""
        full = values.new_zeros(clients)
        full[self.mine] = torch.nan_to_num(values, posinf=INFINITE, nan=INFINITE)     # infinity times 0 would spoil the sum
        full = self.total(full)
        return torch.where(full >= INFINITE, float("inf"), full)


def mixing(W: np.ndarray, told: Faults, step: int, block: int, combine: Callable[[np.ndarray], Mix], post: Post,
           way: Way) -> Mix:
    """Return the mixing after an inner step under faults; `combine` makes a Mix of a matrix."""
    turn, there, calls = step // told.mix_every, told.present(step), count()
    out = told.lost(turn) | ~there[:, None] | ~there

    def mix(x: Tensor) -> Tensor:
        call = next(calls)
        own, said = (way.everybodys(sizes(part), told.clients) for part in (x, garbled(x, told, step, way.mine)))
        good = acceptable(own, said)
        post.tally[0] += int(((W != 0) & ~out & ~good & ~np.eye(len(W), dtype=bool)).sum())
        left = remaining(W, out | ~good[:, None] | ~good)
        sane, finite = torch.from_numpy(good[way.mine]).to(x.device)[:, None], torch.isfinite(own)[way.mine, None]
        clean = x if bool(finite.all()) else torch.where(finite, x, 0.0)         # 0 times NaN is NaN: none of it may be touched
        if told.altered:
            letters = _letters(noisy(clean, told, (turn, block, call), way.mine), post.past, f"{block}.{call}", told)
            heard = _heard(clean, left, letters, told.ages(turn), combine, way.mine)
        else:
            heard = combine(left)(clean)
        post.tally[1] += _moved(clean, heard, sane.to(x.dtype), way) / max(int((there & good).sum()), 1)
        return heard if bool(sane.all()) else torch.where(sane, heard, x)

    return mix


def _moved(x: Tensor, x_new: Tensor, counts: Tensor, way: Way) -> float:
    """Return the length of the sum over rows of x_new - x, of those that count, a few columns at a time: little memory."""
    squares = 0.0
    for old, new in zip(x.split(COLUMNS, 1), x_new.split(COLUMNS, 1), strict=True):
        squares += float(way.total(((new - old) * counts).sum(0, dtype=torch.float64)).square().sum())
    return squares**0.5


def _letters(said: Tensor, past: dict[str, Tensor], key: str, told: Faults) -> list[Tensor]:
    """Return the messages of this mixing and of those before it in the visit, newest first, and keep what may be needed."""
    letters = [said]
    if told.stale > 0:
        letters += [past[name] for age in range(1, told.delay + 1) if (name := f"{key}.{age}") in past]
        older = [said.clone(), *letters[1:told.delay]]                  # what was said may be changed in place later
        past.update({f"{key}.{age}": letter for age, letter in enumerate(older, 1)})
    return letters


def _heard(x: Tensor, left: np.ndarray, letters: Sequence[Tensor], ages: np.ndarray, combine: Callable[[np.ndarray], Mix],
           mine: slice) -> Tensor:
    """Return w_ii x_i + sum over others of w_ij times the message of j that i has."""
    heard = x * torch.from_numpy(np.diag(left)[mine].copy()).to(x)[:, None]
    others, ages = left - np.diag(np.diag(left)), np.minimum(ages, len(letters) - 1)      # a visit begins without a past
    for age, letter in enumerate(letters):
        part = np.where(ages == age, others, 0.0)
        if part.any():
            heard += combine(part)(letter)
    return heard


def acceptable(own: Tensor, size: Tensor) -> np.ndarray:
    """Return (N,) bool: whose message is finite, and not LOUD times as large as the clients' median.

    `own` and `size` are root mean squares (N,): of what a client has, and of what it says.
    """
    finite = torch.isfinite(own)
    usual = own[finite].median() if bool(finite.any()) else own.new_tensor(0.0)
    return (torch.isfinite(size) & ((size <= LOUD * usual) | (usual == 0))).cpu().numpy()


def sizes(x: Tensor) -> Tensor:
    """Return each row's root mean square (n,) float64."""
    return torch.linalg.vector_norm(x, dim=1).double() / max(x.shape[1], 1) ** 0.5


def garbled(x: Tensor, told: Faults, step: int, mine: slice) -> Tensor:
    """Return what the clients `mine` say: their rows of X, but for those whose messages are garbage."""
    mute = np.flatnonzero(told.silent(step)[mine])
    if not len(mute):
        return x
    said = x.clone()
    for i in mute:                                                     # no numbers, and numbers that are far too large, in turn
        said[i] = NAN if (step + mine.start + i) % 2 else 1e20
    return said


def noisy(x: Tensor, told: Faults, call: Sequence[int], mine: slice) -> Tensor:
    """Return the messages of the clients `mine` with a Gaussian error, one draw a client, mixing and `call` of a mixing."""
    if told.noise == 0:
        return x
    seeds = ([told.seed, 0x5A17, *call, i] for i in range(mine.start, mine.stop))
    errors = np.stack([np.random.default_rng(seed).standard_normal(x.shape[1]) for seed in seeds])
    return x + torch.from_numpy(errors).to(x) * (told.noise * sizes(x)).to(x)[:, None]


def rows_of(parts: Sequence[Tensor], away: np.ndarray) -> list[Tensor]:
    """Return copies of these clients' rows of each matrix (N, D); nothing where all are there."""
    return [part[away].clone() for part in parts] if len(away) else []


def put_back(parts: Sequence[Tensor], away: np.ndarray, rows: Sequence[Tensor]) -> None:
    """Write the rows of `rows_of` back into the matrices."""
    for part, held in zip(parts, rows, strict=False):                   # none are held where all are there
        part[away] = held
