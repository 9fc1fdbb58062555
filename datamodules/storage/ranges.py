"""Byte ranges of shards, and which neighbours are fetched in one request."""

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
    """`size` bytes of one shard from byte `offset` on."""

    shard: str
    offset: int
    size: int


def coalesced(wanted: Sequence[Range], max_gap: int) -> dict[Range, list[Range]]:
    """Spans to request, each with the wanted ranges that it covers.

    Neighbours share a span where at most `max_gap` bytes lie between them, as long as it stays within 16 MiB.
    """
    by_shard: dict[str, list[Range]] = defaultdict(list)
    for part in set(wanted):
        by_shard[part.shard].append(part)
    spans: dict[Range, list[Range]] = {}
    for shard, ranges in by_shard.items():
        ranges.sort()
        start, stop = ranges[0].offset, ranges[0].offset
        held: list[Range] = []
        for part in ranges:
            end = max(stop, part.offset + part.size)
            if held and (part.offset - stop > max_gap or end - start > _LARGEST_SPAN):
                spans[Range(shard, start, stop - start)] = held
                start, end, held = part.offset, part.offset + part.size, []
            stop = end
            held.append(part)
        spans[Range(shard, start, stop - start)] = held
    return spans
