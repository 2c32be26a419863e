"""Quizzes: five questions a lesson, each option with its reason, plain escaped HTML, and figures that the library confirms."""

import re
from collections import Counter
from html import unescape
from html.parser import HTMLParser
from itertools import chain

import numpy as np
import pytest
import torch
from cases import cases
from command import SMALL
from sklearn.metrics import f1_score

from deca_lab.algorithm import moments as mo
from deca_lab.bounds.adam_step import constants, limit, quoted, steps_taken, witness
from deca_lab.course.quizzes import QUIZZES, quiz
from deca_lab.course.quizzes.quiz import Question, page
from deca_lab.errors import BadInput
from deca_lab.lab.forecast import forecast_of
from deca_lab.lab.prepare import groundwork
from deca_lab.mixing.doctor import diagnose
from deca_lab.mixing.topology import topology
from deca_lab.models.factor_mixing import interference
from deca_lab.runconfig import RunConfig

QUESTIONS = [question for held in QUIZZES.values() for question in held]


def said(question):
    """All texts of a question."""
    return [question.asks, *chain.from_iterable(question.options)]


class Reader(HTMLParser):
    """Checks that tags close in order, and collects (opened tags, attributes, options, verdicts)."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], Counter(), [], {}

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags[tag] += 1
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.setdefault(self.open[-1], []).append(data)


def read(html):
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def test_thirteen_lessons_of_five_questions():
    assert list(QUIZZES) == [f"{k:02}" for k in range(13)]
    assert {len(held) for held in QUIZZES.values()} == {5}
    assert len({question.asks for question in QUESTIONS}) == 65


@cases("question", QUESTIONS)
def test_a_question_is_well_formed(question):
    texts, reasons = zip(*question.options, strict=True)
    assert 3 <= len(question.options) <= 4
    assert 0 <= question.answer < len(question.options)
    assert len({text.casefold() for text in texts}) == len(texts)
    assert len(set(reasons)) == len(reasons)
    assert question.asks.endswith("?")
    assert all(text == text.strip() and "  " not in text for text in said(question))
    assert all(len(reason) > 25 and reason.endswith(".") for reason in reasons)


@cases("question", QUESTIONS)
def test_texts_are_plain(question):
    """No Markdown, no dollar or backslash that a page's mathematics would take for a formula, nothing outside ASCII."""
    for text in said(question):
        assert text.isascii()
        assert not re.search(r"[`$\\]|\*\*|\]\(|</?[a-z]", text)


def test_neither_place_nor_length_gives_the_answer_away():
    places = Counter(question.answer for question in QUESTIONS)
    assert max(places.values()) <= 30
    assert min(places[k] for k in range(3)) >= 12
    longest = [
        max(range(len(q.options)), key=lambda k: len(q.options[k][0])) == q.answer
        for q in QUESTIONS
    ]
    assert sum(longest) <= 30
    for held in QUIZZES.values():
        answers = [question.answer for question in held]
        assert len(set(answers)) > 1
        assert max(Counter(answers).values()) <= 3


@pytest.mark.parametrize("lesson", list(QUIZZES))
def test_the_page_shows_each_option_with_its_verdict(lesson):
    from IPython.display import HTML

    shown = quiz(lesson)
    assert isinstance(shown, HTML)
    found, options = (
        read(shown.data),
        [option for question in QUIZZES[lesson] for option in question.options],
    )
    assert found.tags["details"] == found.tags["summary"] == len(options)
    assert found.texts["summary"] == [text for text, _ in options]
    verdicts = [text for text in found.texts["strong"] if text.endswith(":")]
    assert verdicts == [
        "Right:" if k == q.answer else "Not this one:"
        for q in QUIZZES[lesson]
        for k in range(len(q.options))
    ]
    reasons = [text.strip() for text in found.texts["p"]]
    assert [reason for _, reason in options] == [
        text for text in reasons if text in {reason for _, reason in options}
    ]
    assert set(found.tags) == {
        "section",
        "ol",
        "li",
        "p",
        "strong",
        "details",
        "summary",
    }  # no script
    assert found.attributes == []  # nothing opened beforehand, no colour, no handler
    assert f"Quiz of lesson {int(lesson)}" in shown.data
    assert not re.search(
        r"\n\s*\n", shown.data
    )  # a blank line would end the HTML where Markdown takes it


def test_everything_is_escaped():
    nasty = '<script>alert("1 & 2")</script>'
    question = Question(nasty, ((nasty + "a", nasty + "b"), ("c", "d"), ("e", "f")), answer=1)
    html = page([question], nasty)
    assert "<script" not in html
    assert unescape(html).count(nasty) == 4
    assert html.count("&lt;script&gt;alert(&quot;1 &amp; 2&quot;)&lt;/script&gt;") == 4


def test_the_right_option_is_the_one_that_answer_names():
    html = page([Question("q?", (("a", "x"), ("b", "y"), ("c", "z")), answer=2)], "t")
    assert re.findall(r"<summary>(.)</summary>\n<p><strong>([^:]+):</strong> (.)</p>", html) == [
        ("a", "Not this one", "x"),
        ("b", "Not this one", "y"),
        ("c", "Right", "z"),
    ]


@cases("lesson", ["13", "2", "", "gossip", 2, None])
def test_an_unknown_lesson_is_told_what_there_is(lesson):
    with pytest.raises(BadInput, match=r"unknown lesson .*allowed: 00, 01, 02, .*, 12"):
        quiz(lesson)


# the figures in the texts, by the library


def holds(lesson, number, *words):
    """The right option of a question, with its reason, holds these words."""
    question = QUIZZES[lesson][number - 1]
    right = " ".join(question.options[question.answer])
    assert all(word in right for word in words), right


def test_figures_of_rings_and_stars():
    ring8, ring16, star = (
        diagnose(topology("ring", 8)),
        diagnose(topology("ring", 16)),
        diagnose(topology("star", 8)),
    )
    holds("02", 1, f"{ring8.rounds_1000:.0f} mixings become {ring16.rounds_1000:.0f}")
    holds("02", 2, f"{ring8.rho:.3f} on the ring", f"{star.rho:.3f} on the star")
    heard = (topology("star", 8).at(0) != 0) / (topology("star", 8).at(0) != 0).sum(
        1, keepdims=True
    )
    end = np.linalg.matrix_power(heard, 2000)[3]
    holds("02", 3, "four times")
    assert end[0] / end[1] == pytest.approx(4)
    np.testing.assert_allclose(topology("ring", 4).at(0)[0] @ [0, 3, 6, 9], 4)
    holds("00", 1, "4")


def test_figures_of_adams_step():
    one = torch.ones(1, 1, dtype=torch.float64)
    raw = 0.1 / 0.001**0.5
    holds("05", 2, f"{raw:.1f} learning rates")
    assert f"{quoted():.2f} learning rates" in QUIZZES["09"][2].asks
    holds("09", 3, f"{limit():.2f} learning rates", f"{0.999 / 0.9:.2f} times")
    assert steps_taken(witness(48), mo.Adam(eps=0.0))[-1] == pytest.approx(constants(48)[-1])
    assert float(mo.adam_(mo.start(one), 1e-3 * one, mo.Adam(eps=0.0))[0]) == pytest.approx(1)
    signs = -torch.tensor([-1.0, -1.0, 4.0]).sign()
    assert signs.mean() > 0
    holds("05", 3, "Up")


def test_figures_of_costs():
    assert [16 + 10 * 16 / B for B in (16, 32)] == [26, 21]
    holds("11", 1, "26 GB become 21 GB", f"{9 * 16} GB")
    layer = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 2 * 4096
    assert f"{2 * layer / 1e6:.0f} million" in QUIZZES["11"][1].asks
    holds("11", 2, f"{128256 * 4096 / 1e6:.0f} million")
    holds("11", 3, "nine times", f"{858 / 6:.0f},000")
    assert round(858000 / 6 / 16384) == 9
    assert 2 * 1.75 * 8 / 4 + 1 == 8
    assert round(1.02**100, 1) == 7.2


def test_figures_of_ones_own_text():
    true = [0] * 60 + [1] * 20 + [2] * 10 + [3] * 10
    said = [0] * 100
    assert f1_score(true, said, labels=[0], average="macro") == pytest.approx(0.75)
    assert f1_score(true, said, average="macro", zero_division=0) == pytest.approx(0.1875)
    holds("12", 2, "0.60 and about 0.19", "2 x 0.6 / 1.6 = 0.75", "0.1875")
    few, many = (forecast_of(groundwork(RunConfig(**{**SMALL, "clients": n}))) for n in (6, 12))
    assert many.model == few.model
    assert many.sent == 2 * few.sent
    assert many.clients == pytest.approx(2 * few.clients, rel=0.01)
    holds("12", 4, "model as it is loaded")


def test_figures_of_factors():
    def stacked(*numbers):
        return torch.tensor(numbers, dtype=torch.float64)[:, None, None]

    half, opposite, common = np.full((2, 2), 0.5), stacked(1, -1), stacked(1, 1)
    assert interference({"w.lora_A": opposite, "w.lora_B": opposite}, half).total == pytest.approx(
        1
    )
    holds("07", 1, "0", "as large as the product itself")
    assert interference({"w.lora_A": common, "w.lora_B": opposite}, half).total == 0
    holds("07", 2, "Zero")


def test_figures_of_failures():
    assert diagnose(np.roll(np.eye(8), 1, axis=1)).rho == pytest.approx(1)
    assert np.linalg.matrix_power(0.34 / (1 / 3) * topology("ring", 8).at(0), 100).sum(
        1
    ) == pytest.approx(1.02**100)
    holds("08", 2, "seven times", "7.2")
    left = topology("ring", 8).at(0)[:7, :7]  # the last client dies
    kept, divided = left + np.diag(1 - left.sum(1)), left / left.sum(1, keepdims=True)
    assert diagnose(kept).verdict == "sound"
    assert diagnose(divided).column_error > 0.1
    holds("08", 3, "add its share to their own")
