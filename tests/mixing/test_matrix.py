"""W by its edges holds the very numbers of the dense W, and whoever reads it says the same of both."""

import tracemalloc
from functools import reduce

import networkx as nx
import numpy as np
import pytest
import torch
from cases import cases
from reference import LONG_ROUNDING, ROUNDING
from scipy import sparse
from scipy.sparse import csr_array, issparse

from deca_lab.errors import BadInput
from deca_lab.mixing.doctor import describe, diagnose, require_sound
from deca_lab.mixing.gossip import mixer
from deca_lab.mixing.graphs import GRAPHS, GraphSpec
from deca_lab.mixing.matrix import DENSE, by_edges, entries, held, links_of, only
from deca_lab.mixing.spectrum import _lanczos, cycle_length, heard_in_turn, islands
from deca_lab.mixing.topology import Topology, matrices_of, matrix_text, read_matrices, topology

SPEC = GraphSpec(probability=0.05, degree=4, seed=3)
SIZES = {"hypercube": 512}
FULL = ("complete", "bipartite")  # too many edges to be held by them


def plain(graph, rule):
    """W as dense matrices make it, of a graph or of who hears whom."""
    heard = nx.to_numpy_array(graph, weight=None) if isinstance(graph, nx.Graph) else graph
    d = heard.sum(1)
    lap = np.diag(d) - heard
    off = {
        "metropolis": heard / (1 + np.maximum.outer(d, d)),
        "max-degree": heard / max(1, d.max()),
        "laplacian": heard * (2 / (3 * max(np.linalg.eigvalsh(lap)[-1], 1e-9))),
    }
    if rule == "lazy":
        return (np.eye(len(d)) + plain(heard, "metropolis")) / 2
    return off[rule] + np.diag(1 - off[rule].sum(1))


@cases("name", GRAPHS)
def test_w_by_its_edges_is_the_dense_one_to_the_bit(name):
    graph = GRAPHS[name](SIZES.get(name, 300), SPEC)
    heard = nx.to_numpy_array(graph, weight=None)
    rules = ("metropolis",) if name in FULL else ("metropolis", "max-degree", "lazy", "laplacian")
    for rule in rules:
        W = topology(graph, weights=rule).at(0)
        assert issparse(W) == (name not in FULL)
        dense = W.toarray() if issparse(W) else W
        np.testing.assert_array_equal(dense, plain(heard, rule))
        assert dense.dtype == np.float64


def test_sequences_by_their_edges_are_the_dense_ones():
    for n in (300, 301):
        turns = topology("one-peer-exponential", n).matrices
        assert len(turns) == 9
        for k, W in enumerate(turns):
            assert W.has_canonical_format
            want = (np.eye(n) + np.roll(np.eye(n), 2**k, axis=1)) / 2
            np.testing.assert_array_equal(W.toarray(), want)
        pairs = topology("random-matchings", n, seed=3)
        order = np.random.default_rng([3, n]).permutation(n)
        want = np.eye(n)
        for i, j in zip(order[: n // 2], order[n // 2 : 2 * (n // 2)], strict=True):
            want[np.ix_([i, j], [i, j])] = 0.5
        np.testing.assert_array_equal(pairs.at(64).toarray(), want)


def test_an_erdos_renyi_graph_is_that_of_one_draw_for_all_pairs():
    n = 1500  # drawn in several parts
    drawn = np.triu(np.random.default_rng([3, 1]).random((n, n)) < 0.01, 1)
    links = topology("erdos-renyi", n, probability=0.01, seed=3).links
    np.testing.assert_array_equal(links, np.argwhere(drawn | drawn.T))


@cases("name", ["ring", "star", "torus", "random-regular", "erdos-renyi"])
def test_the_laplacian_rule_finds_its_eigenvalue_by_iteration_too(name, monkeypatch):
    graph = GRAPHS[name](300, SPEC)
    monkeypatch.setattr("deca_lab.mixing.weights.EXACT", 299)
    W, again = (topology(graph, weights="laplacian").at(0) for _ in range(2))
    np.testing.assert_allclose(W.toarray(), plain(graph, "laplacian"), rtol=1e-9, atol=1e-15)
    assert abs(W - again).nnz == 0


@cases("n", [4001, 5000])
def test_the_laplacian_rule_finds_an_eigenvalue_in_a_crowd(n):
    for name in ("path", "ring"):
        even_ring = name == "ring" and n % 2 == 0
        top = 4.0 if even_ring else 2 + 2 * np.cos(np.pi / n)
        W = topology(name, n, weights="laplacian").at(0)
        assert W[1, 2] == pytest.approx(2 / (3 * top), rel=1e-12)
        np.testing.assert_allclose(W.sum(1), 1, atol=ROUNDING)


def test_few_clients_and_many_edges_stay_an_array():
    for n, kind in ((DENSE, np.ndarray), (DENSE + 1, csr_array)):
        assert type(topology("ring", n).at(0)) is kind
        assert type(topology(nx.path_graph(n)).at(0)) is kind
        assert type(topology(np.eye(n)).at(0)) is kind
        assert type(topology(csr_array(np.eye(n))).at(0)) is kind
    assert type(topology("complete", DENSE + 1).at(0)) is np.ndarray
    assert type(topology("server", DENSE + 1).at(0)) is np.ndarray
    assert type(topology(csr_array(np.full((300, 300), 1 / 300))).at(0)) is np.ndarray


def test_nothing_of_n_by_n_is_made_on_the_way():
    n, peaks = 3000, {}
    for name in ("ring", "one-peer-exponential"):
        tracemalloc.start()
        found = topology(name, n)
        links = found.links
        diagnose(found)
        assert found.messages(0, links).sum() == len(found.edges())
        mixer(found.at(0), torch.zeros(n, 1))
        peaks[name] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert max(peaks.values()) < 30e6, peaks  # a dense W has 72 MB
    assert len(topology("ring", 20_000).edges()) == 40_000


# ---- a sparse W of the user's


def test_sparse_matrices_of_every_form_go_in_and_stay_the_users():
    ring, big = topology("ring", 8).at(0), topology("ring", 300).at(0)
    for form in ("csr", "csc", "coo", "lil", "dia"):
        for kind in (f"{form}_array", f"{form}_matrix"):
            for W in (ring, big.toarray()):
                given = getattr(sparse, kind)(W)
                got = topology(given, len(W)).at(0)
                np.testing.assert_array_equal(got.toarray() if issparse(got) else got, W)
                found = topology([given, W]).matrices
                assert [type(M) for M in found] == [type(got)] * 2
                assert diagnose(given).rho == pytest.approx(diagnose(W).rho, abs=ROUNDING)
    given = big.copy()
    got = topology(given)
    given.data[:] = 7
    assert got.at(0).max() < 0.34
    assert topology(Topology("own", (big.astype(np.float32),))).at(0).dtype == np.float64


def test_entries_that_stand_twice_or_are_zero_count_once_or_not_at_all():
    n = np.arange(300)
    halves = sparse.coo_array((np.full(900, 0.5), (np.tile(n, 3), np.tile(n, 3))), shape=(300, 300))
    halves.data[600:] = 0.0
    found = topology(halves)
    np.testing.assert_array_equal(found.at(0).toarray(), np.eye(300))
    assert found.at(0).nnz == 300
    assert found.links.shape == (0, 2)
    assert topology(csr_array(np.eye(300, dtype=bool))).at(0).dtype == np.float64


@cases(
    ("W", "message"),
    [
        (csr_array((3, 4)), "3 rows and 4 columns"),
        (csr_array((0, 0)), "shape"),
        (csr_array(np.eye(3) * 1j), "real numbers"),
        (sparse.diags_array([1, np.nan, 1]), "nan in row 1, column 1"),
        (sparse.diags_array(np.append(np.ones(299), np.inf)), "inf in row 299, column 299"),
        ([csr_array(np.eye(2)), csr_array(np.eye(3))], "number 1 of 2 has 3 rows"),
        ([csr_array(np.eye(300)), np.eye(299)], "number 1 of 2 has 299 rows"),
    ],
)
def test_bad_sparse_matrices_are_named(W, message):
    with pytest.raises(BadInput, match=message) as caught:
        topology(W)
    assert "\n" not in str(caught.value)


def test_a_sparse_matrix_has_as_many_clients_as_are_asked_for():
    with pytest.raises(BadInput, match=r"clients = 4 .* 300, the size of matrix"):
        topology(csr_array(np.eye(300)), 4)
    with pytest.raises(BadInput, match=r"not finite: entry \(299, 299\) is nan"):
        require_sound(sparse.diags_array(np.append(np.ones(299), np.nan)))
    with pytest.raises(BadInput, match="not square: 300 x 301"):
        require_sound(csr_array((300, 301)))


# ---- what is read of it


def directed(n):
    """A client hears itself, the one after it, and one drawn at random, unevenly."""
    rng = np.random.default_rng(n)
    shares = rng.dirichlet([1, 1, 1], n)
    W = np.zeros((n, n))
    for i, row in enumerate(shares):
        np.add.at(W[i], [i, (i + 1) % n, rng.integers(n)], row)
    return W


def periodic(parts):
    """As many clients in each part as in every other; each part hears the next, and no client itself."""
    return np.kron(np.roll(np.eye(parts), 1, axis=1), np.roll(np.eye(300 // parts), 1, axis=1))


OWN = {
    "directed": directed(300),
    "two islands": np.kron(np.eye(2), topology("ring", 150).at(0)),
    "one way": np.eye(300, k=1) / 2 + np.eye(300) / 2,
    "deaf first": np.eye(300, k=-1) / 2 + np.diag([1.0] + [0.5] * 299),
    "of period 3": periodic(3),
    "a negative entry": 1.6 * plain(nx.cycle_graph(301), "metropolis") - 0.6 * np.eye(301),
    "grows": 3 * plain(nx.cycle_graph(301), "metropolis") - 2 * np.eye(301),
    "sums off": 1.02 * plain(nx.star_graph(299), "metropolis"),
    "nothing": np.zeros((300, 300)),
}  # fmt: skip
TURNS = {
    "one peer": [(np.eye(300) + np.roll(np.eye(300), 2**k, axis=1)) / 2 for k in range(9)],
    "path and star": [plain(g, "metropolis") for g in (nx.path_graph(300), nx.star_graph(299))],
    "never together": [np.kron(np.eye(150), np.full((2, 2), 0.5))] * 2,
    "bouncing": [np.roll(np.eye(300), 1, axis=1), periodic(2)],
}


def assert_same(found, want):
    for name, value in want._asdict().items():
        got = getattr(found, name)
        if isinstance(value, float):
            assert got == pytest.approx(value, rel=1e-9, abs=LONG_ROUNDING, nan_ok=True), name
        elif name not in ("reasons", "remarks"):
            assert got == value, name
    assert [line[:60] for line in found.reasons] == [line[:60] for line in want.reasons]
    assert found.remarks == want.remarks


@cases(
    "W", [*OWN.values(), *(plain(GRAPHS[g](300, SPEC), "lazy") for g in ("path", "star", "torus", "erdos-renyi", "none"))]
)  # fmt: skip
def test_the_doctor_says_the_same_of_both(W):
    assert issparse(topology(W).at(0))
    assert_same(diagnose(by_edges(W)), diagnose(W))
    assert describe(by_edges(W)).splitlines()[-1] == describe(W).splitlines()[-1]


@cases("name", list(TURNS))
def test_the_doctor_says_the_same_of_both_in_turn(name):
    assert_same(diagnose([by_edges(W) for W in TURNS[name]]), diagnose(TURNS[name]))
    assert_same(diagnose([by_edges(TURNS[name][0]), *TURNS[name][1:]]), diagnose(TURNS[name]))


def test_graphs_of_mixings_in_turn_are_those_of_their_product():
    rng, seen = np.random.default_rng(11), set()
    for n in (2, 3, 5):
        for _ in range(80):
            turns = [rng.random((n, n)) < rng.choice([0.0, 0.2, 0.35, 0.6]) for _ in range(3)]
            turns = [W if W.any() else np.eye(n, dtype=bool)[rng.permutation(n)] for W in turns]
            whole = reduce(lambda done, W: W.astype(int) @ done > 0, turns)
            graph = heard_in_turn([W.astype(float) for W in turns])
            assert cycle_length(graph, 3) == cycle_length(whole)
            got, want = islands(graph, n), islands(whole)
            assert (got is None) == (want is None)
            for part, same in zip(got or (), want or (), strict=True):
                np.testing.assert_array_equal(part, same)
            seen.add((want is None, cycle_length(whole) > 1))
    assert len(seen) == 4


def test_the_iterated_rho_of_a_product_is_the_dense_one():
    for matrices in (topology("random-matchings", 300).matrices[:9], [by_edges(directed(300))] * 3):
        n = matrices[0].shape[0]
        whole = reduce(lambda done, W: W @ done, matrices, np.eye(n))
        rho, error = _lanczos(*matrices)
        assert rho == pytest.approx(np.linalg.norm(whole - 1 / n, 2), abs=error + 1e-10)


def cycle_of_which_two_average(n):
    """Each mixing ends one pattern of disagreement, and turns the others on."""
    swap = np.arange(n)
    swap[[0, 1]] = 1, 0
    P = np.roll(np.eye(n), 1, axis=1)
    return P @ (np.eye(n) + np.eye(n)[swap]) / 2


def test_what_is_not_found_out_is_said(monkeypatch):
    few = diagnose(cycle_of_which_two_average(12))
    assert (few.verdict, few.rho >= 1 - ROUNDING, few.rounds_1000 < np.inf) == ("sound", True, True)
    monkeypatch.setattr("deca_lab.mixing.spectrum.EXACT", 300)
    monkeypatch.setattr("deca_lab.mixing.spectrum.POWERS", 8)
    W = by_edges(cycle_of_which_two_average(600))
    found = diagnose(W)
    assert (found.verdict, found.connected, found.aperiodic) == ("sound", True, True)
    assert np.isnan(found.rounds_1000)
    assert found.remarks[-1].startswith("1000-fold is not computed")
    assert "1000-fold not computed" in " ".join(describe(W).split())


@cases("name", ["ring", "star", "none"])
def test_mixing_by_edges_is_the_dense_product(name):
    W = topology(name, 300).at(0)
    for x in (torch.randn(300, 7).double(), torch.randn(300, 20)):
        want = torch.from_numpy(W.toarray()).to(x) @ x
        torch.testing.assert_close(mixer(W, x)(x), want)
    part, x = W[100:150][:, np.arange(90, 160)], torch.randn(70, 3).double()  # of another process
    torch.testing.assert_close(mixer(part, x)(x), torch.from_numpy(part.toarray()) @ x)
    small = by_edges(topology("ring", 8).at(0))
    torch.testing.assert_close(mixer(small, x)(x[:8]), torch.from_numpy(small.toarray()) @ x[:8])
    nobody = csr_array((50, 70))
    assert mixer(nobody, x)(x).tolist() == [[0.0] * 3] * 50


def test_links_and_messages_are_those_of_the_dense_one():
    rng = np.random.default_rng(0)
    dense = [W * (rng.random(W.shape) < 0.7) for W in TURNS["path and star"]]
    one, other = (Topology("turns", tuple(Ws)) for Ws in (map(by_edges, dense), dense))
    ever = (dense[0] != 0) | (dense[1] != 0)
    np.fill_diagonal(ever, False)
    np.testing.assert_array_equal(other.links, np.argwhere(ever))
    np.testing.assert_array_equal(one.links, other.links)
    assert one.links.dtype == other.links.dtype == np.int64
    for k in (0, 1, 2):
        np.testing.assert_array_equal(one.edges(k), other.edges(k))
        want = (dense[k % 2] != 0)[tuple(other.links.T)]
        np.testing.assert_array_equal(one.messages(k), want)
        np.testing.assert_array_equal(other.messages(k), want)
    np.testing.assert_array_equal(links_of(one.at(0)), one.edges(0))


def test_some_entries_alone_are_the_same_of_both():
    W = directed(300)
    keep = np.random.default_rng(1).random(np.count_nonzero(W)) < 0.5
    want = np.zeros_like(W)
    want[tuple(part[keep] for part in np.nonzero(W))] = W[W != 0][keep]
    np.testing.assert_array_equal(only(W, keep), want)
    np.testing.assert_array_equal(only(by_edges(W), keep).toarray(), want)
    for one, other in zip(entries(by_edges(W)), entries(W), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_text_of_edges_reads_back_to_the_bit(tmp_path):
    for dense in ([directed(300)], TURNS["path and star"], [np.eye(300), directed(300)]):
        text = matrix_text(topology(dense).matrices)
        assert text.startswith("mixing,receiver,sender,share\n0,0,")
        (tmp_path / "topology.csv").write_text(text)
        for found in (matrices_of(text, "text", 300), read_matrices(tmp_path / "topology.csv")):
            for W, want in zip(found, dense, strict=True):
                np.testing.assert_array_equal(W.toarray(), want)
    small = matrix_text([by_edges(np.eye(2))])
    assert matrices_of(small, "text")[0].tolist() == [[1, 0], [0, 1]]  # held as all small ones are
    assert matrices_of(matrix_text(np.stack([np.eye(2)] * 3)), "text", 2)[2].tolist() == [[1, 0], [0, 1]]  # fmt: skip


@cases(
    "line",
    [
        "0,0,x,1",
        "0,0,1",
        "0,0.5,1,1",
        "0,-1,0,1",
        "0,0,0,nan",
        "-",
        "-1,0,0,1",
        "9,0,0,1",
        f"0,0,{10**9},1",
    ],
)
def test_a_damaged_text_of_edges_is_one_line(line, tmp_path):
    file = tmp_path / "w.csv"
    file.write_text(f"mixing,receiver,sender,share\n0,0,0,1\n{line}\n")
    with pytest.raises(BadInput, match=r"w\.csv") as caught:
        topology(file)
    assert "\n" not in str(caught.value)


def test_held_keeps_nothing_of_what_it_was_given():
    W = topology("ring", 300).at(0)
    again = held(W.tocoo())
    assert (again != W).nnz == 0
    assert again.has_sorted_indices
