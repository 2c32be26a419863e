"""Names -> blocks, and which block is active when: block coordinate descent as routing of names, no optimiser of its own."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from deca_lab.errors import BadInput, check, pick

# Of a regular expression: the time of a search may grow by a name's length with each of them.
MOST_REPEATS = 4
Anatomy = Mapping[str, int | str]  # trainable name -> transformer layer, or "embeddings", or "head"


class Block(NamedTuple):
    """A named subset of the parameters."""

    name: str
    names: tuple[str, ...]


def by_layers(anatomy: Anatomy, granularity: int = 1, ends: str = "own") -> tuple[Block, ...]:
    """Return blocks of `granularity` consecutive transformer layers, the embeddings first and the head last.

    `ends` says what becomes of embeddings and head (with the final norm): "own" blocks, one "joined" block at the
    start, or "frozen", in no block. Raises BadInput where the granularity exceeds the depth.
    """
    layers = sorted({where for where in anatomy.values() if isinstance(where, int)})
    allowed = f"1 to {len(layers)}, the model's layers"
    check(1 <= granularity <= max(len(layers), 1), "granularity", granularity, allowed)
    groups = [layers[i : i + granularity] for i in range(0, len(layers), granularity)]
    names = [f"layer {g[0]}" if len(g) == 1 else f"layers {g[0]}-{g[-1]}" for g in groups]
    body = [Block(name, _where(anatomy, g)) for name, g in zip(names, groups, strict=True)]
    front, back = pick(ENDS, ends, "ends")
    cut = [_end(anatomy, front), *body, _end(anatomy, back)]
    return tuple(block for block in cut if block.names)


ENDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "own": (("embeddings",), ("head",)),
    "joined": (("embeddings", "head"), ()),
    "frozen": ((), ()),
}


def _end(anatomy: Anatomy, places: tuple[str, ...]) -> Block:
    """Return the block of these ends; it has no names where there are none."""
    return Block(" + ".join(places), _where(anatomy, places))


def _where(anatomy: Anatomy, places: Sequence[int | str]) -> tuple[str, ...]:
    return tuple(name for name, where in anatomy.items() if where in places)


def of_equal_size(sizes: Mapping[str, int], count: int) -> tuple[Block, ...]:
    """Return `count` blocks of whole names, in order, with nearly equal counts: at most total/count + the largest name."""
    check(1 <= count <= len(sizes), "block_count", count, f"1 to {len(sizes)}, the trainable names")
    names, total = list(sizes), sum(sizes.values())
    each = np.array(list(sizes.values()))
    middle = np.cumsum(each) - each / 2  # where each name's middle lies
    raw, places = (middle * count / max(total, 1)).astype(int), np.arange(len(names))
    # Enough names are left for each block.
    owner = np.clip(np.minimum(raw, count - 1), places - (len(names) - count), places)
    for i in range(1, len(names)):  # no block may be skipped
        owner[i] = min(owner[i], owner[i - 1] + 1)
    parts: list[list[str]] = [[] for _ in range(count)]
    for name, part in zip(names, owner, strict=True):
        parts[part].append(name)
    return tuple(Block(f"part {k}", tuple(part)) for k, part in enumerate(parts))


def by_patterns(names: Sequence[str], patterns: Sequence[str]) -> tuple[Block, ...]:
    """Return one block for each regular expression, holding the names in which it is found."""
    return tuple(Block(pattern, matching(names, pattern, "patterns")) for pattern in patterns)


def matching(names: Sequence[str], pattern: str, argument: str) -> tuple[str, ...]:
    """Return the names in which the regular expression is found, or raise BadInput where there is none."""
    opaque = r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?#[^)]*\)"  # escapes, classes, comments
    bare = re.sub(opaque, "x", pattern, flags=re.DOTALL)
    repeats = re.findall(r"[*+{]|(?<![(*+?}])\?", bare)
    safe = not re.search(r"\)\s*[*+{]", bare) and len(repeats) <= MOST_REPEATS
    few = f"with {MOST_REPEATS} repeats at most: it might never end"
    check(safe, argument, pattern, f"without a repeated group, and {few}")
    try:
        matched = tuple(name for name in names if re.search(pattern, name))
    except (re.error, OverflowError, RecursionError) as error:
        raise BadInput(f"{argument}: {pattern!r} is not a regular expression: {error}") from None
    if not matched:
        there = f"they are {_listed(names)}"
        raise BadInput(f"{argument}: {pattern!r} matches no trainable name; {there}")
    return matched


def whole(names: Sequence[str]) -> tuple[Block, ...]:
    """Return the one block of all names: full-parameter training."""
    return (Block("all", tuple(names)),)


def require_cover(blocks: Sequence[Block], names: Sequence[str]) -> None:
    """Raise BadInput, listing the names, unless every trainable name is in exactly one block."""
    owners: dict[str, list[str]] = {name: [] for name in names}
    for block in blocks:
        for name in owners.keys() & set(block.names):
            owners[name].append(block.name)
    missing = [name for name, owning in owners.items() if not owning]
    twice = [
        f"{name} in {' and '.join(owning)}" for name, owning in owners.items() if len(owning) > 1
    ]
    within = [
        f"{name} twice in {b.name}"
        for b in blocks
        for name in set(b.names)
        if b.names.count(name) > 1
    ]
    strange = [name for b in blocks for name in b.names if name not in owners]
    if missing:
        raise BadInput(
            f"blocks: {len(missing)} trainable names are in no block (freeze them or add a block): {_listed(missing)}"
        )
    if twice or within:
        raise BadInput(
            f"blocks: overlap, each name belongs to exactly one block: {_listed(twice + within)}"
        )
    empty = [b.name for b in blocks if not b.names]
    if empty:
        raise BadInput(f"blocks: these hold no name: {_listed(empty)}")
    if strange:
        raise BadInput(f"blocks: these names are not trainable: {_listed(strange)}")


def _listed(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


Order = Callable[[int, int, int], list[int]]  # (round, K, seed) -> block indices of the round


def sequence(t: int, count: int, seed: int) -> list[int]:
    """From the embeddings to the head in every round, as in the paper."""
    return list(range(count))


def backwards(t: int, count: int, seed: int) -> list[int]:
    """From the head to the embeddings in every round."""
    return list(range(count))[::-1]


def reshuffled(t: int, count: int, seed: int) -> list[int]:
    """In a new random order in every round, the same for all clients."""
    return [int(k) for k in np.random.default_rng([seed, t, 0xB10C]).permutation(count)]


ORDERS: dict[str, Order] = {"sequence": sequence, "reversed": backwards, "reshuffled": reshuffled}


class Visit(NamedTuple):
    """One block's turn: inner steps first .. last (inclusive, counted from 0 over the whole run)."""

    round: int
    position: int
    block: int
    first: int
    last: int


def visits(count: int, rounds: int, inner_steps: int, order: Order, seed: int = 0) -> list[Visit]:
    """Return the table of visits of `count` blocks: which was active when."""
    turns = [(t, p, k) for t in range(rounds) for p, k in enumerate(order(t, count, seed))]
    return [
        Visit(t, p, k, i * inner_steps, (i + 1) * inner_steps - 1)
        for i, (t, p, k) in enumerate(turns)
    ]
