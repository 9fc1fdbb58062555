"""Latent classes and the 3PL curve find what was planted, and missing votes drop out."""

from __future__ import annotations

from dataclasses import astuple
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from earwitness.curriculum.contribution.jury import Rule, VoteMatrix, jury_labels
from earwitness.curriculum.contribution.latent import latent_class, three_parameter

SKILL, SOLVABLE = np.array([0.92, 0.70, 0.85]), 0.451


def once(votes, choices=4):
    """VoteMatrix of [N, m] votes 1, 0 or NaN, each voter asked once."""
    votes = np.asarray(votes, float)
    asked = (~np.isnan(votes)).astype(np.int64)
    return VoteMatrix(np.nan_to_num(votes).astype(np.int64), asked, np.broadcast_to(choices, len(votes)).copy())


def planted(questions, skill, solvable, choices=4, answers=1, seed=0):
    """(truth, ballots) of voters that solve solvable questions with their skill and guess at the others."""
    random = np.random.default_rng(seed)
    choices = np.broadcast_to(choices, questions)
    truth = random.random(questions) < solvable
    p = np.where(truth[:, None], skill, 1 / choices[:, None])
    asked = np.full((questions, len(skill)), answers)
    return truth, VoteMatrix(random.binomial(asked, p), asked, choices)


# Two classes.


def test_the_exact_mixture_is_fitted_exactly():
    """Half solvable, skills 3/4, 1/2, 3/4, four options: 128 questions hold every ballot as often as expected.

    A ballot occurs 64 (prod s + prod g) times: 3 2 3 + 1 = 19 times all right, 1 2 1 + 27 = 29 times all wrong. The
    likelihood is then largest at the planted values, and a question is solvable with 18/19, with 2/29, and so on.
    """
    rows, exact = [], []
    for ballot in product([1, 0], repeat=3):
        by_skill = np.prod(np.where(ballot, [3, 2, 3], [1, 2, 1]))
        by_luck = np.prod(np.where(ballot, 1, 3))
        rows += [ballot] * (by_skill + by_luck)
        exact += [by_skill / (by_skill + by_luck)] * (by_skill + by_luck)
    assert len(rows) == 128 and exact[0] == 18 / 19 and exact[-1] == 2 / 29
    found = latent_class(once(rows))
    assert found.solvable == pytest.approx(0.5, abs=1e-6)
    np.testing.assert_allclose(found.skill, [0.75, 0.5, 0.75], atol=1e-6)
    np.testing.assert_allclose(found.posterior, exact, atol=1e-6)
    np.testing.assert_allclose(found.contribution, 1 - np.array(exact), atol=1e-6)


def expected_posterior(ballots, solvable, skill):
    """The E step, written out question by question: each voter answered once."""
    tau = []
    for right, asked, k in zip(ballots.right, ballots.asked, ballots.num_choices, strict=True):
        by_skill, by_luck = solvable, 1 - solvable
        for r, a, s in zip(right, asked, skill, strict=True):
            if a:
                c = r / a
                by_skill *= s**c * (1 - s) ** (1 - c)
                by_luck *= (1 / k) ** c * (1 - 1 / k) ** (1 - c)
        tau.append(by_skill / (by_skill + by_luck))
    return np.array(tau)


def mixed_ballots(seed, questions=2_000):
    """Unequal numbers of options, two answers of the last voter, missing votes, and questions nobody was asked."""
    random = np.random.default_rng(seed)
    _, whole = planted(questions, np.array([0.9, 0.6, 0.8]), 0.4, random.integers(2, 6, questions), 2, seed)
    asked = np.minimum(whole.asked, random.integers(0, 3, whole.asked.shape))
    asked[:5] = 0
    return VoteMatrix(np.minimum(whole.right, asked), asked, whole.num_choices)


def test_a_fit_is_a_fixed_point_of_both_steps():
    """E: the posterior is the formula at the fitted values. M: share = mean posterior, skill = mean share right."""
    mixed = mixed_ballots(1)
    ballots = VoteMatrix(np.minimum(mixed.right, 1), np.minimum(mixed.asked, 1), mixed.num_choices)
    found = latent_class(ballots)
    assert 1 < found.iterations < 2_000
    np.testing.assert_allclose(found.posterior, expected_posterior(ballots, found.solvable, found.skill), atol=1e-6)
    assert found.solvable == pytest.approx(found.posterior.mean(), abs=1e-6)
    weight = found.posterior[:, None] * (ballots.asked > 0)
    skill = (weight * ballots.right / np.maximum(ballots.asked, 1)).sum(axis=0) / weight.sum(axis=0)
    np.testing.assert_allclose(found.skill, skill, atol=1e-6)


def test_a_fit_that_is_not_given_time_says_so():
    assert latent_class(mixed_ballots(1), most=3).iterations == 3


@pytest.fixture(scope="module")
def jury():
    """200,000 questions of four options before three voters, and what the classes make of them."""
    truth, ballots = planted(200_000, SKILL, SOLVABLE)
    return truth, ballots, latent_class(ballots)


def test_planted_classes_and_skills_are_recovered(jury):
    """Where the majority calls 0.503 weak: 0.451 x P[2 or 3 right | solvable] + 0.549 x 10/64, worked out below."""
    truth, ballots, found = jury
    assert found.solvable == pytest.approx(truth.mean(), abs=0.005)
    assert found.solvable == pytest.approx(0.451, abs=0.006)
    np.testing.assert_allclose(found.skill, SKILL, atol=0.008)
    a, b, c = SKILL
    solved = a * b * c + a * b * (1 - c) + a * (1 - b) * c + (1 - a) * b * c
    weak = (jury_labels(ballots, Rule(majority=True), np.arange(200_000, dtype=np.uint64)) == "weak").mean()
    assert weak == pytest.approx(SOLVABLE * solved + (1 - SOLVABLE) * 10 / 64, abs=0.004)
    assert weak == pytest.approx(0.503, abs=0.005)


def test_latent_classes_order_questions_better_than_the_number_of_right_votes(jury):
    """Areas under the curve 0.948 and 0.935, of ranking the questions that need the audio before the others."""
    truth, ballots, found = jury
    assert roc_auc_score(~truth, found.contribution) == pytest.approx(0.948, abs=0.002)
    assert roc_auc_score(~truth, -ballots.right.sum(axis=1)) == pytest.approx(0.935, abs=0.002)


def test_latent_classes_find_more_strong_questions_and_the_majority_purer_ones(jury):
    """Strong by P > 1/2: recall 0.891, purity 0.899. By the majority: 0.845 and 0.933."""
    truth, ballots, found = jury
    majority = jury_labels(ballots, Rule(majority=True), np.arange(200_000, dtype=np.uint64)) == "strong"
    for strong, recall, purity in ((found.contribution > 0.5, 0.891, 0.899), (majority, 0.845, 0.933)):
        assert strong[~truth].mean() == pytest.approx(recall, abs=0.004)
        assert (~truth)[strong].mean() == pytest.approx(purity, abs=0.004)


def test_three_votes_give_eight_probabilities(jury):
    """By hand for 000: 0.549 x 0.75^3 / (that + 0.451 x 0.08 x 0.3 x 0.15) = 0.2316 / 0.2332 = 0.993."""
    _, ballots, found = jury
    expected = {
        "000": 0.993,
        "010": 0.953,
        "001": 0.894,
        "100": 0.803,
        "011": 0.546,
        "110": 0.368,
        "101": 0.196,
        "111": 0.034,
    }
    for ballot, required in expected.items():
        rows = (ballots.right == [int(vote) for vote in ballot]).all(axis=1)
        each = found.contribution[rows]
        assert each.min() == each.max() == pytest.approx(required, abs=0.01)


def test_the_same_answer_four_times_says_no_more_than_once():
    """Who always answers alike, whatever the order, either knows or holds on to one option."""
    _, once_asked = planted(20_000, SKILL, SOLVABLE)
    many = latent_class(VoteMatrix(4 * once_asked.right, 4 * once_asked.asked, once_asked.num_choices))
    found = latent_class(once_asked)
    assert many.solvable == pytest.approx(found.solvable, abs=2e-3)
    np.testing.assert_allclose(many.posterior, found.posterior, atol=0.02)
    np.testing.assert_allclose(many.skill, found.skill, atol=2e-3)


@pytest.mark.parametrize("holds", [0.0, 0.8])
@pytest.mark.parametrize("skill", [0.7, 0.9])
@pytest.mark.parametrize("share", [0.1, 1 / 3, 0.7])
def test_what_was_planted_is_found_where_voters_answer_in_all_orders(share, skill, holds):
    """Voters that know a solvable question's answer with their skill, in 97 % of its four orders, and guess otherwise,
    anew in each order or the same option in all. By shares of right answers alone all questions were called solvable.
    """
    random = np.random.default_rng(3)
    truth = random.random(20_000) < share
    knows = truth[:, None] & (random.random((20_000, 3)) < skill)
    lucky = random.random((20_000, 3)) < 0.25
    guessed = np.where(random.random((20_000, 3)) < holds, 4 * lucky, random.binomial(4, 0.25, (20_000, 3)))
    right = np.where(knows, random.binomial(4, 0.97, (20_000, 3)), guessed)
    found = latent_class(VoteMatrix(right, np.full((20_000, 3), 4), np.full(20_000, 4)))
    assert found.solvable == pytest.approx(truth.mean(), abs=0.015)
    np.testing.assert_allclose(found.skill, 0.97 * skill + 0.25 * (1 - skill), atol=0.03)
    area = roc_auc_score(truth, found.posterior)
    assert area >= roc_auc_score(truth, right.sum(axis=1)) - 0.002
    sure = (found.posterior > 0.9) | (found.posterior < 0.1)
    assert (truth[sure] == (found.posterior[sure] > 0.5)).mean() > 0.95


def test_rotated_options_sharpen_the_ranking():
    """Four independent answers of each voter instead of one: what guesses is told from what is known."""
    areas = []
    for answers in (1, 4):
        truth, ballots = planted(20_000, SKILL, SOLVABLE, answers=answers)
        areas.append(roc_auc_score(~truth, latent_class(ballots).contribution))
    assert areas[1] > 0.995 > 0.96 > areas[0]


def test_the_guess_of_a_question_is_one_over_its_options():
    """Two and five options mixed, a third solvable; the same ballot proves less where guessing is easy."""
    choices = np.where(np.arange(100_000) % 2, 2, 5)
    truth, ballots = planted(100_000, SKILL, 0.333, choices)
    found = latent_class(ballots)
    assert found.solvable == pytest.approx(truth.mean(), abs=0.01)
    np.testing.assert_allclose(found.skill, SKILL, atol=0.015)
    allright = ballots.right.sum(axis=1) == 3
    few, many = (found.posterior[allright & (choices == k)][0] for k in (2, 5))
    assert few == pytest.approx(expected_posterior(once([[1, 1, 1]], 2), found.solvable, found.skill)[0], abs=1e-6)
    assert few < 0.75 < 0.95 < many


def test_a_voter_that_was_never_asked_changes_nothing_and_has_no_skill():
    ballots = mixed_ballots(2)
    none = np.zeros((len(ballots.right), 1), np.int64)
    more = VoteMatrix(np.hstack([ballots.right, none]), np.hstack([ballots.asked, none]), ballots.num_choices)
    before, after = latent_class(ballots), latent_class(more)
    np.testing.assert_allclose(after.posterior, before.posterior, atol=1e-7)
    np.testing.assert_allclose(after.skill[:3], before.skill, atol=1e-7)
    assert np.isnan(after.skill[3])


def test_a_question_that_nobody_was_asked_is_as_likely_solvable_as_any_and_moves_nothing():
    ballots = mixed_ballots(3)
    found = latent_class(ballots)
    np.testing.assert_allclose(found.posterior[:5], found.solvable, atol=1e-7)
    rest = latent_class(VoteMatrix(ballots.right[5:], ballots.asked[5:], ballots.num_choices[5:]))
    assert rest.solvable == pytest.approx(found.solvable, abs=1e-6)
    np.testing.assert_allclose(rest.posterior, found.posterior[5:], atol=1e-6)


def test_votes_missing_at_random_leave_the_estimates_where_they_were():
    """A third of the votes dropped: 0.451 and the skills all the same. Counted as wrong, skills would fall by 1/3."""
    truth, whole = planted(100_000, SKILL, SOLVABLE, seed=7)
    keep = np.random.default_rng(8).random(whole.asked.shape) < 2 / 3
    found = latent_class(VoteMatrix(whole.right * keep, whole.asked * keep, whole.num_choices))
    assert found.solvable == pytest.approx(truth.mean(), abs=0.012)
    np.testing.assert_allclose(found.skill, SKILL, atol=0.02)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6), st.permutations(range(3)))
def test_the_order_of_questions_and_voters_changes_no_fit(seed, voters):
    ballots = mixed_ballots(seed, 200)
    rows = np.random.default_rng(seed).permutation(200)
    moved = VoteMatrix(ballots.right[rows][:, voters], ballots.asked[rows][:, voters], ballots.num_choices[rows])
    a, b = latent_class(ballots), latent_class(moved)
    assert b.solvable == pytest.approx(a.solvable, abs=1e-6)
    np.testing.assert_allclose(b.skill, a.skill[list(voters)], atol=1e-6)
    np.testing.assert_allclose(b.posterior, a.posterior[rows], atol=1e-6)


def test_a_question_that_nobody_answers_rightly_is_never_the_solvable_one():
    """All wrong, all right; and voters that refuse: right in 2 % of what they cannot solve, 30 % solved at 0.6.

    With skills below guessing the likelihood would be larger for a "solvable" class of what is always answered wrongly.
    """
    assert latent_class(once([[0, 0, 0]] * 50)).contribution.min() > 0.95
    assert latent_class(once([[1, 1, 1]] * 50)).contribution.max() < 0.01
    for questions in (200, 20_000):
        random = np.random.default_rng(questions)
        truth = random.random(questions) < 0.3
        votes = random.random((questions, 3)) < np.where(truth[:, None], 0.6, 0.02)
        found = latent_class(once(votes))
        assert found.solvable < 0.5 and found.skill.min() > 0.5
        assert roc_auc_score(~truth, found.contribution) > 0.9


ROWS = st.lists(st.lists(st.sampled_from([0, 1, None]), min_size=3, max_size=3), min_size=4, max_size=30)


@settings(deadline=None, max_examples=50)
@given(ROWS, st.randoms())
def test_one_more_right_vote_never_makes_the_audio_more_necessary(rows, random):
    """Whatever the jury: a ballot that differs from another by a right instead of a wrong vote."""
    votes = np.array([[np.nan if vote is None else vote for vote in row] for row in rows])
    choices = np.array([random.randint(2, 5) for _ in rows])
    found = latent_class(once(votes, choices), most=200)
    for i, j in product(range(len(rows)), repeat=2):
        same = choices[i] == choices[j] and (np.isnan(votes[i]) == np.isnan(votes[j])).all()
        if same and ((votes[i] >= votes[j]) | np.isnan(votes[i])).all():
            assert found.contribution[i] <= found.contribution[j] + 1e-12


# 3PL.


def curves(voters, questions, seed=0, answers=1):
    """(a, theta, b, ballots) of planted 3PL curves with two to five options."""
    random = np.random.default_rng(seed)
    a, theta = random.uniform(0.7, 2.0, voters), random.uniform(-1.0, 1.5, voters)
    b, choices = random.normal(size=questions), random.integers(2, 6, questions)
    guess = 1 / choices[:, None]
    p = guess + (1 - guess) * expit(a * (theta - b[:, None]))
    asked = np.full((questions, voters), answers)
    return a, theta, b, VoteMatrix(random.binomial(asked, p), asked, choices)


@pytest.fixture(scope="module")
def eight():
    """Eight voters, 20,000 questions."""
    a, theta, b, ballots = curves(8, 20_000)
    return a, theta, b, ballots, three_parameter(ballots)


def test_planted_discriminations_and_abilities_are_recovered(eight):
    a, theta, _, _, found = eight
    np.testing.assert_allclose(found.discrimination, a, rtol=0.15)
    np.testing.assert_allclose(found.ability, theta, atol=0.12)


def test_difficulties_follow_the_planted_ones_and_know_how_unsure_they_are(eight):
    """The mean squared error is the mean posterior variance, and the posterior means vary by what is left of 1."""
    _, _, b, _, found = eight
    assert np.corrcoef(found.difficulty, b)[0, 1] > 0.7
    error, variance = ((found.difficulty - b) ** 2).mean(), (found.deviation**2).mean()
    assert error == pytest.approx(variance, rel=0.04)
    assert found.difficulty.var() + variance == pytest.approx(1, abs=0.03)


def marginal(ballots, a, theta):
    """[N] log-likelihoods by a plain sum over a fine grid of difficulties, written out voter by voter."""
    grid = np.linspace(-8, 8, 1_601)
    prior = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi) * 0.01
    guess = 1 / ballots.num_choices[:, None]
    likelihood = np.ones((len(guess), len(grid)))
    for right, asked, slope, ability in zip(ballots.right.T, ballots.asked.T, a, theta, strict=True):
        p = guess + (1 - guess) * expit(slope * (ability - grid))
        likelihood *= p ** right[:, None] * (1 - p) ** (asked - right)[:, None]
    return np.log(likelihood @ prior), (likelihood * prior) @ grid / (likelihood @ prior)


def test_the_fit_is_the_likeliest_and_difficulties_are_its_posterior_means():
    """Against an integral on another grid: no step of 0.05 in any parameter is likelier, the slight pull counted.

    The first voter is always right; only the pull keeps its ability finite.
    """
    *_, ballots = curves(5, 400, seed=3, answers=2)
    ballots.right[:, 0] = ballots.asked[:, 0]
    found = three_parameter(ballots)
    mean = marginal(ballots, found.discrimination, found.ability)[1]
    np.testing.assert_allclose(found.difficulty, mean, atol=0.02)

    def score(log_a, theta):
        pull = 1e-3 * ((log_a**2).sum() + (theta**2).sum()) / 5
        return marginal(ballots, np.exp(log_a), theta)[0].mean() - pull

    at = score(np.log(found.discrimination), found.ability)
    for j in range(5):
        for step in (-0.05, 0.05):
            move = step * (np.arange(5) == j)
            assert score(np.log(found.discrimination) + move, found.ability) < at
            assert score(np.log(found.discrimination), found.ability + move) < at


def test_more_voters_and_more_answers_find_difficulties_better():
    correlation = []
    for voters, answers in ((5, 1), (8, 1), (5, 4)):
        *_, b, ballots = curves(voters, 5_000, seed=5, answers=answers)
        correlation.append(np.corrcoef(three_parameter(ballots).difficulty, b)[0, 1])
    five, eight, often = correlation
    assert five + 0.03 < eight < often


def test_fewer_right_votes_mean_a_harder_question(eight):
    """Among questions of four options, by ballots that contain each other."""
    *_, ballots, found = eight
    seen = {
        tuple(right): difficulty
        for right, k, difficulty in zip(ballots.right.tolist(), ballots.num_choices, found.difficulty, strict=True)
        if k == 4
    }
    compared = 0
    for votes, difficulty in seen.items():
        for j in range(8):
            more = (*votes[:j], 1, *votes[j + 1 :])
            if not votes[j] and more in seen:
                compared += 1
                assert seen[more] < difficulty
    assert compared > 500


def test_missing_votes_drop_out_of_the_curves():
    """A voter never asked changes no difficulty; a question nobody was asked has the prior's: mean 0, deviation 1."""
    *_, ballots = curves(5, 2_000, seed=6)
    asked = ballots.asked.copy()
    asked[:3] = 0
    ballots = VoteMatrix(ballots.right * asked, asked, ballots.num_choices)
    found = three_parameter(ballots)
    np.testing.assert_allclose(found.difficulty[:3], 0, atol=1e-9)
    np.testing.assert_allclose(found.deviation[:3], 1, atol=1e-9)
    none = np.zeros((2_000, 1), np.int64)
    more = three_parameter(VoteMatrix(np.hstack([ballots.right, none]), np.hstack([asked, none]), ballots.num_choices))
    # The pull to a = 1 is shared by one voter more.
    np.testing.assert_allclose(more.difficulty, found.difficulty, atol=2e-3)


def test_the_order_of_questions_and_voters_changes_no_curve():
    *_, ballots = curves(5, 1_000, seed=7)
    rows, voters = np.random.default_rng(0).permutation(1_000), [3, 0, 4, 1, 2]
    a = three_parameter(ballots)
    b = three_parameter(
        VoteMatrix(ballots.right[rows][:, voters], ballots.asked[rows][:, voters], ballots.num_choices[rows])
    )
    of_voters, of_rows = slice(0, 2), slice(2, 4)
    for before, after in zip(astuple(a)[of_voters], astuple(b)[of_voters], strict=True):
        np.testing.assert_allclose(after, before[voters], atol=2e-3)
    for before, after in zip(astuple(a)[of_rows], astuple(b)[of_rows], strict=True):
        np.testing.assert_allclose(after, before[rows], atol=2e-3)
