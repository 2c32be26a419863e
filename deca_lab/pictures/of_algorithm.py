"""The picture of the algorithm: rounds over blocks over inner steps; each lesson lights its own part of it."""

from collections.abc import Collection
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from deca_lab.errors import check
from deca_lab.pictures.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, RED, blank, styled, tint


class Part(NamedTuple):
    """A box of the drawing: its words, its place (left, bottom, width, height), its colour, and whether it holds others."""

    words: str
    place: tuple[float, float, float, float]
    colour: str
    frame: bool = False


PARTS = {
    "round": Part("round  t = 1 … T:  all blocks in turn", (2, 2, 122, 68), GREY, True),
    "block": Part(
        "visit of block k:  it alone trains, all others keep still;  m = v = 0",
        (5, 5, 116, 56),
        PURPLE,
        True,
    ),
    "clients": Part(
        "inner step  r = 1 … R,  all N clients at once, a row of X each",
        (8, 8, 110, 44),
        BLUE,
        True,
    ),
    "text": Part("a batch of\none's own text", (11, 29, 23, 14), GREEN),
    "gradient": Part("gradient  g\nof block k", (38, 29, 22, 14), GREEN),
    "moments": Part("moments  m, v\ndirection  d", (64, 29, 24, 14), ORANGE),
    "adapt": Part("adapt\nx⁺ = x − γ d", (92, 29, 23, 14), RED),
    "mix": Part("mix with neighbours\nx_new = W x⁺", (83, 10.5, 32, 14), BLUE),
    "feedback": Part("feed back\nh = x_new − x", (53, 10.5, 26, 14), PURPLE),
}
ARROWS = (  # from, to
    ((34, 36), (38, 36)),
    ((60, 36), (64, 36)),
    ((88, 36), (92, 36)),
    ((103, 29), (103, 24.5)),
    ((83, 17.5), (79, 17.5)),
    ((70, 24.5), (70, 29)),
)


@styled
def draw_algorithm(lit: Collection[str] = ()) -> Figure:
    """Return the drawing of DECA's loops and of one inner step, the `lit` parts in colour; all of them when none is named.

    The parts are round, block, clients, text, gradient, moments, adapt, mix and feedback. Raises BadInput for another.
    """
    unknown = sorted(set(lit) - set(PARTS))
    check(not unknown, "lit", ", ".join(unknown), f"some of {', '.join(PARTS)}")
    figure = blank(4.1)
    axes = figure.subplots()
    axes.set(xlim=(0, 126), ylim=(0, 72))
    axes.axis("off")
    for name, part in PARTS.items():
        _box(axes, part, not lit or name in lit)
    for begin, end in ARROWS:
        look = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.4}
        axes.annotate("", end, begin, arrowprops=look)
    return figure


def alt_algorithm(lit: Collection[str] = ()) -> str:
    """Return the drawing in words."""
    words = (
        "DECA's loops: rounds over blocks over inner steps. In an inner step each client takes the gradient of a batch of "
        "its own text, puts it into its moments, adapts its model, mixes it with the neighbours', and feeds how far "
        "the model moved back into the moments."
    )
    return f"{words} This lesson's part is lit: {', '.join(lit)}." if lit else words


def _box(axes: Axes, part: Part, lit: bool) -> None:
    """Draw one part: a frame has its words at its upper edge, a step in its middle; what is not lit is grey."""
    left, bottom, width, height = part.place
    colour = part.colour if lit else GREY
    fill = "none" if part.frame and not lit else tint(colour, 0.12 if part.frame else 0.35)
    axes.add_patch(
        FancyBboxPatch(
            (left, bottom),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=1.5",
            facecolor=fill if lit else "white",
            edgecolor=colour if lit else tint(GREY, 0.6),
            linewidth=2.2 if lit else 1,
        )
    )
    x, y = (
        (left + 2, bottom + height - 4.5) if part.frame else (left + width / 2, bottom + height / 2)
    )
    axes.text(
        x,
        y,
        part.words,
        ha="left" if part.frame else "center",
        va="center",
        size=10.5,
        weight="bold" if lit else "normal",
        color=INK if lit else GREY,
        linespacing=1.5,
    )
