"""`deca-lab run`: a run from its knobs, or from where it broke off, to its report."""

from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from deca_lab.cli.knobs import Given, with_knobs
from deca_lab.cli.unread import require_alone, require_read, unread
from deca_lab.cli.words import JSON, QUIET, show, speaker
from deca_lab.errors import check
from deca_lab.files import require_new, write_whole
from deca_lab.methods import METHODS, resolve
from deca_lab.runconfig import RUN_COMMAND, RunConfig

if TYPE_CHECKING:
    from deca_lab.bounds.beside_a_run import Verdict
    from deca_lab.lab.history import History
    from deca_lab.lab.samples import Sample


class Finished(NamedTuple):
    """What a finished run says of itself: as values, and in words; and what its models write."""

    result: dict[str, Any]
    words: str
    samples: "list[Sample]"


@with_knobs(**RUN_COMMAND)
def run(
    given: Given,
    out: Annotated[
        Path | None,
        typer.Option(help="new folder for the run; runs/DATE-METHOD when not given"),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="continue the run of this folder, bit for bit")
    ] = None,
    bounds: Annotated[
        bool,
        typer.Option(
            "--bounds",
            metavar=" ",
            help="say afterwards what theory says of such a run; DECA is trained once more for it",
        ),
    ] = False,
    alone: Annotated[
        bool,
        typer.Option(
            "--alone",
            metavar=" ",
            help="train once more without any mixing, and show both: texts, and losses in alone.png",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar=" ", help="say what the run would need, and end")
    ] = False,
    as_json: JSON = False,
    quiet: QUIET = False,
    **knobs: Any,  # noqa: ANN401 - each has its own knob's type
) -> None:
    """Fine-tune a small GPT with DECA on simulated clients; write a folder with tables, pictures and a report.

    Without any option: 8 clients on a ring, one or two minutes on a laptop.
    """
    if dry_run:
        beside = {"resume": resume and str(resume), "out": out and str(out), "bounds": bounds}
        beside["alone"] = alone
        require_alone("--dry-run", beside, "it only says what a new run would need")
    if resume is not None:
        own = "the run continues in its own folder"
        require_alone("--resume", {"out": out and str(out), "alone": alone}, own)
        _require_as_stored(resume, given)
        folder, config, local = resume, None, None
    else:
        config = RunConfig(**knobs)
        require_read(given, [resolve(config)])
        for line in unread(config, given):
            speaker(quiet)(f"note: {line}")
        local = _without_mixing(config) if alone else None
        if dry_run:
            return _say_what_it_needs(config, as_json, quiet)
        folder = out or _fresh_folder(config.method)
        require_new(folder)
    done = _finish(folder, config, quiet)
    if done is None:
        return None
    shown = _written(folder, done, local, quiet)
    rows, words = _write_bounds(folder) if bounds else ([], [])
    result = {**done.result, **({"bounds": rows} if bounds else {})}
    result = {**result, "samples": [row._asdict() for row in done.samples]}
    return show(as_json, result, "\n".join([done.words, *shown, *words]))


def _without_mixing(config: RunConfig) -> RunConfig:
    """Return the config of the same clients, each alone; raise BadInput where the method has no such twin."""
    from deca_lab.network.meeting import number_of

    allowed = "a method that trains block by block with mixing, such as deca"
    another = {"adapter", "blocks", "topology"}.intersection(METHODS[config.method].fixed)
    check(not another, "--alone beside --method", config.method, allowed)
    ranks = number_of("WORLD_SIZE", 1, "1")
    check(ranks == 1, "--alone beside WORLD_SIZE", ranks, "1: clients alone need no processes")
    local = replace(config, method="local")
    resolve(local)
    return local


def _written(folder: Path, done: Finished, local: RunConfig | None, quiet: bool) -> list[str]:
    """Return what the mean model of a finished run writes, in words; train the clients alone for `local`."""
    from deca_lab.lab.samples import in_words

    words, beside = [], []
    if local is not None:
        speaker(quiet)("the same clients, each alone ...")
        alone = _finish(folder / "alone", local, quiet, "0")
        words.append(_draw_both(folder))
        beside = alone.samples if alone else []
    if done.samples:
        what = "what the model writes after a start that it has not seen"
        words.append(f"{what}:\n{in_words(done.samples, beside)}")
    return words


def _draw_both(folder: Path) -> str:
    """Write alone.png of a run and of the same clients alone; return where it is, and what it says."""
    from deca_lab import pictures
    from deca_lab.lab import history

    both = history.load(folder), history.load(folder / "alone")
    write_whole(folder / "alone.png", pictures.png(pictures.draw_alone(*both)))
    return f"{folder / 'alone.png'}: {pictures.alt_alone(*both)}"


def _say_what_it_needs(config: RunConfig, as_json: bool, quiet: bool) -> None:
    """Print the forecast of a run, and what is free."""
    from deca_lab.lab.forecast import forecast_of, require_room, room
    from deca_lab.lab.prepare import groundwork

    ground, say = groundwork(config), speaker(quiet)
    known, free, notes = forecast_of(ground), room(ground.device), ground.texts.notes
    for note in notes:
        say(f"note: {note}")
    show(as_json, {**known._asdict(), "free": free, "notes": notes}, known.words(free, "\n"))
    require_room(known, free, ground)


def _require_as_stored(folder: Path, given: Given) -> None:
    from deca_lab.lab.runs import read_config

    stored = asdict(read_config(folder))
    for name, value in given.items():
        check(
            stored[name] == value,
            name,
            value,
            f"{stored[name]!r}, as in {folder}/config.json: --resume changes nothing",
        )


def _fresh_folder(method: str) -> Path:
    stem = Path("runs") / f"{datetime.now():%Y-%m-%d_%H%M%S}-{method}"
    # Two runs may start in one second.
    again = (stem.with_name(f"{stem.name}-{k}") for k in range(1, 1000))
    return next(path for path in (stem, *again) if not path.exists())


def _finish(
    folder: Path, config: RunConfig | None, quiet: bool, client: str = "mean"
) -> Finished | None:
    """Run or resume, then write the report; return what there is to say where this process has the history.

    The samples are what `client` writes.
    """
    from deca_lab.lab import glance
    from deca_lab.lab.samples import for_report
    from deca_lab.pictures import report

    done = _trained(folder, config, quiet)
    if done is None:
        return None
    written = for_report(folder, client)
    page, summary = report.write(done, folder, written), done.summary
    for note in summary["notes"]:  # what was guessed and dropped
        speaker(quiet)(f"note: {note}")
    seconds = float(done.timings["seconds"].iloc[-1])
    words = (
        f"sent {summary['bytes_sent'] / 1e6:.1f} MB, predicted {summary['bytes_predicted'] / 1e6:.1f} MB; "
        f"{glance.seconds(done.timings)}\nreport: {page}\n{glance.outcome(summary)}"
    )
    result = {"folder": folder, "report": page, "seconds": seconds, "summary": summary}
    return Finished(result, words, written)


def _trained(folder: Path, config: RunConfig | None, quiet: bool) -> "History | None":
    """Run, or resume where there is no config, under a bar and until a signal asks for the end.

    Of several processes the first one speaks, and has the history.
    """
    from deca_lab.lab import progress, runs
    from deca_lab.network import processes

    with processes.joined() as world, progress.interruptible() as asked:
        silent = quiet or world.rank > 0
        with progress.bar(silent=silent) as shown:

            def watch(done: int, total: int, known: dict[str, Any]) -> bool:
                shown(done, total, known)
                return asked()

            if config is None:
                return runs.resume_in(world, folder, watch)
            return runs.run_in(world, config, folder, watch, say=speaker(silent))


def _write_bounds(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Write bounds.csv and bounds.png into a finished run's folder; return every claim that speaks of it, and words."""
    import numpy as np
    import pandas as pd

    from deca_lab import pictures
    from deca_lab.bounds.beside_a_run import beside
    from deca_lab.lab import history

    verdicts = beside(history.load(folder), again=True)
    drawn = {
        name: one.bound
        for name, one in verdicts.items()
        if one.bound is not None and np.size(one.bound.lhs) > 1
    }
    rows = [_bounds_row(one) for one in verdicts.values()]
    write_whole(folder / "bounds.csv", pd.DataFrame(rows).to_csv(index=False))
    files = [folder / "bounds.csv"]
    if drawn:
        files.append(folder / "bounds.png")
        write_whole(files[-1], pictures.png(pictures.draw_beside(drawn)))
    return rows, [*map(_bounds_words, rows), f"bounds: {', '.join(map(str, files))}"]


def _bounds_words(row: dict[str, Any]) -> str:
    tight = f", tightness {row['tightness']:.3g}" if row["tightness"] else ""
    ground = f"\n    rests on: {row['rests on']}" if row["rests on"] else ""
    return f"{row['claim']}: {row['verdict']}{tight}{ground}"


def _bounds_row(one: "Verdict") -> dict[str, Any]:
    """Return a claim's row of bounds.csv: both sides at the end of the run, where there are any."""
    import numpy as np

    ends: dict[str, Any] = dict.fromkeys(("tightness", "left side", "right side"))
    if one.bound is not None:
        left, right = np.atleast_1d(one.bound.lhs)[-1], np.atleast_1d(one.bound.rhs)[-1]
        ends = {"tightness": one.bound.tightness, "left side": left, "right side": right}
    return {"claim": one.claim, "verdict": one.verdict, **ends, "rests on": one.rests_on}
