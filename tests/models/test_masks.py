"""The masks of transformers while a loss runs: its own numbers, and its table as it was, whoever else is at it."""

import pytest
import torch
from cases import cases
from transformers import masking_utils

from deca_lab.models.masks import unseen

TABLE = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
SIZES = {"batch_size": 2, "q_length": 5, "kv_length": 5}


def masks(**options):
    """What transformers puts under attention by plain operations."""
    return TABLE["eager"](**SIZES, **options)


@cases("padded", [False, True])
@cases("dtype", [torch.float32, torch.bfloat16])
def test_the_numbers_are_transformers_own(dtype, padded):
    seen = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool)
    for shown in (None, seen):
        for rule in (masking_utils.causal_mask_function, masking_utils.bidirectional_mask_function):
            options = {"mask_function": rule, "attention_mask": shown, "dtype": dtype}
            usual = masks(**options)
            with unseen(padded)():
                ours = masks(**options)
            assert ours.dtype == dtype
            assert torch.equal(ours, usual)


def test_a_bidirectional_mask_is_left_out_as_usual_but_of_padded_texts():
    options = {"mask_function": masking_utils.bidirectional_mask_function}
    skipped = {"allow_is_bidirectional_skip": True}
    assert masks(**options, **skipped) is None
    for padded in (False, True):
        with unseen(padded)():
            assert (masks(**options, **skipped) is None) != padded


def left():
    """What transformers' table holds of its own, and whether it asks for texts packed in a row."""
    return dict(vars(TABLE)["_local_mapping"]), masking_utils.find_packed_sequence_indices


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_nothing_is_left_behind_by_two_threads_in_any_order(order):
    before = left()
    both = [unseen(padded)() for padded in (False, True)]
    for one in both:
        one.__enter__()
    for i in order:
        both[i].__exit__(None, None, None)
    assert left() == before


def test_a_mask_of_the_users_own_stays(monkeypatch):
    monkeypatch.setitem(
        TABLE, "sdpa", own := lambda *sizes, **options: torch.ones(1, dtype=torch.bool)
    )
    with unseen(False)():
        assert masks().tolist() == [0.0]
    assert TABLE["sdpa"] is own
