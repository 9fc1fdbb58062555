"""The multiple-choice question, and the checks that a record must pass to be one.

A record in the AudioMCQ layout:
    {"source_dataset": "AudioCaps", "id": "123", "question_type": "sound", "audio_path": "AudioCaps/xxx.wav",
     "question": "What is heard?", "answer": "Water", "choices": ["Wind", "Water", "A dog", "A bell"]}
`choices` are plain texts without letters and `answer` is one of them. `split`, `audio_contribution` (also spelled with
a hyphen, as published), `structured_cot` and `unstructured_cot` (reasoning to learn from) may be missing.

Packing writes three more: `columns`, further columns of the file that were kept (name -> text, number or bool);
`unanswered: true` where the file has no answers; `as_published: true` where a benchmark shows options that the judging
rule cannot tell apart, such as one option twice. They are asked as they are, and the official scorers take them so.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...curriculum.identity import hash64, uid_of
from ...errors import InputError
from .answers import is_right, target_text

SPLITS = ("train", "val", "test")
CONTRIBUTIONS = ("weak", "strong")
REQUIRED = ("source_dataset", "id", "question", "answer", "choices")
Kept = str | int | float | bool
OPTIONAL = ("question_type", "split", "audio_contribution", "structured_cot", "unstructured_cot")
# Whole, and halves of one: another text may bring the other half.
_SPECIAL_TOKEN = re.compile(r"<\|[^|<>]{1,40}\|>|<\|[A-Za-z_]\w*|\w\|>|</?s>|<(?:pad|unk|eos|bos)>|\[/?INST\]")
# Where other trainers put the recording, and pictures that no model here is shown.
_SOUND = r"<(?:audio|sound|speech|music|wav|audio_?placeholder|audio_?token|speechhere|audiohere|soundhere)_?\d*>"
_RECORDING = re.compile(rf"{_SOUND}(?:\s*</(?:audio|sound|speech|music|wav)>)?|\[(?:AUDIO|SOUND)\]", re.IGNORECASE)
_PLACEHOLDER = re.compile(
    rf"{_RECORDING.pattern}|</(?:audio|sound|speech|music|wav)>|</?(?:image|img|video|imagehere|videohere|picture"
    r"|image_?placeholder|image_?token|video_?placeholder)_?\d*>",
    re.IGNORECASE,
)
_TAG = re.compile(r"</?(?:answer|think)>", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_MAX_TEXT, _MAX_REASONING = 8_000, 40_000


@dataclass(frozen=True)
class Question:
    """One multiple-choice question about one recording; `choices` in the order of the file, absent texts "".

    answer: "" where the file has none; such a question can be asked, but not judged. columns: what else was kept of it.
    """

    source: str
    id: str
    question: str
    choices: tuple[str, ...]
    answer: str
    question_type: str
    split: str = ""
    audio_contribution: str = ""
    structured_cot: str = ""
    unstructured_cot: str = ""
    columns: tuple[tuple[str, Kept], ...] = ()

    @property
    def key(self) -> str:
        """Readable identity, `source/id`."""
        return f"{self.source}/{self.id}"

    @property
    def uid(self) -> int:
        """64-bit identity: a hash of source and id."""
        return uid_of(self.source, self.id)

    @property
    def content(self) -> int:
        """64-bit hash of what is asked and what is right: text, answer, and options in any order."""
        return hash64("question", self.question, self.answer, *sorted(self.choices))

    def record(self) -> dict[str, Any]:
        """The question in the field names of the AudioMCQ layout."""
        fixed: dict[str, Any] = {
            "source_dataset": self.source,
            "id": self.id,
            "question_type": self.question_type,
            "question": self.question,
            "answer": self.answer,
            "choices": list(self.choices),
        }
        fixed |= {name: value for name in OPTIONAL[1:] if (value := getattr(self, name))}
        if not self.answer:
            fixed["unanswered"] = True
        if _alike(self.choices):
            fixed["as_published"] = True
        return fixed | ({"columns": dict(self.columns)} if self.columns else {})


def parse_question(record: Any, where: str) -> Question:
    """A checked Question from a record in the AudioMCQ layout; raises InputError that names `where` and the field."""
    if not isinstance(record, Mapping):
        raise InputError(f"{where}: a question must be a JSON object, got {type(record).__name__}")
    answered = record.get("unanswered") is not True
    names = ("source_dataset", "id", "question", "answer")[: 4 if answered else 3]
    text = {name: text_of(record, name, where) for name in names}
    question_type = text_of(record, "question_type", where) if "question_type" in record else "unknown"
    where = f"{where} ({text['source_dataset']}/{text['id']})"
    choices = record.get("choices")
    if not isinstance(choices, list) or not 2 <= len(choices) <= 26 or not all(_is_text(c) for c in choices):
        raise InputError(f"{where}: choices must be a list of 2 to 26 non-empty texts, got {_shown(choices)}")
    _check_options(choices, text.get("answer"), record.get("as_published") is True, where)
    if not answered and record.get("answer"):
        raise InputError(f"{where}: is marked as unanswered, and has the answer {_shown(record['answer'])}")
    more: dict[str, Any] = {
        "split": _one_of(record, "split", SPLITS, where),
        "audio_contribution": _contribution(record, where),
        "structured_cot": _reasoning(record, "structured_cot", where),
        "unstructured_cot": _reasoning(record, "unstructured_cot", where),
        "columns": _columns(record, where),
    }
    asked = _without_placeholders(text["question"], where)
    for part in (asked, *choices, more["structured_cot"], more["unstructured_cot"]):
        if ("|" in part or "<" in part or "[" in part) and (found := _SPECIAL_TOKEN.search(part)):
            raise InputError(f"{where}: the text holds the special token {found[0]}; remove or escape it")
    return Question(
        text["source_dataset"], text["id"], asked, tuple(choices), text.get("answer", ""), question_type, **more
    )


def _alike(choices: Sequence[str]) -> bool:
    """Whether the judging rule cannot tell some options apart: they are equal in lower case."""
    return len({choice.strip().lower() for choice in choices}) < len(choices)


def _check_options(choices: list[str], answer: str | None, as_published: bool, where: str) -> None:
    """Raises InputError where judging what SFT teaches would not find exactly the answer's option.

    answer: None where there is none to judge. as_published: some options may be equal.
    """
    if _alike(choices) and not as_published:
        if len(set(choices)) != len(choices):
            raise InputError(f"{where}: choices occur twice: {choices!r:.200}")
        raise InputError(
            f"{where}: choices that differ in case or outer spaces alone are judged equal: {choices!r:.200}"
        )
    for choice in choices:
        if "<" in choice and (found := _TAG.search(choice) or _PLACEHOLDER.search(choice)):
            raise InputError(f"{where}: the choice {choice!r:.100} holds {found[0]}; remove or escape it")
    if answer is None:
        return
    if answer not in choices:
        raise InputError(f"{where}: answer {answer!r:.200} is not among the choices {choices!r:.200}")
    right = [choice for choice in choices if is_right(target_text(answer), choice)]
    if answer not in right or (len(right) > 1 and not as_published):
        raise InputError(f"{where}: the target {target_text(answer)!r:.200} is judged to be {right!r:.200}")


def _without_placeholders(question: str, where: str) -> str:
    """The question without the marks of other trainers for its recording, at its ends or on lines of their own.

    Raises InputError for such a mark within a sentence, and for one of something that is not heard.
    """
    if "<" not in question and "[" not in question:
        return question
    if found := _RECORDING.search(question):
        mark = f"(?:{_RECORDING.pattern})"
        kept = re.sub(rf"^(?:\s*{mark})+\s*|\s*(?:{mark}\s*)+$", "", question, flags=re.IGNORECASE)
        kept = re.sub(rf"\n[ \t]*(?:{mark}[ \t]*)+(?=\n)", "", kept, flags=re.IGNORECASE)
        if not kept.strip():
            raise InputError(f"{where}: the question is nothing but {found[0]}")
        question = kept
    if found := _PLACEHOLDER.search(question):
        raise InputError(f"{where}: the question holds the placeholder {found[0]} within its text; remove it")
    return question


def _columns(record: Mapping[str, Any], where: str) -> tuple[tuple[str, Kept], ...]:
    """What was kept of other columns; raises InputError for what is no text, number or bool."""
    columns = record.get("columns")
    if columns is None:
        return ()
    if not isinstance(columns, Mapping) or not all(
        isinstance(name, str) and name and isinstance(value, str | int | float | bool) and len(str(value)) <= _MAX_TEXT
        for name, value in columns.items()
    ):
        raise InputError(f"{where}: field 'columns' must map names to texts, numbers or bools, got {_shown(columns)}")
    return tuple((name, value) for name, value in columns.items())


def parse_json(text: str | bytes, where: str) -> Any:
    """The value of a JSON text; InputError also for NaN, infinity and repeated keys, which readers take differently."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # nested too deep, or a number of thousands of digits
        raise InputError(f"{where}: not JSON that can be read: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for name, value in pairs:
        if name in unique:
            raise ValueError(f"the key {name!r:.80} occurs twice in one object")
        unique[name] = value
    return unique


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def _shown(value: Any) -> str:
    """The beginning of a value; `repr` itself overflows on what is nested deeply, and is as long as the value."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother, short.maxlist = 3, 80, 80, 8
    return short.repr(value)


def _is_text(value: Any, longest: int = _MAX_TEXT) -> bool:
    if not isinstance(value, str) or not value.strip() or len(value) > longest:
        return False
    return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)  # half a surrogate pair


def text_of(record: Mapping[str, Any], name: str, where: str) -> str:
    """A field that must be a non-empty text; except for question and answer, one line without control characters.

    Raises InputError otherwise.
    """
    value = record.get(name)
    if not isinstance(value, str) or not _is_text(value):
        raise InputError(f"{where}: field {name!r} must be a non-empty text, got {_shown(value)}")
    if name not in ("question", "answer") and _CONTROL.search(value):
        raise InputError(f"{where}: field {name!r} must be one line without control characters, got {_shown(value)}")
    return value


def _one_of(record: Mapping[str, Any], name: str, allowed: tuple[str, ...], where: str) -> str:
    if name not in record:
        return ""
    value: str = record[name]
    if value not in allowed:
        raise InputError(f"{where}: {name} must be one of {allowed}, got {_shown(value)}")
    return value


def _contribution(record: Mapping[str, Any], where: str) -> str:
    """The published label, whichever way it is spelled; null or "" where a file has the column but no label."""
    found = (record.get(name) for name in ("audio_contribution", "audio-contribution"))
    value = next((value for value in found if value not in (None, "")), None)
    return "" if value is None else _one_of({"audio_contribution": value}, "audio_contribution", CONTRIBUTIONS, where)


def _reasoning(record: Mapping[str, Any], name: str, where: str) -> str:
    value = record.get(name)
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or not _is_text(value, _MAX_REASONING):
        raise InputError(f"{where}: field {name!r} must be a text of at most {_MAX_REASONING} characters")
    return value
