"""What stands beside a claim about labels, on eight questions that are worked by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from math import log2, sqrt

import numpy as np
import pytest

from earwitness.curriculum.contribution.agreement import effective_voters, fleiss_kappa, flip_rates, voter_table
from earwitness.curriculum.contribution.jury import Rule, VoteMatrix, expected_lucky_weak
from earwitness.curriculum.contribution.jury_report import describe_jury
from earwitness.curriculum.contribution.latent import latent_class
from earwitness.curriculum.contribution.votes import Tally
from earwitness.curriculum.statistics import cluster_bootstrap, mcnemar, wilson_interval
from earwitness.curriculum.table import Categorical, Table

NAN = float("nan")
MAJORITY = Rule(majority=True)
UID = np.array([80, 10, 70, 20, 60, 30, 50, 40], np.uint64)  # the table is in no order

SILENT = {  # of questions 10, 20, ..., 80: right in silence
    "x": [1, 1, 1, 0, 0, 0, 0, 0],
    "y": [1, 1, 0, 1, 0, 0, 0, 0],
    "z": [1, 0, 0, 0, 1, 0, 0, 0],
}  # right votes 3, 2, 1, 1, 1, 0, 0, 0: weak are 10 and 20
HEARD = {"x": [1, 1, 0, 1, 1, 1, 1, 0], "y": [1, 1, 1, 1, 0, 0, 0, 0]}


def tally(votes, p_right=None):
    """One answer each to the questions 10, 20, ...; None where one was not asked."""
    asked = np.array([vote is not None for vote in votes])
    right = np.array([vote or 0 for vote in votes])
    unknown = np.full(len(votes), NAN)
    scored = unknown if p_right is None else np.array(p_right, float)
    return Tally(10 * np.arange(1, len(votes) + 1, dtype=np.uint64), right, asked.astype(np.int64), scored, unknown)


def tallies():
    found = {name: {"silence": tally(votes)} for name, votes in SILENT.items()}
    for name, votes in HEARD.items():
        found[name]["audio"] = tally(votes)
    return found


def by_question(*values):
    """Values of the questions 10, 20, ... in the order of the table."""
    return np.array(values)[UID.astype(int) // 10 - 1]


def table(**changed):
    """Options 4 but for 30 and 80 with 2; recordings of two questions; sources a a b b b b b b; lengths 1 to 8."""
    columns = {
        "num_choices": by_question(4.0, 4, 2, 4, 4, 4, 4, 2),
        "clip": by_question(1, 1, 2, 2, 3, 3, 4, 4).astype(np.uint64),
        "source": Categorical(by_question(0, 0, 1, 1, 1, 1, 1, 1).astype(np.int32), ("a", "b")),
        "question_type": Categorical(by_question(0, 1, 0, 1, 0, 1, 0, -1).astype(np.int32), ("sound", "speech")),
        "duration_s": by_question(*np.arange(1.0, 9.0)),
    }
    columns |= changed
    return Table(UID, {name: value for name, value in columns.items() if value is not None})


def described(found=None, questions=None, rule=MAJORITY, draws=2_000, **options):
    return describe_jury(tallies() if found is None else found, questions or table(), rule, draws=draws, **options)


@pytest.fixture(scope="module")
def report():
    return described()


def test_the_report_is_ready_for_json(report):
    assert json.loads(json.dumps(report)) == report
    assert set(report) == {
        *("rule", "condition", "questions", "weak", "counts", "expected_weak_by_luck", "num_choices", "latent"),
        *("voters", "skill", "agreement", "flips", "says_about", "ac_vote", "warnings", "audio"),
    }


def test_labels_are_counted(report):
    """Two of eight weak; luck: six questions of four options and two of two, (6 x 10/64 + 2 x 1/2) / 8."""
    assert (report["rule"], report["condition"]) == ("majority of the voters (tie: strong)", "silence")
    assert report["questions"] == 8 and report["counts"] == {"weak": 2, "strong": 6, "unlabelled": 0}
    assert report["weak"] == pytest.approx([0.25, *wilson_interval(2, 8)], abs=1e-15)
    assert report["expected_weak_by_luck"] == pytest.approx((6 * 10 / 64 + 1) / 8, abs=1e-14)
    assert report["num_choices"] == {"2": 2, "4": 6}


def test_every_voter_s_silent_accuracy(report):
    """x: right on 10, 20 (four options) and 30 (two): accuracy 3/8; (1 + 1 + 1 - 4 x 1/3 - 1) / 8 = 1/12 above chance.

    y: 10, 20, 40: (3 - 3/3 - 2 x 1) / 8 = 0. z: 10, 50: (2 - 4/3 - 2) / 8 = -1/6.
    """
    rows = [(v["voter"], v["asked"], v["missing"]) for v in report["voters"]]
    assert rows == [("x", 8, 0), ("y", 8, 0), ("z", 8, 0)]
    assert [v["accuracy"] for v in report["voters"]] == [3 / 8, 3 / 8, 1 / 4]
    assert [v["above_chance"] for v in report["voters"]] == pytest.approx([1 / 12, 0, -1 / 6], abs=1e-15)


def test_agreement_by_hand(report):
    """x, y agree on 6 of 8, p_e = 9/64 + 25/64: (48 - 34) / (64 - 34) = 7/15.

    x, z agree on 5 of 8 (10, 40, 60, 70, 80), p_e = 6/64 + 30/64: (40 - 36) / 28 = 1/7; and y, z (10, 30, 60 ...) too.
    Fleiss: agreeing pairs 1, four of 1/3, 1, 1, 1: mean 2/3; 8 of 24 right: p_e = 5/9; (2/3 - 5/9) / (4/9) = 1/4.
    Correlations 7/15 and twice (1/8 - 3/32) / (sqrt(15)/8 sqrt(3)/4) = 1 / sqrt(45): 3 / (1 + 2 mean).
    """
    agreement = report["agreement"]
    assert agreement["cohen"] == pytest.approx({"x / y": 7 / 15, "x / z": 1 / 7, "y / z": 1 / 7}, abs=1e-14)
    assert agreement["fleiss"] == pytest.approx(1 / 4, abs=1e-14)
    mean = (7 / 15 + 2 / sqrt(45)) / 3
    assert agreement["effective_voters"] == pytest.approx(3 / (1 + 2 * mean), abs=1e-12)


def test_flips_by_hand(report):
    """Weak are 10 and 20, 20 by x and y: without either it is a tie and strong; without z it stays, 10 always does."""
    assert report["flips"] == {"x": 1 / 8, "y": 1 / 8, "z": 0}


def test_what_the_label_says_of_a_question_by_hand(report):
    """Source a holds both weak ones and nothing else: all of H(1/4) = 0.811 bits.

    Type (80 has none): sound 10, 30, 50, 70, speech 20, 40, 60: one weak each: H(2/7) - 4/7 H(1/4) - 3/7 H(1/3).
    Length: each question has a bin of its own, which tells everything.
    """

    def entropy(p):
        return -(p * log2(p) + (1 - p) * log2(1 - p))

    about = report["says_about"]
    assert set(about) == {"source", "question_type", "duration"}
    assert about["source"] == pytest.approx({"bits": entropy(1 / 4), "share_of_label_entropy": 1}, abs=1e-12)
    bits = entropy(2 / 7) - 4 / 7 * entropy(1 / 4) - 3 / 7 * entropy(1 / 3)
    assert about["question_type"]["bits"] == pytest.approx(bits, abs=1e-12)
    assert about["question_type"]["share_of_label_entropy"] == pytest.approx(bits / entropy(2 / 7), abs=1e-12)
    assert about["duration"] == pytest.approx({"bits": entropy(1 / 4), "share_of_label_entropy": 1}, abs=1e-12)


def ballots():
    right = np.array([by_question(*votes) for votes in SILENT.values()]).T
    return VoteMatrix(right, np.ones_like(right), table().columns["num_choices"].astype(int))


def test_the_latent_classes_are_those_of_the_ballots(report):
    found = latent_class(ballots())
    assert report["latent"]["solvable"] == found.solvable
    assert report["latent"]["skill"] == dict(zip("xyz", found.skill.tolist(), strict=True))
    counts, edges = report["ac_vote"]["counts"], report["ac_vote"]["edges"]
    assert sum(counts) == 8 and edges == pytest.approx(np.linspace(0, 1, 21), abs=1e-15)
    places = np.minimum((found.contribution * 20).astype(int), 19)
    assert counts == np.bincount(places, minlength=20).tolist()


def test_numbers_agree_with_the_pure_functions(report):
    uid, votes = UID, ballots().votes
    assert report["voters"] == voter_table(ballots(), ["x", "y", "z"])
    assert list(report["flips"].values()) == flip_rates(ballots(), MAJORITY, uid)
    assert report["agreement"]["fleiss"] == fleiss_kappa(votes)
    assert report["agreement"]["effective_voters"] == effective_voters(votes)
    assert report["expected_weak_by_luck"] == expected_lucky_weak(ballots(), MAJORITY)


def test_with_and_without_the_audio_by_hand(report):
    """x: right 6 and 3 of 8. Both 10, 20; audio only 40, 50, 60, 70; silence only 30; never 80.

    y: both 10, 20, 40; audio only 30; silence only none; never 50 to 80. z heard nothing and is not there.
    """
    squares = ("questions", "both", "audio_only", "silence_only", "neither")
    assert list(report["audio"]) == ["x", "y"]
    x, y = report["audio"].values()
    assert [x[name] for name in squares] == [8, 2, 4, 1, 1]
    assert [y[name] for name in squares] == [8, 3, 1, 0, 4]
    assert x["audio"] == pytest.approx([6 / 8, *wilson_interval(6, 8)], abs=1e-15)
    assert x["silence"] == pytest.approx([3 / 8, *wilson_interval(3, 8)], abs=1e-15)
    # Wrong with audio on 30 and 80, two options each: (6 - 2) / 8. In silence as in the voters' table.
    assert (x["audio_above_chance"], x["silence_above_chance"]) == pytest.approx((1 / 2, 1 / 12), abs=1e-15)


def test_tests_by_hand(report):
    """x: 4 gained, 1 lost: exact 2 (1 + 5) / 32, mid-p 12/32 - 5/32. y: 1 and 0: exact 1, mid-p 1 - 1/2.

    Holm over both: 2 x 3/8 and 1.
    """
    x, y = report["audio"].values()
    assert (x["mcnemar_exact_p"], x["mcnemar_mid_p"], x["mcnemar_holm_p"]) == pytest.approx((12 / 32, 7 / 32, 3 / 4))
    assert (y["mcnemar_exact_p"], y["mcnemar_mid_p"], y["mcnemar_holm_p"]) == pytest.approx((1, 1 / 2, 1))
    assert x["mcnemar_mid_p"] == mcnemar(4, 1)


def test_intervals_go_by_recording(report):
    """x changes by 0 0 | -1 1 | 1 1 | 1 0: mean 3/8; less it, sums of -6, -6, 10, 2 eighths: sqrt(176) / 64."""
    x = report["audio"]["x"]
    assert x["contribution"][0] == 3 / 8
    assert x["cluster_error"] == pytest.approx(sqrt(176) / 64, abs=1e-15)
    change, clip = np.array([0.0, 0, -1, 1, 1, 1, 1, 0]), np.array([1, 1, 2, 2, 3, 3, 4, 4])
    _, low, high = cluster_bootstrap(change, clip, draws=2_000)
    assert x["contribution"][1:] == pytest.approx([low, high], abs=1e-15)
    alone = described(questions=table(clip=None))["audio"]["x"]
    assert alone["cluster_error"] == pytest.approx(change.std() / sqrt(8), abs=1e-15)


def test_recordings_named_by_texts_are_recordings_too(report):
    named = Categorical(by_question(0, 0, 1, 1, 2, 2, 3, 3).astype(np.int32), ("k", "l", "m", "n"))
    assert (
        described(questions=table(clip=named))["audio"]["x"]["cluster_error"] == report["audio"]["x"]["cluster_error"]
    )


def test_changes_of_probabilities_by_hand(report):
    """Right once is 3/4 and wrong once 1/4: x changes by +1/2 four times, -1/2 once, 0 three times."""
    edges, counts = report["audio"]["x"]["ac_p"]["edges"], report["audio"]["x"]["ac_p"]["counts"]
    assert (edges[0], edges[-1], len(counts)) == (-1, 1, 20)
    assert {round(edges[n], 1): count for n, count in enumerate(counts) if count} == {-0.5: 1, 0.0: 3, 0.5: 4}


def test_scored_probabilities_go_before_counted_ones():
    found = tallies()
    found["x"] = {"audio": tally(HEARD["x"], [0.9] * 8), "silence": tally(SILENT["x"], [0.15] * 8)}
    counts = described(found)["audio"]["x"]["ac_p"]["counts"]
    assert counts[17] == sum(counts) == 8  # 0.75, from 0.7 to 0.8


def test_a_voter_that_answered_nothing_both_ways_does_not_break_the_report(report):
    """z was heard only on a question that it was not asked in silence; w on questions of another corpus."""
    found = tallies()
    found["z"] = {"silence": tally([*SILENT["z"][:7], None]), "audio": tally([None] * 7 + [1])}
    far = replace(tally([1, 0]), uid=np.array([901, 902], np.uint64))
    found["w"] = {"silence": far, "audio": far}
    got = described(found)
    assert got["audio"] == report["audio"]
    assert json.loads(json.dumps(got["audio"])) == got["audio"]
    assert described({"z": found["z"], "w": found["w"]})["audio"] == {}


def test_without_audio_nothing_is_said_of_it():
    assert "audio" not in described({name: {"silence": tally(votes)} for name, votes in SILENT.items()})


def test_a_voter_that_was_never_asked_is_missing_and_has_no_numbers():
    """The labels go by x and y of three: 10 and 20 weak, 50 to 80 strong, 30 and 40 open."""
    found = tallies()
    found["z"] = {"audio": tally(SILENT["z"])}
    got = described(found)
    assert got["counts"] == {"weak": 2, "strong": 4, "unlabelled": 2}
    assert got["weak"][0] == 2 / 6
    z = got["voters"][2]
    assert (z["asked"], z["missing"]) == (0, 8)
    assert np.isnan([z["accuracy"], got["latent"]["skill"]["z"], got["agreement"]["cohen"]["x / z"]]).all()
    assert json.dumps(got)


def test_questions_that_nobody_was_asked_are_not_in_the_histogram():
    found = {name: {"silence": tally([*votes[:6], None, None])} for name, votes in SILENT.items()}
    got = described(found)
    assert sum(got["ac_vote"]["counts"]) == 6
    assert got["counts"] == {"weak": 2, "strong": 4, "unlabelled": 2}


def test_another_condition_is_described_under_its_name():
    """The same answers under noise; silence is then not looked at."""
    found = {name: {"noise": tally(votes), "silence": tally([0] * 8)} for name, votes in SILENT.items()}
    found["x"]["audio"] = tally(HEARD["x"])
    got = described(found, condition="noise")
    assert (got["condition"], got["counts"]["weak"], got["audio"]["x"]["silence_only"]) == ("noise", 2, 1)


def test_half_votes_agree_with_neither_side_s_right_answers():
    """Two orders each. Half right is not right where agreement is concerned: x and y are 1 0 0 0 and 1 0 1 0: 1/2."""
    x, y = tally([0] * 4), tally([0] * 4)
    two = np.full(4, 2)
    found = {
        "x": {"silence": replace(x, right=np.array([2, 1, 1, 0]), asked=two)},
        "y": {"silence": replace(y, right=np.array([2, 0, 2, 1]), asked=two)},
    }
    keep = np.flatnonzero(UID < 50)
    got = described(found, table().take(keep))
    assert got["agreement"]["cohen"]["x / y"] == pytest.approx(0.5, abs=1e-15)


def test_columns_that_are_not_there_are_not_spoken_of():
    bare = Table(UID, {"num_choices": table().columns["num_choices"]})
    got = described(questions=bare)
    assert got["says_about"] == {} and got["audio"]["x"]["questions"] == 8


def test_the_order_of_the_questions_changes_no_number(report):
    rows = np.random.default_rng(0).permutation(8)
    got = described(questions=table().take(rows))
    assert got["latent"]["solvable"] == pytest.approx(report["latent"]["solvable"], abs=1e-9)
    for name in ("weak", "counts", "flips", "agreement", "num_choices", "audio"):
        assert got[name] == report[name], name
