"""A learner's walk: every piece written from its text, kept, and put together in lesson 6, where it trains a GPT."""

import json
import re
from pathlib import Path

import answers
import pytest

from deca_lab.course import handout, own, running

HOUSE = Path(__file__).parents[2]
LESSONS = ("05_moments", "06_deca")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("default"),
]


def printed(path):
    cells = json.loads(path.read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "".join("".join(output.get("text", [])) for output in outputs)


def test_one_s_own_pieces_make_deca_and_train_a_gpt_as_the_library_does(tmp_path):
    own.keep(answers.mix, tmp_path / "my_pieces")  # of lesson 0
    said = ""
    for name in LESSONS:
        source = tmp_path / f"{name}.ipynb"
        lesson = (HOUSE / "notebooks" / source.name).read_bytes()
        source.write_bytes(handout.solved(lesson, handout.answers_of(HOUSE)))
        job = running.Job(source, tmp_path / "ran" / source.name, {"profile": "fast"}, 600, 1)
        job.copy.parent.mkdir(exist_ok=True)
        result = running.run_one(job)
        assert not result.error, result.error
        said += printed(job.copy)
    assert "Kept: later lessons run your adam_direction" in said
    assert "Yours: mix, adam_direction, feed_back." in said
    assert "Yours: deca_step, deca." in said
    assert "The library's" not in said
    assert "largest difference below 1e-12: True" in said
    assert float(re.findall(r"largest gap (\S+)", said)[0]) < 1e-12
