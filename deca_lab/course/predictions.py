"""Predictions that are written down: `predict` notes a guess, `reveal` compares it; the score is the learner's alone."""

import json
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

from deca_lab.course.own import FOLDER
from deca_lab.errors import check, pick

FILE = FOLDER / "guesses.json"
LINE = 88  # letters: what a page shows of an output without scrolling


class Question(NamedTuple):
    """What may be guessed, what happens, and why."""

    options: tuple[str, ...]
    answer: str
    why: str


QUESTIONS = {
    "own text": Question(
        ("alone", "together", "neither"),
        "alone",
        "Nobody pulls a lone client away from its own text. It pays with all other text.",
    ),
    "chord": Question(
        ("falls", "stays", "rises"),
        "rises",
        "Clients 0 and 4 have three neighbours now, so each edge of theirs gets a smaller share.",
    ),
    "messages": Question(
        ("ring", "exponential", "complete"),
        "complete",
        "It sends the most at each mixing, and is done after one.",
    ),
    "traffic": Question(
        ("blocks", "whole", "equal"),
        "whole",
        "At each step a block-wise run sends the active block only, one part in four here.",
    ),
    "first step": Question(
        ("by its gradient", "by one learning rate", "by none"),
        "by one learning rate",
        "With one gradient the direction is g / |g|: its sign.",
    ),
    "correction": Question(
        ("too short", "as they were", "too long"),
        "too long",
        "v lags behind further than m, and the step is divided by its root.",
    ),
    "vote": Question(
        ("up", "down", "nowhere"),
        "down",
        "Each client divides by its own root of v, so two votes of one beat one vote of ten.",
    ),
    "order": Question(
        ("closer", "equal", "further apart"),
        "further apart",
        "Clients who adapt last have not mixed their freshest step.",
    ),
    "ten clients": Question(
        ("0", "0.4", "0.87"),
        "0",
        "Six equal votes beat four, however much the four care: the median.",
    ),
    "half the mixings": Question(
        ("one", "three", "all four"),
        "three",
        "The claim on the gradient asks for a mixing after every step, and says so.",
    ),
    "what shows first": Question(
        ("perplexity", "words", "both at once"),
        "perplexity",
        "It counts every byte; a written text changes only where the likeliest byte does.",
    ),
    "nearest pair": Question(
        ("a tenth", "a quarter", "nine tenths"),
        "a quarter",
        "Common words alone make a tenth or two; two passages on one subject share a few more.",
    ),
    "its answers": Question(
        ("each label at times", "one label to all", "none"),
        "one label to all",
        "Its scores are those of an answer that reads no passage, digit by digit.",
    ),
}  # fmt: skip


def predict(key: str, guess: str = "", file: Path | str = FILE) -> str:
    """Note a guess, and return what was noted; without a guess, return what may be guessed.

    The first guess counts once it has been compared. Raises BadInput for an unknown question or option.
    """
    options, notes = pick(QUESTIONS, key, "prediction").options, _notes(Path(file))
    if not guess:
        return f"Write your guess into predict, one of: {', '.join(options)}."
    check(guess in options, "guess", guess, f"one of {', '.join(options)}")
    if key in notes and notes[key]["compared"]:
        return f"Your guess was {notes[key]['guess']}, and has been compared."
    _write(Path(file), {**notes, key: {"guess": guess, "compared": False}})
    return f"Noted: {guess}. Now run the next cell."


def reveal(key: str, file: Path | str = FILE) -> str:
    """Return what happens and why, beside the guess that was noted, and the score so far."""
    question, notes = pick(QUESTIONS, key, "prediction"), _notes(Path(file))
    if key not in notes:
        return fill(f"It is: {question.answer}. {question.why} (You have not guessed.)", LINE)
    notes = {**notes, key: {**notes[key], "compared": True}}
    _write(Path(file), notes)
    guess = notes[key]["guess"]
    verdict = "as you guessed" if guess == question.answer else f"you guessed {guess}"
    return fill(f"It is: {question.answer}, {verdict}. {question.why} {score(file)}", LINE)


def score(file: Path | str = FILE) -> str:
    """Return how many of the guesses that were compared were good."""
    compared = {key: note for key, note in _notes(Path(file)).items() if note["compared"]}
    good = sum(note["guess"] == QUESTIONS[key].answer for key, note in compared.items())
    return f"Your score: {good} of {len(compared)}."


def _notes(file: Path) -> dict[str, dict[str, object]]:
    """Return {question: its guess}; nothing where the file is not there or holds something else."""
    try:
        notes = json.loads(file.read_text())
        return {
            key: note
            for key, note in notes.items()
            if key in QUESTIONS and set(note) == {"guess", "compared"}
        }
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _write(file: Path, notes: dict[str, dict[str, object]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(notes, indent=1))
