"""Voters that give one answer whatever is asked: what luck is then, and that nothing is claimed for them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from earwitness.curriculum.contribution.constant import (
    Picks,
    best_texts,
    constant_answers,
    describe_picks,
    is_constant,
    luck_of_places,
    own_luck,
    places_shown,
    warning_of,
)
from earwitness.curriculum.contribution.jury import Rule, VoteMatrix, expected_lucky_weak, jury_labels
from earwitness.curriculum.contribution.jury_report import describe_jury, expected_if_dealt
from earwitness.curriculum.contribution.latent import latent_class
from earwitness.curriculum.contribution.rotation import rotations
from earwitness.curriculum.contribution.votes import Tally, vote_matrix
from earwitness.curriculum.table import Table

MAJORITY = Rule(majority=True)
NAN = float("nan")
# 1,000 questions of four options whose answers stand as those of MMAU-test-mini do.
MMAU = np.repeat([0, 1, 2, 3], [395, 271, 208, 126])


def picked(truth, option, orders, kinds=None, choices=4):
    """Picks of one voter asked in so many orders; option: [N, orders] in the file's order."""
    count = len(truth)
    question, rotation = np.repeat(np.arange(count), orders), np.tile(np.arange(orders), count)
    answer, option = truth[question], np.asarray(option).ravel()
    size = np.full(len(question), choices)
    names = [f"word {n}" for n in range(choices)]
    return Picks(
        question,
        np.where(option >= 0, places_shown(option, rotation, size, orders), -1),
        places_shown(answer, rotation, size, orders),
        option,
        answer,
        size,
        option == answer,
        [f"question {q} {names[o]}" if kinds is None else names[o] for q, o in zip(question, option, strict=True)],
        [f"question {q} {names[o]}" if kinds is None else names[o] for q, o in zip(question, answer, strict=True)],
        ["" if kinds is None else kinds[q] for q in question],
    )


def tallied(picks, orders):
    """The tally of the same answers."""
    count = int(picks.question.max()) + 1
    right = np.bincount(picks.question, picks.right, count).astype(np.int64)
    truth = np.zeros(count, np.int16)
    truth[picks.question] = picks.answer
    unknown = np.full(count, NAN)
    in_order, uid = np.ones((count, orders), np.int32), np.arange(count, dtype=np.uint64)
    right_in_order = picks.right.reshape(count, orders)
    return Tally(uid, right, np.full(count, orders), unknown, unknown, truth, in_order, right_in_order)


def in_place(place, orders):
    """[N, orders] the option shown in this place."""
    return np.array([order[place] for order in rotations(4, orders)])[None].repeat(len(MMAU), 0)


def reported(voters, orders, draws=50):
    """The report of voters, name -> picks, over as many questions of four options."""
    count = int(next(iter(voters.values())).question.max()) + 1
    table = Table(np.arange(count, dtype=np.uint64), {"num_choices": np.full(count, 4.0)})
    tallies = {name: {"silence": tallied(picks, orders)} for name, picks in voters.items()}
    return describe_jury(tallies, table, MAJORITY, draws=draws, picks=voters)


def test_places_shown_are_those_of_the_rotations():
    for options in (2, 3, 4, 5):
        for asked in (1, 2, 3, 5):
            for number, order in enumerate(rotations(options, asked)):
                shown = places_shown(np.arange(options), np.full(options, number), np.full(options, options), asked)
                assert [order[place] for place in shown] == list(range(options))


def best_place(truth, asked, choices):
    return luck_of_places(truth, asked, np.zeros_like(asked), choices)[0]


def test_the_best_place_by_hand():
    """Four options, one order: truth at 0 0 1 3: 1/2. Two options: 1 1 0: 2/3. What was not asked does not count.

    In all orders every place has a quarter. In two of four, turned by two: 0 and 2, 0 and 2, 1 and 3, 3 and 1: 1/4.
    """
    truth, choices = np.array([0, 0, 1, 3, 1, 1, 0]), np.array([4, 4, 4, 4, 2, 2, 2])
    np.testing.assert_allclose(best_place(truth, np.ones((7, 1), int), choices), [1 / 2] * 4 + [2 / 3] * 3)
    asked = np.array([[0], [1], [1], [1], [1], [1], [1]])
    np.testing.assert_allclose(best_place(truth, asked, choices)[:4], 1 / 3)
    np.testing.assert_allclose(best_place(truth[:4], np.ones((4, 4), int), choices[:4]), 1 / 4)
    np.testing.assert_allclose(best_place(truth[:4], np.ones((4, 2), int), choices[:4]), 1 / 4)
    # Questions of two options have two orders, whatever others have.
    orders = np.array([[1, 1, 1, 1]] * 4 + [[1, 1, 0, 0]] * 3)
    np.testing.assert_allclose(best_place(truth, orders, choices), [1 / 4] * 4 + [1 / 2] * 3)


def test_luck_that_is_always_right_leaves_nothing_to_know():
    truth = np.zeros(30, np.int64)
    right = VoteMatrix(
        np.ones((30, 1), int),
        np.ones((30, 1), int),
        np.full(30, 4),
        best_place(truth, np.ones((30, 1), int), np.full(30, 4))[:, None],
    )
    assert 0 < right.guess()[0, 0] < 1 and np.isfinite(latent_class(right).posterior).all()
    found = reported({"v": picked(truth, np.zeros((30, 1), int), 1)}, 1)
    assert found["voters"][0]["above_chance"] == 0 and not found["skill"]["v"]["claimed"]


def test_the_luck_of_a_voter_s_own_preference_by_hand():
    """Right ones stand at 40, 30, 20, 10 of 100. Always A: 0.4; always D: 0.1; none: 1/4.

    Half known and A else: 40 + 15 + 10 + 5 right, h = 1, 1/2, 1/2, 1/2: known 1/2, and A's luck again. All known: 1/4.
    """
    asked = np.array([40.0, 30, 20, 10])
    for right, luck in (
        ([40, 0, 0, 0], 0.4),
        ([0, 0, 0, 10], 0.1),
        ([10, 7.5, 5, 2.5], 0.25),
        ([40, 15, 10, 5], 0.4),
        ([40, 30, 20, 10], 0.25),
        ([0, 0, 0, 0], 0.25),
    ):
        assert own_luck(asked, np.array(right, float)) == pytest.approx(luck)
    assert own_luck(np.full(4, 25.0), np.array([25.0, 3, 1, 0])) == pytest.approx(0.25), "in all orders, whatever it is"


def test_best_texts_by_hand():
    """Twenty questions of type pitch: tone is right of 12. Two small types together: 30, rain is right of 15."""
    kinds = ["pitch"] * 20 + ["a"] * 15 + ["b"] * 15 + [""]
    truths = ["tone"] * 12 + ["low"] * 8 + ["rain"] * 15 + [f"t{n}" for n in range(15)] + ["x"]
    assert best_texts(kinds, truths) == {"pitch": 12 / 20, "": 15 / 31}
    assert best_texts(["a"] * 19, ["x"] * 19) == {}, "too few to say so"


def test_a_voter_that_always_says_a_in_one_order_claims_nothing():
    """A is right of 39.5 %: labelled weak are as many as the places say; neither rate nor skill is above luck."""
    voter = picked(MMAU, in_place(0, 1), 1)
    found = reported({"v": voter}, 1)
    assert found["counts"]["weak"] == 395 and found["expected_weak_by_luck"] == pytest.approx(0.395)
    assert found["expected_weak_if_dealt"] == pytest.approx(0.395)
    row, skill = found["voters"][0], found["skill"]["v"]
    assert row["chance"] == pytest.approx(0.395) and row["above_chance"] == pytest.approx(0, abs=1e-12)
    assert skill["above"][1] <= 0 <= skill["above"][2] and not skill["claimed"]
    assert found["constant"] == ["v"] and json.dumps(found)
    assert found["warnings"] == [
        "v gives a constant answer: place A in 100 % of its answers, whatever is asked "
        "(40 % of the right ones stand there)"
    ]


def test_a_voter_that_always_says_a_in_all_orders_makes_nothing_weak():
    voter = picked(MMAU, in_place(0, 4), 4)
    found = reported({"v": voter}, 4)
    assert found["counts"]["weak"] == 0 and found["expected_weak_if_dealt"] == 0
    assert found["voters"][0]["chance"] == pytest.approx(0.25) and found["skill"]["v"]["above"][0] == pytest.approx(0)
    assert found["expected_weak_by_luck"] == pytest.approx(13 / 256), "3 or 4 of 4 independent guesses"
    assert found["constant"] == ["v"] and "(25 % of the right ones stand there)" in found["warnings"][0]


def test_77_of_80_answers_a_claim_nothing_either():
    """Places of 80 questions as in MMAU, three other answers, as a real model of 135 M parameters gave them."""
    truth = np.repeat([0, 1, 2, 3], [39, 21, 12, 8])
    option = np.zeros((80, 1), int)
    option[[10, 45, 70]] = [[1], [2], [3]]
    found = reported({"v": picked(truth, option, 1)}, 1)
    assert found["constant"] == ["v"] and not found["skill"]["v"]["claimed"]
    assert found["skill"]["v"]["above"][1] < 0 < found["skill"]["v"]["above"][2]
    assert abs(found["counts"]["weak"] / 80 - found["expected_weak_by_luck"]) < 0.02


def knowing(share, orders, seed=0, same=None):
    """A voter that knows a share of the answers, those of another seed if given, and else guesses a place."""
    random = np.random.default_rng(seed)
    known = np.random.default_rng(seed if same is None else same).random(len(MMAU)) < share
    places = random.integers(0, 4, (len(MMAU), orders))
    shown = np.array(rotations(4, orders))
    guess = shown[np.arange(orders)[None], places]
    return picked(MMAU, np.where(known[:, None], MMAU[:, None], guess), orders)


def test_a_voter_that_knows_something_is_not_constant_and_its_skill_is_claimed():
    """0.5 known, else 1/4: right of 0.625; in one order above 0.395: 0.38, in all orders above 1/4: 0.5."""
    for orders, above in ((1, (0.625 - 0.395) / 0.605), (4, 0.5)):
        found = reported({"v": knowing(0.5, orders), "w": knowing(0.5, orders, 1)}, orders)
        assert found["skill"]["v"]["above"][0] == pytest.approx(above, abs=0.06)
        assert found["skill"]["v"]["claimed"] and found["constant"] == [] and found["warnings"] == []


def test_a_voter_that_is_always_right_is_not_constant_though_answers_mostly_stand_in_one_place():
    truth = np.repeat([0, 1], [90, 10])
    assert constant_answers(picked(truth, truth[:, None], 1)) == []
    always = constant_answers(picked(truth, np.zeros((100, 1), int), 1))
    assert [(one["by"], one["answer"], one["share"], one["right"]) for one in always] == [("place", "A", 1.0, 0.9)]


def test_one_constant_answer_per_type_of_questions_is_named():
    """As in silence: "word 0" to pitch, "word 1" to length, "word 2" to loudness, wherever these stand."""
    truth = np.tile([0, 1, 2, 3], 30)
    kinds = np.repeat(["pitch", "length", "loudness"], 40).tolist()
    option = np.repeat([0, 1, 2], 40)[:, None].repeat(4, 1)
    voter = picked(truth, option, 4, kinds)
    found = constant_answers(voter)
    assert [(one["kind"], one["answer"], one["share"], one["right"]) for one in found] == [
        ("length", "word 1", 1.0, 0.25),
        ("loudness", "word 2", 1.0, 0.25),
        ("pitch", "word 0", 1.0, 0.25),
    ]
    assert is_constant(voter, found) and not is_constant(voter, found[:2])
    assert (
        "“word 1” in 100 % of its answers to questions of type length (25 % of the right ones are that)"
        in warning_of("v", found)
    )
    shown = describe_picks(voter)
    assert shown["by_kind"]["pitch"] == [("word 0", 1.0, 0.25)] and shown["by_text"][0][1] == pytest.approx(1 / 3)
    assert shown["by_place"] == pytest.approx(dict.fromkeys("ABCD", 0.25)), "it stands in every place once"
    # By luck a quarter: each option of a question would be picked in all orders, and so weak.
    assert expected_if_dealt({"v": voter}, MAJORITY) == pytest.approx(0.25)


def test_kappas_of_constant_voters_are_left_out():
    """Two that always say A agree on everything; each of the others knows a half of its own."""
    same = picked(MMAU, in_place(0, 1), 1)
    found = reported({"a": same, "b": same, "c": knowing(0.5, 1), "d": knowing(0.5, 1, 1)}, 1)
    assert found["constant"] == ["a", "b"]
    cohen = found["agreement"]["cohen"]
    assert np.isnan([cohen["a / b"], cohen["a / c"], cohen["b / d"]]).all()
    assert abs(cohen["c / d"]) < 0.1 and abs(found["agreement"]["fleiss"]) < 0.1, "the two know different questions"
    assert found["agreement"]["effective_voters"] == pytest.approx(2, abs=0.2)


def test_three_voters_that_always_say_a_are_weak_together():
    """Independent luck of 0.395: 3 p^2 - 2 p^3 = 0.345; but they are right together, 39.5 %."""
    same = picked(MMAU, in_place(0, 1), 1)
    found = reported(dict.fromkeys("abc", same), 1)
    p = 0.395
    assert found["expected_weak_by_luck"] == pytest.approx(3 * p**2 - 2 * p**3)
    assert found["expected_weak_if_dealt"] == pytest.approx(p) and found["weak"][0] == p


def test_the_share_of_solvable_questions_is_told_by_several_voters():
    """One alone gives only the product of the share and its skill."""
    for voters, orders, told in (("ab", 1, True), ("ab", 4, True), ("a", 1, False)):
        found = reported({name: knowing(0.5, orders, seed, 0) for seed, name in enumerate(voters)}, orders)
        assert found["latent"]["told"] is told


def test_the_chance_test_takes_luck_from_the_best_constant_answer():
    """Two answers, both right: at 1/4 each 1/16 is within 0.1; at 0.395 it is 0.156, beyond."""
    both = VoteMatrix(np.array([[1, 1]]), np.array([[1, 1]]), np.array([4]))
    rule, uid = Rule(chance_test=0.1), np.zeros(1, np.uint64)
    assert jury_labels(both, rule, uid) == ["weak"]
    lucky = VoteMatrix(both.right, both.asked, both.num_choices, np.array([[0.395, 0.395]]))
    assert jury_labels(lucky, rule, uid) == ["strong"] and expected_lucky_weak(lucky, rule) == 0
    mixed = VoteMatrix(both.right, both.asked, both.num_choices, np.array([[0.395, 0.25]]))
    assert jury_labels(mixed, rule, uid) == ["weak"] and expected_lucky_weak(mixed, rule) == pytest.approx(0.395 / 4)


def test_the_votes_of_tables_that_do_not_say_places_are_measured_against_one_over_options():
    bare = Tally(np.arange(2, dtype=np.uint64), np.array([1, 0]), np.ones(2, int), np.full(2, NAN), np.full(2, NAN))
    np.testing.assert_array_equal(vote_matrix([bare], bare.uid, np.array([4, 2])).guess(), [[0.25], [0.5]])


def test_latent_classes_give_constant_voters_no_weight():
    """Beside two voters that know the same half, one that always says A moves no probability much: it is luck."""
    same = picked(MMAU, in_place(0, 1), 1)
    voters = {"c": knowing(0.5, 1, 7, 0), "d": knowing(0.5, 1, 8, 0)}
    tallies = [tallied(p, 1) for p in (*voters.values(), same)]
    matrix = vote_matrix(tallies, tallies[0].uid, np.full(1_000, 4))
    np.testing.assert_allclose(matrix.guess(), 0.395)
    np.testing.assert_allclose(matrix.own[0], [0.25, 0.25, 0.395], atol=0.04)
    with_it, without = latent_class(matrix).posterior, latent_class(matrix.without(2)).posterior
    assert np.abs(with_it - without).max() < 0.15 < without.std()
