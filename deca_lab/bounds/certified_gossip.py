"""A certificate by machine: the contraction of one given W, float64 entries and all, proved in whole numbers.

Claim       || X+ - 1 xbar+' ||_F <= r || X - 1 xbar' ||_F + e || xbar || for X+ = W X in exact arithmetic, xbar the mean row,
            and || xbar+ - xbar || <= c || X ||_F / sqrt(N), with the very numbers that W holds: 1/3 is none of them, so e and
            c are not 0. r is no estimate: r^2 I - (W - J)'(W - J) is proved positive definite without rounding.
Hypotheses  W is square and finite, and not too large (LARGEST, LONGEST). That it is doubly stochastic is not assumed:
            e = || W 1 - 1 || and c = || W'1 - 1 || / sqrt(N) are computed exactly, and rounded up.
Symbols     W: a matrix, or the product of a topology's over a period; r: `Certificate.rho`; e: `row_defect`;
            c: `column_defect`; `margin`: how far r lies above the float64 estimate.
Source      derived; Sylvester's criterion, Bareiss's elimination.
Tight       r to the margin, 1e-11 and less; attained by `gossip_contraction.witness`.
Proof       theory/certified_gossip.ipynb.

What is not certified: the rounding of the mixing itself, in float32 or float64.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import reduce
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import issparse

from deca_lab.bounds import exact
from deca_lab.bounds.bound import Bound
from deca_lab.bounds.gossip_contraction import witness
from deca_lab.errors import check
from deca_lab.mixing.gossip import mixer
from deca_lab.mixing.graphs import Array
from deca_lab.mixing.matrix import Matrix, dense, numbers
from deca_lab.mixing.spectrum import spectrum
from deca_lab.mixing.topology import Topology, topology

LARGEST = 64  # clients: a second or two, alone on a core, and the time grows faster than N^4
LONGEST = 512  # clients times matrices in turn
BITS = 53  # behind the point of W - J: its rounding is counted in r
MARGIN = 1e-11  # on the estimate of r, which float64 has to about 1e-15
SOURCE = "derived; Sylvester's criterion in whole numbers"


class Certificate(NamedTuple):
    """What was proved of one W: how much of a disagreement one mixing (or one period) leaves, and how exact its sums are."""

    clients: int
    period: int
    rho: float  # r, proved; NaN where nothing was
    margin: float  # r minus the float64 estimate
    row_defect: float  # e, an upper bound
    column_defect: float  # c, an upper bound
    nonnegative: bool  # every entry, exactly
    proved: bool
    note: str  # what was proved, or why nothing was

    @property
    def line(self) -> str:
        """Return the certificate in a line for people, folded as the doctor's are."""
        words = f"certificate: {self.note}"
        return fill(words, 110, subsequent_indent=" " * 8, break_on_hyphens=False)


def certify(W: Matrix | Topology | Sequence[Matrix], rho: float | None = None) -> Certificate:
    """Return the certificate of W, or of a period's product; where nothing is proved it says why.

    `rho` is the factor to be proved, the float64 estimate + MARGIN unless given. Raises BadInput for matrices that are not
    square, finite, and of one size.
    """
    matrices = _matrices(W)
    n, period = matrices[0].shape[0], len(matrices)
    blank = Certificate(n, period, np.nan, np.nan, np.nan, np.nan, False, False, "")
    if n > LARGEST or n * period > LONGEST:
        limit = f"{LARGEST} clients, or clients times matrices above {LONGEST}"
        return blank._replace(note=f"none: whole numbers take too long above {limit}")
    estimate = spectrum(reduce(lambda done, M: M @ done, matrices)).rho
    claimed = estimate + MARGIN if rho is None else rho
    check(0 < claimed < np.inf, "rho", claimed, "a finite number above 0")
    P, places = _product(matrices)
    rows, columns = (
        Fraction(sum((s - 2**places) ** 2 for s in P.sum(axis)), 4**places) for axis in (1, 0)
    )
    known = blank._replace(
        row_defect=exact.root_above(rows),
        column_defect=exact.root_above(columns / n),
        nonnegative=bool((P >= 0).all()),
    )
    if not contracts(P, places, claimed):
        return known._replace(note=f"none: rho <= {claimed:.12g} is not so, or too near to prove")
    known = known._replace(rho=claimed, margin=claimed - estimate, proved=True)
    return known._replace(note=_note(known))


def _matrices(W: Matrix | Topology | Sequence[Matrix]) -> tuple[Matrix, ...]:
    if isinstance(W, Topology):
        return W.matrices
    listed: Any = [W] if issparse(W) or np.ndim(W[0]) < 2 else W
    matrices = tuple(M if issparse(M) else np.asarray(M, dtype=np.float64) for M in listed)
    n = matrices[0].shape[0]
    for M in matrices:
        sound = M.shape == (n, n) and n > 0 and bool(np.isfinite(numbers(M)).all())
        check(sound, "W", M.shape, "square, finite, and of one size")
    return matrices


def _note(found: Certificate) -> str:
    each = "one mixing" if found.period == 1 else f"a period of {found.period} mixings"
    shown = np.ceil(found.rho * 1e12) / 1e12  # rounded up
    sums = f"e = {found.row_defect:.2g} (rows) and c = {found.column_defect:.2g} (columns)"
    return f"rho <= {shown:.12f} for {each}, proved in whole numbers from W's own digits; sums off 1 by {sums}"


def contracts(P: exact.Whole, places: int, rho: float) -> bool:
    """Say whether || P / 2^places - J ||_2 <= rho is proved.

    P / 2^places - J is rounded down to BITS binary places; what that may hide, N 2^-BITS in norm, is taken off rho first.
    """
    n = len(P)
    left = Fraction(rho) - Fraction(n, 2**BITS)
    if left <= 0:
        return False
    B = (n * P - 2**places) * 2**BITS // (n * 2**places)
    M = -(B.T @ B)
    M[np.diag_indices(n)] += int(left**2 * 4**BITS)  # rounded down too
    return exact.positive_definite(M)


def _product(matrices: Sequence[Matrix]) -> tuple[exact.Whole, int]:
    """Return the exact product W_k ... W_1 as whole numbers over a power of 2."""
    parts = [exact.digits(dense(W)) for W in matrices]
    return reduce(lambda done, W: W @ done, [W for W, _ in parts]), sum(k for _, k in parts)


def certified_gossip(W: Array, X: Array, mixings: int, rho: float | None = None) -> Bound:
    """Return the disagreement after 1 .. `mixings` of the library's own, beside the certified bound.

    `rho` stands in for the certified factor, to see what breaks. Raises BadInput where W has no certificate.
    """
    found = certify(W)
    check(found.proved, "W", found.note, "a matrix that can be certified")
    x, mix = _tensor(X), mixer(W, _tensor(X))
    r, n = found.rho if rho is None else rho, len(W)
    apart, mean = float((x - x.mean(0)).norm()), float(x.mean(0).norm())
    lhs, rhs = [], []
    for _ in range(mixings):
        x = mix(x)
        lhs.append(float((x - x.mean(0)).norm()))
        size = (apart**2 + n * mean**2) ** 0.5
        apart = r * apart + found.row_defect * mean
        mean = mean + found.column_defect * size / n**0.5
        rhs.append(apart)
    lost = np.finfo(float).eps * n * float(np.linalg.norm(X)) * np.arange(1, mixings + 1)
    return Bound(np.array(lhs), np.array(rhs), "certified gossip", SOURCE, "mixing", rounding=lost)


def _tensor(X: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(X, dtype=np.float64))


def examples(seed: int = 0) -> dict[str, Bound]:
    """Return the witness on a ring, on a random graph, and random models far from zero on a ring."""
    ring, drawn = topology("ring", 8).at(0), topology("erdos-renyi", 8, seed=seed).at(0)
    far = 1e6 + np.random.default_rng([seed, 0xCE]).standard_normal((8, 5))
    return {
        "the witness on a ring": certified_gossip(ring, witness(ring), 30),
        "the witness on a random graph": certified_gossip(drawn, witness(drawn), 30),
        "models far from 0 on a ring": certified_gossip(ring, far, 30),
    }


def broken(seed: int = 0) -> Bound:
    """Return the witness against a factor that is a thousandth too small."""
    ring = topology("ring", 8).at(0)
    return certified_gossip(ring, witness(ring), 5, rho=certify(ring).rho * 0.999)
