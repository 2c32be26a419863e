"""What a run measures, against transformers' own loss, plain loops and autograd."""

import math

import pytest
import torch
from cases import cases
from torch.nn.functional import cross_entropy

from deca_lab.algorithm import stacking
from deca_lab.lab import metrics
from deca_lab.lab.metrics import Measurement, Probe
from deca_lab.models import causal_lm

N, V, C = 3, 11, 4


def loss(params, tokens):
    """A bigram model with a scalar temperature; works for any number of windows."""
    logits = params["e"][tokens[:, :-1]] @ params["u"] * params["t"]
    return cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def case(dtype=torch.float64, test=13, own=19, train=15):
    g = torch.Generator().manual_seed(0)
    params = {
        "e": torch.randn(N, V, C, generator=g),
        "u": torch.randn(N, C, V, generator=g),
        "t": torch.randn(N, generator=g),
    }
    params = {name: p.to(dtype) for name, p in params.items()}
    windows = [
        torch.randint(0, V, shape, generator=g) for shape in ((test, 6), (N, own, 6), (N, train, 6))
    ]
    return params, Probe(*windows)


def blocks_of(params):
    return stacking.flatten(params, ["e", "t"]), stacking.flatten(params, ["u"])


def test_everything_against_plain_loops():
    params, probe = case()
    found = metrics.measure(loss, params, blocks_of(params), probe)
    centre = {name: sum(p[i] for i in range(N)) / N for name, p in params.items()}

    def mean_over(one, windows):
        return sum(float(loss(one, w[None])) for w in windows) / len(windows)

    assert found.mean_model == pytest.approx(mean_over(centre, probe.test), rel=1e-13)
    everybodys = [w for windows in probe.own for w in windows]
    assert found.validation == pytest.approx(mean_over(centre, everybodys), rel=1e-13)
    assert found.clients == pytest.approx(
        [mean_over(stacking.client(params, i), probe.test) for i in range(N)], rel=1e-13
    )
    assert found.own == pytest.approx(
        [mean_over(stacking.client(params, i), probe.own[i]) for i in range(N)], rel=1e-13
    )
    by_hand = [
        sum(
            float((p[i] - centre[n]).square().sum())
            for i in range(N)
            for n, p in params.items()
            if n in names
        )
        / N
        for names in (("e", "t"), ("u",))
    ]
    assert found.consensus == pytest.approx(by_hand, rel=1e-12)
    leaves = {name: p.clone().requires_grad_() for name, p in centre.items()}
    whole = sum(loss(leaves, w[None]) for windows in probe.train for w in windows) / (
        N * probe.train.shape[1]
    )
    gradients = torch.autograd.grad(whole, list(leaves.values()))
    assert found.gradient_norm == pytest.approx(
        math.sqrt(sum(float(g.square().sum()) for g in gradients)), rel=1e-12
    )


@pytest.mark.parametrize("chunk", [1, 2, 5, 13, 1000])
def test_chunks_do_not_change_a_value(chunk):
    params, probe = case()
    usual = metrics.measure(loss, params, blocks_of(params), probe)
    probe = probe._replace(rows=chunk)
    other = metrics.measure(loss, params, blocks_of(params), probe)
    for a, b in zip(usual, other, strict=True):
        assert a == pytest.approx(b, rel=1e-12)


def test_the_gradient_of_the_mean_vanishes_where_two_clients_cancel():
    def pull(params, targets):
        return (params["x"] - targets).square().sum(-1).mean() / 2

    windows = torch.tensor([[[1.0, 2.0]], [[-1.0, -2.0]]], dtype=torch.float64)
    assert metrics.gradient_norm(pull, {"x": torch.zeros(2, dtype=torch.float64)}, windows) == 0.0
    assert metrics.gradient_norm(
        pull, {"x": torch.tensor([3.0, 4.0], dtype=torch.float64)}, windows
    ) == pytest.approx(5.0)


@pytest.mark.parametrize("preset", ["tiny", "llama-tiny"])
def test_a_language_model_is_measured_as_transformers_measures_it(preset):
    model = causal_lm.load(preset, seed=1)
    g = torch.Generator().manual_seed(1)
    start = stacking.replicate(causal_lm.trainable(model), N)
    params = {n: p + 0.02 * torch.randn(p.shape, generator=g) for n, p in start.items()}
    probe = Probe(
        *(
            torch.randint(3, causal_lm.BYTES, shape, generator=g)
            for shape in ((10, 9), (N, 3, 9), (N, 2, 9))
        )
    )
    found = metrics.measure(
        causal_lm.client_loss(model), params, (stacking.flatten(params, list(params)),), probe
    )

    def theirs(one, windows):
        return causal_lm.with_parameters(model, one)(
            windows, labels=windows, use_cache=False
        ).loss.item()

    centre = {n: p.mean(0) for n, p in params.items()}
    assert found.mean_model == pytest.approx(theirs(centre, probe.test), rel=1e-5)
    assert found.clients == pytest.approx(
        [theirs(stacking.client(params, i), probe.test) for i in range(N)], rel=1e-5
    )
    assert found.own == pytest.approx(
        [theirs(stacking.client(params, i), probe.own[i]) for i in range(N)], rel=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_averaged_in_float32(dtype):
    x = torch.ones(300, 2).to(dtype)
    x[0] = 0.0
    got = metrics.mean_model({"x": x})["x"]
    assert got.dtype == dtype
    assert torch.equal(got, x.double().mean(0).to(dtype))
    big = torch.full((4, 1), 60000.0).to(torch.float16)
    assert torch.equal(
        metrics.mean_model({"x": big})["x"], big[0]
    )  # the sum would overflow in float16


def test_mean_model_in_full_precision_and_of_scalars():
    params, _ = case()
    centre = metrics.mean_model(params)
    assert centre["t"].shape == ()
    assert centre["e"].dtype == torch.float64
    torch.testing.assert_close(centre["e"], params["e"].sum(0) / N)


def test_measuring_leaves_no_gradient_and_changes_nothing():
    params, probe = case()
    before = {name: p.clone() for name, p in params.items()}
    one, two = (metrics.measure(loss, params, blocks_of(params), probe) for _ in range(2))
    assert one == two
    assert all(
        torch.equal(params[name], before[name]) and not params[name].requires_grad
        for name in params
    )


@cases(
    ("value", "want"),
    [
        (0.0, 1.0),
        (math.log(7), 7.0),
        (700.0, math.inf),
        (1e6, math.inf),
        (math.inf, math.inf),
        (-1.0, math.exp(-1)),
    ],
)
def test_perplexity_is_the_exponential_and_never_an_error(value, want):
    assert metrics.perplexity(value) == pytest.approx(want)


def test_perplexity_of_nan_is_nan_and_just_below_the_overflow_finite():
    assert not math.isfinite(metrics.perplexity(math.nan))
    assert math.isfinite(metrics.perplexity(699.9))


def test_the_row_of_the_table_by_hand():
    found = Measurement(
        mean_model=1.0,
        validation=4.0,
        clients=[1.0, 2.0, 6.0],
        own=[0.5, 1.5, 4.0],
        consensus=[0.25, 0.5],
        gradient_norm=9.0,
        scores={"test_accuracy": 0.5},
    )
    row = found.row(["layer 0", "head"])
    assert row == {
        "test_loss": 1.0,
        "validation_loss": 4.0,
        "test_perplexity": math.e,
        "client_test_loss": 3.0,
        "client_test_loss_min": 1.0,
        "client_test_loss_max": 6.0,
        "own_loss": 2.0,
        "client_test_perplexity": pytest.approx(math.exp(3.0)),
        "test_accuracy": 0.5,
        "gradient_norm": 9.0,
        "consensus": 0.75,
        "consensus[layer 0]": 0.25,
        "consensus[head]": 0.5,
    }
