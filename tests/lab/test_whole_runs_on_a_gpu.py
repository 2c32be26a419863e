"""Whole runs on a GPU that is pretended: every tensor on its device, the same numbers as on the processor, to the bit."""

import numpy as np
import pytest
import torch
from cases import cases
from pretend_gpu import GPU, OnGpu, pretended

from deca_lab import Problem, RunConfig, fit, resume, run
from deca_lab.bounds.beside_a_run import beside
from deca_lab.errors import BadInput, Stopped
from deca_lab.lab.export import export_model
from deca_lab.lab.fit import prepare_problem
from deca_lab.lab.objects import NOTHING
from deca_lab.lab.prepare import find_device
from deca_lab.lab.samples import samples
from deca_lab.methods import METHODS

N = 4
FINDERS = "deca_lab.lab.prepare.find_device", "deca_lab.lab.own_problem.find_device"
POOLED = [name for name, method in METHODS.items() if method.pooled]
ON_THE_WAY = [
    {"compress": "top-k", "away": "0@0.5"},
    {"compress": "quantised", "drop": 0.3},
    {"compress": "random-k"},
    {"max_grad_norm": 1.0, "weight_decay": 0.1, "mix_every": 2},
    {"mixed": "all", "combine": "before"},
    {"topology": "complete"},
    {"topology": "one-peer-exponential"},
    {"drop": 0.3, "away": "1@0.2-0.6", "stragglers": "3@2"},
    {"garbage": "2@0-1", "engine": "loop"},
    {"stale": 0.5, "delay": 2, "noise": 0.1},
    {"feedback_scale": "unit", "moments": "keep"},
]
TEXT = {"model": "tiny", "corpus": "markov", "context": 32, "batch": 2, "clients": 3}
TEXT |= {"rounds": 1, "inner_steps": 2, "eval_windows": 2, "blocks": "whole", "device": "cuda"}
RUNS = [
    {"method": "dec-lora", "base_weights": "nf4"},
    {"method": "decaf"},
    {"method": "centralised"},
    {"task": "classify", "eval_windows": 16},
    {"task": "classify", "head": "trained", "model": "llama-tiny", "eval_windows": 16},
    {"task": "generate", "corpus": "instructions", "context": 96},
    {"model": "llama-tiny", "attention": "sdpa", "micro_batch": 1},
    {"engine": "loop", "gradient_checkpointing": True},
    {"dtype": "bfloat16"},
]


def factors(dtype=torch.float32):
    """Least squares with a pair of LoRA's factors: what every method can train."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(6, N, 5, 3, generator=draw, dtype=dtype)
    a = torch.randn(2, 3, generator=draw, dtype=dtype).repeat(N, 1, 1)
    b = torch.zeros(N, 4, 2, dtype=dtype)
    start = {"m.lora_A": a, "m.lora_B": b, "bias": torch.ones(N, 3, dtype=dtype)}

    def loss(params, rows):
        low = rows @ params["m.lora_A"].mT @ params["m.lora_B"].mT
        return (low.sum(-1) + rows @ params["bias"] - 1).square().mean()

    return Problem(start, loss, lambda step: rows[step % 6].clone())


def fitted(device, **knobs):
    config = RunConfig(clients=N, rounds=1, inner_steps=3, device=device, **knobs)
    return fit(factors(torch.bfloat16 if config.seed else torch.float32), config)


@cases("knobs", [*({"method": m} for m in METHODS if m not in POOLED), *ON_THE_WAY, {"seed": 1}])
@pytest.mark.slow
def test_a_fit_says_the_same_as_on_the_processor(knobs):
    """With seed 1 in half precision."""
    here = fitted("cpu", **knobs)
    with pretended(*FINDERS):
        there = fitted("cuda", **knobs)
    assert there.summary["device"] == str(GPU)
    numbers = [h.metrics.drop(columns="peak_bytes").select_dtypes("number") for h in (here, there)]
    np.testing.assert_array_equal(*numbers)


@cases("knobs", RUNS)
@pytest.mark.slow
def test_a_run_is_stopped_resumed_exported_and_read(knobs, tmp_path):
    place = tmp_path / str(len(list(tmp_path.iterdir())))
    config = RunConfig(**{**TEXT, **knobs})
    with pretended(*FINDERS):
        with pytest.raises(Stopped):
            run(config, place, lambda step, steps, known: True)
        done = resume(place)
        export_model(place, out=place / "model")
        samples(place, count=1, length=2)
    assert done.summary["device"] == str(GPU)
    assert len(done.train) == 2


def test_auto_takes_cuda_where_torch_sees_it_and_never_apples_gpu(monkeypatch):
    for there, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert find_device("auto").type == kind
    with pytest.raises(BadInput, match="'cuda' is not there: torch sees cpu"):
        find_device("cuda")
    with pytest.raises(BadInput, match=r"device = 'mps' cannot be used: .* no float64"):
        find_device("mps")


def test_a_problem_goes_whole_to_the_device_that_is_asked_for():
    problem = factors()._replace(evaluation=(torch.ones(N, 5, 3),))
    problem = problem._replace(loss=lambda params, rows: params["bias"].sum() * rows[0].sum())
    problem = problem._replace(batches=lambda step: (torch.ones(N, 5, 3),))
    with pretended(*FINDERS):
        lab = prepare_problem(problem, RunConfig(clients=N, device="cuda"), NOTHING)
        moved = lab.objects.problem
        (batch,), (kept,) = moved.batches(0), moved.evaluation
        assert all(isinstance(t, OnGpu) for t in (*moved.start.values(), batch, kept))
        auto = prepare_problem(problem, RunConfig(clients=N), NOTHING)
    assert auto.device == torch.device("cpu")  # its start lies there


def test_a_loss_that_reads_a_tensor_elsewhere_gets_one_line():
    weights = torch.ones(3)
    problem = factors()._replace(loss=lambda params, rows: (params["bias"] * weights).sum())
    words = "its loss raises RuntimeError: .*same device"
    with pretended(*FINDERS), pytest.raises(BadInput, match=words):
        fit(problem, RunConfig(clients=N, device="cuda"))


def test_an_optimiser_whose_state_is_elsewhere_gets_one_line():
    own = lambda x: torch.zeros(x.shape), lambda g, state: (g, state)
    words = f"on cpu'? cannot be used: .* on {GPU} as x is"
    with pretended(*FINDERS), pytest.raises(BadInput, match=words):
        fit(factors(), RunConfig(clients=N, device="cuda", blocks="whole"), optimiser=own)


def test_the_pretended_gpu_refuses_what_a_gpu_refuses():
    with pretended():
        there, here = torch.ones(3, device=GPU), torch.ones(3)
        assert there.tolist() == here.tolist() == (there + torch.tensor(0.0)).cpu().tolist()
        for fault in (
            lambda: there + here,
            lambda: torch.cat([there, here]),
            lambda: here[torch.zeros(1, dtype=torch.int64, device=GPU)],
            lambda: torch.nn.functional.linear(here[None], there[None]),
        ):
            with pytest.raises(RuntimeError, match="same device"):
                fault()
        with pytest.raises((RuntimeError, TypeError)):
            there.numpy()


@cases("method", ["deca", "deca-predictable", "d-sgd"])
@pytest.mark.slow
def test_the_bounds_beside_a_run_are_computed_from_there(method):
    config = RunConfig(**{**TEXT, "blocks": "layers", "inner_steps": 1, "method": method})
    with pretended(*FINDERS):
        assert len(beside(run(config))) > 3
