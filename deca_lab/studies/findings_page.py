"""The page of an examination: every finding with its verdict, what of the feedback's gain is h, and which runs are shared."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deca_lab.runconfig import RunConfig
from deca_lab.studies import evidence, papers

if TYPE_CHECKING:
    import pandas as pd


def page(verdicts: "pd.DataFrame", parts: "pd.DataFrame", base: RunConfig, steps: int) -> str:
    """Return the verdicts, and the parts of the feedback's gain, as a Markdown page.

    `base` and `steps` are those of the present runs.
    """
    counts = verdicts["verdict"].value_counts()
    tally = ", ".join(f"{int(counts[v])} {v}" for v in WORDS if v in counts)
    shown = {protocol: _table(rows) for protocol, rows in verdicts.groupby("protocol", sort=False)}
    older = OLDER_HEAD + shown[papers.OLDER] if papers.OLDER in shown else ""
    return PAGE.format(
        tally=tally,
        setting=f"{steps} inner steps of {base.batch} windows of {base.context} tokens for each client",
        command=_command(verdicts[verdicts["protocol"] == papers.NOW], base, steps),
        now=shown.get(papers.NOW, ""),
        parts=_parts(parts),
        older=older,
        shared=_shared(verdicts),
        many=len(verdicts),
        level=f"{evidence.LEVEL / len(verdicts):.2g}",
    )


def _command(rows: "pd.DataFrame", base: RunConfig, steps: int) -> str:
    """Return the command that makes the present rows, with the seeds that they have."""
    only = "" if len(rows) in (0, len(papers.FINDINGS)) else f" --only {','.join(rows['finding'])}"
    seeds = f" --seeds {rows['seeds'].max()}" if len(rows) else ""
    return f"deca-lab findings{only}{seeds} --steps {steps} --context {base.context} --out DIR"


WORDS = ("agree", "disagree", "equal", "undecided", "undecidable")


def _table(rows: "pd.DataFrame") -> str:
    return "\n".join([HEAD, *(_line(row) for row in rows.to_dict("records"))]) + "\n"


def _line(row: Mapping[Any, Any]) -> str:
    seeds = f", would need {row['needed']:.0f} seeds" if row["verdict"] == "undecidable" else ""
    mark = f" ({row['notes']})" if row["notes"] else ""
    margin = f"-{row['margin']:g}" if row["kind"] == "as good" else f"{row['margin']:g}"
    return (
        f"| {row['says']} (`{row['finding']}`) | {row['source']} | {row['first']:.4f} | {row['second']:.4f} | {row['gain']:+.4f} "
        f"({row['low']:+.4f} to {row['high']:+.4f}) | {margin} | {row['seeds']} | {row['p_holm']:.2g}, {row['p_signs']:.2g} | "
        f"{row['p_equal_holm']:.2g} | {row['detectable']:.4f} | **{row['verdict']}**{seeds}{mark} |"
    )


def _parts(parts: "pd.DataFrame") -> str:
    """Return the table of what shrinking and h gain, or nothing where no form has all its arms."""
    if parts.empty:
        return ""
    cells = {
        (row.form, row.part): f"{row.gain:+.4f} ({row.low:+.4f} to {row.high:+.4f})"
        for row in parts.itertuples()
    }
    forms = dict.fromkeys(parts["form"])
    lines = [
        f"| {form} | {' | '.join(cells[form, part] for part in ('whole', 'shrinking', 'h'))} |"
        for form in forms
    ]
    return PARTS_HEAD + "\n".join(lines) + "\n"


def _shared(verdicts: "pd.DataFrame") -> str:
    """Return a line for every arm that stands in several findings of one protocol."""
    lines = []
    for _, rows in verdicts.groupby("protocol", sort=False):
        users = {
            arm: [n for n in rows["finding"] if arm in papers.FINDINGS[n].arms]
            for arm in papers.ARMS
        }
        several = {arm: names for arm, names in users.items() if len(names) > 1}
        lines += [f"- {arm}: {', '.join(names)}" for arm, names in several.items()]
    return "\n".join(lines) or "none"


HEAD = (
    "| finding | who says it | first | second | gain (95 %) | margin | seeds | p: Holm, signs "
    "| p equal: Holm | could be seen | verdict |\n" + "|---" * 11 + "|"
)

PARTS_HEAD = """
## How much of the feedback is h?

The feedback does two things: b1 and b2 shrink the moments, and h is fed into what is left. The arm h = 0 only shrinks. So the
gain over no feedback is the sum of two gains, here in nats per byte with 95 % intervals, each on its own:

| feedback | over none | of that, the shrinking: h = 0 over none | and h: over h = 0 |
|---|---|---|---|
"""

OLDER_HEAD = """
## Measured by an older protocol, on an older text

These rows could not be run again. Their rates were tuned on the first of five seeds alone, on a grid that did not grow, and
the text still had near-duplicates of training rows among its test rows, so their digits differ from what would be measured
now. The tests are today's; every arm had 96 inner steps.

"""

PAGE = """# The papers' findings at small scale

Written by `{command}`: {tally}.

Every finding compares two arms that differ in what the finding is about, on the same seeds, each at the
learning rate that validation chose on that seed, from a grid that grew until the best rate was not at its edge. The scores are
nats per byte on the common test text (lower is better); the papers report accuracies, but so small a model classifies hardly
better than chance after so few steps, and chance decides nothing. An arm has {setting}.

*Gain* is by how much the first arm did better, with Student's paired 95 % interval. The *margin* is a gain that would not matter,
a quarter of what an earlier examination called a gain of the same kind; with a minus it belongs to an "as good as".
*Agree*, *disagree*: the gain is above or below zero, or minus the margin of an "as good as". *Equal*: whatever its sign, the gain
is smaller than the margin, by two one-sided tests. *Undecided*: neither. *Undecidable*: neither, and a gain of the margin would
have been seen less than four times in five; the number of seeds that it takes stands beside it.

The {many} findings are one family: both kinds of tests are corrected by Holm, so that all verdicts of a kind are right with 95 %
confidence, whatever runs they share. *Could be seen*: the gain that these seeds would have shown with a power of 80 %, at the
level that Holm leaves for sure, {level}. The second p is of the exact test that turns signs, uncorrected: it needs no normal
distribution, but with ten seeds it cannot fall below 0.002. Several graphs, or several ranks, are one question and count once.

One small byte model, one kind of text, short runs: a disagreement is a result about these conditions, and no agreement proves a
finding at the papers' size. What the papers report is taken from transcriptions.

{now}{parts}{older}
## Findings that share runs

An arm is run once, however many findings it stands in. These are not independent of each other, and Holm does not need it:

{shared}

![Gain of the first arm in each finding, with its interval](findings.png)
"""
