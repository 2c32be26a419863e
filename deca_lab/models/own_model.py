"""A model of your own, taken as an object: what is checked before it trains; its fingerprint."""

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy

from deca_lab.algorithm.gradients import Map
from deca_lab.algorithm.stacking import writes
from deca_lab.errors import BadInput, check, first_line
from deca_lab.models.causal_lm import (
    DTYPES,
    NOISE,
    check_context,
    from_transformers,
    logits_of,
    make_stackable_,
    require_causal,
    trainable,
)

UNHEEDED = "torch.vmap does not run it, so take it off, or put it into the forward"
FUSED = (nn.TransformerEncoderLayer, nn.MultiheadAttention)  # with a kernel for eval mode alone


def model_of(
    model: nn.Module,
    *,
    dtype: torch.dtype | None = None,
    vocabulary: int | None = None,
    context: int | None = None,
    attention: str = "eager",
    over: Map = torch.vmap,
    adapted: bool = False,
) -> nn.Module:
    """Return a copy of a model that is ready for the lab, on the CPU; the model stays as it is.

    `model` is one of transformers, or any module whose forward takes token ids (B, T) and returns
    logits (B, T, V), as a tensor or as `.logits`. The copy is in eval mode with dropout 0, its
    weights in `dtype` (their own when None);
    `vocabulary` (token ids) and `context` (tokens) must fit; `attention` is for transformers. Two
    tokens and one whole context are tried, and clients as `over` maps them. Where it will be `adapted`, all of it may be
    frozen. Raises BadInput for a model that cannot train here.
    """
    check(vocabulary is None or vocabulary >= 3, "vocabulary", vocabulary, "at least 3 tokens")
    twin = ready_copy(model, dtype, attention, adapted)
    check_context(twin, 1 if context is None else context)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        _try_out(twin, vocabulary, 2 if context is None else context, over)
    return twin


def ready_copy(
    model: nn.Module, dtype: torch.dtype | None, attention: str, adapted: bool = False
) -> nn.Module:
    """Return a copy on the CPU, in eval mode, without dropout; BadInput where it has nothing to train.

    A wholly frozen model is what adapters are put on: where it will be `adapted`, the copy is not frozen.
    """
    check(isinstance(model, nn.Module), "model", model, "a torch.nn.Module, or the name of a model")
    check(dtype is None or dtype in DTYPES, "dtype", dtype, f"one of {', '.join(map(str, DTYPES))}")
    require_plain(model)
    twin = _plain_copy(model, dtype, attention)
    if adapted and not trainable(twin):
        for p in twin.parameters():
            p.requires_grad_(p.is_floating_point())
    _require_trainable(twin)
    return twin


def fingerprint_of(model: nn.Module) -> str:
    """Return a SHA-256, in hex, over the class's name and each tensor's name, shape, dtype, bytes.

    Parameters and buffers are read; what is no tensor, such as a number of heads, is not.
    """
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        digest.update(f"\n{name} {tuple(value.shape)} {value.dtype}\n".encode())
        raw = value.detach().cpu().contiguous().reshape(-1)
        digest.update(raw.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _require(ok: bool, words: str) -> None:
    """Raise BadInput unless `ok`: the words go on after "model"."""
    if not ok:
        raise BadInput(f"model {words}")


def require_plain(model: nn.Module) -> None:
    """Raise BadInput for a model that the lab's own calls would not train as its owner does."""
    parallel = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
    _require(not parallel, "is wrapped for several devices: give its .module")
    compiled = hasattr(model, "_orig_mod")
    _require(not compiled, "is compiled: give model._orig_mod, and --engine compiled compiles it")
    for name, p in model.named_parameters():
        empty = is_lazy(p) or p.is_meta
        _require(not empty, f"has no numbers in {name!r}: load its weights, or call it once")
        _require(not p.is_complex(), f"has complex numbers in {name!r}: real ones train here")
        hooked = bool(p._backward_hooks)
        _require(not hooked, f"has a hook on the gradient of {name!r}: {UNHEEDED}")
    for name, part in model.named_modules():
        hooked = bool(part._backward_hooks or part._backward_pre_hooks)
        _require(not hooked, f"has a backward hook, on {name!r}: {UNHEEDED}")
        limited = getattr(part, "max_norm", None) is not None
        _require(not limited, f"has an embedding, {name!r}, whose max_norm changes it in a forward")
    _require_fixed_statistics(model)


def _require_fixed_statistics(model: nn.Module) -> None:
    """Refuse batch norms that would read the statistics of a batch."""
    for name, part in model.named_modules():
        live = isinstance(part, _BatchNorm) and (part.training or part.running_mean is None)
        cure = "call its eval() to keep the statistics that it has, or take a layer norm"
        _require(not live, f"has a batch norm, {name!r}, that mixes the rows of a batch: {cure}")


def _plain_copy(model: nn.Module, dtype: torch.dtype | None, attention: str) -> nn.Module:
    """A copy on the CPU, without dropout, in operations that torch.vmap can stack."""
    with _refused("cannot be copied"):
        twin = copy.deepcopy(model).cpu().eval()
        if from_transformers(twin):
            twin.set_attn_implementation(attention)  # type: ignore[operator]
    _cast_(twin, dtype)
    make_stackable_(twin)
    for part in twin.modules():
        _make_plain_part_(part)
    return twin


def _cast_(model: nn.Module, dtype: torch.dtype | None) -> None:
    """Bring the weights to a dtype; the buffers of transformers, rotary angles, stay in float32."""
    if dtype is None:
        return
    if not from_transformers(model):
        model.to(dtype)
        return
    for p in model.parameters():
        p.data = p.data.to(dtype) if p.is_floating_point() else p.data


def _make_plain_part_(part: nn.Module) -> None:
    if isinstance(part, _DropoutNd):
        part.p = 0.0
    if isinstance(part, nn.MultiheadAttention):
        part.dropout = 0.0
    if isinstance(part, nn.Embedding | nn.EmbeddingBag):
        part.sparse = False  # the same gradient, in the form that all others have
    if isinstance(part, FUSED):
        part.training = True  # without dropout the same function, in operations that can be stacked


def _require_trainable(model: nn.Module) -> None:
    """Refuse a model without trainable parameters, or with several dtypes among them."""
    dtypes = {p.dtype for p in trainable(model).values()}
    _require(bool(dtypes), "has no parameter that requires gradients: there is nothing to train")
    known = len(dtypes) == 1 and dtypes <= set(DTYPES)
    allowed = f"one of {', '.join(map(str, DTYPES))} for all: give a dtype"
    check(known, "dtype of the model's parameters", ", ".join(sorted(map(str, dtypes))), allowed)


def _try_out(model: nn.Module, vocabulary: int | None, context: int, over: Map) -> None:
    """Refuse what is no function of parameters from tokens (B, T) to logits (B, T, V)."""
    last = (vocabulary or 3) - 1
    tokens = torch.tensor([[last, 0], [last, last]])
    _logits(model, tokens, vocabulary)
    read = logits_of(model)
    require_function(model, read, (tokens,), read({}, tokens[:1]), over)
    require_causal(model, vocabulary)
    _logits(model, tokens[:1, :1].expand(1, context), vocabulary)


def require_function(
    model: nn.Module,
    read: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    alone: Tensor,
    over: Map = torch.vmap,
) -> None:
    """Raise BadInput unless a model's logits, `read(params, *inputs)`, are fixed, finite and stack.

    `alone` (1, ...) are the logits of the first of the rows by itself: they must be the same.
    """
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    out = read({}, *inputs)
    _require(bool(out.isfinite().all()), "returns logits that are not finite")
    _require_unchanged(model, buffers)
    _require(
        torch.equal(out, read({}, *inputs)),
        "is random in eval mode: the same tokens must give the same",
    )
    near = NOISE * torch.finfo(next(model.parameters()).dtype).eps * float(out.abs().max())
    _require(_differ(out[:1], alone) <= near, "mixes the rows of a batch: each must stand alone")
    twice = {name: p.expand(2, *p.shape) for name, p in trainable(model).items()}
    with _refused("cannot be stacked over clients (torch.vmap; --engine loop does not)"):
        stacked = over(read)(twice, *(each.expand(2, *each.shape) for each in inputs))
    _require(_differ(stacked, out) <= near, "is another function under torch.vmap, which stacks it")
    _require_gradients(model, read, inputs)


@torch.enable_grad()
def _require_gradients(
    model: nn.Module, read: Callable[..., Tensor], inputs: tuple[Tensor, ...]
) -> None:
    """Refuse logits that no gradient goes back from, as those of a forward under no_grad."""
    leaves = {name: p.detach().requires_grad_() for name, p in trainable(model).items()}
    back = read(leaves, *inputs).requires_grad
    _require(
        back, "returns logits without a gradient: its forward detaches them, or is under no_grad"
    )


def returned(
    model: nn.Module, tokens: Tensor, wanted: Sequence[int | str], **inputs: Tensor
) -> Tensor:
    """Return the model's own logits of tokens (B, T); BadInput unless of the `wanted` shape.

    A letter in `wanted` stands for any size.
    """
    (rows, width), before = tokens.shape, writes([tokens])
    with _refused(f"cannot read token ids of shape ({rows}, {width}) up to {int(tokens.max())}"):
        given = model(tokens, **inputs)
    changed = writes([tokens]) != before
    _require(not changed, "writes into the token ids, which are the targets too: clone them first")
    out = getattr(given, "logits", given)
    got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
    fits = isinstance(out, Tensor) and out.is_floating_point() and len(out.shape) == len(wanted)
    fits = fits and all(
        isinstance(w, str) or g == w for g, w in zip(out.shape, wanted, strict=True)
    )
    words = f"logits of shape ({', '.join(map(str, wanted))}), as a tensor or as .logits"
    check(fits, f"what the model returns of tokens ({rows}, {width})", got, words)
    logits: Tensor = out
    return logits


def _logits(model: nn.Module, tokens: Tensor, vocabulary: int | None) -> None:
    """Raise BadInput unless the model has logits of tokens (B, T) for the whole vocabulary."""
    most = returned(model, tokens, (*tokens.shape, "V")).shape[-1]
    fits, allowed = most >= (vocabulary or 1), f"at most {most}, the model's logits"
    check(fits, "vocabulary", vocabulary, allowed)


def _require_unchanged(model: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Refuse a forward that writes into a buffer: the state of all clients would be one."""
    for name, b in model.named_buffers():
        same = name in before and torch.equal(b, before[name])
        _require(same, f"changes its buffer {name!r} in a forward, even in eval mode: it must not")


def _differ(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@contextmanager
def _refused(what: str) -> Iterator[None]:
    """Turn whatever another's code raises into one line."""
    try:
        yield
    except Exception as error:
        raise BadInput(f"model {what}: {type(error).__name__}: {first_line(error)}") from error
