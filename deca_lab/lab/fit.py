"""Any differentiable problem of your own, trained by the same loop: history, pictures, ledger, faults, checkpoints."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from deca_lab.algorithm import gradients as gr
from deca_lab.algorithm import stacking
from deca_lab.algorithm.blocks import Block
from deca_lab.algorithm.loop import Plan
from deca_lab.algorithm.problems import Problem
from deca_lab.errors import check
from deca_lab.lab.history import History
from deca_lab.lab.metrics import Measurement, Probe, mean_model
from deca_lab.lab.objects import Objects, accepted, blocks_given, named, on_problem
from deca_lab.lab.own_problem import ready_problem
from deca_lab.lab.prepare import (
    Lab,
    blocks_of,
    device_and_graph,
    planned,
    start_spread,
    with_engine,
)
from deca_lab.lab.runs import Callback, Progress, continued, read_config, started
from deca_lab.lab.snapshot import Snapshot
from deca_lab.methods import Method, resolve
from deca_lab.models.causal_lm import layer_of
from deca_lab.runconfig import RunConfig
from deca_lab.text import heterogeneity
from deca_lab.text.corpora import Corpus
from deca_lab.text.shards import Shards

FOREIGN = ("Data", "Model", "Adapters")  # groups of knobs that speak of text and language models


def fit(
    problem: Problem,
    config: RunConfig = RunConfig(),  # noqa: B008 - frozen
    out: Path | str | None = None,
    progress: Progress | None = None,
    *,
    blocks: Sequence[Any] | None = None,
    topology: Any = None,  # noqa: ANN401 - as of run
    optimiser: Any = None,  # noqa: ANN401 - as of run
    method: Method | None = None,
    metrics: Mapping[str, Callable[[Snapshot], float]] | None = None,
    callbacks: Sequence[Callback] = (),
    resume: bool = False,
) -> History:
    """Train a problem of your own with the knobs of a config, and return the history.

    `config.clients` is the problem's N; its `device` "auto" is where the problem's start lies, any other one takes
    start, batches and evaluation there. `blocks`: lists of names of the parameters, one a block; without it, names are cut
    as those of a model are, and each is a block of its own where none has a layer's number. All other arguments are as of
    `run`; knobs that speak of text or a language model must be left alone. With `resume`, the run in the folder `out` goes
    on. In the history a loss is that of the problem, in its own unit: `test_loss` is the mean over clients of their
    losses at the mean model, `client_test_loss` the same at each client's model, `own_loss` each client's at its own
    model; they are taken on `problem.evaluation`, or on the batches of step 0. Raises BadInput, Diverged and Stopped.
    """
    objects = Objects(
        topology=topology,
        optimiser=optimiser,
        method=method,
        problem=problem,
        metrics=metrics,
        callbacks=callbacks,
        blocks=None if blocks is None else blocks_given(blocks),
    )
    if resume:
        check(out is not None, "out", out, "the folder of the run, with resume=True")
        folder = Path(str(out))
        stored = read_config(folder)
        history = continued(prepare_problem(problem, stored, objects), folder, progress)
    else:
        lab = prepare_problem(problem, config, objects)
        history = started(lab, named(config, lab.objects), out, progress)
    assert history is not None  # there is one process
    return history


def prepare_problem(problem: Problem, config: RunConfig, objects: Objects) -> Lab:
    """Return the lab of a problem; raise BadInput, before anything is written, where something does not fit."""
    objects = accepted(config, objects)
    _require_own_knobs(config)
    problem = ready_problem(problem, config.device)
    device = next(iter(problem.start.values())).device
    allowed = f"{problem.clients}, the problem's"
    check(config.clients == problem.clients, "clients", config.clients, allowed)
    config = resolve(named(config, objects._replace(problem=problem)), objects.method)
    _, topo, diagnosis = device_and_graph(replace(config, device=device.type), objects)
    config, notes = with_engine(config, device.type)
    cut = objects.blocks or _cut(config, problem)
    laid, failing = planned(config, problem, cut, topo, objects.optimiser)
    evaluation = problem.batches(0) if problem.evaluation is None else problem.evaluation
    corpus = Corpus(config.corpus, (), np.zeros(0, np.int64), (), config.corpus)
    shards = Shards((), (), torch.zeros(0), np.zeros((problem.clients, 0), np.int64), (), 0, 0, ())
    measured = partial(measure, problem, evaluation, gr.engine_kind(config.engine))
    no_model = (cast(Any, None), cast(Any, nn.Module()))  # nor a tokenizer
    every = config.eval_every or config.inner_steps
    return Lab(
        *(config, corpus, shards, *no_model, topo, diagnosis, _unlike(laid, config), laid),
        *(Probe((), (), ()), measured, every, (), device, tuple(notes)),
        failing=failing,
        objects=objects._replace(problem=problem),
    )


def _require_own_knobs(config: RunConfig) -> None:
    """Raise BadInput where a knob was set that a problem of one's own does not read."""
    usual = RunConfig()
    foreign = [f.name for f in fields(RunConfig) if f.metadata["group"] in FOREIGN]
    foreign += ["eval_share", "eval_windows"]
    changed = [name for name in foreign if getattr(config, name) != getattr(usual, name)]
    strange = [name for name in changed if not (name == "corpus" and on_problem(config))]
    allowed = "left out: the problem brings its own"
    check(not strange, ", ".join(strange), [getattr(config, n) for n in strange], allowed)


def _cut(config: RunConfig, problem: Problem) -> tuple[Block, ...]:
    """Return the blocks of the config; where no name has a layer's number, one for each name."""
    layers = {name: layer_of(name) for name in problem.start}
    if config.blocks == "layers" and set(layers.values()) == {None}:
        return tuple(Block(name, (name,)) for name in problem.start)
    anatomy = {name: "head" if layer is None else layer for name, layer in layers.items()}
    sizes = {name: tensor[0].numel() for name, tensor in problem.start.items()}
    return blocks_of(config, anatomy, sizes)


def _unlike(laid: Plan, config: RunConfig) -> heterogeneity.Heterogeneity:
    """Return how unlike the clients are: by their gradients at the start, the labels of a text having no meaning here."""
    apart = start_spread(laid, config)
    return heterogeneity.Heterogeneity(0.0, 0.0, 0.0, 0.0, 0.0, apart.zeta2, apart.share)


@torch.no_grad()
def measure(
    problem: Problem,
    evaluation: gr.Batch,
    engine: gr.EngineKind,
    params: stacking.Params,
    blocks: tuple[Tensor, ...],
    here: Tensor,
) -> Measurement:
    """Measure the clients `here`; every model is tried on every client's data, of whom there is one batch each."""
    rows = {name: p[here.to(p.device)] for name, p in params.items()}
    centre = mean_model(rows)
    at_mean = _everywhere(problem, centre, evaluation, engine)
    models = [stacking.client(rows, i) for i in range(len(here))]
    losses = [float(_everywhere(problem, x, evaluation, engine).mean()) for x in models]
    own = gr.losses(problem.loss, params, evaluation, over=engine.over)[here.to(at_mean.device)]
    return Measurement(
        mean_model=float(at_mean.mean()),
        validation=float(at_mean.mean()),
        clients=losses,
        own=own.tolist(),
        consensus=[stacking.consensus_distance(x[here.to(x.device)]) for x in blocks],
        gradient_norm=_gradient_norm(problem, centre, evaluation, engine),
        scores={},
    )


def _everywhere(
    problem: Problem, model: stacking.Params, evaluation: gr.Batch, engine: gr.EngineKind
) -> Tensor:
    """Return the loss (N,) of one model on each client's batch."""
    everywhere = stacking.replicate(model, problem.clients)
    return gr.losses(problem.loss, everywhere, evaluation, over=engine.over)


@torch.enable_grad()
def _gradient_norm(
    problem: Problem, model: stacking.Params, evaluation: gr.Batch, engine: gr.EngineKind
) -> float:
    """Return || (1/N) sum_i grad f_i(x) || at one model."""
    where = stacking.Layout(tuple(model), tuple(tuple(p.shape) for p in model.values()))
    x = stacking.flatten(stacking.replicate(model, problem.clients), where.names)
    g = engine(problem.loss)(x, where, {}, evaluation)[1]
    return float(g.double().mean(0).norm())
