"""Objects that a study hands on to its runs, and a stand-in for `runs.run` that notes them."""

from inspect import signature

import pytest

from deca_lab.lab import runs

OBJECTS = {"model": object(), "metrics": {"own": float}, "callbacks": [print]}
needs_objects = pytest.mark.skipif(
    "callbacks" not in signature(runs.run).parameters, reason="run takes no objects yet"
)


class Recorder(list):
    """The calls of `run` and `resume` as (which, objects); each runs without the objects."""

    def __init__(self, run, read_config):
        super().__init__()
        self.run, self.read_config = run, read_config

    def ran(self, config, folder=None, **objects):
        self.append(("run", objects))
        return self.run(config, folder)

    def resumed(self, folder, **objects):
        self.append(("resume", objects))
        config = self.read_config(folder)
        for file in folder.iterdir():
            if file.name != "checkpoint.safetensors":
                file.unlink()
        (folder / "checkpoint.safetensors").unlink()
        return self.run(config, folder)


def recorder(monkeypatch):
    """Put the stand-in in the place of `runs.run` and return it."""
    noted = Recorder(runs.run, runs.read_config)
    monkeypatch.setattr(runs, "run", noted.ran)
    return noted
