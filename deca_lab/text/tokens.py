"""Text to token ids: bytes, which need no file, or any tokenizer; rows to one stream."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deca_lab.errors import BadInput, check, quoted
from deca_lab.models.hub import hub_or_offline, is_a
from deca_lab.models.pretrained import arguments, gguf_file, quiet, refusal, require_no_path

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BYTES = 3  # ByT5: pad 0, end 1, unknown 2, then the 256 bytes


def tokenizer(name: str = "bytes", revision: str = "") -> "PreTrainedTokenizerBase":
    """Return ByT5's bytes ("bytes": 259 tokens, no file), or one of a path, GGUF file or hub name (of a revision)."""
    if name == "bytes":
        from transformers import ByT5Tokenizer

        return ByT5Tokenizer(extra_ids=0)
    here = os.path.expanduser(name)
    if os.path.isdir(here) or gguf_file(here):  # False too for a name that no file can have
        return _auto(here, "")
    require_no_path(name, "tokenizer")
    with hub_or_offline("model", name):
        return _auto(name, revision)


OWN_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json")


def tokenizer_for(
    name: str, source: str, revision: str = ""
) -> tuple["PreTrainedTokenizerBase", tuple[str, ...]]:
    """Return the tokenizer of a config and notes: of "auto" that of the model in `source`, of the same `revision`.

    `source` is a directory, a GGUF file or a hub name, or "" for a model that comes from none of them. Bytes stand in
    where there is none of its own.
    """
    if name != "auto":
        return tokenizer(name, revision if name == source else ""), ()
    folder = Path(source).expanduser()
    own = bool(source)
    if os.path.isdir(folder):
        own = any((folder / f).is_file() for f in OWN_FILES) or gguf_file(str(folder)) is not None
    which = tokenizer(source, revision) if own else tokenizer("bytes")
    kind = f"the model's own, {len(which)} tokens" if own else "bytes, for the model has none"
    return which, (f"tokenizer: {kind}",) if source else ()


def _auto(name: str, revision: str) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    given = arguments(name, revision)
    try:
        with quiet():
            which: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(**given)
    except Exception as error:  # of the tokenizers' library too, which raises nothing narrower
        raise refusal(f"tokenizer {name!r}", name, error, "cannot be read") from None
    return which


def is_bytes(which: "PreTrainedTokenizerBase") -> bool:
    """Say whether `which` is ByT5's byte tokenizer, whose ids are byte values + 3."""
    return type(which).__name__ == "ByT5Tokenizer"


def tokenize(texts: Sequence[str], which: "PreTrainedTokenizerBase") -> list[np.ndarray]:
    """Token ids of each text, a 1-D int64 array each, without special tokens.

    Bytes take a short cut, 100 times as fast as ByT5Tokenizer's Python; unlike it, a written "</s>"
    stays four bytes.
    """
    if is_bytes(which):
        raw = (np.frombuffer(text.encode("utf-8", "replace"), dtype=np.uint8) for text in texts)
        return [ids.astype(np.int64) + BYTES for ids in raw]
    if not texts:
        return []
    encoded = which(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return [np.asarray(ids, dtype=np.int64) for ids in encoded]


def end_of_text(which: "PreTrainedTokenizerBase") -> int:
    """The id of the end token that closes a row, or of what stands for it in BERT's; else BadInput."""
    end = which.eos_token_id
    end = getattr(which, "sep_token_id", None) if end is None else end
    if end is None:
        whose = f"tokenizer {which.name_or_path!r}"
        raise BadInput(f"{whose} has no end-of-text token (eos_token): give one that has")
    return int(end)


def stream(rows: Sequence[np.ndarray], eos_id: int | None) -> Tensor:
    """Join rows of token ids, each closed by `eos_id` if there is one, to one stream (tokens,) int64."""
    end = np.array([] if eos_id is None else [eos_id], dtype=np.int64)
    return torch.from_numpy(
        np.concatenate([np.zeros(0, np.int64), *(part for row in rows for part in (row, end))])
    )


# ---- a tokenizer of your own


SAMPLE = "Every client holds its own text: 3.14, ünï, 汉字\n\tand so on."


@dataclass(frozen=True)
class OwnTokenizer:
    """A tokenizer of your own behind the names that the lab reads, those of transformers."""

    encode: Callable[[str], Iterable[int]]
    size: int
    eos_token_id: int
    unk_token_id: int | None
    name_or_path: str

    def __len__(self) -> int:
        return self.size

    def __call__(self, texts: Sequence[str], **options: bool) -> dict[str, list[list[int]]]:
        """Return the ids of each text; the options, transformers' own, change nothing here."""
        return {"input_ids": [self._ids(text) for text in texts]}

    def _ids(self, text: str) -> list[int]:
        """The ids of one text, or BadInput where they are no ids."""
        try:
            ids = list(self.encode(text))
        except Exception as error:  # whatever another's code raises
            what = f"tokenizer {self.name_or_path} cannot encode {shorten(quoted(text), 60)}"
            raise BadInput(f"{what}: {type(error).__name__}: {shorten(str(error), 300)}") from error
        wrong = [i for i in ids if not _is_id(i, self.size)]
        allowed = f"a list of whole numbers from 0 to {self.size - 1}"
        check(not wrong, f"what tokenizer {self.name_or_path} encodes to", wrong[:3], allowed)
        return ids


def _is_id(value: Any, size: int) -> bool:  # noqa: ANN401 - anything
    return isinstance(value, Integral) and 0 <= int(value) < size


def tokenizer_of(which: Any) -> "PreTrainedTokenizerBase | OwnTokenizer":  # noqa: ANN401 - anything
    """Return what the lab needs of a tokenizer object: itself if it is one of transformers.

    Any other has a length (its vocabulary), `encode(text)` or a call that gives a list of ids, and
    the id of its end token as `eos_token_id`. Raises BadInput for what lacks one of them.
    """
    if is_a(which, "transformers.tokenization_utils_base", "PreTrainedTokenizerBase"):
        end_of_text(which)
        return which
    encode = getattr(which, "encode", which)
    if not callable(encode) or not hasattr(which, "__len__") or isinstance(which, str | type):
        given = shorten(quoted(which), 80)
        wanted = "one of transformers, or an object with a length, encode(text) and eos_token_id"
        raise BadInput(f"tokenizer = {given} cannot be used: it must be {wanted}")
    size, name = len(which), type(which).__name__
    end: Any = getattr(which, "eos_token_id", None)
    allowed = f"an id below {size}, of the token that ends a row"
    check(_is_id(end, size), f"eos_token_id of tokenizer {name}", end, allowed)
    own = OwnTokenizer(encode, size, int(end), getattr(which, "unk_token_id", None), name)
    own([SAMPLE, ""])
    return own


def fingerprint_of(which: "PreTrainedTokenizerBase | OwnTokenizer") -> str:
    """Return a SHA-256, in hex, over a tokenizer's class, size, end token, vocabulary and rules.

    Of a tokenizer that shows neither vocabulary nor rules, the ids of a sample text stand for them.
    """
    name = which.name_or_path if isinstance(which, OwnTokenizer) else type(which).__name__
    parts: list[Any] = [
        name,
        len(which),
        which.eos_token_id,
        [row.tolist() for row in tokenize([SAMPLE], which)],
    ]
    if hasattr(which, "get_vocab"):
        parts.append(sorted(which.get_vocab().items()))
    rules = getattr(which, "backend_tokenizer", None)
    if rules is not None:
        parts.append(rules.to_str())  # the sample put truncation and padding back
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
