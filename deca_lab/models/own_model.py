"""A model of your own, taken as an object: what is checked before it trains; its fingerprint."""

import copy
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from deca_lab.algorithm.gradients import Map
from deca_lab.errors import BadInput, check
from deca_lab.models.causal_lm import (
    DTYPES,
    check_context,
    from_transformers,
    logits_of,
    make_stackable_,
    trainable,
)
from deca_lab.models.pretrained import first_line

FUSED = (nn.TransformerEncoderLayer, nn.MultiheadAttention)  # with a kernel for eval mode alone
NOISE = 100  # rounding errors, relative to the largest logit, that may lie between equal results


def model_of(
    model: nn.Module,
    *,
    dtype: torch.dtype | None = None,
    vocabulary: int | None = None,
    context: int | None = None,
    attention: str = "eager",
    over: Map = torch.vmap,
) -> nn.Module:
    """Return a copy of a model that is ready for the lab, on the CPU; the model stays as it is.

    `model` is one of transformers, or any module whose forward takes token ids (B, T) and returns
    logits (B, T, V), as a tensor or as `.logits`. The copy is in eval mode with dropout 0, its
    weights in `dtype` (their own when None);
    `vocabulary` (token ids) and `context` (tokens) must fit; `attention` is for transformers. Two
    tokens and one whole context are tried, and clients as `over` maps them. Raises BadInput for a model that cannot train here.
    """
    check(isinstance(model, nn.Module), "model", model, "a torch.nn.Module, or the name of a model")
    check(dtype is None or dtype in DTYPES, "dtype", dtype, f"one of {', '.join(map(str, DTYPES))}")
    check(vocabulary is None or vocabulary >= 3, "vocabulary", vocabulary, "at least 3 tokens")
    _require_fixed_statistics(model)
    twin = _plain_copy(model, dtype, attention)
    _require_trainable(twin)
    check_context(twin, 1 if context is None else context)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        _try_out(twin, vocabulary, 2 if context is None else context, over)
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
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    out = _logits(model, tokens, vocabulary)
    _require(bool(out.isfinite().all()), "returns logits that are not finite")
    _require_unchanged(model, buffers)
    again = _logits(model, tokens, vocabulary)
    _require(torch.equal(out, again), "is random in eval mode: the same tokens must give the same")
    near = NOISE * torch.finfo(next(model.parameters()).dtype).eps * float(out.abs().max())
    alone = _logits(model, tokens[:1], vocabulary)
    _require(_differ(out[:1], alone) <= near, "mixes the rows of a batch: each must stand alone")
    ahead = _differ(out[0, 0], out[1, 0]) > near
    _require(not ahead, "looks ahead: logits may depend on the tokens up to their position alone")
    _logits(model, tokens[:1, :1].expand(1, context), vocabulary)
    stacked = _stacked(model, tokens, over)
    _require(_differ(stacked, out) <= near, "is another function under torch.vmap, which stacks it")


def _logits(model: nn.Module, tokens: Tensor, vocabulary: int | None) -> Tensor:
    """The model's logits of tokens (B, T), or BadInput where it returns something else."""
    rows, width = tokens.shape
    with _refused(f"cannot read token ids of shape ({rows}, {width}) up to {int(tokens.max())}"):
        given = model(tokens)
    out = getattr(given, "logits", given)
    got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
    fits = isinstance(out, Tensor) and out.is_floating_point() and out.shape[:-1] == tokens.shape
    wanted = f"logits of shape ({rows}, {width}, V), as a tensor or as .logits"
    check(fits, f"what the model returns of tokens ({rows}, {width})", got, wanted)
    most = out.shape[-1]
    check(
        most >= (vocabulary or 1), "vocabulary", vocabulary, f"at most {most}, the model's logits"
    )
    return logits_of(model)({}, tokens)


def _require_unchanged(model: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Refuse a forward that writes into a buffer: the state of all clients would be one."""
    for name, b in model.named_buffers():
        same = name in before and torch.equal(b, before[name])
        _require(same, f"changes its buffer {name!r} in a forward, even in eval mode: it must not")


def _stacked(model: nn.Module, tokens: Tensor, over: Map) -> Tensor:
    """The logits (2, B, T, V) of two clients that hold the model, mapped by torch.vmap or `over`."""
    logits = logits_of(model)
    twice = {name: p.expand(2, *p.shape) for name, p in trainable(model).items()}
    with _refused("cannot be stacked over clients (torch.vmap; --engine loop does not)"):
        return over(lambda params: logits(params, tokens))(twice)


def _differ(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@contextmanager
def _refused(what: str) -> Iterator[None]:
    """Turn whatever another's code raises into one line."""
    try:
        yield
    except Exception as error:
        raise BadInput(f"model {what}: {type(error).__name__}: {first_line(error)}") from error
