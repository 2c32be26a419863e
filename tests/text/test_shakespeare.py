"""The speeches: who says the lines that everybody knows, and that each client can be one speaker."""

from collections import Counter

from deca_lab.text import corpora, shakespeare
from deca_lab.text.shards import split


def test_the_right_people_say_the_lines_that_everybody_knows():
    said = {who: "\n".join(t for t, w in SPEECHES if w == who) for who in Counter(WHO)}
    assert len(said) == 8
    for who, line in (
        ("ROMEO", "But, soft! what light through yonder window breaks?"),
        ("KING RICHARD III", "A horse! a horse! my kingdom for a horse!"),
        ("GLOUCESTER", "Now is the winter of our discontent"),
        ("PETRUCHIO", "kiss me, Kate"),
    ):
        assert line in said[who]
        assert not any(line in text for other, text in said.items() if other != who)


def test_no_speech_is_empty_or_there_twice_and_everyone_has_many():
    texts = [text for text, _ in SPEECHES]
    assert len(set(texts)) == len(texts)
    assert all(text.strip() for text in texts)
    assert min(Counter(WHO).values()) > 100


def test_eight_clients_are_eight_speakers():
    corpus = corpora.load("shakespeare")
    parts = split(corpus.labels, 8, how="by-label", test_share=0.1, validation_share=0.1)
    owners = [set(corpus.labels[rows].tolist()) for rows in parts.train]
    assert sorted(map(len, owners)) == [1] * 8
    assert set.union(*owners) == set(range(8))


SPEECHES = shakespeare.speeches()
WHO = [who for _, who in SPEECHES]
