"""The strip of live blocks under a picture over inner steps, and the mark where a run stopped being finite."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deca_lab.pictures.style import COLOURS, INK, blank, clean, tint


def names_of(visits: pd.DataFrame) -> list[str]:
    """Return the blocks in the order of their first visits."""
    return list(dict.fromkeys(map(str, visits["block"])))


def spans(visits: pd.DataFrame) -> list[tuple[float, float]]:
    """Return (start, width) in inner steps; a visit that ends with step s reaches to s + 1."""
    return [
        (float(a), float(b - a + 1)) for a, b in zip(visits["first"], visits["last"], strict=True)
    ]


def with_strip(
    visits: pd.DataFrame, height: float, shares: Sequence[float] = (1,)
) -> tuple[Figure, list[Axes], list[str]]:
    """Return figure, panels above one another in these shares of the height, and block names; the strip is drawn below."""
    figure, names = blank(height), names_of(visits)
    *panels, low = figure.subplots(
        len(shares) + 1, 1, sharex=True, height_ratios=(*shares, sum(shares) / 15)
    )
    _draw_strip(low, visits, names)
    end = float(visits["last"].max()) + 1
    for axes in panels:
        axes.grid(visible=True)
        axes.tick_params(labelbottom=False)
        axes.set_xlim(-0.01 * end, 1.01 * end)
    return figure, panels, names


def _draw_strip(axes: Axes, visits: pd.DataFrame, names: Sequence[str]) -> None:
    """Draw which block is live when, with its name, or the name's short form, where that fits."""
    when, order = spans(visits), [names.index(str(b)) for b in visits["block"]]
    edge = 0.8 if len(when) <= 120 else 0.0
    axes.broken_barh(
        when, (0, 1), facecolors=[tint(COLOURS[k % 7]) for k in order], edgecolors="white", lw=edge
    )
    room = 6.6 * 72 / max(a + w for a, w in when) / 5.2  # letters that fit in one inner step
    for (a, w), k in zip(when, order, strict=True):
        label = next(
            (s for s in (clean(names[k], 24), _short(names[k])) if len(s) + 1 <= w * room), ""
        )
        axes.text(a + w / 2, 0.45, label, ha="center", va="center", size=8)
    axes.set(ylim=(0, 1), yticks=[], xlabel="inner step")
    axes.set_ylabel("live block", rotation=0, ha="right", va="center", size=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines["left"].set_visible(False)


def _short(name: str) -> str:
    """Return "3" for "layer 3", "2-3" for "layers 2-3", else the first letters."""
    last = name.split()[-1] if name.split() else ""
    return clean(
        last if last[:1].isdigit() else "".join(word[0] for word in name.split() if word != "+")[:3]
    )


def broken(metrics: pd.DataFrame) -> int | None:
    """Return the step of the first measurement whose test loss is not finite."""
    bad = ~np.isfinite(metrics["test_loss"].to_numpy(dtype=np.float64))
    return int(metrics["step"].to_numpy()[bad.argmax()]) if bad.any() else None


def mark_break(axes: Axes, metrics: pd.DataFrame) -> None:
    """Mark the step at which the run stopped being finite, if it did."""
    step = broken(metrics)
    if step is None:
        return
    side, words = (
        ("right", "no longer finite ") if step > 0 else ("left", " not finite from the start")
    )
    axes.axvline(step, color=INK, lw=1.2, ls=":")
    axes.annotate(words, (step, 0.96), xycoords=axes.get_xaxis_transform(), ha=side, va="top")
