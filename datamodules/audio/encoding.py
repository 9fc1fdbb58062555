"""Waves to small files for a browser: Opus in Ogg, about 29 kB for ten seconds."""

from __future__ import annotations

import io

import av
import numpy as np

from .waves import SAMPLE_RATE

OPUS_TYPE = "audio/ogg"
_BITS_PER_SECOND = 24_000


def opus_bytes(wave: np.ndarray) -> bytes:
    """An Opus file of a wave, [n] mono float32 at 16 kHz; the same bytes for the same wave.

    What is louder than full scale is scaled down.
    """
    loud = wave / max(1.0, float(np.abs(wave).max(initial=0.0)))
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ogg", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libopus", rate=SAMPLE_RATE, layout="mono")
        stream.bit_rate = _BITS_PER_SECOND
        stream.options = {"application": "audio", "compression_level": "1"}
        frame = av.AudioFrame.from_ndarray(loud[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        context = stream.codec_context
        cut = av.AudioResampler(context.format, "mono", SAMPLE_RATE, context.frame_size or None)
        for part in [*cut.resample(frame), *cut.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return buffer.getvalue()
