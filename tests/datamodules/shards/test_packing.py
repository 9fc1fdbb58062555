"""Packing gives the same bytes whatever happened before, does no work twice, and accounts for every question."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import webdataset as wds

from earwitness.commands.cli import main
from earwitness.curriculum.table import read_arrow
from earwitness.datamodules.shards import packing as shards
from earwitness.datamodules.shards.packing import shard
from earwitness.datamodules.shards.reader import ShardReader
from earwitness.datamodules.shards.tar import walk_tar
from earwitness.errors import InputError

KINDS = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "mp3": ("MP3", None), "ogg": ("OGG", "VORBIS")}
KINDS["opus"] = ("OGG", "OPUS")


def recording(number: int, kind: str = "wav", rate: int = 16_000, channels: int = 1) -> bytes:
    wave = 0.1 * np.random.default_rng(number).normal(size=(rate // 10 + number, channels))
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=KINDS[kind][0], subtype=KINDS[kind][1])
    return buffer.getvalue()


def question(number: int, path: str, **more) -> dict:
    fixed = {
        "source_dataset": "s",
        "id": str(number),
        "question": f"Nº {number}?",
        "answer": "a",
        "choices": ["a", "b"],
    }
    return fixed | {"audio_path": path} | more


def corpus(folder: Path, count: int = 12) -> Path:
    """`count` recordings, every third with two questions; an annotation file beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        (folder / f"{number}.wav").write_bytes(recording(number))
        lines.append(question(number, f"{number}.wav"))
        if number % 3 == 0:
            lines.append(question(1_000 + number, f"{number}.wav"))
    return write(folder / "q.jsonl", lines)


def write(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """A shard that is packed anew is another file, also where its bytes are the same."""
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in sorted(folder.glob("*.tar"))}


def packed_anew(before: dict, folder: Path) -> list[str]:
    return [name for name, stamp in stamps(folder).items() if before.get(name) != stamp]


def report(folder: Path) -> list[dict]:
    path = folder / "packing.quarantine.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def home_of(folder: Path, path: str) -> str:
    """The shard that holds a recording."""
    for name in sorted(folder.glob("*.tar")):
        with tarfile.open(name) as tar:
            for member in tar:
                if member.name.endswith(".json") and json.load(tar.extractfile(member))["audio_path"] == path:
                    return name.name
    raise AssertionError(path)


def test_one_and_two_processes_give_the_same_bytes(tmp_path):
    """Of good and of bad input; the reports too, and the record of what was done."""
    annotations = corpus(tmp_path / "in")
    (tmp_path / "in" / "5.wav").write_bytes(b"RIFF and no more")
    (tmp_path / "in" / "7.wav").unlink()
    for workers in (1, 2):
        how = {"samples_per_shard": 2, "on_bad": "quarantine", "workers": workers}
        shard(str(annotations), str(tmp_path / f"{workers}"), **how, holdout={"val": 0.3})
    one, two = files(tmp_path / "1"), files(tmp_path / "2")
    assert one == two
    assert len(one) == 6 + 4 and len(report(tmp_path / "1")) == 2


def test_plain_webdataset_reads_json_before_audio_and_both_pair_up(tmp_path):
    """The first member of every sample is its text: a stream can decide before it reads the audio."""
    kinds = [*KINDS]
    (tmp_path / "in").mkdir()
    original = {kind: recording(number, kind) for number, kind in enumerate(kinds)}
    for kind, data in original.items():
        (tmp_path / "in" / f"x.{kind.upper()}").write_bytes(data)
    records = [question(n, f"x.{kind.upper()}") for n, kind in enumerate(kinds)]
    shard(str(write(tmp_path / "in" / "q.jsonl", records)), str(tmp_path / "out"), audio="original")
    heard = {}
    for sample in wds.WebDataset(str(tmp_path / "out" / "shard-000000.tar"), shardshuffle=False):
        fields = [name for name in sample if not name.startswith("__")]
        content = json.loads(sample["json"])
        kind = content["audio_path"].partition(".")[2].lower()
        assert fields == ["json", kind]
        heard[kind] = sample[kind]
    assert heard == original
    reader = ShardReader(tmp_path / "out" / "index.arrow")
    assert {reader.text("audio_ext", row): reader.sound(row) for row in range(5)} == heard


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (16_000, 5), (44_100, 2), (48_000, 1)])
def test_flac_shards_hold_16_khz_mono_as_long_as_the_recording(tmp_path, rate, channels):
    (tmp_path / "x.wav").write_bytes(recording(40, rate=rate, channels=channels))
    shard(str(write(tmp_path / "q.jsonl", [question(1, "x.wav")])), str(tmp_path / "out"))
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        data = tar.extractfile(tar.getmembers()[1]).read()
    info = soundfile.info(io.BytesIO(data))
    assert (info.samplerate, info.channels, info.format, info.subtype) == (16_000, 1, "FLAC", "PCM_16")
    assert info.frames == round((rate // 10 + 40) * 16_000 / rate)


# What is left out.

HALF = recording(3)[: len(recording(3)) // 2]
BAD_RECORDINGS = {
    "missing": (None, "no such recording; is `audio_root` right?"),
    "half a wav": (HALF, "the wav file is cut off; 1,625 bytes that it announces are missing"),
    "half an mp3": (recording(3, "mp3")[:600], "the mp3 file is cut off; its last frame is not whole"),
    "no sound": (b"nothing", "not a readable recording"),
    "nothing": (b"", "not a readable recording"),
}


@pytest.mark.parametrize("name", BAD_RECORDINGS)
@pytest.mark.parametrize("audio", ["flac", "original"])
def test_a_bad_recording_stops_or_is_left_out_with_its_questions(tmp_path, name, audio):
    """Recording 3 has two questions. Decoding alone would pack half a wav as if it were the whole."""
    data, says = BAD_RECORDINGS[name]
    annotations, bad = corpus(tmp_path / "in", 5), tmp_path / "in" / "3.wav"
    bad.unlink() if data is None else bad.write_bytes(data)
    with pytest.raises(InputError, match=rf"^{bad}: .*({says})"):
        shard(str(annotations), str(tmp_path / "out"), audio=audio)
    assert not (tmp_path / "out" / "index.arrow").exists()
    counts = shard(str(annotations), str(tmp_path / "out"), audio=audio, on_bad="quarantine")
    assert (counts["questions"], counts["left_out"], counts["clips"]) == (5, 2, 4)
    assert {line["question"] for line in report(tmp_path / "out")} == {"s/3", "s/1003"}
    assert all(line["reason"].startswith(f"{bad}: ") for line in report(tmp_path / "out"))
    assert "s/3" not in read_arrow(tmp_path / "out" / "index.arrow").column("key").to_pylist()


def test_questions_are_those_packed_and_those_left_out(tmp_path):
    """Twelve lines: one no JSON, one twice, one leaving its folder, one without its recording, one whose recording is
    in two splits; the index leaves out the last one, packing the others."""
    folder = tmp_path / "in"
    corpus(folder, 7)
    records = [question(n, f"{n}.wav") for n in range(7)]
    records += [question(7, "../0.wav"), question(8, "8.wav"), question(9, "0.wav", split="val")]
    records[0]["split"] = "train"
    path = write(folder / "q.jsonl", records)
    path.write_text(path.read_text() + "{\n" + json.dumps(records[2]) + "\n")
    counts = shard(str(path), str(tmp_path / "out"), on_bad="quarantine", samples_per_shard=3)
    assert counts["questions"] + counts["left_out"] + counts["bad_questions"] == 12
    assert (counts["questions"], counts["left_out"], counts["bad_questions"], counts["clips"]) == (7, 4, 1, 7)
    reasons = [line["reason"] for line in report(tmp_path / "out")]
    for says in (
        "audio_path '../0.wav' must be relative",
        ":11: not JSON",
        "s/2 was already given",
        "no such recording",
    ):
        assert sum(says in reason for reason in reasons) == 1, says
    lines = (tmp_path / "out" / "index.quarantine.jsonl").read_text().splitlines()
    assert len(lines) == 1 and json.loads(lines[0])["question"] == "s/9"


def test_a_shard_whose_recordings_are_all_bad_is_empty_and_the_others_are_indexed(tmp_path, capsys):
    annotations, out = corpus(tmp_path / "in", 4), tmp_path / "out"
    shard(str(annotations), str(out), samples_per_shard=1)
    lost = home_of(out, "2.wav")
    (tmp_path / "in" / "2.wav").write_bytes(b"")
    counts = shard(str(annotations), str(out), samples_per_shard=1, on_bad="quarantine")
    assert (counts["questions"], counts["left_out"], counts["shards"]) == (5, 1, 4)
    assert f"warning: {out}/{lost} holds no sample" in capsys.readouterr().err


def test_what_was_left_out_before_is_a_fault_where_faults_stop(tmp_path):
    """Otherwise a finished shard would hide for ever that a recording was missing when it was packed."""
    annotations, out = corpus(tmp_path / "in", 4), str(tmp_path / "out")
    (tmp_path / "in" / "2.wav").unlink()
    shard(str(annotations), out, on_bad="quarantine")
    with pytest.raises(InputError, match=r"2\.wav: no such recording"):
        shard(str(annotations), out)
    (tmp_path / "in" / "2.wav").write_bytes(recording(2))
    assert shard(str(annotations), out)["questions"] == 6
    assert report(tmp_path / "out") == []


def test_too_many_questions_about_one_recording_are_a_fault_of_its_own(tmp_path):
    """An index would refuse the text of the sample; that must not come to light after packing for hours."""
    (tmp_path / "x.wav").write_bytes(recording(0))
    (tmp_path / "y.wav").write_bytes(recording(1))
    records = [question(n, "x.wav", unstructured_cot="z" * 40_000) for n in range(27)] + [question(99, "y.wav")]
    path = write(tmp_path / "q.jsonl", records)
    with pytest.raises(InputError, match=r"^x\.wav: its questions take 10\d+ bytes; shorten them"):
        shard(str(path), str(tmp_path / "out"))
    counts = shard(str(path), str(tmp_path / "out"), on_bad="quarantine")
    assert (counts["questions"], counts["left_out"]) == (1, 27)
    write(path, records[1:])
    assert shard(str(path), str(tmp_path / "out"))["questions"] == 27


@pytest.mark.timeout(60)
def test_a_recording_that_is_no_file_is_none(tmp_path):
    """Reading a pipe would wait for ever."""
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    for name in ("pipe.wav", "folder.wav", "n" * 400 + ".wav"):
        path = write(tmp_path / "q.jsonl", [question(1, name)])
        with pytest.raises(InputError, match=r"\.wav: (no such recording|cannot be read \(File name too long\))"):
            shard(str(path), str(tmp_path / "out"))


@pytest.mark.parametrize(
    "how", [{"audio": "mp3"}, {"on_bad": "skip"}, {"samples_per_shard": 0}, {"holdout": {"train": 0.1}}], ids=str
)
def test_options_that_are_none_are_refused(tmp_path, how):
    with pytest.raises(InputError, match=r"^(audio is 'flac' or|samples_per_shard must be|holdout takes val)"):
        shard(str(corpus(tmp_path / "in", 1)), str(tmp_path / "out"), **how)


@pytest.mark.parametrize(
    ("name", "data", "member"), [("x.wave", recording(0), "wav"), ("x.wav", recording(0, "mp3"), "mp3")]
)
def test_a_file_kept_as_it_is_is_called_by_its_kind_and_not_by_its_name(tmp_path, name, data, member):
    """Whoever reads the tar with another tool takes the member's ending for its kind."""
    (tmp_path / name).write_bytes(data)
    path = write(tmp_path / "q.jsonl", [question(1, name)])
    shard(str(path), str(tmp_path / "out"), audio="original")
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        kept = tar.getmembers()[1]
        assert kept.name.endswith(f".{member}") and tar.extractfile(kept).read() == data


# Doing nothing twice.


def test_a_repeated_packing_packs_nothing(tmp_path, monkeypatch):
    annotations, out = corpus(tmp_path / "in"), tmp_path / "out"
    first = shard(str(annotations), str(out), samples_per_shard=3)
    before, content = stamps(out), files(out)
    monkeypatch.setattr(shards, "pack_shard", None)
    assert shard(str(annotations), str(out), samples_per_shard=3) == first
    assert stamps(out) == before and files(out) == content


def test_a_repeated_packing_reads_neither_annotations_nor_shards_until_something_changed(tmp_path, monkeypatch):
    """What is compared: arguments, and sizes and times of annotations, recordings and results."""
    annotations, out = corpus(tmp_path / "in"), tmp_path / "out"
    first = shard(str(annotations), str(out), samples_per_shard=3)
    reading = shards.jobs_of
    calls = []
    monkeypatch.setattr(shards, "jobs_of", lambda *how: calls.append(how) or reading(*how))
    assert shard(str(annotations), str(out), samples_per_shard=3) == first and not calls
    for number, change in enumerate(
        (
            lambda: os.utime(annotations, ns=(1, 1)),
            lambda: os.utime(tmp_path / "in" / "4.wav", ns=(1, 1)),
            lambda: (out / "index.arrow").unlink(),
            lambda: (out / "packing.arrow").write_bytes(b"no table"),
            lambda: (out / "index.quarantine.jsonl").write_text("{}"),
        ),
        1,
    ):
        change()
        assert shard(str(annotations), str(out), samples_per_shard=3) == first and len(calls) == number
        assert shard(str(annotations), str(out), samples_per_shard=3) == first and len(calls) == number
    shard(str(annotations), str(out), samples_per_shard=3, holdout={"val": 0.5})
    assert len(calls) == 6
    assert not list(out.glob("*.spool")) and not list(out.glob("*.partial"))


@pytest.mark.parametrize("what", ["recording", "question", "recording gone", "shard cut", "shard gone"])
def test_a_change_packs_its_own_shard_anew_and_no_other(tmp_path, what):
    annotations, out = corpus(tmp_path / "in"), tmp_path / "out"
    shard(str(annotations), str(out), samples_per_shard=3)
    before, home = stamps(out), home_of(out, "4.wav")
    if what == "recording":
        (tmp_path / "in" / "4.wav").write_bytes(recording(99))
    elif what == "question":
        annotations.write_text(annotations.read_text().replace(json.dumps("Nº 4?"), '"Four?"'))
    elif what == "recording gone":
        (tmp_path / "in" / "4.wav").unlink()
    elif what == "shard cut":
        os.truncate(out / home, 1_024)
    else:
        (out / home).unlink()
    shard(str(annotations), str(out), samples_per_shard=3, on_bad="quarantine")
    assert packed_anew(before, out) == [home]
    shard(str(annotations), str(tmp_path / "fresh"), samples_per_shard=3, on_bad="quarantine")
    assert files(out) == files(tmp_path / "fresh")


def test_other_options_pack_all_shards_anew(tmp_path):
    annotations, out = corpus(tmp_path / "in"), tmp_path / "out"
    shard(str(annotations), str(out), samples_per_shard=3)
    before = stamps(out)
    shard(str(annotations), str(out), samples_per_shard=3, audio="original")
    assert len(packed_anew(before, out)) == 4


def test_a_dataset_that_was_saved_anew_is_packed_anew(tmp_path):
    """Its rows have no files whose time of change could tell."""
    datasets = pytest.importorskip("datasets")

    def save(first: int) -> None:
        records = [question(n, f"{n}.wav") | {"audio": recording(first + n)} for n in range(4)]
        datasets.Dataset.from_list(records).save_to_disk(str(tmp_path / f"d{first}"))

    for first in (0, 50):
        save(first)
        (tmp_path / f"d{first}").rename(tmp_path / "d")
        shard(str(tmp_path / "d"), str(tmp_path / "out"), samples_per_shard=2, audio="original")
        reader = ShardReader(tmp_path / "out" / "index.arrow")
        kept = {reader.key(row): reader.sound(row) for row in range(4)}
        assert kept == {f"s/{n}": recording(first + n) for n in range(4)}
        (tmp_path / "d").rename(tmp_path / f"old{first}")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"shard-000000.tar": 7}', b"\xff", b"[" * 100_000])
def test_a_record_that_cannot_be_read_means_that_nothing_is_done(tmp_path, content):
    annotations, out = corpus(tmp_path / "in", 4), tmp_path / "out"
    shard(str(annotations), str(out))
    whole = files(out)
    (out / "packing.json").write_bytes(content)
    (out / "shard-000000.tar").write_bytes(b"x")
    shard(str(annotations), str(out))
    assert files(out) == whole


KILLED = """
import sys, time
from earwitness.datamodules.shards import packing as shards, writing
from earwitness.datamodules.shards.scan import clip_of
recording = writing._recording
def slow(job, clip):
    time.sleep(0.02)
    return recording(job, clip)
writing._recording = slow
shards.shard(sys.argv[1], sys.argv[2], samples_per_shard=2)
"""


@pytest.mark.parametrize("done", [1, 4])
def test_a_killed_packing_goes_on_where_it_was_and_ends_with_the_same_bytes(tmp_path, done):
    """Killed as soon as `done` shards are recorded, in the middle of the next; those are not packed again."""
    annotations, out = corpus(tmp_path / "in", 16), tmp_path / "out"
    shard(str(annotations), str(tmp_path / "fresh"), samples_per_shard=2)
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(annotations), str(out)], stderr=subprocess.DEVNULL)
    try:
        for _ in range(6_000):
            try:
                if len(json.loads((out / "packing.json").read_text())) >= done:
                    break
            except (OSError, ValueError):
                pass
            time.sleep(0.005)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    finished = [*json.loads((out / "packing.json").read_text())]
    assert done <= len(finished) < 8 and not (out / "index.arrow").exists()
    for path in out.glob("*.tar"):
        assert list(walk_tar(path)), "what bears a shard's name is whole"
    before = stamps(out)
    shard(str(annotations), str(out), samples_per_shard=2)
    assert not set(finished) & set(packed_anew(before, out))
    assert files(out) == files(tmp_path / "fresh")


def test_a_finished_shard_is_recorded_also_while_an_earlier_one_is_still_packed(tmp_path):
    """With several processes: the first shard has a recording that is never ready."""
    annotations, out = corpus(tmp_path / "in", 8), tmp_path / "out"
    shard(str(annotations), str(tmp_path / "fresh"), samples_per_shard=2)
    with tarfile.open(tmp_path / "fresh" / "shard-000000.tar") as tar:
        first = json.load(tar.extractfile(tar.getmembers()[0]))["audio_path"]
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from earwitness.datamodules.shards import packing as shards, writing\n"
        "kept = writing._file_bytes\n"
        f"def wait(path):\n    while path.name == {first!r}: time.sleep(1)\n    return kept(path)\n"
        "writing._file_bytes = wait\n"
        "if __name__ == '__main__': shards.shard(sys.argv[1], sys.argv[2], samples_per_shard=2, workers=2)\n"
    )
    (tmp_path / "slow.py").write_text(code)
    words = [sys.executable, str(tmp_path / "slow.py"), str(annotations), str(out)]
    child = subprocess.Popen(words, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        for _ in range(600):
            try:
                recorded = [*json.loads((out / "packing.json").read_text())]
            except (OSError, ValueError):
                recorded = []
            if len(recorded) == 3:
                break
            time.sleep(0.05)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert recorded == [f"shard-{n:06d}.tar" for n in (1, 2, 3)]
    before = stamps(out)
    shard(str(annotations), str(out), samples_per_shard=2)
    assert packed_anew(before, out) == ["shard-000000.tar"] and files(out) == files(tmp_path / "fresh")


# The command line.


def test_shard_and_index_on_the_command_line(tmp_path, capsys):
    annotations, out = corpus(tmp_path / "in", 6), tmp_path / "out"
    (tmp_path / "in" / "5.wav").write_bytes(b"RIFF")
    words = ["shard", str(annotations), str(out), "--samples-per-shard", "2", "--workers", "1", "--original"]
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 1 and capsys.readouterr().err.splitlines()[-1].startswith("error: ")
    main([*words, "--on-bad", "quarantine", "--holdout", "val=0.5"])
    line = capsys.readouterr().out.strip().splitlines()[-1]
    assert line == "questions 7, clips 5, hours 0.0, members 10, indexed 10, shards 3, left_out 1"
    assert set(read_arrow(out / "index.arrow").column("split").to_pylist()) == {"train", "val"}
    main(["index", str(out), "--out", str(tmp_path / "new.arrow"), "--decode", "--workers", "2"])
    assert capsys.readouterr().out.strip() == "questions 7, clips 5, hours 0.0, members 10, indexed 10"
    assert set(read_arrow(tmp_path / "new.arrow").column("split").to_pylist()) == {"train"}


def test_columns_are_mapped_on_the_command_line(tmp_path):
    (tmp_path / "x.wav").write_bytes(recording(0))
    (tmp_path / "q.csv").write_text("ds,id,question,answer,A,B,path,cot\ns,1,What?,x,x,y,x.wav,I hear x.\n")
    columns = ["source_dataset=ds", "choices=A,B", "audio_path=path", "structured_cot=cot"]
    main(["shard", str(tmp_path / "q.csv"), str(tmp_path / "out"), "--workers", "1", "--column", *columns])
    found = ShardReader(tmp_path / "out" / "index.arrow").question(0)
    assert (found.key, found.choices, found.structured_cot) == ("s/1", ("x", "y"), "I hear x.")


@pytest.mark.parametrize(
    "words",
    [
        ["index", "FOLDER"],
        ["index", "FOLDER/x.tar"],
        ["shard", "FOLDER/q.jsonl", "OUT"],
        ["shard", "FOLDER", "OUT"],
        ["index", "FOLDER", "--holdout", "val"],
        ["index", "FOLDER", "--holdout", "val=much"],
        ["inspect", "FOLDER/index.arrow"],
        ["index", "pipe:cat x"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_is_one_line_and_exit_code_1(tmp_path, capsys, words):
    words = [word.replace("FOLDER", str(tmp_path / "in")).replace("OUT", str(tmp_path / "out")) for word in words]
    (tmp_path / "in").mkdir()
    with pytest.raises(SystemExit) as end:
        main(words + (["--out", str(tmp_path / "o")] if words[0] == "inspect" else []))
    printed = capsys.readouterr()
    assert end.value.code == 1 and printed.err.count("\n") == 1 and printed.err.startswith("error: ")


# Where recordings lie, and what goes along with the questions.


def test_absolute_paths_and_paths_that_leave_the_annotations_are_taken_where_they_lead_into_the_root(tmp_path):
    """The same recording under three names is packed once."""
    (tmp_path / "data" / "audio").mkdir(parents=True)
    (tmp_path / "data" / "notes").mkdir()
    (tmp_path / "data" / "audio" / "x.wav").write_bytes(recording(1))
    names = ["audio/x.wav", str(tmp_path / "data" / "audio" / "x.wav"), "../audio/x.wav", "audio/../audio/x.wav"]
    path = write(tmp_path / "data" / "notes" / "q.jsonl", [question(n, name) for n, name in enumerate(names)])
    root = str(tmp_path / "data")
    assert shard(str(path), str(tmp_path / "out"), audio_root=root)["clips"] == 1
    assert shard(str(path), str(tmp_path / "out"), audio_root=root)["questions"] == 4
    says = (
        r"^s/1: audio_path '/.*x\.wav' must be relative and .*; give --audio-root a folder that holds all recordings$"
    )
    with pytest.raises(InputError, match=says):
        shard(str(write(path, [question(1, names[1])])), str(tmp_path / "none"))
    for bad in ("/etc/passwd", "../../x.wav", "..", "audio/../../../x.wav", "a\0b"):
        with pytest.raises(InputError, match=r"(must be relative and stay|must be one line)"):
            shard(str(write(path, [question(1, bad)])), str(tmp_path / "none"), audio_root=root)


def test_kept_columns_lie_in_the_samples_and_are_columns_for_pools_and_cells(tmp_path, capsys):
    from earwitness.curriculum.table import Categorical, read_table

    (tmp_path / "x.wav").write_bytes(recording(1))
    (tmp_path / "y.wav").write_bytes(recording(2))
    more = [
        {"category": ["Reasoning"], "level": 3, "hard": True, "lang": "en", "odd": 1},
        {"category": "Music", "level": 0.5, "hard": False, "odd": "one"},
        {"category": ["a", "b"], "hard": True, "lang": "zh"},
    ]
    rows = [question(n, f"{'xyx'[n]}.wav", split="train", **fields) for n, fields in enumerate(more)]
    path = write(tmp_path / "q.jsonl", rows)
    keep = {"category": "category", "level": "level", "hard": "hard", "language": "lang", "odd": "odd"}
    shard(str(path), str(tmp_path / "out"), samples_per_shard=1, fields={"keep": keep})
    assert capsys.readouterr().err == ""
    reader = ShardReader(tmp_path / "out" / "index.arrow")
    table = read_table(tmp_path / "out" / "index.arrow")
    rows_of = {reader.key(row): row for row in range(3)}
    order = [rows_of[f"s/{n}"] for n in range(3)]

    def values(name: str) -> list:
        column = table.columns[name]
        if isinstance(column, Categorical):
            return [column.names[code] if code >= 0 else None for code in column.codes[order]]
        return [None if np.isnan(value) else value for value in column[order]]

    assert values("category") == ["Reasoning", "Music", "a, b"] and values("language") == ["en", None, "zh"]
    assert values("level") == [3.0, 0.5, None] and values("hard") == [1.0, 0.0, 1.0]
    assert values("odd") == ["1", "one", None], "a column of numbers and texts is text"
    assert table.where({"language": "zh"}).tolist() == [order[2]]
    assert dict(reader.question(order[0]).columns)["category"] == "Reasoning"
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        packed = json.load(tar.extractfile(next(m for m in tar if m.name.endswith(".json"))))
    assert all("hard" in q["columns"] for q in packed["questions"])
    index = (tmp_path / "out" / "index.arrow").read_bytes()
    main(["index", str(tmp_path / "out"), "--workers", "1"])
    assert (tmp_path / "out" / "index.arrow").read_bytes() == index, "indexing again keeps them"
    with pytest.raises(InputError, match="keep: the index has a column 'source' of its own; give"):
        shard(str(path), str(tmp_path / "out"), fields={"keep": ["source"]})
    with pytest.raises(InputError, match="keep: no column 'langauge'; there are source_dataset, "):
        shard(str(path), str(tmp_path / "out"), fields={"keep": ["langauge"]})


@pytest.mark.parametrize("workers", [1, 2])
def test_recordings_inside_the_parquet_files_of_a_hub_folder_are_packed_each_with_its_question(tmp_path, workers):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "hub" / "data").mkdir(parents=True)
    number = 0
    for name, count in (("train-00000-of-00002", 20), ("train-00001-of-00002", 3), ("test-00000-of-00001", 2)):
        rows = []
        for n in range(number, number + count):
            held = {"bytes": recording(n), "path": None}
            rows.append({k: v for k, v in question(n, "").items() if k != "audio_path"} | {"audio": held})
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "hub" / "data" / f"{name}.parquet", row_group_size=7)
        number += count
    out = tmp_path / "out"
    counts = shard(str(tmp_path / "hub"), str(out), samples_per_shard=9, audio="original", workers=workers)
    assert (counts["questions"], counts["clips"], counts["shards"]) == (25, 25, 3)
    reader = ShardReader(out / "index.arrow")
    held = {reader.key(row): (reader.sound(row), reader.text("split", row)) for row in range(25)}
    assert held == {f"s/{n}": (recording(n), "train" if n < 23 else "test") for n in range(25)}
    assert not list(out.glob("*.spool"))
    pq.write_table(pa.Table.from_pylist([question(99, "x.wav")]), tmp_path / "hub" / "data" / "more.parquet")
    with pytest.raises(InputError, match=r"more\.parquet\[0\]: has no column `audio` of recordings"):
        shard(str(tmp_path / "hub"), str(out))


def test_every_flag_of_the_fields_reaches_the_packing(tmp_path, capsys):
    (tmp_path / "x.wav").write_bytes(recording(1))
    row = {"nr": 7, "text": "Quel bruit? Grün", "gold": 1, "a": "Wind", "b": "Water", "wav": "x.wav", "part": "dev 2"}
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(json.dumps(row | {"nr": n, "why": "?"}, ensure_ascii=False) for n in (7, 8)), "cp1252")
    columns = ["id=nr", "question=text", "answer=gold", "choices=a,b", "audio_path=wav", "split=part"]
    how = ["--constant", "source_dataset=lab", "--answer", "index", "--keep", "reason=why", "--encoding", "cp1252"]
    out = str(tmp_path / "out")
    main(["shard", str(path), out, "--column", *columns, *how, "--split-map", "dev 2=val", "--workers", "1"])
    reader = ShardReader(tmp_path / "out" / "index.arrow")
    asked = reader.question(reader.row_of("lab/7"))
    assert (asked.question, asked.choices, asked.answer, asked.split) == (
        row["text"],
        ("Wind", "Water"),
        "Water",
        "val",
    )
    assert dict(asked.columns) == {"reason": "?"}
    assert capsys.readouterr().err.startswith("next: earwitness inspect ")
