"""What notebooks show: pictures as PNG with a text for those who do not see them."""

from typing import TYPE_CHECKING

from deca_lab.history import History

if TYPE_CHECKING:
    from IPython.display import Image
    from matplotlib.figure import Figure

DOTS = 75  # an inch: three or four pictures must fit into a notebook of 300 KB


def picture(history: History, name: str) -> "Image":
    """Return one picture of a run, a name in `plots.PICTURES`, with its text."""
    from deca_lab.errors import pick
    from deca_lab.plots import PICTURES

    found = pick(PICTURES, name, "picture")
    return shown(found.draw(history), found.alt(history))


def shown(figure: "Figure", alt: str) -> "Image":
    """Return a figure as an image with the text `alt`."""
    from IPython.display import Image

    from deca_lab.plots import png

    return Image(data=png(figure, DOTS), alt=alt)
