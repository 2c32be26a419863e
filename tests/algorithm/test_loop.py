"""The loop against plain loops, torch's own Adam, and the properties that the algorithm promises."""

import pickle

import numpy as np
import pytest
import torch
from cases import cases
from reference import LONG_ROUNDING, ROUNDING, deca_on_quadratics

from deca_lab.algorithm import loop as tr
from deca_lab.algorithm import optimisers as op
from deca_lab.algorithm import schedules as sc
from deca_lab.algorithm.blocks import ORDERS, Block
from deca_lab.algorithm.gradients import looped, stacked
from deca_lab.algorithm.moments import SCALES, SIGNALS, Adam, Feedback
from deca_lab.algorithm.optimisers import adam
from deca_lab.algorithm.problems import Problem, quadratics
from deca_lab.algorithm.stacking import client
from deca_lab.errors import BadInput
from deca_lab.mixing.topology import Topology, topology
from deca_lab.network.compression import compressed, compressor
from deca_lab.network.faults import Faults, Spell
from deca_lab.network.lossy_mixing import lossy

N, D = 5, 6


def problem(n=N, d=D, seed=0, noise=0.0, same=False):
    """Heterogeneous quadratics with different Hessians and linear terms; the vector is cut in three names."""
    rng = np.random.default_rng(seed)
    roots = rng.standard_normal((1 if same else n, d, d)).repeat(n if same else 1, 0)
    A = torch.from_numpy(roots @ roots.transpose(0, 2, 1) / d + np.eye(d))
    b = torch.from_numpy(rng.standard_normal((1 if same else n, d)).repeat(n if same else 1, 0) * 3)
    x0 = torch.from_numpy(rng.standard_normal(d)).repeat(n, 1)
    whole = quadratics(A, b, x0, noise, seed)
    cuts = {
        "a": slice(0, 2),
        "b": slice(2, 4),
        "c": slice(4, d),
    }  # equal widths: a mixed-up block is no error

    def loss(params, batch):
        return whole.loss({"x": torch.cat([params[name] for name in cuts])}, batch)

    return Problem({name: x0[:, cut].clone() for name, cut in cuts.items()}, loss, whole.batches), (
        A,
        b,
        x0,
    )


THREE = (Block("a", ("a",)), Block("b", ("b",)), Block("c", ("c",)))
WHOLE = (Block("all", ("a", "b", "c")),)
COORDINATES = [[0, 1], [2, 3], [4, 5]]

PRINTED = Feedback(SIGNALS["printed"], SCALES["raw"], 0.9, 0.9)
ring = topology("ring", N)
turned = Topology(
    "turned",
    (
        np.array(
            [
                [0.5, 0.5, 0, 0, 0],
                [0, 0.5, 0.5, 0, 0],
                [0, 0, 0.5, 0.5, 0],
                [0, 0, 0, 0.5, 0.5],
                [0.5, 0, 0, 0, 0.5],
            ]
        ),
    ),
)  # doubly stochastic, not symmetric
uneven = Topology("uneven", (ring.matrices[0] @ turned.matrices[0] @ turned.matrices[0],))
in_turn = topology("one-peer-exponential", N)


def recipe(**knobs):
    optimiser = adam(
        Adam(0.9, 0.99, 1e-8), knobs.pop("feedback", Feedback(None, SCALES["raw"], 1.0, 1.0))
    )
    return tr.Recipe(
        **{"rounds": 2, "inner_steps": 4, "lr": lambda s: 0.05, "optimiser": optimiser, **knobs}
    )


def final(prob, blocks, topo, rec, engine=stacked):
    plan = tr.plan(prob, blocks, topo, rec)
    state = tr.begin(plan)
    for state, _ in tr.train(plan, engine=engine):  # noqa: B007 - the last one is wanted
        pass
    return plan, state, tr.params_of(plan, state)


def vector(params):
    return torch.cat([params["a"], params["b"], params["c"]], 1)


@cases("topo", [ring, turned, uneven, in_turn, topology("complete", N), topology("star", N)])
@cases(
    ("signal", "scale"),
    [("none", "raw"), *((s, c) for s in ("printed", "downhill", "zero") for c in SCALES)],
)
@cases("engine", [stacked, looped])
def test_whole_trajectory_equals_plain_loops(topo, signal, scale, engine):
    prob, (A, b, x0) = problem()
    fed = Feedback(SIGNALS[signal], SCALES[scale], 0.8, 0.7)
    _, _, got = final(prob, THREE, topo, recipe(feedback=fed), engine)
    want = deca_on_quadratics(
        A.tolist(),
        b.tolist(),
        x0.tolist(),
        lambda k: topo.at(k).tolist(),
        COORDINATES,
        2,
        4,
        0.05,
        0.9,
        0.99,
        1e-8,
        signal,
        scale,
        0.8,
        0.7,
    )
    torch.testing.assert_close(
        vector(got), torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=1e-12
    )


@cases("mix_every", [2, 3])
@cases("keep", [False, True])
def test_rarer_mixing_and_kept_moments_equal_plain_loops(mix_every, keep):
    prob, (A, b, x0) = problem()
    fed = Feedback(SIGNALS["printed"], SCALES["raw"], 0.8, 0.7)
    _, _, got = final(
        prob, THREE, uneven, recipe(feedback=fed, mix_every=mix_every, keep_moments=keep, rounds=3)
    )
    want = deca_on_quadratics(
        A.tolist(),
        b.tolist(),
        x0.tolist(),
        lambda k: uneven.at(k).tolist(),
        COORDINATES,
        3,
        4,
        0.05,
        0.9,
        0.99,
        1e-8,
        "printed",
        "raw",
        0.8,
        0.7,
        mix_every,
        keep,
    )
    torch.testing.assert_close(
        vector(got), torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("knobs", [{}, {"weight_decay": 0.1}, {"clip": 0.5}])
def test_one_client_one_block_is_torch_adam(knobs):
    torch.manual_seed(0)
    start, target = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    prob = Problem(
        {"w": start[None].clone()},
        lambda p, batch: ((p["w"] - batch) ** 4).sum(),
        lambda step: target[None],
    )
    lr = sc.schedule(0.05, sc.SCHEDULES["cosine"], 30, 5)
    _, _, got = final(
        prob,
        (Block("w", ("w",)),),
        topology("complete", 1),
        recipe(rounds=1, inner_steps=30, lr=lr, **knobs),
    )
    w = start.clone().requires_grad_()
    optimiser = torch.optim.AdamW(
        [w], lr=1.0, betas=(0.9, 0.99), eps=1e-8, weight_decay=knobs.get("weight_decay", 0.0)
    )
    for s in range(30):
        optimiser.param_groups[0]["lr"] = lr(s)
        optimiser.zero_grad()
        ((w - target) ** 4).sum().backward()
        if "clip" in knobs:
            torch.nn.utils.clip_grad_norm_([w], knobs["clip"])
        optimiser.step()
    torch.testing.assert_close(got["w"][0], w.detach(), rtol=1e-12, atol=1e-12)


def test_one_client_several_blocks_is_adam_restarted_per_block():
    prob, (A, b, x0) = problem(n=1)
    _, _, got = final(prob, THREE, topology("complete", 1), recipe(rounds=3))
    parts = [x0[0, cut].clone().requires_grad_() for cut in COORDINATES]
    for _ in range(3):
        for part in parts:
            optimiser = torch.optim.Adam([part], lr=0.05, betas=(0.9, 0.99), eps=1e-8)
            for _ in range(4):
                x = torch.cat(parts)
                (g,) = torch.autograd.grad(x @ A[0] @ x / 2 - b[0] @ x, part)
                part.grad = g
                optimiser.step()
    torch.testing.assert_close(vector(got)[0], torch.cat(parts).detach(), rtol=1e-12, atol=1e-12)


def test_complete_graph_and_identical_data_keep_clients_identical():
    prob, _ = problem(same=True)
    _, _, got = final(prob, THREE, topology("complete", N), recipe(feedback=PRINTED))
    x = vector(got)
    torch.testing.assert_close(x, x[:1].expand_as(x), rtol=0, atol=LONG_ROUNDING)


@pytest.mark.parametrize("mix_all", [False, True])
def test_only_the_active_block_moves(mix_all):
    prob, _ = problem()
    plan = tr.plan(prob, THREE, ring, recipe())
    before = tr.begin(plan)
    for visit in plan.visits:
        for _ in range(plan.recipe.inner_steps):
            state, _ = next(tr.train(plan, before))
            for k, (x, y) in enumerate(zip(before.blocks, state.blocks, strict=True)):
                assert torch.equal(x, y) == (k != visit.block)
            before = state


def test_mixing_all_blocks_keeps_every_mean_and_shrinks_every_disagreement():
    prob, _ = problem()
    prob = prob._replace(
        start={name: v + torch.arange(N, dtype=v.dtype)[:, None] for name, v in prob.start.items()}
    )
    plan = tr.plan(prob, THREE, ring, recipe(mix_all=True))
    state, _ = next(tr.train(plan))
    x = plan.problem.start["c"]
    torch.testing.assert_close(
        state.blocks[2], torch.from_numpy(ring.matrices[0]) @ x, rtol=ROUNDING, atol=ROUNDING
    )
    assert not torch.equal(
        state.blocks[0], torch.from_numpy(ring.matrices[0]) @ plan.problem.start["a"]
    )


def test_moments_belong_to_the_active_block_only_and_start_anew():
    prob, _ = problem()
    plan = tr.plan(prob, THREE, ring, recipe())
    for state, _ in tr.train(plan):
        visit, r = divmod(state.step - 1, plan.recipe.inner_steps)
        over = r + 1 == plan.recipe.inner_steps
        assert set(state.moments) == (set() if over else {plan.visits[visit].block})
        if not over:
            assert state.moments[plan.visits[visit].block].steps == r + 1


def test_starting_again_from_any_step_gives_the_same_bits():
    prob, _ = problem(noise=0.3)
    plan = tr.plan(prob, THREE, ring, recipe(feedback=PRINTED, order=ORDERS["reshuffled"]))
    whole = [state for state, _ in tr.train(plan)]
    for middle in (whole[2], whole[3], whole[10]):
        for state, _ in tr.train(plan, middle):  # noqa: B007
            pass
        assert all(torch.equal(a, b) for a, b in zip(state.blocks, whole[-1].blocks, strict=True))
        assert (state.sent == whole[-1].sent).all()


def everything(state):
    """Every tensor and number of a state, to compare."""
    moments = [leaf for k in sorted(state.moments) for leaf in op.leaves(state.moments[k])]
    wire = [
        state.sent,
        *state.wire.letters.values(),
        *state.wire.tables.values(),
        *state.wire.tallies.values(),
    ]
    return [
        state.step,
        *state.blocks,
        *moments,
        *wire,
        *([] if state.master is None else [state.master]),
    ]


def equal(one, other):
    pairs = list(zip(everything(one), everything(other), strict=True))
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else np.array_equal(a, b) for a, b in pairs
    )


VALUES = {
    "deca": (recipe(feedback=PRINTED), []),
    "kept, rarely mixed": (
        recipe(feedback=PRINTED, keep_moments=True, mix_every=3, mix_all=True),
        [],
    ),
    "tracking": (recipe()._replace(optimiser=op.gradient_tracking(), keep_moments=True), []),
    "amsgrad": (recipe(combine_first=True)._replace(optimiser=op.amsgrad(Adam())), []),
    "quasi-global": (recipe()._replace(optimiser=op.quasi_global_sgd()), []),
    "late and absent": (
        recipe(feedback=PRINTED),
        [
            lossy(
                Faults(
                    drop=0.2,
                    away=(Spell(1, 3, 8),),
                    stale=0.5,
                    noise=0.01,
                    clients=N,
                    turns=24,
                    mix_every=1,
                ),
                1,
            )
        ],
    ),
    "short": (recipe(feedback=PRINTED), [compressed(compressor("top-k", 0.5, 8, 0.5), 0)]),
    "short and lost": (
        recipe(feedback=PRINTED),
        [
            lossy(Faults(drop=0.3, stale=0.3, clients=N, turns=24), 1),
            compressed(compressor("quantised", 0.5, 3, 0.5), 0),
        ],
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_state_is_a_value(name):
    """What is yielded stays as it is, and goes on twice to the same end, whoever else went on from it."""
    rec, wraps = VALUES[name]
    prob, _ = problem(noise=0.3)
    plan = tr.plan(prob, THREE, ring, rec, *wraps)
    kept = [state for state, _ in tr.train(plan)]
    photographs = [pickle.loads(pickle.dumps(state)) for state in kept]
    for middle in (0, 2, 3, 10):
        again = [state for state, _ in tr.train(plan, kept[middle])]
        assert all(equal(a, b) for a, b in zip(again, kept[middle + 1 :], strict=True))
    assert all(equal(a, b) for a, b in zip(kept, photographs, strict=True))
    used_up = tr.train(plan, pickle.loads(pickle.dumps(kept[2])), donate=True)
    assert all(equal(a, b) for (a, _), b in zip(used_up, kept[3:], strict=True))


def test_donated_states_are_used_up_and_others_are_not():
    """The check above can fail: a step that donates changes the moments of the state before it."""
    prob, _ = problem()
    plan = tr.plan(prob, THREE, ring, recipe(feedback=PRINTED))
    state, _ = next(tr.train(plan))
    before = pickle.loads(pickle.dumps(state))
    next(tr.train(plan, state))
    assert equal(state, before)
    next(tr.train(plan, state, donate=True))
    assert not equal(state, before)


def test_bfloat16_mixes_and_steps_on_a_float32_master():
    torch.manual_seed(0)
    start, target = torch.randn(3, 8), torch.randn(3, 8)
    prob = Problem(
        {"w": start.bfloat16()},
        lambda p, batch: ((p["w"] - batch) ** 2).sum(),
        lambda step: target.bfloat16(),
    )
    rec = recipe(rounds=1, inner_steps=6)
    plan = tr.plan(prob, (Block("w", ("w",)),), topology("ring", 3), rec)
    for state, _ in tr.train(plan):
        assert state.blocks[0].dtype == torch.bfloat16
        assert (state.master is None) == (state.step == 6)
        if state.master is not None:
            assert state.master.dtype == state.moments[0].m.dtype == torch.float32
            assert torch.equal(state.master.bfloat16(), state.blocks[0])
    x, W = start.bfloat16().float(), torch.from_numpy(topology("ring", 3).matrices[0]).float()
    m, v = torch.zeros_like(x), torch.zeros_like(x)
    for t in range(1, 7):
        g = (2 * (x.bfloat16() - target.bfloat16())).float()
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
        x = W @ (x - 0.05 * (m / (1 - 0.9**t)) / ((v / (1 - 0.99**t)).sqrt() + 1e-8))
    torch.testing.assert_close(state.blocks[0], x.bfloat16(), rtol=1e-2, atol=1e-2)


@cases("name", list(sc.SCHEDULES))
def test_schedules_are_those_of_transformers(name):
    from transformers import get_scheduler

    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    kind = "constant_with_warmup" if name == "constant" else name
    theirs = get_scheduler(kind, optimiser, num_warmup_steps=3, num_training_steps=11)
    ours = sc.schedule(0.3, sc.SCHEDULES[name], 11, 3)
    for s in range(11):
        assert ours(s) == pytest.approx(theirs.get_last_lr()[0], abs=ROUNDING)
        optimiser.step()
        theirs.step()


def test_topology_of_another_size_is_refused():
    prob, _ = problem()
    with pytest.raises(
        BadInput, match="topology = '4 clients' cannot be used: it must be for the problem's 5"
    ):
        tr.plan(prob, THREE, topology("ring", 4), recipe())


def test_blocks_that_miss_a_name_are_refused():
    prob, _ = problem()
    with pytest.raises(BadInput, match=r"1 trainable names are in no block .*: b"):
        tr.plan(prob, (THREE[0], THREE[2]), ring, recipe())


def test_client_rows_do_not_touch_without_mixing():
    prob, _ = problem()
    alone = Topology("alone", (np.eye(N),))
    _, _, got = final(prob, WHOLE, alone, recipe(rounds=1))
    one = Problem(
        {n: v[2:3] for n, v in prob.start.items()},
        prob.loss,
        lambda s: tuple(t[2:3] for t in prob.batches(s)),
    )
    _, _, lone = final(one, WHOLE, topology("complete", 1), recipe(rounds=1))
    for name, value in client(lone, 0).items():
        torch.testing.assert_close(value, got[name][2], rtol=LONG_ROUNDING, atol=LONG_ROUNDING)


@pytest.mark.slow
def test_ten_thousand_inner_steps_leave_the_memory_flat():
    import gc
    import resource

    rng = np.random.default_rng(0)
    A = torch.from_numpy(np.stack([np.diag(rng.uniform(0.5, 2, 10))] * 64))
    problem = quadratics(
        A, torch.from_numpy(rng.standard_normal((64, 10))), torch.zeros(64, 10, dtype=torch.float64)
    )
    optimiser = adam(Adam(), Feedback(SIGNALS["printed"], SCALES["raw"], 0.99, 0.999))
    recipe = tr.Recipe(10, 1000, lambda step: 0.01, optimiser)
    going = tr.train(tr.plan(problem, [Block("all", ("x",))], topology("ring", 64), recipe))
    held = []
    for step, _ in enumerate(going, 1):
        if step in (2000, 10_000):
            gc.collect()
            tensors = sum(type(thing) is torch.Tensor for thing in gc.get_objects())
            held.append((tensors, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
    assert held[1][0] <= held[0][0] + 2
    assert held[1][1] - held[0][1] < 16_000  # KiB; 8,000 states would be 40 MB
