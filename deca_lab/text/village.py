"""Eight villagers who each write one kind of text, generated from a seed: frames of words with slots that vary.

What a frame fixes can be learnt, what fills its slots cannot be foreseen: so the entropy of each kind is known exactly.
"""

import re

import numpy as np

LabelledTexts = list[tuple[str, str]]  # (text, villager)
ROWS = 250  # of each villager
CHOICES = {  # what may fill a slot, all equally likely
    "name": "Anna Boris Clara David Elena Felix Greta Henry Irene Jacob Karla Louis",
    "town": "Oslo Rome Lyon Bern Kyoto Lima Porto Quito Riga Sofia Turin Vienna",
    "animal": "fox hen owl bear crow goat hare lynx mole pike swan wolf",
    "quality": "old red kind tall quiet brave clever little lonely merry proud sleepy",
    "thing": "bell boat chair clock drum ladder lamp mirror rope saddle table wheel",
    "food": "apples beans carrots cherries eggs leeks nuts onions pears plums radishes turnips",
    "sky": "clear cloudy dry foggy rainy snowy stormy sunny",
    "month": "March April May June July August September October",
    "number": "2 3 4 5 6 7 8 9",
    "minute": " ".join(map(str, range(10, 60))),
}
WORDS = {slot: words.split() for slot, words in CHOICES.items()}
FRAMES = {
    "weather watcher": "Weather in {town}: {sky} in the morning, {sky} in the evening, {number} degrees.",
    "cook": "Recipe: take {number} {food} and {number} {food}, stir them well, and bake for {minute} minutes.",
    "station master": "The train to {town} leaves platform {number} at {number}:{minute} and stops in {town}.",
    "storyteller": "Once upon a time a {quality} {animal} met a {quality} {animal}, and they were friends.",
    "reporter": "{town} beat {town} by {number} to 1; {name} scored the winner in minute {minute}.",
    "trader": "For sale: one {quality} {thing}, hardly used, for {minute} coins. Ask for {name} in {town}.",
    "postman": "Dear {name}, thank you for the {thing}. We had a {sky} day in {town}. Yours, {name}",
    "gardener": "In {month} sow the {food} in rows, {number} feet apart, and water them for {minute} days.",
}
SLOT = re.compile(r"\{(\w+)\}")


def village(seed: int = 0, rows: int = ROWS) -> LabelledTexts:
    """Return `rows` texts of each villager, the villagers in turn; no text occurs twice."""
    written = [
        _distinct(frame, rows, np.random.default_rng([seed, i]))
        for i, frame in enumerate(FRAMES.values())
    ]
    turns = zip(*written, strict=True)
    return [pair for texts in turns for pair in zip(texts, FRAMES, strict=True)]


def _distinct(frame: str, rows: int, rng: np.random.Generator) -> list[str]:
    texts: dict[str, None] = {}
    while len(texts) < rows:
        texts[SLOT.sub(lambda slot: str(rng.choice(WORDS[slot[1]])), frame)] = None
    return list(texts)


def entropy_rates(texts: LabelledTexts) -> dict[str, float]:
    """Return {villager: nats a byte} of these texts, with the byte that ends each of them.

    A text is one of equally many for all of its kind, so its cost is the logarithm of that count.
    """
    nats = {
        who: sum(np.log(len(WORDS[slot])) for slot in SLOT.findall(frame))
        for who, frame in FRAMES.items()
    }
    lengths = {who: [len(text) + 1 for text, whose in texts if whose == who] for who in FRAMES}
    return {who: float(nats[who] / np.mean(lengths[who])) for who in FRAMES}
