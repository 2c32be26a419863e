"""How fast this machine runs the lab: stacked clients beside a loop and a floor, a DECA step, mixing, memory, start-up.

Every figure is the median of several, taken in turns with what it is compared with, so that a busy machine disturbs both.
"""

import copy
import gc
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deca_lab.algorithm import cuda_graph
from deca_lab.algorithm import optimisers as op
from deca_lab.algorithm.blocks import whole
from deca_lab.algorithm.compiled import missing, one_graph
from deca_lab.algorithm.gradients import Loss, compiled, stacked
from deca_lab.algorithm.loop import Plan, Recipe, begin, params_of, plan, train
from deca_lab.algorithm.moments import Adam, Feedback, printed, raw
from deca_lab.algorithm.problems import quadratics
from deca_lab.algorithm.stacking import Layout, client, flatten, layout, replicate
from deca_lab.bench import growth
from deca_lab.bench.other_packages import beside_badam, beside_decent_dp, beside_peft
from deca_lab.bench.shaped_links import measured, possible
from deca_lab.errors import pick
from deca_lab.lab import ledger
from deca_lab.lab.allocator import keeping
from deca_lab.lab.prepare import Lab, find_device, prepare
from deca_lab.lab.runs import run
from deca_lab.mixing.gossip import FEW, mixer
from deca_lab.mixing.matrix import entries
from deca_lab.mixing.topology import Topology, topology
from deca_lab.models import causal_lm, pretrained
from deca_lab.runconfig import RunConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Work = Callable[[], Any]

REPEATS = 5
SIZES = (
    (4, 64, 8, 1, 64),
    (4, 64, 32, 1, 64),
    (4, 64, 32, 8, 64),
    (4, 128, 8, 1, 64),
    (4, 128, 32, 4, 64),
    (8, 256, 8, 1, 128),
    (8, 256, 32, 1, 64),
)  # layers and width of a GPT-2, clients, batch, context
FLOORS = (
    ("floor", "one model, the same tokens", "1.00 at most"),
    ("fused floor", "one compiled model, the same tokens", "1.25 at most"),
)
STARTS = {  # what Python is asked for, and how long that may take
    "import deca_lab": (("-c", "import deca_lab"), "under 1 s of its own"),
    "from deca_lab import run": (("-c", "from deca_lab import run"), "under 1 s more"),
    "deca-lab --help": (("-m", "deca_lab", "--help"), "under 0.5 s"),
}
WIRES = (("ring", 20.0), ("ring", 50.0), ("star", 20.0), ("star", 50.0))  # graph, megabits a second
# rounds of each, few: of short works the quickest of MANY are what a machine does that is busy besides
THEORY, MANY = (("ring", 64, 100), ("ring", 4096, 8), ("exponential", 4096, 8)), 50
MAIN, JOBS = RunConfig(corpus="shakespeare", split="by-label", lr=3e-3), ("stacked", "cuda-graph")
NUMBERS = 2**22  # in the matrix that is mixed, for any number of clients: 16 MiB


class Benchmark(NamedTuple):
    """One comparison: what was measured, in which unit, what it is compared with, the ratio, and what is aimed at."""

    part: str
    case: str
    ours: float
    theirs: float
    unit: str
    against: str
    goal: str

    @property
    def ratio(self) -> float:
        """Return ours / theirs."""
        return self.ours / self.theirs

    @property
    def line(self) -> str:
        """Return the row for people, in the columns of HEAD."""
        return (
            f"{self.part:<9} {self.case:<38} {self.ours:>10.4g} {self.theirs:>10.4g} {self.unit:<9} {self.ratio:>6.2f}  "
            f"{self.against} ({self.goal})"
        )


def _ms(part: str, case: str, ours: float, theirs: float, against: str, goal: str) -> Benchmark:
    """Return the row in milliseconds of two times in seconds."""
    return Benchmark(part, case, 1e3 * ours, 1e3 * theirs, "ms", against, goal)


class Skipped(NamedTuple):
    """A part that cannot be measured here, and why."""

    part: str
    why: str

    @property
    def line(self) -> str:
        """Return it for people."""
        return f"{self.part:<9} left out: {self.why}"


HEAD = f"{'part':<9} {'case':<38} {'ours':>10} {'theirs':>10} {'unit':<9} {'ratio':>6}  theirs is (aim)"


def bench(parts: Iterable[str] = (), device: str = "auto") -> Iterator[Benchmark | Skipped]:
    """Yield the rows of the named parts, of PARTS, or of all; raise BadInput for an unknown part or device."""
    where = find_device(device)
    for make in [pick(PARTS, name, "part") for name in parts] or list(PARTS.values()):
        yield from make(where)


def machine(device: str = "auto") -> str:
    """Return what the figures were taken on: cores in use, processor or GPU, and the versions."""
    where = find_device(device)
    chip = (
        torch.cuda.get_device_name(where)
        if where.type == "cuda"
        else f"{platform.processor() or platform.machine()}"
    )
    return (
        f"{chip}, {torch.get_num_threads()} of {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__}; medians of {REPEATS}"
    )


def medians(
    works: Mapping[str, Work],
    device: torch.device,
    repeats: int = REPEATS,
    of: Callable[[list[float]], float] = median,
) -> dict[str, float]:
    """Return the median seconds of each work, or another value `of` them, run in turns, after one run that does not count.

    What a work frees is kept for the next, as in a run.
    """
    taken: dict[str, list[float]] = {name: [] for name in works}
    with keeping(0):
        for _ in range(repeats + 1):
            for name, work in works.items():
                _wait(device)
                began = time.perf_counter()
                work()
                _wait(device)
                taken[name].append(time.perf_counter() - began)
    return {name: of(values[1:]) for name, values in taken.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def engines(device: torch.device) -> Iterator[Benchmark | Skipped]:
    """Gradients of N clients, all parameters: stacked, compiled, N models in a loop, vmap(grad), and one model alone."""
    lacking = missing(device.type)
    if lacking:
        yield Skipped("engine", f"compiled: {lacking} is not here")
    for layers, width, clients, batch, context in SIZES:
        case = f"{layers} x {width}, {clients} clients, batch {batch} x {context}"
        shape = causal_lm.Preset("of the bench", family="gpt2", layers=layers, width=width)
        with pretrained.quiet():
            model = causal_lm.draw(shape).to(device)
            tokens = torch.randint(3, causal_lm.BYTES, (clients, batch, context + 1), device=device)
            took = medians(_gradients(model, tokens, graphs=not lacking), device)
        yield from _of_engines(case, took)
        gc.collect()


def _of_engines(case: str, took: Mapping[str, float]) -> Iterator[Benchmark]:
    """Yield the rows of one size: stacked, and compiled where that was measured."""
    ours, best = took["stacked"], min(took["loop"], took["vmap"])
    others = "the faster of N models in a loop, and vmap(grad)"
    yield _ms("engine", case, ours, best, others, "never above 1")
    yield _ms("engine", case, ours, took["floor"], "one model, the same tokens", "1.15 at most")
    for floor, against, aim in FLOORS if "compiled" in took else ():
        yield _ms("engine", f"compiled, {case}", took["compiled"], took[floor], against, aim)


def _gradients(model: "PreTrainedModel", tokens: Tensor, graphs: bool) -> dict[str, Work]:
    """Return the ways to all clients' gradients on tokens (N, batch, context + 1); with `graphs` the compiled ones too."""
    loss, values = causal_lm.client_loss(model), causal_lm.trainable(model)
    start = replicate(values, len(tokens))
    where = layout(start, list(start))
    x, gradients = flatten(start, where.names), stacked(loss)
    mapped = torch.vmap(torch.func.grad_and_value(loss))
    own = [copy.deepcopy(model) for _ in tokens]

    def loop() -> None:
        for one, mine in zip(own, tokens, strict=True):
            _backward(one, mine)

    return {
        **(_compiled(loss, x, where, tokens) if graphs else {}),
        "stacked": lambda: gradients(x, where, {}, tokens),
        "vmap": lambda: mapped(start, tokens),
        "loop": loop,
        "floor": lambda: _backward(model, tokens.flatten(0, 1)),
    }


def _backward(model: "PreTrainedModel", tokens: Tensor) -> None:
    """Take the gradients of one model, as anyone would."""
    model.zero_grad()
    logits = model(input_ids=tokens[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    torch.autograd.backward(loss)


def _compiled(loss: Loss, x: Tensor, where: Layout, tokens: Tensor) -> dict[str, Work]:
    """Return the compiled engine, and one model whose loss and gradient are a graph, on all tokens."""
    fused, pooled = compiled(loss), tokens.flatten(0, 1)[None]
    alone = one_graph(lambda params, batch: loss(client(params, 0), batch[0])[None])
    return {
        "compiled": lambda: fused(x, where, {}, tokens),
        "fused floor": lambda: alone(x[:1], where, {}, pooled),
    }


def _lab(device: torch.device, **knobs: Any) -> Lab:  # noqa: ANN401 - each has its own knob's type
    return prepare(
        RunConfig(
            model="small",
            corpus="markov",
            context=64,
            batch=4,
            clients=8,
            eval_windows=1,
            device=device.type,
            **{"rounds": 1, "inner_steps": REPEATS + 1, **knobs},
        )
    )


def steps(device: torch.device) -> Iterator[Benchmark]:
    """An inner step of DECA, averaged over blocks, beside one that trains all parameters; and what is not the gradient."""
    blocks, full = _lab(device), _lab(device, blocks="whole", rounds=6)
    each = _by_step(blocks.plan, device)
    per_visit = [median(each[k + 1 : k + REPEATS + 1]) for k in range(0, len(each), REPEATS + 1)]
    at_once = median(_by_step(full.plan, device)[1:])
    case, aim = "DECA, mean over blocks (small, 8)", "0.60 at most; arithmetic 0.53"
    yield _ms("step", case, float(np.mean(per_visit)), at_once, "all parameters at once", aim)
    took = medians(_parts_of_a_step(blocks), device, 3 * REPEATS)
    case = "optimiser and mixing of layer 0"
    yield _ms("step", case, took["other"], sum(took.values()), "the whole step", "0.10 at most")


def _parts_of_a_step(lab: Lab) -> dict[str, Work]:
    """Return what an inner step of layer 0 is made of: its gradient, and all else."""
    where, state = lab.plan.layouts[1], begin(lab.plan)
    x, rest = state.blocks[1], params_of(lab.plan, state, without=1)
    batch = lab.plan.problem.batches(0)
    mix, optimiser = mixer(lab.topology.at(0), x[:, :1]), lab.plan.recipe.optimiser
    gradients = stacked(lab.plan.problem.loss)
    moments, g = optimiser.init(x), gradients(x, where, rest, batch)[1]

    def other() -> None:
        nonlocal moments
        direction, moments = optimiser.update(g, moments, x, mix)
        x_new = mix(torch.add(x, direction, alpha=-1e-3, out=direction))
        moments = optimiser.feed(moments, x, x_new, 1e-3)

    return {"gradient": lambda: gradients(x, where, rest, batch), "other": other}


def _by_step(plan: Plan, device: torch.device) -> list[float]:
    """Return the seconds of each inner step of a plan."""
    taken, going = [], train(plan, donate=True)
    for _ in range(plan.steps):
        _wait(device)
        began = time.perf_counter()
        next(going)
        _wait(device)
        taken.append(time.perf_counter() - began)
    return taken


def memory(device: torch.device) -> Iterator[Benchmark]:
    """What a run holds at its peak, without activations, beside the ledger; and DECA beside all parameters at once."""
    for dtype in ("float32", "bfloat16"):
        lab = _lab(device, dtype=dtype)
        finished = run(replace(lab.config, inner_steps=2))
        peaks = finished.summary["memory"]
        case, measured_peak = f"peak, {dtype} (small, 8)", peaks["measured_peak"] / 1e6
        yield Benchmark(
            "memory", case, measured_peak, peaks["peak"] / 1e6, "MB", "the ledger", "1 within 0.05"
        )
        full = ledger.memory(_lab(device, dtype=dtype, blocks="whole").plan).peak
        yield Benchmark(
            "memory", case, measured_peak, full / 1e6, "MB", "all parameters at once", "far below 1"
        )


def mixings(device: torch.device) -> Iterator[Benchmark]:
    """One mixing of 16 MiB over ever more clients, beside a plain copy of what it must read and write."""
    for graph, counts in (
        ("ring", (8, 64, 512, 4096)),
        ("exponential", (8, 64, 512, 4096)),
        ("complete", (8, 64, 512)),
    ):
        aim = (
            "2 at most" if graph != "complete" else "a product of matrices: arithmetic, not memory"
        )
        for clients in counts:
            took = medians(_mixing(topology(graph, clients), device), device)
            case = f"{graph}, {clients} clients"
            yield _ms("mixing", case, took["mix"], took["copy"], "a copy of the same bytes", aim)


def _mixing(topo: Topology, device: torch.device) -> dict[str, Work]:
    """Return one mixing by W (N, N), and a copy of as much: each w_ij reads a row, and each client writes one."""
    x = torch.randn(topo.n, NUMBERS // topo.n, device=device)
    mix = mixer(topo.at(0), x)
    reads = (len(entries(topo.at(0))[0]) + topo.n) * x.shape[1]
    much = torch.randn(reads // 2, device=device)  # a copy reads it and writes it
    into = torch.empty_like(much)
    return {"mix": lambda: mix(x), "copy": lambda: into.copy_(much)}


def theory(device: torch.device) -> Iterator[Benchmark]:
    """Rounds a second, the quickest of MANY, on quadratics of 10 dimensions, beside D-SGD as bare NumPy and SciPy."""
    for graph, clients, rounds in THEORY:
        for name, optimiser in (
            ("D-SGD", op.sgd()),
            ("DECA", op.adam(Adam(), Feedback(printed, raw, 0.99, 0.999))),
        ):
            works = _rounds(graph, clients, rounds, optimiser)
            took = medians(works, torch.device("cpu"), MANY, min)
            yield Benchmark(
                "theory",
                f"{name}, {graph}, {clients} clients, d = 10",
                rounds / took["ours"],
                rounds / took["bare"],
                "rounds/s",
                "D-SGD as bare operations",
                "30,000 rounds/s" if clients <= FEW else "of its size",
            )


def _rounds(graph: str, clients: int, rounds: int, optimiser: op.Optimiser) -> dict[str, Work]:
    """Return so many rounds of ours, and of decentralised SGD as bare operations."""
    rng, topo = np.random.default_rng(0), topology(graph, clients)
    a, b = rng.uniform(0.5, 2, (clients, 10)), rng.standard_normal((clients, 10))
    hessians, start = torch.from_numpy(a[:, :, None] * np.eye(10)), np.zeros((clients, 10))
    problem = quadratics(hessians, torch.from_numpy(b), torch.from_numpy(start))
    laid = plan(problem, whole(["x"]), topo, Recipe(1, rounds, lambda step: 0.01, optimiser))
    W = topo.at(0)

    def bare() -> None:
        X = start
        for _ in range(rounds):
            X = W @ (X - 0.01 * (a * X - b))

    def ours() -> None:
        for _ in train(laid, donate=True):
            pass

    return {"ours": ours, "bare": bare}


def grown(device: torch.device) -> Iterator[Benchmark]:
    """An inner step of DECA on ever more clients, parameters and neighbours, in proportion, and on more processes."""
    first: dict[str, float] = {}
    for what, at, laid in growth.sizes(device, 2 * REPEATS):
        took = 1e3 * median(_by_step(laid, device)[1:])
        each = first.setdefault(what, took / at)
        yield Benchmark(
            "growth", f"{what} {at}", took, each * at, "ms", "the smallest, in proportion", "1"
        )
    alone = 0.0
    for count, seconds in growth.over_processes(REPEATS) if device.type == "cpu" else ():
        alone = alone or seconds
        against, goal = "one process, the same work", "below 1 while cores are free"
        yield _ms("growth", f"processes {count}", seconds, alone, against, goal)


def gpu(device: torch.device) -> Iterator[Benchmark | Skipped]:
    """Clients of ever larger crowds a second on a GPU, by each engine; and the README's main job."""
    if device.type not in cuda_graph.DEVICES:
        yield Skipped("gpu", "torch sees no CUDA device, or --device names another")
        return
    alone = 0.0
    for name, n, works in growth.crowds(device):
        took = medians(works, device)
        speed, case = n / took["stacked"], f"{name}, {n} clients"
        alone = speed if n == 1 else alone
        yield Benchmark("gpu", case, speed, alone, "clients/s", "one client", f"{n}, unless full")
        for engine in took.keys() - {"stacked"}:
            yield _ms(
                "gpu", f"{engine}, {case}", took[engine], took["stacked"], "stacked", "below 1"
            )
    jobs = {
        engine: partial(run, replace(MAIN, device=device.type, engine=engine)) for engine in JOBS
    }
    took = medians(jobs, device, repeats=1)
    for engine in JOBS[1:]:
        case = f"the README's main job, {engine}"
        yield Benchmark("gpu", case, took[engine], took["stacked"], "s", "stacked", "below 1")


def draw(rows: Iterable[Benchmark | Skipped], path: Path) -> None:
    """Draw the rows of the part `growth` to a file; raise BadInput where there are none."""
    from deca_lab.pictures.of_growth import draw_growth

    series: dict[str, list[tuple[int, float, float]]] = {}
    for row in rows:
        if isinstance(row, Benchmark) and row.part == "growth":
            what, at = row.case.split()
            series.setdefault(what, []).append((int(at), row.ours, row.theirs))
    draw_growth(series).savefig(path)


def startup(device: torch.device) -> Iterator[Benchmark]:
    """Seconds until the package is there, beside torch alone; and until the help is."""

    def python(*words: str) -> Work:
        return lambda: subprocess.run([sys.executable, *words], check=True, capture_output=True)

    works = {case: python(*words) for case, (words, _) in STARTS.items()}
    took = medians({**works, "torch": python("-c", "import torch")}, torch.device("cpu"))
    for case, (_, aim) in STARTS.items():
        yield Benchmark("start", case, took[case], took["torch"], "s", "import torch", aim)


def others(device: torch.device) -> Iterator[Benchmark | Skipped]:
    """Inner steps beside packages of others, on CPUs, where they are installed."""
    rows = [*beside_peft(), *beside_badam(), *beside_decent_dp()]
    for row in rows:
        yield _ms("others", row.case, row.ours, row.theirs, row.whose, "1 at most")
    if not rows:
        yield Skipped("others", "none of them is installed: pip install peft decent-dp badam")


def wires(device: torch.device) -> Iterator[Benchmark | Skipped]:
    """Seconds of a run over links that the kernel slows down, beside what clock.py says of them."""
    why = possible()
    for row in measured(WIRES) if not why else ():
        yield Benchmark(
            "network", row.case, row.measured, row.predicted, "s", "the clock's prediction", "1"
        )
        yield Benchmark(
            "network",
            row.case,
            row.wire / 1e6,
            row.ledger / 1e6,
            "MB",
            "the ledger's bytes, headers aside",
            "1",
        )
    if why:
        yield Skipped("network", why)


PARTS: dict[str, Callable[[torch.device], Iterator[Benchmark | Skipped]]] = {
    "engine": engines,
    "step": steps,
    "memory": memory,
    "mixing": mixings,
    "theory": theory,
    "growth": grown,
    "gpu": gpu,
    "start": startup,
    "network": wires,
    "others": others,
}
