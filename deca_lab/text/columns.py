"""Which columns of a table are text, label and answer, as named or guessed; its rows as strings."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

from deca_lab.errors import BadInput, check

if TYPE_CHECKING:
    from datasets import Dataset

TEXT = (
    "text",
    "sentence",
    "content",
    "document",
    "article",
    "body",
    "review",
    "question",
    "prompt",
)
JOINED = (  # columns that together are a row's text
    ("instruction", "input", "output"),
    ("instruction", "output"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
)
ANSWER = ("output", "response", "completion", "answer", "target", "summary")
LABEL = (
    "label",
    "labels",
    "category",
    "topic",
    "class",
    "target",
    "subject",
    "genre",
    "source",
    "task",
    "language",
)
GUESSED = " (guessed)"
UNLABELLED = "unlabelled"
MOST_LABELS = 100  # a guessed label column with more distinct values is no label


def rows(
    table: "Dataset", text: str | Sequence[str] | None, label: str | None, answer: str | None = None
) -> tuple[Iterator[tuple[str, ...]], list[str]]:
    """Return the rows (text, label name), or with an answer if asked for, and what was guessed.

    `text`, `label` and `answer` name columns of the table; what is None is guessed, but the answer,
    which is guessed where it is "". Raises BadInput for columns that are not there or do not fit.
    """
    named = (text,) if isinstance(text, str) else tuple(text or ())
    _require_there(table, (*named, label, answer))
    strings = _string_columns(table)
    replies = _answer_columns(strings, named, answer)
    texts = named or _guess_text(strings, replies)
    _require_strings(strings, (*texts, *replies))
    joined = " + ".join(texts)
    distinct = not set(replies) & set(texts)
    check(distinct, "answer", answer, f"another column than the text's {joined}")
    chosen = label or _guess_label(table, (*texts, *replies))
    notes = [f"text column {joined}{'' if named else GUESSED}", "no label column: one label 'all'"]
    if chosen:
        notes[1] = f"label column {chosen}{'' if label else GUESSED}"
    notes.extend(f"answer column {column}{'' if answer else GUESSED}" for column in replies)
    return _values(table, texts, chosen, replies), notes


def _require_there(table: "Dataset", columns: Iterable[str | None]) -> None:
    """Refuse a column that was named and is not in the table."""
    allowed = f"one of {', '.join(table.column_names)}"
    for column in filter(None, columns):
        check(column in table.column_names, "column", column, allowed)


def _string_columns(table: "Dataset") -> list[str]:
    return [column for column in table.column_names if "string" in _type_of(table, column)]


def _type_of(table: "Dataset", column: str) -> str:
    """The type of a column's values in Arrow's words; "nested" for lists and structs."""
    return str(getattr(table.features[column], "dtype", "nested"))


def _answer_columns(
    strings: Sequence[str], texts: Sequence[str], answer: str | None
) -> tuple[str, ...]:
    """The column of answers, as named or guessed; none where nobody asks for it."""
    if answer is None:
        return ()
    return (answer or _guess_answer([column for column in strings if column not in texts]),)


def _require_strings(strings: Sequence[str], columns: Iterable[str]) -> None:
    allowed = f"a column of strings: {', '.join(strings) or 'there is none'}"
    for column in columns:
        check(column in strings, "text column", column, allowed)


def _values(
    table: "Dataset", texts: Sequence[str], label: str | None, replies: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    """The rows of chosen columns, several texts joined by a newline, each value a string."""
    kept = [*texts, *replies, *((label,) if label else ())]
    values = table.select_columns(kept).to_dict()
    parts = zip(*(values[column] for column in texts), strict=True)
    answers = ((value or "" for value in values[column]) for column in replies)
    return zip(map(_joined, parts), _label_names(table, label, values), *answers, strict=True)


def _joined(parts: Iterable[str | None]) -> str:
    return "\n".join(filter(None, parts))


def _guess_text(strings: Sequence[str], replies: Sequence[str] = ()) -> tuple[str, ...]:
    """The columns of the first of JOINED that is there whole, else the likeliest of strings."""
    joined = next((group for group in JOINED if set(group) <= set(strings)), ())
    free = [column for column in strings if column not in replies]
    likely = [column for column in TEXT if column in free]
    check(bool(free), "text", None, "named: no column holds strings")
    return tuple(column for column in joined if column in free) or tuple((likely or free)[:1])


def _guess_answer(strings: Sequence[str]) -> str:
    likely = [column for column in ANSWER if column in strings]
    if not likely:
        there = ", ".join(strings) or "none"
        raise BadInput(
            f"no column of answers: none of {', '.join(ANSWER)} holds strings; "
            f"name the column, one of {there}"
        )
    return likely[0]


def _guess_label(table: "Dataset", taken: Sequence[str]) -> str | None:
    """The likeliest column of few different whole numbers, strings or truth values, or None."""
    free = [column for column in LABEL if column in table.column_names and column not in taken]
    return next((column for column in free if _could_be_label(table, column)), None)


def _could_be_label(table: "Dataset", column: str) -> bool:
    kind = _type_of(table, column)
    discrete = "int" in kind or "string" in kind or kind == "bool"
    return discrete and len(table.unique(column)) <= MOST_LABELS


def _label_names(
    table: "Dataset", column: str | None, values: dict[str, list[Any]]
) -> Iterator[str]:
    if column is None:
        return repeat("all", len(table))
    names = getattr(table.features[column], "names", None)  # of a ClassLabel
    if names:
        return (_class_name(names, value) for value in values[column])
    return map(label_name, values[column])


def _class_name(names: Sequence[str], value: int | None) -> str:
    return names[value] if value is not None and value >= 0 else UNLABELLED


def label_name(value: object) -> str:
    """Return what a label is called: itself, or "unlabelled" where there is none."""
    return UNLABELLED if value is None else str(value)
