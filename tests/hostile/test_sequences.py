"""Any sequence of commands on a run folder, and any bytes in what the readers read; longer with --hostile-seconds N."""

import json
import time
import warnings

import pandas as pd
import pytest
from harness import CONFIG, Killed, bits, completed, copied, run_words
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deca_lab import files, pictures
from deca_lab.errors import BadInput
from deca_lab.lab import checkpoint, export, history, runs
from deca_lab.mixing.topology import read_matrices
from deca_lab.pictures import report
from deca_lab.recipes.recipe import knobs_of
from deca_lab.runconfig import from_json, from_mapping
from deca_lab.text import corpora

pytestmark = pytest.mark.slow

TABLES = [name for name in history.FILES if name != "config.json"]


def run(folder, n):
    runs.run(CONFIG, folder)


def killed(folder, n):
    """Go on with the run, or begin it, and die after n more inner steps."""
    lives = [0]

    def watch(done, total, known):
        lives[0] += 1
        if lives[0] > n % 4:
            raise Killed

    if (folder / "config.json").exists():
        runs.resume(folder, watch)
    else:
        runs.run(CONFIG, folder, watch)


def resume(folder, n):
    runs.resume(folder)


def damage(folder, n):
    """Cut a table; what is damaged is named by who reads it, and mended by a resumed run."""
    path = folder / TABLES[n % len(TABLES)]
    if path.exists():
        path.write_bytes(path.read_bytes()[: 7 * n])


def damage_checkpoint(folder, n):
    path = folder / "checkpoint.safetensors"
    if path.exists():
        whole = path.read_bytes()
        path.write_bytes(whole[: n * 37] + b"!" + whole[n * 37 + 1 :])


def forget(folder, n):
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)


def half(folder, n):
    """Leave what a killed writer leaves."""
    folder.mkdir(exist_ok=True)
    (folder / f".{TABLES[n % len(TABLES)]}{files.HALF}x{n}").write_bytes(b"half")


def reported(folder, n):
    report.write(history.load(folder), folder)


def exported(folder, n):
    export.export_model(folder, out=folder / f"export-{n % 2}")


COMMANDS = [run, killed, resume, damage, damage_checkpoint, forget, half, reported, exported]


def tried(action, *given):
    """Return what an action gives, and the one line with which it refuses, or "" where it does not."""
    try:
        return action(*given), ""
    except BadInput as error:
        line = str(error)
    assert line, "a refusal without a word"
    assert "\n" not in line
    return None, line


def lived(folder, steps, whole):
    """Do these steps; each is right, or refused in one line, and whatever is read as finished has the run's own numbers."""
    for command, n in steps:
        try:
            tried(command, folder, n)
        except Killed:
            assert command is killed
        read, _ = tried(history.load, folder)
        for name in ("metrics", "clients", "train", "edges") if read else ():
            assert getattr(read, name).equals(getattr(whole, name)), (command.__name__, n)


def ended(folder, whole):
    """Whatever happened, the run goes on to the bits of an unbroken one, or says which file it needs."""
    _, refusal = tried(completed, folder)
    if refusal:
        assert "checkpoint" in refusal or "timings.csv" in refusal, refusal
    else:
        assert bits(folder) == bits(whole)


def test_any_sequence_of_commands_keeps_a_run_whole_or_says_so(
    whole, swift, tmp_path, monkeypatch, request
):
    monkeypatch.setattr(pictures, "png", lambda figure: b"drawn")
    read, wanted, begun = history.load(whole), request.config.getoption("--hostile-seconds"), []
    steps = st.lists(st.tuples(st.sampled_from(COMMANDS), st.integers(0, 40)), max_size=7)
    end = time.monotonic() + wanted

    @given(steps=steps)
    @settings(
        max_examples=12 if not wanted else 10**6,
        deadline=None,
        derandomize=not wanted,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def lives(steps):
        if wanted and time.monotonic() > end:
            return
        begun.append(1)
        folder = tmp_path / str(len(begun))
        lived(folder, steps, read)
        ended(folder, whole)

    lives()


def knobs_in(path):
    return from_mapping(knobs_of(str(path)))


READERS = {  # what reads bytes, under which name, and an example from which bytes are changed
    "config": (lambda path: from_json(files.read_text(path, "config"), str(path)), "c.json"),
    "recipe": (knobs_in, "r.yaml"),
    "recipe in JSON": (knobs_in, "r.json"),
    "matrix": (read_matrices, "w.csv"),
    "matrices of numpy": (read_matrices, "w.npy"),
    "corpus of rows": (corpora.load, "t.csv"),
    "corpus of JSON": (corpora.load, "t.jsonl"),
    "checkpoint": (checkpoint.load, "k.safetensors"),
}


def examples():
    import io

    import numpy as np

    npy = io.BytesIO()
    np.save(npy, np.full((2, 2), 0.5))
    rows = pd.DataFrame({"text": ["one", "two, three"], "label": ["a", "b"]})
    return {
        "config": CONFIG.to_json().encode(),
        "recipe": b"method: deca\nclients: 4\nlr: 0.1\n",
        "recipe in JSON": json.dumps({"method": "deca", "clients": 4}).encode(),
        "matrix": b"0.5,0.5\n0.5,0.5\n",
        "matrices of numpy": npy.getvalue(),
        "corpus of rows": rows.to_csv(index=False).encode(),
        "corpus of JSON": rows.to_json(orient="records", lines=True).encode(),
    }


EDITS = st.lists(
    st.tuples(
        st.integers(0, 10**4),
        st.sampled_from(["cut", "flip", "put", "twice"]),
        st.binary(max_size=6),
    ),
    min_size=1,
    max_size=4,
)


def edited(data, edits):
    for at, how, more in edits:
        at %= len(data) + 1
        change = {
            "cut": data[:at],
            "flip": data[:at] + bytes(b ^ 1 for b in data[at : at + 1]) + data[at + 1 :],
            "put": data[:at] + more + data[at:],
            "twice": data[:at] + data,
        }
        data = change[how]
    return data


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # of the readers of others
@pytest.mark.parametrize("name", READERS)
def test_a_reader_of_changed_bytes_reads_or_refuses_in_a_line(name, whole, tmp_path, request):
    read, file = READERS[name]
    start = examples().get(name) or (whole / "checkpoint.safetensors").read_bytes()
    wanted = request.config.getoption("--hostile-seconds") / len(READERS)
    end = time.monotonic() + wanted

    @given(edits=EDITS)
    @settings(
        max_examples=25 if not wanted else 10**6,
        deadline=None,
        derandomize=not wanted,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def changed(edits):
        if wanted and time.monotonic() > end:
            return
        (tmp_path / file).write_bytes(edited(start, edits))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)
            tried(read, tmp_path / file)

    changed()


def test_the_harness_itself_knows_a_fourth_outcome(whole, tmp_path):
    """A silent change of a finished run's numbers is caught by what the sequences look at."""
    folder = copied(whole, tmp_path / "run")
    (folder / files.SUMS).unlink()  # as of a version without checksums
    text = (folder / "train.csv").read_text().splitlines()
    (folder / "train.csv").write_text("\n".join(text[:-1]) + "\n")
    with pytest.raises(AssertionError):
        lived(folder, [(half, 0)], history.load(whole))
    assert run_words(folder)[0] == "run"
