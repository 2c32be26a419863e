"""What is written where nobody watches: a line a measurement, and once how long the steps take."""

import sys

import pytest

from deca_lab.lab import progress


@pytest.mark.parametrize(
    ("done", "words"),
    [
        ([1, 2, 3, 4, 5], "a step takes 2 s: about 12 s for the 6 steps left"),
        # a GPU is seen now and then: steps are counted, not calls
        ([1, 2, 9], "a step takes 2 s: about 2 s for the step left"),
        ([2, 10], ""),
    ],
)
def test_the_time_left_is_told_once_by_the_steps_that_were_done(done, words, monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(progress, "perf_counter", lambda: clock[0])
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # nobody watches
    known = {"block": "head", "loss": 1.0, "test_loss": 2.0, "measured": 1}
    with progress.bar() as shown:
        for step in done:
            clock[0] = 2.0 * step
            shown(step, 10, known)
    first = f"step {done[0]}/10  block head  train loss 1.000  test loss of the mean model 2.000\n"
    assert capsys.readouterr().err == first + (words and words + "\n")
