"""Differences with their intervals around a line at zero: one row per thing, one mark per group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import NamedTuple

from .charts import WIDTH, Interval, figure, line, short, text

_STEP, _APART = 20.0, 12.0


class Row(NamedTuple):
    """A row of a forest: its name, and name of a group -> difference in [-1, 1] with the ends of its interval."""

    name: str
    values: Mapping[str, Interval]


def forest(title: str, rows: Sequence[Row], colours: Mapping[str, str]) -> str:
    """A figure of differences in points; colours: group -> colour, in the order of its marks. "" of none."""
    known = [one for row in rows for one in row.values.values() if isfinite(one[0])]
    if not known:
        return ""
    ends = [value for one in known for value in one if isfinite(value)]
    low, high = min(0.0, *ends), max(0.0, *ends)
    room = max(high - low, 0.02) * 0.06
    low, high = low - room, high + room
    left, right = 8.0, WIDTH - 8
    tall = _STEP + _APART * len(colours)
    height = tall * len(rows) + 26
    parts, said = [], []

    def at(value: float) -> float:
        return left + (right - left) * (value - low) / (high - low)

    for tick in _ticks(low, high):
        kind = "axis" if tick == 0 else "grid"
        parts.append(line(at(tick), 4, at(tick), height - 20, kind))
        words = f"{100 * tick:+.0f}" if round(100 * tick) else "0"
        parts.append(text(min(max(at(tick), left + 10), right - 10), height - 6, words, "middle", True))
    for place, row in enumerate(rows):
        top = tall * place + 16
        parts.append(text(left, top, short(row.name, 44)))
        for number, (group, colour) in enumerate(colours.items()):
            value = row.values.get(group)
            if value is None or not isfinite(value[0]):
                continue
            y = top + 11 + _APART * number
            if isfinite(value[1]) and isfinite(value[2]):
                parts.append(line(at(value[1]), y, at(value[2]), y, f"l-{colour}"))
            parts.append(f'<circle class="f-{colour}" cx="{at(value[0]):.1f}" cy="{y:.1f}" r="4"/>')
            said.append(f"{row.name}, {group}: {100 * value[0]:+.1f} points")
    return figure(title, "".join(parts), WIDTH, height, "; ".join(said), dict(colours))


def _ticks(low: float, high: float) -> list[float]:
    """Round differences between two ends, 0 among them, at most seven."""
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if (high - low) / s <= 6)
    return [step * k for k in range(int(low / step) - 1, int(high / step) + 2) if low <= step * k <= high]
