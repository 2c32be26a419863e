"""Methods side by side: the same start, shards, budget and seeds, each at the rate that validation chose on that seed."""

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from deca_lab import files
from deca_lab.errors import BadInput, Diverged, check, pick, quoted
from deca_lab.files import write_whole
from deca_lab.lab import history, ledger, runs
from deca_lab.lab.objects import Objects, accepted, named
from deca_lab.lab.prepare import Lab, prepare
from deca_lab.methods import METHODS
from deca_lab.registry import load_plugins
from deca_lab.runconfig import RunConfig, changed_knobs, defaults
from deca_lab.studies import evidence, tuning
from deca_lab.text.tasks import TASKS

Say = Callable[[str], None]
Given = Mapping[str, Any]  # keyword arguments of `runs.run`
BUDGETS: dict[str, Callable[[Lab], float]] = {  # what one round of an arm costs
    "rounds": lambda lab: 1.0,
    "steps": lambda lab: float(lab.plan.steps),
    "bytes": lambda lab: float(ledger.traffic(lab.plan).sum()),
    "flops": lambda lab: ledger.flops(
        lab.plan, lab.model, lab.config.clients * lab.config.batch * lab.config.context
    ),
}


@dataclass(frozen=True)
class Comparison:
    """What is compared: `base` holds all knobs that the methods share.

    `seeds` 0 is as many as `seeds_for` gives; `amount` 0 is what the first method's rounds cost; a
    difference below `margin`, in the unit of the task's score, does not matter.
    """

    base: RunConfig
    methods: tuple[str, ...]
    seeds: int = 0
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    budget: str = "steps"
    amount: float = 0.0
    margin: float = 0.0


def compare(
    asked: Comparison,
    out: Path,
    say: Say = lambda line: None,
    **objects: Any,  # noqa: ANN401 - as `runs.run` takes them
) -> pd.DataFrame:
    """Run every method as an arm with the same budget, and return one row a run, as `run_arms` does.

    `objects` are those of `runs.run`, such as `model=` and `dataset=`; every arm gets them. Raises
    BadInput where no arm can meet the budget or a name is unknown.
    """
    check(asked.margin >= 0, "margin", asked.margin, "0 or more")
    rounds = rounds_of(asked, **objects)
    arms = {
        method: replace(arm(asked.base, method), rounds=many) for method, many in rounds.items()
    }
    return run_arms(arms, asked.seeds, asked.rates, out, say, **objects)


def run_arms(
    arms: Mapping[str, RunConfig],
    seeds: int,
    rates: Sequence[float],
    out: Path,
    say: Say = lambda line: None,
    **objects: Any,  # noqa: ANN401 - as `runs.run` takes them
) -> pd.DataFrame:
    """Run named configs and return one row a run: arm, seed, lr, whether that rate was chosen, and the last measurement.

    On every seed each arm's rate is tuned by validation loss, as `tuning.tried` does: the grid grows
    until its best rate is not at its edge. `seeds` 0 is as many as `seeds_for` gives for the first arm. Each run has a
    folder under `out`/arms, which `folder_of` names and `deca_lab.load` reads: finished ones are kept,
    a broken one is resumed. Seeds are the outer loop, so that a study broken off has whole pairs.
    `objects` are those of `runs.run` and go to every run. Raises BadInput for a number out of range,
    and where a folder holds another run.
    """
    check(seeds >= 0, "seeds", seeds, "1 or more, or 0 for as many as a run's cost allows")
    tuning.check_rates(rates)
    free = not (out / "config.json").exists()
    check(free, "out", str(out), "a new folder, or one of a comparison: this one holds a run")
    many = seeds or seeds_for(next(iter(arms.values())), say, **objects)
    files.folder(out)
    rows: list[dict[str, Any]] = []
    for i in range(many):
        for name, config in arms.items():
            rows += _tuned(name, replace(config, seed=config.seed + i), rates, out, say, objects)
            write_whole(out / "runs.csv", pd.DataFrame(rows).to_csv(index=False))
    return pd.DataFrame(rows)


def _tuned(
    name: str, config: RunConfig, rates: Sequence[float], out: Path, say: Say, objects: Given
) -> list[dict[str, Any]]:
    """Return the rows of an arm on one seed, by rate."""
    rows: dict[float, dict[str, Any]] = {}

    def loss_at(rate: float) -> float:
        rows[rate] = _row(name, replace(config, lr=rate), out, say, objects)
        return float(rows[rate]["validation_loss"])

    chosen = tuning.best(tuning.tried(loss_at, rates))
    return [{**rows[rate], "chosen": rate == chosen} for rate in sorted(rows)]


SHORT = ((1e13, 10), (1e16, 5))  # floating-point operations of a run -> seeds; 3 beyond


def seeds_for(config: RunConfig, say: Say, **objects: Any) -> int:  # noqa: ANN401
    """Return how many seeds the cost of a run allows: 10 where it is short, 5, or 3; and say it."""
    cost = _flops(config, objects)
    many = next((seeds for most, seeds in SHORT if cost <= most), 3)
    say(f"{many} seeds, for a run takes {cost:.1e} floating-point operations (--seeds)")
    return many


def _flops(config: RunConfig, objects: Given) -> float:
    one = prepare(replace(config, rounds=1), objects=Objects(**objects))
    return config.rounds * BUDGETS["flops"](one)


def arm(base: RunConfig, method: str) -> RunConfig:
    """Return the config of one method; the knobs that it fixes are its own, not the base's."""
    usual, fixed = defaults(), pick(METHODS, method, "method").fixed
    return replace(
        base, method=method, **{name: usual[name] for name in fixed if name != "clients"}
    )


def rounds_of(asked: Comparison, **objects: Any) -> dict[str, int]:  # noqa: ANN401
    """Return how many rounds each method gets for the budget; `objects` as in `compare`."""
    cost = pick(BUDGETS, asked.budget, "budget")
    check(len(asked.methods) > 0, "methods", asked.methods, "one method or more")
    configs = {method: arm(asked.base, method) for method in asked.methods}
    if asked.budget == "rounds":
        return dict.fromkeys(configs, int(asked.amount) or asked.base.rounds)
    costs = {
        method: cost(prepare(replace(config, rounds=1), objects=Objects(**objects)))
        for method, config in configs.items()
    }
    free = [method for method, price in costs.items() if price == 0]
    check(
        not free,
        "budget",
        asked.budget,
        f"another: {', '.join(free)} sends nothing, and would never end",
    )
    amount = asked.amount or asked.base.rounds * costs[asked.methods[0]]
    short = {method: price for method, price in costs.items() if price > amount}
    if short:
        prices = ", ".join(f"{method} {price:.3g}" for method, price in short.items())
        raise BadInput(
            f"amount = {amount:.3g} {asked.budget} is less than one round of these methods costs: {prices}"
        )
    return {method: int(amount // price) for method, price in costs.items()}


def _row(name: str, config: RunConfig, out: Path, say: Say, objects: Given) -> dict[str, Any]:
    """Return the row of one run, from its folder where it has finished."""
    folder = folder_of(out, name, config.lr, config.seed)
    known: dict[str, Any] = {"arm": name, "seed": config.seed, "lr": config.lr}
    try:
        done = finished(config, folder, objects)
    except Diverged as error:
        say(f"{folder.name}: {error}")
        return {**known, "validation_loss": float("inf"), "test_loss": float("inf")}
    say(f"{folder.name}: validation loss {done.metrics['validation_loss'].iloc[-1]:.4f}")
    last = done.metrics.iloc[-1].drop(["round", "block"])
    measured = {str(name): value for name, value in last.items()}
    majority = done.summary.get("majority")  # accuracy of naming the commonest label
    measured |= {} if majority is None else {"majority": majority}
    return {
        **known,
        **measured,
        "rounds": config.rounds,
        **_costs(done),
        "parameters": done.summary["parameters"],
    }


def folder_of(out: Path, arm: str, lr: float, seed: int) -> Path:
    """Return the run folder of an arm's run in a comparison's folder."""
    return out / "arms" / f"{arm}-lr{lr:g}-seed{seed}"


def _costs(done: history.History) -> dict[str, float]:
    """Return what a run took: seconds, and bytes of memory at the peak, all clients and what they share."""
    memory = done.summary["memory"]
    return {
        "seconds": float(done.timings["seconds"].iloc[-1]),
        "memory": memory["measured_peak"] + memory["shared"],
    }


def finished(config: RunConfig, folder: Path, objects: Given) -> history.History:
    """Return the history of a study's run: read where it has finished, resumed where it was broken off.

    Raises BadInput where the folder holds another run.
    """
    ended, begun = ((folder / name).exists() for name in ("summary.json", "checkpoint.safetensors"))
    if ended or begun:
        _require_same(config, folder, objects)
    if ended:
        return history.load(folder)
    if begun:
        done = runs.resume(folder, **objects)
    else:
        # The arm was broken off before its first checkpoint.
        if (folder / "config.json").exists():
            shutil.rmtree(folder)
        done = runs.run(config, folder, **objects)
    # A comparison keeps tables, not models.
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    return done


def _require_same(config: RunConfig, folder: Path, objects: Given) -> None:
    """Raise BadInput, with the knobs that differ, where a folder holds a run of another config."""
    asked = named(config, accepted(config, Objects(**objects)))
    knobs = changed_knobs(asked, asdict(runs.read_config(folder)))
    allowed = f"a new folder: this arm was run with other knobs ({', '.join(knobs)})"
    check(not knobs, "out", str(folder), allowed)


def score_of(task: str) -> tuple[str, bool]:
    """Return the column by which methods are compared on a task, and whether higher is better: its first score, or the loss."""
    first = next(iter(TASKS[task].scores.items()), None)
    return ("test_loss", False) if first is None else (f"test_{first[0]}", first[1])


def summary(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """Return a row an arm, in the order given: means over seeds at the rates that were chosen on each.

    `sd` is of the score; the other scores on the test data follow it, then the costs; lr_low and
    lr_high are the chosen rates; `notes` says what spoils a mean.
    """
    chosen = table[table["chosen"]]
    others = [name for name in _scores(table) if name != score]
    costs = ["bytes_sent", "seconds", "memory", "parameters", "step"]
    grouped = chosen.groupby("arm", sort=False)
    means = grouped[[score, *others, *costs]].mean()
    means.insert(1, "sd", grouped[score].std())
    rates = {"lr_low": grouped["lr"].min(), "lr_high": grouped["lr"].max()}
    remarks = notes(table)
    said = {"notes": [remarks.get(name, "") for name in means.index]}
    return means.assign(**rates, seeds=grouped.size(), **said).reset_index()


def _scores(table: pd.DataFrame) -> list[str]:
    """Return the columns of a table that are scores on the test data, and the majority where it is known."""
    known = [str(name) for name in table if str(name).startswith("test_")]
    voted = "majority" in table and bool(table["majority"].notna().any())
    return known + ["majority"] * voted


def notes(table: pd.DataFrame) -> dict[str, str]:
    """Return what spoils an arm's mean, by its name: a rate at the edge, runs at chance, runs that diverged."""
    chosen = table[table["chosen"]]
    diverged = ~np.isfinite(chosen["validation_loss"].astype(float))
    remarks = {
        "rate at the edge of its grid": _on_edge(table),
        "no better than the majority": chosen[_at_chance(chosen)],
        "diverged at every rate": chosen[diverged],
    }
    seeds = Counter(chosen["arm"])
    lines: dict[str, list[str]] = {}
    for words, rows in remarks.items():
        for name, many in Counter(rows["arm"]).items():
            lines.setdefault(name, []).append(f"{words} on {many} of {seeds[name]} seeds")
    return {name: "; ".join(said) for name, said in lines.items()}


def _at_chance(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Say of each row whether its accuracy is no more than naming the commonest label gives."""
    if not {"test_accuracy", "majority"} <= set(rows):
        return pd.Series(False, index=rows.index)
    return rows["test_accuracy"].astype(float) <= rows["majority"].astype(float)


def _on_edge(table: pd.DataFrame) -> pd.DataFrame:
    """Return the chosen rows whose rate is the smallest or largest that was tried on that seed."""
    grid = table.groupby(["arm", "seed"])["lr"]
    outer = (table["lr"] == grid.transform("min")) | (table["lr"] == grid.transform("max"))
    return table[table["chosen"] & outer & (grid.transform("nunique") > 1)]


def at_edge(table: pd.DataFrame) -> list[str]:
    """Return the arms whose best rate may lie beyond those that were tried, on one seed or more."""
    return list(dict.fromkeys(_on_edge(table)["arm"]))


def all_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean and standard deviation over seeds of every score on the test data, a row an arm and score."""
    chosen = table[table["chosen"]]
    long = chosen.melt("arm", _scores(table), var_name="score", value_name="value")
    long = long.assign(value=long["value"].astype(float)).dropna()
    return long.groupby(["arm", "score"], sort=False)["value"].agg(["mean", "std"]).reset_index()


def paired(
    table: pd.DataFrame, score: str, higher: bool = False, margin: float = 0.0
) -> pd.DataFrame:
    """Return the differences of each pair of arms on the same seeds, as `evidence.weigh` weighs the family of all pairs."""
    names = list(dict.fromkeys(table["arm"]))
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    if not pairs:
        return pd.DataFrame(columns=["first", "second", "difference", "verdict"])
    cases = [evidence.Case(gaps_of(table, a, b, score).to_numpy(), margin) for a, b in pairs]
    rows = [
        {"first": a, "second": b, **row, "verdict": _words(a, b, row, higher)}
        for (a, b), row in zip(pairs, evidence.weigh(cases), strict=True)
    ]
    return pd.DataFrame(rows).rename(columns={"gain": "difference"})


def _words(a: str, b: str, row: Mapping[Any, Any], higher: bool) -> str:
    if row["verdict"] in ("agree", "disagree"):
        return f"{a if (row['gain'] > 0) == higher else b} is better"
    if row["verdict"] == "undecidable":
        return f"undecided, and could not be: needs {row['needed']:.0f} seeds"
    return "equal within the margin" if row["verdict"] == "equal" else str(row["verdict"])


class Difference(NamedTuple):
    """A paired difference, first arm minus second: mean over the seeds that both have, and Student's interval."""

    mean: float
    low: float
    high: float
    seeds: int


def gaps_of(table: pd.DataFrame, first: str, second: str, score: str) -> "pd.Series[float]":
    """Return first minus second by seed, at their chosen rates, where both have a finite score."""
    by_seed = table[table["chosen"]].pivot_table(
        index="seed", columns="arm", values=score, sort=False
    )
    gaps = (by_seed[first] - by_seed[second]).astype(float)
    return gaps[np.isfinite(gaps)]


def difference(
    table: pd.DataFrame, first: str, second: str, score: str, confidence: float = 0.95
) -> Difference:
    """Return the paired difference of two arms at their chosen rates; NaN for its ends with fewer than two seeds."""
    gaps = gaps_of(table, first, second, score).to_numpy()
    return Difference(evidence.mean(gaps), *evidence.interval(gaps, confidence), len(gaps))


def compare_runs(
    histories: Sequence[history.History | Path | str], names: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return one row a run, of histories or of folders that hold finished runs.

    Columns: name (that of the folder, or "run 0" for the first in memory), method, seed,
    inner_steps; test_loss_start, test_loss_end, validation_loss_end (mean model, nats per token),
    consensus_end; bytes_sent (all clients), memory (bytes at the peak), seconds; then each score on
    the test data, NaN where a run has none of that name. Raises BadInput, which says where in the
    list, for what is not a finished run.
    """
    listed = (
        isinstance(histories, Sequence) and not isinstance(histories, str) and len(histories) > 0
    )
    check(listed, "histories", histories, "a list of one run or more")
    loaded = [_loaded(run, k) for k, run in enumerate(histories)]
    named = [done.folder.name if done.folder else f"run {k}" for k, done in enumerate(loaded)]
    check(
        names is None or len(names) == len(loaded),
        "names",
        names,
        f"{len(loaded)} names, one a run",
    )
    rows = zip(named if names is None else names, loaded, strict=True)
    return pd.DataFrame([{"name": name, **_figures(done)} for name, done in rows])


def _loaded(run: object, place: int) -> history.History:
    if isinstance(run, history.History):
        return run
    allowed = "a History, or the folder of a finished run"
    if not isinstance(run, Path | str):
        raise BadInput(f"histories[{place}] = {quoted(run)} cannot be used: it must be {allowed}")
    try:
        return history.load(run)
    except BadInput as error:
        raise BadInput(f"histories[{place}] cannot be used: {error}") from None


def _figures(done: history.History) -> dict[str, Any]:
    """Return a run in one row."""
    s = done.summary
    return {
        "method": s["method"],
        "seed": done.config.seed,
        "inner_steps": s["inner_steps"],
        "test_loss_start": s["test_loss_start"],
        "test_loss_end": s["test_loss_end"],
        "validation_loss_end": float(done.metrics["validation_loss"].iloc[-1]),
        "consensus_end": s["consensus_end"],
        "bytes_sent": s["bytes_sent"],
        "memory": _costs(done)["memory"],
        "seconds": _costs(done)["seconds"],
        **s.get("scores", {}),
    }


def curves(out: Path, table: pd.DataFrame) -> dict[str, list[history.History]]:
    """Return the histories of each arm's runs at the chosen rate, for the learning curves."""
    chosen = table[table["chosen"] & table["step"].notna()]
    named: dict[str, list[history.History]] = {arm: [] for arm in dict.fromkeys(chosen["arm"])}
    for row in chosen.to_dict("records"):
        named[row["arm"]].append(history.load(folder_of(out, row["arm"], row["lr"], row["seed"])))
    return named


def check_methods(names: str) -> tuple[str, ...]:
    """Return the methods of a text such as "deca,dec-lora"; raise BadInput at an unknown or repeated one."""
    load_plugins()
    given: Sequence[str] = [name.strip() for name in names.split(",")]
    for name in given:
        pick(METHODS, name, "method")
    check(
        len(set(given)) == len(given),
        "methods",
        names,
        "different methods, separated by commas",
    )
    return tuple(given)
