"""A time axis: what a run would take on clients with links of a given speed, from its plan alone.

Synchronous gossip: a client computes its step, sends the active block to each neighbour in turn over its own uplink, and
goes on when all that it hears has come. A model: no other traffic, no lost packets, no headers (7% of a TCP stream), no
processor shared with the network. `deca-lab bench network` sets it beside a real network.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from deca_lab.algorithm.loop import Plan
from deca_lab.errors import BadInput, check
from deca_lab.lab.ledger import mixings


class Network(NamedTuple):
    """Seconds of one inner step of each client (N,), bytes a second of each uplink (N,), seconds of latency of a message."""

    compute: np.ndarray
    uplink: np.ndarray
    latency: float


class Clock(NamedTuple):
    """When each client has done each inner step, (steps + 1, N) seconds from the start, and of these its computing."""

    done: np.ndarray
    computing: np.ndarray

    @property
    def seconds(self) -> float:
        """Seconds until the last client is done."""
        return float(self.done[-1].max())

    @property
    def waiting(self) -> float:
        """The share of their time in which the clients send, or wait for others; on average."""
        return 1 - float((self.computing[-1] / self.done[-1]).mean())


def network(
    clients: int,
    seconds: float,
    mbit: float,
    latency: float,
    slow: Mapping[int, float] | None = None,
) -> Network:
    """Return equal clients and links, `mbit` in megabits a second, but for those that are so many times `slow`er in both.

    Raises BadInput.
    """
    check(0 < seconds < float("inf"), "seconds", seconds, "greater than 0, and finite")
    check(mbit >= 1e-6, "mbit", mbit, "0.000001 or more")  # below, seconds overflow
    check(0 <= latency < float("inf"), "latency", latency, "0 or more, and finite")
    factor = np.ones(clients)
    for client, times in (slow or {}).items():
        fits = 0 <= client < clients and 0 < times < float("inf")
        allowed = f"CLIENT@TIMES, of a client from 0 to {clients - 1}"
        check(fits, "slow", f"{client}@{times:g}", allowed)
        factor[client] = times
    return Network(seconds * factor, mbit * 1e6 / 8 / factor, latency)


def slower(text: str) -> dict[int, float]:
    """Return {3: 4.0} of "3@4": client 3 is four times slower."""
    try:
        pairs = [part.partition("@") for part in text.split(",") if part.strip()]
        times = [(int(client), float(factor)) for client, _, factor in pairs]
    except ValueError:
        allowed = "CLIENT@TIMES, such as 3@4, 5@2"
        raise BadInput(f"slow = {text!r} cannot be used: it must be {allowed}") from None
    check(len(dict(times)) == len(times), "slow", text, "each client once")
    return dict(times)


def clock(plan: Plan, net: Network) -> Clock:
    """Return the time line of a plan on a network.

    A client that is away neither computes nor sends. A straggler computes, and skips mixings.
    """
    shape, traffic = (plan.steps + 1, plan.topology.n), dict(mixings(plan))
    done, computing = np.zeros(shape), np.zeros(shape)
    for s in range(plan.steps):
        own = net.compute.copy()
        own[plan.channel.absent(s)] = 0.0
        computing[s + 1] = computing[s] + own
        ready = done[s] + own
        done[s + 1] = _mixed(ready, plan.channel.links, traffic[s], net) if s in traffic else ready
    return Clock(done, computing)


def _mixed(ready: np.ndarray, links: np.ndarray, sends: np.ndarray, net: Network) -> np.ndarray:
    """Return when each client (N,) has mixed, of when it was ready and the bytes (E,) along each link (E, 2)."""
    hear, heard = links[sends > 0].T
    whole = np.bincount(links[:, 1], sends, len(ready))
    arrives = ready + whole / net.uplink + net.latency
    mixed = np.where(whole > 0, np.maximum(ready, arrives - net.latency), ready)
    np.maximum.at(mixed, hear, arrives[heard])
    return mixed
