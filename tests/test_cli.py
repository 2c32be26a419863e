"""The command line: what a newcomer reads, and what every wrong argument gets."""

import json
import re

import numpy as np
import pytest
from command import SMALL, deca_lab, options

from deca_lab.runconfig import RUN_COMMAND, RunConfig

BAD = {  # what is wrong -> (knobs, what the one line must say)
    "method": ({"method": "decca"}, r"unknown method 'decca': did you mean 'deca'"),
    "topology": ({"topology": "rign"}, r"unknown topology 'rign': did you mean 'ring'"),
    "corpus": ({"corpus": "stdlb"}, r"'stdlb'.*'stdlib'"),
    "preset": ({"model": "smal"}, r"unknown model preset 'smal': did you mean 'small'"),
    "weights": (
        {"weights": "metropoli"},
        r"unknown weights 'metropoli': did you mean 'metropolis'",
    ),
    "split": ({"split": "dirichle"}, r"unknown split 'dirichle': did you mean 'dirichlet'"),
    "feedback": ({"feedback": "downhil"}, r"unknown feedback 'downhil': did you mean 'downhill'"),
    "blocks": ({"blocks": "layer"}, r"unknown blocks 'layer': did you mean 'layers'"),
    "engine": ({"engine": "stack"}, r"unknown engine 'stack'"),
    "device": ({"device": "gpu"}, r"unknown device 'gpu'"),
    "dtype": ({"dtype": "float8"}, r"unknown dtype 'float8'"),
    "clients over rows": ({"clients": 100000}, r"clients = 100000 cannot be used"),
    "clients": ({"clients": 0}, r"clients = 0 cannot be used: it must be 1 or more"),
    "alpha": ({"alpha": 0}, r"alpha = 0\.0 cannot be used: it must be greater than 0"),
    "alpha below": ({"alpha": -1}, r"alpha = -1\.0 cannot be used"),
    "disconnected": ({"topology": "none"}, r"disconnected.*--allow-unsound"),
    "granularity": (
        {"granularity": 9},
        r"granularity = 9 cannot be used: it must be 1 to 2, the model's layers",
    ),
    "no match": (
        {"blocks": "patterns", "patterns": "nothing"},
        r"patterns: 'nothing' matches no trainable name",
    ),
    "overlap": ({"blocks": "patterns", "patterns": "h\\.0 h\\. wte wpe ln_f"}, r"overlap.*h\.0"),
    "uncovered": (
        {"blocks": "patterns", "patterns": "wte"},
        r"trainable names are in no block.*wpe",
    ),
    "no patterns": ({"blocks": "patterns"}, r"patterns = '' cannot be used"),
    "context": ({"context": 4096}, r"context = 4096 cannot be used: it must be at most 512 tokens"),
    "lr": ({"lr": -0.1}, r"lr = -0\.1 cannot be used: it must be 0 or more"),
    "lr nan": ({"lr": "nan"}, r"lr = nan cannot be used: it must be a finite number"),
    "a1": ({"a1": 1.0}, r"a1 = 1\.0 cannot be used: it must be at least 0 and below 1"),
    "b2": ({"b2": 1.5}, r"b2 = 1\.5 cannot be used: it must be between 0 and 1"),
    "eps": ({"eps": 0}, r"eps = 0\.0 cannot be used: it must be greater than 0"),
    "method and knob": (
        {"method": "d-adam", "blocks": "equal"},
        r"blocks = 'equal' contradicts method 'd-adam'",
    ),
    "shares": ({"split": "shares", "shares": "a,b"}, r"shares = 'a,b' cannot be used"),
    "missing file": ({"corpus": "./nowhere.txt"}, r"nowhere\.txt"),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_input_is_one_line_and_leaves_nothing(case, capsys, tmp_path):
    knobs, words = BAD[case]
    said = deca_lab(capsys, "run", *options(out=tmp_path / "new", **{**SMALL, **knobs}))
    line = said.err.strip().splitlines()[-1]
    assert said.code == 2
    assert line.startswith("error: ")
    assert "Traceback" not in said.err
    assert list(tmp_path.iterdir()) == []
    assert re.search(words, line), line


@pytest.mark.parametrize(
    ("name", "data", "knobs", "words"),
    [
        ("empty.txt", b"", {"corpus": None}, "empty"),
        ("latin.txt", "caf\xe9 ".encode("latin-1") * 50, {"corpus": None}, "UTF-8"),
        (
            "columns.csv",
            b"title,kind\nhello,a\n",
            {"corpus": None, "text_column": "body"},
            "body.*title",
        ),
        ("w.csv", b"0.5,0.5\n0.5,0.5\n", {"topology": None}, "4"),
        (
            "nan.csv",
            b"nan,0.5,0,0.5\n.5,.5,0,0\n0,0,.5,.5\n.5,0,.5,0\n",
            {"topology": None},
            "(?i)nan|finite",
        ),
        (
            "sums.csv",
            b"0.5,0.6,0,0\n0.5,0.4,0,0.1\n0,0,.5,.5\n0,0,.5,.4\n",
            {"topology": None},
            "sum",
        ),
        ("ragged.csv", b"0.5,0.5\n0.5\n", {"topology": None}, "ragged"),
    ],
)
def test_bad_files_are_one_line(name, data, knobs, words, capsys, tmp_path):
    (tmp_path / name).write_bytes(data)
    filled = {k: tmp_path / name if v is None else v for k, v in knobs.items()}
    said = deca_lab(capsys, "run", *options(out=tmp_path / "new", **{**SMALL, **filled}))
    assert said.code == 2
    assert not (tmp_path / "new").exists()
    assert re.search(words, said.err.strip().splitlines()[-1]), said.err


def test_a_run_writes_its_folder_and_resumes_and_exports(capsys, tmp_path):
    from transformers import AutoModelForCausalLM

    out = tmp_path / "run"
    said = deca_lab(capsys, "run", *options(out=out, **SMALL))
    assert said.code == 0
    assert "perplexity of the mean model" in said.out
    held = {p.name for p in out.iterdir()}
    assert {
        "config.json",
        "metrics.csv",
        "summary.json",
        "checkpoint.safetensors",
        "report.html",
        "losses.png",
        "consensus.png",
        "heterogeneity.png",
        "topology.png",
        "visits.png",
        "ledger.png",
    } <= held
    asked = RunConfig(**SMALL, **RUN_COMMAND)
    assert asked == RunConfig(**json.loads((out / "config.json").read_text()))

    again = deca_lab(capsys, "run", *options(out=out, **SMALL))
    assert (again.code, "holds another run" in again.err) == (2, True)
    other = deca_lab(capsys, "run", *options(resume=out, lr=0.5))
    assert (other.code, "--resume changes nothing" in other.err) == (2, True)
    assert deca_lab(capsys, "run", *options(resume=out)).code == 0

    for client in ("mean", "3"):
        assert (
            deca_lab(capsys, "export", out, "--client", client, "--out", tmp_path / client).code
            == 0
        )
        model = AutoModelForCausalLM.from_pretrained(tmp_path / client)
        assert model.config.vocab_size == 259
    assert deca_lab(capsys, "export", out, "--client", "4").code == 2
    peft = deca_lab(capsys, "export", out, "--format", "peft")
    assert (peft.code, "the run's adapter is none" in peft.err) == (2, True)
    assert deca_lab(capsys, "report", out).code == 0


@pytest.mark.slow
def test_exported_mean_model_has_the_loss_that_the_run_reported(capsys, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    from deca_lab.lab.prepare import prepare

    deca_lab(capsys, "run", *options(out=tmp_path / "run", **SMALL))
    deca_lab(capsys, "export", tmp_path / "run", "--out", tmp_path / "mean")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "mean").eval()
    windows = prepare(RunConfig(**SMALL)).probe.test[0]
    with torch.no_grad():
        loss = model(windows[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(loss.flatten(0, 1), windows[:, 1:].flatten())
    stored = json.loads((tmp_path / "run" / "summary.json").read_text())["test_loss_end"]
    assert float(loss) == pytest.approx(stored, abs=1e-5)


def test_doctor_names_a_sound_and_an_unsound_matrix(capsys, tmp_path):
    sound = deca_lab(capsys, "doctor", "--topology", "ring", "--clients", "8")
    assert sound.code == 0
    assert "sound" in sound.out
    np.savetxt(tmp_path / "w.csv", [[0.9, 0.1], [0.5, 0.5]], delimiter=",")
    unsound = deca_lab(capsys, "doctor", "--matrix", tmp_path / "w.csv")
    assert unsound.code == 1
    assert "column" in unsound.out


def test_a_wrong_name_is_refused_before_any_text_is_read(capsys, tmp_path):
    names = ("topology", "weights", "optimiser", "engine", "order", "split", "task", "dtype")
    for knob in names:
        said = deca_lab(capsys, "run", *options(out=tmp_path / "new", **{**SMALL, knob: "rign"}))
        assert said.code == 2
        assert "rign" in said.err
        assert "reading" not in said.err


def test_list_shows_every_table_and_refuses_others(capsys):
    said = deca_lab(capsys, "list")
    assert all(
        word in said.out for word in ("deca", "ring", "metropolis", "dirichlet", "stdlib", "base")
    )
    rows = [line for line in said.out.splitlines() if re.match("  [^ ]", line)]
    assert all(len(row.split()) > 1 for row in rows), "a name without a word on it"
    assert "Return" not in said.out, "a docstring that speaks to those who read the code"
    assert deca_lab(capsys, "list", "topologie").code == 2


@pytest.mark.slow
def test_only_this_folder_is_written(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert deca_lab(capsys, "run", *options(**SMALL)).code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]
    assert len(list((tmp_path / "runs").iterdir())) == 1


@pytest.mark.slow
def test_tasks_run_from_the_command_line_with_their_own_columns_and_words(capsys, tmp_path):
    rows = [{"instruction": f"say {k}", "output": str(k), "kind": "ab"[k % 2]} for k in range(120)]
    (tmp_path / "say.jsonl").write_text("\n".join(map(json.dumps, rows)))
    small = {
        **SMALL,
        "corpus": tmp_path / "say.jsonl",
        "inner_steps": 1,
        "clients": 2,
        "split": "iid",
        "label_column": "kind",
    }
    said = deca_lab(capsys, "run", *options(out=tmp_path / "write", task="generate", **small))
    assert said.code == 0
    scores = json.loads((tmp_path / "write" / "summary.json").read_text())["scores"]
    assert set(scores) == {"test_exact_match"}
    named = {"task": "classify", "text_column": "instruction", "verbaliser": "a=x, b=y", **small}
    assert deca_lab(capsys, "run", *options(out=tmp_path / "name", **named)).code == 0
    for wrong, words in (
        ("a=x", "labels that the verbaliser does not know: b"),
        ("a=x, b=y, a=z", "it must be one word for each label"),
        ("a", "'label=word, label=word'"),
    ):
        said = deca_lab(
            capsys, "run", *options(out=tmp_path / "wrong", **{**named, "verbaliser": wrong})
        )
        assert (said.code, words in said.err) == (2, True), said.err
    said = deca_lab(
        capsys, "run", *options(out=tmp_path / "wrong", **{**SMALL, "task": "generate"})
    )
    assert (said.code, "has no answers" in said.err) == (2, True)
