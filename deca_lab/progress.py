"""Live progress with the time left: a bar in a terminal and in Jupyter, a line a measurement where nobody watches."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from deca_lab.runs import Progress


@contextmanager
def bar(label: str = "inner steps") -> Iterator[Progress]:
    """Yield a progress function for `run`; the bar is closed at the end, also after an error."""
    from tqdm.auto import tqdm

    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    shown = tqdm(desc=label, unit="step", disable=not watched, leave=True)
    said = [-1]

    def progress(done: int, total: int, known: dict[str, Any]) -> None:
        shown.total = total
        shown.n = done
        shown.set_postfix(block=known["block"], train=f"{known['loss']:.3f}", test=f"{known['test_loss']:.3f}")
        if not watched and known["measured"] != said[0]:
            said[0] = known["measured"]
            sys.stderr.write(f"step {done}/{total}  block {known['block']}  train loss {known['loss']:.3f}  "
                             f"test loss of the mean model {known['test_loss']:.3f}\n")

    try:
        yield progress
    finally:
        shown.close()
