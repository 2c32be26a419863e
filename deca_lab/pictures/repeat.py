"""How a run is repeated: its command line, or the call in Python where it was given objects."""

import shlex
from dataclasses import asdict
from typing import Any

from deca_lab.lab.history import History
from deca_lab.lab.objects import FIELDS, UNREAD, on_problem, with_objects
from deca_lab.runconfig import OBJECT, RUN_COMMAND, RunConfig, defaults


def repeated(history: History) -> str:
    """Return the command line that repeats the run, or the call where a command line cannot say it all."""
    own = history.summary.get("own_metrics") or history.summary.get("stopped_early")
    return call(history) if own or given(history.config) else command(history.config)


def command(config: RunConfig) -> str:
    """Return the command line that repeats a run without objects."""
    usual = {**defaults(), **RUN_COMMAND}
    if config.eval_every:  # then it is not read, and would be refused
        usual["eval_share"] = config.eval_share
    changed = {k: value for k, value in asdict(config).items() if value != usual[k]}
    words = [word for name, value in changed.items() for word in _option(name, value)]
    return shlex.join(["deca-lab", "run", *words])


def call(history: History) -> str:
    """Return the call of `run` or `fit` that repeats the run; <Net> stands for an object of the class Net."""
    objects, function = given(history.config), "fit" if on_problem(history.config) else "run"
    knobs = {name: value for name, value in _changed(history.config).items() if name not in objects}
    if "optimiser" in objects:
        knobs = {name: value for name, value in knobs.items() if name not in UNREAD}
    config = f"RunConfig({', '.join(f'{name}={value!r}' for name, value in knobs.items())})"
    words = [f"{argument}=<{kind}>" for argument, kind in _arguments(objects).items()]
    problem = [f"<{objects['corpus']}>"] if function == "fit" else []
    lines = ",\n    ".join([*problem, config, *words, *_functions(history.summary)])
    return f"from deca_lab import RunConfig, {function}\n\n{function}(\n    {lines},\n)"


def given(config: RunConfig) -> dict[str, str]:
    """Return {knob: class} of the objects that stood in for names."""
    return {knob: kind_of(getattr(config, knob)) for knob in with_objects(config)}


def kind_of(label: str) -> str:
    """Return Net of "object:Net:3f9c01d2ab44"."""
    return label.removeprefix(OBJECT).rpartition(":")[0]


def _arguments(objects: dict[str, str]) -> dict[str, str]:
    """Return {argument: class} of the objects that are given by keyword."""
    known = {
        name: objects[knob]
        for name, knob in FIELDS.items()
        if knob in objects and name != "problem"
    }
    return {name: kind for name, kind in known.items() if (name, kind) != ("dataset", "Problem")}


def _functions(summary: dict[str, Any]) -> list[str]:
    """Return the arguments that are functions, of which a history knows no more than the names."""
    metrics = ", ".join(f"{name!r}: <function>" for name in summary.get("own_metrics", {}))
    called = ["callbacks=[<function>]"] if summary.get("stopped_early") else []
    return [*([f"metrics={{{metrics}}}"] if metrics else []), *called]


def _changed(config: RunConfig) -> dict[str, Any]:
    usual = defaults()
    return {name: value for name, value in asdict(config).items() if value != usual[name]}


def _option(name: str, value: object) -> list[str]:
    flag = name.replace("_", "-")
    return (
        [f"--{flag}" if value else f"--no-{flag}"]
        if isinstance(value, bool)
        else [f"--{flag}", str(value)]
    )
