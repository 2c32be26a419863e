"""Heterogeneity: hand values, scipy, and the order of the splits."""

import numpy as np
import pytest
import torch
from reference import ROUNDING

from deca_lab.errors import BadInput
from deca_lab.text import corpora, heterogeneity, shards, tokens

SAME = np.array([[2, 4, 6], [1, 2, 3]])
DISJOINT = np.eye(4) * 7


def test_identical_is_zero_and_disjoint_is_the_largest():
    assert heterogeneity.total_variation(SAME) == pytest.approx(0, abs=ROUNDING)
    assert heterogeneity.jensen_shannon(SAME) == pytest.approx(0, abs=ROUNDING)
    assert heterogeneity.total_variation(DISJOINT) == pytest.approx(1 - 1 / 4)
    assert heterogeneity.jensen_shannon(DISJOINT) == pytest.approx(np.log(4))


def test_two_clients_by_hand():
    counts = np.array([[3, 1], [1, 3]])
    assert heterogeneity.total_variation(counts) == pytest.approx(0.25)
    by_hand = np.log(2) + 0.75 * np.log(0.75) + 0.25 * np.log(0.25)
    assert heterogeneity.jensen_shannon(counts) == pytest.approx(by_hand, abs=ROUNDING)


def test_three_clients_by_hand():
    counts = np.array([[1, 0], [1, 0], [0, 1]])
    assert heterogeneity.total_variation(counts) == pytest.approx((1 / 3 + 1 / 3 + 2 / 3) / 3)
    assert heterogeneity.jensen_shannon(counts) == pytest.approx(np.log(3) - 2 / 3 * np.log(2))


def test_jensen_shannon_is_scipys():
    distance = pytest.importorskip("scipy.spatial.distance")
    rng = np.random.default_rng(0)
    for _ in range(20):
        counts = rng.integers(0, 9, (2, 12)) + np.eye(2, 12, dtype=int)
        p, q = counts / counts.sum(1, keepdims=True)
        assert heterogeneity.jensen_shannon(counts) == pytest.approx(
            distance.jensenshannon(p, q) ** 2, abs=1e-12
        )


def test_a_client_counts_once_whatever_its_size():
    counts = np.array([[3, 1], [1, 3]])
    scaled = counts * np.array([[1], [1000]])
    assert heterogeneity.total_variation(scaled) == pytest.approx(
        heterogeneity.total_variation(counts)
    )
    assert heterogeneity.jensen_shannon(scaled) == pytest.approx(
        heterogeneity.jensen_shannon(counts)
    )


@pytest.mark.parametrize(
    "counts", [np.zeros((2, 3)), np.array([[1, -1]]), np.array([1, 2]), np.array([[1, 1], [0, 0]])]
)
def test_bad_counts(counts):
    with pytest.raises(BadInput, match="counts"):
        heterogeneity.total_variation(counts)


@pytest.mark.parametrize("cuts", [[5], [1, 1, 1, 1, 1], [2, 3], [4, 1]])
@pytest.mark.parametrize("ranks", [[5], [2, 3], [1, 3, 1]])
def test_the_spread_of_gradients_is_a_loop_however_they_come(cuts, ranks):
    """A few clients at a time, and over processes; far from zero, where sums of squares would cancel."""
    g = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 10))) + 1e3
    mean = g.numpy().mean(0)
    zeta2 = sum(((row - mean) ** 2).sum() for row in g.numpy()) / 5
    whole = heterogeneity.spread(g.split(cuts))
    assert whole.zeta2 == pytest.approx(zeta2, rel=1e-9)
    assert whole.share == pytest.approx(zeta2 / (mean**2).sum(), rel=1e-9)
    parts = [heterogeneity.spread(rows.split(1)) for rows in g.split(ranks)]
    wide = sum(part.mean * (part.clients / 5) for part in parts)
    counts = torch.tensor([5.0, 0.0]).double()
    squares = sum(p.squares + p.clients * float((p.mean - wide).square().sum()) for p in parts)
    totals = iter([counts, wide, torch.tensor([5.0, squares], dtype=torch.float64)])
    among = parts[0].over(lambda x: next(totals))
    assert among.zeta2 == pytest.approx(zeta2, rel=1e-9)
    np.testing.assert_allclose(among.mean.numpy(), mean, rtol=1e-12)


def test_the_spread_at_the_edges():
    opposite = heterogeneity.spread([torch.tensor([[1.0], [-1.0]])])
    assert opposite.zeta2 == 1.0
    assert opposite.share == float("inf")
    assert heterogeneity.spread([torch.zeros(2, 3)]).share == 0.0


@pytest.fixture(scope="module")
def meter():
    corpus = corpora.from_chains(sources=4, rows=60, length=60, seed=1)
    which = tokens.tokenizer()

    def measured(how, alpha=0.25, clients=4, gradients=None):
        parts = shards.split(corpus.labels, clients, how=how, alpha=alpha)
        return heterogeneity.measure(shards.build(corpus, parts, which, 16), gradients)

    return measured


def test_the_splits_come_in_order(meter):
    even, mild, skewed, whole = (
        meter("iid"),
        meter("dirichlet", 5.0),
        meter("dirichlet", 0.2),
        meter("by-label"),
    )
    for name in ("label_tv", "label_js", "label_js_share", "token_js", "token_js_share"):
        values = [getattr(one, name) for one in (even, mild, skewed, whole)]
        assert values == sorted(values)
        assert values[0] < values[-1] / 5
    assert whole.label_tv == pytest.approx(0.75)
    assert whole.label_js_share == pytest.approx(1.0)
    assert 0 < whole.token_js_share < 1
    assert whole.token_js_share == pytest.approx(
        whole.token_js / np.log(4)
    )  # of 4 clients, not of 259 tokens
    assert meter("by-label", clients=2).label_js_share == pytest.approx(1.0)


def test_words(meter):
    assert (
        meter("by-label").words().startswith("strongly non-IID: on average 75% of a client's rows")
    )
    assert meter("dirichlet", 1e9).words().startswith("IID in effect")
    assert "zeta" not in meter("by-label").words()
    whole = meter(
        "by-label", gradients=heterogeneity.spread([torch.tensor([[3.0], [1.0], [1.0], [3.0]])])
    )
    assert (whole.zeta2, whole.zeta2_share) == pytest.approx((1.0, 0.25), rel=1e-6)  # of float32
    assert whole.words().endswith("zeta^2 = 1, 0.25 times the mean's square")


def test_one_client(meter):
    alone = meter("iid", clients=1)
    assert alone[:5] == (0.0, 0.0, 0.0, 0.0, 0.0)
    assert alone.words().startswith("IID in effect")


def test_a_square_takes_few_parts_of_a_row_of_any_length(monkeypatch):
    assert heterogeneity.square(torch.arange(5.0)) == 30.0
    parts = []
    monkeypatch.setattr(torch, "split", lambda row, most: parts.append(-(-len(row) // most)) or [])
    heterogeneity.square(torch.empty(1 << 50, device="meta"))
    assert parts == [1024]
