"""How well models answer: accuracy, macro F1 and exact match, for all clients at once."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from deca_lab.algorithm.gradients import in_turn
from deca_lab.algorithm.stacking import Params
from deca_lab.models.causal_lm import Logits
from deca_lab.text.prompts import Examples

CHUNK = 8  # examples that a forward pass takes at once from each client
Scores = Callable[[Params], dict[str, Tensor]]  # stacked (N, ...) -> name -> (N,) float64
LOSS = "loss"  # among the scores: the loss on the same examples, nats, where one pass gives both


@torch.no_grad()
def _mapped(read: Callable[..., Tensor], params: Params, *parts: Tensor) -> Tensor:
    """read(one client's params, a chunk of each part) for all clients and all examples: (N, n, ...)."""
    alone = len(next(iter(params.values()))) == 1  # nothing to stack, even for who cannot be
    over = (in_turn if alone else torch.vmap)(read, in_dims=(0, *(None for _ in parts)))
    chunks = zip(*(torch.split(part, CHUNK) for part in parts), strict=True)
    return torch.cat([over(params, *chunk) for chunk in chunks], 1)


def classify(
    logits: Logits, params: Params, examples: Examples, words: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Return every client's label (N, n) of each example, the word that is likeliest as the answer, and its loss (N,).

    A word's log-probability is the sum over its tokens; the loss is that of the true word, in nats a token, as a mean over
    examples. One forward pass serves all words that agree but for their last token: letters of one token need a single pass.
    """
    heads = list(dict.fromkeys(tuple(word[:-1]) for word in words))

    def read(mine: Params, tokens: Tensor, at: Tensor) -> Tensor:
        rows = torch.arange(len(tokens), device=tokens.device)[:, None]
        logs = {}  # of each head: (b, its length + 1, V), the log-probabilities of what follows
        for head in heads:
            places = at[:, None] + torch.arange(len(head) + 1, device=tokens.device)  # (b, len+1)
            given = tokens.new_tensor(head).expand(len(tokens), -1)
            text = tokens.scatter(1, places[:, :-1], given)
            logs[head] = logits(mine, text[:, :-1])[rows, places - 1].log_softmax(-1)
        costs = [logs[tuple(w[:-1])][:, range(len(w)), list(w)].sum(-1) for w in words]
        return torch.stack(costs, -1)

    logs = _mapped(read, params, examples.tokens, examples.answer_at)  # (N, n, W)
    truth, lengths = examples.labels, examples.labels.new_tensor([len(word) for word in words])
    true = logs.gather(-1, truth.expand(len(logs), -1)[..., None])[..., 0]
    return logs.argmax(-1), -(true.double() / lengths[truth]).mean(1)


def by_head(
    logits: Callable[..., Tensor], params: Params, examples: Examples
) -> tuple[Tensor, Tensor]:
    """Return every client's label (N, n) of each example of `headed.labelled`, and its mean cross-entropy (N,) in nats.

    The label is the largest logit's. One pass gives both.
    """
    out = _mapped(logits, params, examples.tokens, examples.counted)  # (N, n, labels)
    truth = examples.labels.expand(len(out), -1)
    costs = nn.functional.cross_entropy(out.transpose(1, 2), truth, reduction="none")
    return out.argmax(-1), costs.double().mean(1)


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


def exact_match(logits: Logits, params: Params, examples: Examples) -> tuple[Tensor, Tensor]:
    """Return each client's share (N,) of examples that greedy decoding answers token for token, and its loss (N,).

    The end token is part of an answer. The loss is in nats a token of the answers, as a mean over examples.
    One forward pass tells: greedy decoding writes the answer exactly if the likeliest next token after the prompt and
    each beginning of the answer is the answer's own (induction over its tokens). With bytes, that is byte for byte.
    """

    def read(mine: Params, tokens: Tensor, counted: Tensor) -> Tensor:
        out, targets = logits(mine, tokens[:, :-1]), tokens[:, 1:]
        hit = ((out.argmax(-1) == targets) | ~counted).all(1)
        costs = nn.functional.cross_entropy(out.flatten(0, 1), targets.flatten(), reduction="none")
        cost = (costs.view(targets.shape) * counted).sum(1) / counted.sum(1).clamp(min=1)
        return torch.stack([hit.to(cost.dtype), cost], -1)

    hits, costs = _mapped(read, params, examples.tokens, examples.counted).double().unbind(-1)
    return hits.mean(1), costs.mean(1)


def greedy(logits: Logits, params: Params, examples: Examples, end: int) -> Tensor:
    """Return what each client writes after each prompt: (N, n, S) tokens, from its end token on all `end`.

    S is the longest answer of the examples; an answer also ends where the examples' width does. Slow (S forward
    passes, without a cache): to look at answers, where `exact_match` scores them.
    """
    steps, width = int(examples.counted.sum(1).max()), examples.tokens.shape[1]

    def read(mine: Params, tokens: Tensor, at: Tensor) -> Tensor:
        text = nn.functional.pad(tokens, (0, steps))  # the right answer is overwritten unseen
        places = torch.arange(width + steps, device=at.device)
        over, written = torch.zeros_like(at, dtype=torch.bool), []
        for place in (at + t for t in range(steps)):
            last = (place - 1).clamp(max=width - 2)
            out = logits(mine, text[:, : width - 1])[torch.arange(len(at), device=at.device), last]
            token = torch.where(over | (place >= width), end, out.argmax(-1))
            over = over | (token == end)
            written.append(token)
            text = torch.where(places == place[:, None], token[:, None], text)
        return torch.stack(written, 1)

    return _mapped(read, params, examples.tokens, examples.answer_at)
