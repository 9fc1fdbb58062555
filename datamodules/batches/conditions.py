"""Conditions: what a question is heard with, its own recording, silence, noise, or the recording of another question.

audio              its own recording
silence            30 s of zeros, the paper's condition; silence:4 is 4 s, silence:clip as long as its recording
noise              Gaussian noise (RMS 0.1) as long as its recording; noise:4 is 4 s
mismatched         another recording of the same split, source and question type (see `shards/partners.py`)
fragment           a part of its own recording: fragment:first, fragment:middle and fragment:last are a third of it,
                   fragment:0.1 its first tenth, fragment:last:0.25 its last quarter; fragment alone is the first third
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import InputError
from ..audio.signals import SILENCE_S
from ..audio.waves import SAMPLE_RATE

KINDS = ("audio", "silence", "noise", "mismatched", "fragment")
PLACES = ("first", "middle", "last")


@dataclass(frozen=True)
class Condition:
    """One of KINDS, with the length in seconds of a silence or noise; None is as long as the question's recording.

    place, share: of a fragment, one of PLACES and its share of the recording, in (0, 1].
    """

    kind: str
    seconds: float | None = None
    place: str = ""
    share: float = 1.0

    @property
    def fixed_silence(self) -> float | None:
        """Seconds of a silence that is the same for every question, else None."""
        return self.seconds if self.kind == "silence" else None

    @property
    def reads_audio(self) -> bool:
        """Whether a recording must be read: not for silence and noise."""
        return self.kind in ("audio", "mismatched", "fragment")


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
    elif kind == "fragment" and (found := _fragment(length if colon else "first")) is not None:
        return found
    elif kind in KINDS[:4] and not colon:
        return Condition(kind)
    raise InputError(
        f"condition {name!r}: use 'audio', 'silence' (30 s), 'silence:SECONDS', 'silence:clip', 'noise', "
        "'noise:SECONDS' (0.1 to 300), 'mismatched', 'fragment:first', 'fragment:middle', 'fragment:last' or "
        "'fragment:SHARE' (above 0, up to 1)"
    )


def _fragment(text: str) -> Condition | None:
    """The fragment of a text such as `middle`, `0.1` or `last:0.25`; None for any other."""
    place, _, share = text.partition(":")
    if place not in PLACES:
        place, share = "first", text
    try:
        size = float(share) if share else 1 / 3
    except ValueError:
        return None
    return Condition("fragment", place=place, share=size) if 0 < size <= 1 else None


def length_of(condition: Condition, num_samples: int) -> int:
    """Samples at 16 kHz of what is heard in place of a recording of `num_samples` samples."""
    if condition.kind == "fragment":
        first, last = part_of(condition, num_samples)
        return last - first
    return num_samples if condition.seconds is None else round(condition.seconds * SAMPLE_RATE)


def part_of(condition: Condition, num_samples: int) -> tuple[int, int]:
    """The first sample of a fragment and the one behind its last, of a recording of `num_samples` samples.

    It is never shorter than 0.1 s, unless the recording is.
    """
    size = min(num_samples, max(round(condition.share * num_samples), SAMPLE_RATE // 10))
    first = {"first": 0, "middle": (num_samples - size) // 2, "last": num_samples - size}[condition.place]
    return first, first + size
