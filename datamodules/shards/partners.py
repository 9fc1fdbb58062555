"""The other recording that a question hears when its own is swapped for another one."""

from __future__ import annotations

import numpy as np

from ...curriculum.identity import hash64
from ...errors import InputError
from .reader import ShardReader


class Partners:
    """For every row another one, whose recording it hears when mismatched: by (seed, uid), never its own clip."""

    def __init__(self, reader: ShardReader, seed: int) -> None:
        self.reader, self.seed = reader, seed
        self._groups: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def partner(self, row: int) -> int:
        """A row with another recording of the same split, source and question type; where there is none, of the same
        split and source, or of the same split. Raises InputError where the split has no other recording.
        """
        clips, own = self.reader.numbers["clip"], self.reader.clip(row)
        for columns in (("split", "source", "question_type"), ("split", "source"), ("split",)):
            group = self._group(columns, row)
            if len(group) > 1:
                pick = hash64(self.seed, "mismatched", self.reader.uid(row)) % (len(group) - 1)
                return int(group[pick + (clips[group[pick]] >= own)])  # its own recording is stepped over
        raise InputError(f"{self.reader.where(row)}: its split has no other recording to hear instead")

    def _group(self, columns: tuple[str, ...], row: int) -> np.ndarray:
        """[R] one row of each recording that shares the row's values, its own among them, sorted by recording."""
        if columns not in self._groups:
            number = np.zeros(len(self.reader), np.int64)
            for column in columns:
                codes = self.reader.codes(column).astype(np.int64)
                number = number * (int(codes.max()) + 1) + codes
            uid, clip = self.reader.numbers["uid"], self.reader.numbers["clip"]
            order = np.lexsort((uid, clip, number))
            again = (number[order][1:] == number[order][:-1]) & (clip[order][1:] == clip[order][:-1])
            order = np.delete(order, 1 + np.flatnonzero(again))
            self._groups[columns] = number, order, number[order]
        number, order, ordered = self._groups[columns]
        first, last = np.searchsorted(ordered, [number[row], number[row] + 1])
        return order[first:last]
