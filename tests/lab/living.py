"""A process that says which bytes of tensors live while a run goes on, as JSON; for test_forecast.py."""

import gc
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1]))
from command import SMALL

from deca_lab.algorithm.loop import begin, train
from deca_lab.lab import runs
from deca_lab.lab.prepare import prepare
from deca_lab.runconfig import RunConfig

CONFIG = RunConfig(
    **{**SMALL, "clients": 4, "rounds": 1, "inner_steps": 2, "context": 32, "batch": 4}
)


def living():
    """The bytes of all tensors that live, each storage once; those on "meta" share address 0, and take none."""
    gc.collect()
    kinds = (torch.Tensor, torch.nn.Parameter)
    kept = [o.untyped_storage() for o in gc.get_objects() if type(o) in kinds]
    return sum({s.data_ptr(): s.nbytes() for s in kept if s.device.type != "meta"}.values())


def in_a_visit():
    plan = prepare(CONFIG).plan
    state = begin(plan)
    before = living()
    steps = train(plan, state, donate=True)
    for _ in range(CONFIG.inner_steps):
        state = next(steps)[0]
    block = state.blocks[plan.visits[0].block].nbytes
    grown = living() - before
    return {"grown_in_a_visit": grown, "moments_left": len(state.moments), "block": block}


def in_a_run():
    config, after = replace(CONFIG, rounds=2, eval_every=1000, checkpoint_every=1000), []
    done = runs.run(config, progress=lambda step, of, known: after.append(living()))
    return {"after_steps": after, "weights": done.summary["memory"]["weights"]}


if __name__ == "__main__":
    prepare(CONFIG)  # imports: what is there from then on need not be looked through again
    gc.collect()
    gc.freeze()
    print(json.dumps({**in_a_visit(), **in_a_run()}))
