"""Mixing of factors against dense products, numpy's SVD, a loop over clients and the identity of interference."""

import numpy as np
import pytest
import torch
from reference import LONG_ROUNDING, ROUNDING

from deca_lab.algorithm import stacking
from deca_lab.errors import BadInput, Diverged
from deca_lab.mixing import gossip
from deca_lab.mixing.topology import topology
from deca_lab.models import factor_mixing

RANK, IN, OUT = 2, 7, 9
GRAPHS = {
    "ring": topology("ring", 6).matrices[0],
    "complete": topology("complete", 4).matrices[0],
    "star": topology("star", 5).matrices[0],  # degrees that differ
    "directed": sum(w * np.roll(np.eye(5), k, 1) for k, w in enumerate((0.5, 0.3, 0.2))),
    "negative": np.roll(np.eye(4), 1, 1) * 0.6 + np.roll(np.eye(4), -1, 1) * 0.6 - 0.2 * np.eye(4),
}


def random_params(n, dtype=torch.float64, seed=0, scale=1.0):
    """Two modules of different shapes, of which one is wider than the graph is rich, and a tensor that is no factor."""
    draw = np.random.default_rng([seed, n])
    shapes = {
        "h.0.q.lora_A": (RANK, IN),
        "h.0.q.lora_B": (OUT, RANK),
        "h.0.norm": (4,),
        "h.1.v.lora_B": (40, 3),
        "h.1.v.lora_A": (3, 50),
    }
    return {
        k: torch.from_numpy(scale * draw.standard_normal((n, *s))).to(dtype)
        for k, s in shapes.items()
    }


def flat(params):
    where = stacking.layout(params, list(params))
    return stacking.flatten(params, where.names), where


def products(params, module):
    """B A of every client, (N, out, in), as numpy in float64."""
    return np.stack(
        [
            (b @ a).numpy()
            for a, b in zip(
                params[f"{module}.lora_A"].double(),
                params[f"{module}.lora_B"].double(),
                strict=True,
            )
        ]
    )


def mixed(params, W, **options):
    x, where = flat(params)
    return stacking.unflatten(factor_mixing.decaf([W], where, x, **options)((x,)), where)


def dense_best(product, rank):
    """Numpy's best rank-r approximation and the sum of the squared singular values past r."""
    u, s, vh = np.linalg.svd(product)
    return u[:, :rank] * s[:rank] @ vh[:rank], float((s[rank:] ** 2).sum())


def test_the_pairs_are_found_in_the_order_of_the_names():
    _, where = flat(random_params(3))
    assert (
        factor_mixing.pairs(where)
        == factor_mixing.pairs(where.names)
        == [("h.0.q.lora_A", "h.0.q.lora_B"), ("h.1.v.lora_A", "h.1.v.lora_B")]
    )
    assert [pair.module for pair in factor_mixing.pairs(where)] == ["h.0.q", "h.1.v"]
    assert factor_mixing.pairs(["h.0.norm", "lora_A_log"]) == []


@pytest.mark.parametrize(
    "names", [["h.q.lora_A"], ["h.norm", "h.q.lora_B", "h.v.lora_A", "h.v.lora_B"]]
)
def test_half_a_pair_is_refused(names):
    with pytest.raises(
        BadInput, match=r"names: h.q.lora_\w is without h.q.lora_\w: both of a pair"
    ):
        factor_mixing.pairs(names)
    with pytest.raises(BadInput, match="is without"):
        factor_mixing.decaf(
            [np.eye(2)], stacking.Layout(tuple(names), tuple((1, 1) for _ in names)), torch.zeros(1)
        )


# interference


@pytest.mark.parametrize("graph", GRAPHS)
def test_interference_is_the_mean_of_products_minus_the_product_of_means(graph):
    W, total, bound = GRAPHS[graph], 0.0, 0.0
    params = random_params(len(W))
    got = factor_mixing.interference(params, W)
    for module in ("h.0.q", "h.1.v"):
        P, A, B = (
            products(params, module),
            params[f"{module}.lora_A"].numpy(),
            params[f"{module}.lora_B"].numpy(),
        )
        square = [
            np.linalg.norm(np.tensordot(w, P, 1) - np.tensordot(w, B, 1) @ np.tensordot(w, A, 1))
            ** 2
            for w in W
        ]
        assert got.by_module[module] == pytest.approx(np.sqrt(np.mean(square)), rel=1e-12)
        total += np.mean(square)
        for w in W:
            b, a = (f - np.tensordot(w, f, 1) for f in (B, A))
            bound += np.prod(
                [sum(abs(w[j]) * np.linalg.norm(f[j]) ** 2 for j in range(len(W))) for f in (a, b)]
            ) / len(W)
    assert got.total == pytest.approx(np.sqrt(total), rel=1e-12)
    assert got.bound == pytest.approx(np.sqrt(bound), rel=1e-12)
    assert got.total < got.bound


def test_the_bound_is_cauchy_schwarz_by_hand_and_is_attained():
    params = {
        "m.lora_A": torch.tensor([[[1.0, 0.0]], [[3.0, 0.0]]]),
        "m.lora_B": torch.tensor([[[0.0]], [[4.0]]]),
    }
    got = factor_mixing.interference(
        params, np.full((2, 2), 0.5)
    )  # dA = -1, 1 and dB = -2, 2: mean of products 2
    assert got == ({"m": 2.0}, 2.0, 2.0)


def test_interference_where_the_neighbours_differ_little_is_not_lost_in_rounding():
    params = random_params(6, scale=1e-7)
    common = random_params(1, seed=9)
    near = {k: common[k] + p for k, p in params.items()}
    exact = factor_mixing.interference(
        {k: p - p[:1] for k, p in near.items()}, GRAPHS["ring"]
    )  # shifts change nothing
    assert factor_mixing.interference(near, GRAPHS["ring"]).total == pytest.approx(
        exact.total, rel=1e-6
    )
    assert 0 < exact.total < 1e-12


def test_equal_clients_half_pairs_and_no_mixing_have_no_interference():
    params = stacking.replicate(stacking.client(random_params(1), 0), 6)
    assert factor_mixing.interference(params, GRAPHS["ring"]).total < LONG_ROUNDING
    assert factor_mixing.interference(random_params(5), np.eye(5)).total == 0
    only_b = {"m.lora_B": torch.ones(6, 3, 2)}
    assert factor_mixing.interference(only_b, GRAPHS["ring"]) == ({}, 0.0, 0.0)


# DeCAF


@pytest.mark.parametrize("share", factor_mixing.SHARES)
@pytest.mark.parametrize("graph", GRAPHS)
def test_decaf_is_numpys_truncated_svd_of_the_dense_mean_of_products(graph, share):
    W = GRAPHS[graph]
    params = random_params(len(W))
    new, lost = mixed(params, W, share=share), factor_mixing.truncation_error(params, W)
    for module, rank in (("h.0.q", RANK), ("h.1.v", 3)):
        P = products(params, module)
        for i, w in enumerate(W):
            best, tail = dense_best(np.tensordot(w, P, 1), rank)
            assert np.abs(products(new, module)[i] - best).max() < 1e-10
            assert float(lost[module][i]) == pytest.approx(tail, rel=1e-10, abs=1e-20)
    assert torch.allclose(
        new["h.0.norm"], torch.from_numpy(W) @ params["h.0.norm"], rtol=0, atol=ROUNDING
    )


def test_the_shares_are_what_they_say():
    params = random_params(6)
    even, left = (mixed(params, GRAPHS["ring"], share=share) for share in ("balanced", "into-b"))
    a, b = even["h.1.v.lora_A"], even["h.1.v.lora_B"]
    assert torch.allclose(a @ a.mT, b.mT @ b, rtol=0, atol=1e-10)
    a = left["h.1.v.lora_A"]
    assert torch.allclose(a @ a.mT, torch.eye(3, dtype=a.dtype).expand(6, 3, 3), rtol=0, atol=1e-12)


def test_signs_do_not_depend_on_the_signs_given():
    params = random_params(6)
    turned = params | {k: -params[k] for k in ("h.0.q.lora_A", "h.0.q.lora_B")}
    assert all(
        torch.allclose(p, q, rtol=0, atol=1e-12)
        for p, q in zip(
            mixed(params, GRAPHS["ring"]).values(),
            mixed(turned, GRAPHS["ring"]).values(),
            strict=True,
        )
    )
    b = mixed(params, GRAPHS["ring"])["h.0.q.lora_B"]
    assert (b.gather(1, b.abs().argmax(1, keepdim=True)) > 0).all()


def test_it_is_exact_where_the_rank_suffices():
    params = random_params(4)
    params["h.0.q.lora_A"][:, 1:] = 0  # rank 1 each, and all in the same row space
    params["h.0.q.lora_A"][:, :1] = params["h.0.q.lora_A"][:1, :1].clone()
    mean = products(params, "h.0.q").mean(0)
    assert np.abs(products(mixed(params, GRAPHS["complete"]), "h.0.q") - mean).max() < LONG_ROUNDING
    assert (
        factor_mixing.truncation_error(params, GRAPHS["complete"])["h.0.q"].max() < LONG_ROUNDING**2
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equal_factors_on_the_complete_graph_are_a_fixed_point_in_the_product(dtype):
    params = stacking.replicate(stacking.client(random_params(1, dtype), 0), 4)
    once = mixed(params, GRAPHS["complete"])
    digits = {torch.float32: 1e-4, torch.float64: LONG_ROUNDING, torch.bfloat16: 0.2}[dtype]
    for module in ("h.0.q", "h.1.v"):
        assert np.abs(products(once, module) - products(params, module)).max() < digits
    assert all(p.dtype == dtype and not p.requires_grad for p in once.values())
    again = mixed(once, GRAPHS["complete"])
    assert all(
        torch.allclose(p, again[k], rtol=0, atol=digits) for k, p in once.items()
    )  # then in the factors too


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_networks_mean_drifts_at_most_by_the_mean_truncation_error(graph):
    W = GRAPHS[graph]
    for seed in range(5):
        params = random_params(len(W), seed=seed)
        new, lost = mixed(params, W), factor_mixing.truncation_error(params, W)
        for module in ("h.0.q", "h.1.v"):
            drift = np.linalg.norm((products(new, module) - products(params, module)).mean(0))
            assert (
                0.05 * float(lost[module].sqrt().mean())
                < drift
                <= float(lost[module].sqrt().mean()) + 1e-12
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loras_start_stays_and_can_still_learn(dtype):
    params = stacking.replicate(stacking.client(random_params(1, dtype), 0), 6)
    start = params | {k: torch.zeros_like(p) for k, p in params.items() if k.endswith("lora_B")}
    new = mixed(start, GRAPHS["ring"])
    assert all(
        torch.allclose(new[k], p, rtol=1e-6, atol=0) for k, p in start.items()
    )  # A alive, B zero
    one = {k: p.clone() for k, p in start.items()}
    one["h.0.q.lora_B"][2, :, 0] = 1.0  # one client moved one direction of two
    new = mixed(one, GRAPHS["ring"])
    assert all(p.isfinite().all() for p in new.values())
    assert (new["h.0.q.lora_A"].norm(dim=2) > 0.5).all()  # no row died
    want = np.tensordot(GRAPHS["ring"], products(one, "h.0.q"), 1)
    assert np.abs(products(new, "h.0.q") - want).max() < (
        1e-5 if dtype == torch.float32 else LONG_ROUNDING
    )


def test_single_precision_follows_double():
    params = random_params(6)
    low = mixed({k: p.float() for k, p in params.items()}, GRAPHS["ring"])
    high = mixed(params, GRAPHS["ring"])
    assert all(torch.allclose(low[k].double(), p, rtol=0, atol=1e-4) for k, p in high.items())


def test_nothing_given_changes_and_two_calls_are_equal():
    x, where = flat(random_params(6))
    kept, carry = x.clone(), factor_mixing.decaf([GRAPHS["ring"]], where, x)

    def mix(x):
        return carry((x,))

    assert torch.equal(mix(x), mix(x))
    assert torch.equal(x, kept)
    assert mix(x.requires_grad_()).grad_fn is None
    assert mix(x).shape == gossip.mixer(GRAPHS["ring"], x)(x).shape


def test_bad_input_and_divergence_are_named():
    x, where = flat(random_params(6))
    with pytest.raises(
        BadInput, match=r"unknown share of the singular values 'balancd': did you mean 'balanced'"
    ):
        factor_mixing.decaf([GRAPHS["ring"]], where, torch.zeros(1), share="balancd")
    with pytest.raises(
        BadInput, match=r"names = 'w' cannot be used: it must be pairs of LoRA's factors"
    ):
        factor_mixing.decaf([np.eye(2)], stacking.Layout(("w",), ((3,),)), torch.zeros(1))
    with pytest.raises(
        BadInput, match=r"W = 'of shape \(4, 4\)' cannot be used: it must be \(6, 6\)"
    ):
        factor_mixing.truncation_error(random_params(6), GRAPHS["complete"])
    with pytest.raises(BadInput, match=r"row sums \[2.0, 2.0\]"):
        factor_mixing.interference(random_params(2), np.ones((2, 2)))
    x[3, 0] = float("nan")
    with pytest.raises(Diverged, match=r"client 3: h\.0\.q\.lora_A is no longer finite"):
        factor_mixing.decaf([GRAPHS["ring"]], where, x)((x,))
