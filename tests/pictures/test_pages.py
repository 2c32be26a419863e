"""Pages: their curves are the tables' numbers, what may be compared is said, and a browser shows them on any screen."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from command import SMALL, deca_lab

from deca_lab.errors import BadInput
from deca_lab.lab import history, runs
from deca_lab.pictures import pages, report, runs_report
from deca_lab.runconfig import RunConfig

pytestmark = pytest.mark.slow
CONFIG = RunConfig(**SMALL)
OTHERS = {
    "deca": CONFIG,
    "lora": replace(CONFIG, method="dec-lora", rounds=2),
    "wide": replace(CONFIG, context=24),
    "own": replace(CONFIG, seed=1, split="iid"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    for name, config in OTHERS.items():
        runs.run(config, place / name)
    return place


def data_of(text):
    """Return the numbers that a page carries for its script."""
    return json.loads(re.search(r'id="curves-data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_curves_of_a_page_are_the_tables(folders):
    run = history.load(folders / "deca")
    read = data_of(report.render(run, {"losses": b""}))
    mean, *clients = read["lines"]
    assert mean["x"]["inner step"] == run.metrics["step"].tolist()
    for name in ("test_loss", "test_perplexity", "consensus", "gradient_norm", "own_loss"):
        shown = [line["y"][name] for line in (mean,) if name in line["y"]]
        assert all(np.allclose(y, run.metrics[name], rtol=1e-5) for y in shown), name
    for i, line in enumerate(clients):
        rows = run.clients[run.clients["client"] == i]
        assert line["name"] == f"client {i}"
        for name in ("test_loss", "own_loss"):
            np.testing.assert_allclose(line["y"][name], rows[name], rtol=1e-5)
    assert len(clients) == CONFIG.clients
    assert read["measures"][0]["name"] == "test_loss"
    assert set(read["axes"]) == set(mean["x"])


def test_what_is_not_finite_is_a_gap_and_what_is_text_is_no_curve(folders):
    run = history.load(folders / "deca")
    metrics = run.metrics.copy()
    metrics.loc[0, ["test_loss", "consensus"]] = np.nan, np.inf
    read = pages.curves_of(replace(run, metrics=metrics))
    assert read["lines"][0]["y"]["test_loss"][0] is None
    assert read["lines"][0]["y"]["consensus"][0] is None
    assert "block" not in read["lines"][0]["y"]
    json.loads(json.dumps(read, allow_nan=False))


def test_a_page_can_hold_what_a_model_wrote_and_escapes_it(folders):
    run = history.load(folders / "deca")

    class Row:
        start, before, after, really = "def f(", "</script><b>", "x):", "self):\n  pass"

    text = report.render(run, {}, [Row()])
    assert "What does it write?" in text
    assert "&lt;/script&gt;&lt;b&gt;" in text
    assert "What does it write?" not in report.render(run, {})


def test_which_runs_may_be_compared_in_what(folders):
    read = {name: history.load(folders / name) for name in OTHERS}
    matters = {what: (who, why) for what, who, why in map_of(read)}
    who, why = matters["test losses and scores"]
    assert who == "only deca with lora"
    assert why == "they differ in text, seed, context"
    assert matters["the ends of the curves"][0] == "only deca with wide with own"
    assert matters["seconds"][0] == "all"
    pair = {name: read[name] for name in ("deca", "lora")}
    assert {what: who for what, who, _ in map_of(pair)} == {
        "test losses and scores": "all",
        "the way from the start": "all",
        "what each client holds": "all",
        "the ends of the curves": "none",
        "seconds": "all",
    }
    knobs = dict(runs_report.differing({n: read[n] for n in ("deca", "wide")}))
    assert knobs == {"context": ["32", "24"]}


def map_of(read):
    return [runs_report.verdict(read, matter) for matter in runs_report.MATTERS]


def test_a_page_of_several_runs_has_their_figures_and_needs_no_network(folders, capsys):
    out = folders / "beside.html"
    given = [folders / name for name in OTHERS]
    report.write(history.load(given[0]), given[0])
    assert deca_lab(capsys, "report", *given, "--out", out).code == 0
    text = out.read_text()
    assert "4 runs side by side" in text
    assert 'href="deca/report.html"' in text
    assert 'href="lora' not in text
    for name in OTHERS:
        end = history.load(folders / name).summary["test_loss_end"]
        assert f'<th scope="row">{name}</th>' in text
        assert f"{end:.3f}" in text
    assert "http" not in re.sub(r"base64,[\w+/=]+", "", text)  # an image may spell anything
    assert [line["name"] for line in data_of(text)["lines"]] == [
        "deca, test data A",
        "lora, test data A",
        "wide, test data B",
        "own, test data C",
    ]
    assert text.count("data:image/png;base64,") == 3
    assert not re.findall(r"<th(?!ead| scope=)", text)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["deca", "deca"], "folders = .*different runs"),
        (["deca", "lora", "--out", "page.png"], "ends in .html"),
        (["deca", "--out", "page.html"], "left out: the page of one run"),
        (["deca", "nowhere"], "nowhere"),
    ],
)
def test_a_page_that_cannot_be_is_refused_in_a_line(folders, capsys, monkeypatch, words, says):
    monkeypatch.chdir(folders)
    said = deca_lab(capsys, "report", *words)
    assert said.code == 2
    assert re.search(says, said.err)
    assert said.err.count("\n") == 1
    with pytest.raises(BadInput):
        runs_report.write([folders / "deca"] * 2, folders / "x.html")


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_a_browser_shows_a_page_on_any_screen_with_values_and_a_switch(
    browser, folders, width, scheme
):
    run = history.load(folders / "deca")
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda one: wrong.append(one.url) if "http" in one.url else None)
    page.goto(report.write(run, folders / "deca").resolve().as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.click("#closer summary")
    page.wait_for_selector("#curves .line")
    page.focus("#curves > svg")
    for _ in range(len(run.metrics) + 2):
        page.keyboard.press("ArrowRight")
    end = float(f"{run.metrics['test_loss'].iloc[-1]:.4g}")
    assert page.inner_text(".reading").startswith(f"inner step {run.metrics['step'].iloc[-1]}")
    assert f"mean model {end:g}" in page.inner_text(".reading")
    page.check("text=client 2")
    page.keyboard.press("Tab")
    assert page.locator("#curves .line").count() == 2
    page.select_option("#curves select >> nth=0", "consensus")
    assert page.locator("#curves .line").count() == 1
    ground = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(ground)
    page.click("#theme")
    assert page.evaluate(ground) != before
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert wrong == []
    page.close()
