"""Gathers the sources of the site: the course's notebooks, the how-to pages, the reference, and the first page over all."""

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from deca_lab.course.book.reference import commands, knobs, names, public_names, solutions
from deca_lab.course.book.syllabus import syllabus
from deca_lab.course.place import files
from deca_lab.course.place import notebooks as course_notebooks

if TYPE_CHECKING:
    from nbformat import NotebookNode

DOCS = Path(__file__).parents[1] / "docs"
RUBRIC = "../deca_lab/course/docs/rubric.md"  # as notebooks/README.md links to it
FOR_TEACHERS = "## For teachers"  # where the teachers' part of notebooks/README.md begins
REFERENCE = {
    f"reference/{stem}": f"reference/{stem}.{kind}"
    for stem, kind in zip(
        ("commands", "public", "knobs", "names_of_knobs"), ("md", "rst", "md", "md"), strict=True
    )
}
LESSON = re.compile(r"notebooks/\d")
HOW_TO = (  # in the sidebar's order
    "commands",
    *("bring_data", "bring_a_model", "bring_an_optimiser", "bring_a_topology", "bring_a_metric"),
    *("bring_objects", "read_a_report", "run_on_a_gpu", "several_machines", "reproduce_a_finding"),
    *("write_a_bound", "extend"),
)
MEASURED = ("measured", "faults", "speed", "models", "hostile", "house")
ABOUT = ("cite", "changelog")


def write_sources(folder: Path, place: Path, teachers: bool) -> None:
    """Write all that Sphinx reads into a folder; solutions and the teachers' page only where they are asked for."""
    for path, content in gathered(place, teachers).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content if isinstance(content, bytes) else content.encode())


def gathered(place: Path, teachers: bool) -> dict[Path, str | bytes]:
    """Return {path below the sources: content}."""
    pages: dict[Path, str | bytes] = dict(files(place))
    for path in course_notebooks(place):
        pages[path.relative_to(place)] = _notebook(path)
    lessons, _, for_teachers = _text(place / "notebooks/README.md").partition(FOR_TEACHERS)
    pages[Path("notebooks/README.md")] = lessons
    how_to = {Path("howto", path.name): _text(path) for path in sorted(DOCS.glob("*.md"))}
    pages |= {Path("howto", path.name): path.read_bytes() for path in DOCS.glob("*.png")}
    rubric = how_to.pop(Path("howto/rubric.md"), "")
    pages |= {path: text for path, text in how_to.items() if path.name != "index.md"}
    made = (commands(), public_names(), knobs(), names())
    pages |= dict(zip(map(Path, REFERENCE.values()), made, strict=True))
    if teachers:
        pages[Path("teachers/class.md")] = "# A class" + for_teachers.replace(RUBRIC, "rubric.md")
        pages[Path("teachers/syllabus.md")] = syllabus(_lessons(place))
        pages[Path("teachers/rubric.md")] = rubric
        pages[Path("teachers/solutions.md")] = solutions()
    pages[Path("index.md")] = how_to[Path("howto/index.md")] + "\n" + _contents(pages, place)
    return pages


def slug(title: str) -> str:
    """Return the anchor of a heading as Jupyter makes it, so that links work in both."""
    return title.replace(" ", "-")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _contents(pages: Mapping[Path, str | bytes], place: Path) -> str:
    """Return the contents of the sidebar, a part after the other."""
    names = {path.with_suffix("").as_posix(): path for path in sorted(pages)}
    theory = [f"theory/{p.stem}" for p in course_notebooks(place) if p.parent.name == "theory"]
    parts = {
        "For learners": [
            *("notebooks/README", "notebooks/glossary"),
            *(name for name in names if LESSON.match(name)),
        ],
        "For teachers": [
            f"teachers/{name}" for name in ("class", "syllabus", "rubric", "solutions")
        ],
        "How to": [f"howto/{name}" for name in HOW_TO] + [n for n in names if "/bring_your" in n],
        "Measured": [f"howto/{name}" for name in MEASURED],
        "Theory": ["theory/README", *theory, "theory/findings", "theory/attack"],
        "Reference": [*REFERENCE],
        "About": [f"howto/{name}" for name in ABOUT],
    }
    return "\n".join(
        _toctree(caption, {name: _short(pages[names[name]]) for name in entries if name in names})
        for caption, entries in parts.items()
    )


def _lessons(place: Path) -> list[Path]:
    """Return the lessons of the course, in order."""
    return [
        p
        for p in course_notebooks(place)
        if LESSON.match(f"notebooks/{p.name}") and p.parent.name == "notebooks"
    ]


def _short(page: str | bytes) -> str:
    """Return what the sidebar calls a lesson: its title up to the colon. Other pages keep their titles."""
    title = re.search(r'"# (\d+ · [^:"\\]*)', page if isinstance(page, str) else "")
    return title[1].strip() if title else ""


def _toctree(caption: str, titles: Mapping[str, str]) -> str:
    if not titles:
        return ""
    entries = [f"{title} <{name}>" if title else name for name, title in titles.items()]
    head = ["```{toctree}", ":hidden:", ":maxdepth: 1", f":caption: {caption}", ""]
    return "\n".join([*head, *entries, "```", ""])


def _notebook(path: Path) -> str:
    """Return a notebook ready for the site: knobs in place of widgets, texts on pictures, formulas in folded answers."""
    import nbformat

    nb = nbformat.read(path, as_version=4)
    for cell in nb.cells:
        cell.source = cell.source.replace("<details>", '<details class="tex2jax_process">')
        if cell.cell_type == "code":
            _describe(cell)
            _with_knobs(cell)
    text: str = nbformat.writes(nb)
    return text


def _describe(cell: "NotebookNode") -> None:
    """Hand the text of a cell's picture to where MyST-NB looks for it."""
    for output in cell.outputs:
        alt = output.get("metadata", {}).get("image/png", {}).get("alt")
        if alt:
            cell.metadata["mystnb"] = {"image": {"alt": alt.replace("\n", " ")}}


def _with_knobs(cell: "NotebookNode") -> None:
    """Put the pre-drawn pictures in the place of a widget's picture, which stays for readers without scripts."""
    from nbformat.v4 import new_output

    from deca_lab.course.widgets.stills import STILLS

    names = (*STILLS, "topology_editor")
    name = next((name for name in names if re.search(rf"^{name}\(", cell.source, re.M)), None)
    pictures = [out for out in cell.outputs if "image/png" in out.get("data", {})]
    if name is None or not pictures:
        return
    picture = pictures[0]
    alt = escape(picture.metadata.get("image/png", {}).get("alt", ""))
    source = picture.data["image/png"].replace("\n", "")
    image = f'<img alt="{alt}" src="data:image/png;base64,{source}">'
    block = (
        f'<figure class="knobs" data-widget="{name}"><div>{image}</div>'
        f'<figcaption>{alt}</figcaption></figure><script src="../_static/knobs/{name}.js" defer></script>'
    )
    cell.outputs = [new_output("display_data", {"text/html": block})]
