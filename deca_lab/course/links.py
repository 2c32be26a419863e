"""Looks for links of HTML pages that lead nowhere: files that are not there, anchors that no page has."""

from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from deca_lab.errors import BadInput


class Page(NamedTuple):
    """What a page links to, and the anchors that it has."""

    links: list[str]
    anchors: set[str]


def broken_links(folder: Path | str) -> list[str]:
    """Return each relative link of the pages below a folder that leads nowhere, as "page: link (why)"; [] when all do."""
    pages = sorted(Path(folder).rglob("*.html"))
    if not pages:
        raise BadInput(f"folder {str(folder)!r} holds no HTML page")
    look = cache(read_page)
    return [
        f"{page.relative_to(folder)}: {link} ({why})"
        for page in pages
        for link in look(page).links
        if (why := _wrong(page, link, look))
    ]


def read_page(path: Path) -> Page:
    """Return the links (href and src) and the anchors (id, and name of a) of a page."""
    page = Page([], set())

    def tag(name: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if value and key in ("href", "src"):
                page.links.append(value)
            if value and (key == "id" or (key == "name" and name == "a")):
                page.anchors.update((value, unquote(value)))

    parser: Any = HTMLParser()
    parser.handle_starttag = tag
    parser.feed(path.read_text(encoding="utf-8"))
    return page


def _wrong(page: Path, link: str, look: Callable[[Path], Page]) -> str:
    """Return what is wrong with a link of a page, or nothing; links to other hosts are not followed."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return ""
    target = page.parent / unquote(parts.path) if parts.path else page
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        return "no such file"
    if (
        parts.fragment
        and target.suffix == ".html"
        and unquote(parts.fragment) not in look(target.resolve()).anchors
    ):
        return "no such anchor"
    return ""
