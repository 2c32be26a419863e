"""Predictions: a guess is noted, compared once, and counted; a run without guesses goes through."""

import pytest

from deca_lab.course.predictions import QUESTIONS, predict, reveal, score
from deca_lab.errors import BadInput


def test_guesses_are_noted_compared_and_counted(tmp_path):
    file = tmp_path / "mine" / "guesses.json"
    assert predict("chord", "rises", file) == "Noted: rises. Now run the next cell."
    assert predict("vote", "up", file) == "Noted: up. Now run the next cell."
    assert score(file) == "Your score: 0 of 0."
    assert "as you guessed" in reveal("chord", file)
    told = " ".join(reveal("vote", file).split())  # its lines joined
    assert "you guessed up" in told
    assert told.endswith("Your score: 1 of 2.")


def test_a_guess_may_change_until_it_is_compared(tmp_path):
    file = tmp_path / "guesses.json"
    predict("chord", "falls", file)
    predict("chord", "rises", file)
    assert "as you guessed" in reveal("chord", file)
    assert "has been compared" in predict("chord", "falls", file)
    assert score(file) == "Your score: 1 of 1."


def test_without_a_guess_nothing_is_written_and_all_goes_on(tmp_path):
    file = tmp_path / "guesses.json"
    assert predict("chord", file=file).endswith("one of: falls, stays, rises.")
    assert "not guessed" in reveal("chord", file)
    assert not file.exists()


def test_unknown_questions_and_options_are_refused_and_a_broken_file_is_no_guess(tmp_path):
    file = tmp_path / "guesses.json"
    with pytest.raises(BadInput, match="unknown prediction 'cord': did you mean 'chord'"):
        predict("cord", "rises", file)
    with pytest.raises(BadInput, match="guess = 'grows'"):
        predict("chord", "grows", file)
    for text in ("", "[1]", '{"chord": 3}', '{"other": {"guess": "x", "compared": true}}'):
        file.write_text(text)
        assert score(file) == "Your score: 0 of 0."


@pytest.mark.parametrize("key", QUESTIONS)
def test_what_is_revealed_fits_a_page(key, tmp_path):
    predict(key, QUESTIONS[key].options[0], tmp_path / "guesses.json")
    for file in ("none.json", "guesses.json"):
        assert max(map(len, reveal(key, tmp_path / file).splitlines())) <= 88


def test_every_question_has_its_answer_among_its_options():
    assert all(q.answer in q.options and len(q.options) > 2 for q in QUESTIONS.values())
