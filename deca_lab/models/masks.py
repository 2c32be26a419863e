"""How transformers makes masks while a loss runs: without a look at the data, and without a wait for the device."""

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

Mask = Callable[..., Tensor | None]


def unseen(padded: bool) -> Callable[[], AbstractContextManager[None]]:
    """Return what makes transformers build its masks without reading a number; with `padded` texts, always whole.

    It asks whether a row holds several texts, which none does, and whether a mask hides anything: a branch on a tensor's
    values, which torch.vmap cannot follow. And some versions make a zero on the host, for which the device waits.
    """
    # Here, and not in the context: torch.compile takes no import of transformers into a graph.
    from transformers import masking_utils

    look = {"allow_is_bidirectional_skip": False, "allow_is_causal_skip": False} if padded else {}
    return partial(_ours, masking_utils, look)


@contextmanager
def _ours(theirs: Any, look: dict[str, bool]) -> Iterator[None]:  # noqa: ANN401 - their module
    """Have our masks in the table of transformers' module of masks, and none of its questions."""
    table: MutableMapping[str, Mask] = theirs.ALL_MASK_ATTENTION_FUNCTIONS
    asks = getattr(theirs, "find_packed_sequence_indices", None)  # some versions do not
    usual = {name: table[name] for name in ("eager", "sdpa")}
    seen = usual["sdpa"]
    ours = {"sdpa": partial(_with, seen, look), "eager": partial(_added, seen, look)}
    if torch.compiler.is_compiling() and not look:
        ours = {}  # a graph has no host to wait for
    if asks is not None:
        theirs.find_packed_sequence_indices = _none
    for name, mask in ours.items():
        table[name] = mask
    try:
        yield
    finally:
        for name in ours:
            _restored(table, name, usual[name])
        if asks not in (None, _none):  # or another thread's, which puts back what it found
            theirs.find_packed_sequence_indices = asks


def _restored(table: MutableMapping[str, Mask], name: str, usual: Mask) -> None:
    """Take ours out of transformers' table, to the last key: a graph is made anew where the table has another one."""
    with suppress(KeyError):  # another thread, whose loss ended meanwhile, has done so
        del table[name]
    ours = getattr(usual, "func", None) in (_with, _added)  # of that thread
    if not ours and table.get(name) is not usual:  # the user's own
        table[name] = usual


def _none(positions: Tensor) -> None:
    """Return no numbers of texts: each row is one."""


def _with(mask: Mask, look: dict[str, bool], *sizes: Any, **options: Any) -> Tensor | None:  # noqa: ANN401
    return mask(*sizes, **{**options, **look})


def _added(
    seen: Mask,
    look: dict[str, bool],
    *sizes: Any,  # noqa: ANN401 - transformers' own
    dtype: torch.dtype = torch.float32,
    **options: Any,  # noqa: ANN401
) -> Tensor | None:
    """Return the mask of attention in plain operations: 0 where `seen` is true, else the least number."""
    shown = seen(*sizes, **{**options, "allow_is_causal_skip": False, **look})
    if shown is None:
        return None
    return torch.where(shown, shown.new_zeros((), dtype=dtype), torch.finfo(dtype).min)
