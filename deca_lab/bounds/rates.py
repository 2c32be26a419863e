"""Rates of the papers: the mean squared gradient falls as O(1/sqrt(length)); of a rate, its exponent can be checked.

Claim       With lr = c / sqrt(T B R), the mean over inner steps of || grad f(xbar) ||^2, xbar the clients' mean model, falls
            at least as fast as (T B R)^(-1/2) when T or R grows, and to nothing (DECA). Dec-LoRA with K local steps: the
            same in T, and no loss in K. Decentralised AMSGrad: the same in T. Checked as a law of three terms,
                (start / c + noise c) (T B R)^(-p) + floor,   p >= 1/2,  floor = 0,
            fitted to runs from far away and from the solution together: from far away alone the way that is travelled
            gives -1/2 to any method, one that stalls too (`law`). And N times what noise leaves is the same for all N.
Hypotheses  f smooth and bounded below, noise bounded, runs of a decade at least. The floor that clients with different shards
            put under every Adam whose second moment stays at home is not a hypothesis: where it is seen, the claim fails.
Symbols     T, B, R, c: `RateSetting`; f, its clients and their noise: `Case`; K: `inner_steps` of `dec_lora`; p: `Law`.
Source      DECA, arXiv 2606.03209, O(1/sqrt(TBR)); Dec-LoRA, arXiv 2501.15361, O(1/sqrt T); decentralised AMSGrad,
            arXiv 2109.03194, Theorem 2. The rates are known, their constants are not: nothing here speaks of a line's level.
            Over B nothing is judged: the active block's gradient has 1 / B of whatever there is, a floor too.
Tight       measured: p = .52 to .54 on quadratics of clients that differ little; N times the late gradient within a tenth.
Proof       none of the papers' theorems. theory/rates.ipynb proves the exponent of the active block for one client that takes
            plain steps, and that the gradient of all coordinates cannot have it in B.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import compress
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deca_lab.algorithm import moments as mo
from deca_lab.algorithm import optimisers, stacking
from deca_lab.algorithm.blocks import Block, whole
from deca_lab.algorithm.gradients import Batch, Gradients
from deca_lab.algorithm.loop import Plan, Recipe, State, begin, params_of, plan, train
from deca_lab.algorithm.problems import Problem
from deca_lab.algorithm.stacking import Layout
from deca_lab.bounds.bound import Bound
from deca_lab.bounds.rate_laws import (
    CLAIMED,
    Law,
    Points,
    Squares,
    gathered,
    law,
    student,
    together,
)
from deca_lab.bounds.rate_problems import Case, factorised, quadratic
from deca_lab.errors import check
from deca_lab.lab.metrics import gradient_norm
from deca_lab.mixing.graphs import Array
from deca_lab.mixing.topology import Topology, topology

SOURCE = "DECA, arXiv 2606.03209; Dec-LoRA, arXiv 2501.15361"
RESOLVED = 0.15  # widest interval of an exponent that says anything
NONE = mo.Feedback(None, mo.raw, 1.0, 1.0)
CHUNK = 256  # steps whose gradients are taken at once


class RateSetting(NamedTuple):
    """One run: T rounds of B blocks of R inner steps with learning rate c / sqrt(T B R)."""

    rounds: int = 16
    blocks: int = 4
    inner_steps: int = 16
    c: float = 3.0
    graph: str = "ring"
    feedback: mo.Feedback = NONE
    adam: mo.Adam = mo.Adam()
    looks: int | None = None  # of `measured`

    @property
    def length(self) -> int:
        """Inner steps of the run, T B R."""
        return self.rounds * self.blocks * self.inner_steps

    def lr(self, step: int) -> float:
        """Return c / sqrt(T B R), at every step."""
        return self.c / float(np.sqrt(self.length))


USUAL = RateSetting()
ONCE = RateSetting(rounds=24, blocks=1, inner_steps=16)  # all coordinates at once


Experiment = Callable[[Case, RateSetting], Squares]


def rates(
    cases: Sequence[Case],
    over: Mapping[str, Sequence[int]],
    setting: RateSetting = USUAL,
    method: "Experiment | None" = None,
    level: float = 0.95,
) -> Bound:
    """Return `bound_of` the laws of each knob of `over`: "rounds" or "inner_steps".

    `cases`: one that starts far away, then one that starts at the solution. Raises BadInput.
    """
    laws = {}
    for knob, values in over.items():
        check(
            knob != "blocks",
            "knob",
            knob,
            "rounds or inner_steps: a block's share falls with B anyway",
        )
        swept = [sweep(case, knob, values, setting, method) for case in cases]
        laws[knob] = law(together(*swept), level=level)
    return bound_of(laws)


def bound_of(laws: Mapping[str, Law]) -> Bound:
    """Return three entries for each law: -p at its most against -1/2, the least floor against 0, the width of p against 0.15.

    So a slope or a floor that contradicts the rate beyond doubt fails, and so does a sweep that could not have told.
    """
    lhs = [
        side
        for one in laws.values()
        for side in (-one.power_high, one.floor_low, one.power_high - one.power_low)
    ]
    rhs = np.tile([CLAIMED, 0.0, RESOLVED], len(laws))
    return Bound(np.array(lhs), rhs, "rates of the papers", SOURCE, axis="entry")


def speed_up(
    clients: Sequence[int] = (2, 4, 8, 16),
    seeds: int = 6,
    seed: int = 0,
    setting: RateSetting = ONCE,
    method: "Experiment | None" = None,
    near: Callable[[int, int, int], Case] | None = None,
) -> tuple[Array, Bound]:
    """Return N times the late squared gradient of equal clients from the solution, and its exponent in N beside -1: equal.

    `near(seeds, N, seed)`: N clients of one f, and noise; equal quadratics unless given. `method`: DECA unless given.
    """
    drawn = [(near or _alike)(seeds, n, seed) for n in clients]
    late = np.array([(method or deca)(case, setting).late for case in drawn])
    x = np.log(clients)
    slopes = (x - x.mean()) @ np.log(late) / ((x - x.mean()) @ (x - x.mean()))
    mean, low, high = student(slopes, 0.95)
    bound = Bound(
        mean,
        -1.0,
        "linear speed-up in N",
        SOURCE,
        "knob",
        rounding=(high - low) / 2 + 0.1,
        equal=True,
    )
    return np.array(clients) * late.mean(1), bound


def _alike(seeds: int, clients: int, seed: int) -> Case:
    return quadratic(seeds, distance=0.0, clients=clients, seed=seed)


def pair(seeds: int, zeta: float, common: bool = True, seed: int = 0) -> tuple[Case, Case]:
    """Return quadratics that start far away, and the same at their solution."""
    far = quadratic(seeds, zeta, common, seed=seed)
    return far, quadratic(seeds, zeta, common, distance=0.0, seed=seed)


def examples(seed: int = 0) -> dict[str, Bound]:
    """Return the claim where it holds: DECA over T and R, Dec-LoRA (at 99 %) and AMSGrad over T; linear in N."""
    short, lora = (
        USUAL._replace(blocks=2, inner_steps=8),
        RateSetting(blocks=1, inner_steps=1, c=0.25),
    )
    knobs = {"rounds": (4, 16, 64), "inner_steps": (2, 8, 32)}
    once = RateSetting(blocks=1, inner_steps=1, c=1.0)
    return {
        "DECA, one Hessian": rates(pair(6, 1.0, seed=seed), knobs, short),
        "Dec-LoRA": rates(
            [factorised(10, seed=seed)], {"rounds": (64, 128, 256)}, lora, dec_lora, 0.99
        ),
        "AMSGrad": rates(pair(6, 1.0, seed=seed), {"rounds": (64, 256, 1024)}, once, amsgrad),
        "N times what is left": speed_up(seed=seed)[1],
    }


def broken(seed: int = 0) -> Bound:
    """Return the claim for clients so different that DECA stalls: the floor is above 0, whatever the way travelled hides."""
    setting = USUAL._replace(blocks=2, inner_steps=8)
    return rates(pair(6, 8.0, seed=seed), {"rounds": (4, 16, 64)}, setting)


def sweep(
    case: Case,
    knob: str,
    values: Sequence[int],
    setting: RateSetting = USUAL,
    method: "Experiment | None" = None,
) -> Points:
    """Return what `method` (DECA by default) measures where `knob` of the setting takes each of the values."""
    check(
        knob in ("rounds", "blocks", "inner_steps"), "knob", knob, "rounds, blocks or inner_steps"
    )
    check(
        len(set(values)) == len(values) >= 2, "values", list(values), "two or more different ones"
    )
    settings = [RateSetting(**{**setting._asdict(), knob: value}) for value in values]
    squares = [(method or deca)(case, one) for one in settings]
    return gathered([one.length for one in settings], squares)._replace(c=setting.c)


# ---- one setting, through the library's own train


def deca(case: Case, setting: RateSetting) -> Squares:
    """Run DECA: Adam restarted at each visit of a block, mixed at each inner step."""
    problem, blocks = cut(case.problem, setting.blocks)
    recipe = Recipe(
        setting.rounds,
        setting.inner_steps,
        setting.lr,
        optimisers.adam(setting.adam, setting.feedback),
    )
    return measured(case._replace(problem=problem), blocks, recipe, setting.graph, setting.looks)


def dec_lora(case: Case, setting: RateSetting) -> Squares:
    """Run Dec-LoRA: T rounds of K = `inner_steps` local steps of SGD on both factors, which are then mixed separately."""
    check(setting.blocks == 1, "blocks", setting.blocks, "1: Dec-LoRA trains all factors at once")
    recipe = Recipe(
        setting.rounds,
        setting.inner_steps,
        setting.lr,
        optimisers.sgd(),
        mix_every=setting.inner_steps,
    )
    return measured(case, whole(list(case.problem.start)), recipe, setting.graph, setting.looks)


def amsgrad(case: Case, setting: RateSetting) -> Squares:
    """Run decentralised AMSGrad with a tracked second moment, which never restarts: one block, T rounds of one step."""
    check(setting.blocks == 1, "blocks", setting.blocks, "1: AMSGrad trains all parameters at once")
    recipe = Recipe(
        setting.rounds,
        setting.inner_steps,
        setting.lr,
        optimisers.amsgrad(setting.adam),
        keep_moments=True,
    )
    return measured(case, whole(list(case.problem.start)), recipe, setting.graph, setting.looks)


def measured(
    case: Case, blocks: Sequence[Block], recipe: Recipe, graph: str, looks: int | None = None
) -> Squares:
    """Return the mean over inner steps, before each, of the squared gradient at every seed's mean model.

    `looks`: of a longer run so many steps stand for all, one from each of so many equal parts, by chance.
    """
    # Seeds do not hear one another.
    W = np.kron(np.eye(case.seeds), topology(graph, case.clients).at(0))
    laid = plan(case.problem, blocks, Topology(graph, (W,)), recipe)
    chosen = _looked_at(laid.steps, looks or laid.steps)
    models = (
        torch.unflatten(torch.cat(state.blocks, 1), 0, (case.seeds, -1))
        for state in compress(_states(laid), chosen)
    )
    parts = torch.split(torch.stack([x.mean(1) for x in models]), CHUNK)
    squares = torch.cat([case.gradient(part).square() for part in parts])  # (steps, seeds, D)
    owner = np.repeat([visit.block for visit in laid.visits], recipe.inner_steps)[chosen]
    columns = np.repeat(np.arange(len(blocks)), [where.width for where in laid.layouts])
    active = squares * torch.from_numpy(owner[:, None, None] == columns)
    return _squares(squares.sum(2).numpy(), active.sum(2).numpy())


def _looked_at(steps: int, looks: int) -> NDArray[np.bool_]:
    """Return which steps are measured: all, or one of each of `looks` parts of a longer run."""
    chosen = np.ones(steps, dtype=bool)
    if looks < steps:
        edges = np.linspace(0, steps, looks + 1).astype(int)
        chosen[:] = False
        chosen[np.random.default_rng([steps, 0x100C]).integers(edges[:-1], edges[1:])] = True
    return chosen


def _squares(full: Array, block: Array) -> Squares:
    """Return the averages of what was measured along a run, (times, seeds)."""
    return Squares(full.mean(0), block.mean(0), full[-max(len(full) // 4, 1) :].mean(0))


def of_plan(laid: Plan, data: Batch) -> Squares:
    """Return the same of any plan, such as a language model's, on `data` (N, n, ...), measured at each visit's start: (1,)."""
    at_visits = [
        _at_visit(laid, state, data)
        for state in _states(laid)
        if state.step % laid.recipe.inner_steps == 0
    ]
    return _squares(*np.array(at_visits).T[:, :, None])


def _at_visit(laid: Plan, state: State, data: Batch) -> tuple[float, float]:
    centre, block = (
        stacking.mean(params_of(laid, state)),
        laid.visits[state.step // laid.recipe.inner_steps].block,
    )
    active = {name: centre[name] for name in laid.blocks[block].names}

    def loss(params: stacking.Params, batch: Batch) -> Tensor:
        return laid.problem.loss({**centre, **params}, batch)

    return gradient_norm(loss, centre, data) ** 2, gradient_norm(loss, active, data) ** 2


def _states(laid: Plan) -> Iterator[State]:
    """Yield the state before every inner step."""
    state = begin(laid)
    for after, _ in train(laid):
        yield state
        state = after


def cut(problem: Problem, count: int) -> tuple[Problem, tuple[Block, ...]]:
    """Return the problem of one tensor x (N, D) with its columns cut into `count` tensors of nearly equal width, a block each."""
    check(list(problem.start) == ["x"], "problem.start", list(problem.start), "one tensor, x")
    check(
        1 <= count <= problem.start["x"].shape[1],
        "blocks",
        count,
        f"1 to {problem.start['x'].shape[1]}, the columns of x",
    )
    names = [f"x{k}" for k in range(count)]
    start = dict(zip(names, problem.start["x"].tensor_split(count, 1), strict=True))

    def loss(params: stacking.Params, batch: Batch) -> Tensor:
        return problem.loss({"x": torch.cat([params[name] for name in names])}, batch)

    cut_ = Problem(start, loss, problem.batches, _of_columns(problem, names), None, problem.arrays)
    return cut_, tuple(Block(name, (name,)) for name in names)


def _of_columns(problem: Problem, names: Sequence[str]) -> Gradients | None:
    """Return the closed form of a problem of one tensor x, where it has one, as that of `names`, its columns in order."""
    form = problem.exact
    if form is None:
        return None

    def exact(
        x: Tensor, where: Layout, rest: stacking.Params, batch: Batch
    ) -> tuple[Tensor, Tensor]:
        given = {**rest, **stacking.unflatten(x, where)}
        together = {"x": torch.cat([given[name] for name in names], 1)}
        losses, g = form(together["x"], stacking.layout(together, ["x"]), {}, batch)
        parts = stacking.unflatten(g, stacking.layout(given, names))
        return losses, torch.cat([parts[name] for name in where.names], 1)

    return exact
