"""Models against transformers' own loss, a loop over clients, a round trip through a directory, and the card."""

import json
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from cases import cases
from safetensors.torch import load_file, save_file

from deca_lab.errors import BadInput
from deca_lab.models import causal_lm
from deca_lab.text import corpora, shards
from deca_lab.text.tokens import stream, tokenize, tokenizer
from deca_lab.tools import pretrain

N, B, T = 3, 2, 24
ROWS = {
    **{name: causal_lm.PRESETS[name] for name in ("tiny", "llama-tiny", "qwen2-tiny")},
    **{f"{name}-other": causal_lm.PRESETS[name]._replace(tied=not causal_lm.PRESETS[name].tied)
       for name in ("tiny", "llama-tiny", "qwen2-tiny")},
}  # fmt: skip
EXACT = {torch.float32: 1e-6, torch.float64: 1e-10}


def tokens(*shape, seed=1):
    return torch.randint(3, causal_lm.BYTES, shape, generator=torch.Generator().manual_seed(seed))


def clients(params, n=N):
    """Stacked copies that differ: axis 0 is the client."""
    noise = torch.Generator().manual_seed(2)
    return {
        k: p + 0.02 * torch.randn(n, *p.shape, generator=noise, dtype=torch.float64).to(p.dtype)
        for k, p in params.items()
    }


@pytest.mark.parametrize("row", ROWS)
def test_the_loss_is_transformers_own(row):
    model, batch = causal_lm.draw(ROWS[row]), tokens(B, T + 1)
    own = model(input_ids=batch, labels=batch).loss
    assert torch.allclose(
        causal_lm.client_loss(model)(causal_lm.trainable(model), batch), own, atol=1e-6
    )


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("row", ROWS)
def test_stacked_gradients_are_the_loops(row, dtype):
    model, batch = causal_lm.draw(ROWS[row], dtype=dtype), tokens(N, B, T + 1)
    loss, params = causal_lm.client_loss(model), clients(causal_lm.trainable(model))
    leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
    stacked = torch.autograd.grad(torch.vmap(loss)(leaves, batch).sum(), list(leaves.values()))
    for i in range(N):
        alone = causal_lm.with_parameters(
            model, {name: p[i] for name, p in params.items()}
        )  # plain module, plain backward
        logits = alone(batch[i, :, :-1]).logits  # transformers' own loss would round it to float32
        torch.nn.functional.cross_entropy(
            logits.reshape(B * T, -1), batch[i, :, 1:].reshape(-1)
        ).backward()
        for (name, p), g in zip(alone.named_parameters(), stacked, strict=True):
            assert g.dtype == dtype
            assert torch.allclose(g[i], p.grad, rtol=0, atol=EXACT[dtype]), name


@pytest.mark.parametrize("row", ["tiny", "llama-tiny"])
def test_a_part_of_the_names_leaves_the_rest_frozen(row):
    model, batch = causal_lm.draw(ROWS[row]), tokens(B, T + 1)
    loss, whole = causal_lm.client_loss(model), causal_lm.trainable(model)
    part = {
        name: p.clone().requires_grad_()
        for name, p in whole.items()
        if causal_lm.layer_of(name) == 1
    }
    value = loss(part, batch)
    value.backward()
    assert torch.equal(value, loss(whole, batch))
    assert all(p.grad.abs().sum() > 0 for p in part.values())
    assert all(p.grad is None for p in model.parameters())
    moved = {name: p.detach() + 0.1 for name, p in part.items()}
    assert loss(moved, batch) != value
    assert torch.equal(loss(part, batch), value)  # nothing stays behind


def test_a_tied_head_follows_its_embedding():
    model, batch = causal_lm.load("tiny"), tokens(B, T + 1)
    params = causal_lm.trainable(model)
    assert "lm_head.weight" not in params
    zero = params | {"transformer.wte.weight": torch.zeros_like(params["transformer.wte.weight"])}
    uniform = torch.tensor(
        causal_lm.BYTES
    ).log()  # all logits are zero only if the head is zero too
    assert torch.allclose(causal_lm.client_loss(model)(zero, batch), uniform)


def test_half_precision_takes_the_loss_in_float32():
    model, batch = causal_lm.load("llama-tiny", dtype=torch.bfloat16), tokens(B, T + 1)
    loss = causal_lm.client_loss(model)(causal_lm.trainable(model), batch)
    assert loss.dtype == torch.float32
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert loss.item() == pytest.approx(causal_lm.client_loss(causal_lm.load("llama-tiny"))(
        causal_lm.trainable(causal_lm.load("llama-tiny")), batch).item(), abs=0.02)  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_anatomy_places_every_name_once(row):
    model = causal_lm.draw(ROWS[row])
    places = causal_lm.anatomy(model)
    assert list(places) == list(causal_lm.trainable(model))
    assert {p for p in places.values() if isinstance(p, int)} == set(range(ROWS[row].layers))
    first = {name for name, place in places.items() if place == "embeddings"}
    last = {name for name, place in places.items() if place == "head"}
    gpt2 = ROWS[row].family == "gpt2"
    assert first == (
        {"transformer.wte.weight", "transformer.wpe.weight"}
        if gpt2
        else {"model.embed_tokens.weight"}
    )
    norm = {"transformer.ln_f.weight", "transformer.ln_f.bias"} if gpt2 else {"model.norm.weight"}
    assert last == norm | ({"lm_head.weight"} - ({"lm_head.weight"} if ROWS[row].tied else set()))


def test_anatomy_of_other_families():
    """OPT declares its final norm before the layers; GPT-NeoX's head was once called embed_out."""
    from transformers import AutoConfig, AutoModelForCausalLM

    size = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    small = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0, "max_position_embeddings": 32}
    neox = AutoConfig.for_model(
        "gpt_neox", intermediate_size=16, tie_word_embeddings=False, **size, **small
    )
    model = AutoModelForCausalLM.from_config(neox)
    if not hasattr(model, "embed_out"):  # transformers 5.4 still has it
        model.embed_out = model.get_output_embeddings()
        model.get_output_embeddings = lambda: model.embed_out
        del model.lm_head
    places = causal_lm.anatomy(model)
    assert places["embed_out.weight"] == "head" == places["gpt_neox.final_layer_norm.weight"]
    assert places["gpt_neox.embed_in.weight"] == "embeddings"
    assert places["gpt_neox.layers.1.attention.dense.weight"] == 1
    opt = AutoConfig.for_model("opt", ffn_dim=16, word_embed_proj_dim=16, **size, **small)
    places = causal_lm.anatomy(AutoModelForCausalLM.from_config(opt))
    assert (
        places["model.decoder.embed_positions.weight"]
        == "embeddings"
        == places["model.decoder.embed_tokens.weight"]
    )
    assert places["model.decoder.final_layer_norm.weight"] == "head"
    assert places["model.decoder.layers.0.fc1.weight"] == 0


@cases(("name", "layer"), [
    ("transformer.h.3.attn.c_attn.weight", 3), ("model.layers.11.mlp.up_proj.weight", 11), ("model.norm.weight", None),
    ("gpt_neox.layers.0.attention.dense.bias", 0), ("model.decoder.layers.7.fc1.weight", 7), ("lm_head.weight", None),
    ("model.layers.2.mlp.experts.5.w1.weight", 2), ("model.layer2norm.weight", None),
])  # fmt: skip
def test_layer_of(name, layer):
    assert causal_lm.layer_of(name) == layer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("row", ROWS)
def test_round_trip_through_a_directory(row, dtype, tmp_path):
    from transformers import AutoModelForCausalLM

    model = causal_lm.draw(ROWS[row], dtype=dtype)
    before = {name: p.clone() for name, p in causal_lm.trainable(model).items()}
    values = {name: p[0] for name, p in clients(before, 1).items()}
    twin = causal_lm.with_parameters(model, values)
    assert all(torch.equal(p, before[name]) for name, p in causal_lm.trainable(model).items())
    assert (twin.get_input_embeddings().weight is twin.get_output_embeddings().weight) == ROWS[
        row
    ].tied
    twin.save_pretrained(tmp_path)
    batch = tokens(B, T + 1)
    for back in (
        AutoModelForCausalLM.from_pretrained(tmp_path),
        causal_lm.load(str(tmp_path), dtype=dtype),
    ):
        assert back.dtype == dtype
        found = causal_lm.trainable(back)
        assert found.keys() == values.keys()
        assert all(torch.equal(found[name], values[name]) for name in values)
        loss = causal_lm.client_loss(twin)(causal_lm.trainable(twin), batch)
        close = (
            1e-6 if dtype == torch.float32 else 2e-3
        )  # transformers loads with sdpa, the lab with eager attention
        assert torch.allclose(causal_lm.client_loss(back)(found, batch), loss, atol=close)


def test_presets_are_seeded_and_leave_the_global_state_alone():
    state = torch.random.get_rng_state()
    for name in ("tiny", "llama-tiny", "base"):
        a, b, c = (causal_lm.trainable(causal_lm.load(name, seed=seed)) for seed in (0, 0, 1))
        assert all(torch.equal(a[k], b[k]) for k in a)
        assert all(torch.equal(a[k], c[k]) for k in a) == (name == "base")
    assert torch.equal(torch.random.get_rng_state(), state)


def test_no_generator_of_a_gpu_is_seeded(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    assert not torch.equal(*(causal_lm.load("tiny", seed=k).lm_head.weight for k in (0, 1)))
    causal_lm.load("base")
    assert seeded == []


@pytest.mark.parametrize(
    "name",
    [name for name, row in causal_lm.PRESETS.items() if row.source != "openai-community/gpt2"],
)
def test_every_preset_is_ready_to_train(name):
    model = causal_lm.load(name, context=512 if name == "base" else causal_lm.POSITIONS)
    assert not model.training
    assert model.config._attn_implementation == "eager"
    assert model.config.eos_token_id < model.config.vocab_size == causal_lm.BYTES
    assert (
        id(model.get_input_embeddings().weight) == id(model.get_output_embeddings().weight)
    ) == (model.config.tie_word_embeddings)


def test_a_directory_with_dropout_pad_token_and_cache_trains_without_and_keeps_its_configuration(
    tmp_path,
):
    """Token 0 ends the rows: GPT-2 would look whether it is padding, which vmap cannot follow."""
    from transformers import AutoConfig, AutoModelForCausalLM

    own = {"resid_pdrop": 0.5, "attn_pdrop": 0.5, "embd_pdrop": 0.25, "pad_token_id": 0}
    config = causal_lm.shape(causal_lm.PRESETS["tiny"])
    config.update(own)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "own")
    model = causal_lm.load(str(tmp_path / "own"))
    loss, values, batch = causal_lm.client_loss(model), causal_lm.trainable(model), tokens(B, T + 1)
    batch[:, -2:] = 0
    once = torch.vmap(loss)(*(clients(values), batch.expand(N, *batch.shape)))
    assert torch.equal(torch.vmap(loss)(clients(values), batch.expand(N, *batch.shape)), once)
    causal_lm.with_parameters(model, values).save_pretrained(tmp_path / "back")
    files = [(tmp_path / name / "config.json").read_text() for name in ("own", "back")]
    assert json.loads(files[0]) == json.loads(files[1])
    assert own.items() <= AutoConfig.from_pretrained(tmp_path / "back").to_dict().items()
    assert AutoConfig.from_pretrained(tmp_path / "back").use_cache


def byte_stream(texts):
    return stream(tokenize(texts, tokenizer("bytes")), 1)


def test_the_base_is_small_and_whole():
    weights = load_file(causal_lm.BASE / "model.safetensors")
    assert (causal_lm.BASE / "model.safetensors").stat().st_size <= 4 * 2**20
    assert all(p.dtype == torch.float16 and p.isfinite().all() for p in weights.values())
    model = causal_lm.load("base")
    assert model.dtype == torch.float32
    assert {k: tuple(p.shape) for k, p in causal_lm.trainable(model).items()} == {
        k: tuple(p.shape) for k, p in weights.items()
    }
    assert sum(p.numel() for p in causal_lm.trainable(model).values()) < 1_000_000
    assert {p.name for p in causal_lm.BASE.iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }


@pytest.mark.slow
def test_the_base_knows_its_language():
    """Far below byte frequencies on text that it never saw, and what its card says on rows held out."""
    card = (causal_lm.BASE / "README.md").read_text()
    said = {
        key: float(re.search(rf"\| {key}[^|]*\| (\d\.\d+) \|", card)[1])
        for key in ("held-out rows", "2,048 contexts")
    }
    model = causal_lm.load("base")
    other = byte_stream(corpora.load("stdlib").texts)
    there = pretrain.held_out_loss(model, shards.windows(other, 128, 256))
    assert there < 0.6 * pretrain.unigram_entropy(other)
    assert there == pytest.approx(said["2,048 contexts"], abs=0.1)
    held = pretrain.split(
        corpora.load("modules").texts, pretrain.Training().held_out, pretrain.Training().seed
    )[1]
    own = shards.windows(byte_stream(held), 128, 256)
    assert pretrain.held_out_loss(model, own) == pytest.approx(said["held-out rows"], abs=0.1)


def test_the_base_is_made_by_its_script(tmp_path, monkeypatch):
    rows = [f"def f{i}(x):\n    return x + {i}\n" for i in range(400)]
    few = corpora.from_rows("few", [(row, "code") for row in rows])
    monkeypatch.setattr(corpora, "load", lambda name: few)
    said = []
    recipe = pretrain.Training(steps=12, tokens=512, layers=1, width=32, contexts=(64, 32), lr=1e-2)
    for folder in ("a", "b"):
        pretrain.make(recipe, tmp_path / folder, said.append, every=6)
    assert (tmp_path / "a/model.safetensors").read_bytes() == (
        tmp_path / "b/model.safetensors"
    ).read_bytes()
    assert {p.dtype for p in load_file(tmp_path / "a/model.safetensors").values()} == {
        torch.float16
    }
    model = causal_lm.load(str(tmp_path / "a"))
    rows = shards.windows(byte_stream(few.texts), 64, 32)
    assert pretrain.held_out_loss(model, rows) < 4.5 < torch.tensor(259).log()
    card = (tmp_path / "a/README.md").read_text()
    assert few.fingerprint in card
    assert "--steps 12 --tokens 512" in card
    assert len(said) == 6


def test_minutes_become_steps_by_the_speed(monkeypatch):
    clock = iter([100.0, 100.0 + pretrain.PROBE * 0.5])
    monkeypatch.setattr(pretrain, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    recipe = pretrain.Training(minutes=3, tokens=32, contexts=(16,))
    model = causal_lm.draw(causal_lm.Preset("", family="llama", layers=1, width=32))
    before = {name: p.clone() for name, p in causal_lm.trainable(model).items()}
    assert pretrain.affordable(model, tokens(200), recipe) == 360  # half a second a step
    assert all(torch.equal(p, before[name]) for name, p in causal_lm.trainable(model).items())


def test_rows_held_out_are_not_trained_on():
    rows = [str(i) for i in range(100)]
    train, held = pretrain.split(rows, 0.05, 0)
    assert len(held) == 5
    assert sorted(train + held) == sorted(rows)
    assert pretrain.split(rows, 0.05, 0) == (train, held) != pretrain.split(rows, 0.05, 1)


def test_the_rate_warms_up_and_comes_down():
    recipe = pretrain.Training(lr=2.0, warmup=0.1, floor=0.1)
    rates = [pretrain.rate(step, 100, recipe) for step in range(100)]
    assert rates[:11] == pytest.approx([0.2 * (i + 1) for i in range(10)] + [2.0])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(1.1)
    assert rates[-1] == pytest.approx(0.2, abs=0.01)


@cases(("name", "message"), [
    ("tny", "unknown model preset 'tny': did you mean 'tiny'"),
    ("tny", "or a hub name such as"),
    ("./no/such", "there is no such directory"),
    ("/no-such", "there is no such directory"),
    ("a/b/c", "there is no such directory"),
    ("nobody/nothing", "nobody/nothing"),
    ("gpt2", "openai-community/gpt2"),
])  # fmt: skip
def test_names_that_mean_no_model(name, message):
    with pytest.raises(BadInput, match=re.escape(message)) as caught:
        causal_lm.load(name)
    assert "\n" not in str(caught.value)


def test_numbers_out_of_range():
    with pytest.raises(
        BadInput, match="context = 513 cannot be used: it must be at most 512 tokens"
    ):
        causal_lm.load("tiny", context=513)
    with pytest.raises(BadInput, match="context = 0 "):
        causal_lm.load("tiny", context=0)
    with pytest.raises(BadInput, match=r"vocabulary = 300 .* at most 259"):
        causal_lm.load("base", vocabulary=300)
    with pytest.raises(BadInput, match="vocabulary = 0 "):
        causal_lm.load("tiny", vocabulary=0)
    with pytest.raises(BadInput, match=r"dtype = torch.int8 .* torch.float32"):
        causal_lm.load("tiny", dtype=torch.int8)
    assert causal_lm.load("tiny", vocabulary=300).get_input_embeddings().weight.shape == (300, 64)


def test_names_and_shapes_of_parameters():
    model = causal_lm.load("tiny")
    with pytest.raises(BadInput, match=r"parameter names = 'lm_head.weight'"):
        causal_lm.with_parameters(model, {"lm_head.weight": torch.zeros(259, 64)})
    with pytest.raises(BadInput, match="parameter names = 'nonsense'"):
        causal_lm.client_loss(model)({"nonsense": torch.zeros(1)}, tokens(1, 5))
    with pytest.raises(BadInput, match=r"shape of transformer.ln_f.bias = "):
        causal_lm.with_parameters(model, {"transformer.ln_f.bias": torch.zeros(3)})


def test_directories_without_a_sound_model(tmp_path):
    def refused(message):
        with pytest.raises(BadInput, match=message) as caught:
            causal_lm.load(str(tmp_path))
        assert "\n" not in str(caught.value)

    refused("one that holds config.json and")
    shutil.copy(causal_lm.BASE / "config.json", tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")  # pickled weights are no weights
    refused("one that holds config.json and")
    whole = (causal_lm.BASE / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-1000])
    refused("does not load")
    weights = load_file(causal_lm.BASE / "model.safetensors")
    save_file(
        {k: p for k, p in weights.items() if "layers.1.mlp" not in k},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    refused("without weights for model.layers.1.mlp")
    (tmp_path / "model.safetensors").write_bytes(whole)
    (tmp_path / "config.json").write_text("{ not json")
    refused("does not load")
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    refused("does not load")
