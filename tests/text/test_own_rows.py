"""Rows in memory against a file with the same rows: the same texts, labels and fingerprint."""

import json
import sys

import datasets
import numpy as np
import pandas as pd
import pytest

from deca_lab import register
from deca_lab.errors import BadInput
from deca_lab.text import corpora
from deca_lab.text.corpora import CORPORA, corpus_of, from_rows, load

ROWS = [
    {"text": "one row", "label": "a"},
    {"text": "another", "label": "b"},
    {"text": "one row", "label": "a"},
    {"text": " ", "label": "b"},
    {"text": "last", "label": None},
]


def as_file(tmp_path, rows, name="rows.jsonl", **options):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load(path, **options)


def same(ours, theirs, notes=True):
    """Compare two corpora in all but their names."""
    assert ours.texts == theirs.texts
    assert ours.label_names == theirs.label_names
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    assert ours.answers == theirs.answers
    assert ours.fingerprint == theirs.fingerprint
    if notes:
        assert ours.notes == theirs.notes


FORMS = {
    "dataset": datasets.Dataset.from_list,
    "frame": pd.DataFrame,
    "frame with an odd index": lambda rows: pd.DataFrame(rows, index=[7, 7, 3, 1, 0]),
    "dicts": list,
    "dicts without empty keys": lambda rows: [_filled(row) for row in rows],
}


def _filled(row):
    return {key: value for key, value in row.items() if value is not None}


@pytest.mark.parametrize("form", FORMS)
def test_tables_are_read_as_files_are(form, tmp_path):
    given = FORMS[form](ROWS)
    same(corpus_of(given), as_file(tmp_path, ROWS))
    same(corpus_of(given, labels=["b"]), as_file(tmp_path, ROWS, labels=["b"]))
    one = as_file(tmp_path, ROWS, max_rows=2, seed=3)
    same(corpus_of(given, max_rows=2, seed=3), one)
    assert len(one.texts) == 2


@pytest.mark.parametrize("form", ["dataset", "frame", "dicts"])
@pytest.mark.parametrize(
    "options", [{}, {"answer": ""}, {"answer": "output", "text": "instruction"}, {"label": "score"}]
)
def test_columns_are_guessed_and_named_as_in_files(form, options, tmp_path):
    rows = [
        {
            "instruction": f"do {i}",
            "input": "" if i else "it",
            "output": f"done {i}",
            "target": i % 2,
            "score": i,
        }
        for i in range(4)
    ]
    same(corpus_of(FORMS[form](rows), **options), as_file(tmp_path, rows, **options))


def test_texts_and_tuples(tmp_path):
    texts = [row["text"] for row in ROWS]
    same(corpus_of(texts), as_file(tmp_path, [{"text": text} for text in texts]), notes=False)
    assert corpus_of(texts).label_names == ("all",)
    pairs = [(row["text"], row["label"]) for row in ROWS]
    same(corpus_of(pairs), as_file(tmp_path, ROWS), notes=False)
    triples = [(f"do {i}", i % 2, f"done {i}") for i in range(4)]
    rows = [dict(zip(("text", "label", "answer"), triple, strict=True)) for triple in triples]
    by_file = as_file(tmp_path, rows, text="text", answer="answer")
    same(corpus_of(triples), by_file, notes=False)
    assert corpus_of(triples).answers[3] == "done 3"
    same(corpus_of(triples, answer=""), corpus_of(triples))  # they bring it along


def test_a_text_keeps_its_blank_lines_where_a_file_of_text_is_cut():
    assert corpus_of(["one\n\ntwo"]).texts == ("one\n\ntwo",)


def test_a_corpus_stays_what_it_is_and_can_be_cut():
    whole = from_rows("mine", [("a", "p"), ("b", "q"), ("c", "q")])
    assert corpus_of(whole) is whole
    assert corpus_of(whole, labels="q").texts == ("b", "c")
    assert corpus_of(load("markov")).entropy is not None


def test_names_and_content():
    assert corpus_of(["x"]).name == "own rows"
    assert corpus_of(["x"], name="mine").name == "mine"
    assert corpus_of(["x"], name="mine").fingerprint == corpus_of(["x"]).fingerprint
    assert corpus_of(["x"]).fingerprint != corpus_of(["y"]).fingerprint
    assert corpus_of(["x", "y"]).fingerprint != corpus_of([("x", "a"), ("y", "b")]).fingerprint


def test_class_names_categories_and_chosen_rows_of_a_dataset():
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    table = datasets.Dataset.from_dict(
        {"sentence": ["a", "b", "c"], "label": [1, 0, 1]}, features=features
    )
    same(corpus_of(table), from_rows("x", [("a", "yes"), ("b", "no"), ("c", "yes")]), notes=False)
    some = table.shuffle(seed=1).select([0, 1]).with_format("torch")
    rows = zip(some.with_format(None)["sentence"], some.with_format(None)["label"], strict=True)
    named = [(text, ("no", "yes")[label]) for text, label in rows]
    same(corpus_of(some), from_rows("x", named), notes=False)
    frame = pd.DataFrame({"text": ["a", "b", None], "label": pd.Categorical(["x", "y", "x"])})
    same(corpus_of(frame), from_rows("x", [("a", "x"), ("b", "y")]), notes=False)


def test_an_index_with_a_name_is_a_column_and_the_likeliest_column_is_the_text():
    frame = pd.DataFrame({"body": ["words", "more"], "topic": ["a", "b"], "nr": [3, 4]})
    for index in ("topic", ["topic", "nr"], ["nr"]):
        same(corpus_of(frame.set_index(index)), corpus_of(frame))
    unnamed = frame.set_index("topic").rename_axis(None)
    assert corpus_of(unnamed).label_names == ("all",)
    with pytest.raises(BadInput, match=r"columns = \['body', 'body', .* each of them once"):
        corpus_of(frame.set_index("body", drop=False))
    assert corpus_of([{"title": "t", "body": "words"}]).texts == ("words",)


def test_a_transform_that_reading_the_columns_would_not_apply_is_refused():
    table = datasets.Dataset.from_list(ROWS)
    with pytest.raises(BadInput, match=r"a Dataset with a transform .* data.map"):
        corpus_of(table.with_transform(lambda batch: batch))


def test_chosen_rows_are_read_without_a_bar(capfd):
    some = datasets.Dataset.from_list(ROWS).select([3, 1, 2])  # out of order
    capfd.readouterr()
    corpus_of(some)
    assert capfd.readouterr() == ("", "")


def test_nothing_that_was_given_is_changed():
    frame = pd.DataFrame({"text": ["a"], "label": pd.Categorical(["x"])})
    before = frame.copy()
    rows = [dict(row) for row in ROWS]
    corpus_of(frame)
    corpus_of(rows)
    pd.testing.assert_frame_equal(frame, before)
    assert rows == ROWS


TABLE = datasets.Dataset.from_list(ROWS)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            None,
            r"dataset = None cannot be used: it must be a datasets\.Dataset, a pandas DataFrame",
        ),
        (7, "dataset = 7 cannot"),
        (np.arange(3), r"dataset = array\("),
        ([], r"dataset = \[\] cannot"),
        ((), r"dataset = \(\) cannot"),
        ("stdlib", "dataset = 'stdlib' .*a name or a path is the corpus of a RunConfig"),
        (iter(["a"]), "dataset = <list_iterator"),
        ({"text": ["a"]}, r"dataset = \{'text'"),
        (TABLE.to_iterable_dataset(), r"an IterableDataset cannot .*list\(data\.take\(1000\)\)"),
        (
            datasets.DatasetDict(train=TABLE, test=TABLE),
            "a DatasetDict of train, test cannot .*one of",
        ),
        (["a", ("b", "c")], r"a list whose row 1 is \('b', 'c'\), and row 0 is a str cannot"),
        (["a", None], "a list whose row 1 is None, and row 0 is a str"),
        ([{"text": "a"}, "b"], r"a list whose row 0 is \{'text': 'a'\} cannot"),
        ([("a", "p"), ("b", "p", "c")], "a list whose row 1 is"),
        ([("a", 0.5)], r"a list whose row 0 is \('a', 0\.5\) cannot"),
        ([("a",)], r"a list whose row 0 is \('a',\)"),
        ([1, 2], "a list whose row 0 is 1 cannot"),
        ([b"raw"], "a list whose row 0 is b'raw'"),
        (["", " \n"], "corpus 'own rows' has no text: 2 rows given, all of them empty"),
        ([{"text": ["nested"]}], "no column holds strings"),
        ([{3: "a"}], r"keys of the rows = \[3\] cannot be used: it must be strings"),
        ([{"text": "a"}, {"text": 3}], "a list of dicts cannot be read: "),
        (pd.DataFrame({0: ["a"]}), r"columns = \[0\] cannot be used"),
        (pd.DataFrame([["a", "b"]], columns=["text", "text"]), "strings, each of them once"),
        (pd.DataFrame({"text": ["a", 3]}), "a DataFrame cannot be read: "),
        (pd.DataFrame(), "no column holds strings"),
        (TABLE.select([]), "corpus 'own rows' has no text: 0 rows"),
    ],
)
def test_what_is_no_rows_is_one_line(data, words):
    with pytest.raises(BadInput, match=words) as caught:
        corpus_of(data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"text": "body"}, "text, label, answer = .* left out: there are no columns"),
        ({"label": "kind"}, "left out: there are no columns"),
        ({"answer": "reply"}, "left out: there are no columns"),
        ({"name": " "}, "name = ' ' cannot"),
        ({"max_rows": 0}, "max_rows = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"labels": ["nope"]}, r"labels = \['nope'\] .* one or more of all"),
    ],
)
def test_arguments_that_do_not_fit_rows(options, words):
    with pytest.raises(BadInput, match=words):
        corpus_of(["a"], **options)
    with pytest.raises(
        BadInput, match="column = 'nope' cannot be used: it must be one of text, label"
    ):
        corpus_of(ROWS, text="nope")


def test_without_the_package_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert corpus_of([("a", "b")]).texts == ("a",)
    with pytest.raises(BadInput, match="pip install datasets"):
        corpus_of(ROWS)


def test_a_registered_corpus_may_return_any_rows(monkeypatch):
    def letters(seed):
        """One letter a row."""
        return (
            None
            if seed == 9
            else [(letter, "vowel" if letter in "aeiou" else "other") for letter in "abcdefg"]
        )

    monkeypatch.setattr(corpora, "CORPORA", dict(CORPORA))
    register("corpus", "letters", letters)
    assert load("letters").label_names == ("other", "vowel")
    assert load("letters", labels="vowel").texts == ("a", "e")
    assert load("letters").name == "letters"
    whole = from_rows("another name", [("a", "b")])

    def cell(seed):
        """A corpus."""
        return whole

    register("corpus", "whole", cell)
    assert load("whole") == whole._replace(name="whole")
    with pytest.raises(BadInput, match="what corpus 'letters' returns: dataset = None cannot"):
        load("letters", seed=9)
    with pytest.raises(BadInput, match="'letters' is embedded and has its own"):
        load("letters", text="body")
