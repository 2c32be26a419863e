"""The compiled engine: the loop's gradients from one graph a block, counted, and no other way in silence."""

import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from cases import quick
from command import SMALL, deca_lab, options
from torch._inductor import cpp_builder

from deca_lab.algorithm import compiled as co
from deca_lab.algorithm import stacking
from deca_lab.algorithm.blocks import by_layers
from deca_lab.algorithm.gradients import compiled, looped
from deca_lab.errors import BadInput
from deca_lab.lab import checkpoint, runs
from deca_lab.lab.prepare import prepare
from deca_lab.models import causal_lm
from deca_lab.runconfig import RunConfig

N = 3
pytestmark = [
    pytest.mark.skipif(bool(co.missing("cpu")), reason="no C++ compiler"),
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),  # torch warns of its own
]
CLOSE = {torch.float32: 1e-6, torch.float64: 1e-12}


def split(params, names):
    rest = {n: p for n, p in params.items() if n not in names}
    return stacking.flatten(params, names), stacking.layout(params, names), rest


def cubic(params, batch):
    """A loss of two blocks that is quick to compile."""
    inputs, target = batch
    return ((inputs @ params["w"]).tanh() * params["s"] - target).square().mean()


def cubic_case(dtype, clients=N, rows=5):
    g = torch.Generator().manual_seed(1)
    w, s, inputs, target = (
        torch.randn(clients, *shape, generator=g, dtype=torch.float64).to(dtype)
        for shape in ((4,), (), (rows, 4), (rows,))
    )
    return {"w": w, "s": s}, (inputs, target)


@pytest.mark.parametrize(
    ("dtype", "backend"),  # aot_eager makes the same graphs, and leaves the C++ compiler out
    quick([(torch.float32, "aot_eager"), *((dtype, "inductor") for dtype in CLOSE)]),
    ids=str,
)
def test_gradients_are_the_loops_from_one_graph_a_block(dtype, backend, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    params, batch = cubic_case(dtype)
    gradients, before = compiled(cubic), co.graphs()
    for names in (["w"], ["s"], ["w"], ["s"]):
        x, where, rest = split(params, names)
        kept = x.clone()
        for _ in range(3):
            found, g = gradients(x, where, rest, batch)
        want, g_want = looped(cubic)(x, where, rest, batch)
        torch.testing.assert_close(found, want, rtol=CLOSE[dtype], atol=CLOSE[dtype])
        torch.testing.assert_close(g, g_want, rtol=CLOSE[dtype], atol=CLOSE[dtype])
        assert g.is_contiguous()
        assert not found.requires_grad
        assert torch.equal(x, kept)
    assert co.graphs() - before == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "dtype", "backend"),  # a whole run compares `tiny` through the C++ compiler
    [("tiny", torch.float64, "aot_eager"), ("llama-tiny", torch.float32, "inductor")],
)
def test_a_model_is_one_graph_a_block(preset, dtype, backend, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    # Llama's norms and rotations are in single precision, whatever the model's is
    model = causal_lm.load(preset, seed=3, dtype=dtype)
    g = torch.Generator().manual_seed(0)
    params = {
        name: p + 0.02 * torch.randn(p.shape, generator=g).to(dtype)
        for name, p in stacking.replicate(causal_lm.trainable(model), N).items()
    }
    tokens = torch.randint(3, causal_lm.BYTES, (N, 2, 13), generator=g)
    loss, cut, before = (
        causal_lm.client_loss(model),
        by_layers(causal_lm.anatomy(model)),
        co.graphs(),
    )
    gradients = compiled(loss)
    for block in (*cut, *cut):
        parts = split(params, block.names)
        found, want = gradients(*parts, tokens), looped(loss)(*parts, tokens)
        for a, b in zip(found, want, strict=True):
            torch.testing.assert_close(a, b, rtol=CLOSE[dtype], atol=CLOSE[dtype])
    assert co.graphs() - before == len(cut)


@pytest.mark.slow
def test_a_graph_outlives_steps_without_one(monkeypatch):
    """As in a run, which measures between two steps: nothing that a graph depends on may be left changed."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    # drawn, not loaded: loading takes a step without a graph before the first one has a graph
    model = causal_lm.draw(causal_lm.Preset("", family="gpt2", layers=1, width=16))
    loss = causal_lm.client_loss(model)
    params = stacking.replicate(causal_lm.trainable(model), N)
    given = *split(params, list(params)), torch.randint(3, causal_lm.BYTES, (N, 2, 13))
    gradients, before = compiled(loss), co.graphs()
    for _ in range(2):
        gradients(*given)
        looped(loss)(*given)
    assert co.graphs() - before == 1


@pytest.mark.slow
def test_more_blocks_than_torchs_limit_are_graphs_all():
    params = {f"w{k}": torch.ones(2, 1) for k in range(10)}  # its limit is 8

    def loss(params, batch):
        return sum((p * batch).square().sum() for p in params.values())

    gradients, before = compiled(loss), co.graphs()
    for name in params:
        gradients(*split(params, [name]), torch.ones(2, 1))
    assert co.graphs() - before == 10


def test_a_break_in_the_graph_is_bad_input():
    def broken(params, batch):
        torch._dynamo.graph_break()
        return cubic(params, batch)

    params, batch = cubic_case(torch.float32)
    with pytest.raises(
        BadInput, match=r"^engine = 'compiled' cannot take this model[^\n]*stacked$"
    ):
        compiled(broken)(*split(params, ["w"]), batch)


def test_two_engines_on_one_loss_have_graphs_of_their_own(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    params, batch = cubic_case(torch.float32)
    mapped, before = torch.vmap(cubic), co.graphs()
    one, two = (co.one_graph(mapped)(*split(params, ["w"]), batch) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert co.graphs() - before == 2


@pytest.mark.slow
def test_a_graph_made_at_every_step_is_bad_input():
    count = [0]

    def restless(params, batch):
        return cubic(params, batch) * count[0]

    params, batch = cubic_case(torch.float32)
    gradients = compiled(restless)
    gradients(*split(params, ["w"]), batch)
    count[0] = 1  # what the graph was made for has changed
    with pytest.raises(BadInput, match="one a block and shape"):
        gradients(*split(params, ["w"]), batch)


def test_a_step_that_runs_without_a_graph_is_bad_input():
    params, batch = cubic_case(torch.float32)
    eagerly = torch.compiler.set_stance("force_eager")  # as a user, or TORCHDYNAMO_DISABLE, may ask
    with eagerly, pytest.raises(BadInput, match="one a block and shape"):
        compiled(cubic)(*split(params, ["s"]), batch)


def test_one_client_needs_no_graph():
    params, batch = cubic_case(torch.float64, clients=1)
    before = co.graphs()
    found, want = (e(cubic)(*split(params, ["w"]), batch) for e in (compiled, looped))
    assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))
    assert co.graphs() == before


# in a run

CONFIG = RunConfig(**{**SMALL, "blocks": "whole", "inner_steps": 2, "rounds": 2})


def no_compiler():
    raise RuntimeError("No working C++ compiler found")


def test_without_a_compiler_the_run_says_so_and_auto_is_stacked(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", no_compiler)
    monkeypatch.setitem(co.SPEED, "cpu", 1.0)  # as if it paid
    done = deca_lab(capsys, "run", *options(out=tmp_path / "r", **{**SMALL, "engine": "compiled"}))
    assert done.code == 2
    assert "g++" in done.err
    assert done.err.startswith("error: ")  # before any text is read
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "r").exists()
    lab = prepare(replace(CONFIG, engine="auto"))
    assert lab.config.engine == "stacked"
    assert "g++ or clang is not here" in lab.notes[-1]


@pytest.mark.parametrize(("speed", "engine"), [(1.0, "compiled"), (1e30, "stacked")])
def test_auto_counts_what_a_run_pays_back(monkeypatch, speed, engine):
    monkeypatch.setitem(co.SPEED, "cpu", speed)
    lab = prepare(replace(CONFIG, engine="auto"))
    assert lab.config.engine == engine
    assert lab.notes[-1].startswith(f"engine {engine}, chosen by auto: 1 graphs, one a block, cost")


def test_what_pays_by_hand():
    count = co.worth(blocks=6, layers=4, operations=8e13, device="cpu")
    assert (count.cost, count.saved, count.pays) == (6 * 7.0 * 5, 0.25 * 8e13 / 2e10, True)
    assert not co.worth(6, 4, 1.6e13, "cpu").pays  # 200 s saved, 210 paid


@pytest.mark.slow
def test_a_compiled_run_is_the_stacked_one_and_resumes_to_the_bit(tmp_path):
    """What goes on is a copy of the run's folder in the middle of it, in another process, whose graph is its own."""
    config = replace(CONFIG, engine="compiled", dtype="float64", model="tiny", checkpoint_every=2)

    def copied(done, total, known):
        if done == 3:
            shutil.copytree(tmp_path / "whole", tmp_path / "half")
        return False

    whole = runs.run(config, tmp_path / "whole", copied)
    stacked = runs.run(replace(config, engine="stacked"))
    columns = ["test_loss", "consensus", "gradient_norm"]
    torch.testing.assert_close(
        *(torch.tensor(h.metrics[columns].to_numpy()) for h in (whole, stacked)), rtol=1e-9, atol=0
    )
    graphs, plain = (h.summary["memory"] for h in (whole, stacked))
    late = graphs["weights"]  # what making a graph leaves behind is freed when Python comes to it
    assert 0 <= graphs["measured_peak"] - plain["measured_peak"] <= late
    assert "engine compiled: 1 graphs" in whole.summary["notes"][-1]
    begun, name = tmp_path / "half", "checkpoint.safetensors"
    assert checkpoint.load(begun / name)[0].step == 2
    go_on = "import sys, deca_lab; deca_lab.resume(sys.argv[1])"
    subprocess.run([sys.executable, "-c", go_on, str(begun)], check=True)
    assert (begun / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
