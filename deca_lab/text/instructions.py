"""Instructions with one right answer each, generated from a seed: twelve small skills on short ASCII text.

A skill is a label, so that clients can hold different skills, and an answer is scored by exact match.
"""

from collections.abc import Callable
from string import ascii_lowercase

import numpy as np

from deca_lab.errors import BadInput, check

PromptAndAnswer = tuple[str, str]  # prompt, answer
Skill = Callable[[np.random.Generator], PromptAndAnswer]
Instructions = list[tuple[str, str, str]]  # (prompt, skill, answer)
ROWS = 6000
TRIES = 200  # draws in a row that find no new prompt before a skill counts as exhausted


def word(
    rng: np.random.Generator, alphabet: str = ascii_lowercase, least: int = 3, most: int = 5
) -> str:
    """`least` to `most` random letters of `alphabet`."""
    return "".join(rng.choice(list(alphabet), rng.integers(least, most + 1)))


def on_word(ask: str, answer: Callable[[str], str], least: int = 3, most: int = 5) -> Skill:
    """A skill that is asked of a random word of `least` to `most` letters."""

    def skill(rng: np.random.Generator) -> PromptAndAnswer:
        text = word(rng, least=least, most=most)
        return f"{ask} {text}", answer(text)

    return skill


def count(rng: np.random.Generator) -> PromptAndAnswer:
    """How often a letter occurs among few different ones."""
    text, letter = word(rng, "abc", 3, 6), "abc"[rng.integers(3)]
    return f"count {letter} in {text}", str(text.count(letter))


def add(rng: np.random.Generator) -> PromptAndAnswer:
    """A sum below 100."""
    a, b = rng.integers(0, 50, 2)
    return f"add {a} and {b}", str(a + b)


def subtract(rng: np.random.Generator) -> PromptAndAnswer:
    """A difference that is not negative."""
    b, a = sorted(rng.integers(0, 50, 2))
    return f"subtract {b} from {a}", str(a - b)


def look_up(rng: np.random.Generator) -> PromptAndAnswer:
    """The digit of a letter in a table of three."""
    keys = rng.choice(list(ascii_lowercase), 3, replace=False)
    digits, asked = rng.integers(0, 10, 3), rng.integers(3)
    table = " ".join(f"{key}={digit}" for key, digit in zip(keys, digits, strict=True))
    return f"look up {keys[asked]} in {table}", str(digits[asked])


def compare(rng: np.random.Generator) -> PromptAndAnswer:
    """The larger of two numbers that differ."""
    a, b = rng.choice(100, 2, replace=False)
    return f"larger of {a} and {b}", str(max(a, b))


SKILLS: dict[str, Skill] = {
    "add": add,
    "compare": compare,
    "count": count,
    "first": on_word("first letter of", lambda text: text[0]),
    "last": on_word("last letter of", lambda text: text[-1]),
    "length": on_word("length of", lambda text: str(len(text)), 1, 7),
    "look-up": look_up,
    "repeat": on_word("repeat", str),
    "reverse": on_word("reverse", lambda text: text[::-1]),
    "sort": on_word("sort", lambda text: "".join(sorted(text))),
    "subtract": subtract,
    "upper": on_word("upper-case", str.upper),
}


def instructions(seed: int = 0, rows: int = ROWS) -> Instructions:
    """Return `rows` triples (prompt, skill, answer), the skills in equal parts and in turn; no prompt occurs twice.

    The first rows of a seed do not depend on `rows`. Raises BadInput where a skill has too few different prompts.
    """
    check(rows >= 1, "rows", rows, "at least 1")
    check(seed >= 0, "seed", seed, "non-negative")
    each = -(-rows // len(SKILLS))
    seeds = [np.random.default_rng([seed, i]) for i in range(len(SKILLS))]
    drawn = [_distinct(name, each, rng) for name, rng in zip(SKILLS, seeds, strict=True)]
    turns: Instructions = []
    for pairs in zip(*drawn, strict=True):
        turns += [(ask, name, said) for name, (ask, said) in zip(SKILLS, pairs, strict=True)]
    return turns[:rows]


def _distinct(name: str, wanted: int, rng: np.random.Generator) -> list[PromptAndAnswer]:
    """The first `wanted` pairs of a skill whose prompts differ."""
    answers: dict[str, str] = {}  # of each prompt
    misses = 0
    while len(answers) < wanted and misses < TRIES:
        prompt, answer = SKILLS[name](rng)
        misses = misses + 1 if prompt in answers else 0
        answers[prompt] = answer
    if len(answers) < wanted:
        few = f"has only about {len(answers)} different prompts, and {wanted} are asked for"
        raise BadInput(f"skill {name!r} {few}: take at most {len(answers) * len(SKILLS)} rows")
    return list(answers.items())
