"""Knows what a question can be heard with: its recording, silence, noise, or a recording that is not its own.

audio              its own recording
silence            30 s of zeros, the paper's condition; silence:4 is 4 s, silence:clip as long as its recording
noise              Gaussian noise (RMS 0.1) as long as its recording; noise:4 is 4 s
mismatched         another recording of the same split, source and question type
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..curriculum.identity import hash64
from ..errors import InputError
from .audio import SAMPLE_RATE, SILENCE_S
from .reader import ShardReader

KINDS = ("audio", "silence", "noise", "mismatched")


@dataclass(frozen=True)
class Condition:
    """A kind, and its length in seconds: None is that of the question's own recording."""

    kind: str
    seconds: float | None = None

    @property
    def fixed_silence(self) -> float | None:
        """Seconds of a silence that is the same for every question, else None."""
        return self.seconds if self.kind == "silence" else None

    @property
    def reads_audio(self) -> bool:
        """Whether recordings must be read at all."""
        return self.kind in ("audio", "mismatched")


def parse_condition(name: str) -> Condition:
    """The condition of that name; an InputError lists the names there are."""
    kind, colon, length = name.partition(":")
    if kind in ("silence", "noise"):
        if not colon:
            return Condition(kind, SILENCE_S if kind == "silence" else None)
        if kind == "silence" and length == "clip":
            return Condition(kind)
        try:
            if 0.1 <= float(length) <= 300:
                return Condition(kind, float(length))
        except ValueError:
            pass
    elif kind in KINDS and not colon:
        return Condition(kind)
    raise InputError(
        f"condition {name!r}: use 'audio', 'silence' (30 s), 'silence:SECONDS', 'silence:clip', 'noise', "
        "'noise:SECONDS' (0.1 to 300) or 'mismatched'"
    )


class Partners:
    """For every row the row whose recording it hears when mismatched: by hash of its identity, never its own clip."""

    def __init__(self, reader: ShardReader, seed: int) -> None:
        self.reader, self.seed = reader, seed
        self._groups: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def partner(self, row: int) -> int:
        """A row with another recording, of the same split, source and type; of fewer of these where there is none."""
        clips, mine = self.reader.numbers["clip"], self.reader.clip(row)
        for columns in (("split", "source", "question_type"), ("split", "source"), ("split",)):
            group = self._group(columns, row)
            if len(group) > 1:
                pick = hash64(self.seed, "mismatched", self.reader.uid(row)) % (len(group) - 1)
                return int(group[pick + (clips[group[pick]] >= mine)])  # its own recording is stepped over
        raise InputError(f"{self.reader.where(row)}: its split has no other recording to hear instead")

    def _group(self, columns: tuple[str, ...], row: int) -> np.ndarray:
        """A row of each recording that shares the row's values, its own among them, in the order of the recordings."""
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


def length_of(condition: Condition, num_samples: int) -> int:
    """Samples at 16 kHz of a silence or noise for a recording of so many."""
    return num_samples if condition.seconds is None else round(condition.seconds * SAMPLE_RATE)
