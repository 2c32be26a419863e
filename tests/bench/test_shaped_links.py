"""Links that the kernel slows down: namespaces come and go, bytes go over the wire, what cannot be done is reported. No times."""

import math
import os
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest
from command import SMALL

from deca_lab.bench import shaped_links as sh
from deca_lab.errors import BadInput, PeerLost
from deca_lab.lab.clock import clock, network
from deca_lab.lab.ledger import traffic
from deca_lab.lab.prepare import prepare
from deca_lab.runconfig import RunConfig

CONFIG = RunConfig(**{**SMALL, "clients": 3, "device": "cpu"})


@pytest.fixture(scope="module")
def rights():
    """Skip where there can be no namespaces."""
    why = sh.possible()
    if why:
        pytest.skip(why)


def told(*words):
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def namespaces():
    """Return the names of this process's namespaces."""
    return sorted(
        line.split()[0]
        for line in told("ip", "netns", "list").splitlines()
        if f"deca-{os.getpid()}-" in line
    )


def queues(names):
    return [told("tc", "-n", name, "qdisc", "show", "dev", sh.CARD) for name in names]


def broken(error, before):
    """Make namespaces, look at them, and break."""
    with sh.links(3) as names, sh.links(2) as others:  # two at once do not meet
        assert sorted([*names, *others]) == [
            name for name in namespaces() if not name.endswith("bridge")
        ]
        assert told("ip", "-brief", "link") == before  # the machine's network is as it was
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_namespaces_come_and_go_whatever_happens(rights, error):
    before = told("ip", "-brief", "link")
    with pytest.raises(error):
        broken(error, before)
    assert not namespaces()
    with sh.links(1):
        assert len(namespaces()) == 2
    assert not namespaces()


def test_half_made_links_are_removed(rights):
    with pytest.raises(BadInput, match="congctl no-such"), sh.links(2, "no-such"):
        pass
    assert not namespaces()


def test_what_a_card_sends_is_held_back_and_let_go_again(rights):
    with sh.links(2) as names:
        for mbit in (20.0, 200.0):
            sh.shape(names, mbit)
            assert all("tbf" in held and f"rate {mbit:g}Mbit" in held for held in queues(names))
        sh.shape(names, math.inf)
        assert not any("tbf" in held for held in queues(names))


def test_latency_is_real_or_refused(rights):
    with sh.links(2) as names:
        try_it = [
            "tc",
            "-n",
            names[0],
            "qdisc",
            "add",
            "dev",
            "lo",
            "root",
            "netem",
            "delay",
            "1ms",
        ]
        there = subprocess.run(try_it, capture_output=True, check=False).returncode == 0
        with nullcontext() if there else pytest.raises(BadInput, match="no netem"):
            sh.shape(names, 20.0, 0.05)
        assert all(("tbf" in held and "netem" in held) == there for held in queues(names))


@pytest.mark.slow
def test_the_bytes_of_the_ledger_go_over_the_wire_and_a_rank_that_dies_is_told(rights):
    two = replace(CONFIG, clients=2)
    cases = sh.measured([("path", 50.0), ("complete", math.inf)], two, repeats=1)
    found = next(cases)
    assert found.case == "path of 2, 50 Mbit/s, 0 ms"
    assert min(found.predicted, found.measured) > 0
    assert found.ledger == traffic(prepare(replace(two, topology="path")).plan).sum()
    assert (
        1 < found.wire / found.ledger < 1.5
    )  # 66 bytes of headers in 1,514, acknowledgements; what is
    # sent again on a busy machine; not twice
    last = next(name for name in namespaces() if name.endswith("-1"))
    os.kill(int(told("ip", "netns", "pids", last)), signal.SIGKILL)
    with pytest.raises(PeerLost, match=r"of 2 ended with code"):
        next(cases)
    assert not namespaces()


def test_the_clock_is_given_what_the_processes_took(monkeypatch):
    """What the ranks say is made up here; the first repeat does not count."""
    turns = [{"computing": c, "seconds": 10 * c, "wire": 100 * c} for c in (9.0, 1.0, 4.0, 2.0)]
    monkeypatch.setattr(sh, "links", lambda ranks, congestion: nullcontext("abc"))
    monkeypatch.setattr(sh, "_ranks", nullcontext)
    monkeypatch.setattr(sh, "shape", lambda names, mbit, latency: None)
    monkeypatch.setattr(sh, "asked", lambda ranks, config, repeats: turns[:repeats])
    found = list(sh.measured([("path", 1.0), ("ring", math.inf)], CONFIG, 0.5))
    assert [row.case for row in found] == [
        "path of 3, 1 Mbit/s, 500 ms",
        "ring of 3, unshaped, 500 ms",
    ]
    assert [(row.measured, row.wire) for row in found] == [(20.0, 200)] * 2
    for row, graph, mbit in zip(found, ("path", "ring"), (1.0, 1e15), strict=True):
        plan = prepare(replace(CONFIG, topology=graph)).plan
        assert row.predicted == pytest.approx(clock(plan, network(3, 2.0, mbit, 0.5)).seconds)


@pytest.mark.parametrize(
    ("module", "name", "value", "words"),
    [
        (os, "geteuid", lambda: 1000, "only root may make network namespaces"),
        (shutil, "which", lambda command: None, "no command ip and no tc"),
        (sys, "platform", "darwin", "network namespaces are Linux's"),
    ],
)
def test_what_is_missing_is_reported(monkeypatch, module, name, value, words):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda command: command)
    monkeypatch.setattr(module, name, value)
    assert words in sh.possible()
    with pytest.raises(BadInput, match=words), sh.links(2):
        pass


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sh.links(0).__enter__(), "ranks = 0"),
        (lambda: sh.shape([], 0.0), "mbit = 0.0"),
        (lambda: sh.shape([], 1.0, -1.0), "latency = -1.0"),
        (lambda: next(sh.measured(repeats=0)), "repeats = 0"),
        (lambda: next(sh.measured([("circle", 1.0)], CONFIG)), "unknown topology 'circle'"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(BadInput, match=words):
        call()
