"""Exercises of lesson 4: which block trains when, and what a visit to it sends."""

import numpy as np
import torch

from deca_lab.algorithm import optimisers
from deca_lab.algorithm.blocks import sequence, visits, whole
from deca_lab.algorithm.loop import Recipe, plan
from deca_lab.algorithm.problems import Problem
from deca_lab.course.exercises.exercise import Exercise, Mistake
from deca_lab.lab import ledger
from deca_lab.mixing.graphs import Array
from deca_lab.mixing.topology import Topology, topology

FLOAT = 4  # bytes of a float32
RESTLESS = np.array([[0.0, 0.5, 0.5], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5]])


def active_block(step: int, blocks: int, inner_steps: int) -> int:
    """Return the block that trains at an inner step, counted from 0 over the whole run, of a run in the paper's order."""
    table = visits(blocks, step // (blocks * inner_steps) + 1, inner_steps, sequence)
    return next(visit.block for visit in table if visit.first <= step <= visit.last)


def visit_bytes(W: Array, columns: int, inner_steps: int) -> int:
    """Return the bytes that all clients together send in one visit to a block of `columns` float32 numbers."""
    problem = Problem(
        {"x": torch.zeros(len(W), columns)},
        lambda params, batch: params["x"].sum(),
        lambda step: None,
    )
    recipe = Recipe(1, inner_steps, lambda step: 0.0, optimisers.sgd())
    return int(ledger.traffic(plan(problem, whole(["x"]), Topology("given", (W,)), recipe)).sum())


def _messages(W: Array) -> int:
    return int((W != 0).sum() - (np.diag(W) != 0).sum())


ACTIVE_BLOCK = Exercise(
    name="active_block",
    about="schedule",
    solution=active_block,
    cases={
        f"inner step {s} of a run with {k} blocks and {r} inner steps in a visit": (s, k, r)
        for s, k, r in ((0, 3, 4), (3, 3, 4), (4, 3, 4), (14, 3, 4), (47, 5, 3))
    },
    mistakes=(
        Mistake(
            lambda s, k, r: s % k,
            "you moved on to the next block after every step. A visit lasts inner_steps of them.",
        ),
        Mistake(
            lambda s, k, r: s // r,
            "this is the number of the visit, which grows for ever. After the last block a new round "
            "begins with block 0.",
        ),
        Mistake(
            lambda s, k, r: s // k % r, "number of blocks and length of a visit are exchanged."
        ),
        Mistake(
            lambda s, k, r: (s + 1) // r % k,
            "one step too early: steps are counted from 0, so the first visit is steps 0 "
            "to inner_steps - 1.",
        ),
        Mistake(lambda s, k, r: s // r % k + 1, "blocks are counted from 0."),
        Mistake(lambda s, k, r: s % r, "this is the step within the visit."),
        Mistake(lambda s, k, r: s // (k * r), "this is the number of the round."),
        Mistake(
            lambda s, k, r: k - 1 - s // r % k,
            "you went from the last block to the first; the paper's order begins with "
            "the embeddings, block 0.",
        ),
    ),
    hints=(
        "First: which visit is it? A visit lasts inner_steps steps.",
        "Visits go through the blocks in turn and begin again: // for the visit, then % for the block.",
    ),
)
VISIT_BYTES = Exercise(
    name="visit_bytes",
    about="ledger of a visit",
    solution=visit_bytes,
    cases={
        "a path of five clients": (topology("path", 5).at(0), 60, 7),
        "three clients of whom one keeps nothing of itself": (RESTLESS, 10, 4),
    },
    mistakes=(
        Mistake(
            lambda W, d, r: (W != 0).sum() * d * FLOAT * r,
            "you counted what a client sends to itself: the diagonal of W is no message.",
        ),
        Mistake(
            lambda W, d, r: ((W != 0).sum() - len(W)) * d * FLOAT * r,
            "you took one entry a client off for the diagonal. Who keeps nothing of itself has none there.",
        ),
        Mistake(
            lambda W, d, r: _messages(W) * d * r,
            "these are numbers, not bytes: a float32 has four.",
        ),
        Mistake(
            lambda W, d, r: _messages(W) * d * FLOAT,
            "this is one mixing; a visit has one after each of its inner steps.",
        ),
        Mistake(
            lambda W, d, r: _messages(W) // 2 * d * FLOAT * r,
            "you counted each edge once. Both ends send their model: two messages an edge.",
        ),
        Mistake(
            lambda W, d, r: len(W) * (len(W) - 1) * d * FLOAT * r,
            "here everybody sends to everybody. Only where W has a share does a model travel.",
        ),
        Mistake(
            lambda W, d, r: len(W) * d * FLOAT * r,
            "you counted one message a client. It sends a copy to each neighbour.",
        ),
        Mistake(
            lambda W, d, r: _messages(W) * d * 2 * FLOAT * r,
            "twice too much: neither gradients nor moments travel, and a "
            "float32 has four bytes, not eight.",
        ),
    ),
    hints=(
        "A message is one client's row of the active block: columns times four bytes. How many messages has one mixing?",
        "Count the entries of W that are not zero, without the diagonal. Multiply by the mixings of a visit, one for each inner "
        "step.",
    ),
)
EXERCISES = (ACTIVE_BLOCK, VISIT_BYTES)
