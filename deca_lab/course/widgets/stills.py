"""The lessons' widgets without a kernel: a picture drawn beforehand for every value of a few knobs."""

import json
from collections.abc import Callable, Mapping
from hashlib import sha256
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from deca_lab.course.widgets import (
    dealing,
    editor,
    majority,
    microscope,
    panel,
    paths,
    scheduler,
)
from deca_lab.errors import BadInput

DOTS = 120  # an inch: a thousand pixels across, sharp on a phone and when a reader zooms
COLOURS = 64


class Stills(NamedTuple):
    """A widget in the book: its scene, its knobs as {name: (what to call it, values)}, the values that stay, the first."""

    scene: Callable[[], panel.Scene]
    knobs: Mapping[str, tuple[str, tuple[Any, ...]]]
    fixed: Mapping[str, Any]
    first: tuple[int, ...]


def _shards() -> panel.Scene:
    from deca_lab.text.corpora import load

    return dealing.scene(*dealing._few(load("stdlib")))


def _about(controls: Mapping[str, panel.Control], **values: tuple[Any, ...]) -> Any:  # noqa: ANN401
    return {name: (controls[name].about, chosen) for name, chosen in values.items()}


STILLS = {
    "shard_picture": Stills(
        _shards,
        _about(
            dealing.CONTROLS,
            split=("dirichlet", "iid", "by-label", "quantity"),
            power=(-1.5, -1.0, -0.6, 0.0, 1.0),
            clients=(4, 8, 16),
        ),
        {"seed": 0},
        (0, 2, 1),
    ),
    "block_scheduler": Stills(
        scheduler.scene,
        _about(
            scheduler.CONTROLS,
            model=("small", "medium"),
            cut=("layers", "equal", "whole"),
            fineness=(1, 2, 4),
            inner_steps=(1, 4, 8),
        ),
        {"order": "sequence", "rounds": 2, "clients": 8, "dtype": "float32"},
        (0, 0, 0, 1),
    ),
    "moment_microscope": Stills(
        microscope.scene,
        _about(
            microscope.CONTROLS,
            feedback=("printed", "downhill", "none"),
            scale=("raw", "lr"),
            b1=(0.5, 0.9, 0.99, 1.0),
            apart=(0.0, 2.0, 4.0),
        ),
        {"b2": 0.999, "inner_steps": 12, "power": -1.0, "noise": 0.5},
        (0, 0, 2, 1),
    ),
    "quadratic_paths": Stills(
        paths.scene,
        _about(
            paths.CONTROLS,
            method=paths.METHODS,
            power=(-2.0, -1.5, -1.0, -0.5),
            apart=(0.0, 0.7),
        ),
        {"inner_steps": 4, "feedback": "printed", "scale": "raw", "b1": 0.99, "b2": 0.999},
        (0, 2, 1),
    ),
    "majority_rule": Stills(
        majority.scene,
        _about(
            majority.CONTROLS,
            clients=(3, 5, 10, 20),
            power=(-4.0, -2.0, -1.0, 0.0, 2.0),
            feedback=("none", "printed", "downhill"),
        ),
        {"inner_steps": 4},
        (2, 2, 0),
    ),
}


def write_stills(folder: Path) -> None:
    """Write, for each widget, its pictures and a script that holds the knobs and the picture and words of every choice.

    The topology editor needs no pictures: its script draws.
    """
    for name, stills in STILLS.items():
        pictures, frames = frames_of(stills)
        (folder / name).mkdir(parents=True)
        for file, data in pictures.items():
            (folder / name / file).write_bytes(data)
        known = {
            "knobs": [
                {"name": key, "about": about, "values": values}
                for key, (about, values) in stills.knobs.items()
            ],
            "first": stills.first,
            "frames": frames,
        }
        text = f"(window.decaKnobs ??= {{}}).{name} = {json.dumps(known, separators=(',', ':'))};\n"
        (folder / f"{name}.js").write_text(text, encoding="utf-8")
    (folder / "topology_editor.js").write_text(editor.page_script(), encoding="utf-8")


def frames_of(stills: Stills) -> tuple[dict[str, bytes], list[tuple[str, str]]]:
    """Return {file: picture} and, for each choice in the order of `product`, (file, words); alike pictures are one file.

    A choice that the widget refuses has no file, and its words say why.
    """
    from deca_lab.pictures.style import styled

    scene = stills.scene()
    draw, update = panel.renderer(scene.figure, DOTS), styled(scene.update)
    pictures: dict[str, bytes] = {}
    frames = []
    for choice in product(*(values for _, values in stills.knobs.values())):
        given = dict(zip(stills.knobs, choice, strict=True))
        try:
            words = update(**{**stills.fixed, **given})
        except BadInput as error:
            frames.append(("", f"No picture: {error}"))
            continue
        pixels = draw()
        file = f"{sha256(pixels).hexdigest()[:12]}.webp"
        if file not in pictures:
            pictures[file] = small(pixels)
        frames.append((file, words))
    return pictures, frames


def small(png: bytes) -> bytes:
    """Return a picture in few colours, which line drawings do not miss."""
    from PIL import Image

    out = BytesIO()
    drawn = Image.open(BytesIO(png)).convert("RGB")
    flat = drawn.quantize(COLOURS, dither=Image.Dither.NONE).convert("RGB")
    flat.save(out, "webp", lossless=True, method=2)
    return out.getvalue()
