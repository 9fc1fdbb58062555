"""Layouts: the question files of public benchmarks, read as records of the AudioMCQ layout (see `question.py`).

    mmau       MMAU: JSON list or Parquet with audio_id, question, choices, answer, task
    mmar       MMAR: JSONL with audio_path, question, choices (empty ones at the end are none), answer, modality
    mmsu       MMSU: choice_a to choice_d (the last two may be empty), answer_gt, task_name, and audio or audio_path
    dcase2025  DCASE 2025 task 5: one JSON per question or a list, with audio_url, question, choice, answer
    dcase2026  DCASE 2026 task 5: JSONL with id, audio_path, question_text, multi_choice, answer
    mmau_pro   MMAU-Pro: Parquet with audio_path (a list), question, choices, answer, category; open questions and those
               about several recordings are left out
    trea       TREA: CSV with audio_path, question, optionA to optionD, and in correct the letter of the right one
    rulistening  RUL-MuchoMusic: JSON of questions by number, with correct_answer and distractors; the recording is
               NUMBER.mp3, and a hash of the number says in which order the options are shown

Every question is of the split "test" (of DCASE, that of its file's name, if it has one). Files without answers are read
where all answers are missing. Options of MMAU, MMAR and MMSU stay as published: 27 questions of MMAU-test-mini show one
option twice, in the prompt and in its chance level, and the official scorer calls both right. DCASE writes "A. text",
whose letters are taken off where all options have theirs.

A layout of your own is a function named by its import path (`layout: my_lab.layouts.ours`):

    def ours(record: Mapping[str, Any]) -> Mapping[str, Any]: ...

It is given one record of the file and returns it in the fields of the AudioMCQ layout, which are then checked; an error
that it raises counts as a fault of that record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...curriculum.identity import hash64
from .plugins import plugin_named

LEFT_OUT = "skip"  # the split of a record that is no multiple-choice question about one recording


def _audiomcq(record: Mapping[str, Any]) -> Mapping[str, Any]:
    return record


def _local(path: Any) -> Any:
    """A path without the "./" that it begins with."""
    return path.removeprefix("./") if isinstance(path, str) else path


def _filled(choices: Any) -> Any:
    """The options without empty ones at the end; what is no list is left for the check of questions."""
    if not isinstance(choices, list):
        return choices
    last = max((place for place, choice in enumerate(choices, 1) if choice not in (None, "")), default=0)
    return choices[:last]


def _mmau(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "source_dataset": "MMAU",
        "id": record.get("id"),
        "question_type": record.get("task", "unknown"),
        "audio_path": _local(record.get("audio_id", record.get("audio_path"))),
        "question": record.get("question"),
        "answer": record.get("answer"),
        "choices": _filled(record.get("choices")),
        "split": "test",
        "as_published": True,
    }


def _mmar(record: Mapping[str, Any]) -> dict[str, Any]:
    changed = {"source_dataset": "MMAR", "question_type": record.get("modality", "unknown")}
    return _mmau(record) | changed | {"audio_path": _local(record.get("audio_path"))}


def _mmsu(record: Mapping[str, Any]) -> dict[str, Any]:
    options = [record.get(f"choice_{letter}") for letter in "abcd"]
    return _mmau(record) | {
        "source_dataset": "MMSU",
        "question_type": record.get("task_name", "unknown"),
        "audio_path": _local(record.get("audio_path", record.get("audio"))),
        "answer": record.get("answer_gt"),
        "choices": [option for option in options if option],
    }


def _dcase2025(record: Mapping[str, Any]) -> dict[str, Any]:
    path = record.get("audio_url", record.get("audio_path"))
    return {
        "source_dataset": "DCASE2025",
        "id": record.get("id", record.get("question_id")),
        "question_type": record.get("question_type", "unknown"),
        "audio_path": _local(path),
        "question": record.get("question"),
        "answer": record.get("answer"),
        "choices": _filled(record.get("choice", record.get("choices"))),
        "split": record.get("split"),
    }


def _dcase2026(record: Mapping[str, Any]) -> dict[str, Any]:
    return _dcase2025(record) | {
        "source_dataset": "DCASE2026",
        "audio_path": _local(record.get("audio_path")),
        "question": record.get("question_text", record.get("question")),
        "choices": _filled(record.get("multi_choice", record.get("choices"))),
    }


def _mmau_pro(record: Mapping[str, Any]) -> dict[str, Any]:
    paths, choices = record.get("audio_path"), record.get("choices")
    if isinstance(paths, list | tuple):
        paths = next(iter(paths)) if len(paths) == 1 else None
    open_ended = not isinstance(choices, list | tuple) or len(choices) < 2
    return _mmau(record) | {
        "source_dataset": "MMAU-Pro",
        "question_type": record.get("category", "unknown"),
        "audio_path": _local(paths),
        "choices": choices if open_ended else _filled(list(choices or ())),
        "split": LEFT_OUT if open_ended or paths is None else "test",
    }


def _trea(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "source_dataset": "TREA",
        "id": record.get("id"),
        "question_type": record.get("task", "unknown"),
        "audio_path": _local(record.get("audio_path")),
        "question": record.get("question"),
        "answer": record.get("correct"),
        "choices": _filled([record.get(f"option{letter}") for letter in "ABCD"]),
        "split": "test",
        "as_published": True,
    }


def _rulistening(record: Mapping[str, Any]) -> dict[str, Any]:
    number, right, wrong = record.get("id"), record.get("correct_answer"), record.get("distractors")
    options = [right, *wrong] if isinstance(wrong, list) else wrong
    if isinstance(options, list):
        options = sorted(options, key=lambda option: hash64("option", str(number), str(option)))
    return {
        "source_dataset": "RUL-MuchoMusic",
        "id": number,
        "question_type": "music",
        "audio_path": _local(record.get("audio_path")) or f"{number}.mp3",
        "question": record.get("question"),
        "answer": right,
        "choices": options,
        "split": "test",
        "as_published": True,
    }


LAYOUTS: dict[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
    "audiomcq": _audiomcq,
    "mmau": _mmau,
    "mmar": _mmar,
    "mmsu": _mmsu,
    "dcase2025": _dcase2025,
    "dcase2026": _dcase2026,
    "mmau_pro": _mmau_pro,
    "trea": _trea,
    "rulistening": _rulistening,
}
_MMAU = ("id", "question", "answer", "choices", "split")
_DCASE = ("id", "audio_path", "question", "question_type", "answer", "choices", "split")
# The columns that a layout reads; those of the AudioMCQ layout are the fields themselves.
COLUMNS: dict[str, tuple[str, ...]] = {
    "mmau": (*_MMAU, "task", "audio_id", "audio_path"),
    "mmar": (*_MMAU, "modality", "audio_path"),
    "mmsu": (*_MMAU, "task_name", "audio", "audio_path", "answer_gt", *(f"choice_{letter}" for letter in "abcd")),
    "dcase2025": (*_DCASE, "audio_url", "question_id", "choice"),
    "dcase2026": (*_DCASE, "question_text", "multi_choice"),
    "mmau_pro": (*_MMAU, "category", "audio_path"),
    "trea": ("id", "question", "audio_path", "correct", "task", *(f"option{letter}" for letter in "ABCD")),
    "rulistening": ("id", "question", "correct_answer", "distractors", "audio_path"),
}


def layout_named(layout: str) -> Callable[..., Any]:
    """The function that turns a record of that layout into one of the AudioMCQ layout; InputError for none."""
    return plugin_named(layout, LAYOUTS, "layout", "record")
