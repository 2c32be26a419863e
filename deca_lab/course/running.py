"""Runs notebooks with papermill, several at a time, and says which cell failed, with what.

Two things that stall or mislead are seen to: nbclient's own Output widgets are switched off (they can hang a run for
its whole time-out), and a parameter that a notebook does not have is an error, where papermill only warns.
"""

import ast
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from deca_lab.course.kernel import COURSE, QUIET, environment, kernel
from deca_lab.errors import BadInput, check, pick, require

if TYPE_CHECKING:
    from papermill.engines import NotebookExecutionManager

PROFILES = {"fast": 240, "full": 1200}  # seconds that one cell may take
SAVED = 5.0  # seconds between two writings of a copy: all its pictures are written each time
Say = Callable[[str], None]


class Job(NamedTuple):
    """One notebook to run: where it is, where its executed copy goes, and how."""

    path: Path
    copy: Path
    parameters: dict[str, Any]
    timeout: int  # seconds, a cell
    threads: int  # of torch and numpy; 0 leaves them as they are


class Result(NamedTuple):
    """How a notebook went; `error` is empty, or the failing cell with its source and what it raised."""

    path: Path
    seconds: float
    error: str
    copy: Path

    @property
    def name(self) -> str:
        """The notebook's folder and stem, such as notebooks/02_gossip."""
        return f"{self.path.parent.name}/{self.path.stem}"


def execute(
    paths: Sequence[Path],
    profile: str = "fast",
    out: Path | str = "executed",
    parameters: Mapping[str, Any] | None = None,
    jobs: int | None = None,
    say: Say = lambda line: None,
) -> list[Result]:
    """Run notebooks, each in a kernel of its own, and return how they went, in the order of `paths`.

    Executed copies go to `out`/FOLDER/NAME.ipynb, a failed one up to its failing cell. `parameters` override those of
    the cell tagged `parameters`, `profile` ("fast", "full") too. `jobs` run at a time, at most as many as there are
    cores (all of them when None), with one thread each where there are several. Raises BadInput before anything runs.
    """
    require("running notebooks", "course", *COURSE)
    timeout = pick(PROFILES, profile, "profile")
    check(jobs is None or jobs >= 1, "jobs", jobs, "at least 1")
    given = {**(parameters or {}), "profile": profile}
    for path in paths:
        _require_known(path, given)
    width = max(1, min(jobs or len(paths), len(paths), cores()))
    todo = [Job(path, _copy_of(path, Path(out)), given, timeout, int(width > 1)) for path in paths]
    return in_parallel(todo, width, say) if todo else []


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parameters_of(path: Path) -> set[str]:
    """Return the names in a notebook's cell tagged `parameters`; raises BadInput where it is no notebook."""
    import papermill

    try:
        return set(papermill.inspect_notebook(str(path)))
    except Exception as error:  # papermill passes on what json, nbformat or the system raise
        raise BadInput(f"notebook {str(path)!r} cannot be read: {error}") from None


def parse_parameters(words: Iterable[str]) -> dict[str, Any]:
    """Return {"clients": 4} of ["clients=4"]: values are Python literals, and texts where they are none."""
    parts = [(word, *word.partition("=")) for word in words]
    for word, name, equals, _ in parts:
        check(
            bool(equals) and name.isidentifier(), "parameter", word, "NAME=VALUE, such as clients=4"
        )
    return {name: _literal(value) for _, name, _, value in parts}


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _require_known(path: Path, given: Mapping[str, Any]) -> None:
    known = parameters_of(path)
    for name in given:
        check(
            name in known,
            "parameter",
            name,
            f"one that {path.name} has: {', '.join(sorted(known)) or 'it has none'}",
        )


def _copy_of(path: Path, out: Path) -> Path:
    """Return where the executed copy goes; only an earlier executed copy is ever overwritten."""
    copy = out / path.resolve().parent.name / path.name
    if copy.exists():
        try:
            ours = (
                copy.resolve() != path.resolve()
                and "papermill" in json.loads(copy.read_bytes())["metadata"]
            )
        except (OSError, ValueError, KeyError, TypeError):
            ours = False
        check(
            ours,
            "out",
            str(out),
            f"another folder: {copy} is no executed copy, and would be overwritten",
        )
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"out = {str(out)!r} cannot be used as a folder: {error.strerror or error}"
        ) from None
    return copy


def in_parallel(jobs: Sequence[Job], width: int, say: Say) -> list[Result]:
    """Run the jobs, `width` at a time, each copy a path of its own, and return how they went, in their order."""
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    # Papermill changes the process's folder: no threads.
    pool = ProcessPoolExecutor(width, get_context("spawn"))
    try:
        running = {pool.submit(run_one, job): job for job in jobs}
        done: dict[Path, Result] = {}
        for future in as_completed(running):
            job = running[future]
            broke = future.exception()
            result = (
                Result(job.path, 0.0, f"the process that ran it died: {broke}", job.copy)
                if broke
                else future.result()
            )
            done[job.copy] = result
            say(
                f"{len(done)}/{len(jobs)}  {result.seconds:6.1f} s  {result.name}{'  FAILED' if result.error else ''}"
            )
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    return [done[job.copy] for job in jobs]


def run_one(job: Job) -> Result:
    """Run one notebook in this process and return how it went; a failure is a text in the result, not an exception."""
    import papermill

    began = time.perf_counter()
    try:
        papermill.execute_notebook(
            str(job.path.resolve()),
            str(job.copy.resolve()),
            job.parameters,
            engine_name=_engine(),
            kernel_name="python3",
            language="python",
            cwd=str(job.path.resolve().parent),
            progress_bar=False,
            execution_timeout=job.timeout,
            threads=job.threads,
        )
        error = ""
    except Exception as raised:  # a cell's own error, a time-out, a dead kernel, a full disk
        error = _described(raised)
    return Result(job.path, time.perf_counter() - began, error, job.copy)


def _described(raised: Exception) -> str:
    """Return the failing cell's number, its source and its error."""
    from papermill.exceptions import PapermillExecutionError

    if isinstance(raised, PapermillExecutionError):
        return f"cell {raised.exec_count}:\n{_indented(raised.source)}\n{raised.ename}: {raised.evalue}"
    return f"{type(raised).__name__}: {raised}"


def _indented(source: str) -> str:
    return "\n".join(f"    {line}" for line in source.splitlines())


def _engine() -> str:
    """Register papermill's engine with our kernel and without Output widgets, and return its name."""
    from papermill.engines import NBClientEngine, papermill_engines

    # papermill takes engines as classes: its own one, with another way to execute a notebook
    engine = type(
        "Engine", (NBClientEngine,), {"execute_managed_notebook": staticmethod(_execute_managed)}
    )
    papermill_engines.register("deca-lab", engine)
    return "deca-lab"


def _execute_managed(
    manager: "NotebookExecutionManager",
    kernel_name: str,
    *,
    execution_timeout: int,
    threads: int,
    start_timeout: int = 60,
    **unused: object,
) -> None:
    """Execute a notebook as papermill does, but for the kernel, its environment, and nbclient's Output widgets."""
    from papermill.clientwrap import PapermillNotebookClient

    client = PapermillNotebookClient(
        manager,
        km=kernel(),
        kernel_name=kernel_name,
        timeout=execution_timeout,
        startup_timeout=start_timeout,
        shutdown_kernel="immediate",
        extra_arguments=QUIET,
    )
    client.widget_registry = {}  # jupyter/nbclient issue 312: a run stalls without an error
    with _saved_now_and_then(manager):
        client.execute(env=environment(threads), cleanup_kc=True)


@contextmanager
def _saved_now_and_then(manager: "NotebookExecutionManager") -> Iterator[None]:
    """Let papermill write the copy when some seconds have passed, not before and after every cell; it writes the end itself."""
    save = manager.save

    def saved(**given: object) -> None:
        if (manager.now() - manager.last_save_time).total_seconds() >= SAVED:
            save(**given)

    vars(manager)["save"] = saved
    try:
        yield
    finally:
        del vars(manager)["save"]


def table(results: Sequence[Result]) -> str:
    """Return a line a notebook, seconds and whether it failed, their sum, and below what failed."""
    rows = [f"{r.seconds:7.1f} s  {r.name}{'  FAILED' if r.error else ''}" for r in results]
    seconds = sum(r.seconds for r in results)
    ran = sum(not r.error for r in results)
    rows.append(f"{seconds:7.1f} s  in all, {ran} of {len(results)} ran")
    failed = [f"{r.name}: {r.error}\nexecuted up to there: {r.copy}" for r in results if r.error]
    return "\n\n".join(["\n".join(rows), *failed])
