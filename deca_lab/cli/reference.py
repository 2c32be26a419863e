"""The page of every command, with its arguments and options, made from the app: `python -m deca_lab.cli.reference`."""

import sys
from collections.abc import Iterator
from inspect import cleandoc
from typing import Any

import typer

from deca_lab.runconfig import RunConfig

KNOBS = RunConfig.__dataclass_fields__


def page() -> str:
    """Return the page in Markdown; what every command shares, --help, is left out."""
    from deca_lab.cli import app

    commands = vars(typer.main.get_command(app))["commands"]
    lines = ["# Commands", "", "Each has `-h`. By example: [commands](../howto/commands.md).", ""]
    return "\n".join([*lines, *(line for name in commands for line in _command(commands[name]))])


def _command(command: Any) -> Iterator[str]:  # noqa: ANN401 - typer's, whose classes have no stable home
    """Yield the lines of one command: how it is called, what it does, a table of what it takes."""
    own = [one for one in command.params if one.name not in KNOBS and "--help" not in one.opts]
    arguments = [one for one in own if one.param_type_name == "argument"]
    words = " ".join(_called(one) for one in arguments)
    knobs = [one for one in command.params if one.name in KNOBS]
    yield f"## {command.name}\n"
    yield f"```sh\ndeca-lab {command.name}{' ' + words if words else ''} [OPTIONS]\n```\n"
    yield f"{cleandoc(command.help or '')}\n"
    if own:
        yield from ("| takes | what it is |", "|---|---|", *map(_row, own), "")
    if knobs:
        every = len(knobs) == len(KNOBS)
        named = ", ".join(f"`--{one.name.replace('_', '-')}`" for one in knobs)
        which = (
            "Every [knob of a run](knobs.md)" if every else f"[Knobs of a run](knobs.md): {named}"
        )
        yield f"{which}.\n"


def _called(one: Any) -> str:  # noqa: ANN401
    """Return how an argument stands in a call: in brackets where it may be left out."""
    word = one.name.upper() + ("..." if one.nargs == -1 else "")
    return word if one.required else f"[{word}]"


def _row(one: Any) -> str:  # noqa: ANN401
    """Return an option or argument as a row of a table."""
    names = ", ".join(f"`{name}`" for name in (*one.opts, *one.secondary_opts) if name)
    if one.param_type_name == "argument":
        names = f"`{one.name.upper()}`"
    empty = (
        one.default is None or callable(one.default) or one.default is False or one.default == ""
    )
    default = "" if empty else f"; else `{one.default}`"
    return f"| {names} | {_plain(one.help or '')}{default} |"


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("$", "\\$").replace("*", "\\*")


if __name__ == "__main__":
    sys.stdout.write(page())
