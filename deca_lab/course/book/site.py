"""Builds the site: its sources are gathered in a folder that goes away, Sphinx turns them into pages, the pages move."""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from deca_lab.course.book.sources import write_sources
from deca_lab.course.place import home
from deca_lab.errors import BadInput, check, require
from deca_lab.files import folder

HERE = Path(__file__).parent
MARK = ".deca-lab-book"  # a file in each folder that is ours to replace
NEEDED = ("sphinx", "myst_nb", "furo", "sphinx-mathjax-offline", "ipywidgets")
MATHJAX = "tex-svg-full.js"  # one file: letters are drawn as paths, so there is no font to fetch


class Built(NamedTuple):
    """A built site: its pages, its size in bytes, and what Sphinx has against it, a line each."""

    pages: list[Path]
    size: int
    warnings: list[str]


def build(out: Path | str, teachers: bool = False, place: Path | None = None) -> Built:
    """Write the site of the course at `place` (its home) into the folder `out`.

    The outputs are those that the notebooks hold; nothing of them runs. The teachers' site has the solutions too. A site
    of an earlier call is replaced. Raises BadInput for any other folder that holds something, and where Sphinx is not
    installed.
    """
    require("the book", "book", *NEEDED)
    from deca_lab.course.widgets.stills import write_stills  # draws, so it is loaded here

    target = _free(Path(out))
    with tempfile.TemporaryDirectory() as scratch:
        sources, pages = Path(scratch, "sources"), Path(scratch, "pages")
        write_sources(sources, place or home(), teachers)
        with ThreadPoolExecutor(1) as beside:  # Sphinx is another process: both cores work
            made = beside.submit(_pages, sources, pages)
            write_stills(sources / "_later")
            warnings = made.result()
        shutil.copytree(sources / "_later", pages / "_static" / "knobs")
        _move(pages, target)
    files = [path for path in target.rglob("*") if path.is_file()]
    return Built(sorted(target.rglob("*.html")), sum(p.stat().st_size for p in files), warnings)


def _free(target: Path) -> Path:
    ours = not any(folder(target).iterdir()) or (target / MARK).is_file()
    check(ours, "out", str(target), "a new folder, an empty one, or one that an earlier call wrote")
    return target


def _pages(sources: Path, pages: Path) -> list[str]:
    """Run Sphinx, and return its warnings; raise BadInput where it made no pages."""
    warned = sources / "_warnings.txt"
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-n", "-q", "-j", "auto"]
    done = subprocess.run(
        [*command, "-c", str(HERE), "-w", str(warned), str(sources), str(pages)],
        env={**os.environ, "DECA_LAB_MATHJAX": str(mathjax())},
        capture_output=True,
        text=True,
        check=False,
    )
    if not (pages / "index.html").is_file():
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise BadInput(f"Sphinx could not make the pages: {' '.join(last)}")
    return [line.replace(f"{sources}{os.sep}", "") for line in warned.read_text().splitlines()]


def mathjax() -> Path:
    """Return the folder of the installed package that carries MathJax."""
    spec = find_spec("sphinx-mathjax-offline")
    assert spec
    assert spec.origin
    return Path(spec.origin).parent / "static" / "mathjax"


def _move(pages: Path, target: Path) -> None:
    for leftover in (".doctrees", ".buildinfo", "_sources"):
        gone = pages / leftover
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink(missing_ok=True)
    (pages / MARK).touch()
    try:
        shutil.rmtree(target)
        shutil.move(pages, target)
    except OSError as error:
        raise BadInput(f"cannot write {target}: {error.strerror or error}") from None
