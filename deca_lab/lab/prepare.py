"""A config becomes everything that a run needs: text, shards, model, blocks, topology, plan. All checks happen here."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from deca_lab.algorithm import blocks as bl
from deca_lab.algorithm import moments, stacking
from deca_lab.algorithm.channel import Carrier, Wrap, gossip
from deca_lab.algorithm.compiled import missing, require_compiler, worth
from deca_lab.algorithm.gradients import ENGINES, Engine, Loss, Map, in_parts, in_turn, map_of
from deca_lab.algorithm.loop import Plan, Recipe, plan
from deca_lab.algorithm.optimisers import OPTIMISERS, Optimiser, OptimiserSpec
from deca_lab.algorithm.problems import Problem
from deca_lab.algorithm.schedules import SCHEDULES, schedule
from deca_lab.errors import BadInput, check, pick
from deca_lab.lab.ledger import flops
from deca_lab.lab.metrics import Measurement, Probe, each, measure, one_by_one
from deca_lab.lab.objects import NOTHING, Objects, accepted, columns_and_rows, named
from deca_lab.methods import resolve
from deca_lab.mixing.doctor import Diagnosis, require_sound
from deca_lab.mixing.topology import Topology, topology
from deca_lab.models.causal_lm import layer_of
from deca_lab.models.factor_mixing import decaf
from deca_lab.models.pretrained import first_line
from deca_lab.network import compression, faults
from deca_lab.network.faults import Faults
from deca_lab.network.lossy_mixing import lossy
from deca_lab.network.processes import ALONE, Halo, World, gathered, over, through_server
from deca_lab.runconfig import OBJECT, RunConfig
from deca_lab.text import heterogeneity, shards, tasks
from deca_lab.text.corpora import CORPORA, Corpus, load
from deca_lab.text.shards import Shards
from deca_lab.text.tokens import tokenizer_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
AUTO = "auto"  # in place of an engine
MIXINGS: dict[str, Carrier] = {"gossip": gossip, "decaf": decaf}


Measure = Callable[
    [stacking.Params, tuple[Tensor, ...], Tensor], Measurement
]  # (params, blocks, who is there)


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
    frozen: tuple[str, ...]  # names that no block holds
    device: torch.device
    notes: tuple[str, ...] = ()  # of corpus, split and task, in plain words
    world: World = World()  # the processes that share the clients
    failing: Faults = Faults()  # what goes wrong on the way
    objects: Objects = NOTHING  # what was given in place of names
    majority: float | None = None  # accuracy of always naming the test set's commonest label


def prepare(config: RunConfig, world: World = ALONE, objects: Objects = NOTHING) -> Lab:
    """Return the lab of a config; raise BadInput, before anything is written, where something does not fit.

    `objects` stand in for names of the config. In a `world` of several processes each holds the models of its own clients
    alone.
    """
    from deca_lab.models import causal_lm
    from deca_lab.models.classifier import pad_of

    objects = accepted(config, objects)
    config = resolve(named(config, objects), objects.method)
    device, topo, diagnosis = laid_out(config, objects)
    world = world.of(config.clients)
    recipe = recipe_of(config, objects.optimiser)
    corpus = objects.dataset or read_corpus(config)
    which, noted = tokenizer_of(config, objects.tokenizer)
    head = has_head(config, objects.model)
    labels = corpus.label_names if head else ()
    model = load_model(config, len(which), objects.model, labels, pad_of(which)).to(device)
    parts = split_of(config, corpus)
    data = shards.build(corpus, parts, which, config.context, whole=head)
    cut = blocks_of(
        config,
        causal_lm.anatomy(model),
        {n: p.numel() for n, p in causal_lm.trainable(model).items()},
    )
    task = tasks.build(
        config.task,
        corpus,
        parts,
        which,
        model,
        config.context,
        config.batch,
        config.seed,
        device,
        config.eval_windows,
        words_of(config),
        head,
    )
    values = causal_lm.trainable(model)
    mine = world.mine
    start = stacking.replicate(
        {name: values[name] for block in cut for name in block.names}, mine.stop - mine.start
    )
    problem = Problem(
        start,
        task.loss,
        task.batches
        if world.size == 1
        else lambda step: each(task.batches(step), lambda t: t[mine]),
    )
    over = map_of(config.engine)
    scores = [task.score, task.validation_score]
    if over is in_turn:
        scores = list(map(one_by_one, scores))
    probe = Probe(task.test, task.own, task.train, *scores)
    failing = faults_of(config, topo, len(cut))
    carrier, wraps = channel_of(config, failing, topo, world)
    laid = plan(
        problem,
        cut,
        topo,
        recipe(len(cut)),
        *wraps,
        carrier=carrier,
        site=world.site,
    )
    frozen = tuple(name for name, _ in model.named_parameters() if name not in problem.start)
    apart = heterogeneity.measure(data, start_gradients(problem, world, at_once(config.engine)))
    config, told = with_engine(config, laid, model)
    notes = (*data.notes, *noted, *task.notes, *told)
    return Lab(
        config,
        corpus,
        data,
        which,
        model,
        topo,
        diagnosis,
        apart,
        laid,
        probe,
        partial(_on_probe, problem.loss, probe, over),
        frozen,
        device,
        notes,
        world,
        failing,
        objects,
        task.majority,
    )


def laid_out(config: RunConfig, objects: Objects) -> tuple[torch.device, Topology, Diagnosis]:
    """Return device, topology and what the doctor says of it."""
    device = find_device(config.device)
    check(
        not (device.type == "mps" and config.dtype == "float64"),
        "dtype",
        config.dtype,
        "float32 or bfloat16 on Apple's GPU",
    )
    pick({**ENGINES, AUTO: None}, config.engine, "engine")
    if config.engine == "compiled":
        require_compiler(device.type)
    topo = topology(
        objects.topology or config.topology,
        config.clients,
        weights=config.weights,
        probability=config.edge_probability,
        degree=config.degree,
        seed=config.seed,
    )
    return device, topo, require_sound(topo, allow_unsound=config.allow_unsound)


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


def at_once(engine: str) -> str:
    """Return the engine for a single gradient, or before "auto" has chosen: no graph would pay back."""
    return "stacked" if engine in (AUTO, "compiled") else engine


def engine_of(config: RunConfig) -> Engine:
    """Return what computes the clients' gradients, a few examples at a time where the config says so."""
    name = at_once(AUTO) if config.engine == AUTO else config.engine
    engine = pick(ENGINES, name, "engine")
    return in_parts(engine, config.micro_batch) if config.micro_batch else engine


def tokenizer_of(
    config: RunConfig, given: "PreTrainedTokenizerBase | None" = None
) -> tuple["PreTrainedTokenizerBase", tuple[str, ...]]:
    """Return the tokenizer of the config, or the one `given`, and a note where it was chosen."""
    from deca_lab.models.causal_lm import source_of

    if given is not None:
        return given, ()
    by_name = not config.model.startswith(OBJECT)
    source = source_of(config.model) if by_name else ""
    return tokenizer_for(config.tokenizer, source, config.model_revision)


def has_head(config: RunConfig, given: nn.Module | None = None) -> bool:
    """Say whether a head for labels trains; raise BadInput where head, model and task do not fit."""
    from deca_lab.models.classifier import trains_head

    headed = pick(tasks.TASKS, config.task, "task").headed is not None
    model = config.model if given is None else given
    return trains_head(config.head, model, config.task, headed)


def with_engine(config: RunConfig, laid: Plan, model: nn.Module) -> tuple[RunConfig, list[str]]:
    """Return the config with an engine in place of "auto", and the notes on what compiling costs and saves."""
    if config.engine not in (AUTO, "compiled"):
        return config, []
    kind, tokens = laid.channel.like.device.type, config.clients * config.batch * config.context
    layers = {layer_of(name) for name, _ in model.named_parameters()} - {None}
    count = worth(len(laid.blocks), len(layers), flops(laid, model, tokens), kind)
    if config.engine == "compiled":
        return config, [f"engine compiled: {count.line}"]
    lacking = missing(kind)
    engine = "compiled" if count.pays and not lacking else "stacked"
    why = f"{lacking} is not here" if lacking else count.line
    return replace(config, engine=engine), [f"engine {engine}, chosen by auto: {why}"]


def load_model(
    config: RunConfig,
    vocabulary: int,
    given: nn.Module | None = None,
    labels: Sequence[str] = (),
    pad: int | None = None,
) -> "PreTrainedModel":
    """Return the model of the config, or a copy of the one `given`, with a base in 4 bits and adapters where asked for.

    With `labels` it is a classifier whose head trains, of texts that the id `pad` fills up.
    """
    from deca_lab.models import adapters, causal_lm, classifier, four_bit, own_model

    make = pick(
        {"none": None, "lora": adapters.lora, "bottleneck": adapters.bottleneck},
        config.adapter,
        "adapter",
    )
    store = pick({"full": None, "nf4": four_bit.quantise_base}, config.base_weights, "base_weights")
    check(
        make is not None or store is None,
        "base_weights",
        config.base_weights,
        "full without an adapter: all of it trains",
    )
    dtype, revision = pick(DTYPES, config.dtype, "dtype"), config.model_revision
    check(given is None or not revision, "model_revision", revision, "left empty beside model=")
    sizes: dict[str, Any] = {"dtype": dtype, "vocabulary": vocabulary, "context": config.context}
    if labels:
        sizes |= {"labels": labels, "pad": pad}
    by_name, of_object = (
        (classifier.load, classifier.classifier_of)
        if labels
        else (causal_lm.load, own_model.model_of)
    )
    model: Any = (
        by_name(config.model, seed=config.seed, revision=revision, **sizes)
        if given is None
        else of_object(given, over=map_of(config.engine), **sizes)
    )
    head = classifier.head_names(model) if labels else ()
    base = model if store is None else store(model)
    if make is None:
        return base
    if make is adapters.bottleneck:
        return adapters.bottleneck(base, config.rank, config.seed, head=head)
    factors = config.rank, config.lora_alpha, config.targets, config.seed, config.frozen_factor
    return adapters.lora(base, *factors, head)


def find_device(name: str) -> torch.device:
    """Return the device of a name; "auto" takes a GPU where torch sees one."""
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        return torch.device(next(n for n in ("cuda", "mps", "cpu") if there[n]))
    if not pick(there, name, "device"):
        raise BadInput(
            f"device = {name!r} is not there: torch sees {', '.join(n for n, ok in there.items() if ok)}"
        )
    return torch.device(name)


def read_corpus(config: RunConfig) -> Corpus:
    """Return the corpus that the config's Data knobs name."""
    asked = columns_and_rows(config)
    if config.corpus in CORPORA:
        asked["answer"] = None  # it brings its own
    revision = config.hub_revision or None
    return load(config.corpus, split=config.hub_split, revision=revision, **asked)


def words_of(config: RunConfig) -> dict[str, str] | None:
    """Return {label: word} of a text such as "good=G, bad=B", or None for an empty one."""
    parts = [part.partition("=") for part in config.verbaliser.split(",") if part.strip()]
    check(
        all(mark and word.strip() for _, mark, word in parts),
        "verbaliser",
        config.verbaliser,
        "'label=word, label=word'",
    )
    return {label.strip(): word.strip() for label, _, word in parts} or None


def split_of(config: RunConfig, corpus: Corpus) -> shards.Split:
    """Return the rows of each client and of the common test set."""
    return shards.split(
        corpus.labels,
        config.clients,
        how=config.split,
        alpha=config.alpha,
        test_share=config.test_share,
        validation_share=config.validation_share,
        shares=_share_table(config.shares),
        seed=config.seed,
    )


def _share_table(text: str) -> list[list[float]] | None:
    """Return the rows of a table such as "0.15,0.85; 0.85,0.15", or None for an empty text."""
    try:
        return (
            [[float(cell) for cell in row.split(",")] for row in text.split(";")]
            if text.strip()
            else None
        )
    except ValueError:
        raise BadInput(
            f"shares = {text!r} cannot be used: it must be rows of numbers, '0.15,0.85; 0.85,0.15'"
        ) from None


def blocks_of(
    config: RunConfig, anatomy: bl.Anatomy, sizes: dict[str, int]
) -> tuple[bl.Block, ...]:
    """Return the blocks of a model whose trainable names have this anatomy and these element counts."""
    pick(bl.ENDS, config.ends, "ends")
    names = list(anatomy)
    frozen = set(bl.matching(names, config.freeze, "freeze")) if config.freeze else set()
    if config.ends == "frozen":
        frozen |= {name for name, where in anatomy.items() if not isinstance(where, int)}
    rest = {name: where for name, where in anatomy.items() if name not in frozen}
    check(
        bool(rest),
        "freeze, ends",
        (config.freeze, config.ends),
        "such that a trainable name remains",
    )
    cutters = {
        "layers": lambda: bl.by_layers(
            rest, config.granularity, "own" if config.ends == "frozen" else config.ends
        ),
        "equal": lambda: bl.of_equal_size({name: sizes[name] for name in rest}, config.block_count),
        "patterns": lambda: bl.by_patterns(list(rest), patterns_of(config)),
        "whole": lambda: bl.whole(list(rest)),
    }
    cut = pick(cutters, config.blocks, "blocks")()
    bl.require_cover(cut, list(rest))
    return cut


def patterns_of(config: RunConfig) -> list[str]:
    """Return the regular expressions of the blocks, or raise BadInput where there is none."""
    found = re.split(r"\s+", config.patterns.strip()) if config.patterns.strip() else []
    check(
        bool(found),
        "patterns",
        config.patterns,
        "one or more regular expressions, with --blocks patterns",
    )
    return found


def recipe_of(config: RunConfig, own: Optimiser | None = None) -> Callable[[int], Recipe]:
    """Return the recipe as a function of the number of blocks, which the learning-rate schedule needs.

    `own` is an optimiser that was given as an object.
    """
    shape = pick(SCHEDULES, config.lr_scheduler_type, "lr_scheduler_type")
    feedback = moments.Feedback(
        pick(moments.SIGNALS, config.feedback, "feedback"),
        pick(moments.SCALES, config.feedback_scale, "feedback_scale"),
        config.b1,
        config.b2,
    )
    rule = pick(MIXINGS, config.mixing, "mixing")
    check(
        rule is gossip or config.adapter == "lora",
        "mixing",
        config.mixing,
        "gossip, but for --adapter lora",
    )
    optimiser = own or pick(OPTIMISERS, config.optimiser, "optimiser")(
        OptimiserSpec(moments.Adam(config.a1, config.a2, config.eps), feedback, config.momentum)
    )
    before = pick({"after": False, "before": True}, config.combine, "combine")
    keep = pick({"reset": False, "keep": True}, config.moments, "moments")
    mix_all = pick({"active": False, "all": True}, config.mixed, "mixed")
    order = pick(bl.ORDERS, config.order, "order")

    def recipe(count: int) -> Recipe:
        total = config.rounds * count * config.inner_steps
        return Recipe(
            config.rounds,
            config.inner_steps,
            schedule(config.lr, shape, total, config.warmup_steps),
            optimiser,
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
    n, steps = topo.n, config.rounds * blocks * config.inner_steps
    asked = Faults(
        config.drop,
        config.burst,
        faults.spells(config.away, "away", n, steps),
        faults.stragglers(config.stragglers, n),
        faults.spells(config.garbage, "garbage", n, steps),
        config.stale,
        config.delay,
        config.noise,
        n,
        steps // config.mix_every,
        config.mix_every,
        config.seed,
    )
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
    return carrier, [lost] if short is None else [
        lost,
        compression.compressed(short, config.seed, halo),
    ]


def _require_short_messages(config: RunConfig, topo: Topology) -> None:
    """Refuse short messages where mathematics has none."""
    linear = f"none with --mixing {config.mixing}: replicas are mixed in place of the models, which only a linear mixing bears"
    check(config.mixing == "gossip", "compress", config.compress, linear)
    served = "none with a server: what it answers, the mean of all clients' changes, is not short"
    check(not topo.served, "compress", config.compress, served)


def start_gradients(problem: Problem, world: World, engine: str = "stacked") -> stacking.Params:
    """Return every client's gradient at the common start, on the batch of step 0, stacked; on ranks but 0 its own alone.

    Raises BadInput where the engine cannot take it: the model's own operations refuse torch.vmap, or gradients.
    """
    where = stacking.layout(problem.start, list(problem.start))
    gradients = pick(ENGINES, engine, "engine")(problem.loss)
    try:
        _, g = gradients(
            stacking.flatten(problem.start, where.names), where, {}, problem.batches(0)
        )
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # functorch's, or autograd's
        others = " or ".join(name for name in ENGINES if name not in (engine, "compiled"))
        line = f"model does not train with --engine {engine}: {first_line(error)}; try {others}"
        raise BadInput(line) from error
    return stacking.unflatten(gathered(world, g), where)
