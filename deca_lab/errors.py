"""The errors that users see. Bad input gives one line: which argument, what was given, what is allowed."""

from collections.abc import Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from typing import TypeVar

T = TypeVar("T")


class BadInput(ValueError):
    """An argument cannot be used; the message names it and says what was given and what is allowed.

    The command line prints it on one line and exits with code 2; a notebook shows that line, too, and no traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows: who gave the argument knows where."""
        return [f"{type(self).__name__}: {self}"]


class Diverged(ArithmeticError):
    """A loss or a parameter stopped being finite; the message names the client, the step and the block."""


class PeerLost(RuntimeError):
    """Another process of a distributed run is gone; the message says which rank noticed."""


class Stopped(Exception):
    """The user stopped a run before its end; the message names the inner step and says how to go on."""


def first_line(error: BaseException) -> str:
    """Return the first line of another's error, short enough for the terminal; where a list follows, its items too."""
    text = str(error).strip() or type(error).__name__
    first = text.splitlines()[0]
    return (" ".join(text.split()) if first.endswith(":") else first)[:300]


def pick(table: Mapping[str, T], name: str, what: str) -> T:
    """Return `table[name]`, or raise BadInput with the nearest names.

    `what` says what is looked up, in the user's words ("topology", "corpus").
    """
    if isinstance(name, str) and name in table:
        return table[name]
    near = get_close_matches(name, table, n=3, cutoff=0.5) if isinstance(name, str) else []
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise BadInput(f"unknown {what} {quoted(name)}: {hint}allowed: {', '.join(sorted(table))}")


def check(ok: bool, argument: str, got: object, allowed: str) -> None:
    """Raise BadInput unless `ok`; every value out of range gets a message of this one form."""
    if not ok:
        raise BadInput(f"{argument} = {quoted(got)} cannot be used: it must be {allowed}")


def require(what: str, extra: str, *packages: str) -> None:
    """Raise BadInput, with the command that helps, where a package of one of our extras is missing.

    `what` says in the user's words what cannot be done without ("the book").
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise BadInput(
            f"{what} needs {', '.join(missing)}: pip install 'deca-lab[{extra}]', then again"
        )


def quoted(value: object) -> str:
    """Return what was given as Python writes it, on one line."""
    try:
        return " ".join(line.strip() for line in repr(value).splitlines())
    except ValueError:  # Python does not write a number of thousands of digits
        return f"a {type(value).__name__} too long to write"


def out_of_memory(error: BaseException) -> bool:
    """Say whether Python, its loader of libraries, torch's allocator on the processor, or a GPU found no memory."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # torch's, which is not imported here
        or "can't allocate memory" in str(error)
        or "out of memory" in str(error)  # CUDA's, where not torch's allocator asked
        or "ALLOC_FAILED" in str(error)  # cuBLAS's and cuDNN's
        or "failed to map segment" in str(error)
    )
