"""How votes become labels: rules, ties, missing votes, and what luck alone would make weak."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import comb, prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from earwitness.curriculum.contribution.jury import (
    Rule,
    VoteMatrix,
    chance_threshold,
    expected_lucky_weak,
    jury_labels,
    lucky_weak_share,
    parse_rule,
)
from earwitness.errors import InputError

LAW = settings(deadline=None, max_examples=60)
MAJORITY = Rule(majority=True)
WORD = {"w": "weak", "s": "strong", "-": ""}


def ballots(rows, choices=4):
    """VoteMatrix from rows of (right, asked); 1, 0 and None stand for one answer, right, wrong or missing."""
    short = {1: (1, 1), 0: (0, 1), None: (0, 0)}
    pairs = np.array([[short.get(vote, vote) for vote in row] for row in rows], np.int64)
    return VoteMatrix(pairs[..., 0], pairs[..., 1], np.broadcast_to(choices, len(rows)))


def labels(rows, rule, choices=4, uid=None):
    """One letter per row: w, s, or - where there is no label."""
    uid = np.arange(len(rows), dtype=np.uint64) if uid is None else uid
    found = jury_labels(ballots(rows, choices), rule, uid)
    return "".join({word: letter for letter, word in WORD.items()}[each] for each in found.tolist())


# What a ballot is.


def test_a_voter_s_vote_is_where_most_of_its_answers_lie():
    """4, 3, 2, 1, 0 of 4 right: right, right, half, wrong, wrong; 2 of 3 right, 1 of 3 wrong; 0 of 0 missing."""
    cast = [(4, 4), (3, 4), (2, 4), (1, 4), (0, 4), (2, 3), (1, 3), (1, 1), (0, 1), (0, 0)]
    expected = [1, 1, 0.5, 0, 0, 1, 0, 1, 0, np.nan]
    np.testing.assert_array_equal(ballots([cast]).votes[0], expected)


def test_leaving_a_voter_out_leaves_the_others_ballots():
    whole = ballots([[(1, 4), (2, 4), (3, 4)]], 5)
    rest = whole.without(1)
    assert (rest.right.tolist(), rest.asked.tolist(), rest.num_choices.tolist()) == ([[1, 3]], [[4, 4]], [5])


@pytest.mark.parametrize(
    ("right", "asked", "choices", "reason"),
    [
        ([[2]], [[1]], [4], "more often than it was asked"),
        ([[-1]], [[1]], [4], "more often than it was asked"),
        ([[1, 0]], [[1]], [4], "shapes"),
        ([[1]], [[1]], [4, 4], "shapes"),
        ([1], [1], [4], "shapes"),
    ],
)
def test_impossible_ballots_are_refused(right, asked, choices, reason):
    with pytest.raises(ValueError, match=reason):
        VoteMatrix(np.array(right), np.array(asked), np.array(choices))


# Rules.


@pytest.mark.parametrize(("voters", "weak_from"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)])
def test_the_majority_is_more_than_half_of_the_voters(voters, weak_from):
    """Every ballot of m voters; half of an even jury is the paper's "otherwise", strong."""
    rows = list(product([0, 1], repeat=voters))
    assert labels(rows, MAJORITY) == "".join("w" if sum(row) >= weak_from else "s" for row in rows)


@pytest.mark.parametrize("at_least", [1, 2, 3, 4])
def test_at_least_counts_the_right_voters(at_least):
    rows = list(product([0, 1], repeat=4))
    assert labels(rows, Rule(at_least=at_least)) == "".join("w" if sum(r) >= at_least else "s" for r in rows)


def test_more_right_voters_than_there_are_cannot_be_asked_for():
    with pytest.raises(InputError, match="rule.at_least is 3, there are 2 voters"):
        labels([[1, 1]], Rule(at_least=3))


def test_a_fraction_counts_answers_and_not_voters():
    """5 of 8 is 0.625. By voters (4 of 4) and (1 of 4) are a tie."""
    rows = [[(4, 4), (1, 4)], [(4, 4), (0, 4)], [(3, 4), (2, 4)]]
    assert labels(rows, Rule(fraction=0.625)) == "wsw"
    assert labels(rows, Rule(fraction=0.5)) == "www"
    assert labels(rows, Rule(fraction=0.626)) == "sss"
    assert labels(rows, MAJORITY) == "ssw"


def test_a_fraction_is_met_where_it_is_met_exactly():
    """0.1 x 3 / 3, 0.7 x 10 and their like are no whole numbers in floating point; k of n meets k / n all the same."""
    for asked in range(1, 30):
        for right in range(1, asked + 1):
            assert labels([[(right, asked)], [(right - 1, asked)]], Rule(fraction=right / asked)) == "ws"


def test_the_chance_test_asks_for_more_than_guessing_explains():
    """Twelve answers with four options: P[>= 7] = 1.43 %, P[>= 6] = 5.4 %: weak from 7 right on.

    P[>= 7] = (792 x 243 + 495 x 81 + 220 x 27 + 66 x 9 + 12 x 3 + 1) / 4^12 = 239,122 / 16,777,216.
    """
    assert 792 * 243 + 495 * 81 + 220 * 27 + 66 * 9 + 12 * 3 + 1 == 239_122
    rule = Rule(chance_test=0.05)
    assert labels([[(4, 4), (3, 4), (0, 4)], [(4, 4), (2, 4), (0, 4)]], rule) == "ws"
    assert expected_lucky_weak(ballots([[(4, 4), (3, 4), (0, 4)]]), rule) == pytest.approx(239_122 / 4**12, abs=1e-14)


def test_the_chance_test_knows_each_question_s_number_of_options():
    """Three of four right, 5 %: with two options P = 5/16, with four 13/256 = 5.08 %, with five 17/625 = 2.7 %."""
    rows = [[1, 1, 1, 0]] * 3
    assert labels(rows, Rule(chance_test=0.05), [2, 4, 5]) == "ssw"
    assert labels(rows, Rule(chance_test=0.051), [2, 4, 5]) == "sww"
    assert labels(rows, Rule(chance_test=0.3125), [2, 4, 5]) == "www"


@pytest.mark.parametrize(("level", "least"), [(0.75, 1), (0.74, 2), (0.25, 2), (0.24, 3)])
def test_chance_threshold_by_hand(level, least):
    """Two answers, two options: P[>= 1] = 3/4, P[>= 2] = 1/4. Three of two answers, never, below that."""
    assert chance_threshold(np.array([2]), np.array([2]), level).tolist() == [least]


def test_chance_threshold_is_the_smallest_count_whose_tail_is_within_the_level():
    """Against scipy's tails: P[X >= k] <= alpha < P[X >= k - 1], for many n, K and alpha, in any order of questions."""
    grid = np.array(list(product(range(1, 41), range(2, 8))))
    asked, choices = np.random.default_rng(1).permutation(grid).T
    for level in (0.3, 0.1, 0.05, 0.01, 0.001):
        least = chance_threshold(asked, choices, level)
        assert (binom.sf(least - 1, asked, 1 / choices) <= level).all()
        assert (binom.sf(least - 2, asked, 1 / choices) > level).all()


def test_a_tail_that_equals_the_level_is_within_it():
    """Exactly, in fractions: rounding in the last bit of a tail must not ask for one right answer more."""
    for choices in (2, 3, 4, 5, 6):
        guess = Fraction(1, choices)
        for asked in range(1, 13):
            for least in range(1, asked + 1):
                tail = sum(comb(asked, k) * guess**k * (1 - guess) ** (asked - k) for k in range(least, asked + 1))
                assert chance_threshold(np.array([asked]), np.array([choices]), float(tail))[0] == least


# Ties.


def test_a_tie_is_what_the_rule_says():
    """Two of four right. Three of four and one of four are no ties."""
    rows = [[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]]
    found = {tie: labels(rows, Rule(majority=True, tie=tie)) for tie in ("strong", "weak", "drop")}
    assert found == {"strong": "sws", "weak": "wws", "drop": "-ws"}
    assert labels(rows, MAJORITY) == "sws"


def test_a_voter_that_is_right_in_half_of_its_answers_is_half_a_voter():
    """1 + 1/2 + 0 of three voters is a tie, 1 + 1/2 + 1/2 a majority, and 1/2 + 1/2 one right voter."""
    half = (2, 4)
    assert labels([[1, half, 0], [1, half, half], [0, half, half]], Rule(majority=True, tie="drop")) == "-ws"
    assert labels([[1, half, 0], [1, half, half]], Rule(at_least=2)) == "sw"
    assert labels([[0, half], [half, half]], Rule(at_least=1)) == "sw"


def test_random_ties_are_drawn_by_the_question_s_identity():
    """About half of 20,000 (4 standard errors: 1.4 %); the same in any order; other ties for other questions."""
    uid = np.random.default_rng(3).integers(0, 2**63, 20_000).astype(np.uint64)
    rule = Rule(majority=True, tie="random")
    tied = ballots([[1, 0]] * len(uid))
    found = jury_labels(tied, rule, uid)
    assert abs((found == "weak").mean() - 0.5) < 0.0142 and set(found) == {"weak", "strong"}
    order = np.random.default_rng(4).permutation(len(uid))
    assert (jury_labels(tied, rule, uid[order]) == found[order]).all()
    few = jury_labels(ballots([[1, 0]] * 10), rule, uid[:10])
    assert (few == found[:10]).all()
    assert labels([[1, 1], [0, 0]], rule) == "ws"


# Missing votes.

RULES = [Rule(majority=True, tie=tie) for tie in ("strong", "weak", "drop", "random")]


@pytest.mark.parametrize("rule", [*RULES, Rule(at_least=1), Rule(at_least=2), Rule(at_least=3)])
@pytest.mark.parametrize("voters", [3, 4])
def test_a_label_is_given_just_where_every_way_of_filling_in_the_missing_votes_gives_it(rule, voters):
    """Every ballot of right, wrong, half and missing votes; a missing one may turn out right, wrong or half."""
    half = (1, 2)
    rows = list(product([0, half, 1, None], repeat=voters))
    uid = np.full(len(rows), 12, np.uint64)
    found = labels(rows, rule, uid=uid)
    for row, given_ in zip(rows, found, strict=True):
        filled = list(product(*([0, half, 1] if vote is None else [vote] for vote in row)))
        outcomes = set(labels(filled, rule, uid=uid[: len(filled)]))
        assert given_ == (outcomes.pop() if len(outcomes) == 1 else "-"), row


def test_a_missing_vote_that_could_at_most_make_a_tie_decides_nothing_where_ties_are_strong():
    """One of four right and one missing: one or two right, strong both times. Two right: two or three, weak or not."""
    rows = [[1, 0, 0, None], [1, 1, 0, None]]
    assert labels(rows, MAJORITY) == "s-"
    assert labels(rows, Rule(majority=True, tie="weak")) == "-w"
    assert labels(rows, Rule(majority=True, tie="drop")) == "--"


@pytest.mark.parametrize("rule", [Rule(fraction=0.5), Rule(chance_test=0.3)])
def test_under_rules_over_answers_a_voter_that_was_not_asked_changes_only_their_number(rule):
    """Same answers with and without an empty ballot beside them; none at all is no label."""
    rows = [[right, other] for right in (0, 1, (2, 4)) for other in (0, 1, (3, 4))]
    assert labels([[*row, None] for row in rows], rule) == labels(rows, rule)
    assert labels([[None, None]], rule) == "-"


def test_a_missing_vote_is_never_a_wrong_one_under_a_fraction():
    """One right of one answer is all of them; one right and one wrong is half."""
    assert labels([[1, None], [1, 0]], Rule(fraction=0.75)) == "ws"


VOTE = st.sampled_from([0, 1, None, (0, 4), (1, 4), (2, 4), (3, 4), (4, 4), (1, 2), (2, 3)])
ANY_RULE = st.sampled_from([*RULES, Rule(at_least=1), Rule(at_least=2), Rule(fraction=0.4), Rule(chance_test=0.1)])


@LAW
@given(st.lists(st.lists(VOTE, min_size=3, max_size=3), min_size=1, max_size=12), ANY_RULE, st.randoms())
def test_the_order_of_questions_and_of_voters_changes_no_label(rows, rule, random):
    choices = np.array([random.randint(2, 5) for _ in rows])
    uid = np.array([random.randrange(2**64) for _ in rows], np.uint64)
    found = jury_labels(ballots(rows, choices), rule, uid)
    order = list(range(len(rows)))
    random.shuffle(order)
    voters = random.sample(range(3), 3)
    moved = [[rows[row][voter] for voter in voters] for row in order]
    assert (jury_labels(ballots(moved, choices[order]), rule, uid[order]) == found[order]).all()


# Rules as a file writes them.


def test_rules_as_a_file_writes_them():
    assert parse_rule("majority") == parse_rule({"majority": True}) == Rule(majority=True, tie="strong")
    assert parse_rule({"majority": True, "tie": "drop"}) == Rule(majority=True, tie="drop")
    assert parse_rule({"at_least": 2}) == Rule(at_least=2)
    assert parse_rule({"fraction": 1}) == Rule(fraction=1)
    assert parse_rule({"chance_test": 0.05}) == Rule(chance_test=0.05)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("minority", "rule 'minority': write majority, or a mapping of majority, at_least, fraction, chance_test, tie"),
        (None, "write majority"),
        (2, "write majority"),
        ({"atleast": 2}, "write majority"),
        ({}, "one of majority, at_least, fraction, chance_test"),
        ({"tie": "drop"}, "one of majority"),
        ({"majority": False}, "one of majority"),
        ({"majority": True, "at_least": 2}, "one of majority"),
        ({"fraction": 0.5, "chance_test": 0.05}, "one of majority"),
        ({"majority": "yes"}, "rule.majority is true or left out, got 'yes'"),
        ({"majority": True, "tie": "even"}, "rule.tie must be one of strong, weak, drop, random, got 'even'"),
        ({"at_least": 2, "tie": "drop"}, "means nothing"),
        ({"at_least": 0}, "rule.at_least must be a whole number from 1 on, got 0"),
        ({"at_least": 1.5}, "rule.at_least"),
        ({"at_least": "2"}, "rule.at_least"),
        ({"at_least": True}, "rule.at_least"),
        ({"fraction": 0}, r"rule.fraction must lie in \(0, 1\], got 0"),
        ({"fraction": 1.01}, "rule.fraction"),
        ({"fraction": float("nan")}, "rule.fraction"),
        ({"chance_test": "5 %"}, r"rule.chance_test must lie in \(0, 1\], got '5 %'"),
        ({"chance_test": [0.05]}, "rule.chance_test"),
    ],
)
def test_a_rule_that_is_none_is_refused_in_a_sentence(spec, reason):
    with pytest.raises(InputError, match=reason):
        parse_rule(spec)


def test_a_rule_says_what_it_is_and_different_rules_say_different_things():
    said = {
        Rule(majority=True): "majority of the voters (tie: strong)",
        Rule(majority=True, tie="drop"): "majority of the voters (tie: drop)",
        Rule(at_least=2): "at least 2 voters",
        Rule(fraction=0.625): "at least 62.5 % of the answers",
        Rule(fraction=0.62): "at least 62 % of the answers",
        Rule(chance_test=0.05): "more right answers than guessing explains at 0.05",
    }
    assert {rule: rule.describe() for rule in said} == said


# Luck.

TABLE = [  # voters, answers of each, rule, weak from so many of the right answers on, share as printed
    (1, 1, MAJORITY, 1, 0.250),
    (3, 1, MAJORITY, 2, 0.156),
    (3, 1, Rule(at_least=3), 3, 0.016),
    (5, 1, MAJORITY, 3, 0.104),
    (5, 1, Rule(at_least=4), 4, 0.016),
    (3, 4, Rule(fraction=7 / 12), 7, 0.014),
    (3, 4, Rule(chance_test=0.05), 7, 0.014),
    (5, 4, Rule(fraction=9 / 20), 9, 0.041),
    (5, 4, Rule(chance_test=0.05), 9, 0.041),
]


@pytest.mark.parametrize(("voters", "answers", "rule", "least", "printed"), TABLE)
def test_the_share_that_luck_makes_weak_is_the_binomial_tail(voters, answers, rule, least, printed):
    """Four options: sum over k >= least of C(n, k) 3^(n - k) / 4^n, which the table prints to a tenth of a percent."""
    n = voters * answers
    tail = sum(comb(n, k) * 3 ** (n - k) for k in range(least, n + 1)) / 4**n
    assert tail == pytest.approx(printed, abs=5.01e-4)
    found = expected_lucky_weak(ballots([[(0, answers)] * voters] * 3), rule)
    assert found == pytest.approx(tail, abs=1e-12)


@pytest.mark.parametrize(("voters", "answers", "rule", "least", "printed"), TABLE)
def test_voters_that_guess_are_called_weak_as_often_as_the_table_says(voters, answers, rule, least, printed):
    """40,000 questions; 4 standard errors of the share."""
    random = np.random.default_rng(100 * voters + answers)
    asked = np.full((40_000, voters), answers)
    guessed = VoteMatrix(random.binomial(asked, 0.25), asked, np.full(40_000, 4))
    weak = (jury_labels(guessed, rule, np.arange(40_000, dtype=np.uint64)) == "weak").mean()
    expected = expected_lucky_weak(guessed, rule)
    assert abs(weak - expected) < 4 * np.sqrt(expected * (1 - expected) / 40_000)


@pytest.mark.parametrize(("choices", "share"), [(2, 1 / 2), (3, 7 / 27), (5, 13 / 125)])
def test_two_of_three_with_other_numbers_of_options(choices, share):
    """3 g^2 (1 - g) + g^3, g = 1 / K: 50 %, 25.9 %, 10.4 %; with all three kinds of question their mean."""
    assert expected_lucky_weak(ballots([[0, 0, 0]], choices), MAJORITY) == pytest.approx(share, abs=1e-14)
    mixed = expected_lucky_weak(ballots([[0, 0, 0]] * 4, [2, 3, 5, 5]), MAJORITY)
    assert mixed == pytest.approx((1 / 2 + 7 / 27 + 2 * 13 / 125) / 4, abs=1e-14)
    assert mixed == pytest.approx(lucky_weak_share(np.array([2, 3, 5, 5])), abs=1e-14)


def test_luck_in_all_orders_of_the_options_by_hand():
    """One voter, two options, both orders: 1/4 right twice, 1/2 in just one, which is a tie.

    Majority with ties strong 1/4, weak 3/4, at random 1/2, dropped 1/4.
    """
    asked = ballots([[(0, 2)]], 2)
    found = [expected_lucky_weak(asked, Rule(majority=True, tie=tie)) for tie in ("strong", "weak", "random", "drop")]
    assert found == pytest.approx([1 / 4, 3 / 4, 1 / 2, 1 / 4], abs=1e-15)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=1, max_size=3),
    st.sampled_from([*RULES[:3], Rule(at_least=1), Rule(at_least=2), Rule(fraction=0.4), Rule(chance_test=0.1)]),
    st.randoms(),
)
def test_luck_is_the_rule_applied_to_every_way_of_guessing(asked, rule, random):
    """Every count of right answers of each voter, weighed by its chance, labelled by the rule itself."""
    choices = [random.randint(2, 5) for _ in asked]
    total = 0.0
    for sizes, k in zip(asked, choices, strict=True):
        ways = list(product(*(range(n + 1) for n in sizes)))
        chance = [prod(binom.pmf(r, n, 1 / k) for r, n in zip(way, sizes, strict=True)) for way in ways]
        letters = labels([list(zip(way, sizes, strict=True)) for way in ways], rule, k)
        total += sum(p for p, letter in zip(chance, letters, strict=True) if letter == "w")
    found = expected_lucky_weak(ballots([[(0, n) for n in row] for row in asked], choices), rule)
    assert found == pytest.approx(total / len(asked), abs=1e-12)
