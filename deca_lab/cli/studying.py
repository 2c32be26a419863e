"""Many runs and what they say: `deca-lab compare`, `findings` and `sweep`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from deca_lab.cli.knobs import Given, with_knobs
from deca_lab.cli.unread import only, require_alone, require_read
from deca_lab.cli.words import JSON, QUIET, show, speaker
from deca_lab.errors import BadInput, check
from deca_lab.files import write_whole
from deca_lab.methods import resolve
from deca_lab.runconfig import RunConfig

SEEDS = "runs of each arm, its rate tuned on each; 0 = 10 where a run is short, else 5 or 3"
GRID = "learning rates to begin with; two or more grow until the best is not at the edge"


@with_knobs("method", "lr", rounds=1, eval_every=32)
def compare(
    given: Given,
    out: Annotated[
        Path, typer.Option(help="folder of the comparison; an interrupted one goes on there")
    ],
    methods: Annotated[
        str, typer.Option(metavar="NAMES", help="separated by commas (deca-lab list methods)")
    ] = "deca,dec-lora,decaf,d-adam",
    seeds: Annotated[int, typer.Option(help=SEEDS)] = 0,
    budget: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="what all methods get equally much of: rounds, steps, bytes or flops",
        ),
    ] = "steps",
    amount: Annotated[
        float, typer.Option(help="of the budget; 0 = what --rounds of the first method cost")
    ] = 0.0,
    rates: Annotated[str, typer.Option(metavar="X,X", help=GRID)] = "0.001,0.003,0.01",
    margin: Annotated[
        float, typer.Option(help="differences of the score below this do not matter; 0 = all do")
    ] = 0.0,
    as_json: JSON = False,
    quiet: QUIET = False,
    **knobs: Any,  # noqa: ANN401 - each has its own knob's type
) -> None:
    """Run several methods with equal budgets on the same seeds, and write a table, curves and a page."""
    from deca_lab.pictures import compare_report
    from deca_lab.studies import compare as cp

    check(0 <= amount < float("inf"), "amount", amount, "a finite number, 0 or more")
    grid = tuple(dict.fromkeys(numbers(rates, "rates")))
    asked = cp.Comparison(
        RunConfig(**knobs), cp.check_methods(methods), seeds, grid, budget, amount, margin
    )
    _require_compared(given, amount, [cp.arm(asked.base, one) for one in asked.methods])
    table = cp.compare(asked, out, speaker(quiet))
    score, higher = cp.score_of(asked.base.task)
    page = compare_report.write(asked, table, out, score, higher)
    columns = ["first", "second", "seeds", "difference", "low", "high", "p_holm", "detectable"]
    means, pairs = cp.summary(table, score), cp.paired(table, score, higher, margin)
    shown = (means, pairs.reindex(columns=[*columns, "verdict"]) if len(pairs) else pairs)
    parts = [part.to_string(index=False) for part in shown if len(part)]
    result = {
        "score": score,
        "methods": means.to_dict("records"),
        "differences": pairs.to_dict("records"),
        "page": page,
    }
    show(as_json, result, "\n\n".join([*parts, f"page: {page}"]))


def _require_compared(given: Given, amount: float, arms: Sequence[RunConfig]) -> None:
    """Refuse the knobs that a comparison sets itself, and those that none of its arms reads."""
    own = {"method": "--methods names them", "lr": "--rates are tried"}
    if amount:
        own["rounds"] = "--amount says how long the methods run"
    _require_of_arms("compare", given, own, arms)


def _require_of_arms(
    study: str, given: Given, own: Mapping[str, str], arms: Sequence[RunConfig]
) -> list[RunConfig]:
    """Refuse the knobs that a study sets itself, with why, and those that no arm reads; return the arms, resolved."""
    for name, why in own.items():
        require_alone(study, only(given, name), why)
    whole = [resolve(arm) for arm in arms]
    require_read(given, whole)
    return whole


def numbers(text: str, argument: str) -> list[float]:
    """Return the numbers of a text such as "0.001,0.01", or raise BadInput."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(
            f"{argument} = {text!r} cannot be used: it must be numbers separated by commas"
        ) from None


def findings(
    out: Annotated[
        Path, typer.Option(help="folder of the examination; an interrupted one goes on there")
    ],
    only: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="findings separated by commas (deca-lab list findings); all when empty",
        ),
    ] = "",
    seeds: Annotated[int, typer.Option(help=SEEDS)] = 0,
    rates: Annotated[str, typer.Option(metavar="X,X", help=GRID)] = "0.001,0.002,0.004",
    steps: Annotated[int, typer.Option(help="inner steps of each arm, a multiple of 12")] = 96,
    context: Annotated[int, typer.Option(help="tokens of context; 0 = 128")] = 0,
    older: Annotated[
        Path | None,
        typer.Option(help="runs.csv of an earlier examination, for findings not examined now"),
    ] = None,
    as_json: JSON = False,
    quiet: QUIET = False,
) -> None:
    """Examine the papers' findings on small models, each with an interval and a verdict, and write a page.

    All of them take most of a day on a laptop, the feedback's an hour or two; finished runs are kept, so that it may be
    broken off.
    """
    import pandas as pd

    from deca_lab import pictures
    from deca_lab.studies import findings_page
    from deca_lab.studies import papers as pp

    chosen = [name.strip() for name in only.split(",")] if only else list(pp.FINDINGS)
    grid = tuple(dict.fromkeys(numbers(rates, "rates")))
    base = replace(pp.BASE, context=context or pp.BASE.context)
    earlier = None if older is None else pp.read_runs(older)
    verdicts = pp.examine(
        out, chosen, seeds, grid, base, speaker(quiet), steps=steps, older=earlier
    )
    parts = pp.feedback_parts(pd.read_csv(out / "runs.csv"))
    page = out / "findings.md"
    write_whole(out / "findings.png", pictures.png(pictures.draw_findings(verdicts)))
    write_whole(page, findings_page.page(verdicts, parts, base, steps))
    rows = [
        f"{row.verdict:<11} {row.gain:+.4f} ({row.low:+.4f} to {row.high:+.4f})  {row.says}"
        for row in verdicts.itertuples()
    ]
    result = {"findings": verdicts.to_dict("records"), "page": page}
    show(as_json, result, "\n".join([*rows, f"page: {page}"]))


@with_knobs()
def sweep(
    given: Given,
    vary: Annotated[
        list[str],
        typer.Option(
            metavar="KNOB=VALUES",
            help="a knob and its values, such as b1=0.5,0.9; may be given again",
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="folder of the table; an interrupted sweep goes on there")
    ],
    seeds: Annotated[
        int, typer.Option(help="runs of each combination, with --seed and the seeds after it")
    ] = 3,
    as_json: JSON = False,
    quiet: QUIET = False,
    **knobs: Any,  # noqa: ANN401 - each has its own knob's type
) -> None:
    """Vary knobs over seeds, all combinations; print the table, the best by validation loss first, and draw it."""
    from deca_lab.studies import sweep as sw

    grid, base = sw.parse_grid(vary), RunConfig(**knobs)
    _require_swept(given, grid, base)
    table = sw.sweep(base, grid, seeds, out, speaker(quiet))
    means, picture = sw.summary(table, list(grid)), None
    if len(grid) <= 2:
        from deca_lab import pictures

        picture = out / "sweep.png"
        write_whole(picture, pictures.png(pictures.draw_sweep(table, list(grid))))
    words = [means.to_string(index=False), *([f"picture: {picture}"] if picture else [])]
    result = {"points": means.to_dict("records"), "table": out / "runs.csv", "picture": picture}
    show(as_json, result, "\n".join(words))


def _require_swept(given: Given, grid: Mapping[str, Sequence[Any]], base: RunConfig) -> None:
    """Refuse a knob that is set twice, and values that no point of the grid reads."""
    check("seed" not in grid, "vary", "seed", "another knob: --seeds says how many seeds there are")
    own = {name: f"--vary {name} sets it" for name in grid}
    points = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    whole = _require_of_arms("sweep", given, own, [replace(base, **point) for point in points])
    for name, values in grid.items():
        for value in values:
            require_read({name: value}, whole)
