"""Knows how sure one may be: intervals and tests for shares and paired differences."""

from __future__ import annotations

from math import comb, sqrt

import numpy as np

Z95 = 1.959963984540054


def wilson_interval(successes: float, trials: int, z: float = Z95) -> tuple[float, float]:
    """Score interval of a share (Wilson 1927), bounds in [0, 1]; (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    scale = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    half = z * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(before: np.ndarray, after: np.ndarray, z: float = Z95) -> tuple[float, float, float]:
    """Mean of after - before over the same items, with its normal interval: (difference, low, high).

    Both are [N] arrays of 0/1 (or scores). With b items gained and c lost this is (b - c) / N with standard error
    sqrt(b + c - (b - c)^2 / N) / N.
    """
    before, after = np.asarray(before, float), np.asarray(after, float)
    if before.shape != after.shape or before.ndim != 1 or not len(before):
        raise ValueError(f"two equally long, non-empty vectors are needed, got {before.shape} and {after.shape}")
    delta = after - before
    mean = float(delta.mean())
    error = float(delta.std()) / sqrt(len(delta))
    return mean, mean - z * error, mean + z * error


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided McNemar mid-p: the exact p of b gained, c lost under Binomial(b + c, 1/2), less P[X = min(b, c)]."""
    trials, low = gained + lost, min(gained, lost)
    if trials == 0:
        return 1.0
    tail = sum(comb(trials, k) for k in range(low + 1)) / 2**trials
    return min(1.0, 2 * tail) - comb(trials, low) / 2**trials
