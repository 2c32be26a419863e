"""Fused attention of stacked clients: each client's own by plain operations, forward and back, whatever the mask."""

import pytest
import torch
from cases import cases
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from deca_lab.algorithm import stacking
from deca_lab.algorithm.gradients import stacked
from deca_lab.lab.ledger import Meter
from deca_lab.lab.sources import ATTENTIONS, LONG
from deca_lab.models import attention, causal_lm
from deca_lab.models.attention import attend, fused
from deca_lab.runconfig import RunConfig

N, B, H, T, D = 3, 2, 4, 6, 8
MASKS = {  # shape, and whether each client has its own
    "none": None,
    "one of all": ((T, T), False),
    "one of all rows": ((1, 1, T, T), False),
    "a row": ((B, 1, T, T), False),
    "a client": ((N, T, T), True),
    "a client and row": ((N, B, 1, T, T), True),
    "a client, all its rows": ((N, 1, 1, T, T), True),
}


def drawn(*shape):
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64
    )


def plain(*given, **options):
    with sdpa_kernel(SDPBackend.MATH):
        return nn.functional.scaled_dot_product_attention(*given, **options)


def each_alone(q, k, v, mask, own, **options):
    rows = [plain(q[i], k[i], v[i], mask[i] if own else mask, **options) for i in range(N)]
    return torch.stack(rows)


def equal_with_gradients(parts, one, other):
    outs, grads = [], []
    for work in (one, other):
        leaves = [p.clone().requires_grad_() for p in parts]
        outs.append(work(*leaves))
        weights = torch.arange(outs[-1].numel(), dtype=torch.float64).view(outs[-1].shape).sin()
        grads.append(torch.autograd.grad((outs[-1] * weights).sum(), leaves))
    torch.testing.assert_close(*outs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


@cases("name", MASKS)
@cases("boolean", [True, False])
def test_stacked_attention_is_each_clients_own(name, boolean):
    mask, own = None, False
    if MASKS[name]:
        shape, own = MASKS[name]
        mask = (drawn(*shape) > -0.5) | torch.eye(T, dtype=torch.bool)  # a row sees itself
        mask = mask if boolean else drawn(*shape).masked_fill(~mask, -torch.inf)
    causal = mask is None and boolean
    parts = [drawn(N, B, H, T, D) + i for i in range(3)]
    dims = (0, 0, 0, 0 if own else None)

    def together(q, k, v):
        return torch.vmap(lambda *x: attend(*x, is_causal=causal, scale=0.3), dims)(q, k, v, mask)

    equal_with_gradients(
        parts, together, lambda *x: each_alone(*x, mask, own, is_causal=causal, scale=0.3)
    )


@cases("shape", [(H, T, D), (T, D)])
def test_fewer_axes_and_a_clients_axis_elsewhere(shape):
    parts = [drawn(N, *shape) for _ in range(3)]
    mask = drawn(N, T, T)

    def together(q, k, v):
        last = q.movedim(0, -1)
        return torch.vmap(attend, (len(shape), 0, 0, 0))(last, k, v, mask)

    equal_with_gradients(parts, together, lambda *x: each_alone(*x, mask, True))


@pytest.mark.parametrize("known", [True, False])
def test_heads_that_share_a_key(known, monkeypatch):
    """Where the kernel knows of sharing, and where each head is given a key of its own."""
    q, k, v = drawn(N, B, H, T, D), drawn(N, B, 2, T, D), drawn(N, B, 2, T, D) + 1
    asked = []

    def usual(*given, **options):
        asked.append(options["enable_gqa"])
        return nn.functional.scaled_dot_product_attention(*given, **options)

    monkeypatch.setattr(attention, "USUAL", usual)
    monkeypatch.setattr(attention, "APART", set() if known else {("cpu", 8)})

    def together(q, k, v):
        return torch.vmap(lambda *x: attend(*x, is_causal=True, enable_gqa=True))(q, k, v)

    equal_with_gradients(
        (q, k, v), together, lambda *x: each_alone(*x, None, False, is_causal=True, enable_gqa=True)
    )
    assert set(asked) == {known}


def test_what_is_shared_by_all_clients_is():
    q, k, v = drawn(N, B, H, T, D), drawn(B, H, T, D), drawn(B, H, T, D) + 1
    out = torch.vmap(attend, (0, None, None))(q, k, v)
    wide = (t.expand(N, *t.shape) for t in (k, v))
    torch.testing.assert_close(out, each_alone(q, *wide, None, False), rtol=1e-12, atol=1e-12)


def test_dropout_is_left_to_torch():
    q = drawn(N, B, H, T, D)
    with fused(), pytest.raises(RuntimeError, match="random"):
        torch.vmap(lambda x: nn.functional.scaled_dot_product_attention(x, x, x, None, 0.5))(q)


def test_torch_has_its_own_again_afterwards():
    before = nn.functional.scaled_dot_product_attention
    with fused():
        assert nn.functional.scaled_dot_product_attention is attend
    with pytest.raises(ZeroDivisionError), fused():
        raise ZeroDivisionError
    assert nn.functional.scaled_dot_product_attention is before


def held_by_a_gradient(attention, preset):
    model = causal_lm.load(preset, attention=attention)
    start = stacking.replicate(causal_lm.trainable(model), 2)
    x, where = stacking.flatten(start, list(start)), stacking.layout(start, list(start))
    tokens = torch.randint(3, 250, (2, 1, 513), generator=torch.Generator().manual_seed(0))
    meter = Meter()
    with meter:
        losses, g = stacked(causal_lm.client_loss(model))(x, where, {}, tokens)
    return losses, g, meter.most


@pytest.mark.slow
@cases("preset", ["tiny", "llama-tiny", "qwen2-tiny"])
def test_a_models_gradient_is_the_same_and_holds_no_square(preset):
    (one, g, much), (other, h, little) = (held_by_a_gradient(a, preset) for a in ("eager", "sdpa"))
    torch.testing.assert_close(one, other, rtol=1e-6, atol=0)
    torch.testing.assert_close(g, h, rtol=1e-4, atol=1e-6)
    squares = 2 * 2 * 4 * 512 * 512 * 4  # layers, clients, heads, T x T, bytes
    assert much - little > squares


def test_auto_is_fused_for_long_contexts():
    long = RunConfig(context=LONG)
    assert ATTENTIONS["auto"](long) == "sdpa"
    assert ATTENTIONS["auto"](RunConfig(context=LONG - 1)) == "eager"
    assert ATTENTIONS["auto"](RunConfig(context=LONG, gradient_checkpointing=True)) == "eager"
