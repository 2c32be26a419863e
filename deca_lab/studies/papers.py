"""The two papers' main findings, examined again on small models: which arms, which difference, and what the data say.

What is compared is ours. What a paper reports is taken from transcriptions of its tables, not from its own pages. Every
arm has 96 inner steps, its learning rate chosen on validation data, and the same seeds as the others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from deca_lab.errors import check, pick
from deca_lab.files import write_whole
from deca_lab.runconfig import RunConfig
from deca_lab.studies.compare import arm, at_edge, difference, run_arms, score_of

BASE = RunConfig(topology="erdos-renyi", rounds=1, batch=2, eval_every=1000, checkpoint_every=1000)
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


class Finding(NamedTuple):
    """`first` does better than `second` in the end; with a `margin`, only not worse by more than it (in the score's unit)."""

    says: str
    source: str
    first: str
    second: str
    margin: float = 0.0


LORA = {"rounds": 6}  # rounds of one block: 96 inner steps, as DECA's one round of six
TWO = {**LORA, "clients": 3, "topology": "complete", "labels": "asyncio,email", "split": "shares"}

ARMS: dict[str, tuple[str, Mapping[str, Any]]] = {  # name: (method, knobs that differ from BASE)
    "deca": ("deca", {}),
    "dec-lora": ("dec-lora", LORA),
    "decaf": ("decaf", LORA),
    "dec-adapter": ("dec-adapter", LORA),
    "deca-none": ("deca-no-feedback", {}),
    "deca-trivial": ("deca-trivial", {}),
    "deca-b1-0.9": ("deca", {"b1": 0.9}),
    "deca-downhill": (
        "deca",
        {"feedback": "downhill", "feedback_scale": "lr", "b1": 0.9, "b2": 0.9},
    ),
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
NATS = 0.02  # margin of "as good as", fixed beforehand: nats per byte

FINDINGS: dict[str, Finding] = {
    "methods-lora": Finding(
        "DECA is better than Dec-LoRA", f"{DECA}: 79.32 against 75.52", "deca", "dec-lora"
    ),
    "methods-decaf": Finding(
        "DECA is better than DeCAF", f"{DECA}: 79.32 against 62.15", "deca", "decaf"
    ),
    "methods-adapter": Finding(
        "DECA is better than Dec-Adapter", f"{DECA}: 79.32 against 76.37", "deca", "dec-adapter"
    ),
    "feedback": Finding(
        "the feedback helps (our b1 = 0.99)", f"{DECA}: 79.32 against 73.09", "deca", "deca-none"
    ),
    "feedback-b1": Finding(
        "the feedback helps (b1 = 0.9)", f"{DECA}: 79.32 against 73.09", "deca-b1-0.9", "deca-none"
    ),
    "feedback-downhill": Finding(
        "the feedback helps (downhill, over lr, b1 = b2 = 0.9: not the paper's form)",
        f"{DECA}: 79.32 against 73.09",
        "deca-downhill",
        "deca-none",
    ),
    "feedback-trivial": Finding(
        "DECA is better than its trivial feedback",
        f"{DECA}: 79.32 against 65.19",
        "deca",
        "deca-trivial",
    ),
    "none-trivial": Finding(
        "no feedback is better than the trivial one",
        f"{DECA}: 73.09 against 65.19",
        "deca-none",
        "deca-trivial",
    ),
    "repair": Finding(
        "mixing second moments too makes DECA better",
        "this lab: theory/deca_mixed.ipynb",
        "deca-mixed",
        "deca",
    ),
    "granularity-2": Finding(
        "blocks of 1 layer beat blocks of 2",
        f"{DECA}: finer is better",
        "deca",
        "deca-granularity2",
    ),
    "granularity-4": Finding(
        "blocks of 1 layer beat one block of all 4",
        f"{DECA}: finer is better",
        "deca",
        "deca-granularity4",
    ),
    "granularity-whole": Finding(
        "blocks of 1 layer beat the whole model at once",
        f"{DECA}: finer is better",
        "deca",
        "deca-whole",
    ),
    **{
        f"graph-{graph}": Finding(
            f"DECA is better than Dec-LoRA on the {graph} graph",
            f"{DECA}: also tried",
            f"deca-{graph}",
            f"dec-lora-{graph}",
        )
        for graph in ("ring", "bipartite", "complete")
    },
    "graph-sparse": Finding(
        "DECA on a ring is as good as on the complete graph",
        f"{DECA}: no server is needed",
        "deca-ring",
        "deca-complete",
        NATS,
    ),
    **{
        f"central-{rank}": Finding(
            f"Dec-LoRA is as good as centralised LoRA, rank {rank}",
            f"{DEC_LORA}: on par",
            "dec-lora" if rank == 8 else f"dec-lora-rank{rank}",
            f"centralised-lora-rank{rank}",
            NATS,
        )
        for rank in (2, 4, 8, 16)
    },
    "rank": Finding(
        "rank 2 is as good as rank 8",
        f"{DEC_LORA}: F1 89.31, 89.20, 89.16 for 2, 4, 8",
        "dec-lora-rank2",
        "dec-lora",
        NATS,
    ),
    "quantised": Finding(
        "a 4-bit base is as good as a full one",
        f"{DEC_LORA}: close on MRPC",
        "dec-lora-nf4",
        "dec-lora",
        NATS,
    ),
    "local-steps": Finding(
        "mixing every 5 steps is as good as every step",
        f"{DEC_LORA}: 94.61 (K = 5) against 93.81",
        "dec-lora-k5",
        "dec-lora",
        NATS,
    ),
    "skew-two": Finding(
        "label shares .15/.85, .85/.15, .5/.5 do as well as even ones",
        f"{DEC_LORA}: three clients",
        "dec-lora-two-skewed",
        "dec-lora-two-even",
        NATS,
    ),
    "skew-lora": Finding(
        "Dec-LoRA on Dirichlet(0.25) shards is as good as on IID ones",
        f"{DEC_LORA}: heterogeneous data",
        "dec-lora",
        "dec-lora-iid",
        NATS,
    ),
    "skew-deca": Finding(
        "DECA on Dirichlet(0.25) shards is as good as on IID ones",
        f"{DECA}: non-IID data",
        "deca",
        "deca-iid",
        NATS,
    ),
}


def examine(
    out: Path,
    chosen: Sequence[str] = tuple(FINDINGS),
    seeds: int = 5,
    rates: Sequence[float] = RATES,
    base: RunConfig = BASE,
    say: Callable[[str], None] = lambda line: None,
) -> pd.DataFrame:
    """Run the arms that the chosen findings need and return the verdicts, a row a finding, as `verdict_on` gives them.

    Finished runs are kept in `out`/arms, so a broken examination goes on there. Raises BadInput for an unknown finding, and
    for fewer than two seeds.
    """
    for name in chosen:
        pick(FINDINGS, name, "finding")
    check(len(chosen) > 0, "only", chosen, "one finding or more")
    check(seeds >= 2, "seeds", seeds, "2 or more: one seed has no interval")
    compared = {arm for name in chosen for arm in (FINDINGS[name].first, FINDINGS[name].second)}
    table = run_arms(
        {name: config_of(name, base) for name in ARMS if name in compared}, seeds, rates, out, say
    )
    verdicts = pd.DataFrame([verdict_on(name, table) for name in chosen])
    write_whole(out / "findings.csv", verdicts.to_csv(index=False))
    return verdicts


def config_of(name: str, base: RunConfig = BASE) -> RunConfig:
    """Return the config of an arm, before its learning rate and seed are set."""
    method, knobs = ARMS[name]
    return replace(arm(base, method), **knobs)


def verdict_on(name: str, table: pd.DataFrame) -> dict[str, Any]:
    """Return the verdict that the runs of `table` give on a finding.

    `gain` is by how much the first arm did better, whichever way its score runs, with a paired 95 % interval. Agree: the
    whole interval lies above minus the margin; disagree: all of it lies below; undecided: neither.
    """
    finding = FINDINGS[name]
    score, higher = score_of(config_of(finding.first).task)
    gap = difference(table, finding.first, finding.second, score)
    gain, low, high = (gap.mean, gap.low, gap.high) if higher else (-gap.mean, -gap.high, -gap.low)
    verdict = (
        "agree" if low > -finding.margin else "disagree" if high < -finding.margin else "undecided"
    )
    means: dict[Any, Any] = (
        table[table["chosen"]].groupby("arm")[[score, "lr"]].mean().to_dict("index")
    )
    edge = [a for a in at_edge(table) if a in (finding.first, finding.second)]
    first, second = means[finding.first], means[finding.second]
    return {
        "finding": name,
        "says": finding.says,
        "source": finding.source,
        "score": score,
        "first": first[score],
        "second": second[score],
        "gain": gain,
        "low": low,
        "high": high,
        "margin": finding.margin,
        "seeds": gap.seeds,
        "lr_first": first["lr"],
        "lr_second": second["lr"],
        "edge": " ".join(edge),
        "verdict": verdict,
    }


def page(verdicts: pd.DataFrame) -> str:
    """Return the verdicts as a Markdown page."""
    counts = verdicts["verdict"].value_counts()
    tally = ", ".join(
        f"{int(counts[v])} {v}" for v in ("agree", "disagree", "undecided") if v in counts
    )
    rows = [_line(row) for row in verdicts.to_dict("records")]
    return PAGE.format(seeds=int(verdicts["seeds"].min()), tally=tally, rows="\n".join(rows))


def _line(row: Mapping[Any, Any]) -> str:
    limit = f", margin {row['margin']:g}" if row["margin"] else ""
    mark = (
        f" (rate at the edge of the grid: {row['edge'].replace(' ', ', ')})" if row["edge"] else ""
    )
    return (
        f"| {row['says']} | {row['source']} | {row['first']:.4f} | {row['second']:.4f} | {row['gain']:+.4f} "
        f"({row['low']:+.4f} to {row['high']:+.4f}){limit} | **{row['verdict']}**{mark} |"
    )


PAGE = """# The papers' findings at small scale

Written by `deca-lab findings`, from {seeds} seeds an arm: {tally}.

Every finding compares two arms that differ in what the finding is about, on the same seeds, each at the learning rate that
validation chose. The scores are nats per byte on the common test text (lower is better); the papers report accuracies, but
so small a model classifies hardly better than chance after 96 steps, and chance decides nothing. *Gain* is by how much
the first arm did better, with a paired 95 % interval of Student's.
*Agree*: the whole interval is on the finding's side; *disagree*: all of it is on the other; *undecided*: neither. Where a
finding is "as good as", its side begins at minus the margin, which was fixed before the runs. One in twenty intervals
misses by chance. One small byte model, one kind of text, 96 inner steps: a disagreement is a result about these
conditions, and no agreement proves a finding at the papers' size. What the papers report is taken from transcriptions.

| finding | who says it | first | second | gain | verdict |
|---|---|---|---|---|---|
{rows}

![Gain of the first arm in each finding, with its interval](findings.png)
"""
