"""Optimisers of an active block X (N, D): what direction a gradient gives, and what the mixing returns to the state.

Each is a row of pieces around one state: tensors with the clients on axis 0, and numbers, in a NamedTuple, dict, tuple or list.
`exchange` is there for optimisers that gossip a part of their state as well. Ours use up the state that they are given and
return a new one, so that it is held once; the loop gives them a copy where somebody may keep the old one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deca_lab.algorithm import moments as mo
from deca_lab.algorithm.stacking import pieces_of
from deca_lab.mixing.gossip import Mix

COLUMNS = 2**9  # of X that are compared in one go: little memory beside it
OptState = Any  # of any optimiser: see `leaves`
Update = Callable[[Tensor, OptState, Tensor, Mix], tuple[Tensor, OptState]]
Feed = Callable[[OptState, Tensor, Tensor, float], OptState]
ArrayMix = Callable[[np.ndarray], np.ndarray]  # X (N, D) -> W X


def leaves(state: OptState) -> list[Any]:
    """Return the tensors and numbers of an optimiser's state, in a fixed order."""
    if isinstance(state, Mapping):
        return [leaf for name in state for leaf in leaves(state[name])]
    if isinstance(state, tuple | list):
        return [leaf for part in state for leaf in leaves(part)]
    return [state]


def with_leaves(state: OptState, new: Iterator[Any]) -> OptState:
    """Return a state of the same shape with these leaves."""
    if isinstance(state, Mapping):
        return {name: with_leaves(part, new) for name, part in state.items()}
    if isinstance(state, tuple | list):
        parts = [with_leaves(part, new) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    return next(new)


def tensors(state: OptState) -> list[Tensor]:
    """Return the tensors of an optimiser's state: what is checkpointed, spread over processes, and counted as memory."""
    return [leaf for leaf in leaves(state) if isinstance(leaf, Tensor)]


def numbers(state: OptState) -> list[Any]:
    """Return the leaves of an optimiser's state that are no tensors, such as a count of gradients."""
    return [leaf for leaf in leaves(state) if not isinstance(leaf, Tensor)]


def each_tensor(state: OptState, change: Callable[[Tensor], Tensor]) -> OptState:
    """Return the state with every tensor of it changed."""
    parts = (change(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves(state))
    return with_leaves(state, parts)


def copied(state: OptState) -> OptState:
    """Return the state with copies of its tensors."""
    return each_tensor(state, Tensor.clone)


class Arrays(NamedTuple):
    """An optimiser of small matrices as NumPy operations, whose state is tensors and, last, the number of gradients.

    `update(g, parts, steps, exchange)` writes the state's arrays and returns the direction, `feed(parts, x, x_new)` takes
    in a mixing. Both do what the `of`, an Optimiser's update and feed, do: an optimiser with others has no arrays.
    """

    update: Callable[[np.ndarray, Sequence[np.ndarray], int, ArrayMix], np.ndarray]
    feed: Callable[[Sequence[np.ndarray], np.ndarray, np.ndarray], None]
    of: tuple[Update, Feed]


class Optimiser(NamedTuple):
    """How one method turns gradients into directions.

    `init(x)` is the state of a block before its first gradient; `update(g, state, x, exchange)` returns the direction
    (N, D), before the learning rate, and the state; `feed(state, x, x_new, lr)` takes in what a step with a mixing
    displaced. `mixed` is how many matrices travel at every mixing besides X, `scratch` how many live at most besides X and
    the state: the gradient and one more, unless said.
    """

    init: Callable[[Tensor], OptState]
    update: Update
    feed: Feed = lambda state, x, x_new, lr: state
    mixed: int = 0
    scratch: int = 2
    arrays: Arrays | None = None

    @property
    def matrices(self) -> int:
        """Tensors (N, D) that the state holds."""
        return len(tensors(self.init(torch.zeros(1, 1))))


def clipped(optimiser: Optimiser, longest: float) -> Optimiser:
    """Return the optimiser whose gradients are scaled down, client by client, to the norm `longest` where they are longer."""

    def update(g: Tensor, state: OptState, x: Tensor, exchange: Mix) -> tuple[Tensor, OptState]:
        g.mul_((longest / (g.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1.0))
        return optimiser.update(g, state, x, exchange)

    return optimiser._replace(update=update)


def decayed(optimiser: Optimiser, rates: Tensor) -> Optimiser:
    """Return the optimiser with decoupled weight decay (AdamW), a rate (D,) for each column."""

    def update(g: Tensor, state: OptState, x: Tensor, exchange: Mix) -> tuple[Tensor, OptState]:
        direction, state = optimiser.update(g, state, x, exchange)
        return direction.addcmul_(x, rates), state

    return optimiser._replace(update=update)


def attending(optimiser: Optimiser, away: np.ndarray) -> Optimiser:
    """Return the optimiser under which the rows `away` stand still: who does not train keeps its model and its state."""
    if not len(away):
        return optimiser

    def kept(
        state: OptState, change: Callable[[], tuple[Tensor | None, OptState]]
    ) -> tuple[Tensor | None, OptState]:
        rows = [part[away].clone() for part in tensors(state)]  # the state is used up by the change
        direction, state = change()
        for part, row in zip(tensors(state), rows, strict=True):
            part[away] = row
        return direction, state

    def update(g: Tensor, state: OptState, x: Tensor, exchange: Mix) -> tuple[Tensor, OptState]:
        direction, state = kept(state, lambda: optimiser.update(g, state, x, exchange))
        assert direction is not None
        direction[away] = 0
        return direction, state

    def feed(state: OptState, x: Tensor, x_new: Tensor, lr: float) -> OptState:
        return kept(state, lambda: (None, optimiser.feed(state, x, x_new, lr)))[1]

    return optimiser._replace(update=update, feed=feed)


def adam(decays: mo.Adam, feedback: mo.Feedback) -> Optimiser:
    """Adam with the consensus feedback: DECA; without a signal, plain decentralised Adam."""

    def update(g: Tensor, state: mo.Moments, x: Tensor, exchange: Mix) -> tuple[Tensor, mo.Moments]:
        return mo.adam_(state, g, decays)

    feed = partial(mo.feed_, feedback=feedback)

    def step(
        g: np.ndarray, parts: Sequence[np.ndarray], steps: int, exchange: ArrayMix
    ) -> np.ndarray:
        return mo.adam_arrays_(g, parts, steps, decays)

    small = Arrays(step, _fed(feedback), (update, feed))
    plain = feedback.signal in (None, mo.printed, mo.downhill) and feedback.scale is mo.raw
    return Optimiser(mo.start, update, feed, arrays=small if plain else None)


def _unfed(parts: Sequence[np.ndarray], x: np.ndarray, x_new: np.ndarray) -> None:
    """Take nothing from a mixing."""


def _fed(feedback: mo.Feedback) -> Callable[[Sequence[np.ndarray], np.ndarray, np.ndarray], None]:
    """Return DECA's feedback of a discrepancy that is a difference, on arrays."""

    def feed(parts: Sequence[np.ndarray], x: np.ndarray, x_new: np.ndarray) -> None:
        if feedback.signal is not None:
            h = x_new - x if feedback.signal is mo.printed else x - x_new
            mo.blend_arrays_(parts, h, feedback.b1, feedback.b2)

    return feed


def mixed_adam(decays: mo.Adam, feedback: mo.Feedback) -> Optimiser:
    """DECA's Adam whose second moments are mixed with the neighbours' before each step: twice the traffic.

    Every client then divides by nearly the same number, so the mean model moves along the mean of the first moments; with
    second moments of their own the clients' steps need not average to a descent (theory/deca_descent.ipynb).
    """

    def update(g: Tensor, state: mo.Moments, x: Tensor, exchange: Mix) -> tuple[Tensor, mo.Moments]:
        steps = state.steps + 1
        m, v = mo.blend_(state.m, state.v, g, decays.a1, decays.a2)
        _take_positive(v, exchange(v))
        return mo.direction(m, v, steps, decays), mo.Moments(m, v, steps)

    return Optimiser(mo.start, update, partial(mo.feed_, feedback=feedback), mixed=1)


def predictable_adam(decays: mo.Adam, floor: float = 0.01) -> Optimiser:
    """Adam that divides by the mixed second moments of the steps before, and averages what it has divided.

    No gradient is divided by a number that it has a part in, so noise stays unbiased; and clients divide by nearly the
    same (theory/deca_predictable.ipynb). As in ADOPT (arXiv 2411.02853), which has one client, a block's first gradient is
    only measured. A share `floor` of the block's mean second moment is added, so that no coordinate whose gradients
    were zero so far leaps. For moments that are kept: each restart would cost a step.
    """

    def update(g: Tensor, state: mo.Moments, x: Tensor, exchange: Mix) -> tuple[Tensor, mo.Moments]:
        if state.steps:
            root = divisor(state, decays, floor)
            m = state.m.lerp_(torch.div(g, root, out=root), 1 - decays.a1)
            direction = root.copy_(m)
        else:
            m, direction = state.m, torch.zeros_like(g)
        v = state.v.mul_(decays.a2).addcmul_(g, g, value=1 - decays.a2)
        _take_positive(v, exchange(v))
        return direction, mo.Moments(m, v, state.steps + 1)

    def step(
        g: np.ndarray, parts: Sequence[np.ndarray], steps: int, exchange: ArrayMix
    ) -> np.ndarray:
        m, v = parts
        if steps > 1:
            v_hat = v / (1 - decays.a2 ** (steps - 1))
            root = np.sqrt(v_hat + floor * v_hat.mean(1, keepdims=True)) + decays.eps
            m += (1 - decays.a1) * (g / root - m)
        v *= decays.a2
        v += (1 - decays.a2) * g * g
        mixed = exchange(v)
        np.copyto(v, mixed, where=mixed > 0)
        return m if steps > 1 else np.zeros_like(g)

    feed: Feed = Optimiser._field_defaults["feed"]
    small = Arrays(step, _unfed, (update, feed))
    return Optimiser(mo.start, update, feed, mixed=1, scratch=3, arrays=small)


def divisor(moments: mo.Moments, decays: mo.Adam, floor: float) -> Tensor:
    """Return what `predictable_adam` divides by (N, D): sqrt(v_hat + floor mean(v_hat)) + eps, of a client's v so far."""
    v_hat = moments.v / (1 - decays.a2**moments.steps)
    return v_hat.add_(v_hat.mean(1, keepdim=True), alpha=floor).sqrt_().add_(decays.eps)


def _take_positive(v: Tensor, mixed: Tensor) -> None:
    """Write the mixed second moments into v, where they are positive.

    Negative shares of W, and replicas that lag behind, can make one negative. There a client keeps its own, for next to
    nothing under the root would make a step next to infinite.
    """
    for own, other in zip(pieces_of(v, COLUMNS), pieces_of(mixed, COLUMNS), strict=True):
        torch.where(other > 0, other, own, out=own)


def quasi_global_adam(decays: mo.Adam, feedback: mo.Feedback, corrected: bool = True) -> Optimiser:
    """Adam whose stored moments are fed by the signal alone; the local gradient enters the direction only.

    With DECA's signal this is its "trivial" ablation. QG-Adam (Lin et al. 2021, arXiv 2102.04761) has the downhill signal
    of unit norm, b = a, and no bias correction.
    """

    def update(g: Tensor, state: mo.Moments, x: Tensor, exchange: Mix) -> tuple[Tensor, mo.Moments]:
        steps = state.steps + 1
        m = torch.lerp(state.m, g, 1 - decays.a1)  # used once, not stored
        v = (state.v * decays.a2).addcmul_(g, g, value=1 - decays.a2)
        first, second = (1 - decays.a1**steps, 1 - decays.a2**steps) if corrected else (1.0, 1.0)
        direction = m.div_(first).div_(v.div_(second).sqrt_().add_(decays.eps))
        return direction, state._replace(steps=steps)

    return Optimiser(mo.start, update, partial(mo.feed_, feedback=feedback), scratch=3)


class Velocity(NamedTuple):
    """Momentum m (N, D) and the number of gradients taken."""

    m: Tensor
    steps: int


def _at_rest(x: Tensor) -> Velocity:
    return Velocity(torch.zeros_like(x), 0)


def sgd(momentum: float = 0.0) -> Optimiser:
    """Stochastic gradient descent with heavy-ball momentum: m <- momentum m + g (as torch.optim.SGD)."""

    def update(g: Tensor, state: Velocity, x: Tensor, exchange: Mix) -> tuple[Tensor, Velocity]:
        if momentum == 0:
            return g, state._replace(steps=state.steps + 1)
        m = state.m.mul_(momentum).add_(g)
        return g.copy_(m), Velocity(m, state.steps + 1)

    def step(
        g: np.ndarray, parts: Sequence[np.ndarray], steps: int, exchange: ArrayMix
    ) -> np.ndarray:
        if momentum == 0:
            return g
        (m,) = parts
        m *= momentum
        m += g
        return m

    feed: Feed = Optimiser._field_defaults["feed"]
    return Optimiser(_at_rest, update, feed, arrays=Arrays(step, _unfed, (update, feed)))


def quasi_global_sgd(momentum: float = 0.9, share: float = 0.1) -> Optimiser:
    """QG-SGDm: step along momentum m + g, gossip, m <- (1 - share) m + share (x - x_new) / lr (arXiv 2102.04761)."""

    def update(g: Tensor, state: Velocity, x: Tensor, exchange: Mix) -> tuple[Tensor, Velocity]:
        return g.add(state.m, alpha=momentum), state._replace(steps=state.steps + 1)

    def feed(state: Velocity, x: Tensor, x_new: Tensor, lr: float) -> Velocity:
        return state._replace(m=state.m.lerp_((x - x_new).div_(lr), share)) if lr > 0 else state

    return Optimiser(_at_rest, update, feed)


class Tracker(NamedTuple):
    """Tracked mean gradient y and the last local gradient (N, D), and the number of gradients taken."""

    y: Tensor
    last: Tensor
    steps: int


def gradient_tracking() -> Optimiser:
    """Direction y with y <- W y + g - g_last, y = g at first: the mean of y is the mean gradient at every step."""

    def start(x: Tensor) -> Tracker:
        return Tracker(torch.zeros_like(x), torch.zeros_like(x), 0)

    def update(g: Tensor, state: Tracker, x: Tensor, exchange: Mix) -> tuple[Tensor, Tracker]:
        y = exchange(state.y).add_(g).sub_(state.last)  # zeros at first, so y = g
        return y.clone(), Tracker(y, g, state.steps + 1)

    return Optimiser(start, update, mixed=1, scratch=4)


class Tracked(NamedTuple):
    """AMSGrad's m, v, largest v and the tracked second moment u (N, D), and the number of gradients taken."""

    m: Tensor
    v: Tensor
    largest: Tensor
    u: Tensor
    steps: int


def amsgrad(decays: mo.Adam, floor: float = 1e-8, late: bool = False) -> Optimiser:
    """Decentralised AMSGrad: the second moment is tracked by dynamic average consensus (arXiv 2109.03194, Algorithm 3).

    Every client divides by nearly the same number, so the mean model moves along the mean of the first moments. In the
    paper (`late`) a step divides by what was tracked before it, the first step by the `floor` alone, which must then
    be of the size of a squared gradient; here the new second moments are mixed first.
    """

    def start(x: Tensor) -> Tracked:
        floors = torch.full_like(x, floor)
        return Tracked(torch.zeros_like(x), torch.zeros_like(x), floors, floors.clone(), 0)

    def update(g: Tensor, state: Tracked, x: Tensor, exchange: Mix) -> tuple[Tensor, Tracked]:
        m, v = mo.blend_(state.m, state.v, g, decays.a1, decays.a2)
        largest = torch.maximum(state.largest, v)
        u = exchange(state.u) if late else exchange(state.u.add_(largest).sub_(state.largest))
        root = u.clamp(min=floor).sqrt_()
        direction = torch.div(m, root, out=root)
        u = u.add_(largest).sub_(state.largest) if late else u
        return direction, Tracked(m, v, largest, u, state.steps + 1)

    return Optimiser(start, update, mixed=1, scratch=4)


class Largest(NamedTuple):
    """AMSGrad's m, v and largest v (N, D), and the number of gradients taken."""

    m: Tensor
    v: Tensor
    largest: Tensor
    steps: int


def local_amsgrad(decays: mo.Adam) -> Optimiser:
    """AMSGrad of each client on its own, mixed in the parameters only: DADAM (Nazari et al. 2019), without momentum tricks.

    It need not come near a stationary point (arXiv 2109.03194, Theorem 1): every client divides by a number of its own.
    """

    def start(x: Tensor) -> Largest:
        return Largest(torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x), 0)

    def update(g: Tensor, state: Largest, x: Tensor, exchange: Mix) -> tuple[Tensor, Largest]:
        m, v = mo.blend_(state.m, state.v, g, decays.a1, decays.a2)
        largest = torch.maximum(state.largest, v)
        return m / largest.sqrt().add_(decays.eps), Largest(m, v, largest, state.steps + 1)

    return Optimiser(start, update, scratch=4)


class OptimiserSpec(NamedTuple):
    """What the rows of OPTIMISERS build an optimiser from."""

    adam: mo.Adam
    feedback: mo.Feedback
    momentum: float = 0.0


def _qg_adam(spec: OptimiserSpec) -> Optimiser:
    """QG-Adam: the moments are fed by x - x_new of unit length alone, and not corrected for their start."""
    fed = mo.Feedback(mo.downhill, mo.unit_, spec.adam.a1, spec.adam.a2)
    return quasi_global_adam(spec.adam, fed, corrected=False)


def _adam(spec: OptimiserSpec) -> Optimiser:
    """Adam, with the consensus feedback where there is one: DECA's."""
    return adam(spec.adam, spec.feedback)


def _mixed(spec: OptimiserSpec) -> Optimiser:
    """DECA's Adam with second moments that are mixed too: twice the traffic, and the clients divide by nearly the same."""
    return mixed_adam(spec.adam, spec.feedback)


def _predictable(spec: OptimiserSpec) -> Optimiser:
    """Adam that divides by the mixed second moments of the steps before: twice the traffic."""
    return predictable_adam(spec.adam)


def _trivial(spec: OptimiserSpec) -> Optimiser:
    """Adam whose stored moments hold the feedback alone: DECA's "trivial" ablation."""
    return quasi_global_adam(spec.adam, spec.feedback)


def _sgd(spec: OptimiserSpec) -> Optimiser:
    """Stochastic gradient descent, with --momentum."""
    return sgd(spec.momentum)


def _qg_sgd(spec: OptimiserSpec) -> Optimiser:
    """SGD with quasi-global momentum, QG-SGDm."""
    return quasi_global_sgd(spec.momentum)


def _gradient_tracking(spec: OptimiserSpec) -> Optimiser:
    """The tracked mean gradient: twice the traffic."""
    return gradient_tracking()


def _amsgrad(spec: OptimiserSpec) -> Optimiser:
    """AMSGrad with a tracked second moment: twice the traffic, and the clients divide by nearly the same."""
    return amsgrad(spec.adam)


def _local_amsgrad(spec: OptimiserSpec) -> Optimiser:
    """AMSGrad of each client on its own: DADAM."""
    return local_amsgrad(spec.adam)


OPTIMISERS: dict[str, Callable[[OptimiserSpec], Optimiser]] = {
    "adam": _adam,
    "adam-mixed": _mixed,
    "adam-predictable": _predictable,
    "adam-trivial": _trivial,
    "qg-adam": _qg_adam,
    "sgd": _sgd,
    "qg-sgd": _qg_sgd,
    "gradient-tracking": _gradient_tracking,
    "amsgrad": _amsgrad,
    "local-amsgrad": _local_amsgrad,
}
