"""A problem of one's own: what would train something else in silence, or break off in the middle, is refused in one line."""

from itertools import repeat

import pytest
import torch

import deca_lab as dl
from deca_lab import BadInput, Problem, RunConfig, fit

CONFIG = RunConfig(clients=3, rounds=1, inner_steps=3, lr=0.1, device="cpu", method="d-sgd")
ROWS = torch.linspace(-1, 1, 3 * 5 * 2).reshape(3, 5, 2)


def squares(params, rows):
    return (rows @ params["w"] - 1).square().mean()


def problem(loss=squares, batches=lambda step: ROWS.clone(), **parts):
    return Problem(**{"start": {"w": torch.zeros(3, 2)}, "loss": loss, "batches": batches, **parts})


def writes_batch(params, rows):
    return squares(params, rows.mul_(2))


def writes_params(params, rows):
    params["w"].data.add_(0.1)
    return squares(params, rows)


def wrong(x, where, rest, batch):
    return torch.stack([squares({"w": w}, rows) for w, rows in zip(x, batch, strict=True)]), x + 1


def later(batch):
    return lambda step: ROWS if step < 2 else batch


drawn, few = torch.Generator().manual_seed(0), iter(repeat(ROWS, 5))
NOISY = {"loss": lambda params, rows: squares(params, rows) + torch.rand((), generator=drawn)}
BAD = {
    "changes neither params nor batch": [{"loss": writes_batch}, {"loss": writes_params}],
    "the same for the same params": [NOISY],
    "with a gradient": [{"loss": lambda params, rows: squares(params, rows).detach()}],
    "the same whenever it is asked for": [
        {"batches": lambda step: torch.rand(3, 5, 2, generator=drawn)}
    ],
    r"batches\(\d\) raises StopIteration": [{"batches": lambda step: next(few)}],
    r"batches\(2\) = \(6, 5, 2\)": [{"batches": later(torch.cat([ROWS, ROWS]))}],
    r"batches\(2\) = 'list'": [{"batches": later([ROWS])}],
    "what problem.loss gives, and its gradient": [{"exact": wrong}],
    "what problem.exact returns": [{"exact": lambda *given: (torch.zeros(1), torch.zeros(3, 2))}],
    "its loss raises RuntimeError": [{"evaluation": ROWS[:, :, :1]}],
    "one for all": [{"start": {"w": torch.zeros(3, 2), "b": torch.zeros(3).double()}}],
    "tensors that hold a number": [{"start": {"w": torch.zeros(3, 2), "b": torch.zeros(3, 0)}}],
    "texts": [{"start": {"w": torch.zeros(3, 2), 3: torch.zeros(3)}}],
}


@pytest.mark.parametrize("engine", ["stacked", "loop"])
@pytest.mark.parametrize(("words", "parts"), [(w, p) for w, many in BAD.items() for p in many])
def test_what_is_no_fixed_function_of_its_step_is_refused(words, parts, engine):
    config = RunConfig(**{**vars(CONFIG), "engine": engine})
    with pytest.raises(BadInput, match=words) as caught:
        fit(problem(**parts), config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("engine", ["stacked", "loop"])
@pytest.mark.parametrize("blocks", ["layers", "whole"])
def test_a_parameter_that_the_loss_does_not_read_stays(engine, blocks):
    """As in a plain loop of torch, with gaps in the data, which are equal to themselves."""
    gaps = torch.cat([ROWS, torch.full((3, 1, 2), torch.nan)], 1)
    start = {"w": torch.zeros(3, 2), "unread": torch.ones(3, 4)}
    loss = lambda params, rows: squares(params, rows[:-1])  # noqa: E731
    knobs = {"engine": engine, "blocks": blocks, "topology": "complete", "method": "deca"}
    plain = dl.optimiser(lambda x: {}, lambda g, state: (g, state))
    config, ends = RunConfig(**{**vars(CONFIG), **knobs}), []
    own = {"optimiser": plain, "callbacks": [lambda seen: ends.append(seen.mean)]}
    fit(problem(loss, lambda step: gaps, start=start), config, **own)
    w = torch.zeros(2, requires_grad=True)
    for _ in range(3):
        (g,) = torch.autograd.grad(sum(loss({"w": w}, rows) for rows in gaps) / 3, w)
        w = (w - 0.1 * g).detach().requires_grad_()
    assert torch.allclose(ends[-1]["w"], w, atol=1e-6)
    assert torch.equal(ends[-1]["unread"], torch.ones(4))
