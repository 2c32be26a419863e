"""People's files: which column is what, whether names stand on top, and what is refused in a line."""

import sys
from pathlib import Path

import datasets
import pandas as pd
import pytest
from cases import cases

from deca_lab.errors import BadInput
from deca_lab.lab import history
from deca_lab.lab.objects import Objects, accepted
from deca_lab.lab.sources import read_corpus
from deca_lab.runconfig import RunConfig
from deca_lab.text import delimited
from deca_lab.text.corpora import corpus_of, load

NEWS = [  # as AG News is published: class, title, description
    (str(1 + i % 4), f"Headline number {i} of the day", f"Body of story {i}, which is much longer.")
    for i in range(40)
]


def written(path, rows, separator=","):
    frame = pd.DataFrame(rows)
    frame.to_csv(path, sep=separator, index=False, header=False)
    return path


# which column is what


@pytest.mark.parametrize("label", [None, "label"])
@pytest.mark.parametrize("header", [("label", "title", "description"), ("class", "a", "b")])
def test_the_label_is_never_the_text_and_all_texts_are_joined(tmp_path, header, label):
    named = header[0] if label else None
    corpus = load(written(tmp_path / "a.csv", [header, *NEWS]), label=named)
    assert corpus.texts == tuple(f"{title}\n{body}" for _, title, body in NEWS)
    assert [corpus.label_names[i] for i in corpus.labels] == [row[0] for row in NEWS]
    assert corpus.notes == (
        f"text column {header[1]} + {header[2]} (guessed)",
        f"label column {header[0]}{'' if label else ' (guessed)'}",
        "one row: text 'Headline number 0 of the day Body of story 0, which is much longer.', "
        "label '1'",
    )


def test_several_text_columns_are_named_with_commas_or_as_a_list(tmp_path):
    rows = [{"a": "x", "b, c": "y", "d": "z", "label": "l"}, {"a": "p", "d": "q", "label": "l"}]
    for given in ("d, a", ["d", "a"], "d,a"):
        assert corpus_of(rows, text=given).texts == ("z\nx", "q\np")
    assert corpus_of(rows, text="b, c").texts == ("y",)  # a column of that very name
    path = written(tmp_path / "a.csv", [("a", "b", "label"), ("one", "two", "l")])
    config = RunConfig(corpus=str(path), text_column="b,a")
    assert read_corpus(config).texts == ("two\none",)
    assert read_corpus(config).notes[0] == "text column b + a"
    with pytest.raises(
        BadInput, match="label = 'a' cannot be used: it must be a column of its own"
    ):
        corpus_of(rows, text=["a", "d"], label="a")
    with pytest.raises(
        BadInput, match="label = 'd' cannot be used: it must be a column of its own"
    ):
        corpus_of(rows, text="a", label="d", answer="d")
    with pytest.raises(BadInput, match="column = 'nope' cannot be used: it must be one of a, b, c"):
        corpus_of(rows, text="a,nope")


LONG = "a description of many words, number {}"


@cases(
    ("made", "text", "label"),
    [
        ({"label": "l{0}", "headline": LONG, "more": LONG}, "headline + more", "label"),
        ({"id": "4f{0}aa", "headline": LONG, "tag": "t"}, "headline", None),
        ({"url": "http://some.where/a/long/address/{0}", "headline": LONG}, "headline", None),
        ({"title": "t{0}", "description": "d", "label": "x"}, "title + description", "label"),
        ({"topic": LONG}, "topic", None),  # the only strings
        ({"label": "a name of many words", "headline": LONG}, "headline", "label"),
        ({"label": LONG, "headline": "h{0}"}, "headline", "label"),
        ({"code": "x{0}=1;y=2;z=longer_than_twenty"}, "code", None),
        ({"number": "{0}", "words": "w"}, "words", None),
        ({"stars": "{0}.5", "label": "{0}.5", "text": "t"}, "text", None),
        ({"column_0": LONG, "column_1": "a"}, "column_0", "column_1"),
        ({"column_0": "{0}", "column_1": LONG}, "column_1", None),  # every value but once
        ({"Category": "x", "Message": LONG}, "Message", "Category"),
        ({"TITLE": "t{0}", "Description": "d", "Label": "x"}, "TITLE + Description", "Label"),
        ({"Text": LONG, "text": "t", "label": "{0},5"}, "text", None),  # its own spelling first
    ],
)
def test_guesses(made, text, label):
    rows = [{key: str(value).format(i) for key, value in made.items()} for i in range(9)]
    notes = corpus_of(rows).notes
    assert notes[0] == f"text column {text} (guessed)"
    assert notes[1] == (
        f"label column {label} (guessed)" if label else "no label column: one label 'all'"
    )


def test_a_label_of_too_many_values_is_named_and_taken_where_it_is_asked_for():
    rows = [{"text": f"line {i}", "label": f"speaker {i % 150}"} for i in range(300)]
    corpus = corpus_of(rows)
    assert corpus.label_names == ("all",)
    assert corpus.notes[2] == (
        "column label is not taken as the label: it has 150 different values, more than 100; "
        "naming it as the label column (--label-column label) takes it all the same"
    )
    assert len(corpus_of(rows, label="label").label_names) == 150
    lists = [{"text": f"line {i}", "label": [i], "topic": "ab"[i % 2]} for i in range(4)]
    assert corpus_of(lists).label_names == ("a", "b")
    assert corpus_of(lists).notes[2] == (
        "column label is not taken as the label: it holds lists; a label is a string or a number"
    )


@pytest.mark.parametrize("text", [b"bytes", 5, {"en": "words"}])
def test_a_label_is_not_the_text_where_the_text_holds_no_strings(text):
    with pytest.raises(BadInput, match=r"text = None .* it must be named: no column holds strings"):
        corpus_of([{"text": text, "label": "a"}, {"text": text, "label": "b"}])


def test_labels_that_are_written_in_several_ways_are_told():
    rows = [("one", "good"), ("two", " good "), ("three", "Good"), ("four", "  "), ("one", "bad")]
    corpus = corpus_of(rows)
    assert corpus.label_names == ("Good", "good", "unlabelled")
    assert corpus.labels.tolist() == [1, 1, 0, 2]
    assert corpus.notes == (
        "1 repeated rows dropped",
        "1 of the repeated rows had another label",
        "1 rows have no label: it is 'unlabelled'",
        "spaces around the label dropped in 2 rows",
        "labels that differ in case alone stay different: 'Good', 'good'",
    )


@pytest.mark.parametrize("knob", ["hub_split", "hub_revision"])
def test_rows_in_memory_read_no_knob_of_the_hub(knob):
    config = RunConfig(**{knob: "main"})
    with pytest.raises(BadInput, match=f"{knob} = .'main'. .* left out: dataset= does not read"):
        accepted(config, Objects(dataset=[("a", "b")]))


def test_nothing_guessed_shows_no_row():
    assert corpus_of([{"a": "x", "b": "y"}], text="a", label="b").notes == (
        "text column a",
        "label column b",
    )


# names on top, or a row


def table(*lines):
    rows = [line.split("|") for line in lines]
    return rows[0], [list(column) for column in zip(*rows[1:], strict=True)]


FILMS = ("a film|good", "no film|bad", "the film|good", "that one|bad")


@cases(
    ("lines", "names"),
    [
        (("text|label", *FILMS), True),
        (FILMS, False),  # good and bad recur
        (("review|good", *FILMS), False),
        (("text|label", *FILMS, "text|label"), True),  # files put one after another
        (("label|text", "3|a story", "4|another"), True),  # a word above numbers
        (("3|a story", "4|another", "3|a third"), False),
        (("0|1", "a story|x", "another|y"), True),  # pandas counts the columns
        (("|text|label", "0|a|b", "1|c|d"), True),  # pandas writes its index
        (("word|kind", "word|noun", "go|verb", "see|verb", "tree|noun"), True),
        (("A story that is longer than any name of a column is", "Another"), False),
        (("x" * 61 + "|p", "short|q"), False),
        (("Review text (English)|Sentiment", "fine|1", "bad|0"), True),
        (("How satisfied are you with all of it?|rating", "very|5", "not|1"), True),
        (("a\nb|p", "c|q"), False),
        (("2019|x", "2020|y"), False),
    ],
)
def test_a_first_line_of_names_is_told_from_a_row(lines, names):
    assert delimited.names_columns(*table(*lines)) is names


@pytest.mark.parametrize(("ending", "separator"), [(".csv", ","), (".tsv", "\t")])
def test_a_file_without_names_keeps_its_first_row(tmp_path, ending, separator):
    corpus = load(written(tmp_path / f"news{ending}", NEWS, separator))
    assert len(corpus.texts) == len(NEWS)
    assert corpus.texts[0] == f"{NEWS[0][1]}\n{NEWS[0][2]}"
    assert corpus.label_names == ("1", "2", "3", "4")
    assert corpus.notes[:3] == (
        "the first line looks like a row, not like names: columns are column_0 to column_2",
        "text column column_1 + column_2 (guessed)",
        "label column column_0 (guessed)",
    )
    named = load(tmp_path / f"news{ending}", text="column_2", label="column_0")
    assert named.texts[0] == NEWS[0][2]


def test_a_column_that_is_named_settles_that_names_are_on_top(tmp_path):
    path = written(tmp_path / "a.csv", [("2019", "2020"), ("good words", "a"), ("bad", "b")])
    assert load(path, text="2019", label="2020").label_names == ("a", "b")
    assert load(path).label_names == ("all",)


@pytest.mark.parametrize("cell", ["NA", "null", "nan", "None", "007", "1.0", "true", "#N/A", "1e5"])
def test_cells_stay_as_they_are_written(tmp_path, cell):
    path = written(tmp_path / "a.csv", [("text", "label"), (cell, "x"), ("words", cell)])
    corpus = load(path)
    assert corpus.texts == (cell, "words")
    assert set(corpus.label_names) == {"x", cell}


def test_an_empty_label_is_no_label(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\nwords,\nmore,a\n")
    assert load(path).label_names == ("a", "unlabelled")


def test_text_with_commas_quotes_and_line_ends(tmp_path):
    rows = [('say "a, b"', "x"), ("one\ntwo", "y"), ("é 汉字", "x")]
    path = tmp_path / "a.csv"
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(path, index=False, encoding="utf-8-sig")
    corpus = load(path)
    assert corpus.texts == tuple(text for text, _ in rows)


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_another_separator_that_parts_every_line_alike_is_taken_and_told(tmp_path, mark):
    rows = [("nr", "text"), *((i, f"he paid 1,50; or | {i}\ttwice") for i in range(120))]
    corpus = load(written(tmp_path / "a.csv", rows, mark))
    assert corpus.texts == tuple(text for _, text in rows[1:])
    assert corpus.notes[0] == f"cells are separated by {mark!r}"


LETTERS = "quotation marks do not pair: they are taken as letters"
SHORT = "1 rows have fewer cells than the first line: what they lack is empty (line 4)"


@cases(
    ("name", "content", "notes"),
    [
        ("a.csv", "sep=;\ntext;label\none, or so;a\ntwo, too;b\n", "cells are separated by ';'"),
        ("a.csv", 'text,label,\n"one, or so",a,\n"two, too",b,\n', ""),  # Excel's empty column
        ("a.csv", 'text,label\n"one, or so",a\n"two, too",b\nlost\n', SHORT),
        ("a.csv", 'text,label\n\n"one, or so",a\n  \n"two, too",b\n', ""),
        ("a.tsv", 'text,label\n"one, or so",a\n"two, too",b\n', "cells are separated by ','"),
        ("a.tsv", 'text\tlabel\n"one, or so\ta\ntwo, too\tb\n', LETTERS),
        ("a.tsv", 'text\tlabel\n"one, or so\ta\ntwo, too"\tb\n', LETTERS),
    ],
)
def test_what_spreadsheets_and_benchmarks_write_is_read_row_by_row(tmp_path, name, content, notes):
    (tmp_path / name).write_text(content)
    corpus = load(tmp_path / name)
    assert [text.strip('"') for text in corpus.texts[:2]] == ["one, or so", "two, too"]
    assert [corpus.label_names[i] for i in corpus.labels[:2]] == ["a", "b"]
    assert len(corpus.texts) == 2 + (notes == SHORT)
    assert not notes or corpus.notes[0] == notes


@cases(
    "lines",
    [
        ["text", "one; two", "three"],  # one line has a mark, another none
        ["text", "one; two", "three; four"],  # so a column's name stands above it
        ["one", "two", "three"],
        ["a, b; c", '"d", e; f', "g, h; i"],  # commas are there
    ],
)
def test_marks_in_prose_are_no_separators(lines):
    assert delimited.separator_of("\n".join(lines), ",") == ","


def test_a_cell_too_long_to_look_into_is_read_as_ever(tmp_path):
    (tmp_path / "a.csv").write_text("text\n" + "long " * 40_000)
    assert len(load(tmp_path / "a.csv").texts[0]) > 190_000


# what is refused


DEEP = "[" * 100_000 + "]" * 100_000


@cases(
    ("name", "content", "says"),
    [
        ("a.csv", ",".join(f"c{i}" for i in range(100_000)) + "\n1,2\n", "columns .*= 100000 can"),
        ("a.csv", "text,label\n", "file = .*column names with rows below, and this is its only"),
        ("a.csv", "text,text\na,b\nc,d\n", "columns = .* different names"),
        ("a.csv", "text,label\na,b,c\n", "cannot be read: .*[Ee]xpected 2 fields"),
        ("a.csv", 'text,label\n"a,b\n', "cannot be read: "),
        ("a.csv", 'text,label\n"a" he said,b\n', "line 2: .* doubles its own"),
        ("a.csv", 'text,label\n"a,b\n"c,d\n', "line 3: .* doubles its own"),
        ("a.csv", "text, all of it;label\na;b\nc;d\n", "fewer cells than the 2 of the first"),
        ("a.txt", "\0".join("words"), "holds a zero byte at offset 1, as UTF-16 does"),
        ("a.jsonl", '{"text": ' + DEEP + "}", "is nested 100,001 deep, and 64 is the most"),
        ("a.json", DEEP, "is nested 100,000 deep"),
        ("a.jsonl", '{"text": "[[", "a": "\\"' + "[" * 99 + '"}', ""),
        ("a.jsonl", '{"text": ["a"]}', "no column holds strings for it .text holds lists"),
        ("a.jsonl", '{"text": {"a": 1}}', "text holds objects"),
        ("a.jsonl", '{"data": {"text": "a"}, "label": "b"}', "data holds objects, label holds str"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    if not says:  # brackets in a text nest nothing
        assert load(tmp_path / name, text="text").texts == ("[[",)
        return
    with pytest.raises(BadInput, match=says) as caught:
        load(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@cases(
    ("begins", "kind"),
    [("words".encode("utf-16"), "UTF-16"), (b"\x1f\x8b", "gzip"), (b"PK\xff", "zip")],
)
def test_what_is_given_as_if_it_were_utf_8_is_named(tmp_path, begins, kind):
    (tmp_path / "a.csv").write_bytes(begins)
    with pytest.raises(BadInput, match=f"not UTF-8 text .*, as (a )?{kind}.* begins"):
        load(tmp_path / "a.csv")


@cases(
    ("options", "says"),
    [
        ({"answer": "answers"}, r"answer column = 'answers' .*\(text\), and it holds objects"),
        ({"answer": ""}, r"answer column = 'answer' .* and it holds lists"),
        ({"text": "answer"}, "text column = 'answer' .* and it holds lists"),
        ({"label": "answers"}, "label column = 'answers' .* and it holds objects"),
    ],
)
def test_nested_columns_are_named_with_their_type(options, says):
    rows = [{"text": "q", "answers": {"start": [1]}, "answer": ["yes"]}]
    with pytest.raises(BadInput, match=says):
        corpus_of(rows, **options)


def test_a_file_larger_than_the_memory_is_refused_in_one_line(tmp_path, monkeypatch):
    def exhausted(*args):
        raise MemoryError

    (tmp_path / "a.csv").write_text("text\nx\n")
    monkeypatch.setattr(Path, "read_bytes", exhausted)
    with pytest.raises(BadInput, match=r"a\.csv' cannot be read: it is larger than the memory"):
        load(tmp_path / "a.csv")


def test_a_deep_file_is_refused_before_its_reader_sees_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "a.json").write_text(DEEP)
    with pytest.raises(BadInput, match="is nested"):
        load(tmp_path / "a.json")


# folders and the hub

SOME = datasets.Dataset.from_list([{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(6)])


def test_what_save_to_disk_wrote_is_read(tmp_path):
    SOME.save_to_disk(tmp_path / "one")
    splits = datasets.DatasetDict(train=SOME, dev=SOME.select([5, 1]))
    splits.save_to_disk(tmp_path / "two")
    assert load(tmp_path / "one").texts == tuple(SOME["text"])
    assert load(str(tmp_path / "two"), label="label").label_names == ("a", "b")
    config = RunConfig(corpus=str(tmp_path / "two"), hub_split="dev")
    assert read_corpus(config).texts == ("row 5", "row 1")
    with pytest.raises(BadInput, match=r"unknown split of .*two' 'tran': did you mean 'train'"):
        load(tmp_path / "two", split="tran")
    with pytest.raises(BadInput, match=r"split = 'dev' .*the folder holds one Dataset"):
        load(tmp_path / "one", split="dev")
    with pytest.raises(BadInput, match="is a folder that save_to_disk did not write"):
        load(tmp_path)


@pytest.fixture
def hub(monkeypatch):
    """A hub that answers, and the calls that reach it."""
    asked = []
    monkeypatch.setattr("deca_lab.models.hub.reach_hub", lambda seconds: True)
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *names, **options: asked.append(options) or SOME
    )
    return asked


def test_a_revision_goes_to_the_hub_and_nowhere_else(hub, tmp_path):
    read_corpus(RunConfig(corpus="owner/name", hub_revision="v1.2"))
    read_corpus(RunConfig(corpus="owner/name"))
    assert [options["revision"] for options in hub] == ["v1.2", None]
    path = written(tmp_path / "a.csv", NEWS)
    with pytest.raises(BadInput, match=r"revision = 'v1' .*only datasets of the hub have one"):
        load(path, revision="v1")
    with pytest.raises(BadInput, match="'stdlib' is embedded and has its own"):
        load("stdlib", revision="v1")


@cases(
    ("words", "hinted"),
    [
        ("Dataset 'a/b' is a gated dataset on the Hub. You must be authenticated.", True),
        ("Dataset 'a/b' doesn't exist on the Hub or cannot be accessed.", True),
        ("401 Client Error.", True),
        ("Unknown split 'dev'.", False),
    ],
)
def test_a_gated_dataset_asks_for_a_token(hub, monkeypatch, words, hinted):
    def refuse(*names, **options):
        raise datasets.exceptions.DatasetNotFoundError(words)

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(BadInput, match="dataset 'a/b', split 'train' cannot be read: ") as caught:
        load("a/b")
    assert ("set HF_TOKEN or run `hf auth login`" in str(caught.value)) is hinted
    assert "\n" not in str(caught.value)


# labels in tables


def test_a_label_of_several_lines_is_read_back():
    """Python 3.11's csv does not quote a bare carriage return, so a table with one is another table."""
    labels = ["a\rb", "a\r\nc", "d\n", "\r"]
    names = corpus_of([(f"line {i}", label) for i, label in enumerate(labels)]).label_names
    assert names == ("a\nb", "a\nc", "d", "unlabelled")
    counts = pd.DataFrame([[1, 2, 3, 4]], columns=names).rename_axis("client")
    written = counts.to_csv(lineterminator="\n")
    pd.testing.assert_frame_equal(history._table(written, indexed=True), counts)


def test_a_label_that_is_called_client_keeps_its_name(tmp_path):
    counts = pd.DataFrame([[1, 2], [3, 4]], columns=["client", "NA"]).rename_axis("client")
    counts.to_csv(tmp_path / "shards.csv")
    read = history._table((tmp_path / "shards.csv").read_text(), indexed=True)
    pd.testing.assert_frame_equal(read, counts)
