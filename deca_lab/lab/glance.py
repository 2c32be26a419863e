"""A run at a glance: one line, and a small table for notebooks."""

from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

Summary = Mapping[str, Any]

# of the table; a run that lacks one has no such row
FIGURES: dict[str, Callable[[Summary], str]] = {
    "method": lambda s: str(s["method"]),
    "task": lambda s: str(s["task"]),
    "clients": lambda s: str(s["clients"]),
    "topology": lambda s: f"{s['topology']} (rho {s['rho']:.4g})",
    "inner steps": lambda s: f"{s['inner_steps']:,}",
    "parameters that train": lambda s: f"{s['parameters']:,}",
    "test loss of the mean model": lambda s: _losses(s),
    "test loss of the clients' own models, at the end": lambda s: (
        f"{s['client_test_loss_end']:.4f}"
    ),
    "consensus distance at the end": lambda s: f"{s['consensus_end']:.4g}",
    "bytes sent by all clients": lambda s: f"{s['bytes_sent']:,}",
    "bytes of memory at the peak, all clients": lambda s: f"{s['memory']['measured_peak']:,}",
    "device": lambda s: str(s["device"]),
}
WORDS: tuple[Callable[[Summary], str], ...] = (  # of the line
    FIGURES["method"],
    FIGURES["task"],
    lambda s: f"{s['clients']} client{'s' * (s['clients'] != 1)} on {s['topology']}",
    lambda s: f"{s['inner_steps']} inner steps",
    lambda s: f"test loss {_losses(s)}",
)


def line(summary: Summary, folder: Path | None) -> str:
    """Return a run's summary on one short line; what the summary does not hold is left out."""
    told = [words for of in WORDS if (words := _told(of, summary))]
    return f"History({' '.join(', '.join([*told, str(folder or 'in memory')]).split())})"


def table(summary: Summary, folder: Path | None) -> str:
    """Return a run's summary as an HTML table without colours of its own; all texts are escaped."""
    figures = {name: words for name, of in FIGURES.items() if (words := _told(of, summary))}
    scores = {n.replace("_", " "): f"{v:.4g}" for n, v in summary.get("scores", {}).items()}
    shown = {**figures, **scores, "folder": str(folder or "none: in memory")}
    edge = 'style="border-bottom: thin solid currentColor; text-align: left"'
    rows = "".join(
        f'<tr><th scope="row" {edge}>{escape(name)}</th><td {edge}>{escape(words)}</td></tr>'
        for name, words in shown.items()
    )
    return f'<table style="border-collapse: collapse; color: inherit"><tbody>{rows}</tbody></table>'


def outcome(summary: Summary) -> str:
    """Return what a run on text came to, on one line: its scores where its task has some."""
    scores = summary.get("scores") or {}
    if not scores:
        start, end = (summary[f"test_perplexity_{when}"] for when in ("start", "end"))
        return f"perplexity of the mean model on the common test text: {start:.3f} -> {end:.3f}"
    words = (f"{name_of(name)} {value:.3f}" for name, value in scores.items())
    majority = summary.get("majority")
    usual = "" if majority is None else f" (majority {majority:.3f})"
    chance = majority is not None and scores["test_accuracy"] <= majority
    return f"test {', '.join(words)}{usual}{': at chance' if chance else ''}"


def seconds(timings: Any) -> str:  # noqa: ANN401 - a DataFrame, which is not imported here
    """Return what a run took, and which shares of it went to measurements and checkpoints."""
    last = dict(timings.iloc[-1])
    whole = float(last["seconds"])
    shares = [
        f"{float(last.get(what, 0)) / max(whole, 1e-9):.0%} {what}"
        for what in ("measuring", "writing")
    ]
    return f"{whole:.0f} s, {' and '.join(shares)}"


def name_of(name: str) -> str:
    """Return a score's name in words: test_macro_f1 as macro-F1."""
    return name.removeprefix("test_").replace("_f1", "-F1").replace("_", " ")


def _losses(summary: Summary) -> str:
    return f"{summary['test_loss_start']:.4f} -> {summary['test_loss_end']:.4f}"


def _told(of: Callable[[Summary], str], summary: Summary) -> str:
    """Return a figure in words, or "" where the summary does not hold it, or not as a number."""
    try:
        return of(summary)
    except (KeyError, TypeError, ValueError):
        return ""
