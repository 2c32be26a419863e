"""A model with a head of its own for labels: an encoder's or a decoder's sequence classifier.

As from `causal_lm.load`, models come in eval mode, without dropout and cache. A head that no
checkpoint holds is drawn from the seed, so that all clients start with the same one.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deca_lab.algorithm.gradients import Map
from deca_lab.errors import check, pick
from deca_lab.models import causal_lm
from deca_lab.models.causal_lm import anatomy, is_encoder, layer_of, logits_of, takes
from deca_lab.models.own_model import ready_copy, require_function, returned
from deca_lab.models.pretrained import Purpose

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

HEADS = {"classifier", "score", "pre_classifier", "pooler", "dense", "head", "sequence_summary"}
ClassLogits = Callable[[Mapping[str, Tensor], Tensor, Tensor], Tensor]
# (one client's parameters, tokens (B, T), mask (B, T)) -> (B, labels)


def load(
    name: str,
    labels: Sequence[str],
    *,
    pad: int | None = None,
    **options: Any,  # noqa: ANN401 - as of causal_lm.load
) -> "PreTrainedModel":
    """Return the sequence classifier that `name` means, with an output for each of the `labels`.

    `options` are those of `causal_lm.load`. The id of padding is that of the model's configuration,
    else `pad`, the tokenizer's. A head of a checkpoint is kept where it has as many outputs.
    Raises BadInput.
    """
    _require_labels(labels)
    examine = partial(_try_out, len(labels), options.get("vocabulary"), options.get("context"))
    configured = partial(_configured, labels, pad)
    auto = "AutoModelForSequenceClassification"
    purpose = Purpose("a sequence classifier", auto, configured, _in_head, examine)
    return causal_lm.load(name, purpose=purpose, **options)


def classifier_of(
    model: nn.Module,
    labels: Sequence[str],
    *,
    pad: int | None = None,
    dtype: torch.dtype | None = None,
    vocabulary: int | None = None,
    context: int | None = None,
    attention: str = "eager",
    over: Map = torch.vmap,
    adapted: bool = False,
) -> nn.Module:
    """Return a copy of a classifier that is ready for the lab, as `own_model.model_of` does.

    `model` is a sequence classifier of transformers, or any module whose forward takes token ids
    (B, T), and `attention_mask` (B, T) if it names one, and returns logits (B, labels), as a tensor
    or as `.logits`. Raises BadInput for a model that cannot train here.
    """
    _require_labels(labels)
    padding = _pad_of(getattr(model, "config", None), pad)
    twin = ready_copy(model, dtype, attention, adapted)
    if causal_lm.from_transformers(twin):
        _set_pad(twin.config, padding)
    causal_lm.check_context(twin, 1 if context is None else context)
    _try_out(len(labels), vocabulary, context, twin, over)
    return twin


def trains_head(head: str, model: str | nn.Module, task: str, headed: bool) -> bool:
    """Say whether a task is done by a head that trains, rather than in words.

    `headed` says whether the task can be. Raises BadInput for a `head`, a model and a task that do
    not fit one another.
    """
    pick({"auto": 0, "words": 0, "trained": 0}, head, "head")
    encodes = is_encoder(model)
    shown = model if isinstance(model, str) else type(model).__name__
    if not headed:
        check(head != "trained", "head", head, f"auto or words with --task {task}: no label there")
        whole = f"a causal LM with --task {task}: an encoder reads whole texts, for --task classify"
        check(not encodes, "model", shown, whole)
    encoder = f"auto or trained with the encoder {shown}: it writes no words"
    check(head != "words" or not encodes, "head", head, encoder)
    ready = type(model).__name__.endswith("ForSequenceClassification")
    return headed and (head == "trained" or (head == "auto" and (encodes or ready)))


def class_logits(model: nn.Module) -> ClassLogits:
    """Return logits(params, tokens (B, T), mask (B, T)) -> (B, labels), as `logits_of` does.

    `mask` is true where a token is no padding; a model that names no `attention_mask` is not given
    it.
    """
    read, masked = logits_of(model, padded=True), takes(model, "attention_mask")

    def logits(params: Mapping[str, Tensor], tokens: Tensor, mask: Tensor) -> Tensor:
        return read(params, tokens, **({"attention_mask": mask.long()} if masked else {}))

    return logits


def head_names(model: nn.Module) -> list[str]:
    """Return the names of the head's parameters: what trains in full beside adapters.

    In one of transformers they are those outside its base model, as in peft; in any other module
    those that belong neither to a numbered layer nor to the embeddings.
    """
    if not causal_lm.from_transformers(model):
        return [name for name, where in anatomy(model).items() if where == "head"]
    base = f"{model.base_model_prefix}."
    return [name for name, _ in model.named_parameters() if not name.startswith(base)]


def pad_of(which: Any, model: nn.Module | None = None) -> int:  # noqa: ANN401 - any tokenizer
    """Return the id that fills rows up: the model's own, else the tokenizer's, else its end, else 0."""
    own = (getattr(which, name, None) for name in ("pad_token_id", "eos_token_id"))
    return _pad_of(getattr(model, "config", None), next((i for i in own if i is not None), None))


def _pad_of(config: Any, pad: int | None) -> int:  # noqa: ANN401 - a configuration, or None
    """The configuration's id of padding where it is an id, else `pad`, else 0."""
    own = getattr(config, "pad_token_id", None)
    return int(own) if own is not None and own >= 0 else pad or 0


def _require_labels(labels: Sequence[str]) -> None:
    check(len(labels) >= 2, "labels", list(labels), "two or more, with a head that trains")


def _configured(
    labels: Sequence[str], pad: int | None, config: "PretrainedConfig"
) -> "PretrainedConfig":
    """A copy of a configuration with these labels and an id of padding."""
    made = deepcopy(config)
    made.id2label = dict(enumerate(labels))
    made.label2id = {label: i for i, label in enumerate(labels)}
    made.problem_type = "single_label_classification"
    _set_pad(made, _pad_of(config, pad))
    return made


def _set_pad(config: "PretrainedConfig", pad: int) -> None:
    """Write the id of padding, by which a decoder finds a row's last token."""
    for part in (config, config.get_text_config()):
        part.pad_token_id = pad


def _in_head(name: str) -> bool:
    """Whether a checkpoint may lack this weight: one of a head, or of the pooling before it."""
    first = name.split(".")[0]
    return layer_of(name) is None and (first in HEADS or ".pooler." in f".{name}")


def _try_out(
    labels: int,
    vocabulary: int | None,
    context: int | None,
    model: nn.Module,
    over: Map = torch.vmap,
) -> None:
    """Refuse what is no function of parameters from tokens (B, T) and mask to (B, labels)."""
    pad = pad_of(None, model)
    width, last = min(context or 3, 3), (vocabulary or 3) - 1
    real = last if last != pad else last - 1
    mask = torch.ones(2, width, dtype=torch.bool)
    mask[0, 1:] = False
    tokens = torch.where(mask, real, pad)
    read, masked = class_logits(model), takes(model, "attention_mask")
    cut = 1 if masked else width  # without a mask, padding is the model's own affair
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        _require_logits(model, tokens, mask, labels)
        alone = read({}, tokens[:1, :cut], mask[:1, :cut])
        require_function(model, read, (tokens, mask), alone, over)
        whole = tokens[:1, :1].expand(1, context or width)
        _require_logits(model, whole, torch.ones_like(whole), labels)


def _require_logits(model: nn.Module, tokens: Tensor, mask: Tensor, labels: int) -> None:
    """Refuse a model without a logit for each label."""
    inputs = {"attention_mask": mask.long()} if takes(model, "attention_mask") else {}
    returned(model, tokens, (len(tokens), labels), **inputs)
