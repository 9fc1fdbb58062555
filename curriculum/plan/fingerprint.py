"""Knows whether two plans are the same: any edit that changes what is dealt shows, and where it was made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..identity import hash64, keyed, splitmix64
from .compile import pool_of, runs

if TYPE_CHECKING:
    from .plan import Plan

_CHUNK = 16_384


def fingerprint(plan: Plan) -> str:
    """16 hexadecimal digits of the curriculum, the rows with their cells, and what is dealt.

    What is dealt also shows the columns that only weights, budgets and exclusions read.
    """
    digest = hashlib.blake2b((plan.curriculum.canonical() + json.dumps(plan.table_checksums)).encode(), digest_size=8)
    for name, dealt in plan.stages.items():
        for part in (dealt.first, dealt.left, dealt.edges, dealt.matrix):
            digest.update(np.ascontiguousarray(part, np.int64).tobytes())
        if dealt.stage.window is None:
            digest.update(np.bitwise_xor.reduce(keyed(plan.table.uid[dealt.row_set()], name)).tobytes())
            if dealt.loss is not None:
                digest.update(np.round(dealt.loss, 9).tobytes())
        elif dealt.stage.feedback is not None:  # what its first windows will be planned from
            feedback = dealt.stage.feedback
            live = feedback.columns(feedback.start(plan.cells), plan.cells)
            here = plan.cells.at(dealt.left, pool_of(dealt.stage, plan.cells), live)
            parts = [live[column] for column in sorted(live)]
            middles = (dealt.edges[:-1] + dealt.edges[1:]) / 2 / max(dealt.rows, 1)
            for t in sorted({float(middles[0]), float(middles[-1])}):
                parts.append(dealt.stage.weight.amounts(here, t, dealt.stage.mass_rule, may_be_empty=True))
            digest.update(np.round(np.stack(parts), 9).tobytes())
            cards = dealt.deck[runs(dealt.first, dealt.left)]
            digest.update(np.bitwise_xor.reduce(keyed(plan.table.uid[cards], name)).tobytes())
    return digest.hexdigest()


def table_checksums(uid: np.ndarray, number: np.ndarray, used: np.ndarray | None) -> list[int]:
    """Row count, xor and sum over hashes of (uid, cell, used): any row added, lost or moved to another cell shows.

    Cells are numbered by name; renaming all of them alike deals the same rows, and is the same plan.
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
