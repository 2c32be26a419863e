"""Signals: a run that is told to end keeps a folder that goes on; a server that is told to end leaves nobody behind."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from harness import CALM, CONFIG, STOPPED, TINY, bits, outcome, process, run_words

from deca_lab.errors import Stopped
from deca_lab.lab import checkpoint, progress, runs

LONG = {**TINY, "rounds": 2000, "eval_every": 10**6}
SERVER = """
import sys
from pathlib import Path
from deca_lab.course import server
child = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
server.command = lambda *given: [sys.executable, "-c", child]
sys.exit(server.serve(Path(".")))
"""


@pytest.fixture(autouse=True)
def heard():
    """Let SIGHUP end a process, also where the tests themselves run under nohup, which all children inherit."""
    if not hasattr(signal, "SIGHUP"):
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def gone(number):
    end = time.monotonic() + 60
    while psutil.pid_exists(number) and time.monotonic() < end:
        time.sleep(0.05)
    return not psutil.pid_exists(number)


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_lab_that_is_told_to_end_ends_its_server(name):
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=CALM) as lab:
        server = int(lab.stdout.readline())
        lab.send_signal(getattr(signal, name))
        code = lab.wait(120)
    assert gone(server)
    assert code == 128 + getattr(signal, name)


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_in_a_run_is_a_checkpoint_and_a_second_one_the_end(whole, tmp_path, name):
    """In this process: the signal comes after the first inner step, and the run has kept that step."""
    with progress.interruptible() as asked:

        def watch(done, total, known):
            if done == 1:
                os.kill(os.getpid(), getattr(signal, name))
            return asked()

        with pytest.raises(Stopped, match="after inner step 1 of"):
            runs.run(CONFIG, tmp_path / "run", watch)
    assert checkpoint.load(tmp_path / "run" / "checkpoint.safetensors")[0].step == 1
    with progress.interruptible():
        os.kill(os.getpid(), getattr(signal, name))
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(getattr(signal, name))
    runs.resume(tmp_path / "run")
    assert bits(tmp_path / "run") == bits(whole)


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with progress.interruptible() as asked:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not asked()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize("names", [["SIGHUP"], ["SIGTERM", "SIGINT"]])
def test_a_process_that_is_told_to_end_leaves_a_run_that_goes_on(tmp_path, names):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "deca_lab", *run_words(folder, **LONG)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=CALM, text=True) as run:
        end = time.monotonic() + 300
        while not (folder / "checkpoint.safetensors").exists() and time.monotonic() < end:
            time.sleep(0.02)
        for name in names:
            run.send_signal(getattr(signal, name))
        err = run.stderr.read()
    assert run.returncode in STOPPED
    assert "Traceback" not in err
    begun = checkpoint.load(folder / "checkpoint.safetensors")[0].step
    with pytest.raises(Stopped, match=f"inner step {begun + 2}"):
        runs.resume(folder, lambda done, total, known: done == begun + 2)


@pytest.mark.slow
def test_two_resumes_at_once_are_one_run(whole, tmp_path, capsys):
    """The second is refused in a line while the first goes on, and afterwards finds a finished run."""
    answers = []

    def watch(done, total, known):
        if done == 1:
            answers.append(process("run", "--resume", tmp_path / "run", says="is in use"))
        return False

    runs.run(CONFIG, tmp_path / "run", watch)
    assert answers == ["refused"]
    assert outcome(capsys, "run", "--resume", tmp_path / "run") == "right"
    assert bits(tmp_path / "run") == bits(whole)
