"""The finished run that all hostile tests damage copies of, a way to many lives of it, and the table of a long search."""

from harness import laid as laid
from harness import swift as swift
from harness import table
from harness import whole as whole


def pytest_terminal_summary(terminalreporter, config):
    """Print what a long search tried, and how it ended."""
    if config.getoption("--hostile-seconds"):
        terminalreporter.write_line("\n".join(table()))
