"""The clients' paths on a quadratic of two dimensions: what lr, b1, b2, the feedback and the clients' wishes do to them."""

from collections.abc import Callable
from functools import lru_cache
from math import log10
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deca_lab.algorithm.blocks import Block, whole
from deca_lab.algorithm.gradients import Batch
from deca_lab.algorithm.loop import begin, plan, train
from deca_lab.algorithm.moments import SCALES, SIGNALS
from deca_lab.algorithm.problems import Problem
from deca_lab.algorithm.stacking import Layout, Params, unflatten
from deca_lab.course.widgets.panel import Control, Scene, headline, say, sheet, show
from deca_lab.errors import check
from deca_lab.lab.prepare import recipe_of
from deca_lab.methods import resolve
from deca_lab.mixing.topology import topology
from deca_lab.pictures.style import COLOURS, GREY, INK, LINES, MARKERS, STYLE, number
from deca_lab.runconfig import RunConfig

if TYPE_CHECKING:
    from IPython.display import Image
    from ipywidgets import VBox
    from matplotlib.axes import Axes

CLIENTS, STEPS, EDGE = 4, 96, 2.4
START = (-1.8, 1.3)
HESSIAN = torch.tensor([[1.1, 0.6], [0.6, 0.7]], dtype=torch.float64)
# Their mean is zero.
WISHES = torch.tensor([[0.0, 1.0], [1.0, 0.2], [-1.4, 0.4], [0.4, -1.6]], dtype=torch.float64)
METHODS = (
    "deca",
    "deca-no-feedback",
    "deca-mixed",
    "d-adam",
    "d-sgd",
    "gradient-tracking",
    "local",
)
CONTROLS = {
    "method": Control("method", options=METHODS),
    "power": Control("log10 of lr", -3.0, 0.0, 0.1),
    "inner_steps": Control("inner steps a visit R", 1, 12, 1),
    "apart": Control("how far wishes differ", 0.0, 1.0, 0.05),
    "feedback": Control("feedback h", options=tuple(name for name in SIGNALS if name != "none")),
    "scale": Control("scale of h", options=tuple(SCALES)),
    "b1": Control("b1", 0.0, 1.0, 0.01),
    "b2": Control("b2", 0.0, 1.0, 0.001),
}


class Paths(NamedTuple):
    """Models (steps + 1, N, 2) along a run, and f of their mean model above its lowest value (steps + 1,)."""

    models: np.ndarray
    above: np.ndarray


def quadratic_paths(
    method: str = "deca",
    lr: float = 0.1,
    inner_steps: int = 4,
    apart: float = 0.7,
    b1: float = 0.99,
    b2: float = 0.999,
) -> "VBox | Image":
    """Return four clients' paths on a ring, with controls; elsewhere than in a live front end as an IPython image.

    f_i(x) = (x - w_i)' A (x - w_i) / 2, exact gradients; the wishes w_i have mean zero, and their spread grows with
    `apart`, 0 to 1. Each coordinate is a block where the method has blocks. `lr` is from 0.001 to 1. Raises BadInput.
    """
    check(isinstance(lr, int | float) and 0.001 <= lr <= 1, "lr", lr, "a number from 0.001 to 1")
    values = {
        "method": method,
        "power": log10(lr),
        "inner_steps": inner_steps,
        "apart": apart,
        "feedback": "printed",
        "scale": "raw",
        "b1": b1,
        "b2": b2,
    }
    return show(scene, CONTROLS, values)


@lru_cache(128)
def paths(
    method: str,
    power: float,
    inner_steps: int,
    apart: float,
    feedback: str,
    scale: str,
    b1: float,
    b2: float,
) -> Paths:
    """Return the paths of the library's `train`; steps after the last whole round are left out."""
    knobs: dict[str, Any] = {"b1": b1, "b2": b2, "inner_steps": inner_steps, "lr": 10**power}
    if method == "deca":  # the others fix these
        knobs |= {"feedback": feedback, "feedback_scale": scale}
    config = resolve(RunConfig(method=method, clients=CLIENTS, **knobs))
    one_each = (Block("x", ("x",)), Block("y", ("y",)))
    cut = whole(["x", "y"]) if config.blocks == "whole" else one_each
    rounds = max(STEPS // (inner_steps * len(cut)), 1)
    recipe = recipe_of(config)(len(cut))._replace(rounds=rounds)
    laid = plan(_bowls(apart), cut, topology(config.topology, CLIENTS), recipe)
    states = [begin(laid)] + [state for state, _ in train(laid)]
    models = np.stack([torch.cat(state.blocks, 1).numpy() for state in states])
    mean = models.mean(1)
    return Paths(models, np.einsum("ti,ij,tj->t", mean, HESSIAN.numpy(), mean) / 2)


def _bowls(apart: float) -> Problem:
    """Return the clients' quadratics, with their gradients in closed form."""
    one = (CLIENTS, 1)
    start = {"xy"[k]: torch.full(one, START[k], dtype=torch.float64) for k in range(2)}

    def exact(x: Tensor, where: Layout, rest: Params, batch: Batch) -> tuple[Tensor, Tensor]:
        at = {**rest, **unflatten(x, where)}
        off = torch.cat([at["x"], at["y"]], 1) - apart * WISHES
        slope = off @ HESSIAN
        return (off * slope).sum(1) / 2, slope[:, ["xy".index(name) for name in where.names]]

    return Problem(start, lambda params, batch: torch.zeros(()), lambda step: None, exact)


def scene() -> Scene:
    """Return the picture: contours with the paths on them, and the mean model's distance to the lowest value."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figure = sheet(3.9)
        plane, curve = figure.subplots(1, 2, width_ratios=(1.15, 1))
        figure.subplots_adjust(left=0.08, right=0.98, bottom=0.235, top=0.85, wspace=0.34)
        title, draw, follow = headline(plane), _plane(plane), _curve(curve)
        figure.legend(
            *plane.get_legend_handles_labels(),
            loc="lower left",
            bbox_to_anchor=(0.01, 0.0),
            ncols=4,
            handlelength=2,
        )

    def update(**values: Any) -> str:  # noqa: ANN401 - the controls' values
        shown = paths(**values)
        draw(shown.models, values["apart"])
        follow(shown.above)
        last = shown.models[-1]
        spread = float(np.sqrt(((last - last.mean(0)) ** 2).sum(1).mean()))
        words = (
            f"{values['method']}, lr {number(10 ** values['power'], 2)}: after {len(shown.above) - 1} steps the mean is "
            f"{number(float(np.linalg.norm(last.mean(0))), 2)} off, the clients {number(spread, 2)} apart"
        )
        say(title, words)
        return (
            f"Paths of {CLIENTS} clients on a ring over the contours of f, each drawn to a minimum of its own, and f of the "
            f"mean model above its lowest value, {number(float(shown.above[-1]), 2)} at the end. {words}."
        )

    return Scene(figure, update)


def _plane(axes: "Axes") -> Callable[[np.ndarray, float], None]:
    """Return what draws the paths over contours of f, which do not move: the wishes' mean is zero."""
    grid = np.linspace(-EDGE, EDGE, 81)
    x, y = np.meshgrid(grid, grid)
    A = HESSIAN.numpy()
    f = (A[0, 0] * x * x + 2 * A[0, 1] * x * y + A[1, 1] * y * y) / 2
    axes.contour(x, y, f, levels=[0.05, 0.2, 0.5, 1, 2, 4], colors="#C8C8C8", linewidths=0.8)
    axes.plot([0], [0], "+", color=INK, ms=11, mew=1.5, label="minimum of f")
    looks: list[dict[str, Any]] = [{"color": COLOURS[i], "animated": True} for i in range(CLIENTS)]
    wishes = [
        axes.plot([], [], MARKERS[i], ms=7, fillstyle="none", **look)[0]
        for i, look in enumerate(looks)
    ]
    lines = [
        axes.plot([], [], ls=LINES[i], lw=1.3, label=f"client {i}", **look)[0]
        for i, look in enumerate(looks)
    ]
    ends = [axes.plot([], [], MARKERS[i], ms=6, **look)[0] for i, look in enumerate(looks)]
    mean = axes.plot([], [], color=INK, lw=2.2, label="mean model", animated=True)[0]
    axes.plot([], [], "o", color=GREY, fillstyle="none", ms=7, label="hollow: a client's wish")
    axes.set(
        xlim=(-EDGE, EDGE),
        ylim=(-EDGE * 0.75, EDGE * 0.75),
        xlabel="x, the first block",
        ylabel="y, the second block",
    )

    def update(models: np.ndarray, apart: float) -> None:
        for i in range(CLIENTS):
            lines[i].set_data(*models[:, i].T)
            ends[i].set_data(*models[-1:, i].T)
            wishes[i].set_data(*(apart * WISHES[i : i + 1].numpy()).T)
        mean.set_data(*models.mean(1).T)

    return update


def _curve(axes: "Axes") -> Callable[[np.ndarray], None]:
    """Return what draws f of the mean model above its lowest value."""
    line = axes.plot([], [], color=INK, lw=1.8, animated=True)[0]
    axes.set(
        yscale="log",
        xlim=(0, STEPS),
        ylim=(1e-6, 10),
        xlabel="inner step",
        ylabel="f(mean model) above its lowest",
    )
    axes.grid(visible=True)

    def update(above: np.ndarray) -> None:
        line.set_data(np.arange(len(above)), np.clip(above, 1e-6, 10))

    return update
