"""DECA's rest at the median: random clients, the witness and its closed forms, broken hypotheses, edge sizes, plain loops."""

import numpy as np
import pytest
from cases import cases

from deca_lab.algorithm import moments as mo
from deca_lab.algorithm.optimisers import mixed_adam
from deca_lab.bounds import median_limit as ml
from deca_lab.bounds.landscape import valleys
from deca_lab.bounds.trace import Setting, trace
from deca_lab.errors import BadInput
from deca_lab.mixing.topology import topology

SIGNS = Setting(topology("complete", 10), 1, 400, 1, 0.02, ml.SIGNS)
FEEDS = {
    "none": SIGNS.feedback,
    "printed": mo.Feedback(mo.printed, mo.raw, 0.9, 0.99),
    "downhill": mo.Feedback(mo.downhill, mo.raw, 0.5, 0.9),
    "zero": mo.Feedback(mo.zero, mo.raw, 0.9, 0.99),
}


def setting(graph="ring", R=4, lr=2e-3, eps=0.1, feed="none", clients=5, rounds=150):
    return Setting(
        topology(graph, clients), 1, rounds, R, lr, mo.Adam(eps=eps), feedback=FEEDS[feed]
    )


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("graph", ["ring", "star", "complete"])
@cases(("seed", "R", "lr", "eps"), [(0, 1, 1e-2, 1e-9), (1, 4, 2e-3, 0.1), (2, 8, 1e-3, 1e-4)])
def test_the_way_of_random_clients_stays_below_its_bound(graph, feed, seed, R, lr, eps):
    found = ml.arrival(ml.bowls(5, 3, seed), setting(graph, R, lr, eps, feed))
    assert (found.finite, found.verdict) == (True, "holds")


@cases("seed", range(30))
def test_random_clients_at_rest(seed):
    rng = np.random.default_rng(seed)
    clients = int(rng.integers(1, 30))
    made = ml.bowls(clients, 20, seed)
    S = setting(eps=10.0 ** rng.uniform(-6, 2), feed=["none", "printed"][seed % 2])
    found = ml.at_rest(made.slopes(ml.rest(made, ml.fair(S))), S)
    assert (found.finite, found.verdict) == (True, "holds")


def test_functions_that_are_not_convex_rest_within_the_claim_too():
    land = valleys(7, 4, apart=1.0, seed=3)
    S = setting("complete", 1, 0.1, 0.3, clients=7, rounds=900)
    y = land.gradients(trace(land, S)[-1].after).numpy()
    np.testing.assert_allclose(ml.fair(S)(y).sum(0), 0, atol=1e-6)
    assert (np.abs(y.mean(0)) > 1e-3).all()
    assert ml.at_rest(y, S)._replace(rounding=1e-6).holds()


@pytest.mark.slow
@pytest.mark.parametrize("R", [1, 4])
def test_the_limit_is_reached_to_two_hundredths_by_the_librarys_run(R):
    found = ml.median_limit((4, 10, 40), R=R)
    np.testing.assert_allclose(found.rhs, [2 / 6, 8 / 12, 38 / 42], rtol=1e-12)
    np.testing.assert_allclose(found.lhs, found.rhs, rtol=0.02)
    assert found.holds()


def test_an_odd_number_and_the_repair():
    assert ml.median_limit((5,)).lhs[0] == pytest.approx(4 / 6, rel=0.02)
    end = ml.mean_models(ml.lopsided(10), SIGNS, mixed_adam(SIGNS.adam, SIGNS.feedback))[-1]
    assert end == pytest.approx(ml.lopsided(10).solution(), abs=1e-12)  # mixed v: it stays


def test_signs_attain_the_way_at_every_visit_before_the_band():
    found = ml.arrival(ml.lopsided(10), SIGNS._replace(rounds=180))
    np.testing.assert_allclose(found.ratios, 1, rtol=1e-6)
    drop = np.diff(found.lhs)
    np.testing.assert_allclose(drop, -0.02 * 2 / 10, rtol=1e-5)  # lr times the majority's share


@pytest.mark.parametrize("feed", ["printed", "downhill", "zero"])
def test_the_sign_of_a_raw_h_does_not_matter_and_the_median_is_where_it_was(feed):
    made = ml.lopsided(10)
    end = ml.mean_models(made, setting("complete", 8, 2e-3, 1e-4, feed, 10, 900))[-1]
    assert abs(float(end[0])) < 0.01 < 0.5 < float(made.solution()[0])


@cases(("clients", "zeta", "eps"), [(4, 1.0, 1e-6), (10, 3.0, 0.5), (7, 0.2, 40.0), (41, 1.0, 1.0)])
def test_the_witness_rests_where_its_quadratic_says(clients, zeta, eps):
    made, S = ml.lopsided(clients, zeta), setting(eps=eps)
    assert made.slopes(np.zeros(1)).std() == pytest.approx(zeta)
    want = ml.witness_rest(clients, zeta, eps)
    assert ml.rest(made, ml.fair(S)) == pytest.approx(want, rel=1e-9)
    assert 0 < want < float(made.solution()[0])


def test_kappa_is_attained_as_eps_goes_to_zero_and_leaves_as_it_grows():
    ends = []
    for eps in (1e-9, 1.0, 1e3):
        S, made = setting(eps=eps), ml.lopsided(10)
        ends.append(ml.at_rest(made.slopes(ml.rest(made, ml.fair(S))), S))
    assert ends[0].ratios[0] == pytest.approx(1, rel=1e-6)
    assert [float(end.lhs[0]) for end in ends] == sorted(
        (float(e.lhs[0]) for e in ends), reverse=True
    )
    G, zeta2 = (
        float(np.abs(made.slopes(made.solution())).max()),
        1.0,
    )  # at rest, for so large an eps
    assert ends[2].rhs[0] == pytest.approx(G**2 / (4e3 * (G + 1e3)) * zeta2, rel=1e-2)  # D
    assert ends[2].holds()
    assert [ml.kappa(n) for n in (1, 2, 3, 4, 5)] == pytest.approx([0, 0, 1 / 2, 1 / 3, 2 / 3])


def test_half_and_half_stand_still_farther_off_than_kappa_says_for_any_visible_time():
    """With two equal camps the pull between them is of the order of eps: the bound says so, by not falling."""
    c = np.array([[0.0], [0.0], [1.0], [1.0]])
    made = ml.Bowls(np.ones((4, 1)), c, np.array([0.01]))
    found = ml.arrival(made, setting("complete", 1, 1e-3, 1e-9, clients=4))
    assert float(found.lhs[-1]) == pytest.approx(0.49, abs=1e-3)
    assert np.asarray(found.rhs)[-1] > 0.489


@pytest.mark.parametrize("noise", [0.2, 1.0])
def test_under_noise_the_potential_falls_in_expectation(noise):
    S = Setting(topology("complete", 5), 1, 200, 1, 0.02, ml.SIGNS, noise=noise)
    assert ml.dithered(ml.bowls(5, 1, 2), S).holds()


def test_the_potentials_slope_is_the_field():
    made, x, step = ml.bowls(5, 1, 1), np.linspace(-2, 2, 9), 1e-6
    slope = (ml.potential(made, 0.7, x + step) - ml.potential(made, 0.7, x - step)) / (2 * step)
    field = [float(ml.smoothed(0.7)(made.slopes(np.array([at]))).mean()) for at in x]
    np.testing.assert_allclose(slope, field, atol=1e-8)


def test_loud_noise_brings_it_back_to_the_solution():
    made = ml.lopsided(10)
    ends = [float(ml.rest(made, ml.smoothed(noise))[0]) for noise in (0.01, 1.0, 30.0)]
    assert ends == sorted(ends)
    assert ends[0] < 0.02
    assert ends[2] == pytest.approx(float(made.solution()[0]), rel=1e-3)


def test_broken_noise_turns_signs_linear_and_it_stays_at_the_mean():
    assert ml.broken().verdict.startswith("fails at visit")


def test_broken_mixed_second_moments_are_not_what_is_claimed():
    S = SIGNS._replace(rounds=100)
    found = ml.arrival(ml.lopsided(10), S, mixed_adam(S.adam, S.feedback))
    assert found.verdict.startswith("fails at visit")


def test_a_gradient_elsewhere_breaks_the_claim_of_rest():
    made, S = ml.lopsided(10), setting(eps=0.1)
    assert not ml.at_rest(made.slopes(np.array([-1.0])), S).holds()


@cases(("clients", "R"), [(1, 1), (1, 3), (2, 1), (2, 4)])
def test_edge_sizes(clients, R):
    S = setting("complete", R, clients=clients, rounds=20)
    made = ml.bowls(clients, 1)
    for start in (made.solution(), made.solution() + 1):
        assert ml.arrival(made._replace(start=start), S).holds()
    assert ml.at_rest(made.slopes(ml.rest(made, ml.fair(S))), S).holds()


def test_the_way_is_a_plain_loop():
    made, S = ml.bowls(5, 2, 4), setting("ring", 1, 0.05, 0.1, rounds=6)
    X, W = np.tile(made.start, (5, 1)), S.topology.at(0)
    for seen in ml.mean_models(made, S):
        np.testing.assert_allclose(seen, X.mean(0), rtol=1e-12, atol=1e-15)
        g = made.a * (X - made.c)
        X = W @ (X - 0.05 * g / (np.abs(g) + 0.1))


def test_the_field_is_the_direction_of_a_short_visit():
    """With a step that is next to nothing the mean direction over a visit is psi, with feedback as well."""
    made = ml.bowls(5, 3, 1)
    for feed in ("none", "printed"):
        S = setting("complete", 6, 1e-9, 0.2, feed, rounds=1)
        start, end = ml.mean_models(made, S)
        want = ml.fair(S)(made.slopes(start)).mean(0)
        np.testing.assert_allclose((start - end) / (6 * 1e-9), want, rtol=1e-5)


def test_inward_is_below_the_pull_at_every_point():
    made, S = ml.bowls(5, 1, 6), setting("ring", 4)
    x = np.linspace(0.1, 4, 50)
    s = ml.inward(made.a[:, 0], made.c[:, 0], x, S)
    assert (np.diff(s) >= 0).all()
    fine = np.linspace(0.1, 4, 5000)
    pull = ml.fair(S)(made.a[:, 0] * (fine[:, None] - made.c[:, 0])).mean(1)
    assert all(level <= pull[fine >= at].min() for at, level in zip(x, s, strict=False))


def test_inward_by_hand_for_one_turn_on_a_ring():
    made, S = ml.bowls(5, 1, 6), setting("ring", 1, 0.05, 0.1)
    a, c, x = made.a[:, 0], made.c[:, 0], np.linspace(-1, 4, 20)
    rho = (1 + 2 * np.cos(2 * np.pi / 5)) / 3
    y = a * (x[:-1, None] - c - 0.05 * 2 * rho / (1 - rho))  # sqrt(N - 1) = 2
    np.testing.assert_allclose(ml.inward(a, c, x, S), (y / (np.abs(y) + 0.1)).mean(1), rtol=1e-12)


@pytest.mark.parametrize("feed", ["none", "printed"])
def test_inward_is_the_least_of_its_formula_also_between_coarse_points(feed):
    """The formula again in plain loops, on a fine grid that crosses clients' wishes, where shares fall before they rise."""
    S = setting("complete", 4, 0.002, feed=feed)._replace(adam=mo.Adam(0.9, 0.5, 1e-3))
    a, c, t = np.array([1.0, 2.0]), np.array([0.0, 1.0]), ml._turns(S)
    C, steps = t.C.max(), range(4)

    def share(x, a_i, c_i):
        y, off = a_i * (x - c_i), a_i * 3 * C * 0.002
        total = 0.0
        for k in steps:
            m = t.omega[k] * (y - off) - t.chi[k] * C * 0.002
            if m >= 0:
                bulge = np.sqrt(t.second[k]) * C * 0.002
                total += m / (np.sqrt(t.first[k]) * (abs(y) + off) + bulge + 1e-3)
            else:
                total -= min(t.C[k], -m / (np.sqrt(t.first[k]) * max(abs(y) - off, 0) + 1e-3))
        return total / 4

    fine = np.linspace(0.3, 2.3, 2001)
    want = np.array([(share(x, a[0], c[0]) + share(x, a[1], c[1])) / 2 for x in fine])
    for points in (5, 21, 101, 1001):
        x = np.linspace(0.3, 2.3, points)
        s = ml.inward(a, c, x, S)
        least = np.array([want[fine >= at - 1e-12].min() for at in x[:-1]])
        assert (s <= least + 1e-12).all()
        assert (np.diff(s) >= 0).all()
    np.testing.assert_allclose(s, least, atol=0.03)
    assert want.min() < want[0] - 0.02  # it is not at an end


@pytest.mark.slow
def test_examples_hold():
    assert all(bound.holds() for bound in ml.examples().values())


def test_bad_input():
    made = ml.lopsided(10)
    with pytest.raises(BadInput, match="feedback"):
        ml.arrival(made, SIGNS._replace(feedback=mo.Feedback(mo.printed, mo.per_lr_, 0.9, 0.9)))
    with pytest.raises(BadInput, match="noise"):
        ml.arrival(made, SIGNS._replace(noise=1.0))
    with pytest.raises(BadInput, match="blocks"):
        ml.arrival(made, SIGNS._replace(blocks=2))
    with pytest.raises(BadInput, match="eps"):
        ml.fair(SIGNS._replace(adam=mo.Adam(eps=0.0)))
    with pytest.raises(BadInput, match="clients"):
        ml.lopsided(2)
    with pytest.raises(BadInput, match="complete graph"):
        ml.dithered(made, setting("ring", 1)._replace(noise=1.0))
    with pytest.raises(BadInput, match="noise"):
        ml.dithered(made, SIGNS)
