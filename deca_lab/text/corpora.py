"""Corpora: labelled rows of text, embedded in every Python, from a local file, or from the hub."""

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from textwrap import shorten
from typing import NamedTuple, NoReturn

import numpy as np

from deca_lab.errors import BadInput, check, pick
from deca_lab.text import columns, in_memory, instructions, markov, stdlib_text, tables
from deca_lab.text import village as villagers
from deca_lab.text.shakespeare import speeches
from deca_lab.text.stdlib_text import LabelledTexts, paragraphs, unlike


class Corpus(NamedTuple):
    """Labelled text: `texts[i]` is a row with label `label_names[labels[i]]`; no text occurs twice.

    `fingerprint` is a SHA-256 over label names, labels, texts and answers. `notes` say in plain
    words what was guessed or dropped. `entropy` is the exact entropy rate of each label's source
    (nats per byte), known for "markov" and "village" only. Where the rows are instructions, `answers[i]` is what
    should follow `texts[i]`.
    """

    name: str
    texts: tuple[str, ...]
    labels: np.ndarray  # (rows,) int64
    label_names: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()
    entropy: np.ndarray | None = None  # (labels,) float64
    answers: tuple[str, ...] | None = None


def from_rows(name: str, rows: Iterable[tuple[str, ...]], notes: Sequence[str] = ()) -> Corpus:
    """Make a corpus of rows (text, label name), or (text, label name, answer) throughout.

    Rows that lack a text or an answer and repeated texts are dropped, and the notes say so. Lines of
    a label end as they do in Unix: a bare carriage return would end a row of the run's tables.
    """
    kept: dict[str, tuple[str, ...]] = {}
    given = list(rows)
    whole = [row for row in given if all(row[i].strip() for i in (0, *range(2, len(row))))]
    others = 0
    for text, label, *answer in whole:
        plain = label.replace("\r\n", "\n").replace("\r", "\n").strip() or columns.UNLABELLED
        row = kept.setdefault(text.strip("\n"), (plain, *(part.strip() for part in answer)))
        others += row[0] != plain
    if not kept:
        raise BadInput(f"corpus {name!r} has no text: {len(given)} rows given, all of them empty")
    given_labels, *given_answers = zip(*kept.values(), strict=True)
    label_names, indices = np.unique(np.array(given_labels, dtype=object), return_inverse=True)
    names, labels = tuple(label_names.tolist()), indices.astype(np.int64)
    texts, answers = tuple(kept), given_answers[0] if given_answers else None
    counts = {"repeated": len(whole) - len(kept), "empty": len(given) - len(whole)}
    dropped = [f"{count} {kind} rows dropped" for kind, count in counts.items() if count]
    dropped += [f"{others} of the repeated rows had another label"] if others else []
    bare = sum(label == columns.UNLABELLED for label, *_ in kept.values())
    dropped += [f"{bare} rows have no label: it is '{columns.UNLABELLED}'"] if bare else []
    dropped += _alike(names, sum(label != label.strip() for _, label, *_ in whole))
    print_ = fingerprint(names, labels, texts, answers)
    return Corpus(name, texts, labels, names, print_, (*notes, *dropped), answers=answers)


def _alike(names: Sequence[str], spaced: int) -> list[str]:
    """The notes of labels that were written in several ways: with spaces around, or in other letters."""
    folded = Counter(name.casefold() for name in names)
    cases = [name for name in names if folded[name.casefold()] > 1]
    notes = [f"spaces around the label dropped in {spaced} rows"] if spaced else []
    shown = shorten(", ".join(map(repr, cases)), 120)
    return [
        *notes,
        *([f"labels that differ in case alone stay different: {shown}"] if cases else []),
    ]


def fingerprint(
    names: Sequence[str],
    labels: np.ndarray,
    texts: Sequence[str],
    answers: Sequence[str] | None = None,
) -> str:
    """SHA-256, in hex, over label names, labels, texts and answers, each with its length."""
    digest = hashlib.sha256(np.asarray([len(names), len(texts)], dtype="<i8").tobytes())
    digest.update(np.ascontiguousarray(labels, dtype="<i8").tobytes())
    for text in (*names, *texts, *(answers or ())):
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()


def from_chains(
    sources: int = 8,
    rows: int = 200,
    length: int = 1024,
    symbols: int = 16,
    concentration: float = 0.2,
    seed: int = 0,
) -> Corpus:
    """Generated text: `sources` labels, each a random Markov chain over `symbols` letters with a known entropy rate.

    `rows` texts a label, `length` characters each; small `concentration` means predictable text. A row's first letter
    is drawn from the stationary law, so a row costs (H(pi) - rate) / length nats a byte more than `entropy` says.
    """
    matrices = markov.chains(sources, symbols, concentration, seed)
    names = [f"chain {i:0{len(str(sources - 1))}d}" for i in range(sources)]
    draws = (np.random.default_rng([seed, i, 1]) for i in range(sources))
    texts = map(markov.texts, matrices, repeat(rows), repeat(length), draws)
    pairs = [(text, name) for name, some in zip(names, texts, strict=True) for text in some]
    note = f"generated with seed {seed}: {sources} chains over {symbols} letters"
    corpus = from_rows("markov", pairs, (note,))
    rates = dict(zip(names, map(markov.entropy_rate, matrices), strict=True))
    return corpus._replace(entropy=np.array([rates[name] for name in corpus.label_names]))


def _embedded(
    name: str, rows: Callable[[], LabelledTexts], keep: Callable[[LabelledTexts], LabelledTexts]
) -> Callable[[int], Corpus]:
    @lru_cache(maxsize=1)
    def read() -> Corpus:
        whole = rows()
        kept = keep(whole)
        alike = f"{len(whole) - len(kept)} rows dropped that repeat a stretch of another"
        python = f"read from Python {'.'.join(map(str, sys.version_info[:3]))}"
        return from_rows(name, kept, (python, *([alike] if len(kept) < len(whole) else ())))

    def corpus(seed: int) -> Corpus:
        return read()

    corpus.__doc__ = rows.__doc__
    return corpus


@lru_cache(maxsize=4)
def generated(seed: int) -> Corpus:
    """Text of random Markov chains, one a label, whose exact entropy rate is known."""
    return from_chains(seed=seed)


@lru_cache(maxsize=4)
def _instructions(seed: int) -> Corpus:
    """Generated instructions with one right answer each, label = skill (reverse, sort, add, look-up ...)."""
    rows = instructions.instructions(seed)
    return from_rows("instructions", rows, (f"generated with seed {seed}",))


@lru_cache(maxsize=1)
def _shakespeare(seed: int) -> Corpus:
    """Speeches of eight people in Shakespeare's plays, label = who speaks."""
    return from_rows("shakespeare", speeches())


@lru_cache(maxsize=4)
def _village(seed: int) -> Corpus:
    """Eight villagers who each write one kind of text (weather, recipes, letters ...), of known entropy."""
    rows = villagers.village(seed)
    corpus = from_rows("village", rows, (f"generated with seed {seed}",))
    rates = villagers.entropy_rates(rows)
    return corpus._replace(entropy=np.array([rates[name] for name in corpus.label_names]))


CORPORA: dict[str, Callable[[int], Corpus]] = {  # a seed, which only generated text heeds -> corpus
    "stdlib": _embedded("stdlib", stdlib_text.stdlib, unlike),
    "modules": _embedded("modules", stdlib_text.modules, list),  # the very text the base learnt
    "topics": _embedded("topics", stdlib_text.topics, unlike),
    "markov": generated,
    "instructions": _instructions,
    "shakespeare": _shakespeare,
    "village": _village,
}


class Asked(NamedTuple):
    """The columns that somebody named, as `columns.rows` takes them."""

    text: str | Sequence[str] | None = None
    label: str | None = None
    answer: str | None = None


def load(
    name: str | Path,
    *,
    split: str = "train",
    revision: str | None = None,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    answer: str | None = None,
    labels: Sequence[str] | None = None,
    max_rows: int | None = None,
    seed: int = 0,
) -> Corpus:
    """Load a corpus of CORPORA, a file, a folder of `save_to_disk`, or a hub dataset.

    Files end in .txt, .json, .jsonl, .csv, .tsv or .parquet. `text` (one column, or several that
    are joined by newlines) and `label` are for tables; what is not named is guessed, and the
    corpus's notes say how. `split` is for the hub and for a saved DatasetDict, `revision` for the
    hub. Hub names: "ag_news", "owner/name", "glue/mnli" or "owner/name:config". `answer` asks for
    the corpus's answers: a column, which then is no part of the text, or "" to guess it; a corpus
    that brings its answers along needs no asking. `labels` keeps the rows of these label names,
    `max_rows` a random choice made with `seed`. Raises BadInput for what cannot be found or read; a
    hub that does not answer takes 3 seconds.
    """
    _check_choice(max_rows, seed)
    read = _registered if name in CORPORA else _outside
    whole = read(str(name), seed, split, revision, Asked(text, label, answer))
    return _chosen(whole, labels, max_rows, seed)


def corpus_of(
    data: object,
    *,
    name: str = "own rows",
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    answer: str | None = None,
    labels: Sequence[str] | None = None,
    max_rows: int | None = None,
    seed: int = 0,
) -> Corpus:
    """Make a corpus of rows that are in memory, as `load` does of a file with the same rows.

    `data` is a `datasets.Dataset`, a pandas DataFrame, a list of strings, of dicts, of tuples
    (text, label) or (text, label, answer), or a Corpus, which stays what it is. The other arguments
    are those of `load`; columns can be named where there are columns. Raises BadInput.
    """
    _check_choice(max_rows, seed)
    check(isinstance(name, str) and bool(name.strip()), "name", name, "a few words")
    table, asked = in_memory.table_of(data), Asked(text, label, answer)
    if table is not None:
        with tables.quiet():  # a Dataset that was shuffled or filtered is put in order under a bar
            whole = from_rows(name, *columns.rows(table, *asked))
    else:
        allowed = "left out: there are no columns"
        check(not any(asked), "text, label, answer", tuple(asked), allowed)
        whole = data if isinstance(data, Corpus) else from_rows(name, in_memory.rows_of_list(data))
    return _chosen(whole, labels, max_rows, seed)


def _check_choice(max_rows: int | None, seed: int) -> None:
    check(max_rows is None or max_rows >= 1, "max_rows", max_rows, "at least 1, or None for all")
    check(seed >= 0, "seed", seed, "non-negative")


def _chosen(
    corpus: Corpus, labels: Sequence[str] | None, max_rows: int | None, seed: int
) -> Corpus:
    """The rows of these labels, and of them so many at most."""
    if labels is not None:
        corpus = subset(corpus, _rows_of(corpus, labels))
    if max_rows is None or max_rows >= len(corpus.texts):
        return corpus
    rng = np.random.default_rng([seed, 2])
    return subset(corpus, np.sort(rng.choice(len(corpus.texts), max_rows, replace=False)))


def subset(corpus: Corpus, rows: np.ndarray) -> Corpus:
    """Return the corpus of the given row indices; label names without rows go."""
    kept, labels = np.unique(corpus.labels[rows], return_inverse=True)
    names = tuple(corpus.label_names[i] for i in kept)
    texts = tuple(corpus.texts[i] for i in rows)
    answers = None if corpus.answers is None else tuple(corpus.answers[i] for i in rows)
    return corpus._replace(
        texts=texts,
        labels=labels.astype(np.int64),
        label_names=names,
        fingerprint=fingerprint(names, labels, texts, answers),
        notes=(*corpus.notes, f"{len(rows)} of {len(corpus.texts)} rows kept"),
        entropy=None if corpus.entropy is None else corpus.entropy[kept],
        answers=answers,
    )


def _rows_of(corpus: Corpus, labels: Sequence[str]) -> np.ndarray:
    wanted = (labels,) if isinstance(labels, str) else tuple(labels)
    known = bool(wanted) and set(wanted) <= set(corpus.label_names)
    check(known, "labels", list(wanted), f"one or more of {', '.join(corpus.label_names)}")
    kept = [corpus.label_names.index(label) for label in wanted]
    return np.flatnonzero(np.isin(corpus.labels, kept))


def _registered(name: str, seed: int, split: str, revision: str | None, asked: Asked) -> Corpus:
    """A corpus of the table, which has its own split and columns."""
    given = (split, revision, *asked)
    plain = split == "train" and not any((revision, *asked))
    allowed = f"left out: {name!r} is embedded and has its own"
    check(plain, "split, revision, text, label, answer", given, allowed)
    rows = CORPORA[name](seed)
    try:
        return corpus_of(rows, name=name)._replace(name=name)
    except BadInput as error:
        raise BadInput(f"what corpus {name!r} returns: {error}") from None


def _outside(name: str, seed: int, split: str, revision: str | None, asked: Asked) -> Corpus:
    """A corpus of a file, a folder or the hub, whichever the name looks like."""
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:  # "~stranger/x.txt"
        raise BadInput(f"corpus {name!r} cannot be read: {error}") from None
    known = path.suffix.lower() in tables.KINDS or bool(name and os.path.exists(path))
    if known or name.startswith(("/", "~", ".")):
        check(not revision, "revision", revision, "left out: only datasets of the hub have one")
        read = _of_folder if tables.is_saved(path) else _of_file
        return read(path, split, asked)
    if tables.dataset_name(name) is None:
        _unknown(name)
    return from_rows(name, *columns.rows(tables.from_hub(name, split, revision), *asked))


def _of_folder(path: Path, split: str, asked: Asked) -> Corpus:
    return from_rows(path.name, *columns.rows(tables.from_folder(path, split), *asked))


def _of_file(path: Path, split: str, asked: Asked) -> Corpus:
    check(split == "train", "split", split, "left out: a local file has no splits")
    if path.suffix.lower() == ".txt":
        allowed = "left out: rows of a .txt file are paragraphs, without columns"
        for what, given in asked._asdict().items():
            check(given is None, what, given, allowed)
        raw = tables.read(path).decode("utf-8-sig")
        text = raw.replace("\r\n", "\n").replace("\r", "\n")
        parts = [(part, "all") for part in paragraphs(text)]
        return from_rows(path.name, parts, ("rows are paragraphs",))
    named = [*columns.split_names(asked.text), *filter(None, (asked.label, asked.answer))]
    table, noticed = tables.from_file(path, named)
    rows, notes = columns.rows(table, *asked)
    return from_rows(path.name, rows, (*noticed, *notes))


def _unknown(name: str) -> NoReturn:
    """Raise for a name that is nothing we know: with the nearest names and the other forms."""
    try:
        pick({**CORPORA, **tables.CANONICAL}, name, "corpus")
    except BadInput as error:
        forms = f"a file ending in {', '.join(tables.KINDS)}, or a hub dataset written owner/name"
        raise BadInput(f"{error}, {forms}") from None
    raise AssertionError(name)
