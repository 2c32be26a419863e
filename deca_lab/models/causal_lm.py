"""Any causal language model, and what the lab needs of one.

Presets, directories and hub names become a model of transformers; a model, or any module from token ids to logits,
becomes named tensors, a loss that is a function of them, and an anatomy that says where each name sits. Names follow
`named_parameters`, so tied weights appear once.
"""

import copy
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from deca_lab.errors import BadInput, check, pick
from deca_lab.models import pretrained
from deca_lab.models.attention import fused
from deca_lab.models.hub import is_a
from deca_lab.models.masks import unseen
from deca_lab.models.pretrained import Purpose

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

BYTES = 259  # ByT5Tokenizer(extra_ids=0): pad 0, end 1, unknown 2, then the 256 bytes
POSITIONS = 512  # the longest context of a random preset
Model = TypeVar("Model", bound=nn.Module)
NOISE = 100  # rounding errors, relative to the largest logit, that may lie between equal results
# one client's parameters, tokens (B, T) -> (B, T, V); further inputs by name, such as a mask (B, T)
Logits = Callable[..., Tensor]
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
BASE = Path(__file__).with_name("base")


class Preset(NamedTuple):
    """One row of the model table: either a source of pretrained weights, or the shape of a seeded random model."""

    about: str
    source: str = ""  # directory or hub name
    family: str = ""  # transformers' model_type
    layers: int = 0
    width: int = 0
    tied: bool = True  # the head shares the token embedding's weights


PRESETS: dict[str, Preset] = {
    "base": Preset("the pretrained byte model that ships with the lab (Llama family)", str(BASE)),
    "tiny": Preset("GPT-2 family, 2 layers of width 64, random", "", "gpt2", 2, 64),
    "small": Preset("GPT-2 family, 4 layers of width 128, random", "", "gpt2", 4, 128),
    "medium": Preset("GPT-2 family, 8 layers of width 256, random", "", "gpt2", 8, 256),
    "llama-tiny": Preset("Llama family, 2 layers of width 64, random", "", "llama", 2, 64, False),
    "qwen2-tiny": Preset("Qwen2 family, 2 layers of width 64, random", "", "qwen2", 2, 64),
    "gpt2": Preset("OpenAI's GPT-2, 124 M parameters, from the hub", "openai-community/gpt2"),
}


def require_causal(model: nn.Module, vocabulary: int | None = None) -> None:
    """Raise BadInput where a later token changes an earlier logit, as it does in an encoder."""
    if is_encoder(model) or _looks_ahead(model, (vocabulary or 3) - 1):
        raise BadInput(
            "model looks ahead: logits may depend on the tokens up to their position alone; "
            "for an encoder take --task classify"
        )


@torch.no_grad()
def _looks_ahead(model: nn.Module, last: int) -> bool:
    """Whether the logits of the first of two tokens depend on the second, `last` or 0."""
    out = logits_of(model)({}, torch.tensor([[last, 0], [last, last]]))  # (2, 2, V)
    near = NOISE * torch.finfo(next(model.parameters()).dtype).eps * float(out.abs().max())
    return float((out[0, 0] - out[1, 0]).abs().max()) > near


CAUSAL = Purpose(
    "a causal LM", "AutoModelForCausalLM", lambda config: config, lambda name: False, require_causal
)


def load(
    name: str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    vocabulary: int | None = None,
    context: int | None = None,
    attention: str = "eager",
    revision: str = "",
    purpose: Purpose = CAUSAL,
    shapes_alone: bool = False,
) -> "PreTrainedModel":
    """Return the causal LM that `name` means, in eval mode, which turns every dropout off.

    A preset, a directory that holds safetensors or a GGUF file, such a file, or a hub name "owner/name" of which
    `revision` is a branch, tag or commit. The global random state is untouched. `seed` draws the weights of a random
    preset; `vocabulary` (token ids) is its size, or what a pretrained model must hold; `context` (tokens) must fit.
    `attention`: "eager", or "sdpa", torch's fused kernels (`models.attention`).
    In float64 the Llama and Qwen2 families still take norms, softmax and
    rotary angles in float32. `purpose` makes it another kind of model, whose weights that a checkpoint may lack are
    drawn from `seed` too. Of `shapes_alone` no weights are read: they are on device "meta", unless drawn. Raises BadInput.
    """
    least = "at least 3 tokens: pad, end and one more"
    check(vocabulary is None or vocabulary >= 3, "vocabulary", vocabulary, least)
    check(dtype in DTYPES, "dtype", dtype, f"one of {', '.join(map(str, DTYPES))}")
    preset = _preset(name)
    if preset.family:
        check(not revision, "model_revision", revision, f"left empty: {name!r} is no hub name")
        own: dict[str, Any] = {"seed": seed, "vocabulary": vocabulary or BYTES, "purpose": purpose}
        model = draw(preset, dtype=dtype, attention=attention, **own)
    else:
        with _drawing(seed):
            read = pretrained.outline if shapes_alone else pretrained.read
            model = read(preset.source, dtype, attention, revision, purpose)
    make_stackable_(model)
    _check_vocabulary(model, vocabulary)
    check_context(model, 1 if context is None else context)
    if not shapes_alone:
        purpose.examine(model)
    return model


@contextmanager
def _drawing(seed: int) -> Iterator[None]:
    """Let weights be drawn from a seed on the CPU; the generators of GPUs, which torch.manual_seed sets too, stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def draw(
    preset: Preset,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    attention: str = "eager",
    vocabulary: int = BYTES,
    purpose: Purpose = CAUSAL,
) -> "PreTrainedModel":
    """Return a random model of the preset's shape, drawn in float32 from its own random state, then cast."""
    with _drawing(seed):
        return pretrained.built(shape(preset, vocabulary), dtype, attention, purpose)


def shape(preset: Preset, vocabulary: int = BYTES, heads: int = 4) -> "PretrainedConfig":
    """Return the transformers configuration of a random preset; the gated families get 8/3 of the width inside.

    GPT-2's own activation, "gelu_new", is the same function in eight operations: a fifth slower on a CPU.
    """
    from transformers import AutoConfig

    own: dict[str, Any] = {"activation_function": "gelu_pytorch_tanh"}
    if preset.family != "gpt2":
        own = {"intermediate_size": -(-preset.width * 8 // 24) * 8, "num_key_value_heads": heads}
    sizes = {
        "hidden_size": preset.width,
        "num_hidden_layers": preset.layers,
        "vocab_size": vocabulary,
    }
    own |= {"num_attention_heads": heads, "max_position_embeddings": POSITIONS, **sizes}
    # The byte tokenizer has no token for a beginning: an end is one.
    ends = {"bos_token_id": 1, "eos_token_id": 1, "tie_word_embeddings": preset.tied}
    return AutoConfig.for_model(preset.family, **own, **ends)


def from_transformers(model: nn.Module) -> bool:
    """Say whether a model is one of transformers, with a configuration and a key-value cache."""
    return is_a(model, "transformers.modeling_utils", "PreTrainedModel")


def check_context(model: nn.Module, context: int) -> None:
    """Raise BadInput unless the model has positions for `context` tokens, as far as its configuration says."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if from_transformers(model) else None
    limit = getattr(text, "max_position_embeddings", None)
    check(context >= 1, "context", context, "at least 1 token")
    most = f"at most {limit} tokens, the model's longest context"
    check(limit is None or context <= limit, "context", context, most)


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """Return {name: tensor} of the parameters that require gradients, detached, sharing memory; tied weights once."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def client_loss(model: nn.Module) -> Callable[[Mapping[str, Tensor], Tensor], Tensor]:
    """Return loss(params, tokens (B, T+1)) -> mean next-token cross-entropy in nats, a 0-d tensor.

    `params` may hold some names only; all others are the model's own values, frozen, so that no graph is kept for
    them. Works under `torch.vmap` over stacked params and tokens. No attention mask: every row is a full context.
    """

    logits = logits_of(model)

    def loss(params: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
        out = logits(params, tokens[:, :-1]).flatten(0, 1)
        return nn.functional.cross_entropy(out, tokens[:, 1:].flatten())

    return loss


def logits_of(model: nn.Module, padded: bool = False) -> Logits:
    """Return logits(params, tokens (B, T)) -> (B, T, V), in float32 at least; `params` as in `client_loss`.

    Further inputs of the model, such as a mask (B, T), are given by name; with one, texts may be `padded`.
    """
    parameters, configs = dict(model.named_parameters()), _configs(model)
    masks = unseen(padded) if from_transformers(model) else nullcontext

    def logits(params: Mapping[str, Tensor], tokens: Tensor, **inputs: Tensor) -> Tensor:
        # Now, and not once for all: the model may have changed device.
        own = {name: p.detach() for name, p in parameters.items()}
        _check_names(params, own)
        with _batchable_attention(tokens.device), _plainly(configs, padded), masks():
            given = functional_call(model, {**own, **params}, (tokens,), inputs)
        out: Tensor = given if isinstance(given, Tensor) else given.logits
        return out.float() if out.dtype in (torch.float16, torch.bfloat16) else out

    return logits


def _configs(model: nn.Module) -> list[Any]:
    """The configurations of transformers inside a model, once each."""
    given: list[Any] = [getattr(part, "config", None) for part in model.modules()]
    whole = [c for c in given if hasattr(c, "get_text_config")]
    return list({id(c): c for c in (*whole, *(c.get_text_config() for c in whole))}.values())


@contextmanager
def _plainly(configs: Iterable[Any], padded: bool) -> Iterator[None]:
    """No key-value cache, and no pad token unless texts are `padded`: GPT-2 would look for it in the data.

    A configuration is the user's own, and is exported: it is put back.
    """
    plain = {"use_cache": False, **({} if padded else {"pad_token_id": None})}
    before = [(c, {k: getattr(c, k) for k in plain if hasattr(c, k)}) for c in configs]
    try:
        for config, known in before:
            for key in known:
                setattr(config, key, plain[key])
        yield
    finally:
        for config, known in before:
            for key, value in known.items():
                setattr(config, key, value)


def make_stackable_(model: nn.Module) -> None:
    """Put torch's own GELU in place of BLOOM's, the same function, which torch.vmap cannot stack."""
    for part in list(model.modules()):
        for name, child in part.named_children():
            if is_a(child, "transformers.models.bloom.modeling_bloom", "BloomGelu"):
                setattr(part, name, nn.GELU("tanh"))


def takes(model: nn.Module, argument: str) -> bool:
    """Say whether a model's forward names this argument."""
    return argument in inspect.signature(model.forward).parameters


def _batchable_attention(device: torch.device) -> AbstractContextManager[None]:
    """Torch's attention for all clients in one call, or, in a graph for a CPU, in plain operations, which it fuses itself."""
    if not torch.compiler.is_compiling():
        return fused()
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def layer_of(name: str) -> int | None:
    """Return the transformer layer that a parameter's name belongs to, or None: its first component that is a number.

    Holds for "transformer.h.3...", "model.layers.3...", "gpt_neox.layers.3...", "model.decoder.layers.3...".
    """
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def anatomy(model: nn.Module) -> dict[str, str | int]:
    """Return {name: layer number, or "embeddings", or "head"} for every trainable name.

    Token and position embeddings, and a head tied to them, are "embeddings"; the final norm goes with the head. In a
    module that does not say which its embeddings are, every nn.Embedding is one.
    """
    first = _embedding_ids(model)

    def place(name: str, p: Tensor) -> str | int:
        layer = layer_of(name)
        return layer if layer is not None else "embeddings" if id(p) in first else "head"

    return {name: place(name, p) for name, p in model.named_parameters() if p.requires_grad}


def still(model: nn.Module) -> list[str]:
    """Return the names of the parameters that do not train."""
    return [name for name, p in model.named_parameters() if not p.requires_grad]


def with_parameters(model: Model, params: Mapping[str, Tensor]) -> Model:
    """Return a deep copy of the model that holds `params` (cast to its dtype); tied weights stay tied.

    The `save_pretrained` of one of transformers writes what `AutoModelForCausalLM.from_pretrained` loads.
    """
    twin = copy.deepcopy(model)
    own = dict(twin.named_parameters())
    _check_names(params, own)
    with torch.no_grad():
        for name, value in params.items():
            got, wanted = tuple(value.shape), tuple(own[name].shape)
            check(got == wanted, f"the shape of {name}", got, f"{wanted}, the model's")
            own[name].copy_(value)
    return twin


def _preset(name: str) -> Preset:
    """The table's row, or a row for a directory or a hub name."""
    if name in PRESETS:
        return PRESETS[name]
    here = os.path.expanduser(name)
    if os.path.isdir(here):  # False too for a name that no file can have
        return Preset("a directory", source=here)
    if here.endswith(".gguf") and os.path.isfile(here):
        return Preset("a GGUF file", source=here)
    if os.path.isfile(here):
        raise BadInput(f"model {name!r} is a file: give its folder, or a file that ends in .gguf")
    pretrained.require_no_path(name, "model")
    if name.count("/") == 1 and all(name.split("/")):
        return Preset("a hub name", source=name)
    try:
        return pick(PRESETS, name, "model preset")
    except BadInput as error:
        others = "or a directory, or a hub name such as openai-community/gpt2"
        raise BadInput(f"{error}; {others}") from None


def is_encoder(model: str | nn.Module) -> bool:
    """Say whether a model, or what a name means, is one of transformers that reads whole texts, such as BERT.

    False too for what cannot be read: it is refused when it is loaded.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    config: Any = getattr(model, "config", None)
    if isinstance(model, str):
        config = _config_of(_preset(model))
    decodes = any(getattr(config, key, False) for key in ("is_decoder", "is_encoder_decoder"))
    return getattr(config, "model_type", None) in MASKED and not decodes


def source_of(name: str) -> str:
    """Return the directory or hub name that a model's name means; "" for random presets and the lab's own base."""
    source = _preset(name).source
    return "" if source == str(BASE) else source


def _config_of(preset: Preset) -> "PretrainedConfig | None":
    """The configuration of a preset, or None where it cannot be read."""
    return shape(preset) if preset.family else pretrained.config_of(preset.source)


def _embedding_ids(model: nn.Module) -> set[int]:
    """Identities of the parameters that act before the first layer, the head's own left out unless tied."""
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    if not hasattr(model, "get_input_embeddings"):
        return _ids(tables)
    named = {id(p) for name, p in model.named_parameters() if "embed" in name.lower()}
    tokens, head = _ids([model.get_input_embeddings()]), _ids([model.get_output_embeddings()])  # type: ignore[operator]
    return ((_ids(tables) | named) - head) | tokens


def _ids(modules: Iterable[nn.Module | None]) -> set[int]:
    """Identities of all parameters of the modules."""
    return {id(p) for module in modules if module is not None for p in module.parameters()}


def _check_names(params: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Every name given must be one of the model's (tied weights have one name only)."""
    strange = [name for name in params if name not in own]
    known = f"names of the model, such as {next(iter(own), '')}"
    check(not strange, "parameter names", ", ".join(strange[:3]), known)


def _check_vocabulary(model: "PreTrainedModel", vocabulary: int | None) -> None:
    """The model's embedding must hold every token id of the tokenizer."""
    rows = model.get_input_embeddings().weight.shape[0]
    most = f"at most {rows} tokens, what the model embeds"
    check((vocabulary or 1) <= rows, "vocabulary", vocabulary, most)
