"""Reward functions that tests name by their import path."""

from __future__ import annotations


def length(completions, **columns):
    """Longer is better: gives every group a spread of rewards even to an untrained model."""
    return [float(len(text)) for text in completions]


def constant(completions, **columns):
    """The same for everybody."""
    return [0.7] * len(completions)


def reinforce(logprob, old, advantages, mask, *, denominator, clip=None, penalty=None, correction=None, weights=None):
    """A user's loss: -A log-prob, by tokens."""
    return -(advantages[:, None] * logprob * mask).sum() / denominator


def by_words(logprob, old, advantages, mask, *, denominator, **_):
    """A user's loss with a denominator that nobody counts."""
    raise AssertionError("never called")


reinforce.denominator = "tokens"
by_words.denominator = "words"
