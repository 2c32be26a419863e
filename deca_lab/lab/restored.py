"""Whether a checkpoint, whole as a file, holds what its run could have written: shapes, steps, rows, numbers."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deca_lab.algorithm import optimisers as op
from deca_lab.algorithm.loop import Plan, State, mixes
from deca_lab.errors import BadInput
from deca_lab.lab.history import Record


def refused(path: Path, why: str) -> BadInput:
    """Return the one line about a checkpoint whose content is not this run's."""
    return BadInput(f"checkpoint {str(path)!r} is not one of this run, and refused: {why}")


def require_state(
    path: Path, state: State, clients: int, widths: Sequence[int], steps: int
) -> None:
    """Raise BadInput unless a state has a row (D_k) a client in every block, finite, at a step of the run."""
    at = state.step
    if type(at) is not int or not 0 <= at <= steps:
        raise refused(path, f"it stands at inner step {at!r}, of a run from 0 to {steps}")
    shapes, due = [tuple(x.shape) for x in state.blocks], [(clients, width) for width in widths]
    if shapes != due:
        raise refused(path, f"its blocks are {shapes}, and config.json makes them {due}")
    _require(path, "block", enumerate(state.blocks), torch.isfinite)


def require_kept(path: Path, state: State, plan: Plan) -> None:
    """Raise BadInput unless a state is one that the plan passes through: `require_state`, and all that a step needs."""
    widths = [where.width for where in plan.layouts]
    require_state(path, state, plan.topology.n, widths, plan.steps)
    sent, links = state.sent, len(plan.channel.links)
    if sent.shape != (links,) or sent.dtype != np.int64 or (sent < 0).any():
        raise refused(path, f"its bytes sent are no whole numbers of {links} links")
    begun, rest = divmod(state.step, plan.recipe.inner_steps)
    blocks = [visit.block for visit in plan.visits[: begun + bool(rest)]]
    due = set(blocks) if plan.recipe.keep_moments else set(blocks[-1:] if rest else ())
    if set(state.moments) != due:
        names = sorted(state.moments), sorted(due)
        raise refused(path, f"it holds moments of blocks {names[0]}, where {names[1]} are due")
    dtypes = {p.dtype for p in plan.problem.start.values()}
    if not dtypes.issuperset(x.dtype for x in state.blocks):
        raise refused(path, f"its blocks are of another precision than {dtypes}")
    half = bool(rest) and state.blocks[blocks[-1]].dtype in (torch.bfloat16, torch.float16)
    if (state.master is not None) != half:
        raise refused(path, "it holds no master copy in float32, or one where none is due")
    mixed = any(mixes(plan, s) for s in range(state.step - rest, state.step))
    if mixed and plan.channel.copies and not state.wire.letters:
        raise refused(path, "it holds no replicas of what the clients last said")
    masters = [] if state.master is None else [(blocks[-1], state.master)]
    letters = [(_block(name, len(widths)), x) for name, x in state.wire.letters.items()]
    for k, x in [*masters, *letters]:
        if k is None or tuple(x.shape) != tuple(state.blocks[k].shape):
            shape = f"the shape {tuple(x.shape)}"
            raise refused(path, f"a master copy or letter of block {k} has {shape}")
    moments = [(k, part) for k, kept in state.moments.items() for part in op.tensors(kept)]
    _require(path, "master, letters or moments of block", [*masters, *letters, *moments], _numbers)


def require_record(path: Path, record: Record, step: int, present: Mapping[int, int]) -> None:
    """Raise BadInput unless a record has a row for each inner step before `step`, and for each measured one.

    `present`: for each inner step that is to be measured, how many clients are there.
    """
    try:
        trained = [row["step"] for row in record.train]
        measured = [row["step"] for row in record.metrics]
        clients = Counter(row["step"] for row in record.clients)
    except (TypeError, KeyError) as error:
        raise refused(path, f"its rows have no {error}") from None
    if trained != list(range(step)) or measured != list(present) or clients != Counter(present):
        raise refused(path, f"rows of its tables are missing up to inner step {step}")


def _numbers(x: Tensor) -> Tensor:
    """Say where a tensor holds numbers; a moment may have grown beyond all numbers, which is no damage."""
    return ~torch.isnan(x)


def _require(
    path: Path,
    what: str,
    parts: Iterable[tuple[int | None, Tensor]],
    good: Callable[[Tensor], Tensor],
) -> None:
    for k, x in parts:
        if not bool(good(x).all()):
            raise refused(path, f"{what} {k} holds what is no finite number")


def _block(name: str, blocks: int) -> int | None:
    """Return the block that a letter belongs to, or None."""
    number = name.partition(".")[0]
    known = number.isascii() and number.isdecimal() and len(number) < 10 and int(number) < blocks
    return int(number) if known else None
