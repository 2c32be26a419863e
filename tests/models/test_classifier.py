"""Classifiers with a head against transformers' own, alone and stacked; what cannot be one is one line."""

import pytest
import small_models as small
import torch
from cases import cases
from torch import nn
from torch.nn.functional import cross_entropy

from deca_lab.errors import BadInput
from deca_lab.models import adapters, causal_lm, classifier, four_bit

LABELS = ("bad", "good", "odd")
N, B, T = 3, 4, 9
EXACT = {torch.float32: 1e-6, torch.float64: 1e-12}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    return {family: str(small.folder_of(family, path)) for family in small.FAMILIES}


def loaded(folder, **options):
    size = {"vocabulary": len(small.WORDS), "context": T, "pad": 0}
    return classifier.load(folder, LABELS, **{**size, **options})


def batch(*shape, seed=1, pad=0):
    """Tokens, mask and labels of rows of different lengths."""
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(4, len(small.WORDS), (*shape, T), generator=draw)
    lengths = torch.randint(1, T + 1, (*shape, 1), generator=draw)
    mask = torch.arange(T) < lengths
    labels = torch.randint(0, len(LABELS), shape, generator=draw)
    return torch.where(mask, tokens, pad), mask, labels


def moved(params, n=N):
    draw = torch.Generator().manual_seed(2)
    noise = (torch.randn(n, *p.shape, generator=draw).to(p.dtype) for p in params.values())
    return {name: p + 0.05 * e for (name, p), e in zip(params.items(), noise, strict=True)}


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("family", small.FAMILIES)
def test_stacked_losses_and_gradients_are_those_of_transformers_in_a_loop(family, dtype, folders):
    from deca_lab.text.headed import head_loss

    model = loaded(folders[family], dtype=dtype)
    data, params = batch(N, B), moved(causal_lm.trainable(model))
    leaves = {name: p.requires_grad_() for name, p in params.items()}
    losses = torch.vmap(head_loss(model))(leaves, data)
    gradients = torch.autograd.grad(losses.sum(), list(leaves.values()))
    for i, (tokens, mask, labels) in enumerate(zip(*data, strict=True)):
        alone = causal_lm.with_parameters(model, {n: p[i].detach() for n, p in leaves.items()})
        logits = alone(tokens, attention_mask=mask.long()).logits
        loss = cross_entropy(logits, labels)
        loss.backward()
        assert torch.allclose(losses[i], loss, rtol=0, atol=EXACT[dtype])
        for (name, p), g in zip(alone.named_parameters(), gradients, strict=True):
            wanted = torch.zeros_like(p) if p.grad is None else p.grad
            assert torch.allclose(g[i], wanted, rtol=0, atol=EXACT[dtype]), name


@pytest.mark.parametrize("family", small.FAMILIES)
def test_a_row_alone_is_the_row_padded_in_a_batch(family, folders):
    model = loaded(folders[family], dtype=torch.float64)
    tokens, mask, _ = batch(B)
    logits = classifier.class_logits(model)
    padded = logits({}, tokens, mask)
    for row, seen, out in zip(tokens, mask, padded, strict=True):
        alone = logits({}, row[seen][None], seen[seen][None])
        assert torch.allclose(alone[0], out, rtol=0, atol=1e-12)
    if family in small.ENCODERS:  # a decoder never looks at what comes after its last token
        assert (logits({}, tokens, torch.ones_like(mask)) - padded).abs().max() > 1e-3


@pytest.mark.parametrize("family", small.FAMILIES)
def test_the_head_comes_from_the_seed_and_the_rest_from_the_folder(family, folders):
    state = torch.random.get_rng_state()
    first, again, other = (
        dict(loaded(folders[family], seed=s).named_parameters()) for s in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    from transformers import AutoModel

    head = set(classifier.head_names(loaded(folders[family])))
    base = dict(AutoModel.from_pretrained(folders[family]).named_parameters())
    for name, p in first.items():
        assert torch.equal(p, again[name])
        if name not in head:
            assert torch.equal(p, other[name])
            assert name.split(".", 1)[1] in base
    drawn = [name for name in head if not torch.equal(first[name], other[name])]
    assert drawn == [name for name in drawn if name.endswith("weight")] != []


def test_no_dropout_no_cache_and_the_labels_are_known(folders):
    model = loaded(folders["bert"])
    tokens, mask, _ = batch(B)
    quiet = model(tokens, attention_mask=mask.long()).logits
    assert torch.equal(model(tokens, attention_mask=mask.long()).logits, quiet)
    assert not any(part.training for part in model.modules())
    assert model.config.id2label == dict(enumerate(LABELS))
    assert model.config.pad_token_id == 0


@pytest.mark.parametrize("preset", ["tiny", "llama-tiny", "qwen2-tiny"])
def test_presets_are_the_same_bodies_with_a_head(preset):
    with_head = classifier.load(preset, LABELS, pad=0, context=T, seed=3)
    names = {name for name, _ in with_head.named_parameters()}
    assert classifier.head_names(with_head) == ["score.weight"]
    assert causal_lm.anatomy(with_head)["score.weight"] == "head"
    assert names - {"score.weight"} <= {
        name for name, _ in causal_lm.load(preset).named_parameters()
    }


@cases("family", small.FAMILIES)
def test_the_head_sits_in_the_last_block(family, folders):
    where = causal_lm.anatomy(loaded(folders[family]))
    assert all(where[name] == "head" for name in classifier.head_names(loaded(folders[family])))
    assert {place for place in where.values() if isinstance(place, int)} == {0, 1}
    assert all(place != "embeddings" or "e" in name for name, place in where.items())
    assert "embeddings" in where.values()


@cases("family", small.FAMILIES)
def test_adapters_and_the_head_train_and_nothing_else(family, folders):
    model = loaded(folders[family])
    head = set(classifier.head_names(model))
    for wrapped, ends in (
        (adapters.lora(model, 2, head=list(head)), ("lora_A", "lora_B")),
        (adapters.bottleneck(model, 2, head=list(head)), ("weight", "bias")),
    ):
        names = set(causal_lm.trainable(wrapped))
        assert head < names
        inner = names - head
        assert all(".down." in n or ".up." in n or "lora" in n for n in inner)
        assert all(n.endswith(ends) for n in inner)
        same = classifier.class_logits(wrapped)({}, *batch(B)[:2])
        assert torch.equal(same, classifier.class_logits(model)({}, *batch(B)[:2]))


@cases(("targets", "first", "count"),
       [("query-value", "query", 4), ("attention", "query", 8), ("mlp", "intermediate.dense", 4),
        ("all-linear", "query", 12)])  # fmt: skip
def test_targets_in_bert(targets, first, count, folders):
    names = adapters.targets_of(loaded(folders["bert"]), targets)
    assert (len(names), names[0].endswith(first)) == (count, True)


def test_bottlenecks_follow_berts_output_projections(folders):
    model = adapters.bottleneck(loaded(folders["bert"]), 2)
    found = [n for n, m in model.named_modules() if isinstance(m, adapters.Bottleneck)]
    layer = "bert.encoder.layer"
    assert found == [
        f"{layer}.{i}.{part}.dense" for i in (0, 1) for part in ("attention.output", "output")
    ]


def test_four_bits_leave_the_head_whole(folders):
    model = four_bit.quantise_base(loaded(folders["bert"]))
    assert isinstance(model.bert.encoder.layer[0].attention.self.query, four_bit.NF4Linear)
    assert type(model.classifier) is nn.Linear
    assert torch.equal(model.classifier.weight, loaded(folders["bert"]).classifier.weight)


# objects


class Bag(nn.Module):
    """The mean embedding of what the mask shows."""

    def __init__(self, labels=3):
        super().__init__()
        self.embed, self.head = nn.Embedding(len(small.WORDS), 8), nn.Linear(8, labels)

    def forward(self, ids, attention_mask):
        seen = attention_mask[..., None]
        return self.head((self.embed(ids) * seen).sum(1) / seen.sum(1))


class Unmasked(Bag):
    def forward(self, ids):
        return self.head(self.embed(ids).mean(1))


class Careless(Bag):
    def forward(self, ids, attention_mask):
        return self.head(self.embed(ids).mean(1))


class Narrow(Bag):
    def forward(self, ids, attention_mask):
        return super().forward(ids, attention_mask)[:, :2]


@cases("kind", [Bag, Unmasked])
def test_any_module_can_be_a_classifier(kind):
    given = kind()
    twin = classifier.classifier_of(given, LABELS, vocabulary=len(small.WORDS), context=T)
    tokens, mask, _ = batch(B)
    wanted = given(tokens, mask.long()) if kind is Bag else given(tokens)
    assert torch.equal(classifier.class_logits(twin)({}, tokens, mask), wanted)
    assert set(classifier.head_names(twin)) == {"head.weight", "head.bias"}


def test_an_object_of_transformers_is_treated_as_its_name(folders):
    from transformers import AutoModelForSequenceClassification

    given = AutoModelForSequenceClassification.from_pretrained(folders["gpt2"], num_labels=3)
    twin = classifier.classifier_of(given, LABELS, vocabulary=len(small.WORDS), context=T, pad=0)
    assert (given.config.pad_token_id, twin.config.pad_token_id) == (None, 0)
    tokens, mask, _ = batch(1)
    short = tokens[:, : int(mask.sum())]
    out = classifier.class_logits(twin)({}, tokens, mask)
    assert torch.allclose(out, given.eval()(short).logits, atol=1e-6)


@cases(
    ("make", "words"),
    [
        (Narrow, r"returns of tokens \(2, 3\) = \(2, 2\) .* of shape \(2, 3\)"),
        (Careless, "mixes the rows of a batch"),
        (lambda: causal_lm.load("tiny"), r"= \(2, 3, 259\) cannot be used: .* of shape \(2, 3\)"),
    ],
)
def test_what_is_no_classifier_is_one_line(make, words):
    with pytest.raises(BadInput, match=words) as caught:
        classifier.classifier_of(make(), LABELS, vocabulary=len(small.WORDS), context=T)
    assert "\n" not in str(caught.value)


def test_one_label_is_nothing_to_learn():
    with pytest.raises(
        BadInput, match=r"labels = \['bad'\] cannot be used: it must be two or more"
    ):
        classifier.load("tiny", LABELS[:1])


def test_weights_of_the_body_may_not_be_lacking(folders, tmp_path):
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folders["bert"])
    model.encoder.layer[1].attention.self.query.weight = None
    model.save_pretrained(tmp_path)
    with pytest.raises(BadInput, match=r"without weights for bert\.encoder\.layer\.1"):
        loaded(str(tmp_path))


# which head


@cases(
    ("family", "head", "task", "wanted"),
    [
        ("bert", "auto", "classify", True),
        ("bert", "trained", "classify", True),
        ("llama", "auto", "classify", False),
        ("llama", "words", "classify", False),
        ("gpt2", "trained", "classify", True),
        ("gpt2", "auto", "lm", False),
        ("roberta", "words", "classify", "head = 'words' .* auto or trained with the encoder"),
        ("roberta", "auto", "lm", "a causal LM with --task lm: an encoder reads whole texts"),
        ("bert", "auto", "generate", "a causal LM with --task generate"),
        ("gpt2", "trained", "lm", "head = 'trained' .* auto or words with --task lm"),
        ("gpt2", "trained", "generate", "auto or words with --task generate"),
        ("gpt2", "train", "classify", "unknown head 'train': did you mean 'trained'"),
    ],
)
def test_who_gets_a_head(family, head, task, wanted, folders):
    if isinstance(wanted, bool):
        assert classifier.trains_head(head, folders[family], task, task == "classify") is wanted
        return
    with pytest.raises(BadInput, match=wanted) as caught:
        classifier.trains_head(head, folders[family], task, task == "classify")
    assert "\n" not in str(caught.value)


def test_objects_get_a_head_by_their_class(folders):
    assert classifier.trains_head("auto", loaded(folders["gpt2"]), "classify", True)
    assert not classifier.trains_head("auto", causal_lm.load("tiny"), "classify", True)
    assert not classifier.trains_head("auto", Bag(), "classify", True)
    assert classifier.trains_head("trained", Bag(), "classify", True)


@cases("family", small.ENCODERS)
def test_a_causal_lm_must_really_be_one(family, tmp_path, monkeypatch):
    """Transformers loads an encoder as a causal LM; it would read the answer before it gives it."""
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_config(small.config_of(family)).save_pretrained(tmp_path / family)
    with pytest.raises(BadInput, match=r"model looks ahead: .* take --task classify"):
        causal_lm.load(str(tmp_path / family))
    monkeypatch.setattr(causal_lm, "is_encoder", lambda model: False)  # tried, not looked up
    if family == "bert":
        with pytest.raises(BadInput, match="model looks ahead"):
            causal_lm.load(str(tmp_path / family))
    monkeypatch.undo()
    decoder = small.config_of(family, is_decoder=True)
    AutoModelForCausalLM.from_config(decoder).save_pretrained(tmp_path / f"{family}-decoder")
    assert not causal_lm.is_encoder(str(tmp_path / f"{family}-decoder"))
