"""Rows from outside, through `datasets`: a local file, or the hub in such a way that no network is one short line."""

import os
import re
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from ssl import SSLCertVerificationError
from textwrap import shorten
from typing import TYPE_CHECKING, Any, NoReturn

from deca_lab.errors import BadInput, check

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas import DataFrame

KINDS = {".txt": "text", ".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
CANONICAL = {  # short names that everybody uses -> where the hub keeps them now; "glue/mnli" names a configuration
    "ag_news": "fancyzhx/ag_news",
    "alpaca": "tatsu-lab/alpaca",
    "glue": "nyu-mll/glue",
    "imdb": "stanfordnlp/imdb",
    "super_glue": "aps/super_glue",
    "wikitext": "Salesforce/wikitext",
}
ANSWERS = (401, 404, 405, 429)  # a hub's or a mirror's; a proxy that blocks says 403, 407 or 5xx
_OFFLINE = "HF_HUB_OFFLINE"
_TRUE = ("1", "ON", "YES", "TRUE")


def reach_hub(seconds: float = 3.0) -> bool:
    """Say within `seconds` whether the hub answers; False at once where HF_HUB_OFFLINE is set.

    The probe asks for the top page (HF_ENDPOINT, proxies from the environment) in a thread, because neither a name
    server nor a host that accepts and keeps silent obeys a socket's time-out.
    """
    if os.environ.get(_OFFLINE, "").upper() in _TRUE:
        return False
    answered: list[bool] = []
    thread = threading.Thread(target=lambda: answered.append(_answers(seconds)), daemon=True)
    thread.start()
    thread.join(seconds)
    return answered == [True]


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _answers(seconds: float) -> bool:
    try:
        with urllib.request.urlopen(
            urllib.request.Request(_endpoint(), method="HEAD"), timeout=seconds
        ):
            return True
    except urllib.error.HTTPError as error:
        return error.code in ANSWERS
    except urllib.error.URLError as error:
        return isinstance(
            error.reason, SSLCertVerificationError
        )  # the hub's libraries bring their own certificates
    except (OSError, ValueError):
        return False


@contextmanager
def offline() -> Iterator[None]:
    """Within it the libraries of the hub use their cache only, whether they were imported before or not."""
    before = os.environ.get(_OFFLINE)
    os.environ[_OFFLINE] = "1"  # read by those that are imported from here on
    _tell_libraries(True)
    try:
        yield
    finally:
        os.environ.pop(_OFFLINE, None) if before is None else os.environ.update({_OFFLINE: before})
        _tell_libraries((before or "").upper() in _TRUE)


def _tell_libraries(flag: bool) -> None:
    for name in ("huggingface_hub.constants", "datasets.config"):
        if name in sys.modules:
            setattr(sys.modules[name], _OFFLINE, flag)  # what their own is_offline_mode() returns


@contextmanager
def hub_or_offline(kind: str, name: str, seconds: float = 3.0) -> Iterator[bool]:
    """Reach the hub (True), or work from the cache (False); raise BadInput, in one line, when `name` is in neither.

    `kind` is "model" or "dataset". Import transformers or datasets inside the `with`, never before the probe.
    """
    check(kind in ("model", "dataset"), "kind", kind, "'model' or 'dataset'")
    if reach_hub(seconds):
        yield True
    elif is_cached(kind, name):
        with offline():
            yield False
    else:
        raise BadInput(unreachable(kind, name))


def unreachable(kind: str, name: str) -> str:
    """The one line about a hub that does not answer."""
    instead = (
        "a local file or an embedded corpus"
        if kind == "dataset"
        else "a local path or an embedded preset"
    )
    cause = f"{_OFFLINE} is set" if os.environ.get(_OFFLINE) else f"{_endpoint()} does not answer"
    return f"{kind} {name!r} is not in the cache and {cause}: connect to the network, or give {instead}"


def is_cached(kind: str, name: str) -> bool:
    """Say whether the hub's cache on this disk holds something of `name` ("owner/name")."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()
    prepared = Path(os.environ.get("HF_DATASETS_CACHE", home / "datasets")).expanduser()
    places = [hub / f"{kind}s--{name.replace('/', '--')}"] + [
        prepared / name.replace("/", "___")
    ] * (kind == "dataset")
    return any(place.is_dir() for place in places)


def dataset_name(name: str) -> tuple[str, str | None] | None:
    """Read "ag_news", "owner/name", "glue/mnli" or "owner/name:config": (name on the hub, configuration) or None."""
    parts = re.fullmatch(r"(\w[\w.-]*)(?:/(\w[\w.-]*))?(?::([\w.-]+))?", name)
    if parts is None:
        return None
    first, second, config = parts.groups()
    if first in CANONICAL:
        return (CANONICAL[first], second or config) if not (second and config) else None
    return (f"{first}/{second}", config) if second else None


def from_hub(name: str, split: str) -> "Dataset":
    """Load one split of a hub dataset; every failure is a BadInput of one line.

    `split` may take a part: "train[:1000]".
    """
    repository, config = dataset_name(name) or (name, None)
    with hub_or_offline("dataset", repository), _quiet() as datasets:
        try:
            return datasets.load_dataset(repository, config, split=split)
        except (datasets.exceptions.DatasetsError, ValueError, OSError, RuntimeError) as error:
            _refuse(f"dataset {name!r}, split {split!r}", error)


def from_file(path: Path) -> "Dataset":
    """Load a local txt (rows = paragraphs), json, jsonl, csv or parquet file; nothing stays on the disk."""
    _inspect(path)
    kind = KINDS[path.suffix.lower()]
    whole = {"sample_by": "document"} if kind == "text" else {}
    with _quiet() as datasets, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        files = {
            "data_files": escape(str(path.resolve())),
            "split": "train",
            "cache_dir": cache,
            "keep_in_memory": True,
        }
        try:
            return datasets.load_dataset(kind, **files, **whole)
        except (datasets.exceptions.DatasetsError, ValueError, OSError, RuntimeError) as error:
            _refuse(f"file {str(path)!r}", error)


def is_a(value: object, module: str, kind: str) -> bool:
    """Say whether a value is of a class of a module, which then is imported already."""
    return isinstance(value, getattr(sys.modules.get(module), kind, ()))


def from_frame(frame: "DataFrame") -> "Dataset":
    """Return the rows of a pandas DataFrame; BadInput where they cannot be those of a table."""
    names = list(frame.columns)
    named = all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
    check(named, "columns", names, "strings, each of them once")

    def made(datasets: Any) -> "Dataset":  # noqa: ANN401 - the module
        return datasets.Dataset.from_pandas(frame, preserve_index=False)

    return _converted(made, "a DataFrame")


def from_dicts(rows: Sequence[dict[str, Any]]) -> "Dataset":
    """Return rows that are dicts as a Dataset, a key that a row lacks as None."""
    names = dict.fromkeys(key for row in rows for key in row)
    check(all(isinstance(name, str) for name in names), "keys of the rows", list(names), "strings")
    columns = {name: [row.get(name) for row in rows] for name in names}
    return _converted(lambda datasets: datasets.Dataset.from_dict(columns), "a list of dicts")


def _converted(make: Callable[[Any], "Dataset"], what: str) -> "Dataset":
    with _quiet() as datasets:
        try:
            return make(datasets)
        except (datasets.exceptions.DatasetsError, ArithmeticError, TypeError, ValueError) as error:
            _refuse(what, error)  # Arrow's errors are among them


def _inspect(path: Path) -> None:
    """Refuse what is no file, of another kind, empty, or not UTF-8."""
    allowed = ", ".join(KINDS)
    if not os.path.exists(path):  # False too for a name that no file can have
        raise BadInput(
            f"no file {str(path)!r}: give a path that exists, with one of the endings {allowed}"
        )
    if not path.is_file() or path.suffix.lower() not in KINDS:
        other = "a folder" if path.is_dir() else "a pipe or a device"
        kind = f"a file with the ending {path.suffix!r}" if path.is_file() else other
        raise BadInput(f"{str(path)!r} is {kind}: give a file with one of the endings {allowed}")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadInput(f"file {str(path)!r} cannot be read: {error}") from None
    if not raw.strip():
        raise BadInput(f"file {str(path)!r} is empty: give a file with text")
    if KINDS[path.suffix.lower()] == "json" and raw.removeprefix(
        b"\xef\xbb\xbf"
    ).lstrip().startswith(b"null"):
        raise BadInput(
            f"file {str(path)!r} begins with null: give rows, each a JSON object"
        )  # pyarrow 26 would crash at it
    if path.suffix.lower() != ".parquet":
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            byte = f"byte 0x{raw[error.start]:02x} at offset {error.start}"
            raise BadInput(
                f"file {str(path)!r} is not UTF-8 text ({byte}): convert it to UTF-8"
            ) from None


def _refuse(what: str, error: BaseException) -> NoReturn:
    deepest = error
    while deepest.__cause__ is not None:  # datasets wraps what the reader said
        deepest = deepest.__cause__
    line = next(
        (part.strip() for part in str(deepest).splitlines() if part.strip()), type(deepest).__name__
    )
    raise BadInput(f"{what} cannot be read: {shorten(line, 300)}") from None


@contextmanager
def _quiet() -> Iterator[Any]:
    """Yield the module `datasets` with its bars and messages off, and put them back."""
    try:
        import datasets
    except ImportError:
        raise BadInput(
            "files and hub datasets need the package 'datasets': pip install datasets"
        ) from None
    bars, level = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # its errors become ours
    try:
        yield datasets
    finally:
        datasets.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()
