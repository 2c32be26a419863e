"""All clients at once = one after another, on every model family and for each block alone; rows never touch."""

import pytest
import torch
from reference import EAGER, SINGLE
from torch.nn.functional import cross_entropy

from deca_lab.algorithm import stacking
from deca_lab.algorithm.blocks import by_layers
from deca_lab.algorithm.gradients import ENGINES, in_parts, looped, losses, stacked
from deca_lab.models import causal_lm

N, B, T = 3, 2, 12
FAMILIES = ["tiny", "llama-tiny", "qwen2-tiny"]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    model = causal_lm.load(request.param, seed=3)
    g = torch.Generator().manual_seed(0)
    start = stacking.replicate(causal_lm.trainable(model), N)
    apart = {
        name: p + 0.02 * torch.randn(p.shape, generator=g) for name, p in start.items()
    }  # clients differ
    tokens = torch.randint(3, causal_lm.BYTES, (N, B, T + 1), generator=g)
    return model, apart, tokens


def split(params, names):
    """The block as a matrix, its layout, and the rest."""
    return (
        stacking.flatten(params, names),
        stacking.layout(params, names),
        {n: p for n, p in params.items() if n not in names},
    )


def test_stacked_is_looped_for_each_block_alone(family):
    model, params, tokens = family
    loss = causal_lm.client_loss(model)
    for block in by_layers(causal_lm.anatomy(model)):
        x, where, rest = split(params, block.names)
        one, many = looped(loss)(x, where, rest, tokens), stacked(loss)(x, where, rest, tokens)
        torch.testing.assert_close(many[0], one[0], rtol=SINGLE, atol=SINGLE)
        torch.testing.assert_close(many[1], one[1], rtol=SINGLE, atol=1e-6)
        assert many[1].shape == x.shape
        assert bool((many[1].norm(dim=1) > 1e-4).all()), block.name
        assert not many[0].requires_grad
        assert not many[1].requires_grad


@pytest.mark.parametrize("engine", [stacked, looped])
@pytest.mark.parametrize("rows", [1, 2, 4, 5])
def test_a_batch_in_parts_is_the_whole_batch(engine, rows):
    """Parts of unequal size, and a batch of two tensors, as tasks with a mask have them."""
    g = torch.Generator().manual_seed(1)
    x, texts, targets = (
        torch.randn(size, generator=g, dtype=torch.float64) for size in ((3, 4), (3, 5, 4), (3, 5))
    )
    where, batch = stacking.layout({"w": x}, ["w"]), (texts, targets)

    def loss(params, batch):
        return ((batch[0] @ params["w"]).tanh() - batch[1]).square().mean()

    whole, parts = (
        engine(loss)(x, where, {}, batch),
        in_parts(engine, rows)(loss)(x, where, {}, batch),
    )
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-12)


def test_both_are_transformers_own_backward(family):
    model, params, tokens = family
    names = by_layers(causal_lm.anatomy(model))[1].names
    x, where, rest = split(params, names)
    found, g = stacked(causal_lm.client_loss(model))(x, where, rest, tokens)
    for i in range(N):
        twin = causal_lm.with_parameters(model, stacking.client(params, i))
        logits = twin(tokens[i][:, :-1], use_cache=False).logits
        value = cross_entropy(logits.flatten(0, 1), tokens[i][:, 1:].flatten())
        value.backward()
        held = dict(twin.named_parameters())
        want = torch.cat([held[name].grad.flatten() for name in names])
        assert float(found[i]) == pytest.approx(value.item(), rel=SINGLE)
        torch.testing.assert_close(g[i], want, rtol=SINGLE, atol=1e-6)


def test_frozen_names_stay_the_models_own(family):
    model, params, tokens = family
    names = by_layers(causal_lm.anatomy(model))[1].names
    x, where, _ = split(params, names)
    frozen = {
        n: p for n, p in stacking.replicate(causal_lm.trainable(model), N).items() if n not in names
    }
    loss = causal_lm.client_loss(model)
    given, left = stacked(loss)(x, where, frozen, tokens), stacked(loss)(x, where, {}, tokens)
    torch.testing.assert_close(left[0], given[0], rtol=SINGLE, atol=SINGLE)
    torch.testing.assert_close(left[1], given[1], rtol=SINGLE, atol=1e-6)


@pytest.mark.parametrize("engine", EAGER)
def test_one_clients_batch_changes_its_own_row_only(family, engine):
    model, params, tokens = family
    x, where, rest = split(params, by_layers(causal_lm.anatomy(model))[1].names)
    gradients = ENGINES[engine](causal_lm.client_loss(model))
    before, other = gradients(x, where, rest, tokens), tokens.clone()
    other[1] = (other[1] + 17 - 3) % (causal_lm.BYTES - 3) + 3
    after = gradients(x, where, rest, other)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a[[0, 2]], b[[0, 2]], rtol=1e-6, atol=1e-7)
        assert not torch.allclose(a[1], b[1], rtol=1e-3, atol=1e-4)


def test_losses_without_gradients_own_and_common(family):
    model, params, tokens = family
    loss = causal_lm.client_loss(model)
    own = torch.stack([loss(stacking.client(params, i), tokens[i]) for i in range(N)])
    common = torch.stack([loss(stacking.client(params, i), tokens[0]) for i in range(N)])
    torch.testing.assert_close(losses(loss, params, tokens), own.detach(), rtol=SINGLE, atol=SINGLE)
    torch.testing.assert_close(
        losses(loss, params, tokens[0], common=True), common.detach(), rtol=SINGLE, atol=SINGLE
    )
    assert not losses(loss, params, tokens).requires_grad


# any other problem: batches are tuples, parameters of any rank, all dtypes


def affine(params, batch):
    (inputs, targets), weight = batch
    return weight * ((inputs @ params["w"] + params["b"] - params["s"] * targets) ** 2).mean()


def affine_case(dtype=torch.float64):
    g = torch.Generator().manual_seed(5)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    return {"w": draw(N, 4, 2), "b": draw(N, 2), "s": draw(N)}, (
        (draw(N, 6, 4), draw(N, 6, 2)),
        draw(N).abs(),
    )


@pytest.mark.parametrize("names", [["w"], ["s"], ["b", "s"], ["s", "w", "b"]], ids="-".join)
def test_nested_tuple_batches_and_scalar_parameters(names):
    params, batch = affine_case()
    x, where, rest = split(params, names)
    one, many = looped(affine)(x, where, rest, batch), stacked(affine)(x, where, rest, batch)
    for a, b in zip(one, many, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
    for i in range(N):  # central differences
        moved = []
        for sign in (1, -1):
            y = x.clone()
            y[i, 0] += sign * 1e-6
            moved.append(stacked(affine)(y, where, rest, batch)[0])
        slope = (moved[0] - moved[1]) / 2e-6
        assert float(slope[i]) == pytest.approx(float(many[1][i, 0]), rel=SINGLE, abs=1e-8)
        assert torch.equal(
            slope[[j for j in range(N) if j != i]], torch.zeros(N - 1, dtype=torch.float64)
        )


@pytest.mark.parametrize("engine", EAGER)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gradients_have_the_dtype_of_the_block_and_leave_arguments_alone(engine, dtype):
    params, batch = affine_case(dtype)
    x, where, rest = split(params, ["w", "s"])
    before = x.clone()
    found, g = ENGINES[engine](affine)(x, where, rest, batch)
    assert (found.dtype, g.dtype, found.shape) == (dtype, dtype, (N,))
    assert torch.equal(x, before)
    assert not x.requires_grad
    assert x.grad is None


@pytest.mark.parametrize("engine", EAGER)
def test_equal_calls_give_equal_bits(engine):
    params, batch = affine_case(torch.float32)
    x, where, rest = split(params, ["w", "s"])
    a, b = (ENGINES[engine](affine)(x, where, rest, batch) for _ in range(2))
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])


@pytest.mark.parametrize("engine", EAGER)
def test_what_is_constant_is_not_differentiated(engine):
    """The backward pass stops at the block: the graph below it is never walked."""
    seen = []

    class Watch(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x.clone()

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, g):
            seen.append("walked")
            return g

    def loss(params, batch):
        return (Watch.apply(params["first"]) * batch * params["second"]).sum()

    params, batch = {"first": torch.ones(N, 2), "second": torch.ones(N, 2)}, torch.ones(N, 2)
    x, where, rest = split(params, ["second"])
    ENGINES[engine](loss)(x, where, rest, batch)
    assert seen == []
    x, where, rest = split(params, ["first"])
    ENGINES[engine](loss)(x, where, rest, batch)
    assert seen
