"""Sound that was not recorded: silence, noise, and recordings with noise added."""

from __future__ import annotations

import numpy as np

from ...curriculum.identity import uniforms
from .waves import SAMPLE_RATE

SILENCE_S = 30.0
NOISE_RMS = 0.1


def silence(seconds: float = SILENCE_S) -> np.ndarray:
    """[n] zeros at 16 kHz; 30 s is the paper's silent condition."""
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


def noise(num_samples: int, uid: int, *name: object) -> np.ndarray:
    """[num_samples] Gaussian noise of RMS 0.1 (-20 dB of full scale), the same for the same (uid, name)."""
    return (NOISE_RMS * _gaussian(num_samples, uid, *name)).astype(np.float32)


def augmented(wave: np.ndarray, uid: int, *name: object, gain_db: float, snr_db: tuple[float, float]) -> np.ndarray:
    """The wave with a random gain within +-gain_db and white noise at a random SNR within snr_db, both in dB.

    Random by (uid, name) alone: the same in every process.
    """
    draws = uniforms(uid, 2, "augment", *name)
    gain = 10 ** ((2 * draws[0] - 1) * gain_db / 20)
    snr = snr_db[0] + draws[1] * (snr_db[1] - snr_db[0])
    power = float(np.mean(np.square(wave))) + 1e-10
    added = _gaussian(len(wave), uid, *name) * np.sqrt(power / 10 ** (snr / 10))
    changed: np.ndarray = (gain * (wave + added)).astype(np.float32)
    return changed


def _gaussian(count: int, uid: int, *name: object) -> np.ndarray:
    """Box-Muller over hashed uniforms: the same noise in every process and numpy version."""
    draws = uniforms(uid, 2 * ((count + 1) // 2), "noise", *name).reshape(2, -1)
    radius = np.sqrt(-2 * np.log1p(-draws[0]))
    angle = 2 * np.pi * draws[1]
    wave: np.ndarray = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
    return wave
