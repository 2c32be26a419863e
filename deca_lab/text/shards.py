"""Rows to shards: who holds which rows, each client's token stream, and the batches drawn from it."""

from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deca_lab.errors import BadInput, check, pick
from deca_lab.text.corpora import Corpus
from deca_lab.text.tokens import end_of_text, stream, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_ALPHA = 1e9  # where a Dirichlet draw is even to four digits
MORE_TEXT = "the split iid, fewer clients, a larger alpha"
DRAWS = 1000  # of random proportions, at most, until every client has its rows


class Split(NamedTuple):
    """Row indices, sorted, in sets that never overlap: each client's own, and the common test set."""

    train: tuple[np.ndarray, ...]  # N arrays of int64
    validation: tuple[np.ndarray, ...]  # N arrays, empty ones where none were asked for
    test: np.ndarray  # (rows,) int64
    notes: tuple[str, ...] = ()


class SplitRequest(NamedTuple):
    """What a row of SPLITS is given. `labels` belong to the rows that are to be dealt, in corpus order."""

    labels: np.ndarray  # (rows,) 0 ... L-1
    clients: int
    alpha: float
    minimum: int  # rows that each client must get
    shares: Sequence[Sequence[float]] | None  # (N, L), for "shares"
    rng: np.random.Generator


Deal = tuple[list[np.ndarray], str]  # positions of each client's rows, and a note


def iid(request: SplitRequest) -> Deal:
    """Every client gets equally many rows, drawn at random."""
    rows = request.rng.permutation(len(request.labels))
    return np.array_split(rows, request.clients), "rows dealt at random"


def contiguous(request: SplitRequest) -> Deal:
    """Every client gets an equally long run of rows in corpus order."""
    rows = np.arange(len(request.labels))
    return np.array_split(rows, request.clients), "runs of rows in corpus order"


def by_label(request: SplitRequest) -> Deal:
    """Whole labels go round the clients; with more clients than labels, the clients of a label share its rows."""
    n, present = request.clients, np.unique(request.labels)
    hands: list[list[np.ndarray]] = [[] for _ in range(n)]
    for i, label in enumerate(present):
        owners = range(i, n, len(present)) if n > len(present) else [i % n]
        rows = request.rng.permutation(np.flatnonzero(request.labels == label))
        for owner, part in zip(owners, np.array_split(rows, len(owners)), strict=True):
            hands[owner].append(part)
    return [np.concatenate(hand) for hand in hands], f"{len(present)} labels dealt whole"


def dirichlet(request: SplitRequest) -> Deal:
    """Each label's rows go to the clients in proportions drawn from Dir(alpha) (Hsu et al. 2019, arXiv 1909.06335)."""
    return _proportional(request, request.labels)


def quantity(request: SplitRequest) -> Deal:
    """The clients' sizes are drawn from Dir(alpha); the labels are dealt at random."""
    return _proportional(request, np.zeros_like(request.labels))


def by_shares(request: SplitRequest) -> Deal:
    """Client i gets the labels in the proportions of row i of a table (N, L); all clients get equally many rows.

    The table [[.15, .85], [.85, .15], [.5, .5]] is Dec-LoRA's for three clients (arXiv 2501.15361).
    """
    counts = np.bincount(request.labels)
    table = _share_table(request, len(counts))
    most = counts / np.maximum(table.sum(axis=0), 1e-12)  # rows a client, before a label runs out
    takes = np.floor(table * most.min() + 1e-9).astype(np.int64)  # (N, L)
    hands: list[list[np.ndarray]] = [[] for _ in range(request.clients)]
    for label in range(len(counts)):
        rows = request.rng.permutation(np.flatnonzero(request.labels == label))
        parts = np.split(rows, np.cumsum(takes[:, label]))
        for hand, part in zip(hands, parts, strict=False):  # the rest is unused
            hand.append(part)
    unused = len(request.labels) - int(takes.sum())
    note = f"{unused} rows unused, to keep the table's shares"
    return [np.concatenate(hand) for hand in hands], note


SPLITS: dict[str, Callable[[SplitRequest], Deal]] = {
    "iid": iid,
    "contiguous": contiguous,
    "by-label": by_label,
    "dirichlet": dirichlet,
    "quantity": quantity,
    "shares": by_shares,
}


def _proportional(request: SplitRequest, labels: np.ndarray) -> Deal:
    """Deal each label's rows in proportions from Dir(alpha), drawn again until every client has `minimum` rows."""
    for draw in range(1, DRAWS + 1):
        cuts = _cuts(request, np.bincount(labels))
        sizes = np.diff(cuts, axis=0).sum(axis=1)  # (N,)
        if sizes.min() >= request.minimum:
            note = f"proportions from Dir({request.alpha:g}), draw {draw}"
            return _hand_out(labels, cuts, request.rng), note
    poor = int(sizes.argmin())
    raise BadInput(
        f"client {poor} got {sizes[poor]} rows and needs {request.minimum}, after {DRAWS} draws of "
        f"Dir({request.alpha:g}) for {request.clients} clients over {len(labels)} rows: raise alpha, "
        "or take fewer clients or more rows"
    )


def _cuts(request: SplitRequest, counts: np.ndarray) -> np.ndarray:
    """(N+1, L): client i takes a label's rows from cuts[i] to cuts[i + 1]."""
    alphas = np.full(request.clients, request.alpha)
    proportions = request.rng.dirichlet(alphas, size=len(counts)).T  # (N, L)
    proportions = np.nan_to_num(proportions)  # a tiny alpha underflows to 0 / 0
    inner = np.rint(np.cumsum(proportions, axis=0)[:-1] * counts).astype(np.int64)
    return np.vstack([np.zeros_like(counts), inner, counts])


def _hand_out(labels: np.ndarray, cuts: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    rows = (rng.permutation(np.flatnonzero(labels == i)) for i in range(cuts.shape[1]))
    parts = [np.split(mine, cuts[1:-1, i]) for i, mine in enumerate(rows)]
    return [np.concatenate(mine) for mine in zip(*parts, strict=True)]


def _share_table(request: SplitRequest, labels: int) -> np.ndarray:
    shape = (request.clients, labels)
    wanted = f"a table of {shape[0]} clients x {labels} labels, each row non-negative with sum 1"
    try:
        table = np.asarray(request.shares, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        table = np.zeros(0)
    fits = table.shape == shape and bool((table >= 0).all())
    sums = fits and bool(np.allclose(table.sum(axis=1), 1.0, atol=1e-6))
    check(sums, "shares", request.shares, wanted)
    return table


def split(
    labels: np.ndarray,
    clients: int,
    *,
    how: str = "dirichlet",
    alpha: float = 0.25,
    test_share: float = 0.1,
    validation_share: float = 0.1,
    shares: Sequence[Sequence[float]] | None = None,
    seed: int = 0,
) -> Split:
    """Deal rows with `labels` (rows,) to `clients` in the way `how` (a name in SPLITS).

    First `test_share` of each label's rows becomes the common test set; the rest is dealt; then each client holds out
    `validation_share` of its own rows. `alpha` is for "dirichlet" and "quantity": small is uneven. `shares` is the
    table (N, L) of "shares". Raises BadInput for arguments out of range and when a client would stay without rows.
    """
    labels, rng = np.asarray(labels), np.random.default_rng
    check(labels.ndim == 1, "labels", labels.shape, "one label a row")
    check(isinstance(clients, Integral), "clients", clients, "a whole number")
    method = pick(SPLITS, how, "split")
    fine = isinstance(alpha, Real) and 0 < alpha <= MOST_ALPHA
    check(fine, "alpha", alpha, f"positive and at most {MOST_ALPHA:g}")
    wanted = "a table for the split 'shares', None for others"
    check((shares is None) == (how != "shares"), "shares", shares, wanted)
    check(isinstance(seed, Integral) and seed >= 0, "seed", seed, "a whole number from 0 up")
    for name, share in (("test_share", test_share), ("validation_share", validation_share)):
        check(isinstance(share, Real) and 0 <= share < 1, name, share, "at least 0 and below 1")
    least = 2 if validation_share > 0 else 1
    fewest, most = least + (test_share > 0), len(labels) // least
    rows = "rows to share between training, validation and test text"
    check(len(labels) >= fewest, "rows", len(labels), f"{fewest} or more {rows}")
    allowed = f"from 1 to {most}: {len(labels)} rows, at least {least} a client"
    check(1 <= clients <= most, "clients", clients, allowed)
    compact = np.unique(labels, return_inverse=True)[1]
    test = _test_rows(compact, test_share, rng([seed, 0]))
    rest = np.setdiff1d(np.arange(len(labels)), test)
    left = f"smaller: none of the {len(labels)} rows is left for the clients"
    check(len(rest) > 0, "test_share", test_share, left)
    parts, note = method(SplitRequest(compact[rest], clients, alpha, least, shares, rng([seed, 1])))
    _all_served(parts, least, how)
    pairs = [
        _hold_out(rest[part], validation_share, rng([seed, 2, i])) for i, part in enumerate(parts)
    ]
    trains, validations = zip(*pairs, strict=True)
    return Split(trains, validations, test, (f"{how}: {note}",))


def _test_rows(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Stratified: each label gives its share of the rows, rounded so that the sum is right; at least one row in all."""
    counts = np.bincount(labels)
    total = max(1, round(share * len(labels))) if share > 0 else 0
    exact = counts * (total / len(labels))
    takes = np.floor(exact + 1e-9).astype(np.int64)
    short = total - int(takes.sum())
    takes[np.argsort(takes - exact, kind="stable")[:short]] += 1  # largest remainders first
    rows = [rng.permutation(np.flatnonzero(labels == i))[:take] for i, take in enumerate(takes)]
    return np.sort(np.concatenate(rows))


def _all_served(parts: Sequence[np.ndarray], least: int, how: str) -> None:
    sizes = [len(part) for part in parts]
    poor = int(np.argmin(sizes))
    if sizes[poor] < least:
        dealt = f"when {sum(sizes)} rows are dealt by {how!r} to {len(parts)} clients"
        remedy = "take fewer clients, more rows, a smaller test_share, or another split"
        raise BadInput(
            f"client {poor} gets {sizes[poor]} rows and needs {least}, {dealt}: {remedy}"
        )


def _hold_out(
    rows: np.ndarray, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A client's (training, validation) rows; at least one of each where share > 0."""
    count = min(max(1, round(share * len(rows))), len(rows) - 1) if share > 0 else 0
    order = rng.permutation(rows)
    return np.sort(order[count:]), np.sort(order[:count])


class Shards(NamedTuple):
    """The clients' data as token streams, rows closed by the end token."""

    train: tuple[Tensor, ...]  # N streams (tokens,) int64
    validation: tuple[Tensor, ...]  # N streams, empty ones where none were asked for
    test: Tensor  # (tokens,)
    label_counts: np.ndarray  # (N, L) training rows
    label_names: tuple[str, ...]
    context: int  # T
    vocabulary: int  # V, token ids
    notes: tuple[str, ...]  # of the corpus and the split


def build(
    corpus: Corpus,
    parts: Split,
    which: "PreTrainedTokenizerBase",
    context: int,
    whole: bool = False,
) -> Shards:
    """Tokenize a corpus that was split; streams may be shorter than a window (see `require_windows`).

    Texts that are read `whole`, by a head, need no end token.
    """
    check(context >= 1, "context", context, "at least 1 token")
    rows, end = tokenize(corpus.texts, which), None if whole else end_of_text(which)
    train, validation = (
        tuple(stream([rows[i] for i in part], end) for part in each)
        for each in (parts.train, parts.validation)
    )
    test = stream([rows[i] for i in parts.test], end)
    names = corpus.label_names
    counts = np.stack([np.bincount(corpus.labels[p], minlength=len(names)) for p in parts.train])
    notes = (*corpus.notes, *parts.notes)
    return Shards(train, validation, test, counts, names, context, len(which), notes)


def require_windows(data: Shards) -> None:
    """Raise BadInput where a stream is too short for one window of `context` + 1 tokens."""
    for i, (train, validation) in enumerate(zip(data.train, data.validation, strict=True)):
        _long_enough(train, data.context, f"client {i}'s training text", MORE_TEXT)
        if len(validation):
            what = f"client {i}'s validation text"
            _long_enough(validation, data.context, what, "a larger validation_share")
    _long_enough(data.test, data.context, "the test text", "a larger test_share")


def _long_enough(tokens: Tensor, context: int, whose: str, remedy: str) -> None:
    if len(tokens) < context + 1:
        raise BadInput(
            f"{whose} has {len(tokens)} tokens, and a window of context {context} needs {context + 1}: "
            f"take {remedy} or a context of at most {max(len(tokens) - 1, 0)}"
        )


def batch(streams: Sequence[Tensor], context: int, batch_size: int, seed: int, step: int) -> Tensor:
    """Fresh random windows (N, B, T+1) of each client's stream: a pure function of (seed, step), so a run can resume.

    The inputs are [..., :-1] and the targets [..., 1:]. `batch_size` is B, windows of one client.
    """
    check(batch_size >= 1, "batch_size", batch_size, "at least 1")
    check(step >= 0 and seed >= 0, "seed, step", (seed, step), "non-negative")
    room = np.array([len(tokens) - context for tokens in streams])  # places where windows start
    poor = int(room.argmin())
    _long_enough(streams[poor], context, f"client {poor}'s stream", "longer streams")
    draws = np.random.default_rng([seed, step]).random((len(streams), batch_size))
    starts = torch.from_numpy((draws * room[:, None]).astype(np.int64))
    pairs = zip(streams, starts.to(streams[0].device), strict=True)
    return torch.stack([tokens.unfold(0, context + 1, 1)[at] for tokens, at in pairs])


def windows(tokens: Tensor, context: int, limit: int | None = None) -> Tensor:
    """Windows (n, T+1) in order, for evaluation; with `limit`, that many spread evenly over the stream.

    A window starts on the last token of the one before it, so that each token is a target once.
    """
    check(limit is None or limit >= 1, "limit", limit, "at least 1, or None for all")
    _long_enough(tokens, context, "the text", "more text")
    every = tokens.unfold(0, context + 1, context)
    if limit is None or limit >= len(every):
        return every.contiguous()
    return every[torch.arange(limit, device=tokens.device) * len(every) // limit]
