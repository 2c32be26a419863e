"""Tasks: what a causal model is trained to say after a text, the loss of that, and how it is scored."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from deca_lab.algorithm.gradients import Batch, Loss
from deca_lab.algorithm.stacking import Params
from deca_lab.errors import BadInput, check, pick
from deca_lab.models.causal_lm import logits_of
from deca_lab.models.classifier import class_logits, pad_of
from deca_lab.text import headed, shards
from deca_lab.text.corpora import Corpus
from deca_lab.text.prompts import (
    ANSWER_CUE,
    CountedTokens,
    Examples,
    batch,
    classification,
    generation,
    listed,
    spread,
    take,
    verbaliser,
    widen,
)
from deca_lab.text.scoring import accuracy, classify, classify_by_head, exact_match, macro_f1
from deca_lab.text.shards import Split

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Scores = Callable[
    [Params], dict[str, Tensor]
]  # stacked parameters (N, ...) -> name -> (N,) float64
OWN, TRAIN = 8, 4  # examples of a client's validation and training data in the probes, at most


def masked_loss(model: nn.Module) -> Loss:
    """Return loss(params, (tokens, counted)) -> mean over examples of the mean cross-entropy of what each counts, nats.

    Chunks of equally many examples average exactly; where everything is counted it is `causal_lm.client_loss`. An example
    that counts nothing adds 0.
    """
    logits = logits_of(model)

    def loss(params: Params, batch: CountedTokens) -> Tensor:
        tokens, counted = batch
        out, targets = logits(params, tokens[:, :-1]), tokens[:, 1:]
        cost = nn.functional.cross_entropy(
            out.flatten(0, 1), targets.flatten(), reduction="none"
        ).view(targets.shape)
        return ((cost * counted).sum(1) / counted.sum(1).clamp(min=1)).mean()

    return loss


def entropy_floor(corpus: Corpus, rows: np.ndarray | None = None) -> float | None:
    """Exact entropy rate, in nats a byte, of these rows' sources (each by its rows), or None where it is not known.

    A test loss of bytes minus this is the gap of the model to the best possible one.
    """
    if corpus.entropy is None:
        return None
    return float(corpus.entropy[corpus.labels if rows is None else corpus.labels[rows]].mean())


# the table


class TaskRequest(NamedTuple):
    """What a row of TASKS is given; all of it is `build`'s."""

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
    """One task on one split: what a run trains on and measures.

    Batches are as the loss takes them: (tokens, counted), or (tokens, mask, labels) for a head.
    `score` reads the common test set and `validation_score` all clients' validation examples in one pool, both for any
    number of stacked models; a task without scores returns {}.
    """

    loss: Loss
    batches: Callable[[int], Batch]  # inner step -> (N, B, ...)
    test: Batch  # (n, ...) of the common test set
    own: Batch  # (N, n, ...) of each client's validation data, n the same for all, at most OWN
    train: Batch  # (N, n, ...) of each client's training data, at most TRAIN
    score: Scores
    validation_score: Scores
    notes: tuple[str, ...] = ()  # what was left out or dropped, in plain words
    majority: float | None = None  # accuracy of always naming the test set's commonest label


def lm(request: TaskRequest) -> Task:
    """Language modelling: every next token counts; its measure is the perplexity."""
    data = shards.build(
        _with_answers(request.corpus), request.split, request.tokenizer, request.context
    )

    def batches(step: int) -> CountedTokens:
        return _whole(
            shards.batch(data.train, request.context, request.batch_size, request.seed, step).to(
                request.device
            )
        )

    own, train = (
        _even_windows(streams, request.context, most).to(request.device)
        for streams, most in ((data.validation, OWN), (data.train, TRAIN))
    )
    test = shards.windows(data.test, request.context, request.test_limit).to(request.device)
    nothing: Scores = lambda params: {}  # noqa: E731
    return Task(
        masked_loss(request.model),
        batches,
        _whole(test),
        _whole(own),
        _whole(train),
        nothing,
        nothing,
    )


def _with_answers(corpus: Corpus) -> Corpus:
    if corpus.answers is None:
        return corpus
    return corpus._replace(
        texts=tuple(map(ANSWER_CUE.join, zip(corpus.texts, corpus.answers, strict=True)))
    )


def _whole(windows: Tensor) -> CountedTokens:
    return windows, torch.ones_like(windows[..., 1:], dtype=torch.bool)


def _even_windows(streams: Sequence[Tensor], context: int, most: int) -> Tensor:
    count = min(most, *((len(stream) - 1) // context for stream in streams))
    return torch.stack([shards.windows(stream, context, count) for stream in streams])


def classify_task(request: TaskRequest) -> Task:
    """Classification: after the text and "label:" only the label's token counts; accuracy and macro F1."""
    words = verbaliser(request.corpus.label_names, request.tokenizer, request.words)
    sets = _sets(
        request,
        lambda rows: classification(
            request.corpus, rows, request.tokenizer, request.context, words
        ),
    )
    _require_labels(sets.test, list(words))
    logits, ids = (
        logits_of(request.model),
        torch.tensor(list(words.values()), device=request.device),
    )

    def score(params: Params, examples: Examples) -> dict[str, Tensor]:
        return _hits(classify(logits, params, examples, ids), examples)

    task = _task(request, sets, score, masked_loss(request.model), _pair)
    return task._replace(majority=_majority(sets.test))


def headed_task(request: TaskRequest) -> Task:
    """Classification by a head of the model's own: the text alone; accuracy and macro F1."""
    pad = pad_of(request.tokenizer, request.model)

    def make(rows: np.ndarray) -> Examples:
        return headed.labelled(request.corpus, rows, request.tokenizer, request.context, pad)

    fill = partial(headed.filled, pad=pad)
    sets = _sets(request, make)
    sets = sets._replace(
        train=list(map(fill, sets.train)),
        validation=list(map(fill, sets.validation)),
        test=fill(sets.test),
    )
    _require_labels(sets.test, request.corpus.label_names)
    logits = class_logits(request.model)

    def score(params: Params, examples: Examples) -> dict[str, Tensor]:
        return _hits(classify_by_head(logits, params, examples), examples)

    task = _task(request, sets, score, headed.head_loss(request.model), headed.triple)
    return task._replace(majority=_majority(sets.test))


def _require_labels(test: Examples, names: Sequence[str]) -> None:
    """Raise BadInput where the test set lacks a label."""
    missing = [name for i, name in enumerate(names) if i not in test.labels]
    if missing:
        raise BadInput(
            f"the test set of {len(test.labels)} examples has none of the label(s) {listed(missing)}: "
            "take a larger test_share, more test examples (eval_windows), or fewer labels"
        )


def _hits(predicted: Tensor, examples: Examples) -> dict[str, Tensor]:
    return {
        "accuracy": accuracy(predicted, examples.labels),
        "macro_f1": macro_f1(predicted, examples.labels),
    }


def _majority(test: Examples) -> float:
    return int(test.labels.bincount().max()) / len(test.labels)


def generate_task(request: TaskRequest) -> Task:
    """Generation: after the prompt and "answer:" the answer and the end token count; exact match."""
    sets = _sets(
        request, lambda rows: generation(request.corpus, rows, request.tokenizer, request.context)
    )
    logits = logits_of(request.model)
    return _task(
        request,
        sets,
        lambda params, examples: {"exact_match": exact_match(logits, params, examples)},
        masked_loss(request.model),
        _pair,
    )


class TaskKind(NamedTuple):
    """What can be trained for: in words, how its `Task` is built, and what it is scored by."""

    about: str
    build: Callable[[TaskRequest], Task]
    scores: dict[
        str, bool
    ]  # name -> higher is better; without scores, the loss is what choices are made by
    headed: Callable[[TaskRequest], Task] | None = None  # the same by a head that trains


TASKS: dict[str, TaskKind] = {
    "lm": TaskKind("predict every next token; measured by perplexity", lm, {}),
    "classify": TaskKind(
        "name the label of a text, one token a label",
        classify_task,
        {"accuracy": True, "macro_f1": True},
        headed_task,
    ),
    "generate": TaskKind(
        "write the answer to an instruction", generate_task, {"exact_match": True}
    ),
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
    head: bool = False,
) -> Task:
    """Return the task of a name in TASKS on a split corpus; raise BadInput where they do not fit one another.

    `test_limit` is the largest number of test examples (windows for "lm"), and of those pooled for validation. `words`
    is for "classify": a word a label (see `verbaliser`). With `head` the model is a classifier.
    """
    row = pick(TASKS, task, "task")
    made = row.headed if head else row.build
    if made is None:
        raise BadInput(
            f"task = {task!r} cannot be used: it must be classify, with a head that trains"
        )
    check(
        words is None or made is classify_task,
        "words",
        words,
        "left out: only the task 'classify' has a verbaliser, and no head that trains",
    )
    check(batch_size >= 1, "batch_size", batch_size, "at least 1")
    check(test_limit >= 1, "test_limit", test_limit, "at least 1")
    return made(
        TaskRequest(
            corpus, split, tokenizer, model, context, batch_size, seed, device, test_limit, words
        )
    )


class _Sets(NamedTuple):
    train: list[Examples]
    validation: list[Examples]
    test: Examples
    notes: tuple[str, ...]


def _sets(request: TaskRequest, make: Callable[[np.ndarray], Examples]) -> _Sets:
    """All examples of a split, equally wide, on the device, without training prompts that are held-out ones too."""
    train, validation = (
        list(map(make, request.split.train)),
        list(map(make, request.split.validation)),
    )
    test = make(request.split.test)
    own_train, own_validation = _disjoint(train, validation, test)
    _require_examples(own_train, own_validation, test, request.context)
    rows = sum(map(len, (*request.split.train, *request.split.validation, request.split.test)))
    long = rows - _count([*train, *validation, test])
    repeated = _count([*train, *validation]) - _count([*own_train, *own_validation])
    notes = _counted(long, f"left out: longer than the context of {request.context} tokens")
    notes += _counted(repeated, "dropped: cut to the context, their prompts are held-out ones")
    width = max(examples.tokens.shape[1] for examples in (*own_train, *own_validation, test))
    fit = partial(_fit, width, request.device)
    limited = take(test, spread(test.labels, request.test_limit))
    return _Sets(list(map(fit, own_train)), list(map(fit, own_validation)), fit(limited), notes)


def _disjoint(
    train: Sequence[Examples], validation: Sequence[Examples], test: Examples
) -> tuple[list[Examples], list[Examples]]:
    """The training and the validation sets without prompts that another set keeps.

    Cut to the context, two rows can become one prompt: then the test set keeps it, else the validation sets, and the
    others lose it.
    """
    tested = _prompts([test])
    own_validation = [_without(examples, tested) for examples in validation]
    held_out = tested | _prompts(own_validation)
    return [_without(examples, held_out) for examples in train], own_validation


def _require_examples(
    train: Sequence[Examples], validation: Sequence[Examples], test: Examples, context: int
) -> None:
    """Raise BadInput where a set has no example, naming whose."""
    sets: dict[str, Examples] = {}
    for what, parts in (("training", train), ("validation", validation)):
        sets |= {f"client {i}'s {what} set": examples for i, examples in enumerate(parts)}
    sets["the test set"] = test
    empty = [whose for whose, examples in sets.items() if not len(examples.tokens)]
    if empty:
        raise BadInput(
            f"no example in {listed(empty)}: its rows are none, longer than context {context}, or held-out prompts; "
            "take a larger context, fewer clients, a larger alpha, or larger shares for test and validation"
        )


def _counted(count: int, what: str) -> tuple[str, ...]:
    """The note about so many examples; none about none."""
    return (f"{count} examples {what}",) if count else ()


def _fit(width: int, device: torch.device, examples: Examples) -> Examples:
    return Examples(*(part.to(device) for part in widen(examples, width)))


def _count(parts: Sequence[Examples]) -> int:
    return sum(len(examples.tokens) for examples in parts)


def _prompts(parts: Sequence[Examples]) -> set[bytes]:
    return {prompt for examples in parts for prompt in _each_prompt(examples)}


def _each_prompt(examples: Examples) -> list[bytes]:
    tokens = examples.tokens.numpy()
    return [tokens[i, :at].tobytes() for i, at in enumerate(examples.answer_at.tolist())]


def _without(examples: Examples, prompts: set[bytes]) -> Examples:
    return take(
        examples, np.array([prompt not in prompts for prompt in _each_prompt(examples)], dtype=bool)
    )


def _task(
    request: TaskRequest,
    sets: _Sets,
    score: Callable[[Params, Examples], dict[str, Tensor]],
    loss: Loss,
    shown: Callable[[Examples], Batch],  # what the loss takes of examples
) -> Task:
    pool = Examples(*map(torch.cat, zip(*sets.validation, strict=True)))
    pool = take(pool, spread(pool.labels, request.test_limit))
    return Task(
        loss=loss,
        batches=lambda step: shown(batch(sets.train, request.batch_size, request.seed, step)),
        test=shown(sets.test),
        own=shown(_probe(sets.validation, OWN)),
        train=shown(_probe(sets.train, TRAIN)),
        score=lambda params: score(params, sets.test),
        validation_score=lambda params: score(params, pool),
        notes=sets.notes,
    )


def _pair(examples: Examples) -> CountedTokens:
    return examples.tokens, examples.counted


def _probe(parts: Sequence[Examples], most: int) -> Examples:
    count = min(most, *(len(examples.tokens) for examples in parts))
    chosen = [take(examples, spread(examples.labels, count)) for examples in parts]
    return Examples(*map(torch.stack, zip(*chosen, strict=True)))
