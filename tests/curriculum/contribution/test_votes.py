"""Answer tables become tallies: rotations and draws add up, what was not judged was not asked."""

from __future__ import annotations

from math import log

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earwitness.curriculum.contribution.votes import Tally, matched, over_voters, read_tallies, vote_matrix
from earwitness.curriculum.table import read_arrow, write_arrow
from earwitness.datamodules.voting.answer_store import write_answers
from earwitness.errors import InputError

NAN = float("nan")
BIG = 2**64 - 3  # beyond what a float64 or an int64 holds


def answer(uid, correct, condition="silence", rotation=0, draw=0, **more):
    return {"uid": uid, "condition": condition, "correct": correct, "rotation": rotation, "draw": draw, **more}


def tallied(tmp_path, records):
    """The tallies of a stored table of these records."""
    write_answers(records, tmp_path / "voter.arrow")
    return read_tallies(tmp_path / "voter.arrow")


def tally(uid, right, asked, p_right=None, log_excess=None):
    unknown = [NAN] * len(uid)
    return Tally(
        np.array(uid, np.uint64),
        np.array(right, np.int64),
        np.array(asked, np.int64),
        np.array(unknown if p_right is None else p_right, float),
        np.array(unknown if log_excess is None else log_excess, float),
    )


def test_answers_in_all_orders_and_draws_add_up(tmp_path):
    """Question 7: two orders, two draws each, three right. Question 5: one, wrong. Question 2^64 - 3: one, right."""
    records = [answer(7, r + d < 2, rotation=r, draw=d) for r in (0, 1) for d in (0, 1)]
    found = tallied(tmp_path, [*records, answer(BIG, True), answer(5, False)])["silence"]
    assert found.uid.tolist() == [5, 7, BIG] and found.uid.dtype == np.uint64
    assert (found.right.tolist(), found.asked.tolist()) == ([0, 3, 1], [1, 4, 1])
    assert np.isnan(found.p_right).all() and np.isnan(found.log_excess).all()


def test_an_answer_that_was_not_judged_was_not_asked(tmp_path):
    """Null beside a right one: one of one. Null alone: none of none, but the question is there."""
    found = tallied(tmp_path, [answer(1, None), answer(1, True, rotation=1), answer(2, None)])["silence"]
    assert (found.uid.tolist(), found.right.tolist(), found.asked.tolist()) == ([1, 2], [1, 0], [1, 0])
    np.testing.assert_array_equal(found.rate(), [0.75, NAN])


def test_conditions_are_told_apart(tmp_path):
    records = [answer(1, True, "audio"), answer(1, False), answer(2, False, "audio"), answer(2, True, "silence:clip")]
    found = tallied(tmp_path, records)
    assert sorted(found) == ["audio", "silence", "silence:clip"]
    assert {name: (t.uid.tolist(), t.right.tolist()) for name, t in found.items()} == {
        "audio": ([1, 2], [1, 0]),
        "silence": ([1], [0]),
        "silence:clip": ([2], [1]),
    }


def scored(uid, scores, right, rotation=0, condition="silence"):
    """A record as a voter that scores options writes it."""
    exp = np.exp(scores)
    share = float(exp[right] / exp.sum())
    return answer(
        uid,
        int(np.argmax(scores)) == right,
        condition,
        rotation,
        scores=list(map(float, scores)),
        p_right=share,
        right_option=right,
    )


def test_probabilities_are_means_over_the_orders_by_hand(tmp_path):
    """Options worth 1, 2, 3, 4 of 10, the third is right: p = 0.3; and 1, 1, 6, 2: p = 0.6. Mean 0.45.

    ln 3 - mean ln (1, 2, 3, 4) = ln 3 - ln 24 / 4; ln 6 - ln 12 / 4. Question 2 has two options, 1 and 3: ln 3 / 2.
    """
    records = [
        scored(1, np.log([1, 2, 3, 4]), 2),
        scored(1, np.log([1, 1, 6, 2]) - 40, 2, rotation=1),
        scored(2, np.log([1, 3]), 1),
    ]
    found = tallied(tmp_path, records)["silence"]
    np.testing.assert_allclose(found.p_right, [0.45, 0.75], atol=1e-7)
    excess = [(log(3) - log(24) / 4 + log(6) - log(12) / 4) / 2, log(3) / 2]
    np.testing.assert_allclose(found.log_excess, excess, atol=1e-5)
    np.testing.assert_allclose(found.rate(), [0.45, 0.75], atol=1e-7)
    assert (found.right.tolist(), found.asked.tolist()) == ([1, 1], [2, 1])


def test_orders_without_scores_drop_out_of_the_means(tmp_path):
    """One of two orders failed: null everywhere. A question without any scores goes by its answers: (0 + 1/2) / 2."""
    failed = answer(1, None, rotation=1, right_option=2)
    records = [scored(1, np.log([1, 2, 3, 4]), 2), failed, answer(2, False, right_option=0)]
    found = tallied(tmp_path, records)["silence"]
    np.testing.assert_allclose(found.p_right, [0.3, NAN], atol=1e-7)
    np.testing.assert_allclose(found.log_excess, [log(3) - log(24) / 4, NAN], atol=1e-6)
    np.testing.assert_allclose(found.rate(), [0.3, 0.25], atol=1e-7)
    assert found.asked.tolist() == [1, 1]


def test_the_same_answer_twice_is_refused_by_name(tmp_path):
    """Naming the question, the condition, the order and the draw."""
    records = [answer(BIG, True, rotation=2, draw=1), answer(4, True), answer(BIG, True, rotation=2, draw=1)]
    with pytest.raises(InputError, match=r"voter\.arrow: the voter answered a question twice") as caught:
        tallied(tmp_path, records)
    for part in (f"'uid': {BIG}", "'condition': 'silence'", "'rotation': 2", "'draw': 1", "one vote counts"):
        assert part in str(caught.value)


def test_an_unjudged_answer_counts_as_the_same_answer(tmp_path):
    with pytest.raises(InputError, match="twice"):
        tallied(tmp_path, [answer(4, None), answer(4, True)])


@pytest.mark.parametrize("other", [{"rotation": 1}, {"draw": 1}, {"condition": "audio"}, {"uid": 5}])
def test_answers_that_differ_in_one_thing_are_two(tmp_path, other):
    found = tallied(tmp_path, [answer(4, True), answer(4, True) | other])
    assert sum(t.asked.sum() for t in found.values()) == 2


def test_a_table_of_before_rotations_may_hold_a_question_once(tmp_path):
    """Without the columns rotation and draw."""

    def plain(uids):
        columns = {"uid": pa.array(uids, pa.uint64()), "condition": ["silence"] * len(uids)}
        write_arrow(pa.table(columns | {"correct": [True] * len(uids)}), tmp_path / "old.arrow")
        return read_tallies(tmp_path / "old.arrow")

    assert plain([3, 1])["silence"].uid.tolist() == [1, 3]
    with pytest.raises(InputError, match="twice"):
        plain([3, 1, 3])


def test_a_table_without_answers_is_named(tmp_path):
    write_arrow(pa.table({"uid": pa.array([1], pa.uint64()), "correct": [True]}), tmp_path / "votes.arrow")
    with pytest.raises(InputError, match=r"votes\.arrow: not an answer table: no column 'condition'"):
        read_tallies(tmp_path / "votes.arrow")
    with pytest.raises(InputError, match=r"nobody\.arrow: not found"):
        read_tallies(tmp_path / "nobody.arrow")


@pytest.mark.parametrize("name", ["uid", "condition"])
def test_an_answer_to_nothing_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=rf"voter\.arrow: 1 answers have no {name}"):
        tallied(tmp_path, [answer(1, True), answer(2, True) | {name: None}])


@settings(deadline=None, max_examples=25)
@given(st.randoms())
def test_the_order_of_the_rows_changes_nothing(tmp_path_factory, random):
    """To the last bit but one: means of float32 probabilities may be added in another order."""
    path = tmp_path_factory.mktemp("order")
    records = [
        scored(uid, np.array([random.uniform(-9, 0) for _ in range(4)]), random.randrange(4), rotation, condition)
        for uid in {random.randrange(2**64) for _ in range(6)}
        for condition in ("audio", "silence")
        for rotation in range(random.randint(1, 4))
    ]
    before = tallied(path, records)
    random.shuffle(records)
    after = tallied(path, records)
    for condition, tally_ in before.items():
        for name in ("uid", "right", "asked"):
            np.testing.assert_array_equal(getattr(after[condition], name), getattr(tally_, name))
        for name in ("p_right", "log_excess"):
            np.testing.assert_allclose(getattr(after[condition], name), getattr(tally_, name), rtol=1e-12)


def test_many_answers_are_grouped_by_question_at_once(tmp_path):
    """3,000 questions, four orders, shuffled: counts and means as numpy groups them."""
    random = np.random.default_rng(0)
    uid = np.repeat(np.unique(random.integers(0, 2**64, 3_000, np.uint64)), 4)
    assert len(uid) == 12_000
    rotation, correct, p = np.tile(np.arange(4), 3_000), random.random(12_000) < 0.4, random.random(12_000)
    order = random.permutation(12_000)
    columns = {"uid": pa.array(uid[order]), "condition": pa.array(["silence"] * 12_000)}
    columns |= {"correct": correct[order], "rotation": rotation[order].astype(np.int8), "p_right": p[order]}
    write_arrow(pa.table(columns), tmp_path / "many.arrow")
    found = read_tallies(tmp_path / "many.arrow")["silence"]
    by_uid = np.argsort(uid[::4])
    np.testing.assert_array_equal(found.uid, uid[::4][by_uid])
    np.testing.assert_array_equal(found.right, correct.reshape(-1, 4).sum(axis=1)[by_uid])
    assert (found.asked == 4).all()
    np.testing.assert_allclose(found.p_right, p.reshape(-1, 4).mean(axis=1)[by_uid], rtol=1e-12)


# From tallies to ballots.


def test_ballots_line_up_with_the_questions_in_any_order():
    """Voter 2 misses question 9 and knows one that is not asked for; voter 3 has no answers at all."""
    one, two = tally([2, 5, 9], [1, 2, 3], [4, 4, 4]), tally([2, 3, 5], [1, 1, 0], [1, 1, 0])
    found = vote_matrix([one, two, None], np.array([9, 2, 5, 4], np.uint64), np.array([4, 3, 2, 5]))
    assert found.right.tolist() == [[3, 0, 0], [1, 1, 0], [2, 0, 0], [0, 0, 0]]
    assert found.asked.tolist() == [[4, 0, 0], [4, 1, 0], [4, 0, 0], [0, 0, 0]]
    assert found.num_choices.tolist() == [4, 3, 2, 5]
    np.testing.assert_array_equal(found.votes[:, 1], [NAN, 1, NAN, NAN])


def test_a_voter_that_answered_nothing_is_missing_everywhere():
    found = vote_matrix([tally([], [], [])], np.array([1, 2], np.uint64), np.array([4, 4]))
    assert found.asked.tolist() == [[0], [0]]


def test_matched_are_the_places_of_what_both_hold():
    mine, theirs = matched(np.array([BIG, 4, 1, 7], np.uint64), np.array([1, 7, 8, BIG], np.uint64))
    assert (mine.tolist(), theirs.tolist()) == ([0, 2, 3], [3, 0, 1])
    assert [len(part) for part in matched(np.array([1], np.uint64), np.empty(0, np.uint64))] == [0, 0]


@pytest.mark.filterwarnings("error")
def test_means_over_voters_are_of_those_that_know():
    """Question 1: 0.2 and 0.6. Question 2: 0.8 and unknown. Question 3: one voter, unknown. Question 4: none."""
    uid = np.array([4, 3, 2, 1], np.uint64)
    a = np.array([1, 2, 3], np.uint64), np.array([0.2, 0.8, NAN])
    b = np.array([1, 2, 9], np.uint64), np.array([0.6, NAN, 0.1])
    np.testing.assert_allclose(over_voters([a, b], uid), [NAN, NAN, 0.8, 0.4], atol=1e-15)
    assert np.isnan(over_voters([], uid)).all()


def test_a_rate_is_scored_where_it_was_and_else_smoothed():
    """0.9 as scored; 1 of 4: 1.5 / 5; nothing."""
    found = tally([1, 2, 3], [0, 1, 0], [1, 4, 0], p_right=[0.9, NAN, NAN])
    np.testing.assert_allclose(found.rate(), [0.9, 0.3, NAN], atol=1e-15)


def test_a_stored_table_reads_back_as_it_was_written(tmp_path):
    """The fields that tallies go by are those that the store writes."""
    write_answers([scored(1, np.log([1, 3]), 1)], tmp_path / "v.arrow")
    row = read_arrow(tmp_path / "v.arrow").to_pylist()[0]
    assert (row["uid"], row["condition"], row["correct"], row["rotation"], row["draw"]) == (1, "silence", True, 0, 0)
    assert (row["right_option"], row["p_right"]) == (1, 0.75)
