"""The lessons' quizzes: five questions each, to be answered by prediction before an option is opened."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from deca_lab.course.quizzes import (
    lesson_00,
    lesson_01,
    lesson_02,
    lesson_03,
    lesson_04,
    lesson_05,
    lesson_06,
    lesson_07,
    lesson_08,
    lesson_09,
    lesson_10,
    lesson_11,
    lesson_12,
)
from deca_lab.course.quizzes.quiz import Question, page
from deca_lab.errors import pick

if TYPE_CHECKING:
    from IPython.display import HTML

QUIZZES: dict[str, tuple[Question, ...]] = {
    "00": lesson_00.QUESTIONS,
    "01": lesson_01.QUESTIONS,
    "02": lesson_02.QUESTIONS,
    "03": lesson_03.QUESTIONS,
    "04": lesson_04.QUESTIONS,
    "05": lesson_05.QUESTIONS,
    "06": lesson_06.QUESTIONS,
    "07": lesson_07.QUESTIONS,
    "08": lesson_08.QUESTIONS,
    "09": lesson_09.QUESTIONS,
    "10": lesson_10.QUESTIONS,
    "11": lesson_11.QUESTIONS,
    "12": lesson_12.QUESTIONS,
}


def quiz(lesson: str) -> "HTML":
    """Return the quiz of a lesson, "00" to "12", to be shown in a notebook. Raises BadInput for any other name."""
    questions = pick(QUIZZES, str(lesson), "lesson")

    from IPython.display import HTML

    make: Callable[[str], HTML] = HTML  # IPython has no types
    return make(page(questions, f"Quiz of lesson {int(lesson)}"))
