"""Parts of one's own, given as objects: what they must get is what a name gets, and a bad one gets a bad name's line."""

import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from command import SMALL
from torch import nn

import deca_lab as dl
from deca_lab import BadInput, Diverged, Method, Problem, RunConfig, fit, resume, run
from deca_lab.algorithm.blocks import Block
from deca_lab.algorithm.loop import Recipe, plan, train
from deca_lab.algorithm.moments import Adam, Feedback, printed, raw
from deca_lab.algorithm.optimisers import adam, gradient_tracking, sgd
from deca_lab.algorithm.problems import quadratics
from deca_lab.errors import Stopped
from deca_lab.lab import ledger
from deca_lab.lab.prepare import prepare
from deca_lab.mixing.topology import topology
from deca_lab.models import causal_lm
from deca_lab.text.tokens import tokenizer

CONFIG = RunConfig(**{**SMALL, "clients": 4, "rounds": 1, "inner_steps": 3, "device": "cpu"})
TEXTS = [
    {"text": f"{word} number {i} says {3 * word}", "label": word}
    for i in range(60)
    for word in ("yes", "no", "maybe")
]


class Net(nn.Module):
    """Token ids (B, T) to logits (B, T, V), with nothing of transformers."""

    def __init__(self, vocabulary=259, width=16):
        super().__init__()
        self.embedding, self.head = nn.Embedding(vocabulary, width), nn.Linear(width, vocabulary)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(2))

    def forward(self, ids):
        x = self.embedding(ids)
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return self.head(x)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net()


def heavy_ball(momentum=0.9):
    """SGD with momentum as one writes it with optax: the state is a dict, and functions change nothing."""

    def update(g, state):
        m = momentum * state["m"] + g
        return m, {"m": m, "steps": state["steps"] + 1}

    return dl.optimiser(lambda x: {"m": torch.zeros_like(x), "steps": 0}, update)


def same(one, other):
    columns = ["step", "test_loss", "validation_loss", "consensus", "bytes_sent"]
    return one.metrics[columns].equals(other.metrics[columns])


def test_objects_do_what_the_names_do():
    """A preset's own model, the ring, the byte tokenizer and Adam, each given as an object."""
    named = run(CONFIG)
    config = replace(CONFIG, model=RunConfig().model)
    model = causal_lm.load(SMALL["model"], seed=CONFIG.seed, vocabulary=259)
    feedback = Feedback(printed, raw, CONFIG.b1, CONFIG.b2)
    given = run(
        config,
        model=model,
        tokenizer=tokenizer("bytes"),
        topology=nx.cycle_graph(4),
        optimiser=adam(Adam(CONFIG.a1, CONFIG.a2, CONFIG.eps), feedback),
    )
    assert same(named, given)
    assert given.summary["bytes_sent"] == given.summary["bytes_predicted"]
    assert given.config.topology.startswith("object:Topology:")


GRAPHS = {
    "graph": nx.cycle_graph(4),
    "W": topology("ring", 4).at(0),
    "Topology": topology("ring", 4),
}


@pytest.mark.parametrize("kind", GRAPHS)
def test_three_ways_to_give_a_graph(kind):
    assert same(run(CONFIG), run(CONFIG, topology=GRAPHS[kind]))


def test_an_own_optimiser_is_ours_to_rounding_and_its_ledger_is_right():
    rng = np.random.default_rng(0)
    A = torch.from_numpy(np.stack([np.diag(rng.uniform(0.5, 2, 3)) for _ in range(4)]))
    problem = quadratics(
        A, torch.from_numpy(rng.standard_normal((4, 3))), torch.zeros(4, 3, dtype=torch.float64)
    )

    def end(optimiser):
        recipe = Recipe(2, 10, lambda s: 0.05, optimiser, keep_moments=True)
        laid = plan(problem, [Block("x", ("x",))], topology("ring", 4), recipe)
        *_, (state, _) = train(laid)
        assert (state.sent == ledger.traffic(laid)).all()
        return state.blocks[0]

    torch.testing.assert_close(end(heavy_ball()), end(sgd(0.9)), rtol=1e-12, atol=1e-12)

    def update(g, state, x):
        return state["y"] + g - state["last"], {"y": state["y"] + g - state["last"], "last": g}

    tracking = dl.optimiser(
        lambda x: {"y": torch.zeros_like(x), "last": torch.zeros_like(x)}, update, mixed=["y"]
    )
    torch.testing.assert_close(
        end(tracking), end(gradient_tracking()), rtol=1e-10, atol=1e-12
    )  # W y before or after a step


def test_a_direction_that_is_the_state_itself_does_not_spoil_it():
    optimiser = heavy_ball()
    x = torch.zeros(2, 3)
    state = optimiser.init(x)
    direction, state = optimiser.update(torch.ones(2, 3), state, x, lambda x: x)
    direction.zero_()
    assert (state["m"] == 1).all()


def test_a_run_with_objects_resumes_to_the_bit_and_asks_for_them_again(net, tmp_path):
    objects = {
        "model": net,
        "dataset": TEXTS,
        "topology": nx.cycle_graph(4),
        "optimiser": heavy_ball(),
        "metrics": {"largest": lambda seen: max(float(p.abs().max()) for p in seen.mean.values())},
    }
    config = RunConfig(
        clients=4,
        rounds=1,
        inner_steps=4,
        context=16,
        lr=0.05,
        eval_windows=4,
        split="iid",
        device="cpu",
    )
    whole = run(config, **objects)
    with pytest.raises(Stopped):
        run(config, tmp_path / "cut", lambda done, total, known: done == 5, **objects)
    with pytest.raises(
        BadInput,
        match=r"model = 'object:Net:[0-9a-f]{12}' cannot be used: it must be given again as model=",
    ):
        resume(tmp_path / "cut")
    with pytest.raises(BadInput, match="the same object as before"):
        resume(tmp_path / "cut", **{**objects, "model": Net()})
    with pytest.raises(BadInput, match="metrics"):
        resume(tmp_path / "cut", **{**objects, "metrics": None})
    again = resume(tmp_path / "cut", **objects)
    assert again.metrics.equals(whole.metrics)
    assert whole.metrics["test_loss"].iloc[-1] < whole.metrics["test_loss"].iloc[0]
    assert whole.metrics["largest"].gt(0).all()
    assert whole.summary["own_metrics"] == {"largest": whole.metrics["largest"].iloc[-1]}
    assert whole.shards.shape == (4, 3)


def test_callbacks_see_values_and_may_stop():
    seen = []

    def watch(snapshot):
        seen.append(snapshot.state)
        assert snapshot.measured == (snapshot.step % CONFIG.inner_steps == 0)
        return snapshot.step == 5

    got = run(CONFIG, callbacks=[watch])
    assert [state.step for state in seen] == [1, 2, 3, 4, 5]
    assert got.summary["stopped_early"]
    assert got.summary["inner_steps"] == 5 == got.metrics["step"].iloc[-1]
    assert (got.edges["measured"] == got.edges["predicted"]).all()
    laid = prepare(CONFIG).plan  # what was kept goes on, and is what it was
    again = [state for state, _ in train(laid)][:5]
    pairs = [
        pair
        for kept, state in zip(seen, again, strict=True)
        for pair in zip(kept.blocks, state.blocks, strict=True)
    ]
    assert all(a.equal(b) for a, b in pairs)
    moved = next(train(laid, seen[0]))[0]
    assert all(a.equal(b) for a, b in zip(moved.blocks, seen[1].blocks, strict=True))


def test_a_method_of_ones_own_is_a_row():
    mine = Method(
        "SGD of all parameters at once",
        {"optimiser": "sgd", "blocks": "whole", "feedback": "none", "moments": "keep"},
    )
    assert same(
        run(CONFIG, method=mine),
        run(
            RunConfig(
                **{
                    **SMALL,
                    "clients": 4,
                    "rounds": 1,
                    "inner_steps": 3,
                    "device": "cpu",
                    "method": "d-sgd",
                }
            )
        ),
    )


def quadratic(clients=5):
    rng = np.random.default_rng(1)
    roots = torch.from_numpy(rng.standard_normal((clients, 3, 3)))
    data = (roots @ roots.mT + torch.eye(3), torch.from_numpy(rng.standard_normal((clients, 3))))

    def loss(params, batch):
        x = torch.cat([params["u"], params["w"]])
        return x @ batch[0] @ x / 2 - batch[1] @ x

    start = {
        "u": torch.zeros(clients, 2, dtype=torch.float64),
        "w": torch.zeros(clients, 1, dtype=torch.float64),
    }
    return Problem(start, loss, lambda step: data)


FIT = RunConfig(clients=5, rounds=3, inner_steps=8, lr=0.05, device="cpu")


def test_fit_trains_a_problem_and_its_figures_are_the_problems():
    problem = quadratic()
    got = fit(problem, FIT)
    A, b = (part.numpy() for part in problem.batches(0))
    states = []
    fit(problem, FIT, callbacks=[lambda seen: states.append(seen.state) and None])
    x = torch.cat(states[-1].blocks, 1).numpy()
    values = np.array([[x[i] @ A[j] @ x[i] / 2 - b[j] @ x[i] for j in range(5)] for i in range(5)])
    mean = x.mean(0)
    last = got.metrics.iloc[-1]
    assert last["test_loss"] == pytest.approx(
        np.mean([mean @ A[j] @ mean / 2 - b[j] @ mean for j in range(5)]), rel=1e-12
    )
    assert last["client_test_loss"] == pytest.approx(values.mean(), rel=1e-12)
    assert last["own_loss"] == pytest.approx(np.diag(values).mean(), rel=1e-12)
    assert last["gradient_norm"] == pytest.approx(np.linalg.norm((A @ mean - b).mean(0)), rel=1e-9)
    assert last["consensus"] == pytest.approx(((x - mean) ** 2).sum() / 5, rel=1e-9)
    assert got.blocks["block"].tolist() == ["u", "w"]
    assert "test_perplexity" not in got.metrics


@pytest.mark.parametrize(("engine", "closed"), [("stacked", True), ("auto", True), ("loop", False)])
def test_a_fit_uses_the_closed_form_but_in_the_loop(engine, closed):
    A, b = quadratic().batches(0)
    given = quadratics(A, b, torch.zeros(5, 3, dtype=torch.float64))
    asked = []

    def exact(*arguments):
        asked.append(1)
        return given.exact(*arguments)

    fit(given._replace(exact=exact), replace(FIT, engine=engine))
    assert (
        len(asked) == 1 + closed * FIT.rounds * FIT.inner_steps
    )  # once to compare it with the loss


def test_a_fit_goes_to_the_minimum():
    A, b = (part.numpy() for part in quadratic().batches(0))
    best = -b.mean(0) @ np.linalg.solve(A.mean(0), b.mean(0)) / 2
    config = RunConfig(
        clients=5,
        method="gradient-tracking",
        topology="complete",
        rounds=1,
        inner_steps=600,
        lr=0.05,
        device="cpu",
    )
    assert fit(quadratic(), config).metrics["test_loss"].iloc[-1] == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"drop": 0.3},
        {"compress": "top-k", "drop": 0.2},
        {"stale": 0.3, "stragglers": "1@2"},
        {"method": "gradient-tracking", "lr": 0.01},
    ],
)
def test_a_fit_bears_faults_is_accounted_for_and_resumes(knobs, tmp_path):
    config = RunConfig(
        **{"clients": 5, "rounds": 3, "inner_steps": 8, "lr": 0.05, "device": "cpu", **knobs}
    )
    whole = fit(quadratic(), config, tmp_path / "whole")
    assert (whole.edges["measured"] == whole.edges["predicted"]).all()
    with pytest.raises(Stopped):
        fit(quadratic(), config, tmp_path / "cut", lambda done, total, known: done == 11)
    again = fit(quadratic(), config, tmp_path / "cut", resume=True)
    assert again.metrics.equals(whole.metrics)
    with pytest.raises(BadInput, match="given again as problem, to fit"):
        resume(tmp_path / "whole")


def test_fit_takes_blocks_as_lists_of_names():
    got = fit(quadratic(), FIT, blocks=[["u", "w"]])
    assert got.blocks["parameters"].tolist() == [3]
    with pytest.raises(BadInput, match="in no block"):
        fit(quadratic(), FIT, blocks=[["u"]])
    for blocks in (["u"], [3], 3, [], "u"):
        with pytest.raises(BadInput, match="blocks = "):
            fit(quadratic(), FIT, blocks=blocks)


BAD = [
    ({"model": 3}, r"model = 3 cannot be used: it must be a torch\.nn\.Module"),
    ({"topology": "ring"}, "topology = 'ring' cannot be used: it must be a graph or a matrix here"),
    ({"topology": nx.cycle_graph(5)}, "clients = 4 cannot be used: it must be 5"),
    ({"optimiser": 3}, "optimiser = 3 cannot be used"),
    ({"optimiser": (lambda x: x[:2], lambda g, s: (g, s))}, "what optimiser.init returns"),
    ({"optimiser": (lambda x: {}, lambda g, s: g)}, "what optimiser.update returns"),
    (
        {"optimiser": (lambda x: {}, lambda g: g)},
        "optimiser.update = .* a function of 2 or 3 arguments",
    ),
    ({"dataset": [1, 2]}, "dataset = a list whose row 0 is 1"),
    ({"tokenizer": 5}, "tokenizer = 5 cannot be used"),
    ({"method": "deca"}, "method = 'deca' cannot be used: it must be a deca_lab.Method"),
    (
        {"metrics": {"test_loss": lambda seen: 1.0}},
        "metrics = 'test_loss' cannot be used: it must be another name",
    ),
    ({"metrics": [1]}, "metrics = .* a dict of functions"),
    (
        {"metrics": {"x": lambda seen: "a"}},
        r"what metrics\['x'\] returns = 'a' cannot be used: it must be a number",
    ),
    ({"optimiser": torch.optim.SGD([torch.zeros(1)])}, "optimiser = SGD .* cannot be used"),
    ({"callbacks": [3]}, "callbacks = .* a list of functions"),
    ({"callbacks": [lambda seen: seen.step]}, "what a callback returns = 1 cannot be used"),
    ({"callbacks": [lambda seen: "no"]}, "what a callback returns = 'no' .* True to end the run"),
    ({"model": nn.LazyLinear(3)}, "model has no numbers in 'weight'"),  # before any text is read
    ({"callbacks": len}, "callbacks = .* a list of functions"),
    ({"metrics": {" ": len}}, "metrics = .* a dict of functions"),
]


@pytest.mark.parametrize(
    ("objects", "words"), BAD, ids=[f"{next(iter(o))} {k}" for k, (o, _) in enumerate(BAD)]
)
def test_a_bad_object_gets_one_line(objects, words, tmp_path):
    with pytest.raises(BadInput, match=words) as raised:
        run(CONFIG, tmp_path / "run", **objects)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("config", [{"clients": 4}, "run.yaml", None])
def test_a_config_that_is_none_gets_one_line(config):
    with pytest.raises(BadInput, match=r"config = .* it must be a deca_lab\.RunConfig"):
        run(config)
    with pytest.raises(BadInput, match=r"config = .* it must be a deca_lab\.RunConfig"):
        fit(quadratic(), config)


@pytest.mark.parametrize("says", [np.bool_(True), torch.tensor(True), True])
def test_whatever_is_true_ends_a_run(says):
    assert run(CONFIG, callbacks=[lambda seen: says]).summary["inner_steps"] == 1


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft, about transformers
def test_adapters_on_a_model_that_has_some_of_its_own_are_refused():
    """PEFT's stand where a target's linear layer stood, so that ours would find half of their places."""
    import peft
    from small_models import config_of, tokenizer_of
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config_of("llama"))
    with_own = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    given = {"model": with_own, "tokenizer": tokenizer_of("llama"), "dataset": TEXTS}
    with pytest.raises(BadInput, match=r"adapter = 'lora' .* has adapters of its own; merge them"):
        run(replace(NAMELESS, method="dec-lora", context=8), **given)


NAMELESS = replace(CONFIG, model=RunConfig().model, corpus=RunConfig().corpus)


def test_a_model_of_another_dtype_is_recast_with_a_note(net):
    plain, wide = (
        run(NAMELESS, model=given, dataset=TEXTS) for given in (net, deepcopy(net).double())
    )
    note = "the model's float64 becomes float32, the run's dtype"
    assert note in wide.summary["notes"]
    assert note not in plain.summary["notes"]
    assert (plain.metrics["test_loss"] == wide.metrics["test_loss"]).all()


@pytest.mark.parametrize("adapter", ["lora", "bottleneck"])
def test_adapters_go_on_a_frozen_base_as_on_one_that_is_not(adapter):
    from small_models import config_of, tokenizer_of
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_config(config_of("llama"))
    given = {"tokenizer": tokenizer_of("llama"), "dataset": TEXTS}
    config = replace(NAMELESS, adapter=adapter, context=4)
    wanted = run(config, model=base, **given)
    frozen = deepcopy(base).requires_grad_(False)
    got = run(config, model=frozen, **given)
    assert got.metrics["test_loss"].tolist() == wanted.metrics["test_loss"].tolist()
    assert not any(p.requires_grad for p in frozen.parameters())  # the user's own stays as it was
    with pytest.raises(BadInput, match="nothing to train"):
        run(replace(config, adapter="none"), model=frozen, **given)


def test_dropout_that_is_off_is_noted(net):
    quiet = nn.Sequential(deepcopy(net), nn.Dropout(0.25))
    config = replace(NAMELESS, blocks="whole")
    plain, dropped = (run(config, model=m, dataset=TEXTS) for m in (net, quiet))
    note = "the model's dropout (0.25) is off: every client's loss is a fixed function"
    assert note in dropped.summary["notes"]
    assert not any("dropout" in line for line in plain.summary["notes"])
    assert (plain.metrics["test_loss"] == dropped.metrics["test_loss"]).all()


class Overwriting(Net):
    """Writes into the ids, which are the targets of the loss as well."""

    def forward(self, ids):
        ids[ids == 40] = 41
        return super().forward(ids)


@pytest.mark.parametrize("engine", ["stacked", "loop"])
def test_a_model_that_writes_into_its_ids_is_refused(engine):
    with pytest.raises(BadInput, match="model writes into the token ids"):
        run(replace(NAMELESS, engine=engine), model=Overwriting(), dataset=TEXTS)


class Skipping(Net):
    """Its second layer is in no logit."""

    def forward(self, ids):
        return self.head(torch.tanh(self.layers[0](self.embedding(ids))))


@pytest.mark.parametrize("engine", ["stacked", "loop"])
def test_a_block_that_no_logit_reads_stays(engine):
    model = Skipping()
    ends = []
    config = replace(NAMELESS, blocks="layers", engine=engine, method="deca-no-feedback")
    run(config, model=model, dataset=TEXTS, callbacks=[lambda seen: ends.append(seen.mean)])
    assert torch.allclose(ends[-1]["layers.1.weight"], model.layers[1].weight, atol=1e-7)
    assert not torch.allclose(ends[-1]["layers.0.weight"], model.layers[0].weight)


def test_an_out_that_is_no_path_gets_one_line():
    with pytest.raises(BadInput, match="out = 3 cannot be used: it must be a path"):
        run(CONFIG, 3)


def test_a_name_beside_an_object_and_a_knob_that_it_does_not_read_are_refused(net):
    with pytest.raises(
        BadInput, match="model = 'tiny' cannot be used: it must be left out beside model="
    ):
        run(RunConfig(model="tiny"), model=net)
    with pytest.raises(BadInput, match=r"a1 = .* cannot be used: it must be left out"):
        run(RunConfig(a1=0.5, clients=4), optimiser=heavy_ball())


@pytest.mark.parametrize(
    ("problem", "config", "words"),
    [
        (3, FIT, "problem = 3 cannot be used"),
        (
            quadratic()._replace(loss=lambda params, batch: params["u"]),
            FIT,
            "its loss raises RuntimeError",
        ),
        (
            quadratic()._replace(loss=lambda params, batch: params["nope"]),
            FIT,
            "its loss raises KeyError",
        ),
        (
            quadratic()._replace(
                loss=lambda params, batch: params["u"].sum() + params["w"].sum().log()
            ),
            FIT,
            "finite in loss",
        ),
        (
            quadratic(),
            RunConfig(clients=4),
            "clients = 4 cannot be used: it must be 5, the problem's",
        ),
        (quadratic(), RunConfig(clients=5, model="tiny"), "the problem brings its own"),
        *(
            (
                quadratic()._replace(batches=lambda step, data=data: data),
                FIT,
                r"problem.batches\(0\) = ",
            )
            for data in ({"x": torch.zeros(5)}, [torch.zeros(5)], torch.zeros(4), (np.zeros(5),))
        ),
        (quadratic()._replace(evaluation=torch.zeros(4)), FIT, r"problem.evaluation = \(4,\)"),
        *(
            (quadratic()._replace(start={"u": start}), FIT, "problem.start = .* of real numbers")
            for start in (torch.zeros(5, dtype=torch.complex64), torch.zeros(5).int(), np.zeros(5))
        ),
    ],
)
def test_a_bad_problem_gets_one_line(problem, config, words):
    with pytest.raises(BadInput, match=words):
        fit(problem, config)


def test_a_problem_that_blows_up_says_where():
    with pytest.raises(Diverged, match="no longer finite for client"):
        fit(
            quadratic(),
            RunConfig(clients=5, rounds=1, inner_steps=60, lr=1e30, method="d-sgd", device="cpu"),
        )


def test_the_script_in_the_docs_runs_as_it_stands(capsys):
    text = (Path(__file__).parents[1] / "deca_lab/course/docs/bring_objects.md").read_text()
    (script,) = [
        block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "fit(problem" in block
    ]
    lines = [line for line in script.splitlines() if line.strip()]
    assert len(lines) <= 30
    exec(compile(script, "bring_objects.md", "exec"), {})
    assert capsys.readouterr().out.count("test_loss") == 2
