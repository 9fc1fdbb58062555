"""Intervals and tests for shares and paired differences, against numbers worked by hand or published."""

from __future__ import annotations

from math import comb, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earwitness.curriculum.statistics import Z95, mcnemar, paired_difference, wilson_interval

LAW = settings(deadline=None, max_examples=100)


def test_wilson_by_hand():
    """z = 2. One of one: scale 1 + 4 = 5, centre (1 + 2) / 5, half 2 sqrt(0 + 1) / 5, so (0.2, 1).

    Two of four: scale 2, centre (1/2 + 1/2) / 2, half 2 sqrt(1/16 + 1/16) / 2 = sqrt(1/8).
    """
    assert wilson_interval(1, 1, z=2) == pytest.approx((0.2, 1.0), abs=1e-15)
    assert wilson_interval(0, 1, z=2) == pytest.approx((0.0, 0.8), abs=1e-15)
    assert wilson_interval(2, 4, z=2) == pytest.approx((0.5 - sqrt(1 / 8), 0.5 + sqrt(1 / 8)), abs=1e-15)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_newcombe_s_published_intervals(successes, trials, low, high):
    """Newcombe (1998), Statistics in Medicine 17, table I, method 3, four decimals."""
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_wilson_without_trials_knows_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@LAW
@given(st.integers(1, 500), st.floats(0, 1))
def test_wilson_bounds_solve_the_score_equation(trials, share):
    """A bound p is where the share lies z standard errors away: (share - p)^2 = z^2 p (1 - p) / n."""
    successes = round(share * trials)
    for bound in wilson_interval(successes, trials):
        distance = (successes / trials - bound) ** 2
        assert distance == pytest.approx(Z95**2 * bound * (1 - bound) / trials, abs=1e-12)


@LAW
@given(st.integers(1, 500), st.integers(0, 500))
def test_wilson_is_symmetric_in_right_and_wrong(trials, successes):
    successes = min(successes, trials)
    low, high = wilson_interval(successes, trials)
    assert wilson_interval(trials - successes, trials) == pytest.approx((1 - high, 1 - low), abs=1e-14)
    assert 0 <= low < high <= 1


def test_paired_difference_by_hand():
    """Four items, b = 2 gained, c = 1 lost: difference 1/4, standard error sqrt(3 - 1/4) / 4."""
    got = paired_difference(np.array([0, 0, 1, 1]), np.array([1, 1, 1, 0]), z=1)
    error = sqrt(2.75) / 4
    assert got == pytest.approx((0.25, 0.25 - error, 0.25 + error), abs=1e-15)


@LAW
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_paired_difference_is_the_formula_of_the_discordant_counts(both, gained, lost, neither):
    """(b - c) / N with standard error sqrt(b + c - (b - c)^2 / N) / N, at 95 %."""
    before = np.repeat([1, 0, 1, 0], [both, gained, lost, neither])
    after = np.repeat([1, 1, 0, 0], [both, gained, lost, neither])
    if not len(before):
        return
    n, net = len(before), gained - lost
    error = sqrt(max(0.0, gained + lost - net**2 / n)) / n
    expected = (net / n, net / n - Z95 * error, net / n + Z95 * error)
    assert paired_difference(before, after) == pytest.approx(expected, abs=1e-12)


def test_paired_difference_of_scores():
    """Gains 0.5 and 0.1: mean 0.3, deviations +-0.2, standard error 0.2 / sqrt(2)."""
    mean, low, high = paired_difference(np.array([0.25, 0.5]), np.array([0.75, 0.6]), z=1)
    assert (mean, high - mean, mean - low) == pytest.approx((0.3, 0.2 / sqrt(2), 0.2 / sqrt(2)), abs=1e-15)


@pytest.mark.parametrize(("before", "after"), [([], []), ([1, 0], [1]), ([[1]], [[0]])])
def test_paired_difference_needs_two_equally_long_vectors(before, after):
    with pytest.raises(ValueError, match="equally long, non-empty"):
        paired_difference(np.array(before), np.array(after))


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        (0, 0, 1.0),
        (0, 5, 1 / 32),  # exact 2/32, less P[X = 0] = 1/32
        (9, 1, 12 / 1024),  # exact 2 (1 + 10) / 1024, less 10/1024
        (1, 7, 10 / 256),  # exact 2 (1 + 8) / 256, less 8/256: Fagerland (2013) prints 0.039
        (3, 3, 44 / 64),  # min(1, 2 x 42/64) = 1, less 20/64
        (2, 3, 22 / 32),  # min(1, 2 x 16/32) = 1, less 10/32
    ],
)
def test_mcnemar_mid_p_by_hand(gained, lost, p):
    assert mcnemar(gained, lost) == pytest.approx(p, abs=1e-15)
    assert mcnemar(lost, gained) == mcnemar(gained, lost)


@LAW
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_counts_the_outcomes_at_least_as_far_out(gained, lost):
    """Where b and c differ: P[|X - n/2| > |b - n/2|] + 1/2 P[|X - n/2| = |b - n/2|] under Bin(n, 1/2)."""
    n = gained + lost
    far = abs(2 * gained - n)
    if not far:
        return
    further = sum(comb(n, k) for k in range(n + 1) if abs(2 * k - n) > far)
    as_far = sum(comb(n, k) for k in range(n + 1) if abs(2 * k - n) == far)
    assert mcnemar(gained, lost) == pytest.approx((further + as_far / 2) / 2**n, abs=1e-14)


def test_mcnemar_survives_thousands_of_discordant_pairs():
    """b = c = 1000: 1 - C(2000, 1000) / 2^2000, by Stirling 1 - (1 - 1/8000) / sqrt(1000 pi)."""
    assert mcnemar(1000, 1000) == pytest.approx(1 - (1 - 1 / 8000) / sqrt(1000 * np.pi), abs=1e-9)
