"""What a proof speaks of, taken from inside a real run: iterates, gradients, moments, denominators, directions.

The run is the library's own `train`; its optimiser is wrapped, not rewritten.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from deca_lab.algorithm import moments as mo
from deca_lab.algorithm.loop import Recipe, plan, train
from deca_lab.algorithm.optimisers import Optimiser, adam
from deca_lab.bounds.hypotheses import Instance
from deca_lab.bounds.landscape import Landscape, as_problem
from deca_lab.mixing.gossip import Mix
from deca_lab.mixing.topology import Topology

NO_FEEDBACK = mo.Feedback(None, mo.raw, 1.0, 1.0)


class Setting(NamedTuple):
    """One run of DECA on a landscape: B blocks, T rounds, R inner steps, learning rate, decays, feedback, noise of a coin."""

    topology: Topology
    blocks: int = 3
    rounds: int = 5
    inner_steps: int = 8
    lr: float = 0.01
    adam: mo.Adam = mo.Adam(0.9, 0.999, 0.1)
    feedback: mo.Feedback = NO_FEEDBACK
    noise: float = 0.0
    seed: int = 0

    @property
    def steps(self) -> int:
        """S = T B R."""
        return self.rounds * self.blocks * self.inner_steps

    @property
    def instance(self) -> Instance:
        """What hypotheses ask about."""
        fed = self.feedback
        return Instance(
            self.topology,
            adam=self.adam,
            b1=fed.b1,
            b2=fed.b2,
            fed=fed.signal is not None,
            raw=fed.scale is mo.raw,
            rates=(self.lr, self.lr),
            blocks=self.blocks,
        )


class Step(NamedTuple):
    """One inner step, all clients at once; matrices are of the active block (N, D_k) unless stated."""

    turn: int  # r, from 1 within the visit
    columns: slice  # of the active block in X
    before: Tensor  # X (N, d), all coordinates
    after: Tensor  # X (N, d)
    g: Tensor  # stochastic gradients
    m_hat: Tensor  # bias-corrected first moments
    below: Tensor  # sqrt(v_hat) + eps, what a client divides by
    direction: Tensor  # U, before the learning rate


def trace(landscape: Landscape, setting: Setting, optimiser: Optimiser | None = None) -> list[Step]:
    """Return every inner step of the run; `optimiser` replaces DECA's Adam by another whose state has m, v and steps."""
    problem, blocks = as_problem(landscape, setting.blocks, setting.noise, setting.seed)
    inside: list[tuple[Tensor, ...]] = []
    watched = spied(optimiser or adam(setting.adam, setting.feedback), setting.adam, inside)
    laid = plan(
        problem,
        blocks,
        setting.topology,
        Recipe(setting.rounds, setting.inner_steps, lambda s: setting.lr, watched),
    )
    ends = torch.tensor([0, *(where.width for where in laid.layouts)]).cumsum(0).tolist()
    before, steps = torch.cat([problem.start[b.names[0]] for b in blocks], 1), []
    for state, _ in train(laid):
        k, turn = (
            laid.visits[(state.step - 1) // setting.inner_steps].block,
            (state.step - 1) % setting.inner_steps + 1,
        )
        after = torch.cat(state.blocks, 1)
        steps.append(Step(turn, slice(ends[k], ends[k + 1]), before, after, *inside[-1]))
        before = after
    return steps


def spied(optimiser: Optimiser, decays: mo.Adam, inside: list[tuple[Tensor, ...]]) -> Optimiser:
    """Return the optimiser that also writes down g, m_hat, sqrt(v_hat) + eps and its direction."""

    def update(g: Tensor, state: Any, x: Tensor, exchange: Mix) -> tuple[Tensor, Any]:  # noqa: ANN401 - any optimiser's state
        seen = g.clone()
        direction, state = optimiser.update(g, state, x, exchange)
        m_hat = state.m / (1 - decays.a1**state.steps)
        below = (state.v / (1 - decays.a2**state.steps)).sqrt() + decays.eps
        inside.append((seen, m_hat, below, direction.clone()))
        return direction, state

    return optimiser._replace(update=update)
