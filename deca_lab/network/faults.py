"""What goes wrong on the way: lost exchanges, absent and slow clients, garbage, late and noisy messages.

An exchange along an edge counts only where both of its messages came through (each side hears from the other); else both
keep to themselves what they would have given. So W stays symmetric and doubly stochastic in every round, and the mean of
the clients is conserved. Late and noisy messages do come through: W stays as it is, and the mean moves, which is measured.
All is a pure function of the seed and the mixing's number; lossy_mixing.py mixes accordingly.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array, diags_array, issparse
from scipy.sparse.csgraph import connected_components

from deca_lab.errors import BadInput, check
from deca_lab.mixing.doctor import doubly_stochastic
from deca_lab.mixing.matrix import Matrix, asymmetry, entries, links_of, numbers, only
from deca_lab.mixing.topology import Topology

MOST_CELLS = 2**28  # of the table of bursts: mixings x pairs of clients that hear each other
PRODUCT = 1024  # clients up to which the product of all mixings' W is formed
FEW = 64  # numbers drawn for one that is wanted, up to which that is quicker than to leave any out
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
    """What goes wrong in one run of `steps` inner steps, in which `turns` mixings fall, one every `mix_every` of them.

    `drop` is the share of exchanges that fail; `burst` the mean length, in mixings, of an edge's outage (Gilbert and
    Elliott's two states; 1 where failures are independent). `away`: clients that neither train nor talk meanwhile;
    `stragglers`: (client, times), who finish in time for one mixing of so many, and whom nobody waits for; `garbage`:
    clients whose messages hold no numbers meanwhile. `stale` is the share of messages that come late, by `delay` mixings
    (the receiver takes the newest that it has); `noise` the standard deviation of a Gaussian error on every message, as a
    share of the message's root mean square.
    """

    drop: float = 0.0
    burst: float = 1.0
    away: tuple[Spell, ...] = ()
    stragglers: tuple[tuple[int, int], ...] = ()
    garbage: tuple[Spell, ...] = ()
    stale: float = 0.0
    delay: int = 1
    noise: float = 0.0
    clients: int = 1
    turns: int = 1
    mix_every: int = 1
    seed: int = 0
    pairs: bytes = b""  # int64 numbers of the pairs that can have outages; without any, all pairs

    @property
    def any(self) -> bool:
        """Say whether anything goes wrong at all."""
        return bool(self.drop > 0 or self.away or self.stragglers or self.garbage or self.altered)

    @property
    def altered(self) -> bool:
        """Say whether messages that come through are late or noisy, so that the mean of the clients moves."""
        return self.stale > 0 or self.noise > 0

    def members(self, step: int) -> np.ndarray:
        """Return (N,) bool: who is not away at an inner step; a straggler is not."""
        return _without(self.clients, self.away, step)

    def present(self, step: int) -> np.ndarray:
        """Return (N,) bool: who trains and talks at an inner step."""
        there, turn = self.members(step), step // self.mix_every
        there[[client for client, times in self.stragglers if (turn + 1) % times]] = False
        return there

    def absent(self, step: int) -> np.ndarray:
        """Return the numbers of those who neither train nor talk at an inner step."""
        return np.flatnonzero(~self.present(step)) if self.away or self.stragglers else NOBODY

    def silent(self, step: int) -> np.ndarray:
        """Return (N,) bool: whose messages are garbage at an inner step."""
        return ~_without(self.clients, self.garbage, step)

    def lost(self, turn: int, links: np.ndarray) -> np.ndarray:
        """Return (E,) bool: along which of these links (E, 2) the exchange of a mixing fails, both ways or neither."""
        if self.drop == 0:
            return np.zeros(len(links), bool)
        # One coin for both directions: an exchange fails for both sides, and W stays symmetric.
        places, pair = np.unique(_numbered(links, self.clients), return_inverse=True)
        if self.burst > 1:
            failed = _outages(self)[turn][np.searchsorted(_with_outages(self), places)]
        else:
            failed = _coins(self, turn, places) < self.drop
        return np.asarray(failed[pair])

    def ages(self, turn: int, links: np.ndarray) -> np.ndarray:
        """Return (E,) how many mixings old the newest message is that i has from j: 0 where it is not late.

        The links (E, 2), i from j, are in order.
        """
        age, late = np.zeros(len(links), np.int64), np.ones(len(links), bool)
        for past in range(self.delay if self.stale > 0 else 0):  # late as often in a row as its age
            seed = [self.seed, max(turn - past, 0), 0x1A7E]
            late &= drawn(seed, links @ [self.clients, 1]) < self.stale
            age += late
        return age


def require_possible(faults: Faults, graph: Topology, steps: int) -> Faults:
    """Return the faults of a run, or raise BadInput where this topology or this number of inner steps cannot bear them."""
    drop, burst, n = faults.drop, faults.burst, faults.clients
    least = max(drop / (1 - drop), 1.0)
    allowed = f"1, or {least:.3g} or more: an outage ends for one mixing at least"
    check(burst == 1 or burst >= least, "burst", burst, allowed)
    pairs = np.unique(_numbered(graph.links, n)) if burst != 1 else NOBODY
    allowed = f"1 for {faults.turns:,} mixings of {n} clients: too large a table"
    check(faults.turns * len(pairs) <= MOST_CELLS, "burst", burst, allowed)
    if faults.any:
        even = all(asymmetry(W) == 0 and (numbers(W) >= 0).all() for W in graph.matrices)
        allowed = (
            "one with a symmetric W without negative entries, and without a "
            "server, where exchanges fail: else what remains cannot be made sound"
        )
        check(even and not graph.served, "topology", graph.name, allowed)
    edges = {0, *(edge for spell in faults.away for edge in (spell.first, spell.last))}
    empty = [step for step in sorted(edges) if step < steps and not faults.members(step).any()]
    allowed = f"such that somebody is left: at inner step {empty[:1]} nobody is"
    check(not empty, "away", spoken(faults.away, steps), allowed)
    slow = faults.stragglers
    check(len(slow) < n, "stragglers", slow, f"fewer than all {n} clients")
    return faults._replace(pairs=pairs.tobytes())


def spoken(spells: Sequence[Spell], steps: int) -> str:
    """Return spells as `spells` reads them."""
    return ", ".join(f"{s.client}@{s.first / steps:g}-{s.last / steps:g}" for s in spells)


def stragglers(text: str, clients: int) -> tuple[tuple[int, int], ...]:
    """Return the pairs of a text such as "3@4, 5@2": client 3 finishes in time for one mixing of four."""
    periods = {}
    for part in filter(None, map(str.strip, text.split(","))):
        who, _, times = part.partition("@")
        try:
            client, each = int(who), int(times)
        except ValueError:
            allowed = "CLIENT@TIMES, such as 3@4"
            raise BadInput(f"stragglers = {part!r} cannot be used: it must be {allowed}") from None
        fits = 0 <= client < clients and each > 0
        allowed = f"CLIENT@TIMES of a client from 0 to {clients - 1}, with TIMES 1 or more"
        check(fits, "stragglers", part, allowed)
        periods[client] = each
    return tuple(sorted(periods.items()))


def spells(text: str, argument: str, clients: int, steps: int) -> tuple[Spell, ...]:
    """Return the spells of a text such as "3@0.5, 5@0.25-0.75", in inner steps of a run of `steps`."""
    parts = filter(None, map(str.strip, text.split(",")))
    return tuple(_spell(part, argument, clients, steps) for part in parts)


def _spell(part: str, argument: str, clients: int, steps: int) -> Spell:
    who, _, when = part.partition("@")
    start, _, end = when.partition("-")
    try:
        client, first, last = int(who), float(start), float(end or 1)
    except ValueError:
        allowed = "CLIENT@FROM or CLIENT@FROM-UNTIL, in shares of the run, such as 3@0.25-0.75"
        raise BadInput(f"{argument} = {part!r} cannot be used: it must be {allowed}") from None
    check(0 <= client < clients, argument, part, f"of a client from 0 to {clients - 1}")
    check(0 <= first < last <= 1, argument, part, "with 0 <= FROM < UNTIL <= 1")
    return Spell(client, round(first * steps), round(last * steps))


def _without(n: int, out: tuple[Spell, ...], step: int) -> np.ndarray:
    there = np.ones(n, bool)
    there[[spell.client for spell in out if spell.holds(step)]] = False
    return there


def _numbered(links: np.ndarray, clients: int) -> np.ndarray:
    """Return the number (E,) of each link's pair of clients, as triu_indices counts them, whichever way it leads."""
    low, high = links.min(1), links.max(1)
    number: np.ndarray = low * (2 * clients - low - 1) // 2 + high - low - 1
    return number


def _with_outages(faults: Faults) -> np.ndarray:
    """Return the numbers of the pairs that can have outages, in order."""
    if faults.pairs:
        return np.frombuffer(faults.pairs, np.int64)
    return np.arange(faults.clients * (faults.clients - 1) // 2)


def _coins(faults: Faults, turn: int, places: np.ndarray) -> np.ndarray:
    """Return a uniform number for each of these pairs of clients at a mixing."""
    return drawn([faults.seed, turn, 0xFA17], places)


def drawn(seed: Sequence[int], places: np.ndarray) -> np.ndarray:
    """Return the uniform numbers at these places (E,), in order, of a seed's stream, whichever others are drawn."""
    bits, last = np.random.PCG64(seed), int(places.max(initial=-1)) + 1  # default_rng's own
    rng = np.random.Generator(bits)
    if last <= FEW * len(places):
        return np.asarray(rng.random(last)[places])
    coins: np.ndarray = np.empty(len(places))
    for k, between in enumerate((np.diff(places, prepend=-1) - 1).tolist()):
        bits.advance(between)
        coins[k] = rng.random()
    return coins


@lru_cache(4)
def _outages(faults: Faults) -> np.ndarray:
    """Return (turns, pairs) bool: the bad states of Gilbert and Elliott's chain of each pair, from its stationary law on."""
    places = _with_outages(faults)
    # The whole table: each state needs the one before, and a run resumes at any mixing.
    heal = 1 / faults.burst  # mean length of an outage 1 / heal
    fail = heal * faults.drop / (1 - faults.drop)  # so that a share `drop` is bad in the long run
    bad = np.zeros((faults.turns, len(places)), bool)
    for turn in range(faults.turns):
        coin = _coins(faults, turn, places)
        bad[turn] = (
            np.where(bad[turn - 1], coin >= heal, coin < fail) if turn else coin < faults.drop
        )
    return bad


def remaining(W: Matrix, failed: np.ndarray) -> Matrix:
    """Return W (N, N) without the `failed` of its `links_of` (E,), each side keeping what it would have given.

    A symmetric doubly stochastic W stays one, whatever fails symmetrically.
    """
    receivers, senders, _ = entries(W)
    stays = receivers == senders
    stays[~stays] = ~failed
    left = only(W, stays)
    # Not to the other neighbours: then columns would not sum to 1, and the mean would move.
    kept = W.sum(1) - left.sum(1)
    return left + (diags_array(kept, format="csr") if issparse(W) else np.diag(kept))


def fault_summary(
    faults: Faults, graph: Topology, steps: int, inner_steps: int
) -> dict[str, float | None]:
    """Return what was lost over a run, garbage aside, and what the doctor says of each mixing's W: for the run's summary.

    `unsound` counts the mixings whose remaining W is not doubly stochastic (none, by construction), `apart` those whose
    present clients fell into islands. `rho_of_what_remained` is None above PRODUCT clients.
    """
    counts = dict.fromkeys(("exchanges", "lost", "late", "alone", "apart", "unsound"), 0)
    product = np.eye(graph.n) if graph.n <= PRODUCT else None
    for turn in range(faults.turns):
        there, links = faults.present((turn + 1) * faults.mix_every - 1), links_of(graph.at(turn))
        out, real = faults.lost(turn, links), there[links].all(1)
        W = remaining(graph.at(turn), out | ~real)
        counts["exchanges"] += int(real.sum()) // 2
        counts["lost"] += int((real & out).sum()) // 2
        before, visit = ((k * faults.mix_every - 1) // inner_steps for k in (turn, turn + 1))
        first = before != visit
        late = real & ~out & (faults.ages(turn, links) > 0)
        counts["late"] += 0 if first else int(late.sum())
        heard = np.bincount(entries(W)[0], minlength=graph.n)
        counts["alone"] += int((there & (heard == 1)).sum())
        among = csr_array(W[there][:, there])
        counts["apart"] += int(connected_components(among, False, return_labels=False) > 1)
        counts["unsound"] += int(not doubly_stochastic(W))
        product = None if product is None else W @ product
    here = faults.members(steps - 1)
    rho = None
    if product is not None:
        centred = product[np.ix_(here, here)] - product[np.ix_(here, here)].mean(0)
        rho = float(np.linalg.norm(centred, 2)) ** (1 / max(faults.turns, 1))
    return {**counts, "absent_at_the_end": int((~here).sum()), "rho_of_what_remained": rho}
