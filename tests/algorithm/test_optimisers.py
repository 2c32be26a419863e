"""Every optimiser against a plain float64 loop of its own equations, and the counter-example that tells them apart."""

import numpy as np
import pytest
import torch
from cases import quick

from deca_lab.algorithm import loop as tr
from deca_lab.algorithm import optimisers as opt
from deca_lab.algorithm.blocks import Block
from deca_lab.algorithm.gradients import looped
from deca_lab.algorithm.moments import SCALES, SIGNALS, Adam, Feedback, downhill, unit_
from deca_lab.algorithm.problems import Problem, quadratics
from deca_lab.lab import ledger
from deca_lab.mixing.topology import Topology, topology

N, D, STEPS, LR = 4, 3, 12, 0.05
W = topology("ring", N).matrices[0]
SKEW = np.array([[0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0.5, 0.5], [0.5, 0, 0, 0.5]])
ADAM = Adam(0.9, 0.99, 1e-8)
ALL = (Block("all", ("x",)),)
NONE = Feedback(None, SCALES["raw"], 1.0, 1.0)


def problem(seed=0):
    rng = np.random.default_rng(seed)
    roots = rng.standard_normal((N, D, D))
    A = roots @ roots.transpose(0, 2, 1) / D + np.eye(D)
    b, x0 = 3 * rng.standard_normal((N, D)), np.tile(rng.standard_normal(D), (N, 1))
    return A, b, x0


def ours(optimiser, mixing=W, steps=STEPS, lr=LR, **knobs):
    A, b, x0 = problem()
    recipe = tr.Recipe(1, steps, lambda s: lr, optimiser, **knobs)
    plan = tr.plan(
        quadratics(*map(torch.from_numpy, (A, b, x0))), ALL, Topology("W", (mixing,)), recipe
    )
    for state, _ in tr.train(plan):  # noqa: B007 - the last one is wanted
        pass
    return state


def gradients(x):
    A, b, _ = problem()
    return np.stack([A[i] @ x[i] - b[i] for i in range(N)])


def mixed(mixing, x):
    return np.stack([sum(mixing[i, j] * x[j] for j in range(N)) for i in range(N)])


def agree(state, x):
    np.testing.assert_allclose(state.blocks[0].numpy(), x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mixing", [W, SKEW], ids=["ring", "skew"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("first", [False, True], ids=["adapt then combine", "combine then adapt"])
def test_sgd(mixing, momentum, first):
    x, m = problem()[2], np.zeros((N, D))
    for _ in range(STEPS):
        m = momentum * m + gradients(x)
        x = mixed(mixing, x) - LR * m if first else mixed(mixing, x - LR * m)
    agree(ours(opt.sgd(momentum), mixing, combine_first=first), x)


@pytest.mark.parametrize("mixing", [W, SKEW], ids=["ring", "skew"])
def test_quasi_global_momentum(mixing):
    x, m = problem()[2], np.zeros((N, D))
    for _ in range(STEPS):
        new = mixed(mixing, x - LR * (0.9 * m + gradients(x)))
        m, x = 0.9 * m + 0.1 * (x - new) / LR, new
    agree(ours(opt.quasi_global_sgd(0.9, 0.1), mixing), x)


def test_quasi_global_adam():
    x, m, v = problem()[2], np.zeros((N, D)), np.zeros((N, D))
    for _ in range(STEPS):
        g = gradients(x)
        local_m, local_v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
        new = mixed(W, x - LR * local_m / (np.sqrt(local_v) + 1e-8))
        d = (x - new) / (np.linalg.norm(x - new, axis=1, keepdims=True) + 1e-8)
        m, v, x = 0.9 * m + 0.1 * d, 0.99 * v + 0.01 * d**2, new
    fed = Feedback(downhill, unit_, 0.9, 0.99)
    agree(ours(opt.quasi_global_adam(ADAM, fed, corrected=False)), x)
    agree(ours(opt.OPTIMISERS["qg-adam"](opt.OptimiserSpec(ADAM, NONE))), x)


@pytest.mark.parametrize("signal", ["printed", "downhill"])
def test_trivial_feedback_stores_the_signal_alone(signal):
    x, m, v, sign = (
        problem()[2],
        np.zeros((N, D)),
        np.zeros((N, D)),
        {"printed": 1, "downhill": -1}[signal],
    )
    for t in range(1, STEPS + 1):
        g = gradients(x)
        m_hat, v_hat = (0.9 * m + 0.1 * g) / (1 - 0.9**t), (0.99 * v + 0.01 * g**2) / (1 - 0.99**t)
        new = mixed(W, x - LR * m_hat / (np.sqrt(v_hat) + 1e-8))
        h = sign * (new - x)
        m, v, x = 0.8 * m + 0.2 * h, 0.7 * v + 0.3 * h**2, new
    agree(ours(opt.quasi_global_adam(ADAM, Feedback(SIGNALS[signal], SCALES["raw"], 0.8, 0.7))), x)


@pytest.mark.parametrize("mixing", [W, SKEW], ids=["ring", "skew"])
@pytest.mark.parametrize("signal", ["none", "printed"])
def test_mixed_second_moments(signal, mixing):
    x, m, v, fed = problem()[2], np.zeros((N, D)), np.zeros((N, D)), signal == "printed"
    for t in range(1, STEPS + 1):
        g = gradients(x)
        m, v = 0.9 * m + 0.1 * g, mixed(mixing, 0.99 * v + 0.01 * g**2)
        new = mixed(mixing, x - LR * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8))
        h = new - x
        m, v, x = (0.8 * m + 0.2 * h, 0.7 * v + 0.3 * h**2, new) if fed else (m, v, new)
    agree(ours(opt.mixed_adam(ADAM, Feedback(SIGNALS[signal], SCALES["raw"], 0.8, 0.7)), mixing), x)


@pytest.mark.parametrize("mixing", [W, SKEW], ids=["ring", "skew"])
@pytest.mark.parametrize("floor", [0.0, 0.01])
def test_predictable_second_moments(floor, mixing):
    x, m, v = problem()[2], np.zeros((N, D)), np.zeros((N, D))
    for t in range(STEPS):
        g = gradients(x)
        if t:  # the first gradient is only measured
            v_hat = v / (1 - 0.99**t)
            m = 0.9 * m + 0.1 * g / (np.sqrt(v_hat + floor * v_hat.mean(1)[:, None]) + 1e-8)
        v = mixed(mixing, 0.99 * v + 0.01 * g**2)
        x = mixed(mixing, x - LR * m)
    agree(ours(opt.predictable_adam(ADAM, floor), mixing), x)


@pytest.mark.parametrize("mixing", [W, SKEW], ids=["ring", "skew"])
def test_gradient_tracking_and_its_invariant(mixing):
    x = problem()[2]
    y = g = gradients(x)
    for t in range(STEPS):
        if t:
            new = gradients(x)
            y, g = mixed(mixing, y) + new - g, new
        np.testing.assert_allclose(
            y.mean(0), gradients(x).mean(0), atol=1e-12
        )  # mean y = mean gradient
        x = mixed(mixing, x - LR * y)
    agree(ours(opt.gradient_tracking(), mixing), x)


def test_gradient_tracking_reaches_the_minimum_where_sgd_stays_apart():
    A, b, _ = problem()
    best = np.linalg.solve(A.mean(0), b.mean(0))
    tracked = ours(opt.gradient_tracking(), steps=3000, lr=0.02).blocks[0].numpy()
    plain = ours(opt.sgd(), steps=3000, lr=0.02).blocks[0].numpy()
    assert np.abs(tracked - best).max() < 1e-10
    assert np.abs(plain - best).max() > 1e-2


def test_amsgrad():
    x, floor = problem()[2], 1e-8
    m, v, largest, u = (
        np.zeros((N, D)),
        np.zeros((N, D)),
        np.full((N, D), floor),
        np.full((N, D), floor),
    )
    for _ in range(STEPS):
        g = gradients(x)
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
        new, u = np.maximum(largest, v), mixed(W, u)
        x = mixed(W, x) - LR * m / np.sqrt(np.maximum(u, floor))
        u, largest = u + new - largest, new
    agree(ours(opt.amsgrad(ADAM, late=True), combine_first=True), x)


def test_amsgrad_with_fresh_second_moments_and_dadam():
    x, floor = problem()[2], 1e-8
    m, v, largest, u = (
        np.zeros((N, D)),
        np.zeros((N, D)),
        np.full((N, D), floor),
        np.full((N, D), floor),
    )
    alone, most = x, np.zeros((N, D))
    n, w = np.zeros((N, D)), np.zeros((N, D))
    for _ in range(STEPS):
        g = gradients(x)
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
        new = np.maximum(largest, v)
        u, largest = mixed(W, u + new - largest), new
        x = mixed(W, x) - LR * m / np.sqrt(np.maximum(u, floor))
        g = gradients(alone)
        n, w = 0.9 * n + 0.1 * g, 0.99 * w + 0.01 * g**2
        most = np.maximum(most, w)
        alone = mixed(W, alone) - LR * n / (np.sqrt(most) + 1e-8)
    agree(ours(opt.amsgrad(ADAM), combine_first=True), x)
    agree(ours(opt.local_amsgrad(ADAM), combine_first=True), alone)


def huber(scales=(2.0, 1.0), centres=(0.0, 1.0)):
    """The two clients of arXiv 2109.03194, Theorem 1: f = c (x - a)^2 near a, linear outside; f's minimum is 1/3."""
    centre, scale = torch.tensor(centres).double(), torch.tensor(scales).double()

    def loss(p, batch):
        a, c = batch
        away = (p["x"][0] - a).abs()
        return torch.where(away <= 1, c * away**2, c * (2 * away - 1))

    return Problem({"x": torch.full((2, 1), -1.0).double()}, loss, lambda step: (centre, scale))


def where_it_ends(optimiser, lr, steps, **knobs):
    plan = tr.plan(
        huber(), ALL, topology("complete", 2), tr.Recipe(1, steps, lambda s: lr, optimiser, **knobs)
    )
    means = [float(state.blocks[0].mean()) for state, _ in tr.train(plan, engine=looped)]
    return np.mean(means[-steps // 5 :])


@pytest.mark.parametrize("lr", quick([0.05, 0.01]))
def test_decentralised_adam_stops_short_of_the_minimum(lr):
    end = where_it_ends(
        opt.local_amsgrad(Adam(0.0, 0.0, 1e-8)), lr, round(60 / lr), combine_first=True
    )
    assert end == pytest.approx(0.5, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("signal", ["none", "printed", "downhill"])
def test_mixed_second_moments_go_to_the_minimum_where_deca_stops_short(signal):
    fed = Feedback(SIGNALS[signal], SCALES["raw"], 0.99, 0.999)
    decays = Adam(0.0, 0.5, 1e-8)
    short = where_it_ends(opt.adam(decays, fed), 0.01, 6000)
    whole = where_it_ends(opt.mixed_adam(decays, fed), 0.01, 6000)
    assert abs(short - 1 / 3) > 0.1
    assert whole == pytest.approx(1 / 3, abs=0.01)


def test_predictable_second_moments_go_to_the_minimum():
    end = where_it_ends(opt.predictable_adam(Adam(0.9, 0.99, 1e-8)), 0.01, 3000)
    assert end == pytest.approx(1 / 3, abs=1e-3)


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize(("lr", "end"), quick([(0.2, 0.357), (0.05, 0.340), (0.01, 0.3347)], 2))
def test_amsgrad_with_a_tracked_second_moment_goes_to_the_minimum(lr, end, late):
    optimiser = opt.amsgrad(Adam(0.0, 0.0, 1e-8), late=late, floor=1.0 if late else 1e-8)
    got = where_it_ends(optimiser, lr, round(60 / lr), combine_first=True)
    assert got == pytest.approx(end, abs=5e-4)


@pytest.mark.parametrize("name", list(opt.OPTIMISERS))
def test_every_row_is_checkpointable_and_says_how_much_it_holds(name):
    row = opt.OPTIMISERS[name](
        opt.OptimiserSpec(ADAM, Feedback(SIGNALS["printed"], SCALES["raw"], 0.9, 0.9), 0.9)
    )
    state = row.init(torch.ones(N, D))
    assert all(t.shape == (N, D) for t in opt.tensors(state))
    assert len(opt.tensors(state)) == row.matrices > 0
    assert opt.numbers(state) == [0]
    _, after = row.update(torch.ones(N, D), state, torch.ones(N, D), lambda x: x.clone())
    assert opt.numbers(after) == [1]
    assert opt.OPTIMISERS[name].__doc__


RATE = {
    "qg-sgd": 0.02,
    "qg-adam": 0.01,
}  # QG-Adam steps with unit displacements, which do not shrink near the minimum


@pytest.mark.parametrize("graph", ["ring", "complete"])
@pytest.mark.parametrize("name", list(opt.OPTIMISERS))
def test_every_optimiser_learns_repeats_itself_and_sends_what_the_formula_says(name, graph):
    A, b, x0 = problem()
    fed = Feedback(SIGNALS["downhill"], SCALES["lr"], 0.9, 0.9)
    recipe = tr.Recipe(
        1,
        60,
        lambda s: RATE.get(name, 0.05),
        opt.OPTIMISERS[name](opt.OptimiserSpec(ADAM, fed, 0.5)),
    )
    plan = tr.plan(
        quadratics(*map(torch.from_numpy, (A, b, x0)), noise=0.1), ALL, topology(graph, N), recipe
    )

    def value(state):
        x = state.blocks[0].mean(0).numpy()
        return float(np.mean([x @ A[i] @ x / 2 - b[i] @ x for i in range(N)]))

    states = [state for state, _ in tr.train(plan)]
    assert value(states[-1]) < value(tr.begin(plan)) - 0.5
    again = [state for state, _ in tr.train(plan)]
    assert torch.equal(states[-1].blocks[0], again[-1].blocks[0])
    assert (states[-1].sent == ledger.traffic(plan)).all()
