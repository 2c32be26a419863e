"""The exercises' checks: the solution passes, each usual mistake is told apart, and no answer makes a check fall over."""

import numpy as np
import pytest

from deca_lab import exercises as ex


def test_the_solution_passes_and_so_does_the_plain_product():
    assert ex.check_mix(ex.solution_mix).startswith("Right")
    assert ex.check_mix(lambda W, X: W @ X).startswith("Right")


def test_the_unsolved_stub_is_told_what_to_do():
    def stub(W, X):
        raise NotImplementedError

    assert ex.check_mix(stub).startswith("Not yet: replace the line")


@pytest.mark.parametrize(("yours", "words"), [
    (lambda W, X: W.T @ X, "a transposed W"),
    (lambda W, X: (W - np.diag(np.diag(W))) @ X, "forgot its own share w_ii"),
    (lambda W, X: X + (W - np.diag(np.diag(W))) @ X, "shares do not sum to one"),
    (lambda W, X: (W > 0) @ X, "without their shares"),
    (lambda W, X: (W > 0) @ X / (W > 0).sum(1, keepdims=True), "degree weights"),
    (lambda W, X: np.tile(X.mean(0), (len(X), 1)), "complete graph"),
    (lambda W, X: X, "nothing moved"),
    (lambda W, X: W @ (W @ X), "two mixings"),
    (lambda W, X: W @ X[:, 0], r"has shape (5,)"),
    (lambda W, X: W @ X + 1, "should be"),
    (lambda W, X: W @ X * np.nan, "not finite"),
    (lambda W, X: W @ X.T, "stopped with ValueError"),
    (lambda W, X: None, "has shape ()"),
])  # fmt: skip
def test_each_usual_mistake_has_its_words(yours, words):
    said = ex.check_mix(yours)
    assert said.startswith("Not yet")
    assert words in said


def test_mixing_one_after_another_is_told_apart_from_changing_in_place():
    def later_ones_use_mixed(W, X):
        mixed = X.copy()
        for i in range(len(W)):
            mixed[i] = W[i] @ mixed
        return mixed

    def in_place(W, X):
        X[:] = W @ X
        return X

    assert "already mixed" in ex.check_mix(later_ones_use_mixed)
    assert "in place" in ex.check_mix(in_place)


def test_no_two_mistakes_look_alike_and_the_matrix_is_doubly_stochastic():
    X = np.arange(10.0).reshape(5, 2) ** 2 - 7
    np.testing.assert_allclose([ex.DIRECTED.sum(0), ex.DIRECTED.sum(1)], 1)
    answers = [m.computes(ex.DIRECTED, X) for m in ex.MISTAKES]
    for k, one in enumerate(answers):
        assert not np.allclose(one, ex.solution_mix(ex.DIRECTED, X))
        assert not any(np.allclose(one, other) for other in answers[:k])
