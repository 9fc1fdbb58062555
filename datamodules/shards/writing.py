"""Writing one shard: every recording decoded, measured and checked, then its questions and its bytes into a tar."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from functools import lru_cache
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np

from ...boundary.files import open_regular, read_bytes, replacing
from ...curriculum.identity import hash64
from ...errors import InputError
from ..audio.kinds import kind_of
from ..audio.levels import check_signal
from ..audio.mp3 import Data
from ..audio.waves import flac_bytes, whole
from ..questions.datasets import load_saved_dataset
from .jobs import Job
from .recordings import spooled_recordings
from .sample import MAX_JSON
from .spool import Clip

_MAPPED = 1 << 24  # bytes from which on a file is not read into memory


def pack_shard(job: Job) -> tuple[list[dict[str, str]], list[str]]:
    """Writes one shard beside its place, then renames it; returns the questions that had to be left out, and what was
    done to recordings beyond resampling, a sentence each."""
    left_out: list[dict[str, str]] = []
    notes: list[str] = []
    with replacing(job.target) as file, tarfile.open(fileobj=file, mode="w|") as tar:
        for clip in job.clips():
            try:
                extension, data, about, note = _recording(job, clip)
                content = _content(clip, about)
            except InputError as error:
                if job.stop:
                    raise
                left_out += [{"question": key, "reason": str(error)} for key in clip.keys]
                continue
            # json first, so that a plain stream can decide before it reads the audio
            key = f"{hash64('clip', *clip.name):016x}"
            _add(tar, f"{key}.json", content)
            _add(tar, f"{key}.{extension}", data)
            notes += [note] if note else []
    return left_out, notes


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Appends a member that anybody may read, without time or owner: the bytes of a shard depend on its input alone."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(data), 0o444, 0
    tar.addfile(member, io.BytesIO(data))


def _content(clip: Clip, about: dict[str, Any]) -> bytes:
    """The sample's json; about: its recording. Raises InputError where it is longer than readers accept."""
    content = {"audio_path": clip.path, "recording": about, "questions": clip.questions}
    data = json.dumps(content, ensure_ascii=False).encode()
    if len(data) > MAX_JSON:
        raise InputError(f"{clip.path}: its questions take {len(data)} bytes; shorten them, {MAX_JSON} are read")
    return data


def _recording(job: Job, clip: Clip) -> tuple[str, bytes, dict[str, Any], str]:
    """Extension and bytes of a recording as they go into the shard, its levels, and what was done to it, if anything.

    Raises InputError where it cannot be used.
    """
    where = f"{job.dataset}[{clip.rows[0]}]" if clip.rows else str(Path(job.root) / clip.path)
    data = _row_bytes(job, clip.rows[0]) if clip.rows else _file_bytes(Path(where))
    other = next((row for row in clip.rows[1:] if _row_bytes(job, row) != data), None)
    if other is not None:
        raise InputError(f"{where}: another recording than in row {other}, under the same audio_path {clip.path!r}")
    cut = job.cut if clip.segment is None else replace(job.cut, start=clip.segment.start, end=clip.segment.end)
    if job.original and cut.is_part:
        raise InputError(
            f"{where}: only a part of the file is asked about, so it cannot be kept as it is; pack as flac"
        )
    recording = whole(data, where, cut)
    check_signal(recording.levels, where)
    if job.original:
        if recording.part is not None:
            raise InputError(f"{where}: is longer than {cut.max_s:g} s, and cannot be kept as it is; pack as flac")
        return _extension(clip.path, data, where), bytes(data[:]), recording.levels.record(), ""
    scaled = recording.within_full_scale()
    about: dict[str, Any] = scaled.levels.record()
    notes = []
    part = recording.part[:2] if recording.part is not None else clip.segment
    if part is not None:
        about["seconds_of_file"] = list(part)
    if recording.part is not None:
        notes.append(f"of its {recording.part[2]:.0f} s, {recording.part[0]:g} to {recording.part[1]:g} s were taken")
    if scaled is not recording:
        about["gain_db"] = round(-recording.levels.peak_db, 2)
        notes.append(f"its peak was {10 ** (recording.levels.peak_db / 20):.2f}; scaled down to full scale")
    return "flac", flac_bytes(scaled.wave), about, f"{where}: {'; '.join(notes)}" if notes else ""


def _extension(path: str, data: Data, where: str) -> str:
    """The extension of a recording that is kept as it is: that of its name, if it is one of its kind's."""
    kind, _ = kind_of(data, where)
    extension = Path(path).suffix[1:].lower()
    return extension if extension in kind.extensions else kind.extensions[0]


def _file_bytes(path: Path) -> Data:
    try:
        if path.is_file():  # a pipe would be read for ever
            if path.stat().st_size < _MAPPED:
                return read_bytes(path, _MAPPED)
            with open_regular(path) as file:
                return mmap(file.fileno(), 0, access=ACCESS_READ)
        raise InputError(f"{path}: no such recording; is `audio_root` right?")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


@lru_cache(maxsize=2)
def _saved(dataset: str, recordings: str, dataset_print: str) -> tuple[list[int], list[Any]]:
    """(last row + 1 of each part, parts) of a dataset; dataset_print: so that one saved anew is read anew."""
    if recordings:
        parts: list[Any] = spooled_recordings(recordings)
    else:
        parts = [part.select_columns(["audio"]) for _, part in load_saved_dataset(Path(dataset))]
    return list(np.cumsum([len(part) for part in parts])), parts


def _row_bytes(job: Job, row: int) -> bytes:
    """The recording in a row of a saved dataset; raises InputError where it is not embedded."""
    ends, parts = _saved(job.dataset, job.recordings, job.dataset_print)
    part = int(np.searchsorted(ends, row, side="right"))
    try:
        audio = parts[part][int(row - (ends[part - 1] if part else 0))]["audio"]
    except (OSError, ValueError) as error:
        raise InputError(f"{job.dataset}[{row}]: the saved dataset is damaged ({error!s:.120})") from None
    data: bytes | None = audio if isinstance(audio, bytes) else (audio or {}).get("bytes")
    if data is None:
        path = (audio or {}).get("path")
        raise InputError(
            f"{job.dataset}[{row}]: the recording {path!r} is not stored in the dataset; embed it when saving"
        )
    return data
