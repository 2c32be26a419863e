"""How the cost of a DECA step grows with clients, parameters, degree and processes; and what more clients cost on a GPU."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from statistics import median
from typing import NamedTuple

import networkx as nx
import torch
from torch import Tensor

from deca_lab.algorithm import optimisers as op
from deca_lab.algorithm.blocks import Block
from deca_lab.algorithm.compiled import missing
from deca_lab.algorithm.gradients import Batch, compiled, recorded, stacked
from deca_lab.algorithm.loop import Plan, Recipe, plan
from deca_lab.algorithm.moments import Adam, Feedback, printed, raw
from deca_lab.algorithm.problems import Problem
from deca_lab.algorithm.stacking import Params, flatten, layout, replicate
from deca_lab.bench.ranks import CONFIG, asked, started
from deca_lab.lab.prepare import prepare
from deca_lab.mixing.topology import topology
from deca_lab.models import causal_lm

CLIENTS, PARAMETERS, DEGREES = (8, 64, 512, 4096), (2**10, 2**14, 2**18), (2, 8, 32)
PROCESSES = (1, 2, 4)
DEALT = replace(CONFIG, clients=8)  # a run whose clients are dealt to processes
CROWD, FUSED = (
    (1, 4, 16, 64),
    16,
)  # clients of a language model on a GPU, and those that are compiled too


class Size(NamedTuple):
    """One size of the sweep: which of the three grows, to what, and the plan of a run of that size."""

    what: str
    at: int
    plan: Plan


def sizes(device: torch.device, steps: int) -> Iterator[Size]:
    """Yield runs of so many inner steps that grow in clients, in parameters of each, and in neighbours of each."""
    laid = partial(_laid, device, steps)
    for n in CLIENTS:
        yield Size("clients", n, laid(n, 2**10, 2))
    for d in PARAMETERS:
        yield Size("parameters", d, laid(CLIENTS[1], d, 2))
    for degree in DEGREES:
        yield Size("degree", degree, laid(CLIENTS[1], 2**14, degree))


def over_processes(repeats: int) -> Iterator[tuple[int, float]]:
    """Yield (processes, seconds) of an inner step of the same eight clients on this machine; a process has one thread.

    The first repeat, which warms up, does not count. Raises PeerLost where a process fails.
    """
    steps = prepare(DEALT).plan.steps
    for count in PROCESSES:
        with started([()] * count) as ranks:
            turns = asked(ranks, DEALT, repeats + 1)[1:]
        yield count, median(turn["seconds"] for turn in turns) / steps


def _laid(device: torch.device, steps: int, clients: int, d: int, degree: int) -> Plan:
    """Return DECA on a least-squares problem of d parameters, on a ring whose clients hear `degree` others."""
    g = torch.Generator().manual_seed(0)
    scale, target = (torch.rand(clients, d, generator=g).to(device) for _ in range(2))
    start: Params = {"x": torch.zeros(clients, d, device=device)}
    graph = topology(nx.circulant_graph(clients, range(1, degree // 2 + 1)))
    deca = op.adam(Adam(), Feedback(printed, raw, 0.99, 0.999))
    problem = Problem(start, _loss, lambda step: (scale, target))
    return plan(problem, [Block("x", ("x",))], graph, Recipe(1, steps, lambda step: 1e-3, deca))


def _loss(params: Params, batch: Batch) -> Tensor:
    scale, target = batch
    value: Tensor = (scale * params["x"] - target).square().mean()
    return value


class Crowd(NamedTuple):
    """N clients of a language model: the gradient of all by each engine, to be timed."""

    model: str
    clients: int
    works: dict[str, partial[tuple[Tensor, Tensor]]]


def crowds(device: torch.device, batch: int = 4, context: int = 128) -> Iterator[Crowd]:
    """Yield the gradients of ever more clients of a tiny and of a small GPT; those of FUSED clients compiled, too."""
    for name in ("tiny", "small"):
        model = causal_lm.load(name).to(device)
        loss = causal_lm.client_loss(model)
        for n in CROWD:
            start = replicate(causal_lm.trainable(model), n)
            where = layout(start, list(start))
            tokens = torch.randint(3, causal_lm.BYTES, (n, batch, context + 1), device=device)
            engines = {"stacked": stacked, "cuda-graph": recorded}
            if n == FUSED and not missing(device.type):
                engines["compiled"] = compiled
            x, rest = flatten(start, where.names), Params()
            works = {k: partial(e(loss), x, where, rest, tokens) for k, e in engines.items()}
            yield Crowd(name, n, works)
