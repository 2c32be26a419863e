"""What goes wrong on the way: lost exchanges, absent clients, garbage; and the W that is still sound of what remains.

An exchange along an edge counts only where both of its messages came through (each side is told by the other); else both
keep to themselves what they would have given. So W stays symmetric and doubly stochastic in every round, and the mean of
the clients is conserved. All but the garbage check is a pure function of the seed and the mixing's number.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deca_lab.errors import BadInput, check
from deca_lab.gossip import Mix
from deca_lab.topology import Topology

MOST_CELLS = 2**28      # of the table of bursts: mixings x pairs of clients
LOUD = 1e6              # a message whose root mean square is so many times the clients' median is garbage; honest second
                        # moments differ by the square of what gradients differ by, and must pass
NAN = float("nan")
NOBODY = np.zeros(0, np.int64)


class Spell(NamedTuple):
    """A client from inner step `first` on, before inner step `last`."""

    client: int
    first: int
    last: int

    def holds(self, step: int) -> bool:
        """Say whether the inner step lies in it."""
        return self.first <= step < self.last


class Faults(NamedTuple):
    """What goes wrong in one run of `steps` inner steps, in which `turns` mixings fall.

    `drop` is the share of exchanges that fail; `burst` the mean length, in mixings, of an edge's outage (Gilbert and
    Elliott's two states; 1 where failures are independent). `away`: clients that neither train nor talk meanwhile;
    `garbage`: clients whose messages hold no numbers meanwhile.
    """

    drop: float = 0.0
    burst: float = 1.0
    away: tuple[Spell, ...] = ()
    garbage: tuple[Spell, ...] = ()
    clients: int = 1
    turns: int = 1
    seed: int = 0

    @property
    def any(self) -> bool:
        """Say whether anything goes wrong at all."""
        return bool(self.drop > 0 or self.away or self.garbage)

    def present(self, step: int) -> np.ndarray:
        """Return (N,) bool: who trains and talks at an inner step."""
        return _without(self.clients, self.away, step)

    def absent(self, step: int) -> np.ndarray:
        """Return the numbers of those who are away at an inner step."""
        return np.flatnonzero(~self.present(step)) if self.away else NOBODY

    def silent(self, step: int) -> np.ndarray:
        """Return (N,) bool: whose messages are garbage at an inner step."""
        return ~_without(self.clients, self.garbage, step)

    def lost(self, turn: int) -> np.ndarray:
        """Return (N, N) bool, symmetric: the exchanges that fail at a mixing."""
        n = self.clients
        failed = np.zeros((n, n), bool)
        if self.drop > 0:
            upper = np.triu_indices(n, 1)
            failed[upper] = _outages(self)[turn] if self.burst > 1 else _coins(self, turn) < self.drop
        return failed | failed.T


def faults(drop: float, burst: float, away: str, garbage: str, graph: Topology, steps: int, turns: int, seed: int) -> Faults:
    """Return the faults of a run, or raise BadInput where this topology cannot bear them.

    `away` and `garbage` are spells such as "3@0.5, 5@0.25-0.75": client 3 from the middle of the run on, client 5 in its
    second and third quarter.
    """
    n = graph.n
    least = max(drop / (1 - drop), 1.0)
    check(burst == 1 or burst >= least, "burst", burst, f"1, or {least:.3g} or more: an outage ends for one mixing at least")
    told = Faults(drop, burst, spells(away, "away", n, steps), spells(garbage, "garbage", n, steps), n, turns, seed)
    check(burst == 1 or turns * n * n <= MOST_CELLS, "burst", burst, f"1 for {turns:,} mixings of {n} clients: too large a table")
    if told.any:
        even = all(np.array_equal(W, W.T) and (W >= 0).all() for W in graph.matrices)
        check(even and not graph.served, "topology", graph.name, "one with a symmetric W without negative entries, and without a "
              "server, where exchanges fail: else what remains cannot be made sound")
    edges = {0, *(edge for spell in told.away for edge in (spell.first, spell.last))}
    empty = [step for step in sorted(edges) if step < steps and not told.present(step).any()]
    check(not empty, "away", away, f"such that somebody is left: at inner step {empty[:1]} nobody is")
    return told


def spells(text: str, argument: str, clients: int, steps: int) -> tuple[Spell, ...]:
    """Return the spells of a text such as "3@0.5, 5@0.25-0.75", in inner steps of a run of `steps`."""
    return tuple(_spell(part.strip(), argument, clients, steps) for part in text.split(",") if part.strip())


def _spell(part: str, argument: str, clients: int, steps: int) -> Spell:
    who, _, when = part.partition("@")
    start, _, end = when.partition("-")
    try:
        client, first, last = int(who), float(start), float(end or 1)
    except ValueError:
        raise BadInput(f"{argument} = {part!r} cannot be used: it must be CLIENT@FROM or CLIENT@FROM-UNTIL, in shares of the "
                       "run, such as 3@0.25-0.75") from None
    check(0 <= client < clients, argument, part, f"of a client from 0 to {clients - 1}")
    check(0 <= first < last <= 1, argument, part, "with 0 <= FROM < UNTIL <= 1")
    return Spell(client, round(first * steps), round(last * steps))


def _without(n: int, out: tuple[Spell, ...], step: int) -> np.ndarray:
    there = np.ones(n, bool)
    there[[spell.client for spell in out if spell.holds(step)]] = False
    return there


def _coins(told: Faults, turn: int) -> np.ndarray:
    """Return a uniform number for each pair of clients at a mixing."""
    return np.random.default_rng([told.seed, turn, 0xFA17]).random(told.clients * (told.clients - 1) // 2)


@lru_cache(4)
def _outages(told: Faults) -> np.ndarray:
    """Return (turns, pairs) bool: the bad states of Gilbert and Elliott's chain of each pair, from its stationary law on."""
    heal = 1 / told.burst                                              # mean length of an outage 1 / heal
    fail = heal * told.drop / (1 - told.drop)                          # so that a share `drop` is bad in the long run
    bad = np.zeros((told.turns, told.clients * (told.clients - 1) // 2), bool)
    for turn in range(told.turns):
        coin = _coins(told, turn)
        bad[turn] = coin < told.drop if turn == 0 else np.where(bad[turn - 1], coin >= heal, coin < fail)
    return bad


def rows_of(parts: Sequence[Tensor], away: np.ndarray) -> list[Tensor]:
    """Return copies of these clients' rows of each matrix (N, D); nothing where all are there."""
    return [part[away].clone() for part in parts] if len(away) else []


def put_back(parts: Sequence[Tensor], away: np.ndarray, rows: Sequence[Tensor]) -> None:
    """Write the rows of `rows_of` back into the matrices."""
    for part, held in zip(parts, rows, strict=False):                   # none are held where all are there
        part[away] = held


def remaining(W: np.ndarray, failed: np.ndarray) -> np.ndarray:
    """Return W (N, N) without the `failed` exchanges (N, N) bool, each side keeping what it would have given.

    A symmetric doubly stochastic W stays one, whatever fails symmetrically.
    """
    left = np.where(failed & ~np.eye(len(W), dtype=bool), 0.0, W)
    left[np.diag_indices_from(left)] += W.sum(1) - left.sum(1)
    return left


def acceptable(x: Tensor, said: Tensor) -> np.ndarray:
    """Return (N,) bool: whose message (a row of `said`) is finite, and not LOUD times as large as the clients' median."""
    own = x.double().square().mean(1).sqrt()
    size = said.double().square().mean(1).sqrt()
    finite = torch.isfinite(own)
    usual = own[finite].median() if bool(finite.any()) else own.new_tensor(0.0)
    return (torch.isfinite(size) & ((size <= LOUD * usual) | (usual == 0))).cpu().numpy()


def garbled(x: Tensor, told: Faults, step: int) -> Tensor:
    """Return what the clients send: their rows of X, but for those whose messages are garbage."""
    mute = told.silent(step)
    if not mute.any():
        return x
    said = x.clone()
    for i in np.flatnonzero(mute):                                     # no numbers, and numbers that are far too large, in turn
        said[i] = NAN if (step + i) % 2 else 1e20
    return said


def mixing(W: np.ndarray, told: Faults, step: int, turn: int, combine: Callable[[np.ndarray], Mix],
           refused: Callable[[int], None]) -> Mix:
    """Return the mixing of a turn under faults; `combine` makes a Mix of a matrix, `refused` is told of refused messages."""
    there = told.present(step)
    out = told.lost(turn) | ~there[:, None] | ~there

    def mix(x: Tensor) -> Tensor:
        good = acceptable(x, garbled(x, told, step))
        refused(int(((W != 0) & ~out & ~good & ~np.eye(len(W), dtype=bool)).sum()))
        left = remaining(W, out | ~good[:, None] | ~good)
        sane = torch.from_numpy(good).to(x.device)[:, None]
        heard = combine(left)(torch.where(sane, x, 0.0))               # 0 times NaN is NaN: nothing of it may be touched
        return torch.where(sane, heard, x)

    return mix


def told_in_words(told: Faults, graph: Topology, steps: int, mix_every: int) -> dict[str, float]:
    """Return what was lost over a run, and rho of what remained, without garbage: for the run's summary."""
    failed = asked = alone = 0
    product = np.eye(graph.n)
    for turn in range(told.turns):
        step = (turn + 1) * mix_every - 1
        there = told.present(step)
        tried = np.triu((graph.at(turn) != 0) & there[:, None] & there, 1)
        out = told.lost(turn)
        asked += int(tried.sum())
        failed += int((tried & out).sum())
        left = remaining(graph.at(turn), out | ~there[:, None] | ~there)
        alone += int((there & ((left != 0).sum(1) == 1)).sum())
        product = left @ product
    here = told.present(steps - 1)
    centred = product[np.ix_(here, here)] - product[np.ix_(here, here)].mean(0)
    rho = float(np.linalg.norm(centred, 2)) ** (1 / max(told.turns, 1))
    return {"exchanges": asked, "lost": failed, "alone": alone, "absent_at_the_end": int((~here).sum()),
            "rho_of_what_remained": rho}
