"""Sound files of every kind, written by FFmpeg's libraries: real containers around known samples."""

import io
import struct
from functools import cache

import av
import numpy as np

# name -> (muxer, encoder, options of the muxer, whether its samples are exact)
WRITTEN = {
    "cbr.mp3": ("mp3", "libmp3lame", {}, False),
    "no_xing.mp3": ("mp3", "libmp3lame", {"write_xing": "0", "id3v2_version": "0"}, False),
    "id3.mp3": ("mp3", "libmp3lame", {"write_id3v1": "1", "id3v2_version": "3"}, False),
    "aac.m4a": ("ipod", "aac", {}, False),
    "fragments.mp4": ("mp4", "aac", {"movflags": "frag_keyframe+empty_moov"}, False),
    "alac.m4a": ("ipod", "alac", {}, True),
    "adts.aac": ("adts", "aac", {}, False),
    "opus.webm": ("webm", "libopus", {}, False),
    "live.webm": ("webm", "libopus", {"live": "1"}, False),
    "opus.opus": ("ogg", "libopus", {}, False),
    "pcm.mkv": ("matroska", "pcm_s16le", {}, True),
    "pcm.aiff": ("aiff", "pcm_s16be", {}, True),
    "pcm.au": ("au", "pcm_s16be", {}, True),
    "pcm.caf": ("caf", "pcm_s16be", {}, True),
    "pcm.w64": ("w64", "pcm_s16le", {}, True),
    "rf64.wav": ("wav", "pcm_s16le", {"rf64": "always"}, True),
    "adpcm.wav": ("wav", "adpcm_ms", {}, False),
    "mulaw.wav": ("wav", "pcm_mulaw", {}, False),
    "wma.wma": ("asf", "wmav2", {}, False),
    "pcm.wav": ("wav", "pcm_s16le", {}, True),
    "flac.flac": ("flac", "flac", {}, True),
}


def samples(rate: int, seconds: float = 4.1, channels: int = 2) -> np.ndarray:
    """[n, channels] int16: a tone and noise, each channel its own."""
    rng, t = np.random.default_rng(7), np.arange(round(rate * seconds)) / rate
    tones = [9_000 * np.sin(2 * np.pi * 220 * (1 + channel) * t) for channel in range(channels)]
    mixed = np.stack(tones, 1) + 600 * rng.normal(size=(len(t), channels))
    return np.round(mixed).astype(np.int16)


@cache
def recording(name: str, rate: int = 44_100, channels: int = 2, layout: str = "") -> bytes:
    """The bytes of a file of WRITTEN, of `samples(rate)`."""
    muxer, encoder, options, _ = WRITTEN[name]
    wanted = 48_000 if encoder == "libopus" else rate
    return encoded(samples(wanted, channels=channels), wanted, muxer, encoder, options, layout)


def encoded(
    wave: np.ndarray, rate: int, muxer: str, encoder: str, options: dict[str, str] | None = None, layout: str = ""
) -> bytes:
    """A file of int16 samples [n, channels]."""
    target = io.BytesIO()
    target.name = ""
    layout = layout or {1: "mono", 2: "stereo", 6: "5.1"}[wave.shape[1]]
    with av.open(target, "w", format=muxer, options=options or {}) as container:
        stream = container.add_stream(encoder, rate=rate, layout=layout)
        stream.bit_rate = 128_000
        resampler = av.AudioResampler(
            stream.codec_context.format, layout, rate, stream.codec_context.frame_size or 1024
        )
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave.reshape(1, -1)), "s16", layout)
        frame.sample_rate = rate
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return target.getvalue()


def with_sizes(data: bytes, riff: int | None = None, size: int | None = None) -> bytes:
    """A wav whose header says other sizes, of the file and of its samples."""
    place = data.index(b"data") + 4
    for at, value in ((4, riff), (place, size)):
        if value is not None:
            data = data[:at] + struct.pack("<I", value) + data[at + 4 :]
    return data
