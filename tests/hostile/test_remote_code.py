"""No call of transformers runs code that a folder or the hub brings along."""

import ast
import json
from contextlib import suppress
from pathlib import Path

import pytest
from small_models import config_of, folder_of, tokenizer_of

import deca_lab
from deca_lab.errors import BadInput
from deca_lab.models import causal_lm, pretrained
from deca_lab.runconfig import RunConfig
from deca_lab.text.tokens import tokenizer

LOADERS = ("from_pretrained", "from_config")
SOURCES = sorted(Path(deca_lab.__file__).parent.rglob("*.py"))


def calls():
    """Every call of transformers' loaders in the package: where, and the call."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.func.attr if isinstance(getattr(node, "func", None), ast.Attribute) else ""
            if name in LOADERS:
                yield f"{path.name}:{node.lineno}", node


def refuses(call):
    """Say whether a call forbids remote code itself, or takes the arguments that do."""
    said = {word.arg: word.value for word in call.keywords}
    if "trust_remote_code" in said:
        value = said["trust_remote_code"]
        return isinstance(value, ast.Constant) and value.value is False
    return any(
        word.arg is None and ast.unparse(word.value).startswith(("given", "arguments("))
        for word in call.keywords
    )


def test_every_call_refuses_remote_code():
    found = dict(calls())
    assert len(found) >= 6
    assert [place for place, call in found.items() if not refuses(call)] == []
    words = [path.name for path in SOURCES if "trust_remote_code=True" in path.read_text()]
    assert words == []


def test_the_arguments_refuse_remote_code(tmp_path):
    assert pretrained.arguments("a/b")["trust_remote_code"] is False
    assert pretrained.arguments("a/b", "main")["trust_remote_code"] is False
    named = [
        line
        for path in SOURCES
        for line in path.read_text().splitlines()
        if "given" in line and "arguments(" in line
    ]
    assert len(named) >= 3  # what the calls above call `given`


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A folder whose tokenizer, configuration and model are code of its own, which leaves a mark when it runs."""
    folder = folder_of("llama", tmp_path)
    mark = tmp_path / "mark"
    (folder / "evil.py").write_text(
        f"open({str(mark)!r}, 'w').close()\n"
        "from transformers import LlamaConfig as Config, LlamaForCausalLM as Model\n"
        "from transformers import PreTrainedTokenizerFast as Words\n"
    )
    kinds = {"tokenizer_config.json": ("AutoTokenizer", ["evil.Words", "evil.Words"])}
    for name, (auto, code) in kinds.items():
        known = json.loads((folder / name).read_text())
        known |= {"auto_map": {auto: code}, "tokenizer_class": "Words"}
        (folder / name).write_text(json.dumps(known))
    known = json.loads((folder / "config.json").read_text()) | {"model_type": "evil"}
    known["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(known))
    monkeypatch.setattr("builtins.input", lambda *words: "y")  # who is asked says yes
    return folder, mark


def test_a_folder_that_offers_code_is_refused_or_read_without_it(evil):
    folder, mark = evil
    for read in (
        lambda: tokenizer(str(folder)),
        lambda: causal_lm.load(str(folder)),
        lambda: pretrained.config_of(str(folder)),
    ):
        with suppress(BadInput):
            read()
        assert not mark.exists()


def test_a_configuration_that_offers_code_is_built_without_it(evil):
    folder, mark = evil
    config = config_of("llama")
    config.auto_map = {"AutoModelForCausalLM": f"{folder}--evil.Model"}
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert not mark.exists()
    assert len(tokenizer_of("llama")) == config.vocab_size
    assert RunConfig().model
