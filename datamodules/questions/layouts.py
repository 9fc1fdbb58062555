"""Layouts: the question files of public benchmarks, read as records of the AudioMCQ layout (see `question.py`).

    mmau   MMAU: JSON list with audio_id, question, choices, answer, task
    mmar   MMAR: JSONL with audio_path, question, choices, answer, modality
    mmsu   MMSU: choice_a to choice_d (the last two may be empty), answer_gt, task_name, and audio or audio_path

Every question is of the split "test". 27 questions of MMAU-test-mini show one option twice; here it is shown once.

A layout of your own is a function named by its import path (`layout: my_lab.layouts.ours`):

    def ours(record: Mapping[str, Any]) -> Mapping[str, Any]: ...

It is given one record of the file and returns it in the fields of the AudioMCQ layout, which are then checked; an error
that it raises counts as a fault of that record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .plugins import plugin_named


def _distinct(choices: Any) -> Any:
    """Options without repetitions, in their order; anything that is no list is left for the check of questions."""
    return list(dict.fromkeys(choices)) if isinstance(choices, list) else choices


def _mmau(record: Mapping[str, Any]) -> dict[str, Any]:
    path = record.get("audio_id")
    return {
        "source_dataset": "MMAU",
        "id": record.get("id"),
        "question_type": record.get("task", "unknown"),
        "audio_path": path.removeprefix("./") if isinstance(path, str) else path,
        "question": record.get("question"),
        "answer": record.get("answer"),
        "choices": _distinct(record.get("choices")),
        "split": "test",
    }


def _mmar(record: Mapping[str, Any]) -> dict[str, Any]:
    path = record.get("audio_path")
    return _mmau(record) | {
        "source_dataset": "MMAR",
        "question_type": record.get("modality", "unknown"),
        "audio_path": path.removeprefix("./") if isinstance(path, str) else path,
    }


def _mmsu(record: Mapping[str, Any]) -> dict[str, Any]:
    options = [record.get(f"choice_{letter}") for letter in "abcd"]
    return {
        "source_dataset": "MMSU",
        "id": record.get("id"),
        "question_type": record.get("task_name", "unknown"),
        "audio_path": record.get("audio_path", record.get("audio")),
        "question": record.get("question"),
        "answer": record.get("answer_gt"),
        "choices": _distinct([option for option in options if option]),
        "split": "test",
    }


LAYOUTS: dict[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
    "audiomcq": lambda record: record,
    "mmau": _mmau,
    "mmar": _mmar,
    "mmsu": _mmsu,
}


def layout_named(layout: str) -> Callable[..., Any]:
    """The function that turns a record of that layout into one of the AudioMCQ layout; InputError for none."""
    return plugin_named(layout, LAYOUTS, "layout", "record")
