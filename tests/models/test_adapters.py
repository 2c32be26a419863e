"""Adapters against peft, a loop over clients, merged plain models and a round trip through a directory."""

import warnings

import numpy as np
import pytest
import torch
from cases import cases
from reference import SINGLE
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from deca_lab.algorithm import gradients, stacking
from deca_lab.errors import BadInput
from deca_lab.models import adapters, causal_lm, four_bit

N, T = 3, 20
FAMILIES = ["tiny", "llama-tiny", "qwen2-tiny"]


def tokens(*shape, seed=1):
    return torch.randint(3, causal_lm.BYTES, shape, generator=torch.Generator().manual_seed(seed))


def moved(params, n=None, seed=2):
    """The trainable tensors, stacked n times or alone, each away from its start."""
    noise, lead = torch.Generator().manual_seed(seed), () if n is None else (n,)
    return {
        k: p + 0.05 * torch.randn(*lead, *p.shape, generator=noise, dtype=torch.float64).to(p.dtype)
        for k, p in params.items()
    }


def kinds():
    """Every adapter on every base, as (name, model -> adapted model)."""
    return {
        "lora": lambda m: adapters.lora(m, 4, targets="all-linear"),
        "lora-fa": lambda m: adapters.lora(m, 4, targets="attention", freeze="A"),
        "lora-nf4": lambda m: adapters.lora(four_bit.quantise_base(m), 4),
        "bottleneck": lambda m: adapters.bottleneck(m, 6),
        "bottleneck-nf4": lambda m: adapters.bottleneck(
            four_bit.quantise_base(m), 6, places="mlp", activation="relu"
        ),
    }


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("family", FAMILIES)
def test_the_start_changes_nothing_and_the_argument_stays(family, kind):
    model, batch = causal_lm.load(family), tokens(2, T)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    base = four_bit.quantise_base(model) if "nf4" in kind else model
    adapted = kinds()[kind](model)
    assert torch.equal(adapted(batch).logits, base(batch).logits)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert not ({id(p) for p in model.parameters()} & {id(p) for p in adapted.parameters()})
    assert all(
        any(part in name for part in (".lora_", ".down.", ".up."))
        for name in causal_lm.trainable(adapted)
    )
    assert {type(where) for where in causal_lm.anatomy(adapted).values()} == {
        int
    }  # every name has its layer
    assert not adapted.training


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("family", ["tiny", "llama-tiny"])
def test_stacked_clients_are_the_loop_and_the_base_stays_out(family, kind):
    adapted, batch = kinds()[kind](causal_lm.load(family)), tokens(N, 2, T + 1)
    loss, params = causal_lm.client_loss(adapted), moved(causal_lm.trainable(adapted), N)
    where = stacking.layout(params, list(params))
    x = stacking.flatten(params, where.names)
    losses, g = gradients.stacked(loss)(x, where, {}, batch)
    for i in range(N):
        alone = causal_lm.with_parameters(
            adapted, stacking.client(params, i)
        )  # a plain backward pass
        logits = alone(batch[i, :, :-1]).logits
        value = nn.functional.cross_entropy(logits.flatten(0, 1), batch[i, :, 1:].flatten())
        value.backward()
        assert losses[i] == pytest.approx(float(value.detach()), abs=SINGLE)
        for name, p in alone.named_parameters():
            assert (p.grad is not None) == (name in params), name
        own = {name: p.grad for name, p in alone.named_parameters() if p.grad is not None}
        assert torch.allclose(
            g[i], torch.cat([own[name].flatten() for name in where.names]), rtol=0, atol=1e-6
        )
        assert all(part.norm() > 0 for part in g[i].split(where.sizes))
    assert all(p.grad is None for p in adapted.parameters())


def saved_bytes(adapted, n):
    """Bytes of the base's own storages that autograd holds for n stacked clients, and of all other matrices of 2 axes."""
    held, params = {}, moved(causal_lm.trainable(adapted), n)
    base = {t.untyped_storage().data_ptr() for t in [*adapted.parameters(), *adapted.buffers()]}

    def pack(t):
        held[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        leaves = {k: p.requires_grad_() for k, p in params.items()}
        torch.vmap(causal_lm.client_loss(adapted))(leaves, tokens(n, 1, 4))
    return sum(size for where, size in held.items() if where in base), sum(held.values())


def test_the_base_is_held_once_whatever_the_number_of_clients():
    adapted = adapters.lora(causal_lm.load("llama-tiny"), 1, targets="all-linear")
    one, many = saved_bytes(adapted, 1), saved_bytes(adapted, 8)
    weights = sum(m.base.weight.nbytes for m in adapted.modules() if isinstance(m, adapters.LoRA))
    assert one[0] == many[0]
    assert weights * 0.9 < one[0] < weights + 300_000  # with the head and the norms
    assert many[1] - one[1] < 7 * 0.5 * weights  # activations and factors only


# LoRA


@pytest.fixture(scope="module")
def peft():
    """The library, with its own imports' deprecations let through."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("peft")


@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("tiny", "c_attn"),
        ("tiny", "attn.c_proj,c_fc"),
        ("llama-tiny", "q_proj,v_proj"),
        ("qwen2-tiny", "k_proj,down_proj"),
    ],
)
def test_logits_and_gradients_are_pefts(peft, family, targets):
    model, batch = causal_lm.load(family), tokens(2, T + 1)
    ours = adapters.lora(model, 4, alpha=6, targets=targets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fan_in_fan_out is set by itself
        config = peft.LoraConfig(
            r=4, lora_alpha=6, target_modules=targets.split(","), lora_dropout=0.0
        )
        theirs = peft.get_peft_model(causal_lm.load(family), config)
    values = moved(causal_lm.trainable(ours))
    twins = {}
    for name, p in theirs.named_parameters():
        if p.requires_grad:
            twins[name.removeprefix("base_model.model.").removesuffix(".default.weight")] = p
    assert set(twins) == set(values)  # the same modules and shapes
    with torch.no_grad():
        for name, p in twins.items():
            p.copy_(values[name])
    logits = theirs(batch[:, :-1]).logits
    nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).backward()
    mine = causal_lm.with_parameters(ours, values)
    assert torch.allclose(mine(batch[:, :-1]).logits, logits, rtol=0, atol=SINGLE)
    leaves = {k: v.requires_grad_() for k, v in values.items()}
    grads = torch.autograd.grad(causal_lm.client_loss(ours)(leaves, batch), list(leaves.values()))
    for name, g in zip(leaves, grads, strict=True):
        assert torch.allclose(g, twins[name].grad, rtol=0, atol=1e-6), name


def test_the_draw_is_pefts_distribution(peft):
    draws = torch.cat(
        [
            causal_lm.trainable(adapters.lora(causal_lm.load("tiny"), 8, seed=s))[
                "transformer.h.0.attn.c_attn.lora_A"
            ]
            for s in range(20)
        ]
    )
    assert draws.abs().max() <= 1 / 8  # kaiming_uniform(a=sqrt(5)), 64 in
    assert float(draws.double().std()) == pytest.approx(1 / 8 / 3**0.5, rel=0.02)


def test_the_map_by_hand():
    base = nn.Linear(2, 3, bias=False)
    base.weight = nn.Parameter(torch.zeros(3, 2))
    made = adapters.LoRA(base, 1, 5.0, np.random.default_rng(0))
    made.lora_A.data, made.lora_B.data = (
        torch.tensor([[1.0, 2.0]]),
        torch.tensor([[1.0], [0.0], [-1.0]]),
    )
    assert made(torch.tensor([3.0, 4.0])).tolist() == [55.0, 0.0, -55.0]  # 5/1 (3 + 8)


@cases(
    ("family", "targets", "first", "count"),
    [
        ("tiny", "query-value", ["attn.c_attn"], 2),
        ("tiny", "attention", ["attn.c_attn", "attn.c_proj"], 4),
        ("tiny", "mlp", ["mlp.c_fc", "mlp.c_proj"], 4),
        ("tiny", "c_proj", ["attn.c_proj", "mlp.c_proj"], 4),
        ("tiny", "mlp.c_proj , c_attn", ["attn.c_attn", "mlp.c_proj"], 4),
        ("llama-tiny", "query-value", ["self_attn.q_proj", "self_attn.v_proj"], 4),
        ("llama-tiny", "attention", [f"self_attn.{x}_proj" for x in "qkvo"], 8),
        (
            "qwen2-tiny",
            "mlp,q_proj",
            ["self_attn.q_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"],
            8,
        ),
        ("qwen2-tiny", "all-linear", [f"self_attn.{x}_proj" for x in "qkvo"], 14),
        ("qwen2-tiny", "layers.1.self_attn.q_proj", ["1.self_attn.q_proj"], 1),
    ],
)
def test_targets(family, targets, first, count):
    names = adapters.targets_of(causal_lm.load(family), targets)
    assert len(names) == count
    assert all(name.endswith(end) for name, end in zip(names, first, strict=False))
    assert (
        len(causal_lm.trainable(adapters.lora(causal_lm.load(family), 2, targets=targets)))
        == 2 * count
    )


def test_shapes_places_and_a_frozen_factor():
    both = adapters.lora(causal_lm.load("tiny"), 8, targets="c_fc")
    shapes = {k: tuple(p.shape) for k, p in causal_lm.trainable(both).items()}
    assert shapes["transformer.h.1.mlp.c_fc.lora_A"] == (8, 64)
    assert shapes["transformer.h.1.mlp.c_fc.lora_B"] == (256, 8)
    only_b = adapters.lora(causal_lm.load("tiny"), 8, targets="c_fc", freeze="A")
    assert list(causal_lm.trainable(only_b)) == [k for k in shapes if k.endswith("lora_B")]
    assert all(
        torch.equal(p, dict(only_b.named_parameters())[k]) for k, p in both.named_parameters()
    )


def test_seeds():
    model = causal_lm.load("tiny")
    state = torch.get_rng_state()
    one, same, other, more = (
        causal_lm.trainable(adapters.lora(model, 4, targets=t, seed=s))
        for t, s in (("c_attn", 3), ("c_attn", 3), ("c_attn", 4), ("all-linear", 3))
    )
    name, deeper = "transformer.h.0.attn.c_attn.lora_A", "transformer.h.1.attn.c_attn.lora_A"
    assert torch.equal(one[name], same[name])
    assert torch.equal(one[deeper], more[deeper])  # whatever else is adapted
    assert not torch.equal(one[name], other[name])
    assert not torch.equal(one[name], one[deeper])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("packed", [False, True], ids=["full", "nf4"])
@pytest.mark.parametrize("family", ["tiny", "llama-tiny"])
def test_merged_is_a_plain_model_with_the_same_logits(family, packed, dtype):
    model, batch = causal_lm.load(family, dtype=dtype), tokens(2, T)
    adapted = adapters.lora(
        four_bit.quantise_base(model) if packed else model, 4, targets="attention"
    )
    params = moved(causal_lm.trainable(adapted))
    merged, want = (
        adapters.merge(adapted, params),
        causal_lm.with_parameters(adapted, params)(batch).logits,
    )
    digits = {
        torch.float32: SINGLE,
        torch.float64: SINGLE if family == "llama-tiny" else 1e-12,
        torch.bfloat16: 0.05,
    }[dtype]
    assert (merged(batch).logits - want).abs().max() < digits  # Llama's norms are in float32
    assert (adapted(batch).logits - want).abs().max() > digits  # the factors did something
    assert [(k, p.shape, p.dtype, p.requires_grad) for k, p in merged.named_parameters()] == [
        (k, p.shape, p.dtype, True) for k, p in model.named_parameters()
    ]
    assert {type(m) for m in merged.modules()} == {type(m) for m in model.modules()}


def test_merged_goes_through_a_directory(tmp_path):
    adapted, batch = adapters.lora(four_bit.quantise_base(causal_lm.load("tiny")), 4), tokens(2, T)
    params = moved(causal_lm.trainable(adapted))
    merged = adapters.merge(adapted, params)
    merged.save_pretrained(tmp_path)
    again = causal_lm.load(str(tmp_path))(batch).logits
    assert torch.allclose(
        again, causal_lm.with_parameters(adapted, params)(batch).logits, rtol=0, atol=SINGLE
    )


# bottlenecks


@pytest.mark.parametrize("activation", adapters.ACTIVATIONS)
def test_the_bottleneck_by_hand(activation):
    base, act = nn.Linear(5, 4), adapters.ACTIVATIONS[activation]
    made = adapters.Bottleneck(base, 3, act, np.random.default_rng(0))
    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made(x), base(x))
    assert made.down.weight.abs().max() <= 0.5
    made.up.weight.data += 1.0
    made.up.bias.data += 0.25
    hidden = getattr(nn, {"gelu": "GELU", "relu": "ReLU"}[activation])()(
        base(x) @ made.down.weight.T
    )
    assert torch.allclose(
        made(x), base(x) + hidden.sum(1, keepdim=True) + 0.25, rtol=0, atol=SINGLE
    )


def test_gradients_reach_the_layers_below_through_both_ways():
    base, draw = nn.Linear(5, 4).double(), np.random.default_rng(0)
    x = torch.from_numpy(draw.standard_normal((3, 5))).requires_grad_()
    for made in (
        adapters.LoRA(base, 2, 3.0, draw),
        adapters.Bottleneck(base, 3, nn.functional.gelu, draw),
    ):
        for p in made.parameters():
            p.data += torch.from_numpy(draw.standard_normal(tuple(p.shape)))
        assert torch.autograd.gradcheck(made, x)


@pytest.mark.parametrize(
    ("family", "ends"),
    [
        ("tiny", ("attn.c_proj", "mlp.c_proj")),
        ("llama-tiny", ("self_attn.o_proj", "mlp.down_proj")),
    ],
)
def test_bottlenecks_follow_the_output_projections(family, ends):
    adapted = adapters.bottleneck(causal_lm.load(family), 6)
    where = {name for name, m in adapted.named_modules() if isinstance(m, adapters.Bottleneck)}
    assert len(where) == 4
    assert all(name.endswith(ends) for name in where)
    only = adapters.bottleneck(causal_lm.load(family), 6, places="mlp")
    assert {n for n, m in only.named_modules() if isinstance(m, adapters.Bottleneck)} == {
        n for n in where if n.endswith(ends[1])
    }
    assert sum(p.numel() for p in causal_lm.trainable(only).values()) == 2 * (2 * 6 * 64 + 6 + 64)


# bad input


@cases(
    ("options", "message"),
    [
        (
            {"targets": "q_porj"},
            r"unknown target module 'q_porj': did you mean 'q_proj'.*allowed: all-linear, attention, down_",
        ),
        (
            {"targets": "q_proj,c_attn"},
            r"unknown target module 'c_attn':.*allowed: .*k_proj, mlp, o_proj, q_proj, query-value",
        ),
        ({"targets": "lm_head"}, "unknown target module 'lm_head'"),
        ({"targets": "proj"}, "unknown target module 'proj'"),
        ({"targets": " ,"}, "targets = ' ,' cannot be used: it must be module-name endings"),
        (
            {"rank": 0},
            r"rank = 0 cannot be used: it must be 1 to 64, the smaller dimension of model\.layers\.0\.self_attn\.q_proj",
        ),
        (
            {"rank": 65, "targets": "down_proj"},
            r"rank = 65 .*1 to 64, the smaller dimension of model\.layers\.0\.mlp\.down_proj",
        ),
        ({"rank": 2.0}, "rank = 2.0"),
        ({"alpha": 0}, "alpha = 0 cannot be used: it must be a positive number"),
        ({"alpha": float("nan")}, "alpha = nan"),
        ({"freeze": "B"}, "unknown factor to freeze 'B': allowed: A, none"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_what_lora_refuses(options, message):
    with pytest.raises(BadInput, match=message):
        adapters.lora(causal_lm.load("llama-tiny"), **options)


@cases(
    ("options", "message"),
    [
        ({"width": 0}, "width = 0 cannot be used: it must be 1 to 64, the model's own width"),
        ({"width": 65}, "width = 65"),
        ({"places": "attn"}, "unknown place 'attn': allowed: both, mlp"),
        ({"activation": "gleu"}, "unknown activation 'gleu': did you mean 'gelu'"),
    ],
)
def test_what_bottleneck_refuses(options, message):
    with pytest.raises(BadInput, match=message):
        adapters.bottleneck(causal_lm.load("tiny"), **options)


def test_adapters_do_not_stack_and_bottlenecks_do_not_merge():
    model = causal_lm.load("tiny")
    with pytest.raises(
        BadInput,
        match="model = 'one that holds adapters already' cannot be used: it must be without any",
    ):
        adapters.bottleneck(adapters.lora(model))
    with pytest.raises(
        BadInput,
        match="bottleneck adapters' cannot be used: it must be one with LoRA's factors only",
    ):
        adapters.merge(adapters.bottleneck(model), {})
    with pytest.raises(BadInput, match="one with linear maps inside numbered layers"):
        adapters.lora(nn.Sequential(nn.LayerNorm(3)))
    with pytest.raises(BadInput, match="parameter names = 'nosuch'"):
        adapters.merge(adapters.lora(model), {"nosuch": torch.ones(1)})


@cases("family", ["gpt2", "llama"])
def test_the_base_is_one_product_over_all_clients_tokens(family):
    """Frozen weights are multiplied once with the tokens of all clients; only the factors are, client by client."""
    n, rows, tokens, width, rank = 5, 2, 7, 64, 3
    preset = causal_lm.Preset("small", family=family, layers=1, width=width)
    model = adapters.lora(causal_lm.draw(preset).eval(), rank=rank)
    start = stacking.replicate(causal_lm.trainable(model), n)
    where = stacking.layout(start, list(start))
    batch = torch.randint(3, causal_lm.BYTES, (n, rows, tokens + 1))
    with Products() as seen:
        gradients.stacked(causal_lm.client_loss(model))(
            stacking.flatten(start, where.names), where, {}, batch
        )
    whole = [a for name, a, _ in seen.shapes if name in ("mm", "addmm")]
    assert {a[0] for a in whole} == {n * rows * tokens}
    each = [(a, b) for _, a, b in seen.shapes if len(a) == 3 and rank in (*a, *b)]
    factors = sum(len(shape) == 2 for shape in where.shapes)
    assert len(each) >= 2 * factors
    assert {a[0] for a, _ in each} == {n}


class Products(TorchDispatchMode):
    """Keeps the shapes of what matrix products multiply."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm", "baddbmm"):
            self.shapes.append((name, *(tuple(a.shape) for a in args[-2:])))
        return func(*args, **(kwargs or {}))
