"""The examined findings: which arms, what verdict a table gives (by hand), and the page of a real small examination."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cases import cases
from command import SMALL, deca_lab, options

from deca_lab import pictures
from deca_lab.errors import BadInput
from deca_lab.lab.prepare import blocks_of
from deca_lab.lab.sources import load_model
from deca_lab.methods import resolve
from deca_lab.models import causal_lm
from deca_lab.runconfig import RunConfig
from deca_lab.studies import papers
from deca_lab.studies.papers import ARMS, FINDINGS, config_of, examine, verdict_on

TINY = RunConfig(**{**SMALL, "inner_steps": 2})


def table(first, second, gaps, score="test_loss"):
    """Return runs in which the second arm's score lies `gaps` above the first's, plus a rate that was not chosen."""
    rows = [
        {"arm": arm, "seed": i, "lr": 1.0, "chosen": True, score: value + gap * (arm == second)}
        for i, (value, gap) in enumerate(zip(np.linspace(1, 2, len(gaps)), gaps, strict=True))
        for arm in (first, second)
    ]
    return pd.DataFrame(
        [
            *rows,
            *(
                {"arm": a, "seed": 0, "lr": 9.0, "chosen": False, score: -99}
                for a in (first, second)
            ),
        ]
    )


@cases(
    ("gaps", "verdict"),
    [
        ([0.1, 0.11, 0.12], "agree"),
        ([-0.1, -0.11, -0.12], "disagree"),
        ([0.1, -0.1, 0.02], "undecided"),
        ([0.0, 0.0, 0.0], "undecided"),
    ],
)
def test_verdicts_of_a_better_than_finding(gaps, verdict):
    found = verdict_on("methods-lora", table("deca", "dec-lora", gaps))
    assert found["verdict"] == verdict
    assert found["gain"] == pytest.approx(np.mean(gaps))
    half = (
        4.302652729911275 * np.std(gaps, ddof=1) / np.sqrt(3)
    )  # Student's t, two degrees of freedom
    assert (found["low"], found["high"]) == pytest.approx(
        (np.mean(gaps) - half, np.mean(gaps) + half)
    )


@cases(
    ("gaps", "verdict"),
    [
        ([-0.019, -0.018, -0.0185], "agree"),
        ([-0.021, -0.022, -0.0215], "disagree"),
        ([-0.01, -0.03, -0.02], "undecided"),
        ([0.5, 0.51, 0.52], "agree"),
    ],
)
def test_verdicts_of_an_as_good_as_finding_begin_at_minus_the_margin(gaps, verdict):
    assert verdict_on("quantised", table("dec-lora-nf4", "dec-lora", gaps))["verdict"] == verdict


def test_a_higher_accuracy_is_a_gain(monkeypatch):
    monkeypatch.setitem(ARMS, "deca", ("deca", {"task": "classify"}))
    found = verdict_on(
        "methods-lora", table("deca", "dec-lora", [-0.1, -0.11, -0.12], score="test_accuracy")
    )
    assert (found["verdict"], found["gain"]) == ("agree", pytest.approx(0.11))


def test_a_rate_at_the_edge_is_told():
    runs = table("deca", "dec-lora", [0.1, 0.11])
    runs.loc[(runs["arm"] == "deca") & ~runs["chosen"], "lr"] = 5.0
    assert verdict_on("methods-lora", runs)["edge"] == "deca dec-lora"  # both took 1, of 1, 5 and 9
    runs.loc[(runs["arm"] == "deca") & ~runs["chosen"], "lr"] = 0.1
    assert verdict_on("methods-lora", runs)["edge"] == ""


def test_every_finding_names_two_arms_and_every_arm_is_in_a_finding():
    used = {arm for finding in FINDINGS.values() for arm in (finding.first, finding.second)}
    assert used == set(ARMS)
    assert all(finding.first != finding.second for finding in FINDINGS.values())


@pytest.fixture(scope="module")
def steps():
    """Return a function that counts the inner steps of an arm from its blocks, without its text."""

    def count(config):
        config = resolve(config)
        model = load_model(config, 258)
        cut = blocks_of(
            config,
            causal_lm.anatomy(model),
            {n: p.numel() for n, p in causal_lm.trainable(model).items()},
        )
        return config.rounds * len(cut) * config.inner_steps

    return count


@cases("name", ARMS)
def test_every_arm_has_the_same_inner_steps(name, steps):
    assert steps(config_of(name)) == 96


@cases("name", FINDINGS)
def test_the_arms_of_a_finding_share_task_seed_and_size(name):
    first, second = (config_of(arm) for arm in (FINDINGS[name].first, FINDINGS[name].second))
    for knob in (
        "task",
        "corpus",
        "labels",
        "batch",
        "context",
        "seed",
        "model",
        "clients",
        "eval_windows",
    ):
        assert getattr(first, knob) == getattr(second, knob), knob


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("findings")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARMS, "dec-lora", ("dec-lora", {"rounds": 4}))
        return examine(out, ["methods-lora", "feedback"], 2, (1e-3, 1e-2), TINY), out


@pytest.mark.slow
def test_an_examination_runs_the_arms_that_its_findings_need(done):
    verdicts, out = done
    runs = pd.read_csv(out / "runs.csv")
    assert list(dict.fromkeys(runs["arm"])) == ["deca", "dec-lora", "deca-none"]
    assert set(runs["step"]) == {8}
    chosen = runs[runs["chosen"]].set_index(["arm", "seed"])["test_loss"]
    by_hand = np.mean([chosen["dec-lora", i] - chosen["deca", i] for i in (0, 1)])
    assert verdicts["gain"].iloc[0] == pytest.approx(by_hand)
    pd.testing.assert_frame_equal(
        pd.read_csv(out / "findings.csv", keep_default_na=False), verdicts, check_dtype=False
    )


@pytest.mark.slow
def test_page_and_picture_say_the_same(done):
    verdicts, _ = done
    text = papers.page(verdicts)
    figure = pictures.draw_findings(verdicts)
    for row in verdicts.itertuples():
        assert f"| {row.says} |" in text
        assert f"{row.gain:+.4f} ({row.low:+.4f} to {row.high:+.4f})" in text
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(
        verdicts["says"]
    )
    ends = [line.get_xdata() for line in figure.axes[0].lines if len(line.get_xdata()) == 2][:1]
    np.testing.assert_allclose(ends[0], [verdicts["low"].iloc[0], verdicts["high"].iloc[0]])
    assert [text.get_text() for text in figure.axes[0].texts] == list(verdicts["verdict"])


@pytest.mark.slow
def test_command(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(papers, "BASE", TINY)
    monkeypatch.setattr(
        papers.examine,
        "__defaults__",
        (*papers.examine.__defaults__[:3], TINY, papers.examine.__defaults__[4]),
    )
    said = deca_lab(
        capsys, "findings", *options(out=tmp_path, only="feedback", seeds=2, rates="0.01")
    )
    assert said.code == 0
    assert "the feedback helps" in said.out
    assert (tmp_path / "findings.md").read_text().count("| **") == 1
    assert (tmp_path / "findings.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"chosen": ["feedbak"]}, "unknown finding 'feedbak': did you mean 'feedback'"),
        ({"seeds": 1}, "seeds = 1"),
        ({"chosen": []}, "only"),
        ({"rates": ()}, "rates"),
    ],
)
def test_bad_examinations(changed, words, tmp_path):
    with pytest.raises(BadInput, match=words):
        examine(
            tmp_path / "out",
            **{"chosen": ["feedback"], "seeds": 2, "base": replace(TINY, rounds=1), **changed},
        )
    assert not (tmp_path / "out").exists()


def test_the_committed_verdicts_follow_from_the_committed_runs():
    theory = Path(__file__).parents[2] / "theory"
    runs, stored = (
        pd.read_csv(theory / "findings_runs.csv"),
        pd.read_csv(theory / "findings.csv", keep_default_na=False),
    )
    again = pd.DataFrame([verdict_on(name, runs) for name in FINDINGS])
    pd.testing.assert_frame_equal(again, stored, check_dtype=False)
    assert set(runs["step"].dropna()) == {96}
    page = (theory / "findings.md").read_text()
    assert page == papers.page(stored)
