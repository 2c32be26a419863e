"""The repair: DECA whose second moments are mixed as well comes nearer to a stationary point, and on a complete graph to one.

Claim       As `deca_descent`, with C'_r in place of C_r and theta'_r in place of theta:
            C'_r^2 = (1 - a2^r) / (1 - a1^r)^2 * sum_{j < r} alpha_j^2 / (beta_j pi_{j+1}),   pi_j = min_i (W^j)_ii,
            theta'_r = (1 / sqrt(eps) - 1 / sqrt(eps + min(G, sqrt(D_r))))^2,     D_r = G^2 sqrt(N / 2) S_r,
            S_r = sum_{j < r} beta_j rho^(j+1) / (1 - a2^r).
            For the clients' corrected second moments (`agreement`): in each coordinate || V - Vbar || <= G^2 sqrt(N) / 2 * S_r.
Hypotheses  those of `deca_descent`, no feedback, one W for all mixings, symmetric, without a negative entry (a second moment
            must stay a mean of squares) and with positive shares on its diagonal (else C' is infinite); second
            moments mixed with W at every step before they are divided by (method deca-mixed, optimiser adam-mixed).
Symbols     alpha, beta: `feedback_step.weights`; D_r bounds the range of the clients' corrected second moments.
Source      derived here.
Tight       `agreement` is attained at the first turn by two clients, one with gradient G and one with 0 (`one_pulls`). On a
            complete graph S_r = 0: every client divides by the same, theta' = 0, and what is left falls with lr and the noise.
Proof       theory/deca_mixed.ipynb.
"""

import numpy as np
import torch

from deca_lab.algorithm import moments as mo
from deca_lab.algorithm.optimisers import Optimiser, mixed_adam
from deca_lab.bounds import deca_descent
from deca_lab.bounds import hypotheses as hy
from deca_lab.bounds.bound import Bound
from deca_lab.bounds.deca_descent import Turns, assembled, known, lag, left_side, theta, turns
from deca_lab.bounds.feedback_step import weights
from deca_lab.bounds.landscape import Landscape, quadratics, tug_of_war
from deca_lab.bounds.trace import Setting, trace
from deca_lab.errors import check
from deca_lab.mixing.graphs import Array
from deca_lab.mixing.topology import topology

SOURCE = "derived here"
HYPOTHESES = (
    *(*deca_descent.HYPOTHESES, hy.no_feedback),
    *(hy.one_matrix, hy.non_negative, hy.symmetric, hy.heard),
)


def deca_mixed(
    landscape: Landscape, setting: Setting, seeds: int = 1, repaired: bool = True
) -> Bound:
    """Return both sides after S = 1 .. T B R inner steps, the left one of the library's DECA with mixed second moments.

    `repaired=False` runs DECA itself against the same right side, which does not speak of it. With noise the left side is
    a mean over `seeds` runs and its standard error the `rounding`.
    """
    _plain(setting)
    optimiser = _optimiser(setting) if repaired else None
    runs = [
        trace(landscape, setting._replace(seed=setting.seed + i), optimiser) for i in range(seeds)
    ]
    lhs, error = left_side(landscape, runs)
    facts = known(landscape, setting, [step for run in runs for step in run])
    t = mixed_turns(setting, len(landscape.data))
    low, G = setting.adam.eps, facts.steepest
    reach = np.minimum(G, np.sqrt(G**2 * (facts.clients / 2) ** 0.5 * shares(setting)))
    rhs = assembled(facts, setting, t, low, G + low, np.array([theta(low, low + r) for r in reach]))
    return Bound(
        lhs,
        rhs,
        "descent with mixed second moments",
        SOURCE,
        axis="inner step",
        rounding=error,
        broken=hy.broken(HYPOTHESES, setting.instance),
    )


def agreement(landscape: Landscape, setting: Setting) -> Bound:
    """Return both sides of the clients' disagreement about v_hat at every inner step: the worst coordinate."""
    _plain(setting)
    steps = trace(landscape, setting, _optimiser(setting))
    v_hat = [(step.below - setting.adam.eps).square() for step in steps]
    lhs = np.array([float((v - v.mean(0)).norm(dim=0).max()) for v in v_hat])
    G, S = max(float(step.g.abs().max()) for step in steps), shares(setting)
    rhs = G**2 * len(landscape.data) ** 0.5 / 2 * S[[step.turn - 1 for step in steps]]
    return Bound(
        lhs,
        rhs,
        "agreement of mixed second moments",
        SOURCE,
        axis="inner step",
        rounding=1e-14 * G**2 * len(v_hat[0]),
        broken=hy.broken(HYPOTHESES, setting.instance),
    )


def shares(setting: Setting) -> Array:
    """Return S_1 .. S_R: which part of a squared gradient's disagreement is left in v_hat."""
    r, rho = np.arange(setting.inner_steps), hy.largest_rho(setting.topology)
    w = weights(setting.inner_steps, setting.adam)
    left: Array = np.cumsum(w.beta * rho ** (r + 1)) / (1 - setting.adam.a2 ** (r + 1))
    return left


def mixed_turns(setting: Setting, clients: int) -> Turns:
    """Return the constants of the turns with C'_r: a client's own gradient weighs at least pi_j in its v_hat."""
    W, w = setting.topology.at(0), weights(setting.inner_steps, setting.adam)
    powers, own = np.eye(clients), np.zeros(setting.inner_steps)
    for j in range(setting.inner_steps):
        powers = W @ powers
        own[j] = np.diag(powers).min()
    check(
        bool((own > 0).all()),
        "W",
        own.min(),
        "of positive diagonal in all powers: a client must hear itself",
    )
    r = np.arange(1, setting.inner_steps + 1)
    C = np.sqrt((1 - setting.adam.a2**r) * np.cumsum(w.alpha**2 / (w.beta * own))) / (
        1 - setting.adam.a1**r
    )
    plain = turns(setting.inner_steps, setting.adam)
    old = np.array([lag(w.alpha, C, t) for t in range(1, setting.inner_steps + 1)])
    return plain._replace(C=C, lag=old / (1 - setting.adam.a1**r))


def one_pulls() -> Landscape:
    """Return two clients with linear functions, one of slope 1 and one flat: they disagree about v as far as they can."""
    war = tug_of_war(2, 1)
    return war._replace(data=torch.tensor([[1.0], [0.0]], dtype=torch.float64), zeta=0.5)


def _optimiser(setting: Setting) -> Optimiser:
    return mixed_adam(setting.adam, setting.feedback)


def _plain(setting: Setting) -> None:
    check(
        setting.feedback.signal is None,
        "feedback",
        setting.feedback,
        "none: the claim does not speak of it",
    )


def examples(seed: int = 0) -> dict[str, Bound]:
    """Return the agreement on a ring and where it is attained, and the descent of clients that differ much."""
    ring, all_ = Setting(topology("ring", 8), 2, 3, 8, 0.02, seed=seed), topology("complete", 4)
    pair = Setting(
        topology(np.array([[0.75, 0.25], [0.25, 0.75]])), 1, 1, 12, 0.01, mo.Adam(eps=1e-12)
    )
    hills = quadratics(4, 1, zeta=3.0, far=2.0, seed=seed, lonely=True)
    return {
        "agreement on a ring": agreement(quadratics(seed=seed), ring),
        "agreement, one pulls": agreement(one_pulls(), pair),
        "descent, complete graph": deca_mixed(
            hills, Setting(all_, 1, 80, 6, 1e-2, mo.Adam(0.0, 0.5, 0.1), seed=seed)
        ),
        "descent, ring": deca_mixed(quadratics(seed=seed), ring),
    }


def broken(seed: int = 0) -> Bound:
    """Return DECA, whose second moments are not mixed, against the same right side: its steps do not average to a descent."""
    hills = quadratics(4, 1, zeta=3.0, far=0.0, seed=seed, lonely=True)
    setting = Setting(topology("complete", 4), 1, 120, 6, 5e-3, mo.Adam(0.0, 0.5, 0.1), seed=seed)
    return deca_mixed(hills, setting, repaired=False)
