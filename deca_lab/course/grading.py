"""What the hidden tests of an assignment ask besides `check`."""

from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

SOURCE = "deca_lab.course"


def borrowed(yours: Callable[..., Any]) -> str:
    """Return the name of something of the course that an answer calls, or is; "" where it is the student's own work.

    The course knows all answers, so none may be had from there: not by another name, a default or a function in between.
    """
    return _borrowed(yours, set())


def _borrowed(value: object, seen: set[int]) -> str:
    """Follow a function's global names, closure and defaults."""
    if id(value) in seen:
        return ""
    seen.add(id(value))
    if _ours(value):
        return str(getattr(value, "__name__", type(value).__name__))
    if not isinstance(value, FunctionType) or value.__module__ != "__main__":
        return ""
    code = value.__code__
    names = value.__globals__
    imports = [name for name in _names(code) if name.startswith(SOURCE)]
    parts = [names[name] for name in _names(code) if name in names]
    parts += [cell.cell_contents for cell in value.__closure__ or ()]
    parts += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    return next(
        (found for found in [*imports, *(_borrowed(part, seen) for part in parts)] if found), ""
    )


def _names(code: CodeType) -> set[str]:
    """Return the names and texts that code and the functions inside it use."""
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    words = {constant for constant in code.co_consts if isinstance(constant, str)}
    return set(code.co_names) | words | {name for part in inner for name in _names(part)}


def _ours(value: object) -> bool:
    """Say whether a module, a function or an object (or one inside a dict or a sequence) belongs to the course."""
    if isinstance(value, dict):
        return any(map(_ours, value.values()))
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return any(map(_ours, value))
    home = getattr(value, "__module__", None) or type(value).__module__
    name = getattr(value, "__name__", "") if type(value).__name__ == "module" else home
    return str(name).startswith(SOURCE) or type(value).__module__.startswith(SOURCE)
