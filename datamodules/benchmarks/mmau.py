"""MMAU (Sakshi et al. 2024): test-mini, 1,000 questions with answers, and test, 9,000 without."""

from __future__ import annotations

from ..questions.answers import matches_words
from .benchmark import Benchmark
from .forms import json_list

WORDS = "every word of the answer, no word that only wrong options have, whatever their order"

MMAU = Benchmark(
    "mmau",
    "mmau",
    matches_words,
    rule=WORDS,
    facts=(
        "the file was changed after publication (v05.15.25: about a quarter of the questions, one recording in "
        "twenty); compare numbers of one hash alone",
        "the scorer leaves out records without a prediction; the exported file has one for every record, so that its "
        "denominator is the whole file and what is missing is wrong",
        "the scorer takes the answer's words in any order: 12 wrong options of test-mini are such re-orderings",
    ),
    reorders=True,
    write=json_list("mmau.json", "model_output", "model_prediction"),
)
