"""What models write: the start of a test row goes in, and what the model takes to come next comes out."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from deca_lab.algorithm.stacking import Params
from deca_lab.errors import check
from deca_lab.lab.export import trained_model
from deca_lab.lab.objects import NOTHING, with_objects
from deca_lab.lab.runs import read_config
from deca_lab.lab.sources import foreign, read_texts
from deca_lab.models.causal_lm import Logits, logits_of
from deca_lab.text.prompts import ANSWER_CUE, evenly
from deca_lab.text.tokens import BYTES, end_of_text, is_bytes, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

START, LENGTH = 60, 64  # characters of a row that are given, at most, and tokens that are written
FEW = 1, 24  # rows and tokens where the model may be large: each token is a forward pass


class Sample(NamedTuple):
    """The start of a test row, what stands there, and what the model wrote before and after it was trained."""

    start: str
    really: str
    before: str
    after: str


def samples(
    folder: Path | str, client: str = "mean", count: int = 3, length: int = LENGTH
) -> list[Sample]:
    """Return what the mean model of a finished run writes, or client "0" ... "N-1", beside its start model.

    `count` rows of the test text, which no client trained on, are spread over its labels; of each the model is given the
    start, at most 60 characters, and writes `length` tokens or fewer, always the likeliest. None for a task that names
    labels, and for a tokenizer that cannot turn tokens into text. Raises BadInput for a run that was given objects, and as
    `export_model`.
    """
    check(count >= 1 and length >= 1, "count, length", (count, length), "at least 1")
    if read_config(folder).task == "classify":
        return []
    (config, model, params, *_), which = trained_model(folder, client)
    if not (is_bytes(which) or hasattr(which, "decode")):
        return []
    corpus, _, split, *_ = read_texts(config, NOTHING)
    rows = split.test[evenly(torch.from_numpy(corpus.labels[split.test]), count)]
    answers = None if corpus.answers is None else [corpus.answers[i] for i in rows]
    texts = [corpus.texts[i] for i in rows]
    if config.task == "lm" or answers is None:
        cuts = [min(START, 3 * len(text) // 4) for text in texts]
        starts = [text[:cut] for text, cut in zip(texts, cuts, strict=True)]
        answers = [text[cut:] for text, cut in zip(texts, cuts, strict=True)]
    else:
        starts = [text + ANSWER_CUE for text in texts]
    logits, limit = logits_of(model), config.context
    written = (
        [continued(logits, of, start, which, length, limit) for start in starts]
        for of in ({}, params)
    )
    return [Sample(*row) for row in zip(starts, answers, *written, strict=True)]


def for_report(folder: Path | str, client: str = "mean") -> list[Sample]:
    """Return the samples that a finished run shows unasked: few and short ones of a model of any size.

    None where there is no checkpoint, or where the run was given objects, which a folder does not hold.
    """
    config = read_config(folder)
    if with_objects(config) or not Path(folder, "checkpoint.safetensors").exists():
        return []
    return samples(folder, client, *(FEW if foreign(config) else ()))


@torch.no_grad()
def continued(
    logits: Logits,
    params: Params,
    start: str,
    which: "PreTrainedTokenizerBase",
    length: int = LENGTH,
    context: int = 128,
) -> str:
    """Return what a model writes after `start`: the likeliest token, `length` times, or up to the end of the text.

    `params` are one model's, name -> (...); what they lack is the model's own. Of a longer text the model reads the last
    `context` tokens.
    """
    own = next(iter(params.values()), torch.zeros(0)).device
    tokens, end = tokenize([start], which)[0].tolist(), end_of_text(which)
    first = len(tokens)
    for _ in range(length):
        token = int(logits(params, torch.tensor([tokens[-context:]], device=own))[0, -1].argmax())
        if token == end:
            break
        tokens.append(token)
    return text_of(tokens[first:], which)


def text_of(tokens: Sequence[int], which: "PreTrainedTokenizerBase") -> str:
    """Return the text of token ids; a byte that is no character becomes a mark, and special tokens are left out."""
    if is_bytes(which):
        values = np.array([t - BYTES for t in tokens if t >= BYTES], dtype=np.uint8)
        return values.tobytes().decode("utf-8", "replace")
    return str(which.decode(list(tokens), skip_special_tokens=True))


def in_words(rows: Sequence[Sample], alone: Sequence[Sample] = ()) -> str:
    """Return samples as lines of text: given, before, after, and, where there are some, what a client wrote alone."""
    lines = []
    for k, row in enumerate(rows):
        written = {"given": row.start, "before": row.before}
        written |= (
            {"alone": alone[k].after, "together": row.after} if alone else {"after": row.after}
        )
        lines += [f"  {what:9}{_one_line(text)}" for what, text in written.items()] + [""]
    return "\n".join(lines[:-1])


def _one_line(text: str, most: int = 88) -> str:
    shown = text.replace("\n", "\\n")
    return shown if len(shown) <= most else shown[: most - 4] + " ..."
