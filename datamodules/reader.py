"""Knows how to fetch any question of an index by its row: one read of a byte range, checked, decoded, as asked.

A WebDataset pipeline whose source is the index instead of a stream: batches are decided before any audio is read, so
they are equal on every rank and the same for any number of workers.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..curriculum.table import read_arrow
from ..errors import InputError
from .audio import decode
from .index import parse_questions
from .question import Question


class ShardReader:
    """Random access to the questions and recordings of one index. Cheap to pickle: files open on first use."""

    def __init__(self, index: str | Path) -> None:
        self.path = Path(index)
        table: pa.Table = read_arrow(index)
        self._rows = {
            name: table.column(name).to_pylist()
            if pa.types.is_dictionary(table.schema.field(name).type)
            else table.column(name).to_numpy()
            for name in table.column_names
            if name != "key"
        }
        self._files: dict[str, int] = {}
        self._pid = os.getpid()

    def __len__(self) -> int:
        return len(self._rows["uid"])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}

    def uid(self, row: int) -> int:
        """Identity of a row."""
        return int(self._rows["uid"][row])

    def clip(self, row: int) -> int:
        """Identity of the row's recording; rows with equal numbers share it."""
        return int(self._rows["clip"][row])

    def question(self, row: int) -> Question:
        """The row's question, checked against the identity the index holds."""
        data = self._range(row, "json")
        where = self._where(row)
        questions, number = parse_questions(data, where), int(self._rows["question_no"][row])
        if number >= len(questions) or questions[number].uid != self.uid(row):
            held = ", ".join(question.key for question in questions)
            raise InputError(f"{where}: holds {held}; the index expects another question; re-index the shard")
        return questions[number]

    def wave(self, row: int) -> np.ndarray:
        """The row's recording, mono float32 at 16 kHz; checksum, length and finiteness are verified."""
        data, where = self._range(row, "audio"), self._where(row)
        if zlib.crc32(data) != int(self._rows["audio_crc"][row]):
            raise InputError(f"{where}: the recording changed since it was indexed (checksum); re-index the shard")
        return decode(data, where, int(self._rows["num_samples"][row]))

    def _where(self, row: int) -> str:
        return f"{self.path.parent / self._rows['shard'][row]}@{int(self._rows['audio_offset'][row])}"

    def _range(self, row: int, part: str) -> bytes:
        offset, size = int(self._rows[f"{part}_offset"][row]), int(self._rows[f"{part}_size"][row])
        data = os.pread(self._open(self._rows["shard"][row]), size, offset)
        if len(data) != size:
            raise InputError(f"{self._where(row)}: {len(data)} of {size} bytes there; the shard was cut off")
        return data

    def _open(self, shard: str) -> int:
        if self._pid != os.getpid():  # descriptors survive a fork, but their numbers may be reused by the child
            self._files, self._pid = {}, os.getpid()
        if shard not in self._files:
            path = self.path.parent / shard
            try:
                self._files[shard] = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise InputError(f"{path}: the shard is missing ({error.strerror}); the index names it") from None
        return self._files[shard]

    def close(self) -> None:
        """Closes the shard files this process opened."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files = {}


def share(rows: np.ndarray, rank: int, world: int) -> np.ndarray:
    """One rank's part of a global batch: every world-th element from its rank on."""
    return rows[rank::world]


def worker_share(steps: range) -> Iterator[int]:
    """The steps this data-loader worker prepares: round robin, the order in which the loader collects them."""
    from torch.utils.data import get_worker_info

    info = get_worker_info()
    yield from steps if info is None else steps[info.id :: info.num_workers]
