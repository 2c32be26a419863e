"""A problem of your own, taken as an object: what is checked before it trains, and of every batch that it gives."""

from functools import partial
from math import sqrt

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from deca_lab.algorithm import gradients as gr
from deca_lab.algorithm import stacking
from deca_lab.algorithm.problems import Problem
from deca_lab.errors import BadInput, check, first_line, quoted
from deca_lab.lab.metrics import each
from deca_lab.lab.prepare import each_batch, find_device

PURE = "the same whenever it is asked for: draw what is random from a generator seeded by the step"


def ready_problem(problem: Problem, device: str = "auto") -> Problem:
    """Return the problem with every batch checked, on a device; raise BadInput for one that cannot train.

    "auto" is where its start lies, for its loss may read more than it is given; another takes start and data there.
    A loss is a fixed function that changes nothing, and gives one finite number; a batch depends on its step alone.
    """
    whole = isinstance(problem, Problem)
    check(whole, "problem", problem, "a deca_lab.Problem(start, loss, batches)")
    _require_start(problem)
    _require_batch("problem.evaluation", problem.evaluation, problem.clients, or_none=True)
    own = next(iter(problem.start.values())).device
    ready = _on_device(problem, own if device == "auto" else find_device(device))
    try:
        _try_out(ready)
    except BadInput:
        raise
    except Exception as error:  # whatever a user's own function raises
        line = f"{type(error).__name__}: {first_line(error)}"
        raise BadInput(f"problem cannot be used: its loss raises {line}") from error
    return ready


def _require_start(problem: Problem) -> None:
    sizes = {name: tuple(getattr(t, "shape", ())) for name, t in problem.start.items()}
    tensors = [t for t in problem.start.values() if isinstance(t, Tensor)]
    real = len(tensors) == len(sizes) and all(t.is_floating_point() for t in tensors)
    counts = {shape[:1] for shape in sizes.values()}
    allowed = "tensors of real numbers with the clients on axis 0"
    sound = real and len(counts) == 1 and () not in counts
    check(sound, "problem.start", sizes, allowed)
    named = all(isinstance(name, str) and name for name in sizes)
    check(named, "names of problem.start", list(sizes), "texts")
    check(all(t.numel() for t in tensors), "problem.start", sizes, "tensors that hold a number")
    dtypes = {str(t.dtype) for t in tensors}
    check(len(dtypes) == 1, "dtypes of problem.start", ", ".join(sorted(dtypes)), "one for all")


def _on_device(problem: Problem, device: torch.device) -> Problem:
    """Return the problem with start, batches and evaluation on a device."""

    def moved(tensor: Tensor) -> Tensor:
        return tensor.to(device)

    start = {name: moved(tensor.detach()) for name, tensor in problem.start.items()}
    data = None if problem.evaluation is None else each(problem.evaluation, moved)
    batches = each_batch(partial(_batch_at, problem), moved)
    return problem._replace(start=start, batches=batches, evaluation=data)


def _batch_at(problem: Problem, step: int) -> gr.Batch:
    """Return the batch of an inner step; raise BadInput where clients cannot be taken from it by an index on axis 0."""
    what = f"problem.batches({step})"
    try:
        batch = problem.batches(step)
    except Exception as error:  # a StopIteration would end the loop's generator with other words
        raise BadInput(f"{what} raises {type(error).__name__}: {first_line(error)}") from error
    _require_batch(what, batch, problem.clients)
    return batch


def _require_batch(what: str, batch: object, clients: int, or_none: bool = False) -> None:
    allowed = f"a tensor with {clients} clients on axis 0, or a tuple of such"
    if (or_none and batch is None) or _is_batch(batch, clients):
        return  # the words below are for an error, and take longer than a small step
    shapes = tree_map(lambda t: tuple(getattr(t, "shape", ())), batch)
    got = shapes if isinstance(batch, Tensor | tuple) else type(batch).__name__
    raise BadInput(f"{what} = {quoted(got)} cannot be used: it must be {allowed}")


def _is_batch(batch: object, clients: int) -> bool:
    if isinstance(batch, tuple):
        return all(_is_batch(part, clients) for part in batch)
    return isinstance(batch, Tensor) and batch.shape[:1] == (clients,)


def _try_out(problem: Problem) -> None:
    """Take all clients' losses and gradients at the start, one client after another, and the first one's loss on new data."""
    where, batch = stacking.layout(problem.start, list(problem.start)), problem.batches(0)
    x = stacking.flatten(problem.start, where.names)
    written = stacking.writes(tree_leaves(batch))
    losses, g = gr.looped(problem.loss)(x, where, {}, batch)
    _require_number("what problem.loss returns", losses)
    finite = bool(losses.isfinite().all() and g.isfinite().all())
    check(finite, "problem", losses.tolist(), "finite in loss and gradient at its start")
    kept = torch.equal(x, stacking.flatten(problem.start, where.names))
    kept = kept and written == stacking.writes(tree_leaves(batch))
    check(kept, "problem.loss", problem.loss, "a function that changes neither params nor batch")
    check(_equal(batch, problem.batches(0)), "problem.batches(0)", "another one each time", PURE)
    _require_function(problem, batch, losses[0])
    if problem.exact is not None:
        _require_exact(problem, losses, g, problem.exact(x, where, {}, batch))
    if problem.evaluation is not None:
        start, data = tree_map(lambda t: t[:1], (problem.start, problem.evaluation))
        new = gr.losses(problem.loss, start, data, over=gr.in_turn)
        _require_number("what problem.loss returns of problem.evaluation", new)


def _require_function(problem: Problem, batch: gr.Batch, before: Tensor) -> None:
    """Raise BadInput where the loss of the first client is another one the second time, or has no gradient."""
    own = {name: t[0].detach().requires_grad_() for name, t in problem.start.items()}
    again = problem.loss(own, tree_map(lambda t: t[0], batch))
    allowed = "a function of the params, with a gradient"
    check(bool(again.requires_grad), "problem.loss", problem.loss, allowed)
    same = _near(again.detach()[None], before[None])
    check(same, "problem.loss", "random", "the same for the same params and batch")


def _require_number(what: str, losses: Tensor) -> None:
    check(losses.dim() == 1, what, tuple(losses.shape[1:]), "one number, a tensor without axes")


def _require_exact(
    problem: Problem, losses: Tensor, g: Tensor, given: tuple[Tensor, Tensor]
) -> None:
    """Raise BadInput where the closed form is not that of the loss."""
    shapes = [tuple(t.shape) for t in given]
    allowed = "losses (N,) and gradients (N, D)"
    check(shapes == [losses.shape, g.shape], "what problem.exact returns", shapes, allowed)
    same = _near(given[0], losses) and _near(given[1], g)
    check(same, "problem.exact", problem.exact, "what problem.loss gives, and its gradient")


def _near(a: Tensor, b: Tensor) -> bool:
    """Say whether two results are one up to rounding, of another order of operations too."""
    most = sqrt(torch.finfo(b.dtype).eps) * (1 + float(b.abs().max()))
    return float((a - b).abs().max()) <= most


def _equal(a: gr.Batch, b: gr.Batch) -> bool:
    """Say whether two batches hold the same numbers; NaN, a gap in the data, is equal to itself."""
    pairs = list(zip(tree_leaves(a), tree_leaves(b), strict=True))
    return all(s is t or _all_equal(s, t) for s, t in pairs)


def _all_equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
