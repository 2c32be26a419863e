"""The two papers' main findings, examined again on small models: which arms, which difference, and what the data say.

What is compared is ours. What a paper reports is taken from transcriptions of its tables, not from its own pages. Every
arm has equally many inner steps, on each seed the learning rate that validation chose there, and the same seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from deca_lab.errors import BadInput, check, pick
from deca_lab.files import read_text, write_whole
from deca_lab.lab.history import read_table
from deca_lab.runconfig import RunConfig
from deca_lab.studies import evidence
from deca_lab.studies.compare import arm, gaps_of, notes, run_arms, score_of

BASE = RunConfig(topology="erdos-renyi", rounds=1, batch=2, eval_every=1000, checkpoint_every=1000)
RATES = (1e-3, 2e-3, 4e-3)  # to begin with: they grow by a factor of 2
STEPS = 96  # inner steps of an arm, where they are not reduced


class Finding(NamedTuple):
    """`first` does better than `second` in the end; `as_good`: it is not worse by as much as the margin.

    A gain below `margin`, in the score's unit, does not matter. `also` holds more pairs that ask the
    same question: it is counted once, and on each seed its gain is the mean over all pairs.
    """

    says: str
    source: str
    first: str
    second: str
    margin: float
    as_good: bool = False
    also: tuple[tuple[str, str], ...] = ()

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """All pairs of arms, (first, second)."""
        return ((self.first, self.second), *self.also)

    @property
    def arms(self) -> set[str]:
        """The names of all arms."""
        return {arm for pair in self.pairs for arm in pair}


LORA = {"rounds": 6}  # rounds of one block: 96 inner steps, as DECA's one round of six
TWO = {**LORA, "clients": 3, "topology": "complete", "labels": "asyncio,email", "split": "shares"}

ARMS: dict[str, tuple[str, Mapping[str, Any]]] = {  # name: (method, knobs that differ from BASE)
    "deca": ("deca", {}),
    "dec-lora": ("dec-lora", LORA),
    "decaf": ("decaf", LORA),
    "dec-adapter": ("dec-adapter", LORA),
    "deca-none": ("deca-no-feedback", {}),
    "deca-trivial": ("deca-trivial", {}),
    "deca-zero": ("deca", {"feedback": "zero"}),  # b1 and b2 shrink the moments, nothing is fed
    "deca-b1-0.9": ("deca", {"b1": 0.9}),
    "deca-b1-0.9-zero": ("deca", {"b1": 0.9, "feedback": "zero"}),
    "deca-downhill": (
        "deca",
        {"feedback": "downhill", "feedback_scale": "lr", "b1": 0.9, "b2": 0.9},
    ),
    "deca-both-0.9-zero": ("deca", {"feedback": "zero", "b1": 0.9, "b2": 0.9}),
    "deca-mixed": ("deca-mixed", {}),
    "deca-granularity2": ("deca", {"granularity": 2, "inner_steps": 24}),
    "deca-granularity4": ("deca", {"granularity": 4, "inner_steps": 32}),
    "deca-whole": ("deca", {"blocks": "whole", "inner_steps": 96}),
    **{
        f"{method}-{graph}": (method, {**knobs, "topology": graph})
        for graph in ("ring", "bipartite", "complete")
        for method, knobs in (("deca", {}), ("dec-lora", LORA))
    },
    **{f"dec-lora-rank{rank}": ("dec-lora", {**LORA, "rank": rank}) for rank in (2, 4, 16)},
    **{
        f"centralised-lora-rank{rank}": ("centralised-lora", {**LORA, "rank": rank})
        for rank in (2, 4, 8, 16)
    },
    "dec-lora-nf4": ("dec-lora", {**LORA, "base_weights": "nf4"}),
    "dec-lora-k5": ("dec-lora", {**LORA, "mix_every": 5}),
    "dec-lora-iid": ("dec-lora", {**LORA, "split": "iid"}),
    "deca-iid": ("deca", {"split": "iid"}),
    "dec-lora-two-skewed": ("dec-lora", {**TWO, "shares": "0.15,0.85; 0.85,0.15; 0.5,0.5"}),
    "dec-lora-two-even": ("dec-lora", {**TWO, "shares": "0.5,0.5; 0.5,0.5; 0.5,0.5"}),
}

DECA, DEC_LORA = "DECA (arXiv 2606.03209)", "Dec-LoRA (arXiv 2501.15361)"
LAB = "this lab"
# A gain that does not matter, fixed before the runs, in nats per byte: a quarter of what the first
# examination (five seeds, one tuned rate) called a gain of the same kind. DECA over Dec-LoRA: 0.019.
# The feedback over none: 0.008.
METHODS_MARGIN, FEEDBACK_MARGIN = 0.005, 0.002
ABLATION = f"{DECA}: 79.32 against 73.09"
FINER = f"{DECA}: finer is better"


def _better(
    says: str, source: str, first: str, second: str, margin: float = METHODS_MARGIN
) -> Finding:
    return Finding(says, source, first, second, margin)


def _as_good(says: str, source: str, first: str, second: str) -> Finding:
    return Finding(says, source, first, second, METHODS_MARGIN, as_good=True)


def _feedback(says: str, source: str, first: str, second: str) -> Finding:
    return Finding(says, source, first, second, FEEDBACK_MARGIN)


GRAPHS = tuple(
    (f"deca-{graph}", f"dec-lora-{graph}") for graph in ("ring", "bipartite", "complete")
)
RANKS = tuple((f"dec-lora-rank{rank}", f"centralised-lora-rank{rank}") for rank in (2, 4, 16))

FINDINGS: dict[str, Finding] = {
    "methods-lora": _better(
        "DECA is better than Dec-LoRA, on four graphs",
        f"{DECA}: 79.32 against 75.52",
        "deca",
        "dec-lora",
    )._replace(also=GRAPHS),
    "methods-decaf": _better(
        "DECA is better than DeCAF", f"{DECA}: 79.32 against 62.15", "deca", "decaf"
    ),
    "methods-adapter": _better(
        "DECA is better than Dec-Adapter", f"{DECA}: 79.32 against 76.37", "deca", "dec-adapter"
    ),
    "feedback": _feedback("the feedback helps (our b1 = 0.99)", ABLATION, "deca", "deca-none"),
    "feedback-b1": _feedback("the feedback helps (b1 = 0.9)", ABLATION, "deca-b1-0.9", "deca-none"),
    "feedback-downhill": _feedback(
        "the feedback helps (downhill, over lr, b1 = b2 = 0.9: not the paper's form)",
        ABLATION,
        "deca-downhill",
        "deca-none",
    ),
    "h": _feedback("h in it helps: printed against h = 0 (b1 = 0.99)", LAB, "deca", "deca-zero"),
    "h-b1": _feedback(
        "h in it helps: printed against h = 0 (b1 = 0.9)", LAB, "deca-b1-0.9", "deca-b1-0.9-zero"
    ),
    "h-downhill": _feedback(
        "h in it helps: downhill over lr against h = 0 (b1 = b2 = 0.9)",
        LAB,
        "deca-downhill",
        "deca-both-0.9-zero",
    ),
    "feedback-trivial": _feedback(
        "DECA is better than its trivial feedback",
        f"{DECA}: 79.32 against 65.19",
        "deca",
        "deca-trivial",
    ),
    "none-trivial": _feedback(
        "no feedback is better than the trivial one",
        f"{DECA}: 73.09 against 65.19",
        "deca-none",
        "deca-trivial",
    ),
    "repair": _better(
        "mixing second moments too makes DECA better",
        f"{LAB}: theory/deca_mixed.ipynb",
        "deca-mixed",
        "deca",
    ),
    "granularity-2": _better(
        "blocks of 1 layer beat blocks of 2", FINER, "deca", "deca-granularity2"
    ),
    "granularity-4": _better(
        "blocks of 1 layer beat one block of all 4", FINER, "deca", "deca-granularity4"
    ),
    "granularity-whole": _better(
        "blocks of 1 layer beat the whole model at once", FINER, "deca", "deca-whole"
    ),
    "graph-sparse": _as_good(
        "DECA on a ring is as good as on the complete graph",
        f"{DECA}: no server is needed",
        "deca-ring",
        "deca-complete",
    ),
    "central": _as_good(
        "Dec-LoRA is as good as centralised LoRA, over ranks 2, 4, 8 and 16",
        f"{DEC_LORA}: on par",
        "dec-lora",
        "centralised-lora-rank8",
    )._replace(also=RANKS),
    "rank": _as_good(
        "rank 2 is as good as rank 8",
        f"{DEC_LORA}: F1 89.31, 89.20, 89.16 for 2, 4, 8",
        "dec-lora-rank2",
        "dec-lora",
    ),
    "quantised": _as_good(
        "a 4-bit base is as good as a full one",
        f"{DEC_LORA}: close on MRPC",
        "dec-lora-nf4",
        "dec-lora",
    ),
    "local-steps": _as_good(
        "mixing every 5 steps is as good as every step",
        f"{DEC_LORA}: 94.61 (K = 5) against 93.81",
        "dec-lora-k5",
        "dec-lora",
    ),
    "skew-two": _as_good(
        "label shares .15/.85, .85/.15, .5/.5 do as well as even ones",
        f"{DEC_LORA}: three clients",
        "dec-lora-two-skewed",
        "dec-lora-two-even",
    ),
    "skew-lora": _as_good(
        "Dec-LoRA on Dirichlet(0.25) shards is as good as on IID ones",
        f"{DEC_LORA}: heterogeneous data",
        "dec-lora",
        "dec-lora-iid",
    ),
    "skew-deca": _as_good(
        "DECA on Dirichlet(0.25) shards is as good as on IID ones",
        f"{DECA}: non-IID data",
        "deca",
        "deca-iid",
    ),
}
# What a feedback gains over none is what the shrinking gains (h = 0 over none) and what h gains (over h = 0).
FEEDBACKS = {  # its form: with h, with h = 0, without any
    "printed, b1 = 0.99, b2 = 0.999": ("deca", "deca-zero", "deca-none"),
    "printed, b1 = 0.9, b2 = 0.999": ("deca-b1-0.9", "deca-b1-0.9-zero", "deca-none"),
    "downhill over lr, b1 = b2 = 0.9": ("deca-downhill", "deca-both-0.9-zero", "deca-none"),
}


def examine(
    out: Path,
    chosen: Sequence[str] = tuple(FINDINGS),
    seeds: int = 0,
    rates: Sequence[float] = RATES,
    base: RunConfig = BASE,
    say: Callable[[str], None] = lambda line: None,
    *,
    steps: int = STEPS,
    older: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Run the arms that the chosen findings need and return the verdicts, a row a finding, as `verdicts_on` gives them.

    `seeds` and `rates` as in `compare.run_arms`. Finished runs are kept in `out`/arms, so a broken
    examination goes on there. `older` are rows of an earlier examination: they speak of the findings
    that are not examined now, and belong to the same family. Writes runs.csv, findings.csv and
    feedback.csv. Raises BadInput for an unknown finding, for one seed, and for a number of steps that
    the arms cannot have.
    """
    for name in chosen:
        pick(FINDINGS, name, "finding")
    check(len(chosen) > 0, "only", chosen, "one finding or more")
    check(seeds != 1, "seeds", seeds, "2 or more: one seed has no interval")
    check(steps > 0 and steps % 12 == 0, "steps", steps, "a multiple of 12")
    compared = {name for finding in chosen for name in FINDINGS[finding].arms}
    arms = {name: config_of(name, base, steps) for name in ARMS if name in compared}
    table = run_arms(arms, seeds, rates, out, say)
    if older is not None:
        parts = [table.assign(protocol=NOW), older.assign(protocol=OLDER)]
        table = pd.concat(parts, ignore_index=True)
        write_whole(out / "runs.csv", table.to_csv(index=False))
    verdicts = verdicts_on(table, chosen if older is None else tuple(FINDINGS))
    write_whole(out / "findings.csv", verdicts.to_csv(index=False))
    write_whole(out / "feedback.csv", feedback_parts(table).to_csv(index=False))
    return verdicts


NOW, OLDER = "now", "older"  # protocols of an examination's rows


def read_runs(path: Path) -> pd.DataFrame:
    """Return the older rows of an examination's runs.csv, all if it has but one kind, or raise BadInput."""
    try:
        rows = read_table(read_text(path, "an examination's"))
    except ValueError as error:  # BadInput is one, and so is pandas' ParserError
        raise BadInput(f"older = {str(path)!r} cannot be used: {error}") from None
    needed = {"arm", "seed", "lr", "chosen", "validation_loss", "test_loss"}
    check(needed <= set(rows), "older", str(path), "the runs.csv of an examination")
    return rows[rows["protocol"] == OLDER] if "protocol" in rows else rows


def config_of(name: str, base: RunConfig = BASE, steps: int = STEPS) -> RunConfig:
    """Return the config of an arm of so many inner steps, before its learning rate and seed are set."""
    method, knobs = ARMS[name]
    whole = replace(arm(base, method), **knobs)
    return replace(whole, inner_steps=max(whole.inner_steps * steps // STEPS, 1))


def verdicts_on(table: pd.DataFrame, names: Sequence[str] = tuple(FINDINGS)) -> pd.DataFrame:
    """Return a row for each of these findings whose arms are all in a table of runs, weighed as one family.

    Columns beside those of `evidence.weigh`: finding, says, source, kind; score, first, second (means
    of the scores), margin; lr_first, lr_second (the chosen rates); shares (findings that rest on some
    of the same runs); notes (what spoils a mean); protocol. `gain` is by how much the first arm did
    better, whichever way its score runs.
    """
    parts = _protocols(table)
    judged = {name: rows for name in names if (rows := _rows_for(name, parts)) is not None}
    check(len(judged) > 0, "table", list(table.get("arm", ())), "runs of both arms of a finding")
    cases = [
        evidence.Case(_gains(finding, rows), finding.margin, finding.as_good)
        for finding, rows in ((FINDINGS[name], rows) for name, rows in judged.items())
    ]
    said = [_known(name, rows, judged) for name, rows in judged.items()]
    return pd.DataFrame([{**a, **b} for a, b in zip(said, evidence.weigh(cases), strict=True)])


def _protocols(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the runs by protocol, the present one first."""
    if "protocol" not in table:
        return {NOW: table}
    return {str(name): rows for name, rows in table.groupby("protocol", sort=False)}


def _rows_for(name: str, parts: Mapping[str, pd.DataFrame]) -> pd.DataFrame | None:
    """Return the runs of the first protocol that has all arms of a finding."""
    whole = (rows for rows in parts.values() if FINDINGS[name].arms <= set(rows["arm"]))
    return next(whole, None)


def gains(name: str, table: pd.DataFrame) -> np.ndarray:
    """Return by how much a finding's first arm did better (seeds,), of a table of runs; raise BadInput without its arms."""
    finding = pick(FINDINGS, name, "finding")
    rows = _rows_for(name, _protocols(table))
    return _gains(finding, table if rows is None else rows)


def _gains(finding: Finding, table: pd.DataFrame) -> np.ndarray:
    missing = sorted(finding.arms - set(table["arm"]))
    check(not missing, "table", list(table["arm"].unique()), f"runs of {', '.join(missing)} too")
    score, higher = score_of(config_of(finding.first).task)
    both = [gaps_of(table, first, second, score) for first, second in finding.pairs]
    mean = pd.concat(both, axis=1).dropna().mean(axis=1)
    return mean.to_numpy() * (1 if higher else -1)


def _known(name: str, table: pd.DataFrame, judged: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Return what a finding's row says beside its weights."""
    finding = FINDINGS[name]
    score, _ = score_of(config_of(finding.first).task)
    chosen = table[table["chosen"]].groupby("arm")
    firsts, seconds = zip(*finding.pairs, strict=True)
    others = [n for n, rows in judged.items() if n != name and rows is table]
    remarks = {arm: text for arm, text in notes(table).items() if arm in finding.arms}
    return {
        "finding": name,
        "says": finding.says,
        "source": finding.source,
        "kind": "as good" if finding.as_good else "better",
        "score": score,
        "first": float(chosen[score].mean()[list(firsts)].mean()),
        "second": float(chosen[score].mean()[list(seconds)].mean()),
        "margin": finding.margin,
        "lr_first": float(chosen["lr"].median()[finding.first]),
        "lr_second": float(chosen["lr"].median()[finding.second]),
        "shares": " ".join(n for n in others if FINDINGS[n].arms & finding.arms),
        "notes": "; ".join(f"{arm}: {text}" for arm, text in remarks.items()),
        "protocol": table["protocol"].iloc[0] if "protocol" in table else NOW,
    }


def feedback_parts(table: pd.DataFrame) -> pd.DataFrame:
    """Return what each form of the feedback gains over none, and of that the shrinking and h, with 95 % intervals.

    A row a form and part (whole, shrinking, h), of the forms whose three arms are in the table: gain,
    low, high, seeds. The gains of the parts sum to the whole's; none is corrected for the others.
    """
    rows = _protocols(table).get(NOW, table)
    forms = {form: arms for form, arms in FEEDBACKS.items() if set(arms) <= set(rows["arm"])}
    return pd.DataFrame(
        [
            {"form": form, "part": part, **_gain(rows, first, second)}
            for form, (fed, zero, none) in forms.items()
            for part, first, second in (
                ("whole", fed, none),
                ("shrinking", zero, none),
                ("h", fed, zero),
            )
        ],
        columns=["form", "part", "gain", "low", "high", "seeds"],
    )


def _gain(table: pd.DataFrame, first: str, second: str) -> dict[str, Any]:
    gaps = -gaps_of(table, first, second, "test_loss").to_numpy()
    low, high = evidence.interval(gaps)
    return {"gain": evidence.mean(gaps), "low": low, "high": high, "seeds": len(gaps)}
