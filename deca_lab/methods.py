"""Every algorithm as one row: the knobs that make it what it is. All other knobs stay the user's."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from deca_lab.errors import BadInput, pick
from deca_lab.runconfig import RunConfig, defaults


class Method(NamedTuple):
    """One algorithm: what it is, and the knobs that it fixes."""

    about: str
    fixed: Mapping[str, Any]


METHODS: dict[str, Method] = {
    "deca": Method("block-wise Adam, adapt then combine, consensus feedback into the moments (DECA)", {}),
    "deca-no-feedback": Method("DECA's ablation without the feedback", {"feedback": "none"}),
    "d-adam": Method("decentralised Adam: all parameters at once, moments kept, no feedback",
                     {"blocks": "whole", "feedback": "none", "moments": "keep"}),
    "local": Method("DECA's block-wise Adam without any mixing: what each client reaches alone",
                    {"topology": "none", "allow_unsound": True, "feedback": "none"}),
}


def resolve(config: RunConfig) -> RunConfig:
    """Return the config with its method's knobs set; raise BadInput where the user set one of them otherwise."""
    method, usual = pick(METHODS, config.method, "method"), defaults()
    for name, value in method.fixed.items():
        given = getattr(config, name)
        if given not in (usual[name], value):
            raise BadInput(f"{name} = {given!r} contradicts method {config.method!r}, which is {name} = {value!r}")
    return replace(config, **method.fixed)
