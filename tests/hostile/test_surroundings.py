"""Surroundings of a process: language, home, folders that cannot be written, knobs and files that nobody would give."""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from cases import cases
from command import options
from harness import CALM, TINY, among, bits, causal_lm_in, copied, outcome, process, run_words

from deca_lab.lab import runs

pytestmark = pytest.mark.slow


STRANGE = {  # together: what reads one of these names reads no other
    **{"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    **{"TERM": "dumb", "COLUMNS": "1", "NO_COLOR": "1"},
    **{"HOME": None, "XDG_CACHE_HOME": None, "HF_HOME": None, "MPLCONFIGDIR": None},
    **{"HF_ENDPOINT": "http://nowhere.invalid", "HTTP_PROXY": "http://nowhere.invalid"},
    "HF_HUB_OFFLINE": "0",
}
NOWHERE = {
    **{"HOME": "/dev/null/at/all", "HF_HOME": None, "MPLCONFIGDIR": None},
    **{"TZ": "Nowhere/None", "PYTHONHASHSEED": "7"},
}
MANY = {"OMP_NUM_THREADS": "7", "OMP_WAIT_POLICY": "passive"}  # beside other tests none spins


@pytest.mark.slow
def test_a_run_is_the_same_in_strange_surroundings(whole, tmp_path):
    assert process(*run_words(tmp_path / "rün"), **STRANGE) == "right"
    assert bits(tmp_path / "rün") == bits(whole)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a shell closes streams")
@pytest.mark.parametrize(("closed", "environment"), [("2>&-", NOWHERE), ("<&- >&- 2>&-", MANY)])
def test_a_run_is_the_same_where_streams_are_closed(whole, tmp_path, closed, environment):
    command = shlex.join(map(str, [sys.executable, "-m", "deca_lab", *run_words(tmp_path / "run")]))
    given = among(environment)
    done = subprocess.run(f"{command} {closed}", shell=True, env=given, check=False, timeout=300)
    assert done.returncode == 0
    if environment is MANY:  # sums in another order
        assert (tmp_path / "run" / "report.html").exists()
    else:
        assert bits(tmp_path / "run") == bits(whole)


@pytest.mark.slow
def test_pictures_that_cannot_be_drawn_are_refused_before_any_work(tmp_path):
    assert process(*run_words(tmp_path / "run"), MPLBACKEND="none", says="matplotlib") == "refused"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_in_less_memory_than_it_needs_is_no_traceback_of_its_folder(whole, tmp_path):
    """Under a limit of the address space a process may fail in the system's libraries; its folder is whole or resumable."""
    resource = pytest.importorskip("resource")
    folder = copied(whole, tmp_path / "run")
    for megabytes in (200, 1000):
        command = [sys.executable, "-m", "deca_lab", "run", "--resume", str(folder)]
        limit = megabytes * 2**20
        done = subprocess.run(
            command,
            env=CALM,
            capture_output=True,
            check=False,
            timeout=300,
            preexec_fn=lambda limit=limit: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        )
        assert done.returncode != 0
        assert bits(folder) == bits(whole)
    runs.resume(folder)
    assert bits(folder) == bits(whole)


DEEP = "[" * 100_000
FILES = {
    "deep.json": (DEEP, "json"),
    "deep.jsonl": (DEEP, "jsonl"),
    "deeper.json": ('{"text": ' * 50_000, "json"),
    "wide.csv": (",".join(f"c{i}" for i in range(100_000)) + "\n1,2\n", "csv"),
    "one-row.csv": ("text,label\nonly this row,a\n", "csv"),
    "head-only.csv": ("text,label\n", "csv"),
    "quotes.csv": ('text,label\n"' + "x" * 100 + ",a\n", "csv"),
    "unquoted.csv": ('text,label\n"one" they said,a\n"two" they said,b\n', "csv"),
    "wider.csv": ("text,label\none,a\ntwo, or so,b\n", "csv"),
    "semicolons.csv": ("text, all of it;label\none;a\ntwo;b\n", "csv"),
    "utf-16.txt": ("w\0o\0r\0d\0s\0 \0" * 500, "txt"),
    "config.toml": ("clients = 3\n", "config"),
    "zeros.txt": ("\0" * 5000, "txt"),
    "spaces.txt": (" \n" * 5000, "txt"),
    "empty.parquet": ("", "parquet"),
    "empty.txt": ("", "txt"),
    "config.yaml": ("- a\n- b\n", "config"),
    "deep.yaml": (DEEP, "config"),
    "bomb.yaml": ("a: &a [x,x]\n" + "".join(f"b{i}: &b{i} [*a,*a]\n" for i in range(9)), "config"),
    "python.yaml": ("!!python/object/apply:os.system [touch hacked]\n", "config"),
    "deep-config.json": (DEEP, "config"),
    "unknown.json": (json.dumps({"clientz": 3}), "config"),
    "ragged.csv": ("0.5,0.5\n0.5\n", "topology"),
    "nan.csv": ("nan,1\n1,nan\n", "topology"),
    "half.npy": ("\x93NUMPY", "topology"),
}


def test_files_that_nobody_would_give_are_refused_in_a_line(tmp_path, capsys):
    for name, (text, use) in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        words = {"config": "config", "topology": "topology"}.get(use, "corpus")
        knobs = {k: v for k, v in TINY.items() if k != words}
        try:
            given = ["run", *options(out=tmp_path / "run", **knobs, **{words: tmp_path / name})]
            assert outcome(capsys, *given) == "refused"
            assert not (tmp_path / "run").exists()
        except BaseException as error:
            error.add_note(f"the file: {name}")
            raise
    assert not (tmp_path / "hacked").exists()


KNOBS = [
    {"out": "x" * 300},
    {"out": "a\udcff"},
    {"out": "/dev/null/run"},
    {"out": "/proc/nobody"},
    {"tokenizer": "x" * 5000},
    {"model": "x" * 5000},
    {"model": ".."},
    {"corpus": "/dev/zero"},
    {"corpus": "a\nb"},
    {"clients": 0},
    {"lr": "nan"},
    {"lr": "inf"},
    {"lr": -1},
    {"drop": 1},
    {"drop": "nan"},
    {"seed": -1},
    {"eval_windows": 0},
]


@cases("knobs", KNOBS)
def test_knobs_that_nobody_would_give_are_refused_in_a_line(tmp_path, capsys, knobs):
    given = {**TINY, "out": tmp_path / "run", **knobs}
    assert outcome(capsys, "run", *options(**given)) == "refused"
    assert not (tmp_path / "run").exists()


def test_weights_that_are_pickled_or_of_another_model_are_refused(tmp_path, capsys):
    import torch
    from safetensors.torch import load_file, save_file

    folder = causal_lm_in(tmp_path / "llama")
    weights = folder / "model.safetensors"
    good = load_file(weights)
    name = next(n for n in good if n.endswith("q_proj.weight"))
    bad = {
        "of another width": {**good, name: good[name][:, :-1].contiguous()},
        "of another model": {"x." + n: t for n, t in good.items()},
        "with one missing": {n: t for n, t in good.items() if n != name},
    }
    words = run_words(tmp_path / "run", model=folder, tokenizer=folder, context=8)
    assert outcome(capsys, "run", "--dry-run", *words[3:]) == "right"
    for what, tensors in bad.items():
        save_file(tensors, weights, metadata={"format": "pt"})
        assert outcome(capsys, *words, says="model") == "refused", what
    for data in (b"", b"\xff" * 64, b"\x08\0\0\0\0\0\0\0{}"):
        weights.write_bytes(data)
        assert outcome(capsys, *words, says="model") == "refused"
    weights.unlink()
    torch.save(good, folder / "pytorch_model.bin")
    assert outcome(capsys, *words, says="safetensors") == "refused"
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_a_folder_of_another_user_can_be_read_and_what_cannot_be_written_is_one_line(
    whole, tmp_path, capsys
):
    folder = copied(whole, tmp_path / "run")
    for command in (["clock", folder], ["report", folder]):  # imports all that they need
        assert outcome(capsys, *command) == "right"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with as_another_user(folder):
        assert outcome(capsys, "clock", folder) == "right"
        assert outcome(capsys, "report", folder, says="cannot (be )?writ") == "refused"
        assert outcome(capsys, "run", "--resume", folder, says="cannot|denied") == "refused"
        assert outcome(capsys, "export", folder, says="cannot|denied") == "refused"
        words = run_words(folder / "inside")
        assert outcome(capsys, *words, says="cannot|denied") == "refused"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@contextmanager
def as_another_user(folder):
    """Let files of the folder be read, and none be written: by permissions, and, for root, as the user nobody."""
    kept = {path: path.stat().st_mode for path in (folder, *folder.parents) if path != path.parent}
    for path in (folder, *folder.iterdir()):
        path.chmod(0o555 if path.is_dir() else 0o444)
    root, ours = os.geteuid() == 0, Path(tempfile.gettempdir())
    if root:
        for path in kept:
            if ours in path.parents and path != folder:
                path.chmod(0o755)
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path, mode in kept.items():
            if ours in path.parents:
                path.chmod(mode)
