"""Dec-LoRA and D-Adam on a tiny GPT against plain loops: a module a client, torch's optimisers, factors averaged one by one."""

import copy

import pytest
import torch
from cases import quick
from command import SMALL

from deca_lab.algorithm import loop as tr
from deca_lab.lab.prepare import prepare
from deca_lab.runconfig import RunConfig


def plain_loop(lab, optimiser_of, local_steps):
    """Return every client's trained parameters after the lab's run, by the algorithm's own words."""
    names = list(lab.plan.problem.start)
    models = [copy.deepcopy(lab.model) for _ in range(lab.config.clients)]
    held = [dict(model.named_parameters()) for model in models]
    optimisers = [optimiser_of([own[name] for name in names]) for own in held]
    W = torch.from_numpy(lab.topology.at(0))
    for step in range(lab.plan.steps):
        tokens, _ = lab.plan.problem.batches(step)
        for i, (model, optimiser) in enumerate(zip(models, optimisers, strict=True)):
            optimiser.zero_grad()
            logits = model(tokens[i][:, :-1]).logits
            torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), tokens[i][:, 1:].flatten()
            ).backward()
            optimiser.step()
        if (step + 1) % local_steps == 0:
            with torch.no_grad():
                for name in names:  # A and B apart
                    old = [own[name].clone() for own in held]
                    for i, own in enumerate(held):
                        own[name].copy_(sum(W[i, j] * old[j] for j in range(len(old))))
    return {name: torch.stack([own[name].detach() for own in held]) for name in names}


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.02, betas=(0.9, 0.999), eps=1e-8)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.02)


@pytest.mark.parametrize("base_weights", quick(["full", "nf4"]))
@pytest.mark.parametrize("local_steps", [1, 5])
@pytest.mark.parametrize(("name", "optimiser"), quick([("adam", adam), ("sgd", sgd)]))
def test_dec_lora_is_the_plain_loop(name, optimiser, local_steps, base_weights):
    lab = prepare(
        RunConfig(
            **{
                **SMALL,
                "method": "dec-lora",
                "optimiser": name,
                "mix_every": local_steps,
                "inner_steps": 10,
                "lr": 0.02,
                "dtype": "float64",
                "base_weights": base_weights,
            }
        )
    )
    for state, _ in tr.train(lab.plan):  # noqa: B007 - the last one is wanted
        pass
    got, want = tr.params_of(lab.plan, state), plain_loop(lab, optimiser, local_steps)
    assert sum("lora_B" in n for n in want) == 2
    for key in want:
        torch.testing.assert_close(got[key], want[key], rtol=1e-9, atol=1e-11)
        assert not torch.equal(got[key][0], got[key][2]) or "lora" not in key


def test_d_adam_is_the_plain_loop():
    lab = prepare(
        RunConfig(**{**SMALL, "method": "d-adam", "inner_steps": 6, "lr": 0.02, "dtype": "float64"})
    )
    for state, _ in tr.train(lab.plan):  # noqa: B007
        pass
    got, want = tr.params_of(lab.plan, state), plain_loop(lab, adam, 1)
    for key in want:
        torch.testing.assert_close(got[key], want[key], rtol=1e-7, atol=1e-9)
