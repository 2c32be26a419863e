"""How the shipped base was made: `python -m deca_lab.tools.pretrain --minutes 30 --out DIR` writes it, card included.

A byte-level Llama learns the corpus "modules", which shares no file with the labels that the lab fine-tunes on.
The number of steps follows from the minutes and the speed at the start; `--steps` repeats a run exactly.
"""

import argparse
import copy
import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deca_lab.models import causal_lm
from deca_lab.text import corpora, shards
from deca_lab.text.tokens import end_of_text, stream, tokenize, tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONTEXT = 128  # of the reported losses
PROBE = 20  # steps that measure the speed


@dataclass(frozen=True)
class Training:
    """All that decides the weights, next to the text and the libraries' versions."""

    minutes: float = 30.0  # of training, used only where `steps` is 0
    steps: int = 0
    tokens: int = 2048  # a step
    contexts: tuple[int, ...] = (128, 128, 128, 512)  # taken in turn
    layers: int = 4
    width: int = 128
    tied: bool = False
    lr: float = 3e-3  # the peak
    warmup: float = 0.03  # fraction of the steps
    floor: float = 0.02  # of the peak, where the cosine ends
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1  # of matrices
    clip: float = 1.0  # norm of the whole gradient
    held_out: float = 0.05  # fraction of the rows
    seed: int = 0


def split(texts: Sequence[str], fraction: float, seed: int) -> tuple[list[str], list[str]]:
    """Return (training, held-out) rows, a seeded draw without replacement."""
    order = np.random.default_rng([seed, 1]).permutation(len(texts))
    cut = max(1, round(fraction * len(texts)))
    shuffled = [texts[i] for i in order]
    return shuffled[cut:], shuffled[:cut]


def batch(tokens: Tensor, training: Training, step: int) -> Tensor:
    """Return a step's windows (B, context + 1), the training's contexts in turn: a pure function of seed and step."""
    context = training.contexts[step % len(training.contexts)]
    return shards.batch([tokens], context, max(1, training.tokens // context), training.seed, step)[
        0
    ]


@torch.no_grad()
def held_out_loss(model: "PreTrainedModel", rows: Tensor, size: int = 64) -> float:
    """Return the mean loss in nats per token over rows (rows, T+1)."""
    loss, params = causal_lm.client_loss(model), causal_lm.trainable(model)
    total = sum(float(loss(params, part)) * len(part) for part in torch.split(rows, size))
    return total / len(rows)


def rate(step: int, steps: int, training: Training) -> float:
    """Learning rate of a step: linear warm-up, then a cosine down to `floor` of the peak."""
    warm = max(1, round(training.warmup * steps))
    if step < warm:
        return training.lr * (step + 1) / warm
    cosine = (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2
    return training.lr * (training.floor + (1 - training.floor) * cosine)


def optimiser(model: "PreTrainedModel", training: Training) -> torch.optim.AdamW:
    """AdamW whose weight decay leaves the vectors (norms) alone."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p.dim() > 1]},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=training.lr, betas=training.betas, weight_decay=training.weight_decay, fused=True
    )


def fit(
    model: "PreTrainedModel",
    tokens: Tensor,
    training: Training,
    report: Callable[[int, float], None],
) -> None:
    """Train the model in place for `training.steps` steps; `report(step, loss)` is called after each."""
    optimum = optimiser(model, training)
    for step in range(training.steps):
        for group in optimum.param_groups:
            group["lr"] = rate(step, training.steps, training)
        rows = batch(tokens, training, step)
        loss = model(input_ids=rows, labels=rows, use_cache=False).loss
        optimum.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip)
        optimum.step()
        report(step + 1, loss.item())


def affordable(model: "PreTrainedModel", tokens: Tensor, training: Training) -> int:
    """Return how many steps fit in `training.minutes`, by the speed of a few on a copy of the model."""
    began = time.monotonic()
    fit(copy.deepcopy(model), tokens, replace(training, steps=PROBE), lambda step, loss: None)
    return max(1, round(60 * training.minutes * PROBE / (time.monotonic() - began)))


def write(model: "PreTrainedModel", folder: Path, card: str) -> None:
    """Write config.json, model.safetensors (float16) and README.md, each whole or not at all."""
    from safetensors.torch import save

    half = {
        name: p.to(torch.float16).contiguous() for name, p in causal_lm.trainable(model).items()
    }
    config = model.config.to_dict() | {"dtype": "float16", "architectures": [type(model).__name__]}
    files = {
        "model.safetensors": save(half, metadata={"format": "pt"}),
        "config.json": (json.dumps(config, indent=2, sort_keys=True) + "\n").encode(),
        "README.md": card.encode(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.part").write_bytes(content)
        (folder / f"{name}.part").replace(folder / name)


CARD = """\
---
license: apache-2.0
library_name: transformers
---
# The lab's base: a byte-level Llama, {parameters:,} parameters

{layers} layers of width {width}, 4 heads, SwiGLU, rotary positions up to {positions}, {head} head; 259 tokens
(ByT5's: pad 0, end 1, unknown 2, then the 256 bytes). Weights in float16, {size:,} bytes.
No tokenizer file is needed: `ByT5Tokenizer(extra_ids=0)`.

## What it learnt
The corpus "modules": the single-file modules of Python {python}'s standard library, {rows:,} rows,
{bytes:,} bytes of text, SHA-256
`{fingerprint}`.
{held_rows:,} of the rows were held out. It shares no file, and no paragraph of more than 80 characters, with
the corpora "stdlib" (packages) and "topics", on which the lab fine-tunes.

## How
{steps:,} steps of {tokens:,} tokens ({seen:,} tokens, {epochs:.1f} passes), contexts {contexts} in turn,
AdamW {betas}, weight decay {decay}, clipping at norm {clip}, learning rate {lr} with warm-up and cosine,
float32, seed {seed}: {minutes:.0f} minutes on {threads} core(s) of a CPU ({processor}), torch {torch},
transformers {transformers}. This makes it again from the text of the Python that runs it (another release has
another text):

    python -m deca_lab.tools.pretrain --steps {steps} --tokens {tokens} --lr {lr} --seed {seed}{flag} --out DIR

## What it reaches
Mean next-byte loss in contexts of {context} bytes:

| text | nats per byte | bits per byte |
|---|---|---|
| held-out rows of "modules" | {held:.4f} | {held_bits:.3f} |
| 2,048 contexts spread over the corpus "stdlib", never trained on | {stdlib:.4f} | {stdlib_bits:.3f} |
| for scale: byte frequencies alone, on the same | {unigram:.4f} | {unigram_bits:.3f} |

Before rounding to float16 the first figure was {exact:.4f}.

## Meant for, and not
A start for lessons and tests of fine-tuning, small enough for eight copies on two cores. It writes text that
looks like Python and does not run. It knows no other text well and follows no instruction; contexts over 512
bytes are outside of what it saw.

## Licence
The weights are under Apache-2.0, like the project. The text they learnt from is the Python Software
Foundation's (PSF licence) and is not included.
"""


def unigram_entropy(tokens: Tensor) -> float:
    """Return the entropy of the token frequencies, in nats: the loss of knowing nothing but them."""
    p = torch.bincount(tokens).double() / len(tokens)
    return -torch.xlogy(p, p).sum().item()


class Text(NamedTuple):
    """What is trained on and measured on; rows are (rows, 129) tokens."""

    corpus: corpora.Corpus
    train: Tensor  # (tokens,)
    held: Tensor  # held-out windows of the same corpus
    other: Tensor  # of the corpus "stdlib", never trained on
    held_count: int


def text(training: Training) -> Text:
    """Read the corpora where this runs and split the one to learn."""
    corpus, other, which = corpora.load("modules"), corpora.load("stdlib"), tokenizer("bytes")
    parts = (*split(corpus.texts, training.held_out, training.seed), other.texts)
    train, held_out, rest = (stream(tokenize(part, which), end_of_text(which)) for part in parts)
    return Text(
        corpus,
        train,
        shards.windows(held_out, CONTEXT),
        shards.windows(rest, CONTEXT, 2048),
        len(parts[1]),
    )


def measure(model: "PreTrainedModel", data: Text) -> dict[str, float]:
    """Return the card's losses in nats and, as `..._bits`, in bits; all but `exact` of the weights in float16."""
    rounded = half(model)
    nats = {
        "held": held_out_loss(rounded, data.held),
        "exact": held_out_loss(model, data.held),
        "stdlib": held_out_loss(rounded, data.other),
        "unigram": unigram_entropy(data.other[:, 1:].flatten()),
    }
    return nats | {f"{name}_bits": value / math.log(2) for name, value in nats.items()}


def card(model: "PreTrainedModel", training: Training, data: Text, minutes: float) -> str:
    """Return the card, every figure measured here; `training.steps` are the steps that were taken."""
    import transformers

    config, seen = model.config, training.steps * training.tokens
    parameters = sum(p.numel() for p in causal_lm.trainable(model).values())
    return CARD.format(
        **measure(model, data),
        **{
            name: getattr(training, name)
            for name in ("steps", "tokens", "lr", "seed", "contexts", "betas", "clip")
        },
        **{"decay": training.weight_decay, "context": CONTEXT},
        **{"head": "tied" if training.tied else "untied", "flag": " --tied" * training.tied},
        **{
            "parameters": parameters,
            "size": 2 * parameters,
            "seen": seen,
            "epochs": seen / len(data.train),
        },
        **{"layers": config.num_hidden_layers, "width": config.hidden_size, "minutes": minutes},
        **{"positions": config.max_position_embeddings, "held_rows": data.held_count},
        **{
            "rows": len(data.corpus.texts),
            "bytes": sum(len(t.encode()) for t in data.corpus.texts),
        },
        **{"fingerprint": data.corpus.fingerprint, "python": platform.python_version()},
        **{"threads": torch.get_num_threads(), "processor": platform.machine()},
        **{"torch": torch.__version__, "transformers": transformers.__version__},
    )


def half(model: "PreTrainedModel") -> "PreTrainedModel":
    """Return the model with its weights rounded to float16, in float32: what a reader of the file gets."""
    return causal_lm.with_parameters(
        model, {name: p.half() for name, p in causal_lm.trainable(model).items()}
    )


def make(training: Training, folder: Path, say: Callable[[str], None], every: int = 500) -> None:
    """Train as `training` says and write the base, every `every` steps too, so that a broken run leaves one."""
    data = text(training)
    shape = causal_lm.Preset(
        "the base", family="llama", layers=training.layers, width=training.width, tied=training.tied
    )
    model = causal_lm.draw(shape, seed=training.seed, attention="sdpa")
    training = (
        training
        if training.steps
        else replace(training, steps=affordable(model, data.train, training))
    )
    began = time.monotonic()

    def report(step: int, loss: float) -> None:
        if step % every == 0:
            minutes = (time.monotonic() - began) / 60
            other = held_out_loss(model, data.held[::8])
            say(
                f"step {step}/{training.steps}, {minutes:.1f} min: training loss {loss:.3f}, held-out {other:.4f} nats per byte"
            )
            write(model, folder, f"Unfinished: step {step} of {training.steps}.\n")

    fit(model, data.train, training, report)
    minutes = (time.monotonic() - began) / 60
    write(model, folder, card(model, training, data, minutes))
    say(f"wrote {folder}")


def main() -> None:
    """Read the command line and make the base."""
    parser = argparse.ArgumentParser(
        prog="python -m deca_lab.tools.pretrain", description="Train the lab's base model."
    )
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument(
        "--minutes", type=float, default=Training.minutes, help="of training; gives the steps"
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=Training.steps,
        help="exact number of steps, instead of minutes",
    )
    parser.add_argument("--tokens", type=int, default=Training.tokens, help="in a step")
    parser.add_argument("--lr", type=float, default=Training.lr, help="peak learning rate")
    parser.add_argument("--tied", action="store_true", help="one matrix for embedding and head")
    parser.add_argument("--seed", type=int, default=Training.seed)
    given = vars(parser.parse_args())
    folder = given.pop("out")
    make(Training(**given), folder, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
