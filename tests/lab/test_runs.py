"""A run end to end: same seed same bits, kill and resume, what a folder holds, a loss that stops being finite."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch
from cases import quick
from command import SMALL, options

from deca_lab.algorithm.loop import begin
from deca_lab.errors import BadInput, Diverged
from deca_lab.lab import checkpoint, history, runs
from deca_lab.lab.ledger import Meter
from deca_lab.lab.prepare import prepare
from deca_lab.runconfig import RunConfig

CONFIG = RunConfig(**SMALL, lr=3e-3)
SAME = (
    "checkpoint.safetensors",
    "summary.json",
    *(f"{t}.csv" for t in history.TABLES if t != "timings"),
)


def same_bits(one, two):
    return [name for name in SAME if (one / name).read_bytes() != (two / name).read_bytes()]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    return runs.run(CONFIG, folder), folder


def test_two_runs_with_one_seed_are_the_same_bits(unbroken, tmp_path):
    runs.run(CONFIG, tmp_path / "again")
    assert same_bits(unbroken[1], tmp_path / "again") == []


def test_another_seed_is_another_run(unbroken, tmp_path):
    runs.run(replace(CONFIG, seed=1), tmp_path / "other")
    assert "checkpoint.safetensors" in same_bits(unbroken[1], tmp_path / "other")


def test_who_is_not_finite_is_seen_without_a_copy_of_the_model():
    plan = prepare(CONFIG).plan
    state = begin(plan)
    blocks = [x.clone() for x in state.blocks]
    for who, value in ((0, torch.nan), (2, torch.inf), (3, -torch.inf)):
        blocks[who % len(blocks)][who, -1] = value
    meter = Meter()
    with meter:
        wild = runs._wild(state._replace(blocks=tuple(blocks)))
    assert wild.tolist() == [
        not bool(torch.cat([x[i] for x in blocks]).isfinite().all()) for i in range(4)
    ]
    assert wild.tolist() == [True, False, True, True]
    assert 0 < meter.ever < 1000


def examples_read(lab, measurements):
    """How many examples measuring and training read, forth and back counted as three; by hand from the data's shapes."""
    clients, test = lab.topology.n, len(lab.probe.test[0])
    own, train = (t[0].shape[0] * t[0].shape[1] for t in (lab.probe.own, lab.probe.train))
    batch = lab.plan.problem.batches(0)[0].shape[:2].numel()
    return measurements * ((clients + 1) * test + 2 * own + 3 * train), 3 * batch * lab.plan.steps


@pytest.mark.parametrize("share", [0.7, 0.5])
def test_measuring_keeps_to_its_share_and_says_so(share, tmp_path):
    config = replace(CONFIG, rounds=3, eval_share=share)
    done = runs.run(config, tmp_path / "run")
    steps = done.metrics["step"].to_list()
    lab = prepare(config)
    every, visit = steps[1], config.inner_steps
    assert steps == sorted({*range(0, lab.plan.steps, every), lab.plan.steps})
    assert every % visit == 0
    assert (every > visit) == any("--eval-share" in note for note in done.summary["notes"])
    for interval, kept in ((every, True), (every - visit, False)):
        if interval:
            measuring, training = examples_read(lab, lab.plan.steps / interval)
            assert (measuring / (measuring + training) <= share) == kept


def test_the_mean_model_gets_better_on_text_that_nobody_trains_on(unbroken):
    losses = unbroken[0].metrics["test_loss"]
    assert losses.iloc[-1] < losses.iloc[0] - 0.05


def test_folder_reads_back_as_the_same_history(unbroken):
    written, folder = unbroken
    read = history.load(folder)
    assert read.config == written.config
    assert read.summary == json.loads(json.dumps(written.summary))
    np.testing.assert_array_equal(read.W, written.W)
    for name in history.TABLES:
        pd.testing.assert_frame_equal(
            getattr(read, name), getattr(written, name), check_dtype=False
        )


def test_measured_bytes_equal_predicted_bytes(unbroken):
    history = unbroken[0]
    assert (history.edges["measured"] == history.edges["predicted"]).all()
    blocks = dict(zip(history.blocks["block"], history.blocks["parameters"], strict=True))
    visited = sum(blocks[name] for name in history.visits["block"])
    by_hand = visited * CONFIG.inner_steps * 4 * 8  # float32 x directed edges
    assert history.summary["bytes_sent"] == history.edges["measured"].sum() == by_hand


def test_measured_peak_is_the_ledgers_within_a_tenth(unbroken):
    memory = unbroken[0].summary["memory"]
    assert memory["measured_peak"] == pytest.approx(memory["peak"], rel=0.1)


@pytest.mark.parametrize("stop", quick([1, 2, 3, 5, 11]))
def test_stopped_anywhere_and_resumed_gives_the_same_bits(unbroken, tmp_path, stop):
    class Stop(Exception):
        pass

    def stopping(done, total, known):
        if done == stop:
            raise Stop

    config = replace(CONFIG, checkpoint_every=1)
    with pytest.raises(Stop):
        runs.run(config, tmp_path / "broken", stopping)
    whole, broken = runs.run(config), runs.resume(tmp_path / "broken")
    assert whole.metrics.equals(broken.metrics)
    state, _ = checkpoint.load(tmp_path / "broken" / "checkpoint.safetensors")
    want, _ = checkpoint.load(unbroken[1] / "checkpoint.safetensors")
    assert all(a.equal(b) for a, b in zip(state.blocks, want.blocks, strict=True))


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_bits(tmp_path):
    knobs = {
        **SMALL,
        "inner_steps": 24,
        "checkpoint_every": 1,
        "eval_share": 1.0,  # the command line has a default of its own
    }  # far from its end when it is killed
    runs.run(RunConfig(**knobs), tmp_path / "whole")
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "deca_lab", "run", *options(out=killed, **knobs)]
    with subprocess.Popen(
        command, stderr=subprocess.DEVNULL, env={**os.environ, "TQDM_DISABLE": "1"}
    ) as process:
        deadline = time.monotonic() + 600
        while (
            not (killed / "checkpoint.safetensors").exists()
            and process.poll() is None
            and time.monotonic() < deadline
        ):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "summary.json").exists(), "the run had ended before it was killed"
    runs.resume(killed)
    assert same_bits(tmp_path / "whole", killed) == []


def test_resume_of_a_finished_run_changes_nothing(unbroken):
    before = {name: (unbroken[1] / name).read_bytes() for name in SAME}
    runs.resume(unbroken[1])
    assert {name: (unbroken[1] / name).read_bytes() for name in SAME} == before


def test_flipped_byte_is_refused_wherever_it_lies(unbroken, tmp_path):
    good = (unbroken[1] / "checkpoint.safetensors").read_bytes()
    for place in (3, 40, len(good) // 3, len(good) // 2, len(good) - 1):
        bad = bytearray(good)
        bad[place] ^= 1
        (tmp_path / "bad.safetensors").write_bytes(bytes(bad))
        with pytest.raises(BadInput, match=r"bad\.safetensors' is damaged and refused"):
            checkpoint.load(tmp_path / "bad.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(good[:-10])
    with pytest.raises(BadInput, match="damaged and refused"):
        checkpoint.load(tmp_path / "bad.safetensors")


def test_checkpoints_that_cost_much_are_written_rarely_and_the_last_one_always(
    tmp_path, monkeypatch
):
    written = []
    save = checkpoint.save

    def noted(path, state, record):
        written.append(state.step)
        save(path, state, record)

    monkeypatch.setattr(checkpoint, "save", noted)
    history = runs.run(CONFIG, tmp_path / "cheap")
    visits = list(range(CONFIG.inner_steps, len(history.train) + 1, CONFIG.inner_steps))
    assert written == visits
    written.clear()
    monkeypatch.setattr(runs, "CHEAP", 0.0)
    monkeypatch.setattr(runs, "WRITING", 0.0)
    runs.run(CONFIG, tmp_path / "dear")
    assert written == [visits[0], visits[-1]]
    assert same_bits(tmp_path / "cheap", tmp_path / "dear") == []


def test_a_checkpoint_of_another_version_is_refused_in_a_word(unbroken, tmp_path, monkeypatch):
    state, record = checkpoint.load(unbroken[1] / "checkpoint.safetensors")
    monkeypatch.setattr(checkpoint, "FORMAT", 1)
    checkpoint.save(tmp_path / "old.safetensors", state, record)
    monkeypatch.undo()
    with pytest.raises(BadInput, match="another version wrote it, so start its run again"):
        checkpoint.load(tmp_path / "old.safetensors")


def test_checkpoint_keeps_every_part_of_a_state(tmp_path):
    from deca_lab.algorithm import loop as tr

    lab = prepare(replace(CONFIG, dtype="bfloat16", moments="keep"))
    steps = tr.train(lab.plan)
    state = [next(steps)[0] for _ in range(5)][-1]
    checkpoint.save(tmp_path / "c.safetensors", state, {"note": [0.1, 1e-300]})
    read, record = checkpoint.load(
        tmp_path / "c.safetensors", lambda k, x: lab.plan.optimisers[k].init(x.float())
    )
    assert read.step == 5
    assert record == {"note": [0.1, 1e-300]}
    assert read.master is not None
    assert read.master.equal(state.master)
    assert set(read.moments) == {0, 1}
    assert all(
        read.moments[k].m.equal(state.moments[k].m)
        and read.moments[k].steps == state.moments[k].steps
        for k in (0, 1)
    )
    np.testing.assert_array_equal(read.sent, state.sent)


def test_nan_stops_the_run_and_the_last_good_checkpoint_stays(tmp_path):
    broken = replace(CONFIG, lr=1e38, inner_steps=2, checkpoint_every=1)
    with pytest.raises(
        Diverged,
        match=r"no longer finite for client [0-9, ]+ at inner step \d+ in block '.+'.*checkpoint stays",
    ):
        runs.run(broken, tmp_path / "nan")
    if (tmp_path / "nan" / "checkpoint.safetensors").exists():
        state, _ = checkpoint.load(tmp_path / "nan" / "checkpoint.safetensors")
        assert all(bool(x.isfinite().all()) for x in state.blocks)


def test_one_clients_nan_is_named():
    lab = prepare(CONFIG)
    losses = torch.ones(4, 4)
    losses[1, 2] = losses[2, 0] = torch.nan  # the first that is not finite is named
    with pytest.raises(Diverged, match="for client 2 at inner step 3 in block 'layer 0'"):
        runs._train_rows(lab.plan, list(zip((3, 4, 5, 6), losses, strict=True)), None)


@pytest.fixture
def reads(monkeypatch):
    """The inner steps after which the losses are read, of a run on a device that computes later."""
    after, rows = [], runs._train_rows

    def noted(plan, unread, folder):
        after.append(unread[-1][0])
        return rows(plan, unread, folder)

    monkeypatch.setattr(runs, "_train_rows", noted)
    monkeypatch.setattr(runs, "AT_ONCE", ())
    monkeypatch.setattr(runs, "GLANCE", float("inf"))
    return after


def test_a_device_that_computes_later_is_read_where_something_is_due(unbroken, reads, tmp_path):
    runs.run(CONFIG, tmp_path / "later")
    assert same_bits(unbroken[1], tmp_path / "later") == []
    measured = [step for step in unbroken[0].metrics["step"] if step]
    ends = range(CONFIG.inner_steps, unbroken[0].train["step"].max() + 2, CONFIG.inner_steps)
    assert reads == sorted({*measured, *ends})
    assert len(reads) < len(unbroken[0].train)


def test_who_watches_sees_a_device_that_computes_later_now_and_then(reads, monkeypatch):
    seen = []
    watched = replace(CONFIG, eval_every=1000)
    runs.run(watched, progress=lambda step, of, known: seen.append((step, known["loss"])))
    assert seen[0][0] == 1  # a bar needs a first step; after that GLANCE seconds have to pass
    assert [step for step, _ in seen] == reads
    assert reads[1:3] == [CONFIG.inner_steps, 2 * CONFIG.inner_steps]
    monkeypatch.setattr(runs, "GLANCE", 0.0)
    reads.clear()
    steps = len(runs.run(watched, progress=lambda *known: None).train)
    assert reads == list(range(1, steps + 1))
    reads.clear()
    runs.run(watched, callbacks=[lambda moment: None])
    assert reads == list(range(1, steps + 1))


def test_folder_of_another_run_is_refused_and_left_alone(unbroken):
    before = sorted(p.name for p in unbroken[1].iterdir())
    with pytest.raises(BadInput, match="holds another run"):
        runs.run(CONFIG, unbroken[1])
    assert sorted(p.name for p in unbroken[1].iterdir()) == before


def test_changed_config_is_refused_on_resume(unbroken, tmp_path):
    for name in ("checkpoint.safetensors", "config.json"):
        (tmp_path / name).write_bytes((unbroken[1] / name).read_bytes())
    changed = {**asdict(CONFIG), "lr": 0.5}
    (tmp_path / "config.json").write_text(json.dumps(changed))
    with pytest.raises(
        BadInput, match=r"config\.json was changed since the checkpoint \(lr = 0.003, not 0.5\)"
    ):
        runs.resume(tmp_path)


def test_no_test_row_is_in_any_shard():
    """The text itself, not only indices: windows of the test set stand in no client's stream."""
    lab = prepare(CONFIG)
    shown = bytes((lab.probe.test[0][0, 1:] - 3).clamp(min=0).tolist())
    for stream in (*lab.shards.train, *lab.shards.validation):
        assert shown not in bytes((stream - 3).clamp(min=0).tolist())


@pytest.mark.parametrize(
    "knobs",
    quick(
        [
            {"topology": "none", "allow_unsound": True},
            {"clients": 1, "topology": "complete"},
            {"blocks": "whole", "moments": "keep"},
            {"blocks": "equal", "block_count": 3},
            {"blocks": "patterns", "patterns": "wte|wpe|ln_f h\\.0 h\\.1"},
            {"ends": "frozen"},
            {"freeze": "wpe", "mixed": "all"},
            {"dtype": "bfloat16"},
            {"dtype": "float64"},
            {"engine": "loop"},
            {"model": "llama-tiny"},
            {"model": "qwen2-tiny"},
            {
                "topology": "one-peer-exponential",
                "order": "reshuffled",
                "lr_scheduler_type": "cosine",
            },
        ],
        3,
    ),
    ids=lambda k: "-".join(map(str, k.values()))[:40],
)
def test_every_kind_of_run_ends_and_its_ledger_is_right(knobs):
    history = runs.run(replace(CONFIG, **{"inner_steps": 2, **knobs}))
    assert history.metrics["test_loss"].iloc[-1] < history.metrics["test_loss"].iloc[0]
    assert (history.edges["measured"] == history.edges["predicted"]).all()
    assert history.summary["memory"]["measured_peak"] == pytest.approx(
        history.summary["memory"]["peak"], rel=0.1
    )


@pytest.mark.slow
def test_loop_and_stacked_engines_give_the_same_run():
    one, two = (
        runs.run(replace(CONFIG, dtype="float64", model="tiny", engine=engine))
        for engine in ("stacked", "loop")
    )
    columns = ["test_loss", "consensus", "gradient_norm"]
    np.testing.assert_allclose(one.metrics[columns], two.metrics[columns], rtol=1e-9, atol=1e-12)


def test_a_run_without_any_link_is_kept_and_goes_on(tmp_path):
    alone = RunConfig(**{**SMALL, "method": "local"})
    done = runs.run(alone, tmp_path / "run")
    assert done.summary["bytes_sent"] == 0
    state, _ = checkpoint.load(tmp_path / "run" / "checkpoint.safetensors")
    assert len(state.sent) == 0
    assert runs.resume(tmp_path / "run").metrics.equals(done.metrics)
