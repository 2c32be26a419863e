"""The doctor against closed forms, a dense SVD, networkx and measured consensus."""

from functools import reduce

import networkx as nx
import numpy as np
import pytest
from cases import cases
from reference import LONG_ROUNDING, ROUNDING
from scipy.sparse import csr_array

from deca_lab.errors import BadInput
from deca_lab.mixing.doctor import describe, diagnose, require_sound
from deca_lab.mixing.graphs import GRAPHS
from deca_lab.mixing.spectrum import _lanczos, product, spectrum
from deca_lab.mixing.topology import topology

SWAP = np.array([[0.0, 1.0], [1.0, 0.0]])
SKEW = np.array(
    [[0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0.5, 0, 0, 0.5], [0, 0, 0.5, 0.5]]
)  # doubly stochastic
LOPSIDED = np.array([[0.5, 0.5], [1.0, 0.0]])
FOLDED = np.array([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]] * 2)  # its square is exactly J


def birkhoff(rng, n, terms=4):
    """A random doubly stochastic matrix: a mean of permutations."""
    shares = rng.dirichlet(np.ones(terms))
    return sum(share * np.eye(n)[rng.permutation(n)] for share in shares)


# ---- rho


@cases("n", [4, 5, 8, 13, 64, 1024])
def test_rho_of_the_ring_is_its_closed_form(n):
    found = diagnose(topology("ring", n))
    assert abs(found.rho - (1 + 2 * np.cos(2 * np.pi / n)) / 3) < 1e-12
    assert found.lambda2 == found.rho


@cases("bits", [1, 2, 3, 5])
def test_rho_of_the_hypercube_is_its_closed_form(bits):
    # metropolis: eigenvalues 1 - 2 k / (bits + 1), k = 0 .. bits
    expected = max(abs(1 - 2 / (bits + 1)), abs(1 - 2 * bits / (bits + 1)))
    assert abs(diagnose(topology("hypercube", 2**bits)).rho - expected) < 1e-12


def test_the_complete_graph_agrees_in_one_mixing():
    found = diagnose(topology("complete", 7))
    assert (found.rho, found.rounds_1000, found.edges, found.verdict) == (0, 1, 42, "sound")


@cases("name", sorted(set(GRAPHS) - {"none"}))
def test_rho_of_named_graphs_is_the_dense_one_and_all_are_sound(name):
    for rule in ("metropolis", "lazy", "laplacian"):
        W = topology(name, 16, weights=rule).at(0)
        found = require_sound(W)
        singular = np.linalg.svd(W, compute_uv=False)
        assert abs(found.rho - singular[1]) < 1e-12
        assert found.symmetric
        assert found.nonnegative
        assert found.remarks == ()
        graph = nx.from_numpy_array(W)
        assert found.edges == 2 * (graph.number_of_edges() - nx.number_of_selfloops(graph))


def test_rho_of_a_matrix_without_symmetry_is_the_singular_value_not_the_eigenvalue():
    found = require_sound(SKEW)
    assert abs(found.rho - np.linalg.svd(SKEW, compute_uv=False)[1]) < 1e-12
    assert abs(found.lambda2 - sorted(np.abs(np.linalg.eigvals(SKEW)))[-2]) < 1e-7
    assert found.lambda2 < found.rho - 0.1
    x = np.linalg.svd(SKEW - 1 / 4)[2][
        0
    ]  # one mixing shrinks this pattern by rho, more slowly than lambda2 promises
    assert np.linalg.norm(SKEW @ x) > found.lambda2 * np.linalg.norm(x) + 0.1
    assert "lambda2 is not" in found.remarks[0]


def test_random_doubly_stochastic_matrices_against_the_dense_svd():
    rng = np.random.default_rng([5])
    for n in (2, 3, 8, 20):
        W = birkhoff(rng, n)
        assert abs(spectrum(W).rho - np.linalg.norm(W - 1 / n, 2)) < 1e-12


def test_circulant_matrices_without_symmetry_against_the_dense_svd():
    rng = np.random.default_rng([6])
    for n in (2, 5, 9):
        row = rng.dirichlet(np.ones(n))
        W = np.stack([np.roll(row, k) for k in range(n)])
        assert abs(spectrum(W).rho - np.linalg.norm(W - 1 / n, 2)) < 1e-12
        almost = W + np.eye(n, k=1 - n)  # the same along each diagonal, without the wrap
        assert abs(spectrum(almost).rho - np.linalg.norm(almost - 1 / n, 2)) < 1e-12
        assert abs(spectrum(W).lambda2 - np.abs(np.linalg.eigvals(W - 1 / n)).max()) < 1e-7


def test_the_iterated_rho_stays_below_the_dense_one_and_within_its_error():
    rng = np.random.default_rng([7])
    for W in (
        topology("path", 400).at(0),
        topology("star", 300).at(0),
        birkhoff(rng, 300),
        np.full((9, 9), 1 / 9),
    ):
        rho, error = _lanczos(W)
        n = W.shape[0]
        dense = np.linalg.norm(W @ np.eye(n) - 1 / n, 2)
        assert rho <= dense + 1e-12
        assert dense <= rho + error + 1e-9


def test_above_the_dense_limit_the_doctor_iterates_and_says_so(monkeypatch):
    monkeypatch.setattr("deca_lab.mixing.spectrum.EXACT", 300)
    monkeypatch.setattr("deca_lab.mixing.spectrum.LAMBDA2", 300)
    found = diagnose(topology("path", 301))
    dense = np.linalg.norm(topology("path", 301).at(0).toarray() - 1 / 301, 2)
    assert found.rho <= dense <= found.rho + found.rho_error + 1e-9
    assert ("iterated" in " ".join(found.remarks)) == (found.rho_error > 0)


def test_a_product_over_the_edges_is_the_denseproduct():
    rng = np.random.default_rng([8])
    X = rng.standard_normal((96, 96))
    for W in (
        topology("ring", 96).at(0),
        topology("one-peer-exponential", 96).at(3),
        birkhoff(rng, 96),
    ):
        assert np.abs(product(X, W) - W @ X).max() < LONG_ROUNDING
        assert np.abs(product(X, csr_array(W)) - W @ X).max() < LONG_ROUNDING


# ---- what rho promises, measured


@cases("W", [topology("ring", 8).at(0), topology("star", 5).at(0), SKEW])
def test_measured_contraction_never_exceeds_rho_and_attains_it(W):
    n, rho = len(W), diagnose(W).rho
    x = np.random.default_rng([9]).standard_normal((n, 6))
    mean, start = x.mean(0), np.linalg.norm(x - x.mean(0))
    for k in range(1, 30):
        x = W @ x
        assert np.abs(x.mean(0) - mean).max() < ROUNDING
        assert np.linalg.norm(x - mean) <= rho**k * start * (1 + 1e-12)
    witness = np.linalg.svd(W - 1 / n)[2][0]
    assert abs(np.linalg.norm(W @ witness) - rho * np.linalg.norm(witness)) < 1e-12


@cases(
    "subject",
    [
        topology("ring", 8),
        topology("torus", 12),
        topology("one-peer-exponential", 8),
        topology("one-peer-exponential", 11),
        topology("random-matchings", 9),
        topology([topology("ring", 6).at(0), topology("star", 6).at(0)]),
        topology(
            [np.kron(np.eye(2), np.full((2, 2), 0.5)), np.kron(np.full((2, 2), 0.5), np.eye(2))]
        ),
        topology(FOLDED),
    ],
)
def test_the_promised_mixings_do_shrink_disagreement_1000_fold(subject):
    promised = int(diagnose(subject).rounds_1000)
    powers = reduce(lambda done, k: subject.at(k) @ done, range(promised), np.eye(subject.n))
    assert np.linalg.norm(powers - 1 / subject.n, 2) <= 1e-3 * (1 + 1e-9)
    assert promised >= subject.period or subject.period == 64


def test_static_rounds_are_the_smallest_number():
    W = topology("ring", 8)
    k = int(diagnose(W).rounds_1000)
    assert k == 32
    assert diagnose(W).rho ** (k - 1) > 1e-3 >= diagnose(W).rho ** k
    assert diagnose(np.eye(3) * 0.1 + 0.3).rounds_1000 == 3  # rho = 0.1 exactly three times
    assert diagnose(np.eye(3) * 0.005 + 0.995 / 3).rounds_1000 == 2


# ---- sequences


def test_one_peer_exponential_is_exact_after_its_period():
    found = require_sound(topology("one-peer-exponential", 8))
    assert (found.rho, found.rounds_1000, found.period, found.edges, found.symmetric) == (
        0,
        3,
        3,
        8,
        False,
    )


def test_single_matchings_may_be_disconnected():
    pairs = topology(
        [np.kron(np.eye(2), np.full((2, 2), 0.5)), np.kron(np.full((2, 2), 0.5), np.eye(2))]
    )
    assert require_sound(pairs).connected
    assert not diagnose(pairs.at(0)).connected
    assert require_sound(topology("random-matchings", 9)).connected
    assert diagnose([pairs.at(0), pairs.at(0)]).verdict == "unsound"


def test_every_matrix_of_a_sequence_is_looked_at():
    ring = topology("ring", 2).at(0)
    assert diagnose([ring, ring, LOPSIDED]).column_error == 0.5
    assert not diagnose([ring, np.full((2, 2), np.nan)]).finite
    assert not diagnose([ring, np.eye(3)]).square


def test_rho_of_a_sequence_is_the_mean_factor_over_its_period():
    pair = [topology("ring", 6).at(0), topology("star", 6).at(0)]
    rho = np.linalg.norm(pair[1] @ pair[0] - 1 / 6, 2)
    assert abs(diagnose(pair).rho - rho**0.5) < 1e-12
    path = topology("path", 4).at(0)  # the order counts: SKEW first, then the path
    first, last = (
        np.linalg.norm(product - 1 / 4, 2) ** 0.5 for product in (path @ SKEW, SKEW @ path)
    )
    assert abs(diagnose([SKEW, path]).rho - first) < 1e-12 < abs(first - last)


# ---- what is wrong


def test_max_degree_on_an_even_ring_is_periodic_and_refused():
    even = topology("ring", 8, weights="max-degree")
    found = diagnose(even)
    assert (found.aperiodic, found.connected, found.rounds_1000, found.verdict) == (
        False,
        True,
        np.inf,
        "unsound",
    )
    with pytest.raises(
        BadInput, match=r"'ring' with 8 clients .* period 2: .* \(I \+ W\)/2, .* --allow-unsound"
    ):
        require_sound(even)
    assert require_sound(even, allow_unsound=True).verdict == "unsound"
    assert require_sound((np.eye(8) + even.at(0)) / 2).verdict == "sound"
    assert require_sound(topology("ring", 9, weights="max-degree")).aperiodic
    for name in ("hypercube", "torus"):
        assert not diagnose(topology(name, 16, weights="max-degree")).aperiodic


def test_a_permutation_has_the_period_of_its_cycle():
    assert "period 5:" in diagnose(np.roll(np.eye(5), 1, axis=1)).reasons[0]
    assert "period 2:" in diagnose(SWAP).reasons[0]


def test_random_graphs_agree_with_networkx_on_connection_and_period():
    rng = np.random.default_rng([11])
    seen = set()
    for n in (2, 3, 4, 5, 6):
        for _ in range(60):
            support = rng.random((n, n)) < rng.choice([0.15, 0.3, 0.5])
            graph = nx.from_numpy_array(support.T.astype(int), create_using=nx.DiGraph)
            found = diagnose(support / max(1, n))
            assert found.connected == nx.is_strongly_connected(graph)
            parts = [graph.subgraph(part) for part in nx.strongly_connected_components(graph)]
            assert found.aperiodic == all(
                nx.is_aperiodic(part) for part in parts if part.number_of_edges()
            )
            seen.add((found.connected, found.aperiodic))
    assert len(seen) == 4


def test_a_disconnected_graph_names_both_sides():
    found = diagnose(topology(nx.Graph([(0, 1), (2, 3)])))
    assert "clients {0, 1} can never hear clients {2, 3}" in found.reasons[0]
    assert found.rounds_1000 == np.inf
    one_way = diagnose(topology(nx.DiGraph([(0, 1), (1, 2), (2, 1)])))  # 0 speaks and never hears
    assert any("client {0} can never hear clients {1, 2}" in reason for reason in one_way.reasons)
    other_way = diagnose(
        topology(nx.DiGraph([(1, 0), (1, 2), (2, 1)]))
    )  # 0 hears and is never heard
    assert any("clients {1, 2} can never hear client {0}" in reason for reason in other_way.reasons)
    with pytest.raises(BadInput, match="disconnected"):
        require_sound(topology("none", 3))


def test_wrong_sums_say_which_client_and_what_follows():
    found = diagnose(LOPSIDED)
    assert (found.row_error, found.column_error) == (0, 0.5)
    assert "column sums reach 1.5 (client 0): the network mean drifts" in found.reasons[0]
    assert "row sums reach 1.5 (client 0)" in diagnose(LOPSIDED.T).reasons[0]
    rounded = np.full((3, 3), 0.3333333)
    assert "write 1/3 in a CSV" in diagnose(rounded).reasons[0]


def test_the_tolerance_on_sums_is_1e_9():
    W = topology("ring", 5).at(0)
    W[0, 0] += 9e-10
    assert require_sound(W)
    W[0, 0] += 2e-10
    with pytest.raises(BadInput, match="row sums"):
        require_sound(W)


def test_negative_entries_are_a_remark_while_disagreement_shrinks():
    plain = topology("ring", 5).at(0)
    assert require_sound(1.2 * plain - 0.2 * np.eye(5)).nonnegative
    eased = require_sound(1.6 * plain - 0.6 * np.eye(5))
    assert not eased.nonnegative
    assert "negative entries" in eased.remarks[0]
    wild = diagnose(3 * plain - 2 * np.eye(5))
    assert wild.rho > 1
    assert "makes it grow" in wild.reasons[0]
    assert wild.rounds_1000 == np.inf


def test_a_matrix_that_shrinks_only_in_two_steps_is_sound_with_a_remark():
    found = require_sound(FOLDED)
    assert abs(found.rho - 1) < 1e-12
    assert found.rounds_1000 == 2
    assert "one mixing may shrink nothing" in found.remarks[1]


@cases("allow", [False, True])
@cases(
    ("W", "message"),
    [
        (np.ones((2, 3)), "not square: 2 x 3"),
        (np.ones(3), "not square: 1 x 3"),
        (np.array([[1, 0], [0, np.nan]]), r"not finite: entry \(1, 1\) is nan"),
        (np.array([[1, -np.inf], [0, 1]]), r"entry \(0, 1\) is -inf"),
    ],
)
def test_what_is_no_matrix_is_refused_even_with_the_flag(W, message, allow):
    with pytest.raises(BadInput, match=message) as caught:
        require_sound(W, allow_unsound=allow)
    assert "--allow-unsound" not in str(caught.value)
    assert "\n" not in str(caught.value)


@cases("nonsense", [[], "ring", 3, [["a", "b"], ["c", "d"]], None])
def test_nonsense_is_named(nonsense):
    with pytest.raises(BadInput, match="the doctor was given"):
        diagnose(nonsense)


def test_one_client_is_sound():
    for name in GRAPHS:
        found = require_sound(topology(name, 1))
        assert (found.rho, found.edges, found.rounds_1000) == (0, 0, 1)


def test_the_matrix_is_not_modified():
    W = topology("star", 5).at(0)
    before = W.copy()
    diagnose(W)
    assert np.array_equal(W, before)


# ---- words


def test_the_description_of_a_sound_ring():
    lines = describe(topology("ring", 8)).splitlines()
    assert lines[0] == "mixing matrix of 8 clients: ring (metropolis weights)"
    assert lines[-1] == "verdict: sound"
    table = {line.split()[0]: line for line in lines[2:-1]}
    assert "0.804738" in table["rho"]
    assert " 32 " in table["1000-fold"]
    column = lines[1].index("what it means")
    assert all(line[column - 1] == " " != line[column] for line in lines[1:-1])
    assert "connected at draw" in describe(topology("erdos-renyi", 8))


@cases(
    "subject",
    [topology("ring", 8), topology("none", 20), topology("random-matchings", 9), SKEW, FOLDED, LOPSIDED,
     np.ones((2, 3)), np.full((2, 2), np.nan), np.zeros((3, 3)), 3 * topology("ring", 6).at(0) - 2 * np.eye(6)],
)  # fmt: skip
def test_every_description_is_short_and_ends_with_its_verdict(subject):
    found = diagnose(subject)
    text = describe(found)
    assert text == describe(subject)
    assert len(text.splitlines()) <= 18
    assert max(map(len, text.splitlines())) <= 110
    assert text.splitlines()[-1].startswith(f"verdict: {found.verdict}")
    assert ("reason: " in text) == (found.verdict == "unsound")


def test_a_factor_just_below_one_is_not_called_one():
    found = diagnose(topology("ring", 2048))
    assert "1 - 3.14e-06" in describe(found)
    assert abs(found.rho - (1 + 2 * np.cos(2 * np.pi / 2048)) / 3) < LONG_ROUNDING
    assert found.verdict == "sound"


def test_sums_that_are_a_little_off_are_not_called_1():
    thirds = np.full((3, 3), np.float32(1 / 3), dtype=np.float64)
    assert "row sums are off 1 by 3.0e-08" in " ".join(diagnose(thirds).reasons)
