"""Every family of causal LMs that the README names trains, stacked as one after another; those that do not are one line."""

import re
from pathlib import Path

import pytest

from deca_lab.errors import BadInput
from deca_lab.tools import families

NO = ("rwkv",)
WARNINGS = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # of transformers' own
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
QUICK = ("bloom", "roberta", "gpt2")


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(name, marks=[*WARNINGS, *[pytest.mark.slow] * (name not in QUICK)])
        for name in families.FAMILIES
        if name not in NO
    ],
)
def test_a_family_trains_to_the_same_numbers_by_either_engine(family):
    row = families.tried(family)
    assert row.refusal == ""
    assert row.works, row.difference


@pytest.mark.parametrize("family", NO)
def test_a_family_that_does_not_train_is_one_line(family):
    row = families.tried(family)
    assert not row.works
    assert row.refusal.startswith("model does not train with --engine stacked: ")
    assert "\n" not in row.refusal
    *_, line = families.table([row, families.Row("llama", 2e-7)])
    assert line == "| llama | yes | 2e-07 |"


def test_the_readme_names_them():
    page = Path(__file__).parents[2].joinpath("README.md").read_text()
    named = re.search(r"(?s)Families that train: (.*?)\. Not: (.*?)\.", page)
    works = set(named[1].replace("\n", " ").split(", "))
    assert works == set(families.FAMILIES) - set(NO)
    assert set(named[2].split(", ")) == set(NO)


def test_the_loop_needs_no_vmap(tmp_path, monkeypatch):
    """A model that torch.vmap refuses is one line under the stacked engine, and a run under the loop."""
    monkeypatch.setattr(families.causal_lm, "make_stackable_", lambda model: None)
    folder = str(tmp_path / "bloom")
    families.drawn("bloom").save_pretrained(folder)
    with pytest.raises(
        BadInput, match=r"model does not train with --engine stacked: .*; try loop"
    ) as no:
        families.trained(folder, "stacked")
    assert "\n" not in str(no.value)
    assert families.trained(folder, "loop").isfinite().all()
