"""Mixing by edges or by the dense product is W @ X; the bytes are counted by hand."""

import networkx as nx
import numpy as np
import pytest
import torch
from cases import cases
from reference import SINGLE

from deca_lab.mixing import gossip
from deca_lab.mixing.topology import Topology, topology

SHIFT = {
    n: (np.eye(n) + np.roll(np.eye(n), 1, axis=1)) / 2 for n in (5, 128, 1024)
}  # i hears i + 1, not the other way
MATRICES = {
    "ring 8": topology("ring", 8).matrices[0],
    "ring 16": topology("ring", 16).matrices[0],
    "ring 128": topology("ring", 128).matrices[0],
    "ring 1024": topology("ring", 1024).matrices[0],
    "complete 128": topology("complete", 128).matrices[0],
    "server 128": np.full((128, 128), 1 / 128),
    "own weights 80": np.full((80, 80), -0.25) + np.diag(np.arange(80.0)),
    "nearly complete 80": np.full((80, 80), 1 / 80) + np.eye(80)[::-1] * 1e-3,
    "star 9": topology("star", 9).matrices[0],
    "directed 5": SHIFT[5],
    "directed 128": SHIFT[128],
    "directed 1024": SHIFT[1024],
    "one-peer 64": topology("one-peer-exponential", 64).matrices[2],
    "alone 40": np.eye(40),
    "one client": np.ones((1, 1)),
    "uneven rows": np.diag([2.0, -1.0, 0.5]) + np.array([[0, 3, 0], [0, 0, 0], [0, 0, 7.0]]),
}


def x_of(n, d=7, dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(n).standard_normal((n, d))).to(dtype)


def path_of(W, like):
    """'dense' or not: whether the mixing function closed over the whole of W."""
    held = [c.cell_contents for c in gossip.mixer(W, like).__closure__]
    return "dense" if any(getattr(t, "shape", ()) == W.shape for t in held) else "other"


@cases("name", list(MATRICES))
def test_mixing_is_the_product_from_the_left(name):
    W = MATRICES[name]
    x = x_of(W.shape[0])
    want = torch.from_numpy(W @ x.numpy())
    torch.testing.assert_close(gossip.mixer(W, x)(x), want, rtol=1e-12, atol=1e-12)
    wide = x_of(W.shape[0], gossip.SMALL)  # by edges, where there are few
    want = torch.from_numpy(W @ wide.numpy())
    torch.testing.assert_close(gossip.mixer(W, wide)(wide), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_without_edges_and_columns_out_of_order_are_mixed_too(dtype):
    W = np.zeros((200, 200))
    W[3, [7, 2]], W[199, 0] = [0.25, -2.0], 1.0
    x = x_of(3, 200, dtype).T  # not contiguous
    torch.testing.assert_close(gossip.mixer(W, x)(x), torch.from_numpy(W).to(dtype) @ x)
    assert gossip.mixer(W, x)(x[:, :0]).shape == (200, 0)


@cases(
    ("name", "path"),
    [
        ("ring 8", "dense"),
        ("directed 5", "dense"),
        ("nearly complete 80", "dense"),
        ("ring 16", "other"),
        ("complete 128", "other"),
        ("server 128", "other"),
        ("ring 128", "other"),
        ("ring 1024", "other"),
        ("directed 128", "other"),
        ("directed 1024", "other"),
    ],
)
def test_both_ways_of_mixing_are_among_these(name, path):
    assert path_of(MATRICES[name], x_of(1)) == path


@pytest.mark.parametrize("name", ["directed 5", "directed 128"])
def test_a_client_hears_its_row_not_its_column(name):
    W = MATRICES[name]
    x = torch.zeros(W.shape[0], 1, dtype=torch.float64)
    x[3] = 1.0  # only 2 and 3 hear client 3
    assert gossip.mixer(W, x)(x).nonzero()[:, 0].tolist() == [2, 3]
    links = Topology("directed", (W,)).links
    assert links[links[:, 1] == 3].tolist() == [[2, 3]]


@cases(
    "name",
    ["ring 8", "ring 128", "ring 1024", "directed 5", "directed 128", "star 9", "one-peer 64"],
)
def test_doubly_stochastic_mixing_keeps_the_mean_and_never_spreads(name):
    W = MATRICES[name]
    x = x_of(W.shape[0])
    y = gossip.mixer(W, x)(x)
    torch.testing.assert_close(y.mean(0), x.mean(0), rtol=1e-12, atol=1e-13)
    assert float((y - y.mean(0)).norm()) <= float((x - x.mean(0)).norm()) * (1 + 1e-12)


@pytest.mark.parametrize("name", ["ring 8", "directed 128"])
def test_mixing_is_linear_and_changes_no_argument(name):
    W = MATRICES[name].copy()
    x, y = x_of(W.shape[0]), x_of(W.shape[0]).flip(0)
    before = x.clone()
    mix = gossip.mixer(W, x)
    W[:] = np.nan  # the mixer keeps its own copy
    torch.testing.assert_close(mix(2 * x - 3 * y), 2 * mix(x) - 3 * mix(y), rtol=1e-12, atol=1e-12)
    assert torch.equal(x, before)
    assert mix(x).data_ptr() != x.data_ptr()


@cases("name", ["ring 8", "ring 128"])
@cases("dtype", [torch.float32, torch.float64])
def test_the_result_has_the_dtype_of_the_parameters(name, dtype):
    W = MATRICES[name]
    x = x_of(W.shape[0], dtype=dtype)
    y = gossip.mixer(W, x)(x)
    assert y.dtype == dtype
    torch.testing.assert_close(
        y.double(), torch.from_numpy(W) @ x.double(), rtol=SINGLE, atol=SINGLE
    )


def test_1024_clients_on_a_ring_come_together_at_the_rate_of_the_ring():
    n = 1024
    W = MATRICES["ring 1024"]
    mode = torch.cos(2 * torch.pi * torch.arange(n, dtype=torch.float64) / n)[:, None]
    mix, x = gossip.mixer(W, mode), mode.clone()
    for _ in range(50):
        x = mix(x)
    rho = (1 + 2 * np.cos(2 * np.pi / n)) / 3
    torch.testing.assert_close(x, rho**50 * mode, rtol=1e-10, atol=1e-12)


def test_links_and_messages_by_hand():
    W = np.array([[0.5, 0.5, 0.0], [0.25, 0.5, 0.25], [0.0, 1.0, 0.0]])
    one = Topology("one", (W,))
    assert one.links.tolist() == [[0, 1], [1, 0], [1, 2], [2, 1]]  # the diagonal is not sent
    assert one.messages(0, one.links).tolist() == [1, 1, 1, 1]
    turns = Topology("two", (W, np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])))
    assert turns.links.tolist() == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 1]]
    assert turns.messages(0, turns.links).tolist() == [1, 0, 1, 1, 1]
    assert turns.messages(3, turns.links).tolist() == [0, 1, 1, 0, 1]
    assert Topology("alone", (np.eye(4),)).links.shape == (0, 2)
    minus = Topology("minus", (np.array([[1.5, -0.5], [-0.5, 1.5]]),))
    assert len(minus.links) == 2  # a negative weight is a message too
    server = topology("server", 3)
    assert server.links.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert server.messages(5, server.links).tolist() == [2, 2, 2]  # there and back


@cases(
    ("name", "n", "edges"),
    [
        ("ring", 8, 16),
        ("star", 8, 14),
        ("complete", 8, 56),
        ("path", 8, 14),
        ("hypercube", 8, 24),
        ("none", 8, 0),
        ("one-peer-exponential", 8, 8),
    ],
)
def test_number_of_messages_of_known_graphs(name, n, edges):
    found = topology(name, n)
    assert found.messages(0).sum() == edges


def test_links_of_a_graph_are_its_edges_both_ways():
    graph = nx.gnp_random_graph(12, 0.4, seed=3)
    assert topology(graph).links.tolist() == np.argwhere(nx.to_numpy_array(graph)).tolist()


def test_bytes_do_not_overflow():
    big = torch.empty(4, 3 * 2**30, device="meta", dtype=torch.float64)
    assert gossip.row_bytes(big) == 3 * 2**33
