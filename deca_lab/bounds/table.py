"""The table of all claims: each one's examples evaluated now, and whether the claim can fail at all."""

import pkgutil
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import numpy as np

from deca_lab import bounds
from deca_lab.bounds.bound import Bound
from deca_lab.errors import check, pick

HEAD = f"{'claim':<20} {'case':<34} {'left side':>11} {'right side':>11} {'tightness':>9}  verdict"


class Evaluated(NamedTuple):
    """One example of a claim: both sides where they are nearest to each other, and the verdict over all its entries."""

    claim: str
    case: str
    lhs: float
    rhs: float
    tightness: float
    verdict: str
    fails_when_broken: bool
    seconds: float

    @property
    def right(self) -> bool:
        """Say whether the claim holds here, and fails where a hypothesis is broken."""
        return self.verdict == "holds" and self.fails_when_broken

    @property
    def line(self) -> str:
        """Return the row for people, in the columns of HEAD."""
        tight = "-" if np.isnan(self.tightness) else f"{self.tightness:.4f}"
        warning = "" if self.fails_when_broken else "; it does not fail with a broken hypothesis"
        sides = f"{self.lhs:>11.5g} {self.rhs:>11.5g} {tight:>9}"
        return f"{self.claim:<20} {self.case:<34} {sides}  {self.verdict}, {self.seconds:.1f} s{warning}"


def claims() -> dict[str, ModuleType]:
    """Return the claims' modules by name: the files of this folder that have examples."""
    modules = {
        m.name: import_module(f"{bounds.__name__}.{m.name}")
        for m in pkgutil.iter_modules(bounds.__path__)
    }
    return {name: module for name, module in sorted(modules.items()) if hasattr(module, "examples")}


def evaluate(
    names: Sequence[str] = (), seed: int = 0, say: Callable[[Evaluated], None] = lambda row: None
) -> list[Evaluated]:
    """Return the rows of the named claims, or of all; raise BadInput at an unknown name."""
    check(seed >= 0, "seed", seed, "0 or more")
    known = claims()
    rows: list[Evaluated] = []
    for module, name in [(pick(known, name, "claim"), name) for name in names or known]:
        began = time.perf_counter()
        cases, broken = module.examples(seed), module.broken(seed)
        seconds = (time.perf_counter() - began) / max(len(cases), 1)
        for case, bound in cases.items():
            rows.append(_evaluated(name, case, bound, not broken.holds(), seconds))
            say(rows[-1])
    return rows


def _evaluated(claim: str, case: str, bound: Bound, fails: bool, seconds: float) -> Evaluated:
    lhs, rhs = map(np.atleast_1d, np.broadcast_arrays(bound.lhs, bound.rhs))
    at = int(np.nanargmax(bound.ratios)) if np.size(lhs) and np.isfinite(bound.ratios).any() else 0
    return Evaluated(
        claim, case, float(lhs[at]), float(rhs[at]), bound.tightness, bound.verdict, fails, seconds
    )
