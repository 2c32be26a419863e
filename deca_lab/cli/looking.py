"""What there is to look at: mixing matrices, claims, what a run left behind, this machine, the names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import get_terminal_size
from textwrap import fill
from typing import TYPE_CHECKING, Annotated

import typer

from deca_lab.cli.knobs import given_of
from deca_lab.cli.unread import require_alone, require_read
from deca_lab.cli.words import JSON, headed, printer, show
from deca_lab.errors import check, pick
from deca_lab.runconfig import RunConfig

if TYPE_CHECKING:
    from numpy import ndarray

    from deca_lab.mixing.topology import Topology

NAMES = 22  # letters of the longest name in most tables


def doctor(
    ctx: typer.Context,
    topology: Annotated[
        str, typer.Option(metavar="NAME", help="graph or sequence (deca-lab list topologies)")
    ] = "ring",
    clients: Annotated[int, typer.Option(help="number of clients")] = 8,
    matrix: Annotated[
        Path | None, typer.Option(help="look at this W instead: .csv or .npy")
    ] = None,
    weights: Annotated[
        str, typer.Option(metavar="NAME", help="rule from graph to W (deca-lab list weights)")
    ] = "metropolis",
    edge_probability: Annotated[float, typer.Option(help="of the Erdos-Renyi graph")] = 0.5,
    degree: Annotated[int, typer.Option(help="of the random regular graph")] = 3,
    seed: Annotated[int, typer.Option(help="of random graphs")] = 0,
    machine: Annotated[
        bool,
        typer.Option(
            "--machine",
            metavar=" ",
            help="look at this machine instead: is it ready for the course?",
        ),
    ] = False,
    as_json: JSON = False,
) -> None:
    """Look at a mixing matrix and say in plain words whether training with it is sound; exit code 1 if not.

    Up to 64 clients the contraction is also proved in exact arithmetic. Of a finished run: --matrix FOLDER/topology.csv.
    With --machine: at this computer, before a class, in half a minute.
    """
    given = given_of(ctx, RunConfig.__dataclass_fields__)
    if machine:
        beside = {**given, "matrix": matrix and str(matrix)}
        require_alone("--machine", beside, "it looks at this computer")
        raise typer.Exit(_examine_machine(as_json))
    from deca_lab.mixing.topology import read_matrices

    if matrix is not None:
        require_alone("--matrix", given, "a matrix has its own")
        raise typer.Exit(_examine_matrix(read_matrices(matrix), as_json))
    asked = RunConfig(
        topology=topology,
        clients=clients,
        weights=weights,
        edge_probability=edge_probability,
        degree=degree,
        seed=seed,
    )
    require_read(given, [asked])
    raise typer.Exit(_examine_matrix(_drawn(asked), as_json))


def _drawn(asked: RunConfig) -> "Topology":
    from deca_lab.mixing.topology import topology

    return topology(
        asked.topology,
        asked.clients,
        weights=asked.weights,
        probability=asked.edge_probability,
        degree=asked.degree,
        seed=asked.seed,
    )


def _examine_matrix(subject: "Topology | Sequence[ndarray]", as_json: bool) -> int:
    """Say whether training with a topology, or with matrices in turn, is sound; return the exit code."""
    from deca_lab.bounds.certified_gossip import certify
    from deca_lab.mixing import doctor

    diagnosis = doctor.diagnose(subject)
    sound = diagnosis.verdict == "sound"
    certificate = certify(subject) if sound else None
    words = [doctor.describe(diagnosis), *([certificate.line] if certificate else [])]
    result = {**diagnosis._asdict(), "certificate": certificate and certificate._asdict()}
    show(as_json, result, "\n".join(words))
    return 0 if sound else 1


def _examine_machine(as_json: bool) -> int:
    """Say whether this computer is ready for the course; return the exit code."""
    from deca_lab.course import machine as here

    checks = here.examine()
    ready = all(one.ok for one in checks)
    result = {"ready": ready, "checks": [one._asdict() for one in checks]}
    show(as_json, result, here.describe(checks))
    return 0 if ready else 1


def bounds(
    names: Annotated[
        list[str] | None, typer.Argument(help="claims; all when none is named")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the examples, or of the attack")] = 0,
    attack: Annotated[
        float, typer.Option(help="seconds to search for instances that break the claims, instead")
    ] = 0.0,
    out: Annotated[Path | None, typer.Option(help="folder for the attack's witnesses")] = None,
    as_json: JSON = False,
) -> None:
    """Evaluate the claims of theory/, both sides by number; exit code 1 if one fails, or cannot fail when it is broken.

    With --attack SECONDS, search random instances, then near the nearest, with loops of its own for the left sides: the
    largest ratio of the sides found for each claim; exit code 1 if one is violated.
    """
    from deca_lab.bounds import table

    allowed = "a finite number of seconds, 0 or more"
    check(0 <= attack < float("inf"), "attack", attack, allowed)
    if attack:
        raise typer.Exit(_attack(names or (), attack, seed, out, as_json))
    check(out is None, "out", str(out), "left out without --attack: the table writes nothing")
    say = headed(printer(as_json), table.HEAD)
    rows = table.evaluate(names or (), seed, lambda row: say(row.line))
    right = all(row.right for row in rows)
    if as_json:
        show(True, {"right": right, "claims": [row._asdict() for row in rows]}, "")
    raise typer.Exit(0 if right else 1)


def _attack(
    names: Sequence[str], seconds: float, seed: int, out: Path | None, as_json: bool
) -> int:
    """Attack claims, print what came nearest, and return the exit code."""
    from deca_lab.bounds import attack as at

    say = headed(printer(as_json), at.HEAD)
    rows = at.attack(names, seconds, seed=seed, say=lambda row: say(row.line))
    right, witnesses = all(row.right for row in rows), None if out is None else at.write(rows, out)
    if witnesses is not None:
        say(f"witnesses: {witnesses}")
    if as_json:
        claims = [row._asdict() for row in rows]
        show(True, {"right": right, "claims": claims, "witnesses": witnesses}, "")
    return 0 if right else 1


def clock(
    folder: Annotated[Path, typer.Argument(help="a run folder")],
    mbit: Annotated[float, typer.Option(help="megabits a second of each client's uplink")] = 100.0,
    latency: Annotated[
        float, typer.Option(help="seconds that a message is on its way besides")
    ] = 0.02,
    seconds: Annotated[
        float, typer.Option(help="of computing in one client's inner step; 0 = as this run took")
    ] = 0.0,
    slow: Annotated[
        str,
        typer.Option(
            metavar="CLIENT@TIMES", help="clients that are slower in both, CLIENT@TIMES: '3@4'"
        ),
    ] = "",
    as_json: JSON = False,
) -> None:
    """Say how long a finished run would have taken on clients that are joined by such links: a model, not a measurement."""
    from deca_lab.lab import clock as ck
    from deca_lab.lab import history
    from deca_lab.lab.prepare import prepare

    finished = history.load(folder)
    taken = float(finished.timings["seconds"].iloc[-1] - finished.timings["seconds"].iloc[0])
    plan = prepare(finished.config).plan
    each = seconds or taken / plan.steps / plan.topology.n
    timeline = ck.clock(plan, ck.network(plan.topology.n, each, mbit, latency, ck.slower(slow)))
    words = (
        f"{plan.steps} inner steps of {each:.3g} s, {mbit:g} Mbit/s, {latency:g} s latency: {timeline.seconds:,.1f} s, "
        f"of which the clients wait or send {timeline.waiting:.0%}"
    )
    result = {
        "inner_steps": plan.steps,
        "seconds_a_step": each,
        "mbit": mbit,
        "latency": latency,
        "seconds": timeline.seconds,
        "waiting": timeline.waiting,
    }
    show(as_json, result, words)


def bench(
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            help="engine, step, memory, mixing, theory, growth, gpu, start, network or others; all when none"
        ),
    ] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda")] = "auto",
    picture: Annotated[
        Path | None, typer.Option(help="draw the part growth to this file, such as growth.png")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Measure how fast this machine runs the lab, beside loops, copies and floors: medians of five, taken in turns."""
    from deca_lab.bench import bench as be

    drawn = picture is None or not parts or "growth" in parts
    check(drawn, "picture", str(picture), "left out without the part growth")
    rows, machine = [], be.machine(device)
    say = headed(printer(as_json), f"{machine}\n{be.HEAD}")
    for row in be.bench(parts or (), device):
        say(row.line)
        rows.append(row)
    if picture is not None:
        be.draw(rows, picture)
    if as_json:
        show(True, {"machine": machine, "rows": [row._asdict() for row in rows]}, "")


def export(
    folder: Annotated[Path, typer.Argument(help="a run folder")],
    client: Annotated[
        str, typer.Option(metavar="CLIENT", help="'mean', or a client's number")
    ] = "mean",
    out: Annotated[
        Path | None, typer.Option(help="new directory; inside the run folder when not given")
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORM",
            help="model, for AutoModelForCausalLM; or peft: LoRA's factors",
        ),
    ] = "model",
    as_json: JSON = False,
) -> None:
    """Write a model of a run, with its head where one trained, for transformers; or its adapter for PEFT."""
    from deca_lab.lab import export as ex

    written = ex.export_model(folder, client, out or ex.default_out(folder, client, form), form)
    result = {"folder": written, "client": client, "format": form}
    show(as_json, result, f"written: {written}")


def report(
    folders: Annotated[list[Path], typer.Argument(help="finished runs' folders")],
    out: Annotated[
        Path | None, typer.Option(help="page of several runs; runs.html when not given")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Draw a finished run's pictures and write its report again; of several runs, write one page that compares them."""
    from deca_lab.lab import history
    from deca_lab.lab.samples import for_report
    from deca_lab.pictures import report as rep
    from deca_lab.pictures import runs_report

    if len(folders) > 1:
        page = runs_report.write(folders, out or Path("runs.html"))
    else:
        check(out is None, "out", str(out), "left out: the page of one run is in its folder")
        page = rep.write(history.load(folders[0]), folders[0], for_report(folders[0]))
    show(as_json, {"report": page}, f"report: {page}")


def list_names(
    what: Annotated[str, typer.Argument(help="one table: methods, corpora, topologies ...")] = "",
    as_json: JSON = False,
) -> None:
    """List the names that the options take, with a word on each."""
    from deca_lab.cli.names import tables

    known = tables()
    chosen = {what: pick(known, what, "table")} if what else known
    show(as_json, chosen, "\n".join(map(_page, chosen, chosen.values())))


def _page(title: str, rows: Mapping[str, str]) -> str:
    """Return a table in lines that fit the terminal: names on the left, words on the right."""
    width = max(40, min(get_terminal_size().columns - 1, 120))
    lines = (
        fill(
            f"{name:<{NAMES}} {about}",
            width,
            initial_indent="  ",
            subsequent_indent=" " * (NAMES + 3),
            break_on_hyphens=False,
            break_long_words=False,
        )
        for name, about in rows.items()
    )
    return "\n".join([title, *lines, ""])
