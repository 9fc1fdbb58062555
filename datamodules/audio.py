"""Knows sound as numbers: bytes to 16 kHz mono float32, the checks that decoders do not make, and silence.

Most decoders return half a clip or NaN without an error; every clip therefore passes `checked` after decoding.
"""

from __future__ import annotations

import io

import numpy as np
import soundfile
import soxr

from ..curriculum.identity import uniforms
from ..errors import InputError

SAMPLE_RATE = 16_000
MIN_SAMPLES = 400  # one analysis window of the Whisper features, 25 ms
SILENCE_S = 30.0


def decode(data: bytes, where: str, num_samples: int | None = None) -> np.ndarray:
    """Mono float32 [n] at 16 kHz from the bytes of a sound file.

    num_samples: what the index promises; a clip of another length is refused, since truncated files decode silently.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, wave = file.samplerate, file.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise InputError(f"{where}: not a readable recording ({error})") from None
    wave = to_model_rate(checked(wave.mean(axis=1), where), rate, where)
    if num_samples is not None and len(wave) != num_samples:
        raise InputError(f"{where}: decodes to {len(wave)} samples, the index says {num_samples}; re-index the shard")
    return wave


def to_model_rate(wave: np.ndarray, rate: int, where: str) -> np.ndarray:
    """[n] float32 resampled to 16 kHz (soxr, high quality); a rate below 4 kHz or above 192 kHz is refused."""
    if not 4_000 <= rate <= 192_000:
        raise InputError(f"{where}: sample rate {rate} Hz is not one of a recording (4 to 192 kHz)")
    if rate != SAMPLE_RATE:
        wave = soxr.resample(wave, rate, SAMPLE_RATE, quality="HQ").astype(np.float32)
    if len(wave) < MIN_SAMPLES:
        raise InputError(f"{where}: {len(wave)} samples at 16 kHz is too short; at least {MIN_SAMPLES} are needed")
    return wave


def checked(wave: np.ndarray, where: str) -> np.ndarray:
    """The wave itself, or an InputError where it is empty, not finite or an integer wave passed as float."""
    if wave.ndim != 1 or not len(wave):
        raise InputError(f"{where}: the recording holds no samples")
    if not np.isfinite(wave).all():
        bad = int((~np.isfinite(wave)).sum())
        raise InputError(f"{where}: {bad} of {len(wave)} samples are NaN or infinite")
    if (peak := float(np.abs(wave).max())) > 16:
        raise InputError(f"{where}: peak {peak:.0f}; float recordings lie within about -1 to 1")
    return wave.astype(np.float32, copy=False)


def silence(seconds: float = SILENCE_S) -> np.ndarray:
    """Zeros at 16 kHz; 30 s is the paper's silent condition."""
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


def augmented(wave: np.ndarray, uid: int, *name: object, gain_db: float, snr_db: tuple[float, float]) -> np.ndarray:
    """Random gain within +-gain_db and white noise at an SNR within snr_db; random by (uid, name) alone."""
    draws = uniforms(uid, 2, "augment", *name)
    gain = 10 ** ((2 * draws[0] - 1) * gain_db / 20)
    snr = snr_db[0] + draws[1] * (snr_db[1] - snr_db[0])
    power = float(np.mean(np.square(wave))) + 1e-10
    noise = _gaussian(len(wave), uid, *name) * np.sqrt(power / 10 ** (snr / 10))
    return (gain * (wave + noise)).astype(np.float32)


def _gaussian(count: int, uid: int, *name: object) -> np.ndarray:
    """Box-Muller over hashed uniforms: the same noise in every process and numpy version."""
    draws = uniforms(uid, 2 * ((count + 1) // 2), "noise", *name).reshape(2, -1)
    radius = np.sqrt(-2 * np.log1p(-draws[0]))
    return np.concatenate([radius * np.cos(2 * np.pi * draws[1]), radius * np.sin(2 * np.pi * draws[1])])[:count]
