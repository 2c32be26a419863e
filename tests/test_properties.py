"""Properties under hostile input: a door lets through what keeps its promise, and refuses all else by BadInput alone."""

import json
import os
import re
import shutil
import warnings
from dataclasses import asdict, fields, replace
from pathlib import Path

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from cases import cases
from command import SMALL, deca_lab
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from reference import ROUNDING

from deca_lab import files
from deca_lab.algorithm import blocks
from deca_lab.errors import BadInput
from deca_lab.lab import checkpoint, clock, export, history, runs
from deca_lab.lab.prepare import blocks_of
from deca_lab.mixing.doctor import describe, diagnose
from deca_lab.mixing.graphs import GRAPHS, SEQUENCES
from deca_lab.mixing.matrix import links_of
from deca_lab.mixing.topology import read_matrices, topology
from deca_lab.mixing.weights import WEIGHTS
from deca_lab.models import causal_lm
from deca_lab.network import compression, faults
from deca_lab.runconfig import RunConfig, defaults, from_json, from_mapping
from deca_lab.studies import sweep
from deca_lab.text import corpora, shards
from deca_lab.text.tokens import tokenizer

set_hypothesis_home_dir(
    os.environ["HF_HOME"]
)  # what it stores of its own goes with the tests' other caches
settings.register_profile(
    "deca_lab",
    deadline=None,
    derandomize=True,
    max_examples=50,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("deca_lab")
LONG = "a" * 300
DEEP = "[" * 100_000
HUGE = 10**5000  # Python refuses to write its digits
NAMES = [
    "..",
    "../x",
    "a\0b",
    "\ud800",
    LONG,
    "~stranger/x",
    "/dev/zero",
    "a[1]",
    "*",
    "::",
    " ",
    "-",
    "é",
    "x\ny",
    ".",
]
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=4),
    st.lists(st.integers(), max_size=2),
    st.sampled_from([HUGE, -HUGE, 10**400, 1e308, LONG, np.nan, np.arange(2)]),
)


def kept(build, *args, **knobs):
    """Return what a door gives, or None where it refuses; any other exception is a failure."""
    try:
        return build(*args, **knobs)
    except BadInput:
        return None


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        if path.is_file() and not path.is_symlink()
        else b""
        for path in folder.rglob("*")
    }


# ---- topology


def assert_mixing(W, symmetric, nonnegative=True):
    np.testing.assert_allclose(W.sum(1), 1, rtol=0, atol=1e-12)
    assert W.dtype == np.float64
    assert np.isfinite(W).all()
    if symmetric:
        np.testing.assert_allclose(W, W.T, rtol=0, atol=ROUNDING)
    if nonnegative:
        assert (W >= -1e-12).all()


CHEAP = sorted(set(WEIGHTS) - {"fastest"})


@given(
    name=st.sampled_from(sorted({**GRAPHS, **SEQUENCES, "server": 0})),
    clients=st.integers(-1, 24),
    rule=st.sampled_from(CHEAP),
    probability=st.floats(0.2, 1),
    degree=st.integers(-1, 24),
    seed=st.integers(0, 2**70),
)
@example(name="random-regular", clients=90, rule="lazy", probability=0.5, degree=85, seed=0)
@settings(max_examples=100)
def test_a_named_topology_is_a_mixing_matrix(name, clients, rule, probability, degree, seed):
    made = kept(
        topology, name, clients, weights=rule, probability=probability, degree=degree, seed=seed
    )
    if made is None:
        assert clients < 1 or name in ("torus", "hypercube", "erdos-renyi", "random-regular")
        return
    assert made.n == clients
    for W in made.matrices:
        assert_mixing(W, symmetric=name != "one-peer-exponential")
        np.testing.assert_allclose(W.sum(0), 1, rtol=0, atol=1e-12)
    if name == "random-regular" and clients > 1:
        assert set((made.matrices[0] != 0).sum(1) - 1) == {degree}
    if name not in ("none", "one-peer-exponential", "random-matchings"):
        assert diagnose(made).connected
    assert np.array_equal(
        topology(
            name, clients, weights=rule, probability=probability, degree=degree, seed=seed
        ).matrices,
        made.matrices,
    )


@given(
    name=st.one_of(
        st.sampled_from(["ring", "erdos-renyi", "random-regular", "server"]),
        ODD,
        st.sampled_from(NAMES),
    ),
    clients=st.one_of(st.integers(1, 6), ODD),
    rule=st.one_of(st.sampled_from(CHEAP), ODD),
    probability=ODD,
    degree=ODD,
    seed=st.one_of(st.just(0), ODD),
)
@example(name="ring", clients=10**400, rule="lazy", probability=0.5, degree=2, seed=0)
@example(name="ring", clients=np.int64(2**40), rule="lazy", probability=0.5, degree=2, seed=0)
@example(name="erdos-renyi", clients=5, rule="lazy", probability="x", degree=2, seed=0)
@example(name="erdos-renyi", clients=5, rule="lazy", probability=1e-300, degree=2, seed=0)
@example(name="x." * 3000, clients=5, rule="lazy", probability=0.5, degree=2, seed=0)
def test_hostile_knobs_of_a_topology(name, clients, rule, probability, degree, seed):
    made = kept(
        topology, name, clients, weights=rule, probability=probability, degree=degree, seed=seed
    )
    assert made is None or made.n >= 1


@st.composite
def graphs(draw):
    kind = draw(st.sampled_from([nx.Graph, nx.DiGraph, nx.MultiGraph, nx.MultiDiGraph]))
    node = st.one_of(st.integers(-3, 6), st.sampled_from(["a", "b", "", (1, 2)]))
    graph = kind(draw(st.lists(st.tuples(node, node), max_size=14)))
    graph.add_nodes_from(draw(st.lists(node, max_size=3)))
    for edge in graph.edges(data=True):
        edge[2]["weight"] = draw(st.sampled_from([1, -1, 0, float("nan")]))
    return graph


@given(graph=graphs(), rule=st.sampled_from(CHEAP))
def test_any_graph_of_ones_own_is_a_mixing_matrix(graph, rule):
    made = kept(topology, graph, weights=rule)
    if made is None:
        assert len(graph) == 0 or (graph.is_directed() and rule == "laplacian")
        return
    W = made.matrices[0]
    assert_mixing(W, symmetric=not graph.is_directed())
    apart = sum(a != b for a, b in set(graph.edges()))
    assert np.count_nonzero(W - np.diag(np.diag(W))) <= apart * (1 if graph.is_directed() else 2)
    assert (describe(made).splitlines()[-1] == "verdict: sound") == (
        diagnose(made).verdict == "sound"
    )


@given(edges=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8))
@settings(max_examples=8)
def test_fastest_weights_keep_sums_and_symmetry(edges):
    made = topology(nx.Graph(edges), weights="fastest")
    assert_mixing(made.matrices[0], symmetric=True, nonnegative=False)


NUMBER = st.one_of(
    st.sampled_from([0.0, 0.5, 1.0, 1 / 3]),
    st.floats(),
    st.integers(),
    st.sampled_from([1e308, -1e308, 1e200]),
)


@given(
    W=st.one_of(
        st.integers(0, 4).flatmap(
            lambda n: st.lists(st.lists(NUMBER, min_size=n, max_size=n), min_size=n, max_size=n)
        ),
        st.lists(
            st.lists(
                st.one_of(NUMBER, st.none(), st.text(max_size=2), st.lists(NUMBER, max_size=2)),
                max_size=3,
            ),
            max_size=3,
        ),
        st.lists(
            st.lists(st.lists(NUMBER, min_size=2, max_size=2), min_size=2, max_size=2), max_size=4
        ),
        ODD,
    )
)
@example(W=[[1, [2, 3]], [4, 5]])
@example(W=[[1e308, 1e308], [1e308, 0.0]])
@example(W=[[[1e99, 1.0], [0.0, 1.0]]] * 4)
@example(W=(np.random.default_rng(0).random((40, 40)) * 5).tolist())
@settings(max_examples=100)
def test_a_matrix_of_ones_own_is_taken_as_it_stands_and_judged(W):
    made = kept(topology, W)
    if made is not None and not isinstance(W, str):
        np.testing.assert_array_equal(
            np.array(made.matrices).reshape(-1), np.asarray(W, dtype=np.float64).reshape(-1)
        )
        assert all(np.isfinite(M).all() and M.shape == (made.n, made.n) for M in made.matrices)
    for subject in (W, made):
        found = (
            kept(diagnose, subject)
            if subject is not None and not isinstance(subject, str | bytes)
            else None
        )
        assert found is None or describe(found).splitlines()[-1].startswith(
            f"verdict: {found.verdict}"
        )
        if found is not None and found.verdict == "sound":
            assert max(found.row_error, found.column_error) <= 1e-9
            assert found.connected


NPY = b"\x93NUMPY\x01\x00"


@st.composite
def npy(draw):
    shape = draw(
        st.sampled_from(
            [
                "(2, 2)",
                "(2,",
                "(-1, 4)",
                f"({10**30},)",
                "(1, 4)",
                "'x'",
                "(2.0, 2)",
                "[2, 2]",
                "(10**9,)",
                "",
            ]
        )
    )
    kind = draw(
        st.sampled_from(["<f8", "<c16", "|O", "V8", "<U2", "zz", "<f2", "(2,2)<f8", "M8[s]"])
    )
    head = draw(
        st.sampled_from(
            [
                f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}",
                "{",
                "'''",
                "(" * 900,
                "",
                "\n  1\n 2",
                "{'descr'}",
                "L",
            ]
        )
    ).encode()
    return NPY + len(head).to_bytes(2, "little") + head + draw(st.binary(max_size=40))


@given(
    suffix=st.sampled_from([".csv", ".npy", ".CSV", ""]),
    data=st.one_of(
        st.binary(max_size=60),
        npy(),
        st.text("0123456789./,-#e \nnaif", max_size=40).map(str.encode),
        st.sampled_from(
            [
                b"1/3," + b"9" * 6000,
                b"1e999,1\n1,1",
                b"1/0",
                b"\xef\xbb\xbf1",
                b"0.5,0.5\n0.5,0.5",
                b"1,\n",
            ]
        ),
    ),
)
@settings(max_examples=150)
def test_a_matrix_file_of_any_bytes(tmp_path, suffix, data):
    file = tmp_path / f"w{suffix}"
    file.write_bytes(data)
    for W in kept(read_matrices, file) or ():
        assert W.dtype == np.float64
        assert W.ndim == 2


@cases("suffix", [".csv", ".npy", ".txt", ".jsonl", ""])
@cases("name", NAMES)
def test_hostile_names_of_input_files(tmp_path, monkeypatch, name, suffix):
    monkeypatch.chdir(tmp_path)
    for read in (read_matrices, corpora.load, history.load, runs.read_config, runs.resume):
        assert kept(read, name + suffix) is None
    sweep_of(name + suffix)


@pytest.mark.parametrize("name", NAMES)
def test_hostile_names_of_models_and_tokenizers(tmp_path, monkeypatch, name):
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    assert kept(tokenizer, name) is kept(causal_lm.load, name) is None
    assert tree(tmp_path) == {"in": b""}


@pytest.mark.parametrize("method", [*NAMES, "../../x"])
def test_a_hostile_method_makes_no_folder(tmp_path, monkeypatch, capsys, method):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    said = deca_lab(capsys, "run", "--method", method)
    assert said.code == 2
    assert tree(tmp_path) == {"runs": b""}


def sweep_of(name):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "_outcome", lambda config, *where: dict.fromkeys(sweep.MEASURED, 1.0))
        return kept(sweep.sweep, RunConfig(), {"b1": [0.5]}, 1, Path(name))


# ---- shards


@given(
    labels=st.lists(st.integers(0, 4), max_size=60).map(
        lambda rows: np.array(rows, dtype=np.int64)
    ),
    how=st.sampled_from([name for name in shards.SPLITS if name != "shares"]),
    clients=st.integers(-1, 9),
    alpha=st.sampled_from([1e-320, 1e-3, 0.25, 1.0, 1e9]),
    test=st.floats(0, 0.999),
    validation=st.floats(0, 0.999),
    seed=st.integers(0, 2**70),
)
@example(
    labels=np.array([0, 1, 0]),
    how="by-label",
    clients=1,
    alpha=1.0,
    test=0.99,
    validation=0.0,
    seed=0,
)
@settings(max_examples=100)
def test_a_split_deals_every_row_once(labels, how, clients, alpha, test, validation, seed):
    knobs = {
        "how": how,
        "alpha": alpha,
        "test_share": test,
        "validation_share": validation,
        "seed": seed,
    }
    made = kept(shards.split, labels, clients, **knobs)
    if made is None:
        return
    dealt = np.concatenate([*made.train, *made.validation, made.test])
    np.testing.assert_array_equal(np.sort(dealt), np.arange(len(labels)))
    assert len(made.train) == len(made.validation) == clients
    assert all(len(part) > 0 for part in made.train)
    assert all((len(part) > 0) == (validation > 0) for part in made.validation)
    assert len(made.test) == (max(1, round(test * len(labels))) if test > 0 else 0)
    again = shards.split(labels, clients, **knobs)
    assert all(map(np.array_equal, (*made.train, made.test), (*again.train, again.test)))


@given(
    labels=st.lists(st.integers(0, 2), min_size=6, max_size=60).map(np.array),
    seed=st.integers(0, 9),
    shares=st.lists(
        st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=3),
        min_size=1,
        max_size=4,
    ),
)
def test_a_table_of_shares_is_kept(labels, seed, shares):
    made = kept(
        shards.split,
        labels,
        len(shares),
        how="shares",
        shares=shares,
        test_share=0,
        validation_share=0,
        seed=seed,
    )
    if made is None:
        return
    dealt = np.concatenate(made.train)
    assert len(set(dealt.tolist())) == len(dealt)
    names = np.unique(labels)
    for part, row in zip(made.train, shares, strict=True):
        counts = np.array([(labels[part] == name).sum() for name in names])
        size = min(
            (labels == name).sum() / total
            for name, total in zip(names, np.sum(shares, axis=0), strict=True)
            if total
        )
        assert np.abs(counts - np.array(row) * size).max() < 1


@given(
    labels=st.one_of(
        ODD,
        st.sampled_from([np.zeros((3, 2)), np.array(["b", "a"] * 9), np.array([0.5, np.nan] * 9)]),
    ),
    clients=ODD,
    alpha=ODD,
    test=ODD,
    seed=ODD,
    how=st.one_of(st.sampled_from(sorted(shards.SPLITS)), ODD),
    shares=st.one_of(st.none(), ODD, st.lists(ODD, max_size=2)),
)
@example(
    labels=np.arange(20) % 2,
    clients=2,
    alpha=1,
    test=0.1,
    seed=0,
    how="shares",
    shares=[[10**400, 1], [1, 1]],
)
@example(labels=np.arange(20) % 2, clients=2.5, alpha=1, test=0.1, seed=0, how="iid", shares=None)
@example(labels=np.arange(20) % 2, clients=2, alpha="1", test=0.1, seed=0, how="iid", shares=None)
@example(labels=np.arange(20) % 2, clients=2, alpha=1, test=None, seed=0, how="iid", shares=None)
@example(labels=np.arange(20) % 2, clients=2, alpha=1, test=0.1, seed=0.5, how="iid", shares=None)
def test_hostile_knobs_of_a_split(labels, clients, alpha, test, seed, how, shares):
    kept(
        shards.split,
        labels,
        clients,
        how=how,
        alpha=alpha,
        test_share=test,
        seed=seed,
        shares=shares,
    )


# ---- blocks

ANATOMY = st.dictionaries(
    st.one_of(
        st.sampled_from(["embed.weight", "h.0.attn.q.weight", "h.1.mlp.bias", "norm", "a" * 60]),
        st.text(max_size=6),
    ),
    st.one_of(st.integers(0, 5), st.sampled_from(["embeddings", "head"])),
    max_size=9,
)
HOSTILE = [
    "(a+)+$",
    "(a|a)*b",
    "(.*)*!",
    r"(\w+\.?)+!",
    "a{99999999999}",
    "(" * 3000,
    "[[a]",
    "*",
    "(?P<x>a)(?P=x)",
    r"\1",
    "[",
    "(?z)",
    ".*.*.*.*.*!",
    "a?" * 30 + "a" * 30,
    "(a{1,9}){1,9}(a{1,9}){1,9}!",
    "(?#x",
    "\0",
    "\ud800",
    "(a+)(?#x)+$",
    "((a+)+)?b",
    "((a+){2,}){2,}!",
]


@given(
    anatomy=ANATOMY,
    cut=st.sampled_from(["layers", "equal", "patterns", "whole", "x"]),
    granularity=st.integers(1, 7),
    count=st.integers(1, 10),
    ends=st.sampled_from(["own", "joined", "frozen", "x"]),
    freeze=st.one_of(st.just(""), st.text(max_size=5), st.sampled_from([*HOSTILE, "attn"])),
    patterns=st.one_of(
        st.sampled_from([".", "^h a|e", "attn mlp norm|embed", r"h\.0 h\.1 ^(?!h)"]),
        st.text(max_size=6),
        st.sampled_from(HOSTILE),
    ),
)
@settings(max_examples=200)
def test_blocks_cover_every_trainable_name_once(
    anatomy, cut, granularity, count, ends, freeze, patterns
):
    config = RunConfig(
        blocks=cut,
        granularity=granularity,
        block_count=count,
        ends=ends,
        freeze=freeze,
        patterns=patterns,
    )
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # "possible nested set": it is taken as it stands today
        made = kept(blocks_of, config, anatomy, {name: len(name) for name in anatomy})
        if made is None:
            return
        frozen = {
            name
            for name, where in anatomy.items()
            if (freeze and re.search(freeze, name)) or (ends == "frozen" and isinstance(where, str))
        }
    held = [name for block in made for name in block.names]
    assert sorted(held) == sorted(set(anatomy) - frozen)
    assert all(block.names for block in made)
    if cut == "equal":
        assert len(made) == count
    if cut == "layers":
        depths = [
            {anatomy[name] for name in block.names if isinstance(anatomy[name], int)}
            for block in made
        ]
        assert all(len(held) <= granularity for held in depths)


@cases("pattern", HOSTILE)
@pytest.mark.timeout(120)  # one that backtracks has no end at all
def test_a_hostile_pattern_ends(pattern):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        kept(
            blocks.matching,
            ["a" * 60, "model.layers.10.self_attn.q_proj.lora_A.default.weight"] * 20,
            pattern,
            "patterns",
        )


@given(sizes=st.lists(st.integers(0, 10**12), min_size=1, max_size=20), count=st.integers(-1, 21))
def test_equal_blocks_are_nearly_equal(sizes, count):
    named = {f"n{i}": size for i, size in enumerate(sizes)}
    made = kept(blocks.of_equal_size, named, count)
    assert (made is None) == (not 1 <= count <= len(sizes))
    for block in made or ():
        assert (
            sum(named[name] for name in block.names)
            <= sum(sizes) / count + max(sizes) + 1e-3 * sum(sizes) / 10**6
        )
    assert made is None or [name for block in made for name in block.names] == list(named)
    assert made is None or (len(made) == count and all(block.names for block in made))


# ---- config

KINDS = {f.name: f.type for f in fields(RunConfig)}
OF_KIND = {
    int: st.integers(-1, 10**20),
    float: st.floats(),
    str: st.text(max_size=9),
    bool: st.booleans(),
}
LIKELY = st.fixed_dictionaries({}, optional={name: OF_KIND[kind] for name, kind in KINDS.items()})
WILD = st.dictionaries(
    st.one_of(st.sampled_from(sorted(KINDS)), st.text(max_size=6)), ODD, max_size=3
)
FLOATS = st.floats(0.01, 0.99) | st.floats(0, 1e300) | st.sampled_from([0.0, 1.0])
VALID = {int: st.integers(1, 10**20), float: FLOATS, str: st.text(max_size=9), bool: st.booleans()}


ALLOWED = {f.name: f.metadata["allowed"] for f in fields(RunConfig)}


def in_range(name, value):
    return ALLOWED[name] is None or ALLOWED[name][0](value)


def assert_valid(config):
    assert {name: type(value) for name, value in asdict(config).items()} == KINDS
    assert all(np.isfinite(value) for value in asdict(config).values() if isinstance(value, float))
    assert all(in_range(name, value) for name, value in asdict(config).items())


@given(values=st.one_of(LIKELY, WILD))
@example(values={"clients": -HUGE})
@example(values={"lr": HUGE})
@example(values={"clients": np.arange(2)})
@example(values={"seed": torch.zeros(2)})
@example(values={"lr": np.float32(0.5)})
@example(values={"lr": float("nan")})
@example(values={5: 1})
@settings(max_examples=150)
def test_any_mapping_is_a_valid_config_or_refused(values):
    config = kept(from_mapping, values)
    if config is not None:
        assert_valid(config)
        assert from_json(config.to_json(), "there and back") == config
        config.to_json().encode()


@given(
    values=st.fixed_dictionaries({}, optional={name: VALID[kind] for name, kind in KINDS.items()})
)
def test_a_config_within_its_ranges_is_taken_and_comes_back(values):
    values = {name: value for name, value in values.items() if in_range(name, value)} | {
        "seed": 2**63 - 1
    }
    config = from_mapping(values)
    assert asdict(config) == {**defaults(), **values}
    assert from_json(config.to_json(), "there and back") == config


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["lr", "seed", "x"]), inner, max_size=2)
    ),
)


@given(
    text=st.one_of(
        st.text(max_size=20),
        JSON.map(json.dumps),
        st.sampled_from(
            [
                DEEP,
                '{"lr":' + DEEP,
                '{"seed":' + "9" * 9000 + "}",
                "{}",
                '{"lr":1e999}',
                '{"lr":NaN}',
            ]
        ),
    )
)
def test_any_text_is_a_config_or_refused(text):
    config = kept(from_json, text, "config.json")
    assert config is None or assert_valid(config) is None


@given(
    texts=st.lists(
        st.one_of(
            st.text(max_size=9),
            st.builds(
                "{}={}".format,
                st.sampled_from(sorted(KINDS)),
                st.one_of(
                    st.text("0123456789.,e-naif ", max_size=9), st.sampled_from(["9" * 9000, LONG])
                ),
            ),
        ),
        max_size=3,
    )
)
def test_a_grid_of_any_text(texts):
    grid = kept(sweep.parse_grid, texts)
    assert grid is None or all(
        type(value) is KINDS[name] for name, values in grid.items() for value in values
    )


# ---- files

CELLS = st.text('abc,"\n\r1\\0é\t;null{}[]:', max_size=40)
ROWS = st.lists(
    st.dictionaries(st.sampled_from(["text", "label", "answer", "", "x"]), JSON, max_size=3),
    max_size=3,
)
TABLES = st.one_of(
    st.binary(max_size=30),
    CELLS.map(str.encode),
    st.just(b"\xef\xbb\xbfnull"),
    st.just(b" null\n{}"),
    ROWS.map(lambda rows: "\n".join(map(json.dumps, rows)).encode()),
    ROWS.map(lambda rows: pd.DataFrame(rows).to_csv(index=False).encode("utf-8", "replace")),
    ROWS.map(lambda rows: json.dumps(rows).encode()),
)


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # of the readers
@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl", ".json"])
@given(
    data=TABLES,
    answer=st.sampled_from([None, "", "answer"]),
    column=st.sampled_from([None, "text", "x", ["text", "x"]]),
)
@settings(max_examples=40)
def test_a_corpus_of_any_bytes(tmp_path, suffix, data, answer, column):
    (tmp_path / f"rows{suffix}").write_bytes(data)
    before = tree(tmp_path)
    corpus = kept(corpora.load, tmp_path / f"rows{suffix}", answer=answer, text=column)
    assert tree(tmp_path) == before
    if corpus is not None:
        assert len(corpus.texts) == len(corpus.labels) == len(set(corpus.texts)) > 0
        assert all(text.strip() for text in corpus.texts)
        assert set(corpus.labels.tolist()) == set(range(len(corpus.label_names)))


@given(at=st.integers(0, 10**6), by=st.integers(1, 255), cut=st.booleans())
@settings(max_examples=40)
def test_a_damaged_parquet_file(tmp_path, at, by, cut):
    whole = bytearray(parquet())
    at %= len(whole)
    whole[at] ^= by
    (tmp_path / "rows.parquet").write_bytes(whole[:at] if cut else whole)
    kept(corpora.load, tmp_path / "rows.parquet")


def parquet():
    return pd.DataFrame({"text": ["one", "two"], "label": [0, 1]}).to_parquet()


@pytest.mark.parametrize(
    "name", ["a[1].txt", "a*.txt", "a?.csv", "zip:.txt", "é ü.txt", "-.txt", "a\nb.txt", "{}.txt"]
)
def test_a_file_is_read_by_its_own_name(tmp_path, name):
    (tmp_path / "a1.txt").write_text("another")
    (tmp_path / name).write_text("text,label\nmine,0\n" if name.endswith("csv") else "mine")
    assert corpora.load(tmp_path / name).texts == ("mine",)


def test_pipes_devices_and_folders_are_refused_at_once(tmp_path):
    for name in ("w.csv", "c.jsonl", "config.json", "checkpoint.safetensors"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    (tmp_path / "self.csv").symlink_to("self.csv")
    (tmp_path / "folder.csv").mkdir()
    for name in ("w.csv", "zero.csv", "self.csv", "folder.csv"):
        for read in (read_matrices, corpora.load):
            assert kept(read, tmp_path / name) is None
    for read in (runs.read_config, history.load, runs.resume):
        assert kept(read, tmp_path) is None
    assert (
        kept(corpora.load, tmp_path / "c.jsonl")
        is kept(checkpoint.load, tmp_path / "checkpoint.safetensors")
        is None
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "done"
    runs.run(RunConfig(**SMALL), folder)
    return folder


PLACES = (
    "config.json",
    "summary.json",
    "topology.csv",
    *(f"{name}.csv" for name in history.TABLES),
)


@given(
    place=st.sampled_from(PLACES),
    at=st.integers(0, 10**6),
    cut=st.booleans(),
    data=st.one_of(
        st.binary(max_size=20),
        CELLS.map(str.encode),
        JSON.map(json.dumps).map(str.encode),
        st.just(DEEP.encode()),
    ),
)
@example(place="config.json", at=0, data=b'{"clients": 1000000000000000000000}', cut=True)
@example(place="summary.json", at=0, data=b"[]", cut=True)
@example(place="metrics.csv", at=0, data=b"a,b\n1,2\n", cut=True)
@settings(max_examples=100)
def test_a_damaged_run_folder_is_read_or_refused(finished, tmp_path, place, at, data, cut):
    whole = (finished / place).read_bytes()
    at %= len(whole)
    folder = tmp_path / "damaged"
    shutil.copytree(
        finished, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors")
    )
    (folder / place).write_bytes(whole[:at] + data + (b"" if cut else whole[at:]))
    before = tree(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.ParserWarning)
        warnings.simplefilter("ignore", pd.errors.DtypeWarning)
        read = kept(history.load, folder)
        (folder / files.SUMS).unlink(missing_ok=True)
        old = kept(history.load, folder)
        times = kept(history.read_timings, folder, [0, 3, 6])
    (folder / files.SUMS).write_bytes((finished / files.SUMS).read_bytes())
    assert tree(tmp_path) == before
    assert all(isinstance(row["seconds"], float) for row in times or ())
    assert (read is not None) == ((folder / place).read_bytes() == whole)
    if old is not None:  # of a version that wrote no checksums
        assert old.W.shape[1:] == (old.config.clients,) * 2
        assert history.UNSEALED in old.summary["notes"]
        assert {"step", "test_loss"} <= set(old.metrics)


@given(at=st.integers(0, 10**7), by=st.integers(0, 255), extra=st.binary(max_size=8))
@example(at=0, by=0, extra=b"")
def test_a_damaged_checkpoint_is_refused(finished, tmp_path, at, by, extra):
    whole = bytearray((finished / "checkpoint.safetensors").read_bytes())
    at %= len(whole)
    whole[at] ^= by
    path = tmp_path / "checkpoint.safetensors"
    for data in (bytes(whole) + extra, bytes(whole[:at]), extra):
        path.write_bytes(data)
        assert (kept(checkpoint.load, path) is not None) == (by == 0 and data == bytes(whole))


@given(
    state=JSON,
    record=JSON,
    seal=st.booleans(),
    tensors=st.sampled_from([{}, {"sent": torch.zeros(2, 2)}]),
)
@settings(max_examples=100)
def test_a_forged_checkpoint_is_refused(tmp_path, state, record, seal, tensors):
    from safetensors.torch import save_file

    text = json.dumps(
        state
        if not isinstance(state, dict)
        else {"step": 0, "counts": state, "record": record, **state}
    )
    sealed = json.dumps(
        {"sha256": checkpoint._digest(None, text, tensors), "state": text} if seal else record
    )
    save_file(tensors, tmp_path / "c.safetensors", metadata={"deca_lab": sealed})
    for kind in (None, tuple):
        made = kept(checkpoint.load, tmp_path / "c.safetensors", kind)
        assert made is None or isinstance(made[1], dict)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\n",
        b"a,b\n1\n2,3,4\n",
        b'"',
        b"b1,seed\n0.5,0,9\n",
        b"b1,seed\nx,0\n",
        b"b1,seed\n" * 9,
    ],
)
def test_a_sweep_goes_on_behind_its_own_rows_only(tmp_path, data):
    (tmp_path / "runs.csv").write_bytes(data)
    assert sweep_of(tmp_path) is None
    assert (tmp_path / "runs.csv").read_bytes() == data


CLIENTS = [
    "..",
    "../../evil",
    "/tmp/evil",
    "-1",
    "²",
    "٣",
    "9" * 5000,
    "",
    "4",
    "0\0",
    " 0",
    "1.0",
    "mean/../..",
    "\ud800",
]


@cases("client", CLIENTS)
def test_export_writes_nothing_for_a_hostile_client(finished, client):
    before = tree(finished.parent)
    assert kept(export.export_model, finished, client, export.default_out(finished, client)) is None
    assert tree(finished.parent) == before


def test_export_refuses_a_config_of_another_run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    for other in ({"blocks": "whole"}, {"blocks": "equal", "block_count": 2}):
        (tmp_path / "run" / "config.json").write_text(
            replace(runs.read_config(finished), **other).to_json()
        )
        before = tree(tmp_path)
        with pytest.raises(BadInput, match=r"was changed since \(block"):
            export.export_model(tmp_path / "run", "mean", tmp_path / "out")
        assert tree(tmp_path) == before


def test_export_stays_in_its_folder(finished, tmp_path):
    before = tree(finished.parent)
    export.export_model(finished, "0", tmp_path / "a" / "b")
    assert tree(finished.parent) == before
    assert {
        path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*") if path.is_file()
    } == {("a", "b")}
    assert os.listdir(tmp_path / "a") == ["b"]


@given(
    name=st.one_of(st.sampled_from([*NAMES, "out/..", "link", "out/link"]), st.text(max_size=5)),
    data=st.one_of(st.binary(), st.text()),
)
def test_a_file_is_written_whole_inside_its_folder_or_not_at_all(tmp_path_factory, name, data):
    base = tmp_path_factory.mktemp("base")
    outside, folder = base / "outside", base / "out"
    outside.mkdir()
    folder.mkdir()
    (outside / "secret").write_text("untouched")
    (folder / "link").symlink_to(outside / "secret")
    assume(not name.startswith("/") and ".." not in name)
    before = tree(base)
    kept(files.write_whole, folder / name, data)
    after = tree(base)
    assert {
        place for place in before.keys() | after.keys() if before.get(place) != after.get(place)
    } <= {f"out/{name}"}
    assert (outside / "secret").read_text() == "untouched"
    assert not [
        place for place in after if "/." in place and place not in before and place != f"out/{name}"
    ]


@pytest.mark.parametrize("name", [*NAMES, "taken", "taken/deeper", "full"])
def test_a_run_folder_is_new_and_empty_or_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("held")
    made = kept(files.new_folder, Path(name))
    assert made is None or not list(made.iterdir())
    assert (tmp_path / "full" / "file").read_text() == "held"


# ---- faults and messages

SPELLS = st.one_of(
    st.text(alphabet="0123456789@-.,e ∞x", max_size=20),
    st.text(max_size=8),
    st.sampled_from(
        [
            "3@0.5, 5@0-0.4",
            "0@nan",
            "0@-inf",
            "0@0-inf",
            "1e5@0",
            "²@0",
            "0@1e-400",
            "9" * 5000 + "@0",
            "0@" + "9" * 5000,
            "-0@0",
            "True@0",
        ]
    ),
)


@given(text=SPELLS)
def test_any_text_is_spells_stragglers_and_slow_clients_or_refused(text):
    for spell in kept(faults.spells, text, "away", 6, 100) or ():
        assert 0 <= spell.client < 6
        assert 0 <= spell.first <= spell.last <= 100
    for client, times in kept(faults.stragglers, text, 6) or ():
        assert 0 <= client < 6
        assert times >= 1
    slow = kept(clock.slower, text)
    net = None if slow is None else kept(clock.network, 6, 1.0, 1.0, 0.0, slow)
    assert net is None or (np.isfinite(net.compute).all() and (net.uplink > 0).all())


@given(
    drop=st.floats(0, 0.9),
    stale=st.floats(0, 1),
    delay=st.integers(1, 4),
    away=st.integers(0, 5),
    times=st.integers(1, 5),
    turn=st.integers(0, 30),
    graph=st.sampled_from(["ring", "star", "complete", "erdos-renyi"]),
    seed=st.integers(0, 99),
)
def test_whatever_fails_what_remains_is_sound_and_keeps_the_mean(
    drop, stale, delay, away, times, turn, graph, seed
):
    failing = faults.Faults(
        drop=drop,
        away=(faults.Spell(away, 5, 20),),
        stragglers=((1, times),),
        stale=stale,
        delay=delay,
        clients=6,
        turns=31,
        seed=seed,
    )
    there, W = failing.present(turn), topology(graph, 6, seed=seed).at(0)
    links = links_of(W)
    out = failing.lost(turn, links)
    left = faults.remaining(W, out | ~there[links].all(1))
    assert_mixing(left, symmetric=True)
    np.testing.assert_allclose(left[~there], np.eye(6)[~there], atol=ROUNDING)
    ages = failing.ages(turn, links)
    assert 0 <= ages.min() <= ages.max() <= delay
    assert (failing.ages(turn + 1, links) <= ages + 1).all()


@given(
    name=st.sampled_from(sorted(compression.COMPRESSORS)),
    share=st.floats(0.001, 1),
    bits=st.integers(2, 16),
    row=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40),
    seed=st.integers(0, 9),
)
def test_a_short_message_is_never_farther_off_than_silence(name, share, bits, row, seed):
    how, z = compression.compressor(name, share, bits, 1.0), torch.tensor(row, dtype=torch.float32)
    message = how.pack(z, np.random.default_rng(seed))
    left = how.unpack(message, z, np.random.default_rng(seed))
    assert len(message) == how.size(len(row), 4)
    assert left.shape == z.shape
    assert ((left - z).abs() <= z.abs() * (1 + 1e-5)).all()
