"""One set of questions in every kind of file that people keep them in comes out the same."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from earwitness.datamodules.questions.annotations import iter_annotations, read_annotations
from earwitness.datamodules.questions.fields import Fields
from earwitness.datamodules.questions.formats import TextFile, split_of_name
from earwitness.errors import InputError

OPTIONS = ["Wind", "Water", "Glöckchen", "A dog"]


def record(number: int, **more) -> dict:
    fixed = {"source_dataset": "s", "id": str(number), "question": f"Nº {number}?", "audio_path": f"{number}.wav"}
    return fixed | {"choices": OPTIONS, "answer": OPTIONS[number % 4]} | more


RECORDS = [record(number) for number in range(5)]
EXPECTED = [(str(n), f"Nº {n}?", tuple(OPTIONS), OPTIONS[n % 4], f"{n}.wav") for n in range(5)]


def read(path: Path, **fields) -> list[tuple]:
    rows = read_annotations(path, Fields(**fields))
    return [(r.question.id, r.question.question, r.question.choices, r.question.answer, r.audio_path) for r in rows]


def write_table(path: Path, records: list[dict], delimiter: str, encoding: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, records[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(r | {"choices": str(r["choices"])} for r in records)
    return path


def put(path: Path, content, encoding: str = "utf-8") -> Path:
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding)
    return path


def parquet(path: Path, records: list[dict], **metadata) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(records)
    if metadata:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": metadata}})})
    pq.write_table(table, path)
    return path


def test_lists_objects_of_records_objects_with_a_list_and_lines_give_the_same_questions(tmp_path):
    """The names of an object's records are their ids, where they have none."""
    without_id = {r["id"]: {k: v for k, v in r.items() if k != "id"} for r in RECORDS}
    contents = [RECORDS, without_id, {"version": "1.0", "data": RECORDS, "tags": ["a"], "n": 5}]
    for number, content in enumerate(contents):
        assert read(put(tmp_path / f"{number}.json", content)) == EXPECTED
    assert read(put(tmp_path / "q.jsonl", "\n".join(map(json.dumps, RECORDS)))) == EXPECTED
    for odd in ({"a": 1, "b": RECORDS, "c": RECORDS}, {"a": 1}, {}, 7, '"text"', None):
        with pytest.raises(InputError, match=r"odd\.json: must hold a list of questions, got "):
            read(put(tmp_path / "odd.json", odd))


def test_tables_with_commas_and_tabs_and_choices_as_python_prints_them(tmp_path):
    assert read(write_table(tmp_path / "q.csv", RECORDS, ",")) == EXPECTED
    assert read(write_table(tmp_path / "q.tsv", RECORDS, "\t")) == EXPECTED
    with pytest.raises(InputError, match=r"q\.csv:1: its columns are divided by ';'; .csv is read with commas"):
        read(write_table(tmp_path / "q.csv", [{"a": "1", "choices": 2}], ";"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "cp1252", "utf-32"])
@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "tsv"])
def test_other_encodings_are_read_by_their_mark_or_by_a_flag_that_the_sentence_names(tmp_path, encoding, kind):
    path = tmp_path / f"q.{kind}"
    if kind in ("csv", "tsv"):
        write_table(path, RECORDS, "," if kind == "csv" else "\t", encoding)
    else:
        text = json.dumps(RECORDS, ensure_ascii=False)
        put(path, text if kind == "json" else "\n".join(json.dumps(r, ensure_ascii=False) for r in RECORDS), encoding)
    if encoding in ("cp1252", "utf-16-le"):
        with pytest.raises(InputError, match=rf"^{path}.*--encoding (cp1252|utf-16-le)"):
            read(path)
        assert read(path, encoding=encoding) == EXPECTED
    else:
        assert read(path) == EXPECTED


def test_an_encoding_that_is_none_and_one_that_does_not_fit_are_refused(tmp_path):
    path = put(tmp_path / "q.jsonl", "\n".join(map(json.dumps, RECORDS)))
    for name in ("windows", "base64"):
        with pytest.raises(InputError, match=rf"^encoding: '{name}' is no text encoding; give e\.g\. utf-8"):
            read(path, encoding=name)
    path.write_bytes('{"question": "Glöckchen"}'.encode())
    with pytest.raises(InputError, match=rf"^{path}: not ascii \(.*; give another --encoding"):
        read(path, encoding="ascii")


def test_a_packed_file_is_refused_with_the_way_out(tmp_path):
    path = tmp_path / "q.jsonl.gz"
    path.write_bytes(b"\x1f\x8b")
    with pytest.raises(
        InputError, match=rf"^{path}: .gz files are not read; unpack it to JSON, JSONL, CSV or Parquet$"
    ):
        read(path)


def test_a_long_list_is_read_piece_by_piece_with_the_places_and_lines_of_its_faults(tmp_path):
    """Pieces are of 1 MiB: records lie across their ends, and lines count from the file's beginning."""
    records = [record(n, question="long " * 300 + f"Nº {n}?") for n in range(2_000)]
    lines = [json.dumps(r, indent=1, ensure_ascii=False) for r in records]
    path = put(tmp_path / "q.json", "[\n" + ",\n".join(lines) + "\n]\n")
    assert path.stat().st_size > 3 * (1 << 20)
    rows = read(path)
    assert [row[0] for row in rows] == [str(n) for n in range(2_000)] and rows[1_999][1].endswith("Nº 1999?")
    twice = list(lines)
    twice[1_500] = lines[1_500][:-1] + ', "id": "x"}'
    faults: list[str] = []
    assert len(read_annotations(put(path, f"[{','.join(twice)}]"), faults=faults)) == 1_999
    assert faults == [f"{path}[1500]: not JSON that can be read: the key 'id' occurs twice in one object"]
    twice[1_500] = lines[1_500][:-1]
    broken = "[\n" + ",\n".join(twice) + "]"
    with pytest.raises(json.JSONDecodeError) as theirs:
        json.loads(broken)
    with pytest.raises(InputError, match=rf"^{path}:{theirs.value.lineno}: not JSON: "):
        read(put(path, broken))
    with pytest.raises(InputError, match=rf"^{path}:2: not JSON: Extra data$"):
        read(put(path, json.dumps(RECORDS) + "\n[]"))
    for cut in (f"[{lines[0]}", f"[{lines[0]},", f"[{lines[0]} {lines[1]}]", f"[{lines[0]},]"):
        with pytest.raises(InputError, match=rf"^{path}:\d+: not JSON: "):
            read(put(path, cut))


def test_numbers_at_the_end_of_a_piece_are_whole(tmp_path):
    """A number that a piece of the file cuts would be read as a shorter one."""
    for length in range((1 << 20) - 12, (1 << 20) - 3):
        path = put(tmp_path / "q.json", '["' + "x" * (length - 4) + '",123456,7]')
        assert [value for _, value in TextFile(path)][1:] == [123456, 7]


# Parquet and folders.


def test_parquet_is_read_with_its_lists_numbers_and_named_classes(tmp_path):
    """What Hugging Face datasets call a ClassLabel is a number with names; -1 is a missing one."""
    assert read(parquet(tmp_path / "q.parquet", RECORDS)) == EXPECTED
    numbered = [r | {"id": n, "answer": OPTIONS.index(r["answer"])} for n, r in enumerate(RECORDS)]
    names = {"answer": {"names": ["A", "B", "C", "D"], "_type": "ClassLabel"}}
    assert read(parquet(tmp_path / "c.parquet", numbered, **names)) == EXPECTED
    assert read(parquet(tmp_path / "i.parquet", numbered)) == EXPECTED, "0 to 3 can be nothing but places from 0 on"
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more PAR1")
    with pytest.raises(InputError, match=r"bad\.parquet: not a readable Parquet file"):
        read(tmp_path / "bad.parquet")


def test_a_cloned_hub_folder_has_its_splits_from_the_names_of_its_files(tmp_path):
    folder = tmp_path / "hub"
    parts = {"train-00000-of-00002": [0], "train-00001-of-00002": [1, 2], "validation-00000-of-00001": [3]}
    for name, numbers in (parts | {"test-00000-of-00001": [4]}).items():
        parquet(folder / "data" / f"{name}.parquet", [RECORDS[n] for n in numbers])
    put(folder / "README.md", "# a card")
    put(folder / ".git" / "x.parquet", "no parquet")
    put(folder / ".cache" / "q.json", "[]")
    rows = read_annotations(folder)
    splits = {"0": "train", "1": "train", "2": "train", "3": "val", "4": "test"}
    assert {r.question.id: r.question.split for r in rows} == splits
    assert [r.question.answer for r in sorted(rows, key=lambda r: r.question.id)] == [e[3] for e in EXPECTED]
    for extra in ("train_clean-00000-of-00001", "dev"):
        parquet(folder / "data" / f"{extra}.parquet", [record(7)])
        if extra == "dev":
            assert {r.question.split for r in read_annotations(folder) if r.question.id == "7"} == {"val"}
        else:
            with pytest.raises(InputError, match=r"train_clean-.*\[0\] .*; --split-map train_clean=train reads it"):
                read_annotations(folder)
            named = read_annotations(folder, Fields(splits={"train_clean": "train"}))
            assert {r.question.split for r in named if r.question.id == "7"} == {"train"}
        (folder / "data" / f"{extra}.parquet").unlink()


def test_a_hub_folder_of_several_datasets_and_of_several_kinds_is_refused_by_name(tmp_path):
    for configuration in ("easy", "hard"):
        parquet(tmp_path / "hub" / configuration / "test-00000-of-00001.parquet", RECORDS)
    with pytest.raises(InputError, match=r"hub: holds several datasets \(easy, hard\); give the folder of one of them"):
        read_annotations(tmp_path / "hub")
    assert {r.question.split for r in read_annotations(tmp_path / "hub" / "hard")} == {"test"}
    put(tmp_path / "mixed" / "q.json", RECORDS)
    put(tmp_path / "mixed" / "r.csv", "a,b")
    with pytest.raises(InputError, match=r"mixed: holds annotation files of several kinds \(q.json, r.csv\); name one"):
        read_annotations(tmp_path / "mixed")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: holds no annotation file; give a file"):
        read_annotations(tmp_path / "empty")


def test_a_folder_of_one_file_for_each_question_names_them_by_their_files(tmp_path):
    for r in RECORDS:
        put(tmp_path / "qa" / f"{r['id']}.json", {k: v for k, v in r.items() if k != "id"})
    assert read(tmp_path / "qa") == EXPECTED
    put(tmp_path / "qa" / "3.json", record(3, answer="Rain"))
    with pytest.raises(InputError, match=rf"^{tmp_path}/qa/3\.json\[0\] \(s/3\): answer 'Rain' is not among"):
        read(tmp_path / "qa")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00001.parquet", "train"),
        ("data/validation-00003-of-00010.parquet", "validation"),
        ("train_clean-00000-of-00001.parquet", "train_clean"),
        ("train/part1.jsonl", "train"),
        ("mmau-test-mini.json", "test"),
        ("my_dev.csv", "dev"),
        ("contest.csv", ""),
        ("trained.csv", ""),
        ("train_and_test.csv", ""),
        ("questions.csv", ""),
    ],
)
def test_splits_by_the_names_of_files(tmp_path, name, split):
    assert split_of_name(tmp_path / name, tmp_path) == split


@pytest.mark.parametrize("word", ["dev", "Validation", "valid", "val"])
def test_words_for_splits_in_a_record_are_ours_and_null_is_none(tmp_path, word):
    path = put(tmp_path / "q.json", [record(0, split=word), record(1, split=None), record(2, split="")])
    assert [r.question.split for r in read_annotations(path)] == ["val", "", ""]
    put(path, [record(0, split="part 2")])
    with pytest.raises(InputError, match=r"split must be one of .*got 'part 2'; --split-map part 2=train reads it, "):
        read_annotations(path)
    assert [r.question.split for r in read_annotations(path, {"splits": {"part 2": "test"}})] == ["test"]


def test_an_iterator_reads_no_more_than_it_gives(tmp_path):
    """A fault far behind is met when it is reached, not before: the file is not read as a whole."""
    bad = [json.dumps(r) for r in [record(n) for n in range(3_000)]] + ["{"]
    path = put(tmp_path / "q.jsonl", "\n".join(bad))
    rows = iter_annotations(path)
    assert [next(rows).question.id for _ in range(3_000)][-1] == "2999"
    with pytest.raises(InputError, match=rf"^{path}:3001: not JSON: "):
        next(rows)
