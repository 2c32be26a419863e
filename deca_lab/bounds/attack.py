"""A search for instances that break a claim: random ones first, then steps from the nearest; left sides by plain loops.

An instance is a point of the unit cube. A claim's own hypotheses say which instances it speaks of: the others are counted
and not held against it, so that a hypothesis that is missing there shows as a violation here.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deca_lab.bounds.attack_targets import TARGETS
from deca_lab.bounds.bound import Bound
from deca_lab.bounds.draw import LENGTH, Draw
from deca_lab.errors import BadInput, check, pick
from deca_lab.files import write_whole
from deca_lab.mixing.graphs import Array

HEAD = f"{'claim':<20} {'instances':>9} {'in claim':>8} {'ratio':>10}  nearest"
RANDOM = 0.5  # share of the search that draws anew; the rest moves from the nearest
SPREADS = (0.3, 0.1, 0.03, 0.01)  # of such a move
Target = Callable[[Draw], Bound]


class Nearest(NamedTuple):
    """What an attack on one claim came to: the largest lhs / rhs of an instance in the claim, and where."""

    claim: str
    instances: int
    inside: int  # instances that break no hypothesis
    ratio: float
    verdict: str
    seed: int
    point: tuple[float, ...]  # the instance: what `Draw` took of the unit cube

    @property
    def right(self) -> bool:
        """Say whether instances were compared and no one broke the claim."""
        return self.inside > 0 and self.verdict == "holds"

    @property
    def line(self) -> str:
        """Return the row for people, in the columns of HEAD."""
        return f"{self.claim:<20} {self.instances:>9} {self.inside:>8} {self.ratio:>10.5g}  {self.verdict}"


def attack(
    names: Sequence[str] = (),
    seconds: float = 60.0,
    tries: int | None = None,
    seed: int = 0,
    say: Callable[[Nearest], None] = lambda row: None,
    targets: Mapping[str, Target] = TARGETS,
) -> list[Nearest]:
    """Return what came nearest for the named claims, or all: `seconds` for all together, or so many `tries` each.

    Raises BadInput for a claim that no attack knows, no time, and a negative seed.
    """
    check(seconds > 0, "attack", seconds, "more than 0 seconds")
    check(seed >= 0, "seed", seed, "0 or more")
    chosen = {name: pick(targets, name, "claim to attack") for name in names or targets}
    rows = []
    for name, target in chosen.items():
        rows.append(search(name, target, _spent(seconds / len(chosen), tries), seed))
        say(rows[-1])
    return rows


def _spent(seconds: float, tries: int | None) -> Callable[[int], float]:
    """Return which share of the search is over after so many instances."""
    began = time.perf_counter()
    return lambda k: k / tries if tries else (time.perf_counter() - began) / seconds


def search(name: str, target: Target, spent: Callable[[int], float], seed: int = 0) -> Nearest:
    """Return the nearest of random points, then of moves from the nearest; a violation ends the search."""
    rng, best = (
        np.random.default_rng([seed, 0xA77]),
        Nearest(name, 0, 0, -np.inf, "holds", seed, ()),
    )
    tried = inside = 0
    while spent(tried) < 1 and best.verdict == "holds":
        near = best.point if spent(tried) > RANDOM and tried % 8 else ()
        draw = Draw(_moved(near, rng))
        tried += 1
        with np.errstate(all="ignore"):  # an instance outside the claim may overflow
            bound = target(draw)
        if bound.broken:
            continue
        inside += 1
        ratio, fails = nearness(bound), not bound.holds()
        if fails or ratio > best.ratio:
            point = tuple(float(u) for u in draw.points[: draw.taken])
            best = best._replace(ratio=ratio, verdict=bound.verdict, point=point)
    return best._replace(instances=tried, inside=inside)


def nearness(bound: Bound) -> float:
    """Return the largest lhs / rhs beyond rounding; of an equality, how much of what float64 may lose is used."""
    lhs, rhs, rounding = np.broadcast_arrays(bound.lhs, bound.rhs, bound.rounding)
    if bound.equal:
        return float((np.abs(lhs - rhs) / (1e-9 * np.abs(rhs) + rounding + 1e-300)).max())
    ratios = bound._replace(lhs=lhs - rounding).ratios
    return float(np.nanmax(ratios)) if np.isfinite(ratios).any() else float("inf")


def _moved(near: Sequence[float], rng: np.random.Generator) -> Array:
    """Return a random point of the cube, or one near `near`: few or all coordinates moved, far or a little."""
    points = rng.random(LENGTH)
    if len(near):
        points[: len(near)] = near
        share, spread = rng.choice([0.05, 0.3, 1.0]), rng.choice(SPREADS)
        moved = points + spread * rng.standard_normal(LENGTH) * (rng.random(LENGTH) < share)
        points = np.abs(1 - np.abs(1 - np.abs(moved)))  # folded back into the cube
    return np.round(points, 4)


def write(rows: Sequence[Nearest], folder: Path) -> Path:
    """Write the witnesses, one a line, into attack.json of a folder; return where."""
    lines = ",\n".join(json.dumps(row._asdict()) for row in rows)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "attack.json", f"[\n{lines}\n]\n")
    return folder / "attack.json"


def replay(row: Mapping[str, object]) -> Bound:
    """Return both sides of a witness that `write` wrote; raise BadInput where it is none."""
    point = row.get("point")
    if not isinstance(point, list | tuple):
        raise BadInput("witness has no point: it must be a line of an attack.json")
    points = np.full(LENGTH, 0.5)
    points[: len(point)] = point
    return pick(TARGETS, str(row.get("claim")), "claim to attack")(Draw(points))
