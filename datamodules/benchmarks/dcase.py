"""DCASE challenge, task 5: audio question answering (2025) and audio-dependent question answering (2026)."""

from __future__ import annotations

from collections.abc import Sequence

from .benchmark import Benchmark
from .forms import question_and_answer


def top_1(said: str, answer: str, choices: Sequence[str]) -> bool:
    """Top-1 accuracy: the answer is the right option's text."""
    return said.strip().lower() == answer.strip().lower()


_RULE = "top-1: the option's own text"
_FACT = "a question without an answer counts as wrong"

DCASE2025 = Benchmark(
    "dcase2025",
    "dcase2025",
    top_1,
    rule=_RULE,
    facts=(_FACT, "the challenge also shuffles the options; --rotations all shows how far the order matters"),
    write=question_and_answer("dcase2025.csv", "dcase2025", "choice", "choices"),
)
DCASE2026 = Benchmark(
    "dcase2026",
    "dcase2026",
    top_1,
    rule=_RULE,
    facts=(
        _FACT,
        "the development set holds questions of MMAU, MMAR and MMSU: look at the overlap with what was trained on",
    ),
    write=question_and_answer("dcase2026.csv", "dcase2026", "multi_choice", "choices"),
)
