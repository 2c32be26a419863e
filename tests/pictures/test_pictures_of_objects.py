"""Pictures and page of what was given as objects: a fit has losses and no text, a run says how it is called again."""

import ast
import html
import math
import re

import networkx as nx
import numpy as np
import pytest
import torch
from command import SMALL, deca_lab, options
from test_pictures import lines

from deca_lab import BadInput, Method, Problem, RunConfig, fit, load, pictures, run
from deca_lab.lab import fit as fitting
from deca_lab.models import causal_lm
from deca_lab.pictures import repeat, report
from deca_lab.pictures.jupyter import picture
from deca_lab.runconfig import from_json

CONFIG = RunConfig(
    **{**SMALL, "model": RunConfig().model, "clients": 4, "inner_steps": 2, "device": "cpu"}
)
FIT = RunConfig(clients=5, rounds=2, inner_steps=4, lr=0.05, device="cpu")
WITHOUT = sorted(set(pictures.PICTURES) - {"heterogeneity"})


def problem():
    """Squared distances to five points, from (3, 3, 3); every parameter a block."""
    points = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 3)))

    def loss(params, point):
        return (torch.cat([params["u"], params["w"]]) - point).square().sum()

    start = {"u": torch.full((5, 2), 3.0).double(), "w": torch.full((5, 1), 3.0).double()}
    return Problem(start, loss, lambda step: points)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    return fit(problem(), FIT, tmp_path_factory.mktemp("fit") / "run")


@pytest.fixture(scope="module")
def called(tmp_path_factory):
    objects = {
        "model": causal_lm.load("tiny", seed=0, vocabulary=259),
        "topology": nx.cycle_graph(4),
        "metrics": {"largest": lambda seen: max(float(p.abs().max()) for p in seen.mean.values())},
        "callbacks": [lambda seen: seen.step == 5],
    }
    return run(CONFIG, tmp_path_factory.mktemp("run") / "run", **objects)


def page_of(history, folder):
    return html.unescape(re.sub(r'base64,[^"]*', "", report.write(history, folder).read_text()))


def test_the_page_of_a_fit_speaks_of_its_loss(fitted, tmp_path):
    text, s = page_of(fitted, tmp_path), fitted.summary
    facts = dict(report.facts(fitted))
    assert "the given Problem" in report.headline(fitted)
    fell = (
        f"fell, {pictures.number(s['test_loss_start'])} to {pictures.number(s['test_loss_end'])}."
    )
    assert report.headline(fitted).endswith(fell)
    assert facts["loss of the mean model, end"] == pictures.number(
        fitted.metrics["test_loss"].iloc[-1]
    )
    assert facts["loss of a client's own model on its own data, mean"] == pictures.number(
        fitted.metrics["own_loss"].iloc[-1]
    )
    assert f"<p>Gradients spread by zeta^2 = {s['heterogeneity']['zeta2']:.3g}" in text
    assert f"problem fingerprint <code>{fitted.config.corpus[-12:]}</code>" in text
    for word in (
        "perplexity",
        "text",
        "nats",
        "nan",
        "not a number",
        "None",
        "object:Problem:</",
        "IID",
        "rows",
    ):
        assert not re.search(  # the doctor, in <pre>, speaks of W's rows
            rf"\b{word}\b", re.sub(r"<(style|script|pre)[^>]*>.*?</\1>", "", text, flags=re.DOTALL)
        ), word
    assert not re.search(r"<(td|p|h2|b|figcaption|pre)>\s*</\1>", text)
    assert {file.stem for file in tmp_path.glob("*.png")} == set(WITHOUT)
    assert text.count("<img") == len(WITHOUT)


def test_a_page_of_a_loaded_fit_is_the_same(fitted, tmp_path, capsys):
    page = report.write(fitted, tmp_path).read_bytes()
    said = deca_lab(capsys, "report", fitted.folder)
    assert (said.code, said.err) == (0, "")
    assert (fitted.folder / "report.html").read_bytes() == page


@pytest.mark.parametrize("name", WITHOUT)
def test_every_picture_but_that_of_the_labels_is_drawn(name, fitted, called):
    for history in (fitted, called):
        assert pictures.PICTURES[name].draw(history).axes
        words = picture(history, name).alt
        assert "object:" not in words
        assert ("perplexity" in words or "nats" in words) == (
            name == "losses" and history is called
        )


def test_the_picture_of_labels_says_why_it_is_not_there(fitted):
    for draw in (pictures.heterogeneity, lambda history: picture(history, "heterogeneity")):
        with pytest.raises(
            BadInput,
            match="'heterogeneity' cannot be drawn: this run does not have labels of its rows",
        ):
            draw(fitted)


def test_the_loss_curves_of_a_fit_are_the_tables_columns(fitted):
    figure = pictures.losses(fitted)
    for column in ("test_loss", "client_test_loss", "own_loss"):
        wanted = fitted.metrics[column].to_numpy()
        assert any(
            len(y) == len(wanted) and np.allclose(y, wanted, rtol=1e-12, atol=0)
            for y in lines(figure)
        ), column
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert not [
        label for label in labels if "perplexity" in label or "nats" in label or "text" in label
    ]


def test_a_run_that_a_callback_ended_says_so_and_shows_its_own_metrics(called, fitted, tmp_path):
    text = page_of(called, tmp_path)
    planned = int(called.visits["last"].max()) + 1
    assert f"<p>A callback ended the run after 5 of {planned} inner steps.</p>" in text
    figure = pictures.number(called.metrics["largest"].iloc[-1])
    assert f"<b>{figure}</b><span>largest, a metric of your own</span>" in text
    assert "object:" not in re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
    assert report.stopped(fitted) == ""


def read_call(text):
    """Return the config of a call on a page, and {argument: what stands for the object}."""
    tree = ast.parse(re.sub(r"<(\w+)>", r"'\1'", text)).body[-1].value
    config = next(part for part in tree.args if isinstance(part, ast.Call))
    knobs = {word.arg: ast.literal_eval(word.value) for word in config.keywords}
    objects = {word.arg: ast.literal_eval(word.value) for word in tree.keywords}
    return (
        tree.func.id,
        [ast.literal_eval(part) for part in tree.args if part is not config],
        knobs,
        objects,
    )


def test_the_call_on_the_page_repeats_the_run(called, fitted):
    name, before, knobs, objects = read_call(repeat.repeated(called))
    assert (name, before) == ("run", [])
    assert RunConfig(**knobs) == CONFIG
    assert objects == {
        "model": type(causal_lm.load("tiny", seed=0, vocabulary=259)).__name__,
        "topology": "Topology",
        "metrics": {"largest": "function"},
        "callbacks": ["function"],
    }
    name, before, knobs, objects = read_call(repeat.repeated(fitted))
    assert (name, before, objects) == ("fit", ["Problem"], {})
    assert RunConfig(**knobs) == FIT


def test_the_call_leaves_out_what_an_own_optimiser_does_not_read():
    from test_objects import heavy_ball

    config = RunConfig(clients=5, rounds=1, inner_steps=2, method="deca-no-feedback", device="cpu")
    done = fit(problem(), config, optimiser=heavy_ball(), blocks=[["u", "w"]])
    _, before, knobs, objects = read_call(repeat.repeated(done))
    assert (before, objects) == (["Problem"], {"optimiser": "Optimiser", "blocks": "tuple"})
    again = fit(problem(), RunConfig(**knobs), optimiser=heavy_ball(), blocks=[["u", "w"]])
    assert again.metrics.equals(done.metrics)


def test_a_run_of_names_is_repeated_by_its_command():
    done = run(RunConfig(**{**SMALL, "inner_steps": 1}))
    assert repeat.repeated(done) == repeat.command(done.config)


def test_knobs_of_text_are_not_on_the_page_of_a_fit(fitted):
    shown = {name for name, _, _ in report.knobs(fitted.config)}
    unread = {
        name
        for name, f in RunConfig.__dataclass_fields__.items()
        if f.metadata["group"] in fitting.FOREIGN
    }
    assert unread - shown == unread - {"corpus"}
    assert "clients" in shown


def test_a_folder_with_a_method_of_ones_own_is_read_and_has_its_page(tmp_path):
    mine = Method(
        "SGD of all at once",
        {"optimiser": "sgd", "blocks": "whole", "feedback": "none", "moments": "keep"},
    )
    done = fit(problem(), FIT, tmp_path / "run", method=mine)
    again = load(tmp_path / "run")
    assert again.metrics["test_loss"].tolist() == pytest.approx(done.metrics["test_loss"].tolist())
    assert "with the given Method" in report.headline(again)
    assert math.isfinite(again.summary["test_loss_end"])


COMMANDS = {
    "clock": (
        ["clock"],
        r"error: corpus = 'object:Problem:\w{12}' cannot be used: it must be given again as problem, to fit",
    ),
    "resume": (
        ["run", "--resume"],
        r"error: corpus = 'object:Problem:\w{12}' cannot be used: it must be given again",
    ),
    "export": (
        ["export"],
        r"error: this run cannot be exported: it trained a problem of your own, not a model",
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_on_a_fits_folder_says_what_is_missing(command, fitted, capsys):
    words, said = COMMANDS[command]
    before = sorted(fitted.folder.iterdir())
    got = deca_lab(capsys, *words, fitted.folder)
    assert got.code == 2
    assert re.search(f"^{said}.*\n\\Z", got.err, flags=re.MULTILINE)
    assert "Traceback" not in got.err
    assert sorted(fitted.folder.iterdir()) == before


@pytest.mark.parametrize("words", [["clock"], ["run", "--resume"]])
def test_a_command_on_the_folder_of_a_run_with_a_model_asks_for_it(words, called, capsys):
    got = deca_lab(capsys, *words, called.folder)
    assert got.code == 2
    assert re.search(
        r"^error: model = 'object:\w+:\w{12}' cannot be used: it must be given again as model=",
        got.err,
        flags=re.MULTILINE,
    )


def test_a_model_given_as_an_object_is_not_exported_and_a_graph_does_not_matter(
    called, capsys, tmp_path
):
    got = deca_lab(capsys, "export", called.folder)
    assert (got.code, got.err.count("\n")) == (2, 1)
    assert "this run was given its model as objects, which no folder holds" in got.err
    assert "export it in Python, with export_model(folder, model=)" in got.err
    assert not (called.folder / "export-mean").exists()
    run(RunConfig(**{**SMALL, "inner_steps": 1}), tmp_path / "run", topology=nx.cycle_graph(4))
    assert deca_lab(capsys, "export", tmp_path / "run").code == 0


def test_the_options_of_the_command_line_know_no_object(capsys, called):
    config = from_json((called.folder / "config.json").read_text(), "config.json")
    got = deca_lab(capsys, "run", *options(model=config.model, out=called.folder.parent / "other"))
    assert got.code == 2
    assert "given again as model=" in got.err
