"""Knows what a multiple-choice question is and refuses what is not one.

A record in the AudioMCQ layout:
    {"source_dataset": "AudioCaps", "id": "123", "question_type": "sound", "audio_path": "AudioCaps/xxx.wav",
     "question": "What is heard?", "answer": "Water", "choices": ["Wind", "Water", "A dog", "A bell"]}
`choices` are plain texts without letters and `answer` is one of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..curriculum.identity import uid_of
from ..errors import InputError

SPLITS = ("train", "val", "test")
_SPECIAL_TOKEN = re.compile(r"<\|[^|<>]{1,40}\|>")
_MAX_TEXT = 8_000
FIELDS = ("source_dataset", "id", "question_type", "audio_path", "question", "answer", "choices", "split")


@dataclass(frozen=True)
class Question:
    """One multiple-choice question about one recording; `choices` in the order of the file."""

    source: str
    id: str
    question: str
    choices: tuple[str, ...]
    answer: str
    question_type: str
    split: str = "train"

    @property
    def key(self) -> str:
        """Readable identity, `source/id`."""
        return f"{self.source}/{self.id}"

    @property
    def uid(self) -> int:
        """64-bit identity."""
        return uid_of(self.source, self.id)

    def record(self) -> dict[str, Any]:
        """The question in the field names of the AudioMCQ layout."""
        return {
            "source_dataset": self.source,
            "id": self.id,
            "question_type": self.question_type,
            "question": self.question,
            "answer": self.answer,
            "choices": list(self.choices),
            "split": self.split,
        }


def parse_question(record: Any, where: str) -> Question:
    """A checked Question, or an InputError that names `where` and the field."""
    if not isinstance(record, Mapping):
        raise InputError(f"{where}: a question must be a JSON object, got {type(record).__name__}")
    text = {name: _text(record, name, where) for name in ("source_dataset", "id", "question", "answer")}
    question_type = _text(record, "question_type", where) if "question_type" in record else "unknown"
    split = record.get("split", "train")
    where = f"{where} ({text['source_dataset']}/{text['id']})"
    if split not in SPLITS:
        raise InputError(f"{where}: split must be one of {SPLITS}, got {split!r}")
    choices = record.get("choices")
    if not isinstance(choices, list) or not 2 <= len(choices) <= 26 or not all(_is_text(c) for c in choices):
        raise InputError(f"{where}: choices must be a list of 2 to 26 non-empty texts, got {choices!r:.80}")
    if len(set(choices)) != len(choices):
        raise InputError(f"{where}: choices occur twice: {choices!r:.200}")
    if text["answer"] not in choices:
        raise InputError(f"{where}: answer {text['answer']!r} is not among the choices {choices!r:.200}")
    for part in (text["question"], *choices):
        if found := _SPECIAL_TOKEN.search(part):
            raise InputError(f"{where}: the text holds the special token {found[0]}; remove or escape it")
    return Question(
        text["source_dataset"], text["id"], text["question"], tuple(choices), text["answer"], question_type, split
    )


def read_annotations(path: str | Path, column_map: Mapping[str, str] | None = None) -> list[tuple[Question, str]]:
    """Questions with the path of their recording, from a JSON list or a JSONL file in the AudioMCQ layout.

    column_map: our field name -> the file's field name, for files that call a field differently.
    """
    path, rename = Path(path), dict(column_map or {})
    unknown = [name for name in rename if name not in FIELDS]
    if unknown:
        raise InputError(f"column_map: unknown field {unknown[0]!r}; the fields are {', '.join(FIELDS)}")
    rows: list[tuple[Question, str]] = []
    seen: dict[int, str] = {}
    for where, record in _records(path):
        if isinstance(record, Mapping):
            record = {**record, **{ours: record.get(theirs) for ours, theirs in rename.items()}}
        question = parse_question(record, where)
        if question.uid in seen:
            raise InputError(f"{where}: {question.key} was already given at {seen[question.uid]}")
        seen[question.uid] = where
        rows.append((question, _text(record, "audio_path", where)))
    if not rows:
        raise InputError(f"{path}: holds no question")
    return rows


def _records(path: Path):
    if not path.is_file():
        raise InputError(f"{path}: no such annotation file")
    number = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            if path.suffix == ".json":
                content = _json(file.read(), path)
                if not isinstance(content, list):
                    raise InputError(f"{path}: must hold a list of questions, got {type(content).__name__}")
                yield from ((f"{path}[{place}]", record) for place, record in enumerate(content))
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}:{number}", _json(line, path, number)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}:{number + 1}: not UTF-8 from here on ({error.reason})") from None


def _json(text: str, path: Path, line: int = 0) -> Any:
    """The parsed text; `line` is its place in the file where the text is one line of it."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{line or error.lineno}: not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # nested too deep, or a number of thousands of digits
        raise InputError(f"{path}:{line or 1}: not JSON that can be read: {error}") from None


def _is_text(value: Any) -> bool:
    if not isinstance(value, str) or not value.strip() or len(value) > _MAX_TEXT:
        return False
    return not any("\ud800" <= letter <= "\udfff" for letter in value)  # half a surrogate pair cannot be written


def _text(record: Mapping, name: str, where: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not _is_text(value):
        raise InputError(f"{where}: field {name!r} must be a non-empty text, got {value!r:.80}")
    return value
