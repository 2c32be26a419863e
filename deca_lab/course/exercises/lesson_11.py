"""Exercises of lesson 11: what a round of DECA sends, and what it holds."""

import networkx as nx
import torch

from deca_lab.algorithm import optimisers
from deca_lab.algorithm.blocks import Block
from deca_lab.algorithm.loop import Plan, Recipe, plan
from deca_lab.algorithm.moments import Adam, Feedback, raw
from deca_lab.algorithm.problems import Problem
from deca_lab.course.exercises.exercise import Exercise, Mistake
from deca_lab.lab import ledger
from deca_lab.mixing.topology import topology

ADAM = optimisers.adam(Adam(), Feedback(None, raw, 1.0, 1.0))


def round_bytes(
    clients: int, neighbours: int, parameters: int, blocks: int, inner_steps: int
) -> int:
    """Return the bytes that all clients together send in one round of DECA: a visit to each of equal float32 blocks.

    Each client hears an even number of neighbours and mixes after each inner step; `blocks` divides `parameters`.
    """
    graph = nx.circulant_graph(clients, range(1, neighbours // 2 + 1))
    return int(ledger.traffic(_plan(graph, parameters, blocks, inner_steps, torch.float32)).sum())


def memory(weights: int, blocks: int) -> float:
    """Return the bytes that one client holds at its peak, for `weights` bytes in half precision and that many equal blocks.

    Weights, and of the active block: a float32 copy, its gradient, m, v and the neighbours' average. No activations.
    """
    return float(
        ledger.memory(_plan(nx.empty_graph(1), weights // 2, blocks, 1, torch.bfloat16)).peak
    )


def _plan(
    graph: nx.Graph, parameters: int, blocks: int, inner_steps: int, dtype: torch.dtype
) -> Plan:
    """Return one round of DECA on equal blocks, laid out; nothing is held, and nothing runs."""
    names = [f"block {k}" for k in range(blocks)]
    start = {
        name: torch.empty(len(graph), parameters // blocks, dtype=dtype, device="meta")
        for name in names
    }
    problem = Problem(start, lambda params, batch: params[names[0]].sum(), lambda step: None)
    recipe = Recipe(1, inner_steps, lambda step: 0.0, ADAM)
    return plan(problem, [Block(name, (name,)) for name in names], topology(graph), recipe)


ROUND_BYTES = Exercise(
    name="round_bytes",
    about="ledger of a round",
    solution=round_bytes,
    cases={
        "a ring of ten clients": (10, 2, 12_000, 6, 5),
        "nine clients with four neighbours each": (9, 4, 700, 7, 3),
    },
    mistakes=(
        Mistake(
            lambda n, k, p, b, r: n * k * p * r, "these are numbers, not bytes: a float32 has four."
        ),
        Mistake(
            lambda n, k, p, b, r: 4 * n * k * p * b * r,
            "you sent the whole model at each visit. A visit sends its own "
            "block, so that a round sends each block, and with them the model, R times.",
        ),
        Mistake(
            lambda n, k, p, b, r: 4 * n * k * (p // b) * r,
            "this is one visit; a round visits every block.",
        ),
        Mistake(
            lambda n, k, p, b, r: 4 * n * k * p,
            "you mixed once in a visit; DECA mixes after each inner step.",
        ),
        Mistake(
            lambda n, k, p, b, r: 4 * n * k // 2 * p * r,
            "you counted each edge once. Both ends send: two messages an edge.",
        ),
        Mistake(
            lambda n, k, p, b, r: 4 * n * (n - 1) * p * r,
            "here everybody sends to everybody; a client sends to its neighbours only.",
        ),
        Mistake(
            lambda n, k, p, b, r: 4 * n * p * r,
            "you counted one message a client; it sends a copy to each neighbour.",
        ),
        Mistake(
            lambda n, k, p, b, r: 4 * k * p * r, "this is what one client sends; all of them send."
        ),
        Mistake(
            lambda n, k, p, b, r: 3 * 4 * n * k * p * r,
            "you sent the moments as well; in DECA they stay at home.",
        ),
    ),
    hints=(
        "How many messages has one mixing? Each client sends one copy to each neighbour.",
        "A message is parameters / blocks numbers of four bytes; a round has blocks x inner_steps mixings. Which of these "
        "cancel?",
    ),
)
MEMORY = Exercise(
    name="memory",
    about="ledger of memory",
    solution=memory,
    cases={"16 MB of weights and 32 blocks": (16_000_000, 32), "6 kB and 3 blocks": (6_000, 3)},
    mistakes=(
        Mistake(
            lambda m, b: m + 8 * m / b,
            "one of five is missing: float32 copy, gradient, m, v, and the neighbours' average, "
            "each twice the block's share of the weights.",
        ),
        Mistake(
            lambda m, b: m + 5 * m / b,
            "the five extra tensors are in float32, so each takes twice what the block's weights "
            "take in half precision.",
        ),
        Mistake(
            lambda m, b: m + 10 * m,
            "this is full-parameter training: only one block of B has gradient and moments at a "
            "time.",
        ),
        Mistake(
            lambda m, b: 11 * m / b,
            "the weights of all blocks are held, not only the active one's.",
        ),
        Mistake(lambda m, b: 10 * m / b, "the weights themselves are missing."),
        Mistake(
            lambda m, b: m + 10 * b,
            "divide the weights by the number of blocks; you added the number itself.",
        ),
        Mistake(
            lambda m, b: m + 10 * m * b, "more blocks mean smaller ones: divide by their number."
        ),
        Mistake(lambda m, b: m, "these are the weights alone; training needs more."),
        Mistake(
            lambda m, b: 2 * m + 10 * m / b,
            "the weights are counted twice: the float32 copy is of the active block only.",
        ),
    ),
    hints=(
        "List what a client holds besides its weights: float32 copy, gradient, m, v, neighbours' average, of the active block "
        "only.",
        "A float32 number takes twice the bytes of a half-precision one, and a block is weights / blocks bytes.",
        "Five tensors, twice the size, of one block: weights + 10 weights / blocks.",
    ),
)
EXERCISES = (ROUND_BYTES, MEMORY)
