"""The ledger keeps every answer through kills, finds it by what was asked, and costs what it says."""

from __future__ import annotations

import json
import os

import pytest

from earwitness.datamodules.asking import ledger as ledgers
from earwitness.datamodules.asking.ledger import Ledger, Tokens, key_of
from earwitness.errors import InputError


def body(number: int = 0, **more) -> dict:
    return {"model": "m", "messages": [{"role": "user", "content": f"Question {number}? ü"}], "seed": 1} | more


def filled(folder, count: int) -> list[str]:
    keys = [key_of(body(number)) for number in range(count)]
    ledger = Ledger(folder)
    for number, key in enumerate(keys):
        assert ledger.add(key, 10, number, {"text": f'said "{number}"\n\u2028ü', "finished": True})
    ledger.close()
    return keys


def test_a_key_is_all_that_the_answer_depends_on():
    """The order of fields is no part of it; a word, a setting, the model and the attempt are."""
    same = {"seed": 1, "messages": [{"content": "Question 0? ü", "role": "user"}], "model": "m"}
    others = [key_of(body(1)), key_of(body(seed=2)), key_of(body(model="n")), key_of(body(), 1), key_of(body(top_p=1))]
    assert key_of(same) == key_of(body()) and len({key_of(body()), *others}) == 6
    assert len(key_of(body(model="half a pair \ud800"))) == 32


def test_answers_and_tokens_are_there_again(tmp_path):
    keys = filled(tmp_path, 7)
    again = Ledger(tmp_path)
    assert len(again) == 7 and again.tokens == Tokens(7, 70, 21) and key_of(body(9)) not in again
    assert [again.get(key)["text"] for key in keys] == [f'said "{n}"\n\u2028ü' for n in range(7)]
    assert not again.add(keys[3], 5, 5, {"text": "another"}) and again.get(keys[3])["text"].startswith('said "3"')
    assert again.add(key_of(body(9)), 1, 2, {"text": "x" * 20_000 + "\ud800"}) and again.tokens == Tokens(8, 71, 23)
    assert len(again.get(key_of(body(9)))["text"]) == 20_001
    again.close()


@pytest.mark.parametrize("cut", [1, 2, 10, 40, 75])
def test_a_line_that_was_cut_off_is_asked_again_and_no_other(tmp_path, cut):
    keys = filled(tmp_path, 5)
    path = tmp_path / "answers.jsonl"
    os.truncate(path, path.stat().st_size - cut)
    again = Ledger(tmp_path)
    assert [key in again for key in keys] == [True, True, True, True, False]
    again.add(keys[4], 10, 4, {"text": "anew"})
    again.close()
    whole = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    assert [line["key"] for line in whole] == keys and whole[4]["text"] == "anew"


def test_two_processes_do_not_write_into_one_ledger(tmp_path):
    first = Ledger(tmp_path)
    with pytest.raises(InputError, match="another process writes there"):
        Ledger(tmp_path)
    assert len(Ledger(tmp_path, write=False)) == 0
    first.close()
    Ledger(tmp_path).close()


def test_a_damaged_line_is_named(tmp_path):
    filled(tmp_path, 3)
    path = tmp_path / "answers.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], b"\0" * 20, *lines[1:]]))
    with pytest.raises(InputError, match=r"answers.jsonl:2: no line of a ledger; remove it to ask again"):
        Ledger(tmp_path)


def test_many_new_answers_are_found_when_they_are_sorted_in(tmp_path, monkeypatch):
    monkeypatch.setattr(ledgers, "_NEW", 10)
    keys = filled(tmp_path, 35)
    again = Ledger(tmp_path, write=False)
    assert [again.get(key)["out"] for key in keys] == list(range(35)) and len(again) == 35


def test_a_full_disk_ends_in_a_sentence_and_no_half_line(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path)
    ledger.add(key_of(body()), 1, 1, {"text": "kept"})
    real = os.write

    def full(file, data):
        if len(data) > 30:
            return real(file, data[:30])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(InputError, match="No space left on device"):
        ledger.add(key_of(body(1)), 1, 1, {"text": "a" * 10})
    monkeypatch.setattr(os, "write", real)
    assert ledger.add(key_of(body(2)), 1, 1, {"text": "next"})
    ledger.close()
    assert [json.loads(line)["text"] for line in (tmp_path / "answers.jsonl").open()] == ["kept", "next"]
