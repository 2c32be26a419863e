"""Every knob of a RunConfig becomes an option of a command, with two levels of help."""

import inspect
import re
from collections.abc import Callable, Container, Iterable, Mapping
from copy import copy
from dataclasses import Field, asdict, fields
from typing import Annotated, Any

import typer

from deca_lab.cli.choices import choices
from deca_lab.errors import check
from deca_lab.runconfig import RunConfig, from_mapping

Command = Callable[..., None]
Value = str | bool | int | float  # of a knob
Given = dict[str, Value]  # the knobs that the command line itself sets

USUAL = {  # what most people need: --help shows these, --help-all all of them
    *("recipe", "method", "task", "corpus", "text_column", "label_column", "alpha"),
    *("clients", "topology", "model", "context", "batch", "adapter"),
    *("rounds", "inner_steps", "lr", "seed", "device"),
}
FLAG = " "  # in place of a type, for there is nothing to write
RECIPE = typer.Option(
    "--recipe",
    "--config",
    metavar="NAME",
    help="knobs of a paper's experiment (`deca-lab list recipes`), or of a .yaml or .json file, such "
    "as a run's config.json; options beside it win",
    rich_help_panel="Method",
    show_default=False,
)


def with_knobs(*refused: str, **usual: Value) -> Callable[[Command], Command]:
    """Give a command an option for every knob of RunConfig in place of its `**knobs`; `usual` are defaults of its own.

    Knobs that it has `refused` no help shows: it sets them itself, and says so to who gives them.

    Its argument `given`, if it has one, gets the knobs that the command line itself sets.
    """

    def wrap(command: Command) -> Command:
        def filled(ctx: typer.Context, recipe: str, **values: Any) -> None:  # noqa: ANN401
            for name in ("help", "help_all"):
                values.pop(name)
            given = given_of(ctx, {f.name for f in fields(RunConfig)})
            command(given=given, **{**values, **_of_recipe(ctx, recipe)})

        taken = _taken(command, refused, usual)
        filled.__dict__["__signature__"] = inspect.Signature(taken)  # what typer reads
        filled.__annotations__ = {p.name: p.annotation for p in taken}
        filled.__name__, filled.__doc__ = command.__name__, command.__doc__
        return filled

    return wrap


def _taken(
    command: Command, refused: Container[str], usual: Mapping[str, Value]
) -> list[inspect.Parameter]:
    """Return the parameters that typer reads: the command's own, two helps, a recipe, and every knob."""
    own = inspect.signature(command).parameters.values()
    others = [p for p in own if p.kind is not p.VAR_KEYWORD and p.name != "given"]
    defaults: dict[str, Value] = {**asdict(RunConfig()), **usual}
    options = {f.name: _option(f, defaults[f.name], f.name in refused) for f in fields(RunConfig)}
    return [
        _parameter("ctx", typer.Context),
        *others,
        _parameter("help", _help(_show_usual, "show this message and end", "-h"), False),
        _parameter("help_all", _help(_show_all, "show every option", ""), False),
        _parameter("recipe", Annotated[str, RECIPE], ""),
        *(_parameter(name, option, defaults[name]) for name, option in options.items()),
    ]


def _parameter(name: str, annotation: object, default: object = ...) -> inspect.Parameter:
    """Return a parameter for typer to read; one without a default comes first."""
    kinds = inspect.Parameter
    if default is ...:
        return kinds(name, kinds.POSITIONAL_OR_KEYWORD, annotation=annotation)
    return kinds(name, kinds.KEYWORD_ONLY, default=default, annotation=annotation)


def _option(f: "Field[Any]", default: Value, hidden: bool) -> object:
    """Return the annotation from which typer makes a knob's option; its help shows the command's own default."""
    names, allowed = choices(f.name), f.metadata["allowed"]
    letters: dict[Any, str] = {int: "N", float: "X", bool: FLAG, str: "NAME" if names else "TEXT"}
    words = f.metadata["help"] + (f"; {allowed[1]}" if allowed else "")
    unsaid = [name for name in names if name not in re.split(r"[^\w-]+", words)]
    # Without a --no-... beside it.
    flag = (f"--{f.name.replace('_', '-')}",) if f.type is bool else ()
    return Annotated[
        f.type,
        typer.Option(
            *flag,
            help=_with_default(default, words + (f": {', '.join(names)}" if unsaid else "")),
            metavar=letters[f.type],
            hidden=hidden,
            rich_help_panel=f.metadata["group"],
            autocompletion=_completion(names) if names else None,
            show_default=False,
        ),
    ]


def _with_default(default: Value, words: str) -> str:
    plain = default == "" or isinstance(default, bool)
    return words if plain else f"{words} [dim]\\[{default}][/dim]"


def _completion(names: tuple[str, ...]) -> Callable[[str], list[str]]:
    def beginning(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return beginning


def _help(show: Callable[[typer.Context], None], words: str, short: str) -> object:
    def callback(ctx: typer.Context, wanted: bool) -> None:
        if wanted:
            show(ctx)
            raise typer.Exit

    names = ["--help", short] if short else ["--help-all"]
    return Annotated[
        bool, typer.Option(*names, callback=callback, is_eager=True, help=words, metavar=FLAG)
    ]


def _show_all(ctx: typer.Context) -> None:
    typer.echo(ctx.get_help().rstrip())


def _show_usual(ctx: typer.Context) -> None:
    """Print the help with the usual knobs in few words, and name the others."""
    command = copy(ctx.command)
    command.params = [_in_few_words(option) for option in command.params]
    typer.echo(command.get_help(ctx).rstrip())
    groups: dict[str, list[str]] = {}
    visible = {option.name for option in ctx.command.params if not getattr(option, "hidden", False)}
    for f in fields(RunConfig):
        if f.name in visible - USUAL:
            groups.setdefault(f.metadata["group"], []).append(f.name.replace("_", "-"))
    listed = [f"{group}: {', '.join(names)}" for group, names in groups.items()]
    typer.echo("\n".join(["Shown by --help-all:", *map(_wrapped, listed)]))


def _in_few_words(option: Any) -> Any:  # noqa: ANN401 - typer has no public name for it
    """Return a copy of an option as --help shows it: one panel of the usual knobs, the others hidden."""
    short, knobs = copy(option), {f.name: f for f in fields(RunConfig)}
    if option.name in {*knobs, "recipe"}:
        short.hidden = option.hidden or option.name not in USUAL
        short.rich_help_panel = "Knobs that most people need"
    if option.name in knobs:
        short.help = _with_default(option.default, knobs[option.name].metadata["help"])
    return short


def _wrapped(line: str) -> str:
    from shutil import get_terminal_size
    from textwrap import fill

    width = max(get_terminal_size().columns - 1, 20)  # COLUMNS=1
    return fill(
        line,
        width,
        initial_indent="  ",
        subsequent_indent="    ",
        break_on_hyphens=False,
        break_long_words=False,
    )


def given_of(ctx: typer.Context, names: Iterable[str]) -> Given:
    """Return those of the options that the command line itself sets."""
    return {name: ctx.params[name] for name in names if _was_given(ctx, name)}


def _was_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _of_recipe(ctx: typer.Context, name: str) -> dict[str, Value]:
    """Return the knobs of a recipe that the command line does not set itself."""
    from deca_lab.recipes.recipe import knobs_of

    if not _was_given(ctx, "recipe"):
        return {}
    resumed = ctx.params.get("resume")
    check(resumed is None, "recipe", name, "left out with --resume, which changes nothing")
    method = ctx.params["method"] if _was_given(ctx, "method") else None
    config = asdict(from_mapping(knobs_of(name, method)))  # an unknown knob is refused here
    return {k: config[k] for k in knobs_of(name, method) if not _was_given(ctx, k)}
