"""A certificate in whole numbers: known eigenvalues, planted factors refused, defects of sums, edge sizes, the doctor's word."""

import json
from fractions import Fraction

import numpy as np
import pytest
from cases import cases
from command import deca_lab

from deca_lab.bounds import certified_gossip as cg
from deca_lab.bounds import exact
from deca_lab.bounds.gossip_contraction import ring_rho, witness
from deca_lab.errors import BadInput
from deca_lab.mixing.topology import topology


@cases("n", [3, 4, 5, 8, 13])
def test_the_rings_known_factor_is_proved_and_a_smaller_one_is_refused(n):
    found = cg.certify(topology("ring", n).at(0))
    assert found.proved
    assert 0 <= found.rho - ring_rho(n) <= 2 * cg.MARGIN
    assert not cg.certify(topology("ring", n).at(0), rho=ring_rho(n) * (1 - 1e-9) or 1e-17).proved


@cases("seed", range(6))
def test_random_matrices_against_the_dense_norm(seed):
    rng = np.random.default_rng([seed, 0xCE])
    n = int(rng.integers(2, 9))
    shares = rng.dirichlet(np.ones(4))
    W = sum(w * np.eye(n)[rng.permutation(n)] for w in shares)
    norm = float(np.linalg.norm(W - 1 / n, 2))
    assert cg.certify(W).rho == pytest.approx(norm, abs=2 * cg.MARGIN)
    assert not cg.certify(W, rho=norm - 1e-10).proved
    assert cg.certify(W, rho=norm + 1e-10).proved
    assert cg.certified_gossip(W, witness(W), 6).holds()


@cases("seed", range(20))
def test_elimination_against_eigenvalues(seed):
    rng = np.random.default_rng([seed, 0xE])
    n = int(rng.integers(1, 7))
    root = rng.integers(-9, 10, (n, n))
    A = root @ root.T - int(rng.integers(0, 30)) * np.eye(n, dtype=int)
    least = np.linalg.eigvalsh(A)[0]
    if abs(least) > 1e-9:
        assert exact.positive_definite(A.astype(object)) == (least > 0)


def test_a_matrix_that_is_singular_by_a_digit_that_float64_does_not_see():
    big = 2**80
    singular = np.array([[big, big], [big, big]], dtype=object)
    assert not exact.positive_definite(singular)
    assert exact.positive_definite(singular + np.array([[0, 0], [0, 1]], dtype=object))


def test_digits_are_the_number_itself():
    numbers, places = exact.digits(np.array([[1 / 3, 0.0], [-0.1, 1e-300]]))
    assert Fraction(numbers[0, 0], 2**places) == Fraction(1 / 3) != Fraction(1, 3)
    assert Fraction(numbers[1, 0], 2**places) == Fraction(-0.1)
    assert numbers[0, 1] == 0
    assert Fraction(numbers[1, 1], 2**places) == Fraction(1e-300)


def test_roots_are_rounded_up():
    for square in (Fraction(0), Fraction(2), Fraction(1, 3), Fraction(10) ** -40):
        assert 0 <= Fraction(exact.root_above(square)) ** 2 - square <= square / 2**50


def test_sums_that_are_off_are_counted_exactly():
    W = topology("ring", 6).at(0).copy()
    W[0, 0] += 2.0**-40
    found = cg.certify(W)
    assert found.row_defect == 2.0**-40
    assert found.column_defect == pytest.approx(2.0**-40 / 6**0.5, rel=1e-12)
    X = 1e6 + np.random.default_rng(1).standard_normal((6, 2))
    assert cg.certified_gossip(W, X, 40).holds()
    least = cg.certified_gossip(W, np.full((6, 2), 1e6), 1)
    assert least.lhs[0] > 100 * np.max(least.rounding)  # who agreed is moved apart by the defect
    assert least.holds()


def test_broken_a_factor_a_thousandth_too_small():
    assert cg.broken().verdict == "fails at mixing 1"


@cases("n", [1, 2])
def test_edge_sizes(n):
    W = topology("complete", n).at(0)
    found = cg.certify(W)
    assert found.proved
    assert found.rho <= 2 * cg.MARGIN
    assert cg.certified_gossip(W, np.arange(n * 2.0).reshape(n, 2), 3).holds()


def test_a_period_is_certified_by_its_exact_product():
    found = cg.certify(topology("one-peer-exponential", 8))
    assert (found.period, found.proved) == (3, True)
    assert found.rho <= 2 * cg.MARGIN  # three matchings reach the mean
    assert "a period of 3 mixings" in found.line
    listed = list(topology("one-peer-exponential", 8).matrices)
    assert cg.certify(listed) == found


def test_matrices_in_turn_are_multiplied_in_their_order():
    rng = np.random.default_rng(4)
    first, second = ((np.eye(4) + np.eye(4)[rng.permutation(4)]) / 2 for _ in range(2))
    third = np.diag([1.0, 1.0, 0.5, 0.5]) + np.array(
        [[0, 0, 0, 0]] * 2 + [[0, 0, 0, 0.5], [0, 0, 0.5, 0]]
    )
    turns = [third, first, second]
    norm = np.linalg.norm(second @ first @ third - 0.25, 2)
    other = np.linalg.norm(third @ first @ second - 0.25, 2)
    assert abs(norm - other) > 1e-3  # the order matters
    assert cg.certify(turns, rho=norm + 1e-9).proved
    assert not cg.certify(turns, rho=norm - 1e-9).proved


def test_too_many_clients_get_no_certificate_and_are_told():
    found = cg.certify(topology("ring", cg.LARGEST + 1))
    assert not found.proved
    assert f"above {cg.LARGEST} clients" in found.line


def test_the_doctor_prints_it_with_its_verdict(capsys, tmp_path):
    sound = deca_lab(capsys, "doctor", "--topology", "ring", "--clients", "8")
    assert "certificate: rho <= 0.804737854135 for one mixing" in sound.out
    as_json = json.loads(deca_lab(capsys, "doctor", "--json").out)
    assert as_json["certificate"]["proved"]
    np.savetxt(tmp_path / "w.csv", [[0.9, 0.1], [0.5, 0.5]], delimiter=",")
    unsound = deca_lab(capsys, "doctor", "--matrix", tmp_path / "w.csv")
    assert "certificate" not in unsound.out


@cases(
    ("call", "words"),
    [
        (lambda: cg.certify(np.ones((2, 3))), r"W = \(2, 3\)"),
        (lambda: cg.certify(np.full((2, 2), np.nan)), "square, finite"),
        (lambda: cg.certify(np.eye(2), rho=0.0), r"rho = 0\.0"),
        (lambda: cg.certified_gossip(np.eye(65), np.ones((65, 1)), 1), "can be certified"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(BadInput, match=words):
        call()
