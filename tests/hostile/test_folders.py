"""Damaged run folders: every file, every damage, every command that reads it."""

import hashlib
import json
import shutil
import subprocess

import pytest
from cases import quick
from harness import CONFIG, SAME, bits, copied, outcome

from deca_lab import files
from deca_lab.errors import BadInput
from deca_lab.lab import history, runs


def flipped(data):
    """Change one digit near the middle, which leaves a table as readable as it was."""
    at = next(i for i in range(len(data) // 2, -1, -1) if chr(data[i]).isdigit())
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGES = {
    "cut to half": lambda data: data[: len(data) // 2],
    "its last row is gone": lambda data: b"".join(data.splitlines(keepends=True)[:-1]),
    "its last digit is gone": lambda data: data.rstrip()[:-1] + b"\n",
    "another digit": flipped,
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "twice": lambda data: data + data,
    "bytes that are no text": lambda data: b"\xff\xfe" + data,
}
READERS = {"report": (), "clock": ()}
TABLES = [name for name in history.FILES if name != "config.json"]


@pytest.mark.parametrize("command", quick(READERS))
def test_a_damaged_table_is_named_whatever_the_damage(whole, tmp_path, capsys, command):
    folder = copied(whole, tmp_path / "run")
    for name in TABLES:
        good = (folder / name).read_bytes()
        for damage, change in DAMAGES.items():
            if change(good) == good:
                continue
            (folder / name).write_bytes(change(good))
            said = outcome(capsys, command, folder, says=f"{name}.*")
            assert said == "refused", (name, damage)
        (folder / name).unlink()
        assert outcome(capsys, command, folder, says=name) == "refused"
        (folder / name).mkdir()
        assert outcome(capsys, command, folder, says=name) == "refused"
        (folder / name).rmdir()
        (folder / name).write_bytes(good)


def test_a_changed_config_beside_finished_tables_is_named(whole, tmp_path, capsys):
    folder = copied(whole, tmp_path / "run")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"batch": 1', '"batch": 2'))
    for command in ("report", "clock"):
        assert outcome(capsys, command, folder, says=r"config\.json") == "refused"
    for command in (["export", folder], ["run", "--resume", folder]):
        assert outcome(capsys, *command, says=r"config\.json.*batch") == "refused"
    (folder / "config.json").write_text("[" * 100_000)
    assert outcome(capsys, "report", folder, says="not JSON") == "refused"


def test_damaged_checksums_are_noticed_and_missing_ones_said(whole, tmp_path, capsys):
    folder = copied(whole, tmp_path / "run")
    text = (folder / files.SUMS).read_text()
    for damaged in ("", text[: len(text) // 2], text.replace("a", "b"), "x" * 100):
        (folder / files.SUMS).write_text(damaged)
        assert outcome(capsys, "report", folder, says=files.SUMS) == "refused"
    (folder / files.SUMS).unlink()
    old = history.load(folder)
    assert old.summary["notes"][-1] == history.UNSEALED
    assert old.metrics.equals(history.load(whole).metrics)


def test_the_checksums_are_those_of_sha256sum(whole):
    lines = dict(line.split("  ")[::-1] for line in (whole / files.SUMS).read_text().splitlines())
    assert set(lines) == set(history.FILES)
    for name, digest in lines.items():
        assert hashlib.sha256((whole / name).read_bytes()).hexdigest() == digest
    if shutil.which("sha256sum"):
        check = ["sha256sum", "--check", "--quiet", files.SUMS]
        subprocess.run(check, cwd=whole, check=True, capture_output=True)


def test_a_resumed_finished_run_mends_every_table(whole, tmp_path):
    folder = copied(whole, tmp_path / "run")
    for name in TABLES:
        if name != "timings.csv":
            (folder / name).write_bytes(b"damage")
    runs.resume(folder)
    assert bits(folder) == bits(whole)
    history.load(folder)


@pytest.mark.parametrize("damage", ["cut to half", "its last row is gone", "zeros", "empty"])
def test_damaged_timings_of_an_interrupted_run_are_named_and_missing_ones_are_not_needed(
    whole, tmp_path, damage
):
    folder = copied(whole, tmp_path / "run")
    good = (folder / "timings.csv").read_bytes()
    (folder / "timings.csv").write_bytes(DAMAGES[damage](good))
    with pytest.raises(BadInput, match=r"timings\.csv' is damaged"):
        runs.resume(folder)
    (folder / "timings.csv").unlink()
    runs.resume(folder)
    assert bits(folder) == bits(whole)
    (folder / "timings.csv").write_bytes(good)


def test_a_folder_named_like_a_half_written_file_is_left_alone(whole, tmp_path):
    folder = copied(whole, tmp_path / "run")
    strange = folder / f".metrics.csv{files.HALF}x1"
    strange.mkdir()
    runs.resume(folder)
    assert strange.is_dir()
    assert bits(folder) == bits(whole)


def test_every_file_that_equal_runs_share_is_looked_at():
    assert set(SAME) - {"checkpoint.safetensors"} == set(history.FILES) - {"timings.csv"}
    assert json.loads(CONFIG.to_json())["clients"] == 2
