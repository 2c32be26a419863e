"""The block scheduler: how a model is cut, which block trains when, and what that costs in memory and in bytes sent."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from deca_lab.algorithm.blocks import ORDERS, Block, by_layers, of_equal_size, whole
from deca_lab.algorithm.loop import Plan, Recipe, plan
from deca_lab.algorithm.moments import Adam, Feedback, raw
from deca_lab.algorithm.optimisers import adam
from deca_lab.algorithm.problems import Problem
from deca_lab.course.widgets.panel import Control, Scene, headline, require, say, sheet, show
from deca_lab.lab import ledger
from deca_lab.mixing.topology import topology
from deca_lab.pictures.style import BLUE, COLOURS, GREY, INK, ORANGE, SKY, STYLE, number, size

if TYPE_CHECKING:
    from IPython.display import Image
    from ipywidgets import VBox
    from matplotlib.axes import Axes
    from matplotlib.text import Text

MODELS, DTYPES = ("tiny", "small", "medium"), {"float32": torch.float32, "bfloat16": torch.bfloat16}
CUTS = ("layers", "equal", "whole")
MOST, LANES = 8, 12  # fineness, lanes of the time line
CONTROLS = {
    "model": Control("model", options=MODELS),
    "cut": Control("blocks", options=CUTS),
    "fineness": Control("layers a block, or blocks", 1, MOST, 1),
    "order": Control("order", options=tuple(ORDERS)),
    "rounds": Control("rounds T", 1, 4, 1),
    "inner_steps": Control("inner steps a visit R", 1, 8, 1),
    "clients": Control("clients N on a ring", 2, 16, 1),
    "dtype": Control("weights in", options=tuple(DTYPES)),
}


class Costs(NamedTuple):
    """A plan, and its bytes of all clients beside those of training all parameters at once for as many steps."""

    plan: Plan
    memory: ledger.Memory
    sent: int
    sent_full: int


def block_scheduler(
    model: str = "small",
    blocks: str = "layers",
    fineness: int = 1,
    rounds: int = 2,
    inner_steps: int = 4,
    clients: int = 8,
) -> "VBox | Image":
    """Return the schedule of a run of DECA with its ledgers; elsewhere than in a live front end as an IPython image.

    `blocks`: "layers" with `fineness` layers a block, "equal" with so many blocks, or "whole". Raises BadInput.
    """
    values = {
        "model": model,
        "cut": blocks,
        "fineness": fineness,
        "order": "sequence",
        "rounds": rounds,
        "inner_steps": inner_steps,
        "clients": clients,
        "dtype": "float32",
    }
    require(CONTROLS, values)
    cut_of(model, blocks, fineness)  # so that a cut that this model does not allow is refused here
    return show(scene, CONTROLS, values)


@lru_cache
def _anatomy(model: str) -> tuple[Mapping[str, int | str], Mapping[str, tuple[int, ...]]]:
    from deca_lab.models import causal_lm

    net = causal_lm.load(model)
    return causal_lm.anatomy(net), {
        name: tuple(p.shape) for name, p in causal_lm.trainable(net).items()
    }


def cut_of(model: str, cut: str, fineness: int) -> tuple[Block, ...]:
    """Return the blocks of a preset model."""
    anatomy, shapes = _anatomy(model)
    if cut == "layers":
        return by_layers(anatomy, fineness)
    sizes = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    return of_equal_size(sizes, fineness) if cut == "equal" else whole(list(shapes))


@lru_cache(128)
def costs(
    model: str,
    cut: str,
    fineness: int,
    order: str,
    rounds: int,
    inner_steps: int,
    clients: int,
    dtype: str,
) -> Costs:
    """Return the library's plan and ledgers, without weights: the tensors have shapes only."""
    shapes, ring = _anatomy(model)[1], topology("ring", clients)
    start = {
        name: torch.empty(clients, *shape, dtype=DTYPES[dtype], device="meta")
        for name, shape in shapes.items()
    }
    problem = Problem(start, lambda params, batch: torch.zeros(()), lambda step: None)
    plain = adam(Adam(), Feedback(None, raw, 1.0, 1.0))

    def laid(blocks: tuple[Block, ...], visits: int) -> Plan:
        return plan(
            problem,
            blocks,
            ring,
            Recipe(visits, inner_steps, lambda s: 1e-3, plain, order=ORDERS[order]),
        )

    mine = laid(cut_of(model, cut, fineness), rounds)
    full = laid(whole(list(shapes)), len(mine.visits))
    return Costs(
        mine, ledger.memory(mine), int(ledger.traffic(mine).sum()), int(ledger.traffic(full).sum())
    )


def scene() -> Scene:
    """Return the picture: a lane a block over the inner steps, and two bars beside full-parameter training."""
    import matplotlib as mpl

    for name in MODELS:
        _anatomy(name)  # drawn once, here: a slider cannot wait for it
    with mpl.rc_context(STYLE):
        figure = sheet(3.9)
        lanes, bars = figure.subplots(1, 2, width_ratios=(1.25, 1))
        figure.subplots_adjust(left=0.185, right=0.985, bottom=0.135, top=0.85, wspace=0.2)
        title, draw, fill = headline(lanes), _lanes(lanes), _bars(bars)

    def update(**values: Any) -> str:  # noqa: ANN401 - the controls' values
        cost = costs(**values)
        draw(cost.plan)
        fill(cost)
        many, steps = len(cost.plan.blocks), cost.plan.steps
        memory, sent = cost.memory.peak / cost.memory.full, cost.sent / cost.sent_full
        count = f"{many} {'block' if many == 1 else 'blocks'}"
        words = f"{count}: {memory:.0%} of the memory and {sent:.0%} of the bytes of training all at once"
        say(title, words)
        return (
            f"Time line of {count} over {steps} inner steps, and bars of memory and traffic. {words}. The weights take "
            f"{size(cost.memory.weights)}, the peak is {size(cost.memory.peak)} of {size(cost.memory.full)}; "
            f"{size(cost.sent)} are sent instead of {size(cost.sent_full)}."
        )

    return Scene(figure, update)


def _counted(parameters: int) -> str:
    """Write a number of parameters, in millions where it has some."""
    return f"{number(parameters / 1e6, 2)} M" if parameters >= 1e4 else f"{parameters:,}"


def _lanes(axes: "Axes") -> Callable[[Plan], None]:
    """Return what draws a bar for each visit in its block's lane; the step axis always ends with the run."""
    from matplotlib.collections import PolyCollection

    bars = PolyCollection([], lw=0.8, edgecolors="white", animated=True)
    idle = PolyCollection([], lw=0, facecolors="#E4E4E4", zorder=0.5, animated=True)
    axes.add_collection(bars)
    axes.add_collection(idle)
    beside: dict[str, Any] = {
        "transform": axes.get_yaxis_transform(),
        "animated": True,
        "color": INK,
    }
    names = [
        axes.text(-0.015, 0, "", ha="right", va="center", size=8.5, **beside) for _ in range(LANES)
    ]
    below: dict[str, Any] = {"transform": axes.transAxes, "animated": True}
    end = axes.text(1, -0.035, "", ha="right", va="top", size=9, **below)
    axes.set(xlim=(0, 1), ylim=(LANES - 0.5, -0.5), yticks=[], xticks=[])
    axes.set_xlabel("inner step: 0 at the left")

    def update(plan: Plan) -> None:
        tall = LANES / len(plan.blocks)
        spots = [(k + 0.5) * tall - 0.5 for k in range(len(plan.blocks))]
        half = min(0.42, 0.42 * tall)
        ends = [(v.first / plan.steps, (v.last + 1) / plan.steps, v.block) for v in plan.visits]
        bars.set_verts([_box(a, b, spots[k], half) for a, b, k in ends])
        bars.set_facecolor([COLOURS[v.block % len(COLOURS)] for v in plan.visits])
        idle.set_verts([_box(0, 1, y, half) for y in spots])
        _named(names, plan, spots)
        end.set_text(f"{plan.steps}")

    return update


def _box(a: float, b: float, y: float, half: float) -> list[tuple[float, float]]:
    """Return the corners of a bar from a to b in the lane at y."""
    return [(a, y - half), (b, y - half), (b, y + half), (a, y + half)]


def _named(names: list["Text"], plan: Plan, spots: list[float]) -> None:
    """Write each block's name and size beside its lane, and nothing beside the others."""
    for k, text in enumerate(names):
        there = k < len(spots)
        words = f"{plan.blocks[k].name[:14]}  {_counted(plan.layouts[k].width)}" if there else ""
        text.set_text(words)
        text.set_y(spots[k] if there else 0)


def _bars(axes: "Axes") -> Callable[[Costs], None]:
    """Return what fills the bars of memory and of traffic, as shares of training all parameters at once."""
    axes.barh([1, 0], [1, 1], 0.5, color="white", edgecolor=GREY, lw=1)
    weights = axes.barh([1], [0], 0.5, color=SKY, edgecolor="white", animated=True)[0]
    state = axes.barh([1], [0], 0.5, color=ORANGE, hatch="///", edgecolor="white", animated=True)[0]
    bytes_sent = axes.barh([0], [0], 0.5, color=BLUE, edgecolor="white", animated=True)[0]
    for part in (weights, state, bytes_sent):
        part.set_animated(True)
    texts = [axes.text(0, y, "", size=9, va="top", animated=True) for y in (0.7, -0.3)]
    axes.text(
        0,
        1.33,
        "memory at the peak (no activations):\nweights, hatched the active block's state",
        size=9,
        va="bottom",
    )
    axes.text(0, 0.33, "bytes sent in the run", size=9, va="bottom")
    axes.set(xlim=(0, 1.02), ylim=(-0.75, 2.05), yticks=[], xlabel="share of training all at once")

    def update(cost: Costs) -> None:
        full = cost.memory.full
        weights.set_width(cost.memory.weights / full)
        state.set_x(cost.memory.weights / full)
        state.set_width((cost.memory.peak - cost.memory.weights) / full)
        bytes_sent.set_width(cost.sent / cost.sent_full)
        texts[0].set_text(f"{size(cost.memory.peak)} of {size(full)}, all clients")
        texts[1].set_text(f"{size(cost.sent)} of {size(cost.sent_full)}")

    return update
