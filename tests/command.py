"""The command line as a user meets it: exit code, output, errors."""

import sys
from typing import NamedTuple

import pytest

from deca_lab.cli import main

SMALL = {
    "model": "tiny",
    "corpus": "markov",
    "clients": 4,
    "context": 32,
    "batch": 2,
    "rounds": 1,
    "inner_steps": 3,
    "eval_windows": 4,
}


class Said(NamedTuple):
    code: int
    out: str
    err: str


def options(**knobs):
    """Return {"inner_steps": 3} as --inner-steps 3."""
    return [
        word
        for name, value in knobs.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]


def deca_lab(capsys, *words):
    """Run `deca-lab words` in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["deca-lab", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
    read = capsys.readouterr()
    return Said(ended.value.code or 0, read.out, read.err)
