"""Adam without momentum on one client: the mean squared gradient of a run, with every constant, and its slope beside the run's.

Claim       (1/N) sum_{n<N} E ||grad F(x_n)||^2 <= 2 H (F(x_0) - F*) / (alpha N)
            + E_0 (ln(1 + G^2 / ((1 - a2) lambda^2)) / N - ln a2), N = 1, 2 ...; H = G + lambda and
            E_0 = 4 d H G / sqrt(1 - a2) + alpha d H L / (1 - a2).
Hypotheses  one client; F L-smooth, F >= F*; gradients of which every coordinate is at most G, unbiased given the past; no
            first moment (a1 = 0), second moments from zero, bias-corrected; lambda > 0 the number added to the root.
Symbols     alpha: `alpha`; a2, lambda: `a2`, `lam`; F, L, F*: the landscape; G: its steepest slope and the noise.
Source      Défossez, Bottou, Bach, Usunier, arXiv 2003.02395, the theorem without momentum: there with lambda^2 inside the
            root and a correction that is a step size; here as libraries write Adam. Constants are those of the proof here.
Tight       no: true and 17 to 30,000 times above the run. With alpha = c / sqrt(N), a2 = 1 - 1/N it falls like
            ln N / sqrt(N): `slopes`. At a2 = 0.999 it never comes below about d H G / 8.
Proof       theory/adam_rate.ipynb.
"""

from collections.abc import Sequence

import numpy as np

from deca_lab.algorithm import moments as mo
from deca_lab.bounds.bound import Bound
from deca_lab.bounds.landscape import Landscape, valleys
from deca_lab.bounds.rate_laws import Fit, Points, Squares, fit
from deca_lab.bounds.trace import Setting, trace
from deca_lab.errors import check
from deca_lab.mixing.graphs import Array
from deca_lab.mixing.topology import Topology

SOURCE = "arXiv 2003.02395, its theorem without momentum, re-derived"


def adam_rate(
    landscape: Landscape,
    alpha: float,
    a2: float,
    steps: int,
    lam: float = 0.1,
    noise: float = 0.0,
    copies: int = 16,
    steepest: float | None = None,
    seed: int = 0,
) -> Bound:
    """Return both sides at N = 1 .. `steps`, the left one from the library's Adam, a mean over `copies` with noise of their own.

    `noise`: each coordinate's gradient is off by plus or minus so much. `steepest` says another G - noise than the
    landscape's own, to see what breaks. Raises BadInput for more clients than one or a number out of range.
    """
    G = (landscape.steepest if steepest is None else steepest) + noise
    squared = squares(landscape, alpha, a2, steps, lam, noise, copies, seed)
    lhs = squared.mean(1).cumsum() / np.arange(1, steps + 1)
    return Bound(
        lhs, right(landscape, G, alpha, a2, steps, lam), "mean squared gradient of Adam", SOURCE
    )


def right(landscape: Landscape, G: float, alpha: float, a2: float, steps: int, lam: float) -> Array:
    """Return the right side at N = 1 .. `steps`."""
    check(
        np.isfinite(G) and G > 0,
        "steepest",
        G,
        "finite and above 0: the claim needs bounded gradients",
    )
    first, often = parts(landscape, G, alpha, a2, lam)
    many = np.arange(1, steps + 1)
    often_each: Array = np.log(1 + G**2 / ((1 - a2) * lam**2)) / many - np.log(a2)
    return first / many + often * often_each


def parts(
    landscape: Landscape, G: float, alpha: float, a2: float, lam: float
) -> tuple[float, float]:
    """Return 2 H (F(x_0) - F*) / alpha, and E_0, what a summed squared direction costs."""
    d, H = landscape.data.shape[1], G + lam
    gap = landscape.mean(landscape.start) - landscape.lowest
    return 2 * H * gap / alpha, 4 * d * H * G / (
        1 - a2
    ) ** 0.5 + alpha * d * H * landscape.smoothness / (1 - a2)


def squares(
    landscape: Landscape,
    alpha: float,
    a2: float,
    steps: int,
    lam: float = 0.1,
    noise: float = 0.0,
    copies: int = 16,
    seed: int = 0,
) -> Array:
    """Return ||grad F(x_n)||^2 (steps, copies) before every step: each copy is a client whom nobody hears."""
    check(len(landscape.data) == 1, "landscape", len(landscape.data), "of one client")
    check(0 < a2 < 1, "a2", a2, "between 0 and 1")
    check(min(alpha, lam) > 0, "alpha, lam", (alpha, lam), "above 0")
    check(steps >= 1 and copies >= 1, "steps, copies", (steps, copies), "1 or more")
    many = landscape._replace(data=landscape.data.repeat(copies, 1))
    isolated = Topology("nobody", (np.eye(copies),))
    run = trace(
        many, Setting(isolated, 1, 1, steps, alpha, mo.Adam(0.0, a2, lam), noise=noise, seed=seed)
    )
    return np.array([many.gradients(step.before).square().sum(1).numpy() for step in run])


def slopes(
    landscape: Landscape,
    lengths: Sequence[int],
    c: float = 1.0,
    lam: float = 0.1,
    noise: float = 0.5,
    copies: int = 16,
    seed: int = 0,
) -> tuple[Fit, float, Points, Array]:
    """Return the run's slope over N with its interval, the bound's, the runs, and the bound at each N of `lengths`.

    Each N has a run of its own, with alpha = c / sqrt(N) and a2 = 1 - 1/N: the choice that makes the claim a rate.
    """
    means, promised = [], []
    for N in lengths:
        alpha, a2 = c / N**0.5, 1 - 1 / N
        mean = squares(landscape, alpha, a2, N, lam, noise, copies, seed).mean(0)
        means.append(mean)
        promised.append(right(landscape, landscape.steepest + noise, alpha, a2, N, lam)[-1])
    measured = np.array(means)
    points = Points(np.array(lengths), Squares(measured, measured, measured))
    bound = float(np.polyfit(np.log(lengths), np.log(promised), 1)[0])
    return fit(points, "full"), bound, points, np.array(promised)


def examples(seed: int = 0) -> dict[str, Bound]:
    """Return valleys with exact gradients, with noise, one coordinate, and the rate's own choice of alpha and a2."""
    land = valleys(1, seed=seed)
    return {
        "exact gradients": adam_rate(land, 0.01, 0.99, 300, copies=1),
        "noise": adam_rate(land, 0.01, 0.99, 300, noise=0.5, seed=seed),
        "one coordinate": adam_rate(valleys(1, 1, seed=seed), 0.01, 0.9, 300, noise=0.5, seed=seed),
        "alpha and a2 by N": adam_rate(land, 400**-0.5, 1 - 1 / 400, 400, noise=0.5, seed=seed),
    }


def broken(seed: int = 0) -> Bound:
    """Return valleys whose steepest slope is given a thousand times too small."""
    land = valleys(1, seed=seed)
    return adam_rate(land, 1e-4, 0.99, 300, lam=1e-4, copies=1, steepest=land.steepest / 1000)
