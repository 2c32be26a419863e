"""The text and the model that a config means, read before anything is laid out."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from deca_lab.algorithm.gradients import engine_kind
from deca_lab.errors import BadInput, check, pick
from deca_lab.lab.objects import Objects, columns_and_rows
from deca_lab.models.causal_lm import BYTES
from deca_lab.runconfig import OBJECT, RunConfig
from deca_lab.text import shards, tasks
from deca_lab.text.corpora import CORPORA, Corpus, load
from deca_lab.text.shards import Shards, Split
from deca_lab.text.tokens import tokenizer_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LONG = 256  # tokens of a context from which torch's fused attention is the quicker one, not only the smaller
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def _by_length(config: RunConfig) -> str:
    """Return fused attention for long contexts; with checkpointing its kernel could not be the same both times."""
    return "sdpa" if config.context >= LONG and not config.gradient_checkpointing else "eager"


ATTENTIONS: dict[str, Callable[[RunConfig], str]] = {
    "auto": _by_length,
    "eager": lambda config: "eager",
    "sdpa": lambda config: "sdpa",
}


class Texts(NamedTuple):
    """The data of a run, before there is a model."""

    corpus: Corpus
    tokenizer: "PreTrainedTokenizerBase"
    split: Split
    shards: Shards
    labels: Sequence[str]  # of a head that trains; none where no head does
    notes: tuple[str, ...]


def read_texts(config: RunConfig, objects: Objects) -> Texts:
    """Return the data of a run; raise BadInput where it cannot be read or does not fit."""
    head = has_head(config, objects.model)
    corpus = objects.dataset or read_corpus(config)
    _require_tokenizer(config, objects)
    which, noted = tokenizer_of(config, objects.tokenizer)
    parts = split_of(config, corpus)
    data = shards.build(corpus, parts, which, config.context, whole=head)
    labels = corpus.label_names if head else ()
    notes = (*data.notes, *noted, *_recast(config, objects.model), *_silenced(objects.model))
    return Texts(corpus, which, parts, data, labels, notes)


def _recast(config: RunConfig, given: nn.Module | None) -> list[str]:
    """Return a note where the numbers of a model that was given are of another kind than those that train."""
    wanted = pick(DTYPES, config.dtype, "dtype")
    parameters = given.parameters() if given is not None else ()
    kinds = {p.dtype for p in parameters if p.is_floating_point()} - {wanted}
    names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
    return [f"the model's {names} becomes {config.dtype}, the run's dtype"] if kinds else []


def _silenced(given: nn.Module | None) -> list[str]:
    """Return a note where a model that was given has dropout, which is off here."""
    parts = () if given is None else given.modules()
    rates = {part.p for part in parts if isinstance(part, _DropoutNd)} - {0}
    shares = ", ".join(f"{rate:g}" for rate in sorted(rates))
    return [
        f"the model's dropout ({shares}) is off: every client's loss is a fixed function"
    ] * bool(rates)


def read_corpus(config: RunConfig) -> Corpus:
    """Return the corpus that the config's Data knobs name."""
    asked = columns_and_rows(config)
    if config.corpus in CORPORA:
        asked["answer"] = None  # it brings its own
    revision = config.hub_revision or None
    return load(config.corpus, split=config.hub_split, revision=revision, **asked)


def words_of(config: RunConfig) -> dict[str, str] | None:
    """Return {label: word} of a text such as "good=G, bad=B", or None for an empty one."""
    parts = [part.partition("=") for part in config.verbaliser.split(",") if part.strip()]
    whole = all(mark and word.strip() for _, mark, word in parts)
    check(whole, "verbaliser", config.verbaliser, "'label=word, label=word'")
    words = [(label.strip(), word.strip()) for label, _, word in parts]
    allowed = "one word for each label"
    check(len(dict(words)) == len(words), "verbaliser", config.verbaliser, allowed)
    return dict(words) or None


def split_of(config: RunConfig, corpus: Corpus) -> shards.Split:
    """Return the rows of each client and of the common test set."""
    return shards.split(
        corpus.labels,
        config.clients,
        how=config.split,
        alpha=config.alpha,
        test_share=config.test_share,
        validation_share=config.validation_share,
        shares=_share_table(config.shares),
        seed=config.seed,
    )


def _share_table(text: str) -> list[list[float]] | None:
    """Return the rows of a table such as "0.15,0.85; 0.85,0.15", or None for an empty text."""
    rows = [row.split(",") for row in text.split(";")]
    try:
        return [[float(cell) for cell in row] for row in rows] if text.strip() else None
    except ValueError:
        allowed = "rows of numbers, '0.15,0.85; 0.85,0.15'"
        raise BadInput(f"shares = {text!r} cannot be used: it must be {allowed}") from None


def _require_tokenizer(config: RunConfig, objects: Objects) -> None:
    """Raise BadInput for a model object of a vocabulary that is not the bytes', unless something says which text it reads."""
    size = getattr(getattr(objects.model, "config", None), "vocab_size", None)
    if objects.tokenizer is None and config.tokenizer == "auto" and size not in (None, BYTES):
        raise BadInput(
            f"tokenizer is missing: the given model has a vocabulary of {size}, and no tokenizer comes with an object; "
            "give tokenizer=, or RunConfig(tokenizer='bytes') to read bytes with it"
        )


def tokenizer_of(
    config: RunConfig, given: "PreTrainedTokenizerBase | None" = None
) -> tuple["PreTrainedTokenizerBase", tuple[str, ...]]:
    """Return the tokenizer of the config, or the one `given`, and a note where it was chosen."""
    from deca_lab.models.causal_lm import source_of

    if given is not None:
        return given, ()
    by_name = not config.model.startswith(OBJECT)
    source = source_of(config.model) if by_name else ""
    return tokenizer_for(config.tokenizer, source, config.model_revision)


def has_head(config: RunConfig, given: nn.Module | None = None) -> bool:
    """Say whether a head for labels trains; raise BadInput where head, model and task do not fit."""
    from deca_lab.models.classifier import trains_head

    headed = pick(tasks.TASKS, config.task, "task").headed is not None
    model = config.model if given is None else given
    return trains_head(config.head, model, config.task, headed)


def foreign(config: RunConfig) -> bool:
    """Say whether the model comes from outside the lab: a file, a folder, the hub or an object, of any size."""
    from deca_lab.models.causal_lm import source_of

    return config.model.startswith(OBJECT) or bool(source_of(config.model))


def model_of(
    config: RunConfig, objects: Objects, texts: Texts, shapes_alone: bool = False
) -> "PreTrainedModel":
    """Return the model of a run; of `shapes_alone` none of its numbers is read or held."""
    from deca_lab.models.classifier import pad_of

    sizes = (len(texts.tokenizer), objects.model, texts.labels, pad_of(texts.tokenizer))
    return load_model(config, *sizes, shapes_alone=shapes_alone)


def load_model(
    config: RunConfig,
    vocabulary: int,
    given: nn.Module | None = None,
    labels: Sequence[str] = (),
    pad: int | None = None,
    shapes_alone: bool = False,
) -> "PreTrainedModel":
    """Return the model of the config, or a copy of the one `given`, with a base in 4 bits and adapters where asked for.

    With `labels` it is a classifier whose head trains, of texts that the id `pad` fills up. Of `shapes_alone` it is on
    device "meta".
    """
    from deca_lab.models import classifier, four_bit
    from deca_lab.models.checkpointing import checkpoint_
    from deca_lab.models.shapes import without_numbers

    adapt = pick(
        {"none": _all_of_it, "lora": _lora, "bottleneck": _bottleneck}, config.adapter, "adapter"
    )
    store = pick({"full": None, "nf4": four_bit.quantise_base}, config.base_weights, "base_weights")
    allowed = "full without an adapter: all of it trains"
    fits = adapt is not _all_of_it or store is None
    check(fits, "base_weights", config.base_weights, allowed)
    own = adapt is not _all_of_it and getattr(given, "peft_config", None)
    merged = "none: the model has adapters of its own; merge them first, model.merge_and_unload()"
    check(not own, "adapter", config.adapter, merged)
    of_object_alone = {"adapted": adapt is not _all_of_it}
    model: Any = _base(config, vocabulary, given, labels, pad, shapes_alone, of_object_alone)
    if shapes_alone:
        model = without_numbers(model)
    if config.gradient_checkpointing:
        checkpoint_(model)
    head = classifier.head_names(model) if labels else ()
    return adapt(config, model if store is None else store(model), head)


def _base(
    config: RunConfig,
    vocabulary: int,
    given: nn.Module | None,
    labels: Sequence[str],
    pad: int | None,
    shapes_alone: bool,
    of_object_alone: dict[str, Any],
) -> "PreTrainedModel":
    """Return the model without adapters, all of it as it is stored."""
    from deca_lab.models import causal_lm, classifier, own_model

    dtype, revision = pick(DTYPES, config.dtype, "dtype"), config.model_revision
    check(given is None or not revision, "model_revision", revision, "left empty beside model=")
    attention = pick(ATTENTIONS, config.attention, "attention")(config)
    sizes: dict[str, Any] = {"dtype": dtype, "vocabulary": vocabulary, "context": config.context}
    sizes |= {"attention": attention, **({"labels": labels, "pad": pad} if labels else {})}
    if given is not None:
        of_object = classifier.classifier_of if labels else own_model.model_of
        sizes |= {"over": engine_kind(config.engine).over, **of_object_alone}
        return of_object(given, **sizes)
    by_name = classifier.load if labels else causal_lm.load
    drawn: dict[str, Any] = {
        "seed": config.seed,
        "revision": revision,
        "shapes_alone": shapes_alone,
    }
    return by_name(config.model, **sizes, **drawn)


def _all_of_it(
    config: RunConfig, base: "PreTrainedModel", head: Sequence[str]
) -> "PreTrainedModel":
    return base


def _bottleneck(
    config: RunConfig, base: "PreTrainedModel", head: Sequence[str]
) -> "PreTrainedModel":
    from deca_lab.models import adapters

    return adapters.bottleneck(base, config.rank, config.seed, head=head)


def _lora(config: RunConfig, base: "PreTrainedModel", head: Sequence[str]) -> "PreTrainedModel":
    from deca_lab.models import adapters

    factors = config.rank, config.lora_alpha, config.targets, config.seed, config.frozen_factor
    return adapters.lora(base, *factors, head)
