"""The page of several finished runs: what may be compared and what not, figures, curves, and the knobs that differ."""

import base64
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from deca_lab import pictures
from deca_lab.errors import check
from deca_lab.files import write_whole
from deca_lab.lab import history
from deca_lab.lab.glance import name_of
from deca_lab.lab.history import History
from deca_lab.pictures.pages import curves_of_runs, page
from deca_lab.pictures.report import headline

Runs = Mapping[str, History]  # under the names that the page gives them


class Matter(NamedTuple):
    """A figure of runs: which knobs and facts it rests on, and what to say where they agree."""

    what: str
    rests_on: Callable[[History], dict[str, Any]]
    alike: str


def _of(*names: str) -> Callable[[History], dict[str, Any]]:
    """Return what reads these knobs, or facts of the summary where no knob has that name."""

    def read(run: History) -> dict[str, Any]:
        return {name: getattr(run.config, name, run.summary.get(name)) for name in names}

    return read


def _test_data(run: History) -> dict[str, Any]:
    """Return what the common test data of a run, and the loss on it, are made of."""
    named = ("task", "head", "verbaliser", "fingerprint", "seed", "test_share", "context")
    own = any(note.startswith(OWN_TOKENS) for note in run.summary["notes"])
    tokens = run.config.model if own else run.config.tokenizer
    return {**_of(*named, "eval_windows")(run), "tokenizer": tokens}


OWN_TOKENS = "tokenizer: the model's own"  # a note of `text.tokens`
TEST = Matter(
    "test losses and scores", _test_data, "read on the same test data, in the same tokens"
)
MATTERS = (
    TEST,
    Matter(
        "the way from the start",
        _of("model", "model_revision", "base_weights", "seed"),
        "they begin with the same model",
    ),
    Matter(
        "what each client holds",
        _of("fingerprint", "clients", "split", "alpha", "shares", "seed"),
        "the same shards",
    ),
    Matter(
        "the ends of the curves",
        lambda run: {"inner steps": run.summary["inner_steps"]},
        "equally many inner steps",
    ),
    Matter("seconds", _of("device", "torch", "dtype"), "the same torch and device: on one machine"),
)


def write(folders: Sequence[Path], out: Path) -> Path:
    """Write the page of finished runs to the file `out`, and return it; raise BadInput where a run cannot be read."""
    check(out.suffix == ".html", "out", str(out), "a file that ends in .html")
    places = [folder.resolve() for folder in folders]
    twice = [str(f) for f, place in zip(folders, places, strict=True) if places.count(place) > 1]
    check(not twice, "folders", ", ".join(twice), "different runs")
    short = len({place.name for place in places}) == len(places)
    runs = {
        place.name if short else str(folder): history.load(folder)
        for folder, place in zip(folders, places, strict=True)
    }
    reports = {name: _link(run, out) for name, run in runs.items()}
    write_whole(out, render(runs, reports))
    return out


def render(runs: Runs, reports: Mapping[str, str]) -> str:
    """Return the page as HTML; `reports` are links to the pages of the single runs, "" where there is none."""
    alike = groups(runs, TEST)
    return page(
        "runs.html.j2",
        names=list(runs),
        heads_of={name: headline(run) for name, run in runs.items()},
        reports=reports,
        matters=[verdict(runs, matter) for matter in MATTERS],
        rows=[_row(name, run, alike) for name, run in runs.items()],
        pictures=[_picture({name: runs[name] for name in names}) for names in alike],
        curves=curves_of_runs((_lettered(name, alike), run) for name, run in runs.items()),
        knobs=differing(runs),
    )


def groups(runs: Runs, matter: Matter) -> list[list[str]]:
    """Return the runs' names, together where all that the matter rests on agrees."""
    together: dict[str, list[str]] = {}
    for name, run in runs.items():
        together.setdefault(repr(matter.rests_on(run)), []).append(name)
    return list(together.values())


def verdict(runs: Runs, matter: Matter) -> tuple[str, str, str]:
    """Return a matter, which runs may be compared in it, and why."""
    together = groups(runs, matter)
    if len(together) == 1:
        return matter.what, "all", matter.alike
    read = [matter.rests_on(run) for run in runs.values()]
    unlike = [name for name in read[0] if len({repr(facts[name]) for facts in read}) > 1]
    pairs = [" with ".join(names) for names in together if len(names) > 1]
    words = [name.replace("_", " ").replace("fingerprint", "text") for name in unlike]
    why = f"they differ in {', '.join(words)}"
    return matter.what, f"only {'; '.join(pairs)}" if pairs else "none", why


def differing(runs: Runs) -> list[tuple[str, list[str]]]:
    """Return the knobs that are not the same in all runs, each with its values."""
    configs = [asdict(run.config) for run in runs.values()]
    values = {knob: [str(config[knob]) for config in configs] for knob in configs[0]}
    return [(knob, row) for knob, row in values.items() if len(set(row)) > 1]


def _row(name: str, run: History, alike: list[list[str]]) -> dict[str, str]:
    """Return a run's figures as the table shows them; a letter says which runs share their test data."""
    s = run.summary
    scores = ", ".join(f"{name_of(n)} {pictures.number(v)}" for n, v in s["scores"].items())
    return {
        "name": name,
        "test data": _letter(name, alike),
        "test loss, start": pictures.nats(s["test_loss_start"]),
        "end": pictures.nats(s["test_loss_end"]),
        "scores": scores or "–",
        "consensus": pictures.number(s["consensus_end"]),
        "inner steps": f"{s['inner_steps']:,}",
        "sent": pictures.size(s["bytes_sent"]),
        "memory": pictures.size(s["memory"]["measured_peak"]),
        "trained": f"{s['parameters']:,}",
        "seconds": pictures.number(float(run.timings["seconds"].iloc[-1])),
    }


def _letter(name: str, alike: list[list[str]]) -> str:
    """Return the letter of the test data that a run was read on, from the 27th on a number."""
    place = next(k for k, names in enumerate(alike) if name in names)
    return chr(ord("A") + place) if place < 26 else str(place + 1)


def _lettered(name: str, alike: list[list[str]]) -> str:
    """Return a run's name, with the letter of its test data where there are several."""
    return f"{name}, test data {_letter(name, alike)}" if len(alike) > 1 else name


def _picture(runs: Runs) -> dict[str, str]:
    """Return the test losses of runs that share their test data, as a picture with a text."""
    curves = {
        name: (run.metrics["step"].tolist(), run.metrics["test_loss"].tolist())
        for name, run in runs.items()
    }
    label = "test loss of the mean model"
    drawn = pictures.png(pictures.draw_lines(curves, "inner step", label))
    ends = ", ".join(f"{n} {pictures.nats(r.summary['test_loss_end'])}" for n, r in runs.items())
    return {
        "data": base64.b64encode(drawn).decode(),
        "alt": f"Line chart of the {label} against inner steps. At the end: {ends}.",
        "caption": f"Test loss of {', '.join(runs)}{' on the same test data' * (len(runs) > 1)}.",
    }


def _link(run: History, out: Path) -> str:
    """Return the way from the page to a run's own page; "" where it has none, or lies on another drive."""
    assert run.folder is not None
    own = run.folder / "report.html"
    try:
        way = os.path.relpath(own, out.parent)
    except ValueError:
        return ""
    return Path(way).as_posix() if own.exists() else ""
