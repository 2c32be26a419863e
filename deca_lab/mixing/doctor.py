"""Checks a mixing matrix, or a periodic list of them, before a run, and explains in plain words whether it is sound.

Sums are judged within 1e-9. A list is judged on the product over one period: a single matching is never connected.
Notation: J = 11'/N; rho = ||W - J||_2, the second singular value, is the factor by which one mixing shrinks
disagreement (the Frobenius norm of X - mean). For a W that is not symmetric the second eigenvalue is not that factor.
"""

from collections.abc import Sequence
from math import inf, isnan, nan
from textwrap import fill
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from deca_lab.errors import BadInput, quoted
from deca_lab.mixing.graphs import Array
from deca_lab.mixing.matrix import Matrix, asymmetry, by_edges, held, numbers
from deca_lab.mixing.spectrum import (
    TINY,
    Product,
    Split,
    cycle_length,
    heard_in_turn,
    islands,
    largest,
    prefixes,
    rounds_to_thousandth,
    spectrum,
)
from deca_lab.mixing.topology import Topology, not_finite, require_unmasked

TOLERANCE = 1e-9  # on row and column sums
LARGEST = 1e100  # of an entry: beyond it the spectrum is no longer a finite number

Subject: TypeAlias = Topology | Matrix | Sequence[Matrix]


class Diagnosis(NamedTuple):
    """What the doctor found; over a period the worst of each matrix, and rho and lambda2 are means per mixing."""

    name: str
    note: str
    clients: int
    period: int
    square: bool
    finite: bool
    nonnegative: bool
    row_error: float  # max |row sum - 1|
    column_error: float  # max |column sum - 1|
    symmetric: bool
    connected: bool  # everybody's model reaches everybody
    aperiodic: bool
    rho: float  # second singular value
    rho_error: float  # 0 where exact; else rho may be larger by about this much
    lambda2: float  # second eigenvalue modulus; NaN where not computed
    rounds_1000: float  # mixings that shrink disagreement 1000-fold; inf where it never does, NaN where not computed
    edges: float  # models sent at each mixing
    verdict: Literal["sound", "unsound"]
    reasons: tuple[str, ...]  # why it is unsound, and what that means for training
    remarks: tuple[str, ...]  # what is worth knowing about a sound one


def diagnose(subject: Subject) -> Diagnosis:
    """Return the diagnosis of a topology, of one W, dense or sparse, or of a list of them that are used in turn."""
    name, note, matrices = _matrices(subject)
    square = all(W.shape == (matrices[0].shape[0],) * 2 and 0 not in W.shape for W in matrices)
    finite = all(bool(np.isfinite(numbers(W)).all()) for W in matrices)
    if not (square and finite):
        return _hopeless(name, note, matrices, square, finite)
    with np.errstate(over="ignore", invalid="ignore"):
        products = prefixes(matrices)  # W_k ... W_1
        fits = all(largest(W) < LARGEST for W in (*((W,) for W in matrices), *products))
    if not fits:
        return _hopeless(name, note, matrices, square, finite=False)
    seen = _with_graph(_with_entries(name, note, matrices), matrices, products[-1])
    return _with_verdict(_with_spectrum(seen, products))


def _with_entries(name: str, note: str, matrices: tuple[Matrix, ...]) -> Diagnosis:
    """Return what the entries of finite square matrices show; the graph and the spectrum are still to come."""
    sent = (np.count_nonzero(numbers(W)) - np.count_nonzero(W.diagonal()) for W in matrices)
    return _blank(name, note, matrices)._replace(
        nonnegative=all(bool((numbers(W) >= 0).all()) for W in matrices),
        row_error=max(float(np.abs(W.sum(1) - 1).max()) for W in matrices),
        column_error=max(float(np.abs(W.sum(0) - 1).max()) for W in matrices),
        symmetric=all(asymmetry(W) <= TINY for W in matrices),
        edges=int(sum(sent)) / len(matrices),
    )


def _with_graph(d: Diagnosis, matrices: tuple[Matrix, ...], whole: Product) -> Diagnosis:
    """Return the diagnosis with what the graph of the period's product `whole` shows, and what is wrong so far."""
    in_turn = len(whole) > 1
    support = heard_in_turn(matrices) if in_turn else abs(whole[0]) > TINY * (d.period > 1)
    # who hears itself at each mixing does so at all of them together: no cycle need be looked for
    steady = in_turn and all(W.diagonal().all() for W in matrices)
    parts = islands(support, d.clients)
    cycle = 1 if steady else cycle_length(support, d.period if in_turn else 1)
    return d._replace(
        connected=parts is None, aperiodic=cycle == 1, reasons=_reasons(matrices, parts, cycle)
    )


def _with_spectrum(d: Diagnosis, products: list[Product]) -> Diagnosis:
    """Return the diagnosis with rho, lambda2 and the mixings to a thousandth, from the products W_k ... W_1."""
    whole, each = spectrum(*products[-1]), 1 / d.period
    stochastic = d.nonnegative and max(d.row_error, d.column_error) <= TOLERANCE
    primitive = stochastic and d.connected and d.aperiodic
    return d._replace(
        rho=0.0 if whole.rho < TINY else whole.rho**each,
        rho_error=(whole.rho + whole.error) ** each - whole.rho**each,
        lambda2=whole.lambda2**each,
        rounds_1000=rounds_to_thousandth(products, whole.rho, primitive),
    )


def require_sound(subject: Subject, *, allow_unsound: bool = False) -> Diagnosis:
    """Return the diagnosis; raise BadInput with the reasons where W is unsound, unless a lesson asked for it.

    `allow_unsound` (`--allow-unsound`) lets an unsound W pass, but never one that is not square or not finite.
    """
    d = diagnose(subject)
    matrix = d.square and d.finite
    if d.verdict == "sound" or (allow_unsound and matrix):
        return d
    allow = "; to run it all the same, for a lesson, give --allow-unsound (allow_unsound=True)"
    way = allow if matrix else ""
    raise BadInput(
        f"topology {d.name!r} with {d.clients} clients is unsound: {'; '.join(d.reasons)}{way}"
    )


def doubly_stochastic(W: Matrix) -> bool:
    """Say whether W (N, N) has no negative entry and rows and columns that sum to 1: what keeps the mean of the clients."""
    off = np.abs(np.concatenate([W.sum(0), W.sum(1)]) - 1)
    return bool((numbers(W) >= 0).all() and off.max() <= TOLERANCE)  # NaN is neither


def describe(subject: Diagnosis | Subject) -> str:
    """Return the diagnosis as aligned lines, check, result, what it means; the last line is the verdict."""
    d = subject if isinstance(subject, Diagnosis) else diagnose(subject)
    rows = [("check", "result", "what it means"), *_rows(d)]
    first = max(len(name) for name, _, _ in rows)
    second = max(len(result) for _, result, _ in rows)
    table = [f"{a:<{first}}  {b:<{second}}  {c}" for a, b, c in rows]
    notes = [_folded("remark", text) for text in d.remarks]
    notes += [_folded("reason", text) for text in d.reasons]
    title = f"mixing matrix of {d.clients} clients: {d.name}" + (f" ({d.note})" if d.note else "")
    verdict = d.verdict if d.verdict == "sound" else "unsound, refused"
    lesson = verdict != "sound" and d.square and d.finite
    flag = "; a lesson may run it with --allow-unsound" if lesson else ""
    return "\n".join([title, *table, *notes, f"verdict: {verdict}{flag}"])


def _folded(kind: str, text: str) -> str:
    return fill(f"{kind}: {text}", 110, subsequent_indent=" " * 8, break_on_hyphens=False)


Fact = tuple[str, str, str]  # check, result, what it means
SHAPE = (  # check, what it means where it holds, and where it does not
    ("square", "a row and a column for each client", "each client needs a row and a column"),
    ("finite", "no NaN, no infinity", "NaN or infinity would spread into every model"),
)
AVERAGE = (("non-negative", "each mixing is an average of models", "some models are subtracted"),)
GRAPH = (
    ("symmetric", "i weighs j as j weighs i", "i may weigh j otherwise than j weighs i"),
    ("connected", "every model reaches every client", "some models never reach some clients"),
    ("aperiodic", "no disagreement bounces for ever", "some disagreement bounces for ever"),
)


def _rows(d: Diagnosis) -> list[Fact]:
    if not (d.square and d.finite):
        return _facts(d, SHAPE)
    agree = "clients that agree stay as they are", "clients that agree are moved"
    mean = "mixing keeps the network mean", "mixing moves the network mean"
    return [
        *_facts(d, (*SHAPE, *AVERAGE)),
        _total("row sums", d.row_error, *agree),
        _total("column sums", d.column_error, *mean),
        *_facts(d, GRAPH),
        ("messages", f"{d.edges:g}", "models sent at each mixing"),
        *_factors(d),
    ]


def _facts(d: Diagnosis, checks: Sequence[Fact]) -> list[Fact]:
    holds = [bool(getattr(d, name.replace("-", ""))) for name, _, _ in checks]
    rows = zip(checks, holds, strict=True)
    return [(name, "yes" if ok else "NO", good if ok else bad) for (name, good, bad), ok in rows]


def _total(name: str, error: float, good: str, bad: str) -> Fact:
    return (name, "1", good) if error <= TOLERANCE else (name, f"1 ± {error:.3g}", bad)


def _factors(d: Diagnosis) -> list[Fact]:
    means = "one mixing leaves at most this part of the disagreement"
    if d.period > 1:
        means = f"a mixing's mean factor on disagreement, over the {d.period} of a period"
    rho = _near_one(d.rho) + (f" to {_near_one(d.rho + d.rho_error)}" if d.rho_error else "")
    second = "second eigenvalue modulus: not a valid factor for this W"
    plain = [] if d.symmetric or d.period > 1 else [("lambda2", _near_one(d.lambda2), second)]
    rounds = f"{d.rounds_1000:.0f}" if d.rounds_1000 < inf else "never"
    rounds = "not computed" if isnan(d.rounds_1000) else rounds
    last = ("1000-fold", rounds, "mixings that shrink disagreement 1000-fold")
    return [("rho", rho, means), *plain, last]


def _near_one(factor: float) -> str:
    """Write a factor so that only 1 itself is written as 1."""
    gap = 1 - factor
    return f"1 - {gap:.3g}" if TINY < gap < 1e-5 else f"{round(factor, 6):g}"


# ---- reading the subject


def _matrices(subject: Subject) -> tuple[str, str, tuple[Matrix, ...]]:
    """Return name, note and float64 matrices; a list of rows is one matrix."""
    if isinstance(subject, Topology):
        return subject.name, subject.note, subject.matrices
    require_unmasked(subject, "matrix")
    try:
        one = issparse(subject) or np.ndim(subject[0]) < 2
        listed = [subject] if one else list(subject)
        return "matrix", "", tuple(map(_real, listed))
    except (TypeError, ValueError, IndexError, KeyError):
        allowed = "a topology, an array of numbers or a list of arrays"
        raise BadInput(f"the doctor was given {quoted(subject)[:80]}: it takes {allowed}") from None


def _real(W: Any) -> Matrix:  # noqa: ANN401 - rows of numbers, an array, or a sparse one
    if issparse(W):
        return held(by_edges(W.astype(np.float64)))
    return np.atleast_2d(np.asarray(W, dtype=np.float64))


def _hopeless(
    name: str, note: str, matrices: tuple[Matrix, ...], square: bool, finite: bool
) -> Diagnosis:
    """Return the diagnosis of what is no mixing matrix at all."""
    reasons = []
    if not square:
        shapes = " and ".join(sorted({" x ".join(map(str, W.shape)) for W in matrices}))
        each = "while each of N clients needs one row and one column in every matrix"
        reasons.append(f"not square: {shapes}, {each}")
    if not finite:
        wild = [place for place in map(not_finite, matrices) if place]
        spreads = "and mixing would spread it into every model it reaches"
        reasons += [f"not finite: entry {(i, j)} is {w}, {spreads}" for i, j, w in wild[:1]] or [
            f"too large: an entry of W, or of its products, is beyond {LARGEST:g}"
        ]
    blank = _blank(name, note, matrices)
    return blank._replace(square=square, finite=finite, verdict="unsound", reasons=tuple(reasons))


def _blank(name: str, note: str, matrices: tuple[Matrix, ...]) -> Diagnosis:
    """Return a diagnosis of which nothing is known yet but the size."""
    return Diagnosis(
        name, note, matrices[0].shape[0], len(matrices), square=True, finite=True, nonnegative=False, row_error=nan,
        column_error=nan, symmetric=False, connected=False, aperiodic=False, rho=nan, rho_error=0.0, lambda2=nan, rounds_1000=inf,
        edges=nan, verdict="sound", reasons=(), remarks=(),
    )  # fmt: skip


# ---- words


def _reasons(matrices: tuple[Matrix, ...], islands: Split | None, cycle: int) -> tuple[str, ...]:
    """Return what is wrong with sums and graph, and what it does to training."""
    reasons = []
    if wrong := _wrong_sum([W.sum(1) for W in matrices]):
        reasons.append(f"row {wrong}: mixing scales the models, even where all of them agree")
    if wrong := _wrong_sum([W.sum(0) for W in matrices]):
        drift = "the network mean drifts at every mixing, and clients with large columns are over-weighted"
        reasons.append(f"column {wrong}: {drift}")
    if islands is not None:
        deaf, unheard = map(_set, islands)
        never = f"{deaf} can never hear {unheard}"
        reasons.append(f"disconnected: {never}, so nothing learnt there reaches them")
    if cycle > 1:
        cure = "disagreement along one pattern never shrinks - a lazy W, (I + W)/2, mends it"
        reasons.append(f"period {cycle}: {cure}")
    return tuple(reasons)


def _with_verdict(d: Diagnosis) -> Diagnosis:
    """Return the diagnosis with its verdict, and with remarks where it is sound."""
    if not d.reasons and d.rounds_1000 == inf:
        keeps = f"rho = {d.rho:.6g}: mixing keeps some disagreement for ever, or makes it grow"
        d = d._replace(reasons=(keeps,))
    return d._replace(verdict="unsound") if d.reasons else d._replace(remarks=_remarks(d))


def _remarks(d: Diagnosis) -> tuple[str, ...]:
    negative = "a mixing may leave the range of the models, but disagreement still shrinks"
    skew = "the mean is kept; rho is the factor, lambda2 is not"
    slow = "one mixing may shrink nothing, though many do; bounds that need rho < 1 do not hold"
    longer = f"it may be {d.rho_error:.1g} larger, and 1000-fold may take longer"
    powers = "many mixings still keep some disagreement, though more end it"
    known = {
        f"negative entries: {negative}": not d.nonnegative,
        f"not symmetric, yet doubly stochastic: {skew}": not d.symmetric,
        f"rho = 1: {slow}": d.rho >= 1 - TINY,
        f"rho is iterated: {longer}": d.rho_error > 0,
        f"1000-fold is not computed: {powers}": isnan(d.rounds_1000),
    }
    return tuple(remark for remark, holds in known.items() if holds)


def _wrong_sum(sums: list[Array]) -> str:
    """Return the sum furthest from 1 in words, or nothing where all are within the tolerance."""
    worst = max(sums, key=lambda s: float(np.abs(s - 1).max()))
    client = int(np.abs(worst - 1).argmax())
    error = abs(worst[client] - 1)
    hint = ", beyond 1e-9: give more digits, or write 1/3 in a CSV" if error < 1e-2 else ""
    words = f"sums reach {worst[client]:.6g}" if error >= 1e-4 else f"sums are off 1 by {error:.1e}"
    return "" if error <= TOLERANCE else f"{words} (client {client}{hint})"


def _set(clients: NDArray[np.int64]) -> str:
    more = f", ... {len(clients)} in all" if len(clients) > 6 else ""
    shown = ", ".join(map(str, clients[:6])) + more
    return f"{'client' if len(clients) == 1 else 'clients'} {{{shown}}}"
