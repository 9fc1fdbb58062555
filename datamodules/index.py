"""Knows where every question lies: one row per question, with the byte ranges of its text and its recording.

Columns: uid, key, clip (hash of the audio bytes, also their checksum), question (hash of the text and the options),
split, question_type, source, num_choices, duration_s, num_samples (at 16 kHz), shard, json_offset, json_size,
question_no, audio_offset, audio_size, audio_ext, audio_contribution (as published, or null).
Any uncompressed WebDataset tar of json + audio pairs can be indexed; labels live in a table of their own.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..curriculum.identity import hash64
from ..curriculum.table import read_arrow, write_arrow
from ..errors import InputError
from ..progress import track
from .address import joined, list_shards, redacted, scheme_of, split_address
from .question import SPLITS
from .scan import Fault, Scan, scan_shard
from .storage import Reading, RemoteFiles, Shard

_DICTIONARY = pa.dictionary(pa.int32(), pa.string())
_ABOUT = b"earwitness"
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
        "audio_contribution": _DICTIONARY,
    }
)


def build_index(
    shards: str,
    out: str | None = None,
    on_bad: str = "stop",
    holdout: Mapping[str, float] | None = None,
    ignore: Sequence[str] = (),
    decode: bool = False,
    workers: int = 1,
) -> dict:
    """Indexes tars, local or remote, and writes `index.arrow` beside them (or beside the working directory's).

    Args:
        shards: folder of *.tar, one tar, or a pattern like s3://bucket/train-{000000..000099}.tar.
        out: index file; needed for remote shards.
        on_bad: "stop" at the first fault with an InputError that names it, or "quarantine": leave it out, and write
            what was left out and why to `INDEX.quarantine.jsonl`.
        holdout: split -> share of the recordings, for questions that name no split; by a hash of the recording.
        ignore: extensions of members that are no part of a sample, e.g. ("txt", "cls").
        decode: decode every recording instead of reading its header; finds damage inside, at 20 times the cost.
        workers: processes.

    Every member is accounted for: members = indexed + ignored + quarantined. Returns the counts.
    """
    if on_bad not in ("stop", "quarantine"):
        raise InputError(f"on_bad must be 'stop' or 'quarantine', got {on_bad!r}")
    shares = _checked_holdout(holdout or {})
    addresses = list_shards(shards)
    remote = bool(scheme_of(addresses[0]))
    if remote and out is None:
        raise InputError(f"{redacted(shards)}: remote shards need a place for their index; give `out`")
    root, names = _common_root(addresses)
    target = Path(out) if out else Path(root) / "index.arrow"
    look = partial(scan_shard, ignore=tuple(e.lower() for e in ignore), decoded=decode, stop_at_fault=on_bad == "stop")
    known: dict[str, Shard] = {}
    scans: list[Scan] = []
    for scan, shard in track(_scans(root, names, look, workers, remote), "indexing", len(names)):
        known[scan.shard] = shard
        scans.append(scan)
        if not scan.members and not scan.damaged:
            print(f"warning: {redacted(joined(root, scan.shard))} holds no sample", file=sys.stderr)
    rows, faults = _merged(root, scans, shares, on_bad == "stop")
    if not rows:
        raise InputError(f"{redacted(shards)}: the shards hold no question that can be used")
    about = {
        "root": "" if not remote and target.resolve().parent == Path(root).resolve() else root,
        "shards": {name: [shard.size, shard.etag] for name, shard in known.items()},
    }
    write_index(_table(rows), about, target)
    _report(faults, target)
    return _counts(rows, scans, faults)


def _common_root(addresses: list[str]) -> tuple[str, list[str]]:
    """The folder of all shards and their names in it."""
    folders, names = zip(*map(split_address, addresses), strict=True)
    if len(set(folders)) > 1:
        raise InputError(f"the shards must lie in one folder, got {redacted(folders[0])} and others")
    if len(set(names)) < len(names):
        raise InputError("a shard is named twice")
    return folders[0], list(names)


def _scans(root: str, names: list[str], look: Any, workers: int, remote: bool) -> Iterator[tuple[Scan, Shard]]:
    """The shards' scans in order, by several processes; remote shards are copied one by one, and the copy removed."""
    with ExitStack() as stack:
        if remote:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="earwitness-")))
            look = partial(_remote_scan, root, str(folder), look)
        else:
            look = partial(_local_scan, root, look)
        if workers <= 1:
            yield from map(look, names)
            return
        pool = stack.enter_context(ProcessPoolExecutor(workers, get_context("spawn")))
        futures = [pool.submit(look, name) for name in names]
        try:
            for future in futures:
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _local_scan(root: str, look: Any, name: str) -> tuple[Scan, Shard]:
    scan = look(joined(root, name), name)
    return scan, Shard(scan.size)


def _remote_scan(root: str, folder: str, look: Any, name: str) -> tuple[Scan, Shard]:
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


def _merged(
    root: str, scans: list[Scan], holdout: dict[str, float], stop: bool
) -> tuple[list[dict[str, Any]], list[Fault]]:
    """All rows with their splits, without an identity twice and without a recording in two splits."""
    rows: list[dict[str, Any]] = []
    faults = [fault for scan in scans for fault in scan.faults]
    seen: dict[int, str] = {}
    split_of: dict[int, tuple[str, str]] = {}
    everything = [row for scan in scans for row in scan.rows]
    for row in everything:
        if row["split"]:
            split_of.setdefault(row["clip"], (row["split"], f"{joined(root, row['shard'])}:{row['key']}"))
    places = {scan.shard: redacted(joined(root, scan.shard)) for scan in scans}
    for row in everything:
        where = f"{places[row['shard']]}:{row['key']}"
        split, first = split_of.get(row["clip"], ("", ""))
        reason = ""
        if row["uid"] in seen:
            reason = f"{where}: this question is already in {seen[row['uid']]}"
        elif row["split"] and row["split"] != split:
            reason = f"{where}: its recording is in split {split} too ({first}); a recording belongs to one split"
        if reason and stop:
            raise InputError(reason)
        if reason:
            faults.append(Fault(row["shard"], row["key"], reason, question=row["key"]))
            continue
        seen[row["uid"]] = where
        row["split"] = split or _held_out(row["clip"], holdout)
        rows.append(row)
    kept = {(row["shard"], row["json_offset"]) for row in rows}
    lost = {(r["shard"], r["json_offset"]): r for r in everything if (r["shard"], r["json_offset"]) not in kept}
    for row in lost.values():
        members = [f"text at {row['json_offset']}", f"recording at {row['audio_offset']}"]
        faults.append(Fault(row["shard"], row["key"], "none of the sample's questions can be used", members))
    return rows, faults


def _checked_holdout(holdout: Mapping[str, float]) -> dict[str, float]:
    for split, share in holdout.items():
        if split not in SPLITS[1:] or not 0 <= share < 1:
            raise InputError(f"holdout takes val and test with a share below 1, got {split}={share}")
    if sum(holdout.values()) >= 1:
        raise InputError(f"holdout leaves nothing to train on: {dict(holdout)}")
    return {split: holdout[split] for split in SPLITS[1:] if split in holdout}


def _held_out(clip: int, holdout: Mapping[str, float]) -> str:
    """The split of a recording, by its hash alone: the same in every corpus that contains it."""
    place = hash64("holdout", clip) / 2**64
    for split, share in holdout.items():
        if place < share:
            return split
        place -= share
    return "train"


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    columns = {name: pa.array([row[name] for row in rows], SCHEMA.field(name).type) for name in SCHEMA.names}
    return pa.table(columns, SCHEMA)


def _report(faults: list[Fault], target: Path) -> None:
    path = target.with_suffix(".quarantine.jsonl")
    if not faults:
        path.unlink(missing_ok=True)
        return
    lines = [json.dumps(vars(fault), ensure_ascii=False) for fault in faults]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _counts(rows: list[dict[str, Any]], scans: list[Scan], faults: list[Fault]) -> dict[str, Any]:
    clips = {row["clip"]: row["duration_s"] for row in rows}
    indexed = 2 * len({(row["shard"], row["json_offset"]) for row in rows})
    members, ignored = sum(scan.members for scan in scans), sum(scan.ignored for scan in scans)
    quarantined = sum(len(fault.members) for fault in faults)
    assert members == indexed + ignored + quarantined, (members, indexed, ignored, quarantined)
    counts = {"questions": len(rows), "clips": len(clips), "hours": round(sum(clips.values()) / 3600, 3)}
    counts |= {"members": members, "indexed": indexed}
    if ignored:
        counts["ignored"] = ignored
    if faults:
        bad_questions = sum(bool(fault.question) for fault in faults)
        counts |= {"quarantined": quarantined, "bad_questions": bad_questions}
        counts["damaged_shards"] = sum(scan.damaged for scan in scans)
    return counts


def write_index(table: pa.Table, about: Mapping[str, Any], path: str | Path) -> None:
    """Writes the table with where its shards lie and the hash of all of it."""
    about = {"root": about["root"], "shards": dict(about["shards"])}
    about["sha256"] = _digest(table, about)
    write_arrow(table.replace_schema_metadata({_ABOUT: json.dumps(about)}), path)


def read_index(path: str | Path) -> tuple[pa.Table, str, dict[str, Shard]]:
    """The table, the root of its shards ("" beside the index), and the shards; a changed file is refused."""
    table = read_arrow(path)
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise InputError(f"{path}: not an index, or one of an older version: no column {missing[0]!r}; index again")
    try:
        about = json.loads((table.schema.metadata or {})[_ABOUT])
        known = {name: Shard(int(size), str(etag)) for name, (size, etag) in about["shards"].items()}
        right = about["sha256"] == _digest(table, {"root": about["root"], "shards": about["shards"]})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: the index does not say where its shards are ({error!r}); index again") from None
    if not right:
        raise InputError(f"{path}: the index was changed after it was written (its hash differs); index again")
    return table, str(about["root"]), known


def _digest(table: pa.Table, about: Mapping[str, Any]) -> str:
    """SHA-256 over every value of every column and over the shards."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(table.column_names):
        column = table.column(name).combine_chunks()
        digest.update(f"\0{name}\0{column.type}\0".encode())
        if pa.types.is_dictionary(column.type):
            digest.update("\0".join(column.dictionary.to_pylist()).encode())
            column = column.indices.fill_null(-1)
        if pa.types.is_string(column.type):
            digest.update("\0".join(value or "" for value in column.to_pylist()).encode())
        else:
            digest.update(column.to_numpy(zero_copy_only=False).tobytes())
    return digest.hexdigest()
