"""Audio-contribution filtering: silent votes become labels, and missing votes never count as wrong ones."""

from __future__ import annotations

import json
from importlib.metadata import version
from itertools import product
from math import log

import numpy as np
import pyarrow as pa
import pytest

from earwitness.curriculum.contribution.jury import VoteMatrix
from earwitness.curriculum.contribution.labels import (
    acf_labels,
    label,
    lucky_weak_share,
    published_labels,
    read_about,
    write_labels,
)
from earwitness.curriculum.contribution.latent import latent_class, three_parameter
from earwitness.curriculum.table import read_arrow, read_table, write_arrow
from earwitness.datamodules.voting.answer_store import write_answers
from earwitness.errors import InputError

NONE = float("nan")
OTHERS = ("torch", "transformers", "vllm")


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


def test_shares_of_right_answers_are_votes():
    """As label tables hold them: above one half is right, one half is half a voter, 0.49 is wrong."""
    votes = np.array([[0.75, 0.51, 0], [0.25, 0.49, 1], [0.5, 0.5, 1], [0.5, 0.25, 1], [0.75, NONE, 0], [0.6, NONE, 1]])
    assert acf_labels(votes).tolist() == ["weak", "strong", "weak", "strong", "", "weak"]


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
    """Four questions; right votes 3, 2, 1, 0. The files list them in different orders and hold other conditions.

    Voter c also heard the audio: right on 13 and 14. Right once is (1 + 1/2) / 2 = 3/4, wrong once 1/4.
    """
    votes = [
        ballot(tmp_path / "a.arrow", {11: True, 12: True, 13: True, 14: False}),
        ballot(tmp_path / "b.arrow", {14: False, 13: False, 12: True, 11: True}),
        ballot(tmp_path / "c.arrow", {12: False, 11: True, 14: False, 13: False}),
    ]
    loud = read_arrow(ballot(tmp_path / "loud.arrow", {11: False, 12: False, 13: True, 14: True}, "audio"))
    write_arrow(pa.concat_tables([loud, read_arrow(votes[2])]), votes[2])
    assert label(votes, str(tmp_path / "labels.arrow")) == {"weak": 2, "strong": 2}
    table = read_arrow(tmp_path / "labels.arrow")
    columns = table.to_pydict()
    right = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]])
    required = latent_class(VoteMatrix(right, np.ones_like(right), np.full(4, 4))).contribution
    assert columns.pop("ac_vote") == required.astype(np.float32).tolist()
    assert columns.pop("ac_log") == pytest.approx([-log(3), 0, log(3), log(3)], abs=1e-6)
    assert columns.pop("necessity") == pytest.approx([0, 0, 2 / 3, 2 / 3], abs=1e-6)
    assert columns == {
        "uid": [11, 12, 13, 14],
        "label": ["weak", "weak", "strong", "strong"],
        "votes": [3, 2, 1, 0],
        "vote_0": [1, 1, 1, 0],
        "vote_1": [1, 1, 0, 0],
        "vote_2": [1, 0, 0, 0],
        "p_audio": [0.25, 0.25, 0.75, 0.75],
        "p_silence": [0.75, 0.25, 0.25, 0.25],
        "ac_p": [-0.5, 0, 0.5, 0.5],
    }
    about = json.loads(table.schema.metadata[b"earwitness"])
    software, fingerprint = about.pop("software"), about.pop("fingerprint")
    assert software["earwitness"] == version("earwitness") and set(software) <= {"earwitness", *OTHERS}
    assert len(fingerprint) == 16 and int(fingerprint, 16) >= 0
    assert about == {
        "format": 2,
        "rule": "majority of the voters (tie: strong)",
        "condition": "silence",
        "index": "",
        "voters": [{"name": f"voter {n}", "answers": path} for n, path in enumerate(votes)],
    }


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
    with pytest.raises(InputError, match=r"nobody\.arrow: not found"):
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


# The columns of the table.


def answers(path, rows):
    """An answer table of (uid, condition, correct, p_right or None) and, where it is not 0, the rotation."""
    records = []
    for uid, condition, correct, p, *rotation in rows:
        record = {"uid": uid, "condition": condition, "correct": correct, "rotation": rotation[0] if rotation else 0}
        if p is not None:
            record |= {"p_right": p, "scores": [log(p), log((1 - p) / 2), log((1 - p) / 2)], "right_option": 0}
        records.append(record)
    write_answers(records, path)
    return str(path)


def column(path, name):
    return read_arrow(path).column(name).to_pylist()


def test_votes_of_rotated_options_are_shares(tmp_path):
    """a: 3 of 4, b: 2 of 4, c: not asked: 3/4, 1/2, null; one and a half voters right of three, so 1 and no label."""
    rows = [(1, "silence", n < 3, None, n) for n in range(4)]
    half = [(1, "silence", n < 2, None, n) for n in range(4)]
    paths = [answers(tmp_path / "a.arrow", rows), answers(tmp_path / "b.arrow", half)]
    paths.append(answers(tmp_path / "c.arrow", [(1, "silence", None, None)]))
    counts = label(paths, str(tmp_path / "out.arrow"), allow_missing=True)
    assert counts == {"weak": 0, "strong": 0, "unlabelled": 1}
    table = read_arrow(tmp_path / "out.arrow").to_pydict()
    assert [table[name] for name in ("vote_0", "vote_1", "vote_2")] == [[0.75], [0.5], [None]]
    assert (table["votes"], table["label"]) == ([1], [None])
    assert label(paths, str(tmp_path / "out.arrow"), rule={"fraction": 0.625}) == {"weak": 1, "strong": 0}
    assert label(paths, str(tmp_path / "out.arrow"), rule={"fraction": 0.626}) == {"weak": 0, "strong": 1}


def test_measures_are_means_over_the_voters_that_answered_both_ways(tmp_path):
    """Question 5: a 0.9 and 0.3, b 0.5 and 0.1: p 0.7, 0.2, AC 0.5, log (ln 3 + ln 5) / 2, necessity 5/7.

    Question 6: a 0.8 and 0.8; b only with the audio. Question 3: a only in silence; b not at all: unknown.
    Calibrated, over three options of which two share the rest: 2/3 of the change of ln p - ln ((1 - p) / 2).
    """
    a = [(5, "audio", True, 0.9), (5, "silence", False, 0.3), (6, "audio", True, 0.8), (6, "silence", True, 0.8)]
    a += [(3, "silence", True, 0.6)]
    b = [(5, "audio", True, 0.5), (5, "silence", False, 0.1), (6, "audio", True, 0.99), (6, "silence", None, None)]
    paths = {"a": answers(tmp_path / "a.arrow", a), "b": answers(tmp_path / "b.arrow", b)}
    label(paths, str(tmp_path / "out.arrow"), at_least=1, allow_missing=True)
    table = read_arrow(tmp_path / "out.arrow").to_pydict()

    def odds(p):
        return log(p) - log((1 - p) / 2)

    calibrated = (odds(0.9) - odds(0.3) + odds(0.5) - odds(0.1)) / 3
    expected = {
        "p_audio": [0.7, 0.8],
        "p_silence": [0.2, 0.8],
        "ac_p": [0.5, 0],
        "ac_log": [(log(3) + log(5)) / 2, 0],
        "ac_cal": [calibrated, 0],
        "necessity": [5 / 7, 0],
    }
    for name, values in expected.items():
        assert table[name][0] is None, name
        assert table[name][1:] == pytest.approx(values, abs=1e-5), name
    assert "susceptibility" not in table


def test_susceptibility_compares_silence_with_the_same_voter_s_wrong_recordings(tmp_path):
    """a: 0.6 - 0.2 and 0.4 - 0.4. b was not asked about wrong recordings: its 0.9 in silence is nothing to compare.

    It needs no answers with the right recording.
    """
    a = [(1, "silence", True, 0.6), (1, "mismatched", False, 0.2), (2, "silence", True, 0.4)]
    a += [(2, "mismatched", True, 0.4)]
    b = [(1, "silence", True, 0.9), (2, "silence", True, 0.9)]
    paths = [answers(tmp_path / "a.arrow", a), answers(tmp_path / "b.arrow", b)]
    label(paths, str(tmp_path / "out.arrow"))
    assert column(tmp_path / "out.arrow", "susceptibility") == pytest.approx([0.4, 0], abs=1e-6)
    assert "p_audio" not in read_arrow(tmp_path / "out.arrow").column_names


def test_difficulty_is_there_from_five_voters_on(tmp_path):
    """And is the 3PL's; four voters have none. Question 3 was put to nobody, and has neither difficulty nor ac_vote."""
    votes = [{1: True, 2: n < 2, 3: None} for n in range(5)]
    paths = [ballot(tmp_path / f"{n}.arrow", each) for n, each in enumerate(votes)]
    label(paths[:4], str(tmp_path / "out.arrow"), allow_missing=True)
    assert "difficulty" not in read_arrow(tmp_path / "out.arrow").column_names
    label(paths, str(tmp_path / "out.arrow"), allow_missing=True)
    right, asked = np.array([[1] * 5, [1, 1, 0, 0, 0], [0] * 5]), np.array([[1] * 5, [1] * 5, [0] * 5])
    expected = three_parameter(VoteMatrix(right, asked, np.full(3, 4))).difficulty
    found = column(tmp_path / "out.arrow", "difficulty")
    assert found[:2] == pytest.approx(expected[:2].tolist(), abs=1e-6) and found[2] is None
    assert column(tmp_path / "out.arrow", "ac_vote")[2] is None


def test_the_index_says_how_many_options_guessing_has(tmp_path):
    """Three of four right at 5 %: P = 5/16 with two options, 17/625 with five."""
    rows = [(uid, "silence", n < 3, None, n) for uid in (1, 2) for n in range(4)]
    path = answers(tmp_path / "a.arrow", rows)
    uids = pa.array([2, 1], pa.uint64())
    write_arrow(pa.table({"uid": uids, "num_choices": pa.array([5, 2], pa.int8())}), tmp_path / "index.arrow")
    rule, out = {"chance_test": 0.05}, str(tmp_path / "out.arrow")
    label([path], out, index=str(tmp_path / "index.arrow"), rule=rule)
    assert (column(out, "uid"), column(out, "label")) == ([1, 2], ["strong", "weak"])
    two, five = column(out, "ac_vote")
    assert two > five


def test_an_open_label_is_a_missing_value_of_the_table(tmp_path):
    """Code -1 in the curriculum's table, beside weak 0 and strong 1, also where the index knows more questions."""
    votes = [ballot(tmp_path / f"{v}.arrow", {1: True, 2: v == "a", 3: None if v == "a" else v == "b"}) for v in "abc"]
    counts = label(votes, str(tmp_path / "labels.arrow"), allow_missing=True)
    assert counts == {"weak": 1, "strong": 1, "unlabelled": 1}
    table = read_table(index(tmp_path / "index.arrow", [4, 3, 2, 1]), tmp_path / "labels.arrow")
    text = table.text("label")
    assert text.names == ("weak", "strong") and text.codes.tolist() == [-1, -1, 1, 0]
    np.testing.assert_array_equal(table.columns["vote_0"], [NONE, NONE, 1, 1])
    np.testing.assert_array_equal(np.isnan(table.columns["ac_vote"]), [True, False, False, False])


# What may be asked for.


def test_two_ways_of_saying_the_rule_are_refused(tmp_path):
    votes = [ballot(tmp_path / "a.arrow", {1: True})]
    with pytest.raises(InputError, match="give either at_least or rule"):
        label(votes, str(tmp_path / "out.arrow"), at_least=1, rule="majority")
    with pytest.raises(InputError, match="a rule is one of majority"):
        label(votes, str(tmp_path / "out.arrow"), rule={})
    with pytest.raises(InputError, match="rule.at_least is 2, there are 1 voters"):
        label(votes, str(tmp_path / "out.arrow"), rule={"at_least": 2})


def test_nobody_to_ask_and_nothing_to_label_are_refused(tmp_path):
    with pytest.raises(InputError, match="there is no voter"):
        label([], str(tmp_path / "out.arrow"))
    votes = [ballot(tmp_path / "a.arrow", {1: True})]
    with pytest.raises(InputError, match="no question to label"):
        label(votes, str(tmp_path / "out.arrow"), only=np.array([5], np.uint64))
    assert not (tmp_path / "out.arrow").exists()


def test_another_condition_can_make_the_label(tmp_path):
    """Right under noise, wrong in silence. A condition that one voter lacks is refused by the voter's file."""
    both = [(1, "silence", False, None), (1, "noise", True, None)]
    paths = [answers(tmp_path / "a.arrow", both), answers(tmp_path / "b.arrow", both[:1])]
    assert label(paths[:1], str(tmp_path / "out.arrow"), condition="noise") == {"weak": 1, "strong": 0}
    assert label(paths[:1], str(tmp_path / "out.arrow")) == {"weak": 0, "strong": 1}
    with pytest.raises(InputError, match=r"b\.arrow: no answers under the condition 'noise'; add it"):
        label(paths, str(tmp_path / "out.arrow"), condition="noise")


def test_only_the_questions_asked_for_are_labelled(tmp_path):
    """Question 2 lacks votes and is not asked for."""
    votes = [ballot(tmp_path / f"{v}.arrow", {1: True, 2: None, 2**64 - 1: False}) for v in "ab"]
    only = np.array([2**64 - 1, 1, 77], np.uint64)
    assert label(votes, str(tmp_path / "out.arrow"), only=only) == {"weak": 1, "strong": 1}
    assert column(tmp_path / "out.arrow", "uid") == [1, 2**64 - 1]


def test_missing_votes_are_refused_also_where_ties_are_dropped(tmp_path):
    """Question 1 is a tie and may be dropped; question 2 lacks a vote that decides, question 3 one that does not."""
    votes = [
        ballot(tmp_path / "a.arrow", {1: True, 2: True, 3: True}),
        ballot(tmp_path / "b.arrow", {1: True, 2: True, 3: True}),
        ballot(tmp_path / "c.arrow", {1: False, 2: False, 3: True}),
        ballot(tmp_path / "d.arrow", {1: False, 3: None}),
    ]
    out, rule = str(tmp_path / "out.arrow"), {"majority": True, "tie": "drop"}
    with pytest.raises(InputError, match=r"^1 questions lack votes"):
        label(votes, out, rule=rule)
    only = np.array([1, 3], np.uint64)
    assert label(votes, out, rule=rule, only=only) == {"weak": 1, "strong": 0, "unlabelled": 1}
    assert label(votes, out, rule=rule, allow_missing=True) == {"weak": 1, "strong": 0, "unlabelled": 2}
    assert column(out, "label") == [None, None, "weak"]


def test_a_vote_that_could_only_make_a_tie_is_not_missed(tmp_path):
    """One right of three, the fourth missing: at most a tie, which is strong."""
    votes = [ballot(tmp_path / f"{v}.arrow", {1: None if v == "d" else v == "a"}) for v in "abcd"]
    assert label(votes, str(tmp_path / "out.arrow")) == {"weak": 0, "strong": 1}


# What the table remembers.


def fingerprint(path):
    return read_about(path)["fingerprint"]


def test_the_fingerprint_changes_with_any_value_and_with_what_is_said_about_it(tmp_path):
    """And with nothing else: the same table written twice has the same."""
    path = tmp_path / "t.arrow"
    columns = {
        "uid": np.array([1, 2], np.uint64),
        "label": np.array(["weak", "strong"]),
        "ac_vote": np.array([0.25, NONE], np.float32),
    }
    about = {"rule": "majority"}
    plain = write_labels(columns, about, path)
    assert plain == fingerprint(path) == write_labels(columns, about, tmp_path / "other.arrow")
    other = [
        (columns | {"uid": np.array([1, 3], np.uint64)}, about),
        (columns | {"label": np.array(["weak", ""])}, about),
        (columns | {"label": np.array(["strong", "strong"])}, about),
        (columns | {"ac_vote": np.array([0.25, 0], np.float32)}, about),
        (columns | {"ac_vote": np.array([np.nextafter(np.float32(0.25), np.float32(1)), NONE], np.float32)}, about),
        (columns | {"more": np.array([1, 2])}, about),
        ({name: values for name, values in columns.items() if name != "ac_vote"}, about),
        (columns, {"rule": "minority"}),
        (columns, about | {"seed": 0}),
    ]
    found = [write_labels(*each, path) for each in other]
    assert len({plain, *found}) == 1 + len(other)


def test_what_is_said_about_a_table_is_kept_and_counts(tmp_path):
    votes, out = {"kimi": ballot(tmp_path / "a.arrow", {1: True})}, str(tmp_path / "out.arrow")
    label(votes, out)
    plain = read_about(out)
    label(votes, out, about={"conditions": ["silence"], "seed": 3})
    told = read_about(out)
    assert told == plain | {"conditions": ["silence"], "seed": 3, "fingerprint": told["fingerprint"]}
    assert told["fingerprint"] != plain["fingerprint"]
    assert told["voters"] == [{"name": "kimi", "answers": votes["kimi"]}]
    label(votes, out, rule={"chance_test": 0.3})
    assert read_about(out)["rule"] == "more right answers than guessing explains at 0.3"
    label(votes, out, index=index(tmp_path / "index.arrow", [1]))
    assert len(read_about(out)["index"]) == 16


def test_a_table_that_does_not_say_how_it_was_made_is_refused(tmp_path):
    rows = index(tmp_path / "index.arrow", [1])
    with pytest.raises(InputError, match=r"index\.arrow: not a label table of `earwitness label`"):
        read_about(rows)


# Labels that a corpus was published with.


def published(path, labels):
    columns = {"uid": pa.array(range(1, len(labels) + 1), pa.uint64())}
    write_arrow(pa.table(columns | {"audio_contribution": pa.array(labels, pa.string()).dictionary_encode()}), path)
    return str(path)


def test_published_labels_are_taken_over_and_open_where_there_are_none(tmp_path):
    rows = published(tmp_path / "index.arrow", ["strong", None, "weak", "strong"])
    assert published_labels(rows, str(tmp_path / "out.arrow")) == {"weak": 1, "strong": 2, "unlabelled": 1}
    assert read_arrow(tmp_path / "out.arrow").to_pydict() == {
        "uid": [1, 2, 3, 4],
        "label": ["strong", None, "weak", "strong"],
    }
    assert read_about(tmp_path / "out.arrow")["rule"] == "as published"
    text = read_table(rows, tmp_path / "out.arrow").text("label")
    assert text.names == ("weak", "strong") and text.codes.tolist() == [1, -1, 0, 1]
    whole = published(tmp_path / "whole.arrow", ["weak"])
    assert published_labels(whole, str(tmp_path / "out.arrow")) == {"weak": 1, "strong": 0}


def test_a_corpus_without_published_labels_is_named(tmp_path):
    with pytest.raises(InputError, match=r"index\.arrow: no column audio_contribution"):
        published_labels(index(tmp_path / "index.arrow", [1]), str(tmp_path / "out.arrow"))
    with pytest.raises(InputError, match=r"none\.arrow: none of its questions was published with a label"):
        published_labels(published(tmp_path / "none.arrow", [None, None]), str(tmp_path / "out.arrow"))
    assert not (tmp_path / "out.arrow").exists()


VERDICTS = {"r": ("right", True), "w": ("wrong", False), "u": ("unfinished", False), "x": ("unreadable", False)}


def verdicts(path, words):
    """An answer table of evaluation, where every answer that is not right is `correct: false`."""
    records = [
        {"uid": uid, "condition": "silence", "verdict": VERDICTS[word][0], "correct": VERDICTS[word][1]}
        for uid, word in enumerate(words)
    ]
    write_answers(records, path)
    return str(path)


def test_answers_that_are_cut_off_or_cannot_be_read_are_missing_votes_in_every_table(tmp_path, capsys):
    """Counted as wrong, questions 1 and 2 would be strong, and cut-off replies alone would make a corpus strong."""
    words = ["rrw" + "r" * 30, "rux" + "r" * 30, "wrr" + "r" * 30]
    paths = [verdicts(tmp_path / f"{n}.arrow", line) for n, line in enumerate(words)]
    counts = label(paths, str(tmp_path / "labels.arrow"))
    table = read_arrow(tmp_path / "labels.arrow")
    assert counts == {"weak": 32, "strong": 0, "unlabelled": 1}
    assert table.column("label").to_pylist()[:3] == ["weak", "weak", None]
    assert table.column("vote_1").to_pylist()[:3] == [1.0, None, None]
    assert capsys.readouterr().err == "1 questions get no label: votes that could decide are unfinished or unreadable\n"
    ballot(paths[2], dict.fromkeys(range(1, 33), True))  # 0 is decided by two
    assert label(paths, str(tmp_path / "labels.arrow"))["weak"] == 32
    ballot(paths[2], dict.fromkeys([0, *range(3, 33)], True))  # of 1 and 2 a vote was never given
    with pytest.raises(InputError, match="^2 questions lack votes; run the voters over the whole index"):
        label(paths, str(tmp_path / "labels.arrow"))
