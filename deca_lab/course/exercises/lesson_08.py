"""Exercises of lesson 8: a W that survives a dead client, and what makes a W sound."""

import numpy as np

from deca_lab.course.exercises.exercise import Exercise, Mistake
from deca_lab.course.exercises.lesson_00 import DIRECTED
from deca_lab.course.exercises.lesson_02 import KITE, metropolis
from deca_lab.mixing.doctor import diagnose
from deca_lab.mixing.graphs import Array
from deca_lab.mixing.spectrum import islands, spectrum
from deca_lab.mixing.topology import topology

STAR, PATH = (topology(name, 5).at(0) for name in ("star", "path"))
# Rows sum to one, columns do not.
LEADER = np.array([[0.5, 0.25, 0.25], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5]])
TWO_PAIRS = np.kron(np.eye(2), np.full((2, 2), 0.5))
SWAP = np.array([[0.0, 1.0], [1.0, 0.0]])
NEGATIVE = np.array([[0.6, 0.5, -0.1], [-0.1, 0.6, 0.5], [0.5, -0.1, 0.6]])
# Here rho = 1, yet its powers tend to J.
PATIENT = np.array([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [0.5, 0.0, 0.5]])


def without_client(W: Array, dead: int) -> Array:
    """Return W (N, N), symmetric, once a client is dead: the others keep its share for themselves, and it only itself."""
    heard = W * ~np.eye(len(W), dtype=bool)
    heard[dead] = heard[:, dead] = 0
    return heard + np.diag(1 - heard.sum(1))


def is_sound(W: Array) -> bool:
    """Say whether mixing with W (N, N) again and again brings every client to the mean of all."""
    return diagnose(W).verdict == "sound"


def _cut(W: Array, dead: int) -> Array:
    """Return W with zeros in row and column of the dead client."""
    left = W.copy()
    left[dead] = left[:, dead] = 0
    return left


def _alone(W: Array, dead: int) -> Array:
    left = _cut(W, dead)
    left[dead, dead] = 1
    return left


def _only_unheard(W: Array, dead: int) -> Array:
    left = W.copy()
    left[:, dead] = 0
    left[dead, dead] = W[dead, dead]
    kept: Array = left + np.diag(1 - left.sum(1)) * (np.arange(len(W)) != dead)
    return kept


def _scaled(W: Array, dead: int) -> Array:
    left = _alone(W, dead)
    scaled: Array = left / left.sum(1, keepdims=True)
    return scaled


def _spread(W: Array, dead: int) -> Array:
    """Return the lost share of a row in equal parts on all entries that are left."""
    left = _alone(W, dead)
    there = left != 0
    spread: Array = left + there * ((1 - left.sum(1)) / there.sum(1))[:, None]
    return spread


def _own_zero(W: Array, dead: int) -> Array:
    left = without_client(W, dead)
    left[dead, dead] = 0
    return left


def _ones(sums: Array) -> bool:
    return bool(np.allclose(sums, 1, rtol=0, atol=1e-9))


def _both(W: Array) -> bool:
    return _ones(W.sum(0)) and _ones(W.sum(1))


def _agree(W: Array) -> bool:
    return bool(np.ptp(np.linalg.matrix_power(W, 4096), axis=0).max() < 1e-6)


WITHOUT_CLIENT = Exercise(
    name="without_client",
    about="re-weighting",
    solution=without_client,
    cases={
        "a triangle with a tail, without client 2": (metropolis(KITE), 2),
        "a star without one of its tips": (STAR, 3),
        "a path without its middle": (PATH, 2),
    },
    mistakes=(
        Mistake(
            _cut,
            "row and column of the dead client are zero, but nobody took its share over: rows no longer sum to one, "
            "and mixing shrinks the models.",
        ),
        Mistake(
            _alone,
            "the dead client is alone now, but its neighbours' rows sum to less than one: give each its lost share "
            "back.",
        ),
        Mistake(
            _scaled,
            "you scaled the rows to sum to one. Then the columns do not, and the mean of those alive moves. Keep a "
            "lost share at home instead: the diagonal leaves W symmetric.",
        ),
        Mistake(
            _spread,
            "you spread the lost share over the neighbours too. Each of them takes more, but not gives more, so the "
            "columns no longer sum to one. Put it on the diagonal.",
        ),
        Mistake(
            _only_unheard,
            "nobody hears the dead client now, but its row still hears others, so their columns sum to more "
            "than one. Its row is 1 on the diagonal alone.",
        ),
        Mistake(
            _own_zero,
            "the dead client's own row is all zero: then its column sums to zero. Let it keep itself, a 1 on the "
            "diagonal.",
        ),
        Mistake(lambda W, dead: W, "nothing changed: this is W as it was."),
    ),
    hints=(
        "W is symmetric, so its rows and columns change alike. Which entry of a row can change without touching another "
        "client's column?",
        "Set row and column of the dead client to zero; then add to every diagonal entry what its row lacks to one.",
        "The dead client's own row lacks all: it gets a 1 on the diagonal.",
    ),
)
IS_SOUND = Exercise(
    name="is_sound",
    about="judgement",
    solution=is_sound,
    cases={
        "a path of five clients": (PATH,),
        "a W that is not symmetric, but doubly stochastic": (DIRECTED,),
        "a W of whose sums only the rows' are one": (LEADER,),
        "a W of whose sums only the columns' are one": (LEADER.T,),
        "two pairs that never meet": (TWO_PAIRS,),
        "two clients that swap": (SWAP,),
        "a W with negative entries": (NEGATIVE,),
        "a W that needs more than one mixing to shrink anything": (PATIENT,),
    },
    mistakes=(
        Mistake(
            lambda W: _ones(W.sum(1)),
            "you asked for rows that sum to one only. Columns must too, or the mean drifts; and "
            "all must reach all.",
        ),
        Mistake(
            lambda W: _ones(W.sum(0)),
            "you asked for columns that sum to one only. Rows must too, or clients that agree are "
            "moved; and all must reach all.",
        ),
        Mistake(
            _both,
            "sums of one keep the mean, but they do not bring clients together: those that never hear of each other, "
            "or only swap, stay apart.",
        ),
        Mistake(
            _agree,
            "you asked whether the clients agree in the end. They must agree on the mean: where columns do "
            "not sum to one, some clients count more.",
        ),
        Mistake(
            lambda W: _both(W) and islands(W != 0) is None,
            "everybody reaches everybody, but clients that swap for ever "
            "reach no agreement: the period of the graph must be 1.",
        ),
        Mistake(
            lambda W: is_sound(W) and np.array_equal(W, W.T),
            "W need not be symmetric: sums of one, both ways, are enough.",
        ),
        Mistake(
            lambda W: is_sound(W) and bool((W >= 0).all()),
            "negative entries are odd, but they do no harm where powers of W still tend to J.",
        ),
        Mistake(
            lambda W: _both(W) and spectrum(W).rho < 1 - 1e-9,
            "you asked that a single mixing shrinks all disagreement "
            "(rho < 1). It is enough that many do: look at eigenvalues, or at a high power of W.",
        ),
        Mistake(lambda W: True, "you said yes to every W."),
        Mistake(
            lambda W: False,
            "you said no to every W. A sound one may need hundreds of mixings: take very many.",
        ),
    ),
    hints=(
        "Mixing k times is multiplying with the k-th power of W. What should a very high power look like?",
        "It must be J, 1 / N everywhere: np.linalg.matrix_power(W, 4096), compared with np.allclose.",
    ),
)
EXERCISES = (WITHOUT_CLIENT, IS_SOUND)
