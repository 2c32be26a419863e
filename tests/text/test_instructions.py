"""Instructions: every answer recomputed from its prompt alone, no prompt twice, equal skills, and the seed."""

import re

import pytest

from deca_lab.errors import BadInput
from deca_lab.text import corpora, instructions


def by_insertion(text):
    done = []
    for letter in text:
        done.insert(sum(other <= letter for other in done), letter)
    return "".join(done)


SOLVE = {  # prompt's form -> answer, written without the generator
    r"reverse ([a-z]{3,5})": lambda t: "".join(t[len(t) - 1 - i] for i in range(len(t))),
    r"sort ([a-z]{3,5})": by_insertion,
    r"count ([abc]) in ([abc]{3,6})": lambda a, t: str(len(re.findall(a, t))),
    r"add (\d{1,2}) and (\d{1,2})": lambda a, b: str(len("x" * int(a) + "x" * int(b))),
    r"subtract (\d{1,2}) from (\d{1,2})": lambda b, a: str(int(a) - int(b)),
    r"look up ([a-z]) in ([a-z]=\d [a-z]=\d [a-z]=\d)": lambda k, t: dict(
        p.split("=") for p in t.split()
    )[k],
    r"upper-case ([a-z]{3,5})": lambda t: "".join(chr(ord(x) - 32) for x in t),
    r"first letter of ([a-z]{3,5})": lambda t: t[:1],
    r"last letter of ([a-z]{3,5})": lambda t: t[-1:],
    r"larger of (\d{1,2}) and (\d{1,2})": lambda a, b: a if int(a) > int(b) else b,
    r"length of ([a-z]{1,7})": lambda t: str(sum(1 for _ in t)),
    r"repeat ([a-z]{3,5})": lambda t: t,
}


@pytest.fixture(scope="module")
def rows():
    return instructions.instructions(0)


def test_every_answer_is_recomputed_from_its_prompt(rows):
    forms = set()
    for prompt, skill, answer in rows:
        (form,) = [form for form in SOLVE if re.fullmatch(form, prompt)]
        assert answer == SOLVE[form](*re.fullmatch(form, prompt).groups()), prompt
        forms.add((form, skill))
    assert len(forms) == len(SOLVE) == len(instructions.SKILLS) >= 8  # one form a skill


def test_no_prompt_twice_short_ascii_and_equal_parts(rows):
    assert len(rows) == instructions.ROWS == len({prompt for prompt, _, _ in rows})
    assert all(
        (prompt + answer).isascii() and len(prompt) <= 24 and 1 <= len(answer) <= 5
        for prompt, _, answer in rows
    )
    counts = {skill: sum(row[1] == skill for row in rows) for skill in instructions.SKILLS}
    assert set(counts.values()) == {instructions.ROWS // len(instructions.SKILLS)}
    assert not any(answer.startswith("-") or answer.strip() != answer for _, _, answer in rows)


def test_no_answer_dominates_a_skill(rows):
    for skill in instructions.SKILLS:
        answers = [answer for _, name, answer in rows if name == skill]
        assert max(map(answers.count, set(answers))) < 0.4 * len(answers), skill


def test_the_seed_and_the_prefix(rows):
    assert instructions.instructions(0) == rows
    assert instructions.instructions(0, 30) == rows[:30]
    assert (
        len(
            {prompt for prompt, _, _ in instructions.instructions(1)}
            & {prompt for prompt, _, _ in rows}
        )
        < len(rows) / 2
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rows": 0}, "rows = 0 cannot be used: it must be at least 1"),
        ({"seed": -1}, "seed = -1"),
        (
            {"rows": 10**6},
            r"skill 'add' has only about \d+ different prompts, and 83334 are asked for: take at most \d+ rows",
        ),
    ],
)
def test_bad_arguments(options, says):
    with pytest.raises(BadInput, match=says):
        instructions.instructions(**options)


def test_the_corpus_holds_prompts_skills_and_answers(rows):
    corpus = corpora.load("instructions", seed=0)
    assert corpus.label_names == tuple(sorted(instructions.SKILLS))
    held = zip(
        corpus.texts, (corpus.label_names[i] for i in corpus.labels), corpus.answers, strict=True
    )
    assert list(held) == rows
    assert corpora.load("instructions", seed=1).fingerprint != corpus.fingerprint
