"""The report of a run: pictures as PNG files, and one self-contained page with all of them and the figures in words."""

import base64
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deca_lab import pictures
from deca_lab.files import write_whole
from deca_lab.lab.history import History
from deca_lab.mixing.doctor import describe
from deca_lab.runconfig import RunConfig, defaults


def write(history: History, folder: Path | str) -> Path:
    """Write losses.png ... ledger.png and report.html into the folder; return the page's path.

    The same history gives the same bytes. Raises BadInput where the folder cannot be written.
    """
    drawn = {name: pictures.png(picture.draw(history)) for name, picture in pictures.PICTURES.items()}
    for name, data in drawn.items():
        write_whole(Path(folder) / f"{name}.png", data)
    page = Path(folder) / "report.html"
    write_whole(page, render(history, drawn))
    return page


def render(history: History, drawn: dict[str, bytes]) -> str:
    """Return the page as HTML; everything from outside is escaped, and the pictures are inside."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("report.html.j2").render(
        title=f"{history.config.method} on {history.config.corpus}", headline=headline(history), facts=facts(history),
        pictures=_pictures(history, drawn), doctor=describe(list(history.W)), ledger=_ledger(history),
        blocks=_blocks(history), faults=faults(history), knobs=knobs(history.config), command=command(history.config),
        heterogeneity=history.summary["heterogeneity_words"], summary=history.summary)


def headline(history: History) -> str:
    """Return the run in one sentence."""
    s, c = history.summary, history.config
    way = "fell" if s["test_perplexity_end"] < s["test_perplexity_start"] else "did not fall"
    who = f"{c.clients} clients on {_graph(c)}" if c.clients > 1 else "One client"
    return (f"{who} fine-tuned {s['parameters']:,} parameters of {c.model!r} with {c.method}: the perplexity of their mean "
            f"model on text that none of them trained on {way}, {pictures.number(s['test_perplexity_start'])} to "
            f"{pictures.number(s['test_perplexity_end'])}.")


def _graph(config: RunConfig) -> str:
    return f"the graph {config.topology!r}" if config.topology != "ring" else "a ring"


def facts(history: History) -> list[tuple[str, str]]:
    """Return the key figures, each with what it is."""
    s, last = history.summary, history.metrics.iloc[-1]
    each = s["bytes_sent"] / history.config.clients
    sent = "exchanged with the server by each client" if pictures.served(history.edges) else "sent by each client"
    floor = [] if s["entropy_floor"] is None else [("entropy rate of the text", pictures.nats(s["entropy_floor"]))]
    return [("perplexity of the mean model, start", pictures.number(s["test_perplexity_start"])),
            ("perplexity of the mean model, end", pictures.number(s["test_perplexity_end"])),
            ("perplexity of a client's own model, mean", pictures.number(float(last["client_test_perplexity"]))), *floor,
            *((f"{name.replace('_', ' ')} of the mean model", pictures.number(value)) for name, value in s["scores"].items()),
            ("consensus distance at the end", pictures.number(s["consensus_end"])), (sent, pictures.size(each)),
            ("inner steps", f"{s['inner_steps']:,}"), ("seconds", pictures.number(float(history.timings["seconds"].iloc[-1])))]


def _pictures(history: History, drawn: dict[str, bytes]) -> list[dict[str, str]]:
    return [{"name": name, "data": base64.b64encode(drawn[name]).decode(), "alt": picture.alt(history),
             "heading": picture.heading, "caption": picture.caption} for name, picture in pictures.PICTURES.items()]


def _ledger(history: History) -> list[tuple[str, str, str, str]]:
    """Return rows (what, measured, predicted, ratio)."""
    s, memory = history.summary, history.summary["memory"]
    sent = "bytes to and from the server" if pictures.served(history.edges) else "bytes sent by all clients"
    more = history.config.stale > 0 or history.config.noise > 0
    caveat = " (predicted: without what late and noisy messages need)" if more else ""
    pairs = [(sent, s["bytes_sent"], s["bytes_predicted"]),
             (f"peak memory of all clients, without activations{caveat}", memory["measured_peak"], memory["peak"])]
    rows = [(what, pictures.size(a), pictures.size(b), pictures.number(a / b) if b else "-") for what, a, b in pairs]
    only = [("weights alone, M", memory["weights"]), ("the paper's form M + 10 M / B", memory["paper"]),
            ("full-parameter Adam", memory["full"])]
    base = [("frozen base, stored once for all clients", pictures.size(memory["shared"]), "", "")] * (memory.get("shared", 0) > 0)
    return [*rows, *((what, "", pictures.size(b), "") for what, b in only), *base]


FAULTS = {
    "exchanges": "exchanges that were tried", "lost": "of these lost, and both sides kept to themselves",
    "late": "messages that came late", "refused": "messages refused as garbage",
    "alone": "times that a client had nobody to hear", "apart": "mixings at which the clients present fell into islands",
    "unsound": "mixings whose W the doctor found not to be doubly stochastic", "absent_at_the_end": "clients away at the end",
}


def faults(history: History) -> list[tuple[str, str]]:
    """Return rows (what, how much) of what went wrong and what was kept; none where no fault was asked for."""
    counts = history.summary["faults"]
    if not counts:
        return []
    rho = f"{pictures.number(counts['rho_of_what_remained'])} (W as planned: {pictures.number(history.summary['rho'])})"
    return [*((words, f"{counts[name]:,}") for name, words in FAULTS.items()),
            ("how far all mixings together moved the clients' mean (a distance; 0 but for rounding = conserved)",
             f"{counts['mean_moved']:.3g}"),
            ("rho of what remained, per mixing", rho)]


def _blocks(history: History) -> list[dict[str, Any]]:
    return [{"block": row.block, "parameters": f"{row.parameters:,}", "visits": row.visits, "names": str(row.names).split()}
            for row in history.blocks.itertuples()]


def knobs(config: RunConfig) -> list[tuple[str, str, bool]]:
    """Return every knob as (name, value, whether it differs from the default)."""
    usual = defaults()
    return [(name, str(value), value != usual[name]) for name, value in asdict(config).items()]


def command(config: RunConfig) -> str:
    """Return the command line that repeats the run."""
    usual = defaults()
    changed = {name: value for name, value in asdict(config).items() if value != usual[name]}
    words = [word for name, value in changed.items() for word in _option(name, value)]
    return shlex.join(["deca-lab", "run", *words])


def _option(name: str, value: object) -> list[str]:
    flag = name.replace("_", "-")
    return [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
