"""Bytes to the byte, memory to a tenth: what the formulas say beside what the loop did."""

import numpy as np
import pytest
import torch
from cases import cases
from reference import EAGER

from deca_lab.algorithm import loop as tr
from deca_lab.algorithm import optimisers
from deca_lab.algorithm.blocks import ORDERS, Block
from deca_lab.algorithm.gradients import ENGINES
from deca_lab.algorithm.moments import SCALES, SIGNALS, Adam, Feedback
from deca_lab.algorithm.problems import Problem
from deca_lab.lab import ledger
from deca_lab.lab.ledger import Memory, Meter
from deca_lab.lab.runs import _metered
from deca_lab.mixing.topology import Topology, topology

N = 6
UNEVEN = {"a": (3,), "b": (2, 2), "s": (), "c": (7,)}
THREE = (
    Block("one", ("a", "b")),
    Block("two", ("s",)),
    Block("three", ("c",)),
)  # 7, 1 and 7 columns
SHIFT = Topology(
    "shift", ((np.eye(N) + np.roll(np.eye(N), 1, axis=1)) / 2,)
)  # one message each, one way


def squares(shapes, n=N, dtype=torch.float32):
    """A problem that keeps next to no activations: every client minimises the squares of its own numbers."""
    g = torch.Generator().manual_seed(0)
    start = {name: torch.randn(n, *shape, generator=g).to(dtype) for name, shape in shapes.items()}
    nothing = torch.zeros(n, 1, dtype=dtype)
    return Problem(
        start,
        lambda p, batch: sum(v.square().sum() for v in p.values()) + batch.sum(),
        lambda step: nothing,
    )


def laid(blocks=THREE, topo="ring", dtype=torch.float32, shapes=UNEVEN, n=N, **knobs):
    fed = knobs.pop("feedback", Feedback(None, SCALES["raw"], 1.0, 1.0))
    usual = {
        "rounds": 2,
        "inner_steps": 4,
        "lr": lambda s: 1e-2,
        "optimiser": optimisers.adam(Adam(), fed),
    }
    where = topology(topo, n, seed=3) if isinstance(topo, str) else topo
    return tr.plan(squares(shapes, n, dtype), blocks, where, tr.Recipe(**{**usual, **knobs}))


def table(plan, each):
    """Return numbers along links (E,) as a table (N, N), i from j."""
    full = np.zeros((plan.topology.n,) * 2, np.int64)
    full[tuple(plan.channel.links.T)] = each
    return full


def sent(plan):
    for state, _ in tr.train(plan):  # noqa: B007 - the last one is wanted
        pass
    return state.sent


@cases("mix_every", [1, 2, 3, 5, 24, 25])
@cases("topo", ["ring", "star", "one-peer-exponential", "random-matchings", SHIFT])
@cases("mix_all", [False, True])
def test_bytes_on_every_edge_are_the_formulas(mix_every, topo, mix_all):
    plan = laid(topo=topo, mix_every=mix_every, mix_all=mix_all)
    got = sent(plan)
    assert got.tolist() == ledger.traffic(plan).tolist()
    assert bool(got.any()) == (mix_every <= plan.steps)


@cases("dtype", [torch.float32, torch.float64, torch.bfloat16])
@cases("mix_all", [False, True])
@cases(
    "knobs",
    [
        {},
        {"order": ORDERS["reshuffled"], "seed": 5, "mix_every": 3},
        {"blocks": (Block("all", tuple(UNEVEN)),), "mix_every": 3},
    ],
)
def test_bytes_in_every_dtype_and_order(dtype, mix_all, knobs):
    plan = laid(dtype=dtype, topo="random-matchings", mix_all=mix_all, **knobs)
    assert sent(plan).tolist() == ledger.traffic(plan).tolist()


def test_bytes_by_hand():
    plan = laid(
        mix_every=3
    )  # visits of 4 steps; mixings after steps 3 6 9 12 and 15 18 21 24: 1, 1, 2 a round
    columns = 2 * (1 * 7 + 1 * 1 + 2 * 7)
    want = [[4 * columns if (i - j) % N in (1, N - 1) else 0 for j in range(N)] for i in range(N)]
    assert table(plan, ledger.traffic(plan)).tolist() == want
    assert table(plan, sent(plan)).tolist() == want


def test_bytes_of_half_precision_by_hand():
    W = np.array([[0.5, 0.5], [0.5, 0.5]])
    two = Topology("pair", (W,))
    active = laid(topo=two, n=2, dtype=torch.bfloat16)
    assert table(active, ledger.traffic(active)).tolist() == [
        [0, 8 * 15 * 4],
        [8 * 15 * 4, 0],
    ]  # the float32 master travels
    everything = laid(topo=two, n=2, dtype=torch.bfloat16, mix_all=True)
    assert ledger.traffic(everything)[0] == 8 * (15 + 8 + 14 + 8) * 4  # and so do all others


def test_receiver_and_sender_are_not_confused():
    plan = laid(topo=SHIFT)
    got = table(plan, ledger.traffic(plan))
    assert np.argwhere(got).tolist() == [[i, (i + 1) % N] for i in range(N)]


def test_a_client_alone_sends_nothing():
    plan = laid(n=1, topo="complete")
    assert ledger.traffic(plan).tolist() == sent(plan).tolist() == []


FOUR = tuple(Block(name, (name,)) for name in "wxyz")


def equal(d):
    return dict.fromkeys("wxyz", (d,))


def test_memory_by_hand():
    assert ledger.memory(laid(FOUR, shapes=equal(10))) == Memory(
        960, 960 + 4 * 240, 960 * 5, 960 * 3.5
    )  # M + 4 M / B
    half = ledger.memory(laid(FOUR, shapes=equal(10), dtype=torch.bfloat16))
    assert half == Memory(480, 480 + 10 * 480 // 4, 480 * 11, 480 + 10 * 480 / 4)
    assert half.peak == half.paper  # M + 10 M / B
    assert ledger.memory(laid(FOUR, shapes=equal(10), dtype=torch.float64)) == Memory(
        1920, 3840, 9600, 6720.0
    )


def test_memory_of_uneven_blocks_and_kept_moments_by_hand():
    plan = laid(
        (Block("one", ("a",)), Block("two", ("b", "s", "c")))
    )  # 3 and 12 columns, 6 clients
    assert ledger.memory(plan)[:3] == (360, 360 + 6 * 12 * 16, 360 * 5)
    kept = ledger.memory(plan._replace(recipe=plan.recipe._replace(keep_moments=True)))
    assert kept.peak == 360 + 6 * 12 * 16 + 6 * 3 * 8  # m and v of the other block
    assert kept.full == 360 * 5
    whole = laid((Block("all", tuple(UNEVEN)),), keep_moments=True)
    assert ledger.memory(whole).peak == ledger.memory(whole).full  # one block: nothing is saved


def test_the_meter_counts_living_tensors_and_forgets_freed_ones():
    meter, held = Meter(), torch.zeros(1000)
    meter.watch([held])
    with meter:
        a = torch.ones(500)
        assert meter.most == 4000 + 2000
        del a
        b = torch.ones(100, dtype=torch.float64)
        assert meter.most == 6000  # the peak stays
        meter.most = 0
        c = b + 1
        assert meter.most == 4000 + 1600
        del held, b
        c = c * 2
    assert meter.most == 4000 + 1600
    meter.most = 0
    with meter:
        c = c * 2  # old c, new c
    assert meter.most == 1600


def test_the_meter_counts_no_view_twice_and_nothing_that_was_there_before():
    meter, before = Meter(), torch.zeros(10_000)
    meter.watch([])
    with meter:
        view = before[:100].reshape(10, 10)
        before.mul_(2.0)
        assert meter.most == 0
        new = view + 1
        pieces = new.flatten().split(7)
        assert pieces[0].data_ptr() == new.t().data_ptr()
    assert meter.most == 400


def test_watching_again_begins_anew():
    meter = Meter()
    meter.watch([torch.zeros(1000)])
    with meter:
        kept = torch.ones(10)
    meter.watch([kept, kept[:5]])
    with meter:
        torch.ones(3) + 0
    assert meter.most == 40 + 12 + 12


def peaks(plan, engine="stacked"):
    """The measured peak of every inner step, activations forgotten as in a run."""
    meter, state, found = Meter(), tr.begin(plan), []
    steps = tr.train(plan, state, _metered(ENGINES[engine], meter), donate=True)
    while state.step < plan.steps:
        master = [] if state.master is None else [state.master]
        meter.watch(
            [
                *state.blocks,
                *master,
                *(t for held in state.moments.values() for t in optimisers.tensors(held)),
            ]
        )
        with meter:
            state, _ = next(steps)
        found.append(meter.most)
    return found


FEEDBACK = {scale: Feedback(SIGNALS["printed"], SCALES[scale], 0.9, 0.9) for scale in SCALES}
LARGE = {"rounds": 2, "inner_steps": 2, "shapes": equal(20_000)}


@pytest.mark.parametrize("engine", EAGER)
@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"feedback": FEEDBACK["raw"]},
        {"keep_moments": True},
        {"mix_every": 2},
        {"weight_decay": 0.1},
    ],
    ids=["plain", "feedback", "kept", "rarer", "decay"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_measured_peak_is_the_formulas_within_a_tenth(engine, knobs, dtype):
    plan = laid(FOUR, dtype=dtype, **LARGE, **knobs)
    assert max(peaks(plan, engine)) == pytest.approx(ledger.memory(plan).peak, rel=0.1)


@pytest.mark.parametrize(
    "knobs",
    [
        {"feedback": FEEDBACK["lr"]},
        {"feedback": FEEDBACK["unit"]},
        {"clip": 1.0},
        {"mix_all": True},
    ],
    ids=["feedback/lr", "feedback of unit norm", "clipping", "all mixed"],
)
def test_measured_peak_is_the_formulas_with_every_option(knobs):
    plan = laid(FOUR, **LARGE, **knobs)
    assert max(peaks(plan)) == pytest.approx(ledger.memory(plan).peak, rel=0.1)


@cases("clients", [1, 2, 6])
@cases("rule", [optimisers.sgd(0.0), optimisers.sgd(0.9), optimisers.adam(Adam(), FEEDBACK["raw"])])
def test_measured_peak_of_half_precision_where_every_step_ends_a_visit(clients, rule):
    shapes = equal(200_000)  # more than a piece of the rounding
    plan = laid(
        FOUR,
        "complete",
        torch.bfloat16,
        shapes,
        clients,
        inner_steps=1,
        rounds=1,
        optimiser=rule,
    )
    assert max(peaks(plan)) == pytest.approx(ledger.memory(plan).peak, rel=0.1)


def test_memory_of_rounding_by_hand():
    """One client with sgd: old and new float32 block, its momentum, the rounded block, and 2 bytes of scratch."""
    plan = laid(FOUR, "complete", torch.bfloat16, equal(10), 1, optimiser=optimisers.sgd(0.0))
    assert ledger.memory(plan).peak == 80 + 10 * (4 + 4 + 4 + 2 + 2)
    alone = ledger.memory(laid(FOUR, "complete", torch.bfloat16, equal(10), 1))
    assert alone.peak == alone.paper  # M + 10 M / B, with Adam, whatever the size


@pytest.mark.parametrize("order", ["sequence", "reversed"])
def test_measured_peak_of_uneven_blocks_is_that_of_the_largest(order):
    plan = laid(
        (Block("small", ("w",)), Block("large", ("x", "y", "z"))), order=ORDERS[order], **LARGE
    )
    found, weights = peaks(plan), ledger.memory(plan).weights
    assert max(found) == pytest.approx(ledger.memory(plan).peak, rel=0.02)
    assert min(found) == pytest.approx(weights * 2, rel=0.02)  # M + 4 M / 4 in the small block


def test_measured_peak_does_not_depend_on_where_a_run_is_taken_up():
    plan = laid(FOUR, topo="random-matchings", rounds=1, shapes=equal(50))
    whole = peaks(plan)
    for state, _ in tr.train(plan):
        if state.step == 8:
            break
    meter = Meter()
    steps = tr.train(plan, state, _metered(ENGINES["stacked"], meter), donate=True)
    meter.watch(list(state.blocks))
    with meter:
        next(steps)
    assert meter.most == whole[8]
