"""Pictures and report: they show what the tables hold, for ordinary and for odd runs, and hide nothing from anyone."""

import html
import re
import shlex
from dataclasses import replace

import numpy as np
import pytest
from cases import quick
from command import SMALL

from deca_lab import pictures
from deca_lab.bounds.gossip_contraction import gossip_contraction
from deca_lab.cli import app
from deca_lab.lab import runs
from deca_lab.lab.glance import name_of
from deca_lab.mixing.topology import topology
from deca_lab.pictures import repeat, report
from deca_lab.pictures.jupyter import picture
from deca_lab.runconfig import RunConfig

ODD = {
    "usual": {},
    "one client": {"clients": 1, "topology": "complete"},
    "no mixing": {"method": "local"},
    "one block": {"method": "d-adam"},
    "lora": {"method": "dec-lora"},
    "server": {"method": "fedavg"},
    "frozen ends": {"ends": "frozen"},
    "many, in turn": {"clients": 24, "split": "iid", "topology": "random-matchings"},
    "not symmetric": {"topology": "one-peer-exponential"},
    "faults": {"clients": 4, "drop": 0.4, "stale": 0.5, "away": "1@0.5", "garbage": "2@0-0.5"},
    "short messages": {"compress": "top-k", "gamma": 0.5},
    "scores": {"task": "classify", "split": "iid", "clients": 2, "eval_windows": 32},
}


@pytest.fixture(scope="module")
def told():
    done = {}

    def once(name):
        if name not in done:
            done[name] = runs.run(RunConfig(**{**SMALL, "inner_steps": 2, **ODD[name]}))
        return done[name]

    return once


@pytest.mark.parametrize("name", quick(ODD))
def test_every_run_has_its_pictures_and_its_page(name, told, tmp_path):
    page = report.write(told(name), tmp_path)
    text = page.read_text()
    for key, row in pictures.PICTURES.items():
        assert (tmp_path / f"{key}.png").stat().st_size > 5000
        assert row.heading in text
        assert row.alt(told(name)).split()[0] in text
    assert text.count("data:image/png;base64,") == len(pictures.PICTURES)
    assert set(re.findall(r'src="([a-z]+):', text)) == {"data"}
    assert "http" not in re.sub(r"base64,[\w+/=]+", "", text)  # an image may spell anything
    assert "<script src" not in text
    for score, value in told(name).summary["scores"].items():
        assert f"test {name_of(score)}" in text
        assert pictures.number(value) in text


@pytest.mark.slow
def test_the_page_says_what_went_wrong(told, tmp_path):
    history = told("faults")
    found, rows = history.summary["faults"], dict(report.faults(history))
    assert rows["of these lost, and both sides kept to themselves"] == f"{found['lost']:,}"
    assert found["lost"] > 0
    assert len(rows) == len(found)
    text = html.unescape(report.write(history, tmp_path).read_text())
    assert all(words in text for words in rows)
    assert report.faults(told("usual")) == []
    assert "went wrong" not in report.write(told("usual"), tmp_path).read_text()


@pytest.mark.slow
def test_two_pages_of_one_run_are_the_same_bytes(told, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, two = (
        report.write(told("usual"), tmp_path / "a"),
        report.write(told("usual"), tmp_path / "b"),
    )
    assert one.read_bytes() == two.read_bytes()


def test_hostile_names_are_escaped(told, tmp_path):
    usual = told("usual")
    bad = replace(
        usual,
        config=replace(usual.config, corpus="<script>alert(1)</script>"),
        summary={**usual.summary, "notes": ["<b>bold</b>"], "heterogeneity_words": "<i>"},
    )
    text = report.write(bad, tmp_path).read_text()
    assert "<script>alert" not in text
    assert "<b>bold" not in text
    assert "&lt;script&gt;" in text


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"allow_unsound": True, "topology": "none", "lr": 0.5},
        {"corpus": "a b.csv", "labels": "x, y", "eval_share": 0.15},
        {"patterns": "h\\.0 h\\.1", "blocks": "patterns", "seed": 7},
    ],
)
def test_the_command_on_the_page_repeats_the_run(knobs):
    import typer

    words = shlex.split(repeat.command(RunConfig(**knobs)))
    assert words[:2] == ["deca-lab", "run"]
    run = typer.main.get_command(app).commands["run"]
    with run.make_context("run", words[2:]) as context:
        given = {
            name: value
            for name, value in context.params.items()
            if name in RunConfig.__dataclass_fields__
        }
    assert RunConfig(**given) == RunConfig(**knobs)


def lines(figure):
    return [
        np.asarray(line.get_ydata(), dtype=float) for axes in figure.axes for line in axes.lines
    ]


def test_the_loss_curves_are_the_tables_columns(told):
    drawn = lines(pictures.losses(told("usual")))
    for column in ("test_loss", "client_test_loss"):
        wanted = told("usual").metrics[column].to_numpy()
        assert any(len(y) == len(wanted) and np.allclose(y, wanted) for y in drawn), column


def test_the_consensus_curves_are_the_tables_columns(told):
    metrics = told("usual").metrics
    drawn = lines(pictures.consensus(told("usual")))
    for column in [c for c in metrics if c.startswith("consensus")]:
        wanted = metrics[column].to_numpy()
        wanted = wanted[wanted > 0]
        assert any(len(y[y > 0]) == len(wanted) and np.allclose(y[y > 0], wanted) for y in drawn), (
            column
        )


def test_the_ledgers_bars_are_the_bytes(told):
    figure = pictures.ledger(told("usual"))
    heights = {round(float(bar.get_height()), 6) for axes in figure.axes for bar in axes.patches}
    sent = told("usual").edges.groupby("sender")["measured"].sum()
    assert any(round(float(sent.iloc[0]) / unit, 6) in heights for unit in (1, 1e3, 1e6, 1e9))


@pytest.mark.parametrize("name", list(pictures.PICTURES))
def test_axes_say_what_they_are(name, told):
    figure = pictures.PICTURES[name].draw(told("usual"))
    assert any(axes.get_xlabel() for axes in figure.axes)
    assert picture(told("usual"), name).alt == pictures.PICTURES[name].alt(told("usual"))


def test_a_large_ring_is_no_hairball_and_leaves_no_figure_behind():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    for n in (2, 8, 64, 1024):
        assert len(pictures.png(pictures.draw_topology(topology("ring", n).matrices))) > 5000
    assert plt.get_fignums() == before


def test_a_bounds_picture_holds_both_sides():
    bound = gossip_contraction(
        topology("ring", 8), np.random.default_rng(0).standard_normal((8, 3)), 10
    )
    drawn = lines(pictures.draw_bounds({"random": bound}, "norm", log=True))
    np.testing.assert_array_equal(drawn[0], bound.lhs)
    np.testing.assert_array_equal(drawn[1], bound.rhs)


@pytest.mark.slow
def test_infinite_losses_are_drawn_without_a_warning(told, tmp_path):
    usual = told("usual")
    metrics = usual.metrics.copy()
    metrics.loc[
        metrics.index[-1], ["test_loss", "test_perplexity", "client_test_loss_max", "consensus"]
    ] = np.inf
    assert report.write(replace(usual, metrics=metrics), tmp_path).exists()


def test_a_sweep_is_a_curve_or_a_heat_map_of_its_means():
    import pandas as pd

    from deca_lab.errors import BadInput

    table = pd.DataFrame(
        [
            {"lr": lr, "feedback": h, "seed": s, "validation_loss": lr + len(h) + s}
            for lr in (0.1, 0.2)
            for h in ("none", "printed")
            for s in (0, 1)
        ]
    )
    curve = pictures.draw_sweep(table[table["feedback"] == "none"], ["lr"])
    assert any(np.allclose(y, [4.6, 4.7]) for y in lines(curve))
    heat = pictures.draw_sweep(table, ["lr", "feedback"])
    np.testing.assert_allclose(heat.axes[0].images[0].get_array(), [[4.6, 7.6], [4.7, 7.7]])
    assert [label.get_text() for label in heat.axes[0].get_xticklabels()] == ["none", "printed"]
    with pytest.raises(BadInput, match="one or two"):
        pictures.draw_sweep(table, ["lr", "feedback", "seed"])
