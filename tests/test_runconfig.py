"""Every knob's type and range are checked at construction; JSON there and back."""

import json
import math
import re
from dataclasses import FrozenInstanceError, asdict, fields, replace

import numpy as np
import pytest
from cases import cases

from deca_lab.errors import BadInput
from deca_lab.runconfig import RunConfig, defaults, from_json, from_mapping

KNOBS = {f.name: f for f in fields(RunConfig)}
COUNT, AT_LEAST_0 = ([1, 2, 10**6], [0, -1]), ([0, 1, 10**6], [-1])
BETA, SHARE, HELD_OUT = (
    ([0.0, 0.9, 0.999999], [1.0, -0.1, 2.0]),
    ([0.0, 0.5, 1.0], [-1e-9, 1.1]),
    ([1e-9, 0.5], [0.0, 1.0, -0.1]),
)
POSITIVE, NOT_NEGATIVE = ([1e-300, 1.0, 1e9], [0.0, -1e-9]), ([0.0, 1e-9, 1e9], [-1e-9])
RANGES = {  # knob -> (values that are taken, values that are not)
    "max_rows": AT_LEAST_0,
    "micro_batch": AT_LEAST_0,
    "alpha": POSITIVE,
    "rank": COUNT,
    "lora_alpha": POSITIVE,
    "test_share": HELD_OUT,
    "validation_share": HELD_OUT,
    "clients": COUNT,
    "edge_probability": SHARE,
    "degree": COUNT,
    "context": COUNT,
    "batch": COUNT,
    "granularity": COUNT,
    "block_count": COUNT,
    "rounds": COUNT,
    "inner_steps": COUNT,
    "lr": NOT_NEGATIVE,
    "a1": BETA,
    "a2": BETA,
    "eps": POSITIVE,
    "b1": SHARE,
    "b2": SHARE,
    "momentum": BETA,
    "mix_every": COUNT,
    "warmup_steps": AT_LEAST_0,
    "weight_decay": NOT_NEGATIVE,
    "max_grad_norm": NOT_NEGATIVE,
    "drop": BETA,
    "burst": ((1.0, 2.5), (0.5, -1.0)),
    "stale": SHARE,
    "delay": ((1, 64), (0, 65)),
    "noise": NOT_NEGATIVE,
    "keep_share": ((0.01, 1.0), (0.0, 1.1)),
    "bits": ((2, 16), (1, 17)),
    "gamma": ((0.01, 1.0), (0.0, 1.1)),
    "eval_every": AT_LEAST_0,
    "eval_share": ((0.01, 1.0), (0.0, 1.1)),
    "eval_windows": COUNT,
    "checkpoint_every": AT_LEAST_0,
    "seed": AT_LEAST_0,
}


def refused(name, value):
    return pytest.raises(
        BadInput, match=f"^{name} = {re.escape(repr(value))} cannot be used: it must be "
    )


def test_every_number_has_its_range_here():
    assert set(RANGES) == {name for name, f in KNOBS.items() if f.type in (int, float)}
    assert {f.type for f in KNOBS.values()} == {int, float, str, bool}


@cases(("name", "value"), [(n, v) for n, (good, _) in RANGES.items() for v in good])
def test_values_in_range_are_taken(name, value):
    assert getattr(RunConfig(**{name: value}), name) == value


@cases(("name", "value"), [(n, v) for n, (_, bad) in RANGES.items() for v in bad])
def test_values_out_of_range_are_refused(name, value):
    with refused(name, value):
        RunConfig(**{name: value})


@cases("name", [n for n, f in KNOBS.items() if f.type is float])
@cases("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(name, value):
    with refused(name, value):
        RunConfig(**{name: value})


WRONG = {
    int: [True, False, 1.0, "1", None, [1], math.nan],
    float: [True, "0.5", None, (0.5,), 1j],
    str: [1, None, True, 0.5, b"deca", ["deca"]],
    bool: [0, 1, "true", None, 1.0],
}


@cases(("name", "value"), [(n, v) for n, f in KNOBS.items() for v in WRONG[f.type]])
def test_wrong_types_are_refused_with_the_type_that_is_meant(name, value):
    with pytest.raises(BadInput) as caught:
        RunConfig(**{name: value})
    assert (
        str(caught.value)
        == f"{name} = {value!r} cannot be used: it must be of type {KNOBS[name].type.__name__}"
    )


def test_an_integer_that_no_float_can_hold_is_refused():
    with refused("lr", 10**400):
        RunConfig(lr=10**400)


def test_a_seed_that_no_generator_takes_is_refused():
    with refused(
        "seed", 2**64
    ):  # torch.manual_seed overflows from here on, numpy's generators do not
        RunConfig(seed=2**64)


def test_the_defaults_are_in_range_and_named_once():
    assert asdict(RunConfig()) == defaults()
    assert list(defaults()) == list(KNOBS)


def test_every_knob_has_a_group_and_help():
    for f in KNOBS.values():
        assert f.metadata["group"]
        assert f.metadata["help"]
        assert f.metadata["allowed"] is None or f.metadata["allowed"][1]


def test_it_is_frozen_and_a_replacement_is_checked_too():
    config = RunConfig()
    with pytest.raises(FrozenInstanceError):
        config.lr = 1.0  # type: ignore[misc]
    with refused("rounds", 0):
        replace(config, rounds=0)


FULL = {
    "method": "d-adam",
    "lr": 3.3e-5,
    "eps": 1e-300,
    "clients": 5,
    "allow_unsound": True,
    "labels": "ä, 'b\"\n\t\\",
    "patterns": r"h\.\d+ wte",
    "alpha": 0.1 + 0.2,
    "seed": 2**40,
}


@cases("knobs", [{}, FULL, {"lr": 1}, {"a1": 0, "b1": 1}])
def test_json_there_and_back(knobs):
    config = RunConfig(**knobs)
    text = config.to_json()
    back = from_json(text, "here")
    assert back == config
    assert back.to_json() == text
    assert hash(back) == hash(config)
    assert list(json.loads(text)) == list(KNOBS)


@cases(
    ("name", "whole"),
    [(n, int(v)) for n, f in KNOBS.items() if f.type is float for v in (0, 1) if v in RANGES[n][0]],
)
def test_an_integer_where_a_float_is_meant_is_the_same_config(name, whole):
    one, two = RunConfig(**{name: whole}), RunConfig(**{name: float(whole)})
    assert one == two
    assert hash(one) == hash(two)
    assert from_json(one.to_json(), "a") == from_json(two.to_json(), "b") == one


def test_a_mapping_of_a_few_knobs_fills_the_rest():
    assert from_mapping({"rounds": 9}) == RunConfig(rounds=9)
    assert from_mapping({}) == RunConfig()


@cases(("name", "near"), [("round", "rounds"), ("mix-every", "mix_every"), ("learning_rate", None)])
def test_an_unknown_knob_names_the_nearest(name, near):
    with pytest.raises(BadInput, match=f"^unknown knob {name!r}: ") as caught:
        from_mapping({name: 1})
    assert (f"did you mean {near!r}" in str(caught.value)) or near is None


@cases(
    ("text", "message"),
    [
        ("", "^run.json is not JSON: "),
        ("{", "^run.json is not JSON: "),
        ("{'lr': 1}", "^run.json is not JSON: "),
        ("[]", "^run.json = 'list' cannot be used: it must be a JSON object of knobs"),
        ("null", "'NoneType' cannot be used"),
        ("3", "'int' cannot be used"),
        ('{"lr": NaN}', "^lr = nan cannot be used: it must be a finite number"),
        ('{"lr": 1e999}', "^lr = inf cannot be used"),
        ('{"rounds": 2.0}', "^rounds = 2.0 cannot be used: it must be of type int"),
        ('{"rounds": true}', "^rounds = True cannot be used"),
        ('{"method": null}', "^method = None cannot be used"),
        ('{"nosuch": 1}', "^unknown knob 'nosuch'"),
        ('{"rounds": 0}', "^rounds = 0 cannot be used: it must be 1 or more"),
        ('{"seed": ' + "9" * 5000 + "}", "^run.json is not JSON|^seed = "),
    ],
)
def test_damaged_json_is_named_and_refused(text, message):
    with pytest.raises(BadInput, match=message):
        from_json(text, "run.json")


def test_a_masked_number_is_none():
    for gap in (np.ma.masked, np.ma.masked_array(0.5, mask=True)):
        with pytest.raises(BadInput, match=r"^lr = .* of type float"):
            RunConfig(lr=gap)
