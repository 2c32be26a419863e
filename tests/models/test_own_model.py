"""Models of one's own against a plain loop over the very modules; what cannot train is one line."""

import copy

import pytest
import torch
from reference import EAGER
from torch import nn
from torch.nn.functional import cross_entropy, dropout, scaled_dot_product_attention

from deca_lab.algorithm import blocks, stacking
from deca_lab.algorithm.gradients import ENGINES
from deca_lab.errors import BadInput
from deca_lab.models import causal_lm
from deca_lab.models.own_model import fingerprint_of, model_of
from deca_lab.text.tasks import masked_loss

N, B, T, V = 3, 2, 12, 40
EXACT = {torch.float32: 1e-6, torch.float64: 1e-12}


def tokens(*shape, seed=1):
    return torch.randint(0, V, shape, generator=torch.Generator().manual_seed(seed))


class Bigram(nn.Module):
    """The next token from the last one alone."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(V, V)

    def forward(self, ids):
        return self.table(ids)


class Recurrent(nn.Module):
    """An Elman network as a loop, with dropout, a tied head, and its answer in `.logits`."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(V, 8)
        self.layers = nn.ModuleList([nn.Linear(16, 8), nn.Linear(16, 8)])
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, V, bias=False)
        self.head.weight = self.embed.weight
        self.drop = nn.Dropout(0.5)

    def forward(self, ids):
        x = self.drop(self.embed(ids))
        for layer in self.layers:
            h, out = torch.zeros_like(x[:, 0]), []
            for t in range(x.shape[1]):
                h = layer(torch.cat([x[:, t], h], -1)).tanh()
                out.append(h)
            x = torch.stack(out, 1)
        return Answer(self.head(self.norm(x)))


class Answer:
    def __init__(self, logits):
        self.logits = logits


class Attentive(nn.Module):
    """A transformer of torch's own parts, with fused kernels and dropout."""

    def __init__(self, most=64):
        super().__init__()
        self.embed, self.places = nn.Embedding(V, 16), nn.Embedding(most, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, V)

    def forward(self, ids):
        at = torch.arange(ids.shape[1], device=ids.device)
        mask = nn.Transformer.generate_square_subsequent_mask(len(at), dtype=self.head.weight.dtype)
        x = self.embed(ids) + self.places(at)
        return self.head(self.body(x, mask=mask, is_causal=True))


class Scaled(nn.Module):
    """Torch's attention function, a buffer, and a frozen part."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix = nn.Embedding(V, 8), nn.Linear(8, 24)
        self.head = nn.Linear(8, V)
        self.embed.weight.requires_grad_(False)
        self.register_buffer("scale", torch.tensor(0.7))

    def forward(self, ids):
        q, k, v = self.mix(self.embed(ids)).split(8, -1)
        return self.head(scaled_dot_product_attention(q, k, v, is_causal=True) * self.scale)


OWN = {"bigram": Bigram, "recurrent": Recurrent, "attentive": Attentive, "scaled": Scaled}


def made(name, dtype=torch.float32, seed=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return OWN[name]().to(dtype)


def plain_loop(module, batch):
    """One client's loss and gradients by the module itself: eval mode, its own backward."""
    module.eval().zero_grad()
    out = module(batch[:, :-1])
    out = out if isinstance(out, torch.Tensor) else out.logits
    loss = cross_entropy(out.reshape(-1, V), batch[:, 1:].reshape(-1))
    loss.backward()
    return loss.detach(), {
        n: p.grad.clone() for n, p in module.named_parameters() if p.requires_grad
    }


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("engine", EAGER)
@pytest.mark.parametrize("name", OWN)
def test_losses_and_gradients_are_those_of_a_loop_over_the_modules(name, engine, dtype):
    clients = [made(name, dtype, seed) for seed in range(N)]
    model = model_of(clients[0], vocabulary=V, context=T)
    batch = tokens(N, B, T + 1)
    stacked = {
        key: torch.stack([c.get_parameter(key).detach() for c in clients])
        for key in causal_lm.trainable(model)
    }
    if name == "scaled":  # its frozen part is the first one's
        for client in clients:
            client.load_state_dict({"embed.weight": clients[0].embed.weight}, strict=False)
    where = stacking.layout(stacked, list(stacked))
    x = stacking.flatten(stacked, where.names)
    losses, g = ENGINES[engine](causal_lm.client_loss(model))(x, where, {}, batch)
    assert g.dtype == dtype
    gradients = stacking.unflatten(g, where)
    for i, client in enumerate(clients):
        loss, wanted = plain_loop(client, batch[i])
        assert torch.allclose(losses[i], loss, rtol=0, atol=EXACT[dtype])
        assert wanted.keys() == gradients.keys()
        for key, value in wanted.items():
            assert torch.allclose(gradients[key][i], value, rtol=0, atol=EXACT[dtype]), key


@pytest.mark.parametrize("name", OWN)
def test_without_a_gradient_too_and_in_a_task(name):
    model, batch = model_of(made(name)), tokens(B, T + 1)
    params = {key: p[None] for key, p in causal_lm.trainable(model).items()}
    counted = torch.ones(B, T, dtype=torch.bool)
    with torch.no_grad():
        alone = torch.vmap(causal_lm.client_loss(model), in_dims=(0, None))(params, batch)
        masked = torch.vmap(masked_loss(model), in_dims=(0, None))(params, (batch, counted))
    wanted, _ = plain_loop(made(name), batch)
    assert torch.allclose(alone[0], wanted, atol=1e-6)
    assert torch.allclose(masked[0], wanted, atol=1e-6)
    again = causal_lm.client_loss(model.train())(causal_lm.trainable(model), batch)
    assert torch.allclose(again, wanted, atol=1e-6)  # no dropout is left in it


@pytest.mark.parametrize("name", OWN)
def test_the_given_object_stays_as_it_is(name):
    given = made(name).train()
    before, state = fingerprint_of(given), torch.random.get_rng_state()
    modes = [part.training for part in given.modules()]
    rates = [getattr(part, "p", None) for part in given.modules()]
    twin = model_of(given, vocabulary=V, dtype=torch.float64)
    with torch.no_grad():
        next(iter(causal_lm.trainable(twin).values())).add_(1)
    assert fingerprint_of(given) == before
    assert [part.training for part in given.modules()] == modes
    assert [getattr(part, "p", None) for part in given.modules()] == rates
    assert torch.equal(torch.random.get_rng_state(), state)
    assert {p.dtype for p in twin.parameters()} == {torch.float64}


def test_anatomy_of_modules():
    places = causal_lm.anatomy(model_of(made("recurrent")))
    assert places == {
        "embed.weight": "embeddings",
        "layers.0.weight": 0,
        "layers.0.bias": 0,
        "layers.1.weight": 1,
        "layers.1.bias": 1,
        "norm.weight": "head",
        "norm.bias": "head",
    }
    assert causal_lm.anatomy(model_of(made("bigram"))) == {"table.weight": "embeddings"}
    attentive = causal_lm.anatomy(model_of(made("attentive")))
    assert attentive["places.weight"] == "embeddings"
    assert attentive["body.layers.1.self_attn.in_proj_weight"] == 1
    assert attentive["head.weight"] == "head"
    scaled = causal_lm.anatomy(model_of(made("scaled")))
    assert "embed.weight" not in scaled  # frozen
    cut = [block.name for block in blocks.by_layers(attentive)]
    assert cut == ["embeddings", "layer 0", "layer 1", "head"]


def test_parameters_go_in_and_tied_weights_stay_tied():
    given = made("recurrent")
    values = {name: p + 1 for name, p in causal_lm.trainable(given).items()}
    twin = causal_lm.with_parameters(given, values)
    assert twin.head.weight is twin.embed.weight
    assert all(torch.equal(p, values[name]) for name, p in causal_lm.trainable(twin).items())
    causal_lm.check_context(given, 10**9)  # nothing says how far it reads


# transformers' own objects


@pytest.mark.parametrize("row", ["tiny", "llama-tiny", "qwen2-tiny"])
def test_an_object_of_transformers_is_treated_as_its_name(row):
    from transformers import AutoModelForCausalLM

    named = causal_lm.load(row, context=64)
    config = copy.deepcopy(named.config)
    config.use_cache, config.pad_token_id = True, 0
    if row == "tiny":
        config.resid_pdrop = config.attn_pdrop = config.embd_pdrop = 0.5
    given = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").train()
    given.load_state_dict(named.state_dict())
    before, written = fingerprint_of(given), given.config.to_dict()
    twin = model_of(given, vocabulary=causal_lm.BYTES, context=64)
    batch = tokens(B, T + 1)
    wanted = causal_lm.client_loss(named)(causal_lm.trainable(named), batch)
    assert torch.equal(causal_lm.client_loss(twin)(causal_lm.trainable(twin), batch), wanted)
    assert causal_lm.anatomy(twin) == causal_lm.anatomy(named)
    assert twin.config._attn_implementation == "eager"
    assert (twin.config.use_cache, twin.config.pad_token_id) == (True, 0)  # the user's own
    assert twin.training is False
    assert (fingerprint_of(given), given.config.to_dict(), given.training) == (
        before,
        written,
        True,
    )
    assert given.config._attn_implementation == "sdpa"


def test_the_dtype_of_transformers_leaves_rotary_angles_alone():
    twin = model_of(causal_lm.load("llama-tiny"), dtype=torch.bfloat16)
    assert {p.dtype for p in twin.parameters()} == {torch.bfloat16}
    assert twin.model.rotary_emb.inv_freq.dtype == torch.float32


def test_a_transformer_inside_a_module():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = causal_lm.load("tiny")
            self.inner.config.update({"use_cache": True, "pad_token_id": 0})

        def forward(self, ids):
            return self.inner(ids).logits

    batch, given = tokens(B, T + 1), Wrapped()
    twin = model_of(given, vocabulary=causal_lm.BYTES)
    batch[:, -2:] = 0  # what GPT-2 would take for padding, which vmap cannot follow
    inner = causal_lm.load("tiny")
    assert torch.equal(
        causal_lm.client_loss(twin)(causal_lm.trainable(twin), batch),
        causal_lm.client_loss(inner)(causal_lm.trainable(inner), batch),
    )


def test_sparse_gradients_of_an_embedding_become_plain_ones():
    sparse = Bigram()
    sparse.table = nn.Embedding(V, V, sparse=True)
    plain = nn.Embedding(V, V)
    plain.load_state_dict(sparse.table.state_dict())
    batch = torch.randint(V, (2, T + 1), generator=torch.Generator().manual_seed(0))
    twin, dense = model_of(sparse, vocabulary=V), model_of(nn.Sequential(plain), vocabulary=V)
    for model in (twin, dense):
        leaves = {name: p.requires_grad_() for name, p in causal_lm.trainable(model).items()}
        loss = causal_lm.client_loss(model)(leaves, batch)
        model.got = torch.autograd.grad(loss, list(leaves.values()))
    assert not twin.got[0].is_sparse
    assert torch.equal(twin.got[0], dense.got[0])
    assert sparse.table.sparse


# what cannot train


def changed(name="bigram", **methods):
    """A model of OWN with other methods."""
    return type(OWN[name].__name__, (OWN[name],), methods)()


class Normed(Bigram):
    def __init__(self, track=True):
        super().__init__()
        self.bn = nn.BatchNorm1d(V, track_running_stats=track)

    def forward(self, ids):
        return self.bn(self.table(ids).transpose(1, 2)).transpose(1, 2)


class Counting(Bigram):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, ids):
        self.calls += 1
        return self.table(ids)


class Fixed(Bigram):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(T, V))

    def forward(self, ids):
        return self.table(ids) + self.bias


class Branching(Bigram):
    def forward(self, ids):
        return self.table(ids) if float(self.table.weight[0, 0]) < 1e9 else self.table(ids) * 2


def frozen():
    return Bigram().requires_grad_(False)


def two_dtypes():
    model = made("recurrent")
    model.norm.double()
    model.norm.forward = lambda x: x
    return model


def with_hook(on):
    """A model whose gradients a hook changes."""
    model = Bigram()
    if on == "parameter":
        model.table.weight.register_hook(lambda g: g * 0)
    elif on == "before":
        model.table.register_full_backward_pre_hook(lambda part, out: out)
    else:
        model.table.register_full_backward_hook(lambda part, into, out: into)
    return model


def with_another_table(table):
    model = Bigram()
    model.table = table
    return model


@torch.no_grad()
def without_gradient(self, ids):
    return self.table(ids)


def nothing(self, ids):
    return None


def wild(self, ids):
    return self.table(ids) * float("nan")


BAD = {
    "a class": (lambda: Bigram, r"model = <class .* a torch\.nn\.Module, or the name of a model"),
    "a name": (lambda: "tiny", "model = 'tiny' cannot"),
    "none": (lambda: None, "model = None cannot"),
    "a function": (lambda: torch.relu, "model = <built-in"),
    "frozen": (frozen, "has no parameter that requires gradients: there is nothing to train"),
    "batch norm": (
        Normed,
        r"has a batch norm, 'bn', that mixes the rows of a batch: call its eval",
    ),
    "batch norm without statistics": (lambda: Normed(False).eval(), "has a batch norm, 'bn'"),
    "a counter": (Counting, "changes its buffer 'calls' in a forward, even in eval mode"),
    "noise": (
        lambda: changed(forward=lambda self, ids: dropout(self.table(ids), 0.5)),
        "is random in eval mode",
    ),
    "one length": (
        Fixed,
        r"model cannot read token ids of shape \(2, 2\) up to 39: RuntimeError: ",
    ),
    "too short": (
        lambda: Attentive(T - 1),
        r"of shape \(1, 12\) up to 39: IndexError: index out of range",
    ),
    "few tokens": (lambda: changed(__init__=_narrow), r"up to 39: IndexError: index out of range"),
    "few logits": (
        lambda: changed(forward=lambda self, ids: self.table(ids)[..., :9]),
        "vocabulary = 40 cannot be used: it must be at most 9, the model's logits",
    ),
    "the last position alone": (
        lambda: changed(forward=lambda self, ids: self.table(ids)[:, -1:]),
        r"returns of tokens \(2, 2\) = \(2, 1, 40\) .* of shape \(2, 2, V\)",
    ),
    "a tuple": (
        lambda: changed(forward=lambda self, ids: (self.table(ids), None)),
        "= 'tuple' cannot be used",
    ),
    "nothing": (lambda: changed(forward=nothing), "= 'NoneType' cannot be used"),
    "two arguments": (
        lambda: changed(forward=lambda self, ids, mask: self.table(ids)),
        "TypeError: .*missing 1 required positional argument: 'mask'",
    ),
    "whole numbers": (
        lambda: changed(forward=lambda self, ids: ids[..., None].repeat(1, 1, V)),
        "what the model returns",
    ),
    "not finite": (lambda: changed(forward=wild), "returns logits that are not finite"),
    "looks ahead": (
        lambda: changed(forward=lambda self, ids: self.table(ids).mean(1, True) + self.table(ids)),
        "looks ahead: ",
    ),
    "mixes rows": (
        lambda: changed(forward=lambda self, ids: self.table(ids) - self.table(ids).mean(0)),
        "mixes the rows of a batch",
    ),
    "branches": (
        Branching,
        r"cannot be stacked over clients \(torch.vmap; --engine loop does not\): RuntimeError: vmap",
    ),
    "two dtypes": (two_dtypes, r"dtype of the model's parameters = 'torch.float32, torch.float64'"),
    "a hook of a parameter": (
        lambda: with_hook("parameter"),
        r"has a hook on the gradient of 'table\.weight': torch\.vmap does not run it",
    ),
    "a hook": (lambda: with_hook("part"), "has a backward hook, on 'table'"),
    "a hook before": (lambda: with_hook("before"), "has a backward hook, on 'table'"),
    "no gradient": (lambda: changed(forward=without_gradient), "returns logits without a gradient"),
    "detached": (
        lambda: changed(forward=lambda self, ids: self.table(ids).detach()),
        "returns logits without a gradient",
    ),
    "on several devices": (lambda: nn.DataParallel(Bigram()), r"give its \.module"),
    "compiled": (
        lambda: nn.ModuleDict({"_orig_mod": Bigram()}),
        r"is compiled: give model\._orig_mod",
    ),
    "lazy": (lambda: with_another_table(nn.LazyLinear(V)), r"has no numbers in 'table\.weight'"),
    "without numbers": (lambda: Bigram().to("meta"), r"has no numbers in 'table\.weight'"),
    "complex": (
        lambda: with_another_table(nn.Embedding(V, V, dtype=torch.complex64)),
        r"has complex numbers in 'table\.weight'",
    ),
    "max_norm": (
        lambda: with_another_table(nn.Embedding(V, V, max_norm=1.0)),
        "'table', whose max_norm changes it in a forward",
    ),
    "not to be copied": (
        lambda: changed(__deepcopy__=lambda self, memo: 1 / 0),
        "cannot be copied: ZeroDivisionError: division by zero",
    ),
}


def _narrow(self):
    nn.Module.__init__(self)
    self.table = nn.Embedding(V - 1, V)


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_train_is_one_line(case):
    make, words = BAD[case]
    with pytest.raises(BadInput, match=words) as caught:
        model_of(make(), vocabulary=V, context=T)
    assert "\n" not in str(caught.value)


def test_a_refused_model_leaves_the_global_random_state_alone():
    noisy = BAD["noise"][0]()
    state = torch.random.get_rng_state()
    with pytest.raises(BadInput, match="is random in eval mode"):
        model_of(noisy, vocabulary=V)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_numbers_out_of_range():
    with pytest.raises(BadInput, match="context = 513 cannot be used: it must be at most 512"):
        model_of(causal_lm.load("tiny"), context=513)
    with pytest.raises(BadInput, match="context = 0 cannot"):
        model_of(Bigram(), context=0)
    with pytest.raises(BadInput, match="vocabulary = 2 cannot"):
        model_of(Bigram(), vocabulary=2)
    with pytest.raises(BadInput, match=r"dtype = torch\.int8"):
        model_of(Bigram(), dtype=torch.int8)
    with pytest.raises(BadInput, match=r"up to 299: IndexError"):
        model_of(causal_lm.load("tiny"), vocabulary=300)


def test_a_batch_norm_with_statistics_of_its_own_is_kept():
    given = Normed()
    given(tokens(8, T))  # statistics of some text
    given.eval()
    model, batch = model_of(given, vocabulary=V), tokens(B, T + 1)
    wanted, gradients = plain_loop(given, batch)
    params = {n: p.clone().requires_grad_() for n, p in causal_lm.trainable(model).items()}
    loss = causal_lm.client_loss(model)(params, batch)
    loss.backward()
    assert torch.allclose(loss, wanted, atol=1e-6)
    assert all(torch.allclose(p.grad, gradients[n], atol=1e-6) for n, p in params.items())


# fingerprints


def test_the_fingerprint_sees_name_shape_dtype_and_bytes():
    prints = [
        fingerprint_of(model)
        for model in (
            made("scaled"),
            made("scaled", seed=4),
            made("scaled", torch.float64),
            made("bigram"),
            changed(),
            _renamed(),
            causal_lm.load("tiny"),
            causal_lm.load("tiny", seed=1),
        )
    ]
    assert len(set(prints)) == len(prints)
    assert fingerprint_of(made("scaled")) == prints[0]
    moved = made("scaled")
    moved.scale += 1e-7
    assert fingerprint_of(moved) != prints[0]
    halves = [_zeros().to(dtype) for dtype in (torch.float16, torch.bfloat16)]  # equal bytes
    assert len({fingerprint_of(model) for model in halves}) == 2


def _zeros():
    model = Bigram()
    nn.init.zeros_(model.table.weight)
    return model


def _renamed():
    model = Bigram()
    model.other = model.table
    del model.table
    return model
