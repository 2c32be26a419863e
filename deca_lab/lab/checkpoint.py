"""Checkpoints: one safetensors file with the whole state and its checksum, replaced in one step, never unpickled."""

import hashlib
import json
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deca_lab.algorithm import optimisers as op
from deca_lab.algorithm.channel import Wire
from deca_lab.algorithm.loop import State
from deca_lab.errors import BadInput, check
from deca_lab.files import replaced

FORMAT = 3  # of the file: state and names as below
DAMAGED = (  # what a file raises that is not what `save` wrote
    *(OSError, LookupError, ValueError, RuntimeError, TypeError, AttributeError, StopIteration),
)
Init = Callable[[int, Tensor], op.OptState]


def save(path: Path, state: State, record: Mapping[str, Any]) -> None:
    """Write the state and the `record` (anything JSON can hold; floats survive to the bit)."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {name: t.detach().contiguous().cpu() for name, t in _tensors(state).items()}
    counts = {str(k): op.numbers(optimiser) for k, optimiser in state.moments.items()}
    known = {"step": state.step, "counts": counts, "tallies": state.wire.tallies, "record": record}
    text = json.dumps(known)
    sealed = json.dumps({"format": FORMAT, "sha256": _digest(FORMAT, text, tensors), "state": text})
    with replaced(path) as half:
        try:  # straight into the file: bytes in memory would be a second copy of all
            # One key: equal states are equal bytes.
            save_file(tensors, half, metadata={"deca_lab": sealed})
        except SafetensorError as error:
            raise OSError(str(error)) from None


def load(
    path: Path, init: Init | None = None, device: torch.device | str = "cpu"
) -> tuple[State, dict[str, Any]]:
    """Return the state on `device` and the record; raise BadInput, naming the file, where it is missing or damaged.

    `init(k, x)` is a fresh state of the optimiser for block k; without it the optimiser's state is left out.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if path.exists() and not path.is_file():
            raise OSError("it is not an ordinary file")
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {})["deca_lab"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if meta["sha256"] != _digest(meta.get("format"), meta["state"], tensors):
            raise ValueError("its checksum does not match its content")
        known = json.loads(meta["state"])
        if meta.get("format") == FORMAT:
            state = _state(known, {n: t.to(device) for n, t in tensors.items()}, init)
            record = dict(known["record"])
    except FileNotFoundError:
        raise BadInput(f"there is no checkpoint {str(path)!r}") from None
    except (SafetensorError, *DAMAGED) as error:
        raise BadInput(f"checkpoint {str(path)!r} is damaged and refused: {error}") from None
    again = "another version wrote it, so start its run again from its config.json"
    allowed = f"one of this version of deca_lab; {again}"
    check(meta.get("format") == FORMAT, "checkpoint", str(path), allowed)
    return state, record


def _tensors(state: State) -> dict[str, Tensor]:
    """Return every tensor of the state under a name of its own."""
    named = {f"block.{k}": x for k, x in enumerate(state.blocks)}
    for k, optimiser in state.moments.items():
        named.update({f"moments.{k}.{i}": part for i, part in enumerate(op.tensors(optimiser))})
    named.update({f"letter.{name}": letter for name, letter in state.wire.letters.items()})
    tables = {f"table.{name}": table for name, table in state.wire.tables.items()}
    named.update({k: torch.from_numpy(t) for k, t in {**tables, "sent": state.sent}.items()})
    return named if state.master is None else {**named, "master": state.master}


def _state(known: Mapping[str, Any], tensors: Mapping[str, Tensor], init: Init | None) -> State:
    """Return the state of a file's numbers and tensors."""
    cut = sum(name.startswith("block.") for name in tensors)
    blocks = tuple(tensors[f"block.{k}"] for k in range(cut))
    moments: dict[int, op.OptState] = {}
    for k, numbers in known["counts"].items():
        if init:
            fresh = init(int(k), blocks[int(k)])
            moments[int(k)] = _moments(fresh, numbers, k, tensors)
    letters, tables = (_beginning(start, tensors) for start in ("letter.", "table."))
    arrays = {name: table.cpu().numpy() for name, table in tables.items()}
    wire = Wire(tensors["sent"].cpu().numpy(), letters, arrays, known["tallies"], {})
    return State(known["step"], blocks, tensors.get("master"), moments, wire)


def _moments(
    template: op.OptState, numbers: list[Any], k: str, tensors: Mapping[str, Tensor]
) -> op.OptState:
    """Return an optimiser's state in the shape of a fresh one; raise ValueError where a tensor has another."""
    parts, rest = (tensors[f"moments.{k}.{i}"] for i in count()), iter(numbers)
    fresh = op.leaves(template)
    read = [next(parts) if isinstance(leaf, Tensor) else next(rest) for leaf in fresh]
    for leaf, part in zip(fresh, read, strict=True):
        like = (leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else type(leaf)
        if like != ((part.shape, part.dtype) if isinstance(part, Tensor) else type(part)):
            raise ValueError(f"moments of block {k} are not those of this run's optimiser")
    return op.with_leaves(template, iter(read))


def _beginning(start: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    own = [name for name in tensors if name.startswith(start)]
    return {name.removeprefix(start): tensors[name] for name in own}


def _digest(version: int | None, text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of format, record, and every tensor's name, type, shape and bytes."""
    sha = hashlib.sha256(f"{'' if version is None else version}{text}".encode())
    for name in sorted(tensors):
        t = tensors[name]
        sha.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        if t.numel():  # an empty one, such as the bytes of no link, cannot be viewed as bytes
            sha.update(t.contiguous().flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()
