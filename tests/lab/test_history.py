"""A history as its reader meets it: a line, a table, pictures by name, a folder read back."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from command import SMALL

import deca_lab
from deca_lab import BadInput, RunConfig, pictures
from deca_lab.lab import glance, runs
from deca_lab.lab.history import TABLES, read_table
from deca_lab.pictures.of_losses import READINGS

HOSTILE = '<script>alert("x")</script>\n&'


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    knobs = {**SMALL, "inner_steps": 1, "task": "classify", "split": "iid", "eval_windows": 16}
    return runs.run(RunConfig(**knobs), tmp_path_factory.mktemp("history") / "first")


def test_a_table_is_read_to_the_last_bit():
    """With pandas 2's own parser, which is a digit quicker and a bit wrong, this number differs."""
    assert read_table("a\n0.004279667324659982\n")["a"].tolist() == [0.004279667324659982]


class Cells(HTMLParser):
    """The table's rows as (name, words), unescaped, and the tags that it has."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)
        self.rows = dict(zip(self.words[::2], self.words[1::2], strict=True))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag in ("th", "td"):
            self.words.append("")

    def handle_data(self, data):
        self.words[-1] += data


@pytest.mark.parametrize("folder", [None, b"run", ["run"], 3])
def test_what_is_no_folder_is_one_line(folder):
    with pytest.raises(BadInput, match=r"folder = .* that of a finished run"):
        deca_lab.load(folder)


def test_a_loaded_folder_is_the_history_of_the_run(done):
    again = deca_lab.load(done.folder)
    assert (again.config.seed, again.summary, again.folder) == (0, done.summary, done.folder)
    for name in TABLES:
        pd.testing.assert_frame_equal(
            getattr(again, name), getattr(done, name), check_dtype=False, check_column_type=False
        )
    assert (again.W == done.W).all()


def test_the_line_says_the_run(done):
    start, end = done.metrics["test_loss"].iloc[[0, -1]]
    steps = len(done.train)
    assert repr(done) == (
        f"History(deca, classify, 4 clients on ring, {steps} inner steps, "
        f"test loss {start:.4f} -> {end:.4f}, {done.folder})"
    )
    alone = replace(done, folder=None, summary={**done.summary, "clients": 1})
    assert "1 client on ring" in repr(alone)
    assert repr(alone).endswith(", in memory)")


def test_the_line_is_one_line_whatever_the_summary_holds(done):
    odd = {"method": "a\nb", "clients": None, "test_loss_start": "low", "test_loss_end": 1.0}
    assert repr(replace(done, summary=odd, folder=None)) == "History(a b, in memory)"
    assert repr(replace(done, summary={}, folder=Path("x"))) == "History(x)"


def test_the_table_shows_the_summary_and_every_score(done):
    cells = Cells(done._repr_html_())
    s = done.summary
    assert (
        cells.rows["test loss of the mean model"]
        == f"{s['test_loss_start']:.4f} -> {s['test_loss_end']:.4f}"
    )
    assert cells.rows["bytes sent by all clients"] == f"{s['bytes_sent']:,}"
    assert cells.rows["test accuracy"] == f"{s['scores']['test_accuracy']:.4g}"
    assert cells.rows["folder"] == str(done.folder)
    assert set(glance.FIGURES) < set(cells.rows)


def test_the_table_has_no_colours_links_or_scripts_of_its_own(done):
    page = done._repr_html_()
    assert set(Cells(page).tags) == {"table", "tbody", "tr", "th", "td"}
    assert not re.search(r"#[0-9a-f]{3}|rgb|background|https?:", page)


def test_texts_in_the_table_are_escaped(done):
    summary = {**done.summary, "method": HOSTILE, "scores": {HOSTILE: 1.0}}
    cells = Cells(replace(done, summary=summary, folder=Path(HOSTILE))._repr_html_())
    assert set(cells.tags) == {"table", "tbody", "tr", "th", "td"}
    assert (cells.rows["method"], cells.rows["folder"]) == (HOSTILE, HOSTILE)
    assert cells.rows[HOSTILE] == "1"


def test_the_table_leaves_out_what_a_summary_does_not_hold(done):
    assert set(Cells(replace(done, summary={"method": "deca"})._repr_html_()).rows) == {
        "method",
        "folder",
    }


@pytest.mark.parametrize("name", list(pictures.PICTURES))
def test_plot_draws_what_the_report_shows(name, done):
    assert pictures.png(done.plot(name)) == pictures.png(pictures.PICTURES[name].draw(done))


def test_an_unknown_picture_gets_a_hint_and_the_list(done):
    with pytest.raises(BadInput, match="unknown picture 'loses': did you mean 'losses'") as caught:
        done.plot("loses")
    assert all(name in str(caught.value) for name in pictures.PICTURES)
    with pytest.raises(BadInput, match="unknown picture 3"):
        done.plot(3)


@pytest.mark.parametrize("shards", [pd.DataFrame(), pd.DataFrame(index=range(4))])
def test_a_run_without_text_has_all_pictures_but_that_of_its_labels(shards, done):
    problem = replace(done, shards=shards, summary={**done.summary, "entropy_floor": None})
    problem.summary.pop("entropy_floor")
    with pytest.raises(
        BadInput, match="'heterogeneity' cannot be drawn: this run does not have labels of its rows"
    ):
        problem.plot("heterogeneity")
    for name in set(pictures.PICTURES) - {"heterogeneity"}:
        assert problem.plot(name).axes


@pytest.mark.parametrize("column", sorted(READINGS))
def test_a_run_without_a_reading_that_a_picture_shows_says_which(column, done):
    less = replace(done, metrics=done.metrics.drop(columns=column))
    with pytest.raises(
        BadInput, match=f"'losses' cannot be drawn: this run does not have {column}, as"
    ):
        less.plot("losses")
    assert less.plot("consensus").axes


def test_every_other_column_can_be_missing_in_the_picture_of_the_losses(done):
    read = {"step", "test_loss", *READINGS}
    assert replace(done, metrics=done.metrics[sorted(read)]).plot("losses").axes


class Formatter:
    """What IPython keeps of how a type is shown."""

    def __init__(self, **known):
        self.type_printers = known

    def for_type(self, kind, how):
        self.type_printers[kind] = how


def test_a_notebook_shows_the_figure_unless_it_has_its_own_way(done, monkeypatch):
    import IPython
    from matplotlib.figure import Figure

    formatter = Formatter()
    shell = SimpleNamespace(display_formatter=SimpleNamespace(formatters={"image/png": formatter}))
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    figure = done.plot("visits")
    assert formatter.type_printers[Figure](figure).startswith(b"\x89PNG")
    formatter.for_type(Figure, str)
    done.plot("visits")
    assert formatter.type_printers[Figure] is str
