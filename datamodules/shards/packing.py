"""Packing recordings and questions into shards: WebDataset tars that any tool can read, with an index beside them.

A sample is one recording: `<clip>.json` with all its questions, then `<clip>.flac`, 16 kHz mono, or the file as it
was. Recordings are ordered by a hash, so that neighbours in a shard are unrelated; the bytes depend on the input alone.
Shards are written by several processes, each under another name first: an interrupted packing continues, a repeated one
does nothing.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
import webdataset as wds

from ...curriculum.identity import hash64
from ...errors import InputError
from ...progress import track
from ..audio.waves import SAMPLE_RATE, whole
from ..questions.datasets import Source, load_saved_dataset
from ..questions.fields import Fields
from .done import Done
from .index import build_index, check_kept_names
from .jobs import LAYOUT, Job, jobs_of
from .recordings import spool_recordings, spooled_recordings
from .sample import AUDIO_EXTENSIONS, MAX_JSON
from .spool import Clip, Spool


def flac_bytes(wave: np.ndarray) -> bytes:
    """A 16-bit flac file of a wave at 16 kHz; what is louder than full scale is scaled down, never clipped."""
    buffer = io.BytesIO()
    peak = float(np.abs(wave).max())
    soundfile.write(buffer, wave / max(1.0, peak), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def shard(
    annotations: str,
    out: str,
    audio_root: str | None = None,
    samples_per_shard: int = 1_000,
    fields: Fields | None = None,
    audio: Literal["flac", "original"] = "flac",
    on_bad: Literal["stop", "quarantine"] = "stop",
    holdout: Mapping[str, float] | None = None,
    workers: int = 1,
) -> dict[str, int | float]:
    """Packs annotations into `out/shard-000000.tar` ... and writes `out/index.arrow`.

    Args:
        annotations: JSON, JSONL, CSV, TSV or Parquet file, a folder as on the Hugging Face hub, or a dataset saved on
            disk; several questions may name the same `audio_path`.
        out: folder of the shards and the index.
        audio_root: folder the audio paths are relative to; default the annotation file's own, or the hub folder.
        samples_per_shard: recordings per tar.
        fields: how the file's columns are read.
        audio: "flac" converts to 16 kHz mono flac, "original" keeps the files' bytes.
        on_bad: "stop" at the first fault, or "quarantine": leave it out and list it in `packing.quarantine.jsonl`.
        holdout: split -> share of the recordings, for questions that name no split.
        workers: processes.

    Every question is accounted for: questions = packed + left out. Returns the counts of `build_index`, and `shards`.
    Raises InputError for bad arguments and, with "stop", for the first bad question or recording.
    """
    if audio not in ("flac", "original") or on_bad not in ("stop", "quarantine"):
        raise InputError(f"audio is 'flac' or 'original', on_bad 'stop' or 'quarantine'; got {audio!r}, {on_bad!r}")
    if samples_per_shard < 1:
        raise InputError(f"samples_per_shard must be at least 1, got {samples_per_shard}")
    fields, folder = Fields.of(fields), Path(out)
    check_kept_names(fields)
    source = Source(annotations, fields.encoding)
    folder.mkdir(parents=True, exist_ok=True)
    root = str(audio_root or (annotations if source.is_folder else Path(annotations).parent))
    how = [LAYOUT, root, samples_per_shard, fields.record(), audio, on_bad, dict(holdout or {}), annotations]
    done = Done(folder, f"{hash64(json.dumps(how), source.stamps()):016x}", root)
    if (counts := done.counts()) is not None and "." not in fields.layout:  # a user's layout may have changed
        return counts
    left_out: list[dict[str, str]] = []
    spool = Spool(folder / "questions.spool", root, str(Path(annotations).parent))
    try:
        jobs = jobs_of(
            spool, source, fields, folder, samples_per_shard, audio == "original", on_bad == "stop", left_out
        )
        done.remember(spool)
        packed = _pack_all(jobs, folder, workers)
        for job in jobs:
            left_out += packed[Path(job.target).name]["left_out"]
    finally:
        spool.close()
        (folder / "recordings.spool").unlink(missing_ok=True)
    _write_left_out(left_out, folder / "packing.quarantine.jsonl")
    counts = build_index(str(folder), on_bad=on_bad, holdout=holdout, workers=workers) | {"shards": len(jobs)}
    counts |= {"left_out": len(left_out)} if left_out else {}
    done.write(counts)
    return counts


def _pack_all(jobs: list[Job], folder: Path, workers: int) -> dict[str, dict[str, Any]]:
    """Writes the shards that are not there yet; returns by name what each was made of, its size and what it left out.

    After each shard this record is written to `packing.json`, so that an interrupted packing continues there.
    """
    record = folder / "packing.json"
    done = _read_record(record)
    prints = {job.target: job.fingerprint for job in jobs}
    names = {Path(job.target).name for job in jobs}
    for stale in [*folder.glob("shard-*.tar"), *folder.glob("*.partial")]:
        if stale.name not in names:
            stale.unlink()
    done = {name: entry for name, entry in done.items() if name in names and _is_whole(folder / name, entry)}
    todo = [job for job in jobs if not _is_done(job, prints[job.target], done.get(Path(job.target).name))]
    if todo and todo[0].recordings:
        spool_recordings(Path(todo[0].dataset), Path(todo[0].recordings))
    for job, left_out in track(_packed(todo, workers), f"packing {len(todo)} shards", len(todo)):
        target = Path(job.target)
        done[target.name] = {"made_of": prints[job.target], "size": target.stat().st_size, "left_out": left_out}
        scratch = record.with_suffix(".partial")
        scratch.write_text(json.dumps(dict(sorted(done.items()))))
        scratch.replace(record)
    return done


def _read_record(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(path.read_text())
        return {name: {k: entry[k] for k in ("made_of", "size", "left_out")} for name, entry in content.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}  # nothing is known to be done


def _is_whole(path: Path, entry: dict[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == entry["size"]


def _is_done(job: Job, made_of: str, entry: dict[str, Any] | None) -> bool:
    """Whether the shard is already packed; where this run stops at faults, one that left out anything is not."""
    return entry is not None and entry["made_of"] == made_of and not (job.stop and entry["left_out"])


def _packed(jobs: list[Job], workers: int) -> Iterator[tuple[Job, list[dict[str, str]]]]:
    """Packs the jobs; yields each, as it is done, with the questions that had to be left out."""
    if workers <= 1 or len(jobs) <= 1:
        yield from ((job, _pack(job)) for job in jobs)
        return
    with ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn")) as pool:
        futures = {pool.submit(_pack, job): job for job in jobs}
        try:
            for future in as_completed(futures):  # recorded in this order, so that none is packed again after a kill
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _pack(job: Job) -> list[dict[str, str]]:
    """Writes one shard beside its place, then renames it; returns the questions that had to be left out."""
    left_out: list[dict[str, str]] = []
    scratch = Path(job.target + ".partial")
    with scratch.open("wb") as file, wds.TarWriter(file, encoder=False, mtime=0) as writer:
        for clip in job.clips():
            try:
                content, (extension, data) = _content(clip), _recording(job, clip)
            except InputError as error:
                if job.stop:
                    raise
                left_out += [{"question": key, "reason": str(error)} for key in clip.keys]
                continue
            # Two writes of one key: the writer sorts the members of one write by extension, and json must come first
            # so that a plain stream can decide before it reads the audio.
            key = f"{hash64('clip', clip.path):016x}"
            writer.write({"__key__": key, "json": content})
            writer.write({"__key__": key, extension: data})
    scratch.replace(job.target)
    return left_out


def _content(clip: Clip) -> bytes:
    """The sample's json; raises InputError where it is longer than readers accept."""
    content = {"audio_path": clip.path, "questions": clip.questions}
    data = json.dumps(content, ensure_ascii=False).encode()
    if len(data) > MAX_JSON:
        raise InputError(f"{clip.path}: its questions take {len(data)} bytes; shorten them, {MAX_JSON} are read")
    return data


def _recording(job: Job, clip: Clip) -> tuple[str, bytes]:
    """Extension and bytes of a recording as they go into the shard; raises InputError where it cannot be used."""
    where = f"{job.dataset}[{clip.rows[0]}]" if clip.rows else str(Path(job.root) / clip.path)
    data = _row_bytes(job, clip.rows[0]) if clip.rows else _file_bytes(Path(where))
    other = next((row for row in clip.rows[1:] if _row_bytes(job, row) != data), None)
    if other is not None:
        raise InputError(f"{where}: another recording than in row {other}, under the same audio_path {clip.path!r}")
    wave = whole(data, where)
    if not job.original:
        return "flac", flac_bytes(wave)
    extension = Path(clip.path).suffix[1:].lower()
    if clip.rows and extension not in AUDIO_EXTENSIONS:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            extension = {"MPEG": "mp3", "WAVEX": "wav"}.get(file.format, file.format.lower())
    if extension not in AUDIO_EXTENSIONS:
        raise InputError(f"{where}: .{extension} cannot be kept as it is; pack as flac ({', '.join(AUDIO_EXTENSIONS)})")
    return extension, data


def _file_bytes(path: Path) -> bytes:
    try:
        if path.is_file():  # a pipe would be read for ever
            return path.read_bytes()
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


def _write_left_out(left_out: list[dict[str, str]], path: Path) -> None:
    if left_out:
        lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in left_out)
        path.write_text(lines, "utf-8", "backslashreplace")  # half a letter of a file name is then its JSON escape
    else:
        path.unlink(missing_ok=True)
