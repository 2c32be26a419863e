"""The table of methods: every row resolves, nothing else is touched, contradictions are refused."""

from dataclasses import asdict, fields

import pytest
from cases import cases

from deca_lab.errors import BadInput
from deca_lab.methods import METHODS, resolve
from deca_lab.runconfig import RunConfig, defaults


@cases("name", list(METHODS))
def test_every_method_sets_its_knobs_and_no_other(name):
    done = asdict(resolve(RunConfig(method=name)))
    fixed = dict(METHODS[name].fixed)
    batch = defaults()["batch"] * (defaults()["clients"] if METHODS[name].pooled else 1)
    assert done == {**defaults(), "method": name, **fixed, "batch": batch}
    assert set(fixed) <= {f.name for f in fields(RunConfig)} - {"method"}
    assert METHODS[name].about


@cases("name", list(METHODS))
def test_resolving_twice_is_resolving_once_and_changes_no_argument(name):
    config = RunConfig(method=name, lr=0.25, rounds=7)
    once = resolve(config)
    assert resolve(once) == once
    assert config == RunConfig(method=name, lr=0.25, rounds=7)
    assert (once.lr, once.rounds) == (0.25, 7)


OTHER = {"blocks": "equal", "feedback": "downhill", "moments": "other", "topology": "star"}


@cases(
    ("name", "knob"),
    [
        (n, k)
        for n, row in METHODS.items()
        for k in row.fixed
        if k in OTHER and not (row.pooled and k == "topology")
    ],
)
def test_a_knob_that_contradicts_its_method_is_refused(name, knob):
    want = METHODS[name].fixed[knob]
    with pytest.raises(BadInput) as caught:
        resolve(RunConfig(method=name, **{knob: OTHER[knob]}))
    assert (
        str(caught.value)
        == f"{knob} = {OTHER[knob]!r} contradicts method {name!r}, which is {knob} = {want!r}"
    )


@cases(("name", "knob"), [(n, k) for n, row in METHODS.items() for k in row.fixed])
def test_a_knob_that_agrees_with_its_method_is_taken(name, knob):
    value = METHODS[name].fixed[knob]
    assert getattr(resolve(RunConfig(method=name, **{knob: value})), knob) == value


def test_what_each_method_is():
    assert METHODS["deca"].fixed == {"optimiser": "adam"}
    assert resolve(RunConfig(method="deca")).feedback == "printed"
    assert resolve(RunConfig(method="deca-no-feedback")).feedback == "none"
    d_adam = resolve(RunConfig(method="d-adam"))
    assert (d_adam.blocks, d_adam.feedback, d_adam.moments, d_adam.topology) == (
        "whole",
        "none",
        "keep",
        "ring",
    )
    local = resolve(RunConfig(method="local"))
    assert (local.topology, local.allow_unsound, local.blocks) == ("none", True, "layers")


@cases(
    ("given", "near"),
    [("decca", "deca"), ("d-adm", "d-adam"), ("DECA-no-feedback", "deca-no-feedback")],
)
def test_an_unknown_method_names_the_nearest(given, near):
    with pytest.raises(BadInput) as caught:
        resolve(RunConfig(method=given))
    assert str(caught.value).startswith(f"unknown method {given!r}: did you mean ")
    assert repr(near) in str(caught.value)
    assert str(caught.value).endswith(f"allowed: {', '.join(sorted(METHODS))}")


def test_nothing_near_is_the_table_alone():
    with pytest.raises(BadInput) as caught:
        resolve(RunConfig(method="xyz"))
    assert str(caught.value) == f"unknown method 'xyz': allowed: {', '.join(sorted(METHODS))}"


def test_a_pooled_method_takes_the_batches_of_all_clients():
    alone = resolve(RunConfig(method="badam", clients=6, batch=2, topology="star"))
    assert (alone.clients, alone.batch, alone.topology) == (1, 12, "complete")
