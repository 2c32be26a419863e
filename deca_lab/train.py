"""The loop: rounds over blocks over inner steps, every client at once, exactly in the order of DECA's paper.

    g      fresh local gradient of the active block             m+, v+   Adam's moments, restarted at each visit
    x+   = x - lr m_hat / (sqrt(v_hat) + eps)         Eq. 6     x_new  = sum_j w_ij x+_j                       Eq. 7
    h      the discrepancy that this step left        BMA       m, v   = b1 m+ + (1-b1) h,  b2 v+ + (1-b2) h*h
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deca_lab import faults as fl
from deca_lab import lossy, optimisers
from deca_lab import messages as ms
from deca_lab.blocks import ORDERS, Block, Order, Visit, require_cover, visits
from deca_lab.clients import Engine, Gradients, stacked
from deca_lab.errors import check
from deca_lab.gossip import Mix, mixer
from deca_lab.problems import Problem
from deca_lab.topology import Topology
from deca_lab.tree import Layout, Params, flatten, layout, unflatten

Edges = tuple[np.ndarray, np.ndarray]                   # see `edges`
Combine = Callable[[np.ndarray, Layout, Tensor], Mix]   # (W, columns of the block, a tensor like X) -> how X is mixed


def gossip(W: np.ndarray, where: Layout, like: Tensor) -> Mix:
    """Mix every column alike: x_new_i = sum_j w_ij x_j."""
    return mixer(W, like)


def _identity(x: Tensor) -> Tensor:
    return x


class Recipe(NamedTuple):
    """What one run does: the algorithm's knobs, resolved to functions. `RunConfig` is its form for people."""

    rounds: int                                      # T
    inner_steps: int                                 # R, of one visit
    lr: Callable[[int], float]                       # inner step -> learning rate
    optimiser: optimisers.Optimiser
    keep_moments: bool = False                       # else they restart at each visit, and only the active block has any
    mix_every: int = 1                               # inner steps between mixings
    mix_all: bool = False                            # mix every block, not only the active one
    combine_first: bool = False                      # x_new = W x - lr d, where the papers have W (x - lr d)
    combine: Combine = gossip
    order: Order = ORDERS["sequence"]
    clip: float = 0.0                                # longest gradient of a client's active block; 0 = no clipping
    weight_decay: float = 0.0                        # decoupled, on tensors with two axes or more
    seed: int = 0
    faults: fl.Faults = fl.Faults()                  # what goes wrong on the way
    compression: ms.Compression | None = None        # of messages; None = they are whole
    total: Callable[[Tensor], Tensor] = _identity    # the sum of a tensor over processes


class State(NamedTuple):
    """Everything that the next inner step depends on, besides the fixed problem and recipe."""

    step: int                                        # inner steps done
    blocks: tuple[Tensor, ...]                       # X_k (N, D_k), one a block
    master: Tensor | None                            # float32 copy of the active block of a half-precision model
    moments: dict[int, Any]                          # optimiser's state of the active block, or of all visited where kept
    sent: np.ndarray                                 # (N, N) bytes received by i from j
    past: Mapping[str, Tensor] = MappingProxyType({})  # earlier messages of this visit, or replicas: see faults, messages
    tally: tuple[float, float] = (0.0, 0.0)          # messages that were garbage; how far mixings moved the mean, in all


class Plan(NamedTuple):
    """A run laid out before it starts: what is trained, when, and with whom it is mixed."""

    problem: Problem
    blocks: tuple[Block, ...]
    layouts: tuple[Layout, ...]
    topology: Topology
    recipe: Recipe
    visits: list[Visit]
    mine: slice                                      # the clients whose rows this process holds; all, in one process

    @property
    def steps(self) -> int:
        """Inner steps of the whole run, T K R."""
        return len(self.visits) * self.recipe.inner_steps

    def heard(self, turn: int) -> np.ndarray:
        """Return of these messages those that this process's clients receive."""
        table = np.zeros_like(self.topology.messages(turn))
        table[self.mine] = self.messages(turn)[self.mine]
        return table

    def first(self, turn: int) -> bool:
        """Say whether a mixing is the first of its visit."""
        every, each = self.recipe.mix_every, self.recipe.inner_steps
        return (turn * every - 1) // each != ((turn + 1) * every - 1) // each

    def messages(self, turn: int) -> np.ndarray:
        """Return the (N, N) table of the messages of a mixing, i from j: those of present clients, lost or not."""
        sends = self.topology.messages(turn)
        there = self.recipe.faults.present((turn + 1) * self.recipe.mix_every - 1) if self.recipe.faults.any else None
        return sends if there is None else sends * (there[:, None] & there)


def plan(problem: Problem, blocks: Sequence[Block], topology: Topology, recipe: Recipe, mine: slice | None = None) -> Plan:
    """Return the plan of a run; raise BadInput where its parts do not fit one another.

    `mine`: the clients of `topology` that `problem` holds, where other processes hold the others.
    """
    mine = mine or slice(0, topology.n)
    require_cover(blocks, list(problem.start))
    sizes = {len(tensor) for tensor in problem.start.values()}
    check(len(sizes) == 1, "problem.start", sorted(sizes), "tensors with one number of clients on axis 0")
    check(mine.stop - mine.start == problem.clients, "topology", f"{topology.n} clients", f"for the problem's {problem.clients}")
    for name in ("rounds", "inner_steps", "mix_every"):
        check(getattr(recipe, name) >= 1, name, getattr(recipe, name), "1 or more")
    told, meant = recipe.faults, (topology.n, recipe.mix_every)
    check(not told.any or (told.clients, told.mix_every) == meant, "recipe.faults", (told.clients, told.mix_every),
          f"of the plan's clients and mix_every, {meant}")
    check(recipe.compression is None or not told.any, "recipe", "compressed messages under faults",
          "one of the two: a replica that misses a message is no replica any more")
    layouts = tuple(layout(problem.start, block.names) for block in blocks)
    table = visits(len(blocks), recipe.rounds, recipe.inner_steps, recipe.order, recipe.seed)
    return Plan(problem, tuple(blocks), layouts, topology, recipe, table, mine)


def begin(plan: Plan) -> State:
    """Return the state before the first inner step."""
    n = plan.topology.n
    xs = tuple(flatten(plan.problem.start, block.names) for block in plan.blocks)
    return State(0, xs, None, {}, np.zeros((n, n), np.int64))


def params_of(plan: Plan, state: State, without: int | None = None) -> Params:
    """Return all clients' parameters as views (N, ...), but for the block `without`."""
    held = [unflatten(x, where) for k, (x, where) in enumerate(zip(state.blocks, plan.layouts, strict=True)) if k != without]
    return {name: tensor for part in held for name, tensor in part.items()}


def train(plan: Plan, state: State | None = None, engine: Engine = stacked) -> Iterator[tuple[State, Tensor]]:
    """Run the plan from `state` on; after each inner step yield the state and the clients' losses (N,) before it."""
    state = begin(plan) if state is None else state
    like = _working(state.blocks[0][:, :1])
    mixers = [[plan.recipe.combine(W, where, like) for where in plan.layouts] for W in plan.topology.matrices]
    exact = plan.problem.exact if engine is stacked else None
    heard = [] if plan.recipe.faults.any else [edges(plan.heard(turn)) for turn in range(plan.topology.period)]
    return _steps(plan, state, Ready(exact or engine(plan.problem.loss), mixers, heard))


class Ready(NamedTuple):
    """What a run's steps share: gradients, each matrix's mixing of each block, and its messages where nothing fails."""

    gradients: Gradients
    mixers: list[list[Mix]]
    heard: list[Edges]


def _steps(plan: Plan, state: State, ready: Ready) -> Iterator[tuple[State, Tensor]]:
    while state.step < plan.steps:
        state, losses = _advance(plan, state, ready)
        yield state, losses


def _advance(plan: Plan, state: State, ready: Ready) -> tuple[State, Tensor]:
    """Do one inner step of the visit that `state.step` falls in."""
    recipe, s = plan.recipe, state.step
    k, r = plan.visits[s // recipe.inner_steps].block, s % recipe.inner_steps
    x = _working(state.blocks[k]) if state.master is None else state.master
    kept = state.moments if recipe.keep_moments or r > 0 else {}         # a visit starts from zero moments
    moments = kept[k] if k in kept else recipe.optimiser.start(x)
    post = lossy.Post(dict(state.past) if r > 0 else {}, list(state.tally), state.sent)
    mixes = []
    if (s + 1) % recipe.mix_every == 0:
        post = post._replace(sent=state.sent.copy())
        mixes = _mixes(plan, s, ready, x, post)
    away = _here(recipe.faults.absent(s), plan.mine) if recipe.faults.any else fl.NOBODY
    before = lossy.rows_of([x, *moments[:-1]], away)
    x, moments, losses = inner_step(x, lambda x: _gradient(ready.gradients, plan, state, k, x), moments,
                                    mixes[k] if mixes else None, recipe.lr(s), recipe, _decay(plan, k, x))
    lossy.put_back([x, *moments[:-1]], away, before)                     # who is away keeps model and moments
    blocks = _replaced(state.blocks, k, x)
    if recipe.mix_all and mixes:
        blocks = tuple(b if j == k else mixes[j](_working(b)).to(b.dtype) for j, b in enumerate(blocks))
    over = r + 1 == recipe.inner_steps                                   # the visit ends: state of the block goes
    master = None if over or x.dtype == blocks[k].dtype else x
    held = {**kept, k: moments} if recipe.keep_moments else {} if over else {k: moments}
    return State(s + 1, blocks, master, held, post.sent, {} if over else post.past, (post.tally[0], post.tally[1])), losses


def _here(clients: np.ndarray, mine: slice) -> np.ndarray:
    """Return the rows of these clients in X: those of this process."""
    return clients[(clients >= mine.start) & (clients < mine.stop)] - mine.start if len(clients) else clients


def _mixes(plan: Plan, step: int, ready: Ready, x: Tensor, post: lossy.Post) -> list[Mix]:
    """Return each block's mixing after a step, which counts what it sends: as prepared, of short messages, or under faults."""
    recipe, turn = plan.recipe, step // plan.recipe.mix_every
    short, number = recipe.compression, turn % plan.topology.period
    first = short is None or plan.first(turn)
    if recipe.faults.any:
        W, heard, way = plan.topology.at(turn), edges(plan.heard(turn)), lossy.Way(plan.mine, recipe.total)
        mixes = [lossy.mixing(W, recipe.faults, step, k, _combined(recipe, where, x), post, way)
                 for k, where in enumerate(plan.layouts)]
    else:
        mixes, heard = ready.mixers[number], ready.heard[number]
    if short is not None:
        mixes = [ms.compressed(mix, short, post.past, k, (recipe.seed, turn)) for k, mix in enumerate(mixes)]
    return [_counted(mix, heard, post.sent, short, first) for mix in mixes]


def edges(messages: np.ndarray) -> Edges:
    """Return where the messages of a table (N, N) are, in the flattened table, and how many there."""
    at = np.flatnonzero(messages)
    return at, messages.ravel()[at]


def _combined(recipe: Recipe, where: Layout, x: Tensor) -> Callable[[np.ndarray], Mix]:
    """Return how a matrix becomes the mixing of a block, of tensors like X."""
    return lambda W: recipe.combine(W, where, x[:, :1])


def _counted(mix: Mix, heard: Edges, sent: np.ndarray, short: ms.Compression | None, first: bool) -> Mix:
    """Return the mixing that also adds to `sent` (N, N) the bytes of each message that is heard."""
    at, times = heard

    def counting(x: Tensor) -> Tensor:
        sent.ravel()[at] += times * ms.message_bytes(x, short, first)
        return mix(x)

    return counting


def inner_step(x: Tensor, gradient: Callable[[Tensor], tuple[Tensor, Tensor]], moments: Any, mix: Mix | None,  # noqa: ANN401
               lr: float, recipe: Recipe, decay: Tensor | None = None) -> tuple[Tensor, Any, Tensor]:
    """Return the active block X (N, D_k), the optimiser's state and the losses (N,) after one inner step."""
    losses, g = gradient(x)                                              # fresh local batch
    direction, moments = recipe.optimiser.direction_(moments, clip_(g, recipe.clip), mix or _alone)
    del g                                                                # its memory becomes the mixing's buffer
    if decay is not None:
        direction.addcmul_(x, decay)
    if recipe.combine_first and mix is not None:
        x_new = mix(x).sub_(direction, alpha=lr)
    else:
        x_new = torch.add(x, direction, alpha=-lr, out=direction)        # Eq. 6: adapt
        if mix is None:
            return x_new, moments, losses
        x_new = mix(x_new)                                               # Eq. 7: then combine
    del direction
    return x_new, recipe.optimiser.returned_(moments, x, x_new, lr), losses


def _alone(x: Tensor) -> Tensor:
    """Stand in for the mixing at an inner step without one."""
    return x.clone()


def clip_(g: Tensor, longest: float) -> Tensor:
    """Scale each client's gradient row down to the norm `longest` where it is longer, in place (0: leave it)."""
    return g.mul_((longest / (g.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1.0)) if longest > 0 else g


def _gradient(gradients: Gradients, plan: Plan, state: State, k: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return losses (N,) and the gradient of block k in the working precision, at a fresh batch."""
    rest = params_of(plan, state, without=k)
    losses, g = gradients(state.blocks[k], plan.layouts[k], rest, plan.problem.batches(state.step))
    return losses, g if g.dtype == x.dtype else g.to(x.dtype)


def _working(x: Tensor) -> Tensor:
    """Return x itself, or in float32 where it is stored in half precision: moments and mixing need the digits."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _replaced(blocks: tuple[Tensor, ...], k: int, x: Tensor) -> tuple[Tensor, ...]:
    return (*blocks[:k], x.to(blocks[k].dtype), *blocks[k + 1:])


def _decay(plan: Plan, k: int, x: Tensor) -> Tensor | None:
    """Return the weight decay of each column (D_k,): none on biases and norms, which have one axis."""
    if plan.recipe.weight_decay == 0:
        return None
    where = plan.layouts[k]
    rates = x.new_tensor([plan.recipe.weight_decay if len(shape) > 1 else 0.0 for shape in where.shapes])
    return rates.repeat_interleave(torch.tensor(where.sizes, device=x.device))


def constant(progress: float) -> float:
    """The peak throughout."""
    return 1.0


def linear(progress: float) -> float:
    """Straight down to zero at the end of the run."""
    return 1 - progress


def cosine(progress: float) -> float:
    """Half a cosine down to zero at the end of the run."""
    return 0.5 * (1 + float(np.cos(np.pi * progress)))


SCHEDULES: dict[str, Callable[[float], float]] = {"constant": constant, "linear": linear, "cosine": cosine}


def schedule(peak: float, shape: Callable[[float], float], total: int, warmup: int = 0) -> Callable[[int], float]:
    """Return the learning rate by inner step: `warmup` steps up from zero, then `shape` (transformers' get_scheduler)."""

    def lr(s: int) -> float:
        if s < warmup:
            return peak * s / max(1, warmup)
        return peak * shape((s - warmup) / max(1, total - warmup))

    return lr
