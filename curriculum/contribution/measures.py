"""Measures of audio contribution per question, from probabilities or from counts of right answers.

p_a, p_0, p_m: probability of the right option with the audio, in silence, with a mismatched recording. All arguments
and results are [N] over the questions unless they say otherwise.
"""

from __future__ import annotations

import numpy as np

from ..arrays import Floats, Ints

_TINY = 1e-12


def expected_contribution(p_audio: Floats, p_silence: Floats) -> Floats:
    """AC_p = p_a - p_0 in [-1, 1]: the expectation of the paper's AC when answers are sampled at temperature 1."""
    gain: Floats = np.asarray(p_audio, float) - np.asarray(p_silence, float)
    return gain


def smoothed_rate(right: Ints, asked: Ints) -> Floats:
    """(k + 1/2) / (G + 1): the rate behind k right answers of G, under Jeffreys' prior; NaN where G is 0."""
    k, answers = np.asarray(right, float), np.asarray(asked, float)
    return np.where(answers > 0, (k + 0.5) / (answers + 1), np.nan)


def log_contribution(p_audio: Floats, p_silence: Floats) -> Floats:
    """AC_log = ln p_a - ln p_0 in nats: what the audio says of the answer, pmi(a; y | q), under the model."""
    gain: Floats = np.log(np.maximum(p_audio, _TINY)) - np.log(np.maximum(p_silence, _TINY))
    return gain


def calibrated_contribution(scores_audio: Floats, scores_silence: Floats, truth: Ints) -> Floats:
    """AC_cal [N]: AC_log of the unnormalised option scores, less its mean over the options.

    scores: [N, K] log-probs of the options, NaN beyond a question's options; truth: [N] place of the right one. What
    silence does to every option alike, because it looks odd to the model, drops out.
    """
    change = np.asarray(scores_audio, float) - np.asarray(scores_silence, float)
    calibrated: Floats = change[np.arange(len(change)), truth] - np.nanmean(change, axis=1)
    return calibrated


def option_probabilities(scores: Floats) -> Floats:
    """[N, K] softmax over the options of log-probs [N, K]; NaN beyond a question's options stays NaN."""
    scores = np.asarray(scores, float)
    shifted = np.exp(scores - np.nanmax(scores, axis=1, keepdims=True))
    probabilities: Floats = shifted / np.nansum(shifted, axis=1, keepdims=True)
    return probabilities


def necessity(p_audio: Floats, p_silence: Floats) -> tuple[Floats, Floats]:
    """Lower and upper bound of P(wrong without the audio | right with it), after Tian and Pearl (2000).

    max(0, (p_a - p_0) / p_a) <= PN <= min(1, (1 - p_0) / p_a); the lower one is met if audio never hurts. NaN where
    p_a is 0: there is nothing right to explain.
    """
    p_a, p_0 = np.asarray(p_audio, float), np.asarray(p_silence, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = np.maximum(0.0, (p_a - p_0) / p_a), np.minimum(1.0, (1 - p_0) / p_a)
    return np.where(p_a > 0, low, np.nan), np.where(p_a > 0, high, np.nan)


def susceptibility(p_silence: Floats, p_mismatched: Floats) -> Floats:
    """p_0 - p_m: how far a wrong recording moves the answer; about 0 for a model that ignores what it hears."""
    moved: Floats = np.asarray(p_silence, float) - np.asarray(p_mismatched, float)
    return moved


def chance_corrected(correct: Floats, num_choices: Ints) -> float:
    """Mean of (C_i - 1/K_i) / (1 - 1/K_i): 0 for guessing, 1 for all right, with any mix of numbers of options K.

    correct: [N] C, 0/1 or shares of right answers.
    """
    return float(np.mean(above_luck(correct, 1 / np.asarray(num_choices, float))))


def above_luck(correct: Floats, guess: Floats) -> Floats:
    """[N] (C_i - g_i) / (1 - g_i): 0 on average for answers that are right with probability g_i, 1 where all are right.

    correct: [N] C, 0/1 or shares of right answers. guess: [N] g in (0, 1). 0 where luck is (almost) always right.
    """
    left = 1 - np.asarray(guess, float)
    above: Floats = np.where(left > 1e-5, (np.asarray(correct, float) - guess) / np.maximum(left, 1e-5), 0.0)
    return above


def perceptual_score(accuracy: float, accuracy_mismatched: float, normaliser: float | None = None) -> float:
    """(Acc - Acc with mismatched recordings) / Z (Gat et al. 2021); Z is the accuracy itself, or as given."""
    z = accuracy if normaliser is None else normaliser
    return (accuracy - accuracy_mismatched) / z if z else float("nan")


def shapley_audio(v_both: Floats, v_text: Floats, v_audio: Floats, num_choices: Ints) -> Floats:
    """Audio's Shapley value among the players audio and text: ((v(A,T) - v(T)) + (v(A) - v(0))) / 2.

    v: accuracies, or probabilities of the right option, with both, text alone, audio alone; v(0) = 1 / options.
    """
    added_to_text: Floats = np.asarray(v_both) - v_text
    added_to_nothing: Floats = np.asarray(v_audio) - 1 / np.asarray(num_choices, float)
    return (added_to_text + added_to_nothing) / 2
