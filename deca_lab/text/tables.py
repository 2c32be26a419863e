"""Tables from outside, through `datasets`: a file, a saved folder, the hub, a DataFrame, dicts."""

import csv
import os
import re
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from itertools import accumulate
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, NoReturn

from deca_lab.errors import BadInput, check, pick
from deca_lab.files import LARGE
from deca_lab.models.hub import hub_or_offline
from deca_lab.text import delimited

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas import DataFrame

READERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet"}  # of datasets
KINDS = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".parquet")
SAVED = ("state.json", "dataset_dict.json")  # what save_to_disk writes beside the rows
CANONICAL = {  # short names that everybody uses -> where the hub keeps them now
    "ag_news": "fancyzhx/ag_news",
    "alpaca": "tatsu-lab/alpaca",
    "glue": "nyu-mll/glue",  # "glue/mnli" names a configuration
    "imdb": "stanfordnlp/imdb",
    "super_glue": "aps/super_glue",
    "wikitext": "Salesforce/wikitext",
}
MARKS = (  # first bytes of what is no UTF-8, and is given as if it were
    *((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"), (b"\x1f\x8b", "gzip")),
    (b"PK", "a zip or .xlsx file"),
)
DEPTH = 64  # of brackets in JSON; its readers recurse, and thousands crash the process
STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
CLOSED = re.compile(r"gated|authenticated|cannot be accessed|\b40[13]\b")  # of the hub's errors


def dataset_name(name: str) -> tuple[str, str | None] | None:
    """Read "ag_news", "owner/name", "glue/mnli" or "owner/name:config": (name on the hub, configuration) or None."""
    parts = re.fullmatch(r"(\w[\w.-]*)(?:/(\w[\w.-]*))?(?::([\w.-]+))?", name)
    if parts is None:
        return None
    first, second, config = parts.groups()
    if first in CANONICAL:
        return (CANONICAL[first], second or config) if not (second and config) else None
    return (f"{first}/{second}", config) if second else None


def from_hub(name: str, split: str, revision: str | None = None) -> "Dataset":
    """Load one split of a hub dataset; every failure is a BadInput of one line.

    `split` may take a part, "train[:1000]"; `revision` is a branch, a tag or a commit.
    """
    repository, config = dataset_name(name) or (name, None)
    with hub_or_offline("dataset", repository), _reading(f"dataset {name!r}, split {split!r}") as d:
        return d.load_dataset(repository, config, split=split, revision=revision)


def from_file(path: Path, named: Collection[str] = ()) -> tuple["Dataset", tuple[str, ...]]:
    """Load a json, jsonl, csv, tsv or parquet file, and notes; nothing stays on the disk.

    `named` are columns that somebody named.
    """
    raw, kind, what = read(path), path.suffix.lower(), f"file {str(path)!r}"
    if kind not in READERS:
        separator = delimited.SEPARATORS[kind]
        with _reading(what) as datasets:
            columns, notes = delimited.read(raw.decode("utf-8-sig"), separator, named)
            return datasets.Dataset.from_dict(columns), notes
    with _reading(what) as datasets, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as d:
        options = {"split": "train", "cache_dir": d, "keep_in_memory": True}
        files = escape(str(path.resolve()))
        return datasets.load_dataset(READERS[kind], data_files=files, **options), ()


def is_saved(path: Path) -> bool:
    """Say whether a folder holds what `save_to_disk` of datasets writes."""
    # isfile is False for a name that no file can have.
    return any(os.path.isfile(path / name) for name in SAVED)


def from_folder(path: Path, split: str) -> "Dataset":
    """Load a Dataset that was saved to a folder, or one split of a DatasetDict."""
    with _reading(f"folder {str(path)!r}") as datasets:
        saved = datasets.load_from_disk(str(path), keep_in_memory=True)
    if isinstance(saved, dict):
        return pick(saved, split, f"split of {str(path)!r}")
    check(split == "train", "split", split, "left out: the folder holds one Dataset, not several")
    return saved


def from_frame(frame: "DataFrame") -> "Dataset":
    """Return the rows of a pandas DataFrame; BadInput where they cannot be those of a table.

    An index that has a name is a column as the others are.
    """
    levels = [name for name in frame.index.names if name is not None]
    names = [*levels, *frame.columns]
    named = all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
    check(named, "columns", names, "strings, each of them once")
    with _reading("a DataFrame") as datasets:
        whole = frame.reset_index(levels) if levels else frame
        return datasets.Dataset.from_pandas(whole, preserve_index=False)


def from_dicts(rows: Sequence[dict[str, Any]]) -> "Dataset":
    """Return rows that are dicts as a Dataset, a key that a row lacks as None."""
    names = dict.fromkeys(key for row in rows for key in row)
    check(all(isinstance(name, str) for name in names), "keys of the rows", list(names), "strings")
    with _reading("a list of dicts") as datasets:
        return datasets.Dataset.from_dict({name: [r.get(name) for r in rows] for name in names})


def read(path: Path) -> bytes:
    """Return a file's bytes; refuse what is no file, of another kind, empty, or not UTF-8."""
    allowed = f"one of the endings {', '.join(KINDS)}"
    if not os.path.exists(path):  # False too for a name that no file can have
        raise BadInput(f"no file {str(path)!r}: give a path that exists, with {allowed}")
    if not path.is_file() or path.suffix.lower() not in KINDS:
        other = "a folder that save_to_disk did not write" if path.is_dir() else "a pipe or device"
        kind = f"a file with the ending {path.suffix!r}" if path.is_file() else other
        raise BadInput(f"{str(path)!r} is {kind}: give a file with {allowed}")
    try:
        raw = path.read_bytes()
        if path.suffix.lower() != ".parquet":
            raw.decode("utf-8")
    except (OSError, MemoryError) as error:
        raise BadInput(f"file {str(path)!r} cannot be read: {str(error) or LARGE}") from None
    except UnicodeDecodeError as error:
        begins = next((f", as {kind} begins" for mark, kind in MARKS if raw.startswith(mark)), "")
        byte = f"byte 0x{raw[error.start]:02x} at offset {error.start}{begins}"
        what = f"file {str(path)!r} is not UTF-8 text ({byte})"
        raise BadInput(f"{what}: convert it to UTF-8") from None
    if path.suffix.lower() != ".parquet" and b"\0" in raw:
        zero = f"holds a zero byte at offset {raw.index(0)}, as UTF-16 does"
        raise BadInput(f"file {str(path)!r} {zero}: convert it to UTF-8")
    if not raw.strip():
        raise BadInput(f"file {str(path)!r} is empty: give a file with text")
    if READERS.get(path.suffix.lower()) == "json":
        _require_shallow(raw, path)
    return raw


def _require_shallow(raw: bytes, path: Path) -> None:
    """Refuse JSON that would crash its reader, which recurses in C."""
    if raw.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"null"):
        raise BadInput(f"file {str(path)!r} begins with null: give rows, each a JSON object")
    brackets = re.findall(rb"[\[\]{}]", STRING.sub(b"", raw))
    depth = max(accumulate(1 if mark in b"[{" else -1 for mark in brackets), default=0)
    if depth > DEPTH:
        deep = f"is nested {depth:,} deep, and {DEPTH} is the most"
        raise BadInput(f"file {str(path)!r} {deep}: give flat rows, each a JSON object")


@contextmanager
def _reading(what: str) -> Iterator[Any]:
    """Yield the module `datasets`, quiet; what it raises becomes a BadInput of one line."""
    with quiet() as datasets:
        try:
            yield datasets
        except BadInput:
            raise
        except (
            *(datasets.exceptions.DatasetsError, csv.Error, ArithmeticError),
            *(TypeError, ValueError, OSError, RuntimeError),  # Arrow's are among them
        ) as error:
            _refuse(what, error)


def _refuse(what: str, error: BaseException) -> NoReturn:
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:  # datasets wraps what the reader said
        causes.append(cause)
    lines = [part.strip() for part in str(causes[-1]).splitlines() if part.strip()]
    line = shorten(lines[0] if lines else type(causes[-1]).__name__, 300)
    closed = what.startswith("dataset") and any(CLOSED.search(str(cause)) for cause in causes)
    hint = "; if it is private or gated: accept its terms on the hub, and set HF_TOKEN or run `hf auth login`"
    raise BadInput(f"{what} cannot be read: {line}{hint if closed else ''}") from None


@contextmanager
def quiet() -> Iterator[Any]:
    """Yield the module `datasets` with its bars and messages off, and put them back."""
    try:
        import datasets
    except ImportError:
        tables = "tables and hub datasets need the package 'datasets'"
        raise BadInput(f"{tables}: pip install datasets") from None
    bars, level = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # its errors become ours
    try:
        yield datasets
    finally:
        datasets.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()
