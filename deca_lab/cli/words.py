"""What commands say: a result for people or as JSON, and lines on the way, which --quiet leaves out."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

JSON = Annotated[
    bool,
    typer.Option("--json", metavar=" ", help="print the result as JSON, and nothing else"),
]
QUIET = Annotated[
    bool, typer.Option("--quiet", "-q", metavar=" ", help="say nothing but the result, and errors")
]


def show(as_json: bool, result: Mapping[str, Any], words: str) -> None:
    """Print a command's result: its words, or the same as JSON."""
    typer.echo(json.dumps(plain(result), indent=1, allow_nan=False) if as_json else words)


def plain(value: Any) -> Any:  # noqa: ANN401 - any result
    """Return a value as JSON has it: NumPy's numbers as Python's, NaN and infinity as null, paths as text."""
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    value = value.item() if getattr(value, "ndim", None) == 0 else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)


def speaker(quiet: bool) -> Callable[[str], None]:
    """Return what says a line on stderr; nothing where `quiet`."""
    return _nothing if quiet else _on_stderr


def printer(silent: bool) -> Callable[[str], None]:
    """Return what prints a line of a table as soon as it is known; nothing where `silent`."""
    return _nothing if silent else typer.echo


def headed(say: Callable[[str], None], head: str) -> Callable[[str], None]:
    """Return what says the lines of a table, its head before the first: a name that is refused has no table."""
    heads = [head]

    def line(text: str) -> None:
        while heads:
            say(heads.pop())
        say(text)

    return line


def _on_stderr(line: str) -> None:
    typer.echo(line, err=True)


def _nothing(line: str) -> None:
    pass
