"""A config becomes everything that a run needs: text, shards, model, blocks, topology, plan. All checks happen here."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from deca_lab.algorithm import blocks as bl
from deca_lab.algorithm import moments, stacking
from deca_lab.algorithm.channel import Carrier, Wrap, gossip
from deca_lab.algorithm.compiled import Worth, worth
from deca_lab.algorithm.gradients import (
    ENGINES,
    Batch,
    Engine,
    Loss,
    Map,
    engine_kind,
    in_model,
    in_parts,
    in_turn,
    length,
    looped,
)
from deca_lab.algorithm.loop import Plan, Recipe, begin, params_of, plan
from deca_lab.algorithm.optimisers import OPTIMISERS, Optimiser, OptimiserSpec
from deca_lab.algorithm.problems import Problem
from deca_lab.algorithm.schedules import SCHEDULES, schedule
from deca_lab.errors import BadInput, check, first_line, out_of_memory, pick
from deca_lab.lab.ledger import flops
from deca_lab.lab.metrics import Measurement, Probe, each, measure, one_by_one
from deca_lab.lab.objects import NOTHING, Objects, accepted, named
from deca_lab.lab.sources import ATTENTIONS, DTYPES, Texts, model_of, read_texts, words_of
from deca_lab.methods import resolve
from deca_lab.mixing.doctor import Diagnosis, require_sound
from deca_lab.mixing.topology import Topology, topology
from deca_lab.models import causal_lm
from deca_lab.models.classifier import head_names
from deca_lab.models.factor_mixing import decaf
from deca_lab.network import compression, faults
from deca_lab.network.faults import Faults
from deca_lab.network.lossy_mixing import lossy
from deca_lab.network.processes import (
    ALONE,
    Halo,
    World,
    over,
    require_own_gpu,
    summed,
    through_server,
)
from deca_lab.runconfig import RunConfig
from deca_lab.text import heterogeneity, tasks
from deca_lab.text.corpora import Corpus
from deca_lab.text.shards import SPLITS, Shards

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PARTS = ("embeddings", "head")  # of a model's anatomy, which --freeze may name in any family
MIXINGS: dict[str, Carrier] = {"gossip": gossip, "decaf": decaf}


# (params, blocks, who is there) -> what is measured of them
Measure = Callable[[stacking.Params, tuple[Tensor, ...], Tensor], Measurement]


class Lab(NamedTuple):
    """Everything that stays fixed during a run."""

    config: RunConfig  # with the method's knobs set
    corpus: Corpus
    shards: Shards
    tokenizer: "PreTrainedTokenizerBase"
    model: "PreTrainedModel"
    topology: Topology
    diagnosis: Diagnosis
    heterogeneity: heterogeneity.Heterogeneity
    plan: Plan
    probe: Probe
    measure: Measure
    eval_every: int  # inner steps between measurements
    frozen: tuple[str, ...]  # names that no block holds
    device: torch.device
    notes: tuple[str, ...] = ()  # of corpus, split and task, in plain words
    world: World = World()  # the processes that share the clients
    failing: Faults = Faults()  # what goes wrong on the way
    objects: Objects = NOTHING  # what was given in place of names
    majority: float | None = None  # accuracy of always naming the test set's commonest label


Say = Callable[[str], None]  # takes a line about what goes on


def silent(line: str) -> None:
    """Say nothing."""


class Groundwork(NamedTuple):
    """What a run stands on before its model is loaded."""

    config: RunConfig  # with its method's knobs and the objects' names
    objects: Objects  # in the library's own types
    device: torch.device
    topology: Topology
    diagnosis: Diagnosis
    texts: Texts


def prepare(config: RunConfig, world: World = ALONE, objects: Objects = NOTHING) -> Lab:
    """Return the lab of a config; raise BadInput, before anything is written, where something does not fit.

    `objects` stand in for names of the config. In a `world` of several processes each holds the models of its own clients
    alone.
    """
    return assembled(groundwork(config, objects, world), world)


def groundwork(
    config: RunConfig, objects: Objects = NOTHING, world: World = ALONE, say: Say = silent
) -> Groundwork:
    """Return what a run stands on; what needs no text is refused before any is read."""
    objects = accepted(config, objects)
    config, device, topo, diagnosis = settled(config, objects, world)
    say("reading text ...")
    return Groundwork(config, objects, device, topo, diagnosis, read_texts(config, objects))


def settled(
    config: RunConfig, objects: Objects, world: World = ALONE
) -> tuple[RunConfig, torch.device, Topology, Diagnosis]:
    """Return the config with its method's knobs, and what it says of device and graph; names of parts are looked up.

    `objects` are `accepted` ones.
    """
    config = resolve(named(config, objects), objects.method)
    world.of(config.clients)
    recipe_of(config, objects.optimiser)
    for knob, names in {"task": [*tasks.TASKS], "split": [*SPLITS], "dtype": [*DTYPES]}.items():
        pick(dict.fromkeys(names), getattr(config, knob), knob)
    device, topo, diagnosis = device_and_graph(config, objects)
    require_own_gpu(world, device)
    return config, device, topo, diagnosis


def assembled(ground: Groundwork, world: World = ALONE, shapes_alone: bool = False) -> Lab:
    """Return the lab of a groundwork; of `shapes_alone`, on device "meta", no number is computed."""
    config, objects, topo, texts = ground.config, ground.objects, ground.topology, ground.texts
    # The texts' own numbers are there, and are looked at, even where the model's are not.
    device = torch.device("cpu") if shapes_alone else ground.device
    world = world.of(config.clients)
    model = model_of(config, objects, texts, shapes_alone)
    model = model if shapes_alone else model.to(device)
    values = causal_lm.trainable(model)
    sizes = {name: value.numel() for name, value in values.items()}
    cut = blocks_of(config, causal_lm.anatomy(model), sizes, causal_lm.still(model))
    _require_head(config, texts, model, cut)
    task = task_of(config, texts, model, device)
    trained = {name: values[name] for block in cut for name in block.names}
    problem = _problem(task, trained, world, shapes_alone)
    probe = _probe(task, config, problem.clients)
    laid, failing = planned(config, problem, cut, topo, objects.optimiser, world)
    spread = None if shapes_alone else start_spread(laid, config, model, world)
    kind = ground.device.type
    config, notes = with_engine(config, kind, partial(graphs_worth, config, laid, model, kind))
    if ground.config.engine == "auto" and not shapes_alone:
        config, notes = tried(config, notes, laid, model)
    every, rarely = measured_every(config, probe, task.readings)
    return Lab(
        config,
        *(texts.corpus, texts.shards, texts.tokenizer, model, topo, ground.diagnosis),
        heterogeneity=heterogeneity.measure(texts.shards, spread),
        plan=laid,
        probe=probe,
        measure=partial(_on_probe, problem.loss, probe, engine_kind(config.engine).over),
        eval_every=every,
        frozen=tuple(name for name, _ in model.named_parameters() if name not in trained),
        device=device,
        notes=(*texts.notes, *task.notes, *notes, *rarely),
        world=world,
        failing=failing,
        objects=objects,
        majority=task.majority,
    )


def planned(
    config: RunConfig,
    problem: Problem,
    cut: Sequence[bl.Block],
    topo: Topology,
    own: Optimiser | None,
    world: World = ALONE,
) -> tuple[Plan, Faults]:
    """Return the plan of a run over these blocks, and what goes wrong in it; `own` is as in `recipe_of`."""
    failing, world = faults_of(config, topo, len(cut)), world.of(config.clients)
    carrier, wraps = channel_of(config, failing, topo, world)
    recipe = recipe_of(config, own)(len(cut))
    return plan(problem, cut, topo, recipe, *wraps, carrier=carrier, site=world.site), failing


def _problem(
    task: tasks.Task, trained: dict[str, Tensor], world: World, shapes_alone: bool
) -> Problem:
    """Return what this process's clients minimise."""
    mine, batches = world.mine, task.batches
    if world.size > 1:
        batches = each_batch(batches, lambda t: t[mine])
    if shapes_alone:
        batches = each_batch(batches, lambda t: t.to("meta"))
    return Problem(stacking.replicate(trained, mine.stop - mine.start), task.loss, batches)


def _probe(task: tasks.Task, config: RunConfig, clients: int) -> Probe:
    """Return what every measurement reads; a loss keeps no graph, so it reads a few more rows than a step, a gradient no more."""
    scores, rows = (task.score, task.validation_score), config.micro_batch or config.batch
    together = clients
    if engine_kind(config.engine).over is in_turn:
        scores, together = (one_by_one(task.score), one_by_one(task.validation_score)), 1
    at_once = min(8, 2 * rows), min(32, rows * together)
    return Probe(task.test, task.own, task.train, *scores, *at_once)


def task_of(
    config: RunConfig, texts: Texts, model: "PreTrainedModel", device: torch.device
) -> tasks.Task:
    """Return what the model is trained and scored on."""
    request = tasks.TaskRequest(
        *(texts.corpus, texts.split, texts.tokenizer, model, config.context, config.batch),
        *(config.seed, device, config.eval_windows, words_of(config)),
    )
    return tasks.build(config.task, request, head=bool(texts.labels))


def each_batch(
    batches: Callable[[int], Batch], change: Callable[[Tensor], Tensor]
) -> Callable[[int], Batch]:
    """Return the batches with every tensor of them changed."""
    return lambda step: each(batches(step), change)


def device_and_graph(
    config: RunConfig, objects: Objects
) -> tuple[torch.device, Topology, Diagnosis]:
    """Return device, topology and what the doctor says of it."""
    device = find_device(config.device)
    engine_kind(config.engine).ready(device.type)
    pick(ATTENTIONS, config.attention, "attention")
    drawn: dict[str, Any] = {
        "probability": config.edge_probability,
        "degree": config.degree,
        "seed": config.seed,
    }
    source = objects.topology or config.topology
    topo = topology(source, config.clients, weights=config.weights, **drawn)
    return device, topo, require_sound(topo, allow_unsound=config.allow_unsound)


def measured_every(config: RunConfig, probe: Probe, readings: int) -> tuple[int, list[str]]:
    """Return the inner steps between measurements, and a note where visits' ends are left out to keep to eval_share.

    Work is counted in examples read; with a gradient an example counts three times, for its way forth and back.
    """
    if config.eval_every:
        return config.eval_every, []
    own, train = (config.clients * length(data, 1) for data in (probe.own, probe.train))
    once = (config.clients + 1) * length(probe.test) * readings + 2 * own + 3 * train
    visit = 3 * config.clients * config.batch * config.inner_steps
    visits = math.ceil(once * (1 / config.eval_share - 1) / visit) or 1
    why = f"measured at every {visits} visits' ends: more would take over {config.eval_share:.0%} of the work"
    return visits * config.inner_steps, [f"{why} (--eval-share)"] * (visits > 1)


def _on_probe(
    loss: Loss,
    probe: Probe,
    over: Map,
    params: stacking.Params,
    blocks: tuple[Tensor, ...],
    here: Tensor,
) -> Measurement:
    """Measure the clients `here`, of whom there are rows in `params` and `blocks`, on the data of the probe."""
    count = len(next(iter(params.values())))
    if len(here) == count:
        return measure(loss, params, blocks, probe, over)
    at = here.to(blocks[0].device)
    own = probe._replace(own=each(probe.own, lambda t: t[at]))
    rows = {name: p[at] for name, p in params.items()}
    return measure(loss, rows, tuple(x[at] for x in blocks), own, over)


def engine_of(config: RunConfig, model: nn.Module | None = None, once: bool = False) -> Engine:
    """Return what computes the clients' gradients: through the model itself, or a few examples at a time, if asked to.

    `once` is for a single gradient.
    """
    kind = engine_kind(config.engine)
    engine = engine_kind(kind.once).gradients if once and kind.once else kind.gradients
    if config.gradient_checkpointing:
        loop = "loop with --gradient-checkpointing: torch.vmap cannot compute activations twice"
        check(engine is looped, "engine", config.engine, loop)
        # On a CPU the kernel is chosen once more when a layer is computed again, and may be another.
        eager = "eager with --gradient-checkpointing"
        check(config.attention != "sdpa", "attention", config.attention, eager)
        engine = in_model(dict(model.named_parameters() if model else ()))
    return in_parts(engine, config.micro_batch) if config.micro_batch else engine


def with_engine(
    config: RunConfig, device: str, count: Callable[[], Worth] | None = None
) -> tuple[RunConfig, list[str]]:
    """Return the config with an engine in place of "auto", and the notes on what compiling costs and saves."""
    settle = engine_kind(config.engine).settle
    engine, notes = settle(count and count(), device) if settle else (config.engine, [])
    return replace(config, engine=engine), notes


def tried(
    config: RunConfig, notes: list[str], laid: Plan, model: nn.Module
) -> tuple[RunConfig, list[str]]:
    """Return config and notes again, with the stacked engine where a chosen one that records cannot take the model."""
    if not engine_kind(config.engine).copies:
        return config, notes
    state, gradients = begin(laid), engine_of(config, model)(laid.problem.loss)
    rest = params_of(laid, state, without=0)
    try:
        for step in range(2):
            gradients(state.blocks[0], laid.layouts[0], rest, laid.problem.batches(step))
    except (BadInput, RuntimeError) as error:
        if not (isinstance(error, BadInput) or out_of_memory(error)):
            raise
        why = f"engine stacked, chosen by auto: {first_line(error)}"
        return replace(config, engine="stacked"), [why]
    return config, notes


def graphs_worth(config: RunConfig, laid: Plan, model: nn.Module, device: str) -> Worth:
    """Return what compiling would cost a run and save it."""
    layers = {causal_lm.layer_of(name) for name, _ in model.named_parameters()} - {None}
    tokens = config.clients * config.batch * config.context
    return worth(len(laid.blocks), len(layers), flops(laid, model, tokens), device)


def find_device(name: str) -> torch.device:
    """Return the device of a name; "auto" takes a CUDA device where torch sees one.

    Apple's GPU is refused: sums of a measurement are in float64, which it does not have.
    """
    there = {"cuda": torch.cuda.is_available(), "cpu": True}
    seen = [kind for kind, ok in there.items() if ok]
    check(name != "mps", "device", name, "cpu: Apple's GPU has no float64, in which losses add up")
    if not pick({"auto": True, **there}, name, "device"):
        raise BadInput(f"device = {name!r} is not there: torch sees {', '.join(reversed(seen))}")
    return torch.device(seen[0] if name == "auto" else name)


def _require_head(
    config: RunConfig, texts: Texts, model: nn.Module, cut: tuple[bl.Block, ...]
) -> None:
    """Raise BadInput where nothing of a head for labels would train: it begins with random numbers."""
    head = set(head_names(model)) if texts.labels else set()
    check(
        not head or any(head.intersection(block.names) for block in cut),
        "freeze, ends",
        (config.freeze, config.ends),
        "such that the head for labels trains; --freeze embeddings leaves it free",
    )


def _frozen(freeze: str, anatomy: bl.Anatomy, still: Sequence[str]) -> set[str]:
    """Return the names that a regular expression finds, and those of the part of the model that it names."""
    part = {name for name, where in anatomy.items() if where == freeze}
    names = [*anatomy, *still]
    if not freeze or (freeze in PARTS and not any(freeze in name for name in names)):
        return part
    return part | set(bl.matching(names, freeze, "freeze"))


def blocks_of(
    config: RunConfig, anatomy: bl.Anatomy, sizes: dict[str, int], still: Sequence[str] = ()
) -> tuple[bl.Block, ...]:
    """Return the blocks of a model whose trainable names have this anatomy and these element counts.

    `still` are the names that do not train anyway, beside adapters: `freeze` may name them too.
    """
    pick(bl.ENDS, config.ends, "ends")
    frozen = _frozen(config.freeze, anatomy, still)
    if config.ends == "frozen":
        frozen |= {name for name, where in anatomy.items() if not isinstance(where, int)}
    rest = {name: where for name, where in anatomy.items() if name not in frozen}
    allowed = "such that a trainable name remains"
    check(bool(rest), "freeze, ends", (config.freeze, config.ends), allowed)
    ends = "own" if config.ends == "frozen" else config.ends
    cutters = {
        "layers": lambda: bl.by_layers(rest, config.granularity, ends),
        "equal": lambda: bl.of_equal_size({name: sizes[name] for name in rest}, config.block_count),
        "patterns": lambda: bl.by_patterns(list(rest), patterns_of(config)),
        "whole": lambda: bl.whole(list(rest)),
    }
    cut = pick(cutters, config.blocks, "blocks")()
    bl.require_cover(cut, list(rest))
    return cut


def patterns_of(config: RunConfig) -> list[str]:
    """Return the regular expressions of the blocks, or raise BadInput where there is none."""
    patterns = config.patterns.split()
    allowed = "one or more regular expressions, with --blocks patterns"
    check(bool(patterns), "patterns", config.patterns, allowed)
    return patterns


def _optimiser(config: RunConfig, own: Optimiser | None) -> Optimiser:
    signal = pick(moments.SIGNALS, config.feedback, "feedback")
    scale = pick(moments.SCALES, config.feedback_scale, "feedback_scale")
    feedback = moments.Feedback(signal, scale, config.b1, config.b2)
    spec = OptimiserSpec(moments.Adam(config.a1, config.a2, config.eps), feedback, config.momentum)
    return own or pick(OPTIMISERS, config.optimiser, "optimiser")(spec)


def recipe_of(config: RunConfig, own: Optimiser | None = None) -> Callable[[int], Recipe]:
    """Return the recipe as a function of the number of blocks, which the learning-rate schedule needs.

    `own` is an optimiser that was given as an object.
    """
    shape = pick(SCHEDULES, config.lr_scheduler_type, "lr_scheduler_type")
    optimiser = _optimiser(config, own)
    rule = pick(MIXINGS, config.mixing, "mixing")
    allowed = "gossip, but for --adapter lora"
    check(rule is gossip or config.adapter == "lora", "mixing", config.mixing, allowed)
    before = pick({"after": False, "before": True}, config.combine, "combine")
    keep = pick({"reset": False, "keep": True}, config.moments, "moments")
    mix_all = pick({"active": False, "all": True}, config.mixed, "mixed")
    order = pick(bl.ORDERS, config.order, "order")

    def recipe(count: int) -> Recipe:
        total = config.rounds * count * config.inner_steps
        rate = schedule(config.lr, shape, total, config.warmup_steps)
        return Recipe(
            *(config.rounds, config.inner_steps, rate, optimiser),
            keep_moments=keep,
            mix_every=config.mix_every,
            mix_all=mix_all,
            combine_first=before,
            order=order,
            clip=config.max_grad_norm,
            weight_decay=config.weight_decay,
            seed=config.seed,
        )

    return recipe


def faults_of(config: RunConfig, topo: Topology, blocks: int) -> Faults:
    """Return what goes wrong in the run; raise BadInput where the topology cannot bear it."""
    n, every, steps = topo.n, config.mix_every, config.rounds * blocks * config.inner_steps
    away, garbage = (
        faults.spells(getattr(config, knob), knob, n, steps) for knob in ("away", "garbage")
    )
    slow = faults.stragglers(config.stragglers, n)
    lost = (config.drop, config.burst, away, slow, garbage, config.stale, config.delay)
    asked = Faults(*lost, config.noise, n, steps // every, every, config.seed)
    return faults.require_possible(asked, topo, steps)


def channel_of(
    config: RunConfig, failing: Faults, topo: Topology, world: World = ALONE
) -> tuple[Carrier, list[Wrap]]:
    """Return what applies W to the rows of X, here or over processes, and what stands around the plain channel.

    Faults come first, then short messages; raise BadInput where they cannot.
    """
    rule, lost = MIXINGS[config.mixing], lossy(failing, config.mix_every)
    short = compression.compressor(config.compress, config.keep_share, config.bits, config.gamma)
    if short is not None:
        _require_short_messages(config, topo)
    halo = Halo(world, topo) if short is not None and world.size > 1 else None
    if world.size == 1:
        carrier = rule
    elif topo.served and rule is gossip:
        carrier = through_server(world)
    else:
        carrier = over(world, rule, halo)
    wraps = [] if short is None else [compression.compressed(short, config.seed, halo)]
    return carrier, [lost, *wraps]


def _require_short_messages(config: RunConfig, topo: Topology) -> None:
    """Refuse short messages where mathematics has none."""
    linear = f"none with --mixing {config.mixing}: replicas are mixed in place of the models, which only a linear mixing bears"
    check(config.mixing == "gossip", "compress", config.compress, linear)
    served = "none with a server: what it answers, the mean of all clients' changes, is not short"
    check(not topo.served, "compress", config.compress, served)


def start_spread(
    laid: Plan, config: RunConfig, model: nn.Module | None = None, world: World = ALONE
) -> heterogeneity.Spread:
    """Return how far the clients' gradients at the common start lie apart, on the batch of step 0, in every process.

    A few clients at a time, so that no more gradients are held than a step holds. Raises BadInput where the engine cannot
    take the model: its own operations refuse torch.vmap, or gradients.
    """
    problem = laid.problem
    where = stacking.layout(problem.start, list(problem.start))
    widest = max(block.width for block in laid.layouts)
    batch, n = problem.batches(0), problem.clients
    # of two a model must show that it can be stacked
    least = 1 if engine_kind(config.engine).over is in_turn else 2
    rows = max(least, n * widest // where.width)
    gradients = engine_of(config, model, once=True)(problem.loss)

    def some(first: int) -> Tensor:
        part = slice(first, first + rows)
        start = {name: p[part] for name, p in problem.start.items()}
        x = stacking.flatten(start, where.names)
        return gradients(x, where, {}, each(batch, lambda t: t[part]))[1]

    try:
        own = heterogeneity.spread(map(some, range(0, n, rows)))
    except RuntimeError as error:  # functorch's, or autograd's
        if out_of_memory(error):
            raise
        name = engine_kind(config.engine).once or config.engine
        others = " or ".join(n for n in ENGINES if n != name and not engine_kind(n).once)
        line = f"model does not train with --engine {name}: {first_line(error)}; try {others}"
        raise BadInput(line) from error
    return own.over(lambda x: summed(world, x))
