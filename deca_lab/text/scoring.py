"""How well models answer: accuracy, macro F1 and exact match, for all clients at once."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from deca_lab.algorithm.stacking import Params
from deca_lab.models.causal_lm import Logits
from deca_lab.text.prompts import Examples

CHUNK = 8  # examples that a forward pass takes at once from each client


@torch.no_grad()
def _mapped(read: Callable[..., Tensor], params: Params, *parts: Tensor) -> Tensor:
    """read(one client's params, a chunk of each part) for all clients and all examples: (N, n, ...)."""
    over = torch.vmap(read, in_dims=(0, *(None for _ in parts)))
    return torch.cat(
        [
            over(params, *chunk)
            for chunk in zip(*(torch.split(part, CHUNK) for part in parts), strict=True)
        ],
        1,
    )


def classify(logits: Logits, params: Params, examples: Examples, label_tokens: Tensor) -> Tensor:
    """Return every client's label (N, n) of each example: the likeliest of `label_tokens` (L,) where the answer begins."""

    def read(mine: Params, tokens: Tensor, at: Tensor) -> Tensor:
        out = logits(mine, tokens[:, :-1])[
            torch.arange(len(tokens), device=tokens.device), at - 1
        ]  # (b, V)
        return out[:, label_tokens].argmax(-1)

    return _mapped(read, params, examples.tokens, examples.answer_at)


def classify_by_head(logits: Callable[..., Tensor], params: Params, examples: Examples) -> Tensor:
    """Return every client's label (N, n) of each example of `headed.labelled`: the largest logit's."""

    def read(mine: Params, tokens: Tensor, mask: Tensor) -> Tensor:
        return logits(mine, tokens, mask).argmax(-1)

    return _mapped(read, params, examples.tokens, examples.counted)


def accuracy(predictions: Tensor, truth: Tensor) -> Tensor:
    """Share (N,) of predictions (N, n) that are the truth (n,)."""
    return (predictions == truth).double().mean(1)


def macro_f1(predictions: Tensor, truth: Tensor) -> Tensor:
    """Mean (N,) over the labels in the truth (n,) of F1 = 2 hits / (predicted + true) of predictions (N, n)."""
    present = torch.unique(truth)[:, None]  # (L, 1)
    predicted, true = predictions[:, None] == present, truth == present  # (N, L, n), (L, n)
    hits = (predicted & true).sum(-1)
    f1: Tensor = 2 * hits.double() / (predicted.sum(-1) + true.sum(-1))  # (N, L)
    return f1.mean(1)


def exact_match(logits: Logits, params: Params, examples: Examples) -> Tensor:
    """Return each client's share (N,) of examples that greedy decoding answers token for token, the end included.

    One forward pass tells: greedy decoding writes the answer exactly if the likeliest next token after the prompt and
    each beginning of the answer is the answer's own (induction over its tokens). With bytes, that is byte for byte.
    """

    def read(mine: Params, tokens: Tensor, counted: Tensor) -> Tensor:
        hit = logits(mine, tokens[:, :-1]).argmax(-1) == tokens[:, 1:]
        return (hit | ~counted).all(1)

    return _mapped(read, params, examples.tokens, examples.counted).double().mean(1)


def greedy(logits: Logits, params: Params, examples: Examples, end: int) -> Tensor:
    """Return what each client writes after each prompt: (N, n, S) tokens, from its end token on all `end`.

    S is the longest answer of the examples; an answer also ends where the examples' width does. Slow (S forward
    passes, without a cache): to look at answers, where `exact_match` scores them.
    """
    steps, width = int(examples.counted.sum(1).max()), examples.tokens.shape[1]

    def read(mine: Params, tokens: Tensor, at: Tensor) -> Tensor:
        text = nn.functional.pad(
            tokens, (0, steps)
        )  # the right answer is overwritten before any position looks at it
        over = torch.zeros_like(at, dtype=torch.bool)
        written = []
        for place in (at + t for t in range(steps)):
            out = logits(mine, text[:, : width - 1])[
                torch.arange(len(at), device=at.device), (place - 1).clamp(max=width - 2)
            ]
            token = torch.where(over | (place >= width), end, out.argmax(-1))
            over = over | (token == end)
            written.append(token)
            text = torch.where(
                torch.arange(width + steps, device=at.device) == place[:, None],
                token[:, None],
                text,
            )
        return torch.stack(written, 1)

    return _mapped(read, params, examples.tokens, examples.answer_at)
