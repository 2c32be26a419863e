"""Checks a machine before a class meets on it: versions, cores, memory, disk, a small training and a notebook kernel.

Every check that fails says what to do about it. Nothing is downloaded, and nothing stays on the disk.
"""

import os
import re
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path
from shutil import disk_usage
from typing import NamedTuple

from deca_lab.errors import check

PYTHON = (3, 11)
MEMORY, DISK = 2.0, 1.0  # GB free: two kernels with a small model each; run folders of a course
MODULES = {
    "pillow": "PIL",
    "pyyaml": "yaml",
}  # where the name to import is another than the name to install


COURSE = r"""; extra == ['"]course['"]$"""  # how an installed package marks what is of the extra
LONG = 120  # seconds that a kernel may take to start, and to answer: a machine may be busy


class Check(NamedTuple):
    """One thing looked at: whether it will do, what was found, and what to do where it will not."""

    name: str
    ok: bool
    found: str
    advice: str


def examine(folder: Path | str = ".") -> list[Check]:
    """Return what a course needs of this machine and what it has; `folder` is where the user will work."""
    place = Path(folder)
    check(place.is_dir(), "folder", str(place), "a folder that exists")
    looks: list[tuple[str, Callable[[], list[Check]]]] = [
        ("python", lambda: [python(sys.version_info[:3])]),
        ("packages", lambda: packages(requirements())),
        ("cores", lambda: [cores()]),
        ("gpu", lambda: [gpu()]),
        ("free memory", lambda: [memory()]),
        ("free disk", lambda: [disk(place)]),
        ("writing", lambda: [writing(place)]),
        ("two-client run", lambda: [two_clients()]),
        ("notebook kernel", lambda: [notebook_kernel()]),
    ]
    return [result for name, look in looks for result in _guarded(name, look)]


def _guarded(name: str, look: Callable[[], list[Check]]) -> list[Check]:
    """Return the checks of a look; one that stops with an error becomes a failed check, so that the others are still made."""
    try:
        return look()
    # Anything may be broken on this machine, and our task is to report it.
    except Exception as error:
        return [
            Check(
                name,
                False,
                f"stopped with {type(error).__name__}: {error}",
                "reinstall deca-lab in a fresh environment (README.md, Two commands); if it stays, report this line",
            )
        ]


def describe(checks: list[Check]) -> str:
    """Return a line for each check, with advice below those that failed, and a last line that sums up."""
    lines = [
        f"{'ok ' if f.ok else 'NO '} {f.name:<18} {f.found}"
        + ("" if f.ok else f"\n{'':23}-> {f.advice}")
        for f in checks
    ]
    bad = [f.name for f in checks if not f.ok]
    return "\n".join([*lines, f"not ready: {', '.join(bad)}" if bad else "ready for the course"])


def python(version: tuple[int, ...]) -> Check:
    """Judge the version of Python."""
    return Check(
        "python",
        version >= PYTHON,
        f"{'.'.join(map(str, version))} at {sys.executable}",
        f"install Python {'.'.join(map(str, PYTHON))} or newer, and make the environment with it",
    )


def requirements() -> list[str]:
    """Return what the course needs, as in pyproject.toml: of a checkout that file, else what is installed with the package."""
    import tomllib

    project = Path(__file__).parents[2] / "pyproject.toml"
    if project.is_file():
        table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        return [*table["dependencies"], *table["optional-dependencies"]["course"]]
    lines = metadata.requires("deca-lab") or []
    return [
        re.sub(COURSE, "", line) for line in lines if "extra ==" not in re.sub(COURSE, "", line)
    ]


def packages(needed: list[str]) -> list[Check]:
    """Judge each package: installed, new enough and importable. Those that are right share one line."""
    checks = [_package(line) for line in needed]
    well = ", ".join(f"{f.name} {f.found}" for f in checks if f.ok)
    return [
        *([Check("packages", True, well, "")] if well else []),
        *(f for f in checks if not f.ok),
    ]


def _package(line: str) -> Check:
    """Judge one requirement such as "torch>=2.6"."""
    from packaging.requirements import Requirement

    need = Requirement(line)
    repair = f"{sys.executable} -m pip install --upgrade {str(need).split(';')[0]!r}"
    if need.marker is not None and not need.marker.evaluate():
        return Check(need.name, True, "not needed here", "")
    try:
        version = metadata.version(need.name)
    except metadata.PackageNotFoundError:
        return Check(need.name, False, "not installed", repair)
    if not need.specifier.contains(version, prereleases=True):
        return Check(need.name, False, f"{version}, and {need.specifier} is needed", repair)
    try:
        import_module(MODULES.get(need.name, re.sub(r"[-.]", "_", need.name)))
    except Exception as error:  # a broken binary may raise anything
        return Check(
            need.name,
            False,
            f"{version}, which cannot be imported: {error}",
            repair.replace("--upgrade", "--force-reinstall"),
        )
    return Check(need.name, True, version, "")


def cores() -> Check:
    """Say how many cores there are; one is enough, two run notebooks side by side."""
    from deca_lab.course.running import cores as count

    return Check(
        "cores",
        True,
        f"{count()}{'' if count() > 1 else ', so that every lesson takes about twice its minutes'}",
        "",
    )


def gpu() -> Check:
    """Say what GPU torch can use; none is needed."""
    import torch

    if torch.cuda.is_available():
        p = torch.cuda.get_device_properties(0)
        return Check(
            "gpu",
            True,
            f"{p.name}, {p.total_memory / 1e9:.0f} GB, of {torch.cuda.device_count()}",
            "",
        )
    if torch.backends.mps.is_available():
        return Check("gpu", True, "Apple's, which has no float64; the lab uses the CPU", "")
    return Check("gpu", True, "none that torch can use, and none is needed", "")


def memory() -> Check:
    """Judge the free memory."""
    from deca_lab.lab.forecast import free_memory

    free = free_memory() / 1e9
    return Check(
        "free memory",
        free >= MEMORY,
        f"{free:.1f} GB",
        f"close other programs until {MEMORY:g} GB are free, or run notebooks one at a time (--jobs 1)",
    )


def disk(folder: Path) -> Check:
    """Judge the free disk of a folder."""
    free = disk_usage(folder).free / 1e9
    return Check(
        "free disk",
        free >= DISK,
        f"{free:.1f} GB in {folder.resolve()}",
        f"make {DISK:g} GB free, or work in a folder on another disk",
    )


def writing(folder: Path) -> Check:
    """Judge whether files can be written in a folder."""
    advice = (
        "work in a folder of your own, such as your home, or ask for the right to write in this one"
    )
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".deca-lab-") as file:
            file.write(b"deca-lab")
    except OSError as error:
        return Check("writing", False, f"{folder.resolve()}: {error.strerror or error}", advice)
    return Check("writing", True, f"files can be written in {folder.resolve()}", advice)


def two_clients() -> Check:
    """Judge a training of two clients on generated text: whether they learn; say on which device, by which engine."""
    from deca_lab.lab.runs import run
    from deca_lab.runconfig import RunConfig

    done = run(
        RunConfig(
            clients=2,
            model="tiny",
            corpus="markov",
            context=32,
            batch=4,
            rounds=1,
            inner_steps=6,
            lr=3e-3,
            eval_windows=8,
            engine="auto",
        )
    )
    losses = done.metrics["test_loss"]
    seen = learnt(float(losses.iloc[0]), float(losses.iloc[-1]))
    where = f", on {done.summary['device']} by --engine {done.config.engine}"
    return seen._replace(found=seen.found + where)


def learnt(before: float, after: float) -> Check:
    """Judge a training by its test loss before and after, in nats a token."""
    return Check(
        "two-client run",
        after < before - 0.05,
        f"test loss {before:.3f} -> {after:.3f} nats a token",
        "the clients did not learn: another torch may help (pip install --force-reinstall torch); report this line",
    )


def notebook_kernel() -> Check:
    """Judge whether a notebook's kernel starts, imports deca_lab and answers, as the lessons will need it."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    from deca_lab.course.kernel import QUIET, environment, kernel

    nb = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("import sys, deca_lab; print(sys.executable)")]
    )
    advice = f"{sys.executable} -m pip install --force-reinstall ipykernel; a firewall must let a program talk to 127.0.0.1"
    client = NotebookClient(
        nb, km=kernel(), timeout=LONG, startup_timeout=LONG, extra_arguments=QUIET
    )
    try:
        client.execute(env=environment(threads=1), cleanup_kc=True)
    except (CellExecutionError, RuntimeError, TimeoutError, OSError) as error:
        return Check("notebook kernel", False, str(error).strip().splitlines()[-1], advice)
    answer = "".join(output.get("text", "") for output in nb.cells[0].outputs).strip()
    return Check(
        "notebook kernel",
        os.path.samefile(answer, sys.executable),
        f"answers, with {answer}",
        advice,
    )
