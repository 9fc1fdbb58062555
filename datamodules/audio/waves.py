"""Waves: from the bytes of a sound file to 16 kHz mono float32, with the checks that decoders lack; silence and noise.

Most decoders return half a clip or NaN without an error; every clip therefore passes `checked` after decoding, and its
length is compared with what the index promises.
"""

from __future__ import annotations

import io

import numpy as np
import soundfile
import soxr

from ...curriculum.identity import uniforms
from ...errors import InputError
from .containers import Announced, cut_off, whole_flac

SAMPLE_RATE = 16_000
_MAX_CHANNELS = 16
_BLOCK = 1 << 18  # frames
_KINDS = {b"RIFF": ("WAV", "WAVEX"), b"fLaC": ("FLAC",), b"OggS": ("OGG",), b"ID3": ("MP3", "FLAC"), b"\xff": ("MP3",)}
_UNKNOWN_SIZE = 0x7FFF_0000
MIN_SAMPLES = 400  # one analysis window of the Whisper features, 25 ms
MAX_SAMPLES = 300 * SAMPLE_RATE  # what the Whisper features of Qwen2.5-Omni take
SILENCE_S = 30.0
NOISE_RMS = 0.1


def decode(data: bytes, where: str, num_samples: int | None = None) -> np.ndarray:
    """Mono float32 [n] at 16 kHz from the bytes of a sound file; several channels are averaged.

    where: names the file in messages. num_samples: the length that the index has. Raises InputError for what cannot be
    decoded, for an impossible rate or length, and for a length other than `num_samples`: cut files decode silently.
    """
    try:
        with _opened(data, where) as file:
            rate = file.samplerate
            _announced_samples(Announced(rate, file.channels, file.frames), where)
            wave = _mono(file)
    except (RuntimeError, ValueError) as error:
        raise _unreadable(where, error) from None
    wave = to_model_rate(checked(wave, where), rate, where)
    if num_samples is not None and len(wave) != num_samples:
        raise InputError(f"{where}: decodes to {len(wave)} samples, the index says {num_samples}; re-index the shard")
    return wave


def probe(data: bytes, where: str) -> int:
    """Samples at 16 kHz that a sound file's header announces; raises InputError where its end is missing.

    Damage in the middle or within the last frame is only seen by `decode`; that an mp3 without a length in its header
    was cut, not even there.
    """
    if not _streamed_wav(data) and (reason := cut_off(data)):
        raise InputError(f"{where}: {reason}")
    announced = whole_flac(data)
    if announced is not None:
        return _announced_samples(announced, where)
    try:
        with _opened(data, where) as file:
            num_samples = _announced_samples(Announced(file.samplerate, file.channels, file.frames), where)
            may_hold_nan = file.subtype in ("FLOAT", "DOUBLE")
            file.seek(file.frames - 1)
            if len(file.read(1)) != 1:
                raise InputError(f"{where}: the recording is cut off; its header promises {file.frames} samples")
    except (RuntimeError, ValueError) as error:
        raise _unreadable(where, error) from None
    return len(decode(data, where)) if may_hold_nan else num_samples


def whole(data: bytes, where: str) -> np.ndarray:
    """The wave [n] of a recording that passes both `probe` and `decode`, and is as long as its header announces."""
    promised, wave = probe(data, where), decode(data, where)
    if len(wave) != promised:
        raise InputError(f"{where}: decodes to {len(wave)} samples, its header promises {promised}; it is damaged")
    return wave


def _opened(data: bytes, where: str) -> soundfile.SoundFile:
    """The open file, of kinds whose cut-off end is noticed: the library reads others, but half of a cut AIFF too."""
    kinds = next((kinds for mark, kinds in _KINDS.items() if data.startswith(mark)), ())
    if kinds:
        file = soundfile.SoundFile(io.BytesIO(data))
        if file.format in kinds:
            return file
        file.close()
    raise InputError(f"{where}: not a readable recording (no flac, wav, ogg or mp3); convert it to one of these")


def _mono(file: soundfile.SoundFile) -> np.ndarray:
    """[n] mean of the channels, read block by block: memory follows what is there, not what the header announces."""
    blocks = []
    while len(block := file.read(_BLOCK, dtype="float32")):
        blocks.append(block.mean(axis=1, dtype=np.float32) if block.ndim == 2 else block)
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def _unreadable(where: str, error: Exception) -> InputError:
    """The library's error without its prefix, which holds a memory address that differs from run to run."""
    if isinstance(error, InputError):
        return error
    return InputError(f"{where}: not a readable recording ({getattr(error, 'error_string', error)})")


def _streamed_wav(data: bytes) -> bool:
    """Whether a wav was written into a pipe: its size was not known yet, and says about 2 or 4 GiB."""
    return data[:4] == b"RIFF" and int.from_bytes(data[4:8], "little") >= _UNKNOWN_SIZE


def _announced_samples(announced: Announced, where: str) -> int:
    """Samples at 16 kHz that a header announces, checked before memory is set aside for them."""
    rate, channels, frames = announced
    if channels > _MAX_CHANNELS:
        raise InputError(f"{where}: {channels} channels; a recording has at most {_MAX_CHANNELS}")
    _check_rate(rate, where)
    if frames <= 0:
        raise InputError(f"{where}: the recording holds no samples")
    return _check_length((2 * frames * SAMPLE_RATE + rate) // (2 * rate), where)


def to_model_rate(wave: np.ndarray, rate: int, where: str) -> np.ndarray:
    """[n] float32 resampled to 16 kHz (soxr, high quality); refused outside 4 to 192 kHz and 25 ms to 300 s."""
    _check_rate(rate, where)
    if rate != SAMPLE_RATE:
        wave = soxr.resample(wave, rate, SAMPLE_RATE, quality="HQ").astype(np.float32)
    _check_length(len(wave), where)
    return wave


def _check_rate(rate: int, where: str) -> None:
    if not 4_000 <= rate <= 192_000:
        raise InputError(f"{where}: sample rate {rate} Hz is not one of a recording (4 to 192 kHz)")


def _check_length(num_samples: int, where: str) -> int:
    if num_samples < MIN_SAMPLES:
        raise InputError(f"{where}: {num_samples} samples at 16 kHz is too short; at least {MIN_SAMPLES} are needed")
    if num_samples > MAX_SAMPLES:
        raise InputError(
            f"{where}: {num_samples / SAMPLE_RATE:.0f} s is too long; cut it to {MAX_SAMPLES // SAMPLE_RATE} s"
        )
    return num_samples


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
