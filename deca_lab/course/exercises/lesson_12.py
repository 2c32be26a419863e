"""Exercises of lesson 12: near copies in the test text, a score in which labels count alike, and the line to beat."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from deca_lab.course.exercises.exercise import Exercise, Mistake
from deca_lab.mixing.graphs import Array
from deca_lab.text import scoring

Texts = Sequence[str]


def near_copies(train: Texts, test: Texts) -> Array:
    """Return for each test text the largest overlap with a training text: shared words over all words of both."""
    return _nearest(train, test)


def _words(text: str) -> set[str]:
    return set(text.lower().split())


def _shared(one: set[Hashable], other: set[Hashable]) -> float:
    return len(one & other) / len(one | other)


def _nearest(
    train: Texts,
    test: Texts,
    overlap: Callable[..., float] = _shared,
    read: Callable[[str], Any] = _words,
    choose: Callable[[Iterable[float]], Any] = max,
) -> Array:
    """Return for each test text what is chosen of its overlaps with all training texts."""
    known, asked = [read(text) for text in train], [read(text) for text in test]
    return np.array([choose([overlap(one, other) for other in known]) for one in asked])


def _counted(one: Counter[str], other: Counter[str]) -> float:
    return (one & other).total() / (one | other).total()


SEEN = (
    "The cat sat on the mat and the dog did not",
    "A ring of eight clients mixes slowly",
    "Dogs and cats",
)
NEW = ("the CAT sat on the mat", "eight clients mix slowly on a ring", "Nobody knows the answer")
NEAR_COPIES = Exercise(
    name="near_copies",
    about="overlap of two texts",
    solution=near_copies,
    cases={
        "three short texts": (SEEN, NEW),
        "two test texts": (SEEN[::-1], ("Cats and dogs and cats", "a ring of nine")),
    },
    mistakes=(
        Mistake(
            lambda train, test: _nearest(train, test, lambda a, b: len(a & b) / len(a)),
            "you divided by the words of the test text alone: a short text inside a long one is then "
            "a whole copy. Divide by all words of both.",
        ),
        Mistake(
            lambda train, test: _nearest(train, test, lambda a, b: len(a & b) / len(b)),
            "you divided by the words of the training text alone; divide by all words of both.",
        ),
        Mistake(
            lambda train, test: _nearest(
                train, test, lambda a, b: len(a & b) / (len(a) + len(b))
            ),
            "shared words stand in both texts, and you counted them twice below the line: even a "
            "copy gets one half.",
        ),
        Mistake(
            lambda train, test: _nearest(
                train, test, lambda a, b: 2 * len(a & b) / (len(a) + len(b))
            ),
            "this is twice the shared words over the sum of both lengths, another measure. Divide "
            "the shared words by the words that stand in one of the two or in both.",
        ),
        Mistake(
            lambda train, test: _nearest(train, test, read=lambda text: set(text.split())),
            "The and the are one word: make all letters small.",
        ),
        Mistake(
            lambda train, test: _nearest(train, test, read=lambda text: set(text.lower())),
            "these are shared letters; split a text into its words first.",
        ),
        Mistake(
            lambda train, test: _nearest(
                train, test, _counted, lambda text: Counter(text.lower().split())
            ),
            "each word counts once, however often it stands in a text.",
        ),
        Mistake(
            lambda train, test: _nearest(train, test, choose=lambda some: float(np.mean(list(some)))),
            "this is the mean over the training texts. One copy among thousands is enough: take the "
            "largest.",
        ),
        Mistake(
            lambda train, test: _nearest(
                train, test, choose=lambda some: float(np.argmax(list(some)))
            ),
            "this is the number of the nearest training text; its overlap is asked for.",
        ),
        Mistake(
            lambda train, test: _nearest(test, train),
            "you went through the training texts; one number for each test text is asked for.",
        ),
    ),
    hints=(
        "set(text.lower().split()) holds each word of a text once.",
        "Of two sets, & gives what is in both, and | what is in one or the other; len counts.",
        "For each test text, the max over all training texts.",
    ),
)  # fmt: skip


def macro_f1(said: Array, true: Array) -> float:
    """Return the mean of F1 over the labels that occur in `true`; both hold each row's label, a whole number."""
    return float(scoring.macro_f1(torch.from_numpy(said)[None], torch.from_numpy(true))[0])


def _counts(said: Array, true: Array, labels: Array | None = None) -> tuple[Array, Array, Array]:
    """Return for each label the rows that are rightly called so, that are called so, and that are so."""
    of = (np.unique(true) if labels is None else labels)[:, None]
    called, wanted = said == of, true == of
    return (called & wanted).sum(1), called.sum(1), wanted.sum(1)


def _f1(hits: Array, called: Array, wanted: Array) -> Array:
    return 2 * hits / (called + wanted)


def _undefined(hits: Array, called: Array, wanted: Array) -> float:
    with np.errstate(invalid="ignore"):
        precision, recall = hits / called, hits / wanted
        return float((2 * precision * recall / (precision + recall)).mean())


def _averaged_first(hits: Array, called: Array, wanted: Array) -> float:
    precision, recall = (hits / np.maximum(called, 1)).mean(), (hits / wanted).mean()
    return float(2 * precision * recall / (precision + recall))


MACRO_F1 = Exercise(
    name="macro_f1",
    about="macro-F1",
    solution=macro_f1,
    cases={
        "a label that is never said": (
            np.array([0, 0, 0, 1, 0, 1, 0, 3]),
            np.array([0, 0, 0, 0, 1, 1, 2, 2]),
        ),
        "seven of ten rows of one label": (
            np.array([4, 4, 4, 4, 4, 4, 9, 4, 9, 4]),
            np.array([4, 4, 4, 4, 4, 4, 4, 9, 9, 7]),
        ),
    },
    mistakes=(
        Mistake(
            lambda said, true: float((said == true).mean()),
            "this is the accuracy, in which each row counts alike. Here each label counts alike.",
        ),
        Mistake(
            lambda said, true: float(
                np.average(_f1(*_counts(said, true)), weights=_counts(said, true)[2])
            ),
            "you weighted the labels by their rows, so that the common one decides again: take the "
            "plain mean.",
        ),
        Mistake(
            lambda said, true: _undefined(*_counts(said, true)),
            "0 / 0: a label that is never said has no precision. Its F1 is 0.",
        ),
        Mistake(
            lambda said, true: float(
                np.mean([f1 for f1 in _f1(*_counts(said, true)) if f1 > 0])
            ),
            "a label that is never rightly said was left out. It counts, with an F1 of 0.",
        ),
        Mistake(
            lambda said, true: float(_f1(*_counts(said, true, np.union1d(said, true))).mean()),
            "you counted a label that is said, but that no row has. The mean is over the labels "
            "that occur in true.",
        ),
        Mistake(
            lambda said, true: _averaged_first(*_counts(said, true)),
            "you averaged precision and recall first. Take F1 of each label, and then the mean.",
        ),
        Mistake(
            lambda said, true: float(_f1(*_counts(said, true)).mean()) / 2,
            "this is half of it: the harmonic mean of p and r is 2 p r / (p + r).",
        ),
        Mistake(
            lambda said, true: float(
                np.mean([h / max(c, 1) / 2 + h / w / 2 for h, c, w in zip(*_counts(said, true), strict=True)])
            ),
            "you took the half of precision + recall; F1 is their harmonic mean, which is near the "
            "smaller one.",
        ),
        Mistake(
            lambda said, true: float((_counts(said, true)[0] / _counts(said, true)[2]).mean()),
            "this is the mean recall. Who calls all rows by one label has a recall of 1 there.",
        ),
        Mistake(
            lambda said, true: float(
                (_counts(said, true)[0] / np.maximum(_counts(said, true)[1], 1)).mean()
            ),
            "this is the mean precision; what was not found is missing.",
        ),
    ),
    hints=(
        "For one label count three things: the rows that are it, those that are called it, and those that are both.",
        "F1 = 2 hits / (called + wanted): no division by zero is left.",
        "np.unique(true) gives the labels that occur; take the plain mean over them.",
    ),
)  # fmt: skip


def constant_f1(share: float, labels: int) -> float:
    """Return the macro-F1 of one who calls all rows by one label that this share of them has, of so many that occur."""
    return 2 * share / (1 + share) / labels


CONSTANT_F1 = Exercise(
    name="constant_f1",
    kind="derive",
    about="line to beat",
    solution=constant_f1,
    cases={
        "two labels in equal parts": (0.5, 2),
        "ten rows of 35, seven labels": (10 / 35, 7),
        "nine rows of ten, four labels": (0.9, 4),
    },
    mistakes=(
        Mistake(lambda share, labels: share, "this is the accuracy of such answers."),
        Mistake(
            lambda share, labels: 2 * share / (1 + share),
            "this is the F1 of that one label. All others have 0, and count in the mean.",
        ),
        Mistake(
            lambda share, labels: share / labels,
            "this is the mean precision: p = share for that label. Its recall is 1.",
        ),
        Mistake(
            lambda share, labels: 1 / labels,
            "this is the mean recall: r = 1 for that label. Its precision is the share.",
        ),
        Mistake(
            lambda share, labels: (1 + share) / 2 / labels,
            "you took the half of precision + recall; F1 is 2 p r / (p + r).",
        ),
        Mistake(
            lambda share, labels: share / (1 + share) / labels,
            "the 2 of 2 p r / (p + r) is missing.",
        ),
    ),
    hints=(
        "Take the label that is always said. Which share of what is called so is so? Which share of what is so is called so?",
        "p = share, r = 1: write down 2 p r / (p + r). What is F1 of a label that is never said?",
        "One label has 2 share / (1 + share), all others 0. Divide by their number.",
    ),
)  # fmt: skip
EXERCISES = (NEAR_COPIES, MACRO_F1, CONSTANT_F1)
