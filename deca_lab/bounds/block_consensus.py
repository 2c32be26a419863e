"""How far clients drift apart during one visit of a block, with or without DECA's feedback.

Claim       After turn R of a visit of block k: || X'_R ||_F <= rho^R || X'_0 ||_F + lr sqrt(N d_k) sum_{s <= R} rho^(R-s+1) C_s,
            X' = X - Xbar on the block's columns, X'_0 at the visit's start. All other blocks keep their disagreement exactly.
Hypotheses  W doubly stochastic; adapt then combine at every step; moments start from zero at the visit, and hold gradients
            and discrepancies of any kind: C_s is that of `feedback_step`, with b1 = b2 = 1 where there is no feedback.
            W may be another matrix at each step: then each rho of its own, their products in place of powers. As there,
            what eps does not guard must have second moments that float64 can tell from 0.
Symbols     rho = || W - J ||_2; lr, b1, b2, R: `setting`; N, d_k: from the landscape.
Source      derived here: one mixing contracts, one step adds at most C_s in each of N d_k coordinates.
Tight       attained at the first turn of the first visit where two clients pull apart with all their steps (`tug_of_war`).
Proof       theory/block_consensus.ipynb.
"""

import numpy as np
import torch
from torch import Tensor

from deca_lab.algorithm import moments as mo
from deca_lab.bounds import hypotheses as hy
from deca_lab.bounds.bound import Bound
from deca_lab.bounds.feedback_step import constants
from deca_lab.bounds.gossip_contraction import lost, second_singular_value
from deca_lab.bounds.landscape import Landscape, quadratics, tug_of_war
from deca_lab.bounds.trace import Setting, trace
from deca_lab.mixing.topology import Topology, topology

SOURCE = "derived here"
HYPOTHESES = (hy.doubly_stochastic, *hy.decays)


def block_consensus(landscape: Landscape, setting: Setting) -> Bound:
    """Return both sides for the active block after every inner step of the library's DECA; the right one restarts at visits.

    Raises BadInput for decays that `feedback_step` does not speak of.
    """
    fed = setting.feedback
    C = constants(
        setting.inner_steps, setting.adam, *((fed.b1, fed.b2) if fed.signal else (1.0, 1.0))
    )
    rhos = [second_singular_value(W) for W in setting.topology.matrices]
    unit, lhs, rhs, rounding = 2 * lost(setting.topology.matrices), [], [], []
    steps = trace(landscape, setting)
    for s, step in enumerate(steps):
        rho, before = rhos[s % len(rhos)], step.before[:, step.columns]
        if step.turn == 1:
            allowed, rounded = disagreement(before), 0.0
        moved = setting.lr * step.direction.numel() ** 0.5 * float(C[step.turn - 1])
        allowed = rho * (allowed + moved)
        # Shrunk or grown with the rest.
        rounded = rho * rounded + unit * (float(before.norm()) + moved)
        lhs.append(disagreement(step.after[:, step.columns]))
        rhs.append(allowed)
        rounding.append(rounded)
    least = min(float(step.below.min()) for step in steps) ** 2
    return Bound(
        np.array(lhs),
        np.array(rhs),
        "consensus within a visit",
        SOURCE,
        axis="inner step",
        rounding=np.array(rounding),
        broken=hy.broken(HYPOTHESES, setting.instance) or hy.resolved(setting.adam, least),
    )


def others_kept(landscape: Landscape, setting: Setting) -> Bound:
    """Return the other blocks' disagreement after each inner step beside that before it: equal, to the last bit."""
    steps, d = trace(landscape, setting), landscape.data.shape[1]
    rest = [_others(step.columns, d) for step in steps]
    after = [
        disagreement(step.after[:, columns]) for step, columns in zip(steps, rest, strict=True)
    ]
    before = [
        disagreement(step.before[:, columns]) for step, columns in zip(steps, rest, strict=True)
    ]
    return Bound(
        np.array(after), np.array(before), "the other blocks", SOURCE, axis="inner step", equal=True
    )


def _others(columns: slice, d: int) -> Tensor:
    """Return the columns below d that are not among these."""
    return torch.tensor([j for j in range(d) if not columns.start <= j < columns.stop])


def disagreement(X: Tensor) -> float:
    """Return || X - Xbar ||_F."""
    return float((X - X.mean(0)).norm())


def examples(seed: int = 0) -> dict[str, Bound]:
    """Return quadratics on a ring, two clients that pull apart, the same with feedback, and the blocks that wait."""
    ring = Setting(topology("ring", 8), 2, 3, 8, 0.02, seed=seed)
    pair = Setting(_pair(0.75), 1, 1, 24, 0.02, mo.Adam(eps=1e-12))
    fed = pair._replace(feedback=mo.Feedback(mo.downhill, mo.raw, 0.9, 0.9))
    hills, war = quadratics(seed=seed), tug_of_war()
    return {
        "quadratics on a ring": block_consensus(hills, ring),
        "tug of war": block_consensus(war, pair),
        "tug of war, feedback": block_consensus(war, fed),
        "blocks that wait": others_kept(hills, ring),
    }


def broken(seed: int = 0) -> Bound:
    """Return the tug of war at a larger learning rate than the right side's: its steps exceed C_s learning rates."""
    pair = Setting(_pair(0.75), 1, 1, 24, 0.02, mo.Adam(eps=1e-12))
    return block_consensus(tug_of_war(), pair)._replace(
        lhs=block_consensus(tug_of_war(), pair._replace(lr=0.03)).lhs
    )


def _pair(share: float) -> Topology:
    """Return two clients that keep `share` of their own: rho = 2 share - 1."""
    return topology(np.array([[share, 1 - share], [1 - share, share]]))
