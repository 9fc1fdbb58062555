"""The store of a voter's answers: a line of JSON each, appended as they come, read back after any interruption.

An answer is identified by (uid, condition, rotation, draw). A line that was cut off by a kill is dropped, and its
question is asked again; every whole line is kept. What was said is kept as it was, so that another rule can judge it
again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

from ...boundary.environment import hidden, hidden_in
from ...boundary.files import (
    bounded_lines,
    made_folder,
    open_regular,
    open_to_append,
    read_json,
    write_bytes,
    write_text,
)
from ...curriculum.contribution.verdicts import verdict_in
from ...curriculum.table import write_arrow
from ...errors import InputError

_MOST_OF_LINE = 64 << 20
ANSWER_SCHEMA = pa.schema(
    {
        "uid": pa.uint64(),
        "key": pa.string(),
        "condition": pa.string(),
        "label": pa.string(),
        "raw": pa.string(),
        "answer": pa.string(),
        "correct": pa.bool_(),  # null in votes that are neither right nor wrong, and where nothing was judged
        "verdict": pa.string(),  # right, wrong, unfinished or unreadable; null where the request failed
        "num_tokens": pa.int32(),
        "finished": pa.bool_(),
        "rotation": pa.int8(),
        "draw": pa.int16(),
        "scores": pa.list_(pa.float32()),  # log-prob of each option, in the order of the file
        "p_right": pa.float32(),
        "right_option": pa.int8(),  # place of the right one in the order of the file
    }
)


class AnswerId(NamedTuple):
    """What identifies an answer: question, condition, rotation of the options, and draw."""

    uid: int
    condition: str
    rotation: int = 0
    draw: int = 0


def answer_id(record: Mapping[str, Any]) -> AnswerId:
    """The identity of the answer in a record; rotation and draw are 0 where it has none."""
    return AnswerId(int(record["uid"]), record["condition"], int(record.get("rotation", 0)), int(record.get("draw", 0)))


class AnswerStore:
    """Answers in `FILE.asked/rank0.jsonl`, ...: each process appends to a file of its own and reads all of them."""

    def __init__(self, file: str | Path, rank: int = 0) -> None:
        self.file = Path(file)
        self.folder = self.file.with_suffix(".asked")
        self.path = self.folder / f"rank{rank}.jsonl"
        self._description = self.folder / "asked.json"

    def read(self) -> list[dict[str, Any]]:
        """The records of all processes; of two with one identity the first. InputError for a damaged line."""
        records: dict[AnswerId, dict[str, Any]] = {}
        for identity, record in self._lines():
            records.setdefault(identity, record)
        return list(records.values())

    def _lines(self) -> Iterator[tuple[AnswerId, dict[str, Any]]]:
        """(identity, record) of every whole line, one in memory at a time."""
        for path in sorted(self.folder.glob("rank*.jsonl")):
            for number, line in enumerate(_whole_lines(path), 1):
                try:
                    record = json.loads(line)
                    identity = answer_id(record)
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
                    raise InputError(f"{path}:{number}: not a stored answer; remove the line to ask again") from None
                yield identity, record

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Appends records and syncs them to disk; half a surrogate pair, which no file can hold, becomes "?"."""
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        if not lines:
            return
        made_folder(self.folder)
        with open_to_append(self.path) as file:
            if file.tell() and not _ends_with_line(file):
                file.truncate(_end_of_last_line(self.path))
            file.write(hidden(lines).encode("utf-8", "replace"))
            file.flush()
            os.fsync(file.fileno())

    def missing(self, wanted: Iterable[AnswerId]) -> list[AnswerId]:
        """The wanted answers that are not stored yet, in their order."""
        done = {identity for identity, _ in self._lines()}
        return [identity for identity in wanted if identity not in done]

    def finish(self) -> int:
        """Writes all answers as one table `file`, by condition, question, rotation and draw; returns their number.

        InputError where a value is not of its column's kind.
        """
        try:
            records = sorted(self.read(), key=lambda r: (r["condition"], r["uid"], *answer_id(r)[2:]))
            write_answers(records, self.file)
        except (pa.ArrowException, TypeError, OverflowError, AttributeError) as error:
            raise InputError(f"{self.folder}: a stored answer holds a value of another kind ({error!s:.100})") from None
        return len(records)

    def refuse_changed(self, name: str, described: Mapping[str, Any], free: Collection[str] = ()) -> None:
        """Raises InputError where the stored answers were given to other prompts or settings, naming what changed.

        name: of the voter. described: how it is asked, in JSON's types; free: the keys of it that may change. Without
        answers, all may.
        """
        if not self._description.is_file() or not self.read():
            return
        before, now = hidden_in(self.described()), hidden_in(json.loads(json.dumps(described)))
        for key in sorted({*before, *now} - set(free)):
            if before.get(key) != now.get(key):
                raise InputError(
                    f"{self.folder}: {name} was asked with {key} {before.get(key)!r}, now it is {now.get(key)!r}; "
                    "remove the folder to ask anew, or give the voter another name"
                )

    def tokens(self) -> tuple[int, int]:
        """Tokens of all prompts and of all answers, whichever run asked; lines of before tokens were kept count 0."""
        asked = said = 0
        for _, record in self._lines():
            asked += record.get("prompt_tokens") or 0
            said += record.get("num_tokens") or 0
        return asked, said

    def described(self) -> dict[str, Any]:
        """What was written down of how the voter is asked and judged; {} where nothing was."""
        described = read_json(self._description) if self._description.is_file() else {}
        if not isinstance(described, dict):
            raise InputError(f"{self._description}: not the description of a voter; remove the folder to ask anew")
        return described

    def rewrite(self, change: Callable[[Sequence[Mapping[str, Any]]], list[dict[str, Any]]]) -> None:
        """Writes every stored record as `change` makes it, which is given those of one process after the other.

        Each process's file appears whole or not at all; nobody may append meanwhile.
        """
        for path in sorted(self.folder.glob("rank*.jsonl")):
            records = change([json.loads(line) for line in _whole_lines(path)])
            text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            write_bytes(path, text.encode("utf-8", "replace"))

    def remember(self, described: Mapping[str, Any]) -> None:
        """Writes down how a voter is asked, for `refuse_changed`; the file appears whole or not at all."""
        made_folder(self.folder)
        write_text(self._description, json.dumps(hidden_in(described), indent=1))


def write_answers(records: Iterable[Mapping[str, Any]], path: str | Path) -> None:
    """Writes records as an answer table (ANSWER_SCHEMA).

    Fields that one lacks are null, rotation and draw 0, and the verdict what `correct` says.
    """
    whole = [{"rotation": 0, "draw": 0} | dict(record) | {"verdict": verdict_in(record)} for record in records]
    write_arrow(pa.Table.from_pylist(whole, ANSWER_SCHEMA), path)


def _ends_with_line(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _end_of_last_line(path: Path) -> int:
    return sum(len(line) for line in _whole_lines(path))


def _whole_lines(path: Path) -> Iterator[bytes]:
    """The lines that have an end; behind the last one's is a line that was cut off, or nothing."""
    with open_regular(path) as file:
        yield from (line for line in bounded_lines(file, _MOST_OF_LINE, str(path)) if line.endswith(b"\n"))
