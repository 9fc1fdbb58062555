"""Tars that others packed: read through the same fields as annotations, and what cannot be read is named."""

import gzip
import json
from pathlib import Path

import pytest

from earwitness.commands.cli import main
from earwitness.curriculum.table import read_arrow
from earwitness.datamodules.audio.waves import flac_bytes
from earwitness.datamodules.questions.fields import Fields
from earwitness.datamodules.shards.index import build_index
from earwitness.datamodules.shards.reader import ShardReader
from earwitness.errors import InputError
from earwitness.tests.datamodules.shards.test_index import good, pack, record, sound

A, B = good("a", 1), good("b", 2)


def theirs(number: int, **more) -> dict:
    return {"nr": number, "q": f"Nº {number}?", "opts": {"A": "Wind", "B": "Water"}, "gold": "B", "lang": "en"} | more


def sample(key: str, content, number: int) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    return (f"{key}.json", json.dumps(content).encode()), (f"{key}.flac", flac_bytes(sound(number)))


FIELDS = {
    "columns": {"id": "nr", "question": "q", "choices": "opts", "answer": "gold"},
    "constants": {"source_dataset": "lab"},
    "answer": "letter",
    "keep": ["lang"],
}


def test_other_names_letters_and_constants_are_read_when_indexing_and_ever_after(tmp_path):
    pack(tmp_path / "x.tar", *sample("a", theirs(1), 1), *sample("b", [theirs(2), theirs(3, lang="zh", gold="A")], 2))
    assert build_index(str(tmp_path), fields=FIELDS)["questions"] == 3
    reader = ShardReader(tmp_path / "index.arrow")
    found = {reader.key(row): reader.question(row) for row in range(3)}
    assert {key: (q.question, q.choices, q.answer) for key, q in found.items()} == {
        "lab/1": ("Nº 1?", ("Wind", "Water"), "Water"),
        "lab/2": ("Nº 2?", ("Wind", "Water"), "Water"),
        "lab/3": ("Nº 3?", ("Wind", "Water"), "Wind"),
    }
    table = read_arrow(tmp_path / "index.arrow")
    assert table.column("lang").to_pylist() == ["en", "en", "zh"]
    with pytest.raises(
        InputError, match=r"x\.tar:a\.json: field 'source_dataset' .*; there are nr, q, opts, gold, lang"
    ):
        build_index(str(tmp_path))


def test_the_command_takes_the_flags_and_names_what_it_does_not_use(tmp_path, capsys):
    pack(tmp_path / "x.tar", *sample("a", theirs(1), 1))
    columns = ["id=nr", "question=q", "choices=opts", "answer=gold"]
    how = ["--column", *columns, "--constant", "source_dataset=lab", "--answer", "letter", "--workers", "1"]
    main(["index", str(tmp_path), *how])
    captured = capsys.readouterr()
    told, hint = captured.err.splitlines()
    assert told == f"{tmp_path}: columns not used: lang (--keep NAME carries one into the index)"
    assert hint == f"next: earwitness inspect {tmp_path}/index.arrow"
    index = (tmp_path / "index.arrow").read_bytes()
    main(["index", str(tmp_path), *how, "--keep", "lang"])
    assert capsys.readouterr().err == f"{hint}\n" and (tmp_path / "index.arrow").read_bytes() != index


def test_answers_of_another_kind_name_the_flag_that_reads_them(tmp_path):
    """Shards are read by several processes, so that how answers are written is never guessed from some of them."""
    pack(tmp_path / "x.tar", *sample("a", record(1, choices=["Wind", "Water"], answer="B"), 1))
    with pytest.raises(InputError, match=r"answer 'B' is not among the choices .*; give --answer letter if"):
        build_index(str(tmp_path))
    assert build_index(str(tmp_path), fields={"answer": "letter"})["questions"] == 1


def test_samples_of_splits_that_are_left_out_are_ignored_and_counted(tmp_path):
    pack(tmp_path / "x.tar", *sample("a", record(1, split="extra"), 1), *sample("b", record(2, split="dev"), 2))
    with pytest.raises(InputError, match=r"split must be one of .*; --split-map extra=train reads it, "):
        build_index(str(tmp_path))
    counts = build_index(str(tmp_path), fields=Fields(splits={"extra": "skip"}))
    assert (counts["questions"], counts["members"], counts["indexed"], counts["ignored"]) == (1, 4, 2, 2)
    assert read_arrow(tmp_path / "index.arrow").column("split").to_pylist() == ["val"]


def test_a_plain_index_leaves_options_with_letters_as_they_are(tmp_path):
    """They are those of a tar that has been packed, whose texts voters were asked."""
    pack(tmp_path / "x.tar", *sample("a", record(1, choices=["A. x", "B. y"], answer="A. x"), 1))
    build_index(str(tmp_path))
    assert ShardReader(tmp_path / "index.arrow").question(0).choices == ("A. x", "B. y")


FAULTS = {
    "dots": (
        [("clip.v1.json", A[0][1]), ("clip.v1.flac", A[1][1])],
        r"x\.tar:clip: 'clip\.v1\.json' has a dot in its name: WebDataset takes 'clip' as the sample's key and "
        r"'v1\.json' as the kind of member; rename it",
    ),
    "texts first": (
        [A[0], B[0], A[1], B[1]],
        r"x\.tar:a: .*\['a\.json'\]: its recording stands elsewhere in the tar; sort",
    ),
    "recordings first": (
        [A[1], B[1], A[0], B[0]],
        r"x\.tar:a: .*: its \.json stands elsewhere in the tar; sort its mem",
    ),
    "no recording": ([A[0], *B], r"x\.tar:a: .*\['a\.json'\]: there is no recording$"),
    "two texts": ([*A, ("a.json", A[0][1])], r"x\.tar:a: .*, and this one has two \.json members: \['a\.json', "),
    "two recordings": (
        [*A, ("a.wav", b"x")],
        r"x\.tar:a: .*, and this one has two recordings: \['a\.json', ",
    ),
    "another kind": ([*A, ("a.meta.json", b"{}")], r"type \.meta\.json is not read .*\(--ignore meta\.json\)$"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_names_and_order_are_named_with_their_members(tmp_path, name):
    members, says = FAULTS[name]
    pack(tmp_path / "x.tar", *members)
    with pytest.raises(InputError, match=says):
        build_index(str(tmp_path))


def test_what_macos_and_windows_leave_behind_is_ignored_and_counted(tmp_path):
    junk = ["._a.json", "._a.flac", ".DS_Store", "__MACOSX/a.json", "d/.DS_Store", "d/._x.wav", "Thumbs.db"]
    members = [(name, b"\0\5\x16\7") for name in junk]
    pack(tmp_path / "x.tar", members[0], A[0], members[1], A[1], *members[2:5], *B, *members[5:])
    (tmp_path / "._x.tar").write_bytes(b"\0\5\x16\7")
    counts = build_index(str(tmp_path))
    assert (counts["questions"], counts["members"], counts["indexed"], counts["ignored"]) == (2, 11, 4, 7)


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz"])
def test_a_compressed_tar_is_named_with_the_way_out(tmp_path, name):
    pack(tmp_path / "x.tar", *A)
    data = gzip.compress((tmp_path / "x.tar").read_bytes())
    (tmp_path / "x.tar").unlink()
    (tmp_path / name).write_bytes(data)
    for where in (tmp_path, tmp_path / name):
        with pytest.raises(InputError, match=rf"{name}: is compressed; parts of a shard are read by place: unpack"):
            build_index(str(where))
    (tmp_path / "y.tar").write_bytes(data)
    with pytest.raises(InputError, match=r"y\.tar: is compressed \(gzip\); parts of a shard are read by place: unpack"):
        build_index(str(tmp_path / "y.tar"))


def test_an_index_whose_fields_were_changed_is_refused(tmp_path):
    """They decide what is asked: like every value of the index they are under its hash."""
    import pyarrow as pa

    from earwitness.curriculum.table import write_arrow

    pack(tmp_path / "x.tar", *sample("a", theirs(1), 1))
    build_index(str(tmp_path), fields=FIELDS)
    table = read_arrow(tmp_path / "index.arrow")
    about = json.loads(table.schema.metadata[b"earwitness"])
    for changed in ({"answer": "index"}, {"unheard": 1}, 7):
        forged = table.replace_schema_metadata({"earwitness": json.dumps(about | {"fields": changed})})
        write_arrow(forged, Path(tmp_path / "index.arrow"))
        with pytest.raises(InputError, match=r"index\.arrow: .*; index again$"):
            ShardReader(tmp_path / "index.arrow")
    forged = table.append_column("more", pa.array([1.0])).replace_schema_metadata(table.schema.metadata)
    write_arrow(forged, Path(tmp_path / "index.arrow"))
    with pytest.raises(InputError, match="the index was changed after it was written"):
        ShardReader(tmp_path / "index.arrow")
