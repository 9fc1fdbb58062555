"""Knows how shards are read for the index: their samples as rows, and what is wrong with the others.

A sample is one `.json` and one recording with the same key, standing together. Recordings are checked without decoding
them unless asked: their header, their length and whether their container is whole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from ...curriculum.identity import hash64
from ...errors import InputError
from ..audio.waves import SAMPLE_RATE, probe, whole
from ..questions.question import Question, parse_json, parse_question
from ..storage.address import joined, redacted
from ..storage.files import Reading, RemoteFiles, Shard
from .tar import Member, walk_tar

AUDIO_EXTENSIONS = ("flac", "wav", "mp3", "ogg", "opus")
MAX_JSON = 1 << 20


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


def scan_all(root: str, names: list[str], look: Any, workers: int, remote: bool) -> Iterator[tuple[Scan, Shard]]:
    """The shards' scans in order, by several processes; remote shards are copied one by one, and the copy removed."""
    with ExitStack() as stack:
        if remote:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="earwitness-")))
            look = partial(_scan_remote, root, str(folder), look)
        else:
            look = partial(_scan_local, root, look)
        if workers <= 1:
            yield from map(look, names)
            return
        pool = stack.enter_context(ProcessPoolExecutor(min(workers, len(names)), get_context("spawn")))
        futures = [pool.submit(look, name) for name in names]
        try:
            for future in futures:
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _scan_local(root: str, look: Any, name: str) -> tuple[Scan, Shard]:
    """A shard's scan by `look(path, name)`, and what the index remembers of it."""
    scan = look(joined(root, name), name)
    return scan, Shard(scan.size)


def _scan_remote(root: str, folder: str, look: Any, name: str) -> tuple[Scan, Shard]:
    """The same of a copy of a remote shard; messages name the shard, not the copy."""
    path = Path(folder) / f"{hash64(name):016x}.tar"
    files = RemoteFiles(root, {}, Reading())
    try:
        etag = files.copy_shard(name, str(path))
        scan = look(str(path), name)
        for fault in scan.faults:
            fault.reason = fault.reason.replace(str(path), redacted(joined(root, name)))
        return scan, Shard(scan.size, etag)
    except InputError as error:
        raise InputError(str(error).replace(str(path), redacted(joined(root, name)))) from None
    finally:
        files.close()
        path.unlink(missing_ok=True)


def scan_shard(
    path: str, name: str, ignore: Sequence[str] = (), decoded: bool = False, stop_at_fault: bool = True
) -> Scan:
    """Reads one tar under the name the index will call it.

    ignore: extensions of members that are not read. decoded: decode every recording. stop_at_fault: raise the first
    fault as an InputError instead of listing it; a damaged archive then is one fault that loses all its members.
    """
    if not Path(path).is_file():  # never quarantined: nobody meant it to be missing; and a pipe would be read for ever
        raise InputError(f"{path}: no such shard")
    scan = Scan(name, Path(path).stat().st_size)
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
    questions, bad = _questions(_read(file, text, path), where, stop_at_fault)
    data = _read(file, sound, path)
    sound_where = f"{where}.{sound.extension}"
    num_samples = len(whole(data, sound_where)) if decoded else probe(data, sound_where)
    clip = clip_of(data)
    scan.faults += [Fault(scan.shard, text.key, reason, question=f"question {number}") for number, reason in bad]
    return [
        {
            "uid": question.uid,
            "key": question.key,
            "clip": clip,
            "question": question.content,
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


def _questions(
    data: bytes, where: str, stop_at_fault: bool
) -> tuple[list[tuple[int, Question]], list[tuple[int, str]]]:
    """Numbered questions of a sample, and numbered reasons; a sample without a good question is itself a fault."""
    good: list[tuple[int, Question]] = []
    bad: list[tuple[int, str]] = []
    for number, record in enumerate(_question_records(data, where)):
        try:
            good.append((number, parse_question(record, f"{where}.json")))
        except InputError as error:
            if stop_at_fault:
                raise
            bad.append((number, str(error)))
    if not good:
        raise InputError(bad[0][1] + (f" (none of its {len(bad)} questions can be used)" if len(bad) > 1 else ""))
    return good, bad


def parse_questions(data: bytes, where: str) -> list[Question]:
    """The questions of a sample's json: `{"questions": [record, ...]}`, or one record."""
    return [parse_question(record, f"{where}.json") for record in _question_records(data, where)]


def question_at(data: bytes, number: int, where: str) -> Question | None:
    """One of the questions, None where there are fewer."""
    records = _question_records(data, where)
    return parse_question(records[number], f"{where}.json") if number < len(records) else None


def _question_records(data: bytes, where: str) -> list[Any]:
    if len(data) > MAX_JSON:
        raise InputError(f"{where}.json: {len(data)} bytes is more than the {MAX_JSON} allowed")
    content = parse_json(data, f"{where}.json")
    records = content.get("questions", [content]) if isinstance(content, dict) else None
    if not isinstance(records, list) or not records:
        raise InputError(f"{where}.json: must be a question or an object with a list of `questions`")
    return records


def _read(file: BinaryIO, member: Member, path: str) -> bytes:
    file.seek(member.offset)
    data = file.read(member.size)
    if len(data) != member.size:
        raise InputError(f"{path}: member {member.name!r} became shorter while it was read")
    return data
