"""Notebooks as a reader first gets them: without outputs, and with what happens after a prediction folded away."""

import json
from typing import Any

Cell = dict[str, Any]
ASKS = "**Predict"
FOLD = "<details><summary>What happened, and why. Open it after your guess.</summary>"


def blank(data: bytes) -> bytes:
    """Return a notebook without outputs and with its reveals folded."""
    nb = json.loads(data)
    nb["cells"] = folded([cleared(cell) for cell in nb["cells"]])
    return written(nb)


def written(nb: dict[str, Any]) -> bytes:
    """Return a notebook as the bytes of its file."""
    return (json.dumps(nb, indent=1, ensure_ascii=False) + "\n").encode()


def cleared(cell: Cell) -> Cell:
    """Return a cell without outputs and count."""
    return {**cell, "outputs": [], "execution_count": None} if is_code(cell) else cell


def is_code(cell: Cell) -> bool:
    """Say whether this is a code cell."""
    return bool(cell["cell_type"] == "code")


def text(cell: Cell) -> str:
    """Return a cell's source as one text."""
    return "".join(cell["source"])


def folded(cells: list[Cell]) -> list[Cell]:
    """Return cells in which the paragraphs that answer a prediction, up to the next heading or question, are folded."""
    new, asked, ran = [], False, False
    for cell in cells:
        if is_code(cell):
            ran = asked
        elif ran:
            cell, asked, ran = {**cell, "source": fold(text(cell))}, False, False
        asked = asked or (not is_code(cell) and ASKS in text(cell))
        new.append(cell)
    return new


def fold(source: str) -> str:
    """Return a text whose first paragraphs are folded: those before a heading, a question or a fold of its own.

    A last paragraph that ends with a colon leads on to the next cell: it stays open.
    """
    paragraphs = source.split("\n\n")
    ends, last = ("#", ASKS, "<details"), len(paragraphs) - paragraphs[-1].rstrip().endswith(":")
    stop = next((k for k, part in enumerate(paragraphs) if part.startswith(ends)), last)
    if not stop:
        return source
    return "\n\n".join([FOLD, *paragraphs[:stop], "</details>", *paragraphs[stop:]])
