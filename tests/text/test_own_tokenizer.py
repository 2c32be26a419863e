"""Tokenizers of one's own: the ids are theirs, and what is no tokenizer is one line."""

import numpy as np
import pytest
import tokenizers
from transformers import PreTrainedTokenizerFast

from deca_lab.errors import BadInput
from deca_lab.text import corpora, shards
from deca_lab.text.prompts import verbaliser
from deca_lab.text.tokens import end_of_text, fingerprint_of, tokenize, tokenizer, tokenizer_of

TEXTS = ["a b", "", "b c a é"]


class Letters:
    """The letters a, b, c; 0 ends a row, 1 is whatever else."""

    eos_token_id, unk_token_id = 0, 1

    def __len__(self):
        return 5

    def encode(self, text):
        return [2 + "abc".index(letter) if letter in "abc" else 1 for letter in text]


def callable_one():
    class Fresh:
        eos_token_id, unk_token_id = 0, 1

        def __len__(self):
            return 5

        def __call__(self, text):
            return np.array(Letters().encode(text))

    return Fresh()


def fast(words=("a", "b", "c"), eos="<eos>"):
    table = {word: i for i, word in enumerate(("<eos>", "<unk>", *words))}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(table, unk_token="<unk>"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=model, eos_token=eos, unk_token="<unk>")


@pytest.mark.parametrize("make", [Letters, callable_one])
def test_ids_and_end_are_its_own(make):
    given = make()
    which = tokenizer_of(given)
    rows = tokenize(TEXTS, which)
    assert [row.tolist() for row in rows] == [Letters().encode(text) for text in TEXTS]
    assert all(row.dtype == np.int64 for row in rows)
    assert (len(which), end_of_text(which)) == (5, 0)
    assert verbaliser(["yes", "no"], which, {"yes": "a", "no": "b"}) == {"yes": (2,), "no": (3,)}
    with pytest.raises(BadInput, match="tokens that the tokenizer knows"):
        verbaliser(["yes"], which, {"yes": "é"})  # the unknown token stands for nothing


def test_shards_of_such_tokens():
    corpus = corpora.from_rows("x", [("abc" * i, "all") for i in range(1, 60)])
    parts = shards.split(corpus.labels, 2, how="iid")
    data = shards.build(corpus, parts, tokenizer_of(Letters()), 4)
    assert data.vocabulary == 5
    wanted = [
        token for row in parts.train[0] for token in (*Letters().encode(corpus.texts[row]), 0)
    ]
    assert data.train[0].tolist() == wanted


def test_those_of_transformers_stay_what_they_are():
    given = fast()
    assert tokenizer_of(given) is given
    in_bytes = tokenizer("bytes")
    assert tokenizer_of(in_bytes) is in_bytes
    with pytest.raises(BadInput, match="no end-of-text token"):
        tokenizer_of(fast(eos=None))


def changed(**attributes):
    return type("Letters", (Letters,), attributes)()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: None,
            "tokenizer = None cannot be used: it must be one of transformers, or an object",
        ),
        (lambda: "bytes", "tokenizer = 'bytes' cannot"),
        (lambda: b"raw", "tokenizer = b'raw' cannot"),
        (lambda: 3, "tokenizer = 3 cannot"),
        (lambda: Letters, "tokenizer = <class"),
        (lambda: len, "tokenizer = <built-in function len>"),
        (lambda: {"a": 1}, "tokenizer = {'a': 1} cannot"),
        (lambda: changed(__len__=None, encode=3), "tokenizer = <"),
        (
            lambda: changed(eos_token_id=None),
            "eos_token_id of tokenizer Letters = None .* an id below 5",
        ),
        (lambda: changed(eos_token_id=5), "eos_token_id of tokenizer Letters = 5 cannot"),
        (lambda: changed(eos_token_id="</s>"), "eos_token_id of tokenizer Letters = '</s>'"),
        (
            lambda: changed(encode=lambda self, text: 1 / 0),
            r"tokenizer Letters cannot encode .*: ZeroDivisionError: division by zero",
        ),
        (
            lambda: changed(encode=lambda self, text: None),
            "TypeError: 'NoneType' object is not iterable",
        ),
        (
            lambda: changed(encode=lambda self, text: ["a"]),
            r"what tokenizer Letters encodes to = \['a'\] .* a list of whole numbers from 0 to 4",
        ),
        (lambda: changed(encode=lambda self, text: [7, -1]), r"encodes to = \[7, -1\]"),
        (lambda: changed(encode=lambda self, text: [0.5]), r"encodes to = \[0\.5\]"),
        (
            lambda: changed(encode=lambda self, text: {"input_ids": [1]}),
            r"encodes to = \['input_ids'\]",
        ),
        (lambda: fast().backend_tokenizer, "tokenizer = .*Tokenizer.* one of transformers"),
    ],
)
def test_what_is_no_tokenizer_is_one_line(make, words):
    with pytest.raises(BadInput, match=words) as caught:
        tokenizer_of(make())
    assert "\n" not in str(caught.value)


def test_ids_are_looked_at_in_every_text():
    which = tokenizer_of(changed(encode=lambda self, text: [9] if text == "b" else [1]))
    assert tokenize(["a"], which)[0].tolist() == [1]
    with pytest.raises(BadInput, match=r"encodes to = \[9\]"):
        tokenize(["a", "b"], which)


def test_fingerprints_tell_tokenizers_apart():
    given = [
        fast(),
        fast(("a", "b")),
        fast(("b", "a", "c")),
        tokenizer("bytes"),
        tokenizer_of(Letters()),
        tokenizer_of(changed(eos_token_id=1)),
        tokenizer_of(changed(__len__=lambda self: 6)),
        tokenizer_of(changed(encode=lambda self, text: [1] * len(text))),
    ]
    prints = [fingerprint_of(which) for which in given]
    assert len(set(prints)) == len(prints)
    assert prints == [fingerprint_of(which) for which in given]
    assert all(len(digest) == 64 for digest in prints)
    marked = [tokenizer("bytes"), tokenizer("bytes")]
    marked[0].add_tokens(["<x>"])
    marked[1].add_tokens(["<y>"])
    assert fingerprint_of(marked[0]) != fingerprint_of(marked[1])
    used = fast()
    used(["a b c"], truncation=True, max_length=2)
    assert fingerprint_of(used) == prints[0]  # what a call left behind is no rule
    lower = fast()
    lower.backend_tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    assert fingerprint_of(lower) != prints[0]
