"""CUDA graphs, on ones that are pretended: the stacked engine's gradients to the bit, whatever a step brings."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import cases, quick
from command import SMALL, deca_lab, options
from pretend_gpu import GPU, pretended
from pretend_graphs import place, recorder

from deca_lab.algorithm import cuda_graph as cg
from deca_lab.algorithm import stacking
from deca_lab.algorithm.blocks import by_layers
from deca_lab.algorithm.gradients import ENGINES, in_parts, recorded, stacked
from deca_lab.errors import BadInput, Stopped
from deca_lab.lab.forecast import forecast_of, require_room, size
from deca_lab.lab.prepare import groundwork, prepare
from deca_lab.lab.runs import resume, run
from deca_lab.methods import METHODS
from deca_lab.models import causal_lm
from deca_lab.runconfig import RunConfig

N = 3


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that were recorded, as if the processor were a GPU."""
    kept = []
    monkeypatch.setattr(cg, "recorder", recorder(kept))
    monkeypatch.setattr(cg, "DEVICES", ("cuda", "cpu", GPU.type))
    return kept


def square(params, batch):
    inputs, target = batch
    return ((inputs @ params["w"]).tanh() * params["s"] - target).square().mean()


def drawn(seed, rows=5, clients=N):
    g = torch.Generator().manual_seed(seed)
    shapes = (4,), (), (rows, 4), (rows,)
    w, s, inputs, target = (torch.randn(clients, *shape, generator=g) for shape in shapes)
    return {"w": w, "s": s}, (inputs, target)


def split(params, names):
    rest = {n: p for n, p in params.items() if n not in names}
    return stacking.flatten(params, names), stacking.layout(params, names), rest


def same(found, wanted):
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_gradients_are_the_stacked_ones_from_one_graph_a_block_and_shape(graphs):
    gradients = recorded(square)
    for turn in range(3):
        for names, rows in ((["w"], 5), (["s"], 5), (["w"], 2), (["w", "s"], 5)):
            params, batch = drawn(turn, rows)
            given = *split(params, names), batch
            before = given[0].clone()
            same(gradients(*given), stacked(square)(*given))
            assert torch.equal(given[0], before)
    assert [g.launches for g in graphs] == [2, 2, 2, 2]


def test_after_the_second_step_python_sees_the_loss_no_more(graphs):
    calls = []

    def seen(params, batch):
        calls.append(len(batch))
        return square(params, batch)

    gradients, counts = recorded(seen), []
    for turn in range(4):
        params, batch = drawn(turn)
        gradients(*split(params, ["w"]), batch)
        counts.append(len(calls))
    assert counts == [2, 3, 3, 3]  # as it is, recorded, compared


def test_a_result_stays_when_the_next_step_is_launched(graphs):
    gradients, results = recorded(square), []
    for turn in range(3):
        params, batch = drawn(turn)
        given = *split(params, ["w"]), batch
        found = gradients(*given)
        results.append((found, stacked(square)(*given)))
        found[1].mul_(1)  # as optimisers do that work in place
    for found, wanted in results:
        same(found, wanted)


def test_a_graph_reads_its_own_places_and_the_models_tensors_alone(graphs):
    """Memory of a step's own would be another's at the next launch."""
    model = causal_lm.load("tiny")
    tokens = torch.randint(3, causal_lm.BYTES, (N, 2, 9))
    blocks = by_layers(causal_lm.anatomy(model))
    start = stacking.replicate(causal_lm.trainable(model), N)
    gradients = recorded(causal_lm.client_loss(model))
    held = set(map(place, (*model.parameters(), *model.buffers())))
    given = [tokens]
    for block in blocks:
        x, where, _ = split(start, block.names)
        others = [b for b in blocks if b is not block]
        rest = {
            n: p
            for b in others
            for n, p in stacking.unflatten(
                stacking.flatten(start, b.names), stacking.layout(start, b.names)
            ).items()
        }
        same(
            gradients(x, where, rest, tokens),
            stacked(causal_lm.client_loss(model))(x, where, rest, tokens),
        )
        given += [x, *rest.values()]
    assert len(graphs) == len(blocks)
    for graph in graphs:
        outside = {address: t for address, t in graph.outside.items() if t.dim()}
        assert not {*outside} & set(map(place, given))
        places = [t for t in outside.values() if place(t) not in held]
        assert len(places) <= len(blocks) + 3  # a matrix each, the batch, losses and gradient
    apart = {a: t for graph in graphs for a, t in graph.outside.items() if a not in held}
    weights = sum(p.nbytes for p in causal_lm.trainable(model).values()) * N
    widest = max(stacking.layout(start, b.names).width for b in blocks) * 4 * N
    matrices = sum(t.untyped_storage().nbytes() for t in apart.values())
    assert weights < matrices < weights + len({b.names for b in blocks}) * widest


def test_a_batch_in_parts_has_a_graph_for_each_length(graphs):
    gradients = in_parts(recorded, 2)(square)
    for turn in range(3):
        params, batch = drawn(turn)
        given = *split(params, ["w"]), batch
        same(gradients(*given), in_parts(stacked, 2)(square)(*given))
    assert [g.launches for g in graphs] == [
        5,
        2,
    ]  # of parts of 2, 2 and 1; the first is computed as it is


def capturing(work):
    """Fail as torch does: a second error, when the recording is ended, hides the first."""
    try:
        raise RuntimeError("operation not permitted when stream is capturing")
    finally:
        raise RuntimeError("operation failed due to a previous error during capture")


def full(work):
    raise torch.OutOfMemoryError("CUDA out of memory")


def two_steps(loss, seeds=(0, 0)):
    gradients = recorded(loss)
    for seed in seeds:
        params, batch = drawn(seed)
        gradients(*split(params, ["w"]), batch)


def counting():
    """A loss that is more than operations on tensors: each call has a weight of its own."""
    calls = iter(range(1, 100))
    return lambda params, batch: square(params, batch) * next(calls)


def test_what_cannot_be_recorded_or_is_recorded_wrongly_is_bad_input(graphs, monkeypatch):
    another = "another gradient than without its graph; use stacked"
    with pytest.raises(BadInput, match=another):
        two_steps(counting())
    for record, error, words in (
        (capturing, BadInput, "cannot record this model: operation not permitted .*; use stacked"),
        (lambda work: lambda: None, BadInput, another),
        (full, torch.OutOfMemoryError, "CUDA out of memory"),
    ):
        monkeypatch.setattr(cg, "recorder", lambda device, record=record: record)
        with pytest.raises(error, match=words):
            two_steps(square)


WAITING = {
    "a number of Python's": lambda w: w * torch.tensor(2.0, device=w.device),
    "the same, by its likeness": lambda w: w * w.new_tensor([2.0]),
    "a list of places": lambda w: w[[0, 1]],
    "numbers on the host": lambda w: w * torch.ones(4).to(w.device),
    "a look at a number": lambda w: w if bool(w.detach().isfinite().all()) else -w,
}


@cases("way", WAITING)
def test_a_loss_that_waits_for_the_device_cannot_be_recorded(way, graphs):
    def waiting(params, batch):
        return WAITING[way](params["w"]).square().sum()

    params, batch = drawn(0, clients=1)  # torch.vmap itself refuses some of them
    with pretended():
        there = {name: p.to(GPU) for name, p in params.items()}
        given = *split(there, ["w"]), tuple(t.to(GPU) for t in batch)
        with pytest.raises(BadInput, match="operation not permitted when stream is capturing"):
            recorded(waiting)(*given)
        recorded(square)(*given)


def test_what_is_not_finite_is_left_to_who_reads_the_losses(graphs):
    params, batch = drawn(0)
    params["s"][0] = torch.inf
    gradients = recorded(square)
    for _ in range(2):
        losses, _ = gradients(*split(params, ["w"]), batch)
        assert losses.isfinite().tolist() == [False, True, True]


# in a run

CONFIG = RunConfig(**{**SMALL, "model": "tiny", "rounds": 2, "inner_steps": 2, "blocks": "layers"})
KNOBS = [
    {},
    {"micro_batch": 1},
    {"mixed": "all"},
    {"dtype": "bfloat16"},
    {"drop": 0.3, "compress": "quantised"},
    {"adapter": "lora", "base_weights": "nf4"},
    {"task": "classify", "head": "trained", "model": "llama-tiny", "eval_windows": 16},
    *({"method": name} for name in METHODS),
]


def numbers(history):
    tables = history.metrics, history.train
    return [t.select_dtypes("number").drop(columns="peak_bytes", errors="ignore") for t in tables]


@pytest.mark.parametrize("knobs", quick(KNOBS), ids=str)
def test_a_run_says_the_same_as_a_stacked_one(graphs, knobs):
    config = replace(CONFIG, **knobs)
    runs = [run(replace(config, engine=engine)) for engine in ("cuda-graph", "stacked")]
    for ours, theirs in zip(*map(numbers, runs), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert sum(graph.launches for graph in graphs) >= 3


FINDER = "deca_lab.lab.prepare.find_device"


@pytest.mark.slow
@pytest.mark.parametrize(
    "knobs",
    [{}, {"task": "classify", "head": "trained", "model": "llama-tiny", "eval_windows": 16}],
    ids=str,
)
def test_a_run_on_the_pretended_gpu_is_stopped_and_resumed(knobs, graphs, monkeypatch, tmp_path):
    monkeypatch.setitem(ENGINES, "cuda-graph", ENGINES["cuda-graph"]._replace(graphs=False))
    config = replace(CONFIG, blocks="whole", **knobs)
    config = replace(config, device="cuda", engine="auto")
    with pretended(FINDER):
        whole = run(replace(config, engine="stacked"))
        with pytest.raises(Stopped):
            run(config, tmp_path / "r", lambda done, steps, known: done == 3)
        done = resume(tmp_path / "r")
    assert any("engine cuda-graph, chosen by auto" in note for note in done.summary["notes"])
    for ours, theirs in zip(numbers(done), numbers(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_auto_takes_stacked_where_a_model_cannot_be_recorded(graphs, monkeypatch):
    assert prepare(replace(CONFIG, engine="auto")).config.engine == "cuda-graph"
    for record, error, why in (
        (capturing, BadInput, "engine = 'cuda-graph' cannot record this model"),
        (full, torch.OutOfMemoryError, "CUDA out of memory"),
    ):
        monkeypatch.setattr(cg, "recorder", lambda device, record=record: record)
        lab = prepare(replace(CONFIG, engine="auto"))
        assert lab.config.engine == "stacked"
        assert f"engine stacked, chosen by auto: {why}" in lab.notes[-1]
        with pytest.raises(error, match=why):
            run(replace(CONFIG, engine="cuda-graph"))


def test_without_a_gpu_one_line_says_so(capsys, tmp_path):
    asked = {**SMALL, "engine": "cuda-graph", "device": "cpu"}
    done = deca_lab(capsys, "run", *options(out=tmp_path / "r", **asked))
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "it needs a CUDA device" in done.err
    assert not (tmp_path / "r").exists()


def test_the_forecast_counts_the_places_and_the_graphs_memory(graphs):
    grounds = [groundwork(replace(CONFIG, engine=e)) for e in ("stacked", "cuda-graph", "auto")]
    plain, ours, chosen = map(forecast_of, grounds)
    weights = plain.checkpoint  # nothing but weights is kept between visits
    assert ours.memory - plain.memory == weights + plain.activations
    assert chosen == ours
    for ground in grounds[1:]:
        with pytest.raises(BadInput, match=f"{size(plain.memory)} with --engine stacked, "):
            require_room(ours, plain.memory, ground)
