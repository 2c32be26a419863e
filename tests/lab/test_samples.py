"""What models write, compared with the `generate` of transformers; and what a run's folder says of before and after."""

import shutil
from dataclasses import replace

import pytest
import torch
from cases import cases
from command import deca_lab
from markupsafe import escape

from deca_lab.errors import BadInput
from deca_lab.lab.export import export_model
from deca_lab.lab.runs import run
from deca_lab.lab.samples import continued, in_words, samples, text_of
from deca_lab.models import causal_lm
from deca_lab.runconfig import RunConfig
from deca_lab.text import corpora
from deca_lab.text.tokens import tokenizer

SHORT = RunConfig(
    corpus="village", split="by-label", clients=8, context=96, batch=1, rounds=1, inner_steps=1,
    lr=3e-2, eval_windows=4, eval_every=10**6, device="cpu",
)  # fmt: skip
START = "Once upon a time a tall wolf met"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("samples") / "run"
    run(SHORT, place)
    return place


def generated(model, text, length):
    """Greedy decoding by transformers itself, end of text left out."""
    ids = tokenizer()(text, add_special_tokens=False, return_tensors="pt").input_ids
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=length, do_sample=False,
        pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return text_of(out[0, ids.shape[1] :].tolist(), tokenizer())


@pytest.mark.slow
@cases("start", [START, "def read(self", "é"])
def test_the_likeliest_tokens_are_those_that_transformers_generates(start):
    model = causal_lm.load("base")
    wrote = continued(causal_lm.logits_of(model), {}, start, tokenizer(), 24)
    assert wrote == generated(model, start, 24)
    assert wrote


@pytest.mark.slow
def test_a_run_s_samples_are_what_its_export_writes_of_rows_that_nobody_trained_on(
    folder, tmp_path
):
    from transformers import AutoModelForCausalLM

    rows = samples(folder, "3", count=2, length=8)
    export_model(folder, "3", tmp_path / "third")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "third")
    base, texts = causal_lm.load("base"), corpora.load("village").texts
    assert len(rows) == 2
    for row in rows:
        assert row.start + row.really in texts
        assert len(row.start) <= 60
        assert row.before == generated(base, row.start, 8)
        assert row.after == generated(exported, row.start, 8)
    assert samples(folder, count=2, length=8) != rows  # the mean model's are others


def test_a_text_ends_with_its_end_token_and_only_the_context_is_read():
    seen = []

    def logits(params, tokens):
        seen.append(tokens.tolist()[0])
        out = torch.zeros(1, tokens.shape[1], 259)
        out[..., 1 if len(seen) == 3 else ord("a") + 3] = 1
        return out

    assert continued(logits, {}, "xyz", tokenizer(), 9, context=2) == "aa"
    assert [bytes(t - 3 for t in ids) for ids in seen] == [b"yz", b"za", b"aa"]


def test_bytes_that_are_no_text_become_marks():
    assert text_of([0, 1, ord("a") + 3, 255 + 3], tokenizer()) == "a\ufffd"


@pytest.mark.slow
def test_a_report_shows_them_and_does_without_a_checkpoint(folder, capsys, tmp_path):
    copy, heading = tmp_path / "run", '<section id="written">'
    shutil.copytree(folder, copy)
    assert deca_lab(capsys, "report", copy).code == 0
    page = (copy / "report.html").read_text(encoding="utf-8")
    assert heading in page
    for row in samples(folder):
        assert escape(row.start) in page
        assert escape(row.after) in page
    (copy / "checkpoint.safetensors").unlink()
    assert deca_lab(capsys, "report", copy).code == 0
    assert heading not in (copy / "report.html").read_text(encoding="utf-8")


def test_words_name_who_wrote_what(folder):
    (row,) = samples(folder, count=1, length=4)
    assert [line.split()[0] for line in in_words([row]).splitlines()] == [
        "given",
        "before",
        "after",
    ]
    both = in_words([row], [row._replace(after="me\nonly")])
    assert "  alone    me\\nonly" in both
    assert "  together " in both


@pytest.mark.slow
def test_labels_are_not_written_and_bad_requests_are_one_line(folder, tmp_path):
    run(replace(SHORT, task="classify", clients=2, eval_windows=8), tmp_path / "labels")
    assert samples(tmp_path / "labels") == []
    with pytest.raises(BadInput, match="client = '8' cannot be used"):
        samples(folder, "8")
    with pytest.raises(BadInput, match="count, length"):
        samples(folder, count=0)
