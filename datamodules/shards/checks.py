"""Checks of an index that somebody else may have written: its hash does not help against its writer.

A row must name a range within a shard that lies beside the others; texts become keys, names of files and lines on a
terminal, and the kind of a recording tells other tools how to decode it, so that only kinds of recordings are let in.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import InputError
from ..audio.waves import MAX_SAMPLES
from ..storage.ranges import Shard
from .sample import AUDIO_EXTENSIONS, MAX_AUDIO, MAX_JSON

_CONTROL = r"[\x00-\x1f\x7f-\x{9f}\x{2028}\x{2029}\x{202a}-\x{202e}\x{2066}-\x{2069}]"
_TEXTS = ("key", "split", "question_type", "source", "shard", "audio_ext", "audio_contribution")
_NEVER_MISSING = ("uid", "clip", "question", "num_choices", "duration_s", *_TEXTS[:-1])
_PLACES = ("num_samples", "question_no", "json_offset", "json_size", "audio_offset", "audio_size")


def check_index(table: pa.Table, known: Mapping[str, Shard], path: str | Path) -> None:
    """Raises InputError for a row that names a place outside its shard, and for texts that no index has.

    known: shards by name, which are names and no paths.
    """
    for name in known:
        if "/" in name or "\\" in name or name in ("", ".", ".."):
            raise InputError(f"{path}: {name!r:.80} is no name of a shard; index again")
    _check_texts(table, path)
    if not _in_their_shards(table, known):
        raise InputError(f"{path}: a row of the index names a place that its shard does not have; index again")


def _check_texts(table: pa.Table, path: str | Path) -> None:
    for name in _TEXTS:
        texts = table.column(name).combine_chunks()
        values = texts.dictionary if pa.types.is_dictionary(texts.type) else texts
        bad = values.filter(pc.fill_null(pc.match_substring_regex(values, _CONTROL), False))
        if len(bad):
            raise InputError(f"{path}: column {name} holds control characters, {bad[0].as_py()!r:.80}; index again")
    kinds = table.column("audio_ext").combine_chunks().dictionary.to_pylist()
    if foreign := [kind for kind in kinds if kind not in AUDIO_EXTENSIONS]:
        raise InputError(f"{path}: {foreign[0]!r:.80} is no kind of recording ({', '.join(AUDIO_EXTENSIONS)})")


def _in_their_shards(table: pa.Table, known: Mapping[str, Shard]) -> bool:
    columns = {name: table.column(name).combine_chunks() for name in (*_PLACES, *_NEVER_MISSING)}
    if any(column.null_count for column in columns.values()):
        return False
    names = columns["shard"].dictionary.to_pylist()
    size = np.array([known.get(name, Shard(-1)).size for name in names])[columns["shard"].indices.to_numpy()]
    for part in ("json", "audio"):
        offset, length = (columns[f"{part}_{what}"].to_numpy() for what in ("offset", "size"))
        if not (length <= (MAX_JSON if part == "json" else MAX_AUDIO)).all():
            return False
        if not ((offset > 0) & (length > 0) & (length <= size) & (offset <= size - length)).all():
            return False
    samples = columns["num_samples"].to_numpy()
    return bool(((samples > 0) & (samples <= MAX_SAMPLES) & (columns["question_no"].to_numpy() >= 0)).all())
