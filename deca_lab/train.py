"""The loop: rounds over blocks over inner steps, every client at once, exactly in the order of DECA's paper.

    g      fresh local gradient of the active block             m+, v+   Adam's moments, restarted at each visit
    x+   = x - lr m_hat / (sqrt(v_hat) + eps)         Eq. 6     x_new  = sum_j w_ij x+_j                       Eq. 7
    h      the discrepancy that this step left        BMA       m, v   = b1 m+ + (1-b1) h,  b2 v+ + (1-b2) h*h
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deca_lab import moments as mo
from deca_lab.blocks import ORDERS, Block, Order, Visit, require_cover, visits
from deca_lab.clients import Engine, Gradients, stacked
from deca_lab.errors import check
from deca_lab.gossip import Mix, bytes_sent, mixer
from deca_lab.problems import Problem
from deca_lab.topology import Topology
from deca_lab.tree import Layout, Params, flatten, layout, unflatten


class Recipe(NamedTuple):
    """What one run does: the algorithm's knobs, resolved to functions. `RunConfig` is its form for people."""

    rounds: int                                      # T
    inner_steps: int                                 # R, of one visit
    lr: Callable[[int], float]                       # inner step -> learning rate
    adam: mo.Adam = mo.Adam()
    feedback: mo.Feedback = mo.Feedback(None, mo.SCALES["raw"], 1.0, 1.0)
    keep_moments: bool = False                       # else they restart at each visit, and only the active block has any
    mix_every: int = 1                               # inner steps between mixings
    mix_all: bool = False                            # mix every block, not only the active one
    order: Order = ORDERS["sequence"]
    clip: float = 0.0                                # longest gradient of a client's active block; 0 = no clipping
    weight_decay: float = 0.0                        # decoupled, on tensors with two axes or more
    seed: int = 0


class State(NamedTuple):
    """Everything that the next inner step depends on, besides the fixed problem and recipe."""

    step: int                                        # inner steps done
    blocks: tuple[Tensor, ...]                       # X_k (N, D_k), one a block
    master: Tensor | None                            # float32 copy of the active block of a half-precision model
    moments: dict[int, mo.Moments]                   # of the active block, or of every visited one where they are kept
    sent: np.ndarray                                 # (N, N) bytes received by i from j


class Plan(NamedTuple):
    """A run laid out before it starts: what is trained, when, and with whom it is mixed."""

    problem: Problem
    blocks: tuple[Block, ...]
    layouts: tuple[Layout, ...]
    topology: Topology
    recipe: Recipe
    visits: list[Visit]

    @property
    def steps(self) -> int:
        """Inner steps of the whole run, T K R."""
        return len(self.visits) * self.recipe.inner_steps


def plan(problem: Problem, blocks: Sequence[Block], topology: Topology, recipe: Recipe) -> Plan:
    """Return the plan of a run; raise BadInput where its parts do not fit one another."""
    require_cover(blocks, list(problem.start))
    check(topology.n == problem.clients, "topology", f"{topology.n} clients", f"for the problem's {problem.clients}")
    layouts = tuple(layout(problem.start, block.names) for block in blocks)
    table = visits(len(blocks), recipe.rounds, recipe.inner_steps, recipe.order, recipe.seed)
    return Plan(problem, tuple(blocks), layouts, topology, recipe, table)


def begin(plan: Plan) -> State:
    """Return the state before the first inner step."""
    n = plan.problem.clients
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
    return _steps(plan, state, engine(plan.problem.loss), [mixer(W, like) for W in plan.topology.matrices])


def _steps(plan: Plan, state: State, gradients: Gradients, mixers: list[Mix]) -> Iterator[tuple[State, Tensor]]:
    while state.step < plan.steps:
        state, losses = _advance(plan, state, gradients, mixers)
        yield state, losses


def _advance(plan: Plan, state: State, gradients: Gradients, mixers: list[Mix]) -> tuple[State, Tensor]:
    """Do one inner step of the visit that `state.step` falls in."""
    recipe, s = plan.recipe, state.step
    k, r = plan.visits[s // recipe.inner_steps].block, s % recipe.inner_steps
    x = _working(state.blocks[k]) if state.master is None else state.master
    kept = state.moments if recipe.keep_moments or r > 0 else {}         # a visit starts from zero moments
    gradient = partial(_gradient, gradients, plan, state, k)
    turn, mixes = divmod(s + 1, recipe.mix_every)
    mix = None if mixes else mixers[(turn - 1) % len(mixers)]
    moments = kept[k] if k in kept else mo.start(x)
    x, moments, losses = inner_step(x, gradient, moments, mix, recipe.lr(s), recipe, _decay(plan, k, x))
    W = plan.topology.at(turn - 1)
    sent = state.sent if mix is None else state.sent + bytes_sent(W, x)
    blocks = _replaced(state.blocks, k, x)
    if recipe.mix_all and mix is not None:
        blocks = tuple(b if j == k else mix(_working(b)).to(b.dtype) for j, b in enumerate(blocks))
        sent = sent + sum(bytes_sent(W, b) for j, b in enumerate(blocks) if j != k)
    over = r + 1 == recipe.inner_steps                                   # the visit ends: state of the block goes
    master = None if over or x.dtype == blocks[k].dtype else x
    held = {**kept, k: moments} if recipe.keep_moments else {} if over else {k: moments}
    return State(s + 1, blocks, master, held, sent), losses


def inner_step(x: Tensor, gradient: Callable[[Tensor], tuple[Tensor, Tensor]], moments: mo.Moments, mix: Mix | None,
               lr: float, recipe: Recipe, decay: Tensor | None = None) -> tuple[Tensor, mo.Moments, Tensor]:
    """Return the active block X (N, D_k), its moments and the losses (N,) after one inner step of DECA."""
    losses, g = gradient(x)                                              # fresh local batch
    direction, moments = mo.adam_(moments, clipped(g, recipe.clip), recipe.adam)
    del g                                                                # its memory becomes the mixing's buffer
    if decay is not None:
        direction.addcmul_(x, decay)
    x_plus = torch.add(x, direction, alpha=-lr, out=direction)           # Eq. 6: adapt
    if mix is None:
        return x_plus, moments, losses
    x_new = mix(x_plus)                                                  # Eq. 7: then combine
    del x_plus, direction
    return x_new, mo.feed_(moments, x, x_new, lr, recipe.feedback), losses


def clipped(g: Tensor, longest: float) -> Tensor:
    """Return each client's gradient row scaled down to the norm `longest` where it is longer (0: as it is)."""
    return g * (longest / (g.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1.0) if longest > 0 else g


def _gradient(gradients: Gradients, plan: Plan, state: State, k: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return losses (N,) and the gradient of block k in the working precision, at a fresh batch."""
    rest = params_of(plan, state, without=k)
    losses, g = gradients(state.blocks[k], plan.layouts[k], rest, plan.problem.batches(state.step))
    return losses, g.to(x.dtype)


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
