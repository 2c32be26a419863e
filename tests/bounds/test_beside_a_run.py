"""Theory beside a real run: what holds, what is broken and says so, estimates against exact constants, the command."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from cases import quick
from command import SMALL, deca_lab, options

from deca_lab.algorithm.problems import quadratics as problem_of
from deca_lab.bounds.beside_a_run import beside
from deca_lab.bounds.estimates import curvature, estimate
from deca_lab.bounds.landscape import as_problem, quadratics
from deca_lab.errors import BadInput
from deca_lab.lab import runs
from deca_lab.runconfig import RunConfig

BASE = RunConfig(**SMALL)


@pytest.fixture(scope="module")
def history():
    return runs.run(BASE)


def test_what_a_deca_run_must_satisfy_holds(history):
    verdicts = beside(history)
    assert list(verdicts) == ["traffic", "memory", "consensus", "gradient"]
    assert {one.verdict for one in verdicts.values()} == {"holds"}
    assert 0.01 < verdicts["consensus"].bound.tightness < 1
    assert "L = " in verdicts["gradient"].rests_on
    assert verdicts["consensus"].bound.lhs[0] == pytest.approx(
        np.sqrt(4 * history.metrics["consensus[embeddings]"].iloc[1])
    )


def test_a_block_that_drifts_farther_than_it_can_is_found(history):
    name = f"consensus[{history.metrics['block'].iloc[-1]}]"
    wild = history.metrics.assign(**{name: history.metrics[name] * 1e4})
    assert beside(replace(history, metrics=wild))["consensus"].verdict.startswith(
        "fails at measurement"
    )
    more = history.edges.assign(measured=history.edges["measured"] + 1)
    assert beside(replace(history, edges=more))["traffic"].verdict == "fails at edge 1"
    memory = {**history.summary["memory"], "measured_peak": 2 * history.summary["memory"]["peak"]}
    assert beside(replace(history, summary={**history.summary, "memory": memory}))[
        "memory"
    ].verdict.startswith("fails")


@pytest.mark.parametrize(
    "knobs",
    quick(
        [
            {"method": "deca-no-feedback", "topology": "star"},
            {"combine": "before"},
            {"mix_every": 2},
            {"mixed": "all"},
            {"moments": "keep", "rounds": 2},
            {"method": "d-adam", "topology": "one-peer-exponential"},
            {"dtype": "bfloat16"},
            {
                "lr_scheduler_type": "cosine",
                "feedback": "downhill",
                "feedback_scale": "lr",
                "b1": 0.9,
                "b2": 0.9,
            },
            {"dtype": "float64"},
        ]
    ),
)
def test_disagreement_is_bounded_whatever_the_recipe(knobs):
    verdicts = beside(runs.run(replace(BASE, **knobs)))
    assert verdicts["consensus"].verdict == "holds"
    assert verdicts["traffic"].verdict == "holds"


@pytest.mark.parametrize(
    ("knobs", "claim", "words"),
    quick(
        [
            ({"weight_decay": 0.1}, "consensus", "weight decay"),
            ({"b2": 1.0, "b1": 0.5}, "consensus", "b2 = 1 with b1 < 1"),
            ({"method": "qg-adam"}, "consensus", "qg-adam"),
            ({"moments": "keep"}, "gradient", "kept between visits"),
            ({"mix_every": 2}, "gradient", "less often"),
            ({"combine": "before"}, "gradient", "combine then adapt"),
            ({"feedback": "downhill", "feedback_scale": "lr"}, "gradient", "not raw"),
            ({"method": "local"}, "traffic", "nobody sends"),
            ({"method": "local"}, "gradient", "rho = 1"),
            ({"method": "d-sgd", "lr": 5.0}, "gradient", "learning rate is above"),
            ({"method": "d-sgd", "momentum": 0.9}, "gradient", "momentum"),
        ],
        2,
    ),
)
def test_a_broken_hypothesis_is_named(knobs, claim, words):
    verdict = beside(runs.run(replace(BASE, **knobs)))[claim]
    assert verdict.verdict.startswith("hypothesis broken: ")
    assert words in verdict.verdict
    assert verdict.bound is None


def test_d_sgd_with_a_small_learning_rate_is_bounded():
    verdicts = beside(runs.run(replace(BASE, method="d-sgd", lr=1e-4)))
    assert verdicts["gradient"].verdict == "holds"
    assert 0 < verdicts["gradient"].bound.tightness < 1


def test_interference_of_a_dec_lora_run():
    verdicts = beside(runs.run(replace(BASE, method="dec-lora", lr=0.02)))
    assert verdicts["interference"].verdict == "holds"
    assert verdicts["consensus"].verdict == "holds"


def test_estimates_of_a_problem_whose_constants_are_exact():
    land = quadratics(6, 5, zeta=2.0)
    found = estimate(as_problem(land, 1, noise=0.3)[0], batches=64, turns=60)
    assert found.smoothness == pytest.approx(1.0, rel=1e-3)  # the largest a
    assert found.sigma == pytest.approx(0.3 * 5**0.5, rel=0.05)
    assert found.zeta == pytest.approx(2.0, rel=0.05)
    assert found.loss == pytest.approx(land.mean(land.start), rel=0.1)
    assert "64 batches" in found.words()


def test_curvature_is_the_largest_eigenvalue_of_any_client():
    rng = np.random.default_rng(0)
    roots = rng.standard_normal((3, 4, 4))
    A = torch.from_numpy(roots @ roots.transpose(0, 2, 1))
    problem = problem_of(A, torch.zeros(3, 4).double(), torch.ones(3, 4).double())
    found = curvature(lambda x: torch.einsum("nij,nj->ni", A, x), problem.start["x"], 200)
    assert found == pytest.approx(float(torch.linalg.eigvalsh(A).max()), rel=1e-6)


def test_one_batch_has_no_spread():
    with pytest.raises(BadInput, match="batches = 1"):
        estimate(as_problem(quadratics(2, 2))[0], batches=1)


@pytest.mark.slow
def test_the_command_writes_the_table_and_the_picture(capsys, tmp_path):
    said = deca_lab(capsys, "run", "--bounds", *options(out=tmp_path / "run", **SMALL))
    assert said.code == 0
    assert "disagreement of the active block: holds, tightness" in said.out
    table = pd.read_csv(tmp_path / "run" / "bounds.csv")
    # five of them the gradient, with more and more of it seen, the curvature last
    assert table["verdict"].tolist() == ["holds"] * 9
    assert (tmp_path / "run" / "bounds.png").stat().st_size > 1000
