"""MMSU (Wang et al. 2025): 5,000 questions on spoken language, 47 tasks."""

from __future__ import annotations

from collections.abc import Sequence

from .benchmark import FACETS, Benchmark
from .forms import json_lines

NOTHING = "-"  # a response that the published script drops


def drops_unread(response: str, answer: str, choices: Sequence[str]) -> bool | None:
    """The published scorer: the first sign, else the last but one, where it is A, B, C or D; None is dropped.

    A letter behind the last option is wrong. The script takes an empty response, or "None", for the letter of the
    question before it; such a one is exported as a dash, which it drops.
    """
    text = response.strip().replace("\n", "")
    if not text or text == "None":
        return None
    letter = next((sign for sign in (text[0], text[-2:-1]) if sign and sign in "ABCD"), "")
    if not letter:
        return None
    place = "ABCD".index(letter)
    return place < len(choices) and choices[place] == answer


MMSU = Benchmark(
    "mmsu",
    "mmsu",
    drops_unread,
    given="letter",
    rule="the first sign of the response, else the last but one, is the option's letter; others are not counted",
    facts=(
        "the scorer drops what it cannot read from its denominator, and reads any response that begins with A, B, C or "
        "D as that letter (“Bird” is B)",
        "published results are not all comparable: by the erratum of AudioMCQ's authors (April 2026) a scorer that "
        "ignored the order of words inflated their released models' 69.3 and 71.7, so rule mmau must not be used here",
    ),
    write=json_lines("mmsu.jsonl", "response", NOTHING),
    facets=FACETS | {"sub-sub-category": ("sub-sub-category",), "discipline": ("linguistics_sub_discipline",)},
)
