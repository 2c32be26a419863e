"""The picture of the losses: the common test text above, the clients' own text below."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deca_lab.lab.glance import name_of
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
ON_TEXT = "validation_loss", "mean model on the clients' validation text"


class Kind(NamedTuple):
    """What the losses of a run are of: the labels of the two panels, and the lower one's column with its label."""

    common: str
    own: str
    line: tuple[str, str] = ON_TEXT


TEXT = Kind("common test text:\nloss (nats per token)", "clients' own text:\n(nats per token)")
SCORED = Kind("common test texts:\nloss (nats)", "clients' own texts:\nloss (nats)")
PROBLEM = Kind(
    "all clients' data:\nloss",
    "clients' own data:\nloss",
    ("own_loss", "clients' own models, each on its own data"),
)


def score_of(metrics: pd.DataFrame) -> str | None:
    """Return the first score of the run's task, "accuracy" say; None where its measure is the loss."""
    first = "client_test_"
    columns = (str(name).removeprefix(first) for name in metrics if str(name).startswith(first))
    losses = ("loss", "loss_min", "loss_max", "perplexity")
    return next((name for name in columns if name not in losses), None)


def kind_of(metrics: pd.DataFrame) -> Kind:
    """Return what the losses are of: only those of whole text have a perplexity."""
    if "test_perplexity" in metrics:
        return TEXT
    return SCORED if score_of(metrics) else PROBLEM


def on_text(metrics: pd.DataFrame) -> bool:
    """Whether these are losses of text, not of a problem of one's own."""
    return kind_of(metrics) is not PROBLEM


@styled
def draw_losses(
    metrics: pd.DataFrame,
    train: pd.DataFrame,
    visits: pd.DataFrame,
    floor: float | None = None,
    majority: float | None = None,
) -> Figure:
    """Test loss of the mean model and of the clients' own; below, their own text; `floor`: exact entropy rate.

    The two panels have scales of their own, since a batch is noisier than the test text by far. Of a problem of one's own,
    whose metrics hold no perplexity, the losses are those on all clients' data and, below, on each client's own. A task with
    a score has a panel for it at the top, with the accuracy of naming the commonest label, `majority`.
    """
    score = score_of(metrics)
    height, shares = (8.2, (7, 7, 4)) if score else (6.4, (10, 5))
    figure, (*first, test, own), _ = with_strip(visits, height, shares)
    for axes in first:
        _draw_score(axes, metrics, str(score), majority)
    _draw_test(test, metrics)
    _draw_own(own, metrics, train)
    if floor is not None:
        _draw_floor(test, floor)
    for axes in (test, own):
        _fit(axes)
        mark_break(axes, metrics)
    if broken(metrics) is None and kind_of(metrics) is TEXT:
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
    axes.set_ylabel(kind_of(metrics).common)
    if not np.isfinite(metrics["test_loss"]).any():
        note(axes, "no finite test loss")


def _draw_score(axes: Axes, metrics: pd.DataFrame, score: str, majority: float | None) -> None:
    """Draw the score of the mean model and the mean of the clients', in the colours of their losses below."""
    steps = metrics["step"]
    axes.plot(steps, metrics[f"client_test_{score}"], color=RED, lw=1.6, ls="--", marker="s", ms=4)
    axes.plot(steps, metrics[f"test_{score}"], color=BLUE, lw=2, marker="o", ms=4.5)
    if majority is not None:
        label = f"always naming the commonest label, {number(majority)}"
        axes.axhline(majority, color=INK, lw=1.3, ls=(0, (6, 3)), label=label)
    axes.set(ylim=(-0.03, 1.03), ylabel=f"common test texts:\n{name_of(score)}")


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
    kind = kind_of(metrics)
    column, label = kind.line
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
    axes.set_ylabel(kind.own)
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
    change = f"{way} from {number(losses[0], 4)} to {number(losses[-1], 4)}"
    if score := score_of(metrics):
        start, end = (number(value) for value in metrics[f"test_{score}"].iloc[[0, -1]])
        return (
            f"The mean model's test {name_of(score)} goes from {start} to {end}, its loss {change}"
        )
    if kind_of(metrics) is PROBLEM:
        return f"The mean model's loss {change}"
    pps = metrics["test_perplexity"].tolist()
    return (
        f"The mean model's test loss {way} from {nats(losses[0])} to {nats(losses[-1])} nats per token "
        f"(perplexity {number(pps[0], 4)} to {number(pps[-1], 4)})"
    )


def losses(history: History) -> Figure:
    """Return the picture of the run's losses; raise BadInput where a reading is not there."""
    require_there("losses", lacks(history))
    floor, majority = (history.summary.get(name) for name in ("entropy_floor", "majority"))
    return draw_losses(history.metrics, history.train, history.visits, floor, majority)


def alt(history: History) -> str:
    """Return the picture in words."""
    last, words = history.metrics.iloc[-1], nats if kind_of(history.metrics) is TEXT else number
    return (
        f"Line chart of loss against inner step. {said_losses(history.metrics)}. At the end the clients' own models lie "
        f"between {words(last['client_test_loss_min'])} and {words(last['client_test_loss_max'])}."
    )


def lacks(history: History) -> str:
    """Return the readings that the picture shows and this run has not; "" where it has all."""
    return ", ".join(name for name in READINGS if name not in history.metrics)
