"""Gradient checkpointing: the same gradients with less memory, and no dropout; what cannot have it is refused in one line."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from command import SMALL

from deca_lab.algorithm import stacking
from deca_lab.algorithm.gradients import in_model, looped
from deca_lab.errors import BadInput
from deca_lab.lab import runs
from deca_lab.lab.forecast import forecast_of
from deca_lab.lab.prepare import groundwork, prepare
from deca_lab.models import causal_lm
from deca_lab.models.checkpointing import checkpoint_
from deca_lab.runconfig import RunConfig

CONFIG = RunConfig(**{**SMALL, "engine": "loop", "dtype": "float64", "context": 48, "rounds": 1})


def opt():
    from transformers import OPTConfig, OPTForCausalLM

    sizes = {"hidden_size": 16, "ffn_dim": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    torch.manual_seed(0)
    model = OPTForCausalLM(OPTConfig(vocab_size=259, word_embed_proj_dim=16, **sizes)).eval()
    model.set_attn_implementation("eager")
    return model


@pytest.mark.slow
@pytest.mark.parametrize("knobs", [{}, {"model": "llama-tiny"}, {"method": "dec-lora"}])
def test_a_run_is_the_same(knobs):
    plain = replace(CONFIG, **knobs)
    one, other = runs.run(plain), runs.run(replace(plain, gradient_checkpointing=True))
    np.testing.assert_allclose(other.metrics["test_loss"], one.metrics["test_loss"], rtol=1e-12)


@pytest.mark.slow
def test_a_deep_model_holds_far_fewer_activations():
    config = replace(CONFIG, model="medium", context=256, batch=4)
    plain, less = (
        forecast_of(groundwork(replace(config, gradient_checkpointing=on))).activations
        for on in (False, True)
    )
    assert less < 0.5 * plain


@pytest.mark.parametrize(
    "make", [lambda: causal_lm.load("tiny", dtype=torch.float64), lambda: opt().double()]
)
def test_the_backward_pass_finds_the_clients_own_values(make):
    """Clients whose values are not the model's; OPT drops out in the layer itself, where it trains."""
    plain, model = make(), make()
    checkpoint_(model)
    start = stacking.replicate(causal_lm.trainable(plain), 2)
    params = {name: p + 0.1 * torch.randn_like(p) for name, p in start.items()}
    names = [name for name in params if ".1." in name]
    where, x = stacking.layout(params, names), stacking.flatten(params, names)
    rest = {name: p for name, p in params.items() if name not in names}
    tokens = torch.randint(3, 259, (2, 3, 9))
    losses, g = looped(causal_lm.client_loss(plain))(x, where, rest, tokens)
    before = {name: p.clone() for name, p in model.named_parameters()}
    again, same = in_model(dict(model.named_parameters()))(causal_lm.client_loss(model))(
        x, where, rest, tokens
    )
    torch.testing.assert_close(again, losses, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(same, g, rtol=1e-10, atol=1e-12)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    # The trap: the plain loop has left the client's values when the layer is computed again.
    _, wrong = looped(causal_lm.client_loss(model))(x, where, rest, tokens)
    assert float((wrong - g).norm() / g.norm()) > 1e-2


def test_what_cannot_is_refused():
    with pytest.raises(BadInput, match=r"engine = 'stacked'.*loop with --gradient-checkpointing"):
        prepare(replace(CONFIG, engine="stacked", gradient_checkpointing=True))
    with pytest.raises(BadInput, match="gradient_checkpointing"):
        checkpoint_(torch.nn.Linear(1, 1))
    with pytest.raises(BadInput, match="attention = 'sdpa'"):
        prepare(replace(CONFIG, gradient_checkpointing=True, attention="sdpa"))
    with pytest.raises(BadInput, match="attention 'flash'"):
        prepare(replace(CONFIG, attention="flash"))


def test_sdpa_is_eager_attention():
    one, other = (
        runs.run(replace(CONFIG, engine="stacked", attention=a)) for a in ("eager", "sdpa")
    )
    np.testing.assert_allclose(other.metrics["test_loss"], one.metrics["test_loss"], rtol=1e-7)
