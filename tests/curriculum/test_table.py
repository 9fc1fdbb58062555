"""The columns a curriculum may decide on: what is read, how labels join by uid, and what is refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from earwitness.curriculum.table import Categorical, Table, read_arrow, read_table, write_arrow
from earwitness.errors import InputError


def written(path, **columns):
    """An arrow file with a uint64 `uid` column and the given others."""
    columns["uid"] = pa.array(columns["uid"], pa.uint64())
    write_arrow(pa.table(columns), path)
    return path


def words(column: Categorical) -> list[str | None]:
    return [column.names[code] if code >= 0 else None for code in column.codes]


@pytest.fixture
def index(tmp_path):
    return written(
        tmp_path / "index.arrow",
        uid=[30, 10, 20, 2**64 - 1],
        key=["s/30", "s/10", "s/20", "s/x"],
        shard=["a.tar"] * 4,
        source=["sounds", "speech", "sounds", None],
        split=pa.array(["train", "val", "train", "test"]).dictionary_encode(),
        num_choices=pa.array([4, 2, 4, 3], pa.int8()),
        duration_s=pa.array([1.5, 2.0, None, 0.25], pa.float32()),
        offset=pa.array([0, 512, 1024, 2048], pa.int64()),
    )


def test_columns_are_words_numbers_or_left_out(index):
    """Text stays text, small numbers and lengths become float64, identities, names and 64-bit offsets are left out."""
    table = read_table(index)
    assert sorted(table.columns) == ["duration_s", "num_choices", "source", "split"]
    assert table.uid.dtype == np.uint64 and table.uid.tolist() == [30, 10, 20, 2**64 - 1]
    assert words(table.text("source")) == ["sounds", "speech", "sounds", None]
    assert words(table.text("split")) == ["train", "val", "train", "test"]
    assert table.columns["num_choices"].tolist() == [4.0, 2.0, 4.0, 3.0]
    np.testing.assert_array_equal(table.columns["duration_s"], [1.5, 2.0, np.nan, 0.25])


def test_labels_join_by_uid_and_not_by_position(index, tmp_path):
    """Rows without a label carry -1 and NaN, never a neighbour's value; labels of other samples are ignored."""
    labels = written(
        tmp_path / "labels.arrow",
        uid=[10, 77, 2**64 - 1, 30],
        label=["weak", "weak", "strong", "strong"],
        votes=pa.array([3, 2, 0, 1], pa.int8()),
    )
    table = read_table(index, labels)
    assert words(table.text("label")) == ["strong", "weak", None, "strong"]
    assert table.text("label").codes[2] == -1
    np.testing.assert_array_equal(table.columns["votes"], [1, 3, np.nan, 0])


def test_a_null_label_is_a_missing_label(index, tmp_path):
    labels = written(tmp_path / "labels.arrow", uid=[10, 20, 30], label=["weak", None, "strong"])
    assert words(read_table(index, labels).text("label")) == ["strong", "weak", None, None]


def test_the_join_does_not_depend_on_the_order_of_the_label_file(index, tmp_path):
    uid, label = np.array([10, 20, 30]), np.array(["weak", "strong", "weak"])
    joined = []
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        labels = written(tmp_path / "labels.arrow", uid=uid[order], label=label[order])
        joined.append(words(read_table(index, labels).text("label")))
    assert joined == [["weak", "weak", "strong", None]] * 3


def test_labels_may_be_parquet(index, tmp_path):
    columns = {"uid": pa.array([10, 20], pa.uint64()), "label": ["weak", "strong"]}
    pq.write_table(pa.table(columns), tmp_path / "labels.parquet")
    assert words(read_table(index, tmp_path / "labels.parquet").text("label")) == [None, "weak", "strong", None]


def test_labels_of_another_corpus_are_refused(index, tmp_path):
    labels = written(tmp_path / "labels.arrow", uid=[11, 21], label=["weak", "strong"])
    with pytest.raises(InputError, match=r"labels\.arrow: none of its rows belongs to the index"):
        read_table(index, labels)


def test_an_empty_label_table_is_refused(index, tmp_path):
    labels = written(tmp_path / "labels.arrow", uid=[], label=pa.array([], pa.string()))
    with pytest.raises(InputError, match="none of its rows belongs"):
        read_table(index, labels)


def test_a_sample_with_two_rows_is_refused_by_its_uid(index, tmp_path):
    twice = written(tmp_path / "twice.arrow", uid=[7, 255, 7], label=["weak", "weak", "strong"])
    with pytest.raises(InputError, match=r"twice\.arrow: uid 0x0000000000000007 occurs twice"):
        read_table(twice)
    with pytest.raises(InputError, match=r"twice\.arrow: uid 0x0000000000000007 occurs twice"):
        read_table(index, twice)


def test_take_is_a_row_selection_in_the_given_order(index):
    part = read_table(index).take(np.array([2, 0]))
    assert len(part) == 2 and part.uid.tolist() == [20, 30]
    assert words(part.text("source")) == ["sounds", "sounds"]
    np.testing.assert_array_equal(part.columns["duration_s"], [np.nan, 1.5])


def test_take_of_take_is_take_of_the_composition(index):
    table, outer, inner = read_table(index), np.array([3, 1, 0]), np.array([2, 0])
    once, twice = table.take(outer[inner]), table.take(outer).take(inner)
    assert once.uid.tolist() == twice.uid.tolist() == [30, 2**64 - 1]
    assert words(once.text("source")) == words(twice.text("source"))


@pytest.mark.parametrize(
    ("pool", "rows"),
    [
        ({}, [0, 1, 2, 3]),
        ({"source": "sounds"}, [0, 2]),
        ({"split": ["val", "test"]}, [1, 3]),
        ({"source": ["sounds", "speech"]}, [0, 1, 2]),  # row 3 has no source
        ({"source": "sounds", "split": "val"}, []),
    ],
)
def test_where_keeps_the_rows_that_fit_every_column(index, pool, rows):
    assert read_table(index).where(pool).tolist() == rows


def test_an_unknown_value_is_told_the_known_ones(index):
    with pytest.raises(InputError, match=r"column 'split' has no value 'valid'; it has train, val, test"):
        read_table(index).where({"split": ["train", "valid"]})


def test_an_unknown_or_numeric_column_is_told_the_columns(index):
    table = read_table(index)
    for column in ("label", "num_choices"):
        with pytest.raises(InputError, match=f"no text column '{column}'.*duration_s, num_choices, source, split"):
            table.where({column: "weak"})


def test_a_missing_value_equals_nothing():
    column = Categorical(np.array([0, -1, 1, -1], np.int32), ("weak", "strong"))
    assert column.equals(["weak", "strong"], "label").tolist() == [True, False, True, False]
    assert not column.equals([], "label").any()


def test_a_table_may_be_empty(tmp_path):
    table = read_table(written(tmp_path / "none.arrow", uid=[], source=pa.array([], pa.string())))
    assert isinstance(table, Table) and len(table) == 0 and table.where({}).tolist() == []


def test_a_file_that_is_missing_or_broken_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.arrow: not found; write it with `earwitness shard`"):
        read_arrow(tmp_path / "gone.arrow")
    (tmp_path / "half.arrow").write_bytes(b"ARROW1\0\0 and then nothing")
    with pytest.raises(InputError, match=r"half\.arrow: not a readable table"):
        read_arrow(tmp_path / "half.arrow")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    """The new table is written beside the old one; if that breaks off, readers still find the old one whole."""
    path = written(tmp_path / "table.arrow", uid=[1])

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(pa.ipc.RecordBatchFileWriter, "write_table", full)
    with pytest.raises(OSError, match="no space"):
        written(path, uid=[1, 2])
    assert read_arrow(path).column("uid").to_pylist() == [1]


def test_large_strings_are_text_too(tmp_path):
    columns = {"uid": pa.array([1], pa.uint64()), "label": pa.array(["weak"], pa.large_string())}
    write_arrow(pa.table(columns), tmp_path / "i.arrow")
    assert read_table(tmp_path / "i.arrow").text("label").names == ("weak",)


def test_identities_that_are_missing_in_a_label_table_are_refused(index, tmp_path):
    """A number of 64 bits has no value for "missing": a row would get the identity of another one."""
    labels = str(tmp_path / "labels.arrow")
    uid = read_arrow(index).column("uid")
    write_arrow(pa.table({"uid": uid, "speaker": uid}), labels)
    assert np.array_equal(read_table(index, labels).identity("speaker"), read_table(index).uid)
    write_arrow(pa.table({"uid": uid[:2], "speaker": uid[:2]}), labels)
    with pytest.raises(InputError, match=f"column 'speaker' of identities lacks {len(uid) - 2} rows of the index"):
        read_table(index, labels)
