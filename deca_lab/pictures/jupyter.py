"""What notebooks show: pictures as PNG with a text for those who do not see them."""

import os
import sys
from base64 import b64encode
from collections.abc import Callable
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING

from deca_lab.errors import pick
from deca_lab.lab.history import History

if TYPE_CHECKING:
    from IPython.display import HTML, Image
    from matplotlib.figure import Figure

    from deca_lab.pictures import Picture

DOTS = 75  # an inch, of pictures that move in a live notebook
SHARP, WIDE, TONES = 150, 100, 40  # dots an inch kept and shown, colours: nine pictures are 250 KB


def picture(history: History, name: str) -> "Image | HTML":
    """Return one picture of a run, a name in `pictures.PICTURES`, with its text.

    Raises BadInput for another name, and for a run that does not have what the picture shows.
    """
    chosen = _chosen(history, name)
    return shown(chosen.draw(history), chosen.alt(history))


def plot(history: History, name: str) -> "Figure":
    """Return one picture of a run for `History.plot`; a notebook can show it."""
    figure = _chosen(history, name).draw(history)
    _let_notebooks_show(type(figure))
    return figure


def _chosen(history: History, name: str) -> "Picture":
    """Return a picture by name; raise BadInput where the run lacks what it shows."""
    from deca_lab.pictures import PICTURES
    from deca_lab.pictures.style import require_there

    chosen = pick(PICTURES, name, "picture")
    require_there(name, chosen.lacks(history))
    return chosen


def _let_notebooks_show(figure: "type[Figure]") -> None:
    """Show figures as PNG in a running notebook: IPython alone shows only pyplot's.

    A way of showing them that the notebook has already stays.
    """
    from deca_lab.pictures import png

    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is not None:
        known = shell.display_formatter.formatters["image/png"]
        if figure not in known.type_printers:
            known.for_type(figure, png)


def live() -> bool:
    """Say whether somebody can move a slider: Jupyter Server names its sessions; DECA_LAB_WIDGETS=on or off overrules."""
    wish = os.environ.get("DECA_LAB_WIDGETS", "")
    return (
        pick({"on": True, "off": False}, wish, "DECA_LAB_WIDGETS")
        if wish
        else "JPY_SESSION_NAME" in os.environ
    )


def shown(figure: "Figure", alt: str) -> "Image | HTML":
    """Return a figure with the text `alt` for a notebook: as a stored image, or where somebody reads, as a page's image.

    JupyterLab keeps a stored image's text to itself.
    """
    image = kept(figure, alt)
    if not live():
        return image
    from IPython.display import HTML

    packed = b64encode(image.data).decode()
    source = f'src="data:image/png;base64,{packed}" width="{image.width}"'
    make: Callable[..., HTML] = HTML  # IPython has no types
    return make(f'<img alt="{escape(alt)}" {source} style="max-width: 100%; height: auto">')


def kept(figure: "Figure", alt: str) -> "Image":
    """Return a figure as an image with the text `alt`, sharp and in few colours: notebooks that hold it stay small."""
    from IPython.display import Image
    from PIL import Image as Pixels

    from deca_lab.pictures import png

    small = BytesIO()
    drawn = Pixels.open(BytesIO(png(figure, SHARP))).convert("RGB")
    drawn.quantize(TONES, dither=Pixels.Dither.NONE).save(small, "png", optimize=True)
    make: Callable[..., Image] = Image  # IPython has no types
    return make(data=small.getvalue(), alt=alt, width=round(WIDE * figure.get_figwidth()))


def algorithm(*lit: str) -> "Image | HTML":
    """Return the drawing of the algorithm with these parts lit, or all of them, for a notebook."""
    from deca_lab.pictures.of_algorithm import alt_algorithm, draw_algorithm

    return shown(draw_algorithm(lit), alt_algorithm(lit))
