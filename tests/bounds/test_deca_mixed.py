"""Mixed second moments: agreement and descent along random runs, the witness, broken hypotheses, edge sizes, plain loops."""

import numpy as np
import pytest
import torch
from cases import cases

from deca_lab.algorithm import moments as mo
from deca_lab.algorithm.optimisers import mixed_adam
from deca_lab.bounds import deca_mixed as dm
from deca_lab.bounds.feedback_step import constants
from deca_lab.bounds.landscape import quadratics, valleys
from deca_lab.bounds.trace import Setting, trace
from deca_lab.errors import BadInput
from deca_lab.mixing.topology import topology

SMALL = Setting(topology("ring", 5), 2, 3, 4, 0.03)


@pytest.mark.parametrize("graph", ["ring", "star", "complete"])
@pytest.mark.parametrize("make", [quadratics, valleys])
@cases("seed", range(3))
def test_random_runs_hold_and_are_finite(make, graph, seed):
    land, setting = (
        make(5, 5, seed=seed),
        SMALL._replace(topology=topology(graph, 5), noise=0.2 * seed, seed=seed),
    )
    for found in (
        dm.agreement(land, setting),
        dm.deca_mixed(land, setting, seeds=3 if seed else 1),
    ):
        assert (found.finite, found.verdict) == (True, "holds")


@pytest.mark.parametrize("share", [0.6, 0.8, 0.95])
def test_one_that_pulls_attains_the_agreement_at_every_turn(share):
    pair = Setting(
        topology(np.array([[share, 1 - share], [1 - share, share]])),
        1,
        1,
        12,
        0.01,
        mo.Adam(eps=1e-12),
    )
    found = dm.agreement(dm.one_pulls(), pair)
    np.testing.assert_allclose(found.ratios, 1, rtol=1e-9)


def test_no_step_is_longer_than_its_constant_and_the_usual_one_is_exceeded():
    land, most, usual = dm.one_pulls(), [], constants(4, mo.Adam(), 1.0, 1.0)
    pair = Setting(topology("complete", 2), 1, 1, 4, 0.01, mo.Adam(eps=0.0))
    for step in trace(land, pair, mixed_adam(pair.adam, pair.feedback)):
        most.append(float(step.direction.abs().max()))
    assert most[0] == pytest.approx(2**0.5)  # own gradient over the mean square of both
    assert (np.array(most) <= dm.mixed_turns(pair, 2).C * (1 + 1e-9)).all()
    assert (np.array(most) > usual).all()


def test_the_agreement_is_a_plain_loop():
    land, W = valleys(5, 4), SMALL.topology.at(0)
    found, steps = (
        dm.agreement(land, SMALL),
        trace(land, SMALL, mixed_adam(SMALL.adam, SMALL.feedback)),
    )
    v = np.zeros(1)
    for k, step in enumerate(steps):
        v = W @ ((0.999 * v if step.turn > 1 else np.zeros((5, 2))) + 0.001 * step.g.numpy() ** 2)
        v_hat = v / (1 - 0.999**step.turn)
        assert found.lhs[k] == pytest.approx(
            np.linalg.norm(v_hat - v_hat.mean(0), axis=0).max(), rel=1e-7
        )


def test_shares_by_hand():
    rho, a2 = 0.5, 0.9
    W = np.array([[0.75, 0.25], [0.25, 0.75]])
    setting = Setting(topology(W), 1, 1, 3, 0.01, mo.Adam(0.9, a2))
    want = [
        sum(0.1 * a2 ** (r - s) * rho ** (r - s + 1) for s in range(1, r + 1)) / (1 - a2**r)
        for r in (1, 2, 3)
    ]
    np.testing.assert_allclose(dm.shares(setting), want, rtol=1e-12)
    assert not dm.shares(setting._replace(topology=topology("complete", 4))).round(12).any()


@pytest.mark.slow
def test_broken_deca_itself_is_not_covered_and_stops_short():
    assert dm.broken().verdict.startswith("fails at inner step")
    hills = quadratics(4, 1, zeta=3.0, far=0.0, lonely=True)
    setting = Setting(topology("complete", 4), 1, 120, 6, 5e-3, mo.Adam(0.0, 0.5, 0.1))
    ends = [dm.deca_mixed(hills, setting, repaired=repaired) for repaired in (True, False)]
    assert ends[0].holds()
    assert ends[0].lhs[-1] < 1e-20 < 0.5 < ends[1].lhs[-1]


def test_a_longer_run_with_smaller_steps_has_a_smaller_right_side_on_a_complete_graph():
    land, rhs = valleys(4, 3), []
    for rounds in (4, 16):
        setting = Setting(topology("complete", 4), 1, rounds, 4, 0.02 / rounds**0.5)
        rhs.append(dm.deca_mixed(land, setting).rhs[-1])
    assert rhs[1] / rhs[0] == pytest.approx(
        0.5, abs=0.03
    )  # no floor: clients differ, all divide alike


@cases(("clients", "d", "steps"), [(1, 1, 1), (1, 2, 3), (2, 1, 1)])
def test_edge_sizes(clients, d, steps):
    setting = SMALL._replace(topology=topology("complete", clients), blocks=1, inner_steps=steps)
    assert dm.deca_mixed(valleys(clients, d), setting).holds()
    assert dm.agreement(valleys(clients, d), setting).holds()


def test_examples_hold():
    assert all(bound.holds() for bound in dm.examples().values())


def test_bad_input():
    fed = SMALL._replace(feedback=mo.Feedback(mo.printed, mo.raw, 0.9, 0.9))
    for claim in (dm.deca_mixed, dm.agreement):
        with pytest.raises(BadInput, match="feedback"):
            claim(valleys(5, 4), fed)
    deaf = topology(np.array([[0.0, 1.0], [1.0, 0.0]]))
    with pytest.raises(BadInput, match="a client must hear itself"):
        dm.mixed_turns(SMALL._replace(topology=deaf), 2)
    assert torch.equal(dm.one_pulls().data, torch.tensor([[1.0], [0.0]]).double())
