"""The one form of error: what was given, what is allowed, which argument."""

import numpy as np
import pytest
import torch

from deca_lab.algorithm import loop as tr
from deca_lab.algorithm.blocks import Block
from deca_lab.algorithm.optimisers import sgd
from deca_lab.algorithm.problems import Problem
from deca_lab.errors import BadInput, Diverged, check, first_line, pick
from deca_lab.lab import runs
from deca_lab.mixing.topology import topology

TABLE = {"ring": 1, "star": 2, "complete": 3, "torus": None}


def test_a_notebook_shows_bad_input_as_one_line():
    with pytest.raises(BadInput) as raised:
        check(False, "n", 0, "from 1 up")
    assert raised.value._render_traceback_() == [f"BadInput: {raised.value}"]


def test_pick_returns_the_row_whatever_it_is():
    assert pick(TABLE, "star", "topology") == 2
    assert pick(TABLE, "torus", "topology") is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "rings",
            "unknown topology 'rings': did you mean 'ring'? allowed: complete, ring, star, torus",
        ),
        (
            "stars",
            "unknown topology 'stars': did you mean 'star' or 'torus'? allowed: complete, ring, star, torus",
        ),
        ("zzz", "unknown topology 'zzz': allowed: complete, ring, star, torus"),
        ("", "unknown topology '': allowed: complete, ring, star, torus"),
        ("it's", 'unknown topology "it\'s": allowed: complete, ring, star, torus'),
    ],
)
def test_pick_says_the_nearest_and_all(given, message):
    with pytest.raises(BadInput) as caught:
        pick(TABLE, given, "topology")
    assert str(caught.value) == message
    assert "\n" not in message


def test_pick_offers_at_most_three():
    with pytest.raises(BadInput) as caught:
        pick(dict.fromkeys(f"ring{i}" for i in range(9)), "ring", "graph")
    assert str(caught.value).split("?")[0].count(" or ") == 2


def test_check_passes_or_says_argument_value_and_what_is_allowed():
    check(True, "lr", -1, "greater than 0")
    with pytest.raises(BadInput) as caught:
        check(False, "lr", -1.0, "greater than 0")
    assert str(caught.value) == "lr = -1.0 cannot be used: it must be greater than 0"
    with pytest.raises(
        BadInput, match=r"^name = 'a\\nb' cannot be used"
    ):  # one line, whatever was given
        check(False, "name", "a\nb", "one line")


def test_their_kinds():
    assert issubclass(BadInput, ValueError)
    assert issubclass(Diverged, ArithmeticError)
    assert not issubclass(Diverged, ValueError)


@pytest.mark.parametrize("clients", [2, 3, 4])
def test_a_parameter_that_is_not_finite_names_the_client_even_with_as_many_blocks(clients):
    names = ["a", "b", "c"]
    start = {name: torch.zeros(clients, 2) for name in names}
    problem = Problem(start, lambda p, batch: p["a"].sum(), lambda step: torch.zeros(clients))
    blocks = [Block(f"block {name}", (name,)) for name in names]
    plan = tr.plan(
        problem, blocks, topology("complete", clients), tr.Recipe(1, 1, lambda s: 0.1, sgd())
    )
    bad = torch.zeros(clients, 2)
    bad[1, 0] = np.inf  # client 1, in the block number 2
    state = tr.begin(plan)._replace(step=3)
    state = state._replace(blocks=(*state.blocks[:2], bad))
    with pytest.raises(Diverged, match=r"for client 1 at inner step 2 in block 'block c'"):
        runs._require_finite(plan, state.step - 1, runs._wild(state), "model", None)


def test_bad_input_is_one_line_whatever_another_package_says():
    assert str(BadInput("a file: too long.\nadvice\u2028more")) == "a file: too long. advice more"
    assert first_line(ValueError("\n too long.\nadvice")) == "too long."
    assert first_line(OSError()) == "OSError"
    assert len(first_line(ValueError("x" * 1000))) == 300


@pytest.mark.parametrize(
    "act",
    [
        lambda: runs.run(progress=True),
        lambda: runs.resume("nowhere", progress=3),
        lambda: runs.resume(None),
    ],
)
def test_a_progress_that_is_no_function_and_a_folder_that_is_no_path_are_refused_at_once(act):
    with pytest.raises(BadInput, match=r"^(progress|folder) = "):
        act()
