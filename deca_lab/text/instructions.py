"""Instructions with one right answer each, generated from a seed: twelve small skills on short ASCII text.

A skill is a label, so that clients can hold different skills, and an answer is scored by exact match.
"""

from collections.abc import Callable
from string import ascii_lowercase

import numpy as np

from deca_lab.errors import BadInput, check

PromptAndAnswer = tuple[str, str]  # prompt, answer
Instructions = list[tuple[str, str, str]]  # (prompt, skill, answer)
ROWS = 6000
TRIES = 200  # draws in a row that find no new prompt before a skill counts as exhausted


def word(
    rng: np.random.Generator, alphabet: str = ascii_lowercase, least: int = 3, most: int = 5
) -> str:
    """`least` to `most` random letters of `alphabet`."""
    return "".join(rng.choice(list(alphabet), rng.integers(least, most + 1)))


def reverse(rng: np.random.Generator) -> PromptAndAnswer:
    """The letters backwards."""
    text = word(rng)
    return f"reverse {text}", text[::-1]


def sort(rng: np.random.Generator) -> PromptAndAnswer:
    """The letters in alphabetical order."""
    text = word(rng)
    return f"sort {text}", "".join(sorted(text))


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
    keys, digits, asked = (
        rng.choice(list(ascii_lowercase), 3, replace=False),
        rng.integers(0, 10, 3),
        rng.integers(3),
    )
    table = " ".join(f"{key}={digit}" for key, digit in zip(keys, digits, strict=True))
    return f"look up {keys[asked]} in {table}", str(digits[asked])


def upper(rng: np.random.Generator) -> PromptAndAnswer:
    """The letters in upper case."""
    text = word(rng)
    return f"upper-case {text}", text.upper()


def first(rng: np.random.Generator) -> PromptAndAnswer:
    """The first letter."""
    text = word(rng)
    return f"first letter of {text}", text[0]


def last(rng: np.random.Generator) -> PromptAndAnswer:
    """The last letter."""
    text = word(rng)
    return f"last letter of {text}", text[-1]


def compare(rng: np.random.Generator) -> PromptAndAnswer:
    """The larger of two numbers that differ."""
    a, b = rng.choice(100, 2, replace=False)
    return f"larger of {a} and {b}", str(max(a, b))


def length(rng: np.random.Generator) -> PromptAndAnswer:
    """The number of letters."""
    text = word(rng, least=1, most=7)
    return f"length of {text}", str(len(text))


def repeat(rng: np.random.Generator) -> PromptAndAnswer:
    """The same letters once more."""
    text = word(rng)
    return f"repeat {text}", text


SKILLS: dict[str, Callable[[np.random.Generator], PromptAndAnswer]] = {
    "add": add,
    "compare": compare,
    "count": count,
    "first": first,
    "last": last,
    "length": length,
    "look-up": look_up,
    "repeat": repeat,
    "reverse": reverse,
    "sort": sort,
    "subtract": subtract,
    "upper": upper,
}


def instructions(seed: int = 0, rows: int = ROWS) -> Instructions:
    """Return `rows` triples (prompt, skill, answer), the skills in equal parts and in turn; no prompt occurs twice.

    The first rows of a seed do not depend on `rows`. Raises BadInput where a skill has too few different prompts.
    """
    check(rows >= 1, "rows", rows, "at least 1")
    check(seed >= 0, "seed", seed, "non-negative")
    each = -(-rows // len(SKILLS))
    drawn = [
        _distinct(name, each, np.random.default_rng([seed, i])) for i, name in enumerate(SKILLS)
    ]
    turns = [
        (prompt, name, answer)
        for pairs in zip(*drawn, strict=True)
        for name, (prompt, answer) in zip(SKILLS, pairs, strict=True)
    ]
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
        raise BadInput(
            f"skill {name!r} has only about {len(answers)} different prompts, and {wanted} are asked for: "
            f"take at most {len(answers) * len(SKILLS)} rows"
        )
    return list(answers.items())
