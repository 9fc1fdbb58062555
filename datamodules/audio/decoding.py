"""Samples of a sound file as it holds them: its own rate, all channels, block by block.

libsndfile reads flac and plain wav, where it is exact and fast. FFmpeg's libraries, through PyAV, read all else: mp3,
whose length libsndfile guesses by its first frame, files of unknown length, every other kind, and more channels than
two, whose places it knows. Its demuxer is named for it, so that no file is ever taken for a playlist.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, NamedTuple

import av
import numpy as np
import soundfile

from ...errors import InputError
from .containers import Announced, cut_off, flac_length, plain_wav
from .kinds import Kind, kind_of
from .mp3 import Data, frame_at

MAX_CHANNELS = 16
_BLOCK = 1 << 18  # frames
_SHORT_S = 0.2  # seconds by which a file may fall short of what its container says
_ESTIMATED = ("mp3", "aac", "wma")  # whose containers say nothing of their length, or only about
_OPTIONS = {"max_probe_packets": "1"}  # the codec is what the header says; guessing it anew takes 30 ms a file
_SCALE = {"s16": 2.0**15, "s32": 2.0**31, "u8": 2.0**7}


class Block(NamedTuple):
    """Samples [n, c] float32 of c channels, their rate in Hz, the seconds of the file before them, and the channels'
    places (FL, FR, FC, ...) where they are known."""

    samples: np.ndarray
    rate: int
    at: float = 0.0
    places: tuple[str, ...] = ()


class Opened(NamedTuple):
    """A sound file about to be read: its kind, where it begins, and its header where libsndfile reads it."""

    data: Data
    kind: Kind
    begin: int
    plain: Announced | None


def opened(data: Data, where: str) -> Opened:
    """The file, if it is of a known kind; raises InputError otherwise, and for more than 16 channels."""
    kind, begin = kind_of(data, where)
    plain = plain_wav(data) if kind.name == "wav" else _plain_flac(data) if kind.name == "flac" and not begin else None
    if plain is not None and plain.channels > MAX_CHANNELS:
        raise InputError(f"{where}: {plain.channels} channels; a recording has at most {MAX_CHANNELS}")
    if plain is not None and plain.channels > 2:
        plain = None
    return Opened(data, kind, begin, plain)


def _plain_flac(data: Data) -> Announced | None:
    """The header of a flac of known length."""
    if not flac_length(data) or len(data) < 26:
        return None
    packed = int.from_bytes(data[18:26], "big")
    return Announced(packed >> 44, (packed >> 41 & 7) + 1, flac_length(data))


def check_whole(file: Opened, where: str) -> None:
    """Raises InputError where a file's end is missing."""
    if reason := cut_off(file.data, file.kind, file.begin):
        raise InputError(f"{where}: {reason}")


def blocks(file: Opened, where: str, start: float = 0.0) -> Iterator[Block]:
    """The samples, block by block: memory follows what is there, not what the header announces.

    start: seconds that the caller passes over; the blocks begin there or before. Raises InputError for what cannot be
    decoded, and for a file shorter than its container says.
    """
    try:
        yield from _by_libsndfile(file, start) if file.plain is not None else _by_ffmpeg(file, where)
    except InputError:
        raise
    except (RuntimeError, ValueError, OSError, EOFError, av.FFmpegError) as error:
        raise InputError(f"{where}: not a readable recording ({_reason(error)})") from None


def _by_libsndfile(file: Opened, start: float) -> Iterator[Block]:
    with soundfile.SoundFile(stream_of(file.data)) as sound:
        at = sound.seek(min(int(start * sound.samplerate), sound.frames)) if start else 0
        yield Block(np.zeros((0, sound.channels), np.float32), sound.samplerate, at / sound.samplerate)
        while len(block := sound.read(_BLOCK, dtype="float32", always_2d=True)):
            yield Block(block, sound.samplerate, at / sound.samplerate)
            at += len(block)


def stream_of(data: Data) -> Any:
    """An open file of the bytes; a mapped file is not copied."""
    if isinstance(data, bytes):
        return io.BytesIO(data)
    data.seek(0)
    return data


def _by_ffmpeg(file: Opened, where: str) -> Iterator[Block]:
    how: dict[str, Any] = {"metadata_errors": "replace", "options": _OPTIONS}
    with av.open(stream_of(file.data), format=file.kind.demuxer, **how) as container:
        stream = container.streams.best("audio")
        if stream is None:
            raise InputError(f"{where}: not a readable recording (no sound in the {file.kind.name} file)")
        stream.thread_type = "NONE"
        announced = 0.0
        if file.kind.name not in _ESTIMATED and len(container.streams) == 1:
            if stream.duration and stream.time_base:
                announced = float(stream.duration * stream.time_base)
            elif container.duration:
                announced = container.duration / av.time_base
        held: list[np.ndarray] = []
        places: tuple[str, ...] = ()
        seconds, size, rate, at = 0.0, 0, 0, 0.0
        for packet in container.demux(stream):
            for frame in _frames(packet, file.kind, seconds == 0):
                form = frame.sample_rate, tuple(channel.name for channel in frame.layout.channels)
                if held and (size >= _BLOCK or form != (rate, places)):
                    yield Block(np.concatenate(held), rate, at, places)
                    held, size, at = [], 0, seconds
                rate, places = form
                if len(places) > MAX_CHANNELS:
                    raise InputError(f"{where}: {len(places)} channels; a recording has at most {MAX_CHANNELS}")
                held.append(_samples(frame, len(places)))
                size += frame.samples
                seconds += frame.samples / rate
        if held:
            yield Block(np.concatenate(held), rate, at, places)
        if seconds and announced - seconds > _SHORT_S:
            raise InputError(
                f"{where}: decodes to {seconds:.2f} s, the {file.kind.name} file announces {announced:.2f} s; it is "
                "cut off or damaged"
            )


def _frames(packet: Any, kind: Kind, first: bool) -> list[Any]:
    """What a packet decodes to. Nothing, where it is a tag between mp3s that were joined, or one of the first frames of
    an mp3 that was recorded from a stream: they may need bits of frames before them."""
    try:
        return list(packet.decode())
    except av.FFmpegError:
        if kind.name == "mp3" and (first or frame_at(bytes(packet), 0) is None):
            return []
        raise


def _samples(frame: av.AudioFrame, channels: int) -> np.ndarray:
    """[n, channels] float32 within -1 to 1 of a frame of FFmpeg's."""
    name = frame.format.name.removesuffix("p")
    samples = frame.to_ndarray()
    samples = samples.T if frame.format.is_planar else samples.reshape(-1, channels)
    if name in ("flt", "dbl"):
        return samples.astype(np.float32)
    if name == "u8":
        samples = samples.astype(np.float32) - 128
    scaled: np.ndarray = (samples / _SCALE[name]).astype(np.float32)
    return scaled


def _reason(error: Exception) -> str:
    """A library's words without what differs from run to run, such as an address in memory."""
    if isinstance(error, av.FFmpegError):
        return str(error.strerror).lower()
    return str(getattr(error, "error_string", error)).rstrip(".")
