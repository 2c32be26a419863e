"""An optimiser of one's own: a state that would not come back as it was, and a step that writes elsewhere, are refused."""

from itertools import starmap

import pytest
import torch

import deca_lab as dl
from deca_lab import BadInput, Problem, RunConfig, Stopped, fit

CONFIG = RunConfig(clients=3, rounds=1, inner_steps=4, lr=0.1, checkpoint_every=1, device="cpu")
ROWS = torch.linspace(-1, 1, 3 * 5 * 2).reshape(3, 5, 2)
PROBLEM = Problem(
    {"w": torch.zeros(3, 2)},
    lambda params, rows: (rows @ params["w"] - 1).square().mean(),
    lambda step: ROWS,
)


def zeros(*names):
    return lambda x: {name: torch.zeros_like(x) for name in names}


def momentum(g, state):
    m = 0.9 * state.get("m", 0) + g
    return m, {"m": m}


def halves(g, state, x):
    return g, (x.mul_(0.5), state)[1]


def twice(x):
    one = torch.zeros_like(x)
    return {"m": one, "v": one}


BAD = [
    (zeros(), momentum, "state that optimiser.update returns = .'m'. .* with .., as init's"),
    (zeros("m"), lambda g, s: (g, {"m": s["m"].double()}), "torch.float64 and shape .* as init's"),
    (zeros("m"), lambda g, s: (g, {"m": g.sum(1)}), r"shape \(3,\)' .* shape \(3, 2\), as init's"),
    (lambda x: {"t": 0}, lambda g, s: (g, {"t": s["t"] + 0.5}), "type float' .* type int"),
    (lambda x: [0], lambda g, s: (g, (0,)), "a list of 1, as init's"),
    (twice, lambda g, s: (g, s), "tensors that share memory"),
    (zeros(), halves, "optimiser.update = 'one that writes into x'"),
    (lambda x: {"m": x.add_(1)}, lambda g, s: (g, s), "optimiser.init = 'one that writes into x'"),
    *(
        (zeros(), lambda g, s, kind=kind: (g.to(kind), s), "torch.float32, as the gradient is")
        for kind in (torch.float64, torch.float16, torch.int64, torch.bool)
    ),
]


@pytest.mark.parametrize(("init", "update", "words"), BAD)
def test_a_step_that_could_not_go_on_gets_one_line(init, update, words):
    with pytest.raises(BadInput, match=words):
        fit(PROBLEM, CONFIG, optimiser=dl.optimiser(init, update))


def reordered(g, state):
    """Return the state's names in another order at every step."""
    a, b = state["a"], state["b"]
    return a + g, {"b": b + 1, "a": 0.9 * a + g}


def spread(g, state):
    return g.mean(0).expand_as(g), state  # one row, seen by all clients


def with_a_graph(g, state):
    return g.clone().requires_grad_() * 2, state


KINDS = {
    "reordered": (zeros("a", "b"), reordered),
    "expanded": (zeros(), spread),
    "with a graph": (zeros(), with_a_graph),
    "counts": (
        lambda x: {"t": torch.zeros(len(x), dtype=torch.int64)},
        lambda g, s: (g, {"t": s["t"] + 1}),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_in_any_order_comes_back_as_it_was(kind, tmp_path):
    given = lambda: dl.optimiser(*KINDS[kind])  # noqa: E731
    whole = fit(PROBLEM, CONFIG, optimiser=given())
    with pytest.raises(Stopped):
        fit(PROBLEM, CONFIG, tmp_path / "run", lambda step, *_: step == 2, optimiser=given())
    again = fit(PROBLEM, out=tmp_path / "run", resume=True, optimiser=given())
    assert again.metrics.equals(whole.metrics)


def test_an_expanded_direction_is_that_of_a_plain_loop():
    config = RunConfig(**{**vars(CONFIG), "topology": "complete"})
    ends = []
    fit(
        PROBLEM,
        config,
        optimiser=dl.optimiser(*KINDS["expanded"]),
        callbacks=[lambda s: ends.append(s.mean)],
    )
    w = torch.zeros(2, requires_grad=True)
    for _ in range(4):
        losses = starmap(PROBLEM.loss, (({"w": w}, rows) for rows in ROWS))
        (g,) = torch.autograd.grad(sum(losses) / 3, w)
        w = (w - 0.1 * g).detach().requires_grad_()
    assert torch.allclose(ends[-1]["w"], w, atol=1e-6)


def test_a_third_argument_with_a_default_of_its_own_is_a_knob_and_x_is_not_put_there():
    def update(g, state, rate=0.9):
        m = rate * state["m"] + g
        return m, {"m": m}

    def optax(g, state, params=None):
        return update(g + 0 * params, state)

    written = dl.optimiser(zeros("m"), lambda g, state: update(g, state, 0.9))
    wanted = fit(PROBLEM, CONFIG, optimiser=written).metrics
    for own in (
        update,
        optax,
        lambda *given: optax(*given),
        lambda g, state, x: optax(g, state, x),
    ):
        got = fit(PROBLEM, CONFIG, optimiser=dl.optimiser(zeros("m"), own)).metrics
        assert got["test_loss"].tolist() == pytest.approx(wanted["test_loss"].tolist(), rel=1e-6)


@pytest.mark.parametrize("given", ["callbacks", "metrics"])
def test_who_writes_into_a_snapshot_is_told(given):
    def writes(seen):
        return float(seen.params["w"].zero_().sum()) > 1

    def reads(seen):  # copies of ours, and one of its own
        seen.mean["w"].zero_()
        return float(seen.params["w"].clone().zero_().sum()) > 1

    parts = {"callbacks": lambda f: [f], "metrics": lambda f: {"mine": lambda s: float(f(s))}}
    fit(PROBLEM, CONFIG, **{given: parts[given](reads)})
    with pytest.raises(BadInput, match="writes into the run's parameters"):
        fit(PROBLEM, CONFIG, **{given: parts[given](writes)})
