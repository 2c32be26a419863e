"""Clients over processes: loop = stacked = distributed, also with unequal clients a rank; runs, resume, and a rank that dies."""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from command import SMALL, options
from ports import free_port
from reference import SINGLE

from deca_lab.algorithm import moments as mo
from deca_lab.algorithm import optimisers as op
from deca_lab.algorithm.blocks import Block
from deca_lab.algorithm.channel import gossip
from deca_lab.algorithm.gradients import looped
from deca_lab.algorithm.loop import Recipe, plan, train
from deca_lab.algorithm.problems import Problem
from deca_lab.errors import BadInput, PeerLost, Stopped
from deca_lab.lab import checkpoint, runs
from deca_lab.lab.prepare import prepare
from deca_lab.mixing.topology import Topology, topology
from deca_lab.models.factor_mixing import decaf
from deca_lab.network import faults as fl
from deca_lab.network import processes
from deca_lab.network.compression import compressed, compressor
from deca_lab.network.lossy_mixing import lossy
from deca_lab.network.processes import Halo, World, gathered, joined, over, summed, through_server
from deca_lab.runconfig import RunConfig

PLACES = [str(Path(__file__).parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
QUIET = {
    **os.environ,
    "TQDM_DISABLE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join(filter(None, PLACES)),
}
CLIENTS = 7
PATIENCE = 600  # seconds, for what takes some on a quiet machine: a limit, and no measurement
CASES = {  # optimiser, graph, recipe's knobs
    "deca": ("adam", "ring", {}),
    "deca, exponential": ("adam", "exponential", {}),
    "d-adam, rarely mixed": ("adam", "complete", {"mix_every": 3, "keep_moments": True}),
    "sgd, before": ("sgd", "path", {"combine_first": True}),
    "tracking": ("gradient-tracking", "ring", {"keep_moments": True, "mix_all": True}),
    "deca-mixed": ("adam-mixed", "erdos-renyi", {}),
    "deca-predictable": ("adam-predictable", "ring", {"keep_moments": True}),
    "one peer at a time": ("adam", "random-matchings", {}),
    "a server": ("adam", "server", {}),
    "top-k": ("adam", "erdos-renyi", {"compress": "top-k"}),
    "random-k": ("adam-mixed", "ring", {"compress": "random-k"}),
    "quantised": ("adam", "one-peer-exponential", {"compress": "quantised"}),
    "quantised, and much fails": (
        "adam",
        "ring",
        {
            "compress": "quantised",
            "faults": fl.Faults(
                drop=0.2,
                away=(fl.Spell(2, 3, 8),),
                garbage=(fl.Spell(4, 0, 24),),
                stale=0.4,
                delay=2,
                clients=CLIENTS,
                turns=24,
            ),
        },
    ),
    "factors by their product": ("adam", "ring", {"mixing": decaf}),
    "factors by their product, late": (
        "adam",
        "erdos-renyi",
        {"mixing": decaf, "faults": fl.Faults(stale=0.5, delay=2, clients=CLIENTS, turns=24)},
    ),
    "everything fails": (
        "adam-mixed",
        "erdos-renyi",
        {
            "faults": fl.Faults(
                drop=0.2,
                away=(fl.Spell(2, 3, 8),),
                stragglers=((5, 2),),
                garbage=(fl.Spell(4, 0, 24),),
                stale=0.4,
                delay=2,
                noise=0.001,
                clients=CLIENTS,
                turns=24,
            )
        },
    ),
}


def problem(rows, dtype=torch.float64):
    """Return a problem of two tensors, on these clients' rows alone."""
    rng = np.random.default_rng(5)
    A, c = (
        torch.from_numpy(rng.standard_normal(shape)).to(dtype)
        for shape in ((CLIENTS, 5, 5), (CLIENTS, 5))
    )
    start = torch.from_numpy(rng.standard_normal((CLIENTS, 5))).to(dtype)

    def loss(params, batch):
        hessian, wish = batch
        return (hessian @ torch.cat([params["p"], params["q"]]) - wish).square().sum() / 2

    return Problem(
        {"p": start[rows, :2].clone(), "q": start[rows, 2:].clone()},
        loss,
        lambda step: (A[rows], c[rows] + step % 3),
    )


def factors(rows, dtype=torch.float64):
    """Return a problem of one low-rank product, on these clients' rows alone."""
    A, B, wish = (
        torch.from_numpy(np.random.default_rng(6).standard_normal((CLIENTS, *shape))).to(dtype)
        for shape in ((2, 4), (5, 2), (5, 4))
    )

    def loss(params, batch):
        return (params["p.lora_B"] @ params["p.lora_A"] - batch).square().sum() / 2

    start = {"p.lora_A": A[rows].clone(), "p.lora_B": B[rows].clone()}
    return Problem(start, loss, lambda step: wish[rows] + step % 3)


def by_tensor(names):
    return [Block(f"block of {name}", (name,)) for name in names]


def trained(name, world, dtype=torch.float64, engine=None):
    """Return this rank's rows after the run, and the bytes that they received."""
    which, graph, knobs = CASES[name]
    optimiser = op.OPTIMISERS[which](
        op.OptimiserSpec(mo.Adam(), mo.Feedback(mo.printed, mo.raw, 0.9, 0.9))
    )
    knobs = dict(knobs)
    wraps = [lossy(knobs.pop("faults"), 1)] if "faults" in knobs else []
    rule, short = (
        knobs.pop("mixing", gossip),
        compressor(knobs.pop("compress", "none"), 0.5, 3, 1.0),
    )
    graph, task = topology(graph, CLIENTS, seed=1), factors if rule is decaf else problem
    halo = Halo(world, graph) if short and world.size > 1 else None
    wraps += [compressed(short, 0, halo)] if short else []
    task = task(world.mine, dtype)
    blocks = [Block("all", tuple(task.start))] if rule is decaf else by_tensor(task.start)
    carrier = over(world, rule, halo) if world.size > 1 else rule
    recipe = Recipe(2, 6, lambda step: 0.01, optimiser, **knobs)
    if world.size > 1 and graph.served:
        carrier = through_server(world)
    laid = plan(task, blocks, graph, recipe, *wraps, carrier=carrier, site=world.site)
    *_, (state, _) = train(laid, engine=engine) if engine else train(laid)
    return torch.cat(state.blocks, 1), state.sent


@contextmanager
def counted():
    """Yield a list that gets the bytes of every tensor that this rank sends to another."""
    sizes, plain = [], processes._started

    def started(operations):
        sizes.extend(one.tensor.nbytes for one in operations if one.op is dist.isend)
        return plain(operations)

    processes._started = started
    yield sizes
    processes._started = plain


def in_one_rank(place, names):
    """Run these cases in one rank, gathered on rank 0 into files whose names begin with `place`."""
    with joined() as all_ranks:
        world = all_ranks.of(CLIENTS)
        for dtype in (torch.float64, torch.float32):
            for name in names:
                with counted() as letters:
                    x, sent = trained(name, world, dtype)
                x, sent = gathered(world, x), summed(world, torch.from_numpy(sent))
                wire = summed(world, torch.tensor(sum(letters)))
                if world.rank == 0:
                    tables = {"sent": sent.numpy(), "wire": wire.numpy()}
                    np.savez(kept(place, name, dtype), x=x.numpy(), **tables)


def kept(place, name, dtype):
    return f"{place}-{list(CASES).index(name)}-{dtype}.npz"


def main(port, size, place, *names):
    """Be the parent of all ranks: a process each, forked where all is imported already; torchrun would import it in each."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, WORLD_SIZE=size)
    for rank in range(int(size)):
        if os.fork() == 0:
            os.environ["RANK"] = str(rank)
            try:
                in_one_rank(place, names)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
    if any(os.wait()[1] for _ in range(int(size))):
        sys.exit("a rank has failed")


def forked(ranks, place, names):
    """Run these cases in so many processes of a process of its own."""
    command = [sys.executable, __file__, free_port(), str(ranks), str(place), *names]
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    finished(subprocess.Popen(command, env=QUIET, **pipes))


def torchrun(ranks, *words, **more):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(ranks),
        *map(str, words),
    ]
    return subprocess.Popen(
        command, env=QUIET, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **more
    )


def finished(process):
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err[-3000:]
    return out, err


forks = pytest.mark.skipif(sys.platform == "win32", reason="forks")


@pytest.mark.slow
@forks
@pytest.mark.parametrize("ranks", [2, 4])
def test_loop_stacked_and_distributed_are_equal(ranks, tmp_path):
    forked(ranks, tmp_path / "found", CASES)
    for dtype, digits in ((torch.float64, 1e-12), (torch.float32, SINGLE)):
        for name in CASES:
            held = np.load(kept(tmp_path / "found", name, dtype))
            for engine in (None, looped):
                x, sent = trained(name, World(clients=CLIENTS), dtype, engine)
                np.testing.assert_allclose(
                    held["x"], x.numpy(), rtol=digits, atol=digits, err_msg=name
                )
                np.testing.assert_array_equal(held["sent"], sent, err_msg=name)


@pytest.mark.slow
@forks
def test_what_processes_send_is_what_the_ledger_counts(tmp_path):
    """One client a process: every byte of a message goes from one process to another."""
    names = ("deca", "top-k", "random-k", "factors by their product")
    forked(CLIENTS, tmp_path / "found", names)
    for name in names:
        held = np.load(kept(tmp_path / "found", name, torch.float32))
        assert held["wire"] == held["sent"].sum(), name


def test_clients_are_dealt_to_ranks_as_evenly_as_can_be():
    world = World(0, 4, 7)
    assert [world.rows(rank) for rank in range(4)] == [
        slice(0, 2),
        slice(2, 4),
        slice(4, 6),
        slice(6, 7),
    ]
    with pytest.raises(BadInput, match="4 or more"):
        world.of(3)


KNOBS = {
    **SMALL,
    "clients": 5,
    "dtype": "float64",
    "device": "cpu",
    "rounds": 2,
    "eval_every": SMALL["inner_steps"],
}


def command(folder, **knobs):
    return ["-m", "deca_lab", "run", *options(out=folder, **knobs)]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "run"
    runs.run(RunConfig(**KNOBS), folder)
    return folder


@pytest.mark.slow
def test_a_run_over_three_ranks_tells_what_one_process_tells(one_process, tmp_path):
    finished(torchrun(3, *command(tmp_path / "run", **KNOBS)))
    one, many = (pd.read_csv(folder / "metrics.csv") for folder in (one_process, tmp_path / "run"))
    for column in (
        "test_loss",
        "client_test_loss_max",
        "own_loss",
        "gradient_norm",
        "validation_loss",
    ):
        np.testing.assert_allclose(many[column], one[column], rtol=1e-9)
    np.testing.assert_array_equal(many["bytes_sent"], one["bytes_sent"])
    edges = pd.read_csv(tmp_path / "run" / "edges.csv")
    assert (edges["measured"] == edges["predicted"]).all()
    assert (tmp_path / "run" / "report.html").exists()
    said = [
        json.loads((folder / "summary.json").read_text())
        for folder in (one_process, tmp_path / "run")
    ]
    assert said[0]["heterogeneity"]["zeta2"] == pytest.approx(
        said[1]["heterogeneity"]["zeta2"], rel=1e-9
    )


def waited_for(path, process):
    end = time.monotonic() + PATIENCE
    while not path.exists():
        assert process.poll() is None, process.stderr.read()[-3000:]
        assert time.monotonic() < end
        time.sleep(0.02)


def children(process):
    """Return the process numbers of the ranks, rank 0 first."""
    ps = ["ps", "-o", "pid=", "--ppid", str(process.pid), "--sort", "pid"]
    listed = subprocess.run(ps, capture_output=True, text=True, check=True)
    return [int(number) for number in listed.stdout.split()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ps --ppid is Linux's")
def test_a_rank_that_is_killed_stops_the_others_and_the_run_goes_on_from_its_checkpoint(
    one_process, tmp_path
):
    folder, knobs = (
        tmp_path / "run",
        {
            **KNOBS,
            "checkpoint_every": 4,
            "inner_steps": 12,
            "eval_every": 24,
            "stale": 0.3,
            "drop": 0.1,
            "compress": "quantised",
        },
    )
    process = torchrun(3, *command(folder, **knobs))
    waited_for(folder / "checkpoint.safetensors", process)
    os.kill(children(process)[2], signal.SIGKILL)
    err = process.communicate(timeout=PATIENCE)[1]  # torch alone would wait for half an hour
    assert process.returncode != 0
    assert "another rank is gone" in err
    assert "--resume" in err
    reached = checkpoint.load(folder / "checkpoint.safetensors")[0].step
    assert reached >= 1
    finished(torchrun(2, "-m", "deca_lab", "run", "--resume", folder))  # fewer ranks than before
    whole = runs.run(RunConfig(**knobs))
    np.testing.assert_allclose(
        pd.read_csv(folder / "metrics.csv")["test_loss"], whole.metrics["test_loss"], rtol=1e-7
    )
    np.testing.assert_array_equal(
        pd.read_csv(folder / "metrics.csv")["bytes_sent"], whole.metrics["bytes_sent"]
    )


@pytest.mark.slow
def test_what_one_process_stopped_goes_on_over_two(one_process, tmp_path):
    """At the end of a visit, where no moments and no earlier messages are kept."""
    visit = RunConfig(**KNOBS).inner_steps
    with pytest.raises(Stopped):
        runs.run(RunConfig(**KNOBS), tmp_path / "run", lambda done, total, known: done == visit)
    finished(torchrun(2, "-m", "deca_lab", "run", "--resume", tmp_path / "run"))
    one, many = (pd.read_csv(folder / "metrics.csv") for folder in (one_process, tmp_path / "run"))
    np.testing.assert_allclose(many["test_loss"], one["test_loss"], rtol=1e-9)


def test_more_processes_than_clients_are_refused_before_any_work():
    with pytest.raises(BadInput, match="3 or more"):
        prepare(RunConfig(**{**KNOBS, "clients": 2}), World(1, 3, 5))


@pytest.mark.parametrize(
    ("gpus", "nccl", "backend"),
    [(0, True, "gloo"), (2, True, "cpu:gloo,cuda:nccl"), (2, False, "gloo")],
)
def test_a_cpu_s_tensors_go_by_gloo_where_there_are_gpus_too(monkeypatch, gpus, nccl, backend):
    """NCCL knows no tensor of a CPU: with it alone, `--device cpu` could not run on such a machine."""
    place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "3", "MASTER_PORT": "29500"}
    for name, value in {**place, "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    asked = []

    def refuse(*backends, **options):
        asked.extend(backends)
        raise RuntimeError("nobody came")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", asked.append)
    monkeypatch.setattr(dist, "is_nccl_available", lambda: nccl)
    monkeypatch.setattr(dist, "init_process_group", refuse)
    with pytest.raises(PeerLost, match="nobody came"), joined():
        pass
    assert asked == ([1] if gpus else []) + [backend]


def test_processes_that_would_share_a_gpu_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    with pytest.raises(BadInput, match="nproc-per-node = 3 cannot be used: it must be 2 at most"):
        processes.require_own_gpu(World(0, 3), gpu)
    processes.require_own_gpu(World(0, 3), cpu)
    processes.require_own_gpu(World(), gpu)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    processes.require_own_gpu(World(0, 3), gpu)


def test_nothing_but_tensors_travels():
    """No function that pickles objects is called."""
    import deca_lab.network.processes as peers

    source = Path(peers.__file__).read_text() + Path(runs.__file__).read_text()
    assert not [
        name
        for name in ("object_list", "gather_object", "send_object", "pickle.")
        if name in source
    ]


if __name__ == "__main__":
    main(*sys.argv[1:])


@pytest.mark.parametrize("size", [2, 3])
def test_what_goes_between_processes_is_the_same_of_a_w_by_its_edges(size, monkeypatch):
    """Each rank's part of the mixing, its messages as whatever it says that it hears."""
    X = torch.from_numpy(np.random.default_rng(0).standard_normal((300, 5)))
    monkeypatch.setattr(
        processes,
        "_all_rows",
        lambda world, routes, own, halo: [
            *own,
            *(X[who] for route in routes for who in route.heard.values()),
        ],
    )
    turns = topology("one-peer-exponential", 300)
    dense = Topology("dense", tuple(W.toarray() for W in turns.matrices))
    worlds = [World(rank, size, 300) for rank in range(size)]
    for world in worlds:
        for W, want in zip(turns.matrices, dense.matrices, strict=True):
            mix = over(world)([W], None, X[:, :1])
            torch.testing.assert_close(
                mix((X[world.mine],)), (torch.from_numpy(want) @ X)[world.mine]
            )
            one, other = (processes._route(world, M, X.device) for M in (W, want))
            assert list(one.heard) == list(other.heard)
            for rank, who in one.heard.items():
                np.testing.assert_array_equal(who, other.heard[rank])
                theirs = processes._route(worlds[rank], W, X.device).wanted[world.rank]
                np.testing.assert_array_equal(theirs + worlds[rank].mine.start, who)
        halos = [Halo(world, given) for given in (turns, dense)]
        assert halos[0].asked == halos[1].asked
        assert halos[0].share == halos[1].share
