"""The audio that a row of an index is heard with under a condition: training batches and voters share it."""

from __future__ import annotations

import numpy as np

from ..audio.signals import noise
from ..shards.partners import Partners
from ..shards.reader import Fetched, ShardReader
from .conditions import Condition, length_of, part_of


class ConditionAudio:
    """Waves by row and condition. Noise and the choice of another recording depend on (seed, row) alone."""

    def __init__(self, reader: ShardReader, seed: int) -> None:
        self.reader, self.seed = reader, seed
        self._partners = Partners(reader, seed)

    def heard_row(self, row: int, condition: Condition) -> int:
        """The row whose recording is heard: the row itself, or its partner where it is mismatched.

        Raises InputError where the split of a mismatched row has no other recording.
        """
        return self._partners.partner(row) if condition.kind == "mismatched" else row

    def num_samples(self, row: int, condition: Condition) -> int:
        """Length at 16 kHz of what the row hears, without reading it."""
        return self._length(self.heard_row(row, condition), condition)

    def _length(self, row: int, condition: Condition) -> int:
        """Samples that are heard of a row's recording, or in its place; that need not be there for a fixed length."""
        return length_of(condition, self.reader.num_samples(row) if condition.seconds is None else 0)

    def key(self, row: int, condition: Condition) -> tuple[str, int]:
        """Equal for rows and conditions that hear the same samples."""
        if condition.kind == "fragment":
            return f"fragment {condition.place} {condition.share}", self.reader.clip(row)
        if condition.reads_audio:
            return condition.kind, self.reader.clip(self.heard_row(row, condition))
        length = self._length(row, condition)
        return ("silence", length) if condition.kind == "silence" else (f"noise {length}", self.reader.clip(row))

    def wave(self, row: int, condition: Condition, fetched: Fetched | None = None) -> np.ndarray:
        """What the row hears: [n] mono float32 at 16 kHz. Raises InputError where its recording cannot be read."""
        if condition.reads_audio:
            wave = self.reader.wave(self.heard_row(row, condition), fetched)
            first, last = part_of(condition, len(wave)) if condition.kind == "fragment" else (0, len(wave))
            return wave[first:last]
        length = self._length(row, condition)
        if condition.kind == "silence":
            return np.zeros(length, np.float32)
        return noise(length, self.reader.clip(row), self.seed, "condition")
