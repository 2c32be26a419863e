"""Live progress with the time left: a bar in a terminal and in Jupyter, a line a measurement where nobody watches."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from time import perf_counter
from types import FrameType
from typing import Any

from deca_lab.lab.runs import Progress

FEW = 3  # steps after the first one that say how long a step takes
UNITS = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"), (1, "s"))


@contextmanager
def bar(label: str = "inner steps", silent: bool = False) -> Iterator[Progress]:
    """Yield a progress function for `run`; the bar is closed at the end, also after an error.

    The bar appears with the first step, for until then there is nothing to count. Where nobody
    watches, a line after the first steps says how long the others will take.
    """
    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    with (
        nullcontext(_nothing)
        if silent
        else _moving(label)
        if watched
        else nullcontext(_lines()) as shown
    ):
        yield shown


def _nothing(done: int, total: int, known: dict[str, Any]) -> None:
    """Say nothing."""


@contextmanager
def _moving(label: str) -> Iterator[Progress]:
    """Yield what moves a bar in a terminal or a notebook."""
    from tqdm.auto import tqdm

    bars: list[Any] = []

    def progress(done: int, total: int, known: dict[str, Any]) -> None:
        if not bars:
            bars.append(tqdm(desc=label, unit="step", total=total, initial=done - 1))
        losses = {"train": f"{known['loss']:.3f}", "test": f"{known['test_loss']:.3f}"}
        bars[0].set_postfix(block=known["block"], **losses, refresh=False)
        bars[0].update(done - bars[0].n)

    try:
        yield progress
    finally:
        for shown in bars:
            shown.close()


def _lines() -> Progress:
    """Return what writes a line a measurement, and once how long the steps take."""
    began: list[tuple[int, float]] = []  # the first step, which also warms up, and when it was done
    reported, foretold = [-1], [False]

    def progress(done: int, total: int, known: dict[str, Any]) -> None:
        began[:] = began or [(done, perf_counter())]
        first, at = began[0]
        if known["measured"] != reported[0]:
            reported[0] = known["measured"]
            sys.stderr.write(
                f"step {done}/{total}  block {known['block']}  train loss {known['loss']:.3f}  "
                f"test loss of the mean model {known['test_loss']:.3f}\n"
            )
        if done - first >= FEW and not foretold[0]:
            foretold[0] = True
            if done < total:
                step = (perf_counter() - at) / (done - first)
                sys.stderr.write(left(step, total - done) + "\n")

    return progress


def left(seconds: float, steps: int) -> str:
    """Return how long a step takes and how long the steps that are left will take, in words."""
    whole = seconds * steps
    size, unit = next((s, u) for s, u in UNITS if whole >= s or s == 1)
    steps_left = f"the {steps:,} steps left" if steps > 1 else "the step left"
    return f"a step takes {seconds:.2g} s: about {whole / size:.2g} {unit} for {steps_left}"


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
