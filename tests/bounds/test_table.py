"""The table of claims: every claim is in it, holds and can fail, and the command says so by its exit code."""

import math
from functools import cache

import pytest
from command import deca_lab

from deca_lab.bounds import adam_step, table
from deca_lab.errors import BadInput

evaluated = cache(lambda name: table.evaluate([name]))  # some examples are whole studies: once each


@pytest.mark.slow
@pytest.mark.parametrize("name", table.claims())
def test_every_claim_holds_in_its_examples_and_fails_when_broken(name):
    rows = evaluated(name)
    assert rows
    for row in rows:
        assert row.right, row
        assert all(map(math.isfinite, (row.lhs, row.rhs)))


def test_both_sides_are_shown_where_they_are_nearest():
    row = next(row for row in evaluated("adam_step") if row.case == "the witness")
    assert row.tightness == pytest.approx(1, rel=1e-9)
    assert row.lhs == pytest.approx(row.rhs, rel=1e-9)


def test_the_command_prints_all_and_exits_1_where_a_claim_fails(capsys, monkeypatch):
    good = deca_lab(capsys, "bounds", "adam_step", "gossip_contraction")
    assert good.code == 0
    assert good.out.count("holds") == 5
    monkeypatch.setattr(
        adam_step, "examples", lambda seed: {"a lie": adam_step.broken(seed)._replace(broken="")}
    )
    bad = deca_lab(capsys, "bounds", "adam_step")
    assert bad.code == 1
    assert "fails at step 2" in bad.out
    monkeypatch.setattr(
        adam_step, "examples", lambda seed: {"truth": adam_step.adam_step(adam_step.witness(5))}
    )
    monkeypatch.setattr(adam_step, "broken", lambda seed: adam_step.adam_step(adam_step.witness(5)))
    assert deca_lab(capsys, "bounds", "adam_step").code == 1  # a check that cannot fail


def test_an_unknown_claim(capsys):
    with pytest.raises(BadInput, match="did you mean 'adam_step'"):
        table.evaluate(["adam_stepp"])
    assert deca_lab(capsys, "bounds", "adam_stepp").code == 2


@pytest.mark.slow
def test_an_exponent_below_zero_has_no_tightness():
    row = evaluated("rates")[0]
    assert math.isnan(row.tightness)
    assert "  -  holds" in row.line
