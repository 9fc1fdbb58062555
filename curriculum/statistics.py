"""Statistics: intervals and tests for shares and paired differences."""

from __future__ import annotations

from math import sqrt

import numpy as np
import numpy.typing as npt

from .arrays import Floats, Ints
from .identity import keyed, unit

Z95 = 1.959963984540054  # the 97.5 % point of the normal distribution, for two-sided 95 % intervals


def wilson_interval(successes: float, trials: float, z: float = Z95) -> tuple[float, float]:
    """Score interval of a share (Wilson 1927), bounds in [0, 1]; (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    scale = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    half = z * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(before: npt.ArrayLike, after: npt.ArrayLike, z: float = Z95) -> tuple[float, float, float]:
    """Mean of after - before over the same items, with its normal interval: (difference, low, high).

    Both are [N] of 0/1 (or scores). With b items gained and c lost this is (b - c) / N with standard error
    sqrt(b + c - (b - c)^2 / N) / N. Raises ValueError where the lengths differ or are 0.
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
    from scipy.stats import binom

    trials, low = gained + lost, min(gained, lost)
    if trials == 0:
        return 1.0
    return float(min(1.0, 2 * binom.cdf(low, trials, 0.5)) - binom.pmf(low, trials, 0.5))


def mcnemar_exact(gained: int, lost: int) -> float:
    """Two-sided exact McNemar p: min(1, 2 P[Bin(b + c, 1/2) <= min(b, c)]); 1 without discordant pairs."""
    from scipy.stats import binomtest

    return float(binomtest(min(gained, lost), gained + lost, 0.5).pvalue) if gained + lost else 1.0


def holm(p_values: list[float]) -> list[float]:
    """p-values, in the order given, adjusted for their number (Holm 1979): one false finding stays as unlikely.

    The smallest of m times m, the next times m - 1, and so on; none below one that was smaller before.
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, p[order] * np.arange(len(p), 0, -1)))
    return [float(value) for value in adjusted]


def cluster_error(values: Floats, cluster: Ints) -> float:
    """Standard error of the mean of [N] values, those of one cluster (e.g. one recording) being dependent.

    cluster: [N] equal numbers within a cluster. sqrt(sum over clusters of (sum of the cluster's deviations)^2) / N
    (Miller 2024): the usual error plus the products of different values of one cluster.
    """
    values = np.asarray(values, float)
    _, number = np.unique(cluster, return_inverse=True)
    sums = np.bincount(number, weights=values - values.mean())
    return float(np.sqrt((sums**2).sum()) / len(values))


def cluster_share(values: Floats, cluster: Ints) -> tuple[float, float, float]:
    """A mean of [N] values in [0, 1] with its 95 % interval (mean, low, high), those of one cluster being dependent.

    cluster: [N], as of `cluster_error`. It is Wilson's interval for as many independent values as have that standard
    error, at most N; with no spread at all, as many as there are clusters. (nan, 0, 1) without values.
    """
    values = np.asarray(values, float)
    if not len(values):
        return float("nan"), 0.0, 1.0
    mean, error = float(values.mean()), cluster_error(values, cluster)
    independent = float(len(np.unique(cluster)))
    if error > 0:
        independent = min(float(len(values)), mean * (1 - mean) / error**2)
    return (mean, *wilson_interval(mean * independent, independent))


def cluster_mean(values: Floats, cluster: Ints) -> tuple[float, float, float]:
    """A mean of [N] values, such as differences, with its normal 95 % interval (mean, low, high).

    cluster: [N], as of `cluster_error`. NaN without values.
    """
    values = np.asarray(values, float)
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    mean, error = float(values.mean()), cluster_error(values, cluster)
    return mean, mean - Z95 * error, mean + Z95 * error


def cluster_bootstrap(
    values: Floats, cluster: Ints, seed: int = 0, draws: int = 10_000, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean of [N] values with its percentile interval (mean, low, high), resampling whole clusters, not values.

    cluster: [N] equal numbers within a cluster, e.g. a recording. The draws are hashed from the seed: the same numbers
    in every process and numpy version. Raises ValueError without values.
    """
    values = np.asarray(values, float)
    if not len(values):
        raise ValueError("there is nothing to resample")
    _, number = np.unique(cluster, return_inverse=True)
    sums = np.asarray(np.bincount(number, weights=values), float)
    sizes = np.bincount(number).astype(float)
    kinds, counts = np.unique(np.stack([sums, sizes], axis=1), axis=0, return_counts=True)
    # A binomial quantile costs as much as about 200 clusters drawn one by one.
    few_kinds = 200 * len(kinds) < len(sums)
    means = _by_kind(kinds, counts, seed, draws) if few_kinds else _one_by_one(sums, sizes, seed, draws)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(values.mean()), float(low), float(high)


def _one_by_one(sums: Floats, sizes: Floats, seed: int, draws: int) -> Floats:
    """[draws] means over as many clusters as there are, each drawn from all of them; sums and sizes are theirs."""
    clusters, means = len(sums), np.empty(draws)
    step = max(1, 4_000_000 // clusters)
    for start in range(0, draws, step):
        places = np.arange(start * clusters, min(start + step, draws) * clusters, dtype=np.uint64)
        chosen = (unit(keyed(places, seed, "bootstrap")) * clusters).astype(np.int64).reshape(-1, clusters)
        means[start : start + len(chosen)] = sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1)
    return means


def _by_kind(kinds: Floats, counts: Ints, seed: int, draws: int) -> Floats:
    """[draws] means where clusters have few different (sum, size): how often each is drawn is multinomial.

    kinds: [K, 2] sums and sizes. counts: [K] clusters that have them. One binomial after another.
    """
    from scipy.stats import binom

    left: Ints | Floats = np.full(draws, counts.sum())
    clusters = counts.sum()
    total = np.zeros((draws, 2))
    for number, (kind, count) in enumerate(zip(kinds, counts, strict=True)):
        uniform = unit(keyed(np.arange(draws, dtype=np.uint64), seed, "bootstrap", number))
        drawn = left if count == clusters else np.maximum(binom.ppf(uniform, left, count / clusters), 0)
        total += drawn[:, None] * kind
        left, clusters = left - drawn, clusters - count
    return total[:, 0] / total[:, 1]
