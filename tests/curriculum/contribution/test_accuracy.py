"""What the audio contributed, and how models are compared: small tables whose every count is worked by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from earwitness.curriculum.contribution.accuracy import (
    Answers,
    audio_contribution,
    contribution,
    contribution_by_group,
    group_rows,
    read_answers,
)
from earwitness.curriculum.evaluation.evaluate import evaluate
from earwitness.curriculum.identity import uid_of
from earwitness.curriculum.statistics import mcnemar, paired_difference, wilson_interval
from earwitness.curriculum.table import Categorical, Table, write_arrow
from earwitness.datamodules.voting.answer_store import write_answers
from earwitness.errors import InputError
from earwitness.reports.run_page import build_report

# Six questions. 0, 3 are labelled weak, 1, 2, 4 strong, 5 has no label; in truth 0, 1 leak, 2, 3, 4 must be heard.
UID = [uid_of("toy", str(i)) for i in range(6)]
TYPES = ["sound"] * 3 + ["speech"] * 3
LABELS = ["weak", "strong", "strong", "weak", "strong"]
PLANTED = ["logic", "prior", "heard", "heard", "heard"]
CHOICES = [4, 4, 4, 2, 4, 4]
BASE = {"audio": [1, 0, 0, 0, 1, 0], "silence": [1, 0, 0, 1, 0, 0]}
TUNED = {"audio": [1, 1, 1, 0, 1, 0], "silence": [1, 1, 0, 0, 0, 0]}
FINAL = {"audio": [0, 1, 1, 1, 0, 0], "silence": [0, 1, 0, 0, 0, 0]}


def answer_file(path, correct, uid=UID):
    """One row per condition and question, in an order that mixes both."""
    rows = [(u, name, bool(c)) for name, values in correct.items() for u, c in zip(uid, values, strict=False)]
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    uids, names, right = zip(*rows, strict=True)
    write_arrow(pa.table({"uid": pa.array(uids, pa.uint64()), "condition": names, "correct": right}), path)
    return str(path)


@pytest.fixture
def corpus(tmp_path):
    """Paths of an index (rows in another order than the answers), of labels, and of the planted truth."""
    order = [4, 0, 5, 2, 1, 3]
    index = {
        "uid": pa.array([UID[i] for i in order], pa.uint64()),
        "question_type": [TYPES[i] for i in order],
        "num_choices": pa.array([CHOICES[i] for i in order], pa.int8()),
        "split": ["train"] * 6,
    }
    write_arrow(pa.table(index), tmp_path / "index.arrow")
    write_arrow(pa.table({"uid": pa.array(UID[:5], pa.uint64()), "label": LABELS}), tmp_path / "labels.arrow")
    lines = [json.dumps({"key": f"toy/{i}", "planted": truth}) for i, truth in enumerate(PLANTED)]
    (tmp_path / "planted.jsonl").write_text("\n".join(lines))
    return tmp_path


def run(corpus, models, **more):
    """evaluate() with labels on the given models; returns what it wrote."""
    answers = {name: answer_file(corpus / f"{name}.arrow", correct) for name, correct in models.items()}
    out = corpus / "deep" / "results.json"
    report = evaluate(answers, str(corpus / "index.arrow"), str(out), str(corpus / "labels.arrow"), **more)
    assert report == {"questions": 6, "results": str(out)}
    return json.loads(out.read_text())


def test_audio_contribution_is_the_difference_of_two_right_answers():
    assert audio_contribution(np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0])).tolist() == [0, 1, -1, 0]
    assert audio_contribution(np.array([True, False]), np.array([False, True])).tolist() == [1, -1]


def test_the_2x2_table_by_hand():
    """Ten questions: 4 both, 3 audio only, 1 silence only, 2 neither; accuracies 7/10 and 5/10."""
    audio, silence = np.repeat([1, 1, 0, 0], [4, 3, 1, 2]), np.repeat([1, 0, 1, 0], [4, 3, 1, 2])
    table = contribution(audio, silence)
    assert (table.questions, table.both, table.audio_only, table.silence_only, table.neither) == (10, 4, 3, 1, 2)
    assert (table.audio_accuracy, table.silence_accuracy) == (0.7, 0.5)
    assert audio_contribution(audio, silence).mean() == pytest.approx(0.7 - 0.5, abs=1e-15)
    summary = table.summary(audio, silence)
    assert {name: summary[name] for name in ("both", "audio_only", "silence_only", "neither")} == {
        "both": 4, "audio_only": 3, "silence_only": 1, "neither": 2
    }  # fmt: skip
    assert summary["audio"] == pytest.approx([0.7, *wilson_interval(7, 10)], abs=1e-15)
    assert summary["silence"] == pytest.approx([0.5, *wilson_interval(5, 10)], abs=1e-15)
    assert summary["contribution"] == list(paired_difference(silence, audio))
    assert summary["contribution"][0] == pytest.approx(0.2, abs=1e-15)
    assert summary["mcnemar_mid_p"] == 0.375  # 3 against 1: exact 2 x 5/16, less 4/16


def test_read_answers_aligns_the_conditions_by_uid(tmp_path):
    answers = read_answers(answer_file(tmp_path / "a.arrow", BASE))
    order = np.argsort(np.array(UID, np.uint64))
    assert answers.uid.tolist() == sorted(UID)
    assert sorted(answers.correct) == ["audio", "silence"]
    for condition, right in BASE.items():
        assert answers.correct[condition].tolist() == np.array(right)[order].tolist()


@pytest.mark.parametrize(
    ("uid", "condition", "named"),
    [
        ([1, 2, 1], ["audio", "audio", "silence"], "silence"),
        ([1, 2, 2, 1, 2], ["audio"] * 3 + ["silence"] * 2, "audio"),
        ([1, 1, 1, 2], ["audio"] * 2 + ["silence"] * 2, "audio"),
    ],
)
def test_every_question_is_asked_once_under_every_condition(tmp_path, uid, condition, named):
    """A condition that lacks a question or holds one twice is named, also where the two cancel in the count."""
    rows = {"uid": pa.array(uid, pa.uint64()), "condition": condition, "correct": [True] * len(uid)}
    write_arrow(pa.table(rows), tmp_path / "a.arrow")
    with pytest.raises(InputError, match=rf"a\.arrow: condition .*'{named}'"):
        read_answers(tmp_path / "a.arrow")


def toy_table(uid, **columns):
    names = {column: tuple(sorted({v for v in values if v})) for column, values in columns.items()}
    return Table(
        np.array(uid, np.uint64),
        {
            column: Categorical(np.array([names[column].index(v) if v else -1 for v in values]), names[column])
            for column, values in columns.items()
        },
    )


def test_group_rows_follow_the_answers_and_not_the_table():
    """Values nobody answered make no group; a missing value is in no group but "all"."""
    answers = Answers(np.array([2, 5, 9], np.uint64), {})
    table = toy_table([9, 7, 5, 2], label=["weak", "strong", "weak", None], source=["a", "b", "a", "c"])
    groups = {name: rows.tolist() for name, rows in group_rows(answers, table, ["label", "source"]).items()}
    assert groups == {
        "all": [True, True, True],
        "label=weak": [False, True, True],
        "source=a": [False, True, True],
        "source=c": [True, False, False],
    }


@pytest.mark.parametrize("foreign", [1, 6, 2**64 - 1])
def test_answers_of_another_corpus_are_refused(foreign):
    table = toy_table([2, 5, 9], label=["weak"] * 3)
    with pytest.raises(InputError, match="answers name questions that the index does not hold"):
        group_rows(Answers(np.array([2, 5, foreign], np.uint64), {}), table, [])


@pytest.mark.parametrize("only", ["audio", "silence"])
def test_contribution_needs_both_conditions(only):
    missing = "silence" if only == "audio" else "audio"
    with pytest.raises(InputError, match=f"answers lack the condition '{missing}'"):
        contribution_by_group(Answers(np.arange(2, dtype=np.uint64), {only: np.ones(2)}), {})


def test_evaluate_reports_every_group_of_every_model(corpus):
    """BASE: right with both {0}, audio only {4}, silence only {3}, neither {1, 2, 5}; by label and question type."""
    models = run(corpus, {"base": BASE})["models"]
    cells = ("questions", "both", "audio_only", "silence_only", "neither")
    assert {group: tuple(summary[cell] for cell in cells) for group, summary in models["base"].items()} == {
        "all": (6, 1, 1, 1, 3),
        "label=weak": (2, 1, 0, 1, 0),
        "label=strong": (3, 0, 1, 0, 2),
        "question_type=sound": (3, 1, 0, 0, 2),
        "question_type=speech": (3, 0, 1, 1, 1),
    }
    weak = models["base"]["label=weak"]
    assert weak["audio"] == pytest.approx([0.5, *wilson_interval(1, 2)]) and weak["silence"][0] == 1.0
    assert weak["contribution"][0] == -0.5


def test_evaluate_pairs_neighbours_and_the_first_with_the_last(corpus):
    """With audio: base to tuned gains 1, 2 and loses none; tuned to final gains 3 and loses 0, 4."""
    gains = run(corpus, {"base": BASE, "tuned": TUNED, "final": FINAL})["gains"]
    whole = {(g["from"], g["to"]): g for g in gains if g["group"] == "all"}
    counts = {pair: (g["gained"], g["lost"]) for pair, g in whole.items()}
    assert counts == {("base", "tuned"): (2, 0), ("tuned", "final"): (1, 2), ("base", "final"): (3, 2)}
    assert whole["base", "tuned"]["p"] == mcnemar(2, 0) == 0.25
    assert whole["base", "tuned"]["difference"] == list(
        paired_difference(np.array(BASE["audio"]), np.array(TUNED["audio"]))
    )
    strong = next(g for g in gains if g["group"] == "label=strong" and g["from"] == "base" and g["to"] == "tuned")
    assert (strong["gained"], strong["lost"]) == (2, 0) and strong["difference"][0] == pytest.approx(2 / 3)


def test_two_models_are_compared_once(corpus):
    gains = run(corpus, {"base": BASE, "tuned": TUNED})["gains"]
    assert [(g["from"], g["to"]) for g in gains if g["group"] == "all"] == [("base", "tuned")]
    assert run(corpus, {"base": BASE})["gains"] == []


def test_evaluate_measures_the_labels_against_the_planted_truth(corpus):
    """Question 5 has neither label nor truth. Luck over the heard 2, 3, 4 of 4, 2, 4 options: (10 + 32 + 10) / 192."""
    result = run(corpus, {"base": BASE}, planted=str(corpus / "planted.jsonl"))
    quality = result["labels"]
    assert quality.pop("agreement") == pytest.approx([3 / 5, *wilson_interval(3, 5)])
    assert quality.pop("weak_by_luck_expected") == pytest.approx(52 / 192, abs=1e-15)
    assert quality == {
        "questions": 5, "weak_and_leaks": 1, "weak_but_heard": 1, "strong_but_leaks": 1, "strong_and_heard": 2
    }  # fmt: skip
    sizes = {group: summary["questions"] for group, summary in result["models"]["base"].items()}
    assert {g: n for g, n in sizes.items() if g.startswith(("planted", "heard_type"))} == {
        "planted=heard": 3, "planted=leaks": 2, "heard_type=sound": 1, "heard_type=speech": 2
    }  # fmt: skip


def test_evaluate_takes_the_groups_it_is_given(corpus):
    assert set(run(corpus, {"base": BASE}, groups=["split"])["models"]["base"]) == {"all", "split=train"}


def test_evaluate_counts_the_labels_that_each_stage_trains_on(corpus):
    stage = {"algorithm": "sft", "batch_size": 2}
    weak = {"name": "sft", "pool": {"label": "weak"}, "budget": {"samples": 2}, **stage}
    rest = {"name": "grpo", "budget": {"fraction": 0.6}, **stage}
    result = run(corpus, {"base": BASE}, curriculum={"stages": [weak, rest]}, title="toy", logs={"sft": "logs/sft"})
    assert result["composition"] == {"sft": {"weak": 2}, "grpo": {"strong": 3}}
    assert (result["title"], result["logs"]) == ("toy", {"sft": "logs/sft"})


def test_models_that_answered_different_questions_are_not_compared(corpus):
    base = answer_file(corpus / "base.arrow", BASE)
    part = answer_file(corpus / "part.arrow", TUNED, UID[:4])
    with pytest.raises(InputError, match="different questions; their gains cannot be paired"):
        evaluate({"base": base, "part": part}, str(corpus / "index.arrow"), str(corpus / "r.json"))


def test_evaluate_without_models_is_an_error(corpus):
    with pytest.raises(InputError, match="no answer table given"):
        evaluate({}, str(corpus / "index.arrow"), str(corpus / "r.json"))


def test_an_answer_that_was_not_judged_is_refused(tmp_path):
    columns = {"uid": pa.array([1, 1], pa.uint64()), "condition": ["audio", "silence"], "correct": [None, False]}
    write_arrow(pa.table(columns), tmp_path / "a.arrow")
    with pytest.raises(InputError, match="1 answers were not judged"):
        read_answers(tmp_path / "a.arrow")


VERDICTS_OF = {
    "audio": ["right", "unfinished", "wrong", "unreadable", "right", "wrong"],
    "silence": ["right", "wrong", "unfinished", "right", "unfinished", "unfinished"],
}


@pytest.mark.parametrize("as_votes", [False, True])
def test_what_is_no_answer_stays_in_the_denominator_and_is_counted_beside(corpus, as_votes):
    """BASE as verdicts: 2 of 6 right with audio and in silence; a voter's table leaves `correct` of the others open."""
    rows = [
        {"uid": uid, "condition": name, "verdict": found, "correct": found == "right", "key": "k"}
        for name, verdicts in VERDICTS_OF.items()
        for uid, found in zip(UID, verdicts, strict=True)
    ]
    if as_votes:
        rows = [row if row["verdict"] in ("right", "wrong") else row | {"correct": None} for row in rows]
    write_answers(rows, corpus / "verdicts.arrow")
    evaluate({"m": str(corpus / "verdicts.arrow")}, str(corpus / "index.arrow"), str(corpus / "r.json"))
    found = json.loads((corpus / "r.json").read_text())["models"]["m"]
    plain = run(corpus, {"m": BASE})["models"]["m"]
    everything = found["all"].pop("answers")
    assert everything == {
        "audio": {"right": 2, "wrong": 2, "unfinished": 1, "unreadable": 1},
        "silence": {"right": 2, "wrong": 1, "unfinished": 3, "unreadable": 0},
    }
    assert plain["all"].pop("answers")["audio"] == {"right": 2, "wrong": 4, "unfinished": 0, "unreadable": 0}
    assert found["all"] == plain["all"] and found["all"]["audio"][0] == 2 / 6
    assert found["question_type=speech"]["answers"]["audio"] == {
        "right": 1,
        "wrong": 1,
        "unfinished": 0,
        "unreadable": 1,
    }


def test_the_page_of_a_run_shows_the_four_counts(corpus):
    rows = [
        {"uid": u, "condition": c, "verdict": v}
        for c, all_ in VERDICTS_OF.items()
        for u, v in zip(UID, all_, strict=True)
    ]
    write_answers(rows, corpus / "verdicts.arrow")
    evaluate({"<m>": str(corpus / "verdicts.arrow")}, str(corpus / "index.arrow"), str(corpus / "r.json"))
    text = Path(build_report(str(corpus / "r.json"))["report"]).read_text()
    heads = [f'<th scope="col">{name}</th>' for name in ("right", "wrong", "unfinished", "unreadable")]
    assert "".join(heads) in text and "The questions are not shown: " in text
    assert "<td>&lt;m&gt;</td><td>silence</td><td>2</td><td>1</td><td>3</td><td>0</td>" in text
    old = json.loads((corpus / "r.json").read_text())
    del old["models"]["<m>"]["all"]["answers"]
    (corpus / "old.json").write_text(json.dumps(old))
    assert ">unfinished</th>" not in Path(build_report(str(corpus / "old.json"))["report"]).read_text()
