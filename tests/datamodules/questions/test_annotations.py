"""The same questions come out of every kind of annotation file, and what is wrong is named by its place."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from earwitness.curriculum.table import read_arrow
from earwitness.datamodules.questions.annotations import Annotation, iter_annotations, read_annotations
from earwitness.datamodules.questions.fields import Fields
from earwitness.datamodules.questions.question import OPTIONAL, REQUIRED, Question, parse_question
from earwitness.datamodules.shards.packing import shard
from earwitness.errors import InputError

datasets = pytest.importorskip("datasets")
CHOICES = ["Wind", "Water, flowing", 'a "dog"', "eine schöne Glocke"]


def record(number: int, **more) -> dict:
    """Every field of the layout; the optional ones may be taken away with None."""
    fields = {
        "source_dataset": "clotho",
        "id": str(number),
        "question_type": "sound",
        "audio_path": f"clips/{number}.wav",
        "question": f"What is heard\nin no. {number}, and why?",
        "answer": CHOICES[number % 4],
        "choices": CHOICES,
        "split": ("train", "val", "test")[number % 3],
        "audio_contribution": ("weak", "strong")[number % 2],
        "structured_cot": f"Step 1: listen.\n\nStep 2: {number}, thus.",
        "unstructured_cot": "Well, it drips.",
    }
    return {name: value for name, value in (fields | more).items() if value is not None}


RECORDS = [record(0), record(1), record(2, split=None, audio_contribution=None), record(3, structured_cot=None)]
EXPECTED = [Annotation(parse_question(r, ""), r["audio_path"], -1) for r in RECORDS]


def as_csv(records: list[dict], path: Path, **names: str) -> Path:
    """Choices as a JSON list in their cell, missing values as empty cells, columns under other names where given."""
    columns = [*REQUIRED, *OPTIONAL, "audio_path"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([names.get(name, name) for name in columns])
        for r in records:
            cells = {**r, "choices": json.dumps(r["choices"], ensure_ascii=False)}
            writer.writerow([cells.get(name, "") for name in columns])
    return path


def saved(records: list[dict], path: Path, **columns: list) -> Path:
    """A Hugging Face dataset: every record has every column, as there, with None where it has no value."""
    names = [*REQUIRED, *OPTIONAL, "audio_path"]
    rows = {name: [r.get(name) for r in records] for name in names} | columns
    datasets.Dataset.from_dict({name: values for name, values in rows.items() if values}).save_to_disk(str(path))
    return path


def written(kind: str, folder: Path) -> Path:
    path = folder / f"q.{kind}"
    if kind == "json":
        path.write_text(json.dumps(RECORDS))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(r) + "\r\n" for r in RECORDS))
    elif kind == "CSV":
        as_csv(RECORDS, path)
    else:
        saved(RECORDS, path)
    return path


@pytest.mark.parametrize("kind", ["json", "jsonl", "CSV", "dataset"])
def test_every_kind_of_file_gives_the_same_questions(tmp_path, kind):
    assert read_annotations(written(kind, tmp_path)) == EXPECTED


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv"])
def test_the_hyphenated_name_of_the_published_files_is_read(tmp_path, kind):
    """In a CSV an empty cell of it is a missing label, like one of any other optional column."""
    path = tmp_path / f"q.{kind}"
    theirs = [{k.replace("audio_con", "audio-con"): v for k, v in r.items()} for r in RECORDS]
    if kind == "csv":
        as_csv(RECORDS, path, audio_contribution="audio-contribution")
    else:
        path.write_text(json.dumps(theirs) if kind == "json" else "\n".join(map(json.dumps, theirs)))
    assert [r.question.audio_contribution for r in read_annotations(path)] == ["weak", "strong", "", "strong"]


def test_a_column_map_reads_the_reasoning_from_columns_of_any_name(tmp_path):
    ours = {"structured_cot": "cot", "unstructured_cot": "thoughts", "split": "part", "audio_contribution": "label"}
    path = as_csv(RECORDS, tmp_path / "q.csv", **ours)
    assert read_annotations(path, Fields(ours)) == EXPECTED
    saved(RECORDS, tmp_path / "d", cot=[r.get("structured_cot") for r in RECORDS], structured_cot=[])
    assert read_annotations(tmp_path / "d", Fields({"structured_cot": "cot"})) == EXPECTED


def test_a_column_map_of_an_optional_field_that_a_record_lacks_leaves_it_out(tmp_path):
    """Also where the record has a column of our name, which means something else there."""
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps(record(0, structured_cot="not this")))
    (found,) = read_annotations(path, Fields({"structured_cot": "cot"}))
    assert found.question == parse_question(record(0, structured_cot=None), "")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "dataset"])
def test_several_columns_become_the_choices_and_empty_ones_are_none(tmp_path, kind):
    path, letters = tmp_path / f"q.{kind}", ["A", "B", "C", "D"]
    rows = []
    for number, choices in enumerate([["x", "y", "z", "w"], ["x", "y", "", ""]]):
        rows.append({"source_dataset": "s", "id": str(number), "question": "?", "answer": "y", "audio_path": "a.wav"})
        rows[-1] |= dict(zip(letters, choices, strict=True))
    if kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        datasets.Dataset.from_list(rows).save_to_disk(str(path))
    found = read_annotations(path, Fields({"choices": letters}))
    assert [r.question.choices for r in found] == [("x", "y", "z", "w"), ("x", "y")]


def test_a_csv_whose_list_of_choices_has_another_name_is_read(tmp_path):
    path = as_csv(RECORDS, tmp_path / "q.csv", choices="options")
    assert read_annotations(path, Fields({"choices": "options"})) == EXPECTED


def test_a_text_field_is_not_made_of_several_columns(tmp_path):
    path = as_csv(RECORDS, tmp_path / "q.csv")
    with pytest.raises(InputError, match=r"split must be one of .*, got \['train', 'sound'\]"):
        read_annotations(path, Fields({"split": ["split", "question_type"]}))


@pytest.mark.parametrize("theirs", ["", [], 7, [7], None, [["A"]]], ids=str)
def test_a_column_map_to_what_is_no_name_is_refused(tmp_path, theirs):
    path = tmp_path / "q.json"
    path.write_text(json.dumps(RECORDS))
    with pytest.raises(InputError, match=r"^columns: choices must be a column's name or a list of names, got "):
        read_annotations(path, Fields({"choices": theirs}))


# Faults.

FAULTY = {
    "no object": ("[1]", "a question must be a JSON object, got list"),
    "no json": ('{"id": }', "not JSON"),
    "a key twice": (json.dumps(record(8))[:-1] + ', "id": "9"}', "the key 'id' occurs twice"),
    "a wrong answer": (json.dumps(record(8, answer="Rain")), r"\(clotho/8\): answer 'Rain' is not among"),
    "no recording": (json.dumps(record(8, audio_path=None)), "field 'audio_path' must be a non-empty text"),
    "given already": (json.dumps(record(0)), "clotho/0 was already given at .*:1"),
    "deep": ("[" * 100_000, "not JSON that can be read"),
    "not UTF-8": (b'{"id": "caf\xe9"}', r"not UTF-8 \(invalid continuation byte\)"),
    "half UTF-8": (b'{"id": "caf\xc3', r"not UTF-8 \(invalid continuation byte\)"),
    "a line of a path": (json.dumps(record(8, audio_path="a\nb.wav")), "field 'audio_path' must be one line"),
    "a special token": (json.dumps(record(8, unstructured_cot="<|im_end|>")), r"special token <\|im_end\|>"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_a_faulty_line_is_left_out_alone_with_its_number_and_reason(tmp_path, name):
    """The lines lie within one buffer of the reader: bytes that are no text must not be blamed on a line before."""
    line, says = FAULTY[name]
    path, faults = tmp_path / "q.jsonl", []
    line = line if isinstance(line, bytes) else line.encode()
    lines = [json.dumps(r).encode() for r in RECORDS]
    path.write_bytes(b"\n".join([lines[0], b"", lines[1], line, lines[2], line.replace(b"8", b"7"), lines[3]]))
    assert read_annotations(path, faults=faults) == EXPECTED
    assert [fault.partition(":")[2].partition(":")[0].partition(" ")[0] for fault in faults] == ["4", "6"]
    with pytest.raises(InputError, match=rf"^{path}:4.*{says}") as error:
        read_annotations(path)
    assert str(error.value) == faults[0] and str(error.value).isprintable()


def test_a_faulty_member_of_a_list_is_left_out_alone(tmp_path):
    path, faults = tmp_path / "q.json", []
    path.write_text(json.dumps([7, RECORDS[0], record(8, choices=[]), *RECORDS[1:], None]))
    assert read_annotations(path, faults=faults) == EXPECTED
    assert [fault.partition(":")[0].partition(" ")[0] for fault in faults] == [f"{path}[{n}]" for n in (0, 2, 6)]


def test_a_faulty_row_of_a_csv_is_left_out_alone(tmp_path):
    """Places are the lines on which rows end; the questions of this file are two lines long."""
    path, faults = as_csv(RECORDS, tmp_path / "q.csv"), []
    lines = path.read_bytes().split(b"\r\n")
    broken = lines[1].replace(b'clotho,0,"', b'clotho,8,"')
    assert broken.count(b'""Wind""') == 1
    extra = [b"a,b", broken.replace(b'[""Wind""', b'[""Wind'), broken.replace(b"[", b'[""Wind"", '), lines[1]]
    path.write_bytes(b"\r\n".join([*lines[:2], *extra, *lines[2:]]))
    assert read_annotations(path, faults=faults) == EXPECTED
    says = ["the row does not have as many fields as the header", "column choices: not JSON", "choices occur twice"]
    for fault, reason in zip(faults, [*says, "clotho/0 was already given at"], strict=True):
        assert reason in fault


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"id,id\n1,2\n", r":1: a column name occurs twice in id, id$"),
        (b'id,question\n1,"a"b\n', r":2: not CSV: "),
        (b"id,question\n1,caf\xe9\n", r":2: not UTF-8"),
        (b"id,question\n1," + b"x" * (1 << 21) + b"\n", r":2: not CSV: field larger than field limit"),
        (b"id\r1\r2", r":1: not CSV: new-line character seen in unquoted field"),
        (b"", r": holds no question$"),
        (b"id,question\n", r": holds no question$"),
        (b"\0\0\0\n\0", r":2: field 'source_dataset' must be"),
    ],
    ids=lambda value: f"{value!r:.20}",
)
def test_a_csv_that_cannot_be_read_on_is_one_error_with_its_line(tmp_path, data, says):
    path = tmp_path / "q.csv"
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"^{path}{says}"):
        read_annotations(path)


def test_a_json_file_that_is_no_text_is_named_by_its_line(tmp_path):
    path = tmp_path / "q.json"
    path.write_bytes(b'[\n{"id": "a"},\n{"id": "caf\xe9"}\n]')
    with pytest.raises(InputError, match=rf"^{path}:3: not UTF-8 \(invalid continuation byte\); --encoding cp1252"):
        read_annotations(path, faults=[])


def test_a_file_of_nothing_but_faults_tells_the_first(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text("{}\n[]\n")
    with pytest.raises(InputError, match=rf"^{path}: holds no question; the first fault: {path}:1: field 'source_data"):
        read_annotations(path, faults=[])


def test_the_names_of_a_strangers_columns_are_told_on_one_line_of_bounded_length(tmp_path):
    path, odd = tmp_path / "q.csv", "\x1b[2J" + "x" * 5_000
    path.write_text(f"{odd},{odd}\n1,2\n")
    with pytest.raises(InputError, match=r":1: a column name occurs twice in \\x1b\[2Jxxx") as error:
        read_annotations(path)
    assert str(error.value).isprintable() and len(str(error.value)) < 400 + len(str(path))
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({odd: 1}))
    with pytest.raises(InputError, match=r":1: no column 'text' for question; there are \\x1b\[2Jxxx") as error:
        read_annotations(path, Fields({"question": "text"}))
    assert str(error.value).isprintable() and len(str(error.value)) < 400 + len(str(path))


# Hugging Face datasets.


def sound_file(number: int) -> bytes:
    buffer = io.BytesIO()
    wave = np.random.default_rng(number).integers(-9_999, 9_999, 800).astype(np.int16)
    soundfile.write(buffer, wave, 16_000, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def embedded(records: list[dict], sounds: list[dict | bytes], plain: bool = False) -> "datasets.Dataset":
    """With the recordings in a column `audio`: of the Audio kind, or plain bytes. None is decoded on the way."""
    columns = sorted({name for r in records for name in r})
    data = {name: [r.get(name) for r in records] for name in columns} | {"audio": sounds}
    made = datasets.Dataset.from_dict(data)
    return made if plain else made.cast_column("audio", datasets.Audio(sampling_rate=16_000, decode=False))


def waves(folder: Path) -> dict[str, np.ndarray]:
    from earwitness.datamodules.shards.reader import ShardReader

    reader = ShardReader(folder / "index.arrow")
    return {reader.key(row): reader.wave(row) for row in range(len(reader))}


@pytest.mark.parametrize("plain", [False, True], ids=["Audio", "bytes"])
@pytest.mark.parametrize("paths", [False, True], ids=["no paths", "paths"])
def test_recordings_inside_a_dataset_of_three_splits_are_packed_each_with_its_question(tmp_path, plain, paths):
    """Rows are counted over the splits; where rows have no audio_path they are named by that count."""
    parts, number = {}, 0
    for split, count in (("train", 3), ("validation", 2), ("test", 1)):
        records = [
            record(n, split=None, audio_path=f"{n}.wav" if paths else None) for n in range(number, number + count)
        ]
        sounds = [sound_file(n) for n in range(number, number + count)]
        parts[split] = embedded(records, sounds if plain else [{"bytes": s, "path": None} for s in sounds], plain)
        number += count
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "d"))
    found = read_annotations(tmp_path / "d")
    assert [r.question.split for r in found] == ["train"] * 3 + ["val"] * 2 + ["test"]
    assert [r.audio_path for r in found] == [f"{n}.wav" if paths else f"row-{n}" for n in range(6)]
    assert [r.row for r in found] == list(range(6))
    counts = shard(str(tmp_path / "d"), str(tmp_path / "out"), samples_per_shard=2)
    assert (counts["questions"], counts["clips"], counts["shards"]) == (6, 6, 3)
    for key, wave in waves(tmp_path / "out").items():
        expected, _ = soundfile.read(io.BytesIO(sound_file(int(key.partition("/")[2]))), dtype="float32")
        assert np.array_equal(wave, expected), key
    table = read_arrow(tmp_path / "out" / "index.arrow")
    splits = dict(zip(table.column("key").to_pylist(), table.column("split").to_pylist(), strict=True))
    assert splits == {f"clotho/{n}": ["train", "val", "test"][(n > 2) + (n > 4)] for n in range(6)}


def test_the_original_bytes_of_an_embedded_recording_are_kept(tmp_path):
    """The kind is taken from the name in the dataset, else from the bytes."""
    vorbis = io.BytesIO()
    soundfile.write(vorbis, 0.1 * np.sin(np.arange(800)), 16_000, format="OGG", subtype="VORBIS")
    sounds = [sound_file(0), vorbis.getvalue(), sound_file(2)]
    records = [record(n, split=None, audio_path="x.wav" if n == 2 else None) for n in range(3)]
    made = embedded(records, [{"bytes": data, "path": None} for data in sounds])
    made.save_to_disk(str(tmp_path / "d"))
    shard(str(tmp_path / "d"), str(tmp_path / "out"), audio="original")
    from earwitness.datamodules.shards.reader import ShardReader

    reader = ShardReader(tmp_path / "out" / "index.arrow")
    kept = {reader.key(row): (reader.text("audio_ext", row), reader.sound(row)) for row in range(3)}
    assert kept == {f"clotho/{n}": (("wav", "ogg", "wav")[n], sounds[n]) for n in range(3)}


def test_a_split_column_wins_over_the_name_of_the_part_and_an_empty_one_does_not(tmp_path):
    part = saved([record(0, split="test"), record(1, split=None)], tmp_path / "part")
    datasets.DatasetDict({"train": datasets.load_from_disk(str(part))}).save_to_disk(str(tmp_path / "d"))
    assert [r.question.split for r in read_annotations(tmp_path / "d")] == ["test", "train"]


def test_an_unknown_part_of_a_dataset_is_mapped_or_left_out_by_name_and_never_silently(tmp_path, capsys):
    part = datasets.load_from_disk(str(saved([record(n, split=None) for n in range(2)], tmp_path / "part")))
    more = datasets.load_from_disk(str(saved([record(n, split=None) for n in (7, 8)], tmp_path / "more")))
    datasets.DatasetDict({"dev": part, "extra": more}).save_to_disk(str(tmp_path / "d"))
    with pytest.raises(InputError, match=r"d\[2\] \(clotho/7\): split must be .*; --split-map extra=train reads it, "):
        read_annotations(tmp_path / "d")
    rows = read_annotations(tmp_path / "d", Fields(splits={"extra": "test"}))
    assert [(r.question.id, r.question.split) for r in rows] == [
        ("0", "val"),
        ("1", "val"),
        ("7", "test"),
        ("8", "test"),
    ]
    left = list(iter_annotations(tmp_path / "d", Fields(splits={"extra": "skip"}), notes=True))
    assert [r.question.id for r in left] == ["0", "1"]
    assert "2 records are of splits that are left out" in capsys.readouterr().err


def test_a_dataset_with_paths_alone_reads_the_files_beside_it(tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.wav").write_bytes(sound_file(number))
    saved([record(n, audio_path=f"{n}.wav", split=None) for n in range(2)], tmp_path / "d")
    assert shard(str(tmp_path / "d"), str(tmp_path / "out"))["clips"] == 2
    assert np.array_equal(
        waves(tmp_path / "out")["clotho/1"], soundfile.read(io.BytesIO(sound_file(1)), dtype="float32")[0]
    )


def test_a_column_audio_of_paths_can_be_mapped(tmp_path):
    (tmp_path / "0.wav").write_bytes(sound_file(0))
    saved([record(0, audio_path=None)], tmp_path / "d", audio=["0.wav"])
    with pytest.raises(InputError, match="field 'audio_path' must be a non-empty text"):
        read_annotations(tmp_path / "d")
    assert (
        shard(str(tmp_path / "d"), str(tmp_path / "out"), fields={"columns": {"audio_path": "audio"}})["questions"] == 1
    )


def test_a_dataset_saved_in_the_format_of_arrays_gives_the_same_questions(tmp_path):
    made = datasets.load_from_disk(str(saved(RECORDS, tmp_path / "d"))).with_format("numpy")
    made.save_to_disk(str(tmp_path / "n"))
    assert datasets.load_from_disk(str(tmp_path / "n")).format["type"] == "numpy"
    assert read_annotations(tmp_path / "n") == EXPECTED


def test_a_recording_that_is_only_referred_to_is_refused_by_its_row(tmp_path):
    """Not read from there either: a stranger's dataset may refer to any file of this machine."""
    (tmp_path / "1.wav").write_bytes(sound_file(1))
    sounds = [{"bytes": sound_file(0), "path": "0.wav"}, {"bytes": None, "path": str(tmp_path / "1.wav")}]
    embedded([record(n, split=None) for n in range(2)], sounds, plain=True).save_to_disk(str(tmp_path / "d"))
    with pytest.raises(InputError, match=r"d\[1\]: the recording '/.*/1\.wav' is not stored in the dataset"):
        shard(str(tmp_path / "d"), str(tmp_path / "out"))
    counts = shard(str(tmp_path / "d"), str(tmp_path / "out"), on_bad="quarantine")
    assert (counts["questions"], counts["left_out"]) == (1, 1)


def test_two_recordings_under_one_path_are_refused_and_one_under_one_path_is_stored_once(tmp_path):
    """The second question would otherwise be asked about the recording of the first."""
    records = [record(n, split=None, audio_path="audio.wav") for n in range(2)]
    embedded(records, [{"bytes": sound_file(0), "path": None}] * 2).save_to_disk(str(tmp_path / "same"))
    counts = shard(str(tmp_path / "same"), str(tmp_path / "out"))
    assert (counts["questions"], counts["clips"], counts["members"]) == (2, 1, 2)
    embedded(records, [{"bytes": sound_file(n), "path": None} for n in range(2)]).save_to_disk(str(tmp_path / "d"))
    with pytest.raises(InputError, match=r"d\[0\]: another recording than in row 1, under the same audio_path 'audio"):
        shard(str(tmp_path / "d"), str(tmp_path / "out"))


@pytest.mark.parametrize("damage", ["no state", "odd state", "cut", "noise", "empty"])
def test_a_damaged_dataset_is_refused_in_one_line(tmp_path, damage):
    path = saved(RECORDS, tmp_path / "d")
    (data,) = path.glob("*.arrow")
    if damage == "no state":
        (path / "state.json").unlink()
    elif damage == "odd state":
        (path / "state.json").write_text("[]")
    elif damage == "empty":
        data.write_bytes(b"")
    elif damage == "cut":
        data.write_bytes(data.read_bytes()[:700])
    else:
        data.write_bytes(np.random.default_rng(0).bytes(5_000))
    with pytest.raises(
        InputError, match=rf"^{path}(\[\d\])?: (not a dataset saved by Hugging|the saved dataset is damaged)"
    ):
        read_annotations(path)


def test_a_faulty_row_of_a_dataset_is_left_out_alone(tmp_path):
    path, faults = saved([RECORDS[0], record(8, answer="Rain"), *RECORDS[1:]], tmp_path / "d"), []
    assert read_annotations(path, faults=faults) == EXPECTED
    assert len(faults) == 1 and faults[0].startswith(f"{path}[1] (clotho/8): answer 'Rain' is not among the choices")


def test_the_questions_survive_packing_with_every_field(tmp_path):
    from earwitness.datamodules.shards.reader import ShardReader

    (tmp_path / "clips").mkdir()
    for number in range(4):
        (tmp_path / "clips" / f"{number}.wav").write_bytes(sound_file(number))
    shard(str(as_csv(RECORDS, tmp_path / "q.csv")), str(tmp_path / "out"))
    reader = ShardReader(tmp_path / "out" / "index.arrow")
    packed = {reader.key(row): reader.question(row) for row in range(4)}
    expected: dict[str, Question] = {a.question.key: a.question for a in EXPECTED}
    assert packed == expected
