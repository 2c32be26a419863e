"""Exercises of lesson 2: Metropolis weights of a graph, and how fast a matrix mixes."""

import networkx as nx
import numpy as np

from deca_lab.course.exercises.exercise import Exercise, Mistake
from deca_lab.course.exercises.lesson_00 import DIRECTED
from deca_lab.mixing import weights
from deca_lab.mixing.graphs import Array
from deca_lab.mixing.spectrum import spectrum
from deca_lab.mixing.topology import topology

KITE = np.array([  # client 0 is in a triangle and has a tail
    [0, 1, 1, 1, 0],
    [1, 0, 1, 0, 0],
    [1, 1, 0, 0, 0],
    [1, 0, 0, 0, 1],
    [0, 0, 0, 1, 0],
])  # fmt: skip
STAR = np.array([[0, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]])
SWAPPING = np.array([[0.2, 0.8], [0.8, 0.2]])  # its second eigenvalue is negative


def metropolis(adjacency: Array) -> Array:
    """Return the Metropolis weights W (N, N) of an adjacency matrix (N, N) of 0 and 1, symmetric, with a zero diagonal."""
    return weights.metropolis(nx.from_numpy_array(adjacency))


def rho(W: Array) -> float:
    """Return ||W - J||_2 of W (N, N), the factor on disagreement of one mixing; J has 1 / N everywhere."""
    return spectrum(W).rho


def _filled(off: Array) -> Array:
    return off + np.diag(1 - off.sum(1))


def _degrees(a: Array) -> tuple[Array, Array]:
    """Return the degrees of row and column as (N, N) each."""
    d = a.sum(1).astype(float)
    return np.broadcast_to(d[:, None], a.shape), np.broadcast_to(d, a.shape)


def _off(W: Array) -> Array:
    return W - np.diag(np.diag(W))


def _eigenvalues(M: Array) -> Array:
    return np.sort(np.abs(np.linalg.eigvals(M)))[::-1]


METROPOLIS = Exercise(
    name="metropolis",
    about="Metropolis weights",
    solution=metropolis,
    cases={"a triangle with a tail": (KITE,), "a star of four clients": (STAR,)},
    mistakes=(
        Mistake(
            lambda a: np.eye(len(a)),
            "nobody shares anything. An array made with zeros_like(adjacency) holds whole numbers, as the "
            "adjacency matrix does, and cuts 1/3 down to 0. Make it of floats.",
        ),
        Mistake(
            lambda a: _off(metropolis(a)),
            "the diagonal is missing: what a row leaves of one, a client keeps for itself.",
        ),
        Mistake(
            lambda a: _off(metropolis(a)) + np.eye(len(a)),
            "the diagonal is 1, so the rows sum to more than one. A client "
            "keeps what the others leave: 1 minus the rest of its row.",
        ),
        Mistake(
            lambda a: _filled(a / (1 + _degrees(a)[0])),
            "you used the client's own degree alone: rows sum to one, columns "
            "do not, so the network's mean moves. Take the larger degree of the two.",
        ),
        Mistake(
            lambda a: _filled(a / np.maximum(*_degrees(a))),
            "the 1 in 1 / (1 + max(d_i, d_j)) is missing: a client with the "
            "largest degree would keep nothing of itself.",
        ),
        Mistake(
            lambda a: _filled(a / (1 + np.minimum(*_degrees(a)))),
            "you took the smaller of the two degrees; with the larger "
            "one no diagonal can become negative.",
        ),
        Mistake(
            lambda a: _filled(a / a.sum(1).max()),
            "these are maximum-degree weights: one share for all edges. Metropolis "
            "looks at the two ends of each edge.",
        ),
        Mistake(
            lambda a: _filled(a / (1 + a.sum(1).max())),
            "you used the largest degree of the whole graph. Metropolis "
            "looks at the two ends of each edge.",
        ),
        Mistake(
            lambda a: _filled(1 / (1 + np.maximum(*_degrees(a))) * (1 - np.eye(len(a)))),
            "clients without an edge between "
            "them share their models here: multiply by the adjacency matrix.",
        ),
    ),
    hints=(
        "On an edge the share is 1 / (1 + max(d_i, d_j)); a client's degree d_i is the sum of its row of the adjacency matrix.",
        "np.maximum.outer(d, d) is the (N, N) table of larger degrees. Multiply by the adjacency matrix, so that only edges get "
        "a share.",
        "The diagonal comes last: one minus the sum of the row, so that every row sums to one.",
    ),
)
RHO = Exercise(
    name="rho",
    about="rho",
    solution=rho,
    cases={
        "a W that is not symmetric": (DIRECTED,),
        "two clients that nearly swap": (SWAPPING,),
        "a path of five clients": (topology("path", 5).at(0),),
    },
    mistakes=(
        Mistake(
            lambda W: np.linalg.norm(W, 2),
            "you forgot to subtract J: the largest singular value of W itself is 1, that of "
            "agreement, which mixing is to leave alone.",
        ),
        Mistake(
            lambda W: _eigenvalues(W)[1],
            "this is the modulus of the second eigenvalue. It is rho where W is symmetric; "
            "elsewhere one mixing may shrink less than it says. Take the singular value.",
        ),
        Mistake(
            lambda W: np.linalg.norm(W - np.eye(len(W)) / len(W), 2),
            "J has 1 / N in every entry; you subtracted it from the diagonal only.",
        ),
        Mistake(
            lambda W: np.sort(np.linalg.eigvals(W).real)[-2],
            "this is the second largest eigenvalue with its sign. A "
            "negative one counts by its modulus, and where W is not symmetric singular values count.",
        ),
        Mistake(
            lambda W: np.linalg.norm(W - 1 / len(W)),
            "this is the Frobenius norm, all singular values together; take the largest one.",
        ),
        Mistake(lambda W: 1 - np.linalg.norm(W - 1 / len(W), 2), "this is the gap 1 - rho."),
        Mistake(
            lambda W: np.linalg.norm(W - 1 / len(W), 2) ** 2,
            "this is rho squared, the factor on squared distances.",
        ),
    ),
    hints=(
        "Agreement is the direction that mixing keeps. Take it out of W first: subtract J, which has 1 / N everywhere.",
        "The factor on lengths is the largest singular value of what is left, np.linalg.norm(..., 2).",
    ),
)
EXERCISES = (METROPOLIS, RHO)
