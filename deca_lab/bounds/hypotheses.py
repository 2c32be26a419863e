"""What claims ask for, as code: the one place that checks a hypothesis and names it where it is broken.

A claim lists its hypotheses; its own examples, the tests, `deca-lab bounds` and a run's judgement all ask here.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from deca_lab.algorithm.moments import Adam
from deca_lab.mixing.graphs import Array
from deca_lab.mixing.matrix import Matrix, asymmetry
from deca_lab.mixing.spectrum import spectrum
from deca_lab.mixing.topology import Topology

TOLERANCE = 1e-9  # on sums and entries of W
SMALLEST = 1e-280  # of a second moment: below it float64 loses the digits of a square
GUARD = 1e-130  # from this eps on nothing is lost: far below it are the roots of such moments, and of their first ones


class Instance(NamedTuple):
    """What a claim may ask about: the network, and how a step is made. What is not given breaks nothing."""

    topology: Topology
    optimiser: str = "adam"  # "adam", or what else makes the steps, in words
    adam: Adam = Adam()
    b1: float = 1.0
    b2: float = 1.0
    fed: bool = False
    raw: bool = True  # the discrepancy is fed as it is
    rates: tuple[float, float] = (0.0, 0.0)  # smallest and largest learning rate
    largest: float = float("inf")  # learning rate that the claim allows
    clip: float = 0.0
    weight_decay: float = 0.0
    momentum: float = 0.0
    blocks: int = 1
    mix_every: int = 1
    combine_first: bool = False
    keep_moments: bool = False
    carrier: str = "gossip"
    faults: bool = False
    compressed: bool = False
    apart: bool = False  # the clients' starts
    below_zero: bool = False  # a loss

    @property
    def rho(self) -> float:
        """The largest second singular value of the matrices in turn."""
        return largest_rho(self.topology)


Hypothesis = Callable[[Instance], str]  # -> how it is broken, or ""


def broken(hypotheses: Sequence[Hypothesis], instance: Instance) -> str:
    """Return the words of the first hypothesis that the instance breaks, or nothing."""
    return next((words for one in hypotheses if (words := one(instance))), "")


def largest_rho(topology: Topology) -> float:
    """Return the largest second singular value of the matrices in turn: no mixing shrinks disagreement less."""
    return max(facts.rho + facts.error for facts in map(spectrum, topology.matrices))


def _of_matrices(words: str, good: Callable[[Matrix], bool]) -> Hypothesis:
    return lambda one: "" if all(good(W) for W in one.topology.matrices) else words


def _unless(words: str, wrong: Callable[[Instance], bool]) -> Hypothesis:
    return lambda one: words if wrong(one) else ""


# ---- the network

doubly_stochastic = _of_matrices(
    "W is not doubly stochastic",
    lambda W: bool(np.abs(np.concatenate([W.sum(0), W.sum(1)]) - 1).max() <= TOLERANCE),
)
non_negative = _of_matrices("W has a negative entry", lambda W: bool(W.min() >= -TOLERANCE))
symmetric = _of_matrices("W is not symmetric", lambda W: asymmetry(W) <= TOLERANCE)
heard = _of_matrices("a client does not hear itself", lambda W: bool(W.diagonal().min() > 0))
one_matrix = _unless("W is another one at every mixing", lambda one: one.topology.period > 1)
together = _unless("the clients never come together (rho = 1)", lambda one: one.rho >= 1)
no_faults = _unless(
    "there are faults: W is another one at every mixing, or messages are late or noisy",
    lambda one: one.faults,
)
whole_messages = _unless(
    "messages are compressed: what is mixed is not the clients' models", lambda one: one.compressed
)


def gossiped(one: Instance) -> str:
    """Ask that W mixes, and nothing else."""
    return "" if one.carrier == "gossip" else f"{one.carrier} is not a mixing with W"


mixed_by_w: tuple[Hypothesis, ...] = (gossiped, no_faults, whole_messages, doubly_stochastic)

# ---- the steps


def adams(one: Instance) -> str:
    """Ask for Adam, whose steps have a constant of their own."""
    if one.optimiser == "adam":
        return ""
    return f"the steps of {one.optimiser} have no constant of their own"


decays: tuple[Hypothesis, ...] = (
    _unless("a2 = 0: v forgets at once", lambda one: one.adam.a2 == 0),
    _unless(
        "b2 = 1 with b1 < 1: a discrepancy counts in m and not in v",
        lambda one: one.fed and (one.b2 == 1) != (one.b1 == 1),
    ),
    _unless("b2 = 0: v forgets at once", lambda one: one.fed and one.b2 == 0),
)
no_weight_decay = _unless("weight decay adds to the step", lambda one: one.weight_decay > 0)
no_momentum = _unless("momentum", lambda one: one.momentum > 0)
no_clipping = _unless(
    "gradients are clipped: they are no longer unbiased", lambda one: one.clip > 0
)
FED = "there is feedback"
no_feedback = _unless(FED, lambda one: one.fed)
raw_feedback = _unless("feedback is not raw", lambda one: one.fed and not one.raw)
steady = _unless(
    "the learning rate is not constant (a schedule, or warm-up)",
    lambda one: one.rates[1] > one.rates[0] * (1 + 1e-12),
)
moving = _unless("the learning rate is 0", lambda one: one.rates[1] <= 0)


def short_steps(one: Instance) -> str:
    """Ask for a learning rate that the claim allows; the rounding of its own formula is forgiven."""
    return f"the learning rate is above {one.largest:.3g}" if (
        one.rates[1] > one.largest * (1 + 1e-9)
    ) else ""  # fmt: skip


one_block = _unless("trained in blocks", lambda one: one.blocks > 1)
every_step = _unless("mixed less often than every step", lambda one: one.mix_every > 1)
adapt_first = _unless("combine then adapt", lambda one: one.combine_first)
restarted = _unless("moments are kept between visits", lambda one: one.keep_moments)
kept = _unless("moments restart at each visit", lambda one: not one.keep_moments)
equal_start = _unless("the clients do not start with equal models", lambda one: one.apart)
bounded_below = _unless(
    "a loss is below 0: how far it can still fall is not known", lambda one: one.below_zero
)


def squarable(adam: Adam, entered: Array, fed: Array | None = None, b2: float = 1.0) -> str:
    """Ask of gradients, and discrepancies after them, (T, N, D), that float64 can square them where no eps guards: not 0."""
    if adam.eps >= GUARD:
        return ""
    entered = np.asarray(entered, dtype=np.float64)
    fed = np.zeros_like(entered) if fed is None else fed
    v, least = np.zeros(entered.shape[1:]), np.inf
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is not small
        for g, h in zip(entered, fed, strict=True):
            v = adam.a2 * v + (1 - adam.a2) * g**2
            least = min(least, float(v.min()))
            v = b2 * v + (1 - b2) * h**2
    return resolved(adam, least)


def resolved(adam: Adam, least: float) -> str:
    """Ask of the smallest second moment of a run that float64 has its digits, or that eps guards."""
    if adam.eps >= GUARD or not least < SMALLEST:
        return ""
    return f"eps = {adam.eps:g} and a second moment that float64 rounds to nothing"
