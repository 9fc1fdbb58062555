"""Recordings that lie in Parquet files, copied once into a file that gives any row at once.

Parquet gives whole groups of rows only, and shards take their recordings in random order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from ...boundary.files import open_new
from ...errors import InputError
from ...progress import track
from ..questions.datasets import ParquetFile, Source


def spool_recordings(source: Path, target: Path) -> None:
    """Writes the column `audio` of all Parquet files of a source; raises InputError where one of them has none."""
    parts = Source(source).parts
    schema = pa.schema({"audio": pa.struct({"bytes": pa.large_binary(), "path": pa.string()})})
    with open_new(target) as sink, pa.ipc.new_file(sink, schema) as writer:
        for part in track(parts, "copying recordings", len(parts)):
            if not isinstance(part, ParquetFile) or not part.holds_recordings:
                raise InputError(f"{part.where(0)}: has no column `audio` of recordings, unlike others of {source}")
            try:
                for batch in part.recordings():
                    rows = [_row(value) for value in batch.column(0).to_pylist()]
                    writer.write_batch(pa.record_batch([pa.array(rows, schema.field(0).type)], schema))
            except (pa.ArrowException, OSError) as error:
                raise InputError(f"{part.path}: the file is damaged ({error!s:.120})") from None


def _row(value: Any) -> dict[str, Any] | None:
    return {"bytes": value, "path": None} if isinstance(value, bytes) else value


class _Batch:
    """A few rows of the file; what they hold is read when it is asked for."""

    def __init__(self, file: pa.ipc.RecordBatchFileReader, number: int) -> None:
        self.file, self.number, self.rows = file, number, file.get_batch(number).num_rows

    def __len__(self) -> int:
        return int(self.rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"audio": self.file.get_batch(self.number).column(0)[row].as_py()}


def spooled_recordings(path: str) -> list[Any]:
    """Parts of the rows that `spool_recordings` wrote: `parts[i][row]["audio"]` has bytes and path."""
    file = pa.ipc.open_file(pa.memory_map(path))
    return [_Batch(file, number) for number in range(file.num_record_batches)]
