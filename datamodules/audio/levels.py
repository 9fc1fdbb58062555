"""How loud a recording is: peak, power, what mixing its channels cost, digital silence and clipping.

Two channels of opposite sign cancel when they are averaged: the model then hears nothing, whatever the file holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from ...errors import InputError

FLOOR_DB = -144.0  # what digital silence counts as
_STEP = 2.0**-15  # of 16 bits: a peak of no more is silence once it is packed
_FULL = 32_767 / 32_768
CANCELLED_DB = 10.0  # lost by mixing: most of what was recorded
FAINT_DB = -60.0


@dataclass(frozen=True)
class Levels:
    """The level of one recording; dB are of full scale, and digital silence counts as -144 dB.

    Args:
        peak_db, rms_db: largest and root mean square sample of what the model hears, 16 kHz mono.
        mix_loss_db: how much less its power is than that of the loudest channel; 0 for mono and for equal channels.
        silent_share: share of its samples that 16 bits make zero.
        clipped_share: share of the file's own samples, in all channels, that stand at full scale or beyond.
    """

    peak_db: float
    rms_db: float
    mix_loss_db: float
    silent_share: float
    clipped_share: float

    def record(self) -> dict[str, float]:
        """The levels as JSON, rounded to 0.01 dB and a millionth."""
        return {name: round(value, 2 if name.endswith("_db") else 6) for name, value in asdict(self).items()}


LEVELS = tuple(field.name for field in fields(Levels))


class Meter:
    """Adds up a file's channels, block by block, for `levels`."""

    def __init__(self) -> None:
        self.power = np.zeros(0)
        self.clipped = self.samples = 0
        self.mixed_power = 0.0

    def add(self, samples: np.ndarray, mixed: np.ndarray) -> None:
        """Counts a block [n, c] in, and what was mixed of it, [n]."""
        power = np.einsum("nc,nc->c", samples, samples, dtype=np.float64)
        if len(self.power) != len(power):  # the first block, or another number of channels
            self.power, self.mixed_power = np.zeros(len(power)), 0.0
        self.power += power
        self.clipped += int((np.abs(samples) >= _FULL).sum())
        self.samples += samples.size
        self.mixed_power += float(np.dot(mixed.astype(np.float64), mixed))

    def levels(self, wave: np.ndarray) -> Levels:
        """The levels of the file that became this wave, [n] float32 at 16 kHz."""
        power = float(np.dot(wave.astype(np.float64), wave)) / max(1, len(wave))
        loudest = float(self.power.max()) if len(self.power) else 0.0
        loss = decibels(loudest, power=True) - decibels(self.mixed_power, power=True) if len(self.power) > 1 else 0.0
        return Levels(
            decibels(float(np.abs(wave).max(initial=0.0))),
            decibels(power, power=True),
            min(max(0.0, loss), -FLOOR_DB) if loudest else 0.0,
            float((np.abs(wave) < _STEP / 2).mean()) if len(wave) else 1.0,
            self.clipped / max(1, self.samples),
        )


def decibels(value: float, power: bool = False) -> float:
    """20 log10 of an amplitude or 10 log10 of a power, and at least -144."""
    return max(FLOOR_DB, (10 if power else 20) * math.log10(value)) if value > 0 else FLOOR_DB


def check_signal(levels: Levels, where: str) -> None:
    """Raises InputError for a recording in which nothing can be heard: it would equal the condition of silence."""
    if levels.peak_db > decibels(_STEP):
        return
    if levels.mix_loss_db > CANCELLED_DB:
        raise InputError(
            f"{where}: no signal: its channels cancel when they are averaged ({levels.mix_loss_db:.0f} dB are lost); "
            "take the loudest channel (--mix loudest), or leave it out (--on-bad quarantine)"
        )
    raise InputError(
        f"{where}: no signal: its peak is {levels.peak_db:.0f} dB of full scale, digital silence; with "
        "audio would be the same as without; leave it out (--on-bad quarantine)"
    )


def levels_of(record: Any) -> dict[str, float] | None:
    """The levels that a sample's json says its recording has; None where it says none that can be."""
    if not isinstance(record, Mapping):
        return None
    values = {name: record.get(name) for name in LEVELS}
    for name, value in values.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            return None
        if (name.endswith("_share") and not 0 <= value <= 1) or (name.endswith("_db") and not -200 <= value <= 200):
            return None
    return {name: float(value) for name, value in values.items()}  # type: ignore[arg-type]
