"""NF4 against the paper's table, bitsandbytes' quantiser, plain linear maps and autograd; what is stored, to the byte."""

import os
import sys
import warnings

import numpy as np
import pytest
import torch
from cases import cases
from reference import SINGLE
from torch import nn

from deca_lab.errors import BadInput
from deca_lab.lab.ledger import Meter
from deca_lab.models import causal_lm, four_bit

PAPER = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
]  # appendix E


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def unpacked(codes, n):
    """Codes 0 .. 15 in the order of the weights."""
    return torch.stack([codes >> 4, codes & 15], 1).view(-1)[:n]


@pytest.fixture(scope="module")
def bits():
    """The library of QLoRA's author, imported without its notices (it looks for optional kernels)."""
    silent = os.open(os.devnull, os.O_WRONLY)
    kept = os.dup(2)
    sys.stderr.flush()
    os.dup2(silent, 2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            library = pytest.importorskip("bitsandbytes", exc_type=ImportError).functional
    finally:
        os.dup2(kept, 2)
        os.close(silent)
        os.close(kept)
    with torch.compiler.set_stance("force_eager"):  # it would compile its quantiser for each shape
        yield library


def test_the_levels_are_the_papers():
    assert four_bit.levels() == pytest.approx(
        PAPER, abs=1e-6
    )  # theirs went through float32; levels lie 0.08 apart
    assert four_bit.levels()[7] == 0
    assert four_bit.levels()[0] == -1


@pytest.mark.slow  # the import of bitsandbytes
@cases("block", [64, 128])
@cases("shape", [(96, 64), (33, 7), (5, 200), (1, 1)])
def test_codes_scales_and_values_are_those_of_bitsandbytes(bits, shape, block):
    weight = draw(*shape)
    row = weight.view(
        1, -1
    )  # its CPU kernel (0.50) unpacks wrongly where a block crosses the rows of a matrix
    theirs, state = bits.quantize_4bit(row, blocksize=block, quant_type="nf4")
    ours, n = four_bit.quantise(weight, block), weight.numel()
    assert torch.equal(ours.absmax, state.absmax)
    unit = (weight.view(-1) / ours.absmax.repeat_interleave(block)[:n])[:, None]
    clear = ((unit - four_bit._midpoints(unit.device)).abs() > 1e-6).all(
        1
    )  # else either neighbour is the nearest
    assert clear.float().mean() > 0.99
    assert torch.equal(unpacked(ours.codes, n)[clear], unpacked(theirs.view(-1), n)[clear])
    back, value = bits.dequantize_4bit(theirs, state), four_bit.dequantise(ours)
    assert torch.allclose(value.view(-1)[clear], back.view(-1)[clear], rtol=0, atol=SINGLE)


def test_our_values_of_their_codes_are_their_values(bits):
    weight = draw(64, 64, seed=3)
    codes, state = bits.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    ours = four_bit.dequantise(four_bit.Packed(codes.view(-1), state.absmax, (64, 64), 64))
    assert torch.allclose(ours, bits.dequantize_4bit(codes, state), rtol=0, atol=SINGLE)


@cases(("shape", "block"), [((8, 64), 64), ((3, 5), 64), ((13, 17), 16), ((7,), 3), ((2, 3, 5), 4)])
def test_every_weight_goes_to_the_nearest_level_of_its_block(shape, block):
    weight = draw(*shape)
    back, flat = four_bit.dequantise(four_bit.quantise(weight, block)).view(-1), weight.view(-1)
    for first in range(0, len(flat), block):  # a plain loop
        scale = flat[first : first + block].abs().max()
        for w, got in zip(flat[first : first + block], back[first : first + block], strict=True):
            errors = [abs(float(w) - level * float(scale)) for level in PAPER]
            assert abs(float(w - got)) <= min(errors) + SINGLE


def test_a_second_quantisation_changes_nothing_and_zeros_stay():
    packed = four_bit.quantise(draw(9, 65))
    again = four_bit.quantise(four_bit.dequantise(packed))
    assert torch.equal(packed.codes, again.codes)
    assert torch.equal(packed.absmax, again.absmax)
    zeros = four_bit.quantise(torch.zeros(3, 50))
    assert set(zeros.codes.tolist()) == {0x77}
    assert not four_bit.dequantise(zeros).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_go_through_float32(dtype):
    packed = four_bit.quantise(draw(4, 40, dtype=dtype))
    assert (
        torch.equal(packed.codes, four_bit.quantise(draw(4, 40).to(dtype).float()).codes)
        or dtype == torch.float64
    )
    assert four_bit.dequantise(packed, dtype).dtype == dtype


@cases(("n", "block"), [(4096, 64), (15, 64), (65, 64), (1, 1)])
def test_four_bits_a_weight_and_a_scale_a_block(n, block):
    packed = four_bit.quantise(draw(n), block)
    assert packed.codes.dtype == torch.uint8
    assert packed.codes.nbytes == -(-n // 2)
    assert packed.absmax.nbytes == 4 * -(-n // block)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (
            torch.tensor([1.0, float("nan")]),
            "weight = 'with values that are not finite' cannot be used: it must be finite",
        ),
        (torch.tensor([float("inf")]), "not finite"),
        (torch.tensor([1e300], dtype=torch.float64), "finite in float32"),
        (
            torch.ones(3, dtype=torch.int64),
            r"\(3,\) of torch.int64' cannot be used: it must be a floating-point tensor",
        ),
        (torch.ones(0), "with elements"),
    ],
)
def test_weights_that_cannot_be_quantised(weight, message):
    with pytest.raises(BadInput, match=message):
        four_bit.quantise(weight)


def test_blocks_that_cannot_be():
    with pytest.raises(
        BadInput, match="block = 0 cannot be used: it must be at least 1 weight to a scale"
    ):
        four_bit.quantise(draw(3), 0)


# the module


def linear(inner, out, bias=True, seed=0):
    made = nn.Linear(inner, out, bias)
    made.weight.data, made.bias = (
        draw(out, inner, seed=seed),
        nn.Parameter(draw(out, seed=1)) if bias else None,
    )
    return made


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inner", "out"), [(64, 48), (13, 7)])
def test_the_module_is_the_linear_map_of_the_unpacked_weight(inner, out, bias):
    base, x = linear(inner, out, bias), draw(2, 5, inner, seed=2).requires_grad_()
    packed = four_bit.NF4Linear(base)
    assert not list(packed.parameters())
    reference = nn.functional.linear(
        x, four_bit.dequantise(four_bit.quantise(base.weight)), base.bias
    )
    weights = draw(2, 5, out, seed=4)
    (want,) = torch.autograd.grad((reference * weights).sum(), x)
    (got,) = torch.autograd.grad((packed(x) * weights).sum(), x)
    assert torch.allclose(packed(x), reference, rtol=0, atol=SINGLE)
    assert torch.allclose(got, want, rtol=0, atol=SINGLE)


def test_the_gradient_is_that_of_finite_differences():
    packed = four_bit.NF4Linear(linear(6, 5).double())
    assert torch.autograd.gradcheck(packed, draw(3, 6, dtype=torch.float64).requires_grad_())


def test_under_vmap_it_is_the_loop_and_the_weight_is_not_stacked():
    packed, x = four_bit.NF4Linear(linear(13, 7)), draw(4, 3, 13).requires_grad_()
    stacked = torch.vmap(packed)(x)
    looped = torch.stack([packed(row) for row in x])
    assert torch.allclose(stacked, looped, rtol=0, atol=SINGLE)
    weights = draw(4, 3, 7, seed=5)
    grads = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (stacked, looped)]
    assert torch.allclose(*grads, rtol=0, atol=SINGLE)


def test_autograd_keeps_the_codes_and_no_full_weight():
    packed, held = four_bit.NF4Linear(linear(64, 64)), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):
        torch.vmap(packed)(draw(4, 2, 64).requires_grad_())
    stores = [
        {t.untyped_storage().data_ptr() for t in some}
        for some in (held, (packed.codes, packed.absmax))
    ]
    assert stores[0] == stores[1]


def test_no_full_weight_lives_between_the_passes():
    packed, x = four_bit.NF4Linear(linear(64, 64)), draw(1, 64).requires_grad_()
    packed(x)  # tables are there
    with Meter() as meter:
        meter.watch([])
        y = packed(x)
        assert meter.most > 64 * 64 * 4  # unpacked for a moment
        meter.most = 0
        y.sum()
        assert meter.most < 64 * 64 // 2


@pytest.mark.parametrize("preset", ["tiny", "llama-tiny", "qwen2-tiny"])
def test_a_quantised_base_is_the_model_with_rounded_weights(preset):
    model = causal_lm.load(preset)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    base = four_bit.quantise_base(model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    rounded = {name: four_bit.weight_of(m) for name, m in four_bit.projections(base).items()}
    assert all(isinstance(m, four_bit.NF4Linear) for m in four_bit.projections(base).values())
    assert set(rounded) == set(four_bit.projections(model))
    flip = preset == "tiny"  # Conv1D stores (in, out)
    twin = causal_lm.with_parameters(
        model, {f"{k}.weight": w.T if flip else w for k, w in rounded.items()}
    )
    tokens = torch.randint(3, causal_lm.BYTES, (2, 20), generator=torch.Generator().manual_seed(1))
    assert torch.allclose(base(tokens).logits, twin(tokens).logits, rtol=0, atol=SINGLE)
    assert not torch.allclose(base(tokens).logits, model(tokens).logits, rtol=0, atol=1e-4)
    assert base(tokens).logits.dtype == torch.float32
    assert not [name for name in causal_lm.trainable(base) if "proj" in name or "c_" in name]


def test_stored_bytes_by_hand():
    model = causal_lm.load("tiny")
    weights, biases = 2 * 64 * (192 + 64 + 256 + 256), 2 * (192 + 64 + 256 + 64)
    rest = (259 + 512) * 64 + 2 * 4 * 64 + 2 * 64  # tied embeddings once, positions, norms
    assert four_bit.stored_bytes(model) == (0, 0, 4 * (weights + biases + rest))
    held = four_bit.stored_bytes(four_bit.quantise_base(model))
    assert held == (weights // 2 + weights // 64 * 4, 4 * biases, 4 * rest)
    assert held.total == sum(held)
    assert held.packed * 8 / weights == 4.5  # bits a weight


def test_what_cannot_be_quantised_again():
    base = four_bit.quantise_base(causal_lm.load("tiny"))
    with pytest.raises(
        BadInput, match=r"model = 'GPT2LMHeadModel' cannot be used: it must be one with linear maps"
    ):
        four_bit.quantise_base(base)


@pytest.mark.parametrize("preset", ["tiny", "llama-tiny"])
def test_plain_modules_come_back(preset):
    model = causal_lm.load(preset)
    for name, m in four_bit.projections(model).items():
        again = four_bit.plain(m, four_bit.weight_of(m))
        assert type(again) is type(m), name
        assert all(
            torch.equal(p, q) for p, q in zip(again.parameters(), m.parameters(), strict=True)
        )
        packed = four_bit.NF4Linear(m)
        back = four_bit.plain(packed, four_bit.weight_of(packed))
        assert type(back) is type(m)
        assert (
            four_bit.shape_of(packed)
            == four_bit.shape_of(m)
            == tuple(four_bit.weight_of(back).shape)
        )
