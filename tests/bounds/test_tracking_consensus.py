"""Disagreement of gradient tracking: random runs, the witness, broken hypotheses, edge sizes, a plain loop."""

import numpy as np
import pytest
import torch
from cases import cases

from deca_lab.bounds import tracking_consensus as tc
from deca_lab.bounds.landscape import as_problem, quadratics, tug_of_war, valleys
from deca_lab.errors import BadInput
from deca_lab.mixing.topology import topology


@pytest.mark.parametrize("combine_first", [False, True])
@pytest.mark.parametrize("graph", ["ring", "star", "complete", "path"])
@cases("seed", range(3))
def test_random_runs_hold_and_are_finite(graph, seed, combine_first):
    land = [quadratics, valleys][seed % 2](6, 4, seed=seed)
    problem = as_problem(land, 1, noise=0.5 * seed, seed=seed)[0]
    for usual in (False, True):
        found = tc.tracking_consensus(problem, topology(graph, 6), 0.1, 25, combine_first, usual)
        assert (found.finite, found.verdict) == (True, "holds")


@pytest.mark.parametrize("graph", ["ring", "star", "path"])
@pytest.mark.parametrize("alpha", [0.01, 1.0])
def test_the_witness_attains_it(graph, alpha):
    W = topology(graph, 7).at(0)
    found = tc.tracking_consensus(tc.witness(W, alpha), W, alpha, 1)
    assert found.ratios[0] == pytest.approx(1, rel=1e-9)
    assert found.holds()
    assert tc.tracking_consensus(tc.witness(W, alpha), W, alpha, 1, usual=True).ratios[0] < 1


def test_broken_the_second_eigenvalue_and_a_w_that_moves_the_mean():
    assert tc.broken().verdict == "fails at step 1"
    skew = topology(np.array([[0.9, 0.1], [0.5, 0.5]]))
    problem = as_problem(tug_of_war(2, 1), 1)[0]
    sound = tc.tracking_consensus(problem, topology("complete", 2), 0.1, 4)
    lhs, *_ = tc.run(problem, skew, 0.1, 4, False)
    assert not sound._replace(lhs=lhs).holds()


@pytest.mark.parametrize("combine_first", [False, True])
def test_both_sides_are_a_plain_loop(combine_first):
    land, W = quadratics(5, 3), topology("path", 5).at(0)
    problem = as_problem(land, 1)[0]
    found = tc.tracking_consensus(problem, W, 0.1, 12, combine_first)
    l2 = np.sort(np.abs(np.linalg.eigvalsh(W)))[-2] ** 2
    X = problem.start["x0"].numpy()
    y = g = land.gradients(problem.start["x0"]).numpy()
    for k in range(12):
        before, pulled = np.square(X - X.mean(0)).sum(), np.square(y - y.mean(0)).sum()
        X = W @ X - 0.1 * y if combine_first else W @ (X - 0.1 * y)
        new = land.gradients(torch.from_numpy(X)).numpy()
        y, g = W @ y + new - g, new
        rhs = (1 + l2) / 2 * before + 0.01 * (1 if combine_first else l2) * (1 + l2) / (
            1 - l2
        ) * pulled
        assert found.lhs[k] == pytest.approx(np.square(X - X.mean(0)).sum(), rel=1e-9)
        assert found.rhs[k] == pytest.approx(rhs, rel=1e-9)


@cases(("clients", "d", "steps"), [(1, 1, 1), (2, 1, 1), (2, 3, 4)])
def test_edge_sizes(clients, d, steps):
    problem = as_problem(quadratics(clients, d), 1)[0]
    assert tc.tracking_consensus(problem, topology("complete", clients), 0.1, steps).holds()


def test_examples_hold_and_the_measured_slack():
    found = tc.examples()
    assert all(bound.holds() for bound in found.values())
    assert 0.1 < found["combine then adapt"].tightness < 0.6


@cases(
    ("changed", "words"),
    [({"alpha": 0.0}, "alpha = 0.0"), ({"W": np.eye(2)}, "singular value below")],
)
def test_bad_input(changed, words):
    given = {
        "problem": as_problem(tug_of_war(), 1)[0],
        "W": topology("complete", 2),
        "alpha": 0.1,
        "steps": 2,
    }
    with pytest.raises(BadInput, match=words):
        tc.tracking_consensus(**{**given, **changed})
    with pytest.raises(BadInput, match="between 0 and 1"):
        tc.witness(topology("complete", 3).at(0), 0.1)
