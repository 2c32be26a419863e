"""Comma- and tab-separated text: cells stay as written, and a first line that is a row is noticed."""

import csv
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from itertools import islice
from typing import Literal

from deca_lab.errors import check

SEPARATORS = {".csv": ",", ".tsv": "\t"}
OTHERS = ";\t|,"  # what a spreadsheet writes into a .csv where the comma is the decimal sign
DECLARED = re.compile(r"sep=([;,|\t])\r?\n", re.IGNORECASE)  # the first line that Excel heeds
LOOKED = 100  # lines from which another separator is told
MOST_COLUMNS = 1000
LONG, WORDS = 60, 6  # a column's name has at most so many characters and words
NUMBER = re.compile(r"\s*[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?\s*")


def read(
    text: str, separator: str, named: Collection[str]
) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """Return {column name: its cells}, and notes: of another separator, of a first line without names.

    `named` are columns that somebody named: a first line with one of them holds names. Excel's own
    first line, "sep=;", is heeded. Raises BadInput for too many columns and for names without rows,
    ValueError for quotation marks that do not pair and for a row of more cells than the first.
    """
    declared = DECLARED.match(text)
    used = declared[1] if declared else separator_of(text, separator)
    notes = () if used == separator else (f"cells are separated by {used!r}",)
    rows, noticed = _rows(text[declared.end() :] if declared else text, used)
    columns = [list(column) for column in zip(*rows, strict=True)]
    cells = [column for column in columns if any(map(str.strip, column))]  # "text,label," has two
    check(bool(cells), "file", "no cell", "a table with text")
    first, below = [column[0] for column in cells], [column[1:] for column in cells]
    if not names_columns(first, below, named):
        last = f"column_{len(cells) - 1}"
        note = f"the first line looks like a row, not like names: columns are column_0 to {last}"
        return dict(zip(_numbered(len(cells)), cells, strict=True)), (*notes, *noticed, note)
    numbers = zip(first, _numbered(len(cells)), strict=True)
    names = [name.strip() or number for name, number in numbers]
    check(len(set(names)) == len(names), "columns", names, "different names")
    check(bool(below[0]), "file", first, "column names with rows below, and this is its only line")
    return dict(zip(names, below, strict=True)), (*notes, *noticed)


def _numbered(count: int) -> list[str]:
    return [f"column_{i}" for i in range(count)]


def _rows(text: str, separator: str) -> tuple[list[list[str]], tuple[str, ...]]:
    """Return the rows, equally wide, and notes. Between tabs, quotation marks that do not pair are letters."""
    tabs = separator == "\t"
    try:
        rows, notes = _parsed(text, separator, csv.QUOTE_MINIMAL)
    except ValueError:
        if not tabs:
            raise
    else:
        if not (tabs and any("\t" in cell and "\n" in cell for row in rows for cell in row)):
            return rows, notes
    rows, notes = _parsed(text, separator, csv.QUOTE_NONE)
    return rows, (*notes, "quotation marks do not pair: they are taken as letters")


def _parsed(
    text: str, separator: str, quoting: Literal[0, 3]
) -> tuple[list[list[str]], tuple[str, ...]]:
    """Return the rows as csv reads them, filled up to the width of the first, and a note of those that were not."""
    lines = StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=separator, quoting=quoting, strict=True)
    rows: list[list[str]] = []
    short: list[int] = []
    with _cells_of_any_length():
        try:
            for row in reader:
                if len(row) < 2 and not "".join(row).strip():  # an empty line
                    continue
                rows.append(_as_wide(row, len(rows[0]) if rows else len(row), reader.line_num))
                if len(row) < len(rows[0]):
                    short.append(reader.line_num)
        except csv.Error as error:
            doubled = "a cell with quotation marks stands in them, and doubles its own"
            raise ValueError(f"line {reader.line_num}: {error}: {doubled}") from None
    if short and len(short) == len(rows) - 1:
        raise ValueError(f"every row has fewer cells than the {len(rows[0])} of the first line")
    less = "rows have fewer cells than the first line: what they lack is empty"
    return rows, (f"{len(short)} {less} (line {short[0]})",) if short else ()


def _as_wide(row: list[str], width: int, line: int) -> list[str]:
    """Return a row of so many cells: empty ones are added, or left out."""
    check(width <= MOST_COLUMNS, "columns of the file", width, f"at most {MOST_COLUMNS}")
    if any(map(str.strip, row[width:])):
        raise ValueError(
            f"expected {width} fields in line {line}, as in the first, and saw {len(row)}"
        )
    return row[:width] + [""] * (width - len(row))


@contextmanager
def _cells_of_any_length() -> Iterator[None]:
    """Lift csv's limit on the length of a cell, which holds for the whole process, and put it back."""
    usual = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(usual)


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
