"""The pictures with controls: every slider answers, no setting breaks one, and what is drawn is what the library computes."""

import random
import time

import numpy as np
import pytest
import torch
from cases import quick
from pictured import seen

from deca_lab import RunConfig
from deca_lab.course.widgets import (
    block_scheduler,
    dealing,
    majority,
    majority_rule,
    microscope,
    moment_microscope,
    panel,
    paths,
    quadratic_paths,
    scheduler,
    shard_picture,
    training_dashboard,
)
from deca_lab.errors import BadInput
from deca_lab.pictures.style import styled
from deca_lab.text.corpora import load
from deca_lab.text.shards import split

CORPUS = load("markov", seed=0)
LABELS, NAMES = dealing._few(CORPUS)
SMALL = {
    "model": "tiny",
    "corpus": "markov",
    "clients": 2,
    "topology": "complete",
    "context": 16,
    "batch": 1,
    "rounds": 1,
    "inner_steps": 2,
    "eval_windows": 2,
    "device": "cpu",
}
PICTURES = {
    "dealing": (
        lambda: dealing.scene(LABELS, NAMES),
        dealing.CONTROLS,
        {"split": "dirichlet", "power": 0.0, "clients": 8, "seed": 0},
    ),
    "scheduler": (
        scheduler.scene,
        scheduler.CONTROLS,
        {
            "model": "tiny",
            "cut": "layers",
            "fineness": 1,
            "order": "sequence",
            "rounds": 2,
            "inner_steps": 4,
            "clients": 4,
            "dtype": "float32",
        },
    ),
    "microscope": (
        microscope.scene,
        microscope.CONTROLS,
        {
            "feedback": "printed",
            "scale": "lr",
            "b1": 0.9,
            "b2": 0.99,
            "noise": 0.5,
            "power": -1.0,
            "inner_steps": 12,
            "apart": 2.0,
        },
    ),
    "majority": (
        majority.scene,
        majority.CONTROLS,
        {"clients": 10, "power": -1.0, "inner_steps": 4, "feedback": "printed"},
    ),
    "paths": (
        paths.scene,
        paths.CONTROLS,
        {
            "method": "deca",
            "power": -1.0,
            "inner_steps": 4,
            "apart": 0.5,
            "feedback": "downhill",
            "scale": "lr",
            "b1": 0.9,
            "b2": 0.9,
        },
    ),
}


def other(control, value):
    """Return another value of a control."""
    return (
        next(o for o in control.options if o != value)
        if control.options
        else control.low
        if value != control.low
        else control.high
    )


def drawn(control, rng):
    """Return a random value of a control, its ends often."""
    if control.options:
        return rng.choice(control.options)
    within = (
        rng.randint(int(control.low), int(control.high))
        if control.step == 1
        else rng.uniform(control.low, control.high)
    )
    return rng.choice([control.low, control.high, within])


@pytest.mark.parametrize("name", PICTURES)
def test_moving_a_control_draws_another_picture_and_back_the_same(name):
    make, controls, values = PICTURES[name]
    top, picture, _ = panel.mount(make(), controls, values).children
    widgets = dict(zip(controls, top.children, strict=True))
    before = seen(picture)
    for control in controls:
        widgets[control].value = other(controls[control], values[control])
        changed = seen(picture)[0] != before[0]
        assert changed or control in {"order"}, (
            control
        )  # two layers and ends of equal look: an order may change colours only
        widgets[control].value = values[control]
        assert seen(picture) == before, control


@pytest.mark.parametrize("name", quick(PICTURES))
def test_no_setting_breaks_a_picture(name):
    make, controls, values = PICTURES[name]
    scene, rng = make(), random.Random(name)
    draw, update = panel.renderer(scene.figure), styled(scene.update)
    for _ in range(40):
        try:
            words = update(
                **{**values, **{name: drawn(control, rng) for name, control in controls.items()}}
            )
        except BadInput as error:  # a cut that this model does not allow
            words = str(error)
        assert draw().startswith(b"\x89PNG")
        assert 20 < len(words) < 900
        assert "nan" not in words


@pytest.mark.parametrize(
    "make",
    [
        lambda: shard_picture(CORPUS),
        block_scheduler,
        majority_rule,
        moment_microscope,
        quadratic_paths,
        lambda: training_dashboard(RunConfig(**SMALL)),
    ],
)
def test_elsewhere_it_is_a_picture_with_words(make, monkeypatch):
    from IPython.display import Image

    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.delenv("DECA_LAB_WIDGETS", raising=False)
    shown = make()
    assert isinstance(shown, Image)
    assert len(shown.alt) > 60
    assert len(shown.data) < 60_000


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: shard_picture(CORPUS, clients=1), "clients = 1"),
        (lambda: shard_picture(CORPUS, alpha=0.0), "alpha = 0.0"),
        (lambda: shard_picture(CORPUS, split="shares"), "split = 'shares'"),
        (lambda: block_scheduler(model="huge"), "model = 'huge'"),
        (lambda: block_scheduler(model="tiny", fineness=5), "granularity = 5"),
        (lambda: majority_rule(eps=0.0), "eps = 0.0"),
        (lambda: majority_rule(clients=2), "clients = 2"),
        (lambda: moment_microscope(b1=1.5), "b1 = 1.5"),
        (lambda: moment_microscope(feedback="up"), "feedback = 'up'"),
        (lambda: quadratic_paths(method="adam"), "method = 'adam'"),
        (lambda: quadratic_paths(lr=0.0), "lr = 0.0"),
        (lambda: quadratic_paths(lr=5.0), "lr = 5.0"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(BadInput, match=words):
        call()


@pytest.mark.parametrize("how", ["iid", "by-label", "dirichlet"])
def test_the_rows_are_those_of_split_counted_by_hand(how):
    found = dealing.dealt(LABELS, how, -0.5, 5, 3)
    parts = split(np.array(LABELS), 5, how=how, alpha=10**-0.5, seed=3).train
    by_hand = [
        [sum(LABELS[row] == label for row in part) for label in range(len(NAMES))] for part in parts
    ]
    np.testing.assert_array_equal(found.counts, by_hand)
    mixes = found.counts / found.counts.sum(1, keepdims=True)
    assert found.tv == pytest.approx(np.abs(mixes - mixes.mean(0)).sum(1).mean() / 2)


def test_many_labels_and_rows_are_gathered():
    from deca_lab.text.corpora import Corpus

    many = CORPUS._replace(
        texts=["x"] * 9000,
        labels=np.arange(9000) % 12,
        label_names=[f"kind {k}" for k in range(12)],
    )
    assert isinstance(many, Corpus)
    labels, names = dealing._few(many)
    assert (len(labels), len(names)) == (4000, 8)
    assert names[-1] == "5 others"


def test_small_labels_are_gathered_after_the_dealing_so_that_a_figure_of_it_agrees():
    labels = tuple(np.repeat(np.arange(12), 20 + 10 * np.arange(12)).tolist())
    parts = split(np.array(labels), 5, how="dirichlet", alpha=10**-0.5, seed=3).train
    counts = dealing.dealt(labels, "dirichlet", -0.5, 5, 3).counts
    assert counts.shape == (5, 8)
    assert counts.sum(1).tolist() == [len(part) for part in parts]
    assert counts[:, 0].tolist() == [sum(labels[row] == 11 for row in part) for part in parts]


def test_the_schedule_and_its_costs_by_hand():
    found = scheduler.costs("tiny", "layers", 1, "sequence", 2, 4, 4, "float32")
    widths = [where.width for where in found.plan.layouts]
    assert [visit.block for visit in found.plan.visits] == [0, 1, 2, 3] * 2
    assert found.sent == 2 * 4 * 4 * 2 * 4 * sum(
        widths
    )  # rounds, steps, clients, neighbours, bytes
    assert found.sent_full == 4 * found.sent  # as many steps, four blocks at once
    assert found.memory.weights == 4 * 4 * sum(widths)
    assert found.memory.peak == 4 * 4 * (sum(widths) + 4 * max(widths))


def test_the_moments_are_torchs_adam_where_nothing_is_fed():
    found = microscope.seen("none", "raw", 0.9, 0.99, 24, -1.0, 0.0, 0.0)
    x = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    optimiser, at = torch.optim.Adam([x], lr=0.1, betas=microscope.DECAYS[:2], eps=1e-8), []
    for _ in range(24):
        x.grad = x.detach().clone()  # all wishes are 0, all clients are one
        at.append(float(x.detach()))
        optimiser.step()
    np.testing.assert_allclose(found.g, at, rtol=1e-10)
    np.testing.assert_allclose(found.direction, found.m / (found.root + 1e-8), rtol=1e-12)


def test_what_is_fed_is_the_step_that_was_taken():
    found = microscope.seen(
        "printed", "raw", 1.0, 1.0, 24, -1.0, 0.0, 0.0
    )  # b1 = b2 = 1: it is seen, and not taken in
    np.testing.assert_allclose(found.h, -0.1 * found.direction, rtol=1e-9)
    np.testing.assert_allclose(
        microscope.seen("downhill", "lr", 1.0, 1.0, 24, -1.0, 0.0, 0.0).h,
        found.direction,
        rtol=1e-9,
    )


def test_what_the_majority_descends_lies_between_absolute_values_and_the_mean_loss():
    made, ends, path = majority.went(10, -4.0, 1, "none")
    x = np.linspace(-0.4, 1.4, 19)
    absolute = np.abs(x - made.c).mean(0)
    np.testing.assert_allclose(majority.descended(made, 1e-9, x), absolute, atol=1e-6)
    loss = ((x - made.c) ** 2).mean(0) / 2
    np.testing.assert_allclose(majority.descended(made, 1e6, x), loss, rtol=1e-4, atol=1e-9)
    for eps in (1e-3, 0.1, 2.0):  # its slope, over 1 + eps, is the mean of y / (|y| + eps)
        slope = np.diff(majority.descended(made, eps, np.array([0.3 - 1e-6, 0.3 + 1e-6])))[0] / 2e-6
        y = 0.3 - made.c
        assert slope / (1 + eps) == pytest.approx((y / (np.abs(y) + eps)).mean(), rel=1e-5)
    assert ends < 1e-3 < 0.4 == pytest.approx(path[0])
    assert abs(path[-1]) < majority.LR


def test_decentralised_sgds_path_is_a_matrix_recursion():
    found = paths.paths("d-sgd", -1.0, 4, 0.5, "printed", "raw", 0.9, 0.9)
    from deca_lab.mixing.topology import topology

    W, A, wish = topology("ring", 4).at(0), paths.HESSIAN.numpy(), 0.5 * paths.WISHES.numpy()
    X = np.tile(paths.START, (4, 1))
    for models in found.models:
        np.testing.assert_allclose(models, X, atol=1e-12)
        X = W @ (X - 0.1 * (X - wish) @ A)
    np.testing.assert_allclose(
        found.above[-1], found.models[-1].mean(0) @ A @ found.models[-1].mean(0) / 2, rtol=1e-12
    )


def test_a_block_moves_alone():
    found = paths.paths("deca", -1.0, 4, 0.5, "printed", "raw", 0.99, 0.999)
    moved = np.abs(np.diff(found.models, axis=0)).max(1) > 0  # (steps, 2)
    assert moved[:4].any(0).tolist() == [True, False]
    assert moved[4:8].any(0).tolist() == [False, True]


def wait(done, seconds=600):
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        time.sleep(0.02)
    assert done()


def test_the_stop_button_ends_the_run_with_a_checkpoint(monkeypatch, tmp_path):
    from deca_lab.lab import runs

    monkeypatch.setenv("DECA_LAB_WIDGETS", "on")
    out = tmp_path / "run"
    box = training_dashboard(RunConfig(**{**SMALL, "rounds": 500}), out)
    button, picture, _ = box.children
    wait(lambda: "step" in picture.value)
    before = seen(picture)
    button.click()
    wait(lambda: button.description == "ended")
    wait(lambda: "topped after inner step" in picture.value)
    assert seen(picture)[0] != before[0]
    config = runs.read_config(out)
    assert config.rounds == 500
    assert (out / "checkpoint.safetensors").exists()


def test_the_dashboard_to_the_end_draws_what_run_measures(monkeypatch):
    from deca_lab import run

    monkeypatch.setenv("DECA_LAB_WIDGETS", "on")
    config = RunConfig(**SMALL)
    box = training_dashboard(config)
    wait(lambda: box.children[0].description == "ended")
    last = run(config).metrics.iloc[-1]
    wait(lambda: "Done" in box.children[1].value)
    assert f"to {last.test_loss:.3f}" in box.children[1].value
    with pytest.raises(BadInput, match="clients"):
        training_dashboard(RunConfig(**{**SMALL, "clients": 0}))
