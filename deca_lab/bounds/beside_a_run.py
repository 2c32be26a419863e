"""The claims of theory beside a real run: what applies to it, both sides along its steps, a verdict, and what it rests on."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deca_lab.algorithm import moments as mo
from deca_lab.algorithm import stacking
from deca_lab.algorithm.gradients import Batch
from deca_lab.bounds import along_a_run as along
from deca_lab.bounds import along_predictable, d_sgd, deca_descent, deca_predictable, feedback_step
from deca_lab.bounds import hypotheses as hy
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


class Verdict(NamedTuple):
    """A claim beside a run: `verdict` is the bound's, or "hypothesis broken: " and which; `rests_on` says what was estimated."""

    claim: str
    verdict: str
    bound: Bound | None = None
    rests_on: str = ""


def beside(history: History, lab: Lab | None = None, again: bool = False) -> dict[str, Verdict]:
    """Return every claim that speaks of such a run, by name; the lab is prepared again from the run's config.

    `again` trains a run of DECA once more, for the theorem's own left side and what was seen of the right (`along_a_run`).

    A run with objects in place of names, and a fit, need theirs: it is `history.lab` in memory; for a folder that was
    read, `lab` is that of an equal run, made with the same objects. Raises BadInput where it is missing or another
    run's, and where the corpus has changed since.
    """
    lab = lab or history.lab or _prepared(history.config)
    _require_same(history.config, lab)
    kind = history.config.optimiser
    gradient = {"sgd": _sgd_descent, "adam-predictable": _predictable}.get(kind, _deca_descent)
    claims: dict[str, Callable[[History, Lab], Verdict]] = {
        "traffic": _traffic,
        "memory": _memory,
        "consensus": _consensus,
        "gradient": gradient,
        **({"interference": _interference} if history.config.adapter == "lora" else {}),
    }
    verdicts = {name: claim(history, lab) for name, claim in claims.items()}
    if again and kind == "adam" and verdicts["gradient"].bound is not None:
        verdicts |= _along(lab)
    if again and kind == "adam-predictable" and _predictable_asked(history, lab)[0] == "":
        verdicts |= _along_predictable(lab)
    return verdicts


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
    name = "disagreement of the active block"
    if reason := hy.broken(deca_descent.BOUNDED_STEPS, instance(history, lab)):
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
    # N products and sums a mixing.
    rounding = np.array([history.config.clients * size[block] for _, block in at])
    bound = Bound(
        lhs, rhs, name, "theory/block_consensus.ipynb", axis="measurement", rounding=rounding
    )
    return Verdict(name, bound.verdict, bound, f"{_dtypes(start)} arithmetic")


def _dtypes(start: Mapping[str, Tensor]) -> str:
    return " and ".join(sorted({str(x.dtype).removeprefix("torch.") for x in start.values()}))


def instance(history: History, lab: Lab) -> hy.Instance:
    """Return what hypotheses ask about a run."""
    config, recipe = lab.config, lab.plan.recipe
    rates = [recipe.lr(s) for s in range(lab.plan.steps)]
    own = config.optimiser.startswith(OBJECT)
    return hy.Instance(
        lab.topology,
        "an optimiser of one's own" if own else config.optimiser,
        mo.Adam(config.a1, config.a2, config.eps),
        config.b1,
        config.b2,
        config.feedback != "none",
        config.feedback in ("none", "zero") or config.feedback_scale == "raw",
        (min(rates), max(rates)),
        clip=recipe.clip,
        weight_decay=recipe.weight_decay,
        momentum=config.momentum,
        blocks=len(lab.plan.blocks),
        mix_every=recipe.mix_every,
        combine_first=recipe.combine_first,
        keep_moments=recipe.keep_moments,
        carrier=config.mixing,
        faults=lab.failing.any,
        compressed=config.compress != "none",
        apart=any(not torch.equal(x, x[:1].expand_as(x)) for x in lab.plan.problem.start.values()),
        below_zero=_below_zero(history),
    )


def _allowed(lab: Lab) -> dict[int, dict[str, float]]:
    """Return for every number of inner steps done what each block's || X - Xbar ||_F can be at most, from an equal start.

    Discrepancies enter the moments after those steps only that end in a mixing, so the constants are grown step by step.
    """
    recipe, config, plan = lab.plan.recipe, lab.config, lab.plan
    adam = mo.Adam(config.a1, config.a2, config.eps)
    decays = (config.b1, config.b2) if config.feedback != "none" else (1.0, 1.0)
    factors = [second_singular_value(W) for W in lab.topology.matrices]
    (most, spreads), turns = np.zeros((2, len(plan.blocks))).tolist(), [0] * len(plan.blocks)
    allowed = {}
    for s in range(plan.steps):
        k = plan.visits[s // recipe.inner_steps].block
        if not recipe.keep_moments and s % recipe.inner_steps == 0:
            spreads[k], turns[k] = 0.0, 0
        spreads[k], turns[k] = feedback_step.entered(spreads[k], adam.a1, adam.a2), turns[k] + 1
        C = feedback_step.constant(spreads[k], turns[k], adam)
        step = recipe.lr(s) * (config.clients * plan.layouts[k].width) ** 0.5 * C
        turn, rest = divmod(s + 1, recipe.mix_every)
        rho = 1.0 if rest else factors[(turn - 1) % len(factors)]
        if not rest:
            spreads[k] = feedback_step.entered(spreads[k], *decays)
        before = most[k]
        if recipe.mix_all:
            most = [rho * b for b in most]
        most[k] = rho * before + step if recipe.combine_first else rho * (before + step)
        allowed[s + 1] = {block.name: most[j] for j, block in enumerate(plan.blocks)}
    return allowed


def _below_zero(history: History) -> bool:
    return (
        min(
            float(table[column].min())
            for table, column in ((history.metrics, "test_loss"), (history.train, "loss"))
        )
        < 0
    )


def _deca_descent(history: History, lab: Lab) -> Verdict:
    name = "mean squared gradient of DECA"
    asked = instance(history, lab)
    if reason := hy.broken(deca_descent.HYPOTHESES, asked):
        return Verdict(name, f"hypothesis broken: {reason}")
    found = estimate(lab.plan.problem)
    known, setting = _known(lab, found, asked.rho), _setting(lab)
    return _beside(
        history, name, deca_descent.right_side(known, setting), found, "theory/deca_descent.ipynb"
    )


def _known(lab: Lab, found: Estimates, rho: float) -> deca_descent.Known:
    return deca_descent.Known(
        found.smoothness,
        found.loss,
        found.steepest,
        found.zeta,
        found.sigma,
        rho,
        lab.config.clients,
        tuple(where.width for where in lab.plan.layouts),
    )


def _setting(lab: Lab) -> Setting:
    """Return the run as the theorem's setting."""
    config = lab.config
    fed = mo.Feedback(mo.SIGNALS[config.feedback], mo.raw, config.b1, config.b2)
    decays = mo.Adam(config.a1, config.a2, config.eps)
    blocks = len(lab.plan.blocks)
    return Setting(lab.topology, blocks, config.rounds, config.inner_steps, config.lr, decays, fed)


def _along(lab: Lab) -> dict[str, Verdict]:
    """Return the theorem with its own left side, and with more and more of its right side as it was seen."""
    found, setting = estimate(lab.plan.problem), _setting(lab)
    fed = setting.feedback
    decays = (fed.b1, fed.b2) if fed.signal else (1.0, 1.0)
    t = deca_descent.turns(setting.inner_steps, setting.adam, *decays)
    seen = along.walk(lab.plan, _data(lab), setting.adam, t)
    rungs = along.ladder(seen, _known(lab, found, hy.largest_rho(lab.topology)), setting, t)
    words = f"{found.words()}. f on the data of the measurements. At the end of the run: {along.loosest(rungs)}"
    return _rungs(rungs, words)


def _predictable_asked(history: History, lab: Lab) -> tuple[str, hy.Instance]:
    """Return which hypothesis of the repair's theorem the run breaks, but for the length of its steps, and what was asked."""
    asked = instance(history, lab)
    return hy.broken(deca_predictable.HYPOTHESES, asked), asked


def _predictable(history: History, lab: Lab) -> Verdict:
    name, found = "mean squared gradient of the repair", estimate(lab.plan.problem)
    reason, asked = _predictable_asked(history, lab)
    if not reason:
        decays = asked.adam
        most = deca_predictable.largest_step(decays.eps, found.smoothness, decays.a1)
        reason = hy.short_steps(asked._replace(largest=most))
    if reason:
        return Verdict(name, f"hypothesis broken: {reason}", rests_on=found.words())
    moved = deca_predictable.right_side(_known(lab, found, asked.rho), _setting(lab))
    first = lab.plan.steps - len(moved)  # steps that only measure, counted as if they moved at once
    rhs = np.concatenate([np.full(first, moved[0]), moved])
    return _beside(history, name, rhs, found, "theory/deca_predictable.ipynb")


def _along_predictable(lab: Lab) -> dict[str, Verdict]:
    """Return the repair's theorem with its own left side, and with more and more of its right side as it was seen."""
    found, setting = estimate(lab.plan.problem), _setting(lab)
    seen = along_predictable.walk(lab.plan, _data(lab), setting.adam)
    known = _known(lab, found, hy.largest_rho(lab.topology))
    rungs = along_predictable.ladder(seen, known, setting)
    words = (
        f"{found.words()}. At the end of the run {along_predictable.loosest(seen, known, setting)}"
    )
    return _rungs(rungs, words)


def _data(lab: Lab) -> Batch:
    """Return what f is measured on, as a batch."""
    if len(lab.probe.train):
        return lab.probe.train
    kept = lab.plan.problem.evaluation
    return lab.plan.problem.batches(0) if kept is None else kept


def _rungs(rungs: Mapping[str, Bound], words: str) -> dict[str, Verdict]:
    """Return the rows of a ladder as verdicts; the last has the words."""
    last = list(rungs)[-1]
    return {
        f"gradient, {name}": Verdict(
            one.name, one.verdict, None if one.broken else one, words if name == last else ""
        )
        for name, one in rungs.items()
    }


def _sgd_descent(history: History, lab: Lab) -> Verdict:
    name, config, recipe = "mean squared gradient of D-SGD", lab.config, lab.plan.recipe
    found, asked = estimate(lab.plan.problem), instance(history, lab)
    if asked.rho < 1 and found.smoothness > 0:
        most = d_sgd.largest_step(found.smoothness, asked.rho, recipe.combine_first)
        asked = asked._replace(largest=most)
    if reason := hy.broken(d_sgd.HYPOTHESES, asked):
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
