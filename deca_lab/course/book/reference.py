"""Pages of reference that are made from the code: public names, knobs, their names, and the exercises' solutions."""

import inspect
import subprocess
import sys
from dataclasses import fields

from deca_lab.runconfig import RunConfig

PARTS = {  # public names in the order in which one meets them
    "Run": ("RunConfig", "run", "resume", "fit", "recipe", "compare_runs"),
    "What a run leaves": ("History", "load", "Snapshot", "export_model", "samples"),
    "Bring your own": ("Problem", "quadratics", "Topology", "optimiser", "Method", "register"),
    "Look closer": ("prepare", "train", "diagnose", "describe"),
    "Errors": ("BadInput", "Diverged", "Stopped"),
}


def public_names() -> str:
    """Return the page of all names that `deca_lab` exports, for Sphinx to fill in from their docstrings."""
    lines = ["Public names", "============", "", "All are imported from ``deca_lab``.", ""]
    for title, names in PARTS.items():
        lines += [title, "-" * len(title), ""]
        for name in names:
            lines += [*_directive(name), ""]
    return "\n".join(lines)


def _directive(name: str) -> list[str]:
    if name == "RunConfig":  # its signature would be a page of its own
        text = "Every setting of one run; :doc:`each knob <knobs>` has a default."
        return [".. py:class:: RunConfig(**knobs)", "", f"   {text}"]
    if name[0].islower():
        return [f".. autofunction:: deca_lab.{name}"]
    return [f".. autoclass:: deca_lab.{name}", "   :members:"]


def knobs() -> str:
    """Return the page of every knob of a run: its name, its default, and its help, group by group."""
    lines = ["# Knobs of a run", "", "A knob `inner_steps` is `--inner-steps` on the command line."]
    groups: dict[str, list[str]] = {}
    for field in fields(RunConfig):
        about = field.metadata["help"].replace("|", "\\|").replace("$", "\\$")
        allowed = field.metadata["allowed"]
        about += f" ({allowed[1]})" if allowed else ""
        row = f"| `{field.name}` | `{field.default!r}` | {about} |"
        groups.setdefault(field.metadata["group"], []).append(row)
    for group, rows in groups.items():
        lines += [
            "",
            f"## {group}",
            "",
            "| knob | default | what it does |",
            "|---|---|---|",
            *rows,
        ]
    return "\n".join(lines) + "\n"


def names() -> str:
    """Return the page of the names that knobs take, as `deca-lab list` prints them."""
    command = [sys.executable, "-m", "deca_lab", "list"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return f"# Names that knobs take\n\nAs `deca-lab list` prints them.\n\n```text\n{printed}```\n"


def commands() -> str:
    """Return the page of every command with its arguments and options, as the app itself has them."""
    made = [sys.executable, "-m", "deca_lab.cli.reference"]  # a room above: it runs beside
    return subprocess.run(made, capture_output=True, encoding="utf-8", check=True).stdout


def solutions() -> str:
    """Return the page of every exercise with the library's own answer."""
    from deca_lab.course.exercises import EXERCISES

    lines = ["# Solutions of the exercises", ""]
    for name, exercise in EXERCISES.items():
        source = inspect.getsource(exercise.solution).rstrip()
        lines += [
            f"## {name}",
            "",
            f"{exercise.about[0].upper()}{exercise.about[1:]}.",
            "",
            "```python",
            source,
            "```",
            "",
        ]
        lines += ["Usual mistakes:", "", *(f"- {mistake.words}" for mistake in exercise.mistakes)]
        lines.append("")
    return "\n".join(lines)
