"""Exercise of lesson 0: one mixing by hand."""

import numpy as np
import torch

from deca_lab.course.exercises.exercise import Exercise, Mistake
from deca_lab.mixing.gossip import mixer
from deca_lab.mixing.graphs import Array
from deca_lab.mixing.topology import topology

DIRECTED = np.array([  # doubly stochastic, not symmetric, and not regular
    [0.5, 0.3, 0.0, 0.0, 0.2],
    [0.0, 0.4, 0.6, 0.0, 0.0],
    [0.1, 0.2, 0.4, 0.3, 0.0],
    [0.4, 0.0, 0.0, 0.5, 0.1],
    [0.0, 0.1, 0.0, 0.2, 0.7],
])  # fmt: skip
MODELS = np.arange(10.0).reshape(5, 2) ** 2 - 7


def mix(W: Array, X: Array) -> Array:
    """Return the models (N, D) after one mixing of X (N, D) with W (N, N), by the library's own gossip."""
    x = torch.from_numpy(np.array(X, dtype=np.float64))
    return np.asarray(mixer(W, x)(x))


def _off(W: Array) -> Array:
    return W - np.diag(np.diag(W))


def _equally(heard: Array, X: Array) -> Array:
    averages: Array = heard @ X / heard.sum(1, keepdims=True)
    return averages


def _one_after_another(W: Array, X: Array) -> Array:
    mixed = X.copy()
    for i in range(len(W)):
        mixed[i] = W[i] @ mixed
    return mixed


MIX = Exercise(
    name="mix",
    about="mixing",
    solution=mix,
    cases={
        "a W that is not symmetric": (DIRECTED, MODELS),
        "a path of five clients": (topology("path", 5).at(0), MODELS),
    },
    mistakes=(
        Mistake(
            lambda W, X: W.T @ X,
            "rows and columns are exchanged. w_ij is what client i takes from client j, so row i of W "
            "makes row i of the answer; you used column i (a transposed W).",
        ),
        Mistake(
            lambda W, X: _off(W) @ X,
            "a client forgot its own share w_ii, so its shares no longer sum to one.",
        ),
        Mistake(
            lambda W, X: X + _off(W) @ X,
            "shares do not sum to one: you kept the whole own model and added the others' "
            "shares. The own model counts w_ii.",
        ),
        Mistake(
            lambda W, X: (W != 0) @ X,
            "you summed the models that a client hears, without their shares w_ij; shares that "
            "sum to one make it an average.",
        ),
        Mistake(
            lambda W, X: _equally(W != 0, X),
            "you averaged equally over all that a client hears (degree weights): rows sum "
            "to one, columns do not, so the network's mean moves. Use the shares that stand in W.",
        ),
        Mistake(
            lambda W, X: _equally(_off(W) != 0, X),
            "you averaged the neighbours equally and forgot the own share. Use the "
            "shares that stand in W.",
        ),
        Mistake(
            lambda W, X: np.tile(X.mean(0), (len(X), 1)),
            "every client got the mean of all. That takes a complete graph; "
            "here each one hears its neighbours only.",
        ),
        Mistake(lambda W, X: X, "nothing moved: this is X as it was."),
        Mistake(lambda W, X: W @ W @ X, "this is two mixings; do one."),
        Mistake(
            _one_after_another,
            "later clients used models that were already mixed. All mix at once: read old rows, write "
            "new ones.",
        ),
    ),
    hints=(
        "A row of a product of two matrices is a sum of rows of the second one.",
        "Which of W @ X and W.T @ X gives row i the shares of row i?",
    ),
)
EXERCISES = (MIX,)
