"""Text that every Python brings along: the standard library's sources and pydoc's topics, cut into labelled rows.

The text differs between Python releases, so it is read where the lab runs.
"""

import re
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

from deca_lab.errors import BadInput

LabelledTexts = list[tuple[str, str]]  # (text, label name)
ROW = 1200  # characters in a row of an embedded corpus, at most
LONG = 80  # characters: a paragraph that long is not repeated by chance
RUN = 64  # characters: rows with a stretch of them in common, from a line's start on, are alike
PACKAGES = (  # in CPython 3.11 to 3.14, each with more than 50 KB of source
    *("asyncio", "ctypes", "email", "http", "importlib", "logging", "multiprocessing"),
    *("unittest", "urllib", "xml"),
)
SKIPPED = (
    "__hello__",
    "antigravity",
    "stringprep",
    "this",
    "turtle",
)  # toys, and not in all builds
GROUPS = {  # of pydoc's topics; large ones such as "compound" keep what no smaller topic says
    "statements": (
        "assert async assignment augassign break class compound continue del else for function "
        "global if import nonlocal pass raise return try while with yield"
    ),
    "expressions": (
        "atom-identifiers atom-literals attribute-references await binary bitwise booleans calls "
        "comparisons conversions dict exprlists in lambda lists operator-summary power shifting "
        "slicings subscriptions unary"
    ),
    "names and literals": (
        "dynamic-features exceptions execmodel floating id-classes identifiers imaginary integers "
        "naming numbers"
    ),
    "data model": (
        "attribute-access callable-types context-managers customization numeric-types objects "
        "sequence-types specialattrs specialnames types"
    ),
    "built-in types": "truth",
    "strings": "formatstrings",
    "debugger": "debugger",
}


def paragraphs(text: str) -> list[str]:
    """Runs of non-blank lines, without the blank lines around them."""
    parts = re.split(r"\n[ \t\f]*(?:\n[ \t\f]*)*\n", text)
    return [part.strip("\n") for part in parts if part.strip()]


def _short(part: str, size: int) -> Iterator[str]:
    """Cut a paragraph longer than `size` into runs of whole lines (a longer line stays whole)."""
    lines: list[str] = []
    for line in part.split("\n"):
        if lines and sum(map(len, lines)) + len(lines) + len(line) > size:
            yield "\n".join(lines)
            lines = []
        lines.append(line)
    yield "\n".join(lines)


def cut(parts: Iterable[str], size: int = ROW) -> list[str]:
    """Join paragraphs to rows of at most `size` characters; a top-level def or class opens a new row once half full."""
    rows: list[str] = []
    row = ""
    for part in (short for long in parts for short in _short(long, size)):
        opens = len(row) > size // 2 and re.match(r"(async def|def|class|@)\b", part) is not None
        if row and (opens or len(row) + 2 + len(part) > size):
            rows.append(row)
            row = part
        else:
            row = f"{row}\n\n{part}" if row else part
    return [*rows, row] if row else rows


def unlike(rows: LabelledTexts) -> LabelledTexts:
    """The rows without those that repeat a stretch of an earlier one: licences, imports, overloads.

    A stretch is RUN characters from the start of a line on, its indentation left out. So what a
    test row begins with is not in the training text already, save a shorter phrase.
    """
    seen: set[str] = set()
    kept = []
    for text, label in rows:
        places = (mark.end() for mark in re.finditer(r"^[ \t]*", text, re.MULTILINE))
        stretches = {text[at : at + RUN] for at in places if at + RUN <= len(text)}
        if not stretches & seen:
            seen |= stretches
            kept.append((text, label))
    return kept


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _source(path: Path) -> str:
    with tokenize.open(path) as file:  # honours the coding line; \r\n becomes \n
        return file.read()


def _package_files(package: str) -> list[Path]:
    root = _library() / package
    inside = ((path.relative_to(root).parts, path) for path in root.rglob("*.py"))
    tests = {"test", "tests", "__pycache__"}
    return [path for parts, path in sorted(inside) if not tests & set(parts)]


def stdlib() -> LabelledTexts:
    """The standard library's packages: rows of source text, label = package."""
    files = {package: _package_files(package) for package in PACKAGES}
    absent = [package for package, paths in files.items() if not paths]
    if absent:
        sources = f"the sources of {', '.join(absent)}, which this Python lacks under {_library()}"
        remedy = "use a Python with its .py files, or the corpus 'markov'"
        raise BadInput(f"corpus 'stdlib' needs {sources}: {remedy}")
    read = ((name, paragraphs(_source(path))) for name in files for path in files[name])
    return [(row, name) for name, parts in read for row in cut(parts)]


def modules() -> LabelledTexts:
    """The standard library's single-file modules, one label, to pretrain on: no long paragraph of the other two."""
    files = [path for path in sorted(_library().glob("*.py")) if _is_module(path.stem)]
    if not files:
        needs = "needs the .py files of this Python"
        raise BadInput(f"corpus 'modules' {needs}, and {_library()} has none")
    others = (part for text, _ in (*stdlib(), *topics()) for part in paragraphs(text))
    theirs = {part.strip() for part in others if len(part) > LONG}
    rows: LabelledTexts = []
    for path in files:
        kept = [part for part in paragraphs(_source(path)) if part.strip() not in theirs]
        rows.extend((row, "modules") for row in cut(kept))
    return rows


def group(topic: str) -> str:
    """The group of a pydoc topic: named in GROUPS, else by its name ("typesseq", "f-strings"), else "other"."""
    named = next((name for name, topics in GROUPS.items() if topic in topics.split()), None)
    if named is None and "string" in topic:
        return "strings"
    return named or ("built-in types" if topic.startswith(("types", "bltin")) else "other")


def topics() -> LabelledTexts:
    """The language reference in `pydoc_data.topics`: rows of English, label = group of topics.

    Topics repeat each other ("compound" holds "if"), so each paragraph stays in the shortest topic only that has it.
    """
    from pydoc_data.topics import topics as text_of

    seen: set[str] = set()
    rows: LabelledTexts = []
    for topic in sorted(text_of, key=lambda key: (len(text_of[key]), key)):
        parts = [part for part in paragraphs(text_of[topic]) if part.strip() not in seen]
        seen.update(part.strip() for part in parts)
        rows.extend((row, group(topic)) for row in cut(dict.fromkeys(parts)))
    return rows


def _is_module(stem: str) -> bool:
    return stem not in SKIPPED and stem not in PACKAGES and not stem.startswith("_sysconfigdata")
