"""Examples for a head against the tokenizer's own batches; scores against each model alone."""

import numpy as np
import pytest
import small_models as small
import torch
from cases import cases

from deca_lab.errors import BadInput
from deca_lab.models import causal_lm, classifier
from deca_lab.text import corpora, headed, scoring, shards, tasks
from deca_lab.text.tokens import tokenizer, tokenizer_for

CONTEXT = 8
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def rows():
    return corpora.corpus_of(small.rows())


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """The folder of a tiny BERT with its tokenizer."""
    return str(small.folder_of("bert", tmp_path_factory.mktemp("models")))


def task_of(rows, model, which, how="iid", **more):
    parts = shards.split(rows.labels, 3, how=how, test_share=0.3, validation_share=0.3)
    limits = {"context": CONTEXT, "batch_size": 5, "seed": 0, "device": CPU, "test_limit": 20}
    request = tasks.TaskRequest(rows, parts, which, model, **{**limits, **more})
    return tasks.build("classify", request, head=True), parts


@cases("family", ["bert", "llama"])
def test_examples_are_the_tokenizers_own(family, rows):
    which = small.tokenizer_of(family)
    own = {"truncation": True, "max_length": CONTEXT}
    if family == "bert":
        wanted = which(list(rows.texts), padding=True, return_tensors="pt", **own)
        tokens, mask = wanted["input_ids"], wanted["attention_mask"].bool()
    else:
        ids = which(list(rows.texts), **own)["input_ids"]
        tokens = torch.zeros(len(ids), CONTEXT, dtype=torch.int64)
        mask = torch.zeros(len(ids), CONTEXT, dtype=torch.bool)
        for i, row in enumerate(ids):
            tokens[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), True
    got = headed.labelled(rows, np.arange(len(rows.texts)), which, CONTEXT, 0)
    assert torch.equal(got.tokens, tokens)
    assert torch.equal(got.counted, mask)
    assert torch.equal(got.answer_at, mask.sum(1))
    assert got.labels.tolist() == rows.labels.tolist()
    long = got.tokens[mask.all(1)]
    assert len(long)
    assert family != "bert" or set(long[:, -1].tolist()) == {3}  # [SEP] survives the cut


def test_bytes_are_those_of_the_tokenizer_with_its_end():
    which, texts = tokenizer("bytes"), ["ab", "grüße 汉", "a long text is cut"]
    wanted = [which(text, truncation=True, max_length=CONTEXT)["input_ids"] for text in texts]
    assert [ids.tolist() for ids in headed.encode(texts, which, CONTEXT)] == wanted
    assert wanted[-1][-1] == 1


def test_a_text_without_a_token_is_one_of_padding():
    rows = corpora.corpus_of([("w1 w2", "a"), ("\u200b \u2028.", "b")])
    which = small.tokenizer_of("llama")
    which.backend_tokenizer.normalizer = __import__("tokenizers").normalizers.Replace(".", "")
    got = headed.labelled(rows, np.array([0, 1]), which, CONTEXT, 0)
    assert got.counted.any(1).all()


def test_the_context_must_hold_a_token_of_text(rows):
    for which, least in ((small.tokenizer_of("bert"), 3), (tokenizer("bytes"), 2)):
        with pytest.raises(
            BadInput, match=f"context = {least - 1} cannot .* at least {least} tokens"
        ):
            headed.labelled(rows, np.arange(3), which, least - 1, 0)
        headed.labelled(rows, np.arange(3), which, least, 0)


def test_a_task_has_triples_of_one_width_and_padding_everywhere(rows, bert):
    model = classifier.load(bert, rows.label_names, vocabulary=40, context=CONTEXT)
    task, _ = task_of(rows, model, small.tokenizer_of("bert"))
    for (tokens, mask, labels), shape in (
        (task.batches(0), (3, 5)),
        (task.test, (20,)),
        (task.own, (3, 8)),
        (task.train, (3, 4)),
    ):
        assert (tokens.shape, mask.shape, labels.shape) == (
            (*shape, CONTEXT),
            (*shape, CONTEXT),
            shape,
        )
        assert (tokens[~mask] == 0).all()
        assert mask[..., 0].all()
        assert (mask.int().diff(dim=-1) <= 0).all()
    again, later = task.batches(0), task.batches(1)
    assert all(torch.equal(a, b) for a, b in zip(task.batches(0), again, strict=True))
    assert not torch.equal(again[0], later[0])


def test_padding_that_is_not_zero_reaches_every_set():
    long = " ".join(f"w{i}" for i in range(15))  # one set is wider than all others
    rows = corpora.corpus_of([*small.rows(), (long, "good")])
    model = classifier.load("tiny", rows.label_names, vocabulary=40, context=16, pad=3)
    task, _ = task_of(rows, model, small.tokenizer_of("gpt2"), context=16)
    for tokens, mask, _ in (task.batches(0), task.test, task.own, task.train):
        assert tokens.shape[-1] == 15
        assert (~mask).any()
        assert (tokens[~mask] == 3).all()


def test_scores_are_those_of_each_model_alone(rows, bert):
    model = classifier.load(bert, rows.label_names, vocabulary=40, context=CONTEXT)
    task, _ = task_of(rows, model, small.tokenizer_of("bert"))
    values, draw = causal_lm.trainable(model), torch.Generator().manual_seed(0)
    params = {n: p + 0.5 * torch.randn(3, *p.shape, generator=draw) for n, p in values.items()}
    scores, (tokens, mask, labels) = task.score(params), task.test
    for i in range(3):
        alone = causal_lm.with_parameters(model, {n: p[i] for n, p in params.items()})
        theirs = alone(tokens, attention_mask=mask.long(), labels=labels)
        assert scores["loss"][i].item() == pytest.approx(theirs.loss.item(), rel=1e-5)
        said = theirs.logits.argmax(-1)[None]
        assert scores["accuracy"][i] == (said == labels).double().mean()
        assert torch.equal(scores["macro_f1"][i], scoring.macro_f1(said, labels)[0])
    assert task.majority == labels.bincount().max().item() / len(labels)


def test_nothing_held_out_is_trained_on(bert):
    """Cut to the context, rows become one text: only the held-out set keeps it."""
    head = " ".join(f"w{i}" for i in range(CONTEXT))
    texts = [(f"{head} w{i} w{k}", "ab"[i % 2]) for i in range(20) for k in range(3)]
    rows = corpora.corpus_of(
        [*texts, *((f"w{i} w{k}", "ab"[k % 2]) for i in range(9) for k in range(9))]
    )
    model = classifier.load(bert, rows.label_names, vocabulary=40, context=CONTEXT)
    task, _ = task_of(rows, model, small.tokenizer_of("bert"))
    held = {tuple(row) for row in task.test[0].tolist()}
    drawn = torch.cat([task.batches(step)[0].flatten(0, 1) for step in range(40)])
    assert not held & {tuple(row) for row in drawn.tolist()}
    assert any("their prompts are held-out ones" in note for note in task.notes)


@cases(
    ("more", "name", "words"),
    [
        ({"words": {"good": "A"}}, "classify", "left out: .* no head that trains"),
        ({}, "lm", "task = 'lm' cannot be used: it must be classify, with a head that trains"),
    ],
)
def test_what_does_not_fit_is_said(more, name, words, rows):
    model = classifier.load("tiny", rows.label_names, vocabulary=40, pad=0)
    parts = shards.split(rows.labels, 3, how="iid")
    request = (rows, parts, small.tokenizer_of("gpt2"), model, CONTEXT, 2, 0, CPU, 9)
    with pytest.raises(BadInput, match=words):
        tasks.build(name, tasks.TaskRequest(*request, **more), head=True)


def test_streams_of_whole_texts_need_no_end_and_no_length(rows):
    which, parts = small.tokenizer_of("bert"), shards.split(rows.labels, 3, how="iid")
    which.sep_token = None
    assert (which.eos_token_id, which.sep_token_id) == (None, None)
    built = shards.build(rows, parts, which, 10_000, whole=True)
    count = sum(len(rows.texts[i].split()) for i in parts.train[0])
    assert len(built.train[0]) == count
    with pytest.raises(BadInput, match="no end-of-text token"):
        shards.build(rows, parts, which, 4)


def test_the_models_own_tokenizer_is_the_usual_one(bert, tmp_path):
    which, notes = tokenizer_for("auto", bert)
    assert (len(which), notes) == (40, ("tokenizer: the model's own, 40 tokens",))
    assert tokenizer_for("auto", "")[1] == ()
    assert len(tokenizer_for("auto", "")[0]) == causal_lm.BYTES
    assert tokenizer_for("auto", str(tmp_path))[1] == ("tokenizer: bytes, for the model has none",)
    assert len(tokenizer_for("bytes", bert)[0]) == causal_lm.BYTES
    assert causal_lm.source_of("base") == causal_lm.source_of("tiny") == ""
    assert causal_lm.source_of(bert) == bert
