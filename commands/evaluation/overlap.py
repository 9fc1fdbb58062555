"""Whether a benchmark's questions or recordings are in what a model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ...datamodules.benchmarks.questions import OpenBenchmark
from ...datamodules.shards.reader import ShardReader

_SHOWN = 10


def overlaps(opened: OpenBenchmark, indexes: Sequence[str]) -> list[dict[str, Any]]:
    """For each index what it shares with the benchmark, as numbers of the benchmark's questions.

    recordings: the same bytes as packed (the same file packed the same way). questions: the same words, answer and
    options. ids: the same id, whatever the source. any: at least one of them; `examples` are the first keys of those.
    """
    reader = opened.reader
    keys = [reader.key(row) for row in range(len(reader))]
    found = []
    for path in indexes:
        train = ShardReader(path)
        ids = {_id(train.key(row)) for row in range(len(train))}
        heard = np.array([row >= 0 for row in getattr(reader, "row_in_shards", [0] * len(keys))], bool)
        same = {
            "recordings": np.isin(reader.numbers["clip"], train.numbers["clip"]) & heard,
            "questions": np.isin(reader.numbers["question"], train.numbers["question"]),
            "ids": np.array([_id(key) in ids and not _id(key).isdigit() for key in keys], bool),
        }
        either = same["recordings"] | same["questions"] | same["ids"]
        counts: dict[str, Any] = {name: int(rows.sum()) for name, rows in same.items()}
        examples = [keys[row] for row in np.flatnonzero(either)[:_SHOWN].tolist()]
        found.append({"index": path, "of": len(keys), **counts, "any": int(either.sum()), "examples": examples})
    return found


def _id(key: str) -> str:
    """The id in a key, without the ending of a file's name."""
    return PurePosixPath(key.partition("/")[2]).stem
