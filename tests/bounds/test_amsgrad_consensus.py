"""Consensus of decentralised AMSGrad: random runs, measured slack, broken hypotheses, edge sizes, a plain loop."""

import numpy as np
import pytest
import torch
from cases import cases

from deca_lab.algorithm.moments import Adam
from deca_lab.bounds import amsgrad_consensus as ac
from deca_lab.bounds.landscape import as_problem, quadratics, tug_of_war, valleys
from deca_lab.errors import BadInput
from deca_lab.mixing.topology import topology


@pytest.mark.parametrize("graph", ["ring", "star", "complete"])
@pytest.mark.parametrize("make", [quadratics, valleys])
@cases("seed", range(3))
def test_random_runs_hold_and_are_finite(make, graph, seed):
    for sharper in (False, True):
        found = ac.amsgrad_consensus(
            make(6, 4, seed=seed),
            topology(graph, 6),
            0.02,
            25,
            1e-4 * 10**seed,
            Adam(0.9, 0.9 + 0.03 * seed),
            noise=seed,
            seed=seed,
            sharper=sharper,
        )
        assert (found.finite, found.verdict) == (True, "holds")


def test_the_measured_slack_and_the_line_that_loses():
    found = ac.examples()
    assert all(bound.holds() for bound in found.values())
    assert found["quadratics"].tightness < 0.01  # loose, and said so
    assert found["quadratics, sharper"].tightness > 5 * found["quadratics"].tightness
    assert found["tug of war, sharper"].tightness > 0.9  # what is left comes near


def test_the_right_side_by_hand():
    found = ac.amsgrad_consensus(
        tug_of_war(2, 3), topology(np.array([[0.75, 0.25], [0.25, 0.75]])), 0.1, 5, floor=0.04
    )
    assert found.rhs[0] == pytest.approx(0.01 * 3 * 1 / (0.04 * 0.25))  # G = 1, rho = 1/2


def test_the_left_side_is_a_plain_loop():
    land, W, floor = valleys(5, 3), topology("ring", 5).at(0), 1e-3
    found = ac.amsgrad_consensus(land, topology("ring", 5), 0.05, 15, floor)
    X = as_problem(land, 1)[0].start["x0"].numpy()
    m, v, largest, u = (
        np.zeros((5, 3)),
        np.zeros((5, 3)),
        np.full((5, 3), floor),
        np.full((5, 3), floor),
    )
    for k in range(15):
        g = land.gradients(torch.from_numpy(X)).numpy()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        new = np.maximum(largest, v)
        u, largest = W @ (u + new - largest), new
        X = W @ X - 0.05 * m / np.sqrt(np.maximum(u, floor))
        assert found.lhs[k] == pytest.approx(np.square(X - X.mean(0)).sum() / 5, rel=1e-8)


def test_broken_a_smaller_floor_and_larger_gradients():
    assert ac.broken().verdict.startswith("fails at step")
    pair = topology(np.array([[0.9, 0.1], [0.1, 0.9]]))
    steep = tug_of_war()._replace(data=50 * tug_of_war().data)
    told = ac.amsgrad_consensus(tug_of_war(), pair, 0.01, 80, floor=4.0)
    assert not told._replace(lhs=ac.amsgrad_consensus(steep, pair, 0.01, 80, floor=4.0).lhs).holds()


@cases(("clients", "d", "steps"), [(1, 1, 1), (2, 1, 1), (1, 3, 4)])
def test_edge_sizes(clients, d, steps):
    assert ac.amsgrad_consensus(
        quadratics(clients, d), topology("complete", clients), 0.1, steps
    ).holds()


@cases(
    ("changed", "words"),
    [
        ({"alpha": 0.0}, "alpha = 0.0"),
        ({"floor": 0.0}, "floor = 0.0"),
        ({"topology": topology("none", 2)}, "rho below 1"),
    ],
)
def test_bad_input(changed, words):
    given = {
        "landscape": tug_of_war(),
        "topology": topology("complete", 2),
        "alpha": 0.1,
        "steps": 2,
    }
    with pytest.raises(BadInput, match=words):
        ac.amsgrad_consensus(**{**given, **changed})
