"""Conditions: what a question is heard with, its own recording, silence, noise, or the recording of another question.

audio              its own recording
silence            30 s of zeros, the paper's condition; silence:4 is 4 s, silence:clip as long as its recording
noise              Gaussian noise (RMS 0.1) as long as its recording; noise:4 is 4 s
mismatched         another recording of the same split, source and question type (see `shards/partners.py`)
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import InputError
from ..audio.signals import SILENCE_S
from ..audio.waves import SAMPLE_RATE

KINDS = ("audio", "silence", "noise", "mismatched")


@dataclass(frozen=True)
class Condition:
    """One of KINDS, with the length in seconds of a silence or noise; None is as long as the question's recording."""

    kind: str
    seconds: float | None = None

    @property
    def fixed_silence(self) -> float | None:
        """Seconds of a silence that is the same for every question, else None."""
        return self.seconds if self.kind == "silence" else None

    @property
    def reads_audio(self) -> bool:
        """Whether a recording must be read: not for silence and noise."""
        return self.kind in ("audio", "mismatched")


def parse_condition(name: str) -> Condition:
    """The condition of a name such as `silence:4`; raises InputError, with the names there are, for any other."""
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


def length_of(condition: Condition, num_samples: int) -> int:
    """Samples at 16 kHz of what is heard in place of a recording of `num_samples` samples."""
    return num_samples if condition.seconds is None else round(condition.seconds * SAMPLE_RATE)
