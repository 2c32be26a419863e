"""What is released: one version, floors and Pythons that say the same everywhere, links that work away from the checkout."""

import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from command import SMALL, options
from packaging.requirements import Requirement

import deca_lab
from deca_lab.course.book.sources import ABOUT, DOCS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ADDRESS = "https://code.example/someone/lab"


def release(root, tag, changes):
    """Run .github/release.py on a copy of what it reads, with the changelog's heading as given."""
    docs = root / "deca_lab/course/docs"
    docs.mkdir(parents=True)
    (docs / "changelog.md").write_text(changes)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, root)
    runpy.run_path(str(ROOT / ".github/release.py"))["main"](ADDRESS, tag, root)


def workflow(name):
    return yaml.safe_load((ROOT / ".github/workflows" / name).read_text(encoding="utf-8"))["jobs"]


def commands(jobs):
    return [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]


def test_the_version_stands_in_one_place_and_the_changelog_begins_with_it():
    assert deca_lab.__version__ == version("deca-lab") == PROJECT["version"]
    first = re.search(
        r"^## (\S+) \((?:not released yet|\d{4}-\d\d-\d\d)\)$",
        (DOCS / "changelog.md").read_text(encoding="utf-8"),
        re.M,
    )
    assert first
    assert first[1] == PROJECT["version"]
    assert f"{{Version {PROJECT['version']}}}" in (DOCS / "cite.md").read_text(encoding="utf-8")


def test_floors_in_words_are_those_of_the_project():
    words = (DOCS / "changelog.md").read_text(encoding="utf-8")
    floors = dict(re.findall(r"^(\w+)>=([\d.]+)", "\n".join(PROJECT["dependencies"]), re.M))
    python = PROJECT["requires-python"].removeprefix(">=")
    for name, floor in (
        ("Python", python),
        ("torch", floors["torch"]),
        ("transformers", floors["transformers"]),
    ):
        assert f"{name} {floor} or newer" in words


def test_the_paper_and_its_authors_are_cited_alike_in_both_forms():
    cited = yaml.safe_load((ROOT / ".github/CITATION.cff").read_text(encoding="utf-8"))
    page = re.sub(r"[{}]", "", (DOCS / "cite.md").read_text(encoding="utf-8"))
    for paper in cited["references"]:
        names = " and ".join(f"{a['family-names']}, {a['given-names']}" for a in paper["authors"])
        assert names in page
        assert paper["title"] in page
        assert paper["url"].rpartition("/")[2] in page
        assert paper["url"] in PROJECT["urls"].values()


def test_workflows_try_every_python_that_we_name_and_the_floors():
    quick = workflow("tests.yml")["quick"]["strategy"]["matrix"]
    named = {c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d", c)}
    assert named <= set(quick["python"])
    assert PROJECT["requires-python"] == f">={quick['python'][0]}"
    assert {"python": quick["python"][0], "versions": "lowest-direct"}.items() <= quick["include"][
        0
    ].items()


def test_workflows_run_what_is_there():
    run = commands(workflow("tests.yml")) + commands(workflow("release.yml"))
    for path in re.findall(r"\.(?:ci|github)/[\w./]+", "\n".join(run)):
        assert (ROOT / path).is_file(), path
    readme = re.search(r"pytest (.+) *$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert readme
    assert any(line.startswith(f'pytest {readme[1]} -m "not slow"') for line in run)


def test_a_release_learns_the_address_of_its_repository(tmp_path):
    release(
        tmp_path, f"v{PROJECT['version']}", f"# Changelog\n\n## {PROJECT['version']} (2026-12-01)\n"
    )
    urls = tomllib.loads((tmp_path / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "urls"
    ]
    assert urls["Repository"] == ADDRESS
    assert PROJECT["urls"].items() <= urls.items()
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert len(targets) == len(
        re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    )
    assert all(target.startswith("https://") for target in targets)
    ours = [t.split(f"v{PROJECT['version']}/")[1] for t in targets if t.startswith(ADDRESS)]
    assert all((ROOT / path).exists() for path in ours)
    assert f"]({ADDRESS}/raw/v{PROJECT['version']}/notebooks/alone.png)" in text


@pytest.mark.parametrize(
    ("tag", "heading", "word"),
    [
        ("v9.9", "2026-12-01", "the tag is v9.9"),
        (f"v{PROJECT['version']}", "not released yet", "has no heading"),
    ],
    ids=["tag", "changelog"],
)
def test_a_release_that_disagrees_with_itself_is_refused(tmp_path, tag, heading, word):
    with pytest.raises(SystemExit, match=word):
        release(tmp_path, tag, f"## {PROJECT['version']} ({heading})\n")


@pytest.mark.slow
def test_a_run_needs_none_of_the_course_s_packages(tmp_path):
    names = [Requirement(line).name for line in PROJECT["optional-dependencies"]["course"]]
    gone = [*names, "IPython", "jupyter_client", "nbclient", "nbformat", "traitlets"]
    words = ["run", *options(**SMALL), "--out", str(tmp_path / "run")]
    code = f"import sys; sys.modules.update(dict.fromkeys({gone})); sys.argv[1:] = {words}"
    ran = [sys.executable, "-c", f"{code}; from deca_lab.cli import main; main()"]
    ended = subprocess.run(ran, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "run/report.html").is_file()


def test_pages_about_the_lab_are_on_the_site():
    assert {path for path in ABOUT if (DOCS / f"{path}.md").is_file()} == {"cite", "changelog"}
