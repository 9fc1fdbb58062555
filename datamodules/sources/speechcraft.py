"""SpeechCraft: labels and descriptions of spoken utterances, in the forms that its pipeline writes.

The names of the released files are not public knowledge: every .json, .jsonl and .scp file of a folder is read, and
what they say about one utterance is put together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...boundary.files import JSON_BYTES, read_text
from ...errors import InputError
from ..questions.question import parse_json
from .item import Found, Item

LABELS = {  # label -> its values
    "age": ("child", "teenager", "youth", "youth adult", "adult", "middle-aged", "elderly"),
    "gender": ("male", "female"),
    "pitch": ("low", "normal", "high"),
    "volume": ("low", "normal", "high"),
    "speed": ("slow", "normal", "fast"),
    "emotion": ("fearful", "happy", "disgusted", "sad", "surprised", "angry", "neutral"),
}
_SCP = ("dataset", "utterance", "age", "gender", "pitch", "volume", "speed", "emotion", "transcript")
_TEXTS = ("text_style_target", "llama-instruction", "description", "instruction", "caption")
_PREFIX = re.compile(r"^(?:libritts_r|gigaspeech|aishell3|zhvoice)_")
_UNKNOWN = ("unknown", "none", "nan", "")


def read_speechcraft(folder: Path, found: Found) -> Iterator[Item]:
    """An item per utterance with a description or a label."""
    told: dict[str, dict[str, Any]] = {}
    files = [path for path in folder.rglob("*") if path.suffix in (".json", ".jsonl", ".scp")]
    if not files:
        raise InputError(f"{folder}: holds no .json, .jsonl or .scp file of SpeechCraft")
    for path in sorted(files, key=lambda path: (path.suffix == ".scp", path)):
        for where, name, facts in _scp(path, found) if path.suffix == ".scp" else _json(path, found):
            name = _PREFIX.sub("", name)
            mine = told.setdefault(name, {"texts": [], "labels": {}})
            _add(mine, facts, where, found)
    for name, facts in told.items():
        labels = facts["labels"]
        if not facts["texts"] and not labels:
            found.fault(f"{folder}: utterance {name} has neither a label nor a description")
            continue
        found.counts.update(clips=1, captions=len(facts["texts"]))
        yield Item(
            "SpeechCraft",
            name,
            "train",
            (name, f"libritts_r_{name}"),
            tuple(dict.fromkeys(facts["texts"])),
            {"labels": labels, **{key: facts[key] for key in ("transcript", "emphasis", "topic") if key in facts}},
            types=("speech",),
            origin=f"libritts:{name}",
        )


def _add(mine: dict[str, Any], facts: dict[str, str], where: str, found: Found) -> None:
    """Adds what one file says of an utterance; the first file's label stands where a later one contradicts it."""
    for name, value in facts.items():
        value = " ".join(value.split())
        name = {"transcription": "transcript"}.get(name, name)
        if name == "text":
            mine["texts"].append(value)
        elif name in LABELS:
            if value.lower() in _UNKNOWN:
                found.counts["unknown labels"] += 1
            elif mine["labels"].setdefault(name, value.lower()) != value.lower():
                found.counts["labels of two files that disagree"] += 1
            elif value.lower() not in LABELS[name]:
                found.notes.append(f"{where}: {name} {value!r} is none of {', '.join(LABELS[name])}")
        elif value:
            mine.setdefault(name, value)


def _json(path: Path, found: Found) -> Iterator[tuple[str, str, dict[str, str]]]:
    """(place, utterance, facts) of an object of utterances, or of a list or lines of objects with an id."""
    try:
        text = read_text(path, JSON_BYTES)
    except UnicodeError:
        raise InputError(f"{path}: not UTF-8") from None
    if path.suffix == ".jsonl":
        values = [parse_json(line, f"{path}:{n}") for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    else:
        content = parse_json(text, str(path))
        values = content if isinstance(content, list) else []
        if isinstance(content, dict):
            yield from ((f"{path}: {name}", name, facts) for name, facts in _facts_of(content, path, found))
    for number, value in enumerate(values):
        name = next((value[k] for k in ("id", "utt", "utterance", "key") if isinstance(value.get(k), str)), "")
        if not name:
            found.fault(f"{path}[{number}]: names no utterance (id)")
        yield from (
            (f"{path}: {name}", name, facts) for name, facts in _facts_of({name: value} if name else {}, path, found)
        )


def _facts_of(content: dict[str, Any], path: Path, found: Found) -> Iterator[tuple[str, dict[str, str]]]:
    for name, value in content.items():
        if isinstance(value, str) and value.strip():
            yield name, {"text": value}
        elif isinstance(value, dict):
            facts = _labels(value.get("labels", ""), f"{path}: {name}", found)
            texts = [value[key] for key in _TEXTS if isinstance(value.get(key), str) and value[key].strip()]
            yield name, facts | ({"text": texts[0]} if texts else {})
        else:
            found.fault(f"{path}: {name} must be a description or an object with labels, got {type(value).__name__}")


def _labels(text: Any, where: str, found: Found) -> dict[str, str]:
    """`age:Adult<tab>gender:male...` in any order; what stands behind the first colon may hold others."""
    if not isinstance(text, str):
        found.fault(f"{where}: labels must be a text of name:value parts between tabs")
        return {}
    facts = {}
    for part in filter(str.strip, text.split("\t")):
        name, colon, value = part.partition(":")
        if not colon:
            found.fault(f"{where}: labels: {part!r:.60} is not name:value")
        facts[name.strip().lower()] = value
    found.counts["labelled"] += bool(facts)
    return facts


def _scp(path: Path, found: Found) -> Iterator[tuple[str, str, dict[str, str]]]:
    """(place, utterance, facts) of a table without header and without quoting."""
    for number, line in enumerate(read_text(path, JSON_BYTES).splitlines(), 1):
        fields = line.split("\t", len(_SCP) - 1)
        if not line.strip():
            continue
        if len(fields) < len(_SCP):
            found.fault(f"{path}:{number}: has {len(fields)} fields between tabs, needs {len(_SCP)}: {', '.join(_SCP)}")
            continue
        found.counts["rows"] += 1
        yield f"{path}:{number}", fields[1], dict(zip(_SCP[2:], fields[2:], strict=True))
