"""Slides: made of a lesson's text and stored pictures, cut to fit, without any network; what they leave out; the syllabus."""

import re
from collections import Counter

import nbformat
import pytest
from command import deca_lab
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from deca_lab import course
from deca_lab.course.book import syllabus
from deca_lab.course.slides import WORDS, of_cells, slides
from deca_lab.errors import BadInput

pytestmark = pytest.mark.filterwarnings("default")
STUB = "def mix(W, X):\n    raise NotImplementedError\n\n\nprint(check(mix))"


def lesson():
    """A lesson with a section, a question, an exercise, a picture, printed lines, and a hint."""
    picture = new_output("display_data", {"image/png": "AAAA"})
    picture.metadata["image/png"] = {"alt": "a ring & a star"}
    printed = new_output("stream", name="stdout", text="\n".join(map(str, range(30))))
    unsolved = new_output("stream", name="stdout", text="Not yet: replace the line")
    return [
        new_markdown_cell("# 0 · A lesson\n\nSome **words**.\n\n## A section\n\n" + "many " * 150),
        new_markdown_cell("In loops:"),
        new_code_cell("for i in range(30):\n    print(i)", outputs=[printed]),
        new_markdown_cell(
            "Before.\n\n**Predict.** Higher or lower?\n\nLower, by [a page](x.md) of $x$."
        ),
        new_code_cell("secret = 1\nshown(figure)", outputs=[picture]),
        new_markdown_cell(
            "## Now you\n\nWrite it.\n\n<details><summary>A hint</summary>W</details>"
        ),
        new_code_cell(STUB, outputs=[unsolved]),
    ]


def test_a_lesson_becomes_sections_questions_pictures_and_exercises():
    made = of_cells(lesson())
    assert [(slide.heading, slide.kind) for slide in made] == [
        ("0 · A lesson", ""),
        ("A section", ""),
        ("A section", ""),
        ("A section", ""),
        ("A section", "question"),
        ("A section", ""),
        ("A section", "picture"),
        ("Now you", ""),
        ("Now you", "exercise"),
    ]
    said = " ".join(slide.words + slide.below for slide in made)
    assert "hint" not in said
    assert "Not yet" not in said
    assert "secret" not in said  # code shows where the text announces it
    assert "print(i)" in made[2].below
    assert "13</pre>" in made[2].below  # fourteen lines of thirty
    assert 'alt="a ring &amp; a star"' in made[6].below


def test_a_long_text_is_cut_after_whole_paragraphs():
    paragraphs = [f"{k} " + "word " * 49 for k in range(5)]
    (slide,) = of_cells([new_markdown_cell("\n\n".join(paragraphs))])
    assert slide.words.count("word") == 49 * (WORDS // 50)


def test_pages_are_written_for_the_lessons_that_are_named(tmp_path, capsys):
    pages = slides(tmp_path / "out", ["02", "03"])
    assert [page.stem for page in pages] == ["02_gossip", "03_clients_on_one_axis"]
    page = pages[0].read_text()
    assert "<title>2 · Gossip" in page
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)
    assert (tmp_path / "out" / "tex-svg-full.js").stat().st_size > 1e6
    with pytest.raises(BadInput, match=r"names = .*nothing.*parts of these: 00_start_here"):
        slides(tmp_path / "out", ["nothing"])
    said = deca_lab(capsys, "slides", "00", "--out", tmp_path / "one")
    assert said.out.strip() == str(tmp_path / "one" / "00_start_here.html")


@pytest.mark.slow
def test_no_slide_is_larger_than_a_screen_and_every_formula_is_set(browser, tmp_path):
    over, errors, sections = [], [], 0
    for path in slides(tmp_path / "out"):
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(path.as_uri())
        page.wait_for_function(
            "() => window.MathJax?.startup?.promise?.then(() => true)", timeout=120_000
        )
        sections += page.locator("section").count()
        over += page.evaluate(
            """name => [...document.querySelectorAll('section')]
            .filter(s => s.scrollHeight > 2 * innerHeight || s.scrollWidth > innerWidth || /\\$\\S/.test(s.innerText))
            .map(s => name + ': ' + s.innerText.slice(0, 60))""",
            path.stem,
        )
        page.close()
    assert over == errors == []
    assert sections > 300


def test_the_syllabus_counts_what_a_lesson_holds(tmp_path):
    path = tmp_path / "00_start_here.ipynb"
    nbformat.write(new_notebook(cells=lesson()), path)
    counted = syllabus.counts(path)
    assert counted.title == "0 · A lesson"
    assert counted.pictures == 1
    assert counted.code == 2 + 2 + 3
    assert counted.exercises == Counter(write=1)
    page = syllabus.syllabus([path, path])
    assert "| all |" in page
    assert f"| {2 * counted.words:,} | 14 | 2 | 2 |" in page
    assert (
        f"| this course | 2 | {counted.words} | 7 | 1 | 1 |" in page
    )  # the middle one of two alike


def test_every_lesson_has_figures_with_words():
    for path in course.notebooks():
        if path.parent.name != "notebooks" or not path.stem[0].isdigit():
            continue
        cells = nbformat.read(path, as_version=4).cells
        outputs = [o for cell in cells for o in cell.get("outputs", [])]
        pictures = [o for o in outputs if "image/png" in o.get("data", {})]
        assert len(pictures) >= 2, path
        assert all(o.metadata["image/png"]["alt"] for o in pictures), path
