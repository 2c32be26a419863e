"""How non-IID a split is: label and token divergences of the shards, and how far the clients' gradients disagree."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deca_lab.errors import check
from deca_lab.text.shards import Shards

WORDS = (
    (0.02, "IID in effect"),
    (0.15, "mildly non-IID"),
    (0.5, "clearly non-IID"),
    (np.inf, "strongly non-IID"),
)


class Heterogeneity(NamedTuple):
    """Divergences of the clients' distributions from their mean, in which each client counts the same."""

    label_tv: float  # mean total variation, 0 ... 1 - 1/N
    label_js: float  # generalised Jensen-Shannon divergence, nats
    label_js_share: float  # of its largest value, 0 ... 1
    token_js: float  # nats, between the clients' token frequencies
    token_js_share: float
    zeta2: float | None = None  # gradient dissimilarity at the start
    zeta2_share: float | None = None  # of ||mean gradient||^2

    def words(self) -> str:
        """One plain sentence."""
        verdict = next(word for limit, word in WORDS if self.label_js_share < limit)
        change = f"{self.label_tv:.0%} of a client's rows would have to change label"
        shares = f"the labels show {self.label_js_share:.0%}, the tokens {self.token_js_share:.1%}"
        sentence = (
            f"{verdict}: on average {change} to give the mean mix; "
            f"of the largest possible divergence, {shares}"
        )
        return f"{sentence}; {self.gradient_words()}" if self.zeta2 is not None else sentence

    def gradient_words(self) -> str:
        """Return what the gradients alone say."""
        if self.zeta2 is None or self.zeta2_share is None:
            return "gradients were not compared"
        if np.isinf(self.zeta2_share):
            return f"gradients spread by zeta^2 = {self.zeta2:.3g} about a mean of 0"
        return f"gradients spread by zeta^2 = {self.zeta2:.3g}, {self.zeta2_share:.2g} times the mean's square"


class Spread(NamedTuple):
    """Some clients' gradients: how many they are, their mean g (D,), and the sum of their squared distances to it."""

    clients: int
    mean: Tensor
    squares: float

    @property
    def zeta2(self) -> float:
        """zeta^2 = (1/N) sum_i ||g_i - gbar||^2."""
        return self.squares / self.clients

    @property
    def share(self) -> float:
        """zeta^2 / ||gbar||^2; infinite where the mean gradient vanishes and the clients' do not."""
        of_mean = square(self.mean)
        return self.zeta2 / of_mean if of_mean > 0 else (float("inf") if self.zeta2 > 0 else 0.0)

    def over(self, total: Callable[[Tensor], Tensor]) -> "Spread":
        """Return the spread of the clients of all processes, by the `total` of a tensor over them."""
        own = self.mean.new_tensor([self.clients, 0.0], dtype=torch.float64)
        clients = round(float(total(own.clone())[0]))
        mean = total(self.mean * (self.clients / clients))
        moved = square(self.mean - mean)
        own[1] = self.squares + self.clients * moved
        return Spread(clients, mean, float(total(own)[1]))


def measure(shards: Shards, gradients: Spread | None = None) -> Heterogeneity:
    """Measure training shards; with the spread of the clients' `gradients` at the start, zeta^2 too."""
    counts = [torch.bincount(stream, minlength=shards.vocabulary) for stream in shards.train]
    tokens = np.stack([count.cpu().numpy() for count in counts])
    label_js, token_js = jensen_shannon(shards.label_counts), jensen_shannon(tokens)
    return Heterogeneity(
        label_tv=total_variation(shards.label_counts),
        label_js=label_js,
        label_js_share=share_of_most(label_js, shards.label_counts.shape),
        token_js=token_js,
        token_js_share=share_of_most(token_js, tokens.shape),
        zeta2=gradients and gradients.zeta2,
        zeta2_share=gradients and gradients.share,
    )


def distributions(counts: np.ndarray) -> np.ndarray:
    """Rows of counts (N, K) to rows of frequencies; each must count something."""
    counts = np.asarray(counts, dtype=np.float64)
    fits = counts.ndim == 2 and bool((counts >= 0).all() and (counts.sum(axis=-1) > 0).all())
    wanted = "clients x kinds, non-negative, with a positive sum in each row"
    check(fits, "counts", counts.shape, wanted)
    frequencies: np.ndarray = counts / counts.sum(axis=1, keepdims=True)
    return frequencies


def total_variation(counts: np.ndarray) -> float:
    """(1/N) sum_i (1/2) ||p_i - pbar||_1 of the clients' frequencies p_i from counts (N, K)."""
    p = distributions(counts)
    return float(0.5 * np.abs(p - p.mean(axis=0)).sum(axis=1).mean())


def jensen_shannon(counts: np.ndarray) -> float:
    """H(pbar) - (1/N) sum_i H(p_i) in nats, equal weights (Lin 1991, IEEE Trans. Inf. Theory 37, eq. 5.1)."""
    p = distributions(counts)
    return max(0.0, float(_entropy(p.mean(axis=0)) - _entropy(p).mean()))


def _entropy(p: np.ndarray) -> np.ndarray:
    nats: np.ndarray = torch.special.entr(torch.from_numpy(p)).sum(-1).numpy()
    return nats


def share_of_most(divergence: float, shape: tuple[int, ...]) -> float:
    """Return a generalised Jensen-Shannon divergence as a share of the largest that counts of this shape (N, K) can have."""
    most = np.log(min(shape))  # of N clients over K kinds; reached by disjoint supports
    return float(divergence / most) if most > 0 else 0.0


def spread(parts: Iterable[Tensor]) -> Spread:
    """Return the spread of gradients (n, D) that come a few clients at a time (Welford 1962).

    One row after another: a row may be a whole model's, and little else is held than those that came, and their mean.
    """
    count, mean, squares = 0, torch.zeros(0), 0.0
    for rows in parts:
        for row in rows:
            apart = (row.float() if row.element_size() < 4 else row).clone()
            mean = mean if count else torch.zeros_like(apart)
            apart, count = apart.sub_(mean), count + 1
            squares += square(apart) * (count - 1) / count
            mean.add_(apart, alpha=1 / count)
        del rows, row, apart  # before the next are made
    return Spread(count, mean, squares)


def square(row: Tensor) -> float:
    """Return || row ||^2, summed in float64 over at most 1,024 parts, without a float64 copy of the row."""
    most = max(1 << 20, len(row) >> 10)  # a forecast of a model of any size ends
    return float(sum(part.double().square().sum() for part in torch.split(row, most)))
