"""What it costs to decode recordings by the kind of their file; a part of `data.py`."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

import av
import numpy as np
import soundfile

from earwitness.datamodules.audio.waves import decode

KINDS = {  # muxer and encoder
    "wav": ("wav", "pcm_s16le"),
    "flac": ("flac", "flac"),
    "mp3": ("mp3", "libmp3lame"),
    "m4a (aac)": ("ipod", "aac"),
    "m4a (alac)": ("ipod", "alac"),
    "webm (opus)": ("webm", "libopus"),
    "ogg (opus)": ("ogg", "libopus"),
    "aiff": ("aiff", "pcm_s16be"),
    "caf": ("caf", "pcm_s16be"),
}


def cpu_rate(job: Callable[[], int]) -> float:
    """Things done per CPU-second of this process."""
    start = time.process_time()
    done = job()
    return done / (time.process_time() - start)


def kinds(count: int = 30) -> dict[str, dict[str, float]]:
    """Decoding to 16 kHz mono with all checks of ten seconds at 44.1 kHz in stereo, and the library alone, by kind.

    The library is the one that reads the kind: soundfile or PyAV, neither mixing nor resampling.
    """
    t = np.arange(10 * 44_100) / 44_100
    noise = np.random.default_rng(0).normal(size=(len(t), 2))
    wave = (0.3 * np.sin(2 * np.pi * 440 * t)[:, None] + 0.02 * noise) * 2**15
    found = {}
    for name, (muxer, encoder) in KINDS.items():
        rate = 48_000 if encoder == "libopus" else 44_100
        data = written(wave.astype(np.int16), rate, muxer, encoder)

        def bare(data: bytes = data, name: str = name) -> int:
            for _ in range(count):
                if name in ("wav", "flac"):
                    soundfile.read(io.BytesIO(data), dtype="float32")
                else:
                    with av.open(io.BytesIO(data), "r") as container:
                        np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
            return count

        def ours(data: bytes = data) -> int:
            for _ in range(count):
                decode(data, "x")
            return count

        pairs = [(cpu_rate(ours), cpu_rate(bare)) for _ in range(3)]
        found[name] = {"earwitness": max(a for a, _ in pairs), "library alone": max(b for _, b in pairs)}
    return found


def written(wave: np.ndarray, rate: int, muxer: str, encoder: str) -> bytes:
    """A file of int16 samples [n, 2]."""
    target = io.BytesIO()
    with av.open(target, "w", format=muxer) as container:
        stream: Any = container.add_stream(encoder, rate=rate, layout="stereo")
        frame = av.AudioFrame.from_ndarray(wave.reshape(1, -1), "s16", "stereo")
        frame.sample_rate = rate
        context = stream.codec_context
        resampler = av.AudioResampler(context.format, "stereo", rate, context.frame_size or 1024)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return target.getvalue()
