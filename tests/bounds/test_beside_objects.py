"""Theory beside a fit and beside a run of objects: exact constants of quadratics, what a lab is needed for, what is broken."""

from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
import torch
from command import SMALL
from test_objects import heavy_ball

from deca_lab import BadInput, Problem, RunConfig, fit, load, run
from deca_lab.bounds.beside_a_run import beside
from deca_lab.bounds.estimates import estimate

N, STEPS, LR = 5, 24, 0.01
RNG = np.random.default_rng(3)
TURN = np.linalg.qr(RNG.standard_normal((4, 4)))[0]
A = TURN @ np.diag([0.1, 0.3, 0.5, 1.5]) @ TURN.T
CENTRES = RNG.standard_normal((N, 4))
START = np.full(4, 2.0)
GAP = np.mean([(START - c) @ A @ (START - c) / 2 for c in CENTRES])
SGD = RunConfig(
    clients=N, method="d-sgd", rounds=1, inner_steps=STEPS, lr=LR, eval_every=1, device="cpu"
)
DECA = replace(SGD, method="deca", rounds=2, inner_steps=6)


def problem(low=0.0, spread=0.0):
    """f_i(x) = (x - c_i)' A (x - c_i) / 2 + low from (2, 2, 2, 2), with `spread` between the clients' starts."""
    hessian, centres = torch.from_numpy(A), torch.from_numpy(CENTRES)

    def loss(params, centre):
        y = torch.cat([params["u"], params["w"]]) - centre
        return y @ hessian @ y / 2 + low

    start = torch.from_numpy(START + spread * np.arange(N)[:, None])
    return Problem({"u": start[:, :3], "w": start[:, 3:]}, loss, lambda step: centres)


def d_sgd_by_hand():
    """The mean squared gradient at the mean model after 1 .. STEPS steps of adapt, then combine, on a ring."""
    W = (np.eye(N) + np.roll(np.eye(N), 1, 1) + np.roll(np.eye(N), -1, 1)) / 3
    x, squares = np.tile(START, (N, 1)), []
    for _ in range(STEPS):
        x = W @ (x - LR * (x - CENTRES) @ A)
        squares.append(np.square(A @ (x - CENTRES).mean(0)).sum())
    return np.cumsum(squares) / np.arange(1, STEPS + 1), np.linalg.norm(W - 1 / N, 2)


def right_side(rho):
    """The claim's two terms with the quadratics' own constants, written out: of the start, of the disagreement; sigma = 0."""
    L = np.linalg.eigvalsh(A)[-1]
    zeta2 = np.square((CENTRES - CENTRES.mean(0)) @ A).sum() / N
    return 2 * GAP / (LR * np.arange(1, STEPS + 1)), L**2 * LR**2 * rho**2 * 4 * zeta2 / (
        1 - rho
    ) ** 2


def test_the_claim_of_d_sgd_beside_a_fit_has_the_quadratics_own_constants():
    verdicts = beside(fit(problem(), SGD))
    lhs, rho = d_sgd_by_hand()
    bound = verdicts["gradient"].bound
    np.testing.assert_allclose(bound.lhs, lhs, rtol=1e-9)
    start, apart = right_side(rho)
    np.testing.assert_allclose(bound.rhs - apart, start, rtol=1e-9)
    np.testing.assert_allclose(
        bound.rhs - start, apart, rtol=1e-4
    )  # L from 8 turns of power iteration
    assert {
        name: verdicts[name].verdict for name in ("traffic", "memory", "gradient")
    } == dict.fromkeys(("traffic", "memory", "gradient"), "holds")
    assert f"L = {np.linalg.eigvalsh(A)[-1]:.3g}" in verdicts["gradient"].rests_on
    assert "no loss is below 0" in verdicts["gradient"].rests_on


def test_batches_that_are_always_the_same_have_no_noise():
    found = estimate(problem())
    assert found.sigma < 1e-7 * found.steepest


def test_a_learning_rate_beyond_the_largest_eigenvalue_is_named():
    _, rho = d_sgd_by_hand()
    most = (1 - rho) / (2 * np.linalg.eigvalsh(A)[-1] * rho)
    for lr, broken in ((0.99 * most, False), (1.01 * most, True)):
        verdict = beside(fit(problem(), replace(SGD, lr=lr)))["gradient"].verdict
        assert verdict.startswith("hypothesis broken: the learning rate is above") == broken


def test_the_claims_of_deca_hold_beside_a_fit():
    verdicts = beside(fit(problem(), DECA))
    assert {name: one.verdict for name, one in verdicts.items()} == dict.fromkeys(
        ("traffic", "memory", "consensus", "gradient"), "holds"
    )
    assert verdicts["consensus"].rests_on == "float64 arithmetic"
    assert 0.01 < verdicts["consensus"].bound.tightness < 1


@pytest.mark.parametrize(
    ("given", "claims", "words"),
    [
        (
            {"low": 1e-3 - GAP},
            ["gradient"],
            "a loss is below 0",
        ),  # above 0 at the start, below it later
        ({"spread": 0.1}, ["gradient", "consensus"], "do not start with equal models"),
    ],
)
@pytest.mark.parametrize("config", [SGD, DECA], ids=["d-sgd", "deca"])
def test_a_problem_that_breaks_a_hypothesis_is_told(config, given, claims, words):
    verdicts = beside(fit(problem(**given), config))
    for name in claims if config is DECA else ["gradient"]:
        assert verdicts[name].verdict.startswith("hypothesis broken: ")
        assert words in verdicts[name].verdict


def test_an_optimiser_of_ones_own_has_no_constant():
    config = replace(DECA, rounds=1)
    verdicts = beside(fit(problem(), config, optimiser=heavy_ball()))
    broken = (
        "hypothesis broken: the steps of an optimiser of one's own have no constant of their own"
    )
    assert verdicts["gradient"].verdict == broken
    assert verdicts["traffic"].verdict == "holds"


def told(history, lab=None):
    return {name: one.verdict for name, one in beside(history, lab).items()}


def test_a_folder_of_a_fit_needs_its_lab(tmp_path):
    done = fit(problem(), DECA, tmp_path / "run")
    again = load(tmp_path / "run")
    with pytest.raises(
        BadInput, match=r"^lab is missing: corpus of this run were given as objects.*pass lab="
    ) as caught:
        beside(again)
    assert "\n" not in str(caught.value)
    assert told(again, done.lab) == told(done)
    other = fit(problem(), replace(DECA, lr=0.02))
    with pytest.raises(
        BadInput, match=r"lab = .* cannot be used: it must be that of a run with the same lr$"
    ):
        beside(again, other.lab)


def test_only_a_run_of_objects_keeps_its_lab_and_shows_nothing_of_it(tmp_path):
    config = RunConfig(**{**SMALL, "inner_steps": 1, "device": "cpu"})
    named, given = run(config), run(config, tmp_path / "run", topology=nx.cycle_graph(4))
    assert named.lab is None
    assert given.lab.config == given.config
    assert load(tmp_path / "run").lab is None
    assert "Lab" not in repr(given)
    assert told(given) == told(named)
    with pytest.raises(BadInput, match="lab is missing: topology of this run"):
        beside(replace(given, lab=None))


def test_a_fits_lab_takes_no_memory_but_the_problems():
    mine = problem()
    kept = fit(mine, SGD).lab.plan.problem.start
    assert all(kept[name].data_ptr() == mine.start[name].data_ptr() for name in mine.start)
