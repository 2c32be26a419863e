"""Recipes: each is a sound config for its methods, own files replay, what is said beside one wins, errors are one line."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from command import SMALL
from typer.testing import CliRunner

import deca_lab
from deca_lab.cli import app
from deca_lab.errors import BadInput
from deca_lab.lab import runs
from deca_lab.methods import resolve
from deca_lab.recipes.recipe import HOME, knobs_of, names, recipe
from deca_lab.runconfig import RunConfig

ASKED = ["deca-agnews", "deca-tfns", "deca-mnli", "deca-alpaca"]
ASKED += [f"dec-lora-{task}" for task in ("sst2", "mrpc", "qnli", "qqp", "mnli")]
BASELINES = ["deca", "dec-lora", "decaf", "dec-adapter", "d-adam", "local", "centralised"]


@pytest.mark.parametrize("name", ASKED)
def test_every_recipe_is_a_sound_config_for_every_method(name):
    for method in BASELINES:
        config = recipe(name, method=method)
        assert resolve(config).method == config.method == method
    own = recipe(name)
    assert own.method == ("dec-lora" if name.startswith("dec-lora") else "deca")
    assert own.clients in (8, 10)
    assert (HOME / f"{name}.yaml").read_text().count("# [") >= 10, "how sure its lines are"


def test_what_is_known_of_the_papers_set_up_stands_in_them():
    """The figures of the papers' experiments, as docs tell them."""
    deca = recipe("deca-agnews")
    assert (deca.clients, deca.alpha, deca.rounds, deca.inner_steps) == (8, 0.25, 4, 48)
    assert (deca.lr, deca.a1, deca.a2, deca.granularity) == (5e-5, 0.9, 0.999, 2)
    assert recipe("deca-agnews", method="dec-lora").lr == 1e-3
    lora = recipe("dec-lora-sst2")
    assert (lora.lr, lora.batch, lora.rank, lora.clients) == (1e-3, 32, 16, 10)


def test_what_is_said_beside_a_recipe_wins():
    assert recipe("deca-agnews", lr=0.5, clients=3).lr == 0.5
    assert recipe("deca-agnews", lr=0.5, clients=3).clients == 3
    assert deca_lab.recipe is recipe


def test_own_files_are_recipes_too(tmp_path):
    (tmp_path / "own.yaml").write_text("knobs: {lr: 1e-4, clients: 3}\nmethods: {d-sgd: {lr: 1}}\n")
    own = str(tmp_path / "own.yaml")
    assert (recipe(own).lr, recipe(own, method="d-sgd").lr) == (1e-4, 1.0)
    (tmp_path / "OWN.YAML").write_text("lr: 0.25\n")
    assert recipe(str(tmp_path / "OWN.YAML")).lr == 0.25
    with pytest.raises(
        BadInput, match=r"unknown recipe 'own\.toml': .*, or a \.yaml or \.json file"
    ):
        recipe("own.toml")
    config = RunConfig(method="dec-lora", eps=1e-8, lr=3e-5, corpus="a: #b")
    (tmp_path / "config.json").write_text(config.to_json())
    assert recipe(str(tmp_path / "config.json")) == config


@pytest.mark.slow
def test_every_config_of_a_run_replays(tmp_path):

    runs.run(RunConfig(**SMALL), tmp_path / "one")
    stored = tmp_path / "one" / "config.json"
    done = CliRunner().invoke(
        app, ["run", "--config", str(stored), "--lr", "0.5", "--out", str(tmp_path / "two")]
    )
    assert done.exit_code == 0, done.output
    two = json.loads((tmp_path / "two" / "config.json").read_text())
    assert two == asdict(replace(RunConfig(**json.loads(stored.read_text())), lr=0.5))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- 1\n- 2\n", "a mapping of knobs"),
        ("lr: [1, 2]\n", "lr = "),
        ("lr: fast\n", "lr = 'fast'"),
        ("clientz: 3\n", "did you mean 'clients'"),
        ("knobs: 3\n", "a mapping of knobs"),
        ("knobs: {}\nmethod: deca\n", "about, knobs, methods"),
        ("clients: 2\nclients: 3\n", "clients' cannot be used: .* names a knob once"),
        ('{"lr": 1, "seed": 2, "lr": 3}', "'lr' cannot be used: .* names a knob once"),
        ("knobs: {}\nmethods:\n  deca: {lr: 1, lr: 2}\n", "'lr' cannot .* names a knob once"),
        ("a: b: c\n", "no YAML"),
        ("x: !!python/object/apply:os.system [true]\n", "no YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_in_one_line(text, words, tmp_path):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(BadInput, match=words) as refusal:
        recipe(str(tmp_path / "bad.yaml"))
    assert "\n" not in str(refusal.value)


def test_a_file_larger_than_the_memory_is_refused_in_one_line(tmp_path, monkeypatch):
    def exhausted(*args, **kwargs):
        raise MemoryError

    (tmp_path / "large.yaml").write_text("lr: 1\n")
    monkeypatch.setattr(Path, "read_text", exhausted)
    with pytest.raises(
        BadInput, match=r"large\.yaml' cannot be read: it is larger than the memory"
    ):
        recipe(str(tmp_path / "large.yaml"))


def test_unknown_names_and_files_are_refused(tmp_path):
    with pytest.raises(BadInput, match="did you mean 'deca-agnews'"):
        recipe("deca-agnew")
    with pytest.raises(BadInput, match="cannot be read"):
        recipe(str(tmp_path / "none.yaml"))
    runner = CliRunner()
    refused = runner.invoke(app, ["run", "--recipe", "deca-agnews", "--resume", str(tmp_path)])
    assert isinstance(refused.exception, BadInput)
    assert "left out with --resume" in str(refused.exception)


def test_the_list_shows_them():
    assert set(names()) == set(ASKED)
    assert knobs_of("deca-tfns")["corpus"] == "zeroshot/twitter-financial-news-sentiment"


@pytest.mark.parametrize("text", ["010", "-07", "1:30", "1:30.5", "0_7"])
def test_a_number_that_yaml_reads_to_another_base_is_refused(text, tmp_path):
    path = tmp_path / "own.yaml"
    for words in (f"seed: {text}\n", f"knobs: {{seed: {text}}}\n"):
        path.write_text(words)
        with pytest.raises(BadInput, match=f"number of the recipe .*{text}' cannot .* in tens"):
            recipe(str(path))


def test_plain_numbers_of_yaml_are_what_they_say(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("seed: 0\nclients: 1_0\nlr: 0.05\nrounds: 0x10\nalpha: 00.5\n")
    got = recipe(str(path))
    assert (got.seed, got.clients, got.lr, got.rounds, got.alpha) == (0, 10, 0.05, 16, 0.5)
