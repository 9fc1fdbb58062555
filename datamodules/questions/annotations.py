"""Annotation files: checked questions with the paths of their recordings, from every kind of file in `formats.py`."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ...boundary.words import say
from ...errors import InputError
from .datasets import Source
from .fields import FieldReader, Fields
from .question import Question, text_of
from .segments import Segment


class Annotation(NamedTuple):
    """A question, the path of its recording, the row of the dataset that holds the recording's bytes (or -1), and the
    part of the recording that the question is about, if not all of it."""

    question: Question
    audio_path: str
    row: int = -1
    segment: Segment | None = None


def read_annotations(
    path: str | Path, fields: Fields | Mapping[str, Any] | None = None, faults: list[str] | None = None
) -> list[Annotation]:
    """Checked questions with the path of their recording, in the order of the file; see `iter_annotations`."""
    return list(iter_annotations(path, fields, faults))


def iter_annotations(
    path: str | Path,
    fields: Fields | Mapping[str, Any] | None = None,
    faults: list[str] | None = None,
    notes: bool = False,
) -> Iterator[Annotation]:
    """Checked questions one by one, in the order of the file, which is never in memory as a whole.

    fields: how its columns are read. faults: where given, bad records are listed there and left out; otherwise the
    first is raised as an InputError that names its place. notes: say on stderr which columns are not used.
    """
    count = 0
    for _, annotation in annotated(path, fields, notes):
        if isinstance(annotation, InputError):
            if faults is None:
                raise annotation
            faults.append(str(annotation))
        elif annotation is not None:
            count += 1
            yield annotation
    if not count:
        raise InputError(f"{path}: holds no question" + (f"; the first fault: {faults[0]}" if faults else ""))


def annotated(
    path: str | Path, fields: Fields | Mapping[str, Any] | None = None, notes: bool = False
) -> Iterator[tuple[Any, Annotation | InputError | None]]:
    """Every record of a file as it stands there, with what is read of it, in order; arguments as of `iter_annotations`.

    That is a checked question, or what is wrong with the record, or None where its split is left out. Raises InputError
    where the file itself cannot be read.
    """
    fields = Fields.of(fields)
    source = Source(path, fields.encoding)
    reader = FieldReader(fields, segments=True)
    if fields.answer == "auto":
        reader.decide((source.where(r.number), r.value, r.split) for r in source)
    places = _Places(source)
    for record in source:
        where = source.where(record.number)
        found: Annotation | InputError | None
        try:
            found = _annotation(reader, record.value, where, record.row, record.split)
            if found is not None:
                places.add(found.question, record.number)
        except InputError as error:
            found = error
        yield record.value, found
    reader.check_kept()
    for line in reader.notes() if notes else ():
        say(f"{path}: {line}", file=sys.stderr)


def _annotation(reader: FieldReader, record: Any, where: str, row: int, split: str) -> Annotation | None:
    """A checked question with its recording; None where its split is left out."""
    if isinstance(record, InputError):
        raise record
    if row >= 0 and isinstance(record, Mapping):
        record = {"audio_path": f"row-{row}", **record}
    read = reader.question(record, where, split)
    if read is None:
        return None
    try:
        path = text_of({"audio_path": read.audio_path}, "audio_path", where)
        return Annotation(read.question, path, row, read.segment)
    except InputError as error:
        raise InputError(f"{error}{reader.hint(record, record, str(error))}") from None


class _Places:
    """The identities seen so far with the numbers of their records, as columns: one given twice is refused."""

    def __init__(self, source: Source) -> None:
        self.source, self.uids, self.numbers = source, set[int](), array("q")
        self.order = array("Q")

    def add(self, question: Question, number: int) -> None:
        """Remembers a question; raises InputError with both places where its identity was given before."""
        uid = question.uid
        if uid in self.uids:
            first = self.numbers[self.order.index(uid)]
            raise InputError(
                f"{self.source.where(number)}: {question.key} was already given at {self.source.where(first)}"
            )
        self.uids.add(uid)
        self.order.append(uid)
        self.numbers.append(number)
