"""Files from outside: a GGUF file against the model that it was written from, and what is refused in one line."""

import json
import sys

import gguf
import numpy as np
import pytest
import torch
from cases import cases

from deca_lab import errors
from deca_lab.errors import BadInput
from deca_lab.lab.export import export_model
from deca_lab.lab.runs import run
from deca_lab.models import causal_lm
from deca_lab.runconfig import RunConfig
from deca_lab.text.tokens import tokenizer

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
ENDS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def in_gguf(name):
    if name in ENDS:
        return ENDS[name]
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.weight"


def interleaved(w, heads):
    """Rotary pairs side by side, as llama.cpp turns them, where transformers has halves."""
    return w.reshape(heads, 2, len(w) // heads // 2, -1).swapaxes(1, 2).reshape(w.shape)


def write_gguf(path, model):
    """Write a Llama as llama.cpp's converter does, with a byte-level tokenizer of as many tokens."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    c, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_vocab_size(c.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    letters = list(bytes_to_unicode().values())[:254]
    writer.add_token_list(["<|endoftext|>", "</s>", "<unk>", *letters, "ab", "cd"])
    writer.add_token_types([3, 3, 3, *[1] * 256])
    writer.add_token_merges(["a b", "c d"])  # transformers 5.6 takes a list of one for a string
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    for name, p in model.state_dict().items():
        w = p.numpy()
        turned = (
            interleaved(w, c.num_attention_heads) if ("q_proj" in name or "k_proj" in name) else w
        )
        writer.add_tensor(in_gguf(name), np.ascontiguousarray(turned))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(folder / "tiny.gguf", causal_lm.load("llama-tiny"))
    return folder / "tiny.gguf"


@pytest.mark.parametrize(
    "of", [lambda file: file, lambda file: file.parent], ids=["file", "folder"]
)
def test_a_gguf_file_is_the_model_that_it_was_written_from(of, file, tmp_path, capsys):
    state = torch.random.get_rng_state()
    model, whole = causal_lm.load(str(of(file)), context=64), causal_lm.load("llama-tiny")
    assert capsys.readouterr() == ("", "")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not model.training
    assert causal_lm.trainable(model).keys() == causal_lm.trainable(whole).keys()
    for name, p in causal_lm.trainable(whole).items():
        assert torch.equal(model.get_parameter(name), p), name
    ids = torch.randint(0, causal_lm.BYTES, (2, 24), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(model(ids).logits, whole(ids).logits, atol=1e-5)
    model.save_pretrained(tmp_path / "again")  # which transformers refuses for its own
    again = causal_lm.load(str(tmp_path / "again"))
    assert all(map(torch.equal, again.parameters(), model.parameters()))
    assert not hasattr(again.config, "quantization_config")


def test_its_tokenizer_comes_along_and_a_run_of_both_is_exported(file, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words = tokenizer(str(file))
    assert words.eos_token_id == 1
    assert words.decode(words("Hello, world")["input_ids"]) == "Hello, world"
    config = RunConfig(
        model=str(file),
        tokenizer=str(file.parent),
        clients=2,
        context=16,
        batch=1,
        rounds=1,
        inner_steps=1,
        blocks="whole",
        eval_windows=1,
        device="cpu",
    )
    run(config, tmp_path / "run")
    out = export_model(tmp_path / "run", out=tmp_path / "out")
    assert AutoModelForCausalLM.from_pretrained(out).config.vocab_size == causal_lm.BYTES
    ids = AutoTokenizer.from_pretrained(out)("Hello")["input_ids"]
    assert ids == words("Hello")["input_ids"]


def test_what_cannot_be_read_is_one_line(file, tmp_path, monkeypatch):
    (tmp_path / "cut.gguf").write_bytes(file.read_bytes()[:300])
    (tmp_path / "two").mkdir()
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / "two" / name).write_bytes(b"")
    (tmp_path / "weights.bin").write_bytes(b"")
    for name, words in {
        tmp_path / "weights.bin": "is a file: give its folder, or a file that ends in .gguf",
        tmp_path / "cut.gguf": "does not load as a causal LM",
        tmp_path / "two": "it must be one of its files a.gguf, b.gguf",
        tmp_path / "no.gguf": "there is no such directory or GGUF file",
        "no/such.gguf": "there is no such directory or GGUF file",
    }.items():
        with pytest.raises(BadInput, match=words) as refused:
            causal_lm.load(str(name))
        assert "\n" not in str(refused.value)
    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    for read in (causal_lm.load, tokenizer):
        with pytest.raises(BadInput, match=r"needs gguf: pip install 'deca-lab\[gguf\]'"):
            read(str(file))


def test_a_configuration_of_too_many_layers_is_refused_before_they_are_built(tmp_path):
    causal_lm.load("llama-tiny").save_pretrained(tmp_path)
    known = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**known, "num_hidden_layers": 10**9}))
    for shapes_alone in (False, True):
        with pytest.raises(BadInput, match=r"num_hidden_layers .* = 1000000000 .* at most 10,000"):
            causal_lm.load(str(tmp_path), shapes_alone=shapes_alone)


def test_an_error_that_is_a_list_is_one_line_with_its_items():
    error = ValueError("It needs one of:\n(1) a file,\n(2) a name")
    assert errors.first_line(error) == "It needs one of: (1) a file, (2) a name"
    assert errors.first_line(ValueError("one\ntwo")) == "one"


@cases("name", ["/no/such/place", "./x", "~/x/y", "a/b/c", "x.gguf"])
def test_a_path_where_nothing_is_is_not_asked_of_the_hub(name):
    with pytest.raises(BadInput, match=r"^tokenizer .* there is no such directory or GGUF file"):
        tokenizer(name)


@cases("name", ["tiny", "base", "folder"])
def test_a_revision_is_for_the_hub_alone(name, tmp_path_factory):
    if name == "folder":
        name = str(tmp_path_factory.mktemp("own"))
        causal_lm.load("tiny").save_pretrained(name)
    with pytest.raises(
        BadInput, match="model_revision = 'v1' cannot be used: it must be left empty"
    ):
        causal_lm.load(name, revision="v1")


def test_a_revision_and_no_remote_code_reach_every_call(monkeypatch):
    import transformers

    seen = []

    def noted(*args, **given):
        seen.append(given)
        raise OSError("You are trying to access a gated repo.\nMake sure to have access to it.")

    for kind in ("AutoConfig", "AutoTokenizer"):
        monkeypatch.setattr(getattr(transformers, kind), "from_pretrained", noted)
    for module in ("deca_lab.models.pretrained", "deca_lab.text.tokens"):
        monkeypatch.setattr(
            sys.modules[module], "hub_or_offline", lambda kind, name: pytest.MonkeyPatch().context()
        )
    for read in (
        lambda name: causal_lm.load(name, revision="v1"),
        lambda name: tokenizer(name, "v1"),
    ):
        with pytest.raises(
            BadInput, match=r"is gated: accept its terms at https://huggingface\.co/some/one"
        ) as refused:
            read("some/one")
        assert "HF_TOKEN or run `hf auth login`" in str(refused.value)
        assert "\n" not in str(refused.value)
    assert [(given["revision"], given["trust_remote_code"]) for given in seen] == [
        ("v1", False)
    ] * 2
