"""Shards are ordinary tars; the index accepts whole and clean ones only; the reader returns what was indexed."""

import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import webdataset as wds
import xxhash

from earwitness.curriculum.table import read_arrow
from earwitness.datamodules.audio.waves import flac_bytes
from earwitness.datamodules.shards.index import build_index
from earwitness.datamodules.shards.packing import shard
from earwitness.datamodules.shards.reader import ShardReader
from earwitness.datamodules.shards.tar import walk_tar
from earwitness.errors import InputError


def sound(number: int, samples: int = 1_600) -> np.ndarray:
    return np.random.default_rng(number).integers(-9_999, 9_999, samples).astype(np.float32) / 2**15


def record(number: int, **more) -> dict:
    question = {"source_dataset": "s", "id": str(number), "question": f"Nº {number}?", "answer": "a"}
    return question | {"choices": ["a", "b"], **more}


def text(*numbers: int) -> bytes:
    return json.dumps({"questions": [record(n) for n in numbers]}).encode()


def pack(path: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def good(key: str, number: int) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    return (f"{key}.json", text(number)), (f"{key}.flac", flac_bytes(sound(number)))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Seven questions on five recordings: two and two of them share one."""
    clips = [0, 1, 2, 2, 3, 4, 4]
    for clip in set(clips):
        soundfile.write(tmp_path / f"{clip}.wav", sound(clip, 1_600 + 160 * clip), 16_000, subtype="PCM_16")
    lines = [json.dumps(record(n, audio_path=f"{clip}.wav", split="val")) for n, clip in enumerate(clips)]
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_shards_are_plain_webdataset_and_hold_everything_once(corpus):
    counts = shard(str(corpus / "q.jsonl"), str(corpus / "out"), samples_per_shard=2)
    tars = sorted((corpus / "out").glob("*.tar"))
    assert [t.name for t in tars] == ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]
    hours = round(sum(1_600 + 160 * n for n in range(5)) / 16_000 / 3_600, 3)
    assert counts == {"questions": 7, "clips": 5, "hours": hours, "members": 10, "indexed": 10, "shards": 3}
    heard = {}
    for sample in wds.WebDataset([str(t) for t in tars], shardshuffle=False):
        content = json.loads(sample["json"])
        heard[content["audio_path"]] = [q["id"] for q in content["questions"]]
        wave, rate = soundfile.read(io.BytesIO(sample["flac"]), dtype="float32")
        number = int(content["audio_path"][0])
        assert rate == 16_000 and np.array_equal(wave, sound(number, 1_600 + 160 * number))
    assert heard == {"0.wav": ["0"], "1.wav": ["1"], "2.wav": ["2", "3"], "3.wav": ["4"], "4.wav": ["5", "6"]}
    for path in tars:
        with tarfile.open(path) as tar:
            extensions = [name.rpartition(".")[2] for name in tar.getnames()]
        assert extensions == ["json", "flac"] * (len(extensions) // 2)


def test_the_bytes_depend_on_the_questions_alone(corpus):
    lines = (corpus / "q.jsonl").read_text().splitlines()
    (corpus / "other.jsonl").write_text("\n".join([*lines[4:], *lines[:4]]))  # keeps the order within each recording
    for source, out in (("q", "a"), ("q", "b"), ("other", "c"), ("q", "c")):
        shard(str(corpus / f"{source}.jsonl"), str(corpus / out), samples_per_shard=3)
        for first in (corpus / "a").iterdir():
            if first.name == "packing.arrow":  # remembers the files that it was made of
                continue
            assert (corpus / out / first.name).read_bytes() == first.read_bytes(), (source, out, first.name)


def test_fewer_shards_leave_none_of_the_old_ones(corpus):
    shard(str(corpus / "q.jsonl"), str(corpus / "out"), samples_per_shard=1)
    shard(str(corpus / "q.jsonl"), str(corpus / "out"), samples_per_shard=4)
    made = ["index.arrow", "packing.arrow", "packing.json", "shard-000000.tar", "shard-000001.tar"]
    assert sorted(os.listdir(corpus / "out")) == made


def test_louder_than_full_scale_is_scaled_not_clipped():
    loud = 4 * sound(0)
    back, _ = soundfile.read(io.BytesIO(flac_bytes(loud)), dtype="float32")
    np.testing.assert_allclose(back, loud / np.abs(loud).max(), rtol=0, atol=2**-15)


@pytest.mark.parametrize("path", ["/etc/hostname", "../x.wav", "a/../../x.wav"])
def test_audio_paths_stay_in_their_folder(tmp_path, path):
    (tmp_path / "q.jsonl").write_text(json.dumps(record(1, audio_path=path)))
    with pytest.raises(InputError, match=r"^s/1: audio_path .* must be relative and stay in"):
        shard(str(tmp_path / "q.jsonl"), str(tmp_path / "out"))


def test_the_index_rows_add_up(corpus):
    out = corpus / "out"
    shard(str(corpus / "q.jsonl"), str(out), samples_per_shard=2)
    rows = read_arrow(out / "index.arrow").to_pylist()
    members = {(t.name, m.offset): m for t in out.glob("*.tar") for m in walk_tar(t)}
    seen = set()
    for row in rows:
        data = {}
        for part, extension in (("json", "json"), ("audio", "flac")):
            member = members[row["shard"], row[f"{part}_offset"]]
            assert (member.extension, member.size) == (extension, row[f"{part}_size"])
            data[part] = (out / row["shard"]).read_bytes()[member.offset : member.offset + member.size]
            seen.add((row["shard"], member.offset))
        content = json.loads(data["json"])
        question = content["questions"][row["question_no"]]
        clip = int(content["audio_path"][0])
        assert row["key"] == f"s/{question['id']}" and (row["source"], row["split"]) == ("s", "val")
        assert (row["num_samples"], row["num_choices"]) == (1_600 + 160 * clip, 2)
        assert row["duration_s"] == np.float32(row["num_samples"] / 16_000)
        assert row["clip"] == xxhash.xxh3_64_intdigest(data["audio"]) and row["audio_ext"] == "flac"
    assert seen == set(members), "every member belongs to a row"
    assert len(rows) == len({row["uid"] for row in rows}) == 7
    clip_of = {row["key"]: row["clip"] for row in rows}
    assert clip_of["s/2"] == clip_of["s/3"] and clip_of["s/5"] == clip_of["s/6"] and len(set(clip_of.values())) == 5


A, B = good("a", 1), good("b", 2)
FAULTS = {
    "no json": ([A[1], *B], r"x\.tar:a: a sample is one \.json and one recording, got \['a\.flac'\]"),
    "no audio": ([*A, B[0]], r"x\.tar:b: a sample is one \.json and one recording, got \['b\.json'\]"),
    "two recordings": ([*A, ("a.wav", b"x")], r"x\.tar:a: a sample is one .*'a\.wav'\]"),
    "two texts": ([A[0], *A], r"x\.tar:a: a sample is one .*'a\.json', 'a\.json', 'a\.flac'\]"),
    "interleaved": ([A[0], B[0], A[1], B[1]], r"x\.tar:a: a sample is one .*got \['a\.json'\]"),
    "apart": ([*A, *B, *A], r"x\.tar: members of sample 'a' do not stand together"),
    "a question twice": ([*A, ("b.json", text(1)), B[1]], r"x\.tar:s/1: this question is already in .*x\.tar:s/1"),
    "other members": ([*A, ("a.txt", b"x")], r"x\.tar:a: member type \.txt is not read"),
    "dots in names": (
        [("a.1.json", text(1)), ("a.1.flac", A[1][1])],
        r"x\.tar:a: 'a\.1\.json' has a dot in its name: ",
    ),
    "no json text": ([("a.json", b"{"), A[1]], r"x\.tar:a\.json: not JSON"),
    "a json list": ([("a.json", b"[]"), A[1]], r"x\.tar:a\.json: must be a question, a list"),
    "no questions": ([("a.json", b'{"questions": []}'), A[1]], r"x\.tar:a\.json: must be a question, "),
    "a bad question": ([("a.json", text(1).replace(b'"a", "b"', b'"a"')), A[1]], r"x\.tar:a\.json \(s/1\): choices"),
    "a deep json": ([("a.json", b"[" * 100_000), A[1]], r"x\.tar:a\.json: not JSON"),
    "a long json": ([("a.json", b" " * (1 << 20) + text(1)), A[1]], r"x\.tar:a\.json: \d+ bytes is more than"),
    "bad audio": ([A[0], ("a.flac", A[1][1][:500])], r"x\.tar:a\.flac: not a readable recording"),
    "nothing": ([], "the shards hold no question"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_an_index_refuses(tmp_path, name):
    members, says = FAULTS[name]
    pack(tmp_path / "x.tar", *members)
    with pytest.raises(InputError, match=says):
        build_index(str(tmp_path))
    assert os.listdir(tmp_path) == ["x.tar"], "nothing is written, and nothing extracted"


def test_a_question_in_two_shards_is_refused_with_both(tmp_path):
    pack(tmp_path / "1.tar", *good("a", 1))
    pack(tmp_path / "2.tar", *good("b", 2), ("c.json", text(1)), good("c", 3)[1])
    with pytest.raises(InputError, match=r"2\.tar:s/1: this question is already in .*1\.tar:s/1$"):
        build_index(str(tmp_path))


class _Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("extension", ["pkl", "pickle", "pyd", "pth", "npy", "json.pkl", "PKL"])
def test_a_pickle_is_refused_unread(tmp_path, extension):
    marker = tmp_path / "executed"
    bomb = pickle.dumps(_Payload(marker))
    pickle.loads(bomb)  # the payload is alive ...
    marker.rmdir()
    pack(tmp_path / "x.tar", *good("a", 1), (f"a.{extension}", bomb))
    with pytest.raises(InputError, match=rf"x\.tar:a: member type \.{extension.lower()} is not read"):
        build_index(str(tmp_path))
    assert os.listdir(tmp_path) == ["x.tar"]  # ... and nobody loaded it


def test_an_index_can_be_of_one_tar_and_lie_elsewhere(tmp_path):
    tar = pack(tmp_path / "x.tar", *good("a", 1), *good("b", 2))
    pack(tmp_path / "y.tar", *good("c", 3))
    build_index(str(tar))
    build_index(str(tmp_path), str(tmp_path / "all.arrow"))
    assert [len(ShardReader(tmp_path / name)) for name in ("index.arrow", "all.arrow")] == [2, 3]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: no \*\.tar to index there$"):
        build_index(str(tmp_path / "empty"))


# Reading back.


@pytest.fixture
def reader(tmp_path: Path) -> ShardReader:
    """Rows 0 and 1 in a.tar, row 2 in b.tar; the question of row i is s/i, its recording sound(i)."""
    pack(tmp_path / "a.tar", *good("a", 0), *good("b", 1))
    pack(tmp_path / "b.tar", *good("c", 2))
    build_index(str(tmp_path))
    return ShardReader(tmp_path / "index.arrow")


def same(reader: ShardReader, *rows: int) -> bool:
    return all(reader.question(r).id == str(r) and np.array_equal(reader.wave(r), sound(r)) for r in rows)


def test_every_row_reads_back_in_any_order_also_from_a_pickled_reader(reader):
    assert len(reader) == 3 and same(reader, 2, 0, 1, 0)
    assert same(pickle.loads(pickle.dumps(reader)), 1, 2, 0)
    reader.close()
    assert same(reader, 0, 1, 2)
    assert len({reader.clip(r) for r in range(3)}) == 3 and reader.uid(1) == reader.question(1).uid


def test_a_missing_shard_is_named(reader, tmp_path):
    (tmp_path / "b.tar").unlink()
    assert same(reader, 0, 1)
    with pytest.raises(InputError, match=rf"^{tmp_path}/b\.tar: the shard is missing \(No such file or directory\)"):
        reader.wave(2)


def test_a_changed_recording_fails_its_checksum(reader, tmp_path):
    data = bytearray((tmp_path / "a.tar").read_bytes())
    member = next(m for m in walk_tar(tmp_path / "a.tar") if m.name == "b.flac")
    data[member.offset + member.size - 1] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    assert same(reader, 0)
    with pytest.raises(InputError, match=r"a\.tar@\d+: the recording changed since it was indexed \(checksum\)"):
        reader.wave(1)


def test_a_shard_packed_anew_is_noticed(reader, tmp_path):
    pack(tmp_path / "a.tar", *good("b", 1), *good("a", 0))
    for row in (0, 1):
        with pytest.raises(InputError, match=r"a\.tar@\d+: holds s/\d; the index expects s/\d; re-index the shard"):
            reader.question(row)
        with pytest.raises(InputError, match="checksum"):
            reader.wave(row)


def test_a_shard_cut_off_after_indexing_is_noticed(reader, tmp_path):
    os.truncate(tmp_path / "b.tar", 600)  # within the text
    for read in (reader.question, reader.wave):
        with pytest.raises(InputError, match=r"b\.tar: has 600 bytes, \d+ when it was indexed; re-index the shard$"):
            read(2)


def test_a_sample_that_lost_a_question_is_noticed(tmp_path):
    _, recording = good("a", 1)
    pack(tmp_path / "x.tar", ("a.json", text(1, 2)), recording)
    build_index(str(tmp_path))
    pack(tmp_path / "x.tar", ("a.json", text(1).ljust(len(text(1, 2)))), recording)
    with pytest.raises(InputError, match=r"x\.tar@"):
        ShardReader(tmp_path / "index.arrow").question(1)


def test_a_forked_reader_opens_its_own_files(reader, tmp_path):
    """In the child every inherited descriptor comes to mean another file, as it may once the child has closed it."""
    assert same(reader, 0, 1, 2)
    (tmp_path / "junk").write_bytes(b"x" * 100_000)
    child = os.fork()
    if not child:
        try:
            junk = os.open(tmp_path / "junk", os.O_RDONLY)
            for descriptor in range(3, 64):
                os.dup2(junk, descriptor)
            os._exit(0 if same(reader, 0, 1, 2) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert same(reader, 0, 1, 2)
