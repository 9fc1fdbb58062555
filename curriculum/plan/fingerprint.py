"""The fingerprint of a plan: 16 digits that change with the curriculum, the table or the rows a stage takes.

`differences` says where two curricula differ, `table_checksums` whether two tables do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..arrays import Bools, Hashes, Ints
from ..identity import hash64, keyed, splitmix64
from ..schedule.cells import Cells
from .compile import StagePlan, runs
from .pools import pool_of

_CHUNK = 16_384  # rows hashed at a time, so that the intermediate arrays stay in the cache


def fingerprint(
    curriculum: str, checksums: list[int], uid: Hashes, cells: Cells, stages: Mapping[str, StagePlan]
) -> str:
    """16 hexadecimal digits of the curriculum, the rows with their cells, and the rows that every stage takes.

    curriculum: its canonical text. checksums: of the table, from `table_checksums`. uid: [N] of the table.
    The rows taken also show changes in columns that only weights, budgets and exclusions read.
    """
    digest = hashlib.blake2b((curriculum + json.dumps(checksums)).encode(), digest_size=8)
    for name, stage_plan in stages.items():
        for part in (stage_plan.first, stage_plan.left, stage_plan.edges, stage_plan.matrix):
            digest.update(np.ascontiguousarray(part, np.int64).tobytes())
        stage = stage_plan.stage
        if stage.window is None:
            digest.update(np.bitwise_xor.reduce(keyed(uid[stage_plan.row_set()], name)).tobytes())
            if stage_plan.loss is not None:
                digest.update(np.round(stage_plan.loss, 9).tobytes())
        elif stage.feedback is not None:  # what its first windows will be planned from
            live = stage.feedback.columns(stage.feedback.start(cells), cells)
            now = cells.at(stage_plan.left, pool_of(stage, cells), live)
            parts = [live[column] for column in sorted(live)]
            middles = (stage_plan.edges[:-1] + stage_plan.edges[1:]) / 2 / max(stage_plan.rows, 1)
            for t in sorted({float(middles[0]), float(middles[-1])}):
                parts.append(stage.weight.amounts(now, t, stage.mass_rule, may_be_empty=True))
            digest.update(np.round(np.stack(parts), 9).tobytes())
            rows = stage_plan.deck[runs(stage_plan.first, stage_plan.left)]
            digest.update(np.bitwise_xor.reduce(keyed(uid[rows], name)).tobytes())
    return digest.hexdigest()


def table_checksums(uid: Hashes, number: Ints, used: Bools | None) -> list[int]:
    """Row count, xor and sum over hashes of (uid, cell, used): any row added, lost or moved to another cell shows.

    uid, used: [N]. number: [N] cell numbers. Cells are numbered by name; renaming all of them alike gives the same
    rows, and is the same plan.
    """
    key, odd = np.uint64(hash64("fingerprint")), np.uint64(0x9E3779B97F4A7C15)
    crossed, total = 0, 0
    for start in range(0, len(uid), _CHUNK):
        part = slice(start, start + _CHUNK)
        state = number[part].astype(np.uint64)
        if used is not None:
            state = np.where(used[part], np.uint64(1 << 40), state)
        mixed = splitmix64((uid[part] ^ key) + state * odd)
        crossed ^= int(np.bitwise_xor.reduce(mixed))
        total += int(mixed.sum(dtype=np.uint64))
    return [len(uid), crossed, total & ((1 << 64) - 1)]


def differences(a: Any, b: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(path, value in a, value in b) wherever two nested values differ; None where one side has none."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in sorted({*a, *b}):
            yield from differences(a.get(key), b.get(key), f"{path}.{key}".strip("."))
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from differences(x, y, f"{path}[{number}]")
    elif a != b:
        yield path, a, b
