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
from scipy.optimize import minimize_scalar
from scipy.special import stdtrit
from torch import Tensor

from deca_lab.algorithm import moments as mo
from deca_lab.algorithm import optimisers, stacking
from deca_lab.algorithm.blocks import Block, whole
from deca_lab.algorithm.gradients import Batch, Gradients
from deca_lab.algorithm.loop import Plan, Recipe, State, begin, params_of, plan, train
from deca_lab.algorithm.problems import Problem, quadratics
from deca_lab.algorithm.stacking import Layout
from deca_lab.bounds.bound import Bound
from deca_lab.errors import check, pick
from deca_lab.lab.metrics import gradient_norm
from deca_lab.mixing.graphs import Array
from deca_lab.mixing.topology import Topology, topology

SOURCE = "DECA, arXiv 2606.03209; Dec-LoRA, arXiv 2501.15361"
CLAIMED = -0.5
RESOLVED = 0.15  # widest interval of an exponent that says anything
NONE = mo.Feedback(None, mo.raw, 1.0, 1.0)
CHUNK = 256  # steps whose gradients are taken at once


class Case(NamedTuple):
    """Independent draws of one kind of problem, `seeds` of them, that one run trains side by side.

    `problem` stacks all their clients, seed after seed; `gradient` maps mean models (steps, seeds, D) to the gradients
    of f there, of the same shape.
    """

    problem: Problem
    gradient: Callable[[Tensor], Tensor]
    seeds: int

    @property
    def clients(self) -> int:
        """N, of each seed."""
        return self.problem.clients // self.seeds


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


class Squares(NamedTuple):
    """Squared gradient of f at the mean model, averaged over inner steps: (seeds,) of a run, (lengths, seeds) of a sweep."""

    full: Array  # of all coordinates
    block: Array  # of the active block
    late: Array  # of all coordinates, over the last quarter alone: what is left when the start is forgotten


class Points(NamedTuple):
    """What a sweep over one knob measured at each of its lengths T B R."""

    lengths: Array
    squares: Squares
    c: Array | float = 1.0  # of each run's learning rate
    away: Array | float = 1.0  # 1 for a run from far away, 0 from the solution


class Fit(NamedTuple):
    """A line through the logarithms, and the floor under it: means over seeds, with intervals of Student's t."""

    slope: float
    low: float
    high: float
    last: float  # slope between the two longest runs alone
    floor: float  # a of `late` = a + k / sqrt(length), of all coordinates; below 0 where none is to be seen
    floor_low: float
    floor_high: float
    ends: float  # the length at which k / sqrt(length) of `full` has come down to the floor; infinite without one


Experiment = Callable[[Case, RateSetting], Squares]


class Law(NamedTuple):
    """(start / c + noise c) length^(-p) + floor, fitted for each seed: means, and intervals of Student's t over seeds."""

    start: float
    noise: float
    floor: float  # where p = 1/2
    floor_low: float
    floor_high: float
    power: float  # p, where the floor is 0
    power_low: float
    power_high: float
    level: float  # the smallest mean that was measured, to read the floor against


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


def together(far: Points, *near: Points) -> Points:
    """Return as one law's points the means of runs from far away, and of the last quarter of those from the solution."""
    means = [far.squares.full, *(one.squares.late for one in near)]
    late = [one.squares.late for one in (far, *near)]
    count = [len(one.lengths) for one in (far, *near)]
    return Points(
        np.concatenate([one.lengths for one in (far, *near)]),
        Squares(np.concatenate(means), np.concatenate(means), np.concatenate(late)),
        np.repeat([np.max(one.c) for one in (far, *near)], count),
        np.repeat([1.0, *(0.0 for _ in near)], count),
    )


def law(points: Points, measure: str = "full", level: float = 0.95) -> Law:
    """Return the law of three terms by least relative squares; raise BadInput for fewer than two seeds or lengths."""
    squares = _of_seeds(points, measure, level)
    check(len(set(points.lengths)) >= 2, "lengths", list(points.lengths), "two different or more")
    x = points.lengths.astype(float)
    parts = np.stack([points.away / points.c + 0 * x, points.c + 0 * x], 1)

    def fitted(y: Array, p: float, *more: Array) -> tuple[float, Array]:
        terms = np.stack([*(parts * x[:, None] ** -p).T, *more], 1) / y[:, None]
        k = np.linalg.lstsq(terms, np.ones(len(y)), rcond=None)[0]
        return float(np.square(terms @ k - 1).sum()), k

    def power(y: Array) -> float:
        return float(minimize_scalar(lambda p: fitted(y, p)[0], bounds=(-1, 3), method="bounded").x)

    k = np.array([fitted(y, -CLAIMED, np.ones(len(y)))[1] for y in squares.T])
    return Law(
        float(k[:, 0].mean()),
        float(k[:, 1].mean()),
        *_student(k[:, 2], level),
        *_student(np.array([power(y) for y in squares.T]), level),
        float(squares.mean(1).min()),
    )


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
    mean, low, high = _student(slopes, 0.95)
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


def gathered(lengths: Sequence[int], runs: Sequence[Squares]) -> Points:
    """Return runs of these lengths, each with its seeds, as points."""
    return Points(np.array(lengths), Squares(*(np.stack(side) for side in zip(*runs, strict=True))))


def beside(runs: Sequence[Squares]) -> Squares:
    """Return runs of one setting that were measured separately, as seeds of one run."""
    return Squares(*(np.concatenate(side) for side in zip(*runs, strict=True)))


def fit(points: Points, measure: str = "block", level: float = 0.95) -> Fit:
    """Return slope and floor of each seed, as means with Student's interval of the level over seeds."""
    squares = _of_seeds(points, measure, level)
    x, y = np.log(points.lengths), np.log(squares)
    slopes = (x - x.mean()) @ y / ((x - x.mean()) @ (x - x.mean()))
    order = np.argsort(x)[-2:]
    last = np.diff(y[order], axis=0).mean() / np.diff(x[order])[0]
    root = np.sqrt(points.lengths)
    floor, least, most = _student(
        np.array([_floor(root, late) for late in points.squares.late.T]), level
    )
    ends = (
        ((points.squares.full.mean(1) - floor) @ root / len(root) / floor) ** 2
        if least > 0
        else np.inf
    )
    return Fit(*_student(slopes, level), float(last), floor, least, most, float(ends))


def _of_seeds(points: Points, measure: str, level: float) -> Array:
    """Return the squares (lengths, seeds) of a measure; raise BadInput where there is no interval of them."""
    squares: Array = pick(points.squares._asdict(), measure, "measure")
    check(squares.shape[1] >= 2, "seeds", squares.shape[1], "2 or more: an interval needs them")
    check(0 < level < 1, "level", level, "between 0 and 1")
    return squares


def _floor(root: Array, late: Array) -> float:
    """Return a of a + k / root, fitted by least relative squares."""
    terms = np.stack([np.ones(len(root)), 1 / root], 1) / late[:, None]
    return float(np.linalg.lstsq(terms, np.ones(len(root)), rcond=None)[0][0])


def _student(values: Array, level: float) -> tuple[float, float, float]:
    """Return the mean and its interval."""
    half = stdtrit(len(values) - 1, (1 + level) / 2) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


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
    W = np.kron(
        np.eye(case.seeds), topology(graph, case.clients).at(0)
    )  # seeds do not hear one another
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


# ---- problems, each drawn anew for each seed


def quadratic(
    seeds: int,
    zeta: float = 0.0,
    common: bool = True,
    sigma: float = 1.0,
    distance: float = 3.0,
    clients: int = 8,
    d: int = 16,
    seed: int = 0,
) -> Case:
    """Return f_i = x' A_i x / 2 - b_i' x with eigenvalues 1/2 to 2, || grad f_i - grad f || of mean square zeta^2 at the minimum.

    `common`: one Hessian for all clients of a seed. `sigma`: gradient noise in each coordinate. All clients start where
    each coordinate is `distance` away from the minimiser.
    """
    in_range(seeds=seeds, clients=clients, d=d)
    draws = [
        _quadratic(np.random.default_rng([seed, s, 0xAB]), zeta, common, distance, clients, d)
        for s in range(seeds)
    ]
    A, b, start = (
        torch.from_numpy(np.stack(part)) for part in zip(*draws, strict=True)
    )  # (seeds, N, ...)
    hessian, linear = A.mean(1), b.mean(1)
    return Case(
        quadratics(A.flatten(0, 1), b.flatten(0, 1), start.flatten(0, 1), sigma, seed),
        lambda x: torch.einsum("sij,tsj->tsi", hessian, x) - linear,
        seeds,
    )


def _quadratic(
    rng: np.random.Generator, zeta: float, common: bool, distance: float, n: int, d: int
) -> tuple[Array, Array, Array]:
    turns = np.linalg.qr(rng.standard_normal((n, d, d)))[0]
    turns = turns[:1].repeat(n, 0) if common else turns
    A = turns * np.geomspace(0.5, 2, d) @ turns.swapaxes(1, 2)
    minimiser, tilts = rng.standard_normal(d), rng.standard_normal((n, d))
    tilts -= tilts.mean(0)
    tilts *= zeta / max(np.sqrt((tilts**2).sum() / n), 1e-300)
    start = minimiser + distance * rng.choice([-1.0, 1.0], d)
    return A, A @ minimiser + tilts, np.tile(start, (n, 1))


def stall(case: Case, sigma: float) -> Array:
    """Return (seeds,) the squared gradient where DECA is predicted to stop for lr -> 0, long visits and a complete graph.

    `case` is `quadratic` with one Hessian and sigma = 0. With noise `sigma` Adam steps by about g / sqrt(g^2 + sigma^2),
    so the mean model rests where those of the clients sum to 0, coordinate by coordinate: a prediction, not a bound.
    """
    b = case.problem.batches(0)[1].unflatten(0, (case.seeds, -1)).numpy()  # (seeds, N, d)
    offsets = b - b.mean(
        1, keepdims=True
    )  # client i's gradient is G - offset_i where that of f is G
    low, high = offsets.min(1), offsets.max(1)
    for _ in range(100):
        G = (low + high) / 2
        g = G[:, None] - offsets
        uphill = (g / np.sqrt(g**2 + sigma**2 + 1e-300)).sum(1) > 0
        low, high = np.where(uphill, low, G), np.where(uphill, G, high)
    squared: Array = (G**2).sum(1)
    return squared


def logistic(
    seeds: int,
    skew: float = 0.0,
    distance: float = 3.0,
    rows: int = 128,
    batch: int = 4,
    clients: int = 8,
    d: int = 16,
    seed: int = 0,
) -> Case:
    """Return logistic regression of `rows` rows a client and batches of `batch`; `skew` is the share dealt by label.

    Labels follow a logistic law, so that no hyperplane is without error; features have mean 1/2, or it would be the same
    to see the features of one label as those of the other. Starts as `quadratic` does, from that law's own parameters.
    """
    in_range(seeds=seeds, clients=clients, d=d, rows=rows, batch=batch)
    check(0 <= skew <= 1, "skew", skew, "between 0 and 1")
    draws = [
        _logistic(np.random.default_rng([seed, s, 0x106]), skew, distance, rows, clients, d)
        for s in range(seeds)
    ]
    features, start = (torch.from_numpy(np.stack(part)) for part in zip(*draws, strict=True))
    stacked, pooled = (
        features.flatten(0, 1),
        features.flatten(1, 2),
    )  # (seeds N, rows, d), (seeds, N rows, d)
    who = torch.arange(len(stacked))[:, None]

    def batches(step: int) -> Batch:
        chosen = np.random.default_rng([seed, step, 0xBA7]).integers(0, rows, (len(stacked), batch))
        return stacked[who, torch.from_numpy(chosen)]

    def gradient(x: Tensor) -> Tensor:
        return (
            -torch.sigmoid(-x.transpose(0, 1) @ pooled.mT).matmul(pooled).transpose(0, 1)
            / pooled.shape[1]
        )

    return Case(Problem({"x": start.flatten(0, 1)}, _logistic_loss, batches), gradient, seeds)


def _logistic_loss(params: stacking.Params, batch: Batch) -> Tensor:
    return torch.nn.functional.softplus(-batch @ params["x"]).mean()


def _logistic(
    rng: np.random.Generator, skew: float, distance: float, rows: int, n: int, d: int
) -> tuple[Array, Array]:
    """Return label times features (N, rows, d) and the start (N, d)."""
    law, features = (
        rng.standard_normal(d) * 2 / np.sqrt(d),
        rng.standard_normal((n * rows, d)) + 0.5,
    )
    labels = np.where(rng.random(n * rows) < 1 / (1 + np.exp(-features @ law)), 1.0, -1.0)
    order = np.argsort(labels, kind="stable")
    mixed = np.sort(
        rng.permutation(n * rows)[: round((1 - skew) * n * rows)]
    )  # places whose rows are dealt at random
    order[mixed] = rng.permutation(order[mixed])
    start = law + distance * rng.choice([-1.0, 1.0], d)
    return (labels[:, None] * features)[order].reshape(n, rows, d), np.tile(start, (n, 1))


def factorised(
    seeds: int,
    zeta: float = 1.0,
    sigma: float = 0.5,
    size: int = 6,
    rank: int = 2,
    clients: int = 8,
    seed: int = 0,
) -> Case:
    """Return f_i = || B A - M_i ||^2 / 2 with the factors' names of LoRA, B = 0 at first, and M_i around an M of that rank.

    The singular values of M lie between 4 and 8, so lr T K of a few times 1/4 forgets the start.
    """
    in_range(seeds=seeds, clients=clients, size=size, rank=rank)
    draws = [
        _factorised(np.random.default_rng([seed, s, 0xFAC]), zeta, size, rank, clients)
        for s in range(seeds)
    ]
    M, A = (
        torch.from_numpy(np.stack(part)) for part in zip(*draws, strict=True)
    )  # (seeds, N, ...)
    stacked, target = M.flatten(0, 1), M.mean(1)
    start = {
        "w.lora_A": A.flatten(0, 1),
        "w.lora_B": torch.zeros(seeds * clients, size, rank, dtype=A.dtype),
    }

    def batches(step: int) -> Batch:
        return stacked + sigma * torch.from_numpy(
            np.random.default_rng([seed, step, 0xF]).standard_normal(stacked.shape)
        )

    def gradient(x: Tensor) -> Tensor:
        of_a, of_b = x[..., : rank * size], x[..., rank * size :]
        a, b = torch.unflatten(of_a, -1, (rank, size)), torch.unflatten(of_b, -1, (size, rank))
        error = b @ a - target
        return torch.cat([(b.mT @ error).flatten(-2), (error @ a.mT).flatten(-2)], -1)

    return Case(Problem(start, _factorised_loss, batches), gradient, seeds)


def _factorised_loss(params: stacking.Params, batch: Batch) -> Tensor:
    error: Tensor = params["w.lora_B"] @ params["w.lora_A"] - batch
    return error.square().sum() / 2


def _factorised(
    rng: np.random.Generator, zeta: float, size: int, rank: int, n: int
) -> tuple[Array, Array]:
    left, right = np.linalg.qr(rng.standard_normal((2, size, rank)))[0]  # orthonormal columns
    target = left * np.geomspace(8, 4, rank) @ right.T
    offsets = rng.standard_normal((n, size, size))
    offsets -= offsets.mean(0)
    offsets *= zeta / max(np.sqrt((offsets**2).sum() / n), 1e-300)
    return target + offsets, np.tile(rng.standard_normal((rank, size)) / np.sqrt(size), (n, 1, 1))


def in_range(**counts: int) -> None:
    """Refuse a size that is no whole number from 1 up."""
    for name, value in counts.items():
        check(isinstance(value, int) and value >= 1, name, value, "a whole number from 1 up")
