"""The time axis: a plain event by event loop, hand arithmetic, stragglers, and what cannot be."""

import numpy as np
import pytest
from command import SMALL, deca_lab

from deca_lab.errors import BadInput
from deca_lab.lab import runs
from deca_lab.lab.clock import clock, network, slower
from deca_lab.lab.prepare import prepare
from deca_lab.runconfig import RunConfig

CONFIG = RunConfig(**SMALL)  # 4 clients on a ring, 4 blocks, 3 inner steps each


def by_hand(plan, net):
    """Return when each client is done, message by message."""
    n, now = plan.topology.n, [0.0] * plan.topology.n
    for s in range(plan.steps):
        width = plan.layouts[plan.visits[s // plan.recipe.inner_steps].block].width
        now = [now[i] + net.compute[i] for i in range(n)]
        if (s + 1) % plan.recipe.mix_every:
            continue
        turn = (s + 1) // plan.recipe.mix_every - 1
        pairs = [
            (i, j)
            for i in range(n)
            for j in range(n)
            if i != j and plan.topology.at(turn)[i, j] != 0
        ]
        over = [
            now[j] + sum(1 for _, k in pairs if k == j) * 4 * width / net.uplink[j]
            for j in range(n)
        ]
        now = [max(over[i], *(over[j] + net.latency for k, j in pairs if k == i)) for i in range(n)]
    return now


@pytest.mark.parametrize("knobs", [{}, {"mix_every": 3}, {"topology": "star"}, {"blocks": "whole"}])
@pytest.mark.parametrize("slow", [{}, {2: 5.0}])
def test_the_time_line_is_that_of_a_plain_loop(knobs, slow):
    plan = prepare(RunConfig(**{**SMALL, **knobs})).plan
    net = network(4, 0.3, 50.0, 0.01, slow)
    found = clock(plan, net)
    np.testing.assert_allclose(found.done[-1], by_hand(plan, net), rtol=1e-12)
    assert (np.diff(found.done, axis=0) > 0).all()
    assert 0 < found.waiting < 1


def test_hand_arithmetic():
    plan = prepare(RunConfig(**{**SMALL, "blocks": "whole", "inner_steps": 2})).plan
    width = plan.layouts[0].width
    found = clock(plan, network(4, 1.0, 8.0, 0.5))  # a megabyte a second; two neighbours each
    assert found.seconds == pytest.approx(2 * (1.0 + 2 * 4 * width / 1e6 + 0.5))


def test_hand_arithmetic_of_short_messages_after_a_whole_one():
    plan = prepare(
        RunConfig(**{**SMALL, "blocks": "whole", "inner_steps": 2, "compress": "quantised"})
    ).plan
    width = plan.layouts[0].width
    found = clock(plan, network(4, 1.0, 8.0, 0.5))
    assert found.seconds == pytest.approx(2 * 1.5 + 2 * (4 * width + width + 4) / 1e6)


def test_a_straggler_that_is_not_waited_for_delays_nobody():
    knobs = {**SMALL, "blocks": "whole", "inner_steps": 8, "stragglers": "1@2"}
    net, slow = (network(4, 1.0, 1e9, 0.0, times) for times in ({}, {1: 2.0}))
    waited = clock(prepare(RunConfig(**{**knobs, "stragglers": ""})).plan, slow)
    found = clock(prepare(RunConfig(**knobs)).plan, slow)
    assert found.seconds == pytest.approx(
        clock(prepare(RunConfig(**knobs)).plan, net).seconds, rel=1e-3
    )
    assert waited.seconds > 1.9 * found.seconds


def test_one_slow_client_holds_up_its_neighbours_first_and_all_in_the_end():
    plan = prepare(RunConfig(**{**SMALL, "clients": 8})).plan
    fast, held = (clock(plan, network(8, 0.1, 1e6, 0.0, slow)) for slow in ({}, {0: 10.0}))
    late = held.done - fast.done > 0.05
    assert late[1].tolist() == [True, True, False, False, False, False, False, True]
    assert late[4].all()
    assert held.seconds > 5 * fast.seconds


def test_the_command(tmp_path, capsys):
    runs.run(CONFIG, tmp_path / "run")
    capsys.readouterr()
    said = deca_lab(capsys, "clock", tmp_path / "run", "--mbit", 1, "--slow", "1@2")
    assert said.code == 0
    assert "12 inner steps" in said.out
    assert deca_lab(capsys, "clock", tmp_path / "run", "--slow", "x").code == 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: network(4, 0.0, 1.0, 0.0), "seconds = 0.0"),
        (lambda: network(4, 1.0, 0.0, 0.0), "mbit = 0.0"),
        (lambda: network(4, 1.0, 1.0, -1.0), "latency"),
        (lambda: network(4, 1.0, 1.0, 0.0, {4: 2.0}), "from 0 to 3"),
        (lambda: slower("3"), "CLIENT@TIMES"),
        (lambda: slower("3@2, 3@4"), "slow = .* each client once"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(BadInput, match=words):
        call()
