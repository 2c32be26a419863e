"""A file of knobs becomes a config: one of the papers' experiments by name, or a file of one's own."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deca_lab.errors import BadInput, check, pick
from deca_lab.files import read_text
from deca_lab.methods import METHODS
from deca_lab.runconfig import RunConfig, defaults, from_mapping

if TYPE_CHECKING:
    import yaml

HOME = Path(__file__).parent
PARTS = ("about", "knobs", "methods")  # of a recipe; `methods` are knobs of single methods


def names() -> dict[str, str]:
    """Return {recipe: a few words} of those that come with the package."""
    return {path.stem: str(_read(path)["about"]) for path in sorted(HOME.glob("*.yaml"))}


def recipe(name: str, **knobs: Any) -> RunConfig:  # noqa: ANN401 - each has its own knob's type
    """Return the config of a recipe, with `knobs` in place of its own.

    `name` is one of `names`, or the path of a .yaml or .json file: a recipe, or knobs alone, such as a run folder's
    config.json. Knobs that the recipe has for single methods hold where that method runs. Raises BadInput.
    """
    return from_mapping({**knobs_of(name, knobs.get("method")), **knobs})


def knobs_of(name: str, method: str | None = None) -> dict[str, Any]:
    """Return the knobs that a recipe sets for a method, or for its own: what makes the method is left to it."""
    given = _read(_place(name))
    if not set(given) & {"knobs", "methods"}:
        return _with_numbers(given)
    unknown = [part for part in given if part not in PARTS]
    check(not unknown, name, ", ".join(unknown), f"a recipe of {', '.join(PARTS)}")
    common, single = _mapping(given, "knobs", name), _mapping(given, "methods", name)
    chosen = str(method or common.get("method", defaults()["method"]))
    fixed = METHODS[chosen].fixed if chosen in METHODS and not METHODS[chosen].pooled else {}
    own = {knob: value for knob, value in common.items() if knob not in fixed}
    return _with_numbers({**own, **_mapping(single, chosen, name), "method": chosen})


def _with_numbers(knobs: dict[str, Any]) -> dict[str, Any]:
    """Return the knobs with numbers such as 1e-3, which YAML reads as text, as numbers."""
    real = [name for name, value in defaults().items() if isinstance(value, float)]
    written: dict[str, Any] = {
        name: value for name, value in knobs.items() if name in real and isinstance(value, str)
    }
    for name, value in written.items():
        try:
            written[name] = float(value)
        except ValueError:
            continue  # the config refuses it, with its own words
    return {**knobs, **written}


def _place(name: str) -> Path:
    """Return the file of a recipe."""
    path = Path(name).expanduser()
    if path.suffix.lower() in (".yaml", ".yml", ".json"):
        return path
    try:
        pick({**names()}, name, "recipe")
    except BadInput as error:
        raise BadInput(f"{error}, or a .yaml or .json file") from None
    return HOME / f"{name}.yaml"


def _read(path: Path) -> dict[str, Any]:
    import yaml

    text = read_text(path, "the recipe")
    try:
        given, whole = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
        twice, odd = _repeated(whole), _misread(whole)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        line = " ".join(str(error).split())[:200]
        raise BadInput(f"the recipe {str(path)!r} is no YAML: {line}") from None
    sound = isinstance(given, dict) and all(isinstance(key, str) for key in given)
    check(sound, f"the recipe {str(path)!r}", type(given).__name__, "a mapping of knobs")
    check(not twice, f"the recipe {str(path)!r}", ", ".join(twice), "a file that names a knob once")
    allowed = "written in tens: YAML reads a leading 0 as base 8, and a colon as base 60"
    check(not odd, f"a number of the recipe {str(path)!r}", ", ".join(odd), allowed)
    return dict(given)


def _misread(node: "yaml.Node | None", depth: int = len(PARTS)) -> list[str]:
    """Return the values of a mapping, or of one in it, that YAML takes for numbers to another base than was meant."""
    if node is None or not depth:
        return []
    if node.id == "mapping":
        return [text for _, value in node.value for text in _misread(value, depth - 1)]
    number, text = node.tag.rpartition(":")[2] in ("int", "float"), str(node.value)
    return [text] if number and re.match(r"[-+]?(0[0-7_]+$|\d[\d_]*:)", text) else []


def _repeated(node: "yaml.Node | None", depth: int = len(PARTS)) -> list[str]:
    """Return the names that a mapping, or one in it, has twice: YAML takes the last of them in silence."""
    if node is None or node.id != "mapping" or not depth:
        return []
    names = Counter(str(key.value) for key, _ in node.value)
    inner = [name for _, value in node.value for name in _repeated(value, depth - 1)]
    return [*(name for name, times in names.items() if times > 1), *inner]


def _mapping(given: Mapping[str, Any], part: str, name: str) -> dict[str, Any]:
    value = given.get(part) or {}
    check(isinstance(value, dict), f"{part} of {name}", value, "a mapping of knobs")
    return dict(value)
