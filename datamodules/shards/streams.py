"""The rows of an index as datasets of others: a source for webdataset, and a plain one for any PyTorch loop."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from ...errors import InputError
from ..questions.question import Question
from .reader import ShardReader


class IndexedSamples(IterableDataset[dict[str, Any]]):
    """Source stage of a `webdataset.DataPipeline`: WebDataset samples of these rows, in this order.

    Yields {"__key__", "__url__", "json", "flac"} with bytes, `json` holding the one question. Loader workers take
    turns, so that the order does not depend on their number; where the pipeline has `wds.split_by_worker`, that divides
    the rows. Ranks get the rows that they are given: all of them, for `wds.split_by_node` to divide, or their own.
    ahead: rows that are fetched together from a server.
    """

    def __init__(self, reader: ShardReader, rows: Iterable[int], ahead: int = 64) -> None:
        self.reader, self.rows, self.ahead = reader, [int(row) for row in rows], ahead

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        mine = info is not None and not _split_by_webdataset()
        rows = self.rows[info.id :: info.num_workers] if mine and info is not None else self.rows
        for start in range(0, len(rows), self.ahead):
            part = rows[start : start + self.ahead]
            fetched = self.reader.fetch(part, part) if self.reader.files.remote else None
            for row in part:
                question = json.dumps(self.reader.question(row, fetched).record(), ensure_ascii=False)
                yield {
                    "__key__": self.reader.key(row),
                    "__url__": self.reader.where(row),
                    "json": question.encode(),
                    self.reader.text("audio_ext", row): self.reader.sound(row, fetched),
                }


def _split_by_webdataset() -> bool:
    """Whether `wds.split_by_worker` asks for the next sample: a part of a part would lose samples without a word."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "split_by_worker" and frame.f_globals.get("__name__", "").startswith("webdataset"):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


class QuestionDataset(Dataset[tuple[np.ndarray, Question]]):
    """A plain map-style dataset of (wave, question) pairs: rows of an index, in this order, for any PyTorch loop.

    wave: [n] mono float32 at 16 kHz. rows: all of the index where None. Its items are those of a list: negative numbers
    count from the end, and one beyond it is an IndexError. Raises InputError for what cannot be read.
    """

    def __init__(self, reader: ShardReader | str | Path, rows: Iterable[int] | None = None) -> None:
        self.reader = reader if isinstance(reader, ShardReader) else ShardReader(reader)
        self.rows = np.arange(len(self.reader)) if rows is None else np.asarray(list(rows), np.int64)
        if len(self.rows) and not -1 < self.rows.min() <= self.rows.max() < len(self.reader):
            raise InputError(f"{self.reader.path}: rows go from 0 to {len(self.reader) - 1}, got {self.rows.max()}")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[np.ndarray, Question]:
        """The wave and the question of a row; IndexError where there is none."""
        if not -len(self) <= place < len(self):
            raise IndexError(f"place {place} of {len(self)} questions")
        return self._read([place])[0]

    def __getitems__(self, places: Sequence[int]) -> list[tuple[np.ndarray, Question]]:
        """Several at once, as loaders ask for batches; from a server they are fetched together."""
        return self._read(places)

    def _read(self, places: Sequence[int]) -> list[tuple[np.ndarray, Question]]:
        rows = [int(self.rows[place]) for place in places]
        fetched = self.reader.fetch(rows, rows) if self.reader.files.remote else None
        return [(self.reader.wave(row, fetched), self.reader.question(row, fetched)) for row in rows]
