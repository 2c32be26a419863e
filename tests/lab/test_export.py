"""What leaves the lab: read by transformers, PEFT and safetensors alone, it has the run's losses and the user's config."""

import copy
import json
from dataclasses import asdict, replace

import pytest
import torch
from cases import cases
from torch import nn

from deca_lab.algorithm import stacking
from deca_lab.algorithm.loop import begin, params_of
from deca_lab.errors import BadInput
from deca_lab.lab import checkpoint
from deca_lab.lab.export import export_model
from deca_lab.lab.prepare import prepare
from deca_lab.lab.runs import run
from deca_lab.models import causal_lm
from deca_lab.runconfig import RunConfig

SHORT = RunConfig(
    model="llama-tiny",
    clients=3,
    context=32,
    batch=1,
    rounds=1,
    inner_steps=1,
    eval_windows=4,
    lr=0.01,
    eval_every=10**6,
    device="cpu",
)
LORA = {"method": "dec-lora", "rank": 2, "lora_alpha": 6.0}
ROWS = [(f"{n} is no {n + 1}. " * 30, "even" if n % 2 == 0 else "odd") for n in range(40)]
VERSIONED = ("transformers_version", "dtype", "torch_dtype")


def with_(config=SHORT, **knobs):
    return replace(config, **knobs)


def tokens(rows=2, width=24):
    return torch.randint(
        3, causal_lm.BYTES, (rows, width), generator=torch.Generator().manual_seed(1)
    )


def logits(model):
    with torch.no_grad():
        return model.eval()(tokens()).logits


def untrained(config, folder):
    """A run's folder with a checkpoint of its start."""
    lab = prepare(config)
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json())
    checkpoint.save(
        folder / "checkpoint.safetensors", begin(lab.plan), {"config": asdict(lab.config)}
    )
    return folder


def sources(tmp_path):
    """Folders of the base, a GPT-2 with dropout, a Llama with a pad id; each config.json as its author wrote it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    yield causal_lm.BASE
    gpt2 = causal_lm.shape(causal_lm.PRESETS["tiny"])
    gpt2.update({"resid_pdrop": 0.1, "attn_pdrop": 0.1, "embd_pdrop": 0.1})
    llama = causal_lm.shape(causal_lm.PRESETS["llama-tiny"])
    llama.update({"pad_token_id": 0, "attention_dropout": 0.1})
    for name, config in {"gpt2": gpt2, "llama": llama}.items():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / name)
        assert AutoConfig.from_pretrained(tmp_path / name).use_cache
        yield tmp_path / name


def fields_of(folder):
    from transformers import AutoConfig

    known = AutoConfig.from_pretrained(folder).to_dict()
    return {k: v for k, v in known.items() if k not in (*VERSIONED, "_name_or_path")}


@cases("number", [0, 1, 2])
def test_an_untrained_export_is_its_source(number, tmp_path_factory):
    from safetensors.torch import load_file

    tmp_path = tmp_path_factory.mktemp("export")
    source = list(sources(tmp_path))[number]
    folder = untrained(with_(model=str(source)), tmp_path / "run")
    out = export_model(folder, "0", tmp_path / "out")
    assert fields_of(out) == fields_of(source)
    assert json.loads((out / "generation_config.json").read_text()).get("use_cache", True)
    before, after = (load_file(place / "model.safetensors") for place in (source, out))
    assert {n: p.float().tolist() for n, p in before.items()} == {
        n: p.float().tolist() for n, p in after.items()
    }


def base_of(config, tmp_path):
    from transformers import AutoModelForCausalLM

    given = tmp_path / "out" / "base"
    place = given if given.is_dir() else causal_lm.BASE  # whose file is in float16
    return AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)


@pytest.mark.parametrize(
    "knobs",
    [
        {"model": "tiny", "targets": "attention,mlp"},  # Conv1D, drawn: the base goes along
        {"model": "base", "frozen_factor": "A"},
        {"model": "llama-tiny", "targets": "all-linear", "mixing": "decaf", "method": "deca"},
    ],
    ids=["gpt2", "base", "llama"],
)
@pytest.mark.parametrize("client", ["mean", "1"])
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # of peft's own
def test_peft_reads_the_factors(knobs, client, tmp_path):
    from peft import PeftModel

    config = with_(**{**LORA, "adapter": "lora", **knobs}, inner_steps=3)
    run(config, tmp_path / "run")
    lab = prepare(config)
    out = export_model(tmp_path / "run", client, tmp_path / "out", "peft")
    written = json.loads((out / "adapter_config.json").read_text())
    assert (written["r"], written["lora_alpha"]) == (2, 6.0)
    base = base_of(config, tmp_path)
    plain = logits(base)
    theirs = logits(PeftModel.from_pretrained(base, out))
    stacked = params_of(lab.plan, checkpoint.load(tmp_path / "run/checkpoint.safetensors")[0])
    chosen = stacking.mean(stacked) if client == "mean" else stacking.client(stacked, 1)
    wanted = logits(causal_lm.with_parameters(lab.model, chosen))
    assert not torch.allclose(wanted, plain, atol=1e-3)
    torch.testing.assert_close(theirs, wanted, rtol=0, atol=5e-5)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # of peft's own
def test_peft_reads_the_head_that_trained_beside_the_factors(tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification as Classifier

    rows = [(f"{w} number {i} is {3 * w}", w) for i in range(60) for w in ("yes", "no")]
    knobs = {"task": "classify", "head": "trained", "adapter": "lora", "model": "llama-tiny"}
    few = {"clients": 4, "rounds": 1, "inner_steps": 3, "batch": 2, "context": 64, "lr": 0.05}
    run(RunConfig(**knobs, **few, device="cpu", eval_windows=4), tmp_path / "run", dataset=rows)
    for form in ("model", "peft"):
        export_model(tmp_path / "run", "1", tmp_path / form, form)
    base, ids = Classifier.from_pretrained(tmp_path / "peft/base"), torch.arange(3, 15)[None]
    with torch.no_grad():
        wanted = Classifier.from_pretrained(tmp_path / "model")(ids).logits
        assert not torch.allclose(base(ids).logits, wanted, atol=1e-2)
        theirs = PeftModel.from_pretrained(base, tmp_path / "peft")(ids).logits
    torch.testing.assert_close(theirs, wanted, rtol=0, atol=5e-6)


@cases(
    ("knobs", "words"),
    [
        ({}, "form = 'peft' cannot be used: it must be model: the run's adapter is none"),
        (
            {"adapter": "bottleneck", "rank": 2},
            "form = 'peft' cannot be used: it must be model: the run's adapter is bottleneck",
        ),
        (
            {**LORA, "base_weights": "nf4"},
            "it must be model: these factors fit the run's base in nf4 alone",
        ),
    ],
)
def test_peft_is_refused_for_what_is_no_lora(knobs, words, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("peft")
    folder = untrained(with_(**knobs), tmp_path / "run")
    with pytest.raises(BadInput, match=words):
        export_model(folder, out=tmp_path / "out", form="peft")
    assert not list((tmp_path / "out").glob("*"))
    with pytest.raises(BadInput, match="unknown form 'pet': did you mean 'peft'"):
        export_model(folder, out=tmp_path / "out", form="pet")


# a model as an object


class Own(nn.Module):
    """Tied, with dropout, a frozen part and a buffer."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.embed, self.mix = nn.Embedding(causal_lm.BYTES, 8), nn.Linear(8, 8)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(8, causal_lm.BYTES, bias=False)
        self.head.weight = self.embed.weight
        self.frozen = nn.Parameter(torch.ones(8), requires_grad=False)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, ids):
        return self.head(
            self.drop(torch.tanh(self.mix(self.embed(ids))) * self.frozen * self.scale)
        )


def transformer():
    config = causal_lm.shape(causal_lm.PRESETS["tiny"])
    config.update({"resid_pdrop": 0.1, "pad_token_id": 0})
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(4)
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("knobs", [{}, {"dtype": "bfloat16"}, LORA], ids=["all", "half", "lora"])
def test_an_object_of_transformers_goes_out_with_its_own_configuration(knobs, tmp_path):
    from transformers import AutoModelForCausalLM

    given = transformer()
    before = copy.deepcopy(given)
    config = with_(model="base", **knobs)
    done = run(config, tmp_path / "run", model=given)
    out = export_model(tmp_path / "run", out=tmp_path / "out", model=given)
    back = AutoModelForCausalLM.from_pretrained(out)
    assert back.config.to_diff_dict().items() >= {"resid_pdrop": 0.1, "pad_token_id": 0}.items()
    assert back.dtype == torch.float32
    assert all(map(torch.equal, given.parameters(), before.parameters()))
    assert given.training == before.training
    state = checkpoint.load(tmp_path / "run/checkpoint.safetensors")[0]
    mean = stacking.mean({n: p.float() for n, p in params_of(done.lab.plan, state).items()})
    wanted = logits(causal_lm.with_parameters(done.lab.model.float(), mean))
    assert not torch.allclose(logits(back), logits(before), atol=1e-4)
    torch.testing.assert_close(
        logits(back), wanted, rtol=0, atol=0.02 if "dtype" in knobs else 1e-5
    )


def test_a_module_goes_out_as_its_tensors(tmp_path):
    from safetensors.torch import load_model

    given = Own()
    done = run(with_(model="base"), tmp_path / "run", model=given)
    out = export_model(tmp_path / "run", "2", tmp_path / "out", model=given)
    back = Own()
    load_model(back, out / "model.safetensors")
    state = checkpoint.load(tmp_path / "run/checkpoint.safetensors")[0]
    for name, value in stacking.client(params_of(done.lab.plan, state), 2).items():
        assert torch.equal(back.get_parameter(name), value)
        assert not torch.equal(given.get_parameter(name), value)
    assert back.head.weight is back.embed.weight


def test_objects_are_asked_for_and_compared(tmp_path):
    given = Own()
    folder = tmp_path / "run"
    run(with_(model="base"), folder, model=given, dataset=ROWS)
    with pytest.raises(
        BadInput, match=r"given its model as objects.*export_model\(folder, model=\)"
    ):
        export_model(folder, out=tmp_path / "out")
    other = Own()
    nn.init.zeros_(other.mix.weight)
    with pytest.raises(BadInput, match="the same object as before"):
        export_model(folder, out=tmp_path / "out", model=other)
    with pytest.raises(BadInput, match="export_model = 'dataset' cannot be used"):
        export_model(folder, out=tmp_path / "out", dataset=[])
    assert export_model(folder, out=tmp_path / "out", model=given).is_dir()
