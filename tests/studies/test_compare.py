"""Comparisons: equal budgets by hand arithmetic, the choice by validation, intervals against scipy, what is kept."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from cases import cases
from command import SMALL, deca_lab, options

import deca_lab as lab
from deca_lab.errors import BadInput, Stopped
from deca_lab.lab import ledger, runs
from deca_lab.lab.history import load
from deca_lab.lab.prepare import prepare
from deca_lab.methods import METHODS
from deca_lab.pictures import compare_report
from deca_lab.runconfig import RunConfig
from deca_lab.studies import compare
from deca_lab.studies.compare import Comparison

BASE = RunConfig(**{**SMALL, "inner_steps": 2})
ASKED = Comparison(BASE, ("deca", "dec-lora", "badam"), seeds=2, rates=(1e-3,))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("compare")
    return compare.compare(ASKED, out), out


def test_equal_steps_are_equal_steps(done):
    table, _ = done
    assert set(table["step"]) == {8}  # deca: 4 blocks x 2; the others: 4 rounds of 2
    assert compare.rounds_of(ASKED) == {"deca": 1, "dec-lora": 4, "badam": 1}


def test_all_arms_of_a_seed_start_from_the_same_model_and_test_text(done):
    table, out = done
    starts = {
        m: [h.metrics["test_loss"].iloc[0] for h in hs]
        for m, hs in compare.curves(out, table).items()
    }
    np.testing.assert_allclose(starts["dec-lora"], starts["deca"], rtol=1e-6)
    np.testing.assert_allclose(starts["badam"], starts["deca"], rtol=1e-6)


def test_equal_bytes_by_hand():
    asked = replace(ASKED, methods=("d-adam", "dec-lora"), budget="bytes", amount=0.0)
    full, factors = 149440, 2 * (8 * 64 + 8 * 192)  # tiny: all, and rank 8 on two c_attn
    assert compare.rounds_of(asked) == {"d-adam": 1, "dec-lora": full // factors}


def test_flops_by_hand():
    lab = prepare(replace(BASE, blocks="patterns", patterns="h\\.1 wte|wpe|h\\.0|ln_f"))
    sizes = {name: p.numel() for name, p in lab.model.named_parameters()}
    total = sum(sizes.values())
    top = sum(s for n, s in sizes.items() if ".h.1." in n)
    head = sum(s for n, s in sizes.items() if "ln_f" in n)
    first, second = total + (top + head) + top, total + total + (total - top)
    assert ledger.flops(lab.plan, lab.model, 10) == 2 * 2 * 10 * (first + second)


def faked(loss_at):
    """Return a stand-in for a run, whose validation loss is `loss_at(lr, seed)`; its test loss says the opposite."""

    def row(name, config, out, say, objects):
        loss = loss_at(config.lr, config.seed)
        known = {"arm": name, "seed": config.seed, "lr": config.lr, "step": 1}
        return {**known, "validation_loss": loss, "test_loss": -loss}

    return row


def test_the_rate_is_chosen_on_every_seed_by_validation_never_by_test(monkeypatch, tmp_path):
    best = {0: 1e-3, 1: 2.7e-2}
    bowl = faked(lambda lr, seed: abs(np.log(lr / best[seed])))
    monkeypatch.setattr(compare, "_row", bowl)
    table = compare.compare(replace(ASKED, budget="rounds", rates=(1e-3, 3e-3, 9e-3)), tmp_path)
    chosen = table[table["chosen"]]
    assert set(zip(chosen["seed"], chosen["lr"], strict=True)) == {(0, 1e-3), (1, 2.7e-2)}
    assert sorted(table.loc[table["seed"] == 1, "lr"].unique()) == [
        1e-3,
        3e-3,
        9e-3,
        2.7e-2,
        8.1e-2,
    ]
    assert table["seed"].is_monotonic_increasing  # a study that is broken off has whole pairs
    assert compare.at_edge(table) == []
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "runs.csv"), table)


def test_an_edge_that_does_not_end_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(compare, "_row", faked(lambda lr, seed: lr if seed else 1.0))
    table = compare.compare(replace(ASKED, budget="rounds", rates=(1e-3, 3e-3, 9e-3)), tmp_path)
    words = "rate at the edge of its grid on 1 of 2 seeds"
    assert compare.notes(table) == dict.fromkeys(ASKED.methods, words)
    assert compare.at_edge(table) == list(ASKED.methods)


def test_finished_arms_are_kept_and_a_broken_one_goes_on(done, monkeypatch):
    table, out = done
    (out / "arms" / "badam-lr0.001-seed1" / "summary.json").unlink()  # as if it had been broken off
    ran = []
    real = runs.run
    monkeypatch.setattr(
        runs, "run", lambda config, folder: ran.append(folder.name) or real(config, folder)
    )
    again = compare.compare(ASKED, out)
    assert ran == ["badam-lr0.001-seed1"]
    pd.testing.assert_frame_equal(
        again.drop(columns="seconds"), table.drop(columns="seconds"), check_dtype=False
    )


def test_arms_of_another_comparison_are_refused(done):
    _, out = done
    with pytest.raises(BadInput, match=r"run with other knobs \(batch = \d, not 1\)"):
        compare.compare(replace(ASKED, base=replace(BASE, batch=1)), out)


def test_a_broken_arm_of_other_knobs_is_not_gone_on_with(tmp_path):
    config = replace(BASE, rounds=2)
    with pytest.raises(Stopped):
        runs.run(config, tmp_path / "arm", progress=lambda step, of, known: step == 1)
    with pytest.raises(BadInput, match=r"run with other knobs \(batch = \d, not 1\)"):
        compare.finished(replace(config, batch=1), tmp_path / "arm", {})
    assert compare.finished(config, tmp_path / "arm", {}).config.batch == config.batch


def test_a_comparison_is_not_written_into_a_run(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadInput, match="this one holds a run"):
        compare.compare(ASKED, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]


def test_paired_intervals_are_scipys():
    from scipy.stats import ttest_rel

    rng = np.random.default_rng(0)
    a, b = rng.normal(1.0, 0.1, 5), rng.normal(1.2, 0.1, 5)
    table = pd.DataFrame(
        {
            "arm": ["x"] * 5 + ["y"] * 5,
            "seed": [*range(5)] * 2,
            "chosen": True,
            "test_loss": [*a, *b],
        }
    )
    got = compare.paired(table, "test_loss").iloc[0]
    want = ttest_rel(a, b).confidence_interval(0.95)
    assert (got["low"], got["high"]) == pytest.approx((want.low, want.high))
    assert got["verdict"] == "x is better"
    assert compare.paired(table, "test_loss", higher=True).iloc[0]["verdict"] == "y is better"
    table["test_loss"] = [*a, *(a + np.array([0.1, -0.1, 0.1, -0.1, 0.0]))]
    assert compare.paired(table, "test_loss").iloc[0]["verdict"] == "undecided"
    assert compare.paired(table, "test_loss", margin=1.0).iloc[0]["verdict"] == (
        "equal within the margin"
    )
    words = compare.paired(table, "test_loss", margin=0.01).iloc[0]["verdict"]
    assert re.fullmatch(r"undecided, and could not be: needs \d+ seeds", words)
    assert compare.paired(table[table["seed"] == 0], "test_loss").iloc[0]["verdict"] == "undecided"


def test_pairs_are_a_family():
    rng = np.random.default_rng(0)
    arms = {"x": 0.0, "y": 0.1, "z": 0.5}
    rows = [
        {"arm": arm, "seed": i, "chosen": True, "test_loss": rng.normal(shift, 0.1)}
        for i in range(6)
        for arm, shift in arms.items()
    ]
    got = compare.paired(pd.DataFrame(rows), "test_loss")
    assert got[["first", "second"]].to_numpy().tolist() == [["x", "y"], ["x", "z"], ["y", "z"]]
    order = got["p"].to_numpy().argsort()
    assert got["p_holm"].iloc[order[0]] == pytest.approx(3 * got["p"].min())
    assert got["verdict"].iloc[1] == "x is better"
    assert len(compare.paired(pd.DataFrame(rows[::3]), "test_loss")) == 0


def test_a_seed_on_which_an_arm_diverged_is_left_out_and_said():
    rows = [
        {
            "arm": arm,
            "seed": i,
            "lr": 1.0,
            "chosen": True,
            "test_loss": loss,
            "validation_loss": loss,
        }
        for arm, losses in (("x", (1.0, 2.0, np.inf)), ("y", (1.5, 2.6, 3.0)))
        for i, loss in enumerate(losses)
    ]
    table = pd.DataFrame(rows)
    assert compare.difference(table, "x", "y", "test_loss")[0::3] == (pytest.approx(-0.55), 2)
    assert compare.notes(table) == {"x": "diverged at every rate on 1 of 3 seeds"}


def test_runs_that_end_at_chance_say_so():
    rows = [
        {"arm": arm, "seed": i, "lr": 1.0, "chosen": True, "validation_loss": 1.0, "majority": 0.3}
        | {"test_accuracy": accuracy, "test_loss": 1.0}
        for arm, got in (("x", (0.3, 0.2, 0.4)), ("y", (0.5, 0.6, 0.31)))
        for i, accuracy in enumerate(got)
    ]
    table = pd.DataFrame(rows)
    words = {"x": "no better than the majority on 2 of 3 seeds"}
    assert compare.notes(table) == words
    assert compare.notes(table.drop(columns="majority")) == {}
    costs = dict.fromkeys(["bytes_sent", "seconds", "memory", "parameters", "step"], 1)
    means = compare.summary(table.assign(**costs), "test_accuracy").set_index("arm")
    assert means["notes"].to_dict() == {**words, "y": ""}
    assert means["majority"].tolist() == pytest.approx([0.3, 0.3])
    assert means.loc["x", ["test_accuracy", "sd"]].tolist() == pytest.approx([0.3, 0.1])


def test_seeds_by_cost(monkeypatch):
    said = []
    for flops, many in ((1e12, 10), (2e13, 5), (1e17, 3)):
        monkeypatch.setattr(compare, "_flops", lambda config, objects, f=flops: f)
        assert compare.seeds_for(BASE, said.append) == many
    assert said[0] == "10 seeds, for a run takes 1.0e+12 floating-point operations (--seeds)"
    monkeypatch.undo()
    one, two = (compare._flops(replace(BASE, rounds=rounds), {}) for rounds in (1, 2))
    assert two == 2 * one > 0


def test_a_diverged_arm_is_not_chosen(tmp_path):
    table = compare.compare(
        replace(
            ASKED,
            methods=("badam",),
            rates=(1e-3, 2e-3, 1e38),
            seeds=1,
            base=replace(BASE, inner_steps=3),
        ),
        tmp_path,
    )
    assert table["test_loss"].tolist()[-1] == float("inf")
    assert not table["chosen"].tolist()[-1]
    assert table["chosen"].sum() == 1


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            replace(ASKED, methods=("deca", "d-adam"), budget="steps", amount=5),
            "less than one round of these methods costs: deca 8",
        ),
        (replace(ASKED, budget="bites"), "unknown budget 'bites': did you mean 'bytes'"),
        (replace(ASKED, methods=("deca", "local"), budget="bytes"), "local sends nothing"),
        (replace(ASKED, methods=("decca",)), "unknown method 'decca'"),
        (replace(ASKED, seeds=-1), "seeds = -1"),
        (replace(ASKED, margin=-1.0), "margin = -1"),
        (replace(ASKED, rates=()), "rates"),
    ],
)
def test_bad_comparisons(asked, words, tmp_path):
    with pytest.raises(BadInput, match=words):
        compare.compare(asked, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@cases("method", list(METHODS))
def test_an_arm_takes_its_fixed_knobs_whatever_the_base_says(method):
    from deca_lab.methods import resolve

    assert (
        resolve(
            compare.arm(replace(BASE, topology="star", feedback="downhill", blocks="equal"), method)
        ).method
        == method
    )


def test_the_page_holds_table_differences_curves_and_grid(done):
    table, out = done
    page = compare_report.write(ASKED, table, out)
    text = page.read_text()
    for row in compare.paired(table, "test_loss").itertuples():
        assert f">{row.p_holm:.2g}<" in text
        assert f"{row.difference:+.4f}" in text
        assert row.verdict in text
    assert text.count("data:image/png;base64,") == 1
    for row in compare.all_scores(table).itertuples():
        assert row.mean == pytest.approx(
            table[table["chosen"] & (table["arm"] == row.arm)][row.score].mean()
        )
    assert {"test loss", "test perplexity"} <= set(re.findall(r"<td>(test \w+)</td>", text))
    assert "http" not in re.sub(r"base64,[\w+/=]+", "", text)  # an image may spell anything
    assert pd.read_csv(out / "table.csv")["arm"].tolist() == ["deca", "dec-lora", "badam"]
    assert len(pd.read_csv(out / "differences.csv")) == 3


def test_curves_are_the_measured_scores(done):
    table, out = done
    figure = compare_report.draw_curves(compare.curves(out, table), "test_loss")
    runs_of = compare.curves(out, table)["deca"]
    drawn = [line.get_ydata() for line in figure.axes[0].lines]
    np.testing.assert_array_equal(drawn[0], runs_of[0].metrics["test_loss"])
    np.testing.assert_allclose(drawn[2], np.mean([h.metrics["test_loss"] for h in runs_of], 0))
    assert [axes.get_xlabel() for axes in figure.axes] == list(compare_report.AXES)


def test_command_writes_the_page(capsys, tmp_path):
    knobs = options(
        out=tmp_path, methods="deca,dec-lora", seeds=1, rates="0.01", **{**SMALL, "inner_steps": 1}
    )
    said = deca_lab(capsys, "compare", *knobs)
    assert said.code == 0
    assert "compare.html" in said.out
    for methods in ("deca,deca", "deca,", ",deca", "deca,,badam", "", ","):
        assert deca_lab(capsys, "compare", *options(out=tmp_path, methods=methods)).code == 2
    assert deca_lab(capsys, "compare", *options(out=tmp_path, rates="fast")).code == 2
    refused = deca_lab(capsys, "compare", *options(out=tmp_path, lr=0.1))
    assert (refused.code, "--rates are tried" in refused.err) == (2, True)


def test_a_rate_at_the_edge_of_the_grid_is_said():
    table = pd.DataFrame(
        {
            "arm": ["a", "a", "a", "b", "b", "b"],
            "seed": 0,
            "lr": [1, 2, 3] * 2,
            "chosen": [False, True, False, False, False, True],
        }
    )
    assert compare.at_edge(table) == ["b"]
    wider = table.assign(seed=1, lr=table["lr"] - 1)  # another seed's grid goes further down
    both = compare.notes(pd.concat([table, wider], ignore_index=True).assign(validation_loss=1.0))
    assert both == {"b": "rate at the edge of its grid on 2 of 2 seeds"}
    assert compare.at_edge(table[table["lr"] == 3]) == []  # a single rate has no edge


def test_compare_runs_is_each_history_in_a_row(done):
    _, out = done
    histories = [h for hs in compare.curves(out, compare.compare(ASKED, out)).values() for h in hs]
    table = lab.compare_runs([histories[0], histories[1].folder, str(histories[2].folder)])
    assert table["name"].tolist() == [h.folder.name for h in histories[:3]]
    for row, h in zip(table.to_dict("records"), histories, strict=False):
        first, last = h.metrics.iloc[0], h.metrics.iloc[-1]
        assert (row["method"], row["seed"]) == (h.config.method, h.config.seed)
        assert row["inner_steps"] == len(h.train)
        assert [row["test_loss_start"], row["test_loss_end"]] == [
            first["test_loss"],
            last["test_loss"],
        ]
        assert [row["validation_loss_end"], row["consensus_end"]] == [
            last["validation_loss"],
            last["consensus"],
        ]
        assert row["bytes_sent"] == h.edges["measured"].sum() > 0
        assert row["memory"] == last["peak_bytes"] + h.summary["memory"]["shared"]
        assert row["seconds"] == h.timings["seconds"].iloc[-1]


def test_compare_runs_names_runs_in_memory_and_keeps_scores_apart(done):
    _, out = done
    usual = load(next((out / "arms").iterdir()))
    scored = replace(
        usual, folder=None, summary={**usual.summary, "scores": {"test_accuracy": 0.5}}
    )
    table = lab.compare_runs([usual, scored])
    assert table["name"].tolist() == [usual.folder.name, "run 1"]
    np.testing.assert_array_equal(table["test_accuracy"], [np.nan, 0.5])
    assert lab.compare_runs([usual, scored], ["a", "b"])["name"].tolist() == ["a", "b"]
    pd.testing.assert_frame_equal(lab.compare_runs((usual, scored)), table)


@cases(
    ("runs", "words"),
    [
        ([], "histories = .* must be a list"),
        ("folder", "histories = 'folder' .* must be a list"),
        (["nosuch"], r"^histories\[0\] cannot be used: .*nosuch"),
        ([3], r"^histories\[0\] = 3 cannot be used: it must be a History"),
    ],
)
def test_compare_runs_says_which_item_is_bad(runs, words):
    with pytest.raises(BadInput, match=words):
        lab.compare_runs(runs)


def test_compare_runs_says_the_place_of_a_bad_item_among_good_ones(done):
    _, out = done
    good = load(next((out / "arms").iterdir()))
    with pytest.raises(BadInput, match=r"^histories\[2\] cannot be used") as caught:
        lab.compare_runs([good, good, out])
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match=r"names = .* must be 2 names"):
        lab.compare_runs([good, good], ["a"])


@pytest.mark.slow
def test_real_objects_make_the_arms_of_a_comparison_and_are_asked_for_again(tmp_path):
    steps = []
    own = {
        "topology": np.full((4, 4), 0.25),
        "callbacks": [lambda moment: steps.append(moment.step)],
        "metrics": {"disagreement": lambda moment: 1.5},
    }
    asked = replace(ASKED, methods=("deca", "dec-lora"), seeds=1, rates=(1e-3,))
    table = compare.compare(asked, tmp_path, **own)
    assert steps == [*range(1, 9)] * 2
    assert table["disagreement"].tolist() == [1.5, 1.5]
    for h in (h for hs in compare.curves(tmp_path, table).values() for h in hs):
        np.testing.assert_array_equal(h.W[0], own["topology"])
    again = compare.compare(asked, tmp_path, **own)  # finished arms are read, not run
    assert len(steps) == 16
    pd.testing.assert_frame_equal(
        again.drop(columns="seconds"), table.drop(columns="seconds"), check_dtype=False
    )
    with pytest.raises(BadInput):  # another object is another comparison
        compare.compare(asked, tmp_path, **{**own, "topology": np.eye(4) / 2 + 0.125})
