"""Text to token ids: bytes, which need no file, or any tokenizer of transformers; rows to one stream."""

import os
from collections.abc import Sequence
from textwrap import shorten
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from deca_lab.errors import BadInput
from deca_lab.hub import hub_or_offline

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BYTES = 3  # ByT5: pad 0, end 1, unknown 2, then the 256 bytes


def tokenizer(name: str = "bytes") -> "PreTrainedTokenizerBase":
    """Return ByT5's byte tokenizer ("bytes": 259 tokens, no file), or AutoTokenizer's for a directory or hub name."""
    if name == "bytes":
        from transformers import ByT5Tokenizer

        return ByT5Tokenizer(extra_ids=0)
    here = os.path.expanduser(name)
    if os.path.isdir(here):                # False too for a name that no file can have
        return _auto(here)
    with hub_or_offline("model", name):
        return _auto(name)


def _auto(name: str) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    try:
        which: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInput(f"tokenizer {name!r} cannot be read: {shorten(line, 300)}") from None
    return which


def is_bytes(which: "PreTrainedTokenizerBase") -> bool:
    """Say whether `which` is ByT5's byte tokenizer, whose ids are byte values + 3."""
    return type(which).__name__ == "ByT5Tokenizer"


def tokenize(texts: Sequence[str], which: "PreTrainedTokenizerBase") -> list[np.ndarray]:
    """Token ids of each text, a 1-D int64 array each, without special tokens.

    Bytes take a short cut, 100 times as fast as ByT5Tokenizer's Python; unlike it, a written "</s>" stays four bytes.
    """
    if is_bytes(which):
        raw = (np.frombuffer(text.encode("utf-8", "replace"), dtype=np.uint8) for text in texts)
        return [ids.astype(np.int64) + BYTES for ids in raw]
    encoded = which(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    return [np.asarray(ids, dtype=np.int64) for ids in encoded]


def end_of_text(which: "PreTrainedTokenizerBase") -> int:
    """The id of the end token that closes a row; BadInput where the tokenizer has none."""
    if which.eos_token_id is None:
        raise BadInput(f"tokenizer {which.name_or_path!r} has no end-of-text token (eos_token): give one that has")
    return int(which.eos_token_id)


def stream(rows: Sequence[np.ndarray], eos_id: int) -> Tensor:
    """Join rows of token ids, each closed by `eos_id`, to one stream (tokens,) int64."""
    end = np.array([eos_id], dtype=np.int64)
    return torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *(part for row in rows for part in (row, end))]))
