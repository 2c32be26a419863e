"""What a callback and a metric of one's own see of a run: one inner step."""

from dataclasses import dataclass, field
from typing import Any

from deca_lab.algorithm.loop import Plan, State, copied, params_of
from deca_lab.algorithm.stacking import Params
from deca_lab.lab.metrics import mean_model


@dataclass(frozen=True)
class Snapshot:
    """One inner step of a run, after it was taken.

    `step` inner steps of `steps` are done. `train` holds the step's number, block, lr and loss (mean
    over clients, nats a token); `metrics` the newest measurement, empty before the first; `measured`
    says whether this step was measured. Over several processes, rows are those of this process, but
    for a metric, which sees all clients'.
    """

    step: int
    steps: int
    train: dict[str, Any]
    metrics: dict[str, Any]
    measured: bool
    _plan: Plan = field(repr=False)
    _state: State = field(repr=False)

    @property
    def state(self) -> State:
        """The whole state, a value: it may be kept, and continued from with `train`."""
        return copied(self._state)

    @property
    def params(self) -> Params:
        """All clients' parameters, name -> (N, ...)."""
        return params_of(self._plan, self._state)

    @property
    def mean(self) -> Params:
        """The mean model's parameters, name -> (...)."""
        return mean_model(self.params)
