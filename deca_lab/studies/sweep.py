"""One or more knobs varied over seeds: every combination a run, every finished run kept, the choice by validation."""

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from deca_lab.errors import BadInput, Diverged, check, pick
from deca_lab.files import folder, read_text, write_whole
from deca_lab.lab import runs
from deca_lab.lab.history import read_table
from deca_lab.lab.objects import Objects, accepted, named
from deca_lab.lab.prepare import settled
from deca_lab.runconfig import RunConfig
from deca_lab.studies.compare import finished

FIRST = "first.json"  # the config of a sweep's first run
MEASURED = (
    "validation_loss",
    "test_loss",
    "client_test_loss",
    "consensus",
)  # of the last measurement


def parse_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Return {knob: values} of texts such as "b1=0.5,0.9"; raise BadInput at an unknown knob or a value of another type."""
    grid = dict(pairs := [_parse(text) for text in texts])
    check(
        len(grid) == len(pairs), "vary", ", ".join(texts), "each knob once, its values with commas"
    )
    return grid


def _parse(text: str) -> tuple[str, list[Any]]:
    name, _, values = text.partition("=")
    knob = pick({f.name: f for f in fields(RunConfig)}, name.strip().replace("-", "_"), "knob")
    kind: Any = knob.type
    check(bool(values.strip()), "vary", text, f"{knob.name}=VALUE,VALUE,...")
    check(kind is not bool, "vary", text, "a knob with a number or a name")
    try:
        return knob.name, [kind(value.strip()) for value in values.split(",")]
    except ValueError:
        raise BadInput(
            f"vary = {text!r} cannot be used: {knob.name} takes values of type {kind.__name__}"
        ) from None


def sweep(
    base: RunConfig,
    grid: Mapping[str, Sequence[Any]],
    seeds: int,
    out: Path,
    say: Callable[[str], None] = lambda line: None,
    keep: bool = False,
    **objects: Any,  # noqa: ANN401 - as `runs.run` takes them
) -> pd.DataFrame:
    """Run `base` with every combination of the grid and `seeds` seeds; return one row a run.

    The rows are written to `out`/runs.csv after each run, the first config to `out`/first.json, and a sweep that finds
    its own there goes on behind them. A run that diverges has infinite losses.

    With `keep`, every run also leaves its tables, and the column `folder` says where below `out`:
    `[deca_lab.load(out / f) for f in table["folder"]]` are the histories. `objects` are those of
    `runs.run`, such as `model=`; every run gets them, and what `metrics=` measures gets columns.
    """
    check(seeds >= 1, "seeds", seeds, "1 or more")
    for name, values in grid.items():
        check(len(set(values)) == len(values), f"vary {name}", list(values), "different values")
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    arms = [{**point, "seed": base.seed + i} for point in points for i in range(seeds)]
    configs = [replace(base, **arm) for arm in arms]
    places = [f"runs/{k}" if keep else None for k in range(len(arms))]
    own = accepted(base, Objects(**objects))
    first = named(configs[0], own).to_json()
    rows = _kept(out, arms, keep, first)
    for config in configs[len(rows) :]:  # before the first of them runs
        settled(config, own)
    write_whole(out / FIRST, first)
    for arm, config, place in list(zip(arms, configs, places, strict=True))[len(rows) :]:
        rows.append({**arm, **_outcome(config, out, place, objects)})
        write_whole(out / "runs.csv", pd.DataFrame(rows).to_csv(index=False))
        say(
            f"{len(rows)}/{len(arms)}  "
            + "  ".join(f"{name} {value}" for name, value in rows[-1].items())
        )
    return pd.DataFrame(rows)


def _kept(
    out: Path, arms: Sequence[Mapping[str, Any]], keep: bool, first: str
) -> list[dict[str, Any]]:
    """Return the rows of an earlier, interrupted sweep of the same arms, or none; raise BadInput at another sweep's.

    `first` is the config of the first arm, which holds the knobs that all arms share.
    """
    if not (folder(out) / "runs.csv").exists():
        return []
    try:
        rows = read_table(read_text(out / "runs.csv", "the sweep's")).to_dict("records")
    except ValueError as error:  # BadInput is one, and so is pandas' ParserError
        raise BadInput(f"{str(out / 'runs.csv')!r} is damaged: {error}") from None
    begun = zip(rows, arms, strict=False)  # the sweep may have been interrupted
    same = len(rows) <= len(arms) and all(
        row.get(name) == value for row, arm in begun for name, value in arm.items()
    )
    same = same and all(("folder" in row) == keep for row in rows)
    same = same and read_text(out / FIRST, "the sweep's") == first
    check(same, "out", str(out), "a new folder, or that of the same sweep")
    return [_by_name(row) for row in rows]


def _by_name(row: Mapping[Hashable, Any]) -> dict[str, Any]:
    """Return the row under its columns' names as texts, which they are; pandas allows others."""
    return {str(name): value for name, value in row.items()}


def _outcome(
    config: RunConfig, out: Path, place: str | None, objects: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what one run measured at its end; `place` is its folder below `out`, if it is kept."""
    kept = {} if place is None else {"folder": place}
    try:
        done = (
            runs.run(config, **objects) if place is None else finished(config, out / place, objects)
        )
    except Diverged:
        return {**dict.fromkeys(MEASURED, float("inf")), **dict.fromkeys(kept)}
    last = done.metrics.iloc[-1]
    return {
        **{name: float(last[name]) for name in (*MEASURED, *objects.get("metrics", ()))},
        **kept,
    }


def summary(table: pd.DataFrame, knobs: Sequence[str]) -> pd.DataFrame:
    """Return mean and standard deviation over seeds for each point of the grid, the best by validation first."""
    grouped = table.groupby(list(knobs), sort=False)[["validation_loss", "test_loss"]].agg(
        ["mean", "std"]
    )
    grouped.columns = pd.Index([" ".join(column) for column in grouped.columns.to_flat_index()])
    return grouped.reset_index().sort_values("validation_loss mean", kind="stable")
