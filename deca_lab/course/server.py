"""JupyterLab at the course: on this machine only, with its token left on."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from deca_lab.course.kernel import checkout_first
from deca_lab.course.place import FIRST, Copied, copy_to
from deca_lab.errors import BadInput, check

COPY = "deca_lab_course"


def folder_of(folder: Path | None) -> Copied:
    """Return a copy of the course to open, without outputs: ./deca_lab_course when not named."""
    return copy_to(folder or Path(COPY))


def command(place: Path, port: int = 8888, browser: bool = True) -> list[str]:
    """Return the command that opens JupyterLab at the course in `place`; if the port is taken, Jupyter takes the next."""
    check(1024 <= port <= 65535, "port", port, "from 1024 to 65535")
    if find_spec("jupyterlab") is None:
        raise BadInput("JupyterLab is not installed in this Python: pip install jupyterlab")
    as_root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    return [
        sys.executable,
        "-m",
        "jupyter",
        "lab",
        "--ip=127.0.0.1",
        f"--port={port}",
        f"--ServerApp.root_dir={place}",
        f"--LabApp.default_url=/lab/tree/{FIRST.as_posix()}",
        "--LabApp.news_url=None",
        *as_root,
        *([] if browser else ["--no-browser"]),
    ]


def server_environment() -> dict[str, str]:
    """Return the environment of the server: kernels import this deca_lab, and python3 is the kernel of this Python."""
    return {**checkout_first(os.environ), "JUPYTER_PREFER_ENV_PATH": "1"}


def serve(place: Path, port: int = 8888, browser: bool = True) -> int:
    """Run JupyterLab at the course in `place` until it is stopped, and return its exit code."""
    with subprocess.Popen(
        command(place.resolve(), port, browser), env=server_environment()
    ) as server:
        while True:
            try:
                return server.wait()
            except (
                KeyboardInterrupt
            ):  # JupyterLab got it too, and asks whether to stop: the answer is its own
                continue
