"""Rows as examples: a prompt, an answer, and which tokens count.

A batch is a pair (tokens (B, T+1) int64, counted (B, T) bool): `counted` says which of the targets tokens[:, 1:] enter
the loss. Padding stands after the answer, where causal attention never looks: no mask is needed.
"""

from collections.abc import Iterable, Mapping, Sequence
from string import ascii_letters
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from deca_lab.errors import BadInput, check
from deca_lab.text.corpora import Corpus
from deca_lab.text.tokens import end_of_text, is_bytes, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CountedTokens = tuple[Tensor, Tensor]  # (tokens, counted)
LABEL_CUE, ANSWER_CUE = "\nlabel:", "\nanswer:"
PAD = 0  # an id of every vocabulary; nothing that is counted ever sees it


class Examples(NamedTuple):
    """n examples of one task, padded on the right to the longest of them."""

    tokens: Tensor  # (n, T+1) int64
    counted: Tensor  # (n, T) bool, of the targets tokens[:, 1:]
    answer_at: Tensor  # (n,) int64, position in `tokens` of the answer's first token
    labels: Tensor  # (n,) int64, the example's label; -1 where it has none


def verbaliser(
    names: Sequence[str], which: "PreTrainedTokenizerBase", words: Mapping[str, str] | None = None
) -> dict[str, int]:
    """Return {label name: the one token that stands for it}: the letters A, B, C ... that are single tokens.

    `words` gives each label a word of one's own, which must be one token. Raises BadInput for labels without a word,
    more labels than letters, and words that are several tokens or stand for two labels.
    """
    if words is None:
        letters = [
            letter for letter in ascii_letters.swapcase() if _token(letter, which) is not None
        ]
        if len(names) > len(letters):
            raise BadInput(
                f"{len(names)} labels are too many for the verbaliser, which has {len(letters)} letters of one token "
                f"each: keep fewer labels; those from the {len(letters) + 1}th on: {listed(names[len(letters) :])}"
            )
        words = dict(zip(names, letters, strict=False))
    strange = [name for name in names if name not in words]
    if strange:
        raise BadInput(
            f"labels that the verbaliser does not know: {listed(strange)}; it knows {listed(words)}"
        )
    ids = {name: _token(words[name], which) for name in names}
    for name, token in ids.items():
        check(
            token is not None,
            f"the verbaliser's word for label {name!r}",
            words[name],
            "one token of the tokenizer",
        )
    check(
        len(set(ids.values())) == len(ids),
        "verbaliser",
        [words[name] for name in names],
        "a different token a label",
    )
    return {name: token for name, token in ids.items() if token is not None}


def _token(word: str, which: "PreTrainedTokenizerBase") -> int | None:
    """The id of a word that is one known token."""
    ids = tokenize([word], which)[0].tolist()
    return (
        ids[0]
        if len(ids) == 1 and ids[0] != (None if is_bytes(which) else which.unk_token_id)
        else None
    )


def listed(names: Iterable[str]) -> str:
    """Return the first ten names and how many more there are."""
    listed = list(names)
    return ", ".join(listed[:10]) + (f" and {len(listed) - 10} more" if len(listed) > 10 else "")


def classification(
    corpus: Corpus,
    rows: np.ndarray,
    which: "PreTrainedTokenizerBase",
    context: int,
    words: Mapping[str, int],
) -> Examples:
    """Examples text, "\\nlabel:", label token, of which the label token is counted; `labels` follow the order of `words`.

    `words` is a `verbaliser`. Of a long text the beginning is kept, so that all fits into `context` + 1 tokens.
    """
    cue, order = tokenize([LABEL_CUE], which)[0], {name: i for i, name in enumerate(words)}
    room = context - len(cue)
    check(
        room >= 1,
        "context",
        context,
        f"at least {len(cue) + 1} tokens: one of text and {len(cue)} of {LABEL_CUE!r}",
    )
    names = [corpus.label_names[i] for i in corpus.labels[rows]]
    strange = sorted(set(names) - set(words))
    if strange:
        raise BadInput(
            f"labels that the verbaliser does not know: {listed(strange)}; it knows {listed(words)}"
        )
    texts = tokenize([corpus.texts[i] for i in rows], which)
    prompts = [np.concatenate([text[:room], cue]) for text in texts]
    return _examples(
        prompts, [np.array([words[name]]) for name in names], [order[name] for name in names]
    )


def generation(
    corpus: Corpus, rows: np.ndarray, which: "PreTrainedTokenizerBase", context: int
) -> Examples:
    """Examples text, "\\nanswer:", answer, end token, of which answer and end are counted; `labels` are the corpus's.

    Those of more than `context` + 1 tokens are left out: then there are fewer examples than rows. Raises BadInput where
    the corpus has no answers.
    """
    check(context >= 1, "context", context, "at least 1 token")
    if corpus.answers is None:
        raise BadInput(
            f"corpus {corpus.name!r} has no answers to generate: take 'instructions', or a file or hub dataset "
            "with a column of answers"
        )
    prompts = tokenize([corpus.texts[i] + ANSWER_CUE for i in rows], which)
    ended = [
        np.append(answer, end_of_text(which))
        for answer in tokenize([corpus.answers[i] for i in rows], which)
    ]
    fits = [k for k in range(len(rows)) if len(prompts[k]) + len(ended[k]) <= context + 1]
    return _examples(
        [prompts[k] for k in fits],
        [ended[k] for k in fits],
        [int(corpus.labels[rows[k]]) for k in fits],
    )


def _examples(
    prompts: Sequence[np.ndarray], answers: Sequence[np.ndarray], labels: Sequence[int]
) -> Examples:
    starts = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    ends = starts + np.array([len(answer) for answer in answers], dtype=np.int64)
    tokens = np.full((len(prompts), int(ends.max(initial=1))), PAD, dtype=np.int64)
    for row, prompt, answer in zip(tokens, prompts, answers, strict=True):
        row[: len(prompt) + len(answer)] = np.concatenate([prompt, answer])
    places = np.arange(1, tokens.shape[1])
    counted = (places >= starts[:, None]) & (places < ends[:, None])
    return Examples(
        *map(torch.from_numpy, (tokens, counted, starts, np.array(labels, dtype=np.int64)))
    )


def widen(examples: Examples, width: int) -> Examples:
    """Pad on the right to `width` = T+1 tokens; the loss and the scores stay what they are."""
    more = width - examples.tokens.shape[1]
    check(
        more >= 0,
        "width",
        width,
        f"at least {examples.tokens.shape[1]} tokens, the longest example",
    )
    pad = nn.functional.pad
    return examples._replace(
        tokens=pad(examples.tokens, (0, more), value=PAD), counted=pad(examples.counted, (0, more))
    )


def take(examples: Examples, chosen: np.ndarray | Tensor) -> Examples:
    """The chosen examples: indices or a mask (n,)."""
    at = torch.as_tensor(chosen).to(examples.tokens.device)
    return Examples(*(part[at] for part in examples))


def spread(labels: Tensor, limit: int) -> np.ndarray:
    """At most `limit` indices (sorted) spread evenly over the examples in the order of their labels.

    Where the limit allows, each label has one at least, in the place of one of the label that has most.
    """
    check(limit >= 1, "limit", limit, "at least 1")
    label_of, kept = labels.cpu().numpy(), min(limit, len(labels))
    order = np.argsort(label_of, kind="stable")
    chosen = order[np.arange(kept) * len(label_of) // max(kept, 1)]
    for rare in np.setdiff1d(label_of, label_of[chosen])[
        : max(kept - len(np.unique(label_of[chosen])), 0)
    ]:
        names, counts = np.unique(label_of[chosen], return_counts=True)
        given_up = np.flatnonzero(label_of[chosen] == names[counts.argmax()])[-1]
        chosen[given_up] = np.flatnonzero(label_of == rare)[0]
    return np.sort(chosen)


def batch(clients: Sequence[Examples], batch_size: int, seed: int, step: int) -> Examples:
    """Random examples of each client's own, with replacement, stacked: tokens (N, B, T+1) and so on.

    A pure function of (seed, step), so that a run can resume. The clients' examples must be equally wide (`widen`).
    """
    check(batch_size >= 1, "batch_size", batch_size, "at least 1")
    check(step >= 0 and seed >= 0, "seed, step", (seed, step), "non-negative")
    sizes = np.array([len(own.tokens) for own in clients])
    check(bool((sizes > 0).all()), "examples", sizes.tolist(), "one or more for each client")
    widths = {own.tokens.shape[1] for own in clients}
    check(len(widths) == 1, "widths of the examples", sorted(widths), "equal for all clients")
    draws = np.random.default_rng([seed, step]).random((len(clients), batch_size))
    rows = torch.from_numpy((draws * sizes[:, None]).astype(np.int64)).to(clients[0].tokens.device)
    taken = [take(own, at) for own, at in zip(clients, rows, strict=True)]
    return Examples(*map(torch.stack, zip(*taken, strict=True)))
