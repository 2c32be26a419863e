"""Any bytes in what the readers read: a value, or one line; longer with --hostile-seconds N, steered by `fuzz.py`."""

import io
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from harness import CONFIG, causal_lm_in, copied, counted, searched, tried
from hypothesis import strategies as st

from deca_lab import files
from deca_lab.lab import checkpoint, history
from deca_lab.mixing.topology import read_matrices
from deca_lab.models import causal_lm
from deca_lab.recipes.recipe import knobs_of
from deca_lab.runconfig import from_json, from_mapping
from deca_lab.text import corpora
from deca_lab.text.tokens import tokenizer

pytestmark = pytest.mark.slow

ROWS = pd.DataFrame({"text": ["one", "two, three"], "label": ["a", "b"], "say": ["x", "y"]})
COLUMNS = {"text": "text", "label": "label", "answer": "say"}


class Reader(NamedTuple):
    """What reads a file, its name, and its sound content; `whole` is the folder of a finished run."""

    read: Callable[[Path], object]
    name: str
    sound: Callable[[Path], bytes]


def knobs_in(path):
    return from_mapping(knobs_of(str(path)))


def saved(write):
    """Return what a function writes into a file that it is given."""
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def rows(kind, **more):
    """Return a file of ROWS as pandas writes it."""
    written = getattr(ROWS, f"to_{kind}")(**more)
    return written if isinstance(written, bytes) else written.encode()


def constant(data):
    return lambda whole: data


def of_run(name):
    return lambda whole: (whole / name).read_bytes()


def unsealed(path):
    """Read a run folder without checksums, as an earlier version left it, with another file in it."""
    folder = path.parent / "run"
    shutil.copy(path, folder / path.name)
    return history.load(folder)


def model_in(path):
    """Read a model whose folder has another file in it."""
    shutil.copy(path, path.parent / "model" / path.name)
    return causal_lm.load(str(path.parent / "model"))


def tokens_in(path):
    shutil.copy(path, path.parent / "model" / path.name)
    return tokenizer(str(path.parent / "model"))


def of_model(name):
    """Return the bytes of a file of a small Llama, which lies beside the run."""
    return lambda whole: (whole.parent / "model" / name).read_bytes()


READERS = {
    "config": Reader(
        lambda path: from_json(files.read_text(path, "config"), str(path)),
        "c.json",
        constant(CONFIG.to_json().encode()),
    ),
    "recipe": Reader(knobs_in, "r.yaml", constant(b"method: deca\nclients: 4\nlr: 0.1\n")),
    "recipe in JSON": Reader(knobs_in, "r.json", constant(b'{"method": "deca", "clients": 4}')),
    "matrix": Reader(read_matrices, "w.csv", constant(b"0.5,0.5\n0.5,0.5\n")),
    "matrices of numpy": Reader(
        read_matrices, "w.npy", constant(saved(lambda file: np.save(file, np.full((2, 2), 0.5))))
    ),
    "rows with commas": Reader(corpora.load, "t.csv", constant(rows("csv", index=False))),
    "rows with tabs": Reader(corpora.load, "t.tsv", constant(rows("csv", index=False, sep="\t"))),
    "rows, columns named": Reader(
        partial(corpora.load, **COLUMNS), "n.csv", constant(rows("csv", index=False))
    ),
    "rows of JSON": Reader(
        corpora.load, "t.jsonl", constant(rows("json", orient="records", lines=True))
    ),
    "a list of JSON": Reader(corpora.load, "t.json", constant(rows("json", orient="records"))),
    "rows of Parquet": Reader(corpora.load, "t.parquet", constant(rows("parquet"))),
    "text": Reader(corpora.load, "t.txt", constant(b"one\n\ntwo\r\n\r\nthree\n")),
    "checkpoint": Reader(checkpoint.load, "k.safetensors", of_run("checkpoint.safetensors")),
    "metrics without a checksum": Reader(unsealed, "metrics.csv", of_run("metrics.csv")),
    "matrix of a run without a checksum": Reader(unsealed, "topology.csv", of_run("topology.csv")),
    "summary without a checksum": Reader(unsealed, "summary.json", of_run("summary.json")),
    "a model's configuration": Reader(model_in, "config.json", of_model("config.json")),
    "a model's weights": Reader(model_in, "model.safetensors", of_model("model.safetensors")),
    "a tokenizer": Reader(tokens_in, "tokenizer.json", of_model("tokenizer.json")),
}


def laid_out(whole, folder):
    """Lay beside each other what the readers need: an old run's folder and a model's."""
    copied(whole, folder / "run")
    (folder / "run" / files.SUMS).unlink()
    copied(whole.parent / "model", folder / "model")


@pytest.fixture(scope="module")
def sound(whole, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    copied(whole, folder / "whole")
    causal_lm_in(folder / "model")
    return folder / "whole"


EDITS = st.lists(
    st.tuples(
        st.integers(0, 10**4),
        st.sampled_from(["cut", "flip", "put", "twice", "drop", "deep", "huge"]),
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
            "drop": data[:at] + data[at + 3 :],
            "deep": data[:at] + b"[{" * 500 + data[at:],
            "huge": data[:at] + b"9" * 5000 + data[at:],
        }
        data = change[how]
    return data


def read_quietly(reader, path):
    """Return what `tried` returns of a reader; warnings of the libraries below it are theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tried(reader.read, path)


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # of the readers of others
@pytest.mark.parametrize("name", READERS)
def test_a_reader_of_changed_bytes_reads_or_refuses_in_a_line(name, sound, tmp_path, request):
    reader = READERS[name]
    laid_out(sound, tmp_path)
    start, path = reader.sound(sound), tmp_path / reader.name
    path.write_bytes(start)
    assert read_quietly(reader, path)[1] == ""

    def one(edits):
        path.write_bytes(edited(start, edits))
        refusal = read_quietly(reader, path)[1]
        counted(f"bytes of: {name}", "refused in one line" if refusal else "read")

    wanted = request.config.getoption("--hostile-seconds") / len(READERS)
    searched(one, EDITS, wanted, 25)


def test_the_edits_reach_both_ends():
    assert edited(b"abc", [(0, "cut", b"")]) == b""
    assert edited(b"abc", [(3, "put", b"x"), (0, "flip", b"")]) == b"`bcx"
