"""Small problems in closed form as NumPy operations: the loop's states up to rounding, and nothing that is more than that."""

import numpy as np
import torch
from cases import cases

from deca_lab.algorithm import loop as tr
from deca_lab.algorithm import moments as mo
from deca_lab.algorithm import optimisers as op
from deca_lab.algorithm.blocks import whole
from deca_lab.algorithm.channel import gossip
from deca_lab.algorithm.problems import quadratics
from deca_lab.bounds.rates import cut
from deca_lab.bounds.units import unit
from deca_lab.mixing.topology import topology
from deca_lab.network.faults import Faults, require_possible
from deca_lab.network.lossy_mixing import lossy


def small(
    optimiser, graph="ring", noise=0.0, n=6, wraps=(), dtype=torch.float64, carrier=gossip, **knobs
):
    """A plan of three rounds on quadratics, which have a closed form."""
    rng = np.random.default_rng(5)
    roots, b, start = (rng.standard_normal((n, *shape)) for shape in ((4, 4), (4,), (4,)))
    A = torch.from_numpy(roots @ roots.transpose(0, 2, 1)).to(dtype)
    problem = quadratics(A, *(torch.from_numpy(v).to(dtype) for v in (b, start)), noise)
    recipe = tr.Recipe(3, 7, lambda s: 0.02 / (1 + s), optimiser, **knobs)
    return tr.plan(
        problem, whole(["x"]), topology(graph, n, seed=1), recipe, *wraps, carrier=carrier
    )


def fed(signal, scale=mo.raw):
    return op.adam(mo.Adam(), mo.Feedback(signal, scale, 0.8, 0.9))


SMALL_RULES = [
    op.sgd(),
    op.sgd(0.7),
    fed(None),
    fed(mo.printed),
    fed(mo.downhill),
    op.predictable_adam(mo.Adam(0.8, 0.9)),
]


def all_of(state):
    return [*state.blocks, *op.leaves(list(state.moments.values())), torch.tensor(state.sent)]


@cases("optimiser", SMALL_RULES)
@cases(
    "knobs",
    [
        {},
        {"mix_every": 3},
        {"combine_first": True},
        {"keep_moments": True, "noise": 0.3},
        {"graph": "one-peer-exponential", "n": 8},
        {"graph": "server"},
    ],
)
def test_small_problems_are_the_loops_up_to_rounding(optimiser, knobs):
    plan = small(optimiser, **knobs)
    assert tr.is_small(plan)
    want = list(tr.loop(plan, tr.begin(plan), plan.problem.exact, donate=False))
    got = list(tr.train(plan))
    kept = [[part.clone() for part in map(torch.as_tensor, all_of(state))] for state, _ in got]
    for (state, losses), (right, right_losses) in zip(got, want, strict=True):
        torch.testing.assert_close(losses, right_losses, rtol=1e-13, atol=1e-14)
        for a, b in zip(all_of(state), all_of(right), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    *_, (last, _) = tr.train(plan, got[9][0])  # a state is a value, and goes on from anywhere
    assert all(map(torch.equal, *(map(torch.as_tensor, all_of(s)) for s in (last, got[-1][0]))))
    *_, (last, _) = tr.train(plan, donate=True)
    assert all(map(torch.equal, *(map(torch.as_tensor, all_of(s)) for s in (last, got[-1][0]))))
    for (state, _), before in zip(got, kept, strict=True):
        assert all(map(torch.equal, map(torch.as_tensor, all_of(state)), before))


@cases("optimiser", SMALL_RULES)
@cases("knobs", [{}, {"mix_every": 3}, {"keep_moments": True, "mix_all": True}])
def test_several_blocks_are_the_loops_up_to_rounding(optimiser, knobs):
    problem, blocks = cut(unit(1, clients=6, d=5).problem, 2)
    plan = tr.plan(
        problem, blocks, topology("ring", 6), tr.Recipe(3, 4, lambda s: 0.1, optimiser, **knobs)
    )
    assert tr.is_small(plan)
    want = list(tr.loop(plan, tr.begin(plan), plan.problem.exact, donate=False))
    for (state, losses), (right, right_losses) in zip(tr.train(plan), want, strict=True):
        torch.testing.assert_close(losses, right_losses, rtol=1e-12, atol=1e-14)
        for a, b in zip(all_of(state), all_of(right), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    one = tr.plan(
        problem,
        whole(list(problem.start)),
        topology("ring", 6),
        tr.Recipe(3, 4, lambda s: 0.1, optimiser),
    )
    assert not tr.is_small(one)  # two names in a block


def test_what_is_more_than_a_small_problem_goes_through_the_loop():
    lost = lossy(
        require_possible(Faults(drop=0.2, clients=6, turns=21), topology("ring", 6), 21), 1
    )
    plan = small(op.sgd())
    spied = plan.optimisers[0]._replace(update=lambda g, m, x, exchange: (g, m))
    for other in (
        small(op.sgd(), wraps=[lost]),
        small(op.sgd(), carrier=lambda *laid: gossip(*laid)),
        small(op.sgd(), clip=1.0),
        small(op.sgd(), weight_decay=0.1),
        small(op.sgd(), dtype=torch.float32),
        small(op.sgd(), n=80),
        small(fed(mo.printed, mo.per_lr_)),
        small(fed(mo.zero)),
        small(op.gradient_tracking()),
        plan._replace(optimisers=(spied,)),
        plan._replace(problem=plan.problem._replace(arrays=None)),
    ):
        assert not tr.is_small(other)
