"""Methods side by side: the same start, shards, budget and seeds, each at the learning rate that validation chose."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from deca_lab import history, ledger, runs
from deca_lab.errors import BadInput, Diverged, check, pick
from deca_lab.files import write_whole
from deca_lab.lab import Lab, prepare
from deca_lab.methods import METHODS
from deca_lab.runconfig import RunConfig, defaults
from deca_lab.tasks import TASKS

Say = Callable[[str], None]
BUDGETS: dict[str, Callable[[Lab], float]] = {      # what one round of an arm costs
    "rounds": lambda lab: 1.0,
    "steps": lambda lab: float(lab.plan.steps),
    "bytes": lambda lab: float(ledger.traffic(lab.plan).sum()),
    "flops": lambda lab: ledger.flops(lab.plan, lab.model, lab.config.clients * lab.config.batch * lab.config.context),
}


@dataclass(frozen=True)
class Comparison:
    """What is compared: `base` holds all knobs that the methods share; `amount` 0 is what the first method's rounds cost."""

    base: RunConfig
    methods: tuple[str, ...]
    seeds: int = 3
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    budget: str = "steps"
    amount: float = 0.0


def compare(asked: Comparison, out: Path, say: Say = lambda line: None) -> pd.DataFrame:
    """Run all arms and return one row a run: method, seed, lr, whether it is the chosen rate, and the last measurement.

    Every rate of the grid is tried on the first seed, with the full budget; the one with the lowest validation loss is
    then run on the other seeds. Each arm has a run folder under `out`/arms: finished ones are kept, a broken one is
    resumed. Raises BadInput where no arm can meet the budget or a name is unknown.
    """
    check(asked.seeds >= 1, "seeds", asked.seeds, "1 or more")
    check(len(asked.rates) > 0, "rates", asked.rates, "one learning rate or more")
    arms = {method: replace(arm(asked.base, method), rounds=rounds) for method, rounds in rounds_of(asked).items()}
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for config in arms.values():
        tried = [_row(replace(config, lr=rate), out, say) for rate in asked.rates]
        best = min(tried, key=lambda row: float(row["validation_loss"]))["lr"]
        others = [_row(replace(config, lr=best, seed=config.seed + i), out, say) for i in range(1, asked.seeds)]
        rows += [{**row, "chosen": row["lr"] == best} for row in [*tried, *others]]
        write_whole(out / "runs.csv", pd.DataFrame(rows).to_csv(index=False))
    return pd.DataFrame(rows)


def arm(base: RunConfig, method: str) -> RunConfig:
    """Return the config of one method; the knobs that it fixes are left to it, whatever the base says."""
    usual, fixed = defaults(), pick(METHODS, method, "method").fixed
    return replace(base, method=method, **{name: usual[name] for name in fixed if name != "clients"})


def rounds_of(asked: Comparison) -> dict[str, int]:
    """Return how many rounds each method gets for the budget."""
    cost = pick(BUDGETS, asked.budget, "budget")
    check(len(asked.methods) > 0, "methods", asked.methods, "one method or more")
    configs = {method: arm(asked.base, method) for method in asked.methods}
    if asked.budget == "rounds":
        return dict.fromkeys(configs, int(asked.amount) or asked.base.rounds)
    costs = {method: cost(prepare(replace(config, rounds=1))) for method, config in configs.items()}
    free = [method for method, price in costs.items() if price == 0]
    check(not free, "budget", asked.budget, f"another: {', '.join(free)} sends nothing, and would never end")
    amount = asked.amount or asked.base.rounds * costs[asked.methods[0]]
    short = {method: price for method, price in costs.items() if price > amount}
    if short:
        prices = ", ".join(f"{method} {price:.3g}" for method, price in short.items())
        raise BadInput(f"amount = {amount:.3g} {asked.budget} is less than one round of these methods costs: {prices}")
    return {method: int(amount // price) for method, price in costs.items()}


def _row(config: RunConfig, out: Path, say: Say) -> dict[str, Any]:
    """Return the row of one arm, from its folder where it has finished."""
    folder = out / "arms" / f"{config.method}-lr{config.lr:g}-seed{config.seed}"
    known: dict[str, Any] = {"method": config.method, "seed": config.seed, "lr": config.lr}
    try:
        told = _finished(config, folder)
    except Diverged as error:
        say(f"{folder.name}: {error}")
        return {**known, "validation_loss": float("inf"), "test_loss": float("inf")}
    say(f"{folder.name}: validation loss {told.metrics['validation_loss'].iloc[-1]:.4f}")
    memory, last = told.summary["memory"], told.metrics.iloc[-1].drop(["round", "block"])
    return {**known, **{str(name): value for name, value in last.items()}, "rounds": config.rounds,
            "seconds": float(told.timings["seconds"].iloc[-1]), "memory": memory["measured_peak"] + memory["shared"],
            "parameters": told.summary["parameters"]}


def _finished(config: RunConfig, folder: Path) -> history.History:
    if (folder / "summary.json").exists():
        check(runs.read_config(folder) == config, "out", str(folder), "a new folder: this arm was run with other knobs")
        return history.load(folder)
    if (folder / "checkpoint.safetensors").exists():
        told = runs.resume(folder)
    else:
        if (folder / "config.json").exists():            # an arm that was broken off before its first checkpoint
            shutil.rmtree(folder)
        told = runs.run(config, folder)
    (folder / "checkpoint.safetensors").unlink()        # a comparison keeps tables, not models
    return told


def score_of(task: str) -> tuple[str, bool]:
    """Return the column by which methods are compared on a task, and whether higher is better: its first score, or the loss."""
    first = next(iter(TASKS[task].scores.items()), None)
    return ("test_loss", False) if first is None else (f"test_{first[0]}", first[1])


def summary(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """Return mean and standard deviation over seeds of each method at its chosen rate, in the order given."""
    chosen = table[table["chosen"]]
    grouped = chosen.groupby("method", sort=False)
    means = grouped[[score, "bytes_sent", "seconds", "memory", "parameters", "lr", "step"]].mean()
    return means.assign(sd=grouped[score].std(), seeds=grouped.size()).reset_index()


def paired(table: pd.DataFrame, score: str, higher: bool = False, confidence: float = 0.95) -> pd.DataFrame:
    """Return the differences of each pair of methods on the same seeds: mean, t interval, and what it says.

    The interval is Student's on the paired differences (first minus second); with fewer than two seeds there is none.
    """
    by_seed = table[table["chosen"]].pivot_table(index="seed", columns="method", values=score, sort=False)
    names = list(dict.fromkeys(table["method"]))
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1:]]
    return pd.DataFrame([_difference(a, b, by_seed[a] - by_seed[b], higher, confidence) for a, b in pairs])


def _difference(a: str, b: str, gaps: pd.Series, higher: bool, confidence: float) -> dict[str, object]:
    from scipy.stats import t

    gaps = gaps.dropna()
    n, mean = len(gaps), float(gaps.mean())
    half = float(t.ppf(0.5 + confidence / 2, n - 1) * gaps.std() / n**0.5) if n > 1 else float("nan")
    decided = abs(mean) > half
    better = a if (mean > 0) == higher else b
    return {"first": a, "second": b, "seeds": n, "difference": mean, "low": mean - half, "high": mean + half,
            "verdict": f"{better} is better" if decided else "undecided"}


def at_edge(table: pd.DataFrame) -> list[str]:
    """Return the methods whose chosen rate is the smallest or largest of the grid: theirs may lie beyond it."""
    rates = sorted(set(table["lr"]))
    chosen = table[table["chosen"] & table["lr"].isin([rates[0], rates[-1]])]
    return list(dict.fromkeys(chosen["method"])) if len(rates) > 2 else []


def curves(out: Path, table: pd.DataFrame) -> dict[str, list[history.History]]:
    """Return the histories of each method's runs at the chosen rate, for the learning curves."""
    chosen = table[table["chosen"] & table["step"].notna()]
    named: dict[str, list[history.History]] = {method: [] for method in dict.fromkeys(chosen["method"])}
    for row in chosen.itertuples():
        named[str(row.method)].append(history.load(out / "arms" / f"{row.method}-lr{row.lr:g}-seed{row.seed}"))
    return named


def check_methods(names: str) -> tuple[str, ...]:
    """Return the methods of a text such as "deca,dec-lora"; raise BadInput at an unknown or repeated one."""
    given: Sequence[str] = [name.strip() for name in names.split(",") if name.strip()]
    for name in given:
        pick(METHODS, name, "method")
    check(len(set(given)) == len(given) > 0, "methods", names, "different methods, separated by commas")
    return tuple(given)
