"""What a class needs: the notebooks run, JupyterLab, the students' copies, the book."""

from pathlib import Path
from typing import Annotated

import typer

from deca_lab.cli.words import JSON, QUIET, show, speaker
from deca_lab.errors import check


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
    as_json: JSON = False,
    quiet: QUIET = False,
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
        speaker(quiet),
    )
    rows = [
        {"notebook": r.name, "seconds": r.seconds, "error": r.error, "copy": r.copy}
        for r in results
    ]
    show(as_json, {"notebooks": rows}, course.table(results))
    raise typer.Exit(1 if any(result.error for result in results) else 0)


def _named(path: Path, parts: list[str]) -> bool:
    """Say whether FOLDER/NAME of a notebook holds one of these parts."""
    return any(part in f"{path.parent.name}/{path.stem}" for part in parts)


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


def students(
    folder: Annotated[Path, typer.Argument(help="folder of the copies; nothing is overwritten")],
    instructor: Annotated[
        bool,
        typer.Option("--instructor", metavar=" ", help="solved lessons, too; needs a checkout"),
    ] = False,
    as_json: JSON = False,
) -> None:
    """Write lessons to read, assignments for nbgrader with its configuration, and for an instructor the answers."""
    from deca_lab import course

    copied = course.students(folder, instructor=instructor)
    written, kept = len(copied.written), len(copied.kept)
    words = f"{folder}: {written} files written, {kept} were there and stay as they are"
    show(as_json, {"folder": folder, "written": copied.written, "kept": copied.kept}, words)


def book(
    out: Annotated[Path, typer.Option(help="folder of the site; one of before is replaced")],
    teachers: Annotated[
        bool, typer.Option("--teachers", metavar=" ", help="with the solutions")
    ] = False,
    as_json: JSON = False,
) -> None:
    """Write the course, theory, how-to pages and reference as one site, from the outputs that the notebooks hold."""
    from deca_lab.course import build

    built = build(out, teachers)
    index, warnings = out / "index.html", built.warnings
    words = (
        f"{len(built.pages)} pages, {built.size / 1e6:.1f} MB, {len(warnings)} warnings: {index}"
    )
    result = {"index": index, "pages": built.pages, "bytes": built.size, "warnings": warnings}
    show(as_json, result, "\n".join([*warnings, words]))
    raise typer.Exit(1 if warnings else 0)


def slides(
    names: Annotated[
        list[str] | None, typer.Argument(help="parts of lessons' names, such as 02; all when none")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder of the pages")] = Path("slides"),
    as_json: JSON = False,
) -> None:
    """Write slides of the lessons, a self-contained page each, to show in a browser and to print."""
    from deca_lab.course.slides import slides as write

    pages = write(out, names or ())
    show(as_json, {"pages": pages}, "\n".join(map(str, pages)))
