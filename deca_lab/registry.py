"""Parts of your own under a name: what is registered here is found wherever one of ours is.

A table is named by "module:TABLE" and imported when something is registered in it, so that this
module stays light. Packages may bring parts along: what they declare under the entry point group
`deca_lab` is imported once, before the first name is looked up.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, NamedTuple

from deca_lab.errors import BadInput, check, first_line, pick, quoted
from deca_lab.runconfig import from_mapping

GROUP = "deca_lab"  # of entry points
KEBAB = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def _sound_method(method: Any) -> None:  # noqa: ANN401 - a methods.Method
    check(
        isinstance(method.fixed, Mapping), "fixed", method.fixed, "a mapping from knobs to values"
    )
    from_mapping(method.fixed)


def _sound_preset(preset: Any) -> None:  # noqa: ANN401 - a causal_lm.Preset
    check(
        bool(preset.source) != bool(preset.family),
        "source, family",
        (preset.source, preset.family),
        "one of the two",
    )


def _sound_task(task: Any) -> None:  # noqa: ANN401 - a tasks.TaskKind
    check(
        isinstance(task.scores, Mapping),
        "scores",
        task.scores,
        "a mapping from names to whether higher is better",
    )
    _require_function(("request",), "build", task.build)


class Kind(NamedTuple):
    """One kind of part: its table, what an entry of it is, and names that an entry cannot have."""

    title: str  # of its list in `deca-lab list`
    table: str  # "module:TABLE"
    arguments: tuple[str, ...] = ()  # of an entry that is a function
    row: str = ""  # "module:Type" of an entry that is a row
    examine: Callable[[Any], None] | None = None  # raises BadInput for a row that is not sound
    others: tuple[str, ...] = ()  # tables whose names are taken as well
    reserved: tuple[str, ...] = ()  # words that mean something else in the same place


KINDS: dict[str, Kind] = {
    "method": Kind(
        "methods", "deca_lab.methods:METHODS", row="deca_lab.methods:Method", examine=_sound_method
    ),
    "model": Kind(
        "models",
        "deca_lab.models.causal_lm:PRESETS",
        row="deca_lab.models.causal_lm:Preset",
        examine=_sound_preset,
    ),
    "task": Kind(
        "tasks",
        "deca_lab.text.tasks:TASKS",
        row="deca_lab.text.tasks:TaskKind",
        examine=_sound_task,
    ),
    "corpus": Kind(
        "corpora",
        "deca_lab.text.corpora:CORPORA",
        ("seed",),
        others=("deca_lab.text.tables:CANONICAL",),
    ),
    "split": Kind("splits", "deca_lab.text.shards:SPLITS", ("request",)),
    "topology": Kind(
        "topologies",
        "deca_lab.mixing.graphs:GRAPHS",
        ("clients", "spec"),
        others=("deca_lab.mixing.graphs:SEQUENCES",),
        reserved=("server",),
    ),
    "sequence": Kind(
        "topologies",
        "deca_lab.mixing.graphs:SEQUENCES",
        ("clients", "seed"),
        others=("deca_lab.mixing.graphs:GRAPHS",),
        reserved=("server",),
    ),
    "weights": Kind("weights", "deca_lab.mixing.weights:WEIGHTS", ("graph",)),
    "order": Kind("orders", "deca_lab.algorithm.blocks:ORDERS", ("round", "count", "seed")),
    "optimiser": Kind("optimisers", "deca_lab.algorithm.optimisers:OPTIMISERS", ("spec",)),
    "feedback": Kind("feedbacks", "deca_lab.algorithm.moments:SIGNALS", ("x", "x_new")),
    "feedback-scale": Kind("feedback-scales", "deca_lab.algorithm.moments:SCALES", ("h", "lr")),
    "compressor": Kind(
        "compressors",
        "deca_lab.network.compression:COMPRESSORS",
        ("share", "bits"),
        reserved=("none",),
    ),
    "schedule": Kind("schedules", "deca_lab.algorithm.schedules:SCHEDULES", ("progress",)),
    "engine": Kind("engines", "deca_lab.algorithm.gradients:ENGINES", ("loss",)),
}


def register(kind: str, name: str, item: Any = ...) -> Any:  # noqa: ANN401 - any kind's part
    """Give a part of your own a name that a RunConfig and the command line take; return the part.

    `kind` is one of KINDS, such as "topology"; `name` is lower-case words with hyphens. Without
    an `item` it is a decorator: `@register("topology", "my-graph")`. The first line of the item's
    docstring (a row's `about`) is its description in `deca-lab list`. Raises BadInput for a name
    that is taken and an item that does not fit. Defining and registering the same function again,
    as a notebook's cell does, replaces it.
    """
    if item is ...:
        return partial(register, kind, name)
    row = pick(KINDS, kind, "kind of part")
    check(
        isinstance(name, str) and KEBAB.fullmatch(name) is not None,
        "name",
        name,
        "lower-case words joined by hyphens, such as 'my-graph'",
    )
    table = resolved(row.table)
    check(_is_free(row, name, table, item), "name", name, f"a name that no {kind} has yet")
    _require_fit(row, f"{kind} {name!r}", item)
    table[name] = item
    return item


def about(item: object) -> str:
    """Return a part's description: a row's `about`, or a docstring's first line; "" without any."""
    if isinstance(item, partial):
        return about(item.func)
    words = item.about if hasattr(item, "about") else item.__doc__
    return str(words or "").strip().partition("\n")[0]


def resolved(place: str) -> Any:  # noqa: ANN401 - a table or a type
    """Return what "module:NAME" names."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def _is_free(kind: Kind, name: str, table: Mapping[str, Any], item: object) -> bool:
    if name in table:
        return _same(table[name], item)
    return name not in kind.reserved and not any(name in resolved(other) for other in kind.others)


def _same(old: object, new: object) -> bool:
    """Whether two parts are one: the same object, an equal row, or one definition, run again."""
    if isinstance(old, tuple) and isinstance(new, tuple):
        return type(old) is type(new) and len(old) == len(new) and all(map(_same, old, new))
    return old is new or old == new or (_origin(old) is not None and _origin(old) == _origin(new))


def _origin(item: object) -> tuple[str, str] | None:
    """Where a function was defined, or None for what has no name of its own."""
    name = getattr(item, "__qualname__", None)
    return (item.__module__, name) if name and "<lambda>" not in name else None


def _require_fit(kind: Kind, what: str, item: object) -> None:
    """Raise BadInput unless an item can be an entry of the kind's table."""
    try:
        _require_row(kind, item) if kind.row else _require_function(kind.arguments, "it", item)
        words = "a line: its docstring, or a row's `about`, which `deca-lab list` shows"
        check(bool(about(item)), "its description", None, words)
    except BadInput as error:
        raise BadInput(f"{what} cannot be registered: {error}") from None


def _require_row(kind: Kind, item: object) -> None:
    check(isinstance(item, resolved(kind.row)), "it", item, f"a {kind.row.replace(':', '.')}")
    if kind.examine is not None:
        kind.examine(item)


def _require_function(arguments: tuple[str, ...], what: str, item: object) -> None:
    allowed = f"a function of ({', '.join(arguments)})"
    if not callable(item):
        raise BadInput(f"{what} = {quoted(item)} cannot be used: it must be {allowed}")
    try:
        signature = inspect.signature(item)
    except ValueError:  # a builtin that does not say what it takes
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        raise BadInput(f"{what} takes {signature}, and must be {allowed}") from None


# ---- what other packages bring along


_loaded: set[EntryPoint] = set()


def load_plugins() -> None:
    """Import, once, what installed packages declare under the entry point group `deca_lab`.

    An entry point names a module, whose body registers parts, or a function that does so when
    called without arguments. Raises BadInput, naming the plug-in, for one that fails.
    """
    for point in _declared():
        if point not in _loaded:
            _loaded.add(point)  # before its code runs, which may look up a name itself
            _load(point)


@cache
def _declared() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=GROUP))


def _load(point: EntryPoint) -> None:
    try:
        part = point.load()
        if not isinstance(part, ModuleType):
            _require_function((), "it", part)
            part()
    except (Exception, SystemExit) as error:  # whatever another's code raises
        _loaded.discard(point)
        where = f"{point.name!r} ({point.value}{_package(point)})"
        advice = "mend it, or uninstall it"
        raise BadInput(f"plug-in {where} cannot be loaded: {_line(error)}; {advice}") from error


def _package(point: EntryPoint) -> str:
    return f", of the package {point.dist.name} {point.dist.version}" if point.dist else ""


def _line(error: BaseException) -> str:
    """The kind of an error and its first line; a BadInput speaks for itself."""
    kind = "" if isinstance(error, BadInput) else f"{type(error).__name__}: "
    return kind + first_line(error)
