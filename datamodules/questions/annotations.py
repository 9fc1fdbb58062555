"""Annotation files: questions from JSON lists, JSONL, CSV, and Hugging Face datasets saved on disk.

All are read as records of the AudioMCQ layout; a column map says which of our fields a file calls differently, and a
layout rewrites records of another form. A Hugging Face dataset may hold its recordings itself, in a column `audio`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ...errors import InputError
from .layouts import layout_named
from .question import OPTIONAL, REQUIRED, Question, parse_json, parse_question, text_of

FIELDS = (*REQUIRED, *OPTIONAL, "audio_path")
ColumnMap = Mapping[str, str | Sequence[str]]
_HF_SPLITS = {"train": "train", "validation": "val", "val": "val", "test": "test"}
_TEXT = ("string", "large_string")
_MAX_FIELD = 1 << 20


class Annotation(NamedTuple):
    """A question, the path of its recording, and the row of the dataset that holds the recording's bytes (or -1)."""

    question: Question
    audio_path: str
    row: int = -1


def read_annotations(
    path: str | Path,
    column_map: ColumnMap | None = None,
    faults: list[str] | None = None,
    layout: str = "audiomcq",
) -> list[Annotation]:
    """Checked questions with the path of their recording, in the order of the file.

    column_map: our field -> the file's, e.g. {"structured_cot": "cot", "choices": ["A", "B", "C", "D"]}; several
    columns become the list of choices. faults: where given, bad records are listed there and left out; otherwise the
    first is raised as an InputError that names its place. layout: of the records, see `layouts.py`.
    """
    path, rename, convert = Path(path), dict(column_map or {}), layout_named(layout)
    unknown = [name for name in rename if name not in FIELDS]
    if unknown:
        raise InputError(f"column_map: unknown field {unknown[0]!r}; the fields are {', '.join(FIELDS)}")
    for ours, theirs in rename.items():
        names = [theirs] if isinstance(theirs, str) else theirs
        if not isinstance(names, Sequence) or not names or not all(name and isinstance(name, str) for name in names):
            raise InputError(f"column_map: {ours} must be a column's name or a list of names, got {theirs!r}")
    rows: list[Annotation] = []
    seen: dict[int, str] = {}
    for where, record, row in _records(path, rename):
        try:
            if isinstance(record, Mapping):
                record = _converted(convert, record, f"{where}: layout {layout!r}")
            rows.append(_annotation(where, record, row, rename, seen))
        except InputError as error:
            if faults is None:
                raise
            faults.append(str(error))
    if not rows:
        raise InputError(f"{path}: holds no question" + (f"; the first fault: {faults[0]}" if faults else ""))
    return rows


def _converted(convert: Callable[..., Any], record: Mapping[str, Any], where: str) -> Any:
    """The record in the AudioMCQ layout; what a layout of the user's stumbles over is a fault of the record."""
    try:
        return convert(record)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{where} cannot read the record ({type(error).__name__}: {error!s:.120})") from error


def _annotation(where: str, record: Any, row: int, rename: ColumnMap, seen: dict[int, str]) -> Annotation:
    """A checked question; `seen` (uid -> place) gets it, so that an identity given twice is refused."""
    if isinstance(record, InputError):
        raise record
    if isinstance(record, Mapping):
        record = _renamed(record, rename, where)
    question = parse_question(record, where)
    if question.uid in seen:
        raise InputError(f"{where}: {question.key} was already given at {seen[question.uid]}")
    path = text_of(record, "audio_path", where)
    seen[question.uid] = where
    return Annotation(question, path, row)


def _renamed(record: Mapping[str, Any], rename: ColumnMap, where: str) -> dict[str, Any]:
    """The record with our field names; a missing column of an optional field is left out."""
    renamed = dict(record)
    for ours, theirs in rename.items():
        names = [theirs] if isinstance(theirs, str) else list(theirs)
        missing = [name for name in names if name not in record]
        if missing and ours in OPTIONAL:
            renamed.pop(ours, None)
            continue
        if missing:
            raise InputError(f"{where}: no column {missing[0]!r} for {ours}; there are {_listed(record)}")
        values = [record[name] for name in names]
        renamed[ours] = values[0] if isinstance(theirs, str) else [v for v in values if v not in (None, "")]
    return renamed


def _listed(names: Iterable[object]) -> str:
    """The file's column names for a message: on one line, control characters escaped, at most 300 letters."""
    return f"{', '.join(repr(str(name))[1:-1] for name in names):.300}"


def _records(path: Path, rename: ColumnMap) -> Iterator[tuple[str, Any, int]]:
    """Place, record (or the InputError in its stead), and row of every question."""
    if path.is_dir():
        yield from _hugging_face(path)
        return
    if not path.is_file():
        raise InputError(f"{path}: no such annotation file")
    kind = path.suffix.lower()
    with path.open("rb") as file:
        if kind == ".json":
            content = _whole(file.read(), path)
            if not isinstance(content, list):
                raise InputError(f"{path}: must hold a list of questions, got {type(content).__name__}")
            yield from ((f"{path}[{place}]", record, -1) for place, record in enumerate(content))
        elif kind == ".csv":
            yield from _csv(path, file, rename)
        else:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}:{number}", _value(line, f"{path}:{number}"), -1


def _text(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 ({error.reason})") from None


def _value(text: str | bytes, where: str) -> Any:
    """The value of a JSON text, or the error as a value: the records behind it can still be read."""
    try:
        return parse_json(_text(text, where) if isinstance(text, bytes) else text, where)
    except InputError as error:
        return error


def _whole(data: bytes, path: Path) -> Any:
    """The value of a whole JSON file; an InputError says in which line it is damaged."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: not UTF-8 ({error.reason})") from None
    try:
        return parse_json(text, f"{path}:1")
    except InputError:
        try:
            json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
        except (ValueError, RecursionError):
            pass
        raise


def _csv(path: Path, file: BinaryIO, rename: ColumnMap) -> Iterator[tuple[str, Any, int]]:
    """Rows of a CSV with a header; `choices` is a JSON list in its cell, empty cells of optional fields are missing."""
    csv.field_size_limit(_MAX_FIELD)
    optional = [*OPTIONAL, "audio-contribution", *(rename[name] for name in OPTIONAL if name in rename)]
    options = rename.get("choices", "choices")
    number = 0

    def lines() -> Iterator[str]:
        nonlocal number
        for number, line in enumerate(file, 1):
            yield _text(line, f"{path}:{number}")

    reader = csv.DictReader(lines(), strict=True)
    try:
        names = reader.fieldnames or []
        if len(set(names)) != len(names):
            raise InputError(f"{path}:1: a column name occurs twice in {_listed(names)}")
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if None in row or None in row.values():
                fault = f"{where}: the row does not have as many fields as the header ({len(names)})"
                yield where, InputError(fault), -1
                continue
            record: Any = {k: v for k, v in row.items() if v != "" or k not in optional}
            if isinstance(options, str) and options in record:
                choices = _value(record[options], f"{where}: column {options}")
                record = choices if isinstance(choices, InputError) else record | {options: choices}
            yield where, record, -1
    except csv.Error as error:
        raise InputError(f"{path}:{number}: not CSV: {error}") from None


def load_saved_dataset(path: Path) -> list[tuple[str, Any]]:
    """(split, dataset) pairs of a Hugging Face dataset saved on disk; recordings stay undecoded bytes.

    Raises InputError without the package `datasets`, where the folder holds no saved dataset, and for other splits.
    """
    try:
        import datasets
    except ImportError as error:
        raise InputError(f"{path}: a saved dataset needs a package: pip install 'earwitness[hf]'") from error
    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, NotImplementedError) as error:
        raise InputError(f"{path}: not a dataset saved by Hugging Face datasets ({error!s:.120})") from None
    parts = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"": loaded}
    unknown = [name for name in parts if name and name not in _HF_SPLITS]
    if unknown:
        raise InputError(f"{path}: unknown split {unknown[0]!r}; the splits are {', '.join(_HF_SPLITS)}")
    pairs = []
    for name, part in parts.items():
        for column, feature in part.features.items():
            if isinstance(feature, datasets.Audio):
                part = part.cast_column(column, datasets.Audio(decode=False))
        pairs.append((_HF_SPLITS.get(name, ""), part.with_format(None)))
    return pairs


def _hugging_face(path: Path) -> Iterator[tuple[str, Any, int]]:
    """Records of all splits; the row numbers run on from split to split."""
    number = 0
    for split, part in load_saved_dataset(path):
        # A text column `audio` is the path of a file, not the file.
        held = "audio" in part.column_names and getattr(part.features["audio"], "dtype", "") not in _TEXT
        texts = part.remove_columns("audio") if held else part
        try:
            for record in texts:
                record = {k: v for k, v in record.items() if v is not None}
                if split:
                    record.setdefault("split", split)
                if held:
                    record.setdefault("audio_path", f"row-{number}")
                yield f"{path}[{number}]", record, number if held else -1
                number += 1
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}[{number}]: the saved dataset is damaged ({error!s:.120})") from None
