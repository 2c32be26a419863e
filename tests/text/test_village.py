"""The village: one kind of text a villager, the same from a seed, with an entropy that counting confirms."""

import re

import numpy as np
import pytest

from deca_lab.text import corpora, village

ROWS = 400


@pytest.fixture(scope="module")
def texts():
    return village.village(3, ROWS)


def test_the_villagers_write_in_turn_and_never_the_same_twice(texts):
    assert [who for _, who in texts[:8]] == list(village.FRAMES)
    assert len({text for text, _ in texts}) == len(texts) == 8 * ROWS
    assert village.village(3, 5) == texts[: 8 * 5]
    assert village.village(4, 5) != texts[: 8 * 5]


def test_each_text_fits_the_frame_of_its_villager_alone(texts):
    def fits(frame, text):
        parts = re.split(r"\{(\w+)\}", frame)
        slots = [f"(?:{'|'.join(village.WORDS[slot])})" for slot in parts[1::2]]
        pattern = "".join(
            a + b for a, b in zip(map(re.escape, parts[::2]), [*slots, ""], strict=True)
        )
        return re.fullmatch(pattern, text)

    for text, who in texts:
        assert [name for name, frame in village.FRAMES.items() if fits(frame, text)] == [who]


def test_the_entropy_is_that_of_every_choice_counted_by_hand(texts):
    rates = village.entropy_rates(texts)
    ours = [text for text, who in texts if who == "weather watcher"]
    nats = np.log(12) + 2 * np.log(8) + np.log(8)  # a town, two skies, a number
    assert rates["weather watcher"] == pytest.approx(nats * ROWS / sum(len(t) + 1 for t in ours))
    towns = [re.search(r"in (\w+):", text)[1] for text in ours]
    often = np.unique(towns, return_counts=True)[1] / ROWS
    assert len(often) == 12
    assert -(often * np.log(often)).sum() == pytest.approx(np.log(12), abs=0.06)


def test_the_corpus_knows_its_entropy():
    corpus = corpora.load("village", seed=1)
    rates = village.entropy_rates(village.village(1))
    assert corpus.label_names == tuple(sorted(village.FRAMES))
    assert dict(zip(corpus.label_names, corpus.entropy, strict=True)) == rates
