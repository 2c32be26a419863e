"""Which knob is read when: what the command line sets, and the run would not read, is refused."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple

from deca_lab.cli.choices import ours
from deca_lab.errors import BadInput, check, quoted
from deca_lab.methods import METHODS, resolve
from deca_lab.runconfig import RunConfig, defaults


class Reading(NamedTuple):
    """When a knob is read: a test of the resolved config, and the same in words."""

    test: Callable[[RunConfig], bool]
    words: str


def chosen(knob: str, kind: str, *readers: str) -> Callable[[RunConfig], bool]:
    """Return the test whether `knob` names one of these parts, or a part of one's own, which may read anything."""
    return lambda config: (value := getattr(config, knob)) in readers or value not in ours(kind)


def _has_columns(config: RunConfig) -> bool:
    return config.corpus not in ours("corpus")


def _several(config: RunConfig) -> bool:
    return config.clients > 1


def _fed(config: RunConfig) -> bool:
    return config.feedback != "none"


def _takes_feedback(config: RunConfig) -> bool:
    return chosen("optimiser", "optimiser", "adam", "adam-mixed", "adam-trivial")(config)


def _needs_lora(config: RunConfig) -> bool:
    return config.adapter == "lora"


def _from_graph(config: RunConfig) -> bool:
    """Whether W is made from a graph: of a server, a sequence and a file it is there already."""
    name = config.topology
    given = name not in ours("topology") and any(mark in name for mark in "./\\,")
    return not (given or name == "server" or name in ours("sequence"))


MOMENTS = (
    *("adam", "adam-mixed", "adam-predictable", "adam-trivial", "qg-adam"),
    *("amsgrad", "local-amsgrad"),
)
ADAMS = Reading(
    chosen("optimiser", "optimiser", *MOMENTS), f"--optimiser one of {', '.join(MOMENTS)}"
)
FED = Reading(
    lambda c: _takes_feedback(c) and _fed(c),
    "a --feedback, and --optimiser adam, adam-mixed or adam-trivial",
)
LORA = Reading(_needs_lora, "--adapter lora")
SEVERAL = Reading(_several, "two clients or more")
SHORT = Reading(lambda c: c.compress != "none", "--compress")
READ_WHEN: Mapping[str, Reading] = {  # all other knobs are always read
    "answer_column": Reading(
        lambda c: chosen("task", "task", "generate")(c) and _has_columns(c),
        "--task generate, and a corpus with columns",
    ),
    "verbaliser": Reading(
        lambda c: chosen("task", "task", "classify")(c) and c.head != "trained",
        "--task classify whose --head is words",
    ),
    "head": Reading(chosen("task", "task", "classify"), "--task classify"),
    "alpha": Reading(
        chosen("split", "split", "dirichlet", "quantity"), "--split dirichlet or quantity"
    ),
    "shares": Reading(chosen("split", "split", "shares"), "--split shares"),
    "edge_probability": Reading(
        lambda c: (
            _several(c) and chosen("topology", "topology", "erdos-renyi")(c) and _from_graph(c)
        ),
        "--topology erdos-renyi",
    ),
    "degree": Reading(
        lambda c: (
            _several(c) and chosen("topology", "topology", "random-regular")(c) and _from_graph(c)
        ),
        "--topology random-regular",
    ),
    "weights": Reading(
        lambda c: _several(c) and _from_graph(c),
        "two clients or more on a --topology that is a graph",
    ),
    "eval_share": Reading(lambda c: c.eval_every == 0, "--eval-every 0"),
    "rank": Reading(lambda c: c.adapter != "none", "--adapter lora or bottleneck"),
    "base_weights": Reading(lambda c: c.adapter != "none", "--adapter lora or bottleneck"),
    "lora_alpha": LORA,
    "targets": LORA,
    "frozen_factor": LORA,
    "mixing": LORA,
    "granularity": Reading(lambda c: c.blocks == "layers", "--blocks layers"),
    "ends": Reading(
        lambda c: c.blocks == "layers" or c.ends == "frozen", "--blocks layers, unless it is frozen"
    ),
    "block_count": Reading(lambda c: c.blocks == "equal", "--blocks equal"),
    "patterns": Reading(lambda c: c.blocks == "patterns", "--blocks patterns"),
    "order": Reading(lambda c: c.blocks != "whole", "more than one block"),
    "momentum": Reading(
        chosen("optimiser", "optimiser", "sgd", "qg-sgd"), "--optimiser sgd or qg-sgd"
    ),
    "a1": ADAMS,
    "a2": ADAMS,
    "eps": ADAMS,
    "feedback": Reading(
        lambda c: _takes_feedback(c) or not _fed(c), "--optimiser adam, adam-mixed or adam-trivial"
    ),
    "feedback_scale": FED,
    "b1": FED,
    "b2": FED,
    "mixed": SEVERAL,
    "drop": SEVERAL,
    "stragglers": SEVERAL,
    "garbage": SEVERAL,
    "stale": SEVERAL,
    "noise": SEVERAL,
    "compress": SEVERAL,
    "burst": Reading(lambda c: c.drop > 0, "--drop"),
    "delay": Reading(lambda c: c.stale > 0, "--stale"),
    "keep_share": Reading(
        lambda c: c.compress != "none" and chosen("compress", "compressor", "top-k", "random-k")(c),
        "--compress top-k or random-k",
    ),
    "bits": Reading(
        lambda c: c.compress != "none" and chosen("compress", "compressor", "quantised")(c),
        "--compress quantised",
    ),
    "gamma": SHORT,
}


def require_read(given: Mapping[str, object], configs: Sequence[RunConfig]) -> None:
    """Raise BadInput unless each `given` knob is read, as it was given, by one of these resolved configs at least."""
    for name, value in given.items():
        reasons = [_why_not(config, name, value) for config in configs]
        if all(reasons):
            raise BadInput(f"{name} = {quoted(value)} would be ignored: {reasons[0]}")


def _why_not(config: RunConfig, name: str, value: object) -> str:
    """Return why a run would not read a knob as it was given; "" where it does."""
    pooled = config.method in METHODS and METHODS[config.method].pooled
    if pooled and name in ("clients", "batch"):
        return ""  # how many shards and batches are pooled
    if getattr(config, name) != value:
        return f"method {config.method!r} is {name} = {getattr(config, name)!r}"
    rule = READ_WHEN.get(name)
    return "" if rule is None or rule.test(config) else f"it needs {rule.words}"


def unread(config: RunConfig, given: Mapping[str, object]) -> list[str]:
    """Return lines on the knobs that are not as usual, were not `given`, as those of a file, and would not be read."""
    usual, run = defaults(), resolve(config)
    fixed = METHODS[config.method].fixed if config.method in METHODS else {}
    own = {
        name: value
        for name, value in asdict(config).items()
        if value not in (usual[name], fixed.get(name, usual[name])) and name not in given
    }
    reasons = {name: _why_not(run, name, value) for name, value in own.items()}
    return [f"{k} = {quoted(own[k])} is not read: {why}" for k, why in reasons.items() if why]


def require_alone(option: str, given: Mapping[str, object], why: str) -> None:
    """Raise BadInput where an option beside `option` was `given`: neither None nor False."""
    for name, value in given.items():
        absent = value is None or value is False
        check(absent, name, value, f"left out with {option}: {why}")


def only(given: Mapping[str, object], *names: str) -> dict[str, object]:
    """Return those of the options that are named."""
    return {name: given[name] for name in names if name in given}
