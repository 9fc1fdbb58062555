"""Reward functions that tests name by their import path."""

from __future__ import annotations


def length(completions, **columns):
    """Longer is better: gives every group a spread of rewards even to an untrained model."""
    return [float(len(text)) for text in completions]


def constant(completions, **columns):
    """The same for everybody."""
    return [0.7] * len(completions)
