"""Makes a checkout ready for PyPI: checks what is released, and writes the repository's address where links need it.

`python .github/release.py ADDRESS TAG`, in the checkout. The files of the project name no address of their own, so each
repository releases under its own.
"""

import re
import sys
import tomllib
from pathlib import Path


def main(address: str, tag: str, root: Path) -> None:
    """Write pyproject.toml and README.md for a release; leave with a word where tag, version and changelog disagree."""
    project, readme = root / "pyproject.toml", root / "README.md"
    changes = (root / "deca_lab/course/docs/changelog.md").read_text(encoding="utf-8")
    version = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"]
    if tag != f"v{version}":
        sys.exit(f"the tag is {tag}, the version in pyproject.toml {version}: tag v{version}")
    if not re.search(rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)$", changes, re.M):
        sys.exit(f"changelog.md has no heading '## {version} (YEAR-MONTH-DAY)'")
    _rewrite(project, "[project.urls]\n", f"[project.urls]\n{_urls(address, tag)}")
    readme.write_text(absolute(readme.read_text(encoding="utf-8"), address, tag), encoding="utf-8")


def absolute(text: str, address: str, tag: str) -> str:
    """Return Markdown whose links to files of the checkout work anywhere: PyPI shows the README alone."""
    text = re.sub(r"!\[([^]]*)\]\((?!https?:)", rf"![\1]({address}/raw/{tag}/", text)
    return re.sub(r"\]\((?!https?:|#)", f"]({address}/blob/{tag}/", text)


def _urls(address: str, tag: str) -> str:
    pages = {
        "Repository": address,
        "Issues": f"{address}/issues",
        "Changelog": f"{address}/blob/{tag}/deca_lab/course/docs/changelog.md",
    }
    return "".join(f'{name} = "{url}"\n' for name, url in pages.items())


def _rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    if old not in text:
        sys.exit(f"{path.name} has no line {old.strip()}")
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:3], root=Path.cwd())
