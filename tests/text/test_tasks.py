"""Tasks: the loss against plain torch, scores against per-client loops, scikit-learn and transformers' generate."""

import numpy as np
import pytest
import torch
from cases import cases

from deca_lab.algorithm import stacking
from deca_lab.algorithm.gradients import ENGINES
from deca_lab.errors import BadInput
from deca_lab.models import causal_lm
from deca_lab.text import corpora, markov, scoring, shards, tasks
from deca_lab.text import prompts as examples_
from deca_lab.text.tokens import tokenize, tokenizer

N, CONTEXT = 3, 40
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def which():
    return tokenizer("bytes")


@pytest.fixture(scope="module", params=["tiny", "llama-tiny"])
def model(request):
    return causal_lm.load(request.param)


@pytest.fixture(scope="module")
def tiny():
    return causal_lm.load("tiny")


@pytest.fixture(scope="module")
def told():
    return corpora.load("instructions", max_rows=240)


def clients(model, n=N, noise=0.2):
    """Stacked copies that differ enough to answer differently."""
    g = torch.Generator().manual_seed(3)
    return {
        k: p + noise * torch.randn(n, *p.shape, generator=g)
        for k, p in causal_lm.trainable(model).items()
    }


def plain(model, params, i):
    return causal_lm.with_parameters(model, stacking.client(params, i))


def labelled(corpus, which, context=CONTEXT, rows=None):
    words = examples_.verbaliser(corpus.label_names, which)
    rows = np.arange(len(corpus.texts)) if rows is None else rows
    return examples_.classification(corpus, rows, which, context, words), list(words.values())


def small(rows=90, labels=("asyncio", "email", "xml")):
    return corpora.load("stdlib", labels=labels, max_rows=rows)


def made(task, corpus, which, model, how="iid", context=CONTEXT, n=N, limit=30, **more):
    parts = shards.split(corpus.labels, n, how=how)
    sizes = (context, 4, 0, CPU, limit)
    request = tasks.TaskRequest(corpus, parts, which, model, *sizes, **more)
    return tasks.build(task, request), parts


# examples


def test_a_classified_row_reads_text_cue_letter(which):
    corpus = corpora.from_rows("x", [("short", "b"), ("long " * 50, "a")])
    examples, ids = labelled(corpus, which, 20)
    assert which.decode(examples.tokens[0][:13]) == "short\nlabel:B"
    assert which.decode(examples.tokens[1]) == "long long lon\nlabel:A"
    assert examples.tokens.shape == (2, 21)
    assert examples.labels.tolist() == [1, 0]
    assert examples.answer_at.tolist() == [12, 20]
    for i in range(2):
        (place,) = examples.counted[i].nonzero().flatten().tolist()
        assert place + 1 == examples.answer_at[i]
        assert (examples.tokens[i, place + 1],) == ids[examples.labels[i]]


def test_a_generated_row_counts_answer_and_end(which):
    corpus = corpora.from_rows(
        "x", [("say é", "b", "é!"), ("say", "a", "no"), ("too long a prompt here", "a", "yes")]
    )
    examples = examples_.generation(corpus, np.arange(3), which, 20)
    assert len(examples.tokens) == 2  # the third has 22 + 8 + 3 + 1 tokens
    for i, (text, answer) in enumerate([("say é", "é!"), ("say", "no")]):
        at, counted = int(examples.answer_at[i]), examples.tokens[i, 1:][examples.counted[i]]
        assert which.decode(examples.tokens[i, :at]) == text + "\nanswer:"
        assert counted.tolist() == [*tokenize([answer], which)[0], 1]
        assert examples.counted[i].nonzero()[0] + 1 == at
    assert len(examples_.generation(corpus, np.arange(3), which, 33).tokens) == 3  # exactly fits
    assert len(examples_.generation(corpus, np.arange(3), which, 32).tokens) == 2


def test_the_verbaliser_has_letters_of_one_token(which, tmp_path):
    assert examples_.verbaliser(["x", "y"], which) == {"x": (ord("A") + 3,), "y": (ord("B") + 3,)}
    names = [f"l{i}" for i in range(53)]
    assert len(set(examples_.verbaliser(names[:52], which).values())) == 52
    with pytest.raises(
        BadInput, match=r"53 labels are too many.* 52 letters .*from number 53 on: l52"
    ):
        examples_.verbaliser(names, which)
    assert examples_.verbaliser(["no", "yes"], which, {"no": "n", "yes": "y"}) == {
        "no": (113,),
        "yes": (124,),
    }
    for names, words, says in (
        (
            ["no", "maybe", "yes"],
            {"no": "n", "yes": "y"},
            "that the verbaliser does not know: maybe; it knows no, yes",
        ),
        (["no"], {"no": ""}, "word for label 'no' = '' cannot be used: it must be one or more"),
        (["no", "yes"], {"no": "y", "yes": "y"}, "'y' of 'no' and 'y' of 'yes' cannot be told"),
        (["no", "yes"], {"no": "good", "yes": "goo"}, "no word may begin another"),
    ):
        with pytest.raises(BadInput, match=says):
            examples_.verbaliser(names, which, words)
    corpus = corpora.from_rows("x", [("a", "p"), ("b", "q")])
    with pytest.raises(BadInput, match="labels that the verbaliser does not know: q; it knows p"):
        examples_.classification(corpus, np.arange(2), which, 20, {"p": (5,)})


def test_the_verbaliser_of_another_tokenizer_skips_what_is_unknown_or_split(tmp_path):
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    table = {"<eos>": 0, "<unk>": 1, "B": 2, "D": 3, "a": 4, "label": 5, ":": 6}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(table, unk_token="<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    other = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", unk_token="<unk>")
    assert examples_.verbaliser(["x", "y", "z"], other) == {"x": (2,), "y": (3,), "z": (4,)}
    with pytest.raises(
        BadInput, match="4 labels are too many for the verbaliser, which has 3 letters"
    ):
        examples_.verbaliser(["x", "y", "z", "u"], other)
    corpus = corpora.from_rows("x", [("a a a a", "x"), ("a", "y")])
    examples = examples_.classification(
        corpus, np.arange(2), other, 5, examples_.verbaliser(["x", "y"], other)
    )
    assert examples.tokens.tolist() == [[4, 4, 4, 5, 6, 2], [4, 5, 6, 3, 0, 0]]


def test_a_corpus_may_lack_labels_of_the_verbaliser(which):
    corpus = corpora.from_rows("x", [("text", "q")])
    examples = examples_.classification(
        corpus, np.arange(1), which, 20, examples_.verbaliser(["p", "q"], which)
    )
    assert examples.labels.tolist() == [1]  # the verbaliser's order, not the corpus's


# the loss


def test_the_loss_is_plain_torch_example_by_example(model, which, told):
    examples = examples_.generation(told, np.arange(6), which, CONTEXT)
    loss = tasks.masked_loss(model)(causal_lm.trainable(model), (examples.tokens, examples.counted))
    means = []
    for tokens, counted in zip(examples.tokens, examples.counted, strict=True):
        logp = model(tokens[None, :-1]).logits[0].log_softmax(-1)
        means.append(
            np.mean([-logp[t, tokens[t + 1]].item() for t in range(len(counted)) if counted[t]])
        )
    assert loss.item() == pytest.approx(np.mean(means), abs=1e-5)
    labels = torch.where(
        examples.counted, examples.tokens[:, 1:], -100
    )  # transformers' own, one example a time
    own = [
        model(input_ids=t[None], labels=torch.cat([t[:1], y])[None]).loss.item()
        for t, y in zip(examples.tokens, labels, strict=True)
    ]
    assert loss.item() == pytest.approx(np.mean(own), abs=1e-5)


def test_all_counted_is_the_language_models_loss(model):
    tokens = torch.randint(3, 259, (5, 17), generator=torch.Generator().manual_seed(0))
    params = causal_lm.trainable(model)
    ours = tasks.masked_loss(model)(params, (tokens, torch.ones(5, 16, dtype=torch.bool)))
    assert torch.allclose(ours, causal_lm.client_loss(model)(params, tokens), atol=1e-6)


def test_padding_changes_nothing(model, which, told):
    examples = examples_.generation(told, np.arange(8), which, CONTEXT)
    wide = examples_.widen(examples, examples.tokens.shape[1] + 23)
    loss, logits, params = tasks.masked_loss(model), causal_lm.logits_of(model), clients(model)
    for i in range(N):
        narrow = loss(stacking.client(params, i), examples[:2])
        assert torch.allclose(loss(stacking.client(params, i), wide[:2]), narrow, atol=1e-5)
    noise = torch.where(wide.tokens == 0, 77, wide.tokens)  # what the padding is does not matter
    first = stacking.client(params, 0)
    assert torch.allclose(loss(first, (noise, wide.counted)), loss(first, wide[:2]), atol=1e-6)
    for one, two in zip(
        *(scoring.exact_match(logits, params, of) for of in (wide, examples)), strict=True
    ):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=0)
    with pytest.raises(BadInput, match="width = 5 cannot be used: it must be at least"):
        examples_.widen(examples, 5)


def test_chunks_average_exactly_and_an_empty_example_adds_nothing(tiny, which, told):
    examples = examples_.generation(told, np.arange(8), which, CONTEXT)
    loss, params = tasks.masked_loss(tiny), causal_lm.trainable(tiny)
    halves = [
        loss(params, (examples.tokens[s], examples.counted[s])) for s in (slice(4), slice(4, 8))
    ]
    assert torch.allclose(loss(params, examples[:2]), sum(halves) / 2, atol=1e-6)
    none = examples.counted.clone()
    none[4:] = False
    assert torch.allclose(loss(params, (examples.tokens, none)), halves[0] / 2, atol=1e-6)


def test_both_engines_take_the_pairs(model, which, told):
    parts = [
        examples_.generation(told, np.arange(20 * i, 20 * i + 20), which, CONTEXT) for i in range(N)
    ]
    wide = [examples_.widen(part, 35) for part in parts]
    pair, params = examples_.batch(wide, 2, 0, 0)[:2], clients(model, noise=0.02)
    where, x = stacking.layout(params, list(params)), stacking.flatten(params, list(params))
    (l1, g1), (l2, g2) = (
        ENGINES[name](tasks.masked_loss(model))(x, where, {}, pair) for name in ("stacked", "loop")
    )
    assert torch.allclose(l1, l2, atol=1e-5)
    assert torch.allclose(g1, g2, atol=1e-5)
    assert g1.abs().sum(1).min() > 0


def test_some_names_and_strange_names(tiny, which, told):
    pair = examples_.generation(told, np.arange(3), which, CONTEXT)[:2]
    params, loss = causal_lm.trainable(tiny), tasks.masked_loss(tiny)
    one = dict(list(params.items())[:1])
    assert torch.equal(loss(one, pair), loss(params, pair))
    ((name, value),) = one.items()
    leaf = value.clone().requires_grad_()
    loss({name: leaf}, pair).backward()
    assert leaf.grad.abs().sum() > 0
    assert all(p.grad is None for p in tiny.parameters())  # what is not given is frozen
    with pytest.raises(BadInput, match="parameter names = 'nope' cannot be used"):
        loss({"nope": torch.zeros(1)}, pair)


# batches


def test_a_batch_is_a_pure_function_of_seed_and_step(which, told):
    rows = [np.arange(30 * i, 30 * i + 10 + i) for i in range(N)]
    parts = [
        examples_.widen(examples_.generation(told, chosen, which, CONTEXT), 36) for chosen in rows
    ]
    tokens, counted, *_ = examples_.batch(parts, 7, 3, 11)
    assert tokens.shape == (N, 7, 36)
    assert counted.shape == (N, 7, 35)
    assert counted.dtype == torch.bool
    again, other, later = (examples_.batch(parts, 7, *at)[0] for at in ((3, 11), (4, 11), (3, 12)))
    assert torch.equal(tokens, again)
    assert not torch.equal(tokens, other)
    assert not torch.equal(tokens, later)
    for i, part in enumerate(parts):
        own = {(t.numpy().tobytes(), c.numpy().tobytes()) for t, c in zip(*part[:2], strict=True)}
        assert {
            (t.numpy().tobytes(), c.numpy().tobytes())
            for t, c in zip(tokens[i], counted[i], strict=True)
        } <= own
    seen = {
        row.numpy().tobytes()
        for step in range(40)
        for row in examples_.batch(parts, 7, 0, step)[0][2]
    }
    assert len(seen) == len(parts[2].tokens)  # every example is drawn sooner or later


@cases(
    ("change", "says"),
    [
        ({"batch_size": 0}, "batch_size = 0"),
        ({"step": -1}, r"seed, step = \(0, -1\)"),
        (
            {"clients": "narrow"},
            r"widths of the examples = \[30, 36\] cannot be used: it must be equal",
        ),
        (
            {"clients": "empty"},
            r"examples = \[0, 4\] cannot be used: it must be one or more for each client",
        ),
    ],
)
def test_bad_batches(which, told, change, says):
    part = examples_.widen(examples_.generation(told, np.arange(4), which, CONTEXT), 36)
    narrow = part._replace(tokens=part.tokens[:, :30])
    given = {"narrow": [part, narrow], "empty": [examples_.take(part, np.arange(0)), part]}
    arguments = {
        "batch_size": 2,
        "seed": 0,
        "step": 0,
        **change,
        "clients": given.get(change.get("clients"), [part]),
    }
    with pytest.raises(BadInput, match=says):
        examples_.batch(**arguments)


def test_spread_keeps_every_label_and_takes_whole_sets():
    labels = torch.tensor([i % 4 for i in range(80)])
    chosen = examples_.evenly(labels, 20)
    assert np.bincount(labels[chosen]).tolist() == [5, 5, 5, 5]
    assert (np.diff(chosen) > 0).all()
    assert examples_.evenly(labels, 500).tolist() == list(range(80))
    assert examples_.evenly(labels[:0], 5).tolist() == []
    with pytest.raises(BadInput, match="limit = 0"):
        examples_.evenly(labels, 0)


# scores


def test_predictions_are_those_of_each_model_alone(model, which, told):
    examples, ids = labelled(told, which, rows=np.arange(40))  # of many lengths
    assert len(examples.answer_at.unique()) > 4
    params = clients(model)
    said, _ = scoring.classify(causal_lm.logits_of(model), params, examples, ids)
    assert said.shape == (N, 40)
    for i in range(N):
        alone = plain(model, params, i)
        for k in range(40):
            at = int(examples.answer_at[k])
            with torch.no_grad():
                last = alone(examples.tokens[k, None, :at]).logits[
                    0, -1
                ]  # the prompt only: neither answer nor padding
            assert said[i, k] == int(torch.stack([last[j] for (j,) in ids]).argmax())
    assert said.unique().numel() > 1
    hidden = examples._replace(tokens=examples.tokens.clone())
    hidden.tokens[torch.arange(40), examples.answer_at] = 99  # the answer itself is not read
    assert torch.equal(scoring.classify(causal_lm.logits_of(model), params, hidden, ids)[0], said)
    assert not said.requires_grad


WORDS = {"asyncio": "good", "email": "go", "xml": "great news"}


def test_words_of_several_tokens_are_scored_whole(model, which):
    """Against each word written after each prompt, alone, its log-probabilities added up."""
    words = examples_.verbaliser(list(WORDS), which, {**WORDS, "email": "bad"})
    corpus = small(12)
    examples = examples_.classification(corpus, np.arange(12), which, CONTEXT, words)
    assert which.decode(examples.tokens[0][: examples.answer_at[0]]).endswith("\nlabel:")
    params, spans = clients(model), list(words.values())
    predicted, losses = scoring.classify(causal_lm.logits_of(model), params, examples, spans)
    loss = tasks.masked_loss(model)  # of the true words
    wanted = [float(loss(stacking.client(params, i), examples[:2])) for i in range(N)]
    assert losses.tolist() == pytest.approx(wanted, rel=1e-5)
    sums = torch.zeros(N, 12, len(spans))
    for i in range(N):
        alone = plain(model, params, i)
        for k, at in enumerate(examples.answer_at.tolist()):
            for j, word in enumerate(spans):
                text = torch.cat([examples.tokens[k, :at], torch.tensor(word)])[None]
                with torch.no_grad():
                    logs = alone(text[:, :-1]).logits[0].log_softmax(-1)
                sums[i, k, j] = sum(logs[at - 1 + t, word[t]] for t in range(len(word)))
    assert torch.equal(predicted, sums.argmax(-1))
    assert predicted.any()  # not the first word each time, as of scores that are all alike


def test_all_tokens_of_a_label_are_counted_and_fit_the_context(which):
    words = examples_.verbaliser(list(WORDS), which, {**WORDS, "email": "bad"})
    corpus = small(30)
    examples = examples_.classification(corpus, np.arange(30), which, CONTEXT, words)
    assert examples.tokens.shape[1] == CONTEXT + 1
    for k in range(30):
        word = words[corpus.label_names[corpus.labels[k]]]
        at = int(examples.answer_at[k])
        assert examples.tokens[k, 1:][examples.counted[k]].tolist() == list(word)
        assert examples.tokens[k, at : at + len(word)].tolist() == list(word)
        assert at + len("great news") <= CONTEXT + 1  # each candidate fits where this one stands
    with pytest.raises(BadInput, match="context = 16 cannot be used: it must be at least 17"):
        examples_.classification(corpus, np.arange(3), which, 16, words)


def trained(model, loss, batches, steps, lr):
    """The parameters after each step of plain Adam on one model."""
    leaves = {k: p.clone().requires_grad_() for k, p in causal_lm.trainable(model).items()}
    optimiser = torch.optim.Adam(leaves.values(), lr=lr)
    for step in range(steps):
        optimiser.zero_grad()
        loss(leaves, batches(step)).backward()
        optimiser.step()
        yield {k: p.detach().clone() for k, p in leaves.items()}


SEVERAL = {"first": "one", "last": "other", "length": "how long"}


@pytest.mark.parametrize("words", [None, SEVERAL], ids=["letters", "several tokens"])
def test_training_lifts_accuracy_above_chance(tiny, which, words):
    corpus = corpora.load("instructions", labels=list(SEVERAL), max_rows=300)
    task, _ = made("classify", corpus, which, tiny, limit=60, words=words)

    def pooled(step):
        return [part.flatten(0, 1) for part in task.batches(step)]

    *_, last = trained(tiny, task.loss, pooled, 60, 3e-3)
    found = task.score({k: p[None] for k, p in last.items()})
    assert found["accuracy"] > 0.8  # chance: a third
    assert found["macro_f1"] > 0.8


def test_one_label_is_nothing_to_classify(tiny, which):
    corpus = corpora.from_rows(
        "mine", [(f"text {i}", "all") for i in range(40)], ["no label column"]
    )
    with pytest.raises(BadInput, match=r"two labels or more .* 'mine' has one, 'all': no label co"):
        made("classify", corpus, which, tiny)


def test_only_language_models_need_windows_of_text(tiny, which):
    rows = [(f"t{i}", "ab"[i % 2], str(i % 3)) for i in range(60)]
    corpus = corpora.from_rows("short", rows)
    for name in ("classify", "generate"):
        task, parts = made(name, corpus, which, tiny)
        assert len(task.test[0]) == len(parts.test)
        assert shards.build(corpus, parts, which, 300).label_counts.sum() == 48
    with pytest.raises(BadInput, match=r"client 0's training text has .* context 300 needs 301"):
        made("lm", corpus, which, tiny, context=300)


def test_accuracy_and_f1_by_hand():
    truth = torch.tensor([0, 0, 1, 1, 2])
    said = torch.tensor([[0, 0, 1, 1, 2], [0, 1, 1, 1, 1], [3, 3, 3, 3, 3]])
    assert scoring.accuracy(said, truth).tolist() == pytest.approx([1.0, 0.6, 0.0])
    # second: label 0: 2*1/(1+2), label 1: 2*2/(4+2), label 2: 0
    assert scoring.macro_f1(said, truth).tolist() == pytest.approx([1.0, (2 / 3 + 2 / 3) / 3, 0.0])
    absent = torch.tensor(
        [[0, 0, 2, 2, 0]]
    )  # truth below has no 2: it counts against the others, not as a label
    assert scoring.macro_f1(absent, torch.tensor([0, 0, 1, 1, 0])).tolist() == pytest.approx([0.5])


def test_f1_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for _ in range(50):
        truth, said = rng.integers(0, 5, 12), rng.integers(0, 6, (4, 12))
        f1 = [
            metrics.f1_score(truth, row, average="macro", labels=np.unique(truth), zero_division=0)
            for row in said
        ]
        both = torch.from_numpy(said), torch.from_numpy(truth)
        assert scoring.macro_f1(*both).tolist() == pytest.approx(f1)
        assert scoring.accuracy(*both).tolist() == pytest.approx(
            [metrics.accuracy_score(truth, row) for row in said]
        )


@pytest.fixture(scope="module")
def taught(which):
    """A tiny model that repeats some words and not others, and its examples."""
    rows = [
        (f"say {a}{b}", "say", a * (1 + i % 3)) for i, a in enumerate("abcdefgh") for b in "xyz"
    ]
    corpus = corpora.from_rows("echo", rows)
    examples = examples_.generation(corpus, np.arange(len(rows)), which, CONTEXT)
    model = causal_lm.load("tiny")
    states = list(trained(model, tasks.masked_loss(model), lambda step: examples[:2], 50, 1e-2))
    kept = [states[step] for step in (14, 29, 49)]
    return model, {k: torch.stack([state[k] for state in kept]) for k in kept[0]}, examples


def test_exact_match_is_transformers_greedy_decoding(taught):
    model, params, examples = taught
    logits = causal_lm.logits_of(model)
    score, losses = scoring.exact_match(logits, params, examples)
    written, loss = scoring.greedy(logits, params, examples, 1), tasks.masked_loss(model)
    wanted = [float(loss(stacking.client(params, i), examples[:2])) for i in range(N)]
    assert losses.tolist() == pytest.approx(wanted, rel=1e-5)
    steps = int(examples.counted.sum(1).max())
    assert written.shape == (N, len(examples.tokens), steps)
    for i in range(N):
        alone, hits = plain(model, params, i), 0
        for k in range(len(examples.tokens)):
            prompt = examples.tokens[k, None, : examples.answer_at[k]]
            made = alone.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=steps,
                do_sample=False,
                eos_token_id=1,
                pad_token_id=1,
            )[0, prompt.shape[1] :]
            made = torch.nn.functional.pad(made, (0, steps - len(made)), value=1)
            room = min(
                steps, examples.tokens.shape[1] - prompt.shape[1]
            )  # decoding ends where the width does
            assert torch.equal(written[i, k, :room], made[:room])
            wanted = examples.tokens[k, 1:][examples.counted[k]]
            hits += made[: len(wanted)].tolist() == wanted.tolist()
        assert score[i].item() == pytest.approx(hits / len(examples.tokens))
    assert len(set(score.tolist())) > 1
    assert 0 < score.max() <= 1


def test_decoding_stops_at_the_end_token(taught):
    model, params, examples = taught
    logits = causal_lm.logits_of(model)
    free = scoring.greedy(
        logits, params, examples, -1
    )  # an end that is never written, so decoding goes on to the width
    inside = (
        torch.arange(free.shape[2]) + examples.answer_at[:, None] < examples.tokens.shape[1]
    ).expand_as(free)
    stops = 0
    for end in free[inside].unique().tolist():
        over = ((free == end) | ~inside).int().cummax(2).values.bool()
        wanted = torch.where(over, end, free)
        assert torch.equal(scoring.greedy(logits, params, examples, end), wanted)
        stops += int((wanted != free)[inside].sum())
    assert stops > 0
    other = examples._replace(tokens=examples.tokens.clone())
    other.tokens[:, 1:][examples.counted] = 99
    assert torch.equal(
        scoring.greedy(logits, params, other, -1), free
    )  # the right answer is not read


def test_a_wrong_end_is_no_match(taught, which):
    model, params, examples = taught
    shorter = examples._replace(tokens=examples.tokens.clone(), counted=examples.counted.clone())
    last = (
        examples.tokens.shape[1] - 1 - examples.counted.flip(1).int().argmax(1)
    )  # where the end token stands
    rows = torch.arange(len(last))
    shorter.tokens[rows, last] = ord("!") + 3  # the answer goes on instead
    logits = causal_lm.logits_of(model)
    assert scoring.exact_match(logits, params, examples)[0].max() > 0
    assert scoring.exact_match(logits, params, shorter)[0].max() == 0


def test_an_answer_is_cut_at_the_width(taught):
    model, params, examples = taught
    longest = examples._replace(
        counted=torch.ones_like(examples.counted)
    )  # as if an answer were as long as the text
    written = scoring.greedy(causal_lm.logits_of(model), params, longest, 1)
    beyond = torch.arange(written.shape[2]) + longest.answer_at[:, None] >= longest.tokens.shape[1]
    assert (written[:, beyond] == 1).all()


def test_stacked_scores_are_the_loops(model, which, told):
    task, _ = made("generate", told, which, model, context=64)
    params = clients(model, noise=0.02)
    for score in (task.score, task.validation_score):
        together = score(params)["exact_match"]
        assert together.dtype == torch.float64
        assert together.tolist() == [
            score({k: p[i : i + 1] for k, p in params.items()})["exact_match"].item()
            for i in range(N)
        ]


# whole tasks


@pytest.mark.parametrize("name", tasks.TASKS)
def test_every_task_has_its_shapes_and_scores(name, tiny, which, told):
    corpus = told if name == "generate" else small()
    task, _ = made(name, corpus, which, tiny)
    width = task.test[0].shape[1]
    assert width <= CONTEXT + 1
    assert len(task.test[0]) <= 30
    for (tokens, counted), lead in (
        (task.batches(5), (N, 4)),
        (task.own, (N, task.own[0].shape[1])),
        (task.train, (N, tasks.TRAIN)),
        (task.test, (len(task.test[0]),)),
    ):
        assert tokens.shape == (*lead, width)
        assert counted.shape == (*lead, width - 1)
        assert (tokens.dtype, counted.dtype) == (torch.int64, torch.bool)
        assert (counted.sum(-1) >= 1).all()
    assert 1 <= task.own[0].shape[1] <= tasks.OWN
    assert torch.equal(task.batches(5)[0], task.batches(5)[0])
    params = clients(tiny)
    for score in (task.score, task.validation_score):
        found = score(params)
        if name != "lm":  # the loss comes from the scores' pass
            assert found.pop(scoring.LOSS).shape == (N,)
        assert set(found) == set(tasks.TASKS[name].scores)
        assert all(
            value.shape == (N,) and 0 <= value.min() <= value.max() <= 1 for value in found.values()
        )


def test_scores_are_of_the_test_and_the_validation_rows(tiny, which):
    corpus = small(200)
    task, parts = made("classify", corpus, which, tiny, limit=1000)
    params, logits = clients(tiny), causal_lm.logits_of(tiny)
    for score, rows in (
        (task.score, parts.test),
        (task.validation_score, np.concatenate(parts.validation)),
    ):
        examples, ids = labelled(corpus, which, rows=rows)
        said, _ = scoring.classify(logits, params, examples, ids)
        found = score(params)
        assert len(examples.tokens) > 15
        assert found["accuracy"].tolist() == pytest.approx(
            scoring.accuracy(said, examples.labels).tolist(), abs=0.02
        )
        assert found["macro_f1"].tolist() == pytest.approx(
            scoring.macro_f1(said, examples.labels).tolist(), abs=0.02
        )


@pytest.mark.parametrize("how", ["iid", "dirichlet", "by-label"])
def test_own_and_train_are_the_clients_own(how, tiny, which, told):
    task, parts = made("generate", told, which, tiny, how=how)
    for (tokens, _), rows in (
        (task.own, parts.validation),
        (task.train, parts.train),
        (task.batches(0), parts.train),
    ):
        for i in range(N):
            mine = {(told.texts[r] + examples_.ANSWER_CUE + told.answers[r]) for r in rows[i]}
            assert {which.decode(row[row > 2]) for row in tokens[i]} <= mine


@pytest.mark.parametrize(
    ("name", "corpus"),
    [("classify", "stdlib"), ("classify", "topics"), ("generate", "instructions")],
)
def test_nothing_of_the_held_out_sets_is_trained_on(name, corpus, tiny, which, monkeypatch):
    corpus = corpora.load(corpus)
    kept = []
    real = tasks._sets
    monkeypatch.setattr(tasks, "_sets", lambda *a: kept.append(real(*a)) or kept[0])
    task, parts = made(name, corpus, which, tiny, limit=10**6, context=CONTEXT)
    (sets,) = kept

    def prompts(examples):
        return {
            tuple(t[:at].tolist())
            for t, at in zip(examples.tokens, examples.answer_at, strict=True)
        }

    train, held = (
        set().union(*map(prompts, sets.train)),
        set().union(*map(prompts, sets.validation)),
    )
    assert not train & prompts(sets.test)
    assert not train & held
    assert not held & prompts(sets.test)
    assert len(sets.test.tokens) == len(parts.test)
    dropped = [note for note in task.notes if "dropped: cut to the context" in note]
    assert len(dropped) == (
        corpus.name != "instructions"
    )  # at 40 bytes, beginnings of rows are alike
    if dropped:
        sizes = (
            sum(len(one.tokens) for one in (*sets.train, *sets.validation)),
            sum(map(len, (*parts.train, *parts.validation))),
        )
        assert int(dropped[0].split()[0]) == sizes[1] - sizes[0] > 0


def test_a_limited_test_set_keeps_all_labels_of_rows_in_turn(tiny, which):
    corpus = corpora.load("instructions")  # skills in turn: every twelfth row is of the same one
    task, _ = made("classify", corpus, which, tiny, limit=50)
    assert len(task.test[0]) == 50


def test_language_modelling_reads_the_streams_as_before(tiny, which):
    corpus = small()
    task, parts = made("lm", corpus, which, tiny, limit=7)
    data = shards.build(corpus, parts, which, CONTEXT)
    shards.require_windows(data)
    assert torch.equal(task.batches(9)[0], shards.batch(data.train, CONTEXT, 4, 0, 9))
    assert torch.equal(task.test[0], shards.windows(data.test, CONTEXT, 7))
    assert torch.equal(
        task.own[0][1], shards.windows(data.validation[1], CONTEXT, task.own[0].shape[1])
    )
    assert all(counted.all() for _, counted in (task.batches(9), task.test, task.own, task.train))
    assert task.score(clients(tiny)) == {}


def test_language_modelling_of_instructions_reads_the_answers_too(tiny, which, told):
    task, parts = made("lm", told, which, tiny, limit=10**6)
    row = parts.test[0]
    assert which.decode(task.test[0][0]).startswith(
        f"{told.texts[row]}\nanswer:{told.answers[row]}</s>"
    )


def test_rows_that_do_not_fit_are_said(tiny, which):
    rows = [(f"{'long ' * (9 if i % 4 == 0 else 1)}{i}", "a", str(i)) for i in range(80)]
    task, _ = made("generate", corpora.from_rows("x", rows), which, tiny)
    assert task.notes == ("20 examples left out: longer than the context of 40 tokens",)


@pytest.mark.parametrize(
    ("task", "corpus", "options", "says"),
    [
        ("clasify", small, {}, "unknown task 'clasify': did you mean 'classify'"),
        (
            "generate",
            small,
            {},
            "corpus 'stdlib' has no answers to generate: take 'instructions', or a file",
        ),
        (
            "classify",
            small,
            {"context": 7},
            r"context = 7 cannot be used: it must be at least 8 tokens",
        ),
        (
            "classify",
            small,
            {"limit": 2},
            r"the test set of 2 examples has none of the label\(s\) \w+: take a larger test_share",
        ),
        ("classify", small, {"limit": 0}, "test_limit = 0"),
        (
            "classify",
            small,
            {"words": {"asyncio": "a", "xml": "x"}},
            "does not know: email; it knows asyncio, xml",
        ),
        ("lm", small, {"words": {"xml": "x"}}, "only the task 'classify' has a verbaliser"),
        (
            "generate",
            lambda: corpora.load("instructions", max_rows=60),
            {"context": 12},
            "no example in client 0's training set, .*the test set: .*longer than context 12.*take a larger context",
        ),
    ],
)
def test_what_does_not_fit_is_said(task, corpus, options, says, tiny, which):
    with pytest.raises(BadInput, match=says) as caught:
        made(task, corpus(), which, tiny, **options)
    assert "\n" not in str(caught.value)


def test_a_class_that_the_test_set_lacks_is_named(tiny, which):
    rows = [(f"text {i}", "rare" if i < 3 else "odd" if i < 6 else "common") for i in range(100)]
    with pytest.raises(
        BadInput,
        match=r"test set of 10 examples has none of the label\(s\) odd, rare: take a larger",
    ):
        made("classify", corpora.from_rows("x", rows), which, tiny)


def test_own_words_are_the_label_tokens(tiny, which):
    task, _ = made(
        "classify",
        small(),
        which,
        tiny,
        words={"asyncio": "a", "email": "e", "xml": "x", "unused": "u"},
    )
    tokens, counted = task.test
    assert set(tokens[:, 1:][counted].tolist()) == {ord(letter) + 3 for letter in "aex"}
    assert task.notes[-1] == "the verbaliser's word for unused is not used: no row has it"


def test_the_entropy_floor_weighs_rows():
    corpus = corpora.from_chains(sources=3, rows=4, length=30)
    rates = [markov.entropy_rate(m) for m in markov.chains(3, 16, 0.2, 0)]
    assert tasks.entropy_floor(corpus) == pytest.approx(np.mean(rates))
    assert tasks.entropy_floor(corpus, np.array([0, 1, 4])) == pytest.approx(
        (2 * rates[0] + rates[1]) / 3
    )
    assert tasks.entropy_floor(corpora.from_rows("x", [("a", "b")])) is None


def test_every_score_says_which_way_is_up():
    assert {name: row.scores for name, row in tasks.TASKS.items()} == {
        "lm": {},
        "classify": {"accuracy": True, "macro_f1": True},
        "generate": {"exact_match": True},
    }
    assert all(row.about and row.build.__doc__ for row in tasks.TASKS.values())


def test_a_rare_label_keeps_an_example_where_the_limit_allows():
    labels = torch.tensor([0] * 50 + [1] * 2 + [2] * 40 + [3] * 1)
    chosen = examples_.evenly(labels, 8)
    assert len(set(chosen.tolist())) == 8
    assert set(labels[chosen].tolist()) == {0, 1, 2, 3}
    assert len(examples_.evenly(labels, 2)) == 2


def test_a_batch_goes_to_a_gpu_from_pinned_memory_and_nobody_waits():
    class Said:
        def __init__(self):
            self.calls = []

        def pin_memory(self):
            self.calls.append("pinned")
            return self

        def to(self, device, non_blocking=False):
            self.calls.append((device.type, non_blocking))
            return self

    for device, calls in (("cuda", ["pinned", ("cuda", True)]), ("cpu", [("cpu", False)])):
        assert examples_.sent(Said(), torch.device(device)).calls == calls


def test_of_examples_on_the_device_only_the_drawn_rows_are_sent(monkeypatch):
    own = examples_.Examples(*(torch.arange(12).view(4, 3) for _ in examples_.Examples._fields))
    went, sent = [], examples_.sent
    monkeypatch.setattr(examples_, "sent", lambda t, device: went.append(t) or sent(t, device))
    drawn = examples_.batch([own, own], 5, 0, 3)
    assert [t.shape for t in went] == [(2, 5)]
    assert torch.equal(drawn.tokens, own.tokens[went[0]])
