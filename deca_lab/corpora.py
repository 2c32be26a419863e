"""Corpora: labelled rows of text, embedded in every Python, from a local file, or from the hub."""

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from deca_lab import embedded, hub, instructions, markov
from deca_lab.embedded import paragraphs
from deca_lab.errors import BadInput, check, pick

if TYPE_CHECKING:
    from datasets import Dataset


class Corpus(NamedTuple):
    """Labelled text: `texts[i]` is a row with label `label_names[labels[i]]`; no text occurs twice.

    `fingerprint` is a SHA-256 over the label names, labels, texts and answers. `notes` says in plain words what was
    guessed or dropped. `entropy` is the exact entropy rate of each label's source (nats per byte), known for "markov"
    only. Where the rows are instructions, `answers[i]` is what should follow `texts[i]`.
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

    Rows that lack a text or an answer and repeated texts are dropped, and the notes say so.
    """
    kept: dict[str, tuple[str, ...]] = {}
    given = 0
    empty = 0
    for text, label, *answer in rows:
        given += 1
        whole = all(part.strip() for part in (text, *answer))
        empty += not whole
        if whole:
            kept.setdefault(text.strip("\n"), (label, *(part.strip() for part in answer)))
    if not kept:
        raise BadInput(f"corpus {name!r} has no text: {given} rows given, all of them empty")
    given_labels, *given_answers = zip(*kept.values(), strict=True)
    names = tuple(sorted(set(given_labels)))
    index = {label: i for i, label in enumerate(names)}
    labels = np.array([index[label] for label in given_labels], dtype=np.int64)
    answers = given_answers[0] if given_answers else None
    repeats = given - empty - len(kept)
    said = (f"{repeats} repeated rows dropped",) * (repeats > 0) + (f"{empty} empty rows dropped",) * (empty > 0)
    texts = tuple(kept)
    print_ = fingerprint(names, labels, texts, answers)
    return Corpus(name, texts, labels, names, print_, (*notes, *said), answers=answers)


def fingerprint(
    names: Sequence[str], labels: np.ndarray, texts: Sequence[str], answers: Sequence[str] | None = None
) -> str:
    """SHA-256, in hex, over label names, labels, texts and answers; each string enters with its length."""
    digest = hashlib.sha256(np.asarray([len(names), len(texts)], dtype="<i8").tobytes())
    digest.update(np.ascontiguousarray(labels, dtype="<i8").tobytes())
    for text in (*names, *texts, *(answers or ())):
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()


def from_chains(
    sources: int = 8, rows: int = 200, length: int = 1024, symbols: int = 16, concentration: float = 0.2, seed: int = 0
) -> Corpus:
    """Generated text: `sources` labels, each a random Markov chain over `symbols` letters with a known entropy rate.

    `rows` texts a label, `length` characters each; small `concentration` means predictable text. A row's first letter
    is drawn from the stationary law, so a row costs (H(pi) - rate) / length nats a byte more than `entropy` says.
    """
    matrices = markov.chains(sources, symbols, concentration, seed)
    names = [f"chain {i:0{len(str(sources - 1))}d}" for i in range(sources)]
    pairs = (
        (text, names[i])
        for i, matrix in enumerate(matrices)
        for text in markov.texts(matrix, rows, length, np.random.default_rng([seed, i, 1]))
    )
    corpus = from_rows("markov", pairs, (f"generated with seed {seed}: {sources} chains over {symbols} letters",))
    rates = dict(zip(names, map(markov.entropy_rate, matrices), strict=True))
    return corpus._replace(entropy=np.array([rates[name] for name in corpus.label_names]))


def _embedded(name: str, rows: Callable[[], embedded.Rows]) -> Callable[[int], Corpus]:
    python = f"read from Python {'.'.join(map(str, sys.version_info[:3]))}"

    @lru_cache(maxsize=1)
    def read() -> Corpus:
        return from_rows(name, rows(), (python,))

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
    return from_rows("instructions", instructions.instructions(seed), (f"generated with seed {seed}",))


CORPORA: dict[str, Callable[[int], Corpus]] = {  # name -> corpus of a seed, which only generated text heeds
    "stdlib": _embedded("stdlib", embedded.stdlib),
    "modules": _embedded("modules", embedded.modules),
    "topics": _embedded("topics", embedded.topics),
    "markov": generated,
    "instructions": _instructions,
}
TEXT = ("text", "sentence", "content", "document", "article", "body", "review", "question", "prompt")
JOINED = (  # columns that together are a row's text
    *(("instruction", "input", "output"), ("instruction", "output"), ("prompt", "completion"), ("question", "answer")),
    *(("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"), ("question", "sentence")),
)
ANSWER = ("output", "response", "completion", "answer", "target", "summary")
LABEL = ("label", "labels", "category", "topic", "class", "target", "subject", "genre", "source", "task", "language")
MOST_LABELS = 100  # a guessed label column with more distinct values is no label


def load(
    name: str | Path,
    *,
    split: str = "train",
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    answer: str | None = None,
    labels: Sequence[str] | None = None,
    max_rows: int | None = None,
    seed: int = 0,
) -> Corpus:
    """Load an embedded corpus (CORPORA), a local .txt, .json, .jsonl, .csv or .parquet file, or a hub dataset.

    `split`, `text` (one column, or several that are joined by a newline) and `label` are for files and the hub; what is
    not named is guessed, and the corpus's notes say how. Hub names: "ag_news", "owner/name", "glue/mnli" or
    "owner/name:config". `answer` asks for the corpus's answers: a column, which then is no part of the text, or "" to
    guess it; a corpus that brings its answers along needs no asking. `labels` keeps the rows of these label names,
    `max_rows` a random choice made with `seed`.
    Raises BadInput for whatever cannot be found or read; a hub that does not answer takes 3 seconds.
    """
    check(max_rows is None or max_rows >= 1, "max_rows", max_rows, "at least 1, or None for all")
    check(seed >= 0, "seed", seed, "non-negative")
    if name in CORPORA:
        fits = split == "train" and text is None and label is None and not answer
        given = (split, text, label, answer)
        check(fits, "split, text, label, answer", given, f"left out: {name!r} is embedded and has its own")
        corpus = CORPORA[str(name)](seed)
    else:
        corpus = _outside(str(name), split, text, label, answer)
    if labels is not None:
        corpus = subset(corpus, _rows_of(corpus, labels))
    if max_rows is not None and max_rows < len(corpus.texts):
        chosen = np.random.default_rng([seed, 2]).choice(len(corpus.texts), max_rows, replace=False)
        corpus = subset(corpus, np.sort(chosen))
    return corpus


def subset(corpus: Corpus, rows: np.ndarray) -> Corpus:
    """Return the corpus of the given row indices; label names without rows go."""
    kept, labels = np.unique(corpus.labels[rows], return_inverse=True)
    names = tuple(corpus.label_names[i] for i in kept)
    texts = tuple(corpus.texts[i] for i in rows)
    note = f"{len(rows)} of {len(corpus.texts)} rows kept"
    entropy = None if corpus.entropy is None else corpus.entropy[kept]
    answers = None if corpus.answers is None else tuple(corpus.answers[i] for i in rows)
    print_ = fingerprint(names, labels, texts, answers)
    return Corpus(corpus.name, texts, labels.astype(np.int64), names, print_, (*corpus.notes, note), entropy, answers)


def _rows_of(corpus: Corpus, labels: Sequence[str]) -> np.ndarray:
    wanted = (labels,) if isinstance(labels, str) else tuple(labels)
    known = bool(wanted) and set(wanted) <= set(corpus.label_names)
    check(known, "labels", list(wanted), f"one or more of {', '.join(corpus.label_names)}")
    return np.flatnonzero(np.isin(corpus.labels, [corpus.label_names.index(one) for one in wanted]))


def _outside(
    name: str, split: str, text: str | Sequence[str] | None, label: str | None, answer: str | None
) -> Corpus:
    """A corpus from a file or the hub, whichever the name looks like."""
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:                       # "~stranger/x.txt"
        raise BadInput(f"corpus {name!r} cannot be read: {error}") from None
    if path.suffix.lower() in hub.KINDS or (name and os.path.exists(path)) or name.startswith(("/", "~", ".")):
        check(split == "train", "split", split, "left out: a local file has no splits")
        table = hub.from_file(path)
        if path.suffix.lower() == ".txt":
            check(answer is None, "answer", answer, "left out: rows of a .txt file are paragraphs, without answers")
            rows = ((part, "all") for part in paragraphs(table[0]["text"]))
            return from_rows(path.name, rows, ("rows are paragraphs",))
        return from_rows(path.name, *_columns(table, text, label, answer))
    if hub.dataset_name(name) is None:
        _unknown(name)
    return from_rows(name, *_columns(hub.from_hub(name, split), text, label, answer))


def _unknown(name: str) -> NoReturn:
    """Raise for a name that is nothing we know: with the nearest names and the other forms."""
    try:
        pick({**CORPORA, **hub.CANONICAL}, name, "corpus")
    except BadInput as error:
        forms = f"a file ending in {', '.join(hub.KINDS)}, or a hub dataset written owner/name"
        raise BadInput(f"{error}, {forms}") from None
    raise AssertionError(name)


def _columns(
    table: "Dataset", text: str | Sequence[str] | None, label: str | None, answer: str | None = None
) -> tuple[Iterator[tuple[str, ...]], list[str]]:
    """The rows (text, label name), with an answer if asked for, of a datasets.Dataset, and what was guessed."""
    named = (text,) if isinstance(text, str) else tuple(text or ())
    for column in (*named, *((label,) if label else ()), *((answer,) if answer else ())):
        check(column in table.column_names, "column", column, f"one of {', '.join(table.column_names)}")
    strings = [c for c in table.column_names if "string" in str(getattr(table.features[c], "dtype", ""))]
    answers = [] if answer is None else [answer or _guess_answer([c for c in strings if c not in named])]
    columns = named or _guess_text(strings, answers)
    for column in (*columns, *answers):
        check(column in strings, "text column", column, f"a column of strings: {', '.join(strings) or 'there is none'}")
    check(not set(answers) & set(columns), "answer", answer, f"another column than the text's {' + '.join(columns)}")
    chosen = label or _guess_label(table, [*columns, *answers])
    notes = [f"text column {' + '.join(columns)}{'' if named else ' (guessed)'}", "no label column: one label 'all'"]
    if chosen:
        notes[1] = f"label column {chosen}{'' if label else ' (guessed)'}"
    notes.extend(f"answer column {column}{'' if answer else ' (guessed)'}" for column in answers)
    rows = table.select_columns([*columns, *answers, *([chosen] if chosen else [])]).to_dict()
    texts = ("\n".join(part for part in parts if part) for parts in zip(*(rows[c] for c in columns), strict=True))
    replies = ((value or "" for value in rows[column]) for column in answers)
    return zip(texts, _label_names(table, chosen, rows), *replies, strict=True), notes


def _guess_text(strings: Sequence[str], answers: Sequence[str] = ()) -> tuple[str, ...]:
    joined = next((group for group in JOINED if set(group) <= set(strings)), ())
    single = next((column for column in (*TEXT, *strings) if column in strings and column not in answers), None)
    check(single is not None, "text", None, "named: no column holds strings")
    return tuple(column for column in joined if column not in answers) or (str(single),)


def _guess_answer(strings: Sequence[str]) -> str:
    found = next((column for column in ANSWER if column in strings), None)
    if found is None:
        raise BadInput(f"no column of answers: none of {', '.join(ANSWER)} holds strings; name the column, one of "
                       f"{', '.join(strings) or 'none'}")
    return found


def _guess_label(table: "Dataset", taken: Sequence[str]) -> str | None:
    for column in (c for c in LABEL if c in table.column_names and c not in taken):
        kind = str(getattr(table.features[column], "dtype", "nested"))
        if ("int" in kind or "string" in kind or kind == "bool") and len(table.unique(column)) <= MOST_LABELS:
            return column
    return None


def _label_names(table: "Dataset", column: str | None, rows: dict[str, list[Any]]) -> Iterator[str]:
    if column is None:
        return ("all" for _ in range(len(table)))
    names = getattr(table.features[column], "names", None)  # of a ClassLabel
    values = rows[column]
    if names:
        return (names[v] if v is not None and v >= 0 else "unlabelled" for v in values)
    return ("unlabelled" if v is None else str(v) for v in values)
