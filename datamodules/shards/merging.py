"""The rows of all shards as one table: no identity twice, no recording in two splits, a split for every question.

Everything is a column: Python sees only the rows that may be at fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from ...curriculum.identity import hash64
from ...errors import InputError
from ..audio.levels import CANCELLED_DB, FAINT_DB, LEVELS
from ..questions.options import number_text
from ..questions.question import SPLITS
from ..storage.address import joined, redacted
from .scan import FILE, Fault, Scan

_DICTIONARY = pa.dictionary(pa.int32(), pa.string())


def merged(tables: Sequence[pa.Table]) -> pa.Table:
    """The tables of the shards below each other; a kept column that a shard lacks is missing in its rows.

    A column that is text in one shard and a number in another is text.
    """
    kinds: dict[str, pa.DataType] = {}
    for table in tables:
        for field in table.schema:
            kind = kinds.setdefault(field.name, field.type)
            if pa.types.is_null(kind):
                kinds[field.name] = field.type
            elif kind != field.type and not pa.types.is_null(field.type):
                kinds[field.name] = _DICTIONARY
    parts = []
    for table in tables:
        columns = [
            _as(table.column(name), kind) if name in table.column_names else pa.nulls(len(table), kind)
            for name, kind in kinds.items()
        ]
        parts.append(pa.table(columns, pa.schema(kinds)))
    whole = pa.concat_tables(parts).unify_dictionaries().combine_chunks()
    return whole if len(whole) else parts[0]


def kept_column(values: Sequence[object]) -> pa.Array:
    """Kept values (text, number, bool or None) as a column of the one kind that they have; mixed ones are texts."""
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return pa.nulls(len(values))
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds <= {int, float}:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())  # type: ignore[arg-type]
    return pa.array([_text(value) for value in values], pa.string()).dictionary_encode()


def _text(value: object) -> str | None:
    """A kept value as text; a whole number has no point, whichever rows it stands among."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number_text(value)
    return None if value is None else str(value)


def _as(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if column.type == kind:
        return column
    if pa.types.is_dictionary(kind):
        return pa.chunked_array([kept_column([_text(value) for value in column.to_pylist()]).cast(kind)])
    return column.cast(kind)


def checked_rows(root: str, table: pa.Table, holdout: Mapping[str, float], stop: bool) -> tuple[pa.Table, list[Fault]]:
    """The rows that can be used, with their splits, and the faults of the others.

    Questions without a split get that of their recording or of another part of its file, or one by `holdout`. stop:
    raise the first fault.
    """
    keep, faults = _conflicts(root, table, stop)
    kept = table.filter(pa.array(keep)) if not keep.all() else table
    clip, split = _files(kept), _texts(kept, "split")
    given = np.flatnonzero(split != "")
    clips, first = np.unique(clip[given], return_index=True)
    missing = np.flatnonzero(split == "")
    if len(missing):
        wanted, inverse = np.unique(clip[missing], return_inverse=True)
        known = dict(zip(clips.tolist(), split[given][first].tolist(), strict=True))
        filled = [known.get(number) or held_out(number, holdout) for number in wanted.tolist()]
        split[missing] = np.array(filled, object)[inverse]
    column = pa.array(split.tolist(), pa.string()).dictionary_encode().cast(_DICTIONARY)
    kept = kept.set_column(kept.column_names.index("split"), "split", column)
    return kept, faults + _lost(table, keep)


def _files(table: pa.Table) -> np.ndarray:
    """[N] the file that each row's recording is a part of; recordings with the same bytes are of one file."""
    _, inverse = np.unique(table.column("clip").to_numpy(), return_inverse=True)
    files = table.column(FILE).to_numpy()
    least = np.full(int(inverse.max(initial=-1)) + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(least, inverse, files)
    shared: np.ndarray = least[inverse]
    return shared


def _texts(table: pa.Table, name: str) -> np.ndarray:
    """[N] a text column as objects, few of which differ."""
    column = table.column(name).combine_chunks()
    names = np.array([*column.dictionary.to_pylist(), ""], object)
    texts: np.ndarray = names[column.indices.to_numpy(zero_copy_only=False)]
    return texts


def _conflicts(root: str, table: pa.Table, stop: bool) -> tuple[np.ndarray, list[Fault]]:
    """[N] bool, the rows without conflict, and the faults of the others; only rows that may have one are looked at."""
    uid, clip, split = table.column("uid").to_numpy(), table.column("clip").to_numpy(), _texts(table, "split")
    keep, faults = np.ones(len(uid), bool), []
    _, inverse, count = np.unique(uid, return_inverse=True, return_counts=True)
    doubtful = count[inverse] > 1
    clips, splits = np.unique(np.concatenate([np.unique(clip[split == name]) for name in SPLITS]), return_counts=True)
    doubtful |= np.isin(clip, clips[splits > 1])
    seen: dict[int, str] = {}
    split_of: dict[int, tuple[str, str]] = {}
    places = np.flatnonzero(doubtful)
    rows = table.select(["uid", "clip", "split", "shard", "key"]).take(places).to_pylist()
    for place, row in zip(places.tolist(), rows, strict=True):
        where, reason = f"{redacted(joined(root, row['shard']))}:{row['key']}", ""
        if row["uid"] in seen:
            reason = f"{where}: this question is already in {seen[row['uid']]}"
        elif row["split"]:
            first_split, first = split_of.setdefault(row["clip"], (row["split"], where))
            if row["split"] != first_split:
                reason = (
                    f"{where}: its recording is in split {first_split} too ({first}); a recording belongs to one split"
                )
        if reason and stop:
            raise InputError(reason)
        if reason:
            keep[place] = False
            faults.append(Fault(row["shard"], row["key"], reason, question=row["key"]))
        else:
            seen[row["uid"]] = where
    return keep, faults


def _lost(table: pa.Table, keep: np.ndarray) -> list[Fault]:
    """A fault for every sample none of whose questions is used, with its two members."""
    if keep.all():
        return []
    samples = _samples(table)
    lost = np.flatnonzero(~keep & ~np.isin(samples, samples[keep]))
    last = {int(samples[place]): int(place) for place in lost}
    names = ["shard", "key", "json_offset", "audio_offset"]
    faults = []
    for row in table.select(names).take(np.array(list(last.values()), np.int64)).to_pylist():
        members = [f"text at {row['json_offset']}", f"recording at {row['audio_offset']}"]
        faults.append(Fault(row["shard"], row["key"], "none of the sample's questions can be used", members))
    return faults


def _samples(table: pa.Table) -> np.ndarray:
    """[N] numbers that are equal where questions are of one sample."""
    shard = table.column("shard").combine_chunks().indices.to_numpy(zero_copy_only=False).astype(np.int64)
    numbers: np.ndarray = (shard << 40) + table.column("json_offset").to_numpy()  # a tar has less than 2^40 bytes
    return numbers


def checked_holdout(holdout: Mapping[str, float]) -> dict[str, float]:
    """The shares of val and test, in this order; raises InputError for anything else."""
    for split, share in holdout.items():
        if split not in SPLITS[1:] or not isinstance(share, int | float) or not 0 <= share < 1:
            raise InputError(f"holdout takes val and test with a share below 1, got {split}={share}")
    if sum(holdout.values()) >= 1:
        raise InputError(f"holdout leaves nothing to train on: {dict(holdout)}")
    return {split: holdout[split] for split in SPLITS[1:] if split in holdout}


def held_out(clip: int, holdout: Mapping[str, float]) -> str:
    """The split of a recording, by its hash alone: the same in every corpus that contains it."""
    place = hash64("holdout", clip) / 2**64
    for split, share in holdout.items():
        if place < share:
            return split
        place -= share
    return "train"


def level_counts(recordings: pa.Table) -> dict[str, int]:
    """How many recordings have a level to look at, by kind: cancelled, clipped, mostly silent, faint, or unknown."""
    levels = {name: recordings.column(name).to_numpy().astype(np.float64) for name in LEVELS}
    with np.errstate(invalid="ignore"):
        counts = {
            f"mixing_lost_over_{CANCELLED_DB:.0f}_db": levels["mix_loss_db"] > CANCELLED_DB,
            "clipped_over_0.1_percent": levels["clipped_share"] > 1e-3,
            "mostly_digital_silence": levels["silent_share"] > 0.9,
            f"rms_under_{FAINT_DB:.0f}_db": levels["rms_db"] < FAINT_DB,
            "levels_unknown": np.isnan(levels["rms_db"]),
        }
    return {name: int(chosen.sum()) for name, chosen in counts.items() if chosen.any()}


def counts_of(table: pa.Table, scans: Sequence[Scan], faults: Sequence[Fault]) -> dict[str, int | float]:
    """Numbers of questions, recordings, hours and members for the log."""
    _, first = np.unique(table.column("clip").to_numpy(), return_index=True)
    hours = float(table.column("duration_s").to_numpy()[first].astype(np.float64).sum()) / 3600
    indexed = 2 * len(np.unique(_samples(table)))
    members, ignored = sum(scan.members for scan in scans), sum(scan.ignored for scan in scans)
    quarantined = sum(len(fault.members) for fault in faults)
    assert members == indexed + ignored + quarantined, (members, indexed, ignored, quarantined)
    counts: dict[str, int | float] = {"questions": len(table), "clips": len(first), "hours": round(hours, 3)}
    counts |= {"members": members, "indexed": indexed}
    if ignored:
        counts["ignored"] = ignored
    counts |= level_counts(table.take(pa.array(first)))
    if faults:
        bad_questions = sum(bool(fault.question) for fault in faults)
        counts |= {"quarantined": quarantined, "bad_questions": bad_questions}
        counts["damaged_shards"] = sum(scan.damaged for scan in scans)
    return counts
