"""Sound as numbers: what comes in as a recording comes out as 16 kHz mono, and what is none is refused."""

import io
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile

from earwitness.datamodules.audio.signals import augmented, silence
from earwitness.datamodules.audio.waves import checked, decode, probe, to_model_rate, whole
from earwitness.errors import InputError

RATE = 16_000


def tone(rate: int, hertz: float = 440.0, seconds: float = 0.5) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def encoded(wave: np.ndarray, rate: int = RATE, kind: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_a_tone_is_the_same_tone_whatever_the_file(rate, kind, channels):
    """Two channels are averaged: (440 Hz + 1 kHz) / 2. 16 bits round by 1.5e-5; resampling rings at both ends."""
    hertz = (440.0, 1_000.0)[:channels]
    stacked = np.stack([tone(rate, h) for h in hertz], axis=1)
    wave = decode(encoded(stacked, rate, kind, "PCM_16"), "clip")
    expected = np.mean([tone(RATE, h) for h in hertz], axis=0)
    assert wave.dtype == np.float32 and wave.shape == (8_000,)
    inner = slice(None) if rate == RATE else slice(400, -400)
    np.testing.assert_allclose(wave[inner], expected[inner], rtol=0, atol=4e-5)


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_at_16_khz_the_16_bit_samples_come_back_bit_for_bit(kind):
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, 1_000).astype(np.int16)
    wave = decode(encoded(samples, kind=kind, subtype="PCM_16"), "clip")
    assert np.array_equal(wave, samples.astype(np.float32) / 2**15)


def test_channels_are_averaged_not_picked():
    left = np.random.default_rng(0).uniform(-0.5, 0.5, 1_000).astype(np.float32)
    stereo = np.stack([left, np.zeros_like(left)], axis=1)
    assert np.array_equal(decode(encoded(stereo, subtype="FLOAT"), "clip"), left / 2)


@pytest.mark.parametrize("kind", ["WAV", "MP3"])
def test_half_a_file_decodes_silently_and_only_the_length_tells(kind):
    data = encoded(tone(RATE, seconds=2.0), kind=kind)
    whole = decode(data, "clip")
    half = decode(data[: len(data) // 2], "clip")
    assert 0 < len(half) < len(whole)
    assert np.array_equal(decode(data, "clip", num_samples=len(whole)), whole)
    says = rf"^clip: decodes to {len(half)} samples, the index says {len(whole)}; re-index the shard$"
    with pytest.raises(InputError, match=says):
        decode(data[: len(data) // 2], "clip", num_samples=len(whole))


@pytest.mark.parametrize("keep", [slice(0, 0), slice(16, None), slice(0, 1_000)], ids=["empty", "no head", "cut"])
def test_a_damaged_flac_is_not_readable(keep):
    data = encoded(tone(RATE), kind="FLAC")
    with pytest.raises(InputError, match=r"^clip: not a readable recording"):
        decode(data[keep], "clip")


@pytest.mark.parametrize("data", [b"RIFF", b"no sound at all" * 100, b"\0" * 5_000])
def test_bytes_that_are_no_sound_file_are_not_readable(data):
    with pytest.raises(InputError, match=r"^clip: not a readable recording"):
        decode(data, "clip")


@pytest.mark.parametrize("channels", [1, 2])
def test_a_file_without_samples_is_refused(channels):
    with pytest.raises(InputError, match=r"^clip: the recording holds no samples$"):
        decode(encoded(np.zeros((0, channels))), "clip")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_not_finite_is_refused_and_counted(value):
    wave = np.zeros(500, np.float32)
    wave[[3, 77]] = value
    with pytest.raises(InputError, match=r"^clip: 2 of 500 samples are NaN or infinite$"):
        decode(encoded(wave, subtype="FLOAT"), "clip")


def test_integers_passed_as_floats_are_refused_by_their_peak():
    """16-bit numbers reach 32767, and even a quiet one some dozens; an overdriven float recording stays below 16."""
    with pytest.raises(InputError, match=r"^clip: peak 16384; float recordings lie within about -1 to 1$"):
        decode(encoded((tone(RATE) * 2**15).astype(np.float32), subtype="FLOAT"), "clip")
    for peak, refused in ((16.0, False), (-16.0, False), (16.1, True), (-16.1, True)):
        wave = np.zeros(500, np.float32)
        wave[9] = peak
        if refused:
            with pytest.raises(InputError, match=r"^clip: peak 16;"):
                checked(wave, "clip")
        else:
            assert checked(wave, "clip") is wave


def test_only_one_channel_is_a_wave():
    with pytest.raises(InputError, match="holds no samples"):
        checked(np.zeros((500, 2), np.float32), "clip")


@pytest.mark.parametrize("rate", [1, 3_999, 192_001])
def test_a_rate_of_no_recording_is_refused(rate):
    with pytest.raises(InputError, match=rf"^clip: sample rate {rate} Hz is not one of a recording \(4 to 192 kHz\)$"):
        decode(encoded(np.zeros(5_000), rate), "clip")


@pytest.mark.parametrize("rate", [4_000, 192_000])
def test_the_extreme_rates_keep_the_duration(rate):
    assert len(to_model_rate(np.zeros(rate, np.float32), rate, "clip")) == RATE


@pytest.mark.parametrize(("rate", "short", "enough"), [(16_000, 399, 400), (8_000, 199, 200), (48_000, 1_196, 1_200)])
def test_a_clip_must_fill_one_window_of_25_ms(rate, short, enough):
    with pytest.raises(InputError, match=r"^clip: 39[89] samples at 16 kHz is too short; at least 400 are needed$"):
        decode(encoded(np.zeros(short), rate), "clip")
    assert len(decode(encoded(np.zeros(enough), rate), "clip")) == 400


CODECS = [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("MP3", None), ("OGG", "VORBIS"), ("OGG", "OPUS")]
RATES = [8_000, 11_025, 16_000, 22_050, 44_100, 48_000]
WRITABLE = [(*c, rate) for c in CODECS for rate in RATES if c[1] != "OPUS" or rate % 11_025]  # opus has few rates


@pytest.mark.parametrize(("kind", "subtype", "rate"), WRITABLE)
def test_a_header_promises_what_decoding_gives_to_the_sample(kind, subtype, rate):
    """The index is made of headers, and a recording of another length is refused when it is read."""
    for frames in (rate // 40 + 1, rate // 7, rate + 1, 2 * rate + 77):
        wave = 0.1 * np.random.default_rng(frames).normal(size=(frames, 2))
        data = encoded(wave, rate, kind, subtype)
        assert probe(data, "clip") == len(decode(data, "clip")) == len(whole(data, "clip").wave)


@pytest.mark.parametrize("kind", ["WAV", "MP3", "FLAC", "OGG"])
@pytest.mark.parametrize("part", [0.3, 0.5, 0.9])
def test_half_a_file_is_no_whole_one(kind, part):
    """What `decode` lets pass, the header tells; 30 % of an mp3 is itself a good one but for its first frame."""
    data = encoded(0.1 * np.random.default_rng(0).normal(size=32_000), kind=kind)
    assert len(whole(data, "clip").wave) == 32_000
    with pytest.raises(
        InputError, match=r"^clip: (the (wav|ogg|mp3) file is cut off|the recording is cut off|not a read)"
    ):
        whole(data[: int(part * len(data))], "clip")


def test_a_flac_that_ends_well_and_is_damaged_inside_is_no_whole_one():
    data = bytearray(encoded(0.1 * np.random.default_rng(0).normal(size=32_000), kind="FLAC"))
    data[len(data) // 2] ^= 0xFF
    assert probe(bytes(data), "clip") == 32_000
    with pytest.raises(InputError, match=r"^clip: not a readable recording"):
        whole(bytes(data), "clip")


@pytest.mark.parametrize("channels", [3, 5, 16])
def test_any_number_of_channels_up_to_16_is_averaged(channels):
    stacked = np.random.default_rng(1).uniform(-0.5, 0.5, (300_000, channels)).astype(np.float32)  # several blocks
    wave = decode(encoded(stacked, subtype="FLOAT"), "clip")
    assert np.array_equal(wave, stacked.mean(axis=1, dtype=np.float32))


@pytest.mark.parametrize("size", [0xFFFF_FFFF, 0x7FFF_FFFF, 0x7FFF_F024])
def test_a_wav_that_came_out_of_a_pipe_is_read_to_its_end(size):
    """ffmpeg and sox do not know the length when they write the header, and write 4 or 2 GiB."""
    data = bytearray(encoded(tone(RATE), subtype="PCM_16"))
    expected = decode(bytes(data), "clip")
    data[4:8], data[40:44] = struct.pack("<I", size), struct.pack("<I", size - 36)
    assert probe(bytes(data), "clip") == 8_000 and np.array_equal(whole(bytes(data), "clip").wave, expected)


ID3 = b"ID3\3\0\0\0\0\0\n" + b"\0" * 10  # a tag of ten bytes, behind which the library looks for any kind again


@pytest.mark.parametrize("kind", ["VOC", "PAF", "NIST", "AVR", "MAT5"])
def test_a_kind_that_is_not_known_is_not_read_at_all(kind):
    data = encoded(tone(RATE), kind=kind)
    for part in (data, data[: len(data) // 2], ID3 + data):
        for read in (decode, probe, whole):
            with pytest.raises(InputError, match=r"^clip: not a readable recording"):
                read(part, "clip")


@pytest.mark.parametrize("kind", ["AIFF", "AU", "CAF", "W64", "RF64"])
def test_the_library_would_half_read_these_without_a_word(kind):
    data = encoded(tone(RATE), kind=kind, subtype="PCM_16")
    np.testing.assert_allclose(decode(data, "clip"), tone(RATE), rtol=0, atol=2**-15)
    for read in (probe, whole):
        with pytest.raises(
            InputError, match=r"^clip: the \w+ file is cut off; 7,9\d\d bytes that it announces are missing$"
        ):
            read(data[: len(data) - 7_950], "clip")
        with pytest.raises(InputError, match=r"^clip: not a readable recording \(a \w+ file behind an ID3 tag\)"):
            read(ID3 + data, "clip")


def test_a_tag_is_read_over_in_an_mp3_and_a_flac_and_makes_no_wav():
    """Behind a tag the library counts ten samples too few of a wav, and its header can no longer be checked."""
    for kind in ("MP3", "FLAC"):
        data = encoded(tone(RATE), kind=kind)
        assert np.array_equal(whole(ID3 + data, "clip").wave, decode(data, "clip"))
    with pytest.raises(InputError, match=r"^clip: not a readable recording .*convert it"):
        decode(ID3 + encoded(tone(RATE)), "clip")


def wav_header(channels: int = 1, rate: int = RATE, bits: int = 16, data_size: int = 16_000) -> bytes:
    width = channels * bits // 8
    form = struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * width & 0xFFFF_FFFF, width & 0xFFFF, bits)
    head = b"RIFF" + struct.pack("<I", 16_036) + b"WAVEfmt " + form + b"data" + struct.pack("<I", data_size)
    return head + b"\0" * 16_000


def flac_header(rate: int = RATE, channels: int = 1, frames: int = 8_000) -> bytes:
    data = bytearray(encoded(0.1 * np.random.default_rng(0).normal(size=8_000), kind="FLAC"))
    bits = int.from_bytes(data[18:26], "big") >> 36 & 31
    data[18:26] = (rate << 44 | (channels - 1) << 41 | bits << 36 | frames).to_bytes(8, "big")
    return bytes(data)


ABSURD = {
    "200 channels": (wav_header(channels=200), "200 channels; a recording has at most 16"),
    "65535 channels": (wav_header(channels=65_535), "not a readable recording"),
    "no channel": (wav_header(channels=0), "not a readable recording"),
    "4 GHz": (wav_header(rate=0xFFFF_FFFF), "(sample rate 4294967295 Hz|not a readable recording)"),
    "1 MHz": (flac_header(rate=(1 << 20) - 1), "sample rate 1048575 Hz"),
    "2^36 frames": (flac_header(frames=(1 << 36) - 1), "4294967 s is too long, at most 300 s are taken"),
    "300 s at 192 kHz, 8 channels": (
        flac_header(192_000, 8, 300 * 192_000),
        "(not a readable recording|announces 300)",
    ),
    "2^40 frames": (
        encoded(tone(RATE), kind="RF64")
        .replace(struct.pack("<Q", 16_000), struct.pack("<Q", 1 << 40))
        .replace(struct.pack("<Q", 8_000), struct.pack("<Q", 1 << 39)),
        "(the wav file is cut off; 1,099,|announces )",
    ),
}


@pytest.mark.parametrize("name", ABSURD)
@pytest.mark.parametrize("read", [decode, probe, whole])
def test_a_header_that_announces_absurd_sizes_is_refused_without_setting_memory_aside(name, read):
    """The worst of these announces 1.8 GB of samples within all bounds; a block of them is 8 MiB."""
    data, says = ABSURD[name]
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=f"^clip: .*{says}"):
            read(data, "clip")
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("wave", "says"),
    [
        (np.full(500, np.nan), "500 of 500 samples are NaN or infinite"),
        (np.full(500, 16.1), "peak 16; float recordings"),
        (np.zeros(399), "399 samples at 16 kHz is too short"),
        (np.zeros(0), "the recording holds no samples"),
    ],
    ids=["NaN", "loud", "short", "empty"],
)
def test_what_is_refused_when_decoded_is_refused_unread(wave, says):
    for read in (decode, probe, whole):
        with pytest.raises(InputError, match=rf"^clip: {says}"):
            read(encoded(wave, subtype="FLOAT"), "clip")


def test_300_s_are_the_most():
    for read in (decode, probe):
        assert read(encoded(np.zeros(300 * 4_000), 4_000, subtype="PCM_U8"), "clip") is not None
        with pytest.raises(InputError, match=r"^clip: 300 s is too long, at most 300 s are taken; take a part"):
            read(encoded(np.zeros(300 * 4_000 + 1), 4_000, subtype="PCM_U8"), "clip")


def test_the_reason_is_the_same_in_every_run():
    """The library's own message holds the address of an object; reports of two runs would differ."""
    for data in (b"fLaC" + b"x" * 500, b"RIFF" + b"\0" * 500, b"no sound"):
        with pytest.raises(InputError) as error:
            decode(data, "clip")
        assert "0x" not in str(error.value) and "BytesIO" not in str(error.value)


def test_silence_is_30_s_of_exact_zeros_unless_said_otherwise():
    assert silence().shape == (480_000,) and silence().dtype == np.float32
    assert len(silence(0.1)) == 1_600
    assert not silence(2).any()


def augment(wave: np.ndarray, uid: int = 1, *name: object, gain_db=0.0, snr_db=(200.0, 200.0)) -> np.ndarray:
    return augmented(wave, uid, *name, gain_db=gain_db, snr_db=snr_db)


def test_augmentation_is_decided_by_identity_and_name_alone():
    wave = tone(RATE).astype(np.float32)
    how = {"gain_db": 6.0, "snr_db": (15.0, 45.0)}
    first = augment(wave, 5, "stage", 3, **how)
    np.random.seed(0)
    assert np.array_equal(augment(wave, 5, "stage", 3, **how), first)
    assert first.dtype == np.float32 and first.shape == wave.shape
    others = [augment(wave, *who, **how) for who in ((6, "stage", 3), (5, "stage", 4), (5, "other", 3))]
    assert not any(np.array_equal(first, other) for other in others)


def test_the_gain_fills_plus_minus_gain_db_and_nothing_else():
    """At 200 dB below the signal the noise vanishes, so output / input is the gain, the same for all samples."""
    wave = np.full(1_001, 0.25, np.float32)
    gains = []
    for uid in range(200):
        ratio = augment(wave, uid, gain_db=6.0) / wave
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)
        gains.append(20 * np.log10(ratio[0]))
    assert -6 <= min(gains) < -5.8 and 5.8 < max(gains) <= 6
    assert abs(np.mean(gains)) < 3 * 6 / np.sqrt(3 * 200)  # three standard errors of a uniform draw


def test_the_noise_lies_between_the_two_snrs():
    """Without gain the noise is output - input; the power of n Gaussian samples is off by sqrt(2 / n) = 0.022 dB."""
    wave = tone(RATE, seconds=5.0).astype(np.float32)
    ratios = []
    for uid in range(60):
        noise = augment(wave, uid, snr_db=(15.0, 45.0)).astype(float) - wave
        ratios.append(10 * np.log10(np.mean(np.square(wave, dtype=float)) / np.mean(noise**2)))
    assert 15 - 0.1 < min(ratios) < 17 and 43 < max(ratios) < 45 + 0.1


def test_the_noise_is_gaussian_and_white():
    """Moments of N(0, 1) within four standard errors: mean 1/sqrt(n), kurtosis sqrt(24/n), neighbours 1/sqrt(n)."""
    n = 40_000
    wave = np.full(n, 0.1, np.float32)
    noise = augment(wave, 3, snr_db=(20.0, 20.0)).astype(float) - wave
    noise /= 0.1 / 10  # 20 dB below
    error = 4 / np.sqrt(n)
    assert abs(noise.mean()) < error
    assert abs((noise**2).mean() - 1) < error * np.sqrt(2)
    assert abs((noise**4).mean() / (noise**2).mean() ** 2 - 3) < error * np.sqrt(24)
    assert abs((noise[1:] * noise[:-1]).mean()) < error
    assert abs((noise[: n // 2] * noise[n // 2 :]).mean()) < error * np.sqrt(2)


def test_digital_silence_stays_inaudible():
    assert np.abs(augment(np.zeros(1_000, np.float32), snr_db=(15.0, 15.0))).max() < 2e-5
