"""The forecast: what a run then really holds, for models that are only shapes; too little room is said with what helps."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import cases
from command import SMALL
from typer.testing import CliRunner

from deca_lab.cli import app
from deca_lab.errors import BadInput
from deca_lab.lab import forecast as fc
from deca_lab.lab import runs
from deca_lab.lab.prepare import groundwork
from deca_lab.models import adapters, causal_lm, four_bit
from deca_lab.models.shapes import without_numbers
from deca_lab.runconfig import RunConfig

CONFIG = RunConfig(
    **{**SMALL, "clients": 4, "rounds": 1, "inner_steps": 2, "context": 32, "batch": 4}
)
FEW = replace(CONFIG, clients=2, batch=2)
KINDS = {
    "deca": {},
    "loop": {"engine": "loop"},
    "checkpointing": {"engine": "loop", "gradient_checkpointing": True, "model": "llama-tiny"},
    "micro-batch": {"micro_batch": 1},
    "moments kept": {"method": "d-adam"},
    "half": {"dtype": "bfloat16"},
    "lora": {"method": "dec-lora"},
    "4 bits": {"method": "dec-lora", "base_weights": "nf4"},
    "classify": {"task": "classify", "corpus": "topics", "context": 128, "eval_windows": 64},
    "head": {
        "task": "classify",
        "corpus": "topics",
        "head": "trained",
        "context": 64,
        "eval_windows": 64,
    },
    "llama": {"model": "llama-tiny", "batch": 2},
}


def forecast(config):
    return fc.forecast_of(groundwork(config))


@pytest.mark.slow
@cases("engine", ["stacked", "loop"])
def test_what_fused_attention_holds_is_forecast(engine):
    config = replace(CONFIG, context=256, attention="sdpa", engine=engine)
    known, held = forecast(config), runs.run(config).summary["memory"]["with_activations"]
    assert known.memory - known.model == pytest.approx(
        held, rel=0.15
    )  # the kernel has room of its own
    assert known.memory < 0.7 * forecast(replace(config, attention="eager")).memory


@pytest.mark.slow
@cases("kind", KINDS)
def test_what_is_forecast_is_what_is_then_held(kind):
    config = replace(CONFIG, **KINDS[kind])
    known, done = forecast(config), runs.run(config)
    held = done.summary["memory"]["with_activations"]
    assert known.memory - known.model == pytest.approx(held, rel=0.05)
    assert known.sent == done.summary["bytes_sent"]


@pytest.fixture(scope="module")
def held():
    """What living.py measures, in a process of its own: here other tests' tensors, and threads that train, live on."""
    script = Path(__file__).with_name("living.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_between_two_measurements_nothing_old_is_held(held):
    grown = max(held["after_steps"][:-1]) - held["after_steps"][0]  # a measurement follows the last
    assert grown < held["weights"] / 2


def test_where_a_visit_ends_the_loop_holds_nothing_but_the_state(held):
    assert held["moments_left"] == 0
    assert held["grown_in_a_visit"] < held["block"] / 10


def test_the_checkpoint_is_as_large_as_forecast(tmp_path):
    runs.run(CONFIG, tmp_path / "run")
    size = (tmp_path / "run" / "checkpoint.safetensors").stat().st_size
    assert forecast(CONFIG).checkpoint == pytest.approx(size, rel=0.05)


def test_each_saving_saves():
    usual = forecast(CONFIG)
    for knobs in ({"micro_batch": 1}, {"engine": "loop"}, {"clients": 2}, {"context": 16}):
        assert forecast(replace(CONFIG, **knobs)).memory < usual.memory


def test_too_little_room_is_one_line_with_the_three_knobs_that_save_most():
    ground = groundwork(replace(FEW, batch=16))
    known = fc.forecast_of(ground)
    fc.require_room(known, known.memory, ground)
    fc.require_room(known, None, ground)
    with pytest.raises(BadInput, match="this run needs") as refusal:
        fc.require_room(known, known.memory - 1, ground)
    line = str(refusal.value)
    for knob in ("with --micro-batch 1,", "with --engine loop,", "with --dtype bfloat16,"):
        assert knob in line
    assert line.endswith("with --micro-batch 1 --engine loop --dtype bfloat16")
    assert "\n" not in line


def test_what_would_save_nothing_is_not_named():
    ground = groundwork(replace(FEW, batch=1))  # one example is read at once as it is
    known = fc.forecast_of(ground)
    with pytest.raises(BadInput, match="with --engine loop,") as refusal:
        fc.require_room(known, known.memory - 1, ground)
    assert "with --micro-batch 1," not in str(refusal.value)


def test_a_model_from_outside_that_does_not_fit_is_refused_before_it_is_loaded(
    tmp_path, monkeypatch
):
    causal_lm.load("tiny").save_pretrained(tmp_path / "model")
    config = replace(FEW, model=str(tmp_path / "model"), tokenizer="bytes")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")  # reading it would fail
    monkeypatch.setattr(runs, "room", lambda device: 1000)
    with pytest.raises(BadInput, match=r"this run needs .* and 1 kB are free"):
        runs.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_dry_run_says_what_it_needs_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["run", "--dry-run", "--clients", "3"])
    assert done.exit_code == 0, done.output
    assert "of memory at its peak" in done.output
    assert "are sent" in done.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "make", [lambda m: m, adapters.lora, lambda m: adapters.lora(four_bit.quantise_base(m))]
)
def test_without_numbers_shapes_names_and_ties_stay(make):
    model = make(causal_lm.load("tiny"))
    twin = without_numbers(model)
    assert all(t.is_meta for t in (*twin.parameters(), *twin.buffers()))
    for (name, one), (other, two) in zip(
        model.named_parameters(), twin.named_parameters(), strict=True
    ):
        assert (name, one.shape, one.dtype, one.requires_grad) == (
            other,
            two.shape,
            two.dtype,
            two.requires_grad,
        )
    assert not any(t.is_meta for t in model.parameters())
    assert (twin.get_input_embeddings().weight is twin.get_output_embeddings().weight) == (
        model.get_input_embeddings().weight is model.get_output_embeddings().weight
    )


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2.5e9, "2.5 GB"), (1e13, "1e+04 GB")],
)
def test_sizes_in_words(count, words):
    assert fc.size(count) == words


def test_the_machine_says_what_is_free():
    assert fc.room(torch.device("cpu")) > 10**6
    assert fc.room(torch.device("meta")) is None


def test_what_torch_keeps_of_an_earlier_run_on_a_gpu_is_free(monkeypatch):
    """The driver counts it as taken: a second run in one notebook would be refused."""
    told = {"mem_get_info": (3000, 9000), "memory_reserved": 500, "memory_allocated": 200}
    for name, answer in told.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, answer=answer: answer)
    assert fc.room(torch.device("cuda")) == 3300
