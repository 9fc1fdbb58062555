"""Judging rules of a lab's own that read less than ours do."""

from __future__ import annotations

from string import ascii_uppercase


def first_letter(completion, answer, choices):
    """The first character is the letter."""
    return completion[:1] in ascii_uppercase[: len(choices)] and choices[ord(completion[0]) - 65] == answer
