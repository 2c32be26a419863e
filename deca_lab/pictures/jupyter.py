"""What notebooks show: pictures as PNG with a text for those who do not see them."""

from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING

from deca_lab.lab.history import History

if TYPE_CHECKING:
    from IPython.display import Image
    from matplotlib.figure import Figure

DOTS = 75  # an inch: three or four pictures must fit into a notebook of 300 KB


def picture(history: History, name: str) -> "Image":
    """Return one picture of a run, a name in `pictures.PICTURES`, with its text."""
    from deca_lab.errors import pick
    from deca_lab.pictures import PICTURES

    chosen = pick(PICTURES, name, "picture")
    return shown(chosen.draw(history), chosen.alt(history))


def shown(figure: "Figure", alt: str) -> "Image":
    """Return a figure as an image with the text `alt`, in 256 colours: notebooks that carry it stay small."""
    from IPython.display import Image
    from PIL import Image as Pixels

    from deca_lab.pictures import png

    small = BytesIO()
    drawn = Pixels.open(BytesIO(png(figure, DOTS))).convert("RGB")
    drawn.quantize(256, dither=Pixels.Dither.NONE).save(small, "png", optimize=True)
    make: Callable[..., Image] = Image      # IPython has no types
    return make(data=small.getvalue(), alt=alt)
