"""Rows that are in memory already, in the forms that people hold them in."""

from numbers import Integral
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, NoReturn

from deca_lab.errors import BadInput, quoted
from deca_lab.models.hub import is_a
from deca_lab.text import tables
from deca_lab.text.columns import label_name

if TYPE_CHECKING:
    from datasets import Dataset

ROWS = (
    "a datasets.Dataset, a pandas DataFrame, a Corpus, or a list of strings, of dicts, "
    "or of tuples (text, label) or (text, label, answer)"
)


def table_of(data: Any) -> "Dataset | None":  # noqa: ANN401 - anything
    """Return what has columns as a datasets.Dataset, and None for anything else."""
    if is_a(data, "datasets", "Dataset"):
        # A transform of set_transform is applied by reading row by row alone.
        if data.format["type"] == "custom":
            _refuse("a Dataset with a transform", "; apply it to the rows, data.map(function)")
        return data
    if is_a(data, "pandas", "DataFrame"):
        return tables.from_frame(data)
    if isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
        return tables.from_dicts(data)
    return None


def rows_of_list(data: Any) -> list[tuple[str, ...]]:  # noqa: ANN401 - anything
    """Return the rows (text, label name), or with an answer, of a list of strings or of tuples."""
    if not isinstance(data, list) or not data:
        _no_rows(data)
    kinds = [_kind_of_row(row) for row in data]
    strange = next((i for i, kind in enumerate(kinds) if kind != kinds[0] or not kind), None)
    if strange is not None:
        first = "" if strange == 0 else f", and row 0 is a {type(data[0]).__name__}"
        _refuse(f"a list whose row {strange} is {shorten(quoted(data[strange]), 80)}{first}")
    return [_row_of(row) for row in data]


def _kind_of_row(row: object) -> str:
    """What a row of a list is, in a word that equal rows share; "" for what is no row."""
    if isinstance(row, str):
        return "text"
    if isinstance(row, tuple | list) and len(row) in (2, 3):
        text, label, *answer = row
        strings = all(isinstance(part, str) for part in (text, *answer))
        return f"{len(row)} parts" if strings and isinstance(label, str | Integral | None) else ""
    return ""


def _row_of(row: Any) -> tuple[str, ...]:  # noqa: ANN401 - a string, or a tuple that was looked at
    if isinstance(row, str):
        return row, "all"
    text, label, *answer = row
    return text, label_name(label), *answer


def _no_rows(data: Any) -> NoReturn:  # noqa: ANN401 - anything
    """Refuse what holds no rows, with a hint for what nearly does."""
    if is_a(data, "datasets", "DatasetDict"):
        _refuse(f"a DatasetDict of {', '.join(data)}", "; take one of its splits")
    if is_a(data, "datasets", "IterableDataset"):
        _refuse("an IterableDataset", "; take what you need of it, list(data.take(1000))")
    if isinstance(data, str | Path):
        _refuse(quoted(data), "; a name or a path is the corpus of a RunConfig")
    _refuse(shorten(quoted(data), 80))


def _refuse(what: str, hint: str = "") -> NoReturn:
    raise BadInput(f"dataset = {what} cannot be used: it must be {ROWS}{hint}")
