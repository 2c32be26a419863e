"""A run over two network namespaces that only WireGuard joins: the same numbers, and nothing readable on the line.

Needs root, Linux, and Debian's packages `wireguard-go` and `wireguard-tools`; skipped, with the reason, without them. What it
does is the recipe of course/docs/several_machines.md, with two namespaces in the place of two machines.
"""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
from command import SMALL, options

from deca_lab.lab import checkpoint, runs
from deca_lab.network.meeting import SECRET
from deca_lab.runconfig import RunConfig

KNOBS = {**SMALL, "clients": 2, "dtype": "float64", "device": "cpu", "eval_share": 1}
ENDS = {  # name: address in the tunnel, UDP port outside
    "deca-lab-1": ("10.97.44.1", 51897),
    "deca-lab-2": ("10.97.44.2", 51898),
}
TOOLS = ("wireguard-go", "wg", "ip")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2000),
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0 or not all(map(shutil.which, TOOLS)),
        reason=f"needs root and {', '.join(TOOLS)}",
    ),
]


def done(*words, given=""):
    command = [*map(str, words)]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, input=given
    ).stdout.strip()


@pytest.fixture
def tunnel(tmp_path):
    """Two namespaces, each with one end of a tunnel whose packets cross this namespace's loopback."""
    secret = {name: done("wg", "genkey") for name in ENDS}
    public = {name: done("wg", "pubkey", given=key) for name, key in secret.items()}
    running, made = [], []
    try:
        for name, (_, port) in ENDS.items():
            other = next(n for n in ENDS if n != name)
            address, outside = ENDS[other]
            (tmp_path / name).write_text(secret[name])
            running.append(
                subprocess.Popen(
                    ["wireguard-go", "-f", name],
                    stderr=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                )
            )
            waited(lambda name=name: name in done("ip", "link"))
            peer = ["peer", public[other], "allowed-ips", f"{address}/32"]
            peer += ["endpoint", f"127.0.0.1:{outside}"]
            key = ["private-key", tmp_path / name]
            done("wg", "set", name, "listen-port", port, *key, *peer)
            done("ip", "netns", "add", name)
            made.append(name)
            done("ip", "link", "set", name, "netns", name)
            inside = ["ip", "-n", name]
            done(*inside, "addr", "add", f"{ENDS[name][0]}/24", "dev", name)
            for link in ("lo", name):
                done(*inside, "link", "set", link, "up")
        yield
    finally:
        for one in running:
            one.terminate()
            one.wait(60)
        for name in made:
            done("ip", "netns", "del", name)


def waited(known):
    end = time.monotonic() + 60
    while not known():
        assert time.monotonic() < end
        time.sleep(0.05)


class Line:
    """All that crosses this namespace's loopback while the body of `with` runs."""

    def __enter__(self):
        self.words, self.ended = bytearray(), threading.Event()
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
        self.socket.bind(("lo", 0))
        self.socket.settimeout(0.2)
        self.reader = threading.Thread(target=self.read)
        self.reader.start()
        return self

    def read(self):
        while not self.ended.is_set():
            try:
                self.words += self.socket.recv(2**16)
            except TimeoutError:
                continue

    def __exit__(self, *given):
        self.ended.set()
        self.reader.join()
        self.socket.close()


def over_the_tunnel(folder):
    """Run two processes, one in each namespace, as torchrun starts them on two machines."""
    place = {"MASTER_ADDR": ENDS["deca-lab-1"][0], "MASTER_PORT": "29500", "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "deca_lab", "run", *options(out=folder, **KNOBS)]
    started = [
        subprocess.Popen(
            ["ip", "netns", "exec", name, *command],
            env={**os.environ, **place, "RANK": str(rank), SECRET: "s", "GLOO_SOCKET_IFNAME": name},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for rank, name in enumerate(ENDS)
    ]
    for one in started:
        err = one.communicate(timeout=900)[1]
        assert one.returncode == 0, err[-2000:]


def pieces(folder):
    """Return some numbers of the second client's model: rank 1 sent them to rank 0 as they are."""
    state, _ = checkpoint.load(folder / "checkpoint.safetensors")
    row = state.blocks[0][1].numpy().tobytes()
    return [row[at : at + 64] for at in range(0, len(row) - 64, 4096)]


def test_a_run_through_wireguard_is_the_same_run_and_cannot_be_read_on_the_line(tunnel, tmp_path):
    alone = runs.run(RunConfig(**KNOBS))
    with Line() as line:
        over_the_tunnel(tmp_path / "run")
    many = pd.read_csv(tmp_path / "run" / "metrics.csv")
    np.testing.assert_allclose(many["test_loss"], alone.metrics["test_loss"], rtol=1e-9)
    sent = int(many["bytes_sent"].iloc[-1])
    assert len(line.words) > sent  # it did cross the line
    found = [piece for piece in pieces(tmp_path / "run") if piece in line.words]
    assert found == []
