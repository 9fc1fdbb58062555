"""Every kind of sound file: read whole and as FFmpeg reads it, refused where it is cut off, named where it is none."""

import io
import math
import struct
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import soxr

from earwitness.datamodules.audio.kinds import kind_of
from earwitness.datamodules.audio.levels import check_signal
from earwitness.datamodules.audio.mp3 import cut_off_mp3, frame_at
from earwitness.datamodules.audio.waves import Cut, decode, probe, whole
from earwitness.errors import InputError
from earwitness.tests.places import SHARED
from earwitness.tests.recordings import WRITTEN, encoded, recording, samples, with_sizes

CASES = SHARED / "cases"
EXACT = [name for name, (*_, exact) in WRITTEN.items() if exact]
LOSSY = [name for name, (*_, exact) in WRITTEN.items() if not exact]
# Where a file says nothing of its end, one that was cut between two of its frames is as good as any other.
SAYS_NOTHING = {"no_xing.mp3", "adts.aac"}


def resampled(wave: np.ndarray, rate: int) -> np.ndarray:
    """[n] at 16 kHz of int16 samples [n, c], averaged."""
    return soxr.resample((wave / 2.0**15).astype(np.float32).mean(1, dtype=np.float32), rate, 16_000, quality="HQ")


@pytest.mark.parametrize("name", EXACT)
def test_a_file_that_holds_samples_gives_those_samples(name):
    wave = whole(recording(name), name).wave
    assert np.array_equal(wave, resampled(samples(44_100), 44_100).astype(np.float32))
    assert probe(recording(name), name) == len(wave) == 65_600


@pytest.mark.parametrize("name", LOSSY)
def test_a_compressed_file_is_whole_and_sounds_as_what_was_compressed(name):
    """Encoders add up to 80 ms of their own; the best shift within them leaves an error below -15 dB."""
    wave, rate = whole(recording(name), name).wave, 48_000 if WRITTEN[name][1] == "libopus" else 44_100
    sound = resampled(samples(rate), rate)
    assert len(sound) - 300 < len(wave) < len(sound) + 1_300
    assert probe(recording(name), name) == len(wave)
    middle = slice(20_000, 40_000)
    errors = [np.mean((wave[20_000 + s : 40_000 + s] - sound[middle]) ** 2) for s in range(-600, 1_300)]
    assert min(errors) < 0.03 * np.mean(sound[middle] ** 2)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_file_that_was_cut_off_anywhere_is_refused(name):
    data, passed = recording(name), []
    for part in range(1, 40):
        cut = data[: len(data) * part // 40]
        for read in (whole, probe):
            try:
                read(cut, "clip")
                passed.append(part)
            except InputError as error:
                assert str(error).startswith("clip: ") and str(error).isprintable()
    assert not passed or (name in SAYS_NOTHING and len(passed) <= 4)


def test_an_mp3_is_read_to_its_end_whatever_its_first_frame_says():
    """The count of frames is in the file: libsndfile guesses a length from the first and stops there."""
    quiet, loud = np.zeros((44_100, 2), np.int16), samples(44_100, 3.0)
    for wave in (np.concatenate([loud, quiet]), np.concatenate([quiet, loud])):
        for options in ({}, {"write_xing": "0"}, {"write_xing": "0", "id3v2_version": "3", "write_id3v1": "1"}):
            data = encoded(wave, 44_100, "mp3", "libmp3lame", options)
            assert abs(len(whole(data, "x.mp3").wave) - 64_000) < 1_000
    one = recording("cbr.mp3")
    assert abs(len(whole(one + one, "x.mp3").wave) - 2 * 65_600) < 1_000
    half_rate = encoded(samples(22_050, 2.0), 22_050, "mp3", "libmp3lame")
    assert abs(len(whole(one + half_rate, "x.mp3").wave) - 65_600 - 32_000) < 1_000


def test_an_mp3_cut_between_two_frames_is_refused_by_the_count_in_its_first():
    data = recording("cbr.mp3")
    at = next(at for at in range(len(data)) if data[at : at + 2] == b"\xff\xfb")
    ends = []
    while (frame := frame_at(data, at)) is not None:
        at += frame.size
        ends.append(at)
    says = rf"^x\.mp3: the mp3 file is cut off; it holds {len(ends) // 2} of the {len(ends) - 1} frames"
    with pytest.raises(InputError, match=says):
        whole(data[: ends[len(ends) // 2 - 1]], "x.mp3")
    assert cut_off_mp3(data) == ""


SHARED_LENGTHS = {
    "vbr_no_xing_loud_start.mp3": (442_368, 44_100),
    "vbr_piped.mp3": (442_368, 44_100),
    "abr_no_xing_id3.mp3": (442_368, 44_100),
    "cbr_no_xing.mp3": (442_368, 44_100),
    "speech.m4a": (177_152, 44_100),
    "clip.webm": (192_000, 48_000),
}


@pytest.mark.parametrize("name", SHARED_LENGTHS)
def test_files_of_users_are_as_long_as_ffmpeg_reads_them(name, capfd):
    if not CASES.is_dir():
        pytest.skip("../shared/cases is not there")
    samples_there, rate = SHARED_LENGTHS[name]
    data = (CASES / name).read_bytes()
    assert len(whole(data, name).wave) == probe(data, name) == round(samples_there * 16_000 / rate)
    assert capfd.readouterr() == ("", "")


WAV = recording("pcm.wav")
PCM = 2 * 2 * len(samples(44_100))
SIZES = {
    "0 from a recorder that was switched off": with_sizes(WAV, 0, 0),
    "-1 from a pipe": with_sizes(WAV, 0xFFFF_FFFF, 0xFFFF_FFFF),
    "2 GiB from another pipe": with_sizes(WAV, 0x7FFF_F024, 0x7FFF_F000),
    "of the file wrong": with_sizes(WAV, 0),
    "of the file too large": with_sizes(WAV, len(WAV) + 4_000),
    "of the samples with the header": with_sizes(WAV, None, PCM + 44),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_wav_of_unknown_or_wrong_size_is_read_to_its_end(name):
    for read in (decode, lambda data, where: whole(data, where).wave):
        assert np.array_equal(read(SIZES[name], "x.wav"), decode(WAV, "x.wav"))
    assert probe(SIZES[name], "x.wav") == 65_600


def test_a_flac_of_unknown_length_and_one_behind_a_tag_are_read():
    data = recording("flac.flac")
    unknown = data[:21] + bytes([data[21] & 0xF0]) + bytes(4) + data[26:]
    tagged = b"ID3\3\0\0\0\0\0\n" + bytes(10) + data
    for other in (unknown, tagged):
        assert np.array_equal(whole(other, "x.flac").wave, whole(data, "x.flac").wave)
    for part in (0.3, 0.6, 0.99):
        with pytest.raises(InputError, match=r"^x\.flac: (not a readable|the flac|decodes to)"):
            whole(tagged[: int(part * len(tagged))], "x.flac")


def test_ogg_files_that_were_joined_are_read_one_after_the_other():
    buffer = io.BytesIO()
    soundfile.write(buffer, samples(16_000, 1.0) / 2**15, 16_000, format="OGG", subtype="VORBIS")
    one = buffer.getvalue()
    assert len(whole(one, "x.ogg").wave) == 16_000 and 32_000 <= len(whole(one + one, "x.ogg").wave) < 32_400


NO_SOUND = {
    "empty": (b"", "the file is empty"),
    "LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        r"fetch it with `git lfs pull`",
    ),
    "HTML": (b"\n<!DOCTYPE html>\n<html><head><title>404</title>", "an HTML or XML page"),
    "XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an HTML or XML page"),
    "JSON": (b'{"error": "rate limited"}', "JSON text"),
    "zip": (b"PK\x03\x04" + bytes(100), "a zip archive"),
    "png": (b"\x89PNG\r\n" + bytes(100), "a png picture"),
    "zeros": (bytes(5_000), "begins with zeros alone"),
    "text": (b"This video is not available any more.", "a text; wav, flac, mp3"),
    "avi": (b"RIFF\x10\0\0\0AVI LIST" + bytes(50), "a RIFF file that is no wav"),
    "midi": (b"MThd\0\0\0\6", "holds notes and no sound"),
}


@pytest.mark.parametrize("name", NO_SOUND)
def test_what_is_no_recording_is_named_for_what_it_is(name):
    data, says = NO_SOUND[name]
    for read in (decode, probe, whole):
        with pytest.raises(InputError, match=rf"^a\.mp3: not a readable recording \(.*{says}"):
            read(data, "a.mp3")


def test_a_playlist_is_no_recording_and_opens_nothing(tmp_path):
    """FFmpeg would open what a playlist names; its demuxer is therefore always named by us."""
    (tmp_path / "secret.wav").write_bytes(WAV)
    for text in (
        f"#EXTM3U\n#EXTINF:4,\n{tmp_path}/secret.wav\n",
        f"ffconcat version 1.0\nfile {tmp_path}/secret.wav\n",
    ):
        with pytest.raises(InputError, match="a text"):
            decode(text.encode(), "x.m3u8")


def test_a_video_is_heard_and_one_without_sound_is_refused():
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        for _ in range(10):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")))
        container.mux(video.encode(None))
    with pytest.raises(InputError, match=r"^v\.mp4: not a readable recording \(no sound in the mp4 file\)"):
        decode(buffer.getvalue(), "v.mp4")


@pytest.mark.parametrize("name", ["pcm.wav", "flac.flac", "aac.m4a"])
def test_speech_in_the_centre_of_surround_sound_keeps_its_level(name):
    """0.707 of the centre are heard (-3 dB); the mean of six channels would leave a sixth (-15.6 dB)."""
    wave = np.zeros((44_100, 6), np.int16)
    wave[:, 2] = samples(44_100, 1.0, 1)[:, 0]
    muxer, encoder, options, _ = WRITTEN[name]
    heard = whole(encoded(wave, 44_100, muxer, encoder, options, "5.1"), name)
    assert heard.levels.mix_loss_db == pytest.approx(3.01, abs=0.05)
    if name != "aac.m4a":
        alone = resampled(wave[:, 2:3], 44_100)
        np.testing.assert_allclose(heard.wave, alone * 0.5**0.5, rtol=0, atol=1e-5)


def test_the_low_frequency_channel_is_left_out_and_rears_count_half_as_much_as_the_centre():
    levels = []
    for channel in range(6):
        wave = np.zeros((16_000, 6), np.int16)
        wave[:, channel] = samples(16_000, 1.0, 1)[:, 0]
        levels.append(float(np.abs(decode(encoded(wave, 16_000, "wav", "pcm_s16le", {}, "5.1"), "x")).max()))
    relative = np.array(levels) / levels[0]
    np.testing.assert_allclose(relative, [1, 1, math.sqrt(2), 0, math.sqrt(0.5), math.sqrt(0.5)], atol=1e-4)


# Levels.


def stereo(left: np.ndarray, right: np.ndarray, rate: int = 16_000, subtype: str = "PCM_16") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.stack([left, right], 1), rate, format="WAV", subtype=subtype)
    return buffer.getvalue()


TONE = 0.5 * np.sin(2 * np.pi * 500 * np.arange(16_000) / 16_000)


def test_the_levels_of_known_sounds():
    """A sine of amplitude 0.5: peak -6.02 dB, RMS -9.03 dB; one channel alone loses 6.02 dB by averaging."""
    both, one = whole(stereo(TONE, TONE), "x").levels, whole(stereo(TONE, 0 * TONE), "x").levels
    assert both.record() == {"peak_db": -6.02, "rms_db": -9.03, "mix_loss_db": 0.0} | {
        "silent_share": pytest.approx(0.0625, abs=0.001),  # its zeros: two of every 32 samples
        "clipped_share": 0.0,
    }
    assert one.peak_db == pytest.approx(-12.04, abs=0.01) and one.mix_loss_db == pytest.approx(6.02, abs=0.01)
    clipped = np.clip(4 * TONE, -1, 1)  # beyond 1 for two thirds of the time: arcsin(1/2) = 30 degrees
    assert whole(stereo(clipped, clipped), "x").levels.clipped_share == pytest.approx(2 / 3, abs=0.03)
    gap = np.concatenate([TONE[:4_000] + 0.001, np.zeros(12_000)])
    assert whole(stereo(gap, gap), "x").levels.silent_share == pytest.approx(0.75, abs=0.001)


def test_channels_that_cancel_are_no_signal_and_the_loudest_is():
    anti = stereo(TONE, -TONE)
    lost = whole(anti, "x.wav").levels
    assert lost.peak_db < -90 and lost.mix_loss_db > 80
    with pytest.raises(InputError, match=r"^x\.wav: no signal: its channels cancel .*--mix loudest"):
        check_signal(lost, "x.wav")
    heard = whole(anti, "x.wav", Cut(mix="loudest"))
    np.testing.assert_allclose(heard.wave, TONE, atol=2**-15)
    assert heard.levels.mix_loss_db == 0


def test_a_loss_of_25_db_is_known_and_no_fault():
    almost = whole(stereo(TONE, -TONE * (1 - 2 * 10 ** (-25 / 20))), "x").levels
    assert almost.mix_loss_db == pytest.approx(25, abs=0.1)
    check_signal(almost, "x")


@pytest.mark.parametrize("level", [0.0, 2.0**-16, 2.0**-15])
def test_digital_silence_and_its_last_bit_are_no_signal(level):
    quiet = np.full(16_000, level) * np.where(np.arange(16_000) % 2, 1, -1)
    with pytest.raises(InputError, match=r"^x: no signal: its peak is -(144|96|90) dB of full scale"):
        check_signal(whole(stereo(quiet, quiet, subtype="FLOAT"), "x").levels, "x")
    check_signal(whole(stereo(4 * quiet + TONE * 2**-12, quiet, subtype="FLOAT"), "x").levels, "x")


def test_what_is_beyond_full_scale_is_scaled_down_and_its_level_with_it():
    loud = whole(stereo(14.2 * TONE, 14.2 * TONE, subtype="FLOAT"), "x")
    assert loud.levels.peak_db == pytest.approx(17.03, abs=0.01)
    scaled = loud.within_full_scale()
    assert np.abs(scaled.wave).max() == 1 and scaled.levels.peak_db == 0
    assert scaled.levels.rms_db == pytest.approx(-3.01, abs=0.01)
    quiet = whole(stereo(TONE, TONE), "x")
    assert quiet.within_full_scale() is quiet


# Parts.


_FULL = {"int16": 2.0**15, "int32": 2.0**31}  # what FFmpeg's integers are parts of


@pytest.mark.parametrize("name", ["pcm.wav", "flac.flac", "cbr.mp3", "alac.m4a", "pcm.caf", "opus.webm"])
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.25, 2.5), (3.0, None)])
def test_a_part_is_that_part_of_the_decoded_file_to_the_sample(name, start, end):
    import av

    data = recording(name)
    with av.open(io.BytesIO(data)) as container:
        rate = container.streams.audio[0].rate
        parts = [frame.to_ndarray() for frame in container.decode(audio=0)]
    parts = [np.asarray(part, np.float32) / _FULL.get(part.dtype.name, 1.0) for part in parts]
    parts = [part.reshape(-1, 2).T if len(part) == 1 else part for part in parts]
    mono = np.concatenate(parts, 1).mean(0, dtype=np.float32)
    wanted = mono[round(start * rate) : None if end is None else round(end * rate)]
    heard = whole(data, name, Cut(start, end)).wave
    np.testing.assert_allclose(heard, soxr.resample(wanted, rate, 16_000, quality="HQ"), rtol=0, atol=1e-6)


def test_a_part_beyond_the_file_is_refused_and_may_end_half_a_second_late():
    assert len(whole(WAV, "x.wav", Cut(3.0, 4.5)).wave) == 17_600
    for cut, says in (
        (Cut(3.0, 5.0), r"has no part from 3 s to 5 s; the file is 4\.10 s long"),
        (Cut(7.0, 9.0), r"has no part from 7 s to 9 s; the file is 4\.10 s long"),
        (Cut(7.0), r"has no part from 7 s; the file is 4\.10 s long"),
    ):
        for data in (WAV, recording("alac.m4a")):
            with pytest.raises(InputError, match=rf"^x: {says}"):
                whole(data, "x", cut)


@pytest.mark.parametrize("name", ["pcm.wav", "alac.m4a"])
def test_what_is_too_long_is_refused_or_its_first_or_middle_part_taken(name):
    data = recording(name)
    full = whole(data, name).wave
    with pytest.raises(InputError, match=r"is too long, at most 2 s are taken; take a part of it \(--too-long first"):
        whole(data, name, Cut(max_s=2.0))
    first, middle = (whole(data, name, Cut(max_s=2.0, too_long=how)) for how in ("first", "middle"))
    assert first.part == pytest.approx((0.0, 2.0, 4.1)) and middle.part == pytest.approx((1.05, 3.05, 4.1))
    inner = slice(500, 31_500)  # resampling rings at both ends
    np.testing.assert_allclose(first.wave[inner], full[:32_000][inner], atol=2e-3)
    np.testing.assert_allclose(middle.wave[inner], full[16_800:48_800][inner], atol=2e-3)
    assert whole(data, name, Cut(max_s=5.0, too_long="first")).part is None


def test_two_hours_of_sound_need_no_more_memory_than_what_is_taken(tmp_path):
    """An hour of wav is 317 MB; ten seconds of it are read from a mapped file in a process of its own."""
    path, code = (
        tmp_path / "hour.wav",
        (
            "import resource, sys\nfrom pathlib import Path\n"
            "from earwitness.datamodules.shards.writing import _file_bytes\n"
            "from earwitness.datamodules.audio.waves import Cut, whole\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "wave = whole(_file_bytes(Path(sys.argv[1])), 'x', Cut(3_000.0, 3_010.0)).wave\n"
            "print(len(wave), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
        ),
    )
    size = 3_600 * 44_100 * 2
    form = struct.pack("<IHHIIHH", 16, 1, 1, 44_100, 88_200, 2, 16)
    with path.open("wb") as file:
        file.write(b"RIFF" + struct.pack("<I", size + 36) + b"WAVEfmt " + form + b"data" + struct.pack("<I", size))
        file.truncate(size + 44)  # zeros that take no place
    ran = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    length, megabytes = map(int, ran.stdout.split())
    assert length == 160_000 and megabytes < 60


@pytest.mark.parametrize("name", WRITTEN)
def test_a_kind_is_told_by_content_and_not_by_name(name):
    kind, begin = kind_of(recording(name), "x")
    expected = {"m4a": "mp4", "mkv": "webm", "opus": "ogg"}.get(name.rpartition(".")[2], name.rpartition(".")[2])
    assert kind.name == expected and (begin > 0) == (name in ("cbr.mp3", "id3.mp3"))
