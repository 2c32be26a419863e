"""One rank of three dies at every inner step: the others end in a line, and three ranks go on to the bits of an unbroken run."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from harness import CALM, CONFIG, bits
from ports import free_port

from deca_lab.lab import history

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2000),
    pytest.mark.skipif(sys.platform == "win32", reason="forks"),
]

THREE = replace(CONFIG, clients=3)
SERVER = """
import json, os, signal, sys, warnings
from pathlib import Path
from deca_lab.errors import PeerLost
from deca_lab.lab import runs
from deca_lab.network.processes import joined
from deca_lab.runconfig import RunConfig

warnings.simplefilter("ignore")
rank, place = int(sys.argv[1]), Path(sys.argv[2])
config, lives = RunConfig(**json.loads(sys.argv[3])), json.loads(sys.argv[4])


def life(folder, dies, step):
    def watch(done, total, known):
        if dies == rank and done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    with joined() as world:
        if (place / folder / "config.json").exists():
            runs.resume_in(world, place / folder, watch)
        else:
            runs.run_in(world, config, place / folder, watch)


runs.prepare(config)  # imports all that a life needs
for port, *asked in lives:  # each in a process of its own
    child = os.fork()
    if child == 0:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, WORLD_SIZE="3", RANK=str(rank))
        try:
            life(*asked)
            code = 0
        except PeerLost as lost:
            code = 1 if "\\n" not in str(lost) else 3
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            code = 2
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def lived(place, lives):
    """Let three ranks live all these lives (folder, rank that dies, step), and return each one's three exit codes."""
    given = json.dumps([[free_port(), *life] for life in lives])
    words = [str(place), json.dumps(asdict(THREE)), given]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", SERVER, str(rank), *words],
            env=CALM,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    said = [rank.communicate(timeout=1800) for rank in ranks]
    codes = [list(map(int, out.split())) for out, _ in said]
    assert [len(each) for each in codes] == [len(lives)] * 3, [err[-2000:] for _, err in said]
    return list(zip(*codes, strict=True))


def test_one_rank_of_three_that_dies_at_any_step_costs_no_bit(whole, tmp_path):
    steps = len(history.load(whole).train)  # as many as of two clients
    lives = [["unbroken", -1, 0]]
    for step in range(1, steps + 1):
        folder = f"killed-{step}"
        lives += [[folder, step % 3, step], [folder, -1, 0]]
    codes = lived(tmp_path, lives)
    wanted = bits(tmp_path / "unbroken")
    for (folder, dies, _), ended in zip(lives, codes, strict=True):
        due = [0, 0, 0] if dies < 0 else [1, 1, 1]
        if dies >= 0:
            due[dies] = -9
        assert list(ended) == due, (folder, ended)
    for step in range(1, steps + 1):
        assert bits(tmp_path / f"killed-{step}") == wanted, step
        assert not list(Path(tmp_path / f"killed-{step}").glob(".*.half*"))
