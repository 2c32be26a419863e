"""The house style of the pictures, their words for numbers, and their bytes.

Colours are Okabe and Ito's; line styles, markers, hatches and printed numbers say the same once more, in grey.
"""

import math
from collections.abc import Callable, Iterable
from functools import lru_cache, wraps
from io import BytesIO
from textwrap import fill
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from deca_lab.errors import BadInput

P = ParamSpec("P")
T = TypeVar("T")

BLUE, ORANGE, GREEN, RED, PURPLE, SKY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
)
COLOURS = (
    BLUE,
    ORANGE,
    GREEN,
    RED,
    PURPLE,
    SKY,
    "#A89F00",
)  # the last: Okabe-Ito's yellow, darker, for white paper
LINES, MARKERS = ("-", "--", "-.", ":"), "osD^vPX"  # 4 and 7: no two of 28 blocks look alike
GREY, INK = "#767676", "#222222"
WIDTH, DPI = 8.4, 120  # inches, dots an inch
LINE = 84  # letters of a title's line
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "figure.titlesize": 11,
    "figure.titleweight": "bold",
    "axes.labelsize": 10,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.edgecolor": GREY,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "text.usetex": False,
    "hatch.linewidth": 0.8,
}


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Let a function draw in the house style, even if the reader has set another."""

    @wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapped


def png(figure: Figure, dots: int = DPI) -> bytes:
    """Return the figure as PNG with so many dots an inch, the same bytes for the same figure."""
    out = BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(out, format="png", dpi=dots, metadata={"Software": None})
    return out.getvalue()


# ---- words for people


def number(value: float, digits: int = 3) -> str:
    """Write a number with so many significant digits: 0.0123, 12.3, 12,345, 1.23 × 10⁻⁷."""
    if not math.isfinite(value):
        return (
            "not a number" if math.isnan(value) else "infinite" if value > 0 else "minus infinity"
        )
    if value != 0 and not 1e-4 <= abs(value) < 1e7:
        mantissa, power = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa} × 10{str(int(power)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
    return (
        f"{value:,.0f}"
        if float(f"{abs(value):.{digits}g}") >= 10**digits
        else f"{value:.{digits}g}"
    )


def nats(loss: float) -> str:
    """Write a loss: three decimals, so that small differences show."""
    return f"{loss:.3f}" if abs(loss) < 1000 else number(loss)


def unit_of(most: float) -> tuple[float, str]:
    """Return the bytes of the unit in which `most` reads best, and its name; MB = 10^6 bytes."""
    return next(
        (
            (size, name)
            for size, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
            if most >= size
        ),
        (1.0, "bytes"),
    )


def size(count: float) -> str:
    """Write bytes in kB, MB, GB of 10^3, 10^6, 10^9 bytes."""
    if not math.isfinite(count):
        return number(count)
    unit, name = unit_of(abs(count))
    return f"{number(count / unit)} {name}"


def clean(text: object, width: int = 200) -> str:
    """Return text that matplotlib draws as it stands: no formula, no glyph that its font lacks, at most `width` long."""
    flat = " ".join(str(text).split())
    short = flat if len(flat) <= width else f"{flat[: width - 1]}…"
    known = _glyphs()
    return "".join(c if ord(c) in known else "□" for c in short).replace("$", r"\$")


@lru_cache(1)
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


# ---- pieces that several pictures share


def blank(height: float) -> Figure:
    """Return an empty figure of the house's width, so many inches high, that no other module knows of."""
    return Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")


def title(figure: Figure, text: str) -> None:
    """Write the sentence that the picture shows above it, from the left edge, in lines of about equal length."""
    cleaned = clean(text)
    lines = math.ceil(len(cleaned) / LINE)
    even = fill(cleaned, max(math.ceil(len(cleaned) / lines) + 8, 30)) if lines > 1 else cleaned
    figure.suptitle(even, x=0.012, ha="left")


def legend(figure: Figure, panels: Iterable[Axes], columns: int) -> None:
    """Put one legend for all panels under the picture, so that it covers no data."""
    rows = [row for axes in panels for row in zip(*axes.get_legend_handles_labels(), strict=True)]
    handles = [handle for handle, _ in rows]
    labels = [words for _, words in rows]
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def tint(colour: str, share: float = 0.45) -> tuple[float, float, float]:
    """Return the colour mixed with white."""
    red, green, blue = (1 - share * (1 - part) for part in to_rgb(colour))
    return red, green, blue


def require_there(name: str, lacking: str) -> None:
    """Raise BadInput where a picture's run lacks something; `lacking` says what in words."""
    if lacking:
        raise BadInput(
            f"picture {name!r} cannot be drawn: this run does not have {lacking}, as a run on text has"
        )


def plain_ticks(axis: Axis) -> None:
    """Write plain numbers at a logarithmic axis that spans few decades: 0.002, 0.005, 0.01, and not 2 x 10^-3."""
    low, high = axis.get_view_interval()
    if high < 1000 * low:
        steps = (1, 2, 5) if high < 100 * low else (1,)
        axis.set_major_locator(LogLocator(subs=steps))
        axis.set_major_formatter(FuncFormatter(lambda value, place: number(value)))
        axis.set_minor_formatter(NullFormatter())


def note(axes: Axes, text: str) -> None:
    """Write a sentence in the middle of axes that have nothing to show."""
    axes.text(
        0.5,
        0.5,
        fill(text, 40),
        transform=axes.transAxes,
        ha="center",
        va="center",
        color=GREY,
        size=11,
    )


def finite(column: pd.Series) -> np.ndarray:
    """Return floats with NaN, which draws as a gap, where a value is not finite."""
    values = column.to_numpy(dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)
