"""Runs with a head against a plain loop of transformers, peft and torch.optim; the folder, and its export."""

import copy
import json
import re
import warnings

import numpy as np
import pytest
import small_models as small
import torch
from cases import cases, quick
from command import deca_lab, options

from deca_lab import RunConfig, run
from deca_lab.errors import BadInput
from deca_lab.lab import history, runs
from deca_lab.lab.export import export_model
from deca_lab.lab.objects import Objects
from deca_lab.lab.prepare import prepare
from deca_lab.models import classifier

EXACT = {"float32": 1e-6, "float64": 1e-10}
STEPS, EVERY, LR = 6, 2, 0.01
EPS = 1e-3  # a key's bias has no gradient: with Adam's usual guard its noise would be a step
SIZES = {
    "task": "classify",
    "clients": 4,
    "context": 8,
    "batch": 3,
    "rounds": 1,
    "inner_steps": STEPS,
    "mix_every": EVERY,
    "split": "iid",
    "test_share": 0.2,
    "validation_share": 0.2,
    "eval_windows": 12,
    "eval_every": STEPS,
    "lr": LR,
    "eps": EPS,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    return {family: str(small.folder_of(family, path)) for family in small.FAMILIES}


def config_of(folder, **more):
    return RunConfig(**{**SIZES, "model": folder, "head": "trained", **more})


def trained(config):
    """Return all clients' parameters at the end of a run, and its history."""
    ends = {}
    done = run(config, dataset=small.rows(), callbacks=[lambda seen: ends.update(seen.params)])
    return ends, done


def plain_loop(lab, modules, mixed=lambda name: True, masked=True):
    """Train transformers modules, one a client, on the lab's batches; return their parameters.

    Each has its own torch.optim.Adam; every second step a dense matrix mixes what trains.
    """
    named = [{n: p for n, p in m.named_parameters() if p.requires_grad} for m in modules]
    optimisers = [torch.optim.Adam(own.values(), lr=LR, eps=EPS) for own in named]
    W = torch.tensor(lab.topology.matrices[0])
    for step in range(STEPS):
        for module, optimiser, *batch in zip(
            modules, optimisers, *lab.plan.problem.batches(step), strict=True
        ):
            tokens, mask, labels = batch
            optimiser.zero_grad()
            shown = mask if masked else torch.ones_like(mask)
            module(input_ids=tokens, attention_mask=shown.long(), labels=labels).loss.backward()
            optimiser.step()
        if (step + 1) % EVERY == 0:
            for name in filter(mixed, named[0]):
                rows = torch.stack([own[name].detach().double() for own in named])
                for own, new in zip(named, torch.tensordot(W, rows, 1), strict=True):
                    own[name].data.copy_(new)
    return {name: torch.stack([own[name].detach() for own in named]) for name in named[0]}


def gap(got, wanted):
    """The largest difference; the names must be the same."""
    assert set(got) == set(wanted)
    return max(float((got[name] - wanted[name]).abs().max()) for name in wanted)


def fresh(config, dtype):
    """The plain transformers modules of all clients, which have the run's own start."""
    lab = prepare(config, objects=Objects(dataset=small.rows()))
    return lab, [copy.deepcopy(lab.model) for _ in range(config.clients)]


BOTH = [
    *((family, "float64") for family in small.FAMILIES),
    ("bert", "float32"),
    ("gpt2", "float32"),
]


@pytest.mark.parametrize(("family", "dtype"), BOTH)
def test_full_training_is_a_plain_loop_over_the_clients(family, dtype, folders):
    config = config_of(folders[family], method="d-adam", dtype=dtype)
    got, _ = trained(config)
    assert gap(got, plain_loop(*fresh(config, dtype))) < EXACT[dtype]


def with_peft(lab, config, family):
    """Peft's own model of each client, with the run's factors as its start."""
    peft = pytest.importorskip("peft")
    plain = classifier.load(
        config.model,
        lab.corpus.label_names,
        pad=lab.model.config.pad_token_id,
        seed=config.seed,
        dtype=lab.model.dtype,
        vocabulary=len(lab.tokenizer),
    )
    targets = ["query", "value"] if family in small.ENCODERS else ["q_proj", "v_proj"]
    targets = ["c_attn"] if family == "gpt2" else targets
    made = peft.LoraConfig(
        peft.TaskType.SEQ_CLS,
        r=config.rank,
        lora_alpha=config.lora_alpha,
        target_modules=targets,
        fan_in_fan_out=family == "gpt2",
    )
    with warnings.catch_warnings():  # peft asks transformers by a name that will go
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = peft.get_peft_model(plain, made).to(lab.model.dtype).eval()
    start = {name: p[0] for name, p in lab.plan.problem.start.items()}
    for name, p in wrapped.named_parameters():
        if p.requires_grad:
            p.data.copy_(start.pop(ours(name)))
    assert not start  # peft trains exactly what we do
    return [copy.deepcopy(wrapped) for _ in range(config.clients)]


def ours(name):
    """Our name of a parameter of peft's."""
    name = re.sub(r"(lora_[AB])\.default\.weight$", r"\1", name.removeprefix("base_model.model."))
    return name.replace(".modules_to_save.default", "")


@pytest.mark.parametrize(("family", "dtype"), BOTH)
def test_lora_is_pefts_in_a_plain_loop(family, dtype, folders):
    config = config_of(folders[family], method="dec-lora", rank=2, dtype=dtype)
    lab = prepare(config, objects=Objects(dataset=small.rows()))
    got, _ = trained(config)
    wanted = plain_loop(lab, with_peft(lab, config, family))
    assert gap(got, {ours(name): p for name, p in wanted.items()}) < EXACT[dtype]


def test_the_loops_would_see_a_mask_dropped_and_a_head_left_alone(folders):
    config = config_of(folders["bert"], method="d-adam")
    got, _ = trained(config)
    lab, modules = fresh(config, "float32")
    head = set(classifier.head_names(lab.model))
    assert gap(got, plain_loop(lab, copy.deepcopy(modules), masked=False)) > 1e-3
    assert gap(got, plain_loop(lab, copy.deepcopy(modules), lambda n: n not in head)) > 1e-4
    for module in modules:
        module.classifier.requires_grad_(False)
    partly = plain_loop(lab, modules)
    assert set(got) - set(partly) == head


METHODS = (
    *("deca", "dec-lora", "decaf", "dec-adapter", "local", "badam", "centralised"),
    *("dlora-fa", "centralised-lora", "fedavg", "gradient-tracking"),
)


@pytest.mark.parametrize("method", quick(METHODS, first=3))
def test_every_method_trains_the_head(method, folders):
    own = {"rank": 2} if "lora" in method or method in ("decaf", "dec-adapter") else {}
    config = config_of(folders["bert"], method=method, inner_steps=2, eval_every=0, **own)
    ends, done = trained(config)
    start = prepare(config, objects=Objects(dataset=small.rows())).plan.problem.start
    head = ["classifier.weight", "classifier.bias"]
    assert all(not torch.equal(ends[name], start[name]) for name in head)
    mixes = config.clients > 1 and done.summary["bytes_sent"] > 0
    assert mixes == (method not in ("local", "badam", "centralised", "centralised-lora"))
    assert {"test_accuracy", "test_macro_f1"} == set(done.summary["scores"])
    last = done.blocks[done.blocks["block"] != "frozen"].iloc[-1]
    assert set(head) <= set(last["names"].split())


def test_four_bits_train_factors_and_head(folders):
    config = config_of(folders["bert"], method="dec-lora", rank=2, base_weights="nf4")
    got, done = trained(config)
    assert done.summary["memory"]["shared"] > 0
    assert {"classifier.weight", "classifier.bias"} < set(got)


def test_an_own_module_is_trained_by_its_head():
    from torch import nn

    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(40, 16), nn.Linear(16, 3)

        def forward(self, ids, attention_mask):
            seen = attention_mask[..., None]
            return self.head((self.embed(ids) * seen).sum(1) / seen.sum(1))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        bag = Bag()
    sizes = {**SIZES, "inner_steps": 60, "mix_every": 1, "lr": 0.1, "blocks": "whole"}
    config = RunConfig(**{**sizes, "eval_every": 60}, head="trained")
    own = {"model": bag, "tokenizer": small.tokenizer_of("gpt2"), "dataset": small.rows()}
    done = run(config, **own)
    assert done.summary["scores"]["test_accuracy"] > 0.9 > done.summary["majority"]


def test_at_chance_is_said(folders):
    _, done = trained(config_of(folders["bert"], method="d-adam", lr=0.0))
    majority = done.summary["majority"]
    assert majority == pytest.approx(1 / 3, abs=0.1)
    said = [note for note in done.summary["notes"] if note.startswith("at chance: ")]
    assert bool(said) == (done.summary["scores"]["test_accuracy"] <= majority)
    assert "test_perplexity" not in done.metrics
    figure = done.plot("losses")
    labels = " ".join(axes.get_ylabel() for axes in figure.axes)
    assert "accuracy" in labels
    assert "token" not in labels
    drawn = [line.get_ydata() for line in figure.axes[0].lines]
    assert any(np.array_equal(y, done.metrics["test_accuracy"]) for y in drawn)
    assert any(np.allclose(y, majority) for y in drawn)
    assert history._at_chance(0.25, 0.25)
    assert not history._at_chance(0.26, 0.25)
    assert not history._at_chance(None, None)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "rows.csv"
    lines = [f"{text},{label}" for text, label in small.rows()]
    path.write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("family", "more"),
    quick(
        [
            ("bert", {"method": "deca", "inner_steps": 2}),
            ("roberta", {"method": "dec-lora", "rank": 2}),
            ("llama", {"method": "d-adam"}),
            ("gpt2", {"method": "dec-lora", "rank": 2}),
        ]
    ),
)
def test_the_command_line_ends_with_the_score_and_exports(
    family, more, folders, corpus, capsys, tmp_path
):
    from transformers import AutoModelForSequenceClassification

    knobs = {**SIZES, "model": folders[family], "corpus": corpus, "head": "trained", **more}
    out = tmp_path / "run"
    said = deca_lab(capsys, "run", *options(out=out, **knobs))
    assert said.code == 0, said.err
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    scores = summary["scores"]
    wanted = (
        f"test accuracy {scores['test_accuracy']:.3f}, macro-F1 {scores['test_macro_f1']:.3f} "
        f"(majority {summary['majority']:.3f})"
    )
    assert said.out.strip().splitlines()[-1].removesuffix(": at chance") == wanted
    assert "perplexity" not in said.out
    assert "tokenizer: the model's own, 40 tokens" in summary["notes"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "accuracy of always naming the commonest label" in page

    folder = export_model(out, out=tmp_path / "exported")
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    lab = prepare(runs.read_config(out))
    tokens, mask, labels = lab.probe.test
    logits = model(tokens, attention_mask=mask.long()).logits
    assert float((logits.argmax(-1) == labels).double().mean()) == scores["test_accuracy"]
    loss = torch.nn.functional.cross_entropy(logits, labels)
    assert loss.item() == pytest.approx(summary["test_loss_end"], abs=1e-6)
    names = [model.config.id2label[i] for i in range(3)]
    assert names == list(lab.corpus.label_names) == ["bad", "good", "odd"]


def test_a_run_resumes_to_the_same_bits(folders, corpus, tmp_path):
    knobs = {"corpus": corpus, "method": "d-adam", "checkpoint_every": 2, "head": "trained"}
    config = RunConfig(**{**SIZES, **knobs, "model": folders["gpt2"]})
    whole = run(config, tmp_path / "whole")
    with pytest.raises(runs.Stopped):
        run(config, tmp_path / "parts", lambda done, total, known: done == 3)
    again = runs.resume(tmp_path / "parts")
    assert again.metrics.equals(whole.metrics)
    assert np.isfinite(again.metrics["test_accuracy"]).all()


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_embeddings_are_frozen_by_that_word_beside_adapters_too(family, folders, corpus):
    sizes = {**SIZES, "model": folders[family], "corpus": corpus, "head": "trained"}
    usual, named = (
        prepare(RunConfig(**sizes, method="dec-lora", freeze=words)) for words in ("", "embeddings")
    )
    assert usual.plan.blocks == named.plan.blocks
    lab = prepare(RunConfig(**sizes, freeze="embeddings"))
    trained = {name for block in lab.plan.blocks for name in block.names}
    read_first = lab.model.get_input_embeddings().weight
    assert all(p is not read_first for n, p in lab.model.named_parameters() if n in trained)
    assert any(p is read_first for n, p in lab.model.named_parameters() if n not in trained)


@cases(
    ("family", "more", "words"),
    [
        ("bert", {"task": "lm"}, "a causal LM with --task lm"),
        (
            "bert",
            {"task": "generate", "corpus": "instructions"},
            "a causal LM with --task generate",
        ),
        ("bert", {"head": "words"}, "auto or trained with the encoder"),
        ("gpt2", {"head": "trained", "task": "lm"}, "auto or words with --task lm"),
        ("bert", {"verbaliser": "good=w1, bad=w2, odd=w3"}, "no head that trains"),
        ("bert", {"ends": "frozen"}, "such that the head for labels trains"),
        ("bert", {"freeze": "."}, "such that a trainable name remains"),
        ("bert", {"context": 33}, "at most 32 tokens"),
        ("bert", {"context": 2}, "at least 3 tokens: one of text and 2 special ones"),
    ],
)
def test_what_does_not_fit_is_one_line(family, more, words, folders, corpus):
    with pytest.raises(BadInput, match=words) as caught:
        prepare(RunConfig(**{**SIZES, "model": folders[family], "corpus": corpus, **more}))
    assert "\n" not in str(caught.value)
