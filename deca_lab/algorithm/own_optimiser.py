"""An optimiser of your own: `init` and `update`, as optax has them, become one of the lab's."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from deca_lab.algorithm.optimisers import Optimiser, OptState, leaves, tensors
from deca_lab.errors import BadInput, check, quoted
from deca_lab.mixing.gossip import Mix


def optimiser(
    init: Callable[[Tensor], OptState],
    update: Callable[..., tuple[Tensor, OptState]],
    mixed: Sequence[str] = (),
) -> Optimiser:
    """Return an optimiser of the lab from two functions of matrices (N, D), a row a client.

    `init(x)` is the state before the first gradient: tensors with the clients on axis 0, and numbers,
    in a dict, tuple, list or NamedTuple. `update(g, state)` or `update(g, state, x)` returns the
    direction (N, D) and the new state. As optax's `scale_by_...` do, it leaves the learning rate and
    the minus sign to the loop, which takes x - lr * direction. `mixed` names tensors of the state (keys
    or fields) that are mixed with the neighbours' after every update before a mixing. Raises BadInput.
    """
    _require_function("init", init, (1,))
    _require_function("update", update, (2, 3))
    takes_x = (_arguments(update) or (3, 3))[1] >= 3

    def begun(x: Tensor) -> OptState:
        state = init(x)
        _require_rows(state, x)
        missing = [name for name in mixed if name not in _names(state)]
        allowed = f"names of the state: {', '.join(_names(state)) or 'it has none'}"
        check(not missing, "mixed", missing, allowed)
        return state

    def stepped(g: Tensor, state: OptState, x: Tensor, exchange: Mix) -> tuple[Tensor, OptState]:
        out = update(g, state, x) if takes_x else update(g, state)
        direction, new = _pair(out)
        fits, got = isinstance(direction, Tensor), getattr(direction, "shape", direction)
        allowed = f"a direction of shape {tuple(g.shape)}, and the state"
        check(fits and got == g.shape, "what optimiser.update returns", got, allowed)
        own = {part.untyped_storage().data_ptr() for part in (x, *tensors(new))}
        shared = direction.untyped_storage().data_ptr() in own  # the loop writes into the direction
        return direction.clone() if shared else direction, _mixed(new, mixed, exchange)

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
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    most = 99 if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(places)
    return sum(p.default is p.empty for p in places), most


def _require_rows(state: OptState, x: Tensor) -> None:
    """Raise BadInput unless every leaf is a number, or a tensor with a row for each client, where x is."""
    for leaf in leaves(state):
        rows = isinstance(leaf, Tensor) and leaf.dim() > 0
        beside = rows and len(leaf) == len(x) and leaf.device == x.device
        sound = beside if rows else isinstance(leaf, int | float | bool)
        shape = f"a tensor of shape {tuple(getattr(leaf, 'shape', ()))}"
        what = f"{shape} on {leaf.device}" if isinstance(leaf, Tensor) else leaf
        allowed = f"tensors with {len(x)} clients on axis 0, on {x.device} as x is, and numbers"
        check(sound, "what optimiser.init returns", what, allowed)


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
