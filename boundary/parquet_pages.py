"""The sizes that the pages of a Parquet file declare, read from their headers before anything is unpacked.

Parquet's own reader allocates what a page's header claims, whatever the file's footer says. A header is a struct in
Thrift's compact protocol: per field a byte of type and step of the field's number, numbers as zigzag varints.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

_HEADER, _MOST_HEADER = 1 << 14, 16 << 20  # bytes read first, and at most
_BOOLEANS, _BYTE, _INTEGERS, _DOUBLE, _TEXT, _LISTS, _STRUCT = (1, 2), 3, (4, 5, 6), 7, 8, (9, 10), 12
_UNPACKED, _PACKED = 2, 3  # fields of a page's header
_DEPTH = 8


def unpacked_sizes(file: BinaryIO, metadata: Any) -> Iterator[int]:
    """What every page of every column claims to unpack to, in bytes.

    file: the open Parquet file. metadata: of pyarrow. ValueError where pages are not where the footer says they are.
    """
    size = file.seek(0, 2)
    for group in range(metadata.num_row_groups):
        part = metadata.row_group(group)
        for number in range(part.num_columns):
            column = part.column(number)
            at = column.data_page_offset
            if column.has_dictionary_page and column.dictionary_page_offset:
                at = min(at, column.dictionary_page_offset)
            end = at + column.total_compressed_size
            if not 0 <= at <= end <= size:
                raise ValueError(f"column {number} lies at bytes {at} to {end}")
            while at < end:
                length, unpacked, packed = _page(file, at, end)
                if unpacked < 0 or not 0 <= packed <= end - at - length:
                    raise ValueError(f"a page of {packed} bytes at byte {at}")
                yield unpacked
                at += length + packed


def _page(file: BinaryIO, at: int, end: int) -> tuple[int, int, int]:
    """Bytes of the header of the page at `at`, what its content unpacks to, and what it takes packed."""
    for most in (_HEADER, _MOST_HEADER):
        file.seek(at)
        header = _Compact(file.read(min(most, end - at)))
        try:
            fields = header.struct()
            return header.at, fields[_UNPACKED], fields[_PACKED]
        except IndexError:  # the header is longer than what was read
            if most >= end - at:
                break
        except KeyError:
            break
    raise ValueError(f"no page's header at byte {at}")


class _Compact:
    """Reads a struct; its numbers are kept and all else is skipped. IndexError where the bytes end before it."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def struct(self, depth: int = 0) -> dict[int, int]:
        """Field -> number, of the fields that are numbers."""
        if depth > _DEPTH:
            raise ValueError("structs within structs")
        found: dict[int, int] = {}
        field = 0
        while kind := self._byte():
            step = kind >> 4
            field = field + step if step else self._number()
            value = self._value(kind & 15, depth)
            if value is not None:
                found[field] = value
        return found

    def _value(self, kind: int, depth: int, in_list: bool = False) -> int | None:
        if kind in _INTEGERS:
            return self._number()
        if kind in _BOOLEANS:
            self.at += in_list  # a field's is in its type
        elif kind == _BYTE:
            self._byte()
        elif kind == _DOUBLE:
            self.at += 8
        elif kind == _TEXT:
            length = self._varint()
            self.at += length
        elif kind == _STRUCT:
            self.struct(depth + 1)
        elif kind in _LISTS:
            self._list(depth)
        else:
            raise ValueError(f"a field of type {kind}")
        return None

    def _list(self, depth: int) -> None:
        head = self._byte()
        count = head >> 4
        if count == 15:
            count = self._varint()
        for _ in range(count):
            self._value(head & 15, depth + 1, in_list=True)
            if self.at >= len(self.data):
                raise IndexError

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("a number without an end")

    def _number(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
