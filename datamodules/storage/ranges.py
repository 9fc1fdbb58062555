"""Knows byte ranges: what is wanted of a shard, and which neighbours are fetched as one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

_LARGEST_SPAN = 16 << 20


@dataclass(frozen=True)
class Shard:
    """What the index remembers of a shard: its size in bytes, and the server's entity tag where there was one."""

    size: int
    etag: str = ""


class Range(NamedTuple):
    """Bytes of one shard."""

    shard: str
    offset: int
    size: int


def coalesced(wanted: Sequence[Range], max_gap: int) -> dict[Range, list[Range]]:
    """Spans that cover the ranges, each with its own; two ranges share one where the gap between them is small."""
    by_shard: dict[str, list[Range]] = defaultdict(list)
    for each in set(wanted):
        by_shard[each.shard].append(each)
    spans: dict[Range, list[Range]] = {}
    for shard, ranges in by_shard.items():
        ranges.sort()
        start, stop = ranges[0].offset, ranges[0].offset
        held: list[Range] = []
        for each in ranges:
            end = max(stop, each.offset + each.size)
            if held and (each.offset - stop > max_gap or end - start > _LARGEST_SPAN):
                spans[Range(shard, start, stop - start)] = held
                start, end, held = each.offset, each.offset + each.size, []
            stop = end
            held.append(each)
        spans[Range(shard, start, stop - start)] = held
    return spans
