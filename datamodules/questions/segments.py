"""Segments: the part of a longer recording that a question is about, by `start` and `duration` or `end`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ...errors import InputError
from .question import Question

SEGMENT = ("start", "duration", "end")


class Segment(NamedTuple):
    """A part of a file in seconds; `end` None is the end of the file."""

    start: float = 0.0
    end: float | None = None


class Read(NamedTuple):
    """A question, the path of its recording as annotated ("" where there is none), and its part of it."""

    question: Question
    audio_path: str = ""
    segment: Segment | None = None


def segment_of(fields: Mapping[str, Any], where: str) -> Segment | None:
    """The segment that a record names; None for the whole file.

    `duration` without `start` is taken for the length of the file. Raises InputError for what is no time in seconds (or
    h:m:s), for a segment that ends before it begins, and where `duration` and `end` disagree.
    """
    times = {name: _seconds(fields[name], f"{where}: {name}") for name in SEGMENT if fields.get(name) not in (None, "")}
    if not times or set(times) == {"duration"}:
        return None
    start, end = times.get("start", 0.0), times.get("end")
    if "start" in times and "duration" in times:
        long = start + times["duration"]
        if end is not None and abs(end - long) > 0.01:
            raise InputError(f"{where}: start {start:g} and duration {times['duration']:g} do not end at {end:g} s")
        end = long if end is None else end
    if end is not None and end <= start:
        raise InputError(f"{where}: the segment from {start:g} to {end:g} s is empty")
    return Segment(start, end) if start or end is not None else None


def _seconds(value: Any, where: str) -> float:
    """A time in seconds, from a number, its text, or h:m:s."""
    try:
        if isinstance(value, bool):
            raise ValueError
        parts = [float(part) for part in value.split(":")] if isinstance(value, str) else [float(value)]
    except (TypeError, ValueError):
        raise InputError(f"{where} must be a time in seconds, got {value!r:.80}") from None
    seconds = 0.0
    for part in parts:
        seconds = 60 * seconds + part
    if len(parts) > 3 or not math.isfinite(seconds) or min(parts) < 0:
        raise InputError(f"{where} must be a time in seconds, got {value!r:.80}")
    return seconds
