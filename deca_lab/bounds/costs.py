"""Memory and traffic: what a run must send and hold, by closed forms, beside what it sent and held.

Claim       Bytes sent by all, equal to the byte:
              DECA, B blocks of D_1 .. D_B numbers, T rounds, R inner steps, E edges:     2 E T R s (D_1 + ... + D_B)
              all parameters at once (D-Adam), B = 1:                                     2 E T R s D
              gradient tracking, mixed second moments: twice that;   mixing every K steps, K a divisor of R: R / K for R
              LoRA of rank r on matrices of (in, out):                                    2 E T R s r sum (in + out)
            Bytes held at the peak, activations excluded, N clients, M = N s D bytes of weights:
              DECA, float32:           M + 4 N s max_k D_k;     with B equal blocks         M + 4 M / B
              DECA, half precision:    M + 10 M / B             (the paper's form)
              D-Adam, float32:         M + 4 M
Hypotheses  s bytes a number (4, or 2 in half precision, whose messages and moments have 4); each message one edge one way.
Symbols     E: edges of the graph; the rest: knobs of the RunConfig.
Source      derived; M + 10 M / B as read in a transcription of DECA's paper.
Tight       exact for traffic; for memory up to scalars beside the blocks' own tensors (1 %, named as rounding).
Proof       theory/costs.ipynb: one line a term.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deca_lab.algorithm import loop as tr
from deca_lab.algorithm.blocks import Block, whole
from deca_lab.algorithm.gradients import Batch, Gradients, Loss, stacked
from deca_lab.algorithm.moments import Adam, Feedback, raw
from deca_lab.algorithm.optimisers import Optimiser, adam, mixed_adam, tensors
from deca_lab.algorithm.problems import Problem
from deca_lab.algorithm.stacking import Layout, Params
from deca_lab.bounds.bound import Bound
from deca_lab.errors import check
from deca_lab.lab.ledger import Meter
from deca_lab.mixing.topology import Topology, topology

SOURCE = "derived"
SMALL_TENSORS = 0.01  # of the peak: counts, scalars, indices


class Run(NamedTuple):
    """What the closed forms need of a run: sizes of its blocks in numbers, edges, clients, and how often it mixes."""

    widths: tuple[int, ...]
    edges: int
    clients: int
    rounds: int
    inner_steps: int
    mix_every: int = 1
    tracked: int = 0  # matrices that travel besides X
    half: bool = False
    state: int = 2  # matrices that the optimiser holds


def sent(run: Run) -> int:
    """Return the bytes that all clients send, for blocks visited in turn and mix_every that divides a visit."""
    check(
        run.inner_steps % run.mix_every == 0,
        "mix_every",
        run.mix_every,
        f"a divisor of the {run.inner_steps} inner steps",
    )
    each = run.rounds * (run.inner_steps // run.mix_every) * 2 * run.edges * 4 * (1 + run.tracked)
    return each * sum(run.widths)


def held(run: Run) -> int:
    """Return the bytes of all clients at the peak: weights, and state, gradient and one buffer of the widest block."""
    weights = run.clients * sum(run.widths) * (2 if run.half else 4)
    master = 4 if run.half else 0
    return weights + run.clients * max(run.widths) * (master + 4 * (run.state + 2))


def papers(run: Run) -> float:
    """Return M + 10 M / B of a half-precision run: master, gradient, m, v and the neighbours' average of one of B blocks."""
    weights = run.clients * sum(run.widths) * 2
    return weights * (1 + 10 / len(run.widths))


def adapter_numbers(rank: int, shapes: Mapping[str, tuple[int, int]]) -> int:
    """Return how many numbers LoRA's factors of that rank have: r (in + out) a matrix."""
    return sum(rank * (inside + outside) for inside, outside in shapes.values())


def laid_out(
    shapes: Mapping[str, tuple[int, ...]],
    cut: Sequence[Block],
    graph: Topology,
    optimiser: Optimiser,
    rounds: int = 2,
    inner_steps: int = 4,
    mix_every: int = 1,
    half: bool = False,
) -> tr.Plan:
    """Return the plan of a run whose parameters have these shapes (of one client); the loss is linear: costs do not mind."""
    kind = torch.bfloat16 if half else torch.float32
    start = {name: torch.zeros(graph.n, *shape, dtype=kind) for name, shape in shapes.items()}
    slopes = torch.linspace(-1, 1, graph.n, dtype=kind)

    def loss(params: Params, slope: Batch) -> Tensor:
        total: Tensor = slope * torch.stack([p.sum() for p in params.values()]).sum()
        return total

    recipe = tr.Recipe(rounds, inner_steps, lambda s: 1e-3, optimiser, mix_every=mix_every)
    return tr.plan(Problem(start, loss, lambda step: slopes), cut, graph, recipe)


def measured(plan: tr.Plan) -> tuple[int, int]:
    """Return the bytes that the library's run sent, and the most that it held without what gradients need meanwhile."""
    meter, most = Meter(), 0

    def engine(loss: Loss) -> Gradients:
        def gradients(
            x: Tensor, where: Layout, rest: Params, batch: Batch
        ) -> tuple[Tensor, Tensor]:
            result = stacked(loss)(x, where, rest, batch)
            meter.most = 0
            return result

        return gradients

    state = tr.begin(plan)
    steps = tr.train(plan, state, engine, donate=True)
    for _ in range(plan.steps):
        meter.watch(
            [*state.blocks, *(t for moments in state.moments.values() for t in tensors(moments))]
        )
        with meter:
            state, _ = next(steps)
        most = max(most, meter.most)
    return int(state.sent.sum()), most


def costs(plan: tr.Plan, misstate: Callable[[Run], Run] = lambda run: run) -> Bound:
    """Return bytes sent (entry 1) and held (entry 2) by a run of the library beside the closed forms: equal.

    `misstate` may change what the closed forms are given, to see what breaks.
    """
    run = misstate(facts(plan))
    rhs = np.array([float(sent(run)), float(held(run))])
    return Bound(
        np.array(measured(plan), dtype=np.float64),
        rhs,
        "bytes sent and held",
        SOURCE,
        axis="entry",
        rounding=np.array([0.0, SMALL_TENSORS * rhs[1]]),
        equal=True,
    )


def facts(plan: tr.Plan) -> Run:
    """Return what the closed forms need of a plan."""
    widths, edges = (
        tuple(where.width for where in plan.layouts),
        int((plan.channel.messages(0) * (np.diff(plan.channel.links)[:, 0] > 0)).sum()),
    )
    half = next(iter(plan.problem.start.values())).element_size() < 4
    return Run(
        widths,
        edges,
        plan.topology.n,
        plan.recipe.rounds,
        plan.recipe.inner_steps,
        plan.recipe.mix_every,
        plan.recipe.optimiser.mixed,
        half,
        plan.recipe.optimiser.matrices,
    )


def blocks_of(sizes: Sequence[int]) -> tuple[dict[str, tuple[int, ...]], tuple[Block, ...]]:
    """Return shapes of one tensor a block, and the blocks."""
    shapes: dict[str, tuple[int, ...]] = {f"x{k}": (size,) for k, size in enumerate(sizes)}
    return shapes, tuple(Block(name, (name,)) for name in shapes)


def examples(seed: int = 0) -> dict[str, Bound]:
    """Return DECA with unequal blocks, in half precision, mixed seldom; all parameters at once; its repair; LoRA of rank 8."""
    ring, plain = topology("ring", 6), adam(Adam(), Feedback(None, raw, 1.0, 1.0))
    equal, lora = blocks_of([6000] * 4), {"A": (8, 256), "B": (768, 8)}
    return {
        "DECA, unequal blocks": costs(laid_out(*blocks_of([5000, 12000, 7000]), ring, plain)),
        "DECA, half precision": costs(laid_out(*equal, ring, plain, half=True)),
        "DECA, mixed every 2 steps": costs(laid_out(*equal, ring, plain, mix_every=2)),
        "all parameters at once": costs(laid_out(*blocks_of([24000]), ring, plain)),
        "DECA, second moments mixed": costs(
            laid_out(*equal, ring, mixed_adam(Adam(), Feedback(None, raw, 1.0, 1.0)))
        ),
        "LoRA, rank 8": costs(laid_out(lora, whole(list(lora)), ring, plain)),
    }


def broken(seed: int = 0) -> Bound:
    """Return unequal blocks beside the closed form of equal ones, M + 4 M / B."""
    plan = laid_out(
        *blocks_of([5000, 12000, 7000]),
        topology("ring", 6),
        adam(Adam(), Feedback(None, raw, 1.0, 1.0)),
    )
    return costs(plan, lambda run: run._replace(widths=(sum(run.widths) // 3,) * 3))
