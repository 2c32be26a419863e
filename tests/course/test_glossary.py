"""The glossary: every lesson links to it where a word comes first, every link leads to a heading."""

import json
import re
from pathlib import Path

import pytest
from cases import cases

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
LESSONS = sorted(NOTEBOOKS.glob("[01]*.ipynb"))
LINK = re.compile(r"\[([^\]]+)\]\(glossary\.md#([^)]+)\)")
TITLES = re.findall(r"^## (.+)$", (NOTEBOOKS / "glossary.md").read_text(), re.M)
CODE = re.compile(r"`[^`]*`|\$\$.*?\$\$|\$[^$\n]*\$|<details>.*?</details>|\]\([^)]*\)", re.S)


def prose(path):
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


@cases("path", LESSONS)
def test_a_lesson_links_to_the_glossary_at_the_first_use_of_a_word(path):
    said = prose(path)
    links = list(LINK.finditer(said))
    assert len({link[2] for link in links}) >= 4
    assert {link[2].replace("-", " ") for link in links} <= {t.replace("-", " ") for t in TITLES}
    for link in links:
        before = CODE.sub(" ", said[: link.start()])
        lines = [line for line in before.splitlines() if not line.startswith(("#", "    ", "|"))]
        earlier = re.search(rf"(?<![\w/-]){re.escape(link[1])}(?![\w-])", "\n".join(lines), re.I)
        assert not earlier, f"{link[1]} stands earlier: {earlier and earlier.string[-80:]}"


def test_the_glossary_is_in_order_and_tells_each_word_once():
    assert len(TITLES) == len(set(TITLES))
    words = [title.lower() for title in TITLES]
    assert words[0] == "adapter"
    assert words == sorted(words, key=lambda word: word.replace("-", ""))


@pytest.mark.parametrize("word", ["IID, non-IID", "Nats", "Moments m, v", "rho", "Block", "Visit"])
def test_words_that_lessons_take_for_granted_are_there(word):
    assert word in TITLES
