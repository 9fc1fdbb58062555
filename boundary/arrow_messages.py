"""The sizes that an Arrow IPC stream declares, read from its messages before anything is allocated.

Arrow's own reader allocates what a compressed buffer claims to unpack to. The messages are FlatBuffers: a table begins
with the distance back to its list of fields, which says where each field lies; 0 where it is missing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

_MARK = b"\xff\xff\xff\xff"
_MOST_METADATA = 64 << 20
_RECORD_BATCH, _DICTIONARY_BATCH = 3, 2  # of the union that a message's header is


class Declared(NamedTuple):
    """What one batch says of itself: rows, and bytes of its buffers once they are unpacked."""

    rows: int
    unpacked: int


def declared_sizes(data: memoryview, start: int) -> Iterator[Declared]:
    """What the batches of the stream that begins at `start` declare; ValueError for a stream that is none.

    A buffer that is not packed counts as it lies in the file; those may share bytes.
    """
    while start < len(data):
        size, head = _prefix(data, start)
        if size == 0:
            return
        if not 0 < size <= min(_MOST_METADATA, len(data) - head):
            raise ValueError(f"a message of {size} bytes at byte {start}")
        message = _Table.root(data[head : head + size])
        length = message.number(3, "<q")
        body = head + size
        if not 0 <= length <= len(data) - body:
            raise ValueError(f"a body of {length} bytes at byte {body}")
        kind = message.number(1, "<B")
        if kind in (_RECORD_BATCH, _DICTIONARY_BATCH):
            batch = message.table(2)
            yield _declared(batch.table(1) if kind == _DICTIONARY_BATCH else batch, data[body : body + length])
        start = body + length


def _prefix(data: memoryview, start: int) -> tuple[int, int]:
    """The size of a message's metadata, and where it begins; files of old versions lack the mark before the size."""
    if bytes(data[start : start + 4]) == _MARK:
        start += 4
    if start + 4 > len(data):
        raise ValueError(f"ends within a message, at byte {start}")
    return struct.unpack_from("<i", data, start)[0], start + 4


def _declared(batch: _Table, body: memoryview) -> Declared:
    rows, packed, total = batch.number(0, "<q"), batch.has(3), 0
    for offset, length in batch.pairs(2):
        if not (offset >= 0 and 0 <= length <= len(body) - offset):
            raise ValueError(f"a buffer of {length} bytes at {offset} of {len(body)}")
        unpacked = length
        if packed and length >= 8:
            unpacked = struct.unpack_from("<q", body, offset)[0]
            unpacked = length - 8 if unpacked == -1 else unpacked  # -1: it is not packed after all
        if unpacked < 0:
            raise ValueError(f"a buffer that unpacks to {unpacked} bytes")
        total += unpacked
    if rows < 0:
        raise ValueError(f"a batch of {rows} rows")
    return Declared(rows, total)


class _Table:
    """A table of a FlatBuffer, all of whose offsets are checked; ValueError for one that leads outside."""

    def __init__(self, data: memoryview, at: int) -> None:
        self.data, self.at = data, at
        self.fields = at - self._read("<i", at)
        self.size = self._read("<H", self.fields)

    @classmethod
    def root(cls, data: memoryview) -> _Table:
        """The table that a buffer begins with."""
        if len(data) < 4:
            raise ValueError("a message without metadata")
        return cls(data, struct.unpack_from("<I", data, 0)[0])

    def _read(self, kind: str, at: int) -> int:
        if not 0 <= at <= len(self.data) - struct.calcsize(kind):
            raise ValueError(f"an offset {at} that leads outside")
        return int(struct.unpack_from(kind, self.data, at)[0])

    def _place(self, field: int) -> int:
        slot = 4 + 2 * field
        offset = self._read("<H", self.fields + slot) if slot + 2 <= self.size else 0
        return self.at + offset if offset else 0

    def has(self, field: int) -> bool:
        """Whether a field is there."""
        return self._place(field) > 0

    def number(self, field: int, kind: str) -> int:
        """A number, 0 where it is missing; kind: as of `struct`."""
        place = self._place(field)
        return self._read(kind, place) if place else 0

    def table(self, field: int) -> _Table:
        """A table within this one."""
        place = self._place(field)
        if not place:
            raise ValueError("a message without its batch")
        return _Table(self.data, place + self._read("<I", place))

    def pairs(self, field: int) -> Iterator[tuple[int, int]]:
        """A list of pairs of 64-bit numbers."""
        place = self._place(field)
        if not place:
            return
        at = place + self._read("<I", place)
        count = self._read("<I", at)
        if count > (len(self.data) - at) // 16:
            raise ValueError(f"a list of {count} buffers")
        for number in range(count):
            yield struct.unpack_from("<qq", self.data, at + 4 + 16 * number)
