"""Own pieces: what is right is kept and used, what is not is replaced by the library's, and both are said."""

import numpy as np
import pytest
import torch

from deca_lab.algorithm import moments as mo
from deca_lab.algorithm.blocks import Block
from deca_lab.algorithm.loop import Recipe, plan, train
from deca_lab.algorithm.optimisers import adam
from deca_lab.algorithm.problems import Problem
from deca_lab.course.exercises import EXERCISES
from deca_lab.course.own import keep, mine_or_ours
from deca_lab.errors import BadInput
from deca_lab.mixing.topology import topology

SCALE = 1.0


def mix(W, X):
    """A learner's own."""
    return np.asarray(W) @ np.asarray(X)


def rho(W):
    return 0.5


def perplexity(losses):
    return SCALE * np.exp(np.mean(losses))


def test_a_right_piece_is_kept_and_used_and_the_others_are_the_library_s(tmp_path):
    assert keep(mix, tmp_path) == f"Kept: later lessons run your mix, from {tmp_path / 'mix.py'}."
    assert "rho is not solved" in keep(rho, tmp_path)
    assert "names from other cells" in keep(perplexity, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mix.py"]
    own, ours, words = mine_or_ours("mix", "rho", folder=tmp_path)
    assert own.__doc__ == mix.__doc__
    assert ours is EXERCISES["rho"].solution
    assert words == "Yours: mix. The library's: rho."


def test_a_function_stands_for_itself():
    assert mine_or_ours(mix) == (mix, "Yours: mix.")
    ours = EXERCISES["mix"].solution  # handed over once more, when a cell is run twice
    assert mine_or_ours(ours) == (ours, "The library's: mix.")
    assert mine_or_ours(rho) == (EXERCISES["rho"].solution, "The library's: rho.")


@pytest.mark.parametrize("text", ["def mix(W, X):\n    return X", "def mix(:", "x = 1", "1 / 0"])
def test_a_file_that_is_wrong_or_broken_is_not_used(tmp_path, text):
    (tmp_path / "mix.py").write_text(text)
    assert mine_or_ours("mix", folder=tmp_path)[0] is EXERCISES["mix"].solution


def test_what_is_no_exercise_is_refused(tmp_path):
    with pytest.raises(BadInput, match="unknown exercise 'gosip': did you mean 'gossip'"):
        mine_or_ours("gosip", folder=tmp_path)
    with pytest.raises(BadInput, match="unknown exercise"):
        keep(keep, tmp_path)


def plain_step(W, X, G, m, v, steps, lr):
    """One inner step of DECA, written out."""
    m, v = 0.9 * m + 0.1 * G, 0.999 * v + 0.001 * G * G
    step = m / (1 - 0.9 ** (steps + 1)) / (torch.sqrt(v / (1 - 0.999 ** (steps + 1))) + 1e-8)
    new = W @ (X - lr * step)
    h = new - X
    return new, 0.99 * m + 0.01 * h, 0.999 * v + 0.001 * h * h


def test_the_pieces_put_together_are_the_library_s_run_to_twelve_digits():
    """Seven lines, and the library's own loop with autograd, on coupled quadratics with fresh noise."""
    draw = torch.Generator().manual_seed(3)
    A = torch.randn(4, 5, 5, generator=draw, dtype=torch.float64)
    c = torch.randn(4, 5, generator=draw, dtype=torch.float64)
    noise = torch.randn(30, 4, 5, generator=draw, dtype=torch.float64)
    X = (torch.ones(4, 3, dtype=torch.float64), torch.zeros(4, 2, dtype=torch.float64))

    def gradient(k, X, step):
        x = torch.cat(list(X), 1)
        error = torch.einsum("nij,nj->ni", A, x) - c - noise[step]
        return torch.einsum("nij,ni->nj", A, error)[:, slice(0, 3) if k == 0 else slice(3, 5)]

    def loss(params, batch):
        return (batch[0] @ torch.cat([params["p"], params["q"]]) - batch[1]).square().sum() / 2

    problem = Problem({"p": X[0], "q": X[1]}, loss, lambda step: (A, c + noise[step]))
    optimiser = adam(mo.Adam(), mo.Feedback(mo.printed, mo.raw, 0.99, 0.999))
    recipe = Recipe(3, 5, lambda step: 0.02, optimiser)
    laid = plan(problem, [Block("p", ("p",)), Block("q", ("q",))], topology("ring", 4), recipe)
    theirs = [torch.cat(state.blocks, 1) for state, _ in train(laid)]
    W = torch.from_numpy(topology("ring", 4).at(0))
    for step in (plain_step, EXERCISES["deca_step"].solution):
        path = EXERCISES["deca"].solution(step, gradient, W, X, 3, 5, 0.02)
        assert len(path) == 30
        assert (torch.cat(path[-1], 1) - theirs[-1]).abs().max() < 1e-12


def test_rest_points_and_settled_steps_are_where_the_methods_really_end():
    W = torch.from_numpy(topology("ring", 4).at(0))
    A = EXERCISES["rest_point"].cases["a long step"][1]
    b = EXERCISES["rest_point"].cases["a long step"][2]
    rest = EXERCISES["rest_point"].solution(W, A, b, 0.05)
    moved = EXERCISES["descend"].solution(W, A, b, torch.zeros_like(b), 0.05, 20_000)
    torch.testing.assert_close(moved, rest)
    x, state = torch.zeros(1, 1, dtype=torch.float64), mo.start(torch.zeros(1, 1).double())
    for _ in range(20_000):
        step, state = mo.adam_(state, torch.ones_like(x), mo.Adam(0.9, 0.99, 1e-12))
        state = mo.feed_(state, x, x, 0.1, mo.Feedback(mo.zero, mo.raw, 0.8, 0.95))
    assert float(step) == pytest.approx(
        EXERCISES["settled_step"].solution(0.9, 0.99, 0.8, 0.95), rel=1e-6
    )
