"""Gradient checkpointing: a layer keeps its input alone, and is computed again when its gradient is."""

from torch import nn

from deca_lab.errors import check
from deca_lab.models.causal_lm import from_transformers


def checkpoint_(model: nn.Module) -> None:
    """Switch checkpointing on in a model of transformers, which stays in eval mode; raise BadInput for any other."""
    given = type(model).__name__
    able = from_transformers(model) and bool(getattr(model, "supports_gradient_checkpointing", 0))
    check(able, "gradient_checkpointing", given, "off with a model that does not offer it")
    enable = getattr(model, "activation_checkpointing_enable", None)  # its name of late
    enable = enable or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})  # type: ignore[operator]
    for part in model.modules():
        if getattr(part, "gradient_checkpointing", False):
            _train_alone_(part)


def _train_alone_(layer: nn.Module) -> None:
    """Let one module think that it trains, which is when it checkpoints, but not the dropout in it."""
    layer.training = True
    for name, value in vars(layer).items():
        if "drop" in name and isinstance(value, float):
            setattr(layer, name, 0.0)
