"""The clock beside a real network: a run over links that the kernel slows down, between network namespaces of this machine.

Each rank sits in a namespace with one network card, joined to a bridge in one more namespace: the machine's own network is
left alone. A token bucket holds back what a card sends, and nothing holds back what it receives, as in clock.py. Here there
are TCP's headers and acknowledgements too, Gloo's threads, and ranks that share this machine's cores.
"""

import json
import math
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from statistics import median
from typing import IO, NamedTuple

import torch

from deca_lab.algorithm.loop import Plan, train
from deca_lab.errors import BadInput, PeerLost, check
from deca_lab.lab.clock import clock, network
from deca_lab.lab.ledger import traffic
from deca_lab.lab.prepare import Lab, prepare
from deca_lab.network.processes import World, gathered, joined, summed
from deca_lab.runconfig import RunConfig, from_mapping

CARD = "lan"  # what every rank calls its network card
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
CASES = tuple((graph, mbit) for graph in ("ring", "star") for mbit in (20.0, 50.0, 200.0, math.inf))
REPEATS = 3
Ranks = list["subprocess.Popen[bytes]"]
_numbers = count()


class Compared(NamedTuple):
    """One case: the clock's seconds and the network's for the same steps, the ledger's bytes and the network cards'."""

    case: str
    predicted: float
    measured: float
    ledger: int
    wire: int


def possible() -> str:
    """Return why there can be no shaped links here, or an empty text where there can be: they are tried."""
    try:
        with links(2) as names:
            shape(names, 10.0)
            _tell("ip", "netns", "exec", names[0], "true")
    except BadInput as error:
        return str(error)
    return ""


def _lacking() -> str:
    """Return what is missing for namespaces, or an empty text."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    missing = [command for command in ("ip", "tc") if shutil.which(command) is None]
    if missing:
        return f"iproute2 is not installed: there is no command {' and no '.join(missing)}"
    return "" if os.geteuid() == 0 else "only root may make network namespaces"


@contextmanager
def links(ranks: int, congestion: str = "cubic") -> Iterator[list[str]]:
    """Yield the names of network namespaces, one a rank; what a card sends is not yet held back.

    Rank r has the address `address(r)`. `congestion`: TCP's way to find its rate, Linux's usual one or another that the
    kernel has. All is removed at the end, however that comes. Raises BadInput where it cannot be done.
    """
    check(1 <= ranks <= 250, "ranks", ranks, "from 1 to 250")
    why = _lacking()
    if why:
        raise BadInput(f"no links between namespaces here: {why}")
    stem = f"deca-{os.getpid()}-{next(_numbers)}"
    names, bridge = [f"{stem}-{rank}" for rank in range(ranks)], f"{stem}-bridge"
    try:
        _tell("ip", "netns", "add", bridge)
        _tell("ip", "-n", bridge, "link", "add", "bridge", "type", "bridge")
        _tell("ip", "-n", bridge, "link", "set", "bridge", "up")
        for rank, name in enumerate(names):
            _plugged(name, bridge, rank, congestion)
        yield names
    finally:
        for name in (*names, bridge):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def address(rank: int) -> str:
    """Return the address of a rank, in its namespace."""
    return f"10.7.0.{rank + 1}"


def _plugged(name: str, bridge: str, rank: int, congestion: str) -> None:
    """Make a rank's namespace, with a cable to the bridge."""
    plug = f"plug{rank}"
    _tell("ip", "netns", "add", name)
    _tell(
        "ip", "-n", bridge, "link", "add", plug, "type", "veth", "peer", "name", CARD, "netns", name
    )
    _tell("ip", "-n", bridge, "link", "set", plug, "master", "bridge", "up")
    _tell("ip", "-n", name, "address", "add", f"{address(rank)}/24", "dev", CARD)
    for card in ("lo", CARD):
        _tell("ip", "-n", name, "link", "set", card, "up")
    _tell(
        "ip",
        "-n",
        name,
        "route",
        "replace",
        "10.7.0.0/24",
        "dev",
        CARD,
        "src",
        address(rank),
        "congctl",
        congestion,
    )


def shape(names: Sequence[str], mbit: float, latency: float = 0.0) -> None:
    """Let each namespace's card send `mbit` megabits a second at most (math.inf: no limit), each packet `latency` seconds late.

    The token bucket holds 2 ms of the rate, or five packets: 6% of a large message at most. Raises BadInput, also for a latency
    where the kernel has no netem.
    """
    check(mbit > 0, "mbit", mbit, "greater than 0")
    check(latency >= 0, "latency", latency, "0 or more")
    bucket = max(5 * 1514, round(mbit * 1e6 / 8 * 0.002)) if mbit < math.inf else 0
    for name in names:
        subprocess.run(
            ["tc", "-n", name, "qdisc", "del", "dev", CARD, "root"],
            capture_output=True,
            check=False,
        )
        add, where = ["tc", "-n", name, "qdisc", "add", "dev", CARD], ["root"]
        if latency:
            _delay(add, latency)
            where = ["parent", "1:1"]
        if bucket:
            rate, queue = f"{round(1e6 * mbit)}bit", f"{2**20 + 10 * bucket}b"
            _tell(*add, *where, "tbf", "rate", rate, "burst", f"{bucket}b", "limit", queue)


def _delay(add: Sequence[str], latency: float) -> None:
    try:
        _tell(
            *add,
            "root",
            "handle",
            "1:",
            "netem",
            "delay",
            f"{round(1e6 * latency)}us",
            "limit",
            "100000",
        )
    except BadInput as error:
        raise BadInput(
            f"latency = {latency:g} cannot be used: it must be 0 where the kernel has no netem ({error})"
        ) from None


def _tell(*words: str) -> None:
    """Run a command; raise BadInput with its own words where it fails."""
    try:
        subprocess.run(words, capture_output=True, check=True, text=True)
    except subprocess.CalledProcessError as error:
        raise BadInput(
            f"{' '.join(words)}: {(error.stderr.strip() or 'failed').splitlines()[-1]}"
        ) from None


def measured(
    cases: Sequence[tuple[str, float]] = CASES,
    config: RunConfig = CONFIG,
    latency: float = 0.0,
    repeats: int = REPEATS,
    congestion: str = "cubic",
) -> Iterator[Compared]:
    """Yield for each (topology, megabits a second) what a config's inner steps take, one client a process: medians.

    Start-up, evaluation and a first repeat do not count; `latency` in seconds. The clock is given the seconds of a step that
    the same processes take, all at once, without mixing. Raises BadInput where links cannot be made, and PeerLost where a
    process fails.
    """
    check(repeats >= 1, "repeats", repeats, "1 or more")
    configs = [replace(config, topology=graph) for graph, _ in cases]
    plans = [prepare(one).plan for one in configs]
    with links(config.clients, congestion) as names, _ranks(names) as ranks:
        for (graph, mbit), one, plan in zip(cases, configs, plans, strict=True):
            shape(names, mbit, latency)
            turns = _asked(ranks, one, repeats + 1)[1:]
            computing, seconds, wire = (
                _median(turns, name) for name in ("computing", "seconds", "wire")
            )
            predicted = clock(plan, network(config.clients, computing, mbit, latency)).seconds
            speed = "unshaped" if mbit == math.inf else f"{mbit:g} Mbit/s"
            case = f"{graph} of {config.clients}, {speed}, {1e3 * latency:g} ms"
            yield Compared(case, predicted, seconds, int(traffic(plan).sum()), int(wire))


def _median(turns: Sequence[Mapping[str, float]], name: str) -> float:
    return median(turn[name] for turn in turns)


@contextmanager
def _ranks(names: Sequence[str]) -> Iterator[Ranks]:
    """Start a process in each namespace, with the environment that torchrun would give it: no GPU, one thread."""
    world = {
        "LOCAL_RANK": "0",
        "WORLD_SIZE": str(len(names)),
        "MASTER_ADDR": address(0),
        "MASTER_PORT": "29500",
    }
    here = {"GLOO_SOCKET_IFNAME": CARD, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment = {**os.environ, **world, **here}
    pipe = subprocess.PIPE
    with ExitStack() as stack:
        ranks = []
        for rank, name in enumerate(names):
            words = [
                "ip",
                "netns",
                "exec",
                name,
                sys.executable,
                "-m",
                "deca_lab.bench.shaped_links",
            ]
            own = {**environment, "RANK": str(rank)}
            started = subprocess.Popen(
                words, bufsize=0, stdin=pipe, stdout=pipe, stderr=pipe, env=own
            )
            ranks.append(stack.enter_context(started))
            stack.callback(ranks[-1].kill)
        yield ranks


def _asked(ranks: Ranks, config: RunConfig, repeats: int) -> list[dict[str, float]]:
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
    """Be one rank of `measured`: a config and a number of repeats a line, as JSON; rank 0 answers with what each took."""
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
    row = [(unmixed[1] - unmixed[0]) / plan.steps, began, ended, _wire() - before]
    computing, starts, ends, wire = gathered(
        world, torch.tensor([row], dtype=torch.float64)
    ).unbind(1)
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
    """Return the bytes that this rank's card has sent, headers and all."""
    return int(Path(f"/sys/class/net/{CARD}/statistics/tx_bytes").read_text())


if __name__ == "__main__":
    main()
