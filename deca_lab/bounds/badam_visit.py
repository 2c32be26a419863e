"""BAdam: how much one visit of a block must lower the loss, and so how small the blocks' gradients must become.

Claim       f(x_0) - f(x_K) >= alpha K / (2 H) || grad_block f(x_0) ||^2 after the K Adam steps of a visit, H = G + lambda;
            hence (1/V) sum || grad_block f ||^2 <= 2 H (f(start) - f*) / (alpha K V) over the first V visits (`badam_rate`).
Hypotheses  one client, exact gradients; f L-smooth in the block; moments from zero, bias-corrected; lambda > 0 the number
            added to the root (Adam's eps); |g_j| <= G along the visit; alpha <= lambda^2 / (8 L K H).
Symbols     alpha: `alpha`; K: `steps`; lambda: `adam.eps`; L, G: of the landscape, or G from the run.
Source      in the form of BAdam, arXiv 2404.02827, inequality (9): alpha K / (8 G) for alpha <= lambda / (2 L K) *
            min(1 / K, lambda / (12 G)). The constants and the proof here are ours; for lambda <= G they imply that form.
Tight       within a factor 2 where all gradients have one size; about 0.06 or less of the decrease where they differ much.
            The rate adds what the visits lower the loss by beyond their promise, and what is left of the loss.
Proof       theory/badam_visit.ipynb.
"""

from collections.abc import Callable

import numpy as np

from deca_lab.algorithm import moments as mo
from deca_lab.bounds import hypotheses as hy
from deca_lab.bounds.bound import Bound
from deca_lab.bounds.landscape import Landscape, quadratics, tug_of_war, valleys
from deca_lab.bounds.trace import Setting, Step, trace
from deca_lab.errors import check
from deca_lab.mixing.topology import topology

SOURCE = "derived, in the form of arXiv 2404.02827 (9)"


def badam_visit(
    landscape: Landscape,
    alpha: float,
    steps: int,
    blocks: int = 2,
    rounds: int = 3,
    lam: float = 0.1,
    paper: bool = False,
) -> Bound:
    """Return the decrease that is guaranteed and the one that the library's run makes, a visit each.

    The landscape has one client. `paper`: the guarantee alpha K / (8 G). Raises BadInput for more clients or lambda = 0;
    an alpha that is too large is let through, and named.
    """
    run = _run(landscape, alpha, steps, blocks, rounds, lam)
    G = steepest(run)
    share = 1 / (8 * G) if paper else 1 / (2 * (G + lam))
    first, last = run[::steps], run[steps - 1 :: steps]
    promised = [alpha * steps * share * float(one.g.square().sum()) for one in first]
    got = [
        landscape.mean(a.before[0]) - landscape.mean(b.after[0])
        for a, b in zip(first, last, strict=True)
    ]
    size = max(abs(landscape.mean(one.before[0])) for one in first)
    return Bound(
        np.array(promised),
        np.array(got),
        "decrease of a BAdam visit",
        SOURCE,
        axis="visit",
        rounding=4e-16 * size,
        broken=_broken(landscape, alpha, G, steps, lam, papers_step if paper else largest_step),
    )


def badam_rate(
    landscape: Landscape,
    alpha: float,
    steps: int,
    blocks: int = 2,
    rounds: int = 3,
    lam: float = 0.1,
) -> Bound:
    """Return the mean squared gradient of the blocks at the starts of their first V visits, and its bound, V = 1, 2 ..."""
    run = _run(landscape, alpha, steps, blocks, rounds, lam)
    squares = np.array([float(one.g.square().sum()) for one in run[::steps]])
    many = np.arange(1, len(squares) + 1)
    promised = (
        2
        * (steepest(run) + lam)
        * (landscape.mean(landscape.start) - landscape.lowest)
        / (alpha * steps * many)
    )
    return Bound(
        squares.cumsum() / many,
        promised,
        "mean squared gradient of BAdam's blocks",
        SOURCE,
        axis="visit",
        broken=_broken(landscape, alpha, steepest(run), steps, lam, largest_step),
    )


def _broken(
    landscape: Landscape,
    alpha: float,
    G: float,
    steps: int,
    lam: float,
    most: Callable[[float, float, int, float], float],
) -> str:
    """Return the hypothesis that such a run breaks, or nothing."""
    if G == 0:  # at a stationary point any step is short enough
        return ""
    largest = most(landscape.smoothness, G, steps, lam) if landscape.smoothness > 0 else np.inf
    rates = (alpha, alpha)
    return hy.broken(
        (hy.short_steps,), hy.Instance(topology("complete", 1), rates=rates, largest=largest)
    )


def _run(
    landscape: Landscape, alpha: float, steps: int, blocks: int, rounds: int, lam: float
) -> list[Step]:
    check(len(landscape.data) == 1, "landscape", len(landscape.data), "of one client")
    check(lam > 0, "lam", lam, "above 0")
    return trace(
        landscape, Setting(topology("complete", 1), blocks, rounds, steps, alpha, mo.Adam(eps=lam))
    )


def steepest(run: list[Step]) -> float:
    """Return the largest |gradient| along a run."""
    return max(float(step.g.abs().max()) for step in run)


def largest_step(L: float, G: float, steps: int, lam: float) -> float:
    """Return the largest alpha of the claim, lambda^2 / (8 L K H)."""
    check(min(L, G, steps, lam) > 0, "L, G, steps, lam", (L, G, steps, lam), "above 0")
    return lam**2 / (8 * L * steps * (G + lam))


def papers_step(L: float, G: float, steps: int, lam: float) -> float:
    """Return the largest alpha of inequality (9)."""
    return lam / (2 * L * steps) * min(1 / steps, lam / (12 * G))


def examples(seed: int = 0) -> dict[str, Bound]:
    """Return quadratics and valleys of one client at the largest step, and the paper's own constants on both."""
    cases = {}
    for name, land in (
        ("quadratics", quadratics(1, seed=seed)),
        ("valleys", valleys(1, seed=seed)),
    ):
        G = min(land.steepest, 10.0)
        cases[name] = badam_visit(land, largest_step(land.smoothness, G, 6, 0.1), 6)
        cases[f"{name}, (9) of the paper"] = badam_visit(
            land, papers_step(land.smoothness, G, 6, 0.1), 6, paper=True
        )
        cases[f"{name}, rate"] = badam_rate(
            land, largest_step(land.smoothness, G, 6, 0.1), 6, rounds=30
        )
    return cases


def broken(seed: int = 0) -> Bound:
    """Return quadratics at a step a hundred thousand times too large: the visit overshoots."""
    land = quadratics(1, seed=seed)
    return badam_visit(land, 1e5 * largest_step(land.smoothness, 10.0, 6, 0.1), 6)


def level(d: int = 4) -> Landscape:
    """Return one client with a linear function, all of whose slopes are 1: nothing but the factor 2 is lost."""
    return tug_of_war(1, d)
