"""Callbacks that write a run to TensorBoard or Weights & Biases while it goes on.

Both write `train/loss` (mean over clients, nats per token) and `train/lr` after every inner step,
and every figure of a measurement as `metrics/NAME` at the steps that were measured. The x axis is
the number of inner steps done. Neither package comes with deca_lab: it is imported when asked for.
"""

from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any

from deca_lab.errors import BadInput
from deca_lab.files import folder as usable_folder

Callback = Callable[[Any], bool | None]  # a moment of the run -> stop now?


def tensorboard(folder: Path | str) -> Callback:
    """Return a callback that writes TensorBoard's event files into `folder`, which is created.

    A resumed run goes on in the same folder; give every other run a folder of its own. Raises
    BadInput where the folder cannot be used, or the package tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise _missing("tensorboard") from None
    writer: Any = SummaryWriter(str(usable_folder(Path(folder))))  # torch gives it no types

    def log(moment: Any) -> None:  # noqa: ANN401 - what a run gives to its callbacks
        for name, value in scalars(moment).items():
            writer.add_scalar(name, value, moment.step)
        writer.flush()  # a run may be stopped after any step
        if moment.step == moment.steps:
            writer.close()

    return log


def wandb(project: str, **settings: Any) -> Callback:  # noqa: ANN401 - as wandb.init takes them
    """Return a callback that logs to a run of a W&B `project`, opened after the first inner step.

    `settings` go to `wandb.init`: `name="first"`, `config=asdict(config)`, `mode="offline"`. The
    W&B run is finished after the last inner step, so that a next run gets another. Raises BadInput
    where the package wandb is not installed.
    """
    try:
        import wandb as client
    except ImportError:
        raise _missing("wandb") from None
    opened: list[Any] = []  # the W&B run, while there is one

    def log(moment: Any) -> None:  # noqa: ANN401 - what a run gives to its callbacks
        if not opened:  # not before: a config that is refused must leave nothing on a server
            opened.append(client.init(project=project, **settings))
        opened[0].log(scalars(moment), step=moment.step)
        if moment.step == moment.steps:
            opened.pop().finish()

    return log


def scalars(moment: Any) -> dict[str, float]:  # noqa: ANN401 - what a run gives to its callbacks
    """Return what a logger writes after one inner step: {name: number}."""
    written = {f"train/{name}": float(moment.train[name]) for name in ("loss", "lr")}
    if moment.measured:
        found = {n: v for n, v in moment.metrics.items() if isinstance(v, Real) and n != "step"}
        written |= {f"metrics/{name}": float(value) for name, value in found.items()}
    return written


def _missing(package: str) -> BadInput:
    return BadInput(f"{package} is not installed: pip install {package}")
