"""What a voter picked, read back from its answers: the option, the place it stood in, and the text."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from earwitness.curriculum.contribution.rotation import rotations
from earwitness.curriculum.table import write_arrow
from earwitness.datamodules.shards.reader import ShardReader
from earwitness.datamodules.voting.answer_store import write_answers
from earwitness.datamodules.voting.picks import picked_option, read_picks, sample_questions
from earwitness.datamodules.voting.tasks import PromptingSpec, Reply, VoterTasks
from earwitness.tests.datamodules.test_datamodule import CHOICES, build

CLIPS, SPLITS = [n // 2 for n in range(24)], ["train"] * 24


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> ShardReader:
    return ShardReader(build(tmp_path_factory.mktemp("picks") / "corpus", CLIPS, SPLITS) / "index.arrow")


def answered(reader, path, manner, say):
    """The table of a voter that says `say(number of the question, the options as shown)`, or replies so."""
    ballot = VoterTasks(reader, manner)
    records = []
    for task in ballot.tasks(range(len(reader)), ["none"]):
        ask = ballot.ask(task)
        said = say(task.row, ask.choices)
        reply = Reply(task, said) if isinstance(said, str) else Reply(task, scores=said)
        records.append(ballot.record(ask, reply))
    write_answers(records, path)
    return path


def all_rows(reader):
    return np.arange(len(reader))


SAYS = {  # style, rule, scoring: what is said to pick the option in place p
    "letters": (PromptingSpec("letters", "letter"), lambda place, shown: "ABCD"[place]),
    "words after a letter": (PromptingSpec("letters", "letter"), lambda place, shown: f"({'ABCD'[place]}) I think"),
    "tags": (PromptingSpec(), lambda place, shown: f"<answer>{shown[place].upper()}</answer>"),
    "text": (PromptingSpec("lines"), lambda place, shown: shown[place]),
    "scores": (PromptingSpec("lines", scoring="options"), lambda place, shown: [-1.0 * (n != place) for n in range(4)]),
}


@pytest.mark.parametrize("manner", SAYS)
def test_the_option_and_its_place_are_read_back(reader, tmp_path, manner):
    """Question n picks place n mod 4, in each of the four orders."""
    spec, say = SAYS[manner]
    path = answered(reader, tmp_path / "v.arrow", spec, lambda row, shown: say(row % 4, shown))
    sampled = sample_questions(reader, all_rows(reader))
    picks = read_picks(path, "none", sampled)
    assert len(picks.place) == 4 * 24 and np.bincount(picks.place).tolist() == [24] * 4
    rows = {int(uid): row for row, uid in enumerate(reader.numbers["uid"].tolist())}
    orders = rotations(4)
    for n, question in enumerate(picks.question.tolist()):
        row = rows[int(sampled.uid[question])]
        assert picks.place[n] == row % 4
        assert picks.option[n] in {order[row % 4] for order in orders}
        assert picks.text[n] == sampled.choices[question][picks.option[n]]
        assert picks.right[n] == (picks.place[n] == picks.truth[n]) == (picks.option[n] == picks.answer[n])
    assert np.bincount(picks.truth).tolist() == [24] * 4, "in all orders the right one stands everywhere once"


def test_an_answer_that_names_no_option_is_none(reader, tmp_path):
    path = answered(
        reader, tmp_path / "v.arrow", PromptingSpec("lines", rotations=1), lambda row, shown: "Something Else"
    )
    picks = read_picks(path, "none", sample_questions(reader, all_rows(reader)))
    assert set(picks.place.tolist()) <= {-1} and set(picks.text) <= {"something else"}


def test_a_sample_is_the_same_every_time_and_of_the_pool_alone(reader):
    pool = np.arange(3, 20)
    one, two = sample_questions(reader, pool, 9), sample_questions(reader, pool[::-1], 9)
    assert one.uid.tolist() == two.uid.tolist() == sorted(one.uid.tolist()) and len(one.uid) == 9
    assert set(one.uid.tolist()) <= set(reader.numbers["uid"][pool].tolist())
    assert len(sample_questions(reader, pool).uid) == 17


def test_a_table_without_texts_says_what_was_right(reader, tmp_path):
    """Votes of before have uid, condition and correct: right ones are the right option, the others unknown."""
    uid = reader.numbers["uid"]
    correct = [row % 2 == 0 for row in range(len(uid))]
    columns = {"uid": pa.array(uid, pa.uint64()), "condition": ["none"] * len(uid), "correct": correct}
    write_arrow(pa.table(columns), tmp_path / "v.arrow")
    picks = read_picks(tmp_path / "v.arrow", "none", sample_questions(reader, all_rows(reader)))
    assert (picks.option[picks.right] == picks.answer[picks.right]).all() and (picks.option[~picks.right] == -1).all()


def test_the_best_constant_text_of_each_source(reader):
    """Answers are n mod 4 of the same four words: the best is right of a quarter, for every question."""
    sampled = sample_questions(reader, all_rows(reader))
    assert set(sampled.answers) == set(CHOICES)
    np.testing.assert_allclose(sampled.best_texts(reader, reader.numbers["uid"][::-1]), 1 / 4)
    assert sampled.best_texts(reader, np.array([7], np.uint64)).tolist() == [0.0], "a question of another corpus"


def test_a_letter_names_what_stood_there_when_it_was_shown():
    """Of four options in the second of four orders, B is the third of the file; in two orders the fourth."""
    said = {"raw": "B", "answer": "B", "correct": False, "rotation": 1}
    options = ("one", "two", "three", "four")
    assert picked_option(said, options, 0, orders=4) == (2, "three")
    assert picked_option(said, options, 0, orders=2) == (3, "four")
    assert picked_option(said | {"rotation": 0}, options, -1) == (1, "two")
