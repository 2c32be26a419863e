"""A picture under its controls: ipywidgets in a live front end, elsewhere the same picture as it stands at first.

A picture is a `Scene`: its figure is built once, what follows the controls is marked animated, and a redraw puts these
artists alone over the kept pixels of the rest; that is what makes a slider answer in time.
"""

from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import lru_cache
from html import escape
from io import BytesIO
from math import isfinite
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from deca_lab.errors import BadInput, check
from deca_lab.pictures.jupyter import DOTS, kept, live
from deca_lab.pictures.style import GREY, LINE, STYLE, WIDTH, clean, styled

if TYPE_CHECKING:
    from anywidget import AnyWidget
    from IPython.display import Image
    from ipywidgets import HTML, ValueWidget, VBox
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import RendererBase
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    from matplotlib.transforms import BboxBase

Values = Mapping[str, Any]
OWN_KEYS = """export default { render({ el }) { // JupyterLab looks for this word at what has the focus
  const own = (event) => event.target.setAttribute("data-lm-suppress-shortcuts", "true");
  const listen = () => el.isConnected
    ? el.closest(".jp-OutputArea-output")?.addEventListener("focusin", own)
    : setTimeout(listen, 100);
  listen();
} };"""


class Scene(NamedTuple):
    """A figure, and the function that sets its animated artists to the controls' values and returns the text for it."""

    figure: "Figure"
    update: Callable[..., str]


class Canvas(Protocol):
    """What is used of matplotlib's Agg canvas, whose functions have no types."""

    def draw(self) -> None:
        """Draw all that is not animated."""

    def copy_from_bbox(self, bbox: "BboxBase") -> object:
        """Return the pixels of a box."""

    def restore_region(self, region: object) -> None:
        """Put such pixels back."""

    def get_renderer(self) -> "RendererBase":
        """Return what artists draw with."""

    def buffer_rgba(self) -> memoryview:
        """Return all pixels, (height, width, 4)."""


class Control(NamedTuple):
    """One control: a choice where it has options, else a slider, of whole numbers where `step` is one."""

    about: str
    low: float = 0
    high: float = 1
    step: float = 0.01
    options: tuple[Any, ...] = ()


def show(
    scene: Callable[[], Scene], controls: Mapping[str, Control], values: Values
) -> "VBox | Image":
    """Return the controls over the live picture, or the picture of these values as an IPython image with its text.

    Raises BadInput where a value lies outside its control.
    """
    require(controls, values)
    return mount(scene(), controls, values) if live() else still(scene(), values)


def require(controls: Mapping[str, Control], values: Values) -> None:
    """Raise BadInput at the first value that its control could not take."""
    for name, control in controls.items():
        value = values[name]
        if control.options:
            check(
                value in control.options,
                name,
                value,
                f"one of {', '.join(map(str, control.options))}",
            )
            continue
        whole = control.step == 1
        number = (
            isinstance(value, int if whole else int | float)
            and not isinstance(value, bool)
            and isfinite(value)
        )
        kind = "a whole number" if whole else "a number"
        check(
            number and control.low <= value <= control.high,
            name,
            value,
            f"{kind} from {control.low:g} to {control.high:g}",
        )


def still(scene: Scene, values: Values) -> "Image":
    """Return the picture of these values as an IPython image."""
    alt = styled(scene.update)(**values)
    return kept(scene.figure, alt)


def mount(scene: Scene, controls: Mapping[str, Control], values: Values) -> "VBox":
    """Return the controls over the live picture."""
    import ipywidgets

    widgets = {name: widget_of(control, values[name]) for name, control in controls.items()}
    picture, render = ipywidgets.HTML(), renderer(scene.figure)

    def redraw(change: object = None) -> None:
        now = {name: widget.value for name, widget in widgets.items()}
        try:
            alt = styled(scene.update)(**now)
            put(picture, render(), alt)
        except BadInput as error:
            alt = f"No picture: {error}"
            put(picture, refusal(alt), alt)

    for widget in widgets.values():
        widget.observe(redraw, "value")
    redraw()
    top = ipywidgets.HBox(list(widgets.values()), layout={"flex_flow": "row wrap"})
    return ipywidgets.VBox([top, picture, own_keys()])


def own_keys() -> "AnyWidget":
    """Return an empty widget that keeps the keys pressed in its output for the widgets there: JupyterLab takes arrows."""
    from anywidget import AnyWidget

    return AnyWidget(_esm=OWN_KEYS)


def put(picture: "HTML", png: bytes, alt: str) -> None:
    """Show a PNG with its text, for those who do not see it, and the text below it as well: ipywidgets' Image has no alt."""
    words = escape(alt)
    picture.value = (
        f'<img alt="{words}" src="data:image/png;base64,{b64encode(png).decode()}" style="max-width: 100%">'
        f'<div style="max-width: 630px; line-height: 1.3">{words}</div>'
    )


def widget_of(control: Control, value: object) -> "ValueWidget":
    """Return the widget of a control."""
    import ipywidgets

    look = {
        "description": control.about,
        "style": {"description_width": "initial"},
        "layout": {"width": "300px"},
    }
    if control.options:
        return ipywidgets.Dropdown(options=control.options, value=value, **look)
    within = {"value": value, "min": control.low, "max": control.high, "step": control.step, **look}
    if control.step == 1:
        return ipywidgets.IntSlider(**within)
    return ipywidgets.FloatSlider(readout_format=f".{len(f'{control.step:g}') - 2}f", **within)


def renderer(figure: "Figure", dots: int = DOTS) -> Callable[[], bytes]:
    """Return the function that gives the figure's PNG, of so many dots an inch: kept pixels, the animated artists over them.

    All that is not animated may change only together with the limits of some axes: then the pixels are made again.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(dots)
    canvas: Canvas = FigureCanvasAgg(figure)
    moving = sorted(
        figure.findobj(lambda artist: artist.get_animated()), key=lambda artist: artist.get_zorder()
    )
    kept: dict[str, Any] = {}

    def render() -> bytes:
        limits = [list(axes.viewLim.extents) for axes in figure.axes]
        with mpl.rc_context(STYLE):
            if kept.get("limits") != limits:
                canvas.draw()
                kept.update(limits=limits, pixels=canvas.copy_from_bbox(figure.bbox))
            canvas.restore_region(kept["pixels"])
            for artist in moving:
                artist.draw(canvas.get_renderer())
        return encoded(canvas)

    return render


def encoded(canvas: Canvas) -> bytes:
    """Return the canvas as PNG: lightly packed, for it only goes to the browser beside."""
    import numpy as np
    from PIL import Image as Pixels

    out = BytesIO()
    Pixels.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).save(out, "png", compress_level=1)
    return out.getvalue()


@lru_cache(64)
def refusal(words: str) -> bytes:
    """Return a picture that says why there is none."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = sheet(2.4)
    figure.set_dpi(DOTS)
    figure.text(
        0.5, 0.5, fill(clean(words, 600), LINE - 10), ha="center", va="center", color=GREY, size=10
    )
    canvas: Canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return encoded(canvas)


def headline(axes: "Axes") -> "Text":
    """Return the sentence over the whole figure, to be set by `say`."""
    return axes.text(
        0.012,
        0.985,
        "",
        transform=axes.figure.transFigure,
        va="top",
        weight="bold",
        size=11,
        animated=True,
    )


def say(text: "Text", words: str) -> None:
    """Set the headline, in at most two lines."""
    text.set_text("\n".join(fill(clean(words, 2 * LINE - 12), LINE).splitlines()[:2]))


def sheet(height: float) -> "Figure":
    """Return an empty figure of the house's width without a layout engine, which alone would take the time there is."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height))
