"""The course as HTML pages, by nbconvert: self-contained, without a script and without a request to any network.

Formulae become MathML, which browsers draw by themselves.
"""

import os
import re
from collections.abc import Callable
from html import escape, unescape
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from deca_lab.course.place import FOLDERS, files, home, notebooks
from deca_lab.errors import BadInput, check
from deca_lab.files import write_whole

if TYPE_CHECKING:
    from nbformat import NotebookNode

MARK = '<meta name="generator" content="deca-lab">'
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$]+?)\$|(\\begin\{(\w+\*?)\}.+?\\end\{\4\})", re.S)
CODE = re.compile(r"(<pre\b.*?</pre>|<code\b.*?</code>)", re.S)


def html(folder: Path | str, place: Path | None = None) -> list[Path]:
    """Write the course at `place` (its home) as pages into a folder, with index.html, and return the pages.

    Outputs are those of the notebooks as they are stored. Pages of an earlier call are replaced; anything else in the
    folder is refused. Raises BadInput.
    """
    place, folder = place or home(), Path(folder)
    index = folder / "index.html"
    ours = (
        not folder.exists()
        or not any(folder.iterdir())
        or (index.is_file() and MARK in index.read_text(encoding="utf-8"))
    )
    check(
        ours, "folder", str(folder), "a new folder, an empty one, or one that an earlier call wrote"
    )
    pictures = {
        name: data for name, data in files(place).items() if name.suffix not in (".ipynb", ".md")
    }
    pages = {**_lessons(place), Path("index.html"): _index(place)}
    written: dict[Path, bytes | str] = {**pictures, **pages}
    for name, data in written.items():
        _folder_for(folder / name)
        write_whole(folder / name, data)
    return [folder / name for name in pages]


def _folder_for(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"folder {str(path.parent)!r} cannot be used: {error.strerror or error}"
        ) from None


def _lessons(place: Path) -> dict[Path, str]:
    """Return {page: HTML} of every notebook, each with links to those before and after it."""
    import nbformat

    paths = notebooks(place)
    names = [path.relative_to(place).with_suffix(".html") for path in paths]
    books = [nbformat.read(path, as_version=4) for path in paths]
    titles = [_title(nb, name.stem) for nb, name in zip(books, names, strict=True)]
    made = {}
    for k, (name, nb) in enumerate(zip(names, books, strict=True)):
        near = [
            (os.path.relpath(names[j], name.parent), titles[j]) if 0 <= j < len(names) else ("", "")
            for j in (k - 1, k + 1)
        ]
        made[name] = _page(titles[k], _body(nb, name, place), name, *near)
    return made


def _title(nb: "NotebookNode", otherwise: str) -> str:
    lines = (
        line
        for cell in nb.cells
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
    )
    return next((line.removeprefix("# ") for line in lines if line.startswith("# ")), otherwise)


def _body(nb: "NotebookNode", page: Path, place: Path) -> str:
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="basic", anchor_link_text="¶")
    exporter.register_filter("markdown2html", _markdown(page.parent, page.parent, place))
    text: str = exporter.from_notebook_node(nb)[0]
    return text


def _index(place: Path) -> str:
    """Return the first page: the tables of notebooks/README.md and theory/README.md, with what they say."""
    parts = []
    for folder in FOLDERS:
        source = place / folder / "README.md"
        text = source.read_text(encoding="utf-8") if source.is_file() else f"# {folder}\n"
        parts.append(
            f'<section id="{folder}">{_markdown(Path(folder), Path(), place)(text)}</section>'
        )
    return _page("deca_lab: the course", "\n".join(parts), Path("index.html"), ("", ""), ("", ""))


def _page(
    title: str, body: str, name: Path, before: tuple[str, str], after: tuple[str, str]
) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from pygments.formatters import HtmlFormatter

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        mark=MARK,
        title=title,
        body=body,
        before=before,
        after=after,
        colours=HtmlFormatter().get_style_defs(".highlight"),
        start=os.path.relpath("index.html", name.parent) if name.name != "index.html" else "",
    )


def _markdown(source: Path, page: Path, place: Path) -> Callable[[str], str]:
    """Return the function from markdown to HTML for text that stands in folder `source` and is shown in folder `page`."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    def rendered(text: str) -> str:
        renderer = IPythonRenderer(escape=False, anchor_link_text="¶")
        made: str = MarkdownWithMath(renderer=renderer).render(text)
        made = re.sub(
            r'\b(href|src)="([^"]*)"',
            lambda m: f'{m[1]}="{_turned(m[2], source, page, place)}"',
            made,
        )
        return "".join(
            part if CODE.fullmatch(part) else formulae(part) for part in CODE.split(made)
        )

    return rendered


def _turned(link: str, source: Path, page: Path, place: Path) -> str:
    """Return a link between notebooks as one between pages; one that leaves the course stays as it is."""
    parts = urlsplit(unescape(link))
    if parts.scheme or parts.netloc or not parts.path:
        return link
    target = PurePosixPath(os.path.normpath(source / parts.path))
    fragment = parts.fragment
    if target.suffix == ".ipynb" and (place / target).is_file():
        target = target.with_suffix(".html")
    elif target.name == "README.md" or str(target) in FOLDERS:
        folder = target.parent.name if target.suffix else target.name
        target, fragment = (
            PurePosixPath("index.html") if folder in FOLDERS else target,
            fragment or folder,
        )
    return escape(
        PurePosixPath(os.path.relpath(target, page)).as_posix()
        + (f"#{fragment}" if fragment else "")
    )


def formulae(text: str) -> str:
    """Return HTML with its TeX formulae, $...$ and $$...$$, as MathML; what cannot be turned stays as TeX, set as code."""
    return FORMULA.sub(
        lambda m: _formula(unescape(m[1] or m[2] or m[3]).strip(), m[2] is None), text
    )


def _formula(tex: str, displayed: bool) -> str:
    try:
        from latex2mathml.converter import convert

        made: str = convert(tex, display="block" if displayed else "inline")
        return made.replace("<math ", f'<math alttext="{escape(tex)}" ', 1)
    except Exception:  # not installed, or TeX that it does not know: both leave the TeX readable
        return f"<code>{escape(tex)}</code>"
