"""How a command ends: what does not fit is one line, before any work; no memory is one line with what helps."""

import pytest
import torch
from cases import cases
from command import SMALL, deca_lab, options

from deca_lab.lab import prepare, runs, sources
from deca_lab.lab.progress import left

HUGE = "9" * 30


@cases(
    ("knob", "value"),
    [
        ("lr", "1e307"),
        ("weight_decay", "1e307"),
        ("max_grad_norm", "1e307"),
        ("noise", "1e307"),
        ("eps", "1e307"),
        ("lora_alpha", "1e307"),
        *((knob, HUGE) for knob in ("batch", "rounds", "inner_steps", "eval_windows", "context")),
        *((knob, HUGE) for knob in ("clients", "granularity", "mix_every", "warmup_steps")),
        *((knob, HUGE) for knob in ("eval_every", "checkpoint_every", "micro_batch", "max_rows")),
    ],
)
def test_sizes_have_bounds(capsys, tmp_path, knob, value):
    said = deca_lab(capsys, "run", *options(out=tmp_path / "new", **{**SMALL, knob: value}))
    assert said.code == 2
    assert said.err.startswith(f"error: {knob} = ")
    assert len(said.err.splitlines()) == 1


@cases("knob", ("tokenizer", "model", "corpus", "topology"))
def test_a_name_of_thousands_of_letters_is_one_line(capsys, tmp_path, knob):
    asked = {**SMALL, knob: "a" * 5000}
    said = deca_lab(capsys, "run", "-q", *options(out=tmp_path / "new", **asked))
    assert said.code == 2
    assert len(said.err.splitlines()) == 1
    assert "a" * 5000 in said.err


@cases(
    ("variables", "words"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE = 'abc' cannot be used"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE = '0' cannot be used"),
        ({"WORLD_SIZE": "2"}, "RANK = ''"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_PORT = ''"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "9"}, "MASTER_ADDR"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "h", "MASTER_PORT": "9"}, "RANK = 2"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "h", "MASTER_PORT": "abc"}, "MASTER_PORT"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "h", "MASTER_PORT": "0"}, "MASTER_PORT"),
    ],
)
def test_a_wrong_environment_is_one_line(capsys, tmp_path, variables, words):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
            patch.delenv(name, raising=False)
        for name, value in variables.items():
            patch.setenv(name, value)
        said = deca_lab(capsys, "run", *options(out=tmp_path / "new", **SMALL))
    assert (said.code, words in said.err, len(said.err.splitlines())) == (2, True, 1), said.err


CPU = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you"
)


@cases(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError(CPU),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
def test_no_memory_is_one_line_with_the_knobs_that_help(capsys, error):
    def exhausted(*args, **kwargs):
        raise error

    for module, name in (
        (sources, "load_model"),
        (runs, "train"),
        (prepare.heterogeneity, "spread"),
    ):
        with pytest.MonkeyPatch.context() as patch, pytest.MonkeyPatch.context() as elsewhere:
            import tempfile

            patch.setattr(module, name, exhausted)
            with tempfile.TemporaryDirectory() as folder:
                elsewhere.chdir(folder)
                said = deca_lab(capsys, "run", "-q", *options(out="new", **SMALL))
                elsewhere.undo()
        assert said.code == 1
        assert len(said.err.splitlines()) == 1
        for knob in ("--micro-batch 1", "--engine loop", "--dtype bfloat16", "--resume"):
            assert knob in said.err


def test_another_fault_of_ours_is_not_hidden(capsys, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("a fault")

    monkeypatch.setattr(runs, "run_in", broken)
    with pytest.raises(RuntimeError, match="a fault"):
        deca_lab(capsys, "run", "--out", "nowhere")


@pytest.mark.slow
def test_memory_that_ends_in_the_middle_leaves_a_run_that_goes_on(capsys, tmp_path, monkeypatch):
    """The run that went on ends with the very tables of one that never stopped."""
    asked = {**SMALL, "checkpoint_every": 1}
    deca_lab(capsys, "run", "-q", *options(out=tmp_path / "whole", **asked))
    train = runs.train

    def short(*args, **kwargs):
        steps = train(*args, **kwargs)
        yield from (next(steps) for _ in range(5))
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(runs, "train", short)
        said = deca_lab(capsys, "run", "-q", *options(out=tmp_path / "broken", **asked))
        assert (said.code, "out of memory" in said.err) == (1, True)
    assert deca_lab(capsys, "run", "-q", "--resume", tmp_path / "broken").code == 0
    first, second = (tmp_path / name / "metrics.csv" for name in ("whole", "broken"))
    assert first.read_text() == second.read_text()


def test_a_used_folder_is_refused_before_anything_is_read(capsys, tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("mine")
    read = []
    monkeypatch.setattr(runs, "groundwork", lambda *a: read.append(a))
    said = deca_lab(capsys, "run", *options(out=tmp_path, **SMALL))
    assert (said.code, read) == (2, [])
    assert said.err.endswith("is not empty (notes.txt is there): name a new folder\n")
    with pytest.raises(ValueError, match="is not empty"):
        runs.run(out=tmp_path)
    assert read == []


@pytest.mark.slow
def test_an_export_into_a_used_folder_does_not_speak_of_runs(capsys, tmp_path):
    from deca_lab.lab.export import default_out, export_model

    run = tmp_path / "run"
    assert deca_lab(capsys, "run", "-q", *options(out=run, **SMALL)).code == 0
    said = deca_lab(capsys, "export", run, "--out", run)
    assert said.code == 2
    assert "is not empty" in said.err
    assert "--resume" not in said.err
    written = export_model(str(run), out=str(default_out(str(run), "mean")))
    assert (written / "model.safetensors").exists()


def test_a_folder_named_like_a_half_written_file_stays(capsys, tmp_path):
    (tmp_path / "run" / ".config.json.half-mine").mkdir(parents=True)
    said = deca_lab(capsys, "run", "-q", *options(out=tmp_path / "run", **SMALL))
    assert said.code == 0
    assert (tmp_path / "run" / ".config.json.half-mine").is_dir()


@cases(
    ("seconds", "steps", "words"),
    [
        (0.5, 1, "a step takes 0.5 s: about 0.5 s for the step left"),
        (2.0, 90, "a step takes 2 s: about 3 min for the 90 steps left"),
        (3.0, 2400, "a step takes 3 s: about 2 h for the 2,400 steps left"),
        (86.4, 3000, "a step takes 86 s: about 3 days for the 3,000 steps left"),
    ],
)
def test_the_time_left_is_said_in_words(seconds, steps, words):
    assert left(seconds, steps) == words
