"""What `earwitness inspect` prints are the index's own counts, and the sample it writes can be played."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from earwitness.commands.cli import main
from earwitness.commands.inspection.index import inspect_index
from earwitness.curriculum.table import read_arrow, write_arrow
from earwitness.datamodules.shards.index import build_index
from earwitness.errors import InputError
from earwitness.tests.datamodules.shards.test_index import pack, record


def wav(number: int, seconds: float) -> bytes:
    buffer = io.BytesIO()
    wave = 0.1 * np.random.default_rng(number).normal(size=round(16_000 * seconds))
    soundfile.write(buffer, wave, 16_000, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Six questions on four recordings of 0.5, 1, 2 and 6.5 s in two shards: 10 s in all, 1.5 questions each."""
    questions = {
        "a": [record(1, split="train", audio_contribution="weak"), record(2, split="train", question_type="speech")],
        "b": [record(3, split="val", source_dataset="$x^{$ cost", choices=["a", "b", "c"])],
        "c": [
            record(4, split="train", audio_contribution="strong"),
            record(5, split="train", audio_contribution="weak"),
        ],
        "d": [record(6, split="test", source_dataset="../t", id="x/y", structured_cot="I hear it.", question="Which?")],
    }
    seconds = {"a": 0.5, "b": 1.0, "c": 2.0, "d": 6.5}
    for shard in ("ab", "cd"):
        members = []
        for key in shard:
            members.append((f"{key}.json", json.dumps({"questions": questions[key]}).encode()))
            members.append((f"{key}.wav", wav(ord(key), seconds[key])))
        pack(tmp_path / f"{shard}.tar", *members)
    build_index(str(tmp_path))
    return tmp_path


def lines(text: str) -> dict[str, list[str]]:
    """The printed blocks: title -> its rows as words."""
    blocks = [block.splitlines() for block in text.strip().split("\n\n")]
    return {block[0]: [" ".join(row.split()) for row in block[1:]] for block in blocks}


def test_the_printed_counts_are_those_of_the_index(corpus, capsys):
    main(["inspect", str(corpus / "index.arrow"), "--out", str(corpus / "look")])
    found = lines(capsys.readouterr().out)
    assert found == {
        "6 questions about 4 recordings, 0.00 hours": [
            "length 0.50 to 6.50 s, half of them under 1.50 s",
            f"1.50 questions a recording, 2 shards in {corpus}",
            "levels are not known: `earwitness index SHARDS --decode` measures them",
        ],
        "split": ["train 4 66.7%", "val 1 16.7%", "test 1 16.7%"],
        "source": ["s 4 66.7%", "$x^{$ cost 1 16.7%", "../t 1 16.7%"],
        "question_type": ["unknown 5 83.3%", "speech 1 16.7%"],
        "audio_contribution": ["weak 2 33.3%", "strong 1 16.7%", "(none) 3 50.0%"],
        "options": ["2 5 83.3%", "3 1 16.7%"],
        f"written: {corpus}/look/inspect.png": [],
    }
    assert (corpus / "look" / "inspect.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_labels_are_counted_where_they_are_given(corpus, capsys):
    """Two of six questions have one; the others are named as having none."""
    uids = read_arrow(corpus / "index.arrow").column("uid").to_pylist()
    table = pa.table({"uid": pa.array(uids[1:3], pa.uint64()), "label": ["strong", "strong"]})
    write_arrow(table, corpus / "labels.arrow")
    inspect_index(str(corpus / "index.arrow"), str(corpus / "labels.arrow"), str(corpus / "look"))
    assert lines(capsys.readouterr().out)["label"] == ["strong 2 33.3%", "(none) 4 66.7%"]


def test_a_sample_is_printed_whole_and_its_recording_written_as_it_was(corpus, capsys):
    """Its name becomes a file's name inside the folder, whatever it holds."""
    words = ["inspect", str(corpus / "index.arrow"), "--out", str(corpus / "look"), "--sample", "../t/x/y"]
    main(words)
    printed = capsys.readouterr().out
    assert [p.name for p in (corpus / "look").iterdir()] == ["..-t-x-y.wav"]
    assert (corpus / "look" / "..-t-x-y.wav").read_bytes() == wav(ord("d"), 6.5)
    assert printed.startswith(
        "../t/x/y  (test, unknown, 6.50 s)\n"
        "peak -7.3 dB, RMS -20.0 dB, 0% digital silence\n\nWhich?\n  * a\n    b\n\nstructured reasoning: I hear"
    )
    assert printed.endswith(f"{corpus}/look/..-t-x-y.wav\n")


def test_a_name_longer_than_any_file_may_have_is_cut(tmp_path, capsys):
    name = "n" * 3_000
    pack(tmp_path / "x.tar", ("a.json", json.dumps(record(1, id=name)).encode()), ("a.wav", wav(1, 0.1)))
    build_index(str(tmp_path))
    inspect_index(str(tmp_path / "index.arrow"), out=str(tmp_path / "look"), sample=f"s/{name}")
    assert [p.name for p in (tmp_path / "look").iterdir()] == ["s-" + "n" * 58 + ".wav"]


def test_a_question_does_not_speak_to_the_terminal(tmp_path, capsys):
    fields = record(
        1, question="Hear\x1b[2J\x07 this\nand that?", choices=["a", "b\x9b1m"], unstructured_cot="No.\x1bc"
    )
    pack(tmp_path / "x.tar", ("a.json", json.dumps(fields).encode()), ("a.wav", wav(1, 0.1)))
    build_index(str(tmp_path))
    inspect_index(str(tmp_path / "index.arrow"), out=str(tmp_path / "look"), sample="s/1")
    printed = capsys.readouterr().out
    assert printed.replace("\n", "").isprintable() and "Hear\ufffd[2J\ufffd this\nand that?" in printed


def test_an_unknown_sample_is_refused_with_some_that_are_like_it(corpus):
    with pytest.raises(InputError, match=r"index\.arrow: no sample 's/9'; there are s/\d, "):
        inspect_index(str(corpus / "index.arrow"), out=str(corpus / "look"), sample="s/9")


def test_a_damaged_recording_is_not_written(corpus):
    data = bytearray((corpus / "ab.tar").read_bytes())
    data[2_000] ^= 1
    (corpus / "ab.tar").write_bytes(data)
    with pytest.raises(InputError, match=r"the recording changed since it was indexed \(checksum\)"):
        inspect_index(str(corpus / "index.arrow"), out=str(corpus / "look"), sample="s/1")
    assert list((corpus / "look").iterdir()) == []


def test_shards_that_were_moved_are_found_where_they_are_said_to_be(corpus, capsys):
    (corpus / "moved").mkdir()
    for name in ("ab.tar", "cd.tar"):
        (corpus / name).rename(corpus / "moved" / name)
    words = ["inspect", str(corpus / "index.arrow"), "--out", str(corpus / "look"), "--sample", "s/1"]
    with pytest.raises(SystemExit):
        main(words)
    assert "the shard is missing" in capsys.readouterr().err
    main([*words, "--shards", str(corpus / "moved")])
    assert (corpus / "look" / "s-1.wav").read_bytes() == wav(ord("a"), 0.5)


@pytest.mark.parametrize("shown", [0, 3, 20])
def test_a_reader_that_has_enough_leaves_no_word_of_it(corpus, shown):
    """As `inspect ... | head` does: it closes the pipe while there is more to write."""
    words = [sys.executable, "-m", "earwitness", "inspect", str(corpus / "index.arrow"), "--out", str(corpus / "look")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as command:
        for _ in range(shown):
            assert command.stdout.readline()
        command.stdout.close()
        said = command.stderr.read()
        assert command.wait() in (0, 141) and said == ""
