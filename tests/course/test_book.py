"""The site: nothing dead, raw, clipped or too wide, in a real browser; knobs that answer; solutions for teachers alone."""

import json
import os
import re
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from browser import drag
from cases import cases
from command import deca_lab
from filelock import FileLock
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import deca_lab as library
from deca_lab import RunConfig, course, errors, run
from deca_lab.course import widgets
from deca_lab.course.book import sources
from deca_lab.course.book.site import MARK, Built
from deca_lab.course.exercises import EXERCISES
from deca_lab.course.widgets import stills
from deca_lab.errors import BadInput

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(3000)]
PAGE = Path(__file__).with_name("book_page.js").read_text()
READY = "() => !document.querySelector('.math, .tex2jax_process') || window.MathJax?.startup?.promise?.then(() => true)"
HOW_TO = sorted(path for path in sources.DOCS.glob("*.md") if "```python" in path.read_text())


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The teachers' site of the real course, which has all pages of the students'; built once for all workers."""
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "book"
    with FileLock(f"{place}.lock"):
        if not (place / "warnings.json").exists():
            built = course.build(place / "site", teachers=True)
            (place / "warnings.json").write_text(json.dumps(built.warnings))
    files = [path for path in (place / "site").rglob("*") if path.is_file()]
    pages = sorted(path for path in files if path.suffix == ".html")
    warnings = json.loads((place / "warnings.json").read_text())
    return Built(pages, sum(path.stat().st_size for path in files), warnings)


def small_course(place, text):
    """A course of one lesson and one page of theory."""
    cells = [new_markdown_cell("# 0 · Start: a lesson\n\n" + text), new_code_cell("1 + 1")]
    for folder, name in (("notebooks", "00_start_here"), ("theory", "one")):
        (place / folder).mkdir(parents=True)
        (place / folder / "README.md").write_text(f"# {folder}\n")
        nbformat.write(new_notebook(cells=cells), place / folder / f"{name}.ipynb")
    (place / "notebooks" / "README.md").write_text("# Lessons\n\n## For teachers\n\nonly them\n")
    return place


def addresses(page):
    """The href and src of a page, and its anchors."""
    links, anchors = [], set()

    def tag(name, attributes):
        given = dict(attributes)
        links.extend(given[key] for key in ("href", "src") if given.get(key))
        anchors.update(unquote(given[key]) for key in ("id", "name") if given.get(key))

    parser = HTMLParser()
    parser.handle_starttag = tag
    parser.feed(page.read_text(encoding="utf-8"))
    return links, anchors


def dead(pages):
    """Links of pages that lead to no file or no anchor."""
    read = {page.resolve(): addresses(page) for page in pages}
    for page, (links, _) in read.items():
        for link in links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            fragment = unquote(parts.fragment)
            if not target.exists() or (fragment and fragment not in read[target][1]):
                yield f"{page.name}: {link}"


@pytest.mark.slow
def test_every_page_is_there_and_every_link_leads_somewhere(site):
    assert site.warnings == []
    root = site.pages[0].parent
    names = {page.relative_to(root).with_suffix("").as_posix() for page in site.pages}
    wanted = {path.relative_to(course.home()) for path in course.notebooks()}
    assert {path.with_suffix("").as_posix() for path in wanted} <= names
    assert {f"howto/{name}" for name in sources.HOW_TO} <= names
    assert {"reference/public", "reference/knobs", "notebooks/glossary", "search"} <= names
    assert list(dead(site.pages)) == []
    assert site.size < 40e6


@pytest.mark.slow
def test_a_page_asks_no_network(site):
    for page in site.pages:
        asks = re.findall(r'(?:src|<link[^>]*href)="((?:https?:)?//[^"]*)"', page.read_text())
        assert not asks, page
    for style in site.pages[0].parent.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import ['\"]http", style.read_text()), style


def at_one_place(kept, at):
    """Stills whose knobs have a single value each."""
    pairs = zip(kept.knobs.items(), at, strict=True)
    return kept._replace(knobs={name: (about, (v[k],)) for (name, (about, v)), k in pairs})


def words_at(kept, at):
    """What the widget itself says there."""
    return stills.frames_of(at_one_place(kept, at))[1][0][1]


def looked_at(browser, path):
    """What a page does wrong, opened on a phone and then made wide: the words of book_page.js, errors of scripts, requests."""
    page, wrong = browser.new_page(viewport={"width": 390, "height": 900}), []
    page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
    page.on("request", lambda r: r.url[:5] in ("file:", "data:") or wrong.append(f"asks {r.url}"))
    page.goto(path.as_uri())
    page.wait_for_function(READY, timeout=120_000)
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        wrong += [f"at {width}: {what}" for what in page.evaluate(PAGE)]
    page.close()
    return [f"{path.name} {what}" for what in wrong]


@pytest.mark.slow
def test_in_a_browser_nothing_is_raw_clipped_or_too_wide(site, browser):
    wrong = [what for page in site.pages for what in looked_at(browser, page)]
    assert wrong == []


def move(knob, before, after):
    """Move a slider by its keys from one place to the one beside it, or choose a radio button."""
    inputs = knob.locator("input")
    if inputs.first.get_attribute("type") == "range":
        inputs.press("ArrowRight" if after > before else "ArrowLeft")
    else:
        inputs.nth(after).check()


@pytest.mark.slow
@pytest.mark.parametrize("name", stills.STILLS)
def test_each_knob_shows_what_the_widget_draws_there(site, browser, name):
    lesson = next(page for page in site.pages if f'data-widget="{name}"' in page.read_text())
    page, kept = browser.new_page(viewport={"width": 390, "height": 844}), stills.STILLS[name]
    page.goto(lesson.as_uri())
    figure = page.locator(f"figure[data-widget={name}]")
    image, words = figure.locator("img"), figure.locator("figcaption")
    assert words.inner_text() == words_at(kept, kept.first)
    for i, knob in enumerate(figure.locator("fieldset").all()):
        at = list(kept.first)
        at[i] = 1 if at[i] == 0 else at[i] - 1
        first = image.get_attribute("src")
        move(knob, kept.first[i], at[i])
        assert words.inner_text() == image.get_attribute("alt") == words_at(kept, at)
        page.wait_for_function("i => i.naturalWidth > 500", arg=image.element_handle())
        move(knob, at[i], kept.first[i])
        assert image.get_attribute("src") == first
        assert words.inner_text() == words_at(kept, kept.first)
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_an_edge_is_dragged_in_the_book_without_a_kernel(site, browser, width):
    lesson = next(page for page in site.pages if page.name == "02_gossip.html")
    page = browser.new_page(viewport={"width": width, "height": 1000})
    page.goto(lesson.as_uri())
    drag(page, 0, 4)
    assert (
        "ring (edited), 8 clients: rho = 0.848" in page.locator("figure.knobs p").first.inner_text()
    )
    drag(page, 4, 0)
    assert "ring, 8 clients: rho = 0.805" in page.locator("figure.knobs p").first.inner_text()
    page.close()


@pytest.mark.slow
def test_the_search_answers_without_a_server(site, browser):
    page = browser.new_page()
    page.goto((site.pages[0].parent / "search.html").as_uri() + "?q=perplexity")
    page.locator("#search-results li a").first.wait_for(timeout=60_000)
    assert "Text and shards" in page.locator("#search-results").inner_text()
    page.close()


WRONG = {  # a page's content, and what is wrong with it
    "<p>$x$</p>": "raw: $x$",
    r"<p>\lVert x</p>": r"raw: \lVert x",
    '<p style="width: 3000px">x</p>': "<p> ends at",
    '<pre style="overflow: hidden; width: 50px">x = 1111111111111111111</pre>': "clipped code",
    '<span class="math">\\(x\\)</span>': "not set",
    '<mjx-container><svg><text fill="red">x</text></svg></mjx-container>': "bad formula",
    '<img src="none.png" alt="x">': "no picture",
    '<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">': "no words for a picture",
}


@pytest.mark.slow
@pytest.mark.parametrize("content", WRONG)
def test_the_look_at_a_page_finds_what_is_wrong(browser, tmp_path, content):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    (tmp_path / "page.html").write_text(f"<!doctype html><article><div>{content}</div></article>")
    page.goto((tmp_path / "page.html").as_uri())
    seen = page.evaluate(PAGE)
    page.close()
    assert any(WRONG[content] in what for what in seen), seen


@pytest.mark.slow
def test_a_dead_link_is_named_and_an_old_site_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(stills, "write_stills", lambda folder: folder.mkdir())
    monkeypatch.setattr(sources, "names", lambda: "# Names\n")
    place = small_course(tmp_path / "place", "See [there](nowhere.ipynb), and $x$.")
    (tmp_path / "out").mkdir()
    for name in (MARK, "old.html"):  # as an earlier call left it
        (tmp_path / "out" / name).touch()
    built = course.build(tmp_path / "out", place=place)
    assert [line for line in built.warnings if "00_start_here" in line and "nowhere" in line]
    assert "only them" not in "".join(page.read_text() for page in built.pages)
    assert not (tmp_path / "out" / "old.html").exists()
    assert (tmp_path / "out" / MARK).exists()


def test_solutions_and_teachers_page_are_for_teachers_alone(monkeypatch):
    monkeypatch.setattr(sources, "names", lambda: "# Names\n")
    for_students = sources.gathered(course.home(), teachers=False)
    for_teachers = sources.gathered(course.home(), teachers=True)
    more = set(for_teachers) - set(for_students)
    pages = {path.stem for path in more}
    assert pages == {"class", "syllabus", "rubric", "solutions"}
    assert {path.parent.name for path in more} == {"teachers"}
    assert "(rubric.md)" in for_teachers[Path("teachers/class.md")]
    assert "12 · Your own text" in for_teachers[Path("teachers/syllabus.md")]
    solved = for_teachers[Path("teachers/solutions.md")]
    assert all(f"## {name}\n" in solved for name in EXERCISES)
    assert "misconception" in for_teachers[Path("teachers/class.md")]
    assert "misconception" not in for_students[Path("notebooks/README.md")]
    assert "teachers/" not in for_students[Path("index.md")]


def test_the_reference_has_every_public_name_and_every_knob():
    from deca_lab.course.book.reference import PARTS, knobs

    named = [name for names in PARTS.values() for name in names]
    assert sorted(named) == sorted(set(library.__all__) - {"__version__"})
    assert sorted(re.findall(r"^\| `(\w+)`", knobs(), re.M)) == sorted(RunConfig().__dict__)


DEFAULTS = {
    "block_scheduler": widgets.block_scheduler,
    "moment_microscope": widgets.moment_microscope,
    "quadratic_paths": widgets.quadratic_paths,
    "majority_rule": widgets.majority_rule,
}


@cases("name", DEFAULTS)
@pytest.mark.slow
def test_the_first_picture_says_what_the_widget_says(name, monkeypatch):
    monkeypatch.setenv("DECA_LAB_WIDGETS", "off")
    pictures, [(file, words)] = stills.frames_of(
        at_one_place(stills.STILLS[name], stills.STILLS[name].first)
    )
    assert words == DEFAULTS[name]().alt
    assert list(pictures) == [file]
    assert pictures[file][8:12] == b"WEBP"


@cases("name", stills.STILLS)
def test_knobs_name_controls_of_the_widget_and_values_it_takes(name):
    kept = stills.STILLS[name]
    assert len(kept.first) == len(kept.knobs)
    choices = list(product(*(values for _, values in kept.knobs.values())))
    assert 20 <= len(choices) <= 120
    assert len(set(choices)) == len(choices)


def test_a_refused_choice_has_words_in_place_of_a_picture():
    kept = stills.STILLS["block_scheduler"]
    tiny = {name: (about, values[:1]) for name, (about, values) in kept.knobs.items()}
    tiny |= {"model": ("model", ("tiny",)), "fineness": ("fineness", (5,))}
    pictures, [(file, words)] = stills.frames_of(kept._replace(knobs=tiny))
    assert (pictures, file) == ({}, "")
    assert words.startswith("No picture: granularity = 5")


def test_a_widget_s_picture_becomes_a_figure_with_knobs_and_keeps_its_words(tmp_path):
    picture = new_output("display_data", {"image/png": "AAAA"})
    picture.metadata["image/png"] = {"alt": 'a "ring"'}
    cell = new_code_cell("topology_editor(clients=8)", outputs=[picture])
    other = new_code_cell("shown(figure)", outputs=[picture.copy()])
    nbformat.write(new_notebook(cells=[cell, other]), tmp_path / "one.ipynb")
    made = nbformat.reads(sources._notebook(tmp_path / "one.ipynb"), 4).cells
    block = made[0].outputs[0].data["text/html"]
    assert 'data-widget="topology_editor"' in block
    assert 'alt="a &quot;ring&quot;"' in block
    assert "../_static/knobs/topology_editor.js" in block
    assert made[1].outputs[0].data["image/png"].strip() == "AAAA"
    assert made[1].metadata.mystnb.image.alt == 'a "ring"'


def test_a_folder_of_somebody_else_is_refused_and_stays(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(BadInput, match=r"out = .*an empty one"):
        course.build(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_without_sphinx_one_line_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(errors, "find_spec", lambda name: None if name == "furo" else object())
    ended = deca_lab(capsys, "book", "--out", tmp_path / "out")
    assert ended.code == 2
    assert ended.err == ("error: the book needs furo: pip install 'deca-lab[book]', then again\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("page", HOW_TO, ids=lambda path: path.stem)
def test_the_python_of_a_how_to_page_runs(page, tmp_path, monkeypatch):
    from deca_lab import methods
    from deca_lab.mixing import graphs

    monkeypatch.chdir(tmp_path)
    for module, table in ((methods, "METHODS"), (graphs, "GRAPHS")):  # what it registers goes again
        monkeypatch.setattr(module, table, dict(getattr(module, table)))
    if page.stem == "read_a_report":
        run(RunConfig(clients=2, rounds=1, inner_steps=1), Path("runs/DIR"))
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S):
        exec(compile(block, str(page), "exec"), names)
