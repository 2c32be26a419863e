"""Stochastic rounding to half precision: small steps survive on average, without a copy in float32.

A float32 number goes to one of its two neighbours in bfloat16 or float16, to the upper one with the
probability that makes the mean exact. Nearest rounding would lose every step below half a spacing.
"""

import numpy as np
import torch
from torch import Tensor

PIECE = 2**16  # columns that are rounded at once, at most: 8 bytes of scratch for each


def rounded(x: Tensor, dtype: torch.dtype, rng: np.random.Generator) -> Tensor:
    """Return x (N, D) float32 in `dtype`, bfloat16 or float16, rounded at random without bias.

    All rows meet the same random numbers, so that equal rows stay equal: clients that agree still do.
    What `dtype` can hold stays as it is. float16 below 6.1e-5 and float64 are rounded to nearest.
    """
    low = 2 ** round(23 + np.log2(torch.finfo(dtype).eps)) if x.dtype == torch.float32 else 1
    if low == 1:
        return x.to(dtype)
    out = torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)
    size = max(scratch(x.numel()) // 8, 1)
    for columns, places in zip(torch.split(x, size, 1), torch.split(out, size, 1), strict=True):
        noise = rng.integers(0, low, columns.shape[1], np.int32)
        added = torch.from_numpy(noise).to(x.device)
        for row, place in zip(columns, places, strict=True):
            bits = row.contiguous().view(torch.int32) + added  # of the magnitude: the sign is a bit
            place.copy_(bits.bitwise_and_(-low).view(torch.float32))
            place.masked_fill_(row.isnan(), torch.nan)  # noise could carry it over into a number
    return out


def scratch(count: int) -> int:
    """Return the bytes that rounding so many numbers holds beside what it returns: at most 2 for each."""
    return min(8 * PIECE, 2 * count)
