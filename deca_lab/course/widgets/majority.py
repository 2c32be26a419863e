"""The majority rule: what DECA descends on clients that want two things, and where its mean model goes from the solution."""

from collections.abc import Callable
from functools import lru_cache
from math import log10
from typing import TYPE_CHECKING, Any

import numpy as np

from deca_lab.algorithm.moments import SIGNALS, Adam, Feedback, raw
from deca_lab.bounds.median_limit import Bowls, fair, kappa, lopsided, mean_models, rest
from deca_lab.bounds.trace import Setting
from deca_lab.course.widgets.panel import Control, Scene, headline, say, sheet, show
from deca_lab.errors import check
from deca_lab.mixing.topology import topology
from deca_lab.pictures.style import BLUE, GREY, INK, ORANGE, STYLE, number

if TYPE_CHECKING:
    from IPython.display import Image
    from ipywidgets import VBox
    from matplotlib.axes import Axes

STEPS, LR, LEAST, LARGEST = 320, 0.02, -4.0, 2.0  # the last two of log10 eps
CONTROLS = {
    "clients": Control("clients N", 3, 20, 1),
    "power": Control("log10 of eps", LEAST, LARGEST, 0.1),
    "inner_steps": Control("inner steps a visit R", 1, 16, 1),
    "feedback": Control("feedback h, b1 = .9, b2 = .99", options=tuple(SIGNALS)),
}


def majority_rule(
    clients: int = 10, eps: float = 0.1, inner_steps: int = 4, feedback: str = "none"
) -> "VBox | Image":
    """Return what DECA descends beside the mean loss, and its run from the solution, with controls; elsewhere an image.

    Just more than half of the clients want 0, the others 1; losses are (x - wish)^2 / 2, the graph is complete, gradients
    are exact. `eps`, from 0.0001 to 100, is Adam's. Raises BadInput.
    """
    check(
        isinstance(eps, int | float) and 10**LEAST <= eps <= 10**LARGEST,
        "eps",
        eps,
        "a number from 0.0001 to 100",
    )
    values = {
        "clients": clients,
        "power": log10(eps),
        "inner_steps": inner_steps,
        "feedback": feedback,
    }
    return show(scene, CONTROLS, values)


@lru_cache(128)
def went(
    clients: int, power: float, inner_steps: int, feedback: str
) -> tuple[Bowls, float, np.ndarray]:
    """Return the clients, where the field of DECA's directions is zero, and the library's mean model at each visit."""
    made = lopsided(clients)
    made = Bowls(made.a, made.c / made.c.max(), made.start / made.c.max())
    signal = SIGNALS[feedback]
    setting = Setting(
        topology("complete", clients),
        1,
        STEPS // inner_steps,
        inner_steps,
        LR,
        Adam(eps=10**power),
        Feedback(signal, raw, 0.9, 0.99) if signal else Feedback(None, raw, 1.0, 1.0),
    )
    return made, float(rest(made, fair(setting))[0]), mean_models(made, setting)[:, 0]


def descended(made: Bowls, eps: float, x: np.ndarray) -> np.ndarray:
    """Return (1 + eps) times the mean of |x - c| - eps log(1 + |x - c| / eps): |x - c| for eps = 0, f for a large one."""
    away = np.abs(x - made.c)  # (N, points)
    ratio = away / eps
    fair_loss = np.where(ratio < 1e-4, away * ratio / 2, away - eps * np.log1p(ratio))
    mean: np.ndarray = (1 + eps) * fair_loss.mean(0)
    return mean


def scene() -> Scene:
    """Return the picture: the two functions with their minima, and the mean model over inner steps."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figure = sheet(3.9)
        bowl, way = figure.subplots(1, 2)
        figure.subplots_adjust(left=0.08, right=0.98, bottom=0.25, top=0.85, wspace=0.3)
        title, draw, follow = headline(bowl), _bowl(bowl), _way(way)
        figure.legend(
            *bowl.get_legend_handles_labels(),
            loc="lower left",
            bbox_to_anchor=(0.01, 0.0),
            ncols=3,
            handlelength=2,
        )

    def update(clients: int, power: float, inner_steps: int, feedback: str) -> str:
        made, ends, path = went(clients, power, inner_steps, feedback)
        solution = float(made.solution()[0])
        draw(made, 10**power, ends)
        follow(inner_steps, path, solution, ends)
        floor = (ends - solution) ** 2 / float(made.c.var())
        say(
            title,
            f"N = {clients}, eps = {number(10**power, 2)}: at rest the squared gradient is {floor:.0%} of zeta squared; "
            f"never more than {kappa(clients):.0%}",
        )
        return (
            f"Left: the mean loss, least at {number(solution, 2)}, and what DECA descends without feedback, above their "
            f"lowest values. Right: the mean model of {clients} clients, from the solution to {number(float(path[-1]), 2)} "
            f"in {STEPS} inner steps; it is at rest at {number(ends, 2)}. At rest the squared gradient is {floor:.1%} of "
            f"zeta squared; as eps goes to 0 it is {kappa(clients):.1%}."
        )

    return Scene(figure, update)


def _bowl(axes: "Axes") -> Callable[[Bowls, float, float], None]:
    """Return what draws both functions, and marks where each is least."""
    x = np.linspace(-0.5, 1.5, 201)
    looks: tuple[tuple[str, Any], ...] = (
        ("mean loss f", {"color": INK, "ls": "--", "lw": 1.6}),
        ("what DECA descends", {"color": BLUE, "lw": 2.0}),
    )
    lines = [axes.plot(x, x, label=name, animated=True, **look)[0] for name, look in looks]
    least = axes.plot([], [], "+", color=INK, ms=11, mew=1.5, label="solution", animated=True)[0]
    goal = axes.plot([], [], "o", color=ORANGE, ms=7, label="rest of DECA", animated=True)[0]
    axes.axvline(0, color=GREY, ls=":", lw=1, label="wish of the majority")
    axes.set(xlim=(-0.5, 1.5), ylim=(-0.04, 0.8), xlabel="x", ylabel="above its lowest value")
    axes.grid(visible=True)

    def update(made: Bowls, eps: float, ends: float) -> None:
        solution = float(made.solution()[0])
        lines[0].set_ydata((x - solution) ** 2 / 2)
        ours = descended(made, eps, x)
        lines[1].set_ydata(ours - ours.min())
        least.set_data([solution], [0])
        goal.set_data([ends], [0])

    return update


def _way(axes: "Axes") -> Callable[[int, np.ndarray, float, float], None]:
    """Return what draws the mean model over inner steps, between the solution and where it is at rest."""
    path = axes.plot([], [], color=BLUE, lw=2.0, animated=True)[0]
    solution = axes.plot([0, STEPS], [0, 0], color=INK, ls="--", lw=1.4, animated=True)[0]
    ends = axes.plot([0, STEPS], [0, 0], color=ORANGE, ls="-.", lw=1.4, animated=True)[0]
    axes.set(xlim=(0, STEPS), ylim=(-0.1, 0.6), xlabel="inner step", ylabel="mean model")
    axes.grid(visible=True)

    def update(each: int, at: np.ndarray, best: float, goal: float) -> None:
        path.set_data(each * np.arange(len(at)), at)
        solution.set_ydata([best, best])
        ends.set_ydata([goal, goal])

    return update
