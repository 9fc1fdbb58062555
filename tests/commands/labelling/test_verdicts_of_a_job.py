"""A labelling job counts what is no vote apart, stops where that is too much, and asks nothing for another rule."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from earwitness.commands.labelling.job import load_job
from earwitness.commands.labelling.run import run_job
from earwitness.curriculum.contribution.labels import label
from earwitness.curriculum.contribution.verdicts import Readable, read_verdicts
from earwitness.curriculum.table import read_arrow
from earwitness.datamodules.voting.answer_store import AnswerStore, write_answers
from earwitness.errors import InputError
from earwitness.tests.chat_server import Asked, serving
from earwitness.tests.commands.labelling.test_labelling import job_file, labelled, letter, numbers, voter
from earwitness.tests.datamodules.test_datamodule import CLIPS, SPLITS, build

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SILENT = {"conditions": ["silence:0.1"], "condition": "silence:0.1"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Twenty questions; question n has the answer n mod 4."""
    return build(tmp_path_factory.mktemp("verdicts") / "corpus", CLIPS, SPLITS)


@pytest.fixture
def server():
    with serving() as running:
        running.say = letter
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """Without syncing, as the only process."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
    for name in ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def run(path: str) -> dict:
    return run_job(load_job(path))


def ended(text: str, reason: str) -> dict:
    return {"message": {"role": "assistant", "content": text}, "finish_reason": reason}


def often_lost(asked: Asked) -> dict:
    """Questions 0 to 4 are cut off, 5 to 7 say nothing that can be read, 8 is cut off behind its letter."""
    n = asked.number
    if n < 5:
        return ended("Let me go through the options. Option A", "length")
    if n < 8:
        return ended(["", "A or B", "Something is heard"][n - 5], "stop")
    return ended(letter(asked) + (". It is beca" if n == 8 else ""), "length" if n == 8 else "stop")


def test_the_four_are_counted_in_the_log_the_statistics_the_page_and_the_table(server, tmp_path, corpus, capsys):
    """Voter one knows even questions: 8, 10, ... 18 are right, 9, 11, ... 19 wrong, and 0 to 7 no votes."""
    server.say = often_lost
    path = job_file(tmp_path, corpus, [voter(server, "one")], max_unreadable=0.5, allow_missing=True, **SILENT)
    found = run(path)
    counts = {"right": 6, "wrong": 6, "unfinished": 5, "unreadable": 3}
    line = "one: 20 answers: 6 right, 6 wrong, 5 unfinished, 3 unreadable\n"
    assert line in capsys.readouterr().err and (found["weak"], found["strong"], found["unlabelled"]) == (6, 6, 8)
    jury = json.loads((tmp_path / "out" / "jury.json").read_text())
    assert jury["verdicts"] == {"one": {"silence:0.1": counts}} and jury["voters"][0]["missing"] == 8
    assert (
        "one, silence:0.1: 6 right, 6 wrong, 5 unfinished, 3 unreadable"
        in (tmp_path / "out" / "report.html").read_text()
    )
    number = numbers(corpus)
    rows = {number[row["uid"]]: row for row in read_arrow(tmp_path / "out" / "answers" / "one.arrow").to_pylist()}
    assert [rows[n]["verdict"] for n in (4, 5, 8, 9)] == ["unfinished", "unreadable", "right", "wrong"]
    assert [rows[n]["correct"] for n in (4, 5, 8, 9)] == [None, None, True, False]
    assert {n: name for n, name in labelled(tmp_path, corpus).items() if name is None} == dict.fromkeys(range(8))


def test_too_many_that_are_no_votes_stop_the_job_and_stop_it_again(server, tmp_path, corpus, capsys):
    server.say = lambda asked: ended("Let me\nthink", "length")
    voters = [voter(server, "one", rotations="all"), voter(server, "two")]
    with pytest.raises(InputError) as stopped:
        run(job_file(tmp_path, corpus, voters, **SILENT))
    said = str(stopped.value)
    asked = len(server.seen)
    assert 20 <= asked <= 23, "twenty answers, and the three that were asked meanwhile"
    kept = len(AnswerStore(tmp_path / "out" / "answers" / "one.arrow").read())
    assert said.startswith(
        f"one: {kept} answers: 0 right, 0 wrong, {kept} unfinished, 0 unreadable, more than the 0.2 "
    )
    for words in ("such as 'Let me\\nthink'", "another rule", "another style", "larger max_tokens", "raise max_unrea"):
        assert words in said
    assert "\n" not in said and str(tmp_path / "out" / "answers" / "one.asked") in said
    with pytest.raises(InputError, match="one: .* unfinished or unreadable"):
        run(job_file(tmp_path, corpus, voters, **SILENT))
    assert len(server.seen) == asked, "nothing is asked before it is judged"
    voters[0]["max_unreadable"] = 1
    with pytest.raises(InputError, match="two: 20 answers: 0 right, 0 wrong, 20 unfinished, 0 unreadable, more than"):
        run(job_file(tmp_path, corpus, voters, **SILENT))
    assert len(server.seen) == 80 + (asked - kept) + 20
    assert "one: 80 answers: 0 right, 0 wrong, 80 unfinished, 0 unreadable\n" in capsys.readouterr().err


def test_a_few_answers_and_a_share_that_is_allowed_stop_nothing(server, tmp_path, corpus):
    server.say = lambda asked: ended("hm", "stop") if asked.number in (0, 5, 10, 15) else letter(asked)
    found = run(job_file(tmp_path, corpus, [voter(server, "one")], allow_missing=True, **SILENT))
    assert found["unlabelled"] == 4, "just 0.2"
    server.say = lambda asked: ended("hm", "stop")
    more = {"pool": {"split": ["val", "test"]}, "out": str(tmp_path / "few"), "allow_missing": True}
    assert run(job_file(tmp_path, corpus, [voter(server, "one")], **more, **SILENT))["unlabelled"] == 8


def in_words(asked: Asked) -> str:
    """The letter in brackets, which rule exact cannot read."""
    return f"({letter(asked)})"


def with_rule(server, name: str, rule: str, **more) -> dict:
    return voter(server, name) | {"style": "letters", "rule": rule} | more


def test_another_rule_judges_what_is_stored_and_asks_nothing(server, tmp_path, corpus, capsys):
    lab = "earwitness.tests.lab_rules."
    server.say = in_words
    voters = [with_rule(server, "one", lab + "first_letter")]
    run(job_file(tmp_path, corpus, voters, **SILENT))
    asked, first = len(server.seen), labelled(tmp_path, corpus)
    assert Counter(first.values()) == {"strong": 20}, "a bracket is no letter to this rule"
    capsys.readouterr()
    found = run(job_file(tmp_path, corpus, [with_rule(server, "one", "letter")], **SILENT))
    said = capsys.readouterr().err
    assert "one: 20 stored answers judged again by rule letter, 10 of them otherwise\n" in said
    assert "one: 20 answers: 10 right, 10 wrong, 0 unfinished, 0 unreadable\n" in said
    assert len(server.seen) == asked == 20 and found["asked"] == 0
    assert labelled(tmp_path, corpus) == {n: "strong" if n % 2 else "weak" for n in range(20)}
    run(job_file(tmp_path, corpus, [with_rule(server, "one", "letter")], **SILENT))
    assert "judged again" not in capsys.readouterr().err
    run(job_file(tmp_path, corpus, voters, **SILENT))
    assert labelled(tmp_path, corpus) == first and len(server.seen) == 20
    for changed, named in (({"style": "inline"}, "prompt|style"), ({"rotations": 2}, "rotations")):
        with pytest.raises(InputError, match=f"one was asked with ({named}) "):
            run(job_file(tmp_path, corpus, [with_rule(server, "one", "letter", **changed)], **SILENT))


def test_a_kill_between_two_rules_leaves_no_mixture(server, tmp_path, corpus, monkeypatch):
    """Half of the files are judged by the new rule when it ends; the old rule judges all of them again."""
    server.say = in_words
    voters = [with_rule(server, "one", "earwitness.tests.lab_rules.first_letter")]
    run(job_file(tmp_path, corpus, voters, **SILENT))
    before = read_arrow(tmp_path / "out" / "answers" / "one.arrow")
    store = AnswerStore(tmp_path / "out" / "answers" / "one.arrow", rank=1)
    lines = AnswerStore(store.file).path.read_text().splitlines(keepends=True)
    AnswerStore(store.file).path.write_text("".join(lines[:10]))
    store.path.write_text("".join(lines[10:]))
    replace, done = Path.replace, []

    def dies(self, target):
        if target.name == "rank1.jsonl":
            raise KeyboardInterrupt
        done.append(target.name)
        return replace(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", dies)
        run(job_file(tmp_path, corpus, [with_rule(server, "one", "letter")], **SILENT))
    assert done == ["asked.json", "rank0.jsonl"]
    run(job_file(tmp_path, corpus, voters, **SILENT))
    assert read_arrow(store.file).equals(before) and len(server.seen) == 20


def test_answers_stored_before_there_were_verdicts_are_judged_again(server, tmp_path, corpus, capsys):
    """Voter one said nothing to questions 0 to 2, which counted as wrong; the tables of before can be voted with."""
    server.say = lambda asked: "" if asked.number < 3 else letter(asked)
    path = job_file(tmp_path, corpus, [voter(server, "one")], allow_missing=True, **SILENT)
    run(path)
    store = AnswerStore(tmp_path / "out" / "answers" / "one.arrow")
    old = [{**record, "correct": bool(record["correct"])} for record in store.read()]
    for record in old:
        del record["verdict"]
    store.path.write_text("".join(json.dumps(record) + "\n" for record in old))
    described = json.loads((store.folder / "asked.json").read_text())
    del described["reading"]
    (store.folder / "asked.json").write_text(json.dumps(described))
    capsys.readouterr()
    assert run(path)["unlabelled"] == 3 and len(server.seen) == 20
    said = capsys.readouterr().err
    assert "one: 20 stored answers judged again by rule letter, 3 of them otherwise\n" in said
    assert "one: 20 answers: 8 right, 9 wrong, 0 unfinished, 3 unreadable\n" in said
    write_answers(old, tmp_path / "old.arrow")
    assert read_verdicts(tmp_path / "old.arrow") == {
        "silence:0.1": {"right": 8, "wrong": 12, "unfinished": 0, "unreadable": 0}
    }


def test_scored_options_are_judged_by_no_rule(small, tmp_path, corpus, capsys):
    how = {"index": small.index, "pool": {"split": "val"}, "conditions": ["silence:1"], "condition": "silence:1"}
    tiny = {"name": "tiny", "checkpoint": small.tiny, "scoring": "options", "batch_size": 8}
    run(job_file(tmp_path, corpus, [tiny], **how))
    before = (tmp_path / "out" / "answers" / "tiny.arrow").read_bytes()
    capsys.readouterr()
    assert run(job_file(tmp_path, corpus, [tiny | {"rule": "contains"}], **how))["asked"] == 0
    assert "judged again" not in capsys.readouterr().err
    assert (tmp_path / "out" / "answers" / "tiny.arrow").read_bytes() == before


def test_a_model_here_stops_after_the_batch_that_is_too_much(small, tmp_path, corpus):
    """An untrained model says nothing of use: batches of 4 until 20 answers are there."""
    how = {"index": small.index, "conditions": ["silence:1"], "condition": "silence:1"}
    tiny = {"name": "tiny", "checkpoint": small.tiny, "batch_size": 4, "max_new_tokens": 2, "rotations": "all"}
    with pytest.raises(InputError, match=r"tiny: 20 answers: 0 right, 0 wrong, .* larger max_new_tokens, or raise"):
        run(job_file(tmp_path, corpus, [tiny], **how))
    assert len(AnswerStore(tmp_path / "out" / "answers" / "tiny.arrow").read()) == 20


def test_tables_of_votes_are_refused_alike(server, tmp_path, corpus, capsys):
    """Of 20 answers 5 are cut off: as a job's voter, and where labels are made of tables alone."""
    number = sorted(numbers(corpus))
    found = ["unfinished"] * 5 + ["right"] * 9 + ["wrong"] * 6
    table = str(tmp_path / "votes.arrow")
    rows = [{"uid": uid, "condition": "silence:0.1", "verdict": name} for uid, name in zip(number, found, strict=True)]
    write_answers([row | {"correct": row["verdict"] == "right", "raw": "Well, "} for row in rows], table)
    says = r"20 answers: 9 right, 6 wrong, 5 unfinished, 0 unreadable, more than the 0.2 .* such as 'Well, ': ask again"
    voters = [{"name": "before", "answers": table}]
    with pytest.raises(InputError, match=f"before: {says}"):
        run(job_file(tmp_path, corpus, voters, **SILENT))
    with pytest.raises(InputError, match=f"voter 0: {says}"):
        label([table], str(tmp_path / "l.arrow"), condition="silence:0.1")
    counts = label([table], str(tmp_path / "l.arrow"), condition="silence:0.1", max_unreadable=0.25)
    assert counts == {"weak": 9, "strong": 6, "unlabelled": 5}
    assert run(job_file(tmp_path, corpus, voters, max_unreadable=0.3, **SILENT))["strong"] == 6
    assert "before: 20 answers: 9 right, 6 wrong, 5 unfinished, 0 unreadable\n" in capsys.readouterr().err


CHORDS = ["C", "A", "D", "B"]  # as options A, B, C, D


def test_an_oracle_that_answers_letters_is_right_about_all_chords_in_every_order(server, tmp_path):
    """Twenty-four questions whose options are letters themselves, each in four orders; and one that answers chords."""
    choices = [CHORDS[n % 3 :] + CHORDS[: n % 3] for n in range(24)]
    more = {"fields": {"answer": "text"}, "choices": lambda n: choices[n], "answer": lambda n: CHORDS[n % 4]}
    corpus = build(tmp_path / "corpus", list(range(24)), ["train"] * 24, **more)

    def oracle(asked: Asked) -> str:
        shown = dict(line.split(". ") for line in asked.text.splitlines()[1:5])
        return next(letter for letter, chord in shown.items() if chord == CHORDS[asked.number % 4])

    server.say = oracle
    found = run(job_file(tmp_path, corpus, [voter(server, "oracle", rotations="all")], **SILENT))
    counts = {"right": 96, "wrong": 0, "unfinished": 0, "unreadable": 0}
    assert read_verdicts(tmp_path / "out" / "answers" / "oracle.arrow") == {"silence:0.1": counts}
    assert (found["asked"], found["weak"], found["strong"]) == (96, 24, 0)
    server.say = lambda asked: CHORDS[asked.number % 4]
    lines = voter(server, "oracle") | {"style": "lines", "rule": "letter"}
    assert run(job_file(tmp_path, corpus, [lines], out=str(tmp_path / "lines"), **SILENT))["weak"] == 24


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_lies_between_none_and_all(server, tmp_path, corpus, share):
    with pytest.raises(InputError, match=r"max_unreadable is a share from 0 to 1, got"):
        load_job(job_file(tmp_path, corpus, [voter(server, "one")], max_unreadable=share))
    with pytest.raises(InputError, match=r"voters\[0\] \(one\): max_unreadable is a share from 0 to 1, got"):
        load_job(job_file(tmp_path, corpus, [voter(server, "one", max_unreadable=share)]))
    with pytest.raises(InputError, match=r"voters\[0\] \(one\): max_unreadable must be a number or null, got 'half'"):
        load_job(job_file(tmp_path, corpus, [voter(server, "one", max_unreadable="half")]))


def test_a_share_counts_from_twenty_answers_on():
    readable = Readable("v", 0.2, [{"verdict": "unreadable", "raw": "x"}] * 19)
    assert not readable.passed
    readable.add({"correct": False})
    assert readable.passed and readable.line() == "v: 20 answers: 0 right, 1 wrong, 0 unfinished, 19 unreadable"
    assert not Readable("v", 0.2, [{"correct": True}] * 16 + [{"verdict": "unfinished"}] * 4).passed
    assert Readable("v", 0.2, [{"correct": True}] * 15 + [{"verdict": "unfinished"}] * 4 + [{}, {}]).lost == 4
