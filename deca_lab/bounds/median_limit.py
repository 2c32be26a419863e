"""Where DECA really goes: to a median of the clients' wishes, not to their mean, and exactly how far off that is.

Claim       psi(y): the mean over a visit's turns of omega_t y / (sqrt(Omega_t) |y| + eps), without feedback y / (|y| + eps).
            1. Where sum_i psi(d_j f_i) = 0 in a coordinate, for *any* functions,  |d_j f|^2 <= min(kappa, D) zeta_j^2,
               kappa = (N - k) / k, k = floor(N / 2) + 1;  D = (b - a)^2 / (4 a b), a = psi(G) / G, b = psi'(0).
            2. For separable convex f_i the point x* where that holds is unique, minimises Phi, Phi' = sum psi(f_i') / N, and
               dist(xbar_V, x*) <= max(dist(x_0, x*) - lr R s V, r + R C lr)  after V visits, for every r > 0 with s = s(r) > 0.
            3. k clients (x - 0)^2 / 2, N - k clients (x - w)^2 / 2: as lr, then eps, go to 0, |f'(xbar)|^2 -> kappa zeta^2.
            4. Gaussian noise, R = 1, complete graph, eps -> 0:  E mean_s Phi(xbar_s) - Phi* <= dist^2 / (2 lr S) + lr / 2,
               with psi(y) = erf(y / (sigma sqrt 2)): enough noise makes signs linear, and x* the mean's minimiser.
Hypotheses  W doubly stochastic at every step, rho < 1, equal start, adapt then combine, moments from zero at each visit,
            feedback off or raw (of either sign), eps > 0, in 2 and 3 exact gradients. No step is too long for 2, only useless.
Symbols     s(r): `inward`, the least pull farther out than r; C, omega, Omega: `deca_descent.turns` (Omega is its `first`);
            G = max_i |d_j f_i|; zeta_j^2 = (1/N) sum_i (d_j f_i - d_j f)^2; w = zeta / sqrt(k (N - k)) * N.
Source      derived here. psi is that of Fair's robust mean, |y| - eps log(1 + |y| / eps). The paper's hypotheses: unknown to us.
Tight       1 and 3: kappa is attained in the limit, for every N. 2: attained all the way where signs are far from turning.
Proof       theory/median_limit.ipynb.
"""

from collections.abc import Callable, Sequence
from math import erf, pi, sqrt
from typing import NamedTuple

import numpy as np
import torch

from deca_lab.algorithm import moments as mo
from deca_lab.algorithm import problems
from deca_lab.algorithm.blocks import whole
from deca_lab.algorithm.loop import Recipe, plan, train
from deca_lab.algorithm.optimisers import Optimiser, adam
from deca_lab.bounds.bound import Bound
from deca_lab.bounds.deca_descent import Turns, turns
from deca_lab.bounds.gossip_contraction import second_singular_value
from deca_lab.bounds.trace import Setting
from deca_lab.errors import check
from deca_lab.mixing.graphs import Array
from deca_lab.mixing.topology import topology

SOURCE = "derived here"
SIGNS = mo.Adam(eps=1e-9)  # so small an eps that a visit of one step is sign descent
Psi = Callable[[Array], Array]


class Bowls(NamedTuple):
    """N clients' f_i(x) = sum_j a_ij (x_j - c_ij)^2 / 2, with a, c (N, d), a > 0, and the start (d,) of all."""

    a: Array
    c: Array
    start: Array

    def slopes(self, x: Array) -> Array:
        """Return the gradients (N, d) of all clients at one point (d,)."""
        return self.a * (x - self.c)

    def solution(self) -> Array:
        """Return where the mean of the f_i is least."""
        least: Array = (self.a * self.c).sum(0) / self.a.sum(0)
        return least


def bowls(clients: int, d: int = 1, seed: int = 0) -> Bowls:
    """Return random curvatures from 0.3 to 3, random wishes, and a start at the solution, where DECA ought to stay."""
    check(clients >= 1 and d >= 1, "clients, d", (clients, d), "1 or more")
    rng = np.random.default_rng([seed, 0x3E])
    made = Bowls(
        np.exp(rng.uniform(-1.2, 1.1, (clients, d))),
        rng.standard_t(2.0, (clients, d)),
        np.zeros(d),
    )
    return made._replace(start=made.solution())


def lopsided(clients: int, zeta: float = 1.0) -> Bowls:
    """Return the witness: just more than half of the clients want 0, the others w > 0; all start at the solution."""
    check(clients >= 3, "clients", clients, "3 or more: of two, the median is the mean")
    k = clients // 2 + 1
    w = zeta * clients / sqrt(k * (clients - k))
    c = np.where(np.arange(clients) < k, 0.0, w)[:, None]
    return Bowls(np.ones_like(c), c, c.mean(0))


def kappa(clients: int) -> float:
    """Return (N - k) / k with k = floor(N / 2) + 1: (N - 2) / (N + 2) for even N, (N - 1) / (N + 1) for odd."""
    k = clients // 2 + 1
    return (clients - k) / k


def fair(setting: Setting) -> Psi:
    """Return psi: the mean direction of a visit for a gradient y, as the learning rate goes to zero."""
    t, eps = _turns(setting), setting.adam.eps
    check(eps > 0, "eps", eps, "above 0: else the field has no derivative at a client's wish")

    def psi(y: Array) -> Array:
        y = np.asarray(y)[..., None]
        mean: Array = (t.omega * y / (np.sqrt(t.first) * np.abs(y) + eps)).mean(-1)
        return mean

    return psi


def rest(made: Bowls, psi: Psi) -> Array:
    """Return x* (d,), where sum_i psi(f_i') = 0 in every coordinate, by bisection: psi grows."""
    low, high = made.c.min(0), made.c.max(0)
    for _ in range(200):
        middle = (low + high) / 2
        above = psi(made.slopes(middle)).sum(0) > 0
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    centre: Array = (low + high) / 2
    return centre


def at_rest(slopes: Array, setting: Setting) -> Bound:
    """Return |d_j f|^2 and min(kappa, D) zeta_j^2 for every coordinate j, of the clients' gradients (N, d) at a point.

    Any functions may have these gradients; the claim is of points where sum_i psi(d_j f_i) = 0.
    """
    psi = fair(setting)
    most = np.maximum(np.abs(slopes).max(0), 1e-300)
    a, b = psi(most) / most, float((_turns(setting).omega / setting.adam.eps).mean())
    rhs = np.minimum(kappa(len(slopes)), (b - a) ** 2 / (4 * a * b)) * slopes.var(0)
    return Bound(
        slopes.mean(0) ** 2,
        rhs,
        "squared gradient at rest",
        SOURCE,
        axis="coordinate",
        first=0,
        rounding=1e-12 * most**2,
    )


def mean_models(made: Bowls, setting: Setting, optimiser: Optimiser | None = None) -> Array:
    """Return the mean models (V + 1, d) before the first visit and after each, by the library's own run of DECA.

    `setting.noise` is the standard deviation of Gaussian noise; there is one block.
    """
    tensors = [torch.from_numpy(np.asarray(part)) for part in made]
    start = tensors[2].expand_as(tensors[1]).clone()
    A, b = torch.diag_embed(tensors[0]), tensors[0] * tensors[1]
    problem = problems.quadratics(A, b, start, setting.noise, setting.seed)
    chosen = optimiser or adam(setting.adam, setting.feedback)
    recipe = Recipe(setting.rounds, setting.inner_steps, lambda step: setting.lr, chosen)
    states = train(plan(problem, whole(["x"]), setting.topology, recipe))
    means = [made.start] + [
        state.blocks[0].mean(0).numpy()
        for state, _ in states
        if state.step % setting.inner_steps == 0
    ]
    return np.array(means)


def arrival(made: Bowls, setting: Setting, optimiser: Optimiser | None = None) -> Bound:
    """Return dist(xbar_V, x*) of the coordinate farthest off and its bound, V = 0 .. T, along the library's run."""
    _exact(setting)
    goal, visits = rest(made, fair(setting)), np.arange(setting.rounds + 1)
    lhs = np.abs(mean_models(made, setting, optimiser) - goal).max(1)
    rhs = [
        distances(made.a[:, j], made.c[:, j] - goal[j], abs(made.start[j] - goal[j]), setting)
        for j in range(len(goal))
    ]
    lost = 1e-12 * (1 + float(np.abs(made.c).max())) * np.sqrt(visits + 1)
    return Bound(
        lhs, np.max(rhs, 0), "way to the median", SOURCE, axis="visit", first=0, rounding=lost
    )


def distances(a: Array, c: Array, start: float, setting: Setting) -> Array:
    """Return the least of all bounds of claim 2, (T + 1,), for one coordinate with x* = 0 and |x_0| = start."""
    band = setting.inner_steps * float(_turns(setting).C.max()) * setting.lr
    reach = max(start, float(np.abs(c).max()), band)
    r = np.union1d(np.geomspace(1e-9 * reach, reach, 600), np.linspace(0, reach, 1500)[1:])
    s = np.minimum(inward(a, c, np.append(r, reach + band), setting), 1e300)
    s = np.minimum(s, inward(a, -c, np.append(r, reach + band), setting))
    visits = np.arange(setting.rounds + 1)[:, None]
    each = np.maximum(start - setting.lr * setting.inner_steps * s * visits, r + band)
    free = start + band * visits[:, 0]  # what any steps can do
    least: Array = np.minimum(np.where(s > 0, each, np.inf).min(1), free)
    return least


def inward(a: Array, c: Array, x: Array, setting: Setting) -> Array:
    """Return s(r) for r = x[:-1]: below the mean direction of a visit that starts anywhere from r to x[-1], towards 0.

    Between two points of x every client's share is at least the smallest of its ends and of its valley.
    """
    t, lr = _turns(setting), setting.lr
    rho, C = second_singular_value(setting.topology.at(0)), float(_turns(setting).C.max())
    check(rho < 1, "rho", rho, "below 1: the clients must come together")
    apart = lr * C * sqrt(len(a) - 1) * rho / (1 - rho)
    off = a * ((setting.inner_steps - 1) * C * lr + apart)  # how far a gradient can be from y
    y = a * (x[:, None] - c)
    low, high = y[:-1], y[1:]
    points = (low, high, np.clip(-off, low, high))
    shares = [_least(point, off, t, setting.adam.eps, C * lr + 2 * apart) for point in points]
    pull = np.min(shares, 0).mean(1)
    least: Array = np.minimum.accumulate(pull[::-1])[::-1]
    return least


def _least(y: Array, off: Array, t: Turns, eps: float, h: float) -> Array:
    """Return the least mean direction of a visit whose gradients are within `off` of y, and discrepancies within h of 0."""
    if len(t.C) == 1:
        alone: Array = (y - off) / (np.abs(y - off) + eps)
        return alone
    total = np.zeros_like(y)
    for C, omega, chi, first, second in zip(t.C, t.omega, t.chi, t.first, t.second, strict=True):
        m = omega * (y - off) - chi * h
        most = sqrt(first) * (np.abs(y) + off) + sqrt(second) * h + eps
        least = sqrt(first) * np.maximum(np.abs(y) - off, 0) + eps
        total += np.where(m >= 0, m / most, -np.minimum(C, -m / least))
    return total / len(t.C)


def median_limit(
    clients: Sequence[int], zeta: float = 1.0, eps: float = 1e-4, lr: float = 0.004, R: int = 1
) -> Bound:
    """Return |f'|^2 where the library's DECA ends on the witness, one entry an N, beside kappa zeta^2: equal.

    The `rounding` is what claims 2 and 3 allow for this eps and lr.
    """
    lhs, rhs, allowed = [], [], []
    for n in clients:
        made, limit = lopsided(n, zeta), zeta * sqrt(kappa(n))
        visits = int(1.3 * limit * n / ((2 * (n // 2 + 1) - n) * lr * R)) + 10
        setting = Setting(topology("complete", n), 1, visits, R, lr, mo.Adam(eps=eps))
        way = arrival(made, setting)
        off = float(np.atleast_1d(way.rhs)[-1]) + witness_rest(n, zeta, eps)
        lhs.append(float(made.slopes(mean_models(made, setting)[-1]).mean()) ** 2)
        rhs.append(limit**2)
        allowed.append(off * (2 * limit + off))
    return Bound(
        np.array(lhs),
        np.array(rhs),
        "squared gradient where DECA ends",
        SOURCE,
        axis="case",
        rounding=np.array(allowed),
        equal=True,
    )


def witness_rest(clients: int, zeta: float, eps: float) -> float:
    """Return x* of the witness: 0 (the median) as eps goes to 0, the mean as it grows."""
    p = (clients // 2 + 1) / clients
    q = 1 - p
    w = zeta / sqrt(p * q)
    e, t = eps / w, p - q
    return w * 2 * q * e / (t + e + sqrt((t + e) ** 2 - 4 * t * q * e))


def dithered(made: Bowls, setting: Setting, seeds: int = 8) -> Bound:
    """Return both sides of claim 4 after S = 1 .. T steps for one coordinate, the left one the mean over `seeds` runs."""
    plain = setting.inner_steps == 1 and second_singular_value(setting.topology.at(0)) < 1e-9
    check(plain, "setting", "R > 1 or rho > 0", "R = 1 on a complete graph")
    check(made.c.shape[1] == 1, "made", made.c.shape[1], "of one coordinate")
    psi = smoothed(setting.noise)
    goal = rest(made, psi)
    runs = [mean_models(made, setting._replace(seed=seed))[:-1, 0] for seed in range(seeds)]
    above = np.array([potential(made, setting.noise, run) for run in runs])
    steps = np.arange(1, setting.rounds + 1)
    each = above.cumsum(1) / steps - potential(made, setting.noise, goal)
    error = each.std(0, ddof=1) / sqrt(seeds) if seeds > 1 else np.zeros(len(steps))
    rhs = float((made.start - goal)[0]) ** 2 / (2 * setting.lr * steps) + setting.lr / 2
    return Bound(each.mean(0), rhs, "potential under noise", SOURCE, rounding=error)


def smoothed(noise: float) -> Psi:
    """Return E sign(y + noise) = erf(y / (noise sqrt 2)) for Gaussian noise of this standard deviation."""
    check(noise > 0, "noise", noise, "above 0")
    erfs = np.vectorize(erf, otypes=[float])
    return lambda y: erfs(y / (noise * sqrt(2)))


def potential(made: Bowls, noise: float, x: Array) -> Array:
    """Return Phi at points x (S,): the mean over clients of the integral of erf(f_i' / (noise sqrt 2))."""
    y = made.a * (x[None, :] - made.c)  # (N, S)
    bell = noise * sqrt(2 / pi) * np.exp(-(y**2) / (2 * noise**2))
    mean: Array = ((y * smoothed(noise)(y) + bell) / made.a).mean(0)
    return mean


def _turns(setting: Setting) -> Turns:
    fed = setting.feedback
    raw = fed.signal is None or fed.scale is mo.raw
    check(raw, "feedback", "over lr or of unit length", "raw: else h is not small with lr")
    decays = (fed.b1, fed.b2) if fed.signal else (1.0, 1.0)
    return turns(setting.inner_steps, setting.adam, *decays)


def _exact(setting: Setting) -> None:
    check(setting.noise == 0, "noise", setting.noise, "0: noise makes signs linear (`dithered`)")
    check(setting.blocks == 1, "blocks", setting.blocks, "1: each coordinate goes its own way")


def examples(seed: int = 0) -> dict[str, Bound]:
    """Return the limit for three N, the rest of random clients, the way there (signs, a ring, feedback), and noise."""
    ring = Setting(topology("ring", 5), 1, 60, 8, 4e-4, mo.Adam(eps=0.5), seed=seed)
    fed = ring._replace(feedback=mo.Feedback(mo.printed, mo.raw, 0.9, 0.99))
    signs = Setting(topology("complete", 10), 1, 400, 1, 0.02, SIGNS)
    crowd = bowls(9, 40, seed)
    shaken = Setting(topology("complete", 5), 1, 300, 1, 0.02, SIGNS, noise=1.0)
    return {
        "the limit, N = 4 and 10": median_limit((4, 10)),
        "rest of random clients": at_rest(crowd.slopes(rest(crowd, fair(ring))), ring),
        "way of the witness, signs": arrival(lopsided(10), signs),
        "way on a ring, eps 0.5": arrival(bowls(5, 3, seed), ring),
        "the same, printed feedback": arrival(bowls(5, 3, seed), fed),
        "noise instead of a majority": dithered(bowls(5, 1, seed), shaken),
    }


def broken(seed: int = 0) -> Bound:
    """Return the witness with noise in its gradients: signs turn linear, and DECA stays at the mean, far from the median."""
    loud = Setting(topology("complete", 10), 1, 400, 1, 0.02, SIGNS, noise=5.0, seed=seed)
    made, quiet = lopsided(10), loud._replace(noise=0.0)
    lhs = np.abs(mean_models(made, loud)[:, 0] - rest(made, fair(quiet)))
    return arrival(made, quiet)._replace(lhs=lhs)
