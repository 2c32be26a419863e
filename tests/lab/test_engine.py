"""`--engine loop` takes clients one after another everywhere: a model that torch.vmap refuses runs, and is measured."""

from dataclasses import replace

import pytest
import torch
from cases import cases
from torch import nn

from deca_lab.algorithm.gradients import in_turn
from deca_lab.algorithm.problems import Problem
from deca_lab.errors import BadInput
from deca_lab.lab.fit import fit
from deca_lab.lab.runs import run
from deca_lab.runconfig import RunConfig

CONFIG = RunConfig(
    clients=3,
    alpha=100.0,
    context=40,
    batch=2,
    rounds=1,
    inner_steps=2,
    eval_windows=3,
    lr=0.01,
    device="cpu",
)
ROWS = [(f"{n} no {n + 1}", "even" if n % 2 == 0 else "odd") for n in range(240)]


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.embed, self.head = nn.Embedding(259, 8), nn.Linear(8, 259)

    def forward(self, ids):
        return self.head(torch.tanh(self.embed(ids)))


class Branching(Plain):
    """The same function, but it looks at its numbers, which torch.vmap refuses."""

    def forward(self, ids):
        out = super().forward(ids)
        return out if out.sum().item() == out.sum().item() else -out


@pytest.mark.parametrize("task", ["lm", "classify", "generate"])
def test_the_loop_runs_and_measures_what_cannot_be_stacked(task):
    config = replace(CONFIG, task=task, engine="loop")
    rows = [{"text": a, "answer" if task == "generate" else "label": b} for a, b in ROWS]
    looped = run(config, model=Branching(), dataset=rows)
    stacked = run(replace(config, engine="stacked"), model=Plain(), dataset=rows)
    assert looped.metrics.columns.tolist() == stacked.metrics.columns.tolist()
    numbers = looped.metrics.select_dtypes("number").drop(columns="peak_bytes")
    for name in numbers.columns.drop("seconds", errors="ignore"):
        wanted = stacked.metrics[name].tolist()
        assert numbers[name].tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-6), name
    with pytest.raises(BadInput, match=r"cannot be stacked over clients \(torch\.vmap"):
        run(replace(config, engine="stacked"), model=Branching(), dataset=rows)


def test_a_fit_by_the_loop_stacks_nothing():
    start = {"w": torch.randn(3, 4, generator=torch.Generator().manual_seed(0))}

    def loss(params, batch):
        value = (params["w"] - batch).square().sum()
        return value if value.item() >= 0 else -value

    problem = Problem(start, loss, lambda step: torch.arange(12.0).view(3, 4) / 12)
    config = replace(RunConfig(clients=3, rounds=1, inner_steps=3, device="cpu"), engine="loop")
    looped = fit(problem, config)
    plain = problem._replace(loss=lambda p, batch: (p["w"] - batch).square().sum())
    stacked = fit(plain, replace(config, engine="stacked"))
    for name in ("test_loss", "own_loss", "client_test_loss", "gradient_norm"):
        assert looped.metrics[name].tolist() == pytest.approx(stacked.metrics[name].tolist())


@cases("dims", [0, (0, 0), (0, None)])
def test_in_turn_is_vmap(dims):
    g = torch.Generator().manual_seed(0)
    params = {"w": torch.randn(4, 3, generator=g), "b": torch.randn(4, generator=g)}
    common = isinstance(dims, tuple) and dims[1] is None
    clients = () if common else (4,)
    batch = (torch.randn(*clients, 5, 3, generator=g), torch.randn(*clients, 3, generator=g))

    def f(p, pair):
        return (pair[0] @ p["w"] + p["b"]) * pair[1].sum()

    torch.testing.assert_close(in_turn(f, dims)(params, batch), torch.vmap(f, dims)(params, batch))
