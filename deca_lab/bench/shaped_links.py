"""The clock beside a real network: a run over links that the kernel slows down, between network namespaces of this machine.

Each rank sits in a namespace with one network card, joined to a bridge in one more namespace: the machine's own network is
left alone. A token bucket holds back what a card sends, and nothing holds back what it receives, as in clock.py. Here there
are TCP's headers and acknowledgements too, Gloo's threads, and ranks that share this machine's cores.
"""

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from itertools import count
from statistics import median
from typing import NamedTuple

from deca_lab.bench.ranks import CARD, CONFIG, Ranks, asked, started
from deca_lab.errors import BadInput, check
from deca_lab.lab.clock import clock, network
from deca_lab.lab.ledger import traffic
from deca_lab.lab.prepare import prepare
from deca_lab.runconfig import RunConfig

CASES = tuple((graph, mbit) for graph in ("ring", "star") for mbit in (20.0, 50.0, 200.0, math.inf))
REPEATS = 3
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
            turns = asked(ranks, one, repeats + 1)[1:]
            computing, seconds, wire = (
                _median(turns, name) for name in ("computing", "seconds", "wire")
            )
            predicted = clock(plan, network(config.clients, computing, mbit, latency)).seconds
            speed = "unshaped" if mbit == math.inf else f"{mbit:g} Mbit/s"
            case = f"{graph} of {config.clients}, {speed}, {1e3 * latency:g} ms"
            yield Compared(case, predicted, seconds, int(traffic(plan).sum()), int(wire))


def _median(turns: Sequence[Mapping[str, float]], name: str) -> float:
    return median(turn[name] for turn in turns)


def _ranks(names: Sequence[str]) -> AbstractContextManager[Ranks]:
    """Start a process in each namespace."""
    prefixes = [("ip", "netns", "exec", name) for name in names]
    return started(prefixes, address(0), GLOO_SOCKET_IFNAME=CARD)
