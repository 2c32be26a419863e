"""The command line: every knob of a RunConfig is an option, every error one line.

Heavy modules are imported inside the commands, so that help answers at once.
"""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from deca_lab.cli import looking, running, studying, teaching
from deca_lab.errors import (
    BadInput,
    Diverged,
    PeerLost,
    Stopped,
    check,
    out_of_memory,
)

GO_ON = "go on with deca-lab run --resume DIR"
LESS_MEMORY = (
    "out of memory: a new run needs less with --micro-batch 1, --engine loop or --dtype bfloat16; "
    f"where more is free, {GO_ON}"
)

SEVERAL = ("--vary", "--parameter")  # the options that may be given more than once
app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Learn, run and check decentralised fine-tuning of language models. Start with [bold]deca-lab run[/bold].",
)
app.command(add_help_option=False)(running.run)
app.command(add_help_option=False)(studying.compare)
app.command()(studying.findings)
app.command(add_help_option=False)(studying.sweep)
app.command()(looking.doctor)
app.command()(looking.bounds)
app.command()(looking.clock)
app.command()(looking.bench)
app.command()(looking.export)
app.command()(looking.report)
app.command()(teaching.notebooks)
app.command()(teaching.lab)
app.command()(teaching.students)
app.command()(teaching.book)
app.command()(teaching.slides)
app.command("list")(looking.list_names)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"deca-lab {version('deca-lab')}")
        raise typer.Exit


@app.callback()
def _before(
    shown: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="say which this is"),
    ] = False,
) -> None:
    """Take what stands before the command."""


def main() -> None:
    """Run the command line; each error is one line on stderr.

    Exit codes: 2 for bad input; 1 for a run that diverged, lost a peer, or found no memory or room
    on the disk; 130 for one that was stopped by hand.
    """
    try:
        _settle()
        _require_once(sys.argv[1:])
        app()
    except BadInput as error:
        _fail(f"error: {error}", 2)
    except Diverged as error:
        _fail(f"stopped: {error}", 1)
    except PeerLost as error:
        _fail(f"stopped: {error}; when all are back, {GO_ON}", 1)
    except Stopped as asked:
        _fail(str(asked), 130)
    except KeyboardInterrupt:
        _fail(f"stopped by hand; what was checkpointed can be continued: {GO_ON}", 130)
    except (MemoryError, RuntimeError, ImportError) as error:
        if not out_of_memory(error):
            raise
        _fail(f"stopped: {LESS_MEMORY}", 1)
    except OSError as error:  # a full disk, a closed pipe
        _drop_output()
        _fail(f"stopped: {error.strerror or error}", 1)


def _settle() -> None:
    """Open what the caller closed of stdin, stdout and stderr; refuse a Python in which libraries break."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
    allowed = "-O at most: transformers reads the docstrings of its classes"
    check(sys.flags.optimize < 2, "python", "-OO", allowed)
    check(_is_somewhere(), "current folder", "removed", "one that is still there")


def _require_once(words: Sequence[str]) -> None:
    """Raise BadInput for an option that is given twice: the parser would take the last one in silence."""
    given = (word.partition("=")[0] for word in words if word.startswith("--"))
    named = Counter("--recipe" if name == "--config" else name for name in given)
    twice = [name for name, times in named.items() if times > 1 and name not in SEVERAL]
    check(not twice, "options", ", ".join(twice), "given once each")


def _is_somewhere() -> bool:
    try:
        return bool(os.getcwd())
    except OSError:
        return False


def _drop_output() -> None:
    """Let Python's own flush at exit, which would fail as well, go nowhere."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # a stdout that is no file
        return


def _fail(text: str, code: int) -> None:
    sys.stderr.write(text + "\n")
    sys.exit(code)
