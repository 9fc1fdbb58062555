"""Packing recordings and questions into shards: WebDataset tars that any tool can read, with an index beside them.

A sample is one recording: `<clip>.json` with all its questions, then `<clip>.flac`, 16 kHz mono, or the file as it
was. Recordings are ordered by a hash, so that neighbours in a shard are unrelated; the bytes depend on the input alone.
Shards are written by several processes, each under another name first: an interrupted packing continues, a repeated one
does nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from ...boundary.files import alone_in, made_folder, read_json, write_text
from ...boundary.words import say
from ...curriculum.identity import hash64
from ...errors import InputError
from ...progress import track
from ..audio.waves import Cut
from ..questions.datasets import Source
from ..questions.fields import Fields
from .done import Done
from .index import build_index, check_kept_names
from .jobs import LAYOUT, Job, jobs_of
from .recordings import spool_recordings
from .spool import Spool
from .writing import pack_shard


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
    cut: Cut | Mapping[str, Any] | None = None,
) -> dict[str, int | float]:
    """Packs annotations into `out/shard-000000.tar` ... and writes `out/index.arrow`.

    Args:
        annotations: JSON, JSONL, CSV, TSV or Parquet file, a folder as on the Hugging Face hub, or a dataset saved on
            disk; several questions may name the same `audio_path`.
        audio_root: folder the audio paths are relative to; default the annotation file's own, or the hub folder.
        out: folder of the shards and the index. samples_per_shard: recordings per tar. workers: processes.
        fields: how the file's columns are read.
        audio: "flac" converts to 16 kHz mono flac, "original" keeps the files' bytes.
        on_bad: "stop" at the first fault, or "quarantine": leave it out and list it in `packing.quarantine.jsonl`.
        holdout: split -> share of the recordings, for questions that name no split.
        cut: of recordings that are too long, and how channels become one; `Cut` or its `max_s`, `too_long`, `mix`.

    Parts of recordings that annotations name by `start` and `duration` or `end` are cut here. A recording in which
    nothing can be heard is a fault. What else was done to recordings stands in `packing.notes.txt`. Every question is
    accounted for: questions = packed + left out. Returns the counts of `build_index`, and `shards`.
    Raises InputError for bad arguments and, with "stop", for the first bad question or recording.
    """
    _check(audio, on_bad, samples_per_shard)
    fields, folder, cut = Fields.of(fields), Path(out), Cut.of(cut, audio == "original")
    check_kept_names(fields)
    source = Source(annotations, fields.encoding)
    made_folder(folder)
    root = str(audio_root or (annotations if source.is_folder else Path(annotations).parent))
    how = [LAYOUT, root, samples_per_shard, fields.record(), audio, repr(cut), on_bad, dict(holdout or {}), annotations]
    done = Done(folder, f"{hash64(json.dumps(how), source.stamps()):016x}", root)
    if (counts := done.counts()) is not None and "." not in fields.layout:  # a user's layout may have changed
        return counts
    with alone_in(folder, "packing"):
        left_out: list[dict[str, str]] = []
        spool = Spool(folder / "questions.spool", root, str(Path(annotations).parent))
        try:
            jobs = jobs_of(
                spool, source, fields, folder, samples_per_shard, audio == "original", cut, on_bad == "stop", left_out
            )
            done.remember(spool)
            packed = _pack_all(jobs, folder, workers)
            left_out += [entry for job in jobs for entry in packed[Path(job.target).name]["left_out"]]
        finally:
            spool.close()
            (folder / "recordings.spool").unlink(missing_ok=True)
        _write_lines([json.dumps(entry, ensure_ascii=False) for entry in left_out], folder / "packing.quarantine.jsonl")
        notes = _report_notes([note for job in jobs for note in packed[Path(job.target).name]["notes"]], folder)
        counts = build_index(str(folder), on_bad=on_bad, holdout=holdout, workers=workers) | {"shards": len(jobs)}
        counts |= {name: number for name, number in (("left_out", len(left_out)), ("changed", notes)) if number}
        done.write(counts)
        return counts


def _check(audio: str, on_bad: str, samples_per_shard: int) -> None:
    if audio not in ("flac", "original") or on_bad not in ("stop", "quarantine"):
        raise InputError(f"audio is 'flac' or 'original', on_bad 'stop' or 'quarantine'; got {audio!r}, {on_bad!r}")
    if samples_per_shard < 1:
        raise InputError(f"samples_per_shard must be at least 1, got {samples_per_shard}")


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
    for job, (left_out, notes) in track(_packed(todo, workers), f"packing {len(todo)} shards", len(todo)):
        target = Path(job.target)
        done[target.name] = {"made_of": prints[job.target], "size": target.stat().st_size}
        done[target.name] |= {"left_out": left_out, "notes": notes}
        write_text(record, json.dumps(dict(sorted(done.items()))))
    return done


def _read_record(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = read_json(path)
        return {
            name: {k: entry[k] for k in ("made_of", "size", "left_out", "notes")} for name, entry in content.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}  # nothing is known to be done


def _is_whole(path: Path, entry: dict[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == entry["size"]


def _is_done(job: Job, made_of: str, entry: dict[str, Any] | None) -> bool:
    """Whether the shard is already packed; where this run stops at faults, one that left out anything is not."""
    return entry is not None and entry["made_of"] == made_of and not (job.stop and entry["left_out"])


def _packed(jobs: list[Job], workers: int) -> Iterator[tuple[Job, tuple[list[dict[str, str]], list[str]]]]:
    """Packs the jobs; yields each, as it is done, with the questions that had to be left out, and the notes."""
    if workers <= 1 or len(jobs) <= 1:
        yield from ((job, pack_shard(job)) for job in jobs)
        return
    with ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn")) as pool:
        futures = {pool.submit(pack_shard, job): job for job in jobs}
        try:
            for future in as_completed(futures):  # recorded in this order, so that none is packed again after a kill
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _report_notes(notes: list[str], folder: Path) -> int:
    """Writes down what was done to recordings, says the first on stderr, and returns how many there are."""
    _write_lines(notes, folder / "packing.notes.txt")
    if notes:
        more = f", and {len(notes) - 1:,} more in {folder / 'packing.notes.txt'}" if len(notes) > 1 else ""
        say(f"{notes[0]}{more}", file=sys.stderr)
    return len(notes)


def _write_lines(lines: list[str], path: Path) -> None:
    """Writes the lines, or removes the file of an earlier packing where there are none."""
    if lines:
        write_text(path, "".join(f"{line}\n" for line in lines))
    else:
        path.unlink(missing_ok=True)
