"""Checks of the course's exercises: each runs yours beside the library's own function and says what went wrong."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from deca_lab.gossip import mixer
from deca_lab.topology import topology

Mixing = Callable[[np.ndarray, np.ndarray], np.ndarray]  # W (N, N), X (N, D) -> X (N, D)


class Mistake(NamedTuple):
    """One usual mistake: what it computes, and what to say to those who made it."""

    computes: Mixing
    words: str


def solution_mix(W: np.ndarray, X: np.ndarray) -> np.ndarray:
    """Return W X by the library's own gossip: the answer of the exercise."""
    x = torch.from_numpy(np.array(X, dtype=np.float64))
    return np.asarray(mixer(W, x)(x))


def check_mix(yours: Mixing) -> str:
    """Return a verdict in words on yours(W, X), one mixing of models X (N, D); it never raises for a wrong answer."""
    X = np.arange(10.0).reshape(5, 2) ** 2 - 7
    for W, where in ((DIRECTED, "a W that is not symmetric"), (topology("path", 5).at(0), "a path of five clients")):
        given = W.copy(), X.copy()
        try:
            answer = np.asarray(yours(*given))
        except NotImplementedError:
            return "Not yet: replace the line that raises NotImplementedError, and run the cell again."
        except Exception as error:
            return f"Not yet: your function stopped with {type(error).__name__}: {error}"
        if said := _diagnosis(answer, W, X, given):
            return f"Not yet, on {where}: {said}"
    return "Right: yours is the library's own mixing, on a symmetric W and on one that is not."


def _diagnosis(answer: np.ndarray, W: np.ndarray, X: np.ndarray, given: tuple[np.ndarray, np.ndarray]) -> str:
    """Return what is wrong with the answer, or nothing where it is right."""
    if answer.shape != X.shape:
        return f"the answer has shape {answer.shape}; it must have the shape of X, {X.shape}, a row for each client."
    if not (np.array_equal(given[0], W) and np.array_equal(given[1], X)):
        return "your function changed W or X in place. All clients mix at once: read the old rows, write new ones."
    if answer.dtype.kind not in "fiu" or not np.isfinite(answer).all():
        return "some entries are not finite numbers."
    if np.allclose(answer, solution_mix(W, X), rtol=1e-9, atol=1e-12):
        return ""
    made = (m.words for m in MISTAKES if np.allclose(answer, m.computes(W, X), rtol=1e-9, atol=1e-12))
    row = int(np.abs(answer - solution_mix(W, X)).max(1).argmax())
    got, wanted = answer[row].round(3).tolist(), solution_mix(W, X)[row].round(3).tolist()
    return next(made, f"row {row} is {got}, and it should be {wanted}: sum w_ij x_j over j, with i = {row}.")


def _apart(W: np.ndarray) -> np.ndarray:
    return W - np.diag(np.diag(W))


def _degree_weights(W: np.ndarray, X: np.ndarray) -> np.ndarray:
    heard = (W != 0).astype(np.float64)
    return heard @ X / heard.sum(1, keepdims=True)


def _neighbours_alone(W: np.ndarray, X: np.ndarray) -> np.ndarray:
    heard = (_apart(W) != 0).astype(np.float64)
    return heard @ X / heard.sum(1, keepdims=True)


def _one_after_another(W: np.ndarray, X: np.ndarray) -> np.ndarray:
    mixed = X.copy()
    for i in range(len(W)):
        mixed[i] = W[i] @ mixed
    return mixed


MISTAKES = (
    Mistake(lambda W, X: W.T @ X, "rows and columns are exchanged. w_ij is what client i takes from client j, so row i of W "
            "makes row i of the answer; you used column i (a transposed W)."),
    Mistake(lambda W, X: _apart(W) @ X, "a client forgot its own share w_ii, so its shares no longer sum to one."),
    Mistake(lambda W, X: X + _apart(W) @ X, "shares do not sum to one: you kept the whole own model and added the others' "
            "shares. The own model counts w_ii."),
    Mistake(lambda W, X: (W != 0) @ X, "you summed the models that a client hears, without their shares w_ij; shares that sum "
            "to one make it an average."),
    Mistake(_degree_weights, "you averaged equally over all that a client hears (degree weights): rows sum to one, columns do "
            "not, so the network's mean moves. Use the shares that stand in W."),
    Mistake(_neighbours_alone, "you averaged the neighbours equally and forgot the own share. Use the shares that stand in W."),
    Mistake(lambda W, X: np.broadcast_to(X.mean(0), X.shape), "every client got the mean of all. That takes a complete graph; "
            "here each one hears its neighbours only."),
    Mistake(lambda W, X: X, "nothing moved: this is X as it was."),
    Mistake(lambda W, X: W @ W @ X, "this is two mixings; do one."),
    Mistake(_one_after_another, "later clients used models that were already mixed. All mix at once: read old rows, write new "
            "ones."),
)
DIRECTED = np.array([  # doubly stochastic, not symmetric, and not regular
    [0.5, 0.3, 0.0, 0.0, 0.2],
    [0.0, 0.4, 0.6, 0.0, 0.0],
    [0.1, 0.2, 0.4, 0.3, 0.0],
    [0.4, 0.0, 0.0, 0.5, 0.1],
    [0.0, 0.1, 0.0, 0.2, 0.7],
])  # fmt: skip
