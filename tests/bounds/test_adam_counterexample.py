"""The counter-example: both ends exactly, random steps, broken hypotheses, edge cases, and a plain loop of the recursions."""

import numpy as np
import pytest
import torch
from cases import cases
from reference import ROUNDING

from deca_lab.algorithm import optimisers
from deca_lab.algorithm.moments import Adam, Feedback, downhill, printed, raw
from deca_lab.bounds import adam_counterexample as ac
from deca_lab.errors import BadInput


@pytest.mark.parametrize("alpha", [0.5, 0.31, 0.2, 0.05])
def test_both_ends_are_exact_for_any_step(alpha):
    stuck, tracked = ac.adam_counterexample([alpha]), ac.repaired([alpha])
    assert (stuck.finite, stuck.verdict, tracked.holds()) == (True, "holds", True)
    assert (tracked.verdict == "holds") == (alpha <= ac.MONOTONE)
    assert stuck.lhs[0] == pytest.approx(0.5, abs=1e-9)


def test_the_known_numbers():
    assert [round(ac.tracked_end(alpha), 4) for alpha in (0.2, 0.05, 0.01)] == [
        0.3574,
        0.3401,
        0.3347,
    ]
    assert ac.slope(0.5) == 0.5
    assert ac.slope(1 / 3) == pytest.approx(0, abs=ROUNDING)


def test_both_recursions_in_a_plain_loop():
    x = np.array([-1.0, -1.0])
    y, largest, u = x.copy(), np.zeros(2), np.zeros(2)
    for _ in range(150):
        x = x.mean() - 0.2 * np.array(
            [4 * np.clip(x[0], -1, 1) / 4, 2 * np.clip(x[1] - 1, -1, 1) / 2]
        )
        g = np.array([4 * np.clip(y[0], -1, 1), 2 * np.clip(y[1] - 1, -1, 1)])
        new = np.maximum(largest, g**2)
        u, largest = np.full(2, (u + new - largest).mean()), new
        y = y.mean() - 0.2 * g / np.sqrt(u)
    assert x.mean() == pytest.approx(0.5, abs=1e-9)
    assert y.mean() == pytest.approx(ac.tracked_end(0.2), abs=1e-9)
    assert ac.end(ac.two_clients(), optimisers.local_amsgrad(ac.STILL), 0.2) == pytest.approx(
        x.mean(), abs=1e-9
    )


def test_the_problem_is_the_papers():
    problem = ac.two_clients()
    for x in np.linspace(-3, 3, 25):
        want = [
            2 * x**2 if abs(x) <= 1 else 4 * abs(x) - 2,
            (x - 1) ** 2 if abs(x - 1) <= 1 else 2 * abs(x - 1) - 1,
        ]
        got = [float(problem.loss({"x": torch.tensor([x])}, data)) for data in problem.batches(0)]
        assert got == pytest.approx(want)


def test_broken_clients_of_one_size_and_a_shared_second_moment():
    assert ac.broken().verdict == "hypothesis broken: these are other clients"
    assert ac.broken()._replace(broken="").verdict == "fails at alpha number 1"
    assert ac.repaired((0.395,)).verdict == "holds"
    assert ac.repaired((0.4,)).verdict == "hypothesis broken: alpha is above 0.395"
    assert ac.slope(
        ac.end(ac.two_clients(scales=(1.0, 1.0)), optimisers.local_amsgrad(ac.STILL), 0.2),
        scales=(1.0, 1.0),
    ) == (pytest.approx(0, abs=1e-9))
    shared = ac.end(ac.two_clients(), optimisers.amsgrad(ac.STILL, floor=1e-300), 0.05)
    assert abs(ac.slope(shared)) < 0.05  # not 1/2


@pytest.mark.slow
@pytest.mark.parametrize("signal", [None, printed, downhill])
def test_deca_itself_stops_short_and_mixed_second_moments_do_not(signal):
    fed = Feedback(signal, raw, 0.99, 0.999)
    ends = [
        ac.end(ac.two_clients(), make(Adam(0.0, 0.5, 1e-8), fed), 0.02, False, rounds=10)
        for make in (optimisers.adam, optimisers.mixed_adam)
    ]
    assert abs(ac.slope(ends[0])) > 0.2
    assert abs(ac.slope(ends[1])) < 0.05


def test_examples_hold():
    assert all(bound.holds() for bound in ac.examples().values())


@cases("alpha", [0.0, 0.6])
def test_bad_input(alpha):
    with pytest.raises(BadInput, match=r"alpha = 0\."):
        ac.adam_counterexample([alpha])
