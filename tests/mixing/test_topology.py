"""Graphs, weight rules, sequences and files: W against mixingmatrix, networkx and hand arithmetic."""

from fractions import Fraction
from functools import reduce

import networkx as nx
import numpy as np
import pytest
from cases import cases
from reference import ROUNDING

from deca_lab.errors import BadInput
from deca_lab.mixing.doctor import diagnose
from deca_lab.mixing.graphs import DRAWS, GRAPHS, SEQUENCES
from deca_lab.mixing.topology import Topology, read_matrices, topology
from deca_lab.mixing.weights import WEIGHTS

RULES = [rule for rule in WEIGHTS if rule != "fastest"]
SIZES = {"torus": (1, 9, 12, 16), "hypercube": (1, 2, 8, 16), "random-regular": (1, 3, 8, 9)}


def shape(name, n):
    """The graph behind a name, read back from its messages."""
    graph = nx.empty_graph(n)
    graph.add_edges_from(topology(name, n, degree=2).edges().tolist())
    return graph


@cases("rule", RULES)
@cases("name", GRAPHS)
def test_every_graph_with_every_rule_is_symmetric_and_doubly_stochastic(name, rule):
    for n in SIZES.get(name, (1, 2, 3, 8, 9)):
        W = topology(name, n, weights=rule, degree=2).at(0)
        assert W.shape == (n, n)
        assert W.dtype == np.float64
        assert np.array_equal(W, W.T)
        assert np.abs(W.sum(0) - 1).max() < ROUNDING
        assert W.min() >= -ROUNDING
        if n == 1:
            assert W.tolist() == [[1.0]]


@cases("name", sorted(set(GRAPHS) - {"none"}))
def test_the_edges_of_w_are_the_edges_of_a_connected_graph(name):
    n = SIZES.get(name, (8,))[-1]
    assert nx.is_connected(shape(name, n))
    for rule in RULES:
        edges = topology(name, n, weights=rule, degree=2).edges()
        assert edges.tolist() == topology(name, n, degree=2).edges().tolist()


@cases(
    ("name", "n", "reference"),
    [
        ("ring", 8, nx.cycle_graph(8)),
        ("path", 5, nx.path_graph(5)),
        ("star", 6, nx.star_graph(5)),
        ("complete", 5, nx.complete_graph(5)),
        ("torus", 12, nx.grid_2d_graph(3, 4, periodic=True)),
        ("hypercube", 16, nx.hypercube_graph(4)),
        ("exponential", 12, nx.circulant_graph(12, [1, 2, 4, 8])),
        ("bipartite", 7, nx.complete_bipartite_graph(3, 4)),
    ],
)
def test_named_graphs_are_those_of_networkx(name, n, reference):
    assert nx.is_isomorphic(shape(name, n), reference)


@cases("n", [1, 2, 8, 16])
def test_who_hears_whom_is_said_by_the_numbers_of_the_clients(n):
    hops = {2**k % n for k in range(n) if 2**k < n}
    cube = {(i, j) for i in range(n) for j in range(n) if (i ^ j).bit_count() == 1}
    exponential = {(i, j) for i in range(n) for j in range(n) if {(i - j) % n, (j - i) % n} & hops}
    for name, pairs in (("hypercube", cube), ("exponential", exponential)):
        assert (
            set(zip(*np.nonzero(nx.to_numpy_array(shape(name, n), range(n))), strict=True)) == pairs
        )


def test_two_clients_on_a_ring_share_one_edge():
    for name in ("ring", "path", "star", "complete", "hypercube", "exponential", "bipartite"):
        assert topology(name, 2).at(0).tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_metropolis_by_hand_on_a_path_of_three():
    W = topology("path", 3).at(0)
    third = 1 / 3
    assert np.allclose(
        W,
        [[2 * third, third, 0], [third, third, third], [0, third, 2 * third]],
        atol=ROUNDING,
        rtol=0,
    )


def test_the_complete_graph_with_metropolis_is_the_plain_mean():
    for n in (1, 2, 3, 7, 8, 33):
        assert np.abs(topology("complete", n).at(0) - 1 / n).max() < ROUNDING


def test_the_other_rules_by_hand_on_a_star():
    hub = topology("star", 4, weights="max-degree").at(0)
    assert np.allclose(
        hub, np.array([[0, 1, 1, 1], [1, 2, 0, 0], [1, 0, 2, 0], [1, 0, 0, 2]]) / 3, atol=ROUNDING
    )
    assert np.allclose(
        2 * topology("star", 4, weights="lazy").at(0), np.eye(4) + topology("star", 4).at(0)
    )
    lap = topology("star", 4, weights="laplacian").at(
        0
    )  # lambda_max of a star is N = 4: shares 2 / 12
    assert np.allclose(np.diag(lap), [1 / 2, 5 / 6, 5 / 6, 5 / 6])


def test_laplacian_rule_against_the_spectrum_of_networkx():
    graph = nx.random_regular_graph(3, 10, seed=1)
    lap = nx.laplacian_matrix(graph, nodelist=range(10)).toarray().astype(float)
    expected = np.eye(10) - 2 * lap / (3 * np.linalg.eigvalsh(lap).max())
    assert np.abs(topology(graph, weights="laplacian").at(0) - expected).max() < ROUNDING


@cases("name", ["ring", "path", "star", "torus", "hypercube", "exponential", "bipartite"])
def test_metropolis_and_max_degree_agree_with_mixingmatrix(name):
    oracle = pytest.importorskip("mixingmatrix")
    graph = nx.convert_node_labels_to_integers(shape(name, 16))
    for ours, theirs in (
        ("metropolis", oracle.metropolis_hastings),
        ("max-degree", oracle.max_degree),
    ):
        assert (
            np.abs(topology(graph, weights=ours).at(0) - theirs(graph).toarray()).max() < ROUNDING
        )


def test_fastest_is_at_least_as_fast_as_mixingmatrix_and_the_rest():
    pytest.importorskip("cvxpy")
    for name, n in (("path", 6), ("star", 6), ("ring", 8), ("none", 3), ("complete", 4)):
        W = topology(name, n, weights="fastest").at(0)
        assert np.array_equal(W, W.T)
        assert np.abs(W.sum(1) - 1).max() < ROUNDING
        assert not (W * (topology(name, n).at(0) == 0)).any()
        rho = np.linalg.norm(W - 1 / n, 2)
        assert all(
            rho <= np.linalg.norm(topology(name, n, weights=rule).at(0) - 1 / n, 2) + 1e-6
            for rule in RULES
        )
    oracle = pytest.importorskip("mixingmatrix")
    ours = np.linalg.norm(topology("path", 6, weights="fastest").at(0) - 1 / 6, 2)
    assert ours <= oracle.solve(nx.path_graph(6)).slem + 1e-5  # theirs keeps entries non-negative
    assert abs(ours - np.cos(np.pi / 6)) < 1e-6  # known for a path: all shares 1/2


def test_fastest_without_cvxpy_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cvxpy", None)
    with pytest.raises(BadInput, match="pip install cvxpy"):
        topology("ring", 4, weights="fastest")


# ---- random graphs


def test_erdos_renyi_is_redrawn_until_connected_and_says_so():
    seen = [topology("erdos-renyi", 8, probability=0.25, seed=seed) for seed in range(8)]
    draws = [int(found.note.split("draw ")[1].split(",")[0]) for found in seen]
    assert max(draws) > 1
    assert all("p = 0.25" in found.note for found in seen)
    for found in seen:
        graph = nx.Graph(found.edges().tolist())
        assert len(graph) == 8
        assert nx.is_connected(graph)


def test_random_topologies_follow_their_seed():
    for name in ("erdos-renyi", "random-regular", "random-matchings"):
        one, same, other = (topology(name, 12, seed=seed) for seed in (3, 3, 4))
        assert all(np.array_equal(a, b) for a, b in zip(one.matrices, same.matrices, strict=True))
        assert any(
            not np.array_equal(a, b) for a, b in zip(one.matrices, other.matrices, strict=True)
        )


def test_the_edge_share_of_erdos_renyi_is_its_probability():
    edges = len(topology("erdos-renyi", 200, probability=0.3).edges())
    assert abs(edges / (200 * 199) - 0.3) < 0.02


def test_random_regular_has_its_degree():
    assert {
        d for _, d in nx.Graph(topology("random-regular", 20, degree=3).edges().tolist()).degree()
    } == {3}


# ---- sequences


def test_one_peer_exponential_averages_with_one_peer_and_returns_to_the_mean():
    for n in (2, 4, 8, 16):
        found = topology("one-peer-exponential", n)
        assert found.period == n.bit_length() - 1
        assert np.array_equal(
            reduce(lambda done, W: W @ done, found.matrices), np.full((n, n), 1 / n)
        )
    W = topology("one-peer-exponential", 8).at(4)  # 4 mod 3 = 1: the peer is i + 2
    assert W[3].tolist() == [0, 0, 0, 0.5, 0, 0.5, 0, 0]
    assert W[7].tolist() == [0, 0.5, 0, 0, 0, 0, 0, 0.5]
    assert not np.array_equal(W, W.T)


@cases("n", [1, 2, 3, 5, 6, 9])
@cases("name", SEQUENCES)
def test_sequences_are_doubly_stochastic_for_any_number_of_clients(name, n):
    for W in topology(name, n).matrices:
        assert np.abs(W.sum(0) - 1).max() == np.abs(W.sum(1) - 1).max() == 0
        assert W.min() >= 0


def test_a_matching_pairs_everybody_but_the_odd_one():
    for n in (8, 9):
        found = topology("random-matchings", n)
        assert found.period == 64
        for W in found.matrices:
            assert np.array_equal(W, W.T)
            assert np.array_equal(W @ W, W)
            assert np.count_nonzero(np.diag(W) == 0.5) == 8
            assert np.count_nonzero(np.diag(W) == 1) == n - 8
    pairs = {
        (i, j) for k in range(64) for i, j in topology("random-matchings", 8).edges(k).tolist()
    }
    assert len(pairs) == 8 * 7


# ---- the caller's own graphs and matrices


def test_a_graph_keeps_sorted_or_inserted_order_and_drops_loops_and_weights():
    sortable = nx.Graph([("c", "a"), ("a", "b"), ("b", "b")])
    assert topology(sortable).edges().tolist() == [[0, 1], [0, 2], [1, 0], [2, 0]]
    mixed = nx.Graph([("c", 1), (1, "b")])
    assert topology(mixed, 3).edges().tolist() == [[0, 1], [1, 0], [1, 2], [2, 1]]
    heavy = nx.MultiGraph([(0, 1, {"weight": 9.0}), (0, 1, {"weight": 0.1})])
    assert topology(heavy).at(0).tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_an_arc_from_j_to_i_is_entry_i_j():
    W = topology(nx.DiGraph([(0, 1), (1, 2), (2, 0)])).at(0)
    assert W.tolist() == [[0.5, 0, 0.5], [0.5, 0.5, 0], [0, 0.5, 0.5]]
    assert topology(nx.DiGraph([(0, 1)])).edges().tolist() == [[1, 0]]


def test_matrices_come_through_unchanged_and_uncoupled():
    W = np.array([[0.5, 0.5], [0.5, 0.5]])
    found = topology(W, 2)
    W[0, 0] = 7
    assert found.at(5)[0, 0] == 0.5
    cycle = topology([np.eye(2), np.array([[0, 1], [1, 0]])], 2)
    assert [cycle.at(k)[0, 0] for k in range(4)] == [1, 0, 1, 0]
    assert cycle.edges(0).shape == (0, 2)
    assert topology([[1, 0], [0, 1]]).n == 2
    assert isinstance(cycle, Topology)


def test_matrices_from_files(tmp_path):
    W = np.array([[2 / 3, 1 / 3], [1 / 3, 2 / 3]])
    text, binary = tmp_path / "w.csv", tmp_path / "w.npy"
    text.write_text("# a comment\n2/3, 1/3\n\n 1 / 3,2/3\n")
    np.save(binary, W.astype(np.float32))
    assert np.array_equal(
        topology(str(text), 2).at(0), [[float(Fraction(2, 3)), 1 / 3], [1 / 3, 2 / 3]]
    )
    assert np.array_equal(topology(binary).at(0), W.astype(np.float32))
    both = topology(f"{text}, {binary}", 2)
    assert both.period == 2
    assert np.array_equal(both.at(1), W.astype(np.float32))
    stack = tmp_path / "s.npy"
    np.save(stack, np.stack([W, np.eye(2), W]))
    assert topology(stack).period == 3


def test_reading_leaves_judgement_to_the_doctor(tmp_path):
    file = tmp_path / "w.csv"
    file.write_text("1,nan,0\n0,1,0\n")
    (W,) = read_matrices(file)
    assert W.shape == (2, 3)
    assert np.isnan(W[0, 1])
    with pytest.raises(BadInput, match="2 rows and 3 columns"):
        topology(file)


# ---- errors


@cases(
    ("arguments", "options", "message"),
    [
        (("rnig", 8), {}, "did you mean 'ring'"),
        (("ring",), {}, "clients is missing"),
        (("ring", 0), {}, "clients = 0 .* from 1 up"),
        (("ring", 2.5), {}, "clients = 2.5"),
        (("ring", 8), {"weights": "metropolitan"}, "unknown weights .* did you mean 'metropolis'"),
        (("ring", 8), {"seed": -1}, "seed = -1"),
        (("torus", 8), {}, "clients = 8 .* r and c at least 3 .* 2 x k"),
        (("torus", 7), {}, "clients = 7"),
        (("hypercube", 12), {}, "power of two"),
        (("random-regular", 4), {}, "degree = 4 .* 1 to clients - 1 = 3"),
        (("random-regular", 9), {"degree": 3}, "even"),
        (
            ("random-regular", 6),
            {"degree": 1},
            f"none of {DRAWS} draws with 6 clients was connected",
        ),
        (("erdos-renyi", 8), {"probability": 0.0}, "probability = 0.0 .* above 0"),
        (("erdos-renyi", 8), {"probability": float("nan")}, "probability = nan"),
        (("erdos-renyi", 50), {"probability": 0.01}, "none of 200 draws"),
        (("random-matchings", 4 * 10**6), {}, "GiB, and 2 are allowed"),
        (("ring", 10**8), {}, "GiB"),
        (("complete", 20_000), {}, "3.0 GiB"),
        (("server", 20_000), {}, "3.0 GiB"),
        (("erdos-renyi", 20_000), {"probability": 0.3}, "3.0 GiB"),
        (("random-regular", 10**6), {"degree": 64}, "GiB"),
        ((nx.path_graph(3), 4), {}, "clients = 4 .* 3, the number of nodes"),
        ((nx.empty_graph(0),), {}, "at least one node"),
        ((nx.DiGraph([(0, 1)]),), {"weights": "laplacian"}, "undirected"),
        ((nx.DiGraph([(0, 1)]),), {"weights": "fastest"}, "undirected"),
        ((np.eye(3), 4), {}, "clients = 4 .* 3, the size of matrix"),
        ((np.ones((2, 3)),), {}, "2 rows and 3 columns"),
        (([np.eye(2), np.eye(3)],), {}, "number 1 of 2 has 3 rows"),
        ((np.array([[1, np.nan], [0, 1]]),), {}, "nan in row 0, column 1"),
        ((np.array([[1, 0], [np.inf, 1]]),), {}, "inf in row 1, column 0"),
        ((np.array([["a"]]),), {}, "real numbers"),
        ((np.eye(2) * 1j,), {}, "real numbers"),
        ((np.ones(3),), {}, "shape"),
        (([[1, 0], [0]],), {}, "different length"),
        (([],), {}, "a name, a networkx graph"),
        ((None, 3), {}, "a name, a networkx graph"),
        (("no/such/file.csv",), {}, "does not exist"),
        (("w.txt",), {}, "ends in .csv or .npy"),
        (("fastest", 200), {}, "unknown topology"),
        (("ring", 200), {"weights": "fastest"}, "at most 64"),
    ],
)
def test_bad_input_is_named(arguments, options, message):
    with pytest.raises(BadInput, match=message):
        topology(*arguments, **options)


@cases(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"# only words\n\n", "is empty"),
        (b"1,0\n0\n", "line 2 has 1 numbers, line 1 has 2"),
        (b"1,0\n0,one\n", "line 2 holds 'one', not a number"),
        (b"1,0\n0,1/0\n", "line 2 holds '1/0'"),
        (b"1,\n0,1\n", "line 1 holds ''"),
        (b"\xff\xfe1,0\n", "cannot be read"),
        (b"1,nan\n0,1\n", "nan in row 0, column 1"),
        (b"1;0\n0;1\n", "not a number"),
    ],
)
def test_a_bad_csv_names_file_and_line(tmp_path, content, message):
    file = tmp_path / "w.csv"
    file.write_bytes(content)
    with pytest.raises(BadInput, match=message) as caught:
        topology(file)
    assert str(file) in str(caught.value)


def test_a_npy_whose_header_is_too_long_is_refused_without_numpys_advice_to_unpickle(tmp_path):
    file = tmp_path / "w.npy"
    file.write_bytes(b"\x93NUMPY\x02\x00" + (20_000).to_bytes(4, "little") + b" " * 20_000)
    with pytest.raises(BadInput, match="Header info length") as refused:
        read_matrices(file)
    assert "\n" not in str(refused.value)
    assert "pickle" not in str(refused.value)


def test_a_bad_npy_is_refused_and_nothing_is_unpickled(tmp_path):
    folder = tmp_path / "folder.csv"
    folder.mkdir()
    file = tmp_path / "w.npy"
    for content in (b"", b"not an array", b"PK\x03\x04 zip"):
        file.write_bytes(content)
        with pytest.raises(BadInput, match="cannot be read"):
            topology(file)
    np.save(file, np.array([[object()]], dtype=object), allow_pickle=True)
    with pytest.raises(BadInput, match=r"cannot be read: .*allow_pickle"):
        topology(file)
    with pytest.raises(BadInput, match="cannot be read"):
        topology(folder)


def test_a_ring_of_4096_clients_is_built():
    found = topology("ring", 4096)
    assert len(found.edges()) == 2 * 4096
    assert found.at(0)[0, 4095] == 1 / 3


def test_rows_of_numpy_are_a_matrix_and_edge_weights_that_are_not_read_are_named():
    W = np.full((4, 4), 0.25)
    assert np.array_equal(topology(list(W)).at(0), W)
    graph = nx.cycle_graph(4)
    assert "not read" not in topology(graph).note
    graph.add_edge(0, 1, weight=3.0)
    assert "the graph's edge weights are not read" in topology(graph).note


def test_a_mask_is_not_ignored():
    W = np.full((2, 2), 0.5)
    assert topology(np.ma.masked_array(W, False)).n == 2  # nothing is masked
    hidden = np.ma.masked_array(W, [[False, True], [True, False]])
    for given in (hidden, [W, hidden], list(hidden), Topology("own", (hidden,))):
        with pytest.raises(BadInput, match="masked entries"):
            topology(given)
    with pytest.raises(BadInput, match="masked entries"):
        diagnose(hidden)


def test_the_note_says_which_node_is_which_client_and_what_is_not_read():
    assert topology(nx.cycle_graph(4)).note == "metropolis weights"
    assert topology(nx.relabel_nodes(nx.cycle_graph(3), np.int64)).note == "metropolis weights"
    names = nx.Graph([("b", "a"), ("c", "b")])
    assert "clients are the graph's nodes: 0 is 'a', 1 is 'b', 2 is 'c'" in topology(names).note
    from_one = nx.relabel_nodes(nx.path_graph(12), {i: f"client{i}" for i in range(12)})
    assert "1 is 'client1', 2 is 'client10'" in topology(from_one).note
    loops = nx.MultiGraph([(0, 1), (0, 1), (1, 1)])
    note = topology(loops).note
    assert "self-loops are not read" in note
    assert "parallel edges are not read" in note
    odd = nx.Graph([(0, 1, {"weight": np.ones(2)}), (1, 2, {"weight": "far"})])
    assert "edge weights are not read" in topology(odd).note


def test_a_topology_that_somebody_wrote_holds_matrices_as_all_others_do():
    whole = [[1, 0], [0, 1]]
    for matrices in ([whole], (np.eye(2, dtype=int),), np.eye(2, dtype=np.float32)[None]):
        got = topology(Topology("own", matrices)).matrices
        assert [W.dtype for W in got] == [np.float64]
        assert got[0].tolist() == whole
    W = np.eye(2)
    got = topology(Topology("own", (W,)))
    W[:] = 7
    assert got.at(0).tolist() == whole
    for matrices, words in [((), "one or more"), ((np.eye(2), np.eye(3)), "must be square")]:
        with pytest.raises(BadInput, match=words):
            topology(Topology("own", matrices))
    with pytest.raises(BadInput, match="served = True cannot"):
        topology(Topology("own", (np.eye(2),), served=True))
