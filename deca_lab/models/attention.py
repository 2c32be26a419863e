"""Torch's fused attention for stacked clients: they become a part of the batch, for its kernels know no vmap.

Nothing of size T x T is held, where attention in plain operations keeps every head's for the way back.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Attention = Callable[..., Tensor]  # as torch's scaled_dot_product_attention
USUAL: Attention = nn.functional.scaled_dot_product_attention
# Where no fused kernel knows heads that share keys, by device and bytes of a number: torch would hold T x T for the way back.
APART = {("cuda", 4), ("cuda", 8)}


@contextmanager
def fused() -> Iterator[None]:
    """Let every call of torch's attention inside be one call for all clients that `torch.vmap` stacks."""
    place: Any = nn.functional
    before = place.scaled_dot_product_attention
    place.scaled_dot_product_attention = attend
    try:
        yield
    finally:
        place.scaled_dot_product_attention = before


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,  # noqa: ANN401 - torch's own: scale, enable_gqa
) -> Tensor:
    """Return what torch's scaled_dot_product_attention does of (..., T, d) tensors, also under `torch.vmap`."""
    given = (query, key, value, attn_mask)
    if dropout_p == 0 and any(map(_stacked, given)):
        out: Tensor = _Folded.apply(*given, is_causal, options)  # type: ignore[no-untyped-call]
        return out
    if options.get("enable_gqa") and (query.device.type, query.itemsize) in APART:
        shared = query.shape[-3] // key.shape[-3]
        key, value = (t.repeat_interleave(shared, -3) for t in (key, value))
        options = {**options, "enable_gqa": False}
    if query.is_meta and query.dim() == 4:
        return _shapes(query, key, value, attn_mask, is_causal)
    return USUAL(query, key, value, attn_mask, dropout_p, is_causal, **options)


def _stacked(t: Tensor | None) -> bool:
    return t is not None and bool(torch._C._functorch.is_batchedtensor(t))


def _shapes(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool
) -> Tensor:
    """Do on shapes alone what the kernel does on numbers: of them torch would take the plain operations."""
    shared = query.shape[1] // key.shape[1]  # heads of a query that share a key
    key, value = (t.repeat_interleave(shared, 1) if shared > 1 else t for t in (key, value))
    mask = mask if mask is None else mask.to(query.dtype)
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out: Tensor = kernel(query, key, value, 0.0, is_causal, attn_mask=mask)[0]
    return out


class _Folded(torch.autograd.Function):
    """One call for all clients. Only its rule for vmap is used, and torch differentiates what that calls."""

    @staticmethod
    def forward(*given: Any) -> Tensor:  # noqa: ANN401 - as `attend` passes them on
        """Stand here because torch asks for it."""
        raise AssertionError

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
        """Stand here because torch asks for it."""

    @staticmethod
    def vmap(
        info: Any,  # noqa: ANN401 - torch's own: how many clients there are
        in_dims: tuple[int | None, ...],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        is_causal: bool,
        options: dict[str, Any],
    ) -> tuple[Tensor, int]:
        """Return the attention of all clients, on axis 0, by one call."""
        n, (*dims, of_mask) = info.batch_size, in_dims[:4]
        parts = [_first(t, d, n) for t, d in zip((query, key, value), dims, strict=True)]
        q, k, v = (t.flatten(0, 1) if t.dim() > 3 else t for t in parts)
        out = attend(q, k, v, _mask(mask, of_mask, parts[0]), 0.0, is_causal, **options)
        return (torch.unflatten(out, 0, (n, -1)) if parts[0].dim() > 3 else out), 0


def _mask(mask: Tensor | None, dim: int | None, query: Tensor) -> Tensor | None:
    """Return a mask of all rows of the clients' query (N, ..., T, d): with as many, or one that all of them share."""
    if mask is None or (dim is None and (mask.dim() < query.dim() - 1 or len(mask) == 1)):
        return mask
    own = _first(mask, dim, len(query))
    own = own[(slice(None), *[None] * (query.dim() - own.dim()))]  # torch, too, adds axes in front
    if query.dim() == 3:
        return own
    return own.expand(-1, query.shape[1], *own.shape[2:]).flatten(0, 1)


def _first(t: Tensor, dim: int | None, n: int) -> Tensor:
    """Return a tensor with the clients on axis 0: they are on axis `dim`, or all share it."""
    return t.expand(n, *t.shape) if dim is None else t.movedim(dim, 0)
