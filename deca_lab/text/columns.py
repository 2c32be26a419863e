"""Which columns of a table are text, label and answer, as named or guessed; its rows as strings."""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import repeat
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from deca_lab.errors import BadInput, check
from deca_lab.text.delimited import MOST_COLUMNS, all_numbers

if TYPE_CHECKING:
    from datasets import Dataset

TEXT = (
    *("text", "sentence", "content", "document", "article", "body", "review", "question"),
    "prompt",
)
JOINED = (  # columns that together are a row's text
    *(("instruction", "input", "output"), ("instruction", "output"), ("prompt", "completion")),
    *(("question", "answer"), ("premise", "hypothesis"), ("sentence1", "sentence2")),
    *(("question1", "question2"), ("question", "sentence"), ("title", "description")),
)
ANSWER = ("output", "response", "completion", "answer", "target", "summary")
LABEL = (
    *("label", "labels", "category", "topic", "class", "target", "subject", "sentiment"),
    *("genre", "source", "task", "language"),
)
GUESSED = " (guessed)"
NESTED = ("lists", "objects")  # types of columns that are neither text nor label
UNREADABLE = (*NESTED, "binary")  # of columns that may be the text all the same
UNLABELLED = "unlabelled"
MOST_LABELS = 100  # a guessed label column with more distinct values is no label
SAMPLE = 1000  # rows that a guess looks at
LONG_TEXT = 20  # characters on average, from which on a column of words is text
LONG_LABEL = 40  # characters on average, up to which a column without a name may be a label


def rows(
    table: "Dataset", text: str | Sequence[str] | None, label: str | None, answer: str | None = None
) -> tuple[list[tuple[str, ...]], list[str]]:
    """Return the rows (text, label name), or with an answer if asked for, and what was guessed.

    `text` names a column, or several, as a list or with commas between them, that are joined by
    newlines; `label` and `answer` name one. What is None is guessed, but the answer, which is
    guessed where it is "". The label is never the text. Raises BadInput for columns that are not
    there or do not fit.
    """
    width = len(table.column_names)
    check(width <= MOST_COLUMNS, "columns of the table", width, f"at most {MOST_COLUMNS}")
    named = split_names(text, table.column_names)
    _require_there(table, (*named, label, answer))
    check(label not in (*named, answer) or not label, "label", label, "a column of its own")
    replies = () if answer is None else (answer or _guess_answer(table, (*named, label)),)
    check(not set(replies) & set(named), "answer", answer, "another column than the text's")
    chosen, why = (label, []) if label else _guess_label(table, (*named, *replies))
    texts = named or _guess_text(table, (*replies, chosen))
    for what, columns in (("text", texts), ("answer", replies)):
        _require_strings(table, columns, what)
    kind = type_of(table, chosen) if chosen else ""
    plain = f"a column of strings or numbers, and it holds {kind}"
    check(kind not in NESTED, "label column", chosen, plain)
    guesses = {"text": (texts, named), "label": ((chosen,), label), "answer": (replies, answer)}
    notes = [
        f"{what} column {' + '.join(map(str, columns))}{'' if given else GUESSED}"
        for what, (columns, given) in guesses.items()
        if any(columns)
    ]
    if chosen is None:
        notes.insert(1, "no label column: one label 'all'")
    made = list(_values(table, texts, chosen, replies))
    shown = [_example(made)] if any(note.endswith(GUESSED) for note in notes) and made else []
    return made, [*notes, *why, *shown]


def split_names(text: str | Sequence[str] | None, there: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the columns that `text` names: one that is there, or several with commas between."""
    if not isinstance(text, str):
        return tuple(text or ())
    return (text,) if text in there else tuple(filter(None, map(str.strip, text.split(","))))


def _example(made: Sequence[tuple[str, ...]]) -> str:
    """The note of one row, shortened."""
    text, label, *answers = next((row for row in made if row[0].strip()), made[0])
    end = "".join(f", answer {shorten(answer, 40)!r}" for answer in answers)
    return f"one row: text {shorten(text, 80)!r}, label {shorten(label, 40)!r}{end}"


def _require_there(table: "Dataset", columns: Iterable[str | None]) -> None:
    """Refuse a column that was named and is not in the table."""
    allowed = f"one of {shorten(', '.join(table.column_names), 300)}"
    for column in filter(None, columns):
        check(column in table.column_names, "column", column, allowed)


def _require_strings(table: "Dataset", columns: Iterable[str], what: str) -> None:
    strings = ", ".join(_string_columns(table)) or "there is none"
    for column in columns:
        allowed = f"a column of strings ({strings}), and it holds {type_of(table, column)}"
        check(column in _string_columns(table), f"{what} column", column, allowed)


def _string_columns(table: "Dataset") -> list[str]:
    return [column for column in table.column_names if "string" in type_of(table, column)]


def type_of(table: "Dataset", column: str) -> str:
    """The type of a column's values in Arrow's words; "lists" or "objects" for nested ones."""
    feature = table.features[column]
    kind = getattr(feature, "dtype", None)
    nested = NESTED[re.search("list|sequence", type(feature).__name__.lower()) is None]
    return kind if isinstance(kind, str) else nested


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


def _guess_text(table: "Dataset", taken: Collection[str | None]) -> tuple[str, ...]:
    """The first of JOINED that is there whole, else the likeliest column, else all long ones."""
    strings = _string_columns(table)
    groups = ((_called(strings, group), len(group)) for group in JOINED)
    joined = next((there for there, whole in groups if len(there) == whole), [])
    likely = [column for column in _called(strings, TEXT) if column not in taken]
    named = tuple(column for column in joined if column not in taken) or tuple(likely[:1])
    cells = {c: _sample(table, c) for c in strings if c not in taken and not named}
    free = {c: some for c, some in cells.items() if not all_numbers(some)}
    there = ", ".join(f"{column} holds {type_of(table, column)}" for column in table.column_names)
    allowed = f"named: no column holds strings for it ({shorten(there, 200)})"
    check(bool(named or free), "text", None, allowed)
    longest = max(free, key=lambda c: _length(free[c]), default="")
    return named or tuple(c for c in free if _is_prose(free[c])) or (longest,)


def _called(columns: Sequence[str], names: Iterable[str]) -> list[str]:
    """Those of the names that columns have, in the names' order; "Text" is "text" where there is no other."""
    alike = {column.casefold(): column for column in reversed(columns)}
    return [
        name if name in columns else alike[name] for name in names if name in (*columns, *alike)
    ]


def _sample(table: "Dataset", column: str) -> list[str]:
    return [str(cell) for cell in table[:SAMPLE][column] if cell not in (None, "")]


def _length(cells: Sequence[str]) -> float:
    """Characters on average."""
    return sum(map(len, cells)) / max(len(cells), 1)


def _is_prose(cells: Sequence[str]) -> bool:
    """Whether cells are long and mostly of several words, or of a script that does not part them."""
    words = sum(" " in cell or not cell.isascii() for cell in cells)
    return _length(cells) >= LONG_TEXT and 2 * words >= len(cells)


def _guess_answer(table: "Dataset", taken: Collection[str | None]) -> str:
    strings = _string_columns(table)
    likely = [column for column in _called(table.column_names, ANSWER) if column not in taken]
    best = [column for column in likely if column in strings]
    if not likely:
        there = ", ".join(column for column in strings if column not in taken) or "none"
        none = f"none of {', '.join(ANSWER)} holds strings"
        raise BadInput(f"no column of answers: {none}; name the column, one of {there}")
    return (best or likely)[0]


def _guess_label(table: "Dataset", taken: Sequence[str]) -> tuple[str | None, list[str]]:
    """The likeliest column of few different whole numbers, strings or truth values, or None.

    The notes name the columns that are called like labels and are none, and why.
    """
    strings = [column for column in _string_columns(table) if column not in taken]
    others = [column for column in table.column_names if column not in strings]
    textual = _called(others, TEXT) or [c for c in others if type_of(table, c) in UNREADABLE]
    only = len(strings) == 1 and not taken and not (textual and _called(strings, LABEL))
    alone = strings if only else []  # then it is the text
    notes: list[str] = []
    for column in _called(table.column_names, LABEL):
        if column not in (*taken, *alone):
            obstacle = _no_label(table, column)
            if not obstacle:
                return column, notes
            whole = f"naming it as the label column (--label-column {column}) takes it all the same"
            if type_of(table, column) in NESTED:
                whole = "a label is a string or a number"
            notes.append(f"column {column} is not taken as the label: it {obstacle}; {whole}")
    unnamed = [c for c in strings if re.fullmatch(r"column_\d+", c) and c not in alone]
    return next((column for column in unnamed if _repeats(table, column)), None), notes


def _no_label(table: "Dataset", column: str) -> str:
    """Why a column is no label by itself; "" where it may be one."""
    kind = type_of(table, column)
    if not re.search("int|string|bool", kind):
        return f"holds {kind}"
    values = [str(value) for value in table.unique(column)]
    if "string" in kind and all_numbers(values) and re.search("[.,]", "".join(values)):
        return "holds fractions"
    many = f"has {len(values)} different values, more than {MOST_LABELS}"
    return many if len(values) > MOST_LABELS else ""


def _repeats(table: "Dataset", column: str) -> bool:
    """Whether a column's values are short and recur, as those of a label do."""
    values = table.unique(column)
    short = _length(_sample(table, column)) <= LONG_LABEL
    return short and len(values) <= MOST_LABELS and 2 * len(values) <= len(table)


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
    return UNLABELLED if value is None or value == "" else str(value)
