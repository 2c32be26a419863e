"""Every family of causal LMs that the docs name trains, stacked as one after another; those that do not are one line."""

import re
from pathlib import Path

import pytest

from deca_lab.errors import BadInput
from deca_lab.tools import families

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
    ],
)
def test_a_family_trains_to_the_same_numbers_by_either_engine(family):
    row = families.tried(family)
    assert row.refusal == ""
    assert row.works, row.difference


def test_the_table_has_a_row_for_each():
    rows = [families.Row("llama", 2e-7), families.Row("other", float("inf"), "no such model")]
    *_, yes, no = families.table(rows)
    assert yes == "| llama | yes | 2e-07 |"
    assert "no such model" in no


def test_the_docs_name_them():
    page = Path(__file__).parents[2].joinpath("deca_lab/course/docs/models.md").read_text()
    named = re.search(r"(?s)Families that train: (.*?)\.", page)
    assert set(named[1].replace("\n", " ").split(", ")) == set(families.FAMILIES)


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
