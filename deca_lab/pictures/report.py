"""The report of a run: pictures as PNG files, and one self-contained page with all of them and the figures in words."""

import base64
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from deca_lab import pictures
from deca_lab.bounds.certified_gossip import certify
from deca_lab.files import write_whole
from deca_lab.lab.fit import FOREIGN
from deca_lab.lab.glance import name_of
from deca_lab.lab.history import History
from deca_lab.lab.objects import on_problem
from deca_lab.mixing.doctor import describe, diagnose
from deca_lab.mixing.matrix import Matrix
from deca_lab.pictures.of_losses import on_text
from deca_lab.pictures.pages import curves_of, page
from deca_lab.pictures.repeat import given, kind_of, repeated
from deca_lab.runconfig import OBJECT, RunConfig, defaults


def write(history: History, folder: Path | str, written: Sequence[object] = ()) -> Path:
    """Write losses.png ... ledger.png and report.html into the folder; return the page's path.

    A picture of what the run does not have, such as labels of its rows, is left out. `written` are samples of what its
    models write: start, before, after, and what really stands there.
    The same history gives the same bytes. Raises BadInput where the folder cannot be written.
    """
    there = {
        name: picture for name, picture in pictures.PICTURES.items() if not picture.lacks(history)
    }
    drawn = {name: pictures.png(picture.draw(history)) for name, picture in there.items()}
    for name, data in drawn.items():
        write_whole(Path(folder) / f"{name}.png", data)
    target = Path(folder) / "report.html"
    write_whole(target, render(history, drawn, written))
    return target


def render(history: History, drawn: dict[str, bytes], written: Sequence[object] = ()) -> str:
    """Return the page as HTML; everything from outside is escaped, and the pictures are inside."""
    return page(
        "report.html.j2",
        title=f"{_plain(history.config.method)} on {_plain(history.config.corpus)}",
        headline=headline(history),
        stopped=stopped(history),
        facts=facts(history),
        pictures=_pictures(history, drawn),
        doctor=_doctor(list(history.W)),
        ledger=_ledger(history),
        blocks=_blocks(history),
        faults=faults(history),
        knobs=knobs(history.config),
        repeated=repeated(history),
        source=_source(history),
        heterogeneity=_heterogeneity(history),
        summary=history.summary,
        curves=curves_of(history),
        written=written,
    )


def _doctor(matrices: list[Matrix]) -> str:
    """Return what the doctor says of the run's matrices, and what is proved of them."""
    diagnosis = diagnose(matrices)
    proved = [certify(matrices).line] if diagnosis.verdict == "sound" else []
    return "\n".join([describe(diagnosis), *proved])


def headline(history: History) -> str:
    """Return the run in one sentence."""
    s, c = history.summary, history.config
    who = f"{c.clients} clients on {_graph(c)}" if c.clients > 1 else "One client"
    how = _plain(c.method) + (" and an optimiser of their own" if "optimiser" in given(c) else "")
    if not on_text(history.metrics):
        return (
            f"{who} trained the {s['parameters']:,} parameters of {_plain(c.corpus)} with {how}: the loss of their mean "
            f"model on the data of all of them {_went(s, 'test_loss')}."
        )
    model = _plain(c.model) if "model" in given(c) else repr(c.model)
    score = next(iter(s["scores"]), None)
    measure = "perplexity" if score is None else name_of(score)
    went = _went(s, "test_perplexity") if score is None else _rose(history, score)
    return (
        f"{who} fine-tuned {s['parameters']:,} parameters of {model} with {how}: the {measure} of their mean "
        f"model on text that none of them trained on {went}."
    )


def _went(summary: dict[str, Any], name: str) -> str:
    start, end = summary[f"{name}_start"], summary[f"{name}_end"]
    way = "fell" if end < start else "did not fall"
    return f"{way}, {pictures.number(start)} to {pictures.number(end)}"


def _rose(history: History, score: str) -> str:
    start, end = history.metrics[score].iloc[[0, -1]]
    way = "rose" if end > start else "did not rise"
    return f"{way}, {pictures.number(start)} to {pictures.number(end)}"


def _graph(config: RunConfig) -> str:
    if "topology" in given(config):
        return "a graph of their own"
    return f"the graph {config.topology!r}" if config.topology != "ring" else "a ring"


def _plain(value: str) -> str:
    """Return a knob's value in words: an object by its class."""
    return f"the given {kind_of(value)}" if value.startswith(OBJECT) else value


def stopped(history: History) -> str:
    """Return in one sentence that a callback ended the run; "" where none did."""
    if not history.summary.get("stopped_early"):
        return ""
    planned = int(history.visits["last"].max()) + 1
    return f"A callback ended the run after {history.summary['inner_steps']:,} of {planned:,} inner steps."


def facts(history: History) -> list[tuple[str, str]]:
    """Return the key figures, each with what it is."""
    s = history.summary
    each = s["bytes_sent"] / history.config.clients
    sent = (
        "exchanged with the server by each client"
        if pictures.served(history.edges)
        else "sent by each client"
    )
    own = [
        (f"{name}, a metric of your own", pictures.number(value))
        for name, value in s.get("own_metrics", {}).items()
    ]
    return [
        *(_text_facts if on_text(history.metrics) else _problem_facts)(history),
        *own,
        ("consensus distance at the end", pictures.number(s["consensus_end"])),
        (sent, pictures.size(each)),
        ("inner steps", f"{s['inner_steps']:,}"),
        ("seconds", pictures.number(float(history.timings["seconds"].iloc[-1]))),
    ]


def _text_facts(history: History) -> list[tuple[str, str]]:
    s, last = history.summary, history.metrics.iloc[-1]
    if s["scores"]:
        return _scored_facts(s)
    floor = (
        []
        if s["entropy_floor"] is None
        else [("entropy rate of the text", pictures.nats(s["entropy_floor"]))]
    )
    return [
        ("perplexity of the mean model, start", pictures.number(s["test_perplexity_start"])),
        ("perplexity of the mean model, end", pictures.number(s["test_perplexity_end"])),
        (
            "perplexity of a client's own model, mean",
            pictures.number(float(last["client_test_perplexity"])),
        ),
        *floor,
    ]


def _scored_facts(s: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [
        (f"test {name_of(score)} of the mean model", pictures.number(value))
        for score, value in s["scores"].items()
    ]
    if s.get("majority") is not None:
        usual = "accuracy of always naming the commonest label"
        facts.append((usual, pictures.number(s["majority"])))
    loss = f"{pictures.nats(s['test_loss_start'])} to {pictures.nats(s['test_loss_end'])}"
    return [*facts, ("test loss of the mean model, start to end", loss)]


def _problem_facts(history: History) -> list[tuple[str, str]]:
    s, last = history.summary, history.metrics.iloc[-1]
    return [
        ("loss of the mean model, start", pictures.number(s["test_loss_start"])),
        ("loss of the mean model, end", pictures.number(s["test_loss_end"])),
        (
            "loss of a client's own model on all data, mean",
            pictures.number(s["client_test_loss_end"]),
        ),
        (
            "loss of a client's own model on its own data, mean",
            pictures.number(float(last["own_loss"])),
        ),
        ("gradient norm at the mean model, end", pictures.number(float(last["gradient_norm"]))),
    ]


def _pictures(history: History, drawn: dict[str, bytes]) -> list[dict[str, str]]:
    return [
        _picture(history, name, drawn.get(name))
        for name in pictures.PICTURES
        if name in drawn or name == "heterogeneity"
    ]


def _picture(history: History, name: str, data: bytes | None) -> dict[str, str]:
    """Return what the page shows under one heading; without labels, words about the gradients alone."""
    picture, text = pictures.PICTURES[name], on_text(history.metrics)
    if data is None:
        return {"name": name, "data": "", "heading": "How unlike are the clients?"}
    return {
        "name": name,
        "data": base64.b64encode(data).decode(),
        "alt": picture.alt(history),
        "heading": picture.heading,
        "caption": picture.caption if text else picture.of_problem or picture.caption,
    }


def _heterogeneity(history: History) -> str:
    words: str = history.summary["heterogeneity_words"]
    return f"{words[:1].upper()}{words[1:]}"


def _source(history: History) -> tuple[str, str]:
    """Return what the run learned from, in a word, and its fingerprint."""
    fingerprint: str = history.summary["fingerprint"]
    return (
        ("problem", fingerprint.rpartition(":")[2])
        if on_problem(history.config)
        else ("text", fingerprint[:16])
    )


def _ledger(history: History) -> list[tuple[str, str, str, str]]:
    """Return rows (what, measured, predicted, ratio)."""
    s, memory = history.summary, history.summary["memory"]
    sent = (
        "bytes to and from the server"
        if pictures.served(history.edges)
        else "bytes sent by all clients"
    )
    more = history.config.stale > 0 or history.config.noise > 0
    caveat = " (predicted: without what late and noisy messages need)" if more else ""
    pairs = [
        (sent, s["bytes_sent"], s["bytes_predicted"]),
        (
            f"peak memory of all clients, without activations{caveat}",
            memory["measured_peak"],
            memory["peak"],
        ),
    ]
    rows = [
        (what, pictures.size(a), pictures.size(b), pictures.number(a / b) if b else "-")
        for what, a, b in pairs
    ]
    only = [
        ("weights alone, M", memory["weights"]),
        ("the paper's form M + 10 M / B", memory["paper"]),
        ("full-parameter Adam", memory["full"]),
    ]
    base = [
        ("frozen base, stored once for all clients", pictures.size(memory["shared"]), "", "")
    ] * (memory.get("shared", 0) > 0)
    return [*rows, *((what, "", pictures.size(b), "") for what, b in only), *base]


FAULTS = {
    "exchanges": "exchanges that were tried",
    "lost": "of these lost, and both sides kept to themselves",
    "late": "messages that came late",
    "refused": "messages refused as garbage",
    "alone": "times that a client had nobody to hear",
    "apart": "mixings at which the clients present fell into islands",
    "unsound": "mixings whose W the doctor found not to be doubly stochastic",
    "absent_at_the_end": "clients away at the end",
}


def faults(history: History) -> list[tuple[str, str]]:
    """Return rows (what, how much) of what went wrong and what was kept; none where no fault was asked for."""
    counts = history.summary["faults"]
    if not counts:
        return []
    left = counts["rho_of_what_remained"]
    kept = "not computed for so many clients" if left is None else pictures.number(left)
    rho = f"{kept} (W as planned: {pictures.number(history.summary['rho'])})"
    return [
        *((words, f"{counts[name]:,}") for name, words in FAULTS.items()),
        (
            "how far all mixings together moved the clients' mean (a distance; 0 but for rounding = conserved)",
            f"{counts['mean_moved']:.3g}",
        ),
        ("rho of what remained, per mixing", rho),
    ]


def _blocks(history: History) -> list[dict[str, Any]]:
    return [
        {
            "block": row.block,
            "parameters": f"{row.parameters:,}",
            "visits": row.visits,
            "names": str(row.names).split(),
        }
        for row in history.blocks.itertuples()
    ]


def knobs(config: RunConfig) -> list[tuple[str, str, bool]]:
    """Return every knob as (name, value, whether it differs from the default); of a problem, those that it reads."""
    usual = defaults()
    unread = {
        f.name for f in fields(config) if f.metadata["group"] in FOREIGN and f.name != "corpus"
    }
    shown = {
        name: value
        for name, value in asdict(config).items()
        if not (on_problem(config) and name in unread)
    }
    return [(name, str(value), value != usual[name]) for name, value in shown.items()]
