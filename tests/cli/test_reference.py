"""The page of commands is the app: every command and every option of its help stands there."""

import re

import pytest
import typer

from deca_lab.cli import app, reference
from deca_lab.runconfig import RunConfig


@pytest.fixture(scope="module")
def commands():
    return typer.main.get_command(app).commands


def parts(page):
    """Return {command: its part of the page}."""
    titles, bodies = re.findall(r"^## (.*)$", page, re.M), re.split(r"^## .*$", page, flags=re.M)
    return dict(zip(titles, bodies[1:], strict=True))


def test_every_command_and_option_is_on_the_page(commands):
    page = parts(reference.page())
    assert list(page) == list(commands)
    for name, command in commands.items():
        assert command.help.splitlines()[0].strip() in page[name]
        for one in command.params:
            if "--help" in one.opts:
                continue
            if one.name in RunConfig.__dataclass_fields__:
                assert "knob" in page[name].lower(), one.name
                continue
            called = f"`{one.name.upper()}`" if one.param_type_name == "argument" else None
            for word in [called] if called else [f"`{o}`" for o in one.opts]:
                assert f"| {word}" in page[name] or f", {word}" in page[name], (name, word)
            assert (one.help or "").split(" (")[0].split("|")[0].strip()[:30] in page[name], (
                one.name
            )


def test_calls_show_what_must_be_given_and_tables_are_whole():
    page = parts(reference.page())
    assert "deca-lab report FOLDERS... [OPTIONS]" in page["report"]
    assert "deca-lab bounds [NAMES...] [OPTIONS]" in page["bounds"]
    assert "Every [knob of a run](knobs.md)." in page["run"]
    assert "`--topology`" in page["doctor"]
    for part in page.values():
        for row in re.findall(r"^\|.*$", part, re.M):
            assert len(re.findall(r"(?<!\\)\|", row)) == 3, row
