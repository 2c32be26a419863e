"""A channel under faults: mixing with the W that remains, and with what was said, late or noisy, once garbage is refused."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from deca_lab.algorithm import channel as ch
from deca_lab.algorithm.channel import Call, Channel, Site, Size, Wire
from deca_lab.errors import check
from deca_lab.mixing.gossip import row_bytes
from deca_lab.mixing.matrix import Matrix, entries, links_of, only
from deca_lab.network.faults import Faults, remaining

LOUD = 1e6  # a message whose root mean square is so many times the clients' median is garbage; honest second
# moments differ by the square of what gradients differ by, and must pass
NAN, INFINITE = float("nan"), 1e200
COLUMNS = 2**12  # of X that are looked at in one go


def lossy(faults: Faults, mix_every: int) -> ch.Wrap:
    """Return the wrap that puts a plain channel under faults; the run mixes every `mix_every` inner steps."""

    def wrap(inner: Channel) -> Channel:
        laid_out = (faults.clients, faults.mix_every)
        due = (inner.topology.n, mix_every)
        allowed = f"of the plan's clients and mix_every, {due}"
        check(not faults.any or laid_out == due, "faults", laid_out, allowed)
        return _under(faults, inner) if faults.any else inner

    return wrap


def _under(faults: Faults, inner: Channel) -> Channel:
    hear, heard = inner.links.T
    here = inner.site.hears(inner.links)

    def present(turn: int) -> np.ndarray:
        return faults.present((turn + 1) * faults.mix_every - 1)

    def messages(turn: int) -> np.ndarray:
        there = present(turn)
        sent: np.ndarray = inner.messages(turn) * (there[hear] & there[heard])
        return sent

    def failed(turn: int) -> np.ndarray:
        mute = faults.silent((turn + 1) * faults.mix_every - 1) | ~present(turn)
        failing: np.ndarray = faults.lost(turn, inner.links) | mute[hear] | mute[heard]
        return failing

    def exchange(call: Call, x: Tensor, wire: Wire, size: Size | None = None) -> Tensor:
        ch.count(wire, messages(call.turn) * here, row_bytes(x) if size is None else size)
        return mixed_under(inner, faults, call, x, wire)

    def predicted(
        call: Call, width: int, item: int, wire: Wire, size: Size | None = None
    ) -> np.ndarray:
        return messages(call.turn) * (width * item if size is None else size)

    lossy = inner._replace(exchange=exchange, predicted=predicted, messages=messages)
    return lossy._replace(failed=failed, absent=faults.absent, exact=faults.noise == 0)


def mixed_under(channel: Channel, faults: Faults, call: Call, x: Tensor, wire: Wire) -> Tensor:
    """Return X (n, D) mixed under faults: who hears nobody, or is heard by nobody, keeps to itself what it would have given."""
    W, site, there = channel.topology.at(call.turn), channel.site, faults.present(call.step)
    links = links_of(W)
    out = faults.lost(call.turn, links) | ~there[links].all(1)
    said = garbled(x, faults, call.step, site.mine)
    own, sent = (everybodys(site, sizes(part), faults.clients) for part in (x, said))
    good = acceptable(own, sent)
    _add(wire, "refused", (~out & ~good[links[:, 1]]).sum())
    left = remaining(W, out | ~good[links].all(1))

    finite = torch.isfinite(own)
    # 0 times NaN is NaN: none of it may be touched. All processes choose alike, whoever holds it.
    clean = x if bool(finite.all()) else torch.where(finite[site.mine, None], x, 0.0)
    shares, letters = [left], [clean]
    if faults.altered:
        kept = _letters(channel, faults, call, clean, wire)
        shares, letters = _by_age(left, faults.ages(call.turn, links_of(left)), clean, kept)
    x_new = channel.carrier(shares, channel.layouts[call.block], x[:, :1])(letters)

    counts = torch.from_numpy((good & there)[site.mine]).to(x.device)[:, None]
    moved = _moved(clean, x_new, counts.to(x.dtype), site)
    _add(wire, "mean_moved", moved / max(int((there & good).sum()), 1))
    return x_new if bool(counts.all()) else torch.where(counts, x_new, x)


def _add(wire: Wire, name: str, value: float) -> None:
    wire.tallies[name] = wire.tallies.get(name, 0.0) + float(value)


def everybodys(site: Site, values: Tensor, clients: int) -> Tensor:
    """Return a value of every client (N,), of those of this process's."""
    full = values.new_zeros(clients)
    # Infinity times 0 would spoil the sum.
    full[site.mine] = torch.nan_to_num(values, posinf=INFINITE, nan=INFINITE)
    full = site.total(full)
    return torch.where(full >= INFINITE, float("inf"), full)


def _by_age(
    left: Matrix, ages: np.ndarray, x: Tensor, letters: Sequence[Tensor]
) -> tuple[list[Matrix], list[Tensor]]:
    """Return what mixes: the clients' own rows by the diagonal of W, and the others' messages by their age."""
    receivers, senders, _ = entries(left)
    age = np.where(receivers == senders, -1, 0)
    age[age == 0] = np.minimum(ages, len(letters) - 1)  # a visit begins without a past
    heard = [(only(left, age == k), letters[k]) for k in np.unique(age[age >= 0])]
    own = only(left, age < 0)
    return [own, *(part for part, _ in heard)], [x, *(letter for _, letter in heard)]


def _letters(channel: Channel, faults: Faults, call: Call, x: Tensor, wire: Wire) -> list[Tensor]:
    """Return the messages of this mixing and of those before it in the visit, newest first, and keep what may be needed."""
    newest = noisy(x, faults, (call.turn, call.block, call.number), channel.site.mine)
    if faults.stale == 0:
        return [newest]
    names = [f"{call.key}.late.{age}" for age in range(1, faults.delay + 1)]
    letters = [newest, *(wire.letters[name] for name in names if name in wire.letters)]
    older = [newest.clone(), *letters[1 : faults.delay]]  # x may be changed in place later
    wire.letters.update(zip(names, older, strict=False))
    return letters


def _moved(x: Tensor, x_new: Tensor, counts: Tensor, site: Site) -> float:
    """Return the length of the sum over rows of x_new - x, of those that count, a few columns at a time: little memory."""
    squares = x.new_zeros((), dtype=torch.float64)
    for old, new in zip(torch.split(x, COLUMNS, 1), torch.split(x_new, COLUMNS, 1), strict=True):
        moved = ((new - old) * counts).sum(0, dtype=torch.float64)
        squares += site.total(moved).square().sum()
    return float(squares.sqrt())  # one read of the device


def acceptable(own: Tensor, size: Tensor) -> np.ndarray:
    """Return (N,) bool: whose message is finite, and not LOUD times as large as the clients' median.

    `own` and `size` are root mean squares (N,): of what a client has, and of what it says.
    """
    finite = torch.isfinite(own)
    # The median: a mean would follow the very messages that are to be refused.
    usual = own[finite].median() if bool(finite.any()) else own.new_tensor(0.0)
    return (torch.isfinite(size) & ((size <= LOUD * usual) | (usual == 0))).cpu().numpy()


def sizes(x: Tensor) -> Tensor:
    """Return each row's root mean square (n,) float64."""
    rms: Tensor = torch.linalg.vector_norm(x, dim=1).double() / max(x.shape[1], 1) ** 0.5
    return rms


def garbled(x: Tensor, faults: Faults, step: int, mine: slice) -> Tensor:
    """Return what the clients `mine` say: their rows of X, but for those whose messages are garbage."""
    mute = np.flatnonzero(faults.silent(step)[mine])
    if not len(mute):
        return x
    messages = x.clone()
    for i in mute:  # no numbers, and numbers that are far too large, in turn
        messages[i] = NAN if (step + mine.start + i) % 2 else 1e20
    return messages


def noisy(x: Tensor, faults: Faults, call: Sequence[int], mine: slice) -> Tensor:
    """Return the messages of the clients `mine` with a Gaussian error, one draw a client, mixing and `call` of a mixing."""
    if faults.noise == 0:
        return x
    seeds = ([faults.seed, 0x5A17, *call, i] for i in range(mine.start, mine.stop))
    errors = np.stack([np.random.default_rng(seed).standard_normal(x.shape[1]) for seed in seeds])
    return x + torch.from_numpy(errors).to(x) * (faults.noise * sizes(x)).to(x)[:, None]
