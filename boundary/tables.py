"""Arrow and Parquet tables that somebody else may have written: what they declare is checked before it is read.

A few kilobytes may declare gigabytes, in packed buffers, runs or a dictionary; offsets and numbers of a dictionary may
lead anywhere. So sizes come first, then the columns' types, and every value is checked once before it is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import InputError
from .arrow_messages import declared_sizes
from .files import open_regular
from .parquet_pages import unpacked_sizes

_MAGIC = b"ARROW1"
_FREE, _RATIO = 64 << 20, 200  # a table may unpack to so many bytes, and to so many times its size
_ROWS = 2_000_000_000
_THRIFT: dict[str, Any] = {"thrift_string_size_limit": 64 << 20, "thrift_container_size_limit": 1 << 20}
_STREAM = 8  # the byte of an Arrow file at which its stream begins


def allowance(size: int) -> int:
    """Bytes that a file of `size` bytes may unpack to."""
    return _FREE + _RATIO * size


def read_table(path: str | Path) -> pa.Table:
    """An Arrow file, memory-mapped, or a Parquet file (.parquet) as a table, every value of it valid.

    InputError where the file is of neither format, declares more than such a file can hold, or is damaged.
    """
    path = Path(path)
    with open_regular(path) as file:
        size = file.seek(0, 2)
    try:
        table = _parquet(path, size) if path.suffix == ".parquet" else _arrow(path)
        _check(table, path, allowance(size))
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, LookupError, RecursionError, MemoryError) as error:
        raise InputError(f"{path}: not a readable table ({' '.join(str(error).split())[:200]})") from None
    return table


def _arrow(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        whole = source.read_buffer()
        if whole.size < 3 * _STREAM or bytes(whole[: len(_MAGIC)]) != _MAGIC or bytes(whole[-6:]) != _MAGIC:
            raise ValueError("no Arrow file, or cut off")
        unpacked = rows = 0
        for batch in declared_sizes(memoryview(whole), _STREAM):
            unpacked, rows = unpacked + batch.unpacked, rows + batch.rows
        _within(unpacked, rows, path, whole.size)
        # As a stream: its messages are those that were just looked at, whatever the list at the file's end says.
        return pa.ipc.open_stream(whole.slice(_STREAM)).read_all()


def _parquet(path: Path, size: int) -> pa.Table:
    """Texts are read as numbers of a dictionary first: how long they are in all is known before they stand alone."""
    schema = open_parquet(path).schema_arrow
    parts, held = [], 0
    for batch in open_parquet(path, shared=True).iter_batches(4096):
        parts.append(batch)
        held += sum(unpacked_bytes(column) for column in batch.columns)
        if held > allowance(size):
            raise InputError(f"{path}: unpacks to more than {allowance(size):,} bytes, unlike any table of its size")
    return pa.Table.from_batches(parts).cast(schema) if parts else schema.empty_table()


def unpacked_bytes(column: pa.Array) -> int:
    """Bytes that a column takes whose values share nothing."""
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    if not _is_text(column.type.value_type):
        return int(column.indices.nbytes)
    column.validate(full=True)
    lengths: Any = pc.fill_null(pc.binary_length(column.dictionary).cast(pa.int64()), 0)
    return int(column.indices.nbytes + (pc.sum(lengths.take(column.indices)).as_py() or 0))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def open_parquet(path: str | Path, shared: bool = False) -> pq.ParquetFile:
    """A Parquet file whose footer declares no more than a file of its size can hold; InputError otherwise.

    shared: texts come as numbers of a dictionary, so that those that are alike are in memory once.
    """
    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
        found = pq.ParquetFile(path, **_THRIFT)
        about, unpacked = found.metadata, 0
        for group in range(about.num_row_groups):
            part = about.row_group(group)
            columns = [part.column(number) for number in range(part.num_columns)]
            unpacked += max(sum(max(column.total_uncompressed_size, 0) for column in columns), 0)
        _within(max(unpacked, about.num_rows * max(1, about.num_columns)), about.num_rows, Path(path), size)
        with open_regular(path) as file:
            _within(sum(unpacked_sizes(file, about)), about.num_rows, Path(path), size)
        texts = [field.name for field in found.schema_arrow if _is_text(field.type)]
        return pq.ParquetFile(path, read_dictionary=texts, **_THRIFT) if shared and texts else found
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({' '.join(str(error).split())[:120]})") from None


def _within(unpacked: int, rows: int, path: Path, size: int) -> None:
    if not (0 <= unpacked <= allowance(size) and 0 <= rows <= min(_ROWS, 8 * allowance(size))):
        raise InputError(
            f"{path}: its {size:,} bytes declare {rows:,} rows of {unpacked:,} bytes, more than such a file can hold"
        )


def _check(table: pa.Table, path: Path, most: int) -> None:
    """Raises InputError for kinds of columns that no table here has, and ArrowInvalid for values that lead outside."""
    for field in table.schema:
        if not _is_plain(field.type):
            raise InputError(f"{path}: column {field.name!r:.80} is of the kind {str(field.type)[:80]}; none here is")
    bits = sum(_bytes_of(column) for column in table.columns)
    if len(table) > 8 * bits + 1024:
        raise InputError(f"{path}: {len(table):,} rows in {bits:,} bytes; they cannot hold them")
    table.validate(full=True)
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_dictionary(column.type) or pa.types.is_string_view(column.type):
            _check_texts(name, column, path, most)


def _bytes_of(column: pa.ChunkedArray) -> int:
    return sum(sum(buffer.size for buffer in chunk.buffers() if buffer is not None) for chunk in column.chunks)


def _check_texts(name: str, column: pa.ChunkedArray, path: Path, most: int) -> None:
    """Raises InputError where texts that share their bytes would take more than `most` once they stand alone."""
    total = 0
    for chunk in column.chunks:
        if pa.types.is_dictionary(chunk.type):
            if chunk.dictionary.null_count:
                raise InputError(f"{path}: column {name!r:.80} has a value in its dictionary that is missing")
            total += unpacked_bytes(chunk)
        else:  # a view: two numbers and the beginning of its text, 16 bytes a row
            total += sum(int(size) for size in np.frombuffer(chunk.buffers()[1], np.int32)[::4]) if len(chunk) else 0
    if total > 16 * most:
        raise InputError(f"{path}: the texts of column {name!r:.80} are {total:,} bytes long in all")


def _is_plain(kind: pa.DataType, depth: int = 0) -> bool:
    """Whether columns of this kind take at least a bit for every row: no runs, unions or types of other packages."""
    kinds = pa.types
    if kinds.is_dictionary(kind):
        return depth == 0 and _is_plain(kind.value_type, 1) and not kinds.is_dictionary(kind.value_type)
    if kinds.is_list(kind) or kinds.is_large_list(kind):
        return depth < 4 and _is_plain(kind.value_type, depth + 1)
    if kinds.is_struct(kind):
        return depth < 4 and all(_is_plain(kind.field(n).type, depth + 1) for n in range(kind.num_fields))
    if kinds.is_fixed_size_binary(kind):
        return bool(kind.byte_width > 0)
    return bool(
        kinds.is_primitive(kind)
        or kinds.is_null(kind)
        or kinds.is_string(kind)
        or kinds.is_large_string(kind)
        or kinds.is_string_view(kind)
        or kinds.is_binary(kind)
        or kinds.is_large_binary(kind)
        or kinds.is_decimal(kind)
    )
