"""Audio-contribution filtering: silent votes become labels, and missing votes never count as wrong ones."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pyarrow as pa
import pytest

from earwitness.curriculum.labels import acf_labels, label, lucky_weak_share
from earwitness.curriculum.table import read_arrow, read_table, write_arrow
from earwitness.errors import InputError

NONE = float("nan")


def ballot(path, correct, condition="silence"):
    """An answer table {uid: right} under one condition; None is a vote that is missing."""
    columns = {
        "uid": pa.array(list(correct), pa.uint64()),
        "condition": [condition] * len(correct),
        "correct": pa.array(list(correct.values()), pa.bool_()),
    }
    write_arrow(pa.table(columns), path)
    return str(path)


def index(path, uids):
    write_arrow(pa.table({"uid": pa.array(uids, pa.uint64()), "split": ["train"] * len(uids)}), path)
    return str(path)


def test_two_of_three_right_under_silence_is_weak():
    """All eight ballots: weak are 110, 101, 011 and 111, as in the paper."""
    ballots = np.array(list(product([0, 1], repeat=3)))
    expected = ["strong", "strong", "strong", "weak", "strong", "weak", "weak", "weak"]
    assert acf_labels(ballots).tolist() == expected


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ([1, 1, NONE], "weak"),  # decided: a third vote cannot change it
        ([0, 0, NONE], "strong"),  # decided: one more right vote is too few
        ([1, 0, NONE], ""),  # the missing vote decides
        ([1, NONE, NONE], ""),
        ([0, NONE, NONE], ""),
        ([NONE, NONE, NONE], ""),
    ],
)
def test_a_missing_vote_leaves_open_only_what_it_could_decide(votes, expected):
    assert acf_labels(np.array([votes]))[0] == expected


def test_a_label_with_missing_votes_is_what_every_completion_of_the_ballot_gives():
    """Law: fill the gaps in all ways; one label each time means that label, two mean open. 3^4 ballots, k = 1..4."""
    for at_least, votes in product(range(1, 5), product([0.0, 1.0, NONE], repeat=4)):
        filled = product(*([0, 1] if np.isnan(vote) else [vote] for vote in votes))
        outcomes = {"weak" if sum(ballot) >= at_least else "strong" for ballot in filled}
        expected = outcomes.pop() if len(outcomes) == 1 else ""
        assert acf_labels(np.array([votes]), at_least)[0] == expected


@pytest.mark.parametrize(
    ("choices", "voters", "at_least", "share"),
    [
        ([4], 3, 2, 10 / 64),  # 3 (1/4)^2 (3/4) + (1/4)^3: the paper's 15.6 %
        ([2], 3, 2, 1 / 2),
        ([3], 3, 2, 7 / 27),
        ([5], 3, 2, 13 / 125),
        ([4], 1, 1, 1 / 4),
        ([4], 3, 3, 1 / 64),
        ([4], 5, 3, 106 / 1024),  # (10 x 9 + 5 x 3 + 1) / 4^5
        ([4, 4, 2, 2], 3, 2, (10 / 64 + 1 / 2) / 2),
    ],
)
def test_lucky_weak_share_by_hand(choices, voters, at_least, share):
    assert lucky_weak_share(np.array(choices), voters, at_least) == pytest.approx(share, abs=1e-15)


def test_lucky_weak_share_is_the_rule_applied_to_every_way_of_guessing():
    """Three guessers, four options, option 0 right: 10 of the 64 equally likely ballots are labelled weak."""
    guesses = np.array(list(product(range(4), repeat=3)))
    weak = acf_labels(guesses == 0) == "weak"
    assert weak.sum() == 10 and lucky_weak_share(np.array([4])) == weak.mean() == 0.15625


def test_label_end_to_end(tmp_path):
    """Four questions; right votes 3, 2, 1, 0. The files list them in different orders and hold other conditions."""
    votes = [
        ballot(tmp_path / "a.arrow", {11: True, 12: True, 13: True, 14: False}),
        ballot(tmp_path / "b.arrow", {14: False, 13: False, 12: True, 11: True}),
        ballot(tmp_path / "c.arrow", {12: False, 11: True, 14: False, 13: False}),
    ]
    loud = read_arrow(ballot(tmp_path / "loud.arrow", {11: False, 12: False, 13: True, 14: True}, "audio"))
    write_arrow(pa.concat_tables([loud, read_arrow(votes[2])]), votes[2])
    assert label(votes, str(tmp_path / "labels.arrow")) == {"weak": 2, "strong": 2}
    table = read_arrow(tmp_path / "labels.arrow")
    assert table.to_pydict() == {
        "uid": [11, 12, 13, 14],
        "label": ["weak", "weak", "strong", "strong"],
        "votes": [3, 2, 1, 0],
        "vote_0": [1, 1, 1, 0],
        "vote_1": [1, 1, 0, 0],
        "vote_2": [1, 0, 0, 0],
    }
    about = json.loads(table.schema.metadata[b"earwitness"])
    assert about == {"rule": "at least 2 of 3 right under silence", "votes": votes}


def test_at_least_moves_the_border(tmp_path):
    """Right votes 2, 1, 0: weak are none, one or two of them for at_least 3, 2 and 1."""
    votes = [
        ballot(tmp_path / "a.arrow", {1: True, 2: True, 3: False}),
        ballot(tmp_path / "b.arrow", {1: True, 2: False, 3: False}),
        ballot(tmp_path / "c.arrow", {1: False, 2: False, 3: False}),
    ]
    weak = [label(votes, str(tmp_path / "out.arrow"), at_least=k)["weak"] for k in (1, 2, 3)]
    assert weak == [2, 1, 0]


def test_label_keeps_to_the_questions_of_the_index(tmp_path):
    """Votes on questions outside the index are left out, and the labels join back to it."""
    votes = [ballot(tmp_path / f"{v}.arrow", {5: v != "c", 3: False, 9: True}) for v in "abc"]
    rows = index(tmp_path / "index.arrow", [9, 5])
    assert label(votes, str(tmp_path / "labels.arrow"), index=rows) == {"weak": 2, "strong": 0}
    assert read_arrow(tmp_path / "labels.arrow").column("uid").to_pylist() == [5, 9]
    column = read_table(rows, tmp_path / "labels.arrow").text("label")
    assert [column.names[code] for code in column.codes] == ["weak", "weak"]


def test_a_question_of_the_index_without_votes_is_an_error(tmp_path):
    votes = [ballot(tmp_path / f"{v}.arrow", {1: True, 2: True}) for v in "abc"]
    rows = index(tmp_path / "index.arrow", [1, 2, 3, 4])
    with pytest.raises(InputError, match=r"^2 questions lack votes"):
        label(votes, str(tmp_path / "labels.arrow"), index=rows)
    assert not (tmp_path / "labels.arrow").exists()


def test_a_question_that_too_few_voters_saw_is_an_error(tmp_path):
    """Question 2: one right, one missing from the file, one null: the two gaps decide."""
    votes = [
        ballot(tmp_path / "a.arrow", {1: True, 2: True}),
        ballot(tmp_path / "b.arrow", {1: True}),
        ballot(tmp_path / "c.arrow", {1: True, 2: None}),
    ]
    with pytest.raises(InputError, match=r"^1 questions lack votes"):
        label(votes, str(tmp_path / "labels.arrow"))


def test_a_voter_who_was_not_asked_under_silence_is_an_error(tmp_path):
    votes = [ballot(tmp_path / f"{v}.arrow", {1: True}, "audio" if v == "b" else "silence") for v in "abc"]
    with pytest.raises(InputError, match=r"b\.arrow: no answers under the condition 'silence'"):
        label(votes, str(tmp_path / "labels.arrow"))


@pytest.mark.parametrize("at_least", [0, 4])
def test_at_least_must_fit_the_number_of_voters(tmp_path, at_least):
    votes = [ballot(tmp_path / f"{v}.arrow", {1: True}) for v in "abc"]
    with pytest.raises(InputError, match=f"between 1 and the number of voters 3, got {at_least}"):
        label(votes, str(tmp_path / "labels.arrow"), at_least=at_least)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nobody\.arrow: no such table"):
        label([str(tmp_path / "nobody.arrow")], str(tmp_path / "labels.arrow"), at_least=1)


def silent_votes(path, correct, uid=(1, 2)):
    columns = {"uid": pa.array(uid, pa.uint64()), "condition": ["silence"] * len(uid)}
    write_arrow(pa.table(columns | {"correct": pa.array(correct, pa.bool_())}), path)
    return str(path)


@pytest.mark.filterwarnings("error")
def test_a_missing_vote_is_not_written_as_a_wrong_one(tmp_path):
    """Two voters decide question 1 without the third, whose vote stays missing."""
    both = [silent_votes(tmp_path / f"{name}.arrow", [True, True]) for name in "ab"]
    label([*both, silent_votes(tmp_path / "c.arrow", [None, True])], str(tmp_path / "labels.arrow"))
    written = read_arrow(tmp_path / "labels.arrow")
    assert written.column("label").to_pylist() == ["weak", "weak"]
    assert written.column("vote_2").to_pylist() == [None, 1.0]


def test_a_voter_who_answers_twice_is_refused(tmp_path):
    twice = [silent_votes(tmp_path / "a.arrow", [False, True, True], (1, 1, 2))] * 3
    with pytest.raises(InputError, match="answered a question twice"):
        label(twice, str(tmp_path / "labels.arrow"))
