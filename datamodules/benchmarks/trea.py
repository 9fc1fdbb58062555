"""TREA (Bhattacharya et al. 2025): 600 questions on order, number and duration of sounds, a CSV file for each task."""

from __future__ import annotations

from collections.abc import Sequence

from .benchmark import Benchmark, Predicted


def first_sign(said: str, answer: str, choices: Sequence[str]) -> bool:
    """The published scorer: the first sign of the answer is the right option's letter; all questions count."""
    return said[:1] in tuple("ABCD"[: len(choices)]) and choices["ABCD".index(said[0])] == answer


def _lines(predicted: Sequence[Predicted]) -> dict[str, str]:
    return {"trea.txt": "".join(f"{one.record.get('id')} {' '.join(one.said.split()) or '-'}\n" for one in predicted)}


TREA = Benchmark(
    "trea",
    "trea",
    first_sign,
    given="letter",
    rule="the first sign is the option's letter; all questions count",
    facts=("some questions show one sound's name twice, in two spellings (“crow”, “Crow”)",),
    write=_lines,
)
