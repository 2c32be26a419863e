"""An optimiser of your own: `init` and `update`, as optax has them, become one of the lab's."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from deca_lab.algorithm.optimisers import Optimiser, OptState, leaves, tensors
from deca_lab.algorithm.stacking import left_alone
from deca_lab.errors import BadInput, check, quoted
from deca_lab.mixing.gossip import Mix


def optimiser(
    init: Callable[[Tensor], OptState],
    update: Callable[..., tuple[Tensor, OptState]],
    mixed: Sequence[str] = (),
) -> Optimiser:
    """Return an optimiser of the lab from two functions of matrices (N, D), a row a client.

    `init(x)` is the state before the first gradient: tensors with the clients on axis 0, and numbers,
    in a dict, tuple, list or NamedTuple. `update(g, state)` or `update(g, state, x)` (or `x=None`; a third
    argument with another default is left alone) returns the
    direction (N, D) and the new state. As optax's `scale_by_...` do, it leaves the learning rate and
    the minus sign to the loop, which takes x - lr * direction. `mixed` names tensors of the state (keys
    or fields) that are mixed with the neighbours' after every update before a mixing. Raises BadInput.
    """
    _require_function("init", init, (1,))
    _require_function("update", update, (2, 3))
    takes_x = _takes_x(update)

    def begun(x: Tensor) -> OptState:
        with torch.no_grad(), left_alone([x], "optimiser.init", "x"):
            state = init(x)
        _require_rows(state, x)
        missing = [name for name in mixed if name not in _names(state)]
        allowed = f"names of the state: {', '.join(_names(state)) or 'it has none'}"
        check(not missing, "mixed", missing, allowed)
        return state

    def stepped(g: Tensor, state: OptState, x: Tensor, exchange: Mix) -> tuple[Tensor, OptState]:
        with torch.no_grad(), left_alone([x], "optimiser.update", "x"):
            direction, new = _pair(update(g, state, x) if takes_x else update(g, state))
        _require_direction(direction, g)
        new = _in_shape("state", state, new)
        _require_apart(new)
        own = {part.untyped_storage().data_ptr() for part in (x, *tensors(new))}
        shared = direction.untyped_storage().data_ptr() in own  # the loop writes into the direction
        free = direction.clone() if shared else direction.contiguous()
        return free, _mixed(new, mixed, exchange)

    return Optimiser(begun, stepped, mixed=len(mixed), scratch=4)


def optimiser_of(given: Any) -> Optimiser:  # noqa: ANN401 - whatever was given
    """Return the Optimiser of one of ours, of a pair (init, update), or of an object that has both, as optax's.

    Attribute `mixed` of the object, if there is one, is as in `optimiser`. Raises BadInput.
    """
    if isinstance(given, Optimiser):
        return given
    if isinstance(given, tuple) and not hasattr(given, "update") and len(given) == 2:
        return optimiser(*given)
    if hasattr(given, "init") and hasattr(given, "update"):
        return optimiser(given.init, given.update, getattr(given, "mixed", ()))
    allowed = "deca_lab.optimiser(init, update), a pair (init, update), or an object with both"
    raise BadInput(f"optimiser = {quoted(given)} cannot be used: it must be {allowed}")


def _require_function(what: str, function: Any, count: Sequence[int]) -> None:  # noqa: ANN401 - whatever was given
    """Raise BadInput unless a function takes one of these numbers of arguments, as far as it says."""
    check(callable(function), f"optimiser.{what}", function, "a function")
    low, high = _arguments(function) or (0, max(count))
    allowed = f"a function of {' or '.join(map(str, count))} arguments"
    fits = any(low <= number <= high for number in count)
    check(fits, f"optimiser.{what}", function, allowed)


def _arguments(function: Callable[..., Any]) -> tuple[int, int] | None:
    """Return how few and how many positional arguments a function takes, or None where that is not known."""
    places = _places(function)
    if places is None:
        return None
    most = 99 if any(p.kind is p.VAR_POSITIONAL for p in places) else len(places)
    return sum(p.default is p.empty and p.kind is not p.VAR_POSITIONAL for p in places), most


def _takes_x(update: Callable[..., Any]) -> bool:
    """Say whether x is given: to a third argument without a default or, as optax has it, with None; another is a knob."""
    places = _places(update)
    if places is None or any(p.kind is p.VAR_POSITIONAL for p in places[:3]):
        return True
    return any(p.default is p.empty or p.default is None for p in places[2:3])


def _places(function: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """Return the parameters that take positional arguments, or None where a function does not tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    kinds = (
        *(inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD),
        inspect.Parameter.VAR_POSITIONAL,
    )
    return [p for p in parameters if p.kind in kinds]


def _require_rows(state: OptState, x: Tensor) -> None:
    """Raise BadInput unless every leaf is a number, or a tensor of its own with a row for each client, where x is."""
    for leaf in leaves(state):
        rows = isinstance(leaf, Tensor) and leaf.dim() > 0
        beside = rows and len(leaf) == len(x) and leaf.device == x.device
        sound = beside if rows else isinstance(leaf, int | float | bool)
        shape = f"a tensor of shape {tuple(getattr(leaf, 'shape', ()))}"
        what = f"{shape} on {leaf.device}" if isinstance(leaf, Tensor) else leaf
        allowed = f"tensors with {len(x)} clients on axis 0, on {x.device} as x is, and numbers"
        check(sound, "what optimiser.init returns", what, allowed)
    _require_apart(state)


def _require_apart(state: OptState) -> None:
    """Raise BadInput where two tensors of a state are one: apart they are written, and read back."""
    parts = [part for part in tensors(state) if part.numel()]
    places = {part.data_ptr() for part in parts}
    allowed = "tensors that share no memory: clone one of two"
    check(len(places) == len(parts), "state of the optimiser", "tensors that share memory", allowed)


def _require_direction(direction: Any, g: Tensor) -> None:  # noqa: ANN401 - whatever a user's function returns
    fits, got = isinstance(direction, Tensor), getattr(direction, "shape", direction)
    allowed = f"a direction of shape {tuple(g.shape)}, and the state"
    check(fits and got == g.shape, "what optimiser.update returns", got, allowed)
    allowed = f"{g.dtype}, as the gradient is"
    check(direction.dtype == g.dtype, "dtype of the direction", direction.dtype, allowed)


def _in_shape(what: str, old: OptState, new: OptState) -> OptState:
    """Return the new state with the names in the order of the old one, in which it is written and read back.

    Raises BadInput unless it has the old one's names, shapes and types: a resumed run could not read it.
    """
    if isinstance(old, Mapping):
        same = isinstance(new, Mapping) and set(new) == set(old)
        got = list(new) if isinstance(new, Mapping) else type(new).__name__
        check(same, f"{what} that optimiser.update returns", got, f"with {list(old)}, as init's")
        return {name: _in_shape(f"{what}[{name!r}]", old[name], new[name]) for name in old}
    if isinstance(old, tuple | list):
        same = type(new) is type(old) and len(new) == len(old)
        got, wanted = (
            f"{type(new).__name__} {new}",
            f"{type(old).__name__} of {len(old)}, as init's",
        )
        check(same, f"{what} that optimiser.update returns", got, f"a {wanted}")
        parts = [
            _in_shape(f"{what}[{i}]", *two) for i, two in enumerate(zip(old, new, strict=True))
        ]
        return type(old)(*parts) if hasattr(old, "_fields") else type(old)(parts)
    allowed = f"{_kind(old)}, as init's"
    check(_kind(new) == _kind(old), f"{what} that optimiser.update returns", _kind(new), allowed)
    return new


def _kind(leaf: Any) -> str:  # noqa: ANN401 - a leaf of a state
    if not isinstance(leaf, Tensor):
        return f"a number of type {type(leaf).__name__}"
    return f"a tensor of {leaf.dtype} and shape {tuple(leaf.shape)}"


def _names(state: OptState) -> list[str]:
    return list(state) if isinstance(state, Mapping) else list(getattr(state, "_fields", ()))


def _pair(out: Any) -> tuple[Any, OptState]:  # noqa: ANN401 - whatever a user's function returns
    two, kind = isinstance(out, tuple) and len(out) == 2, type(out).__name__
    check(two, "what optimiser.update returns", kind, "(direction, state)")
    direction, state = out
    return direction, state


def _mixed(state: OptState, names: Sequence[str], exchange: Mix) -> OptState:
    """Return the state whose named tensors are mixed with the neighbours'."""
    if not names:
        return state
    if isinstance(state, Mapping):
        return {**state, **{name: exchange(state[name]) for name in names}}
    return state._replace(**{name: exchange(getattr(state, name)) for name in names})
