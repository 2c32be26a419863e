"""The claims of theory beside a real run: what applies to it, both sides along its steps, a verdict, and what it rests on."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deca_lab.algorithm import moments as mo
from deca_lab.algorithm import stacking
from deca_lab.bounds import d_sgd, deca_descent, feedback_step
from deca_lab.bounds.bound import Bound
from deca_lab.bounds.estimates import Estimates, estimate
from deca_lab.bounds.gossip_contraction import second_singular_value
from deca_lab.bounds.trace import Setting
from deca_lab.errors import BadInput, check
from deca_lab.lab.history import History
from deca_lab.lab.objects import with_objects
from deca_lab.lab.prepare import Lab, prepare
from deca_lab.methods import resolve
from deca_lab.runconfig import OBJECT, RunConfig

EPS = {
    torch.float64: 2.0**-52,
    torch.float32: 2.0**-23,
    torch.bfloat16: 2.0**-7,  # a whole spacing: visits end with stochastic rounding
    torch.float16: 2.0**-10,
}
APART = "the clients do not start with equal models"
NEGATIVE = "a loss is below 0: how far it can still fall is not known"


class Verdict(NamedTuple):
    """A claim beside a run: `verdict` is the bound's, or "hypothesis broken: " and which; `rests_on` says what was estimated."""

    claim: str
    verdict: str
    bound: Bound | None = None
    rests_on: str = ""


def beside(history: History, lab: Lab | None = None) -> dict[str, Verdict]:
    """Return every claim that speaks of such a run, by name; the lab is prepared again from the run's config.

    A run with objects in place of names, and a fit, need theirs: it is `history.lab` in memory; for a folder that was
    read, `lab` is that of an equal run, made with the same objects. Raises BadInput where it is missing or another
    run's, and where the corpus has changed since.
    """
    lab = lab or history.lab or _prepared(history.config)
    _require_same(history.config, lab)
    kind = history.config.optimiser
    gradient = _sgd_descent if kind == "sgd" else _deca_descent
    claims: dict[str, Callable[[History, Lab], Verdict]] = {
        "traffic": _traffic,
        "memory": _memory,
        "consensus": _consensus,
        "gradient": gradient,
        **({"interference": _interference} if history.config.adapter == "lora" else {}),
    }
    return {name: claim(history, lab) for name, claim in claims.items()}


def _prepared(config: RunConfig) -> Lab:
    knobs = with_objects(config)
    if knobs:
        raise BadInput(
            f"lab is missing: {', '.join(knobs)} of this run were given as objects, which no folder holds; "
            "pass lab=, the .lab of the history of an equal run that was given them"
        )
    return prepare(config)


def _require_same(config: RunConfig, lab: Lab) -> None:
    """Raise BadInput where the lab is of another run."""
    wanted = resolve(config, lab.objects.method)
    other = [
        f.name for f in fields(wanted) if getattr(wanted, f.name) != getattr(lab.config, f.name)
    ]
    check(not other, "lab", lab.config.method, f"that of a run with the same {', '.join(other)}")


def _traffic(history: History, lab: Lab) -> Verdict:
    sent = history.edges[["measured", "predicted"]].to_numpy(float)
    bound = Bound(
        sent[:, 0], sent[:, 1], "bytes on each edge", "theory/costs.ipynb", axis="edge", equal=True
    )
    if len(sent) == 0:
        return Verdict(bound.name, "hypothesis broken: nobody sends anything")
    return Verdict(bound.name, bound.verdict, bound)


def _memory(history: History, lab: Lab) -> Verdict:
    memory = history.summary["memory"]
    bound = Bound(
        np.array([float(memory["measured_peak"])]),
        np.array([float(memory["peak"])]),
        "peak bytes of all clients",
        "theory/costs.ipynb",
        axis="run",
        rounding=0.02 * memory["peak"] + 8 * history.config.clients,
    )
    words = "2 % for scalars and indices beside the blocks' own tensors, and a loss of each client"
    return Verdict(bound.name, bound.verdict, bound, words)


def _interference(history: History, lab: Lab) -> Verdict:
    held = history.metrics[["interference", "interference_bound"]].to_numpy(float)
    size = np.sqrt(held[:, 1].max()) if len(held) else 0.0
    bound = Bound(
        held[:, 0],
        held[:, 1],
        "interference of mixed factors",
        "theory/factor_averaging.ipynb",
        axis="measurement",
        first=0,
        rounding=1e-6 * size,
    )  # float32 sums of products
    return Verdict(bound.name, bound.verdict, bound)


def _consensus(history: History, lab: Lab) -> Verdict:
    """Compare each measured disagreement of a block that just trained with what a bounded step can have made."""
    name, reason = "disagreement of the active block", _adam_reason(lab)
    if reason:
        return Verdict(name, f"hypothesis broken: {reason}")
    rows = history.metrics[history.metrics["step"] > 0]
    allowed = _allowed(lab)
    at = [(int(row["step"]), row["block"]) for row in rows.to_dict("records")]
    lhs = np.array(
        [
            np.sqrt(history.config.clients * row[f"consensus[{row['block']}]"])
            for row in rows.to_dict("records")
        ]
    )
    rhs = np.array([allowed[step][block] for step, block in at])
    start = {b.name: stacking.flatten(lab.plan.problem.start, b.names) for b in lab.plan.blocks}
    size = {name: EPS[x.dtype] * float(x.double().norm()) for name, x in start.items()}
    rounding = np.array(
        [history.config.clients * size[block] for _, block in at]
    )  # N products and sums a mixing
    bound = Bound(
        lhs, rhs, name, "theory/block_consensus.ipynb", axis="measurement", rounding=rounding
    )
    return Verdict(name, bound.verdict, bound, f"{_dtypes(start)} arithmetic")


def _dtypes(start: Mapping[str, Tensor]) -> str:
    return " and ".join(sorted({str(x.dtype).removeprefix("torch.") for x in start.values()}))


def _adam_reason(lab: Lab) -> str:
    """Return the hypothesis of bounded steps that a run breaks, or nothing."""
    config = lab.config
    if config.optimiser != "adam":
        who = (
            "an optimiser of one's own" if config.optimiser.startswith(OBJECT) else config.optimiser
        )
        return f"the steps of {who} have no constant of their own"
    if config.feedback != "none" and (config.b2 == 1) != (config.b1 == 1):
        return "b2 = 1 with b1 < 1: a discrepancy counts in m and not in v"
    if config.feedback != "none" and min(config.b1, config.b2) == 0:
        return "b1 or b2 is 0"
    if config.weight_decay:
        return "weight decay adds to the step"
    if config.mixing != "gossip":
        return f"{config.mixing} is not a mixing with W"
    if lab.failing.any:
        return "there are faults: W is another one at every mixing, or messages are late or noisy"
    if config.compress != "none":
        return "messages are compressed: what is mixed is not the clients' models"
    if _start_apart(lab):
        return APART
    if not all(
        np.allclose(W.sum(0), 1) and np.allclose(W.sum(1), 1) for W in lab.topology.matrices
    ):
        return "W is not doubly stochastic"
    return ""


def _start_apart(lab: Lab) -> bool:
    return any(not torch.equal(x, x[:1].expand_as(x)) for x in lab.plan.problem.start.values())


def _constants(lab: Lab) -> np.ndarray:
    config = lab.config
    adam, fed = mo.Adam(config.a1, config.a2, config.eps), config.feedback != "none"
    longest = lab.plan.steps if lab.plan.recipe.keep_moments else config.inner_steps
    return feedback_step.constants(longest, adam, *((config.b1, config.b2) if fed else (1.0, 1.0)))


def _allowed(lab: Lab) -> dict[int, dict[str, float]]:
    """Return for every number of inner steps done what each block's || X - Xbar ||_F can be at most, from an equal start."""
    recipe, C, n = lab.plan.recipe, _constants(lab), lab.config.clients
    factors = [second_singular_value(W) for W in lab.topology.matrices]
    most = [0.0] * len(lab.plan.blocks)
    found, turns = {}, [0] * len(lab.plan.blocks)
    for s in range(lab.plan.steps):
        k = lab.plan.visits[s // recipe.inner_steps].block
        turns[k] = turns[k] + 1 if recipe.keep_moments or s % recipe.inner_steps else 1
        step = recipe.lr(s) * (n * lab.plan.layouts[k].width) ** 0.5 * float(C[turns[k] - 1])
        turn, rest = divmod(s + 1, recipe.mix_every)
        rho = 1.0 if rest else factors[(turn - 1) % len(factors)]
        before = most[k]
        if recipe.mix_all:
            most = [rho * b for b in most]
        most[k] = rho * before + step if recipe.combine_first else rho * (before + step)
        found[s + 1] = {block.name: most[j] for j, block in enumerate(lab.plan.blocks)}
    return found


def _first(reasons: dict[str, bool]) -> str:
    """Return the first reason that is true, or nothing."""
    return next((words for words, broken in reasons.items() if broken), "")


def _below_zero(history: History) -> bool:
    return (
        min(
            float(table[column].min())
            for table, column in ((history.metrics, "test_loss"), (history.train, "loss"))
        )
        < 0
    )


def _rho(lab: Lab) -> float:
    return max(second_singular_value(W) for W in lab.topology.matrices)


def _deca_descent(history: History, lab: Lab) -> Verdict:
    name, config, recipe = "mean squared gradient of DECA", lab.config, lab.plan.recipe
    reason = _adam_reason(lab) or _first(
        {
            "moments are kept between visits": recipe.keep_moments,
            "mixed less often than every step": recipe.mix_every > 1,
            "combine then adapt": recipe.combine_first,
            "feedback is not raw": config.feedback not in ("none", "zero")
            and config.feedback_scale != "raw",
            "the clients never come together (rho = 1)": _rho(lab) >= 1,
            NEGATIVE: _below_zero(history),
        }
    )
    if reason:
        return Verdict(name, f"hypothesis broken: {reason}")
    found, widths = estimate(lab.plan.problem), tuple(where.width for where in lab.plan.layouts)
    known = deca_descent.Known(
        found.smoothness,
        found.loss,
        found.steepest,
        found.zeta,
        found.sigma,
        _rho(lab),
        config.clients,
        widths,
    )
    fed = mo.Feedback(mo.SIGNALS[config.feedback], mo.raw, config.b1, config.b2)
    setting = Setting(
        lab.topology,
        len(widths),
        config.rounds,
        config.inner_steps,
        config.lr,
        mo.Adam(config.a1, config.a2, config.eps),
        fed,
    )
    return _beside(
        history, name, deca_descent.right_side(known, setting), found, "theory/deca_descent.ipynb"
    )


def _sgd_descent(history: History, lab: Lab) -> Verdict:
    name, config, recipe = "mean squared gradient of D-SGD", lab.config, lab.plan.recipe
    found = estimate(lab.plan.problem)
    reason = _first(
        {
            "momentum": config.momentum > 0,
            "trained in blocks": len(lab.plan.blocks) > 1,
            "mixed less often than every step": recipe.mix_every > 1,
            "weight decay": config.weight_decay > 0,
            f"{config.mixing} is not a mixing with W": config.mixing != "gossip",
            "there are faults": lab.failing.any,
            "messages are compressed": config.compress != "none",
            "the clients never come together (rho = 1)": _rho(lab) >= 1,
            APART: _start_apart(lab),
            NEGATIVE: _below_zero(history),
        }
    )
    if not reason and config.lr > (
        most := d_sgd.largest_step(found.smoothness, _rho(lab), recipe.combine_first)
    ):
        reason = f"the learning rate is above {most:.3g}"
    if reason:
        return Verdict(name, f"hypothesis broken: {reason}", rests_on=found.words())
    case = d_sgd.Case(
        lambda seed: lab.plan.problem,
        lambda x: x,
        found.smoothness,
        found.sigma,
        found.zeta,
        found.loss,
    )
    start, mean, apart = d_sgd.terms(case, lab.topology, config.lr, recipe.combine_first)
    rhs = start / np.arange(1, lab.plan.steps + 1) + mean + apart
    return _beside(history, name, rhs, found, "theory/d_sgd.ipynb")


def _beside(history: History, name: str, rhs: np.ndarray, found: Estimates, source: str) -> Verdict:
    """Return the measured gradients of the mean model, averaged so far, against a right side over inner steps."""
    rows = history.metrics[history.metrics["step"] > 0]
    lhs = rows["gradient_norm"].to_numpy(float) ** 2
    so_far = np.cumsum(lhs) / np.arange(1, len(lhs) + 1)
    bound = Bound(so_far, rhs[rows["step"].to_numpy(int) - 1], name, source, axis="measurement")
    words = (
        f"{found.words()}. The left side is the whole gradient at the measurements, in place of the active block's at every "
        "step; no loss is below 0"
    )
    return Verdict(name, bound.verdict, bound, words)
