"""A Markov source: text whose entropy rate is known exactly, so that a loss can be read against its floor."""

import numpy as np

from deca_lab.errors import check

ALPHABET = "etaoinshrdlucmfwypvbgkjqxz .,;:!?0123456789ETAOINSHRDLUCMFWYPVBGKJQXZ"


def transitions(symbols: int, concentration: float, rng: np.random.Generator) -> np.ndarray:
    """A random (A, A) matrix; rows are Dirichlet(concentration) with 1 % of the uniform law mixed in: all > 0."""
    rows = rng.dirichlet(np.full(symbols, concentration), size=symbols)
    return 0.99 * rows + 0.01 / symbols


def stationary(matrix: np.ndarray) -> np.ndarray:
    """The law pi (A,) with pi P = pi of an irreducible chain P (A, A): solve (P^T - I) pi = 0 with sum 1."""
    size = _checked(matrix).shape[0]
    system = np.vstack([matrix.T - np.eye(size), np.ones(size)])
    solved = np.linalg.lstsq(system, np.append(np.zeros(size), 1.0), rcond=None)[0]
    pi: np.ndarray = np.clip(solved, 0.0, None) / np.clip(solved, 0.0, None).sum()
    return pi


def entropy_rate(matrix: np.ndarray) -> float:
    """sum_a pi_a H(P[a, :]) in nats a symbol (Cover and Thomas, Elements of Information Theory, theorem 4.2.4)."""
    logs = np.log(np.where(matrix > 0, matrix, 1.0))
    return float(-stationary(matrix) @ (matrix * logs).sum(axis=1))


def sample(matrix: np.ndarray, rows: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `rows` independent paths (rows, length) int64 of the chain, each started from the stationary law."""
    steps = np.cumsum(_checked(matrix), axis=1)  # (A, A)
    start = np.cumsum(stationary(matrix))
    draws = rng.random((length, rows))
    top = len(matrix) - 1  # the last cumulative sum may be 1 - 1e-16
    paths = np.empty((length, rows), dtype=np.int64)
    paths[0] = np.minimum((start < draws[0, :, None]).sum(axis=1), top)
    for t in range(1, length):
        paths[t] = np.minimum((steps[paths[t - 1]] < draws[t, :, None]).sum(axis=1), top)
    return paths.T


def _checked(matrix: np.ndarray) -> np.ndarray:
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]
    check(square, "matrix", matrix.shape, "square")
    sums = bool((matrix >= 0).all()) and bool(np.allclose(matrix.sum(axis=1), 1.0, atol=1e-9))
    check(sums, "matrix", matrix.tolist(), "non-negative with rows that sum to 1")
    return matrix


def chains(labels: int, symbols: int, concentration: float, seed: int) -> np.ndarray:
    """One transition matrix for each label: (labels, A, A)."""
    check(labels >= 1, "sources", labels, "at least 1")
    check(2 <= symbols <= len(ALPHABET), "symbols", symbols, f"from 2 to {len(ALPHABET)}")
    check(0 < concentration < np.inf, "concentration", concentration, "positive and finite")
    draws = (np.random.default_rng([seed, i, 0]) for i in range(labels))
    return np.stack([transitions(symbols, concentration, rng) for rng in draws])


def texts(matrix: np.ndarray, rows: int, length: int, rng: np.random.Generator) -> list[str]:
    """`rows` texts of `length` characters each (one byte a character) drawn from one chain."""
    check(rows >= 1, "rows", rows, "at least 1")
    check(length >= 1, "length", length, "at least 1")
    letters = np.array(list(ALPHABET))
    return ["".join(letters[path]) for path in sample(matrix, rows, length, rng)]
