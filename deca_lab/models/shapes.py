"""A model without its numbers, on torch's device "meta": what it would take can be seen before it is held."""

import copy
from typing import Any

import torch
from torch import nn


def without_numbers(model: nn.Module) -> nn.Module:
    """Return a copy on device "meta": every shape and dtype, no memory; tied weights stay tied."""
    # Deepcopy looks into the memo first, so that no tensor is copied; `.to("meta")` would untie the head.
    memo: dict[int, Any] = {
        id(p): nn.Parameter(_shape(p), p.requires_grad) for p in model.parameters()
    }
    memo.update({id(b): _shape(b) for b in model.buffers()})
    return copy.deepcopy(model, memo)


def _shape(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x, device="meta")
