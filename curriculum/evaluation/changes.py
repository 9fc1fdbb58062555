"""What the audio did for each question, and how that changed from one model to the next.

Right with the audio and right in silence make four states: `heard` (with the audio alone), `both`, `hurts` (in silence
alone) and `neither`. Only `heard` shows that the audio mattered; `both` may be knowledge, the text, or luck.
"""

from __future__ import annotations

from math import nan, sqrt

import numpy as np

from ..arrays import Floats, Ints
from ..statistics import Z95, cluster_error, wilson_interval

STATES = ("heard", "both", "hurts", "neither")


def states(audio: Floats, silence: Floats) -> Ints:
    """[N] places in STATES of shares of right answers [N] each; more than half is right; -1 where one is NaN."""
    a, s = audio > 0.5, silence > 0.5
    found = np.select([a & ~s, a & s, ~a & s], [0, 1, 2], 3)
    return np.asarray(np.where(np.isnan(audio) | np.isnan(silence), -1, found), np.int64)


def moves(before: Ints, after: Ints) -> Ints:
    """[4, 4] counts of questions by their state [N] before (rows) and after (columns), where both are known."""
    known = (before >= 0) & (after >= 0)
    return np.asarray(np.bincount(4 * before[known] + after[known], minlength=16).reshape(4, 4), np.int64)


def mean_interval(values: Floats, cluster: Ints) -> list[float]:
    """Mean of [N] values with its 95 % interval, those of one cluster [N] (recording) being dependent; NaN of none."""
    if not len(values):
        return [nan, nan, nan]
    mean, error = float(values.mean()), cluster_error(values, cluster)
    return [mean, mean - Z95 * error, mean + Z95 * error]


def share_interval(values: Floats, cluster: Ints) -> list[float]:
    """Mean of [N] values in [0, 1] with Wilson's 95 % interval, of as many trials as the clusters [N] are worth.

    Equal to Wilson's own where every question has a recording of its own.
    """
    if not len(values):
        return [nan, nan, nan]
    mean, count = float(values.mean()), float(len(values))
    _, sizes = np.unique(cluster, return_counts=True)
    alone, error = sqrt(mean * (1 - mean) / count), cluster_error(values, cluster)
    trials = count * (alone / error) ** 2 if alone > 0 and error > 0 else float(len(sizes))
    trials = min(count, max(1.0, trials)) if sizes.max() > 1 else count
    low, high = wilson_interval(mean * trials, trials)
    return [mean, low, high]


def bin_edges(values: Floats, bins: int = 8) -> Floats:
    """[bins + 1] round ends of equal bins over the values [N], [0, 1] or [-1, 1] where they lie within."""
    known = values[np.isfinite(values)]
    low = 0.0 if known.min(initial=0.0) >= 0 else -1.0 if known.min() >= -1 else float(known.min())
    high = 1.0 if low >= -1 and known.max(initial=1.0) <= 1 else float(known.max())
    return np.linspace(low, high, bins + 1)


def in_bins(values: Floats, edges: Floats) -> Ints:
    """[N] places of bins between the edges; the last one holds its upper end; -1 for NaN and what lies outside."""
    place = np.minimum(np.searchsorted(edges, values, side="right") - 1, len(edges) - 2)
    outside = ~np.isfinite(values) | (values < edges[0]) | (values > edges[-1])
    return np.asarray(np.where(outside, -1, place), np.int64)
