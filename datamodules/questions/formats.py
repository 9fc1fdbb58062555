"""Annotation files as records: JSON, JSONL, CSV and TSV here, Parquet and saved datasets in `datasets.py`.

A source is one file, or a folder of several that count as one. Reading is lazy: a list of a million records in one
JSON file is never in memory as a whole. What cannot be read is an InputError in the record's stead, so that the records
behind it can still be read, or is raised where nothing behind it can be trusted.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from ...boundary.files import bounded_lines, open_regular
from ...errors import InputError
from .question import DECODER, parse_json

TEXT_KINDS = (".jsonl", ".json", ".csv", ".tsv")
_MAX_FIELD = 1 << 20
_MAX_RECORD = 1 << 23  # characters of one record in a JSON list
_MAX_OBJECT = 1 << 27
_CHUNK = 1 << 20
_MARKS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"))
_MARKS += ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))  # type: ignore[assignment]
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z", ".xlsx", ".pkl", ".npy")
_SHARD_NAME = re.compile(r"(.+)-\d{5}-of-\d{5}")
_SPLIT_WORD = re.compile(
    r"(?:^|[^a-z])(train|training|val|valid|validation|dev|test|testing|eval|evaluation)(?=[^a-z]|$)", re.IGNORECASE
)


class Record(NamedTuple):
    """One record of a source: its number, the record (or an InputError), and what its file says of it.

    row: of the dataset that holds the recording's bytes, or -1. split: by the name of its file or part, or "".
    """

    number: int
    value: Any
    row: int = -1
    split: str = ""


class TextFile:
    """The records of one JSON, JSONL, CSV or TSV file; every one has a number, which `where` turns into its place."""

    holds_recordings = False

    def __init__(self, path: Path, encoding: str = "", split: str = "", alone: bool = True) -> None:
        self.path, self.encoding, self.split, self.alone = path, encoding, split, alone
        self.kind = path.suffix.lower()

    def where(self, number: int) -> str:
        """The place of a record, for messages: file and line, or file and place in the list."""
        return f"{self.path}[{number}]" if self.kind == ".json" else f"{self.path}:{number}"

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        if not self.path.is_file():
            raise InputError(f"{self.path}: no such annotation file")
        if self.kind in _PACKED:
            raise InputError(f"{self.path}: {self.kind} files are not read; unpack it to JSON, JSONL, CSV or Parquet")
        if self.kind == ".json":
            yield from self._json()
        elif self.kind in (".csv", ".tsv"):
            yield from self._table()
        else:
            for number, line in self._lines():
                if isinstance(line, InputError):
                    yield number, line
                elif line.strip():
                    yield number, _value(line, self.where(number))

    def _codec(self) -> str:
        """The encoding: as given, by the file's byte order mark, else UTF-8; InputError where it is UTF-16 unmarked."""
        if self.encoding:
            return self.encoding
        with open_regular(self.path) as file:
            start = file.read(4)
        if len(start) == 4 and start.count(0) == 2 and start[:2] not in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise InputError(f"{self.path}: looks like UTF-16; give its encoding, e.g. --encoding utf-16-le")
        return next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8-sig")

    def _lines(self) -> Iterator[tuple[int, str | InputError]]:
        """Numbered lines; in UTF-8 one that is no text is an InputError, in its stead."""
        codec = self._codec()
        if codec != "utf-8-sig":
            with self.path.open(encoding=codec, newline="\n") as text:
                try:
                    yield from enumerate(bounded_lines(text, _MAX_RECORD, str(self.path)), 1)
                except UnicodeError as error:
                    raise InputError(f"{self.path}: not {codec} ({_reason(error)}); {_other(codec)}") from None
            return
        with open_regular(self.path) as file:
            for number, line in enumerate(bounded_lines(file, _MAX_RECORD, str(self.path)), 1):
                try:
                    yield number, line.decode("utf-8-sig")
                except UnicodeDecodeError as error:
                    yield number, InputError(f"{self.path}:{number}: not UTF-8 ({error.reason}); {_other(codec)}")

    def _json(self) -> Iterator[tuple[int, Any]]:
        """The records of a JSON file: those of its list, which is read piece by piece, or of its object."""
        codec = self._codec()
        with self.path.open(encoding=codec, newline="") as file:
            try:
                start = file.read(_CHUNK)
                if start.lstrip().startswith("["):
                    yield from enumerate(list_items(start, file, self.path))
                else:
                    whole = start + file.read(_MAX_OBJECT)
                    if len(whole) > _MAX_OBJECT:
                        raise InputError(f"{self.path}: an object of more than {_MAX_OBJECT:,} characters; write JSONL")
                    content = parse_json(whole, f"{self.path}:1") if start.strip() else []
                    yield from enumerate(self._of_object(content))
            except UnicodeError as error:
                if codec != "utf-8-sig":
                    raise InputError(f"{self.path}: not {codec} ({_reason(error)}); {_other(codec)}") from None
                fault = next((line for _, line in self._lines() if isinstance(line, InputError)), None)
                raise fault or InputError(f"{self.path}: not UTF-8; {_other(codec)}") from None

    def _of_object(self, content: Any) -> Iterable[Any]:
        """The records of an object: its values where all are objects, its list of objects, or itself, a record."""
        if isinstance(content, dict) and content:
            if all(isinstance(value, dict) for value in content.values()):
                return [{"id": name, **value} for name, value in content.items()]
            lists = [v for v in content.values() if isinstance(v, list) and v and all(isinstance(r, dict) for r in v)]
            if len(lists) == 1:
                records: list[Any] = lists[0]
                return records
            if not self.alone:
                return [{"id": self.path.stem, **content}]
        raise InputError(
            f"{self.path}: must hold a list of questions, got {type(content).__name__}; an object is read where its "
            "values are questions, or where it holds one list of them"
        )

    def _table(self) -> Iterator[tuple[int, Any]]:
        """Rows of a table with a header; an empty cell is a missing value."""
        csv.field_size_limit(_MAX_FIELD)
        number = 0

        def lines() -> Iterator[str]:
            nonlocal number
            for number, line in self._lines():  # noqa: B007
                if isinstance(line, InputError):
                    raise line
                yield line

        reader = csv.DictReader(lines(), strict=True, dialect="excel-tab" if self.kind == ".tsv" else "excel")
        try:
            names = reader.fieldnames or []
            if len(set(names)) != len(names):
                raise InputError(f"{self.path}:1: a column name occurs twice in {listed(names)}")
            if len(names) == 1 and (other := next((mark for mark in ";\t|," if mark in names[0]), None)):
                raise InputError(
                    f"{self.path}:1: its columns are divided by {other!r}; .csv is read with commas, .tsv with tabs"
                )
            for row in reader:
                if None in row or None in row.values():
                    fault = f"{self.path}:{number}: the row does not have as many fields as the header ({len(names)})"
                    yield number, InputError(fault)
                    continue
                yield number, {name: value for name, value in row.items() if value != ""}
        except csv.Error as error:
            raise InputError(f"{self.path}:{number}: not CSV: {error}") from None


def list_items(text: str, file: TextIO, path: Path) -> Iterator[Any]:
    """The items of a JSON list, one by one, an InputError for one that is JSON but not allowed.

    text: the file's beginning, which was read already. Raises InputError, with the line, where the list is damaged.
    """
    lines, at, ended, number = 1, text.index("[") + 1, False, 0
    while True:
        while True:  # enough text for one item and the comma behind it
            item, at, fault = _item(text, at, first=number == 0, path=path, number=number)
            if fault is None or ended or len(text) - at > _MAX_RECORD:
                break
            more = file.read(max(_CHUNK, len(text) - at))
            lines += text.count("\n", 0, at)
            text, at, ended = text[at:] + more, 0, not more
        if fault is not None:
            line = lines + text.count("\n", 0, getattr(fault, "pos", at))
            if isinstance(fault, json.JSONDecodeError):
                raise InputError(f"{path}:{line}: not JSON: {fault.msg}")
            raise InputError(f"{path}:{line}: not JSON that can be read: {fault}")
        if item is _END:
            rest = text[at:] + file.read(_CHUNK)
            if rest.strip():
                line = lines + text.count("\n", 0, at) + rest.count("\n", 0, len(rest) - len(rest.lstrip()))
                raise InputError(f"{path}:{line}: not JSON: Extra data")
            return
        yield item
        number += 1


_END = object()
_SPACE = re.compile(r"[ \t\n\r]*")
_PLAIN = json.JSONDecoder()


def _item(text: str, at: int, first: bool, path: Path, number: int) -> tuple[Any, int, Exception | None]:
    """The next item of a list (or _END), the place behind it, and the fault where there is none (yet)."""
    start = _SPACE.match(text, at).end()  # type: ignore[union-attr]
    if text[start : start + 1] == "]":
        return _END, start + 1, None
    if not first:
        if text[start : start + 1] != ",":
            return None, at, json.JSONDecodeError("Expecting ',' delimiter", text, start)
        start = _SPACE.match(text, start + 1).end()  # type: ignore[union-attr]
    try:
        item, end = DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        return None, at, error
    except (ValueError, RecursionError) as error:  # a key twice, NaN, or nested too deep
        try:
            end = _PLAIN.raw_decode(text, start)[1]
        except (ValueError, RecursionError):
            return None, at, error
        item = InputError(f"{path}[{number}]: not JSON that can be read: {error}")
    if _SPACE.match(text, end).end() == len(text):  # type: ignore[union-attr]  # a number may go on
        return None, at, json.JSONDecodeError("Expecting ',' delimiter", text, len(text))
    return item, end, None


def _value(text: str, where: str) -> Any:
    """The value of a JSON text, or the error as a value: the records behind it can still be read."""
    try:
        return parse_json(text, where)
    except InputError as error:
        return error


def _reason(error: UnicodeError) -> str:
    return error.reason if isinstance(error, UnicodeDecodeError) else str(error)


def _other(codec: str) -> str:
    return "--encoding cp1252 reads files of Windows" if codec == "utf-8-sig" else "give another --encoding"


def listed(names: Iterable[object]) -> str:
    """Column names for a message: on one line, control characters escaped, at most 300 letters."""
    return f"{', '.join(repr(str(name))[1:-1] for name in names):.300}"


def checked_encoding(encoding: str) -> str:
    """The name of a text encoding as given, "" for UTF-8 or what a byte order mark says; InputError for no such."""
    try:
        good = not encoding or codecs.lookup(encoding)._is_text_encoding
    except LookupError:
        good = False
    if not good:
        raise InputError(f"encoding: {encoding!r} is no text encoding; give e.g. utf-8, utf-16, cp1252, latin-1")
    return encoding


def split_of_name(path: Path, folder: Path) -> str:
    """The split that a file's name or folder says, as it is written there ("validation", "train_clean"), or ""."""
    stem = path.stem
    if sharded := _SHARD_NAME.fullmatch(stem):
        return sharded[1]
    for part in (stem, *(p.name for p in path.parents if p != folder and folder in p.parents)):
        if words := {word.lower() for word in _SPLIT_WORD.findall(part)}:
            return words.pop() if len(words) == 1 else ""
    return ""


def text_files(folder: Path, encoding: str) -> list[TextFile]:
    """The annotation files of a folder without Parquet files, all of one kind; InputError where there are none."""
    by_kind: dict[str, list[Path]] = {}
    for path in visible(folder):
        if path.suffix.lower() in TEXT_KINDS and not _about(path):
            by_kind.setdefault(path.suffix.lower(), []).append(path)
    if not by_kind:
        raise InputError(
            f"{folder}: holds no annotation file; give a file, a saved dataset, or a folder of {', '.join(TEXT_KINDS)} "
            "or .parquet files"
        )
    if len(by_kind) > 1:
        shown = ", ".join(files[0].name for files in by_kind.values())
        raise InputError(f"{folder}: holds annotation files of several kinds ({shown}); name one file")
    (files,) = by_kind.values()
    return [TextFile(path, encoding, split_of_name(path, folder), alone=False) for path in files]


def visible(folder: Path) -> Iterator[Path]:
    """The files of a folder and its folders, in order of their names, without hidden ones such as .git and ._x."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _about(path: Path) -> bool:
    """Whether a file describes a dataset rather than being it."""
    return path.name in ("dataset_infos.json", "dataset_info.json", "state.json", "dataset_dict.json", "config.json")
