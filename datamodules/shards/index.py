"""The index: one row per question, with the byte ranges of its text and its recording in the shards.

Columns: uid, key, clip (hash of the audio bytes, also their checksum), question (hash of text, answer and options),
split, question_type, source, num_choices, duration_s, num_samples (at 16 kHz), shard, json_offset, json_size,
question_no, audio_offset, audio_size, audio_ext, audio_contribution (as published, or null). Behind them stand columns
that were kept of the questions (texts, numbers, bools), and `unanswered` where some of them have no answer. Levels of
the recordings (see `audio/levels.py`) stand between, null where they were never decoded.
Any uncompressed WebDataset tar of json + audio pairs can be indexed; labels live in a table of their own.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...boundary.files import write_text
from ...boundary.words import say
from ...curriculum.table import read_arrow, write_arrow
from ...errors import InputError
from ...progress import track
from ..audio.levels import LEVELS
from ..questions.fields import Fields
from ..storage.address import joined, list_shards, redacted, scheme_of, split_address
from ..storage.ranges import Shard
from .checks import check_index
from .merging import checked_holdout, checked_rows, counts_of, kept_column, merged
from .sample import question_reader
from .scan import FILE, KEPT, UNANSWERED, Fault, Scan, scan_all, scan_shard

_DICTIONARY = pa.dictionary(pa.int32(), pa.string())
_ABOUT = b"earwitness"
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
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


LEVEL_SCHEMA = pa.schema({name: pa.float32() for name in LEVELS})


def build_index(
    shards: str,
    out: str | None = None,
    on_bad: str = "stop",
    holdout: Mapping[str, float] | None = None,
    ignore: Sequence[str] = (),
    decode: bool = False,
    workers: int = 1,
    fields: Fields | None = None,
) -> dict[str, int | float]:
    """Indexes tars, local or remote, and writes `index.arrow` beside them or at `out`.

    Args:
        shards: folder of *.tar, one tar, or a pattern like s3://bucket/train-{000000..000099}.tar.
        out: index file; needed for remote shards.
        on_bad: "stop" at the first fault with an InputError that names it, or "quarantine": leave it out, and write
            what was left out and why to `INDEX.quarantine.jsonl`.
        holdout: split -> share of the recordings, for questions that name no split; by a hash of the recording.
        ignore: extensions of members that are no part of a sample, e.g. ("txt", "cls").
        decode: decode every recording instead of reading its header; finds damage inside, at 20 times the cost.
        workers: processes.
        fields: how the columns of the questions are read, as in `shard`; answers are texts where it does not say.

    Every member is accounted for: members = indexed + ignored + quarantined. Returns the counts.
    Raises InputError for bad arguments, for shards that cannot be read or hold no question, and at faults.
    """
    if on_bad not in ("stop", "quarantine"):
        raise InputError(f"on_bad must be 'stop' or 'quarantine', got {on_bad!r}")
    shares, fields = checked_holdout(holdout or {}), Fields.of(fields)
    check_kept_names(fields)
    addresses = list_shards(shards)
    remote = bool(scheme_of(addresses[0]))
    if remote and out is None:
        raise InputError(f"{redacted(shards)}: remote shards need a place for their index; give `out`")
    root, names = _common_root(addresses)
    target = _index_file(out, root)
    ignored, stop = tuple(e.lower() for e in ignore), on_bad == "stop"
    scan_one = partial(_scan, ignore=ignored, decoded=decode, stop_at_fault=stop, fields=fields)
    known: dict[str, Shard] = {}
    scans: list[Scan] = []
    for scan, shard in track(scan_all(root, names, scan_one, workers, remote), "indexing", len(names)):
        scans.append(scan)
        if not scan.damaged:  # a damaged one need not be there, or stay as it is
            known[scan.shard] = shard
        if not scan.members and not scan.damaged:
            say(f"warning: {redacted(joined(root, scan.shard))} holds no sample", file=sys.stderr)
    rows, new_faults = checked_rows(root, _taken_tables(scans), shares, stop)
    faults = [fault for scan in scans for fault in scan.faults] + new_faults
    if not len(rows):
        raise InputError(f"{redacted(shards)}: the shards hold no question that can be used")
    _say_what_is_unused(fields, scans, redacted(shards))
    if redacted(root) != root:
        say(f"{redacted(root)}: the index keeps no credentials; give the address as reading.shards", file=sys.stderr)
    about = {
        "root": "" if not remote and target.resolve().parent == Path(root).resolve() else redacted(root),
        "shards": {name: [shard.size, shard.etag] for name, shard in known.items()},
    }
    write_index(_in_order(rows), about | {"fields": fields.record()}, target)
    _report(faults, target)
    return counts_of(rows, scans, faults)


def _taken_tables(scans: Sequence[Scan]) -> pa.Table:
    """The rows of all scans as one table; the scans let go of theirs, so that they are not in memory twice."""
    whole = merged([scan.table for scan in scans if scan.table is not None and len(scan.table)] or [_table([])])
    for scan in scans:
        scan.table = None
    return whole


def check_kept_names(fields: Fields) -> None:
    """Raises InputError for a column that cannot be kept under its name, because the index has one of that name."""
    for name, theirs in fields.kept.items():
        if name in (*SCHEMA.names, *LEVELS, FILE, UNANSWERED) or name.startswith("live."):
            raise InputError(
                f"keep: the index has a column {name!r} of its own; give another name: --keep my_{name}={theirs}"
            )


def _say_what_is_unused(fields: Fields, scans: Sequence[Scan], shards: str) -> None:
    """Names on stderr the columns that nobody asked for; raises InputError for one to keep that is nowhere."""
    reader = question_reader(fields)
    for scan in scans:
        for name, count in scan.seen.items():
            reader.seen[name] = reader.seen.get(name, 0) + count
    reader.check_kept()
    for line in reader.notes():
        say(f"{shards}: {line}", file=sys.stderr)


def _in_order(table: pa.Table) -> pa.Table:
    """The table with the columns of SCHEMA first and the others by name; who has an answer is never missing."""
    first = pa.unify_schemas([SCHEMA, LEVEL_SCHEMA])
    more = sorted(set(table.column_names) - {*first.names, FILE})
    columns = {name: table.column(name).cast(first.field(name).type) for name in first.names}
    for name in more:
        column = table.column(name)
        kind = pa.string() if pa.types.is_null(column.type) else column.type
        columns[name] = column.fill_null(False) if name == UNANSWERED else column.cast(kind)
    return pa.table(columns)


def _index_file(out: str | None, root: str) -> Path:
    """Where the index goes: beside local shards by default; InputError for what cannot be an Arrow file."""
    target = Path(out) if out else Path(root) / "index.arrow"
    if target.suffix == ".parquet" or target.is_dir() or _NO_TEXT.search(str(target)):
        raise InputError(f"{str(target)!r}: the index is an Arrow file; give `out` a path such as data/index.arrow")
    return target


def _common_root(addresses: list[str]) -> tuple[str, list[str]]:
    """The folder of all shards and their names in it; raises InputError where they lie in several, or share a name."""
    folders, names = zip(*map(split_address, addresses), strict=True)
    if len(set(folders)) > 1:
        raise InputError(f"the shards must lie in one folder, got {redacted(folders[0])} and others")
    if len(set(names)) < len(names):
        raise InputError("a shard is named twice")
    for name in names:
        if _NO_TEXT.search(name):
            raise InputError(f"shard name {name!r} is not UTF-8 or holds a control character; rename it")
    return folders[0], list(names)


def _scan(path: str, name: str, **how: Any) -> Scan:
    """The scan of a shard with its rows as columns: what a process sends back, and what is kept of many shards."""
    scan = scan_shard(path, name, **how)
    scan.table, scan.rows = _table(scan.rows), []
    return scan


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of `scan_shard` as columns: those of SCHEMA, then the columns that were kept."""
    kinds = pa.unify_schemas([SCHEMA, LEVEL_SCHEMA, pa.schema({FILE: pa.uint64()})])
    columns = {field.name: pa.array([row[field.name] for row in rows], field.type) for field in kinds}
    for name in dict.fromkeys(name for row in rows for name in row[KEPT]):
        columns[name] = kept_column([row[KEPT].get(name) for row in rows])
    return pa.table(columns)


def _report(faults: list[Fault], target: Path) -> None:
    """Writes the faults beside the index, or removes the file of an earlier indexing where there are none."""
    path = target.with_suffix(".quarantine.jsonl")
    if not faults:
        path.unlink(missing_ok=True)
        return
    lines = [json.dumps(vars(fault), ensure_ascii=False) for fault in faults]
    write_text(path, "\n".join(lines) + "\n")


def write_index(table: pa.Table, about: Mapping[str, Any], path: str | Path) -> None:
    """Writes the index: its table, and in the metadata root, shards and fields of `about` and a hash over all of it."""
    about = {name: about[name] for name in ("root", "shards", "fields") if name in about}
    about["shards"] = dict(about["shards"])
    if not about.get("fields"):
        about.pop("fields", None)
    about["sha256"] = _digest(table, about)
    write_arrow(table.replace_schema_metadata({_ABOUT: json.dumps(about)}), path)


def read_index(path: str | Path) -> tuple[pa.Table, str, dict[str, Shard]]:
    """The table, the root of its shards ("" beside the index), and the shards by name.

    Raises InputError where the file is missing, is no index, or was changed after it was written.
    """
    table = read_arrow(path)
    if table.schema.names[: len(SCHEMA.names)] != SCHEMA.names or not table.select(SCHEMA.names).schema.equals(SCHEMA):
        missing = [f"no column {name!r}" for name in SCHEMA.names if name not in table.column_names]
        reason = missing[0] if missing else "it has other columns"
        raise InputError(f"{path}: not an index, or one of an older version: {reason}; index again")
    try:
        about = json.loads((table.schema.metadata or {})[_ABOUT])
        right = about["sha256"] == _digest(table, {name: about[name] for name in about if name != "sha256"})
        known = {name: Shard(int(size), str(etag)) for name, (size, etag) in about["shards"].items()}
        fields_of(table)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise InputError(f"{path}: the index does not say where its shards are ({error!r:.200}); index again") from None
    if not right:
        raise InputError(f"{path}: the index was changed after it was written (its hash differs); index again")
    check_index(table, known, path)
    return table, str(about["root"]), known


def fields_of(table: pa.Table) -> Fields:
    """How the columns of the questions in an index's shards are read."""
    return Fields.of(json.loads((table.schema.metadata or {})[_ABOUT]).get("fields"))


def _digest(table: pa.Table, about: Mapping[str, Any]) -> str:
    """SHA-256, in hex, over every value of every column and over the shards."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(table.column_names):
        column = table.column(name).combine_chunks()
        digest.update(f"\0{name}\0{column.type}\0{len(column)}\0".encode())
        for part in _values(column):
            digest.update(part)
    return digest.hexdigest()


def _values(column: pa.Array) -> Iterator[bytes | memoryview]:
    """A column's values as bytes, without ambiguity: missing is not empty, and the length of each text is included."""
    yield column.is_null().to_numpy(zero_copy_only=False).tobytes()
    if pa.types.is_dictionary(column.type):
        yield len(column.dictionary).to_bytes(8, "little")
        yield from _values(column.dictionary)
        column = column.indices
    if pa.types.is_string(column.type):
        texts = pa.concat_arrays([column.fill_null("")])  # begins at the beginning of its buffers
        yield pc.binary_length(texts).to_numpy(zero_copy_only=False).astype("<i8").tobytes()
        offsets, data = np.frombuffer(texts.buffers()[1], np.int32), texts.buffers()[2]
        if data is not None and len(texts):
            yield memoryview(data)[offsets[texts.offset] : offsets[texts.offset + len(texts)]]
    else:
        column = column.cast(pa.uint8()) if pa.types.is_boolean(column.type) else column
        yield column.fill_null(0).to_numpy(zero_copy_only=False).tobytes()
