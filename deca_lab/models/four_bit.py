"""4-bit NormalFloat (QLoRA, Dettmers et al., arXiv 2305.14314): a frozen weight as 16 levels and one scale a block.

Two codes to a byte and a float32 scale for `block` weights: 4 + 32 / block bits a weight. The scales are not
quantised again (no double quantisation).
"""

import copy
from collections.abc import Callable
from functools import lru_cache
from math import prod
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from deca_lab.errors import check
from deca_lab.models.causal_lm import layer_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def levels() -> list[float]:
    """Return the 16 levels in rising order, from -1 to 1 with an exact 0 (section 3 of the paper).

    Quantiles of N(0, 1) at evenly spaced probabilities, 7 below and 8 above zero, divided by the largest. The
    outermost probability halves the tail on either side: 1 - (1/30 + 1/32) / 2, as in the authors' code.
    """
    edge = 1 - (1 / 30 + 1 / 32) / 2
    above = [NormalDist().inv_cdf(p) for p in np.linspace(edge, 0.5, 9)[:-1]]
    below = [-NormalDist().inv_cdf(p) for p in np.linspace(edge, 0.5, 8)[:-1]]
    return [value / above[0] for value in sorted([*below, 0.0, *above])]


class Packed(NamedTuple):
    """A quantised tensor of n elements, row after row."""

    codes: Tensor  # (ceil(n / 2),) uint8, the first of two codes in the high half
    absmax: Tensor  # (ceil(n / block),) float32, each block's largest magnitude
    shape: tuple[int, ...]
    block: int


def quantise(weight: Tensor, block: int = 64) -> Packed:
    """Return the weight as nearest levels of its own blocks of `block` elements; a tie goes to the lower level.

    Raises BadInput for an empty or integer weight, and for one that is not finite in float32.
    """
    check(isinstance(block, int) and block >= 1, "block", block, "at least 1 weight to a scale")
    sound, shown = weight.is_floating_point() and weight.numel() > 0, tuple(weight.shape)
    check(sound, "weight", f"{shown} of {weight.dtype}", "a floating-point tensor with elements")
    # In half precision the quotient below could round across a border between two levels.
    flat = weight.detach().reshape(-1).float()
    finite = flat.is_meta or bool(flat.isfinite().all())  # shapes alone have no numbers to look at
    check(finite, "weight", "with values that are not finite", "finite in float32")
    rows = nn.functional.pad(flat, (0, -len(flat) % block)).view(-1, block)
    absmax = rows.abs().amax(1)
    unit = rows / absmax.where(absmax > 0, 1.0)[:, None]  # a block of zeros stays zeros
    codes = torch.bucketize(unit, _midpoints(weight.device)).to(torch.uint8).view(-1)[: len(flat)]
    high, low = nn.functional.pad(codes, (0, len(codes) % 2)).view(-1, 2).unbind(1)
    return Packed(high << 4 | low, absmax, tuple(weight.shape), block)


def dequantise(packed: Packed, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the tensor that the codes stand for, in `dtype`."""
    n = prod(packed.shape)
    # A table of whole bytes: one look-up gives two weights, without shifting bits in each pass.
    table = _bytes_to_levels(packed.codes.device)
    both = table.index_select(0, packed.codes.int())  # (ceil(n / 2), 2)
    flat, short = both.view(-1)[:n], -n % packed.block
    rows = (nn.functional.pad(flat, (0, short)) if short else flat).view(-1, packed.block)
    return (rows * packed.absmax.float()[:, None]).view(-1)[:n].view(packed.shape).to(dtype)


@lru_cache
def _midpoints(device: torch.device) -> Tensor:
    """The 15 borders between neighbouring levels."""
    table = torch.tensor(levels(), dtype=torch.float64)
    return ((table[1:] + table[:-1]) / 2).float().to(device)


@lru_cache
def _bytes_to_levels(device: torch.device) -> Tensor:
    """(256, 2): the two levels that each byte stands for."""
    table, byte = torch.tensor(levels()), torch.arange(256)
    return torch.stack([table[byte >> 4], table[byte & 15]], 1).to(device)


class _Product(torch.autograd.Function):
    """x W' with W unpacked anew in the backward pass: autograd keeps the codes, never the full weight."""

    # Clients are a vmap axis: torch derives its rule only where `forward` does not see ctx.
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, codes: Tensor, absmax: Tensor, shape: tuple[int, ...], block: int
    ) -> Tensor:
        """Return x (..., in) times the weight's transpose, (..., out)."""
        return nn.functional.linear(x, dequantise(Packed(codes, absmax, shape, block), x.dtype))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401 - torch's own object
        """Keep what the backward pass unpacks."""
        _, codes, absmax, ctx.shape, ctx.block = inputs
        ctx.save_for_backward(codes, absmax)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - torch's own object
        """Return the gradient of x; the weight is frozen."""
        codes, absmax = ctx.saved_tensors
        weight = dequantise(Packed(codes, absmax, ctx.shape, ctx.block), grads[0].dtype)
        return grads[0] @ weight, None, None, None, None


_product: Callable[[Tensor, Tensor, Tensor, tuple[int, ...], int], Tensor] = _Product.apply


class NF4Linear(nn.Module):
    """A frozen linear map y = x W' + bias with W (out, in) in 4 bits; nothing in it is a parameter.

    Made from nn.Linear or GPT-2's Conv1D, whose weight is stored the other way round.
    """

    def __init__(self, linear: nn.Module, block: int = 64) -> None:
        super().__init__()
        weight, bias = weight_of(linear), bias_of(linear)
        packed = quantise(weight, block)
        self.shape, self.block = packed.shape, packed.block
        self.transposed = is_conv1d(linear)
        self.dtype: torch.dtype = weight.dtype  # of the weight that it stands for
        self.codes: Tensor
        self.absmax: Tensor
        self.bias: Tensor | None
        self.register_buffer("codes", packed.codes)
        self.register_buffer("absmax", packed.absmax)
        self.register_buffer("bias", None if bias is None else bias.clone())

    @property
    def packed(self) -> Packed:
        """The weight as it is stored."""
        return Packed(self.codes, self.absmax, self.shape, self.block)

    def forward(self, x: Tensor) -> Tensor:
        """Return y (..., out) for x (..., in), in the dtype of x."""
        y: Tensor = _product(x, *self.packed)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        """What print(model) shows."""
        return f"in={self.shape[1]}, out={self.shape[0]}, bias={self.bias is not None}, block={self.block}"


def projections(model: nn.Module) -> dict[str, nn.Module]:
    """Return {name: module} of every linear map inside the transformer layers, in the model's order.

    nn.Linear, GPT-2's Conv1D and NF4Linear; embeddings and head are outside the layers. GPT-2's fused c_attn is one.
    """
    inside = {name: m for name, m in model.named_modules() if layer_of(name) is not None}
    kinds = (nn.Linear, NF4Linear)
    return {name: m for name, m in inside.items() if isinstance(m, kinds) or is_conv1d(m)}


def quantise_base(model: "PreTrainedModel", block: int = 64) -> "PreTrainedModel":
    """Return a copy whose transformer layers' linear maps are NF4Linear; embeddings, norms and head stay as they are.

    Raises BadInput where there is none to quantise.
    """
    names = [name for name, m in projections(model).items() if not isinstance(m, NF4Linear)]
    left = "one with linear maps in its layers that are not yet in 4 bits"
    check(bool(names), "model", type(model).__name__, left)
    twin = copy.deepcopy(model)
    for name in names:
        twin.set_submodule(name, NF4Linear(twin.get_submodule(name), block).train(model.training))
    return twin


def weight_of(module: nn.Module) -> Tensor:
    """Return the weight (out, in) of a linear map of any kind; that of an NF4Linear unpacked in its first dtype."""
    if isinstance(module, NF4Linear):
        return dequantise(module.packed, module.dtype)
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.detach().T if is_conv1d(module) else weight.detach()


def bias_of(module: nn.Module) -> Tensor | None:
    """Return the bias (out,) of a linear map of any kind, or None."""
    return module.bias.detach() if isinstance(module.bias, Tensor) else None


def shape_of(module: nn.Module) -> tuple[int, int]:
    """Return (out, in) of a linear map of any kind, without unpacking it."""
    rows, columns = module.shape if isinstance(module, NF4Linear) else weight_of(module).shape
    return rows, columns


def plain(module: nn.Module, weight: Tensor) -> nn.Module:
    """Return an ordinary nn.Linear or Conv1D in place of any linear map, with `weight` (out, in) and the map's bias."""
    from transformers.pytorch_utils import Conv1D

    bias = bias_of(module)
    conv1d = module.transposed if isinstance(module, NF4Linear) else is_conv1d(module)
    with torch.device("meta"):  # shapes only: no values drawn
        out, inner = weight.shape
        fresh = Conv1D(out, inner) if conv1d else nn.Linear(inner, out, bias is not None)
    fresh.weight = nn.Parameter((weight.T if conv1d else weight).contiguous())
    fresh.bias = None if bias is None else nn.Parameter(bias.clone())
    return fresh.train(module.training)


class Stored(NamedTuple):
    """Bytes that one copy of a model really holds."""

    packed: int  # 4-bit codes and their scales
    frozen: int  # every other buffer, and parameters that do not train
    trainable: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


def stored_bytes(model: nn.Module) -> Stored:
    """Return the bytes of the model's parameters and buffers, tied ones once."""
    quantised = [m for m in model.modules() if isinstance(m, NF4Linear)]
    small = {id(t) for m in quantised for t in (m.codes, m.absmax)}
    tensors = [*model.parameters(), *model.buffers()]
    sizes = [(t, t.numel() * t.element_size()) for t in tensors]
    packed = sum(size for t, size in sizes if id(t) in small)
    trainable = sum(size for t, size in sizes if t.requires_grad)
    return Stored(packed, sum(size for _, size in sizes) - packed - trainable, trainable)


def is_conv1d(module: nn.Module) -> bool:
    """Whether this is GPT-2's linear map, with a weight (in, out)."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)
