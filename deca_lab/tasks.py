"""Tasks with scores: what a causal model is trained to say after a text, the loss of that, and how well it does.

A batch of every task is a pair (tokens (B, T+1) int64, counted (B, T) bool): `counted` says which of the targets
tokens[:, 1:] enter the loss. Padding stands after the answer, where causal attention never looks: no mask is needed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from string import ascii_letters
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from deca_lab import shards
from deca_lab.clients import Loss
from deca_lab.corpora import Corpus
from deca_lab.errors import BadInput, check, pick
from deca_lab.shards import Split
from deca_lab.tokens import end_of_text, is_bytes, tokenize
from deca_lab.tree import Params

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Pair = tuple[Tensor, Tensor]                # (tokens, counted)
Logits = Callable[[Params, Tensor], Tensor]  # one client's parameters, tokens (B, T) -> (B, T, V)
Scores = Callable[[Params], dict[str, Tensor]]  # stacked parameters (N, ...) -> name -> (N,) float64
LABEL_CUE, ANSWER_CUE = "\nlabel:", "\nanswer:"
PAD = 0             # an id of every vocabulary; nothing that is counted ever sees it
CHUNK = 8           # examples that a forward pass takes at once from each client
OWN, TRAIN = 8, 4   # examples of a client's validation and training data in the probes, at most


def logits_of(model: nn.Module) -> Logits:
    """Return logits(params, tokens (B, T)) -> (B, T, V), in float32 at least.

    `params` may hold some names only; all others are the model's own values, frozen. Works under `torch.vmap`.
    """

    def logits(params: Params, tokens: Tensor) -> Tensor:
        own = {name: p.detach() for name, p in model.named_parameters()}
        strange = [name for name in params if name not in own]
        check(not strange, "parameter names", ", ".join(strange[:3]), f"names of the model, such as {next(iter(own), '')}")
        out: Tensor = functional_call(model, {**own, **params}, (tokens,), {"use_cache": False}).logits
        return out.float() if out.dtype in (torch.float16, torch.bfloat16) else out

    return logits


def masked_loss(model: nn.Module) -> Loss:
    """Return loss(params, (tokens, counted)) -> mean over examples of the mean cross-entropy of what each counts, nats.

    Chunks of equally many examples average exactly; where everything is counted it is `models.client_loss`. An example
    that counts nothing adds 0.
    """
    logits = logits_of(model)

    def loss(params: Params, batch: Pair) -> Tensor:
        tokens, counted = batch
        out, targets = logits(params, tokens[:, :-1]), tokens[:, 1:]
        cost = nn.functional.cross_entropy(out.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
        return ((cost * counted).sum(1) / counted.sum(1).clamp(min=1)).mean()

    return loss


# examples


class Examples(NamedTuple):
    """n examples of one task, padded on the right to the longest of them."""

    tokens: Tensor     # (n, T+1) int64
    counted: Tensor    # (n, T) bool, of the targets tokens[:, 1:]
    answer_at: Tensor  # (n,) int64, position in `tokens` of the answer's first token
    labels: Tensor     # (n,) int64, the example's label; -1 where it has none


def verbaliser(
    names: Sequence[str], which: "PreTrainedTokenizerBase", words: Mapping[str, str] | None = None
) -> dict[str, int]:
    """Return {label name: the one token that stands for it}: the letters A, B, C ... that are single tokens.

    `words` gives each label a word of one's own, which must be one token. Raises BadInput for labels without a word,
    more labels than letters, and words that are several tokens or stand for two labels.
    """
    if words is None:
        letters = [letter for letter in ascii_letters.swapcase() if _token(letter, which) is not None]
        if len(names) > len(letters):
            raise BadInput(f"{len(names)} labels are too many for the verbaliser, which has {len(letters)} letters of one "
                           f"token each: keep fewer labels; those from the {len(letters) + 1}th on: {_few(names[len(letters):])}")
        words = dict(zip(names, letters, strict=False))
    strange = [name for name in names if name not in words]
    if strange:
        raise BadInput(f"labels that the verbaliser does not know: {_few(strange)}; it knows {_few(words)}")
    ids = {name: _token(words[name], which) for name in names}
    for name, token in ids.items():
        check(token is not None, f"the verbaliser's word for label {name!r}", words[name], "one token of the tokenizer")
    check(len(set(ids.values())) == len(ids), "verbaliser", [words[name] for name in names], "a different token a label")
    return {name: token for name, token in ids.items() if token is not None}


def _token(word: str, which: "PreTrainedTokenizerBase") -> int | None:
    """The id of a word that is one known token."""
    ids = tokenize([word], which)[0].tolist()
    return ids[0] if len(ids) == 1 and ids[0] != (None if is_bytes(which) else which.unk_token_id) else None


def _few(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:10]) + (f" and {len(listed) - 10} more" if len(listed) > 10 else "")


def classification(
    corpus: Corpus, rows: np.ndarray, which: "PreTrainedTokenizerBase", context: int, words: Mapping[str, int]
) -> Examples:
    """Examples text, "\\nlabel:", label token, of which the label token is counted; `labels` follow the order of `words`.

    `words` is a `verbaliser`. Of a long text the beginning is kept, so that all fits into `context` + 1 tokens.
    """
    cue, order = tokenize([LABEL_CUE], which)[0], {name: i for i, name in enumerate(words)}
    room = context - len(cue)
    check(room >= 1, "context", context, f"at least {len(cue) + 1} tokens: one of text and {len(cue)} of {LABEL_CUE!r}")
    names = [corpus.label_names[i] for i in corpus.labels[rows]]
    strange = sorted(set(names) - set(words))
    if strange:
        raise BadInput(f"labels that the verbaliser does not know: {_few(strange)}; it knows {_few(words)}")
    texts = tokenize([corpus.texts[i] for i in rows], which)
    prompts = [np.concatenate([text[:room], cue]) for text in texts]
    return _examples(prompts, [np.array([words[name]]) for name in names], [order[name] for name in names])


def generation(corpus: Corpus, rows: np.ndarray, which: "PreTrainedTokenizerBase", context: int) -> Examples:
    """Examples text, "\\nanswer:", answer, end token, of which answer and end are counted; `labels` are the corpus's.

    Those of more than `context` + 1 tokens are left out: then there are fewer examples than rows. Raises BadInput where
    the corpus has no answers.
    """
    check(context >= 1, "context", context, "at least 1 token")
    if corpus.answers is None:
        raise BadInput(f"corpus {corpus.name!r} has no answers to generate: take 'instructions', or a file or hub dataset "
                       "with a column of answers")
    prompts = tokenize([corpus.texts[i] + ANSWER_CUE for i in rows], which)
    ended = [np.append(answer, end_of_text(which)) for answer in tokenize([corpus.answers[i] for i in rows], which)]
    fits = [k for k in range(len(rows)) if len(prompts[k]) + len(ended[k]) <= context + 1]
    return _examples([prompts[k] for k in fits], [ended[k] for k in fits], [int(corpus.labels[rows[k]]) for k in fits])


def _examples(prompts: Sequence[np.ndarray], answers: Sequence[np.ndarray], labels: Sequence[int]) -> Examples:
    starts = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    ends = starts + np.array([len(answer) for answer in answers], dtype=np.int64)
    tokens = np.full((len(prompts), int(ends.max(initial=1))), PAD, dtype=np.int64)
    for row, prompt, answer in zip(tokens, prompts, answers, strict=True):
        row[: len(prompt) + len(answer)] = np.concatenate([prompt, answer])
    places = np.arange(1, tokens.shape[1])
    counted = (places >= starts[:, None]) & (places < ends[:, None])
    return Examples(*map(torch.from_numpy, (tokens, counted, starts, np.array(labels, dtype=np.int64))))


def widen(examples: Examples, width: int) -> Examples:
    """Pad on the right to `width` = T+1 tokens; the loss and the scores stay what they are."""
    more = width - examples.tokens.shape[1]
    check(more >= 0, "width", width, f"at least {examples.tokens.shape[1]} tokens, the longest example")
    pad = nn.functional.pad
    return examples._replace(tokens=pad(examples.tokens, (0, more), value=PAD), counted=pad(examples.counted, (0, more)))


def take(examples: Examples, chosen: np.ndarray | Tensor) -> Examples:
    """The chosen examples: indices or a mask (n,)."""
    at = torch.as_tensor(chosen).to(examples.tokens.device)
    return Examples(*(part[at] for part in examples))


def spread(labels: Tensor, limit: int) -> np.ndarray:
    """At most `limit` indices (sorted) spread evenly over the examples in the order of their labels."""
    check(limit >= 1, "limit", limit, "at least 1")
    order, kept = np.argsort(labels.cpu().numpy(), kind="stable"), min(limit, len(labels))
    return np.sort(order[np.arange(kept) * len(labels) // max(kept, 1)])


def batch(clients: Sequence[Examples], batch_size: int, seed: int, step: int) -> Pair:
    """Random examples of each client's own, with replacement: tokens (N, B, T+1) and counted (N, B, T).

    A pure function of (seed, step), so that a run can resume. The clients' examples must be equally wide (`widen`).
    """
    check(batch_size >= 1, "batch_size", batch_size, "at least 1")
    check(step >= 0 and seed >= 0, "seed, step", (seed, step), "non-negative")
    sizes = np.array([len(one.tokens) for one in clients])
    check(bool((sizes > 0).all()), "examples", sizes.tolist(), "one or more for each client")
    widths = {one.tokens.shape[1] for one in clients}
    check(len(widths) == 1, "widths of the examples", sorted(widths), "equal for all clients")
    draws = np.random.default_rng([seed, step]).random((len(clients), batch_size))
    rows = torch.from_numpy((draws * sizes[:, None]).astype(np.int64)).to(clients[0].tokens.device)
    pairs = list(zip(clients, rows, strict=True))
    return torch.stack([one.tokens[at] for one, at in pairs]), torch.stack([one.counted[at] for one, at in pairs])


# scores of stacked parameters


@torch.no_grad()
def _mapped(read: Callable[..., Tensor], params: Params, *parts: Tensor) -> Tensor:
    """read(one client's params, a chunk of each part) for all clients and all examples: (N, n, ...)."""
    over = torch.vmap(read, in_dims=(0, *(None for _ in parts)))
    return torch.cat([over(params, *chunk) for chunk in zip(*(part.split(CHUNK) for part in parts), strict=True)], 1)


def classify(logits: Logits, params: Params, examples: Examples, label_tokens: Tensor) -> Tensor:
    """Return every client's label (N, n) of each example: the likeliest of `label_tokens` (L,) where the answer begins."""

    def read(mine: Params, tokens: Tensor, at: Tensor) -> Tensor:
        out = logits(mine, tokens[:, :-1])[torch.arange(len(tokens), device=tokens.device), at - 1]  # (b, V)
        return out[:, label_tokens].argmax(-1)

    return _mapped(read, params, examples.tokens, examples.answer_at)


def accuracy(predictions: Tensor, truth: Tensor) -> Tensor:
    """Share (N,) of predictions (N, n) that are the truth (n,)."""
    return (predictions == truth).double().mean(1)


def macro_f1(predictions: Tensor, truth: Tensor) -> Tensor:
    """Mean (N,) over the labels in the truth (n,) of F1 = 2 hits / (predicted + true) of predictions (N, n)."""
    present = truth.unique()[:, None]                              # (L, 1)
    said, so = predictions[:, None] == present, truth == present   # (N, L, n), (L, n)
    return (2 * (said & so).sum(-1).double() / (said.sum(-1) + so.sum(-1))).mean(1)


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
        text = nn.functional.pad(tokens, (0, steps))  # the right answer is overwritten before any position looks at it
        over = torch.zeros_like(at, dtype=torch.bool)
        written = []
        for place in (at + t for t in range(steps)):
            out = logits(mine, text[:, : width - 1])[torch.arange(len(at), device=at.device), (place - 1).clamp(max=width - 2)]
            token = torch.where(over | (place >= width), end, out.argmax(-1))
            over = over | (token == end)
            written.append(token)
            text = torch.where(torch.arange(width + steps, device=at.device) == place[:, None], token[:, None], text)
        return torch.stack(written, 1)

    return _mapped(read, params, examples.tokens, examples.answer_at)


def entropy_floor(corpus: Corpus, rows: np.ndarray | None = None) -> float | None:
    """Exact entropy rate, in nats a byte, of these rows' sources (each by its rows), or None where it is not known.

    A test loss of bytes minus this is the gap of the model to the best possible one.
    """
    if corpus.entropy is None:
        return None
    return float(corpus.entropy[corpus.labels if rows is None else corpus.labels[rows]].mean())


# the table


class Ask(NamedTuple):
    """What a row of TASKS is told; all of it is `build`'s."""

    corpus: Corpus
    split: Split
    tokenizer: "PreTrainedTokenizerBase"
    model: "PreTrainedModel"
    context: int
    batch_size: int
    seed: int
    device: torch.device
    test_limit: int
    words: Mapping[str, str] | None


class Task(NamedTuple):
    """One task on one split: what a run trains on and measures. Pairs are (tokens, counted).

    `score` reads the common test set and `validation_score` all clients' validation examples in one pool, both for any
    number of stacked models; a task without scores returns {}.
    """

    loss: Loss
    batches: Callable[[int], Pair]  # inner step -> (N, B, ...)
    test: Pair                      # (n, ...) of the common test set
    own: Pair                       # (N, n, ...) of each client's validation data, n the same for all, at most OWN
    train: Pair                     # (N, n, ...) of each client's training data, at most TRAIN
    score: Scores
    validation_score: Scores
    notes: tuple[str, ...] = ()     # what was left out or dropped, in plain words


def lm(ask: Ask) -> Task:
    """Language modelling: every next token counts; its measure is the perplexity."""
    data = shards.build(_with_answers(ask.corpus), ask.split, ask.tokenizer, ask.context)

    def batches(step: int) -> Pair:
        return _whole(shards.batch(data.train, ask.context, ask.batch_size, ask.seed, step).to(ask.device))

    own, train = (_even_windows(streams, ask.context, most).to(ask.device)
                  for streams, most in ((data.validation, OWN), (data.train, TRAIN)))
    test = shards.windows(data.test, ask.context, ask.test_limit).to(ask.device)
    nothing: Scores = lambda params: {}  # noqa: E731
    return Task(masked_loss(ask.model), batches, _whole(test), _whole(own), _whole(train), nothing, nothing)


def _with_answers(corpus: Corpus) -> Corpus:
    if corpus.answers is None:
        return corpus
    return corpus._replace(texts=tuple(map(ANSWER_CUE.join, zip(corpus.texts, corpus.answers, strict=True))))


def _whole(windows: Tensor) -> Pair:
    return windows, torch.ones_like(windows[..., 1:], dtype=torch.bool)


def _even_windows(streams: Sequence[Tensor], context: int, most: int) -> Tensor:
    count = min(most, *((len(stream) - 1) // context for stream in streams))
    return torch.stack([shards.windows(stream, context, count) for stream in streams])


def classify_task(ask: Ask) -> Task:
    """Classification: after the text and "label:" only the label's token counts; accuracy and macro F1."""
    words = verbaliser(ask.corpus.label_names, ask.tokenizer, ask.words)
    sets = _sets(ask, lambda rows: classification(ask.corpus, rows, ask.tokenizer, ask.context, words))
    missing = [name for i, name in enumerate(words) if i not in sets.test.labels]
    if missing:
        raise BadInput(f"the test set of {len(sets.test.labels)} examples has none of the label(s) {_few(missing)}: "
                       "take a larger test_share, more test examples, or fewer labels")
    logits, ids = logits_of(ask.model), torch.tensor(list(words.values()), device=ask.device)

    def score(params: Params, examples: Examples) -> dict[str, Tensor]:
        said = classify(logits, params, examples, ids)
        return {"accuracy": accuracy(said, examples.labels), "macro_f1": macro_f1(said, examples.labels)}

    return _task(ask, sets, score)


def generate_task(ask: Ask) -> Task:
    """Generation: after the prompt and "answer:" the answer and the end token count; exact match."""
    sets = _sets(ask, lambda rows: generation(ask.corpus, rows, ask.tokenizer, ask.context))
    logits = logits_of(ask.model)
    return _task(ask, sets, lambda params, examples: {"exact_match": exact_match(logits, params, examples)})


class Row(NamedTuple):
    """One row of the table of tasks."""

    about: str
    build: Callable[[Ask], Task]
    scores: dict[str, bool]  # name -> higher is better; without scores, the loss is what choices are made by


TASKS: dict[str, Row] = {
    "lm": Row("predict every next token; measured by perplexity", lm, {}),
    "classify": Row("name the label of a text, one token a label", classify_task, {"accuracy": True, "macro_f1": True}),
    "generate": Row("write the answer to an instruction", generate_task, {"exact_match": True}),
}


def build(
    task: str,
    corpus: Corpus,
    split: Split,
    tokenizer: "PreTrainedTokenizerBase",
    model: "PreTrainedModel",
    context: int,
    batch_size: int,
    seed: int,
    device: torch.device,
    test_limit: int,
    words: Mapping[str, str] | None = None,
) -> Task:
    """Return the task of a name in TASKS on a split corpus; raise BadInput where they do not fit one another.

    `test_limit` is the largest number of test examples (windows for "lm"), and of those pooled for validation. `words`
    is for "classify": a word a label (see `verbaliser`).
    """
    row = pick(TASKS, task, "task")
    check(words is None or row.build is classify_task, "words", words, "left out: only the task 'classify' has a verbaliser")
    check(batch_size >= 1, "batch_size", batch_size, "at least 1")
    check(test_limit >= 1, "test_limit", test_limit, "at least 1")
    return row.build(Ask(corpus, split, tokenizer, model, context, batch_size, seed, device, test_limit, words))


class _Sets(NamedTuple):
    train: list[Examples]
    validation: list[Examples]
    test: Examples
    notes: tuple[str, ...]


def _sets(ask: Ask, make: Callable[[np.ndarray], Examples]) -> _Sets:
    """All examples of a split, equally wide, on the device, without training prompts that are held-out ones too.

    Cut to the context, two rows can become one prompt: then the test set keeps it, else the validation sets, and the
    others lose it.
    """
    train, validation = [make(rows) for rows in ask.split.train], [make(rows) for rows in ask.split.validation]
    test = make(ask.split.test)
    tested = _prompts([test])
    apart = [_without(one, tested) for one in validation]
    held_out = tested | _prompts(apart)
    left = [_without(one, held_out) for one in train]
    _none_empty({**{f"client {i}'s training set": one for i, one in enumerate(left)},
                 **{f"client {i}'s validation set": one for i, one in enumerate(apart)}, "the test set": test}, ask.context)
    short = sum(map(len, (*ask.split.train, *ask.split.validation, ask.split.test))) - _count([*train, *validation, test])
    shared = _count([*train, *validation]) - _count([*left, *apart])
    notes = ((f"{short} examples left out: longer than the context of {ask.context} tokens",) * (short > 0)
             + (f"{shared} examples dropped: cut to the context, their prompts are held-out ones",) * (shared > 0))
    width = max(one.tokens.shape[1] for one in (*left, *apart, test))
    fit = partial(_fit, width, ask.device)
    limited = take(test, spread(test.labels, ask.test_limit))
    return _Sets(list(map(fit, left)), list(map(fit, apart)), fit(limited), notes)


def _fit(width: int, device: torch.device, examples: Examples) -> Examples:
    return Examples(*(part.to(device) for part in widen(examples, width)))


def _count(parts: Sequence[Examples]) -> int:
    return sum(len(one.tokens) for one in parts)


def _prompts(parts: Sequence[Examples]) -> set[bytes]:
    return {prompt for one in parts for prompt in _each_prompt(one)}


def _each_prompt(examples: Examples) -> list[bytes]:
    tokens = examples.tokens.numpy()
    return [tokens[i, :at].tobytes() for i, at in enumerate(examples.answer_at.tolist())]


def _without(examples: Examples, prompts: set[bytes]) -> Examples:
    return take(examples, np.array([prompt not in prompts for prompt in _each_prompt(examples)], dtype=bool))


def _none_empty(sets: Mapping[str, Examples], context: int) -> None:
    empty = [whose for whose, examples in sets.items() if not len(examples.tokens)]
    if empty:
        raise BadInput(f"no example in {_few(empty)}: its rows are none, longer than context {context}, or held-out prompts; "
                       "take a larger context, fewer clients, a larger alpha, or larger shares for test and validation")


def _task(ask: Ask, sets: _Sets, score: Callable[[Params, Examples], dict[str, Tensor]]) -> Task:
    pool = Examples(*map(torch.cat, zip(*sets.validation, strict=True)))
    pool = take(pool, spread(pool.labels, ask.test_limit))
    return Task(
        loss=masked_loss(ask.model),
        batches=lambda step: batch(sets.train, ask.batch_size, ask.seed, step),
        test=(sets.test.tokens, sets.test.counted),
        own=_probe(sets.validation, OWN),
        train=_probe(sets.train, TRAIN),
        score=lambda params: score(params, sets.test),
        validation_score=lambda params: score(params, pool),
        notes=sets.notes,
    )


def _probe(parts: Sequence[Examples], most: int) -> Pair:
    count = min(most, *(len(one.tokens) for one in parts))
    chosen = [take(one, spread(one.labels, count)) for one in parts]
    return torch.stack([one.tokens for one in chosen]), torch.stack([one.counted for one in chosen])
