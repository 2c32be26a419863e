"""Slides of the lessons: one self-contained page a lesson, made from its text and its stored pictures, to show and to print."""

import re
import shutil
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from deca_lab.course.blank import ASKS, Cell, is_code, text
from deca_lab.course.book.site import MATHJAX, mathjax
from deca_lab.course.handout import exercise_in
from deca_lab.course.place import home, notebooks
from deca_lab.errors import check, require
from deca_lab.files import folder, write_whole

WORDS, LINES = 110, 14  # of a slide: words of a text, lines of what a cell printed
PARAGRAPHS = re.compile(r"\n{2,}(?! {4})")  # lines set in by four belong to what stands above


class Slide(NamedTuple):
    """One slide: its heading, its text in Markdown, and HTML below it; `kind` is its class in the page."""

    heading: str
    words: str = ""
    below: str = ""
    kind: str = ""


def slides(out: Path | str, names: Sequence[str] = (), place: Path | None = None) -> list[Path]:
    """Write OUT/LESSON.html for every lesson whose name holds one of `names`, or for all; return the pages.

    Nothing runs: pictures and printed lines are those that the lessons hold. Formulas need MathJax, which is copied beside
    them. Raises BadInput where no lesson has such a name, and where the extra `book` is not installed.
    """
    require("slides", "book", "nbconvert", "sphinx-mathjax-offline")
    lessons = [path for path in notebooks(place or home()) if path.parent.name == "notebooks"]
    chosen = [path for path in lessons if not names or any(name in path.stem for name in names)]
    allowed = f"parts of these: {', '.join(path.stem for path in lessons)}"
    check(bool(chosen), "names", list(names), allowed)
    target = folder(Path(out))
    shutil.copy(mathjax() / MATHJAX, target / MATHJAX)
    pages = [target / f"{path.stem}.html" for path in chosen]
    for path, page in zip(chosen, pages, strict=True):
        write_whole(page, rendered(path))
    return pages


def rendered(path: Path) -> str:
    """Return the page of a lesson."""
    import nbformat
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    cells = nbformat.read(path, as_version=4).cells
    shown = of_cells(cells)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    template = environment.get_template("slides.html.j2")
    return template.render(title=shown[0].heading, slides=shown, mathjax=MATHJAX, html=_html)


def of_cells(cells: Sequence[Cell]) -> list[Slide]:
    """Return the slides of a lesson: its sections, each question by itself, each picture, each exercise.

    Lines that a cell printed go below the text before them. Code is shown where the text before it announces it.
    """
    made = [Slide("")]
    for cell in cells:
        last = made[-1]
        if not is_code(cell):
            made += _of_text(text(cell), last.heading)
        elif exercise_in(text(cell)):
            code = _pre(text(cell).split("print(check")[0])
            made.append(Slide(last.heading, "", code, "exercise"))
        elif below := _announced(cell, last) + _outputs(cell):
            beside = last.words and not (last.kind or last.below or "<img" in below)
            made = made[:-1] if beside else made
            kind = "" if beside else "picture"
            made.append(Slide(last.heading, last.words if beside else "", below, kind))
    return made[1:]


def _announced(cell: Cell, before: Slide) -> str:
    """Return a short cell's code where the text before ends with a colon."""
    short = len(text(cell).splitlines()) <= LINES - 4
    return _pre(text(cell)) if short and before.words.rstrip().endswith(":") else ""


def _pre(words: str) -> str:
    return f"<pre>{escape(words.rstrip())}</pre>"


def _of_text(source: str, heading: str) -> Iterator[Slide]:
    """Yield the slides of a text: cut at its headings and at its questions, each cut back to a few paragraphs."""
    parts: list[str] = []
    for paragraph in PARAGRAPHS.split(re.sub(r"<details>.*?</details>\n?", "", source, flags=re.S)):
        asks = ASKS in paragraph
        if parts and (paragraph.startswith("#") or asks):
            yield Slide(heading, _short(parts))
            parts = []
        if paragraph.startswith("#"):
            title, _, rest = paragraph.partition("\n")
            heading, parts = title.lstrip("# "), [rest] if rest.strip() else []
        elif asks:
            yield Slide(heading, paragraph, kind="question")
        elif paragraph.strip():
            parts.append(paragraph)
    if parts:
        yield Slide(heading, _short(parts))


def _short(paragraphs: Sequence[str]) -> str:
    """Return the first paragraphs of a text, up to WORDS words; one at least."""
    kept: list[str] = []
    count = 0
    for paragraph in paragraphs:
        count += len(paragraph.split())
        if kept and count > WORDS:
            break
        kept.append(paragraph)
    return "\n\n".join(kept)


def _outputs(cell: Cell) -> str:
    """Return a code cell's pictures, tables and short printed lines as HTML."""
    return "\n".join(filter(None, map(_output, cell["outputs"])))


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        alt = escape(output["metadata"].get("image/png", {}).get("alt", ""))
        source = data["image/png"].replace("\n", "")
        return f'<figure><img alt="{alt}" src="data:image/png;base64,{source}"></figure>'
    if "<table" in data.get("text/html", ""):
        return f'<div class="table">{data["text/html"]}</div>'
    printed = output.get("text", "")
    unsolved = printed.startswith(("Not yet", "Write your guess", "Nothing to keep"))
    lines = [] if unsolved else printed.rstrip().splitlines()
    return _pre("\n".join(lines[:LINES])) if lines else ""


def _html(words: str) -> str:
    """Return Markdown as HTML; links lead nowhere on a slide, so that their words alone are kept."""
    from nbconvert.filters.markdown_mistune import markdown2html_mistune

    plain = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", words)
    return str(markdown2html_mistune(plain))
