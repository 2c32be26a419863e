"""Every method on a tiny GPT and two graphs: it learns, repeats itself, resumes, and sends what the formula says.

A new method is one row in `METHODS` and, where the usual learning rate does not suit it, one in `LR`.
"""

from dataclasses import replace

import numpy as np
import pytest
from cases import quick
from command import SMALL

from deca_lab.lab import checkpoint, runs
from deca_lab.methods import METHODS, resolve
from deca_lab.runconfig import RunConfig

LR = {
    "d-sgd": 0.3,
    "gradient-tracking": 0.1,
    "qg-sgdm": 0.03,
    "dec-lora": 0.02,
    "dlora-fa": 0.02,
    "decaf": 0.02,
    "centralised-lora": 0.02,
    "dec-adapter": 0.01,
}
ORDER = sorted(
    METHODS, key=lambda method: method not in ("deca", "gradient-tracking", "dec-lora")
)  # the quick tests' first
ROUGH = {"decaf"}  # its singular value decompositions need memory of their own beside X


def config(method, topology):
    named = {} if "topology" in METHODS[method].fixed else {"topology": topology}
    return RunConfig(
        **{
            **SMALL,
            **named,
            "method": method,
            "lr": LR.get(method, 3e-3),
            "inner_steps": 4,
            "rounds": 2,
        }
    )


@pytest.fixture(scope="module")
def told():
    done = {}

    def once(method, topology):
        if (method, topology) not in done:
            done[method, topology] = runs.run(config(method, topology))
        return done[method, topology]

    return once


@pytest.mark.parametrize("topology", quick(["ring", "complete"]))
@pytest.mark.parametrize("method", quick(ORDER, 3))
def test_it_learns_and_its_ledger_is_right(method, topology, told):
    got = told(method, topology)
    losses = got.metrics["test_loss"]
    assert losses.iloc[-1] < losses.iloc[0] - 0.01
    assert (got.edges["measured"] == got.edges["predicted"]).all()
    assert got.summary["bytes_sent"] == got.summary["bytes_predicted"]
    memory = got.summary["memory"]
    assert method in ROUGH or memory["measured_peak"] == pytest.approx(memory["peak"], rel=0.1)


@pytest.mark.parametrize("method", quick(ORDER))
def test_it_repeats_itself_and_resumes_to_the_bit(method, told, tmp_path):
    class Stop(Exception):
        pass

    def stopping(done, total, known):
        if done == 6:
            raise Stop

    wanted = replace(config(method, "ring"), checkpoint_every=1)
    with pytest.raises(Stop):
        runs.run(wanted, tmp_path / "run", stopping)
    resumed = runs.resume(tmp_path / "run")
    assert resumed.metrics.equals(told(method, "ring").metrics)


@pytest.mark.parametrize(
    "method", quick(["dec-lora", "decaf", "dlora-fa", "dec-adapter", "centralised-lora"])
)
def test_adapters_leave_the_base_alone_and_share_it(method, told):
    got = told(method, "ring")
    clients = resolve(config(method, "ring")).clients
    assert got.summary["memory"]["weights"] == 4 * clients * got.summary["parameters"]
    assert got.summary["memory"]["shared"] > 10 * got.summary["memory"]["weights"] / clients
    assert got.blocks["block"].tolist() == ["all", "frozen"]
    assert (
        not any("lora" in name or "down" in name for name in got.blocks["names"].iloc[1].split())
        or method == "dlora-fa"
    )


def test_a_base_in_four_bits_is_stored_in_four_bits_and_learns(told):
    full, packed = (
        told("dec-lora", "ring"),
        runs.run(replace(config("dec-lora", "ring"), base_weights="nf4")),
    )
    saved = full.summary["memory"]["shared"] - packed.summary["memory"]["shared"]
    assert saved > 0.8 * 4 * 2 * 12 * 64 * 64  # 2 layers of 12 x 64 x 64 weights, 32 bits to 4.5
    assert packed.metrics["test_loss"].iloc[-1] < packed.metrics["test_loss"].iloc[0] - 0.01


@pytest.mark.parametrize("local_steps", [1, 4])
def test_dec_lora_on_a_complete_graph_mixes_the_factors_apart(local_steps, tmp_path):
    """After a mixing with equal weights, every client holds the mean of the A and the mean of the B, whatever K."""
    wanted = replace(config("dec-lora", "complete"), mix_every=local_steps, rounds=1)
    runs.run(wanted, tmp_path / "run")
    state, _ = checkpoint.load(tmp_path / "run" / "checkpoint.safetensors")
    x = state.blocks[0].numpy()
    np.testing.assert_allclose(x, np.broadcast_to(x.mean(0), x.shape), atol=1e-7)
    assert np.abs(x).max() > 0


def test_interference_is_measured_and_below_its_bound(told):
    metrics = told("dec-lora", "ring").metrics
    assert (metrics["interference"] <= metrics["interference_bound"] + 1e-12).all()
    assert metrics["interference"].iloc[-1] > 0
    assert told("dlora-fa", "ring").metrics["interference"].eq(0).all()
