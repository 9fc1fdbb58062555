"""MMAR (Ma et al. 2025): 1,000 questions over mixtures of speech, music and sound."""

from __future__ import annotations

from ..questions.answers import matches_words
from .benchmark import FACETS, Benchmark
from .forms import json_list
from .mmau import WORDS

MMAR = Benchmark(
    "mmar",
    "mmar",
    matches_words,
    rule=WORDS,
    facts=(
        "the scorer takes the answer's words in any order: 28 wrong options, of 20 questions, score as right by "
        "re-ordering alone; the strict number does not",
        "the scorer leaves out records without a prediction; the exported file has one for every record, so that its "
        "denominator is the whole file and what is missing is wrong",
    ),
    reorders=True,
    write=json_list("mmar.json", "answer_prediction"),
    facets=FACETS,
)
