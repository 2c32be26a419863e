"""N clients' losses and gradients in one call: stacked on axis 0 under vmap, that as one graph, or a plain loop, the oracle.

An engine differentiates one matrix X (N, D), the active block; the rest of the parameters is constant, so the
backward pass stops where the block's own part of the graph ends.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from deca_lab.algorithm import cuda_graph
from deca_lab.algorithm.compiled import Worth, missing, one_graph, require_compiler
from deca_lab.algorithm.stacking import Layout, Params, client, flatten, unflatten
from deca_lab.errors import pick

Batch = Any  # tensors, or tuples of them, with axis 0 = N
Loss = Callable[[Params, Batch], Tensor]  # one client's parameters and batch -> scalar
# (X, where, rest, batch) -> ((N,), (N, D))
Gradients = Callable[[Tensor, Layout, Params, Batch], tuple[Tensor, Tensor]]
Engine = Callable[[Loss], Gradients]
Map = Callable[..., Callable[..., Tensor]]  # torch.vmap, or what does the same


def stacked(loss: Loss) -> Gradients:
    """Return the engine that maps the loss over the client axis and differentiates the sum once."""
    mapped, alone = torch.vmap(loss), looped(loss)

    def gradients(x: Tensor, where: Layout, rest: Params, batch: Batch) -> tuple[Tensor, Tensor]:
        if len(x) == 1:
            return alone(x, where, rest, batch)  # nothing to stack: plain autograd is quicker
        leaves = {n: p.detach().requires_grad_() for n, p in unflatten(x, where).items()}
        losses = mapped({**rest, **leaves}, batch)  # (N,); clients share no parameter
        # a leaf for each tensor: with the matrix as the only one, large models take a third longer
        parts = _differentiated(losses.sum(), list(leaves.values()))
        g = flatten(dict(zip(leaves, parts, strict=True)), where.names)
        return losses.detach(), g

    return gradients


def compiled(loss: Loss) -> Gradients:
    """Return the engine that is the stacked one as graphs of fused operations: `one_graph` says when it raises."""
    fused, alone = one_graph(torch.vmap(loss)), looped(loss)

    def gradients(x: Tensor, where: Layout, rest: Params, batch: Batch) -> tuple[Tensor, Tensor]:
        return (fused if len(x) > 1 else alone)(x, where, rest, batch)

    return gradients


def recorded(loss: Loss) -> Gradients:
    """Return the stacked engine as CUDA graphs: `cuda_graph.replayed` says when it raises."""
    return cuda_graph.replayed(stacked(loss))


def looped(loss: Loss) -> Gradients:
    """Return the engine that takes the clients one after another, each through plain autograd."""

    def gradients(x: Tensor, where: Layout, rest: Params, batch: Batch) -> tuple[Tensor, Tensor]:
        losses, g = [], torch.empty_like(x)
        for i in range(len(x)):
            own = client(unflatten(x[i : i + 1], where), 0)
            leaves = {n: p.detach().requires_grad_() for n, p in own.items()}
            value = loss({**client(rest, i), **leaves}, _of(batch, i))
            losses.append(value.detach())
            _join(_differentiated(value, list(leaves.values())), g[i])
        return torch.stack(losses), g

    return gradients


def _differentiated(value: Tensor, leaves: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the gradients of a loss by its leaves: zero for those that it does not read, even for a whole block of them."""
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return torch.autograd.grad(value, leaves, materialize_grads=True)


def _join(parts: Sequence[Tensor], row: Tensor) -> None:
    """Write one client's gradients into its row (D,), which is all that is held of them beside the parts."""
    torch.cat([part.flatten() for part in parts], out=row)


def in_model(own: Mapping[str, Tensor]) -> Engine:
    """Return the loop through a model's own parameters, which hold one client's values after another.

    For losses whose backward pass calls the model again, as gradient checkpointing does: it must find the same values.
    """

    def engine(loss: Loss) -> Gradients:
        def gradients(
            x: Tensor, where: Layout, rest: Params, batch: Batch
        ) -> tuple[Tensor, Tensor]:
            before = {name: p.data for name, p in own.items()}
            losses, g = [], torch.empty_like(x)
            try:
                for i in range(len(x)):
                    values = {**client(rest, i), **client(unflatten(x[i : i + 1], where), 0)}
                    for name, value in values.items():
                        own[name].data = value.detach()
                    leaves = [own[name] for name in where.names]
                    value = loss({name: own[name] for name in values}, _of(batch, i))
                    losses.append(value.detach())
                    _join(_differentiated(value, leaves), g[i])
            finally:
                for name, data in before.items():
                    own[name].data = data
            return torch.stack(losses), g

        return gradients

    return engine


def in_parts(engine: Engine, rows: int) -> Engine:
    """Return the engine that reads at most `rows` examples of a client's batch at once, and adds their gradients up.

    For a loss that is a mean over the examples of axis 1. The same result up to rounding, with the activations of a part.
    """

    def wrapped(loss: Loss) -> Gradients:
        inner = engine(loss)

        def gradients(
            x: Tensor, where: Layout, rest: Params, batch: Batch
        ) -> tuple[Tensor, Tensor]:
            first, *others = pieces(batch, rows, axis=1)
            count = length(batch, 1)
            losses, g = (t.mul_(length(first, 1) / count) for t in inner(x, where, rest, first))
            for part in others:
                more, more_g = inner(x, where, rest, part)
                share = length(part, 1) / count
                losses, g = losses.add_(more, alpha=share), g.add_(more_g, alpha=share)
            return losses, g

        return gradients

    return wrapped


def pieces(batch: Batch, size: int, axis: int = 0) -> list[Batch]:
    """Return a batch in pieces of at most `size` along an axis; every tensor of a tuple alike."""
    if isinstance(batch, tuple):
        return list(zip(*(pieces(part, size, axis) for part in batch), strict=True))
    return list(batch.split(size, dim=axis))


def length(batch: Batch, axis: int = 0) -> int:
    """Return how many entries a batch has along an axis."""
    return length(batch[0], axis) if isinstance(batch, tuple) else int(batch.shape[axis])


def in_turn(f: Callable[..., Tensor], in_dims: Any = 0) -> Callable[..., Tensor]:  # noqa: ANN401 - as of torch.vmap
    """Return f over axis 0 of its arguments, as torch.vmap does, but a call for each client: nothing is stacked."""

    def mapped(*given: Any) -> Tensor:  # noqa: ANN401 - as f takes it
        dims = in_dims if isinstance(in_dims, tuple) else (in_dims,) * len(given)
        clients = len(tree_leaves(given[dims.index(0)])[0])
        own = (
            [part if dim is None else _of(part, i) for part, dim in zip(given, dims, strict=True)]
            for i in range(clients)
        )
        return torch.stack([f(*parts) for parts in own])

    return mapped


def _of(batch: Batch, i: int) -> Batch:
    """One client's part of tensors in tuples and dicts."""
    return tree_map(lambda t: t[i], batch)


Settled = tuple[str, list[str]]  # the name of an engine, and notes on why


class EngineKind(NamedTuple):
    """A row of ENGINES: what computes the gradients, and how a run goes about with it."""

    about: str
    gradients: Engine
    over: Map = torch.vmap  # how losses and scores are taken without a gradient
    closed: bool = True  # whether a problem's closed form stands in for it
    graphs: bool = False  # whether its own work is out of a meter's sight
    copies: int = 0  # of the weights, that it holds
    once: str = ""  # the engine in its place for a single gradient: no graph would pay back
    ready: Callable[[str], None] = lambda device: None  # raises BadInput where it cannot run
    settle: Callable[[Worth | None, str], Settled] | None = None  # (what graphs cost, device)

    def __call__(self, loss: Loss) -> Gradients:
        """Return what computes the gradients of a loss: a row is an engine itself."""
        return self.gradients(loss)


def _with_graphs(count: Worth | None, device: str) -> Settled:
    return "compiled", [f"engine compiled: {count.line}"] if count else []


def _quickest(count: Worth | None, device: str) -> Settled:
    """Take CUDA graphs on a GPU; elsewhere compiled ones where they pay, and a compiler is there."""
    if count and device in cuda_graph.DEVICES:
        why = "a GPU waits less for one launch than for hundreds"
        return "cuda-graph", [f"engine cuda-graph, chosen by auto: {why}"]
    lacking = missing(device) if count else ""
    engine = "compiled" if count and count.pays and not lacking else "stacked"
    why = count.line if count else "there is no model to count from"
    why = f"{lacking} is not here" if lacking else why
    return engine, [f"engine {engine}, chosen by auto: {why}"]


ENGINES: dict[str, Engine | EngineKind] = {  # a function alone is used as the stacked one is
    "stacked": EngineKind(
        "All clients in one call: fast, and holds the activations of all of them.", stacked
    ),
    "compiled": EngineKind(
        "All clients as fused graphs: slow to start, then faster.",
        compiled,
        graphs=True,
        once="stacked",
        ready=require_compiler,
        settle=_with_graphs,
    ),
    "cuda-graph": EngineKind(
        "All clients in one call, its kernels launched at once: on a GPU alone.",
        recorded,
        graphs=True,
        copies=1,
        once="stacked",
        ready=cuda_graph.require_cuda,
    ),
    "auto": EngineKind(
        "Whichever of the three a run is expected to end with first.",
        stacked,
        once="stacked",
        settle=_quickest,
    ),
    "loop": EngineKind(
        "One client after another: slower, and holds the activations of one.",
        looped,
        over=in_turn,
        closed=False,
    ),
}


def engine_kind(name: str) -> EngineKind:
    """Return the row of an engine's name; raise BadInput where there is none."""
    engine = pick(ENGINES, name, "engine")
    return engine if isinstance(engine, EngineKind) else EngineKind("", engine)


@torch.no_grad()
def losses(
    loss: Loss, params: Params, batch: Batch, common: bool = False, over: Map = torch.vmap
) -> Tensor:
    """Return every client's loss (N,) without a gradient; `common` gives all clients the same batch, without axis 0."""
    return over(loss, in_dims=(0, None if common else 0))(params, batch)
