"""Shards: every split, no overlap, proportions, batches that are a function of the step."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from cases import cases

from deca_lab.errors import BadInput
from deca_lab.text import corpora, shards, tokens

LABELS = np.random.default_rng(0).integers(0, 4, 400)
TABLE = [[0.15, 0.85, 0, 0], [0.85, 0.15, 0, 0], [0, 0, 0.5, 0.5]]


def _split(how, labels=LABELS, clients=5, **options):
    if how == "shares":
        count = len(np.unique(labels))
        options["shares"] = np.full((clients, count), 1 / count)
    return shards.split(labels, clients, how=how, **options)


def _overlaps(parts):
    """Row indices that occur in more than one set, or twice in one."""
    rows = np.concatenate([*parts.train, *parts.validation, parts.test])
    values, counts = np.unique(rows, return_counts=True)
    return values[counts > 1]


@pytest.fixture(scope="module")
def corpus():
    rng = np.random.default_rng(1)
    rows = [
        (f"row {i} " + "".join(chr(97 + c) for c in rng.integers(0, 26, 40)), f"label {i % 4}")
        for i in range(200)
    ]
    return corpora.from_rows("tiny", rows)


@pytest.fixture(scope="module")
def which():
    return tokens.tokenizer()


@pytest.fixture(scope="module")
def built(corpus, which):
    return shards.build(corpus, shards.split(corpus.labels, 4, seed=2), which, 16)


@cases("how", sorted(shards.SPLITS))
@cases("seed", range(3))
def test_every_split_is_disjoint_complete_and_seeded(how, seed):
    parts = _split(how, seed=seed)
    assert len(_overlaps(parts)) == 0
    assert len(parts.train) == len(parts.validation) == 5
    assert min(map(len, parts.train)) >= 1
    assert min(map(len, parts.validation)) >= 1
    total = sum(map(len, (*parts.train, *parts.validation, parts.test)))
    assert total == len(LABELS) or (how == "shares" and total > 0.8 * len(LABELS))
    assert len(parts.test) == 40
    assert parts.notes[0].startswith(f"{how}: ")
    again = _split(how, seed=seed)
    for one, other in zip((*parts.train, parts.test), (*again.train, again.test), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(parts.test, _split(how, seed=seed + 1).test)


@cases("how", sorted(shards.SPLITS))
def test_without_validation_and_with_one_client(how):
    parts = _split(how, clients=1, validation_share=0.0)
    assert [len(part) for part in parts.validation] == [0]
    assert len(parts.train[0]) == len(LABELS) - 40 or how == "shares"


def test_a_planted_leak_is_seen():
    parts = _split("iid")
    assert len(_overlaps(parts)) == 0
    leaky = parts._replace(train=(np.append(parts.train[0], parts.test[7]), *parts.train[1:]))
    assert _overlaps(leaky).tolist() == [parts.test[7]]


def test_texts_do_not_overlap_either(corpus, which):
    rows = [
        (text, corpus.label_names[i]) for text, i in zip(corpus.texts, corpus.labels, strict=True)
    ]
    doubled = corpora.from_rows("doubled", rows * 2)
    assert doubled.texts == corpus.texts
    parts = shards.split(doubled.labels, 4)
    sets = [*parts.train, *parts.validation, parts.test]
    texts = [doubled.texts[i] for rows in sets for i in rows]
    assert len(texts) == len(set(texts)) == len(doubled.texts)
    made = shards.build(doubled, parts, which, 16)
    streams = [
        which.decode(s, skip_special_tokens=True)
        for s in (*made.train, *made.validation, made.test)
    ]
    for text in texts:
        assert sum(text in stream for stream in streams) == 1


def test_the_test_set_has_the_labels_in_proportion():
    labels = np.repeat([0, 1, 2], [500, 300, 203])
    parts = shards.split(labels, 4, how="iid", test_share=0.2)
    assert np.bincount(labels[parts.test]).tolist() == [100, 60, 41]  # of 1003, largest remainders
    everything = shards.split(labels, 4, how="iid", test_share=0.0, validation_share=0.0)
    assert len(everything.test) == 0


def test_iid_and_contiguous_are_even():
    for how in ("iid", "contiguous"):
        sizes = [len(t) + len(v) for t, v in zip(*_split(how)[:2], strict=True)]
        assert max(sizes) - min(sizes) <= 1
    parts = _split("contiguous")
    ends = [
        (min(t.min(), v.min()), max(t.max(), v.max()))
        for t, v in zip(parts.train, parts.validation, strict=True)
    ]
    assert all(before[1] < after[0] for before, after in pairwise(ends))


def test_by_label_deals_whole_labels():
    few = _split("by-label", clients=2, validation_share=0.0)
    assert [np.unique(LABELS[rows]).tolist() for rows in few.train] == [[0, 2], [1, 3]]
    many = _split("by-label", clients=10)
    assert [np.unique(LABELS[rows]).tolist() for rows in many.train] == [[i % 4] for i in range(10)]


def test_dirichlet_proportions_are_the_laws():
    labels, clients, alpha = np.zeros(2000, int), 4, 2.0
    none = {"test_share": 0, "validation_share": 0}
    deals = [shards.split(labels, clients, alpha=alpha, seed=seed, **none) for seed in range(400)]
    p = np.array([[len(rows) for rows in deal.train] for deal in deals]) / 2000
    np.testing.assert_allclose(p.mean(0), 1 / clients, atol=0.03)
    variance = (
        (1 / clients) * (1 - 1 / clients) / (clients * alpha + 1)
    )  # of Dir(alpha)'s coordinates
    np.testing.assert_allclose(p.var(0), variance, rtol=0.25)


def test_dirichlet_labels_are_independent_and_small_alpha_is_uneven():
    def tv(alpha):
        parts = shards.split(
            np.repeat(np.arange(4), 500), 4, alpha=alpha, test_share=0, validation_share=0
        )
        counts = np.stack(
            [np.bincount(np.repeat(np.arange(4), 500)[rows], minlength=4) for rows in parts.train]
        )
        p = counts / counts.sum(1, keepdims=True)
        return np.abs(p - 0.25).sum(1).mean() / 2

    assert tv(0.1) > tv(1.0) > tv(1000.0)
    assert tv(1e9) < 0.01


def test_quantity_keeps_labels_even_and_sizes_uneven():
    labels = np.tile(np.arange(4), 2500)
    parts = shards.split(labels, 4, how="quantity", alpha=0.5, seed=1)
    sizes = np.array([len(rows) for rows in parts.train])
    assert sizes.max() > 2 * sizes.min()
    largest = np.bincount(labels[parts.train[int(sizes.argmax())]]) / sizes.max()
    np.testing.assert_allclose(largest, 0.25, atol=0.03)


def test_shares_give_the_table():
    labels = np.repeat([0, 1], [900, 1100])
    table = [[0.15, 0.85], [0.85, 0.15], [0.5, 0.5]]
    parts = shards.split(labels, 3, how="shares", shares=table, test_share=0, validation_share=0)
    counts = np.stack([np.bincount(labels[rows], minlength=2) for rows in parts.train])
    np.testing.assert_allclose(counts / counts.sum(1, keepdims=True), table, atol=0.005)
    assert counts[:, 0].sum() == 900
    assert "200 rows unused" in parts.notes[0]
    assert len(_overlaps(parts)) == 0


@cases(
    ("clients", "options", "says"),
    [
        (401, {}, r"clients = 401.*from 1 to 200: 400 rows, at least 2 a client"),
        (0, {}, "clients = 0"),
        (-3, {}, "clients = -3"),
        (5, {"alpha": 0.0}, r"alpha = 0\.0.*positive"),
        (5, {"alpha": -1.0}, r"alpha = -1\.0"),
        (5, {"alpha": float("nan")}, "alpha = nan"),
        (5, {"alpha": float("inf")}, "alpha = inf"),
        (5, {"test_share": 1.0}, r"test_share = 1\.0"),
        (5, {"test_share": float("nan")}, "test_share = nan"),
        (5, {"validation_share": -0.1}, r"validation_share = -0\.1"),
        (
            5,
            {"how": "dirichlett"},
            r"unknown split 'dirichlett': did you mean 'dirichlet'.*by-label",
        ),
        (5, {"seed": -1}, "seed = -1"),
        (
            150,
            {"alpha": 0.01},
            r"client \d+ got \d rows and needs 2, after 1000 draws of Dir\(0\.01\).*raise alpha",
        ),
        (190, {"how": "iid"}, r"client \d+ gets 1 rows and needs 2.*take fewer clients"),
        (2, {"how": "shares"}, "shares = None"),
        (2, {"how": "iid", "shares": TABLE}, "None for others"),
        (
            3,
            {"how": "shares", "shares": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]},
            "a table of 3 clients x 4 labels",
        ),
        (
            2,
            {"how": "shares", "shares": [[1.0, 1.0, 0, 0], [0, 0, 1, 0]]},
            "each row non-negative with sum 1",
        ),
        (2, {"how": "shares", "shares": [[1.0], [0.5, 0.5]]}, "a table of 2 clients"),
    ],
)
def test_bad_splits(clients, options, says):
    with pytest.raises(BadInput, match=says):
        shards.split(LABELS, clients, **options)


def test_no_rows_at_all():
    with pytest.raises(BadInput, match="rows = 0 cannot be used: it must be 3 or more"):
        shards.split(np.array([], dtype=int), 1)


def test_a_row_or_two_are_too_few():
    assert len(shards.split(np.zeros(3, dtype=int), 1).test) == 1
    for rows in (1, 2):
        with pytest.raises(BadInput, match=f"rows = {rows} cannot be used: it must be 3 or more"):
            shards.split(np.zeros(rows, dtype=int), 1)
    assert shards.split(np.zeros(1, dtype=int), 1, test_share=0, validation_share=0).test.size == 0


# streams and batches


def test_the_streams_hold_the_rows(corpus, which, built):
    parts = shards.split(corpus.labels, 4, seed=2)
    for i, rows in enumerate(parts.train):
        expected = [
            t for r in rows for t in which(corpus.texts[r])["input_ids"]
        ]  # ByT5 itself adds the end token
        assert built.train[i].tolist() == expected
    assert built.label_counts.sum() == sum(map(len, parts.train))
    assert (
        built.label_counts[1].tolist()
        == np.bincount(corpus.labels[parts.train[1]], minlength=4).tolist()
    )
    assert built.vocabulary == 259
    assert built.label_names == corpus.label_names
    assert int((built.test == 1).sum()) == len(parts.test)


def test_too_short_for_the_context(corpus, which):
    parts = shards.split(corpus.labels, 4, how="iid")
    with pytest.raises(
        BadInput,
        match=r"client 0's training text has \d+ tokens.*needs 9001.*the split iid, fewer clients",
    ):
        shards.require_windows(shards.build(corpus, parts, which, 9000))
    with pytest.raises(
        BadInput, match=r"client 0's validation text has \d+ tokens.*a larger validation_share"
    ):
        shards.require_windows(shards.build(corpus, parts, which, 500))
    without = shards.split(corpus.labels, 4, how="iid", test_share=0, validation_share=0)
    with pytest.raises(BadInput, match="the test text has 0 tokens"):
        shards.require_windows(shards.build(corpus, without, which, 16))
    with pytest.raises(BadInput, match="context = 0"):
        shards.build(corpus, parts, which, 0)


def test_a_batch_is_windows_of_the_own_stream():
    streams = [torch.arange(100 * i, 100 * i + 20 + 5 * i) for i in range(1, 5)]
    drawn = shards.batch(streams, 8, 50, seed=0, step=3)
    assert drawn.shape == (4, 50, 9)
    assert drawn.dtype == torch.int64
    assert torch.equal(drawn - drawn[..., :1], torch.arange(9).expand(4, 50, 9))  # consecutive
    for i, stream in enumerate(streams):
        assert set(drawn[i].flatten().tolist()) <= set(stream.tolist())
        wide = shards.batch(streams, 8, 3000, seed=1, step=0)[i, :, 0]
        assert (int(wide.min()), int(wide.max())) == (
            int(stream[0]),
            int(stream[-9]),
        )  # the first and the last place


def test_a_batch_is_a_function_of_seed_and_step(built):
    one, again = (shards.batch(built.train, 16, 3, seed=5, step=7) for _ in range(2))
    assert torch.equal(one, again)
    others = [shards.batch(built.train, 16, 3, seed=s, step=t) for s, t in ((5, 8), (6, 7), (7, 5))]
    assert not any(torch.equal(one, other) for other in others)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert torch.equal(one, shards.batch(built.train, 16, 3, seed=5, step=7))


def test_one_place_only():
    drawn = shards.batch([torch.arange(9)], 8, 2, seed=0, step=0)
    assert drawn.tolist() == [[list(range(9))] * 2]


@cases(
    ("options", "says"),
    [
        ({"batch_size": 0}, "batch_size = 0"),
        ({"step": -1}, "seed, step"),
        ({"context": 30}, r"client 1's stream has 20 tokens.*needs 31"),
    ],
)
def test_bad_batches(options, says):
    asked = {"context": 4, "batch_size": 2, "seed": 0, "step": 0, **options}
    with pytest.raises(BadInput, match=says):
        shards.batch([torch.arange(40), torch.arange(20)], **asked)


def test_windows_make_each_token_a_target_once():
    stream = torch.arange(50)
    every = shards.windows(stream, 8)
    assert every.shape == (6, 9)
    assert every[:, 1:].flatten().tolist() == list(range(1, 49))
    assert torch.equal(shards.windows(stream, 8, limit=100), every)
    assert shards.windows(stream, 8, limit=3)[:, 0].tolist() == [0, 16, 32]
    assert shards.windows(stream, 8, limit=4)[:, 0].tolist() == [0, 8, 24, 32]
    assert shards.windows(stream[:9], 8).shape == (1, 9)
    with pytest.raises(BadInput, match="8 tokens"):
        shards.windows(stream[:8], 8)
    with pytest.raises(BadInput, match="limit = 0"):
        shards.windows(stream, 8, limit=0)
