"""The way through the house: imports go down only, heavy ones wait, and help needs no torch."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from cases import cases

import deca_lab

HOUSE = Path(deca_lab.__file__).parent
LAYERS = [  # from the ground up: a module may import what stands above it in this list, and nothing below
    "errors", "runconfig", "registry", "methods", "files",
    "hub", "tokens", "embedded", "markov", "instructions", "columns", "in_memory", "corpora", "shards",
    "gossip", "graphs", "weights", "topology", "spectrum", "doctor", "tree", "heterogeneity",
    "blocks", "moments", "clients", "problems", "channel", "schedules", "models", "own_model",
    "nf4", "adapters", "factors", "examples", "scores", "tasks", "optimisers", "train", "faults", "lossy", "messages", "peers",
    "metrics", "ledger", "clock", "checkpoint",
    "bounds",
    "lab", "history", "estimates", "judge", "runs", "sweep", "compare", "claims", "progress", "export", "pretrain",
    "plots", "jupyter", "exercises", "quizzes", "widgets", "course", "machine", "shaped", "bench_others", "bench",
    "report", "compare_report", "names", "cli", "__main__",
]
HEAVY = {"transformers", "datasets", "matplotlib", "peft", "papermill", "pandas", "IPython", "ipywidgets", "cvxpy", "tqdm",
         "safetensors"}
ALLOWED = {*((module, "pandas") for module in ("history", "runs", "sweep", "compare", "claims", "compare_report", "plots")),
           ("plots", "matplotlib")}
LIGHT = {"cli", "runconfig", "__init__"}


class Import(NamedTuple):
    source: str       # module of ours
    target: str       # dotted name that it imports
    line: int
    early: bool       # when the module is loaded, not inside a function

    def __str__(self):
        return f"{self.source}.py:{self.line} imports {self.target}"


def typing_only(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def walk(node, early=True):
    """Yield (import statement, early) of a module's tree; what only type checkers read is left out."""
    for child in ast.iter_child_nodes(node):
        if typing_only(child):
            for other in child.orelse:
                yield from walk(other, early)
        elif isinstance(child, ast.Import | ast.ImportFrom):
            yield child, early
        else:
            yield from walk(child, early and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def targets(node, module, known):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        base = ".".join(["deca_lab", *module.split(".")[:-node.level], *([base] if base else [])])
    inside = [f"{base}.{alias.name}" for alias in node.names if f"{base}.{alias.name}".removeprefix("deca_lab.") in known]
    return [*inside, base] if len(inside) < len(node.names) else inside


def read(house):
    """Return the imports of every module below `house`, and the modules' names."""
    files = {".".join(f.relative_to(house).with_suffix("").parts): f for f in sorted(house.rglob("*.py"))}
    known = {package(name) for name in files}
    found = [Import(package(name), target, node.lineno, early) for name, file in files.items()
             for node, early in walk(ast.parse(file.read_text(encoding="utf-8"))) for target in targets(node, name, known)]
    return found, known


def package(module):
    """The dotted name under which a file is imported: plots/__init__.py is plots."""
    return module.removesuffix(".__init__")


def top(module):
    """The layer of a module: a module's own name, or its folder's."""
    return module.split(".")[0]


def ours(found):
    """Return (import, module of ours that it loads)."""
    return [(i, i.target.removeprefix("deca_lab.")) for i in found if i.target.startswith("deca_lab.")]


def steps_up(found):
    height = {name: k for k, name in enumerate(LAYERS)}
    return [str(i) for i, t in ours(found) if top(i.source) != top(t) and top(i.source) in height
            and height[top(i.source)] < height.get(top(t), len(LAYERS))]


def cycle(found):
    """Return one cycle of imports at load time as a list of modules, or an empty list."""
    after = {}
    for i, t in ours(found):
        if i.early:
            after.setdefault(i.source, set()).add(t)
    done, trail = set(), []

    def visit(module):
        if module in trail:
            return [*trail[trail.index(module):], module]
        if module in done:
            return []
        trail.append(module)
        ring = next((r for t in sorted(after.get(module, ())) if (r := visit(t))), [])
        trail.pop()
        done.add(module)
        return ring

    return next((r for module in sorted(after) if (r := visit(module))), [])


def heavy(found):
    return [str(i) for i in found if i.early and top(i.target) in HEAVY and (top(i.source), top(i.target)) not in ALLOWED]


def reached(found, start):
    """Return every module, ours or not, that loading `start` loads, with the way to it."""
    ways, queue = {start: start}, [start]
    while queue:
        module = queue.pop()
        for i in found:
            target = i.target.removeprefix("deca_lab.") if i.target.startswith("deca_lab.") else i.target
            if i.early and i.source == module and target not in ways:
                ways[target] = f"{ways[module]} -> {target}"
                queue.append(target)
    return ways


FOUND, KNOWN = read(HOUSE)


def test_every_module_has_its_layer():
    new = sorted({top(name) for name in KNOWN} - set(LAYERS) - {"__init__"})
    assert not new, f"{', '.join(new)}: say in tests/test_layers.py, LAYERS, on which layer each stands"
    assert len(LAYERS) == len(set(LAYERS))


def test_no_import_steps_back_up():
    assert not steps_up(FOUND), "a module imports only from the layers below it"


def test_no_cycle():
    assert not cycle(FOUND), "modules that load one another: " + " -> ".join(cycle(FOUND))


def test_heavy_imports_wait_inside_functions():
    assert not heavy(FOUND), "import it inside the function that needs it"


@cases("module", sorted(LIGHT))
@cases("weight", ["torch", "numpy", "networkx", *sorted(HEAVY)])
def test_help_and_config_load_nothing_heavy(module, weight):
    ways = {top(target): way for target, way in reached(FOUND, module).items()}
    assert weight not in ways, ways[weight]


@cases("module", sorted(m for m in KNOWN if top(m) not in {"plots", "widgets", "report", "compare_report"}))
def test_only_pictures_load_the_library_for_pictures(module):
    ways = {top(target): way for target, way in reached(FOUND, module).items()}
    held = sorted({"matplotlib", "transformers", "datasets", "peft", "papermill"} & set(ways))
    assert not held, [ways[name] for name in held]


def test_the_readme_names_every_module():
    text = (Path(__file__).parents[1] / "README.md").read_text()
    missing = [name for name in LAYERS if name != "__main__" and f"{name}.py" not in text and f"{name}/" not in text]
    assert not missing, f"say in README.md, The house, what these are for: {', '.join(missing)}"


def test_the_package_itself_is_imported_by_none_of_its_modules():
    assert [str(i) for i in FOUND if i.early and i.target == "deca_lab"] == []


@pytest.mark.parametrize("statement", ["import deca_lab", "import deca_lab.cli", "import deca_lab.runconfig",
                                       "from deca_lab import RunConfig, BadInput"])
def test_a_fresh_python_stays_light(statement):
    code = f"import sys; {statement}; print(*{{'torch', 'numpy', 'transformers', 'pandas', 'networkx'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_every_public_name_is_where_the_table_says():
    for name in deca_lab.__all__:
        assert getattr(deca_lab, name) is not None
    with pytest.raises(AttributeError, match="module 'deca_lab' has no attribute 'nosuch'"):
        deca_lab.nosuch  # noqa: B018


# the reader itself, on a house that is built wrong


@pytest.fixture
def wrong(tmp_path):
    texts = {
        "errors": "def f():\n    from deca_lab.tree import x\n",                                        # up, late
        "tree": "import torch\nfrom deca_lab import errors, gossip\n",                                  # up, early
        "gossip": "if True:\n    from . import tree\ntry:\n    import pandas as pd\nexcept ImportError:\n    pass\n",
        "runconfig": "from deca_lab.tree import x\n",
        "shards": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import transformers\n    from deca_lab import cli\n"
                  "class A:\n    import datasets.load\n",
        "bounds.rate": "from ..train import plan\nfrom .shared import y\n",
        "bounds.shared": "",
        "train": "",
    }
    for name, text in texts.items():
        file = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return read(tmp_path)[0]


def test_the_reader_sees_each_fault(wrong):
    assert steps_up(wrong) == ["errors.py:2 imports deca_lab.tree", "gossip.py:2 imports deca_lab.tree",
                               "runconfig.py:1 imports deca_lab.tree"]
    assert cycle(wrong) == ["gossip", "tree", "gossip"]
    assert heavy(wrong) == ["gossip.py:4 imports pandas", "shards.py:6 imports datasets.load"]
    assert reached(wrong, "runconfig")["torch"] == "runconfig -> tree -> torch"
    assert [t for i, t in ours(wrong) if i.source == "bounds.rate"] == ["train", "bounds.shared"]
