"""The pictures of a run. Each function takes tables and returns a matplotlib Figure; nothing is shown, no state is left."""

from collections.abc import Callable
from typing import NamedTuple

from deca_lab.errors import BadInput

try:
    from matplotlib.figure import Figure
except ValueError as error:  # MPLBACKEND, or a matplotlibrc, names no backend
    raise BadInput(f"matplotlib cannot start: {str(error).partition(';')[0]}") from None

from deca_lab.lab.history import History
from deca_lab.pictures import (
    of_consensus,
    of_heterogeneity,
    of_ledger,
    of_losses,
    of_topology,
    of_visits,
)
from deca_lab.pictures.of_alone import alt_alone, draw_alone
from deca_lab.pictures.of_bound import draw_beside, draw_bounds
from deca_lab.pictures.of_consensus import consensus, draw_consensus
from deca_lab.pictures.of_findings import draw_findings
from deca_lab.pictures.of_heterogeneity import draw_heterogeneity, heterogeneity
from deca_lab.pictures.of_ledger import draw_ledger, ledger, sent_by, served
from deca_lab.pictures.of_lines import draw_bars, draw_lines
from deca_lab.pictures.of_losses import draw_losses, losses
from deca_lab.pictures.of_rates import draw_rates
from deca_lab.pictures.of_sweep import draw_sweep
from deca_lab.pictures.of_topology import draw_topology, topology
from deca_lab.pictures.of_visits import draw_visits, visits
from deca_lab.pictures.style import nats, number, png, size

__all__ = [
    "PICTURES",
    "Picture",
    "alt_alone",
    "consensus",
    "draw_alone",
    "draw_bars",
    "draw_beside",
    "draw_bounds",
    "draw_consensus",
    "draw_findings",
    "draw_heterogeneity",
    "draw_ledger",
    "draw_lines",
    "draw_losses",
    "draw_rates",
    "draw_sweep",
    "draw_topology",
    "draw_visits",
    "heterogeneity",
    "ledger",
    "losses",
    "nats",
    "number",
    "png",
    "sent_by",
    "served",
    "size",
    "topology",
    "visits",
]


class Picture(NamedTuple):
    """How a picture of a run is drawn, what it says to those who do not see it, its heading, how it is read.

    `lacks` says in words what a run would need and does not have; "" where it can be drawn. `of_problem` is how it is read
    for a problem of one's own, where that differs.
    """

    draw: Callable[[History], Figure]
    alt: Callable[[History], str]
    heading: str
    caption: str
    lacks: Callable[[History], str] = lambda history: ""
    of_problem: str = ""


PICTURES: dict[str, Picture] = {
    "losses": Picture(
        losses,
        of_losses.alt,
        "Did it learn?",
        "Lower is better. The blue line is the model that one gets by averaging all clients' parameters, read on text that no "
        "client trained on; the band and the dashed line are the clients' own models on the same text. A wide band means that "
        "clients disagree. The lower panel, on a scale of its own, is the clients' own text: what they train on, and what they "
        "held out. The strip under the axis says which block was training.",
        of_losses.lacks,
        "Lower is better. The blue line is the model that one gets by averaging all clients' parameters, on the data of all "
        "clients; the band and the dashed line are the clients' own models on the same data. A wide band means that clients "
        "disagree. The lower panel, on a scale of its own, is each client on its own data: on the batches that it trains on, "
        "and when all is measured. The strip under the axis says which block was training.",
    ),
    "consensus": Picture(
        consensus,
        of_consensus.alt,
        "Did the clients stay together?",
        "The consensus distance is the mean squared distance of the clients' models from their average. Each step up is a factor "
        "of ten. A block can only drift while it trains (shaded in its colour); in the rest of the time its line is flat.",
    ),
    "heterogeneity": Picture(
        heterogeneity,
        of_heterogeneity.alt,
        "Who holds which text?",
        "A column is a client, a row a label, an area the number of training rows. Equal columns would be IID data; the emptier "
        "the picture, the more each client needs the others.",
        of_heterogeneity.lacks,
    ),
    "topology": Picture(
        topology,
        of_topology.alt,
        "Who hears whom?",
        "Line i-j is as thick as the share that i takes of j's model at one mixing; the same shares stand in W, where blank "
        "means none. rho is the part of the disagreement that one mixing leaves at worst: 0 is perfect, 1 is never.",
    ),
    "visits": Picture(
        visits,
        of_visits.alt,
        "Which block trained when?",
        "A bar is a visit: the inner steps in which this block, and no other, was trained, mixed and held optimiser state. "
        "Hatched grey never trains.",
    ),
    "ledger": Picture(
        ledger,
        of_ledger.alt,
        "What did it cost?",
        "Predicted is the formula, measured is counted while the run went on. Memory counts weights, gradients, moments and the "
        "neighbours' average of all clients together, without activations; MB = 10⁶ bytes.",
    ),
}
