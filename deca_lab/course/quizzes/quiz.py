"""A question with its options, and the page of a quiz: plain HTML that opens and closes without any script."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple


class Question(NamedTuple):
    """What is asked, the options as (text, why it is right or wrong), and the index of the one that is right."""

    asks: str
    options: tuple[tuple[str, str], ...]
    answer: int


def page(questions: Sequence[Question], title: str) -> str:
    """Return the questions as one HTML section: every option opens to a verdict and its reason. All text is escaped."""
    items = "\n".join(_item(question) for question in questions)
    how = "Choose before you open: each answer says whether it is right, and why."
    return f"<section>\n<p><strong>{escape(title)}</strong></p>\n<p>{how}</p>\n<ol>\n{items}\n</ol>\n</section>"


def _item(question: Question) -> str:
    options = "\n".join(
        _option(*option, right=k == question.answer) for k, option in enumerate(question.options)
    )
    return f"<li>\n<p>{escape(question.asks)}</p>\n{options}\n</li>"


def _option(text: str, why: str, right: bool) -> str:
    verdict = "Right" if right else "Not this one"
    return (
        f"<details>\n<summary>{escape(text)}</summary>\n"
        f"<p><strong>{verdict}:</strong> {escape(why)}</p>\n</details>"
    )
