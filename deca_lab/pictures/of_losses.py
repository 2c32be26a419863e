"""The picture of the losses: the common test text above, the clients' own text below."""

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deca_lab.lab.history import History
from deca_lab.pictures.strip import broken, mark_break, with_strip
from deca_lab.pictures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    RED,
    finite,
    legend,
    nats,
    note,
    number,
    require_there,
    styled,
    title,
)

READINGS = ("client_test_loss", "client_test_loss_min", "client_test_loss_max")
OWN = {  # of a run on text, or not: the column of the lower panel's line, and its label
    True: ("validation_loss", "mean model on the clients' validation text"),
    False: ("own_loss", "clients' own models, each on its own data"),
}


def on_text(metrics: pd.DataFrame) -> bool:
    """Whether these are losses of text: those of a problem of one's own have no perplexity."""
    return "test_perplexity" in metrics


@styled
def draw_losses(
    metrics: pd.DataFrame, train: pd.DataFrame, visits: pd.DataFrame, floor: float | None = None
) -> Figure:
    """Test loss of the mean model and of the clients' own; below, their own text; `floor`: exact entropy rate.

    The two panels have scales of their own, since a batch is noisier than the test text by far. Of a problem of one's own,
    whose metrics hold no perplexity, the losses are those on all clients' data and, below, on each client's own.
    """
    figure, (test, own), _ = with_strip(visits, 6.4, (10, 5))
    _draw_test(test, metrics)
    _draw_own(own, metrics, train)
    if floor is not None:
        _draw_floor(test, floor)
    for axes in (test, own):
        _fit(axes)
        mark_break(axes, metrics)
    if broken(metrics) is None and on_text(metrics):
        _perplexities(test)
    title(figure, said_losses(metrics))
    legend(figure, (test, own), 2)
    return figure


def _draw_test(axes: Axes, metrics: pd.DataFrame) -> None:
    steps = metrics["step"]
    low, high = finite(metrics["client_test_loss_min"]), finite(metrics["client_test_loss_max"])
    axes.fill_between(
        steps, low, high, color=ORANGE, alpha=0.3, lw=0, label="clients' own models, least to most"
    )
    axes.plot(
        steps,
        finite(metrics["client_test_loss"]),
        color=RED,
        lw=1.6,
        ls="--",
        marker="s",
        ms=4,
        label="clients' own models, mean",
    )
    axes.plot(
        steps,
        finite(metrics["test_loss"]),
        color=BLUE,
        lw=2,
        marker="o",
        ms=4.5,
        label="mean model",
    )
    axes.set_ylabel(
        "common test text:\nloss (nats per token)"
        if on_text(metrics)
        else "all clients' data:\nloss"
    )
    if not np.isfinite(metrics["test_loss"]).any():
        note(axes, "no finite test loss")


def _draw_own(axes: Axes, metrics: pd.DataFrame, train: pd.DataFrame) -> None:
    raw = pd.Series(finite(train["loss"]))
    smooth = raw.rolling(int(np.clip(len(raw) // 20, 1, 25)), center=True, min_periods=1).mean()
    axes.plot(train["step"], raw, color=GREY, lw=0.7, alpha=0.45)
    axes.plot(
        train["step"],
        smooth,
        color=GREY,
        lw=1.5,
        ls="-.",
        label="clients on their training batches, smoothed",
    )
    column, label = OWN[on_text(metrics)]
    if column in metrics:
        axes.plot(
            metrics["step"],
            finite(metrics[column]),
            color=GREEN,
            lw=1.5,
            ls=":",
            marker="D",
            ms=4,
            label=label,
        )
    axes.set_ylabel(
        "clients' own text:\n(nats per token)" if on_text(metrics) else "clients' own data:\nloss"
    )
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _draw_floor(axes: Axes, floor: float) -> None:
    """Draw the entropy rate where it lies near the curves; else only name it, so that it does not press them flat."""
    low, high = axes.get_ylim()
    if floor > low - 2 * (high - low):
        axes.axhline(
            floor,
            color=INK,
            lw=1.3,
            ls=(0, (6, 3)),
            label=f"exact entropy rate, {nats(floor)}: no model can be lower",
        )
    else:
        axes.plot(
            [],
            [],
            color=INK,
            lw=0,
            marker="v",
            label=f"exact entropy rate, {nats(floor)}: far below this picture",
        )


def _fit(axes: Axes) -> None:
    """Scale the axis by decades where losses explode."""
    low, high = axes.get_ylim()
    if high > 100 * max(abs(low), 1):
        axes.set_yscale("symlog", linthresh=10)


def _perplexities(axes: Axes) -> None:
    """Write the perplexities on the right, where they can be read."""
    low, high = axes.get_ylim()
    if high < 25 and axes.get_yscale() == "linear":
        right = axes.twinx()
        ticks = _between(math.exp(low), math.exp(high))
        right.set_yticks(np.log(ticks), [number(t, 4) for t in ticks])
        right.set(ylim=(low, high), ylabel="perplexity")


def _between(low: float, high: float) -> list[float]:
    """Return round values from low to high: 1, 2, 5 a decade where there is more than one decade."""
    if high > 8 * low:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks: Iterable[float] = (m * 10.0**p for p in powers for m in (1, 2, 5))
    else:
        ticks = MaxNLocator(6).tick_values(low, high)
    return [float(v) for v in ticks if low <= v <= high and v > 0]


def said_losses(metrics: pd.DataFrame) -> str:
    """Return what the mean model's loss did, in one sentence."""
    losses = metrics["test_loss"].tolist()
    step = broken(metrics)
    if step is not None:
        return f"The mean model's test loss stops being finite by inner step {step}"
    way = (
        "falls"
        if losses[-1] < losses[0]
        else "rises"
        if losses[-1] > losses[0]
        else "stays as it is,"
    )
    if not on_text(metrics):
        return f"The mean model's loss {way} from {number(losses[0], 4)} to {number(losses[-1], 4)}"
    pps = metrics["test_perplexity"].tolist()
    return (
        f"The mean model's test loss {way} from {nats(losses[0])} to {nats(losses[-1])} nats per token "
        f"(perplexity {number(pps[0], 4)} to {number(pps[-1], 4)})"
    )


def losses(history: History) -> Figure:
    """Return the picture of the run's losses; raise BadInput where a reading is not there."""
    require_there("losses", lacks(history))
    return draw_losses(
        history.metrics, history.train, history.visits, history.summary.get("entropy_floor")
    )


def alt(history: History) -> str:
    """Return the picture in words."""
    last, words = history.metrics.iloc[-1], nats if on_text(history.metrics) else number
    return (
        f"Line chart of loss against inner step. {said_losses(history.metrics)}. At the end the clients' own models lie "
        f"between {words(last['client_test_loss_min'])} and {words(last['client_test_loss_max'])}."
    )


def lacks(history: History) -> str:
    """Return the readings that the picture shows and this run has not; "" where it has all."""
    return ", ".join(name for name in READINGS if name not in history.metrics)
