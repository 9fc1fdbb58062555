"""One sample of a shard: a .json with its questions and one recording, with the same key, standing together."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from ...curriculum.identity import hash64
from ...errors import InputError
from ..audio.kinds import EXTENSIONS
from ..questions.fields import FieldReader, Fields
from ..questions.question import Question, parse_json
from .tar import Member, walk_tar

AUDIO_EXTENSIONS = EXTENSIONS
MAX_JSON, MAX_AUDIO = 1 << 20, 512 << 20  # bytes of a sample's text and of its recording
SORT = "sort its members by name, as `tar --sort=name -cf new.tar FILES` does"


def pair_of(path: str, members: list[Member]) -> tuple[Member, Member]:
    """The .json and the recording of a sample; raises InputError that says what is wrong with its names or order."""
    where, names = f"{path}:{members[0].key}", [m.name for m in members]
    texts = [m for m in members if m.extension == "json"]
    sounds = [m for m in members if m.extension in AUDIO_EXTENSIONS]
    others = [m for m in members if m not in texts and m not in sounds]
    if others and not (texts and sounds):
        dotted = next((m for m in others if m.extension.rpartition(".")[2] in ("json", *AUDIO_EXTENSIONS)), None)
        if dotted is not None:
            key = dotted.key.rpartition("/")[2]
            raise InputError(
                f"{where}: {dotted.name!r} has a dot in its name: WebDataset takes {key!r} as the sample's key and "
                f"{dotted.extension!r} as the kind of member; rename it with _ in the place of the first dot"
            )
    if others:
        raise InputError(
            f"{where}: member type .{others[0].extension} is not read ({others[0].name!r}); a sample is one .json and "
            f"one recording, other members can be ignored by name (--ignore {others[0].extension})"
        )
    if len(texts) > 1 or len(sounds) > 1:
        twice = "two .json members" if len(texts) > 1 else "two recordings"
        raise InputError(f"{where}: a sample is one .json and one recording, and this one has {twice}: {names}")
    if not texts or not sounds:
        lacking = "recording" if texts else ".json"
        apart = Counter(member.key for member in walk_tar(path) if not member.is_junk)[members[0].key] > len(members)
        reason = f"its {lacking} stands elsewhere in the tar; {SORT}" if apart else f"there is no {lacking}"
        raise InputError(f"{where}: a sample is one .json and one recording, got {names}: {reason}")
    return texts[0], sounds[0]


def question_reader(fields: Fields) -> FieldReader:
    """Reads the questions of samples; answers are texts where nothing else is said, and plain options stay as they are.

    What decides how answers are written must be the same for every shard, so that it is never taken from some of them.
    """
    return FieldReader(fields, "text" if fields.answer == "auto" else "", carried=not fields.plain)


def questions_of(
    data: bytes, where: str, reader: FieldReader, stop_at_fault: bool
) -> tuple[list[tuple[int, Question]], list[tuple[int, str]]]:
    """Good questions of a sample and reasons against the others, both numbered; InputError where none is good."""
    good: list[tuple[int, Question]] = []
    bad: list[tuple[int, str]] = []
    for number, record in enumerate(_question_records(data, where)):
        try:
            read = reader.question(record, f"{where}.json")
            if read is not None:
                good.append((number, read.question))
        except InputError as error:
            if stop_at_fault:
                raise
            bad.append((number, str(error)))
    if bad and not good:
        raise InputError(bad[0][1] + (f" (none of its {len(bad)} questions can be used)" if len(bad) > 1 else ""))
    return good, bad


def parse_questions(data: bytes, where: str, reader: FieldReader) -> list[Question]:
    """The questions of a sample's json, `{"questions": [record, ...]}` or one record; InputError for a bad one."""
    read = [reader.question(record, f"{where}.json") for record in _question_records(data, where)]
    return [found.question for found in filter(None, read)]


def question_at(data: bytes, number: int, where: str, reader: FieldReader) -> Question | None:
    """Question `number` of a sample's json, from 0 on; None where it has fewer. Raises InputError for a bad one."""
    records = _question_records(data, where)
    read = reader.question(records[number], f"{where}.json") if number < len(records) else None
    return read.question if read else None


def about_recording(data: bytes) -> dict[str, Any]:
    """What a sample's json, which was read before, says of its recording besides the questions."""
    content = json.loads(data)
    about = content.get("recording") if isinstance(content, dict) else None
    if not isinstance(about, dict):
        return {}
    part = about.get("seconds_of_file")
    return about | ({"file": str(content.get("audio_path"))} if isinstance(part, list) else {})


def file_of(about: dict[str, Any], clip: int) -> int:
    """Identity of the file that a recording is a part of; that of the recording itself where it is all of it."""
    return hash64("file", about["file"]) if "file" in about else clip


def _question_records(data: bytes, where: str) -> list[Any]:
    if len(data) > MAX_JSON:
        raise InputError(f"{where}.json: {len(data)} bytes is more than the {MAX_JSON} allowed")
    content = parse_json(data, f"{where}.json")
    records = content.get("questions", [content]) if isinstance(content, dict) else content
    if not isinstance(records, list) or not records:
        raise InputError(f"{where}.json: must be a question, a list of them or an object with a list of `questions`")
    return records
