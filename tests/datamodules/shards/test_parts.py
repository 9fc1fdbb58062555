"""Parts of longer files, recordings without signal, levels in the index: from annotations to the rows of a pool."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from earwitness.commands.cli import main
from earwitness.curriculum.table import read_arrow, read_table
from earwitness.datamodules.questions.annotations import read_annotations
from earwitness.datamodules.questions.fields import Fields
from earwitness.datamodules.questions.segments import Segment
from earwitness.datamodules.shards.index import build_index
from earwitness.datamodules.shards.packing import shard
from earwitness.datamodules.shards.reader import ShardReader
from earwitness.errors import InputError

RATE = 16_000


def question(number: int, path: str, **more: object) -> dict:
    asked = {"source_dataset": "s", "id": f"{number}", "question": "Which?", "choices": ["a", "b"], "answer": "a"}
    return asked | {"audio_path": path, **more}


def write(folder: Path, *records: dict) -> Path:
    path = folder / "q.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def steps(folder: Path, name: str = "long.wav", seconds: int = 12) -> np.ndarray:
    """A file whose second n has the level (n + 1) / 20 throughout, as int16."""
    wave = np.repeat((np.arange(1, seconds + 1) / 20 * 2**15).astype(np.int16), RATE)
    wave[::2] *= -1
    soundfile.write(folder / name, wave, RATE)
    return wave


def heard(folder: Path) -> dict[str, np.ndarray]:
    reader = ShardReader(folder / "index.arrow")
    return {reader.key(row): reader.wave(row) for row in range(len(reader))}


WAYS = {
    "start and duration": ({"start": 2, "duration": 3}, (2, 5)),
    "start and end": ({"start": 2.5, "end": "4"}, (2.5, 4)),
    "all three": ({"start": "0:00:01", "duration": 1.0, "end": 2}, (1, 2)),
    "end alone": ({"end": 1}, (0, 1)),
    "start alone": ({"start": "10.5"}, (10.5, 12)),
    "the whole, by its length": ({"duration": 12.0}, (0, 12)),
    "nothing": ({"start": None, "duration": "", "end": None}, (0, 12)),
    "from the beginning": ({"start": 0}, (0, 12)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_question_hears_its_part_of_the_file_to_the_sample(tmp_path, way):
    wave, (times, (start, end)) = steps(tmp_path), WAYS[way]
    shard(str(write(tmp_path, question(1, "long.wav", **times))), str(tmp_path / "out"))
    expected = wave[round(start * RATE) : round(end * RATE)] / 2**15
    assert np.array_equal(heard(tmp_path / "out")["s/1"], expected.astype(np.float32))


@pytest.mark.parametrize(
    ("times", "says"),
    [
        ({"start": -1, "end": 2}, "start must be a time in seconds, got -1"),
        ({"start": "soon"}, "start must be a time in seconds, got 'soon'"),
        ({"start": True}, "start must be a time in seconds, got True"),
        ({"start": 3, "end": 3}, "the segment from 3 to 3 s is empty"),
        ({"start": 3, "duration": 0}, "the segment from 3 to 3 s is empty"),
        ({"start": 1, "duration": 2, "end": 4}, "start 1 and duration 2 do not end at 4 s"),
        ({"start": 11, "end": 14}, r"has no part from 11 s to 14 s; the file is 12\.00 s long"),
        ({"start": 1, "end": 1.01}, "160 samples at 16 kHz is too short"),
    ],
)
def test_a_part_that_cannot_be_is_refused_or_quarantined_by_name(tmp_path, times, says):
    steps(tmp_path)
    path = write(tmp_path, question(1, "long.wav", **times), question(2, "long.wav"))
    with pytest.raises(InputError, match=says):
        shard(str(path), str(tmp_path / "out"))
    assert shard(str(path), str(tmp_path / "out"), on_bad="quarantine")["left_out"] == 1
    assert list(heard(tmp_path / "out")) == ["s/2"]


def test_two_parts_of_a_file_are_two_recordings_and_the_same_part_is_one(tmp_path):
    steps(tmp_path)
    parts = [{"start": 1, "end": 3}, {"start": 1, "end": 3}, {"start": 2, "end": 4}, {}]
    path = write(tmp_path, *[question(n, "long.wav", **part) for n, part in enumerate(parts)])
    assert shard(str(path), str(tmp_path / "out"))["clips"] == 3
    waves = heard(tmp_path / "out")
    assert np.array_equal(waves["s/0"], waves["s/1"])
    assert [len(waves[f"s/{n}"]) for n in range(4)] == [32_000, 32_000, 32_000, 192_000]
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        texts = [json.load(tar.extractfile(m)) for m in tar if m.name.endswith(".json")]
    assert sorted(text["recording"].get("seconds_of_file", []) for text in texts) == [[], [1.0, 3.0], [2.0, 4.0]]


def test_another_part_packs_anew_and_the_same_does_nothing(tmp_path):
    steps(tmp_path)
    out = tmp_path / "out"
    for end, anew in ((3, True), (3, False), (4, True)):
        before = (out / "shard-000000.tar").stat().st_mtime_ns if out.exists() else None
        shard(str(write(tmp_path, question(1, "long.wav", start=1, end=end))), str(out))
        assert ((out / "shard-000000.tar").stat().st_mtime_ns != before) == anew
    assert len(heard(out)["s/1"]) == 3 * RATE


def test_parts_of_one_file_go_into_one_split(tmp_path):
    """They may overlap, and have one speaker, room and microphone; held out by themselves they would give it away."""
    records = []
    for file in range(12):
        steps(tmp_path, f"{file}.wav", 6 + file)
        records += [question(10 * file + n, f"{file}.wav", start=n, duration=1.5 + file / 8) for n in range(4)]
    shard(str(write(tmp_path, *records)), str(tmp_path / "out"), holdout={"val": 0.3, "test": 0.2})
    table = read_arrow(tmp_path / "out" / "index.arrow")
    split = dict(zip(table.column("key").to_pylist(), table.column("split").to_pylist(), strict=True))
    by_file = [{split[f"s/{10 * file + n}"] for n in range(4)} for file in range(12)]
    assert all(len(splits) == 1 for splits in by_file) and set.union(*by_file) == {"train", "val", "test"}
    assert "file" not in table.column_names


def test_columns_of_another_name_and_files_whole_in_spite_of_times(tmp_path):
    steps(tmp_path)
    path = write(tmp_path, question(1, "long.wav", onset=2, offset=3), question(2, "long.wav", onset=4, offset=6))
    named = Fields(columns={"start": "onset", "end": "offset"})
    assert [read.segment for read in read_annotations(path, named)] == [Segment(2, 3), Segment(4, 6)]
    assert [read.segment for read in read_annotations(path)] == [None, None]
    times = write(tmp_path, question(1, "long.wav", start=2, end=3))
    assert read_annotations(times, Fields(columns={"start": "none", "end": "none"}))[0].segment is None


def test_the_command_cuts_what_is_too_long_as_it_is_told(tmp_path, capsys):
    wave = steps(tmp_path)
    path = write(tmp_path, question(1, "long.wav"))
    with pytest.raises(SystemExit):
        main(["shard", str(path), str(tmp_path / "out"), "--max-seconds", "5"])
    assert "12 s is too long, at most 5 s are taken; take a part of it (--too-long first" in capsys.readouterr().err
    for how, start in (("first", 0), ("middle", 3.5)):
        main(["shard", str(path), str(tmp_path / how), "--max-seconds", "5", "--too-long", how])
        begin = round(start * RATE)
        expected = (wave[begin : begin + 5 * RATE] / 2**15).astype(np.float32)
        assert np.array_equal(heard(tmp_path / how)["s/1"], expected)
        told = f"long.wav: of its 12 s, {start:g} to {start + 5:g} s were taken"
        assert told in capsys.readouterr().err
        assert told in (tmp_path / how / "packing.notes.txt").read_text()


@pytest.mark.parametrize("how", [{"too_long": "first"}, {"mix": "loudest"}])
def test_files_that_are_kept_as_they_are_are_not_changed(tmp_path, how):
    steps(tmp_path)
    path = write(tmp_path, question(1, "long.wav", start=1, end=2))
    with pytest.raises(InputError, match="kept as they are cannot be cut"):
        shard(str(path), str(tmp_path / "out"), audio="original", cut=how)
    with pytest.raises(InputError, match=r"long\.wav: only a part of the file is asked about"):
        shard(str(path), str(tmp_path / "out"), audio="original")
    with pytest.raises(InputError, match="cut: no entry 'to_long'; there are max_s, too_long, mix"):
        shard(str(path), str(tmp_path / "out"), cut={"to_long": "first"})


# Levels.


def sounds(folder: Path) -> Path:
    """Five files: heard, cancelled by 25 dB, cancelled altogether, silent, and beyond full scale."""
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    rights = {"good": tone, "weak": -tone * (1 - 2 * 10 ** (-25 / 20)), "anti": -tone, "none": 0 * tone}
    for name, right in rights.items():
        left = 0 * tone if name == "none" else tone
        soundfile.write(folder / f"{name}.wav", np.stack([left, right], 1), RATE)
    soundfile.write(folder / "loud.wav", 14 * tone, RATE, subtype="FLOAT")
    return write(folder, *[question(n, f"{name}.wav") for n, name in enumerate((*rights, "loud"))])


@pytest.mark.parametrize("audio", ["flac", "original"])
def test_a_recording_without_signal_is_a_named_fault_of_packing(tmp_path, audio, capsys):
    path = sounds(tmp_path)
    with pytest.raises(InputError, match=r"(anti|none)\.wav: no signal: "):
        shard(str(path), str(tmp_path / "out"), audio=audio)
    counts = shard(str(path), str(tmp_path / "out"), audio=audio, on_bad="quarantine")
    assert counts["questions"] == 3 and counts["left_out"] == 2 and counts["mixing_lost_over_10_db"] == 1
    reasons = (tmp_path / "out" / "packing.quarantine.jsonl").read_text()
    assert "anti.wav: no signal: its channels cancel" in reasons and "none.wav: no signal: its peak is -144" in reasons
    told = "loud.wav: its peak was 7.00; scaled down to full scale"
    assert (told in capsys.readouterr().err) == (audio == "flac") == (counts.get("changed") == 1)


def test_the_levels_stand_in_the_index_and_choose_a_pool(tmp_path, capsys):
    shard(str(sounds(tmp_path)), str(tmp_path / "out"), on_bad="quarantine")
    table = read_table(tmp_path / "out" / "index.arrow")
    levels = {name: table.columns[name] for name in ("peak_db", "rms_db", "mix_loss_db", "clipped_share")}
    keys = read_arrow(tmp_path / "out" / "index.arrow").column("key").to_pylist()
    row = {key: {name: float(values[n]) for name, values in levels.items()} for n, key in enumerate(keys)}
    good = {"peak_db": -6.02, "rms_db": -9.03, "mix_loss_db": 0, "clipped_share": 0}
    assert row["s/0"] == pytest.approx(good, abs=0.01)
    assert row["s/1"]["mix_loss_db"] == pytest.approx(25, abs=0.2) and row["s/4"]["peak_db"] == 0
    curriculum = tmp_path / "c.yaml"
    curriculum.write_text(
        "cells: [source]\nstages:\n- {name: a, algorithm: sft, batch_size: 1, budget: {fraction: 1.0}, "
        "pool: {mix_loss_db: {max: 10}, rms_db: {min: -20}}}\n"
    )
    index = str(tmp_path / "out" / "index.arrow")
    main(["plan", str(curriculum), "--index", index, "--out", str(tmp_path / "plan")])
    assert json.loads((tmp_path / "plan" / "plan.json").read_text())["stages"]["a"]["steps"] == 2
    main(["inspect", index, "--out", str(tmp_path / "look")])
    assert "1 of 3 recordings lost more than 10 dB when their channels were mixed" in capsys.readouterr().out


def test_the_loudest_channel_instead_of_the_mean(tmp_path):
    path = sounds(tmp_path)
    counts = shard(str(path), str(tmp_path / "out"), on_bad="quarantine", cut={"mix": "loudest"})
    assert counts["questions"] == 4 and "mixing_lost_over_10_db" not in counts
    assert np.abs(heard(tmp_path / "out")["s/2"]).max() == pytest.approx(0.5, abs=1e-3)


def test_indexing_measures_what_it_decodes_and_believes_what_packing_measured(tmp_path):
    """Of packed flac it is free; a foreign tar's wav has levels only with `decode`, which then refuses silence too."""
    shard(str(sounds(tmp_path)), str(tmp_path / "out"), on_bad="quarantine")
    packed = read_arrow(tmp_path / "out" / "index.arrow").column("mix_loss_db").to_pylist()
    again = tmp_path / "again.arrow"
    build_index(str(tmp_path / "out"), str(again), decode=True)
    assert read_arrow(again).column("mix_loss_db").to_pylist() == packed
    for name in ("good", "none"):
        tar = tmp_path / f"{name}.tar"
        with tarfile.open(tar, "w") as file:
            words = json.dumps(question(1, "x")).encode()
            for ending, data in (("json", words), ("wav", (tmp_path / f"{name}.wav").read_bytes())):
                info = tarfile.TarInfo(f"a.{ending}")
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
        assert build_index(str(tar), str(again))["levels_unknown"] == 1
    with pytest.raises(InputError, match=r"none\.tar:a\.wav: no signal"):
        build_index(str(tmp_path / "none.tar"), str(again), decode=True)
    build_index(str(tmp_path / "good.tar"), str(again), decode=True)
    assert read_arrow(again).column("rms_db").to_pylist() == [pytest.approx(-9.03, abs=0.01)]
