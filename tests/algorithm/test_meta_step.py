"""A whole inner step reads nothing from the device, and makes no tensor elsewhere: on "meta", which holds no numbers."""

import pytest
import small_models as small
import torch
from cases import cases
from pretend_gpu import Reads
from torch.utils._pytree import tree_map

from deca_lab.algorithm import loop, stacking
from deca_lab.algorithm.blocks import by_layers, whole
from deca_lab.algorithm.gradients import stacked
from deca_lab.algorithm.problems import Problem
from deca_lab.lab.prepare import channel_of, faults_of, recipe_of
from deca_lab.methods import METHODS, resolve
from deca_lab.mixing.topology import topology
from deca_lab.models import adapters, causal_lm, classifier
from deca_lab.runconfig import RunConfig
from deca_lab.text.headed import head_loss

N, B, T = 4, 2, 8
TALKING = [
    {},
    {"compress": "top-k"},
    {"compress": "quantised"},
    {"compress": "random-k"},
    {"max_grad_norm": 1.0, "weight_decay": 0.1, "mix_every": 2},
    {"mixed": "all", "combine": "before"},
    {"dtype": "bfloat16"},
    {"topology": "complete"},
    {"topology": "one-peer-exponential"},
]


ADAPTED = {"none": lambda base: base, "lora": adapters.lora, "bottleneck": adapters.bottleneck}


def laid(device, loss_of=causal_lm.client_loss, model=None, batch=None, **knobs):
    """A run of two inner steps a block, planned as `prepare` does: on GPT-2, and on random tokens, unless given."""
    config = resolve(RunConfig(clients=N, rounds=1, inner_steps=2, model="tiny", **knobs))
    dtype = {"bfloat16": torch.bfloat16}.get(config.dtype, torch.float32)
    model = ADAPTED[config.adapter](model or causal_lm.load("tiny", dtype=dtype)).to(device)
    parts = causal_lm.anatomy(model)
    cut = whole(list(parts)) if config.blocks == "whole" else by_layers(parts, 2)
    topo = topology(config.topology, config.clients)
    tokens = torch.randint(3, causal_lm.BYTES, (config.clients, B, T + 1))
    given = tree_map(lambda part: part.to(device), tokens if batch is None else batch)
    start = stacking.replicate(causal_lm.trainable(model), config.clients)
    carrier, wraps = channel_of(config, faults_of(config, topo, len(cut)), topo)
    problem = Problem(start, loss_of(model), lambda step: given)
    return loop.plan(problem, cut, topo, recipe_of(config)(len(cut)), *wraps, carrier=carrier)


def steps(plan, engine=stacked):
    return list(loop.train(plan, engine=engine, donate=True))


def reads(plan):
    with Reads() as mode:
        steps(plan)
    return mode.seen


# DeCAF looks whether factors are finite before it decomposes them, which waits for the device itself
OURS = [name for name in METHODS if name != "decaf"]


@cases("knobs", [*({"method": name} for name in OURS), *TALKING])
@pytest.mark.slow
def test_a_step_stays_on_its_device_and_reads_nothing(knobs):
    states = steps(laid("meta", **knobs))
    assert all(losses.device.type == "meta" for _, losses in states)
    assert all(x.device.type == "meta" for state, _ in states for x in state.blocks)
    assert reads(laid("cpu", **knobs)) == []


@cases("attention", ["eager", "sdpa"])
@cases("name", ["base", "llama-tiny"])
def test_a_step_of_a_llama_reads_nothing(name, attention):
    model = causal_lm.load(name)
    model.set_attn_implementation(attention)
    plan = laid("cpu", model=model)
    assert reads(plan) == []
    assert all(losses.device.type == "meta" for _, losses in steps(laid("meta", model=model)))


@cases("family", ["bert", "llama"])
def test_a_step_of_a_classifier_with_a_head_reads_nothing(family, tmp_path):
    size = {"vocabulary": len(small.WORDS), "context": T, "pad": 0}
    model = classifier.load(small.folder_of(family, tmp_path), ("no", "yes"), **size)
    tokens = torch.randint(4, len(small.WORDS), (N, B, T))
    batch = (tokens, torch.arange(T).expand_as(tokens) < 5, torch.ones(N, B, dtype=torch.int64))
    assert reads(laid("cpu", head_loss, model, batch)) == []
    assert all(
        x.device.type == "meta" for x in steps(laid("meta", head_loss, model, batch))[-1][0].blocks
    )


def test_transformers_would_read_and_is_left_as_it_was():
    """A version that asks nothing needs no help; after a step everything is in its place."""
    model, tokens = causal_lm.load("llama-tiny"), torch.randint(3, causal_lm.BYTES, (B, T + 1))
    with torch.no_grad(), Reads() as plainly:
        before = model(tokens).logits
    with torch.no_grad(), Reads() as ours:
        logits = causal_lm.logits_of(model)({}, tokens)
    with torch.no_grad(), Reads() as after:
        model(tokens)
    assert ours.seen == []
    assert after.seen == plainly.seen
    torch.testing.assert_close(logits, before)


def read_a_number(loss):
    return loss.item() and loss


def make_it_elsewhere(loss):
    return loss * torch.ones(2)


def ask_whether(loss):
    return loss if (loss > 0).any() else -loss


@cases("fault", [make_it_elsewhere, ask_whether, read_a_number])
def test_a_fault_in_the_loss_is_seen(fault):
    def loss_of(model):
        inner = causal_lm.client_loss(model)
        return lambda params, batch: fault(inner(params, batch)).sum()

    with pytest.raises(RuntimeError):
        steps(laid("meta", loss_of))


def broken(plan, fault):
    """The plan with a fault in its channel, and with one in its optimisers."""

    def exchange(call, x, wire, size):
        fault(x.sum())
        return plan.channel.exchange(call, x, wire, size)

    def update(g, state, x, exchange):
        fault(g.sum())
        return plan.optimisers[0].update(g, state, x, exchange)

    optimiser = plan.optimisers[0]._replace(update=update)
    return [
        plan._replace(channel=plan.channel._replace(exchange=exchange)),
        plan._replace(optimisers=(optimiser,) * len(plan.blocks)),
    ]


@cases("fault", [make_it_elsewhere, ask_whether, read_a_number])
def test_a_fault_in_the_optimiser_or_the_mixing_is_seen(fault):
    for plan in broken(laid("meta"), fault):
        with pytest.raises(RuntimeError):
            steps(plan)


def test_a_read_is_counted_where_there_are_numbers():
    plan = laid("cpu")
    for faulty in broken(plan, read_a_number):
        assert reads(faulty) == ["_local_scalar_dense"] * plan.steps
