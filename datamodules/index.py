"""Knows where every question lies: one row per question, with the byte ranges of its text and its recording.

Columns: uid, key, clip (hash of the audio bytes), question (hash of the text and the options), split, question_type,
source, num_choices, duration_s, num_samples, shard (relative to the index), json_offset, json_size, question_no,
audio_offset, audio_size, audio_ext, audio_crc.
Any uncompressed WebDataset tar of json + audio pairs can be indexed; labels live in a table of their own.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..curriculum.identity import hash64
from ..curriculum.table import write_arrow
from ..errors import InputError
from ..progress import track
from .audio import SAMPLE_RATE, decode
from .question import Question, parse_question
from .tar import Member, walk_tar

AUDIO_EXTENSIONS = ("flac", "wav", "mp3", "ogg", "opus")
_MAX_JSON = 1 << 20
_DICTIONARY = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    {
        "uid": pa.uint64(),
        "key": pa.string(),
        "clip": pa.uint64(),
        "question": pa.uint64(),
        "split": _DICTIONARY,
        "question_type": _DICTIONARY,
        "source": _DICTIONARY,
        "num_choices": pa.int8(),
        "duration_s": pa.float32(),
        "num_samples": pa.int64(),
        "shard": _DICTIONARY,
        "json_offset": pa.int64(),
        "json_size": pa.int64(),
        "question_no": pa.int32(),
        "audio_offset": pa.int64(),
        "audio_size": pa.int64(),
        "audio_ext": _DICTIONARY,
        "audio_crc": pa.uint32(),
    }
)


def build_index(shards: str, out: str | None = None) -> dict:
    """Indexes all `*.tar` of a folder (or one tar) and writes `index.arrow` beside them.

    Every sample is checked: whole archive, json and audio present and adjacent, valid questions, a decodable and
    finite recording, no identity twice. The first fault raises an InputError that names the shard and the member.

    Returns counts: questions, clips, hours.
    """
    root = Path(shards)
    tars = [root] if root.is_file() else sorted(root.glob("*.tar"))
    if not tars:
        raise InputError(f"{root}: no *.tar to index there")
    rows: list[dict[str, Any]] = []
    seen: dict[int, str] = {}
    clips: dict[int, float] = {}
    for tar in tars:
        for row in track(_index_shard(tar), f"indexing {tar.name}"):
            where = f"{tar}:{row['key']}"
            if row["uid"] in seen:
                raise InputError(f"{where}: this question is already in {seen[row['uid']]}")
            seen[row["uid"]] = where
            clips[row["clip"]] = row["duration_s"]
            rows.append(row)
    if not rows:
        raise InputError(f"{root}: the shards hold no question")
    folder = root.parent if root.is_file() else root
    write_arrow(pa.Table.from_pylist(rows, SCHEMA), out or folder / "index.arrow")
    return {"questions": len(rows), "clips": len(clips), "hours": round(sum(clips.values()) / 3600, 3)}


def _index_shard(path: Path) -> Iterator[dict[str, Any]]:
    sample: list[Member] = []
    finished: set[str] = set()
    with path.open("rb") as file:
        for member in walk_tar(path):
            if sample and member.key != sample[0].key:
                yield from _index_sample(path, file, sample)
                finished.add(sample[0].key)
                sample = []
            if member.key in finished:
                raise InputError(f"{path}: members of sample {member.key!r} do not stand together; repack the shard")
            sample.append(member)
        if sample:
            yield from _index_sample(path, file, sample)


def _index_sample(path: Path, file, members: list[Member]) -> Iterator[dict[str, Any]]:
    where = f"{path}:{members[0].key}"
    by_extension = {member.extension: member for member in members}
    unknown = [e for e in by_extension if e != "json" and e not in AUDIO_EXTENSIONS]
    if unknown:
        raise InputError(f"{where}: member type .{unknown[0]} is not read; a sample is one .json and one recording")
    audio = [m for e, m in by_extension.items() if e != "json"]
    if "json" not in by_extension or len(audio) != 1 or len(members) != 2:
        raise InputError(f"{where}: a sample is one .json and one recording, got {[m.name for m in members]}")
    text, sound = by_extension["json"], audio[0]
    questions = parse_questions(_read(file, text), where)
    data = _read(file, sound)
    wave = decode(data, f"{where}.{sound.extension}")
    for number, question in enumerate(questions):
        yield {
            "uid": question.uid,
            "key": question.key,
            "clip": hash64("audio", hashlib.blake2b(data).hexdigest()),
            "question": hash64("question", question.question, *sorted(question.choices)),
            "split": question.split,
            "question_type": question.question_type,
            "source": question.source,
            "num_choices": len(question.choices),
            "duration_s": len(wave) / SAMPLE_RATE,
            "num_samples": len(wave),
            "shard": path.name,
            "json_offset": text.offset,
            "json_size": text.size,
            "question_no": number,
            "audio_offset": sound.offset,
            "audio_size": sound.size,
            "audio_ext": sound.extension,
            "audio_crc": zlib.crc32(data),
        }


def parse_questions(data: bytes, where: str) -> list[Question]:
    """The questions of a sample's json: `{"questions": [record, ...]}`, or one record."""
    if len(data) > _MAX_JSON:
        raise InputError(f"{where}.json: {len(data)} bytes is more than the {_MAX_JSON} allowed")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}.json: not JSON ({error})") from None
    records = content.get("questions", [content]) if isinstance(content, dict) else None
    if not isinstance(records, list) or not records:
        raise InputError(f"{where}.json: must be a question or an object with a list of `questions`")
    return [parse_question(record, f"{where}.json") for record in records]


def _read(file, member: Member) -> bytes:
    file.seek(member.offset)
    return file.read(member.size)
