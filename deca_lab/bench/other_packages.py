"""The bench beside packages of others, where they are installed: Decent-DP (a process a client), BAdam (one client), peft.

Same model, same batches, seconds of an inner step. `python -m deca_lab.bench.other_packages NAME STEPS` is what each process of a
measurement over four processes runs; the first one prints the seconds of its steps as a JSON list.
"""

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn

from deca_lab.algorithm.loop import train
from deca_lab.errors import BadInput, pick
from deca_lab.lab.prepare import Lab, prepare
from deca_lab.network.processes import World, joined
from deca_lab.runconfig import RunConfig

CLIENTS, STEPS, BLOCK = (
    4,
    12,
    4,
)  # clients of Decent-DP, and inner steps that are timed; steps of one of BAdam's visits
CROWD = ((4, 4), (16, 4), (16, 1))  # clients with adapters, and rows of a batch of each
LR = 1e-3


class Beside(NamedTuple):
    """Seconds of an inner step of ours and of theirs, what was done, and whose it is."""

    case: str
    ours: float
    theirs: float
    whose: str


def beside_decent_dp() -> Iterator[Beside]:
    """D-Adam of four clients on a ring: ours stacked in one process and in four, theirs in four; nothing where not installed."""
    if find_spec("decent_dp") is None:
        return
    theirs = _over_processes("decent-dp")
    yield Beside("D-Adam, 4 clients, one process", _stacked(), theirs, "Decent-DP in 4 processes")
    yield Beside(
        "D-Adam, 4 clients, 4 processes",
        _over_processes("ours"),
        theirs,
        "Decent-DP in 4 processes",
    )


def beside_badam() -> Iterator[Beside]:
    """BAdam of one client, a block a layer, mean over all blocks; nothing where theirs is not installed."""
    if find_spec("badam") is None:
        return
    lab = _lab(method="badam", inner_steps=BLOCK, clients=1, ends="frozen")
    yield Beside(
        "BAdam, one client, a block a layer",
        _by_visit(_timed(train(lab.plan), lab.plan.steps)),
        _badam(lab),
        "BAdam",
    )


def beside_peft() -> Iterator[Beside]:
    """Dec-LoRA of many clients on one base, mixing included, beside as many peft models, a step of each in a loop."""
    if find_spec("peft") is None:
        return
    for clients, batch in CROWD:
        lab = _lab(method="dec-lora", clients=clients, batch=batch)
        ours, theirs = train(lab.plan, donate=True), zip(*_peft(lab), strict=True)
        taken = [(*_timed(ours, 1), *_timed(theirs, 1)) for _ in range(lab.plan.steps)][1:]
        ours_s, theirs_s = map(median, zip(*taken, strict=True))
        case = f"Dec-LoRA, {clients} clients, batch {batch}"
        yield Beside(case, ours_s, theirs_s, "peft's, one client after another")


def _peft(lab: Lab) -> list[Iterator[None]]:
    """Return each client's steps with peft and torch's Adam, on the lab's batches."""
    from peft import LoraConfig, get_peft_model

    from deca_lab.models import causal_lm

    config = LoraConfig(
        r=lab.config.rank,
        lora_alpha=int(lab.config.lora_alpha),  # as peft types it
        target_modules=["c_attn"],
        fan_in_fan_out=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names in transformers that peft still uses
        models = [
            get_peft_model(causal_lm.load(lab.config.model), config)
            for _ in range(lab.config.clients)
        ]
    return [
        _steps(model, torch.optim.Adam(model.parameters(), lr=LR), lab, client)
        for client, model in enumerate(models)
    ]


def _lab(world: World | None = None, **knobs: Any) -> Lab:  # noqa: ANN401 - each has its own knob's type
    config = RunConfig(
        **{
            "model": "small",
            "corpus": "markov",
            "context": 64,
            "batch": 4,
            "clients": CLIENTS,
            "eval_windows": 1,
            "rounds": 1,
            "inner_steps": STEPS,
            "lr": LR,
            "device": "cpu",
            **knobs,
        }
    )
    return prepare(config, world or World())


def _stacked() -> float:
    lab = _lab(method="d-adam")
    return median(_timed(train(lab.plan), lab.plan.steps)[1:])


def _timed(steps: Iterator[Any], count: int) -> list[float]:
    """Return the seconds that each of so many items of an iterator takes."""
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        next(steps)
        taken.append(time.perf_counter() - began)
    return taken


def _by_visit(taken: list[float]) -> float:
    """Return the mean over visits of the median of a visit's steps, without its first."""
    visits = [median(taken[k + 1 : k + BLOCK]) for k in range(0, len(taken), BLOCK)]
    return sum(visits) / len(visits)


def _over_processes(name: str) -> float:
    """Return the median seconds of an inner step over four processes, which torchrun starts on this machine."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(CLIENTS),
        "-m",
        "deca_lab.bench.other_packages",
        name,
        str(STEPS),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    if done.returncode or not lines:
        raise BadInput(
            f"part others: {name!r} did not run over {CLIENTS} processes: {done.stderr.strip()[-300:]}"
        )
    taken: list[float] = json.loads(lines[-1])
    return median(taken[1:])


def _badam(lab: Lab) -> float:
    """Return the seconds of a step of the BAdam package on the lab's model and batches, as `_by_visit`."""
    from badam import BlockOptimizer

    model = lab.model
    prefixes = [[f"transformer.h.{k}."] for k in range(len(lab.plan.blocks))]
    with warnings.catch_warnings(), redirect_stdout(StringIO()):  # it tells which block is next
        warnings.simplefilter("ignore")  # that the model is in float32
        optimiser = BlockOptimizer(
            torch.optim.Adam(model.parameters(), lr=LR),
            list(model.named_parameters()),
            prefixes,
            switch_block_every=BLOCK,
            switch_mode="ascending",
            verbose=0,
        )
        return _by_visit(_timed(_steps(model, optimiser, lab, 0), lab.plan.steps))


def _steps(
    model: nn.Module, optimiser: "torch.optim.Optimizer | None", lab: Lab, client: int
) -> Iterator[None]:
    """Train a transformers model on one client's batches: a step for each item; `optimiser` None where the model steps itself."""
    for step in range(lab.plan.steps):
        tokens = lab.plan.problem.batches(step)[0][client]
        logits = model(tokens[:, :-1], use_cache=False).logits
        torch.autograd.backward(
            nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        )
        if optimiser is not None:
            optimiser.step()
            optimiser.zero_grad()
        yield


def _decent_dp(world: World, steps: int) -> list[float]:
    """Return the seconds of each step of Decent-DP in this process."""
    from decent_dp.ddp import DecentralizedDataParallel

    lab = _lab(method="d-adam", inner_steps=steps)
    model = DecentralizedDataParallel(
        lab.model, lambda named: torch.optim.Adam([p for _, p in named], lr=LR), topology="ring"
    )
    return _timed(_steps(model.train(), None, lab, world.rank), steps)


def _ours(world: World, steps: int) -> list[float]:
    """Return the seconds of each inner step of this lab in this process."""
    lab = _lab(world, method="d-adam", inner_steps=steps)
    return _timed(train(lab.plan), steps)


PROCESSES: dict[str, Callable[[World, int], list[float]]] = {"decent-dp": _decent_dp, "ours": _ours}


def main() -> None:
    """Run one process of a measurement."""
    with joined() as world:
        taken = pick(PROCESSES, sys.argv[1], "name")(world, int(sys.argv[2]))
        if world.rank == 0:
            print(json.dumps(taken), flush=True)


if __name__ == "__main__":
    main()
