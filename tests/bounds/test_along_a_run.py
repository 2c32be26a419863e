"""The theorem along a run: what was seen, against the lines of the proof; rungs that hold and come nearer; what is told."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from command import SMALL
from test_beside_objects import DECA, problem

from deca_lab import fit
from deca_lab.algorithm import moments as mo
from deca_lab.algorithm.loop import Recipe, plan
from deca_lab.algorithm.optimisers import adam
from deca_lab.bounds import along_a_run as along
from deca_lab.bounds import deca_descent as dd
from deca_lab.bounds.beside_a_run import beside
from deca_lab.bounds.landscape import as_problem, valleys
from deca_lab.bounds.trace import Setting, trace
from deca_lab.lab import runs
from deca_lab.mixing.topology import topology
from deca_lab.runconfig import RunConfig

FED = mo.Feedback(mo.printed, mo.raw, 0.9, 0.99)
SETTING = Setting(topology("ring", 4), 2, 3, 4, 0.03, feedback=FED)


def seen(land):
    made, blocks = as_problem(land, 2)
    recipe = Recipe(3, 4, lambda s: 0.03, adam(SETTING.adam, FED))
    t = dd.turns(4, SETTING.adam, 0.9, 0.99)
    data = (land.data, torch.zeros_like(land.data))
    return along.walk(plan(made, blocks, SETTING.topology, recipe), data, SETTING.adam, t), t


def test_the_walk_is_what_the_lines_of_the_proof_see():
    land = valleys(4, 5)
    walk, t = seen(land)
    steps = trace(land, SETTING)
    rows = [dd._line(land, SETTING, step, t) for step in steps]
    for name, line in (("squared", "squared"), ("spread", "spread"), ("stale", "stale")):
        np.testing.assert_allclose(getattr(walk, name), [row[line] for row in rows], rtol=1e-9)
    np.testing.assert_allclose(np.sqrt(walk.error), [row["error"] for row in rows], rtol=1e-9)
    assert (walk.low.min(), walk.high.max()) == dd.divided_by(steps)
    half = [row["descent bound"] / (2.0 * 0.03**2 / 2) for row in rows]  # L lr^2 / 2 || ubar ||^2
    np.testing.assert_allclose(walk.step, half, rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_every_rung_holds_and_comes_nearer_where_constants_are_exact(seed):
    land = valleys(4, 5, seed=seed)
    walk, t = seen(land)
    rungs = along.ladder(walk, dd.known(land, SETTING), SETTING, t)
    assert list(rungs) == [
        "as proved",
        "divisors seen",
        "moments seen",
        "errors seen",
        "curvature seen",
    ]
    assert {one.verdict for one in rungs.values()} == {"holds"}
    ends = [one.rhs[-1] for one in rungs.values()]
    assert ends == sorted(ends, reverse=True)
    np.testing.assert_allclose(
        rungs["as proved"].lhs, dd.deca_descent(land, SETTING).lhs, rtol=1e-9
    )
    assert not rungs["errors seen"]._replace(rhs=0.02 * rungs["errors seen"].rhs).holds()


def test_beside_a_fit_the_theorems_own_left_side_is_measured():
    verdicts = beside(fit(problem(), DECA), again=True)
    names = [name for name in verdicts if name.startswith("gradient, ")]
    assert len(names) == 5
    assert all(verdicts[name].verdict == "holds" for name in names)
    assert len(verdicts[names[0]].bound.lhs) == 24  # every inner step
    assert "divides it by" in verdicts[names[-1]].rests_on
    warm = beside(fit(problem(), replace(DECA, warmup_steps=3)), again=True)
    assert not any(name.startswith("gradient, ") for name in warm)


@pytest.mark.slow
def test_beside_a_tiny_language_model_the_bound_says_something():
    """As proved 3e-12 of the right side at eps 1e-8; with what was seen it comes within 100."""
    longer = {**SMALL, "inner_steps": 16, "rounds": 2, "device": "cpu"}
    verdicts = beside(runs.run(RunConfig(**longer)), again=True)
    assert verdicts["gradient, as proved"].bound.tightness < 1e-9
    last = verdicts["gradient, errors seen"]
    assert last.verdict == "holds"
    assert last.bound.tightness > 0.01
