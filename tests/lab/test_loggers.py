"""Loggers: what stands in TensorBoard's files and what W&B is given, against the moments."""

import sys
import time
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from deca_lab.errors import BadInput
from deca_lab.lab import loggers

STEPS = 4


def moments(steps=STEPS):
    """The moments of a run that measures every second step."""
    for step in range(1, steps + 1):
        train = {"step": step - 1, "block": "h.0", "lr": 0.1 / step, "loss": 5.0 - step}
        found = {
            "step": step,
            "block": "h.0",
            "round": 0,
            "test_loss": np.float64(6.0 - step),
            "consensus[h.0]": 2.0**-step,
            "test_note": "text",
            "bytes_sent": 10 * step,
        }
        measured = step % 2 == 0
        yield SimpleNamespace(
            step=step,
            steps=steps,
            train=train,
            metrics=found if step > 1 else {},
            measured=measured,
        )


def wanted():
    """The curves {name: {step: number}} that a logger writes of them."""
    curves = {
        "train/loss": {s: 5.0 - s for s in (1, 2, 3, 4)},
        "train/lr": {s: 0.1 / s for s in (1, 2, 3, 4)},
    }
    measured = {
        "test_loss": lambda s: 6.0 - s,
        "consensus[h.0]": lambda s: 2.0**-s,
        "bytes_sent": lambda s: 10.0 * s,
        "round": lambda s: 0.0,
    }
    return {
        **curves,
        **{f"metrics/{name}": {s: of(s) for s in (2, 4)} for name, of in measured.items()},
    }


def read(folder):
    """The curves in TensorBoard's event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        name: {e.step: e.value for e in files.Scalars(name)} for name in files.Tags()["scalars"]
    }


def same(found, expected):
    assert set(found) == set(expected)
    for name, curve in expected.items():
        assert found[name] == pytest.approx(curve, rel=1e-6), name  # event files hold float32


def test_tensorboards_files_hold_every_number_at_its_step(tmp_path):
    pytest.importorskip("tensorboard")
    log = loggers.tensorboard(tmp_path / "a" / "b")
    assert [log(moment) for moment in moments()] == [None] * STEPS  # True would stop the run
    same(read(tmp_path / "a" / "b"), wanted())


def test_tensorboards_files_are_whole_after_a_stop_and_go_on_after_it(tmp_path):
    pytest.importorskip("tensorboard")
    log = loggers.tensorboard(tmp_path)
    told = list(moments())
    for moment in told[:3]:
        log(moment)
    assert read(tmp_path)["train/loss"] == {1: 4.0, 2: 3.0, 3: 2.0}
    loggers.tensorboard(tmp_path)(told[3])
    same(read(tmp_path), wanted())


def test_tensorboard_takes_losses_that_are_not_finite(tmp_path):
    pytest.importorskip("tensorboard")
    log = loggers.tensorboard(tmp_path)
    log(
        SimpleNamespace(
            step=1, steps=1, train={"loss": float("inf"), "lr": 1.0}, metrics={}, measured=True
        )
    )
    assert read(tmp_path)["train/loss"] == {1: float("inf")}


def test_a_folder_that_cannot_be_one_is_refused_before_the_run(tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="cannot be used as a folder"):
        loggers.tensorboard(tmp_path / "file")


@pytest.fixture
def recorded(monkeypatch):
    """A stand-in for the package wandb, which starts a process of its own: it notes the calls."""
    calls = []

    def init(**settings):
        calls.append(("init", settings))
        return SimpleNamespace(
            log=lambda row, step: calls.append(("log", step, row)),
            finish=lambda: calls.append(("finish",)),
        )

    module = ModuleType("wandb")
    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


def test_wandb_is_given_every_number_at_its_step(recorded):
    log = loggers.wandb("lessons", name="first", mode="offline")
    assert recorded == []  # no run before the first step
    assert [log(moment) for moment in moments()] == [None] * STEPS
    assert recorded[0] == ("init", {"project": "lessons", "name": "first", "mode": "offline"})
    assert recorded[-1] == ("finish",)
    curves = {}
    for _, step, row in recorded[1:-1]:
        for name, value in row.items():
            curves.setdefault(name, {})[step] = value
    same(curves, wanted())


def test_a_second_run_is_a_second_run_of_wandb(recorded):
    log = loggers.wandb("lessons")
    for moment in [*moments(), *moments()]:
        log(moment)
    assert [call[0] for call in recorded] == ["init", *["log"] * STEPS, "finish"] * 2


@pytest.mark.slow
def test_the_real_wandb_takes_it_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    log = loggers.wandb("lessons", dir=str(tmp_path), settings=wandb.Settings(init_timeout=600))
    for moment in moments():
        log(moment)
    (kept,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    end = time.monotonic() + 600  # a process of W&B's own writes the file
    while b"train/loss" not in kept.read_bytes() and time.monotonic() < end:
        time.sleep(0.1)
    assert b"train/loss" in kept.read_bytes()


@pytest.mark.parametrize(
    ("package", "make"),
    [("tensorboard", lambda: loggers.tensorboard("x")), ("wandb", lambda: loggers.wandb("x"))],
)
def test_a_package_that_is_missing_is_named_with_its_command(package, make, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(BadInput, match=f"^{package} is not installed: pip install {package}$"):
        make()
    assert list(tmp_path.iterdir()) == []
