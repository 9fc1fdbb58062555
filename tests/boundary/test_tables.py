"""Tables of strangers: whatever they declare, the answer is one sentence, in little memory (of a forked process)."""

from __future__ import annotations

import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from earwitness.boundary.tables import read_table
from earwitness.curriculum.table import read_arrow, write_arrow
from earwitness.errors import InputError
from earwitness.tests.limits import limited

ROWS = 1_000


def said(paths):
    """What reading each of the files says, "" for a table."""
    answers = {}
    for path in paths:
        try:
            read_arrow(path)
            answers[path.name] = ""
        except InputError as error:
            answers[path.name] = str(error)
    return answers


def written(table, path):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return path


def edited(path, name, old: bytes, new: bytes):
    data = path.read_bytes()
    assert data.count(old) == 1
    target = path.with_name(name)
    target.write_bytes(data.replace(old, new))
    return target


def understate(path):
    """Has the footer of a Parquet file of one column and group say that it unpacks to 1,024 bytes; pages say more."""
    data = path.read_bytes()
    said = pq.ParquetFile(path).metadata.row_group(0).column(0).total_uncompressed_size
    digits = varint(said)
    padded = bytes([*(byte | 128 for byte in varint(1_024)), *[128] * (len(digits) - 3), 0])
    footer = data[-2_000:].replace(digits, padded)
    path.write_bytes(data[:-2_000] + footer)
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).total_uncompressed_size == 1_024


def varint(number: int) -> bytes:
    value, out = 2 * number, []
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Files, each of which killed the process or took gigabytes."""
    folder = tmp_path_factory.mktemp("tables")
    zeros = pa.table({"uid": np.zeros(20_000_000, np.uint64)})
    write_arrow(zeros, folder / "packed.arrow", "zstd")
    pq.write_table(zeros, folder / "runs.parquet")
    same = pa.array(["x" * 100_000]).dictionary_encode()
    many = pa.DictionaryArray.from_arrays(pa.array(np.zeros(4_000, np.int32)), same.dictionary)
    pq.write_table(pa.table({"label": many}), folder / "one_text.parquet")
    pq.write_table(pa.table({"label": many.cast(pa.string())}), folder / "one_plain_text.parquet", store_schema=False)
    plainly = {"use_dictionary": False, "row_group_size": len(zeros), "data_page_size": 1 << 28}
    pq.write_table(zeros, folder / "pages.parquet", compression="zstd", **plainly)
    understate(folder / "pages.parquet")
    nothing = written(pa.table({"nothing": pa.nulls(3_141_593)}), folder / "rows_of_nothing.arrow")
    nothing.write_bytes(nothing.read_bytes().replace(struct.pack("<q", 3_141_593), struct.pack("<q", 1 << 40)))
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([1 << 30], pa.int64()), pa.array([1.0]))
    written(pa.table({"runs": runs}), folder / "run_ends.arrow")
    texts = written(pa.table({"label": ["abcdefg", "hijklmn", "opqrstu"]}), folder / "texts.arrow")
    offsets = struct.pack("<4i", 0, 7, 14, 21)
    edited(texts, "wild.arrow", offsets, struct.pack("<4i", 0, 7, 1 << 30, 21))
    edited(texts, "negative.arrow", offsets, struct.pack("<4i", 0, -7, 14, 21))
    names = written(pa.table({"label": pa.array(list("wsw") * 5).dictionary_encode()}), folder / "names.arrow")
    codes = struct.pack("<15i", *[0, 1, 0] * 5)
    edited(names, "wild_codes.arrow", codes, struct.pack("<15i", *[0, 1 << 28, 0] * 5))
    whole = texts.read_bytes()
    (folder / "cut.arrow").write_bytes(whole[:-40])
    (folder / "no_footer.arrow").write_bytes(whole[:-100] + b"\xff" * 90 + whole[-10:])
    (folder / "zeros.parquet").write_bytes(b"PAR1" + b"\0" * 64 + b"PAR1")
    texts.unlink()
    names.unlink()
    return sorted(folder.iterdir())


def test_every_one_is_refused_in_a_sentence_within_half_a_gigabyte(hostile):
    answers = limited(lambda: said(hostile), grows=1 << 29, seconds=60)
    assert "20,000,000 rows of 160,0" in answers["pages.parquet"], "its pages are counted, whatever its footer says"
    readable = {name for name, answer in answers.items() if not answer}
    assert readable <= {"no_footer.arrow"}  # the list at the end of a file is not used
    assert all(answer.count("\n") == 0 and len(answer) < 600 for answer in answers.values())
    assert "20,000,000 rows" in answers["packed.arrow"] and "unpacks to more than" in answers["runs.parquet"]


def test_tables_of_every_kind_here_come_back_as_they_were(tmp_path):
    table = pa.table(
        {
            "uid": np.arange(ROWS, dtype=np.uint64),
            "label": pa.array(["weak", None] * (ROWS // 2)).dictionary_encode(),
            "raw": pa.array(["Bär\n", None] * (ROWS // 2)),
            "long": pa.array(["a"] * ROWS, pa.large_string()),
            "view": pa.array(["a text that is longer than twelve bytes"] * ROWS, pa.string_view()),
            "right": pa.array([True, None] * (ROWS // 2)),
            "scores": pa.array([[0.5, 1.0], None] * (ROWS // 2), pa.list_(pa.float32())),
            "none": pa.nulls(ROWS),
        }
    ).replace_schema_metadata({"earwitness": "{}"})
    for compression in (None, "zstd", "lz4"):
        write_arrow(table, tmp_path / "a.arrow", compression)
        assert read_table(tmp_path / "a.arrow").equals(table, check_metadata=True)
    write_arrow(table.slice(0, 0), tmp_path / "b.arrow")
    assert read_arrow(tmp_path / "b.arrow").num_rows == 0
    plain = table.drop_columns(["view", "none"])
    pq.write_table(plain, tmp_path / "c.parquet")
    assert read_table(tmp_path / "c.parquet").equals(plain)


def test_two_writers_of_one_table_do_not_meet(tmp_path):
    """Names of scratch files are nobody's guess, and a link in the place of one is not written through."""
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "a.arrow.partial").symlink_to(tmp_path / "precious")
    (tmp_path / "a.arrow").symlink_to(tmp_path / "precious")
    write_arrow(pa.table({"uid": [1]}), tmp_path / "a.arrow")
    assert (tmp_path / "precious").read_text() == "mine" and not (tmp_path / "a.arrow").is_symlink()
    assert read_arrow(tmp_path / "a.arrow").num_rows == 1
