"""JupyterLab at the course: on this machine only, with its token left on."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from deca_lab.course.kernel import COURSE, checkout_first
from deca_lab.course.place import FIRST, Copied, copy_to
from deca_lab.errors import check, require

COPY = "deca_lab_course"
CONFIG = Path(__file__).with_name("jupyter")  # JupyterLab asks no learner whether news are welcome


def folder_of(folder: Path | None) -> Copied:
    """Return a copy of the course to open, without outputs: ./deca_lab_course when not named."""
    require("JupyterLab", "course", *COURSE)
    return copy_to(folder or Path(COPY))


def command(place: Path, port: int = 8888, browser: bool = True) -> list[str]:
    """Return the command that opens JupyterLab at the course in `place`; if the port is taken, Jupyter takes the next."""
    check(1024 <= port <= 65535, "port", port, "from 1024 to 65535")
    require("JupyterLab", "course", *COURSE)
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
    """Return the environment of the server: kernels import this deca_lab, python3 is the kernel of this Python, no pop-ups."""
    config = filter(None, [str(CONFIG), os.environ.get("JUPYTER_CONFIG_PATH", "")])
    own = {"JUPYTER_PREFER_ENV_PATH": "1", "JUPYTER_CONFIG_PATH": os.pathsep.join(config)}
    return {**checkout_first(os.environ), **own}


def serve(place: Path, port: int = 8888, browser: bool = True) -> int:
    """Run JupyterLab at the course in `place` until it is stopped, and return its exit code.

    SIGTERM, and SIGHUP of a terminal that is closed, end the server and its kernels with it: 128 and the signal's number.
    """
    with (
        ended_by_signals() as asked,
        subprocess.Popen(
            command(place.resolve(), port, browser), env=server_environment()
        ) as server,
    ):
        while not asked:
            try:
                return server.wait(0.2)  # a signal is looked for between two waits
            except (
                KeyboardInterrupt,  # JupyterLab got it too, and asks whether to stop: the answer is its own
                subprocess.TimeoutExpired,
            ):
                continue
        return _ended(server, asked[0])


def _ended(server: "subprocess.Popen[bytes]", number: int) -> int:
    """End the server, which then ends its kernels, and return the exit code of a signal."""
    server.terminate()
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
    return 128 + number


@contextmanager
def ended_by_signals() -> Iterator[list[int]]:
    """Yield a list that takes the numbers of SIGTERM and SIGHUP in place of this process's end; not of an ignored one."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    numbers = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, note)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
