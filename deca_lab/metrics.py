"""What a run measures: the mean model and every client's, on common and own text, and how far the clients disagree."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from deca_lab import tree
from deca_lab.clients import Loss, losses
from deca_lab.tree import Params

CHUNK = 8  # windows that a forward pass takes at once from each client


class Probe(NamedTuple):
    """Fixed windows of T+1 tokens on which every measurement of a run is made."""

    test: Tensor    # (windows, T+1) of the common test set
    own: Tensor     # (N, windows, T+1) of each client's validation text
    train: Tensor   # (N, windows, T+1) of each client's training text, for the gradient of the mean model


class Measurement(NamedTuple):
    """One measurement of all models; losses in nats per token."""

    mean_model: float              # loss of the mean model on the common test set
    validation: float              # loss of the mean model on all clients' validation text: what choices are made by
    clients: list[float]           # loss of each client's model on the common test set
    own: list[float]               # loss of each client's model on its own validation text
    consensus: list[float]         # consensus distance of each block
    gradient_norm: float           # || grad f(mean model) ||, f the mean of the clients' losses on the training windows

    def row(self, block_names: list[str]) -> dict[str, float]:
        """Return the columns of metrics.csv."""
        spread = {"client_test_loss": sum(self.clients) / len(self.clients), "client_test_loss_min": min(self.clients),
                  "client_test_loss_max": max(self.clients), "own_loss": sum(self.own) / len(self.own)}
        blocks = {f"consensus[{name}]": value for name, value in zip(block_names, self.consensus, strict=True)}
        return {"test_loss": self.mean_model, "validation_loss": self.validation,
                "test_perplexity": perplexity(self.mean_model), **spread,
                "client_test_perplexity": perplexity(spread["client_test_loss"]),
                "gradient_norm": self.gradient_norm, "consensus": sum(self.consensus), **blocks}


def perplexity(loss: float) -> float:
    """Return exp(loss), infinite where it overflows."""
    return math.exp(loss) if loss < 700 else math.inf


def measure(loss: Loss, params: Params, blocks: tuple[Tensor, ...], probe: Probe) -> Measurement:
    """Measure stacked parameters: `blocks` are the same numbers as matrices X_k (N, D_k)."""
    centre = mean_model(params)
    alone = {name: p[None] for name, p in centre.items()}
    return Measurement(
        mean_model=float(common_losses(loss, alone, probe.test)[0]),
        validation=float(common_losses(loss, alone, probe.own.flatten(0, 1))[0]),
        clients=common_losses(loss, params, probe.test).tolist(),
        own=own_losses(loss, params, probe.own).tolist(),
        consensus=[tree.consensus_distance(x) for x in blocks],
        gradient_norm=gradient_norm(loss, centre, probe.train),
    )


def mean_model(params: Params) -> Params:
    """Return the mean over clients, summed in float32 at least."""
    wide = {n: p.float() if p.element_size() < 4 else p for n, p in params.items()}
    return {n: p.to(params[n].dtype) for n, p in tree.mean(wide).items()}


def common_losses(loss: Loss, params: Params, windows: Tensor) -> Tensor:
    """Return every client's mean loss (N,) on the same windows (n, T+1), float64."""
    parts = [losses(loss, params, chunk, common=True).double() * len(chunk) for chunk in windows.split(CHUNK)]
    return torch.stack(parts).sum(0) / len(windows)


def own_losses(loss: Loss, params: Params, windows: Tensor) -> Tensor:
    """Return every client's mean loss (N,) on its own windows (N, n, T+1), float64."""
    parts = [losses(loss, params, chunk).double() * chunk.shape[1] for chunk in windows.split(CHUNK, dim=1)]
    return torch.stack(parts).sum(0) / windows.shape[1]


def gradient_norm(loss: Loss, params: Params, windows: Tensor) -> float:
    """Return the norm of the gradient at one model of the mean loss over all clients' windows (N, n, T+1)."""
    leaves = {n: p.detach().requires_grad_() for n, p in params.items()}
    chunks = windows.flatten(0, 1).split(4 * CHUNK)
    total = [torch.zeros_like(p) for p in leaves.values()]
    for chunk in chunks:
        value = loss(leaves, chunk) * (len(chunk) / (windows.shape[0] * windows.shape[1]))
        total = [t + g for t, g in zip(total, torch.autograd.grad(value, list(leaves.values())), strict=True)]
    return math.sqrt(sum(float(g.double().square().sum()) for g in total))
