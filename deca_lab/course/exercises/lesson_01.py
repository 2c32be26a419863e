"""Exercises of lesson 1: how far the clients' labels are apart, and perplexity."""

import numpy as np

from deca_lab.course.exercises.exercise import Exercise, Mistake
from deca_lab.lab import metrics
from deca_lab.mixing.graphs import Array
from deca_lab.text import heterogeneity

# Rows of different length, clients x labels.
SKEWED = np.array([[40, 5, 5], [3, 14, 3], [0, 10, 90], [6, 6, 6]])
APART = np.array([[30, 0, 0], [0, 50, 10]])
FIVE = np.array([0.2, 3.1, 1.4, 0.9, 2.4])
SURE = np.array([0.01, 0.05, 4.0])


def label_divergence(counts: Array) -> float:
    """Return the mean total variation of the clients' label frequencies from their mean, of counts (N, K)."""
    return heterogeneity.total_variation(counts)


def perplexity(losses: Array) -> float:
    """Return the perplexity of a text from the losses (T,) of its tokens in nats."""
    return metrics.perplexity(float(losses.mean()))


def _p(counts: Array) -> Array:
    frequencies: Array = counts / counts.sum(1, keepdims=True)
    return frequencies


def _half(gaps: Array) -> Array:
    halves: Array = np.abs(gaps).sum(1) / 2  # (N,)
    return halves


LABEL_DIVERGENCE = Exercise(
    name="label_divergence",
    about="mean total variation",
    solution=label_divergence,
    cases={
        "four clients and three labels": (SKEWED,),
        "two clients of whom one has a single label": (APART,),
    },
    mistakes=(
        Mistake(
            lambda c: 2 * _half(_p(c) - _p(c).mean(0)).mean(),
            "twice too large: total variation is half the sum of absolute "
            "differences, since what one label gains another loses.",
        ),
        Mistake(
            lambda c: _half(_p(c) - _p(c).mean(0)).sum(),
            "you summed over the clients; take their mean.",
        ),
        Mistake(
            lambda c: _half(_p(c) - _p(c).mean(0)).max(),
            "you took the client that is farthest; take the mean over all.",
        ),
        Mistake(
            lambda c: _half(_p(c) - c.sum(0) / c.sum()).mean(),
            "you compared with the frequencies of all rows pooled, in "
            "which a client with many rows counts more. Average the clients' frequencies: each client counts the same.",
        ),
        Mistake(
            lambda c: _half(_p(c) - 1 / c.shape[1]).mean(),
            "you compared with equal frequencies of all labels. Compare with "
            "the clients' own mean: labels may be rare for everybody.",
        ),
        Mistake(
            lambda c: _half(c - c.mean(0)).mean(),
            "you compared counts. Make frequencies of each row first, so that "
            "large and small shards compare.",
        ),
        Mistake(
            lambda c: _half(c / c.sum() - (c / c.sum()).mean(0)).mean(),
            "you divided by the rows of all clients. Each client's own frequencies must sum to one.",
        ),
        Mistake(
            lambda c: np.linalg.norm(_p(c) - _p(c).mean(0), axis=1).mean(),
            "you took Euclidean lengths; total variation sums absolute differences.",
        ),
        Mistake(
            lambda c: (_p(c) - _p(c).mean(0)).sum(1).mean() / 2,
            "differences of frequencies cancel: take their absolute values before you sum.",
        ),
    ),
    hints=(
        "Three steps: counts to frequencies (each row sums to one), their mean over clients, half the sum of absolute "
        "differences from it.",
        "p = counts / counts.sum(1, keepdims=True) makes frequencies; p.mean(0) is the mean client.",
        "Average np.abs(p - p.mean(0)).sum(1) / 2 over the clients.",
    ),
)
PERPLEXITY = Exercise(
    name="perplexity",
    about="perplexity",
    solution=perplexity,
    cases={"five tokens": (FIVE,), "three tokens, of which one was a surprise": (SURE,)},
    mistakes=(
        Mistake(
            lambda losses: np.exp(losses).mean(),
            "you averaged the tokens' perplexities. Average the losses first: one rare "
            "token would otherwise decide everything.",
        ),
        Mistake(
            lambda losses: 2 ** losses.mean(),
            "the losses are in nats, so the base is e; 2 would be right for bits.",
        ),
        Mistake(
            lambda losses: np.exp(losses.sum()),
            "you summed the losses: this is one over the probability of the whole text, "
            "and it grows with its length. Take the mean.",
        ),
        Mistake(
            lambda losses: np.exp(-losses.mean()),
            "the sign is turned: this is the typical probability of a token. "
            "Perplexity is one over it.",
        ),
        Mistake(
            lambda losses: losses.mean(),
            "this is the mean loss itself; perplexity is its exponential.",
        ),
        Mistake(
            lambda losses: np.exp(np.median(losses)), "you took the median loss; take the mean."
        ),
    ),
    hints=(
        "The loss of a token is -log p. What mean of the p does the mean loss stand for?",
        "Perplexity is the exponential of the mean loss: exp of a mean, not the mean of exps.",
    ),
)
EXERCISES = (LABEL_DIVERGENCE, PERPLEXITY)
