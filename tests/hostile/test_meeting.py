"""Where processes meet: environments that say nonsense, secrets that differ, a scanner on every port."""

import os
import socket
import subprocess
import sys
import time

import psutil
import pytest
from cases import cases
from harness import CALM, outcome, run_words
from ports import free_port

from deca_lab.network import meeting

SETTINGS = [
    ({"WORLD_SIZE": "abc"}, "WORLD_SIZE = 'abc'"),
    ({"WORLD_SIZE": "0"}, "WORLD_SIZE = '0'"),
    ({"WORLD_SIZE": "-1"}, "WORLD_SIZE"),
    ({"WORLD_SIZE": "9" * 40}, "WORLD_SIZE"),
    ({"WORLD_SIZE": "²"}, "WORLD_SIZE"),
    ({"WORLD_SIZE": ""}, "WORLD_SIZE"),
    ({"WORLD_SIZE": "2"}, "RANK"),
    ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_PORT"),
    ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "29500"}, "MASTER_ADDR"),
    ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost"}, "MASTER_PORT"),
    ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "abc"}, "MASTER_PORT = 'abc'"),
    ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "70000", "MASTER_ADDR": "x"}, "MASTER_PORT"),
    ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_PORT": "29500", "MASTER_ADDR": "x"}, "RANK = 2"),
    ({"WORLD_SIZE": "2", "RANK": "-1", "MASTER_PORT": "29500", "MASTER_ADDR": "x"}, "RANK"),
]


@cases(("given", "words"), SETTINGS)
def test_an_environment_that_says_nonsense_is_one_line(tmp_path, capsys, given, words):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
            patch.delenv(name, raising=False)
        for name, value in given.items():
            patch.setenv(name, value)
        assert outcome(capsys, *run_words(tmp_path / "run"), says=words) == "refused"
    assert not (tmp_path / "run").exists()


def test_a_secret_answers_these_nonces_alone():
    nonces = [b"a" * 32, b"b" * 32]
    mine = meeting._answer(b"secret", 0, nonces)
    assert mine == meeting._answer(b"secret", 0, nonces)
    others = [(b"Secret", 0, nonces), (b"", 0, nonces), (b"secret", 1, nonces)]
    others += [(b"secret", 0, nonces[::-1]), (b"secret", 0, [b"c" * 32, nonces[1]])]
    assert mine not in [meeting._answer(*given) for given in others]


RANK = """
import sys, time, torch
from deca_lab.errors import BadInput
from deca_lab.network.processes import joined, summed
time.sleep(float(sys.argv[1]))
try:
    with joined() as world:
        for _ in range(10):
            x = summed(world, torch.ones(1))
            time.sleep(float(sys.argv[1]) / 20)
        print(int(x))
except BadInput as error:
    print(error)
"""


def ranks(secrets, late=0.0):
    """Start a rank for each secret; None is none at all."""
    place = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
        "WORLD_SIZE": str(len(secrets)),
    }
    return [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(late * rank)],
            env={**CALM, **place, "RANK": str(rank)}
            | ({} if secret is None else {meeting.SECRET: secret}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, secret in enumerate(secrets)
    ]


def said_by(started):
    return [one.communicate(timeout=300) for one in started]


@pytest.mark.slow
def test_one_secret_meets_and_two_do_not():
    both, alike = said_by(ranks(["s", "t", "s"])), said_by(ranks(["s", "s"]))
    for rank, (out, err) in enumerate(both):
        others = "0, 2" if rank == 1 else "1"
        assert f"{meeting.SECRET} of rank {rank} is not that of rank {others}" in out, err
    assert [out.strip() for out, _ in alike] == ["2", "2"]
    for out, err in said_by(ranks(["s", None])):
        assert "every process of a run needs the same one" in out, err


def knocked(numbers, garbage):
    """Connect to every port on which these processes listen, and leave words there; return the open connections."""
    left = []
    for number in numbers:
        try:
            listening = psutil.Process(number).net_connections("inet")
        except psutil.Error:
            continue
        for one in listening:
            if one.status == psutil.CONN_LISTEN:
                address = "127.0.0.1" if one.laddr.ip in ("::", "0.0.0.0") else one.laddr.ip
                for words in garbage:
                    try:
                        left.append(socket.create_connection((address, one.laddr.port), timeout=1))
                        left[-1].sendall(words)
                    except OSError:
                        continue
    return left


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="where ports are seen")
def test_a_scanner_on_every_port_neither_hangs_nor_enters():
    """Before the other rank comes, and while they talk: connections with and without words, kept open."""
    garbage = [b"", b"GET / HTTP/1.1\r\n\r\n", os.urandom(64), bytes(4096), b"\xff" * 4096]
    started, left, end = ranks(["s", "s"], late=4.0), [], time.monotonic() + 120
    while any(one.poll() is None for one in started) and time.monotonic() < end:
        left += knocked([one.pid for one in started], garbage)
        time.sleep(0.3)
    assert [out.strip() for out, _ in said_by(started)] == ["2", "2"]
    assert len(left) > 10, "the scanner found no port"
    for one in left:
        one.close()
