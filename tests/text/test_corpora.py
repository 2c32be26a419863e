"""Corpora: embedded, generated, local files, the hub without a network; tokens."""

import http.server
import json
import os
import socket
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import cases
from reference import ROUNDING

from deca_lab.errors import BadInput
from deca_lab.models import hub
from deca_lab.text import columns, corpora, markov, shards, stdlib_text, tables, tokens


@pytest.fixture(scope="module")
def stdlib():
    return corpora.load("stdlib")


@pytest.mark.parametrize("name", sorted(corpora.CORPORA))
def test_every_corpus_is_whole(name):
    corpus = corpora.load(name)
    assert corpus.name == name
    assert len(corpus.texts) == len(corpus.labels) == len(set(corpus.texts))
    assert all(text.strip() for text in corpus.texts)
    assert set(corpus.labels) == set(range(len(corpus.label_names)))
    assert corpus.labels.dtype == np.int64
    assert max(map(len, corpus.texts)) < 4 * stdlib_text.ROW
    assert corpus.fingerprint == corpora.load(name).fingerprint
    assert corpus.fingerprint == corpora.fingerprint(
        corpus.label_names, corpus.labels, corpus.texts, corpus.answers
    )


def test_stdlib_has_every_package_with_enough_text(stdlib):
    assert stdlib.label_names == tuple(sorted(stdlib_text.PACKAGES))
    assert np.bincount(stdlib.labels).min() > 40
    first = stdlib.texts[
        int(np.flatnonzero(stdlib.labels == stdlib.label_names.index("asyncio"))[0])
    ]
    assert "asyncio" in first


def test_modules_share_no_row_and_no_long_paragraph_with_the_others(stdlib):
    modules, topics = corpora.load("modules"), corpora.load("topics")
    others = stdlib.texts + topics.texts
    assert not set(modules.texts) & set(others)
    long = {
        p.strip()
        for text in others
        for p in stdlib_text.paragraphs(text)
        if len(p) > stdlib_text.LONG
    }
    assert not long & {p.strip() for text in modules.texts for p in stdlib_text.paragraphs(text)}


def test_topics_keep_a_shared_paragraph_once():
    topics = corpora.load("topics")
    parts = [
        p.strip() for text in topics.texts for p in stdlib_text.paragraphs(text) if len(p) > 400
    ]
    assert len(parts) == len(set(parts))
    assert 5 <= len(topics.label_names) <= 8
    assert np.bincount(topics.labels).min() >= 10


@cases(
    ("topic", "group"),
    [
        ("for", "statements"),
        ("t-strings", "strings"),
        ("typesnew", "built-in types"),
        ("brand-new", "other"),
    ],
)
def test_topics_of_other_pythons_find_a_group(topic, group):
    assert stdlib_text.group(topic) == group


@pytest.mark.parametrize(("name", "seed"), [("stdlib", 0), ("stdlib", 1), ("topics", 0)])
def test_hardly_a_test_window_begins_as_training_text_does(name, seed):
    """Without `unlike`, 7, 8 and 1 of 32 windows began with 33 bytes of training text."""
    corpus = corpora.load(name)
    parts = shards.split(corpus.labels, 8, seed=seed)
    data = shards.build(corpus, parts, tokens.tokenizer(), 128)
    streams = [stream.numpy().astype("<u2").tobytes() for stream in data.train]
    for length, most in ((33, 3), (stdlib_text.RUN, 0)):
        starts = shards.windows(data.test, 128, 32)[:, :length].numpy().astype("<u2")
        assert sum(any(row.tobytes() in s for s in streams) for row in starts) <= most


def test_rows_that_repeat_a_stretch_of_an_earlier_one_go():
    licence = "Licensed to nobody in particular, for any use, and without a warranty, ever"
    rows = [
        (f"{licence}\n\nimport a", "x"),
        (f"def f():\n    # {licence}", "x"),  # not the start of a line: it stays
        (f"import b\n    {licence}", "y"),
        ("import a", "y"),
        (licence[: stdlib_text.RUN - 1], "y"),
    ]
    assert stdlib_text.unlike(rows) == [row for i, row in enumerate(rows) if i != 2]
    assert stdlib_text.unlike([("a\na", "x"), (licence * 2, "x")]) != []


def test_cut_keeps_all_lines_in_order_and_within_the_size():
    text = "\n\n".join(
        f"def f{i}():\n" + "\n".join(f"    line {i} {j}" for j in range(i)) for i in range(1, 60)
    )
    rows = stdlib_text.cut(stdlib_text.paragraphs(text), 300)
    assert [line for row in rows for line in row.split("\n") if line] == [
        line for line in text.split("\n") if line
    ]
    assert max(map(len, rows)) <= 300
    assert stdlib_text.cut(["x" * 50, "y"], 10) == ["x" * 50, "y"]  # one long line stays whole
    assert stdlib_text.cut([]) == []


def test_a_python_without_sources_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(stdlib_text, "_library", lambda: tmp_path)
    with pytest.raises(BadInput, match="needs the sources of asyncio"):
        list(stdlib_text.stdlib())
    with pytest.raises(BadInput, match=r"'modules' needs the \.py files"):
        list(stdlib_text.modules())


def test_a_package_is_read_without_its_tests(monkeypatch, tmp_path):
    for name in ("pack/b.py", "pack/a/c.py", "pack/test/t.py", "pack/a/tests/t.py", "other/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n")
    monkeypatch.setattr(stdlib_text, "_library", lambda: tmp_path)
    monkeypatch.setattr(stdlib_text, "PACKAGES", ("pack",))
    assert stdlib_text.stdlib() == [("# pack/a/c.py", "pack"), ("# pack/b.py", "pack")]


def test_labels_and_max_rows(stdlib):
    two = corpora.load("stdlib", labels=["xml", "asyncio"])
    assert two.label_names == ("asyncio", "xml")
    assert len(two.texts) == int(np.isin(stdlib.labels, [0, len(stdlib.label_names) - 1]).sum())
    few = corpora.load("stdlib", max_rows=50, seed=3)
    assert len(few.texts) == 50
    assert few.fingerprint == corpora.load("stdlib", max_rows=50, seed=3).fingerprint
    assert few.fingerprint != corpora.load("stdlib", max_rows=50, seed=4).fingerprint
    of = {text: stdlib.label_names[i] for text, i in zip(stdlib.texts, stdlib.labels, strict=True)}
    assert all(of[t] == few.label_names[i] for t, i in zip(few.texts, few.labels, strict=True))


@cases(
    ("name", "options", "says"),
    [
        (
            "stdlb",
            {},
            r"unknown corpus 'stdlb': did you mean 'stdlib'.*allowed: .*markov.*owner/name",
        ),
        ("ag_new", {}, "did you mean 'ag_news'"),
        ("no such thing", {}, "unknown corpus 'no such thing'"),
        ("", {}, "unknown corpus ''"),
        ("stdlib\n", {}, "unknown corpus"),
        ("glue/mnli:x", {}, "unknown corpus"),
        ("nowhere/file.csv", {}, r"no file 'nowhere/file.csv'.*\.jsonl"),
        ("./nothing", {}, "no file"),
        (
            "stdlib",
            {"labels": ["asyncio", "nope"]},
            r"labels = \['asyncio', 'nope'\].*one or more of asyncio, ",
        ),
        ("stdlib", {"labels": []}, r"labels = \[\]"),
        ("stdlib", {"max_rows": 0}, "max_rows = 0"),
        ("stdlib", {"split": "test"}, "embedded"),
        ("stdlib", {"text": "body"}, "embedded"),
        ("stdlib", {"seed": -1}, "seed = -1"),
    ],
)
def test_bad_arguments(name, options, says):
    with pytest.raises(BadInput, match=says):
        corpora.load(name, **options)


def test_the_fingerprint_sees_every_part():
    base = corpora.from_rows("x", [("ab", "p"), ("c", "q")])
    others = [
        [("a", "p"), ("bc", "q")],
        [("ab", "p"), ("c", "p")],
        [("c", "q"), ("ab", "p")],
        [("ab", "r"), ("c", "q")],
    ]
    assert (
        len({base.fingerprint, *(corpora.from_rows("x", rows).fingerprint for rows in others)}) == 5
    )
    answered = [
        [("ab", "p", "1"), ("c", "q", "2")],
        [("ab", "p", "2"), ("c", "q", "1")],
        [("ab", "p", "12"), ("c", "q", "2")],
    ]
    assert (
        len({base.fingerprint, *(corpora.from_rows("x", rows).fingerprint for rows in answered)})
        == 4
    )


def test_answers_stay_with_their_rows():
    rows = [
        ("one", "p", " 1 \n"),
        ("two", "q", "2"),
        ("one", "q", "9"),
        ("three", "p", " "),
        (" ", "p", "4"),
        ("five", "p", "5"),
    ]
    corpus = corpora.from_rows("x", rows)
    assert (corpus.texts, corpus.answers) == (("one", "two", "five"), ("1", "2", "5"))
    assert corpus.notes == (
        "1 repeated rows dropped",
        "2 empty rows dropped",
        "1 of the repeated rows had another label",
    )
    part = corpora.subset(corpus, np.array([0, 2]))
    assert (part.texts, part.answers, part.label_names) == (("one", "five"), ("1", "5"), ("p",))
    assert part.fingerprint == corpora.fingerprint(
        part.label_names, part.labels, part.texts, part.answers
    )
    assert corpora.from_rows("x", [("one", "p")]).answers is None
    assert corpora.subset(corpora.from_rows("x", [("one", "p")]), np.array([0])).answers is None


# the Markov source


def test_two_states_by_hand():
    a, b = 0.1, 0.4  # leaves state 0, leaves state 1: pi = (b, a) / (a + b)
    chain = np.array([[1 - a, a], [b, 1 - b]])
    np.testing.assert_allclose(markov.stationary(chain), [0.8, 0.2], atol=ROUNDING)

    def h(p):
        return -p * np.log(p) - (1 - p) * np.log(1 - p)

    assert markov.entropy_rate(chain) == pytest.approx(0.8 * h(a) + 0.2 * h(b), abs=ROUNDING)
    assert markov.entropy_rate(np.full((4, 4), 0.25)) == pytest.approx(np.log(4), abs=ROUNDING)
    assert markov.entropy_rate(np.array([[0.0, 1.0], [1.0, 0.0]])) == 0.0


def test_a_long_sample_has_the_rate():
    corpus = corpora.from_chains(sources=2, rows=100, length=2000, symbols=5, seed=7)
    for label in range(2):
        pairs = np.zeros((128, 128))
        for text in np.array(corpus.texts, dtype=object)[corpus.labels == label]:
            codes = np.frombuffer(text.encode(), np.uint8)
            np.add.at(pairs, (codes[:-1], codes[1:]), 1)
        joint = pairs / pairs.sum()
        given = joint / np.maximum(joint.sum(1, keepdims=True), 1e-300)
        empirical = -(joint * np.log(np.where(joint > 0, given, 1.0))).sum()
        assert empirical == pytest.approx(corpus.entropy[label], abs=0.01)


def test_chains_differ_by_label_and_follow_the_seed():
    one, again, other = (corpora.from_chains(rows=3, length=50, seed=s) for s in (1, 1, 2))
    assert one.texts == again.texts
    assert one.fingerprint != other.fingerprint
    assert len(set(np.round(one.entropy, 6))) == 8
    kept = corpora.subset(one, np.flatnonzero(np.isin(one.labels, [3, 5])))
    assert kept.label_names == ("chain 3", "chain 5")
    np.testing.assert_array_equal(kept.entropy, one.entropy[[3, 5]])
    many = corpora.from_chains(sources=12, rows=1, length=30)
    assert many.label_names[2] == "chain 02"


@cases(
    ("options", "says"),
    [
        ({"sources": 0}, "sources = 0"),
        ({"symbols": 1}, "symbols = 1"),
        ({"symbols": 1000}, "symbols = 1000"),
        ({"concentration": 0.0}, r"concentration = 0\.0"),
        ({"concentration": float("nan")}, "concentration = nan"),
        ({"rows": 0}, "rows = 0"),
        ({"length": 0}, "length = 0"),
    ],
)
def test_bad_chains(options, says):
    with pytest.raises(BadInput, match=says):
        corpora.from_chains(**options)


def test_a_matrix_that_is_no_chain():
    with pytest.raises(BadInput, match="rows that sum to 1"):
        markov.entropy_rate(np.array([[0.5, 0.6], [0.5, 0.5]]))
    with pytest.raises(BadInput, match="square"):
        markov.stationary(np.ones((2, 3)))


# local files

ROWS = [
    {"text": "one row", "label": "a"},
    {"text": "another", "label": "b"},
    {"text": "one row", "label": "a"},
]


def _write(path, rows):
    if path.suffix == ".csv":
        path.write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".json", ".parquet", ".CSV"])
def test_a_file_is_read_guessed_and_leaves_nothing(ending, tmp_path, monkeypatch, capfd):
    import datasets  # noqa: F401  (so that its own folders are there)

    monkeypatch.chdir(tmp_path)
    before = sorted(Path(os.environ["HF_HOME"]).rglob("*"))
    path = _write(tmp_path / f"data{ending.lower()}", ROWS)
    path = path.rename(tmp_path / f"data{ending}")
    corpus = corpora.load(path.name)
    assert corpus.texts == ("one row", "another")
    assert corpus.label_names == ("a", "b")
    assert corpus.notes == (
        "text column text (guessed)",
        "label column label (guessed)",
        "one row: text 'one row', label 'a'",
        "1 repeated rows dropped",
    )
    assert os.listdir(tmp_path) == [path.name]
    assert sorted(Path(os.environ["HF_HOME"]).rglob("*")) == before
    assert capfd.readouterr() == ("", "")


def test_txt_rows_are_paragraphs(tmp_path):
    path = tmp_path / "poem.txt"
    path.write_bytes("eins\r\nzwei\r\n\r\n  \r\ndrei é\r\n\r\neins\r\nzwei\r\n".encode())
    corpus = corpora.load(path)
    assert corpus.texts == ("eins\nzwei", "drei é")
    assert corpus.label_names == ("all",)
    assert "1 repeated rows dropped" in corpus.notes


def test_named_joined_and_missing_columns(tmp_path):
    rows = [
        {
            "instruction": "do",
            "input": "",
            "output": "done",
            "text": "whole",
            "kind": 1,
            "score": 0.5,
        }
    ]
    path = _write(
        tmp_path / "x.jsonl",
        [*rows, {**rows[0], "output": "", "instruction": "undo", "kind": None}],
    )
    joined = corpora.load(path)
    assert joined.texts == ("do\ndone", "undo")
    assert joined.notes[:2] == (
        "text column instruction + input + output (guessed)",
        "no label column: one label 'all'",
    )
    named = corpora.load(path, text=["text", "instruction"], label="kind")
    assert named.texts == ("whole\ndo", "whole\nundo")
    assert set(named.label_names) == {"unlabelled", named.label_names[0]}
    for options, says in (
        ({"text": "nope"}, "column = 'nope'.*one of instruction, input"),
        ({"label": "nope"}, "column = 'nope'"),
        (
            {"text": "score"},
            "text column = 'score'.*a column of strings .instruction.* it holds float64",
        ),
        ({"split": "test"}, "a local file has no splits"),
    ):
        with pytest.raises(BadInput, match=says):
            corpora.load(path, **options)


def test_a_column_of_answers(tmp_path):
    rows = [
        {
            "instruction": f"do {i}",
            "input": "it" if i else "",
            "output": f"done {i}",
            "target": i % 2,
        }
        for i in range(3)
    ]
    path = _write(
        tmp_path / "alpaca.jsonl", [*rows, {**rows[0], "instruction": "nothing", "output": ""}]
    )
    guessed = corpora.load(path, answer="")
    assert guessed.texts == ("do 0", "do 1\nit", "do 2\nit")
    assert guessed.answers == ("done 0", "done 1", "done 2")
    assert guessed.notes == (
        "text column instruction + input (guessed)",
        "label column target (guessed)",
        "answer column output (guessed)",
        "one row: text 'do 0', label '0', answer 'done 0'",
        "1 empty rows dropped",
    )
    assert corpora.load(path).answers is None  # not asked for: it is a part of the text
    assert corpora.load(path).texts[0] == "do 0\ndone 0"
    named = corpora.load(path, text="input", answer="instruction")
    assert named.texts == ("it",)
    assert named.answers == ("do 1",)
    assert "answer column instruction" in named.notes
    for options, says in (
        (
            {"answer": "nope"},
            "column = 'nope' cannot be used: it must be one of instruction, input, output",
        ),
        (
            {"answer": "target"},
            "answer column = 'target' cannot be used: it must be a column of strings",
        ),
        (
            {"answer": "output", "text": ["input", "output"]},
            "another column than the text's",
        ),
    ):
        with pytest.raises(BadInput, match=says):
            corpora.load(path, **options)
    two = _write(tmp_path / "two.jsonl", [{"text": "b", "target": "c", "note": "d"}])
    plain = corpora.load(two, answer="")  # "target" would be a label otherwise
    assert (plain.texts, plain.answers, plain.label_names) == (("b",), ("c",), ("all",))
    last = corpora.load(two, answer="text")  # a column with a label's name is never the text
    assert (last.texts, last.label_names) == (("d",), ("c",))
    with pytest.raises(
        BadInput,
        match=r"no column of answers: none of output, .*name the column, one of text, label",
    ):
        corpora.load(_write(tmp_path / "plain.csv", ROWS), answer="")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(
        BadInput, match=r"answer = '' cannot be used: it must be left out: rows of a \.txt"
    ):
        corpora.load(tmp_path / "a.txt", answer="")
    assert corpora.load("instructions", answer="").answers is not None  # it brings its own
    with pytest.raises(BadInput, match="is embedded and has its own"):
        corpora.load("instructions", answer="output")


def test_a_column_of_too_many_values_or_of_floats_is_no_label(tmp_path):
    many = [{"text": f"t{i}", "label": f"l{i}", "topic": i % 2, "class": i / 2} for i in range(150)]
    corpus = corpora.load(_write(tmp_path / "many.jsonl", many))
    assert corpus.label_names == ("0", "1")
    assert "label column topic (guessed)" in corpus.notes


def test_class_names_of_a_dataset_and_missing_labels():
    import datasets

    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    table = datasets.Dataset.from_dict(
        {"sentence": ["a", "b", "c"], "label": [1, 0, -1]}, features=features
    )
    pairs, notes = columns.rows(table, None, None)
    assert list(pairs) == [("a", "yes"), ("b", "no"), ("c", "unlabelled")]
    assert notes[:2] == ["text column sentence (guessed)", "label column label (guessed)"]


@cases(
    ("name", "raw", "says"),
    [
        ("a.txt", b"", "is empty"),
        ("a.csv", b"  \n\n ", "is empty"),
        ("a.txt", b"caf\xe9 au lait", r"not UTF-8 text \(byte 0xe9 at offset 3\)"),
        ("a.jsonl", b'{"text": "\xff"}', "byte 0xff at offset 10"),
        ("a.xml", b"<a/>", r"ending '\.xml'.*\.parquet"),
        ("a", b"text", "with the ending ''"),
        ("a.jsonl", b"{not json", "cannot be read: "),
        ("a.parquet", b"PAR1 broken", "cannot be read: "),
        ("a.csv", b"text,label\n,a\n ,b\n", "no text: 2 rows given, all of them empty"),
        ("a.csv", b"x,y\n1,2\n", "no column holds strings"),
    ],
)
def test_bad_files(name, raw, says, tmp_path, capfd):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(BadInput, match=says) as caught:
        corpora.load(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_folder_is_no_corpus(tmp_path):
    with pytest.raises(BadInput, match="is a folder"):
        corpora.load(str(tmp_path))


def test_without_the_package_datasets(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "a.csv").write_text("text,label\nwords,a\n")
    with pytest.raises(BadInput, match="pip install datasets"):
        corpora.load(tmp_path / "a.csv")
    assert corpora.load("stdlib").texts


# the hub


@cases(
    ("name", "means"),
    [
        ("ag_news", ("fancyzhx/ag_news", None)),
        ("tatsu-lab/alpaca", ("tatsu-lab/alpaca", None)),
        ("glue/mnli", ("nyu-mll/glue", "mnli")),
        ("glue:mnli", ("nyu-mll/glue", "mnli")),
        ("nyu-mll/glue:mnli", ("nyu-mll/glue", "mnli")),
        ("word", None),
        ("a/b/c", None),
        ("../x", None),
        ("a b/c", None),
        ("owner/", None),
        ("ünïcode/name", ("ünïcode/name", None)),
    ],
)
def test_hub_names(name, means):
    assert tables.dataset_name(name) == means


@contextmanager
def _listening(answers):
    """A host that accepts: one that answers with this status, or one that keeps silent (None)."""
    if answers is None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        return

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(answers)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def online(monkeypatch, tmp_path):
    """As if no offline switch were set; the cache is an empty folder."""
    for name in (
        "HF_HUB_OFFLINE",
        "HF_HUB_CACHE",
        "HF_DATASETS_CACHE",
        "http_proxy",
        "HTTP_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("answers", "reached"), [(200, True), (404, True), (403, False), (502, False), (None, False)]
)
def test_the_probe(online, monkeypatch, answers, reached):
    with _listening(answers) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        assert (
            hub.reach_hub(0.5 if answers is None else 60.0) is reached
        )  # a busy machine answers late


def test_the_offline_switch_spares_the_probe(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(hub, "_answers", lambda seconds: pytest.fail("probed"))
    assert hub.reach_hub() is False


def test_a_name_server_that_hangs_is_left_behind(online, monkeypatch):
    let_go = threading.Event()
    monkeypatch.setattr(hub, "_answers", lambda seconds: let_go.wait())
    assert hub.reach_hub(0.1) is False
    let_go.set()


@pytest.mark.parametrize("endpoint", ["closed", "silent", "nonsense"])
def test_no_network_is_one_line_and_no_import(online, monkeypatch, endpoint, capfd):
    real = hub.reach_hub
    monkeypatch.setattr(hub, "reach_hub", lambda seconds: real(0.3))
    monkeypatch.setattr(
        tables,
        "quiet",
        lambda: pytest.fail("datasets is imported only when there is something to load"),
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if endpoint == "closed":
            server.close()
        monkeypatch.setenv(
            "HF_ENDPOINT", "not a url" if endpoint == "nonsense" else f"http://127.0.0.1:{port}"
        )
        with pytest.raises(
            BadInput, match="connect to the network, or give a local file or an"
        ) as caught:
            corpora.load("ag_news")
    assert "\n" not in str(caught.value)
    assert "fancyzhx/ag_news" in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_what_is_cached_may_load_and_the_libraries_stay_offline_meanwhile(online, monkeypatch):
    import datasets
    import huggingface_hub

    (online / "hub" / "datasets--owner--name").mkdir(parents=True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "reach_hub", lambda seconds: False)
    with hub.hub_or_offline("dataset", "owner/name") as reached:
        assert reached is False
        assert huggingface_hub.is_offline_mode()
        assert datasets.config.HF_HUB_OFFLINE
        assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert not huggingface_hub.is_offline_mode()
    assert "HF_HUB_OFFLINE" not in os.environ
    with pytest.raises(
        BadInput, match="dataset 'owner/name', split 'train' cannot be read: "
    ) as caught:
        corpora.load("owner/name")  # the cache turns out to be empty
    assert "\n" not in str(caught.value)


def test_a_hub_dataset_goes_the_same_way(monkeypatch):
    import datasets

    asked = []
    table = datasets.Dataset.from_dict(
        {"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [0, 1], "idx": [5, 6]}
    )
    monkeypatch.setattr(hub, "reach_hub", lambda seconds: True)
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *args, **options: asked.append((args, options)) or table
    )
    corpus = corpora.load("glue/mnli", split="train[:2]")
    assert asked == [(("nyu-mll/glue", "mnli"), {"split": "train[:2]", "revision": None})]
    assert corpus.texts == ("a\nc", "b\nd")
    assert corpus.label_names == ("0", "1")
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: _raise(args))
    with pytest.raises(
        BadInput, match=r"dataset 'glue/mnli', split 'dev' cannot be read: Unknown split"
    ) as caught:
        corpora.load("glue/mnli", split="dev")
    assert "\n" not in str(caught.value)


def _raise(args):
    raise ValueError(f'Unknown split "dev" of {args}.\nmany\nlines')


def test_a_model_that_is_nowhere(online, monkeypatch):
    monkeypatch.setattr(hub, "reach_hub", lambda seconds: False)
    with pytest.raises(
        BadInput, match=r"model 'a/b' is not in the cache.*local path or an embedded preset"
    ):
        tokens.tokenizer("a/b")
    with pytest.raises(BadInput, match="kind = 'space'"), hub.hub_or_offline("space", "a/b"):
        pass


# tokens


def test_bytes_are_byt5s():
    which = tokens.tokenizer("bytes")
    texts = ["plain", "é ü 汉字 🙂\t\n", "", "\x00\x7f", " lead and trail "]
    ours = tokens.tokenize(texts, which)
    theirs = which(texts, add_special_tokens=False)["input_ids"]
    assert [row.tolist() for row in ours] == theirs
    assert len(which) == 259
    assert [which.decode(row) for row in ours[:1]] == ["plain"]
    assert tokens.tokenize(["a</s>"], which)[0].tolist() == [
        100,
        63,
        50,
        118,
        65,
    ]  # text never makes an end token
    assert tokens.tokenize(["\ud800"], which)[0].tolist() == [
        66
    ]  # a lone surrogate is a question mark


def test_stream_closes_each_row():
    joined = tokens.stream([np.array([5, 6]), np.array([], dtype=np.int64), np.array([7])], 1)
    assert joined.tolist() == [5, 6, 1, 1, 7, 1]
    assert joined.dtype == torch.int64
    assert tokens.stream([], 1).shape == (0,)


def test_any_tokenizer_from_a_folder(tmp_path):
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    table = {"<eos>": 0, "<unk>": 1, "a": 2, "b": 3}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(table, unk_token="<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(tmp_path)
    which = tokens.tokenizer(str(tmp_path))
    assert [row.tolist() for row in tokens.tokenize(["a b", "c"], which)] == [[2, 3], [1]]
    assert tokens.end_of_text(which) == 0
    which.eos_token = None
    with pytest.raises(BadInput, match="no end-of-text token"):
        tokens.end_of_text(which)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="cannot be read") as caught:
        tokens.tokenizer(str(tmp_path / "empty"))
    assert "\n" not in str(caught.value)
