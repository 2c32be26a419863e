"""The worst case of DGD: runs below the program's value, that below the theorem, known values, broken hypotheses, plain loops."""

import numpy as np
import pytest
import torch
from cases import cases
from reference import ROUNDING

from deca_lab import errors
from deca_lab.bounds import dgd_worst_case as dw
from deca_lab.errors import BadInput
from deca_lab.mixing.topology import topology

pytestmark = pytest.mark.filterwarnings("ignore")  # cvxpy and its solvers warn of their own


@cases("seed", range(5))
@pytest.mark.parametrize(
    ("steps", "clients", "rho"), [(1, 2, 0.0), (3, 2, 0.8), (5, 4, 0.5), (10, 3, 0.9)]
)
def test_random_runs_stay_below_the_theorem(steps, clients, rho, seed):
    found = dw.simulated(steps, clients, rho, runs=6, seed=seed)
    assert np.isfinite(found).all()
    assert (found <= dw.theorem(steps, rho)).all()
    assert (found >= -1e-12).all()


def test_random_runs_stay_below_the_worst_case_and_some_come_near():
    pytest.importorskip("PEPit")
    worst = dw.worst_case(2, 2, 0.5)
    found = dw.simulated(2, 2, 0.5, runs=200)
    assert found.max() <= worst * (1 + 1e-6)  # the solver's accuracy
    assert found.max() > 0.25 * worst


def test_known_values():
    pytest.importorskip("PEPit")
    found = dw.dgd_worst_case(5, 3, 0.8)
    assert found.lhs == pytest.approx(0.680, abs=1e-3)
    assert found.rhs == pytest.approx(4.92, abs=5e-3)
    assert found.holds()
    assert dw.theorem(10, 0.5) == pytest.approx(1.58, abs=5e-3)


def test_where_nobody_is_apart_it_is_the_subgradient_method():
    """rho = 0 mixes to the mean at once; one step from 1 away: the worst case of the plain method is D R / sqrt(2) for K = 1."""
    pytest.importorskip("PEPit")
    values = [dw.worst_case(1, 2, rho) for rho in (0.0, 0.5, 0.9)]
    assert values[0] == pytest.approx(
        values[1], abs=1e-4
    )  # all start equal: the first mixing moves nobody
    assert values[0] == pytest.approx(values[2], abs=1e-4)
    assert 0 < values[0] <= 1


def test_broken_larger_subgradients():
    assert dw.broken().verdict == "fails at run 1"


def test_a_run_is_a_plain_loop():
    rng = np.random.default_rng([3, 0, 0xD6])
    centres = rng.standard_normal(3) * 10.0 ** rng.uniform(-2, 1)
    W, best = dw.random_w(3, 0.7, rng), np.median(centres)
    x = np.full(3, best + 1.0)
    visited = [x]
    for _ in range(4):
        x = W @ x - np.sign(x - centres) / 2
        visited.append(x)
    mean = np.mean(visited)
    want = np.abs(mean - centres).mean() - np.abs(best - centres).mean()
    assert dw.simulated(4, 3, 0.7, runs=1, seed=3)[0] == pytest.approx(want, rel=1e-10)


@cases("seed", range(10))
def test_random_w_is_what_the_claim_asks_for(seed):
    W = dw.random_w(5, 0.6, np.random.default_rng(seed))
    np.testing.assert_allclose([W.sum(0), W.sum(1)], 1)
    np.testing.assert_allclose(W, W.T, atol=ROUNDING)
    assert np.abs(np.linalg.eigvalsh(W - 0.2)).max() == pytest.approx(0.6)
    assert topology(W).n == 5


def test_without_pepit_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    monkeypatch.setattr(dw, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"needs PEPit: pip install 'deca-lab\[pep\]'"):
        dw.dgd_worst_case()
    assert list(dw.examples()) == ["runs against the theorem"]
    assert dw.examples()["runs against the theorem"].holds()


@cases(
    ("call", "words"),
    [
        (lambda: dw.theorem(0, 0.5), "steps = 0"),
        (lambda: dw.theorem(5, 1.0), r"rho = 1\.0"),
        (lambda: dw.simulated(5, 3, 0.5, runs=0), "runs = 0"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(BadInput, match=words):
        call()
    assert torch.get_default_dtype() == torch.float32
