"""N clients' losses and gradients in one call: stacked on axis 0 under vmap, that as one graph, or a plain loop, the oracle.

An engine differentiates one matrix X (N, D), the active block; the rest of the parameters is constant, so the
backward pass stops where the block's own part of the graph ends.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deca_lab.algorithm.compiled import one_graph
from deca_lab.algorithm.stacking import Layout, Params, client, flatten, unflatten

Batch = Any  # tensors, or tuples of them, with axis 0 = N
Loss = Callable[[Params, Batch], Tensor]  # one client's parameters and batch -> scalar
Gradients = Callable[
    [Tensor, Layout, Params, Batch], tuple[Tensor, Tensor]
]  # (X, where, rest, batch) -> ((N,), (N, D))
Engine = Callable[[Loss], Gradients]


def stacked(loss: Loss) -> Gradients:
    """Return the engine that maps the loss over the client axis and differentiates the sum once."""
    mapped, alone = torch.vmap(loss), looped(loss)

    def gradients(x: Tensor, where: Layout, rest: Params, batch: Batch) -> tuple[Tensor, Tensor]:
        if len(x) == 1:
            return alone(x, where, rest, batch)  # nothing to stack: plain autograd is quicker
        leaves = {n: p.detach().requires_grad_() for n, p in unflatten(x, where).items()}
        losses = mapped({**rest, **leaves}, batch)  # (N,); clients share no parameter
        # a leaf for each tensor: with the matrix as the only one, large models take a third longer
        parts = torch.autograd.grad(losses.sum(), list(leaves.values()), materialize_grads=True)
        g = flatten(dict(zip(leaves, parts, strict=True)), where.names)
        return losses.detach(), g

    return gradients


def compiled(loss: Loss) -> Gradients:
    """Return the engine that is the stacked one as graphs of fused operations: `one_graph` says when it raises."""
    fused, alone = one_graph(torch.vmap(loss)), looped(loss)

    def gradients(x: Tensor, where: Layout, rest: Params, batch: Batch) -> tuple[Tensor, Tensor]:
        return (fused if len(x) > 1 else alone)(x, where, rest, batch)

    return gradients


def looped(loss: Loss) -> Gradients:
    """Return the engine that takes the clients one after another, each through plain autograd."""

    def gradients(x: Tensor, where: Layout, rest: Params, batch: Batch) -> tuple[Tensor, Tensor]:
        losses, rows = [], []
        for i in range(len(x)):
            leaf = x[i : i + 1].detach().requires_grad_()
            value = loss({**client(rest, i), **client(unflatten(leaf, where), 0)}, _of(batch, i))
            losses.append(value.detach())
            rows.append(torch.autograd.grad(value, leaf)[0])
        return torch.stack(losses), torch.cat(rows)

    return gradients


def _of(batch: Batch, i: int) -> Batch:
    return tuple(_of(part, i) for part in batch) if isinstance(batch, tuple) else batch[i]


ENGINES: dict[str, Engine] = {"stacked": stacked, "compiled": compiled, "loop": looped}


@torch.no_grad()
def losses(loss: Loss, params: Params, batch: Batch, common: bool = False) -> Tensor:
    """Return every client's loss (N,) without a gradient; `common` gives all clients the same batch, without axis 0."""
    return torch.vmap(loss, in_dims=(0, None if common else 0))(params, batch)
