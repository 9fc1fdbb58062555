"""What voters are asked, once each, and what their replies mean."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from itertools import groupby

import numpy as np
import pytest

from earwitness.curriculum.table import read_arrow
from earwitness.datamodules.audio.signals import noise
from earwitness.datamodules.questions.prompts import prompt_text
from earwitness.datamodules.shards.index import build_index
from earwitness.datamodules.shards.partners import Partners
from earwitness.datamodules.shards.reader import ShardReader
from earwitness.datamodules.voting.answer_store import ANSWER_SCHEMA, AnswerId, write_answers
from earwitness.datamodules.voting.tasks import Ask, PromptingSpec, Reply, Task, VoterTasks, check_rates, price
from earwitness.errors import InputError
from earwitness.tests.datamodules.test_datamodule import CHOICES, CLIPS, SPLITS, build

KINDS = ["audio", "silence", "silence:0.5", "silence:clip", "noise", "noise:0.2", "mismatched", "none"]


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> ShardReader:
    """Twenty questions with two, three or four options on thirteen recordings; question n has answer n mod options."""
    options = {"choices": lambda n: CHOICES[: 2 + n % 3], "answer": lambda n: CHOICES[n % (2 + n % 3)]}
    return ShardReader(build(tmp_path_factory.mktemp("voting") / "corpus", CLIPS, SPLITS, **options) / "index.arrow")


def number(reader: ShardReader, row: int) -> int:
    """Which of the twenty a row is."""
    return int(reader.key(row)[2:])


def row_of(reader: ShardReader, number: int) -> int:
    return reader.row_of(f"s/{number:02}")


def task(reader: ShardReader, number: int, condition: str = "audio", rotation: int = 0, draw: int = 0) -> Task:
    row = row_of(reader, number)
    return Task(AnswerId(reader.uid(row), condition, rotation, draw), row)


@pytest.mark.parametrize(("rotations", "draws"), [(1, 1), (2, 1), (3, 2), ("all", 1), (9, 3)])
def test_everything_is_asked_exactly_once(reader, rotations, draws):
    """A question with K options has min(rotations, K) orders."""
    ballot = VoterTasks(reader, PromptingSpec(rotations=rotations, draws=draws))
    tasks = ballot.tasks(range(20), ["audio", "silence"])
    expected = {
        (reader.uid(row), condition, rotation, draw)
        for row in range(20)
        for condition in ("audio", "silence")
        for rotation in range(min(99 if rotations == "all" else rotations, 2 + number(reader, row) % 3))
        for draw in range(draws)
    }
    assert Counter(each.id for each in tasks) == Counter(expected)
    assert all(reader.uid(each.row) == each.id.uid for each in tasks)


def test_the_order_depends_on_neither_the_order_of_the_rows_nor_their_number(reader):
    ballot = VoterTasks(reader, PromptingSpec(rotations="all", draws=2))
    tasks = ballot.tasks(range(20), KINDS)
    assert (
        ballot.tasks(np.arange(20)[::-1], KINDS)
        == tasks
        == VoterTasks(reader, ballot.prompting, 5).tasks(range(20), KINDS)
    )
    some = [3, 17, 8, 9]
    assert ballot.tasks(some, KINDS) == [each for each in tasks if each.row in some]


def test_questions_about_one_recording_and_the_orders_of_one_question_stand_together(reader):
    tasks = VoterTasks(reader, PromptingSpec(rotations="all", draws=2)).tasks(range(20), ["silence", "audio"])
    assert [condition for condition, _ in groupby(each.id.condition for each in tasks)] == ["silence", "audio"]
    for of in (lambda each: reader.clip(each.row), lambda each: each.row):
        runs = [key for key, _ in groupby((each.id.condition, of(each)) for each in tasks)]
        assert len(runs) == len(set(runs))
    assert len({reader.clip(row) for row in range(20)}) == 13


def test_questions_about_one_recording_stand_together_also_where_they_lie_in_two_shards(tmp_path):
    for name in "ab":
        build(tmp_path / name, [0, 1, 2], ["train"] * 3, id=lambda n, name=name: f"{name}{n}")
        (tmp_path / name / "shard-000000.tar").rename(tmp_path / f"{name}.tar")
    build_index(str(tmp_path))
    both = ShardReader(tmp_path / "index.arrow")
    tasks = VoterTasks(both, PromptingSpec(rotations=1)).tasks(range(6), ["audio"])
    clips = [both.clip(each.row) for each in tasks]
    assert [both.clip(row) for row in (0, 1, 2)] == [both.clip(row) for row in (3, 4, 5)]
    assert clips[::2] == clips[1::2] == sorted(set(clips)) and sorted(each.row for each in tasks) == list(range(6))


def test_an_unknown_condition_is_refused_before_anything_is_asked(reader):
    with pytest.raises(InputError, match="condition 'silent': use 'audio'"):
        VoterTasks(reader, PromptingSpec()).tasks(range(20), ["audio", "silent"])


def test_options_are_shown_in_the_order_of_the_rotation(reader):
    """Four options, all rotations: the r-th begins with option r; two of four: the file's and the one turned by two."""
    ballot = VoterTasks(reader, PromptingSpec(style="lines", rotations="all"))
    shown = [ballot.ask(task(reader, 2, rotation=r)).choices for r in range(4)]
    a, b, c, d = CHOICES
    assert shown == [(a, b, c, d), (b, c, d, a), (c, d, a, b), (d, a, b, c)]
    for rotation, choices in enumerate(shown):
        asked = ballot.ask(task(reader, 2, rotation=rotation))
        assert asked.text == prompt_text("lines", "Question 2?", choices) == ballot.ask_text(asked.task)
    two = VoterTasks(reader, PromptingSpec(rotations=2))
    assert [two.ask(task(reader, 2, rotation=r)).choices for r in (0, 1)] == [(a, b, c, d), (c, d, a, b)]
    assert two.ask(task(reader, 0, rotation=1)).choices == (b, a)
    three = VoterTasks(reader, PromptingSpec(rotations=3))
    assert [three.ask(task(reader, 2, rotation=r)).choices[0] for r in range(3)] == [a, b, c]  # shifts 0, 4/3, 8/3


def test_scores_are_put_back_by_option_and_the_share_of_the_right_one_is_its_softmax(reader):
    """Shown (c, d, a, b) with shares 1/2, 1/4, 1/8, 1/8 of a mass of 0.1: a has 1/8, b 1/8, c 1/2, d 1/4."""
    ballot = VoterTasks(reader, PromptingSpec(style="lines", scoring="options", rotations="all"))
    asked = ballot.ask(task(reader, 2, rotation=2))
    scores = [math.log(0.1 * share) for share in (1 / 2, 1 / 4, 1 / 8, 1 / 8)]
    record = ballot.record(asked, Reply(asked.task, scores=scores))
    assert np.exp(record["scores"]) == pytest.approx([1 / 80, 1 / 80, 1 / 20, 1 / 40])
    assert record["right_option"] == 2 and record["p_right"] == pytest.approx(1 / 2)
    assert record["answer"] == record["raw"] == CHOICES[2] and record["correct"] is True
    assert (record["rotation"], record["condition"], record["key"]) == (2, "audio", "s/02")
    other = ballot.ask(task(reader, 5, rotation=1))  # shown (b, c, d, a); the right one is b
    record = ballot.record(other, Reply(other.task, scores=[-1e4, -1e4 - math.log(3), -math.inf, -math.inf]))
    assert record["p_right"] == pytest.approx(3 / 4) and record["answer"] == CHOICES[1]
    assert record["scores"] == [-math.inf, -1e4, pytest.approx(-1e4 - math.log(3)), -math.inf]


def test_the_same_preference_gives_the_same_share_whatever_the_order(reader):
    ballot = VoterTasks(reader, PromptingSpec(style="lines", scoring="options", rotations="all"))
    liked = dict(zip(CHOICES, (-3.0, -1.0, -0.5, -2.0), strict=True))
    records = []
    for rotation in range(4):
        asked = ballot.ask(task(reader, 8, rotation=rotation))
        records.append(ballot.record(asked, Reply(asked.task, scores=[liked[choice] for choice in asked.choices])))
    share = math.exp(liked[CHOICES[0]]) / sum(map(math.exp, liked.values()))
    assert [record["p_right"] for record in records] == pytest.approx([share] * 4)
    assert all(record["scores"] == list(liked.values()) and record["answer"] == CHOICES[2] for record in records)


def test_every_condition_is_heard_as_its_name_says(reader):
    """Recording c has 1,600 + 160 c samples."""
    ballot = VoterTasks(reader, PromptingSpec(), seed=7)
    partners = Partners(reader, 7)
    for n in (0, 2, 13, 19):
        row, length = row_of(reader, n), 1_600 + 160 * CLIPS[n]
        heard = {kind: ballot.ask(task(reader, n, kind)).wave for kind in KINDS}
        assert np.array_equal(heard["audio"], reader.wave(row)) and len(heard["audio"]) == length
        for kind, samples in (("silence", 480_000), ("silence:0.5", 8_000), ("silence:clip", length)):
            assert len(heard[kind]) == samples and not heard[kind].any() and heard[kind].dtype == np.float32
        assert np.array_equal(heard["noise"], noise(length, reader.clip(row), 7, "condition"))
        assert np.array_equal(heard["noise:0.2"], noise(3_200, reader.clip(row), 7, "condition"))
        partner = partners.partner(row)
        assert reader.clip(partner) != reader.clip(row)
        assert np.array_equal(heard["mismatched"], reader.wave(partner)) and heard["none"] is None
        for kind in KINDS:
            asked = task(reader, n, kind)
            length = 0 if heard[kind] is None else len(heard[kind])
            assert ballot.seconds(asked) == pytest.approx(length / 16_000)
            assert ballot.ask(asked).choices == tuple(CHOICES[: 2 + n % 3])


def test_another_seed_is_another_noise_and_other_partners(reader):
    one, two = (VoterTasks(reader, PromptingSpec(), seed) for seed in (0, 1))
    asked = [task(reader, n, "noise") for n in (1, 5)]
    assert not any(np.array_equal(one.ask(each).wave, two.ask(each).wave) for each in asked)
    mismatched = [task(reader, n, "mismatched") for n in range(12)]
    differ = [one.ask(each).sound != two.ask(each).sound for each in mismatched]
    assert any(differ)


def test_asks_share_a_sound_only_where_they_hear_the_same(reader):
    """Voters encode one sound once for all asks that share it, whatever conditions meet in a batch."""
    ballot = VoterTasks(reader, PromptingSpec())
    heard: dict[tuple[str, int], bytes] = {}
    asks = [ballot.ask(each) for each in ballot.tasks(range(20), [*KINDS, "silence:1", "noise:1"])]
    for asked in asks:
        data = b"none" if asked.wave is None else asked.wave.tobytes()
        assert heard.setdefault(asked.sound, data) == data
    silent = {asked.sound for asked in asks if asked.task.id.condition == "silence"}
    audible = {asked.sound for asked in asks if asked.task.id.condition == "audio"}
    assert len(silent) == 1 and len(audible) == 13, "and they do share it"


def lettered(reader: ShardReader, n: int, letters: dict[str, float], rotation: int = 0, **manner) -> dict:
    ballot = VoterTasks(
        reader, PromptingSpec(**({"style": "letters", "scoring": "letters", "rotations": "all"} | manner))
    )
    asked = ballot.ask(task(reader, n, rotation=rotation))
    logs = {letter: math.log(share) for letter, share in letters.items()}
    return ballot.record(asked, Reply(asked.task, "B", letters=logs, completion_tokens=1))


def test_letters_are_scored_in_the_order_shown(reader):
    """Shown (b, c, d, a): B is c. Shares 0.1, 0.6, 0.1, 0.2 of a, ... are those of D, A, B, C."""
    record = lettered(reader, 2, {"A": 0.1, "B": 0.6, "C": 0.1, "D": 0.2}, rotation=1)
    assert np.exp(record["scores"]) == pytest.approx([0.2, 0.1, 0.6, 0.1])
    assert record["p_right"] == pytest.approx(0.6) and record["correct"] is True and record["raw"] == CHOICES[2]


def test_a_letter_that_the_server_does_not_list_is_as_unlikely_as_the_least_likely_it_lists(reader):
    """Of A, B, C, D only A 0.5 and C 0.1 are listed, and E 0.02: B and D count 0.02. The right one is C."""
    record = lettered(reader, 2, {"A": 0.5, "C": 0.1, "E": 0.02})
    assert np.exp(record["scores"]) == pytest.approx([0.5, 0.02, 0.1, 0.02])
    assert record["p_right"] == pytest.approx(0.1 / 0.64) and record["correct"] is False


@pytest.mark.parametrize("letters", [{}, {"E": 0.5, "Z": 0.1}])
def test_a_reply_without_any_of_the_letters_is_a_missing_vote(reader, letters):
    record = lettered(reader, 2, letters)
    assert record["correct"] is None and record["answer"] is None and record["finished"] is False
    assert (
        record["verdict"] == "unreadable"
        and "log-probs" in record["raw"]
        and "p_right" not in record
        and "scores" not in record
    )


def test_a_generated_letter_is_judged_by_what_was_said_and_its_share_is_kept(reader):
    record = lettered(reader, 2, {"A": 0.75, "C": 0.25}, scoring="generate", rule="letter")
    assert record["raw"] == "B" and record["answer"] == CHOICES[1] and record["correct"] is False
    assert record["p_right"] == pytest.approx(0.25 / 1.5)


def test_where_no_letters_were_shown_a_token_that_looks_like_one_is_none(reader):
    record = lettered(reader, 2, {"A": 0.75, "C": 0.25}, style="paper", scoring="generate", rule="exact")
    assert "p_right" not in record and "scores" not in record


@pytest.mark.parametrize(
    ("manner", "said", "answer", "verdict", "cut"),
    [
        ({}, "<answer>A Dog</answer>", "A Dog", "right", "right"),
        ({}, "I hear a dog", "I hear a dog", "unreadable", "unfinished"),
        ({}, "", "", "unreadable", "unfinished"),
        ({"rule": "mmau"}, "dog a", "dog a", "right", "unfinished"),
        ({"rule": "contains"}, "I hear a dog", "I hear a dog", "right", "unfinished"),
        ({"style": "letters", "rule": "letter"}, "(B) wind or so", CHOICES[1], "wrong", "wrong"),
        ({"style": "letters", "rule": "letter"}, "C.", CHOICES[2], "right", "right"),
        ({"style": "letters", "rule": "letter"}, "who knows", "who knows", "unreadable", "unfinished"),
        ({"style": "inline", "rule": "letter"}, "a dog", CHOICES[2], "right", "right"),
    ],
)
def test_what_was_said_is_kept_as_it_was_and_judged_by_the_rule(reader, manner, said, answer, verdict, cut):
    """Question 2: the third of four options, "a dog", is right. Only right and wrong are votes."""
    ballot = VoterTasks(reader, PromptingSpec(**manner))
    asked = ballot.ask(task(reader, 2, draw=0))
    for finished, found in ((True, verdict), (False, cut)):
        record = ballot.record(asked, Reply(asked.task, said, completion_tokens=5, finished=finished))
        assert (record["raw"], record["answer"], record["verdict"]) == (said, answer, found)
        assert record["correct"] is {"right": True, "wrong": False}.get(found)
        assert (record["num_tokens"], record["finished"], record["right_option"]) == (5, finished, 2)


def test_letters_are_judged_in_the_order_they_were_shown(reader):
    """Question 2 in all four orders: "A" says another option each time, and is right in the third."""
    ballot = VoterTasks(reader, PromptingSpec(style="letters", rule="letter", rotations="all"))
    asks = [ballot.ask(task(reader, 2, rotation=rotation)) for rotation in range(4)]
    records = [ballot.record(asked, Reply(asked.task, "A")) for asked in asks]
    assert [record["answer"] for record in records] == CHOICES
    assert [record["correct"] for record in records] == [False, False, True, False]


@pytest.mark.parametrize("scoring", ["generate", "options"])
def test_a_failed_reply_is_no_vote(reader, scoring):
    ballot = VoterTasks(reader, PromptingSpec(style="lines", rule="mmau", scoring=scoring))
    asked = ballot.ask(task(reader, 2))
    record = ballot.record(asked, Reply(asked.task, "a dog", error="503: no", scores=[0.0, 0.0, 9.0, 0.0]))
    assert record["correct"] is record["verdict"] is None and record["answer"] is None and record["raw"] == "503: no"
    assert record["finished"] is False and record["num_tokens"] == 0 and "p_right" not in record


def test_records_fit_the_table_of_answers(reader, tmp_path):
    ballot = VoterTasks(reader, PromptingSpec(style="lines", scoring="options"))
    asks = [ballot.ask(each) for each in ballot.tasks(range(20), ["audio", "none"])]
    replies = [Reply(asked.task, scores=[-1.0] * len(asked.choices)) for asked in asks]
    records = [ballot.record(asked, reply) for asked, reply in zip(asks, replies, strict=True)]
    write_answers(records, tmp_path / "a.arrow")
    rows = read_arrow(tmp_path / "a.arrow").to_pylist()
    assert [{name: row[name] for name in record} for row, record in zip(rows, records, strict=True)] == [
        record | {"p_right": float(np.float32(record["p_right"]))} for record in records
    ]
    assert set(records[0]) <= set(ANSWER_SCHEMA.names)


def test_a_price_by_hand(tmp_path):
    """Two questions of 0.1 s: audio 2 x 0.1 s, silence 2 x 30 s; 60.2 s are 1.0033 minutes and 1,505 tokens.

    "Question 0?" with four options of 4, 4, 5 and 6 letters in lines: 11 + 1 + 44 + 1 + 19 + 3 = 79 letters, so
    4 x 79 / 4 = 79 tokens. 1.0033 x 3 + 1584 x 2e-6 x 1e3 + 4 x 10 x 5e-3 = 3.01 + 3.168 + 0.2.
    """
    ballot = VoterTasks(
        ShardReader(build(tmp_path / "c", [0, 0], ["train"] * 2) / "index.arrow"),
        PromptingSpec(style="lines", rotations=1),
    )
    tasks = ballot.tasks([0, 1], ["audio", "silence"])
    assert [len(ballot.ask_text(each)) for each in tasks] == [79] * 4
    expected = {"requests": 4, "audio_minutes": 1.0, "input_tokens": 79 + 1_505}
    assert price(ballot, tasks) == expected == price(ballot, tasks, {})
    rates = {"audio_minute": 3.0, "input_million": 2_000.0, "output_million": 5_000.0, "output_tokens": 10}
    assert price(ballot, tasks, rates) == expected | {"cost": 6.38}
    assert price(ballot, tasks, {"output_million": 1e6})["cost"] == 64.0, "16 tokens an answer"
    assert price(ballot, [], rates) == {"requests": 0, "audio_minutes": 0.0, "input_tokens": 0, "cost": 0.0}
    with pytest.raises(InputError, match="price: unknown rate 'audio_hour'; there are audio_minute"):
        price(ballot, tasks, {"audio_hour": 1.0})
    with pytest.raises(InputError, match="unknown rate 'minute'"):
        check_rates({"minute": 1.0})


@pytest.mark.parametrize(
    ("manner", "named"),
    [
        ({"style": "essay"}, "style: unknown name 'essay'; there are paper, letters, inline, lines"),
        ({"rule": "best"}, "rule: unknown name 'best'; there are exact, mmau, letter, contains"),
        ({"scoring": "guess"}, "scoring is generate, options or letters, got 'guess'"),
        ({"scoring": "letters"}, "needs a style that shows letters"),
        ({"scoring": "letters", "style": "lines"}, "needs a style that shows letters"),
        ({"scoring": "options", "style": "letters"}, "score by letters"),
        ({"scoring": "options", "style": "inline"}, "score by letters"),
        ({"style": "letters"}, "style letters asks for a letter, which rule exact never finds right"),
        ({"style": "letters", "rule": "contains"}, "use rule letter"),
        ({"rule": "mmsu"}, "rule mmsu reads nothing but a letter; it needs a style that shows letters"),
        ({"rotations": 0}, "rotations is a number from 1 on or 'all', got 0"),
        ({"rotations": "every"}, "got 'every'"),
        ({"draws": 0}, "draws is 1 or more"),
        ({"draws": 2, "scoring": "options"}, "1 where options are scored"),
    ],
)
def test_ways_of_asking_that_make_no_sense_are_refused(manner, named):
    with pytest.raises(InputError) as refused:
        PromptingSpec(**manner)
    assert named in str(refused.value)


def test_every_sensible_way_of_asking_is_allowed():
    for style in ("paper", "inline", "lines"):
        for rule in ("exact", "mmau", "letter", "contains"):
            assert PromptingSpec(style=style, rule=rule, draws=3, rotations="all").scoring == "generate"
    assert PromptingSpec("letters", "mmsu").rule == "mmsu" and PromptingSpec("inline", "mmsu").draws == 1
    assert PromptingSpec("letters", "letter").draws == 1
    assert PromptingSpec("letters", scoring="letters").rotations == "all"
    assert PromptingSpec("inline", scoring="letters") and PromptingSpec("paper", scoring="options", rotations=2)


def test_a_ballot_can_be_sent_to_a_loader_process(reader):
    ballot = pickle.loads(pickle.dumps(VoterTasks(reader, PromptingSpec(rotations="all"), 3)))
    asked: Ask = ballot.ask(task(reader, 2, "mismatched", 1))
    assert np.array_equal(asked.wave, VoterTasks(reader, PromptingSpec(), 3).ask(task(reader, 2, "mismatched")).wave)
