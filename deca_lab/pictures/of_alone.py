"""The picture of a run beside the same clients alone: what mixing changes on text that is common to all."""

from matplotlib.figure import Figure

from deca_lab.lab.history import History
from deca_lab.pictures.of_lines import Curve, draw_lines

LABEL = "common test text: loss (nats per token)"


def draw_alone(together: History, alone: History) -> Figure:
    """Return the test losses of a run that mixes and of one that does not, over inner steps, on the same axes."""
    curves = {
        "alone: clients' own models, mean": _curve(alone, "client_test_loss"),
        "together: clients' own models, mean": _curve(together, "client_test_loss"),
        "together: mean model": _curve(together, "test_loss"),
    }
    floor = together.summary.get("entropy_floor")
    if floor is not None:
        ends = together.metrics["step"].iloc[[0, -1]].tolist()
        curves["entropy rate: no model can do better"] = (ends, [floor, floor])
    return draw_lines(curves, "inner step", LABEL)


def alt_alone(together: History, alone: History) -> str:
    """Return the picture in words."""
    ends = [one.metrics["client_test_loss"].iloc[-1] for one in (alone, together)]
    return (
        f"Loss on the common test text over inner steps: a client's own model ends at {ends[0]:.2f} "
        f"nats per token when it trains alone, at {ends[1]:.2f} when all mix."
    )


def _curve(run: History, column: str) -> Curve:
    return run.metrics["step"].tolist(), run.metrics[column].tolist()
