"""Adapters on a frozen base: LoRA's factors and bottlenecks, as names that train inside any transformers causal LM.

The base is held once by the model; clients differ in the adapters' names alone, which `causal_lm.trainable` lists.
"""

import copy
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from deca_lab.errors import check, pick
from deca_lab.models.causal_lm import layer_of, with_parameters
from deca_lab.models.four_bit import NF4Linear, is_conv1d, plain, projections, shape_of, weight_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LoRA(nn.Module):
    """y = base(x) + (alpha / r) x A' B': a frozen linear map plus one of rank r (LoRA, Hu et al., arXiv 2106.09685).

    `lora_A` (r, in) is Kaiming-uniform, |a| < 1 / sqrt(in), and `lora_B` (out, r) zero, so that the start changes
    nothing; both as in peft. The base may be nn.Linear, GPT-2's Conv1D or NF4Linear.
    """

    def __init__(self, base: nn.Module, rank: int, alpha: float, rng: np.random.Generator) -> None:
        super().__init__()
        (out, inner), like = shape_of(base), _like(base)
        bound = inner**-0.5
        self.base = base
        self.scale = alpha / rank
        drawn = torch.from_numpy(rng.uniform(-bound, bound, (rank, inner)))
        self.lora_A = nn.Parameter(drawn.to(like))
        self.lora_B = nn.Parameter(like.new_zeros(out, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Return y (..., out) for x (..., in)."""
        low = nn.functional.linear(x, self.lora_A)  # (..., r)
        y: Tensor = self.base(x) + nn.functional.linear(low, self.lora_B) * self.scale
        return y


class Bottleneck(nn.Module):
    """y + up(act(down(y))) for y = base(x), the base frozen (Houlsby et al., arXiv 1902.00751, without its own norm).

    `down` (width, out) is drawn with |weight| < 1 / sqrt(out) and `up` (out, width) is zero, biases too, so that the
    start changes nothing.
    """

    def __init__(
        self,
        base: nn.Module,
        width: int,
        activation: Callable[[Tensor], Tensor],
        rng: np.random.Generator,
    ) -> None:
        super().__init__()
        (out, _), like = shape_of(base), _like(base)
        bound = out**-0.5
        self.base = base
        self.activation = activation
        self.down = _affine(torch.from_numpy(rng.uniform(-bound, bound, (width, out))).to(like))
        self.up = _affine(like.new_zeros(out, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) for x (..., in)."""
        y: Tensor = self.base(x)
        added: Tensor = self.up(self.activation(self.down(y)))
        return y + added


Activation = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Activation] = {"gelu": nn.functional.gelu, "relu": nn.functional.relu}
FACTORS = ("lora_A", "lora_B")
# A frozen B would stay zero, and A with it.
FREEZES: dict[str, tuple[str, ...]] = {"none": (), "A": ("lora_A",)}

Names = Sequence[str]
FIRST_OF_ATTENTION = {
    *("q_proj", "v_proj", "query", "value", "q_lin", "v_lin", "query_proj", "value_proj"),
    *("c_attn", "query_key_value", "qkv_proj", "Wqkv"),
}


def query_value(names: Names) -> list[str]:
    """Query and value projections, or the one that is fused with them, as peft's defaults."""
    return [name for name in names if name.rpartition(".")[2] in FIRST_OF_ATTENTION]


def attention(names: Names) -> list[str]:
    """Every linear map of the attention."""
    last = _last_parts(names)
    return [name for name in names if _part(name) not in last]


def mlp(names: Names) -> list[str]:
    """Every linear map of the layers' last part, the MLP."""
    last = _last_parts(names)
    return [name for name in names if _part(name) in last]


SHORTCUTS: dict[str, Callable[[Names], list[str]]] = {
    "query-value": query_value,
    "attention": attention,
    "mlp": mlp,
    "all-linear": list,  # of the layers; not embeddings and head
}
PLACES: dict[str, Callable[[Names], list[str]]] = {"both": list, "mlp": mlp}


def lora(
    model: "PreTrainedModel",
    rank: int = 8,
    alpha: float = 16.0,
    targets: str = "query-value",
    seed: int = 0,
    freeze: str = "none",
    head: Names = (),
) -> "PreTrainedModel":
    """Return a copy of the model in which only LoRA's factors on the target modules train; the argument is untouched.

    So do the parameters named in `head`, in full, as what peft calls modules_to_save.

    `targets`: comma-separated endings of module names ("q_proj,v_proj", "attn.c_proj") or names of SHORTCUTS. GPT-2's
    fused c_attn (query, key and value) is one target with one pair of factors. `freeze="A"` keeps every A at its start,
    common to all clients (DLoRA-FA). A module's start depends on the seed and its place in the model, not on the other
    targets. Raises BadInput.
    """
    names = targets_of(model, targets)
    smallest, where = min((min(shape_of(model.get_submodule(name))), name) for name in names)
    fits = isinstance(rank, int) and 1 <= rank <= smallest
    check(fits, "rank", rank, f"1 to {smallest}, the smaller dimension of {where}")
    check(0 < alpha < float("inf"), "alpha", alpha, "a positive number")
    fixed = pick(FREEZES, freeze, "factor to freeze")
    twin = _wrapped(model, names, lambda base, rng: LoRA(base, rank, alpha, rng), seed, head)
    for name, p in twin.named_parameters():
        p.requires_grad_(p.requires_grad and not name.endswith(fixed))
    return twin


def bottleneck(
    model: "PreTrainedModel",
    width: int = 8,
    seed: int = 0,
    places: str = "both",
    activation: str = "gelu",
    head: Names = (),
) -> "PreTrainedModel":
    """Return a copy in which only bottleneck adapters of `width`, and the `head`, train; the argument is untouched.

    They follow the output projections of attention and MLP, before the residual sum, as in Houlsby et al.; with
    `places="mlp"` those of the MLP only. What DECA's baseline "Dec-Adapter" does is not published. Raises BadInput.
    """
    allowed = pick(PLACES, places, "place")(_names(model))
    names = [name for name in _outputs(_names(model)) if name in allowed]
    smallest = min(shape_of(model.get_submodule(name))[0] for name in names)
    fits = isinstance(width, int) and 1 <= width <= smallest
    check(fits, "width", width, f"1 to {smallest}, the model's own width")
    act = pick(ACTIVATIONS, activation, "activation")
    return _wrapped(model, names, lambda base, rng: Bottleneck(base, width, act, rng), seed, head)


def targets_of(model: "PreTrainedModel", targets: str) -> list[str]:
    """Return the full names of the modules that `targets` means, in the model's order; BadInput for an unknown one."""
    names, given = _names(model), list(filter(None, map(str.strip, targets.split(","))))
    check(bool(given), "targets", targets, "module-name endings, separated by commas")
    wanted = {name for target in given for name in _meant(names, target)}
    return [name for name in names if name in wanted]


def merge(model: "PreTrainedModel", params: Mapping[str, Tensor]) -> "PreTrainedModel":
    """Return a plain transformers model with one client's factors `params` folded into the weights: W + (alpha/r) B A.

    4-bit weights come back in their first dtype, with the levels that they were rounded to, so that the logits stay the
    adapted model's. Raises BadInput for bottlenecks, which are not linear.
    """
    bent, only = _modules_of(model, Bottleneck), "one with LoRA's factors only: they are linear"
    check(not bent, "model", "one with bottleneck adapters", only)
    twin = with_parameters(model, params)
    for name, module in _modules_of(twin, LoRA).items():
        twin.set_submodule(name, _folded(module))
    for name, module in _modules_of(twin, NF4Linear).items():
        twin.set_submodule(name, plain(module, weight_of(module)))
    return twin.requires_grad_(True)


def save_peft(model: nn.Module, base: str, out: Path, head: Names = ()) -> None:
    """Write the LoRA factors that the model holds, and the parameters `head`, as a PEFT adapter of the model that `base` names.

    The folder `out` gets adapter_config.json and adapter_model.safetensors.
    """
    from safetensors.torch import save_file

    wrapped = _modules_of(model, LoRA)
    one = next(iter(wrapped.values()))
    assert isinstance(one, LoRA)
    rank = len(one.lora_A)
    config = {
        **{"peft_type": "LORA", "base_model_name_or_path": base},
        **{"task_type": "SEQ_CLS" if head else "CAUSAL_LM"},
        "modules_to_save": sorted({name.rpartition(".")[0] for name in head}) or None,
        **{"inference_mode": True, "lora_dropout": 0.0, "bias": "none"},
        **{"r": rank, "lora_alpha": one.scale * rank, "target_modules": list(wrapped)},
        "fan_in_fan_out": is_conv1d(one.base),
    }
    names = {n: n if n in head else f"{n}.weight" for n, _ in model.named_parameters()}
    written = {n: p for n, p in model.named_parameters() if n in head or n.endswith(FACTORS)}
    named = {f"base_model.model.{names[n]}": p.detach().cpu() for n, p in written.items()}
    save_file(named, out / "adapter_model.safetensors", metadata={"format": "pt"})
    (out / "adapter_config.json").write_text(json.dumps(config, indent=1))


def _folded(module: nn.Module) -> nn.Module:
    """One LoRA module as the plain linear map that it computes."""
    assert isinstance(module, LoRA)
    weight = weight_of(module.base)
    digits = torch.promote_types(weight.dtype, torch.float32)
    delta = module.scale * (module.lora_B.detach().to(digits) @ module.lora_A.detach().to(digits))
    return plain(module.base, (weight.to(digits) + delta).to(weight.dtype))


def _wrapped(
    model: "PreTrainedModel",
    names: Names,
    wrap: Callable[[nn.Module, np.random.Generator], nn.Module],
    seed: int,
    head: Names,
) -> "PreTrainedModel":
    """A frozen copy with the named modules wrapped, each with its own generator; the head trains."""
    check(isinstance(seed, int) and seed >= 0, "seed", seed, "a whole number, 0 or more")
    places = {name: k for k, name in enumerate(_names(model))}
    twin = copy.deepcopy(model)
    for name, p in twin.named_parameters():
        p.requires_grad_(p.requires_grad and name in head)
    for name in names:
        rng = np.random.default_rng([seed, places[name], 0x10A])
        twin.set_submodule(name, wrap(twin.get_submodule(name), rng).train(model.training))
    return twin


def _names(model: "PreTrainedModel") -> list[str]:
    """Names of the linear maps that can be adapted, in the model's order."""
    adapted = bool(_modules_of(model, LoRA) or _modules_of(model, Bottleneck))
    check(not adapted, "model", "one that holds adapters already", "without any")
    names = list(projections(model))
    check(bool(names), "model", type(model).__name__, "one with linear maps inside numbered layers")
    return names


def _meant(names: Names, target: str) -> list[str]:
    """The names that one shortcut or ending means."""
    ending = [name for name in names if f".{name}".endswith(f".{target}")]
    matching = SHORTCUTS[target](names) if target in SHORTCUTS else ending
    if not matching:
        endings = [name.rpartition(".")[2] for name in names]
        shortcuts = [shortcut for shortcut, choose in SHORTCUTS.items() if choose(names)]
        # Raises: the target is in neither.
        pick(dict.fromkeys([*endings, *shortcuts]), target, "target module")
    return matching


def _part(name: str) -> str:
    """The attention or the MLP that holds a linear map; BERT's have parts of their own."""
    inside = re.match(r"(.*?\.\d+\.\w*att\w*)\.", name, re.IGNORECASE)
    return inside[1] if inside else re.sub(r"(\.intermediate|\.output)?\.\w+$", "", name)


def _last_parts(names: Names) -> set[str]:
    """Of every layer the part that comes last, its MLP."""
    return set({layer_of(name): _part(name) for name in names}.values())


def _outputs(names: Names) -> list[str]:
    """Of every part the linear map that comes last: its output projection."""
    return list({_part(name): name for name in names}.values())


def _modules_of(model: nn.Module, kind: type[nn.Module]) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if isinstance(m, kind)}


def _like(base: nn.Module) -> Tensor:
    """An empty tensor on the device and in the dtype that an adapter of this base has."""
    if isinstance(base, NF4Linear):
        return torch.empty(0, dtype=base.dtype, device=base.codes.device)
    return weight_of(base).new_empty(0)


def _affine(weight: Tensor) -> nn.Linear:
    """A linear map with this weight (out, in) and a zero bias."""
    with torch.device("meta"):  # shapes only: no values drawn
        made = nn.Linear(weight.shape[1], weight.shape[0])
    made.weight, made.bias = nn.Parameter(weight), nn.Parameter(weight.new_zeros(len(weight)))
    return made
