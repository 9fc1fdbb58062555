"""Scanning shards for the index: good samples become rows, and every other member is listed with what is wrong.

A sample is one `.json` and one recording with the same key, standing together. Recordings are checked without decoding
them unless asked: their header, their length and whether their container is whole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import xxhash

from ...boundary.files import open_regular
from ...curriculum.identity import hash64
from ...errors import InputError
from ..audio.decoding import opened
from ..audio.levels import LEVELS, check_signal, levels_of
from ..audio.waves import SAMPLE_RATE, probe, whole
from ..questions.fields import FieldReader, Fields
from ..storage.address import joined, redacted
from ..storage.files import Reading, RemoteFiles
from ..storage.ranges import Shard
from .sample import MAX_AUDIO, MAX_JSON, SORT, about_recording, file_of, pair_of, question_reader, questions_of
from .tar import Member, walk_tar

FILE = "file"  # of a row: equal where recordings are of one file, which then go into one split
KEPT = "kept"  # of a row: the columns that were kept of its question, {name: value}
UNANSWERED = "unanswered"  # the column of an index that has questions without answers


@dataclass
class Fault:
    """What is wrong with a sample or one of its questions, and the members that the index leaves out for it.

    question: its number or key where the fault is one question's.
    """

    shard: str
    sample: str
    reason: str
    members: list[str] = field(default_factory=list)
    question: str = ""


@dataclass
class Scan:
    """What one shard holds: rows of its good questions, faults of the rest, and the numbers of its members.

    table: the rows as columns of the index, once they are. seen: columns of its questions -> how many have them.
    size: bytes. damaged: the archive itself is, and none of it is used.
    """

    shard: str
    size: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    members: int = 0
    ignored: int = 0
    damaged: bool = False
    seen: dict[str, int] = field(default_factory=dict)
    table: pa.Table | None = None


def clip_of(data: bytes) -> int:
    """Identity and checksum of a recording: xxh3-64 of its bytes, read at several GB/s."""
    return xxhash.xxh3_64_intdigest(data)


Scanner = Callable[[str, str], Scan]  # of a local path and the name of its shard


def scan_all(root: str, names: list[str], scan: Scanner, workers: int, remote: bool) -> Iterator[tuple[Scan, Shard]]:
    """Scans of the shards, in order, by several processes; a remote shard is copied, scanned, and the copy removed."""
    with ExitStack() as stack:
        if remote:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="earwitness-"))
            scan_name = partial(_scan_remote, root, folder, scan)
        else:
            scan_name = partial(_scan_local, root, scan)
        if workers <= 1:
            yield from map(scan_name, names)
            return
        pool = stack.enter_context(ProcessPoolExecutor(min(workers, len(names)), get_context("spawn")))
        futures = [pool.submit(scan_name, name) for name in names]
        try:
            for future in futures:
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _scan_local(root: str, scan: Scanner, name: str) -> tuple[Scan, Shard]:
    """The scan of a local shard, and what the index remembers of the shard."""
    scanned = scan(joined(root, name), name)
    return scanned, Shard(scanned.size)


def _scan_remote(root: str, folder: str, scan: Scanner, name: str) -> tuple[Scan, Shard]:
    """The scan of a remote shard, by a copy in `folder`; messages name the shard, not the copy."""
    path = Path(folder) / f"{hash64(name):016x}.tar"
    files = RemoteFiles(root, {}, Reading())
    try:
        etag = files.copy_shard(name, str(path))
        scanned = scan(str(path), name)
        for fault in scanned.faults:
            fault.reason = fault.reason.replace(str(path), redacted(joined(root, name)))
        return scanned, Shard(scanned.size, etag)
    except InputError as error:
        raise InputError(str(error).replace(str(path), redacted(joined(root, name)))) from None
    finally:
        files.close()
        path.unlink(missing_ok=True)


def scan_shard(
    path: str,
    name: str,
    ignore: Sequence[str] = (),
    decoded: bool = False,
    stop_at_fault: bool = True,
    fields: Fields | None = None,
) -> Scan:
    """The scan of one tar; name: what the index calls it.

    ignore: extensions of members that are not read. decoded: decode every recording. stop_at_fault: raise the first
    fault as an InputError; otherwise faults are listed, and a damaged archive is one that loses all its members.
    fields: how the questions' columns are read.
    """
    if not Path(path).is_file():  # never quarantined: nobody meant it to be missing; and a pipe would be read for ever
        raise InputError(f"{path}: no such shard")
    scan = Scan(name, Path(path).stat().st_size)
    reader = question_reader(fields or Fields())
    finished: set[str] = set()
    try:
        with open_regular(path) as file:
            for members in _samples(path, scan, ignore):
                key = members[0].key
                try:
                    if key in finished:
                        raise InputError(f"{path}: members of sample {key!r} do not stand together; {SORT}")
                    text, sound = pair_of(path, members)
                    scan.rows += _sample_rows(path, file, text, sound, scan, reader, decoded, stop_at_fault)
                except InputError as error:
                    if stop_at_fault:
                        raise
                    scan.faults.append(Fault(name, key, str(error), [m.name for m in members]))
                finished.add(key)
    except (InputError, OSError) as error:
        if stop_at_fault or isinstance(error, OSError):
            raise InputError(str(error)) from None
        return _damaged(path, scan, str(error))
    scan.seen = reader.seen
    return scan


def _damaged(path: str, scan: Scan, reason: str) -> Scan:
    """The scan of a damaged archive. Nothing of it is used: what its walk did not reach would be missing silently."""
    names = []
    try:
        for member in walk_tar(path):
            names.append(member.name)
    except InputError:
        pass
    return Scan(scan.shard, scan.size, faults=[Fault(scan.shard, "", reason, names)], members=len(names), damaged=True)


def _samples(path: str, scan: Scan, ignore: Sequence[str]) -> Iterator[list[Member]]:
    """The members of each sample: those that stand together and have one key."""
    sample: list[Member] = []
    for member in walk_tar(path):
        scan.members += 1
        if member.is_junk or member.extension in ignore:
            scan.ignored += 1
            continue
        if sample and member.key != sample[0].key:
            yield sample
            sample = []
        sample.append(member)
    if sample:
        yield sample


def _sample_rows(
    path: str,
    file: BinaryIO,
    text: Member,
    sound: Member,
    scan: Scan,
    reader: FieldReader,
    decoded: bool,
    stop_at_fault: bool,
) -> list[dict[str, Any]]:
    """Rows of the index for a sample's good questions; faults of the others are added to the scan."""
    where = f"{path}:{text.key}"
    words = _read(file, text, path)
    questions, bad = questions_of(words, where, reader, stop_at_fault)
    if not questions and not bad:  # all of splits that are left out
        scan.ignored += 2
        return []
    data = _read(file, sound, path)
    sound_where = f"{where}.{sound.extension}"
    num_samples, levels = _heard(data, sound_where, decoded)
    clip, about = clip_of(data), about_recording(words)
    levels = levels_of(about) or levels
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
            FILE: file_of(about, clip),
            **{name: levels.get(name) for name in LEVELS},
            KEPT: dict(question.columns) | ({} if question.answer else {UNANSWERED: True}),
        }
        for number, question in questions
    ]


def _heard(data: bytes, where: str, decoded: bool) -> tuple[int, dict[str, float]]:
    """Samples at 16 kHz of a recording and its levels, if it is decoded: if wanted, or if its header says no length.

    Raises InputError where it is damaged, and where nothing can be heard in it.
    """
    if not decoded and opened(data, where).plain is not None:
        return probe(data, where), {}
    recording = whole(data, where)
    check_signal(recording.levels, where)
    return len(recording.wave), recording.levels.record()


def _read(file: BinaryIO, member: Member, path: str) -> bytes:
    most = MAX_JSON if member.extension == "json" else MAX_AUDIO
    if member.size > most:  # in a file with holes it would take no room but memory
        raise InputError(f"{path}:{member.name}: {member.size} bytes is more than the {most} allowed")
    file.seek(member.offset)
    data = file.read(member.size)
    if len(data) != member.size:
        raise InputError(f"{path}: member {member.name!r} became shorter while it was read")
    return data
