"""What an attack tries on each claim: an instance from a draw, the claim's own right side, a left side by a plain loop.

`rates` and `nonconvex_rates` speak of exponents, `costs`, `adam_counterexample`, `dgd_worst_case` and `block_worst_case` of
fixed instances: there is nothing to draw.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np

from deca_lab.algorithm import moments as mo
from deca_lab.bounds import (
    adam_rate,
    adam_step,
    amsgrad_consensus,
    badam_visit,
    block_consensus,
    certified_gossip,
    d_sgd,
    deca_descent,
    deca_mixed,
    deca_predictable,
    dgd_gradient,
    dgd_quadratics,
    factor_averaging,
    feedback_step,
    gossip_contraction,
    median_limit,
    track_before_sign,
    tracking_consensus,
    tracking_rate,
)
from deca_lab.bounds import attack_references as ref
from deca_lab.bounds.bound import Bound
from deca_lab.bounds.draw import Draw, functions, network
from deca_lab.bounds.hypotheses import largest_rho
from deca_lab.bounds.landscape import as_problem
from deca_lab.bounds.trace import Setting
from deca_lab.errors import BadInput
from deca_lab.mixing.graphs import Array

UNFIT = Bound(np.zeros(1), np.ones(1), "refused", "", broken="refused")


def _gossip(draw: Draw) -> Bound:
    n, rounds = draw.whole(2, 6), draw.whole(1, 8)
    net, X = network(draw, n), draw.normal(n, draw.whole(1, 2)) * draw.log(1e-3, 1e3)
    bound = gossip_contraction.gossip_contraction(net, X, rounds)
    return bound._replace(lhs=ref.powers(net.matrices, X, rounds))


def _decays(draw: Draw, eps: float, fed: bool) -> ref.Decays:
    d = ref.Decays(draw.between(0, 0.99), 1 - draw.log(1e-3, 0.9), eps)
    signs = (0, 1, -1) if fed else (0,)
    b1, b2, sign = draw.between(0.05, 1), draw.between(0.05, 0.999), draw.one_of(signs)
    return d._replace(b1=b1, b2=b2, sign=sign) if sign else d


def _adam(d: ref.Decays) -> mo.Adam:
    return mo.Adam(d.a1, d.a2, d.eps)


def _entries(draw: Draw, steps: int) -> Array:
    """Return (steps, 1, 1) entries of any sign, many decades apart."""
    return (draw.normal(steps) * 10 ** (6 * draw.unit(steps) - 3))[:, None, None]


def _adam_step(draw: Draw) -> Bound:
    d, T = _decays(draw, draw.one_of([0.0, 1e-8]), False), draw.whole(1, 24)
    g = _entries(draw, T)
    bound = adam_step.adam_step(g, _adam(d))
    return bound._replace(lhs=ref.steps(g, 0 * g, d))


def _feedback_step(draw: Draw) -> Bound:
    d, T = _decays(draw, draw.one_of([0.0, 1e-8]), True), draw.whole(1, 16)
    g, h = _entries(draw, T), _entries(draw, T)
    d = d if d.sign else d._replace(b1=0.5, b2=0.9)
    bound = feedback_step.feedback_step(g, h, d.b1, d.b2, _adam(d))
    return bound._replace(lhs=ref.steps(g, h, d))


def _run(draw: Draw, kinds: str, fed: bool, eps: float) -> tuple[Setting, ref.Decays, int, int]:
    n, blocks = draw.whole(2, 5), draw.whole(1, 2)
    d = _decays(draw, eps, fed)
    signal = {0: None, 1: mo.printed, -1: mo.downhill}[d.sign]
    feed = mo.Feedback(signal, mo.raw, d.b1, d.b2)
    R, T, lr = draw.whole(1, 5), draw.whole(1, 3), draw.log(1e-3, 1.0)
    setting = Setting(network(draw, n, kinds), blocks, T, R, lr, _adam(d), feed)
    return setting, d, n, blocks


def _seen(setting: Setting, d: ref.Decays, slope: ref.Slope, start: Array) -> list[ref.Seen]:
    ends = np.cumsum(
        [0, *(len(p) for p in np.array_split(np.arange(start.shape[1]), setting.blocks))]
    )
    cuts = [slice(a, b) for a, b in pairwise(ends)]
    return ref.deca(
        slope, start, setting.topology.matrices, cuts, setting.inner_steps, setting.rounds, setting.lr, d
    )  # fmt: skip


def _block_consensus(draw: Draw) -> Bound:
    setting, d, n, blocks = _run(draw, "rmdsn", True, 1e-8)
    land, slope = functions(draw, n, blocks * draw.whole(1, 2), "qvl")
    start = np.tile(land.start.numpy(), (n, 1))
    bound = block_consensus.block_consensus(land, setting)
    lhs = [ref.apart(s.after[:, s.columns]) for s in _seen(setting, d, slope, start)]
    return bound._replace(lhs=np.array(lhs))


def _deca_descent(draw: Draw) -> Bound:
    setting, d, n, blocks = _run(draw, "rmdsn", True, draw.log(1e-3, 100.0))
    if largest_rho(setting.topology) >= 1:
        return UNFIT
    land, slope = functions(draw, n, blocks * draw.whole(1, 2))
    start = np.tile(land.start.numpy(), (n, 1))
    bound = deca_descent.deca_descent(land, setting, observed=draw.one_of([False, True]))
    return bound._replace(lhs=ref.squared(slope, _seen(setting, d, slope, start)))


def _deca_mixed(draw: Draw) -> Bound:
    setting, d, n, blocks = _run(draw, "rmmdsn", False, draw.log(1e-6, 100.0))
    land, slope = functions(draw, n, blocks * draw.whole(1, 2))
    start, agreed = np.tile(land.start.numpy(), (n, 1)), draw.one_of([False, True])
    try:
        claim = deca_mixed.agreement if agreed else deca_mixed.deca_mixed
        bound = claim(land, setting)
    except BadInput:  # of a network that the claim refuses before it runs
        return UNFIT
    seen = _seen(setting, d._replace(mixed=True), slope, start)
    if not agreed:
        return bound._replace(lhs=ref.squared(slope, seen))
    lhs = [np.linalg.norm(s.v_hat - s.v_hat.mean(0), axis=0).max() for s in seen]
    return bound._replace(lhs=np.array(lhs))


def _tracking_consensus(draw: Draw) -> Bound:
    n, K, first = draw.whole(2, 6), draw.whole(1, 12), draw.one_of([False, True])
    net, alpha = network(draw, n, "rmds", 1), draw.log(1e-3, 1.0)
    land, slope = functions(draw, n, draw.whole(1, 2), "qvl")
    if largest_rho(net) >= 1:
        return UNFIT
    bound = tracking_consensus.tracking_consensus(as_problem(land)[0], net, alpha, K, first)
    start = np.tile(land.start.numpy(), (n, 1))
    Xs, _ = ref.tracking(slope, start, net.at(0), alpha, K, first)
    return bound._replace(lhs=np.array([ref.apart(X) ** 2 for X in Xs[1:]]))


def _quadratic(draw: Draw, n: int, d: int) -> tuple[Array, Array, Array]:
    """Return A (n, d, d) with eigenvalues above 0.1, b and X0 (n, d)."""
    roots, scale = draw.normal(n, d, d), draw.log(0.1, 1e4)
    A = roots @ roots.transpose(0, 2, 1) / d + 0.1 * np.eye(d)
    return A, scale * draw.normal(n, d), scale * draw.normal(n, d)


def _tracking_rate(draw: Draw) -> Bound:
    n, d, K, first = (
        draw.whole(2, 5),
        draw.whole(1, 2),
        draw.whole(1, 30),
        draw.one_of([False, True]),
    )
    W, (A, b, X0) = network(draw, n, "rmds", 1).at(0), _quadratic(draw, n, d)
    alpha = draw.log(1e-3, 0.1) / float(np.linalg.eigvalsh(A).max())
    if tracking_rate.rate_of(tracking_rate.matrix(W, A, alpha, first), d) >= 1:
        return UNFIT
    bound = tracking_rate.tracking_rate(W, A, b, X0, alpha, K, first)
    Xs, _ = ref.tracking(lambda X: np.einsum("nij,nj->ni", A, X) - b, X0, W, alpha, K, first)
    best = np.linalg.solve(A.sum(0), b.sum(0))
    return bound._replace(lhs=np.array([np.linalg.norm(X - best) for X in Xs[1:]]))


def _amsgrad(draw: Draw) -> Bound:
    n, K = draw.whole(2, 6), draw.whole(1, 12)
    net, alpha, floor = network(draw, n), draw.log(1e-3, 1.0), draw.log(1e-4, 10.0)
    d = _decays(draw, 0.0, False)
    land, slope = functions(draw, n, draw.whole(1, 2), "qvl")
    if largest_rho(net) >= 1:
        return UNFIT
    bound = amsgrad_consensus.amsgrad_consensus(
        land, net, alpha, K, floor, mo.Adam(d.a1, d.a2, 0.0)
    )
    start = np.tile(land.start.numpy(), (n, 1))
    return bound._replace(lhs=ref.amsgrad(slope, start, net.matrices, alpha, K, floor, d)[0])


def _one_client(slope: ref.Slope, start: Array, cuts: list[slice], R: int, T: int, lr: float,
                d: ref.Decays) -> list[ref.Seen]:  # fmt: skip
    return ref.deca(slope, start, [np.eye(1)], cuts, R, T, lr, d)


def _adam_rate(draw: Draw) -> Bound:
    d, K = ref.Decays(0.0, 1 - draw.log(1e-3, 0.9), draw.log(1e-3, 10.0)), draw.whole(1, 40)
    land, slope = functions(draw, 1, draw.whole(1, 2), "v")
    alpha = draw.log(1e-3, 3.0)
    bound = adam_rate.adam_rate(land, alpha, d.a2, K, d.eps, copies=1)
    start = land.start.numpy()[None]
    seen = _one_client(slope, start, [slice(0, start.shape[1])], K, 1, alpha, d)
    return bound._replace(lhs=ref.squared(slope, seen))


def _badam(draw: Draw) -> Bound:
    K, blocks, lam = draw.whole(1, 6), draw.whole(1, 2), draw.log(1e-2, 3.0)
    land, slope = functions(draw, 1, blocks * draw.whole(1, 2), "v")
    alpha = draw.log(0.3, 1.0) * badam_visit.largest_step(land.smoothness, land.steepest, K, lam)
    bound = badam_visit.badam_visit(land, alpha, K, blocks, 2, lam)
    width, start = land.data.shape[1] // blocks, land.start.numpy()[None]
    cuts = [slice(k * width, (k + 1) * width) for k in range(blocks)]
    seen = _one_client(slope, start, cuts, K, 2, alpha, ref.Decays(eps=lam))
    ends = [float((1 - 1 / (1 + (s.before - land.data.numpy()) ** 2)).sum()) for s in seen[::K]]
    ends.append(float((1 - 1 / (1 + (seen[-1].after - land.data.numpy()) ** 2)).sum()))
    return bound._replace(rhs=-np.diff(ends))


def _dgd_quadratics(draw: Draw) -> Bound:
    n, d, K, first = (
        draw.whole(2, 4),
        draw.whole(1, 2),
        draw.whole(1, 20),
        draw.one_of([False, True]),
    )
    W, (A, b, X0) = network(draw, n, "rmds", 1).at(0), _quadratic(draw, n, d)
    A = (A + A.transpose(0, 2, 1)) / 2
    alpha = draw.log(0.01, 2.5) * max(dgd_quadratics.largest_step(W, A, first), 1e-3)
    try:
        bound = dgd_quadratics.dgd_quadratics(W, A, b, X0, alpha, K, first)
    except BadInput:
        return UNFIT
    settled = dgd_quadratics.fixed_point(W, A, b, alpha, first)
    Xs = ref.descent(lambda X: np.einsum("nij,nj->ni", A, X) - b, X0, [W], alpha, K, first)
    return bound._replace(lhs=np.array([np.linalg.norm(X - settled) for X in Xs[1:]]))


def _d_sgd(draw: Draw) -> Bound:
    n, d, K, first = (
        draw.whole(2, 5),
        draw.whole(1, 2),
        draw.whole(1, 30),
        draw.one_of([False, True]),
    )
    net = network(draw, n)
    rho = largest_rho(net)
    land, slope = functions(draw, n, d)
    if rho >= 1:
        return UNFIT
    case = d_sgd.Case(
        lambda seed: as_problem(land)[0]._replace(start={"x0": land.start.expand(n, -1).clone()}),
        lambda x: slope(np.tile(x, (n, 1))).mean(0),
        land.smoothness,
        0.0,
        land.zeta,
        land.mean(land.start) - land.lowest,
    )
    gamma = draw.log(0.03, 3.0) * d_sgd.largest_step(land.smoothness, rho, first)
    apart = draw.one_of([False, True])
    Xs = ref.descent(slope, np.tile(land.start.numpy(), (n, 1)), net.matrices, gamma, K, first)
    if apart:
        bound = d_sgd.disagreement(case, net, gamma, K, (0,), first)
        return bound._replace(lhs=np.array([ref.apart(X) ** 2 / n for X in Xs[1:]]))
    bound = d_sgd.d_sgd(case, net, gamma, K, (0,), first)
    means = [np.square(slope(np.tile(X.mean(0), (n, 1))).mean(0)).sum() for X in Xs[:-1]]
    return bound._replace(lhs=np.cumsum(means) / np.arange(1, K + 1))


def _dgd_gradient(draw: Draw) -> Bound:
    n, K, apart = draw.whole(2, 6), draw.whole(1, 20), draw.one_of([False, True])
    net = network(draw, n, "rms")
    land, slope = functions(draw, n, draw.whole(1, 2))
    if largest_rho(net) >= 1 or dgd_gradient.largest_step(land, net) <= 1e-3:
        return UNFIT
    alpha = draw.log(0.03, 2.0) * dgd_gradient.largest_step(land, net)
    Xs = ref.descent(slope, np.tile(land.start.numpy(), (n, 1)), net.matrices, alpha, K, True)
    if apart:
        bound = dgd_gradient.disagreement(land, net, alpha, K)
        return bound._replace(lhs=np.array([ref.apart(X) for X in Xs[1:]]))
    bound = dgd_gradient.dgd_gradient(land, net, alpha, K)
    return bound._replace(lhs=np.array([np.linalg.norm(slope(X)) for X in Xs[:-1]]))


def _factors(draw: Draw) -> Bound:
    n, rank, inner, outer = draw.whole(2, 4), draw.whole(1, 2), draw.whole(2, 3), draw.whole(2, 3)
    W, far = network(draw, n, "rmdsn", 1).at(0), draw.log(1e-6, 1e6)
    A = draw.normal(rank, inner) * far + draw.normal(n, rank, inner)
    B = draw.normal(outer, rank) * far + draw.normal(n, outer, rank)
    moved = draw.one_of([False, True]) and np.allclose(W.sum(0), 1)
    if moved:
        return factor_averaging.drift(A, B, W, 3)._replace(lhs=ref.drift(A, B, W, 3))
    bound = factor_averaging.factor_averaging(A, B, W)
    return bound._replace(lhs=ref.interference(A, B, W))


def _deca_predictable(draw: Draw) -> Bound:
    setting, d, n, blocks = _run(draw, "rmdsn", False, draw.log(1e-2, 10.0))
    d = d._replace(sign=0, b1=1.0, b2=1.0)
    setting = setting._replace(feedback=mo.Feedback(None, mo.raw, 1.0, 1.0))
    land, slope = functions(draw, n, blocks * draw.whole(1, 2))
    setting = setting._replace(lr=draw.log(0.03, 1.0) * d.eps / (2 * land.smoothness))
    start, observed = np.tile(land.start.numpy(), (n, 1)), draw.one_of([False, True])
    if largest_rho(setting.topology) >= 1:
        return UNFIT
    try:
        bound = deca_predictable.deca_predictable(land, setting, observed=observed)
    except BadInput:  # of a network, or too few gradients of a block
        return UNFIT
    cuts = np.array_split(np.arange(start.shape[1]), blocks)
    seen = ref.predictable(
        slope, start, setting.topology.at(0), [slice(c[0], c[-1] + 1) for c in cuts],
        setting.inner_steps, setting.rounds, setting.lr, d, deca_predictable.FLOOR,
    )  # fmt: skip
    return bound._replace(lhs=ref.squared(slope, seen))


def _wishes(draw: Draw, n: int, d: int) -> median_limit.Bowls:
    a, c = np.exp(draw.normal(n, d)), draw.normal(n, d) ** 3
    return median_limit.Bowls(a, c, draw.normal(d) * 3)


def _median_limit(draw: Draw) -> Bound:
    n, eps = draw.whole(2, 7), draw.log(1e-6, 10.0)
    made = _wishes(draw, n, 1)
    x = ref.balance(lambda x: (made.a * (x - made.c))[:, 0], eps, made.c.min(), made.c.max())
    setting = Setting(network(draw, n, "r", 1), 1, 1, 1, 0.1, mo.Adam(eps=eps))
    slopes = made.slopes(np.array([x]))
    return median_limit.at_rest(slopes, setting)._replace(lhs=np.square(slopes.mean(0)))


def _track_before_sign(draw: Draw) -> Bound:
    made, lr = _wishes(draw, draw.whole(1, 6), draw.whole(1, 3)), draw.log(0.05, 1.0)
    away = float(np.abs(made.start - made.solution()).max())
    steps = int(away / lr) + 3 + draw.whole(1, 20)
    bound = track_before_sign.track_before_sign(made, lr, steps)
    at = ref.signs(
        lambda X: made.a * (X - made.c), np.tile(made.start, (len(made.c), 1)), lr, steps
    )
    lhs = np.array([np.square(made.slopes(x).mean(0)).sum() for x in at])
    return bound._replace(lhs=lhs[bound.first :])


def _certified_gossip(draw: Draw) -> Bound:
    n, mixings = draw.whole(2, 5), draw.whole(1, 6)
    W, X = network(draw, n, most=1).at(0), draw.normal(n, 2) * draw.log(1e-3, 1e3)
    X = X + draw.one_of([0.0, 1e3, 1e6])
    bound = certified_gossip.certified_gossip(W, X, mixings)
    lhs = [ref.apart(X := W @ X) for _ in range(mixings)]
    return bound._replace(lhs=np.array(lhs))


TARGETS: Mapping[str, Callable[[Draw], Bound]] = {
    "gossip_contraction": _gossip,
    "adam_step": _adam_step,
    "feedback_step": _feedback_step,
    "block_consensus": _block_consensus,
    "deca_descent": _deca_descent,
    "deca_mixed": _deca_mixed,
    "tracking_consensus": _tracking_consensus,
    "tracking_rate": _tracking_rate,
    "amsgrad_consensus": _amsgrad,
    "adam_rate": _adam_rate,
    "badam_visit": _badam,
    "dgd_quadratics": _dgd_quadratics,
    "d_sgd": _d_sgd,
    "dgd_gradient": _dgd_gradient,
    "factor_averaging": _factors,
    "deca_predictable": _deca_predictable,
    "median_limit": _median_limit,
    "track_before_sign": _track_before_sign,
    "certified_gossip": _certified_gossip,
}
