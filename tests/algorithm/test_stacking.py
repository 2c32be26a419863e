"""Names <-> matrix: the bridge loses nothing, copies where it says so, and carries gradients."""

import pytest
import torch
from cases import cases
from reference import ROUNDING

from deca_lab.algorithm import stacking
from deca_lab.lab.ledger import Meter

SHAPES = {
    "scalar": (),
    "bias": (5,),
    "one": (1,),
    "weight": (3, 4),
    "kernel": (2, 3, 2),
    "empty": (0,),
}
N = 4


def params(seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(N, *shape, generator=g, dtype=torch.float64).to(dtype)
        for name, shape in SHAPES.items()
    }


@cases("names", [list(SHAPES), list(SHAPES)[::-1], ["scalar"], ["kernel", "scalar", "bias"]])
@cases("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_flatten_and_unflatten_are_inverse(names, dtype):
    held = params(dtype=dtype)
    where = stacking.layout(held, names)
    x = stacking.flatten(held, names)
    back = stacking.unflatten(x, where)
    assert x.shape == (N, where.width)
    assert x.dtype == dtype
    assert list(back) == names
    for name in names:
        assert back[name].shape == held[name].shape
        assert torch.equal(back[name], held[name])
    assert torch.equal(stacking.flatten(back, names), x)


def test_columns_stand_in_the_order_of_the_names_row_major():
    held = {
        "b": torch.tensor([[9.0], [8.0]]),
        "a": torch.arange(8.0).reshape(2, 2, 2),
        "s": torch.tensor([5.0, 6.0]),
    }
    want = [[5, 0, 1, 2, 3, 9], [6, 4, 5, 6, 7, 8]]
    assert stacking.flatten(held, ["s", "a", "b"]).tolist() == want
    where = stacking.layout(held, ["s", "a", "b"])
    assert where == (("s", "a", "b"), ((), (2, 2), (1,)))
    assert (where.sizes, where.width) == ([1, 4, 1], 6)


def test_flatten_copies_and_unflatten_does_not():
    held = params()
    for names in (list(SHAPES), ["weight"], ["scalar"]):
        before = {name: held[name].clone() for name in names}
        x = stacking.flatten(held, names)
        x.zero_()
        assert all(torch.equal(held[name], before[name]) for name in names)
        views = stacking.unflatten(x, stacking.layout(held, names))
        x.fill_(7.0)
        assert all(bool((view == 7).all()) for view in views.values())


def test_gradient_through_unflatten_is_the_gradient_of_each_name():
    held, names = params(1), ["kernel", "scalar", "weight", "bias"]
    scale = {name: torch.randn_like(held[name]) for name in names}

    def loss(values):
        return sum(
            (scale[n] * values[n].sin()).sum() * (1 + values["scalar"].square().sum())
            for n in names
        )

    where = stacking.layout(held, names)
    x = stacking.flatten(held, names).requires_grad_()
    (whole,) = torch.autograd.grad(loss(stacking.unflatten(x, where)), x)
    leaves = {n: held[n].clone().requires_grad_() for n in names}
    each = torch.autograd.grad(loss(leaves), [leaves[n] for n in names])
    for name, got in stacking.unflatten(whole, where).items():
        torch.testing.assert_close(got, each[names.index(name)], rtol=ROUNDING, atol=ROUNDING)


def test_replicate_shows_one_model_many_times_and_flatten_lays_it_out():
    one = {"w": torch.randn(2, 3, requires_grad=True), "s": torch.tensor(4.0)}
    for clients in (1, 3):
        many = stacking.replicate(one, clients)
        assert {name: tuple(p.shape) for name, p in many.items()} == {
            "w": (clients, 2, 3),
            "s": (clients,),
        }
        assert many["w"].data_ptr() == one["w"].data_ptr()
        assert not many["w"].requires_grad
        x = stacking.flatten(many, ["s", "w"])
        assert torch.equal(
            x, torch.cat([one["s"][None], one["w"].detach().flatten()]).repeat(clients, 1)
        )
        x.zero_()
        assert bool((one["w"] != 0).all())


def test_client_and_mean_take_the_client_axis_away():
    held = params(2)
    one, centre = stacking.client(held, 2), stacking.mean(held)
    for name, shape in SHAPES.items():
        assert one[name].shape == centre[name].shape == shape
        assert torch.equal(one[name], held[name][2])
        torch.testing.assert_close(centre[name], sum(held[name][i] for i in range(N)) / N)
    one["bias"].zero_()
    assert bool((held["bias"][2] == 0).all())  # a view, as said


def test_consensus_distance_by_hand():
    assert (
        stacking.consensus_distance(torch.tensor([[0.0, 0.0], [2.0, 4.0]])) == 5.0
    )  # each 1 + 4 from (1, 2)
    assert (
        stacking.consensus_distance(torch.tensor([[0.0], [0.0], [3.0]])) == 2.0
    )  # (1 + 1 + 4) / 3
    assert stacking.consensus_distance(torch.randn(1, 9)) == 0.0
    assert stacking.consensus_distance(torch.full((5, 7), 0.1)) == pytest.approx(0.0, abs=1e-14)


def test_consensus_distance_is_the_pairwise_mean_and_knows_no_origin():
    x = params(3)["kernel"].flatten(1)
    pairs = sum((a - b).square().sum() for a in x for b in x) / (2 * N * N)
    assert stacking.consensus_distance(x) == pytest.approx(float(pairs), rel=1e-13)
    assert stacking.consensus_distance(x + 3) == pytest.approx(float(pairs), rel=1e-12)
    assert stacking.consensus_distance(-2 * x) == pytest.approx(4 * float(pairs), rel=1e-13)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_consensus_distance_is_that_of_the_stored_numbers(dtype):
    x = (1 + 0.01 * torch.randn(8, 500, generator=torch.Generator().manual_seed(0))).to(dtype)
    assert stacking.consensus_distance(x) == pytest.approx(
        stacking.consensus_distance(x.double()), rel=1e-4
    )


def test_consensus_distance_by_columns_holds_no_copy_and_is_that_of_all_at_once(monkeypatch):
    x = torch.randn(4, 5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    at_once = stacking.consensus_distance(x)
    assert at_once == pytest.approx(float((x - x.mean(0)).square().sum() / 4), rel=1e-14)
    monkeypatch.setattr(stacking, "PIECE", 512)
    meter = Meter()
    with meter:
        by_columns = stacking.consensus_distance(x)
    assert by_columns == pytest.approx(at_once, rel=1e-13)
    assert 0 < meter.ever < x.nbytes / 4


def test_nbytes_counts_elements_not_storages():
    assert (
        stacking.nbytes(
            [
                torch.zeros(3, 5),
                torch.zeros(7, dtype=torch.bfloat16),
                torch.zeros(2, dtype=torch.float64),
            ]
        )
        == 90
    )
    assert stacking.nbytes([torch.zeros(100)[:3]]) == 12
    assert stacking.nbytes([]) == 0


def test_pieces_are_few_columns_on_the_processor_and_many_on_a_gpu():
    x, row = torch.zeros(4, 1000), torch.zeros(1000)
    for t in (x, row):
        here, there = (stacking.pieces_of(part, 300) for part in (t, t.to("meta")))
        assert [part.shape[-1] for part in here] == [300, 300, 300, 100]
        assert [part.shape[-1] for part in there] == [1000]
    wide = torch.zeros(4, 3 * stacking.PIECE // 4 + 1, device="meta")
    assert [part.shape[-1] for part in stacking.pieces_of(wide, 300)] == [
        stacking.PIECE // 4
    ] * 3 + [1]
