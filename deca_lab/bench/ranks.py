"""Processes of this machine, a rank each, that run a config as often as they are asked, and say what each time took."""

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO

import torch

from deca_lab.algorithm.loop import Plan, train
from deca_lab.errors import PeerLost
from deca_lab.lab.prepare import Lab, prepare
from deca_lab.network.processes import World, gathered, joined, summed
from deca_lab.runconfig import RunConfig, from_mapping

CARD = "lan"  # what a rank with a network card of its own calls it
CONFIG = RunConfig(
    model="small",
    corpus="markov",
    clients=4,
    context=64,
    batch=1,
    rounds=1,
    inner_steps=2,
    eval_windows=1,
    device="cpu",
)  # messages of 0.4 to 0.8 MB, and of 1 kB for the last norm
Ranks = list["subprocess.Popen[bytes]"]


@contextmanager
def started(
    prefixes: Sequence[Sequence[str]], address: str = "127.0.0.1", **more: str
) -> Iterator[Ranks]:
    """Start a process behind each prefix, with the environment that torchrun would give it: no GPU, one thread.

    `address` is that of rank 0; `more` variables of the environment. All end with the context.
    """
    world = {
        "LOCAL_RANK": "0",
        "WORLD_SIZE": str(len(prefixes)),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(_free_port()),
    }
    here = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **more}
    pipe, words = subprocess.PIPE, [sys.executable, "-m", "deca_lab.bench.ranks"]
    with ExitStack() as stack:
        ranks = []
        for rank, prefix in enumerate(prefixes):
            own = {**os.environ, **world, **here, "RANK": str(rank)}
            one = subprocess.Popen(
                [*prefix, *words], bufsize=0, stdin=pipe, stdout=pipe, stderr=pipe, env=own
            )
            ranks.append(stack.enter_context(one))
            stack.callback(one.kill)
        yield ranks


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        port: int = free.getsockname()[1]
        return port


def asked(ranks: Ranks, config: RunConfig, repeats: int) -> list[dict[str, float]]:
    """Have all ranks run a config so often; return what rank 0 says of each time, or raise PeerLost where a rank fails."""
    answer = ranks[0].stdout
    assert answer is not None
    with suppress(BrokenPipeError):
        for one in ranks:
            assert one.stdin is not None
            one.stdin.write(json.dumps([asdict(config), repeats]).encode() + b"\n")
        while not _there(answer, 0.2) and all(one.poll() is None for one in ranks):
            pass
    reply = answer.readline() if _there(answer, 0.0) else b""
    if not reply:
        raise PeerLost(_failure(ranks))
    turns: list[dict[str, float]] = json.loads(reply)
    return turns


def _there(pipe: IO[bytes], seconds: float) -> bool:
    return bool(select.select([pipe], [], [], seconds)[0])


def _failure(ranks: Ranks) -> str:
    """Return which rank has failed, and the last line of what it wrote."""
    for rank, one in enumerate(ranks):
        if one.poll():
            words = one.stderr.read().decode().strip() if one.stderr is not None else ""
            return f"rank {rank} of {len(ranks)} ended with code {one.returncode}: {(words or 'without a word').splitlines()[-1]}"
    return f"one of {len(ranks)} ranks is gone"


def main() -> None:
    """Be one rank: a config and a number of repeats a line, as JSON; rank 0 answers with what each took."""
    with joined() as ranks:
        for line in sys.stdin:
            knobs, repeats = json.loads(line)
            lab = prepare(from_mapping(knobs), ranks.of(knobs["clients"]))
            turns = [_turn(lab) for _ in range(repeats)]
            if ranks.rank == 0:
                print(json.dumps(turns), flush=True)


def _turn(lab: Lab) -> dict[str, float]:
    """Run the plan without its mixings, then as it is; return, on rank 0, what that took, and the bytes all cards sent."""
    plan, world = lab.plan, lab.world
    unmixed = _times(world, plan._replace(recipe=plan.recipe._replace(mix_every=plan.steps + 1)))
    before = _wire()
    began, ended = _times(world, plan)
    _meet(world)  # all that was sent has come
    mine = world.mine.stop - world.mine.start
    row = [(unmixed[1] - unmixed[0]) / plan.steps, began, ended, (_wire() - before) / mine]
    rows = torch.tensor([row] * mine, dtype=torch.float64)  # one a client, as all that is gathered
    computing, starts, ends, wire = gathered(world, rows).unbind(1)
    return {
        "computing": float(computing.mean()),
        "seconds": float(ends.max() - starts.min()),
        "wire": float(wire.sum()),
    }


def _times(world: World, plan: Plan) -> tuple[float, float]:
    """Return when this rank began a plan, together with the others, and when it was done, by the machine's one clock."""
    steps = train(plan)
    _meet(world)
    began = time.perf_counter()
    for _ in steps:
        pass
    return began, time.perf_counter()


def _meet(world: World) -> None:
    summed(world, torch.zeros(1))


def _wire() -> int:
    """Return the bytes that this rank's own card has sent, headers and all; 0 where it has none."""
    sent = Path(f"/sys/class/net/{CARD}/statistics/tx_bytes")
    return int(sent.read_text()) if sent.exists() else 0


if __name__ == "__main__":
    main()
