"""Measures of audio contribution, and the places of the options, against numbers worked by hand."""

from __future__ import annotations

from math import e, inf, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earwitness.curriculum.contribution.measures import (
    calibrated_contribution,
    chance_corrected,
    expected_contribution,
    log_contribution,
    necessity,
    option_probabilities,
    perceptual_score,
    shapley_audio,
    smoothed_rate,
    susceptibility,
)
from earwitness.curriculum.contribution.rotation import by_content, debiased, place_prior, rotation_mean, rotations

LAW = settings(deadline=None, max_examples=60)
NAN = float("nan")
PROBABILITY = st.floats(0, 1)


# Per question.


def test_expected_contribution_by_hand():
    """p_a - p_0, from 1 (only the audio says it) to -1 (the audio hurts); unknown where one of the two is."""
    got = expected_contribution(np.array([1, 0.75, 0.25, 0, NAN]), np.array([0, 0.25, 0.25, 1, 0.5]))
    np.testing.assert_array_equal(got, [1, 0.5, 0, -1, NAN])


def test_expected_contribution_is_what_the_paper_s_measure_is_on_average():
    """Answers drawn with p_a = 0.8 and p_0 = 0.3: the mean of C_a - C_0 over 200,000, 4 standard errors."""
    random = np.random.default_rng(0)
    drawn = (random.random(200_000) < 0.8).astype(int) - (random.random(200_000) < 0.3)
    assert abs(drawn.mean() - expected_contribution(0.8, 0.3)) < 4 * drawn.std() / np.sqrt(200_000)


def test_smoothed_rate_by_hand():
    """(k + 1/2) / (G + 1): 0 of 1 is 1/4, 1 of 1 is 3/4, 3 of 4 is 7/10, 0 of 4 is 1/10; 0 of 0 is unknown."""
    got = smoothed_rate(np.array([0, 1, 3, 0, 0]), np.array([1, 1, 4, 4, 0]))
    np.testing.assert_allclose(got, [1 / 4, 3 / 4, 7 / 10, 1 / 10, NAN], rtol=1e-15)


def test_smoothed_rate_is_the_mean_of_jeffreys_posterior():
    """Beta(1/2, 1/2) after k of G is Beta(k + 1/2, G - k + 1/2)."""
    from scipy.stats import beta

    for asked in (1, 4, 12):
        right = np.arange(asked + 1)
        np.testing.assert_allclose(
            smoothed_rate(right, np.full(asked + 1, asked)), beta.mean(right + 0.5, asked - right + 0.5), rtol=1e-14
        )


def test_log_contribution_by_hand():
    """ln (e^-1 / e^-3) = 2 nats; ln (1/2) - ln (1/4) = ln 2; equal ones tell nothing; unknown stays unknown."""
    got = log_contribution(np.array([e**-1, 1 / 2, 0.3, 1 / 8, NAN]), np.array([e**-3, 1 / 4, 0.3, 1 / 2, 0.5]))
    np.testing.assert_allclose(got, [2, log(2), 0, -2 * log(2), NAN], atol=1e-14)


def test_log_contribution_of_an_impossible_answer_is_large_and_finite():
    """Probabilities are cut off at 1e-12: 27.6 nats."""
    got = log_contribution(np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0]))
    np.testing.assert_allclose(got, [12 * log(10), -12 * log(10), 0], rtol=1e-14)


def test_calibrated_contribution_by_hand():
    """Changes of the four options +2, -1, 0, -1: mean 0. With the truth first 2. Truth second, all raised by 3: -1.

    Two options, the rest NaN: changes +1 and -2, mean -1/2; the second one: -2 + 1/2.
    """
    silence = np.array([[-3.0, -2, -1, -4], [-3, -2, -1, -4], [-1, -1, NAN, NAN]])
    audio = silence + np.array([[2.0, -1, 0, -1], [5, 2, 3, 2], [1, -2, NAN, NAN]])
    got = calibrated_contribution(audio, silence, np.array([0, 1, 1]))
    np.testing.assert_allclose(got, [2, -1, -1.5], atol=1e-14)


SCORES = st.lists(st.lists(st.floats(-30, 0), min_size=4, max_size=4), min_size=2, max_size=2)


@LAW
@given(SCORES, st.floats(-50, 50), st.floats(-50, 50), st.integers(0, 3))
def test_calibration_takes_out_what_a_condition_does_to_every_option_alike(scores, louder, odder, truth):
    audio, silence = (np.array([row]) for row in scores)
    plain = calibrated_contribution(audio, silence, np.array([truth]))
    moved = calibrated_contribution(audio + louder, silence + odder, np.array([truth]))
    np.testing.assert_allclose(moved, plain, atol=1e-10)


@LAW
@given(SCORES)
def test_calibrated_contributions_of_all_options_add_up_to_nothing(scores):
    """Sum over the truths of (change - mean change) is 0; they differ as the log contributions do."""
    audio, silence = (np.tile(row, (4, 1)) for row in scores)
    each = calibrated_contribution(audio, silence, np.arange(4))
    assert each.sum() == pytest.approx(0, abs=1e-10)
    change = np.array(scores[0]) - np.array(scores[1])
    np.testing.assert_allclose(each - each[0], change - change[0], atol=1e-10)


def test_option_probabilities_by_hand():
    """exp: 1, 2, 3, 4 of 10, whatever is added to all; two options 1 and 3 of 4, the others are none."""
    scores = np.log([[1, 2, 3, 4], [1, 2, 3, 4], [1, 3, 1, 1]]) + np.array([[0], [-800], [5]])
    scores[2, 2:] = NAN
    expected = [[0.1, 0.2, 0.3, 0.4]] * 2 + [[0.25, 0.75, NAN, NAN]]
    np.testing.assert_allclose(option_probabilities(scores), expected, rtol=1e-12)


def test_an_option_that_cannot_be_has_no_share():
    np.testing.assert_allclose(option_probabilities(np.array([[0.0, -inf, 0.0]])), [[0.5, 0, 0.5]])


def test_necessity_by_hand():
    """p_a, p_0 = 0.8, 0.2: (0.6 / 0.8, min(1, 0.8 / 0.8)). 0.9, 0.6: (1/3, 4/9). 0.5, 0.7: (0, 0.6). 0, x: unknown."""
    low, high = necessity(np.array([0.8, 0.9, 0.5, 0.0]), np.array([0.2, 0.6, 0.7, 0.3]))
    np.testing.assert_allclose(low, [0.75, 1 / 3, 0, NAN], atol=1e-14)
    np.testing.assert_allclose(high, [1, 4 / 9, 0.6, NAN], atol=1e-14)


def test_necessity_is_certain_where_one_of_the_answers_is():
    """Always right with audio: both bounds 1 - p_0. Never right without: both 1. Always right without: both 0."""
    p = np.linspace(0.05, 1, 20)
    for got, exact in (
        (necessity(np.ones(20), p), 1 - p),
        (necessity(p, np.zeros(20)), np.ones(20)),
        (necessity(p, np.ones(20)), np.zeros(20)),
    ):
        np.testing.assert_allclose(got, [exact, exact], atol=1e-14)


@LAW
@given(st.lists(st.integers(0, 50), min_size=4, max_size=4))
def test_necessity_lies_between_its_bounds_and_meets_the_lower_one_where_audio_never_hurts(counts):
    """Out of a joint table of (right with, right without): PN = audio only / (audio only + both)."""
    both, audio_only, silence_only, neither = counts
    n = sum(counts)
    if not both + audio_only:
        return
    p_a, p_0 = (both + audio_only) / n, (both + silence_only) / n
    exact = audio_only / (both + audio_only)
    low, high = necessity(np.array([p_a]), np.array([p_0]))
    assert -1e-12 <= low[0] <= exact + 1e-12 and exact <= high[0] + 1e-12 <= 1 + 2e-12
    if not silence_only:
        assert low[0] == pytest.approx(exact, abs=1e-12)
    if not both or not neither:  # as negatively related as the margins allow
        assert high[0] == pytest.approx(exact, abs=1e-12)


def test_susceptibility_by_hand():
    """A wrong recording takes 0.4 off a model that listens and nothing off one that does not."""
    got = susceptibility(np.array([0.5, 0.7, NAN]), np.array([0.1, 0.7, 0.2]))
    np.testing.assert_allclose(got, [0.4, 0, NAN], atol=1e-15)


# Over questions.


def test_chance_corrected_by_hand():
    """Right with 4 options: 1; wrong: (0 - 1/4) / (3/4) = -1/3; wrong with 2: -1; half right with 2: 0."""
    assert chance_corrected(np.array([1, 0]), np.array([4, 4])) == pytest.approx(1 / 3, abs=1e-15)
    assert chance_corrected(np.array([1, 0, 0]), np.array([4, 4, 2])) == pytest.approx(-1 / 9, abs=1e-15)
    assert chance_corrected(np.array([1, 0]), np.array([2, 2])) == pytest.approx(0, abs=1e-15)
    assert chance_corrected(np.array([0.5, 1.0]), np.array([2, 5])) == pytest.approx(0.5, abs=1e-15)


@LAW
@given(st.lists(st.integers(2, 26), min_size=1, max_size=30))
def test_guessing_is_worth_nothing_and_all_right_one(choices):
    choices = np.array(choices)
    assert chance_corrected(1 / choices, choices) == pytest.approx(0, abs=1e-12)
    assert chance_corrected(np.ones(len(choices)), choices) == pytest.approx(1, abs=1e-12)


def test_perceptual_score_by_hand():
    """0.8 falls to 0.6 with other recordings: 0.25 of the accuracy; of 1 - 0.5, the task's own room, 0.4."""
    assert perceptual_score(0.8, 0.6) == pytest.approx(0.25, abs=1e-15)
    assert perceptual_score(0.8, 0.6, normaliser=1 - 0.5) == pytest.approx(0.4, abs=1e-15)
    assert np.isnan(perceptual_score(0.0, 0.0))


def test_shapley_by_hand():
    """((0.9 - 0.4) + (0.65 - 0.25)) / 2 = 0.45 with four options; with two the second difference is 0.15: 0.325."""
    got = shapley_audio(np.array([0.9, 0.9]), np.array([0.4, 0.4]), np.array([0.65, 0.65]), np.array([4, 2]))
    np.testing.assert_allclose(got, [0.45, 0.325], atol=1e-15)


@LAW
@given(PROBABILITY, PROBABILITY, PROBABILITY, st.integers(2, 26))
def test_audio_s_and_text_s_shapley_values_share_out_what_both_bring(v_both, v_text, v_audio, choices):
    """phi_A + phi_T = v(A, T) - v(0); the text's value is the same formula with the players exchanged."""
    audio = shapley_audio(v_both, v_text, v_audio, choices)
    text = shapley_audio(v_both, v_audio, v_text, choices)
    assert audio + text == pytest.approx(v_both - 1 / choices, abs=1e-12)


# Places.


def test_all_rotations_show_every_option_once_in_every_place():
    """Four options, by hand; and every K up to 26 as a Latin square, the order of the file first."""
    assert rotations(4) == [[0, 1, 2, 3], [1, 2, 3, 0], [2, 3, 0, 1], [3, 0, 1, 2]]
    for k in range(2, 27):
        square = np.array(rotations(k))
        assert (np.sort(square, axis=0) == np.arange(k)[:, None]).all()
        assert (np.sort(square, axis=1) == np.arange(k)).all()
        assert square[0].tolist() == list(range(k))


def test_fewer_rotations_are_evenly_spread_over_the_cycle():
    """2 of 4 are 0 and 2; 2 of 5 are 0 and 2; 3 of 5 are 0, 1, 3; more than there are is all of them."""
    first = {(k, n): [order[0] for order in rotations(k, n)] for k, n in ((4, 2), (5, 2), (5, 3), (4, 1), (3, 9))}
    assert first == {(4, 2): [0, 2], (5, 2): [0, 2], (5, 3): [0, 1, 3], (4, 1): [0], (3, 9): [0, 1, 2]}
    for k in range(2, 27):
        for n in range(1, k + 1):
            shifts = np.array([order[0] for order in rotations(k, n)])
            gaps = np.diff([*shifts, k])
            assert len(shifts) == n and gaps.max() - gaps.min() <= 1 and gaps.min() >= 1


def test_scores_by_place_are_put_back_by_option():
    """Shown C A B D and B A: place 0 holds option 2 (score 10), place 1 option 0 (score 20), and so on."""
    scores = np.array([[10.0, 20, 30, 40], [1, 2, NAN, NAN]])
    order = np.array([[2, 0, 1, 3], [1, 0, -1, -1]])
    np.testing.assert_array_equal(by_content(scores, order), [[20, 30, 10, 40], [2, 1, NAN, NAN]])


@LAW
@given(st.integers(2, 6), st.integers(0, 2**32))
def test_showing_options_in_an_order_and_putting_them_back_changes_nothing(k, seed):
    content = np.random.default_rng(seed).normal(size=(1, k))
    for order in rotations(k):
        np.testing.assert_array_equal(by_content(content[:, order], np.array([order])), content)


@pytest.mark.filterwarnings("error")
def test_the_mean_over_rotations_is_of_those_there_are():
    """Mean of 0.2 and 0.6; a question with two options has two rotations, and nothing beyond its options."""
    by_rotation = np.array([[[0.2, 0.5, 0.3], [0.5, 0.5, NAN]], [[0.6, 0.1, 0.3], [0.9, 0.1, NAN]]])
    by_rotation = np.concatenate([by_rotation, [[[0.1, 0.3, 0.6], [NAN] * 3]]])
    np.testing.assert_allclose(rotation_mean(by_rotation), [[0.3, 0.3, 0.4], [0.7, 0.3, NAN]], atol=1e-15)


def seen(prior, content):
    """[R, N, K] probabilities by place of a model whose taste is prior of the place x worth of the content.

    Questions with fewer options than the prior has places have fewer rotations; NaN beyond.
    """
    found = np.full((len(prior), len(content), len(prior)), np.nan)
    for n, worth in enumerate(content):
        for r, order in enumerate(rotations(len(worth))):
            product = prior[: len(worth)] * worth[order]
            found[r, n, : len(worth)] = product / product.sum()
    return found


def worths(random, sizes):
    """Worth of each option of each question, from a tenth to ten."""
    return [np.exp(random.uniform(-2.3, 2.3, size)) for size in sizes]


PRIOR = np.array([0.4, 0.3, 0.2, 0.1])


def test_a_planted_prior_is_recovered_by_hand():
    """One question of two options that are worth the same, prior 0.8 and 0.2: both rotations show 0.8 and 0.2.

    Worth 1 and 4: 0.5 0.5, and 16/17 1/17. Mean logs differ by (0 + ln 16) / 2 = ln 4, as 0.8 and 0.2 do.
    """
    same = np.log([[[0.8, 0.2]], [[0.8, 0.2]]])
    other = np.log([[[0.5, 0.5]], [[16 / 17, 1 / 17]]])
    for each in (same, other):
        np.testing.assert_allclose(place_prior(each), [0.8, 0.2], atol=1e-14)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("sizes", [[4], [4] * 20, [4, 2, 2, 2, 3, 2, 4], [2] * 30 + [3] * 5 + [4]])
def test_a_planted_prior_is_recovered_whatever_the_contents_are_worth(sizes):
    """Also where the numbers of options differ: few options have larger shares, which says nothing of their places."""
    shown = seen(PRIOR, worths(np.random.default_rng(len(sizes)), sizes))
    np.testing.assert_allclose(place_prior(np.log(shown)), PRIOR, atol=1e-12)


def test_dividing_by_the_planted_prior_leaves_what_the_contents_are_worth():
    """In every rotation, by option, for questions of four and of three options."""
    content = worths(np.random.default_rng(5), [4, 3, 4])
    for r, shown in enumerate(seen(PRIOR, content)):
        for n, worth in enumerate(content):
            if r < len(worth):
                order = np.array([rotations(len(worth))[r] + [-1] * (4 - len(worth))])
                found = by_content(debiased(shown[n : n + 1], PRIOR), order)[0]
                np.testing.assert_allclose(found[: len(worth)], worth / worth.sum(), atol=1e-12)


def test_debiasing_by_hand():
    """0.6 / 0.75 = 0.8 and 0.4 / 0.25 = 1.6: 1/3 and 2/3. The likelier place was not the likelier option."""
    np.testing.assert_allclose(debiased(np.array([[0.6, 0.4]]), np.array([0.75, 0.25])), [[1 / 3, 2 / 3]], atol=1e-15)


def test_a_prior_without_a_preference_changes_nothing():
    shares = option_probabilities(np.random.default_rng(2).normal(size=(50, 4)))
    shares[0, 3] = NAN
    shares[0] /= np.nansum(shares[0])
    for prior in (np.ones(4), np.full(4, 0.25)):
        np.testing.assert_allclose(debiased(shares, prior), shares, atol=1e-15)
    np.testing.assert_allclose(place_prior(np.zeros((4, 3, 4))), np.full(4, 0.25), atol=1e-15)
