"""The course: where its notebooks are, running them, copies for users and students, HTML pages, and JupyterLab at it."""

from deca_lab.course.handout import students
from deca_lab.course.links import broken_links
from deca_lab.course.pages import html
from deca_lab.course.place import Copied, copy_to, home, installed, notebooks
from deca_lab.course.running import (
    PROFILES,
    Result,
    execute,
    parameters_of,
    parse_parameters,
    run_one,
    table,
)
from deca_lab.course.server import command, folder_of, serve

__all__ = [
    "PROFILES",
    "Copied",
    "Result",
    "broken_links",
    "command",
    "copy_to",
    "execute",
    "folder_of",
    "home",
    "html",
    "installed",
    "notebooks",
    "parameters_of",
    "parse_parameters",
    "run_one",
    "serve",
    "students",
    "table",
]
