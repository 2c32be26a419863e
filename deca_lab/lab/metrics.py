"""What a run measures: the mean model and every client's, on common and own text, and how far the clients disagree."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from deca_lab.algorithm import stacking
from deca_lab.algorithm.gradients import Batch, Loss, Map, length, losses, pieces
from deca_lab.algorithm.stacking import Params
from deca_lab.text.heterogeneity import square
from deca_lab.text.scoring import LOSS, Scores

ROWS = 8  # examples that a forward pass takes at once from each client


class Probe(NamedTuple):
    """Fixed data on which every measurement of a run is made; batches as the loss takes them, of any number of tensors."""

    test: Batch  # (n, ...) of the common test set
    own: Batch  # (N, n, ...) of each client's validation data
    train: Batch  # (N, n, ...) of each client's training data, for the mean model's gradient
    score: Scores = lambda params: {}  # on the common test set
    validation_score: Scores = lambda params: {}
    rows: int = ROWS  # examples of a client that are read at once
    rows_back: int = 4 * ROWS  # examples whose way back is kept at once, for the gradient


class Measurement(NamedTuple):
    """One measurement of all models; losses in nats per token."""

    mean_model: float  # loss of the mean model on the common test set
    # Loss of the mean model on all clients' validation text: what choices are made by.
    validation: float
    clients: list[float]  # loss of each client's model on the common test set
    own: list[float]  # loss of each client's model on its own validation text
    consensus: list[float]  # consensus distance of each block
    # || grad f(mean model) ||, f the mean of the clients' losses on the training data.
    gradient_norm: float
    # Of the task: the mean model's on test and validation data, the clients' mean on test.
    scores: dict[str, float]

    def row(self, block_names: list[str], text: bool = True) -> dict[str, float]:
        """Return the columns of metrics.csv; only the losses of whole `text`, without labels or answers, are perplexities too."""
        spread = {
            "client_test_loss": sum(self.clients) / len(self.clients),
            "client_test_loss_min": min(self.clients),
            "client_test_loss_max": max(self.clients),
            "own_loss": sum(self.own) / len(self.own),
        }
        blocks = {
            f"consensus[{name}]": value
            for name, value in zip(block_names, self.consensus, strict=True)
        }
        perplexities = (
            {
                "test_perplexity": perplexity(self.mean_model),
                "client_test_perplexity": perplexity(spread["client_test_loss"]),
            }
            if text
            else {}
        )
        loss = {"test_loss": self.mean_model, "validation_loss": self.validation}
        return {
            **loss,
            **perplexities,
            **spread,
            **self.scores,
            "gradient_norm": self.gradient_norm,
            "consensus": sum(self.consensus),
            **blocks,
        }


def perplexity(loss: float) -> float:
    """Return exp(loss), infinite where it overflows."""
    return math.exp(loss) if loss < 700 else math.inf


def measure(
    loss: Loss,
    params: Params,
    blocks: tuple[Tensor, ...],
    probe: Probe,
    over: Map = torch.vmap,
) -> Measurement:
    """Measure stacked parameters: `blocks` are the same numbers as matrices X_k (N, D_k).

    `over` maps the loss over the clients, as torch.vmap does.
    """
    centre, pooled = mean_model(params), each(probe.own, lambda t: t.flatten(0, 1))
    alone = {name: p[None] for name, p in centre.items()}
    scores = _scores(probe, params, alone)

    def on_test(of: str, models: Params) -> Tensor:
        """Return the losses (N,) that the scores' pass gave, else by a pass of their own."""
        known = scores[of].get(LOSS)
        return common_losses(loss, models, probe.test, over, probe.rows) if known is None else known

    return Measurement(
        mean_model=float(on_test("test", alone)[0]),
        validation=float(common_losses(loss, alone, pooled, over, probe.rows)[0]),
        clients=on_test("client_test", params).tolist(),
        own=own_losses(loss, params, probe.own, over, probe.rows).tolist(),
        consensus=[stacking.consensus_distance(x) for x in blocks],
        gradient_norm=gradient_norm(loss, centre, probe.train, probe.rows_back),
        scores={
            f"{of}_{name}": float(value.mean())
            for of, row in scores.items()
            for name, value in row.items()
            if name != LOSS
        },
    )


def _scores(probe: Probe, params: Params, alone: Params) -> dict[str, dict[str, Tensor]]:
    """Return the scores of the mean model on test and validation data, and of every client on the test data."""
    return {
        "test": probe.score(alone),
        "validation": probe.validation_score(alone),
        "client_test": probe.score(params),
    }


def one_by_one(score: Scores) -> Scores:
    """Return the same scores of clients that are read one after another, so that nothing is stacked."""

    def scores(params: Params) -> dict[str, Tensor]:
        count = len(next(iter(params.values())))
        rows = [score({n: p[i : i + 1] for n, p in params.items()}) for i in range(count)]
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}

    return scores


def mean_model(params: Params) -> Params:
    """Return the mean over clients, summed in float32 at least."""
    return {
        n: (p.float() if p.element_size() < 4 else p).mean(0).to(p.dtype) for n, p in params.items()
    }


def common_losses(
    loss: Loss, params: Params, data: Batch, over: Map = torch.vmap, rows: int = ROWS
) -> Tensor:
    """Return every client's mean loss (N,) on the same data (n, ...), float64."""
    parts = [
        losses(loss, params, chunk, True, over).double() * length(chunk)
        for chunk in pieces(data, rows)
    ]
    return torch.stack(parts).sum(0) / length(data)


def own_losses(
    loss: Loss, params: Params, data: Batch, over: Map = torch.vmap, rows: int = ROWS
) -> Tensor:
    """Return every client's mean loss (N,) on its own data (N, n, ...), float64."""
    parts = [
        losses(loss, params, chunk, False, over).double() * length(chunk, 1)
        for chunk in pieces(data, rows, 1)
    ]
    return torch.stack(parts).sum(0) / length(data, 1)


def each(data: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """Return the batch with every tensor of it changed."""
    return tuple(each(part, change) for part in data) if isinstance(data, tuple) else change(data)


def gradient_norm(loss: Loss, params: Params, data: Batch, rows: int = 4 * ROWS) -> float:
    """Return the norm of the gradient at one model of the mean loss over all clients' data (N, n, ...), `rows` at once."""
    leaves = {n: p.detach().requires_grad_() for n, p in params.items()}
    pooled = each(data, lambda t: t.flatten(0, 1))
    for chunk in pieces(pooled, rows):  # torch adds the gradients up in the leaves, one a tensor
        share = length(chunk) / length(pooled)
        torch.autograd.backward(loss(leaves, chunk) * share, inputs=list(leaves.values()))
    return math.sqrt(sum(square(p.grad.flatten()) for p in leaves.values() if p.grad is not None))
