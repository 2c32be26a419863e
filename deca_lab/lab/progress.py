"""Live progress with the time left: a bar in a terminal and in Jupyter, a line a measurement where nobody watches."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from deca_lab.lab.runs import Progress


@contextmanager
def bar(label: str = "inner steps") -> Iterator[Progress]:
    """Yield a progress function for `run`; the bar is closed at the end, also after an error."""
    from tqdm.auto import tqdm

    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    shown = tqdm(desc=label, unit="step", disable=not watched, leave=True)
    reported = [-1]

    def progress(done: int, total: int, known: dict[str, Any]) -> None:
        shown.total = total
        shown.n = done
        shown.set_postfix(
            block=known["block"], train=f"{known['loss']:.3f}", test=f"{known['test_loss']:.3f}"
        )
        if not watched and known["measured"] != reported[0]:
            reported[0] = known["measured"]
            sys.stderr.write(
                f"step {done}/{total}  block {known['block']}  train loss {known['loss']:.3f}  "
                f"test loss of the mean model {known['test_loss']:.3f}\n"
            )

    try:
        yield progress
    finally:
        shown.close()


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether Ctrl-C (SIGINT), SIGTERM or SIGHUP has come, so that a run can checkpoint and end.

    A second signal stops at once, as without this. SIGHUP stays ignored where nohup said so.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)
        with suppress(OSError):  # the terminal that hung up cannot be written to
            sys.stderr.write("stopping after this inner step; once more to stop at once\n")

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
