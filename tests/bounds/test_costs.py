"""Memory and traffic: random layouts against the closed forms, numbers by hand, broken hypotheses, edges, real runs."""

import numpy as np
import pytest
from cases import cases
from command import SMALL

from deca_lab.algorithm import optimisers
from deca_lab.algorithm.blocks import whole
from deca_lab.algorithm.moments import Adam, Feedback, printed, raw
from deca_lab.bounds import costs as cs
from deca_lab.errors import BadInput
from deca_lab.lab import runs
from deca_lab.mixing.topology import topology
from deca_lab.runconfig import RunConfig

PLAIN = optimisers.adam(Adam(), Feedback(None, raw, 1.0, 1.0))
FED = optimisers.adam(Adam(), Feedback(printed, raw, 0.9, 0.9))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("graph", ["ring", "star", "complete"])
@cases("seed", range(3))
def test_random_layouts_cost_what_the_closed_forms_say(seed, graph, half):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2000, 9000, int(rng.integers(1, 5))).tolist()
    plan = cs.laid_out(
        *cs.blocks_of(sizes),
        topology(graph, int(rng.integers(3, 7))),
        [PLAIN, FED][seed % 2],
        half=half,
    )
    found = cs.costs(plan)
    assert (found.finite, found.verdict) == (True, "holds")
    assert found.lhs[0] == found.rhs[0]  # traffic to the byte


def test_by_hand():
    """Six clients on a ring (6 edges), blocks of 5000, 12000 and 7000 numbers of 4 bytes, 2 rounds of 4 steps a visit."""
    plan = cs.laid_out(*cs.blocks_of([5000, 12000, 7000]), topology("ring", 6), PLAIN)
    run = cs.facts(plan)
    assert cs.sent(run) == 2 * 6 * 2 * 4 * 24000 * 4
    assert (
        cs.held(run) == 6 * 24000 * 4 + 4 * 6 * 12000 * 4
    )  # M, and gradient, m, v, buffer of the widest
    assert cs.measured(plan)[0] == cs.sent(run)


def test_the_papers_form_is_exact_for_equal_blocks_in_half_precision():
    run = cs.facts(cs.laid_out(*cs.blocks_of([6000] * 4), topology("ring", 6), PLAIN, half=True))
    assert cs.held(run) == cs.papers(run) == 6 * 24000 * 2 * (1 + 10 / 4)
    uneven = run._replace(widths=(12000, 6000, 3000, 3000))
    assert cs.held(uneven) > cs.papers(uneven)


def test_lora_numbers():
    assert cs.adapter_numbers(8, {"q": (256, 768), "v": (64, 64)}) == 8 * (256 + 768 + 128)
    lora = {"A": (4, 50), "B": (30, 4)}
    plan = cs.laid_out(lora, whole(list(lora)), topology("ring", 4), PLAIN)
    assert cs.facts(plan).widths == (cs.adapter_numbers(4, {"one": (50, 30)}),)
    assert cs.costs(plan).holds()


def test_half_the_mixings_are_half_the_bytes_and_tracking_is_twice():
    ring, equal = topology("ring", 5), cs.blocks_of([3000] * 3)
    once = cs.measured(cs.laid_out(*equal, ring, PLAIN))[0]
    assert cs.measured(cs.laid_out(*equal, ring, PLAIN, mix_every=2))[0] * 2 == once
    assert (
        cs.measured(
            cs.laid_out(*equal, ring, optimisers.mixed_adam(Adam(), Feedback(None, raw, 1.0, 1.0)))
        )[0]
        == 2 * once
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"method": "d-adam"},
        {"method": "dec-lora", "rank": 4},
        {"method": "deca-mixed"},
        {"blocks": "equal", "block_count": 3},
    ],
)
def test_the_closed_forms_fit_real_runs_of_a_gpt(knobs):
    from deca_lab.lab.prepare import prepare

    config = RunConfig(**{**SMALL, "inner_steps": 2, **knobs})
    told, run = runs.run(config), cs.facts(prepare(config).plan)
    assert told.summary["bytes_sent"] == cs.sent(run)
    assert told.summary["memory"]["measured_peak"] == pytest.approx(cs.held(run), rel=0.01)


def test_broken_unequal_blocks_in_the_formula_of_equal_ones_and_a_lost_message():
    assert cs.broken().verdict == "fails at entry 2"
    plan = cs.laid_out(*cs.blocks_of([5000]), topology("ring", 6), PLAIN)
    assert (
        cs.costs(plan, lambda run: run._replace(edges=run.edges - 1)).verdict == "fails at entry 1"
    )


@cases(("clients", "sizes"), [(1, [5000]), (2, [4000, 1]), (3, [3000])])
def test_edge_sizes(clients, sizes):
    found = cs.costs(
        cs.laid_out(
            *cs.blocks_of(sizes), topology("complete", clients), PLAIN, rounds=1, inner_steps=1
        )
    )
    assert found.holds()
    assert found.lhs[0] == clients * (clients - 1) * sum(sizes) * 4


def test_examples_hold():
    assert all(bound.holds() for bound in cs.examples().values())


def test_bad_input():
    run = cs.Run((10,), 3, 3, 1, 4, mix_every=3)
    with pytest.raises(BadInput, match="a divisor of the 4 inner steps"):
        cs.sent(run)
