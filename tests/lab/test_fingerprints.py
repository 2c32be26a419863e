"""What a resumed run asks for again: an object that would compute something else is another one, in any process the same."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import deca_lab as dl
from deca_lab import BadInput, Problem, RunConfig, Stopped, fit
from deca_lab.lab import fingerprints
from deca_lab.lab.fingerprints import FINGERPRINTS

CONFIG = RunConfig(clients=3, rounds=1, inner_steps=4, lr=0.01, checkpoint_every=1, device="cpu")
DATA = torch.linspace(-1, 1, 3 * 5 * 2).reshape(3, 5, 2)
RATE, CALLS = 0.9, 0


def squares(params, rows):
    return (rows @ params["w"] - 1).square().mean()


def problem(shift=0.0, loss=squares, **parts):
    return Problem({"w": torch.zeros(3, 2)}, loss, lambda step: DATA + shift, **parts)


def momentum(update, mixed=()):
    return dl.optimiser(lambda x: {"m": torch.zeros_like(x)}, update, mixed)


def step(g, state, rate=0.9):
    m = rate * state["m"] + g
    return m, {"m": m}


def by_global(g, state):
    return step(g, state, RATE)


def by_default(rate):
    def update(g, state, *, rate=rate):
        return step(g, state, rate)

    return momentum(update)


def by_tensor(rate):
    known = {"rate": torch.tensor([rate])}
    return momentum(lambda g, state: step(g, state, known["rate"]))


class HeavyBall:
    def __init__(self, rate):
        self.rate = rate

    def init(self, x):
        return {"m": torch.zeros_like(x)}

    def update(self, g, state):
        return step(g, state, self.rate)


KINDS = {
    "an argument of partial": lambda rate: momentum(functools.partial(step, rate=rate)),
    "an attribute": HeavyBall,
    "a default": by_default,
    "a tensor": by_tensor,
    "what is mixed": lambda rate: momentum(step, ["m"] if rate < 0.5 else []),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimiser_with_another_number_is_another_one(kind, tmp_path):
    make, twin = KINDS[kind], tmp_path / "run"
    whole = fit(problem(), CONFIG, optimiser=make(0.9))
    with pytest.raises(Stopped):
        fit(problem(), CONFIG, twin, lambda step, *_: step == 2, optimiser=make(0.9))
    with pytest.raises(BadInput, match="the same object as before"):
        fit(problem(), out=twin, resume=True, optimiser=make(0.1))
    assert fit(problem(), out=twin, resume=True, optimiser=make(0.9)).metrics.equals(whole.metrics)


def test_a_global_that_is_read_counts_and_one_that_is_written_does_not(monkeypatch):
    def counting(g, state):
        global CALLS
        CALLS += 1
        return by_global(g, state)

    of = lambda: FINGERPRINTS["optimiser"](momentum(counting))  # noqa: E731
    before = of()
    monkeypatch.setitem(globals(), "CALLS", 5)
    assert of() == before
    monkeypatch.setitem(globals(), "RATE", 0.1)
    assert of() != before


class Counting(HeavyBall):
    """An optimiser that keeps books of its own: in the same process they go on while the run was stopped."""

    def __init__(self, rate):
        super().__init__(rate)
        self.calls, self.log, self.seen = 0, [], {}

    def update(self, g, state):
        self.calls += 1
        self.log.append(self.calls)
        self.seen[self.calls] = float(g.norm())
        return super().update(g, state)


def noting(log):
    def update(g, state):
        log.append(len(log))
        return step(g, state)

    return momentum(update)


@pytest.mark.parametrize("one", [Counting(0.9), noting([])], ids=["object", "function"])
def test_the_same_object_goes_on_whatever_it_noted(one, tmp_path):
    with pytest.raises(Stopped):
        fit(problem(), CONFIG, tmp_path / "run", lambda step, *_: step == 2, optimiser=one)
    fit(problem(), out=tmp_path / "run", resume=True, optimiser=one)
    changed = Counting(0.9)
    before = FINGERPRINTS["optimiser"](dl.optimiser(changed.init, changed.update))
    changed.rate = 0.1
    assert FINGERPRINTS["optimiser"](dl.optimiser(changed.init, changed.update)) != before


def test_code_that_is_reached_on_many_ways_is_read_once(monkeypatch):
    """Twelve layers of functions, each calling both of the layer below: 4,096 ways down, and one back up."""
    layers, rate, read, source = [], [0.9], [], fingerprints._source

    def counted(function):
        read.append(function)
        assert len(read) < 100  # at once: on all ways it would take hours
        return source(function)

    monkeypatch.setattr(fingerprints, "_source", counted)
    for _ in range(12):
        layers.append(_pair(*(layers[-1] if layers else (lambda x: rate[0] * x, abs))))
    layers[0][0].__defaults__ = (layers[-1][1],)
    of = lambda: FINGERPRINTS["optimiser"](momentum(layers[-1][0]))  # noqa: E731
    before = of()
    read.clear()
    assert of() == before
    read.clear()
    rate[0] = 0.1
    assert of() != before


def test_what_lies_too_deep_ends():
    chain = lambda g, state: (g, state)  # noqa: E731
    for _ in range(2000):
        chain = functools.partial(chain)
        chain.inner = [chain.func]
    assert FINGERPRINTS["optimiser"](momentum(lambda g, state: chain(g, state)))


def _pair(left, right):
    def first(g, state=None):
        return left(right(g))

    def second(g, state=None):
        return right(left(g))

    return first, second


def test_a_problem_with_other_data_is_another_one(tmp_path):
    with pytest.raises(Stopped):
        fit(problem(evaluation=DATA), CONFIG, tmp_path / "run", lambda step, *_: step == 2)
    for other in (problem(1.0, evaluation=DATA), problem(evaluation=DATA + 1), problem()):
        with pytest.raises(BadInput, match="the same object as before"):
            fit(other, out=tmp_path / "run", resume=True)


def test_a_fingerprint_is_the_same_in_every_process():
    code = "import test_fingerprints as t; print(t.all_of_them())"
    here = Path(__file__).parent
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    env["PYTHONPATH"] = os.pathsep.join([str(here), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    assert done.stdout.strip() == all_of_them()


def all_of_them():
    optimisers = [make(0.9) for kind, make in KINDS.items() if kind != "an attribute"]
    prints = [FINGERPRINTS["optimiser"](one) for one in (*optimisers, momentum(by_global))]
    return " ".join([*prints, FINGERPRINTS["problem"](problem())])
