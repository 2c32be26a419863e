"""Checkpoints: one safetensors file with the whole state and its checksum, replaced in one step, never unpickled."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deca_lab.errors import BadInput
from deca_lab.files import write_whole
from deca_lab.train import State


def save(path: Path, state: State, record: Mapping[str, Any]) -> None:
    """Write the state and the `record` (anything JSON can hold; floats survive to the bit)."""
    from safetensors.torch import save as serialise

    tensors = {name: t.detach().contiguous().cpu() for name, t in _tensors(state).items()}
    counts = {str(k): held.steps for k, held in state.moments.items()}
    text = json.dumps({"step": state.step, "counts": counts, "tally": state.tally, "record": record})
    sealed = json.dumps({"sha256": _digest(text, tensors), "state": text})
    write_whole(path, serialise(tensors, metadata={"deca_lab": sealed}))  # one key: equal states are equal bytes


def load(path: Path, kind: type | None = None, device: torch.device | str = "cpu") -> tuple[State, dict[str, Any]]:
    """Return the state on `device` and the record; raise BadInput, naming the file, where it is missing or damaged.

    `kind` is the type of the optimiser's state (`Optimiser.kind`); without it that state is left out.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if path.exists() and not path.is_file():
            raise OSError("it is not an ordinary file")
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {})["deca_lab"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if meta["sha256"] != _digest(meta["state"], tensors):
            raise ValueError("its checksum does not match its content")
        held = json.loads(meta["state"])
        state = _state(held["step"], held["counts"] if kind else {}, kind, tensors, device)._replace(tally=tuple(held["tally"]))
        record = dict(held["record"])
    except FileNotFoundError:
        raise BadInput(f"there is no checkpoint {str(path)!r}") from None
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise BadInput(f"checkpoint {str(path)!r} is damaged and refused: {error}") from None
    return state, record


def _tensors(state: State) -> dict[str, Tensor]:
    blocks = {f"block.{k}": x for k, x in enumerate(state.blocks)}
    moments = {f"{field}.{k}": getattr(held, field) for k, held in state.moments.items() for field in held._fields[:-1]}
    master = {} if state.master is None else {"master": state.master}
    past = {f"past.{name}": t for name, t in state.past.items()}
    return {**blocks, **moments, **master, **past, "sent": torch.from_numpy(state.sent)}


def _state(step: int, counts: Mapping[str, int], kind: Any, tensors: Mapping[str, Tensor],  # noqa: ANN401
           device: torch.device | str) -> State:
    there = {name: t.to(device) for name, t in tensors.items() if name != "sent"}
    blocks = tuple(there[f"block.{k}"] for k in range(sum(name.startswith("block.") for name in there)))
    moments = {int(k): kind(*(there[f"{f}.{k}"] for f in kind._fields[:-1]), count) for k, count in counts.items()}
    past = {name.removeprefix("past."): t for name, t in there.items() if name.startswith("past.")}
    return State(step, blocks, there.get("master"), moments, tensors["sent"].numpy(), past)


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the record and of every tensor's name, type, shape and bytes."""
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        t = tensors[name]
        sha.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        sha.update(t.contiguous().flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()
