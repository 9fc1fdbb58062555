"""Figures of an evaluation, by hand: eight questions about four recordings, two conditions, two orders."""

from __future__ import annotations

import numpy as np
import pytest

from earwitness.curriculum.evaluation.baselines import baselines
from earwitness.curriculum.evaluation.benchmark_report import OWN, describe_benchmark
from earwitness.curriculum.evaluation.comparison import differences, paired
from earwitness.curriculum.evaluation.contrasts import correct_for_many, own_labels
from earwitness.curriculum.evaluation.outcomes import DROPPED, MISSING, NOT_ASKED, RIGHT, WRONG, Heard, QuestionSet
from earwitness.curriculum.evaluation.scores import groups, official, orders, scores
from earwitness.curriculum.statistics import cluster_error, cluster_mean, cluster_share, wilson_interval

R, W, M = RIGHT, WRONG, MISSING
CHOICES = [("a", "bbb")] * 6 + [("aa", "b", "c", "d")] + [()]  # the last cannot be asked


def heard(first: list[int], second: list[int], said: list[int], options: list[list[int]]) -> Heard:
    return Heard({"strict": np.array([first, second])}, np.array(said), np.array(options))


@pytest.fixture
def questions() -> QuestionSet:
    second = [R, R, W, W, R, R, NOT_ASKED, NOT_ASKED]
    audio = heard([R, R, R, W, R, W, R, M], second, [1, 1, 1, 0, 1, 0, 1, DROPPED], [[0] * 8, [0] * 8])
    picks = [[0, 1, 0, 1, 0, 0, 0, -1], [0, 1, 1, 1, 0, 0, -1, -1]]
    silence = heard([R, W, W, W, W, W, W, M], [R, W, W, W, W, W, NOT_ASKED, NOT_ASKED], [0] * 8, picks)
    return QuestionSet(
        np.arange(8, dtype=np.uint64),
        np.array([1, 1, 2, 2, 3, 3, 4, 5], np.uint64),
        [f"s/{n}" for n in range(8)],
        CHOICES,
        np.array([0, 0, 1, 1, 0, 1, 0, -1]),
        {"task": ["x"] * 5 + ["y"] * 2 + [""]},
        {"audio": audio, "silence": silence},
    )


def test_the_denominator_is_the_file_strictly_and_what_the_scorer_counts_officially(questions):
    found = scores(questions, "audio")
    strict = found["strict"]
    assert (strict["right"], strict["of"], strict["accuracy"][0]) == (5, 8, 0.625)
    assert strict["answers"] == {"right": 5, "wrong": 2, "unfinished": 0, "unreadable": 0, "missing": 1}
    assert {key: found["official"][key] for key in ("right", "of", "dropped")} == {"right": 5, "of": 7, "dropped": 1}
    assert found["official"]["accuracy"] == [5 / 7, *wilson_interval(5, 7)]
    assert official(questions.heard["audio"], np.arange(8) == 7)["accuracy"][0] is None


def test_what_knows_nothing(questions):
    """Six of two options, one of four: (6 / 2 + 1 / 4) / 7; right are a, a, bbb, bbb, a, bbb, aa."""
    base = baselines(questions)
    assert base == {
        "questions": 7,
        "chance": pytest.approx(3.25 / 7),
        "first": 4 / 7,
        "longest": 4 / 7,
        "best_place": 4 / 7,
        "place": "A",
    }


def test_contributions_tables_and_the_models_own_labels(questions):
    found = describe_benchmark(questions, "strict", {})
    one = found["contribution"]["silence"]
    assert (one["both"], one["only_with"], one["only_without"], one["neither"]) == (1, 4, 0, 3)
    assert one["p"] == pytest.approx(2 * 0.5**4)
    assert one["with"][0] == pytest.approx((1 + 1 + 0.5 + 0 + 1 + 0.5 + 1 + 0) / 8)
    assert one["difference"][0] == pytest.approx(5 / 8 - 1 / 8)
    assert own_labels(questions, "strict").tolist() == ["weak", *["strong"] * 6, ""]
    assert found["subsets"][OWN]["strong"]["questions"] == 6 and found["subsets"][OWN]["weak"]["questions"] == 1
    tests = correct_for_many([found])
    assert tests == 3 and one["p_holm"] == pytest.approx(min(1, 3 * one["p"]))


def test_orders_of_the_options(questions):
    """Six questions in two orders: with audio three are right in both, one in none; option 0 was always picked."""
    found = orders(questions, "audio", "strict")
    assert (found["questions"], found["orders"], found["mean"][0]) == (6, 2, pytest.approx(4 / 6))
    assert (found["consistent"][0], found["any"], found["all"]) == (1.0, 5 / 6, 3 / 6)
    assert found["majority"][0] == 3 / 6, "a, a and a are right"
    assert found["by_place"]["A"]["answers"] == 7 and found["by_place"]["B"]["answers"] == 6
    silent = orders(questions, "silence", "strict")
    assert silent["consistent"][0] == 5 / 6


def test_groups_that_are_small_are_taken_together(questions):
    found = groups(questions, "strict")["task"]
    assert {name: one["questions"] for name, one in found.items()} == {"x": 5, "(fewer than 5 questions)": 3}
    assert found["x"]["audio"][0] == 4 / 5 and found["x"]["official audio"] == 4 / 5


def test_without_answers_nothing_is_judged(questions):
    blind = QuestionSet(
        *(questions.uid, questions.clip, questions.keys, questions.choices, np.full(8, -1)),
        *(questions.facets, questions.heard),
    )
    found = describe_benchmark(blind, "strict", {})
    assert "scores" not in found and found["warnings"] == [
        "the file has no answers: nothing is judged, predictions are written"
    ]
    assert found["picks"]["audio"]["by_place"]["A"] > 0 and "right_by_place" not in found["picks"]["audio"]


def test_intervals_widen_with_recordings_that_share_their_luck():
    """Two recordings of 50 questions each, all right and all wrong: as wide as of two answers."""
    values, clip = np.repeat([1.0, 0.0], 50), np.repeat([1, 2], 50)
    assert cluster_share(values, clip) == pytest.approx((0.5, *wilson_interval(1, 2)))
    alone = cluster_share(values, np.arange(100))
    assert alone == pytest.approx((0.5, *wilson_interval(50, 100)))
    assert cluster_share(np.ones(4), np.array([1, 1, 2, 2])) == (1.0, *wilson_interval(2, 2))
    mean, low, high = cluster_mean(values, clip)
    assert (mean, high - low) == (0.5, pytest.approx(2 * 1.959964 * cluster_error(values, clip), rel=1e-5))


def test_two_results_are_compared_by_question_and_what_differs_is_said():
    import pyarrow as pa

    def table(outcomes: list[str]) -> pa.Table:
        count = len(outcomes)
        columns = {"uid": range(count), "key": map(str, range(count)), "clip": range(count)}
        columns |= {"condition": ["audio"] * count, "rotation": [0] * count, "official": [1] * count}
        return pa.table({name: list(values) for name, values in columns.items()} | {"strict": outcomes})

    (one,) = paired(table(["right", "wrong", "wrong", "missing"]), table(["right", "right", "right"]), "mmau")
    assert (one["questions"], one["gained"], one["lost"]) == (3, 2, 0) and one["p"] == 0.5
    assert (one["before"], one["after"]) == (pytest.approx(1 / 3), 1.0)
    made = {"style": "paper", "prompt": "p", "versions": {"torch": "2"}}
    sets = {"name": "mmau", "question_hash": "1", "audio_hash": "2"}
    first = {"made": made, "benchmarks": [sets, sets | {"name": "mmar"}]}
    second = {"made": made | {"style": "letters", "versions": {"torch": "3"}}}
    second["benchmarks"] = [sets | {"question_hash": "9"}]
    assert differences(first, second) == [
        "style differs: 'paper' and 'letters'",
        "the version of torch differs: 2 and 3",
        "mmau: the question file differ: 1 and 9; only shared questions count",
        "mmar is in the first results alone",
    ]
    assert differences(first, first) == []
