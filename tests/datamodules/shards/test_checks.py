"""Indexes that a stranger wrote: what would run code, leave the folder or speak to the terminal is refused."""

import pickle

import pyarrow as pa
import pytest
import webdataset as wds

from earwitness.commands.cli import main
from earwitness.datamodules.shards.index import SCHEMA, build_index, read_index, write_index
from earwitness.datamodules.shards.reader import ShardReader
from earwitness.datamodules.shards.streams import IndexedSamples
from earwitness.errors import InputError
from earwitness.tests.datamodules.shards.test_index import good, pack


def changed(folder, **values):
    """The index of one good sample, with other values in some columns and a right hash over them."""
    pack(folder / "x.tar", *good("a", 1))
    build_index(str(folder))
    table, root, shards = read_index(folder / "index.arrow")
    for name, value in values.items():
        column = pa.array([value] * len(table), SCHEMA.field(name).type)
        table = table.set_column(SCHEMA.names.index(name), SCHEMA.field(name), column)
    known = {values.get("shard", name): [shard.size, shard.etag] for name, shard in shards.items()}
    write_index(table, {"root": root, "shards": known}, folder / "index.arrow")
    return folder / "index.arrow"


@pytest.mark.parametrize("kind", ["pyd", "pkl", "pth", "py", "/../../x.sh", "flac/../../../x", ""])
def test_a_recording_is_of_a_kind_of_recordings(tmp_path, kind):
    """webdataset's `decode` unpickles by the ending of a member, and `inspect` calls a file by it."""
    path = changed(tmp_path, audio_ext=kind)
    for read in (lambda: ShardReader(path), lambda: main(["inspect", str(path), "--out", str(tmp_path / "look")])):
        with pytest.raises((InputError, SystemExit)) as refused:
            read()
        assert refused.type is SystemExit or "is no kind of recording (wav, " in str(refused.value)
    assert (
        sorted(p.name for p in tmp_path.iterdir()) == ["index.arrow", "look", "x.tar"] or not (tmp_path / "x").exists()
    )


@pytest.mark.parametrize("name", ["key", "split", "question_type", "source", "audio_contribution"])
@pytest.mark.parametrize("text", ["a\x1b[2Jb", "a\nb", "a\u202eb", "a\x00b", "a\x9bb", "a\u2028b"])
def test_texts_hold_nothing_that_a_terminal_obeys(tmp_path, name, text):
    with pytest.raises(InputError, match=rf"column {name} holds control characters, 'a\\") as refused:
        ShardReader(changed(tmp_path, **{name: text}))
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("name", ["../x.tar", "/etc/passwd", "..", ".", "", "a\\\\b.tar", "sub/x.tar"])
def test_a_shard_is_a_name_and_no_path(tmp_path, name):
    with pytest.raises(InputError, match="is no name of a shard"):
        ShardReader(changed(tmp_path, shard=name))


def test_a_key_is_that_of_the_question(tmp_path):
    """Under the hash of another it would be what webdataset calls the sample."""
    reader = ShardReader(changed(tmp_path, key="s/other"))
    with pytest.raises(InputError, match="the index expects s/other; re-index the shard"):
        next(iter(wds.DataPipeline(IndexedSamples(reader, [0]))))


class _Touch:
    def __reduce__(self):
        return (open, ("/tmp/never-written", "w"))


def test_a_pickle_in_the_place_of_a_recording_is_never_decoded(tmp_path):
    sample = good("a", 1)
    pack(tmp_path / "x.tar", sample[0], ("a.pyd", pickle.dumps(_Touch())))
    with pytest.raises(InputError, match=r"member type \.pyd is not read"):
        build_index(str(tmp_path))
