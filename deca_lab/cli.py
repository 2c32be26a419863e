"""The command line: every knob of a RunConfig is an option, every error one line.

Heavy modules are imported inside the commands, so that help answers at once.
"""

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import Field, asdict, fields, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deca_lab.errors import BadInput, Diverged, PeerLost, Stopped, check, pick
from deca_lab.files import write_whole
from deca_lab.methods import resolve
from deca_lab.runconfig import RunConfig, from_mapping

if TYPE_CHECKING:
    from deca_lab.bounds.beside_a_run import Verdict

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Learn, run and check decentralised fine-tuning of language models. Start with [bold]deca-lab run[/bold].",
)


def main() -> None:
    """Run the command line; bad input is one line on stderr and exit code 2, a diverged run exit code 1."""
    try:
        app()
    except BadInput as error:
        _fail(f"error: {error}", 2)
    except Diverged as error:
        _fail(f"stopped: {error}", 1)
    except PeerLost as error:
        _fail(f"stopped: {error}; when all are back, go on with deca-lab run --resume DIR", 1)
    except Stopped as asked:
        _fail(str(asked), 130)
    except KeyboardInterrupt:
        _fail(
            "stopped by hand; what was checkpointed can be continued with deca-lab run --resume DIR",
            130,
        )


def _fail(text: str, code: int) -> None:
    sys.stderr.write(text + "\n")
    sys.exit(code)


Command = Callable[..., None]
Value = str | bool | int | float  # of a knob


RECIPE = Annotated[
    str,
    typer.Option(
        "--recipe",
        "--config",
        help="knobs of one of the papers' experiments (`deca-lab list recipes`), or of a .yaml or .json file, such as "
        "a run's config.json; options beside it win",
        rich_help_panel="Method",
    ),
]


def _of_recipe(ctx: typer.Context, name: str) -> dict[str, Value]:
    """Return the knobs of a recipe that the command line does not set itself."""
    from deca_lab.recipes.recipe import knobs_of

    if not name:
        return {}
    resumed = ctx.params.get("resume")
    check(resumed is None, "recipe", name, "left out with --resume, which changes nothing")
    method = ctx.params["method"] if _was_given(ctx, "method") else None
    config = asdict(from_mapping(knobs_of(name, method)))  # an unknown knob is refused here
    return {k: config[k] for k in knobs_of(name, method) if not _was_given(ctx, k)}


def with_knobs(**usual: Value) -> Callable[[Command], Command]:
    """Give a command an option for every knob of RunConfig in place of its `**knobs`; `usual` are defaults of its own."""

    def wrap(command: Command) -> Command:
        own = [
            p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD
        ]
        recipe = inspect.Parameter(
            "recipe", inspect.Parameter.KEYWORD_ONLY, default="", annotation=RECIPE
        )
        context = inspect.Parameter(
            "ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
        )
        knobs = [
            inspect.Parameter(
                f.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=usual.get(f.name, f.default),
                annotation=_option(f),
            )
            for f in fields(RunConfig)
        ]

        def filled(ctx: typer.Context, recipe: str, **values: Any) -> None:  # noqa: ANN401
            wanted = {"ctx": ctx} if any(p.name == "ctx" for p in own) else {}
            command(**{**values, **_of_recipe(ctx, recipe)}, **wanted)

        others = [p for p in own if p.name != "ctx"]
        taken = [context, *others, recipe, *knobs]
        filled.__dict__["__signature__"] = inspect.Signature(taken)  # what typer reads
        filled.__annotations__ = {p.name: p.annotation for p in taken}
        filled.__name__, filled.__doc__ = command.__name__, command.__doc__
        return filled

    return wrap


def _option(f: "Field[Any]") -> object:
    """Return the annotation from which typer makes a knob's option."""
    words = f.metadata["help"] + (
        f" [dim]({f.metadata['allowed'][1]})[/dim]" if f.metadata["allowed"] else ""
    )
    return Annotated[f.type, typer.Option(help=words, rich_help_panel=f.metadata["group"])]


@app.command()
@with_knobs()
def run(
    ctx: typer.Context,
    out: Annotated[
        Path | None, typer.Option(help="new folder for the run; runs/DATE-METHOD when not given")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="continue the run of this folder, bit for bit")
    ] = None,
    bounds: Annotated[
        bool,
        typer.Option(
            "--bounds",
            help="say afterwards what theory says of such a run; DECA is trained once more for it",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what the run would need, and end")
    ] = False,
    **knobs: Any,  # noqa: ANN401 - each has its own knob's type
) -> None:
    """Fine-tune a small GPT with DECA on simulated clients and write a folder with tables, pictures and a report.

    Without any option: 8 clients on a ring, each with its own mix of Python's standard-library sources, fine-tune the
    pretrained byte model that ships with the lab, in one or two minutes on a laptop.
    """
    given = {name: value for name, value in knobs.items() if _was_given(ctx, name)}
    if resume is not None:
        check(
            out is None,
            "out",
            str(out),
            "left out with --resume: the run continues in its own folder",
        )
        _require_as_stored(resume, given)
        folder, config = resume, None
    else:
        config = RunConfig(**knobs)
        resolve(config)  # an unknown method is no part of a folder's name
        if dry_run:
            return _say_what_it_needs(config)
        folder = out or _fresh_folder(config.method)
    if _finish(folder, config) and bounds:
        _write_bounds(folder)


def _say_what_it_needs(config: RunConfig) -> None:
    """Print the forecast of a run, and what is free."""
    from deca_lab.lab.forecast import forecast_of, require_room, room, size
    from deca_lab.lab.objects import NOTHING
    from deca_lab.lab.prepare import find_device, settled
    from deca_lab.lab.sources import read_texts

    whole, objects = settled(config, NOTHING)
    texts, free = read_texts(whole, objects), room(find_device(whole.device))
    known = forecast_of(whole, objects, texts)
    for note in texts.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(known.words())
    if free is not None:
        typer.echo(f"{size(free)} are free for tensors")
    require_room(known, free, whole, objects, texts)


def _was_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _require_as_stored(folder: Path, given: dict[str, Value]) -> None:
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
    again = (
        stem.with_name(f"{stem.name}-{k}") for k in range(1, 1000)
    )  # two runs may start in one second
    return next(path for path in (stem, *again) if not path.exists())


def _finish(folder: Path, config: RunConfig | None) -> bool:
    """Run or resume, then write the report and say where it is; return whether this process has the history."""
    from deca_lab.lab import glance, progress, runs
    from deca_lab.network import processes
    from deca_lab.pictures import report

    with processes.joined() as world, progress.bar() as shown, progress.interruptible() as asked:

        def say(line: str) -> None:
            if world.rank == 0:
                typer.echo(line, err=True)

        def watch(done: int, total: int, known: dict[str, Any]) -> bool:
            if world.rank == 0:
                shown(done, total, known)
            return asked()

        done = (
            runs.resume_in(world, folder, watch)
            if config is None
            else runs.run_in(world, config, folder, watch, say=say)
        )
    if done is None:
        return False
    page = report.write(done, folder)
    s = done.summary
    for note in s["notes"]:  # what was guessed and dropped
        typer.echo(f"note: {note}", err=True)
    typer.echo(
        f"sent {s['bytes_sent'] / 1e6:.1f} MB, predicted {s['bytes_predicted'] / 1e6:.1f} MB; "
        f"{glance.seconds(done.timings)}\nreport: {page}\n{glance.outcome(s)}"
    )
    return True


def _write_bounds(folder: Path) -> None:
    """Print every claim that speaks of a finished run; write bounds.csv and bounds.png into its folder."""
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
    if drawn:
        write_whole(folder / "bounds.png", pictures.png(pictures.draw_beside(drawn)))
    for row in rows:
        typer.echo(
            f"{row['claim']}: {row['verdict']}"
            + (f", tightness {row['tightness']:.3g}" if row["tightness"] else "")
            + (f"\n    rests on: {row['rests on']}" if row["rests on"] else "")
        )
    typer.echo(f"bounds: {folder / 'bounds.csv'}, {folder / 'bounds.png'}")


def _bounds_row(one: "Verdict") -> dict[str, Any]:
    """Return a claim's row of bounds.csv: both sides at the end of the run, where there are any."""
    import numpy as np

    ends: dict[str, Any] = dict.fromkeys(("tightness", "left side", "right side"))
    if one.bound is not None:
        left, right = np.atleast_1d(one.bound.lhs)[-1], np.atleast_1d(one.bound.rhs)[-1]
        ends = {"tightness": one.bound.tightness, "left side": left, "right side": right}
    return {"claim": one.claim, "verdict": one.verdict, **ends, "rests on": one.rests_on}


SEEDS = "runs of each arm, its rate tuned on each; 0 = 10 where a run is short, else 5 or 3"
GRID = "learning rates to begin with; two or more grow until the best is not at the edge"


@app.command()
@with_knobs(rounds=1, eval_every=32)
def compare(
    ctx: typer.Context,
    out: Annotated[
        Path, typer.Option(help="folder of the comparison; an interrupted one goes on there")
    ],
    methods: Annotated[
        str, typer.Option(help="separated by commas (deca-lab list methods)")
    ] = "deca,dec-lora,decaf,d-adam",
    seeds: Annotated[int, typer.Option(help=SEEDS)] = 0,
    budget: Annotated[
        str,
        typer.Option(help="what all methods get equally much of: rounds, steps, bytes or flops"),
    ] = "steps",
    amount: Annotated[
        float, typer.Option(help="of the budget; 0 = what --rounds of the first method cost")
    ] = 0.0,
    rates: Annotated[str, typer.Option(help=GRID)] = "0.001,0.003,0.01",
    margin: Annotated[
        float, typer.Option(help="differences of the score below this do not matter; 0 = all do")
    ] = 0.0,
    **knobs: Any,  # noqa: ANN401 - each has its own knob's type
) -> None:
    """Run several methods with equal budgets on the same seeds, and write a table, curves and a page."""
    from deca_lab.pictures import compare_report
    from deca_lab.studies import compare as cp

    for name, better in (("lr", "left out: --rates is the grid"), ("method", "given as --methods")):
        check(not _was_given(ctx, name), name, knobs[name], better)
    grid = tuple(dict.fromkeys(numbers(rates, "rates")))
    asked = cp.Comparison(
        RunConfig(**knobs), cp.check_methods(methods), seeds, grid, budget, amount, margin
    )
    table = cp.compare(asked, out, lambda line: typer.echo(line, err=True))
    score, higher = cp.score_of(asked.base.task)
    page = compare_report.write(asked, table, out, score, higher)
    columns = ["first", "second", "seeds", "difference", "low", "high", "p_holm", "detectable"]
    gaps = cp.paired(table, score, higher, margin)
    shown = [cp.summary(table, score), gaps.reindex(columns=[*columns, "verdict"])]
    typer.echo("\n\n".join([*(part.to_string(index=False) for part in shown), f"page: {page}"]))


def numbers(text: str, argument: str) -> list[float]:
    """Return the numbers of a text such as "0.001,0.01", or raise BadInput."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(
            f"{argument} = {text!r} cannot be used: it must be numbers separated by commas"
        ) from None


@app.command()
def findings(
    out: Annotated[
        Path, typer.Option(help="folder of the examination; an interrupted one goes on there")
    ],
    only: Annotated[
        str,
        typer.Option(help="findings separated by commas (deca-lab list findings); all when empty"),
    ] = "",
    seeds: Annotated[int, typer.Option(help=SEEDS)] = 0,
    rates: Annotated[str, typer.Option(help=GRID)] = "0.001,0.002,0.004",
    steps: Annotated[int, typer.Option(help="inner steps of each arm, a multiple of 12")] = 96,
    context: Annotated[int, typer.Option(help="tokens of context; 0 = 128")] = 0,
    older: Annotated[
        Path | None,
        typer.Option(help="runs.csv of an earlier examination, for findings not examined now"),
    ] = None,
) -> None:
    """Examine the papers' findings on small models, each with an interval and a verdict, and write a page.

    All of them take most of a day on a laptop, the feedback's an hour or two; finished runs are kept, so that it may be
    broken off.
    """
    import pandas as pd

    from deca_lab import pictures
    from deca_lab.studies import findings_page
    from deca_lab.studies import papers as pp

    chosen = [name.strip() for name in only.split(",") if name.strip()] or list(pp.FINDINGS)
    grid = tuple(dict.fromkeys(numbers(rates, "rates")))
    base = replace(pp.BASE, context=context or pp.BASE.context)
    verdicts = pp.examine(
        out,
        chosen,
        seeds,
        grid,
        base,
        lambda line: typer.echo(line, err=True),
        steps=steps,
        older=None if older is None else pp.read_runs(older),
    )
    parts = pp.feedback_parts(pd.read_csv(out / "runs.csv"))
    write_whole(out / "findings.png", pictures.png(pictures.draw_findings(verdicts)))
    write_whole(out / "findings.md", findings_page.page(verdicts, parts, base, steps))
    for row in verdicts.itertuples():
        typer.echo(
            f"{row.verdict:<11} {row.gain:+.4f} ({row.low:+.4f} to {row.high:+.4f})  {row.says}"
        )
    typer.echo(f"page: {out / 'findings.md'}")


@app.command()
@with_knobs()
def sweep(
    vary: Annotated[
        list[str],
        typer.Option(help="a knob and its values, such as b1=0.5,0.9; may be given again"),
    ],
    out: Annotated[
        Path, typer.Option(help="folder of the table; an interrupted sweep goes on there")
    ],
    seeds: Annotated[
        int, typer.Option(help="runs of each combination, with --seed and the seeds after it")
    ] = 3,
    **knobs: Any,  # noqa: ANN401 - each has its own knob's type
) -> None:
    """Vary knobs over seeds, all combinations; print the table, the best by validation loss first, and draw it."""
    from deca_lab.studies import sweep as sw

    grid = sw.parse_grid(vary)
    table = sw.sweep(RunConfig(**knobs), grid, seeds, out, lambda line: typer.echo(line, err=True))
    typer.echo(sw.summary(table, list(grid)).to_string(index=False))
    if len(grid) <= 2:
        from deca_lab import pictures

        write_whole(out / "sweep.png", pictures.png(pictures.draw_sweep(table, list(grid))))
        typer.echo(f"picture: {out / 'sweep.png'}")


@app.command()
def doctor(
    topology: Annotated[
        str, typer.Option(help="graph or sequence (deca-lab list topologies)")
    ] = "ring",
    clients: Annotated[int, typer.Option(help="number of clients")] = 8,
    matrix: Annotated[
        Path | None, typer.Option(help="look at this W instead: .csv or .npy")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="rule from graph to W (deca-lab list weights)")
    ] = "metropolis",
    edge_probability: Annotated[float, typer.Option(help="of the Erdos-Renyi graph")] = 0.5,
    degree: Annotated[int, typer.Option(help="of the random regular graph")] = 3,
    seed: Annotated[int, typer.Option(help="of random graphs")] = 0,
    machine: Annotated[
        bool,
        typer.Option("--machine", help="look at this machine instead: is it ready for the course?"),
    ] = False,
) -> None:
    """Look at a mixing matrix and say in plain words whether training with it is sound; exit code 1 if not.

    With --machine: at this computer, before a class, in half a minute.
    """
    if machine:
        from deca_lab.course import machine as here

        checks = here.examine()
        typer.echo(here.describe(checks))
        raise typer.Exit(0 if all(one.ok for one in checks) else 1)
    from deca_lab.mixing import doctor as doc
    from deca_lab.mixing.topology import read_matrices
    from deca_lab.mixing.topology import topology as build

    subject = (
        read_matrices(matrix)
        if matrix is not None
        else build(
            topology,
            clients,
            weights=weights,
            probability=edge_probability,
            degree=degree,
            seed=seed,
        )
    )
    typer.echo(doc.describe(subject))
    raise typer.Exit(0 if doc.diagnose(subject).verdict == "sound" else 1)


@app.command()
def bounds(
    names: Annotated[
        list[str] | None, typer.Argument(help="claims; all when none is named")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the examples, or of the attack")] = 0,
    attack: Annotated[
        float, typer.Option(help="seconds to search for instances that break the claims, instead")
    ] = 0.0,
    out: Annotated[Path | None, typer.Option(help="folder for the attack's witnesses")] = None,
) -> None:
    """Evaluate the claims of theory/, both sides by number; exit code 1 if one fails, or cannot fail when it is broken.

    With --attack SECONDS, search random instances, then near the nearest, with loops of its own for the left sides: the
    largest ratio of the sides found for each claim; exit code 1 if one is violated.
    """
    from deca_lab.bounds import table

    if attack:
        raise typer.Exit(_attack(names or (), attack, seed, out))
    check(out is None, "out", str(out), "left out without --attack: the table writes nothing")
    typer.echo(table.HEAD)
    rows = table.evaluate(names or (), seed, lambda row: typer.echo(row.line))
    raise typer.Exit(0 if all(row.right for row in rows) else 1)


def _attack(names: Sequence[str], seconds: float, seed: int, out: Path | None) -> int:
    """Attack claims, print what came nearest, and return the exit code."""
    from deca_lab.bounds import attack as at

    typer.echo(at.HEAD)
    rows = at.attack(names, seconds, seed=seed, say=lambda row: typer.echo(row.line))
    if out is not None:
        typer.echo(f"witnesses: {at.write(rows, out)}")
    return 0 if all(row.right for row in rows) else 1


@app.command()
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
        str, typer.Option(help="clients that are slower in both, CLIENT@TIMES: '3@4'")
    ] = "",
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
    typer.echo(
        f"{plan.steps} inner steps of {each:.3g} s, {mbit:g} Mbit/s, {latency:g} s latency: {timeline.seconds:,.1f} s, "
        f"of which the clients wait or send {timeline.waiting:.0%}"
    )


@app.command()
def bench(
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            help="engine, step, memory, mixing, theory, growth, gpu, start, network or others; all when none"
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    picture: Annotated[
        Path | None, typer.Option(help="draw the part growth to this file, such as growth.png")
    ] = None,
) -> None:
    """Measure how fast this machine runs the lab, beside loops, copies and floors: medians of five, taken in turns."""
    from deca_lab.bench import bench as be

    check(
        picture is None or not parts or "growth" in parts,
        "picture",
        str(picture),
        "left out without the part growth",
    )
    rows = []

    typer.echo(f"{be.machine(device)}\n{be.HEAD}")
    for row in be.bench(parts or (), device):
        typer.echo(row.line)
        rows.append(row)
    if picture is not None:
        be.draw(rows, picture)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="a run folder")],
    client: Annotated[str, typer.Option(help="'mean', or a client's number")] = "mean",
    out: Annotated[
        Path | None, typer.Option(help="new directory; inside the run folder when not given")
    ] = None,
    form: Annotated[
        str,
        typer.Option("--format", help="model, for AutoModelForCausalLM; or peft: LoRA's factors"),
    ] = "model",
) -> None:
    """Write a model of a run, with its head where one trained, for transformers; or its adapter for PEFT."""
    from deca_lab.lab import export as ex

    out = out or ex.default_out(folder, client, form)
    typer.echo(f"written: {ex.export_model(folder, client, out, form)}")


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="a finished run's folder")]) -> None:
    """Draw a finished run's pictures and write its report again."""
    from deca_lab.lab import history
    from deca_lab.pictures import report as rep

    typer.echo(f"report: {rep.write(history.load(folder), folder)}")


@app.command()
def notebooks(
    names: Annotated[
        list[str] | None, typer.Argument(help="parts of names, such as 02 or theory; all when none")
    ] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full/--fast", help="long runs, many seeds, larger models on a GPU; or short"
        ),
    ] = False,
    out: Annotated[
        Path, typer.Option(help="folder of the executed copies; the sources stay as they are")
    ] = Path("executed"),
    jobs: Annotated[
        int, typer.Option(help="notebooks at a time; 0 = as many as there are cores")
    ] = 0,
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="NAME=VALUE, into every notebook")
    ] = None,
) -> None:
    """Execute the course and the theory pages from top to bottom; exit code 1 where a cell fails, which is shown."""
    from deca_lab import course

    available = course.notebooks()
    chosen = [path for path in available if not names or _named(path, names)]
    check(
        bool(chosen),
        "names",
        names,
        f"parts of these: {', '.join(path.stem for path in available)}",
    )
    results = course.execute(
        chosen,
        "full" if full else "fast",
        out,
        course.parse_parameters(parameter or []),
        jobs or None,
        lambda line: typer.echo(line, err=True),
    )
    typer.echo(course.table(results))
    raise typer.Exit(1 if any(result.error for result in results) else 0)


def _named(path: Path, parts: list[str]) -> bool:
    """Say whether FOLDER/NAME of a notebook holds one of these parts."""
    return any(part in f"{path.parent.name}/{path.stem}" for part in parts)


@app.command()
def lab(
    folder: Annotated[
        Path | None, typer.Option(help="copy the course here first; nothing is overwritten")
    ] = None,
    port: Annotated[int, typer.Option(help="of the local server")] = 8888,
    browser: Annotated[bool, typer.Option(help="open a browser")] = True,
) -> None:
    """Open JupyterLab at the course, on this machine only, with Jupyter's token."""
    from deca_lab import course

    copied = course.folder_of(folder)
    if copied.written or copied.kept:
        typer.echo(
            f"{copied.folder}: {len(copied.written)} files copied, {len(copied.kept)} were there and stay as they are"
        )
    raise typer.Exit(course.serve(copied.folder, port, browser))


@app.command()
def students(
    folder: Annotated[Path, typer.Argument(help="folder of the copies; nothing is overwritten")],
    instructor: Annotated[
        bool, typer.Option("--instructor", help="solved lessons, too; needs a checkout")
    ] = False,
) -> None:
    """Write lessons to read, assignments for nbgrader with its configuration, and for an instructor the answers."""
    from deca_lab import course

    copied = course.students(folder, instructor=instructor)
    typer.echo(
        f"{folder}: {len(copied.written)} files written, {len(copied.kept)} were there and stay as they are"
    )


@app.command()
def book(
    out: Annotated[Path, typer.Option(help="folder of the site; one of before is replaced")],
    teachers: Annotated[bool, typer.Option("--teachers", help="with the solutions")] = False,
) -> None:
    """Write the course, theory, how-to pages and reference as one site, from the outputs that the notebooks hold."""
    from deca_lab.course import build

    built = build(out, teachers)
    size = f"{built.size / 1e6:.1f} MB, {len(built.warnings)} warnings"
    typer.echo(
        "\n".join([*built.warnings, f"{len(built.pages)} pages, {size}: {out / 'index.html'}"])
    )
    raise typer.Exit(1 if built.warnings else 0)


@app.command("list")
def list_names(
    what: Annotated[str, typer.Argument(help="one table: methods, corpora, topologies ...")] = "",
) -> None:
    """List the names that the options take, with a word on each."""
    from deca_lab.names import tables

    known = tables()
    chosen = {what: pick(known, what, "table")} if what else known
    for title, rows in chosen.items():
        typer.echo(title)
        typer.echo("".join(f"  {name:<22} {about}\n" for name, about in rows.items()))
