"""Proofs by whole numbers: what float64 numbers are, exactly, and that a symmetric matrix is positive definite."""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from deca_lab.mixing.graphs import Array

Whole = NDArray[np.object_]  # of Python's ints, which never overflow


def digits(A: Array) -> tuple[Whole, int]:
    """Return whole numbers and the K with which A is exactly numbers / 2^K: every finite float64 is such a fraction."""
    ratios = [float(a).as_integer_ratio() for a in np.ravel(A)]
    places = max(below.bit_length() for _, below in ratios) - 1
    numbers = [above * (2**places // below) for above, below in ratios]
    return np.array(numbers, dtype=object).reshape(np.shape(A)), places


def positive_definite(A: Whole) -> bool:
    """Say whether a symmetric matrix of whole numbers is positive definite.

    Bareiss's elimination: no division leaves a rest, and the pivots are the leading principal minors, which are all
    positive exactly if the matrix is positive definite (Sylvester).
    """
    before = 1
    while len(A):
        pivot = A[0, 0]
        if pivot <= 0:
            return False
        A, before = (pivot * A[1:, 1:] - np.outer(A[1:, 0], A[0, 1:])) // before, pivot
    return True


def root_above(square: Fraction) -> float:
    """Return a float64 that is no less than the root of an exact number of at least 0."""
    root = float(square) ** 0.5
    while Fraction(root) ** 2 < square:
        root = float(np.nextafter(root, np.inf))
    return float(root)
