"""Names -> blocks -> visits: every name once, in order, and errors that list the names."""

import itertools
import re

import numpy as np
import pytest
from cases import cases

from deca_lab.algorithm import blocks as bl
from deca_lab.algorithm.blocks import Block
from deca_lab.errors import BadInput

DEPTH5 = {
    "wte": "embeddings",
    "wpe": "embeddings",
    **{f"h.{i}.{p}": i for i in range(5) for p in ("attn", "mlp")},
    "ln_f": "head",
    "lm_head": "head",
}


def layer_names(*layers):
    return tuple(f"h.{i}.{p}" for i in layers for p in ("attn", "mlp"))


@cases(
    ("granularity", "groups", "titles"),
    [
        (
            1,
            [(0,), (1,), (2,), (3,), (4,)],
            ["layer 0", "layer 1", "layer 2", "layer 3", "layer 4"],
        ),
        (2, [(0, 1), (2, 3), (4,)], ["layers 0-1", "layers 2-3", "layer 4"]),
        (3, [(0, 1, 2), (3, 4)], ["layers 0-2", "layers 3-4"]),
        (5, [(0, 1, 2, 3, 4)], ["layers 0-4"]),
    ],
)
@cases("ends", ["own", "joined", "frozen"])
def test_layers_of_each_granularity_with_each_kind_of_ends(granularity, groups, titles, ends):
    front = {
        "own": [Block("embeddings", ("wte", "wpe"))],
        "frozen": [],
        "joined": [Block("embeddings + head", ("wte", "wpe", "ln_f", "lm_head"))],
    }[ends]
    back = [Block("head", ("ln_f", "lm_head"))] if ends == "own" else []
    body = [Block(title, layer_names(*group)) for title, group in zip(titles, groups, strict=True)]
    assert bl.by_layers(DEPTH5, granularity, ends) == (*front, *body, *back)
    if ends != "frozen":
        bl.require_cover(bl.by_layers(DEPTH5, granularity, ends), list(DEPTH5))


def test_layers_keep_numeric_order_and_skip_frozen_ones():
    anatomy = {f"h.{i}": i for i in (11, 2, 10, 7)}
    assert [b.names for b in bl.by_layers(anatomy, 2)] == [("h.2", "h.7"), ("h.11", "h.10")]
    assert [b.name for b in bl.by_layers(anatomy, 2)] == ["layers 2-7", "layers 10-11"]
    assert bl.by_layers({"wte": "embeddings"}) == (Block("embeddings", ("wte",)),)
    assert [b.name for b in bl.by_layers({"h.0": 0, "norm": "head"}, ends="joined")] == [
        "embeddings + head",
        "layer 0",
    ]


@cases("granularity", [0, -1, 6, 50])
def test_granularity_over_the_depth_is_refused(granularity):
    with pytest.raises(
        BadInput,
        match=f"granularity = {granularity} cannot be used: it must be 1 to 5, the model's layers",
    ):
        bl.by_layers(DEPTH5, granularity)


def test_unknown_ends_are_refused_with_the_nearest():
    with pytest.raises(BadInput, match=r"unknown ends 'join': did you mean 'joined'"):
        bl.by_layers(DEPTH5, 1, "join")


def random_sizes():
    rng = np.random.default_rng(7)
    for _ in range(400):
        length = int(rng.integers(1, 25))
        yield [int(v) for v in rng.integers(1, 40, length) ** int(rng.integers(1, 4))]
    yield from (
        [1] * 50 + [1000] + [1] * 50,
        [1000] + [1] * 20,
        [1] * 20 + [1000],
        [5],
        [1, 10**12, 1, 10**12, 1],
        [0, 0, 0],
    )


def test_equal_blocks_hold_every_name_once_in_order_and_balanced():
    for sizes in random_sizes():
        table = {f"n{i}": size for i, size in enumerate(sizes)}
        for count in {1, 2, 3, max(1, len(sizes) // 2), len(sizes) - 1, len(sizes)} - {0}:
            if count > len(sizes):
                continue
            cut = bl.of_equal_size(table, count)
            assert [name for block in cut for name in block.names] == list(
                table
            )  # once, contiguous, in order
            assert len(cut) == count
            assert all(block.names for block in cut)
            assert len({block.name for block in cut}) == count
            assert (
                max(sum(table[n] for n in b.names) for b in cut)
                <= sum(sizes) / count + max(sizes) + 1e-9
            )


def best_largest(sizes, count):
    """The smallest possible largest block over all cuts in order, by trying them all."""
    ends = itertools.combinations(range(1, len(sizes)), count - 1)
    return min(
        max(sum(sizes[a:b]) for a, b in itertools.pairwise([0, *cuts, len(sizes)])) for cuts in ends
    )


def test_equal_blocks_are_equal_where_they_can_be_and_never_far_from_the_best_cut():
    assert [b.names for b in bl.of_equal_size(dict.fromkeys("abcdef", 3), 3)] == [
        ("a", "b"),
        ("c", "d"),
        ("e", "f"),
    ]
    assert [b.names for b in bl.of_equal_size({"a": 6, "b": 3, "c": 3, "d": 6}, 3)] == [
        ("a",),
        ("b", "c"),
        ("d",),
    ]
    rng = np.random.default_rng(1)
    for _ in range(60):
        sizes = [int(v) for v in rng.integers(1, 30, 9)]
        cut = bl.of_equal_size({str(i): s for i, s in enumerate(sizes)}, 3)
        assert max(sum(sizes[int(n)] for n in b.names) for b in cut) <= 2 * best_largest(sizes, 3)


@cases("count", [0, -2, 4])
def test_too_many_or_no_equal_blocks_are_refused(count):
    with pytest.raises(
        BadInput,
        match=f"block_count = {count} cannot be used: it must be 1 to 3, the trainable names",
    ):
        bl.of_equal_size({"a": 1, "b": 1, "c": 1}, count)


def test_patterns_find_anywhere_and_keep_the_order_of_the_names():
    names = ["h.0.attn.w", "h.0.mlp.w", "h.1.attn.w", "wte"]
    cut = bl.by_patterns(names, [r"attn", r"^wte$", r"mlp"])
    assert cut == (
        Block("attn", ("h.0.attn.w", "h.1.attn.w")),
        Block("^wte$", ("wte",)),
        Block("mlp", ("h.0.mlp.w",)),
    )
    bl.require_cover(cut, names)


def test_a_pattern_that_matches_nothing_lists_the_names():
    with pytest.raises(
        BadInput, match=r"patterns: 'atn' matches no trainable name; they are a\.attn, b\.mlp$"
    ):
        bl.by_patterns(["a.attn", "b.mlp"], ["attn", "atn"])
    with pytest.raises(
        BadInput, match=r"freeze: 'x' matches no trainable name; they are n0, .* n11 and 18 more$"
    ):
        bl.matching([f"n{i}" for i in range(30)], "x", "freeze")


@cases("pattern", ["(", "*a", "[a-", "a{2,1}", r"\8"])
def test_what_is_not_a_regular_expression_is_said(pattern):
    with pytest.raises(
        BadInput, match=re.escape(f"patterns: {pattern!r} is not a regular expression: ")
    ):
        bl.by_patterns(["a"], [pattern])


def test_overlapping_patterns_are_refused_with_name_and_both_blocks():
    cut = bl.by_patterns(["h.attn", "h.mlp"], ["h", "mlp"])
    with pytest.raises(
        BadInput,
        match=r"blocks: overlap, each name belongs to exactly one block: h\.mlp in h and mlp$",
    ):
        bl.require_cover(cut, ["h.attn", "h.mlp"])


def test_cover_lists_what_is_missing_and_what_is_strange():
    with pytest.raises(BadInput, match=r"blocks: 2 trainable names are in no block .*: b, d$"):
        bl.require_cover([Block("x", ("a", "c"))], list("abcd"))
    with pytest.raises(BadInput, match=r"blocks: these names are not trainable: y, z$"):
        bl.require_cover([Block("x", ("a", "y", "z"))], ["a"])
    with pytest.raises(BadInput, match=r"blocks: 40 trainable names .*: n0, .*, n11 and 28 more$"):
        bl.require_cover([], [f"n{i}" for i in range(40)])


@pytest.mark.parametrize(
    "cut",
    [[Block("x", ("a", "a", "b"))], [Block("x", ("a", "b")), Block("none", ())]],
    ids=["a name twice in one block", "a block without names"],
)
def test_cover_refuses_blocks_that_cannot_be_laid_out(cut):
    with pytest.raises(BadInput, match="blocks"):
        bl.require_cover(cut, ["a", "b"])


def test_whole_is_one_block():
    assert bl.whole(["a", "b"]) == (Block("all", ("a", "b")),)


def test_orders():
    for k in (1, 2, 5):
        assert bl.ORDERS["sequence"](3, k, 9) == list(range(k))
        assert bl.ORDERS["reversed"](3, k, 9) == list(range(k - 1, -1, -1))
    drawn = [bl.ORDERS["reshuffled"](t, 10, 4) for t in range(6)]
    assert all(
        sorted(turn) == list(range(10)) and all(type(k) is int for k in turn) for turn in drawn
    )
    assert len({tuple(turn) for turn in drawn}) == 6  # another one each round
    assert drawn == [bl.ORDERS["reshuffled"](t, 10, 4) for t in range(6)]  # seeded
    assert drawn != [bl.ORDERS["reshuffled"](t, 10, 5) for t in range(6)]
    np.random.seed(0)  # noqa: NPY002 - the global state must not matter
    assert drawn[0] == bl.ORDERS["reshuffled"](0, 10, 4)


def test_reshuffled_reaches_every_order_about_equally():
    counts = dict.fromkeys(itertools.permutations(range(3)), 0)
    for t in range(600):
        counts[tuple(bl.ORDERS["reshuffled"](t, 3, 0))] += 1
    assert min(counts.values()) > 60


def test_visits_by_hand():
    table = [tuple(v) for v in bl.visits(3, 2, 4, bl.ORDERS["reversed"])]
    assert table == [
        (0, 0, 2, 0, 3),
        (0, 1, 1, 4, 7),
        (0, 2, 0, 8, 11),
        (1, 0, 2, 12, 15),
        (1, 1, 1, 16, 19),
        (1, 2, 0, 20, 23),
    ]
    assert [tuple(v) for v in bl.visits(1, 2, 1, bl.ORDERS["sequence"])] == [
        (0, 0, 0, 0, 0),
        (1, 0, 0, 1, 1),
    ]


@cases("order", list(bl.ORDERS))
def test_visits_tile_the_steps_and_each_round_visits_each_block_once(order):
    table = bl.visits(5, 4, 3, bl.ORDERS[order], seed=2)
    assert [s for v in table for s in range(v.first, v.last + 1)] == list(range(5 * 4 * 3))
    for t in range(4):
        turn = [v for v in table if v.round == t]
        assert sorted(v.block for v in turn) == [v.position for v in turn] == list(range(5))
        assert [v.block for v in turn] == bl.ORDERS[order](t, 5, 2)
