"""The moment microscope: one parameter of one client, step by step, and what the feedback h does to its moments."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deca_lab.algorithm import optimisers
from deca_lab.algorithm.blocks import Block
from deca_lab.algorithm.gradients import Gradients, Loss
from deca_lab.algorithm.loop import Recipe, plan, train
from deca_lab.algorithm.moments import SCALES, SIGNALS, Adam, Feedback, Moments
from deca_lab.algorithm.problems import Problem
from deca_lab.course.widgets.panel import Control, Scene, headline, say, sheet, show
from deca_lab.mixing.gossip import Mix
from deca_lab.mixing.topology import topology
from deca_lab.pictures.style import BLUE, GREY, INK, ORANGE, RED, STYLE, number

if TYPE_CHECKING:
    from IPython.display import Image
    from ipywidgets import VBox
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

CLIENTS, STEPS, FLOOR, TOP = 4, 24, 1e-6, 30.0
DECAYS, START = Adam(0.9, 0.99), 3.0
CONTROLS = {
    "feedback": Control("feedback h", options=tuple(SIGNALS)),
    "scale": Control("scale of h", options=tuple(SCALES)),
    "b1": Control("b1", 0.0, 1.0, 0.01),
    "b2": Control("b2", 0.0, 1.0, 0.001),
    "inner_steps": Control("inner steps a visit R", 1, STEPS, 1),
    "power": Control("log10 of lr", -4.0, -0.5, 0.1),
    "apart": Control("how far wishes differ", 0.0, 4.0, 0.1),
    "noise": Control("gradient noise", 0.0, 2.0, 0.1),
}


class Seen(NamedTuple):
    """Of client 0 at each inner step (STEPS,): gradient, h as fed, corrected m and root of v, and the direction, in lr."""

    g: np.ndarray
    h: np.ndarray
    m: np.ndarray
    root: np.ndarray
    direction: np.ndarray


def moment_microscope(
    feedback: str = "printed",
    scale: str = "raw",
    b1: float = 0.99,
    b2: float = 0.999,
    inner_steps: int = 12,
    apart: float = 2.0,
) -> "VBox | Image":
    """Return one parameter's moments over 24 inner steps, with controls; elsewhere than in a live front end as an image.

    Four clients on a ring minimise (x - w_i)^2 / 2 from x = 3, w_i from -apart to +apart, with Adam's decays 0.9 and 0.99;
    moments restart every `inner_steps`. Raises BadInput.
    """
    values = {
        "feedback": feedback,
        "scale": scale,
        "b1": b1,
        "b2": b2,
        "inner_steps": inner_steps,
        "power": -1.0,
        "apart": apart,
        "noise": 0.5,
    }
    return show(scene, CONTROLS, values)


@lru_cache(128)
def seen(
    feedback: str,
    scale: str,
    b1: float,
    b2: float,
    inner_steps: int,
    power: float,
    apart: float,
    noise: float,
) -> Seen:
    """Return what the library's Adam and feedback do to client 0, read off inside its own `train`."""
    optimiser, notes = _noted(Feedback(SIGNALS[feedback], SCALES[scale], b1, b2))
    wish = apart * torch.linspace(-1, 1, CLIENTS, dtype=torch.float64)[:, None]
    shaken = noise * torch.from_numpy(
        np.random.default_rng(0xEE).standard_normal((STEPS, CLIENTS, 1))
    )
    lr = 10**power

    def exact(loss: Loss) -> Gradients:
        return lambda x, where, rest, batch: ((x - wish).square()[:, 0] / 2, x - wish + batch)

    recipe = Recipe(-(-STEPS // inner_steps), inner_steps, lambda step: lr, optimiser)
    problem = Problem(
        {"x": torch.full((CLIENTS, 1), START, dtype=torch.float64)},
        lambda params, batch: torch.zeros(()),
        lambda step: shaken[step],
    )
    steps = train(
        plan(problem, (Block("x", ("x",)),), topology("ring", CLIENTS), recipe), engine=exact
    )
    for _ in range(STEPS):
        next(steps)
    return Seen(*np.array(notes).T)


def _noted(fed: Feedback) -> tuple[optimisers.Optimiser, list[list[float]]]:
    """Return the library's Adam with this feedback, and the list in which it writes down a row of `Seen` each inner step."""
    inside, notes = optimisers.adam(DECAYS, fed), []

    def update(g: Tensor, state: Moments, x: Tensor, exchange: Mix) -> tuple[Tensor, Moments]:
        first = float(g[0])  # before Adam, which may use the gradient's memory
        direction, state = inside.update(g, state, x, exchange)
        m = float(state.m[0]) / (1 - DECAYS.a1**state.steps)
        v = float(state.v[0]) / (1 - DECAYS.a2**state.steps)
        notes.append([first, 0.0, m, v**0.5, float(direction[0])])
        return direction, state

    def feed(state: Moments, x: Tensor, x_new: Tensor, lr: float) -> Moments:
        if fed.signal is not None:
            notes[-1][1] = float(fed.scale(fed.signal(x, x_new), lr)[0])
        new: Moments = inside.feed(state, x, x_new, lr)
        return new

    return inside._replace(update=update, feed=feed), notes


def scene() -> Scene:
    """Return the picture: gradient and moment, the sizes of what is fed, and the steps with and without feedback."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figure = sheet(3.9)
        panels = figure.subplots(1, 3)
        figure.subplots_adjust(left=0.075, right=0.99, bottom=0.29, top=0.82, wspace=0.33)
        title, lines, starts = headline(panels[0]), _lines(panels), _starts(panels)
        for axes in panels:
            _legend_below(figure, axes)

    def update(**values: Any) -> str:  # noqa: ANN401 - the controls' values
        fed, plain = seen(**values), seen(**{**values, "feedback": "none"})
        sizes = (
            fed.g,
            fed.m,
            *(np.clip(np.abs(part), FLOOR, TOP) for part in (fed.g, fed.h, fed.root)),
        )
        for line, part in zip(lines, (*sizes, fed.direction, plain.direction), strict=True):
            line.set_ydata(part)
        at = np.arange(values["inner_steps"], STEPS, values["inner_steps"])
        for axis in starts:
            axis.set_segments([[(x - 0.5, 0), (x - 0.5, 1)] for x in at])
        words = (
            _without_feedback(len(at) + 1)
            if values["feedback"] == "none"
            else f"h ({values['feedback']}, {values['scale']}) has {_effect(fed, plain)}"
        )
        say(title, words)
        return (
            f"One parameter of client 0 over {STEPS} inner steps: gradient and corrected first moment, sizes of gradient, h "
            f"and the root of v, and the direction with and without feedback. {words}."
        )

    return Scene(figure, update)


def _legend_below(figure: "Figure", axes: "Axes") -> None:
    """Put the legend of one panel below it, from its left edge."""
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="lower left",
        bbox_to_anchor=(axes.get_position().x0 - 0.03, 0.0),
        ncols=1,
        handlelength=2.2,
        borderpad=0,
    )


def _without_feedback(visits: int) -> str:
    return f"No feedback: {visits} {'visit' if visits == 1 else 'visits'}, moments restart at each"


def _effect(fed: Seen, plain: Seen) -> str:
    """Return in words how large h is, and how much longer it makes the steps."""
    share = np.abs(fed.h).mean() / max(np.abs(fed.g).mean(), 1e-12)
    change = np.abs(fed.direction).sum() / max(np.abs(plain.direction).sum(), 1e-12) - 1
    longer = "longer" if change > 0 else "shorter"
    return f"{number(share, 2)} of the gradient's size; steps are {abs(change):.1%} {longer}"


def _lines(panels: "Sequence[Axes]") -> "list[Line2D]":
    """Return the lines of the three panels, in the order of the values that they get."""
    k = np.arange(STEPS)
    first, second, third = panels
    looks = (
        (first, "o", "none", GREY, "gradient g"),
        (first, "", "-", BLUE, "first moment m, corrected"),
        (second, "o", "none", GREY, "|g|"),
        (second, "D", "--", RED, "|h| as it is fed"),
        (second, "", "-", ORANGE, "root of v, corrected"),
        (third, "", "-", BLUE, "direction m / root of v"),
        (third, "", "--", INK, "the same, without feedback"),
    )
    lines = [
        axes.plot(
            k,
            np.ones(STEPS),
            marker=mark,
            ls=line,
            color=colour,
            ms=3.5,
            lw=1.6,
            label=words,
            animated=True,
        )[0]
        for axes, mark, line, colour, words in looks
    ]
    for axes, words in zip(
        panels, ("value", "size (logarithmic)", "step, in learning rates"), strict=True
    ):
        axes.set(xlim=(-0.7, STEPS - 0.3), xlabel="inner step")
        axes.set_title(words, size=9.5, weight="normal", pad=3)
        axes.grid(visible=True)
    first.set_ylim(-9, 9)
    second.set(yscale="log", ylim=(FLOOR, TOP))
    third.set_ylim(-4.2, 4.2)
    return lines


def _starts(panels: "Sequence[Axes]") -> "list[LineCollection]":
    """Return, for each panel, the dotted lines at which a visit begins and moments restart."""
    from matplotlib.collections import LineCollection

    look: dict[str, Any] = {"colors": GREY, "linestyles": ":", "lw": 1, "animated": True}
    starts = [LineCollection([], transform=axes.get_xaxis_transform(), **look) for axes in panels]
    for axes, lines in zip(panels, starts, strict=True):
        axes.add_collection(lines)
    return starts
