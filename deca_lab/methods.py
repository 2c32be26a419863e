"""Every algorithm as one row: the knobs that make it what it is. All other knobs stay the user's."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from deca_lab.errors import BadInput, pick
from deca_lab.registry import load_plugins
from deca_lab.runconfig import OBJECT, RunConfig, defaults


class Method(NamedTuple):
    """One algorithm: what it is, and the knobs that it fixes."""

    about: str
    fixed: Mapping[str, Any]
    pooled: bool = False  # one client holds all shards, and takes the batches of all


WHOLE = {
    "blocks": "whole",
    "feedback": "none",
    "moments": "keep",
}  # full-parameter training without the feedback
ALONE = {"clients": 1, "topology": "complete", "feedback": "none"}

LORA = {"adapter": "lora", **WHOLE}

METHODS: dict[str, Method] = {
    "deca": Method(
        "block-wise Adam, adapt then combine, consensus feedback into the moments (DECA)",
        {"optimiser": "adam"},
    ),
    "deca-no-feedback": Method(
        "DECA's ablation without the feedback", {"optimiser": "adam", "feedback": "none"}
    ),
    "deca-trivial": Method(
        "DECA's ablation whose stored moments hold the feedback alone",
        {"optimiser": "adam-trivial"},
    ),
    "deca-mixed": Method(
        "DECA with second moments mixed as well, which repairs its bias; twice the traffic (of this lab)",
        {"optimiser": "adam-mixed"},
    ),
    "deca-predictable": Method(
        "block-wise Adam that divides by mixed second moments of the steps before; moments kept, twice the traffic (of this lab)",
        {"optimiser": "adam-predictable", "feedback": "none", "moments": "keep"},
    ),
    "d-sgd": Method("decentralised SGD, all parameters at once", {**WHOLE, "optimiser": "sgd"}),
    "d-adam": Method(
        "decentralised Adam, all parameters at once, moments kept", {**WHOLE, "optimiser": "adam"}
    ),
    "qg-sgdm": Method(
        "SGD with quasi-global momentum (Lin et al. 2021)",
        {**WHOLE, "optimiser": "qg-sgd", "momentum": 0.9},
    ),
    "qg-adam": Method(
        "Adam with quasi-global moments (Lin et al. 2021)", {**WHOLE, "optimiser": "qg-adam"}
    ),
    "gradient-tracking": Method(
        "every client follows a tracked mean gradient", {**WHOLE, "optimiser": "gradient-tracking"}
    ),
    "d-amsgrad": Method(
        "decentralised AMSGrad with a tracked second moment (Chen et al. 2021)",
        {**WHOLE, "optimiser": "amsgrad", "combine": "before"},
    ),
    "dadam": Method(
        "AMSGrad of each client on its own, parameters mixed: need not converge (Nazari et al. 2019)",
        {**WHOLE, "optimiser": "local-amsgrad", "combine": "before"},
    ),
    "dec-lora": Method(
        "LoRA's factors trained locally, A and B gossiped separately: --mix-every is the local steps (Dec-LoRA)",
        LORA,
    ),
    "dlora-fa": Method(
        "Dec-LoRA with every A kept at the common start", {**LORA, "frozen_factor": "A"}
    ),
    "decaf": Method(
        "LoRA whose products are averaged and cut back to the rank (DeCAF)",
        {**LORA, "mixing": "decaf"},
    ),
    "dec-adapter": Method(
        "bottleneck adapters trained locally and gossiped", {**WHOLE, "adapter": "bottleneck"}
    ),
    "centralised-lora": Method("LoRA of one client on pooled data", {**ALONE, **LORA}, pooled=True),
    "local": Method(
        "DECA's block-wise Adam without any mixing: what each client reaches alone",
        {"optimiser": "adam", "topology": "none", "allow_unsound": True, "feedback": "none"},
    ),
    "badam": Method(
        "block-wise Adam of one client on pooled data (Luo et al. 2024), DECA's parent",
        {**ALONE, "optimiser": "adam"},
        pooled=True,
    ),
    "centralised": Method(
        "Adam of one client on pooled data, all parameters at once",
        {**ALONE, **WHOLE, "optimiser": "adam"},
        pooled=True,
    ),
    "fedavg": Method(
        "local Adam steps, then a server's average: set --mix-every",
        {**WHOLE, "optimiser": "adam", "topology": "server"},
    ),
}


def resolve(config: RunConfig, own: Method | None = None) -> RunConfig:
    """Return the config with its method's knobs set; raise BadInput where the user set one of them otherwise.

    `own` is a method that was given as an object, in place of the name. An optimiser or blocks that were given as objects
    stand, whatever the method fixes. A pooled method takes the shards and batches of all the clients that were asked for.
    """
    load_plugins()  # the method, or what another knob names, may be theirs
    method, usual = own or pick(METHODS, config.method, "method"), defaults()
    free = ("clients", "topology") if method.pooled else ()
    fixed = {
        name: value
        for name, value in method.fixed.items()
        if not str(getattr(config, name)).startswith(OBJECT)
    }
    for name, value in fixed.items():
        given = getattr(config, name)
        if name not in free and given not in (usual[name], value):
            raise BadInput(
                f"{name} = {given!r} contradicts method {config.method!r}, which is {name} = {value!r}"
            )
    batch = config.batch * config.clients if method.pooled and config.clients > 1 else config.batch
    return replace(config, **{**fixed, "batch": batch})
