"""The course: where its notebooks are, running them, copies for users and students, HTML pages, and JupyterLab at it."""

from deca_lab.course.book import Built, build
from deca_lab.course.handout import students
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
    "Built",
    "Copied",
    "Result",
    "build",
    "command",
    "copy_to",
    "execute",
    "folder_of",
    "home",
    "installed",
    "notebooks",
    "parameters_of",
    "parse_parameters",
    "run_one",
    "serve",
    "students",
    "table",
]
