"""The loop: rounds over blocks over inner steps, every client at once, exactly in the order of DECA's paper.

It is the loop of every method and of every engine. All that it knows of the network is `exchange`.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, count, pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deca_lab.algorithm import channel as ch
from deca_lab.algorithm import optimisers as op
from deca_lab.algorithm.blocks import ORDERS, Block, Order, Visit, require_cover, visits
from deca_lab.algorithm.channel import Channel, Wire
from deca_lab.algorithm.gradients import Engine, Gradients, stacked
from deca_lab.algorithm.optimisers import Optimiser, OptState
from deca_lab.algorithm.problems import Problem
from deca_lab.algorithm.rounding import rounded
from deca_lab.algorithm.stacking import Layout, Params, flatten, layout, unflatten
from deca_lab.errors import check
from deca_lab.mixing.gossip import FEW, SMALL, Mix, row_bytes
from deca_lab.mixing.topology import Topology


class Recipe(NamedTuple):
    """What one run does: the algorithm's knobs, resolved to functions. `RunConfig` is its form for people."""

    rounds: int  # T
    inner_steps: int  # R, of one visit
    lr: Callable[[int], float]  # inner step -> learning rate
    optimiser: Optimiser
    keep_moments: bool = False  # else they restart at each visit, and only the active block has any
    mix_every: int = 1  # inner steps between mixings
    mix_all: bool = False  # mix every block, not only the active one
    combine_first: bool = False  # x_new = W x - lr d, where the papers have W (x - lr d)
    order: Order = ORDERS["sequence"]
    clip: float = 0.0  # longest gradient of a client's active block; 0 = no clipping
    weight_decay: float = 0.0  # decoupled, on tensors with two axes or more
    seed: int = 0


class State(NamedTuple):
    """Everything that the next inner step depends on, besides the fixed plan."""

    step: int  # inner steps done
    blocks: tuple[Tensor, ...]  # X_k (N, D_k), one a block
    master: Tensor | None  # float32 copy of the active block of a half-precision model
    moments: dict[int, OptState]  # of the active block, or of all visited ones where they are kept
    wire: Wire  # what the channel remembers

    @property
    def sent(self) -> np.ndarray:
        """Bytes (E,) that came along each link of the plan's channel so far."""
        return self.wire.sent


class Plan(NamedTuple):
    """A run laid out before it starts: what is trained, when, and with whom it is mixed."""

    problem: Problem
    blocks: tuple[Block, ...]
    layouts: tuple[Layout, ...]
    topology: Topology
    recipe: Recipe
    visits: list[Visit]
    optimisers: tuple[Optimiser, ...]  # the recipe's, one a block, with clipping and weight decay
    channel: Channel

    @property
    def steps(self) -> int:
        """Inner steps of the whole run, T K R."""
        return len(self.visits) * self.recipe.inner_steps

    def first(self, turn: int) -> bool:
        """Say whether a mixing is the first of its visit."""
        every, each = self.recipe.mix_every, self.recipe.inner_steps
        return (turn * every - 1) // each != ((turn + 1) * every - 1) // each


def plan(
    problem: Problem,
    blocks: Sequence[Block],
    topology: Topology,
    recipe: Recipe,
    *wraps: ch.Wrap,
    carrier: ch.Carrier = ch.gossip,
    site: ch.Site | None = None,
) -> Plan:
    """Return the plan of a run; raise BadInput where its parts do not fit one another.

    `wraps` are channels around the plain one, the innermost first: faults, then short messages. `carrier` applies W to the
    rows of X; `site` says which of the topology's clients `problem` holds, where other processes hold the others.
    """
    require_cover(blocks, list(problem.start))
    sizes = {len(tensor) for tensor in problem.start.values()}
    allowed = "tensors with one number of clients on axis 0"
    check(len(sizes) == 1, "problem.start", sorted(sizes), allowed)
    mine = site.mine if site else slice(0, topology.n)
    allowed = f"for the problem's {problem.clients}"
    check(mine.stop - mine.start == problem.clients, "topology", f"{topology.n} clients", allowed)
    for name in ("rounds", "inner_steps", "mix_every"):
        check(getattr(recipe, name) >= 1, name, getattr(recipe, name), "1 or more")
    layouts = tuple(layout(problem.start, block.names) for block in blocks)
    like = working(next(iter(problem.start.values())).flatten()[:0])
    channel = ch.plain(topology, layouts, like, carrier, site)
    for wrap in wraps:
        channel = wrap(channel)
    table = visits(len(blocks), recipe.rounds, recipe.inner_steps, recipe.order, recipe.seed)
    dressed = _dressed(recipe, layouts, like)
    return Plan(problem, tuple(blocks), layouts, topology, recipe, table, dressed, channel)


def begin(plan: Plan) -> State:
    """Return the state before the first inner step."""
    xs = tuple(flatten(plan.problem.start, block.names) for block in plan.blocks)
    return State(0, xs, None, {}, ch.silence(len(plan.channel.links)))


def train(
    plan: Plan, state: State | None = None, engine: Engine = stacked, donate: bool = False
) -> Iterator[tuple[State, Tensor]]:
    """Run the plan from `state` on; after each inner step yield the state and the clients' losses (N,) before it.

    A state is a value: it may be kept, compared, and continued from as often as one likes. With `donate` a step uses up the
    state before it, the given one too, so that moments are held once: for who looks at the newest state only.
    """
    exact = plan.problem.exact if engine is stacked else None
    first = begin(plan) if state is None else state
    if exact is not None and is_small(plan):
        return small_loop(plan, first, donate)
    return loop(plan, first, exact or engine(plan.problem.loss), donate)


# fmt: off
def loop(plan: Plan, state: State, gradients: Gradients, donate: bool) -> Iterator[tuple[State, Tensor]]:
    """Yield what `train` does. Matrices have a row for each client, and the columns of the active block."""
    recipe = plan.recipe
    for visit in plan.visits[state.step // recipe.inner_steps:]:         # rounds t, and in each the blocks k
        for s in range(max(state.step, visit.first), visit.last + 1):    # inner steps r; s counts them all
            x, moments, wire = opened(plan, state, visit, s, donate)     # m = v = 0 where a visit begins
            optimiser, exchange = training(plan, visit, s), mixing(plan, visit.block, s, wire)
            before, after = (exchange, stay) if recipe.combine_first else (stay, exchange)

            losses, g = fresh(plan, state, visit, x, gradients)          # g: gradient of a new local batch
            d, moments = optimiser.update(g, moments, x, exchange)       # m+, v+; d = m_hat / (sqrt(v_hat) + eps)
            del g                                                        # its memory becomes the mixing's
            x_plus = torch.sub(before(x), d, alpha=recipe.lr(s), out=d)  # Eq. 6: adapt,   x+ = x - lr d
            x_new = after(x_plus)                                        # Eq. 7: combine, x_new_i = sum_j w_ij x+_j
            del d, x_plus
            if exchange is not stay:                                     # BMA: m = b1 m+ + (1 - b1) h,
                moments = optimiser.feed(moments, x, x_new, recipe.lr(s))         # v = b2 v+ + (1 - b2) h*h

            state = closed(plan, state, visit, s, x_new, moments, wire)
            del x, x_new, moments                                        # their memory becomes a measurement's
            yield state, losses
# fmt: on


def is_small(plan: Plan) -> bool:
    """Say whether a plan is one that `small_loop` runs: few numbers in closed form, a name a block, nothing on the way."""
    xs, names = list(plan.problem.start.values()), [(name,) for name in plan.problem.start]
    rules = [
        one.arrays is not None and one.arrays.of == (one.update, one.feed)
        for one in plan.optimisers
    ]
    return (
        plan.problem.arrays is not None
        and [block.names for block in plan.blocks] == names
        and all(rules)
        and plan.channel.plain is plan.channel.exchange
        and all((x.dtype, x.device.type) == (torch.float64, "cpu") for x in xs)
        and sum(x.numel() for x in xs) <= SMALL
        and len(xs[0]) <= FEW
    )


def small_loop(plan: Plan, state: State, donate: bool) -> Iterator[tuple[State, Tensor]]:
    """Yield what `loop` does, as NumPy operations: a call costs more than its numbers, and theirs cost the least."""
    recipe, arrays, period = plan.recipe, plan.problem.arrays, plan.topology.period
    ends = accumulate((where.width for where in plan.layouts), initial=0)
    columns = [slice(*pair) for pair in pairwise(ends)]
    mixers = [W.__matmul__ for W in plan.topology.matrices]
    sent = [_sent(plan, x, one.mixed) for x, one in zip(state.blocks, plan.optimisers, strict=True)]
    for visit in plan.visits[state.step // recipe.inner_steps :]:
        where, rule = columns[visit.block], plan.optimisers[visit.block].arrays
        assert arrays is not None
        assert rule is not None
        for s in range(max(state.step, visit.first), visit.last + 1):
            x, moments, wire = _to_write(plan, state, visit, s, donate)
            parts, turn = [part.numpy() for part in moments[:-1]], s // recipe.mix_every % period
            exchange = mixers[turn] if mixes(plan, s) else _as_it_is
            before, after = (exchange, _as_it_is) if recipe.combine_first else (_as_it_is, exchange)

            losses, g = arrays(_side_by_side(state.blocks), plan.problem.batches(s))
            d = rule.update(g[:, where], parts, moments.steps + 1, exchange)
            x_new = after(before(x) - recipe.lr(s) * d)
            if exchange is not _as_it_is:
                rule.feed(parts, x, x_new)
                np.add(wire.sent, sent[visit.block][turn], out=wire.sent)

            moments = type(moments)(*moments[:-1], moments.steps + 1)
            state = closed(plan, state, visit, s, torch.from_numpy(x_new), moments, wire)
            yield state, torch.from_numpy(losses)


def _to_write(
    plan: Plan, state: State, visit: Visit, s: int, donate: bool
) -> tuple[np.ndarray, OptState, Wire]:
    """Return the active block, and what its optimiser and the channel remember, copied unless the state is donated."""
    x, moments, wire = opened(plan, state, visit, s, donate=True)
    if not donate:
        moments = type(moments)(*(part.clone() for part in moments[:-1]), moments.steps)
        wire = ch.copied(wire)
    return x.numpy(), moments, wire


def _sent(plan: Plan, x: Tensor, mixed: int) -> list[np.ndarray]:
    """Return the bytes (E,) along each link of a mixing of the block, a turn each, with `mixed` more matrices beside it."""
    size = row_bytes(x) * (1 + mixed)
    return [plan.channel.messages(turn) * size for turn in range(plan.topology.period)]


def _side_by_side(blocks: Sequence[Tensor]) -> np.ndarray:
    return blocks[0].numpy() if len(blocks) == 1 else np.hstack([x.numpy() for x in blocks])


def _as_it_is(x: np.ndarray) -> np.ndarray:
    return x


def copied(state: State) -> State:
    """Return the state with copies of what a donating step would use up."""
    moments = {k: op.copied(held) for k, held in state.moments.items()}
    return state._replace(moments=moments, wire=ch.copied(state.wire))


def stay(x: Tensor) -> Tensor:
    """Stand in for the exchange at an inner step without one."""
    return x


def opened(
    plan: Plan, state: State, visit: Visit, s: int, donate: bool
) -> tuple[Tensor, OptState, Wire]:
    """Return the active block in working precision, its optimiser's state, and what the channel remembers, all to be used up."""
    k = visit.block
    x = working(state.blocks[k]) if state.master is None else state.master
    moments = state.moments[k] if k in state.moments else plan.optimisers[k].init(x)
    if donate:
        return x, moments, state.wire
    wire = ch.copied(state.wire) if mixes(plan, s) else state.wire
    return x, op.copied(moments) if k in state.moments else moments, wire


def mixes(plan: Plan, s: int) -> bool:
    """Say whether a mixing follows an inner step."""
    return (s + 1) % plan.recipe.mix_every == 0


def training(plan: Plan, visit: Visit, s: int) -> Optimiser:
    """Return the optimiser of the active block, under which clients that are absent at this inner step stand still."""
    optimiser, away = plan.optimisers[visit.block], plan.channel.absent(s)
    return op.attending(optimiser, plan.channel.site.local(away)) if len(away) else optimiser


def mixing(plan: Plan, k: int, s: int, wire: Wire) -> Mix:
    """Return the exchange of a block after an inner step: what it carries is counted and remembered in `wire`."""
    if not mixes(plan, s):
        return stay
    turn, numbers = s // plan.recipe.mix_every, count()
    first = plan.first(turn)
    return lambda x: plan.channel.exchange(ch.Call(s, turn, k, next(numbers), first), x, wire, None)


def fresh(
    plan: Plan, state: State, visit: Visit, x: Tensor, gradients: Gradients
) -> tuple[Tensor, Tensor]:
    """Return losses (N,) and the gradient of the active block, in the working precision of x, at a fresh batch."""
    k = visit.block
    rest = params_of(plan, state, without=k)
    losses, g = gradients(state.blocks[k], plan.layouts[k], rest, plan.problem.batches(state.step))
    return losses, g if g.dtype == x.dtype else g.to(x.dtype)


def closed(
    plan: Plan, state: State, visit: Visit, s: int, x_new: Tensor, moments: OptState, wire: Wire
) -> State:
    """Return the state after an inner step; where the visit ends, moments, master and letters end with it, unless kept."""
    k, over = visit.block, s == visit.last
    master = None if over or x_new.dtype == state.blocks[k].dtype else x_new
    blocks = list(state.blocks)
    if plan.recipe.mix_all and mixes(plan, s):
        blocks = [x if j == k else mixed(plan, x, j, s, wire) for j, x in enumerate(blocks)]
    going_on = master is x_new
    blocks[k] = x_new.to(blocks[k].dtype) if going_on else halved(plan, blocks[k], k, x_new, s)
    kept = {} if over else {k: moments}
    if plan.recipe.keep_moments:
        kept = {**state.moments, k: moments}
    return State(s + 1, tuple(blocks), master, kept, ch.ended(wire) if over else wire)


def mixed(plan: Plan, block: Tensor, j: int, s: int, wire: Wire) -> Tensor:
    """Return block j mixed after an inner step on another, in its storage precision."""
    return halved(plan, block, j, mixing(plan, j, s, wire)(working(block)), s)


def halved(plan: Plan, block: Tensor, j: int, x: Tensor, s: int) -> Tensor:
    """Return block j's new value in its storage precision: half precision is rounded without bias.

    No master outlives a visit, and to the nearest number most small steps of short visits would be lost.
    """
    if x.dtype == block.dtype:
        return x
    return rounded(x, block.dtype, np.random.default_rng([plan.recipe.seed, s, j, 0x20BD]))


def params_of(plan: Plan, state: State, without: int | None = None) -> Params:
    """Return all clients' parameters as views (N, ...), but for the block `without`."""
    params: Params = {}
    for k, (x, where) in enumerate(zip(state.blocks, plan.layouts, strict=True)):
        if k != without:
            params.update(unflatten(x, where))
    return params


def working(x: Tensor) -> Tensor:
    """Return x itself, or in float32 where it is stored in half precision.

    A step is often smaller than the spacing of half-precision numbers around x, so moments, mixing and a master copy of the
    active block need the digits.
    """
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _dressed(recipe: Recipe, layouts: Sequence[Layout], like: Tensor) -> tuple[Optimiser, ...]:
    """Return each block's optimiser: with clipping, and with weight decay but on biases and norms, which have one axis."""
    inner = op.clipped(recipe.optimiser, recipe.clip) if recipe.clip > 0 else recipe.optimiser
    if recipe.weight_decay == 0:
        return (inner,) * len(layouts)
    return tuple(op.decayed(inner, _decay(where, recipe.weight_decay, like)) for where in layouts)


def _decay(where: Layout, rate: float, like: Tensor) -> Tensor:
    """Return the weight decay of each column (D,)."""
    rates = like.new_tensor([rate if len(shape) > 1 else 0.0 for shape in where.shapes])
    sizes = torch.tensor(where.sizes, device=like.device)
    return rates.repeat_interleave(sizes, output_size=where.width)  # else the sum would be read
