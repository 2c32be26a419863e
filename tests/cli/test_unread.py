"""Nothing that was said is ignored: every knob of every command changes what runs, or is refused by name."""

from dataclasses import fields, replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from cases import cases, quick
from command import SMALL, deca_lab, options
from typer.testing import CliRunner

from deca_lab.cli import app
from deca_lab.cli.unread import READ_WHEN, require_read, unread
from deca_lab.errors import BadInput
from deca_lab.lab import runs
from deca_lab.methods import METHODS, Method, resolve
from deca_lab.runconfig import RunConfig
from deca_lab.studies import compare as cp
from deca_lab.studies import sweep as sw

OTHER = {  # a value of each knob that is not its default; of numbers, one more or half
    **{"method": "d-adam", "task": "classify", "corpus": "markov", "text_column": "t"},
    **{"label_column": "l", "answer_column": "a", "verbaliser": "a=b", "labels": "x"},
    **{
        "hub_split": "test",
        "hub_revision": "v1",
        "split": "iid",
        "shares": "1",
        "tokenizer": "bytes",
    },
    **{"topology": "star", "weights": "lazy", "model": "tiny", "model_revision": "v1"},
    **{"head": "words", "dtype": "float64", "adapter": "lora", "targets": "mlp"},
    **{"frozen_factor": "A", "base_weights": "nf4", "mixing": "decaf", "blocks": "equal"},
    **{"ends": "joined", "patterns": "h", "freeze": "wte", "order": "reversed"},
    **{"optimiser": "sgd", "feedback": "downhill", "feedback_scale": "lr", "moments": "keep"},
    **{"combine": "before", "mixed": "all", "lr_scheduler_type": "cosine", "away": "1@0.5"},
    **{"stragglers": "1@2", "garbage": "1@0.5", "compress": "top-k", "device": "cpu"},
    **{
        "engine": "loop",
        "allow_unsound": True,
        "gradient_checkpointing": True,
        "attention": "sdpa",
    },
}


def other(f):
    if f.name in OTHER:
        return OTHER[f.name]
    return f.default + 1 if f.type is int else f.default / 2 + 0.1


class Asked(Exception):
    """What a command would run."""


@pytest.fixture
def caught(monkeypatch):
    """Return what COMMAND with these words would run: its configs after their methods, or how it is refused."""

    def stop(configs):
        raise Asked([resolve(config) for config in configs])

    monkeypatch.setattr(runs, "run_in", lambda world, config, *a, **k: stop([config]))
    monkeypatch.setattr(cp, "compare", lambda a, *b: stop([cp.arm(a.base, m) for m in a.methods]))
    monkeypatch.setattr(sw, "sweep", lambda base, *a: stop([base]))

    def ask(*words):
        error = CliRunner().invoke(app, list(map(str, words))).exception
        assert isinstance(error, Asked | BadInput), repr(error)
        return error.args[0]

    return ask


COMMANDS = {
    "run": ["run"],
    "compare": ["compare", "--methods", "deca,dec-lora"],
    "sweep": ["sweep", "--vary", "lr=0.1,0.2"],
}


@pytest.mark.parametrize("command", quick(COMMANDS))
def test_every_knob_of_every_command_is_honoured_or_refused(command, caught, tmp_path):
    honoured = 0
    for f in fields(RunConfig):
        option, value = f"--{f.name.replace('_', '-')}", other(f)
        words = [option] if value is True else [option, value]
        outcome = caught(*COMMANDS[command], "--out", tmp_path / "new", *words)
        if isinstance(outcome, str):
            assert f.name in outcome
        else:
            assert value in [getattr(config, f.name) for config in outcome], f.name
            honoured += 1
    assert honoured > 40


@cases(
    ("words", "line"),
    [
        ("compare --out o --method badam --methods deca", "method = 'badam'.*--methods names them"),
        ("compare --out o --lr 0.5 --methods deca --rates 0.1", "lr.*--rates are tried"),
        ("compare --out o --rounds 3 --amount 10", "rounds.*--amount"),
        ("compare --out o --amount nan", "amount = nan cannot be used"),
        ("compare --out o --amount inf", "amount = inf cannot be used"),
        ("compare --out o --rank 4 --methods deca,d-adam", "rank = 4 would be ignored.*--adapter"),
        ("compare --out o --optimiser sgd --methods deca,d-adam", "optimiser.*'deca' is optimiser"),
        ("sweep --out o --lr 0.1 --vary lr=0.1,0.2", "lr.*--vary lr sets it"),
        ("sweep --out o --vary seed=0,1", "vary = 'seed' cannot be used"),
        ("sweep --out o --vary rank=4,8", "rank = 4 would be ignored"),
        ("sweep --out o --vary compress=none,top-k --vary bits=4", "bits = 4 would be ignored"),
        ("run --dry-run --out o", "out = 'o'.*left out with --dry-run"),
        ("run --dry-run --resume o", "resume = 'o'.*left out with --dry-run"),
        ("run --dry-run --bounds", "bounds.*left out with --dry-run"),
        ("run --resume o --out p", "out = 'p'.*left out with --resume"),
        ("run --delay 2", "delay = 2 would be ignored: it needs --stale"),
        ("run --delay 1", "delay = 1 would be ignored"),
        ("run --method local --topology ring", "topology = 'ring' would be ignored.*'local'"),
        ("run --method centralised --topology star", "topology = 'star' would be ignored"),
        ("run --method badam --drop 0.5", "drop = 0.5 would be ignored: it needs two clients"),
        ("run --verbaliser a=b", "verbaliser.*--task classify"),
        ("doctor --matrix w.csv --clients 3", "clients.*left out with --matrix"),
        ("doctor --machine --seed 1", "seed.*left out with --machine"),
        ("doctor --topology ring --degree 4", "degree = 4 would be ignored.*random-regular"),
        ("bounds --out o", "out = 'o'.*left out without --attack"),
        ("bounds --attack nan", "attack = nan cannot be used"),
    ],
)
def test_what_would_be_ignored_is_refused_before_any_work(
    capsys, tmp_path, monkeypatch, words, line
):
    monkeypatch.chdir(tmp_path)
    said = deca_lab(capsys, *words.split())
    assert said.code == 2
    assert len(said.err.splitlines()) == 1
    assert pd.Series([said.err]).str.contains(line).all(), said.err
    assert list(tmp_path.iterdir()) == []


@cases("method", METHODS)
def test_what_methods_set_themselves_passes(method):
    own = resolve(RunConfig(method=method))
    require_read({**METHODS[method].fixed, "method": method, "clients": 8, "batch": 4}, [own])


def test_a_part_of_ones_own_may_read_anything():
    config = RunConfig(optimiser="my-own", topology="my-graph", compress="my-short")
    given = {"momentum": 0.5, "a1": 0.5, "b1": 0.5, "degree": 3, "keep_share": 0.2, "bits": 4}
    for name, value in given.items():
        require_read({name: value}, [replace(config, **{name: value})])


# what the table says, against runs: two values of a knob, where it is said to be read, and where not

CONFIG = RunConfig(**{**SMALL, "inner_steps": 2, "rounds": 2, "eval_every": 10**6})
ALONE = {"clients": 1, "topology": "complete"}
LORA = {"adapter": "lora", "blocks": "whole", "feedback": "none"}
WHEN = {  # knob -> (two values, knobs with which it is read, knobs with which it is not)
    "alpha": ((0.1, 9.0), {}, {"split": "iid"}),
    "edge_probability": ((0.3, 0.99), {"topology": "erdos-renyi"}, {}),
    "degree": ((2, 3), {"topology": "random-regular"}, {"topology": "erdos-renyi"}),
    "weights": (("metropolis", "lazy"), {}, {"topology": "one-peer-exponential"}),
    "eval_share": ((1.0, 0.01), {"eval_every": 0}, {"eval_every": 1}),
    "rank": ((2, 4), LORA, {}),
    "lora_alpha": ((1.0, 9.0), LORA, {"adapter": "bottleneck"}),
    "targets": (("mlp", "query-value"), LORA, {"adapter": "bottleneck"}),
    "frozen_factor": (("none", "A"), LORA, {"adapter": "bottleneck"}),
    "mixing": (("gossip", "decaf"), LORA, None),
    "base_weights": (("full", "nf4"), LORA, None),
    "granularity": ((1, 2), {}, {"blocks": "equal"}),
    "ends": (("own", "joined"), {}, {"blocks": "whole"}),
    "block_count": ((2, 3), {"blocks": "equal"}, {}),
    "patterns": ((".", "wte .*[^e]$"), None, {}),
    "order": (("sequence", "reversed"), {}, {"blocks": "whole"}),
    "momentum": ((0.0, 0.9), {"optimiser": "sgd", "feedback": "none"}, {}),
    "a1": ((0.5, 0.9), {}, {"optimiser": "sgd", "feedback": "none"}),
    "a2": ((0.5, 0.9), {"optimiser": "amsgrad"}, {"optimiser": "gradient-tracking"}),
    "eps": ((1e-8, 1.0), {"optimiser": "local-amsgrad"}, {"optimiser": "qg-sgd"}),
    "feedback": (("printed", "downhill"), {"optimiser": "adam-mixed"}, {"optimiser": "qg-adam"}),
    "feedback_scale": (("raw", "lr"), {"optimiser": "adam-trivial"}, {"feedback": "none"}),
    "b1": ((0.5, 0.9), {}, {"feedback": "none"}),
    "b2": ((0.5, 0.9), {}, {"optimiser": "adam-predictable"}),
    "mixed": (("active", "all"), {}, ALONE),
    "drop": ((0.1, 0.6), {}, None),
    "burst": ((1.0, 5.0), {"drop": 0.5}, {}),
    "stale": ((0.2, 0.9), {}, ALONE),
    "delay": ((1, 2), {"stale": 0.9, "inner_steps": 4}, {}),
    "noise": ((0.1, 0.5), {}, ALONE),
    "keep_share": ((0.1, 0.5), {"compress": "top-k"}, {"compress": "quantised"}),
    "bits": ((2, 8), {"compress": "quantised"}, {"compress": "top-k"}),
    "gamma": ((0.2, 1.0), {"compress": "top-k"}, None),
}
FREE = Method("a method that fixes nothing", {})
SAME = ("test_loss", "validation_loss", "consensus", "bytes_sent")


@cache
def outcome(config):
    return runs.run(config, method=FREE).metrics[list(SAME)].to_numpy()


@pytest.mark.slow
@pytest.mark.parametrize("knob", WHEN)
def test_the_table_says_the_truth(knob):
    values, read, unread = WHEN[knob]
    for beside, changes in ((read, True), (unread, False)):
        if beside is None:
            continue
        config = replace(CONFIG, **beside)
        configs = [replace(config, **{knob: value}) for value in values]
        assert READ_WHEN[knob].test(configs[1]) == changes
        first, second = map(outcome, configs)
        same = first.shape == second.shape and np.array_equal(first, second)
        assert same != changes, (knob, beside)


def test_the_table_is_tried_whole():
    tried_elsewhere = {"answer_column", "verbaliser", "head", "shares"}
    tried_elsewhere |= {"compress", "garbage", "stragglers"}
    assert set(WHEN) == set(READ_WHEN) - tried_elsewhere


def test_a_config_of_a_run_replays_whatever_it_holds(caught, tmp_path):
    (tmp_path / "config.json").write_text(RunConfig(rank=3, delay=2).to_json())
    words = ["run", "--config", tmp_path / "config.json", "--out", tmp_path / "new"]
    assert caught(*words)[0] == RunConfig(rank=3, delay=2)


def test_knobs_of_a_file_that_are_not_read_are_told():
    file = RunConfig(split="iid", alpha=0.5, method="dec-lora", delay=2, rank=3)
    assert unread(file, {}) == [
        "alpha = 0.5 is not read: it needs --split dirichlet or quantity",
        "delay = 2 is not read: it needs --stale",
    ]
    assert unread(file, {"delay": 2, "alpha": 0.5}) == []
    for method in METHODS:
        assert unread(RunConfig(method=method), {}) == []
        assert unread(resolve(RunConfig(method=method)), {}) == []


@pytest.mark.slow
def test_a_run_from_a_file_says_what_it_does_not_read(tmp_path, capsys):
    (tmp_path / "own.yaml").write_text("corpus: village\nsplit: iid\nalpha: 0.5\nmodel: tiny\n")
    for quiet in ([], ["--quiet"]):
        said = deca_lab(capsys, "run", "--config", tmp_path / "own.yaml", "--dry-run", *quiet)
        assert said.code == 0
        assert ("note: alpha = 0.5 is not read" in said.err) is not bool(quiet)


def test_several_at_once_are_taken(caught, tmp_path):
    knobs = {"adapter": "lora", "rank": 3, "stale": 0.5, "delay": 2, "compress": "top-k"}
    config = caught("run", "--out", tmp_path / "new", *options(**knobs))[0]
    assert {name: getattr(config, name) for name in knobs} == knobs
