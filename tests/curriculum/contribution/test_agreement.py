"""Agreement of voters, and what a label says of a question, against numbers worked by hand and the libraries' own."""

from __future__ import annotations

import warnings
from math import log, log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, mutual_info_score
from statsmodels.stats.inter_rater import aggregate_raters
from statsmodels.stats.inter_rater import fleiss_kappa as of_counts

from earwitness.curriculum.contribution.agreement import (
    cohen_kappa,
    effective_voters,
    fleiss_kappa,
    flip_rates,
    in_bins,
    mutual_information,
    voter_table,
)
from earwitness.curriculum.contribution.jury import Rule, VoteMatrix

LAW = settings(deadline=None, max_examples=30)
NAN = float("nan")
MAJORITY = Rule(majority=True)


def once(votes, choices=4):
    """VoteMatrix of [N, m] votes 1, 0 or NaN, each voter asked once."""
    votes = np.asarray(votes, float)
    asked = (~np.isnan(votes)).astype(np.int64)
    return VoteMatrix(np.nan_to_num(votes).astype(np.int64), asked, np.broadcast_to(choices, len(votes)).copy())


def flips(votes, rule):
    ballots = votes if isinstance(votes, VoteMatrix) else once(votes)
    return flip_rates(ballots, rule, np.arange(len(ballots.right), dtype=np.uint64))


TABLES = st.integers(0, 2**32).map(lambda seed: np.random.default_rng(seed).integers(0, 2, (40, 4)).astype(float))


# Between voters.


def test_cohen_by_hand():
    """Agree on 4 of 6; each right in half: p_e = 1/2, so (2/3 - 1/2) / (1/2) = 1/3. Opposite -1, equal 1."""
    a, b = np.array([1.0, 1, 1, 0, 0, 0]), np.array([1.0, 1, 0, 0, 0, 1])
    assert cohen_kappa(a, b) == pytest.approx(1 / 3, abs=1e-15)
    assert cohen_kappa(a, 1 - a) == pytest.approx(-1, abs=1e-15)
    assert cohen_kappa(a, a) == pytest.approx(1, abs=1e-15)


def test_cohen_takes_chance_from_the_margins():
    """p_o = 8/10; right 9 and 7 of 10: p_e = 0.63 + 0.03; kappa = (0.8 - 0.66) / 0.34 = 7/17."""
    a = np.array([1.0] * 9 + [0])
    b = np.array([1.0] * 7 + [0] * 3)
    assert cohen_kappa(a, b) == pytest.approx(7 / 17, abs=1e-15)


@LAW
@given(TABLES)
def test_cohen_is_the_formula_and_scikit_learn_s(votes):
    a, b = votes[:, 0], votes[:, 1]
    p_o, p_e = (a == b).mean(), a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
    assert cohen_kappa(a, b) == pytest.approx((p_o - p_e) / (1 - p_e), abs=1e-12)
    assert cohen_kappa(a, b) == pytest.approx(cohen_kappa_score(a, b), abs=1e-15)
    assert cohen_kappa(b, a) == pytest.approx(cohen_kappa(a, b), abs=1e-12)


@pytest.mark.filterwarnings("error")
def test_cohen_leaves_out_what_one_of_both_was_not_asked():
    a, b = np.array([1.0, 1, 1, 0, 0, 0, NAN, 1]), np.array([1.0, 1, 0, 0, 0, 1, 1, NAN])
    assert cohen_kappa(a, b) == pytest.approx(1 / 3, abs=1e-15)
    assert np.isnan(cohen_kappa(np.array([1.0, NAN]), np.array([NAN, 1.0])))


@pytest.mark.filterwarnings("error")
def test_two_voters_that_always_say_the_same_one_thing_have_no_kappa():
    """p_e = 1. Always right beside always wrong agree as chance says: 0."""
    assert np.isnan(cohen_kappa(np.ones(4), np.ones(4))) and np.isnan(cohen_kappa(np.zeros(4), np.zeros(4)))
    assert cohen_kappa(np.ones(4), np.zeros(4)) == 0


def test_fleiss_by_hand():
    """Right 3, 1, 0, 2 of three voters: agreeing pairs 1, 1/3, 1, 1/3, mean 2/3; half right: p_e = 1/2; kappa 1/3."""
    votes = np.array([[1.0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0]])
    assert fleiss_kappa(votes) == pytest.approx(1 / 3, abs=1e-15)
    some = np.vstack([votes, [1, NAN, 1], [NAN, NAN, NAN]])
    assert fleiss_kappa(some) == pytest.approx(1 / 3, abs=1e-15)


@LAW
@given(TABLES)
def test_fleiss_is_the_formula_and_statsmodels(votes):
    right, m = votes.sum(axis=1), 4
    agree = (right * (right - 1) + (m - right) * (m - right - 1)).mean() / (m * (m - 1))
    p = votes.mean()
    by_chance = p**2 + (1 - p) ** 2
    assert fleiss_kappa(votes) == pytest.approx((agree - by_chance) / (1 - by_chance), abs=1e-12)
    assert fleiss_kappa(votes) == pytest.approx(of_counts(aggregate_raters(votes.astype(int))[0]), abs=1e-12)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("votes", [np.ones((5, 3)), np.zeros((5, 3)), np.full((5, 3), NAN), np.ones((5, 1))])
def test_fleiss_needs_voters_that_differ_somewhere(votes):
    assert np.isnan(fleiss_kappa(votes))


# How many voters these are worth.


def test_effective_voters_by_hand():
    """Correlation 1/3 of two: 2 / (1 + 1/3) = 1.5; 0: two; three pairs of 1, 0, 0 on average 1/3: 3 / (5/3) = 1.8."""
    a, b = np.array([1.0, 1, 1, 0, 0, 0]), np.array([1.0, 1, 0, 0, 0, 1])
    assert effective_voters(np.stack([a, b], 1)) == pytest.approx(1.5, abs=1e-12)
    c, d = np.array([1.0, 1, 0, 0]), np.array([1.0, 0, 1, 0])
    assert effective_voters(np.stack([c, d], 1)) == pytest.approx(2, abs=1e-12)
    assert effective_voters(np.stack([c, c, d], 1)) == pytest.approx(1.8, abs=1e-12)


@pytest.mark.parametrize("voters", [1, 2, 3, 7])
def test_identical_voters_are_worth_one(voters):
    votes = np.random.default_rng(0).integers(0, 2, (50, 1)).astype(float)
    assert effective_voters(np.tile(votes, voters)) == pytest.approx(1, abs=1e-12)


def test_independent_voters_are_worth_as_many_as_they_are():
    """Five voters, 100,000 questions: the mean correlation is 0 within 4 / sqrt(10 x 100,000)."""
    votes = (np.random.default_rng(1).random((100_000, 5)) < [0.3, 0.4, 0.5, 0.6, 0.7]).astype(float)
    assert effective_voters(votes) == pytest.approx(5, abs=5 * 4 * 0.004)


@pytest.mark.filterwarnings("error")
def test_effective_voters_go_by_what_both_of_a_pair_were_asked():
    """The pair of correlation 1/3 with gaps beside it; a voter that is always right correlates with none."""
    a, b = np.array([1.0, 1, 1, 0, 0, 0, NAN, 1]), np.array([1.0, 1, 0, 0, 0, 1, 1, NAN])
    assert effective_voters(np.stack([a, b], 1)) == pytest.approx(1.5, abs=1e-12)
    always = np.stack([a, b, np.ones(8)], 1)
    assert effective_voters(always) == pytest.approx(3 / (1 + 2 / 3), abs=1e-12)


def test_voters_that_contradict_each_other_stay_a_finite_number():
    """Correlation -1 of two would make the denominator 0; it is at least 1 / m: m squared."""
    assert effective_voters(np.array([[1.0, 0], [0, 1]])) == pytest.approx(4, abs=1e-12)


# Leaving a voter out.

FOUR = [[1, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 0]]  # weak, weak, strong, strong


def test_flips_of_a_majority_by_hand():
    """Without the first or the second voter question 1 is 1:0, a tie, so strong; without the third nothing changes."""
    assert flips(FOUR, MAJORITY) == [0.25, 0.25, 0.0]
    assert flips(FOUR, Rule(majority=True, tie="weak")) == [0.0, 0.25, 0.25]  # ties: {1}, {1, 3}, {3}


def test_dropped_ties_are_not_compared():
    """Without voter 1 question 1 is dropped: 0 of 3; without 2 questions 1, 3: 0 of 2; without 3 question 3: 0 of 3."""
    assert flips(FOUR, Rule(majority=True, tie="drop")) == [0.0, 0.0, 0.0]


def test_flips_of_at_least_keep_the_share_of_voters():
    """2 of 3 becomes 4/3, so 1 of 2: without the first no label changes, without the others question 3 turns weak.

    3 of 4 becomes 9/4, so 2 of 3. 2 of 5 becomes 8/5, so 2 of 4. 1 of 2 becomes 1 of 1.
    """
    assert flips(FOUR, Rule(at_least=2)) == [0.0, 0.25, 0.25]
    assert flips([[1, 1, 0, 0], [1, 1, 1, 0]], Rule(at_least=3)) == [0.0, 0.0, 0.5, 0.5]
    assert flips([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0]], Rule(at_least=2)) == [0.5, 0.5, 0.0, 0.0, 0.0]
    assert flips([[1, 0], [1, 1]], Rule(at_least=1)) == [0.5, 0.0]


def test_flips_of_a_fraction_by_hand():
    """Right 2, 3, 1, 0 of 3 at 60 %: weak, weak, strong, strong. Of two, one right is too few and two are enough."""
    assert flips(FOUR, Rule(fraction=0.6)) == [0.25, 0.25, 0.0]


def test_flips_leave_out_questions_without_a_label():
    """Question 2 has no label in the whole jury; leaving the third voter out leaves question 1 the only comparison."""
    votes = [[1, 1, 0], [1, NAN, 0]]
    assert flips(votes, MAJORITY) == [1.0, 1.0, 0.0]
    assert np.isnan(flips([[1, NAN, 0]], MAJORITY)).all()


def test_a_single_voter_cannot_be_left_out():
    assert np.isnan(flips([[1], [0]], MAJORITY)).tolist() == [True]


# What a label says.


def test_mutual_information_by_hand():
    """weak weak | weak strong over two sources: H(1/4) - 1/2 = 0.3113 bits; the same split 1 bit; crossed none."""
    entropy = -(0.25 * log2(0.25) + 0.75 * log2(0.75))
    source = np.array(["a", "a", "b", "b"])
    found = mutual_information(np.array(["weak", "weak", "weak", "strong"]), source)
    assert found["bits"] == pytest.approx(entropy - 0.5, abs=1e-12)
    assert found["share_of_label_entropy"] == pytest.approx((entropy - 0.5) / entropy, abs=1e-12)
    same = mutual_information(np.array(["weak", "weak", "strong", "strong"]), source)
    assert (same["bits"], same["share_of_label_entropy"]) == pytest.approx((1, 1), abs=1e-12)
    crossed = mutual_information(np.array(["weak", "strong", "weak", "strong"]), source)
    assert (crossed["bits"], crossed["share_of_label_entropy"]) == pytest.approx((0, 0), abs=1e-12)


@LAW
@given(st.integers(0, 2**32))
def test_mutual_information_is_scikit_learn_s_in_bits(seed):
    random = np.random.default_rng(seed)
    labels, values = random.choice(["weak", "strong"], 60), random.choice(["a", "b", "c"], 60)
    assert mutual_information(labels, values)["bits"] == pytest.approx(mutual_info_score(labels, values) / log(2))


def test_mutual_information_leaves_out_what_is_not_known():
    """The four questions of 1 bit, and three without a label or a source."""
    labels = np.array(["weak", "weak", "strong", "strong", "", "weak", ""])
    source = np.array(["a", "a", "b", "b", "a", "", ""])
    assert mutual_information(labels, source)["bits"] == pytest.approx(1, abs=1e-12)
    assert np.isnan(list(mutual_information(labels[4:], source[4:]).values())).all()


def test_one_label_alone_says_nothing():
    assert mutual_information(np.array(["weak", "weak"]), np.array(["a", "b"])) == {
        "bits": 0.0,
        "share_of_label_entropy": 0.0,
    }


def test_bins_are_equally_filled():
    """Eight values in four bins: cuts at the quantiles 2.75, 4.5, 6.25. Equal values share a bin, NaN has none."""
    assert in_bins(np.arange(1.0, 9.0), 4).tolist() == ["0", "0", "1", "1", "2", "2", "3", "3"]
    names, counts = np.unique(in_bins(np.random.default_rng(0).normal(size=8_000)), return_counts=True)
    assert names.tolist() == list("01234567") and counts.tolist() == [1_000] * 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        some = in_bins(np.array([3.0, NAN, 3.0, np.inf]), 4)
        assert some[0] == some[2] != "" and some[1] == some[3] == ""
        assert in_bins(np.array([NAN, NAN])).tolist() == ["", ""]


# Voter by voter.


def test_the_voter_table_by_hand():
    """x: right 2 of 2 and 1 of 2, missing once: accuracy 3/4; above chance with four and with two options (1 + 0) / 2.

    y was asked the last question, one of two right with five options: (1/2 - 1/5) / (4/5) = 3/8. z never.
    """
    right, asked = np.array([[2, 0, 0], [1, 0, 0], [0, 1, 0]]), np.array([[2, 0, 0], [2, 0, 0], [0, 2, 0]])
    x, y, z = voter_table(VoteMatrix(right, asked, np.array([4, 2, 5])), ["x", "y", "z"])
    assert x == {"voter": "x", "asked": 2, "missing": 1, "accuracy": 0.75, "chance": 0.375, "above_chance": 0.5}
    assert y == {
        "voter": "y",
        "asked": 1,
        "missing": 2,
        "accuracy": 0.5,
        "chance": 0.2,
        "above_chance": pytest.approx(3 / 8),
    }
    assert (z["asked"], z["missing"]) == (0, 3) and np.isnan([z["accuracy"], z["above_chance"]]).all()
