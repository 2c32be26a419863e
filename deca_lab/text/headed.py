"""Rows as examples for a model with a head for labels: whole texts, padded, with a mask.

A batch is a triple: tokens (B, T), mask (B, T) that is true where a token is no padding, and labels
(B,). In the `Examples` of prompts.py the mask stands as `counted`, and `answer_at` is where a text
ends.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from deca_lab.algorithm.gradients import Loss
from deca_lab.algorithm.stacking import Params
from deca_lab.errors import check
from deca_lab.models.classifier import class_logits
from deca_lab.text.corpora import Corpus
from deca_lab.text.prompts import Examples
from deca_lab.text.tokens import end_of_text, is_bytes, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Labelled = tuple[Tensor, Tensor, Tensor]  # (tokens, mask, labels)


def labelled(
    corpus: Corpus, rows: np.ndarray, which: "PreTrainedTokenizerBase", context: int, pad: int
) -> Examples:
    """Return whole texts as the tokenizer writes them, with its special tokens, and their labels.

    Of a long text the beginning is kept, so that all fits into `context` tokens; shorter ones are
    filled up on the right with the id `pad`. Raises BadInput for a context without room for text.
    """
    texts = encode([corpus.texts[i] for i in rows], which, context)
    texts = [text if len(text) else np.array([pad]) for text in texts]  # a mask must show something
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    mask = np.arange(lengths.max(initial=1)) < lengths[:, None]  # (n, T)
    tokens = np.full(mask.shape, pad, dtype=np.int64)
    if len(texts):
        tokens[mask] = np.concatenate(texts)
    labels = corpus.labels[rows].astype(np.int64)
    return Examples(*map(torch.from_numpy, (tokens, mask, lengths, labels)))


def encode(texts: list[str], which: "PreTrainedTokenizerBase", context: int) -> list[np.ndarray]:
    """Return the ids of each text, at most `context`, with the tokenizer's own special tokens."""
    # None of a tokenizer of one's own.
    special = int(getattr(which, "num_special_tokens_to_add", lambda: 0)())
    needed = f"at least {special + 1} tokens: one of text and {special} special ones"
    check(context > special, "context", context, needed)
    if is_bytes(which):  # a short cut, as in `tokenize`
        end, room = end_of_text(which), context - special
        ended = [[*text[:room], end] for text in tokenize(texts, which)]
    elif texts:
        ended = which(texts, truncation=True, max_length=context, verbose=False)["input_ids"]
    else:
        ended = []
    return [np.asarray(ids[:context], dtype=np.int64) for ids in ended]


def filled(examples: Examples, pad: int) -> Examples:
    """Return the examples with `pad` wherever the mask shows no token."""
    return examples._replace(tokens=examples.tokens.masked_fill(~examples.counted, pad))


def triple(examples: Examples) -> Labelled:
    """Return what the loss takes of examples."""
    return examples.tokens, examples.counted, examples.labels


def head_loss(model: nn.Module) -> Loss:
    """Return loss(params, (tokens, mask, labels)) -> mean cross-entropy of the labels, in nats."""
    logits = class_logits(model)

    def loss(params: Params, batch: Labelled) -> Tensor:
        tokens, mask, labels = batch
        return nn.functional.cross_entropy(logits(params, tokens, mask), labels)

    return loss
