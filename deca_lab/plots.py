"""The pictures of a run. Each function takes tables and returns a matplotlib Figure; nothing is shown, no state is left.

Colours are Okabe and Ito's; line styles, markers, hatches and printed numbers say the same once more, in grey.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, wraps
from io import BytesIO
from textwrap import fill
from typing import Any, NamedTuple, ParamSpec

import matplotlib as mpl
import networkx as nx
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import MaxNLocator

from deca_lab.doctor import Diagnosis, diagnose
from deca_lab.errors import check
from deca_lab.history import History

P = ParamSpec("P")

BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, "#A89F00")  # the last: Okabe-Ito's yellow, darker, for white paper
LINES, MARKERS = ("-", "--", "-.", ":"), "osD^vPX"             # 4 and 7: no two of 28 blocks look alike
GREY, INK = "#767676", "#222222"
WIDTH, DPI = 8.4, 120                                          # inches, dots an inch
NUMBERED, DRAWN, SPECTRAL = 12, 40, 1536                       # clients: W with numbers, a graph, singular values
BUBBLES, LABELS, BARS = 32, 24, 16                             # clients as bubbles, labels, clients as bars
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 10, "axes.titlesize": 11, "axes.titlelocation": "left",
    "axes.titleweight": "bold", "figure.titlesize": 11, "figure.titleweight": "bold", "axes.labelsize": 10,
    "legend.fontsize": 9, "legend.frameon": False, "xtick.labelsize": 9, "ytick.labelsize": 9,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6, "axes.edgecolor": GREY, "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK,
    "ytick.color": INK, "figure.facecolor": "white", "axes.facecolor": "white", "text.usetex": False,
    "hatch.linewidth": 0.8,
}  # fmt: skip


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Let a function draw in the house style, whatever style the reader has set."""

    @wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapped


def png(figure: Figure) -> bytes:
    """Return the figure as PNG, the same bytes for the same figure."""
    held = BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(held, format="png", dpi=DPI, metadata={"Software": None})
    return held.getvalue()


# ---- words for people


def number(value: float, digits: int = 3) -> str:
    """Write a number with so many significant digits: 0.0123, 12.3, 12,345, 1.23 × 10⁻⁷."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite" if value > 0 else "minus infinity"
    if value != 0 and not 1e-4 <= abs(value) < 1e7:
        mantissa, power = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa} × 10{str(int(power)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def nats(loss: float) -> str:
    """Write a loss: three decimals, so that small differences show."""
    return f"{loss:.3f}" if abs(loss) < 1000 else number(loss)


def unit_of(most: float) -> tuple[float, str]:
    """Return the bytes of the unit in which `most` reads best, and its name; MB = 10^6 bytes."""
    return next(((size, name) for size, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if most >= size),
                (1.0, "bytes"))  # fmt: skip


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


def _figure(height: float) -> Figure:
    return Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")


def _title(where: Axes | Figure, text: str) -> None:
    said = fill(clean(text), 88)
    if isinstance(where, Figure):
        where.suptitle(said, x=0.012, ha="left")
    else:
        where.set_title(said)


def _legend(figure: Figure, axes: Axes, columns: int) -> None:
    """Put the legend under the picture, so that it covers no data."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _tint(colour: str, share: float = 0.45) -> tuple[float, ...]:
    """Return the colour mixed with white."""
    return tuple(1 - share * (1 - part) for part in to_rgb(colour))


def _note(axes: Axes, text: str) -> None:
    """Write a sentence in the middle of axes that have nothing to show."""
    axes.text(0.5, 0.5, fill(text, 40), transform=axes.transAxes, ha="center", va="center", color=GREY, size=11)


def _finite(column: pd.Series) -> np.ndarray:
    """Return floats with NaN, which draws as a gap, where a value is not finite."""
    values = column.to_numpy(dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _names(visits: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(map(str, visits["block"])))


def _spans(visits: pd.DataFrame) -> list[tuple[float, float]]:
    """Return (start, width) in inner steps; a visit that ends with step s reaches to s + 1."""
    return [(float(a), float(b - a + 1)) for a, b in zip(visits["first"], visits["last"], strict=True)]


def _strip(axes: Axes, visits: pd.DataFrame, names: Sequence[str]) -> None:
    """Draw which block is live when, with its name, or the name's short form, where that fits."""
    spans, order = _spans(visits), [names.index(str(b)) for b in visits["block"]]
    edge = 0.8 if len(spans) <= 120 else 0.0
    axes.broken_barh(spans, (0, 1), facecolors=[_tint(COLOURS[k % 7]) for k in order], edgecolors="white", lw=edge)
    room = 6.6 * 72 / max(a + w for a, w in spans) / 5.2  # letters that fit in one inner step
    for (a, w), k in zip(spans, order, strict=True):
        said = next((s for s in (clean(names[k], 24), _short(names[k])) if len(s) + 1 <= w * room), "")
        axes.text(a + w / 2, 0.45, said, ha="center", va="center", size=8)
    axes.set(ylim=(0, 1), yticks=[], xlabel="inner step")
    axes.set_ylabel("live block", rotation=0, ha="right", va="center", size=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines["left"].set_visible(False)


def _short(name: str) -> str:
    """Return "3" for "layer 3", "2-3" for "layers 2-3", else the first letters."""
    last = name.split()[-1] if name.split() else ""
    return clean(last if last[:1].isdigit() else "".join(word[0] for word in name.split() if word != "+")[:3])


def _with_strip(visits: pd.DataFrame, height: float = 4.8) -> tuple[Figure, Axes, list[str]]:
    """Return figure, main axes and block names; the strip of live blocks is already drawn under the main axes."""
    figure, names = _figure(height), _names(visits)
    main, strip = figure.subplots(2, 1, sharex=True, height_ratios=(15, 1))
    _strip(strip, visits, names)
    main.grid(visible=True)
    main.tick_params(labelbottom=False)
    end = float(visits["last"].max()) + 1
    main.set_xlim(-0.01 * end, 1.01 * end)
    return figure, main, names


# ---- losses


@styled
def draw_losses(metrics: pd.DataFrame, train: pd.DataFrame, visits: pd.DataFrame, floor: float | None = None) -> Figure:
    """Test loss of the mean model and of the clients' own, training loss, live blocks; `floor`: exact entropy rate."""
    figure, axes, _ = _with_strip(visits)
    steps, raw = metrics["step"], pd.Series(_finite(train["loss"]))
    smooth = raw.rolling(int(np.clip(len(raw) // 20, 1, 25)), center=True, min_periods=1).mean()
    low, high = _finite(metrics["client_test_loss_min"]), _finite(metrics["client_test_loss_max"])
    axes.plot(train["step"], raw, color=GREY, lw=0.7, alpha=0.45)
    axes.plot(train["step"], smooth, color=GREY, lw=1.5, ls="-.", label="training batches, mean of the clients, smoothed")
    axes.fill_between(steps, low, high, color=ORANGE, alpha=0.3, lw=0, label="clients' own models, least to most")
    axes.plot(steps, _finite(metrics["client_test_loss"]), color=RED, lw=1.6, ls="--", marker="s", ms=4,
              label="clients' own models, mean")  # fmt: skip
    axes.plot(steps, _finite(metrics["test_loss"]), color=BLUE, lw=2, marker="o", ms=4.5, label="mean model on the test text")
    if floor is not None:
        axes.axhline(floor, color=INK, lw=1.3, ls=(0, (6, 3)), label=f"exact entropy rate, {nats(floor)}: no model can be lower")
    axes.set_ylabel("loss (nats per token)")
    _fit_losses(axes)
    _mark_break(axes, metrics)
    _title(axes, said_losses(metrics))
    _legend(figure, axes, 2)
    return figure


def said_losses(metrics: pd.DataFrame) -> str:
    """Return what the mean model's loss did, in one sentence."""
    losses, pps = metrics["test_loss"].tolist(), metrics["test_perplexity"].tolist()
    broken = _broken(metrics)
    if broken is not None:
        return f"The mean model's test loss stops being finite by inner step {broken}"
    way = "falls" if losses[-1] < losses[0] else "rises" if losses[-1] > losses[0] else "stays as it is,"
    return (f"The mean model's test loss {way} from {nats(losses[0])} to {nats(losses[-1])} nats per token "
            f"(perplexity {number(pps[0], 4)} to {number(pps[-1], 4)})")  # fmt: skip


def _broken(metrics: pd.DataFrame) -> int | None:
    """Return the step of the first measurement that is not finite."""
    bad = ~np.isfinite(metrics["test_loss"].to_numpy(dtype=np.float64))
    return int(metrics["step"].to_numpy()[bad.argmax()]) if bad.any() else None


def _mark_break(axes: Axes, metrics: pd.DataFrame) -> None:
    broken = _broken(metrics)
    if broken is not None:
        axes.axvline(broken, color=INK, lw=1.2, ls=":")
        axes.annotate("no longer finite ", (broken, 0.96), xycoords=axes.get_xaxis_transform(), ha="right", va="top")


def _fit_losses(axes: Axes) -> None:
    """Scale the left axis by decades where losses explode; else write the perplexities on the right."""
    low, high = axes.get_ylim()
    if high > 100 * max(abs(low), 1):
        axes.set_yscale("symlog", linthresh=10)
    elif high < 25:
        right = axes.twinx()
        ticks = _between(math.exp(low), math.exp(high))
        right.set_yticks(np.log(ticks), [number(t, 4) for t in ticks])
        right.set(ylim=(low, high), ylabel="perplexity")


def _between(low: float, high: float) -> list[float]:
    """Return round values from low to high: 1, 2, 5 a decade where there is more than one decade."""
    if high > 8 * low:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found: Iterable[float] = (m * 10.0**p for p in powers for m in (1, 2, 5))
    else:
        found = MaxNLocator(6).tick_values(low, high)
    return [float(v) for v in found if low <= v <= high and v > 0]


# ---- consensus


@styled
def draw_consensus(metrics: pd.DataFrame, visits: pd.DataFrame) -> Figure:
    """Consensus distance (1/N) sum_i ||x_i - xbar||^2 of each block and in all, on decades, live blocks shaded."""
    figure, axes, names = _with_strip(visits, 4.8 + 0.18 * max(0, len(_names(visits)) // 5 - 1))
    shades = [_tint(COLOURS[names.index(str(b)) % 7], 0.16) for b in visits["block"]]
    axes.broken_barh(_spans(visits), (0, 1), transform=axes.get_xaxis_transform(), facecolors=shades, lw=0, zorder=0)
    for k, name in enumerate(names):
        axes.plot(metrics["step"], _finite(metrics[f"consensus[{name}]"]), color=COLOURS[k % 7], ls=LINES[k % 4], lw=1.5,
                  marker=MARKERS[k % 7], ms=4.5, label=clean(name, 20) if k < 28 else None)  # fmt: skip
    axes.plot(metrics["step"], _finite(metrics["consensus"]), color=INK, lw=2.4, marker="o", ms=4, label="all blocks", zorder=5)
    axes.set_ylabel("consensus distance\n(squared parameter units)")
    _decades(axes, metrics["consensus"])
    _mark_break(axes, metrics)
    _title(axes, said_consensus(metrics))
    _legend(figure, axes, 6)
    return figure


def _decades(axes: Axes, total: pd.Series) -> None:
    """Scale by decades, from the least disagreement that is more than rounding; an axis of zeros stays linear."""
    values = _finite(total)
    seen = values[values > 0]
    if len(seen) == 0:
        axes.set_ylim(-0.05, 1)
        return _note(axes, "no disagreement: all models were equal at each measurement")
    drawn = np.concatenate([line.get_ydata() for line in axes.lines])
    bottom = drawn[drawn > 1e-8 * seen.max()].min()
    axes.set_yscale("log", nonpositive="mask")
    axes.set_ylim(bottom / 2, seen.max() * 3)


def said_consensus(metrics: pd.DataFrame) -> str:
    """Return how far the clients' models are apart at the end, in one sentence."""
    end, most = float(metrics["consensus"].iloc[-1]), float(metrics["consensus"].max())
    if not math.isfinite(end):
        return "The clients' models drift apart without bound"
    if most == 0:
        return "The clients' models never differ"
    where = "their largest distance" if end == most else f"after at most {number(most)}"
    return f"The clients' models end a consensus distance of {number(end)} apart, {where}"


# ---- heterogeneity


@styled
def draw_heterogeneity(shards: pd.DataFrame, said: str = "Which client holds which text") -> Figure:
    """Training rows, client x label: bubbles with counts, or an image where clients are many; `said` is the title."""
    counts = grouped(shards)
    n, k = counts.shape
    figure = _figure(min(1.9 + 0.34 * max(k, 3), 9.5))
    axes = figure.subplots()
    if n <= BUBBLES:
        _bubbles(axes, counts)
    else:
        image = axes.imshow(counts.to_numpy().T, aspect="auto", cmap="Blues", interpolation="nearest")
        figure.colorbar(image, ax=axes, label="training rows", fraction=0.04, pad=0.02)
    axes.set_yticks(range(k), [clean(name, 28) for name in counts.columns])
    axes.set(ylim=(k - 0.5, -0.5), xlim=(-0.5, n - 0.5), xlabel="client", ylabel="label")
    _title(axes, said)
    return figure


def grouped(shards: pd.DataFrame) -> pd.DataFrame:
    """Return the largest labels, and the sum of all the others where there are more than 24."""
    if shards.shape[1] <= LABELS:
        return shards
    largest = shards.sum().sort_values(ascending=False, kind="stable").index
    kept = shards[largest[: LABELS - 1]]
    return kept.assign(**{f"{shards.shape[1] - LABELS + 1} other labels": shards.sum(axis=1) - kept.sum(axis=1)})


def _bubbles(axes: Axes, counts: pd.DataFrame) -> None:
    """Areas in proportion to rows, the number printed on each; each client's rows above its column."""
    n = len(counts)
    i, j = np.nonzero(counts.to_numpy())
    rows = counts.to_numpy()[i, j]
    across = min(5.6 * 72 / n, 27) - 2  # points, the largest bubble's diameter
    axes.scatter(i, j, s=across**2 * rows / max(rows.max(initial=0), 1), color=_tint(SKY, 0.7), lw=0.6, edgecolors=BLUE)
    for x, y, count in zip(i, j, rows, strict=True):
        axes.text(x, y, f"{count:,}" if n <= 16 else str(count), ha="center", va="center", size=8 if n <= 16 else 6.5)
    axes.set_xticks(range(n))
    axes.grid(visible=True)
    top = axes.secondary_xaxis("top")
    top.set_xticks(range(n), [f"{total:,}" for total in counts.sum(axis=1)], size=8 if n <= 16 else 6)
    top.tick_params(length=0)
    top.set_xlabel("training rows of each client", size=9)
    top.spines["top"].set_visible(False)


def said_heterogeneity(history: History) -> str:
    """Return how non-IID the shards are, in one sentence."""
    if len(history.shards) == 1:
        return "One client holds all training text"
    words, share = history.summary["heterogeneity_words"], history.summary["heterogeneity"]["label_js_share"]
    return f"{words.split(':')[0].capitalize().replace('iid', 'IID')}: labels show {share:.0%} of the largest possible divergence"


# ---- topology


@styled
def draw_topology(W: np.ndarray | Sequence[np.ndarray], name: str = "") -> Figure:
    """The graph beside W (N, N); of W (P, N, N), used in turn, the first four. Above 40 clients only in summary.

    Line width follows w_ij; an arrow j -> i says that client i hears client j, where W is not symmetric.
    """
    stack = np.asarray(W, dtype=np.float64)
    stack = stack[None] if stack.ndim == 2 else stack
    check(stack.ndim == 3 and stack.shape[1] == stack.shape[2] > 0 and len(stack) > 0, "W", stack.shape, "(N, N) or (P, N, N)")
    shown = stack[:4]
    if stack.shape[1] > DRAWN:
        figure = _summary_figure(stack[0])
    elif len(shown) == 1:
        figure = _figure(4.4)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
        _draw_graph(left, shown[0])
        _draw_matrix(figure, right, shown[0])
    else:
        figure = _figure(5.2)
        for k, (over, under, M) in enumerate(zip(*figure.subplots(2, len(shown), squeeze=False), shown, strict=True)):
            _draw_graph(over, M)
            _draw_matrix(figure, under, M, bar=False)
            over.set_title(f"mixing {k}", loc="center", size=9, weight="normal")
    _title(figure, said_topology(diagnose(list(stack)), name))
    return figure


def _draw_graph(axes: Axes, W: np.ndarray) -> None:
    off = np.where(np.isfinite(W), W, 0) * (1 - np.eye(len(W)))
    directed = not np.allclose(off, off.T, rtol=0, atol=1e-12)
    pairs = [(int(j), int(i)) for i, j in np.argwhere(off) if directed or j < i]
    graph = nx.DiGraph() if directed else nx.Graph()
    graph.add_nodes_from(range(len(W)))
    graph.add_edges_from(pairs)
    turned = nx.rotate_layout(nx.circular_layout(graph), np.pi / 2) if hasattr(nx, "rotate_layout") else nx.circular_layout(graph)
    dot = float(np.clip(3600 / len(W), 110, 420)) * (1 if axes.get_subplotspec().get_gridspec().nrows == 1 else 0.45)
    weights = np.array([off[i, j] for j, i in graph.edges], dtype=np.float64)
    widths = 0.6 + 2.6 * np.abs(weights) / max(np.abs(weights).max(initial=0), 1e-300)
    style: dict[str, Any] = {"arrows": True, "arrowsize": 9, "node_size": dot, "connectionstyle": "arc3,rad=0.08"}
    if len(pairs):
        nx.draw_networkx_edges(graph, turned, ax=axes, width=widths.tolist(), edge_color=[RED if w < 0 else GREY for w in weights],
                               style=["dashed" if w < 0 else "solid" for w in weights],
                               **(style if directed and len(pairs) <= 300 else {"arrows": False}))  # fmt: skip
    nx.draw_networkx_nodes(graph, turned, ax=axes, node_size=dot, node_color=[_tint(SKY, 0.6)], edgecolors=BLUE, linewidths=1)
    nx.draw_networkx_labels(graph, turned, ax=axes, font_size=float(np.clip(dot**0.5 / 2, 5.5, 10)))
    axes.set(aspect="equal", xlim=(-1.25, 1.25), ylim=(-1.25, 1.25))
    axes.axis("off")


def _draw_matrix(figure: Figure, axes: Axes, W: np.ndarray, bar: bool = True) -> None:
    """W as an image, with its numbers where there is room."""
    n, values = len(W), W[np.isfinite(W)]
    low, high = min(values.min(initial=0), 0.0), max(values.max(initial=0), 1e-12)
    limit = max(-low, high)
    look = {"cmap": "Blues", "vmin": 0, "vmax": 1.3 * high} if low == 0 else {"cmap": "PuOr", "vmin": -limit, "vmax": limit}
    image = axes.imshow(W, interpolation="nearest", **look)
    ticks = range(n) if n <= NUMBERED else range(0, n, 5)
    axes.set(xticks=ticks, yticks=ticks, xlabel="heard client j", ylabel="client i")
    axes.tick_params(length=0, labelsize=9 if bar else 7)
    if n <= NUMBERED and bar:
        for i, j in np.argwhere(W != 0):
            axes.text(j, i, f"{W[i, j]:.2f}".replace("0.", ".", 1), ha="center", va="center", size=9 if n <= 9 else 7)
    elif bar:
        figure.colorbar(image, ax=axes, label="share w_ij", fraction=0.045, pad=0.03)
    axes.set_title("W: share that i takes of j's model" if bar else "", loc="center", size=9, weight="normal")


def _summary_figure(W: np.ndarray) -> Figure:
    """How many clients each one hears, and the singular values, of a W too large to draw."""
    figure = _figure(4.2)
    left, right = figure.subplots(1, 2)
    heard = np.count_nonzero(W, axis=1) - np.count_nonzero(np.diag(W))
    kinds, many = np.unique(heard, return_counts=True)
    left.bar(kinds, many, color=_tint(SKY, 0.7), edgecolor=BLUE)
    left.set(xlabel="clients that one client hears", ylabel="clients (count)", xlim=(kinds[0] - 1.5, kinds[-1] + 1.5))
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(W) <= SPECTRAL and np.isfinite(W).all():
        values = np.linalg.svd(W, compute_uv=False)
        right.plot(np.arange(1, len(values) + 1), values, color=BLUE, lw=1.8)
        right.axhline(0, color=GREY, lw=0.8)
    else:
        _note(right, f"singular values are not drawn for {len(W):,} clients")
    right.set(xlabel="number, largest first", ylabel="singular value of W (no unit)")
    for axes in (left, right):
        axes.grid(visible=True)
    return figure


def said_topology(found: Diagnosis, name: str = "") -> str:
    """Return how well this mixes, in one sentence."""
    who = f"{name}, {found.clients:,} clients" if name else f"{found.clients:,} clients"
    if found.clients == 1:
        return "One client: there is nobody to mix with"
    if found.edges == 0:
        return f"{who}: no edges, so no client ever hears another (rho = 1)"
    factor = f"1 - {number(1 - found.rho)}" if 0 < 1 - found.rho < 1e-3 else number(found.rho)
    often = f"takes {found.rounds_1000:,.0f} mixings to shrink disagreement 1000-fold" if found.rounds_1000 < math.inf else \
        "never shrinks disagreement 1000-fold"
    return f"{who}: rho = {factor}, so it {often}" + (f"; {found.period} matrices in turn" if found.period > 1 else "")


# ---- visits


@styled
def draw_visits(visits: pd.DataFrame, blocks: pd.DataFrame) -> Figure:
    """Which block was live when: a row a block of the table of blocks, what has no visits hatched in grey."""
    figure = _figure(min(1.8 + 0.36 * max(len(blocks), 3), 10))
    axes = figure.subplots()
    end = float(visits["last"].max()) + 1
    for k, (name, count) in enumerate(zip(blocks["block"].astype(str), blocks["visits"], strict=True)):
        mine = visits[visits["block"].astype(str) == name] if count else visits[:0]
        look: dict[str, Any] = {"facecolors": COLOURS[k % 7], "edgecolors": "white", "lw": 0.8 if len(visits) <= 120 else 0}
        frozen: dict[str, Any] = {"facecolors": "#EEEEEE", "edgecolors": "#B5B5B5", "hatch": "///", "lw": 0}
        axes.broken_barh(_spans(mine) if len(mine) else [(0, end)], (k - 0.38, 0.76), **(look if len(mine) else frozen))
        said = f"{count} {'visit' if count == 1 else 'visits'}" if len(mine) else "never trained"
        axes.text(1.01 * end, k, said, va="center", size=9, color=INK if len(mine) else GREY)
    starts = visits.groupby("round")["first"].min()
    if len(starts) <= 30:
        for start in starts:
            axes.axvline(start, color=GREY, lw=0.9, ls=":")
    _round_axis(axes, starts)
    labels = [f"{clean(b, 24)}  ({number(p)})" for b, p in zip(blocks["block"], blocks["parameters"], strict=True)]
    axes.set_yticks(range(len(blocks)), labels)
    axes.set(xlim=(0, end), ylim=(len(blocks) - 0.5, -0.5), xlabel="inner step", ylabel="block (parameters)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _title(axes, said_visits(visits, blocks))
    return figure


def _round_axis(axes: Axes, starts: pd.Series) -> None:
    """Write each round's number above its start, as far as there is room."""
    top = axes.secondary_xaxis("top")
    kept = starts.iloc[:: max(1, math.ceil(len(starts) / 10))]
    top.set_xticks(kept.to_list(), [f"round {r}" for r in kept.index], ha="left", size=8)
    top.tick_params(length=0)
    top.spines["top"].set_visible(False)


def said_visits(visits: pd.DataFrame, blocks: pd.DataFrame) -> str:
    """Return who trained and what stayed frozen, in one sentence."""
    live, rounds = int((blocks["visits"] > 0).sum()), visits["round"].nunique()
    still = int(blocks.loc[blocks["visits"] == 0, "parameters"].sum())
    share = still / max(int(blocks["parameters"].sum()), 1)
    cold = f"{share:.0%} of the parameters stay frozen" if still else "nothing stays frozen"
    if live == 1:
        return f"One block trains all the time; {cold}"
    return f"One of {live} blocks trains at a time, in {rounds} {'round' if rounds == 1 else 'rounds'}; {cold}"


# ---- ledger


@styled
def draw_ledger(edges: pd.DataFrame, memory: Mapping[str, float], clients: int) -> Figure:
    """Bytes that each client sent, and memory of all clients together: measured beside predicted."""
    figure = _figure(4.2)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.05))
    _draw_traffic(left, sent_by(edges, clients))
    _draw_memory(right, memory)
    _title(figure, said_ledger(edges, memory))
    return figure


def sent_by(edges: pd.DataFrame, clients: int) -> pd.DataFrame:
    """Return the bytes that each client sent: `measured`, `predicted`, a row a client."""
    return edges.groupby("sender")[["measured", "predicted"]].sum().reindex(range(clients), fill_value=0)


def _draw_traffic(axes: Axes, sent: pd.DataFrame) -> None:
    unit, name = unit_of(float(sent.to_numpy().max(initial=0)))
    at, measured, predicted = np.arange(len(sent)), sent["measured"] / unit, sent["predicted"] / unit
    if len(sent) <= BARS:
        axes.bar(at - 0.2, measured, 0.4, color=BLUE, label="measured")
        axes.bar(at + 0.2, predicted, 0.4, color="white", edgecolor=RED, hatch="////", label="predicted")
        axes.set_xticks(at)
    else:
        axes.plot(at, measured, color=BLUE, lw=2.5, label="measured")
        axes.plot(at, predicted, color=ORANGE, lw=1.5, ls="--", label="predicted")
    axes.set(xlabel="client", ylabel=f"sent in the whole run ({name})", ylim=(0, max(float(sent.to_numpy().max()) / unit, 1) * 1.05))
    axes.grid(visible=True, axis="y")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    if not sent.to_numpy().any():
        _note(axes, "nothing was sent")


MEMORY = {  # key of the ledger's table -> words, colour, hatch
    "weights": ("weights that train", SKY, ""),
    "measured_peak": ("measured peak", BLUE, ""),
    "peak": ("predicted peak", RED, "////"),
    "paper": ("paper's M + 10M/B", PURPLE, ".."),
    "full": ("Adam on all at once", GREY, "xx"),
}


def _draw_memory(axes: Axes, memory: Mapping[str, float]) -> None:
    unit, name = unit_of(max(memory.values()))
    for k, (key, (_, colour, hatch)) in enumerate(MEMORY.items()):
        value = memory[key] / unit
        axes.barh(k, value, 0.62, color=colour if not hatch else "white", edgecolor=colour, hatch=hatch)
        axes.annotate(f" {size(memory[key])}", (value, k), va="center", size=9)
    axes.set_yticks(range(len(MEMORY)), [words for words, _, _ in MEMORY.values()])
    axes.set(ylim=(len(MEMORY) - 0.5, -0.5), xlabel=f"memory of all clients, without activations ({name})")
    axes.set_xlim(0, max(max(memory.values()) / unit, 1e-9) * 1.3)
    axes.grid(visible=True, axis="x")


def said_ledger(edges: pd.DataFrame, memory: Mapping[str, float]) -> str:
    """Return whether what was measured is what was predicted, in one sentence."""
    sent, told = int(edges["measured"].sum()), int(edges["predicted"].sum())
    traffic = "Nothing was sent" if sent == told == 0 else f"{size(sent)} were sent, exactly as predicted" if sent == told else \
        f"{size(sent)} were sent, {size(told)} predicted"
    return f"{traffic}; memory peaks at {number(memory['measured_peak'] / max(memory['full'], 1))} of what Adam on all at once takes"


# ---- of a run


def losses(history: History) -> Figure:
    """Return the picture of the run's losses."""
    return draw_losses(history.metrics, history.train, history.visits, history.summary["entropy_floor"])


def consensus(history: History) -> Figure:
    """Return the picture of the run's consensus distance."""
    return draw_consensus(history.metrics, history.visits)


def heterogeneity(history: History) -> Figure:
    """Return the picture of the run's shards."""
    return draw_heterogeneity(history.shards, said_heterogeneity(history))


def topology(history: History) -> Figure:
    """Return the picture of the run's graph and W."""
    return draw_topology(history.W, history.config.topology)


def visits(history: History) -> Figure:
    """Return the picture of which block was live when."""
    return draw_visits(history.visits, history.blocks)


def ledger(history: History) -> Figure:
    """Return the picture of bytes and memory, measured beside predicted."""
    return draw_ledger(history.edges, history.summary["memory"], history.config.clients)


def _alt_losses(h: History) -> str:
    last = h.metrics.iloc[-1]
    return (f"Line chart of loss against inner step. {said_losses(h.metrics)}. At the end the clients' own models lie between "
            f"{nats(last['client_test_loss_min'])} and {nats(last['client_test_loss_max'])}.")  # fmt: skip


def _alt_consensus(h: History) -> str:
    return f"Line chart of the consensus distance of each block and in all against inner step. {said_consensus(h.metrics)}."


def _alt_heterogeneity(h: History) -> str:
    rows = h.shards.sum(axis=1)
    return (f"Training rows of {len(h.shards)} clients by {h.shards.shape[1]} labels. {said_heterogeneity(h)}; a client holds "
            f"{rows.min():,} to {rows.max():,} rows.")  # fmt: skip


def _alt_topology(h: History) -> str:
    return f"Who hears whom, and the mixing matrix W. {said_topology(diagnose(list(h.W)), h.config.topology)}."


def _alt_visits(h: History) -> str:
    return f"Timeline of {len(h.visits)} visits over {int(h.visits['last'].max()) + 1} inner steps. {said_visits(h.visits, h.blocks)}."


def _alt_ledger(h: History) -> str:
    memory = h.summary["memory"]
    return (f"Bars of bytes sent by each client and of memory. {said_ledger(h.edges, memory)}. Peak memory: "
            f"{size(memory['measured_peak'])} measured, {size(memory['peak'])} predicted, {size(memory['full'])} for Adam on all.")  # fmt: skip


class Picture(NamedTuple):
    """How a picture of a run is drawn, what it says to those who do not see it, its heading, how it is read."""

    draw: Callable[[History], Figure]
    alt: Callable[[History], str]
    heading: str
    caption: str


PICTURES: dict[str, Picture] = {
    "losses": Picture(losses, _alt_losses, "Did it learn?",
        "Lower is better. The blue line is the model that one gets by averaging all clients' parameters, read on text that no "
        "client trained on; the band and the dashed line are the clients' own models on the same text. A wide band means that "
        "clients disagree. The strip under the axis says which block was training."),
    "consensus": Picture(consensus, _alt_consensus, "Did the clients stay together?",
        "The consensus distance is the mean squared distance of the clients' models from their average. Each step up is a factor "
        "of ten. A block can only drift while it trains (shaded in its colour); in the rest of the time its line is flat."),
    "heterogeneity": Picture(heterogeneity, _alt_heterogeneity, "Who holds which text?",
        "A column is a client, a row a label, an area the number of training rows. Equal columns would be IID data; the emptier "
        "the picture, the more each client needs the others."),
    "topology": Picture(topology, _alt_topology, "Who hears whom?",
        "Line i-j is as thick as the share that i takes of j's model at one mixing; the same shares stand in W, where blank means "
        "none. rho is the part of the disagreement that one mixing leaves at worst: 0 is perfect, 1 is never."),
    "visits": Picture(visits, _alt_visits, "Which block trained when?",
        "A bar is a visit: the inner steps in which this block, and no other, was trained, mixed and held optimiser state. Hatched "
        "grey never trains."),
    "ledger": Picture(ledger, _alt_ledger, "What did it cost?",
        "Predicted is the formula, measured is counted while the run went on. Memory counts weights, gradients, moments and the "
        "neighbours' average of all clients together, without activations; MB = 10⁶ bytes."),
}  # fmt: skip
