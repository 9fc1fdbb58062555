"""What the audio did for a question, and how it changed: states, moves, intervals by recording, bins."""

from __future__ import annotations

import numpy as np
import pytest

from earwitness.curriculum.evaluation.changes import (
    bin_edges,
    in_bins,
    mean_interval,
    moves,
    share_interval,
    states,
)
from earwitness.curriculum.statistics import wilson_interval

NAN = float("nan")


def test_four_states_and_who_moved():
    """heard, both, hurts, neither; half of the orders right is not right; what was not asked has no state."""
    before = states(np.array([1, 1, 0, 0, NAN, 0.5]), np.array([0, 1, 1, 0, 0, 0.75]))
    assert before.tolist() == [0, 1, 2, 3, -1, 2]
    after = states(np.array([1, 1, 1, 1, 1, 0]), np.array([0, 0, 0, 0, 0, NAN]))
    assert moves(before, after).tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]


def test_a_share_is_worth_as_many_trials_as_there_are_recordings():
    """Each question alone: Wilson's interval; each twice with the same result: that of half as many."""
    values = np.array([1.0] * 7 + [0.0] * 13)
    assert share_interval(values, np.arange(20)) == pytest.approx([0.35, *wilson_interval(7, 20)])
    twice = share_interval(np.repeat(values, 2), np.repeat(np.arange(20), 2))
    assert twice == pytest.approx([0.35, *wilson_interval(7, 20)])
    all_right = share_interval(np.ones(40), np.repeat(np.arange(20), 2))
    assert all_right == pytest.approx([1.0, *wilson_interval(20, 20)])
    assert np.isnan(share_interval(np.zeros(0), np.zeros(0, int))).all()


def test_a_mean_has_the_error_of_its_recordings():
    """Two recordings with sums of deviations +1 and -1: sqrt(2) / 4."""
    mean, low, high = mean_interval(np.array([1.0, 1.0, 0.0, 0.0]), np.array([5, 5, 9, 9]))
    assert (mean, high - mean) == pytest.approx((0.5, 1.959964 * 2**0.5 / 4)) and mean - low == pytest.approx(
        high - mean
    )


def test_bins_hold_their_ends_and_leave_out_what_is_not_known():
    edges = bin_edges(np.array([0.1, 0.9, NAN]), 4)
    assert edges.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert in_bins(np.array([0.0, 0.25, 1.0, NAN, 1.1]), edges).tolist() == [0, 1, 3, -1, -1]
    assert bin_edges(np.array([-0.5, 0.5]), 2).tolist() == [-1.0, 0.0, 1.0]
