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
    evenly,
    generation,
    listed,
    require_labels,
    sent,
    take,
    verbaliser,
    widen,
)
from deca_lab.text.scoring import (
    LOSS,
    Scores,
    accuracy,
    by_head,
    classify,
    exact_match,
    macro_f1,
)
from deca_lab.text.shards import Split

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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
        flat = out.flatten(0, 1), targets.flatten()
        cost = nn.functional.cross_entropy(*flat, reduction="none").view(targets.shape)
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
    """What a row of TASKS is given."""

    corpus: Corpus
    split: Split
    tokenizer: "PreTrainedTokenizerBase"
    model: "PreTrainedModel"
    context: int
    batch_size: int
    seed: int
    device: torch.device
    test_limit: int  # test examples (windows for "lm"), and those pooled for validation, at most
    words: Mapping[str, str] | None = None  # for "classify", a word a label: see `verbaliser`


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
    readings: int = 1  # how often a measurement reads the test set


def lm(request: TaskRequest) -> Task:
    """Language modelling: every next token counts; its measure is the perplexity."""
    corpus, context = _with_answers(request.corpus), request.context
    data = shards.build(corpus, request.split, request.tokenizer, context)
    shards.require_windows(data)

    def batches(step: int) -> CountedTokens:
        drawn = shards.batch(data.train, context, request.batch_size, request.seed, step)
        return _whole(sent(drawn, request.device))

    probes = (
        shards.windows(data.test, context, request.test_limit),
        _even_windows(data.validation, context, OWN),
        _even_windows(data.train, context, TRAIN),
    )
    test, own, train = (_whole(windows.to(request.device)) for windows in probes)
    nothing: Scores = lambda params: {}  # noqa: E731
    return Task(masked_loss(request.model), batches, test, own, train, nothing, nothing)


def _with_answers(corpus: Corpus) -> Corpus:
    if corpus.answers is None:
        return corpus
    pairs = zip(corpus.texts, corpus.answers, strict=True)
    return corpus._replace(texts=tuple(map(ANSWER_CUE.join, pairs)))


def _whole(windows: Tensor) -> CountedTokens:
    return windows, torch.ones_like(windows[..., 1:], dtype=torch.bool)


def _even_windows(streams: Sequence[Tensor], context: int, most: int) -> Tensor:
    count = min(most, *((len(stream) - 1) // context for stream in streams))
    return torch.stack([shards.windows(stream, context, count) for stream in streams])


def classify_task(request: TaskRequest) -> Task:
    """Classification: after the text and "label:" only the label's tokens count; accuracy and macro F1."""
    corpus, which, logits = request.corpus, request.tokenizer, logits_of(request.model)
    require_labels(corpus)
    words = verbaliser(corpus.label_names, which, request.words)
    sets = _sets(request, lambda rows: classification(corpus, rows, which, request.context, words))
    require_tested(sets.test.labels, tuple(words))

    def score(params: Params, examples: Examples) -> dict[str, Tensor]:
        labels, loss = classify(logits, params, examples, tuple(words.values()))
        return {**_hits(labels, examples), LOSS: loss}

    task = _task(request, sets, score, masked_loss(request.model), _pair)
    readings = len({tuple(word[:-1]) for word in words.values()})
    spare = [name for name in request.words or () if name not in words]
    unused = [f"the verbaliser's word for {listed(spare)} is not used: no row has it"]
    notes = (*task.notes, *(unused if spare else ()))
    return task._replace(notes=notes, majority=_majority(sets.test), readings=readings)


def headed_task(request: TaskRequest) -> Task:
    """Classification by a head of the model's own: the text alone; accuracy and macro F1."""
    require_labels(request.corpus)
    pad = pad_of(request.tokenizer, request.model)

    def make(rows: np.ndarray) -> Examples:
        return headed.labelled(request.corpus, rows, request.tokenizer, request.context, pad)

    fill = partial(headed.filled, pad=pad)
    made = _sets(request, make)
    train, validation = (list(map(fill, parts)) for parts in (made.train, made.validation))
    sets = _Sets(train, validation, fill(made.test), made.notes)
    require_tested(sets.test.labels, request.corpus.label_names)
    logits = class_logits(request.model)

    def score(params: Params, examples: Examples) -> dict[str, Tensor]:
        labels, loss = by_head(logits, params, examples)
        return {**_hits(labels, examples), LOSS: loss}

    task = _task(request, sets, score, headed.head_loss(request.model), headed.triple)
    return task._replace(majority=_majority(sets.test))


def _hits(predicted: Tensor, examples: Examples) -> dict[str, Tensor]:
    scores = {"accuracy": accuracy, "macro_f1": macro_f1}
    return {name: score(predicted, examples.labels) for name, score in scores.items()}


def _majority(test: Examples) -> float:
    return int(test.labels.bincount().max()) / len(test.labels)


def require_tested(labels: Tensor, names: Sequence[str]) -> None:
    """Raise BadInput where a label of `names` has no test example among `labels` (n,)."""
    missing = [name for i, name in enumerate(names) if i not in labels]
    if missing:
        lacks = f"the test set of {len(labels)} examples has none of the label(s) {listed(missing)}"
        more = "take a larger test_share, more test examples (eval_windows), or fewer labels"
        raise BadInput(f"{lacks}: {more}")


def generate_task(request: TaskRequest) -> Task:
    """Generation: after the prompt and "answer:" the answer and the end token count; exact match."""
    corpus, which, logits = request.corpus, request.tokenizer, logits_of(request.model)
    sets = _sets(request, lambda rows: generation(corpus, rows, which, request.context))

    def score(params: Params, examples: Examples) -> dict[str, Tensor]:
        share, loss = exact_match(logits, params, examples)
        return {"exact_match": share, LOSS: loss}

    return _task(request, sets, score, masked_loss(request.model), _pair)


class TaskKind(NamedTuple):
    """What can be trained for: in words, how its `Task` is built, and what it is scored by.

    `scores`: name -> higher is better. Without scores, choices are made by the loss.
    """

    about: str
    build: Callable[[TaskRequest], Task]
    scores: dict[str, bool]
    headed: Callable[[TaskRequest], Task] | None = None  # the same by a head that trains


BY_LABEL, BY_ANSWER = {"accuracy": True, "macro_f1": True}, {"exact_match": True}
TASKS: dict[str, TaskKind] = {
    "lm": TaskKind("predict every next token; measured by perplexity", lm, {}),
    "classify": TaskKind("name the label of a text", classify_task, BY_LABEL, headed_task),
    "generate": TaskKind("write the answer to an instruction", generate_task, BY_ANSWER),
}


def build(task: str, request: TaskRequest, head: bool = False) -> Task:
    """Return the task of a name in TASKS on a split corpus; raise BadInput where they do not fit one another.

    With `head` the model is a classifier.
    """
    row = pick(TASKS, task, "task")
    made = row.headed if head else row.build
    check(made is not None, "task", task, "classify, with a head that trains")
    assert made is not None
    allowed = "left out: only the task 'classify' has a verbaliser, and no head that trains"
    check(request.words is None or made is classify_task, "words", request.words, allowed)
    for name in ("batch_size", "test_limit"):
        check(getattr(request, name) >= 1, name, getattr(request, name), "at least 1")
    return made(request)


class _Sets(NamedTuple):
    train: list[Examples]
    validation: list[Examples]
    test: Examples
    notes: tuple[str, ...]


def _sets(request: TaskRequest, make: Callable[[np.ndarray], Examples]) -> _Sets:
    """All examples of a split, equally wide, on the device, without training prompts that are held-out ones too."""
    split = request.split
    train, validation = (list(map(make, rows)) for rows in (split.train, split.validation))
    test = make(split.test)
    own_train, own_validation = _disjoint(train, validation, test)
    _require_examples(own_train, own_validation, test, request.context)
    rows = sum(map(len, (*split.train, *split.validation, split.test)))
    long = rows - _count([*train, *validation, test])
    repeated = _count([*train, *validation]) - _count([*own_train, *own_validation])
    notes = _counted(long, f"left out: longer than the context of {request.context} tokens")
    notes += _counted(repeated, "dropped: cut to the context, their prompts are held-out ones")
    width = max(examples.tokens.shape[1] for examples in (*own_train, *own_validation, test))
    fit = partial(_fit, width, request.device)
    limited = take(test, evenly(test.labels, request.test_limit))
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
        why = f"its rows are none, longer than context {context}, or held-out prompts"
        shares = "larger test_share and validation_share"
        more = f"a larger context, the split iid, fewer clients, a larger alpha, or {shares}"
        raise BadInput(f"no example in {listed(empty)}: {why}; take {more}")


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
    kept = [prompt not in prompts for prompt in _each_prompt(examples)]
    return take(examples, np.array(kept, dtype=bool))


def _task(
    request: TaskRequest,
    sets: _Sets,
    score: Callable[[Params, Examples], dict[str, Tensor]],
    loss: Loss,
    shown: Callable[[Examples], Batch],  # what the loss takes of examples
) -> Task:
    pool = Examples(*map(torch.cat, zip(*sets.validation, strict=True)))
    pool = take(pool, evenly(pool.labels, request.test_limit))
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
    chosen = [take(examples, evenly(examples.labels, count)) for examples in parts]
    return Examples(*map(torch.stack, zip(*chosen, strict=True)))
