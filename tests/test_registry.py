"""Parts of one's own under a name: in a config, on the command line, from an installed package."""

import functools
import json
import os
import re
import subprocess
import sys
from importlib.metadata import EntryPoint

import networkx as nx
import numpy as np
import pytest
import torch
from command import SMALL, deca_lab, options

from deca_lab import RunConfig, register, registry, run
from deca_lab.cli.names import tables
from deca_lab.errors import BadInput
from deca_lab.methods import Method
from deca_lab.mixing.graphs import ring
from deca_lab.mixing.topology import topology
from deca_lab.models.causal_lm import Preset
from deca_lab.registry import KINDS, resolved
from deca_lab.text.tasks import TASKS, TaskKind

TINY = {**SMALL, "rounds": 1, "inner_steps": 1, "eval_windows": 2}


@pytest.fixture(autouse=True)
def tables_as_they_were():
    """Take out of the tables, when a test ends, what it put in."""
    before = {kind.table: dict(resolved(kind.table)) for kind in KINDS.values()}
    yield
    for place, entries in before.items():
        table = resolved(place)
        table.clear()
        table.update(entries)


def hub_and_chain(n, spec):
    """A chain whose first client hears everybody.

    The rest of the docstring is not shown.
    """
    return nx.compose(nx.path_graph(n), nx.star_graph(n - 1))


@pytest.mark.slow
def test_a_topology_of_ones_own_is_in_the_list_and_gives_the_same_run_as_its_matrix(
    capsys, tmp_path
):
    assert register("topology", "hub-and-chain", hub_and_chain) is hub_and_chain
    listed = deca_lab(capsys, "list", "topologies").out
    assert "hub-and-chain" in listed
    assert "A chain whose first client hears everybody.\n" in listed
    assert "not shown" not in listed
    W = topology(hub_and_chain(4, None)).at(0)
    np.testing.assert_array_equal(topology("hub-and-chain", 4).at(0), W)
    np.savetxt(tmp_path / "w.csv", W, delimiter=",", fmt="%.18e")
    named, by_hand = (
        run(RunConfig(**{**TINY, "topology": t}))
        for t in ("hub-and-chain", str(tmp_path / "w.csv"))
    )
    assert named.summary["test_loss_end"] == by_hand.summary["test_loss_end"]
    assert run(RunConfig(**TINY)).summary["test_loss_end"] != named.summary["test_loss_end"]
    assert (
        deca_lab(
            capsys, "run", *options(out=tmp_path / "run", **TINY, topology="hub-and-chain")
        ).code
        == 0
    )
    assert deca_lab(capsys, "doctor", "--topology", "hub-and-chain").code == 0


def twice(g):
    """Twice the gradient."""
    return 2 * g


def shuffled(request):
    """All rows of the corpus, in turn."""
    rows = np.arange(len(request.labels))
    return [rows[i :: request.clients] for i in range(request.clients)], "in turn"


def a_rule(graph):
    """Metropolis, under another name."""
    from deca_lab.mixing.weights import metropolis

    return metropolis(graph)


def shifted(n, seed):
    """Everybody averages with the next one, then with the one after."""
    return [(np.eye(n) + np.roll(np.eye(n), k, axis=1)) / 2 for k in (1, 2)]


def sign(share, bits):
    """Nothing but zeros and a sign."""
    from deca_lab.network.compression import Compressor

    def pack(z, rng):
        signs = torch.cat([z >= 0, z.new_zeros(-len(z) % 8, dtype=torch.bool)]).view(-1, 8)
        return torch.cat(
            [z.abs().mean()[None].view(torch.uint8), (signs << torch.arange(8)).sum(1)]
        ).byte()

    def unpack(message, like, rng):
        item = like.element_size()
        signs = (message[item:, None] >> torch.arange(8)) & 1
        return (2.0 * signs.flatten()[: len(like)] - 1) * message[:item].clone().view(like.dtype)

    return Compressor(pack, unpack, lambda width, item: -(-width // 8) + item)


def plain(spec):
    """Gradient descent."""
    from deca_lab.algorithm.optimisers import sgd

    return sgd()


def backwards(t, count, seed):
    """From the last block to the first."""
    return list(range(count))[::-1]


def half(x, x_new):
    """Half the way."""
    return (x_new - x) / 2


def doubled(h, lr):
    """Twice h."""
    return 2 * h


def root(progress):
    """The root of what is left."""
    return (1 - progress) ** 0.5


def one_by_one(loss):
    """The loop, under another name."""
    from deca_lab.algorithm.gradients import looped

    return looped(loss)


OWN = {  # kind -> what is registered, the knobs that then name it
    "split": (shuffled, {"split": "own-part"}),
    "weights": (a_rule, {"weights": "own-part"}),
    "sequence": (shifted, {"topology": "own-part"}),
    "compressor": (sign, {"compress": "own-part", "gamma": 0.5}),
    "optimiser": (plain, {"optimiser": "own-part"}),
    "order": (backwards, {"order": "own-part"}),
    "feedback": (half, {"feedback": "own-part"}),
    "feedback-scale": (doubled, {"feedback_scale": "own-part"}),
    "schedule": (root, {"lr_scheduler_type": "own-part"}),
    "engine": (one_by_one, {"engine": "own-part"}),
    "topology": (hub_and_chain, {"topology": "own-part"}),
    "method": (
        Method("slow DECA", {"optimiser": "adam", "order": "reversed"}),
        {"method": "own-part"},
    ),
    "model": (Preset("one layer", family="gpt2", layers=1, width=16), {"model": "own-part"}),
    "task": (TaskKind("every next token, again", TASKS["lm"].build, {}), {"task": "own-part"}),
}


@pytest.mark.parametrize("kind", OWN)
def test_every_kind_is_listed_and_runs(kind):
    item, knobs = OWN[kind]
    method = {} if kind in ("method", "optimiser") else {"method": "deca"}
    if kind == "optimiser":
        register(
            "method",
            "own-method",
            Method("with an optimiser of its own", {"optimiser": "own-part"}),
        )
        method = {"method": "own-method"}
    register(kind, "own-part", item)
    assert tables()[KINDS[kind].title]["own-part"] == registry.about(item) != ""
    assert np.isfinite(run(RunConfig(**{**TINY, **method, **knobs})).summary["test_loss_end"])


def test_all_kinds_but_the_corpus_were_tried():
    assert set(OWN) | {"corpus"} == set(KINDS)


def test_a_decorator_and_the_function_it_leaves():
    @register("topology", "a-ring")
    def circle(n, spec):
        """A ring."""
        return ring(n, spec)

    assert nx.is_isomorphic(circle(5, None), nx.cycle_graph(5))
    np.testing.assert_array_equal(topology("a-ring", 5).at(0), topology("ring", 5).at(0))


def test_the_same_item_again_and_a_cell_that_is_run_again():
    def cell(extra):
        def mine(n, spec):
            """A path, or a ring."""
            return nx.cycle_graph(n) if extra else nx.path_graph(n)

        return register("topology", "mine", mine)

    first = cell(False)
    register("topology", "mine", first)
    assert len(topology("mine", 5).edges()) == 8
    cell(True)
    assert len(topology("mine", 5).edges()) == 10
    row = Method("words", {"optimiser": "adam"})
    register("method", "again", row)
    register("method", "again", Method("words", {"optimiser": "adam"}))
    with pytest.raises(BadInput, match="a name that no method has yet"):
        register("method", "again", Method("words", {"optimiser": "sgd"}))
    register("weights", "by-part", functools.partial(a_rule))
    assert tables()["weights"]["by-part"] == "Metropolis, under another name."


def nameless(n, spec):
    return ring(n, spec)


def one_argument(n):
    """A ring."""
    return ring(n, None)


def empty_first_line(n, spec):
    """ """
    return ring(n, spec)


@pytest.mark.parametrize(
    ("kind", "name", "item", "words"),
    [
        ("topolgy", "x", hub_and_chain, "unknown kind of part 'topolgy': did you mean 'topology'"),
        (None, "x", hub_and_chain, "unknown kind of part None"),
        (
            "topology",
            "ring",
            hub_and_chain,
            "name = 'ring' cannot be used: it must be a name that no topology has yet",
        ),
        ("topology", "random-matchings", hub_and_chain, "a name that no topology has yet"),
        ("topology", "server", hub_and_chain, "a name that no topology has yet"),
        ("sequence", "ring", shifted, "a name that no sequence has yet"),
        ("compressor", "none", sign, "a name that no compressor has yet"),
        ("feedback", "none", half, "a name that no feedback has yet"),
        ("corpus", "imdb", lambda seed: None, "a name that no corpus has yet"),
        *(
            ("topology", name, hub_and_chain, "lower-case words joined by hyphens")
            for name in (
                "My-Graph",
                "my_graph",
                "my graph",
                "",
                "-x",
                "x-",
                "a--b",
                "é",
                "x\n",
                3,
                None,
                "../x",
            )
        ),
        (
            "topology",
            "x",
            nx.path_graph(3),
            "topology 'x' cannot be registered: it = <networkx.*function of .clients, spec.",
        ),
        ("topology", "x", None, "it = None cannot be used: it must be a function of"),
        (
            "topology",
            "x",
            one_argument,
            r"it takes \(n\), and must be a function of \(clients, spec\)",
        ),
        ("topology", "x", nameless, "its description = None cannot be used"),
        ("topology", "x", empty_first_line, "its description = None cannot be used"),
        ("topology", "x", functools.partial(nameless), "its description = None cannot be used"),
        (
            "weights",
            "x",
            hub_and_chain,
            r"it takes \(n, spec\), and must be a function of \(graph\)",
        ),
        ("method", "x", hub_and_chain, r"must be a deca_lab.methods.Method"),
        (
            "method",
            "x",
            Method("words", {"optimisr": "adam"}),
            "'x' cannot be registered: unknown knob 'optimisr': did you mean",
        ),
        (
            "method",
            "x",
            Method("words", {"rounds": 0}),
            "rounds = 0 cannot be used: it must be 1 or more",
        ),
        ("method", "x", Method("words", None), "fixed = None"),
        ("method", "x", Method("", {}), "its description = None"),
        ("model", "x", Preset("words"), r"source, family = \('', ''\)"),
        ("task", "x", TaskKind("words", shuffled, None), "scores = None"),
        (
            "task",
            "x",
            TaskKind("words", None, {}),
            r"build = None cannot be used: it must be a function of \(request\)",
        ),
        ("task", "x", TASKS, "must be a deca_lab.text.tasks.TaskKind"),
    ],
)
def test_what_cannot_be_registered_is_one_line_and_leaves_nothing(kind, name, item, words):
    before = tables()
    with pytest.raises(BadInput, match=words) as caught:
        register(kind, name, item)
    assert "\n" not in str(caught.value)
    assert tables() == before


def test_a_topology_that_returns_something_else():
    register("topology", "no-graph", _returning(torch.eye(3)))
    with pytest.raises(
        BadInput, match=r"what topology 'no-graph' returns = tensor.* a networkx graph"
    ):
        topology("no-graph", 3)
    register("topology", "short", _short)
    with pytest.raises(
        BadInput, match="clients = 5 cannot be used: it must be 4, the number of nodes"
    ):
        topology("short", 5)
    register("sequence", "ragged", _ragged)
    with pytest.raises(BadInput, match="ragged has 2 rows and 3 columns"):
        topology("ragged", 2)


def _returning(value):
    def made(n, spec):
        """Something that is no graph."""
        return value

    return made


def _short(n, spec):
    """One client too few."""
    return nx.path_graph(n - 1)


def _ragged(n, seed):
    """Not square."""
    return [np.ones((n, n + 1))]


# ---- packages


def install(folder, body, value="brought_along", name="some-parts"):
    """Write a distribution as pip leaves it: a module, and a .dist-info with its entry point."""
    (folder / "brought_along.py").write_text(body)
    info = folder / "brought_along-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brought-along\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[deca_lab]\n{name} = {value}\n")


BODY = '''
from pathlib import Path

import networkx as nx

from deca_lab import register

with Path("imported").open("a") as file:
    file.write("once ")


@register("topology", "from-outside")
def outside(n, spec):
    """A ring that a package brought along."""
    return nx.cycle_graph(n)
'''


COMMANDS = """
import sys
from pathlib import Path

from deca_lab.cli import main

for line in Path("commands").read_text().splitlines():
    sys.argv = ["deca-lab", *line.split()]
    print("#", line, Path("imported").exists())
    try:
        main()
    except SystemExit as ended:
        print("# code", ended.code or 0)
print("#", Path("imported").read_text())
"""


@pytest.mark.slow
def test_an_installed_package_brings_a_topology(tmp_path):
    install(tmp_path, BODY)
    knobs = " ".join(options(out="run", **TINY, topology="from-outside"))
    (tmp_path / "commands").write_text(f"run --help\nlist topologies\nrun {knobs}")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", COMMANDS],
        capture_output=True,
        text=True,
        env=env,
        cwd=tmp_path,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("#")]
    assert said == [
        "# run --help False",
        "# code 0",
        "# list topologies False",
        "# code 0",
        f"# run {knobs} True",
        "# code 0",
        "# once ",
    ]
    assert "  from-outside           A ring that a package brought along.\n" in done.stdout
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["test_loss_end"] == run(RunConfig(**TINY)).summary["test_loss_end"]  # a ring


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Give a function that installs a distribution, which is forgotten when the test ends."""

    def give(body, value):
        install(tmp_path, body, value)
        monkeypatch.syspath_prepend(tmp_path)
        registry._declared.cache_clear()

    yield give
    monkeypatch.undo()
    sys.modules.pop("brought_along", None)
    registry._declared.cache_clear()


AS_FUNCTION = """
def enter():
    from deca_lab import register
    from deca_lab.methods import Method
    register("method", "their-method", Method("DECA from a package", {"optimiser": "adam"}))
"""


def test_an_entry_point_that_is_a_function_is_called(installed, capsys):
    installed(AS_FUNCTION, "brought_along:enter")
    listed = deca_lab(capsys, "list", "methods")
    assert "their-method           DECA from a package" in listed.out


@pytest.mark.parametrize(
    ("body", "value", "words"),
    [
        (
            "import a_package_that_is_not_there",
            "brought_along",
            "ModuleNotFoundError: No module named 'a_package_that",
        ),
        ("1 / 0", "brought_along", "ZeroDivisionError: division by zero; mend it, or uninstall it"),
        ("def (", "brought_along", "SyntaxError: "),
        ("raise SystemExit(3)", "brought_along", "SystemExit: 3"),
        ("x = 1", "brought_along:y", "AttributeError: "),
        ("x = 1", "brought_along:x", r"it = 1 cannot be used: it must be a function of \(\)"),
        ("def f(x): pass", "brought_along:f", r"it takes \(x\), and must be a function of \(\)"),
        (
            "from deca_lab import register\nregister('topology', 'ring', print)",
            "brought_along",
            "name = 'ring' cannot be used",
        ),
    ],
)
def test_a_broken_plug_in_is_one_line_that_names_it(
    installed, tmp_path, capsys, body, value, words
):
    installed(body, value)
    for typed in (("list",), ("run", *options(out=tmp_path / "new", **TINY)), ("doctor",)):
        sys.modules.pop("brought_along", None)
        said = deca_lab(capsys, *typed)
        line = said.err.strip().splitlines()[-1]
        whose = f"'some-parts' ({value}, of the package brought-along 1.2)"
        start = f"error: plug-in {whose} cannot be loaded: "
        assert (said.code, line.startswith(start)) == (2, True), said.err
        assert re.search(words, line)
        assert "Traceback" not in said.err
    assert not (tmp_path / "new").exists()


def test_a_plug_in_may_look_up_names_while_it_loads(monkeypatch):
    calls = []
    point = EntryPoint("looks-up", "tests_plugin_module:enter", registry.GROUP)
    module = type(sys)("tests_plugin_module")
    module.enter = lambda: calls.append(topology("ring", 3).n)
    monkeypatch.setitem(sys.modules, "tests_plugin_module", module)
    monkeypatch.setattr(registry, "_declared", lambda: (point,))
    registry.load_plugins()
    registry.load_plugins()
    assert calls == [3]
