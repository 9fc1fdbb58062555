"""Answers outlive any interruption: a line cut off loses that line alone, and none is kept twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pytest

from earwitness.curriculum.contribution.votes import read_tallies
from earwitness.curriculum.table import read_arrow
from earwitness.datamodules.voting.answer_store import ANSWER_SCHEMA, AnswerId, AnswerStore, answer_id, write_answers
from earwitness.errors import InputError


def record(uid: int, condition: str = "silence", rotation: int = 0, draw: int = 0, **more) -> dict:
    """An answer in letters of every length: one to four bytes."""
    made = {"uid": uid, "condition": condition, "rotation": rotation, "draw": draw, "key": f"s/{uid}"}
    return made | {"raw": f'a\\"\né\u2028犬🐕 {uid}', "correct": uid % 2 == 0} | more


def lines(store: AnswerStore) -> list[bytes]:
    return store.path.read_bytes().split(b"\n")


def test_answers_come_back_as_they_were_in_the_order_they_came(tmp_path):
    store = AnswerStore(tmp_path / "kimi.arrow")
    assert store.read() == [] and not store.folder.exists()
    given = [record(2**64 - 1), record(3, "audio"), record(3, scores=[-0.5, float("-inf")], p_right=1.0)]
    store.append(given[:2])
    store.append(iter(given[2:]))
    store.append([])
    assert AnswerStore(tmp_path / "kimi.arrow").read() == given
    assert store.path == tmp_path / "kimi.asked" / "rank0.jsonl" and len(lines(store)) == 4 and lines(store)[3] == b""


def test_an_answer_is_known_by_question_condition_rotation_and_draw(tmp_path):
    """Each of the four tells answers apart; a record without the last two is the first of both."""
    store = AnswerStore(tmp_path / "v.arrow")
    ids = [AnswerId(1, "audio"), AnswerId(2, "audio"), AnswerId(1, "silence"), AnswerId(1, "audio", 1)]
    ids.append(AnswerId(1, "audio", 0, 1))
    store.append([{"uid": 1, "condition": "audio"}])
    assert store.missing(ids) == ids[1:]
    store.append(record(*each) for each in ids[3:])
    assert store.missing(reversed(ids)) == [ids[2], ids[1]]
    assert answer_id({"uid": "7", "condition": "noise", "draw": 2}) == (7, "noise", 0, 2)


def test_the_first_of_two_answers_to_one_question_stands(tmp_path):
    first, second = AnswerStore(tmp_path / "v.arrow", 0), AnswerStore(tmp_path / "v.arrow", 1)
    second.append([record(1, raw="other rank"), record(2, raw="alone")])
    first.append([record(1, raw="first"), record(1, raw="again")])
    assert [each["raw"] for each in first.read()] == ["first", "alone"]
    assert first.finish() == 2 and read_arrow(first.file).column("raw").to_pylist() == ["first", "alone"]


def test_each_process_writes_its_own_file_and_reads_all(tmp_path):
    stores = [AnswerStore(tmp_path / "v.arrow", rank) for rank in (0, 1, 10)]
    for rank, store in enumerate(stores):
        store.append(record(uid) for uid in range(10 * rank, 10 * rank + 5))
    assert sorted(path.name for path in stores[0].folder.iterdir()) == ["rank0.jsonl", "rank1.jsonl", "rank10.jsonl"]
    wanted = [AnswerId(uid, "silence") for uid in range(30)]
    for store in stores:
        assert sorted(each["uid"] for each in store.read()) == [*range(5), *range(10, 15), *range(20, 25)]
        assert [each.uid for each in store.missing(wanted)] == [*range(5, 10), *range(15, 20), *range(25, 30)]


def test_a_file_cut_off_at_any_byte_loses_the_cut_line_alone(tmp_path, monkeypatch):
    """At every length of the file: whole lines are read, and what is appended next stands on a line of its own."""
    monkeypatch.setattr(os, "fsync", lambda number: None)
    store = AnswerStore(tmp_path / "v.arrow")
    given = [record(1), record(2, p_right=0.25), record(3)]
    store.append(given)
    whole = store.path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == 10]
    for cut in range(len(whole) + 1):
        store.path.write_bytes(whole[:cut])
        kept = given[: sum(end <= cut for end in ends)]
        assert store.read() == kept
        store.append([record(4)])
        assert store.read() == [*kept, record(4)]
        assert all(json.loads(line) for line in lines(store)[:-1]) and lines(store)[-1] == b""
        assert [each.uid for each in store.missing([AnswerId(uid, "silence") for uid in (1, 2, 3, 4)])] == [
            uid for uid in (1, 2, 3) if uid > len(kept)
        ]


@pytest.mark.parametrize("damage", [b"{", b"[]", b"3", b"null", b'"uid"', b"", b"\xff\xfe", b'{"uid": 1}', b"\0" * 40])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, damage):
    store = AnswerStore(tmp_path / "v.arrow", 3)
    store.append([record(1), record(2), record(3)])
    parts = lines(store)
    store.path.write_bytes(b"\n".join([parts[0], damage, *parts[2:]]))
    with pytest.raises(InputError, match=r"v\.asked/rank3\.jsonl:2: not a stored answer; remove the line to ask again"):
        store.read()


def test_half_a_surrogate_pair_is_kept_as_a_question_mark(tmp_path):
    """Servers send such texts; neither a file nor a table can hold them."""
    store = AnswerStore(tmp_path / "v.arrow")
    store.append([record(1, raw=json.loads('"rain \\ud83d, \\ud83d\\udc15"'))])
    assert store.read()[0]["raw"] == "rain ?, 🐕"
    assert store.finish() == 1 and read_arrow(store.file).column("raw").to_pylist() == ["rain ?, 🐕"]


_WRITER = """
import sys
from earwitness.datamodules.voting.answer_store import AnswerStore
store = AnswerStore(sys.argv[1], int(sys.argv[2]))
for uid in range(int(sys.argv[3]), 10**9):
    store.append([{"uid": uid, "condition": "silence", "raw": "x" * (uid % 5000), "correct": True}])
"""


def test_a_writing_process_can_be_killed_and_the_next_one_goes_on(tmp_path):
    """kill -9 at random moments, two processes at a time: all but the last line of each is there, in order."""
    file, begin, moments = tmp_path / "v.arrow", [0, 500_000_000], random.Random(1)
    for _ in range(2):
        writers = [
            subprocess.Popen([sys.executable, "-c", _WRITER, str(file), str(rank), str(begin[rank])]) for rank in (0, 1)
        ]
        try:
            for rank, writer in enumerate(writers):
                grown = begin[rank] % 500_000_000 + 30
                while len(AnswerStore(file, rank).read()) == 0 or len(_uids(file, rank)) < grown:
                    assert writer.poll() is None
                    time.sleep(0.01)
            time.sleep(moments.random() * 0.05)
        finally:
            for writer in writers:
                writer.send_signal(signal.SIGKILL)
                writer.wait()
        for rank in (0, 1):
            first = rank * 500_000_000
            found = _uids(file, rank)
            assert found == list(range(first, first + len(found)))
            begin[rank] = found[-1] + 1
    store = AnswerStore(file)
    assert store.finish() == sum(len(_uids(file, rank)) for rank in (0, 1)) > 120


def _uids(file, rank: int) -> list[int]:
    path = AnswerStore(file, rank).path
    whole = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    return [json.loads(line)["uid"] for line in whole]


def test_an_answer_is_on_disk_before_append_returns(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size))
    store = AnswerStore(tmp_path / "v.arrow")
    for uid in range(3):
        store.append([record(uid)])
        assert synced[-1] == store.path.stat().st_size and len(synced) == uid + 1


def test_the_table_is_in_order_and_tells_of_every_voter(tmp_path):
    """Two conditions. Question 5: right in 1 of 2 rotations, p (0.8 + 0.4) / 2; question 9: one draw was not judged."""
    store = AnswerStore(tmp_path / "v.arrow")
    store.append(
        [
            record(9, "silence", 0, 1, correct=None),
            record(9, "silence", 0, 0, correct=True),
            record(5, "silence", 1, correct=False, p_right=0.4, scores=[-1.0, -3.0], right_option=1),
            record(5, "audio", correct=True),
            record(5, "silence", 0, correct=True, p_right=0.8, scores=[-2.0, -1.0], right_option=1),
            record(2**63, "audio", correct=False),
        ]
    )
    assert store.finish() == 6
    table = read_arrow(store.file)
    assert table.schema.equals(ANSWER_SCHEMA)
    rows = [answer_id(row) for row in table.to_pylist()]
    silent = [AnswerId(5, "silence"), AnswerId(5, "silence", 1), AnswerId(9, "silence"), AnswerId(9, "silence", 0, 1)]
    assert rows == [AnswerId(5, "audio"), AnswerId(2**63, "audio"), *silent]
    tallies = read_tallies(store.file)
    assert sorted(tallies) == ["audio", "silence"]
    assert tallies["audio"].uid.tolist() == [5, 2**63] and tallies["audio"].right.tolist() == [1, 0]
    silence = tallies["silence"]
    assert (silence.uid.tolist(), silence.right.tolist(), silence.asked.tolist()) == ([5, 9], [1, 1], [2, 1])
    assert silence.p_right[0] == pytest.approx(0.6)
    # -1 - (-2 - 1) / 2 = 0.5 and -3 - (-1 - 3) / 2 = -1: their mean is -0.25.
    assert silence.log_excess[0] == pytest.approx(-0.25)


def test_fields_that_a_record_lacks_are_null_and_it_is_the_first_rotation_and_draw(tmp_path):
    write_answers([{"uid": 3, "condition": "audio"}], tmp_path / "a.arrow")
    (row,) = read_arrow(tmp_path / "a.arrow").to_pylist()
    assert row == dict.fromkeys(ANSWER_SCHEMA.names) | {"uid": 3, "condition": "audio", "rotation": 0, "draw": 0}
    assert pa.types.is_uint64(ANSWER_SCHEMA.field("uid").type)


HOW = {"model": "m", "style": "paper", "body": {"top_p": 0.5}, "seed": 0}


def test_answers_to_something_else_are_refused_and_the_change_is_named(tmp_path):
    store = AnswerStore(tmp_path / "v.arrow")
    store.refuse_changed("v", HOW)
    store.remember(HOW)
    store.append([record(1)])
    store.refuse_changed("v", HOW)
    for key, value in {"model": "n", "style": "lines", "body": {}, "seed": 1, "prompt": "new"}.items():
        with pytest.raises(InputError, match=f"v was asked with {key} .*, now it is {value!r}; remove the folder"):
            store.refuse_changed("v", HOW | {key: value})
    with pytest.raises(InputError, match="v was asked with seed 0, now it is None"):
        store.refuse_changed("v", {key: HOW[key] for key in ("model", "style", "body")})
    assert [path.name for path in sorted(store.folder.iterdir())] == ["asked.json", "rank0.jsonl"]


def test_as_long_as_nothing_was_answered_everything_may_change(tmp_path):
    store = AnswerStore(tmp_path / "v.arrow")
    store.remember(HOW)
    store.refuse_changed("v", HOW | {"model": "other"})
    store.remember(HOW | {"model": "other"})
    store.append([record(1)])
    with pytest.raises(InputError, match="v was asked with model 'other', now it is 'm'"):
        store.refuse_changed("v", HOW)
