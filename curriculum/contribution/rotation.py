"""Rotations of the options, because models prefer places: all cyclic orders, and PriDe's prior over places.

PriDe after Zheng et al. (ICLR 2024): from a small part of the questions, asked in all rotations, the prior over places
is estimated; the others are asked once and divided by it. Estimate it separately with audio and in silence: the prior
rules where there is no evidence.
"""

from __future__ import annotations

import numpy as np

from ..arrays import Floats, Ints


def rotations(num_choices: int, how_many: int | None = None) -> list[list[int]]:
    """Orders of the K options: rotation r shows option (p + r) mod K in place p; the first is the order of the file.

    how_many: so many rotations, evenly spread over the cycle; all K by default.
    """
    wanted = num_choices if how_many is None else min(how_many, num_choices)
    shifts = [r * num_choices // wanted for r in range(wanted)]
    return [[(place + shift) % num_choices for place in range(num_choices)] for shift in shifts]


def by_content(scores: Floats, order: Ints) -> Floats:
    """[N, K] scores by option, from scores [N, K] by place; order: [N, K] option in each place, -1 beyond."""
    out = np.full(scores.shape, np.nan)
    row, place = np.nonzero(order >= 0)
    out[row, order[row, place]] = scores[row, place]
    return out


def rotation_mean(probabilities: Floats) -> Floats:
    """[N, K] mean over [R, N, K] probabilities by option: the mass on an option's content wherever it stands."""
    return _mean(np.asarray(probabilities, float))


def place_prior(log_probabilities: Floats) -> Floats:
    """[K] PriDe's prior: softmax of the mean log-prob by place, over [R, N, K] with every content in every place.

    NaN beyond a question's options and orders. Where the numbers of options differ, the places that every question has
    hold the larger log-probs of those with few; the questions' own levels are taken out by least squares.
    """
    mean = _mean(np.asarray(log_probabilities, float))
    there = ~np.isnan(mean)
    filled, places = np.where(there, mean, 0.0), np.maximum(there.sum(axis=1, keepdims=True), 1)
    # Normal equations of log-prob = level of the question + effect of the place, without the levels.
    left = np.diag(there.sum(axis=0)) - (there / places).T @ there
    right = (filled - there * filled.sum(axis=1, keepdims=True) / places).sum(axis=0)
    effect = np.where(there.any(axis=0), np.linalg.lstsq(left, right, rcond=None)[0], np.nan)
    shifted = np.exp(effect - np.nanmax(effect))
    prior: Floats = shifted / np.nansum(shifted)
    return prior


def debiased(probabilities: Floats, prior: Floats) -> Floats:
    """[N, K] probabilities by place, divided by the prior [K] of the place and normalised again."""
    scaled = np.asarray(probabilities, float) / prior
    normalised: Floats = scaled / np.nansum(scaled, axis=1, keepdims=True)
    return normalised


def _mean(values: Floats) -> Floats:
    """[N, K] mean over the first axis of [R, N, K], without NaN; NaN where there is nothing else."""
    there = ~np.isnan(values)
    count = there.sum(axis=0)
    total = np.where(there, values, 0.0).sum(axis=0)
    mean: Floats = np.full(count.shape, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean
