"""The compiled engine: all clients' losses as one graph of fused operations, made once for a block and a shape.

Compiling takes from seconds to minutes a graph, so `worth` counts what a run will pay back. The graph holds
the way from the columns of X to the named tensors, so its backward pass writes the gradient as one matrix (N, D).
"""

from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from deca_lab.algorithm.stacking import Layout, Params, unflatten
from deca_lab.errors import BadInput, check

GRAPHS = 512  # at most in one process; torch's own limit, 8, would run the rest without graphs
COMPILING = 7.0  # seconds of one core for each transformer layer in a graph, and once for the rest
SPEED = {"cpu": 2e10, "cuda": 2e12}  # operations a second in the products of small models
SAVED = 0.25  # share of a stacked step that a graph saves


def one_graph(losses: Callable[[Params, Any], Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return (X, where, rest, batch) -> losses (N,) and gradient (N, D), of stacked losses, in one graph each way.

    Raises BadInput where no compiler is installed, or torch cannot take the losses as a whole.
    """
    shapes: set[object] = set()

    def values(leaf: Tensor, where: Layout, rest: Params, batch: Any) -> Tensor:  # noqa: ANN401
        return losses({**rest, **unflatten(leaf, where)}, batch)

    graph = torch.compile(_apart(values), fullgraph=True, dynamic=False)

    def gradients(x: Tensor, where: Layout, rest: Params, batch: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        if not shapes:
            require_compiler(x.device.type)
        leaf = x.detach().requires_grad_()
        before, known = graphs(), len(shapes)
        found = _whole(lambda: graph(leaf, where, rest, batch))
        shapes.add((where, tuple(rest), shape_of((x, rest, batch))))
        _require_one_each(graphs() - before, len(shapes) - known)
        (g,) = torch.autograd.grad(found.sum(), leaf)
        return found.detach(), g

    return gradients


def graphs() -> int:
    """Return the number of graphs that this process has made."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def _whole(work: Callable[[], Tensor]) -> Tensor:
    """Do the work of one graph; raise BadInput where a part of it would be left outside."""
    from torch._dynamo import config
    from torch._dynamo.exc import TorchDynamoException

    try:
        # the names that torch 2.6 has; later ones keep them beside recompile_limit
        with config.patch(cache_size_limit=GRAPHS, fail_on_cache_limit_hit=True):
            return work()
    except TorchDynamoException as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(
            f"engine = 'compiled' cannot take this model in one graph: {why[:200]}; use stacked"
        ) from error


def _apart(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the function with code of its own: torch keeps graphs by code, so two runs would search one another's."""
    code, of = function.__code__.replace(), function.__globals__
    return FunctionType(code, of, function.__name__, function.__defaults__, function.__closure__)


def _require_one_each(made: int, new: int) -> None:
    """Refuse a graph that is made again at every step, and a step that runs without one."""
    check(made == new, "graphs of engine = 'compiled'", made, f"{new}, one a block and shape")


def shape_of(tensors: object) -> object:
    """Return shapes, strides and types of tensors in tuples and dicts."""
    return tuple((tuple(t.shape), t.stride(), t.dtype) for t in tree_leaves(tensors))


def missing(device: str) -> str:
    """Return what is missing for compiling on a device, in words; nothing where it is all there."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch.utils._triton import has_triton

    if device not in SPEED:
        return f"graphs for {device}"
    if device == "cuda" and not has_triton():
        return "triton"
    try:
        get_cpp_compiler()
    except Exception:  # of a kind that differs between versions of torch
        return "a C++ compiler, such as g++ or clang"
    return ""


def require_compiler(device: str) -> None:
    """Raise BadInput where something is missing for compiling on a device."""
    lacking = missing(device)
    if lacking:
        raise BadInput(f"engine = 'compiled' lacks {lacking}: install it, or use stacked")


class Worth(NamedTuple):
    """What compiling costs a run and saves it, in seconds of one core."""

    graphs: int
    cost: float
    saved: float

    @property
    def pays(self) -> bool:
        """Say whether a run is shorter with graphs."""
        return self.saved > self.cost

    @property
    def line(self) -> str:
        """Return it in words, for the run's notes."""
        return (
            f"{self.graphs} graphs, one a block, cost about {self.cost:.0f} s of a core where none "
            f"is cached, and save about {self.saved:.0f} s"
        )


def worth(blocks: int, layers: int, operations: float, device: str) -> Worth:
    """Return what the graphs of so many blocks, in a model of so many layers, cost and save in a run.

    `operations` are those of all its matrix products. A count, not a measurement: so equal configs choose alike.
    """
    cost = blocks * COMPILING * (1 + layers)
    return Worth(blocks, cost, SAVED * operations / SPEED.get(device, SPEED["cuda"]))
