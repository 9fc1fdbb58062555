"""Knows how one shard is read for the index: its samples as rows, and what is wrong with the others.

A sample is one `.json` and one recording with the same key, standing together. Recordings are checked without decoding
them unless asked: their header, their length and whether their container is whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from ..curriculum.identity import hash64
from ..errors import InputError
from .audio import SAMPLE_RATE, decode, probe
from .question import Question, parse_json, parse_question
from .tar import Member, walk_tar

AUDIO_EXTENSIONS = ("flac", "wav", "mp3", "ogg", "opus")
_MAX_JSON = 1 << 20


@dataclass
class Fault:
    """What is wrong with a sample or one of its questions, and which members are lost by it."""

    shard: str
    sample: str
    reason: str
    members: list[str] = field(default_factory=list)
    question: str = ""


@dataclass
class Scan:
    """One shard: rows of its good questions, what is wrong with the rest, and the count of its members."""

    shard: str
    size: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    members: int = 0
    ignored: int = 0
    damaged: bool = False


def clip_of(data: bytes) -> int:
    """Identity and checksum of a recording: xxh3-64 of its bytes, read at several GB/s."""
    return xxhash.xxh3_64_intdigest(data)


def scan_shard(
    path: str, name: str, ignore: Sequence[str] = (), decoded: bool = False, stop_at_fault: bool = True
) -> Scan:
    """Reads one tar under the name the index will call it.

    ignore: extensions of members that are not read. decoded: decode every recording. stop_at_fault: raise the first
    fault as an InputError instead of listing it; a damaged archive then is one fault that loses all its members.
    """
    scan = Scan(name, Path(path).stat().st_size if Path(path).is_file() else 0)
    finished: set[str] = set()
    try:
        with open(path, "rb") as file:
            for members in _samples(path, scan, ignore):
                key = members[0].key
                try:
                    if key in finished:
                        raise InputError(f"{path}: members of sample {key!r} do not stand together; repack the shard")
                    scan.rows += _sample_rows(path, file, members, scan, decoded, stop_at_fault)
                except InputError as error:
                    if stop_at_fault:
                        raise
                    scan.faults.append(Fault(name, key, str(error), [m.name for m in members]))
                finished.add(key)
    except (InputError, OSError) as error:
        if stop_at_fault or isinstance(error, OSError):
            raise InputError(str(error)) from None
        return _damaged(path, scan, str(error))
    return scan


def _damaged(path: str, scan: Scan, reason: str) -> Scan:
    """Nothing of a damaged archive is used: what its walk did not reach would be missing without a word."""
    names = []
    try:
        for member in walk_tar(path):
            names.append(member.name)
    except InputError:
        pass
    return Scan(scan.shard, scan.size, faults=[Fault(scan.shard, "", reason, names)], members=len(names), damaged=True)


def _samples(path: str, scan: Scan, ignore: Sequence[str]) -> Iterator[list[Member]]:
    """Members that stand together and have one key."""
    sample: list[Member] = []
    for member in walk_tar(path):
        scan.members += 1
        if member.extension in ignore:
            scan.ignored += 1
            continue
        if sample and member.key != sample[0].key:
            yield sample
            sample = []
        sample.append(member)
    if sample:
        yield sample


def _sample_rows(
    path: str, file: BinaryIO, members: list[Member], scan: Scan, decoded: bool, stop_at_fault: bool
) -> list[dict[str, Any]]:
    where = f"{path}:{members[0].key}"
    text, sound = _pair(members, where)
    questions = list(_questions(_read(file, text), where, scan, stop_at_fault))
    data = _read(file, sound)
    sound_where = f"{where}.{sound.extension}"
    num_samples = len(decode(data, sound_where)) if decoded else probe(data, sound_where)
    clip = clip_of(data)
    return [
        {
            "uid": question.uid,
            "key": question.key,
            "clip": clip,
            "question": hash64("question", question.question, *sorted(question.choices)),
            "split": question.split,
            "question_type": question.question_type,
            "source": question.source,
            "num_choices": len(question.choices),
            "duration_s": num_samples / SAMPLE_RATE,
            "num_samples": num_samples,
            "shard": scan.shard,
            "json_offset": text.offset,
            "json_size": text.size,
            "question_no": number,
            "audio_offset": sound.offset,
            "audio_size": sound.size,
            "audio_ext": sound.extension,
            "audio_contribution": question.audio_contribution or None,
        }
        for number, question in questions
    ]


def _pair(members: list[Member], where: str) -> tuple[Member, Member]:
    """The text and the recording of a sample that is just these two."""
    extensions = [m.extension for m in members]
    unknown = [e for e in extensions if e != "json" and e not in AUDIO_EXTENSIONS]
    if unknown:
        raise InputError(
            f"{where}: member type .{unknown[0]} is not read; a sample is one .json and one recording, "
            "other members can be ignored by name"
        )
    pairs = list(zip(members, extensions, strict=True))
    texts, sounds = ([m for m, e in pairs if (e == "json") == is_text] for is_text in (True, False))
    if len(texts) != 1 or len(sounds) != 1:
        raise InputError(f"{where}: a sample is one .json and one recording, got {[m.name for m in members]}")
    return texts[0], sounds[0]


def _questions(data: bytes, where: str, scan: Scan, stop_at_fault: bool) -> Iterator[tuple[int, Question]]:
    """Numbered questions of a sample; where not the first fault counts, a bad one is left out by itself."""
    records = _question_records(data, where)
    lost: list[int] = []
    for number, record in enumerate(records):
        try:
            yield number, parse_question(record, f"{where}.json")
        except InputError as error:
            if stop_at_fault or len(lost) + 1 == len(records):
                raise
            lost.append(number)
            scan.faults.append(Fault(scan.shard, where, str(error), question=f"question {number}"))


def parse_questions(data: bytes, where: str) -> list[Question]:
    """The questions of a sample's json: `{"questions": [record, ...]}`, or one record."""
    return [parse_question(record, f"{where}.json") for record in _question_records(data, where)]


def question_at(data: bytes, number: int, where: str) -> Question | None:
    """One of the questions, None where there are fewer."""
    records = _question_records(data, where)
    return parse_question(records[number], f"{where}.json") if number < len(records) else None


def _question_records(data: bytes, where: str) -> list[Any]:
    if len(data) > _MAX_JSON:
        raise InputError(f"{where}.json: {len(data)} bytes is more than the {_MAX_JSON} allowed")
    content = parse_json(data, f"{where}.json")
    records = content.get("questions", [content]) if isinstance(content, dict) else None
    if not isinstance(records, list) or not records:
        raise InputError(f"{where}.json: must be a question or an object with a list of `questions`")
    return records


def _read(file: BinaryIO, member: Member) -> bytes:
    file.seek(member.offset)
    return file.read(member.size)
