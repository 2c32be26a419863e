"""Gradients of DGD: random runs, the witness, measured slack, broken hypotheses, edge sizes, a plain loop."""

import numpy as np
import pytest
import torch
from cases import cases

from deca_lab.bounds import dgd_gradient as dg
from deca_lab.bounds.landscape import quadratics, valleys
from deca_lab.errors import BadInput
from deca_lab.mixing.topology import topology


@pytest.mark.parametrize("graph", ["ring", "path", "star", "complete"])
@pytest.mark.parametrize("make", [quadratics, valleys])
@cases("seed", range(3))
def test_random_runs_hold_and_are_finite_up_to_the_largest_step(make, graph, seed):
    land, W = make(6, 5, seed=seed), topology(graph, 6)
    for share in (0.1, 1.0):
        alpha = share * dg.largest_step(land, W)
        for found in (dg.dgd_gradient(land, W, alpha, 25), dg.disagreement(land, W, alpha, 25)):
            assert (found.finite, found.verdict) == (True, "holds")


def test_the_witness_attains_it_at_the_start():
    found = dg.dgd_gradient(dg.witness(), topology("complete", 4), 0.5, 5)
    assert found.ratios[0] == pytest.approx(1, rel=1e-12)
    assert found.holds()


def test_the_measured_slack():
    found = dg.examples()
    assert all(bound.holds() for bound in found.values())
    assert 0.3 < found["quadratics"].tightness <= 1
    assert 0.02 < found["quadratics, disagreement"].tightness < 0.5


def test_the_largest_gradient_by_hand():
    land = dg.witness(4)
    x, c = float(land.start[0]), land.data[:, 0].numpy()
    assert dg.largest_gradient(land) == pytest.approx(
        np.sqrt(np.square(x - c).sum())
    )  # L = 1, f_i = (x - c_i)^2 / 2


def test_the_run_is_a_plain_loop():
    land, W = quadratics(5, 3), topology("ring", 5)
    got = dg.dgd_gradient(land, W, 0.2, 10)
    a = np.geomspace(0.1, 1, 3)
    X = np.tile(land.start.numpy(), (5, 1))
    for k in range(10):
        g = a * (X - land.data.numpy())
        assert got.lhs[k] == pytest.approx(np.linalg.norm(g), rel=1e-10)
        X = W.at(0) @ X - 0.2 * g
    np.testing.assert_allclose(dg.run(land, W, 0.2, 10)[-1], X, rtol=1e-10)


def test_broken_a_step_that_is_too_large_and_clients_that_never_meet():
    assert dg.broken().verdict.startswith("hypothesis broken: the learning rate is above")
    assert not dg.broken().holds()
    land = quadratics(4, 3, zeta=3.0)
    told = dg.disagreement(land, topology("complete", 4), 0.1, 60)
    apart = dg.run(land, topology("none", 4), 0.1, 60)
    assert not told._replace(
        lhs=np.array([float((x - x.mean(0)).norm()) for x in apart[1:]])
    ).holds()


@cases(("clients", "d", "steps"), [(1, 1, 1), (2, 1, 1), (1, 4, 3)])
def test_edge_sizes(clients, d, steps):
    land, W = quadratics(clients, d), topology("complete", clients)
    assert dg.dgd_gradient(land, W, 0.3, steps).holds()
    assert dg.disagreement(land, W, 0.3, steps).holds()


def test_bad_input():
    with pytest.raises(BadInput, match="alpha = 0"):
        dg.run(quadratics(2, 2), topology("complete", 2), 0, 2)
    with pytest.raises(BadInput, match="of a symmetric W"):
        dg.run(quadratics(3, 2), topology(np.roll(np.eye(3), 1, 1)), 0.1, 2)
    with pytest.raises(BadInput, match="rho below 1"):
        dg.disagreement(quadratics(2, 2), topology("none", 2), 0.1, 2)
    assert torch.is_tensor(dg.run(quadratics(2, 2), topology("complete", 2), 0.1, 1)[0])
