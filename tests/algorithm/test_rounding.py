"""Rounding without bias: against exact expectations, the neighbours of torch.nextafter, and a float32 run."""

import numpy as np
import pytest
import torch
from cases import cases

from deca_lab.algorithm import loop as tr
from deca_lab.algorithm import optimisers
from deca_lab.algorithm.blocks import Block
from deca_lab.algorithm.moments import SCALES, Adam, Feedback
from deca_lab.algorithm.problems import Problem
from deca_lab.algorithm.rounding import PIECE, rounded
from deca_lab.mixing.topology import topology

HALVES = [torch.bfloat16, torch.float16]


def rng(seed=0):
    return np.random.default_rng(seed)


def numbers(n, d, seed=1):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g) * 10.0 ** torch.randint(-3, 3, (n, d), generator=g)
    return x + 1e-4 * x.sign()  # above the subnormal numbers of float16


def neighbours(x, dtype):
    """The largest number of `dtype` not above x and the smallest not below, in float64."""
    spacing = torch.finfo(dtype).eps * 2.0 ** torch.floor(torch.log2(x.double().abs()))
    low = torch.floor(x.double() / spacing) * spacing
    return low, low + spacing


@cases("dtype", HALVES)
def test_every_number_goes_to_a_neighbour_and_the_mean_is_exact(dtype):
    """20,000 draws: the mean is within five standard errors of the number itself."""
    x, draws = numbers(1, 60), 20_000
    low, high = neighbours(x, dtype)
    many = x.expand(draws, -1).reshape(1, -1)
    got = rounded(many, dtype, rng()).double().view(draws, -1)
    assert bool(((got == low) | (got == high)).all())
    share = (x.double() - low) / (high - low).clamp(min=1e-300)
    error = (high - low) * (share * (1 - share) / draws).sqrt()
    assert bool(((got.mean(0) - x.double()).abs() <= 5 * error + 1e-300).all())
    assert bool(((got == high).any(0) & (got == low).any(0)).all())


@cases("dtype", HALVES)
def test_what_half_precision_holds_stays(dtype):
    held = torch.cat([numbers(2, 500).to(dtype).float(), torch.zeros(2, 1)], 1)
    held = torch.cat([held, torch.tensor([[2.0, -0.5, torch.inf], [1.0, -64.0, -torch.inf]])], 1)
    assert torch.equal(rounded(held, dtype, rng()).float(), held)


@cases("dtype", HALVES)
def test_equal_rows_stay_equal_over_all_pieces_and_a_seed_repeats(dtype):
    x = numbers(1, PIECE + 7).expand(3, -1)
    got = rounded(x, dtype, rng())
    assert all(torch.equal(row, got[0]) for row in got)
    assert torch.equal(got, rounded(x.clone(), dtype, rng()))
    assert torch.equal(got[:1], rounded(x[:1], dtype, rng()))  # who else is there does not matter
    other = rounded(x, dtype, rng(1))
    assert not torch.equal(got[:, :PIECE], other[:, :PIECE])
    assert not torch.equal(got[:, PIECE:], other[:, PIECE:])


def test_what_is_not_a_number_stays_so():
    """A CUDA device's NaN has all its bits set: noise would carry it over to 0."""
    x = torch.tensor([[0x7FFFFFFF, 0x7FC00000, 0]], dtype=torch.int32).view(torch.float32)
    assert rounded(x, torch.bfloat16, rng()).isnan().tolist() == [[True, True, False]]


def tilted(dtype, clients, width=4000):
    """Losses that fall by the same slope everywhere: Adam then moves every number by lr a step."""
    start = 0.05 + 0.001 * torch.randn(width, generator=torch.Generator().manual_seed(0))
    whole = start.bfloat16().to(dtype).expand(clients, -1).contiguous()
    nothing = torch.zeros(clients, 1, dtype=dtype)
    return Problem(
        {"a": whole, "b": whole + 0},
        lambda p, batch: -(p["a"].sum() + p["b"].sum()) + batch.sum(),
        lambda step: nothing,
    )


@cases(
    ("cut", "inner", "mix_all"),
    [
        ([("a", "b")], 1, False),  # d-adam
        ([("a",), ("b",)], 1, False),  # deca, visits of one step
        ([("a",), ("b",)], 1, True),
        ([("a",), ("b",)], 8, False),
    ],
)
def test_short_visits_move_as_far_as_in_float32(cut, inner, mix_all):
    """Steps of 5e-6 where bfloat16 has a spacing of 2.4e-4: to nearest, none of them would be seen."""
    moved = {}
    for dtype in (torch.float32, torch.bfloat16):
        adam = optimisers.adam(Adam(), Feedback(None, SCALES["raw"], 1.0, 1.0))
        recipe = tr.Recipe(40, inner, lambda s: 5e-6, adam, mix_all=mix_all)
        blocks = [Block(str(names), names) for names in cut]
        plan = tr.plan(tilted(dtype, 4), blocks, topology("ring", 4), recipe)
        first = tr.begin(plan)
        *_, (last, _) = tr.train(plan)
        pairs = zip(first.blocks, last.blocks, strict=True)
        moved[dtype] = torch.cat([(b.double() - a.double()).mean(0) for a, b in pairs])
        assert last.master is None
        assert {x.dtype for x in last.blocks} == {dtype}
    share = float(moved[torch.bfloat16].mean() / moved[torch.float32].mean())
    assert float(moved[torch.float32].mean()) == pytest.approx(5e-6 * 40 * inner, rel=1e-2)
    assert share == pytest.approx(1, abs=0.04)


def test_a_resumed_half_precision_run_is_the_whole_one():
    adam = optimisers.adam(Adam(), Feedback(None, SCALES["raw"], 1.0, 1.0))
    recipe = tr.Recipe(3, 2, lambda s: 1e-3, adam, mix_all=True, seed=7)
    blocks = [Block("a", ("a",)), Block("b", ("b",))]
    plan = tr.plan(tilted(torch.bfloat16, 4), blocks, topology("ring", 4), recipe)
    states = [state for state, _ in tr.train(plan)]
    for place in (2, 3, 4):  # in a visit, where it begins, and where it ends
        *_, (last, _) = tr.train(plan, states[place])
        assert all(map(torch.equal, last.blocks, states[-1].blocks))
