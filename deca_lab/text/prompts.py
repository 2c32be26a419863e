"""Rows as examples: a prompt, an answer, and which tokens count.

A batch is a pair (tokens (B, T+1) int64, counted (B, T) bool): `counted` says which of the targets tokens[:, 1:] enter
the loss. Padding stands after the answer, where causal attention never looks: no mask is needed.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations
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
PAD = 0  # an id of every vocabulary, as `pad` writes it; nothing that is counted ever sees it


class Examples(NamedTuple):
    """n examples of one task, padded on the right to the longest of them."""

    tokens: Tensor  # (n, T+1) int64
    counted: Tensor  # (n, T) bool, of the targets tokens[:, 1:]
    answer_at: Tensor  # (n,) int64, position in `tokens` of the answer's first token
    labels: Tensor  # (n,) int64, the example's label; -1 where it has none


def verbaliser(
    names: Sequence[str], which: "PreTrainedTokenizerBase", words: Mapping[str, str] | None = None
) -> dict[str, tuple[int, ...]]:
    """Return {label name: the tokens that stand for it}: those of the letters A, B, C ... of one token.

    `words` gives each label a word of one's own, of one token or more. Raises BadInput for labels
    without a word, more labels than letters, words of unknown tokens, and a word that another one
    begins with: it would always be the likelier of the two.
    """
    words = _letters(names, which) if words is None else words
    _require_known(names, words)
    ids = {name: _tokens(words[name], which) for name in names}
    for name, tokens in ids.items():
        what = f"the verbaliser's word for label {name!r}"
        check(bool(tokens), what, words[name], "one or more tokens that the tokenizer knows")
    for short, long in permutations(ids, 2):
        begins = ids[long][: len(ids[short])] == ids[short]
        both = f"{words[short]!r} of {short!r} and {words[long]!r} of {long!r}"
        if begins:
            raise BadInput(f"verbaliser: {both} cannot be told apart: no word may begin another")
    return ids


def _letters(names: Sequence[str], which: "PreTrainedTokenizerBase") -> dict[str, str]:
    """A letter of one token for each name."""
    letters = [one for one in ascii_letters.swapcase() if len(_tokens(one, which)) == 1]
    if len(names) > len(letters):
        those = f"those from number {len(letters) + 1} on: {listed(names[len(letters) :])}"
        raise BadInput(
            f"{len(names)} labels are too many for the verbaliser, which has {len(letters)} letters "
            f"of one token each: keep fewer labels, or give each a word; {those}"
        )
    return dict(zip(names, letters, strict=False))


def _require_known(names: Iterable[str], words: Mapping[str, object]) -> None:
    strange = [name for name in names if name not in words]
    if strange:
        known = f"it knows {listed(words)}"
        raise BadInput(f"labels that the verbaliser does not know: {listed(strange)}; {known}")


def _tokens(word: str, which: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """The ids of a word; none where the tokenizer does not know all of it."""
    ids = tuple(tokenize([word], which)[0].tolist())
    unknown = None if is_bytes(which) else which.unk_token_id
    return () if unknown in ids else ids


def require_labels(corpus: Corpus) -> None:
    """Raise BadInput where a corpus has no two labels to tell apart, with what its notes say."""
    if len(corpus.label_names) < 2:
        said = "; ".join(note for note in corpus.notes if "label" in note and "row" not in note)
        one = f"corpus {corpus.name!r} has one, {corpus.label_names[0]!r}"
        raise BadInput(
            f"two labels or more are needed to classify, and {one}: {said or 'name another label column'}"
        )


def listed(names: Iterable[str]) -> str:
    """Return the first ten names and how many more there are."""
    every = list(names)
    return ", ".join(every[:10]) + (f" and {len(every) - 10} more" if len(every) > 10 else "")


def classification(
    corpus: Corpus,
    rows: np.ndarray,
    which: "PreTrainedTokenizerBase",
    context: int,
    words: Mapping[str, Sequence[int]],
) -> Examples:
    """Examples text, "\\nlabel:", the label's tokens, which are counted; `labels` follow the order of `words`.

    `words` is a `verbaliser`. Of a long text the beginning is kept, so that the longest word fits
    into `context` + 1 tokens too; all examples have room for it.
    """
    cue, order = tokenize([LABEL_CUE], which)[0], {name: i for i, name in enumerate(words)}
    longest = max(map(len, words.values()))
    room = context + 1 - len(cue) - longest
    parts = f"one of text, {len(cue)} of {LABEL_CUE!r}, and the label's but one"
    check(room >= 1, "context", context, f"at least {len(cue) + longest} tokens: {parts}")
    names = [corpus.label_names[i] for i in corpus.labels[rows]]
    _require_known(sorted(set(names)), words)
    texts = tokenize([corpus.texts[i] for i in rows], which)
    prompts = [np.concatenate([text[:room], cue]) for text in texts]
    answers = [np.array(words[name]) for name in names]
    made = _examples(prompts, answers, [order[name] for name in names])
    return widen(made, max(made.tokens.shape[1], int(made.answer_at.max()) + longest))


def generation(
    corpus: Corpus, rows: np.ndarray, which: "PreTrainedTokenizerBase", context: int
) -> Examples:
    """Examples text, "\\nanswer:", answer, end token, of which answer and end are counted; `labels` are the corpus's.

    Those of more than `context` + 1 tokens are left out: then there are fewer examples than rows. Raises BadInput where
    the corpus has no answers.
    """
    check(context >= 1, "context", context, "at least 1 token")
    if corpus.answers is None:
        instead = "take 'instructions', or a file or hub dataset with a column of answers"
        raise BadInput(f"corpus {corpus.name!r} has no answers to generate: {instead}")
    end, answers = end_of_text(which), [corpus.answers[i] for i in rows]
    prompts = tokenize([corpus.texts[i] + ANSWER_CUE for i in rows], which)
    ended = [np.append(answer, end) for answer in tokenize(answers, which)]
    fits = [k for k in range(len(rows)) if len(prompts[k]) + len(ended[k]) <= context + 1]
    labels = [int(corpus.labels[rows[k]]) for k in fits]
    return _examples([prompts[k] for k in fits], [ended[k] for k in fits], labels)


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
    parts = (tokens, counted, starts, np.array(labels, dtype=np.int64))
    return Examples(*map(torch.from_numpy, parts))


def widen(examples: Examples, width: int) -> Examples:
    """Pad on the right to `width` = T+1 tokens; the loss and the scores stay what they are."""
    own = examples.tokens.shape[1]
    check(width >= own, "width", width, f"at least {own} tokens, the longest example")
    tokens, counted = (nn.functional.pad(part, (0, width - own)) for part in examples[:2])
    return examples._replace(tokens=tokens, counted=counted)


def take(examples: Examples, chosen: np.ndarray | Tensor) -> Examples:
    """The chosen examples: indices or a mask (n,)."""
    at = torch.as_tensor(chosen).to(examples.tokens.device)
    return Examples(*(part[at] for part in examples))


def evenly(labels: Tensor, limit: int) -> np.ndarray:
    """At most `limit` indices (sorted) spread evenly over the examples in the order of their labels.

    Where the limit allows, each label has one at least, in the place of one of the label that has most.
    """
    check(limit >= 1, "limit", limit, "at least 1")
    label_of, kept = labels.cpu().numpy(), min(limit, len(labels))
    order = np.argsort(label_of, kind="stable")
    chosen = order[np.arange(kept) * len(label_of) // max(kept, 1)]
    spare = max(kept - len(np.unique(label_of[chosen])), 0)
    for rare in np.setdiff1d(label_of, label_of[chosen])[:spare]:
        names, counts = np.unique(label_of[chosen], return_counts=True)
        given_up = np.flatnonzero(label_of[chosen] == names[counts.argmax()])[-1]
        chosen[given_up] = np.flatnonzero(label_of == rare)[0]
    return np.sort(chosen)


def sent(drawn: Tensor, device: torch.device) -> Tensor:
    """Return what was drawn for a step on the device; to a GPU from pinned memory: no one waits for the step before."""
    if device.type == "cuda":
        return drawn.pin_memory().to(device, non_blocking=True)
    return drawn.to(device)


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
    rows = torch.from_numpy((draws * sizes[:, None]).astype(np.int64))
    rows = sent(rows, clients[0].tokens.device)
    taken = [take(own, at) for own, at in zip(clients, rows, strict=True)]
    return Examples(*map(torch.stack, zip(*taken, strict=True)))
