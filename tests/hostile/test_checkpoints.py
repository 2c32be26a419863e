"""Checkpoints with a right checksum and a wrong content: each is refused in one line that names the file."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from harness import CONFIG, Killed, bits, copied, outcome
from safetensors import safe_open
from safetensors.torch import save_file

from deca_lab.algorithm.loop import working
from deca_lab.lab import checkpoint, runs
from deca_lab.lab.prepare import prepare


def stopped_at(config, folder, step):
    """Run a config up to an inner step, where the process dies."""

    def kill(done, total, known):
        if done == step:
            raise Killed

    with pytest.raises(Killed):
        runs.run(config, folder, kill)
    return folder


HALF = replace(CONFIG, dtype="bfloat16", compress="quantised", inner_steps=3)
KEEP = replace(CONFIG, moments="keep", inner_steps=3)


@pytest.fixture(scope="module")
def middles(tmp_path_factory):
    """Folders of runs that were killed in the middle of a visit: full precision, half with letters, moments kept."""
    place, configs = tmp_path_factory.mktemp("middle"), {"full": CONFIG, "half": HALF, "keep": KEEP}
    steps = {"full": 1, "half": 2, "keep": 4}
    return {k: stopped_at(configs[k], place / k, steps[k]) for k in configs}


def forged(path, change):
    """Write the checkpoint again with other content and the checksum that belongs to it."""
    with safe_open(path, framework="pt") as file:
        sealed = json.loads(file.metadata()["deca_lab"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    known = json.loads(sealed["state"])
    change(known, tensors)
    text = json.dumps(known)
    digest = checkpoint._digest(checkpoint.FORMAT, text, tensors)
    seal = json.dumps({"format": checkpoint.FORMAT, "sha256": digest, "state": text})
    save_file({n: t.contiguous() for n, t in tensors.items()}, path, metadata={"deca_lab": seal})


def put(name, change):
    return lambda known, tensors: tensors.update({name: change(tensors[name])})


def drop(name):
    return lambda known, tensors: tensors.pop(name)


def say(**values):
    return lambda known, tensors: known.update(values)


def record(change):
    return lambda known, tensors: change(known["record"])


def with_(value):
    def change(x):
        x = x.clone()
        x.view(-1)[0] = value
        return x

    return change


LETTER = "letter.0.0.replica"
NAN, INF = float("nan"), float("inf")
FORGERIES = {  # which run, what is changed, and whether an export must notice too
    "a block of another width": ("full", put("block.0", lambda x: x[:, :-1]), True),
    "a block of other clients": ("full", put("block.1", lambda x: x[:1]), True),
    "a block with an axis more": ("full", put("block.1", lambda x: x[..., None]), True),
    "a block is missing": ("full", drop("block.1"), True),
    "the last block is missing": (
        "full",
        lambda k, t: t.pop(max(n for n in t if "block" in n)),
        True,
    ),
    "NaN in a block": ("full", put("block.1", with_(NAN)), True),
    "infinity in a block": ("full", put("block.0", with_(-INF)), True),
    "a block of another precision": ("full", put("block.0", torch.Tensor.double), False),
    "a step beyond the end": ("full", say(step=10**6), True),
    "a step before the start": ("full", say(step=-1), True),
    "half a step": ("full", say(step=0.5), True),
    "a step that is a word": ("full", say(step="1"), True),
    "another step of the run": ("full", say(step=2), False),
    "the start, with moments": ("full", say(step=0), False),
    "NaN in a moment": ("full", put("moments.0.0", with_(NAN)), False),
    "a moment of another width": ("full", put("moments.0.1", lambda x: x[:, :-1]), False),
    "a moment is missing": ("full", drop("moments.0.1"), False),
    "all moments are missing": ("full", say(counts={}), False),
    "moments of another block": ("full", say(counts={"1": [1]}), False),
    "moments of no block": ("full", say(counts={"99": [1]}), False),
    "a count of gradients that is a word": ("full", say(counts={"0": ["1"]}), False),
    "bytes of other clients": ("full", put("sent", lambda x: x[:1]), False),
    "fewer bytes than none": ("full", put("sent", with_(-1)), False),
    "bytes that are no whole numbers": ("full", put("sent", torch.Tensor.double), False),
    "no bytes": ("full", drop("sent"), True),
    "a row of training is missing": ("full", record(lambda r: r["train"].pop()), False),
    "a measurement is missing": ("full", record(lambda r: r["metrics"].clear()), False),
    "a client's row is missing": ("full", record(lambda r: r["clients"].pop()), False),
    "rows that are none": ("full", record(lambda r: r.update(train=7)), False),
    "no record": ("full", record(lambda r: r.clear()), True),
    "another run's config": ("full", record(lambda r: r["config"].update(seed=9)), True),
    "no master copy": ("half", drop("master"), False),
    "NaN in the master copy": ("half", put("master", with_(NAN)), False),
    "a master copy of other clients": ("half", put("master", lambda x: x[:1]), False),
    "a letter of another width": ("half", put(LETTER, lambda x: x[:, 1:]), False),
    "NaN in a letter": ("half", put(LETTER, with_(NAN)), False),
    "a letter of no block": ("half", lambda k, t: t.update({"letter.x": t[LETTER].clone()}), False),
    "no letter": ("half", drop(LETTER), False),
    "kept moments are missing": ("keep", say(counts={"1": [1]}), False),
}


@pytest.fixture
def prepared_once(monkeypatch):
    """Let each config be prepared once for all of its forgeries: what a file holds is looked at afterwards."""
    once = cache(runs.prepare)
    monkeypatch.setattr(runs, "prepare", once)


def test_what_is_forged_is_refused_and_named(middles, prepared_once, tmp_path, capsys):
    for name, (which, change, noticed) in FORGERIES.items():
        folder = copied(middles[which], tmp_path / "run")
        path = folder / "checkpoint.safetensors"
        try:
            forged(path, change)
            before = path.read_bytes()
            says = r"checkpoint.*(refused|no record)|changed since the checkpoint"
            said = outcome(capsys, "run", "--resume", folder, says=says)
            assert said == "refused"
            assert path.read_bytes() == before
            if noticed:
                assert outcome(capsys, "export", folder, says="checkpoint") == "refused"
                assert not list(folder.glob("export*"))
        except BaseException as error:
            error.add_note(f"the forgery: {name}")
            raise


def test_what_is_as_it_was_goes_on(middles, whole, tmp_path, capsys):
    for which, folder in middles.items():
        folder = copied(folder, tmp_path / which)
        forged(folder / "checkpoint.safetensors", lambda known, tensors: None)
        assert outcome(capsys, "export", folder) == "right"
        runs.resume(folder)
    assert bits(tmp_path / "full") == bits(whole)


@pytest.mark.parametrize(
    "knobs", [{"stale": 0.4, "drop": 0.2, "away": "1@0.4"}, {"moments": "keep"}]
)
def test_every_checkpoint_of_a_run_is_accepted(tmp_path, knobs):
    """Whatever the faults, at every inner step, none is taken for a forgery."""
    config = replace(CONFIG, clients=3, inner_steps=3, eval_every=2, **knobs)
    kept, folder = [], tmp_path / "run"

    def watch(done, total, known):
        lab = prepare(config)
        kept.append(runs._kept(lab, folder)[0].step)

    runs.run(config, folder, watch)
    assert kept == list(range(1, len(kept) + 1))


def test_a_model_that_is_no_longer_finite_is_never_kept(tmp_path, monkeypatch):
    """Stopped after a step that left the numbers, the run says so, and its last good checkpoint stays."""
    config = replace(CONFIG, checkpoint_every=10**6, eval_every=10**6)
    monkeypatch.setattr(runs, "_wild", lambda state: torch.ones(len(state.blocks[0])).bool())
    with pytest.raises(runs.Diverged, match="no longer finite"):
        runs.run(config, tmp_path / "run", lambda done, total, known: done == 1)
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_the_forger_reads_what_it_forges(middles):
    """The names that the table of forgeries changes are there."""
    state, _ = checkpoint.load(
        middles["half"] / "checkpoint.safetensors",
        lambda k, x: prepare(HALF).plan.optimisers[k].init(working(x)),
    )
    assert state.master is not None
    assert list(state.wire.letters) == [LETTER.removeprefix("letter.")]
    assert set(state.moments) == {0}
    assert state.sent.dtype == np.int64
