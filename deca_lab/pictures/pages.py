"""Pages of HTML that need no network: one frame, light and dark, and curves as data for its script."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from deca_lab.lab.history import History

MOST = 64  # clients with a line of their own
LOG = ("consensus", "gradient_norm")  # measures whose axis counts powers of ten
HIDDEN = ("step", "bytes_sent")  # columns that are axes
Line = dict[str, Any]


def page(template: str, **values: Any) -> str:  # noqa: ANN401 - what the template shows
    """Return a page of a template beside this file; everything from outside is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def curves_of(history: History) -> dict[str, Any]:
    """Return all that one run measured, its mean model's line first, then its clients'."""
    clients = [line for i, line in _clients(history) if i < MOST]
    lines = [{**_mean(history), "name": "mean model", "shown": True}, *clients]
    return _data(lines, "test_loss")


def curves_of_runs(runs: Iterable[tuple[str, History]], first: str = "test_loss") -> dict[str, Any]:
    """Return the mean models' measures of several runs, a line a run; the measure `first` is shown at first."""
    return _data([{**_mean(run), "name": name, "shown": True} for name, run in runs], first)


def _data(lines: list[Line], first: str) -> dict[str, Any]:
    """Return what `curves.js` draws: lines whose x is read by axis, and whose y by measure."""
    names = sorted(dict.fromkeys(n for line in lines for n in line["y"]), key=lambda n: n != first)
    measures = [{"name": n, "label": n.replace("_", " "), "log": n in LOG} for n in names]
    return {"measures": measures, "axes": list(lines[0]["x"]), "lines": lines}


def _mean(history: History) -> Line:
    metrics = history.metrics.select_dtypes("number")
    named = [
        name
        for name in map(str, metrics.columns)
        if name not in HIDDEN and not name.startswith(("client_", "consensus["))
    ]
    return {"x": _axes(history), "y": {name: _numbers(metrics[name]) for name in named}}


def _clients(history: History) -> Iterable[tuple[int, Line]]:
    """Yield each client with its line: its own model on the common test data, and on its own."""
    steps, axes = history.metrics["step"], _axes(history)
    for client, rows in history.clients.groupby("client"):
        table = rows.set_index("step").reindex(steps)
        y = {name: _numbers(table[name]) for name in ("test_loss", "own_loss") if name in table}
        yield int(str(client)), {"name": f"client {client}", "shown": False, "x": axes, "y": y}


def _axes(history: History) -> Mapping[str, list[float | None]]:
    metrics = history.metrics
    return {
        "inner step": _numbers(metrics["step"]),
        "MB sent by all clients": _numbers(metrics["bytes_sent"] / 1e6),
        "seconds": _numbers(history.timings["seconds"]),
    }


def _numbers(column: pd.Series) -> list[float | None]:
    """Return numbers of JSON with six digits; what is not finite is none."""
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in map(float, column)]
