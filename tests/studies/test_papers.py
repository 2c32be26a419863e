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
from deca_lab.studies import findings_page, papers
from deca_lab.studies.papers import ARMS, FEEDBACKS, FINDINGS, config_of, examine, verdicts_on

TINY = RunConfig(**{**SMALL, "inner_steps": 2})


def table(name, *gaps, score="test_loss"):
    """Return runs of a finding in which each pair's second arm scores `gaps` above its first, and rates not chosen."""
    pairs = FINDINGS[name].pairs
    rows = [
        {"arm": arm, "seed": i, "lr": 1.0, "chosen": True, score: value + gap * (arm == pair[1])}
        for pair, apart in zip(pairs, gaps * len(pairs), strict=False)
        for i, (value, gap) in enumerate(zip(np.linspace(1, 2, len(apart)), apart, strict=True))
        for arm in pair
    ]
    others = [{**row, "lr": lr, "chosen": False, score: -99} for row in rows for lr in (0.1, 9.0)]
    return pd.DataFrame([*rows, *others]).assign(validation_loss=1.0)


def page_of(verdicts, parts):
    return findings_page.page(verdicts, parts, papers.BASE, 96)


def verdict(name, *gaps):
    """Return the row of a finding that is alone in its family."""
    rows = verdicts_on(table(name, gaps, gaps, gaps, gaps), [name]).set_index("finding")
    assert list(rows.index) == [name]
    return rows.loc[name]


@cases(
    ("gaps", "word"),
    [
        ([0.1, 0.11, 0.12], "agree"),
        ([-0.1, -0.11, -0.12], "disagree"),
        ([0.1, -0.1, 0.02], "undecidable"),
        ([0.004, 0.0041, 0.0042], "equal"),
        ([0.0, 0.0, 0.0], "undecided"),  # two signs in eight fall so by chance
    ],
)
def test_verdicts_of_a_better_than_finding(gaps, word):
    got = verdict("methods-decaf", *gaps)
    assert got["verdict"] == word
    assert got["gain"] == pytest.approx(np.mean(gaps))
    half = 4.302652729911275 * np.std(gaps, ddof=1) / np.sqrt(3)  # Student's t, two degrees
    assert (got["low"], got["high"]) == pytest.approx((np.mean(gaps) - half, np.mean(gaps) + half))


@cases(
    ("gaps", "word"),
    [
        ([-0.004, -0.0041, -0.00405], "agree"),
        ([-0.021, -0.022, -0.0215], "disagree"),
        ([-0.01, -0.03, 0.02], "undecidable"),
        ([0.5, 0.51, 0.52], "agree"),
    ],
)
def test_verdicts_of_an_as_good_as_finding_begin_at_minus_the_margin(gaps, word):
    assert verdict("quantised", *gaps)["verdict"] == word


def test_a_higher_accuracy_is_a_gain(monkeypatch):
    monkeypatch.setitem(ARMS, "deca", ("deca", {"task": "classify"}))
    runs = table("methods-decaf", [-0.1, -0.11, -0.12], score="test_accuracy")
    got = verdicts_on(runs).iloc[0]
    assert (got["verdict"], got["gain"]) == ("agree", pytest.approx(0.11))


def test_a_question_asked_on_several_graphs_is_one_row_and_its_gain_their_mean():
    each = ([0.1, 0.11, 0.12], [0.2, 0.22, 0.21], [0.3, 0.3, 0.33], [0.0, 0.01, 0.02])
    rows = verdicts_on(table("methods-lora", *each), ["methods-lora"])
    assert list(rows["finding"]) == ["methods-lora"]  # not four, and Holm counts one
    assert rows["gain"].item() == pytest.approx(np.mean(each))
    assert rows["sd"].item() == pytest.approx(np.std(np.mean(each, axis=0), ddof=1))
    assert rows["p_holm"].item() == rows["p"].item()


def test_gains_by_seed_are_of_the_protocol_that_has_all_arms():
    now = table("methods-decaf", [0.1, 0.2]).assign(protocol="now")
    old = table("methods-decaf", [0.5, 0.6]).assign(protocol="older")
    both = pd.concat([now, old])
    np.testing.assert_allclose(papers.gains("methods-decaf", both), [0.1, 0.2])
    np.testing.assert_allclose(papers.gains("methods-decaf", old), [0.5, 0.6])
    with pytest.raises(BadInput, match="it must be runs of decaf too"):
        papers.gains("methods-decaf", old[old["arm"] == "deca"])


def test_no_two_findings_ask_the_same_pair():
    pairs = [frozenset(pair) for finding in FINDINGS.values() for pair in finding.pairs]
    assert len(pairs) == len(set(pairs))


def test_findings_that_share_runs_say_so():
    runs = pd.concat(
        [
            table("feedback", [0.1, 0.11, 0.12]),
            table("h", [0.1, 0.11, 0.12]).query("arm == 'deca-zero'"),
            table("quantised", [0.1, 0.11, 0.12]),
        ]
    )
    rows = verdicts_on(runs).set_index("finding")
    assert rows["shares"].to_dict() == {"feedback": "h", "h": "feedback", "quantised": ""}
    assert rows.loc["h", "p_holm"] == pytest.approx(3 * rows["p"].min())
    assert "- deca: feedback, h\n" in page_of(rows.reset_index(), papers.feedback_parts(runs))


def test_what_spoils_a_mean_is_said():
    runs = table("methods-decaf", [0.1, 0.11, 0.12])
    assert verdicts_on(runs)["notes"].item() == ""
    runs = runs[(runs["lr"] != 9.0) | (runs["arm"] != "deca") | (runs["seed"] != 2)]
    words = "deca: rate at the edge of its grid on 1 of 3 seeds"
    assert verdicts_on(runs)["notes"].item() == words


def test_the_feedback_is_shrinking_and_h():
    rows = [
        {"arm": arm, "seed": i, "chosen": True, "test_loss": 1.0 + 0.1 * i + away}
        for arm, away in (("deca", 0.0), ("deca-zero", 0.01), ("deca-none", 0.5))
        for i in range(4)
    ]
    parts = papers.feedback_parts(pd.DataFrame(rows)).set_index("part")
    assert parts["form"].unique().tolist() == ["printed, b1 = 0.99, b2 = 0.999"]
    want = {"whole": 0.5, "shrinking": 0.49, "h": 0.01}
    assert parts["gain"].to_dict() == pytest.approx(want)
    assert papers.feedback_parts(pd.DataFrame(rows[4:])).empty


def test_a_forms_arms_differ_in_h_alone():
    for fed, zero, none in FEEDBACKS.values():
        shrunk = config_of(zero)
        assert shrunk.feedback == "zero"
        scale = config_of(fed).feedback_scale
        as_fed = replace(shrunk, feedback=config_of(fed).feedback, feedback_scale=scale)
        assert as_fed == config_of(fed)
        assert resolve(config_of(none)).feedback == "none"


def test_older_runs_speak_where_there_are_no_present_ones():
    now = table("methods-decaf", [0.1, 0.11, 0.12]).assign(protocol="now")
    old = pd.concat([table("methods-decaf", [-0.1, -0.2, 0.2]), table("rank", [0.0, 0.1, 0.2])])
    rows = verdicts_on(pd.concat([now, old.assign(protocol="older")])).set_index("finding")
    assert rows["protocol"].to_dict() == {"methods-decaf": "now", "rank": "older"}
    assert rows.loc["methods-decaf", "gain"] == pytest.approx(0.11)
    text = page_of(rows.reset_index(), papers.feedback_parts(now))
    assert text.splitlines()[2].startswith(
        "Written by `deca-lab findings --only methods-decaf --seeds 3 --steps 96 --context 128 --out"
    )
    before, after = text.split("## Measured by an older protocol")
    assert "`methods-decaf`" in before
    assert "`rank`" in after


@cases("text", ["arm,seed\ndeca,0\n", "", '"'])
def test_a_table_that_is_no_examination(text, tmp_path):
    (tmp_path / "runs.csv").write_text(text)
    with pytest.raises(BadInput, match=r"^older = "):
        papers.read_runs(tmp_path / "runs.csv")


def test_every_finding_names_two_arms_and_every_arm_is_in_a_finding():
    assert {arm for finding in FINDINGS.values() for arm in finding.arms} == set(ARMS)
    assert all(len(finding.arms) == 2 * len(finding.pairs) for finding in FINDINGS.values())
    assert all(finding.margin > 0 for finding in FINDINGS.values())


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
@pytest.mark.slow
def test_every_arm_has_the_same_inner_steps(name, steps):
    assert steps(config_of(name)) == 96
    assert steps(config_of(name, steps=36)) == 36


@cases("name", FINDINGS)
def test_the_arms_of_a_finding_share_task_seed_and_size(name):
    for pair in FINDINGS[name].pairs:
        require_same_setting(*map(config_of, pair))


def require_same_setting(first, second):
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
        for arm, (method, knobs) in ARMS.items():
            patch.setitem(ARMS, arm, (method, {**knobs, "inner_steps": 12}))
        older = table("rank", [0.0, 0.1, 0.2])
        named = ["feedback", "h"]
        return examine(out, named, 2, (1e-3,), TINY, steps=24, older=older), out


@pytest.mark.slow
def test_an_examination_runs_the_arms_that_its_findings_need(done):
    verdicts, out = done
    runs = pd.read_csv(out / "runs.csv").query("protocol == 'now'")
    assert set(runs["arm"]) == {"deca", "deca-zero", "deca-none"}
    assert set(runs["step"]) == {12}  # 4 blocks of the tiny model, 12 inner steps a quarter
    chosen = runs[runs["chosen"]].set_index(["arm", "seed"])["test_loss"]
    by_hand = np.mean([chosen["deca-none", i] - chosen["deca", i] for i in (0, 1)])
    assert verdicts["finding"].tolist() == ["feedback", "h", "rank"]
    assert verdicts["gain"].iloc[0] == pytest.approx(by_hand)
    stored = pd.read_csv(out / "findings.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(stored, verdicts, check_dtype=False)
    parts = pd.read_csv(out / "feedback.csv").set_index("part")["gain"]
    assert parts["whole"] == pytest.approx(by_hand) == parts["shrinking"] + parts["h"]


@pytest.mark.slow
def test_page_and_picture_say_the_same(done):
    verdicts, out = done
    text = page_of(verdicts, pd.read_csv(out / "feedback.csv"))
    figure = pictures.draw_findings(verdicts)
    for row in verdicts.itertuples():
        assert f"| {row.says} (`{row.finding}`) |" in text
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
    older = table("rank", [0.0, 0.1, 0.2])
    older.to_csv(tmp_path / "older.csv", index=False)
    asked = {"only": "feedback", "seeds": 2, "rates": "0.01", "steps": 12, "context": 16}
    said = deca_lab(
        capsys, "findings", *options(out=tmp_path, **asked, older=tmp_path / "older.csv")
    )
    assert said.code == 0
    assert "the feedback helps" in said.out
    assert (tmp_path / "findings.md").read_text().count("| **") == 2
    assert (tmp_path / "findings.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"chosen": ["feedbak"]}, "unknown finding 'feedbak': did you mean 'feedback'"),
        ({"seeds": 1}, "seeds = 1"),
        ({"chosen": []}, "only"),
        ({"rates": ()}, "rates"),
        ({"steps": 40}, "steps = 40 cannot be used: it must be a multiple of 12"),
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
    pd.testing.assert_frame_equal(verdicts_on(runs), stored, check_dtype=False)
    assert set(runs["step"].dropna()) <= {48, 96}
    page = (theory / "findings.md").read_text()
    base = replace(papers.BASE, context=64)
    assert page == findings_page.page(stored, papers.feedback_parts(runs), base, 48)
