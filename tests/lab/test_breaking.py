"""When things break: kills at any moment, a full disk, a folder that cannot be written, two processes, Ctrl-C."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager

import pytest
from command import SMALL, options

from deca_lab import files
from deca_lab.errors import BadInput, Stopped
from deca_lab.lab import checkpoint, runs
from deca_lab.runconfig import RunConfig

QUIET = {**os.environ, "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
KNOBS = {**SMALL, "checkpoint_every": 1}

# One process prepares the run once and forks a child for each life of it, which is killed at a random moment.
KILLER = textwrap.dedent("""
    import os, random, signal, sys, time
    from pathlib import Path
    from deca_lab.lab import checkpoint, runs
    from deca_lab.runconfig import RunConfig

    folder, whole, rng, window, reached = *sys.argv[1:3], random.Random(0), 0.2, set()
    config, kept = RunConfig(**eval(sys.argv[3])), Path(folder, "checkpoint.safetensors")
    prepare, prepared = runs.prepare, runs.prepare(config)
    runs.prepare = lambda config, world, objects: prepared
    last = prepared.plan.steps - 1
    for kill in range(50):
        child = os.fork()
        if child == 0:
            there = os.path.exists(os.path.join(folder, "config.json"))
            wait = lambda done, total, known: done == last and signal.pause()          # nothing ends before its kill
            runs.resume(folder, wait) if there else runs.run(config, folder, wait)
            os._exit(0)
        time.sleep(rng.uniform(0, window))
        os.kill(child, signal.SIGKILL)
        if os.WIFEXITED(os.waitpid(child, 0)[1]):
            sys.exit("a life of the run had ended before it was killed")
        step = checkpoint.load(kept)[0].step if kept.exists() else 0
        reached.add(step)
        window = min(1.5 * window, 5.0) if step < last * kill / 50 else max(0.7 * window, 0.05)    # evenly over the run
    runs.prepare = prepare
    runs.resume(folder)
    runs.run(config, whole)
    print(len(reached))
""")


@pytest.mark.slow
def test_killed_50_times_and_resumed_gives_the_same_bits(tmp_path):
    knobs = {
        **KNOBS,
        "checkpoint_every": 3,
        "clients": 2,
        "context": 16,
        "batch": 1,
        "rounds": 30,
        "eval_windows": 2,
        "eval_every": 60,
    }
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(broken), str(whole), repr(knobs)],
        env=QUIET,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) >= 5, "the kills fell on too few places"
    for name in ("checkpoint.safetensors", "metrics.csv", "train.csv", "summary.json"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    assert not list(broken.glob(f".*{files.HALF}*"))


def started(folder, knobs):
    """Start a run as a process and wait for its first checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "deca_lab", "run", *options(out=folder, **knobs)],
        stderr=subprocess.PIPE,
        env=QUIET,
        text=True,
    )
    end = time.monotonic() + 600
    while not (folder / "checkpoint.safetensors").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.02)
    return process


@pytest.mark.slow
def test_a_second_process_on_a_run_folder_is_refused_and_the_first_goes_on_and_ctrl_c_checkpoints(
    tmp_path,
):
    folder = tmp_path / "run"
    with started(
        folder, {**KNOBS, "rounds": 400, "eval_every": 100, "checkpoint_every": 100}
    ) as first:
        with pytest.raises(BadInput, match="is in use"):
            runs.resume(folder)
        again = [sys.executable, "-m", "deca_lab", "run", "--resume", str(folder)]
        second = subprocess.run(again, env=QUIET, capture_output=True, text=True, check=False)
        assert second.returncode == 2
        assert "is in use" in second.stderr
        assert first.poll() is None
        first.send_signal(signal.SIGINT)
        said = first.stderr.read()
    assert first.returncode == 130
    assert f"--resume {folder}" in said
    step = checkpoint.load(folder / "checkpoint.safetensors")[0].step
    assert f"stopped after inner step {step} of" in said


@pytest.mark.slow
def test_told_to_stop_a_run_checkpoints_and_resumes_to_the_same_bits(tmp_path):
    knobs = {**KNOBS, "checkpoint_every": 0}
    whole = runs.run(RunConfig(**knobs), tmp_path / "whole")
    with pytest.raises(Stopped, match="stopped after inner step 2 of"):
        runs.run(RunConfig(**knobs), tmp_path / "stopped", lambda done, total, known: done == 2)
    assert checkpoint.load(tmp_path / "stopped" / "checkpoint.safetensors")[0].step == 2
    assert runs.resume(tmp_path / "stopped").metrics.equals(whole.metrics)
    with pytest.raises(Stopped, match="nothing was kept"):
        runs.run(RunConfig(**knobs), None, lambda done, total, known: True)
    runs.run(
        RunConfig(**knobs), None, lambda done, total, known: done == total
    )  # too late: it has ended


@contextmanager
def small_disk(place, size):
    """Mount a file system of so many bytes."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small tmpfs needs the right to mount one")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_a_clear_error_and_the_last_checkpoint_stays_whole(tmp_path):
    whole = tmp_path / "whole"
    runs.run(RunConfig(**KNOBS), whole)
    with pytest.raises(Stopped):
        runs.run(RunConfig(**KNOBS), tmp_path / "one", lambda done, total, known: done == 1)
    room = int(
        1.5 * (tmp_path / "one" / "checkpoint.safetensors").stat().st_size
    )  # for one checkpoint, and not for two
    with small_disk(tmp_path / "disk", room) as disk:
        with pytest.raises(BadInput, match=r"cannot write .*checkpoint.*No space left on device"):
            runs.run(RunConfig(**KNOBS), disk / "run")
        assert checkpoint.load(disk / "run" / "checkpoint.safetensors")[0].step == 1
        assert not list((disk / "run").glob(f".*{files.HALF}*"))
        subprocess.run(["mount", "-o", f"remount,size={20 * room}", str(disk)], check=True)
        assert (
            runs.resume(disk / "run").summary["test_loss_end"]
            == runs.history.load(whole).summary["test_loss_end"]
        )


def test_a_read_only_folder_is_a_clear_error(tmp_path):
    with small_disk(tmp_path / "disk", 50_000_000) as disk:
        with pytest.raises(Stopped):
            runs.run(RunConfig(**KNOBS), disk / "run", lambda done, total, known: done == 2)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(BadInput, match="Read-only file system"):
            runs.resume(disk / "run")
        with pytest.raises(BadInput, match="Read-only file system"):
            runs.run(RunConfig(**KNOBS), disk / "another")
        assert checkpoint.load(disk / "run" / "checkpoint.safetensors")[0].step == 2


def test_what_a_killed_writer_left_is_removed(tmp_path):
    with pytest.raises(Stopped):
        runs.run(RunConfig(**KNOBS), tmp_path / "run", lambda done, total, known: done == 1)
    left = tmp_path / "run" / f".checkpoint.safetensors{files.HALF}x7"
    left.write_bytes(b"half")
    runs.resume(tmp_path / "run")
    assert not left.exists()


def test_a_run_that_was_killed_before_it_began_can_be_started_again_in_its_folder(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / files.LOCK).touch()
    (tmp_path / "run" / f".config.json{files.HALF}x7").write_text("{")
    runs.run(RunConfig(**KNOBS), tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    with pytest.raises(BadInput, match="is not empty"):
        runs.run(RunConfig(**KNOBS), tmp_path / "other")
