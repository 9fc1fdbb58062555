"""What is wrong in a shard is found when it is indexed, named, and left out alone; everything else is indexed."""

import gzip
import io
import json
import os
import pickle
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import yaml

from earwitness.curriculum.table import read_arrow, write_arrow
from earwitness.datamodules.audio.mp3 import frame_at
from earwitness.datamodules.shards.index import SCHEMA, build_index, read_index, write_index
from earwitness.datamodules.shards.reader import ShardReader
from earwitness.datamodules.shards.scan import clip_of
from earwitness.datamodules.shards.tar import walk_tar
from earwitness.errors import InputError
from earwitness.tests.datamodules.shards.test_index import good, pack, record, sound, text

A, B, C, D = good("a", 1), good("b", 2), good("c", 3), good("d", 4)
BLOCK = 512


def indexed(folder: Path) -> list[str]:
    """Keys of the questions in the index, in its order."""
    return read_arrow(folder / "index.arrow").column("key").to_pylist()


def left_out(folder: Path) -> list[dict]:
    """The lines of the quarantine report."""
    path = folder / "index.quarantine.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def quarantined(folder: Path, **how) -> dict:
    """Indexes the folder and checks that every member, as tarfile counts them, is accounted for once."""
    counts = build_index(str(folder), on_bad="quarantine", **how)
    assert counts["members"] == counts["indexed"] + counts.get("ignored", 0) + counts.get("quarantined", 0)
    assert counts.get("quarantined", 0) == sum(len(fault["members"]) for fault in left_out(folder))
    assert counts.get("bad_questions", 0) == sum(bool(fault["question"]) for fault in left_out(folder))
    assert counts["questions"] == len(indexed(folder))
    return counts


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# Shards as such.


def test_shards_of_no_one_and_many_samples_are_indexed_and_only_the_empty_one_is_warned_of(tmp_path, capsys):
    numbers = iter(range(1_000))
    for name, count in (("many", 60), ("none", 0), ("one", 1)):
        pack(tmp_path / f"{name}.tar", *(m for n in (next(numbers) for _ in range(count)) for m in good(str(n), n)))
    counts = build_index(str(tmp_path))
    assert (counts["questions"], counts["members"], counts["indexed"]) == (61, 122, 122)
    assert read_arrow(tmp_path / "index.arrow").column("shard").to_pylist() == ["many.tar"] * 60 + ["one.tar"]
    assert capsys.readouterr().err == f"warning: {tmp_path}/none.tar holds no sample\n"
    ShardReader(tmp_path / "index.arrow").files.check()


NO_TAR = {
    "nothing": b"",
    "one block": b"\0" * BLOCK,
    "odd": b"x" * 1_000,
    "letters": b"x" * 10_240,
    "noise": np.random.default_rng(0).bytes(10_240),
}


@pytest.mark.parametrize("what", NO_TAR)
def test_what_is_no_tar_is_an_error_that_names_it_or_left_out_whole(tmp_path, capsys, what):
    pack(tmp_path / "good.tar", *A)
    (tmp_path / "bad.tar").write_bytes(NO_TAR[what])
    with pytest.raises(InputError, match=rf"^{tmp_path}/bad\.tar: "):
        build_index(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["bad.tar", "good.tar"]
    counts = quarantined(tmp_path)
    assert (counts["damaged_shards"], counts["quarantined"], indexed(tmp_path)) == (1, 0, ["s/1"])
    assert [(fault["shard"], fault["members"]) for fault in left_out(tmp_path)] == [("bad.tar", [])]
    assert capsys.readouterr().err == "", "it is not called empty"


def test_a_damaged_shard_may_go_away_after_the_others_were_indexed(tmp_path):
    pack(tmp_path / "good.tar", *A)
    (tmp_path / "bad.tar").write_bytes(b"")
    quarantined(tmp_path)
    (tmp_path / "bad.tar").unlink()
    ShardReader(tmp_path / "index.arrow").files.check()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
@pytest.mark.timeout(60)
def test_what_is_named_like_a_shard_and_is_no_file_stops_also_the_forgiving(tmp_path, make):
    """Opening a pipe would wait for ever; and a shard that is missing is no fault of its content."""
    pack(tmp_path / "good.tar", *A)
    make(tmp_path / "x.tar")
    with pytest.raises(InputError, match=rf"^{tmp_path}/x\.tar: no such shard$"):
        build_index(str(tmp_path), on_bad="quarantine")


def test_a_shard_name_that_is_no_text_is_refused(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.tar"
    os.rename(pack(tmp_path / "x.tar", *A), path)
    with pytest.raises(InputError, match=r"^shard name 'caf\\udce9\.tar' is not UTF-8 or holds"):
        build_index(str(tmp_path))


def test_shards_in_a_folder_whose_name_is_no_text_are_indexed_elsewhere(tmp_path):
    """Arrow cannot write there; the report, which names that folder, is still JSON."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    pack(folder / "x.tar", *A, B[0])
    with pytest.raises(InputError, match=r"caf\\udce9/index\.arrow': the index is an Arrow file; give `out` a path"):
        build_index(str(folder))
    build_index(str(folder), str(tmp_path / "index.arrow"), on_bad="quarantine")
    (fault,) = left_out(tmp_path)
    assert fault["reason"].startswith(f"{folder}/x.tar:b: a sample is one .json and one recording")
    assert ShardReader(tmp_path / "index.arrow").question(0).id == "1"


def test_an_index_is_not_written_over_a_folder_nor_as_another_kind_of_table(tmp_path):
    pack(tmp_path / "x.tar", *A)
    for out in (tmp_path, tmp_path / "index.parquet"):
        with pytest.raises(InputError, match=rf"^'{out}': the index is an Arrow file; give `out` a path"):
            build_index(str(tmp_path), str(out))


# Archives that were cut off or changed.


def cut(data: bytes, members: list, where: str) -> bytes:
    """A tar of three samples, cut off: contents start 512 bytes before the offset of the header behind them."""
    if where == "no end mark":
        return data[: members[-1].offset + -(-members[-1].size // BLOCK) * BLOCK]
    if where == "half an end mark":
        return cut(data, members, "no end mark") + b"\0" * BLOCK
    if where == "between members":
        return data[: members[3].offset - BLOCK]
    if where == "between samples":
        return data[: members[4].offset - BLOCK]
    return data[: members[3].offset + 100 + (where == "within a member on a block") * (BLOCK - 100)]


@pytest.mark.parametrize(
    ("where", "reached"),
    [
        ("within a member", 0),
        ("within a member on a block", 3),
        ("between members", 3),
        ("between samples", 4),
        ("no end mark", 6),
        ("half an end mark", 6),
    ],
)
def test_a_shard_cut_off_before_indexing_is_refused_and_left_out_whole(tmp_path, where, reached):
    """Of six members the walk reaches those before the cut; none is used, all that were reached are reported.

    A length that is no multiple of 512 bytes is refused before the walk.
    """
    path = pack(tmp_path / "cut.tar", *A, *B, *C)
    members = list(walk_tar(path))
    path.write_bytes(cut(path.read_bytes(), members, where))
    pack(tmp_path / "good.tar", *D)
    with pytest.raises(InputError, match=rf"^{tmp_path}/cut\.tar: "):
        build_index(str(tmp_path))
    counts = quarantined(tmp_path)
    assert (counts["damaged_shards"], counts["quarantined"], counts["indexed"]) == (1, reached, 2)
    (fault,) = left_out(tmp_path)
    assert fault["members"] == [m.name for m in members[:reached]] and fault["shard"] == "cut.tar"
    assert indexed(tmp_path) == ["s/4"]


@pytest.mark.parametrize("extra", [b"x", b"\0" * 10_240], ids=["a byte", "zeros"])
def test_a_shard_that_grew_after_indexing_is_noticed(tmp_path, extra):
    path = pack(tmp_path / "x.tar", *A)
    build_index(str(tmp_path))
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + extra)
    reader = ShardReader(tmp_path / "index.arrow")
    for read in (reader.question, reader.wave):
        with pytest.raises(InputError, match=rf"x\.tar: has {size + len(extra)} bytes, {size} when it was indexed"):
            read(0)


# Samples that are none.

BAD_TEXT = json.dumps({"questions": [record(1), record(5, answer="rain"), record(6)]}).encode()
LOST = ["text at *", "recording at *"]  # of a sample that is right in itself
SAMPLES: dict[str, tuple[list, list[list[str]], list[str]]] = {
    # members; members of each fault; questions that are indexed
    "no json": ([A[1], *B], [["a.flac"]], ["s/2"]),
    "no recording": ([*A, B[0]], [["b.json"]], ["s/1"]),
    "two recordings": ([*A, ("a.wav", b"x")], [["a.json", "a.flac", "a.wav"]], []),
    "two texts": ([A[0], *A], [["a.json", "a.json", "a.flac"]], []),
    "interleaved": ([A[0], B[0], A[1], B[1]], [["a.json"], ["b.json"], ["a.flac"], ["b.flac"]], []),
    "a sample apart": ([*A, *B, *good("a", 7)], [["a.json", "a.flac"]], ["s/1", "s/2"]),
    "a question twice": ([*A, ("b.json", text(1)), B[1]], [[], LOST], ["s/1"]),
    "one of two questions twice": ([*A, ("b.json", text(1, 2)), B[1]], [[]], ["s/1", "s/2"]),
    "a question twice in one text": ([("a.json", text(1, 1)), A[1]], [[]], ["s/1"]),
    "other members": ([*A, ("a.cls", b"7")], [["a.json", "a.flac", "a.cls"]], []),
    "a dot in the name": ([("a.1.json", text(1)), ("a.1.flac", A[1][1])], [["a.1.json", "a.1.flac"]], []),
    "a dot in the folder": ([("v1.5/a.json", text(1)), ("v1.5/a.flac", A[1][1])], [], ["s/1"]),
    "upper case endings": ([("a.JSON", text(1)), ("a.Flac", A[1][1])], [], ["s/1"]),
    "keys that differ in case": ([A[0], ("A.flac", A[1][1])], [["a.json"], ["A.flac"]], []),
    "one key in two folders": (
        [("x/a.json", text(1)), ("x/a.flac", A[1][1]), *good("y/a", 2)],
        [],
        ["s/1", "s/2"],
    ),
    "recording first": ([A[1], A[0]], [], ["s/1"]),
    "a bad question among good ones": ([("a.json", BAD_TEXT), A[1]], [[]], ["s/1", "s/6"]),
    "only bad questions": ([("a.json", BAD_TEXT.replace(b'"a", "b"', b'"a"')), A[1]], [["a.json", "a.flac"]], []),
    "a bad recording": ([A[0], ("a.flac", A[1][1][:500])], [["a.json", "a.flac"]], []),
    "a bad question and a bad recording": ([("a.json", BAD_TEXT), ("a.flac", b"x")], [["a.json", "a.flac"]], []),
    "no text": ([("a.json", b"\xff\xfe\x00"), A[1]], [["a.json", "a.flac"]], []),
    "an empty text": ([("a.json", b""), A[1]], [["a.json", "a.flac"]], []),
    "an empty recording": ([A[0], ("a.flac", b"")], [["a.json", "a.flac"]], []),
    "no key": ([(".json", text(1)), (".flac", A[1][1])], [], ["s/1"]),
}


def masked(names: Iterable[str]) -> list[str]:
    return [name.rpartition(" ")[0] + " *" if " at " in name else name for name in names]


@pytest.mark.parametrize("name", SAMPLES)
def test_what_is_wrong_is_left_out_alone(tmp_path, name):
    """One good sample stands before and one behind; neither is lost, and both read back."""
    members, lost, kept = SAMPLES[name]
    pack(tmp_path / "x.tar", *good("first", 98), *members, *good("last", 99))
    if lost:
        with pytest.raises(InputError, match=r"x\.tar:(s/|.*)"):
            build_index(str(tmp_path))
    else:
        assert build_index(str(tmp_path))["indexed"] == 4 + len(members)
    counts = quarantined(tmp_path)
    assert counts["members"] == 4 + len(members)
    assert [masked(fault["members"]) for fault in left_out(tmp_path)] == lost
    assert indexed(tmp_path) == ["s/98", *kept, "s/99"]
    reader = ShardReader(tmp_path / "index.arrow")
    assert [reader.question(row).key for row in range(len(reader))] == indexed(tmp_path)
    assert np.array_equal(reader.wave(len(reader) - 1), sound(99))


def test_a_bad_question_is_named_by_its_sample_and_number_and_the_others_keep_theirs(tmp_path):
    pack(tmp_path / "x.tar", ("a.json", BAD_TEXT), A[1])
    counts = quarantined(tmp_path)
    assert (counts["questions"], counts["clips"], counts["bad_questions"], counts["quarantined"]) == (2, 1, 1, 0)
    (fault,) = left_out(tmp_path)
    assert (fault["shard"], fault["sample"], fault["question"]) == ("x.tar", "a", "question 1")
    assert fault["reason"] == f"{tmp_path}/x.tar:a.json (s/5): answer 'rain' is not among the choices ['a', 'b']"
    assert read_arrow(tmp_path / "index.arrow").column("question_no").to_pylist() == [0, 2]


def test_a_question_in_a_second_shard_is_left_out_there(tmp_path):
    pack(tmp_path / "1.tar", *A, *B)
    pack(tmp_path / "2.tar", ("a.json", text(1)), good("a", 9)[1], *C)  # the key `a` may come again, the question not
    counts = quarantined(tmp_path)
    assert (counts["indexed"], counts["quarantined"], counts["bad_questions"]) == (6, 2, 1)
    twice, lost = left_out(tmp_path)
    assert twice["reason"] == f"{tmp_path}/2.tar:s/1: this question is already in {tmp_path}/1.tar:s/1"
    assert (lost["shard"], len(lost["members"])) == ("2.tar", 2)
    assert indexed(tmp_path) == ["s/1", "s/2", "s/3"]


def everything_wrong(folder: Path) -> None:
    """All of the faults above in one folder: each in a shard, with other numbers; a cut one and an empty one too."""
    for place, name in enumerate(SAMPLES):
        pack(folder / f"{place:02}.tar", *SAMPLES[name][0], *good("last", 100 + place))
    path = pack(folder / "x.tar", *good("e", 200), *good("f", 201))
    os.truncate(path, 2 * BLOCK)
    (folder / "y.tar").write_bytes(b"")
    pack(folder / "z.tar", *good("g", 202), ("g.txt", b"x"), ("h.txt", b"x"))


def test_two_processes_find_the_same_and_in_the_same_order(tmp_path):
    counts = []
    for workers in (1, 2):
        (tmp_path / "same").mkdir()
        everything_wrong(tmp_path / "same")
        counts.append(quarantined(tmp_path / "same", workers=workers, ignore=["txt"]))
        (tmp_path / "same").rename(tmp_path / str(workers))
    assert counts[0] == counts[1] and counts[0]["damaged_shards"] == 2 and counts[0]["ignored"] == 2
    assert files(tmp_path / "1") == files(tmp_path / "2")


def test_a_repaired_shard_takes_its_report_with_it(tmp_path):
    pack(tmp_path / "x.tar", *A, B[0])
    quarantined(tmp_path)
    pack(tmp_path / "x.tar", *A, *B)
    quarantined(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["index.arrow", "x.tar"]


def test_ignored_members_are_counted_as_such_whatever_their_case(tmp_path):
    pack(tmp_path / "x.tar", A[0], ("a.txt", b"x"), A[1], ("b.CLS", b"x"), *B, ("c.txt", b"x"))
    counts = quarantined(tmp_path, ignore=["TXT", "cls"])
    assert (counts["members"], counts["indexed"], counts["ignored"]) == (7, 4, 3)
    assert "quarantined" not in counts and indexed(tmp_path) == ["s/1", "s/2"]


def test_an_index_of_nothing_but_faults_is_none(tmp_path):
    pack(tmp_path / "x.tar", A[0])
    with pytest.raises(InputError, match="the shards hold no question that can be used$"):
        build_index(str(tmp_path), on_bad="quarantine")
    with pytest.raises(InputError, match=r"^on_bad must be 'stop' or 'quarantine', got 'skip'$"):
        build_index(str(tmp_path), on_bad="skip")


# Recordings.

KINDS = {
    "flac": ("FLAC", "PCM_16"),
    "mp3": ("MP3", None),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "wav": ("WAV", "PCM_16"),
    "float": ("WAV", "FLOAT"),
}
DAMAGE = ("cut", "flipped", "headless", "silent", "nan")
# What nobody can see before decoding, and what not even then: these formats have no checksum, or the decoder does not
# look at it. Once a recording is indexed its own checksum tells.
# An mp3 without its first frames is one that begins later, as those that were recorded from a stream do.
UNSEEN_IN_HEADERS = {("flac", "flipped"), ("mp3", "headless"), ("wav", "flipped"), ("float", "flipped")}
UNSEEN_DECODED = UNSEEN_IN_HEADERS - {("flac", "flipped")}


def encoded(wave: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    form, subtype = KINDS[kind]
    soundfile.write(buffer, wave, 16_000, format=form, subtype=subtype)
    return buffer.getvalue()


def damaged(data: bytes, kind: str, how: str) -> bytes:
    """`flipped` are 20 bytes from the middle half, evenly; of a float wav none that holds an exponent."""
    if how == "cut":
        return data[: len(data) // 2]
    if how == "headless":
        return data[16:]
    if how == "silent":
        return encoded(np.zeros(0), kind)
    changed = bytearray(data)
    if how == "flipped":
        for step in range(20):
            changed[len(data) // 4 + step * (len(data) // 40)] ^= 0xFF
    else:
        changed[-400:-396] = np.float32(np.nan).tobytes()
    return bytes(changed)


CASES = [(kind, how) for kind in KINDS for how in DAMAGE if how != "nan" or kind == "float"]


@pytest.fixture(scope="module")
def recordings() -> dict[str, bytes]:
    wave = 0.1 * np.random.default_rng(5).normal(size=32_000)
    return {kind: encoded(wave, kind) for kind in KINDS}


@pytest.mark.parametrize(("kind", "how"), CASES)
def test_damage_before_indexing_is_refused_as_far_as_it_can_be_seen(tmp_path, recordings, kind, how):
    extension = {"vorbis": "ogg", "float": "wav"}.get(kind, kind)
    pack(tmp_path / "x.tar", *A, ("z.json", text(9)), (f"z.{extension}", damaged(recordings[kind], kind, how)))
    for decode, unseen in ((False, UNSEEN_IN_HEADERS), (True, UNSEEN_DECODED)):
        if (kind, how) in unseen:
            build_index(str(tmp_path), decode=decode)
            assert ShardReader(tmp_path / "index.arrow").num_samples(1) == (32_000 if kind != "mp3" else 33_408)
        else:
            with pytest.raises(InputError, match=rf"^{tmp_path}/x\.tar:z\.{extension}: "):
                build_index(str(tmp_path), decode=decode)
            assert quarantined(tmp_path, decode=decode)["quarantined"] == 2 and indexed(tmp_path) == ["s/1"]


@pytest.mark.parametrize(("kind", "how"), CASES)
def test_damage_after_indexing_is_always_refused(tmp_path, recordings, kind, how):
    """The shard keeps its size, as on a failing disk: what is shorter now has zeros behind it."""
    extension = {"vorbis": "ogg", "float": "wav"}.get(kind, kind)
    data = recordings[kind]
    path = pack(tmp_path / "x.tar", ("z.json", text(9)), (f"z.{extension}", data))
    build_index(str(tmp_path))
    offset = list(walk_tar(path))[1].offset
    whole = path.read_bytes()
    path.write_bytes(whole[:offset] + damaged(data, kind, how).ljust(len(data), b"\0") + whole[offset + len(data) :])
    with pytest.raises(InputError, match=r"x\.tar@\d+: the recording changed since it was indexed \(checksum\)"):
        ShardReader(tmp_path / "index.arrow").wave(0)


@pytest.mark.parametrize("decode", [False, True])
def test_an_mp3_without_a_count_that_was_cut_between_two_frames_is_not_seen(tmp_path, recordings, decode):
    """A hole that cannot be closed: frames of an mp3 stand for themselves. The first one says how many there are."""
    data = recordings["mp3"]
    second = data.index(data[:3], 100)  # frames begin alike
    assert b"Xing" in data[:second] or b"Info" in data[:second]
    bare = data[second:]
    pack(tmp_path / "x.tar", A[0], ("a.mp3", bare[: len(bare) // 2]))
    with pytest.raises(InputError, match="the mp3 file is cut off; its last frame is not whole"):
        build_index(str(tmp_path), decode=decode)
    end = 0
    while end < len(bare) // 2:
        end += frame_at(bare, end).size
    pack(tmp_path / "x.tar", A[0], ("a.mp3", bare[:end]))
    build_index(str(tmp_path), decode=decode)
    assert ShardReader(tmp_path / "index.arrow").num_samples(0) < 17_000


def test_recordings_of_every_kind_are_as_long_in_the_index_as_decoded(tmp_path, recordings):
    members = []
    for number, (kind, data) in enumerate(recordings.items()):
        members += [(f"{number}.json", text(number)), (f"{number}.{KINDS[kind][0].lower()}", data)]
    pack(tmp_path / "x.tar", *members)
    build_index(str(tmp_path))
    without = read_arrow(tmp_path / "index.arrow")
    build_index(str(tmp_path), decode=True)
    measured = read_arrow(tmp_path / "index.arrow")
    assert without.select(SCHEMA.names).equals(measured.select(SCHEMA.names))
    assert without.column("rms_db").null_count == 3 and measured.column("rms_db").null_count == 0  # flac and wavs
    reader = ShardReader(tmp_path / "index.arrow")
    assert [len(reader.wave(row)) for row in range(6)] == [32_000] * 6


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize(
    ("wave", "subtype", "says"),
    [
        (np.full(800, np.inf), "FLOAT", "800 of 800 samples are NaN or infinite"),
        (np.full(800, 9_000.0), "FLOAT", "peak 9000; float recordings lie within about -1 to 1"),
        (np.zeros(399), "PCM_16", "399 samples at 16 kHz is too short"),
        (np.zeros(300 * 16_000 + 1), "PCM_U8", "300 s is too long, at most 300 s are taken"),
        (np.zeros((800, 17)), "PCM_16", "17 channels; a recording has at most 16"),
    ],
    ids=["infinite", "integers", "short", "long", "17 channels"],
)
def test_a_recording_out_of_bounds_never_comes_into_an_index(tmp_path, wave, subtype, says, decode):
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, 16_000, format="WAV", subtype=subtype)
    pack(tmp_path / "x.tar", A[0], ("a.wav", buffer.getvalue()))
    with pytest.raises(InputError, match=rf"^{tmp_path}/x\.tar:a\.wav: {says}"):
        build_index(str(tmp_path), decode=decode)


# What a stranger may put into an archive.


class _Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def payloads(marker: Path) -> dict[str, bytes]:
    """Files that do something when the usual library opens them; each is shown to be alive where it is used."""
    thing, array = pickle.dumps(_Payload(marker)), io.BytesIO()
    np.savez(array, x=np.array([_Payload(marker)], object))
    single = io.BytesIO()
    np.save(single, np.array([_Payload(marker)], object))
    script = f"!!python/object/apply:os.mkdir [{str(marker)!r}]\n".encode()
    return {"pkl": thing, "npz": array.getvalue(), "npy": single.getvalue(), "yaml": script, "gz": gzip.compress(thing)}


ALIVE = {
    "pkl": pickle.loads,
    "npz": lambda data: np.load(io.BytesIO(data), allow_pickle=True)["x"],
    "npy": lambda data: np.load(io.BytesIO(data), allow_pickle=True),
    "yaml": lambda data: yaml.unsafe_load(data),
    "gz": lambda data: pickle.loads(gzip.decompress(data)),
}


@pytest.mark.parametrize("kind", ALIVE)
@pytest.mark.parametrize("name", ["b.{}", "b.json", "b.flac", "b.json.{}"])
def test_a_payload_is_never_opened_under_any_name(tmp_path, kind, name):
    """As a member of its own kind, in the place of a text or of a recording, and where its kind is to be ignored."""
    marker, folder = tmp_path / "executed", tmp_path / "shards"
    data = payloads(marker)[kind]
    ALIVE[kind](data)
    marker.rmdir()
    folder.mkdir()
    name = name.format(kind)
    pack(folder / "x.tar", *A, *(m for m in B if m[0] != name), (name, data))
    with pytest.raises(InputError, match=r"^.*x\.tar:b"):
        build_index(str(folder), decode=True)
    assert quarantined(folder, decode=True)["indexed"] == 2
    if name == f"b.{kind}":
        assert quarantined(folder, decode=True, ignore=[kind])["ignored"] == 1
    reader = ShardReader(folder / "index.arrow")
    reader.question(0), reader.wave(0)
    assert os.listdir(tmp_path) == ["shards"], "nobody executed it"


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
    bomb = gzip.compress(b"\0" * (32 << 20))
    for name in ("a.json", "a.flac"):
        pack(tmp_path / "x.tar", *(m for m in A if m[0] != name), (name, bomb))
        with pytest.raises(InputError, match=r"x\.tar:a\.(json: not JSON|flac: not a readable recording)"):
            build_index(str(tmp_path))
    pack(tmp_path / "x.tar", *A)
    (tmp_path / "x.tar").write_bytes(gzip.compress((tmp_path / "x.tar").read_bytes()))
    with pytest.raises(InputError, match=r"x\.tar: "):
        build_index(str(tmp_path))


def odd_member(name: str, kind: bytes = tarfile.REGTYPE, **more) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in more.items():
        setattr(info, key, value)
    return info


ODD = {
    "up": odd_member("../up.json"),
    "deep up": odd_member("a/../../up.json"),
    "absolute": odd_member("/tmp/earwitness-absolute.json"),
    "soft link": odd_member("b.json", tarfile.SYMTYPE, linkname="/etc/hostname"),
    "hard link": odd_member("b.json", tarfile.LNKTYPE, linkname="a.json"),
    "device": odd_member("b.json", tarfile.CHRTYPE, devmajor=1, devminor=5),
    "pipe": odd_member("b.json", tarfile.FIFOTYPE),
    "sparse": odd_member("b.json", tarfile.GNUTYPE_SPARSE),
    "long name": odd_member("n" * 10_000 + ".json"),
    "size of its own": odd_member("b.json", pax_headers={"size": "1000000000000"}),
    "sparse of its own": odd_member("b.json", pax_headers={"GNU.sparse.realsize": "1000000000000"}),
    "escape codes": odd_member("b\x1b[2J.json"),
    "line break": odd_member("b\nerror: all is well.json"),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_member_spoils_its_archive_and_touches_nothing_outside(tmp_path, kind):
    folder = tmp_path / "in" / "shards"
    folder.mkdir(parents=True)
    pack(folder / "good.tar", *A)
    with tarfile.open(folder / "odd.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in B:
            tar.addfile(odd_member(name, size=len(data)), io.BytesIO(data))
        tar.addfile(ODD[kind])
    before = files(tmp_path)
    with pytest.raises(InputError, match=rf"^{folder}/odd\.tar: ") as error:
        build_index(str(folder))
    assert str(error.value).isprintable(), "it cannot speak to the terminal"
    assert files(tmp_path) == before
    assert quarantined(folder)["damaged_shards"] == 1 and indexed(folder) == ["s/1"]
    assert left_out(folder)[0]["members"] == ["b.json", "b.flac"]
    assert not Path("/tmp/earwitness-absolute.json").exists()
    assert files(tmp_path).keys() - before.keys() == {
        "in/shards/index.arrow",
        "in/shards/index.quarantine.jsonl",
    }


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


BOMBS = {
    "depth": (nested(100_000), "not JSON that can be read"),
    "many keys, the last twice": ("{" + "".join(f'"{n:x}":1,' for n in range(90_000)) + '"0":1}', "'0' occurs twice"),
    "a long number": ('{"questions": [' + "9" * 5_000 + "]}", "not JSON that can be read"),
    "a long text": (json.dumps(record(1, question="x" * 8_001)), "field 'question' must be a non-empty text"),
    "many choices": (json.dumps(record(1, choices=[str(n) for n in range(9_999)])), r"choices must be a list of 2"),
    "NaN": ('{"questions": [NaN]}', "NaN is no JSON number"),
    "infinity": ('{"questions": [-Infinity]}', "-Infinity is no JSON number"),
    "a number without end": ('{"questions": [1e999]}', "a question must be a JSON object, got float"),
    "a key twice": (json.dumps(record(1))[:-1] + ', "answer": "b"}', "the key 'answer' occurs twice"),
    "another answer": (json.dumps(record(1, answer="c")), "answer 'c' is not among the choices"),
    "one choice": (json.dumps(record(1, choices=["a"])), "choices must be a list of 2 to 26"),
    "a choice twice": (json.dumps(record(1, choices=["a", "a"])), "choices occur twice"),
    "choices as a text": (json.dumps(record(1, choices="a,b")), "column choices: not JSON"),
    "half a letter": (json.dumps(record(1, question="\ud83d")), "field 'question' must be a non-empty text"),
    "a line of its own": (json.dumps(record(1, id="1\nerror: no")), "field 'id' must be one line"),
    "an escape code": (json.dumps(record(1, source_dataset="s\x1b[2J")), "field 'source_dataset' must be one line"),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.timeout(60)
def test_a_json_bomb_is_refused_in_one_line(tmp_path, name):
    data, says = BOMBS[name]
    pack(tmp_path / "x.tar", *B, ("a.json", data.encode("utf-8", "surrogatepass")), A[1])
    with pytest.raises(InputError, match=rf"^{tmp_path}/x\.tar:a\.json.*{says}") as error:
        build_index(str(tmp_path))
    assert str(error.value).isprintable() and len(str(error.value)) < 400 + len(str(tmp_path))
    assert quarantined(tmp_path)["quarantined"] == 2 and indexed(tmp_path) == ["s/2"]


@pytest.mark.parametrize(
    "field", ["id", "question", "answer", "choices", "split", "audio_contribution", "structured_cot"]
)
def test_a_value_nested_as_deeply_as_json_allows_is_refused_too(tmp_path, field):
    """Somewhere below the depth that the reader refuses lies one at which printing the value would overflow."""
    fields = json.dumps(record(1)).replace('"question": ', '"question": "ok", "other": ') if field == "question" else ""
    for depth in range(880, 1_000, 3):
        data = json.loads(fields or json.dumps(record(1)))
        data[field] = "HERE"
        text_ = json.dumps(data).replace('"HERE"', nested(depth))
        pack(tmp_path / "x.tar", *B, ("a.json", text_.encode()), A[1])
        with pytest.raises(InputError, match=r"x\.tar:a\.json"):
            build_index(str(tmp_path))


# The index itself.


def other(value: object) -> object:
    if isinstance(value, str):
        return value + "x"
    return 1 if value is None else value + 1


@pytest.fixture
def index(tmp_path: Path) -> Path:
    pack(tmp_path / "x.tar", ("a.json", json.dumps(record(1, audio_contribution="weak")).encode()), A[1], *B)
    pack(tmp_path / "y.tar", *C)
    build_index(str(tmp_path))
    return tmp_path / "index.arrow"


def rewritten(path: Path, name: str, values: list) -> pa.Table:
    table = pa.ipc.open_file(io.BytesIO(path.read_bytes())).read_all()
    column = pa.array(values, SCHEMA.field(name).type)
    return table.set_column(table.column_names.index(name), SCHEMA.field(name), column)


@pytest.mark.parametrize("row", [0, 2])
@pytest.mark.parametrize("name", SCHEMA.names)
def test_a_changed_value_of_any_column_is_refused(index, name, row):
    values = read_arrow(index).column(name).to_pylist()
    values[row] = "strong" if name == "audio_contribution" else other(values[row])
    write_arrow(rewritten(index, name, values), index)
    with pytest.raises(InputError, match=rf"^{index}: the index was changed after it was written \(its hash differs\)"):
        ShardReader(index)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["a\0b", "c"], ["a", "b\0c"]),
        (["", "c"], [None, "c"]),
        (["ab", "c"], ["a", "bc"]),
        (["a\0", ""], ["a", "\0"]),
    ],
)
def test_texts_that_run_together_are_told_apart(tmp_path, index, first, second):
    for name in ("key", "source"):
        table = read_arrow(index).slice(0, 2)
        digests = []
        for values in (first, second):
            place = table.column_names.index(name)
            changed = table.set_column(place, SCHEMA.field(name), pa.array(values, SCHEMA.field(name).type))
            write_index(changed, {"root": "", "shards": {"x.tar": [99_999, ""]}}, tmp_path / "new.arrow")
            about = pa.ipc.open_file(str(tmp_path / "new.arrow")).schema.metadata[b"earwitness"]
            digests.append(json.loads(about)["sha256"])
        assert digests[0] != digests[1]


def test_the_hash_is_of_the_values_not_of_their_layout(index):
    table = read_arrow(index)
    write_arrow(
        pa.concat_tables([table.slice(0, 1), table.slice(1)]).replace_schema_metadata(table.schema.metadata), index
    )
    assert len(ShardReader(index)) == 3


@pytest.mark.parametrize("change", ["rows", "order", "column", "columns", "root", "size", "etag", "name", "more"])
def test_a_change_of_rows_columns_shards_or_root_is_refused(index, change):
    table = read_arrow(index)
    about = json.loads(table.schema.metadata[b"earwitness"])
    if change == "rows":
        table = table.slice(0, 2)
    elif change == "order":
        table = table.take([1, 0, 2])
    elif change == "column":
        table = table.append_column("more", pa.array([1, 2, 3]))
    elif change == "columns":
        table = table.select(SCHEMA.names[::-1])
    elif change == "root":
        about["root"] = "https://elsewhere.example/"
    elif change in ("size", "etag"):
        about["shards"]["x.tar"][change == "etag"] = 99_999 if change == "size" else "e"
    else:
        about["shards"] |= {"z.tar": [1, ""]}
        if change == "name":
            del about["shards"]["x.tar"]
    write_arrow(table.replace_schema_metadata({"earwitness": json.dumps(about)}), index)
    with pytest.raises(InputError, match=rf"^{index}: .*; index again$"):
        ShardReader(index)


def test_an_index_of_an_older_version_is_refused_with_a_way_out(index):
    table = read_arrow(index)
    write_arrow(table.drop_columns(["split"]), index)
    with pytest.raises(InputError, match=r"not an index, or one of an older version: no column 'split'; index again$"):
        ShardReader(index)
    write_arrow(table.set_column(0, "uid", table.column("uid").cast(pa.decimal128(20))), index)
    with pytest.raises(InputError, match="it has other columns; index again$"):
        ShardReader(index)


ABOUTS = [None, b"", b"{", b"[]", b"7", b"[" * 100_000, b'{"root": ""}', b'{"root": "", "shards": [], "sha256": "x"}']


@pytest.mark.parametrize("about", ABOUTS, ids=lambda a: f"{a!r:.20}")
def test_an_index_that_does_not_say_where_its_shards_are_is_refused(index, about):
    table = read_arrow(index)
    write_arrow(table.replace_schema_metadata({"earwitness": about} if about is not None else None), index)
    with pytest.raises(InputError, match=rf"^{index}: the index (does not say where its shards are|was changed)"):
        ShardReader(index)


FORGED = {
    "offset before the file": ("audio_offset", -5),
    "offset behind the file": ("audio_offset", 1 << 62),
    "a size without end": ("audio_size", 1 << 62),
    "no size": ("json_size", 0),
    "a negative size": ("json_size", -1),
    "a negative question": ("question_no", -1),
    "a length without end": ("num_samples", 1 << 60),
    "a missing number": ("uid", None),
    "a missing shard": ("shard", None),
    "an unknown shard": ("shard", "z.tar"),
    "a shard elsewhere": ("shard", "../x.tar"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_index_whose_hash_is_right_asks_for_nothing_impossible(index, name):
    """Whoever makes the index makes its hash; sizes and offsets must then still be those of a shard that is known."""
    column, value = FORGED[name]
    values = read_arrow(index).column(column).to_pylist()
    values[1] = value
    _, root, known = read_index(index)
    about = {"root": root, "shards": {name: [shard.size, shard.etag] for name, shard in known.items()}}
    write_index(rewritten(index, column, values), about, index)
    with pytest.raises(InputError, match=rf"^{index}: a row of the index names a place that its shard does not have"):
        ShardReader(index)


@pytest.mark.parametrize("size", [0, 5, 8, 100, -300, -10, -1])
def test_a_cut_off_index_is_refused(index, size):
    data = index.read_bytes()
    index.write_bytes(data[:size])
    with pytest.raises(InputError, match=f"^{index}: not a readable table"):
        ShardReader(index)
    index.unlink()
    with pytest.raises(InputError, match=f"^{index}: not found"):
        ShardReader(index)


# Splits.


def wav(number: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, sound(number, 400), 16_000, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def asked(key: str, number: int, clip: int, **more) -> list[tuple[str, bytes]]:
    return [(f"{key}.json", json.dumps(record(number, **more)).encode()), (f"{key}.wav", wav(clip))]


def splits(folder: Path) -> dict[str, str]:
    table = read_arrow(folder / "index.arrow")
    return dict(zip(table.column("key").to_pylist(), table.column("split").to_pylist(), strict=True))


def test_the_shares_of_a_holdout_are_right_and_no_recording_is_in_two_splits(tmp_path):
    """3,000 recordings, 1,000 of them twice: within four standard errors, sqrt(p (1 - p) / 3000)."""
    (tmp_path / "half").mkdir()
    clips = [*range(3_000), *range(1_000)]
    members = [asked(str(n), n, clip) for n, clip in enumerate(clips)]
    for shard in range(4):
        pack(tmp_path / f"{shard}.tar", *(m for pair in members[shard::4] for m in pair))
    build_index(str(tmp_path), holdout={"test": 0.2, "val": 0.1})
    found = splits(tmp_path)
    for split, share in (("val", 0.1), ("test", 0.2), ("train", 0.7)):
        part = np.mean([found[f"s/{n}"] == split for n in range(3_000)])
        assert abs(part - share) < 4 * np.sqrt(share * (1 - share) / 3_000), split
    assert all(found[f"s/{n}"] == found[f"s/{3_000 + n}"] for n in range(1_000))
    pack(tmp_path / "half" / "x.tar", *(m for pair in members[1::2][::-1] for m in pair))
    build_index(str(tmp_path / "half"), holdout={"val": 0.1, "test": 0.2})
    assert splits(tmp_path / "half").items() <= found.items(), "the same in every corpus that contains it"


def test_a_larger_share_of_val_keeps_what_was_in_it(tmp_path):
    pack(tmp_path / "x.tar", *(m for n in range(200) for m in asked(str(n), n, n)))
    held = []
    for share in (0.1, 0.3):
        build_index(str(tmp_path), holdout={"val": share})
        held.append({key for key, split in splits(tmp_path).items() if split == "val"})
    assert 0 < len(held[0]) < len(held[1]) and held[0] < held[1]


def test_a_split_that_is_said_wins_and_its_recording_takes_the_others_along(tmp_path):
    """Also where it is said of a later question, and with a holdout that would take nearly everything."""
    pack(tmp_path / "x.tar", *asked("a", 1, 7), *asked("b", 2, 8), *asked("c", 3, 7, split="train"), *asked("d", 4, 9))
    pack(tmp_path / "y.tar", *asked("e", 5, 8, split="test"), *asked("f", 6, 7))
    build_index(str(tmp_path), holdout={"val": 0.999})
    expected = {"s/1": "train", "s/2": "test", "s/3": "train", "s/4": "val", "s/5": "test", "s/6": "train"}
    assert splits(tmp_path) == expected
    build_index(str(tmp_path))
    assert splits(tmp_path) == expected | {"s/4": "train"}


def test_a_recording_in_two_splits_is_refused_with_both_places(tmp_path):
    pack(tmp_path / "x.tar", *asked("a", 1, 7, split="train"), *asked("b", 2, 8))
    pack(tmp_path / "y.tar", *asked("c", 3, 7, split="test"), *asked("d", 4, 7, split="train"))
    says = f"{tmp_path}/y.tar:s/3: its recording is in split train too ({tmp_path}/x.tar:s/1); a recording belongs to"
    with pytest.raises(InputError) as error:
        build_index(str(tmp_path))
    assert str(error.value) == f"{says} one split"
    counts = quarantined(tmp_path)
    assert (counts["quarantined"], counts["bad_questions"]) == (2, 1)
    assert left_out(tmp_path)[0]["reason"].startswith(says)
    assert splits(tmp_path) == {"s/1": "train", "s/2": "train", "s/4": "train"}


def test_a_question_that_is_left_out_says_nothing_about_its_recordings_split(tmp_path):
    pack(tmp_path / "x.tar", *asked("a", 1, 7), *asked("b", 1, 8, split="test"), *asked("c", 3, 8, split="train"))
    quarantined(tmp_path)
    assert splits(tmp_path) == {"s/1": "train", "s/3": "train"}


@pytest.mark.parametrize(
    "holdout",
    [{"train": 0.1}, {"dev": 0.1}, {"val": 1.0}, {"val": -0.1}, {"val": float("nan")}, {"val": "0.1"}, {"test": None}],
    ids=str,
)
def test_a_holdout_that_is_none_is_refused(tmp_path, holdout):
    pack(tmp_path / "x.tar", *A)
    with pytest.raises(InputError, match=r"^holdout takes val and test with a share below 1, got "):
        build_index(str(tmp_path), holdout=holdout)
    with pytest.raises(InputError, match=r"^holdout leaves nothing to train on"):
        build_index(str(tmp_path), holdout={"val": 0.5, "test": 0.5})


def test_the_same_recording_is_one_clip_whatever_its_name(tmp_path):
    pack(tmp_path / "x.tar", *asked("a", 1, 7), *asked("b", 2, 7), *asked("c", 3, 8))
    assert build_index(str(tmp_path))["clips"] == 2
    clips = read_arrow(tmp_path / "index.arrow").column("clip").to_pylist()
    assert clips == [clip_of(wav(7)), clip_of(wav(7)), clip_of(wav(8))]


@pytest.mark.parametrize(
    ("old", "new"), [(b"N\\u00ba 1?", b"N\\u00ba 7?"), (b'["a", "b"]', b'["a", "c"]'), (b'"id": "1"', b'"id": "7"')]
)
def test_a_text_changed_after_indexing_is_noticed(tmp_path, old, new):
    path = pack(tmp_path / "x.tar", *A, *B)
    build_index(str(tmp_path))
    data = path.read_bytes()
    assert data.count(old) == (2 if old.startswith(b"[") else 1)
    path.write_bytes(data.replace(old, new, 1))
    reader = ShardReader(tmp_path / "index.arrow")
    assert reader.question(1).id == "2"
    with pytest.raises(InputError, match=r"x\.tar@\d+: .*; re-index the shard$"):
        reader.question(0)
