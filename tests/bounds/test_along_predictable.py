"""The repair's theorem along a run: rungs that hold and come nearer where constants are exact, and what is told of a run."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_beside_objects import DECA, problem

from deca_lab import fit
from deca_lab.algorithm import moments as mo
from deca_lab.algorithm.loop import Recipe, plan
from deca_lab.algorithm.optimisers import predictable_adam
from deca_lab.bounds import along_predictable as along
from deca_lab.bounds import deca_predictable as dp
from deca_lab.bounds.beside_a_run import beside
from deca_lab.bounds.deca_descent import divided_by, known
from deca_lab.bounds.landscape import as_problem, valleys
from deca_lab.bounds.trace import Setting
from deca_lab.mixing.topology import topology

SETTING = Setting(topology("ring", 4), 2, 3, 4, 0.01, mo.Adam(0.8, 0.99, 0.1))
RUNGS = ["as proved", "divisors seen", "errors seen", "noise seen", "curvature seen"]


def seen(land, noise=0.0):
    made, blocks = as_problem(land, 2, noise)
    recipe = Recipe(3, 4, lambda s: SETTING.lr, predictable_adam(SETTING.adam), keep_moments=True)
    data = (land.data, torch.zeros_like(land.data))
    return along.walk(plan(made, blocks, SETTING.topology, recipe), data, SETTING.adam)


def test_the_walk_is_what_the_traced_run_shows():
    land = valleys(4, 5)
    walk, steps = seen(land), dp.moving(dp.traced(land, SETTING), SETTING)
    assert len(walk.squared) == len(steps) == 3 * 2 * 4 - 2
    assert (walk.low.min(), walk.high.max()) == divided_by(steps)
    u = [(step.g / step.below).mean(0).square().sum().item() for step in steps]
    np.testing.assert_allclose(walk.step, u, rtol=1e-9)
    np.testing.assert_allclose(walk.chance, 0, atol=1e-9)  # exact gradients: no noise
    np.testing.assert_allclose(walk.steady, walk.error, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_rungs_hold_and_come_nearer_where_constants_are_exact(seed, noise):
    land = valleys(4, 5, seed=seed)
    walk = seen(land, noise)
    rungs = along.ladder(walk, known(land, SETTING), SETTING)
    assert list(rungs) == RUNGS
    for name in RUNGS[2:]:
        assert rungs[name].verdict == "holds", (name, rungs[name].tightness)
    assert (walk.bend <= 2.0 * SETTING.lr / 2 * walk.step * (1 + 1e-9) + 1e-9).all()  # L = 2
    if noise == 0:
        ends = [one.rhs[-1] for one in rungs.values() if not one.broken]
        assert ends == sorted(ends, reverse=True)
        np.testing.assert_allclose(
            rungs["errors seen"].lhs, dp.deca_predictable(land, SETTING).lhs, rtol=1e-9
        )
    without = along.ladder(walk, known(land, SETTING)._replace(gap=0.0), SETTING)
    assert not without["curvature seen"].holds()  # planted: f at the start is left out


def test_a_rung_whose_steps_are_too_long_says_so():
    land = valleys(4, 5)
    rungs = along.ladder(seen(land), known(land, SETTING), SETTING._replace(lr=0.5))
    assert rungs["as proved"].verdict.startswith("hypothesis broken: the learning rate is above")


def test_beside_a_fit_it_is_told_which_term_is_left():
    config = replace(DECA, method="deca-predictable", optimiser="adam-predictable", moments="keep")
    config = replace(config, feedback="none", eps=0.1, lr=1e-3)
    verdicts = beside(fit(problem(), config), again=True)
    assert [name for name in verdicts if name.startswith("gradient, ")] == [
        f"gradient, {name}" for name in RUNGS
    ]
    last = verdicts["gradient, curvature seen"]
    assert last.verdict == "holds"
    assert "times the left side" in last.rests_on
    kept = beside(fit(problem(), replace(config, lr=10.0)))["gradient"]
    assert kept.verdict.startswith("hypothesis broken: the learning rate is above")
