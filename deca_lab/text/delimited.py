"""Comma- and tab-separated text: cells stay as written, and a first line that is a row is noticed."""

import csv
import re
from collections.abc import Collection, Sequence
from io import StringIO
from itertools import islice

from deca_lab.errors import check

SEPARATORS = {".csv": ",", ".tsv": "\t"}
OTHERS = ";\t|"  # what a spreadsheet writes into a .csv where the comma is the decimal sign
LOOKED = 100  # lines from which another separator is told
MOST_COLUMNS = 1000
LONG, WORDS = 60, 6  # a column's name has at most so many characters and words
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")


def read(
    text: str, separator: str, named: Collection[str]
) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """Return {column name: its cells}, and notes: of another separator, of a first line without names.

    `named` are columns that somebody named: a first line with one of them holds names. Raises
    BadInput for too many columns and for names without rows; pandas raises ValueError.
    """
    import pandas as pd

    usual, separator = separator, separator_of(text, separator)
    notes = () if separator == usual else (f"cells are separated by {separator!r}",)
    if text.partition("\n")[0].count(separator) >= MOST_COLUMNS:  # pandas takes seconds for many
        width = len(next(csv.reader(StringIO(text), delimiter=separator)))
        check(width <= MOST_COLUMNS, "columns of the file", width, f"at most {MOST_COLUMNS}")
    frame = pd.read_csv(StringIO(text), sep=separator, header=None, dtype=str, na_filter=False)
    cells = [frame[i].tolist() for i in frame]
    first, below = [column[0] for column in cells], [column[1:] for column in cells]
    if not names_columns(first, below, named):
        last = f"column_{len(cells) - 1}"
        note = f"the first line looks like a row, not like names: columns are column_0 to {last}"
        return {f"column_{i}": column for i, column in enumerate(cells)}, (*notes, note)
    names = [name.strip() or f"column_{i}" for i, name in enumerate(first)]
    check(len(set(names)) == len(names), "columns", names, "different names")
    check(bool(below[0]), "file", first, "column names with rows below, and this is its only line")
    return dict(zip(names, below, strict=True)), notes


def separator_of(text: str, usual: str) -> str:
    """Return `usual`, or another mark that parts the first lines alike where `usual` is not in the first one."""
    others = OTHERS if usual not in text.partition("\n")[0] else ""
    return next((mark for mark in others if mark != usual and _parts_alike(text, mark)), usual)


def _parts_alike(text: str, mark: str) -> bool:
    try:
        lines = list(islice(csv.reader(StringIO(text), delimiter=mark), LOOKED))
    except csv.Error:  # a cell too long for that reader
        return False
    widths = {len(line) for line in lines if line}
    return len(widths) == 1 and widths != {1}


def names_columns(
    first: Sequence[str], below: Sequence[Sequence[str]], named: Collection[str] = ()
) -> bool:
    """Say whether a first line holds the names of the columns below it, not a row of their kind.

    Names it holds that are in `named`, that count 0, 1, 2 ... as pandas does, or one that stands
    above numbers. A row it is that holds a number, a long text, or a value that recurs below among
    few others. (csv.Sniffer.has_header compares lengths: it sees no names above AG News.)
    """
    counted = list(first) == [str(i) for i in range(len(first))]
    if counted or set(named) & set(first) or any(map(_above_numbers, first, below)):
        return True
    if any(is_number(cell) or _is_long(cell) for cell in first):
        return False
    others = [row for row in zip(*below, strict=True) if row != tuple(first)]
    return not any(map(_recurs, first, zip(*others, strict=True)))


def is_number(cell: str) -> bool:
    """Say whether a cell is written as a number."""
    return NUMBER.fullmatch(cell) is not None


def all_numbers(cells: Collection[str]) -> bool:
    """Say whether all cells but empty ones are numbers, one at least."""
    filled = [cell for cell in cells if cell.strip()]
    return bool(filled) and all(map(is_number, filled))


def _above_numbers(cell: str, below: Sequence[str]) -> bool:
    return bool(cell.strip()) and not is_number(cell) and all_numbers(below)


def _is_long(cell: str) -> bool:
    return len(cell) > LONG or len(cell.split()) > WORDS or "\n" in cell


def _recurs(cell: str, below: Sequence[str]) -> bool:
    return cell in below and 2 * len(set(below)) <= len(below) + 1
