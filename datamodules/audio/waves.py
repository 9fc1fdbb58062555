"""Waves: from the bytes of a sound file to 16 kHz mono float32, with the checks that decoders lack.

Most decoders return half a clip or NaN without an error; every clip therefore passes `checked` after decoding, and its
length is compared with what the index promises.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import soundfile
import soxr

from ...errors import InputError
from .containers import Announced, whole_flac
from .decoding import Block, Opened, blocks, check_whole, opened, stream_of
from .levels import Levels, Meter
from .mixing import mixed
from .mp3 import Data

SAMPLE_RATE = 16_000
MIN_SAMPLES = 400  # one analysis window of the Whisper features, 25 ms
MAX_SAMPLES = 300 * SAMPLE_RATE  # what the Whisper features of Qwen2.5-Omni take
_LATE_S = 0.5  # seconds by which a part may reach beyond the end of its file


@dataclass(frozen=True)
class Cut:
    """Which part of a file is the recording, and how its channels become one.

    Args:
        start, end: of the part, in seconds; `end` None is the file's end.
        max_s: the longest recording, in seconds; at most 300. too_long: "refuse" longer ones, or take of them the
            "first" part or the "middle".
        mix: "mean" of the channels (see `mixing.py`), or the "loudest" one.

    Raises InputError for other values.
    """

    start: float = 0.0
    end: float | None = None
    max_s: float = MAX_SAMPLES / SAMPLE_RATE
    too_long: Literal["refuse", "first", "middle"] = "refuse"
    mix: Literal["mean", "loudest"] = "mean"

    def __post_init__(self) -> None:
        if self.too_long not in ("refuse", "first", "middle"):
            raise InputError(f"too_long is 'refuse', 'first' or 'middle', got {self.too_long!r}")
        if self.mix not in ("mean", "loudest"):
            raise InputError(f"mix is 'mean' or 'loudest', got {self.mix!r}")
        if not MIN_SAMPLES / SAMPLE_RATE <= self.max_s <= MAX_SAMPLES / SAMPLE_RATE:
            raise InputError(f"max_seconds must lie within 0.025 and {MAX_SAMPLES // SAMPLE_RATE}, got {self.max_s}")

    @classmethod
    def of(cls, given: Cut | Mapping[str, Any] | None, kept: bool = False) -> Cut:
        """The cut itself, or that of a mapping of `max_s`, `too_long` and `mix`; kept: files stay as they are.

        Raises InputError for other settings, and for those that need another file than it is.
        """
        if not isinstance(given, Cut):
            known = ("max_s", "too_long", "mix")
            if unknown := [name for name in given or {} if name not in known]:
                raise InputError(f"cut: no entry {unknown[0]!r}; there are {', '.join(known)}")
            given = cls(**dict(given or {}))
        if kept and (given.mix != "mean" or given.too_long != "refuse"):
            raise InputError("files that are kept as they are cannot be cut, and are mixed by their mean; pack as flac")
        return given

    @property
    def is_part(self) -> bool:
        """Whether it names a part of the file."""
        return self.start > 0 or self.end is not None


WHOLE = Cut()


@dataclass(frozen=True)
class Recording:
    """What is heard of a file, [n] float32 at 16 kHz, and its levels.

    part: start and end in seconds, and the length of the whole, where it was too long and a part was taken.
    """

    wave: np.ndarray
    levels: Levels
    part: tuple[float, float, float] | None = None

    def within_full_scale(self) -> Recording:
        """The recording, scaled down where its peak is beyond 1, as 16 bits need it."""
        peak = float(np.abs(self.wave).max())
        if peak <= 1:
            return self
        gain_db = 20 * math.log10(peak)
        levels = replace(self.levels, peak_db=0.0, rms_db=self.levels.rms_db - gain_db)
        return Recording(self.wave / np.float32(peak), levels, self.part)


def decode(data: Data, where: str, num_samples: int | None = None) -> np.ndarray:
    """Mono float32 [n] at 16 kHz from the bytes of a sound file; see `mixing.py` for its channels.

    where: names the file in messages. num_samples: the length that the index has. Raises InputError for what cannot be
    decoded, for an impossible rate or length, and for a length other than `num_samples`: cut files decode silently.
    """
    file = opened(data, where)
    if file.plain is not None:
        _announced_samples(file.plain, where)
    wave = _joined(blocks(file, where), where, WHOLE)
    if num_samples is not None and len(wave) != num_samples:
        raise InputError(f"{where}: decodes to {len(wave)} samples, the index says {num_samples}; re-index the shard")
    return wave


def probe(data: Data, where: str) -> int:
    """Samples at 16 kHz of a sound file, of flac and wav by their headers; raises InputError where its end is missing.

    Damage in the middle of a flac, or within its last frame, is only seen by `decode`.
    """
    file = opened(data, where)
    check_whole(file, where)
    if file.plain is None:
        return len(decode(data, where))
    announced = whole_flac(data)
    if announced is not None:
        return _announced_samples(announced, where)
    try:
        with soundfile.SoundFile(stream_of(data)) as sound:
            num_samples = _announced_samples(Announced(sound.samplerate, sound.channels, sound.frames), where)
            may_hold_nan = sound.subtype in ("FLOAT", "DOUBLE")
            sound.seek(sound.frames - 1)
            if len(sound.read(1)) != 1:
                raise InputError(f"{where}: the recording is cut off; its header promises {sound.frames} samples")
    except (RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: not a readable recording ({getattr(error, 'error_string', error)})") from None
    return len(decode(data, where)) if may_hold_nan else num_samples


def whole(data: Data, where: str, cut: Cut = WHOLE) -> Recording:
    """The recording of a file that is whole, and as long as its header announces; of its part, where `cut` names one.

    Raises InputError as `decode` does, where the file's end is missing, and for a part that lies beyond it.
    """
    file = opened(data, where)
    check_whole(file, where)
    cut, part = _placed(file, where, cut)
    promised = None
    if file.plain is not None and not cut.is_part:
        promised = _announced_samples(file.plain, where, cut.max_s)
    meter = Meter()
    channel = _loudest(file, where, cut) if cut.mix == "loudest" else None
    wave = _joined(blocks(file, where, cut.start), where, cut, meter, channel)
    if promised is not None and len(wave) != promised:
        raise InputError(f"{where}: decodes to {len(wave)} samples, its header promises {promised}; it is damaged")
    return Recording(wave, meter.levels(wave), part)


def _placed(file: Opened, where: str, cut: Cut) -> tuple[Cut, tuple[float, float, float] | None]:
    """The cut within the longest, and the part that it takes of what is too long: start, end, whole length."""
    if cut.too_long != "refuse":
        length = cut.end - cut.start if cut.end is not None else _seconds(file, where) - cut.start
        if length > cut.max_s:
            start = cut.start + (0.0 if cut.too_long == "first" else (length - cut.max_s) / 2)
            return replace(cut, start=start, end=start + cut.max_s), (start, start + cut.max_s, length)
    elif cut.end is not None and cut.end - cut.start > cut.max_s:
        raise _too_long(where, cut.end - cut.start, cut.max_s)
    return cut, None


def _seconds(file: Opened, where: str) -> float:
    """The length of a file: as announced by flac and wav, else by decoding it."""
    if file.plain is not None and file.plain.rate:
        return file.plain.frames / file.plain.rate
    return sum(len(block.samples) / block.rate for block in blocks(file, where))


def _loudest(file: Opened, where: str, cut: Cut) -> int:
    """The channel with the most power in a cut."""
    meter = Meter()
    for block in _part(blocks(file, where, cut.start), where, cut):
        meter.add(block.samples, block.samples[:, 0])
    return int(np.argmax(meter.power)) if len(meter.power) else 0


def _part(sound: Iterator[Block], where: str, cut: Cut) -> Iterator[Block]:
    """The blocks of a cut, to the sample; raises InputError where the file ends before it, or goes on for too long."""
    taken, last, end = 0.0, 0.0, math.inf if cut.end is None else cut.end
    for block in sound:
        _check_rate(block.rate, where)
        last = block.at + len(block.samples) / block.rate
        begin, stop = (max(0.0, edge - block.at) * block.rate for edge in (cut.start, min(end, 1e6)))
        samples = block.samples[round(begin) : round(stop)]
        if len(samples):
            yield block._replace(samples=samples)
            taken += len(samples) / block.rate
        if cut.end is None and taken > cut.max_s + 0.01:
            raise _too_long(where, taken, cut.max_s, "more than ")
        if last >= end:
            return
    if cut.is_part and (not taken or (end < math.inf and last < end - _LATE_S)):
        part = f"from {cut.start:g} s" + (f" to {cut.end:g} s" if cut.end is not None else "")
        raise InputError(f"{where}: has no part {part}; the file is {last:.2f} s long")


def _joined(
    sound: Iterator[Block], where: str, cut: Cut, meter: Meter | None = None, channel: int | None = None
) -> np.ndarray:
    """[n] mono at 16 kHz of blocks; those of one rate are resampled together."""
    runs: list[tuple[int, list[np.ndarray]]] = []
    for block in _part(sound, where, cut):
        mono = block.samples[:, min(channel, block.samples.shape[1] - 1)] if channel is not None else mixed(block)
        if meter is not None:
            meter.add(block.samples, mono)
        if not runs or runs[-1][0] != block.rate:
            runs.append((block.rate, []))
        runs[-1][1].append(mono)
    waves = [
        _resampled(checked(parts[0] if len(parts) == 1 else np.concatenate(parts), where), rate)
        for rate, parts in runs or [(SAMPLE_RATE, [np.zeros(0, np.float32)])]
    ]
    wave = waves[0] if len(waves) == 1 else np.concatenate(waves)
    _check_length(len(wave), where)
    return wave


def _resampled(wave: np.ndarray, rate: int) -> np.ndarray:
    """[n] float32 at 16 kHz (soxr, high quality)."""
    return wave if rate == SAMPLE_RATE else soxr.resample(wave, rate, SAMPLE_RATE, quality="HQ").astype(np.float32)


def _announced_samples(announced: Announced, where: str, max_s: float = WHOLE.max_s) -> int:
    """Samples at 16 kHz that a header announces, checked before memory is set aside for them."""
    rate, _, frames = announced
    _check_rate(rate, where)
    if frames <= 0:
        raise InputError(f"{where}: the recording holds no samples")
    return _check_length((2 * frames * SAMPLE_RATE + rate) // (2 * rate), where, max_s)


def to_model_rate(wave: np.ndarray, rate: int, where: str) -> np.ndarray:
    """[n] float32 resampled to 16 kHz (soxr, high quality); refused outside 4 to 192 kHz and 25 ms to 300 s."""
    _check_rate(rate, where)
    wave = _resampled(wave, rate)
    _check_length(len(wave), where)
    return wave


def _check_rate(rate: int, where: str) -> None:
    if not 4_000 <= rate <= 192_000:
        raise InputError(f"{where}: sample rate {rate} Hz is not one of a recording (4 to 192 kHz)")


def _check_length(num_samples: int, where: str, max_s: float = WHOLE.max_s) -> int:
    if num_samples < MIN_SAMPLES:
        raise InputError(f"{where}: {num_samples} samples at 16 kHz is too short; at least {MIN_SAMPLES} are needed")
    if num_samples > round(max_s * SAMPLE_RATE):
        raise _too_long(where, num_samples / SAMPLE_RATE, max_s)
    return num_samples


def _too_long(where: str, seconds: float, max_s: float, more: str = "") -> InputError:
    return InputError(
        f"{where}: {more}{seconds:.0f} s is too long, at most {max_s:g} s are taken; take a part of it "
        "(--too-long first or middle), or name one by its start and end"
    )


def checked(wave: np.ndarray, where: str) -> np.ndarray:
    """The wave as float32; raises InputError where it is empty, not finite, or holds integers passed as floats."""
    if wave.ndim != 1 or not len(wave):
        raise InputError(f"{where}: the recording holds no samples")
    low, high = float(wave.min()), float(wave.max())  # NaN and infinity come through, without a copy
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int((~np.isfinite(wave)).sum())
        raise InputError(f"{where}: {bad} of {len(wave)} samples are NaN or infinite")
    if (peak := max(-low, high)) > 16:
        raise InputError(f"{where}: peak {peak:.0f}; float recordings lie within about -1 to 1")
    return wave.astype(np.float32, copy=False)


def wav_bytes(wave: np.ndarray) -> bytes:
    """A 16-bit wav file of a wave at 16 kHz; what is louder than full scale is scaled down."""
    buffer = io.BytesIO()
    peak = float(np.abs(wave).max()) if len(wave) else 0.0
    soundfile.write(buffer, wave / max(1.0, peak), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def flac_bytes(wave: np.ndarray) -> bytes:
    """A 16-bit flac file of a wave at 16 kHz; what is louder than full scale is scaled down, never clipped."""
    buffer = io.BytesIO()
    peak = float(np.abs(wave).max())
    soundfile.write(buffer, wave / max(1.0, peak), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
