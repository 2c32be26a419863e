"""The training dashboard: a run as it goes, loss and disagreement step by step, with a button that stops it."""

import threading
import time
from collections.abc import Callable
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deca_lab.course.widgets.panel import (
    Scene,
    headline,
    own_keys,
    put,
    renderer,
    say,
    sheet,
    still,
)
from deca_lab.errors import BadInput, Diverged, Stopped
from deca_lab.pictures.jupyter import live
from deca_lab.pictures.style import BLUE, GREY, ORANGE, RED, STYLE, nats, number, styled
from deca_lab.runconfig import RunConfig

if TYPE_CHECKING:
    from IPython.display import Image
    from ipywidgets import HTML, VBox
    from matplotlib.axes import Axes

PAUSE = 0.4  # seconds between two pictures of a live run
LOWEST = 1e-6  # of the disagreement's axis
Measurements = list[dict[str, Any]]  # what the run reported, a row for each inner step


def training_dashboard(config: RunConfig, out: Path | str | None = None) -> "VBox | Image":
    """Train in the background under a live picture with a stop button; return the box that holds them.

    Elsewhere than in a live front end the run is awaited, and its last picture returned as an IPython image. With `out`,
    a new folder, the run is written there as by `run`, and one that was stopped can be resumed. Raises BadInput.
    """
    from deca_lab.lab.prepare import prepare

    if live():
        prepare(config)  # so that errors come here, and not in the background
        return _live(config, out)
    rows = _follow(config, out, lambda rows: False)
    return still(scene(), {"rows": rows, "end": ""})


def _follow(
    config: RunConfig, out: Path | str | None, seen: Callable[[Measurements], bool]
) -> Measurements:
    """Run, and return what was known after each inner step; `seen` is shown the rows each time and may ask to stop."""
    from deca_lab.lab.runs import run

    rows: Measurements = []

    def progress(done: int, total: int, known: dict[str, Any]) -> bool:
        rows.append({**known, "done": done, "total": total})
        return seen(rows)

    run(config, out, progress)
    return rows


def _live(config: RunConfig, out: Path | str | None) -> "VBox":
    import ipywidgets

    picture, button = ipywidgets.HTML(), ipywidgets.Button(description="stop", icon="stop")
    draw, stop = _painter(picture), threading.Event()
    latest, drawn = Measurements(), 0.0

    def seen(rows: Measurements) -> bool:
        nonlocal latest, drawn
        latest = rows
        if time.monotonic() - drawn > PAUSE:
            draw(latest, "")
            drawn = time.monotonic()
        return stop.is_set()

    def work() -> None:
        end = _ended(config, out, seen)
        button.disabled, button.description = True, "ended"
        draw(latest, end)

    button.on_click(lambda pressed: stop.set())
    draw(latest, "")
    threading.Thread(target=work, daemon=True, name="training").start()
    return ipywidgets.VBox([button, picture, own_keys()])


def _painter(picture: "HTML") -> Callable[[Measurements, str], None]:
    """Return the function that draws the rows so far, and how the run ended, into the picture."""
    shown = scene()
    render, update = renderer(shown.figure), styled(shown.update)

    def draw(rows: Measurements, end: str) -> None:
        words = update(rows, end)
        put(picture, render(), words)

    return draw


def _ended(config: RunConfig, out: Path | str | None, seen: Callable[[Measurements], bool]) -> str:
    """Run to the end, and return in words how it ended."""
    try:
        _follow(config, out, seen)
    except (Stopped, Diverged, BadInput) as error:
        return str(error)
    return "done"


def scene() -> Scene:
    """Return the picture: losses on the left, the clients' disagreement on the right."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figure = sheet(3.4)
        losses, distances = figure.subplots(1, 2, width_ratios=(1.3, 1))
        figure.subplots_adjust(left=0.085, right=0.985, bottom=0.3, top=0.83, wspace=0.3)
        title, draw, follow = headline(losses), _losses(losses), _distance(distances)
        figure.legend(
            *losses.get_legend_handles_labels(),
            loc="lower left",
            bbox_to_anchor=(0.01, 0.0),
            ncols=3,
            handlelength=2,
        )

    def update(rows: Measurements, end: str) -> str:
        if not rows:
            say(title, end or "Preparing text, shards and model ...")
            return f"No picture yet: the run is being prepared. {end}".strip()
        measured = _measured(rows)
        at = [0 if row["measured"] == 1 else row["done"] for row in measured]
        draw(rows, measured, at)
        follow(measured, at)
        state, said = _words(rows[-1], measured[0], end)
        say(title, state)
        return said

    return Scene(figure, update)


def _measured(rows: Measurements) -> Measurements:
    """Return the rows at which the run was measured anew; those between repeat the last measurement."""
    changed = (k == 0 or row["measured"] != rows[k - 1]["measured"] for k, row in enumerate(rows))
    return list(compress(rows, changed))


def _words(now: dict[str, Any], start: dict[str, Any], end: str) -> tuple[str, str]:
    """Return the headline, and the picture in words: where the run is, or how it ended, and how far it came."""
    first, last = nats(start["test_loss"]), nats(now["test_loss"])
    under_way = f"step {now['done']} of {now['total']}, block {now['block']}"
    state = end[0].upper() + end[1:] if end else under_way
    return (
        f"{state}: the mean model's test loss is {last}, at first {first}",
        f"Loss and consensus distance over {now['total']} inner steps. {state}. The mean model's test loss went from "
        f"{first} to {last}; the clients are {number(now['consensus'])} apart.",
    )


def _losses(axes: "Axes") -> Callable[[Measurements, Measurements, list[int]], None]:
    """Return what draws the training batches' loss, and the test losses where they were measured."""
    batch = axes.plot([], [], color=GREY, lw=1, label="training batches", animated=True)[0]
    least = axes.plot(
        [], [], color=ORANGE, lw=1.2, ls=":", label="clients, least and most", animated=True
    )[0]
    most = axes.plot([], [], color=ORANGE, lw=1.2, ls=":", animated=True)[0]
    mean = axes.plot(
        [], [], color=BLUE, lw=2, marker="o", ms=4, label="mean model, test text", animated=True
    )[0]
    axes.set(xlabel="inner step", ylabel="loss (nats per token)")
    axes.grid(visible=True)

    def update(rows: Measurements, measured: Measurements, at: list[int]) -> None:
        batch.set_data(*np.array([(row["done"], row["loss"]) for row in rows]).T)
        for artist, name in (
            (mean, "test_loss"),
            (least, "client_test_loss_min"),
            (most, "client_test_loss_max"),
        ):
            artist.set_data(at, [row[name] for row in measured])
        top = 0.5 * np.ceil(2.2 * max(rows[0]["loss"], measured[0]["test_loss"]))
        axes.set(xlim=(0, rows[0]["total"]), ylim=(0, top))

    return update


def _distance(axes: "Axes") -> Callable[[Measurements, list[int]], None]:
    """Return what draws the consensus distance."""
    line = axes.plot([], [], color=RED, lw=1.6, ls="--", marker="s", ms=3.5, animated=True)[0]
    axes.set(yscale="log", ylim=(LOWEST, 10), xlabel="inner step", ylabel="consensus distance")
    axes.grid(visible=True)

    def update(measured: Measurements, at: list[int]) -> None:
        line.set_data(at, np.clip([row["consensus"] for row in measured], LOWEST, 10))
        axes.set_xlim(0, measured[0]["total"])

    return update
