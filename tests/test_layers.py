"""The way through the house: imports go down only, none in a circle, and heavy ones wait.

`python tests/test_layers.py` writes the map, from docstrings: packages into README.md, modules too into course/docs/house.md.
"""

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from cases import cases

import deca_lab

ROOT = Path(__file__).parents[1]
HOUSE = Path(deca_lab.__file__).parent
# from the ground up: a package may import what stands above it in this list, and nothing below
LAYERS = [
    *("errors", "files", "runconfig", "registry", "methods", "recipes"),
    *("mixing", "algorithm", "network", "models", "text", "lab"),
    *("bounds", "studies", "pictures", "bench", "course", "tools"),
    *("cli", "__main__"),
]
HEAVY = {
    *("transformers", "datasets", "matplotlib", "peft", "papermill", "pandas"),
    *("IPython", "ipywidgets", "cvxpy", "tqdm", "safetensors"),
}
STUDIES = ("studies.sweep", "studies.compare", "studies.papers")
TABLES = ("lab.history", "lab.runs", *STUDIES, "pictures")
ALLOWED = {("pictures", "matplotlib"), *((module, "pandas") for module in TABLES)}
PICTURES = ("pictures", "course.widgets")  # what may load the library for pictures
LIGHT = {"cli", "runconfig", "__init__"}
BESIDE = {  # folders beside the package, for the map
    "notebooks/": "The course, in order of reading.",
    "theory/": "For each claim a page: statement, proof, both sides on the same axes.",
    "tests/": "The packages again, one file a module; reference.py is DECA as plain loops.",
}


class Import(NamedTuple):
    source: str  # module of ours
    target: str  # dotted name that it imports
    line: int
    when: str  # early: with the module; late: inside a function; typing: for type checkers alone

    def __str__(self):
        return f"{self.source}:{self.line} imports {self.target}"


# the reader


def typing_only(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def walk(node, when="early"):
    """Yield (import statement, when) of a module's tree."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node, when
    elif typing_only(node):
        yield from (found for child in node.body for found in walk(child, "typing"))
        yield from (found for child in node.orelse for found in walk(child, when))
    else:
        inside = (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            and when == "early"
        )
        yield from (
            found
            for child in ast.iter_child_nodes(node)
            for found in walk(child, "late" if inside else when)
        )


def targets(node, module, known):
    """The dotted names that one statement imports: of `from package import module` the module."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        base = ".".join(["deca_lab", *module.split(".")[: -node.level], *([base] if base else [])])
    inside = [
        f"{base}.{alias.name}"
        for alias in node.names
        if f"{base}.{alias.name}".removeprefix("deca_lab.") in known
    ]
    return [*inside, base] if len(inside) < len(node.names) else inside


def sources(house):
    """Return {dotted name: file} of every module below `house`."""
    return {
        ".".join(f.relative_to(house).with_suffix("").parts): f for f in sorted(house.rglob("*.py"))
    }


def package(module):
    """The dotted name under which a file is imported: course/__init__.py is course."""
    return module.removesuffix(".__init__")


def read(house):
    """Return the imports of every module below `house`, and the modules' names."""
    files = sources(house)
    known = {package(name) for name in files}
    found = [
        Import(package(name), target, node.lineno, when)
        for name, file in files.items()
        for node, when in walk(ast.parse(file.read_text(encoding="utf-8")))
        for target in targets(node, name, known)
    ]
    return found, known


def top(module):
    """The layer of a module: its package, or its own name at the top."""
    return module.split(".")[0]


def ours(found):
    """Return (import, module of ours that it loads)."""
    return [
        (i, i.target.removeprefix("deca_lab.")) for i in found if i.target.startswith("deca_lab.")
    ]


def lies_in(module, places):
    return any(module == place or module.startswith(f"{place}.") for place in places)


# what may not be


def steps_up(found):
    """Return the imports, late and typing ones too, of what stands on a later layer."""
    height = {name: k for k, name in enumerate(LAYERS)}
    return [
        str(i)
        for i, t in ours(found)
        if top(i.source) != top(t)
        and top(i.source) in height
        and height[top(i.source)] < height.get(top(t), len(LAYERS))
    ]


def cycle(found):
    """Return one cycle of imports, late and typing ones too, as modules, or an empty list."""
    after = {}
    for i, t in ours(found):
        after.setdefault(i.source, set()).add(t)
    done, trail = set(), []

    def visit(module):
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module in done:
            return []
        trail.append(module)
        ring = next((r for t in sorted(after.get(module, ())) if (r := visit(t))), [])
        trail.pop()
        done.add(module)
        return ring

    return next((r for module in sorted(after) if (r := visit(module))), [])


def heavy(found):
    return [
        str(i)
        for i in found
        if i.when == "early"
        and top(i.target) in HEAVY
        and not any(
            lies_in(i.source, [place]) and top(i.target) == library for place, library in ALLOWED
        )
    ]


def parents(module):
    """Return the packages whose __init__ Python runs first: of course.machine, course."""
    parts = module.split(".")
    return [".".join(parts[:k]) for k in range(1, len(parts))]


def reached(found, start):
    """Return every module, ours or not, that loading `start` loads, with the way to it."""
    ways = {start: start}
    queue = [start]

    def add(module, way):
        if module not in ways:
            ways[module] = f"{way} -> {module}"
            queue.append(module)

    for parent in parents(start):
        add(parent, start)
    while queue:
        module = queue.pop()
        for i in found:
            if i.when == "early" and i.source == module:
                target = i.target.removeprefix("deca_lab.")
                for loaded in [
                    *(parents(target) if i.target.startswith("deca_lab.") else ()),
                    target,
                ]:
                    add(loaded, ways[module])
    return ways


# the map


def first_line(file):
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n")[0]


def rooms(folder, indent):
    """Yield the lines of one package: its modules, and packages inside it as one line each."""
    for file in sorted([*folder.glob("*.py"), *folder.glob("*/__init__.py")]):
        if file.parent != folder:
            yield f"{indent + file.parent.name + '/':<28}{first_line(file)}"
        elif file.name != "__init__.py":
            yield f"{indent + file.name:<28}{first_line(file)}"


def house(folder, modules=True):
    """Return the map of the packages in `folder`, each with the first line of its docstring; of their modules too."""
    lines = [f"{'deca_lab/':<28}{first_line(folder / '__init__.py')}"]
    for layer in [name for name in LAYERS if name != "__main__"]:
        inside = folder / layer
        own = inside / "__init__.py" if inside.is_dir() else inside.with_suffix(".py")
        name = f"{layer}/" if inside.is_dir() else own.name
        lines += [
            f"{'  ' + name:<28}{first_line(own)}",
            *(rooms(inside, "    ") if modules and inside.is_dir() else ()),
        ]
    return "\n".join([*lines, *(f"{name:<28}{about}" for name, about in BESIDE.items())])


def parts(page):
    """Return a page's text before the map, the map, and what follows it."""
    before, heading, rest = page.partition("\n\n```\ndeca_lab/")
    block, fence, after = rest.partition("\n```\n")
    start = "deca_lab/"
    return before + heading.removesuffix(start), start + block, fence + after


FOUND, KNOWN = read(HOUSE)
MAPS = [("README.md", False), ("deca_lab/course/docs/house.md", True)]  # page, with modules?


def test_every_module_has_its_layer():
    new = sorted({top(name) for name in KNOWN} - set(LAYERS) - {"__init__"})
    assert not new, (
        f"{', '.join(new)}: say in tests/test_layers.py, LAYERS, on which layer each stands"
    )
    assert len(LAYERS) == len(set(LAYERS))


def test_no_import_steps_back_up():
    assert not steps_up(FOUND), (
        "a module imports only from the layers above its own in LAYERS:\n"
        + "\n".join(steps_up(FOUND))
    )


def test_no_cycle():
    assert not cycle(FOUND), "modules that import one another: " + " -> ".join(cycle(FOUND))


def test_heavy_imports_wait_inside_functions():
    assert not heavy(FOUND), "import it inside the function that needs it"


@cases("module", sorted(LIGHT))
@cases("weight", ["torch", "numpy", "networkx", *sorted(HEAVY)])
def test_help_and_config_load_nothing_heavy(module, weight):
    ways = {top(target): way for target, way in reached(FOUND, module).items()}
    assert weight not in ways, ways[weight]


@cases("module", sorted(m for m in KNOWN if not lies_in(m, PICTURES)))
def test_only_pictures_load_the_library_for_pictures(module):
    ways = {top(target): way for target, way in reached(FOUND, module).items()}
    held = sorted({"matplotlib", "transformers", "datasets", "peft", "papermill"} & set(ways))
    assert not held, [ways[name] for name in held]


@pytest.mark.parametrize(("page", "modules"), MAPS)
def test_the_pages_show_the_house_as_it_is(page, modules):
    _, block, _ = parts((ROOT / page).read_text(encoding="utf-8"))
    assert block.split("\n") == house(HOUSE, modules).split("\n"), (
        "write the map anew: python tests/test_layers.py"
    )


def test_every_package_and_module_says_what_it_is_for():
    silent = [name for name, file in sources(HOUSE).items() if not first_line(file)]
    assert not silent, f"a docstring is missing in {', '.join(silent)}"


def test_the_package_itself_is_imported_by_none_of_its_modules():
    assert [str(i) for i in FOUND if i.when == "early" and i.target == "deca_lab"] == []


@pytest.mark.parametrize(
    "statement",
    [
        "import deca_lab",
        "import deca_lab.cli",
        "import deca_lab.runconfig",
        "from deca_lab import RunConfig, BadInput",
    ],
)
def test_a_fresh_python_stays_light(statement):
    weights = "{'torch', 'numpy', 'transformers', 'pandas', 'networkx'}"
    code = f"import sys; {statement}; print(*{weights} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.strip() == ""


def test_every_public_name_is_where_the_table_says():
    for name in deca_lab.__all__:
        assert getattr(deca_lab, name) is not None
    with pytest.raises(AttributeError, match="module 'deca_lab' has no attribute 'nosuch'"):
        deca_lab.nosuch  # noqa: B018


# the reader itself, on a house that is built wrong


SHARDS = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import transformers
    from deca_lab import cli
    if True:
        raise OSError
else:
    import peft
class A:
    import datasets.load
"""
GOSSIP = """
def f():
    from . import graphs
try:
    import pandas as pd
except ImportError:
    pass
"""


@pytest.fixture
def wrong(tmp_path):
    """A house with imports up, of each kind, and with two modules that import each other."""
    texts = {
        "__init__": '"""A house."""\n',
        "errors": '"""Errors.\n\nMore."""\ndef f():\n    import deca_lab.algorithm.stacking\n',
        "mixing.__init__": '"""Who hears whom."""\n',
        "mixing.graphs": "import torch\nfrom deca_lab import errors\nimport deca_lab.mixing.gossip",
        "mixing.gossip": GOSSIP,
        "runconfig": "from deca_lab.algorithm.stacking import x\n",
        "text.shards": SHARDS,
        "bounds.__init__": "import scipy\n",
        "bounds.rate": "from ..lab.runs import run\nfrom .shared import y\n",
        "bounds.shared": "",
        "algorithm.stacking": "import torch\n",
        "lab.runs": "from deca_lab.bounds.shared import y\n",
        "cli": "",
    }
    for name, text in texts.items():
        file = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return tmp_path


def test_the_reader_sees_each_fault(wrong):
    found = read(wrong)[0]
    assert steps_up(found) == [
        "errors:5 imports deca_lab.algorithm.stacking",
        "lab.runs:1 imports deca_lab.bounds.shared",
        "runconfig:1 imports deca_lab.algorithm.stacking",
        "text.shards:5 imports deca_lab.cli",
    ]
    assert cycle(found) == ["mixing.gossip", "mixing.graphs", "mixing.gossip"]
    assert heavy(found) == [
        "mixing.gossip:5 imports pandas",
        "text.shards:9 imports peft",
        "text.shards:11 imports datasets.load",
    ]
    assert [t for i, t in ours(found) if i.source == "bounds.rate"] == ["lab.runs", "bounds.shared"]


def test_the_reader_sees_what_is_loaded_and_through_whom(wrong):
    found = read(wrong)[0]
    assert reached(found, "runconfig")["torch"] == "runconfig -> algorithm.stacking -> torch"
    # Python runs the __init__ of the package first
    assert reached(found, "lab.runs")["scipy"] == "lab.runs -> bounds -> scipy"
    assert "cli" not in reached(found, "text.shards")
    assert "transformers" not in reached(found, "text.shards")


def test_a_circle_of_types_alone_is_one_too(tmp_path):
    (tmp_path / "errors.py").write_text(
        "import typing\nif typing.TYPE_CHECKING:\n    from deca_lab.files import x\n"
    )
    (tmp_path / "files.py").write_text("def f():\n    import deca_lab.errors\n")
    assert cycle(read(tmp_path)[0]) == ["errors", "files", "errors"]


def test_the_map_names_packages_modules_and_what_they_are_for(wrong, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "LAYERS", ["errors", "mixing", "__main__"])
    shown = house(wrong).split("\n")
    assert shown[:3] == [
        f"{'deca_lab/':<28}A house.",
        f"{'  errors.py':<28}Errors.",
        f"{'  mixing/':<28}Who hears whom.",
    ]
    assert [line.strip() for line in shown[3:5]] == ["gossip.py", "graphs.py"]
    assert parts(f"# x\n\n## The house\n\n```\n{house(wrong)}\n```\n\nend\n")[1] == house(wrong)


if __name__ == "__main__":
    for page, modules in MAPS:
        path = ROOT / page
        before, _, after = parts(path.read_text(encoding="utf-8"))
        path.write_text(before + house(ROOT / "deca_lab", modules) + after, encoding="utf-8")
